"""Acceleration of any model: blocks, heads, the choice of exits, the parts of the data, and the whole way."""

import json
import re
import warnings
from dataclasses import replace
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import binomtest
from torch import nn

import offramp
from offramp import ExitRecord, certify, make_policy
from offramp._io.tables import write_table
from offramp.acceleration import accelerating, evaluating, features, heads, measuring, subset
from offramp.acceleration.blocks import EncoderNetwork, check_encoder, find_blocks
from offramp.acceleration.candidates import _expanded, open_candidates
from offramp.acceleration.data import inputs_of, read_data
from offramp.acceleration.evaluating import evaluate_joint, evaluate_records
from offramp.acceleration.exits import Member
from offramp.acceleration.loading import Loaded, load_model
from offramp.acceleration.splits import certifiable, draw_parts, least_samples
from offramp.acceleration.structures import Fitted, choose_structures
from offramp.acceleration.subset import choose_exits, fit_families
from offramp.cli import cli
from offramp.datasets.base import Vocabulary
from offramp.datasets.preparing import ImagePreparation, TextPreparation
from offramp.models.costs import exit_costs
from offramp.models.huggingface import HuggingFace
from offramp.policies.base import first_exit
from offramp.reports.catalogue import FIGURES, TABLES
from offramp.runtime import EarlyExit, load
from offramp.runtime.exporting import cost_coefficients
from strategies import quick, records


class Block(nn.Module):
    """A residual block, which cannot be cut inside."""

    def __init__(self, width):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x):
        return x + self.conv(x).relu()


class Net(nn.Module):
    """Blocks in a list, as in most networks."""

    def __init__(self, classes=10, width=8, depth=4):
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1)
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))
        self.fc = nn.Linear(width, classes)

    def forward(self, x, scale=None):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.fc(x.mean((2, 3)) if scale is None else scale * x.mean((2, 3)))


class Skipping(Net):
    """The output of the stem is read again at the end of the blocks, so only one cut is possible before."""

    def forward(self, x):
        first = x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.fc((x + first).mean((2, 3)))


class Deciding(Net):
    def forward(self, x):
        return super().forward(x) if x.sum() > 0 else super().forward(-x)


X = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def net(kind=Net, **options):
    torch.manual_seed(0)
    return kind(**options).eval()


# Blocks


@pytest.mark.parametrize(
    ("module", "names", "expected"),
    [
        (Net(), None, ("stem", "blocks.0", "blocks.1", "blocks.2")),
        (Net(), ["blocks.2", "blocks.0"], ("blocks.0", "blocks.2")),
        (Skipping(), None, ("stem",)),
        (
            nn.Sequential(
                nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 3)
            ),
            None,
            ("1", "4"),
        ),
    ],
)
def test_a_network_in_stages_is_the_network(module, names, expected):
    network = find_blocks(module, X, names)
    if names is None and isinstance(module, nn.Sequential):
        expected = expected[: len(network.places)]  # the last linear layer is too little to save
    assert network.places == expected
    for cuts in [(), (0,), range(len(network.places))]:
        state = X
        for stage in network.stages(cuts):
            state = stage(state)
        assert torch.equal(state, module.eval()(X))


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet18", "layer3.0"),
        ("convnext_atto", "stages.2.blocks.2"),
        ("vit_tiny_patch16_224", "blocks.5"),
        ("test_vit", "blocks.2"),
        ("swin_tiny_patch4_window7_224", "layers.2.blocks.2"),
        ("mobilenetv3_small_100", "blocks.3.0"),
    ],
)
def test_blocks_of_timm_models(name, expected):
    import timm

    network = find_blocks(timm.create_model(name).eval(), torch.randn(2, 3, 224, 224))
    assert expected in network.places
    assert 6 <= len(network.places) <= 12


def test_places_have_about_equal_steps_of_macs():
    network = find_blocks(net(depth=9), X, most=3)
    assert network.places == ("stem", "blocks.3", "blocks.7")


@pytest.mark.parametrize(
    ("module", "names", "message"),
    [
        (Deciding(), None, "Deciding: no blocks found .* its modules are stem, blocks, blocks.0, .*name those"),
        (Net(), ["layer1"], "no module 'layer1'; expected one of stem, blocks, fc"),
        (Net(), ["blocks.7"], r"no module 'blocks.7'; expected one of blocks.0, blocks.1"),
        (Net(), ["blocks.0.conv"], "cannot be cut after blocks.0.conv, since more than its output is read"),
        (Skipping(), ["blocks.1"], "cannot be cut after blocks.1"),
        (nn.Linear(3, 2), None, "Linear cannot read inputs of shape"),
        (nn.Flatten(0), None, r"Flatten returns \(192,\); expected logits \(3, classes\)"),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), None, "no block is followed by enough"),
    ],
)
def test_networks_that_cannot_be_cut(module, names, message):
    with pytest.raises(ValueError, match=message) as refused:
        find_blocks(module, X, names)
    assert "\n" not in str(refused.value)


