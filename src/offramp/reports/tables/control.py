"""How closely accuracy follows δ."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from offramp.reports.labels import policy_name, system_name
from offramp.reports.loading import read_tables, sort
from offramp.reports.tables.writing import Table, cells


def numbers(files: Sequence[Path]) -> pd.DataFrame:
    """Control of accuracy by δ.

    How closely test accuracy follows δ when δ itself is the threshold, over the δ between the test accuracies of the
    first and the last exit (column δ: how many of the grid's those are, mean over seeds): the mean and the largest
    control error (the distance of accuracy from δ), the share of δ where accuracy falls short, and the excess of the
    mean error over the baseline's (below 0: closer than the baseline). Means over seeds [95 % bootstrap interval over
    test samples and seeds, that of errors corrected for what resampling adds to a distance] ± standard deviation over
    seeds.
    """
    (table,) = read_tables(files, "control")
    return sort(table, ["system"])


def readable(numbers: pd.DataFrame) -> pd.DataFrame:
    baseline = numbers["policy"] == numbers["baseline"]
    excess = cells(numbers, "excess", scale=100, digits=1, sign="+")
    return pd.DataFrame(
        {
            "System": numbers["system"].map(system_name),
            "Policy": numbers["policy"].map(policy_name),
            "δ": cells(numbers, "deltas", digits=0),
            "Mean error (points)": cells(numbers, "error", scale=100, digits=1),
            "Largest (points)": cells(numbers, "worst", scale=100, digits=1),
            "Falls short (% of δ)": cells(numbers, "short", scale=100, digits=0),
            "Excess over baseline (points)": ["baseline" if b else text for b, text in zip(baseline, excess)],
        }
    )


TABLE = Table(numbers, readable)
