"""Rejection of answers with a low estimate: risk against coverage, and joint choice of both thresholds."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from offramp.evaluation.curves import default_thresholds
from offramp.policies.base import Policy, answering_exits, at_exits
from offramp.records import ExitRecord
from offramp.records.origin import warn_of_test


@dataclass(frozen=True, eq=False)
class RiskCoverage:
    """Risk of the accepted answers against the share that is accepted, for all thresholds ρ at once.

    There is one point per value of the estimate. Answers with equal estimates are accepted together.

    Attributes
    ----------
    reject_below : ndarray of shape (U,)
        Descending. The highest threshold ρ of each point.
    accepted : ndarray of shape (U,)
        Number of accepted answers, ascending up to all N.
    lost : ndarray of shape (U,)
        Sum of their losses: the number of wrong ones, or the sum of 1 − quality.
    lowest_aurc : float
        AURC of the best possible estimate, which accepts all right answers first.
    cost : float
        Average cost, which does not depend on ρ.
    """

    reject_below: np.ndarray
    accepted: np.ndarray
    lost: np.ndarray
    lowest_aurc: float
    cost: float

    @property
    def coverage(self) -> np.ndarray:
        """Share of accepted answers (U,)."""
        return self.accepted / self.accepted[-1]

    @property
    def risk(self) -> np.ndarray:
        """Selective risk (U,): the mean loss of the accepted answers."""
        return self.lost / self.accepted

    @property
    def aurc(self) -> float:
        """Area under this curve: the mean, over all samples, of the risk if ρ is the estimate of the sample."""
        each = np.diff(self.accepted, prepend=0)  # (U,)
        return float((each * self.risk).sum() / self.accepted[-1])

    @property
    def auroc(self) -> float:
        """Area under the ROC curve: how often a right answer has a higher estimate than a wrong one.

        Equal estimates count half, and qualities as shares of a right answer. NaN if all answers are right, or all are
        wrong.
        """
        wrong, right = self.lost, self.accepted - self.lost  # (U,) each
        pairs = wrong[-1] * right[-1]
        if pairs <= 0:
            return np.nan
        below = (
            right - np.diff(right, prepend=0) / 2
        )  # (U,): with a higher estimate, and half of those with an equal one
        return float((np.diff(wrong, prepend=0) * below).sum() / pairs)

    @property
    def e_aurc(self) -> float:
        """Excess of the AURC over that of the best possible estimate (Geifman et al. 2019, arXiv 1805.08206)."""
        return self.aurc - self.lowest_aurc

    def accuracy_at(self, coverage) -> np.ndarray:
        """Return the accuracy of the accepted answers at coverages above 0, of any shape.

        Between two points, a random part of the answers with the next lower estimate is accepted.
        """
        number = np.asarray(coverage) * self.accepted[-1]
        return 1 - np.interp(number, np.append(0, self.accepted), np.append(0, self.lost)) / number


class Ranking:
    """Answers in descending order of their estimates.

    Parameters
    ----------
    estimate : ndarray of shape (N,)
    loss : ndarray of shape (N,)
        From 0 to 1.
    """

    def __init__(self, estimate: np.ndarray, loss: np.ndarray) -> None:
        estimate = np.minimum(estimate, np.finfo(np.float64).max)  # no answer reaches ρ = +∞
        self.order = np.argsort(-estimate, kind="stable")  # (N,)
        ranked = estimate[self.order]
        self.ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))  # (U,): last of equal ones
        self.loss, self.reject_below = loss[self.order], ranked[self.ends]  # (N,), (U,)

    def resampled(self, counts: np.ndarray, coverages: np.ndarray) -> np.ndarray:
        """Return the accuracies at M ascending coverages and the AURC, for B resamplings, (B, M + 1).

        `counts` (B, N) is how often each sample occurs.
        """
        from offramp._kernels.rejection import accuracies_and_area

        ends = np.zeros(len(self.loss), bool)
        ends[self.ends] = True
        return accuracies_and_area(counts, self.order, self.loss, ends, coverages)

    def curve(self, cost: float) -> RiskCoverage:
        """Return the curve, with a given average cost."""
        n = len(self.loss)
        lowest = (np.sort(self.loss).cumsum() / np.arange(1, n + 1)).mean()
        lost = self.loss.cumsum()[self.ends]  # (U,)
        return RiskCoverage(self.reject_below, self.ends + 1, lost, float(lowest), cost)


def ranking(
    policy: Policy, record: ExitRecord, threshold: float | np.ndarray, by: Policy | None = None
) -> tuple[Ranking, np.ndarray]:
    """Rank the answers at a threshold, as for `risk_coverage`. Return the ranking and the exits (N,)."""
    (exits,), (answering,) = answering_exits(policy, record, [threshold])  # (N,) each
    rows = np.arange(record.n_samples)
    estimate = (policy if by is None else by).estimate(record)[rows, answering]
    return Ranking(estimate, 1.0 - policy.correct(record)[rows, answering]), exits


def risk_coverage(
    policy: Policy, record: ExitRecord, threshold: float | np.ndarray, *, by: Policy | None = None
) -> RiskCoverage:
    """Return the risk of the accepted answers against coverage, exactly and for all thresholds ρ at once.

    Parameters
    ----------
    policy : Policy
        Must be fitted if it learns from data.
    record : ExitRecord
        Must have labels or qualities.
    threshold : float or ndarray of shape (L − 1,)
        Threshold δ, as for `decide`. It determines the exit that answers.
    by : Policy, optional
        Reject by the `estimate` of this policy, at the same exits. The default is `policy`.

    Returns
    -------
    RiskCoverage

    Raises
    ------
    ValueError
        If the record has no labels, or no max softmax if the estimate is max softmax, or if the threshold is not valid.

    Examples
    --------
    >>> import numpy as np
    >>> from offramp import ExitRecord, make_policy, risk_coverage
    >>> record = ExitRecord.from_outputs([[0], [1], [0], [0]], [[0.9], [0.8], [0.8], [0.6]], [0, 0, 0, 1], [1])
    >>> curve = risk_coverage(make_policy("confidence"), record, np.inf)
    >>> curve.coverage, curve.risk.round(3)
    (array([0.25, 0.75, 1.  ]), array([0.   , 0.333, 0.5  ]))
    """
    record.needed_correct("risk_coverage")
    answers, exits = ranking(policy, record, threshold, by)
    return answers.curve(float(record.cost_of(exits).mean()))


@dataclass(frozen=True)
class Rejection:
    """Both thresholds, and what they give on the samples on which they were chosen.

    Attributes
    ----------
    threshold, reject_below : float
        δ and ρ.
    coverage, risk, cost : float
        Share of accepted answers, their error, and the average cost.
    """

    threshold: float
    reject_below: float
    coverage: float
    risk: float
    cost: float


def choose_rejection(
    policy: Policy,
    validation: ExitRecord,
    *,
    risk: float,
    coverage: float | None = None,
    cost: float | None = None,
    thresholds: Sequence[float] | None = None,
) -> Rejection:
    """Choose the threshold δ for exits and ρ for rejection together, on validation data.

    Parameters
    ----------
    policy : Policy
    validation : ExitRecord
    risk : float
        Highest error of the accepted answers.
    coverage : float
        Choose the cheapest pair of thresholds that accepts at least this share of the answers.
    cost : float
        Alternatively, choose the pair with the highest coverage whose average cost is at most this.
    thresholds : sequence of float, optional
        Candidates for δ. By default, −∞, `default_thresholds` and +∞. For each of them, all values of ρ are tried.

    Returns
    -------
    Rejection
        Of equally cheap pairs the one with the highest coverage, and of pairs with equal coverage the cheapest.

    Raises
    ------
    ValueError
        If both or neither of coverage and cost are given, if one is out of range, if no pair reaches the target (the
        message says what can be reached), or if the record has no labels or is not compatible with the policy.
    """
    validation.needed_correct("choose_rejection")
    warn_of_test(validation, "choosing thresholds")
    if (coverage is None) == (cost is None):
        raise ValueError("choose_rejection: expected either coverage or cost")
    for what, value, high in (("risk", risk, 1), ("coverage", coverage, 1), ("cost", cost, np.inf)):
        if value is not None and not 0 <= value <= high:
            raise ValueError(f"choose_rejection: {what} is {value:g}; expected a number from 0 to {high:g}")
    if thresholds is None:
        thresholds = [-np.inf, *default_thresholds(policy, validation), np.inf]
    exits, answering = answering_exits(policy, validation, thresholds)  # (T, N) each
    estimates = at_exits(policy.estimate(validation), answering)  # (T, N)
    losses = 1.0 - at_exits(policy.correct(validation), answering)  # (T, N)
    found = []
    for threshold, at, estimate, loss in zip(thresholds, exits, estimates, losses):
        curve = Ranking(estimate, loss).curve(float(validation.cost_of(at).mean()))
        if len(good := np.flatnonzero(curve.risk <= risk)):
            u = good[-1]
            values = (threshold, curve.reject_below[u], curve.coverage[u], curve.risk[u], curve.cost)
            found.append(Rejection(*map(float, values)))
    n = validation.n_samples
    if not found:
        raise ValueError(f"choose_rejection: no answers with an error of at most {risk:g} on {n} samples")
    if coverage is not None:
        if enough := [each for each in found if each.coverage >= coverage]:
            return min(enough, key=lambda each: (each.cost, -each.coverage))
        best = max(each.coverage for each in found)
        raise ValueError(
            f"choose_rejection: an error of at most {risk:g} is possible up to a coverage of {best:.4g} on {n} "
            f"samples; expected {coverage:g}"
        )
    assert cost is not None  # one of the two is given
    if affordable := [each for each in found if each.cost <= cost]:
        return max(affordable, key=lambda each: (each.coverage, -each.cost))
    raise ValueError(
        f"choose_rejection: an error of at most {risk:g} costs at least {min(each.cost for each in found):.6g} on "
        f"{n} samples; expected {cost:g}"
    )
