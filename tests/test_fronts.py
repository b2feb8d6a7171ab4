"""Fronts compared with brute force, and tabulated exit rates."""

import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from offramp.cascades.fronts import ascending, interpolated_cost, mean_reduction, needed_exit_rate, pareto, step_cost
from strategies import quick

numbers = st.sampled_from([0.5, 1.0, 1.5, 2.0, 3.0]) | st.floats(1e-3, 1e3)  # ties are likely
models = st.lists(st.tuples(numbers, numbers), min_size=1, max_size=12)


def members(costs, accuracies):
    """Return the members of the front, by comparing each model with each other."""
    place = range(len(costs))

    def hides(j, i):
        """Return whether j is as cheap and as accurate as i and better in one of them, or equal and before i."""
        no_worse = costs[j] <= costs[i] and accuracies[j] >= accuracies[i]
        equal = (costs[j], accuracies[j]) == (costs[i], accuracies[i])
        return no_worse and (not equal or j < i)

    return sorted((i for i in place if not any(hides(j, i) for j in place)), key=lambda i: costs[i])


@quick
@given(models)
def test_the_front_is_who_nobody_hides(points):
    costs, accuracies = zip(*points)
    front = pareto(costs, accuracies)
    assert front.dtype.kind == "i"
    assert front.tolist() == members(costs, accuracies)


def test_ties():
    assert pareto([1, 1, 1, 2, 2, 3], [5, 7, 7, 7, 8, 8]).tolist() == [1, 4]
    assert pareto([3], [0]).tolist() == [0]
    assert pareto([2, 1], [-1.0, -2.0]).tolist() == [1, 0]


def test_a_curve_made_ascending():
    cost, accuracy = ascending([1.0, 3.0, 2.0, 5.0], [0.5, 0.8, 0.6, 0.9])
    assert cost.tolist() == [1, 2, 5]  # 0.8 and 0.6 are pooled to 0.7, and the cheaper one is kept
    assert accuracy == pytest.approx([0.5, 0.7, 0.9])


@quick
@given(models, st.lists(numbers, max_size=5))
def test_the_step_front_is_the_cheapest_of_those_so_accurate(points, at):
    costs, accuracies = zip(*points)
    at = [*at, *accuracies]
    expected = [min((c for c, a in points if a >= target), default=math.nan) for target in at]
    np.testing.assert_array_equal(step_cost(costs, accuracies, at), expected)


@quick
@given(models, st.lists(numbers, max_size=5))
def test_the_interpolated_front_is_a_line_between_neighbours(points, at):
    costs, accuracies = zip(*points)
    at = [*at, *accuracies]
    front = members(costs, accuracies)

    def between(target):
        if target > accuracies[front[-1]]:
            return math.nan
        if target <= accuracies[front[0]]:
            return costs[front[0]]
        high = next(k for k, i in enumerate(front) if accuracies[i] >= target)
        (c0, a0), (c1, a1) = points[front[high - 1]], points[front[high]]
        share = (target - a0) / (a1 - a0)
        return c0 ** (1 - share) * c1**share

    found = interpolated_cost(costs, accuracies, at)
    np.testing.assert_allclose(found, [between(target) for target in at], rtol=1e-9)
    step = step_cost(costs, accuracies, at)
    assert (np.isnan(found) == np.isnan(step)).all()
    assert (found <= step * (1 + 1e-9))[~np.isnan(step)].all()


def test_interpolation_by_hand():
    """Half-way in accuracy is the geometric mean in cost. A model off the front has no effect."""
    at = [50, 70, 75, 80, 80.1, np.nan]
    found = interpolated_cost([1, 100, 50], [70, 80, 60], at)
    np.testing.assert_allclose(found, [1, 1, 10, 100, np.nan, np.nan])
    np.testing.assert_array_equal(step_cost([1, 100, 50], [70, 80, 60], at), [1, 1, 100, 100, np.nan, np.nan])


# Exit rates


def test_the_table_of_exit_rates():
    ratio = np.array([0.01, 0.02, 0.05, 0.10, 0.20, 0.30])
    needed = needed_exit_rate(10 * ratio, 10, np.array([[1], [1.9], [3.1]]))  # (3, 6)
    assert needed[0].tolist() == pytest.approx(ratio, rel=1e-15)
    assert np.round(needed[1], 3).tolist() == [0.484, 0.494, 0.524, 0.574, 0.674, 0.774]
    assert np.round(needed[2], 3).tolist() == [0.687, 0.697, 0.727, 0.777, 0.877, 0.977]


@quick
@given(numbers, numbers, st.floats(0.5, 5))
def test_a_cascade_with_that_exit_rate_costs_what_it_should(small, large, reduction):
    e = needed_exit_rate(small, large, reduction)
    assert small + (1 - e) * large == pytest.approx(large / reduction, rel=1e-9, abs=1e-9 * (small + large))
    assert needed_exit_rate(small, large) == small / large


def test_means_of_reductions():
    assert mean_reduction([2, 0.5, np.nan]) == 1.25
    assert mean_reduction([2, 0.5, np.nan], "geometric") == pytest.approx(1)
    assert math.isnan(mean_reduction([np.nan]))
    assert math.isnan(mean_reduction([], "geometric"))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pareto([1, 2], [1]), "cost and accuracy: shapes (2,) and (1,); expected one number of each a model"),
        (lambda: pareto([], []), "expected one number of each a model"),
        (lambda: step_cost([1, np.nan], [1, 2], [1]), "expected finite numbers; leave out models that lack one"),
        (lambda: pareto([1, 2], [1, np.inf]), "expected finite numbers"),
        (lambda: interpolated_cost([0, 1], [1, 2], [1]), "cost: one is 0; expected costs above 0"),
        (lambda: needed_exit_rate(1, 0), "large_cost: expected numbers above 0"),
        (lambda: needed_exit_rate([1, np.nan], 1), "small_cost: expected numbers above 0"),
        (lambda: needed_exit_rate(1, 1, -1), "reduction: expected numbers above 0"),
        (lambda: mean_reduction([1, 0]), "reductions: expected numbers above 0, or NaN"),
        (lambda: mean_reduction([1], "median"), "mean is 'median'; expected arithmetic or geometric"),
    ],
)
def test_what_is_refused(call, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        call()
