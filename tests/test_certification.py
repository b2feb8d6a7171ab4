"""Certified thresholds: the tests compared with slow ones, and the promise checked where the truth is known."""

import itertools
import math
import re
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import binom, binomtest

import oracles
from offramp import ExitRecord, certify, choose_threshold, decide, evaluate, load_policies, make_policy
from offramp.certification.certifying import METHODS
from offramp.certification.losses import RISKS
from offramp.certification.pvalues import P_VALUES, upper_bound
from offramp.cli import cli
from offramp.cli.options import load_fitted
from offramp.records.splitting import split_record
from strategies import given_signal, quick, records, signals, without_labels

PAGE = (Path(__file__).parents[1] / "docs/guarantees.md").read_text(encoding="utf-8")
SHARED = ["error", "gap", "disagreement", "cost", "over_budget"]  # risks that are tested in a sequence


def record_of(right, sure=None, cost=None, **about):
    """A record of two classes, right or wrong as given (N, L)."""
    right = np.array(right)
    sure = np.full(right.shape, 0.5) if sure is None else np.broadcast_to(np.transpose([sure]), right.shape)
    cost = np.arange(right.shape[1]) + 1 if cost is None else cost
    return ExitRecord.from_outputs(1 - right, sure, np.zeros(len(right), int), cost, metadata=about)


# p-values


def p_of(name, losses, level):
    losses = np.asarray(losses, float)[:, None]
    return float(P_VALUES[name](losses, lambda x: x.sum(axis=0), len(losses), level)[0])


@quick
@given(st.integers(1, 60).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.floats(0.001, 0.999))
def test_binomial_is_that_of_scipy(counts, level):
    k, n = counts
    assert p_of("binomial", [1] * k + [0] * (n - k), level) == pytest.approx(
        binomtest(k, n, level, alternative="less").pvalue, rel=1e-9, abs=1e-300
    )


@quick
@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.floats(0.01, 0.99))
def test_p_values_of_bounded_losses_are_those_of_the_papers(losses, level):
    n, mean = len(losses), min(math.fsum(losses) / len(losses), level)

    def term(x, y):
        return 0 if x == 0 else x * math.log(x / y)

    hoeffding = math.exp(-n * (term(mean, level) + term(1 - mean, 1 - level)))
    bentkus = math.e * binom.cdf(math.ceil(round(math.fsum(losses), 9)), n, level)
    assert p_of("hoeffding_bentkus", losses, level) == pytest.approx(min(1, hoeffding, bentkus), rel=1e-6, abs=1e-12)
    least = min(math.sqrt(2 * math.log(10) * (1 - level) / (n * level)), 0.98)
    bets = [least * (0.98 / least) ** (i / 7) for i in range(8)]
    capital = [math.prod(1 + bet / (1 - level) * (level - x) for x in losses) for bet in bets]
    assert p_of("wsr", losses, level) == pytest.approx(min(1, 8 / math.fsum(capital)), rel=1e-6)


@pytest.mark.parametrize("name", P_VALUES)
@pytest.mark.parametrize("n", [1, 5, 40])
@pytest.mark.parametrize("level", [0.02, 0.1, 0.5, 0.9])
def test_p_values_are_small_no_more_often_than_they_say(name, n, level):
    """By enumeration: if the risk is the level, P(p ≤ u) ≤ u for every u."""
    p = np.array([p_of(name, [1] * k + [0] * (n - k), level) for k in range(n + 1)])
    chance = binom.pmf(np.arange(n + 1), n, level)
    for u in p[p < 1]:
        assert chance[p <= u].sum() <= u * (1 + 1e-9)


@pytest.mark.parametrize("name", ["hoeffding_bentkus", "wsr"])
@pytest.mark.parametrize("chances", [(0.05, 0.9, 0.05), (0.3, 0.3, 0.4), (0.7, 0.29, 0.01)])
def test_p_values_of_three_losses_are_small_no_more_often_than_they_say(name, chances):
    """As above, for losses of 0, ½ and 1, such as those of a gap."""
    n, level = 12, chances[1] / 2 + chances[2]
    p, chance = [], []
    for halves, ones in itertools.product(range(n + 1), repeat=2):
        if (zeros := n - halves - ones) >= 0:
            p.append(p_of(name, [0] * zeros + [0.5] * halves + [1] * ones, level))
            ways = math.comb(n, halves) * math.comb(n - halves, ones)
            chance.append(ways * chances[0] ** zeros * chances[1] ** halves * chances[2] ** ones)
    p, chance = np.array(p), np.array(chance)
    for u in p[p < 1]:
        assert chance[p <= u].sum() <= u * (1 + 1e-9)


@quick
@given(
    arrays(np.float64, st.integers(1, 20), elements=st.sampled_from([0, 0.25, 1])), st.sampled_from([0.5, 0.9, 0.99])
)
def test_the_bound_is_the_lowest_level_that_can_be_certified(losses, confidence):
    for name in ["wsr", "hoeffding_bentkus"] + ["binomial"] * (set(losses) <= {0, 1}):
        bound = upper_bound(P_VALUES[name], losses, confidence)
        if bound < 0.999:
            assert p_of(name, losses, bound) <= 1 - confidence
        assert p_of(name, losses, max(bound - 1e-6, 1e-9)) > 1 - confidence


