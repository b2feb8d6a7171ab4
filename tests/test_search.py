"""The exact search over cascades compared with all thresholds tried one by one, and properties of cascades."""

import math
from fractions import Fraction
from itertools import combinations, pairwise
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from offramp import ExitRecord, cascade, frontier, make_policy
from offramp.cascades import search
from offramp.cascades.search import Zoo, pair_frontier, search_pairs, search_triples, triple_frontier
from strategies import EDGES, few, quick, without_labels
from test_cascades import ACCURACY, COST, LARGE, SMALL, stage


def record_of(right, confidence, cost, name):
    """A model with one exit that predicts these samples correctly. All labels are 0."""
    right = np.asarray(right, bool)
    return ExitRecord.from_outputs(
        (~right).astype(int)[:, None],
        np.asarray(confidence)[:, None],
        np.zeros(len(right), int),
        np.reshape(cost, (-1, 1)) if np.ndim(cost) else [cost],
        metadata={"system": name, "classes": 2},
    )


@st.composite
def model_records(draw, models=(2, 4), samples=(1, 8)):
    """Draw models on the same samples, with few confidences and integer costs, so that most values are tied."""
    m, n = draw(st.integers(*models)), draw(st.integers(*samples))
    pool = draw(few(st.sampled_from(EDGES) | st.floats(0, 1, width=32)))
    confidence = draw(arrays(draw(st.sampled_from([np.float32, np.float64])), (m, n), elements=st.sampled_from(pool)))
    right = draw(arrays(np.bool_, (m, n)))
    costs = [draw(st.integers(1, 9) | arrays(np.float64, n, elements=st.integers(1, 9))) for _ in range(m)]
    return [record_of(*each, f"m{k}") for k, each in enumerate(zip(right, confidence, costs))]


def by_name(records):
    return {record.metadata["system"]: record for record in records}


def total(record):
    """Return the cost of all samples."""
    each = [record.cost[0]] * record.n_samples if record.sample_cost is None else record.sample_cost[:, 0]
    return [Fraction(float(cost)) for cost in each]


def cascade_points(stages, answers=None):
    """Return every operating point by its two sets of samples that continue: number right, total cost, thresholds.

    If several thresholds give the same sets, the largest is kept. `answers` are those of a pair after both models ran.
    """
    confidence = [record.confidence()[:, 0].astype(float) for record in stages]
    right = [record.correct[:, 0] for record in stages]
    if answers is not None:
        right[1] = answers
    choices = [[*sorted(set(values)), math.inf] for values in confidence[:-1]]
    points = {}
    for first in choices[0] if choices else [-math.inf]:
        for second in choices[1] if len(choices) > 1 else [-math.inf]:
            exits = []
            for n in range(len(right[0])):
                there = 0
                for values, threshold in zip(confidence[:-1], (first, second)):
                    if values[n] >= threshold:
                        break
                    there += 1
                exits.append(there)
            on = tuple(frozenset(n for n, there in enumerate(exits) if there > k) for k in range(2))
            paid = sum(total(record)[n] for n, e in enumerate(exits) for record in stages[: e + 1])
            points[on] = sum(right[e][n] for n, e in enumerate(exits)), paid, (first, second)
    return points


def brute_front(records, groups, answers=None):
    """Return the exact front of these groups of stages (indices in `records`), with the same order of ties."""
    points = {}  # by the number of right answers
    for places in groups:
        answer = answers[places[0]][places[1]] if answers is not None and len(places) == 2 else None
        for on, (right, paid, thresholds) in cascade_points([records[k] for k in places], answer).items():
            key = paid, len(places), places, len(on[0]), len(on[1])
            points.setdefault(right, []).append((key, thresholds))
    rows = []
    for right in sorted(points, reverse=True):
        (paid, _, places, *_), thresholds = min(points[right])
        if not rows or paid < rows[-1][1]:
            rows.append((right, paid, places, thresholds))
    return rows[::-1]