def test_a_text_classifier_in_layers_is_the_classifier():
    vocabulary = Vocabulary(30522, 0, 102, "minilm-l6", 32)
    torch.manual_seed(0)
    model = HuggingFace(classes=3, vocabulary=vocabulary, layers=3, width=12, heads=3)
    texts = torch.tensor([[101, 7, 8, 102, 0], [101, 9, 102, 11, 102]])  # (2, T): padded, and a pair
    network = check_encoder(EncoderNetwork(model), texts)
    assert network.places == ("layer 1", "layer 2")
    limited = network.limited(["layer 2"])
    pool = heads.pool_of([torch.zeros(2, 5, 12)])
    head = heads.Head(pool, torch.zeros(24), torch.ones(24), nn.Linear(24, 3))
    staged = limited.staged([0], [head])
    *_, last = staged.exits(texts)
    torch.testing.assert_close(last, model.stage(0, texts).logits, rtol=1e-4, atol=1e-5)
    early = EarlyExit(staged, make_policy("confidence"), np.inf, cost=[1, 2])
    torch.testing.assert_close(torch.from_numpy(early(texts).logits), last.detach())
    preparation = TextPreparation(tokenizer="minilm-l6", max_tokens=32, pad=0)
    assert np.shape(cost_coefficients(staged, preparation)) == (2, 3)


# Heads


@quick
@given(st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 2, 4]), st.booleans())
def test_cells_are_those_of_adaptive_pooling(height, width, grid, last):
    x = torch.randn(2, 3, height, width)
    pool = heads.ImagePool(height, width, grid, last)
    found = pool(x.permute(0, 2, 3, 1) if last else x)
    torch.testing.assert_close(found, nn.functional.adaptive_avg_pool2d(x, grid).flatten(1), rtol=1e-4, atol=1e-5)


def test_tokens_that_are_padding_do_not_count():
    x = torch.randn(2, 5, 3)
    kept = torch.tensor([[True] * 3 + [False] * 2] * 2)
    torch.testing.assert_close(heads.TokenPool()(x, kept), heads.TokenPool()(x[:, :3]))


def test_a_head_learns_without_labels_and_is_read_again(tmp_path, monkeypatch):
    random = np.random.default_rng(0)
    values = random.normal(size=(400, 6)).astype(np.float32)
    teacher = (3 * values[:, :3]).astype(np.float32)
    held = np.arange(400) % 4 == 0
    arguments = ([nn.Identity()], [values], teacher, None, held, tmp_path, "key")
    (head,) = heads.train_heads(*arguments, progress=False)
    answers = head(torch.from_numpy(values)).argmax(1).numpy()
    assert (answers == teacher.argmax(1))[held].mean() > 0.9
    with monkeypatch.context() as patch:
        patch.setattr(heads, "_train", None)
        (again,) = heads.train_heads(*arguments, progress=False)
    assert torch.equal(again(torch.from_numpy(values)), head(torch.from_numpy(values)))
    arguments = (*arguments[:-1], "another key")
    monkeypatch.setattr(heads, "STEPS", 1)
    (other,) = heads.train_heads(*arguments, progress=False)
    assert not torch.equal(other(torch.from_numpy(values)), head(torch.from_numpy(values)))


# Subsets of exits


def test_costs_of_a_subset_are_those_of_the_model_with_these_exits():
    network = find_blocks(net(), X)
    own = [nn.Sequential(nn.Flatten(), nn.Linear(8 * 64, 10)) for _ in network.places]
    macs = exit_costs(network.staged(range(4), own), (1, 8, 8)).macs
    record = ExitRecord.from_outputs(
        np.zeros((2, 5), int), np.ones((2, 5)), None, macs, metadata={"head_cost": [8 * 64 * 10] * 4 + [0]}
    )
    for size in range(5):
        for cuts in combinations(range(4), size):
            expected = exit_costs(network.staged(cuts, [own[i] for i in cuts]), (1, 8, 8)).macs
            np.testing.assert_array_equal(record.exits([*cuts, 4]).cost, expected)


@quick
@given(records(sample_costs=True), st.data())
def test_exits_of_a_record(record, data):
    places = sorted(data.draw(st.sets(st.integers(0, record.n_exits - 1), min_size=1)))
    chosen = record.exits(places)
    np.testing.assert_array_equal(chosen.prediction, record.prediction[:, places])
    np.testing.assert_array_equal(chosen.costs, record.costs[..., places])
    assert chosen.measures == record.measures
    for measure in record.measures:
        np.testing.assert_array_equal(chosen.measure(measure), record.measure(measure)[:, places])
    assert record.exits(range(record.n_exits)).prediction.tolist() == record.prediction.tolist()


@pytest.mark.parametrize("places", [[], [1, 0], [0, 0], [0, 3], [-1], [0.5], 1])
def test_exits_that_are_not_there(places):
    record = ExitRecord.from_outputs(np.zeros((2, 3), int), np.ones((2, 3)), [0, 0], [1, 2, 3])
    with pytest.raises(ValueError, match="expected ascending numbers from 0 to 2"):
        record.exits(places)


