"""Search over the operating points of cascades, compiled by Numba.

Each stage defers its least confident samples to the next stage, so an operating point is given by the number of
deferred samples. Costs are summed over the samples and divided by N at the end, so that sums of integer costs such as
MACs are exact. Correctness is a whole number: 0 or 1, or a quality as a multiple of a small unit
(`offramp.records.metrics.whole`), so that its sums are exact, too. "Number of correct samples" is the sum of it.
"""

from typing import NamedTuple

import numpy as np

from offramp._kernels.compiling import compiled

BLOCK = 128  # side length of the blocks that are ruled out together; about √N, which balances bounds and evaluation


class Table(NamedTuple):
    """The current front. Row c of R holds the cheapest operating point with at least c · 2^shift correct samples.

    Ties in cost are broken by the number of correct samples (the highest), by the models and then by the number of
    deferred samples, so the table does not depend on the order in which points are added.
    """

    cost: np.ndarray  # (R,) float64, non-decreasing; +inf if there is no such point
    right: np.ndarray  # (R,) int64: number of correct samples
    who: np.ndarray  # (R,) int64: stages, counted from 1, as digits in base M + 1; fewer stages sort first
    deferred: np.ndarray  # (R, 2) int32: numbers of samples deferred by the first and by the second model
    shift: int  # 0 if correctness is 0 or 1: one row for each number of correct samples, R = N + 1


@compiled()
def add_point(table, count, cost, who, i, j):
    """Add an operating point to the rows in which it is better than the current point."""
    row = count >> table.shift
    while row >= 0 and cost <= table.cost[row]:
        first, second = table.deferred[row]
        if cost == table.cost[row] and (-count, who, i, j) >= (-table.right[row], table.who[row], first, second):
            return
        table.cost[row] = cost
        table.right[row] = count
        table.who[row] = who
        table.deferred[row, 0] = i
        table.deferred[row, 1] = j
        row -= 1


@compiled()
def walk_pairs(small, first, step, order, ends, own, answers, enough, total, cost, table, found, found_cost):
    """Evaluate all pairs of a small model with the large models `first`, `first + step`, …

    Deferring more samples costs more. Only points that are more accurate than all previous ones can be on the front.

    Parameters
    ----------
    order : (N,) int32
        The samples, in ascending confidence of the small model.
    ends : (N + 1,) bool
        Whether there is a threshold that defers this number of samples.
    own, answers : (N,) and (M, N) int8 or int64
        Whether the small model is correct (in `order`), and whether the pair is correct if the large model runs too.
    enough : (M,) int64
        Number of correct samples of each large model.
    total : (M,) float64
        Total cost of each model over all samples.
    cost : (M, 1) or (M, N) float64
        Cost per sample.
    table : Table
    found : (M, 3) int64, found_cost : (M,) float64
        Outputs. The smallest number of deferred samples with `enough` correct (−1 if none) and its cost; the highest
        number of correct samples, and the smallest number of deferred samples that reaches it.
    """
    n, n_models = len(order), len(answers)
    each = cost.shape[1] > 1
    right = 0
    for k in range(n):
        right += own[k]
    for large in range(first, n_models, step):
        who = (small + 1) * (n_models + 1) + large + 1
        answer, paid = answers[large], 0.0
        count = best = right
        best_k, fewest = 0, 0 if right >= enough[large] else -1
        found_cost[large] = total[small] / n if fewest == 0 else np.nan
        for k in range(1, n + 1):
            sample = order[k - 1]
            count += answer[sample] - own[k - 1]
            if each:
                paid += cost[large, sample]
            if ends[k] and count > best:
                best, best_k = count, k
                here = (total[small] + (paid if each else k * cost[large, 0])) / n
                add_point(table, count, here, who, k, 0)
                if fewest < 0 and count >= enough[large]:
                    fewest = k
                    found_cost[large] = here
        found[large] = fewest, best, best_k


class Triple(NamedTuple):
    """Three models S, M and L on the same samples. Arrays are in ascending confidence of S, with a 0 at the end."""

    who: int
    right: int  # number of correct samples of S
    rank: np.ndarray  # (N + 1,) int32: rank of the sample by confidence of M
    place: np.ndarray  # (N + 1,) int32: rank by confidence of S, for the samples in ascending confidence of M
    ends_s: np.ndarray  # (N + 1,) bool: whether there is a threshold on S (or M) that defers this number
    ends_m: np.ndarray
    gain_m: np.ndarray  # (N + 1,) int8 or int64: correctness of M minus that of S
    gain_l: np.ndarray  # (N + 1,) int8 or int64: correctness of L minus that of M
    paid: np.ndarray  # (N + 1,) float64: cost of S and M if this number of samples is deferred to M
    weight: np.ndarray  # (N + 1,) float64: cost of L for a sample, as a multiple of `unit`
    unit: float


@compiled()
def sketch_triple(triple, block, table):
    """Evaluate every `block`-th line of a triple's operating points, for a front that rules out most other points."""
    n = len(triple.rank) - 1
    for j in range(0, n + 1, block):
        _walk_block(triple, 0, n + 1, j, j + 1, triple.right, 0.0, table)


@compiled()
def walk_triple(triple, block, table):
    """Evaluate all operating points of a triple that may be on the front.

    At point (i, j), the i least confident samples of S are deferred to M. Of these, the samples that are among the j
    least confident ones of M are deferred to L.

    Points are ruled out in blocks of i and j. Within a block, no point costs less than the first one, and no point has
    more correct samples than the first j plus the largest possible gain from the other j. A block is skipped only if
    the table has a strictly cheaper point, so that ties are broken in the same way everywhere.
    """
    n = len(triple.rank) - 1
    for j0 in range(0, n + 1, block):
        j1 = min(j0 + block, n + 1)
        count, passed, rise = triple.right, 0.0, 0  # values at j0, and the largest gain from the other j of the block
        for i0 in range(0, n + 1, block):
            i1 = min(i0 + block, n + 1)
            start, passed_start, most = count, passed, count
            for rank, m, l, w in zip(
                triple.rank[i0:i1], triple.gain_m[i0:i1], triple.gain_l[i0:i1], triple.weight[i0:i1]
            ):
                most = max(most, count + rise)
                inside = rank < j0
                count += m + inside * l
                passed += inside * w
                rise += max(l, 0) * ((rank < j1 - 1) & (not inside))
            if table.cost[most >> table.shift] >= (triple.paid[i0] + passed_start * triple.unit) / n:
                _walk_block(triple, i0, i1, j0, j1, start, passed_start, table)


@compiled()
def _walk_block(triple, i0, i1, j0, j1, start, passed_start, table):
    """Evaluate all points of a block, given the number of correct samples and the weight of L at its first point."""
    n = len(triple.rank) - 1
    ends, ranks, gain_m = triple.ends_s[i0:i1], triple.rank[i0:i1], triple.gain_m[i0:i1]
    gain_l, weight = triple.gain_l[i0:i1], triple.weight[i0:i1]
    for j in range(j0, j1):
        if triple.ends_m[j]:
            count, passed, best = start, passed_start, -1
            for k, (end, rank, m, l, w) in enumerate(zip(ends, ranks, gain_m, gain_l, weight)):
                if end and count > best:  # a larger i costs more
                    best = count
                    add_point(table, count, (triple.paid[i0 + k] + passed * triple.unit) / n, triple.who, i0 + k, j)
                inside = rank < j
                count += m + inside * l
                passed += inside * w
        k = triple.place[j]
        if k < i0:
            start += triple.gain_l[k]
            passed_start += triple.weight[k]
