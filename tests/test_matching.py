"""Policies at matched accuracy and cost, compared with loops over seeds, samples and resamplings."""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import oracles
from offramp import ExitRecord, Policy, choose_threshold, make_policy
from offramp.comparison.bootstrap import Bootstrap
from offramp.comparison.matched import BUDGETS, CHOICES, DROPS, REFERENCES, at_budgets, duels, match, matched, speedup
from offramp.comparison.runs import Run
from offramp.evaluation import frontier
from strategies import quick, records

N, VALIDATION = 40, 60
SEEDS = (0, 1, 2)
EXITS = {"short": 2, "long": 4, "full": 1}
RESAMPLES = 6
ENDINGS = ("", "_sd", "_low", "_high")


@dataclass
class Stubborn(Policy):
    """A policy that always answers as the first exit, regardless of the exit at which a sample leaves."""

    name = "stubborn"
    rule = "max softmax ≥ δ"
    paper = "none"

    answers_together = True

    def _step(self, outputs, stream):
        stream.prediction = stream.past.setdefault("first", outputs.prediction)
        return outputs.score()


def make_record(system, seed, split, metric):
    """A record with three classes and shared costs, or two classes and costs per sample."""
    exits, classes = EXITS[system], 3 if metric == "accuracy" else 2
    n = N if split == "test" else VALIDATION
    labels = np.random.default_rng(split == "test").integers(0, classes, n)  # the same for all runs
    random = np.random.default_rng([seed, exits, split == "test"])
    logits = random.normal(size=(n, exits, classes))
    logits[np.arange(n), :, labels] += 1.5 * np.linspace(0.3, 1.2, exits)
    cost = np.arange(1.0, exits + 1) ** 2
    if metric != "accuracy":
        cost = cost * random.integers(3, 9, (n, 1))
    metadata = {"system": system, "seed": seed, "split": split, "metric": metric}
    return ExitRecord(logits.astype(np.float32), labels, cost, np.arange(n) + 100, metadata)


def make_run(system, seed, metric):
    validation, test = (make_record(system, seed, split, metric) for split in ("validation", "test"))
    policies = {
        "confidence": make_policy("confidence"),
        "patience": make_policy("patience"),
        "beem": make_policy("beem-a"),
        "pcee": make_policy("pcee", bins=5, no_exit="most_accurate"),
        "stubborn": Stubborn(),
    }
    return Run(system, seed, validation, test, {label: p.fit(validation) for label, p in policies.items()})


@pytest.fixture(scope="module", params=["accuracy", "f1"])
def runs(request):
    return [make_run(system, seed, request.param) for seed in SEEDS for system in EXITS]


@pytest.fixture(scope="module")
def everything(runs):
    return match(runs)


@pytest.fixture(scope="module")
def resampled():
    return Bootstrap.draw(N, RESAMPLES, seed=5)


@pytest.fixture(scope="module")
def table(everything, resampled):
    return speedup(everything, resampled)


# Reference implementations


def thresholds_of(policy, validation):
    """Return the thresholds of all choices, and the weights of the budgets.

    The choices are the drops, the thresholds per exit, and the two neighbouring thresholds of each budget.
    """
    full = validation.correct[:, -1].mean()
    first, last = validation.cost[[0, -1]]
    points = [(first, -np.inf), *frontier(policy, validation)[["cost", "threshold"]].itertuples(index=False)]
    below, above, weights = [], [], []
    for k in range(1, 10):
        budget = first + k / 10 * (last - first)
        cheap = max([j for j, (cost, _) in enumerate(points[:-1]) if cost <= budget])
        (low, lower), (high, upper) = points[cheap : cheap + 2]
        below.append(lower)
        above.append(upper)
        weights.append((budget - low) / (high - low) if high > low else 0)
    return [
        *(choose_threshold(policy, validation, accuracy=full - drop) for drop in (0, 0.005, 0.01)),
        policy.choose_thresholds(validation, reference="overall"),
        policy.choose_thresholds(validation, reference="same_samples"),
        *below,
        *above,
    ], [1 - w for w in weights] + weights


def route(policy, record, threshold):
    """Return exit and answer of each sample."""
    signal = policy.signal(record)
    fallback = oracles.best_exit(signal) if policy.name == "pcee" else None
    return oracles.answers(signal, policy.prediction(record), threshold, fallback)


