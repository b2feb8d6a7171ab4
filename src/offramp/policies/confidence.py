"""Thresholds on confidence: raw, temperature-scaled, of known range; or on how little the hidden state changes."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from offramp.calibration import fit_temperatures
from offramp.policies.base import Policy
from offramp.records import ExitRecord
from offramp.records.confidence import confidences

Score = Literal["max_softmax", "margin", "entropy"]


@dataclass
class Confidence(Policy):
    """Exit once the model is sure enough: max softmax (MSDNet, SDN), margin, or −entropy (BranchyNet).

    Parameters
    ----------
    score : {"max_softmax", "margin", "entropy"}
        Entropy is negated, in nats: a threshold of −0.1 asks for an entropy of at most 0.1.
    temperature : None or "per_exit"
        Divide each exit's logits by a temperature fitted on validation by negative log-likelihood, as Guo et al.
        (2017) do for one output. Both records need their logits.
    """

    score: Score = "max_softmax"
    temperature: Literal["per_exit"] | None = None

    name = "confidence"
    rule = "the exit's max softmax, margin or negated entropy ≥ δ"
    paper = "BranchyNet (2016); MSDNet (2018); Shallow-Deep Networks (2019)"

    @property
    def claims_accuracy(self) -> bool:
        return self.score == "max_softmax"

    @property
    def learns(self) -> bool:
        return self.temperature is not None

    def _fit(self, record: ExitRecord) -> dict[str, np.ndarray]:
        if not self.learns:
            return {}
        return {"temperature": fit_temperatures(record)}

    def _signal(self, record: ExitRecord) -> np.ndarray:
        if not self.learns:
            return record.confidence(self.score)
        logits = record.needed_logits("temperature='per_exit'")
        scaled = getattr(confidences(logits, self.state["temperature"]), self.score)  # (N, L)
        return -scaled if self.score == "entropy" else scaled


@dataclass
class NormalizedEntropy(Policy):
    """Exit once the entropy is low against the most that so many classes can have (FastBERT's uncertainty).

    FastBERT exits where H / ln C < speed; here δ is 1 − speed, from 0 (all classes alike) to 1 (one alone). The
    record's number of classes must be known.
    """

    name = "normalized-entropy"
    rule = "1 − entropy / ln C ≥ δ"
    paper = "FastBERT (ACL 2020)"

    def _signal(self, record: ExitRecord) -> np.ndarray:
        return one_minus_entropy(record, self.name)


@dataclass
class HiddenSimilarity(Policy):
    """Exit once the hidden state hardly changes any more (MuE).

    The signal is the cosine of the hidden state that an exit reads with that of the exit before it. Only records of
    models that give it away have it.
    """

    name = "hidden-similarity"
    rule = "the cosine of the hidden state with that of the exit before ≥ δ"
    paper = "MuE (CVPR 2023)"

    def _signal(self, record: ExitRecord) -> np.ndarray:
        if "similarity" not in record.measures:
            raise ValueError(
                f"{self.name}: this record has no similarity, only {', '.join(record.measures)}; expected one of a "
                "model whose exits read states of one width (encoder, vit), or an import with the array similarity"
            )
        return record.confidence("similarity")


def one_minus_entropy(record: ExitRecord, what: str) -> np.ndarray:
    """1 − H / ln C, float64 (N, L), for C classes."""
    if record.n_classes is None:
        raise ValueError(f'{what} needs the number of classes; set metadata["classes"] of the record')
    if record.n_classes < 2:
        raise ValueError(f"{what}: the record has {record.n_classes} class; expected at least 2")
    return 1 + record.confidence("entropy").astype(np.float64) / np.log(record.n_classes)
