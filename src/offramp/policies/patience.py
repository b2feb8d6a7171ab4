"""Policies that wait for several consecutive exits: to agree, to be confident, or to change little."""

from dataclasses import dataclass
from functools import reduce
from typing import Any, Literal

import numpy as np

from offramp.policies.base import Policy
from offramp.policies.beem import OnDisagree, score
from offramp.policies.confidence import one_minus_entropy
from offramp.policies.stream import Stream
from offramp.records import ExitOutputs


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
    needs = ("prediction",)

    def _step(self, outputs: ExitOutputs, stream: Stream) -> np.ndarray:
        # Both counts are the score of BEEM with all confidences and weights equal to 1
        on_disagree: OnDisagree = "zero" if self.count == "pabee" else "own"
        return score(np.ones(stream.n), outputs.needed_prediction(self.name), stream.past, on_disagree)


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
    needs = ("entropy",)

    def _step(self, outputs: ExitOutputs, stream: Stream) -> np.ndarray:
        return _least_of_last(self.patience, one_minus_entropy(outputs, self.name), stream.past)


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
    needs_logits = True

    def _step(self, outputs: ExitOutputs, stream: Stream) -> np.ndarray:
        p, ln_p = _probabilities(outputs.needed_logits(self.name), outputs.needed_prediction(self.name))
        now = (p, _entropy(p)) if self.divergence == "js" else (p, ln_p)
        between = {"js": _jensen_shannon, "kl": _kullback_leibler}[self.divergence]
        before, stream.past["before"] = stream.past.get("before"), now
        change = np.full(stream.n, np.inf) if before is None else between(*now, *before)  # (n,)
        return _least_of_last(self.patience, -change, stream.past)


def _least_of_last(count: int, values: np.ndarray, past: dict[str, Any]) -> np.ndarray:
    """Return the minimum of these values (n,) and of those of the `count` − 1 exits before, or −∞ if there are fewer.

    The values are stored in `past`.
    """
    past["values"] = (*past.get("values", ()), values)[-count:]
    if len(past["values"]) < count:
        return np.full(len(values), -np.inf)
    return reduce(np.minimum, reversed(past["values"]))


def _probabilities(logits: np.ndarray, prediction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return p and ln p, float64 (n, C). ln p is finite even if p is rounded to 0."""
    ln_p = logits - logits[np.arange(len(logits)), prediction, None].astype(np.float64)
    p = np.exp(ln_p)
    total = np.einsum("nc->n", p)[:, None]  # (n, 1); np.sum is slow for few classes
    p /= total
    ln_p -= np.log(total)
    return p, ln_p


def _kullback_leibler(p: np.ndarray, ln_p: np.ndarray, _, ln_before: np.ndarray) -> np.ndarray:
    """Return KL(p_i ‖ p_{i−1}), (n,). Negative values due to rounding are set to 0."""
    return np.maximum(np.einsum("nc,nc->n", p, ln_p - ln_before), 0)


def _jensen_shannon(p: np.ndarray, entropy: np.ndarray, before: np.ndarray, entropy_before: np.ndarray) -> np.ndarray:
    """Return the Jensen–Shannon divergence, (n,): the entropy of the mean of p_i and p_{i−1} minus the mean of their
    entropies. It is exactly 0 if they are equal."""
    return np.maximum(_entropy((p + before) / 2) - (entropy + entropy_before) / 2, 0)


def _entropy(p: np.ndarray) -> np.ndarray:
    return -np.einsum("nc,nc->n", p, np.log(np.maximum(p, np.finfo(np.float64).tiny)))
