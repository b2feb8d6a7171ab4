"""Answers that are not classes: with qualities 0 and 1, everything gives what it gives for classes."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import oracles
from offramp import ExitRecord, cascade, choose_threshold, decide, evaluate, frontier, make_policy, router
from offramp.cascades.search import Zoo, pair_frontier, search_pairs, search_triples
from offramp.cli import cli
from offramp.comparison.bootstrap import Bootstrap
from offramp.comparison.cascades import Variant, reduction_tables
from offramp.comparison.claims import at_targets, control, pairs
from offramp.comparison.matched import duels, match, speedup
from offramp.comparison.runs import Run
from offramp.comparison.sensitivity import Setting, sensitivity
from offramp.evaluation import outcomes
from offramp.evaluation.exits import exit_table, reliability_table
from offramp.reports.catalogue import FIGURES
from offramp.reports.displays import FrontierDisplay
from offramp.reports.judging import judge
from strategies import each_policy, quick, records, thresholds
from test_policies import EVERY
from test_search import ascending, brute_front, check_front, model_records

READ = [(name, options) for name, options in EVERY if not make_policy(name, **options).needs_logits]


def scored(record, **changes):
    """The same answers with their correctness as quality."""
    fields = {
        "quality": record.correct.astype(np.float64),
        "confidence": {measure: record.measure(measure) for measure in record.measures},
        "cost": record.cost if record.sample_cost is None else record.sample_cost,
        "prediction": record.prediction,
        "index": record.index,
        "metadata": record.metadata,
    }
    return ExitRecord.from_scores(**fields | changes)


def same(one, other):
    """Both are equal, bit by bit, as arrays or as tables without the name of the metric."""
    if isinstance(one, pd.DataFrame):
        tables = [table.drop(columns="metric", errors="ignore") for table in (one, other)]
        pd.testing.assert_frame_equal(*tables, check_exact=True)
    else:
        np.testing.assert_array_equal(one, other)


# Accuracy is the special case


@pytest.mark.parametrize(("name", "options"), READ)
@each_policy
@given(st.data())
def test_qualities_of_0_and_1_are_classes(name, options, data):
    shape = {"exits": (3, 3), "classes": (3, 3), "sample_costs": True}
    both = [data.draw(records(**shape)) for _ in range(2)]
    twins = [scored(record) for record in both]
    policy, twin = (make_policy(name, **options).fit(validation) for validation, _ in (both, twins))
    assert policy.state.keys() == twin.state.keys()
    for field in policy.state:
        same(policy.state[field], twin.state[field])
    signal = policy.signal(both[1])
    deltas = [data.draw(thresholds(signal)) for _ in range(3)]
    uses = [
        lambda policy, record: policy.signal(record),
        lambda policy, record: policy.correct(record),
        lambda policy, record: evaluate(policy, record, deltas),
        lambda policy, record: frontier(policy, record),
        lambda policy, record: np.array(outcomes(policy, record, deltas)),
        lambda policy, record: np.array(decide(policy, record, deltas)),
        lambda policy, record: choose_threshold(policy, record, accuracy=0.5),
        lambda policy, record: choose_threshold(policy, record, cost=3),
        lambda policy, record: policy.choose_thresholds(record, min_support=1),
        lambda policy, record: policy.choose_thresholds(record, reference="same_samples", min_support=2),
        lambda policy, record: exit_table(record, {"it": policy}, 5),
        lambda policy, record: reliability_table(record, 5),
    ]
    for use in uses:
        same(use(policy, both[1]), use(twin, twins[1]))


def runs_of(as_scores):
    """Runs of two systems with two seeds each, as classes or as scores."""
    runs = []
    for system, exits in (("small", 2), ("large", 3)):
        for seed in range(2):
            parts = []
            for split in range(2):
                rng = np.random.default_rng([seed, split])  # labels are the same for all seeds of a split
                labels = np.random.default_rng(split).integers(0, 3, 60)
                logits = rng.normal(size=(60, exits, 3)) + 3 * np.eye(3)[labels][:, None]
                record = ExitRecord(logits, labels, np.arange(exits) + 1.0)
                confidence = {measure: record.measure(measure) for measure in record.measures}
                record = ExitRecord.from_outputs(record.prediction, confidence, labels, record.cost)
                parts.append(scored(record) if as_scores else record)
            names = ("confidence", "pcee", "beem-a", "agreement", "patience", "isotonic")
            runs.append(Run(system, seed, *parts, {name: make_policy(name).fit(parts[0]) for name in names}))
    return runs


def test_comparisons_of_qualities_of_0_and_1_are_those_of_classes():
    bootstrap = Bootstrap.draw(60, 20, 0)
    grid = np.linspace(0, 1, 21)
    tables = []
    for as_scores in (False, True):
        runs = runs_of(as_scores)
        everything = match(runs)
        tables.append(
            [
                at_targets(runs, [0.7, 0.8], bootstrap),
                pairs(runs, [("small", "large")], bootstrap),
                control(runs, grid, "confidence", bootstrap),
                speedup(everything, bootstrap),
                duels(everything, [("pcee", "beem-a"), ("agreement", "patience")], bootstrap),
                sensitivity(runs, [Setting("bins", "5", "pcee", make_policy("pcee", bins=5))], grid, 1, bootstrap),
            ]
        )
    for one, other in zip(*tables):
        same(one, other)


def model_runs(as_scores):
    runs = []
    for k, system in enumerate(("a", "b", "c")):
        parts = []
        for split in range(2):
            labels = np.random.default_rng(split).integers(0, 4, 80)
            logits = np.random.default_rng([k, split]).normal(size=(80, 1, 4)) + (k + 1) * np.eye(4)[labels][:, None]
            record = ExitRecord(logits, labels, [float(2**k)], metadata={"system": system})
            parts.append(scored(record) if as_scores else record)
        runs.append(Run(system, 0, *parts))
    return runs


def test_the_search_of_qualities_of_0_and_1_is_that_of_classes():
    variants = {"max-softmax": Variant(), "margin": Variant("margin")}
    both = [reduction_tables(model_runs(scores), variants, [(0.5, 0.8)], 0.05, 20) for scores in (False, True)]
    for name, table in both[0].items():
        same(table, both[1][name])


# Qualities between 0 and 1


@st.composite
def scores(draw, exits=(1, 4), eighths=False):
    """Draw a record of scores with ties."""
    n, l = draw(st.integers(1, 8)), draw(st.integers(*exits))
    values = st.integers(0, 8).map(lambda k: k / 8) if eighths else st.floats(0, 1)
    pool = st.sampled_from(draw(st.lists(values, min_size=1, max_size=5)))
    quality, confidence = (draw(arrays(np.float64, (n, l), elements=pool)) for _ in range(2))
    return ExitRecord.from_scores(quality, confidence, np.arange(l) + 1)


@quick
@given(scores(), st.data())
def test_operating_points_are_those_of_the_loop(record, data):
    policy = make_policy("confidence")
    signal = policy.signal(record)
    deltas = [data.draw(thresholds(signal)) for _ in range(3)]
    right, _ = outcomes(policy, record, deltas)
    points = evaluate(policy, record, deltas)
    for t, delta in enumerate(deltas):
        _, expected = oracles.answers(signal, record.quality, delta)
        same(right[t], expected)
        assert points["accuracy"][t] == pytest.approx(np.mean(expected), abs=1e-12)
    assert frontier(policy, record)["accuracy"].between(0, 1).all()


@quick
@given(scores())
def test_the_oracle_gives_the_best_answer_at_the_lowest_cost(record):
    exits = make_policy("oracle", target="label").exits(record, 1)
    for quality, exit_ in zip(record.quality.tolist(), exits):
        best = max(quality)
        assert exit_ == (quality.index(best) if best > 0 else len(quality) - 1)


@quick
@given(scores(eighths=True), st.sampled_from(["overall", "same_samples"]), st.integers(1, 3))
def test_thresholds_per_exit_are_those_of_the_loop(record, reference, support):
    policy = make_policy("confidence")
    found = policy.choose_thresholds(record, reference=reference, min_support=support)
    signal = np.minimum(policy.signal(record), np.finfo(float).max)
    alive, expected = list(range(len(record))), []
    for i in range(record.n_exits - 1):
        chosen = np.inf
        for candidate in sorted({signal[n, i] for n in alive}):
            leave = [n for n in alive if signal[n, i] >= candidate]
            judges = leave if reference == "same_samples" else range(len(record))
            # Means of eighths can be compared as products of whole numbers
            errors = [sum(8 - 8 * record.quality[n, e] for n in of) for of, e in ((leave, i), (judges, -1))]
            if len(leave) >= support and errors[0] * len(judges) <= errors[1] * len(leave):
                chosen = candidate
                break
        expected.append(chosen)
        alive = [n for n in alive if signal[n, i] < chosen]
    same(found, expected)


@pytest.mark.parametrize("name", ["pcee", "isotonic", "pcee-ws"])
def test_maps_estimate_the_expected_quality(name):
    confidence = np.repeat([[0.2], [0.6], [0.9]], 4, axis=0)
    quality = np.array([[0.1, 0.2, 0.3, 0.2, 0.5, 0.5, 0.7, 0.5, 1, 0.9, 0.8, 0.9]]).T
    record = ExitRecord.from_scores(quality, confidence, [1])
    options = {"window": 4} if name == "pcee-ws" else {}
    signal = make_policy(name, **options).fit(record).signal(record)
    np.testing.assert_allclose(signal[::4, 0], [0.2, 0.55, 0.9])


@st.composite
def model_scores(draw):
    """Models with one exit, whose qualities are eighths, so that their sums are exact."""
    models = draw(model_records())
    eighths = arrays(np.float64, (len(models[0]), 1), elements=st.integers(0, 8).map(lambda k: k / 8))
    made = [scored(record, quality=draw(eighths), metadata=record.metadata) for record in models]
    return sorted(made, key=lambda record: record.cost[0])


@quick
@given(model_scores())
def test_the_search_is_exact(models):
    zoo = Zoo.of(models)
    found = search_pairs(zoo)
    groups = [*ascending(models, 1), *ascending(models, 2)]
    check_front(found.front, brute_front(models, groups), models)
    triples = search_triples(zoo, range(len(models)), found)
    check_front(triples.front, brute_front(models, [*groups, *ascending(models, 3)]), models)


def test_blocks_that_are_ruled_out_hold_nothing_between_0_and_1(monkeypatch):
    rng = np.random.default_rng(0)
    quality = rng.random((4, 200)) ** np.linspace(1.5, 0.5, 4)[:, None]
    confidence = np.round((quality + rng.random(quality.shape)) / 2, 2)
    zoo = Zoo(tuple("abcd"), np.array([1.0, 3, 9, 27]), None, confidence, quality)
    fronts = []
    for block in (201, 16, 7):
        monkeypatch.setattr("offramp.cascades.search.BLOCK", block)
        fronts.append(search_triples(zoo, range(4), search_pairs(zoo)).front)
    assert (fronts[0].kind == "triple").sum() > 20
    for front in fronts[1:]:
        same(front, fronts[0])
    records = [
        ExitRecord.from_scores(quality[k][:, None], confidence[k][:, None], [cost], metadata={"system": name})
        for k, (name, cost) in enumerate(zip(zoo.names, zoo.cost))
    ]
    points = pair_frontier(zoo, 0, 2)
    expected = frontier(make_policy("confidence"), cascade([records[0], records[2]]))
    for column in ("threshold", "accuracy", "cost"):
        np.testing.assert_allclose(points[column], expected[column], rtol=1e-12)


# Files, answers that are texts, and what is missing

ANSWERS = [["4", "5", "5"], ["a", "b", "c"], ["7", "7", "7"]]
QUALITY = [[0, 1, 1], [0, 0.5, 1], [1, 1, 1]]


def answered(**changes):
    fields = {"quality": QUALITY, "confidence": np.full((3, 3), 0.5), "cost": [1, 2, 4], "prediction": ANSWERS}
    return ExitRecord.from_scores(**fields | changes)


def test_texts_are_answers(tmp_path):
    record = answered(metadata={"metric": "exact match"})
    record.save(tmp_path / "r")
    for each in (record, ExitRecord.load(tmp_path / "r")):
        assert each.metadata == {"metric": "exact match", "names": ["4", "5", "7", "a", "b", "c"]}
        assert each.metric == "exact match"
        assert each.labels is None
        assert each.correct.dtype == np.float64
        same(each.correct, QUALITY)
        assert make_policy("patience").predict(each, 1).tolist() == ["5", "c", "7"]
        assert make_policy("patience").predict(each[[2, 0]], 1).tolist() == ["7", "5"]
        vote = make_policy("agreement", tier=3)
        assert vote.predict(each, 0.5).tolist() == ["5", "c", "7"]
        same(vote.correct(each)[:, -1], [1, 1, 1])
    assert answered().metric == "mean quality"


def test_names_of_classes_are_predicted():
    record = ExitRecord.from_outputs([[1], [0]], [[0.5], [0.6]], [0, 0], [1], metadata={"names": ["cat", "dog"]})
    assert make_policy("confidence").predict(record, 0).tolist() == ["dog", "cat"]
    with pytest.raises(ValueError, match=r"prediction\[0, 0\] is 2: expected a class from 0 to 1"):
        ExitRecord.from_outputs([[2]], [[0.5]], [0], [1], metadata={"names": ["cat", "dog"]})


def test_stages_with_other_answers_are_one_cascade():
    answers, quality = np.array(ANSWERS), np.array(QUALITY)
    parts = [{"prediction": answers[:, [k]], "quality": quality[:, [k]], "cost": [k + 1.0]} for k in range(2)]
    one, two = (answered(**part, confidence=None) for part in parts)
    made = cascade([one, two])
    assert np.array(made.names)[made.prediction].tolist() == [row[:2] for row in ANSWERS]
    same(made.quality, np.array(QUALITY)[:, :2])
    same(made.cost, [1, 3])
    assert made.measures == ()
    same(router([one, two]).cost, [1, 2])


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        *((name, {}, f"{name} needs predictions") for name in ("patience", "beem-c", "beem-a", "agreement")),
        ("oracle", {}, "oracle with target='final' needs predictions"),
        *((name, {}, f"{name} needs logits") for name in ("ztw", "f-pabee")),
        ("confidence", {"temperature": "per_exit"}, "needs logits"),
        ("confidence", {"score": "margin"}, "this record has no margin|these outputs have no margin, only max_softmax"),
        ("router", {}, "router needs features"),
    ],
)
def test_policies_say_what_is_missing(name, options, message):
    record = answered(prediction=None)
    with pytest.raises(ValueError, match=message):
        make_policy(name, **options).fit(record).signal(record)


@pytest.mark.parametrize("name", ["confidence", "pcee", "isotonic", "budget", "beem-a", "normalized-entropy"])
def test_policies_say_that_confidences_are_missing(name):
    record = answered(confidence=None, metadata={"classes": 6} if name == "normalized-entropy" else {})
    with pytest.raises(ValueError, match=r"no (max_softmax|entropy), only predictions"):
        make_policy(name).fit(record).signal(record)
    with pytest.raises(ValueError, match=r"no max_softmax, and no other confidence"):
        answered(confidence=None, prediction=None).confidence()


def test_what_needs_neither_works_without_both():
    record = answered(confidence=None, prediction=None)
    for name, options in (("random", {}), ("oracle", {"target": "label"})):
        assert len(frontier(make_policy(name, **options), record))
    with pytest.raises(ValueError, match="learned-deferral needs confidences or predictions"):
        make_policy("learned-deferral").fit(record)
    with pytest.raises(ValueError, match="needs predictions, but this record has none"):
        make_policy("random").predict(record, 0.5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"quality": [[0, 1, 1.5], *QUALITY[1:]]}, r"quality\[0, 2\] is 1.5: expected a number from 0 to 1"),
        ({"quality": [[0, 1, np.nan], *QUALITY[1:]]}, r"quality\[0, 2\] is nan: expected finite numbers"),
        ({"quality": QUALITY[0]}, r"quality: expected shape \(any, any\), got \(3,\)"),
        ({"prediction": [row[:2] for row in ANSWERS]}, r"prediction: expected shape \(3, 3\), got \(3, 2\)"),
        ({"prediction": np.full((3, 3), None)}, r"prediction\[0, 0\] is None: expected integers, or texts everywhere"),
        ({"metadata": {"metric": "f1"}}, "metric is 'f1'; expected a name for the mean quality"),
        ({"metadata": {"costs": "alone"}}, "costs is 'alone'; expected 'router'"),
        (
            {"confidence": {"mean_token_margin": np.full((3, 3), -0.1)}},
            r"mean_token_margin\[0, 0\] is -0.1: expected a",
        ),
        ({"cost": None}, "from_scores: no cost"),
        ({"features": np.zeros(3)}, r"features: expected shape \(3, any\), got \(3,\)"),
    ],
)
def test_scores_that_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        answered(**changes)


def test_stages_that_do_not_fit():
    one = ExitRecord.from_scores([[0.5]], [[0.5]], [1])
    with pytest.raises(ValueError, match="stage 2 has no qualities, stage 1 has"):
        cascade([one, ExitRecord.from_outputs([[0]], [[0.5]], None, [2])])
    with pytest.raises(ValueError, match="stage 2 has the metric ROUGE, stage 1 mean quality; expected one"):
        cascade([one, ExitRecord.from_scores([[0.5]], [[0.5]], [2], metadata={"metric": "ROUGE"})])


# UCCI and routers


def language_models(n, seed):
    """Answers of two language models, whose mean token margin is overconfident where the question is hard."""
    rng = np.random.default_rng(seed)
    topic = rng.integers(0, 3, n)  # the small model does not know the last one
    chance = np.stack([np.array([0.9, 0.6, 0.1])[topic], np.array([0.95, 0.9, 0.85])[topic]], axis=1)  # (N, 2)
    quality = (rng.random((n, 2)) < chance).astype(float)
    margin = np.clip(0.5 + 0.4 * chance + rng.normal(0, 0.05, (n, 2)), 0, 1)
    return quality, margin, np.eye(3)[topic]


def test_ucci_is_isotonic_regression_of_the_mean_token_margin():
    """The three steps of arXiv 2605.18796, computed here from the uncertainty, 1 − the mean token margin."""
    regression = pytest.importorskip("sklearn.isotonic").IsotonicRegression(out_of_bounds="clip")
    quality, margin, _ = language_models(2000, 0)
    validation = ExitRecord.from_scores(quality, {"mean_token_margin": margin}, [1, 11])
    policy = make_policy("isotonic", score="mean_token_margin").fit(validation)
    error = regression.fit(1 - margin[:, 0], 1 - quality[:, 0]).predict(1 - margin[:, 0])
    np.testing.assert_allclose(policy.signal(validation)[:, 0], 1 - error, atol=1e-12)
    costs = {}
    for allowed in np.unique(error):
        stays = error <= allowed
        if np.where(stays, *quality.T).mean() >= 0.85:
            costs[1 - allowed] = (1 + 10 * ~stays).mean()
    threshold = policy.choose_threshold(validation, accuracy=0.85)
    assert threshold == pytest.approx(min(costs, key=costs.get), abs=1e-12)
    quality, margin, _ = language_models(2000, 1)
    test = ExitRecord.from_scores(quality, {"mean_token_margin": margin}, [1, 11])
    point = evaluate(policy, test, [threshold]).iloc[0]
    assert abs(point.accuracy - 0.85) < 0.03
    assert point.cost < 8


def test_the_examples_of_the_page():
    text = (Path(__file__).parents[1] / "docs/scores.md").read_text(encoding="utf-8")
    names = {"print": lambda shown: printed.append(shown)}
    printed = []
    for block in re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        exec(block, names)
    chosen, routed, paid_all = printed
    assert abs(chosen["accuracy"][0] - 0.85) < 0.02
    assert routed[0] < paid_all[0] < 36
    assert names["record"].metric == "ROUGE-L"


def routed(seed, costs="router"):
    quality, _, topic = language_models(1500, seed)
    models = [ExitRecord.from_scores(quality[:, [k]], None, [10.0**k], features=topic) for k in range(2)]
    return router(models) if costs == "router" else cascade(models)


def test_a_router_pays_only_the_model_that_answers(tmp_path):
    validation, test = routed(0), routed(1)
    test.save(tmp_path / "r")
    same(ExitRecord.load(tmp_path / "r").features, test.features)
    policy = make_policy("router").fit(validation)
    exits = policy.exits(test, -0.5)  # λ = 0.5: a gain of 0.5 in quality is worth the cost of the large model
    same(exits, test.features[:, 2])
    point = evaluate(policy, test, [-0.5]).iloc[0]
    assert point.cost == pytest.approx(np.where(exits == 0, 1, 10).mean())
    paid = evaluate(policy, routed(1, "cascade"), [-0.5]).iloc[0].cost
    assert paid == pytest.approx(np.where(exits == 0, 1, 11).mean())


@pytest.mark.parametrize("penalty", [0.01, 1.0])
def test_the_router_chooses_the_best_trade_off_of_its_estimates(penalty):
    rng = np.random.default_rng(0)
    quality, features = rng.random((200, 4)), rng.normal(size=(200, 2))
    record = ExitRecord.from_scores(quality, None, [1, 2, 5, 9], metadata={"costs": "router"}, features=features)
    policy = make_policy("router", penalty=penalty).fit(record)
    x = np.column_stack([(features - features.mean(0)) / features.std(0), np.ones(200)])  # (N, F + 1)
    chance = 1 / (1 + np.exp(-x @ policy.state["weights"].T))  # (N, L)
    for price in (0.0, 0.02, 0.1, 1.0):
        same(policy.exits(record, -price), (chance - price * record.cost / 9).argmax(axis=1))


def test_a_router_cannot_read_the_outputs_of_exits():
    record = answered(metadata={"costs": "router"})
    for name in ("confidence", "patience", "pcee", "agreement", "learned-deferral"):
        with pytest.raises(ValueError, match=f"{name} reads the outputs of exits, but in a router only the chosen"):
            make_policy(name).fit(record).signal(record)
    for name in ("oracle", "random"):
        assert len(frontier(make_policy(name), record))


@pytest.mark.parametrize("name", ["learned-deferral", "router"])
def test_logistic_regressions_learn_qualities(name):
    """Equal parts of samples with qualities 0 and 1 are as good as the same samples with quality 0.5."""
    features = np.array([[0.0], [1.0], [2.0], [3.0]])
    soft = np.array([[0.5, 1.0], [0.5, 0.5], [0.0, 0.5], [1.0, 1.0]])
    low, high = np.floor(soft), np.ceil(soft)
    states = []
    for quality, x in ((np.vstack([soft, soft]), features), (np.vstack([low, high]), features)):
        twice = np.vstack([x, x])
        record = ExitRecord.from_scores(quality, np.hstack([twice, twice]) / 4, [1, 2], features=twice)
        states.append(make_policy(name).fit(record).state)
    np.testing.assert_allclose(states[0]["weights"], states[1]["weights"], atol=1e-6)


# Reports


def asked(seed, **changes):
    """Answers of three models in one file, with texts."""
    rng = np.random.default_rng(seed)
    hard = rng.random((300, 1))
    right = rng.random((300, 3)) > hard * [0.9, 0.6, 0.3]
    quality = np.where(right, 1, rng.random((300, 3)) / 2)
    answers = np.where(right, "yes", rng.choice(["no", "perhaps"], (300, 3)))
    confidence = np.clip(1 - hard * [0.9, 0.6, 0.3] + rng.normal(0, 0.1, (300, 3)), 0, 1)
    metadata = {"metric": "ROUGE-L", "split": "test"} | changes.pop("metadata", {})
    fields = {"confidence": confidence, "prediction": answers} | changes
    return ExitRecord.from_scores(quality, cost=[1, 3, 9], metadata=metadata, **fields)


def test_a_judgement_of_answers_writes_the_name_of_their_quality(unrendered, tmp_path):
    found = judge(asked(0), asked(1), tmp_path, resamples=100)
    assert "On test data its ROUGE-L is" in str(found)
    assert {path.stem for path in (tmp_path / "figures").iterdir()} >= {
        "speedup",
        "control",
        "reliability",
        "quality-cost",
    }
    texts = [path.read_text() for path in (tmp_path / "tables").glob("*.md")]
    page = re.sub(r"(?s)data:image[^\"]*|<script.*?</script>", "", (tmp_path / "index.html").read_text())
    for text in (*texts, page):
        assert "ROUGE-L" in text
        assert not re.findall(r".*\baccurac(?:y|ies)\b.*", text, re.IGNORECASE)
    exits = pd.read_csv(tmp_path / "tables/exits.csv")
    assert exits["accuracy"].tolist() == pytest.approx(asked(1).quality.mean(axis=0).tolist())
    assert set(exits["metric"]) == {"ROUGE-L"}


def test_figures_write_the_name_of_the_quality(tmp_path):
    path = tmp_path / "r.safetensors"
    asked(0, metadata={"system": "it", "seed": 0}).save(path)
    line = f"evaluate --policy confidence --test {path} --out {tmp_path}/curve.parquet --exits {tmp_path}/exits.parquet"
    result = CliRunner().invoke(cli, line.split())
    assert result.exit_code == 0, result.output
    drawn = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("offramp.reports.figures.style.save", lambda figure, out: drawn.append(figure))
        FIGURES["control"].write([tmp_path / "curve.parquet", tmp_path / "exits.parquet"], tmp_path / "control")
    assert drawn[0].axes[0].get_ylabel() == "Test ROUGE-L (%)"
    display = FrontierDisplay.from_record(make_policy("confidence"), asked(0)).plot()
    assert display.ax_.get_ylabel() == "ROUGE-L (%)"


def test_a_judgement_needs_something_to_decide_by(unrendered, tmp_path):
    records = [asked(seed, confidence=None, prediction=None) for seed in range(2)]
    with pytest.raises(ValueError, match="judge: the records have too little for any policy"):
        judge(*records, tmp_path, resamples=100)
    found = judge(*(asked(seed, confidence=None) for seed in range(2)), tmp_path, resamples=100)
    assert found.policy in ("patience", "agreement", "learned-deferral")
