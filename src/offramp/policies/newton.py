"""Newton's method for the convex optimisation problems of policies."""

from collections.abc import Callable

import numpy as np

STEPS = 100
TOLERANCE = 1e-9  # nats: remaining decrease at which iteration stops

Derivatives = Callable[[np.ndarray], tuple[float, np.ndarray, np.ndarray]]


def minimise(derivatives: Derivatives, start: np.ndarray, bounded: int = 0) -> np.ndarray:
    """Minimise a strictly convex function by projected Newton steps (Bertsekas, 1982).

    Parameters
    ----------
    derivatives : callable
        Function of a point (d,) that returns the value, the gradient (d,) and the Hessian (d, d).
    start : ndarray of shape (d,)
        Initial point.
    bounded : int
        Number of coordinates, counted from the first, that must not be negative.

    Returns
    -------
    ndarray of shape (d,)
        Point at which one more step would decrease the function by at most `TOLERANCE`. If there is no such point
        within `STEPS` steps or within floating-point precision, the last point.
    """
    is_bounded = np.arange(len(start)) < bounded  # (d,)
    at, (loss, gradient, hessian) = start, derivatives(start)
    for _ in range(STEPS):
        free = ~(is_bounded & (at <= TOLERANCE) & (gradient > 0))  # the other coordinates are fixed at 0
        step = gradient.copy()
        step[free] = _solve(hessian[np.ix_(free, free)], gradient[free])
        if gradient[free] @ step[free] <= TOLERANCE:
            return at if bounded else at - step  # without bounds, the last step is always valid
        for size in 0.5 ** np.arange(30):
            trial = at - size * step
            trial[is_bounded] = np.maximum(trial[is_bounded], 0)
            found = derivatives(trial)
            if found[0] < loss:
                break
        else:
            break  # no further decrease within floating-point precision
        at, (loss, gradient, hessian) = trial, found
    return at


def _solve(matrix: np.ndarray, vector: np.ndarray) -> np.ndarray:
    try:
        return np.linalg.solve(matrix, vector)
    except np.linalg.LinAlgError:  # collinear features with a small penalty
        return np.linalg.lstsq(matrix, vector, rcond=None)[0]
