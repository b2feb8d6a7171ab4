"""Policies to measure others by: the best that could be done, and chance."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from offramp.policies.base import Policy
from offramp.records import ExitRecord


@dataclass
class Oracle(Policy):
    """Exit where the answer no longer changes, known in hindsight (PCEE's Oracle); thresholds in (0, 1] are all alike.

    Parameters
    ----------
    target : {"final", "label"}
        The first exit that predicts what the final layer predicts (PCEE), or the first that is right.
    """

    target: Literal["final", "label"] = "final"

    name = "oracle"
    rule = "1 where the exit predicts what the last exit predicts (or the label), else 0"
    paper = "PCEE (arXiv 2412.19325)"

    def _signal(self, record: ExitRecord) -> np.ndarray:
        if self.target == "label":
            record.needed_labels("oracle with target='label'")
            return record.correct
        return record.prediction == record.prediction[:, -1:]


@dataclass
class Random(Policy):
    """Exit by chance: an independent uniform number at each exit, so that δ is the chance to go on.

    Parameters
    ----------
    seed : int
    """

    seed: int = field(default=0, metadata={"least": 0})

    name = "random"
    rule = "a uniform random number ≥ δ"
    paper = "baseline"

    def _signal(self, record: ExitRecord) -> np.ndarray:
        return np.random.default_rng(self.seed).random((record.n_samples, record.n_exits))
