"""One threshold per exit, chosen on validation data, compared with an exhaustive search."""

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import oracles
from offramp import ExitRecord, make_policy
from offramp.evaluation import decide
from strategies import given_signal, quick, records, signals

REFERENCES = ["overall", "same_samples"]
options = st.fixed_dictionaries({"reference": st.sampled_from(REFERENCES), "min_support": st.integers(1, 5)})


@st.composite
def cases(draw):
    """Draw a record and any signal on it, with ties and ±∞."""
    record = draw(records(samples=(1, 12)))
    return record, draw(signals(record.prediction.shape))


def record_of(right, **about):
    """A record with two classes, right or wrong as given (N, L)."""
    n, l = np.shape(right)
    prediction = 1 - np.array(right)
    return ExitRecord.from_outputs(prediction, np.full((n, l), 0.5), [0] * n, np.arange(l) + 1, metadata=about)


@quick
@given(cases(), options)
def test_they_are_the_lowest_that_err_seldom_enough(case, choice):
    record, signal = case
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = given_signal(signal).choose_thresholds(record, **choice)
    assert found.shape == (record.n_exits - 1,)
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, oracles.error_rate_thresholds(signal, record.correct, **choice))


@quick
@given(cases(), st.integers(1, 5), st.data())
def test_by_the_same_samples_never_worse_than_the_final_exit(case, min_support, data):
    """This holds on the data used for the choice, for any signal.

    It also holds if the policy has its own answers.
    """
    record, signal = case
    own = data.draw(st.none() | arrays(np.int64, signal.shape, elements=st.integers(0, record.n_classes - 1)))
    somewhere = np.zeros(record.n_samples, np.int64)  # not used, because thresholds are not shared
    policy = given_signal(signal, somewhere, own)
    chosen = policy.choose_thresholds(record, reference="same_samples", min_support=min_support)
    exits = policy.exits(record, chosen)
    correct = policy.correct(record)
    assert correct[np.arange(record.n_samples), exits].sum() >= correct[:, -1].sum()
    _, answers = decide(policy, record, [chosen])
    assert (answers[0] == record.labels).sum() >= correct[:, -1].sum()


def test_by_all_samples_it_may_be_worse():
    """The final exit is wrong on two of four samples, so one of two may be wrong at the first exit.

    However, the final exit is right on both of these.
    """
    record = record_of([[True, True], [False, True], [False, False], [False, False]])
    policy = given_signal([[4, 0], [3, 0], [2, 0], [1, 0]])
    overall = policy.choose_thresholds(record, reference="overall", min_support=2)
    assert overall.tolist() == [3]
    right = record.correct[np.arange(4), policy.exits(record, overall)]
    assert (right.sum(), record.correct[:, -1].sum()) == (1, 2)
    same = policy.choose_thresholds(record, reference="same_samples", min_support=2)
    assert same.tolist() == [np.inf]
    assert policy.choose_thresholds(record, reference="same_samples", min_support=1).tolist() == [4]


def test_the_default_reference_is_all_samples():
    record = record_of([[True, True], [False, True], [False, False], [False, False]] * 10)
    policy = given_signal([[4, 0], [3, 0], [2, 0], [1, 0]] * 10)
    assert policy.choose_thresholds(record).tolist() == [3]
    assert policy.choose_thresholds(record, reference="same_samples").tolist() == [4]
    few = record.take(np.arange(9))
    assert given_signal(policy.values[:9]).choose_thresholds(few).tolist() == [np.inf]  # at least 10 must leave
    ten = record.take(np.arange(0, 40, 4))
    assert given_signal(policy.values[::4]).choose_thresholds(ten).tolist() == [4]


@quick
@given(cases(), options)
def test_at_least_so_many_leave_or_none(case, choice):
    record, signal = case
    policy = given_signal(signal)
    left = np.bincount(policy.exits(record, policy.choose_thresholds(record, **choice)), minlength=record.n_exits)[:-1]
    assert ((left == 0) | (left >= choice["min_support"])).all()


@quick
@given(cases(), options)
def test_each_exit_errs_no_more_often_than_it_may(case, choice):
    record, signal = case
    policy = given_signal(signal)
    exits = policy.exits(record, policy.choose_thresholds(record, **choice))
    for i in range(record.n_exits - 1):
        leave = exits == i
        if leave.any():
            judges = leave if choice["reference"] == "same_samples" else slice(None)
            assert (~record.correct[leave, i]).mean() <= (~record.correct[judges, -1]).mean()


