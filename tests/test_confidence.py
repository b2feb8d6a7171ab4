"""Confidence measures of logits, compared with softmax computed with more than a hundred decimal digits."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import entr, softmax

import oracles
from offramp import ExitRecord
from offramp.records import confidence
from offramp.records.confidence import MEASURES, confidences
from strategies import quick

ULP = np.finfo(np.float32).eps
# The relative rounding error of a gap z is 2⁻²⁴, so that of e^-z is z · 2⁻²⁴, with z ≤ 87: other classes are ignored.
LIKE_EXP = 100 * ULP
NOTHING = 1e-33

DTYPES = [np.float16, np.float32, np.float64]


def check(logits, temperature=None):
    found = confidences(logits, temperature)
    np.testing.assert_array_equal(found.prediction, logits.argmax(-1))  # the first of tied classes
    scaled = logits.astype(np.float64) / (1 if temperature is None else np.asarray(temperature)[:, None])
    exact = np.array([[oracles.softmax_measures(row) for row in sample] for sample in scaled])  # (N, L, 3)
    for k, (measure, rtol) in enumerate(zip(MEASURES, [4 * ULP, 8 * ULP, LIKE_EXP], strict=True)):
        values = getattr(found, measure)
        assert values.dtype == np.float32
        np.testing.assert_allclose(values, exact[..., k], rtol=rtol, atol=NOTHING, err_msg=measure)
    return found


@st.composite
def logits(draw):
    """Draw logits of one of three precisions, from a few values and their neighbours: large gaps, tiny gaps, ties."""
    width = draw(st.sampled_from([16, 32, 64]))
    dtype = np.dtype(f"f{width // 8}")
    largest = draw(st.sampled_from([1.0, 10.0, 100.0, float(np.finfo(dtype).max)]))
    bound = float(dtype.type(largest))
    pool = draw(st.lists(st.floats(-bound, bound, width=width), min_size=1, max_size=5))
    pool += [float(np.nextafter(dtype.type(v), dtype.type(0))) for v in pool]
    shape = tuple(draw(st.integers(1, high)) for high in (3, 3, 6))
    return draw(arrays(dtype, shape, elements=st.sampled_from(pool)))


@quick
@given(logits())
def test_any_logits(values):
    check(values)


@quick
@given(logits(), st.data())
def test_a_temperature_for_each_exit(values, data):
    exits = values.shape[1]
    temperature = data.draw(st.lists(st.sampled_from([0.5, 1.0, 2.0, 16.0]), min_size=exits, max_size=exits))
    with np.errstate(over="ignore"):
        wide = values.astype(np.float64) / np.asarray(temperature)[:, None]
    if np.isfinite(wide).all():
        check(values, temperature)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes", [1, 2, 3, 10, 16, 17, 512, 513, 1000, 20_000])
def test_many_classes_against_scipy(dtype, classes):
    values = (np.random.default_rng(classes).normal(size=(6, 2, classes)) * 2).astype(dtype)
    p = np.sort(softmax(values.astype(np.float64), axis=-1), axis=-1)
    second = p[..., -2] if classes > 1 else 0
    found = confidences(values)
    np.testing.assert_array_equal(found.prediction, values.argmax(-1))
    np.testing.assert_allclose(found.max_softmax, p[..., -1], rtol=8 * ULP)
    np.testing.assert_allclose(found.margin, p[..., -1] - second, rtol=8 * ULP, atol=1e-12)
    np.testing.assert_allclose(found.entropy, entr(p).sum(-1), rtol=8 * ULP, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("gap", [1e-8, 1e-6, 1e-4, 1e-2, 1.0, 10.0, 20.0, 40.0, 80.0])
def test_precision_near_certainty_and_near_ties(dtype, gap):
    """Margin and entropy near 0, and entropy near ln C, keep their relative precision."""
    check(np.array([[[0, gap, -5], [gap, 0, gap]], [[-gap, 0, -gap], [0, 0, 0]]], dtype))


def test_two_classes_to_the_last_digits():
    """With two classes, the measures have closed forms for all gaps."""
    gap = np.linspace(0, 40, 4001, dtype=np.float32)
    wide = gap.astype(np.float64)
    found = confidences(np.stack([gap, np.zeros_like(gap)], -1)[:, None])
    rest = np.exp(-wide)
    np.testing.assert_allclose(found.max_softmax[:, 0], 1 / (1 + rest), rtol=ULP)
    np.testing.assert_allclose(found.margin[:, 0], np.tanh(wide / 2), rtol=ULP)
    entropy = np.log1p(rest) + wide * rest / (1 + rest)
    assert (np.abs(found.entropy[:, 0] / entropy - 1) <= (2 + wide) * ULP).all()


def test_entropy_ranks_samples_whose_max_softmax_is_1():
    """Entropy still distinguishes samples whose max softmax is rounded to 1."""
    gaps = np.array([20.0, 30.0, 40.0, 60.0, 80.0], np.float32)
    found = confidences(np.stack([gaps, np.zeros_like(gaps)], -1)[:, None])
    assert (np.diff(found.entropy[:, 0]) < 0).all()
    assert (found.max_softmax == 1).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_ties_go_to_the_first_class(dtype):
    found = check(np.array([[[1, 3, 3, 2], [0, 0, 0, 0]], [[3, 1, 3, 3], [-7, -7, -9, -7]]], dtype))
    assert found.prediction.tolist() == [[1, 0], [0, 0]]
    assert (found.margin == 0).all()


@pytest.mark.parametrize("classes", [1, 3, 16, 17, 513])
def test_high_temperatures_make_all_classes_equal(classes):
    found = confidences(np.linspace(0, 9, classes, dtype=np.float32)[None, None], [np.inf])
    np.testing.assert_allclose(found.max_softmax, 1 / classes, rtol=2 * ULP)
    np.testing.assert_allclose(found.entropy, np.log(classes), rtol=2 * ULP)


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_class_is_certain(dtype):
    found = confidences(np.array([[[3.5], [-2]]], dtype))
    assert [field.tolist() for field in found] == [[[0, 0]], [[1, 1]], [[1, 1]], [[0, 0]]]


@pytest.mark.parametrize("dtype", DTYPES)
def test_views_and_maps_give_the_same(dtype, tmp_path):
    values = np.random.default_rng(0).normal(size=(7, 3, 5)).astype(dtype)
    expected = confidences(values)
    on_disk = np.memmap(tmp_path / "logits", dtype, "w+", shape=values.shape)
    on_disk[:] = values
    views = [
        np.asfortranarray(values),
        np.repeat(values, 2, axis=2)[..., ::2],
        values[::-1][::-1],
        values.transpose(2, 0, 1).copy().transpose(1, 2, 0),
        np.memmap(tmp_path / "logits", dtype, "r", shape=values.shape),
    ]
    for view in views:
        for found, wanted in zip(confidences(view), expected, strict=True):
            np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("temperature", [None, [0.5, 1.0, 3.0]])
def test_blocks_and_threads_give_the_same(temperature, monkeypatch):
    values = np.random.default_rng(0).normal(size=(50, 3, 4)).astype(np.float32)
    whole = confidences(values, temperature)
    monkeypatch.setattr(confidence, "BLOCK_BYTES", 7 * values[0].nbytes)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    for found, wanted in zip(confidences(values, temperature), whole, strict=True):
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("given", ["", "0", "many", "-1"])
def test_threads_where_none_are_named(given, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", given)
    assert confidence.available_threads() >= 1
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert confidence.available_threads() == 3


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("block", [1, 1 << 22])
def test_what_is_no_number_is_named_by_its_place(dtype, bad, block, monkeypatch):
    monkeypatch.setattr(confidence, "BLOCK_BYTES", block)
    values = np.zeros((9, 2, 6), dtype)
    values[7, 1, 4] = bad
    values[8, 0, 0] = np.nan
    with pytest.raises(ValueError, match=rf"logits\[7, 1, 4\] is {bad}: .*finite"):
        confidences(values)
    with pytest.raises(ValueError, match=r"logits\[7, 1, 4\]"):
        ExitRecord(values, np.zeros(9, int), [1, 2])
