"""p-values of the hypothesis that the mean of a loss between 0 and 1 is at least a level, from n samples.

All of them depend on the losses of the samples, but not on the order of the samples, and grow with every loss. They are
computed for many thresholds at once: `total` returns the sums over samples, at each of T thresholds, of values that are
given for all samples and exits. A test that the mean is at most the level at a single threshold sums over one column.
"""

from collections.abc import Callable

import numpy as np

Total = Callable[[np.ndarray], np.ndarray]  # values (N, S) → sums over samples (T,)

BETS = 8  # number of bets of which `wsr` takes the mean
MOST = 0.98  # highest bet, as a share of the one that can lose everything


def binomial(loss: np.ndarray, total: Total, n: int, level: float) -> np.ndarray:
    """Exact p-value for losses that are 0 or 1: the probability of at most as many losses, if each has this level."""
    from scipy.special import bdtr  # the distribution function of the binomial, without the checks of scipy.stats

    counts, place = np.unique(np.rint(total(loss)), return_inverse=True)  # (U,), (T,)
    return bdtr(counts, n, level)[place.reshape(-1)]


def hoeffding_bentkus(loss: np.ndarray, total: Total, n: int, level: float) -> np.ndarray:
    """p-value of Hoeffding and Bentkus (Bates et al. 2021, arXiv 2101.02703), for losses from 0 to 1."""
    from scipy.special import bdtr, rel_entr

    sums = total(loss).clip(0, n)  # (T,)
    mean = np.minimum(sums / n, level)
    hoeffding = np.exp(-n * (rel_entr(mean, level) + rel_entr(1 - mean, 1 - level)))
    bentkus = np.e * bdtr(np.ceil(np.round(sums, 9)), n, level)  # rounded, as sums of floats are not exact
    return np.minimum(1, np.minimum(hoeffding, bentkus))


def wsr(loss: np.ndarray, total: Total, n: int, level: float) -> np.ndarray:
    """p-value of betting (Waudby-Smith and Ramdas 2024, arXiv 2010.09686), for losses from 0 to 1.

    A gambler bets on losses below the level. If the hypothesis is true, the expected capital is at most 1, whatever the
    bet, and p = 1 / capital is a p-value. The capital is the mean over several bets that are fixed in advance ("grid
    Kelly" in the paper), because it then does not depend on the order of the samples, as with bets that follow the
    data.
    """
    # Lowest bet that is ever best at n samples: the variance is at most level · (1 − level), and p = 0.1 is enough
    least = min(np.sqrt(2 * np.log(10) * (1 - level) / (n * level)), MOST)
    bets = np.geomspace(least, MOST, BETS)  # (B,)
    values = np.unique(loss)
    if len(values) < BETS:  # counting each value is faster
        counts = np.array([total((loss == value).astype(np.int8)) for value in values])  # (V, T)
        logs = np.log1p(bets[:, None] * (level - values) / (1 - level)) @ counts  # (B, T)
    else:
        logs = np.array([total(np.log1p(bet * (level - loss) / (1 - level))) for bet in bets])  # (B, T)
    return np.exp(np.minimum(0, np.log(BETS) - np.logaddexp.reduce(logs, axis=0)))


P_VALUES = {"binomial": binomial, "hoeffding_bentkus": hoeffding_bentkus, "wsr": wsr}


def upper_bound(p_value, loss: np.ndarray, confidence: float) -> float:
    """Return the upper confidence bound of the mean of losses (n,): the lowest level whose p-value is low enough."""
    values, counts = np.unique(loss, return_counts=True)  # (U,) each
    low, high = 0.0, 1.0
    while high - low > 1e-9:
        middle = (low + high) / 2
        rejected = p_value(values[:, None], lambda x: counts @ x, len(loss), middle)[0] <= 1 - confidence
        low, high = (low, middle) if rejected else (middle, high)
    return high


def needed_samples(p_value, loss: float, level: float, confidence: float) -> int:
    """Return the lowest number of samples that certify the level, if all of them have this loss, below the level."""

    def enough(n: int) -> bool:
        return p_value(np.array([[loss]]), lambda x: n * x[:, 0].astype(float), n, level)[0] <= 1 - confidence

    high = 1
    while not enough(high):
        high *= 2
    low = high // 2  # not enough
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
