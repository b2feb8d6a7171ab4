"""PCEE, PCEE-WS and isotonic regression: thresholds on estimated accuracy instead of confidence (arXiv 2412.19325)."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from offramp.calibration import StepMap, histogram_map, isotonic_map, reliability_diagram, window_map
from offramp.policies.base import Policy
from offramp.policies.confidence import Score
from offramp.policies.stream import Stream
from offramp.records import ExitOutputs, ExitRecord


class _AccuracyMap(Policy):
    """Base class of policies that map the confidence of each exit to an estimated accuracy (or expected quality)."""

    score: Score
    fit_on: Literal["all", "reached"]
    reach_threshold: float
    no_exit: Literal["last", "most_accurate", "most_confident"]

    paper = "PCEE (arXiv 2412.19325)"
    claims_accuracy = True

    def _map(self, confidence: np.ndarray, correct: np.ndarray, limits: tuple[float, float]) -> StepMap:
        raise NotImplementedError

    def _fit(self, record: ExitRecord) -> dict[str, np.ndarray]:
        correct = record.needed_correct(f"fitting {self.name}")  # (N, L)
        confidence = record.confidence(self.score).astype(np.float64)  # (N, L)
        limits = _limits(self.score, record, confidence)
        alive = np.ones(record.n_samples, bool)  # (N,)
        state = {}
        for i in range(record.n_exits):
            map_ = self._map(confidence[alive, i], correct[alive, i], limits)
            state[f"exit_{i + 1}.edges"], state[f"exit_{i + 1}.accuracy"] = map_.edges, map_.values
            if self.fit_on == "reached":
                stay = alive & (map_(confidence[:, i]) < self.reach_threshold)
                alive = stay if stay.any() else alive  # if no sample continues, later exits use the same samples
        return state

    def maps(self) -> list[StepMap]:
        """Return the fitted map from confidence to accuracy of each exit.

        Raises
        ------
        NotFittedError
            If the policy was not fitted.
        """
        return [self._map_of(i) for i in range(len(self._learned()) // 2)]  # edges and accuracy of each exit

    def _map_of(self, i: int) -> StepMap:
        """Return the fitted map of exit i, counted from 0."""
        return StepMap(self._learned()[f"exit_{i + 1}.edges"], self._learned()[f"exit_{i + 1}.accuracy"])

    def _step(self, outputs: ExitOutputs, stream: Stream) -> np.ndarray:
        return self._map_of(stream.exit)(outputs.score(self.score).astype(np.float64))

    def _rank(self, outputs: ExitOutputs, signal: np.ndarray) -> np.ndarray | None:
        if self.no_exit == "last":
            return None
        return signal if self.no_exit == "most_accurate" else outputs.score(self.score)


@dataclass
class PCEE(_AccuracyMap):
    """Exit once the accuracy of predictions with this confidence is high enough, according to a reliability diagram.

    Each exit has a reliability diagram, fitted on validation data. The signal is the accuracy in the bin that contains
    the confidence (empty bins: see `offramp.calibration.histogram_map`). The defaults of options that the paper leaves
    open are our choice.

    Parameters
    ----------
    bins : int
        Number of bins M of each diagram. The paper leaves it open.
    binning : {"equal_width", "equal_mass"}
        Bins of equal width, or with equal numbers of samples. The paper leaves it open.
    score : {"max_softmax", "margin", "entropy", "mean_token_margin"}
        Confidence measure. All related code uses max softmax.
    fit_on : {"all", "reached"}
        Validation samples on which the map of an exit is fitted: all samples, or only those that reach the exit if
        samples leave earlier at an estimated accuracy of `reach_threshold`. The paper leaves it open. Samples that
        reach an exit are harder, so the estimates differ. With "reached", a map is valid for a single δ only.
    reach_threshold : float
        The δ for which maps are fitted with `fit_on="reached"`.
    no_exit : {"last", "most_accurate", "most_confident"}
        Prediction of samples that reach δ at no exit: that of the last exit, or of the exit with the highest estimated
        accuracy or confidence (the rule of SDN). The paper leaves it open. The cost is always that of the full model.
    """

    bins: int = 50
    binning: Literal["equal_width", "equal_mass"] = "equal_width"
    score: Score = "max_softmax"
    fit_on: Literal["all", "reached"] = "all"
    reach_threshold: float = 0.9
    no_exit: Literal["last", "most_accurate", "most_confident"] = "last"

    name = "pcee"
    rule = "accuracy of the bin that contains the confidence, in the reliability diagram of the exit, ≥ δ"

    def _map(self, confidence, correct, limits) -> StepMap:
        return histogram_map(reliability_diagram(confidence, correct, self.bins, self.binning, limits))


@dataclass
class PCEEWS(_AccuracyMap):
    """PCEE with a smoothed map: the accuracy of the validation samples with the nearest confidences.

    Parameters
    ----------
    window : int
        Number of samples W. The paper does not define the smoothing; this definition is our choice.
    score, fit_on, reach_threshold, no_exit
        As for `PCEE`.
    """

    window: int = 150
    score: Score = "max_softmax"
    fit_on: Literal["all", "reached"] = "all"
    reach_threshold: float = 0.9
    no_exit: Literal["last", "most_accurate", "most_confident"] = "last"

    name = "pcee-ws"
    rule = "accuracy of the validation samples with the nearest confidences ≥ δ"

    def _map(self, confidence, correct, limits) -> StepMap:
        return window_map(confidence, correct, self.window)


@dataclass
class Isotonic(_AccuracyMap):
    """PCEE with isotonic regression: a non-decreasing map from confidence to accuracy, without parameters.

    With `score="mean_token_margin"`, this is UCCI (arXiv 2605.18796) for cascades of language models: its uncertainty
    is 1 minus the mean token margin, and is mapped to an error probability by isotonic regression; the cheapest
    threshold that reaches an accuracy on validation data is `choose_threshold(validation, accuracy=…)`.

    Parameters
    ----------
    score, fit_on, reach_threshold, no_exit
        As for `PCEE`.
    """

    score: Score = "max_softmax"
    fit_on: Literal["all", "reached"] = "all"
    reach_threshold: float = 0.9
    no_exit: Literal["last", "most_accurate", "most_confident"] = "last"

    name = "isotonic"
    rule = "isotonic regression of correctness on confidence ≥ δ"
    paper = "Zadrozny & Elkan (2002), used as the accuracy map of PCEE (arXiv 2412.19325); UCCI (arXiv 2605.18796)"

    def _map(self, confidence, correct, limits) -> StepMap:
        return isotonic_map(confidence, correct)


def _limits(score: str, record: ExitRecord, confidence: np.ndarray) -> tuple[float, float]:
    """Return the range of a measure: (0, 1), or (−ln C, 0) for negated entropy (its minimum if C is unknown)."""
    if score != "entropy":
        return 0.0, 1.0
    return (float(confidence.min()) if record.n_classes is None else -float(np.log(record.n_classes))), 0.0
