"""Rejection: decisions, risk against coverage, and the choice of both thresholds, compared with slow versions."""

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import oracles
from offramp import ExitRecord, choose_rejection, decide, evaluate, make_policy, risk_coverage
from offramp.evaluation.rejection import Ranking, accuracy_at, aurc
from strategies import EDGES, Given, given_signal, quick, records, signals, thresholds, without_labels

RHOS = st.sampled_from([-np.inf, np.inf, *EDGES]) | st.floats(allow_nan=False)


class Sure(Given):
    """A policy whose signal is given by the test, and is an estimated accuracy."""

    claims_accuracy = True


@st.composite
def cases(draw, scored=False):
    """Draw a record and a policy that estimates by its signal or by max softmax, with or without a fallback."""
    record = draw(records(samples=(1, 12), sample_costs=True))
    if scored:
        quality = draw(arrays(np.float64, record.prediction.shape, elements=st.sampled_from([0, 0.25, 0.5, 1])))
        cost = record.cost if record.sample_cost is None else record.sample_cost
        record = ExitRecord.from_scores(quality, record.confidence(), cost)
    values = draw(signals((record.n_samples, record.n_exits)))
    fallback = draw(st.none() | arrays(np.int64, record.n_samples, elements=st.integers(0, record.n_exits - 1)))
    policy = given_signal(values, fallback)
    if draw(st.booleans()):
        policy.__class__ = Sure
    return record, policy


def estimates_of(record, policy):
    return policy.values if policy.claims_accuracy else record.confidence().astype(float)


# Decisions


@quick
@given(cases(), st.data(), RHOS, RHOS)
def test_rejects_as_the_slow_version(case, data, rho, eta):
    record, policy = case
    delta = data.draw(thresholds(policy.values))
    expected = oracles.rejecting(
        estimates_of(record, policy), policy.values, record.prediction, delta, rho, eta, policy.answers
    )
    (exits,), (answers,) = decide(policy, record, [delta], reject_below=rho, abstain_below=eta)
    assert (exits.tolist(), answers.tolist()) == tuple(map(list, expected))
    np.testing.assert_array_equal(policy.predict(record, delta, reject_below=rho, abstain_below=eta), answers)


@quick
@given(cases(), st.data(), RHOS, RHOS)
def test_evaluates_what_it_decides(case, data, rho, eta):
    record, policy = case
    assume((rho, eta) != (-np.inf, -np.inf))
    deltas = data.draw(st.lists(thresholds(policy.values), min_size=1, max_size=3))
    table = evaluate(policy, record, deltas, reject_below=rho, abstain_below=eta)
    for row, delta in zip(table.itertuples(), deltas, strict=True):
        exits, answers = oracles.rejecting(
            estimates_of(record, policy), policy.values, record.prediction, delta, rho, eta, policy.answers
        )
        accepted = [n for n, answer in enumerate(answers) if answer != -1]
        right = sum(answers[n] == record.labels[n] for n in accepted)
        assert row.coverage == len(accepted) / record.n_samples
        assert row.accuracy == right / len(accepted) if accepted else math.isnan(row.accuracy)
        assert row.cost == pytest.approx(math.fsum(oracles.cost_of(record, exits)) / record.n_samples)
        assert [getattr(row, f"exit_{i + 1}") for i in range(record.n_exits)] == [
            exits.count(i) / record.n_samples for i in range(record.n_exits)
        ]


@quick
@given(cases(), st.data())
def test_nothing_is_rejected_below_minus_infinity(case, data):
    record, policy = case
    delta = data.draw(thresholds(policy.values))
    table = evaluate(policy, record, [delta], reject_below=-np.inf)
    assert "coverage" not in table
    np.testing.assert_array_equal(
        decide(policy, record, [delta], reject_below=-np.inf), decide(policy, record, [delta])
    )
    assert (decide(policy, record, [delta], reject_below=np.inf)[1] == -1).all()


