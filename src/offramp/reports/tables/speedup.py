"""Speed-up at matched accuracy."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from offramp.reports.labels import metric_name, policy_name, system_name
from offramp.reports.loading import read_tables, sort
from offramp.reports.tables.writing import Table, cell, cells


def numbers(files: Sequence[Path]) -> pd.DataFrame:
    """Speed-up at matched accuracy.

    All thresholds are chosen on validation data, on which the policies were fitted too; the numbers are of test data.
    Shared: one threshold for all exits, the cheapest that on validation loses no more accuracy against the last exit
    than is allowed (in points). Per exit: each exit's own, the lowest at which those who leave there, at least 10, are
    no more often wrong than the last exit is on all validation samples (overall) or on the same samples. Speed-up: the
    number of exits over the mean number that a sample passes, as the BEEM paper counts; cost: mean MACs in % of the
    full model's. Change of accuracy: that of the policy minus that of the last exit on the same samples; worse: in how
    many % of the seeds it is below 0. Change of the metric: the same of the dataset's own (F1, Matthews), where it has
    one; thresholds are chosen on accuracy all the same. Means over seeds [95 % bootstrap interval over test samples and
    seeds] ± standard deviation over seeds.
    """
    (table,) = read_tables(files, "speedup")
    return sort(table, ["system", "drop", "choice"])


def readable(numbers: pd.DataFrame) -> pd.DataFrame:
    columns = {
        "System": numbers["system"].map(system_name),
        "Threshold": numbers["choice"],
        "Drop allowed (points)": [
            f"{100 * drop:.1f}" if choice == "shared" else "–"
            for choice, drop in zip(numbers["choice"], numbers["drop"])
        ],
        "Policy": numbers["policy"].map(policy_name),
        "Speed-up (layers)": cells(numbers, "speedup", digits=2),
        "Cost (%)": cells(numbers, "cost", scale=100, digits=1),
        "Change of accuracy (points)": cells(numbers, "loss", scale=100, digits=2, sign="+"),
        "Worse (% of seeds)": [cell(100 * worse, digits=0) for worse in numbers["worse"]],
    }
    if set(numbers["metric"]) - {"accuracy"}:
        change = cells(numbers, "metric_loss", scale=100, digits=2, sign="+")
        columns["Metric"] = numbers["metric"].map(metric_name)
        columns["Change of the metric (points)"] = change
    return pd.DataFrame(columns)


TABLE = Table(numbers, readable)
