"""What matters to control and cost, and what does not."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from offramp.comparison.sensitivity import ALL
from offramp.reports.labels import policy_name
from offramp.reports.loading import read_tables
from offramp.reports.tables.writing import Table, cell, cells


def numbers(files: Sequence[Path]) -> pd.DataFrame:
    """What matters to control and cost.

    One factor at a time, all else as in the study; the first setting of each factor is the reference. Mean and largest
    control error (the distance of test accuracy from δ, over all δ in reach), the share of δ where accuracy falls
    short, and the average cost in % of the full model's: means over systems and seeds [95 % bootstrap interval over
    test samples and seeds] ± standard deviation over seeds. Changes are paired differences from the reference; beside
    that of the error, the least and the greatest among the systems. A smaller error is not always better: with a map
    of few samples accuracy lies nearer to δ because samples leave too early, and falls short more often. Of fewer
    validation samples than all, several draws are averaged. Errors' intervals are corrected for what resampling adds to
    a distance. The intervals that are not shown, and each system's numbers, are in the .csv.
    """
    (table,) = read_tables(files, "sensitivity")
    return table.astype({"setting": str})


def readable(numbers: pd.DataFrame) -> pd.DataFrame:
    """A row a setting and policy: the means over systems."""
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
        }
    )


TABLE = Table(numbers, readable)
