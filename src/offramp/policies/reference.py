"""Reference policies: an oracle and random exits."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from offramp.policies.base import Policy
from offramp.policies.stream import Stream
from offramp.records import ExitOutputs, ExitRecord


@dataclass
class Oracle(Policy):
    """Exit at the first exit that predicts the same class as the last exit (the Oracle of PCEE), or the best answer.

    This cannot be used in practice, because it needs the last exit or the label: `start` raises ValueError. All
    thresholds in (0, 1] are equivalent.

    Parameters
    ----------
    target : {"final", "label"}
        Leave at the first exit that predicts the same class as the last exit, as in PCEE, or at the first correct one.
        For answers with a quality, "label" is the first exit whose answer is at least as good as those of all later
        exits, which is the cheapest of the best answers (our choice). If all answers are wrong, or have quality 0, the
        last exit answers.
    """

    target: Literal["final", "label"] = "final"

    name = "oracle"
    rule = "indicator (1 or 0) that the exit predicts the same class as the last exit (or as the label) ≥ δ"
    paper = "PCEE (arXiv 2412.19325)"
    reads_exits = False  # it is an upper bound for routers, too

    @property
    def needs(self) -> tuple[str, ...]:
        return ("prediction",) if self.target == "final" else ()

    def _begin(self, stream: Stream) -> None:
        needed = {"final": "the last exit", "label": "the labels"}[self.target]
        raise ValueError(f"oracle with target={self.target!r} needs {needed}; expected a whole record, as in signal")

    def _over(self, record: ExitRecord) -> tuple[np.ndarray, np.ndarray | None]:
        if self.target == "label":
            right = record.needed_correct("oracle with target='label'")  # (N, L)
            best_of_later = np.maximum.accumulate(right[:, ::-1], axis=1)[:, ::-1]  # (N, L)
            right = (right > 0) & (right >= best_of_later)
        else:
            prediction = record.needed_prediction("oracle with target='final'")  # (N, L)
            right = prediction == prediction[:, -1:]
        return right.astype(np.float64), record.prediction


@dataclass
class Random(Policy):
    """Exit at random: the signal is an independent uniform number at each exit, so δ is the probability to continue.

    The numbers of a sample depend on its position only, and not on the other samples.

    Parameters
    ----------
    seed : int
        Seed of the random numbers.
    """

    seed: int = field(default=0, metadata={"least": 0})

    name = "random"
    rule = "uniform random number ≥ δ"
    paper = "baseline"
    reads_exits = False

    def _begin(self, stream: Stream) -> None:
        exits = stream.needed_exits()
        generator = np.random.default_rng(self.seed)
        generator.bit_generator.advance(stream.first * exits)  # type: ignore[attr-defined]  # one step per number
        stream.past["numbers"] = generator.random((stream.n, exits))  # (n, L)

    def _step(self, outputs: ExitOutputs, stream: Stream) -> np.ndarray:
        return stream.past["numbers"][:, stream.exit]
