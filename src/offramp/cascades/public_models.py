"""Accuracy and cost of public models, as published by timm (data/timm/README.md)."""

import re
from pathlib import Path

import pandas as pd

from offramp._io.tables import read_table
from offramp.cascades.fronts import pareto

# Kinds of cost, with title and unit for figures and tables
COSTS = {
    "gmacs": ("Multiply-accumulates", "GMACs an image"),
    "gpu_ms": ("RTX 3090, large batches", "ms an image"),
    "cpu_ms": ("Core i7-12700H, one image at a time", "ms an image"),
}
# Columns with images per second: for each cost, first the column of the newer table
_THROUGHPUTS = {
    "gpu_ms": ("sps_rtx3090_amp_nchw_pt240", "sps_rtx3090_nchw"),
    "cpu_ms": ("sps_cpu_i7_12700h_fp32_dynamo_pt240",),
}


def read_zoo(path: Path) -> pd.DataFrame:
    """Read a table of public models.

    Parameters
    ----------
    path : Path
        A .csv file with columns model, img_size, top1 (%), gmacs and images per second, as in data/timm. The date at
        the end of the file name, as in timm_pareto_2022-09.csv, is the date of the table. A name without a date is
        the newest version.

    Returns
    -------
    DataFrame
        One row per model and image size: zoo (the date), model, img_size, top1 (%), gmacs, gpu_ms and cpu_ms (ms per
        image; NaN if not measured).

    Raises
    ------
    ValueError
        If a column is missing or is not numeric, or if a cost is not above 0.
    """
    table = read_table(path)
    date = re.search(r"\d{4}-\d{2}(-\d{2})?$", Path(path).stem)
    of_model = {"zoo": date[0] if date else "newest", "model": _column(path, table, "model").astype(str)}
    of_model |= {name: _numbers(path, table, name) for name in ("img_size", "top1", "gmacs")}
    for cost, names in _THROUGHPUTS.items():
        known = [name for name in names if name in table]
        if not known and cost == "gpu_ms":
            raise ValueError(f"{path}: no column {' or '.join(names)}; expected one, images a second")
        of_model[cost] = 1000 / _numbers(path, table, known[0]) if known else float("nan")
    return pd.DataFrame(of_model)


def front(zoo: pd.DataFrame, cost: str) -> pd.DataFrame:
    """Return the rows on the front of top-1 accuracy and one of the `COSTS`, by ascending cost. Ignores NaN."""
    known = zoo.dropna(subset=["top1", cost])
    return known.iloc[pareto(known[cost], known["top1"])] if len(known) else known


def _column(path: Path, table: pd.DataFrame, name: str) -> pd.Series:
    if name not in table:
        raise ValueError(f"{path}: no column {name}; expected a table of timm's results with model, top1 and gmacs")
    return table[name]


def _numbers(path: Path, table: pd.DataFrame, name: str) -> pd.Series:
    """Return a column of numbers above 0, or NaN. Numbers above 999 may be written as 1,014.45."""
    column = _column(path, table, name)
    try:
        numbers = pd.to_numeric(column.astype("string").str.replace(",", "")).astype("float64")
    except ValueError as error:
        raise ValueError(f"{path}: {name}: {error}; expected numbers") from None
    if (wrong := numbers <= 0).any():
        raise ValueError(f"{path}: {name} of row {wrong.idxmax() + 2} is {numbers[wrong].iloc[0]:g}; expected above 0")
    return numbers
