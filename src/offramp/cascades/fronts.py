"""The geometry of accuracy–cost fronts: what single models give, and what a cascade must give to beat them."""

from typing import Literal

import numpy as np


def pareto(cost, accuracy) -> np.ndarray:
    """The members of the front: models that are more accurate than all that cost no more.

    Sorted by cost, of equal costs the most accurate first, of equal accuracies too the first given; a model that is
    more accurate than all before it is a member.

    Parameters
    ----------
    cost, accuracy : array-like of shape (M,)
        Of each model, in any unit.

    Returns
    -------
    ndarray of int of shape (F,)
        Places of the members, in ascending cost and accuracy.

    Raises
    ------
    ValueError
        If the two differ in shape, there is no model, or a number is not finite.
    """
    cost, accuracy = _checked(cost, accuracy)
    order = np.lexsort((-accuracy, cost))  # (M,), stable: ties stay in the order given
    best = np.maximum.accumulate(accuracy[order])
    return order[np.diff(best, prepend=-np.inf) > 0]


def step_cost(cost, accuracy, at) -> np.ndarray:
    """What the cheapest model costs that is at least so accurate: the step front.

    Parameters
    ----------
    cost, accuracy : array-like of shape (M,)
        Of each model; those off the front make no difference.
    at : array-like of shape (T,)
        Accuracies.

    Returns
    -------
    ndarray of shape (T,)
        NaN where no model is so accurate.

    Raises
    ------
    ValueError
        As `pareto`.
    """
    cost, accuracy = _front(cost, accuracy)
    return np.append(cost, np.nan)[np.searchsorted(accuracy, at)]


def interpolated_cost(cost, accuracy, at) -> np.ndarray:
    """What a model on the line between neighbouring members would cost: the log-interpolated front.

    Between neighbours the logarithm of the cost is linear in accuracy.

    Parameters
    ----------
    cost, accuracy : array-like of shape (M,)
        Of each model; those off the front make no difference.
    at : array-like of shape (T,)
        Accuracies.

    Returns
    -------
    ndarray of shape (T,)
        Below the least accuracy of the front the cheapest cost, above the highest NaN.

    Raises
    ------
    ValueError
        As `pareto`; if a cost is not above 0.
    """
    cost, accuracy = _front(cost, accuracy)
    if cost[0] <= 0:
        raise ValueError(f"cost: one is {cost[0]:g}; expected costs above 0, for their logarithm is taken")
    return np.exp(np.interp(at, accuracy, np.log(cost), right=np.nan))


def ascending(cost, accuracy) -> tuple[np.ndarray, np.ndarray]:
    """A measured curve without the noise that makes it fall: accuracy made ascending by isotonic regression.

    Parameters
    ----------
    cost, accuracy : array-like of shape (T,)
        Of points in the order in which accuracy should ascend.

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
    """The share of samples that must end at the small model for a cascade of two to cost `large_cost / reduction`.

    All samples pay the small model, those that go on the large one too: c_S + (1 − e)·c_L = c_L / R, so
    e = c_S/c_L + 1 − 1/R. Above 1 no exit rate is enough. A reduction of 1 is what the large model alone costs.

    Parameters
    ----------
    small_cost, large_cost, reduction : float or array-like
        Above 0; shapes are broadcast.

    Returns
    -------
    float or ndarray

    Raises
    ------
    ValueError
        If one is not above 0.
    """
    of = {"small_cost": small_cost, "large_cost": large_cost, "reduction": reduction}
    for name, values in of.items():
        if not (np.asarray(values) > 0).all():
            raise ValueError(f"{name}: expected numbers above 0")
    small_cost, large_cost, reduction = (np.asarray(values, np.float64) for values in of.values())
    return small_cost / large_cost + (1 - 1 / reduction)


def mean_reduction(reductions, mean: Literal["arithmetic", "geometric"] = "arithmetic"):
    """Mean of the reductions at several accuracies, R(a) = C_single(a) / C_cascade(a).

    The arithmetic mean is the papers'; the geometric one is that of the logarithms, so that twice and half the cost
    make 1.

    Parameters
    ----------
    reductions : array-like of shape (..., T)
        NaN where one of the two reaches no such accuracy; these are left out.

    Returns
    -------
    float or ndarray of shape (...)
        NaN if all are.

    Raises
    ------
    ValueError
        If the mean is unknown, or a reduction is not above 0.
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
    """Cost and accuracy of the members, both ascending: (F,) each."""
    cost, accuracy = _checked(cost, accuracy)
    members = pareto(cost, accuracy)
    return cost[members], accuracy[members]
