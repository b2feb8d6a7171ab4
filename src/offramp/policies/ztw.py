"""Zero Time Waste (ZTW): the prediction at an exit is that of an ensemble of this exit and all earlier ones."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from offramp.policies.base import Policy
from offramp.policies.ensembles import below_top, weighted_sum, with_member
from offramp.policies.newton import Derivatives, minimise
from offramp.policies.stream import Stream
from offramp.records import ExitOutputs, ExitRecord

PENALTY = 1e-4  # weight of the penalty on the squared distance from equal weights and zero bias


@dataclass
class ZTW(Policy):
    """Exit once the ensemble of this exit and all earlier exits is confident enough (the ensembling of ZTW).

    With p_j the probabilities of exit j, the ensemble at exit i is

    - geometric: softmax(Σ_{j ≤ i} a_ij · ln p_j + b_i), with a weight a_ij ≥ 0 per exit and a bias per class;
    - arithmetic: Σ_{j ≤ i} v_ij · p_j, with weights v_ij ≥ 0 that sum to 1.

    The prediction is the most probable class of the ensemble, and the signal is its probability. The other part of ZTW,
    cascade connections, is a property of the model and is not included.

    The weights minimise the mean negative log-likelihood on validation data. The paper learns a_ij = exp(w_ij) by
    gradient descent. Optimising the weights themselves makes the problem convex, and Newton's method finds the single
    minimum (our choice; a weight can then be 0). A penalty of 10⁻⁴ / 2 times the squared distance from equal weights
    and zero bias is added to the loss, so that the minimum is finite for separable data, too (our choice).

    Records must contain logits. The time to fit geometric ensembles is proportional to N · L · C · (C + L²).

    Parameters
    ----------
    ensemble : {"geometric", "arithmetic"}
        Kind of ensemble. The paper proposes geometric ensembles and compares them with arithmetic ones.
    """

    ensemble: Literal["geometric", "arithmetic"] = "geometric"

    name = "ztw"
    rule = (
        "maximum probability of the weighted ensemble of this exit and all earlier exits ≥ δ; the ensemble also gives "
        "the prediction"
    )
    paper = "Zero Time Waste (NeurIPS 2021)"
    claims_accuracy = True
    answers_together = True
    needs_logits = True

    def _fit(self, record: ExitRecord) -> dict[str, np.ndarray]:
        fit = {"geometric": _fit_geometric, "arithmetic": _fit_arithmetic}[self.ensemble]
        logits = record.needed_logits(self.name)  # (N, L, C)
        return fit(logits, record.needed_prediction(self.name), record.needed_labels(f"fitting {self.name}"))

    def _step(self, outputs: ExitOutputs, stream: Stream) -> np.ndarray:
        from scipy.special import softmax

        member = below_top(outputs.needed_logits(self.name), outputs.needed_prediction(self.name))  # (n, C)
        if self.ensemble == "arithmetic":
            member = softmax(member, axis=-1)
        together = weighted_sum(self._learned()["weights"][stream.exit], with_member(stream, member))  # (n, C)
        if self.ensemble == "arithmetic":
            stream.prediction = together.argmax(axis=-1)
            return _of_class(together, stream.prediction)
        answer = ExitOutputs.of(together + self._learned()["bias"][stream.exit].astype(np.float32))
        stream.prediction = answer.prediction
        return answer.score()


def _of_class(values: np.ndarray, classes: np.ndarray) -> np.ndarray:
    return values[np.arange(len(values)), classes]  # (n, C), (n,) → (n,)


def _fit_geometric(logits: np.ndarray, prediction: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    from offramp._kernels.ztw import TILE, geometric_derivatives  # imported here, because importing Numba takes time

    n_samples, n_exits, n_classes = logits.shape
    members = np.zeros((-(-n_samples // TILE), n_exits, n_classes, TILE), np.float32)
    for t, tile in enumerate(members):
        rows = slice(t * TILE, (t + 1) * TILE)
        below = below_top(logits[rows].reshape(-1, n_classes), prediction[rows].reshape(-1))  # (n · L, C)
        tile[:, :, : len(labels[rows])] = below.reshape(-1, n_exits, n_classes).transpose(1, 2, 0)
    weights, bias = np.zeros((n_exits, n_exits)), np.zeros((n_exits, n_classes))

    def derivatives(at):
        k = len(at) - n_classes
        gradient, hessian = np.zeros(len(at)), np.zeros((len(at), len(at)))
        parts = at[:k].astype(np.float32), at[k:].astype(np.float32)
        loss = geometric_derivatives(members, labels, *parts, gradient, hessian)
        hessian += np.tril(hessian, -1).T
        return loss / n_samples, gradient / n_samples, hessian / n_samples

    for i in range(n_exits):
        centre = np.append(_equal(i + 1), np.zeros(n_classes))
        start = np.append(_with_one_more(weights[i - 1, :i]), bias[i - 1])
        found = _minimise(derivatives, centre, start, bounded=i + 1)
        weights[i, : i + 1], bias[i] = found[: i + 1], found[i + 1 :]
    return {"weights": weights, "bias": bias}


def _fit_arithmetic(logits: np.ndarray, prediction: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    from scipy.special import softmax

    n_samples, n_exits, _ = logits.shape
    of_label = np.empty((n_exits, n_samples))  # (L, N): probability of the label at each exit
    for j in range(n_exits):
        of_label[j] = _of_class(softmax(below_top(logits[:, j], prediction[:, j]), axis=-1), labels)
    of_label = np.maximum(of_label, np.finfo(np.float32).tiny)
    weights = np.zeros((n_exits, n_exits))

    def derivatives(at):
        # The sum of the weights in the loss limits their scale: it is 1 at the minimum
        with np.errstate(divide="ignore"):  # weights that are all 0 may be tried
            mixed = np.einsum("j,jn->n", at, of_label[: len(at)])  # (N,)
            share = of_label[: len(at)] / mixed  # (k, N)
            loss = at.sum() - np.log(mixed).mean()
        return loss, 1 - share.mean(axis=1), np.einsum("jn,kn->jk", share, share) / n_samples

    for i in range(n_exits):
        start = _with_one_more(weights[i - 1, :i])
        found = _minimise(derivatives, _equal(i + 1), start, bounded=i + 1)
        weights[i, : i + 1] = found / found.sum()
    return {"weights": weights}


def _equal(k: int) -> np.ndarray:
    return np.full(k, 1 / k)


def _with_one_more(weights: np.ndarray) -> np.ndarray:
    """Return initial weights (k,): those of k − 1 members, scaled, followed by their average; or 1 if k is 1."""
    k = len(weights) + 1
    return np.append(weights * (k - 1) / k, weights.sum() / k) if k > 1 else np.ones(1)


def _minimise(derivatives: Derivatives, centre: np.ndarray, start: np.ndarray, bounded: int) -> np.ndarray:
    """Minimise a convex loss plus the penalty, which is 0 at `centre`. The first `bounded` weights must be ≥ 0."""

    def penalised(at):
        loss, gradient, hessian = derivatives(at)
        away = at - centre
        return loss + PENALTY / 2 * away @ away, gradient + PENALTY * away, hessian + PENALTY * np.eye(len(at))

    return minimise(penalised, start, bounded)
