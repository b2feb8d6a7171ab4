"""Optimal stopping: go on as long as going on, and then stopping as well as possible, is worth its price."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from offramp.policies.base import Policy, first_exit
from offramp.policies.ensembles import KINDS, Ensemble, of_record, shown_measure
from offramp.policies.regression import Splines, fit_ridge
from offramp.policies.stream import Stream
from offramp.records import ExitOutputs, ExitRecord
from offramp.records.confidence import SCORES

FEWEST = 100  # samples, below which nothing is learned
FOLDS = 5
RULES = 8  # thresholds on the prices of later exits that are tried, besides that of the full model
KNOTS = (0, 5)  # numbers of knots per feature that are tried
PENALTIES = (1.0, 10.0, 100.0, 1000.0)
BUDGETS = 9  # mean costs at which candidates are compared
CAUTION = 0.5  # standard errors by which a candidate must be better than max softmax
OWN = -1  # in place of a number of knots: the estimate that the answer is right is the signal


@dataclass
class Stopping(Policy):
    """Exit once going on, and then stopping as well as possible, is not worth its price (optimal stopping).

    For a price λ of the cost of the full model, the value of exit i for a sample is

        V_i(x_i) = max(P(right at i | x_i), E[V_{i+1}(x_{i+1}) | x_i] − λ · (c_{i+1} − c_i) / c_L),

    and V_L(x_L) = P(right at L | x_L), where x_i is what the exits up to i show. The signal is −λ_i, where λ_i is the
    price at which both terms are equal. It is an index, as that of Gittins: the highest ratio of the expected gain in
    accuracy to the expected additional cost,

        λ_i(x_i) = max over λ of E[right at τ − right at i | x_i] / E[(c_τ − c_i) / c_L | x_i],

    where τ is the first exit j > i with λ_j ≤ λ. With δ = −λ, the first exit whose signal is at least δ is the optimal
    one for the price λ. `LearnedDeferral` compares with single later exits, as if nothing were seen until then, and
    uses the answer of the exit. It remains as the rule of its papers.

    **Fit.** Exits are taken from the last to the first. Both expectations are ridge regressions on the features of exit
    i, for `RULES` values of λ (quantiles of the prices of the later exits) and for the full model. The prices of
    validation samples are predicted by regressions that were fitted on the other folds, so that later exits are as good
    on them as on new samples. The penalty is chosen on held-out folds. All of this is our choice.

    **Features.** The log-odds of max softmax, margin and mean token margin, and the logarithm of the entropy, as far as
    the record contains them; whether the exit agrees with the one before it, and for how long; the highest and the
    latest max softmax before it; the similarity of hidden states; and the probability of the ensemble.

    **Choice.** With few samples, a simpler signal is better. Compared are features without and with linear splines of 5
    knots, the estimated probability that the answer is right minus 1 (the signal if the last exit is always right), and
    the answers of the exits and of the ensemble. The accuracies at nine mean costs are averaged, on held-out folds. The
    candidate with the highest difference to max softmax, minus half its standard error, is used, or max softmax if no
    such difference is above 0, and for fewer than 100 samples.

    Gradient-boosted trees, and the predicted class as a feature, were no better on any record that was tried (see
    docs/results.md).

    Parameters
    ----------
    answer : {"ensemble", "exit"}
        Who answers. "ensemble": the running ensemble of the exits so far, if the choice above is for it: that of
        `offramp.policies.ensembles.Geometric` for records with logits and labels, and `Votes` for others. "exit":
        always the exit itself.
    target : {"label", "final"}
        "label": the answer is right, or its quality. "final": it agrees with the last exit, which needs no labels; the
        exits then answer themselves.
    """

    answer: Literal["ensemble", "exit"] = "ensemble"
    target: Literal["label", "final"] = "label"

    name = "stopping"
    rule = (
        "negated price at which going on, and then stopping as well as possible, is worth as much as stopping ≥ δ; the "
        "running ensemble can give the prediction"
    )
    paper = "Offramp's own rule; optimal stopping (Snell 1952; Gittins 1979)"
    needs = ("prediction",)  # or a confidence

    @property
    def answers_together(self) -> bool:
        return self._ensemble is not None

    @property
    def needs_logits(self) -> bool:
        return self._ensemble is not None and self._ensemble.needs_logits

    @property
    def _ensemble(self) -> Ensemble | None:
        """The kind of ensemble that answers, of the fitted policy."""
        return None if self.state is None else KINDS[int(self.state["ensemble"][0])]

    def _fit(self, record: ExitRecord) -> dict[str, np.ndarray]:
        if self.target == "final":
            prediction = record.needed_prediction(f"fitting {self.name} with target='final'")  # (N, L)
            right = (prediction == prediction[:, -1:]).astype(np.float64)  # (N, L)
        else:
            right = record.needed_correct(f"fitting {self.name}").astype(np.float64)  # (N, L)
        used = np.array([measure in record.measures for measure in SCORES])  # (4,)
        seen = {"similarity": "similarity" in record.measures, "prediction": record.prediction is not None}
        common = {"measures": used, **{name: np.array([there]) for name, there in seen.items()}}
        own = {"ensemble": np.array([0]), "knots": np.array([OWN])}
        if record.n_samples < FEWEST or record.n_exits < 2:
            return common | own
        folds = np.random.default_rng(0).permutation(record.n_samples) % FOLDS  # (N,)
        cost = np.broadcast_to(record.costs / record.cost[-1], right.shape)  # (N, L)
        baseline = _reached(_own(record, used), right, cost)  # (N,)
        least, best = 0.0, own
        together = of_record(record) if self.answer == "ensemble" and self.target == "label" else None
        for kind in (None, together) if together else (None,):
            estimates: np.ndarray | None = None
            rights, of_ensemble = right, {}
            if kind is not None:
                exits = list(kind.fit(record, right, folds))
                states, of_exit, probability = zip(*exits)
                rights, estimates = np.stack(of_exit, axis=1), np.stack(probability, axis=1)  # (N, L) each
                of_ensemble = _named(states, "vote.")
            features = self._features(record, common, estimates)
            candidates: dict[int, tuple[np.ndarray, dict[str, np.ndarray]]] = {}  # signals (N, L), what was learned
            if estimates is not None:
                candidates[OWN] = (estimates - 1, {})
            for knots in KNOTS:
                candidates[knots] = _backward(features, rights, cost, folds, knots)
            for knots, (signal, fitted) in candidates.items():
                gain = _reached(signal, rights, cost) - baseline  # (N,)
                surely = gain.mean() - CAUTION * gain.std() / np.sqrt(len(gain))
                if surely > least:
                    code = np.array([KINDS.index(kind)])
                    least, best = surely, {"ensemble": code, "knots": np.array([knots]), **of_ensemble, **fitted}
        return common | best

    def _features(self, record: ExitRecord, about: Mapping[str, np.ndarray], estimates: np.ndarray | None) -> list:
        """Return the features of each exit, L arrays (N, F). `estimates` (N, L) are those of the ensemble."""
        past: dict[str, Any] = {}
        features = []
        for i in range(record.n_exits):
            estimate = None if estimates is None else estimates[:, i]  # (N,)
            features.append(_shown(i, record.outputs(i, logits=False), past, about, estimate))
        return features

    def _step(self, outputs: ExitOutputs, stream: Stream) -> np.ndarray:
        i, estimate, kind, state = stream.exit, None, self._ensemble, self._learned()
        if kind is not None:
            of_ensemble = {name: state[f"exit_{i + 1}.vote.{name}"] for name in kind.arrays}
            stream.prediction, estimate = kind.step(of_ensemble, outputs, stream)
        if state["knots"][0] == OWN:
            return (_sureness(outputs, state["measures"]) if estimate is None else estimate) - 1.0
        x = _shown(i, outputs, stream.past, state, estimate)  # (n, F)
        if stream.is_last:
            return np.zeros(stream.n)
        from offramp._kernels.stopping import least_prices  # imported here, because importing Numba takes time

        of_exit = (state[f"exit_{i + 1}.{name}"] for name in ("centre", "scale", "knots", "weights"))
        return -least_prices(x, *of_exit, state["least"][i])


def _named(exits: Sequence[Mapping[str, np.ndarray]], part: str = "") -> dict[str, np.ndarray]:
    """Return the arrays of all exits by name: `exit_1.NAME`, with `part` before NAME."""
    return {f"exit_{i + 1}.{part}{name}": values for i, arrays in enumerate(exits) for name, values in arrays.items()}


def _sureness(outputs: ExitOutputs, used: np.ndarray) -> np.ndarray:
    """Return the first measure that is used, (n,): max softmax if it is there. Zeros if there is none."""
    for measure, is_used in zip(SCORES, used):
        if is_used:
            return outputs.score(measure).astype(np.float64)
    return np.zeros(len(outputs.needed_prediction("stopping")))


def _own(record: ExitRecord, used: np.ndarray) -> np.ndarray:
    return np.stack([_sureness(record.outputs(i, logits=False), used) for i in range(record.n_exits)], axis=1)  # (N, L)


def _shown(
    i: int, outputs: ExitOutputs, past: dict[str, Any], about: Mapping[str, np.ndarray], estimate: np.ndarray | None
) -> np.ndarray:
    """Return the features of exit i, (n, F), and put into `past` what those of the next one need."""
    columns = [
        shown_measure(measure, outputs.measure(measure))
        for measure, is_used in zip(SCORES, about["measures"])
        if is_used
    ]
    sure = columns[0] if columns else None  # (n,)
    if i > 0 and about["similarity"][0]:
        if outputs.similarity is None:
            raise ValueError("stopping was fitted with similarity, but these outputs have none; expected the same data")
        columns.append(outputs.similarity.astype(np.float64))
    if estimate is not None:
        columns.append(shown_measure("max_softmax", estimate))
    if about["prediction"][0]:
        prediction = outputs.needed_prediction("stopping, which was fitted with predictions,")  # (n,)
        streak = np.zeros(len(prediction))  # (n,)
        if i > 0:
            agrees = (prediction == past["of_exit"]).astype(np.float64)  # (n,)
            streak = (past["streak"] + 1) * agrees
            columns += [agrees, streak]
            if sure is not None:
                columns.append((2 * agrees - 1) * past["sure"])
        past["of_exit"], past["streak"] = prediction, streak
    if sure is not None:
        if i > 0:
            columns += [past["sure"], past["surest"]]
        past["sure"], past["surest"] = sure, np.maximum(sure, past["surest"]) if i > 0 else sure
    return np.stack(columns, axis=1) if columns else np.zeros((len(streak), 1))


def _backward(
    features: list[np.ndarray], right: np.ndarray, cost: np.ndarray, folds: np.ndarray, knots: int
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Learn the prices of all exits. Return the signal on held-out folds (N, L), and what was learned."""
    fitted: list[dict[str, np.ndarray]] = []
    least = np.diff(cost.mean(axis=0))  # (L − 1,)

    def expect(i: int, targets: np.ndarray) -> np.ndarray:
        splines = Splines.of(features[i], knots)
        weights, held_out = fit_ridge(splines.basis(features[i]), targets, folds, PENALTIES)
        fitted.insert(0, {**splines.arrays, "weights": weights})
        return held_out

    prices = backward_prices(right, cost, expect, least)  # (N, L − 1)
    return np.concatenate([-prices, np.zeros((len(prices), 1))], axis=1), {"least": least, **_named(fitted)}


