"""The exit record: answers, confidences and costs of a multi-exit system for each sample."""

import os
import warnings
from collections.abc import Mapping
from functools import cached_property
from numbers import Integral
from typing import Any

import numpy as np

from offramp._io.arrays import open_arrays, save_arrays
from offramp.records.confidence import MEASURES, confidences, found
from offramp.records.metrics import METRICS
from offramp.records.outputs import ExitOutputs, needed_prediction

FORMAT = "offramp-record/1"
KNOWN = (*MEASURES, "similarity", "mean_token_margin")  # the last two cannot be computed from logits
QUALITY = "mean quality"  # name of the mean of qualities, unless the metadata give another one
ROUTER = "router"  # `metadata["costs"]` of a record in which only the chosen exit runs


class ExitRecord:
    """Answers and confidences of N samples at L exits, with labels or qualities, and costs.

    A record is made from logits (this constructor), from predicted classes (`from_outputs`), or, if answers are not
    classes, from a quality for each answer (`from_scores`).

    Parameters
    ----------
    logits : ndarray of shape (N, L, C)
        float16, float32 or float64. They are stored unchanged. Predictions and confidences are computed from them
        once, by the constructor.
    labels : ndarray of shape (N,), or None
        Classes from 0 to C − 1. None if they are not known, as in deployment. Policies can be applied to such a record,
        but everything that compares predictions with labels raises ValueError.
    cost : ndarray of shape (L,) or (N, L)
        Cumulative cost up to each exit, strictly increasing, in the unit `metadata["unit"]` (for example MAC). One row
        per sample if the cost differs between samples, as for texts of different lengths.
    index : ndarray of shape (N,), optional
        Positions of the samples in their source split, without duplicates. Default: 0 … N − 1.
    metadata : dict, optional
        Origin of the record: dataset, split, system, seed, classes, unit, metric, parameters. JSON values. `names` are
        the names of the classes (or of the answers) 0, 1, …, which `Policy.predict` returns. `costs` is "router" if
        only the chosen exit runs (see `cascades.router`); costs are then those of each exit alone.
    similarity : ndarray of shape (N, L), optional
        Cosine similarity between the hidden state that an exit reads and the one before it.
    features : ndarray of shape (N, F), optional
        What is known of the samples before the first exit runs, for the policy `router`. `metadata["features"]` are
        their names.

    Attributes
    ----------
    labels : ndarray of shape (N,), int64, or None
    index : ndarray of shape (N,), int64
    cost : ndarray of shape (L,), float64
        Mean over the samples, if the cost differs between samples.
    sample_cost : ndarray of shape (N, L), float64, or None
        None if the cost is the same for all samples.
    prediction : ndarray of shape (N, L), int64 (int32 in files), or None
        None if only the qualities of the answers are known.
    quality : ndarray of shape (N, L), float64, or None
        Quality of each answer, from 0 to 1. None if answers are compared with labels.
    correct : ndarray of shape (N, L), bool or float64
        Whether predictions are correct, or the quality of the answers. Its mean is the accuracy, or the mean quality.
        Raises ValueError if the record has neither labels nor qualities.
    features : ndarray of shape (N, F), float64, or None
    metadata : dict

    Raises
    ------
    ValueError
        If a field is not finite, out of range, of the wrong shape or not increasing. The message contains the field,
        the position, and what was expected.
    """

    def __init__(
        self,
        logits,
        labels,
        cost,
        index=None,
        metadata: Mapping[str, Any] | None = None,
        similarity=None,
        *,
        features=None,
    ):
        logits = np.asanyarray(logits)  # keeps memory maps
        if logits.ndim != 3 or logits.dtype not in (np.float16, np.float32, np.float64) or 0 in logits.shape:
            raise ValueError(
                f"logits: expected floats of shape (samples, exits, classes), none of them 0; "
                f"got {logits.dtype} {logits.shape}"
            )
        first = logits[:100]  # (≤ 100, L, C), enough to see what they are
        if first.min() >= 0 and np.allclose(first.sum(axis=2), 1, atol=1e-3):
            warnings.warn(
                "logits: all values are at least 0 and sum to 1, so these seem to be probabilities, of which softmax "
                "would be taken again; expected logits, for example the logarithms of these probabilities",
                stacklevel=2,
            )
        prediction, *measured = confidences(logits)
        metadata = dict(metadata or {})
        classes = metadata.setdefault("classes", logits.shape[2])
        if classes != logits.shape[2]:
            raise ValueError(f"logits: {logits.shape[2]} classes, but the metadata says classes: {classes}")
        self._logits = logits
        measures = dict(zip(MEASURES, measured, strict=True))
        if similarity is not None:
            measures["similarity"] = similarity
        self._set(prediction, measures, labels, None, cost, index, metadata, features)

    @classmethod
    def from_outputs(
        cls,
        prediction,
        confidence,
        labels,
        cost,
        index=None,
        metadata=None,
        *,
        logits=None,
        quality=None,
        features=None,
    ) -> "ExitRecord":
        """Create a record from predictions and confidences, without computing them from logits.

        Parameters
        ----------
        prediction : ndarray of shape (N, L)
            Predicted classes.
        confidence : ndarray of shape (N, L), or dict of such, or None
            An array is max softmax. A dict contains one or more of `max_softmax`, `margin`, `entropy` (in nats),
            `similarity`, and `mean_token_margin`: the mean, over the tokens of an answer, of the difference between the
            two largest probabilities (from 0 to 1). If it is empty or None, only policies that need no confidence can
            be used.
        labels, cost, index, metadata, features
            As for the class. If `metadata["classes"]` is given, labels and predictions must be smaller.
        logits : callable, optional
            Function that returns the logits (N, L, C) from which these outputs were computed. It is called once, when
            the logits are used for the first time.
        quality : ndarray of shape (N, L), optional
            Quality of each answer, from 0 to 1, in place of labels (see `from_scores`).

        Raises
        ------
        ValueError
            As for the class.
        """
        record = cls.__new__(cls)
        record._logits = logits
        if confidence is not None and not isinstance(confidence, Mapping):
            confidence = {"max_softmax": confidence}
        record._set(prediction, dict(confidence or {}), labels, quality, cost, index, dict(metadata or {}), features)
        return record

    @classmethod
    def from_scores(
        cls, quality, confidence=None, cost=None, prediction=None, index=None, metadata=None, *, features=None
    ) -> "ExitRecord":
        """Create a record of answers that are not classes, from the quality of each answer.

        The quality takes the place of correctness everywhere: the mean quality is what is called accuracy for classes,
        and a record whose qualities are 0 and 1 gives the results of a record of classes.

        Parameters
        ----------
        quality : ndarray of shape (N, L)
            Quality of the answer of each exit, from 0 to 1: an exact match, a ROUGE score, a grade, 1 minus a loss.
        confidence : ndarray of shape (N, L), dict of such, or None
            As for `from_outputs`. Without confidences, only policies that do not read them can be used.
        cost : ndarray of shape (L,) or (N, L)
            As for the class.
        prediction : ndarray of shape (N, L) of int or str, optional
            The answers, for policies that compare them. Equal answers must be equal numbers or texts. Texts are stored
            as numbers, and listed in `metadata["names"]`.
        index, features
            As for the class.
        metadata : dict, optional
            As for the class. `metric` is the name of the mean quality in reports (free text). Default: "mean quality".

        Raises
        ------
        ValueError
            As for the class, or if a quality is not between 0 and 1.

        Examples
        --------
        >>> from offramp import ExitRecord, evaluate, make_policy
        >>> record = ExitRecord.from_scores([[0.2, 0.9], [0.7, 0.8]], [[0.1, 0.5], [0.6, 0.9]], cost=[1, 10])
        >>> evaluate(make_policy("confidence"), record, [0.5])["accuracy"].round(3).tolist()
        [0.8]
        """
        if quality is None or cost is None:
            raise ValueError(f"from_scores: no {'quality' if quality is None else 'cost'}; expected an array")
        metadata = dict(metadata or {})
        if prediction is not None and np.asarray(prediction).dtype.kind in "UO":
            if "names" in metadata:
                raise ValueError("metadata: names are made from answers that are texts; give numbers, or no names")
            prediction, metadata["names"] = _coded(prediction)
        return cls.from_outputs(prediction, confidence, None, cost, index, metadata, quality=quality, features=features)

    def _set(self, prediction, confidence, labels, quality, cost, index, metadata, features) -> None:
        if not isinstance(metadata.get("classes"), Integral | None):
            raise ValueError(f"metadata: classes is {metadata['classes']!r}; expected a whole number")
        _check_metric(metadata, quality is not None)
        _check_names(metadata.get("names"))
        if metadata.get("costs", ROUTER) != ROUTER:
            raise ValueError(f"metadata: costs is {metadata['costs']!r}; expected {ROUTER!r}, or no costs")
        self.metadata = metadata
        self.quality = None if quality is None else _fractions("quality", quality, (None, None))  # (N, L)
        answers = np.shape(prediction) if self.quality is None else self.quality.shape
        self.prediction: np.ndarray | None = None  # (N, L)
        if prediction is not None or quality is None:
            self.prediction = _integers("prediction", prediction, (None, None) if quality is None else answers)
        n, l = self._shape = answers
        if n == 0 or l == 0:
            field = "prediction" if quality is None else "quality"
            raise ValueError(f"{field}: expected at least one sample and one exit, got shape ({n}, {l})")
        if quality is not None and labels is not None:
            raise ValueError("labels: expected none in a record of qualities, which take their place")
        self.labels = None if labels is None else _integers("labels", labels, (n,))
        self.index = np.arange(n) if index is None else _integers("index", index, (n,))
        order = np.argsort(self.index, kind="stable")
        again = np.flatnonzero(np.diff(self.index[order]) == 0)
        if len(again):
            first, second = order[again[0]], order[again[0] + 1]
            raise ValueError(f"index[{second}] is {self.index[second]}, as index[{first}] is: expected all different")
        if self.labels is not None:
            self._check_range("labels", self.labels)
        if self.prediction is not None:
            self._check_range("prediction", self.prediction)
        self._set_cost(cost)
        self.features = None if features is None else _floats("features", features, (n, None)).astype(np.float64)
        for measure in confidence:
            _known_measure(measure)
        self._confidence = {
            measure: _floats(f"confidence.{measure}", confidence[measure], (n, l))
            for measure in KNOWN
            if measure in confidence
        }
        if "mean_token_margin" in confidence:
            _fractions("confidence.mean_token_margin", confidence["mean_token_margin"], (n, l))

    def _set_cost(self, cost) -> None:
        n, l = self._shape
        each = np.ndim(cost) == 2
        values = _floats("cost", cost, (n, l) if each else (l,)).astype(np.float64)  # (N, L) or (L,)
        rows = values if each else values[None]

        def place(n: int, i: int) -> str:
            return f"cost[{n}, {i}]" if each else f"cost[{i}]"

        if len(negative := np.argwhere(rows[:, :1] < 0)):
            n = negative[0, 0]
            raise ValueError(f"{place(n, 0)} is {rows[n, 0]}: costs are not negative")
        if len(falls := np.argwhere(np.diff(rows, axis=1) <= 0)):
            n, i = falls[0]
            raise ValueError(
                f"{place(n, i + 1)} = {rows[n, i + 1]:g} after {place(n, i)} = {rows[n, i]:g}: "
                f"expected {'the exits in order of their cost' if self.is_router else 'cumulative costs'}, "
                f"strictly increasing"
            )
        self.cost = rows.mean(axis=0) if each else values  # (L,)
        self.sample_cost = values if each else None  # (N, L)

    def _check_range(self, field: str, values: np.ndarray) -> None:
        counts = [self.n_classes, len(self.names) if self.names else None, np.iinfo(np.int32).max + 1]
        last = min(count for count in counts if count is not None) - 1
        wrong = np.argwhere((values < 0) | (values > last))
        if len(wrong):
            place = ", ".join(map(str, wrong[0]))
            raise ValueError(f"{field}[{place}] is {values[tuple(wrong[0])]}: expected a class from 0 to {last}")

    @property
    def n_samples(self) -> int:
        return self._shape[0]

    @property
    def n_exits(self) -> int:
        return self._shape[1]

    @property
    def n_classes(self) -> int | None:
        """Number of classes, or None if it is unknown, because there are neither logits nor `metadata["classes"]`."""
        return self.metadata.get("classes")

    @property
    def metric(self) -> str:
        """Metric that is usually reported for the dataset.

        Accuracy, unless the metadata contain another one. For qualities, the name of their mean.
        """
        return self.metadata.get("metric", "accuracy" if self.quality is None else QUALITY)

    @property
    def names(self) -> list[str] | None:
        """Names of the classes or answers 0, 1, …, or None if they have none."""
        return self.metadata.get("names")

    @property
    def is_router(self) -> bool:
        """Whether only the chosen exit runs, so that the cost of an exit does not include the exits before it."""
        return self.metadata.get("costs") == ROUTER

    @property
    def costs(self) -> np.ndarray:
        """Costs as they were given: (L,), or (N, L) if they differ between samples."""
        return self.cost if self.sample_cost is None else self.sample_cost

    def cost_of(self, exits: np.ndarray) -> np.ndarray:
        """Return the cost of each sample if it leaves at these exits (..., N), counted from 0. float64, same shape."""
        return self.cost[exits] if self.sample_cost is None else self.sample_cost[np.arange(self.n_samples), exits]

    @property
    def measures(self) -> tuple[str, ...]:
        """Names of the confidence measures in the record."""
        return tuple(self._confidence)

    @cached_property
    def correct(self) -> np.ndarray:
        return self.needed_correct("telling which answers are correct")

    @property
    def logits(self) -> np.ndarray | None:
        """Logits (N, L, C), or None. Logits in a file are read, and verified by checksum, when they are first used."""
        if callable(self._logits):
            self._logits = self._logits()
        return self._logits

    @property
    def has_logits(self) -> bool:
        """Whether the record contains logits, even if they have not been read from the file yet."""
        return self._logits is not None

    def needed_logits(self, what: str) -> np.ndarray:
        """Return the logits (N, L, C). If there are none, raise ValueError, which names `what` needs them."""
        if self.logits is None:
            raise ValueError(f"{what} needs logits, but this record has none; make the record with logits")
        return self.logits

    def needed_labels(self, what: str) -> np.ndarray:
        """Return the labels (N,). If there are none, raise ValueError, which names `what` needs them."""
        if self.quality is not None:
            raise ValueError(f"{what} needs labels, but this record has qualities of answers that are not classes")
        if self.labels is None:
            raise ValueError(f"{what} needs labels, but this record has none; make the record with labels")
        return self.labels

    def needed_correct(self, what: str) -> np.ndarray:
        """Return `correct` (N, L). Without labels and qualities, raise ValueError, which names `what` needs them."""
        if self.quality is not None:
            return self.quality
        return self.needed_prediction(what) == self.needed_labels(what)[:, None]

    def needed_prediction(self, what: str) -> np.ndarray:
        """Return the predictions (N, L). If there are none, raise ValueError, which names `what` needs them."""
        return needed_prediction(self.prediction, what)

    def confidence(self, measure: str = "max_softmax") -> np.ndarray:
        """Return a confidence measure, (N, L). Larger values mean higher confidence, so entropy is negated.

        Parameters
        ----------
        measure : {"max_softmax", "margin", "entropy", "similarity", "mean_token_margin"}

        Raises
        ------
        ValueError
            If the measure is unknown, or if the record does not contain it.
        """
        values = self.measure(measure)
        return -values if measure == "entropy" else values

    def measure(self, measure: str) -> np.ndarray:
        """Return a measure as it is stored, (N, L). This is the same as `confidence`, but entropy is not negated."""
        _known_measure(measure)
        return found(measure, self._confidence, self.prediction, "this record has")

    def outputs(self, i: int, rows=None, *, logits: bool = True) -> ExitOutputs:
        """Return the outputs of one exit.

        Parameters
        ----------
        i : int
            Exit, counted from 0.
        rows : slice, or array-like of shape (n,) of int or of shape (N,) of bool, optional
            Samples, as in NumPy. All by default.
        logits : bool
            Whether to include the logits, if the record contains them. They are read from the file at their first use.

        Returns
        -------
        ExitOutputs
        """
        rows = slice(None) if rows is None else rows
        confidence = {measure: values[rows, i] for measure, values in self._confidence.items()}  # (n,) each
        similarity = confidence.pop("similarity", None)
        of_exit = None  # (n, C)
        if logits and self.has_logits:  # contiguous rows are faster to compute with
            values = self.needed_logits("outputs")  # (N, L, C)
            of_exit = values[rows].take(i, axis=1) if isinstance(rows, slice) else values[rows, i]
        prediction = None if self.prediction is None else self.prediction[rows, i]  # (n,)
        features = None if self.features is None else self.features[rows]  # (n, F)
        return ExitOutputs(prediction, confidence, of_exit, similarity, self.n_classes, features)

    def take(self, rows) -> "ExitRecord":
        """Select samples. `record[rows]` is equivalent.

        Logits are not copied, or read from the file, until they are used.

        Parameters
        ----------
        rows : int, slice, or array-like of shape (n,) of int or of shape (N,) of bool
            Positions of samples, without duplicates, in any order, or a mask. Negative positions are counted from the
            end, as in NumPy. A single int selects one sample.

        Returns
        -------
        ExitRecord
            Record of the selected samples.

        Raises
        ------
        IndexError
            If a position is out of range, or if the rows are neither integers nor a mask with one value per sample.
        ValueError
            If a position is repeated, or if no sample is selected.
        """
        if not isinstance(rows, slice):  # slices are kept, because they do not copy
            rows = _places(rows, self.n_samples)
        return self.replace(
            **{name: values[rows] for name, values in self.by_sample.items()},
            confidence={measure: values[rows] for measure, values in self._confidence.items()},
            logits=(lambda: self.needed_logits("take")[rows]) if self.has_logits else None,
        )

    def exits(self, places) -> "ExitRecord":
        """Select exits: the record of the same system without the other ones.

        The last exit can be left out, too. Costs are those of the chosen exits, less what the heads of the exits before
        them add that are left out (`head_cost`).

        Parameters
        ----------
        places : sequence of int
            Exits, counted from 0, in ascending order.

        Returns
        -------
        ExitRecord
            Metadata with one value per exit (head_cost, exit_parameters, temperatures) are those of the chosen exits.

        Raises
        ------
        ValueError
            If the exits are not ascending places in the record, or if answers combine those of several exits.

        Examples
        --------
        >>> from offramp import ExitRecord
        >>> about = {"head_cost": [1, 1, 0]}
        >>> record = ExitRecord.from_outputs([[0, 1, 1]], None, [1], cost=[3, 6, 8], metadata=about)
        >>> record.exits([1, 2]).cost.tolist()
        [5.0, 7.0]
        """
        chosen = np.asarray(places)
        within = chosen.ndim == 1 and chosen.dtype.kind in "iu" and chosen.size and chosen[0] >= 0
        if not within or chosen[-1] >= self.n_exits or (np.diff(chosen) <= 0).any():
            raise ValueError(f"exits: {places!r}; expected ascending numbers from 0 to {self.n_exits - 1}")
        if self.metadata.get("ensemble") is not None:
            raise ValueError("exits: the answers of an ensemble combine those of all exits; select before combining")
        metadata = dict(self.metadata)
        for name in ("head_cost", "exit_parameters", "temperatures"):
            values = metadata.get(name)
            single = name == "head_cost" or "stages" not in metadata  # the others are one list per stage of a cascade
            if isinstance(values, list) and len(values) == self.n_exits and single:
                metadata[name] = [values[i] for i in chosen]
        dropped = self.head_cost
        dropped[chosen] = 0
        prediction, quality = (None if each is None else each[:, chosen] for each in (self.prediction, self.quality))
        return self.replace(
            prediction=prediction,
            quality=quality,
            confidence={measure: values[:, chosen] for measure, values in self._confidence.items()},
            logits=(lambda: self.needed_logits("exits")[:, chosen]) if self.has_logits else None,
            cost=(self.costs - dropped.cumsum())[..., chosen],
            metadata=metadata,
        )

    @property
    def head_cost(self) -> np.ndarray:
        """What the head of each exit adds to the costs of later exits, (L,), from the metadata. By default, 0.

        Raises ValueError if there is not one number for each exit.
        """
        cost = np.array(self.metadata.get("head_cost", np.zeros(self.n_exits)), np.float64)  # (L,)
        if cost.shape != (self.n_exits,):
            raise ValueError(f"metadata: head_cost: expected {self.n_exits} numbers, one for each exit")
        return cost

    def replace(self, **changes) -> "ExitRecord":
        """Return a record with other values of some fields. All other fields are kept.

        Parameters
        ----------
        **changes
            Parameters of `from_outputs`, by name. If `logits` is an array, predictions and confidences are computed
            from it, as by the class; the similarity is kept.

        Returns
        -------
        ExitRecord

        Raises
        ------
        TypeError
            If a field is unknown.
        ValueError
            As for the class.

        Examples
        --------
        >>> from offramp import ExitRecord
        >>> record = ExitRecord.from_outputs([[0, 1]], [[0.6, 0.9]], [1], cost=[1, 2])
        >>> record.replace(cost=[1, 10], metadata={"unit": "s"}).cost.tolist()
        [1.0, 10.0]
        """
        fields = {
            "prediction": self.prediction,
            "confidence": self._confidence,
            "labels": self.labels,
            "cost": self.costs,
            "index": self.index,
            "metadata": self.metadata,
            "logits": (lambda: self.logits) if self.has_logits else None,
            "quality": self.quality,
            "features": self.features,
        } | changes
        if fields["logits"] is None or callable(fields["logits"]):
            return ExitRecord.from_outputs(**fields)
        confidence = fields.pop("confidence")
        del fields["prediction"], fields["quality"]
        return ExitRecord(**fields, similarity=confidence.get("similarity"))

    @property
    def by_sample(self) -> dict[str, np.ndarray]:
        """The fields of `replace` that are there and have one row per sample, without confidences and logits."""
        fields = {
            "prediction": self.prediction,
            "labels": self.labels,
            "cost": self.sample_cost,
            "index": self.index,
            "quality": self.quality,
            "features": self.features,
        }
        return {name: values for name, values in fields.items() if values is not None}

    def __len__(self) -> int:
        """The number of samples."""
        return self.n_samples

    def __getitem__(self, rows) -> "ExitRecord":
        """Select samples, as `take` does.

        The result is always a record, also for a single int, so that iterating over a record gives one record per
        sample. Exits are not selected: `record[0, 1]` raises IndexError.
        """
        if isinstance(rows, tuple):
            raise IndexError(
                f"a record is indexed by its samples only, got {len(rows)} indices; give several samples as a list"
            )
        return self.take(rows)

    def __repr__(self) -> str:
        known = [
            f"{key}={self.metadata[key]}" for key in ("dataset", "split", "system", "seed") if key in self.metadata
        ]
        size = f"{self.n_samples} samples × {self.n_exits} exits"
        unlabelled = ["without labels"] if self.labels is None and self.quality is None else []
        return f"<{' '.join(['ExitRecord', size, *unlabelled, *known])}>"

    def save(self, path: str | os.PathLike) -> None:
        """Write the record to one .safetensors file, atomically. The file has no arrays for what the record lacks."""
        arrays = {
            "cost": self.costs,
            "index": self.index,
            "prediction": None if self.prediction is None else self.prediction.astype(np.int32),
            **{f"confidence.{measure}": values for measure, values in self._confidence.items()},
            "labels": self.labels,
            "quality": self.quality,
            "features": self.features,
            "logits": self.logits,
        }
        there = {name: values for name, values in arrays.items() if values is not None}
        save_arrays(path, FORMAT, there, self.metadata)

    @classmethod
    def load(cls, path: str | os.PathLike) -> "ExitRecord":
        """Read a record from a file. Logits are not read before they are used.

        Raises
        ------
        ValueError
            If the file is not a record, or if it is truncated or damaged.
        """
        _, stored, metadata = open_arrays(path, FORMAT)
        answers = set() if "quality" in stored else {"prediction"}
        if missing := sorted({*answers, "cost", "index"} - stored.keys()):
            raise ValueError(f"{path}: the record has no {missing[0]}")
        logits = stored.pop("logits", None)
        fields: dict[str, Any] = {"labels": None, "prediction": None}
        fields |= {name: array.read() for name, array in stored.items()}
        confidence = {n.removeprefix("confidence."): fields.pop(n) for n in list(fields) if n.startswith("confidence.")}
        fields |= {"confidence": confidence, "metadata": metadata, "logits": logits and logits.read}
        try:
            record = cls.from_outputs(**fields)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: {error}") from None
        if logits:
            expected = (record.n_samples, record.n_exits, record.n_classes)
            if logits.shape != expected:
                raise ValueError(f"{path}: logits have shape {logits.shape}, expected {expected}")
        return record


