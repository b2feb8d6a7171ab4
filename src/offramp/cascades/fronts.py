"""Fronts of accuracy and cost of single models, and the exit rate that a cascade needs to improve on them."""

from typing import Literal

import numpy as np


def pareto(cost, accuracy) -> np.ndarray:
    """Return the members of the Pareto front: models that are more accurate than all models of the same or lower cost.

    Models are sorted by cost, then by descending accuracy, then by their given order. A model is a member if it is more
    accurate than all models before it.

    Parameters
    ----------
    cost, accuracy : array-like of shape (M,)
        Cost and accuracy of each model, in any unit.

    Returns
    -------
    ndarray of int of shape (F,)
        Indices of the members, in ascending cost and accuracy.

    Raises
    ------
    ValueError
        If the shapes differ, if there is no model, or if a number is not finite.
    """
    cost, accuracy = _checked(cost, accuracy)
    order = np.lexsort((-accuracy, cost))  # (M,), stable: ties stay in the order given
    best = np.maximum.accumulate(accuracy[order])
    return order[np.diff(best, prepend=-np.inf) > 0]


def step_cost(cost, accuracy, at) -> np.ndarray:
    """Return the cost of the cheapest model that reaches each accuracy (the step front).

    Parameters
    ----------
    cost, accuracy : array-like of shape (M,)
        Cost and accuracy of each model. Models off the front have no effect.
    at : array-like of shape (T,)
        Accuracies.

    Returns
    -------
    ndarray of shape (T,)
        NaN if no model reaches the accuracy.

    Raises
    ------
    ValueError
        As for `pareto`.
    """
    cost, accuracy = _front(cost, accuracy)
    return np.append(cost, np.nan)[np.searchsorted(accuracy, at)]


def interpolated_cost(cost, accuracy, at) -> np.ndarray:
    """Return the interpolated cost at each accuracy (the log-interpolated front).

    Between neighbouring members of the front, the logarithm of the cost is linear in accuracy.

    Parameters
    ----------
    cost, accuracy : array-like of shape (M,)
        Cost and accuracy of each model. Models off the front have no effect.
    at : array-like of shape (T,)
        Accuracies.

    Returns
    -------
    ndarray of shape (T,)
        The lowest cost below the lowest accuracy of the front, and NaN above the highest.

    Raises
    ------
    ValueError
        As for `pareto`, or if a cost is not above 0.
    """
    cost, accuracy = _front(cost, accuracy)
    if cost[0] <= 0:
        raise ValueError(f"cost: one is {cost[0]:g}; expected costs above 0, for their logarithm is taken")
    return np.exp(np.interp(at, accuracy, np.log(cost), right=np.nan))


def ascending(cost, accuracy) -> tuple[np.ndarray, np.ndarray]:
    """Return a measured curve whose accuracy ascends: isotonic regression removes the noise that makes it fall.

    Parameters
    ----------
    cost, accuracy : array-like of shape (T,)
        Points in the order in which the accuracy should ascend.

    Returns
    -------
    cost, accuracy : ndarray of shape (F,)
        The front of these points, both ascending.

    Raises
    ------
    ValueError
        As `pareto`.
    """
    from scipy.optimize import isotonic_regression

    return _front(cost, isotonic_regression(accuracy).x)


def needed_exit_rate(small_cost, large_cost, reduction=1.0):
    """Return the exit rate of the small model with which a cascade of two costs `large_cost / reduction`.

    All samples use the small model, and deferred samples also the large one: c_S + (1 − e)·c_L = c_L / R, so
    e = c_S/c_L + 1 − 1/R. If the result is above 1, no exit rate suffices. A reduction of 1 is the cost of the large
    model alone.

    Parameters
    ----------
    small_cost, large_cost, reduction : float or array-like
        Positive numbers, which are broadcast.

    Returns
    -------
    float or ndarray

    Raises
    ------
    ValueError
        If a number is not above 0.
    """
    of = {"small_cost": small_cost, "large_cost": large_cost, "reduction": reduction}
    for name, values in of.items():
        if not (np.asarray(values) > 0).all():
            raise ValueError(f"{name}: expected numbers above 0")
    small_cost, large_cost, reduction = (np.asarray(values, np.float64) for values in of.values())
    return small_cost / large_cost + (1 - 1 / reduction)


def mean_reduction(reductions, mean: Literal["arithmetic", "geometric"] = "arithmetic"):
    """Return the mean of the reductions R(a) = C_single(a) / C_cascade(a) at several accuracies.

    The papers use the arithmetic mean. The geometric mean is the mean of the logarithms, in which twice and half the
    cost average to 1.

    Parameters
    ----------
    reductions : array-like of shape (..., T)
        NaN if one of the two does not reach the accuracy. NaN values are ignored.

    Returns
    -------
    float or ndarray of shape (...)
        NaN if all reductions are NaN.

    Raises
    ------
    ValueError
        If `mean` is unknown, or a reduction is not above 0.
    """
    reductions = np.asarray(reductions, np.float64)
    known = ~np.isnan(reductions)  # (..., T)
    if (reductions[known] <= 0).any():
        raise ValueError("reductions: expected numbers above 0, or NaN")
    if mean not in ("arithmetic", "geometric"):
        raise ValueError(f"mean is {mean!r}; expected arithmetic or geometric")
    values = np.where(known, reductions, 1.0)
    total = np.sum(np.log(values) if mean == "geometric" else values, axis=-1, where=known)  # (...)
    with np.errstate(invalid="ignore"):
        mean_of = total / known.sum(axis=-1)
    return np.exp(mean_of) if mean == "geometric" else mean_of


def _checked(cost, accuracy) -> tuple[np.ndarray, np.ndarray]:
    cost, accuracy = np.asarray(cost, np.float64), np.asarray(accuracy, np.float64)
    if cost.shape != accuracy.shape or cost.ndim != 1 or not cost.size:
        raise ValueError(
            f"cost and accuracy: shapes {cost.shape} and {accuracy.shape}; expected one number of each a model"
        )
    if not (np.isfinite(cost).all() and np.isfinite(accuracy).all()):
        raise ValueError("cost and accuracy: expected finite numbers; leave out models that lack one")
    return cost, accuracy


def _front(cost, accuracy) -> tuple[np.ndarray, np.ndarray]:
    """Return cost and accuracy of the members, both ascending, of shape (F,)."""
    cost, accuracy = _checked(cost, accuracy)
    members = pareto(cost, accuracy)
    return cost[members], accuracy[members]
