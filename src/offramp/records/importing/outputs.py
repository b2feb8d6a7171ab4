"""Import of the outputs of other programs as exit records, from tables and NumPy archives."""

import hashlib
import os
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from offramp.records.importing.plausibility import check_measures
from offramp.records.importing.roles import ANSWERS, Given, Place, find_roles, flat, some
from offramp.records.importing.source import Source, named, shown
from offramp.records.record import KNOWN, ExitRecord

PERCENT = ("max_softmax", "margin", "probabilities", "quality")  # what `percent` divides by 100
MASKED = -1e4  # logit of a masked class, relative to the largest logit: exp(−10⁴) is 0 in every type
LEAST = np.finfo(np.float32).tiny  # probability in place of 0, because its logit is finite


def import_outputs(
    path: str | os.PathLike | Sequence[str | os.PathLike],
    metadata: Mapping[str, Any] | None = None,
    *,
    cost: Sequence[float] | None = None,
    columns: Mapping[str, Given] | None = None,
    percent: bool = False,
    separator: str | None = None,
) -> ExitRecord:
    """Create a record from a file with the outputs of a model.

    The file is a table with one row per sample (.csv, .tsv, .jsonl, also compressed as .csv.gz, or .parquet), or an
    archive of arrays (.npz). Its columns or arrays contain, for N samples, L exits and C classes:

    - `label` (N,): whole numbers, text or truth values. In the last two cases, `metadata["names"]` of the record is the
      sorted list of all of them, of which labels and predictions are the positions.
    - either `logits` or `probabilities`, from which predictions and confidences are computed; or `prediction`, if
      possible with one or more of `max_softmax`, `margin`, `entropy`, one value per exit; or `quality`, the quality of
      the answer of each exit, in place of the label.
    - optionally `index` (N,), the identity of the samples, `similarity`, one value per exit, `cost`, cumulative, one
      value per exit, or one per sample and exit, and `features` (N, F), for the policy `router`, if named by `columns`.
      A cost that is the same in all rows of a table is stored once.

    If there are several exits, columns are numbered from 0 or 1 (`prediction_1` …), or have one value per exit in each
    row. Logits and probabilities of one exit can be one column per class (`logit_0` …). Columns are found by these
    names, or by other usual ones (`true_label`, `y_pred`, …). All other columns are ignored.

    Text in `index` is replaced by whole numbers that depend on nothing else, so that files of the same samples fit
    together. Logits of −∞, of masked classes, are replaced by finite ones for which softmax is 0.

    Parameters
    ----------
    path : path, or sequence of paths
        Several files are parts of one: they contain the same columns for further samples.
    metadata : dict, optional
        Metadata, as for `ExitRecord`. With `names`, the names of the classes in their order, the number of classes is
        known, and labels and predictions may be any of them.
    cost : sequence of L numbers, optional
        Cumulative cost of each exit, if the file contains no costs.
    columns : dict of str to str or list of str, optional
        Names of columns by what they are, for example `{"label": "species", "prediction": "exit{}_pred"}`. In a name,
        {} stands for the number of the exit, or of the class if there is one exit; with two {}, for both. A list
        contains one name per exit.
    percent : bool
        Whether probabilities, max softmax, margins and qualities are percentages.
    separator : str, optional
        Character between the fields of a CSV or TSV file. By default, it is found from the header.

    Returns
    -------
    ExitRecord

    Raises
    ------
    ValueError
        If the file is not readable, if a column is missing or may have several meanings, if a value is invalid or
        impossible, or if it contradicts others. In messages, rows are counted from 1, without the header.

    Warns
    -----
    UserWarning
        If columns are used that are not named as above, or not used.
    """
    paths = [Path(path)] if isinstance(path, str | os.PathLike) else [Path(each) for each in path]
    source = Source.read(paths, separator)
    with named(source.title):
        found, guessed = find_roles(source.names, columns or {}, source.wide)
        for role in ("index", "cost"):  # a guess must not prevent what works without it
            if role not in guessed:
                continue
            if cost is not None if role == "cost" else _repeated(source.values(flat(found[role])[0])):
                del found[role], guessed[role]
        outputs = Outputs(source, found, percent)
        about = {"source": paths[0].name if len(paths) == 1 else [path.name for path in paths]}
        record = outputs.record(about | dict(metadata or {}), cost)
    used = {name for place in outputs.found.values() for name in flat(place)}
    notes = [f"{role} is taken from {pattern}" for role, pattern in guessed.items() if role in outputs.found]
    if ignored := [name for name in source.names if name not in used]:
        notes.append(f"ignored: {some(ignored)}")
    if notes:
        warnings.warn(f"{source.title}: {'; '.join(notes)}", stacklevel=2)
    return record


