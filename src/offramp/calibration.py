"""From confidence to estimated accuracy: reliability diagrams, step maps, temperature."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from offramp.records import ExitRecord

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class ReliabilityDiagram:
    """What samples of similar confidence got right, bin by bin.

    Attributes
    ----------
    edges : ndarray of shape (M + 1,)
        Bin m holds edges[m] ≤ confidence < edges[m + 1]; the last one its upper edge too.
    count : ndarray of shape (M,), int64
    mean_confidence, accuracy : ndarray of shape (M,)
        NaN in an empty bin.
    """

    edges: np.ndarray
    count: np.ndarray
    mean_confidence: np.ndarray
    accuracy: np.ndarray

    @property
    def ece(self) -> float:
        """Expected calibration error: Σ_m (n_m / N) · |accuracy_m − mean confidence_m|."""
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
    """The reliability diagram of one exit.

    Parameters
    ----------
    confidence, correct : ndarray of shape (N,)
    bins : int
        Number of bins M. Equal-mass bins that tie in confidence are merged, so there may be fewer.
    binning : {"equal_width", "equal_mass"}
        Bins of the same width over `limits`, or of the same number of samples.
    limits : (float, float)
        Range of the confidence measure; unused by equal-mass bins.
    """
    confidence = np.asarray(confidence, np.float64)  # (N,)
    if binning not in ("equal_width", "equal_mass"):
        raise ValueError(f"binning is {binning!r}; expected 'equal_width' or 'equal_mass'")
    if binning == "equal_width":
        edges = np.linspace(*limits, bins + 1)  # (M + 1,)
    else:
        edges = np.unique(np.quantile(confidence, np.linspace(0, 1, bins + 1)))
        edges = edges if len(edges) > 1 else np.array([edges[0], edges[0]])
    place = np.clip(np.searchsorted(edges, confidence, side="right") - 1, 0, len(edges) - 2)  # (N,)
    count, total, right = (
        np.bincount(place, weights, minlength=len(edges) - 1) for weights in (None, confidence, correct)
    )
    with np.errstate(invalid="ignore"):
        return ReliabilityDiagram(edges, count, total / count, right / count)


@dataclass(frozen=True)
class StepMap:
    """A step function from confidence to estimated accuracy: values[i] for edges[i − 1] ≤ confidence < edges[i].

    All maps here are of this kind, so a fitted policy is two short arrays an exit.
    """

    edges: np.ndarray  # (M − 1,), ascending
    values: np.ndarray  # (M,)

    def __call__(self, confidence: np.ndarray) -> np.ndarray:
        return self.values[np.searchsorted(self.edges, confidence, side="right")]


def histogram_map(diagram: ReliabilityDiagram) -> StepMap:
    """PCEE's map: a bin's accuracy. An empty bin takes that of the nearest filled bin below, for accuracy is
    never invented; below the lowest filled bin nothing is known, and the estimate is 0 (our choice)."""
    filled = np.maximum.accumulate(np.where(diagram.count > 0, np.arange(len(diagram.count)), -1))  # (M,)
    return StepMap(diagram.edges[1:-1], np.where(filled < 0, 0.0, diagram.accuracy[filled]))


def window_map(confidence: np.ndarray, correct: np.ndarray, window: int = 150) -> StepMap:
    """PCEE-WS's map: the mean accuracy of the `window` samples nearest in confidence (all, where there are fewer).

    The paper leaves the smoother open; the window is our reading. Samples of equal confidence count with their
    common accuracy, so the order in which they come does not matter; of two samples equally far away on either
    side the surer one is taken.

    Parameters
    ----------
    confidence, correct : ndarray of shape (N,)
    window : int
        Number of samples W.
    """
    levels, group, size = np.unique(confidence, return_inverse=True, return_counts=True)
    n, w = len(confidence), min(window, len(confidence))
    level = np.repeat(levels.astype(np.float64), size)  # (N,), sorted
    # The nearest W of sorted values are neighbours, level[a : a + W]; the window moves on from a to a + 1 where
    # level[a + W] is nearer than level[a]: from their midpoint on.
    edges = (level[:-w] + level[w:]) / 2  # (N − W,)
    # How many are right before each place, exactly: whole ties by count, of a tie that is cut the fraction
    # taken · right / size. One quotient of whole numbers then, so an accuracy of exactly δ is not rounded under δ.
    # (Long double: for millions of ties the products outgrow 64 bits.)
    size = size.astype(np.longdouble)  # (ties,)
    right = np.bincount(group, correct).astype(np.longdouble)  # (ties,)
    tie = np.append(np.sort(group), len(levels) - 1)  # (N + 1,)
    taken = np.arange(n + 1) - (np.cumsum(size) - size)[tie]  # (N + 1,)
    whole, part, size = (np.cumsum(right) - right)[tie], taken * right[tie], size[tie]  # (N + 1,) each
    sums = (whole[w:] - whole[:-w]) * size[w:] * size[:-w] + part[w:] * size[:-w] - part[:-w] * size[w:]
    return StepMap(edges, (sums / (size[w:] * size[:-w] * w)).astype(np.float64))


def isotonic_map(confidence: np.ndarray, correct: np.ndarray) -> StepMap:
    """Isotonic regression: of all maps that never fall as confidence rises, the one with the least squared error
    (Zadrozny & Elkan, 2002, section 3).

    Samples of equal confidence count with their common accuracy. A confidence that was not seen takes the estimate of
    the nearest one that was, of two equally near that of the surer (our choice).

    Parameters
    ----------
    confidence, correct : ndarray of shape (N,)
    """
    from scipy.optimize import isotonic_regression

    levels, group, size = np.unique(confidence, return_inverse=True, return_counts=True)
    right = np.bincount(group, correct)  # (ties,)
    start = isotonic_regression(right / size, weights=size).blocks[:-1]  # (blocks,)
    # One quotient of whole numbers, so an accuracy of exactly δ is not rounded under δ
    values = np.add.reduceat(right, start) / np.add.reduceat(size, start)  # (blocks,)
    levels = levels.astype(np.float64)
    below, above = levels[start[1:] - 1], levels[start[1:]]
    # Of two neighbouring floats the midpoint may be the lower one, which is not to take the step
    return StepMap(np.maximum((below + above) / 2, np.nextafter(below, np.inf)), values)


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature T that minimises the mean negative log-likelihood of softmax(logits / T).

    Parameters
    ----------
    logits : ndarray of shape (N, C)
    labels : ndarray of shape (N,)

    Returns
    -------
    float
        Between 1/100 and 100: on samples that are all right (or all wrong) the likelihood has no optimum inside.
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
    """The temperature of each exit, (L,), from its logits on validation (Guo et al. 2017).

    Raises
    ------
    ValueError
        If the record has no logits or no labels.
    """
    what = "fitting temperatures (temperature='per_exit')"
    logits, labels = record.needed_logits(what), record.needed_labels(what)
    return np.array([fit_temperature(logits[:, i], labels) for i in range(record.n_exits)])


def with_temperatures(record: ExitRecord, temperatures: np.ndarray) -> ExitRecord:
    """The record with each exit's logits divided by its temperature (L,): predictions stay, confidences change."""
    temperatures = np.asarray(temperatures, np.float32)
    scaled = record.needed_logits("temperature='per_exit'") / temperatures[:, None]  # (N, L, C)
    cost = record.cost if record.sample_cost is None else record.sample_cost
    similarity = record.measure("similarity") if "similarity" in record.measures else None
    metadata = {**record.metadata, "temperatures": temperatures.tolist()}
    return ExitRecord(scaled, record.labels, cost, record.index, metadata, similarity)