def test_the_exact_bound_is_that_of_clopper_and_pearson():
    expected = binomtest(7, 120).proportion_ci(0.8, "exact").high  # two-sided: 0.9 on either side
    assert upper_bound(P_VALUES["binomial"], np.repeat([1.0, 0.0], [7, 113]), 0.9) == pytest.approx(expected, abs=1e-8)


# Another implementation: MAPIE


@pytest.fixture(scope="module")
def mapie():
    return pytest.importorskip("mapie.risk_control.methods", reason="in the extra test")


def errors_at(record, policy, thresholds):
    """Return whether each answer is wrong at each threshold or row of thresholds, (N, T)."""
    exits = [policy.exits(record, threshold) for threshold in thresholds]
    return np.stack([~record.correct[np.arange(record.n_samples), its] for its in exits], axis=1)


@pytest.mark.parametrize("level", [0.02, 0.1, 0.5])
def test_hoeffding_bentkus_is_that_of_mapie(mapie, level):
    losses = np.random.default_rng(0).choice([0, 0.25, 1], (64, 200), p=[0.9, 0.05, 0.05])  # 64: means are exact
    expected = mapie.compute_hoeffding_bentkus_p_value(losses.mean(0), 64, level)[:, 0]
    p_values = [p_of("hoeffding_bentkus", its, level) for its in losses.T]
    np.testing.assert_allclose(p_values, np.minimum(1, expected), rtol=1e-6)


@pytest.mark.parametrize("level", [0.15, 0.2, 0.3, 0.5])
def test_certified_thresholds_are_those_of_mapie(mapie, level):
    from mapie.risk_control import control_fwer

    (record, _), policy = Pool(0).draw(512, 0), make_policy("confidence")
    result = certify(policy, record, level=level, p_value="hoeffding_bentkus")
    p_values = mapie.compute_hoeffding_bentkus_p_value(errors_at(record, policy, result.thresholds).mean(0), 512, level)
    valid = control_fwer(p_values[:, 0], 0.1, "fixed_sequence")
    np.testing.assert_array_equal(result.valid, result.thresholds[valid])
    rows = list(itertools.product([0.3, 0.6, 0.9, np.inf], repeat=record.n_exits - 1))
    result = certify(policy, record, level=level, method="holm", thresholds=rows, p_value="hoeffding_bentkus")
    p_values = mapie.compute_hoeffding_bentkus_p_value(errors_at(record, policy, rows).mean(0), 512, level)
    valid = control_fwer(p_values[:, 0], 0.1, "bonferroni_holm")
    np.testing.assert_array_equal(result.valid, np.array(rows)[valid])


def test_conformal_risk_control_is_that_of_mapie(mapie):
    (record, _), policy = Pool(0).draw(512, 0), make_policy("confidence")
    result = certify(policy, record, "over_budget", 0.4, method="crc", budget=record.cost[1])
    exits = np.stack([policy.exits(record, threshold) for threshold in result.thresholds], axis=1)  # (N, T)
    _, bound = mapie.get_r_hat_plus(exits > 1, result.thresholds, "crc", None, None, None)  # (T,)
    assert result.threshold == result.thresholds[np.flatnonzero(bound <= 0.4)[-1]]
    assert result.bound == pytest.approx(bound[bound <= 0.4][-1])


# The sequence of tests


@st.composite
def cases(draw, risks=SHARED):
    """Draw a record, a policy with any signal, a risk, a level and a confidence."""
    record = draw(records(samples=(1, 25), sample_costs=True))
    l = record.n_exits
    fallback = draw(st.none() | arrays(np.int64, record.n_samples, elements=st.integers(0, l - 1)))
    policy = given_signal(draw(signals(record.prediction.shape)), fallback)
    risk = draw(st.sampled_from(risks))
    low, high = {"gap": (-1, 1), "cost": (0, 1000)}.get(risk, (0, 1))
    options = {"bounds": (low, high)} if risk == "cost" and record.sample_cost is not None else {}
    if risk == "cost" and not options:
        low, high = record.cost[0] if l > 1 else 0, record.cost[-1]
    options |= {"budget": float(draw(st.integers(1, 40)))} if risk == "over_budget" else {}
    level = low + (high - low) * draw(st.sampled_from([0.3, 0.5, 0.7, 0.9]))
    return (
        record,
        policy,
        {"risk": risk, "level": level, "confidence": draw(st.sampled_from([0.1, 0.5, 0.9]))} | options,
    )


def slow_losses(record, policy, threshold, risk, budget=None, **_):
    """Return the loss of each sample, and the bounds of the loss."""
    exits, right = oracles.answers(policy.values, record.correct, threshold, policy.answers)
    _, answer = oracles.answers(policy.values, record.prediction, threshold, policy.answers)
    costs = oracles.cost_of(record, exits)
    if risk == "error":
        return [1 - bool(r) for r in right]
    if risk == "gap":
        return [int(last) - int(r) for r, last in zip(right, record.correct[:, -1])]
    if risk == "disagreement":
        return [int(a != last) for a, last in zip(answer, record.prediction[:, -1])]
    return costs if risk == "cost" else [int(c > budget) for c in costs]


