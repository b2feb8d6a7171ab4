"""Reference policies: an oracle and random exits."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from offramp.policies.base import Policy
from offramp.records import ExitRecord


@dataclass
class Oracle(Policy):
    """Exit at the first exit that predicts the same class as the last exit (the Oracle of PCEE), or the label.

    This cannot be used in practice, because it needs the last exit or the label. All thresholds in (0, 1] are
    equivalent.

    Parameters
    ----------
    target : {"final", "label"}
        Leave at the first exit that predicts the same class as the last exit, as in PCEE, or at the first correct one.
    """

    target: Literal["final", "label"] = "final"

    name = "oracle"
    rule = "indicator (1 or 0) that the exit predicts the same class as the last exit (or as the label) ≥ δ"
    paper = "PCEE (arXiv 2412.19325)"

    def _signal(self, record: ExitRecord) -> np.ndarray:
        if self.target == "label":
            record.needed_labels("oracle with target='label'")
            return record.correct
        return record.prediction == record.prediction[:, -1:]


@dataclass
class Random(Policy):
    """Exit at random: the signal is an independent uniform number at each exit, so δ is the probability to continue.

    Parameters
    ----------
    seed : int
        Seed of the random numbers.
    """

    seed: int = field(default=0, metadata={"least": 0})

    name = "random"
    rule = "uniform random number ≥ δ"
    paper = "baseline"

    def _signal(self, record: ExitRecord) -> np.ndarray:
        return np.random.default_rng(self.seed).random((record.n_samples, record.n_exits))
