"""The evaluation kernel compared with a router that processes one sample after the other."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import f1_score, matthews_corrcoef

import oracles
from offramp import ExitRecord, choose_threshold, evaluate, frontier, make_policy
from offramp.evaluation import decide, outcomes
from strategies import given_signal, quick, records, signals, thresholds

NO_EXIT = ["last", "most_accurate", "most_confident"]
METRICS = {"f1": lambda *classes: f1_score(*classes, zero_division=0), "matthews": matthews_corrcoef}
pytestmark = pytest.mark.filterwarnings("ignore:A single label was found:UserWarning")  # scikit-learn's
any_records = records(sample_costs=True, metrics=("accuracy", "f1", "matthews"))


def points(table, record):
    """Return the rows as (number right, number that leaves at each exit), as integers that can be compared exactly."""
    n = record.n_samples
    shares = table[[f"exit_{i + 1}" for i in range(record.n_exits)]].to_numpy() * n
    right = table.accuracy.to_numpy() * n
    for counts in (right, shares):
        np.testing.assert_allclose(counts, np.rint(counts), atol=1e-9)
    return [(int(r), tuple(map(int, s))) for r, s in zip(np.rint(right), np.rint(shares))]


@st.composite
def routed(draw):
    """Draw a record, a signal, possibly fallback exits, and thresholds that are unsorted and repeated."""
    record = draw(any_records)
    n, l = record.n_samples, record.n_exits
    signal = draw(signals((n, l)))
    fallback = draw(st.none() | arrays(np.int64, n, elements=st.integers(0, l - 1)))
    chosen = draw(st.lists(thresholds(signal), min_size=1, max_size=8))
    return record, signal, fallback, np.array(chosen + chosen[:2])


@st.composite
def falling_back(draw):
    """Draw the same with a fitted PCEE, and the exit that answers if no exit reaches δ."""
    record = draw(any_records)
    policy = make_policy("pcee", bins=draw(st.integers(1, 8)), no_exit=draw(st.sampled_from(NO_EXIT))).fit(record)
    signal = policy.signal(record)
    answers = {
        "last": None,
        "most_accurate": oracles.best_exit(signal),
        "most_confident": oracles.best_exit(record.confidence()),
    }[policy.no_exit]
    chosen = draw(st.lists(thresholds(signal), min_size=1, max_size=8))
    return record, policy, signal, answers, np.array(chosen)


def check_evaluate(policy, record, signal, deltas, fallback=None):
    table = evaluate(policy, record, deltas)
    exits = [f"exit_{i + 1}" for i in range(record.n_exits)]
    metric = [] if record.metric == "accuracy" else [record.metric]
    assert list(table) == ["threshold", "accuracy", "cost", *exits, *metric]
    np.testing.assert_array_equal(table.threshold, deltas)
    expected = [oracles.operating_point(signal, record.correct, t, fallback) for t in deltas]
    assert points(table, record) == expected
    for t, delta in enumerate(deltas):
        exits, answered = oracles.answers(signal, record.prediction, delta, fallback)
        assert table.cost[t] == pytest.approx(math.fsum(oracles.cost_of(record, exits)) / record.n_samples, rel=1e-13)
        for name in metric:
            assert table[name][t] == pytest.approx(METRICS[name](record.labels, answered), abs=1e-12)


@quick
@given(routed())
def test_evaluate_is_the_router(case):
    record, signal, fallback, deltas = case
    check_evaluate(given_signal(signal, fallback), record, signal, deltas, fallback)


@quick
@given(falling_back())
def test_evaluate_with_an_answer_where_no_exit_is_good_enough(case):
    record, policy, signal, fallback, deltas = case
    check_evaluate(policy, record, signal, deltas, fallback)


def check_outcomes(policy, record, signal, deltas, fallback):
    right, cost = outcomes(policy, record, deltas)
    assert right.shape == cost.shape == (len(deltas), record.n_samples)
    assert right.dtype == bool
    for t, delta in enumerate(deltas):
        exits, expected = oracles.route(signal, record.correct, delta, fallback)
        np.testing.assert_array_equal(right[t], expected)
        np.testing.assert_array_equal(cost[t], oracles.cost_of(record, exits))


@quick
@given(routed())
def test_exits_and_outcomes_are_the_router(case):
    record, signal, fallback, deltas = case
    policy = given_signal(signal, fallback)
    check_outcomes(policy, record, signal, deltas, fallback)
    for delta in deltas:
        exits, _ = oracles.route(signal, record.correct, delta, fallback)
        np.testing.assert_array_equal(policy.exits(record, delta), exits)


@quick
@given(falling_back())
def test_outcomes_with_an_answer_where_no_exit_is_good_enough(case):
    record, policy, signal, fallback, deltas = case
    check_outcomes(policy, record, signal, deltas, fallback)


@quick
@given(st.data())
def test_a_threshold_for_each_exit(data):
    record = data.draw(records())
    signal = data.draw(signals((record.n_samples, record.n_exits)))
    each = record.n_exits - 1
    deltas = np.array(data.draw(st.lists(thresholds(signal), min_size=each, max_size=each)), np.float64)
    expected = [oracles.leaves_at(row, deltas) for row in signal]
    np.testing.assert_array_equal(given_signal(signal).exits(record, deltas), expected)


def check_frontier(policy, record, signal, fallback):
    table = frontier(policy, record)
    rows = points(table, record)
    assert set(rows) == oracles.all_points(signal, record.correct, fallback)
    assert len(rows) == len(set(rows))
    assert (np.diff(table.threshold) > 0).all()
    assert table.threshold.iloc[-1] == np.inf
    assert (np.diff(table.cost) >= 0).all()
    higher = {*map(float, np.unique(signal)), np.inf}
    for threshold, row in zip(table.threshold, rows):
        assert oracles.operating_point(signal, record.correct, threshold, fallback) == row
        for other in higher:  # it is the largest threshold that gives this point
            assert other <= threshold or oracles.operating_point(signal, record.correct, other, fallback) != row
        if fallback is None and threshold < np.inf:
            beyond = math.nextafter(threshold, np.inf)
            assert oracles.operating_point(signal, record.correct, beyond) != row


@quick
@given(routed())
def test_frontier_has_every_point_once(case):
    record, signal, fallback, _ = case
    check_frontier(given_signal(signal, fallback), record, signal, fallback)


@quick
@given(falling_back())
def test_frontier_of_pcee_has_every_point_once(case):
    record, policy, signal, fallback, _ = case
    check_frontier(policy, record, signal, fallback)


@quick
@given(records())
def test_ends(record):
    ends = evaluate(make_policy("confidence"), record, [-np.inf, np.inf])
    np.testing.assert_allclose(ends.cost, record.cost[[0, -1]], rtol=1e-13)
    np.testing.assert_array_equal(ends.accuracy, record.correct.mean(0)[[0, -1]])
    assert ends.exit_1[0] == 1
    assert ends.iloc[1, -1] == 1


@quick
@given(records(), st.data())
def test_the_cheapest_threshold_that_is_accurate_enough(record, data):
    policy = make_policy("confidence")
    every = oracles.all_points(record.confidence(), record.correct)
    target = data.draw(st.sampled_from([r / record.n_samples for r, _ in every]) | st.floats(0, 1))
    costs = [oracles.mean_cost(c, record.cost) for right, c in every if right / record.n_samples >= target]
    if not costs:
        with pytest.warns(UserWarning, match=rf"no threshold of confidence reaches an accuracy of {target:g} "):
            assert choose_threshold(policy, record, accuracy=target) == np.inf
    else:
        threshold = choose_threshold(policy, record, accuracy=target)
        right, counts = oracles.operating_point(record.confidence(), record.correct, threshold)
        assert right / record.n_samples >= target
        assert oracles.mean_cost(counts, record.cost) == min(costs)


@quick
@given(records(), st.data())
def test_the_threshold_that_spends_most_of_a_budget(record, data):
    policy = make_policy("confidence")
    every = [(r, oracles.mean_cost(c, record.cost)) for r, c in oracles.all_points(record.confidence(), record.correct)]
    # Mean costs may be rounded up, so limits are slightly above each of them, or anywhere
    limit = data.draw(st.sampled_from([cost * (1 + 1e-12) for _, cost in every]) | st.floats(0, 40))
    affordable = [cost for _, cost in every if cost <= limit]
    if not affordable:
        with pytest.warns(UserWarning, match=r"no threshold of confidence costs at most .* \(the lowest cost is "):
            assert choose_threshold(policy, record, cost=limit) == -np.inf
    else:
        threshold = choose_threshold(policy, record, cost=limit)
        _, counts = oracles.operating_point(record.confidence(), record.correct, threshold)
        assert oracles.mean_cost(counts, record.cost) == max(affordable)


def test_the_full_model_is_affordable_at_its_own_cost():
    """This holds also if the cost is not an integer and the mean over samples is rounded."""
    record = ExitRecord.from_outputs([[0, 1]] * 3, [[0.5, 0.6]] * 3, [1, 1, 1], [0.05, 0.1])
    assert evaluate(make_policy("confidence"), record, [-np.inf, np.inf]).cost.tolist() == [0.05, 0.1]
    assert choose_threshold(make_policy("confidence"), record, cost=0.1) == np.inf


@pytest.mark.parametrize("goal", [{}, {"accuracy": 0.5, "cost": 1.0}])
def test_choose_threshold_wants_one_goal(goal):
    record = ExitRecord.from_outputs([[0, 0]], [[0.5, 0.5]], [0], [1, 2])
    with pytest.raises(ValueError, match="accuracy or cost"):
        choose_threshold(make_policy("confidence"), record, **goal)


@pytest.mark.parametrize("bad", [[0.5, np.nan], [[0.5, 0.6]]])
def test_evaluate_refuses(bad):
    record = ExitRecord.from_outputs([[0, 0]], [[0.5, 0.5]], [0], [1, 2])
    with pytest.raises(ValueError, match=r"thresholds?: expected"):
        evaluate(make_policy("confidence"), record, bad)


@pytest.mark.parametrize("bad", [np.nan, [0.5], [0.5, 0.6, 0.7], [0.5, np.nan], [[0.5, 0.6]]])
def test_exits_refuse(bad):
    record = ExitRecord.from_outputs([[0, 0, 0]], [[0.5, 0.5, 0.5]], [0], [1, 2, 3])
    with pytest.raises(ValueError, match="threshold: expected a number or 2"):
        make_policy("confidence").exits(record, bad)


@pytest.mark.parametrize("function", [frontier, lambda policy, record: evaluate(policy, record, [0.5])])
def test_a_signal_that_is_no_number_is_refused(function):
    record = ExitRecord.from_outputs([[0, 0]], [[0.5, 0.5]], [0], [1, 2])
    with pytest.raises(ValueError, match="signal has NaN"):
        function(given_signal([[0.5, np.nan]]), record)


def test_one_number_and_no_number_are_thresholds_too():
    record = ExitRecord.from_outputs([[0, 0]], [[0.5, 0.5]], [0], [1, 2])
    assert evaluate(make_policy("confidence"), record, 0.5).cost.tolist() == [1.0]
    assert len(evaluate(make_policy("confidence"), record, [])) == 0


@pytest.mark.parametrize(
    ("last", "delta", "right"),
    [
        (0.8, 0.1, True),  # the first exit meets the threshold
        (0.8, 0.5, False),  # only the last exit meets it and gives its own, wrong answer
        (0.8, 0.9, True),  # no exit meets it: the first exit answers, at full cost
        (np.inf, 1e308, False),
        (np.inf, np.inf, True),  # nothing meets +∞
    ],
)
def test_which_exit_answers(last, delta, right):
    record = ExitRecord.from_outputs([[0, 1]], [[0.5, 0.5]], [0], [1, 2])
    policy = given_signal([[0.2, last]], answers=np.array([0]))
    table = evaluate(policy, record, [delta])
    paid = 1 if delta < 0.2 else 2
    assert (table.accuracy[0], table.cost[0]) == (right, paid)
    was_right, cost = outcomes(policy, record, [delta])
    assert (was_right.tolist(), cost.tolist()) == ([[right]], [[paid]])


def test_equal_is_enough_in_float64():
    """A float32 confidence meets its own value as a threshold, but not the next larger float64."""
    value = np.float32(0.9)
    record = ExitRecord.from_outputs([[0, 0]], np.array([[value, 1]], np.float32), [0], [1, 2])
    policy = make_policy("confidence")
    above = np.nextafter(float(value), 1)
    assert policy.exits(record, float(value)).tolist() == [0]
    assert policy.exits(record, above).tolist() == [1]
    assert evaluate(policy, record, [value, above]).exit_1.tolist() == [1, 0]


# Costs of each sample


@quick
@given(records(), st.data())
def test_costs_that_are_alike_are_the_shared_ones(record, data):
    rows = np.tile(record.cost, (record.n_samples, 1))
    each = with_outputs(record, cost=rows)
    signal = data.draw(signals(record.prediction.shape))
    policy, deltas = given_signal(signal), data.draw(st.lists(thresholds(signal), min_size=1))
    pd.testing.assert_frame_equal(evaluate(policy, each, deltas), evaluate(policy, record, deltas))
    pd.testing.assert_frame_equal(frontier(policy, each), frontier(policy, record))
    for found, expected in zip(outcomes(policy, each, deltas), outcomes(policy, record, deltas)):
        np.testing.assert_array_equal(found, expected)


def test_the_cheapest_threshold_where_samples_cost_differently():
    """At 0.5, fewer samples reach the last exit than at 0.4, but they cost more."""
    record = ExitRecord.from_outputs(
        [[0, 0], [1, 0], [1, 0]], [[0.5, 1], [0.2, 1], [0.4, 1]], [0, 0, 1], [[1, 9], [1, 2], [1, 50]]
    )
    policy = make_policy("confidence")
    assert frontier(policy, record).cost.tolist() == [1, (1 + 2 + 1) / 3, (1 + 2 + 50) / 3, 61 / 3]
    assert choose_threshold(policy, record, accuracy=1) == np.float64(0.4)
    assert choose_threshold(policy, record, cost=2) == np.float64(0.4)
    assert choose_threshold(policy, record, cost=20) == np.float64(0.5)


def test_the_full_model_is_affordable_at_its_own_mean_cost():
    """As with shared costs, rounding has no effect."""
    random = np.random.default_rng(0)
    for _ in range(50):
        steps = random.uniform(0.01, 1, (20, 3))
        record = ExitRecord.from_outputs(np.zeros((20, 3), int), random.random((20, 3)), [0] * 20, steps.cumsum(1))
        assert choose_threshold(make_policy("confidence"), record, cost=record.cost[-1]) == np.inf


# Policies with their own answers, and decisions


def with_outputs(record, prediction=None, cost=None):
    return ExitRecord.from_outputs(
        record.prediction if prediction is None else prediction,
        {measure: record.measure(measure) for measure in record.measures},
        record.labels,
        next(c for c in (cost, record.sample_cost, record.cost) if c is not None),
        metadata=record.metadata,
    )


@quick
@given(routed(), st.data())
def test_answers_of_its_own_are_as_if_the_record_had_them(case, data):
    record, signal, fallback, deltas = case
    own = data.draw(arrays(np.int64, signal.shape, elements=st.integers(0, record.n_classes - 1)))
    policy, plain, other = (
        given_signal(signal, fallback, own),
        given_signal(signal, fallback),
        with_outputs(record, own),
    )
    pd.testing.assert_frame_equal(evaluate(policy, record, deltas), evaluate(plain, other, deltas))
    pd.testing.assert_frame_equal(frontier(policy, record), frontier(plain, other))
    for function in (outcomes, decide):
        for found, expected in zip(function(policy, record, deltas), function(plain, other, deltas)):
            np.testing.assert_array_equal(found, expected)
    for reference in ("overall", "same_samples"):
        choice = {"reference": reference, "min_support": 1}
        np.testing.assert_array_equal(
            policy.choose_thresholds(record, **choice), plain.choose_thresholds(other, **choice)
        )


def check_decide(policy, record, signal, deltas, fallback):
    exits, answered = decide(policy, record, deltas)
    assert exits.shape == answered.shape == (len(deltas), record.n_samples)
    assert exits.dtype == answered.dtype == np.int64
    for t, delta in enumerate(deltas):
        expected = oracles.answers(signal, record.prediction, delta, fallback)
        np.testing.assert_array_equal([exits[t], answered[t]], expected)
    shared = [t for t, delta in enumerate(deltas) if np.ndim(delta) == 0]
    right, cost = outcomes(policy, record, [deltas[t] for t in shared])
    np.testing.assert_array_equal(answered[shared] == record.labels, right)
    np.testing.assert_array_equal(record.cost_of(exits[shared]), cost)
    accuracy = evaluate(policy, record, [deltas[t] for t in shared]).accuracy
    np.testing.assert_array_equal((answered[shared] == record.labels).mean(1), accuracy)


@quick
@given(routed(), st.data())
def test_decisions_are_the_routers_whether_thresholds_are_shared_or_not(case, data):
    record, signal, fallback, deltas = case
    k = record.n_exits - 1
    one_each = st.lists(thresholds(signal), min_size=k, max_size=k).map(np.array)
    mixed = data.draw(st.permutations([*deltas, *data.draw(st.lists(one_each, min_size=1, max_size=3))]))
    check_decide(given_signal(signal, fallback), record, signal, mixed, fallback)


@quick
@given(falling_back())
def test_decisions_with_an_answer_where_no_exit_is_good_enough(case):
    record, policy, signal, fallback, deltas = case
    before = record.prediction.copy()
    check_decide(policy, record, signal, deltas, fallback)
    np.testing.assert_array_equal(record.prediction, before)
