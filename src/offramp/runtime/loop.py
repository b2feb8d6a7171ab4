"""The loop over the exits of a model in which samples that have left are removed. It needs NumPy only."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from offramp.cascades.building import Combination
from offramp.policies import Policy
from offramp.policies.base import reaches
from offramp.records import ExitOutputs
from offramp.runtime.regrouping import Regroup


@dataclass(frozen=True, eq=False)
class Answers:
    """What a model with early exits answers for B samples, in their order.

    Attributes
    ----------
    prediction : ndarray of shape (B,), int64
        Predicted classes. These are the predictions of the policy, which combines several exits for some policies.
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


class Stages(Protocol):
    """A model as a sequence of stages, each of which ends with an exit."""

    n_exits: int

    def start(self, x) -> Run:
        """Start with a batch of inputs."""

    def cost(self, x) -> np.ndarray:
        """Return the cumulative cost of each exit, (L,), or (B, L) if it differs between samples."""


def answer(
    stages: Stages,
    x,
    policy: Policy,
    threshold: np.ndarray,
    regroup: Regroup,
    combination: Combination | None = None,
) -> Answers:
    """Run a batch through the stages. Samples leave at the first exit at which the signal reaches the threshold.

    Parameters
    ----------
    stages : Stages
        A model with L exits.
    x : array or tensor
        B inputs.
    policy : Policy
    threshold : ndarray of shape () or (L − 1,)
        Threshold δ, shared by all exits or one per exit.
    regroup : callable
        Function of the exit, of the number of samples in the batch, and of the number of those that have not left. It
        returns whether the others are removed from the batch, or whether they are computed along with the rest.
    combination : Combination, optional
        For a cascade with an ensemble or temperatures.

    Returns
    -------
    Answers

    Raises
    ------
    ValueError
        If a logit is not finite, or if the outputs lack data that the policy needs.
    """
    size, last = len(x), stages.n_exits - 1
    batch = size  # number of samples in the batch, with those that have left but were not removed
    if size == 0:
        raise ValueError("expected at least one sample")
    prediction, exit_ = np.empty(size, np.int64), np.empty(size, np.int64)  # (B,)
    signal, confidence = np.empty(size), np.empty(size, np.float32)  # (B,)
    logits = np.empty(0)  # (B, C), once C is known
    deltas = np.broadcast_to(threshold, last)  # (L − 1,)
    run, stream = stages.start(x), policy.start(size, stages.n_exits)
    there = inside = np.arange(size)  # (n,): samples that have not left, and their positions in the batch
    for i in range(stages.n_exits):
        raw, similarity = run.step()  # (b, C), (b,)
        raw, similarity = raw[inside], None if similarity is None else similarity[inside]  # (n, C), (n,)
        outputs = ExitOutputs.of(raw, similarity) if combination is None else combination.step(raw)
        signals = stream.step(outputs)  # (n,)
        leaves = np.ones(len(there), bool) if i == last else reaches(signals, deltas[i])  # (n,)
        left = there[leaves]  # (k,)
        exit_[left], signal[left] = i, signals[leaves]
        prediction[left], confidence[left] = stream.prediction[leaves], outputs.measure("max_softmax")[leaves]
        if not logits.size:
            logits = np.empty((size, raw.shape[1]), np.float32)
        logits[left] = (raw if outputs.logits is None else outputs.logits)[leaves]
        if i == last and np.ndim(threshold) == 0:  # as in `policies.base.decide`
            nowhere = ~reaches(signals, threshold)  # (n,)
            prediction[there[nowhere]] = stream.fallback_prediction[nowhere]
        if leaves.all():
            break
        if leaves.any():
            stay = np.flatnonzero(~leaves)
            there, inside = there[stay], inside[stay]
            stream.keep(stay)
            if combination is not None:
                combination.keep(stay)
        if len(inside) < batch and regroup(i, batch, len(inside)):
            run.keep(inside)
            batch = len(inside)
            inside = np.arange(batch)
    cost = stages.cost(x)  # (L,) or (B, L)
    paid = cost[exit_] if cost.ndim == 1 else cost[np.arange(size), exit_]  # (B,)
    return Answers(prediction, exit_, signal, confidence, paid, logits)
