"""What a search chose can be run: settings of a cascade as a file, thresholds per exit, and thresholds by default."""

import json
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import strategies as own
from offramp import ExitRecord, cascade, decide, evaluate, make_policy, router
from offramp.cascades.building import Combined
from offramp.cascades.settings import CascadeSettings
from offramp.comparison.cascades import (
    VARIANTS,
    Variant,
    cheapest,
    default_variants,
    search_zoo,
)
from offramp.comparison.runs import Run
from offramp.evaluation import default_thresholds


def model(split, k, seed=0, measures=None, **metadata):
    rng = np.random.default_rng([seed, split == "test"])
    labels, hard = rng.integers(0, 4, 200), rng.normal(size=200)
    z = np.random.default_rng([seed, split == "test", k]).normal(size=(200, 1, 4))
    z[np.arange(200), 0, labels] += 1.5 + 0.6 * k - hard
    about = {"system": f"m{k}", "seed": seed, "split": split} | metadata
    about = {key: value for key, value in about.items() if value is not None}
    record = ExitRecord(z.astype(np.float32) * (1 + k), labels, [4.0**k], metadata=about)
    if measures is None:
        return record
    confidence = {measure: record.measure(measure) for measure in measures}
    return ExitRecord.from_outputs(record.prediction, confidence, labels, record.cost, metadata=about)


def zoo(**options):
    return [Run(f"m{k}", 0, model("validation", k, **options), model("test", k, **options)) for k in range(3)]


@pytest.fixture
def offramp(tmp_path, monkeypatch, run):
    """Return a function that runs a command in a new folder and returns (exit code, stderr)."""
    monkeypatch.chdir(tmp_path)

    def call(line):
        code, _, err = run(line)
        return code, err

    return call


# Thresholds per exit


@given(st.data())
def test_thresholds_per_exit_by_hand(data):
    record = data.draw(own.records(exits=(1, 4), sample_costs=True, metrics=("accuracy", "f1")))
    policy = own.given_signal(data.draw(own.signals(record.prediction.shape)))
    rows = [
        [data.draw(own.thresholds(policy.values)) for _ in range(record.n_exits - 1)]
        for _ in range(data.draw(st.integers(1, 3)))
    ]
    table = evaluate(policy, record, rows)
    assert list(table.columns[: record.n_exits + 1]) == [
        *(f"threshold_{i + 1}" for i in range(record.n_exits - 1)),
        "accuracy",
        "cost",
    ]
    costs = record.cost[None] if record.sample_cost is None else record.sample_cost
    for row, point in zip(rows, table.itertuples()):
        exits = []
        for values in policy.values:
            leaves = [i for i, t in enumerate(row) if values[i] >= t and t < np.inf]
            exits.append(leaves[0] if leaves else record.n_exits - 1)
        n = range(record.n_samples)
        assert point.accuracy == pytest.approx(np.mean([record.correct[k, exits[k]] for k in n]))
        assert point.cost == pytest.approx(np.mean([costs[k % len(costs), exits[k]] for k in n]))
        shares = [getattr(point, f"exit_{i + 1}") for i in range(record.n_exits)]
        np.testing.assert_allclose(shares, np.bincount(exits, minlength=record.n_exits) / record.n_samples)
        assert decide(policy, record, [np.array(row)])[0].tolist() == [exits]


def test_equal_thresholds_per_exit_are_a_shared_one():
    logits = np.random.default_rng(0).normal(size=(60, 3, 2))
    record = ExitRecord(logits, np.arange(60) % 2, [1, 2, 4], metadata={"metric": "f1"})
    shared = evaluate(make_policy("confidence"), record, [0.5, 0.7])
    rows = evaluate(make_policy("confidence"), record, [[0.5, 0.5], [0.7, 0.7]])
    pd.testing.assert_frame_equal(rows[shared.columns[1:]], shared.drop(columns="threshold"))


