"""Alarms: the capital compared with plain loops, and the promise on false alarms checked by simulation."""

import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest, kstest

from offramp import ExitRecord, make_policy
from offramp.online import ConfidenceAlarm, RiskAlarm
from offramp.online.alarms import CELLS, RATES, Capital, _cells
from strategies import quick


def record_of(confidence, right=None):
    """A record of two classes with given confidences (N, L)."""
    confidence = np.asarray(confidence, float)
    right = np.ones(confidence.shape, int) if right is None else np.asarray(right, int)
    return ExitRecord.from_outputs(
        right, confidence, np.ones(len(confidence), int), np.arange(confidence.shape[1]) + 1, metadata={"classes": 2}
    )


def capital(factors):
    """Return the capital after each step, from the factors of each bet (T, B), as plain loops."""
    shares = [[1 / (len(RATES) * len(factors[0]))] * len(factors[0]) for _ in RATES]
    totals = []
    for step in factors:
        for rate, share in zip(RATES, shares):
            total = sum(share)
            share[:] = [((1 - rate) * s + rate * total / len(share)) * f for s, f in zip(share, step)]
        totals.append(sum(map(sum, shares)))
    return totals


def test_the_confidence_alarm_as_plain_loops():
    random = np.random.default_rng(0)
    bag = [round(x, 1) for x in random.uniform(0.1, 0.9, 40).tolist()]  # many ties
    stream = [round(x, 1) for x in random.uniform(0.1, 0.6, 60).tolist()]
    alarm = ConfidenceAlarm(record_of(np.array(bag)[:, None]), 0.01, seed=5)
    chance, factors, evidence = np.random.default_rng(5), [], []
    for x in stream:
        bag.append(x)
        p = (sum(y > x for y in bag) + chance.random() * sum(y == x for y in bag)) / len(bag)
        u = 2 * p - 1
        factors.append([1 + a * u + b * (3 * u * u - 1) / 2 for a, b in zip(alarm.LINEAR, alarm.SQUARE)])
        alarm.update([[x]])
        evidence.append(alarm.evidence)
    totals = capital(factors)
    assert evidence == pytest.approx(np.log10(totals).tolist(), abs=1e-9)
    first = next((t + 1 for t, total in enumerate(totals) if total >= 100), None)
    assert first is not None
    assert alarm.raised_at == first


def test_bets_are_fair_and_never_lose_everything():
    u = 2 * (np.arange(100_000) + 0.5) / 100_000 - 1  # of uniform p-values
    factors = 1 + ConfidenceAlarm.LINEAR * u[:, None] + ConfidenceAlarm.SQUARE * (3 * u[:, None] ** 2 - 1) / 2
    assert factors.mean(axis=0) == pytest.approx(np.ones(8), abs=1e-8)
    assert factors.min() > 0


@quick
@given(st.lists(st.floats(0, 1), min_size=1, max_size=25), st.floats(0.02, 0.9))
def test_the_risk_alarm_as_plain_loops(losses, level):
    alarm = RiskAlarm(level, 0.2)
    alarm.update(losses)
    totals = {
        m: capital([[1 + b * (x - m) / m for b in alarm.BETS] for x in losses])
        for m in (level, *(k / 100 for k in range(1, 100)))
    }
    assert alarm.evidence == pytest.approx(math.log10(totals[level][-1]), abs=1e-9)
    crossed = [t + 1 for t, total in enumerate(totals[level]) if total >= 5 * (1 + 1e-12)]
    near = any(abs(total - 5) < 1e-9 for its in totals.values() for total in its)
    if not near:
        assert alarm.raised_at == (crossed[0] if crossed else None)
        assert alarm.bound == max((m for m, its in totals.items() if max(its) >= 5), default=0.0)


@quick
@given(st.floats(0.02, 0.98), st.floats(0, 1))
def test_bets_on_the_risk_are_fair_at_the_level(level, other):
    """For any loss with this mean, the factor is 1 on average, and it is never negative."""
    for bet in RiskAlarm.BETS:
        factor = {x: 1 + bet * (x - level) / level for x in (0, other, 1)}
        assert min(factor.values()) > 0
        assert (1 - level) * factor[0] + level * factor[1] == pytest.approx(1)


def test_samples_in_any_division_into_batches():
    random = np.random.default_rng(0)
    validation, stream = record_of(random.uniform(0.3, 1, (50, 2))), random.uniform(0.2, 1, (90, 2))
    stream[random.random((90, 2)) < 0.3] = np.nan
    whole, parts = (ConfidenceAlarm(validation, exits=(0, 1)) for _ in range(2))
    whole.update(stream)
    for part in np.split(stream, [1, 30, 30, 80]):
        parts.update(part)
    assert (whole.evidence, whole.seen) == (parts.evidence, 90)


