"""The claims of the PCEE paper, and whether they hold here."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from offramp.comparison.bootstrap import with_interval
from offramp.reports.labels import policy_name, system_name
from offramp.reports.loading import chosen_policies, read_tables, sort
from offramp.reports.tables.writing import Table, cells

OVER_BUDGET = 1.02  # up to this cost ratio, a budget that was kept on validation data counts as kept; our choice
UNDERSPENT = 0.9  # below this cost ratio, too much of the budget is unspent for the costs to count as equal
VERDICTS = ("holds", "does not hold", "undecided")
_CLAIMS = {
    1: "a larger system with exits has a lower error than a smaller full one at the same average cost",
    2: "accuracy follows δ better than with thresholded confidence",
}


def numbers(files: Sequence[Path], policies: Sequence[str] | None = None) -> pd.DataFrame:
    """The claims of the PCEE paper, and whether they hold here.

    Verdicts are based on test data. Claim 1 (a larger system with exits has a lower error than a smaller full one at
    the same average cost) holds if the interval of the accuracy gain lies above 0 and the mean cost is at most 1.02 of
    the cost of the smaller system. (The threshold was chosen on validation data to spend as much of this cost as
    possible without exceeding it.) It does not hold if the interval lies below 0 and at least 0.9 of the budget was
    spent. Claim 2 (accuracy follows δ better than with thresholded confidence, the baseline) holds if the interval of
    the excess control error lies below 0, and does not hold if it lies above 0. All other cases are undecided.
    Intervals are 95 % bootstrap intervals over test samples and seeds, and ± is the standard deviation over seeds.

    Parameters
    ----------
    files : sequence of paths
        The table of pairs and the control table that `offramp compare` wrote.
    policies : sequence of str
        Labels of the policies to judge. By default pcee and pcee-ws.
    """
    pairs, control = read_tables(files, "pairs", "control")
    labels = chosen_policies(policies, ("pcee", "pcee-ws"), list(control["policy"]))
    pairs = pairs[(pairs["match"] == "equal cost") & pairs["policy"].isin(labels)]
    first = sort(pairs, ["small", "large"]).rename(columns={"large": "system"}).assign(claim=1)
    short = control[control["policy"] == control["baseline"]].set_index("system")["short"]
    control = control.assign(baseline_short=control["system"].map(short))
    second = sort(control[control["policy"].isin(labels)], ["system"]).assign(claim=2, small=None)
    rows = pd.concat([_estimate(first, "gain"), _estimate(second, "excess")], ignore_index=True)
    verdict = [
        verdict_1(row.estimate_low, row.estimate_high, row.cost_ratio)
        if row.claim == 1
        else verdict_2(row.estimate_low, row.estimate_high)
        for row in rows.itertuples()
    ]
    rows.insert(4, "verdict", verdict)
    return rows


def verdict_1(low: float, high: float, cost_ratio: float) -> str:
    """Return the verdict for the interval of the accuracy gain and the mean cost ratio at equal cost."""
    if high < 0 and cost_ratio >= UNDERSPENT:
        return "does not hold"
    return "holds" if low > 0 and cost_ratio <= OVER_BUDGET else "undecided"


def verdict_2(low: float, high: float) -> str:
    """Return the verdict for the interval of the excess control error."""
    if low > 0:
        return "does not hold"
    return "holds" if high < 0 else "undecided"


def _estimate(table: pd.DataFrame, name: str) -> pd.DataFrame:
    estimate, ratio = with_interval("estimate"), with_interval("cost_ratio")
    table = table.rename(columns=dict(zip(with_interval(name), estimate)))
    return table.reindex(
        columns=["claim", "small", "system", "policy", *estimate, *ratio, "error", "short", "baseline_short"]
    )


def _where(row) -> str:
    return f"{system_name(row.small)} → {system_name(row.system)}" if row.claim == 1 else system_name(row.system)


def readable(numbers: pd.DataFrame) -> pd.DataFrame:
    estimate = cells(numbers, "estimate", scale=100, digits=2, sign="+")
    ratio = cells(numbers, "cost_ratio", digits=3)
    evidence = []
    for row, estimate_text, ratio_text in zip(numbers.itertuples(), estimate, ratio):
        if row.claim == 2:
            short = f"falls short of {row.short:.0%} of δ, the baseline of {row.baseline_short:.0%}"
            evidence.append(f"error {row.error * 100:.1f} points, excess over the baseline {estimate_text}; {short}")
            continue
        spent = ""
        if row.cost_ratio > 1:
            spent = f"; test cost {(row.cost_ratio - 1) * 100:.1f} % over the budget"
        elif row.cost_ratio < UNDERSPENT:
            spent = "; not at the same cost: no threshold comes nearer to the budget"
        evidence.append(f"gain {estimate_text} points at cost ratio {ratio_text}{spent}")
    return pd.DataFrame(
        {
            "Claim": numbers["claim"].astype(str),
            "Where": [_where(row) for row in numbers.itertuples()],
            "Policy": numbers["policy"].map(policy_name),
            "Verdict": numbers["verdict"],
            "Evidence": evidence,
        }
    )


def findings(numbers: pd.DataFrame) -> list[str]:
    """Return one sentence per claim: how often it holds, and where it does not."""
    return how_often(numbers, _CLAIMS, _where)


def how_often(numbers: pd.DataFrame, claims: dict[int, str], where: Callable) -> list[str]:
    """Return one sentence per claim on how often it holds. `where` returns the name of the case of a row."""
    sentences = []
    for claim, rows in numbers.groupby("claim"):
        places = {verdict: [] for verdict in VERDICTS}
        for row in rows.itertuples():
            places[row.verdict].append(f"{where(row)} ({policy_name(row.policy)})")
        holds, fails, undecided = places.values()
        sentence = (
            f"Claim {claim}: {claims[claim]}. It holds in {len(holds)} of {len(rows)} cases, does not hold in "
            f"{len(fails)}, and is undecided in {len(undecided)}."
        )
        sentence += f" Does not hold: {', '.join(fails)}." if fails else ""
        sentence += f" Undecided: {', '.join(undecided)}." if undecided else ""
        sentences.append(sentence)
    return sentences


TABLE = Table(numbers, readable, findings)
