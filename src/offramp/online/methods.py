"""How an online policy learns from feedback. To add a method, write a class here and list it in `METHODS`."""

import copy
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

import numpy as np

from offramp._registry import check_fields, check_options, find
from offramp.calibration import filled
from offramp.policies import PCEE, Policy
from offramp.policies.base import checked_threshold, first_exit
from offramp.policies.stream import Stream
from offramp.records import ExitOutputs, ExitRecord

CLIP = 1e-6  # estimates of accuracy are limited to CLIP … 1 − CLIP before their logit
RADIUS, STEP, START = 100.0, 10.0, 100.0  # of the online Newton step, as in the paper: R, 1 / γ and ρ


@dataclass(frozen=True, eq=False)
class Feedback:
    """What k samples turned out to be, in the order in which this became known.

    Attributes
    ----------
    read : ndarray of shape (k, L)
        What the method has read of each exit (see `Method.read`). NaN for exits that did not run.
    correct : ndarray of shape (k, L), bool
        Whether the prediction of each exit is correct.
    weight : ndarray of shape (k, L)
        Inverse probability that this exit is observed for such a sample. 0 for exits that did not run.
    exit : ndarray of shape (k,)
        Exit at which each sample left, counted from 0.
    """

    read: np.ndarray
    correct: np.ndarray
    weight: np.ndarray
    exit: np.ndarray


class Method:
    """Base class of methods. The options of a method are its dataclass fields.

    A method changes `policy` and `threshold`, with which samples are decided, whenever it learns.

    Attributes
    ----------
    name : str
        Name in the registry `METHODS`.
    policy : Policy
        The policy that decides now.
    threshold : ndarray of shape () or (L − 1,)
        The threshold δ now.
    state : dict of str to ndarray
        All that the method has learned.
    """

    name: ClassVar[str]

    policy: Policy
    threshold: np.ndarray
    state: dict[str, np.ndarray]

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def options(self) -> dict[str, Any]:
        """The value of each option, by its name."""
        return {each.name: getattr(self, each.name) for each in fields(self)}  # type: ignore[arg-type]

    def begin(self, policy: Policy, threshold, validation: ExitRecord) -> None:
        """Start with a fitted policy, as if the validation samples had been the first feedback, in their order."""
        self.policy, self.state = policy, {}
        self.threshold = checked_threshold(threshold, validation.n_exits)
        self._begin(validation)
        self._apply()

    def restore(self, policy: Policy, threshold: np.ndarray, state: dict[str, np.ndarray], exits: int) -> None:
        """Continue with a saved state. `policy` and `threshold` are those of the start."""
        self.policy, self.threshold = policy, threshold
        self._wrap(exits)
        self.state = state
        self._apply()

    def read(self, outputs: ExitOutputs, stream: Stream) -> np.ndarray:
        """Return what the method needs to remember of an exit, (n,), until the label is known."""
        return np.zeros(stream.n)

    def learn(self, feedback: Feedback) -> None:
        """Change the policy or the threshold."""
        self._learn(feedback)
        self._apply()

    def _begin(self, validation: ExitRecord) -> None:
        self._wrap(validation.n_exits)

    def _wrap(self, exits: int) -> None:
        """Replace `policy` by one that can be changed."""

    def _learn(self, feedback: Feedback) -> None:
        """Change `state`."""

    def _apply(self) -> None:
        """Write what `state` says into `policy` or `threshold`."""


@dataclass
class Static(Method):
    """Learn nothing: the policy of the validation data, for comparison."""

    name = "static"


