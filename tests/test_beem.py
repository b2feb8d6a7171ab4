"""The score of BEEM compared with worked examples and loops, and the two policies that use it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from offramp import ExitRecord, evaluate, make_policy
from offramp.policies import beem
from strategies import quick, records, thresholds

PREDICTION = [1, 1, 1, 0, 0, 0]
CONFIDENCE = [0.65, 0.70, 0.80, 0.60, 0.90, 0.95]
LONG = [0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.92, 0.94, 0.96, 0.98, 0.99]


def record_of(prediction, confidence, labels=None):
    prediction, confidence = np.atleast_2d(prediction), np.atleast_2d(np.asarray(confidence, np.float64))
    labels = prediction[:, -1] if labels is None else labels
    return ExitRecord.from_outputs(prediction, confidence, labels, np.arange(1, prediction.shape[1] + 1))


def score(confidence, prediction, weights, on_disagree="own"):
    """Compute the scores (N, L), one exit after the other."""
    past = {}
    weighted = weights * np.asarray(confidence, np.float64)  # (N, L)
    return np.stack([beem.score(w, p, past, on_disagree) for w, p in zip(weighted.T, prediction.T)], axis=1)


def loop(confidence, prediction, weights, on_disagree):
    """Compute the score of one sample, exit by exit."""
    scores = []
    for i in range(len(confidence)):
        own = float(weights[i]) * float(confidence[i])
        if i > 0 and prediction[i] == prediction[i - 1]:
            scores.append(scores[-1] + own)
        else:
            scores.append(own if on_disagree == "own" else 0.0)
    return scores


def pabee_counter(prediction):
    count, counts = 0, []
    for i in range(len(prediction)):
        count = count + 1 if i > 0 and prediction[i] == prediction[i - 1] else 0
        counts.append(count)
    return counts


# The score


@pytest.mark.parametrize(
    ("weights", "on_disagree", "expected"),
    [
        (0.1 * np.arange(1, 7), "own", [0.065, 0.205, 0.445, 0.240, 0.690, 1.260]),
        (np.ones(6), "own", [0.65, 1.35, 2.15, 0.60, 1.50, 2.45]),
        (0.4 * np.arange(6), "zero", [0, 0.28, 0.92, 0, 1.44, 3.34]),
    ],
)
def test_worked_examples(weights, on_disagree, expected):
    scores = score(np.array([CONFIDENCE]), np.array([PREDICTION]), weights, on_disagree)
    assert scores.dtype == np.float64
    np.testing.assert_allclose(scores, [expected], rtol=1e-14)


@pytest.mark.parametrize(("alpha", "exit_"), [(0.2, 2), (0.6, 5), (1.0, 6), (1.5, 6), (np.inf, 6), (0.0, 1)])
def test_where_the_worked_example_leaves(alpha, exit_):
    record = record_of(PREDICTION, CONFIDENCE)
    assert make_policy("beem-c").exits(record, alpha).tolist() == [exit_ - 1]
    # One threshold per exit, all equal to α, gives the same as a shared α
    assert make_policy("beem-c").exits(record, np.full(5, alpha)).tolist() == [exit_ - 1]


def test_where_equal_weights_leave():
    scores = score(np.array([CONFIDENCE]), np.array([PREDICTION]), np.ones(6))
    assert np.flatnonzero(scores[0] >= 1.5)[0] == 3 - 1


def test_twelve_exits_that_agree():
    record = record_of(np.zeros(12, int), LONG)
    policy = make_policy("beem-c")
    assert policy.exits(record, 1.5).tolist() == [6 - 1]
    assert policy.signal(record)[0, 5] == pytest.approx(1.61, rel=1e-14)


@quick
@given(records(), st.data())
def test_the_score_is_the_loop(record, data):
    weights = data.draw(st.lists(st.sampled_from([0.0, 0.1, 0.5, 1.0, 3.0]), min_size=record.n_exits, max_size=4))
    weights = np.array(weights[: record.n_exits])
    for on_disagree in ("own", "zero"):
        scores = score(record.confidence(), record.prediction, weights, on_disagree)
        for n in range(record.n_samples):
            expected = loop(record.confidence()[n], record.prediction[n], weights, on_disagree)
            assert scores[n].tolist() == expected


@quick
@given(records(exits=(1, 9)))
def test_of_sure_exits_of_equal_weight_it_is_pabees_counter(record):
    sure = np.ones((record.n_samples, record.n_exits), np.float32)
    scores = score(sure, record.prediction, np.ones(record.n_exits), "zero")
    assert scores.tolist() == [pabee_counter(row) for row in record.prediction]


# BEEM-C


@quick
@given(records(), st.sampled_from(["own", "zero"]), st.sampled_from(["max_softmax", "margin"]), st.data())
def test_beem_c_is_the_loop(record, on_disagree, measure, data):
    policy = make_policy("beem-c", cost_weight=0.25, on_disagree=on_disagree, score=measure)
    signal = policy.signal(record)
    weights = [0.25 * i for i in range(1, record.n_exits + 1)]
    alpha = data.draw(thresholds(signal))
    for n, leaves_at in enumerate(policy.exits(record, alpha)):
        expected = loop(record.confidence(measure)[n], record.prediction[n], weights, on_disagree)
        assert signal[n].tolist() == expected
        reached = [i for i in range(record.n_exits) if expected[i] >= alpha and alpha < np.inf]
        assert leaves_at == min([*reached, record.n_exits - 1])


@quick
@given(records(), st.data())
def test_only_alpha_over_lambda_matters(record, data):
    policy, doubled = make_policy("beem-c", cost_weight=0.1), make_policy("beem-c", cost_weight=0.2)
    alpha = data.draw(st.floats(0, 10))
    np.testing.assert_array_equal(policy.exits(record, alpha), doubled.exits(record, 2 * alpha))


@quick
@given(records())
def test_an_infinite_alpha_is_the_full_model(record):
    for name in ("beem-c", "beem-a"):
        row = evaluate(make_policy(name).fit(record), record, [np.inf]).iloc[0]
        assert row.accuracy == np.mean(record.prediction[:, -1] == record.labels)
        assert row.cost == pytest.approx(record.cost[-1])


def test_the_exit_that_leaves_answers():
    record = record_of([[1, 1, 0], [0, 1, 1]], [[0.9, 0.9, 0.9], [0.9, 0.5, 0.9]], labels=[1, 1])
    curve = evaluate(make_policy("beem-c"), record, [0.08, 0.2, 0.3, np.inf])
    # S = [.09, .27, .27], [.09, .1, .37]
    assert curve.accuracy.tolist() == [0.5, 1.0, 0.5, 0.5]
    assert curve.cost.tolist() == [1.0, 2.5, 3.0, 3.0]


# BEEM-A


def accuracies(record):
    pairs = [zip(record.prediction[:, i], record.labels) for i in range(record.n_exits)]
    return [sum(answer == label for answer, label in of_exit) / record.n_samples for of_exit in pairs]


@quick
@given(records(), st.sampled_from(["own", "zero"]), st.sampled_from(["max_softmax", "margin"]))
def test_beem_a_weighs_by_accuracy_on_validation(record, on_disagree, measure):
    policy = make_policy("beem-a", on_disagree=on_disagree, score=measure).fit(record)
    weights = accuracies(record)
    assert policy.state["weights"].tolist() == weights
    for row, confidence, prediction in zip(policy.signal(record), record.confidence(measure), record.prediction):
        assert row.tolist() == loop(confidence, prediction, weights, on_disagree)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0.25, 0.5, 0.75]),
        ({"normalisation": "sum"}, [1 / 6, 1 / 3, 1 / 2]),
        ({"normalisation": "max"}, [1 / 3, 2 / 3, 1]),
        ({"accuracy_weight": 2.0}, [0.5, 1.0, 1.5]),
        ({"normalisation": "max", "accuracy_weight": 3.0}, [1.0, 2.0, 3.0]),
    ],
)
def test_scaled_accuracies(options, expected):
    validation = record_of([[0, 0, 0], [1, 0, 0], [1, 1, 0], [1, 1, 1]], np.full((4, 3), 0.5), labels=[0] * 4)
    policy = make_policy("beem-a", **options).fit(validation)
    np.testing.assert_allclose(policy.state["weights"], expected, rtol=1e-14)
    other = record_of([[2, 2, 1]], [[0.5, 0.6, 0.7]])  # the weights are still those of the validation data
    w = expected
    np.testing.assert_allclose(policy.signal(other), [[0.5 * w[0], 0.5 * w[0] + 0.6 * w[1], 0.7 * w[2]]], rtol=1e-6)


@pytest.mark.parametrize("normalisation", ["none", "sum", "max"])
def test_exits_that_are_never_right_have_no_weight(normalisation):
    wrong = record_of([[1, 1]], [[0.9, 0.9]], labels=[0])
    assert make_policy("beem-a", normalisation=normalisation).fit(wrong).signal(wrong).tolist() == [[0.0, 0.0]]


# Both


@pytest.mark.parametrize("name", ["beem-c", "beem-a"])
def test_a_score_is_no_probability(name):
    assert not make_policy(name).claims_accuracy
    assert make_policy(name).learns == (name == "beem-a")


@pytest.mark.parametrize(
    ("name", "option", "value", "expected"),
    [
        ("beem-c", "cost_weight", 0, "a number above 0"),
        ("beem-c", "cost_weight", -0.1, "a number above 0"),
        ("beem-c", "cost_weight", np.nan, "a number"),
        ("beem-c", "cost_weight", "deep", "a number"),
        ("beem-c", "on_disagree", "reset", "'own' or 'zero'"),
        ("beem-c", "score", "entropy", "'max_softmax' or 'margin'"),
        ("beem-a", "accuracy_weight", 0.0, "a number above 0"),
        ("beem-a", "accuracy_weight", np.inf, "a number"),
        ("beem-a", "normalisation", "mean", "'none' or 'sum' or 'max'"),
        ("beem-a", "score", "similarity", "'max_softmax' or 'margin'"),
    ],
)
def test_options_out_of_range(name, option, value, expected):
    with pytest.raises(ValueError, match=rf"{name}: option {option} is .*expected {expected}"):
        make_policy(name, **{option: value})


def test_a_confidence_that_the_record_has_not():
    record = ExitRecord.from_outputs([[0]], {"entropy": [[0.5]]}, [0], [1])
    with pytest.raises(ValueError, match="no max_softmax, only entropy"):
        make_policy("beem-c").signal(record)
