"""Bootstrap intervals over test samples and seeds.

Intervals are 95 % bootstrap intervals over test samples and seeds. They are percentile intervals, except for distances
(see `Bootstrap.summary`). All runs of a study share their test samples, so the same resamplings are used for all runs
and differences are paired. A few seeds are not enough to estimate the variation over seeds, so the standard deviation
over seeds is also given.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from offramp.records import ExitRecord


def with_interval(*numbers: str) -> list[str]:
    """The columns that `Bootstrap.summary` makes of some numbers."""
    return [f"{number}{ending}" for number in numbers for ending in ("", "_sd", "_low", "_high")]


@dataclass(frozen=True)
class Bootstrap:
    """Bootstrap resamplings of N test samples and of the seeds.

    Attributes
    ----------
    counts : ndarray of shape (B, N)
        Number of times that each sample is drawn. Each row sums to N.
    seed : int
        Seed of the random draws.
    """

    counts: np.ndarray
    seed: int

    @classmethod
    def draw(cls, n_samples: int, resamples: int, seed: int) -> "Bootstrap":
        counts = np.random.default_rng(seed).multinomial(n_samples, np.full(n_samples, 1 / n_samples), resamples)
        return cls(counts.astype(np.float64), seed)

    @cached_property
    def _counts32(self) -> np.ndarray:
        return self.counts.astype(np.float32)

    def means(self, values: np.ndarray) -> np.ndarray:
        """Return the resampled means (..., B) of values (..., N)."""
        resamples, n_samples = self.counts.shape
        rows = values.reshape(-1, n_samples)  # one large product is twice as fast as several
        if values.dtype == bool:  # float32 is exact for counts up to 2²⁴ and twice as fast
            totals = (rows.astype(np.float32) @ self._counts32.T).astype(np.float64)
        else:
            totals = rows @ self.counts.T
        return totals.reshape(*values.shape[:-1], resamples) / n_samples

    def with_means(self, values: np.ndarray) -> np.ndarray:
        """Return the mean of values (..., N), followed by the resampled means: (..., 1 + B)."""
        return np.concatenate([values.mean(-1, keepdims=True), self.means(values)], axis=-1)

    def shares(self, cost: np.ndarray, full: ExitRecord) -> np.ndarray:
        """Return the mean cost (..., N) as a share of the cost of the full model on the same samples.

        The result (..., 1 + B) contains the value on all samples, followed by the resampled ones.
        """
        if full.sample_cost is None:
            return self.with_means(cost) / full.cost[-1]
        return self.with_means(cost) / self.with_means(full.sample_cost[:, -1])

    def over_seeds(self, replicates: np.ndarray) -> np.ndarray:
        """Return replicates (B,) of the mean over seeds, from the replicates of each seed (S, B)."""
        n_seeds, resamples = replicates.shape
        drawn = np.random.default_rng([self.seed, 1]).integers(n_seeds, size=(n_seeds, resamples))  # (S, B)
        return np.take_along_axis(replicates, drawn, axis=0).mean(0)

    def summary(
        self, name: str, per_seed: np.ndarray, replicates: np.ndarray, *, distance: bool = False
    ) -> dict[str, float]:
        """Return the columns of one quantity: mean and standard deviation over seeds (S,), and interval from (S, B).

        Resampling noise increases distances, so replicates of a distance are biased upwards. For distances, the basic
        bootstrap interval is used, which corrects this bias, and is limited to values of at least 0.
        """
        mean = float(per_seed.mean())
        deviation = float(per_seed.std(ddof=1)) if len(per_seed) > 1 else np.nan
        low, high = self.interval(self.over_seeds(replicates))
        if distance:
            low, high = max(0.0, 2 * mean - high), max(0.0, 2 * mean - low)
        return dict(zip(with_interval(name), (mean, deviation, low, high)))

    @staticmethod
    def interval(replicates: np.ndarray) -> tuple[float, float]:
        """Return the central 95 % interval of replicates (B,). NaN if there are none."""
        if not len(replicates):
            return np.nan, np.nan
        low, high = np.quantile(replicates, [0.025, 0.975])
        return float(low), float(high)