def test_exits_of_an_ensemble_are_refused():
    logits = np.random.default_rng(0).normal(size=(4, 1, 3))
    made = offramp.cascade([ExitRecord(logits, [0] * 4, [cost]) for cost in (1, 2)], "mean_logit")
    with pytest.raises(ValueError, match="the answers of an ensemble combine those of all exits"):
        made.exits([1])


def system(n=300, seed=0):
    """A record whose later exits agree more often with the last one, with heads that cost."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 4, n)
    logits = random.normal(size=(n, 5, 4)) + np.eye(4)[labels][:, None] * np.array([0.5, 1, 2, 3, 5])[:, None]
    about = {"head_cost": [1, 1, 0.5, 0.5, 0]}
    return ExitRecord(logits, labels, [3, 6, 9, 11, 14], metadata=about)


@pytest.mark.parametrize("risk", ["disagreement", "gap", "error"])
def test_the_chosen_exits_are_the_cheapest_of_all(risk):
    record, level = system(), 0.1
    policies = {"confidence": make_policy("confidence"), "margin": make_policy("confidence", score="margin")}
    choices = choose_exits(record, policies, risk, level, 3)
    assert choices.exact
    for size, choice in enumerate(choices.best, start=1):
        tried = []
        for exits in combinations(range(4), size):
            for policy in policies.values():
                own = record.exits([*exits, 4])
                result = certify(policy, own, risk, level, method="naive")
                for threshold in [np.inf] if result.threshold is None else result.valid:
                    tried.append(own.cost_of(first_exit(policy.signal(own), threshold)).mean())
        assert choice.cost == pytest.approx(min(tried))
        own = record.exits(choice.exits)
        left = first_exit(policies[choice.policy].signal(own), choice.threshold)
        assert own.cost_of(left).mean() == pytest.approx(choice.cost)
        assert choices.bound <= choice.cost


@quick
@given(st.integers(1, 6), st.integers(1, 4), st.sampled_from([0.0, 0.2, 0.5]), st.integers(0, 999))
def test_the_cheapest_threshold_of_each_subset(n, last, level, seed):
    random = np.random.default_rng(seed)
    signal = random.choice([-0.5, 0.0, 0.25, 1.0], (n, last))
    losses, costs = random.choice([-1.0, 0.0, 1.0], (n, last + 1)), random.integers(9, 20, (n, last + 1)) * 1.0
    subsets = np.hstack([random.random((5, last)) < 0.6, np.ones((5, 1), bool)])
    dropped = random.integers(0, 3, (5, last + 1)) * 1.0
    found = subset.cheapest_thresholds(*subset._descending(signal), subsets, losses, costs, dropped, level)
    for exits, less, point in zip(subsets, dropped, found):
        best = (np.inf, np.inf, np.inf)
        for threshold in [np.inf, *sorted(set(signal.ravel()), reverse=True)]:
            own = np.hstack([np.where(exits[:-1], signal, -np.inf), np.zeros((n, 1))])
            left = first_exit(own, threshold)
            risk, cost = losses[range(n), left].mean(), (costs - less)[range(n), left].mean()
            if risk > max(level, losses[:, -1].mean()) + 1e-9:
                break
            best = min(best, (cost, -threshold, risk))
        assert point == pytest.approx([-best[1], best[0], best[2]])


def test_greedy_is_between_the_bound_and_the_exact_choice(monkeypatch):
    record, policies = system(), {"confidence": make_policy("confidence")}
    exact = choose_exits(record, policies, "disagreement", 0.1, 3)
    monkeypatch.setattr(subset, "EXACT", 1)
    greedy = choose_exits(record, policies, "disagreement", 0.1, 3)
    assert not greedy.exact
    for one, other in zip(exact.best, greedy.best):
        assert greedy.bound <= one.cost <= other.cost


# Structures


def two_systems(n=120):
    """Records of a small model with one exit before its end and of the model itself with two, on the same samples."""
    random = np.random.default_rng(1)
    labels = random.integers(0, 4, n)

    def record(strength, cost, heads):
        logits = random.normal(size=(n, len(cost), 4)) + np.eye(4)[labels][:, None] * np.array(strength)[:, None]
        return ExitRecord(logits, labels, cost, np.arange(5, n + 5), {"head_cost": heads, "system": f"{cost[-1]}"})

    return [record([1, 3], [2, 4], [0.5, 0]), record([1, 3, 6], [8, 14, 20], [1, 1, 0])]


@pytest.mark.parametrize("risk", ["disagreement", "error"])
def test_the_chosen_structures_are_the_cheapest_of_their_kinds(risk):
    records, level = two_systems(), 0.15
    fitted = Fitted(records)
    found = choose_structures(records, fitted, risk, level, 2)
    full = records[1].exits([2]).cost[-1]
    cheapest = {}
    small, own = ([], [0]), ([], [0], [1], [0, 1])
    for first in (None, *small):
        for second in own:
            stages = [] if first is None else [records[0].exits([*first, 1])]
            made = [*stages, records[1].exits([*second, 2])]
            n_early = len(second) + len(first or ())
            if n_early > 2 or len(made) + n_early == 1:
                continue
            record = offramp.cascade(made) if stages else made[0]
            for policy in fit_families(record).values():
                signal, answers = policy.signal(record), record.prediction
                kind = "exits" if first is None else "both" if n_early else "cascade"
                for threshold in np.unique(signal[:, :-1])[::-1]:  # from the last exit on, until the first failure
                    left = first_exit(signal, threshold)
                    given = answers[np.arange(len(left)), left]
                    if (given != (answers[:, -1] if risk == "disagreement" else record.labels)).mean() > level:
                        break
                    cheapest[kind] = min(record.cost_of(left).mean(), cheapest.get(kind, np.inf))
    assert cheapest.keys() == {"exits", "cascade", "both"}
    for kind, cost in cheapest.items():
        best = found.of_kind(kind)[0]
        assert best.cost == pytest.approx(cost)
        record, policy = best.of(records), fitted.policy_of(best)
        assert record.n_exits == best.n_exits
        assert record.cost_of(first_exit(policy.signal(record), best.threshold)).mean() == pytest.approx(cost)
        assert found.bound <= cost < full


def test_heads_in_a_cascade_cost_what_they_cost_in_its_models():
    records = two_systems()
    whole = offramp.cascade(records)
    for first, second in (([1], [0, 2]), ([0, 1], [2]), ([0, 1], [1, 2])):
        parts = offramp.cascade([records[0].exits(first), records[1].exits(second)])
        chosen = whole.exits([*first, *(2 + i for i in second)])
        np.testing.assert_allclose(chosen.cost, parts.cost)
        assert chosen.metadata["head_cost"] == parts.metadata["head_cost"]


# Many draws


def recorded(n=900):
    """What `record-exits` writes for the two systems, and records of the larger one as if its exits were its own."""
    made = []
    for record in two_systems(n):
        for split, rows in (("validation", slice(200)), ("test", slice(200, None))):
            about = {**record.metadata, "seed": 0, "split": split}
            made.append(record[rows].replace(metadata={**about, "teacher": "20"}))
            if about["system"] == "20":
                made.append(record[rows].replace(metadata={**about, "system": "joint"}))
    return made


def test_promises_over_many_draws():
    records = recorded()
    table = evaluate_records(records[::-1], [0.3, 0.15], confidence=0.9, draws=4)
    assert set(table["kind"]) == {"exits", "cascade", "both", "best", "joint"}
    assert (table["n_population"] == 700).all()
    assert table.groupby(["system", "level", "kind"])["draw"].apply(list).map(lambda its: its == [0, 1, 2, 3]).all()
    easy, hard = (table[table["level"] == level].groupby("kind")["speedup"].mean() for level in (0.3, 0.15))
    assert (easy > hard - 1e-9).all()
    assert (table["estimate"] <= table["level"]).all()
    row = next(table[(table["kind"] == "joint") & (table["level"] == 0.3)].itertuples())
    (rest,) = (each for each in records if each.metadata["system"] == "joint" and len(each) == 700)
    assert 1 <= row.speedup <= rest.cost[-1] / rest.cost[0]
    assert round(row.risk * 700) == pytest.approx(row.risk * 700)


def test_promises_are_kept_as_often_as_certified():
    model = [each for each in recorded(3000) if each.metadata["system"] == "20"]
    table = evaluate_joint(*model, level=0.2, confidence=0.8, draws=300)
    broken = int((table["risk"] > 0.2).sum())
    assert broken > 0  # a threshold that is never broken would be too careful
    assert binomtest(broken, 300, 0.2, alternative="greater").pvalue > 0.001


def test_where_nothing_is_certified_the_model_runs_as_it_is():
    model = [each for each in recorded() if each.metadata["system"] == "20"]
    held, rest = (each.replace(logits=1e3 * np.eye(4)[each.prediction]) for each in model)  # all equally sure
    table = evaluate_joint(held, rest, level=0.05, draws=2)
    assert not table["certified"].any()
    assert (table["speedup"] == 1).all()
    assert (table["risk"] == 0).all()
    policy, cheap = make_policy("confidence"), model[1].cost[0] / 2  # a model that costs less than its first exit
    found = evaluating._certified(policy, model[1], model[1], cheap, "disagreement", 0.5, 0.9)
    assert (found["certified"], found["speedup"], found["risk"]) == (False, 1, 0)


def test_records_that_do_not_belong_together():
    small, small_test, model, joint, model_test, joint_test = recorded()
    dear = [each.replace(cost=each.costs * 9) for each in (small, small_test)]
    for parts, message in (
        ([small, joint, joint_test], "4, seed 0: expected a validation and a test record"),
        ([small, small_test], "20, seed 0: no record of the model itself"),
        ([*dear, model, model_test], "20: 4 is not cheaper; expected smaller models"),
        ([model[:100], model_test[:100]], "100 samples are too few; expected more than"),
        ([model.replace(metadata={"seed": 0, "split": "test"})], "a record has no system; expected what"),
    ):
        with pytest.raises(ValueError, match=message):
            evaluate_records(parts, [0.05], draws=1)
    with pytest.raises(ValueError, match=r"levels 0\.1, 2, confidence 0\.95; expected numbers between 0 and 1"):
        evaluate_records([model, model_test], [0.1, 2])


def test_the_table_and_the_figure_of_accelerations(tmp_path):
    kinds = {"exits": 2.0, "cascade": 3.0, "both": 4.0, "best": 4.0, "joint": 1.5}
    rows = [
        {"system": "minilm-6", "seed": 0, "draw": draw, "kind": kind, "level": level, "risk_name": "disagreement",
         "risk": level * (1.5 if draw == 3 else 0.5), "certified": True, "confidence": 0.95,
         "speedup": speedup + draw, "bound": 9.0, "models": "a + b", "exits": "1 + 2,3"}
        for level in (0.01, 0.02) for kind, speedup in kinds.items() for draw in range(4)
    ]  # fmt: skip
    write_table(pd.DataFrame(rows), tmp_path / "accelerations.parquet")
    TABLES["accelerations"].write([tmp_path / "accelerations.parquet"], tmp_path / "table")
    text = (tmp_path / "table.md").read_text()
    both = "cascade with exits (5.50×)"
    assert f"MiniLM 6: at 98 %, {both}; at 99 %, {both}. Promises are kept in 75 % of all draws" in text
    row = r"\| MiniLM 6 +\| +98 \| exits +\| +3\.50 \[2\.08, 4\.92\] \| +1\.50 \| +75 \[19, 99\]"
    assert re.search(row, text)
    assert "a + b (1 + 2,3)" in text
    FIGURES["accelerations"].write([tmp_path / "accelerations.parquet"], tmp_path / "figure")
    assert (tmp_path / "figure.png").stat().st_size > 10_000


# Parts of the data


@quick
@given(st.integers(700, 5000), st.sampled_from(["disagreement", "gap", "error"]), st.sampled_from([0.02, 0.05, 0.1]))
def test_parts_are_disjoint_and_enough(n, risk, level):
    parts = draw_parts(n, risk, level, 0.9, 0)
    together = np.concatenate([*vars(parts).values()])
    assert np.array_equal(np.sort(together), np.arange(n))
    assert len(parts.certificate) >= least_samples(risk, level, 0.9)
    assert len(parts.heads) >= 100


def test_what_can_be_certified():
    assert least_samples("disagreement", 0.01, 0.95) == 299  # as in docs/guarantees.md
    assert least_samples("gap", 0.05, 0.9) == 69
    assert certifiable("disagreement", 0.01, 0.95, 299) == 0
    record = ExitRecord.from_outputs(
        np.repeat([[0, 1], [1, 1]], [16, 2376], axis=0), np.ones((2392, 2)) * 0.5, None, [1, 2]
    )
    aim = certifiable("disagreement", 0.01, 0.95, 2392)
    for wrong, certified in ((round(aim * 2392), True), (round(aim * 2392) + 1, False)):
        own = record.replace(prediction=np.repeat([[0, 1], [1, 1]], [wrong, 2392 - wrong], axis=0))
        result = certify(make_policy("confidence"), own, "disagreement", 0.01, 0.95)
        assert (result.threshold != np.inf) == certified


# The data


def picture(path, size=(8, 8), mode="L"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, 100 if mode == "L" else (1, 2, 3)).save(path)


def test_images_in_class_folders(tmp_path):
    for name in ("cat/1.png", "cat/2.png", "ant/1.png"):
        picture(tmp_path / name)
    inputs, _ = read_data(tmp_path, None, labelled=True, progress=False)
    assert inputs.names == ["ant/1.png", "cat/1.png", "cat/2.png"]
    assert (inputs.labels.tolist(), inputs.classes) == ([0, 1, 1], ("ant", "cat"))
    assert inputs.preparation == ImagePreparation(shape=(1, 8, 8), divisor=255.0)
    assert inputs.batch(np.array([2, 0])).shape == (2, 1, 8, 8)
    picture(tmp_path / "3.png")
    with pytest.raises(ValueError, match=r"3\.png is in no class folder; this risk needs labels"):
        read_data(tmp_path, None, labelled=True, progress=False)


def test_unreadable_images_are_named_counted_and_skipped_if_asked(tmp_path):
    for name in "abcd":
        picture(tmp_path / f"{name}.png")
    (tmp_path / "b.png").write_bytes(b"no image")
    picture(tmp_path / "d.png", (9, 8))
    with pytest.raises(ValueError, match=r"2 of 4 images cannot be used, the first: .*b.png.*--skip-unreadable"):
        read_data(tmp_path, None, progress=False)
    with pytest.warns(UserWarning, match="2 of 4 images are left out, the first: .*b.png"):
        inputs, _ = read_data(tmp_path, None, skip_unreadable=True, progress=False)
    assert inputs.names == ["a.png", "c.png"]


class Drawn:
    """Samples of a dataset."""

    def __init__(self, index, x, lengths=None):
        self.index, self.x, self.lengths = np.array(index), torch.tensor(x), lengths

    def __len__(self):
        return len(self.index)

    def __getitem__(self, rows):
        return self.x[rows], None


def test_samples_of_a_dataset_become_inputs():
    parts = [
        Drawn([4, 2], [[7, 8, 0], [9, 8, 7]], np.array([2, 3])),
        Drawn([1], [[5, 0]], np.array([1])),
    ]
    inputs = inputs_of(parts, TextPreparation(tokenizer="a", max_tokens=9, pad=0))
    assert inputs.names == [4, 2, 1]
    assert inputs.lengths.tolist() == [2, 3, 1]
    assert inputs.batch(np.array([1, 2])).tolist() == [[9, 8, 7], [5, 0, 0]]
    assert inputs.batch(np.array([0, 2])).tolist() == [[7, 8], [5, 0]]
    images = [Drawn([0], [[[[0.5]]]]), Drawn([3], [[[[1.5]]]])]
    inputs = inputs_of(images, ImagePreparation(shape=(1, 1, 1), divisor=255.0))
    assert inputs.batch(np.array([1, 0])).flatten().tolist() == [1.5, 0.5]  # prepared already


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("timm:backbone=no_such_net", "timm cannot build 'no_such_net'"),
        ("timm:width=3", "unknown option 'width'"),
        ("nowhere.to:build", "'nowhere.to:build' cannot be imported"),
        ("json:nothing", "'json:nothing' cannot be imported"),
        ("json:loads,s=3", "json:loads failed"),
        ("json:JSONEncoder", "json:JSONEncoder returns a JSONEncoder; expected an nn.Module"),
        ("resnet18", "expected timm:…, huggingface:…, MODULE:FUNCTION"),
    ],
)
def test_models_that_cannot_be_loaded(model, message):
    with pytest.raises(ValueError, match=message):
        load_model(model)


# Candidates


def member(module, names=(), preparation=None, pixels=None):
    pixels = np.zeros((9, 1, 8, 8), np.uint8) if pixels is None else pixels
    inputs, _ = read_data(pixels, ImagePreparation(shape=(1, 8, 8), divisor=255.0), progress=False)
    return Member.of(Loaded(module, preparation, "model", names), inputs)


def candidate(names=(), preparation=None, **options):
    """What `load_model` returns for a candidate."""
    return Loaded(net(**options), preparation, "small", names)


@pytest.mark.parametrize(
    ("candidates", "message"),
    [
        ([candidate(classes=3)], "small has 3 classes, the model 4; expected the same classes"),
        ([candidate(("a", "c", "b", "d"))], "small has the class 'c' where the model has 'b'"),
        ([candidate(depth=6)], "small needs .* MACs, the model .*; expected cheaper models"),
        ([candidate(depth=5)], "small is the same as the model"),
        ([candidate(depth=2), candidate(depth=2)], "small-2 is the same as small"),
        ([candidate(preparation=TextPreparation(tokenizer="a", max_tokens=9, pad=0))], "small reads texts, the model"),
        ([candidate(preparation=ImagePreparation(shape=(1, 9, 9)))], r"small reads images \(1, 9, 9\), the data have"),
    ],
)
def test_candidates_that_are_refused(candidates, message, monkeypatch):
    for each in candidates:
        if each.module.fc.out_features == 10:
            each.module.fc = nn.Linear(8, 4)
            torch.nn.init.zeros_(each.module.fc.weight)
            torch.nn.init.zeros_(each.module.fc.bias)
    own = net(classes=4, depth=5)
    torch.nn.init.zeros_(own.fc.weight)
    torch.nn.init.zeros_(own.fc.bias)
    monkeypatch.setattr("offramp.acceleration.candidates.load_model", lambda each, _: each)
    pixels = np.zeros((9, 1, 8, 8), np.uint8)
    options = {"max_tokens": 9, "skip_unreadable": False, "progress": False}
    with pytest.raises(ValueError, match=message) as refused:
        open_candidates(candidates, member(own, ("a", "b", "c", "d")), pixels, **options)
    assert "\n" not in str(refused.value)


def test_one_answer_for_nearly_all_samples_is_a_warning():
    names = tuple("abcdefghij")
    own = member(net(), names)
    with pytest.warns(UserWarning, match="answers class b for 96.0% of the samples"):
        accelerating._warn_of_one_answer(np.repeat([1, 0], [24, 1]), own)
    with warnings.catch_warnings(action="error"):
        accelerating._warn_of_one_answer(np.repeat([1, 0], [23, 2]), own)


def test_a_front_stands_for_some_of_its_cheaper_members(tmp_path):
    rows = [f"m{i},224,{50 + i},{0.00001 * 2**i},100" for i in range(9)]
    (tmp_path / "zoo.csv").write_text("\n".join(["model,img_size,top1,gmacs,sps_rtx3090_nchw", *rows]) + "\n")
    model = member(net(depth=5))  # 0.0002 GMACs
    found = _expanded([f"front:{tmp_path / 'zoo.csv'}", "timm:backbone=a"], model)
    assert [each[1]["backbone"] for each in found[:-1]] == ["m0", "m1", "m2", "m3"]
    assert found[-1] == "timm:backbone=a"
    (tmp_path / "zoo.csv").write_text("model,img_size,top1,gmacs,sps_rtx3090_nchw\nm,224,70,4,100\n")
    with pytest.raises(ValueError, match=r"no model needs less than 0\.5 of the MACs"):
        _expanded([f"front:{tmp_path / 'zoo.csv'}"], model)


# The whole way


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A small network that was trained on some digits, and the other digits."""
    from sklearn.datasets import load_digits

    found = load_digits()
    x = torch.from_numpy(found.images[:, None] / 16).float()
    y = torch.from_numpy(found.target)
    model = net(width=8, depth=3)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    torch.manual_seed(0)
    for _ in range(6):
        for batch in torch.randperm(400).chunk(10):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()
    return model.eval(), x[400:].numpy(), y[400:].numpy()