@pytest.fixture(scope="module")
def routed(runs):
    """Results by system, seed and label.

    For each choice, the exit and the answer of each test sample, and the weights of the neighbouring thresholds.
    """
    found = {}
    for run in runs:
        for label, policy in run.policies.items():
            chosen, weights = thresholds_of(policy, run.validation)
            found[run.system, run.seed, label] = [route(policy, run.test, t) for t in chosen], weights
    return found


def group_of(runs, system):
    return [run for run in runs if run.system == system]


def mean(values):
    return sum(values) / len(values)


def check(row, name, per_sample, resampled, reduce):
    """Check the columns of one number. `reduce` computes it from the values of one seed (a list of n tuples)."""
    seeds = [reduce(rows) for rows in per_sample]
    replicates = [
        [reduce([rows[n] for n in range(N) for _ in range(int(counts[n]))]) for counts in resampled.counts]
        for rows in per_sample
    ]
    ends = np.quantile(resampled.over_seeds(np.array(replicates)), [0.025, 0.975])
    expected = [mean(seeds), np.std(seeds, ddof=1), *ends]
    np.testing.assert_allclose([row[name + end] for end in ENDINGS], expected, atol=1e-12, err_msg=name)


def column(rows, k):
    return [row[k] for row in rows]


def f1(truth, answers):
    hits = sum(y == a == 1 for y, a in zip(truth, answers))
    return 2 * hits / (truth.count(1) + answers.count(1) or 1)


# What is matched


def test_every_choice_is_of_the_validation_data(runs, everything, routed):
    assert (len(CHOICES), len(BUDGETS)) == (5, 9)
    assert list(everything) == [(system, label) for system in EXITS for label in runs[0].policies]
    for (system, label), found in everything.items():
        assert found.exits.shape == found.answers.shape == (5 + 2 * 9, len(SEEDS), N)
        assert found.validation_loss.shape == found.exits.shape[:2]
        for s, run in enumerate(group_of(runs, system)):
            decisions, weights = routed[system, run.seed, label]
            for k, (exits, answers) in enumerate(decisions):
                np.testing.assert_array_equal(found.exits[k, s], exits)
                np.testing.assert_array_equal(found.answers[k, s], answers)
            np.testing.assert_allclose(found.weights[:, s], weights, atol=1e-12)


def test_the_loss_on_the_samples_that_chose(runs, everything):
    for system in ("short", "long"):
        run = group_of(runs, system)[1]
        for label, policy in run.policies.items():
            for k, threshold in enumerate(thresholds_of(policy, run.validation)[0]):
                _, answers = route(policy, run.validation, threshold)
                right = sum(a == y for a, y in zip(answers, run.validation.labels))
                loss = (right - sum(run.validation.correct[:, -1].tolist())) / VALIDATION
                assert everything[system, label].validation_loss[k, 1] == pytest.approx(loss, abs=1e-12)


def with_labels(record, labels):
    return ExitRecord(record.logits, labels, record.cost, record.index, record.metadata)


def test_the_test_labels_choose_nothing(runs):
    group = [run for run in runs if run.system == "long"]
    others = [replace(run, test=with_labels(run.test, (run.test.labels + 1) % run.test.n_classes)) for run in group]
    for label in group[0].policies:
        found, other = matched(group, label), matched(others, label)
        for field in ("exits", "answers", "validation_loss"):
            np.testing.assert_array_equal(getattr(found, field), getattr(other, field))
        assert (found.right != other.right).any()


@st.composite
def anything(draw):
    """A run of random records, with ties."""
    n, l, c = (draw(st.integers(*bounds)) for bounds in ((1, 14), (1, 4), (2, 3)))
    sizes = {"exits": (l, l), "classes": (c, c), "sample_costs": True}
    validation = draw(records(samples=(n, n), **sizes))
    policies = {
        "confidence": make_policy("confidence"),
        "beem": make_policy("beem-a"),
        "patience": make_policy("patience"),
        "oracle": make_policy("oracle"),
    }
    return Run("s", 0, validation, draw(records(**sizes)), {k: p.fit(validation) for k, p in policies.items()})