def test_evaluate_takes_thresholds_per_exit(offramp):
    record = ExitRecord(np.random.default_rng(0).normal(size=(60, 3, 4)), np.arange(60) % 4, [1, 2, 4])
    record.save("test.safetensors")
    line = "evaluate --policy confidence --policy sure=confidence:score=margin --test test.safetensors --out t.csv "
    assert offramp(f"{line} --per-exit 0.9,0.5 --per-exit confidence=0.6,0.7 --thresholds 0.3,0.4") == (0, "")
    table = pd.read_csv("t.csv")
    assert list(table["policy"]) == ["confidence", "confidence", "sure"]
    expected = evaluate(make_policy("confidence"), record, [[0.9, 0.5], [0.6, 0.7]])
    pd.testing.assert_frame_equal(table.loc[:1, expected.columns], expected)
    code, err = offramp(f"{line} --per-exit 0.9")
    assert code == 1
    assert "expected a number or 2 of them (one per exit except the last)" in err
    assert "--per-exit for 'other'; expected one of confidence, sure" in offramp(f"{line} --per-exit other=1,2")[1]


# Thresholds by default


@pytest.mark.parametrize("name", ["confidence:score=entropy", "patience", "random", "learned-deferral", "oracle"])
def test_default_thresholds_cover_the_frontier(name, offramp):
    """101 points that are all different, or the whole frontier if it has fewer."""
    for split in ("validation", "test"):
        rng = np.random.default_rng(split == "test")
        record = ExitRecord(rng.normal(size=(400, 3, 4)), rng.integers(0, 4, 400), [1, 2, 4], metadata={"split": split})
        record.save(f"{split}.safetensors")
    line = f"evaluate --policy {name} --validation validation.safetensors --test test.safetensors"
    assert offramp(f"{line} --out c.csv --frontier f.csv") == (0, "")
    curve, exact = pd.read_csv("c.csv"), pd.read_csv("f.csv")
    assert 1 < len(curve) <= 101
    assert len(curve.drop(columns="threshold").drop_duplicates()) >= min(len(exact) - 1, 90)
    assert curve["cost"].min() <= exact["cost"].min() + 0.01


def test_default_thresholds_are_values_of_the_signal():
    policy = own.given_signal([[3.0, 9], [1, 9], [-np.inf, 9], [3, 9]])
    record = ExitRecord(np.zeros((4, 2, 2)), np.zeros(4, int), [1, 2])
    assert default_thresholds(policy, record).tolist() == [1, 3]
    assert default_thresholds(make_policy("confidence"), record).tolist() == [i / 100 for i in range(101)]


def test_a_grid_outside_of_the_signal_warns(offramp):
    record = ExitRecord(np.random.default_rng(0).normal(size=(60, 3, 4)), np.arange(60) % 4, [1, 2, 4])
    record.save("test.safetensors")
    line = "evaluate --policy sure=confidence:score=entropy --test test.safetensors --out c.csv --thresholds"
    code, err = offramp(f"{line} 0.01:1:0.01")
    assert code == 0
    signal = -record.measure("entropy")
    assert err == (
        "offramp: warning: sure: all 100 thresholds give the same result; its signal is from "
        f"{signal.min():g} to {signal.max():g} (--thresholds sure=…)\n"
    )
    assert offramp(f"{line} 0.5") == (0, "")
    assert offramp(f"{line} -1:1:0.1") == (0, "")


# Settings of a cascade


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize("target", [None, 0.86, 0.5])
def test_a_chosen_cascade_runs_as_it_was_searched(variant, target, tmp_path):
    """On validation data, it has the accuracy and the cost of the search. Nothing is fitted on test data."""
    runs = zoo()
    settings = cheapest(search_zoo(runs, {"v": variant}, [(0.7, 0.8)], 0.01, 100), target)
    settings.save(tmp_path / "c.json")
    assert CascadeSettings.load(tmp_path / "c.json") == settings
    by_name = {run.system: run for run in runs}
    built = settings.build([by_name[name].validation for name in settings.stages])
    point = evaluate(settings.policy, built, [settings.thresholds]).iloc[0]
    assert point.accuracy == pytest.approx(settings.validation["accuracy"])
    assert point.cost == pytest.approx(settings.validation["cost"])
    best = max(run.validation.correct.mean() for run in runs)
    assert point.accuracy >= (best if target is None else target)
    settings.check(settings.build([by_name[name].test for name in settings.stages]))
    if target == 0.5:
        assert settings.stages == ("m0",)
        assert settings.thresholds == ()


