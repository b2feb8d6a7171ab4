"""Decisions of a policy about samples whose exits come in one after another."""

import numpy as np

from offramp.policies.base import REJECTED, Policy, reaches
from offramp.records import ExitOutputs
from offramp.records.outputs import needed_prediction


class Deciding:
    """The decisions on n samples, exit by exit. They are those of `decide` on a record of the same outputs.

    Parameters
    ----------
    policy : Policy
    threshold : ndarray of shape () or (L − 1,)
        Threshold δ, checked (see `checked_threshold`).
    n, exits : int
        Numbers of samples and of exits L.
    first : int
        Number of samples before these, as for `Policy.start`.
    audited : ndarray of shape (n,), bool, optional
        Samples that run to the last exit in any case. Their answer is that of the exit at which they leave.
    reject_below : float
    abstain_below : ndarray of shape () or (L − 1,)
        As for `decide`, checked.

    Attributes
    ----------
    stream : Stream
    there : ndarray of shape (m,), int64
        Positions of the samples that the next exit must run on: those that have not left, and audited ones.
    gone : ndarray, bool
        Which of the samples that the latest exit ran on left there.
    exit, answer, signal, left : ndarray of shape (n,)
        For samples that have left: the exit, counted from 0, the answer, or −1 if it is rejected, and the signal.
    """

    def __init__(
        self,
        policy: Policy,
        threshold: np.ndarray,
        n: int,
        exits: int,
        *,
        first: int = 0,
        audited: np.ndarray | None = None,
        reject_below: float = -np.inf,
        abstain_below: float | np.ndarray = -np.inf,
    ) -> None:
        self.stream = policy.start(n, exits, first=first)
        self.threshold, self.deltas = threshold, np.broadcast_to(threshold, exits - 1)  # (L − 1,)
        self.reject_below, self.abstain_below = reject_below, np.broadcast_to(abstain_below, exits - 1)  # (L − 1,)
        self.audited = np.zeros(n, bool) if audited is None else audited
        self.there, self.left, self.gone = np.arange(n), np.zeros(n, bool), np.zeros(0, bool)
        self.exit, self.answer, self.signal = np.full(n, exits - 1), np.zeros(n, np.int64), np.zeros(n)

    def step(self, outputs: ExitOutputs) -> np.ndarray:
        """Take the outputs of the next exit for the samples in `there`.

        Returns
        -------
        ndarray of shape (k,)
            Positions, among these samples, of those that the next exit must run on.

        Raises
        ------
        ValueError
            If the outputs lack what the policy needs, or as for `Stream.step`.
        """
        stream, there = self.stream, self.there
        signal = stream.step(outputs)  # (m,)
        self._read(outputs)
        i, last, estimate = stream.exit, stream.is_last, stream.estimate
        answer = needed_prediction(stream.prediction, stream.policy.name)  # (m,)
        leaves = np.ones(len(there), bool) if last else reaches(signal, self.deltas[i])  # (m,)
        if last and np.ndim(self.threshold) == 0:  # as in `decide`
            nowhere = ~reaches(signal, self.threshold)  # (m,)
            answer = np.where(nowhere, needed_prediction(stream.fallback_prediction, stream.policy.name), answer)
            if estimate is not None and stream.fallback_estimate is not None:
                estimate = np.where(nowhere, stream.fallback_estimate, estimate)
        if self.reject_below > -np.inf:
            answer = np.where(reaches(self._needed(estimate), self.reject_below), answer, REJECTED)
        if not last and self.abstain_below[i] > -np.inf:
            abstains = ~leaves & ~reaches(self._needed(estimate), self.abstain_below[i])  # (m,)
            leaves, answer = leaves | abstains, np.where(abstains, REJECTED, answer)
        self.gone = leaves & ~self.left[there]
        new = there[self.gone]
        self.exit[new], self.answer[new], self.signal[new] = i, answer[self.gone], signal[self.gone]
        self.left[new] = True
        stay = np.flatnonzero(self.audited[there] | ~self.left[there]) if not last else np.empty(0, np.int64)  # (k,)
        if not last and len(stay) < len(there):
            stream.keep(stay)
        self.there = there[stay]
        return stay

    def _read(self, outputs: ExitOutputs) -> None:
        """Remember what is needed of the samples in `there` at the exit `stream.exit`."""

    def _needed(self, estimate: np.ndarray | None) -> np.ndarray:
        if estimate is None:
            raise ValueError(f"{self.stream.policy.name}: rejection needs max softmax, but these outputs have none")
        return estimate

    def paid(self, cost: np.ndarray) -> np.ndarray:
        """Return what each sample has paid, (n,), from the cumulative cost of each exit, (L,) or (n, L)."""
        ran = np.where(self.audited, self.stream.needed_exits() - 1, self.exit)  # (n,)
        return cost[ran] if np.ndim(cost) == 1 else cost[np.arange(len(ran)), ran]