@quick
@given(anything(), st.sampled_from(["confidence", "beem", "patience", "oracle"]))
def test_what_each_choice_promises_on_validation(run, label):
    found = matched([run], label)
    loss = dict(zip([*DROPS, *REFERENCES], found.validation_loss[:, 0]))
    assert loss["per exit, same samples"] >= 0
    for drop in DROPS:
        assert loss[drop] >= -drop - 1e-12
    assert (found.exits >= 0).all()
    assert (found.exits < run.test.n_exits).all()
    assert (np.diff(found.exits[: len(DROPS)].sum(axis=(1, 2))) <= 0).all()  # larger losses: samples leave earlier
    below, above = found.exits[len(CHOICES) :].sum(axis=(1, 2)).reshape(2, -1)
    for layers in (below, above):
        assert (np.diff(layers) >= 0).all()  # larger budgets: samples leave later
    assert (below <= above).all()
    for each in (found.paid, found.layers):
        assert each.shape == found.exits.shape
    np.testing.assert_array_equal(found.paid[0, 0], oracles.cost_of(run.test, found.exits[0, 0]))


@quick
@given(anything(), st.sampled_from(["confidence", "beem", "patience", "oracle"]))
def test_budgets_are_spent_just_so_on_validation_between_neighbours(run, label):
    policy, record = run.policies[label], run.validation
    thresholds, weights = at_budgets(frontier(policy, record), record.cost)
    below, above = np.reshape([np.mean(oracles.cost_of(record, policy.exits(record, t))) for t in thresholds], (2, -1))
    low, high = np.reshape(weights, (2, -1))
    budgets = record.cost[0] + np.arange(0.1, 0.95, 0.1) * (record.cost[-1] - record.cost[0])
    np.testing.assert_allclose(low * below + high * above, budgets)
    np.testing.assert_allclose(low + high, 1)
    assert ((weights >= 0) & (weights <= 1)).all()
    every = [
        np.mean(oracles.cost_of(record, policy.exits(record, t))) for t in [*np.unique(policy.signal(record)), np.inf]
    ]
    for one, other in zip(below, above):
        assert not any(one + 1e-9 < cost < other - 1e-9 for cost in every)


def test_budgets_of_a_frontier_by_hand():
    """The first exit costs 2 and the full model 12, so the budgets are 3, 4, … 11."""
    points = pd.DataFrame({"cost": [2.0, 4.0, 9.0, 12.0], "threshold": [0.1, 0.2, 0.3, np.inf]})
    thresholds, weights = at_budgets(points, np.array([2.0, 7.0, 12.0]))
    assert thresholds[:9].tolist() == [0.1] + [0.2] * 5 + [0.3] * 3
    assert thresholds[9:].tolist() == [0.2] + [0.3] * 5 + [np.inf] * 3
    np.testing.assert_allclose(weights[9:], [1 / 2, 0, 1 / 5, 2 / 5, 3 / 5, 4 / 5, 0, 1 / 3, 2 / 3], atol=1e-15)
    np.testing.assert_allclose(weights[:9], 1 - weights[9:])


# The speed-up table


def test_a_row_a_system_policy_and_choice(runs, everything, table):
    assert len(table) == len(EXITS) * len(runs[0].policies) * len(CHOICES)
    assert list(zip(table.system, table.policy)) == [key for key in everything for _ in CHOICES]
    one = table.iloc[: len(CHOICES)]
    assert one.choice.tolist() == ["shared"] * 3 + ["per exit, overall", "per exit, same samples"]
    assert one["drop"].tolist() == [0, 0.005, 0.01, 0, 0]
    assert not table.drop(columns=[c for c in table if c.startswith("exit_")]).isna().any(axis=None)


