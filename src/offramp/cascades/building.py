"""Cascades of separate models as one exit record."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import pairwise
from typing import Literal, get_args

import numpy as np

from offramp.calibration import fit_temperatures, with_temperatures
from offramp.records import ExitOutputs, ExitRecord
from offramp.records.confidence import SCORES
from offramp.records.joining import same_samples
from offramp.records.origin import shared_unit, warn_of_test
from offramp.records.record import ROUTER

Ensemble = Literal["mean_probability", "mean_logit", "accuracy_weighted", "geometric"]


@dataclass(frozen=True, kw_only=True)
class Combined:
    """The ensemble and the temperatures of a cascade, as for `cascade`, once they are fixed."""

    ensemble: str | None = None
    confidence: str = "own"
    weights: tuple[float, ...] | None = None
    temperatures: tuple[tuple[float, ...], ...] | None = None

    @classmethod
    def of(cls, record: ExitRecord) -> "Combined":
        """Return those with which a record was made, which are in its metadata."""
        about = record.metadata
        ensemble, temperatures = about.get("ensemble"), about.get("temperatures")
        if temperatures is not None and "ensemble" not in about:  # of a single model
            temperatures = [temperatures]
        return cls(
            ensemble=ensemble,
            # The record of an ensemble has logits only if they are those of the ensemble (see `cascade`)
            confidence="ensemble" if ensemble is not None and record.has_logits else "own",
            weights=tuples(about.get("weights")),
            temperatures=tuples(temperatures),
        )


def tuples(value):
    """Return a JSON value with tuples in place of lists."""
    return tuple(map(tuples, value)) if isinstance(value, list | tuple) else value


def cascade(
    records: Sequence[ExitRecord],
    ensemble: Ensemble | None = None,
    *,
    weights: Sequence[float] | None = None,
    confidence: Literal["own", "ensemble"] = "own",
    temperatures: Literal["fit"] | Sequence[Sequence[float]] | None = None,
) -> ExitRecord:
    """Build the record of a cascade, which runs systems one after another until one is confident enough.

    Costs are cumulative: the first exit of a stage costs the sum of the complete previous stages and of this exit. The
    cascade has logits if all stages have logits and if no ensemble is used. It has labels if its stages have labels,
    and qualities, answers and features if they have them.

    Parameters
    ----------
    records : sequence of ExitRecord
        Records of the stages in order, on the same samples, which are joined by their `index`. Labels must be equal, or
        missing in all stages. Several exits are allowed.
    ensemble : None, "mean_probability", "mean_logit", "accuracy_weighted" or "geometric"
        None: each system gives its own prediction. Otherwise, the prediction of an exit combines the latest exits of
        all systems so far: the mean of their probabilities, with or without weights by accuracy, of their logits, or of
        their log-probabilities (geometric mean; its predictions are the same as for logits, which differ by a constant
        per sample only). Requires logits.
    weights : sequence of float, optional
        Weights for "accuracy_weighted", one per exit of the cascade. The default is the accuracy on the given records,
        which is correct for validation data. For test data, pass the weights in the metadata of the validation cascade;
        otherwise test labels influence the result.
    confidence : {"own", "ensemble"}
        Confidences of the exits: those of each system, or those of the ensemble.
    temperatures : None, "fit", or a sequence with one sequence of numbers per stage
        Divide the logits of the exits of each stage by these temperatures first. "fit" fits them on the given samples
        (`calibration.fit_temperatures`), which is correct on validation data only. On test data, pass the temperatures
        in the metadata of the validation cascade.

    Raises
    ------
    ValueError
        If the stages differ in samples, labels or classes, if only some have labels or qualities, if a cost is zero, or
        if the ensemble needs missing logits.

    Warns
    -----
    UserWarning
        If a stage is not more expensive than the previous one, if only some stages have a unit of their costs, if
        temperatures or weights are fitted on records whose split is test, or if it is not certain that samples are in
        the same order (`records.joining.same_samples`).
    """
    records = check_stages(records, "cascade")
    if temperatures is not None:
        if temperatures == "fit":
            temperatures = [fit_temperatures(record).tolist() for record in records]
        if len(temperatures) != len(records):
            raise ValueError(f"cascade: temperatures of {len(temperatures)} stages; expected {len(records)}")
        records = [with_temperatures(record, np.asarray(its)) for record, its in zip(records, temperatures)]
    check_ensemble(ensemble, confidence, weights)
    for k, (before, record) in enumerate(pairwise(records), start=2):
        if record.cost[-1] <= before.cost[-1]:
            warnings.warn(
                f"cascade: stage {k} costs {record.cost[-1]:g}, no more than stage {k - 1} ({before.cost[-1]:g}); "
                "expected cheaper stages first",
                stacklevel=2,
            )
    first, metadata = records[0], _metadata(records, " + ")
    metadata |= {"stages": stage_names(records), "ensemble": ensemble}
    if temperatures is not None:
        metadata["temperatures"] = temperatures
    if any("head_cost" in record.metadata for record in records):
        metadata["head_cost"] = np.concatenate([record.head_cost for record in records]).tolist()
    read = partial(_all_logits, records) if all(record.has_logits for record in records) else None
    made = _joined(records, _costs(records), metadata, read)
    if ensemble is None:
        return made
    if ensemble == "accuracy_weighted":
        if weights is None:
            first.needed_correct("cascade: ensemble='accuracy_weighted' without weights")
            warn_of_test(first, "weighting an ensemble by accuracy")
        shares = np.hstack([record.correct.mean(axis=0) for record in records] if weights is None else weights)  # (L,)
        if len(shares) != made.n_exits or not (np.isfinite(shares) & (shares >= 0)).all():
            raise ValueError(f"cascade: weights are {list(shares)}; expected a number from 0 for each exit")
        weights = made.metadata["weights"] = shares.tolist()
    sums, total = _ensembles(records, ensemble, weights)
    if confidence == "ensemble":
        return made.replace(logits=mean_logits(ensemble, sums / total[:, None]))  # (N, L, C)
    return made.replace(prediction=sums.argmax(axis=2), logits=None)


def router(records: Sequence[ExitRecord]) -> ExitRecord:
    """Build the record of a router, which chooses one of several models for each sample and runs only that one.

    The cost of an exit is that of its model alone, whereas in a `cascade` the models before it are paid, too.
    `metadata["costs"]` is "router", so that policies that read the outputs of exits refuse the record. The policy
    `router` decides by the features of the samples.

    Parameters
    ----------
    records : sequence of ExitRecord
        Records of the models, with one exit each, on the same samples, in ascending order of cost. If costs differ
        between samples, each model must cost more than the one before it on every sample.

    Raises
    ------
    ValueError
        If a record has several exits, if the records are not compatible (as for `cascade`), or if costs do not ascend.
    """
    records = check_stages(records, "router")
    for k, record in enumerate(records, start=1):
        if record.n_exits != 1:
            raise ValueError(f"router: record {k} has {record.n_exits} exits; expected one")
    costs = _side_by_side([record.costs for record in records], records[0].n_samples)  # (L,) or (N, L)
    return _joined(records, costs, {**_metadata(records, " or "), "costs": ROUTER})


def _metadata(records: Sequence[ExitRecord], between: str) -> dict:
    """Return what the records have in common, and their names, with a word or sign between them."""
    first = records[0]
    shared = ("dataset", "split", "seed", "classes", "metric", "names", "features")
    metadata = {key: first.metadata[key] for key in shared if key in first.metadata}
    if units := [record.metadata["unit"] for record in records if "unit" in record.metadata]:
        metadata["unit"] = units[0]
    return metadata | {"system": between.join(stage_names(records))}


def _joined(records: Sequence[ExitRecord], cost: np.ndarray, metadata: dict, logits=None) -> ExitRecord:
    """Return one record with the exits of all records, whose costs are given."""
    first, prediction = records[0], None  # (N, L)
    if all(record.prediction is not None for record in records):
        prediction = np.hstack([record.needed_prediction("joining") for record in records])
    return ExitRecord.from_outputs(
        prediction,
        _measures(records),
        first.labels,
        cost,
        first.index,
        metadata,
        logits=logits,
        quality=None if first.quality is None else np.hstack([record.needed_correct("joining") for record in records]),
        features=first.features,
    )


def stage_names(records: Sequence[ExitRecord]) -> list[str]:
    """Return the systems of the records, or their places in the cascade if they have none."""
    return [str(record.metadata.get("system", f"stage {k}")) for k, record in enumerate(records, start=1)]


def check_ensemble(ensemble: str | None, confidence: str, weights: Sequence[float] | None) -> None:
    """Raise ValueError unless these options of `cascade` are known and fit together."""
    if ensemble not in (None, *get_args(Ensemble)):
        known = ", ".join(get_args(Ensemble))
        raise ValueError(f"cascade: ensemble is {ensemble!r}; expected None or one of {known}")
    if confidence not in ("own", "ensemble") or (confidence == "ensemble" and ensemble is None):
        raise ValueError(f"cascade: confidence is {confidence!r}; expected 'own', or 'ensemble' where there is one")
    if weights is not None and ensemble != "accuracy_weighted":
        raise ValueError(f"cascade: weights are for ensemble='accuracy_weighted'; expected none for {ensemble!r}")


def check_stages(records: Sequence[ExitRecord], who: str) -> list[ExitRecord]:
    """Return the records with their samples in the order of the first one (`joining.same_samples`).

    Raises ValueError unless they have the same samples, classes and cost unit, and costs above 0.
    """
    if not records:
        raise ValueError(f"{who}: expected at least one record")
    records = same_samples(records, [f"stage {k}" for k in range(1, len(records) + 1)], who)
    first = records[0]
    shared_unit({f"stage {k}": record.metadata.get("unit") for k, record in enumerate(records, start=1)}, who)
    for k, record in enumerate(records, start=1):
        if record.is_router:
            raise ValueError(f"{who}: stage {k} is a router, in which only one model runs; expected its single models")
        if (record.quality is None) != (first.quality is None):
            without, scored = (k, 1) if record.quality is None else (1, k)
            raise ValueError(
                f"{who}: stage {without} has no qualities, stage {scored} has; expected qualities in all stages or in "
                "none"
            )
        if record.metric != first.metric and record.quality is not None:
            raise ValueError(f"{who}: stage {k} has the metric {record.metric}, stage 1 {first.metric}; expected one")
        its, others = (np.empty(0) if each.features is None else each.features for each in (record, first))
        if not np.array_equal(its, others):
            raise ValueError(f"{who}: stage {k} has other features than stage 1; expected those of the same samples")
        if None not in (record.n_classes, first.n_classes) and record.n_classes != first.n_classes:
            raise ValueError(f"{who}: stage {k} has {record.n_classes} classes, stage 1 has {first.n_classes}")
        own = np.atleast_2d(record.costs)  # (1, L) or (N, L)
        if len(free := np.flatnonzero(own[:, 0] == 0)):
            of = "" if record.sample_cost is None else f" for sample {record.index[free[0]]}"
            raise ValueError(f"{who}: stage {k} costs 0{of}; expected what running it costs, above 0")
    return records


def _costs(records: Sequence[ExitRecord]) -> np.ndarray:  # (L,) or (N, L)
    paid, costs = np.zeros(1), []
    for record in records:
        costs.append(paid + record.costs)  # (L,) or (N, L)
        paid = costs[-1][..., -1:]  # (1,) or (N, 1)
    return _side_by_side(costs, records[0].n_samples)


def _side_by_side(costs: Sequence[np.ndarray], n_samples: int) -> np.ndarray:
    """Join costs (l,) or (N, l) of several records: (L,), or (N, L) if some differ between samples."""
    if any(cost.ndim == 2 for cost in costs):
        costs = [np.broadcast_to(cost, (n_samples, cost.shape[-1])) for cost in costs]
    return np.concatenate(costs, axis=-1)


def _measures(records: Sequence[ExitRecord]) -> dict[str, np.ndarray]:  # (N, L) each
    measures = [m for m in SCORES if all(m in record.measures for record in records)]
    if not measures and any(set(SCORES) & set(record.measures) for record in records):
        raise ValueError("cascade: the stages have no confidence measure in common")
    return {m: np.hstack([record.measure(m) for record in records]) for m in measures}


def _all_logits(records: Sequence[ExitRecord]) -> np.ndarray:  # (N, L, C)
    return np.concatenate([record.needed_logits("cascade") for record in records], axis=1)


def _ensembles(
    records: Sequence[ExitRecord], ensemble: Ensemble, weights: Sequence[float] | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the weighted sum of the scores of all systems up to each exit, (N, L, C), and of the weights, (L,)."""
    together = Combination(ensemble, [record.n_exits for record in records], weights)
    sums, total = [], []
    for k, record in enumerate(records, start=1):
        if record.logits is None:
            raise ValueError(f"cascade: ensemble={ensemble!r} needs logits, but stage {k} has none")
        for i in range(record.n_exits):
            together.add(record.logits[:, i])
            sums.append(together.sums)
            total.append(together.total)
    return np.stack(sums, axis=1), np.array(total)


