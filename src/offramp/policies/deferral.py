"""Deferral and routing: a vote of the models in a tier, and learned estimates of the gain of later exits."""

from dataclasses import dataclass, field

import numpy as np

from offramp.policies.base import Policy
from offramp.policies.regression import fit_logistic, location
from offramp.policies.stream import Stream
from offramp.records import ExitOutputs, ExitRecord
from offramp.records.confidence import SCORES


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
    needs = ("prediction",)

    def _begin(self, stream: Stream) -> None:
        stream.needed_exits()  # the last tier may be smaller

    def _step(self, outputs: ExitOutputs, stream: Stream) -> np.ndarray:
        tier = (*stream.past.get("tier", ()), outputs.needed_prediction(self.name))
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
    signal is::

        S_i = −max over j > i of (P_j − P_i) · c_L / (c_j − c_i),

    and 0 at the last exit. With δ = −λ, a sample continues exactly if the estimated gain in accuracy of a later exit is
    larger than λ times its additional cost, in units of the cost of the full model. For two models, this is the optimal
    rule of the papers, which compares the gain with the cost of deferral. The maximum over all later exits is our
    choice. With δ = 0, a sample continues if any gain is estimated.

    P_j is estimated by logistic regression on validation data (our choice). The features x of exit i are those of max
    softmax, margin, entropy and mean token margin that the validation record contains, and whether the exit predicts
    the same class as the exit before it (if there are predictions). Features are standardised; constant features have
    no effect. The weights w and the bias b minimise::

        Σ_n ln(1 + exp(z_n)) − y_n · z_n + penalty / 2 · (|w|² + (b − b_0)²),    z_n = w · x_n + b, y_n ∈ [0, 1],

    where y_n is 1 if exit j is correct and 0 otherwise, or the quality of its answer. The minimum is found by Newton's
    method. b_0 is the log-odds of the accuracy of exit j, with half a sample added to the correct and to the wrong
    ones, so that there is a single finite minimum even if all predictions are correct. With a large penalty, the
    estimates approach the accuracies of the exits.

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
    needs = ("prediction",)  # or a confidence

    def _fit(self, record: ExitRecord) -> dict[str, np.ndarray]:
        correct = record.needed_correct(f"fitting {self.name}")  # (N, L)
        used = np.array([measure in record.measures for measure in SCORES])  # (4,)
        n_exits, n_features = record.n_exits, used.sum() + (record.prediction is not None)
        if n_features == 0:
            raise ValueError(f"{self.name} needs confidences or predictions, but this record has neither")
        mean, scale = np.zeros((2, n_exits - 1, n_features))  # (L − 1, F) each
        weights = np.zeros((n_exits - 1, n_exits, n_features + 1))  # (L − 1, L, F + 1): [i, j]; bias last
        for i in range(n_exits - 1):
            before = None if record.prediction is None else record.prediction[:, max(i - 1, 0)]  # (N,)
            shown = _shown(record.outputs(i, logits=False), before, used)  # (F, N)
            mean[i], scale[i] = location(shown, axis=1)
            x = _standardised(shown, mean[i], scale[i])
            for j in range(i, n_exits):
                weights[i, j] = fit_logistic(x, correct[:, j], self.penalty)
        return {"measures": used, "mean": mean, "scale": scale, "weights": weights, "cost": record.cost}

    def _step(self, outputs: ExitOutputs, stream: Stream) -> np.ndarray:
        state = self._learned()
        used, mean, scale, weights, cost = (state[n] for n in ("measures", "mean", "scale", "weights", "cost"))
        i, before = stream.exit, None
        if mean.shape[1] > used.sum():  # fitted with predictions
            prediction = outputs.needed_prediction(self.name)
            before, stream.past["prediction"] = stream.past.get("prediction", prediction), prediction
        if stream.is_last:
            return np.zeros(stream.n)
        x = _standardised(_shown(outputs, before, used), mean[i], scale[i])  # (F + 1, n)
        return _least_gain(weights[i, i:], x, cost[i:])


