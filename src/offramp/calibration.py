"""Calibration: reliability diagrams, maps from confidence to estimated accuracy, and temperature scaling."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from offramp.records import ExitRecord
from offramp.records.origin import warn_of_test


@dataclass(frozen=True)
class ReliabilityDiagram:
    """Accuracy of samples with similar confidence, per bin.

    Attributes
    ----------
    edges : ndarray of shape (M + 1,)
        Bin m contains edges[m] ≤ confidence < edges[m + 1]. The last bin includes its upper edge.
    count : ndarray of shape (M,), int64
    mean_confidence, accuracy : ndarray of shape (M,)
        NaN for empty bins.
    """

    edges: np.ndarray
    count: np.ndarray
    mean_confidence: np.ndarray
    accuracy: np.ndarray

    @property
    def ece(self) -> float:
        """Expected calibration error: `Σ_m (n_m / N) · |accuracy_m − mean confidence_m|`."""
        full = self.count > 0
        gap = np.abs(self.accuracy - self.mean_confidence)[full]
        return float(gap @ self.count[full] / self.count.sum())


def reliability_diagram(
    confidence: np.ndarray,
    correct: np.ndarray,
    bins: int = 15,
    binning: Literal["equal_width", "equal_mass"] = "equal_width",
    limits: tuple[float, float] = (0.0, 1.0),
) -> ReliabilityDiagram:
    """Compute the reliability diagram of one exit.

    Parameters
    ----------
    confidence, correct : ndarray of shape (N,)
    bins : int
        Number of bins M. Equal-mass bins with tied edges are merged, so there may be fewer.
    binning : {"equal_width", "equal_mass"}
        Bins of equal width over `limits`, or with equal numbers of samples.
    limits : (float, float)
        Range of the confidence measure. Not used for equal-mass bins.
    """
    confidence = np.asarray(confidence, np.float64)  # (N,)
    if binning not in ("equal_width", "equal_mass"):
        raise ValueError(f"binning is {binning!r}; expected 'equal_width' or 'equal_mass'")
    if binning == "equal_width":
        edges = np.linspace(*limits, bins + 1)  # (M + 1,)
    else:
        edges = np.unique(np.quantile(confidence, np.linspace(0, 1, bins + 1)))
        edges = edges if len(edges) > 1 else np.array([edges[0], edges[0]])
    place = bin_of(confidence, edges)  # (N,)
    count, total, right = (
        np.bincount(place, weights, minlength=len(edges) - 1) for weights in (None, confidence, correct)
    )
    with np.errstate(invalid="ignore"):
        return ReliabilityDiagram(edges, count, total / count, right / count)


def bin_of(confidence: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Return the bins (…) of confidences (…) between edges (M + 1,), as in a `ReliabilityDiagram`."""
    return np.clip(np.searchsorted(edges, confidence, side="right") - 1, 0, len(edges) - 2)


@dataclass(frozen=True)
class StepMap:
    """A step function from confidence to estimated accuracy: values[i] for edges[i − 1] ≤ confidence < edges[i].

    All maps in this module are step functions, so a fitted policy consists of two short arrays per exit.
    """

    edges: np.ndarray  # (M − 1,), ascending
    values: np.ndarray  # (M,)

    def __call__(self, confidence: np.ndarray) -> np.ndarray:
        return self.values[np.searchsorted(self.edges, confidence, side="right")]


def histogram_map(diagram: ReliabilityDiagram) -> StepMap:
    """Return the map of PCEE: the accuracy of the bin.

    Empty bins take the accuracy of the nearest lower non-empty bin, so that accuracy is not overestimated. Below the
    lowest non-empty bin, the estimate is 0 (our choice).
    """
    return StepMap(diagram.edges[1:-1], filled(diagram.count, diagram.accuracy))


def filled(count: np.ndarray, accuracy: np.ndarray) -> np.ndarray:
    """Return the accuracy (M,) of each bin, in which empty bins take that of the nearest lower non-empty bin, or 0."""
    source = np.maximum.accumulate(np.where(count > 0, np.arange(len(count)), -1))  # (M,)
    return np.where(source < 0, 0.0, accuracy[source])


