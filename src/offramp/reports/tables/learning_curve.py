"""What policies gain at equal cost with fewer validation samples."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from offramp.reports.labels import policy_name, system_name
from offramp.reports.loading import read_tables, sort
from offramp.reports.tables.duels import VERDICTS, verdict
from offramp.reports.tables.writing import Table, cells


def numbers(files: Sequence[Path]) -> pd.DataFrame:
    """Gain at equal cost, by number of validation samples.

    Accuracy of a policy minus accuracy of a rival, in points: mean over nine average costs between the cost of the
    first exit and the cost of the full model, as in the table of duels. Both are fitted on the same random draws of so
    many validation samples, on which their thresholds are also chosen, and the gains are averaged over the draws. The
    last number is that of all samples. Difference of cost: policy minus rival, in points of the cost of the full model.
    It is not 0 because the costs are equal on validation samples. The policy is better if the interval of the gain lies
    above 0, and worse if it lies below. Numbers are means over seeds [95 % bootstrap interval over test samples and
    seeds, not over draws] ± standard deviation over seeds.

    Parameters
    ----------
    files : sequence of one path
        The table that `offramp learning-curve` wrote.
    """
    (table,) = read_tables(files, "learning curve")
    table = sort(table, ["system", "rival"])
    bounds = zip(table["gain_low"], table["gain_high"])
    return table.assign(verdict=[verdict(low, high, 0.0, 0.0, equal_cost=True) for low, high in bounds])


def readable(numbers: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "System": numbers["system"].map(system_name),
            "Policy": numbers["policy"].map(policy_name),
            "Rival": numbers["rival"].map(policy_name),
            "Validation samples": numbers["samples"].map(str),
            "Gain (points)": cells(numbers, "gain", scale=100, digits=2, sign="+"),
            "Difference of cost (points)": cells(numbers, "cost_difference", scale=100, digits=1, sign="+"),
            "Verdict": numbers["verdict"],
        }
    )


def findings(numbers: pd.DataFrame) -> list[str]:
    """Return one sentence per pair: in how many systems the policy is better with each number of samples."""
    sentences = []
    for (policy, rival), rows in numbers.groupby(["policy", "rival"], sort=False):
        parts = []
        for size, its in rows.groupby("samples"):
            better, worse, undecided = (int((its["verdict"] == each).sum()) for each in VERDICTS)
            parts.append(f"with {size} samples better in {better}, worse in {worse}, undecided in {undecided}")
        systems = rows["system"].nunique()
        sentences.append(
            f"{policy_name(policy)} against {policy_name(rival)} at equal cost, in {systems} "
            f"system{'s' if systems > 1 else ''}, by number of validation samples: {'; '.join(parts)}."
        )
    return sentences


TABLE = Table(numbers, readable, findings)