class _AccuracyMaps(Method):
    """Base class of methods that update the accuracy of each bin of PCEE. The edges of the bins do not change."""

    policy: PCEE

    def _begin(self, validation: ExitRecord) -> None:
        if not isinstance(self.policy, PCEE) or self.policy.fit_on != "all":
            what = "pcee with fit_on=reached" if isinstance(self.policy, PCEE) else self.policy.name
            raise ValueError(f"{self.name}: the policy is {what}; expected pcee with fit_on=all, whose maps it updates")
        self._wrap(validation.n_exits)
        read = validation.confidence(self.policy.score).astype(np.float64)  # (N, L)
        correct = validation.needed_correct(self.name)  # (N, L)
        self._start()
        self._learn(Feedback(read, correct, np.ones(read.shape), np.full(len(read), validation.n_exits - 1)))

    def _wrap(self, exits: int) -> None:
        policy = copy.copy(self.policy)
        policy.state = {name: np.array(values) for name, values in policy._learned().items()}  # not those of the caller
        self.policy = policy
        self.edges = [policy.state[f"exit_{i + 1}.edges"] for i in range(exits)]  # (M − 1,) each

    def read(self, outputs: ExitOutputs, stream: Stream) -> np.ndarray:
        return outputs.score(self.policy.score).astype(np.float64)

    def _learn(self, feedback: Feedback) -> None:
        for i, edges in enumerate(self.edges):
            seen = feedback.weight[:, i] > 0  # (k,)
            place = np.searchsorted(edges, feedback.read[seen, i], side="right")  # (s,)
            if len(place):
                self._count(i, place, feedback.weight[seen, i], feedback.correct[seen, i])

    def _apply(self) -> None:
        for i in range(len(self.edges)):
            count, right = self._counts(i)  # (M,) each
            with np.errstate(invalid="ignore", divide="ignore"):
                self.policy._learned()[f"exit_{i + 1}.accuracy"] = filled(count, right / count)

    def _start(self) -> None:
        """Begin with empty bins."""
        raise NotImplementedError

    def _count(self, i: int, place: np.ndarray, weight: np.ndarray, correct: np.ndarray) -> None:
        """Add samples, given by their bins (s,), to exit i."""
        raise NotImplementedError

    def _counts(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the weight of all samples and of the correct ones in each bin of exit i, (M,) each."""
        raise NotImplementedError


@dataclass
class Window(_AccuracyMaps):
    """PCEE's map of each exit on its latest samples.

    Parameters
    ----------
    size : int
        Number of samples W at each exit.
    """

    size: int = 1000

    name = "window"

    def _start(self) -> None:
        shape = (len(self.edges), self.size)
        self.state = {
            "place": np.zeros(shape, np.int64),  # (L, W): bins
            "weight": np.zeros(shape),
            "right": np.zeros(shape),  # weights of those that are correct
            "next": np.zeros(len(self.edges), np.int64),  # (L,): number of samples so far
        }

    def _count(self, i, place, weight, correct) -> None:
        state, latest = self.state, slice(-self.size, None)
        slots = (state["next"][i] + np.arange(len(place)))[latest] % self.size
        state["next"][i] += len(place)
        state["place"][i, slots] = place[latest]
        state["weight"][i, slots] = weight[latest]
        state["right"][i, slots] = (weight * correct)[latest]

    def _counts(self, i):  # summed anew, so that rounding does not add up
        place, size = self.state["place"][i], len(self.edges[i]) + 1
        if place.max() >= size:  # a state that somebody else wrote
            raise ValueError(f"the state of exit {i + 1} has bin {place.max()}; expected 0 to {size - 1}")
        return tuple(np.bincount(place, self.state[name][i], minlength=size) for name in ("weight", "right"))


@dataclass
class Discount(_AccuracyMaps):
    """PCEE's map in which samples count less the older they are.

    Parameters
    ----------
    half_life : float
        Number of later samples at the same exit after which a sample counts half.
    """

    half_life: float = field(default=500.0, metadata={"above": 0})

    name = "discount"

    def _start(self) -> None:
        bins = [len(edges) + 1 for edges in self.edges]
        self.state = {f"{name}_{i}": np.zeros(size) for i, size in enumerate(bins) for name in ("weight", "right")}

    def _count(self, i, place, weight, correct) -> None:
        size = len(self.edges[i]) + 1
        age = np.arange(len(place) - 1, -1, -1)  # (s,): number of later samples
        weight = weight * 0.5 ** (age / self.half_life)
        for name, values in (("weight", weight), ("right", weight * correct)):
            self.state[f"{name}_{i}"] *= 0.5 ** (len(place) / self.half_life)
            self.state[f"{name}_{i}"] += np.bincount(place, values, minlength=size)

    def _counts(self, i):
        return self.state[f"weight_{i}"], self.state[f"right_{i}"]


class Recalibrated(Policy):
    """A policy whose signal of each exit is an estimate of the accuracy, mapped to a better one.

    Parameters
    ----------
    base : Policy
        Fitted, with `claims_accuracy`.
    change : callable
        Function from the signal (n,) of exit i to the new one, `change(signal, i)`.
    """

    name = "recalibrated"
    rule = "online Platt scaling of an estimated accuracy ≥ δ"
    paper = "Gupta & Ramdas (2023), arXiv 2305.00070"
    claims_accuracy = True

    def __init__(self, base: Policy, change):
        self.base, self.change = base, change
        self.state, self.fitted_on = base.state, base.fitted_on
        self.fitted_exits, self.fitted_classes = base.fitted_exits, base.fitted_classes

    @property
    def options(self):
        return self.base.options

    @property
    def answers_together(self):
        return self.base.answers_together

    @property
    def needs_logits(self):
        return self.base.needs_logits

    @property
    def needs(self):
        return self.base.needs

    def _begin(self, stream: Stream) -> None:
        self.base._begin(stream)

    def _step(self, outputs: ExitOutputs, stream: Stream) -> np.ndarray:
        stream.past["recalibrated"] = np.asarray(self.base._step(outputs, stream), np.float64)  # (n,)
        return self.change(stream.past["recalibrated"], stream.exit)

    def _rank(self, outputs: ExitOutputs, signal: np.ndarray) -> np.ndarray | None:
        return self.base._rank(outputs, signal)


@dataclass
class Platt(Method):
    """Online Platt scaling with calibeating (Gupta & Ramdas 2023, arXiv 2305.00070) of an estimated accuracy.

    Parameters
    ----------
    bins : int or None
        Number of bins of the scaled estimate. Each takes the mean accuracy of its samples so far ("tracking"). The
        paper has 10, which leave thresholds little choice. None: no bins, and no calibeating.
    """

    bins: int | None = 50

    name = "platt"

    def _begin(self, validation: ExitRecord) -> None:
        if not self.policy.claims_accuracy:
            raise ValueError(
                f"platt: the signal of {self.policy.name} is no estimate of the accuracy; expected a policy such as "
                "confidence, pcee or isotonic"
            )
        signal, correct = self.policy.signal(validation), self.policy.correct(validation)  # (N, L) each
        exits = validation.n_exits
        self.state = {
            "slope": np.ones(exits),  # (L,): a
            "shift": np.zeros(exits),  # (L,): b
            "matrix": np.tile(START * np.eye(2), (exits, 1, 1)),  # (L, 2, 2)
            "weight": np.zeros((exits, self.bins or 1)),  # (L, bins)
            "right": np.zeros((exits, self.bins or 1)),
        }
        self._wrap(exits)
        self._learn(Feedback(signal, correct, np.ones(signal.shape), np.full(len(signal), exits - 1)))

    def _wrap(self, exits: int) -> None:
        self.policy = Recalibrated(self.policy, self._scaled)

    def read(self, outputs: ExitOutputs, stream: Stream) -> np.ndarray:
        return stream.past["recalibrated"]

    def _bin(self, scaled: np.ndarray) -> np.ndarray:
        bins = self.bins or 1
        return np.minimum((scaled * bins).astype(np.int64), bins - 1)

    def _scaled(self, signal: np.ndarray, i: int) -> np.ndarray:
        scaled = _sigmoid(self.state["slope"][i] * _logit(signal) + self.state["shift"][i])  # (n,)
        if self.bins is None:
            return scaled
        place = self._bin(scaled)
        weight, right = (self.state[name][i, place] for name in ("weight", "right"))  # (n,) each
        return np.where(weight > 0, right / np.where(weight > 0, weight, 1), scaled)

    def _learn(self, feedback: Feedback) -> None:
        slope, shift, matrix = (self.state[name] for name in ("slope", "shift", "matrix"))
        weight, every = feedback.weight, np.arange(len(slope))
        logits = np.where(weight > 0, _logit(np.where(weight > 0, feedback.read, 0.5)), 0.0)  # (k, L)
        for x, y, w in zip(logits, feedback.correct, weight):  # (L,) each
            scaled = _sigmoid(slope * x + shift)
            if self.bins is not None:  # before the step: the estimate was made without this sample
                place = self._bin(scaled)
                self.state["weight"][every, place] += w
                self.state["right"][every, place] += w * y
            g_1 = w * (scaled - y) * x  # gradient of the log loss by slope and shift
            g_2 = w * (scaled - y)
            matrix[:, 0, 0] += g_1 * g_1
            matrix[:, 0, 1] += g_1 * g_2
            matrix[:, 1, 0] += g_1 * g_2
            matrix[:, 1, 1] += g_2 * g_2
            a, b, c = matrix[:, 0, 0], matrix[:, 0, 1], matrix[:, 1, 1]
            determinant = a * c - b * b
            slope -= STEP * (c * g_1 - b * g_2) / determinant
            shift -= STEP * (a * g_2 - b * g_1) / determinant
            for i in np.flatnonzero(slope**2 + shift**2 > RADIUS**2):
                slope[i], shift[i] = projected(np.array([slope[i], shift[i]]), matrix[i])


def projected(point: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Return the point (2,) of the ball with radius `RADIUS` that is nearest in the norm of a matrix (2, 2)."""
    low, high = 0.0, np.trace(matrix) * np.linalg.norm(point) / RADIUS  # the multiplier of the constraint
    for _ in range(100):
        middle = (low + high) / 2
        inside = np.linalg.norm(np.linalg.solve(matrix + middle * np.eye(2), matrix @ point)) <= RADIUS
        low, high = (low, middle) if inside else (middle, high)
    return np.linalg.solve(matrix + high * np.eye(2), matrix @ point)


def _logit(share: np.ndarray) -> np.ndarray:
    share = np.clip(share, CLIP, 1 - CLIP)
    return np.log(share / (1 - share))


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(x, -700, 700)))


