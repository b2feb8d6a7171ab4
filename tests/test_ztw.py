"""ZTW: its ensembles compared with loops, and its fit with an optimiser of SciPy and cases worked by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import minimize
from scipy.special import log_softmax, logsumexp, softmax

from offramp import ExitRecord, evaluate, frontier, make_policy
from offramp._kernels.ztw import TILE, geometric_derivatives
from offramp.policies.ztw import PENALTY
from strategies import quick

ENSEMBLES = ["geometric", "arithmetic"]


def record_of(seed=0, n=300, exits=3, classes=4, dtype=np.float32, scale=1.0):
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, n)
    logits = 2 * random.normal(size=(n, exits, classes))
    logits[np.arange(n), :, labels] += np.linspace(0.5, 2, exits)
    return ExitRecord((scale * logits).astype(dtype), labels, np.arange(1, exits + 1))


@st.composite
def small_records(draw):
    n, l, c = draw(st.integers(1, 6)), draw(st.integers(1, 4)), draw(st.integers(1, 4))
    pool = draw(st.lists(st.floats(-8, 8, width=16), min_size=1, max_size=4))
    logits = draw(arrays(np.float32, (n, l, c), elements=st.sampled_from(pool)))
    labels = draw(arrays(np.int64, n, elements=st.integers(0, c - 1)))
    return ExitRecord(logits, labels, np.arange(1, l + 1))


def ensemble_probabilities(policy, record):
    """(N, L, C), sample by sample."""
    ln_p = log_softmax(record.logits.astype(np.float64), axis=-1)
    together = np.zeros(ln_p.shape)
    for n in range(record.n_samples):
        for i in range(record.n_exits):
            weights = policy.state["weights"][i]
            for j in range(i + 1):
                together[n, i] += weights[j] * (ln_p[n, j] if policy.ensemble == "geometric" else np.exp(ln_p[n, j]))
            if policy.ensemble == "geometric":
                together[n, i] = softmax(together[n, i] + policy.state["bias"][i])
    return together


def likelihood(p, labels):
    return -np.log(p[np.arange(len(labels)), labels]).mean()


def penalty(weights, bias=0.0):
    return PENALTY / 2 * (np.sum((weights - 1 / len(weights)) ** 2) + np.sum(np.square(bias)))


# Answers


@pytest.mark.parametrize("ensemble", ENSEMBLES)
@quick
@given(small_records(), small_records())
def test_signal_and_answers_are_the_loop(ensemble, validation, test):
    if validation.logits.shape[1:] != test.logits.shape[1:]:
        test = validation
    policy = make_policy("ztw", ensemble=ensemble).fit(validation)
    p = ensemble_probabilities(policy, test)
    np.testing.assert_allclose(policy.signal(test), p.max(axis=-1), rtol=2e-5)
    answered = np.take_along_axis(p, policy.prediction(test)[..., None], axis=-1)[..., 0]
    np.testing.assert_allclose(answered, p.max(axis=-1), rtol=2e-5)  # rounding may decide between ties


@pytest.mark.parametrize("ensemble", ENSEMBLES)
def test_curves_are_of_the_ensembles_answers(ensemble):
    validation, test = record_of(0), record_of(1)
    policy = make_policy("ztw", ensemble=ensemble).fit(validation)
    answers = ensemble_probabilities(policy, test).argmax(axis=-1)
    assert (answers != test.prediction).any()
    np.testing.assert_array_equal(policy.prediction(test), answers)
    curve = evaluate(policy, test, [-np.inf, 0.35, np.inf])
    exits = policy.exits(test, 0.35)
    assert len(set(exits)) == 3
    rows = np.arange(test.n_samples)
    for accuracy, given_by in zip(curve.accuracy, (answers[:, 0], answers[rows, exits], answers[:, -1])):
        assert accuracy == pytest.approx(np.mean(given_by == test.labels))
    assert frontier(policy, test).accuracy.iloc[-1] == curve.accuracy.iloc[-1]


def test_ensembles_are_more_accurate_than_their_members():
    """The errors of the exits are independent, and all exits are equally accurate."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 4, 4000)
    logits = random.normal(size=(4000, 4, 4)) + np.eye(4)[labels][:, None]
    whole = ExitRecord(logits.astype(np.float32), labels, [1, 2, 3, 4])
    validation, test = whole.take(np.arange(2000)), whole.take(np.arange(2000, 4000))
    for ensemble in ENSEMBLES:
        policy = make_policy("ztw", ensemble=ensemble).fit(validation)
        accuracy = policy.correct(test).mean(axis=0)
        assert (np.diff(accuracy) > 0.03).all()
        assert accuracy[-1] > test.correct.mean(axis=0).max() + 0.15