def test_the_numbers_are_the_loops(runs, routed, table, resampled):
    for place, row in table.iterrows():
        if row.system == "full":
            continue  # see below
        group, k, n_exits = group_of(runs, row.system), place % len(CHOICES), EXITS[row.system]
        samples = []  # per seed and sample: layers, cost, answer, answer of the final exit, label, full cost
        for run in group:
            exits, answers = routed[row.system, run.seed, row.policy][0][k]
            cost, full = (oracles.cost_of(run.test, each) for each in (exits, [n_exits - 1] * N))
            last = run.test.prediction[:, -1].tolist()
            samples.append(list(zip([i + 1 for i in exits], cost, answers, last, run.test.labels.tolist(), full)))

        def accuracy(rows, answer=2):
            return mean([r[answer] == r[4] for r in rows])

        def metric_loss(rows):
            if runs[0].test.metric == "accuracy":
                return accuracy(rows) - accuracy(rows, 3)
            truth, answers, last = (column(rows, j) for j in (4, 2, 3))
            return f1(truth, answers) - f1(truth, last)

        check(row, "speedup", samples, resampled, lambda rows: n_exits * N / sum(column(rows, 0)))  # noqa: B023
        check(row, "cost", samples, resampled, lambda rows: sum(column(rows, 1)) / sum(column(rows, 5)))
        check(row, "accuracy", samples, resampled, accuracy)
        check(row, "loss", samples, resampled, lambda rows: accuracy(rows) - accuracy(rows, 3))
        check(row, "metric_loss", samples, resampled, metric_loss)
        losses = [accuracy(rows) - accuracy(rows, 3) for rows in samples]
        assert row.full_accuracy == pytest.approx(mean([accuracy(rows, 3) for rows in samples]))
        assert row.worse == mean([loss < 0 for loss in losses])
        assert (row.metric, row.exits) == (runs[0].test.metric, n_exits)
        # The formula of BEEM, from the number of samples that leave at each exit
        left = np.array([[column(rows, 0).count(i + 1) for i in range(n_exits)] for rows in samples])  # (S, L)
        assert row.speedup == pytest.approx(
            mean([n_exits * N / sum((i + 1) * n for i, n in enumerate(c)) for c in left])
        )
        np.testing.assert_allclose([row[f"exit_{i + 1}"] for i in range(n_exits)], left.sum(0) / (N * len(SEEDS)))


def test_shares_and_losses_fit_together(table, everything):
    shares = [c for c in table if c.startswith("exit_")]
    np.testing.assert_allclose(table[shares].sum(axis=1), 1)
    for name in ("speedup", "cost", "accuracy", "loss", "metric_loss"):
        assert (table[f"{name}_low"] <= table[f"{name}_high"] + 1e-12).all()
    np.testing.assert_allclose(table.loss, table.accuracy - table.full_accuracy, atol=1e-12)
    if (table.metric == "accuracy").all():
        for end in ENDINGS:
            np.testing.assert_allclose(table[f"metric_loss{end}"], table[f"loss{end}"], atol=1e-12)
    for (system, label), rows in table.groupby(["system", "policy"], sort=False):
        least = everything[system, label].validation_loss.min(axis=1)
        np.testing.assert_array_equal(rows.validation_loss, least[: len(CHOICES)])


def test_a_policy_is_judged_by_its_own_answers(runs, table):
    """The policy answers as the first exit, so its accuracy is the same, however late samples leave."""
    rows = table[table.policy == "stubborn"]
    assert (rows[rows.system == "long"].speedup < EXITS["long"]).any()
    for row in rows.itertuples():
        firsts = [run.test.correct[:, 0].mean() for run in group_of(runs, row.system)]
        assert row.accuracy == pytest.approx(mean(firsts))
    # It is also less accurate than the full model on validation data, at every threshold
    assert (rows[rows.system == "long"].validation_loss < 0).all()


def test_one_exit_is_the_full_model(table):
    rows = table[table.system == "full"]
    for name, expected in (("speedup", 1), ("loss", 0), ("metric_loss", 0), ("exit_1", 1)):
        np.testing.assert_array_equal(rows[name], expected)
    np.testing.assert_array_equal(rows[["speedup_low", "speedup_high"]], 1)
    np.testing.assert_array_equal(rows[["worse", "validation_loss", "loss_low", "loss_high", "speedup_sd"]], 0)
    np.testing.assert_allclose(rows.cost, 1)


def test_one_seed_has_no_deviation(runs, resampled):
    found = speedup(match(group_of(runs, "short")[:1]), resampled)
    assert found.loc[:, found.columns.str.endswith("_sd")].isna().all(axis=None)


# Duels


PAIRS = [("beem", "confidence"), ("pcee", "stubborn"), ("confidence", "beem"), ("patience", "patience")]
MATCHES = ["drop 0", "drop 0.5", "drop 1", "budgets"]


@pytest.fixture(scope="module")
def fought(everything, resampled):
    return duels(everything, PAIRS, resampled)


