"""Agreement within tiers compared with loops. Learnt deferral compared with its gradient and worked cases."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from offramp import (
    ExitRecord,
    cascade,
    choose_threshold,
    evaluate,
    frontier,
    load_policies,
    make_policy,
    save_policies,
)
from offramp.policies.deferral import fit_logistic
from offramp.records.confidence import MEASURES
from strategies import quick, records, thresholds

# Agreement


def vote(prediction, tier):
    """Return answers and signal of one sample, tier by tier."""
    answers, signal = list(prediction), [-math.inf] * len(prediction)
    for start in range(0, len(prediction), tier):
        members = prediction[start : start + tier]
        counts = Counter(members)
        most = max(counts.values())
        for answer in members:  # of tied classes, the last one is kept
            if counts[answer] == most:
                winner = answer
        last = start + len(members) - 1
        answers[last], signal[last] = winner, most / len(members)
    return answers, signal


@quick
@given(records(exits=(1, 7)), st.integers(1, 8), st.data())
def test_agreement_is_the_loop(record, tier, data):
    policy = make_policy("agreement", tier=tier)
    votes = [vote(row, tier) for row in record.prediction.tolist()]
    assert policy.prediction(record).tolist() == [answers for answers, _ in votes]
    assert policy.signal(record).tolist() == [signal for _, signal in votes]
    right = [[a == label for a in answers] for (answers, _), label in zip(votes, record.labels)]
    assert policy.correct(record).tolist() == right
    delta = data.draw(thresholds(policy.signal(record)))
    left = [next((i for i, s in enumerate(signal) if s >= delta and delta < np.inf), -1) for _, signal in votes]
    exits = [i % record.n_exits for i in left]
    assert policy.exits(record, delta).tolist() == exits
    assert evaluate(policy, record, [delta]).accuracy[0] == np.mean([r[i] for r, i in zip(right, exits)])


@pytest.mark.parametrize(
    ("prediction", "tier", "answers", "signal"),
    [
        ([3, 3, 5, 4], 2, [3, 3, 5, 4], [-np.inf, 1, -np.inf, 1 / 2]),
        ([3, 5, 5, 3], 4, [3, 5, 5, 3], [-np.inf, -np.inf, -np.inf, 1 / 2]),
        ([3, 5, 3, 4], 4, [3, 5, 3, 3], [-np.inf, -np.inf, -np.inf, 1 / 2]),
        ([1, 2, 3, 1, 4], 3, [1, 2, 3, 1, 4], [-np.inf, -np.inf, 1 / 3, -np.inf, 1 / 2]),
        ([1, 2, 1, 2], 3, [1, 2, 1, 2], [-np.inf, -np.inf, 2 / 3, 1]),
        ([1, 2, 2], 1, [1, 2, 2], [1, 1, 1]),
        ([1, 1, 2], 9, [1, 1, 1], [-np.inf, -np.inf, 2 / 3]),
    ],
)
def test_votes(prediction, tier, answers, signal):
    n = len(prediction)
    record = ExitRecord.from_outputs([prediction], [[0.5] * n], [0], range(1, n + 1))
    policy = make_policy("agreement", tier=tier)
    assert policy.prediction(record).tolist() == [answers]
    assert policy.signal(record).tolist() == [signal]
    assert record.prediction.tolist() == [prediction]  # unchanged


def single(prediction, confidence, labels, cost):
    columns = {measure: np.asarray(values, np.float64)[:, None] for measure, values in confidence.items()}
    return ExitRecord.from_outputs(np.asarray(prediction)[:, None], columns, labels, [cost])


def test_agreement_in_a_cascade_of_two_tiers():
    labels, sure = [0, 1, 2, 3], {"max_softmax": [0.5] * 4}
    answers = [[0, 1, 0, 0], [0, 1, 1, 1], [1, 0, 2, 1], [2, 2, 2, 0]]  # one row per model
    record = cascade([single(a, sure, labels, cost) for a, cost in zip(answers, (1, 2, 10, 20))])
    curve = evaluate(make_policy("agreement"), record, [-np.inf, 0, 0.5, 1, np.inf])
    # If two models agree, they are right. If they disagree, and at the end, the later model answers.
    assert curve.accuracy.tolist() == [2 / 4, 2 / 4, 2 / 4, 3 / 4, 1 / 4]
    assert curve.cost.tolist() == [1, 3, 3, 18, 33]
    assert make_policy("agreement").choose_thresholds(record, min_support=1).tolist() == [np.inf, 0.5, np.inf]


# The logistic regression


def chance(z):
    return 1 / (1 + math.exp(-z)) if z >= 0 else math.exp(z) / (1 + math.exp(z))


def centre_of(right, k):
    return [0.0] * (k - 1) + [math.log((sum(right) + 0.5) / (len(right) - sum(right) + 0.5))]


def penalised(at, x, right, penalty):
    """Return the penalised loss that the fit minimises, and its gradient, sample by sample."""
    centre = centre_of(right, len(at))
    loss = penalty / 2 * sum((a - c) ** 2 for a, c in zip(at, centre))
    gradient = [penalty * (a - c) for a, c in zip(at, centre)]
    for column, y in zip(np.transpose(x), right):
        z = sum(a * v for a, v in zip(at, column))
        loss += np.logaddexp(0, z) - y * z
        gradient = [g + (chance(z) - y) * v for g, v in zip(gradient, column)]
    return loss, np.array(gradient)


@st.composite
def regressions(draw):
    n, pool = draw(st.integers(1, 12)), draw(st.lists(st.floats(-4, 4), min_size=1, max_size=5))
    features = [draw(st.lists(st.sampled_from(pool), min_size=n, max_size=n)) for _ in range(draw(st.integers(0, 3)))]
    if features and draw(st.booleans()):
        features.append([2 * value - 1 for value in features[0]])  # collinear
    right = draw(st.lists(st.booleans(), min_size=n, max_size=n))
    return np.array([*features, [1.0] * n]), np.array(right)


@quick
@given(regressions(), st.sampled_from([1e-2, 0.1, 1.0, 30.0]))
def test_the_gradient_is_zero_at_the_fit(regression, penalty):
    x, right = regression
    _, gradient = penalised(fit_logistic(x, right, penalty), x, right, penalty)
    assert np.abs(gradient).max() < 1e-6


@pytest.mark.parametrize("penalty", [0.01, 1.0, 100.0])
def test_the_fit_is_scipys(penalty):
    random = np.random.default_rng(0)
    x = np.vstack([random.normal(size=(2, 40)), np.ones(40)])
    right = x[0] + random.normal(size=40) > 0.5
    found = minimize(penalised, np.zeros(3), (x, right, penalty), jac=True, method="BFGS", options={"gtol": 1e-9})
    np.testing.assert_allclose(fit_logistic(x, right, penalty), found.x, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("penalty", [1e-300, 1e-12, 1e-3, 1.0, 1e300])
@pytest.mark.parametrize("right", [[True] * 6, [False] * 6, [False] * 3 + [True] * 3])
def test_a_fit_of_what_separates_is_finite(right, penalty):
    rising, right = np.arange(6) - 2.5, np.array(right)
    found = fit_logistic(np.vstack([rising, 2 * rising, np.ones(6)]), right, penalty)
    assert np.isfinite(found).all()
    if right.any() and not right.all() and penalty < 1:
        assert ((found[:2] @ [rising, 2 * rising] + found[2] > 0) == right).all()


# Learnt deferral


def shown(record, n, i):
    """Return the features of sample n at exit i."""
    measures = [float(record.measure(m)[n, i]) for m in MEASURES if m in record.measures]
    return [*measures, 1.0 if i == 0 else float(record.prediction[n, i] == record.prediction[n, i - 1])]


def standardised(validation, i):
    """Return a function that standardises features of exit i. Constant features become 0."""
    columns = list(zip(*(shown(validation, n, i) for n in range(validation.n_samples))))
    means = [math.fsum(column) / len(column) for column in columns]
    spreads = [math.sqrt(math.fsum((v - m) ** 2 for v in c) / len(c)) for c, m in zip(columns, means)]
    varies = [len(set(column)) > 1 for column in columns]
    return lambda features: (
        [(v - m) / s if moves else 0.0 for v, m, s, moves in zip(features, means, spreads, varies)] + [1.0]
    )


def learned(validation, record, penalty):
    """Compute the signal, sample by sample and exit by exit."""
    signal = np.zeros(record.prediction.shape)
    for i in range(record.n_exits - 1):
        scale = standardised(validation, i)
        x = np.transpose([scale(shown(validation, n, i)) for n in range(validation.n_samples)])
        fits = {j: fit_logistic(x, validation.correct[:, j], penalty) for j in range(i, record.n_exits)}
        for n in range(record.n_samples):
            now = scale(shown(record, n, i))
            p = {j: chance(sum(a * v for a, v in zip(at, now))) for j, at in fits.items()}
            cost = validation.cost
            signal[n, i] = -max((p[j] - p[i]) * cost[-1] / (cost[j] - cost[i]) for j in p if j > i)
    return signal


@quick
@given(records(sample_costs=True), records(samples=(1, 3)), st.sampled_from([0.1, 1.0, 10.0]))
def test_learned_deferral_is_the_loop(validation, record, penalty):
    l = min(validation.n_exits, record.n_exits)

    def first_exits(whole):
        outputs = {m: whole.measure(m)[:, :l] for m in MEASURES}
        cost = whole.cost[:l] if whole.sample_cost is None else whole.sample_cost[:, :l]
        return ExitRecord.from_outputs(whole.prediction[:, :l], outputs, whole.labels, cost)

    validation, record = first_exits(validation), first_exits(record)
    policy = make_policy("learned-deferral", penalty=penalty).fit(validation)
    for each in (validation, record):
        np.testing.assert_allclose(policy.signal(each), learned(validation, each, penalty), rtol=1e-6, atol=1e-7)


GAINS, FINE, LOST = 0, 1, 2  # kinds of samples: only later exits are right, all exits are right, no exit is right


def separable(kinds, exits=2, right_from=1):
    """Return a record in which the measures of exit 1 identify the kind of each sample."""
    kinds = np.asarray(kinds)
    correct = (kinds[:, None] == FINE) | ((kinds[:, None] == GAINS) & (np.arange(exits) >= right_from))  # (N, L)
    told = {m: np.repeat((kinds == kind)[:, None], exits, axis=1) * 0.5 for kind, m in enumerate(MEASURES)}
    return ExitRecord.from_outputs((~correct).astype(int), told, np.zeros(len(kinds), int), np.arange(1, exits + 1))


def test_with_separable_kinds_only_samples_that_gain_continue():
    validation, test = separable([GAINS, FINE, LOST] * 50), separable([LOST, GAINS, FINE, FINE, GAINS])
    policy = make_policy("learned-deferral", penalty=0.01).fit(validation)
    # A gain of 1 for half of the cost of the full model
    np.testing.assert_allclose(policy.signal(test)[:, 0], [0, -2, 0, 0, -2], atol=0.05)
    for delta in (-1.5, -1.0, -0.5, -0.1):
        assert policy.exits(test, delta).tolist() == [0, 1, 0, 0, 1]
    point = evaluate(policy, test, [-0.5]).iloc[0]
    assert (point.accuracy, point.cost) == (4 / 5, (3 * 1 + 2 * 2) / 5)
    assert policy.exits(test, choose_threshold(policy, validation, accuracy=2 / 3)).tolist() == [0, 1, 0, 0, 1]


def test_it_looks_beyond_the_next_exit():
    validation = separable([GAINS, FINE] * 50, exits=3, right_from=2)
    policy = make_policy("learned-deferral", penalty=0.01).fit(validation)
    # Exit 2 gains nothing. Exit 3 gains 1, for two thirds of the cost from exit 1, and for one third from exit 2.
    np.testing.assert_allclose(policy.signal(validation)[0], [-1.5, -3, 0], atol=0.05)
    assert policy.exits(validation, -1).tolist() == [2, 0] * 50


def test_a_large_penalty_leaves_the_accuracies():
    random = np.random.default_rng(0)
    correct = random.random((400, 3)) < [0.5, 0.7, 0.75]
    record = ExitRecord.from_outputs((~correct).astype(int), random.random((400, 3)), np.zeros(400, int), [1, 2, 4])
    signal = make_policy("learned-deferral", penalty=1e9).fit(record).signal(record)
    first, second, third = (correct.sum(axis=0) + 0.5) / 401
    at_first, at_second = max((second - first) * 4 / 1, (third - first) * 4 / 3), (third - second) * 4 / 2
    np.testing.assert_allclose(signal, np.tile([-at_first, -at_second, 0], (400, 1)), atol=1e-5)


def record_of(seed, n=80, exits=3, classes=4, measures=MEASURES):
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, n)
    logits = random.normal(size=(n, exits, classes))
    logits[np.arange(n), :, labels] += np.linspace(0.5, 3, exits)
    whole = ExitRecord(logits, labels, np.arange(1, exits + 1))
    outputs = {measure: whole.measure(measure) for measure in measures}
    return ExitRecord.from_outputs(whole.prediction, outputs, labels, whole.cost, metadata={"classes": classes})


def always(record, answer):
    outputs = {measure: np.full_like(record.measure(measure), 0.1) for measure in record.measures}
    return ExitRecord.from_outputs(np.full_like(record.prediction, answer), outputs, np.ones(80, int), record.cost)


@pytest.mark.parametrize(
    "validation",
    [
        record_of(0, classes=2),
        record_of(0, measures=("margin",)),
        always(record_of(0), 1),
        always(record_of(0), 0),
        record_of(0).take(np.array([5])),
    ],
    ids=["two classes", "one measure", "always right, nothing varies", "always wrong", "one sample"],
)
@pytest.mark.parametrize("penalty", [1e-9, 1.0])
def test_it_fits_and_runs_on(validation, penalty, tmp_path):
    test = record_of(1, classes=validation.n_classes or 4, measures=validation.measures)
    policy = make_policy("learned-deferral", penalty=penalty).fit(validation)
    signal = policy.signal(test)
    assert np.isfinite(signal).all()
    assert (signal[:, -1] == 0).all()
    save_policies({"it": policy}, tmp_path / "p")
    np.testing.assert_array_equal(load_policies(tmp_path / "p")[0]["it"].signal(test), signal)


def test_constant_features_have_no_effect():
    validation, test = always(record_of(0), 1), record_of(1)  # all 0.1, whose computed mean is not exactly 0.1
    signal = make_policy("learned-deferral").fit(validation).signal(test)
    assert (signal[:, :-1] == signal[:1, :-1]).all()


def test_a_measure_that_the_fit_had_is_asked_for():
    policy, alone = make_policy("learned-deferral").fit(record_of(0)), record_of(1, measures=("max_softmax",))
    with pytest.raises(ValueError, match="these outputs have no margin, only max_softmax"):
        policy.signal(alone)
    policy.fit(record_of(0, measures=("max_softmax",)))
    np.testing.assert_array_equal(policy.signal(record_of(1)), policy.signal(alone))


@pytest.mark.parametrize("name", ["agreement", "learned-deferral"])
@pytest.mark.parametrize("kind", ["one model's exits", "a cascade", "one exit"])
def test_they_run_wherever_policies_run(name, kind, tmp_path):
    def made(seed):
        whole = record_of(seed, exits=1 if kind == "one exit" else 3)
        if kind != "a cascade":
            return whole
        columns = [{m: whole.measure(m)[:, i] for m in MEASURES} for i in range(3)]
        return cascade([single(whole.prediction[:, i], columns[i], whole.labels, 4**i) for i in range(3)])

    validation, test = made(0), made(1)
    policy = make_policy(name).fit(validation)
    points = frontier(policy, test)
    grid = evaluate(policy, test, points.threshold)
    np.testing.assert_array_equal(grid, points)
    assert (points.cost.iloc[-1], points.threshold.iloc[-1]) == (test.cost[-1], np.inf)
    assert points.accuracy.iloc[-1] == policy.correct(test)[:, -1].mean()
    assert policy.exits(test, policy.choose_thresholds(validation)).max() < test.n_exits
    assert choose_threshold(policy, validation, cost=test.cost[-1]) <= np.inf
    save_policies({"it": policy}, tmp_path / "p")
    loaded = load_policies(tmp_path / "p")[0]["it"]
    assert loaded.options == policy.options
    assert evaluate(loaded, test, points.threshold).equals(grid)