def check_front(front, rows, records):
    """Compare the front with the rows of the brute force, and each row with the cascade that it names."""
    n = records[0].n_samples
    named = by_name(records)
    assert len(front) == len(rows)
    for row, (right, paid, places, thresholds) in zip(front.itertuples(), rows):
        names = [name for name in (row.stage_1, row.stage_2, row.stage_3) if not pd.isna(name)]
        assert names == [records[k].metadata["system"] for k in places]
        assert row.kind == ["single", "pair", "triple"][len(places) - 1]
        assert row.accuracy == right / n
        assert row.cost == float(paid) / n
        of_stages = [row.threshold_1, row.threshold_2][: len(names) - 1]
        assert of_stages == list(thresholds[: len(names) - 1])
        assert np.isnan([row.threshold_1, row.threshold_2][len(names) - 1 :]).all()
        record = cascade([named[name] for name in names])
        exits = make_policy("confidence").exits(record, np.array(of_stages))  # (N,)
        assert record.cost_of(exits).mean() == pytest.approx(row.cost, rel=1e-12)
        shares = [(exits == k).mean() if k < len(names) else np.nan for k in range(2)]
        np.testing.assert_allclose([row.exit_1, row.exit_2], shares, rtol=1e-12)


def ascending(records, size):
    """Return all groups of `size` records of a zoo, each more expensive than the one before it."""
    costs = [record.cost[0] for record in records]
    return [g for g in combinations(range(len(records)), size) if all(costs[a] < costs[b] for a, b in pairwise(g))]


@st.composite
def zoos(draw, **size):
    """Records in the order of their zoo, and the zoo."""
    records = draw(model_records(**size))
    return sorted(records, key=lambda record: record.cost[0]), Zoo.of(records)


# Pairs


@quick
@given(zoos())
def test_a_pair_is_the_frontier_of_its_cascade(drawn):
    records, zoo = drawn
    for s, l in ascending(records, 2):
        points = pair_frontier(zoo, s, l)
        expected = frontier(make_policy("confidence"), cascade([records[s], records[l]]))
        np.testing.assert_array_equal(points.threshold, expected.threshold)
        np.testing.assert_allclose(points.accuracy, expected.accuracy, rtol=1e-12)
        np.testing.assert_allclose(points.cost, expected.cost, rtol=1e-12)
        np.testing.assert_allclose(points.exit_rate, expected.exit_1, rtol=1e-12)


def drawn_answers(data, zoo):
    """Draw the correctness of pairs after both models ran, for each small model and each other model."""
    shape = (len(zoo.names), *zoo.correct.shape)
    return data.draw(st.none() | arrays(np.bool_, shape))


@quick
@given(zoos(), st.data())
def test_every_pair_is_found(drawn, data):
    records, zoo = drawn
    answers = drawn_answers(data, zoo)
    correct = None if answers is None else answers.__getitem__
    found = search_pairs(zoo, correct)
    named = {name: k for k, name in enumerate(zoo.names)}
    assert [(named[row.small], named[row.large]) for row in found.pairs.itertuples()] == ascending(records, 2)
    for row in found.pairs.itertuples():
        s, l = named[row.small], named[row.large]
        assert (row.cost_small, row.cost_large) == (records[s].cost[0], records[l].cost[0])
        assert (row.accuracy_small, row.accuracy_large) == (records[s].correct.mean(), records[l].correct.mean())
        points = pair_frontier(zoo, s, l, correct)
        enough = points[points.accuracy >= row.accuracy_large]
        if enough.empty:
            assert np.isnan([row.exit_rate, row.cost, row.reduction]).all()
        else:
            first = enough.loc[enough.exit_rate.idxmax()]
            assert (row.exit_rate, row.cost) == (first.exit_rate, first.cost)
            assert row.reduction == row.cost_large / first.cost
        assert row.best_accuracy == points.accuracy.max()
        assert row.best_exit_rate == points.exit_rate[points.accuracy == row.best_accuracy].max()
    groups = ascending(records, 1) + ascending(records, 2)
    check_front(found.front, brute_front(records, groups, answers), records)


# Triples


