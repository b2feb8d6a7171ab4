"""Rejection: how accurate the accepted answers of each policy are, and whether its estimate is a good reason."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from offramp.comparison.bootstrap import Bootstrap, with_interval
from offramp.comparison.runs import Run, by_system
from offramp.evaluation import accuracy_without_loss, frontier, threshold_on
from offramp.evaluation.rejection import Ranking, ranking
from offramp.policies import Policy, make_policy

COVERAGES = np.round(np.linspace(0.05, 1, 20), 12)


def rejection(runs: Sequence[Run], bootstrap: Bootstrap) -> pd.DataFrame:
    """Return the accuracy of the accepted answers of every policy against coverage.

    The threshold δ is the cheapest shared one that loses no accuracy on validation data. Answers are rejected by the
    `estimate` of the policy, so that exactly this share of the test samples is accepted, which needs no labels. Of
    answers with equal estimates, a random part is accepted. Policies without an estimate (no max softmax in the
    records) are left out.

    Returns
    -------
    DataFrame
        One row per system, policy and coverage. by: "estimate" if answers are rejected by the accuracy that the policy
        estimates, or "max softmax". coverage; accuracy (of the accepted answers); gain (this accuracy minus that of
        rejecting by max softmax at the same exits); cost (share of the cost of the full model). Repeated in all rows of
        a policy: aurc, and aurc_gain (AURC of rejecting by max softmax at the same exits, minus aurc). Each has _sd,
        _low, _high. Also e_aurc and e_aurc_sd. Gains are NaN if there is no max softmax, or if it is the estimate.
    """
    rows = []
    for system, group in by_system(runs).items():
        softmax = make_policy("confidence") if "max_softmax" in group[0].test.measures else None
        for label, policy in group[0].policies.items():
            estimates = policy.claims_accuracy and policy != softmax
            if estimates or softmax is not None:
                by = "estimate" if estimates else "max softmax"
                its = _of_policy(group, label, softmax if estimates else None, bootstrap)
                rows += [{"system": system, "policy": label, "by": by} | row for row in its]
    return pd.DataFrame(rows, columns=None if rows else _COLUMNS)


_COLUMNS = ["system", "policy", "by", "coverage", "e_aurc", "e_aurc_sd"]
_COLUMNS += with_interval("accuracy", "gain", "cost", "aurc", "aurc_gain")


def _of_policy(group: Sequence[Run], label: str, softmax: Policy | None, bootstrap: Bootstrap) -> list[dict]:
    """Return the rows of one policy. `softmax` is the policy whose estimate is compared with its own."""
    costs, own, others, excesses = [], [], [], []
    for run in group:
        policy = run.policies[label]
        points = frontier(policy, run.choosing)
        threshold = threshold_on(points, accuracy=accuracy_without_loss(run.choosing))
        answers, exits = ranking(policy, run.test, threshold)
        costs.append(bootstrap.shares(run.test.cost_of(exits), run.test))
        own.append(_resampled(answers, bootstrap))
        excesses.append(answers.curve(np.nan).e_aurc)
        if softmax is not None:
            others.append(_resampled(ranking(policy, run.test, threshold, softmax)[0], bootstrap))
    values = np.stack(own)  # (S, 1 + B, M + 1)
    gains = values - (np.stack(others) if others else np.nan)  # (S, 1 + B, M + 1)

    def summary(name: str, replicates: np.ndarray) -> dict[str, float]:
        return bootstrap.summary(name, replicates[:, 0], replicates[:, 1:])

    of_all = summary("cost", np.stack(costs)) | summary("aurc", values[..., -1]) | summary("aurc_gain", -gains[..., -1])
    deviation = float(np.std(excesses, ddof=1)) if len(group) > 1 else np.nan
    of_all |= {"e_aurc": float(np.mean(excesses)), "e_aurc_sd": deviation}
    return [
        {"coverage": coverage} | summary("accuracy", values[..., m]) | summary("gain", gains[..., m]) | of_all
        for m, coverage in enumerate(COVERAGES)
    ]


def _resampled(answers: Ranking, bootstrap: Bootstrap) -> np.ndarray:
    """Return the accuracies at the M coverages and the AURC, on all samples and resampled, (1 + B, M + 1)."""
    once = np.ones((1, len(answers.loss)))
    return np.concatenate([answers.resampled(counts, COVERAGES) for counts in (once, bootstrap.counts)])
