"""BEEM (arXiv 2502.00745): the confidences of consecutive exits are added up as long as their predictions agree."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from offramp.policies.base import Policy
from offramp.records import ExitRecord

OnDisagree = Literal["own", "zero"]


def score(
    confidence: np.ndarray, prediction: np.ndarray, weights: np.ndarray, on_disagree: OnDisagree = "own"
) -> np.ndarray:
    """Compute the score of BEEM: S_i = S_{i−1} + w_i · C_i if exits i and i − 1 predict the same class.

    Otherwise, and at the first exit, the score is reset.

    Parameters
    ----------
    confidence, prediction : ndarray of shape (N, L)
        Confidences C and predicted classes ŷ.
    weights : ndarray of shape (L,)
        Weights w.
    on_disagree : {"own", "zero"}
        Value to which the score is reset: w_i · C_i, as in the paper, or 0, as in the public code.

    Returns
    -------
    ndarray of shape (N, L), float64
    """
    weighted = weights * np.asarray(confidence, np.float64)  # (N, L)
    scores = weighted.copy() if on_disagree == "own" else np.zeros_like(weighted)  # (N, L): values after a reset
    for i in range(1, weighted.shape[1]):
        agree = prediction[:, i] == prediction[:, i - 1]  # (N,)
        scores[:, i] = np.where(agree, scores[:, i - 1] + weighted[:, i], scores[:, i])
    return scores


class _BEEM(Policy):
    """Base class of both variants of BEEM, which computes the score."""

    score: Literal["max_softmax", "margin"]
    on_disagree: OnDisagree

    paper = "BEEM (ICLR 2025, arXiv 2502.00745)"

    def _weights(self, record: ExitRecord) -> np.ndarray:
        raise NotImplementedError

    def _signal(self, record: ExitRecord) -> np.ndarray:
        return score(record.confidence(self.score), record.prediction, self._weights(record), self.on_disagree)


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
    score : {"max_softmax", "margin"}
        Confidence C_i. The paper uses max softmax.
    """

    cost_weight: float = field(default=0.1, metadata={"above": 0})
    on_disagree: OnDisagree = "own"
    score: Literal["max_softmax", "margin"] = "max_softmax"

    name = "beem-c"
    rule = "sum of the confidences of consecutive exits that agree, each multiplied by the depth of its exit, ≥ δ"

    def _weights(self, record: ExitRecord) -> np.ndarray:
        return self.cost_weight * np.arange(1, record.n_exits + 1)  # (L,)


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
    score: Literal["max_softmax", "margin"] = "max_softmax"

    name = "beem-a"
    rule = (
        "sum of the confidences of consecutive exits that agree, each multiplied by the validation accuracy of its "
        "exit, ≥ δ"
    )

    def _fit(self, record: ExitRecord) -> dict[str, np.ndarray]:
        record.needed_labels(f"fitting {self.name}")
        accuracy = record.correct.mean(axis=0)  # (L,)
        by = {"none": 1.0, "sum": accuracy.sum(), "max": accuracy.max()}[self.normalisation]
        return {"weights": self.accuracy_weight * accuracy / (by or 1.0)}  # all 0 if no exit is ever correct

    def _weights(self, record: ExitRecord) -> np.ndarray:
        return self.state["weights"]
