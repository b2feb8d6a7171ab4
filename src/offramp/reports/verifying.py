"""Comparison of a report with a reference report of the same study (`offramp verify`)."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from offramp._io.tables import read_table
from offramp.reports.page import read_json

# Columns that identify a row. All other columns are numbers, or text that is derived from numbers
KEYS = (
    *("dataset", "claim", "part", "small", "large", "system", "corruption", "severity", "policy", "rival", "baseline"),
    *("match", "choice", "drop", "target", "exit", "factor", "setting", "variant", "kind", "front", "low", "high"),
    *("mean", "scored_on", "model", "goal", "seed", "number", "coverage", "at_most", "risk", "level", "confidence"),
    *("text", "fill"),
)
VERDICT = "verdict"
OF_THE_MACHINE = ("seconds", "times", "captions-seconds")  # tables of measured times, which are not compared
SHOWN = 10  # maximum number of findings of each kind that are printed


class OtherParameters(ValueError):
    """The error that is raised for reports that were created with different parameters."""


@dataclass
class Comparison:
    """Result of the comparison of one table.

    Attributes
    ----------
    equal, agreeing : int
        Number of values that are equal, and of values that differ but have overlapping intervals.
    apart : list of str
        Descriptions of values whose intervals do not overlap.
    without_interval : int
        Number of values that differ and have no interval. They do not count as disagreement.
    verdicts : int
        Number of verdicts that were compared.
    changed : list of str
        Descriptions of verdicts that changed, and of missing rows and tables.
    """

    equal: int = 0
    agreeing: int = 0
    apart: list[str] = field(default_factory=list)
    without_interval: int = 0
    verdicts: int = 0
    changed: list[str] = field(default_factory=list)

    @property
    def agrees(self) -> bool:
        """Whether all intervals overlap and no verdict changed."""
        return not self.apart and not self.changed


def verify(report: Path, reference: Path) -> dict[str, Comparison]:
    """Compare the tables of two reports of the same study.

    Parameters
    ----------
    report, reference : path
        Folders with `tables/*.csv` and `parameters.json`, as written by the workflow.

    Returns
    -------
    dict
        A `Comparison` for each table of the reference, by its name. Tables of measured times are left out.

    Raises
    ------
    OtherParameters
        If the reports were created with different parameters.
    ValueError
        If a folder contains no tables.
    """
    for folder in (report, reference):
        if not any(folder.glob("tables/*.csv")):
            raise ValueError(f"{folder}: no tables/*.csv; expected the folder of a finished report")
    if differing := _differing(read_json(report / "parameters.json"), read_json(reference / "parameters.json")):
        raise OtherParameters(f"{report}: made with other parameters than {reference}: {', '.join(differing)}")
    found = {}
    for path in sorted(reference.glob("tables/*.csv")):
        if path.stem in OF_THE_MACHINE:
            continue
        own = report / "tables" / path.name
        found[path.stem] = _compare(read_table(own), read_table(path)) if own.exists() else Comparison()
        if not own.exists():
            found[path.stem].changed.append("the table is missing")
    return found


def _differing(own: dict, reference: dict) -> list[str]:
    return sorted(key for key in own.keys() | reference.keys() if own.get(key) != reference.get(key))


def _compare(own: pd.DataFrame, reference: pd.DataFrame) -> Comparison:
    result = Comparison()
    keys = [key for key in KEYS if key in own and key in reference]
    rows = dict(_rows(own, keys))
    for key, expected in _rows(reference, keys):
        name = ", ".join(str(part) for part in key[:-1] if not pd.isna(part))
        if key not in rows:
            result.changed.append(f"{name}: the row is missing")
            continue
        row = rows[key]
        if VERDICT in expected:
            result.verdicts += 1
            if row[VERDICT] != expected[VERDICT]:
                result.changed.append(f"{name}: {expected[VERDICT]} became {row[VERDICT]}")
        for column in _numbers(reference, keys):
            _compare_number(result, name, column, row, expected)
    return result


def _rows(table: pd.DataFrame, keys: list[str]) -> Iterator[tuple[tuple, dict]]:
    """Yield each row with its key. Rows with the same key are numbered, so that every key is unique."""
    named = table[keys].astype(object).where(table[keys].notna(), "")
    count = named.groupby(keys, dropna=False).cumcount() if keys else pd.Series(range(len(table)))
    for key, number, row in zip(named.itertuples(index=False, name=None), count, table.to_dict("records")):
        yield (*key, number), row


def _numbers(table: pd.DataFrame, keys: list[str]) -> list[str]:
    """Return the numeric columns to compare, without the columns of intervals and standard deviations."""
    endings = ("_low", "_high", "_sd")
    return [
        name
        for name in table
        if name not in keys and pd.api.types.is_numeric_dtype(table[name])
        if not any(name.endswith(ending) and name.removesuffix(ending) in table for ending in endings)
    ]


def _compare_number(result: Comparison, name: str, column: str, row: dict, expected: dict) -> None:
    one, other = (float(values.get(column, np.nan)) for values in (row, expected))
    if one == other or (np.isnan(one) and np.isnan(other)):
        result.equal += 1
        return
    (low, high), (other_low, other_high) = (
        [float(values.get(f"{column}_{end}", np.nan)) for end in ("low", "high")] for values in (row, expected)
    )
    if np.isnan([low, high, other_low, other_high]).any():
        result.without_interval += 1
    elif low <= other_high and other_low <= high:
        result.agreeing += 1
    else:
        result.apart.append(
            f"{name}: {column} {one:.4g} [{low:.4g}, {high:.4g}], "
            f"in the reference {other:.4g} [{other_low:.4g}, {other_high:.4g}]"
        )


def readable(found: dict[str, Comparison]) -> str:
    """Format the result: a table with one row per table of the report, followed by what does not agree."""
    rows = [
        {
            "table": name,
            "equal": each.equal,
            "intervals overlap": each.agreeing,
            "intervals apart": len(each.apart),
            "no interval": each.without_interval,
            "verdicts": each.verdicts,
            "changed": len(each.changed),
        }
        for name, each in found.items()
    ]
    lines = [pd.DataFrame(rows).to_markdown(index=False)]
    for what, findings in (
        ("Changed", [f"{name}: {text}" for name, each in found.items() for text in each.changed]),
        ("Intervals apart", [f"{name}: {text}" for name, each in found.items() for text in each.apart]),
    ):
        if findings:
            more = [f"and {len(findings) - SHOWN} more"] if len(findings) > SHOWN else []
            lines += ["", f"{what}:", *(f"- {finding}" for finding in [*findings[:SHOWN], *more])]
    if all(each.agrees for each in found.values()):
        same = all(not each.agreeing and not each.without_interval for each in found.values())
        lines += ["", "All numbers are equal." if same else "All verdicts and intervals agree with the reference."]
    return "\n".join(lines)