class Combination:
    """The ensemble of a cascade, exit by exit: the latest exits of all systems so far, combined.

    Parameters
    ----------
    ensemble, weights, confidence, temperatures
        As for `cascade`. Weights are required for "accuracy_weighted".
    exits : sequence of int
        Number of exits of each system.

    Raises
    ------
    ValueError
        If the ensemble is unknown, or if the weights or temperatures are not one for each exit.

    Attributes
    ----------
    sums : ndarray of shape (n, C), float64
        Weighted sum of the scores.
    total : float
        Sum of the weights.
    """

    def __init__(
        self,
        ensemble: Ensemble | None,
        exits: Sequence[int],
        weights: Sequence[float] | None = None,
        confidence: Literal["own", "ensemble"] = "own",
        temperatures: Sequence[Sequence[float]] | None = None,
    ) -> None:
        check_ensemble(ensemble, confidence, weights)
        if ensemble == "accuracy_weighted" and weights is None:
            raise ValueError("cascade: ensemble='accuracy_weighted' needs weights, one for each exit")
        self.ensemble, self.confidence = ensemble, confidence
        self.weights = [1.0] * sum(exits) if weights is None else list(weights)
        self.temperatures = None if temperatures is None else np.hstack(temperatures).astype(np.float32)  # (L,)
        for what, values in (("weights", self.weights), ("temperatures", self.temperatures)):
            if values is not None and len(values) != sum(exits):
                raise ValueError(f"cascade: {len(values)} {what}; expected {sum(exits)}, one for each exit")
        self.ends = set(np.cumsum(exits) - 1)
        self.exit = -1
        self.before: np.ndarray | float = 0.0  # sum over the systems before the current one
        self.weighed = 0.0

    def add(self, logits: np.ndarray) -> None:
        """Add the next exit, with logits (n, C)."""
        self.exit += 1
        weight = self.weights[self.exit]
        self.sums = self.before + weight * _score(self.ensemble)(logits.astype(np.float64))  # (n, C)
        self.total = self.weighed + weight
        if self.exit in self.ends:
            self.before, self.weighed = self.sums, self.total

    def step(self, logits: np.ndarray) -> ExitOutputs:
        """Add the next exit, with logits (n, C), and return the outputs of the cascade at this exit."""
        if self.temperatures is not None:
            logits = logits / self.temperatures[self.exit + 1]
        if self.ensemble is None:
            self.exit += 1
            return ExitOutputs.of(logits)
        self.add(logits)
        if self.confidence == "ensemble":
            return ExitOutputs.of(mean_logits(self.ensemble, self.sums / self.total))
        return replace(ExitOutputs.of(logits), prediction=self.sums.argmax(axis=1), logits=None)

    def keep(self, rows: np.ndarray) -> None:
        """Drop all samples except those in these positions (k,)."""
        if isinstance(self.before, np.ndarray):
            self.before = self.before[rows]


def mean_logits(ensemble: Ensemble, mean: np.ndarray) -> np.ndarray:
    """Return logits of the ensemble from the mean of the scores, (…, C)."""
    of_probabilities = ensemble in ("mean_probability", "accuracy_weighted")
    return np.log(np.maximum(mean, np.finfo(float).tiny)) if of_probabilities else mean


@cache
def _score(ensemble: Ensemble) -> Callable[[np.ndarray], np.ndarray]:
    """What the ensemble averages, from logits (N, C)."""
    from scipy.special import log_softmax, softmax

    if ensemble == "mean_logit":
        return lambda logits: logits
    return partial(log_softmax if ensemble == "geometric" else softmax, axis=1)