def slow_sequence(record, policy, p_value, *, risk, level, confidence, bounds=None, budget=None):
    """Return the certified thresholds, by testing one after another."""
    low, high = bounds or {"gap": (-1, 1), "cost": (record.cost[0] if record.n_exits > 1 else 0, record.cost[-1])}.get(
        risk, (0, 1)
    )
    finite = np.clip(policy.values, -sys.float_info.max, sys.float_info.max)
    candidates = [math.inf, *sorted({*finite[policy.values > -np.inf].tolist()}, reverse=True), -math.inf]
    if risk in ("cost", "over_budget"):
        candidates.reverse()
    certified = []
    for threshold in candidates:
        losses = [(x - low) / (high - low) for x in slow_losses(record, policy, threshold, risk, budget)]
        if p_of(p_value, losses, (level - low) / (high - low)) > 1 - confidence:
            break
        certified.append(threshold)
    return certified


def found(record, policy, **options):
    """Certify, or skip the example if there are too few samples."""
    try:
        return certify(policy, record, **options)
    except ValueError as error:
        assume("too few" not in str(error))
        raise


@quick
@given(cases(), st.sampled_from(["binomial", "wsr", "hoeffding_bentkus"]))
def test_the_sequence_is_the_slow_one(case, p_value):
    record, policy, options = case
    assume(p_value != "binomial" or options["risk"] not in ("gap", "cost"))
    result = found(record, policy, p_value=p_value, **options)
    expected = slow_sequence(record, policy, p_value, **options)

    def point(threshold):  # thresholds are compared by what they do
        return tuple(slow_losses(record, policy, threshold, **options)), tuple(policy.exits(record, threshold))

    if expected:
        assert [k for k, _ in itertools.groupby(map(point, result.valid))] == [
            k for k, _ in itertools.groupby(map(point, expected))
        ]
        assert result.threshold == result.valid[-1]
        assert result.bound <= options["level"] * (1 + 1e-9) + 1e-9
    else:  # only what is known without samples
        assert result.threshold in (None, -math.inf if options["risk"] in ("cost", "over_budget") else math.inf)
        assert result.reason
    assert not np.isnan(result.p_values).any()


@quick
@given(cases(["error", "gap", "disagreement", "over_budget"]), st.sampled_from(["ltt", "ucb"]))
def test_a_higher_level_and_a_lower_confidence_certify_no_less(case, method):
    record, policy, options = case
    assume(options["level"] > 0)  # a gap of 0 is certified without samples
    valid = set(found(record, policy, method=method, **options).valid)
    for weaker in ({"level": options["level"] + 0.05}, {"confidence": options["confidence"] / 2}):
        assert valid <= set(certify(policy, record, method=method, **(options | weaker)).valid)


def test_traps():
    """At a risk of 0, p is a number; the last threshold that passes is chosen; if all pass, it is the first exit."""
    policy = make_policy("confidence")
    perfect = certify(policy, record_of(np.ones((100, 3), int), np.linspace(0.5, 1, 100)))
    assert np.isfinite(perfect.p_values).all()
    assert (perfect.threshold, perfect.cost, perfect.reason) == (-np.inf, 1, None)
    assert len(perfect.valid) == len(perfect.thresholds)
    sure = np.arange(100) / 100
    worse = record_of(np.stack([sure > 0.5, np.ones(100, bool)], 1).astype(int), sure)
    result = certify(policy, worse, level=0.1)
    errors = 5  # P(at most 5 of 100 | 0.1) = 0.058, P(at most 6) = 0.117
    assert result.threshold == sure[50 - errors + 1]
    assert result.estimate == errors / 100
    assert result.p_values[list(result.thresholds).index(result.threshold)] == pytest.approx(binom.cdf(5, 100, 0.1))


def test_a_gap_that_rises_and_falls_stops_at_the_first_failure():
    """The thresholds behind a failure are not certified, even if their own p-values are small."""
    first = np.concatenate([np.ones(200), np.zeros(40), np.ones(760)])
    last = np.concatenate([np.ones(240), np.zeros(760)])
    record = record_of(np.stack([first, last], 1).astype(int), np.linspace(1, 0.5, 1000))
    result = certify(make_policy("confidence"), record, "gap", 0.02)
    assert result.threshold > record.confidence()[240, 0]
    assert result.p_values[-1] < 1e-9
    naive = certify(make_policy("confidence"), record, "gap", 0.02, method="naive")
    assert naive.threshold == -np.inf


@quick
@given(records(samples=(1, 20)), st.sampled_from([0.11, 0.33, 0.52]))
def test_naive_is_the_choice_without_a_guarantee(record, level):
    result = certify(make_policy("confidence"), record, level=level, method="naive")
    chosen = choose_threshold(make_policy("confidence"), record, accuracy=1 - level)
    if result.threshold is not None:
        expected = evaluate(make_policy("confidence"), record, [chosen])
        assert result.cost == pytest.approx(expected.cost[0])
        assert result.estimate == pytest.approx(1 - expected.accuracy[0])
    else:
        assert chosen == np.inf
        assert "the lowest level" in result.reason


def test_qualities_of_0_and_1_are_classes():
    record, _ = Pool(0).draw(200, 0)
    scores = ExitRecord.from_scores(record.correct.astype(float), record.confidence(), record.cost)
    for risk in ("error", "gap", "error_among_exited", "error_among_accepted"):
        one, other = (certify(make_policy("confidence"), r, risk, 0.2) for r in (record, scores))
        for what in ("threshold", "reject_below", "bound", "cost"):
            assert getattr(one, what) == getattr(other, what)


def test_ucb_is_ltt_by_betting():
    record, _ = Pool(0).draw(400, 0)
    one = certify(make_policy("confidence"), record, level=0.2, method="ucb")
    other = certify(make_policy("confidence"), record, level=0.2, p_value="wsr")
    np.testing.assert_array_equal(one.valid, other.valid)
    assert one.bound == other.bound <= 0.2