def test_early_abstention_saves_the_later_stages():
    """A cascade of three stages that cost 1, 10 and 100: the hopeless sample is rejected at the first of them."""
    sure = np.array([[0.9, 0.9, 0.9], [0.1, 0.5, 0.7], [0.5, 0.3, 0.9], [0.6, 0.7, 0.65]])
    record = ExitRecord.from_outputs(np.zeros((4, 3), int), sure, np.zeros(4, int), [1, 11, 111])
    policy = make_policy("confidence")
    (exits,), (answers,) = decide(policy, record, [0.8], reject_below=0.66, abstain_below=0.2)
    assert (exits.tolist(), answers.tolist()) == ([0, 0, 2, 2], [0, -1, 0, -1])
    (exits,), (answers,) = decide(policy, record, [0.8], reject_below=0.66, abstain_below=[0.2, 0.4])
    assert (exits.tolist(), answers.tolist()) == ([0, 0, 1, 2], [0, -1, -1, -1])
    table = evaluate(policy, record, [0.8], reject_below=0.66, abstain_below=[0.2, 0.4])
    assert table[["coverage", "accuracy", "cost"]].to_numpy().tolist() == [[0.25, 1, (1 + 1 + 11 + 111) / 4]]


def test_names_and_thresholds_per_exit():
    about = {"names": ["cat", "dog"], "classes": 2}
    record = ExitRecord.from_outputs([[0, 1], [1, 1]], [[0.9, 0.9], [0.4, 0.6]], [0, 1], [1, 2], metadata=about)
    policy = make_policy("confidence")
    assert policy.predict(record, [0.8], reject_below=0.7).tolist() == ["cat", ""]
    assert evaluate(policy, record, [[0.8], [0.2]], reject_below=0.5).coverage.tolist() == [1, 0.5]


def test_the_metric_is_that_of_the_accepted():
    """F1 of class 1: one hit, two answers, and one label among the three accepted samples."""
    about = {"classes": 2, "metric": "f1"}
    record = ExitRecord.from_outputs(
        [[1], [1], [0], [0]], [[0.9], [0.8], [0.7], [0.2]], [1, 0, 0, 1], [1], metadata=about
    )
    table = evaluate(make_policy("confidence"), record, [np.inf], reject_below=0.5)
    assert table.f1[0] == pytest.approx(2 / 3)
    assert table.accuracy[0] == pytest.approx(2 / 3)


# Risk against coverage


@quick
@given(cases(scored=True) | cases(), st.data())
def test_the_curve_is_the_slow_one(case, data):
    record, policy = case
    delta = data.draw(thresholds(policy.values))
    estimates, losses = slow_answers(record, policy, delta)
    curve = risk_coverage(policy, record, delta)
    points = oracles.selective_points(estimates, losses)
    assert curve.reject_below.tolist() == [rho for rho, _, _ in points]
    assert curve.accepted.tolist() == [k for _, k, _ in points]
    np.testing.assert_allclose(curve.lost, [float(lost) for _, _, lost in points], rtol=1e-12)
    assert curve.aurc == pytest.approx(oracles.aurc(estimates, losses), rel=1e-12)
    assert curve.e_aurc == pytest.approx(curve.aurc - oracles.lowest_aurc(losses), abs=1e-12)
    assert curve.e_aurc >= -1e-12
    assert curve.accuracy_at(1.0) == pytest.approx(1 - sum(losses) / len(losses))
    for rho, coverage, risk in zip(curve.reject_below, curve.coverage, curve.risk):
        assert curve.accuracy_at(coverage) == pytest.approx(1 - risk)
        if record.prediction is not None:  # the same as rejecting below this threshold
            answers = decide(policy, record, [delta], reject_below=rho)[1][0]
            assert (answers != -1).mean() == coverage


