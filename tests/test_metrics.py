"""Metrics for two classes compared with those of scikit-learn."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import f1_score, matthews_corrcoef

from offramp.records.metrics import METRICS, terms
from strategies import quick

THEIRS = {
    "f1": lambda truth, answer, weights=None: f1_score(truth, answer, sample_weight=weights, zero_division=0),
    "matthews": lambda truth, answer, weights=None: matthews_corrcoef(truth, answer, sample_weight=weights),
}
pytestmark = pytest.mark.filterwarnings("ignore:A single label was found:UserWarning")  # scikit-learn's
classes = st.integers(0, 1)


def test_there_are_two():
    assert METRICS.keys() == THEIRS.keys()


@pytest.mark.parametrize("metric", METRICS)
@quick
@given(data=st.data())
def test_they_are_scikit_learns(metric, data):
    """For several exits at once, and for means in which samples count several times or not at all."""
    n, l = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 3))
    truth = data.draw(arrays(np.int64, n, elements=classes))
    answer = data.draw(arrays(np.int64, (n, l), elements=classes))
    counts = data.draw(arrays(np.int64, n, elements=st.integers(0, 3)).filter(np.any))
    parts = terms(answer, truth[:, None])
    assert all(part.shape == (n, l) and part.dtype == bool for part in parts)
    plain = METRICS[metric](*(part.mean(0) for part in parts))
    weighted = METRICS[metric](*(counts @ part / counts.sum() for part in parts))
    assert plain.shape == weighted.shape == (l,)
    for i in range(l):
        assert plain[i] == pytest.approx(THEIRS[metric](truth, answer[:, i]), abs=1e-12)
        repeated = np.repeat(np.arange(n), counts)
        assert weighted[i] == pytest.approx(THEIRS[metric](truth[repeated], answer[repeated, i]), abs=1e-12)


@pytest.mark.parametrize(
    ("truth", "answer", "f1", "matthews"),
    [
        ([1, 0, 1, 0], [1, 0, 1, 0], 1, 1),
        ([1, 0, 1, 0], [0, 1, 0, 1], 0, -1),
        ([1, 1, 1, 1], [1, 1, 1, 1], 1, 0),  # all equal: no correlation
        ([0, 0, 0, 0], [0, 0, 0, 0], 0, 0),
        ([1, 1, 0, 0], [0, 0, 0, 0], 0, 0),
        ([0, 0, 0, 0], [1, 1, 0, 0], 0, 0),
        ([1, 1, 0, 0, 0, 0], [1, 0, 1, 0, 0, 0], 1 / 2, (1 * 3 - 1 * 1) / (2 * 4)),
        ([1, 1, 1, 0], [1, 1, 1, 1], 6 / 7, 0),
    ],
)
def test_by_hand(truth, answer, f1, matthews):
    means = [part.mean() for part in terms(np.array(answer), np.array(truth))]
    assert METRICS["f1"](*means) == pytest.approx(f1, abs=1e-15)
    assert METRICS["matthews"](*means) == pytest.approx(matthews, abs=1e-15)
