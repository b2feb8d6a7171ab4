"""PCEE, PCEE-WS and isotonic: threshold the accuracy you want, not the confidence (arXiv 2412.19325)."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from offramp.calibration import StepMap, histogram_map, isotonic_map, reliability_diagram, window_map
from offramp.policies.base import Policy
from offramp.policies.confidence import Score
from offramp.records import ExitRecord


class _AccuracyMap(Policy):
    """The part that all of them share: a map from confidence to accuracy at each exit."""

    score: Score
    fit_on: Literal["all", "reached"]
    reach_threshold: float
    no_exit: Literal["last", "most_accurate", "most_confident"]

    paper = "PCEE (arXiv 2412.19325)"
    claims_accuracy = True

    def _map(self, confidence: np.ndarray, correct: np.ndarray, limits: tuple[float, float]) -> StepMap:
        raise NotImplementedError

    def _fit(self, record: ExitRecord) -> dict[str, np.ndarray]:
        record.needed_labels(f"fitting {self.name}")
        confidence = record.confidence(self.score).astype(np.float64)  # (N, L)
        limits = _limits(self.score, record, confidence)
        alive = np.ones(record.n_samples, bool)  # (N,)
        state = {}
        for i in range(record.n_exits):
            map_ = self._map(confidence[alive, i], record.correct[alive, i], limits)
            state[f"exit_{i + 1}.edges"], state[f"exit_{i + 1}.accuracy"] = map_.edges, map_.values
            if self.fit_on == "reached":
                stay = alive & (map_(confidence[:, i]) < self.reach_threshold)
                alive = stay if stay.any() else alive  # nobody left: later exits keep the last who came
        return state

    def maps(self) -> list[StepMap]:
        """The fitted map of each exit.

        Raises
        ------
        NotFittedError
            If the policy was not fitted.
        """
        self._check_fitted()
        exits = range(1, self.fitted_exits + 1)
        return [StepMap(self.state[f"exit_{i}.edges"], self.state[f"exit_{i}.accuracy"]) for i in exits]

    def _signal(self, record: ExitRecord) -> np.ndarray:
        confidence = record.confidence(self.score).astype(np.float64)  # (N, L)
        return np.stack([map_(confidence[:, i]) for i, map_ in enumerate(self.maps())], axis=1)  # (N, L)

    def fallback(self, record: ExitRecord, signal: np.ndarray) -> np.ndarray | None:
        if self.no_exit == "last":
            return None
        rank = signal if self.no_exit == "most_accurate" else record.confidence(self.score)  # (N, L)
        return record.n_exits - 1 - rank[:, ::-1].argmax(axis=1)  # of equals the latest


@dataclass
class PCEE(_AccuracyMap):
    """Exit once the reliability diagram says that answers of this confidence are right often enough.

    Parameters
    ----------
    bins : int
        Bins M of each exit's diagram. Open in the paper.
    binning : {"equal_width", "equal_mass"}
        Open in the paper.
    score : {"max_softmax", "margin", "entropy"}
        Max softmax in all related code.
    fit_on : {"all", "reached"}
        Which validation samples fit the map of an exit: all, or those that reach it when the exits before it stop
        what they estimate at `reach_threshold` or better. Open in the paper. The reached ones are the harder
        ones, so the two estimates differ; a map of them belongs to the one δ it was fitted for.
    reach_threshold : float
        The δ that `fit_on="reached"` is for.
    no_exit : {"last", "most_accurate", "most_confident"}
        Who answers where no exit reaches δ: the last exit, or the one with the highest estimated accuracy or
        confidence (SDN's rule). Open in the paper. The whole network is paid for in every case.
    """

    bins: int = 50
    binning: Literal["equal_width", "equal_mass"] = "equal_width"
    score: Score = "max_softmax"
    fit_on: Literal["all", "reached"] = "all"
    reach_threshold: float = 0.9
    no_exit: Literal["last", "most_accurate", "most_confident"] = "last"

    name = "pcee"
    rule = "accuracy of the confidence's bin in the exit's reliability diagram ≥ δ"

    def _map(self, confidence, correct, limits) -> StepMap:
        return histogram_map(reliability_diagram(confidence, correct, self.bins, self.binning, limits))


@dataclass
class PCEEWS(_AccuracyMap):
    """PCEE with a smooth map: the mean accuracy of the validation samples nearest in confidence.

    Parameters
    ----------
    window : int
        How many samples, W. The paper leaves the smoother open; this one is our reading.
    score, fit_on, reach_threshold, no_exit
        As for PCEE.
    """

    window: int = 150
    score: Score = "max_softmax"
    fit_on: Literal["all", "reached"] = "all"
    reach_threshold: float = 0.9
    no_exit: Literal["last", "most_accurate", "most_confident"] = "last"

    name = "pcee-ws"
    rule = "accuracy of the validation samples nearest in confidence ≥ δ"

    def _map(self, confidence, correct, limits) -> StepMap:
        return window_map(confidence, correct, self.window)


@dataclass
class Isotonic(_AccuracyMap):
    """PCEE with a map that never falls as confidence rises: isotonic regression, which has nothing to set.

    Parameters
    ----------
    score, fit_on, reach_threshold, no_exit
        As for PCEE.
    """

    score: Score = "max_softmax"
    fit_on: Literal["all", "reached"] = "all"
    reach_threshold: float = 0.9
    no_exit: Literal["last", "most_accurate", "most_confident"] = "last"

    name = "isotonic"
    rule = "isotonic regression of being right on the confidence ≥ δ"
    paper = "Zadrozny & Elkan (2002), in the rule of PCEE (arXiv 2412.19325)"

    def _map(self, confidence, correct, limits) -> StepMap:
        return isotonic_map(confidence, correct)


def _limits(score: str, record: ExitRecord, confidence: np.ndarray) -> tuple[float, float]:
    """The range of a measure: 0 … 1, or −ln C … 0 for negated entropy (from the lowest seen, where C is unknown)."""
    if score != "entropy":
        return 0.0, 1.0
    return (float(confidence.min()) if record.n_classes is None else -float(np.log(record.n_classes))), 0.0