def _places(rows, n_samples: int) -> np.ndarray:
    """Return the positions (n,) of samples that an int, ints or a mask select. Raise IndexError if out of range."""
    rows = np.asarray(rows)
    if rows.shape == (0,):
        rows = rows.astype(np.int64)  # NumPy gives empty lists the type float
    if rows.dtype.kind == "b" and rows.shape == (n_samples,):
        return np.flatnonzero(rows)
    if rows.dtype.kind not in "iu" or rows.ndim > 1:
        raise IndexError(
            f"rows: expected an int, a slice, a list of ints or a mask of {n_samples} truth values; "
            f"got {rows.dtype} {rows.shape}"
        )
    rows = np.atleast_1d(rows).astype(np.int64, copy=False)
    if len(wrong := np.flatnonzero((rows < -n_samples) | (rows >= n_samples))):
        raise IndexError(f"rows: {rows[wrong[0]]} is out of range; the record has {n_samples} samples")
    return rows


def _check_metric(metadata: Mapping[str, Any], qualities: bool) -> None:
    metric = metadata.get("metric", "accuracy")
    if qualities:
        if not isinstance(metric, str) or metric in METRICS or not metric.strip():
            raise ValueError(f"metadata: metric is {metric!r}; expected a name for the mean quality")
        return
    if metric not in ("accuracy", *METRICS):
        raise ValueError(f"metadata: metric is {metric!r}; expected accuracy, {' or '.join(METRICS)}")
    if metric != "accuracy" and metadata.get("classes") != 2:
        raise ValueError(f"metadata: metric is {metric}; expected classes: 2")


