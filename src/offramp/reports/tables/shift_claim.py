"""The limit that the PCEE paper names, and whether it shows here."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from offramp.comparison.bootstrap import with_interval
from offramp.reports.labels import policy_name, system_name
from offramp.reports.loading import chosen_policies, read_tables, sort
from offramp.reports.tables.claims import how_often
from offramp.reports.tables.writing import Table, cells

_CLAIMS = {4: "control breaks if the data shift between validation and deployment"}


def numbers(files: Sequence[Path], policies: Sequence[str] | None = None) -> pd.DataFrame:
    """Claim 4 of the PCEE paper, and whether it holds here.

    The paper names a limit of its rule: control breaks if the data shift between validation and deployment. The claim
    is judged for each corruption and severity, with the target accuracies as thresholds. It holds if the interval of
    the rise of the control error over that on clean test data lies above 0, and does not hold if it lies below 0. All
    other cases are undecided. The error of the full model is the distance between its own accuracy and the targets,
    which a rule cannot repair where this accuracy is below the targets. Intervals are 95 % bootstrap intervals over
    test samples and seeds, and ± is the standard deviation over seeds.

    Parameters
    ----------
    files : sequence of one path
        The table that `offramp shift` wrote.
    policies : sequence of str
        Labels of the policies to judge. By default pcee and pcee-ws.
    """
    (table,) = read_tables(files, "shift")
    labels = chosen_policies(policies, ("pcee", "pcee-ws"), list(table["policy"]))
    rows = table[(table["choice"] == "direct") & table["policy"].isin(labels)]
    rows = sort(rows[rows["severity"] > 0], ["system", "corruption", "severity"])
    rows = rows.reindex(
        columns=[
            "system",
            "corruption",
            "severity",
            "policy",
            *with_interval("rise", "error"),
            "accuracy",
            "full_error",
        ]
    )
    rows.insert(0, "claim", 4)
    rows.insert(5, "verdict", [verdict_4(row.rise_low, row.rise_high) for row in rows.itertuples()])
    return rows


def verdict_4(low: float, high: float) -> str:
    """Return the verdict for the interval of the rise of the control error under shift."""
    if high < 0:
        return "does not hold"
    return "holds" if low > 0 else "undecided"


def _where(row) -> str:
    return f"{system_name(row.system)}, {row.corruption.replace('-', ' ')} {row.severity}"


def readable(numbers: pd.DataFrame) -> pd.DataFrame:
    rise = cells(numbers, "rise", scale=100, digits=1, sign="+")
    return pd.DataFrame(
        {
            "Claim": numbers["claim"].astype(str),
            "Where": [_where(row) for row in numbers.itertuples()],
            "Policy": numbers["policy"].map(policy_name),
            "Verdict": numbers["verdict"],
            "Evidence": [
                f"control error {row.error * 100:.1f} points, rise {text}; full model {row.full_error * 100:.1f}"
                for row, text in zip(numbers.itertuples(), rise)
            ],
        }
    )


def findings(numbers: pd.DataFrame) -> list[str]:
    """Return a sentence on how often the claim holds, and where it does not."""
    return how_often(numbers, _CLAIMS, _where)


TABLE = Table(numbers, readable, findings)
