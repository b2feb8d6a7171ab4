"""The effect of calibrating the signal: calibration error, control error and cost."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from offramp.reports.labels import policy_name, system_name
from offramp.reports.loading import read_tables, sort
from offramp.reports.tables.writing import Table, cell, cells


def numbers(files: Sequence[Path]) -> pd.DataFrame:
    """Comparison of calibration methods.

    Signals that are estimates of accuracy, either raw or calibrated at each exit on validation data, with the same exit
    rule and the same thresholds δ. ECE: expected calibration error on test data if all samples leave at one exit, as
    the mean over exits and for each exit. Mean error: mean control error, which is the distance between test accuracy
    and δ, over all values of δ between the accuracies of the first and the last exit. Cost: average cost over the same
    values of δ, in % of the cost of the full model, and its paired change from the baseline. Numbers are means over
    seeds ± standard deviation over seeds (not shown for single exits). Numbers other than the ECE also have a [95 %
    bootstrap interval over test samples and seeds].

    Parameters
    ----------
    files : sequence of paths
        The control table that `offramp compare` wrote, and the exit tables of all runs.
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