# Other methods


@quick
@given(cases(["error", "gap", "disagreement"]), st.data())
def test_holm(case, data):
    record, policy, options = case
    rows = data.draw(arrays(np.float64, (3, record.n_exits - 1), elements=st.sampled_from([0.1, 0.5, 0.9, np.inf])))
    assume(record.n_exits > 1)
    result = found(record, policy, method="holm", thresholds=rows, p_value="wsr", **options)
    low = -1 if options["risk"] == "gap" else 0
    losses = [(np.array(slow_losses(record, policy, row, **options)) - low) / (1 - low) for row in rows]
    p = {i: p_of("wsr", x, (options["level"] - low) / (1 - low)) for i, x in enumerate(losses)}
    certified = set()
    for rank, i in enumerate(sorted(p, key=p.get)):
        if p[i] > (1 - options["confidence"]) / (3 - rank):
            break
        certified.add(i)
    np.testing.assert_array_equal(result.valid, rows[sorted(certified)] if certified else result.valid)
    if certified:
        cheapest = min(np.mean(oracles.cost_of(record, policy.exits(record, rows[i]))) for i in certified)
        assert result.cost == pytest.approx(cheapest)
    else:
        assert result.reason


def test_crc_by_hand():
    """19 samples, 2 exits of cost 1 and 2: (number over budget + 1) / 20 is at most the level."""
    record = record_of(np.ones((19, 2), int), np.arange(19) / 20)
    result = certify(make_policy("confidence"), record, "over_budget", 0.25, budget=1, method="crc")
    assert result.threshold == 4 / 20  # 4 samples are below it
    assert (result.estimate, result.bound, result.p_values) == (4 / 19, 0.25, None)
    with pytest.raises(ValueError, match=r"19 samples are too few to certify over_budget at level 0\.04 with"):
        certify(make_policy("confidence"), record, "over_budget", 0.04, budget=1, method="crc")


def test_an_array_of_losses():
    """The errors give what the risk error gives, and their largest over all later exits is a monotone loss for crc."""
    record, _ = Pool(0).draw(300, 0)
    policy, errors = make_policy("confidence"), ~record.correct
    one, other = certify(policy, record, "error", 0.2), certify(policy, record, errors, 0.2)
    np.testing.assert_array_equal(one.p_values, other.p_values)
    worst = np.maximum.accumulate(errors[:, ::-1], axis=1)[:, ::-1]
    result = certify(policy, record, worst, 0.2, method="crc")
    losses = worst[np.arange(300), policy.exits(record, result.threshold)]
    assert (losses.sum() + 1) / 301 == pytest.approx(result.bound)
    assert result.bound <= 0.2 < result.bound + 2 / 301
    scaled = certify(policy, record, errors * 4.0 - 1, -0.2, bounds=(-1, 3), p_value="wsr")
    assert scaled.threshold == certify(policy, record, "error", 0.2, method="ucb").threshold


def test_error_among_exited_by_hand():
    """Of 20 numbers of samples and 10 thresholds, those where enough leave and few of them err are certified."""
    sure = np.arange(2000) / 2000
    record = record_of(np.stack([sure > 0.4, np.ones(2000, bool)], 1).astype(int), sure)
    result = certify(make_policy("confidence"), record, "error_among_exited", 0.1)
    assert len(result.thresholds) == 30
    for threshold, p in zip(result.thresholds, result.p_values):
        left = sure >= threshold
        expected = binom.cdf((left & (sure <= 0.4)).sum(), left.sum(), 0.1) if left.any() else 1
        assert p == pytest.approx(min(1, 30 * expected))
    assert result.threshold in result.thresholds
    left = sure >= result.threshold
    assert result.estimate == pytest.approx((left & (sure <= 0.4)).sum() / left.sum())
    assert result.bound <= 0.1
    wrong = certify(make_policy("confidence"), record_of(np.zeros((2000, 2), int)), "error_among_exited", 0.1)
    assert (wrong.threshold, wrong.cost) == (np.inf, 2)
    assert wrong.reason == "only the full model is certified, by definition: its error_among_exited is 0"


def test_error_among_accepted_by_hand():
    """Answers below 0.4 are wrong. δ is given, and the threshold for rejection is certified."""
    sure = np.arange(2000) / 2000
    right = np.stack([sure > 0.4, sure > 0.3], 1)
    record, policy = record_of(right.astype(int), sure), make_policy("confidence")
    for threshold, limit, cost in ((-np.inf, 0.4, 1), (np.inf, 0.3, 2), ([0.0], 0.4, 1)):
        result = certify(policy, record, "error_among_accepted", 0.1, threshold=threshold)
        assert len(result.thresholds) == 30
        for rho, p in zip(result.thresholds, result.p_values):
            accepted = sure >= rho
            expected = binom.cdf((accepted & (sure <= limit)).sum(), accepted.sum(), 0.1) if accepted.any() else 1
            assert p == pytest.approx(min(1, 30 * expected))
        np.testing.assert_array_equal(result.valid, result.thresholds[result.p_values <= 0.1])
        assert result.reject_below == result.valid[-1]
        accepted = sure >= result.reject_below
        assert (result.coverage, result.cost) == (accepted.mean(), cost)
        np.testing.assert_array_equal(result.threshold, threshold)
        assert result.estimate == pytest.approx((accepted & (sure <= limit)).sum() / accepted.sum())
        assert result.bound <= 0.1
        answers = decide(policy, record, [threshold], reject_below=result.reject_below)[1][0]
        assert (answers != -1).mean() == result.coverage
        naive = certify(policy, record, "error_among_accepted", 0.1, method="naive", threshold=threshold)
        assert naive.coverage >= result.coverage
    wrong = certify(policy, record_of(np.zeros((2000, 2), int)), "error_among_accepted", 0.1)
    assert (wrong.threshold, wrong.reject_below, wrong.coverage) == (None, None, None)
    assert wrong.reason.endswith("and the lowest level that can be certified is about 1")


