"""Deferral in cascades: a vote of the models in a tier, and a learned estimate of the gain of later exits."""

from dataclasses import dataclass, field

import numpy as np

from offramp.policies.base import Policy
from offramp.policies.newton import minimise
from offramp.policies.stream import Stream
from offramp.records import ExitOutputs, ExitRecord
from offramp.records.confidence import MEASURES


@dataclass
class Agreement(Policy):
    """Exit once the models of a tier agree (agreement-based cascading).

    Consecutive exits are grouped into tiers of equal size; the last tier may be smaller. No sample leaves inside a
    tier: the signal is −∞ at all exits of a tier except the last. There, the exits of the tier vote. The prediction is
    the majority class, and the signal is the share of the exits of the tier that predict it. If classes are tied, the
    class that the latest exit predicts is used (our choice, because this is the most expensive model). Earlier tiers do
    not take part in the vote. At exits inside a tier, the prediction is that of the exit itself. This matters only for
    δ = −∞, which is the first exit.

    The models of a tier may run in parallel. The costs of the record are cumulative, so they include all of them.

    Parameters
    ----------
    tier : int
        Number of exits per tier. With 1, the signal is always 1.
    """

    tier: int = 2

    name = "agreement"
    rule = (
        "share of the exits in a tier that predict the majority class of the tier, at the last exit of the tier, ≥ δ; "
        "the majority class is the prediction"
    )
    paper = "Agreement-Based Cascading (2024, arXiv 2407.02348)"
    answers_together = True

    def _begin(self, stream: Stream) -> None:
        stream.needed_exits()  # the last tier may be smaller

    def _step(self, outputs: ExitOutputs, stream: Stream) -> np.ndarray:
        tier = (*stream.past.get("tier", ()), outputs.prediction)
        ends = stream.is_last or len(tier) == self.tier
        stream.past["tier"] = () if ends else tier
        if not ends:
            return np.full(stream.n, -np.inf)
        members = np.stack(tier, axis=1)  # (n, T)
        votes = (members[:, :, None] == members[:, None]).sum(axis=2)  # (n, T), votes for each prediction
        winner = len(tier) - 1 - votes[:, ::-1].argmax(axis=1)  # (n,)
        stream.prediction = members[np.arange(stream.n), winner]
        return votes.max(axis=1) / len(tier)


