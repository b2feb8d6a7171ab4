"""What an accelerated model promises, and what is known of it."""

from dataclasses import dataclass

import numpy as np

from offramp.certification import Certificate
from offramp.certification.losses import loss_of
from offramp.certification.pvalues import P_VALUES, upper_bound
from offramp.policies import Policy
from offramp.policies.base import first_exit
from offramp.records import ExitRecord


def measured_risk(
    risk: str, policy: Policy, record: ExitRecord, exits: np.ndarray, confidence: float
) -> tuple[float, float, float]:
    """Return the risk of samples that leave at these exits (N,), and its lower and its upper bound.

    Each bound holds with this confidence. They are exact for losses of 0 and 1, and by betting for others.
    """
    loss = loss_of(risk, policy, record, None, None)
    own = loss.scaled(loss.values)[np.arange(len(exits)), exits].astype(np.float64)  # (N,)
    p_value, scale = P_VALUES["binomial" if loss.binary else "wsr"], loss.high - loss.low
    low, high = 1 - upper_bound(p_value, 1 - own, confidence), upper_bound(p_value, own, confidence)
    mean, low, high = (loss.low + scale * float(value) for value in (own.mean(), low, high))
    return mean, low, high


@dataclass(frozen=True, kw_only=True)
class Promise:
    """What is promised, and what is known of it.

    Attributes
    ----------
    risk : {"disagreement", "gap", "error"}
    level, confidence : float
        The risk on future inputs is at most the level, with this confidence over the draw of the samples.
    n_samples : int
        Samples of the certificate.
    threshold : float or None
        None: the model was handed over as it is.
    estimate, bound : float or None
        The risk on these samples, and its upper confidence bound.
    checked : int
        Samples that were used for nothing else. 0: there are none.
    measured : float or None
        The risk on them.
    interval : tuple of float, or None
        Its 95 % interval, exact for `disagreement` and `error`, by betting for `gap`.
    """

    risk: str
    level: float
    confidence: float
    n_samples: int
    threshold: float | None
    estimate: float | None
    bound: float | None
    checked: int
    measured: float | None
    interval: tuple[float, float] | None

    @classmethod
    def of(
        cls,
        risk: str,
        level: float,
        confidence: float,
        n_samples: int,
        policy: Policy,
        result: Certificate | None,
        check: ExitRecord | None,
    ) -> "Promise":
        """Return what a certificate promises, and measure it on a record of samples that were used for nothing else.

        Parameters
        ----------
        risk, level, confidence, n_samples
            As for the class.
        policy : Policy
        result : Certificate or None
            None: the model as it is.
        check : ExitRecord or None
        """
        measured = interval = None
        threshold = None if result is None else result.shared_threshold
        if check is not None:
            left = first_exit(policy.signal(check), np.inf if threshold is None else threshold)  # (K,)
            measured, low, high = measured_risk(risk, policy, check, left, 0.975)
            interval = low, high
        return cls(
            risk=risk,
            level=level,
            confidence=confidence,
            n_samples=n_samples,
            threshold=threshold,
            estimate=None if result is None else result.estimate,
            bound=None if result is None else result.bound,
            checked=0 if check is None else len(check),
            measured=measured,
            interval=interval,
        )

    def __str__(self) -> str:
        what = {
            "disagreement": "answers differ from those of the model",
            "gap": "the error is higher than that of the model by",
            "error": "answers are wrong",
        }[self.risk]
        share = f"at most {self.level:.3g}" if self.risk == "gap" else f"at most {100 * self.level:g}% of the time"
        text = f"{what} {share}, with confidence {self.confidence:g} ({self.n_samples} samples)"
        if self.measured is not None and self.interval is not None and self.threshold is not None:
            low, high = self.interval
            text += f"; on {self.checked} other samples, {self.measured:.2%} [{low:.2%}, {high:.2%}]"
        return text