@pytest.mark.parametrize("high", [1.0, 0.9])
def test_equal_signals_do_not_hide_what_can_be_certified(high):
    """Nine in ten samples have the highest signal at the first exit, as with PCEE. One in a hundred of them errs."""
    n = np.arange(2000)
    sure = np.where(n % 10 > 0, high, 0.3)
    right = np.stack([(n % 10 > 0) & (n % 1000 > 9), np.ones(2000, bool)], 1)
    record, policy = record_of(right.astype(int), sure), make_policy("confidence")
    result = certify(policy, record, "error_among_exited", 0.05)
    assert 0.3 < result.threshold <= high
    assert result.cost == 0.9 * 1 + 0.1 * 2
    accepted = certify(policy, record, "error_among_accepted", 0.05, threshold=-np.inf)
    assert (0.3 < accepted.reject_below <= high, accepted.coverage) == (True, 0.9)


def test_what_accepts_everything_is_minus_infinity():
    record = record_of(np.ones((2000, 2), int), np.arange(2000) / 2000)
    for method in ("ltt", "naive"):
        result = certify(make_policy("confidence"), record, "error_among_accepted", 0.1, method=method)
        assert (result.reject_below, result.coverage) == (-np.inf, 1)


def test_one_exit_costs_what_it_costs():
    record = ExitRecord.from_outputs(np.zeros((300, 1), int), np.full((300, 1), 0.5), np.zeros(300, int), [7.0])
    result = certify(make_policy("confidence"), record, "cost", 0.3)
    assert (result.threshold, result.reason.rpartition(" is ")[2]) == (None, "7")


def test_the_lowest_level_of_rejection_can_be_certified():
    record = record_of(np.arange(300)[:, None] % 10 > 0, np.arange(300) / 300)  # one in ten errs, however sure
    options = {"policy": make_policy("confidence"), "validation": record, "risk": "error_among_accepted"}
    result = certify(**options, level=0.08)
    assert result.reject_below is None
    assert re.search(r"error_among_accepted is 0\.\d+ if answers below 0\.\d+ are rejected on 300", result.reason)
    lowest = float(result.reason.rpartition(" is about ")[2])
    assert certify(**options, level=1.1 * lowest).reject_below is not None
    assert certify(**options, level=0.8 * lowest).reject_below is None


# What is promised


class Pool:
    """A population of 3,000 samples, from which records are drawn with repetition, so that the truth is known."""

    def __init__(self, seed, exits=4):
        rng = np.random.default_rng(seed)
        n = 3000
        easy = rng.beta(6, 1, (n, 1)) * np.linspace(0.75, 1, exits)  # chance to be right
        self.right = rng.random((n, 1)) * 0.7 + rng.random((n, exits)) * 0.3 < easy  # (N, L)
        self.sure = np.clip(easy + rng.normal(0, 0.1, (n, exits)), 0, 1).astype(np.float32)  # (N, L)
        self.labels = rng.integers(0, 2, n)  # (N,)
        self.whole = self.record(np.arange(n))

    def record(self, rows, **about):
        right, labels = self.right[rows], self.labels[rows]
        prediction = np.where(right, labels[:, None], 1 - labels[:, None])
        return ExitRecord.from_outputs(
            prediction, self.sure[rows], labels, np.arange(right.shape[1]) + 1.0, metadata=about
        )

    def draw(self, n, seed):
        rows = np.random.default_rng([seed, 1]).integers(0, len(self.right), n)
        return self.record(rows), rows

    def losses(self, rows):
        """Losses of 0, 1/2 and 1 (n, L): half for a wrong answer, and half for one that differs from the last."""
        right = self.right[rows]
        return (~right + (right != right[:, -1:])) / 2

    def risk(self, policy, threshold, name, budget=None):
        exits = policy.exits(self.whole, threshold)
        if name == "array":
            return self.losses(np.arange(len(exits)))[np.arange(len(exits)), exits].mean()
        wrong = ~self.right[np.arange(len(exits)), exits]
        if name == "error":
            return wrong.mean()
        if name == "error_among_accepted":  # the threshold is ρ, and δ is FIXED
            exits = policy.exits(self.whole, FIXED)
            rows = np.arange(len(exits))
            accepted = policy.estimate(self.whole)[rows, exits] >= threshold
            return (~self.right[rows, exits])[accepted].mean()
        if name == "gap":
            return wrong.mean() - (~self.right[:, -1]).mean()
        if name == "disagreement":
            return (self.right[np.arange(len(exits)), exits] != self.right[:, -1]).mean()
        if name == "error_among_exited":
            left = exits < self.right.shape[1] - 1
            return wrong[left].mean() if left.any() else 0.0
        return (exits + 1).mean() if name == "cost" else (exits + 1 > budget).mean()


DRAWS = 300
FIXED = 0.85  # δ, if a threshold for rejection is certified


