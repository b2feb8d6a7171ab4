"""Losses whose mean is certified: what the answer of each exit costs each sample."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from offramp.policies import Policy
from offramp.records import ExitRecord


@dataclass(frozen=True, kw_only=True)
class Loss:
    """The loss of each sample if it leaves at each exit.

    Attributes
    ----------
    name : str
    values : ndarray of shape (N, L)
    low, high : float
        Bounds of the loss.
    best : float
        Lowest loss that can be expected of all samples, from which the number of samples that are needed follows.
    upward : bool
        Whether the safe end is the first exit (δ = −∞), as for costs, and not the full model (δ = +∞).
    among : {"exited", "accepted"}, optional
        The mean is over the samples that leave before the last exit, or over those whose answers are accepted. By
        default, it is over all samples.
    at_safe_end : float or None
        The risk at the safe end, if it is known without samples.
    """

    name: str
    values: np.ndarray
    low: float = 0.0
    high: float = 1.0
    best: float = 0.0
    upward: bool = False
    among: Literal["exited", "accepted"] | None = None
    at_safe_end: float | None = None

    @property
    def binary(self) -> bool:
        """Whether all losses are 0 or 1."""
        return (self.low, self.high) == (0, 1) and bool(np.isin(self.values, (0, 1)).all())

    def scaled(self, value):
        """Return losses or levels on the scale from 0 to 1."""
        return value if (self.low, self.high) == (0, 1) else (value - self.low) / (self.high - self.low)


def _errors(policy: Policy, record: ExitRecord) -> np.ndarray:
    """Error of each answer (N, L), int8 or float64: 1 minus its quality."""
    record.needed_correct("certifying an error")
    return 1 - policy.correct(record) * np.int8(1)


def _error(policy: Policy, record: ExitRecord, budget) -> Loss:
    return Loss(name="error", values=_errors(policy, record))


def _gap(policy: Policy, record: ExitRecord, budget) -> Loss:
    errors = _errors(policy, record)
    return Loss(name="gap", values=errors - errors[:, -1:], low=-1.0, at_safe_end=0.0)


def _disagreement(policy: Policy, record: ExitRecord, budget) -> Loss:
    answers = policy.prediction(record)
    return Loss(name="disagreement", values=(answers != answers[:, -1:]).astype(np.int8), at_safe_end=0.0)


def _error_among_exited(policy: Policy, record: ExitRecord, budget) -> Loss:
    # if nobody leaves, nobody errs
    return Loss(name="error_among_exited", values=_errors(policy, record), among="exited", at_safe_end=0.0)


def _error_among_accepted(policy: Policy, record: ExitRecord, budget) -> Loss:
    return Loss(name="error_among_accepted", values=_errors(policy, record), among="accepted")


def _cost(policy: Policy, record: ExitRecord, budget) -> Loss:
    first, last = record.cost[0], record.cost[-1]
    each = np.broadcast_to(record.cost, (record.n_samples, record.n_exits))
    low = first if first < last else 0.0
    return Loss(name="cost", values=each, low=low, high=last, best=first, upward=True, at_safe_end=first)


def _over_budget(policy: Policy, record: ExitRecord, budget) -> Loss:
    if budget is None:
        raise ValueError("certify: over_budget is the probability of a cost above a budget; give budget=…")
    if np.isnan(budget):
        raise ValueError("certify: budget is nan; expected a number")
    costs = record.costs
    over = np.broadcast_to(costs > budget, (record.n_samples, record.n_exits))
    known = float(over[0, 0]) if record.sample_cost is None else None
    return Loss(name="over_budget", values=over.astype(np.int8), upward=True, at_safe_end=known)


RISKS: dict[str, Callable[[Policy, ExitRecord, float | None], Loss]] = {
    "error": _error,
    "gap": _gap,
    "disagreement": _disagreement,
    "error_among_exited": _error_among_exited,
    "error_among_accepted": _error_among_accepted,
    "cost": _cost,
    "over_budget": _over_budget,
}


def loss_of(risk, policy: Policy, record: ExitRecord, budget: float | None, bounds) -> Loss:
    """Return the loss of a registered risk, or of an array (N, L). Raises ValueError if it is unknown or not valid."""
    if isinstance(risk, str):
        if risk not in RISKS:
            raise ValueError(f"certify: risk is {risk!r}; expected one of {', '.join(RISKS)}, or an array of losses")
        if budget is not None and risk != "over_budget":
            raise ValueError(f"certify: budget is for the risk over_budget, not for {risk}")
        loss = RISKS[risk](policy, record, budget)
        if risk != "cost" or record.sample_cost is None:
            if bounds is not None:
                raise ValueError(f"certify: {risk} is from {loss.low:g} to {loss.high:g}; expected no bounds")
            return loss
        if bounds is None:
            raise ValueError(
                "certify: the costs differ between samples, so the highest possible cost is not known; give "
                "bounds=(lowest, highest), or certify over_budget"
            )
        return _checked("cost", record.sample_cost, record, bounds, upward=True)
    values = np.asarray(risk)
    if values.dtype.kind not in "biuf":
        raise ValueError(f"certify: risk: expected a name or an array of losses, got {values.dtype}")
    return _checked("loss", values, record, (0.0, 1.0) if bounds is None else bounds)


def _checked(name: str, values: np.ndarray, record: ExitRecord, bounds, *, upward: bool = False) -> Loss:
    """Return a loss of given values and bounds."""
    if np.shape(bounds) != (2,):
        raise ValueError(f"certify: bounds are {bounds!r}; expected two numbers, the lower one first")
    low, high = map(float, bounds)
    if not -np.inf < low < high < np.inf:
        raise ValueError(f"certify: bounds are {low:g} and {high:g}; expected two numbers, the lower one first")
    if values.shape != (record.n_samples, record.n_exits):
        raise ValueError(
            f"certify: {name}: expected shape ({record.n_samples}, {record.n_exits}), samples × exits; "
            f"got {values.shape}"
        )
    values = values.astype(np.int8) if values.dtype == bool else values
    if len(wrong := np.argwhere(~((values >= low) & (values <= high)))):  # also NaN
        n, i = wrong[0]
        raise ValueError(
            f"certify: {name}[{n}, {i}] is {values[n, i]:g}; expected a number from {low:g} to {high:g} (bounds=…)"
        )
    return Loss(name=name, values=values, low=low, high=high, best=low, upward=upward)