def test_cells_keep_the_order():
    values = np.sort(np.append(np.random.default_rng(0).uniform(0, 1, 999), [0, 1, 1e-30, 1 - 1e-16]))
    cells = _cells(values, "max_softmax")
    assert (np.diff(cells) >= 0).all()
    assert (cells.min(), cells.max()) == (0, CELLS - 1)
    assert len(np.unique(cells)) > 150
    assert _cells(np.array([np.nan, 0.5]), "margin").tolist() == [-1, CELLS // 2]
    assert (np.diff(_cells(np.linspace(-9, 0, 500), "entropy")) >= 0).all()


# The promise


def ever_raised(make, draw, repetitions, seed=0):
    """Return in how many of the repetitions an alarm was raised, and the binomial p-value of more than its level."""
    random = np.random.default_rng(seed)
    raised, level = 0, None
    for _ in range(repetitions):
        alarm = make(random)
        level = alarm.false_alarms
        alarm.update(draw(random))
        raised += alarm.raised
    return raised, binomtest(raised, repetitions, level, alternative="greater").pvalue


@pytest.mark.parametrize("size", [3, 100])
@pytest.mark.parametrize("digits", [1, 12])
def test_false_alarms_of_confidences(size, digits):
    """However few validation samples there are, with ties and without, and if alarms are frequent."""

    def confidences(random, n):
        return np.round(random.beta(5, 2, (n, 1)), digits)

    raised, p = ever_raised(
        lambda random: ConfidenceAlarm(record_of(confidences(random, size)), 0.3, seed=int(random.integers(1 << 30))),
        lambda random: confidences(random, 250),
        40,
    )
    assert p > 0.01
    assert raised > 0  # the level is not out of reach


def test_p_values_against_a_small_fixed_sample_would_not_do():
    """The trap: without the growing bag, p-values are not independent, and false alarms are frequent."""
    raised = 0
    for seed in range(12):
        random = np.random.default_rng(seed)
        alarm = ConfidenceAlarm(record_of(random.uniform(0, 1, (20, 1))), 0.05)
        fixed = alarm.count.copy()
        for x in random.uniform(0, 1, (300, 1)):
            alarm.update([x])
            alarm.count = fixed.copy()
        raised += alarm.raised
    assert raised > 4


def test_several_exits_share_the_level():
    """Exits with equal confidences: each is tested at half the level, which keeps the promise whatever they share."""

    def confidences(random, n):
        return np.repeat(random.uniform(0, 1, (n, 1)), 2, axis=1)

    _, p = ever_raised(
        lambda random: ConfidenceAlarm(
            record_of(confidences(random, 50)), 0.3, exits=(0, 1), seed=int(random.integers(99))
        ),
        lambda random: confidences(random, 200),
        30,
    )
    assert p > 0.01
    one = ConfidenceAlarm(record_of(np.full((50, 2), 0.5)), 0.05)
    two = ConfidenceAlarm(record_of(np.full((50, 2), 0.5)), 0.05, exits=(0, 1))
    for alarm in (one, two):
        alarm.update(np.full((30, 2), [0.1, np.nan]))
    assert two.evidence == pytest.approx(one.evidence - np.log10(2))


def test_conformal_p_values_are_uniform_and_independent():
    """Those of 8 samples after 2 validation samples, over many draws, with many ties."""
    p = np.empty((250, 8))
    for seed, row in enumerate(p):
        random = np.random.default_rng(seed)
        alarm = ConfidenceAlarm(record_of(np.round(random.normal(0.5, 0.1, (2, 1)), 1)))
        cells = _cells(np.round(random.normal(0.5, 0.1, 8), 1), alarm.score)
        row[:] = alarm._p_values(0, cells, random.random(8))
    assert kstest(p.ravel(), "uniform").pvalue > 0.01
    assert np.abs(np.corrcoef(p.T) - np.eye(8)).max() < 0.25


def risk_raised(losses, level, false_alarms):
    """Return whether an alarm would be raised for each row of losses (streams, T), all streams at once."""
    capital = Capital(len(losses), len(RiskAlarm.BETS))
    logs = capital.update(1 + RiskAlarm.BETS * ((loss - level) / level)[:, None, None] for loss in losses.T)
    return logs.max(axis=0) >= -np.log(false_alarms)


def test_false_alarms_of_the_risk():
    """If the loss is exactly at the level, for losses of several sizes, and if the risk depends on the time."""
    random, shape = np.random.default_rng(0), (400, 500)
    alternating = np.where(np.arange(500) % 100 < 50, 0.2, 0.05)
    for losses in (
        random.random(shape) < 0.2,
        random.choice([0.0, 0.1, 0.8], shape, p=[0.5, 0.3, 0.2]) + 0.01,
        random.random(shape) < alternating,
    ):
        raised = risk_raised(losses, 0.2, 0.3)
        assert binomtest(int(raised.sum()), 400, 0.3, alternative="greater").pvalue > 0.01
        alarm = RiskAlarm(0.2, 0.3)
        alarm.update(losses[7])
        assert alarm.raised == raised[7]


def test_the_level_of_validation_data_includes_its_uncertainty():
    """With 50 validation samples, an alarm at their error itself would be raised without any shift."""
    random, policy = np.random.default_rng(0), make_policy("confidence")
    raised = np.zeros(2)
    for wrong in range(2, 22):  # of 50 validation samples, with an error of 0.2
        right = np.arange(50)[:, None] >= wrong
        alarm = RiskAlarm.of_validation(policy, 0.5, record_of(np.full((50, 1), 0.9), right), false_alarms=0.2)
        assert alarm.false_alarms == pytest.approx(0.1)
        losses = random.random((100, 600)) < 0.2
        chance = binom.pmf(wrong, 50, 0.2)
        raised += [
            chance * risk_raised(losses, level, false_alarms).mean()
            for level, false_alarms in ((alarm.level, 0.1), (wrong / 50, 0.2))
        ]
    assert raised[0] <= 0.2
    assert raised[1] > 0.3


def test_the_level_of_validation_data_is_the_error_of_the_answers_that_are_given():
    """No exit reaches the threshold, so that the most confident one answers, which is wrong."""
    confidence, right = np.tile([0.9, 0.5], (200, 1)), np.tile([0, 1], (200, 1))
    right[:100, 0] = 1
    validation = record_of(confidence, right)
    policy = make_policy("pcee", no_exit="most_confident").fit(validation)
    alarm = RiskAlarm.of_validation(policy, [np.inf], validation)
    assert alarm.level < 0.05  # with thresholds per exit, the last exit answers
    assert 0.5 < RiskAlarm.of_validation(policy, np.inf, validation).level < 0.6


# Power


def test_alarms_are_raised_after_a_shift_and_sooner_after_a_larger_one():
    random = np.random.default_rng(0)
    validation = record_of(random.beta(5, 2, (500, 1)))
    delays = []
    for shift in ((4.5, 2.5), (3, 3)):
        alarm = ConfidenceAlarm(validation)
        alarm.update(random.beta(5, 2, (1000, 1)))
        assert not alarm.raised
        alarm.update(random.beta(*shift, (1500, 1)))
        delays.append(alarm.raised_at - 1000)
    assert delays[1] < delays[0]
    assert delays[1] < 100


def test_a_change_of_the_spread_alone_is_found():
    random = np.random.default_rng(0)
    alarm = ConfidenceAlarm(record_of(random.beta(8, 8, (500, 1))))
    alarm.update(random.beta(2, 2, (400, 1)))
    assert alarm.raised


def test_the_risk_is_found_and_bounded():
    random = np.random.default_rng(0)
    alarm = RiskAlarm(0.1)
    alarm.update(random.random(2000) < 0.08)
    assert not alarm.raised
    alarm.update(random.random(1500) < 0.25)
    assert alarm.raised
    assert 0.15 < alarm.bound <= 0.25


# What is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"false_alarms": 0}, "confidence: false_alarms is 0; expected a number between 0 and 1"),
        ({"exits": (2,)}, "confidence: exits are [2]; expected different numbers from 0 to 1"),
        ({"exits": (0, 0)}, "confidence: exits are [0, 0]; expected different numbers"),
        ({"exits": ()}, "confidence: exits are []"),
        ({"score": "similarity"}, "confidence: score is 'similarity'; expected one of max_softmax, margin, entropy"),
        ({"score": "margin"}, "margin"),
    ],
)
def test_confidence_alarms_that_are_refused(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        ConfidenceAlarm(record_of(np.full((5, 2), 0.5)), **options)


def test_risk_alarms_that_are_refused():
    for arguments, message in [
        ((0.0,), "risk: level is 0.0; expected a number between 0 and 1"),
        ((0.1, 1.0), "risk: false_alarms is 1.0; expected a number between 0 and 1"),
    ]:
        with pytest.raises(ValueError, match=re.escape(message)):
            RiskAlarm(*arguments)
    for losses, message in (([0, 2], "risk: loss 1 is 2; expected a number from 0 to 1"), ([np.nan], "loss 0 is nan")):
        with pytest.raises(ValueError, match=message):
            RiskAlarm(0.1).update(losses)
    few = record_of(np.full((3, 1), 0.9), [[0], [0], [0]])
    for false_alarms in (-1, 1, 2, np.nan):
        with pytest.raises(ValueError, match=f"risk: false_alarms is {false_alarms}; expected a number between 0 and"):
            RiskAlarm.of_validation(make_policy("confidence"), 0.5, few, false_alarms=false_alarms)
    with pytest.raises(ValueError, match="the upper bound of the error is 1 on 3 samples"):
        RiskAlarm.of_validation(make_policy("confidence"), 0.5, few)
