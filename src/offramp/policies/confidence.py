"""Thresholds on confidence (raw, temperature-scaled or normalised) and on the similarity of hidden states."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from offramp.calibration import fit_temperatures
from offramp.policies.base import Policy
from offramp.policies.stream import Stream
from offramp.records import ExitOutputs, ExitRecord

Score = Literal["max_softmax", "margin", "entropy", "mean_token_margin"]


@dataclass
class Confidence(Policy):
    """Exit once the confidence is high enough: max softmax (MSDNet, SDN), a margin, or negated entropy (BranchyNet).

    Parameters
    ----------
    score : {"max_softmax", "margin", "entropy", "mean_token_margin"}
        Confidence measure. Entropy is in nats and negated: δ = −0.1 requires an entropy of at most 0.1. The mean token
        margin is that of the answers of language models (see `ExitRecord.from_outputs`).
    temperature : None or "per_exit"
        Divide the logits of each exit by a temperature, which is fitted on validation data by negative log-likelihood.
        Guo et al. (2017) do this for a single output. The validation and test records must contain logits.
    """

    score: Score = "max_softmax"
    temperature: Literal["per_exit"] | None = None

    name = "confidence"
    rule = "max softmax, margin or negated entropy of the exit ≥ δ"
    paper = "BranchyNet (2016); MSDNet (2018); Shallow-Deep Networks (2019)"

    @property
    def claims_accuracy(self) -> bool:
        return self.score == "max_softmax"

    @property
    def learns(self) -> bool:
        return self.temperature is not None

    @property
    def needs_logits(self) -> bool:
        return self.learns

    def _fit(self, record: ExitRecord) -> dict[str, np.ndarray]:
        if not self.learns:
            return {}
        return {"temperature": fit_temperatures(record)}

    def _step(self, outputs: ExitOutputs, stream: Stream) -> np.ndarray:
        if self.learns:
            temperature = self._learned()["temperature"][stream.exit]
            outputs = ExitOutputs.of(outputs.needed_logits(self.name), temperature=temperature)
        return outputs.score(self.score)


@dataclass
class NormalizedEntropy(Policy):
    """Exit once the entropy, divided by its maximum for this number of classes, is low enough (FastBERT).

    FastBERT exits if H / ln C < speed. Here, δ = 1 − speed. The signal is 0 if all classes are equally probable and 1
    if one class has probability 1. The number of classes of the record must be known.
    """

    name = "normalized-entropy"
    rule = "1 − entropy / ln C ≥ δ, for C classes"
    paper = "FastBERT (ACL 2020)"
    needs = ("entropy",)

    def _step(self, outputs: ExitOutputs, stream: Stream) -> np.ndarray:
        return one_minus_entropy(outputs, self.name)


@dataclass
class HiddenSimilarity(Policy):
    """Exit once the hidden state hardly changes from one exit to the next (MuE).

    The signal is the cosine similarity between the hidden state that an exit reads and that of the exit before it. Only
    records of models with hidden states of equal width contain it, or imported ones with the array `similarity`.
    """

    name = "hidden-similarity"
    rule = "cosine similarity between the hidden states of this exit and of the exit before it ≥ δ"
    paper = "MuE (CVPR 2023)"
    needs = ("similarity",)

    def _step(self, outputs: ExitOutputs, stream: Stream) -> np.ndarray:
        if outputs.similarity is None:
            raise ValueError(
                f"{self.name}: these outputs have no similarity, only {', '.join(outputs.confidence)}; expected those "
                "of a model whose exits read states of one width (encoder, vit), or an import with the array similarity"
            )
        return outputs.similarity


def one_minus_entropy(outputs: ExitOutputs, what: str) -> np.ndarray:
    """Return 1 − H / ln C for C classes, float64 (n,). `what` names the policy in error messages."""
    if outputs.classes is None:
        raise ValueError(f'{what} needs the number of classes; set metadata["classes"] of the record')
    if outputs.classes < 2:
        raise ValueError(f"{what}: there is {outputs.classes} class; expected at least 2")
    return 1 + outputs.score("entropy").astype(np.float64) / np.log(outputs.classes)
