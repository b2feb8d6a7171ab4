"""The models of which cascades are made."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from offramp.reports.labels import cost_label, prefixed, system_name
from offramp.reports.loading import read_tables, unit_of
from offramp.reports.tables.writing import Table, cells, costs


def numbers(files: Sequence[Path]) -> pd.DataFrame:
    """The models of which cascades are made.

    Each model on its own, ordered by cost: cost per sample, parameters, and accuracy on validation and test data. A
    model is on the front if it is more accurate on validation data than all models that cost no more. With one seed,
    the test accuracy has its 95 % bootstrap interval over test samples. With several seeds, numbers are means ±
    standard deviation over seeds, and the last column gives the number of seeds in which the model is on the front.
    """
    (models,) = read_tables(files, "models")
    of_model = models.groupby("model", sort=False)
    several = models["seed"].nunique() > 1
    table = of_model[["cost", "parameters", "accuracy_validation"]].mean()
    table["accuracy_validation_sd"] = of_model["accuracy_validation"].std()
    table["accuracy"] = of_model["accuracy"].mean()
    table["accuracy_sd"] = of_model["accuracy"].std()
    for end in ("accuracy_low", "accuracy_high"):
        table[end] = np.nan if several else of_model[end].first()
    table["on_front"] = of_model["front"].sum()
    table["seeds"] = of_model["seed"].nunique()
    if "unit" in models:
        table["unit"] = of_model["unit"].first()
    return table.sort_values("cost", kind="stable").reset_index()


def readable(numbers: pd.DataFrame) -> pd.DataFrame:
    factor, cost = cost_label("Cost", numbers["cost"], unit_of(numbers))
    count, count_prefix = prefixed(numbers["parameters"])
    on, seeds = numbers["on_front"], numbers["seeds"]
    text = pd.DataFrame(
        {
            "Model": numbers["model"].map(system_name),
            cost: costs(numbers, "cost", factor),
            f"Parameters{f' ({count_prefix.strip()})' if count_prefix else ''}": cells(
                numbers, "parameters", scale=1 / count, digits=2 if count_prefix else 0
            ),
            "Accuracy, validation (%)": cells(numbers, "accuracy_validation", scale=100, digits=1),
            "Accuracy, test (%)": cells(numbers, "accuracy", scale=100, digits=1),
            "On the front": np.where(
                seeds == 1, np.where(on == 1, "yes", "no"), on.astype(str) + " of " + seeds.astype(str)
            ),
        }
    )
    known = numbers["parameters"].notna().any()  # not for stored outputs
    return text if known else text.drop(columns="Parameters")


TABLE = Table(numbers, readable)
