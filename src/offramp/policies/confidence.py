"""Thresholds on confidence, raw or temperature-scaled."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from offramp.calibration import fit_temperature
from offramp.confidence import confidences
from offramp.policies.base import Policy
from offramp.records import ExitRecord

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
        logits = _logits(record)
        return {"temperature": np.array([fit_temperature(logits[:, i], record.labels) for i in range(record.n_exits)])}

    def _signal(self, record: ExitRecord) -> np.ndarray:
        if not self.learns:
            return record.confidence(self.score)
        scaled = getattr(confidences(_logits(record), self.state["temperature"]), self.score)  # (N, L)
        return -scaled if self.score == "entropy" else scaled


def _logits(record: ExitRecord) -> np.ndarray:
    if record.logits is None:
        raise ValueError("temperature='per_exit' needs logits, but this record has none; make the record with logits")
    return record.logits
