"""One factor at a time: every variant compared with loops that fit and route it again."""

from dataclasses import replace
from itertools import cycle

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import oracles
from offramp import ExitRecord, make_policy
from offramp.cli.options import PolicySpec
from offramp.comparison import samples, sensitivity
from offramp.comparison.bootstrap import Bootstrap
from offramp.comparison.claims import CONTROL_NUMBERS, control, reachable
from offramp.comparison.matched import duels, match
from offramp.comparison.runs import Run
from offramp.comparison.sensitivity import ALL, Setting
from offramp.records.splitting import Holdout, stratified_order
from strategies import quick

N = 60
DRAWS = 3
SYSTEMS = {"small": (2, 1.0), "large": (4, 1.6)}
GRID = np.arange(0.4013, 1, 0.05)  # values that no accuracy of 60 samples can have
EXCESSES = {"excess": "error", "cost_excess": "cost", "accuracy_excess": "accuracy"}
NUMBERS = [*CONTROL_NUMBERS, *EXCESSES]
VARIANTS = [
    Setting("bins", "5", "pcee", make_policy("pcee", bins=5)),
    Setting("bins", "2", "pcee", make_policy("pcee", bins=2, no_exit="most_accurate")),
    Setting("fitted on", "all", "pcee", make_policy("pcee", bins=5)),
    Setting("fitted on", "all", "pcee-ws", make_policy("pcee-ws", window=9)),
    Setting("fitted on", "reached", "pcee", make_policy("pcee", bins=5, fit_on="reached")),
    Setting("fitted on", "reached", "pcee-ws", make_policy("pcee-ws", window=9, fit_on="reached")),
    Setting("samples", "20", "pcee", make_policy("pcee", bins=5), 20),
    Setting("samples", "20", "confidence", make_policy("confidence"), 20),
    Setting("samples", "20, reached", "pcee", make_policy("pcee", bins=5, fit_on="reached"), 20),
    Setting("samples", "all", "confidence", make_policy("confidence")),
    Setting("chosen on", "the same", "pcee", make_policy("pcee", bins=5), fit_share=1),
    Setting("chosen on", "others", "pcee", make_policy("pcee", bins=5), fit_share=0.4),
    Setting("chosen on", "folds", "pcee", make_policy("pcee", bins=5), folds=4),
    Setting("chosen on", "others", "entropy", make_policy("confidence", score="entropy"), 50, fit_share=0.4),
]
REFERENCES = [0, 0, 2, 3, 2, 3, 6, 7, 6, 7, 10, 10, 10, 13]


def make_record(system, seed, split):
    exits, skill = SYSTEMS[system]
    labels = np.random.default_rng(split == "test").integers(0, 3, N)  # the same for all runs
    random = np.random.default_rng([seed, exits, split == "test"])
    logits = random.normal(size=(N, exits, 3))
    logits[np.arange(N), :, labels] += skill * np.linspace(0.5, 1.5, exits)
    return ExitRecord(logits.astype(np.float32), labels, np.arange(1, exits + 1))


@pytest.fixture(scope="module")
def runs():
    return [
        Run(system, seed, make_record(system, seed, "validation"), make_record(system, seed, "test"))
        for seed in (1, 0)
        for system in SYSTEMS
    ]


@pytest.fixture(scope="module")
def resampled():
    return Bootstrap.draw(N, 20, seed=5)


@pytest.fixture(scope="module")
def orders():
    return [np.random.default_rng(draw).permutation(N) for draw in range(DRAWS)]


@pytest.fixture(scope="module")
def table(runs, resampled, orders):
    """Compute the table with draws that are known to the test."""
    with pytest.MonkeyPatch.context() as patch:
        drawn = cycle(orders)
        patch.setattr(samples, "stratified_order", lambda labels, random: next(drawn))
        return sensitivity.sensitivity(runs, VARIANTS, GRID, DRAWS, resampled)


