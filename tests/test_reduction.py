"""Reduction of cost by cascades at equal accuracy: choices on validation data, scores on test data, references."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from offramp import ExitRecord
from offramp.cascades.search import Zoo
from offramp.comparison.bootstrap import Bootstrap
from offramp.comparison.cascades import (
    VARIANTS,
    Curve,
    Split,
    Variant,
    _dominated,
    _first_reaching,
    _reference,
    _singles,
    reduction_tables,
)
from offramp.comparison.runs import Run
from strategies import quick

COSTS = [1.0, 3.0, 10.0]


def models(n, split, seed=0, costs=COSTS, sample_costs=False, logits=True):
    """Models of increasing accuracy on the same samples, with the same labels."""
    rng = np.random.default_rng([seed, split == "test"])
    labels = rng.integers(0, 4, n)
    hard = rng.normal(size=n)
    records = []
    for k, cost in enumerate(costs):
        z = rng.normal(size=(n, 4)) * 0.6
        z[np.arange(n), labels] += 1.2 + 0.5 * k - hard
        cost = cost * (1 + rng.random((n, 1))) if sample_costs else [cost]
        about = {"system": f"m{k}", "seed": seed, "split": split, "dataset": "made"}
        record = ExitRecord(z[:, None], labels, cost, metadata=about)
        if not logits:
            measures = {m: record.measure(m) for m in record.measures}
            record = ExitRecord.from_outputs(record.prediction, measures, labels, cost, metadata=about)
        records.append(record)
    return records


def runs(seeds=(0,), **options):
    return [
        Run(validation.metadata["system"], seed, validation, test)
        for seed in seeds
        for validation, test in zip(models(300, "validation", seed, **options), models(400, "test", seed, **options))
    ]


@pytest.fixture(scope="module")
def made():
    return reduction_tables(runs(), VARIANTS, [(0.7, 0.8), (0.8, 0.9)], 0.01, 100)


def test_tables_say_of_what_they_are(made):
    assert list(made) == ["models", "relations", "choices", "replacements", "reductions", "measures"]
    assert all((table["dataset"] == "made").all() for table in made.values())
    assert all((table["seed"] == 0).all() for table in made.values() if "seed" in table)
    assert len(made["models"]) == len(made["relations"]) == 3
    assert set(made["choices"]["variant"]) == set(made["reductions"]["variant"]) == set(VARIANTS)
    base = made["choices"][made["choices"]["variant"] == "max-softmax"]
    assert set(base["kind"]) == {"single", "pair", "triple", "random", "oracle"}


def test_bands_are_means_over_their_accuracies(made):
    table = made["reductions"][made["reductions"]["scored_on"] == "test"]
    for (_, _, _), group in table.groupby(["variant", "kind", "front"]):
        points = group[group["low"] == group["high"]].set_index("low")["reduction"]
        for _, band in group[group["low"] < group["high"]].iterrows():
            inside = points[(points.index >= band["low"] - 1e-9) & (points.index <= band["high"] + 1e-9)]
            assert band["accuracies"] == len(inside)
            mean = inside.mean() if band["mean"] == "arithmetic" else np.exp(np.log(inside).mean())
            assert band["reduction"] == pytest.approx(mean)
            assert band["reduction_low"] <= band["reduction_high"]


def test_cascades_cost_no_more_than_single_models_on_validation(made):
    """On the data on which they are chosen. Deferral in hindsight costs least."""
    table = made["reductions"]
    table = table[
        (table["variant"] == "max-softmax") & (table["scored_on"] == "validation") & (table["front"] == "step")
    ]
    table = table[table["mean"] == "geometric"].pivot_table(index="low", columns="kind", values="reduction")
    assert (table["random"] >= 1 - 1e-9).all()
    assert (table["pair"] >= 1 - 1e-9).all()
    assert (table["triple"] >= table["pair"] - 1e-9).all()


def test_replacements_are_no_dearer_on_validation_nor_less_accurate(made):
    table = made["replacements"]
    assert set(table["goal"]) == {"accuracy", "cost"}
    alone = table[table["kind"] == "single"]
    np.testing.assert_allclose(alone["cost_ratio"], 1)
    np.testing.assert_allclose(alone["accuracy_change"], 0)
    assert (alone["stage_1"] == alone["model"]).all()
    others = table[table["kind"] != "single"]
    assert len(others)
    np.testing.assert_allclose(others["cost"] / others["model_cost"], others["cost_ratio"])
    np.testing.assert_allclose(others["accuracy"] - others["model_accuracy"], others["accuracy_change"], atol=1e-12)
    assert (others["cost_ratio_low"] <= others["cost_ratio"]).all()
    assert (others["cost_ratio"] <= others["cost_ratio_high"]).all()


def test_contrasts_are_of_the_same_samples(made):
    table = made["measures"].dropna(subset=["to_variant"])
    ratio = table[table["quantity"] == "reduction_ratio"].set_index(["variant", "kind", "to_variant", "to_kind", "low"])
    bands = made["reductions"]
    bands = bands[(bands["scored_on"] == "test") & (bands["mean"] == "geometric")]
    of = bands[bands["front"] == "step"].set_index(["variant", "kind", "low"])
    for (variant, kind, to, other, low), row in ratio.iterrows():
        sides = of.loc[(variant, kind, low)], of.loc[(to, other, low)]
        if sides[0]["accuracies"] == sides[1]["accuracies"] == 11:  # the whole band, so both cover the same
            assert row["value"] == pytest.approx(sides[0]["reduction"] / sides[1]["reduction"])
        if kind == other:
            assert row["value"] * ratio.loc[(to, other, variant, kind, low), "value"] == pytest.approx(1)
    assert ("max-softmax", "triple", "max-softmax", "pair", 0.7) in ratio.index
    tops = table[table["quantity"] == "top_accuracy_difference"].set_index(["variant", "to_variant"])["value"]
    assert len(tops) == len(VARIANTS) * (len(VARIANTS) - 1)
    assert tops["margin", "entropy"] == pytest.approx(-tops["entropy", "margin"])


# Two models on ten samples, with costs 1 and 4. The small one predicts the first six correctly, and the large one all
# except the sixth. Both have these confidences.
SURE = np.array([0.95, 0.9, 0.85, 0.8, 0.75, 0.5, 0.7, 0.6, 0.55, 0.4])


def by_hand():
    small, large = np.arange(10) < 6, np.arange(10) != 5
    return Zoo(("s", "l"), np.array([1.0, 4.0]), None, np.stack([SURE, SURE]), np.stack([small, large]))


def test_references_by_hand():
    split = Split(by_hand(), None)
    targets = np.array([0.6, 0.7, 0.75, 0.9, 1.0])
    chance = _reference(split, "random", targets)
    # From 6 of 10 right at cost 1 to 9 of 10 at cost 1 + 4. The large model alone has 9 of 10 right at cost 4.
    np.testing.assert_allclose(chance["target"], [0.6, 0.7, 0.75, 0.9])
    np.testing.assert_allclose(chance["cost"], [1, 1 + 4 / 3, 1 + 4 / 2, 4])
    np.testing.assert_allclose(chance["share"], [0, 1 / 3, 1 / 2, 0])
    right, paid, _ = split.play(chance.iloc[1])
    assert (right.mean(), paid.mean()) == (pytest.approx(0.7), pytest.approx(1 + 4 / 3))
    # In hindsight, only the four samples continue that only the large model predicts correctly
    hindsight = _reference(split, "oracle", targets)
    np.testing.assert_allclose(hindsight["cost"], [1, 1.4, 1.6, 2.2, 2.6])
    right, paid, left = split.play(hindsight.iloc[-1])
    assert (right.mean(), paid.mean(), left) == (1, pytest.approx(2.6), [pytest.approx(0.6)])


def test_the_share_that_is_dominated_by_hand():
    def curve(accuracy, cost):
        return Curve(np.array(accuracy)[:, None], np.array(cost)[:, None])

    singles = curve([0.5, 0.7, 0.8], [1.0, 4.0, 9.0])
    assert _dominated(singles, curve([0.5, 0.71], [1.0, 3.0])).tolist() == [0.5]
    assert _dominated(singles, curve([0.5, 0.7, 0.8], [1.0, 4.0, 9.0])).tolist() == [0]  # the models themselves
    assert _dominated(singles, curve([0.9], [8.0])).tolist() == [0.5]  # more expensive than the model of cost 4
    assert np.isnan(_dominated(curve([0.5], [1.0]), curve([0.5], [1.0]))).all()


def test_noise_is_levelled_not_chosen():
    """The high accuracy of the second choice is noise. It is averaged with that of the third choice."""
    curve = Curve(np.array([[0.5], [0.9], [0.7]]), np.array([[1.0], [2.0], [3.0]]))
    np.testing.assert_allclose(curve.costs_at(np.array([0.5, 0.79, 0.81])), [[1, 2, np.nan]])


@quick
@given(
    st.lists(st.tuples(st.integers(0, 20), st.integers(1, 50)), min_size=1, max_size=8),
    st.lists(st.integers(0, 20), min_size=1, max_size=5),
)
def test_the_cheapest_that_reaches_a_target(points, targets):
    front, best = [], -1
    for accuracy, cost in sorted(points, key=lambda point: (point[1], -point[0])):
        if accuracy > best:
            front.append((accuracy / 20, cost))
            best = accuracy
    table = pd.DataFrame(front, columns=["accuracy", "cost"])
    targets = np.array(sorted(targets)) / 20
    chosen = _first_reaching(table, targets)
    expected = [(t, min(c for a, c in front if a >= t)) for t in targets if t <= front[-1][0]]
    assert list(zip(chosen["target"], chosen["cost"])) == expected


def test_single_models_are_their_own_front():
    zoo = by_hand()
    front = _singles(zoo, np.array([0, 1]))
    for place, (_, row) in enumerate(front.iterrows()):
        right, paid, left = Split(zoo, None).play(row)
        np.testing.assert_array_equal(right, zoo.correct[place])
        assert (paid == zoo.cost[place]).all()
        assert left == []


def test_several_seeds_are_averaged():
    made = reduction_tables(runs(seeds=(0, 1)), {"base": Variant()}, [(0.7, 0.8)], 0.02, 100)
    alone = [reduction_tables(runs(seeds=(s,)), {"base": Variant()}, [(0.7, 0.8)], 0.02, 100) for s in (0, 1)]
    key = ["kind", "front", "low", "high", "mean", "scored_on"]
    both, *each = (table["reductions"].set_index(key)["reduction"] for table in (made, *alone))
    places = both.index.intersection(each[0].index).intersection(each[1].index)
    bands = [place for place in places if place[2] < place[3]]
    full = [
        p for p in bands if len({int(t["reductions"].set_index(key)["accuracies"][p]) for t in (made, *alone)}) == 1
    ]
    assert full
    for place in full:
        assert both[place] == pytest.approx(np.mean([one[place] for one in each]))
    assert made["reductions"]["reduction_sd"].notna().all()
    assert set(made["choices"]["seed"]) == {0, 1}


def test_texts_of_different_lengths():
    made = reduction_tables(runs(sample_costs=True), {"base": Variant()}, [(0.7, 0.8)], 0.02, 100)
    choices = made["choices"][made["choices"]["kind"] == "pair"]
    assert ((choices["cost"] / choices["cost_validation"]).between(0.8, 1.25)).all()


def test_the_same_again():
    first, second = (reduction_tables(runs(), {"base": Variant()}, [(0.7, 0.8)], 0.02, 100) for _ in range(2))
    for name in first:
        pd.testing.assert_frame_equal(first[name], second[name])


def test_intervals_come_from_test_samples():
    """If all samples are right, the accuracy has an interval of width 0, but the cost does not."""
    split, sure = Split(by_hand(), None), Bootstrap.draw(10, 100, 0)
    both = Curve.of(split, _reference(split, "oracle", np.array([1.0])), sure)
    assert both.accuracy.min() == 1
    assert np.ptp(both.cost) > 0


def test_what_cannot_be_searched():
    with pytest.raises(ValueError, match="search: 1 model of one exit; expected two at least"):
        reduction_tables(runs()[:1], VARIANTS, [(0.7, 0.8)], 0.01, 100)
    with pytest.raises(ValueError, match="seed 1: m2 is there for seed 0 or 1 alone; expected both"):
        reduction_tables(runs(seeds=(0, 1))[:-1], VARIANTS, [(0.7, 0.8)], 0.01, 100)
    with pytest.raises(ValueError, match="variant temperature: m0 seed 0, validation has no logits; leave"):
        reduction_tables(runs(logits=False), VARIANTS, [(0.7, 0.8)], 0.01, 100)
    bare = {"max-softmax": Variant(), "margin": Variant("margin")}
    assert len(reduction_tables(runs(logits=False), bare, [(0.7, 0.8)], 0.01, 100)["reductions"])