def test_from_a_model_to_a_bundle(digits, tmp_path, monkeypatch):
    model, x, _ = digits
    monkeypatch.setattr(measuring, "SAMPLES", 4)
    options = {"level": 0.1, "confidence": 0.9, "out": tmp_path / "fast", "optimise": "macs", "most_exits": 2}
    result = offramp.accelerate(model, x, **options)
    assert result.macs < 0.9
    assert result.certificate.threshold == result.promise.threshold < np.inf
    assert result.promise.estimate <= 0.1
    assert result.promise.checked > 0
    assert json.loads((tmp_path / "fast" / "promise.json").read_text())["measured"] == result.promise.measured
    assert "Promise: answers differ from those of the model at most 10% of the time" in result.report.read_text()
    assert len(str(result).splitlines()) == 3
    shown = pd.read_parquet(tmp_path / "fast" / "data" / "points.parquet")
    assert result.promise.threshold in shown.loc[shown["policy"] == result.structure.policy, "threshold"].to_numpy()

    bundle, record = load(result.bundle), result.record
    answers = bundle(x[record.index])
    expected = first_exit(result.policy.signal(record), result.promise.threshold)
    near = np.abs(result.policy.signal(record) - result.promise.threshold).min(axis=1) < 1e-4  # rounding
    assert (answers.exit == expected)[~near].all()
    with torch.no_grad():
        own = model(torch.from_numpy(x[record.index])).argmax(1).numpy()
    assert np.array_equal(record.prediction[:, -1], own)
    assert (answers.prediction != own).mean() <= result.promise.estimate + near.mean()
    np.testing.assert_allclose(answers.cost, record.cost[answers.exit])

    # A run that was ended goes on from what it has: nothing of it is computed again
    monkeypatch.setattr(features, "_compute", None)
    monkeypatch.setattr(heads, "_train", None)
    monkeypatch.setattr(measuring.Running, "measure", lambda *_, **__: result.times)
    monkeypatch.setattr(measuring, "export_bundle", lambda folder, *_, **__: folder)
    monkeypatch.setattr(accelerating, "write_page", lambda *_: result.report)
    again = offramp.accelerate(model, x, **options)
    assert again.promise == result.promise