class Outputs:
    """What the columns of a source say: classes, logits, confidences, index and costs.

    Parameters
    ----------
    source : Source
    found : mapping of str to str or nested lists of str
        The columns of each role, as `find_roles` returns them.
    percent : bool
        Whether probabilities and qualities are percentages.

    Attributes
    ----------
    answers : str
        The role that the answers come from: prediction, logits, probabilities or quality.
    found : dict
        The columns that are used.
    """

    def __init__(self, source: Source, found: Mapping[str, Place], percent: bool = False) -> None:
        self.source, self.percent = source, percent
        self.answers = next((role for role in ANSWERS if role in found), "prediction")
        needed = {"prediction": {"label", *KNOWN}, "quality": {"prediction", *KNOWN}}.get(self.answers, {"label"})
        used = needed | {self.answers, "similarity", "index", "features", "cost"}
        self.found = {role: place for role, place in found.items() if role in used}

    def record(self, metadata: dict[str, Any], cost: Sequence[float] | None) -> ExitRecord:
        """Create the record. Raises ValueError if the columns do not fit together."""
        given = metadata.get("names")
        classes, names = self._classes(given)  # (N,) and (N, L)
        if names is not None:
            metadata |= {"names": names} | ({"classes": len(names)} if given is not None else {})
        if "index" in self.found:
            metadata["index"] = flat(self.found["index"])[0]  # which tells that the order of samples is known
        shared: dict[str, Any] = {"cost": self._cost(cost), "index": self._index(), "metadata": metadata}
        if "features" in self.found:
            shared["features"] = _by_exit(self._floats("features"))  # (N, F)
            metadata["features"] = flat(self.found["features"])
        confidence = {role: _by_exit(self._floats(role)) for role in KNOWN if role in self.found}  # (N, L)
        self._check_exits({"prediction": classes.get("prediction")} | confidence)
        try:
            if self.answers == "prediction":
                record = ExitRecord.from_outputs(classes["prediction"], confidence or None, classes["label"], **shared)
            elif self.answers == "quality":
                quality = _by_exit(self._floats("quality"))  # (N, L)
                answers = classes.get("prediction")
                record = ExitRecord.from_scores(quality, confidence or None, prediction=answers, **shared)
            else:
                record = ExitRecord(self._logits(), classes["label"], **shared | confidence)
        except ValueError as error:
            raise ValueError(self._located(str(error))) from None
        check_measures(record, self.at)
        return record

    def _check_exits(self, arrays: Mapping[str, np.ndarray | None]) -> None:
        """Raise ValueError unless the values of all roles, (N, L) each, are of the same number of exits."""
        sizes = {role: values.shape[1] for role, values in arrays.items() if values is not None and values.ndim == 2}
        role = next((role for role, size in sizes.items() if size != max(sizes.values())), None)
        if role is not None:
            most = max(sizes, key=lambda role: sizes[role])
            raise ValueError(
                f"{role} is of {sizes[role]} exits ({some(flat(self.found[role]))}), {most} of {sizes[most]} "
                f"({some(flat(self.found[most]))}); expected the same exits"
            )

    def _classes(self, given: Sequence | None) -> tuple[dict[str, np.ndarray], list | None]:
        """Return labels (N,) and predictions (N, L), as far as there are any, and the names of classes or None."""
        roles: list[str] = [role for role in ("label", "prediction") if role in self.found]
        raw = {role: self._beside(self.found[role], self.source.values) for role in roles}
        kinds = {role: self._kind(role, values) for role, values in raw.items()}
        names = None if given is None else list(given)
        if set(kinds.values()) == {"text"}:
            if names is None and self.answers in ("logits", "probabilities"):
                value = shown(raw["label"][0])
                raise ValueError(
                    f"{self.at('label', 0)} is {value}; expected a whole number, or the names of the classes in the "
                    f"order of the {self.answers} beside it (--names, metadata={{'names': …}})"
                )
            names = names or np.unique(np.concatenate([values.ravel() for values in raw.values()])).tolist()
            classes = {role: self._positions(role, values, names) for role, values in raw.items()}
        elif set(kinds.values()) == {"truth"}:
            names = names or ["False", "True"]
            classes = {role: values.astype(np.int64) for role, values in raw.items()}
        else:
            classes = {
                role: raw[role].astype(np.int64) if kinds[role] == "truth" else self._whole(role) for role in raw
            }
        if "prediction" in classes:
            classes["prediction"] = _by_exit(classes["prediction"])
        return classes, names

    def _kind(self, role: str, values: np.ndarray) -> str:
        """Whether values are text, truth values or numbers, among which are all that fit nowhere."""
        if values.dtype != object:
            return {"U": "text", "b": "truth"}.get(values.dtype.kind, "number")
        text = np.array([isinstance(value, str) for value in values.flat]).reshape(values.shape)
        for place in np.argwhere(~text) if text.any() else ():
            if (value := values[tuple(place)]) is None or value != value:
                raise ValueError(f"{self.at(role, *place)} is missing; expected text, as in the other rows")
        return "text" if text.all() else "number"

    def _whole(self, role: str) -> np.ndarray:  # (N, …), int64
        try:
            return self._beside(self.found[role], self.source.whole)
        except ValueError as error:
            values = self._beside(self.found[role], self.source.values)
            if role == "prediction" and values.dtype.kind == "f" and values.ndim > 1 and ((values % 1) != 0).any():
                names = " ".join(flat(self.found[role]))
                raise ValueError(f"{error}; are these probabilities (--probabilities {names})?") from None
            raise

    def _positions(self, role: str, values: np.ndarray, names: list) -> np.ndarray:  # same shape, int64
        """Replace text by its place among the names."""
        places = {name: place for place, name in enumerate(names)}
        occur, inverse = np.unique(values, return_inverse=True)
        if unknown := [name for name in occur.tolist() if name not in places]:
            place = np.argwhere(values == unknown[0])[0]
            raise ValueError(
                f"{self.at(role, *place)} is {unknown[0]!r}; expected one of the names {some(list(map(str, names)))}"
            )
        return np.array([places[name] for name in occur.tolist()], np.int64)[inverse].reshape(values.shape)

    def _index(self) -> np.ndarray | None:  # (N,), int64
        if "index" not in self.found:
            return None
        values = self._beside(self.found["index"], self.source.values)
        if self._kind("index", values) != "text":
            return self._whole("index")
        first: dict[str, int] = {}
        for n, value in enumerate(values.tolist()):
            if first.setdefault(value, n) != n:
                raise ValueError(
                    f"{self.at('index', n)} is {value!r}, as {self.at('index', first[value])}: expected all different"
                )
        return np.array([_identity(value) for value in values.tolist()], np.int64)

    def _cost(self, given: Sequence[float] | None) -> Sequence[float] | np.ndarray:  # (L,) or (N, L)
        if "cost" in self.found and given is not None:
            raise ValueError("its costs are in the file, and given beside it (--cost, cost=…); expected one of the two")
        if "cost" not in self.found:
            if given is None:
                raise ValueError("no costs; expected them in the file (cost), or given beside it (--cost, cost=…)")
            return given
        place = self.found["cost"]
        if not self.source.is_table and isinstance(place, str) and np.ndim(self.source.parts[0][place]) < 2:
            costs = [np.atleast_1d(part[place]) for part in self.source.parts]  # (L,) each
            if any(not np.array_equal(each, costs[0]) for each in costs):
                raise ValueError(f"{place} differs between the files; expected the same, or one row per sample")
            return costs[0]
        cost = _by_exit(self._floats("cost"))  # (N, L)
        return cost[0] if self.source.is_table and (cost == cost[0]).all() else cost

    def _logits(self) -> np.ndarray:  # (N, L, C)
        """Return logits, or logarithms of probabilities, of which softmax gives these probabilities."""
        values = self._floats(self.answers, lambda values: np.isfinite(values) | np.isneginf(values))
        if self.answers == "probabilities" and values.ndim == 1:  # of class 1 of two
            values = np.stack([1 - values, values], axis=1)
        values = values[:, None] if values.ndim == 2 else values
        if values.ndim != 3:
            return values  # the record says what it expects
        if self.source.is_table and values.shape[2] == 1:
            raise ValueError(f"{flat(self.found[self.answers])[0]} is of one class; expected one column for each class")
        total = values.sum(axis=2, dtype=np.float64)  # (N, L)
        wrong = np.argwhere((values < -1e-6).any(axis=2) | ~(np.abs(total - 1) < 0.01))
        if self.answers == "probabilities":
            if len(wrong):
                are = some([f"{value:.6g}" for value in values[tuple(wrong[0])]], 3)
                raise ValueError(
                    f"{self.at(self.answers, *wrong[0])}: the probabilities are {are}, in all "
                    f"{total[tuple(wrong[0])]:.6g}; expected numbers from 0 that sum to 1 (logits are imported with "
                    "--logits, percentages with --percent)"
                )
            return np.log(np.maximum(values.astype(np.result_type(values, np.float32)), LEAST))
        if not len(wrong) and values.shape[2] > 1:
            first, *others = flat(self.found["logits"])
            raise ValueError(
                f"{first}{' …' if others else ''}: all values are at least 0 and sum to 1, so these are probabilities; "
                f"expected logits, or these columns as --probabilities (columns={{'probabilities': …}})"
            )
        masked, top = np.isneginf(values), values.max(axis=2, keepdims=True)
        return np.where(masked & np.isfinite(top), top + values.dtype.type(MASKED), values) if masked.any() else values

    def _floats(self, role: str, fits: Callable[[np.ndarray], np.ndarray] = np.isfinite) -> np.ndarray:
        """Return the values of a role, of shape (N,), (N, L), (N, C) or (N, L, C), as in the file."""

        def read(name: str) -> np.ndarray:
            values = self.source.values(name)
            truth = role == "quality" and values.dtype.kind == "b"
            return values.astype(np.float64) if truth else self.source.numbers(name, fits=fits)

        values = self._beside(self.found[role], read)
        values = values.astype(np.result_type(values, np.float16), copy=False)
        return values / 100 if self.percent and role in PERCENT else values

    def _beside(self, place: Place, read: Callable[[str], np.ndarray]) -> np.ndarray:
        """Return one column (N, …), or columns side by side: (N, columns, …)."""
        if isinstance(place, str):
            return read(place)
        columns = [self._beside(part, read) for part in place]
        for part, column in zip(place, columns):
            if column.shape != columns[0].shape:
                (first, *_), (other, *_) = flat(place[0]), flat(part)
                raise ValueError(f"{other} has shape {column.shape}; expected {columns[0].shape}, as {first} has")
        return np.stack(columns, axis=1)

    def at(self, role: str, row: int, *inside: int) -> str:
        """Describe the place of a value (row, …) of a role: exit, class, or exit and class follow."""
        place, depth = self.found[role], 0
        while not isinstance(place, str):
            place, depth = place[0], depth + 1
        inside = inside[len(inside) - min(len(inside), depth + self.source.values(place).ndim - 1) :]
        place = self.found[role]
        for step in inside[:depth]:
            place = place[step]
        return self.source.at(flat(place)[0], row, *inside[depth:])

    def _located(self, message: str) -> str:
        """Name the columns and rows of a message of `ExitRecord`, which knows arrays and positions only."""

        def place(match: re.Match) -> str:
            role = {"labels": "label"}.get(match[1], match[1].rpartition(".")[2])
            numbers = list(map(int, match[2].split(", ")))
            if role not in self.found:
                return match[0]
            if role == "cost" and len(numbers) == 1:  # of an exit
                names = flat(self.found["cost"])
                return names[numbers[0]] if self.source.is_table and names[0] not in self.source.wide else match[0]
            return self.at(role, *numbers)

        return re.sub(r"\b((?:confidence\.)?[a-z_]+)\[(\d+(?:, \d+)*)\]", place, message)


def _repeated(values: np.ndarray) -> bool:
    return len(set(values.tolist())) < len(values)


def _by_exit(values: np.ndarray) -> np.ndarray:  # (N,) or (N, L) to (N, L)
    return values[:, None] if values.ndim == 1 else values


def _identity(text: str) -> int:
    """A whole number that depends on the text alone: the number that it is, or the first 63 bits of a hash."""
    if text.isascii() and text.isdigit() and len(text) < 19:
        return int(text)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) >> 1