def test_duels_are_the_loops(runs, routed, fought, resampled):
    assert len(fought) == len(EXITS) * len(PAIRS) * len(MATCHES)
    assert fought.match.tolist() == MATCHES * (len(EXITS) * len(PAIRS))
    for place, row in fought.iterrows():
        if row.system == "full":
            continue
        m = place % len(MATCHES)
        group, of_match = group_of(runs, row.system), slice(m, m + 1) if m < 3 else slice(5, 23)
        samples, speeds = [], {row.policy: [], row.rival: []}  # per seed and sample: gain, cost difference
        for run in group:
            means = {}
            for label in (row.policy, row.rival):
                decisions, weights = routed[row.system, run.seed, label]
                of_each = []  # (choices, N, 3): right, cost, layers
                for exits, answers in decisions[of_match]:
                    right = [float(a == y) for a, y in zip(answers, run.test.labels)]
                    cost = oracles.cost_of(run.test, exits)
                    of_each.append(list(zip(right, cost, [i + 1 for i in exits])))
                means[label] = np.average(of_each, axis=0, weights=[1] if m < 3 else weights)  # (N, 3)
                speeds[label].append(means[label][:, 2].mean())
            full = oracles.cost_of(run.test, [EXITS[row.system] - 1] * N)
            samples.append(np.column_stack([means[row.policy] - means[row.rival], full]).tolist())
        check(row, "gain", samples, resampled, lambda rows: mean(column(rows, 0)))
        check(row, "cost_difference", samples, resampled, lambda rows: sum(column(rows, 1)) / sum(column(rows, 3)))
        for name, label in (("speedup", row.policy), ("rival_speedup", row.rival)):
            assert row[name] == pytest.approx(mean([EXITS[row.system] / layers for layers in speeds[label]]))


def one_pair(fought, policy, rival):
    return fought[(fought.policy == policy) & (fought.rival == rival)].reset_index(drop=True)


def test_who_is_called_the_rival_turns_the_sign(fought):
    one, other = one_pair(fought, "beem", "confidence"), one_pair(fought, "confidence", "beem")
    assert (one.gain != 0).any()
    assert (one.cost_difference != 0).any()
    for name in ("gain", "cost_difference"):
        np.testing.assert_allclose(one[name], -other[name], atol=1e-15)
        np.testing.assert_allclose(one[f"{name}_sd"], other[f"{name}_sd"], atol=1e-15)
        np.testing.assert_allclose(one[f"{name}_low"], -other[f"{name}_high"], atol=1e-15)
        np.testing.assert_allclose(one[f"{name}_high"], -other[f"{name}_low"], atol=1e-15)
    np.testing.assert_array_equal(one.speedup, other.rival_speedup)


def test_a_policy_is_its_own_equal(fought):
    rows = one_pair(fought, "patience", "patience")
    for name in ("gain", "cost_difference"):
        np.testing.assert_array_equal(rows[[name + end for end in ENDINGS]], 0)
    np.testing.assert_array_equal(rows.speedup, rows.rival_speedup)


def test_a_system_without_one_of_them_is_left_out(everything, fought, resampled):
    fewer = {key: found for key, found in everything.items() if key not in [("short", "beem"), ("full", "pcee")]}
    lacking = (fought.system == "short") & fought[["policy", "rival"]].isin(["beem"]).any(axis=1)
    lacking |= (fought.system == "full") & fought[["policy", "rival"]].isin(["pcee"]).any(axis=1)
    assert lacking.sum() == 3 * len(MATCHES)
    pd.testing.assert_frame_equal(duels(fewer, PAIRS, resampled), fought[~lacking].reset_index(drop=True))


@pytest.mark.parametrize("pair", [("beem", "pabee"), ("pabee", "beem")])
def test_a_policy_that_nobody_fitted(pair, everything, resampled):
    known = "no policy pabee; the files have beem, confidence, patience, pcee, stubborn"
    with pytest.raises(ValueError, match=f"duel {pair[0]}, {pair[1]}: {known}"):
        duels(everything, [pair], resampled)


def test_no_duels_have_their_columns(everything, fought, resampled):
    none = duels(everything, [], resampled)
    assert len(none) == 0
    assert list(none) == list(fought)
