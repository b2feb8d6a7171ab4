"""Deferral in cascades: a vote inside a tier of models, and a learnt estimate of what going on would gain."""

from dataclasses import dataclass, field

import numpy as np

from offramp.policies.base import Policy
from offramp.policies.newton import minimise
from offramp.records import ExitRecord
from offramp.records.confidence import MEASURES


@dataclass
class Agreement(Policy):
    """Exit once the models of a tier agree: agreement-based deferral (a vote inside a tier).

    The exits are taken in tiers of so many, one after another; the last tier may be smaller. Inside a tier nobody
    leaves: the signal is −∞ at all its exits but the last. There the tier votes: the answer is the majority of its
    predictions, of tied classes the one that the latest exit predicts (our choice: the dearest model), and the signal
    is the share of the tier's exits that predict it. Earlier tiers have no vote in it. At exits inside a tier the
    answer is the exit's own; it matters at δ = −∞ only, which is the first exit.

    A tier's models may run side by side; the record's costs, which add up, have all of them paid for.

    Parameters
    ----------
    tier : int
        How many exits are a tier. With 1 every exit agrees with itself: the signal is 1.
    """

    tier: int = 2

    name = "agreement"
    rule = "the share of the tier's exits that predict what its majority does, at its last exit, ≥ δ"
    paper = "Agreement-Based Cascading (2024, arXiv 2407.02348)"

    def prediction(self, record: ExitRecord) -> np.ndarray:
        """The tiers' answers at their last exits, elsewhere the exits' own, (N, L)."""
        return self._votes(record)[0]

    def _signal(self, record: ExitRecord) -> np.ndarray:
        return self._votes(record)[1]

    def _votes(self, record: ExitRecord) -> tuple[np.ndarray, np.ndarray]:
        """Answers and signal, (N, L) each."""
        answers = record.prediction.copy()  # (N, L)
        agreement = np.full(answers.shape, -np.inf)  # (N, L)
        for start in range(0, record.n_exits, self.tier):
            members = record.prediction[:, start : start + self.tier]  # (N, T)
            size = members.shape[1]
            votes = (members[:, :, None] == members[:, None]).sum(axis=2)  # (N, T), for what each predicts
            winner = size - 1 - votes[:, ::-1].argmax(axis=1)  # (N,)
            answers[:, start + size - 1] = np.take_along_axis(members, winner[:, None], axis=1)[:, 0]
            agreement[:, start + size - 1] = votes.max(axis=1) / size
        return answers, agreement


