"""Alarms: sequential tests whose probability of ever raising a false alarm is at most a level, whenever one looks.

A gambler bets against the hypothesis that nothing has changed. If it is true, the capital, which begins at 1, reaches
1 / α at any time with a probability of at most α (Ville's inequality). A high capital is therefore evidence of a shift.
"""

from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np

from offramp.policies import Policy
from offramp.policies.base import answering_exits, at_exits, checked_threshold
from offramp.records import ExitRecord
from offramp.records.confidence import MEASURES

RATES = np.array([1e-4, 1e-3, 1e-2])  # (R,): shares of the capital that are moved to other bets at each step
CELLS, PER_UNIT = 4096, 32  # of the logit of a confidence
SCORES = (*MEASURES, "mean_token_margin")


class Capital:
    """The capital of a gambler who divides it between several bets and moves a part of it to other bets at each step.

    This is the Simple Jumper of Vovk et al. (2021, arXiv 2102.10439), averaged over several rates of moving: as one bet
    is to keep the money, little is lost before a change, and the right bet is found after it.

    Parameters
    ----------
    tests : int
        Number of independent gamblers T.
    bets : int
        Number of bets B.
    """

    def __init__(self, tests: int, bets: int):
        self.share = np.full((tests, len(RATES), bets), 1 / (len(RATES) * bets))  # (T, R, B), of the capital
        self.log = np.zeros(tests)  # (T,): natural logarithm of the capital

    def update(self, factors: Iterable[np.ndarray], test: int | slice = slice(None)) -> np.ndarray:
        """Multiply the capital of each bet by its factors, whose expectations are at most 1, sample by sample.

        Parameters
        ----------
        factors : iterable of n ndarrays of shape (1, B) or (T, 1, B)
        test : int or slice
            The gamblers.

        Returns
        -------
        ndarray of shape (n,) or (n, T)
            Logarithm of the capital after each sample.
        """
        share, log, totals = self.share[test], self.log[test], []  # (R, B) or (T, R, B)
        stay, move = 1 - RATES[:, None], RATES[:, None] / share.shape[-1]
        for factor in factors:
            share = (stay * share + move * share.sum(axis=-1, keepdims=True)) * factor
            total = share.sum(axis=(-2, -1), keepdims=True)
            share /= total
            totals.append(total[..., 0, 0])
        steps = np.log(np.array(totals).reshape(-1, *np.shape(log)))
        logs = np.add.accumulate(np.concatenate([np.asarray(log)[None], steps]))
        self.share[test], self.log[test] = share, logs[-1]
        return logs[1:]


