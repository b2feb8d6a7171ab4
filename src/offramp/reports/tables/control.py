"""How closely the accuracy follows δ."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from offramp.reports.labels import policy_name, system_name
from offramp.reports.loading import read_tables, sort
from offramp.reports.tables.writing import Table, cells


def numbers(files: Sequence[Path]) -> pd.DataFrame:
    """Control of accuracy by δ.

    How closely the test accuracy follows δ if δ itself is the threshold. All values of δ between the test accuracies of
    the first and the last exit are used. Column δ: the number of these values in the grid, mean over seeds. Mean error
    and largest: control error, which is the distance between accuracy and δ. Falls short: share of the values of δ for
    which the accuracy is below δ. Excess: mean error minus the mean error of the baseline (below 0: accuracy follows δ
    more closely than with the baseline). Numbers are means over seeds [95 % bootstrap interval over test samples and
    seeds] ± standard deviation over seeds. The intervals of errors are corrected for the amount by which resampling
    increases a distance.
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
