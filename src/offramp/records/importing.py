"""Import of the outputs of other programs as exit records, from NumPy archives and from tables."""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from offramp.records import ExitRecord
from offramp.records.confidence import MEASURES
from offramp.records.record import KNOWN

if TYPE_CHECKING:
    import pandas as pd

SUFFIXES = (".npz", ".csv", ".parquet")
OF_AN_EXIT = ("prediction", *KNOWN, "cost")  # columns per exit
COLUMN = re.compile(rf"label|index|({'|'.join(OF_AN_EXIT)})(?:_([1-9]\d*))?|logit_(?:0|[1-9]\d*)")
EXPECTED = (
    f"expected label, prediction with one or more of {', '.join(MEASURES)} (or logit_0, logit_1, …), and index, "
    "similarity, cost where there are; numbered, as prediction_1, where there are several exits"
)


def import_outputs(
    path: str | os.PathLike, metadata: Mapping[str, Any] | None = None, *, cost: Sequence[float] | None = None
) -> ExitRecord:
    """Create a record from a file with the outputs of a model.

    **.npz files** contain the arrays `labels` (N,), `cost` (L,) or (N, L), optionally `index` (N,), and either `logits`
    (N, L, C), or `prediction` (N, L) with one or more of `max_softmax`, `margin`, `entropy` (N, L). In both cases, they
    can contain `similarity` (N, L), the cosine similarity of the hidden state of each exit with the one before it.

    **.csv and .parquet files** contain one row per sample. The columns are `label`, optionally `index`, and for each
    exit `prediction` with one or more of `max_softmax`, `margin`, `entropy`, and optionally `similarity` and `cost`. If
    there are several exits, the columns of the exits are numbered: `prediction_1` … `prediction_L`. For a single exit,
    the file can contain logits instead: `logit_0`, `logit_1`, … If a cost is the same in all rows at every exit, it is
    stored once for all samples.

    If there are logits, predictions and confidences are computed from them, even if the file also contains these.

    Parameters
    ----------
    path : path
        The ending determines the kind of file.
    metadata : dict, optional
        Metadata, as for `ExitRecord`.
    cost : sequence of L numbers, optional
        Cumulative cost of each exit, if the file contains no costs.

    Returns
    -------
    ExitRecord

    Raises
    ------
    ValueError
        If the file is not readable, if an array or column is missing or unknown, or if it does not match the others.
        For invalid values in a table, the message contains the row, counted from 1 without the header.
    """
    path = Path(path)
    try:
        kind = path.suffix.lower()
        if kind not in SUFFIXES:
            raise ValueError(f"expected a file that ends in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}")
        arrays = _of_archive(_read(path)) if kind == ".npz" else _of_table(_read(path))
        if "cost" in arrays and cost is not None:
            raise ValueError("its costs are in the file, and given beside it (--cost, cost=…); expected one of the two")
        if "cost" not in arrays and cost is None:
            raise ValueError("no costs; expected them in the file (cost), or given beside it (--cost, cost=…)")
        shared = {"cost": cost} | {name: arrays[name] for name in ("labels", "cost", "index") if name in arrays}
        shared["metadata"] = {"source": path.name, **(metadata or {})}
        if "logits" in arrays:
            record = ExitRecord(arrays["logits"], similarity=arrays.get("similarity"), **shared)
        else:
            confidence = {measure: arrays[measure] for measure in KNOWN if measure in arrays}
            record = ExitRecord.from_outputs(arrays["prediction"], confidence, **shared)
        for measure in record.measures:
            _in_range(measure, record.measure(measure))
        return record
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _read(path: Path) -> "dict[str, np.ndarray] | pd.DataFrame":
    try:
        if path.suffix.lower() == ".npz":
            with np.load(path, allow_pickle=False) as file:
                return {name: file[name] for name in file.files}
        if path.suffix.lower() == ".csv":
            import pandas as pd

            # Older versions of pandas round floats unless this option is given; newer versions warn if it is given
            inexact = tuple(map(int, pd.__version__.split(".")[:2])) < (3, 1)
            exact = {"float_precision": "round_trip"} if inexact else {}
            table = pd.read_csv(path, low_memory=False, **exact)
            if not isinstance(table.index, pd.RangeIndex):
                raise ValueError("its rows have more fields than its header")
            return table
        from pyarrow.parquet import ParquetFile

        with ParquetFile(path, page_checksum_verification=True) as file:
            table = file.read().to_pandas(ignore_metadata=True)
        return table.drop(columns="__index_level_0__", errors="ignore")  # the index, which pandas stores as a column
    except (FileNotFoundError, PermissionError):
        raise
    except Exception as error:  # zipfile, zlib, NumPy, pandas and pyarrow raise different exceptions
        reason = " ".join(str(error).split())
        raise ValueError(f"not a readable {path.suffix.lower()} file ({reason})") from None