def window_map(confidence: np.ndarray, correct: np.ndarray, window: int = 150) -> StepMap:
    """Return the map of PCEE-WS: the mean accuracy of the `window` samples that are nearest in confidence.

    If there are fewer samples, all are used. The paper does not define the smoother; the window is our interpretation.
    Samples of equal confidence all count with their mean accuracy, so the result does not depend on their order. Of two
    samples at equal distance, the one with higher confidence is used.

    Parameters
    ----------
    confidence, correct : ndarray of shape (N,)
    window : int
        Number of samples W.
    """
    levels, group, size = np.unique(confidence, return_inverse=True, return_counts=True)
    n, w = len(confidence), min(window, len(confidence))
    level = np.repeat(levels.astype(np.float64), size)  # (N,), sorted
    # The nearest W of sorted values are contiguous, level[a : a + W]. The window moves from a to a + 1 at the midpoint
    # of level[a] and level[a + W].
    edges = _midpoints(level[:-w], level[w:])  # (N − W,)
    # Exact number of correct samples before each position: complete ties by count, and partial ties by the fraction
    # taken · right / size. The result is a single quotient of integers, so an accuracy of exactly δ is not rounded
    # below δ. (Long double, because the products exceed 64 bits for millions of ties.)
    size = size.astype(np.longdouble)  # (ties,)
    right = np.bincount(group, correct).astype(np.longdouble)  # (ties,)
    tie = np.append(np.sort(group), len(levels) - 1)  # (N + 1,)
    taken = np.arange(n + 1) - (np.cumsum(size) - size)[tie]  # (N + 1,)
    whole, part, size = (np.cumsum(right) - right)[tie], taken * right[tie], size[tie]  # (N + 1,) each
    sums = (whole[w:] - whole[:-w]) * size[w:] * size[:-w] + part[w:] * size[:-w] - part[:-w] * size[w:]
    return StepMap(edges, (sums / (size[w:] * size[:-w] * w)).astype(np.float64))


def isotonic_map(confidence: np.ndarray, correct: np.ndarray) -> StepMap:
    """Return the isotonic regression: the non-decreasing map with the smallest squared error.

    See Zadrozny & Elkan (2002), section 3. Samples of equal confidence count with their mean accuracy. For a confidence
    that does not occur in the data, the estimate is that of the nearest one, or of the higher one at equal distance
    (our choice).

    Parameters
    ----------
    confidence, correct : ndarray of shape (N,)
    """
    from scipy.optimize import isotonic_regression

    levels, group, size = np.unique(confidence, return_inverse=True, return_counts=True)
    right = np.bincount(group, correct)  # (ties,)
    start = isotonic_regression(right / size, weights=size).blocks[:-1]  # (blocks,)
    # A single quotient of integers, so an accuracy of exactly δ is not rounded below δ
    values = np.add.reduceat(right, start) / np.add.reduceat(size, start)  # (blocks,)
    values = np.maximum.accumulate(values)  # sums of qualities are rounded
    levels = levels.astype(np.float64)
    return StepMap(_midpoints(levels[start[1:] - 1], levels[start[1:]]), values)


def _midpoints(below: np.ndarray, above: np.ndarray) -> np.ndarray:
    """Return the lowest numbers that are at least as near to `above` as to `below`, float64 (K,) each."""
    total = below + above
    part = total - below
    lost = (below - (total - part)) + (above - part)  # exact: what rounding took from the sum (Knuth's TwoSum)
    half = total / 2  # rounded for the smallest numbers only
    return np.where((lost > 0) | (half + half < total), np.nextafter(half, np.inf), half)


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the temperature T that minimises the mean negative log-likelihood of softmax(logits / T).

    Parameters
    ----------
    logits : ndarray of shape (N, C)
    labels : ndarray of shape (N,)

    Returns
    -------
    float
        Limited to 1/100 … 100, because the likelihood has no finite optimum if all samples are correct (or all wrong).
    """
    from scipy.optimize import minimize_scalar

    shifted = np.asarray(logits, np.float64)  # (N, C)
    shifted = shifted - shifted.max(axis=1, keepdims=True)
    of_label = shifted[np.arange(len(labels)), labels]  # (N,)

    def loss(log_t: float) -> float:
        scale = np.exp(-log_t)
        return float(np.mean(np.log(np.exp(shifted * scale).sum(axis=1)) - of_label * scale))

    bound = np.log(100.0)
    return float(np.exp(minimize_scalar(loss, bounds=(-bound, bound), method="bounded", options={"xatol": 1e-6}).x))


def fit_temperatures(record: ExitRecord) -> np.ndarray:
    """Return the temperature of each exit, (L,), fitted on the logits of a validation record (Guo et al. 2017).

    Raises
    ------
    ValueError
        If the record has no logits or no labels.
    """
    warn_of_test(record, "fitting temperatures")
    what = "fitting temperatures (temperature='per_exit')"
    logits, labels = record.needed_logits(what), record.needed_labels(what)
    return np.array([fit_temperature(logits[:, i], labels) for i in range(record.n_exits)])


def with_temperatures(record: ExitRecord, temperatures: np.ndarray) -> ExitRecord:
    """Divide the logits of each exit by its temperature (L,). Predictions do not change, but confidences do."""
    temperatures = np.asarray(temperatures, np.float32)
    scaled = record.needed_logits("temperature='per_exit'") / temperatures[:, None]  # (N, L, C)
    return record.replace(logits=scaled, metadata={**record.metadata, "temperatures": temperatures.tolist()})
