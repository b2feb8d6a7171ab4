"""Which exits a record should have: the subset that costs least at a level of the risk, with the cost of its heads."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np

from offramp._kernels.exits import cheapest_thresholds
from offramp.certification.losses import loss_of
from offramp.policies import Policy, make_policy
from offramp.records import ExitRecord

EXACT = 1000  # subsets that are tried one by one; beyond, exits are added greedily
# Policies whose signal at an exit does not depend on other exits
FAMILIES = {
    "confidence": ("confidence", {}),
    "margin": ("confidence", {"score": "margin"}),
    "temperature": ("confidence", {"temperature": "per_exit"}),
    "isotonic": ("isotonic", {}),
}


def fit_families(record: ExitRecord, labels: Iterable[str] = FAMILIES) -> dict[str, Policy]:
    """Fit the policies of `FAMILIES` on a record with labels."""
    return {label: make_policy(FAMILIES[label][0], **FAMILIES[label][1]).fit(record) for label in labels}


@dataclass(frozen=True)
class Choice:
    """A subset of exits with a policy, chosen on a record.

    Attributes
    ----------
    exits : tuple of int
        Exits of the record, counted from 0, with the last one.
    policy : str
        Label of the policy.
    threshold : float
    cost : float
        Average cost on the record.
    risk : float
        On the record.
    """

    exits: tuple[int, ...]
    policy: str
    threshold: float
    cost: float
    risk: float


@dataclass(frozen=True)
class Choices:
    """The best subset of each size.

    Attributes
    ----------
    best : tuple of Choice
        For each number of exits that were chosen, ascending from 1 (from 0 if some are kept).
    exact : bool
        Whether every subset was tried.
    bound : float
        Lower bound of the average cost of any subset, policy and thresholds on the record at this risk: every sample
        leaves at the first exit at which it loses nothing, the most expensive of those that may lose leave at the first
        exit, and heads are free.
    """

    best: tuple[Choice, ...]
    exact: bool
    bound: float


def choose_exits(
    record: ExitRecord,
    policies: Mapping[str, Policy],
    risk: str,
    level: float,
    most: int,
    kept: Sequence[int] = (),
) -> Choices:
    """Find the subsets of at most `most` exits before the last one that cost least at a risk of at most `level`.

    All subsets are tried, with every policy and every shared threshold, if there are at most `EXACT`. Otherwise, exits
    are added one by one, each time the one that saves most.

    Parameters
    ----------
    record : ExitRecord
        With an exit at every block. Its `head_cost` is what each exit adds to the costs of later ones.
    policies : mapping of str to Policy
        Fitted policies whose signal at an exit does not depend on other exits.
    risk : {"disagreement", "gap", "error"}
    level : float
    most : int
    kept : sequence of int
        Exits that every subset has, for example the ends of the models of a cascade. They do not count.
    """
    last = record.n_exits - 1
    free = [i for i in range(last) if i not in kept]
    sizes = range(0 if kept else 1, min(most, len(free)) + 1)
    exact = sum(comb(len(free), size) for size in sizes) <= EXACT
    signals = {label: policy.signal(record) for label, policy in policies.items()}  # (N, L) each
    losses = loss_of(risk, next(iter(policies.values())), record, None, None).values.astype(np.float64)  # (N, L)
    costs = np.broadcast_to(record.costs, losses.shape).astype(np.float64)  # (N, L)
    descending = {label: _descending(signal[:, :-1]) for label, signal in signals.items()}
    best: list[Choice] = []
    for size in sizes:
        if exact or not size:
            tried = [tuple(sorted((*kept, *added, last))) for added in combinations(free, size)]
        else:
            before = best[-1].exits[:-1] if best else ()
            tried = [tuple(sorted((*before, i, last))) for i in free if i not in before]
        subsets = np.zeros((len(tried), last + 1), bool)
        for subset, exits in zip(subsets, tried):
            subset[list(exits)] = True
        dropped = np.where(subsets, 0.0, record.head_cost).cumsum(axis=1)  # (S, L)
        found = []
        for label, (values, order) in descending.items():
            points = cheapest_thresholds(values, order, subsets, losses, costs, dropped, level)  # (S, 3)
            cheapest = points[:, 1].argmin()
            found.append(Choice(tried[cheapest], label, *map(float, points[cheapest])))
        best.append(min(found, key=lambda choice: choice.cost))
    return Choices(tuple(best), exact, lower_bound(record, risk, level))


def _descending(signal: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return signals (N, K) in descending order, (N · K,), and their places."""
    order = np.argsort(signal, axis=None)[::-1]
    return signal.ravel()[order].astype(np.float64), order


def lower_bound(record: ExitRecord, risk: str, level: float) -> float:
    """Return the lower bound of the average cost (see `Choices`), for losses of 0 and 1 or differences of errors."""
    answers = record.needed_prediction("the bound")
    if risk == "disagreement":
        losses = (answers != answers[:, -1:]).astype(np.int64)  # (N, L)
    else:
        wrong = ~record.correct.astype(bool)
        losses = wrong.astype(np.int64) - wrong[:, -1:]
    costs = np.broadcast_to(record.costs - record.head_cost.cumsum(), losses.shape)  # (N, L)
    if risk == "error":
        level = level - float(wrong[:, -1].mean())
    gained = losses.min(axis=1)  # (N,): −1 if an early exit is right where the last one is wrong
    first = (losses <= 0).argmax(axis=1)  # (N,)
    own = costs[np.arange(len(costs)), first]
    allowed = max(0, int(np.floor(level * len(losses) + 1e-9)) - int(gained[gained < 0].sum()))
    saved = np.sort(own - costs[:, 0])[::-1]
    return float((own.sum() - saved[:allowed].sum()) / len(own))
