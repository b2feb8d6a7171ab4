"""Larger systems with exits against smaller full ones."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from offramp.reports.labels import policy_name, system_name, unit
from offramp.reports.loading import read_tables, sort
from offramp.reports.tables.writing import Table, cells


def at_equal_cost(files: Sequence[Path]) -> pd.DataFrame:
    """Larger with exits against smaller full, at equal cost.

    The threshold of the larger system is the one that spends most of the small one's cost on validation data, and no
    more (the first exit where none costs so little). The same validation samples fitted the policy. The numbers are of
    test data. Gain: accuracy of the large minus that of the small; cost ratio: large over small, above 1 where the
    test cost exceeded the budget. Means over seeds [95 % bootstrap interval over test samples and seeds] ± standard
    deviation over seeds.
    """
    return _matched(files, "equal cost")


def at_equal_accuracy(files: Sequence[Path]) -> pd.DataFrame:
    """Larger with exits against smaller full, at equal accuracy.

    The threshold of the larger system is the cheapest one that is no less accurate on validation data (the full large
    model where none is). The same validation samples fitted the policy, so it may look better there than it is. The
    numbers are of test data. Gain: accuracy of the large minus that of the small; cost ratio:
    large over small, below 1 where the large one is cheaper. Means over seeds [95 % bootstrap interval over test
    samples and seeds] ± standard deviation over seeds.
    """
    return _matched(files, "equal accuracy")


def _matched(files: Sequence[Path], match: str) -> pd.DataFrame:
    (table,) = read_tables(files, "pairs")
    return sort(table[table["match"] == match], ["small", "large"])


def readable(numbers: pd.DataFrame) -> pd.DataFrame:
    factor, prefix = unit(pd.concat([numbers["small_cost"], numbers["large_cost"]]))
    return pd.DataFrame(
        {
            "Small, full": numbers["small"].map(system_name),
            "Large, with exits": numbers["large"].map(system_name),
            "Policy": numbers["policy"].map(policy_name),
            "Small (%)": cells(numbers, "small_accuracy", scale=100, digits=1),
            "Large (%)": cells(numbers, "large_accuracy", scale=100, digits=1),
            "Gain (points)": cells(numbers, "gain", scale=100, digits=1, sign="+"),
            f"Small ({prefix}MACs)": cells(numbers, "small_cost", scale=1 / factor, digits=2),
            f"Large ({prefix}MACs)": cells(numbers, "large_cost", scale=1 / factor, digits=2),
            "Cost ratio": cells(numbers, "cost_ratio", digits=2),
        }
    )


EQUAL_COST = Table(at_equal_cost, readable)
EQUAL_ACCURACY = Table(at_equal_accuracy, readable)
