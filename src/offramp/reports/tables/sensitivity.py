"""The effect of each setting on control and cost."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from offramp.comparison.sensitivity import ALL
from offramp.reports.labels import policy_name
from offramp.reports.loading import read_tables
from offramp.reports.tables.writing import Table, cell, cells


def numbers(files: Sequence[Path]) -> pd.DataFrame:
    """Effect of settings on control and cost.

    One factor is varied at a time, and all other settings are those of the study. The first setting of each factor is
    the reference. Mean error and largest: control error, which is the distance between test accuracy and δ, over all
    values of δ between the accuracies of the first and the last exit. Falls short: share of the values of δ for which
    the accuracy is below δ. Cost: average cost in % of the cost of the full model. Numbers are means over systems and
    seeds [95 % bootstrap interval over test samples and seeds] ± standard deviation over seeds. Changes are paired
    differences from the reference. The column next to the change of error shows the smallest and the largest change
    among the systems. A smaller error is not always better: if a map was fitted on few samples, samples leave too
    early, so the accuracy is closer to δ but falls short more often. In settings that choose thresholds on validation
    samples (fit_share or folds in the .csv file), δ is the target accuracy, and the threshold is the cheapest that
    reaches it there. If the validation samples are drawn or split at random, results are averaged over several draws.
    The intervals of errors are corrected for the amount by which resampling increases a distance. The .csv file also
    contains the intervals that are not shown and the numbers of each system.
    """
    (table,) = read_tables(files, "sensitivity")
    return table.astype({"setting": str})


def readable(numbers: pd.DataFrame) -> pd.DataFrame:
    """Return one row per setting and policy, with the means over systems."""
    places = ["factor", "setting", "policy"]
    excess = numbers[numbers["system"] != ALL].groupby(places)["excess"]
    pooled = numbers[numbers["system"] == ALL].set_index(places).assign(least=excess.min(), most=excess.max())

    def change(name: str) -> list[str]:
        texts = cells(pooled.drop(columns=f"{name}_sd"), name, scale=100, digits=2, sign="+")
        return ["reference" if is_reference else text for is_reference, text in zip(pooled["reference"], texts)]

    extremes = {end: [cell(100 * value, digits=2, sign="+") for value in pooled[end]] for end in ("least", "most")}
    between = [f"{least} … {most}" for least, most in zip(*extremes.values())]
    factor, setting, policy = (pooled.index.get_level_values(place) for place in places)
    return pd.DataFrame(
        {
            "Factor": factor,
            "Setting": setting,
            "Policy": policy.map(policy_name),
            "Mean error (points)": cells(pooled, "error", scale=100, digits=2),
            "Largest (points)": cells(pooled[["worst", "worst_sd"]], "worst", scale=100, digits=1),
            "Falls short (% of δ)": cells(pooled, "short", scale=100, digits=0),
            "Cost (%)": cells(pooled[["cost", "cost_sd"]], "cost", scale=100, digits=1),
            "Change of error (points)": change("excess"),
            "Among systems": ["" if is_first else text for is_first, text in zip(pooled["reference"], between)],
            "Change of cost (points)": change("cost_excess"),
            "Change of accuracy (points)": change("accuracy_excess"),
        }
    )


TABLE = Table(numbers, readable)
