"""Rules that wait for several exits running: to agree, to be confident, or to change little."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from offramp.policies.base import Policy
from offramp.policies.beem import score
from offramp.policies.confidence import one_minus_entropy
from offramp.records import ExitRecord

CACHED_BYTES = 1 << 18  # of probabilities worked on at once


@dataclass
class Patience(Policy):
    """Exit once enough exits running give the same answer (PABEE). δ is the patience t.

    Parameters
    ----------
    count : {"pabee", "lgvit"}
        What is counted: equal neighbours (PABEE: 0 at the first exit, so that t asks for t + 1 equal answers), or equal
        answers (LGViT: 1 at the first exit, so that t asks for t).
    """

    count: Literal["pabee", "lgvit"] = "pabee"

    name = "patience"
    rule = "the count of exits running that answer as the one before them did ≥ δ"
    paper = "PABEE (NeurIPS 2020); LGViT (2023)"

    def _signal(self, record: ExitRecord) -> np.ndarray:
        # Both are BEEM's score of exits that are all sure and weigh the same
        sure = np.ones_like(record.prediction, np.float64)  # (N, L)
        on_disagree = "zero" if self.count == "pabee" else "own"
        return score(sure, record.prediction, np.ones(record.n_exits), on_disagree)


@dataclass
class PatientConfident(Policy):
    """Exit once enough exits running are confident: the patient and confident early exit of PCEE-BERT.

    Not related to PCEE (arXiv 2412.19325), which shares its letters. The paper counts the exits running with
    H / ln C < τ and exits when there are `patience`; here δ is 1 − τ, and a signal of just δ leaves, as for every
    policy. Before exit `patience` the signal is −∞.

    Parameters
    ----------
    patience : int
        How many exits, t.
    """

    patience: int = 2

    name = "patient-confident"
    rule = "the least 1 − entropy / ln C of the last `patience` exits ≥ δ"
    paper = "PCEE-BERT (2022): patient and confident; another rule than PCEE"

    def _signal(self, record: ExitRecord) -> np.ndarray:
        return _least_of_last(self.patience, one_minus_entropy(record, self.name))


@dataclass
class FPABEE(Policy):
    """Exit once the probabilities have changed little for several exits running (F-PABEE).

    The paper counts the exits running whose divergence from the exit before is below τ and exits when there are
    `patience`; here δ is −τ. The signal is −∞ before exit `patience` + 1. The record needs its logits.

    Parameters
    ----------
    divergence : {"js", "kl"}
        Jensen–Shannon, or KL(p_i ‖ p_{i−1}), in nats.
    patience : int
        How many exits, t.
    """

    divergence: Literal["js", "kl"] = "js"
    patience: int = 2

    name = "f-pabee"
    rule = "the largest of the last `patience` divergences between neighbouring exits, negated, ≥ δ"
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
    """The least of the last `count` values up to each exit, (N, L); −∞ where there are fewer."""
    least = values.copy()
    for back in range(1, min(count, values.shape[1])):
        np.minimum(least[:, back:], values[:, :-back], out=least[:, back:])
    least[:, : count - 1] = -np.inf
    return least


def _probabilities(logits: np.ndarray, prediction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """p and ln p, float64 (n, L, C). ln p is finite even where p is 0."""
    ln_p = logits - np.take_along_axis(logits, prediction[..., None], axis=-1).astype(np.float64)
    p = np.exp(ln_p)
    total = np.einsum("nlc->nl", p)[..., None]  # (n, L, 1); np.sum is slow over few classes
    p /= total
    ln_p -= np.log(total)
    return p, ln_p


def _kullback_leibler(p: np.ndarray, ln_p: np.ndarray) -> np.ndarray:
    """KL(p_i ‖ p_{i−1}), (n, L − 1); rounding takes none below 0."""
    return np.maximum(np.einsum("nlc,nlc->nl", p[:, 1:], np.diff(ln_p, axis=1)), 0)


def _jensen_shannon(p: np.ndarray, ln_p: np.ndarray) -> np.ndarray:
    """The entropy of the mean of p_i and p_{i−1} less the mean of theirs, (n, L − 1); just 0 where they are equal."""
    entropy = _entropy(p)  # (n, L)
    return np.maximum(_entropy((p[:, 1:] + p[:, :-1]) / 2) - (entropy[:, 1:] + entropy[:, :-1]) / 2, 0)


def _entropy(p: np.ndarray) -> np.ndarray:
    return -np.einsum("nlc,nlc->nl", p, np.log(np.maximum(p, np.finfo(np.float64).tiny)))
