"""Which thresholds keep the promise of an accuracy, and at what cost."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from offramp.reports.labels import policy_name, system_name
from offramp.reports.loading import read_tables, sort
from offramp.reports.tables.writing import Table, cells

VERDICTS = ("kept", "broken", "undecided", "no promise")


def numbers(files: Sequence[Path]) -> pd.DataFrame:
    """Promises of accuracy: kept or broken, and at what cost.

    The promise is that the accuracy is at least the wanted one, with a confidence of 0.9. The threshold is δ, the
    wanted accuracy itself, because the signal is an estimated accuracy; or the cheapest one that reaches the accuracy
    on samples for choosing (chosen); or the cheapest one that these samples certify (Learn then Test). Validation and
    test samples are put together and divided at random: a part fits the policy, and the rest is the population, from
    which the samples for choosing are drawn and whose accuracy is the truth. Broken: share of the tries in which the
    accuracy was promised and is not reached [95 % interval of Clopper and Pearson, of the chance of counting: other
    models and data may differ]. A promise is kept if the interval lies at or below 10 %, broken if it lies above, and
    undecided otherwise. Short: by how many points the accuracy is too low where the promise is broken. Cost: mean cost
    in % of the cost of the full model. Where no threshold reaches the accuracy on the samples for choosing, or nothing
    can be certified, nothing is promised, and the full model runs. Lowest: cost of the cheapest threshold that truly
    reaches the accuracy, or of the full model, for the same policy as for chosen and certified thresholds. With δ,
    there is one try per split, and the policy is fitted as in the study; with the others there are ten, and if the
    study holds out no samples for choosing, half of the validation samples fit.

    Parameters
    ----------
    files : sequence of one path
        The table of promises that `offramp compare` wrote.
    """
    (table,) = read_tables(files, "promises")
    table = sort(table, ["system", "target"])
    return table.assign(verdict=[verdict(*row) for row in table[_JUDGED].itertuples(index=False)])


_JUDGED = ["promised", "broken_low", "broken_high", "confidence"]


def verdict(promised: float, low: float, high: float, confidence: float) -> str:
    """Return the verdict for the interval of the share of broken promises."""
    if not promised:
        return "no promise"
    allowed = 1 - confidence + 1e-12  # 1 − 0.9 is rounded to less than 0.1
    return "kept" if high <= allowed else "broken" if low > allowed else "undecided"


def readable(numbers: pd.DataFrame) -> pd.DataFrame:
    of = {choice: rows.reset_index(drop=True) for choice, rows in numbers.groupby("choice", sort=False)}
    rows = of["certified"]
    columns = {
        "System": rows["system"].map(system_name),
        "Accuracy (%)": [f"{100 * target:g}" for target in rows["target"]],
        "Policy": rows["policy"].map(policy_name),
    }
    for choice, name in (("direct", "δ"), ("validation", "Chosen"), ("certified", "Certified")):
        its = of[choice]
        columns |= {
            f"{name}: verdict": its["verdict"],
            f"{name}: broken (%)": cells(its, "broken", scale=100, digits=1),
            f"{name}: short (points)": cells(its, "shortfall", scale=100, digits=1),
            f"{name}: cost (%)": cells(its, "cost", scale=100, digits=1),
        }
    columns["Nothing certified (%)"] = cells(rows.assign(nothing=1 - rows["promised"]), "nothing", scale=100, digits=0)
    return pd.DataFrame(columns | {"Lowest: cost (%)": cells(rows, "oracle_cost", scale=100, digits=1)})


def findings(numbers: pd.DataFrame) -> list[str]:
    """Return one sentence per policy: how often each kind of threshold keeps its promise, and at what mean cost."""
    sentences = []
    for policy, rows in numbers.groupby("policy", sort=False):
        parts = []
        for choice, name in (("direct", "δ"), ("validation", "chosen thresholds"), ("certified", "certified ones")):
            its = rows[rows["choice"] == choice]
            counts = [f"{verdict} in {n}" for verdict in VERDICTS if (n := (its["verdict"] == verdict).sum())]
            parts.append(f"with {name}, {', '.join(counts)} (mean cost {100 * its['cost'].mean():.0f} %)")
        cases = len(rows) // len(parts)
        lowest = 100 * np.mean(rows.loc[rows["choice"] == "certified", "oracle_cost"])
        sentences.append(
            f"{policy_name(policy)}: of {cases} promises (systems × accuracies), {'; '.join(parts)}; lowest mean cost "
            f"{lowest:.0f} %."
        )
    return sentences


TABLE = Table(numbers, readable, findings)
