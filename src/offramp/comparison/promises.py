"""Promises of accuracy: how often thresholds break them, and at what cost they are kept."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
import pandas as pd

from offramp.certification.certifying import Walk, until_first
from offramp.certification.pvalues import P_VALUES
from offramp.comparison.runs import Run, by_system
from offramp.evaluation.curves import by_passed, reached_signal
from offramp.policies import Policy
from offramp.records import ExitRecord
from offramp.records.joining import concatenated

CHOICES = ("direct", "validation", "certified")
DRAWS = 10  # sets of samples on which thresholds are chosen, in each split


def promises(
    runs: Sequence[Run], targets: Sequence[float], *, splits: int = 40, confidence: float = 0.9, seed: int = 0
) -> pd.DataFrame:
    """Count how often thresholds break the promise that the accuracy is at least a target, and what they cost.

    The column `choice` states how the threshold is set. "direct": it is the target, because the signal of the policy is
    an estimated accuracy. "validation": it is the cheapest one that reaches the target on the samples for choosing.
    "certified": it is the cheapest one of which these samples prove that the error is at most 1 − target (`certify`
    with "ltt"). The other two are judged as if they promised the same confidence.

    Whether a promise is broken can only be told where the truth is known. So the validation and test samples of a run
    are put together and divided at random: into as many as the run has for validation, on some of which the policy is
    fitted, and the rest, which is the population. The truth is the accuracy of a threshold on the whole population. The
    samples for choosing are drawn from the population, independently and with replacement, ten times per split. A
    certificate assumes just this, so it is broken in at most 1 − `confidence` of the draws, up to the chance of
    counting, however few samples there are.

    With "direct", there is one outcome per split. The policy is fitted on as many samples as in the run, of which the
    population is not a part. So even an estimate that is right on average falls short about every second time, by
    little (`shortfall`). With the other choices, the policy is fitted on as many samples as in the run if it holds out
    some, and on half of the validation samples otherwise. As many samples choose as are left.

    Included are policies whose signal is an estimated accuracy, except ensembles of exits, which are slow to fit.

    Parameters
    ----------
    runs : sequence of Run
    targets : sequence of float
        Target accuracies.
    splits : int
        Random splits of each system, over its seeds. With 36 or more, a threshold can be told to keep its promise even
        if there is only one try per split.
    confidence : float
        Probability with which the promise is to be kept.
    seed : int
        Seed of the random splits, which differ between runs.

    Returns
    -------
    DataFrame
        One row per system, policy, choice and target. tries: number of thresholds that were set, over splits and seeds;
        promised: share of them that are a promise (the others have no threshold that reaches the target on the samples
        for choosing, or that is certified; the full model is used); broken: share of the tries with a promise that was
        not kept, with _low and _high (95 % interval of Clopper and Pearson, of the chance of counting; it does not say
        what other models or data would give); shortfall (target minus accuracy, mean over the broken promises);
        accuracy, cost (as a share of the cost of the full model) and oracle_cost (that of the cheapest threshold with
        which the same policy truly reaches the target, or of the full model), means over the tries; confidence.
    """
    rows = []
    for system, group in by_system(runs).items():
        if not (labels := [label for label, policy in group[0].policies.items() if _included(policy)]):
            continue
        tries: dict[tuple[str, str], list[_Tries]] = {(label, choice): [] for label in labels for choice in CHOICES}
        for run in group:
            for key, its in _tries_of(run, labels, targets, -(-splits // len(group)), confidence, seed):
                tries[key].append(its)
        for (label, choice), each in tries.items():
            promised, accuracy, cost, oracle_cost = (np.concatenate(values) for values in zip(*each))  # (M, G) each
            for target, *columns in zip(targets, promised.T, accuracy.T, cost.T, oracle_cost.T):
                about = {"system": system, "policy": label, "choice": choice, "target": target}
                rows.append(about | _summary(target, *columns) | {"confidence": confidence})
    return pd.DataFrame(rows, columns=None if rows else _COLUMNS)


_COLUMNS = ["system", "policy", "choice", "target", "tries", "promised", "broken", "broken_low", "broken_high"]
_COLUMNS += ["shortfall", "accuracy", "cost", "oracle_cost", "confidence"]


def _included(policy: Policy) -> bool:
    return policy.claims_accuracy and not policy.answers_together


def _summary(
    target: float, promised: np.ndarray, accuracy: np.ndarray, cost: np.ndarray, oracle_cost: np.ndarray
) -> dict[str, float]:
    """Return the columns of tries (M,)."""
    short = (target - accuracy)[promised & (accuracy < target)]
    low, high = clopper_pearson(len(short), len(promised))
    return {
        "tries": len(promised),
        "promised": float(promised.mean()),
        "broken": len(short) / len(promised),
        "broken_low": low,
        "broken_high": high,
        "shortfall": float(short.mean()) if len(short) else np.nan,
        "accuracy": float(accuracy.mean()),
        "cost": float(cost.mean()),
        "oracle_cost": float(oracle_cost.mean()),
    }


def clopper_pearson(count: int, n: int) -> tuple[float, float]:
    """Return the 95 % interval of Clopper and Pearson for the probability of an event that occurred in `count` of n."""
    from scipy.special import betaincinv

    low = float(betaincinv(count, n - count + 1, 0.025)) if count else 0.0
    return low, float(betaincinv(count + 1, n - count, 0.975)) if count < n else 1.0


_Tries = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # promised, accuracy, cost, oracle_cost, (M, G) each


class _Signals:
    """What a fitted policy does with all samples of a pool."""

    def __init__(self, policy: Policy, pool: ExitRecord):
        self.reached, fallback = reached_signal(policy, pool)  # (N, K)
        self.correct = by_passed(policy.correct(pool) * np.int8(1), fallback)  # (N, K + 1): int8 or float64
        costs = np.broadcast_to(pool.costs, (pool.n_samples, pool.n_exits))  # (N, L)
        self.costs = np.hstack([costs, costs[:, -1:]])[:, : self.correct.shape[1]]  # (N, K + 1)
        self.p_value = P_VALUES["binomial" if np.isin(self.correct, (0, 1)).all() else "wsr"]

    def on(self, rows: np.ndarray) -> "_Points":
        return _Points(self.reached[rows], self.correct[rows], self.costs[rows], self.p_value)


class _Points:
    """The operating points of all thresholds on n samples."""

    def __init__(self, reached: np.ndarray, correct: np.ndarray, costs: np.ndarray, p_value: Callable):
        self._walk, self._errors, self._costs, self._p_value = Walk(reached), 1 - correct, costs, p_value
        self.thresholds = self._walk.thresholds  # (T,), descending from +∞
        self.accuracy = self._walk.total(correct) / len(correct)  # (T,)

    def cheapest(self, targets: Sequence[float]) -> np.ndarray:
        """Return the cheapest threshold that reaches each target, as `threshold_on`, (G,). NaN if there is none."""
        finite = self.thresholds > -np.inf  # −∞ does the same as the lowest signal, but not for other samples
        return np.array([self._last(finite & (self.accuracy >= target)) for target in targets])

    def certified(self, targets: Sequence[float], confidence: float) -> np.ndarray:
        """Return the cheapest certified threshold for each target, as `certify`, (G,). NaN if there is none."""
        n = len(self._errors)
        each = [self._p_value(self._errors, self._walk.total, n, 1 - target) for target in targets]  # (T,) each
        return np.array([self._last(until_first(p_values > 1 - confidence)) for p_values in each])

    def _last(self, which: np.ndarray) -> float:
        return self.thresholds[which][-1] if which.any() else np.nan

    @cached_property
    def cost(self) -> np.ndarray:
        """Mean costs as shares of that of the full model, (T,)."""
        return self._walk.total(self._costs) / self._costs[:, -1].sum()

    def at(self, thresholds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return accuracies and costs at thresholds of any shape. NaN is the full model."""
        places = np.searchsorted(-self.thresholds, -np.where(np.isnan(thresholds), np.inf, thresholds), "right") - 1
        return self.accuracy[places], self.cost[places]