@dataclass
class LearnedDeferral(Policy):
    """Exit once no later exit is estimated to gain enough accuracy for what it costs: post-hoc learnt deferral.

    At each exit i but the last, P_j is the estimated chance that exit j is right, for each j ≥ i, given what exit i
    shows; c is the mean cumulative cost of the exits on validation, of L exits. The signal is

        S_i = −max over j > i of (P_j − P_i) · c_L / (c_j − c_i),

    and 0 at the last exit, where nothing is left to gain. With δ = −λ a sample goes on exactly where some later exit's
    estimated gain in accuracy exceeds λ times its extra cost in units of the full model's cost. That is the papers'
    optimal rule for two models, the gain compared with the cost of deferring; the maximum over all later exits is our
    choice. δ = 0 goes on wherever any gain at all is estimated.

    The estimates are logistic regressions on validation (our choice). Exit i shows those of max softmax, margin and
    entropy that the validation record has, and whether it predicts what the exit before it did; standardised, where
    one that does not vary says nothing. The least of

        Σ_n ln(1 + exp(z_n)) − y_n · z_n + penalty / 2 · (|w|² + (b − b_0)²),    z_n = w · x_n + b, y_n ∈ {0, 1},

    is found by Newton's method. b_0 is the log-odds of the accuracy of exit j, half a sample added to the right and to
    the wrong ones, so that there is one finite optimum even where all are right; a large penalty gives the accuracies.

    Parameters
    ----------
    penalty : float
        Of the squared weights; above 0.
    """

    penalty: float = field(default=1.0, metadata={"above": 0})

    name = "learned-deferral"
    rule = "the most that a later exit is estimated to gain for its share of the full cost, negated, ≥ δ"
    paper = "Narasimhan et al. (NeurIPS 2022); Jitkrittum et al. (NeurIPS 2023)"

    def _fit(self, record: ExitRecord) -> dict[str, np.ndarray]:
        record.needed_labels(f"fitting {self.name}")
        used = np.array([measure in record.measures for measure in MEASURES])  # (3,)
        n_exits, n_features = record.n_exits, used.sum() + 1
        mean, scale = np.zeros((2, n_exits - 1, n_features))  # (L − 1, F) each
        weights = np.zeros((n_exits - 1, n_exits, n_features + 1))  # (L − 1, L, F + 1): of exit j at exit i, bias last
        for i in range(n_exits - 1):
            shown = _shown(record, i, used)  # (F, N)
            mean[i], scale[i] = shown.mean(axis=1), shown.std(axis=1)
            scale[i, np.ptp(shown, axis=1) == 0] = np.inf
            x = _standardised(shown, mean[i], scale[i])
            for j in range(i, n_exits):
                weights[i, j] = fit_logistic(x, record.correct[:, j], self.penalty)
        return {"measures": used, "mean": mean, "scale": scale, "weights": weights, "cost": record.cost}

    def _signal(self, record: ExitRecord) -> np.ndarray:
        from scipy.special import expit

        used, mean, scale, weights, cost = (self.state[n] for n in ("measures", "mean", "scale", "weights", "cost"))
        signal = np.zeros(record.prediction.shape)  # (N, L)
        for i in range(record.n_exits - 1):
            x = _standardised(_shown(record, i, used), mean[i], scale[i])  # (F + 1, N)
            # Not by BLAS, whose rounding of a sample depends on how many there are
            chance = expit((weights[i, i:, :, None] * x).sum(axis=1))  # (L − i, N): P_i … P_L
            price = (cost[i + 1 :] - cost[i]) / cost[-1]  # (L − i − 1,)
            signal[:, i] = -((chance[1:] - chance[0]) / price[:, None]).max(axis=0)
        return signal


def fit_logistic(x: np.ndarray, right: np.ndarray, penalty: float) -> np.ndarray:
    """The penalised logistic regression of `LearnedDeferral`.

    Parameters
    ----------
    x : ndarray of shape (K, N)
        Features; the last row is ones, its weight the bias.
    right : ndarray of shape (N,), bool
    penalty : float
        Above 0.

    Returns
    -------
    ndarray of shape (K,)
    """
    from scipy.special import expit

    centre = np.zeros(len(x))
    centre[-1] = np.log((right.sum() + 0.5) / ((~right).sum() + 0.5))

    def derivatives(at):
        # Not by BLAS, whose rounding of a sample depends on how many there are
        z = np.einsum("k,kn->n", at, x)  # (N,)
        chance, away = expit(z), at - centre
        loss = np.logaddexp(0, z).sum() - z[right].sum() + penalty / 2 * np.sum(away**2)
        gradient = np.einsum("kn,n->k", x, chance - right) + penalty * away
        hessian = np.einsum("kn,ln->kl", x * (chance * (1 - chance)), x) + penalty * np.eye(len(x))
        return loss, gradient, hessian

    return minimise(derivatives, centre)


def _shown(record: ExitRecord, i: int, used: np.ndarray) -> np.ndarray:
    """What exit i shows of each sample: the measures used, and whether it agrees with the exit before; (F, N)."""
    agrees = record.prediction[:, i] == record.prediction[:, max(i - 1, 0)]  # (N,): the first one always does
    measures = [record.measure(measure)[:, i] for measure, is_used in zip(MEASURES, used) if is_used]
    return np.stack([*measures, agrees]).astype(np.float64)


def _standardised(shown: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """(F, N) → (F + 1, N), ones at the end."""
    return np.vstack([(shown - mean[:, None]) / scale[:, None], np.ones(shown.shape[1])])