@quick
@given(zoos(models=(3, 4)), st.data(), st.integers(1, 5))
def test_every_triple_is_found(drawn, data, block):
    records, zoo = drawn
    answers = drawn_answers(data, zoo)
    pairs = search_pairs(zoo, None if answers is None else answers.__getitem__)
    groups = {size: ascending(records, size) for size in (1, 2, 3)}
    with patch.object(search, "BLOCK", block):
        found = search_triples(zoo, range(len(records)), pairs)
        check_front(found.front, brute_front(records, groups[1] + groups[2] + groups[3], answers), records)
        assert found.pairs is pairs.pairs
        again = search_triples(zoo, range(len(records)), found)
        pd.testing.assert_frame_equal(again.front, found.front, check_exact=True)
        alone = search_triples(zoo, range(1, len(records)))
        of_members = [g for g in groups[3] if g[0] > 0]
        check_front(alone.front, brute_front(records, groups[1] + of_members), records)
        assert alone.pairs is None
        for triple in groups[3]:
            check_front(triple_frontier(zoo, *triple), brute_front(records, [triple]), records)


def random_zoo(models, samples, seed, sample_costs=False):
    """A zoo in which better models cost more, samples are hard for all models alike, and confidences are tied."""
    random = np.random.default_rng(seed)
    hardness = random.normal(size=samples)
    logit = np.linspace(0, 1.5, models)[:, None] - hardness + random.normal(size=(models, samples)) / 2
    confidence = np.round(1 / (1 + np.exp(-logit - random.normal(size=logit.shape) / 2)), 2)
    cost = 2.0 ** np.arange(models) * 3
    sample_cost = cost[:, None] * random.integers(1, 4, samples) if sample_costs else None
    cost = cost if sample_cost is None else sample_cost.mean(axis=1)
    return Zoo(tuple(f"m{k}" for k in range(models)), cost, sample_cost, confidence, logit > 0)


@pytest.mark.parametrize("sample_costs", [False, True])
def test_blocks_that_are_ruled_out_hold_nothing(sample_costs):
    """Skipped blocks contain no point of the front, on more samples than brute force can process.

    With one block for all points, nothing is skipped.
    """
    zoo = random_zoo(5, 400, 0, sample_costs)
    pairs = search_pairs(zoo)
    fronts = []
    for block in (401, 128, 16, 7):
        with patch.object(search, "BLOCK", block):
            fronts.append(search_triples(zoo, range(5), pairs).front)
    assert (fronts[0].kind == "triple").any()
    assert len(fronts[0]) > 20
    for front in fronts[1:]:
        pd.testing.assert_frame_equal(front, fronts[0], check_exact=True)


def test_the_number_of_threads_changes_nothing(monkeypatch):
    zoo = random_zoo(6, 60, 1)
    both = []
    for threads in ("1", "2", "5", "16"):
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        pairs = search_pairs(zoo)
        both.append((pairs.front, pairs.pairs, search_triples(zoo, range(6), pairs).front))
    for others in both[1:]:
        for frame, first in zip(others, both[0]):
            pd.testing.assert_frame_equal(frame, first, check_exact=True)


# A worked example, and the properties that every cascade has


@pytest.mark.parametrize(("score", "ensemble"), ACCURACY)
def test_the_worked_example(score, ensemble):
    small, large = stage(SMALL, 1, metadata={"system": "S"}), stage(LARGE, 10, metadata={"system": "L"})
    zoo = Zoo.of([large, small], score)
    assert zoo.names == ("S", "L")
    correct = None
    if ensemble:
        both = cascade([small, large], ensemble=ensemble).correct[:, 1]
        correct = lambda s: np.stack([zoo.correct[0], both])  # noqa: E731
    points = pair_frontier(zoo, 0, 1, correct)[::-1]  # from +∞ down
    np.testing.assert_allclose(points.cost, COST)
    np.testing.assert_allclose(points.accuracy * 6, ACCURACY[score, ensemble])
    np.testing.assert_allclose(points.exit_rate * 6, range(7), atol=1e-12)
    assert points.threshold.iloc[0] == np.inf
    row = search_pairs(zoo, correct).pairs.iloc[0]
    assert row.best_accuracy * 6 == pytest.approx(5)
    # The large model alone has 4 right, and so has the pair if at most 4 samples leave early
    assert row.exit_rate * 6 == pytest.approx(4)
    assert row.reduction == pytest.approx(10 / COST[4])
    if (score, ensemble) == ("max_softmax", None):
        front = search_pairs(zoo).front
        assert front.kind.tolist() == ["single", "pair", "pair"]
        np.testing.assert_allclose(front.cost, [1, COST[4], COST[3]])


