"""What every exit policy is: a signal, and the rule that a sample leaves at the first exit where it reaches δ."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import fields
from numbers import Integral, Real
from typing import Any, ClassVar, Literal, get_args, get_origin, get_type_hints

import numpy as np

from offramp._registry import check_options
from offramp.records import ExitRecord


class NotFittedError(ValueError, AttributeError):
    """The error that is raised when a policy that learns from data is used before it was fitted.

    It has the same base classes as `sklearn.exceptions.NotFittedError`, so code that catches ValueError catches both.
    """


def first_exit(signal: np.ndarray, threshold: float | np.ndarray) -> np.ndarray:
    """The rule of every policy: the first exit with signal ≥ threshold, else the last.

    Parameters
    ----------
    signal : ndarray of shape (N, L)
    threshold : float or ndarray of shape (L − 1,)
        δ, shared or one an exit. +∞ never exits early, −∞ always at once.

    Returns
    -------
    ndarray of shape (N,), int64
        0-based exits.
    """
    n_samples, n_exits = signal.shape
    threshold = np.asarray(threshold, np.float64)
    if threshold.shape not in ((), (n_exits - 1,)) or np.isnan(threshold).any():
        raise ValueError(
            f"threshold: expected a number or {n_exits - 1} of them (one an exit but the last), none NaN; "
            f"got {threshold.tolist()}"
        )
    stops = np.ones((n_samples, n_exits), bool)  # (N, L): the last exit always answers
    stops[:, :-1] = (signal[:, :-1] >= threshold) & (threshold < np.inf)
    return stops.argmax(axis=1)


class Policy(ABC):
    """An exit policy: options (the dataclass fields of each policy), `fit` on validation, `signal` anywhere.

    A subclass is a dataclass with a `name`, the `rule` in one line, the `paper`, and `_signal`; one that learns
    also has `_fit`, which returns what it learnt as named arrays. These are all that a file keeps.
    """

    name: ClassVar[str]
    rule: ClassVar[str]
    paper: ClassVar[str]

    state: dict[str, np.ndarray] | None = None
    fitted_exits: int | None = None
    fitted_classes: int | None = None

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for field in fields(self):  # type: ignore[arg-type]
            what, value = f"{self.name}: option {field.name}", getattr(self, field.name)
            setattr(self, field.name, _checked_option(what, value, hints[field.name], **field.metadata))

    def fit(self, record: ExitRecord) -> "Policy":
        """Learn from validation data; a policy that learns nothing accepts it too.

        Raises
        ------
        ValueError
            If the record lacks what the policy learns from, for most policies the labels.
        """
        self.state = self._fit(record)
        self.fitted_exits, self.fitted_classes = record.n_exits, record.n_classes
        return self

    def signal(self, record: ExitRecord) -> np.ndarray:
        """S, float64 (N, L): the larger, the sooner a sample leaves. It does not depend on any threshold.

        Raises
        ------
        NotFittedError
            If the policy learns and was not fitted.
        ValueError
            If the record has other exits or classes than the fit, or the signal is not a number somewhere.
        """
        self._check_fits(record)
        signal = np.asarray(self._signal(record), np.float64)
        if np.isnan(signal).any():
            raise ValueError(f"{self.name}: the signal has NaN; expected numbers")
        return signal

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
        """Set some options of this policy; the values are validated as by the constructor.

        If the value of any option changes, a fitted policy becomes unfitted. (scikit-learn would keep the fitted
        state.) What was learnt with other options does not fit the new ones, and `save_policies` writes both together.

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
            If an option is unknown (the known ones are listed) or a value is out of its range. The policy is then left
            as it was.
        """
        before = self.options
        after = self._made_with(before | params).options
        if after != before:
            for name, value in after.items():
                setattr(self, name, value)
            self.state = self.fitted_exits = self.fitted_classes = None
        return self

    @classmethod
    def _made_with(cls, options: Mapping[str, Any]) -> "Policy":
        """A new policy with these options; ValueError lists the known options where one is unknown."""
        check_options(cls.name, options, [field.name for field in fields(cls)])  # type: ignore[arg-type]
        return cls(**options)

    def exits(self, record: ExitRecord, threshold: float | np.ndarray) -> np.ndarray:
        """The 0-based exit of each sample, (N,), for a threshold as in `first_exit`."""
        return first_exit(self.signal(record), threshold)

    def predict(self, record: ExitRecord, threshold: float | np.ndarray) -> np.ndarray:
        """Predict the class of each sample, by the exit where it leaves.

        In contrast to `prediction`, which has the answers of all exits, this is the one answer that is given. It
        follows the rule of `exits`, except where the policy lets another exit answer for samples on which no exit
        reaches a shared threshold.

        Parameters
        ----------
        record : ExitRecord
            Its labels are not used, and it may have none.
        threshold : float or ndarray of shape (L − 1,)
            δ, shared or one per exit, as in `exits`.

        Returns
        -------
        ndarray of shape (N,), int64
            Classes.

        Raises
        ------
        NotFittedError
            If the policy learns and was not fitted.
        ValueError
            If the threshold is NaN or has another shape, or the record does not fit the policy.
        """
        return decide(self, record, [threshold])[1][0]

    def prediction(self, record: ExitRecord) -> np.ndarray:
        """The answer of each exit, (N, L): the record's own, unless the policy lets several exits answer together."""
        return record.prediction

    def correct(self, record: ExitRecord) -> np.ndarray:
        """Which of these answers are right, bool (N, L); ValueError where the record has no labels."""
        answers = self.prediction(record)
        if answers is record.prediction:
            return record.correct
        return answers == record.needed_labels("telling which answers are correct")[:, None]

    def choose_threshold(
        self, validation: ExitRecord, *, accuracy: float | None = None, cost: float | None = None
    ) -> float:
        """Choose the shared threshold that serves a target best on validation data.

        This is the function `offramp.choose_threshold` as a method. For a threshold per exit, see `choose_thresholds`.

        Parameters
        ----------
        validation : ExitRecord
            With labels.
        accuracy : float, optional
            Take the cheapest operating point that is at least as accurate; +∞, the full model, where none is.
        cost : float, optional
            Or: take the one that spends most of this average cost; −∞, the first exit, where none costs so little.

        Returns
        -------
        float

        Raises
        ------
        NotFittedError
            If the policy learns and was not fitted.
        ValueError
            If both targets or none are given, the record has no labels, or it does not fit the policy.
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
        """A threshold an exit, for `exits`: BEEM's rule that those who leave err no more often than the final exit.

        Exit by exit, over the samples still there: the smallest threshold whose share of errors among those that leave
        is at most the reference's; they leave, the others go on. +∞ where there is none; who has −∞ never leaves. The
        rule is the paper's; it does not say how the thresholds are found, or what the error is compared with: solver,
        references and support are our choices.

        Parameters
        ----------
        validation : ExitRecord
        rule : {"error_rate"}
        reference : {"overall", "same_samples"}
            The error of the policy's last answer (the final exit's, unless several exits answer together) on all of
            validation, or on the samples that leave. With "same_samples" the policy never errs more often on these
            samples than that answer does.
        min_support : int
            The fewest samples that may leave at an exit: a tiny group's error says little.

        Returns
        -------
        ndarray of shape (L − 1,)

        Raises
        ------
        NotFittedError
            If the policy learns and was not fitted.
        ValueError
            If an option is unknown or out of range, or the record has no labels.
        """
        validation.needed_labels("choose_thresholds")
        for name, value, known in (
            ("rule", rule, ("error_rate",)),
            ("reference", reference, ("overall", "same_samples")),
        ):
            if value not in known:
                raise ValueError(f"choose_thresholds: {name} is {value!r}; expected one of {', '.join(known)}")
        if not isinstance(min_support, Integral) or min_support < 1:
            raise ValueError(f"choose_thresholds: min_support is {min_support!r}; expected a whole number from 1")
        # +∞ is no threshold at which samples leave
        signal = np.minimum(self.signal(validation), np.finfo(np.float64).max)  # (N, L)
        wrong = ~self.correct(validation)  # (N, L)
        alive = np.arange(validation.n_samples)  # (n,)
        thresholds = np.full(validation.n_exits - 1, np.inf)  # (L − 1,)
        for i in range(validation.n_exits - 1):
            order = alive[np.argsort(-signal[alive, i], kind="stable")]  # (n,), the surest first
            left = np.arange(1, len(order) + 1)
            errors, finals = wrong[order, i].cumsum(), wrong[order, -1].cumsum()  # (n,) among the first, second, …
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
        """The exit (N,) that answers for a sample on which no exit at all reaches the threshold; None: the last.

        All exits were paid for then, whichever answers.
        """
        return None

    @property
    def options(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]

    @property
    def claims_accuracy(self) -> bool:
        """Does the signal claim to be the chance of being right, so that δ reads as an accuracy?"""
        return False

    @property
    def learns(self) -> bool:
        return type(self)._fit is not Policy._fit

    def _fit(self, record: ExitRecord) -> dict[str, np.ndarray]:
        return {}

    @abstractmethod
    def _signal(self, record: ExitRecord) -> np.ndarray:
        """(N, L)"""

    def _check_fitted(self) -> None:
        if self.learns and self.state is None:
            raise NotFittedError(f"{self.name} learns from data: call fit(validation_record) first")

    def _check_fits(self, record: ExitRecord) -> None:
        self._check_fitted()
        if self.state is None:
            return
        if record.n_exits != self.fitted_exits:
            raise ValueError(
                f"the record has {record.n_exits} exits, but {self.name} was fitted on {self.fitted_exits}"
            )
        if None not in (record.n_classes, self.fitted_classes) and record.n_classes != self.fitted_classes:
            raise ValueError(
                f"the record has {record.n_classes} classes, but {self.name} was fitted on {self.fitted_classes}"
            )


def decide(policy: Policy, record: ExitRecord, thresholds: Sequence) -> tuple[np.ndarray, np.ndarray]:
    """Decide where each sample leaves and what is answered, for thresholds that are shared or one per exit.

    Parameters
    ----------
    policy : Policy
        Fitted, if it learns.
    record : ExitRecord
        Its labels are not used, and it may have none.
    thresholds : sequence of T numbers or ndarrays of shape (L − 1,)
        A fallback of the policy answers at shared thresholds only.

    Returns
    -------
    exits, answers : ndarray of shape (T, N), int64
        0-based exits; classes.

    Raises
    ------
    NotFittedError
        If the policy learns and was not fitted.
    ValueError
        If a threshold is NaN or has another shape, or the record does not fit the policy.
    """
    if np.isscalar(thresholds):
        raise ValueError(f"thresholds: expected a sequence, got {thresholds!r}; give one as [{thresholds!r}]")
    signal, prediction = policy.signal(record), policy.prediction(record)  # (N, L) each
    fallback = policy.fallback(record, signal)
    exits = np.empty((len(thresholds), record.n_samples), np.int64)  # (T, N)
    for threshold, leave_at in zip(thresholds, exits):
        leave_at[:] = first_exit(signal, threshold)
    answers = np.take_along_axis(prediction, exits.T, axis=1).T  # (T, N)
    if fallback is not None:
        others = np.take_along_axis(prediction, fallback[:, None], axis=1)[:, 0]  # (N,)
        for threshold, answer in zip(thresholds, answers):
            if np.ndim(threshold) == 0:
                nowhere = (signal < threshold).all(axis=1) | (threshold == np.inf)  # (N,)
                answer[nowhere] = others[nowhere]
    return exits, answers


def _checked_option(what: str, value: Any, hint: Any, least: int = 1, above: float = -np.inf) -> Any:
    """Hold an option to its annotation: a Literal's values, a whole number from `least` (int), a finite number above
    `above` (float), None."""
    alternatives = [hint] if get_origin(hint) is Literal or not get_args(hint) else list(get_args(hint))
    allowed = [v for a in alternatives for v in (get_args(a) if get_origin(a) is Literal else [])]
    if type(None) in alternatives:
        allowed.append(None)
    for a in allowed:
        if value is a or (isinstance(value, str) and value == a):
            return a  # not the value itself: a str of NumPy becomes a plain one
    number = isinstance(value, Real) and not isinstance(value, bool | np.bool_)
    if int in alternatives and number and isinstance(value, Integral) and value >= least:
        return int(value)
    if float in alternatives and number and np.isfinite(value) and value > above:
        return float(value)
    numbers = {
        int: f"a whole number from {least}",
        float: "a number" if above == -np.inf else f"a number above {above}",
    }
    kinds = [numbers[a] for a in alternatives if a in numbers]
    raise ValueError(f"{what} is {value!r}: expected {' or '.join([*map(repr, allowed), *kinds])}")
