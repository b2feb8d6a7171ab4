"""Choice of thresholds with a guarantee on the risk."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from offramp.certification.losses import Loss, loss_of
from offramp.certification.pvalues import P_VALUES, needed_samples, upper_bound
from offramp.evaluation.curves import by_passed, reached_signal
from offramp.policies import Policy
from offramp.policies.base import answering_exits, at_exits, checked_threshold, first_exit
from offramp.records import ExitRecord
from offramp.records.origin import samples_of, shared_samples, warn_of_test

# What is tried for a risk among those that exit, or whose answers are accepted: numbers of samples, and thresholds
SHARES = 20
FIXED = 1 - np.array([0, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5])  # for signals that are probabilities
TESTS = SHARES + len(FIXED)


class TooFewSamples(ValueError):
    """The error that is raised if there are too few samples to certify anything, however good the policy is."""


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """What `certify` found.

    Attributes
    ----------
    threshold : float, ndarray of shape (L − 1,), or None
        The cheapest certified threshold δ (for costs, the one that spends most). None if there is none. For the risk
        error_among_accepted, this is the given δ, and `reject_below` is the threshold that is certified.
    reject_below : float or None
        For error_among_accepted: the certified threshold ρ with the highest coverage. None for all other risks, and if
        there is none.
    valid : ndarray of shape (V,) or (V, L − 1)
        All certified thresholds, in the order in which they were tested, from the safe end on. The guarantee holds for
        all of them at once. For error_among_accepted, they are values of ρ, and in all other cases values of δ.
    thresholds : ndarray of shape (T,) or (T, L − 1)
        All thresholds that were tested, in this order.
    p_values : ndarray of shape (T,), or None
        Their p-values, adjusted for the number of hypotheses where these have no order (`method="holm"`, and the risks
        error_among_exited and error_among_accepted). None for `method="crc"`, which has none.
    bound : float or None
        Upper confidence bound of the risk at `threshold`, for this threshold alone. Of "crc", the bound of the
        expectation. What is guaranteed for the chosen threshold is `level`.
    estimate : float or None
        Mean loss at `threshold` on the validation samples.
    cost : float or None
        Average cost at `threshold` on the validation samples.
    coverage : float or None
        For error_among_accepted: share of the validation samples whose answers are accepted. None for all other risks.
    reason : str or None
        Why there is no threshold, or only the safe end. None otherwise.
    risk, level, confidence, method
        As given to `certify`.
    n_samples : int
        Number of validation samples.
    """

    threshold: float | np.ndarray | None
    reject_below: float | None
    valid: np.ndarray
    thresholds: np.ndarray
    p_values: np.ndarray | None
    bound: float | None
    estimate: float | None
    cost: float | None
    coverage: float | None
    reason: str | None
    risk: str
    level: float
    confidence: float
    method: str
    n_samples: int

    @property
    def shared_threshold(self) -> float:
        """`threshold` as a float.

        Raises
        ------
        ValueError
            If there is no threshold, or one per exit.
        """
        if not isinstance(self.threshold, float):
            raise ValueError(f"threshold is {self.threshold}; expected one that all exits share")
        return float(self.threshold)


def certify(
    policy: Policy,
    validation: ExitRecord,
    risk: str | np.ndarray = "error",
    level: float = 0.05,
    confidence: float = 0.9,
    method: str = "ltt",
    *,
    p_value: str | None = None,
    budget: float | None = None,
    bounds: tuple[float, float] | None = None,
    thresholds=None,
    threshold: float | np.ndarray | None = None,
) -> Certificate:
    """Choose the cheapest threshold whose risk is at most a level, with a guarantee.

    The risk is the mean of a loss over all future samples. With "ltt", "ucb" and "holm", it is at most `level` at the
    chosen threshold with a probability of at least `confidence`, over the draw of the validation samples, for any
    policy, any model and any number of samples. With "crc", it is at most `level` on average over such draws. Both
    assume that the validation samples are drawn independently from what the policy will meet, and that the policy was
    fitted on other samples (`offramp.records.splitting.split_record` divides a record). See docs/guarantees.md.

    Parameters
    ----------
    policy : Policy
        Must be fitted if it learns from data.
    validation : ExitRecord
        Samples on which the policy was not fitted. Labels are needed for errors only.
    risk : str, or ndarray of shape (N, L)
        error: 1 minus the accuracy (or mean quality). gap: the error minus that of the last exit, from −1 to 1.
        disagreement: share of answers that differ from those of the last exit. error_among_exited: error of the samples
        that leave before the last exit. error_among_accepted: error of the answers that are not rejected; δ is given
        (`threshold`), and what is certified is ρ, for `decide(…, reject_below=ρ)`. cost: average cost, in the unit of
        the record. over_budget: probability that a sample costs more than `budget`. An array is the loss of each sample
        if it leaves at each exit.
    level : float
        Highest acceptable risk.
    confidence : float
        Probability with which the risk is at most the level. Not used by "naive" and "crc".
    method : {"ltt", "ucb", "crc", "holm", "naive"}
        ltt: Learn then Test (arXiv 2110.01052). All thresholds are tested in a fixed sequence from the safe end, which
        is the full model (for costs, the first exit), until the first failure. ucb: as long as the upper confidence
        bound of betting is at most the level (arXiv 2101.02703); this is "ltt" with `p_value="wsr"`. crc: conformal
        risk control (arXiv 2208.02814), for losses that never rise towards the safe end. holm: given thresholds per
        exit, corrected for their number. naive: the mean loss of the validation samples, without a guarantee.
    p_value : {"binomial", "hoeffding_bentkus", "wsr"}, optional
        Default: binomial (exact) for losses of 0 and 1, and wsr (betting) for others and for "ucb".
    budget : float, optional
        For the risk over_budget.
    bounds : tuple of float, optional
        Lowest and highest possible loss of an array, by default 0 and 1, or of a cost that differs between samples.
    thresholds : array-like of shape (G, L − 1), optional
        For "holm": thresholds per exit that were chosen without these samples.
    threshold : float or ndarray of shape (L − 1,), optional
        For error_among_accepted: threshold δ that was chosen without these samples. The default is +∞, the full model.

    Returns
    -------
    Certificate

    Raises
    ------
    NotFittedError
        If the policy learns from data and was not fitted.
    TooFewSamples
        If there are too few samples to certify anything. The message says how many are needed. It is a ValueError.
    ValueError
        If an argument is out of range or missing, if a loss is out of its bounds or not monotone for "crc", or if the
        record lacks data.

    Warns
    -----
    UserWarning
        If the policy was fitted on some of these samples, or if the split of the record is test.

    Examples
    --------
    >>> import numpy as np
    >>> from offramp import ExitRecord, certify, make_policy
    >>> sure, labels = np.arange(1000) / 1000, np.zeros(1000, int)
    >>> first = (sure < 0.4).astype(int)  # the first exit is right if it is sure enough
    >>> record = ExitRecord.from_outputs(np.stack([first, labels], 1), np.stack([sure, sure], 1), labels, [1, 5])
    >>> result = certify(make_policy("confidence"), record, "error", level=0.05)
    >>> result.threshold, result.estimate, round(result.bound, 3)
    (0.36, 0.04, 0.049)
    """
    for what, value in (("level", level), ("confidence", confidence)):
        if not np.isfinite(value):
            raise ValueError(f"certify: {what} is {value}; expected a number")
    if not 0 < confidence < 1:
        raise ValueError(f"certify: confidence is {confidence:g}; expected a number between 0 and 1")
    if method not in METHODS:
        raise ValueError(f"certify: method is {method!r}; expected one of {', '.join(METHODS)}")
    if p_value not in (None, *P_VALUES):
        raise ValueError(f"certify: p_value is {p_value!r}; expected one of {', '.join(P_VALUES)}")
    if (thresholds is not None) != (method == "holm"):
        raise ValueError(
            "certify: holm needs thresholds, one row per candidate with one threshold per exit except the last"
            if method == "holm"
            else f"certify: thresholds are for the method holm; {method} tests all shared thresholds"
        )
    among_accepted = isinstance(risk, str) and risk == "error_among_accepted"
    if threshold is not None and not among_accepted:
        raise ValueError("certify: threshold is for the risk error_among_accepted; of other risks, it is the result")
    if among_accepted and method == "holm":
        raise ValueError(
            "certify: error_among_accepted certifies a threshold for rejection, and not thresholds per exit; expected "
            "ltt, ucb or naive"
        )
    warn_of_test(validation, "certifying a threshold")
    if policy.fitted_samples and (same := shared_samples(samples_of(validation), policy.fitted_samples)):
        warnings.warn(
            f"{policy.name} was fitted on {same} of these {validation.n_samples} samples, so the guarantee does not "
            "hold; fit on one part of the record and certify on the other (split_record)",
            stacklevel=2,
        )
    loss = loss_of(risk, policy, validation, budget, bounds)
    if not loss.low < level < loss.high:
        raise ValueError(
            f"certify: level is {level:g}; expected a number between {loss.low:g} and {loss.high:g} for {loss.name}"
        )
    p_value = p_value or ("binomial" if loss.binary and method != "ucb" else "wsr")
    if p_value == "binomial" and not loss.binary:
        raise ValueError(f"certify: binomial p-values need losses of 0 and 1; {loss.name} has others (p_value=…)")
    delta = np.inf if threshold is None else threshold
    task = _Task(policy, validation, loss, float(level), float(confidence), P_VALUES[p_value], delta)
    found = METHODS[method](task) if thresholds is None else METHODS[method](task, thresholds)
    about = {"risk": loss.name, "level": float(level), "confidence": float(confidence), "method": method}
    return task.certificate(found, **about)


@dataclass(frozen=True)
class _Candidates:
    """Thresholds (T,) or (T, L − 1) in the order of the tests, their p-values and whether they are certified, (T,).

    `bound` is the upper bound of the risk from losses (n,) on the scale from 0 to 1. `best` is the place of the
    candidate with the lowest level that can be certified, if none is.
    """

    thresholds: np.ndarray
    p_values: np.ndarray | None
    certified: np.ndarray
    bound: Callable[[np.ndarray], float]
    best: int = 0


class _Task:
    """A policy on a record, with a loss and a level. `delta` is the threshold δ if one for rejection is certified."""

    def __init__(self, policy: Policy, record: ExitRecord, loss: Loss, level: float, confidence: float, p_value, delta):
        self.policy, self.record, self.loss = policy, record, loss
        self.risk_level, self.confidence, self.p_value = level, confidence, p_value
        self.level = loss.scaled(level)
        self.n = record.n_samples
        values = loss.scaled(loss.values)  # (N, L)
        self.early = record.n_exits - 1  # samples that have passed fewer exits than this have left early
        if loss.among == "accepted":
            # Rejection is like one more exit: what is accepted leaves before it
            self.delta, self.early, fallback = checked_threshold(delta, record.n_exits), 1, None
            (self.leave_at,), answering = answering_exits(policy, record, [self.delta])  # (N,), (1, N)
            estimate = at_exits(policy.estimate(record), answering).T  # (N, 1)
            self.reached = np.minimum(estimate, np.finfo(np.float64).max)  # (N, 1)
            values = np.repeat(at_exits(values, answering).T, 2, axis=1)  # (N, 2)
        else:
            self.reached, fallback = reached_signal(policy, record)  # (N, K), (N,) or None
        if fallback is not None and loss.upward:  # costs are those of the last exit, whichever exit answers
            fallback = np.full(self.n, record.n_exits - 1)
        self.states = by_passed(values, fallback)  # (N, K + 1): loss of a sample that has passed 0, … K exits
        self.at_safe_end = None if fallback is not None and not loss.among else loss.at_safe_end

    def check_samples(self, hypotheses: int = 1) -> None:
        """Raise TooFewSamples if even the best losses do not certify the level, corrected for many hypotheses."""
        best, confidence = self.loss.scaled(self.loss.best), 1 - (1 - self.confidence) / hypotheses
        if best < self.level:
            needed = needed_samples(self.p_value, best, self.level, confidence)
            if needed > self.n:
                raise TooFewSamples(
                    f"certify: {self.n} samples are too few to certify {self.loss.name} at level {self.risk_level:g} "
                    f"with confidence {self.confidence:g}; at least {needed} are needed"
                )

    def upper(self, hypotheses: int = 1) -> Callable[[np.ndarray], float]:
        """Return the function that computes the upper bound of a mean."""
        confidence = 1 - (1 - self.confidence) / hypotheses
        return lambda losses: upper_bound(self.p_value, losses, confidence)

    def p_of(self, losses: np.ndarray) -> float:
        """Return the p-value for losses (n,)."""
        if not len(losses):
            return 1.0
        return float(self.p_value(losses[:, None], lambda x: x.sum(axis=0), len(losses), self.level)[0])

    @cached_property
    def signal(self) -> np.ndarray:
        """The signal (N, L), which thresholds per exit need."""
        return self.policy.signal(self.record)

    def exits_at(self, threshold) -> np.ndarray:
        """Return how many exits each sample has passed (N,) at a threshold."""
        if np.ndim(threshold):
            return first_exit(self.signal, threshold)
        return (self.reached < threshold).sum(axis=1)

    def losses_at(self, threshold) -> np.ndarray:
        """Return the losses (n,) at a threshold, on the scale from 0 to 1, of the samples that they are about."""
        passed = self.exits_at(threshold)
        losses = self.states[np.arange(self.n), passed]  # (N,)
        return losses[passed < self.early] if self.loss.among else losses

    def certificate(self, found: _Candidates, **about: Any) -> Certificate:
        """Return the result for the last certified threshold, or with the reason why there is none."""
        valid, loss = found.thresholds[found.certified], self.loss
        threshold, reason = None, None
        if len(valid):
            threshold = valid[-1] if valid.ndim == 1 else self._cheapest(valid)
        elif self.at_safe_end is not None and self.at_safe_end <= self.risk_level:
            end = -np.inf if loss.upward else np.inf
            threshold = end if found.thresholds.ndim == 1 else np.full(found.thresholds.shape[1], end)
            valid = np.array([threshold])
            reason = (
                f"only {'the first exit' if loss.upward else 'the full model'} is certified, by definition: its "
                f"{loss.name} is {self.at_safe_end:g}"
            )
        scale = loss.high - loss.low
        place = found.thresholds[found.best] if threshold is None else threshold
        losses = self.losses_at(place)  # (n,)
        estimate = loss.low + scale * float(losses.mean()) if len(losses) else 0.0
        bound = loss.low + scale * found.bound(losses) if len(losses) else 0.0
        if threshold is None:
            lowest = bound if self.at_safe_end is None else self.at_safe_end
            near = "about " if loss.among else ""  # the numbers of samples that are tried depend on the level
            reason = (
                f"no threshold is certified: {loss.name} is {estimate:.4g} {self._called(place)} on {self.n} samples, "
                f"and the lowest level that can be certified is {near}{_rounded_up(lowest)}"
            )
        elif not np.ndim(threshold):
            threshold = float(threshold)
        cost = coverage = reject_below = None
        if threshold is not None and loss.among == "accepted":
            threshold, reject_below = self.delta if self.delta.ndim else float(self.delta), float(threshold)
            cost, coverage = float(self.record.cost_of(self.leave_at).mean()), len(losses) / self.n
        elif threshold is not None:
            exits = np.minimum(self.exits_at(threshold), self.record.n_exits - 1)
            cost = float(self.record.cost_of(exits).mean())
        return Certificate(
            threshold=threshold,
            reject_below=reject_below,
            valid=valid,
            thresholds=found.thresholds,
            p_values=found.p_values,
            bound=None if threshold is None else bound,
            estimate=None if threshold is None else estimate,
            cost=cost,
            coverage=coverage,
            reason=reason,
            n_samples=self.n,
            **about,
        )

    def _cheapest(self, rows: np.ndarray) -> np.ndarray:
        """Return the row of thresholds per exit with the lowest cost, or the highest one if the cost is certified."""
        costs = np.array([self.record.cost_of(self.exits_at(row)).mean() for row in rows])  # (V,)
        return rows[costs.argmax() if self.loss.upward else costs.argmin()]

    def _called(self, threshold) -> str:
        if self.loss.among == "accepted":
            return f"if answers below {threshold:g} are rejected"
        if np.ndim(threshold):
            return f"at {', '.join(f'{value:g}' for value in threshold)}"
        return {np.inf: "for the full model", -np.inf: "for the first exit"}.get(threshold, f"at {threshold:g}")


class Walk:
    """All shared thresholds that differ on the samples, from the safe end on.

    Between two neighbouring values of the signal, the losses of all samples are constant. A walk over these values is
    therefore a walk over all real numbers, which is a sequence that is fixed in advance, although the values are found
    in the data.

    Parameters
    ----------
    reached : ndarray of shape (N, K)
        See `offramp.evaluation.curves.reached_signal`.
    upward : bool
        Whether the safe end is the first exit.
    """

    def __init__(self, reached: np.ndarray, upward: bool = False):
        flat = reached.ravel()  # (N K,)
        order = np.argsort(flat)[::-1]  # in descending order
        values = flat[order]
        changes = np.append(values[1:] != values[:-1], True)[: len(values)]  # last of equal values
        lowest = [] if changes.any() and values[-1] == -np.inf else [-np.inf]
        self._order, self._ends, self._upward = order, np.flatnonzero(changes), upward
        thresholds = np.concatenate([[np.inf], values[self._ends], lowest])  # (T,)
        self.thresholds = thresholds[::-1] if self._upward else thresholds

    def total(self, states: np.ndarray) -> np.ndarray:
        """Return the sums over samples of values (N, K + 1) at each threshold, (T,)."""
        falls = -np.diff(states, axis=1).ravel()[self._order]  # (N K,): change if a sample leaves before this exit
        sums = states[:, -1].sum() + np.append(0, falls.cumsum()[self._ends])
        if len(sums) < len(self.thresholds):  # −∞ gives the same as the lowest value
            sums = np.append(sums, sums[-1])
        return sums[::-1] if self._upward else sums


def until_first(failure: np.ndarray) -> np.ndarray:
    """Return whether tests (T,) come before the first failure."""
    return ~np.logical_or.accumulate(failure)


def _sequence(task: _Task) -> _Candidates:
    """Test thresholds from the safe end on, until the first failure."""
    if task.loss.among:
        return _among(task)
    task.check_samples()
    walk = Walk(task.reached, task.loss.upward)
    p_values = task.p_value(task.states, walk.total, task.n, task.level)  # (T,)
    return _Candidates(walk.thresholds, p_values, until_first(p_values > 1 - task.confidence), task.upper())


def _among(task: _Task) -> _Candidates:
    """Test fixed thresholds, and those at which given numbers of samples leave or are accepted, corrected for all.

    Near the full model, hardly any sample leaves, so a sequence from there would fail at once. And a sequence that
    starts where enough samples leave would start at a place found in the data. Given the (m + 1)-th highest signal,
    however, the samples above it are independent draws of those that exceed it. So each test is valid by itself. For
    accepted answers, this is SGR (Geifman and El-Yaniv 2017), except that the numbers are fixed and not searched.

    The numbers find nothing where many samples share the highest signal, as with PCEE, or where all leave early. The
    fixed thresholds do, for signals that are probabilities.
    """
    task.check_samples(TESTS)
    thresholds = _thresholds_among(task)  # (H,)
    each = [task.losses_at(threshold) for threshold in thresholds]
    p_values = np.array([min(1.0, TESTS * task.p_of(losses)) for losses in each])  # (H,)
    certified, bound = p_values <= 1 - task.confidence, task.upper(TESTS)
    best = 0 if certified.any() else int(np.argmin([bound(losses) if len(losses) else np.inf for losses in each]))
    return _Candidates(thresholds, p_values, certified, bound, best)


def _thresholds_among(task: _Task) -> np.ndarray:
    """Return `FIXED`, and thresholds above which from the fewest to all samples leave, in descending order, (H,)."""
    least = needed_samples(task.p_value, 0.0, task.level, 1 - (1 - task.confidence) / TESTS)
    numbers = np.geomspace(min(least, task.n), task.n, SHARES).round().astype(int)  # (SHARES,)
    surest = task.reached[:, : task.early].max(axis=1, initial=-np.inf)  # (N,)
    ranked = np.append(np.sort(surest)[::-1], -np.inf)[numbers]  # (SHARES,)
    above = np.where(ranked > -np.inf, np.nextafter(ranked, np.inf), -np.inf)  # samples above the value leave
    return np.sort(np.append(above, FIXED))[::-1]


def _holm(task: _Task, rows) -> _Candidates:
    """Test rows of thresholds per exit in any order, with the correction of Bonferroni and Holm."""
    try:
        rows = np.atleast_2d(np.asarray(rows, np.float64))  # (G, L − 1)
    except ValueError:  # rows of different lengths, or no numbers
        rows = np.empty((0, 0))
    if rows.ndim != 2 or rows.shape[1] != task.record.n_exits - 1 or not rows.size or np.isnan(rows).any():
        raise ValueError(
            f"certify: thresholds: expected rows of {task.record.n_exits - 1} numbers, one per exit except the last, "
            f"none NaN; got shape {rows.shape}"
        )
    task.check_samples(len(rows))
    each = [task.losses_at(row) for row in rows]
    raw = np.array([task.p_of(losses) for losses in each])  # (G,)
    order = np.argsort(raw)
    adjusted = np.empty_like(raw)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(raw[order] * np.arange(len(raw), 0, -1)))
    return _Candidates(rows, adjusted, adjusted <= 1 - task.confidence, task.upper(len(rows)), int(raw.argmin()))


def _crc(task: _Task) -> _Candidates:
    """Bound the expected loss of one more sample, for losses that never rise towards the safe end."""
    steps = np.diff(task.states, axis=1) * (-1 if task.loss.upward else 1)  # (N, K): change towards the safe end
    if task.loss.among or (steps > 0).any():
        where = "" if task.loss.among else f"; it rises in sample {np.argwhere(steps > 0)[0, 0]}"
        raise ValueError(
            f"certify: crc needs a loss that never rises towards the safe end, which {task.loss.name} does not "
            f"promise{where}; use ltt or ucb, or give as risk the largest loss of an exit and all later ones"
        )
    needed = int(np.ceil((1 - task.level) / task.level - 1e-9))
    if needed > task.n:
        raise TooFewSamples(
            f"certify: {task.n} samples are too few to certify {task.loss.name} at level {task.risk_level:g} with crc; "
            f"at least {needed} are needed"
        )
    walk = Walk(task.reached, task.loss.upward)
    failure = (walk.total(task.states) + 1) / (task.n + 1) > task.level  # (T,)
    return _Candidates(walk.thresholds, None, until_first(failure), lambda x: float(x.sum() + 1) / (len(x) + 1))


def _naive(task: _Task) -> _Candidates:
    """Take the mean loss of the samples for the risk. The p-values are those of each threshold alone."""
    if task.loss.among:
        thresholds, of_none = _thresholds_among(task), 0.0 if task.loss.among == "exited" else 1.0
        each = [task.losses_at(threshold) for threshold in thresholds]
        means = np.array([losses.mean() if len(losses) else of_none for losses in each])  # (H,)
        p_values = np.array([task.p_of(losses) for losses in each])  # (H,)
        return _Candidates(thresholds, p_values, means <= task.level, np.mean, int(means.argmin()))
    walk = Walk(task.reached, task.loss.upward)
    means = walk.total(task.states) / task.n  # (T,)
    p_values = task.p_value(task.states, walk.total, task.n, task.level)
    return _Candidates(walk.thresholds, p_values, means <= task.level, np.mean, int(means.argmin()))


METHODS: dict[str, Callable[..., _Candidates]] = {
    "ltt": _sequence,
    "ucb": _sequence,
    "crc": _crc,
    "holm": _holm,
    "naive": _naive,
}


def _rounded_up(value: float, digits: int = 4) -> str:
    """Write a number with some digits, rounded up, so that the written level can be certified."""
    size = 10.0 ** (digits - 1 - np.floor(np.log10(abs(value)))) if value else 1.0
    return f"{np.ceil(value * size) / size:.{digits}g}"
