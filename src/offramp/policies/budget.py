"""MSDNet's budgeted batch classification: each exit takes its share of the samples."""

from dataclasses import dataclass

import numpy as np

from offramp.policies.base import Policy
from offramp.policies.confidence import Score
from offramp.records import ExitRecord

P = range(1, 40)  # as in the authors' code


@dataclass
class Budget(Policy):
    """Exit so that each exit takes its share of the samples, the most confident of those that come (MSDNet).

    For p = 1 … 39 the share of exit k of L is q_k ∝ (p / 20)^k, the paper's z · (1 − q)^(k − 1) · q: the larger p,
    the further samples go. An exit's threshold is the confidence of the ⌊N · q_k⌋-th most confident validation sample
    that no exit before has taken; those that tie with it leave too. Where the share is less than one sample, or
    earlier ties have left less than the share, nobody leaves.

    δ is p. The signal is the largest p whose threshold the confidence meets, 0 where it meets none, so at δ a sample
    leaves at the earliest exit that the published rule gives it for any p ≥ δ. Where thresholds rise with p, that is
    the published rule itself. They may fall: late exits have no sample to take at small p. One signal cannot follow
    that, and this is our choice; `thresholds` gives the published ones in every case. δ ≤ 0 is the first exit,
    δ between two p is the larger one, δ > 39 the full model.

    Parameters
    ----------
    score : {"max_softmax", "margin", "entropy"}
        Max softmax in the authors' code.
    """

    score: Score = "max_softmax"

    name = "budget"
    rule = "the largest p of 1 … 39 whose threshold the confidence meets ≥ δ; p gives exit k a share ∝ (p / 20)^k"
    paper = "MSDNet (2018), budgeted batch classification"

    def thresholds(self, p: int) -> np.ndarray:
        """The published thresholds on confidence for one p, (L − 1,), for `exits` of the policy `confidence`.

        Raises
        ------
        NotFittedError
            If the policy was not fitted.
        ValueError
            If p is not a whole number from 1 to 39.
        """
        self._check_fitted()
        if p not in P:
            raise ValueError(f"p is {p!r}: expected a whole number from {P[0]} to {P[-1]}")
        return self.state["thresholds"][P.index(p)]

    def _fit(self, record: ExitRecord) -> dict[str, np.ndarray]:
        confidence = record.confidence(self.score).astype(np.float64)  # (N, L)
        thresholds = np.full((len(P), record.n_exits - 1), np.inf)  # (39, L − 1)
        for p, of_p in zip(P, thresholds):
            alive = np.ones(record.n_samples, bool)  # (N,)
            for i, asked in enumerate(_samples_asked_for(p, record.n_samples, record.n_exits)):
                come = confidence[alive, i]
                if 0 < asked <= len(come):
                    of_p[i] = np.partition(come, -asked)[-asked]
                alive &= confidence[:, i] < of_p[i]
        return {"thresholds": thresholds}

    def _signal(self, record: ExitRecord) -> np.ndarray:
        confidence = record.confidence(self.score).astype(np.float64)  # (N, L)
        lowest = np.minimum.accumulate(self.state["thresholds"][::-1])[::-1]  # (39, L − 1): of this p and all above
        signal = np.full(confidence.shape, P[-1], np.float64)  # (N, L): the last exit takes all that come, at any p
        for i in range(record.n_exits - 1):
            signal[:, i] = np.searchsorted(lowest[:, i], confidence[:, i], side="right")
        return signal


def _samples_asked_for(p: int, n_samples: int, n_exits: int) -> list[int]:
    """⌊N · q_k⌋ for all exits but the last, in whole numbers: a share that comes out even is not rounded down."""
    weights = [p**k * 20 ** (n_exits - k) for k in range(1, n_exits + 1)]
    return [n_samples * weight // sum(weights) for weight in weights[:-1]]
