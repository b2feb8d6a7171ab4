"""Budgeted batch classification of MSDNet: each exit takes a given share of the samples."""

from dataclasses import dataclass

import numpy as np

from offramp.policies.base import Policy
from offramp.policies.confidence import Score
from offramp.policies.stream import Stream
from offramp.records import ExitOutputs, ExitRecord

P = range(1, 40)  # as in the authors' code


@dataclass
class Budget(Policy):
    """Exit so that each exit takes a given share of the samples: the most confident ones that reach it (MSDNet).

    For p = 1 … 39, exit k takes the share q_k ∝ (p / 20)^k of the samples. This is z · (1 − q)^(k − 1) · q in the
    paper. With a larger p, samples leave later. The threshold of an exit is the confidence of the ⌊N · q_k⌋-th most
    confident validation sample among those that have not left earlier. Samples with the same confidence leave as well.
    If the share is less than one sample, or if fewer samples than the share are left because of earlier ties, no sample
    leaves at this exit.

    The threshold δ of this policy is p. The signal is the largest p whose confidence threshold is reached, or 0 if none
    is reached. At δ, a sample therefore leaves at the earliest exit at which it leaves by the published rule for any
    p ≥ δ. This is identical to the published rule if the confidence thresholds increase with p. They may decrease,
    because late exits receive no samples at small p. A single signal cannot represent this case; the definition above
    is our choice. `thresholds` returns the published thresholds in all cases. δ ≤ 0 is the first exit, a δ between two
    values of p is equivalent to the larger one, and δ > 39 is the full model.

    Parameters
    ----------
    score : {"max_softmax", "margin", "entropy", "mean_token_margin"}
        Confidence measure. The authors' code uses max softmax.
    """

    score: Score = "max_softmax"

    name = "budget"
    rule = (
        "largest p from 1 to 39 whose confidence threshold is reached ≥ δ; for p, exit k takes a share of the samples "
        "∝ (p / 20)^k"
    )
    paper = "MSDNet (2018), budgeted batch classification"

    def thresholds(self, p: int) -> np.ndarray:
        """Return the published confidence thresholds for one p. Use them with the policy `confidence`.

        Parameters
        ----------
        p : int
            From 1 to 39.

        Returns
        -------
        ndarray of shape (L − 1,), float64
            One threshold per exit except the last, for example for `Confidence.exits`.

        Raises
        ------
        NotFittedError
            If the policy was not fitted.
        ValueError
            If p is not an integer from 1 to 39.
        """
        thresholds = self._learned()["thresholds"]  # (39, L − 1)
        if p not in P:
            raise ValueError(f"p is {p!r}: expected a whole number from {P[0]} to {P[-1]}")
        return thresholds[P.index(p)]

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

    def _step(self, outputs: ExitOutputs, stream: Stream) -> np.ndarray:
        if stream.is_last:
            return np.full(stream.n, P[-1])  # all samples leave
        thresholds = self._learned()["thresholds"][:, stream.exit]  # (39,)
        lowest = np.minimum.accumulate(thresholds[::-1])[::-1]  # (39,): over p and above
        return np.searchsorted(lowest, outputs.score(self.score).astype(np.float64), side="right")


def _samples_asked_for(p: int, n_samples: int, n_exits: int) -> list[int]:
    """Return ⌊N · q_k⌋ for all exits except the last. Integer arithmetic avoids rounding down exact shares."""
    weights = [p**k * 20 ** (n_exits - k) for k in range(1, n_exits + 1)]
    return [n_samples * weight // sum(weights) for weight in weights[:-1]]