def _of_archive(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    known = {"logits", "labels", "cost", "index", "prediction", *KNOWN}
    if unknown := sorted(arrays.keys() - known):
        raise ValueError(f"unknown array {unknown[0]!r}; expected some of {', '.join(sorted(known))}")
    needed = {"labels", "logits" if "logits" in arrays else "prediction"}
    if missing := sorted(needed - arrays.keys()):
        raise ValueError(f"no array {missing[0]!r}; expected labels, cost and either logits or prediction")
    return arrays


def _of_table(table: "pd.DataFrame") -> dict[str, np.ndarray]:
    """Convert the columns of a table to the arrays of an archive."""
    parts = {column: COLUMN.fullmatch(column) for column in table}
    if len(parts) < table.shape[1]:
        raise ValueError(f"two columns of one name; {EXPECTED}")
    if unknown := [column for column, part in parts.items() if not part]:
        raise ValueError(f"unknown column {unknown[0]!r}; {EXPECTED}")
    if not len(table):
        raise ValueError("no rows; expected one a sample")
    n_logits = sum(column.startswith("logit_") for column in parts)
    numbered = [column for column, part in parts.items() if part[2]]
    plain = [column for column, part in parts.items() if part[1] and not part[2]]
    if numbered and plain:
        raise ValueError(f"column {plain[0]!r} beside {numbered[0]!r}; expected all with a number, or none")
    n_exits = max((int(parts[column][2]) for column in numbered), default=1)
    if n_logits and n_exits > 1:
        raise ValueError(f"column {numbered[-1]!r} beside logit_0 …, which are of one exit; {EXPECTED}")

    def together(columns: Iterable[str], whole: bool = False) -> np.ndarray:  # (N, columns)
        return np.stack([_numbers(table, column, whole) for column in _present(table, columns)], axis=1)

    arrays = {"labels": together(["label"], whole=True)[:, 0]}
    if "index" in parts:
        arrays["index"] = together(["index"], whole=True)[:, 0]
    of_exits = {part[1] for part in parts.values()} | (set() if n_logits else {"prediction"})
    for name in sorted(of_exits - {None}):
        columns = (f"{name}_{i + 1}" for i in range(n_exits)) if numbered else [name]
        arrays[name] = together(columns, whole=name == "prediction")  # (N, L)
    if n_logits:
        arrays["logits"] = together(f"logit_{c}" for c in range(n_logits))[:, None]  # (N, 1, C)
    if "cost" in arrays and (arrays["cost"] == arrays["cost"][0]).all():
        arrays["cost"] = arrays["cost"][0]  # (L,)
    return arrays


def _present(table: "pd.DataFrame", columns: Iterable[str]) -> Iterable[str]:
    for column in columns:
        if column not in table:
            raise ValueError(f"no column {column!r}; {EXPECTED}")
        yield column


def _numbers(table: "pd.DataFrame", column: str, whole: bool) -> np.ndarray:
    """Return a column (N,): int64 if `whole`, in which case values must be integers; otherwise unchanged floats."""
    import pandas as pd

    given = table[column]
    if given.dtype.kind in "iuf":
        values = given.to_numpy()
        wrong = ~np.isfinite(values)
        if whole:
            wrong |= (np.floor(values) != values) | (np.abs(values.astype(np.float64)) >= 2.0**63)
    else:  # text, dates or booleans, if at least one value of the column is
        wrong = np.isnan(pd.to_numeric(given.astype(str), errors="coerce").to_numpy(np.float64))
        wrong |= not wrong.any()
    if wrong.any():
        n = wrong.argmax()
        expected = "a whole number" if whole else "a finite number"
        raise ValueError(f"row {n + 1}: {column} is {given.iloc[n]}; expected {expected}")
    return values.astype(np.int64 if whole else np.result_type(values, np.float16), copy=False)


def _in_range(measure: str, values: np.ndarray) -> None:
    """Check the range of a measure, up to rounding: probabilities from 0 to 1, cosines from −1 to 1, entropies from 0.

    Raises ValueError for other values, for example for negated entropies.
    """
    low, high = -1 if measure == "similarity" else 0, np.inf if measure == "entropy" else 1
    wrong = np.argwhere((values < low - 1e-6) | (values > high + 1e-6))
    if len(wrong):
        place = ", ".join(map(str, wrong[0]))
        raise ValueError(
            f"{measure}[{place}] is {values[tuple(wrong[0])]}: expected {low} to {high}, entropy not negated"
        )
