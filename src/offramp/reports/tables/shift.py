"""What becomes of promises if the inputs are corrupted."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from offramp.reports.labels import policy_name, system_name
from offramp.reports.loading import read_tables, sort
from offramp.reports.tables.writing import Table, cell, cells


def numbers(files: Sequence[Path]) -> pd.DataFrame:
    """Promises on corrupted test data.

    All thresholds were fixed on clean validation data. Shown are the clean test data and those of the highest severity,
    as clean → corrupted; the .csv file contains all severities. Control error: mean distance between accuracy and
    target, if the threshold is the target accuracy (for policies whose signal is an estimated accuracy). Certified gap:
    error minus that of the last exit, at a threshold that certifies that it is at most the level on clean data.
    Calibration error: of the signal, mean over exits. Speed-up: cost of the full model divided by the mean cost, at the
    cheapest thresholds that reach the targets on validation data. All are means over the target accuracies. Intervals
    are 95 % bootstrap intervals over test samples and seeds.
    """
    (table,) = read_tables(files, "shift")
    return sort(table, ["system", "corruption", "severity", "choice"])


def readable(numbers: pd.DataFrame) -> pd.DataFrame:
    keys = ["system", "corruption", "policy"]
    clean, worst = (numbers[numbers["severity"] == severity] for severity in (0, numbers["severity"].max()))
    rows = sort(worst[worst["choice"] == "validation"], keys[:2])

    def moved(name: str, choice: str, scale: float, digits: int) -> list[str]:
        columns = [name, f"{name}_low", f"{name}_high"]
        before, after = (
            part[part["choice"] == choice].set_index(keys)[columns].reindex(pd.MultiIndex.from_frame(rows[keys]))
            * scale
            for part in (clean, worst)
        )
        return [
            "–" if pd.isna(after_) else f"{cell(before_, digits=digits)} → {cell(after_, low, high, digits=digits)}"
            for before_, (after_, low, high) in zip(before[name], after.to_numpy())
        ]

    return pd.DataFrame(
        {
            "System": rows["system"].map(system_name),
            "Corruption": rows["corruption"].str.replace("-", " "),
            "Policy": rows["policy"].map(policy_name),
            "Full model (%)": cells(rows, "full_accuracy", scale=100, digits=1),
            "Control error (points)": moved("error", "direct", 100, 1),
            "Certified gap (points)": moved("gap", "certified", 100, 1),
            "Calibration error (points)": moved("calibration", "validation", 100, 1),
            "Speed-up": moved("speedup", "validation", 1, 2),
        }
    )


TABLE = Table(numbers, readable)
