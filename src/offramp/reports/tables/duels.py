"""Comparison of two policies on the same system."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from offramp.reports.labels import policy_name, system_name
from offramp.reports.loading import read_tables, sort
from offramp.reports.tables.writing import Table, cells

VERDICTS = ("better", "worse", "undecided")
BUDGETS = "budgets"  # the match at equal cost; all other matches are at equal loss of accuracy


def numbers(files: Sequence[Path]) -> pd.DataFrame:
    """One policy against another.

    Both policies run on the same system and the same test samples. Thresholds are chosen on the validation data on
    which the policies were also fitted. Drop: each policy uses its cheapest shared threshold whose loss of validation
    accuracy, compared with the last exit, is no more than this number of points. Budgets: mean over nine average costs
    between the cost of the first exit and the cost of the full model. Each budget is spent exactly on validation data,
    if necessary by choosing randomly between two neighbouring thresholds. Gain: accuracy of the policy minus accuracy
    of the rival. Difference of cost: policy minus rival, in points of the cost of the full model. The verdict is about
    the policy. At a drop, the policy is better if the interval of the difference of cost lies below 0 and the interval
    of the gain does not lie below 0, or if the interval of the gain lies above 0 and the interval of the difference
    does not lie above 0. It is worse if the same is true of the rival. At the budgets, only the interval of the gain
    decides. All other cases are undecided. Speed-up in layers: number of exits divided by the mean number of exits that
    a sample passes. Numbers are means over seeds [95 % bootstrap interval over test samples and seeds] ± standard
    deviation over seeds.
    """
    (table,) = read_tables(files, "duels")
    table = sort(table, ["system", "rival"]).assign(verdict="")
    table["verdict"] = [
        verdict(row.gain_low, row.gain_high, row.cost_difference_low, row.cost_difference_high, row.match == BUDGETS)
        for row in table.itertuples()
    ]
    return table


def verdict(gain_low: float, gain_high: float, cost_low: float, cost_high: float, equal_cost: bool) -> str:
    """Return the verdict for the intervals of gain and difference of cost, or of the gain only at equal cost."""
    if equal_cost:
        cost_low = cost_high = 0.0
    if (cost_high < 0 <= gain_high) or (gain_low > 0 >= cost_low):
        return "better"
    return "worse" if (cost_low > 0 >= gain_low) or (gain_high < 0 <= cost_high) else "undecided"


def readable(numbers: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "System": numbers["system"].map(system_name),
            "Policy": numbers["policy"].map(policy_name),
            "Rival": numbers["rival"].map(policy_name),
            "Match": numbers["match"],
            "Gain (points)": cells(numbers, "gain", scale=100, digits=2, sign="+"),
            "Difference of cost (points)": cells(numbers, "cost_difference", scale=100, digits=1, sign="+"),
            "Speed-up (layers)": cells(numbers, "speedup", digits=2),
            "Rival's (layers)": cells(numbers, "rival_speedup", digits=2),
            "Verdict": numbers["verdict"],
        }
    )


def findings(numbers: pd.DataFrame) -> list[str]:
    """Return one sentence per pair: how often the policy is better, at equal loss of accuracy and at equal cost."""
    at = (numbers["match"] == BUDGETS).map({False: "at an equal loss of accuracy", True: "at equal cost"})
    sentences = []
    for (policy, rival), rows in numbers.groupby(["policy", "rival"], sort=False):
        parts = []
        for match, of_match in rows.groupby(at, sort=False):
            better, worse, undecided = (int((of_match["verdict"] == each).sum()) for each in VERDICTS)
            cases = f"{len(of_match)} cases"
            if of_match["match"].nunique() > 1:
                cases += " (systems × drops)"
            parts.append(f"{match} better in {better} of {cases}, worse in {worse}, undecided in {undecided}")
        sentences.append(f"{policy_name(policy)} against {policy_name(rival)}: {'; '.join(parts)}.")
    return sentences


TABLE = Table(numbers, readable, findings)