def _tries_of(
    run: Run, labels: Sequence[str], targets: Sequence[float], splits: int, confidence: float, seed: int
) -> Iterator[tuple[tuple[str, str], _Tries]]:
    """Yield what became of each policy and choice in each split."""
    n_validation, n_test = run.validation.n_samples, run.test.n_samples
    numbers = np.split(np.arange(n_validation + n_test), [n_validation])  # the index of one pool may be in the other
    pool = concatenated([its.replace(index=number) for its, number in zip((run.validation, run.test), numbers)])
    n_fitting, n_choosing = run.certified_holdout.sizes(n_validation)
    n_direct, _ = run.holdout.sizes(n_validation)
    unlearnt = {label: _Signals(run.policies[label], pool) for label in labels if not run.policies[label].learns}
    for split in range(splits):
        random = np.random.default_rng([seed, run.seed, split, *run.system.encode()])
        order = random.permutation(pool.n_samples)  # (N,)
        population = order[n_validation:]
        draws = random.choice(population, (DRAWS, n_choosing))
        parts = {n: pool.take(order[:n]) for n in {n_fitting, n_direct}}
        for label in labels:

            def fitted(n: int, label: str = label, parts: dict[int, ExitRecord] = parts) -> _Signals:
                return unlearnt.get(label) or _Signals(replace(run.policies[label]).fit(parts[n]), pool)

            own = fitted(n_fitting)
            truth, chances = own.on(population), [own.on(rows) for rows in draws]
            thresholds = {
                "direct": np.array([targets]),  # (1, G)
                "validation": np.array([points.cheapest(targets) for points in chances]),  # (D, G)
                "certified": np.array([points.certified(targets, confidence) for points in chances]),  # (D, G)
            }
            _, best = truth.at(truth.cheapest(targets))  # (G,)
            of_all = truth if n_direct == n_fitting else fitted(n_direct).on(population)
            for choice, its in thresholds.items():
                outcome = (of_all if choice == "direct" else truth).at(its)
                yield (label, choice), (~np.isnan(its), *outcome, np.broadcast_to(best, its.shape))