def test_the_cheapest_of_several_variants():
    found = {
        name: cheapest(search_zoo(zoo(), {name: VARIANTS[name]}, [(0.7, 0.8)], 0.01, 100))
        for name in ("max-softmax", "geometric", "entropy")
    }
    both = cheapest(search_zoo(zoo(), {name: VARIANTS[name] for name in found}, [(0.7, 0.8)], 0.01, 100))
    cost = {name: each.validation["cost"] for name, each in found.items()}
    assert both.validation["cost"] <= min(cost.values())


def test_what_cannot_be_chosen():
    with pytest.raises(ValueError, match=r"no cascade has accuracy 1 on validation data; the best has 0\.\d+$"):
        cheapest(search_zoo(zoo(), {"v": Variant()}, [(0.7, 0.8)], 0.01, 100), 1.0)
    runs = [replace(run, seed=seed) for seed in (0, 1) for run in zoo()]
    with pytest.raises(ValueError, match="2 seeds; expected the records of one seed"):
        cheapest(search_zoo(runs, {"v": Variant()}, [(0.7, 0.8)], 0.01, 100))


OUTS = " ".join(
    f"--{name}-out {name}.csv" for name in ("models", "relations", "choices", "reductions", "replacements", "measures")
)


def test_from_search_to_points(offramp):
    """search, cascade and evaluate: records without system and seed, and without logits."""
    files = []
    for k in range(3):
        for split in ("validation", "test"):
            files.append(f"m{k}/{split}.safetensors")
            model(split, k, None or 0, ["max_softmax"], system=None).save(files[-1])
    line = f"search {' '.join(files)} --band 0.7 0.8 --resamples 100 {OUTS}"
    code, err = offramp(f"{line} --cascade-out c.json --target 0.87")
    assert code == 0
    left_out = [name for name in VARIANTS if name != "max-softmax"]
    assert (
        f"offramp: warning: search: left out {', '.join(left_out)}: m0/validation.safetensors has no margin, only "
        "max_softmax; m0/validation.safetensors has no entropy, only max_softmax; m0/validation.safetensors has no "
        "logits\n"
    ) in err
    settings = CascadeSettings.load("c.json")
    assert len(settings.stages) > 1
    stages = " ".join(f"{name}/test.safetensors" for name in settings.stages)
    assert offramp(f"cascade {stages} --like c.json --out t.safetensors") == (0, "")
    assert offramp("evaluate --policies c.json --test t.safetensors --out p.csv --exits e.csv") == (0, "")
    (point,) = pd.read_csv("p.csv").itertuples()
    choices = pd.read_csv("choices.csv")
    (row,) = choices[(choices["target"] == 0.87) & (choices["kind"] == "triple")].itertuples()
    assert (point.accuracy, point.cost) == pytest.approx((row.accuracy, row.cost))
    assert (point.threshold_1, point.policy) == (row.threshold_1, "confidence")
    assert offramp("evaluate --policies c.json --test t.safetensors --out p.csv --thresholds 0.5,0.9") == (0, "")
    assert list(pd.read_csv("p.csv")["threshold"]) == [0.5, 0.9]
    code, err = offramp(f"{line} --variant base --variant m:measure=margin")
    assert (code, err) == (
        1,
        "offramp: error: search: variant m: m0/validation.safetensors has no margin, only max_softmax; leave the "
        "variant out, or make records with logits",
    )
    assert "expected a name that ends in .json" in offramp(f"{line} --cascade-out c.txt")[1]
    assert "--target is for --cascade-out" in offramp(f"{line} --target 0.8")[1]


