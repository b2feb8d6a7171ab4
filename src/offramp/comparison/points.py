"""The operating points that the page of a report shows: every policy at a few thresholds, in detail and with intervals.

Thresholds are points of the frontier on the samples that choose, so results on test data are not too optimistic, and
the cheapest point that reaches an accuracy on these samples can be found among them.
"""

import heapq
import math
import shlex
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import pandas as pd

from offramp.comparison.bootstrap import Bootstrap
from offramp.comparison.runs import Run, with_unit
from offramp.evaluation import accuracy_without_loss, frontier, threshold_on
from offramp.evaluation.rejection import Ranking
from offramp.policies import Policy
from offramp.policies.base import answering_exits, at_exits

AT_MOST = 32  # points of a policy
BINS = 10  # of the estimate of a policy, for its reliability diagram
COVERAGES = np.round(np.linspace(0.1, 1, 10), 12)


def points(
    runs: Sequence[Run],
    bootstrap: Bootstrap,
    weights: str | None = None,
    also: Mapping[str, Sequence[float]] | None = None,
) -> pd.DataFrame:
    """Return the operating points of every policy of every run on test data.

    Parameters
    ----------
    runs : sequence of Run
    bootstrap : Bootstrap
        Resamplings of the test samples.
    weights : str, optional
        Path of the weights of a model, with {system} and {seed} in place of its name and seed.
    also : mapping of str to sequence of float, optional
        Further thresholds, by policy.

    Returns
    -------
    DataFrame
        One row per system, seed, policy and threshold, in ascending order of thresholds, which end with +∞ (the full
        model). kind (registered name of the policy), accuracy and cost (with _low and _high, 95 % intervals over test
        samples), full_accuracy and full_cost (those of the last exit), validation_accuracy and validation_cost (on the
        samples that choose), full_validation_accuracy, held_out (whether the policy was not fitted on these samples),
        n_test and n_choosing (numbers of samples). Of the samples
        that leave at exit i: exit_i (their share), exit_accuracy_i and exit_estimate_i (mean of the accuracy that the
        policy estimates, see `Policy.estimate`). Of the answers whose estimate is in the m-th of 10 bins of equal
        width: bin_share_m, bin_accuracy_m and bin_estimate_m. coverage_p: accuracy of the p percent of answers with
        the highest estimates. Estimates are NaN if the records have no max softmax. Also the paths of the files of the
        run (validation, test, policies), if they are known, its weights as words of a command, and the unit of the
        costs.
    """
    tables = [
        _of_policy(run, label, policy, bootstrap, (also or {}).get(label, ()), weights)
        for run in runs
        for label, policy in run.policies.items()
    ]
    return with_unit(pd.concat(tables, ignore_index=True), runs)


def _of_policy(
    run: Run, label: str, policy: Policy, bootstrap: Bootstrap, also: Sequence[float], weights: str | None
) -> pd.DataFrame:
    test, choosing = run.test, run.choosing
    curve = frontier(policy, choosing)
    thresholds = np.unique(np.append(_thresholds(curve, accuracy_without_loss(choosing)), also))  # (T,)
    there = curve.iloc[np.searchsorted(curve["threshold"], thresholds)]  # T rows: the point that each threshold gives
    exits, answering = answering_exits(policy, test, thresholds)  # (T, N) each
    right, paid = at_exits(policy.correct(test), answering), test.cost_of(exits)  # (T, N) each
    estimate = np.full(right.shape, np.nan)  # (T, N)
    if policy.claims_accuracy or "max_softmax" in test.measures:
        estimate = at_exits(policy.estimate(test), answering)
    bins = np.clip(np.nan_to_num(estimate) * BINS, 0, BINS - 1).astype(np.int64)  # (T, N)
    stages = test.metadata.get("stages", [run.system])
    return pd.DataFrame(
        {
            "system": run.system,
            "seed": run.seed,
            "policy": label,
            "kind": policy.name,
            "threshold": thresholds,
            **_with_interval("accuracy", right, bootstrap),
            **_with_interval("cost", paid, bootstrap),
            "full_accuracy": test.correct[:, -1].mean(),
            "full_cost": test.cost[-1],
            "validation_accuracy": there["accuracy"].to_numpy(),
            "validation_cost": there["cost"].to_numpy(),
            "full_validation_accuracy": choosing.correct[:, -1].mean(),
            "held_out": not policy.learns or run.holdout.fit_share < 1,
            "n_test": test.n_samples,
            "n_choosing": choosing.n_samples,
            **_grouped(exits, test.n_exits, right, estimate, ("exit", "exit_accuracy", "exit_estimate")),
            **_grouped(bins, BINS, right, estimate, ("bin_share", "bin_accuracy", "bin_estimate")),
            **_selective(right, estimate),
            **run.files,
            **({} if weights is None else {"weights": _paths(weights, stages, run.seed)}),
        }
    )


