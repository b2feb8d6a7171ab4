"""Every threshold at once: curves, exact frontiers, thresholds chosen on validation."""

from typing import TYPE_CHECKING

import numpy as np

from offramp.policies.base import Policy
from offramp.records import ExitRecord

if TYPE_CHECKING:
    import pandas as pd


def evaluate(policy: Policy, record: ExitRecord, thresholds) -> "pd.DataFrame":
    """What a fitted policy gives on a record, for any number of thresholds in one pass over the samples.

    Parameters
    ----------
    policy : Policy
    record : ExitRecord
    thresholds : array-like of shape (T,)
        Shared thresholds δ, in any order; ±∞ are allowed.

    Returns
    -------
    DataFrame
        A row a threshold, in the order given: threshold, accuracy, cost (mean over samples, in the record's
        unit), exit_1 … exit_L (share of samples that leave there).

    Raises
    ------
    ValueError
        If a threshold is NaN, or the record does not fit the policy.
    """
    thresholds = _checked(thresholds)  # (T,)
    ascending, place = np.unique(thresholds, return_inverse=True)  # (U,), (T,)
    reached, gain = _reached_and_gain(policy, record)
    level = np.searchsorted(ascending, reached, side="right")  # (N, K)
    return _points(record, ascending, level, gain, place)


def frontier(policy: Policy, record: ExitRecord) -> "pd.DataFrame":
    """Every operating point that a shared threshold can reach, exactly, with no grid.

    Between two neighbouring values of the signal nothing changes, so there is a row for each value that makes a
    difference (it is the largest threshold that gives this point), in ascending order, and one for +∞, the full
    model.

    Returns
    -------
    DataFrame
        The columns of `evaluate`.
    """
    reached, gain = _reached_and_gain(policy, record)  # (N, K) each
    ascending, level = np.unique(reached, return_inverse=True)  # (U,), (N, K)
    points = _points(record, np.append(ascending, np.inf), level.reshape(reached.shape) + 1, gain, slice(None))
    if gain.shape[1] < record.n_exits:
        return points  # every value moves a sample on, which costs: no two points are the same
    return points.drop_duplicates(points.columns.drop("threshold"), keep="last", ignore_index=True)


def _checked(thresholds) -> np.ndarray:
    thresholds = np.atleast_1d(np.asarray(thresholds, np.float64))  # (T,)
    if thresholds.ndim != 1 or np.isnan(thresholds).any():
        raise ValueError("thresholds: expected a list of numbers, none NaN")
    return thresholds


def _reached_and_gain(policy: Policy, record: ExitRecord) -> tuple[np.ndarray, np.ndarray]:
    """What the thresholds meet, and what is won by not stopping there.

    A sample leaves at exit i for every δ in (reached[i − 1], reached[i]], reached being the running maximum of
    its signal. So it passes exit i as δ rises beyond reached[i], and its answer is from then on the next exit's:
    gain[i] is +1 where that turns wrong into right, −1 where right into wrong. The last exit has nothing after
    it, except where the policy lets another answer when none reached δ (K = L then, else L − 1).
    """
    signal = policy.signal(record)  # (N, L)
    # +∞ never exits early, whatever the signal
    reached = np.minimum(np.maximum.accumulate(signal, axis=1), np.finfo(np.float64).max)  # (N, L)
    correct = record.correct.astype(np.int8)  # (N, L)
    fallback = policy.fallback(record, signal)
    if fallback is None:
        return reached[:, :-1], np.diff(correct, axis=1)
    answer = correct[np.arange(record.n_samples), fallback]  # (N,)
    return reached, np.diff(correct, axis=1, append=answer[:, None])


def _points(record: ExitRecord, thresholds: np.ndarray, level: np.ndarray, gain: np.ndarray, rows) -> "pd.DataFrame":
    """The operating points of ascending thresholds (T,), given how many of them each reached value meets (N, K)."""
    import pandas as pd

    n, n_bins = record.n_samples, len(thresholds) + 1
    won = np.bincount(level.ravel(), gain.ravel(), n_bins)[:-1].cumsum()  # (T,)
    left = np.zeros((len(thresholds), record.n_exits + 1), np.int64)  # (T, L + 1): samples gone before each exit
    left[:, -1] = n
    for i in range(record.n_exits - 1):
        left[:, i + 1] = n - np.bincount(level[:, i], minlength=n_bins)[:-1].cumsum()
    shares = np.diff(left, axis=1) / n  # (T, L)
    accuracy = (np.count_nonzero(record.correct[:, 0]) + won) / n  # (T,)
    columns = np.column_stack([thresholds, accuracy, shares @ record.cost, shares])[rows]
    names = ["threshold", "accuracy", "cost", *(f"exit_{i + 1}" for i in range(record.n_exits))]
    return pd.DataFrame(columns, columns=names)


def choose_threshold(
    policy: Policy, validation: ExitRecord, *, accuracy: float | None = None, cost: float | None = None
) -> float:
    """The shared threshold that serves a target best on validation data.

    Parameters
    ----------
    accuracy : float
        Take the cheapest operating point that is at least as accurate; +∞, the full model, where none is.
    cost : float
        Or: take the one that spends most of this average cost, whatever its accuracy (on few samples the most
        accurate one is often a lucky one); −∞, the first exit, where none costs so little.
    """
    return threshold_on(frontier(policy, validation), accuracy=accuracy, cost=cost)


def threshold_on(points: "pd.DataFrame", *, accuracy: float | None = None, cost: float | None = None) -> float:
    """As `choose_threshold`, on a validation frontier that is there already: drawn up once, it serves many targets."""
    if (accuracy is None) == (cost is None):
        raise ValueError("choose_threshold: expected either accuracy or cost")
    if accuracy is not None:
        enough = points[points.accuracy >= accuracy]
        return np.inf if enough.empty else float(enough.threshold[enough.cost.idxmin()])
    affordable = points[points.cost <= cost]
    return -np.inf if affordable.empty else float(affordable.threshold[affordable.cost.idxmax()])


def outcomes(policy: Policy, record: ExitRecord, thresholds) -> tuple[np.ndarray, np.ndarray]:
    """What became of each sample at each shared threshold (T,): right or not, bool, and cost, float64, (T, N) each."""
    thresholds = _checked(thresholds)[:, None]  # (T, 1)
    reached, gain = (np.ascontiguousarray(each.T) for each in _reached_and_gain(policy, record))  # (K, N) each
    right = np.tile(record.correct[:, 0].astype(np.int8), (len(thresholds), 1))  # (T, N)
    exits = np.zeros(right.shape, np.int16)
    for i in range(len(reached)):
        passed = reached[i] < thresholds  # (T, N)
        right += passed * gain[i]
        if i < record.n_exits - 1:
            exits += passed
    return right.astype(bool), record.cost[exits]
