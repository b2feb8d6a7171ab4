"""A study of cascades end to end: single models from the registry to the search's tables and figures."""

import json

import numpy as np
import pandas as pd
import pytest
import yaml

from checkout import ROOT, SHARED, Checkout
from offramp import ExitRecord, cascade, evaluate, make_policy
from offramp._io.tables import read_table
from offramp.study.params import systems_of

pytest.importorskip("timm")

PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text())
FULL = PARAMS["studies"]["zoo_digits"]
MODELS = ["resnet-4", "resnet-8", "resnet-12"]
CASCADES = {"two": ["resnet-4", "resnet-12"], "three": MODELS}
TINY = FULL | {
    "splits": {"validation": 300, "test": 900, "seed": 0},
    "seeds": [0],
    "training": FULL["training"] | {"epochs": 4},
    "models": {name: FULL["models"][name] for name in MODELS},
    "cascades": CASCADES,
    "comparison": FULL["comparison"] | {"targets": [0.6], "resamples": 100},
    "search": {
        "bands": [[0.4, 0.6]],
        "step": 0.02,
        "variants": {"max-softmax": {}, "margin": {"measure": "margin"}, "geometric": {"ensemble": "geometric"}},
    },
    "report": {"oracle": "three", "reliability": "two", "reliability_exits": [1, 2]},
}
TABLES = ["models", "relations", "choices", "reductions", "replacements", "measures"]


@pytest.fixture(scope="module")
def zoo(tmp_path_factory) -> Checkout:
    checkout = Checkout(tmp_path_factory.mktemp("zoo"))
    checkout.write(TINY)
    done = checkout.run("--cores", "2")
    assert done.returncode == 0, done.stderr
    return checkout


def load(zoo, system, split) -> ExitRecord:
    return ExitRecord.load(zoo.folder / f"artifacts/tiny/records/{system}-s0/{split}.safetensors")


def table(zoo, name) -> pd.DataFrame:
    return read_table(zoo.folder / f"artifacts/tiny/evaluate/{name}.parquet")


def test_ends_with_a_report_of_the_search(zoo):
    page = (zoo.folder / "reports/tiny/index.html").read_text()
    for name in ("cascades-front", "cascade-relation", "cascade-reduction", "cascade-variants", "speedup"):
        assert (zoo.folder / f"reports/tiny/figures/{name}.png").stat().st_size > 1000
    for name in ("cascade-claims", "reductions", "cascade-variants", "replacements", "models", "seconds", "speedup"):
        assert (zoo.folder / f"reports/tiny/tables/{name}.md").stat().st_size
    assert page.count("data:image/png;base64") == len(list((zoo.folder / "reports/tiny/figures").glob("*.png")))
    assert all(len(table(zoo, name)) for name in TABLES)


def test_records_of_cascades_are_those_of_their_stages(zoo):
    for name, stages in CASCADES.items():
        for split in ("validation", "test"):
            made, expected = load(zoo, name, split), cascade([load(zoo, stage, split) for stage in stages])
            assert made.metadata["system"] == name
            assert made.metadata["split"] == split
            np.testing.assert_array_equal(made.prediction, expected.prediction)
            np.testing.assert_array_equal(made.cost, expected.cost)
            np.testing.assert_array_equal(made.logits, expected.logits)


def test_every_policy_runs_on_cascades(zoo):
    curve = read_table(zoo.folder / "reports/tiny/curves/three-s0.parquet")
    assert set(curve["policy"]) == set(SHARED["policies"])


def test_chosen_cascades_give_what_the_table_says(zoo):
    choices = table(zoo, "choices")
    records = {name: load(zoo, name, "test") for name in MODELS}
    seen = set()
    for _, row in choices[choices["kind"].isin(["pair", "triple"])].iterrows():
        stages = [row[f"stage_{k}"] for k in (1, 2, 3) if isinstance(row[f"stage_{k}"], str)]
        seen.add(len(stages))
        ensemble = "geometric" if row["variant"] == "geometric" and len(stages) > 1 else None
        record = cascade([records[stage] for stage in stages], ensemble)
        policy = make_policy("confidence", score="margin" if row["variant"] == "margin" else "max_softmax")
        exits = policy.exits(record, np.array([row[f"threshold_{k}"] for k in range(1, len(stages))]))
        right = record.correct[np.arange(record.n_samples), exits]
        assert row["accuracy"] == pytest.approx(right.mean())
        assert row["cost"] == pytest.approx(record.cost_of(exits).mean())
    assert {1, 2} <= seen


def test_choices_keep_their_promise_on_validation_at_least_cost(zoo):
    choices = table(zoo, "choices")
    assert (choices["accuracy_validation"] >= choices["target"] - 1e-9).all()
    base = choices[choices["variant"] == "max-softmax"].pivot_table(
        index="target", columns="kind", values="cost_validation"
    )
    base = base.dropna()
    assert (base["pair"] <= base["single"] + 1e-6).all()
    assert (base["triple"] <= base["pair"] + 1e-6).all()
    assert (base["random"] <= base["single"] + 1e-6).all()
    assert (base["oracle"] <= base["pair"] + 1e-6).all()
    small, large = load(zoo, "resnet-4", "validation"), load(zoo, "resnet-12", "validation")
    curve = evaluate(make_policy("confidence"), cascade([small, large]), np.linspace(0, 1, 200))
    for target, cost in base["pair"].items():
        enough = curve[curve["accuracy"] >= target]
        assert enough.empty or cost <= enough["cost"].min() + 1e-6


def test_a_second_run_does_nothing(zoo):
    again = zoo.run("--cores", "2")
    assert "Nothing to be done" in again.stdout + again.stderr


@pytest.mark.parametrize(
    ("change", "runs"),
    [
        ({"search": TINY["search"] | {"step": 0.05}}, {"search"}),
        ({"cascades": {**CASCADES, "two": ["resnet-4", "resnet-8"]}}, {"cascade", "calibrate", "evaluate", "compare"}),
        (
            {"models": TINY["models"] | {"resnet-8": {**TINY["models"]["resnet-8"], "dataset": {"shift": 0}}}},
            {"train", "record", "cascade", "calibrate", "evaluate", "compare", "search"},
        ),
    ],
)
def test_a_change_runs_what_depends_on_it(zoo, change, runs):
    zoo.write(TINY | change)
    try:
        jobs = zoo.would_run()
    finally:
        zoo.write(TINY)
    steps = {"data", "train", "record", "cascade", "calibrate", "evaluate", "compare", "sensitivity", "search"}
    assert jobs.keys() & steps == runs
    if "train" in runs:
        assert jobs["train"] == jobs["record"] == {"resnet-8"}


def test_weights_may_stay_as_they_come(tmp_path):
    """Recording a classifier that somebody else trained."""
    checkout = Checkout(tmp_path)
    models = {name: options | {"training": {"epochs": 0}} for name, options in TINY["models"].items()}
    checkout.write(TINY | {"models": models})
    done = checkout.run("--cores", "2", "records")
    assert done.returncode == 0, done.stderr
    record = load(checkout, "resnet-4", "test")
    assert (record.n_samples, record.n_exits) == (900, 1)
    assert record.metadata["parameters"]["training"]["epochs"] == 0


def test_the_studies_of_cascades_are_whole():
    for name in ("zoo_digits", "zoo_fashion", "zoo_text", "zoo_imagenet"):
        study = PARAMS["studies"][name]
        assert study["search"]
        assert systems_of(study) == list(study["cascades"])
        assert json.dumps(study)