def test_tied_samples_leave_together():
    """The three most confident samples are tied, and two of them are wrong."""
    record = record_of([[True, True], [False, True], [False, True], [True, True]])
    policy = given_signal([[2, 0], [2, 0], [2, 0], [1, 0]])
    for reference in REFERENCES:
        assert policy.choose_thresholds(record, reference=reference, min_support=1).tolist() == [np.inf]


def test_samples_that_left_do_not_count_at_later_exits():
    """Only the last two samples reach the second exit. The first, which would be wrong there, has left."""
    record = record_of([[True, False, True], [False, True, True], [False, True, True]])
    policy = given_signal([[9, 9, 0], [1, 5, 0], [1, 4, 0]])
    for reference in REFERENCES:
        assert policy.choose_thresholds(record, reference=reference, min_support=1).tolist() == [9, 4]


def test_infinite_signals():
    """A signal of +∞ leaves, but at a finite threshold. A signal of −∞ never leaves."""
    record = record_of([[True, True]] * 3)
    policy = given_signal([[np.inf, 0], [-np.inf, 0], [-np.inf, 0]])
    chosen = policy.choose_thresholds(record, min_support=1)
    assert np.isfinite(chosen).all()
    assert policy.exits(record, chosen).tolist() == [0, 1, 1]
    assert given_signal([[-np.inf, 0]] * 3).choose_thresholds(record, min_support=1).tolist() == [np.inf]
    low = given_signal([[-np.finfo(np.float64).max, 0]] * 3).choose_thresholds(record, min_support=1)
    assert low.tolist() == [-np.finfo(np.float64).max]


def test_one_exit_has_no_threshold():
    record = record_of([[True], [False]])
    policy = given_signal([[1], [2]])
    chosen = policy.choose_thresholds(record, min_support=1)
    assert chosen.shape == (0,)
    assert policy.exits(record, chosen).tolist() == [0, 0]
    exits, answers = decide(policy, record, [chosen])
    assert (exits.tolist(), answers.tolist()) == ([[0, 0]], [[0, 1]])


@pytest.mark.parametrize("name", ["confidence", "beem-c", "beem-a", "patience", "patient-confident", "f-pabee", "ztw"])
def test_of_every_kind_of_policy(name):
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 80)
    logits = random.normal(size=(80, 1, 3)) + 0.3 * random.normal(size=(80, 4, 3))  # exits mostly fail alike
    logits[np.arange(80), :, labels] += np.linspace(0.8, 1.2, 4)
    record = ExitRecord(logits.astype(np.float32), labels, [1, 2, 3, 4])
    policy = make_policy(name).fit(record)
    for reference in REFERENCES:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = policy.choose_thresholds(record, reference=reference)
        signal, correct = policy.signal(record), policy.correct(record)
        np.testing.assert_array_equal(found, oracles.error_rate_thresholds(signal, correct, reference, 10))
        assert (policy.exits(record, found) < 3).any()  # some samples leave early


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"rule": "error"}, "rule is 'error'; expected one of error_rate"),
        ({"reference": "same"}, "reference is 'same'; expected one of overall, same_samples"),
        ({"reference": None}, "reference is None; expected one of overall, same_samples"),
        ({"min_support": 0}, "min_support is 0; expected a whole number from 1"),
        ({"min_support": 1.5}, r"min_support is 1\.5; expected a whole number from 1"),
        ({"min_support": "3"}, "min_support is '3'; expected a whole number from 1"),
    ],
)
def test_options_that_are_refused(wrong, message):
    with pytest.raises(ValueError, match=f"choose_thresholds: {message}"):
        given_signal([[1, 2]]).choose_thresholds(record_of([[True, True]]), **wrong)


def test_the_policy_is_to_be_fitted_on_such_a_record():
    record = record_of([[True, True]])
    with pytest.raises(ValueError, match="beem-a learns from data"):
        make_policy("beem-a").choose_thresholds(record)
    with pytest.raises(ValueError, match="the system has 2 exits, but beem-a was fitted on 3"):
        make_policy("beem-a").fit(record_of([[True, True, True]])).choose_thresholds(record)