def chooser(variant, validation):
    """Return the fitted policy, and accuracy, cost and threshold at all values of the signal."""
    rows = np.arange(len(validation))
    if variant.folds:
        pairs = [(rows % variant.folds != fold, rows % variant.folds == fold) for fold in range(variant.folds)]
    else:
        fit = round(variant.fit_share * len(rows))
        pairs = [(rows < fit, rows >= fit)] if variant.fit_share < 1 else [(rows >= 0, rows >= 0)]

    def fitted(on):
        return make_policy(variant.policy.name, **variant.policy.options).fit(validation[on])

    parts = [(fitted(on).signal(validation[others]), validation[others]) for on, others in pairs]
    points = [(1.0, np.inf, np.inf)]
    for threshold in np.unique(np.concatenate([signal[:, :-1].ravel() for signal, _ in parts]))[::-1]:
        right, cost = [], []
        for signal, part in parts:
            exits, hits = oracles.route(signal, part.correct, threshold, None)
            right += list(hits)
            cost += [part.cost[i] for i in exits]
        points.append((np.mean(right), np.round(np.mean(cost), 12), threshold))
    return fitted(slice(None) if variant.folds else pairs[0][0]), points


def slowly(variant, run, orders, weightings):
    """Return (weightings, measures): fitted for each draw and δ, routed sample by sample, weighted, averaged."""
    test, of_draws = run.test, []
    for order in orders:
        validation = run.validation.take(order[: variant.validation])
        accuracy, cost = [], []  # (T, weightings) each
        if variant.chooses:
            policy, points = chooser(variant, validation)
        deltas = reachable(test, GRID)
        for delta in deltas:
            options, threshold = variant.policy.options, delta
            if options.get("fit_on") == "reached":
                options["reach_threshold"] = float(delta)
            if variant.chooses:
                threshold = min((point for point in points if point[0] >= delta), key=lambda point: point[1])[2]
            else:
                policy = make_policy(variant.policy.name, **options).fit(validation)
            signal = policy.signal(test)
            fallback = oracles.best_exit(signal) if options.get("no_exit") == "most_accurate" else None
            exits, right = oracles.route(signal, test.correct, threshold, fallback)
            accuracy.append([sum(w * r for w, r in zip(weights, right)) for weights in weightings])
            cost.append([sum(w * test.cost[i] for w, i in zip(weights, exits)) for weights in weightings])
        accuracy, cost = np.array(accuracy), np.array(cost) / float(test.cost[-1])
        miss = accuracy - deltas[:, None]
        of_draws.append([abs(miss).mean(0), abs(miss).max(0), (miss < 0).mean(0), cost.mean(0), accuracy.mean(0)])
    return np.mean(of_draws, axis=0).T


@pytest.fixture(scope="module")
def slow(runs, resampled, orders):
    """Return the results of the loops by system, with seeds in order: (variants, weightings, measures)."""
    weightings = np.vstack([np.ones(N), resampled.counts]) / N
    return {
        system: [
            np.array([slowly(variant, run, orders, weightings) for variant in VARIANTS])
            for run in sorted(runs, key=lambda run: run.seed)
            if run.system == system
        ]
        for system in SYSTEMS
    }


def test_rows(table):
    assert list(table["system"]) == [system for system in (*SYSTEMS, ALL) for _ in VARIANTS]
    for (_, row), (v, variant) in zip(table.iterrows(), [*enumerate(VARIANTS)] * 3):
        assert (row.factor, row.setting, row.policy) == (variant.factor, variant.setting, variant.label)
        assert row.validation == (variant.validation or N)
        assert row.reference == (REFERENCES[v] == v)
        assert row.spec == variant.spec
        assert (row.fit_share == variant.fit_share) == (variant.fit_share is not None)
    ends = ("", "_sd", "_low", "_high")
    assert list(table)[9:] == [name + end for name in NUMBERS for end in ends]


