"""Two reports of a study side by side: what changed beyond noise (`offramp compare-reports`)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from offramp._io.tables import read_table
from offramp.reports.page import read_json

# Columns that identify a row. All other columns are numbers, or text that is derived from numbers
KEYS = (
    *("dataset", "claim", "part", "small", "large", "system", "corruption", "severity", "policy", "rival", "baseline"),
    *("match", "choice", "drop", "target", "exit", "factor", "setting", "variant", "kind", "front", "low", "high"),
    *("mean", "scored_on", "model", "goal", "seed", "number", "coverage", "at_most", "risk", "level", "confidence"),
    *("text", "fill", "samples"),
)
VERDICT = "verdict"
OF_THE_MACHINE = ("seconds", "times", "captions-seconds")  # tables of measured times, which are not compared
CHANGES = ("equal", "within noise", "beyond noise", "no interval", "verdict", "only in A", "only in B")
REAL = ("beyond noise", "verdict", "only in A")  # what is new in B is no disagreement
COLUMNS = ["table", "row", "value", "a", "a_low", "a_high", "b", "b_low", "b_high", "change"]
SHOWN = 20  # maximum number of lines about changes, and about parameters


def compare_reports(a: Path, b: Path) -> pd.DataFrame:
    """Compare the values in the tables of two reports of one study.

    Parameters
    ----------
    a, b : path
        Folders with `tables/*.csv`, as written by the workflow: the earlier report, or the reference, and the other.

    Returns
    -------
    DataFrame
        One row for each number and verdict, in both reports: table, row, value (its column), a, a_low, a_high, b,
        b_low, b_high, and change: equal; within noise (the intervals overlap); beyond noise (they do not); no interval
        (the numbers differ, and at least one has none); verdict (it changed). A row or a table that one report lacks
        is a single row: only in A, or only in B. Tables of measured times are left out.

    Raises
    ------
    ValueError
        If a folder contains no tables.
    """
    tables = [{path.stem: path for path in folder.glob("tables/*.csv")} for folder in (a, b)]
    for folder, found in zip((a, b), tables):
        if not found:
            raise ValueError(f"{folder}: no tables/*.csv; expected the folder of a finished report")
    rows: list[dict[str, Any]] = []
    for name in sorted((tables[0].keys() | tables[1].keys()) - set(OF_THE_MACHINE)):
        if name in tables[0] and name in tables[1]:
            values = _compared(read_table(tables[0][name]), read_table(tables[1][name]))
        else:
            values = iter([{"row": "all rows", "change": "only in A" if name in tables[0] else "only in B"}])
        rows += [{"table": name, **each} for each in values]
    return pd.DataFrame(rows, columns=COLUMNS)


def differing_parameters(a: Path, b: Path) -> dict[str, tuple[Any, Any]]:
    """Return the parameters that differ between two reports, by dotted name, with both values (None: there is none)."""
    own, other = (dict(_leaves(read_json(folder / "parameters.json"))) for folder in (a, b))
    for values in (own, other):
        values.pop("notes", None)  # text about the study
    return {
        name: (own.get(name), other.get(name))
        for name in sorted(own.keys() | other.keys())
        if own.get(name) != other.get(name)
    }


def agrees(changes: pd.DataFrame) -> bool:
    """Whether all intervals overlap, no verdict changed, and nothing of the first report is missing in the second."""
    return not changes["change"].isin(REAL).any()


def readable(changes: pd.DataFrame, parameters: dict[str, tuple[Any, Any]]) -> str:
    """Format a comparison: the parameters that differ, a table of counts, and what changed beyond noise."""
    lines = _some([f"Other parameters: {name}: {_short(a)} became {_short(b)}" for name, (a, b) in parameters.items()])
    counts = pd.crosstab(changes["table"], changes["change"]).reindex(columns=list(CHANGES), fill_value=0)
    lines += ["", counts.rename_axis(columns=None).reset_index().to_markdown(index=False), ""]
    real = changes[changes["change"].isin(REAL)]
    if len(real):
        lines += ["Changed beyond noise:", *_some([f"- {_line(row)}" for row in real.to_dict("records")])]
        lines += ["--out FILE.csv lists all."] if len(real) > SHOWN else []
    elif changes["change"].isin(["equal", "only in B"]).all():
        lines += ["All numbers are equal."]
    else:
        lines += ["All intervals overlap, and all verdicts are the same."]
    return "\n".join(lines).lstrip("\n")


def _some(lines: list[str]) -> list[str]:
    return lines if len(lines) <= SHOWN else [*lines[:SHOWN], f"and {len(lines) - SHOWN} more"]


def _compared(a: pd.DataFrame, b: pd.DataFrame) -> Iterator[dict[str, Any]]:
    keys = [key for key in KEYS if key in a and key in b]
    others = dict(_rows(b, keys))
    numbers = [name for name in _numbers(a, keys) if name in b]
    for key, row in _rows(a, keys):
        name = {"row": _name(key)}
        other = others.pop(key, None)
        if other is None:
            yield name | {"change": "only in A"}
            continue
        if VERDICT in row and VERDICT in other:
            same = row[VERDICT] == other[VERDICT]
            its = {"value": VERDICT, "a": row[VERDICT], "b": other[VERDICT]}
            yield name | its | {"change": "equal" if same else "verdict"}
        for column in numbers:
            yield name | {"value": column} | _number(column, row, other)
    for key in others:
        yield {"row": _name(key), "change": "only in B"}


def _rows(table: pd.DataFrame, keys: list[str]) -> Iterator[tuple[tuple, dict]]:
    """Yield each row with its key. Rows with the same key are numbered, so that every key is unique."""
    named = table[keys].astype(object).where(table[keys].notna(), "")
    count = named.groupby(keys, dropna=False).cumcount() if keys else pd.Series(range(len(table)))
    for key, number, row in zip(named.itertuples(index=False, name=None), count, table.to_dict("records")):
        yield (*key, number), row


def _name(key: tuple) -> str:
    return ", ".join(str(part) for part in key[:-1] if part != "") or f"row {key[-1] + 1}"


def _numbers(table: pd.DataFrame, keys: list[str]) -> list[str]:
    """Return the numeric columns to compare, without the columns of intervals and standard deviations."""
    endings = ("_low", "_high", "_sd")
    return [
        name
        for name in table
        if name not in keys and pd.api.types.is_numeric_dtype(table[name])
        if not any(name.endswith(ending) and name.removesuffix(ending) in table for ending in endings)
    ]


def _number(column: str, row: dict, other: dict) -> dict[str, Any]:
    found = {
        f"{report}{end}": float(values.get(f"{column}{end}", np.nan))
        for report, values in (("a", row), ("b", other))
        for end in ("", "_low", "_high")
    }
    a, a_low, a_high, b, b_low, b_high = found.values()
    if a == b or (np.isnan(a) and np.isnan(b)):
        change = "equal"
    elif np.isnan([a_low, a_high, b_low, b_high]).any():
        change = "no interval"
    else:
        change = "within noise" if a_low <= b_high and b_low <= a_high else "beyond noise"
    return found | {"change": change}


def _line(row: dict[str, Any]) -> str:
    where = f"{row['table']}: {row['row']}"
    if row["change"] == "only in A":
        return f"{where}: only in A"
    if row["change"] == "verdict":
        return f"{where}: {row['a']} became {row['b']}"
    a, b = (f"{row[x]:.4g} [{row[x + '_low']:.4g}, {row[x + '_high']:.4g}]" for x in "ab")
    return f"{where}: {row['value']} {a} became {b}"


def _leaves(values: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values in nested objects, by dotted name."""
    if not isinstance(values, dict):
        yield name, values
        return
    for key, value in values.items():
        yield from _leaves(value, f"{name}.{key}" if name else str(key))


def _short(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
