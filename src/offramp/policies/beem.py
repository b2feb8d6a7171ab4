"""BEEM (arXiv 2502.00745): the confidences of consecutive exits are added up as long as their predictions agree."""

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from offramp.policies.base import Policy
from offramp.policies.stream import Stream
from offramp.records import ExitOutputs, ExitRecord

OnDisagree = Literal["own", "zero"]
Probability = Literal["max_softmax", "margin", "mean_token_margin"]  # confidences from 0 to 1


def score(confidence: np.ndarray, prediction: np.ndarray, past: dict[str, Any], on_disagree: OnDisagree) -> np.ndarray:
    """Compute the score of BEEM at the next exit.

    It is S_i = S_{i−1} + w_i · C_i if exits i and i − 1 predict the same class. Otherwise, and at the first exit, the
    score is reset.

    Parameters
    ----------
    confidence, prediction : ndarray of shape (n,)
        Weighted confidences w_i · C_i, and predicted classes.
    past : dict
        State of the stream, in which the score and the prediction of the exit are stored for the next one.
    on_disagree : {"own", "zero"}
        Value to which the score is reset: w_i · C_i, as in the paper, or 0, as in the public code.

    Returns
    -------
    ndarray of shape (n,), float64
    """
    scores = confidence if on_disagree == "own" else np.zeros(len(confidence))  # (n,): values after a reset
    if "score" in past:
        scores = np.where(prediction == past["prediction"], past["score"] + confidence, scores)
    past["score"], past["prediction"] = scores, prediction
    return scores


class _BEEM(Policy):
    """Base class of both variants of BEEM, which computes the score."""

    score: Probability
    on_disagree: OnDisagree

    paper = "BEEM (ICLR 2025, arXiv 2502.00745)"

    def _weight(self, i: int) -> float:
        """Return the weight of exit i, counted from 0."""
        raise NotImplementedError

    def _step(self, outputs: ExitOutputs, stream: Stream) -> np.ndarray:
        weighted = self._weight(stream.exit) * outputs.score(self.score).astype(np.float64)  # (n,)
        return score(weighted, outputs.needed_prediction(self.name), stream.past, self.on_disagree)


@dataclass
class BEEMC(_BEEM):
    """BEEM-C: exit once consecutive exits that agree are confident enough together, weighted by their cost.

    Parameters
    ----------
    cost_weight : float
        Factor λ of the weights w_i = λ · i, where i counts the exits from 1. Must be above 0. With a threshold δ that
        is shared by all exits, only δ / λ matters.
    on_disagree : {"own", "zero"}
        Score of an exit that predicts another class than the exit before it: its own w_i · C_i, as in the paper, or 0,
        as in the public code (where it is 0 at the first exit, too).
    score : {"max_softmax", "margin", "mean_token_margin"}
        Confidence C_i. The paper uses max softmax.
    """

    cost_weight: float = field(default=0.1, metadata={"above": 0})
    on_disagree: OnDisagree = "own"
    score: Probability = "max_softmax"

    name = "beem-c"
    rule = "sum of the confidences of consecutive exits that agree, each multiplied by the depth of its exit, ≥ δ"

    def _weight(self, i: int) -> float:
        return self.cost_weight * (i + 1)


@dataclass
class BEEMA(_BEEM):
    """BEEM-A: exit once consecutive exits that agree are confident enough together, weighted by their accuracy.

    Parameters
    ----------
    accuracy_weight : float
        Factor λ of the weights w_i = λ · (validation accuracy of exit i). Must be above 0.
    normalisation : {"none", "sum", "max"}
        Whether to divide the accuracies by their sum or by their maximum. The paper does not mention a normalisation.
    on_disagree, score
        As for `BEEMC`.
    """

    accuracy_weight: float = field(default=1.0, metadata={"above": 0})
    normalisation: Literal["none", "sum", "max"] = "none"
    on_disagree: OnDisagree = "own"
    score: Probability = "max_softmax"

    name = "beem-a"
    rule = (
        "sum of the confidences of consecutive exits that agree, each multiplied by the validation accuracy of its "
        "exit, ≥ δ"
    )

    def _fit(self, record: ExitRecord) -> dict[str, np.ndarray]:
        accuracy = record.needed_correct(f"fitting {self.name}").mean(axis=0)  # (L,)
        by = {"none": 1.0, "sum": accuracy.sum(), "max": accuracy.max()}[self.normalisation]
        return {"weights": self.accuracy_weight * accuracy / (by or 1.0)}  # all 0 if no exit is ever correct

    def _weight(self, i: int) -> float:
        return self._learned()["weights"][i]