@pytest.mark.parametrize("system", [*SYSTEMS, ALL])
def test_every_variant_is_what_the_loops_give(system, table, slow, resampled):
    seeds = [np.mean(of_systems, axis=0) for of_systems in zip(*slow.values())] if system == ALL else slow[system]
    for v, (_, row) in enumerate(table[table["system"] == system].iterrows()):
        own = {
            name: [seed[v, :, m] for seed in seeds] for m, name in enumerate(CONTROL_NUMBERS)
        }  # (S, weightings) each
        for name, measure in EXCESSES.items():
            m = CONTROL_NUMBERS.index(measure)
            own[name] = [seed[v, :, m] - seed[REFERENCES[v], :, m] for seed in seeds]
        for name, values in own.items():
            mean = np.mean([of_seed[0] for of_seed in values])
            sd = np.std([of_seed[0] for of_seed in values], ddof=1)
            low, high = np.quantile(resampled.over_seeds(np.array([v[1:] for v in values])), [0.025, 0.975])
            if name in ("error", "worst"):
                low, high = max(0, 2 * mean - high), max(0, 2 * mean - low)
            found = [row[name + end] for end in ("", "_sd", "_low", "_high")]
            np.testing.assert_allclose(found, [mean, sd, low, high], atol=1e-12, err_msg=f"{name} {VARIANTS[v]}")


def test_a_reference_is_what_control_gives(runs, table, resampled):
    fitted = [
        Run(
            run.system,
            run.seed,
            run.validation,
            run.test,
            {"pcee": make_policy("pcee", bins=5).fit(run.validation), "confidence": make_policy("confidence")},
        )
        for run in sorted(runs, key=lambda run: run.seed)
    ]
    for label, factor in (("pcee", "bins"), ("confidence", "samples")):
        expected = control(fitted, GRID, label, resampled).set_index(["policy", "system"]).loc[label]
        place = table["reference"] & (table["factor"] == factor) & (table["policy"] == label)
        found = table[place].set_index("system")
        columns = [column for column in expected if column in found]
        assert len(columns) == 4 * (len(NUMBERS) - 1)  # without accuracy_excess
        for system in SYSTEMS:
            pd.testing.assert_series_equal(found.loc[system, columns], expected.loc[system, columns])


def test_variants_are_left_unfitted(table):
    assert all(variant.policy.state is None for variant in VARIANTS)


def test_the_same_seed_draws_the_same_samples(runs, resampled):
    variants = [
        Setting("n", setting, "pcee", make_policy("pcee"), n)
        for setting, n in (("all", None), ("30", 30), ("again", 30), (f"{N}", N))
    ]
    once = sensitivity.sensitivity(runs, variants, GRID, 4, resampled)
    again = sensitivity.sensitivity(runs[::-1], variants, GRID, 4, resampled)  # files may be in any order
    by_system = {"by": "system", "kind": "stable", "ignore_index": True}
    pd.testing.assert_frame_equal(once.sort_values(**by_system), again.sort_values(**by_system))
    rows = once[once["system"] == ALL].set_index("setting")
    numbers = [name for name in NUMBERS if "excess" not in name]
    np.testing.assert_array_equal(rows.loc["30", numbers].astype(float), rows.loc["again", numbers].astype(float))
    np.testing.assert_allclose(rows.loc[f"{N}", numbers].astype(float), rows.loc["all", numbers].astype(float))
    assert rows.loc["30", "error"] != rows.loc["all", "error"]
    other = sensitivity.sensitivity(runs, variants, GRID, 4, Bootstrap(resampled.counts, 6))
    assert other.query("system == @ALL and setting == '30'").error.item() != rows.loc["30", "error"]


@quick
@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.integers(1, 30), st.integers(0, 5))
def test_every_beginning_has_the_classes_in_their_shares(labels, times, seed):
    labels = np.repeat(labels, times)
    order = stratified_order(labels, np.random.default_rng(seed))
    assert sorted(order) == list(range(len(labels)))
    drawn = np.cumsum(labels[order][:, None] == np.arange(4), axis=0)  # (N, classes)
    share = np.bincount(labels, minlength=4) / len(labels)
    assert (np.abs(drawn - np.arange(1, len(labels) + 1)[:, None] * share) < 1 + 4 * share + 1e-9).all()


def test_no_sample_is_preferred():
    labels = np.repeat([0, 1], [5, 15])
    first = np.array([stratified_order(labels, np.random.default_rng(seed))[:2] for seed in range(400)])
    share = np.bincount(first.ravel(), minlength=20) / 400
    np.testing.assert_allclose(share, 0.1, atol=0.05)
    assert share[:5].sum() < 0.7  # the first two are not always one of each class


