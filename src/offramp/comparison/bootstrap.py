"""Bootstrap intervals over test samples and seeds.

Intervals are 95 % bootstraps over test samples and seeds: percentile ones, but for distances (see `Bootstrap.summary`).
All runs of a study share their test samples, so one resampling serves all of them and differences are paired. Few
seeds say little of how other seeds would do, so the standard deviation over seeds stands beside the interval.
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
    """Resamplings of N test samples, and of the seeds.

    Attributes
    ----------
    counts : ndarray of shape (B, N)
        How often each sample is drawn: whole numbers, each row sums to N.
    seed : int
        Of the draws.
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
        """Resampled means (..., B) of values (..., N)."""
        resamples, n_samples = self.counts.shape
        rows = values.reshape(-1, n_samples)  # one large product takes half as long as several
        if values.dtype == bool:  # float32 counts exactly too, up to 2²⁴, in half the time
            totals = (rows.astype(np.float32) @ self._counts32.T).astype(np.float64)
        else:
            totals = rows @ self.counts.T
        return totals.reshape(*values.shape[:-1], resamples) / n_samples

    def with_means(self, values: np.ndarray) -> np.ndarray:
        """The mean of values (..., N) as they are, then the resampled ones: (..., 1 + B)."""
        return np.concatenate([values.mean(-1, keepdims=True), self.means(values)], axis=-1)

    def shares(self, cost: np.ndarray, full: ExitRecord) -> np.ndarray:
        """Mean cost (..., N) as a share of the full model's on the same samples, as they are, then resampled:
        (..., 1 + B)."""
        if full.sample_cost is None:
            return self.with_means(cost) / full.cost[-1]
        return self.with_means(cost) / self.with_means(full.sample_cost[:, -1])

    def over_seeds(self, replicates: np.ndarray) -> np.ndarray:
        """Replicates (B,) of the mean over seeds, from those of each seed (S, B)."""
        n_seeds, resamples = replicates.shape
        drawn = np.random.default_rng([self.seed, 1]).integers(n_seeds, size=(n_seeds, resamples))  # (S, B)
        return np.take_along_axis(replicates, drawn, axis=0).mean(0)

    def summary(
        self, name: str, per_seed: np.ndarray, replicates: np.ndarray, *, distance: bool = False
    ) -> dict[str, float]:
        """Columns for one number: its mean over seeds (S,), their standard deviation, and the interval of (S, B).

        The noise of a resampling only adds to a distance, so that its replicates lie too high. There the interval is
        the basic one: what they lie above the estimate, the estimate is taken to lie above the truth; none is below 0.
        """
        mean = float(per_seed.mean())
        deviation = float(per_seed.std(ddof=1)) if len(per_seed) > 1 else np.nan
        low, high = self.interval(self.over_seeds(replicates))
        if distance:
            low, high = max(0.0, 2 * mean - high), max(0.0, 2 * mean - low)
        return dict(zip(with_interval(name), (mean, deviation, low, high)))

    @staticmethod
    def interval(replicates: np.ndarray) -> tuple[float, float]:
        """The middle 95 % of replicates (B,)."""
        low, high = np.quantile(replicates, [0.025, 0.975])
        return float(low), float(high)
