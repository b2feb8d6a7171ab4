"""Accuracy and cost for a requested accuracy."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from offramp.reports.labels import cost_label, policy_name, system_name
from offramp.reports.loading import read_tables, sort, unit_of
from offramp.reports.tables.writing import Table, cells, costs

_CHOICES = {"direct": "δ itself", "validation": "on validation"}


def numbers(files: Sequence[Path]) -> pd.DataFrame:
    """Accuracy and cost at a given δ.

    Test accuracy and average cost if an accuracy of δ is requested. The threshold is either δ itself, for policies
    whose signal is an estimate of accuracy, or the cheapest threshold that reaches an accuracy of δ on validation data
    (the full model if there is none). The policy was fitted on the same validation samples, so its accuracy on them may
    be too optimistic. Saved: share of the cost of the full model. Numbers are means over seeds [95 % bootstrap interval
    over test samples and seeds] ± standard deviation over seeds.
    """
    (table,) = read_tables(files, "targets")
    return sort(table, ["system", "target", "choice"])


def readable(numbers: pd.DataFrame) -> pd.DataFrame:
    factor, cost = cost_label("Cost", numbers["cost"], unit_of(numbers))
    return pd.DataFrame(
        {
            "System": numbers["system"].map(system_name),
            "δ (%)": [f"{target * 100:.4g}" for target in numbers["target"]],
            "Threshold": numbers["choice"].map(_CHOICES),
            "Policy": numbers["policy"].map(policy_name),
            "Accuracy (%)": cells(numbers, "accuracy", scale=100, digits=1),
            cost: costs(numbers, "cost", factor),
            "Saved (%)": cells(numbers, "saving", scale=100, digits=0),
            "Full model (%)": [f"{accuracy * 100:.1f}" for accuracy in numbers["full_accuracy"]],
        }
    )


TABLE = Table(numbers, readable)
