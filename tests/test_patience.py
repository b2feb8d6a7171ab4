"""Rules over several exits compared with the counters of their papers; normalised entropy; similarity."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.distance import jensenshannon
from scipy.special import entr, rel_entr, softmax

from offramp import ExitRecord, evaluate, frontier, make_policy
from strategies import few, quick, records, thresholds


def record_of(logits, dtype=np.float64):
    logits = np.asarray(logits, dtype)
    return ExitRecord(logits, np.zeros(len(logits), int), np.arange(1, logits.shape[1] + 1))


@st.composite
def logit_records(draw, dtypes=(np.float32, np.float64)):
    n, l, c = draw(st.integers(1, 5)), draw(st.integers(1, 6)), draw(st.integers(2, 4))
    pool = draw(few(st.floats(-30, 30, width=32)))
    logits = draw(arrays(np.float64, (n, l, c), elements=st.sampled_from(pool)))
    return record_of(logits, draw(st.sampled_from(dtypes)))


def first_to_reach(target, hits):
    """Return the exit at which the number of consecutive hits reaches the target, or the last exit."""
    count = 0
    for i, hit in enumerate(hits):
        count = count + 1 if hit else 0
        if count >= target:
            return i
    return len(hits) - 1


# PABEE and LGViT


@pytest.mark.parametrize(("count", "expected"), [("pabee", [0, 1, 2, 0, 1, 2]), ("lgvit", [1, 2, 3, 1, 2, 3])])
def test_counters(count, expected):
    record = ExitRecord.from_outputs([[1, 1, 1, 0, 0, 0]], np.full((1, 6), 0.5), [0], np.arange(1, 7))
    policy = make_policy("patience", count=count)
    assert policy.signal(record).tolist() == [expected]
    for t in range(1, 5):
        assert policy.exits(record, t).tolist() == [expected.index(t) if t in expected else 5]


@quick
@given(records(exits=(1, 9)), st.integers(1, 9))
def test_patience_is_the_counter(record, t):
    pabee, lgvit = (make_policy("patience", count=count).exits(record, t) for count in ("pabee", "lgvit"))
    for n, answers in enumerate(record.prediction):
        same = [i > 0 and answers[i] == answers[i - 1] for i in range(record.n_exits)]
        assert pabee[n] == first_to_reach(t, same)
        # t equal answers are t − 1 agreements of neighbours; the first exit counts as one answer
        assert lgvit[n] == (0 if t == 1 else first_to_reach(t - 1, same))


@quick
@given(records(exits=(1, 9)))
def test_pabee_asks_for_one_more_than_lgvit(record):
    pabee, lgvit = (make_policy("patience", count=count).signal(record) for count in ("pabee", "lgvit"))
    np.testing.assert_array_equal(lgvit, pabee + 1)


def test_patience_needs_no_confidence_but_some():
    record = ExitRecord.from_outputs([[0, 0]], {"margin": [[0.1, 0.1]]}, [0], [1, 2])
    assert make_policy("patience").signal(record).tolist() == [[0, 1]]


# PCEE-BERT


@quick
@given(records(exits=(1, 6)), st.integers(1, 7), st.data())
def test_patient_confident_is_the_counter(record, t, data):
    policy = make_policy("patient-confident", patience=t)
    signal = policy.signal(record)
    sure = 1 - record.measure("entropy").astype(np.float64) / math.log(record.n_classes)
    delta = data.draw(thresholds(np.append(sure, 0.5)).filter(lambda x: -math.inf < x < math.inf))
    exits = policy.exits(record, delta)
    for n in range(record.n_samples):
        assert exits[n] == first_to_reach(t, [value >= delta for value in sure[n]])
        for i in range(record.n_exits):
            assert signal[n, i] == (-math.inf if i + 1 < t else min(sure[n, i + 1 - t : i + 1]))


def test_without_patience_it_is_normalised_entropy():
    record = record_of(np.random.default_rng(0).normal(size=(20, 4, 3)))
    patient = make_policy("patient-confident", patience=1).signal(record)
    np.testing.assert_array_equal(patient, make_policy("normalized-entropy").signal(record))


@pytest.mark.parametrize("name", ["patient-confident", "f-pabee"])
@pytest.mark.parametrize("patience", [4, 5, 10**12])
def test_more_patience_than_exits_is_the_full_model(name, patience):
    record = record_of(np.random.default_rng(0).normal(size=(20, 3, 3)))
    policy = make_policy(name, patience=patience)
    assert (policy.signal(record) == -np.inf).all()
    assert (policy.exits(record, -1e300) == 2).all()
    assert len(frontier(policy, record)) == 2  # at −∞, all samples leave at the first exit, as with every policy
    assert evaluate(policy, record, [-1e300]).exit_3[0] == 1


# F-PABEE


def divergences(record, kind):
    """Divergences between each exit and the previous one, (N, L − 1)."""
    p = softmax(record.logits.astype(np.float64), axis=-1)
    if kind == "kl":
        return rel_entr(p[:, 1:], p[:, :-1]).sum(axis=-1)
    return jensenshannon(p[:, 1:], p[:, :-1], axis=-1) ** 2


@quick
@given(logit_records(), st.integers(1, 6), st.sampled_from(["js", "kl"]))
def test_f_pabee_is_the_loop(record, t, kind):
    signal = make_policy("f-pabee", divergence=kind, patience=t).signal(record)
    expected = divergences(record, kind)
    for n in range(record.n_samples):
        for i in range(record.n_exits):
            if i < t:
                assert signal[n, i] == -math.inf
            else:
                assert signal[n, i] == pytest.approx(-max(expected[n, i - t : i]), rel=1e-9, abs=1e-12)


@quick
@given(logit_records(), st.integers(1, 4), st.sampled_from(["js", "kl"]), st.floats(1e-6, 2))
def test_f_pabee_is_the_counter(record, t, kind, tau):
    changes = -make_policy("f-pabee", divergence=kind, patience=1).signal(record)  # (N, L)
    exits = make_policy("f-pabee", divergence=kind, patience=t).exits(record, -tau)
    for n in range(record.n_samples):
        assert exits[n] == first_to_reach(t, [change <= tau for change in changes[n]])


def test_worked_divergences():
    p = np.array([[[0.5, 0.5], [0.9, 0.1]]])
    kl = 0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5)  # of the later exit relative to the earlier one
    js = entr([0.7, 0.3]).sum() - (entr([0.5, 0.5]).sum() + entr([0.9, 0.1]).sum()) / 2
    for kind, expected in (("kl", kl), ("js", js)):
        signal = make_policy("f-pabee", divergence=kind, patience=1).signal(record_of(np.log(p)))
        assert signal[0].tolist() == [-math.inf, pytest.approx(-expected, rel=1e-12)]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_extreme_logits(dtype):
    record = record_of([[[1e4, -1e4, 0], [-1e4, 1e4, 0], [-1e4, 1e4, 0]]], dtype)
    js = make_policy("f-pabee", patience=1).signal(record)
    kl = make_policy("f-pabee", divergence="kl", patience=1).signal(record)
    np.testing.assert_allclose(js, [[-np.inf, -math.log(2), 0]], rtol=1e-14)
    np.testing.assert_allclose(kl, [[-np.inf, -2e4, 0]], rtol=1e-3)


@quick
@given(logit_records(dtypes=(np.float16, np.float32, np.float64)))
def test_divergences_have_their_range(record):
    repeated = record_of(np.repeat(record.logits, 2, axis=1), record.logits.dtype)
    for kind in ("js", "kl"):
        policy = make_policy("f-pabee", divergence=kind, patience=1)
        assert (policy.signal(record) <= 0).all()
        assert (policy.signal(repeated)[:, 1::2] == 0).all()  # exactly 0 if nothing changes
    assert (make_policy("f-pabee", patience=1).signal(record)[:, 1:] >= -math.log(2) - 1e-12).all()


def test_blocks_of_samples_change_nothing():
    logits = np.random.default_rng(0).normal(size=(300, 3, 3000)).astype(np.float32)  # more than one block
    signal = make_policy("f-pabee").signal(record_of(logits, np.float32))
    for n in (0, 150, 299):
        np.testing.assert_array_equal(make_policy("f-pabee").signal(record_of(logits[[n]], np.float32))[0], signal[n])


def test_f_pabee_needs_logits():
    record = ExitRecord.from_outputs([[0, 1]], [[0.5, 0.5]], [0], [1, 2], metadata={"classes": 2})
    with pytest.raises(ValueError, match="f-pabee needs logits"):
        make_policy("f-pabee").signal(record)


@pytest.mark.parametrize(
    ("name", "option", "value", "expected"),
    [
        ("patience", "count", "bert", "'pabee' or 'lgvit'"),
        ("patient-confident", "patience", 0, "a whole number from 1"),
        ("patient-confident", "patience", 1.5, "a whole number from 1"),
        ("f-pabee", "patience", 0, "a whole number from 1"),
        ("f-pabee", "divergence", "l2", "'js' or 'kl'"),
    ],
)
def test_options_out_of_range(name, option, value, expected):
    with pytest.raises(ValueError, match=rf"{name}: option {option} is .*expected {expected}"):
        make_policy(name, **{option: value})


# Normalised entropy and similarity


@quick
@given(logit_records())
def test_normalised_entropy(record):
    p = softmax(record.logits.astype(np.float64), axis=-1)
    expected = 1 - entr(p).sum(axis=-1) / math.log(record.n_classes)
    np.testing.assert_allclose(make_policy("normalized-entropy").signal(record), expected, atol=1e-6)


def test_normalised_entropy_from_none_to_all():
    entropy = np.array([[math.log(4), math.log(4) / 2, 0]])
    record = ExitRecord.from_outputs([[0, 0, 0]], {"entropy": entropy}, [0], [1, 2, 3], metadata={"classes": 4})
    assert make_policy("normalized-entropy").signal(record).tolist() == [[0, 0.5, 1]]
    assert not make_policy("normalized-entropy").claims_accuracy


@pytest.mark.parametrize("name", ["normalized-entropy", "patient-confident"])
def test_normalised_entropy_needs_the_number_of_classes(name):
    entropy = {"entropy": [[0.5]]}
    with pytest.raises(ValueError, match=rf'{name} needs the number of classes; set metadata\["classes"\]'):
        make_policy(name).signal(ExitRecord.from_outputs([[0]], entropy, [0], [1]))
    with pytest.raises(ValueError, match=rf"{name}: there is 1 class; expected at least 2"):
        make_policy(name).signal(ExitRecord.from_outputs([[0]], entropy, [0], [1], metadata={"classes": 1}))
    with pytest.raises(ValueError, match="no entropy, only margin"):
        make_policy(name).signal(ExitRecord.from_outputs([[0]], {"margin": [[0.5]]}, [0], [1], metadata={"classes": 2}))


def test_similarity_is_the_records():
    record = ExitRecord.from_outputs([[0, 1, 1]], {"similarity": [[-0.5, 0.25, 1]]}, [0], [1, 2, 3])
    policy = make_policy("hidden-similarity")
    assert policy.signal(record).tolist() == [[-0.5, 0.25, 1]]
    assert policy.exits(record, 0.9).tolist() == [2]
    assert policy.options == {}


def test_similarity_that_the_record_has_not():
    record = ExitRecord.from_outputs([[0]], {"margin": [[0.5]]}, [0], [1])
    with pytest.raises(ValueError, match="no similarity, only margin"):
        make_policy("hidden-similarity").signal(record)
