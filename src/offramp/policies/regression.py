"""Regressions of policies that learn from several features: linear splines, ridge and logistic regression."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from offramp.policies.newton import minimise


def location(x: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean and the standard deviation of features over an axis: +∞ for those that are constant."""
    scale = x.std(axis=axis)
    scale[np.ptp(x, axis=axis) == 0] = np.inf
    return x.mean(axis=axis), scale


@dataclass(frozen=True)
class Splines:
    """Standardised features and linear splines of them.

    Parameters
    ----------
    centre, scale : ndarray of shape (F,)
        Mean and standard deviation of each feature; the latter is +∞ for constant features, which have no effect.
    knots : ndarray of shape (F, K)
        Places, on the standardised scale, from which on another slope is added; +∞ for those that are not used.
    """

    centre: np.ndarray
    scale: np.ndarray
    knots: np.ndarray

    @classmethod
    def of(cls, x: np.ndarray, knots: int = 5) -> "Splines":
        """Choose the splines for features x (N, F): knots are at quantiles, if a feature has more than 2 · K values."""
        centre, scale = location(x, axis=0)  # (F,) each
        places = np.full((x.shape[1], knots), np.inf)  # (F, K)
        for f, values in enumerate(x.T):
            if knots and np.isfinite(scale[f]) and len(np.unique(values)) > 2 * knots:
                found = np.unique(np.quantile((values - centre[f]) / scale[f], np.arange(1, knots + 1) / (knots + 1)))
                places[f, : len(found)] = found
        return cls(centre, scale, places)

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, np.ndarray]) -> "Splines":
        return cls(arrays["centre"], arrays["scale"], arrays["knots"])

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        return {"centre": self.centre, "scale": self.scale, "knots": self.knots}

    def basis(self, x: np.ndarray) -> np.ndarray:
        """Return (N, 1 + F + F · K): ones, the features, and the splines of each feature, for x (N, F)."""
        z = (x - self.centre) / self.scale  # (N, F)
        above = np.maximum(z[:, :, None] - self.knots, 0.0)  # (N, F, K)
        return np.concatenate([np.ones((len(x), 1)), z, above.reshape(len(x), self.knots.size)], axis=1)


def fit_ridge(
    basis: np.ndarray, targets: np.ndarray, folds: np.ndarray, penalties: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Fit ridge regressions of several targets, with the penalty that predicts held-out folds best.

    Parameters
    ----------
    basis : ndarray of shape (N, K)
        The first column is of ones; its weight has no penalty.
    targets : ndarray of shape (N, T)
    folds : ndarray of shape (N,), int
    penalties : sequence of float
        Weights of the penalty on squared weights, which are tried.

    Returns
    -------
    weights : ndarray of shape (K, T)
        Fitted on all samples.
    held_out : ndarray of shape (N, T)
        Predictions of each sample, by weights that were fitted on the other folds.
    """
    parts = [folds == fold for fold in range(folds.max() + 1)]
    squares = np.stack([basis[part].T @ basis[part] for part in parts])  # (folds, K, K)
    products = np.stack([basis[part].T @ targets[part] for part in parts])  # (folds, K, T)
    all_squares, all_products = squares.sum(axis=0), products.sum(axis=0)
    penalised = np.eye(basis.shape[1])
    penalised[0, 0] = 0.0

    def predicted(penalty: float) -> np.ndarray:  # (N, T), of held-out folds
        values = np.empty(targets.shape)
        for part, square, product in zip(parts, squares, products):
            system = all_squares - square + penalty * penalised
            values[part] = basis[part] @ np.linalg.solve(system, all_products - product)
        return values

    tried = [(penalty, predicted(penalty)) for penalty in penalties]
    penalty, held_out = min(tried, key=lambda its: np.sum((targets - its[1]) ** 2))
    return np.linalg.solve(all_squares + penalty * penalised, all_products), held_out


def fit_logistic(x: np.ndarray, right: np.ndarray, penalty: float) -> np.ndarray:
    """Fit the penalised logistic regression of `LearnedDeferral`.

    Parameters
    ----------
    x : ndarray of shape (K, N)
        Features. The last row contains ones; its weight is the bias.
    right : ndarray of shape (N,), bool or float64
        Whether each prediction is correct, or the quality of each answer, from 0 to 1.
    penalty : float
        Weight of the penalty. Must be above 0.

    Returns
    -------
    ndarray of shape (K,)
        Weights.
    """
    from scipy.special import expit

    right = right * 1.0
    centre = np.zeros(len(x))
    centre[-1] = np.log((right.sum() + 0.5) / ((1 - right).sum() + 0.5))

    def derivatives(at):
        # Without BLAS, whose rounding depends on the number of samples
        z = np.einsum("k,kn->n", at, x)  # (N,)
        chance, away = expit(z), at - centre
        loss = np.logaddexp(0, z).sum() - (right * z).sum() + penalty / 2 * np.sum(away**2)
        gradient = np.einsum("kn,n->k", x, chance - right) + penalty * away
        hessian = np.einsum("kn,ln->kl", x * (chance * (1 - chance)), x) + penalty * np.eye(len(x))
        return loss, gradient, hessian

    return minimise(derivatives, centre)