@pytest.mark.parametrize("ensemble", ENSEMBLES)
def test_needs_logits_and_a_fit(ensemble):
    record = record_of()
    bare = ExitRecord.from_outputs(
        record.prediction, record.confidence(), record.labels, record.cost, metadata={"classes": 4}
    )
    policy = make_policy("ztw", ensemble=ensemble)
    for use in (policy.signal, policy.prediction):
        with pytest.raises(ValueError, match=r"ztw learns from data: call fit\(validation_record\) first"):
            use(record)
    with pytest.raises(ValueError, match="ztw needs logits"):
        policy.fit(bare)
    policy.fit(record)
    for use in (policy.signal, policy.prediction):
        with pytest.raises(ValueError, match="ztw needs logits"):
            use(bare)
        with pytest.raises(ValueError, match="2 exits, but ztw was fitted on 3"):
            use(record_of(exits=2))
    assert policy.claims_accuracy


def test_options_out_of_range():
    with pytest.raises(ValueError, match="ztw: option ensemble is 'mean': expected 'geometric' or 'arithmetic'"):
        make_policy("ztw", ensemble="mean")


# Fit


@quick
@given(small_records(), st.data())
def test_derivatives_are_those_of_plain_numpy(record, data):
    """Also if the samples fill less than one tile, exactly one, or more than one."""
    copies = data.draw(st.sampled_from([1, TILE - 1, TILE, TILE + 3]))
    x = np.repeat(record.logits, copies, axis=0)  # (N, L, C)
    labels = np.repeat(record.labels, copies)
    (n, l, c), k = x.shape, data.draw(st.integers(1, record.n_exits))
    tiles = np.full((-(-n // TILE), l, c, TILE), 3, np.float32)  # values after the last sample have no effect
    for s in range(n):
        tiles[s // TILE, :, :, s % TILE] = x[s]
    weights = data.draw(arrays(np.float32, k, elements=st.floats(0, 2, width=16)))
    bias = data.draw(arrays(np.float32, c, elements=st.floats(-2, 2, width=16)))
    gradient, hessian = np.zeros(k + c), np.zeros((k + c, k + c))
    loss = geometric_derivatives(tiles, labels, weights, bias, gradient, hessian)

    # Weights and bias are coefficients of features: the logits of the members, and indicators of the class
    features = np.concatenate([x[:, :k], np.broadcast_to(np.eye(c), (n, c, c))], axis=1, dtype=np.float64)  # (N, d, C)
    z = np.einsum("d,ndc->nc", np.append(weights, bias).astype(np.float64), features)
    p = softmax(z, axis=-1)
    of_label = np.eye(c)[labels]
    mean = np.einsum("nc,ndc->nd", p, features)
    assert loss == pytest.approx((logsumexp(z, axis=-1) - (z * of_label).sum(-1)).sum(), rel=1e-4, abs=1e-3)
    tolerance = {"rtol": 1e-4, "atol": 2e-5 * n * (1 + np.abs(x).max()) ** 2}
    np.testing.assert_allclose(gradient, np.einsum("nc,ndc->d", p - of_label, features), **tolerance)
    expected = np.einsum("nc,ndc,nec->de", p, features, features) - mean.T @ mean
    np.testing.assert_allclose(hessian, np.tril(expected), **tolerance)


@pytest.mark.parametrize("n", [40, 300])
def test_the_geometric_fit_is_the_optimum(n):
    record = record_of(n=n)
    policy = make_policy("ztw").fit(record)
    ln_p = log_softmax(record.logits.astype(np.float64), axis=-1)
    for k in range(1, record.n_exits + 1):

        def objective(at, k=k):
            p = softmax(np.einsum("j,njc->nc", at[:k], ln_p[:, :k]) + at[k:], axis=-1)
            return likelihood(p, record.labels) + penalty(at[:k], at[k:])

        best = minimize(
            objective,
            np.append(np.ones(k), np.zeros(4)),
            method="L-BFGS-B",
            bounds=[(0, None)] * k + [(None, None)] * 4,
        )
        found = np.append(policy.state["weights"][k - 1, :k], policy.state["bias"][k - 1])
        assert objective(found) <= best.fun + 1e-6
        np.testing.assert_allclose(found, best.x, atol=5e-3)
        assert (policy.state["weights"][k - 1, k:] == 0).all()


@pytest.mark.parametrize("n", [40, 300])
def test_the_arithmetic_fit_is_the_optimum(n):
    record = record_of(n=n)
    weights = make_policy("ztw", ensemble="arithmetic").fit(record).state["weights"]
    p = softmax(record.logits.astype(np.float64), axis=-1)
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-12)
    assert (weights >= 0).all()
    assert (weights == np.tril(weights)).all()
    for k in range(2, record.n_exits + 1):

        def objective(free, k=k):  # as in the paper: weights are the softmax of free parameters
            return likelihood(np.einsum("j,njc->nc", softmax(free), p[:, :k]), record.labels)

        best = minimize(objective, np.zeros(k))
        ours = likelihood(np.einsum("j,njc->nc", weights[k - 1, :k], p[:, :k]), record.labels)
        assert ours <= best.fun + PENALTY


def test_a_member_that_misleads_has_no_weight():
    """Its weight is exactly 0, which exp(w) in the paper can only approach."""
    record = record_of(n=400, exits=2)
    logits = record.logits.copy()
    logits[:, 0] -= 4 * np.eye(4, dtype=np.float32)[record.labels]
    record = ExitRecord(logits, record.labels, record.cost)
    for ensemble in ENSEMBLES:
        weights = make_policy("ztw", ensemble=ensemble).fit(record).state["weights"]
        assert weights[1, 0] == 0
        assert weights[1, 1] > 0.1


def test_one_exit_is_temperature_scaling_worked_by_hand():
    """A gap of 2 between two logits, right in 4 of 5 cases, is scaled to ln 4, which gives 4 : 1."""
    labels = np.tile([0, 1], 50)
    answers = np.where(np.arange(100) < 80, labels, 1 - labels)
    record = ExitRecord(2.0 * np.eye(2)[answers][:, None], labels, [1])
    policy = make_policy("ztw").fit(record)
    assert policy.state["weights"][0, 0] == pytest.approx(math.log(4) / 2, rel=1e-3)
    np.testing.assert_allclose(policy.state["bias"], 0, atol=1e-3)
    np.testing.assert_allclose(policy.signal(record), 0.8, atol=1e-3)


def test_a_bias_worked_by_hand():
    """If exits contain no information, the bias is the logarithm of the shares of the classes."""
    labels = np.repeat([0, 1, 2], [60, 30, 10])
    policy = make_policy("ztw").fit(ExitRecord(np.zeros((100, 2, 3)), labels, [1, 2]))
    np.testing.assert_allclose(softmax(policy.state["bias"], axis=-1), [[0.6, 0.3, 0.1]] * 2, atol=1e-3)


def test_a_mixture_worked_by_hand():
    """One of two exits is right and confident in 3 of 4 cases, and the other exit in the fourth case."""
    sure = np.array([[30.0, 0.0], [0.0, 30.0]])
    logits = np.stack([sure, sure[:, ::-1]])[[0, 0, 0, 1]].repeat(10, axis=0)  # (40, 2, 2)
    weights = (
        make_policy("ztw", ensemble="arithmetic").fit(ExitRecord(logits, np.zeros(40, int), [1, 2])).state["weights"]
    )
    np.testing.assert_allclose(weights, [[1, 0], [0.75, 0.25]], atol=1e-3)


@pytest.mark.parametrize("ensemble", ENSEMBLES)
@quick
@given(small_records())
def test_no_ensemble_is_less_likely_than_its_last_member(ensemble, record):
    policy = make_policy("ztw", ensemble=ensemble).fit(record)
    p, own = ensemble_probabilities(policy, record), softmax(record.logits.astype(np.float64), axis=-1)
    for i in range(record.n_exits):
        allowed = likelihood(own[:, i], record.labels) + PENALTY + 1e-5
        assert likelihood(p[:, i], record.labels) <= allowed


@pytest.mark.parametrize("ensemble", ENSEMBLES)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("kind", ["separable", "all wrong", "extreme", "alike", "one class", "one sample"])
@pytest.mark.filterwarnings("error")
def test_what_is_learnt_is_finite(ensemble, dtype, kind):
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 50)
    one_hot = np.eye(3)[labels][:, None].repeat(3, axis=1)  # (50, 3, 3)
    logits = {
        "separable": 5 * one_hot,
        "all wrong": -5 * one_hot,
        "extreme": 1e4 * random.choice([-1, 1], size=(50, 3, 3)),
        "alike": np.ones((50, 3, 3)),
        "one class": np.zeros((50, 3, 1)),
        "one sample": 5 * one_hot[:1],
    }[kind].astype(dtype)
    labels = labels[: len(logits)] % logits.shape[2]
    record = ExitRecord(logits, labels, [1, 2, 3])
    policy = make_policy("ztw", ensemble=ensemble).fit(record)
    for learnt in policy.state.values():
        assert np.isfinite(learnt).all()
        assert np.abs(learnt).max() < 20
    signal = policy.signal(record)
    assert ((signal >= 1 / logits.shape[2] - 1e-6) & (signal <= 1 + 1e-6)).all()
    if kind == "separable":
        assert policy.correct(record).all()
        assert signal.min() > (0.999 if ensemble == "geometric" else 0.98)


@pytest.mark.parametrize("ensemble", ENSEMBLES)
def test_what_logits_are_counted_from_does_not_matter(ensemble):
    record = record_of(dtype=np.float64)
    offset = np.random.default_rng(1).uniform(-1e4, 1e4, size=(record.n_samples, record.n_exits, 1))
    moved = ExitRecord(record.logits + offset, record.labels, record.cost)
    here, there = (make_policy("ztw", ensemble=ensemble).fit(each) for each in (record, moved))
    for name, learnt in here.state.items():
        np.testing.assert_allclose(there.state[name], learnt, atol=1e-5)
    np.testing.assert_allclose(there.signal(moved), here.signal(record), atol=1e-5)


@pytest.mark.parametrize("ensemble", ENSEMBLES)
def test_the_same_data_give_the_same_bytes(ensemble):
    a, b = (make_policy("ztw", ensemble=ensemble).fit(record_of()) for _ in range(2))
    assert {name: values.tobytes() for name, values in a.state.items()} == {
        name: values.tobytes() for name, values in b.state.items()
    }


@pytest.mark.parametrize("ensemble", ENSEMBLES)
def test_a_signal_of_a_sample_depends_on_no_other_sample(ensemble):
    record = record_of(n=200, classes=7, exits=5)
    policy = make_policy("ztw", ensemble=ensemble).fit(record)
    signal, answers = policy.signal(record), policy.prediction(record)
    for rows in (np.arange(3), np.arange(57, 121), np.array([199])):
        np.testing.assert_array_equal(policy.signal(record.take(rows)), signal[rows])
        np.testing.assert_array_equal(policy.prediction(record.take(rows)), answers[rows])