def linear(x, answers):
    """A candidate that is too small for exits."""
    from sklearn.linear_model import LogisticRegression

    fitted = LogisticRegression(C=0.1).fit(x.reshape(len(x), -1), answers)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with torch.no_grad():
        model[1].weight.copy_(torch.from_numpy(fitted.coef_))
        model[1].bias.copy_(torch.from_numpy(fitted.intercept_))
    return model


@pytest.mark.nightly
def test_a_cascade_of_a_candidate_and_the_model(digits, tmp_path, monkeypatch):
    model, x, y = digits
    monkeypatch.setattr(measuring, "SAMPLES", 4)
    monkeypatch.setattr(heads, "STEPS", 60)
    small, x = linear(x[-300:], y[-300:]), x[:-300]
    options = {"level": 0.1, "confidence": 0.9, "out": tmp_path / "fast", "optimise": "macs", "exits_at": ["blocks.1"]}
    result = offramp.accelerate(model, x, candidates=[small], **options)
    kind = result.structure.kind
    assert kind in ("cascade", "both")
    assert result.structure.models == (0, 1)
    assert set(result.kinds["kind"]) == {"exits", "cascade", "both"}
    assert result.kinds["macs"].is_monotonic_increasing
    assert result.memory.parameters >= result.memory.plain_parameters + 650
    said = json.loads((tmp_path / "fast" / "promise.json").read_text())
    assert said["models"][0] == {"model": "Sequential", "exits": [0]}
    assert said["kinds"][0]["kind"] == said["kind"] == kind
    assert "a cascade of Sequential, then Net" in result.lines[2]
    assert f"Memory: {result.memory.parameters:,} parameters" in result.lines[2]

    bundle, record = load(result.bundle), result.record
    answers = bundle(bundle.prepare(x[record.index]))
    signal, threshold = result.policy.signal(record), result.promise.threshold
    near = np.abs(signal - threshold).min(axis=1) < 1e-4  # rounding
    expected = first_exit(signal, threshold)
    assert (answers.exit == expected)[~near].all()
    assert np.array_equal(answers.prediction[~near], record.prediction[np.arange(len(record)), expected][~near])
    np.testing.assert_allclose(answers.cost, record.cost[answers.exit])

    monkeypatch.setattr(features, "_compute", None)  # a run that was ended goes on
    monkeypatch.setattr(heads, "_train", None)
    monkeypatch.setattr(measuring.Running, "measure", lambda *_, **__: result.times)
    monkeypatch.setattr(measuring, "export_bundle", lambda folder, *_, **__: folder)
    monkeypatch.setattr(accelerating, "write_page", lambda *_: result.report)
    assert offramp.accelerate(model, x, candidates=[small], **options).promise == result.promise