def _paths(weights: str, stages: Sequence[str], seed: int) -> str:
    return shlex.join(weights.format(system=stage, seed=seed) for stage in stages)


def _thresholds(curve: pd.DataFrame, enough: float) -> np.ndarray:
    """Choose thresholds on a frontier, among them the cheapest one of this accuracy, and write them briefly."""
    threshold = curve["threshold"].to_numpy()  # (U,)
    kept = thinned(curve["cost"].to_numpy(), curve["accuracy"].to_numpy(), AT_MOST)
    kept = np.union1d(kept, np.searchsorted(threshold, threshold_on(curve, accuracy=enough)))
    before = np.append(-np.inf, threshold)[kept]
    return np.array([briefest(low, high) for low, high in zip(before, threshold[kept])])  # (T,)


def thinned(x: np.ndarray, y: np.ndarray, at_most: int) -> np.ndarray:
    """Choose points of a curve that show its shape.

    Half of them are spread evenly over x. The others are added one by one, always the point that is farthest, in y,
    from the line through its neighbours (Ramer 1972, Douglas and Peucker 1973), so that corners remain.

    Parameters
    ----------
    x : ndarray of shape (U,)
        Ascending.
    y : ndarray of shape (U,)
    at_most : int

    Returns
    -------
    ndarray of int
        Ascending, the first and the last point among them.
    """
    even = np.searchsorted(x, np.linspace(x[0], x[-1], at_most // 2))
    kept = sorted({0, *even.tolist(), len(x) - 1})
    heap: list[tuple[float, int, int, int]] = []

    def offer(start: int, end: int) -> None:
        inner = np.arange(start + 1, end)
        if len(inner):
            away = np.abs(y[inner] - np.interp(x[inner], x[[start, end]], y[[start, end]]))
            heapq.heappush(heap, (-away.max(), start, int(inner[away.argmax()]), end))

    for start, end in pairwise(kept):
        offer(start, end)
    while heap and len(kept) < at_most:
        _, start, middle, end = heapq.heappop(heap)
        kept.append(middle)
        offer(start, middle)
        offer(middle, end)
    return np.array(sorted(kept))


def briefest(low: float, high: float) -> float:
    """Return the number in (low, high] with the fewest decimals. These thresholds give the same operating point."""
    if not math.isfinite(high):
        return high
    for decimals in range(15):
        value = math.floor(high * 10**decimals) / 10**decimals
        if low < value <= high:
            return value
    return high


def _with_interval(name: str, values: np.ndarray, bootstrap: Bootstrap) -> dict[str, np.ndarray]:
    """Return the mean of values (T, N) over samples, and its interval."""
    low, high = np.quantile(bootstrap.means(values), [0.025, 0.975], axis=1)  # (T,) each
    return {name: values.mean(axis=1), f"{name}_low": low, f"{name}_high": high}


def _grouped(
    groups: np.ndarray, n_groups: int, right: np.ndarray, estimate: np.ndarray, names: Sequence[str]
) -> dict[str, np.ndarray]:
    """Return the share of samples, the accuracy and the mean estimate of each group, from values (T, N)."""
    rows, n = groups.shape
    cells = (groups + n_groups * np.arange(rows)[:, None]).ravel()

    def total(values: np.ndarray | None) -> np.ndarray:
        weights = None if values is None else values.ravel()
        return np.bincount(cells, weights, rows * n_groups).reshape(rows, n_groups)

    count = total(None)  # (T, G)
    with np.errstate(invalid="ignore"):
        values = (count / n, total(right) / count, total(estimate) / count)  # (T, G) each
    return {f"{name}_{g + 1}": its[:, g] for name, its in zip(names, values) for g in range(n_groups)}


def _selective(right: np.ndarray, estimate: np.ndarray) -> dict[str, np.ndarray]:
    """Return the accuracy of the answers with the highest estimates, at each coverage, from values (T, N)."""
    if np.isnan(estimate).any():
        values = np.full((len(right), len(COVERAGES)), np.nan)  # (T, C)
    else:
        values = np.stack(
            [Ranking(its, 1.0 - hit).curve(0.0).accuracy_at(COVERAGES) for its, hit in zip(estimate, right)]
        )
    return {f"coverage_{100 * coverage:.0f}": values[:, c] for c, coverage in enumerate(COVERAGES)}