def test_a_record_of_another_cascade_is_refused(offramp):
    for k in range(2):
        model("test", k).save(f"m{k}.safetensors")
    settings = CascadeSettings(
        stages=("m0", "m1"), combined=Combined(temperatures=((2.0,), (3.0,))), thresholds=(0.5,), origin={"seed": 0}
    )
    settings.save("c.json")
    line = "evaluate --policies c.json --test t.safetensors --out p.csv"
    assert offramp("cascade m0.safetensors m1.safetensors --out t.safetensors")[0] == 0
    assert "the record has temperatures None, the cascade ((2.0,), (3.0,))" in offramp(line)[1]
    model("test", 0).save("t.safetensors")
    assert "the record has stages None, the cascade ('m0', 'm1')" in offramp(line)[1]
    replace(settings, thresholds=None).save("c.json")
    assert offramp("cascade m0.safetensors m1.safetensors --like c.json --out t.safetensors")[0] == 0
    assert "no thresholds" in offramp(line)[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other/1"}, "its format is not offramp-cascade/1"),
        ({"format": None}, "'format'"),
        ({"stages": None}, "stages"),
        ({"more": 1}, "more"),
        ({"measure": "size"}, "size"),
        ({"thresholds": ["a"]}, "expected numbers"),
        ({"thresholds": 0.5}, "expected numbers"),
        ({"thresholds": [0.5, float("nan")]}, "expected numbers"),
        ({"combined": {"ensemble": "best"}}, "ensemble is 'best'"),
        ({"combined": {"temperature": 1}}, "temperature"),
        ({"combined": 3}, ""),
    ],
)
def test_a_file_that_is_not_one_of_settings(change, message, tmp_path):
    CascadeSettings(stages=("a", "b"), thresholds=(0.5,)).save(tmp_path / "c.json")
    values = json.loads((tmp_path / "c.json").read_text()) | change
    (tmp_path / "c.json").write_text(json.dumps({key: value for key, value in values.items() if value is not None}))
    with pytest.raises(ValueError, match=rf"c\.json: .*{re.escape(message)}.*; expected what `offramp search"):
        CascadeSettings.load(tmp_path / "c.json")


@pytest.mark.parametrize("text", ["", "[1]", "{", "\udcff"])
def test_a_file_that_is_no_json_object(text, tmp_path):
    (tmp_path / "c.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=r"c\.json: .*; expected what `offramp search"):
        CascadeSettings.load(tmp_path / "c.json")


def test_a_threshold_of_infinity_is_kept(tmp_path):
    settings = CascadeSettings(stages=("a", "b"), thresholds=(np.inf,))
    settings.save(tmp_path / "c.json")
    assert CascadeSettings.load(tmp_path / "c.json").thresholds == (np.inf,)


def test_default_variants_without_any():
    runs = zoo()
    for run in runs:
        for record in (run.validation, run.test):
            record._logits, record._confidence = None, {"similarity": record.measure("max_softmax")}
    with pytest.raises(ValueError, match="m0 seed 0, validation has no max_softmax, only similarity"):
        default_variants(runs)
    for run in runs:
        for record in (run.validation, run.test):
            record._confidence = {}
    with pytest.raises(ValueError, match="m0 seed 0, validation has no max_softmax and no other confidence; expected"):
        default_variants(runs)


@pytest.mark.filterwarnings("ignore:search. left out")
def test_the_mean_token_margin_is_a_default_variant_where_it_is_known():
    runs = zoo()
    for run in runs:
        for record in (run.validation, run.test):
            record._logits = None
            record._confidence["mean_token_margin"] = record.measure("margin")
    assert list(default_variants(runs)) == ["max-softmax", "margin", "entropy", "mean-token-margin"]
    for run in runs:
        for record in (run.validation, run.test):
            record._confidence = {"mean_token_margin": record.measure("margin")}
    assert default_variants(runs) == {"mean-token-margin": Variant("mean_token_margin")}


@pytest.mark.parametrize("join", [cascade, router])
def test_a_search_takes_single_models(join):
    one, two, *_ = zoo()
    joined = Run("both", 0, join([one.validation, two.validation]), join([one.test, two.test]))
    for search in (default_variants, lambda runs: search_zoo(runs, {"max-softmax": Variant()}, [(0.7, 0.8)], 0.01, 2)):
        with pytest.raises(ValueError, match="both seed 0, validation has 2 exits; expected records of single models"):
            search([one, joined])
    if join is router:
        with pytest.raises(ValueError, match="cascade: stage 1 is a router, in which only one model runs"):
            cascade([joined.validation, one.validation])
