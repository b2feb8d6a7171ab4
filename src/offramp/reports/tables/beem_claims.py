"""The claims of the BEEM paper, and whether they hold here."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from offramp.comparison.bootstrap import with_interval
from offramp.reports.labels import in_order, policy_name, system_name
from offramp.reports.loading import chosen_policies, read_tables, sort
from offramp.reports.tables import duels
from offramp.reports.tables.claims import how_often
from offramp.reports.tables.writing import Table, cells

FASTER = 1.5  # the smallest speed-up that the paper claims
NO_LOSS = -0.005  # a change of accuracy above this value counts as no loss; our choice
BEST = "beem-a"
_CLAIMS = {
    1: "at least 1.5 times as fast as the full model, in layers, without losing accuracy",
    2: "BEEM-A is the best policy at equal cost",
}
# Columns with the rivals of claim 2, in the order of `duels.VERDICTS`, and the text for each
_RIVALS = {"beaten": "more accurate than", "beaten_by": "less accurate than", "open": "undecided against"}


def numbers(files: Sequence[Path], policies: Sequence[str] | None = None) -> pd.DataFrame:
    """The claims of the BEEM paper, and whether they hold here.

    Verdicts are based on test data, with thresholds that were chosen on validation data. Claim 1 (at least 1.5 times as
    fast as the full model, in layers, without losing accuracy) is tested with one shared threshold: the cheapest
    threshold with which the policy is at least as accurate as the last exit on validation data. The claim holds if the
    interval of the speed-up lies above 1.5 and the interval of the change of accuracy, compared with the last exit,
    lies above −0.5 points and not entirely below 0. It does not hold if the interval of the speed-up lies below 1.5 or
    the interval of the change of accuracy lies below 0. Claim 2 (BEEM-A is the best policy at equal cost) compares
    BEEM-A with the rivals that the study names, on average over nine budgets of mean cost. The claim holds if all
    rivals are less accurate than BEEM-A, according to the intervals of the differences, and does not hold if any rival
    is more accurate. The accuracy decides, even if the dataset is reported with another metric. All other cases are
    undecided. Intervals are 95 % bootstrap intervals over test samples and seeds, and ± is the standard deviation over
    seeds.

    Parameters
    ----------
    files : sequence of paths
        The speed-up table and the table of duels that `offramp compare` wrote.
    policies : sequence of str
        Labels of the policies for which claim 1 is judged. By default beem-c and beem-a. Claim 2 is about beem-a only.
    """
    speedup, fought = read_tables(files, "speedup", "duels")
    labels = chosen_policies(policies, ("beem-c", "beem-a"), list(speedup["policy"]))
    shared = speedup[(speedup["choice"] == "shared") & (speedup["drop"] == 0) & speedup["policy"].isin(labels)]
    first = sort(shared, ["system"]).assign(claim=1)
    first["verdict"] = [
        verdict_1(row.speedup_low, row.speedup_high, row.loss_low, row.loss_high) for row in first.itertuples()
    ]
    second = [_against_all(system, rows) for system, rows in _of_best(fought).groupby("system", sort=False)]
    columns = ["claim", "system", "policy", "verdict", *with_interval("speedup", "loss"), "worse", *_RIVALS]
    return pd.concat([first, pd.DataFrame(second)], ignore_index=True).reindex(columns=columns)


def verdict_1(speedup_low: float, speedup_high: float, loss_low: float, loss_high: float) -> str:
    """Return the verdict for the intervals of the speed-up and of the change of accuracy."""
    if speedup_high < FASTER or loss_high < 0:
        return "does not hold"
    return "holds" if speedup_low > FASTER and loss_low > NO_LOSS else "undecided"


def verdict_2(beaten_by: int, open_: int) -> str:
    """Return the verdict for the number of rivals that are more accurate, and of undecided comparisons."""
    if beaten_by:
        return "does not hold"
    return "undecided" if open_ else "holds"


def _of_best(fought: pd.DataFrame) -> pd.DataFrame:
    """Return the duels of BEEM-A at equal cost. Duels in which BEEM-A is the rival are reversed."""
    fought = fought[fought["match"] == duels.BUDGETS]
    turned = fought[fought["rival"] == BEST].rename(columns={"policy": "rival", "rival": "policy"})
    turned = turned.assign(gain_low=-turned["gain_high"], gain_high=-turned["gain_low"])
    return pd.concat([fought[fought["policy"] == BEST], turned], ignore_index=True)


def _against_all(system: str, rows: pd.DataFrame) -> dict[str, object]:
    verdicts = [
        duels.verdict(low, high, 0.0, 0.0, equal_cost=True) for low, high in zip(rows["gain_low"], rows["gain_high"])
    ]
    rivals = {
        column: in_order(rival for rival, each in zip(rows["rival"], verdicts) if each == verdict)
        for column, verdict in zip(_RIVALS, duels.VERDICTS)
    }
    return {
        "claim": 2,
        "system": system,
        "policy": BEST,
        "verdict": verdict_2(len(rivals["beaten_by"]), len(rivals["open"])),
        **{column: " ".join(labels) for column, labels in rivals.items()},
    }


def readable(numbers: pd.DataFrame) -> pd.DataFrame:
    speedup, loss = cells(numbers, "speedup", digits=2), cells(numbers, "loss", scale=100, digits=2, sign="+")
    rivals = numbers[list(_RIVALS)].astype(object).fillna("").to_numpy()  # (rows, 3)
    evidence = []
    for row, speedup_text, loss_text, of_row in zip(numbers.itertuples(), speedup, loss, rivals):
        if row.claim == 1:
            below = f"below 0 in {row.worse:.0%} of the seeds"
            evidence.append(f"speed-up {speedup_text}, change of accuracy {loss_text} points, {below}")
            continue
        parts = [
            f"{said} {', '.join(map(policy_name, labels.split()))}"
            for said, labels in zip(_RIVALS.values(), of_row)
            if labels
        ]
        evidence.append("; ".join(parts))
    return pd.DataFrame(
        {
            "Claim": numbers["claim"].astype(str),
            "Where": numbers["system"].map(system_name),
            "Policy": numbers["policy"].map(policy_name),
            "Verdict": numbers["verdict"],
            "Evidence": evidence,
        }
    )


def findings(numbers: pd.DataFrame) -> list[str]:
    """Return one sentence per claim: how often it holds, and where it does not."""
    return how_often(numbers, _CLAIMS, lambda row: system_name(row.system))


TABLE = Table(numbers, readable, findings)
