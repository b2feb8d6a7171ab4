"""What calibrating the signal gives: calibration error, control error and cost."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from offramp.reports.labels import policy_name, system_name
from offramp.reports.loading import read_tables, sort
from offramp.reports.tables.writing import Table, cell, cells


def numbers(files: Sequence[Path]) -> pd.DataFrame:
    """Calibration side by side.

    Every signal that claims to be an accuracy, raw or calibrated at each exit on validation data, under the same rule
    and thresholds δ. Expected calibration error (ECE) on test data, all samples leaving at each exit, mean over exits
    and one by one; control error (mean distance of test accuracy from δ, over all δ in reach) and average cost over
    the same δ in % of the full model's, with the change of cost from the baseline, paired. Means over seeds ± standard
    deviation over seeds, but for ECE and at single exits [95 % bootstrap interval over test samples and seeds].

    Parameters
    ----------
    files : sequence of paths
        The control table of `offramp compare`, and the exits of all runs.
    """
    control, exits = read_tables(files, "control", "exits")
    measured = [f"ece_{label}" for label in control["policy"].unique() if f"ece_{label}" in exits]
    long = exits.melt(["system", "seed", "exit"], measured, "policy", "ece").dropna()
    long["policy"] = long["policy"].str.removeprefix("ece_")
    places = ["system", "policy"]
    seeds = long.groupby([*places, "seed"])["ece"].mean().groupby(places)  # means over exits
    columns = {"ece": seeds.mean(), "ece_sd": seeds.std()}
    for exit_, rows in long.groupby("exit"):
        seeds = rows.groupby(places)["ece"]
        columns |= {f"ece_{exit_}": seeds.mean(), f"ece_{exit_}_sd": seeds.std()}
    return sort(control.join(pd.DataFrame(columns), on=places, how="inner").reset_index(drop=True), ["system"])


def readable(numbers: pd.DataFrame) -> pd.DataFrame:
    exits = [name for name in numbers if name.removeprefix("ece_").isdigit()]
    change = cells(numbers, "cost_excess", scale=100, digits=1, sign="+")
    baseline = numbers["policy"] == numbers["baseline"]
    return pd.DataFrame(
        {
            "System": numbers["system"].map(system_name),
            "Signal": numbers["policy"].map(policy_name),
            "Mean ECE (%)": cells(numbers, "ece", scale=100, digits=1),
            "ECE at exits 1, 2, … (%)": [
                ", ".join(cell(100 * ece, digits=1) for ece in row.dropna()) for _, row in numbers[exits].iterrows()
            ],
            "Mean error (points)": cells(numbers, "error", scale=100, digits=1),
            "Cost (%)": cells(numbers, "cost", scale=100, digits=1),
            "Change of cost (points)": ["baseline" if is_it else text for is_it, text in zip(baseline, change)],
        }
    )


TABLE = Table(numbers, readable)
