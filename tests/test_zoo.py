"""A study of cascades end to end: single models from the registry to the search's tables and figures."""

import numpy as np
import pandas as pd
import pytest

from checkout import SHARED, WHOLE, Checkout
from offramp import ExitRecord, cascade, evaluate, make_policy
from offramp._io.tables import read_table

pytest.importorskip("timm")

MODELS = ["resnet-4", "resnet-8", "resnet-12"]
CASCADES = WHOLE["cascades"]
STEPS = {"data", "train", "record", "cascade", "calibrate", "evaluate", "compare", "sensitivity", "search"}


@pytest.fixture(scope="module")
def zoo(finished) -> Checkout:
    """The finished study, which has single models and cascades of them."""
    return finished


def load(zoo, system, split) -> ExitRecord:
    return ExitRecord.load(zoo.folder / f"artifacts/tiny/records/{system}-s0/{split}.safetensors")


def table(zoo, name) -> pd.DataFrame:
    return read_table(zoo.folder / f"artifacts/tiny/evaluate/{name}.parquet")


def test_the_search_has_written_all_its_tables(zoo):
    for name in ("models", "relations", "choices", "reductions", "replacements", "measures"):
        assert len(table(zoo, name)), name


def test_records_of_cascades_are_those_of_their_stages(zoo):
    for name, stages in CASCADES.items():
        for split in ("validation", "test"):
            made, expected = load(zoo, name, split), cascade([load(zoo, stage, split) for stage in stages])
            assert made.metadata["system"] == name
            assert made.metadata["split"] == split
            np.testing.assert_array_equal(made.prediction, expected.prediction)
            np.testing.assert_array_equal(made.cost, expected.cost)
            np.testing.assert_array_equal(made.logits, expected.logits)


def test_exits_of_a_frozen_model_come_before_its_own_answer(zoo):
    place = zoo.folder / "artifacts/tiny/evaluate/resnet-4-s0"
    made, plain = ExitRecord.load(place / "exits-of-resnet-4-test.safetensors"), load(zoo, "resnet-4", "test")
    np.testing.assert_array_equal(made.index, plain.index)
    np.testing.assert_allclose(made.logits[:, -1], plain.logits[:, 0], rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(made.exits([made.n_exits - 1]).cost, plain.cost)
    held = ExitRecord.load(place / "exits-of-resnet-4-validation.safetensors")
    np.testing.assert_array_equal(held.labels, held.prediction[:, -1])
    assert set(held.index) < set(load(zoo, "resnet-4", "validation").index)
    assert set(table(zoo, "accelerations")["kind"]) == {"exits", "best", "joint"}


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


@pytest.mark.parametrize(
    ("change", "runs"),
    [
        ({"search": WHOLE["search"] | {"step": 0.05}}, {"search"}),
        ({"cascades": {**CASCADES, "two": ["resnet-4", "resnet-8"]}}, STEPS - {"data", "train", "record", "search"}),
        (
            {"models": WHOLE["models"] | {"resnet-8": {**WHOLE["models"]["resnet-8"], "dataset": {"shift": 0}}}},
            STEPS - {"data"},
        ),
    ],
)
def test_a_change_runs_what_depends_on_it(zoo, tmp_path, change, runs):
    study = zoo.copy(tmp_path / "study")
    study.write(WHOLE | change)
    jobs = study.would_run()
    assert jobs.keys() & STEPS == runs
    if "train" in runs:
        assert jobs["train"] == jobs["record"] == {"resnet-8"}
