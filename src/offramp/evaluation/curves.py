"""Evaluation at many thresholds in one pass, exact frontiers, and choice of thresholds on validation data."""

import warnings
from typing import TYPE_CHECKING

import numpy as np

from offramp.policies.base import Policy, answering_exits, at_exits, rejections
from offramp.records import ExitRecord
from offramp.records.metrics import METRICS, terms
from offramp.records.origin import warn_of_test

if TYPE_CHECKING:
    import pandas as pd


def evaluate(
    policy: Policy,
    record: ExitRecord,
    thresholds,
    *,
    reject_below: float = -np.inf,
    abstain_below: float | np.ndarray = -np.inf,
) -> "pd.DataFrame":
    """Evaluate a fitted policy on a record at any number of thresholds, in one pass over the samples.

    Parameters
    ----------
    policy : Policy
    record : ExitRecord
    thresholds : array-like of shape (T,) or (T, L − 1)
        Thresholds δ, shared by all exits, in any order. ±∞ are allowed. Or rows with one threshold per exit.
    reject_below, abstain_below
        Thresholds for rejection, as for `decide`.

    Returns
    -------
    DataFrame
        One row per threshold, in the given order: threshold, accuracy (the mean quality, if answers have a quality),
        cost (mean over samples, in the unit of the record), exit_1 … exit_L (share of samples that leave at each exit).
        Also f1 or matthews, if this is the metric in the metadata of the record. With thresholds per exit, the columns
        threshold_1, … are in place of threshold. With rejection, there is also coverage (the share of accepted
        answers); accuracy and metric are those of the accepted answers (NaN if there are none), and the cost is that of
        all samples.

    Raises
    ------
    ValueError
        If a threshold is NaN, if the record has no labels, or if it is not compatible with the policy.

    See Also
    --------
    default_thresholds : Thresholds that fit the range of the signal.
    """
    record.needed_correct("evaluate")
    per_exit = np.ndim(thresholds) == 2
    thresholds = np.asarray(thresholds, np.float64) if per_exit else _checked(thresholds)  # (T,) or (T, L − 1)
    if per_exit or np.any(np.append(abstain_below, reject_below) != -np.inf):
        return _one_by_one(policy, record, thresholds, reject_below, abstain_below)
    ascending, place = np.unique(thresholds, return_inverse=True)  # (U,), (T,)
    reached, fallback = reached_signal(policy, record)
    level = np.searchsorted(ascending, reached, side="right")  # (N, K)
    return _points(policy, record, ascending, level, fallback, place)


def _one_by_one(
    policy: Policy, record: ExitRecord, thresholds: np.ndarray, reject_below, abstain_below
) -> "pd.DataFrame":
    """Evaluate thresholds (T,) or rows of thresholds per exit (T, L − 1), with or without rejection."""
    import pandas as pd

    exits, answering = answering_exits(policy, record, list(thresholds))  # (T, N) each
    exits, rejected = rejections(policy, record, exits, answering, reject_below, abstain_below)
    accepted = (~rejected).sum(axis=1)  # (T,)

    def mean(values: np.ndarray) -> np.ndarray:
        """Mean of values (T, N) over the accepted answers, (T,)."""
        sums = np.where(rejected, 0.0, values).sum(axis=1)
        return np.divide(sums, accepted, out=np.full(len(sums), np.nan), where=accepted > 0)

    per_exit = {f"threshold_{i + 1}": values for i, values in enumerate(thresholds.T)}
    columns = {"threshold": thresholds} if thresholds.ndim == 1 else per_exit
    if np.any(np.append(abstain_below, reject_below) != -np.inf):
        columns["coverage"] = accepted / record.n_samples
    columns["accuracy"] = mean(at_exits(policy.correct(record), answering))
    columns["cost"] = record.cost_of(exits).mean(axis=1)
    columns |= {f"exit_{i + 1}": (exits == i).mean(axis=1) for i in range(record.n_exits)}
    if record.metric in METRICS:
        answers = at_exits(policy.prediction(record), answering)  # (T, N)
        parts = terms(answers, record.needed_labels(record.metric))  # (T, N) each
        columns[record.metric] = METRICS[record.metric](*map(mean, parts))
    return pd.DataFrame(columns)


ACCURACIES = np.round(np.linspace(0, 1, 101), 12)  # default thresholds of policies whose threshold is an accuracy