def backward_prices(
    right: np.ndarray, cost: np.ndarray, expect: Callable[[int, np.ndarray], np.ndarray], least: np.ndarray
) -> np.ndarray:
    """Compute the price of each sample and exit at which going on is worth as much as stopping, backward.

    Parameters
    ----------
    right : ndarray of shape (N, L), float64
        Whether each answer is right, or its quality.
    cost : ndarray of shape (N, L)
        Cumulative costs, as shares of the cost of the full model.
    expect : callable
        Function of an exit i and of targets (N, 2 · T) that returns their expectations given what is seen at exit i:
        gains and additional costs, in turn, of T rules for stopping later.
    least : ndarray of shape (L − 1,)
        Lower limits of the additional cost at each exit, for expectations that are estimated.

    Returns
    -------
    ndarray of shape (N, L − 1), float64
    """
    n, exits = right.shape
    rows, prices = np.arange(n), np.empty((n, exits - 1))
    for i in reversed(range(exits - 1)):
        later = prices[:, i + 1 :]  # (N, L − i − 2)
        targets = []
        for price in (-np.inf, *_some(later)):
            stops = np.ones((n, exits - i - 1), bool)  # (N, L − i − 1): the last exit always answers
            stops[:, :-1] = later <= price
            at = i + 1 + stops.argmax(axis=1)  # (N,)
            targets += [right[rows, at] - right[:, i], cost[rows, at] - cost[:, i]]
        expected = expect(i, np.stack(targets, axis=1))  # (N, 2 · T)
        prices[:, i] = (expected[:, ::2] / np.maximum(expected[:, 1::2], least[i])).max(axis=1)
    return prices