def _check_names(names: Any) -> None:
    if names is None:
        return
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise ValueError("metadata: names: expected a list of texts, one for each class or answer")
    if len(set(names)) < len(names):
        again = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"metadata: names has {again!r} twice; expected another name for each class or answer")


def _coded(texts) -> tuple[np.ndarray, list[str]]:
    """Return texts as numbers, int64 of the same shape, and the distinct texts in alphabetical order."""
    texts = np.asarray(texts)
    for place in np.ndindex(texts.shape):
        if not isinstance(texts[place], str):
            where = ", ".join(map(str, place))
            raise ValueError(f"prediction[{where}] is {texts[place]!r}: expected integers, or texts everywhere")
    names, numbers = np.unique(texts.astype(str), return_inverse=True)
    return numbers.reshape(texts.shape), names.tolist()


def _known_measure(measure: str) -> None:
    if measure not in KNOWN:
        raise ValueError(f"confidence: {measure!r} is not known; expected one of {', '.join(KNOWN)}")


def _of_shape(field: str, values, shape: tuple[int | None, ...]) -> np.ndarray:
    values = np.asarray(values)
    if values.ndim != len(shape) or any(w is not None and w != g for w, g in zip(shape, values.shape, strict=True)):
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise ValueError(f"{field}: expected shape ({wanted}), got {values.shape}")
    return values