def slow_answers(record, policy, delta):
    """Return the estimate and the loss of each answer."""
    quality = record.correct.astype(float)
    _, estimates = oracles.answers(policy.values, estimates_of(record, policy), delta, policy.answers)
    _, right = oracles.answers(policy.values, quality, delta, policy.answers)
    return estimates, [1 - float(r) for r in right]


def test_by_hand():
    """Four answers in the order right, wrong, right, wrong: the formula of Geifman et al. (2019)."""
    record = ExitRecord.from_outputs([[0], [1], [0], [1]], [[0.9], [0.8], [0.7], [0.6]], [0, 0, 0, 0], [2])
    curve = risk_coverage(make_policy("confidence"), record, np.inf)
    assert curve.aurc == pytest.approx((0 + 1 / 2 + 1 / 3 + 2 / 4) / 4)
    assert curve.e_aurc == pytest.approx(curve.aurc - (1 / 3 + 2 / 4) / 4)  # Σ i / (n (1 − r) + i) / n for i = 1, 2
    assert curve.cost == 2
    np.testing.assert_allclose(curve.accuracy_at([0.25, 0.375, 0.5]), [1, 1 / 1.5, 1 / 2])


def test_another_estimate_at_the_same_exits():
    """Patience does not estimate how often it is right. With the estimate of PCEE, it still leaves where it did."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, 400)
    logits = rng.normal(size=(400, 3, 5)) + 2 * np.eye(5)[labels][:, None]
    record = ExitRecord(logits, labels, [1, 2, 3])
    patience, pcee = make_policy("patience"), make_policy("pcee").fit(record)
    exits = patience.exits(record, 1)
    for by, values in ((None, record.confidence()), (pcee, pcee.signal(record))):
        estimates = values[np.arange(400), exits]
        wrong = ~record.correct[np.arange(400), exits]
        curve = risk_coverage(patience, record, 1, by=by)
        assert curve.aurc == pytest.approx(oracles.aurc(estimates.tolist(), wrong.tolist()))
        assert curve.cost == (exits + 1).mean()


@quick
@given(cases(), st.data())
def test_counts_are_repeated_samples(case, data):
    record, policy = case
    delta = data.draw(thresholds(policy.values))
    estimates, losses = map(np.array, slow_answers(record, policy, delta))
    counts = data.draw(arrays(np.int64, len(losses), elements=st.integers(0, 3)))
    assume(counts.any())
    one = Ranking(estimates, losses).sums(counts.astype(float))
    other = Ranking(np.repeat(estimates, counts), np.repeat(losses, counts)).curve(0)
    assert aurc(*one) == pytest.approx(other.aurc, rel=1e-12)
    at = [0.1, 0.5, 0.95, 1.0]
    np.testing.assert_allclose(accuracy_at(at, *one), other.accuracy_at(at), rtol=1e-12)


# Joint choice


@quick
@given(cases(), st.data(), st.sampled_from([0.0, 0.1, 0.25, 0.5, 1.0]), st.booleans())
def test_the_choice_is_the_best_of_all_pairs(case, data, risk, at_coverage):
    record, policy = case
    deltas = data.draw(st.lists(thresholds(policy.values), min_size=1, max_size=4))
    target = data.draw(st.sampled_from([0.2, 0.5, 1.0])) if at_coverage else float(data.draw(st.integers(1, 20)))
    pairs = []  # coverage, risk, cost
    for delta in deltas:
        cost = math.fsum(oracles.cost_of(record, policy.exits(record, delta))) / record.n_samples
        for _, accepted, lost in oracles.selective_points(*slow_answers(record, policy, delta)):
            if float(lost / accepted) <= risk:
                pairs.append((accepted / record.n_samples, -cost))
    close = 1e-9
    possible = [each for each in pairs if (each[0] >= target if at_coverage else -each[1] <= target + close)]
    options = {"coverage": target} if at_coverage else {"cost": target + close}
    if not possible:
        with pytest.raises(ValueError, match=r"choose_rejection: .* on"):
            choose_rejection(policy, record, risk=risk, thresholds=deltas, **options)
        return
    found = choose_rejection(policy, record, risk=risk, thresholds=deltas, **options)
    best = max(possible, key=lambda each: each[::-1] if at_coverage else each)
    assert (found.cost, found.risk <= risk) == (pytest.approx(-best[1]), True)
    assert found.coverage == best[0] or at_coverage  # costs that differ by rounding only
    table = evaluate(policy, record, [found.threshold], reject_below=found.reject_below).iloc[0]
    assert table.get("coverage", 1.0) == found.coverage
    assert (table.accuracy, table.cost) == pytest.approx((1 - found.risk, found.cost))


def test_a_choice_by_hand():
    """The first exit is right on the first two samples, the second one on all but the last."""
    record = ExitRecord.from_outputs(
        [[0, 0], [0, 0], [1, 0], [1, 1]], [[0.9, 0.95], [0.8, 0.9], [0.7, 0.75], [0.2, 0.3]], np.zeros(4, int), [1, 4]
    )
    policy = make_policy("confidence")
    found = choose_rejection(policy, record, risk=0, coverage=0.5)
    assert (found.threshold, found.reject_below, found.coverage, found.cost) == (-np.inf, pytest.approx(0.8), 0.5, 1)
    found = choose_rejection(policy, record, risk=0, coverage=0.75)
    assert (found.reject_below, found.coverage, found.cost) == (0.75, 0.75, (1 + 1 + 4 + 4) / 4)
    assert choose_rejection(policy, record, risk=0, cost=2).coverage == 0.5
    with pytest.raises(ValueError, match=r"error of at most 0 is possible up to a coverage of 0\.75 on 4 samples; exp"):
        choose_rejection(policy, record, risk=0, coverage=0.9)
    with pytest.raises(ValueError, match=r"error of at most 0 costs at least 1 on 4 samples; expected 0\.5"):
        choose_rejection(policy, record, risk=0, cost=0.5)


# Bad inputs


def test_bad_inputs():
    record = ExitRecord.from_outputs([[0, 0]], [[0.5, 0.6]], [0], [1, 2])
    policy = make_policy("confidence")
    bad = {
        r"reject_below: expected one number, not NaN; got nan": {"reject_below": np.nan},
        r"reject_below: expected one number, not NaN; got \[0\.1, 0\.2\]": {"reject_below": [0.1, 0.2]},
        r"abstain_below: expected a number or 1 of them .* got \[0\.1, 0\.2\]": {"abstain_below": [0.1, 0.2]},
    }
    for message, options in bad.items():
        with pytest.raises(ValueError, match=message):
            decide(policy, record, [0.5], **options)
        with pytest.raises(ValueError, match=message):
            evaluate(policy, record, [0.5], **options)
    bad = {
        "expected either coverage or cost": [{}, {"coverage": 0.5, "cost": 1}],
        r"risk is -0\.1; expected a number from 0 to 1": [{"risk": -0.1, "cost": 1}],
        r"coverage is 1\.5; expected a number from 0 to 1": [{"coverage": 1.5}],
        r"risk is nan; expected a number from 0 to 1": [{"risk": np.nan, "cost": 1}],
    }
    for message, calls in bad.items():
        for options in calls:
            with pytest.raises(ValueError, match=message):
                choose_rejection(policy, record, **({"risk": 0.1} | options))
    for function in (risk_coverage, lambda *args: choose_rejection(*args, risk=0.1, cost=1)):
        with pytest.raises(ValueError, match="labels"):
            function(policy, *[without_labels(record), 0.5][: 2 if function is risk_coverage else 1])
    bare = ExitRecord.from_outputs([[0, 0]], None, [0], [1, 2])
    with pytest.raises(ValueError, match=r"confidence: this record has no max_softmax, only predictions"):
        decide(make_policy("patience"), bare, [1], reject_below=0.5)