def violations(risk, level, confidence, method, n=400, budget=None, draws=DRAWS, **options):
    """Return how often the true risk exceeds the level, the mean risk, and how often something is certified."""
    pool, policy = Pool(0), make_policy("confidence")
    risks = []
    for seed in range(draws):
        record, rows = pool.draw(n, seed)
        if risk == "error_among_accepted":
            options["threshold"] = FIXED
        loss = pool.losses(rows) if risk == "array" else risk
        result = certify(policy, record, loss, level, confidence, method, budget=budget, **options)
        threshold = result.reject_below if risk == "error_among_accepted" else result.threshold
        risks.append(np.nan if threshold is None else pool.risk(policy, threshold, risk, budget))
    risks = np.array(risks)
    return (risks > level).sum(), np.nanmean(risks), np.isfinite(risks).mean()


def too_often(count, confidence, draws=DRAWS):
    """Return whether a number of violations contradicts the promise (one-sided test at 0.1 %)."""
    return binomtest(int(count), draws, 1 - confidence, alternative="greater").pvalue < 0.001


@pytest.mark.parametrize(
    ("risk", "level", "method", "options"),
    [
        ("error", 0.22, "ltt", {}),
        ("error", 0.22, "ucb", {}),
        ("gap", 0.08, "ltt", {}),
        ("disagreement", 0.1, "ltt", {}),
        ("error_among_exited", 0.2, "ltt", {}),
        ("error_among_accepted", 0.17, "ltt", {}),
        ("cost", 3.0, "ltt", {}),
        ("over_budget", 0.2, "ltt", {"budget": 3}),
        ("array", 0.15, "ltt", {}),
        ("array", 0.15, "ltt", {"p_value": "hoeffding_bentkus"}),
    ],
)
def test_the_promise_is_kept(risk, level, method, options):
    count, mean, share = violations(risk, level, 0.8, method, **options)
    assert not too_often(count, 0.8)
    assert share > 0.95  # and not by certifying nothing
    assert mean > 0.55 * level
    if (risk, method) == ("error", "ltt"):
        assert count >= 0.05 * DRAWS  # exact p-values leave little unused


def test_the_naive_choice_breaks_the_promise():
    count, _, _ = violations("error", 0.22, 0.8, "naive")
    assert too_often(count, 0.8)


def test_crc_keeps_the_mean():
    draws = 300
    _, mean, _ = violations("over_budget", 0.2, 0.8, "crc", n=60, budget=3, draws=draws)
    assert 0.17 < mean < 0.2 + 3 * math.sqrt(0.2 * 0.8 / 60 / draws)


def test_per_exit_thresholds_keep_the_promise():
    rows = list(itertools.product([0.6, 0.75, 0.9, np.inf], repeat=3))
    count, mean, share = violations("error", 0.22, 0.8, "holm", thresholds=rows)
    assert not too_often(count, 0.8)
    assert share > 0.95
    assert mean > 0.15


# What is known of the samples


def test_fitting_on_the_same_samples_is_noticed():
    whole, _ = Pool(0).draw(400, 0)
    fitting, rest = split_record(whole, 0.5)
    policy = make_policy("pcee").fit(fitting)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        certify(policy, rest, level=0.5)
        other, _ = Pool(0).draw(400, 1)
        certify(policy, other, level=0.5)  # the same positions, as it has none of its own
    with pytest.warns(
        UserWarning, match=r"pcee was fitted on 200 of these 400 samples, so the guarantee does not hold"
    ):
        certify(policy, whole, level=0.5)
    policy.set_params(bins=7)
    with pytest.warns(UserWarning, match="certifying a threshold uses a record whose split is test"):
        certify(policy.fit(fitting), Pool(0).record(np.arange(300), split="test"), level=0.5)


def test_no_labels_are_needed_for_costs_and_disagreement():
    record, _ = Pool(0).draw(200, 0)
    bare = without_labels(record)
    for risk, level in (("disagreement", 0.2), ("cost", 2.5)):
        one, other = (certify(make_policy("confidence"), r, risk, level) for r in (record, bare))
        assert one.threshold == other.threshold
    with pytest.raises(ValueError, match="certifying an error needs labels"):
        certify(make_policy("confidence"), bare)