def test_a_model_that_cannot_be_made_faster_is_handed_over_as_it_is(digits, tmp_path, monkeypatch):
    model, x, y = digits
    monkeypatch.setattr(heads, "STEPS", 1)
    monkeypatch.setattr(subset, "cheapest_thresholds", lambda *_: np.array([[np.inf, 1e9, 0.0]]))
    result = offramp.accelerate(
        model, x, labels=y, risk="gap", level=0.2, confidence=0.9, out=tmp_path / "fast", exits_at=["blocks.0"]
    )
    assert result.macs == 1
    assert "Chosen: the model as it is, since no exits are cheaper" in str(result)
    with torch.no_grad():
        expected = model(torch.from_numpy(x[:9])).argmax(1).numpy()
    assert np.array_equal(load(result.bundle)(x[:9]).prediction, expected)


def test_a_threshold_that_saves_nothing_is_not_handed_over(digits, tmp_path, monkeypatch):
    model, x, _ = digits
    monkeypatch.setattr(heads, "STEPS", 1)

    def never(*args):
        return replace(certify(*args), threshold=2.0, cost=args[1].cost[-1])  # no max softmax is above 1

    monkeypatch.setattr(accelerating, "certify", never)
    result = offramp.accelerate(
        model, x, level=0.3, confidence=0.9, optimise="macs", out=tmp_path / "fast", exits_at=["blocks.0"]
    )
    assert (result.macs, result.promise.threshold) == (1, None)
    assert "since the best structure saves no MACs at the threshold that could be certified" in str(result)