def test_a_spec_can_be_typed():
    for variant in VARIANTS:
        label, policy = PolicySpec().convert(variant.spec, None, None)
        assert (label, policy.options) == (variant.policy.name, variant.policy.options)
    assert Setting("f", "s", "t", make_policy("confidence", temperature="per_exit")).spec == (
        "confidence:score=max_softmax,temperature=per_exit"
    )
    assert Setting("f", "s", "c", make_policy("confidence")).spec == "confidence:score=max_softmax,temperature=null"


# Invalid input


@pytest.mark.parametrize(
    ("variants", "message"),
    [
        (
            [Setting("bins", "5", "pcee", make_policy("pcee"))] * 2,
            "variant bins/5 of pcee is there twice; expected another setting or label for each",
        ),
        (
            [Setting("score", "margin", "margin", make_policy("confidence", score="margin"))],
            "variant score/margin of margin: the signal of confidence:score=margin,temperature=null claims no accuracy",
        ),
        (
            [Setting("n", "61", "pcee", make_policy("pcee"), 61)],
            "variant n/61 of pcee asks for 61 validation samples, but small seed 1 has 60; expected no more",
        ),
        (
            [Setting("n", "both", "pcee", make_policy("pcee"), fit_share=0.5, folds=3)],
            "variant n/both of pcee has fit_share and folds; expected one of them",
        ),
        (
            [Setting("n", "s", "pcee", make_policy("pcee", fit_on="reached"), folds=3)],
            "variant n/s of pcee: fit_on=reached needs δ before a threshold is chosen",
        ),
    ],
)
def test_variants_that_cannot_be(variants, message, runs, resampled, capsys):
    with pytest.raises(ValueError, match=message):
        sensitivity.sensitivity(runs, variants, GRID, DRAWS, resampled)
    assert capsys.readouterr().err == ""  # fails before it computes anything


def test_systems_of_other_seeds(runs, resampled):
    with pytest.raises(ValueError, match=r"large has the seeds \[1\], small \[0, 1\]; expected the same for all"):
        sensitivity.sensitivity(runs[:3], VARIANTS, GRID, DRAWS, resampled)


@pytest.mark.parametrize("holdout", [Holdout(), Holdout(0.5, 3)])
def test_a_learning_curve_repeats_the_duels_on_each_draw(runs, resampled, orders, holdout):
    made = {"pcee": make_policy("pcee", bins=4), "confidence": make_policy("confidence"), "ztw": make_policy("ztw")}
    pairs = [("pcee", "confidence"), ("ztw", "pcee"), ("pcee", "absent")]

    def fitted(run, order):
        run = replace(run, validation=run.validation.take(order), holdout=holdout)
        return replace(run, policies={label: replace(policy).fit(run.fitting) for label, policy in made.items()})

    def budgets(order):
        its = duels(match([fitted(run, order) for run in runs]), pairs[:2], resampled).query("match == 'budgets'")
        return its.set_index(["system", "policy", "rival"])[["gain", "cost_difference"]]

    with pytest.MonkeyPatch.context() as patch:
        drawn = cycle(orders)
        patch.setattr(samples, "stratified_order", lambda labels, random: next(drawn))
        every = [fitted(run, np.arange(N)) for run in runs]
        table = samples.learning_curve(every, pairs, [40, 25], DRAWS, resampled)
    table = table.set_index(["system", "policy", "rival"])
    assert table["samples"].unique().tolist() == [25, 40, N]
    for size, its in table.groupby("samples"):
        expected = budgets(np.arange(N)) if size == N else sum(budgets(order[:size]) for order in orders) / DRAWS
        pd.testing.assert_frame_equal(its[expected.columns], expected, check_like=True, atol=1e-12, rtol=0)
    whole = duels(match(every), pairs[:2], resampled).query("match == 'budgets'")
    assert table.query(f"samples == {N}")["gain_low"].tolist() == pytest.approx(whole["gain_low"].tolist())


def test_a_learning_curve_needs_more_samples_than_its_sizes(runs, resampled):
    with pytest.raises(ValueError, match=f"{N} validation samples are asked for, but small has {N}; expected fewer"):
        samples.learning_curve(runs, [], [20, N], 1, resampled)