EACH = ExitRecord.from_outputs(np.zeros((99, 2), int), None, np.zeros(99, int), np.arange(198.0).reshape(99, 2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"level": 1.5}, "level is 1.5; expected a number between 0 and 1 for error"),
        ({"level": 0}, "level is 0; expected a number between 0 and 1"),
        ({"level": np.nan}, "level is nan; expected a number"),
        ({"risk": "gap", "level": -1.5}, "level is -1.5; expected a number between -1 and 1 for gap"),
        ({"confidence": 1.0}, "confidence is 1; expected a number between 0 and 1"),
        ({"confidence": -0.1}, "confidence is -0.1; expected a number between 0 and 1"),
        (
            {"level": 0.01},
            "99 samples are too few to certify error at level 0.01 with confidence 0.9; at least 230 are",
        ),
        ({"risk": "error_among_exited", "level": 0.01}, "99 samples are too few .* at least 568 are needed"),
        ({"risk": "error_among_accepted", "level": 0.01}, "99 samples are too few .* at least 568 are needed"),
        ({"threshold": 0.5}, "threshold is for the risk error_among_accepted; of other risks, it is the result"),
        (
            {"risk": "error_among_accepted", "method": "holm", "thresholds": [[1]]},
            "error_among_accepted certifies a threshold for rejection, and not thresholds per exit; expected ltt, ucb",
        ),
        (
            {"risk": "error_among_accepted", "threshold": [0.1, 0.2], "level": 0.2},
            "threshold: expected a number or 1 of",
        ),
        ({"method": "crc", "risk": "error_among_accepted"}, "which error_among_accepted does not promise; use ltt"),
        ({"risk": "loss"}, "risk is 'loss'; expected one of error, gap, .*, or an array of losses"),
        ({"method": "rcps"}, "method is 'rcps'; expected one of ltt, ucb, crc, holm, naive"),
        ({"p_value": "t"}, "p_value is 't'; expected one of binomial, hoeffding_bentkus, wsr"),
        ({"p_value": "binomial", "risk": "gap"}, "binomial p-values need losses of 0 and 1; gap has others"),
        ({"risk": "over_budget"}, "give budget="),
        ({"risk": "over_budget", "budget": np.nan}, "budget is nan; expected a number"),
        ({"budget": 3}, "budget is for the risk over_budget, not for error"),
        ({"bounds": (0, 2)}, "error is from 0 to 1; expected no bounds"),
        ({"method": "holm"}, "holm needs thresholds"),
        ({"method": "holm", "thresholds": [[1], [1, 2]]}, r"expected rows of 1 numbers, .* got shape \(0, 0\)"),
        ({"thresholds": [[1]]}, "thresholds are for the method holm; ltt tests all"),
        ({"method": "holm", "thresholds": [[1, 2]]}, r"expected rows of 1 numbers, .* got shape \(1, 2\)"),
        ({"method": "crc"}, "crc needs a loss that never rises towards the safe end, which error does .* in sample 0"),
        ({"method": "crc", "risk": "error_among_exited"}, "which error_among_exited does not promise; use ltt"),
        ({"risk": np.zeros((9, 2))}, r"loss: expected shape \(99, 2\), samples × exits; got \(9, 2\)"),
        ({"risk": np.full((99, 2), 1.5)}, r"loss\[0, 0\] is 1.5; expected a number from 0 to 1 \(bounds=…\)"),
        ({"risk": np.full((99, 2), np.nan)}, r"loss\[0, 0\] is nan; expected a number from 0 to 1"),
        ({"risk": np.full((99, 2), "a")}, "risk: expected a name or an array of losses, got <U1"),
        (
            {"risk": np.zeros((99, 2)), "bounds": (1, 0)},
            "bounds are 1 and 0; expected two numbers, the lower one first",
        ),
        ({"risk": np.zeros((99, 2)), "bounds": (0,)}, r"bounds are \(0,\); expected two numbers"),
    ],
)
def test_bad_input(options, message):
    record = record_of(np.tile([[1, 0]], (99, 1)))
    with pytest.raises(ValueError, match=message) as refused:
        certify(make_policy("confidence"), record, **options)
    assert "\n" not in str(refused.value)


def test_costs_of_samples_need_bounds():
    policy = given_signal(np.zeros((99, 2)))  # all leave at the first exit
    with pytest.raises(ValueError, match="the highest possible cost is not known; give bounds="):
        certify(policy, EACH, "cost", 100)
    assert certify(policy, EACH, "cost", 150, bounds=(0, 1000)).threshold == np.inf


def test_what_is_needed_is_enough_and_not_less():
    def perfect(n):
        return record_of(np.ones((n, 2), int))

    for method in ("ltt", "ucb"):
        with pytest.raises(ValueError, match="at least") as refused:
            certify(make_policy("confidence"), perfect(3), level=0.05, method=method)
        needed = int(str(refused.value).split("at least ")[1].split()[0])
        assert certify(make_policy("confidence"), perfect(needed), level=0.05, method=method).threshold == -np.inf
        with pytest.raises(ValueError, match=f"at least {needed} are needed"):
            certify(make_policy("confidence"), perfect(needed - 1), level=0.05, method=method)


def test_the_lowest_level_can_be_certified():
    record, _ = Pool(0).draw(300, 0)
    result = certify(make_policy("confidence"), record, level=0.1)
    assert result.threshold is None
    assert not len(result.valid)
    lowest = float(result.reason.rpartition(" ")[2])
    assert certify(make_policy("confidence"), record, level=lowest).threshold is not None
    assert certify(make_policy("confidence"), record, level=lowest - 0.001).threshold is None


# The command line


@pytest.fixture
def offramp(tmp_path, monkeypatch, said):
    """Run a command in a folder with two records, and return what it printed, or its error."""
    monkeypatch.chdir(tmp_path)
    pool = Pool(0)
    for split, rows in (("validation", slice(0, 1500)), ("test", slice(1500, 3000))):
        pool.record(np.arange(3000)[rows], split=split, dataset="d", system="s", seed=0, unit="MAC").save(split)
    return said


