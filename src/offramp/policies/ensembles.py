"""Running ensembles: one answer of an exit and all earlier ones, from their logits or from votes."""

from collections.abc import Iterator, Sequence

import numpy as np

from offramp.policies.newton import minimise
from offramp.policies.regression import Splines, fit_logistic
from offramp.policies.stream import Stream
from offramp.records import ExitOutputs, ExitRecord

PENALTY = 10.0  # samples: weight of the penalty, on the distance from weights of 0 and 1 for the latest exit
CLASS_PENALTY = 5.0  # samples that are added to each class, for the bias
SAMPLES = 10_000  # at most; a few weights need no more
NUMBERS = 1_000_000  # logits of an exit that are used, unless there are fewer than …
FEWEST = 1_000  # … samples


def below_top(logits: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Return logits (n, C) minus those of the predicted classes, float32.

    They differ from ln p by one constant per sample and exit, which has no effect on ensembles.
    """
    wide = logits.astype(np.float32) if logits.dtype == np.float16 else logits
    return (wide - wide[np.arange(len(wide)), prediction][..., None]).astype(np.float32, copy=False)


def with_member(stream: Stream, member: np.ndarray) -> tuple[np.ndarray, ...]:
    """Add a member (n, C) to those of the stream, and return all of them."""
    members = stream.past["members"] = (*stream.past.get("members", ()), member)
    return members


def weighted_sum(weights: np.ndarray, members: Sequence[np.ndarray]) -> np.ndarray:
    """Return Σ_j weights[j] · members[j], float32 (n, C), for weights (L,) and at most L members (n, C)."""
    from offramp._kernels import ztw  # imported here, because importing Numba takes time

    return ztw.weighted_sum(weights.astype(np.float32), members)


class Geometric:
    """The geometric ensemble of ZTW: softmax(Σ_{j ≤ i} a_ij · ln p_j + b_i), with weights a_ij ≥ 0.

    It is fitted for speed, and for few samples. The weights minimise, for the bias so far, the mean negative
    log-likelihood plus a penalty on the squared distance from the exit alone (a_ii = 1). The bias then moves the mean
    probability of each class towards its frequency, which is the condition for the minimum. These are five steps of
    iterative proportional fitting, for which `CLASS_PENALTY` samples are added to the frequencies and to the sums of
    the probabilities, so that the bias of a rare class moves little. All of this is our choice.
    """

    needs_logits = True
    arrays = ("weights", "bias")  # of the state of an exit

    @staticmethod
    def fit(record: ExitRecord, right: np.ndarray, folds: np.ndarray) -> Iterator[tuple[dict, np.ndarray, np.ndarray]]:
        """Fit the ensemble of each exit.

        Parameters
        ----------
        record : ExitRecord
        right : ndarray of shape (N, L), float64
            Whether the exits are right.
        folds : ndarray of shape (N,), int
            Folds of the samples.

        Yields
        ------
        state : dict of str to ndarray
            Parameters of the ensemble of an exit.
        right, probability : ndarray of shape (N,), float64
            Whether the ensemble is right and its probability, by parameters that were fitted on the other folds.
        """
        logits, prediction = record.needed_logits("stopping"), record.needed_prediction("stopping")
        labels = record.needed_labels("fitting stopping")
        n, _, classes = logits.shape
        size = min(n, SAMPLES, max(FEWEST, NUMBERS // classes))
        sample = np.sort(np.random.default_rng(0).permutation(n)[:size])  # (m,)
        members = np.empty((record.n_exits, n, classes), np.float32)  # (L, N, C)
        start = np.empty(0)
        for i in range(record.n_exits):
            members[i] = below_top(logits[:, i], prediction[:, i])
            start = np.append(start, 0.1 if i else 1.0)
            few = members[: i + 1].take(sample, axis=1).astype(np.float64)  # (k, m, C)
            weights, bias = _fit_geometric(few, labels[sample], start, rounds=2)
            is_right, probability = np.empty((2, n))  # (N,) each
            for fold in range(folds.max() + 1):
                others = np.flatnonzero(folds[sample] != fold)
                parts = _fit_geometric(few.take(others, axis=1), labels[sample[others]], weights, rounds=1)
                here = folds == fold  # (N,)
                answer = _answer([member[here] for member in members[: i + 1]], *parts)
                is_right[here] = answer.prediction == labels[here]
                probability[here] = answer.score()
            start = weights
            yield {"weights": weights, "bias": bias}, is_right, probability

    @staticmethod
    def step(state: dict[str, np.ndarray], outputs: ExitOutputs, stream: Stream) -> tuple[np.ndarray, np.ndarray]:
        """Return the answers (n,), int64, and their probabilities (n,)."""
        member = below_top(outputs.needed_logits("stopping"), outputs.needed_prediction("stopping"))  # (n, C)
        answer = _answer(with_member(stream, member), state["weights"], state["bias"])
        return answer.needed_prediction("stopping"), answer.score()


def _answer(members: Sequence[np.ndarray], weights: np.ndarray, bias: np.ndarray) -> ExitOutputs:
    return ExitOutputs.of(weighted_sum(weights, members) + bias.astype(np.float32))


def _softmax(logits: np.ndarray) -> np.ndarray:
    from scipy.special import softmax

    return softmax(logits, axis=-1)


def _fit_geometric(members: np.ndarray, labels: np.ndarray, start: np.ndarray, rounds: int):
    """Fit weights (k,) and biases (C,) to members (k, n, C), in turn."""
    from scipy.special import logsumexp

    k, n, classes = members.shape
    of_label = members[:, np.arange(n), labels]  # (k, n)
    frequency = np.bincount(labels, minlength=classes) + CLASS_PENALTY  # (C,)
    penalty, centre = PENALTY / n, np.append(np.zeros(k - 1), 1.0)
    weights, bias = start, np.zeros(classes)

    def derivatives(at):
        logits = np.tensordot(at, members, 1) + bias  # (n, C)
        total = logsumexp(logits, axis=1)  # (n,)
        weighted = members * np.exp(logits - total[:, None])  # (k, n, C)
        mean = weighted.sum(axis=2)  # (k, n)
        second = weighted.reshape(k, -1) @ members.reshape(k, -1).T - mean @ mean.T  # (k, k)
        loss = (total - at @ of_label - bias[labels]).mean() + penalty / 2 * np.sum((at - centre) ** 2)
        gradient = (mean - of_label).mean(axis=1) + penalty * (at - centre)
        return loss, gradient, second / n + penalty * np.eye(k)

    for _ in range(rounds):
        weights = minimise(derivatives, weights, bounded=k)
        logits = np.tensordot(weights, members, 1)  # (n, C)
        for _ in range(5):
            bias = bias + np.log(frequency / (_softmax(logits + bias).sum(axis=0) + CLASS_PENALTY))
    return weights, bias


class Votes:
    """A weighted vote, for exits of which only confidences are known.

    The confidence of each exit j is mapped to z_j, the log-odds of being right (logistic regression on linear splines).
    Each answer that an exit gives has the score Σ_j (a_ij + b_ij · z_j), over the exits j ≤ i that give it. The
    probability that it is right is exp(score) / (1 + Σ exp(score of each answer)), where the 1 stands for all other
    answers. The parameters minimise the mean negative log-likelihood, plus a penalty on the squared distance from the
    exit alone (b_ii = 1 and all others 0). The answer with the highest score is used; of equal ones, the latest.

    The qualities of answers take the place of labels if there are any.
    """

    needs_logits = False
    arrays = ("weights", "odds", "centre", "scale", "knots")  # of the state of an exit

    @staticmethod
    def fit(record: ExitRecord, right: np.ndarray, folds: np.ndarray) -> Iterator[tuple[dict, np.ndarray, np.ndarray]]:
        """Fit the votes of each exit, as `Geometric.fit`."""
        n, answers = record.n_samples, record.needed_prediction("stopping")  # (N, L)
        sample = np.sort(np.random.default_rng(0).permutation(n)[:SAMPLES])  # (m,)
        odds = np.empty(answers.shape)  # (N, L): z
        start = np.empty(0)  # a_i1, …, b_i1, …
        for i in range(record.n_exits):
            shown = _log_odds(record.outputs(i, logits=False))[:, None]  # (N, 1)
            splines = Splines.of(shown)
            basis = splines.basis(shown)  # (N, K), ones first
            by_odds = fit_logistic(basis.T[::-1], right[:, i], 1.0)[::-1]  # (K,)
            odds[:, i] = basis @ by_odds
            start = np.concatenate([start[:i], [0.0], start[i:], [1.0]])
            same, first = _groups(answers[:, : i + 1])  # (N, k, k), (N, k)
            votes = np.concatenate([same, same * odds[:, None, : i + 1]], axis=2)  # (N, k, 2 k)
            weights = _fit_votes(votes[sample], first[sample], right[sample, : i + 1], start)
            is_right, probability = np.empty((2, n))  # (N,) each
            for fold in range(folds.max() + 1):
                others = sample[folds[sample] != fold]
                parts = _fit_votes(votes[others], first[others], right[others, : i + 1], weights)
                here = folds == fold  # (N,)
                winner, probability[here] = _winner(votes[here] @ parts, first[here])
                is_right[here] = right[here, winner]
            start = weights
            yield {"weights": weights, "odds": by_odds, **splines.arrays}, is_right, probability

    @staticmethod
    def step(state: dict[str, np.ndarray], outputs: ExitOutputs, stream: Stream) -> tuple[np.ndarray, np.ndarray]:
        """Return the answers (n,), int64, and their probabilities (n,)."""
        basis = Splines.of_arrays(state).basis(_log_odds(outputs)[:, None])  # (n, K)
        odds = np.zeros(stream.n)  # added in order, so that rounding does not depend on the number of samples
        for weight, column in zip(state["odds"], basis.T):
            odds += weight * column
        answers = stream.past["answers"] = (*stream.past.get("answers", ()), outputs.needed_prediction("stopping"))
        past = stream.past["odds"] = (*stream.past.get("odds", ()), odds)
        k, said = len(answers), np.stack(answers, axis=1)  # (n, k)
        same, first = _groups(said)  # (n, k, k), (n, k)
        scores = np.zeros((stream.n, k))
        for j, (constant, slope) in enumerate(zip(state["weights"][:k], state["weights"][k:])):
            scores += same[:, :, j] * (constant + slope * past[j])[:, None]
        winner, probability = _winner(scores, first)
        return said[np.arange(stream.n), winner], probability


def _log_odds(outputs: ExitOutputs) -> np.ndarray:
    return shown_measure("max_softmax", outputs.measure("max_softmax"))


def shown_measure(measure: str, values: np.ndarray) -> np.ndarray:
    """Return a confidence measure (n,) on a scale on which small errors are far apart, float64.

    These are the log-odds, limited to ±16, or −ln(entropy + 10⁻⁷).
    """
    from scipy.special import logit, xlogy  # number by number, so that results do not depend on the number of samples

    values = values.astype(np.float64)
    if measure == "entropy":
        return -xlogy(1.0, values + 1e-7)
    return np.clip(logit(np.clip(values, 0.0, 1.0)), -16.0, 16.0)


def _groups(answers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return whether exits give the same answer (n, k, k), and whether no earlier exit gives that of an exit (n, k)."""
    same = answers[:, :, None] == answers[:, None]  # (n, k, k)
    return same, ~np.tril(same, -1).any(axis=2)


def _winner(scores: np.ndarray, first: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the exit whose answer wins, and the probability of this answer, (n,) each, for scores (n, k)."""
    top = np.maximum(scores.max(axis=1), 0.0)  # (n,)
    total = np.exp(-top)
    for j in range(scores.shape[1]):  # in order, as above
        total = total + np.where(first[:, j], np.exp(scores[:, j] - top), 0.0)
    winner = scores.shape[1] - 1 - scores[:, ::-1].argmax(axis=1)  # (n,)
    return winner, np.exp(scores.max(axis=1) - top) / total


def _fit_votes(votes: np.ndarray, first: np.ndarray, right: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Fit the weights (2 k,) of votes (n, k, 2 k)."""
    n, _, d = votes.shape
    target = right * first  # (n, k)
    mass = np.maximum(target.sum(axis=1), 1.0)  # (n,): several answers can be right if answers have a quality
    penalty, centre = PENALTY / n, np.append(np.zeros(d - 1), 1.0)
    wanted = np.einsum("nk,nkd->d", target, votes)

    def derivatives(at):
        scores = votes @ at  # (n, k)
        top = np.maximum(scores.max(axis=1), 0.0)  # (n,)
        odds = np.where(first, np.exp(scores - top[:, None]), 0.0)  # (n, k)
        total = odds.sum(axis=1) + np.exp(-top)
        chance = odds / total[:, None]  # (n, k)
        each = chance[:, :, None] * votes  # (n, k, d)
        mean = each.sum(axis=1)  # (n, d)
        loss = (mass @ (np.log(total) + top) - (target * scores).sum()) / n
        gradient = (mass @ mean - wanted) / n + penalty * (at - centre)
        second = (each * mass[:, None, None]).reshape(-1, d).T @ votes.reshape(-1, d) - (mean * mass[:, None]).T @ mean
        return loss + penalty / 2 * np.sum((at - centre) ** 2), gradient, second / n + penalty * np.eye(d)

    return minimise(derivatives, start)


Ensemble = type[Geometric] | type[Votes]
KINDS: tuple[Ensemble | None, ...] = (None, Geometric, Votes)  # files of policies have the place in this list


def of_record(record: ExitRecord) -> Ensemble | None:
    """Return the kind of ensemble that the exits of a record allow, or None if they have neither logits nor votes."""
    if record.n_exits < 2 or record.prediction is None:
        return None
    if record.has_logits and record.quality is None:
        return Geometric
    return Votes if "max_softmax" in record.measures else None