def _some(prices: np.ndarray) -> np.ndarray:
    """Return at most `RULES` of the values, at equal shares: (≤ RULES,)."""
    values = np.unique(prices)
    if len(values) <= RULES:
        return values
    return np.unique(np.quantile(prices, np.linspace(0.02, 0.98, RULES)))


def _reached(signal: np.ndarray, right: np.ndarray, cost: np.ndarray) -> np.ndarray:
    """Return how often each sample is right, on average over `BUDGETS` mean costs, (N,).

    Between two thresholds, whose mean costs are on both sides of a budget, both are used with the shares that spend it.
    """
    early, rows = signal[:, :-1], np.arange(len(signal))
    thresholds = np.unique(np.quantile(early, np.linspace(0, 1, 65)))[::-1]  # costs become lower
    chosen = [first_exit(signal, threshold) for threshold in (np.inf, *thresholds, -np.inf)]  # T arrays (N,)
    costs = np.array([cost[rows, at].mean() for at in chosen])  # (T,)
    order = np.argsort(costs, kind="stable")
    costs, rights = costs[order], np.array([right[rows, at] for at in chosen])[order]  # (T,), (T, N)
    first, last = cost[:, 0].mean(), cost[:, -1].mean()
    shares = np.zeros(len(costs))  # (T,)
    for budget in first + (last - first) * np.arange(1, BUDGETS + 1) / (BUDGETS + 1):
        above = int(np.clip(np.searchsorted(costs, budget), 1, len(costs) - 1))
        share = np.clip((budget - costs[above - 1]) / max(costs[above] - costs[above - 1], 1e-12), 0.0, 1.0)
        shares[above - 1 : above + 1] += np.array([1 - share, share]) / BUDGETS
    return shares @ rights
