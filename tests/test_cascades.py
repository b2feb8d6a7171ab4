"""Cascades: a worked example, the properties that every cascade has, and ensembles compared with loops."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from offramp import ExitRecord, cascade, evaluate, frontier, make_policy
from offramp.calibration import fit_temperatures, with_temperatures
from strategies import quick, records, without_labels
from test_records import assert_same

# Random stages may have any costs
pytestmark = pytest.mark.filterwarnings("ignore:cascade. stage . costs .*, no more than stage")

LABELS = [0, 1, 2, 0, 1, 0]
SMALL = [(0.90, 0.06, 0.04), (0.50, 0.45, 0.05), (0.41, 0.34, 0.25), (0.55, 0.25, 0.20), (0.34, 0.33, 0.33)]
SMALL += [(0.70, 0.29, 0.01)]
LARGE = [(0.8, 0.1, 0.1), (0.3, 0.6, 0.1), (0.2, 0.2, 0.6), (0.7, 0.2, 0.1), (0.6, 0.2, 0.2), (0.45, 0.5, 0.05)]
# Cost and number of right answers, by the number of samples that leave early
COST = [11, 28 / 3, 23 / 3, 6, 13 / 3, 8 / 3, 1]
ACCURACY = {
    ("max_softmax", None): [4, 4, 5, 5, 4, 3, 3],
    ("margin", None): [4, 4, 5, 5, 4, 3, 3],
    ("entropy", None): [4, 4, 5, 4, 4, 3, 3],
    ("max_softmax", "mean_probability"): [5, 5, 5, 5, 4, 3, 3],
}


def stage(probability, cost, labels=LABELS, **about):
    """A model with one exit."""
    return ExitRecord(np.log(np.array(probability))[:, None], labels, [cost], **about)


@pytest.fixture
def pair():
    return stage(SMALL, 1), stage(LARGE, 10)


@pytest.mark.parametrize(("score", "ensemble"), ACCURACY)
def test_the_worked_example(score, ensemble, pair):
    record = cascade(pair, ensemble=ensemble)
    table = frontier(make_policy("confidence", score=score), record)[::-1]  # from +∞ down
    np.testing.assert_allclose(table.cost, COST)
    np.testing.assert_allclose(table.accuracy * 6, ACCURACY[score, ensemble])
    np.testing.assert_allclose(table.exit_1 * 6, range(7), atol=1e-12)
    again = evaluate(make_policy("confidence", score=score), record, table.threshold)
    np.testing.assert_allclose(again.cost, COST)
    np.testing.assert_allclose(again.accuracy * 6, ACCURACY[score, ensemble])


def test_the_worked_example_by_itself(pair):
    small, large = pair
    assert (small.correct.sum(), large.correct.sum()) == (3, 4)
    assert cascade(pair, ensemble="mean_probability").correct[:, 1].sum() == 5


@st.composite
def pairs(draw, **size):
    """Two models with one exit each on the same samples."""
    n, c = draw(st.integers(1, 8)), draw(st.integers(2, 4))
    first, second = (draw(records(samples=(n, n), exits=(1, 1), classes=(c, c))) for _ in range(2))
    return first, of_stage(second, first)


def of_stage(record, first, cost=None):
    """Return the record with the labels of the first stage of the cascade."""
    confidence = {m: abs(record.confidence(m)) for m in record.measures}
    cost = record.cost if cost is None else cost
    return ExitRecord.from_outputs(record.prediction, confidence, first.labels, cost, metadata=record.metadata)


@quick
@given(pairs())
def test_1_the_ends_are_the_models(models):
    small, large = models
    ends = evaluate(make_policy("confidence"), cascade(models), [-np.inf, np.inf])
    np.testing.assert_allclose(ends.accuracy, [small.correct.mean(), large.correct.mean()])
    np.testing.assert_allclose(ends.cost, [small.cost[0], small.cost[0] + large.cost[0]])


@pytest.mark.parametrize("width", [np.float32, np.float64])
def test_2_with_two_classes_all_measures_agree(width):
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 200)
    # Logits are multiples of 1/4: many ties, and no rounding of differences
    models = [ExitRecord(random.integers(-8, 9, (200, 1, 2)).astype(width) / 4, labels, [c]) for c in (1, 10)]
    tables = [
        frontier(make_policy("confidence", score=score), cascade(models)).drop(columns="threshold")
        for score in ("max_softmax", "margin", "entropy")
    ]
    assert len(tables[0]) > 15
    assert tables[0].equals(tables[1])
    assert tables[0].equals(tables[2])


@quick
@given(pairs(), st.lists(st.floats(0, 1, width=32), min_size=8, max_size=8, unique=True))
def test_3_an_increasing_transform_changes_nothing(models, values):
    small, large = models
    _, place = np.unique(small.confidence(), return_inverse=True)
    other = np.sort(np.array(values, np.float32))[place.reshape(small.confidence().shape)]
    transformed = ExitRecord.from_outputs(small.prediction, other, small.labels, small.cost, metadata=small.metadata)
    tables = [
        frontier(make_policy("confidence"), cascade([s, large])).drop(columns="threshold") for s in (small, transformed)
    ]
    assert tables[0].equals(tables[1])


def test_4_random_deferral_is_the_straight_line():
    random = np.random.default_rng(0)
    labels = random.integers(0, 10, 20_000)
    models = []
    for accuracy, cost in ((0.6, 1), (0.9, 10)):
        prediction = np.where(random.random(20_000) < accuracy, labels, (labels + 1) % 10)
        models.append(ExitRecord.from_outputs(prediction[:, None], np.full((20_000, 1), 0.5), labels, [cost]))
    record = cascade(models)
    deltas = np.linspace(0, 1, 11)
    table = evaluate(make_policy("random"), record, deltas)
    low, high = (model.correct.mean() for model in models)
    np.testing.assert_allclose(table.cost, 1 + 10 * deltas, atol=0.15)
    np.testing.assert_allclose(table.accuracy, low + (high - low) * (table.cost - 1) / 10, atol=0.01)


@quick
@given(pairs())
def test_5_the_oracle_defers_where_the_small_model_is_wrong(models):
    small, large = models
    table = evaluate(make_policy("oracle", target="label"), cascade(models), [1.0])
    either = sum(s or l for s, l in zip(small.correct[:, 0], large.correct[:, 0]))
    assert table.accuracy[0] == either / small.n_samples
    assert table.cost[0] == pytest.approx(small.cost[0] + (1 - small.correct.mean()) * large.cost[0])


@quick
@given(pairs(), st.lists(st.floats(-1, 2), min_size=2, max_size=8))
def test_6_cost_rises_with_the_threshold(models, deltas):
    table = evaluate(make_policy("confidence"), cascade(models), sorted(deltas))
    assert (np.diff(table.cost) >= -1e-12).all()


def test_6_a_cascade_can_beat_both_its_models(pair):
    best = frontier(make_policy("confidence"), cascade(pair)).accuracy.max()
    assert best > max(model.correct.mean() for model in pair)


@quick
@given(pairs())
def test_7_ties_move_together(models):
    table = frontier(make_policy("confidence"), cascade(models))
    assert len(table) == len(np.unique(models[0].confidence())) + 1


# How stages are combined


@quick
@given(st.data())
def test_stages_of_several_exits_follow_each_other(data):
    n = data.draw(st.integers(1, 4))
    first, *others = (data.draw(records(samples=(n, n), exits=(1, 3), classes=(3, 3))) for _ in range(3))
    stages = [first, *(of_stage(record, first) for record in others)]
    record = cascade(stages)
    assert record.n_exits == sum(s.n_exits for s in stages)
    column, paid = 0, 0.0
    for s in stages:
        for i in range(s.n_exits):
            np.testing.assert_array_equal(record.prediction[:, column], s.prediction[:, i])
            for measure in s.measures:
                np.testing.assert_array_equal(record.confidence(measure)[:, column], s.confidence(measure)[:, i])
            assert record.cost[column] == paid + s.cost[i]
            column += 1
        paid += s.cost[-1]
    np.testing.assert_array_equal(record.index, first.index)
    np.testing.assert_array_equal(record.labels, first.labels)
    assert record.n_classes == 3


def ensemble_answer(rows, ensemble, weights=None):
    """Return the class that the models predict together, from their logits (one row per model)."""
    scores = []
    for k in range(len(rows[0])):
        if ensemble == "mean_logit":
            scores.append(sum(row[k] for row in rows))
        else:
            p = [math.exp(row[k]) / math.fsum(math.exp(z) for z in row) for row in rows]
            if ensemble == "geometric":
                scores.append(math.prod(p))
            else:
                scores.append(sum(w * q for w, q in zip(weights or [1] * len(p), p)))
    return max(range(len(scores)), key=lambda k: scores[k])


@pytest.mark.parametrize("ensemble", ["mean_probability", "mean_logit", "accuracy_weighted", "geometric"])
def test_an_ensemble_is_of_all_that_ran_each_by_its_latest_exit(ensemble):
    random = np.random.default_rng(3)
    labels = random.integers(0, 4, 40)
    # Differently scaled logits, so that the three ensembles differ
    logits = [
        random.normal(size=(40, exits, 4)).astype(np.float32) * scale + shift
        for exits, scale, shift in ((2, 1, 0), (1, 3, 5), (2, 2, -3))
    ]
    stages = [ExitRecord(z, labels, np.arange(1, z.shape[1] + 1)) for z in logits]
    record = cascade(stages, ensemble=ensemble)
    for n in range(40):
        a, b, c = ([[float(v) for v in row] for row in z[n]] for z in logits)
        ran = [[a[0]], [a[1]], [a[1], b[0]], [a[1], b[0], c[0]], [a[1], b[0], c[1]]]
        w = [stage_.correct[:, i].mean() for stage_ in stages for i in range(stage_.n_exits)]
        weights = [[w[0]], [w[1]], [w[1], w[2]], [w[1], w[2], w[3]], [w[1], w[2], w[4]]]
        if ensemble != "accuracy_weighted":
            weights = [None] * 5
        assert record.prediction[n].tolist() == [ensemble_answer(*each) for each in zip(ran, [ensemble] * 5, weights)]
    # The confidence stays that of the model that runs
    np.testing.assert_array_equal(record.confidence(), np.hstack([s.confidence() for s in stages]))


def test_a_mean_of_probabilities_is_no_mean_of_logits():
    """Otherwise the test above could not distinguish the two ensembles."""
    stages = [ExitRecord(np.array([[z]]), [0], [1]) for z in ([0.0, 0, 5], [1.0, 0, -9])]
    answers = [cascade(stages, ensemble=ensemble).prediction[0, -1] for ensemble in ("mean_probability", "mean_logit")]
    assert answers == [2, 0]


def test_weights_may_be_those_of_other_samples(pair):
    validation = cascade(pair, ensemble="accuracy_weighted")
    assert validation.metadata["weights"] == [3 / 6, 4 / 6]
    alone = cascade(pair, ensemble="accuracy_weighted", weights=[1, 0])
    np.testing.assert_array_equal(alone.prediction, pair[0].prediction.repeat(2, axis=1))
    for weights in ([1], [1, -1], [1, np.nan]):
        with pytest.raises(ValueError, match=r"weights are .* expected a number from 0 for each exit"):
            cascade(pair, ensemble="accuracy_weighted", weights=weights)
    with pytest.raises(ValueError, match="weights are for ensemble='accuracy_weighted'"):
        cascade(pair, ensemble="geometric", weights=[1, 1])


@pytest.mark.parametrize("ensemble", ["mean_probability", "mean_logit", "accuracy_weighted", "geometric"])
def test_an_ensemble_may_be_asked_how_sure_it_is(ensemble, pair):
    record = cascade(pair, ensemble=ensemble, confidence="ensemble")
    np.testing.assert_array_equal(record.prediction, cascade(pair, ensemble=ensemble).prediction)
    np.testing.assert_allclose(record.confidence()[:, 0], np.max(SMALL, axis=1))  # an ensemble of one model
    s, l = np.array(SMALL), np.array(LARGE)
    both = {
        "mean_probability": s + l,
        "mean_logit": np.sqrt(s * l),
        "accuracy_weighted": 3 * s + 4 * l,
        "geometric": np.sqrt(s * l),
    }[ensemble]
    np.testing.assert_allclose(record.confidence()[:, 1], (both / both.sum(axis=1, keepdims=True)).max(axis=1))
    with pytest.raises(ValueError, match="confidence is 'ensemble'; expected 'own', or 'ensemble' where there is one"):
        cascade(pair, confidence="ensemble")


def test_logits_are_kept_for_policies_that_want_them(pair):
    record = cascade(pair)
    np.testing.assert_array_equal(record.logits, np.concatenate([stage_.logits for stage_ in pair], axis=1))
    make_policy("confidence", temperature="per_exit").fit(record).signal(record)
    assert not cascade(pair, ensemble="geometric").has_logits
    bare = ExitRecord.from_outputs([[0]] * 6, [[0.5]] * 6, LABELS, [30])
    assert not cascade([pair[0], bare]).has_logits


def test_temperature_before_the_cascade(pair):
    temperatures = fit_temperatures(pair[0])
    scaled = with_temperatures(pair[0], temperatures)
    p = np.array(SMALL) ** (1 / temperatures[0])
    np.testing.assert_allclose(scaled.confidence()[:, 0], (p / p.sum(1, keepdims=True)).max(1), rtol=1e-5)
    np.testing.assert_array_equal(cascade([scaled, pair[1]]).confidence()[:, :1], scaled.confidence())
    np.testing.assert_array_equal(scaled.prediction, pair[0].prediction)


def test_dear_before_cheap_is_warned_of(pair):
    with pytest.warns(
        UserWarning, match=r"stage 2 costs 1, no more than stage 1 \(10\); expected cheaper stages first"
    ):
        cascade(pair[::-1])


def test_one_stage_is_itself(pair):
    record = cascade(pair[:1])
    np.testing.assert_array_equal(record.prediction, pair[0].prediction)
    np.testing.assert_array_equal(record.cost, pair[0].cost)


def test_it_says_what_it_is_made_of(tmp_path):
    models = [
        stage(SMALL, 1, metadata={"system": "small", "dataset": "d", "split": "test", "unit": "MAC", "seed": 3}),
        stage(LARGE, 10, metadata={"dataset": "d", "split": "test"}),
    ]
    record = cascade(models, ensemble="geometric")
    assert record.metadata["system"] == "small + stage 2"
    assert record.metadata | {"dataset": "d", "split": "test", "unit": "MAC", "classes": 3} == record.metadata
    record.save(tmp_path / "r")
    assert ExitRecord.load(tmp_path / "r").metadata == record.metadata


def test_only_measures_that_all_stages_have(pair):
    margin = ExitRecord.from_outputs([[0]] * 6, {"margin": [[0.5]] * 6}, LABELS, [3])
    assert cascade([pair[0], margin]).measures == ("margin",)
    softmax = ExitRecord.from_outputs([[0]] * 6, [[0.5]] * 6, LABELS, [3])
    with pytest.raises(ValueError, match="no confidence measure in common"):
        cascade([margin, softmax])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"index": [0, 1, 2, 3, 5, 6]}, "stage 2 has 6 samples, stage 1 has 6, of which 5 have the same index"),
        (
            {"labels": [0, 1, 2, 0, 1, 1]},
            r"stage 2 has 1 as label of sample 5, stage 1 has 0 \(1 of 6 labels differ\); expected the same samples in",
        ),
        ({"labels": None}, "stage 2 has no labels, stage 1 has some; expected labels in all records or in none"),
        ({"probability": [p[:2] for p in LARGE], "labels": [0, 1, 1, 0, 1, 0]}, "stage 2"),
        ({"cost": 0}, "stage 2 costs 0; expected what running it costs, above 0"),
    ],
)
def test_stages_that_do_not_fit(change, message, pair):
    other = stage(**{"probability": LARGE, "cost": 10} | change)
    with pytest.raises(ValueError, match=message):
        cascade([pair[0], other])


def test_stages_without_labels(pair):
    bare = [without_labels(record) for record in pair]
    assert_same(cascade(bare), without_labels(cascade(pair)))
    chosen = {"ensemble": "accuracy_weighted", "weights": [3, 4], "confidence": "ensemble"}
    assert_same(cascade(bare, **chosen), without_labels(cascade(pair, **chosen)))
    with pytest.raises(ValueError, match="ensemble='accuracy_weighted' without weights needs labels, but"):
        cascade(bare, ensemble="accuracy_weighted")
    with pytest.raises(ValueError, match="stage 2 has labels, stage 1 has none; expected"):
        cascade([bare[0], pair[1]])


def test_a_first_stage_that_costs_nothing(pair):
    with pytest.raises(ValueError, match="stage 1 costs 0; expected what running it costs"):
        cascade([stage(SMALL, 0), pair[1]])
    costs = [[1], [2], [0], [1], [2], [3]]
    free = ExitRecord.from_outputs([[0]] * 6, [[0.5]] * 6, LABELS, costs, index=[9, 8, 7, 6, 5, 4])
    with pytest.raises(ValueError, match="stage 1 costs 0 for sample 7; expected"):
        cascade([free])


def test_fewer_samples(pair):
    with pytest.raises(ValueError, match="stage 2 has 5 samples, stage 1 has 6, of which 5 have the same index"):
        cascade([pair[0], pair[1].take(np.arange(5))])


def test_other_units():
    models = [stage(SMALL, 1, metadata={"unit": "MAC"}), stage(LARGE, 10, metadata={"unit": "USD"})]
    with pytest.raises(ValueError, match="stage 2 costs USD, stage 1 MAC; expected one unit"):
        cascade(models)


def test_other_classes(pair):
    binary = [0, 1, 1, 0, 1, 0]
    with pytest.raises(ValueError, match="stage 2 has 2 classes, stage 1 has 3"):
        cascade([stage(SMALL, 1, binary), stage([p[:2] for p in LARGE], 10, binary)])


def test_ensembles_that_cannot_be(pair):
    bare = ExitRecord.from_outputs([[0]] * 6, [[0.5]] * 6, LABELS, [3])
    with pytest.raises(ValueError, match="'mean_probability' needs logits, but stage 2 has none"):
        cascade([pair[0], bare], ensemble="mean_probability")
    with pytest.raises(ValueError, match="ensemble is 'mean'; expected None or one of mean_probability"):
        cascade(pair, ensemble="mean")
    with pytest.raises(ValueError, match="at least one record"):
        cascade([])


def test_negative_scores_are_refused_or_keep_their_order():
    """Confidence scores below 0 must not be reversed by the cascade."""
    try:
        models = [ExitRecord.from_outputs([[0], [0]], [[-0.3], [-0.1]], [0, 0], [1.0]) for _ in range(2)]
    except ValueError:
        return
    first, second = cascade(models).confidence()[:, 0]
    assert first < second


# Samples with different costs


@quick
@given(st.data())
def test_each_sample_pays_for_all_that_ran(data):
    n = data.draw(st.integers(1, 4))
    size = {"samples": (n, n), "exits": (1, 3), "classes": (2, 2)}
    first, *others = (data.draw(records(sample_costs=True, metrics=("f1",), **size)) for _ in range(3))
    costs = [record.cost if record.sample_cost is None else record.sample_cost for record in (first, *others)]
    stages = [first, *(of_stage(record, first, cost) for record, cost in zip(others, costs[1:]))]
    record = cascade(stages)
    assert (record.sample_cost is None) == all(cost.ndim == 1 for cost in costs)
    assert record.metric == "f1"
    for sample in range(n):
        paid, expected = 0.0, []
        for stage_ in stages:
            own = [float(stage_.cost_of(np.full(n, i))[sample]) for i in range(stage_.n_exits)]
            expected += [paid + cost for cost in own]
            paid += own[-1]
        found = [record.cost_of(np.full(n, i))[sample] for i in range(record.n_exits)]
        np.testing.assert_allclose(found, expected, rtol=1e-13)
    ends = evaluate(make_policy("confidence"), record, [-np.inf, np.inf])
    np.testing.assert_allclose(ends.cost, [first.cost[0], sum(stage_.cost[-1] for stage_ in stages)], rtol=1e-13)


@pytest.mark.parametrize("costs", [([[1], [2], [3]], [10]), ([1], [[10], [20], [30]])])
def test_one_stage_with_costs_of_samples_is_enough(costs):
    models = [ExitRecord.from_outputs([[0]] * 3, [[0.1], [0.5], [0.9]], [0, 0, 0], cost) for cost in costs]
    record = cascade(models)
    small, large = (np.broadcast_to(np.array(cost, float).reshape(-1), 3) for cost in costs)
    np.testing.assert_array_equal(record.sample_cost, np.stack([small, small + large], axis=1))
    table = evaluate(make_policy("confidence"), record, [0.5])
    assert table.cost[0] == pytest.approx((small.sum() + large[0]) / 3)