@quick
@given(zoos())
def test_1_6_7_ends_rising_costs_and_ties(drawn):
    records, zoo = drawn
    for s, l in ascending(records, 2):
        points = pair_frontier(zoo, s, l)
        assert len(points) == len(np.unique(zoo.confidence[s])) + 1
        assert points.accuracy.iloc[[0, -1]].tolist() == [zoo.correct[s].mean(), zoo.correct[l].mean()]
        np.testing.assert_allclose(points.cost.iloc[[0, -1]], [zoo.cost[s], zoo.cost[s] + zoo.cost[l]], rtol=1e-12)
        assert (np.diff(points.cost) > 0).all()
        assert (np.diff(points.threshold) > 0).all()


def test_2_with_two_classes_all_measures_agree():
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 200)
    # Logits are multiples of 1/4: many ties, and no rounding of differences
    models = [
        ExitRecord(random.integers(-8, 9, (200, 1, 2)) / 4, labels, [4**k], metadata={"system": f"m{k}"})
        for k in range(3)
    ]
    fronts = []
    for measure in ("max_softmax", "margin", "entropy"):
        zoo = Zoo.of(models, measure)
        front = search_triples(zoo, range(3), search_pairs(zoo)).front
        fronts.append(front.drop(columns=["threshold_1", "threshold_2"]))
    assert (fronts[0].kind == "triple").any()
    for front in fronts[1:]:
        pd.testing.assert_frame_equal(front, fronts[0], check_exact=True)


def test_3_an_increasing_transform_changes_nothing():
    zoo = random_zoo(4, 100, 2)
    other = Zoo(zoo.names, zoo.cost, None, np.exp(3 * zoo.confidence) - 7, zoo.correct)
    found, again = (search_triples(each, range(4), search_pairs(each)) for each in (zoo, other))
    pd.testing.assert_frame_equal(found.pairs, again.pairs, check_exact=True)
    columns = found.front.columns.drop(["threshold_1", "threshold_2"])
    pd.testing.assert_frame_equal(found.front[columns], again.front[columns], check_exact=True)


def test_4_random_deferral_is_the_straight_line():
    random = np.random.default_rng(0)
    correct = random.random((2, 20_000)) < [[0.6], [0.9]]
    zoo = Zoo(("S", "L"), np.array([1.0, 10.0]), None, random.random((2, 20_000)), correct)
    points = pair_frontier(zoo, 0, 1)
    low, high = correct.mean(axis=1)
    np.testing.assert_allclose(points.accuracy, low + (high - low) * (points.cost - 1) / 10, atol=0.015)


@quick
@given(zoos())
def test_5_the_oracle_defers_where_the_small_model_is_wrong(drawn):
    records, zoo = drawn
    oracle = Zoo(zoo.names, zoo.cost, zoo.sample_cost, zoo.correct.astype(np.float32), zoo.correct)
    for s, l in ascending(records, 2):
        points = pair_frontier(oracle, s, l).set_index("threshold")
        if not zoo.correct[s].any():
            continue
        point = points.loc[1.0]
        assert point.accuracy == (zoo.correct[s] | zoo.correct[l]).mean()
        if zoo.sample_cost is None:
            assert point.cost == pytest.approx(zoo.cost[s] + (1 - zoo.correct[s].mean()) * zoo.cost[l])


# Zoos


def test_a_zoo_is_sorted_by_cost():
    records = [record_of([1, 0], [0.5, 0.25], cost, name) for cost, name in ((3, "c"), (1, "b"), (3, "d"), (2, "a"))]
    zoo = Zoo.of(records)
    assert zoo.names == ("b", "a", "c", "d")
    assert zoo.cost.tolist() == [1, 2, 3, 3]
    assert zoo.sample_cost is None
    assert zoo.confidence.tolist() == [[0.5, 0.25]] * 4
    assert zoo.correct.tolist() == [[True, False]] * 4
    found = search_pairs(zoo)
    assert ["c", "d"] not in found.pairs[["small", "large"]].to_numpy().tolist()
    assert len(found.pairs) == 5


