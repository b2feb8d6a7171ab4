"""The loop over the exits of a model in which samples that have left are removed. It needs NumPy only."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from offramp.cascades.building import Combination
from offramp.online import Online
from offramp.online.online import Deciding as OnlineDeciding
from offramp.policies import Policy
from offramp.policies.base import checked_rejection, checked_threshold
from offramp.policies.deciding import Deciding
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
        Cumulative cost of this exit, or that of the last exit for audited samples of an online policy.
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
    online : Online or None
        The online policy, which decides instead of `policy` and `threshold`: those were its own at the start.
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
        policy: Policy | Online,
        threshold,
        regroup: str | int,
        combination: Callable[[], Combination] | None = None,
        reject_below: float = -np.inf,
        abstain_below: float | np.ndarray = -np.inf,
    ) -> None:
        self.online = policy if isinstance(policy, Online) else None
        if isinstance(policy, Online):
            _check_online(policy, n_exits, threshold, reject_below, abstain_below)
            threshold = policy.threshold
            policy = policy.policy
        policy.start(0, n_exits)
        regrouping(regroup, None)
        if combination is not None:
            combination()  # raises its errors here
        self.n_exits, self.policy, self.regroup, self.combination = n_exits, policy, regroup, combination
        self.threshold, self.reject_below = checked_threshold(threshold, n_exits), checked_rejection(reject_below)
        self.abstain_below = checked_threshold(abstain_below, n_exits, "abstain_below")
        self.times: Times | None = None

    def deciding(self, n: int, ids=None) -> Deciding:
        """Start to decide on n samples, whose names are `ids` (n,), which online policies need for feedback."""
        if self.online is None:
            if ids is not None:
                raise ValueError("ids are names of samples for an online policy; expected none")
            return Deciding(
                *(self.policy, self.threshold, n, self.n_exits),
                reject_below=self.reject_below,
                abstain_below=self.abstain_below,
            )
        if ids is None or len(ids) != n:
            raise ValueError(f"an online policy needs ids, one name for each of the {n} samples, for feedback")
        return self.online.begin(ids)

    @abstractmethod
    def start(self, x) -> Run:
        """Start with a batch of inputs."""

    @abstractmethod
    def cost(self, x) -> np.ndarray:
        """Return the cumulative cost of each exit, (L,), or (B, L) if it differs between samples."""

    def synchronize(self) -> None:  # noqa: B027
        """Wait for a device that computes on its own."""

    def __call__(self, x, ids=None) -> Answers:
        """Answer a batch. Samples leave at the first exit at which the signal reaches the threshold.

        Parameters
        ----------
        x : array or tensor of shape (B, …)
            Inputs of the model: images, or texts as padded token ids.
        ids : array-like of shape (B,) of int, optional
            Names of the samples, by which an online policy takes feedback. It needs them.

        Returns
        -------
        Answers

        Raises
        ------
        ValueError
            If the batch is empty, if a logit is not finite, if the outputs lack data that the policy needs, or if ids
            are missing or not new.
        """
        decisions, regroup = Decisions(self, len(x), ids), regrouping(self.regroup, self.times)
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
    """The decisions about B samples, exit by exit, and the outputs of the exits at which they leave.

    Parameters
    ----------
    stages : Stages
        The model, with its policy and threshold.
    size : int
        Number of samples B.
    ids : array-like of shape (B,) of int, optional
        Names of the samples, for online policies.

    Raises
    ------
    ValueError
        If there are no samples, or as for `Online.begin`.
    """

    def __init__(self, stages: Stages, size: int, ids=None) -> None:
        if size == 0:
            raise ValueError("expected at least one sample")
        self.combination = None if stages.combination is None else stages.combination()
        self.deciding = stages.deciding(size, ids)
        self.confidence = np.empty(size, np.float32)  # (B,)
        self.logits = np.empty(0)  # (B, C), once C is known

    def step(self, raw: np.ndarray, similarity: np.ndarray | None) -> np.ndarray:
        """Take the logits (n, C) and similarities (n,) of the next exit, for the n samples that it ran on.

        Returns
        -------
        ndarray of shape (k,)
            Positions of those that the next exit must run on, among the n samples.

        Raises
        ------
        ValueError
            If a logit is not finite, or if the outputs lack data that the policy needs.
        """
        deciding, combination = self.deciding, self.combination
        outputs = ExitOutputs.of(raw, similarity) if combination is None else combination.step(raw)
        there = deciding.there  # (n,)
        stay = deciding.step(outputs)  # (k,)
        left = there[deciding.gone]
        self.confidence[left] = outputs.measure("max_softmax")[deciding.gone]
        if not self.logits.size:
            self.logits = np.empty((len(self.confidence), raw.shape[1]), np.float32)
        self.logits[left] = (raw if outputs.logits is None else outputs.logits)[deciding.gone]
        if combination is not None and 0 < len(stay) < len(there):
            combination.keep(stay)
        return stay

    def answers(self, cost: np.ndarray) -> Answers:
        """Return the answers, once all samples have left, with the cumulative cost of each exit, (L,) or (B, L)."""
        its = self.deciding
        if isinstance(its, OnlineDeciding):
            its.finish(cost)
        return Answers(its.answer, its.exit, its.signal, self.confidence, its.paid(cost), self.logits)


def _check_online(online: Online, n_exits: int, threshold, reject_below, abstain_below) -> None:
    if threshold is not None:
        raise ValueError("threshold: an online policy has its own; expected None")
    if np.any(np.append(abstain_below, reject_below) != -np.inf):
        raise ValueError("an online policy does not reject; expected neither reject_below nor abstain_below")
    if online.exits != n_exits:
        raise ValueError(f"the model has {n_exits} exits; the online policy is for {online.exits}")