@dataclass
class AdaptiveThreshold(Method):
    """Move the threshold so that the share of samples that leave early with a wrong answer becomes a level.

    This is adaptive conformal inference (Gibbs & Candès 2021, arXiv 2106.00170) with the loss of the samples that left:
    δ ← δ + step · (loss − level), where the loss is 1 for a sample that left before the last exit with a wrong answer.
    δ does not fall below the lowest signal of the validation samples.

    Parameters
    ----------
    level : float or None
        Share of all samples that leave early with a wrong answer. None: that of the validation samples at the threshold
        of the start.
    step : float
        Step size γ, in the unit of the signal.
    """

    level: float | None = field(default=None, metadata={"above": 0})
    step: float = field(default=0.01, metadata={"above": 0})

    name = "aci"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.level is not None and self.level >= 1:
            raise ValueError(f"aci: option level is {self.level!r}: expected a number between 0 and 1")

    def _begin(self, validation: ExitRecord) -> None:
        if self.threshold.ndim or not np.isfinite(self.threshold):
            raise ValueError(f"aci: threshold is {self.threshold.tolist()}; expected a finite number, for all exits")
        signal = self.policy.signal(validation)  # (N, L)
        level = self.level
        if level is None:
            exits = first_exit(signal, self.threshold)  # (N,)
            right = self.policy.correct(validation)[np.arange(len(exits)), exits]
            level = ((exits < validation.n_exits - 1) * (1 - right * 1.0)).mean()
        self.state = {"threshold": self.threshold.copy(), "low": np.asarray(signal.min()), "level": np.asarray(level)}

    def _learn(self, feedback: Feedback) -> None:
        rows, last = np.arange(len(feedback.exit)), feedback.weight.shape[1] - 1
        early = feedback.exit < last  # (k,)
        loss = early & ~feedback.correct[rows, feedback.exit]
        moves = self.step * feedback.weight[rows, feedback.exit] * (loss - self.state["level"])  # (k,)
        threshold, low = float(self.state["threshold"]), float(self.state["low"])
        for move in moves.tolist():
            threshold = max(threshold + move, low)
        self.state["threshold"] = np.asarray(threshold)

    def _apply(self) -> None:
        self.threshold = self.state["threshold"]


METHODS: dict[str, type[Method]] = {
    method.name: method for method in (Static, Window, Discount, Platt, AdaptiveThreshold)
}


def make_method(name: str, /, **options: Any) -> Method:
    """Create a method. Options that are not given have their default values.

    Raises
    ------
    ValueError
        If the name or an option is unknown (the message lists the known ones), or if a value is out of range.
    """
    cls = find(METHODS, "method", name)
    check_options(name, options, [each.name for each in fields(cls)])  # type: ignore[arg-type]
    return cls(**options)
