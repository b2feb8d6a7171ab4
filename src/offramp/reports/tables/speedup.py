"""Speed-up at matched accuracy."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from offramp.records.metrics import METRICS
from offramp.reports.labels import metric_name, policy_name, system_name
from offramp.reports.loading import read_tables, sort
from offramp.reports.tables.writing import Table, cell, cells


def numbers(files: Sequence[Path]) -> pd.DataFrame:
    """Speed-up at matched accuracy.

    Thresholds are chosen on the validation data on which the policies were also fitted, and all numbers are measured on
    test data. Shared: one threshold for all exits, the cheapest whose loss of validation accuracy, compared with the
    last exit, is no more than the allowed drop (in points). Per exit: one threshold for each exit, the lowest with
    which the samples that leave there (at least 10) are wrong no more often than the last exit is on all validation
    samples (overall) or on the same samples. Speed-up: number of exits divided by the mean number of exits that a
    sample passes, as in the BEEM paper. Cost: mean cost in % of the cost of the full model. Change of accuracy:
    accuracy of the policy minus accuracy of the last exit on the same samples. Worse: in how many % of the seeds this
    change is below 0. Change of the metric: the same for the metric of the dataset (F1, Matthews), if it is not the
    accuracy; thresholds are chosen by accuracy in this case too. Numbers are means over seeds [95 % bootstrap interval
    over test samples and seeds] ± standard deviation over seeds.
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
    if set(numbers["metric"]) & set(METRICS):
        change = cells(numbers, "metric_loss", scale=100, digits=2, sign="+")
        columns["Metric"] = numbers["metric"].map(metric_name)
        columns["Change of the metric (points)"] = change
    return pd.DataFrame(columns)


TABLE = Table(numbers, readable)