@dataclass
class LearnedDeferral(Policy):
    """Exit once no later exit has an estimated gain in accuracy that justifies its cost (post-hoc learned deferral).

    At each exit i except the last, P_j is the estimated probability that exit j is correct, for each j ≥ i, given the
    outputs of exit i. c_j is the mean cumulative cost of exit j on validation data, and L is the number of exits. The
    signal is

        S_i = −max over j > i of (P_j − P_i) · c_L / (c_j − c_i),

    and 0 at the last exit. With δ = −λ, a sample continues exactly if the estimated gain in accuracy of a later exit is
    larger than λ times its additional cost, in units of the cost of the full model. For two models, this is the optimal
    rule of the papers, which compares the gain with the cost of deferral. The maximum over all later exits is our
    choice. With δ = 0, a sample continues if any gain is estimated.

    P_j is estimated by logistic regression on validation data (our choice). The features x of exit i are those of max
    softmax, margin and entropy that the validation record contains, and whether the exit predicts the same class as the
    exit before it. Features are standardised; constant features have no effect. The weights w and the bias b minimise

        Σ_n ln(1 + exp(z_n)) − y_n · z_n + penalty / 2 · (|w|² + (b − b_0)²),    z_n = w · x_n + b, y_n ∈ {0, 1},

    where y_n is 1 if exit j is correct. The minimum is found by Newton's method. b_0 is the log-odds of the accuracy of
    exit j, with half a sample added to the correct and to the wrong ones, so that there is a single finite minimum even
    if all predictions are correct. With a large penalty, the estimates approach the accuracies of the exits.

    Parameters
    ----------
    penalty : float
        Weight of the penalty on squared weights. Must be above 0.
    """

    penalty: float = field(default=1.0, metadata={"above": 0})

    name = "learned-deferral"
    rule = (
        "negated maximum over all later exits of the estimated gain in accuracy, divided by the additional share of "
        "the full cost, ≥ δ"
    )
    paper = "Narasimhan et al. (NeurIPS 2022); Jitkrittum et al. (NeurIPS 2023)"

    def _fit(self, record: ExitRecord) -> dict[str, np.ndarray]:
        record.needed_labels(f"fitting {self.name}")
        used = np.array([measure in record.measures for measure in MEASURES])  # (3,)
        n_exits, n_features = record.n_exits, used.sum() + 1
        mean, scale = np.zeros((2, n_exits - 1, n_features))  # (L − 1, F) each
        weights = np.zeros((n_exits - 1, n_exits, n_features + 1))  # (L − 1, L, F + 1): [i, j]; bias last
        for i in range(n_exits - 1):
            shown = _shown(record.outputs(i, logits=False), record.prediction[:, max(i - 1, 0)], used)  # (F, N)
            mean[i], scale[i] = shown.mean(axis=1), shown.std(axis=1)
            scale[i, np.ptp(shown, axis=1) == 0] = np.inf
            x = _standardised(shown, mean[i], scale[i])
            for j in range(i, n_exits):
                weights[i, j] = fit_logistic(x, record.correct[:, j], self.penalty)
        return {"measures": used, "mean": mean, "scale": scale, "weights": weights, "cost": record.cost}

    def _step(self, outputs: ExitOutputs, stream: Stream) -> np.ndarray:
        from scipy.special import expit

        used, mean, scale, weights, cost = (self.state[n] for n in ("measures", "mean", "scale", "weights", "cost"))
        i, before = stream.exit, stream.past.get("prediction", outputs.prediction)
        stream.past["prediction"] = outputs.prediction
        if stream.is_last:
            return np.zeros(stream.n)
        x = _standardised(_shown(outputs, before, used), mean[i], scale[i])  # (F + 1, n)
        # Without BLAS, whose rounding depends on the number of samples
        chance = expit((weights[i, i:, :, None] * x).sum(axis=1))  # (L − i, n): P_i … P_L
        price = (cost[i + 1 :] - cost[i]) / cost[-1]  # (L − i − 1,)
        return -((chance[1:] - chance[0]) / price[:, None]).max(axis=0)


def fit_logistic(x: np.ndarray, right: np.ndarray, penalty: float) -> np.ndarray:
    """Fit the penalised logistic regression of `LearnedDeferral`.

    Parameters
    ----------
    x : ndarray of shape (K, N)
        Features. The last row contains ones; its weight is the bias.
    right : ndarray of shape (N,), bool
        Whether each prediction is correct.
    penalty : float
        Weight of the penalty. Must be above 0.

    Returns
    -------
    ndarray of shape (K,)
        Weights.
    """
    from scipy.special import expit

    centre = np.zeros(len(x))
    centre[-1] = np.log((right.sum() + 0.5) / ((~right).sum() + 0.5))

    def derivatives(at):
        # Without BLAS, whose rounding depends on the number of samples
        z = np.einsum("k,kn->n", at, x)  # (N,)
        chance, away = expit(z), at - centre
        loss = np.logaddexp(0, z).sum() - z[right].sum() + penalty / 2 * np.sum(away**2)
        gradient = np.einsum("kn,n->k", x, chance - right) + penalty * away
        hessian = np.einsum("kn,ln->kl", x * (chance * (1 - chance)), x) + penalty * np.eye(len(x))
        return loss, gradient, hessian

    return minimise(derivatives, centre)


def _shown(outputs: ExitOutputs, before: np.ndarray, used: np.ndarray) -> np.ndarray:
    """Return the features of an exit, (F, n): the `used` measures, and whether it agrees with the exit before it.

    `before` (n,) are the predictions of the exit before it. The first exit agrees with itself.
    """
    measures = [outputs.measure(measure) for measure, is_used in zip(MEASURES, used) if is_used]
    return np.stack([*measures, outputs.prediction == before]).astype(np.float64)


def _standardised(shown: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Standardise features (F, N) and append a row of ones: (F + 1, N)."""
    return np.vstack([(shown - mean[:, None]) / scale[:, None], np.ones(shown.shape[1])])
