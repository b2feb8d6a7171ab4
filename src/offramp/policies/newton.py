"""Newton's method for the convex problems that policies fit."""

from collections.abc import Callable

import numpy as np

STEPS = 100
TOLERANCE = 1e-9  # nats: what another step could still gain

Derivatives = Callable[[np.ndarray], tuple[float, np.ndarray, np.ndarray]]


def minimise(derivatives: Derivatives, start: np.ndarray, bounded: int = 0) -> np.ndarray:
    """The minimum of a strictly convex function, by projected Newton steps (Bertsekas, 1982).

    Parameters
    ----------
    derivatives : callable
        Of a point (d,): the value, its gradient (d,) and its Hessian (d, d).
    start : ndarray of shape (d,)
    bounded : int
        How many coordinates, the first ones, must not be negative.

    Returns
    -------
    ndarray of shape (d,)
        Where one more step would gain at most `TOLERANCE`.
    """
    is_bounded = np.arange(len(start)) < bounded  # (d,)
    at, (loss, gradient, hessian) = start, derivatives(start)
    for _ in range(STEPS):
        free = ~(is_bounded & (at <= TOLERANCE) & (gradient > 0))  # the others are held at 0
        step = gradient.copy()
        step[free] = _solve(hessian[np.ix_(free, free)], gradient[free])
        if gradient[free] @ step[free] <= TOLERANCE:
            return at if bounded else at - step  # the step cannot leave what is allowed where nothing is bounded
        for size in 0.5 ** np.arange(30):
            trial = at - size * step
            trial[is_bounded] = np.maximum(trial[is_bounded], 0)
            found = derivatives(trial)
            if found[0] < loss:
                break
        else:
            break  # as low as floating point can tell
        at, (loss, gradient, hessian) = trial, found
    return at


def _solve(matrix: np.ndarray, vector: np.ndarray) -> np.ndarray:
    try:
        return np.linalg.solve(matrix, vector)
    except np.linalg.LinAlgError:  # collinear features that are hardly penalised
        return np.linalg.lstsq(matrix, vector, rcond=None)[0]