def _integers(field: str, values, shape: tuple[int | None, ...]) -> np.ndarray:
    values = _of_shape(field, values, shape)
    if values.dtype.kind not in "iu":
        raise ValueError(f"{field}: expected integers, got {values.dtype}")
    return values.astype(np.int64, copy=False)


def _floats(field: str, values, shape: tuple[int | None, ...]) -> np.ndarray:
    """Check that values are finite. Return float16 and float32 as float32, other types as float64.

    float64 is not reduced, so that a threshold of 0.9 matches a confidence of 0.9.
    """
    values = _of_shape(field, values, shape)
    if values.dtype.kind not in "iuf":
        raise ValueError(f"{field}: expected numbers, got {values.dtype}")
    wrong = np.argwhere(~np.isfinite(values))
    if len(wrong):
        place = ", ".join(map(str, wrong[0]))
        raise ValueError(f"{field}[{place}] is {values[tuple(wrong[0])]}: expected finite numbers")
    return values.astype(np.float32 if values.dtype in (np.float16, np.float32) else np.float64, copy=False)


def _fractions(field: str, values, shape: tuple[int | None, ...]) -> np.ndarray:
    """Check that values are between 0 and 1. Return them as float64."""
    values = np.asarray(values)
    values = _floats(field, values.astype(np.int8) if values.dtype == bool else values, shape).astype(np.float64)
    if len(wrong := np.argwhere((values < 0) | (values > 1))):
        place = ", ".join(map(str, wrong[0]))
        raise ValueError(f"{field}[{place}] is {values[tuple(wrong[0])]:g}: expected a number from 0 to 1")
    return values
