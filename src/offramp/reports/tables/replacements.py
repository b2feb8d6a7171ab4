"""The cascade that replaces each single model on the front."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from offramp.reports.labels import cost_label, system_name
from offramp.reports.loading import read_tables, unit_of
from offramp.reports.tables.writing import Table, cell, cells, costs

_GOALS = {"accuracy": "as accurate", "cost": "as cheap"}
_STAGES, _THRESHOLDS = ["stage_1", "stage_2", "stage_3"], ["threshold_1", "threshold_2"]


def numbers(files: Sequence[Path]) -> pd.DataFrame:
    """Cascades that replace the single models on the front.

    For each model on the front of single models on validation data: the cheapest cascade that is at least as accurate
    on validation data (goal: as accurate), and the most accurate cascade that costs no more on validation data (goal:
    as cheap). A dash means that no cascade is better than the model itself. A sample leaves at a stage if its
    confidence is at least the threshold. The cost ratio (cascade divided by model) and the change of accuracy (cascade
    minus model) are measured on test data, with 95 % bootstrap intervals over test samples. A cascade that was chosen
    because of a chance result on validation data may be slightly less accurate or more expensive on test data.
    """
    (table,) = read_tables(files, "replacements")
    order = table["goal"].map(list(_GOALS).index)
    return table.loc[order.sort_values(kind="stable").index].reset_index(drop=True)


def readable(numbers: pd.DataFrame) -> pd.DataFrame:
    factor, cost = cost_label("Cost", numbers["model_cost"], unit_of(numbers))
    cascades = numbers["kind"] != "single"
    columns = {
        "Goal": numbers["goal"].map(_GOALS),
        "Seed": numbers["seed"].astype(str),
        "Model": numbers["model"].map(system_name),
        "Accuracy (%)": cells(numbers[["model_accuracy"]], "model_accuracy", scale=100, digits=1),
        cost: costs(numbers[["model_cost"]], "model_cost", factor),
        "Replaced by": np.where(cascades, [_names(row) for row in numbers[_STAGES].to_numpy()], "–"),
        "Thresholds": np.where(cascades, [_thresholds(row) for row in numbers[_THRESHOLDS].to_numpy()], "–"),
        "Cost ratio": np.where(cascades, cells(numbers, "cost_ratio", digits=3), "–"),
        "Change of accuracy (points)": np.where(
            cascades, cells(numbers, "accuracy_change", scale=100, digits=2, sign="+"), "–"
        ),
    }
    if numbers["seed"].nunique() == 1:
        del columns["Seed"]
    return pd.DataFrame(columns)


def _names(stages: np.ndarray) -> str:
    return " → ".join(system_name(stage) for stage in stages if not pd.isna(stage))


def _thresholds(thresholds: np.ndarray) -> str:
    """Format thresholds. ∞ means that no sample leaves, which can be best if an ensemble of all models answers."""
    known = [cell(threshold, digits=3) for threshold in thresholds if not np.isnan(threshold)]
    return ", ".join(known).replace("inf", "∞")


TABLE = Table(numbers, readable)
