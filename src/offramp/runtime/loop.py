"""The loop over the exits of a model in which samples that have left are removed. It needs NumPy only."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from offramp.cascades.building import Combination
from offramp.policies import Policy
from offramp.policies.base import REJECTED, checked_rejection, checked_threshold, reaches
from offramp.records import ExitOutputs
from offramp.runtime.regrouping import Times, measured_sizes, regrouping

REPEATS = 5  # of each measured time


@dataclass(frozen=True, eq=False)
class Answers:
    """What a model with early exits answers for B samples, in their order.

    Attributes
    ----------
    prediction : ndarray of shape (B,), int64
        Predicted classes, or −1 for rejected samples. These are the predictions of the policy, which combines several
        exits for some policies.
    exit : ndarray of shape (B,), int64
        Exit at which each sample left, counted from 0.
    signal : ndarray of shape (B,), float64
        Signal of the policy at this exit.
    confidence : ndarray of shape (B,), float32
        Max softmax of this exit.
    cost : ndarray of shape (B,), float64
        Cumulative cost of this exit.
    logits : ndarray of shape (B, C), float32
        Logits of this exit.
    """

    prediction: np.ndarray
    exit: np.ndarray
    signal: np.ndarray
    confidence: np.ndarray
    cost: np.ndarray
    logits: np.ndarray


class Run(Protocol):
    """A batch on its way through the stages of a model."""

    def step(self) -> tuple[np.ndarray, np.ndarray | None]:
        """Run the next stage. Return the logits (b, C) and similarities (b,) of its exit, for the b samples inside."""

    def keep(self, rows: np.ndarray) -> None:
        """Remove all samples from the batch except those in these positions (k,)."""

    def select(self, rows: np.ndarray) -> None:
        """Compute what the next stage would read after `keep(rows)`, and forget it. Times are measured with it."""


class Stages(ABC):
    """A model as a sequence of stages, each of which ends with an exit, with a policy: the base of all that stop.

    Attributes
    ----------
    n_exits : int
        Number of exits L.
    policy : Policy
    threshold : ndarray of shape () or (L − 1,)
    reject_below : float
        Threshold ρ: answers whose `Policy.estimate` is below ρ are rejected.
    abstain_below : ndarray of shape () or (L − 1,)
        Samples that stay at an exit with an estimate below this are rejected at once: later stages do not run.
    regroup : str or int
        As for `regrouping.regrouping`.
    combination : callable or None
        It returns a new `Combination`, for cascades with an ensemble or temperatures.
    times : Times or None
        What `profile` measured.
    """

    def __init__(
        self,
        n_exits: int,
        policy: Policy,
        threshold,
        regroup: str | int,
        combination: Callable[[], Combination] | None = None,
        reject_below: float = -np.inf,
        abstain_below: float | np.ndarray = -np.inf,
    ) -> None:
        policy.start(0, n_exits)
        regrouping(regroup, None)
        if combination is not None:
            combination()  # raises its errors here
        self.n_exits, self.policy, self.regroup, self.combination = n_exits, policy, regroup, combination
        self.threshold, self.reject_below = checked_threshold(threshold, n_exits), checked_rejection(reject_below)
        self.abstain_below = checked_threshold(abstain_below, n_exits, "abstain_below")
        self.times: Times | None = None

    @abstractmethod
    def start(self, x) -> Run:
        """Start with a batch of inputs."""

    @abstractmethod
    def cost(self, x) -> np.ndarray:
        """Return the cumulative cost of each exit, (L,), or (B, L) if it differs between samples."""

    def synchronize(self) -> None:  # noqa: B027
        """Wait for a device that computes on its own."""

    def __call__(self, x) -> Answers:
        """Answer a batch. Samples leave at the first exit at which the signal reaches the threshold.

        Parameters
        ----------
        x : array or tensor of shape (B, …)
            Inputs of the model: images, or texts as padded token ids.

        Returns
        -------
        Answers

        Raises
        ------
        ValueError
            If the batch is empty, if a logit is not finite, or if the outputs lack data that the policy needs.
        """
        decisions, regroup = Decisions(self, len(x)), regrouping(self.regroup, self.times)
        run = self.start(x)
        batch = len(x)  # number of samples in the batch, with those that have left but were not removed
        inside = np.arange(batch)  # (n,): positions in the batch of the samples that have not left
        for i in range(self.n_exits):
            raw, similarity = run.step()  # (b, C), (b,)
            stay = decisions.step(raw[inside], None if similarity is None else similarity[inside])  # (k,)
            if not len(stay):
                break
            inside = inside[stay]
            if len(inside) < batch and regroup(i, batch, len(inside)):
                run.keep(inside)
                batch = len(inside)
                inside = np.arange(batch)
        return decisions.answers(self.cost(x))

    def profile(self, x) -> Times:
        """Measure the times of all stages on this machine, which `regroup="measured"` then uses.

        Parameters
        ----------
        x : array or tensor of shape (B, …)
            A typical batch of the largest size that will be used.

        Returns
        -------
        Times
        """
        sizes = measured_sizes(len(x))
        stages = np.empty((REPEATS + 1, self.n_exits, len(sizes)))  # the first repeat is not counted
        removal = np.empty_like(stages)
        for repeat in range(REPEATS + 1):
            for s, size in enumerate(sizes):
                run = self.start(x[:size])
                for i in range(self.n_exits):
                    begin = self._now()
                    run.step()
                    stages[repeat, i, s] = self._now() - begin
            run = self.start(x)
            for i in range(self.n_exits):
                run.step()
                for s, size in enumerate(sizes):
                    begin = self._now()
                    run.select(np.arange(size))
                    removal[repeat, i, s] = self._now() - begin
        self.times = Times(sizes, np.median(stages[1:], axis=0), np.median(removal[1:], axis=0))
        return self.times

    def _now(self) -> float:
        self.synchronize()
        return time.perf_counter()


class Decisions:
    """The decisions about B samples, exit by exit. Samples leave at the first exit with signal ≥ threshold.

    Parameters
    ----------
    stages : Stages
        The model, with its policy and threshold.
    size : int
        Number of samples B.

    Raises
    ------
    ValueError
        If there are no samples.
    """

    def __init__(self, stages: Stages, size: int) -> None:
        if size == 0:
            raise ValueError("expected at least one sample")
        self.threshold, self.reject_below = stages.threshold, stages.reject_below
        self.combination = None if stages.combination is None else stages.combination()
        self.deltas = np.broadcast_to(self.threshold, stages.n_exits - 1)  # (L − 1,)
        self.abstain_below = np.broadcast_to(stages.abstain_below, stages.n_exits - 1)  # (L − 1,)
        self.stream = stages.policy.start(size, stages.n_exits)
        self.there = np.arange(size)  # (n,): samples that have not left
        self.prediction, self.exit = np.empty(size, np.int64), np.empty(size, np.int64)  # (B,)
        self.signal, self.confidence = np.empty(size), np.empty(size, np.float32)  # (B,)
        self.logits = np.empty(0)  # (B, C), once C is known

    def step(self, raw: np.ndarray, similarity: np.ndarray | None) -> np.ndarray:
        """Take the logits (n, C) and similarities (n,) of the next exit, for the n samples that have not left.

        Returns
        -------
        ndarray of shape (k,)
            Positions of those that stay, among the n samples.

        Raises
        ------
        ValueError
            If a logit is not finite, or if the outputs lack data that the policy needs.
        """
        there, stream, combination = self.there, self.stream, self.combination
        outputs = ExitOutputs.of(raw, similarity) if combination is None else combination.step(raw)
        signals = stream.step(outputs)  # (n,)
        prediction, estimate = stream.prediction, stream.estimate  # (n,) each
        i, last = stream.exit, stream.is_last
        leaves = np.ones(len(there), bool) if last else reaches(signals, self.deltas[i])  # (n,)
        abstains = np.zeros(len(there), bool)  # (n,)
        if not last:
            abstains = ~leaves & ~reaches(estimate, self.abstain_below[i])
            leaves |= abstains
        if last and np.ndim(self.threshold) == 0:  # as in `policies.base.decide`
            nowhere = ~reaches(signals, self.threshold)  # (n,)
            prediction = np.where(nowhere, stream.fallback_prediction, prediction)
            estimate = np.where(nowhere, stream.fallback_estimate, estimate)
        left = there[leaves]
        self.exit[left], self.signal[left] = i, signals[leaves]
        self.confidence[left] = outputs.measure("max_softmax")[leaves]
        rejected = abstains[leaves] | ~reaches(estimate[leaves], self.reject_below)
        self.prediction[left] = np.where(rejected, REJECTED, prediction[leaves])
        if not self.logits.size:
            self.logits = np.empty((len(self.exit), raw.shape[1]), np.float32)
        self.logits[left] = (raw if outputs.logits is None else outputs.logits)[leaves]
        stay = np.flatnonzero(~leaves)  # (k,)
        if len(left) and len(stay):
            stream.keep(stay)
            if combination is not None:
                combination.keep(stay)
        self.there = there[stay]
        return stay

    def answers(self, cost: np.ndarray) -> Answers:
        """Return the answers, once all samples have left, with the cumulative cost of each exit, (L,) or (B, L)."""
        paid = cost[self.exit] if cost.ndim == 1 else cost[np.arange(len(self.exit)), self.exit]  # (B,)
        return Answers(self.prediction, self.exit, self.signal, self.confidence, paid, self.logits)