@dataclass
class Router(Policy):
    """Choose an exit before any of them runs, by features of the sample: the quality that each is expected to have.

    In a router, only the chosen model runs and is paid; in a cascade, all models up to the chosen one. The record says
    which: that of a router has `metadata["costs"] = "router"` (see `cascades.router`), and its costs are those of each
    exit alone. This policy can be used with both.

    P_j is the estimated probability that exit j is correct (or the expected quality of its answer), given the features
    of the sample, `ExitRecord.features`. The signal is that of `LearnedDeferral`,

        S_i = −max over j > i of (P_j − P_i) · c_L / (c_j − c_i),

    and 0 at the last exit. With δ = −λ, the first exit with S_i ≥ δ is the one with the highest P_i − λ · c_i / c_L;
    of equal ones, it is the cheapest. All thresholds together therefore give every trade-off of quality and cost of
    this estimate. P_j is estimated by the logistic regression of `LearnedDeferral`, on the features of the validation
    samples.

    Parameters
    ----------
    penalty : float
        Weight of the penalty on squared weights. Must be above 0.
    """

    penalty: float = field(default=1.0, metadata={"above": 0})

    name = "router"
    rule = (
        "negated maximum over all later exits of the gain in accuracy that features of the sample predict, divided by "
        "the additional share of the full cost, ≥ δ"
    )
    paper = "routers of language models, such as RouteLLM (2024, arXiv 2406.18665)"
    reads_exits = False
    needs = ("features",)

    def _fit(self, record: ExitRecord) -> dict[str, np.ndarray]:
        correct = record.needed_correct(f"fitting {self.name}")  # (N, L)
        features = _features(record.features, self.name).T  # (F, N)
        mean, scale = location(features, axis=1)
        x = _standardised(features, mean, scale)
        weights = np.stack([fit_logistic(x, right, self.penalty) for right in correct.T])  # (L, F + 1)
        return {"mean": mean, "scale": scale, "weights": weights, "cost": record.cost}

    def _step(self, outputs: ExitOutputs, stream: Stream) -> np.ndarray:
        state = self._learned()
        mean, scale, weights, cost = (state[name] for name in ("mean", "scale", "weights", "cost"))
        if "features" not in stream.past:  # those of the first exit are used for all
            stream.past["features"] = _features(outputs.features, self.name)  # (n, F)
        features, i = stream.past["features"], stream.exit
        if features.shape[1] != len(mean):
            raise ValueError(f"{self.name} was fitted on {len(mean)} features, but there are {features.shape[1]}")
        if stream.is_last:
            return np.zeros(stream.n)
        return _least_gain(weights[i:], _standardised(features.T, mean, scale), cost[i:])


def _features(features: np.ndarray | None, what: str) -> np.ndarray:
    if features is None:
        raise ValueError(f"{what} needs features, but this record has none; make the record with features")
    return features


def _least_gain(weights: np.ndarray, x: np.ndarray, cost: np.ndarray) -> np.ndarray:
    """Return −max over j > i of (P_j − P_i) · c_L / (c_j − c_i), (n,), for the exits i … L.

    Parameters
    ----------
    weights : ndarray of shape (L − i + 1, F + 1)
        Weights of the logistic regression of P_i … P_L.
    x : ndarray of shape (F + 1, n)
    cost : ndarray of shape (L − i + 1,)
    """
    from scipy.special import expit

    # Without BLAS, whose rounding depends on the number of samples
    chance = expit((weights[:, :, None] * x).sum(axis=1))  # (L − i + 1, n): P_i … P_L
    price = (cost[1:] - cost[0]) / cost[-1]  # (L − i,)
    return -((chance[1:] - chance[0]) / price[:, None]).max(axis=0)


def _shown(outputs: ExitOutputs, before: np.ndarray | None, used: np.ndarray) -> np.ndarray:
    """Return the features of an exit, (F, n): the `used` measures, and whether it agrees with the exit before it.

    `before` (n,) are the predictions of the exit before it, or None without predictions. The first exit agrees with
    itself.
    """
    measures = [outputs.measure(measure) for measure, is_used in zip(SCORES, used) if is_used]
    agrees = [] if before is None else [outputs.prediction == before]
    return np.stack([*measures, *agrees]).astype(np.float64)


def _standardised(shown: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Standardise features (F, N) and append a row of ones: (F + 1, N)."""
    return np.vstack([(shown - mean[:, None]) / scale[:, None], np.ones(shown.shape[1])])
