"""Decisions of a policy as the exits come in: the state that it keeps of the earlier exits."""

from typing import TYPE_CHECKING, Any

import numpy as np

from offramp.records import ExitOutputs

if TYPE_CHECKING:
    from offramp.policies.base import Policy


class Stream:
    """Samples on the way through the exits of a model, as `Policy.start` returns it.

    Call `step` with the outputs of each exit, and `keep` after samples have left.

    Attributes
    ----------
    policy : Policy
    n : int
        Number of samples that are still there.
    exits : int or None
        Number of exits L, or None if it is not known.
    first : int
        Number of samples before these.
    exit : int
        The latest exit, counted from 0; −1 before the first step.
    prediction : ndarray of shape (n,), int64
        Predictions of the policy at the latest exit: those of the exit, except for policies in which several exits
        answer together. None before the first step, and if the outputs have no predictions.
    fallback_prediction : ndarray of shape (n,), int64
        Predictions for samples that have reached a shared threshold at no exit up to the latest one: those of the
        `fallback` of the policy, or otherwise `prediction`. None before the first step.
    estimate : ndarray of shape (n,), float64
        Estimates of `Policy.estimate` for `prediction`. None before the first step, and if there is no max softmax.
    fallback_estimate : ndarray of shape (n,), float64
        The same for `fallback_prediction`.
    past : dict of str to ndarray of shape (n, …), or to tuples of such
        What the policy needs of the earlier exits. `keep` selects samples in all of them.
    """

    def __init__(self, policy: "Policy", n: int, exits: int | None, first: int):
        self.policy, self.n, self.exits, self.first = policy, n, exits, first
        self.exit = -1
        self.prediction: np.ndarray | None = None
        self.fallback_prediction: np.ndarray | None = None
        self.estimate: np.ndarray | None = None
        self.fallback_estimate: np.ndarray | None = None
        self.past: dict[str, Any] = {}
        self._rank: np.ndarray | None = None  # (n,): highest rank among the exits up to the latest

    @property
    def is_last(self) -> bool:
        """Whether the latest exit is the last one of the model."""
        return self.exit + 1 == self.exits

    def needed_exits(self) -> int:
        """Return the number of exits. If it is not known, raise ValueError, which names the policy that needs it."""
        if self.exits is None:
            raise ValueError(f"{self.policy.name} needs the number of exits: start(n, exits=L)")
        return self.exits

    def step(self, outputs: ExitOutputs) -> np.ndarray:
        """Take the outputs of the next exit and return the signal.

        Parameters
        ----------
        outputs : ExitOutputs
            Outputs of the next exit for the n samples that are still there, in their order.

        Returns
        -------
        ndarray of shape (n,), float64
            Signal, equal to that of `Policy.signal`. A sample leaves if it is at least the threshold (see `reaches`).

        Raises
        ------
        ValueError
            If there are no more exits, if the outputs are those of another number of samples or of classes, if they
            lack data that the policy needs, or if the signal contains NaN.
        """
        policy = self.policy
        if self.is_last:
            raise ValueError(f"{policy.name}: step {self.exit + 2}, but the number of exits is {self.exits}")
        if outputs.prediction is not None and np.shape(outputs.prediction) != (self.n,):
            raise ValueError(
                f"{policy.name}: exit {self.exit + 2} has predictions of shape {np.shape(outputs.prediction)}; "
                f"expected ({self.n},), one for each sample that is still there"
            )
        if policy.needs_logits and outputs.logits is None:
            raise ValueError(f"{policy.name} needs logits, but exit {self.exit + 2} has none")
        policy._check_fits(self.exits, outputs.classes)
        self.exit += 1
        self.prediction = outputs.prediction
        signal = np.asarray(policy._step(outputs, self), np.float64)  # (n,)
        if signal.shape != (self.n,):
            raise ValueError(f"{policy.name}: the signal has shape {signal.shape}; expected ({self.n},)")
        if np.isnan(signal).any():
            raise ValueError(f"{policy.name}: the signal has NaN; expected numbers")
        if policy.claims_accuracy:
            self.estimate = signal
        elif "max_softmax" in outputs.confidence:
            self.estimate = outputs.measure("max_softmax").astype(np.float64)
        rank = policy._rank(outputs, signal)
        if rank is None or self._rank is None or self.prediction is None:
            self.fallback_prediction, self.fallback_estimate = self.prediction, self.estimate
        else:
            latest = rank >= self._rank  # (n,); the latest exit in case of ties
            self.fallback_prediction = _either(latest, self.prediction, self.fallback_prediction)
            self.fallback_estimate = _either(latest, self.estimate, self.fallback_estimate)
            rank = np.maximum(rank, self._rank)
        self._rank = rank
        return signal

    def keep(self, rows: np.ndarray) -> None:
        """Drop the samples that have left.

        Parameters
        ----------
        rows : array-like of shape (k,) of int or of shape (n,) of bool
            Positions of the samples that stay, without duplicates, in any order, or a mask of them.

        Raises
        ------
        ValueError
            If a position is out of range or repeated, or if a mask has another length.
        """
        places = np.asarray(rows)
        if places.dtype == bool and places.shape == (self.n,):
            places = np.flatnonzero(places)
        elif places.size == 0 and places.dtype != bool:
            places = places.reshape(-1).astype(np.int64)
        elif (
            (places.dtype.kind not in "iu" or places.ndim != 1)
            or (places.min() < 0 or places.max() >= self.n)
            or len(np.unique(places)) < len(places)
        ):
            raise ValueError(
                f"keep: expected a mask of {self.n} samples or different positions from 0 to {self.n - 1}; "
                f"got {places.dtype} {np.array2string(places, threshold=8, separator=', ').replace(chr(10), '')}"
            )
        self.n = len(places)
        for name in ("prediction", "fallback_prediction", "estimate", "fallback_estimate", "_rank"):
            values = getattr(self, name)
            setattr(self, name, None if values is None else values[places])
        self.past = {
            name: tuple(each[places] for each in values) if isinstance(values, tuple) else values[places]
            for name, values in self.past.items()
        }


def _either(first: np.ndarray, values: np.ndarray | None, others: np.ndarray | None) -> np.ndarray | None:
    """Return the values (n,) where `first` is true, and the others elsewhere. None if there are none."""
    return None if values is None or others is None else np.where(first, values, others)
