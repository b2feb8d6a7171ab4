"""Larger systems with exits, compared with smaller full ones."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from offramp.reports.labels import cost_label, policy_name, system_name
from offramp.reports.loading import read_tables, sort, unit_of
from offramp.reports.tables.writing import Table, cells, costs


def at_equal_cost(files: Sequence[Path]) -> pd.DataFrame:
    """Larger with exits against smaller full, at equal cost.

    The larger system uses the threshold that spends as much of the cost of the smaller system as possible on validation
    data without exceeding it (the first exit if no threshold is cheap enough). The policy was fitted on the same
    validation samples. All numbers are measured on test data. Gain: accuracy of the larger system minus accuracy of the
    smaller one. Cost ratio: cost of the larger system divided by cost of the smaller one, which is above 1 if the test
    cost exceeds the budget. Numbers are means over seeds [95 % bootstrap interval over test samples and seeds] ±
    standard deviation over seeds.
    """
    return _matched(files, "equal cost")


def at_equal_accuracy(files: Sequence[Path]) -> pd.DataFrame:
    """Larger with exits against smaller full, at equal accuracy.

    The larger system uses the cheapest threshold with which it is at least as accurate as the smaller system on
    validation data (the full larger model if there is none). The policy was fitted on the same validation samples, so
    its accuracy on them may be too optimistic. All numbers are measured on test data. Gain: accuracy of the larger
    system minus accuracy of the smaller one. Cost ratio: cost of the larger system divided by cost of the smaller one,
    which is below 1 if the larger system is cheaper. Numbers are means over seeds [95 % bootstrap interval over test
    samples and seeds] ± standard deviation over seeds.
    """
    return _matched(files, "equal accuracy")


def _matched(files: Sequence[Path], match: str) -> pd.DataFrame:
    (table,) = read_tables(files, "pairs")
    return sort(table[table["match"] == match], ["small", "large"])


def readable(numbers: pd.DataFrame) -> pd.DataFrame:
    both = pd.concat([numbers["small_cost"], numbers["large_cost"]])
    (factor, small), (_, large) = (cost_label(f"{size} cost", both, unit_of(numbers)) for size in ("Small", "Large"))
    return pd.DataFrame(
        {
            "Small, full": numbers["small"].map(system_name),
            "Large, with exits": numbers["large"].map(system_name),
            "Policy": numbers["policy"].map(policy_name),
            "Small (%)": cells(numbers, "small_accuracy", scale=100, digits=1),
            "Large (%)": cells(numbers, "large_accuracy", scale=100, digits=1),
            "Gain (points)": cells(numbers, "gain", scale=100, digits=1, sign="+"),
            small: costs(numbers, "small_cost", factor),
            large: costs(numbers, "large_cost", factor),
            "Cost ratio": cells(numbers, "cost_ratio", digits=2),
        }
    )


EQUAL_COST = Table(at_equal_cost, readable)
EQUAL_ACCURACY = Table(at_equal_accuracy, readable)
