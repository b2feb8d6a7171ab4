"""Reliability diagrams, accuracy maps and temperatures compared with plain loops."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax

import oracles
from offramp import ExitRecord, make_policy
from offramp.calibration import StepMap, fit_temperature, histogram_map, isotonic_map, reliability_diagram, window_map
from offramp.evaluation.exits import exit_table, reliability_table
from strategies import EDGES, few, quick, records


@st.composite
def outcomes(draw, size=12):
    """Draw confidences with many ties, and whether each sample is right."""
    n = draw(st.integers(1, size))
    pool = draw(few(st.sampled_from(EDGES) | st.floats(0, 1), 6))
    confidence = draw(st.lists(st.sampled_from(pool), min_size=n, max_size=n))
    return np.array(confidence), np.array(draw(st.lists(st.booleans(), min_size=n, max_size=n)))


def check_diagram(diagram, confidence, correct):
    rows = oracles.diagram(diagram.edges, confidence, correct)
    count, mean, accuracy = zip(*rows)
    assert diagram.count.tolist() == list(count)
    missing = [np.nan if value is None else value for value in accuracy]
    np.testing.assert_array_equal(diagram.accuracy, missing)
    np.testing.assert_allclose(
        diagram.mean_confidence, [np.nan if value is None else value for value in mean], rtol=1e-13
    )
    assert diagram.ece == pytest.approx(oracles.ece(rows), abs=1e-13)
    return rows


@quick
@given(outcomes(), st.integers(1, 12))
def test_equal_width_is_the_loop(samples, bins):
    confidence, correct = samples
    diagram = reliability_diagram(confidence, correct, bins)
    np.testing.assert_array_equal(diagram.edges, np.linspace(0, 1, bins + 1))
    check_diagram(diagram, confidence, correct)


@quick
@given(outcomes(), st.integers(1, 8))
def test_negated_entropy_has_its_own_range(samples, bins):
    confidence, correct = samples
    limits = (-math.log(3), 0.0)
    diagram = reliability_diagram(-confidence, correct, bins, limits=limits)
    assert (diagram.edges[0], diagram.edges[-1]) == limits
    check_diagram(diagram, -confidence, correct)


@quick
@given(outcomes(), st.integers(1, 12))
def test_equal_mass_is_the_loop(samples, bins):
    confidence, correct = samples
    diagram = reliability_diagram(confidence, correct, bins, "equal_mass")
    assert (diagram.edges[0], diagram.edges[-1]) == (confidence.min(), confidence.max())
    assert len(diagram.count) <= bins
    assert (np.diff(diagram.edges) > 0).all() or len(diagram.count) == 1
    check_diagram(diagram, confidence, correct)


@pytest.mark.parametrize("bins", [1, 2, 3, 7, 10, 15, 50])
@pytest.mark.parametrize("n", [50, 99, 100, 360])
def test_equal_mass_shares_samples_out_evenly(n, bins):
    confidence = np.random.default_rng(n).permutation(n) / n
    count = reliability_diagram(confidence, np.ones(n), bins, "equal_mass").count
    assert len(count) == bins
    assert np.abs(count - n / bins).max() < 2


def test_equal_mass_bins_that_tie_are_one():
    confidence = np.array([0.1, 0.2] + [0.5] * 8)
    diagram = reliability_diagram(confidence, [1, 0] + [1] * 8, 5, "equal_mass")
    assert len(diagram.count) < 5
    assert diagram.count.sum() == 10
    everything = reliability_diagram([0.5, 0.5], [1, 0], 5, "equal_mass")
    assert (everything.count.tolist(), everything.accuracy.tolist()) == ([2], [0.5])


def test_edges_belong_to_the_bin_above_and_the_right_end_to_the_last():
    diagram = reliability_diagram([0.0, 0.25, 0.5, 0.75, 1.0], [1, 0, 1, 0, 1], 4)
    assert diagram.count.tolist() == [1, 1, 1, 2]
    assert diagram.accuracy.tolist() == [1, 0, 1, 0.5]
    assert diagram.mean_confidence.tolist() == [0, 0.25, 0.5, 0.875]
    assert diagram.ece == pytest.approx((1 + 0.25 + 0.5 + 2 * 0.375) / 5)


def test_an_empty_bin_has_no_accuracy_and_no_weight():
    diagram = reliability_diagram([0.1, 0.9], [0, 1], 10)
    assert np.isnan(diagram.accuracy).sum() == np.isnan(diagram.mean_confidence).sum() == 8
    assert diagram.ece == pytest.approx(0.1)


# Step maps


def test_a_step_map_takes_the_step_at_its_edge():
    step = StepMap(np.array([0.25, 0.5]), np.array([1.0, 2.0, 3.0]))
    assert step([-1, 0.2, 0.25, 0.4, 0.5, 9]).tolist() == [1, 1, 2, 2, 3, 3]


@quick
@given(outcomes(), st.integers(1, 12), st.sampled_from(["equal_width", "equal_mass"]), outcomes())
def test_the_histogram_map_is_the_loop(samples, bins, binning, others):
    confidence, correct = samples
    diagram = reliability_diagram(confidence, correct, bins, binning)
    rows = oracles.diagram(diagram.edges, confidence, correct)
    queries = np.concatenate([confidence, others[0], diagram.edges, [0, 1]])
    expected = [oracles.histogram_accuracy(diagram.edges, rows, query) for query in queries]
    np.testing.assert_array_equal(histogram_map(diagram)(queries), expected)


def test_an_empty_bin_takes_what_is_below_and_nothing_is_invented():
    diagram = reliability_diagram([0.32, 0.35, 0.72], [1, 0, 1], 10)
    estimates = histogram_map(diagram)(np.arange(10) / 10 + 0.05)
    assert estimates.tolist() == [0, 0, 0, 0.5, 0.5, 0.5, 0.5, 1, 1, 1]


@quick
@given(outcomes(size=9), st.integers(1, 11), st.floats(0, 1))
def test_the_window_map_is_the_nearest_samples(samples, window, query):
    confidence, correct = samples
    estimate = window_map(confidence, correct, window)
    # Queries half-way between two samples depend on rounding, so they are tested separately below
    queries = np.array([q for q in (*confidence, query, 0.0, 1.0) if not halfway(confidence, q)])
    expected = [float(oracles.window_accuracy(confidence, correct, window, q)) for q in queries]
    np.testing.assert_allclose(estimate(queries), expected, atol=1e-15)


def halfway(confidence, query):
    """Return whether the query is equally far from two levels, up to the precision of floats."""
    levels = sorted(set(map(float, confidence)))
    return any(math.isclose(a + b, 2 * query, rel_tol=1e-14, abs_tol=1e-300) for a in levels for b in levels if a < b)


@quick
@given(st.lists(st.tuples(st.integers(0, 8), st.booleans()), min_size=1, max_size=10), st.integers(1, 12))
def test_the_window_map_half_way_takes_the_surer(samples, window):
    confidence, right = zip(*samples)
    confidence = np.array(confidence) / 8  # midpoints of eighths are exact
    estimate = window_map(confidence, right, window)
    queries = np.arange(-1, 18) / 16
    expected = [float(oracles.window_accuracy(confidence, right, window, q)) for q in queries]
    np.testing.assert_allclose(estimate(queries), expected, atol=1e-15)


@pytest.mark.parametrize("window", [1, 2, 5, 100])
def test_more_equal_values_than_the_window(window):
    estimate = window_map(np.full(8, 0.5), [1, 1, 1, 0, 0, 0, 0, 0], window)
    assert estimate([0, 0.5, 1]).tolist() == [0.375] * 3


def test_the_order_of_ties_does_not_matter():
    random = np.random.default_rng(0)
    confidence = random.integers(0, 5, 40) / 5
    correct = random.random(40) < 0.6
    order = random.permutation(40)
    a, b = window_map(confidence, correct, 7), window_map(confidence[order], correct[order], 7)
    np.testing.assert_array_equal(a.edges, b.edges)
    np.testing.assert_array_equal(a.values, b.values)


@quick
@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=40), st.integers(1, 40))
def test_an_accuracy_of_exactly_delta_is_not_under_delta(samples, window):
    """The accuracy of a window with k of W right is the same float as the user's k / W.

    Otherwise the comparison ≥ δ would fail. The same must hold if the window cuts through tied samples.
    """
    confidence, right = zip(*samples)
    confidence = np.array(confidence) / 8
    estimate = window_map(confidence, right, window)
    for query in np.unique(confidence):
        assert estimate(query) == float(oracles.window_accuracy(confidence, right, window, query))


def test_an_accuracy_of_exactly_delta_where_a_tie_is_cut():
    estimate = window_map([0.0, 0.25, 0.25, 0.25], [True, False, True, True], 2)
    assert estimate(0.0) >= float(Fraction(5, 6))


@pytest.mark.parametrize("low", [1e-30, np.nextafter(0.25, 1)])
def test_half_way_is_exact_where_the_sum_of_two_confidences_is_rounded(low):
    """The exact midpoint lies above its rounded value, which is nearer to the lower confidence."""
    exact = (Fraction(low) + Fraction(0.5)) / 2
    rounded = (low + 0.5) / 2
    assert Fraction(rounded) < exact
    for estimate in (window_map([low, 0.5], [False, True], 1), isotonic_map([low, 0.5], [False, True])):
        assert estimate(np.array([low, rounded, np.nextafter(rounded, 1), 0.5])).tolist() == [0, 0, 1, 1]


@quick
@given(outcomes(size=9), st.floats(0, 1))
def test_the_isotonic_map_is_the_formula(samples, query):
    confidence, correct = samples
    estimate = isotonic_map(confidence, correct)
    queries = np.array([*confidence, *(q for q in (query, 0.0, 1.0) if not halfway(confidence, q))])
    expected = [float(oracles.isotonic_accuracy(confidence, correct, q)) for q in queries]
    np.testing.assert_array_equal(estimate(queries), expected)  # exactly k/n for k of n right, so that it is ≥ δ = k/n
    rising = estimate(np.sort(queries))
    assert (np.diff(rising) >= 0).all()
    # The mean estimate is the mean accuracy
    assert estimate(confidence).sum() == pytest.approx(sum(map(bool, correct)), rel=1e-12)


@quick
@given(st.lists(st.tuples(st.integers(0, 8), st.booleans()), min_size=1, max_size=10))
def test_the_isotonic_map_half_way_takes_the_surer(samples):
    confidence, right = zip(*samples)
    confidence = np.array(confidence) / 8  # midpoints of eighths are exact
    queries = np.arange(-1, 18) / 16
    expected = [float(oracles.isotonic_accuracy(confidence, right, q)) for q in queries]
    np.testing.assert_array_equal(isotonic_map(confidence, right)(queries), expected)


def test_the_isotonic_map_between_neighbouring_floats():
    for low in (0.0, 0.5, np.nextafter(0.5, 1)):
        confidence = [low, np.nextafter(low, 1)]
        assert isotonic_map(confidence, [False, True])(confidence).tolist() == [0, 1]


def test_an_accuracy_of_exactly_delta_where_levels_are_pooled():
    """Pool levels with 15 of 22 and 0 of 1 right.

    The weighted mean of the two shares, 15/22 · 22/23, would be rounded to a float below 15/23.
    """
    estimate = isotonic_map([0.25] * 22 + [0.75], [True] * 15 + [False] * 8)
    assert estimate([0.0, 0.25, 0.75]).tolist() == [15 / 23] * 3


@pytest.mark.parametrize("levels", [2, 30, 100_000])
def test_the_isotonic_map_is_scikit_learns(levels):
    isotonic = pytest.importorskip("sklearn.isotonic")
    random = np.random.default_rng(levels)
    confidence = random.integers(0, levels, 3000) / levels
    correct = random.random(3000) < confidence**2
    expected = isotonic.IsotonicRegression().fit_transform(confidence, correct)
    estimate = isotonic_map(confidence, correct)
    np.testing.assert_allclose(estimate(confidence), expected, rtol=1e-12, atol=1e-15)
    for query in np.unique(confidence)[:: max(1, levels // 50)]:  # whole blocks, independent of rounding
        block = correct[estimate(confidence) == estimate(query)]
        assert estimate(query) == block.sum() / len(block)


# Temperature


def nll(logits, labels, temperature):
    return -log_softmax(logits.astype(np.float64) / temperature, axis=1)[np.arange(len(labels)), labels].mean()


@pytest.mark.parametrize("true", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_a_known_temperature_is_found(true, dtype):
    random = np.random.default_rng(1)
    logits = (random.normal(size=(20_000, 5)) * 2).astype(dtype)
    gumbel = random.gumbel(size=logits.shape)
    labels = (logits / true + gumbel).argmax(1)  # drawn from softmax(logits / T)
    found = fit_temperature(logits, labels)
    assert found == pytest.approx(true, rel=0.05)
    for other in (found * 0.99, found * 1.01, true):
        assert nll(logits, labels, found) <= nll(logits, labels, other)


def test_the_optimum_is_the_optimum():
    random = np.random.default_rng(2)
    labels = random.integers(0, 3, 50)
    # Only differences of logits within a sample matter
    logits = random.normal(size=(50, 3)) * 3 + 4 * np.eye(3)[labels] + random.normal(size=(50, 1)) * 1e4
    found = fit_temperature(logits, labels)
    grid = np.exp(np.linspace(np.log(0.01), np.log(100), 400))
    assert 0.02 < found < 50
    assert nll(logits, labels, found) <= min(nll(logits, labels, t) for t in grid)


def test_always_right_and_always_wrong_stay_in_bounds():
    logits = np.array([[5.0, 0.0], [0.0, 3.0]], np.float32)
    assert 0.01 <= fit_temperature(logits, [0, 1]) < 0.1  # at lower temperatures the likelihood is already 1
    assert 99 < fit_temperature(logits, [1, 0]) <= 100


# Tables


@quick
@given(records(), st.integers(1, 6))
def test_tables_are_the_loops(record, bins):
    pcee = make_policy("pcee", bins=5).fit(record)
    policies = {"plain": make_policy("confidence"), "margin": make_policy("confidence", score="margin"), "pcee": pcee}
    record.metadata["exit_parameters"] = list(range(10, 10 + record.n_exits))
    table = reliability_table(record, bins)
    exits = exit_table(record, policies, bins)
    edges = np.linspace(0, 1, bins + 1)
    assert list(table) == ["exit", "lower", "upper", "count", "mean_confidence", "accuracy"]
    assert list(exits)[:5] == ["exit", "accuracy", "cost", "agreement", "parameters"]
    assert list(exits)[5:] == ["overconfidence", "ece_plain", "ece_pcee"]
    assert len(table) == record.n_exits * bins
    for i in range(record.n_exits):
        rows = oracles.diagram(edges, record.confidence()[:, i], record.correct[:, i])
        of_exit = table[table.exit == i + 1]
        np.testing.assert_array_equal(of_exit.lower, edges[:-1])
        np.testing.assert_array_equal(of_exit.upper, edges[1:])
        assert of_exit["count"].tolist() == [count for count, _, _ in rows]
        np.testing.assert_array_equal(of_exit.accuracy, [np.nan if a is None else a for _, _, a in rows])
        row = exits.iloc[i]
        assert (row.exit, row.cost, row.parameters) == (i + 1, record.cost[i], 10 + i)
        assert row.accuracy == sum(map(bool, record.correct[:, i])) / record.n_samples
        same = [row[i] == row[i - 1] for row in record.prediction] if i else [np.nan]
        np.testing.assert_equal(row.agreement, sum(same) / len(same))
        surer = sum(map(float, record.confidence()[:, i])) / record.n_samples - row.accuracy
        assert row.overconfidence == pytest.approx(surer, abs=1e-12)
        for label, policy in (("plain", policies["plain"]), ("pcee", pcee)):
            signal = policy.signal(record)[:, i]
            expected = oracles.ece(oracles.diagram(edges, signal, record.correct[:, i]))
            assert row[f"ece_{label}"] == pytest.approx(expected, abs=1e-12)


def test_overconfidence_only_where_there_is_max_softmax():
    record = ExitRecord.from_outputs([[0, 0]], {"margin": [[0.5, 0.5]]}, [0], [1, 2])
    assert exit_table(record, {}, 5).overconfidence.isna().all()


def test_parameters_only_where_the_record_knows():
    record = ExitRecord.from_outputs([[0, 0]], [[0.5, 0.5]], [0], [1, 2])
    assert exit_table(record, {}, 5).parameters.isna().all()
