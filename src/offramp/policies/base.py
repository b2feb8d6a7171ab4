"""Base class of all exit policies.

A policy computes a signal for each sample and exit, exit by exit. A sample leaves at the first exit where the signal is
at least the threshold δ.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import fields
from numbers import Integral
from typing import Any, ClassVar, Literal

import numpy as np

from offramp._registry import check_fields, check_options
from offramp.policies.stream import Stream
from offramp.records import ExitOutputs, ExitRecord
from offramp.records.metrics import whole
from offramp.records.origin import differences, origin, samples_of, warn_of_test
from offramp.records.outputs import needed_prediction

BLOCK = 1 << 16  # numbers per exit that stay in the cache, with some arrays that are computed from them
REJECTED = -1  # the answer of a sample that is rejected


class NotFittedError(ValueError, AttributeError):
    """The error that is raised when a policy that learns from data is used before it was fitted.

    It has the same base classes as `sklearn.exceptions.NotFittedError`, so code that catches ValueError catches both.
    """


def reaches(signal: np.ndarray, threshold: float | np.ndarray) -> np.ndarray:
    """Return whether signals reach the threshold, bool: signal ≥ threshold. No signal reaches a threshold of +∞."""
    return (signal >= threshold) & (threshold < np.inf)


def first_exit(signal: np.ndarray, threshold: float | np.ndarray) -> np.ndarray:
    """Return the first exit with signal ≥ threshold, or the last exit if there is none. All policies use this rule.

    Parameters
    ----------
    signal : ndarray of shape (N, L)
    threshold : float or ndarray of shape (L − 1,)
        Threshold δ, shared by all exits or one per exit. With +∞, no sample leaves early. With −∞, all samples leave at
        the first exit.

    Returns
    -------
    ndarray of shape (N,), int64
        Exits, counted from 0.

    Raises
    ------
    ValueError
        If the threshold is NaN or has another shape.
    """
    n_samples, n_exits = signal.shape
    threshold = checked_threshold(threshold, n_exits)
    stops = np.ones((n_samples, n_exits), bool)  # (N, L): the last exit always answers
    stops[:, :-1] = reaches(signal[:, :-1], threshold)
    return stops.argmax(axis=1)


def checked_threshold(threshold: float | np.ndarray, n_exits: int, what: str = "threshold") -> np.ndarray:
    """Return a threshold as an array of shape () or (L − 1,). Raises ValueError if it is NaN or has another shape."""
    threshold = np.asarray(threshold, np.float64)
    if threshold.shape not in ((), (n_exits - 1,)) or np.isnan(threshold).any():
        raise ValueError(
            f"{what}: expected a number or {n_exits - 1} of them (one per exit except the last), none NaN; "
            f"got {threshold.tolist()}"
        )
    return threshold


def checked_rejection(reject_below: float) -> float:
    """Return ρ, below which answers are rejected. Raises ValueError if it is not one number, or NaN."""
    if np.ndim(reject_below) or np.isnan(reject_below):
        raise ValueError(f"reject_below: expected one number, not NaN; got {np.asarray(reject_below).tolist()}")
    return float(reject_below)


class Policy:
    """Base class of exit policies. The options of a policy are its dataclass fields.

    A subclass is a dataclass that defines `name`, `rule`, `paper` and `_step`. If it learns from validation data, it
    also defines `_fit`, which returns the learned parameters as named arrays. A file of fitted policies contains these
    arrays and the options.

    Attributes
    ----------
    name : str
        Name in the registry `POLICIES`.
    rule : str
        Condition under which a sample leaves, in one line.
    paper : str
        Source of the policy.
    state : dict of str to ndarray, or None
        Learned parameters; None before `fit`.
    fitted_exits, fitted_classes : int or None
        Number of exits and of classes of the record on which the policy was fitted.
    fitted_on : dict
        Where that record came from, according to its metadata (see `records.origin`).
    fitted_samples : tuple of ndarray, or None
        Which samples these were (see `records.origin.samples_of`). Not stored in files.
    """

    name: ClassVar[str]
    rule: ClassVar[str]
    paper: ClassVar[str]

    state: dict[str, np.ndarray] | None = None
    fitted_exits: int | None = None
    fitted_classes: int | None = None
    fitted_on: Mapping[str, Any] = {}
    fitted_samples: tuple[np.ndarray, np.ndarray] | None = None

    def __post_init__(self) -> None:
        check_fields(self)

    def fit(self, record: ExitRecord) -> "Policy":
        """Fit the policy on validation data. Policies that do not learn from data accept the call, too.

        Parameters
        ----------
        record : ExitRecord
            Validation record.

        Returns
        -------
        Policy
            This policy.

        Raises
        ------
        ValueError
            If the record lacks data that the policy learns from. Most policies need labels.

        Warns
        -----
        UserWarning
            If the policy learns from data, and the split of the record is test.
        """
        if self.learns:
            warn_of_test(record, "fitting a policy")
        self.state = self._fit(record)
        self.fitted_exits, self.fitted_classes = record.n_exits, record.n_classes
        self.fitted_on = origin(record.metadata)
        self.fitted_samples = samples_of(record) if self.learns else None
        return self

    def signal(self, record: ExitRecord) -> np.ndarray:
        """Compute the signal S. It does not depend on a threshold; samples with a larger signal leave earlier.

        Parameters
        ----------
        record : ExitRecord
            Labels and qualities are not used (except by `Oracle` with `target="label"`), and may be missing.

        Returns
        -------
        ndarray of shape (N, L), float64

        Raises
        ------
        NotFittedError
            If the policy learns from data and was not fitted.
        ValueError
            If the numbers of exits or classes differ from those of the record of the fit, if the record lacks data that
            the policy needs, or if the signal contains NaN.

        Warns
        -----
        UserWarning
            If the policy learned from a record of another system, seed, dataset or unit of costs.
        """
        self._check_fits(record.n_exits, record.n_classes)
        if self.learns and (others := differences(self.fitted_on, record.metadata)):
            warnings.warn(f"{self.name} was fitted on another record than this one: {'; '.join(others)}", stacklevel=2)
        return self._over(record)[0]

    def start(self, n: int, exits: int | None = None, *, first: int = 0) -> Stream:
        """Start to decide on samples whose exits come in one after another.

        Parameters
        ----------
        n : int
            Number of samples.
        exits : int, optional
            Number of exits L. By default that of the fit, if the policy was fitted. `Agreement` and `Random` need it.
        first : int
            Number of samples before these, for samples that come in batches. Only `Random` uses it, whose numbers are
            then those of a single batch.

        Returns
        -------
        Stream
            Its method `step` takes the outputs of the next exit and returns the signal.

        Raises
        ------
        NotFittedError
            If the policy learns from data and was not fitted.
        ValueError
            If a number is out of range, if the number of exits differs from that of the fit, or if it is missing.
            Also for `Oracle`, which needs the last exit or the labels.

        Examples
        --------
        >>> import numpy as np
        >>> from offramp import ExitOutputs, make_policy
        >>> stream = make_policy("patience").start(2)
        >>> stream.step(ExitOutputs.of(np.array([[2.0, 1.0], [0.0, 3.0]])))
        array([0., 0.])
        >>> stream.keep([1])
        >>> stream.step(ExitOutputs.of(np.array([[1.0, 2.0]])))
        array([1.])
        """
        for what, value, least in (("n", n, 0), ("exits", exits, 1), ("first", first, 0)):
            if value is not None and not (isinstance(value, Integral) and value >= least):
                raise ValueError(f"{self.name}: start: {what} is {value!r}; expected a whole number from {least}")
        exits = self.fitted_exits if exits is None else exits
        self._check_fits(exits, None)
        stream = Stream(self, n, exits, first)
        self._begin(stream)
        return stream

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Get the options of this policy, as for any scikit-learn estimator.

        Parameters
        ----------
        deep : bool, default=True
            Accepted for compatibility with scikit-learn; no option is itself an estimator, so it has no effect.

        Returns
        -------
        dict
            The value of each option by its name.
        """
        return self.options

    def set_params(self, **params: Any) -> "Policy":
        """Set options of this policy. The values are validated as in the constructor.

        If the value of an option changes, a fitted policy becomes unfitted. (scikit-learn would keep the fitted state.)
        The reason is that parameters learned with other options do not match the new ones, and `save_policies` stores
        both together.

        Parameters
        ----------
        **params
            The new value of each option by its name. Options that are not named keep their values.

        Returns
        -------
        Policy
            This policy.

        Raises
        ------
        ValueError
            If an option is unknown (the message lists the known ones) or a value is out of range. The policy is then
            not changed.
        """
        before = self.options
        after = self._made_with(before | params).options
        if after != before:
            for name, value in after.items():
                setattr(self, name, value)
            self.state = self.fitted_exits = self.fitted_classes = self.fitted_samples = None
            self.fitted_on = {}
        return self

    @classmethod
    def _made_with(cls, options: Mapping[str, Any]) -> "Policy":
        """Create a policy with these options. Raises ValueError, with a list of the options, if one is unknown."""
        check_options(cls.name, options, [field.name for field in fields(cls)])  # type: ignore[arg-type]
        return cls(**options)

    def exits(self, record: ExitRecord, threshold: float | np.ndarray) -> np.ndarray:
        """Return the exit at which each sample leaves.

        Parameters
        ----------
        record : ExitRecord
        threshold : float or ndarray of shape (L − 1,)
            Threshold δ, shared by all exits or one per exit, as in `first_exit`.

        Returns
        -------
        ndarray of shape (N,), int64
            Exits, counted from 0.

        Raises
        ------
        NotFittedError
            If the policy learns from data and was not fitted.
        ValueError
            If the threshold is NaN or has another shape, or if the record is not compatible with the policy.
        """
        return first_exit(self.signal(record), threshold)

    def predict(
        self,
        record: ExitRecord,
        threshold: float | np.ndarray,
        *,
        reject_below: float = -np.inf,
        abstain_below: float | np.ndarray = -np.inf,
    ) -> np.ndarray:
        """Predict the class, or give the answer, of each sample, with the exit at which it leaves.

        In contrast, `prediction` returns the predictions of all exits. The exits are those of `exits`, with one
        exception: if a sample reaches a shared threshold at no exit, some policies use the prediction of an exit other
        than the last one (see `fallback`).

        Parameters
        ----------
        record : ExitRecord
            Labels are not used, and may be missing.
        threshold : float or ndarray of shape (L − 1,)
            Threshold δ, shared by all exits or one per exit, as in `exits`.
        reject_below, abstain_below
            As for `decide`.

        Returns
        -------
        ndarray of shape (N,), int64 or str
            Classes, or their names if the record has names. Rejected samples have −1, or the empty text.

        Raises
        ------
        NotFittedError
            If the policy learns from data and was not fitted.
        ValueError
            If a threshold is NaN or has another shape, or if the record is not compatible with the policy or has no
            predictions.
        """
        _, (answers,) = decide(self, record, [threshold], reject_below=reject_below, abstain_below=abstain_below)
        return answers if record.names is None else np.array([*record.names, ""])[answers]

    def estimate(self, record: ExitRecord) -> np.ndarray:
        """Estimate the probability that each answer is right, by which answers are rejected.

        This is the signal, if it is an estimated accuracy (`claims_accuracy`). Otherwise, it is max softmax of the
        exit.

        Returns
        -------
        ndarray of shape (N, L), float64

        Raises
        ------
        NotFittedError
            If the policy learns from data and was not fitted.
        ValueError
            If the record is not compatible with the policy, or has no max softmax.
        """
        return self.signal(record) if self.claims_accuracy else record.confidence().astype(np.float64)

    def prediction(self, record: ExitRecord) -> np.ndarray:
        """Return the prediction of each exit, (N, L).

        These are the predictions of the record, except for policies in which several exits answer together.

        Raises
        ------
        ValueError
            If the record has no predictions.
        """
        if self.answers_together:
            return needed_prediction(self._over(record)[1], self.name)
        return record.needed_prediction("telling what the exits predict")

    def correct(self, record: ExitRecord) -> np.ndarray:
        """Return whether each of these predictions is correct, or the quality of the answers, as `ExitRecord.correct`.

        If several exits answer together, the quality is that of the latest exit so far that gives the same answer.

        Returns
        -------
        ndarray of shape (N, L), bool or float64

        Raises
        ------
        ValueError
            If the record has neither labels nor qualities, or if it has qualities and several exits together give an
            answer that none of them gives, whose quality is therefore not known.
        """
        if not self.answers_together:
            return record.correct
        answers = self.prediction(record)  # (N, L)
        if record.quality is None:
            return answers == record.needed_labels("telling which answers are correct")[:, None]
        of_exits = record.needed_prediction(self.name)  # (N, L)
        quality = np.full(answers.shape, np.nan)  # (N, L)
        for i in range(record.n_exits):
            for j in range(i + 1):  # the latest exit is the last one that is written
                np.copyto(quality[:, i], record.quality[:, j], where=of_exits[:, j] == answers[:, i])
        if np.isnan(quality).any():
            raise ValueError(
                f"{self.name}: several exits answer together, and the quality of an answer that no exit gives is not "
                "known; expected a record with labels"
            )
        return quality

    def choose_threshold(
        self, validation: ExitRecord, *, accuracy: float | None = None, cost: float | None = None
    ) -> float:
        """Choose a threshold, shared by all exits, for a target accuracy or a target cost on validation data.

        This is the function `offramp.choose_threshold` as a method. For one threshold per exit, see
        `choose_thresholds`.

        Parameters
        ----------
        validation : ExitRecord
            Validation record with labels.
        accuracy : float, optional
            Target accuracy, or mean quality. Choose the cheapest operating point that reaches it, or +∞ (the full
            model) if there is none.
        cost : float, optional
            Alternatively, choose the operating point with the highest average cost up to this value, or −∞ (the first
            exit) if there is none.

        Returns
        -------
        float

        Raises
        ------
        NotFittedError
            If the policy learns from data and was not fitted.
        ValueError
            If both targets or none are given, if the record has no labels, or if it is not compatible with the policy.
        """
        # Imported here, because evaluation imports this module
        from offramp.evaluation.curves import choose_threshold

        return choose_threshold(self, validation, accuracy=accuracy, cost=cost)

    def choose_thresholds(
        self,
        validation: ExitRecord,
        *,
        rule: Literal["error_rate"] = "error_rate",
        reference: Literal["overall", "same_samples"] = "overall",
        min_support: int = 10,
    ) -> np.ndarray:
        """Choose one threshold per exit, by the rule of BEEM, for use in `exits` and `predict`.

        The rule (BEEM, arXiv 2502.00745) is that the samples that leave at an exit may not have a higher error rate
        than the final exit. Thresholds are chosen exit by exit, on the samples that have not left yet: the smallest
        threshold at which the error rate of the samples that leave is at most the reference error rate. These samples
        then leave, and the others continue. The threshold is +∞ if there is no such value. Samples with a signal of −∞
        never leave.

        The paper does not state how the thresholds are found or on which samples the error of the final exit is
        measured. The algorithm, `reference` and `min_support` are our choice. If answers have a quality, the error of
        an answer is 1 minus its quality.

        Parameters
        ----------
        validation : ExitRecord
            Validation record with labels.
        rule : {"error_rate"}
        reference : {"overall", "same_samples"}
            Samples on which the error rate of the final prediction is measured: all validation samples, or the samples
            that leave at the exit. The final prediction is that of the last exit, or, for policies in which several
            exits predict together, their last common prediction. With "same_samples", the validation samples that
            leave at an exit never have a higher error rate there than at the last exit.
        min_support : int
            Minimum number of samples that leave at an exit. The error rate of fewer samples is not reliable.

        Returns
        -------
        ndarray of shape (L − 1,), float64

        Raises
        ------
        NotFittedError
            If the policy learns from data and was not fitted.
        ValueError
            If an option is unknown or out of range, or if the record has no labels.
        """
        validation.needed_correct("choose_thresholds")
        warn_of_test(validation, "choosing thresholds")
        for name, value, known in (
            ("rule", rule, ("error_rate",)),
            ("reference", reference, ("overall", "same_samples")),
        ):
            if value not in known:
                raise ValueError(f"choose_thresholds: {name} is {value!r}; expected one of {', '.join(known)}")
        if not isinstance(min_support, Integral) or min_support < 1:
            raise ValueError(f"choose_thresholds: min_support is {min_support!r}; expected a whole number from 1")
        # A threshold of +∞ means that no sample leaves, so the signal must be finite
        signal = np.minimum(self.signal(validation), np.finfo(np.float64).max)  # (N, L)
        right, one = whole(self.correct(validation))  # (N, L)
        wrong = one - right.astype(np.longdouble)  # (N, L), whole numbers, so that sums and ties are exact
        alive = np.arange(validation.n_samples)  # (n,)
        thresholds = np.full(validation.n_exits - 1, np.inf)  # (L − 1,)
        for i in range(validation.n_exits - 1):
            order = alive[np.argsort(-signal[alive, i], kind="stable")]  # (n,), in descending order of the signal
            left = np.arange(1, len(order) + 1)
            errors, finals = wrong[order, i].cumsum(), wrong[order, -1].cumsum()  # (n,), cumulative numbers
            allowed = (
                errors <= finals if reference == "same_samples" else errors * len(wrong) <= wrong[:, -1].sum() * left
            )
            values = signal[order, i]  # (n,)
            of_equals_last = np.append(values[1:] != values[:-1], True)[: len(order)]
            may_leave = of_equals_last & (left >= min_support) & (values > -np.inf)
            places = np.flatnonzero(allowed & may_leave)
            if len(places):
                thresholds[i] = values[places[-1]]
                alive = order[places[-1] + 1 :]
        return thresholds

    def fallback(self, record: ExitRecord, signal: np.ndarray) -> np.ndarray | None:
        """Return the exit (N,) whose prediction is used for samples that reach the threshold at no exit.

        None means the last exit. The cost is that of all exits in any case.
        """
        exits = range(record.n_exits)
        ranks = [self._rank(record.outputs(i, logits=False), signal[:, i]) for i in exits]
        known = [rank for rank in ranks if rank is not None]  # L arrays (N,), or none
        return record.n_exits - 1 - np.argmax(known[::-1], axis=0) if known else None  # the latest exit in case of ties

    @property
    def options(self) -> dict[str, Any]:
        """The value of each option, by its name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]

    @property
    def claims_accuracy(self) -> bool:
        """Whether the signal estimates the probability of a correct prediction, so that δ is a target accuracy."""
        return False

    @property
    def answers_together(self) -> bool:
        """Whether several exits answer together, so that the predictions differ from those of the record."""
        return False

    @property
    def reads_exits(self) -> bool:
        """Whether the signal depends on the outputs of exits, so that the exits up to the chosen one must run."""
        return True

    @property
    def needs_logits(self) -> bool:
        """Whether the policy reads logits, not only predictions and confidences."""
        return False

    @property
    def needs(self) -> tuple[str, ...]:
        """What a record must contain for this policy: "logits", "prediction", "features", or confidence measures.

        Logits and confidence measures include predictions.
        """
        if self.needs_logits:
            return ("logits",)
        return (score,) if isinstance(score := self.options.get("score"), str) else ()

    @property
    def learns(self) -> bool:
        """Whether the policy learns from validation data, so that it must be fitted."""
        return type(self)._fit is not Policy._fit

    def _fit(self, record: ExitRecord) -> dict[str, np.ndarray]:
        return {}

    def _begin(self, stream: Stream) -> None:
        """Put what the first step needs into `stream.past`, or check that the stream knows what the policy needs."""

    def _step(self, outputs: ExitOutputs, stream: Stream) -> np.ndarray:
        """Compute the signal (n,) of exit `stream.exit` from its outputs.

        What later exits need of it is put into `stream.past`. If several exits answer together, `stream.prediction` is
        set, too.
        """
        raise NotImplementedError

    def _rank(self, outputs: ExitOutputs, signal: np.ndarray) -> np.ndarray | None:
        """Return numbers (n,), the highest of which determine the fallback exit of a sample; None for the last exit."""
        return None

    def _over(self, record: ExitRecord) -> tuple[np.ndarray, np.ndarray | None]:
        """Run a stream over the exits of a record. Return the signal and the predictions if any, (N, L) each."""
        if record.is_router and self.reads_exits:
            raise ValueError(
                f"{self.name} reads the outputs of exits, but in a router only the chosen exit runs; expected router, "
                "oracle or random, or the record of a cascade"
            )
        signal = np.empty((record.n_samples, record.n_exits))  # (N, L)
        together = np.empty(signal.shape, np.int64) if self.answers_together else None  # (N, L)
        size = max(1, BLOCK // (record.needed_logits(self.name).shape[2] if self.needs_logits else 4))
        for first in range(0, record.n_samples, size):
            rows = slice(first, first + size)
            stream = self.start(len(signal[rows]), record.n_exits, first=first)
            for i in range(record.n_exits):
                signal[rows, i] = stream.step(record.outputs(i, rows, logits=self.needs_logits))
                if together is not None:
                    together[rows, i] = needed_prediction(stream.prediction, self.name)
        return signal, record.prediction if together is None else together

    def _check_fitted(self) -> None:
        if self.learns:
            self._learned()

    def _learned(self) -> dict[str, np.ndarray]:
        """Return `state`. Raises NotFittedError before `fit`."""
        if self.state is None:
            raise NotFittedError(f"{self.name} learns from data: call fit(validation_record) first")
        return self.state

    def _check_fits(self, exits: int | None, classes: int | None) -> None:
        """Check that the policy is fitted, on as many exits and classes as these."""
        self._check_fitted()
        if self.state is None:
            return
        for what, number, fitted in (("exits", exits, self.fitted_exits), ("classes", classes, self.fitted_classes)):
            if number != fitted and None not in (number, fitted):
                raise ValueError(f"the system has {number} {what}, but {self.name} was fitted on {fitted}")


def decide(
    policy: Policy,
    record: ExitRecord,
    thresholds: Sequence,
    *,
    reject_below: float = -np.inf,
    abstain_below: float | np.ndarray = -np.inf,
) -> tuple[np.ndarray, np.ndarray]:
    """Compute the exit and the prediction of each sample, for several thresholds.

    Parameters
    ----------
    policy : Policy
        Must be fitted if it learns from data.
    record : ExitRecord
        Labels are not used, and may be missing.
    thresholds : sequence of T numbers or ndarrays of shape (L − 1,)
        Thresholds δ. A number is shared by all exits, and an array has one value per exit. The `fallback` of the policy
        is used with shared thresholds only.
    reject_below : float
        Threshold ρ. An answer whose `Policy.estimate` is below ρ is rejected: it becomes −1. The sample has paid for
        all exits up to the one where it leaves. With −∞, all answers are accepted, and with +∞, none.
    abstain_below : float or ndarray of shape (L − 1,)
        Threshold for early abstention, shared by all exits or one per exit except the last. A sample that does not
        leave at an exit, and whose estimate there is below this threshold, is rejected at once: later exits do not run.

    Returns
    -------
    exits, answers : ndarray of shape (T, N), int64
        Exits, counted from 0, and predicted classes (or answers) by number; −1 for rejected samples.

    Raises
    ------
    NotFittedError
        If the policy learns from data and was not fitted.
    ValueError
        If a threshold is NaN or has another shape, or if the record is not compatible with the policy or has no
        predictions.
    """
    exits, answering = answering_exits(policy, record, thresholds)  # (T, N) each
    answers = at_exits(policy.prediction(record), answering)  # (T, N)
    exits, rejected = rejections(policy, record, exits, answering, reject_below, abstain_below)
    return exits, np.where(rejected, REJECTED, answers)


def rejections(
    policy: Policy, record: ExitRecord, exits: np.ndarray, answering: np.ndarray, reject_below, abstain_below
) -> tuple[np.ndarray, np.ndarray]:
    """Return the exits with early abstention and whether each sample is rejected (bool), (T, N) each, as for `decide`.

    `exits` and `answering` are those of `answering_exits`.
    """
    reject_below = checked_rejection(reject_below)
    abstain_below = checked_threshold(abstain_below, record.n_exits, "abstain_below")  # () or (L − 1,)
    if reject_below == -np.inf and (abstain_below == -np.inf).all():
        return exits, np.zeros(exits.shape, bool)
    estimate = policy.estimate(record)  # (N, L)
    abstains = np.ones(estimate.shape, bool)  # (N, L): at the last exit, the sample leaves in any case
    abstains[:, :-1] = ~reaches(estimate[:, :-1], abstain_below)
    first = abstains.argmax(axis=1)  # (N,)
    rejected = (first < exits) | ~reaches(at_exits(estimate, answering), reject_below)  # (T, N)
    return np.minimum(exits, first), rejected


def answering_exits(policy: Policy, record: ExitRecord, thresholds: Sequence) -> tuple[np.ndarray, np.ndarray]:
    """Return the exit at which each sample leaves and the exit whose answer it gets, (T, N) each, as for `decide`.

    The two differ only for samples that reach a shared threshold at no exit, if the policy has a `fallback`.
    """
    if np.isscalar(thresholds):
        raise ValueError(f"thresholds: expected a sequence, got {thresholds!r}; give one as [{thresholds!r}]")
    signal = policy.signal(record)  # (N, L)
    fallback = policy.fallback(record, signal)
    exits = np.empty((len(thresholds), record.n_samples), np.int64)  # (T, N)
    for threshold, leave_at in zip(thresholds, exits):
        leave_at[:] = first_exit(signal, threshold)
    if fallback is None:
        return exits, exits
    answering = exits.copy()
    for threshold, answer_at in zip(thresholds, answering):
        if np.ndim(threshold) == 0:
            nowhere = (signal < threshold).all(axis=1) | (threshold == np.inf)  # (N,)
            answer_at[nowhere] = fallback[nowhere]
    return exits, answering


def at_exits(values: np.ndarray, exits: np.ndarray) -> np.ndarray:
    """Return the values (N, L) of each sample at given exits (T, N): (T, N)."""
    return np.take_along_axis(values, exits.T, axis=1).T