def default_thresholds(policy: Policy, record: ExitRecord) -> np.ndarray:
    """Return thresholds that cover the range of the signal of a fitted policy.

    Parameters
    ----------
    policy : Policy
    record : ExitRecord
        Record on which the range of the signal is measured. Labels are not used, and may be missing.

    Returns
    -------
    ndarray of shape (T,)
        0, 0.01, … 1 for policies whose threshold is an accuracy. For others, values of the signal: all of them, or 101
        quantiles if there are more.
    """
    if policy.claims_accuracy:
        return ACCURACIES
    signal = policy.signal(record)[:, :-1]  # the last exit answers at any threshold
    values = signal[np.isfinite(signal)]
    if not values.size:
        return np.zeros(1)
    different = np.unique(values)
    if len(different) <= len(ACCURACIES):
        return different
    return np.unique(np.quantile(values, np.linspace(0, 1, len(ACCURACIES)), method="nearest"))


def frontier(policy: Policy, record: ExitRecord) -> "pd.DataFrame":
    """Return all operating points that a shared threshold can reach, exactly and without a grid.

    The operating point is constant between two neighbouring values of the signal. There is one row per value that
    changes the operating point (the largest threshold that gives this point), in ascending order, and one for +∞, the
    full model.

    Returns
    -------
    DataFrame
        The columns of `evaluate`.

    Raises
    ------
    ValueError
        If the record has no labels or does not fit the policy.
    """
    record.needed_correct("frontier")
    reached, fallback = reached_signal(policy, record)  # (N, K)
    ascending, level = np.unique(reached, return_inverse=True)  # (U,), (N, K)
    level = level.reshape(reached.shape) + 1
    points = _points(policy, record, np.append(ascending, np.inf), level, fallback, slice(None))
    if fallback is None:
        return points  # every value defers a sample, which changes the cost: all points differ
    return points.drop_duplicates(points.columns.drop("threshold"), keep="last", ignore_index=True)


def _checked(thresholds) -> np.ndarray:
    thresholds = np.atleast_1d(np.asarray(thresholds, np.float64))  # (T,)
    if thresholds.ndim != 1 or np.isnan(thresholds).any():
        raise ValueError("thresholds: expected a list of numbers, none NaN")
    return thresholds