def test_what_is_refused_before_anything_is_computed(digits, tmp_path):
    model, x, y = digits
    for options, message in (
        ({"level": 0.01}, "1397 samples are too few|at least"),
        ({"level": 1.5}, "expected numbers between 0 and 1"),
        ({"risk": "cost"}, "risk is 'cost'; expected one of"),
        ({"optimise": "energy"}, "expected seconds or macs"),
        ({"most_exits": 0}, "most_exits is 0"),
        ({"risk": "gap", "level": 0.1}, "no labels, which this risk needs"),
        ({"risk": "gap", "level": 0.1, "labels": y[:5]}, "labels: int64 .5,.; expected integers"),
    ):
        with pytest.raises(ValueError, match=message):
            offramp.accelerate(model, x[:10] if options == {"level": 0.01} else x, out=tmp_path / "fast", **options)
    (tmp_path / "fast" / "bundle").mkdir(parents=True)
    (tmp_path / "fast" / "bundle" / "mine.txt").write_text("")
    with pytest.raises(ValueError, match="exists and is not a bundle"):
        offramp.accelerate(model, x, out=tmp_path / "fast")
    for words in (["--agree", "0.9", "--drop", "0.1"], []):
        with pytest.raises(Exception, match="expected one of --agree, --drop and --error"):
            cli(["accelerate", "--model", "a:b", "--data", str(tmp_path), "--out", "o", *words], standalone_mode=False)


def test_a_full_disk_leaves_whole_chunks(digits, tmp_path, monkeypatch):
    model, x, _ = digits
    written = features.save_arrays

    def full(path, *arguments):
        if "00001" in str(path):
            raise OSError(f"{path}: not written (No space left on device); make room and run again")
        return written(path, *arguments)

    monkeypatch.setattr(features, "save_arrays", full)
    with pytest.raises(OSError, match="make room and run again"):
        offramp.accelerate(model, x, level=0.1, confidence=0.9, out=tmp_path / "fast")
    there = sorted(path.name for path in (tmp_path / "fast" / "cache").iterdir())
    assert there == ["features-00000.safetensors"]
    assert not (tmp_path / "fast" / "bundle").exists()