def test_certify_command(offramp):
    said = offramp("certify validation --policy pcee --policy confidence --level 0.3 --out c.csv --policies-out p")
    fitting, rest = split_record(ExitRecord.load("validation"), 0.5)
    table = pd.read_csv("c.csv").set_index("policy")
    for name in ("pcee", "confidence"):
        result = certify(make_policy(name).fit(fitting), rest, level=0.3)
        row = table.loc[name]
        assert (row.threshold, row.cost, row.bound) == (result.threshold, result.cost, result.bound)
        assert (row.system, row.unit, row.risk, row.n_samples) == ("s", "MAC", "error", 750)
        assert f"{name}: threshold {result.threshold:.6g}, average cost" in said
    np.testing.assert_array_equal(
        load_policies("p")[0]["pcee"].signal(rest), make_policy("pcee").fit(fitting).signal(rest)
    )
    assert "no threshold is certified: error is " in offramp("certify validation --policy confidence --level 0.05")
    said = offramp(
        "certify validation --policy confidence --level 0.3 --method holm --per-exit 0.9,0.9,inf --out h.csv"
    )
    assert "threshold 0.9,0.9,inf" in said
    assert pd.read_csv("h.csv").threshold_2.tolist() == [0.9]


def test_certified_rejection(offramp):
    promise = "--risk error_among_accepted --level 0.2 --threshold 0.8"
    said = offramp(f"certify validation --policy pcee {promise} --out c.csv --policies-out p")
    fitting, rest = split_record(ExitRecord.load("validation"), 0.5)
    policy = make_policy("pcee").fit(fitting)
    result = certify(policy, rest, "error_among_accepted", 0.2, threshold=0.8)
    row = pd.read_csv("c.csv").iloc[0]
    assert (row.threshold, row.reject_below, row.coverage) == (0.8, result.reject_below, result.coverage)
    assert f"pcee: threshold 0.8, reject below {result.reject_below:.6g}, coverage {result.coverage:.4g}, " in said
    offramp(f"evaluate --policies p --test test --thresholds 0.8 --reject-below {result.reject_below!r} --out e.csv")
    expected = evaluate(policy, ExitRecord.load("test"), [0.8], reject_below=result.reject_below)
    columns = ["threshold", "coverage", "accuracy", "cost"]
    np.testing.assert_array_equal(pd.read_csv("e.csv")[columns], expected[columns])


def test_certified_thresholds_in_evaluate(offramp):
    offramp("evaluate --policy pcee --validation validation --test test --risk gap --level 0.03 --out e.csv")
    fitting, rest = split_record(ExitRecord.load("validation"), 0.5)
    policy = make_policy("pcee").fit(fitting)
    expected = evaluate(policy, ExitRecord.load("test"), [certify(policy, rest, "gap", 0.03).threshold])
    assert (
        pd.read_csv("e.csv")[["threshold", "cost"]].to_numpy().tolist()
        == expected[["threshold", "cost"]].to_numpy().tolist()
    )
    assert "no policy keeps error at most 0.05 with" in offramp(
        "evaluate --policy confidence --validation validation --test test --level 0.05 --out f.csv"
    )


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("certify validation", "expected either --policy or --policies"),
        ("certify validation --policy pcee --confidence 2", "confidence is 2; expected a number between 0 and 1"),
        ("certify validation --policy pcee --method holm --per-exit 1,2 --per-exit 1", "rows of different lengths"),
        ("certify validation --policy pcee --level 0.001", "pcee: certify: 750 samples are too few"),
        ("evaluate --policy pcee --test test --level 0.1 --out e.csv", "--level needs --validation"),
        ("evaluate --policy pcee --test test --risk gap --out e.csv", "--risk needs --level"),
        (
            "evaluate --policy pcee --validation validation --test test --level 0.1 --risk error_among_accepted "
            "--out e.csv",
            "--risk error_among_accepted certifies a threshold for rejection: expected `offramp certify`, and "
            "--reject-below here",
        ),
        ("certify validation --policy pcee --threshold 0.5", "threshold is for the risk error_among_accepted"),
        ("export test --policies test --confidence 0.9 --out b", "--confidence needs --level"),
        (
            "evaluate --policy pcee --validation validation --test test --level 0.1 --thresholds 1 --out e.csv",
            "expected no",
        ),
    ],
)
def test_commands_that_are_refused(offramp, line, message):
    assert message in offramp(line)


def test_policies_that_were_fitted_on_the_record_give_a_warning(offramp):
    offramp("calibrate validation --policy pcee --out p")
    record = ExitRecord.load("validation")
    with pytest.warns(UserWarning, match="fitted on a record with the same origin as this one"):
        load_fitted("p", record)


def test_all_risks_are_explained():
    assert all(f"\n      {name} " in cli.commands["certify"].help for name in RISKS)


# docs/guarantees.md


def test_table_of_needed_samples():
    def power(n, level, confidence, error):
        most = max(k for k in range(-1, n) if k < 0 or binom.cdf(k, n, level) <= 1 - confidence)
        return binom.cdf(most, n, error)

    rows = re.findall(r"^\| ([\d.]+) \| ([\d.]+) \| (\d+) \| ([\d,]+) \| about", PAGE, re.MULTILINE)
    assert len(rows) == 10
    for level, confidence, perfect, half in rows:
        level, confidence, perfect, half = float(level), float(confidence), int(perfect), int(half.replace(",", ""))
        assert (1 - level) ** perfect <= 1 - confidence < (1 - level) ** (perfect - 1)
        if half < 600:
            assert power(half - 1, level, confidence, level / 2) < 0.9 <= power(half, level, confidence, level / 2)


def test_examples_of_the_page(capsys):
    names = {}
    for code in re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE):
        exec(code, names)
    assert np.isfinite(names["result"].threshold)
    assert capsys.readouterr().out.count("\n") == 4


def test_every_risk_and_method_is_on_the_page():
    assert all(f"| `{name}` |" in PAGE for name in [*RISKS, *METHODS])