def reached_signal(policy: Policy, record: ExitRecord) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the values that are compared with thresholds, (N, K), and the fallback exits (N,), or None for the last.

    The values `reached` are the running maximum of the signal. A sample leaves at exit i for all δ in
    (reached[i − 1], reached[i]], and passes exit i if δ is larger than reached[i]. K is L − 1, or L if the policy has
    a fallback exit that answers if no exit reaches δ.
    """
    signal = policy.signal(record)  # (N, L)
    # δ = +∞ never exits early, for any signal
    reached = np.minimum(np.maximum.accumulate(signal, axis=1), np.finfo(np.float64).max)  # (N, L)
    fallback = policy.fallback(record, signal)
    return (reached[:, :-1], None) if fallback is None else (reached, fallback)


def by_passed(values: np.ndarray, fallback: np.ndarray | None) -> np.ndarray:
    """Return the value of the exit that answers if a sample has passed 0, … K exits, (N, K + 1), from values (N, L)."""
    return values if fallback is None else np.hstack([values, np.take_along_axis(values, fallback[:, None], axis=1)])


def _gain(values: np.ndarray, fallback: np.ndarray | None) -> np.ndarray:
    """Change of a quantity (N, L) when a sample passes an exit, (N, K)."""
    if fallback is None:
        return np.diff(values, axis=1)
    return np.diff(values, axis=1, append=np.take_along_axis(values, fallback[:, None], axis=1))


def _points(
    policy: Policy, record: ExitRecord, thresholds: np.ndarray, level: np.ndarray, fallback: np.ndarray | None, rows
) -> "pd.DataFrame":
    """Return the operating points of ascending thresholds (T,). `level` (N, K) is the number of them ≤ each value."""
    import pandas as pd

    n, n_bins = record.n_samples, len(thresholds) + 1

    def mean(values: np.ndarray, fallback: np.ndarray | None = fallback) -> np.ndarray:
        """Mean over samples of the value at the answering exit, from values (N, L): (T,)."""
        gain = _gain(values, fallback)  # (N, K)
        passed = np.bincount(level[:, : gain.shape[1]].ravel(), gain.ravel(), n_bins)[:-1].cumsum()  # (T,)
        return (values[:, 0].sum() + passed) / n

    left = np.zeros((len(thresholds), record.n_exits + 1), np.int64)  # (T, L + 1): samples that left before each exit
    left[:, -1] = n
    for i in range(record.n_exits - 1):
        left[:, i + 1] = n - np.bincount(level[:, i], minlength=n_bins)[:-1].cumsum()
    shares = np.diff(left, axis=1) / n  # (T, L)
    if record.sample_cost is None:
        cost = shares @ record.cost  # (T,)
    else:  # the sums may be rounded to more than the cost of the full model
        cost = np.minimum(mean(record.sample_cost, None), record.cost[-1])
    correct = policy.correct(record) * np.int8(1)  # (N, L): int8, or float64 qualities, whose sums are rounded
    columns = {"threshold": thresholds, "accuracy": mean(correct).clip(0, 1), "cost": cost}
    columns |= {f"exit_{i + 1}": shares[:, i] for i in range(record.n_exits)}
    if record.metric in METRICS:
        parts = terms(policy.prediction(record), record.needed_labels(record.metric)[:, None])  # (N, L) each
        columns[record.metric] = METRICS[record.metric](*(mean(part.astype(np.int8)) for part in parts))
    return pd.DataFrame({name: values[rows] for name, values in columns.items()})


def choose_threshold(
    policy: Policy, validation: ExitRecord, *, accuracy: float | None = None, cost: float | None = None
) -> float:
    """Choose a threshold, shared by all exits, for a target accuracy or a target cost on validation data.

    Parameters
    ----------
    accuracy : float
        Target accuracy, or mean quality. Choose the cheapest operating point that reaches it, or +∞ (the full model),
        with a warning, if there is none.
    cost : float
        Alternatively, choose the operating point with the highest average cost up to this value, or −∞ (the first
        exit), with a warning, if there is none. Accuracy is ignored, because on few samples the most accurate point is
        often best by chance.

    Raises
    ------
    ValueError
        If both targets or none are given, if the record has no labels, or if it is not compatible with the policy.
    """
    validation.needed_correct("choose_threshold")
    warn_of_test(validation, "choosing a threshold")
    points = frontier(policy, validation)
    threshold = threshold_on(points, accuracy=accuracy, cost=cost)
    if accuracy is not None and points.accuracy.max() < accuracy:
        warnings.warn(
            f"no threshold of {policy.name} reaches an accuracy of {accuracy:g} on these samples (the highest is "
            f"{points.accuracy.max():.4g}); the threshold is +∞, which is the full model",
            stacklevel=2,
        )
    if cost is not None and points.cost.min() > cost:
        warnings.warn(
            f"no threshold of {policy.name} costs at most {cost:g} on these samples (the lowest cost is "
            f"{points.cost.min():.4g}); the threshold is −∞, which is the first exit",
            stacklevel=2,
        )
    return threshold


def accuracy_without_loss(validation: ExitRecord, drop: float = 0.0) -> float:
    """Return the target accuracy of a threshold that loses at most `drop` of the accuracy of the last exit.

    It is lower by 1e-12, so that a loss of exactly `drop` is allowed.
    """
    return validation.correct[:, -1].mean() - drop - 1e-12


def threshold_on(points: "pd.DataFrame", *, accuracy: float | None = None, cost: float | None = None) -> float:
    """As `choose_threshold`, but for a given validation frontier, which can be reused for many targets."""
    if (accuracy is None) == (cost is None):
        raise ValueError("choose_threshold: expected either accuracy or cost")
    if accuracy is not None:
        enough = points[points.accuracy >= accuracy]
        return np.inf if enough.empty else float(enough.threshold[enough.cost.idxmin()])
    affordable = points[points.cost <= cost]
    return -np.inf if affordable.empty else float(affordable.threshold[affordable.cost.idxmax()])


def outcomes(policy: Policy, record: ExitRecord, thresholds) -> tuple[np.ndarray, np.ndarray]:
    """Return correctness (bool, or float64 quality) and cost of each sample at each shared threshold (T,), (T, N)."""
    record.needed_correct("outcomes")
    thresholds = _checked(thresholds)[:, None]  # (T, 1)
    reached, fallback = reached_signal(policy, record)
    passed = np.zeros((len(thresholds), record.n_samples), np.int16)  # (T, N): exits that the sample has passed
    for of_exit in np.ascontiguousarray(reached.T):  # (N,) each
        passed += of_exit < thresholds
    correct = by_passed(policy.correct(record), fallback)  # (N, K + 1)
    right = correct[np.arange(record.n_samples), passed]  # (T, N)
    return right, record.cost_of(np.minimum(passed, record.n_exits - 1))