class Alarm:
    """Base class of alarms.

    Attributes
    ----------
    kind : str
        Name in files.
    false_alarms : float
        Highest probability of ever raising a false alarm.
    seen : int
        Number of samples so far.
    raised_at : int or None
        Number of samples after which the alarm was raised, or None.
    capital : Capital
    """

    kind: ClassVar[str]
    arrays: ClassVar[tuple[str, ...]] = ()  # names of the attributes that are stored as arrays
    settings: ClassVar[tuple[str, ...]] = ()  # names of those that are stored as JSON

    false_alarms: float
    seen: int
    raised_at: int | None
    capital: Capital

    @classmethod
    def _checked(cls, false_alarms: float) -> float:
        if not 0 < false_alarms < 1:
            raise ValueError(f"{cls.kind}: false_alarms is {false_alarms!r}; expected a number between 0 and 1")
        return float(false_alarms)

    def _set(self, false_alarms: float) -> None:
        self.false_alarms, self.seen, self.raised_at = self._checked(false_alarms), 0, None

    @property
    def raised(self) -> bool:
        """Whether the alarm was raised."""
        return self.raised_at is not None

    @property
    def evidence(self) -> float:
        """Decimal logarithm of the present capital. The alarm is raised at −log10(false_alarms)."""
        raise NotImplementedError

    def _look(self, logs: np.ndarray) -> None:
        """Note the logarithms of the capital (n,) after further samples."""
        if not self.raised and len(crossed := np.flatnonzero(logs >= -np.log(self.false_alarms))):
            self.raised_at = self.seen + int(crossed[0]) + 1
        self.seen += len(logs)

    def stored(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Return the arrays and the settings of this alarm, for a file."""
        arrays = {"share": self.capital.share, "log": self.capital.log}
        names = ("false_alarms", "seen", "raised_at", *self.settings)
        return arrays | {n: getattr(self, n) for n in self.arrays}, {n: getattr(self, n) for n in names}

    @classmethod
    def restored(cls, arrays: dict[str, np.ndarray], settings: dict[str, Any]) -> "Alarm":
        """Return the alarm of which `stored` gave these."""
        alarm = cls.__new__(cls)
        alarm.capital = Capital(1, 1)
        alarm.capital.share, alarm.capital.log = arrays.pop("share"), arrays.pop("log")
        for name, value in (arrays | settings).items():
            setattr(alarm, name, value)
        return alarm


class ConfidenceAlarm(Alarm):
    """Tests, without labels, whether the confidences of an exit are exchangeable with those of the validation samples.

    The p-value of a sample is its rank among the validation samples and all samples before it, with ties broken at
    random. Without a shift, these p-values are independent and uniform (Vovk et al., Algorithmic Learning in a Random
    World), whatever the number of validation samples. The bets are that p-values are lower or higher than usual, or
    nearer to the middle or the ends. With several exits, each is tested at the level `false_alarms` divided by their
    number (Bonferroni).

    Parameters
    ----------
    validation : ExitRecord
        Samples from the same distribution as those to come without a shift. Labels are not used.
    false_alarms : float
        Highest probability of ever raising a false alarm.
    exits : sequence of int
        Exits that are tested, counted from 0. An exit can be tested if it is observed regardless of the confidences:
        the first exit, or any exit for audited samples.
    score : {"max_softmax", "margin", "entropy", "mean_token_margin"}
        Confidence measure.
    seed : int
        Seed of the random order of ties.

    Raises
    ------
    ValueError
        If an option is out of range, or if the record lacks the measure.
    """

    kind = "confidence"
    arrays = ("count",)
    settings = ("exits", "score", "chance")

    # Each bet is a function of the p-value with mean 1: 1 + b · u, and 1 + b · (3 u² − 1) / 2, for u = 2 p − 1
    LINEAR = np.array([0, -0.95, -0.3, 0.3, 0.95, 0, 0, 0])
    SQUARE = np.array([0, 0, 0, 0, 0, -0.95, 0.6, 1.9])

    def __init__(
        self,
        validation: ExitRecord,
        false_alarms: float = 0.05,
        *,
        exits=(0,),
        score: str = "max_softmax",
        seed: int = 0,
    ):
        self._set(false_alarms)
        exits = [int(i) for i in exits]
        last = validation.n_exits - 1
        if not exits or len(set(exits)) < len(exits) or not all(0 <= i <= last for i in exits):
            raise ValueError(f"confidence: exits are {exits}; expected different numbers from 0 to {last}")
        if score not in SCORES:
            raise ValueError(f"confidence: score is {score!r}; expected one of {', '.join(SCORES)}")
        self.exits, self.score = exits, score
        cells = _cells(validation.confidence(score)[:, exits], score)  # (N, E)
        self.count = np.stack([np.bincount(column, minlength=CELLS) for column in cells.T])  # (E, CELLS)
        self.capital = Capital(len(exits), len(self.LINEAR))
        self.random = np.random.default_rng(seed)

    @property
    def chance(self) -> dict[str, Any]:
        """The state of the random numbers."""
        return dict(self.random.bit_generator.state)

    @chance.setter
    def chance(self, state: dict[str, Any]) -> None:
        self.random = np.random.default_rng()
        self.random.bit_generator.state = state

    @property
    def evidence(self) -> float:
        return float(self.capital.log.max() / np.log(10) - np.log10(len(self.exits)))

    def update(self, confidence: np.ndarray) -> None:
        """Take further samples, in order.

        Parameters
        ----------
        confidence : ndarray of shape (n, L)
            The measure at each exit, of which larger values mean higher confidence. NaN for exits that were not
            observed.
        """
        cells = _cells(np.asarray(confidence)[:, self.exits], self.score)  # (n, E), −1: not observed
        observed = cells >= 0
        chance = np.zeros(cells.shape)  # (n, E)
        chance[observed] = self.random.random(observed.sum())
        logs = np.empty(cells.shape)  # (n, E): of the capital after each sample
        for e in range(len(self.exits)):
            seen, before = observed[:, e], self.capital.log[e]
            u = 2 * self._p_values(e, cells[seen, e], chance[seen, e])[:, None, None] - 1  # (k, 1, 1)
            after = self.capital.update(1 + self.LINEAR * u + self.SQUARE * ((3 * u * u - 1) / 2), e)  # (k,)
            logs[:, e] = np.append(before, after)[np.cumsum(seen)]
        self._look(logs.max(axis=1) - np.log(len(self.exits)))

    def _p_values(self, e: int, cells: np.ndarray, chance: np.ndarray) -> np.ndarray:
        """Return the conformal p-values (k,) of samples at the e-th tested exit, each of which joins the count."""
        count, total, p = self.count[e], int(self.count[e].sum()), np.empty(len(cells))
        for n, (cell, u) in enumerate(zip(cells.tolist(), chance.tolist())):
            count[cell] += 1
            total += 1
            p[n] = (count[cell + 1 :].sum() + u * count[cell]) / total
        return p


def _cells(confidence: np.ndarray, score: str) -> np.ndarray:
    """Return the cell of each confidence: its logit, rounded down. −1 for NaN.

    Cells keep the memory of the alarm small. They are fixed in advance, so ranks of cells are as valid as those of
    confidences.
    """
    values = np.asarray(confidence, np.float64)
    share = np.clip(np.exp(values) if score == "entropy" else values, 0, 1)  # entropy is negated
    with np.errstate(divide="ignore"):
        place = np.floor(np.log(share / (1 - share)) * PER_UNIT + CELLS / 2)
    return np.where(np.isnan(place), -1, np.clip(place, 0, CELLS - 1)).astype(np.int64)


class RiskAlarm(Alarm):
    """Tests, with labels, whether the risk exceeds a level (Podkopaev & Ramdas 2021, arXiv 2110.06177).

    The hypothesis is that the expected loss of each sample, given those before it, is at most the level. The gambler
    bets on losses above it, as in Waudby-Smith & Ramdas (2024, arXiv 2010.09686).

    Parameters
    ----------
    level : float
        Highest acceptable expected loss.
    false_alarms : float
        Highest probability of ever raising a false alarm.

    Attributes
    ----------
    bound : float
        Lower confidence bound of the highest risk so far, in steps of 0.01: with a probability of at least
        1 − false_alarms, it never exceeds the highest expected loss of all samples so far.
    """

    kind = "risk"
    arrays = ("levels", "highest")

    BETS = np.array([0, 0.02, 0.05, 0.1, 0.2, 0.4])  # shares of the bet that can lose everything

    def __init__(self, level: float, false_alarms: float = 0.05):
        self._set(false_alarms)
        if not 0 < level < 1:
            raise ValueError(f"risk: level is {level!r}; expected a number between 0 and 1")
        self.levels = np.append(level, np.arange(1, 100) / 100)  # (T,): the level, and a grid for the bound
        self.highest = np.zeros(len(self.levels))  # (T,): highest logarithm of the capital so far
        self.capital = Capital(len(self.levels), len(self.BETS))

    @classmethod
    def of_validation(
        cls,
        policy: Policy,
        threshold,
        validation: ExitRecord,
        *,
        tolerance: float = 0.0,
        false_alarms: float = 0.05,
    ) -> "RiskAlarm":
        """Test whether the error is higher than on the validation distribution by more than a tolerance.

        The error there is known from a finite sample only. Its upper confidence bound takes half of `false_alarms`, and
        the alarm the other half.

        Parameters
        ----------
        policy : Policy
            Fitted on other samples.
        threshold : float or ndarray of shape (L − 1,)
        validation : ExitRecord
            With labels.
        tolerance : float
            Increase of the error that is acceptable.
        false_alarms : float
            Highest probability of ever raising a false alarm.
        """
        from offramp.certification.pvalues import P_VALUES, upper_bound

        false_alarms = cls._checked(false_alarms)
        threshold = checked_threshold(threshold, validation.n_exits)
        _, answering = answering_exits(policy, validation, [threshold])  # (1, N)
        wrong = 1.0 - at_exits(policy.correct(validation), answering)[0]  # (N,)
        name = "binomial" if np.isin(wrong, (0, 1)).all() else "wsr"
        bound = upper_bound(P_VALUES[name], wrong, 1 - false_alarms / 2)
        if bound + tolerance >= 1:
            raise ValueError(
                f"risk: the upper bound of the error is {bound:.3g} on {len(wrong)} samples, so no error is above it "
                f"by the tolerance {tolerance:g}; expected more samples, or a lower tolerance"
            )
        return cls(bound + tolerance, false_alarms / 2)

    @property
    def level(self) -> float:
        return float(self.levels[0])

    @property
    def evidence(self) -> float:
        return float(self.capital.log[0] / np.log(10))

    @property
    def bound(self) -> float:
        return float(self.levels[self.highest >= -np.log(self.false_alarms)].max(initial=0.0))

    def update(self, losses: np.ndarray) -> None:
        """Take the losses (n,) of further samples, from 0 to 1, in order. The order may not depend on the losses.

        Raises
        ------
        ValueError
            If a loss is not between 0 and 1.
        """
        losses = np.asarray(losses, np.float64)  # (n,)
        if len(wrong := np.flatnonzero(~((losses >= 0) & (losses <= 1)))):
            raise ValueError(f"risk: loss {wrong[0]} is {losses[wrong[0]]:g}; expected a number from 0 to 1")
        levels = self.levels[:, None, None]
        logs = self.capital.update(1 + self.BETS * (loss - levels) / levels for loss in losses.tolist())  # (n, T)
        self.highest = np.maximum(self.highest, logs.max(axis=0, initial=0.0))
        self._look(logs[:, 0])


ALARMS: dict[str, type[Alarm]] = {alarm.kind: alarm for alarm in (ConfidenceAlarm, RiskAlarm)}
