"""The price at which going on is as good as stopping, compiled by Numba."""

import numpy as np

from offramp._kernels.compiling import compiled


@compiled(error_model="numpy")
def least_prices(x, centre, scale, knots, weights, least):
    """Return the highest ratio of an expected gain to an expected cost of each sample, float64 (n,).

    Numbers are added in the same order for each sample alone, so that results do not depend on the number of samples.

    Parameters
    ----------
    x : ndarray of shape (n, F), float64
        Features.
    centre, scale : ndarray of shape (F,), float64
    knots : ndarray of shape (F, K), float64
        Knots of the linear splines; +∞ for those that are not used.
    weights : ndarray of shape (1 + F + F · K, 2 · T), float64
        Weights of the bias, the features and the splines; for each of T rules, those of the gain and of the cost.
    least : float
        Lower limit of the costs.
    """
    n, features = x.shape
    expected = np.empty(weights.shape[1])
    prices = np.empty(n)
    for sample in range(n):
        expected[:] = weights[0]
        for f in range(features):
            z = (x[sample, f] - centre[f]) / scale[f]
            for t in range(expected.shape[0]):
                expected[t] += z * weights[1 + f, t]
            for k in range(knots.shape[1]):
                above = z - knots[f, k]
                if above > 0:
                    row = 1 + features + f * knots.shape[1] + k
                    for t in range(expected.shape[0]):
                        expected[t] += above * weights[row, t]
        best = -np.inf
        for t in range(0, expected.shape[0], 2):
            best = max(best, expected[t] / max(expected[t + 1], least))
        prices[sample] = best
    return prices
