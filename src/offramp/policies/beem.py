"""BEEM: exits as experts, whose confidences add up for as long as neighbours agree (arXiv 2502.00745)."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from offramp.policies.base import Policy
from offramp.records import ExitRecord

OnDisagree = Literal["own", "zero"]


def score(
    confidence: np.ndarray, prediction: np.ndarray, weights: np.ndarray, on_disagree: OnDisagree = "own"
) -> np.ndarray:
    """BEEM's score: S_i = S_{i−1} + w_i · C_i where exit i answers as exit i − 1 does; else it starts again.

    Parameters
    ----------
    confidence, prediction : ndarray of shape (N, L)
        C and ŷ.
    weights : ndarray of shape (L,)
    on_disagree : {"own", "zero"}
        What it starts again from, at the first exit too: w_i · C_i (the paper) or 0 (the public code).

    Returns
    -------
    ndarray of shape (N, L), float64
    """
    weighted = weights * np.asarray(confidence, np.float64)  # (N, L)
    scores = weighted.copy() if on_disagree == "own" else np.zeros_like(weighted)  # (N, L): all start again
    for i in range(1, weighted.shape[1]):
        agree = prediction[:, i] == prediction[:, i - 1]  # (N,)
        scores[:, i] = np.where(agree, scores[:, i - 1] + weighted[:, i], scores[:, i])
    return scores


class _BEEM(Policy):
    """The part that both share: the score."""

    score: Literal["max_softmax", "margin"]
    on_disagree: OnDisagree

    paper = "BEEM (ICLR 2025, arXiv 2502.00745)"

    def _weights(self, record: ExitRecord) -> np.ndarray:
        raise NotImplementedError

    def _signal(self, record: ExitRecord) -> np.ndarray:
        return score(record.confidence(self.score), record.prediction, self._weights(record), self.on_disagree)


@dataclass
class BEEMC(_BEEM):
    """Exit once the exits that agree in a row are sure enough together, weighted by what they cost (BEEM-C).

    Parameters
    ----------
    cost_weight : float
        λ of the weights w_i = λ · i, i from 1. With one shared δ only δ / λ matters.
    on_disagree : {"own", "zero"}
        Where neighbours disagree the score is the exit's own w_i · C_i, as in the paper, or 0, as in the public code
        (which has 0 at the first exit, too).
    score : {"max_softmax", "margin"}
        The confidence C_i; max softmax in the paper.
    """

    cost_weight: float = field(default=0.1, metadata={"above": 0})
    on_disagree: OnDisagree = "own"
    score: Literal["max_softmax", "margin"] = "max_softmax"

    name = "beem-c"
    rule = "the confidences of the exits that agree in a row, each times its depth, sum to ≥ δ"

    def _weights(self, record: ExitRecord) -> np.ndarray:
        return self.cost_weight * np.arange(1, record.n_exits + 1)  # (L,)


@dataclass
class BEEMA(_BEEM):
    """Exit once the exits that agree in a row are sure enough together, weighted by their accuracy (BEEM-A).

    Parameters
    ----------
    accuracy_weight : float
        λ of the weights w_i = λ · accuracy of exit i on validation.
    normalisation : {"none", "sum", "max"}
        Divide the accuracies by their sum or their largest. The paper speaks of none.
    on_disagree, score
        As for BEEM-C.
    """

    accuracy_weight: float = field(default=1.0, metadata={"above": 0})
    normalisation: Literal["none", "sum", "max"] = "none"
    on_disagree: OnDisagree = "own"
    score: Literal["max_softmax", "margin"] = "max_softmax"

    name = "beem-a"
    rule = "the confidences of the exits that agree in a row, each times its accuracy on validation, sum to ≥ δ"

    def _fit(self, record: ExitRecord) -> dict[str, np.ndarray]:
        record.needed_labels(f"fitting {self.name}")
        accuracy = record.correct.mean(axis=0)  # (L,)
        by = {"none": 1.0, "sum": accuracy.sum(), "max": accuracy.max()}[self.normalisation]
        return {"weights": self.accuracy_weight * accuracy / (by or 1.0)}  # where no exit is ever right, all are 0

    def _weights(self, record: ExitRecord) -> np.ndarray:
        return self.state["weights"]
