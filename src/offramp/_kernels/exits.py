"""Compiled kernel of the choice of exits: the cheapest shared threshold of many subsets of the exits of a record."""

import numpy as np

from offramp._kernels.compiling import compiled


@compiled()
def cheapest_thresholds(values, order, subsets, losses, costs, dropped, level):
    """Return the threshold with the lowest average cost until the risk exceeds the level, its cost and risk, (S, 3).

    Thresholds are walked from the full model on, as by `certify`. As the threshold falls, a sample leaves at the first
    exit of the subset that it has reached.

    Parameters
    ----------
    values : ndarray of shape (N · K,), float
        Signals of the K exits before the last one, in descending order.
    order : ndarray of shape (N · K,), int
        Their places in the array (N, K).
    subsets : ndarray of shape (S, K + 1), bool
    losses, costs : ndarray of shape (N, K + 1), float
    dropped : ndarray of shape (S, K + 1), float
        Part of the cost at each exit that the subset does not pay.
    level : float
        If the full model has a higher risk, that takes its place.
    """
    n, last = losses.shape[0], losses.shape[1] - 1
    found = np.empty((len(subsets), 3))
    leaves = np.empty(n, np.int64)
    for s in range(len(subsets)):
        leaves[:] = last
        lost, paid = losses[:, last].sum(), costs[:, last].sum() - n * dropped[s, last]
        most = max(level, lost / n) + 1e-12
        found[s] = np.inf, paid / n, lost / n
        k = 0
        while k < len(values):
            value = values[k]
            while k < len(values) and values[k] == value:
                sample, i = order[k] // last, order[k] % last
                before = leaves[sample]
                if subsets[s, i] and i < before:
                    lost += losses[sample, i] - losses[sample, before]
                    paid += costs[sample, i] - costs[sample, before] + dropped[s, before] - dropped[s, i]
                    leaves[sample] = i
                k += 1
            if lost / n > most:
                break
            if paid / n < found[s, 1]:
                found[s] = value, paid / n, lost / n
    return found