def test_costs_of_samples_are_mixed_with_one_for_all():
    zoo = Zoo.of([record_of([1, 0], [0.5, 0.25], 4, "b"), record_of([1, 0], [0.5, 0.25], [1, 3], "a")])
    assert zoo.sample_cost.tolist() == [[1, 3], [4, 4]]
    assert zoo.cost.tolist() == [2, 4]


def test_entropy_is_negated():
    zoo = Zoo.of([stage(SMALL, 1, metadata={"system": "S"})], "entropy")
    np.testing.assert_array_equal(zoo.confidence[0], stage(SMALL, 1).confidence("entropy")[:, 0])
    assert (zoo.confidence < 0).all()


def fine(name="a", cost=1):
    return record_of([1, 0], [0.5, 0.25], cost, name)


two_exits = ExitRecord.from_outputs([[0, 0]], [[0.1, 0.2]], [0], [1, 2], metadata={"system": "two"})
nameless = ExitRecord.from_outputs([[0], [0]], [[0.1], [0.2]], [0, 0], [1])


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([], "zoo: expected at least one record"),
        ([two_exits], "zoo: record 1 has 2 exits; expected one"),
        ([fine(), nameless], "zoo: record 2 has no name; expected metadata with system"),
        ([fine(), fine("b", 2), fine()], "zoo: a is there twice"),
        ([fine(cost=0)], "zoo: .*costs 0"),
        ([fine(), record_of([1], [0.5], 2, "b")], "zoo: stage 2 has"),
        ([without_labels(fine())], "zoo needs labels, but this record has none"),
    ],
)
def test_records_that_make_no_zoo(records, message):
    with pytest.raises(ValueError, match=message):
        Zoo.of(records)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cost": np.array([2.0, 1.0])}, "zoo: costs are .*; expected one a model, above 0, in ascending order"),
        ({"cost": np.array([0.0, 1.0])}, "above 0"),
        ({"cost": np.array([1.0])}, "expected one a model"),
        ({"correct": np.ones((2, 2), bool)}, r"zoo: correct has shape \(2, 2\); expected \(2, 3\)"),
        ({"confidence": np.array([[0, 1, np.nan]] * 2)}, "zoo: a confidence is not finite"),
    ],
)
def test_arrays_that_make_no_zoo(change, message):
    arrays_ = {"cost": np.array([1.0, 2.0]), "confidence": np.ones((2, 3)), "correct": np.ones((2, 3), bool)}
    with pytest.raises(ValueError, match=message):
        Zoo(names=("a", "b"), sample_cost=None, **arrays_ | change)


def test_searches_that_cannot_be():
    zoo = random_zoo(3, 5, 0)
    with pytest.raises(ValueError, match=r"members \[1, 2, 3\]; expected places in a zoo of 3 models"):
        search_triples(zoo, [1, 2, 3])
    with pytest.raises(ValueError, match=r"correct\(0\): shape \(5,\); expected \(3, 5\)"):
        search_pairs(zoo, lambda s: zoo.correct[s])
    other = Zoo(("x", "y", "z"), zoo.cost, None, zoo.confidence, zoo.correct)
    with pytest.raises(ValueError, match=r"front: m. is not in the zoo"):
        search_triples(other, range(3), search_pairs(zoo))


def test_a_zoo_of_one():
    zoo = random_zoo(1, 5, 0)
    found = search_triples(zoo, [0], search_pairs(zoo))
    assert found.front.kind.tolist() == ["single"]
    assert len(found.pairs) == 0


def test_progress_is_shown_when_asked_for(capsys):
    search_pairs(random_zoo(3, 5, 0))
    assert capsys.readouterr().err == ""
    search_pairs(random_zoo(3, 5, 0), progress=True)
    assert "pairs" in capsys.readouterr().err
