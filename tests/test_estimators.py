"""Policies follow the conventions of scikit-learn: parameters, clones, NotFittedError, and `predict`."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import oracles
from offramp import ExitRecord, NotFittedError, choose_threshold, decide, evaluate, frontier, make_policy, save_policies
from offramp.comparison.runs import Run
from offramp.evaluation import outcomes
from offramp.evaluation.exits import exit_table, reliability_table
from offramp.policies import POLICIES
from strategies import EDGES, each_policy, thresholds, without_labels
from test_policies import EVERY, record_of

OTHERS = {  # for each option, a value that is not its default
    **{"bins": 7, "window": 9, "patience": 3, "tier": 3, "seed": 5, "penalty": 0.5, "reach_threshold": 0.25},
    **{"cost_weight": 0.5, "accuracy_weight": 2.0, "score": "margin", "temperature": "per_exit", "target": "label"},
    **{"binning": "equal_mass", "fit_on": "reached", "no_exit": "most_accurate", "on_disagree": "zero"},
    **{"normalisation": "max", "count": "lgvit", "divergence": "kl", "ensemble": "arithmetic"},
    "answer": "exit",
}


LEARNING = [(name, options) for name, options in EVERY if make_policy(name, **options).learns]


@pytest.fixture(scope="module")
def validation():
    return record_of(0)


# Parameters and clones


@pytest.mark.parametrize("name", POLICIES)
def test_parameters_can_be_got_set_and_cloned(name):
    clone = pytest.importorskip("sklearn.base").clone
    policy = make_policy(name)
    params = {option: OTHERS[option] for option in policy.get_params()}
    if name == "stopping":
        params["target"] = "final"  # "label" is its default, but not that of `oracle`
    assert policy.set_params(**params) is policy
    assert policy.get_params() == policy.get_params(deep=False) == params
    assert policy == make_policy(name, **params)
    cloned = clone(policy)
    assert (type(cloned), cloned.get_params()) == (type(policy), params)


def test_a_clone_is_not_fitted(validation):
    clone = pytest.importorskip("sklearn.base").clone
    fitted = make_policy("pcee", bins=np.int64(5), reach_threshold=np.float32(0.5), score=np.str_("margin"))
    cloned = clone(fitted.fit(validation))
    assert cloned.state is None
    assert {type(value) for value in cloned.get_params().values()} == {int, float, str}
    np.testing.assert_array_equal(cloned.fit(validation).signal(validation), fitted.signal(validation))


def test_parameters_that_are_refused_change_nothing(validation):
    policy = make_policy("pcee").fit(validation)
    signal, params = policy.signal(validation), policy.get_params()
    with pytest.raises(ValueError, match="pcee: unknown option 'bin': expected some of bins, binning, score, fit_on"):
        policy.set_params(bins=7, bin=7)
    with pytest.raises(ValueError, match="pcee: option bins is 0: expected a whole number from 1"):
        policy.set_params(score="margin", bins=0)
    assert policy.get_params() == params
    np.testing.assert_array_equal(policy.signal(validation), signal)


def test_other_parameters_undo_the_fit_and_the_same_ones_do_not(validation):
    policy = make_policy("ztw").fit(validation)
    policy.set_params(ensemble="geometric").set_params().signal(validation)
    policy.set_params(ensemble="arithmetic")
    with pytest.raises(NotFittedError, match=r"ztw learns.*fit\(validation_record\)"):
        policy.signal(validation)
    another = record_of(exits=2)  # the first fit has no effect
    expected = make_policy("ztw", ensemble="arithmetic").fit(another).signal(another)
    np.testing.assert_array_equal(policy.fit(another).signal(another), expected)


# Policies that are not fitted


@pytest.mark.parametrize(("name", "options"), LEARNING)
def test_what_learns_is_refused_before_its_fit(name, options, validation, tmp_path):
    policy = make_policy(name, **options)
    uses = [
        lambda: policy.signal(validation),
        lambda: policy.exits(validation, 0.5),
        lambda: policy.predict(validation, 0.5),
        lambda: policy.choose_threshold(validation, cost=2),
        lambda: policy.choose_thresholds(validation),
        lambda: save_policies({"it": policy}, tmp_path / "p"),
        *([policy.maps] if hasattr(policy, "maps") else []),
        *([lambda: policy.thresholds(20)] if name == "budget" else []),
        *([lambda: policy.prediction(validation)] if name == "ztw" else []),
    ]
    for use in uses:
        with pytest.raises(NotFittedError, match=rf"{name} .*fit\(validation_record\)"):
            use()
    assert list(tmp_path.iterdir()) == []


def test_not_fitted_is_what_scikit_learn_says_too():
    exceptions = pytest.importorskip("sklearn.exceptions")
    assert NotFittedError.__bases__ == exceptions.NotFittedError.__bases__
    assert NotFittedError.__name__ == exceptions.NotFittedError.__name__


# Records without labels


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda record: evaluate(make_policy("confidence"), record, [0.5]), "evaluate needs labels"),
        (lambda record: frontier(make_policy("confidence"), record), "frontier needs labels"),
        (lambda record: outcomes(make_policy("confidence"), record, [0.5]), "outcomes needs labels"),
        (lambda record: choose_threshold(make_policy("confidence"), record, cost=2), "choose_threshold needs labels"),
        (lambda record: make_policy("confidence").choose_thresholds(record), "choose_thresholds needs labels"),
        (lambda record: make_policy("confidence").correct(record), "correct needs labels"),
        (lambda record: make_policy("agreement").correct(record), "correct needs labels"),
        (lambda record: make_policy("oracle", target="label").exits(record, 1), "target='label' needs labels"),
        (lambda record: reliability_table(record, 10), "a reliability table needs labels"),
        (lambda record: exit_table(record, {}, 10), "a table of exits needs labels"),
        (lambda record: Run("a", 0, record_of(), record), "a seed 0, test: a comparison needs labels"),
        *(
            (
                lambda record, name=name, options=options: make_policy(name, **options).fit(record),
                rf"fitting {'temperatures .*' if 'temperature' in options else name} needs labels",
            )
            for name, options in LEARNING
            if name != "budget" and options.get("target") != "final"
        ),
    ],
)
def test_what_needs_labels_says_so(use, message):
    with pytest.raises(ValueError, match=f"{message}, but this record has none; make the record with labels"):
        use(without_labels(record_of()))


@st.composite
def systems(draw):
    """Validation and test records of one system, with tied logits and the similarity of hidden states."""
    exits, classes = draw(st.integers(1, 4)), draw(st.integers(2, 4))
    made = []
    for _ in range(2):
        n = draw(st.integers(1, 6))
        logits = draw(arrays(np.float32, (n, exits, classes), elements=st.integers(-2, 2)))
        labels = draw(arrays(np.int64, n, elements=st.integers(0, classes - 1)))
        similarity = draw(arrays(np.float32, (n, exits), elements=st.sampled_from(EDGES)))
        made.append(ExitRecord(logits, labels, np.arange(exits) + 1, similarity=similarity))
    return made


@pytest.mark.parametrize(("name", "options"), [*EVERY, ("hidden-similarity", {})])
@each_policy
@given(systems(), st.data())
def test_predict_is_the_loop_and_needs_no_labels(name, options, system, data):
    validation, record = system
    policy = make_policy(name, **options).fit(validation)
    signal, prediction = policy.signal(record), policy.prediction(record)
    fallback = policy.fallback(record, signal)
    one_each = st.lists(thresholds(signal), min_size=record.n_exits - 1, max_size=record.n_exits - 1)
    deltas = [data.draw(thresholds(signal)), np.array(data.draw(one_each))]
    everything = decide(policy, record, deltas)
    for t, delta in enumerate(deltas):
        exits, answers = oracles.answers(signal, prediction, delta, fallback)
        predicted = policy.predict(record, delta)
        assert (predicted.shape, predicted.dtype) == ((len(record),), np.int64)
        np.testing.assert_array_equal(predicted, answers)
        np.testing.assert_array_equal(policy.exits(record, delta), exits)
        np.testing.assert_array_equal([each[t] for each in everything], [exits, answers])
    if options.get("target") != "label":
        bare = without_labels(record)
        np.testing.assert_array_equal(policy.signal(bare), signal)
        for found, expected in zip(decide(policy, bare, deltas), everything):
            np.testing.assert_array_equal(found, expected)


# Thresholds


def test_thresholds_that_are_refused(validation):
    policy = make_policy("confidence")
    for use in (policy.exits, policy.predict):
        for threshold in (np.nan, [0.5], [0.5, np.nan], [[0.5, 0.5]]):
            with pytest.raises(ValueError, match=r"threshold: expected a number or 2 of them .* none NaN"):
                use(validation, threshold)
    with pytest.raises(ValueError, match=r"thresholds: expected a sequence, got 0.5; give one as \[0.5\]"):
        decide(policy, validation, 0.5)
    assert [each.shape for each in decide(policy, validation, [])] == [(0, 60)] * 2


@pytest.mark.parametrize("target", [{"accuracy": 0.9}, {"accuracy": 2.0}, {"cost": 1.5}, {"cost": 0.5}])
def test_the_method_chooses_what_the_function_does(target, validation):
    policy = make_policy("pcee").fit(validation)
    assert policy.choose_threshold(validation, **target) == choose_threshold(policy, validation, **target)


@pytest.mark.parametrize("targets", [{}, {"accuracy": 0.9, "cost": 1.5}])
def test_one_target_is_expected(targets, validation):
    with pytest.raises(ValueError, match="choose_threshold: expected either accuracy or cost"):
        make_policy("confidence").choose_threshold(validation, **targets)
