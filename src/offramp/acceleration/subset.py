"""Which exits a model should have: the subset that costs least at a level of the risk, with the cost of its heads."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np

from offramp.certification.certifying import Walk, until_first
from offramp.certification.losses import loss_of
from offramp.policies import Policy
from offramp.records import ExitRecord

EXACT = 3000  # subsets that are tried one by one; beyond, exits are added greedily


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
        For 1, 2, … exits before the last one. In ascending number of exits.
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


def choose_exits(record: ExitRecord, policies: Mapping[str, Policy], risk: str, level: float, most: int) -> Choices:
    """Find the subsets of at most `most` exits before the last one that cost least at a risk of at most `level`.

    All subsets are tried, with every policy and every shared threshold, if there are at most `EXACT`. Otherwise, exits
    are added one by one, each time the one that saves most.

    Parameters
    ----------
    record : ExitRecord
        With an exit at every block. `metadata["head_cost"]` is what each exit adds to the costs of later ones.
    policies : mapping of str to Policy
        Fitted policies whose signal at an exit does not depend on other exits.
    risk : {"disagreement", "gap", "error"}
    level : float
    most : int
    """
    last = record.n_exits - 1
    most = min(most, last)
    exact = sum(comb(last, size) for size in range(1, most + 1)) <= EXACT
    signals = {label: policy.signal(record) for label, policy in policies.items()}  # (N, L) each
    losses = loss_of(risk, next(iter(policies.values())), record, None, None).values.astype(np.float64)  # (N, L)
    costs = np.broadcast_to(record.costs, losses.shape)  # (N, L)
    heads = np.array(record.metadata.get("head_cost", np.zeros(record.n_exits)), np.float64)  # (L,)
    best: list[Choice] = []
    for size in range(1, most + 1):
        if exact:
            tried = list(combinations(range(last), size))
        else:
            kept = best[-1].exits[:-1] if best else ()
            tried = [tuple(sorted((*kept, i))) for i in range(last) if i not in kept]
        found = []
        for exits in tried:
            places = [*exits, last]
            dropped = heads.copy()
            dropped[places] = 0
            own = losses[:, places], (costs - dropped.cumsum())[:, places]  # (N, size + 1) each
            for label, signal in signals.items():
                found.append(Choice((*exits, last), label, *_cheapest(signal[:, exits], *own, level)))
        best.append(min(found, key=lambda choice: choice.cost))
    return Choices(tuple(best), exact, lower_bound(record, risk, level))


def _cheapest(signal: np.ndarray, losses: np.ndarray, costs: np.ndarray, level: float) -> tuple[float, float, float]:
    """Return the shared threshold with the lowest average cost until the risk exceeds the level, its cost and risk.

    Thresholds are walked from the full model on, as by `certify`.

    Parameters
    ----------
    signal : ndarray of shape (N, K)
        Of the exits before the last one.
    losses, costs : ndarray of shape (N, K + 1)
    level : float
    """
    walk = Walk(np.maximum.accumulate(signal, axis=1))
    risk, cost = (walk.total(each) / len(each) for each in (losses, costs))  # (T,) each
    safe = np.flatnonzero(until_first(risk > max(level, risk[0]) + 1e-12))
    place = safe[cost[safe].argmin()]
    return float(walk.thresholds[place]), float(cost[place]), float(risk[place])


def lower_bound(record: ExitRecord, risk: str, level: float) -> float:
    """Return the lower bound of the average cost (see `Choices`), for losses of 0 and 1 or differences of errors."""
    answers = record.needed_prediction("the bound")
    if risk == "disagreement":
        losses = (answers != answers[:, -1:]).astype(np.int64)  # (N, L)
    else:
        wrong = ~record.correct.astype(bool)
        losses = wrong.astype(np.int64) - wrong[:, -1:]
    heads = np.cumsum(np.asarray(record.metadata.get("head_cost", np.zeros(record.n_exits))))  # (L,)
    costs = np.broadcast_to(record.costs - heads, losses.shape)  # (N, L)
    if risk == "error":
        level = level - float(wrong[:, -1].mean())
    gained = losses.min(axis=1)  # (N,): −1 if an early exit is right where the last one is wrong
    first = (losses <= 0).argmax(axis=1)  # (N,)
    own = costs[np.arange(len(costs)), first]
    allowed = max(0, int(np.floor(level * len(losses) + 1e-9)) - int(gained[gained < 0].sum()))
    saved = np.sort(own - costs[:, 0])[::-1]
    return float((own.sum() - saved[:allowed].sum()) / len(own))
