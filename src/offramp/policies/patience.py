"""Policies that wait for several consecutive exits: to agree, to be confident, or to change little."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from offramp.policies.base import Policy
from offramp.policies.beem import score
from offramp.policies.confidence import one_minus_entropy
from offramp.records import ExitRecord

CACHED_BYTES = 1 << 18  # size of a block of probabilities, so that it stays in the cache


@dataclass
class Patience(Policy):
    """Exit once enough consecutive exits predict the same class (PABEE). The threshold δ is the patience t.

    Parameters
    ----------
    count : {"pabee", "lgvit"}
        How exits are counted. "pabee" counts pairs of neighbouring exits with equal predictions: it is 0 at the first
        exit, and t requires t + 1 equal predictions. "lgvit" counts equal predictions: it is 1 at the first exit, and t
        requires t of them.
    """

    count: Literal["pabee", "lgvit"] = "pabee"

    name = "patience"
    rule = "number of consecutive exits that predict the same class as the exit before them ≥ δ"
    paper = "PABEE (NeurIPS 2020); LGViT (2023)"

    def _signal(self, record: ExitRecord) -> np.ndarray:
        # Both counts are the score of BEEM with all confidences and weights equal to 1
        sure = np.ones_like(record.prediction, np.float64)  # (N, L)
        on_disagree = "zero" if self.count == "pabee" else "own"
        return score(sure, record.prediction, np.ones(record.n_exits), on_disagree)


@dataclass
class PatientConfident(Policy):
    """Exit once enough consecutive exits are confident: patient and confident early exit (PCEE-BERT).

    This is not related to PCEE (arXiv 2412.19325), in spite of the name. The paper counts consecutive exits with
    H / ln C < τ and exits once there are `patience` of them. Here, δ = 1 − τ, and a sample with a signal equal to δ
    leaves, as for every policy. The signal is −∞ before exit `patience`.

    Parameters
    ----------
    patience : int
        Number of exits, t.
    """

    patience: int = 2

    name = "patient-confident"
    rule = "minimum of 1 − entropy / ln C over the last `patience` exits ≥ δ"
    paper = "PCEE-BERT (2022), patient and confident early exit; not related to PCEE"

    def _signal(self, record: ExitRecord) -> np.ndarray:
        return _least_of_last(self.patience, one_minus_entropy(record, self.name))


@dataclass
class FPABEE(Policy):
    """Exit once the probabilities have changed little over several consecutive exits (F-PABEE).

    The paper counts consecutive exits whose divergence from the exit before them is below τ, and exits once there are
    `patience` of them. Here, δ = −τ. The signal is −∞ before exit `patience` + 1. The record must contain logits.

    Parameters
    ----------
    divergence : {"js", "kl"}
        Jensen–Shannon divergence, or KL(p_i ‖ p_{i−1}), in nats.
    patience : int
        Number of exits, t.
    """

    divergence: Literal["js", "kl"] = "js"
    patience: int = 2

    name = "f-pabee"
    rule = "negated maximum of the last `patience` divergences between consecutive exits ≥ δ"
    paper = "F-PABEE (2023)"

    def _signal(self, record: ExitRecord) -> np.ndarray:
        logits = record.needed_logits(self.name)  # (N, L, C)
        step = max(1, CACHED_BYTES // (logits[0].size * 8))
        signal = np.full(record.prediction.shape, -np.inf)  # (N, L)
        between = {"js": _jensen_shannon, "kl": _kullback_leibler}[self.divergence]
        for start in range(0, record.n_samples, step):
            rows = slice(start, start + step)
            signal[rows, 1:] = -between(*_probabilities(logits[rows], record.prediction[rows]))
        return _least_of_last(self.patience, signal)


def _least_of_last(count: int, values: np.ndarray) -> np.ndarray:
    """Return the minimum of the last `count` values up to each exit, (N, L), or −∞ if there are fewer values."""
    least = values.copy()
    for back in range(1, min(count, values.shape[1])):
        np.minimum(least[:, back:], values[:, :-back], out=least[:, back:])
    least[:, : count - 1] = -np.inf
    return least


def _probabilities(logits: np.ndarray, prediction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return p and ln p, float64 (n, L, C). ln p is finite even if p is rounded to 0."""
    ln_p = logits - np.take_along_axis(logits, prediction[..., None], axis=-1).astype(np.float64)
    p = np.exp(ln_p)
    total = np.einsum("nlc->nl", p)[..., None]  # (n, L, 1); np.sum is slow for few classes
    p /= total
    ln_p -= np.log(total)
    return p, ln_p


def _kullback_leibler(p: np.ndarray, ln_p: np.ndarray) -> np.ndarray:
    """Return KL(p_i ‖ p_{i−1}), (n, L − 1). Negative values due to rounding are set to 0."""
    return np.maximum(np.einsum("nlc,nlc->nl", p[:, 1:], np.diff(ln_p, axis=1)), 0)


def _jensen_shannon(p: np.ndarray, ln_p: np.ndarray) -> np.ndarray:
    """Return the Jensen–Shannon divergence, (n, L − 1): the entropy of the mean of p_i and p_{i−1} minus the mean of
    their entropies. It is exactly 0 if they are equal."""
    entropy = _entropy(p)  # (n, L)
    return np.maximum(_entropy((p[:, 1:] + p[:, :-1]) / 2) - (entropy[:, 1:] + entropy[:, :-1]) / 2, 0)


def _entropy(p: np.ndarray) -> np.ndarray:
    return -np.einsum("nlc,nlc->nl", p, np.log(np.maximum(p, np.finfo(np.float64).tiny)))
