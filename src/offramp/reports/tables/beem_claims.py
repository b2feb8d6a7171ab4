"""The BEEM paper's claims, and whether they hold here."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from offramp.comparison.bootstrap import with_interval
from offramp.reports.labels import in_order, policy_name, system_name
from offramp.reports.loading import chosen_policies, read_tables, sort
from offramp.reports.tables import duels
from offramp.reports.tables.claims import how_often
from offramp.reports.tables.writing import Table, cells

FASTER = 1.5  # the least speed-up that the paper claims
NO_LOSS = -0.005  # change of accuracy down to which a loss counts as none: our choice
BEST = "beem-a"
_CLAIMS = {
    1: "at least 1.5 times as fast as the full model, in layers, without losing accuracy",
    2: "BEEM-A is the best policy at equal cost (MACs)",
}
# Columns for the rivals of claim 2, in the order of the duels' verdicts, and how they read
_RIVALS = {"beaten": "more accurate than", "beaten_by": "less accurate than", "open": "undecided against"}


def numbers(files: Sequence[Path], policies: Sequence[str] | None = None) -> pd.DataFrame:
    """The claims of the BEEM paper, and whether they hold here.

    Judged on test data, thresholds chosen on validation data. Claim 1 (at least 1.5 times as fast as the full model, in
    layers, without losing accuracy) is about one shared threshold, the cheapest that on validation is no less accurate
    than the last exit. It holds where the interval of the speed-up lies above 1.5 and that of the change of accuracy
    against the last exit above −0.5 points and not wholly below 0; it does not hold where either the speed-up's lies
    below 1.5 or that of the change below 0. Claim 2 (BEEM-A is the best policy at equal cost) is about the rivals that
    the study names, over nine budgets of average MACs. It holds where every rival's accuracy is lower than BEEM-A's, by
    intervals of the differences; it does not hold where a rival's is higher. Accuracy is what counts also where the
    dataset is reported with another metric. Anything else is undecided. Intervals are 95 % bootstraps over test samples
    and seeds; ± is the standard deviation over seeds.

    Parameters
    ----------
    files : sequence of paths
        The speed-up table and the duels of `offramp compare`.
    policies : sequence of str
        Labels that claim 1 is judged for; beem-c and beem-a where not given. Claim 2 is about beem-a.
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
    """Of the intervals of the speed-up and of the change of accuracy."""
    if speedup_high < FASTER or loss_high < 0:
        return "does not hold"
    return "holds" if speedup_low > FASTER and loss_low > NO_LOSS else "undecided"


def verdict_2(beaten_by: int, open_: int) -> str:
    """Of the number of rivals that are more accurate for sure, and of those that may be."""
    if beaten_by:
        return "does not hold"
    return "undecided" if open_ else "holds"


def _of_best(fought: pd.DataFrame) -> pd.DataFrame:
    """The duels of BEEM-A at equal cost, those in which it is the rival turned round."""
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
    """A sentence a claim: how often it holds, and where it does not."""
    return how_often(numbers, _CLAIMS, lambda row: system_name(row.system))


TABLE = Table(numbers, readable, findings)
