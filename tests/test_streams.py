"""Policies that decide as the exits come in give what they give for a whole record, to the last bit."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from offramp import ExitOutputs, ExitRecord, NotFittedError, decide, make_policy
from offramp.policies import base
from offramp.policies.base import reaches
from strategies import each_policy, thresholds
from test_estimators import LEARNING, systems
from test_policies import EVERY, record_of

STREAMED = [
    *((name, options) for name, options in EVERY if name != "oracle"),
    *(("hidden-similarity", {}), ("f-pabee", {"patience": 1}), ("patient-confident", {"patience": 1})),
    *(("pcee", {"no_exit": "most_confident", "score": "entropy", "bins": 4}), ("pcee", {"no_exit": "most_accurate"})),
]


def bits(values):
    return np.asarray(values).tobytes()


def outputs_of(record, i, rows, computed):
    """The outputs of an exit: those of the record, or those computed anew from the logits."""
    if computed:
        return ExitOutputs.of(record.logits[rows, i], record.measure("similarity")[rows, i])
    return record.outputs(i, rows)


# Streams and records


@pytest.mark.parametrize(("name", "options"), STREAMED)
@each_policy
@given(systems(), st.data())
def test_whichever_samples_stay(name, options, system, data):
    validation, record = system
    policy = make_policy(name, **options).fit(validation)
    signal, prediction = policy.signal(record), policy.prediction(record)
    first = data.draw(st.integers(0, len(record) - 1), label="first")
    there = np.arange(first, len(record))
    stream = policy.start(len(there), first=first)
    computed = data.draw(st.booleans())
    for i in range(record.n_exits):
        if data.draw(st.booleans()):
            stays = np.array(data.draw(st.lists(st.booleans(), min_size=len(there), max_size=len(there))), bool)
            stream.keep(stays if data.draw(st.booleans()) else np.flatnonzero(stays))
            there = there[stays]
        found = stream.step(outputs_of(record, i, there, computed))
        assert (stream.exit, stream.n, found.dtype) == (i, len(there), np.float64)
        assert stream.prediction.dtype == stream.fallback_prediction.dtype == np.int64
        assert bits(found) == bits(signal[there, i])
        assert bits(stream.prediction) == bits(prediction[there, i])


@pytest.mark.parametrize(("name", "options"), STREAMED)
@each_policy
@given(systems(), st.data())
def test_leaving_is_deciding(name, options, system, data):
    validation, record = system
    policy = make_policy(name, **options).fit(validation)
    signal, last = policy.signal(record), record.n_exits - 1
    one_each = st.lists(thresholds(signal), min_size=last, max_size=last).map(np.array)
    threshold = data.draw(thresholds(signal) | one_each)
    shared = np.ndim(threshold) == 0
    exits, answers = np.zeros((2, len(record)), np.int64)
    there, stream = np.arange(len(record)), policy.start(len(record))
    for i in range(record.n_exits):
        found = stream.step(record.outputs(i, there))
        if i == last:
            reached = reaches(found, threshold) if shared else np.ones(len(there), bool)
            exits[there], answers[there] = i, np.where(reached, stream.prediction, stream.fallback_prediction)
            break
        leave = reaches(found, threshold if shared else threshold[i])
        exits[there[leave]], answers[there[leave]] = i, stream.prediction[leave]
        stream.keep(~leave)
        there = there[~leave]
    np.testing.assert_array_equal([[exits], [answers]], decide(policy, record, [threshold]))


@pytest.mark.parametrize(("name", "options"), STREAMED)
def test_blocks_and_batches_change_nothing(name, options, monkeypatch):
    record = record_of(1, n=50)
    record = ExitRecord(record.logits, record.labels, record.cost, similarity=record.confidence())
    policy = make_policy(name, **options).fit(record)
    signal, prediction = policy.signal(record), policy.prediction(record)
    monkeypatch.setattr(base, "BLOCK", 28)  # 7 samples
    assert bits(policy.signal(record)) == bits(signal)
    assert bits(policy.prediction(record)) == bits(prediction)
    for n in range(len(record)):
        stream = policy.start(1, first=n)
        for i in range(record.n_exits):
            assert bits(stream.step(record.outputs(i, [n]))) == bits(signal[n, i])


def test_policies_that_are_not_fitted_need_no_number_of_exits():
    record = record_of()
    for name in ("confidence", "beem-c", "patience", "patient-confident", "f-pabee", "normalized-entropy"):
        policy = make_policy(name)
        stream, signal = policy.start(len(record)), policy.signal(record)
        for i in range(record.n_exits):
            assert bits(stream.step(record.outputs(i))) == bits(signal[:, i])
    for name in ("agreement", "random"):
        with pytest.raises(ValueError, match=rf"{name} needs the number of exits: start\(n, exits=L\)"):
            make_policy(name).start(3)
        make_policy(name).start(3, 4).step(ExitOutputs.of(np.zeros((3, 2))))


# The outputs of an exit


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_outputs_of_logits_are_those_of_the_record(dtype):
    record = record_of()
    record = ExitRecord(record.logits.astype(dtype), record.labels, record.cost, similarity=record.confidence())
    for rows in (None, slice(3, 9), [4, 2], np.arange(60) % 2 == 0):
        stored = record.outputs(1, rows)
        computed = ExitOutputs.of(stored.logits, stored.similarity)
        chosen = slice(None) if rows is None else rows
        np.testing.assert_array_equal(stored.prediction, record.prediction[chosen, 1])
        assert list(stored.confidence) == list(computed.confidence) == ["max_softmax", "margin", "entropy"]
        for measure in stored.confidence:
            np.testing.assert_array_equal(stored.measure(measure), record.measure(measure)[chosen, 1])
            np.testing.assert_array_equal(stored.score(measure), record.confidence(measure)[chosen, 1])
            assert bits(stored.measure(measure)) == bits(computed.measure(measure))
        assert bits(stored.prediction) == bits(computed.prediction)
        np.testing.assert_array_equal(stored.logits, record.logits[chosen, 1])
        np.testing.assert_array_equal(stored.similarity, record.measure("similarity")[chosen, 1])
        assert stored.classes == computed.classes == 4
    assert record.outputs(1, logits=False).logits is None


def test_logits_that_are_not_needed_are_not_read():
    def logits():
        raise AssertionError("read")

    plain = record_of()
    measures = {measure: plain.measure(measure) for measure in plain.measures}
    record = ExitRecord.from_outputs(
        plain.prediction, measures, plain.labels, plain.cost, metadata={"classes": 4}, logits=logits
    )
    for name, options in EVERY:
        policy = make_policy(name, **options).fit(plain)
        if policy.needs_logits:
            with pytest.raises(AssertionError, match="read"):
                policy.signal(record)
        else:
            policy.fallback(record, policy.signal(record))


@pytest.mark.parametrize(
    ("logits", "message"),
    [
        (np.zeros(3), r"logits: expected floats of shape \(samples, classes\), at least 1 class; got float64 \(3,\)"),
        (np.zeros((3, 0)), r"got float64 \(3, 0\)"),
        ([[1, 2]], r"got int64 \(1, 2\)"),
        ([[0.5, 1], [1, np.nan]], r"logits\[1, 1\] is nan: logits must be finite"),
        ([[0.5, -np.inf]], r"logits\[0, 1\] is -inf: logits must be finite"),
    ],
)
def test_logits_that_are_refused(logits, message):
    with pytest.raises(ValueError, match=message):
        ExitOutputs.of(logits)


# Errors


def outputs(n=3, **others):
    return ExitOutputs(np.zeros(n, int), {"margin": np.full(n, 0.5)}, **others)


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda: make_policy("patience").start(1.5), "patience: start: n is 1.5; expected a whole number from 0"),
        (lambda: make_policy("patience").start(-1), "patience: start: n is -1"),
        (lambda: make_policy("patience").start(1, 0), "patience: start: exits is 0; expected a whole number from 1"),
        (lambda: make_policy("patience").start(1, first=-1), "patience: start: first is -1"),
        (lambda: make_policy("pcee").fit(record_of()).start(3, 2), "the system has 2 exits, but pcee was fitted on 3"),
        (
            lambda: make_policy("pcee").fit(record_of()).start(3).step(outputs(classes=5)),
            "the system has 5 classes, but pcee was fitted on 4",
        ),
        (lambda: make_policy("oracle").start(3, 2), "oracle with target='final' needs the last exit; expected a whole"),
        (lambda: make_policy("oracle", target="label").start(3, 2), "oracle with target='label' needs the labels"),
        (
            lambda: make_policy("patience").start(3).step(outputs(2)),
            r"patience: exit 1 has predictions of shape \(2,\); expected \(3,\)",
        ),
        (
            lambda: (
                make_policy("confidence", score="margin")
                .start(3)
                .step(ExitOutputs(np.zeros(3, int), {"margin": np.zeros(2)}))
            ),
            r"confidence: the signal has shape \(2,\); expected \(3,\)",
        ),
        (
            lambda: (
                make_policy("confidence", score="margin")
                .start(1)
                .step(ExitOutputs(np.zeros(1, int), {"margin": np.full(1, np.nan)}))
            ),
            "confidence: the signal has NaN; expected numbers",
        ),
        (lambda: make_policy("confidence").start(3).step(outputs()), "these outputs have no max_softmax, only margin"),
        (lambda: make_policy("f-pabee").start(3).step(outputs()), "f-pabee needs logits, but exit 1 has none"),
        (
            lambda: make_policy("hidden-similarity").start(3).step(outputs()),
            "hidden-similarity: these outputs have no similarity, only margin",
        ),
    ],
)
def test_what_is_refused(use, message):
    with pytest.raises(ValueError, match=message) as refused:
        use()
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("name", "options"), LEARNING)
def test_what_learns_cannot_start_before_its_fit(name, options):
    with pytest.raises(NotFittedError, match=rf"{name} .*fit\(validation_record\)"):
        make_policy(name, **options).start(3)


def test_there_are_no_more_steps_than_exits():
    stream = make_policy("patience").start(3, exits=1)
    stream.step(outputs())
    with pytest.raises(ValueError, match="patience: step 2, but the number of exits is 1"):
        stream.step(outputs())


@pytest.mark.parametrize(
    "rows", [[3], [-1], [0, 0], [True, False], [[0, 1]], [0.5], 1, np.ones((3, 1), bool), np.zeros(0, bool)]
)
def test_rows_that_are_refused(rows):
    stream = make_policy("patience").start(3)
    with pytest.raises(ValueError, match="keep: expected a mask of 3 samples or different positions from 0 to 2; got"):
        stream.keep(rows)
    assert stream.n == 3


def test_the_order_of_the_rows_is_the_order_of_the_samples():
    stream = make_policy("patience").start(3)
    stream.step(ExitOutputs(np.array([0, 1, 2]), {}))
    stream.keep([2, 0])
    assert stream.prediction.tolist() == stream.fallback_prediction.tolist() == [2, 0]
    assert stream.step(ExitOutputs(np.array([2, 1]), {})).tolist() == [1, 0]
    stream.keep([])
    assert stream.step(ExitOutputs(np.zeros(0, int), {})).tolist() == []


def test_ensembles_of_many_exits_are_those_of_the_record():
    random = np.random.default_rng(0)
    record = ExitRecord(random.normal(size=(33, 12, 17)).astype(np.float32), random.integers(0, 17, 33), np.arange(12))
    for ensemble in ("geometric", "arithmetic"):
        policy = make_policy("ztw", ensemble=ensemble).fit(record)
        signal = policy.signal(record)
        for n in (0, 13, 32):
            assert bits(policy.signal(record[n])) == bits(signal[n])
