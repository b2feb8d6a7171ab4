"""Walks over the operating points of cascades, compiled by Numba.

A stage sends its least sure samples on, so an operating point is how many go on. Costs are sums over the samples,
divided by N last: those of whole numbers, as MACs are, add up exactly.
"""

from typing import NamedTuple

import numpy as np

from offramp._kernels.compiling import compiled

BLOCK = 128  # operating points that are ruled out together, a side; about √N, so that bounds and walks cost the same


class Table(NamedTuple):
    """The front so far: row c has the cheapest operating point with at least c samples right, N + 1 rows.

    Equal costs are ordered by who and how many go on, so the table does not depend on the order in which points come.
    """

    cost: np.ndarray  # (N + 1,) float64, never falling; +inf where there is none
    who: np.ndarray  # (N + 1,) int64: stages, counted from 1, as digits to base M + 1; fewer stages come first
    deferred: np.ndarray  # (N + 1, 2) int32, how many of the first and of the second model's least sure go on


@compiled()
def offer(table, count, cost, who, i, j):
    """Enter an operating point wherever it beats what is there."""
    while count >= 0 and cost <= table.cost[count]:
        first, second = table.deferred[count]
        if cost == table.cost[count] and (who, i, j) >= (table.who[count], first, second):
            return
        table.cost[count] = cost
        table.who[count] = who
        table.deferred[count, 0] = i
        table.deferred[count, 1] = j
        count -= 1


@compiled()
def walk_pairs(small, first, step, order, ends, own, answers, enough, total, cost, table, found, found_cost):
    """All pairs of a small model with the large models first, first + step, …

    What one step more sends on costs more, so only points that are more accurate than all before can be on the front.

    Parameters
    ----------
    order : (N,) int32
        The samples, the small model's least sure first.
    ends : (N + 1,) bool
        Is there a threshold that sends so many on?
    own, answers : (N,) and (M, N) int8
        Is the small model right, in `order`; is the pair, where the large model ran too?
    enough : (M,) int64
        How many samples the large models have right.
    total : (M,) float64
        Each model's cost of all samples.
    cost : (M, 1) or (M, N) float64
        Of a sample.
    table : Table
    found : (M, 3) int32, found_cost : (M,) float64
        Filled: the fewest that go on with `enough` right (else −1) and the cost of that; the most that can be right,
        and the fewest that go on then.
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
                offer(table, count, here, who, k, 0)
                if fewest < 0 and count >= enough[large]:
                    fewest = k
                    found_cost[large] = here
        found[large] = fewest, best, best_k


class Triple(NamedTuple):
    """Three models on the same samples. Arrays run over S's samples, the least sure first, and end with a 0."""

    who: int
    right: int  # how many samples S has right
    rank: np.ndarray  # (N + 1,) int32: the sample's place among M's
    place: np.ndarray  # (N + 1,) int32: of M's samples, the least sure first: the sample's place among S's
    ends_s: np.ndarray  # (N + 1,) bool: is there a threshold on S, on M, that sends so many on?
    ends_m: np.ndarray
    gain_m: np.ndarray  # (N + 1,) int8: is M right, minus is S
    gain_l: np.ndarray  # (N + 1,) int8: is L right, minus is M
    paid: np.ndarray  # (N + 1,) float64: what S and M cost when so many go on to M
    weight: np.ndarray  # (N + 1,) float64: what L costs for a sample, in units of
    unit: float


@compiled()
def sketch_triple(triple, block, table):
    """Each block-th line of a triple's operating points: a front that rules out most of the others."""
    n = len(triple.rank) - 1
    for j in range(0, n + 1, block):
        _walk_block(triple, 0, n + 1, j, j + 1, triple.right, 0.0, table)


@compiled()
def walk_triple(triple, block, table):
    """All operating points of a triple that may be on the front: i of S's least sure go on to M, of them those to L
    that are among the j of which M is least sure.

    Points are ruled out by blocks of i and j: within one, none costs less than the first, and none has more right than
    its first j gives with all that the block's other j can add. A block is passed over only where the table has
    something strictly cheaper, so that equal points are still ordered as everywhere.
    """
    n = len(triple.rank) - 1
    for j0 in range(0, n + 1, block):
        j1 = min(j0 + block, n + 1)
        count, passed, rise = triple.right, 0.0, 0  # at j0; and what the other j can add
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
                rise += (rank < j1 - 1) & (not inside) & (l > 0)
            if table.cost[most] >= (triple.paid[i0] + passed_start * triple.unit) / n:
                _walk_block(triple, i0, i1, j0, j1, start, passed_start, table)


@compiled()
def _walk_block(triple, i0, i1, j0, j1, start, passed_start, table):
    """All points of a block, from how many are right at its first, and what weight goes on to L there."""
    n = len(triple.rank) - 1
    ends, ranks, gain_m = triple.ends_s[i0:i1], triple.rank[i0:i1], triple.gain_m[i0:i1]
    gain_l, weight = triple.gain_l[i0:i1], triple.weight[i0:i1]
    for j in range(j0, j1):
        if triple.ends_m[j]:
            count, passed, best = start, passed_start, -1
            for k, (end, rank, m, l, w) in enumerate(zip(ends, ranks, gain_m, gain_l, weight)):
                if end and count > best:  # more i cost more
                    best = count
                    offer(table, count, (triple.paid[i0 + k] + passed * triple.unit) / n, triple.who, i0 + k, j)
                inside = rank < j
                count += m + inside * l
                passed += inside * w
        k = triple.place[j]
        if k < i0:
            start += triple.gain_l[k]
            passed_start += triple.weight[k]
