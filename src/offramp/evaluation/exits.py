"""Statistics of each exit: accuracy, cost, agreement, calibration."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from offramp.calibration import reliability_diagram
from offramp.policies import Policy
from offramp.records import ExitRecord
from offramp.records.metrics import METRICS, terms

if TYPE_CHECKING:
    import pandas as pd


def reliability_table(record: ExitRecord, bins: int) -> "pd.DataFrame":
    """Return the reliability diagrams of all exits for max softmax, with one row per bin.

    Columns: exit, lower, upper, count, mean_confidence, accuracy.
    """
    import pandas as pd

    correct, confidence = record.needed_correct("a reliability table"), record.confidence()  # (N, L) each
    tables = []
    for i in range(record.n_exits):
        diagram = reliability_diagram(confidence[:, i], correct[:, i], bins)
        bins_ = {"lower": diagram.edges[:-1], "upper": diagram.edges[1:], "count": diagram.count}
        tables.append(
            pd.DataFrame(
                {
                    "exit": i + 1,
                    **bins_,
                    "mean_confidence": diagram.mean_confidence,
                    "accuracy": diagram.accuracy,
                }
            )
        )
    return pd.concat(tables, ignore_index=True)


def exit_table(record: ExitRecord, policies: Mapping[str, "Policy"], bins: int) -> "pd.DataFrame":
    """Return statistics of each exit, with one row per exit.

    Columns: exit, accuracy (or mean quality), cost, agreement (share of samples with the same prediction as the
    previous exit), parameters and overconfidence (mean max softmax − accuracy; all if available in the record), the
    metric of the record if it is f1 or matthews, and ece_LABEL for each policy whose signal is an estimated accuracy.
    """
    import pandas as pd

    right = record.needed_correct("a table of exits")  # (N, L)
    table = pd.DataFrame({"exit": np.arange(record.n_exits) + 1, "accuracy": right.mean(0), "cost": record.cost})
    table["agreement"] = np.nan
    if record.prediction is not None:
        table.loc[1:, "agreement"] = (np.diff(record.prediction, axis=1) == 0).mean(0)
    table["parameters"] = record.metadata.get("exit_parameters")
    surest = record.confidence().mean(0, dtype=np.float64) if "max_softmax" in record.measures else np.nan  # (L,)
    table["overconfidence"] = surest - table["accuracy"]
    if record.metric in METRICS:
        labels = record.needed_labels(record.metric)  # (N,)
        parts = terms(record.needed_prediction(record.metric), labels[:, None])  # (N, L) each
        table[record.metric] = METRICS[record.metric](*(part.mean(0) for part in parts))
    for label, policy in policies.items():
        if policy.claims_accuracy:
            signal, correct = policy.signal(record), policy.correct(record)  # (N, L) each
            table[f"ece_{label}"] = [
                reliability_diagram(signal[:, i], correct[:, i], bins).ece for i in range(record.n_exits)
            ]
    return table
