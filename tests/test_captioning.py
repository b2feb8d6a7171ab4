"""Captioning: data, generation with exits against slow versions and transformers, records, choices, and training."""

import json
import shutil
from collections import Counter
from io import BytesIO
from itertools import count
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from scipy.stats import binom

from offramp.captioning import certified_threshold, sweep, thresholds_of
from offramp.comparison.captions import FULL
from offramp.datasets import load_captions
from offramp.datasets.captions import CaptionDataset, Pieces, Words, following, plain
from offramp.datasets.preparing import ImagePreparation
from offramp.datasets.pretrained import build_timm
from offramp.datasets.scenes import CELLS, NOUNS, OPPOSITE, SPLITS, load_scenes
from offramp.evaluation.captions import METRICS, caption_quality, read_layers
from offramp.models import captioner
from offramp.models.captioner import Captioner
from offramp.policies import make_policy
from offramp.records import ExitOutputs
from offramp.runtime.generation import Captions, Generation
from offramp.tokens import load_captioner, token_costs, token_record
from offramp.training import captioning as training
from offramp.training.captioning import train_captioner
from offramp.training.options import TrainingOptions

WORDS = Words(("a", "b", "c", "d"), max_tokens=9)
SHAPE = (1, 8, 8)
FILLS = ("copy", "recompute")
# All policies that need no whole record
POLICIES = (
    *("confidence", "confidence:score=margin", "confidence:score=entropy", "normalized-entropy", "pcee", "pcee-ws"),
    *("patience", "beem-c", "beem-a", "ztw", "hidden-similarity"),
)


class Noise(CaptionDataset):
    """Random images and captions."""

    def pixels(self, split, index):
        return np.stack([np.random.default_rng(int(i)).integers(0, 256, SHAPE, np.uint8) for i in index])


@pytest.fixture(scope="module")
def dataset():
    rng = np.random.default_rng(0)
    sentences = [tuple(" ".join(rng.choice(WORDS.known, rng.integers(1, 8))) for _ in range(2)) for _ in range(40)]
    return Noise(
        name="noise",
        preparation=ImagePreparation(shape=SHAPE, mean=(127.5,), std=(60.0,)),
        vocabulary=WORDS,
        references=dict.fromkeys(SPLITS, sentences),
    )


def make_model(shared=False, **options):
    torch.manual_seed(0)
    small = {"patch_size": 4, "encoder_layers": 1, "encoder_width": 16, "encoder_heads": 2}
    decoder = {"layers": 4, "width": 12, "heads": 3} | options
    return Captioner(image_shape=SHAPE, vocabulary=WORDS, shared=shared, **small, **decoder).eval()


@pytest.fixture(scope="module")
def model():
    """A model with large random weights, so that captions differ, and so do the exits at which their tokens leave."""
    made = make_model()
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in [*made.decoder.parameters(), *made.exits, *made.bridge.parameters()]:
            if parameter.ndim > 1:
                parameter.copy_(0.8 * torch.randn_like(parameter))
    return made


@pytest.fixture(scope="module")
def images(dataset):
    return dataset.images("test", np.arange(16))


@pytest.fixture(scope="module")
def record(model, dataset):
    return token_record(model, dataset, "validation")


@pytest.fixture(scope="module")
def policies(record):
    fitted = {}
    for spec in POLICIES:
        name, _, option = spec.partition(":")
        fitted[spec] = make_policy(name, **dict([option.split("=")] if option else [])).fit(record)
    return fitted


def equal(a, b):
    return len(a) == len(b) and all(np.array_equal(x, y) for x, y in zip(a, b))


# ----- generation


@pytest.mark.parametrize("fill", FILLS)
def test_the_full_model_writes_what_generate_of_transformers_writes(model, images, policies, fill):
    expected = model.reference(images)
    lengths = Counter(map(len, expected))
    assert len(lengths) > 2  # captions end at different lengths
    for name in ("confidence", "beem-a"):
        written = Generation(model, policies[name], np.inf, fill=fill)(images)
        assert equal(written.tokens, expected)
        assert all((exits == model.n_exits - 1).all() for exits in written.exits)


@torch.inference_mode()
def slow_caption(model, image, policy, threshold, fill):
    """Tokens and exits of one caption, from the states of all tokens so far, which are computed again and again."""
    memory, tokens, exits = model.encode(image[None]), [WORDS.bos], []
    given = torch.zeros(model.n_exits + 1, WORDS.max_tokens, model.width)  # "copy": what each layer reads of each token
    while len(exits) < WORDS.max_tokens and (len(tokens) == 1 or tokens[-1] != WORDS.eos):
        t = len(exits)
        states = [state[0, -1] for state in model.states(memory, torch.tensor([tokens]))]
        given[0, t] = states[0]
        stream = policy.start(1, model.n_exits)
        for i in range(model.n_exits):
            if fill == "copy":
                block = model.decoder.transformer.h[i]
                given[i + 1, t] = block(given[None, i, : t + 1], encoder_hidden_states=memory)[0, -1]
                states[i], states[i + 1] = given[i, t], given[i + 1, t]
            logits = model.head(i, states[i + 1])[None].numpy()
            similarity = torch.cosine_similarity(states[i], states[i + 1], dim=0)[None].numpy()
            signal = stream.step(ExitOutputs.of(logits, similarity))
            if signal[0] >= threshold or i + 1 == model.n_exits:
                break
        given[i + 2 :, t] = states[i + 1]  # carried up
        tokens.append(int(stream.prediction[0]))
        exits.append(i)
    return tokens[1:], exits


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("spec", POLICIES)
def test_captions_are_those_of_a_slow_version(model, images, record, policies, spec, fill):
    policy = policies[spec]
    values = np.unique(policy.signal(record)[:, :-1])
    threshold = values[int(0.6 * len(values)) - 1 :][:2].mean()  # between two of them, so that rounding does not matter
    written = Generation(model, policy, threshold, fill=fill)(images)
    assert len(set(np.concatenate(written.exits))) > 1  # otherwise, this would show little
    places = np.argsort([len(tokens) for tokens in written.tokens])[[1, -2, -1]]
    slow = [slow_caption(model, images[place], policy, threshold, fill) for place in places]
    assert equal([written.tokens[place] for place in places], [tokens for tokens, _ in slow])
    assert equal([written.exits[place] for place in places], [exits for _, exits in slow])


@pytest.mark.parametrize("fill", FILLS)
def test_captions_do_not_depend_on_the_batch(model, images, policies, fill):
    generation = Generation(model, policies["confidence"], 0.5, fill=fill)
    together, alone = generation(images), Captions.joined([generation(image) for image in images.split(1)])
    assert equal(together.tokens, alone.tokens)
    assert equal(together.exits, alone.exits)
    assert np.allclose(together.cost, alone.cost, rtol=1e-12)


def test_the_cost_of_a_caption_is_that_of_its_parts(model, images, policies):
    costs, width, places = model.costs, model.width, images[0].numel() // 16 + 1  # S: patches and the class token
    assert costs.head.tolist() == [width * WORDS.size] * 4
    assert costs.memory.tolist() == [places * width * 2 * width] * 4
    assert costs.keys.tolist() == [2 * width * width] * 4
    assert costs.attention.tolist() == [2 * width] * 4
    # queries, output of the attention, the same of the cross-attention, its two products, and the two layers of the MLP
    assert costs.token.tolist() == [4 * width**2 + 2 * places * width + 8 * width**2] * 4
    totals = token_costs(model)  # (T, L)
    for fill in FILLS:
        for threshold, exit_ in ((np.inf, 3), (-np.inf, 0)):
            written = Generation(model, policies["confidence"], threshold, fill=fill)(images)
            for tokens, cost in zip(written.tokens, written.cost):
                once = costs.encoder + costs.memory[: exit_ + 1].sum()
                assert cost == pytest.approx(once + totals[: len(tokens), exit_].sum(), rel=1e-12)


def test_what_is_filled_in_is_paid_when_it_is_needed(model, images, monkeypatch):
    """The first three tokens leave at the first exit, and the fourth goes to the end."""
    policy = make_policy("confidence")
    for fill in FILLS:
        generation = Generation(model, policy, 0.0, fill=fill)
        monkeypatch.setattr(generation, "threshold_at", lambda t: np.asarray(-np.inf if t < 3 else np.inf))
        written = generation(images)
        long = next(i for i, exits in enumerate(written.exits) if len(exits) >= 4)
        exits, costs = written.exits[long], model.costs
        assert exits[:4].tolist() == [0, 0, 0, 3]
        paid = costs.encoder + costs.memory.sum() + token_costs(model)[:3, 0].sum()
        paid += costs.head.sum() + costs.layer(0, 1, 1, 4)
        for i in range(1, 4):
            paid += costs.layer(i, 4, 1, 4) if fill == "copy" else costs.layer(i, 4, 4, 1 + 2 + 3 + 4)
        assert written.cost[long] == pytest.approx(paid + token_costs(model)[4 : len(exits), 3].sum(), rel=1e-12)


def test_the_threshold_of_calm_decays_with_the_position(model, images):
    generation = Generation(model, make_policy("confidence"), 0.5, decay=True)
    assert generation.threshold_at(0) == pytest.approx(0.45 + 0.1)
    assert generation.threshold_at(9) == pytest.approx(0.45 + 0.1 * np.exp(-4))
    assert Generation(model, make_policy("confidence"), 1.0, decay=True).threshold_at(0) == 1
    ends = Generation(model, make_policy("confidence"), [-np.inf, 0.5, np.inf], decay=True).threshold_at(0)
    assert ends.tolist() == [-np.inf, pytest.approx(0.55), np.inf]
    written = generation(images)
    assert equal(written.tokens, Generation(model, make_policy("confidence"), 0.5, decay=True)(images).tokens)


def test_what_generation_refuses(model, images, policies):
    with pytest.raises(ValueError, match="fill is 'project'; expected 'copy' or 'recompute'"):
        Generation(model, policies["confidence"], 0.5, fill="project")
    with pytest.raises(ValueError, match="expected a number or 3 of them"):
        Generation(model, policies["confidence"], [0.5, 0.5])
    with pytest.raises(ValueError, match="pcee learns from data"):
        Generation(model, make_policy("pcee"), 0.5)
    with pytest.raises(ValueError, match="at least one image"):
        Generation(model, policies["confidence"], 0.5)(images[:0])


def test_a_beam_search_is_at_least_as_probable(model, images):
    def log_probability(ids, image):
        tokens = torch.tensor([[WORDS.bos, *ids]])
        logits = model(image[None], tokens[:, :-1])[0, :, -1]  # (T, V)
        return logits.log_softmax(1).gather(1, tokens[0, 1:, None]).sum().item() / len(ids)

    with torch.inference_mode():
        greedy, wide = (
            np.mean([log_probability(ids, image) for ids, image in zip(model.reference(images, beams=n), images)])
            for n in (1, 3)
        )
    assert wide >= greedy


def test_exits_that_share_the_projection(images):
    model = make_model(shared=True)
    assert len(list(model.projections)) == 0
    written = Generation(model, make_policy("confidence"), np.inf)(images)
    assert equal(written.tokens, model.reference(images))


@pytest.mark.parametrize(("backbone", "width"), [("test_resnet", 96), ("swin_tiny_patch4_window7_224", 12)])
def test_the_states_of_any_encoder_are_a_memory(backbone, width):
    shape = (3, 64, 64)
    model = Captioner(image_shape=shape, vocabulary=WORDS, backbone=backbone, layers=1, width=width, heads=3).eval()
    with torch.inference_mode():
        memory = model.encode(torch.zeros(2, *shape))
        assert memory.shape == (2, 4, width)  # 1/32 of the size
        model(torch.zeros(2, *shape), torch.ones(2, 1, dtype=torch.long))  # also if the widths are equal


# ----- records, sweeps and choices


def test_a_record_of_tokens(model, dataset, record):
    ids = WORDS.encode([captions[0] for captions in dataset.references["validation"]])
    tokens, labels, there = following(ids, WORDS.eos)
    assert record.labels.tolist() == labels[there].tolist()
    assert record.n_samples == sum(len(captions[0].split()) + 1 for captions in dataset.references["validation"])
    with torch.inference_mode():
        logits = model(dataset.images("validation", np.arange(40)), torch.from_numpy(tokens))  # (N, T, L, V)
    assert np.allclose(record.logits, logits[torch.from_numpy(there)], atol=1e-5)
    position = record.index % WORDS.max_tokens
    assert np.array_equal(record.sample_cost, token_costs(model)[position])
    assert record.metadata["unit"] == "MAC"
    without = token_record(model, dataset, "validation", n=5, logits=False)
    assert not without.has_logits
    assert np.array_equal(without.prediction, record.prediction[: len(without)])


def test_in_a_record_of_written_captions_the_full_model_is_right(model, dataset, images):
    record = token_record(model, dataset, "test", "generated", n=16)
    written = Generation(model, make_policy("confidence"), np.inf)(images)
    assert record.labels.tolist() == np.concatenate(written.tokens).tolist()
    assert record.correct[:, -1].all()


def test_thresholds_spread_the_cost(record, policies):
    for spec in ("confidence", "beem-a"):
        chosen = thresholds_of(policies[spec], record, 5)
        costs = [record.cost_of(policies[spec].exits(record, threshold)).mean() for threshold in chosen]
        assert costs == sorted(costs)
        assert len(chosen) >= 4


def test_a_threshold_is_certified_as_by_hand():
    """Learn then Test from the highest threshold on, with exact binomial p-values."""
    losses = np.zeros((200, 4))
    for column, wrong in enumerate((90, 1, 40, 2)):  # the second one is good, but comes after one that fails
        losses[:wrong, column] = 1
    thresholds = [0.1, 0.2, 0.5, 0.9]
    p_values = [binom.cdf(wrong, 200, 0.05) for wrong in (90, 1, 40, 2)]
    assert p_values[3] < 0.1 < p_values[2]
    assert certified_threshold(losses, thresholds, 0.05) == (0.9, 0.01)
    assert certified_threshold(losses[:, :3], thresholds[:3], 0.05) == (np.inf, 0)
    assert certified_threshold(losses, thresholds, 0.9) == (0.1, 0.45)
    half = 0.5 * losses  # not only 0 and 1
    assert certified_threshold(half, thresholds, 0.05) == (0.9, 0.005)
    with pytest.raises(ValueError, match=r"thresholds are 0.5, 0.2; expected them to ascend"):
        certified_threshold(losses[:, :2], [0.5, 0.2], 0.05)


def test_a_sweep_adds_the_full_model_and_counts_layers(model, dataset, policies):
    pytest.importorskip("pycocoevalcap")
    settings = [("a", policies["confidence"], 0.4, fill) for fill in FILLS]
    points, captions = sweep(model, dataset, "test", settings, n=16, progress=False)
    assert points["policy"].tolist() == [FULL, "a", "a"]
    for row in points.itertuples():
        its = captions[(captions["policy"] == row.policy) & (captions["fill"] == row.fill)]
        layers = np.concatenate([np.array(text.split(), int) for text in its["exits"]])
        assert (its["tokens"].sum(), its["layers"].sum()) == (len(layers), layers.sum())
        assert row.layers == pytest.approx(layers.mean())
        assert row.CIDEr == pytest.approx(its["CIDEr"].mean())
    assert points["layers"].iloc[0] == 4
    assert (points["layer_speedup"].iloc[1:] > 1).all()


def test_the_quality_of_captions():
    pytest.importorskip("pycocoevalcap")
    captions = ["a dog on a mat", "two cats"]
    references = [["a dog on a mat", "the dog is on the mat"], ["two cats sleep", "a pair of cats"]]
    whole, each = caption_quality(captions, references)
    short = np.exp(1 - 3 / 2)  # the closest reference has three words
    assert each["BLEU-1"] == pytest.approx([1, short], abs=1e-6)
    assert whole["BLEU-1"] == pytest.approx(np.exp(1 - 8 / 7), abs=1e-6)
    recall, weight = 2 / 3, 1.2**2
    assert each["ROUGE-L"] == pytest.approx([1, (1 + weight) * recall / (recall + weight)])
    assert whole["CIDEr"] == pytest.approx(each["CIDEr"].mean())
    assert each["CIDEr"][0] > 5  # the caption is one of two references
    with pytest.raises(ValueError, match="1 captions and 2 images; expected as many"):
        caption_quality(["a"], references)
    with pytest.raises(ValueError, match="image 1 has no reference caption"):
        caption_quality(captions, [references[0], []])


@pytest.mark.parametrize("meteor", [False, pytest.param(True, marks=pytest.mark.nightly)])
def test_the_quality_of_captions_is_that_of_the_public_evaluation(meteor):
    """The file has sentences as people write them, and what the evaluation of COCO says, with its own tokenizer."""
    pytest.importorskip("pycocoevalcap")
    if meteor and shutil.which("java") is None:
        pytest.skip("METEOR is a Java program")
    official = json.loads(Path(__file__).with_name("coco_scores.json").read_text())
    references = [[plain(text) for text in those] for those in official["references"]]
    whole, each = caption_quality([plain(text) for text in official["captions"]], references, meteor=meteor)
    names = [name for name in official["scores"] if meteor or name != "METEOR"]
    assert {name: whole[name] for name in names} == pytest.approx({name: official["scores"][name] for name in names})
    for name in names:
        assert each[name] == pytest.approx([image[name] for image in official["per_image"]])


# ----- training


def test_the_backbone_is_trained_first_and_then_frozen(dataset, tmp_path):
    model = make_model()
    options = TrainingOptions(epochs=2, batch_size=20, optimizer="adamw", learning_rate=0.01, schedule="linear")
    of_exits = {id(parameter) for parameter in model.exits}

    def weights(exits):
        return [p.detach().clone() for p in model.parameters() if (id(p) in of_exits) == exits]

    def train(exit_epochs, epochs):
        options_ = TrainingOptions(**{**options.stored_options(), "epochs": epochs})
        files = {"out": tmp_path / "weights", "history": tmp_path / "history"}
        return train_captioner(model, dataset, options_, exit_epochs=exit_epochs, seed=0, progress=False, **files)

    before = weights(False)
    history = train(0, 2)
    assert history["train_loss"].iloc[1] < history["train_loss"].iloc[0]
    assert not all(torch.equal(a, b) for a, b in zip(before, weights(False)))
    assert torch.equal(model.projections[0].weight, model.decoder.lm_head.weight)  # they start from the last exit
    frozen, start = weights(False), weights(True)
    history = train(2, 0)
    assert all(torch.equal(a, b) for a, b in zip(frozen, weights(False)))
    assert not all(torch.equal(a, b) for a, b in zip(start, weights(True)))
    assert history["stage"].tolist() == ["exits"] * 2
    assert history["validation_loss"].iloc[-1] < history["validation_loss"].iloc[0]
    assert history.filter(like="accuracy").notna().all(axis=None)


@pytest.mark.parametrize("stop", [1, 3])  # epochs after which the training is interrupted: in either stage
def test_an_interrupted_training_goes_on(dataset, tmp_path, monkeypatch, stop):
    options = TrainingOptions(epochs=2, batch_size=20, optimizer="adamw", learning_rate=0.01, schedule="linear")

    def train(name):
        files = {"out": tmp_path / name, "history": tmp_path / f"{name}.csv"}
        train_captioner(make_model(), dataset, options, exit_epochs=2, seed=0, progress=False, **files)

    def interrupted(*arguments):
        save_checkpoint(*arguments)
        if next(epochs) == stop:
            raise KeyboardInterrupt

    train("whole")
    save_checkpoint, epochs = training.save_checkpoint, count(1)
    with monkeypatch.context() as patch:
        patch.setattr(training, "save_checkpoint", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train("stopped")
    monkeypatch.setattr(training, "save_checkpoint", lambda *arguments: next(left) and save_checkpoint(*arguments))
    left = iter([True] * (4 - stop))  # more epochs than were missing would raise StopIteration
    train("stopped")
    assert (tmp_path / "stopped").read_bytes() == (tmp_path / "whole").read_bytes()
    before, after = (pd.read_csv(tmp_path / f"{name}.csv").drop(columns="seconds") for name in ("whole", "stopped"))
    pd.testing.assert_frame_equal(before, after)
    assert {path.name for path in tmp_path.iterdir()} == {"whole", "whole.csv", "stopped", "stopped.csv"}


# ----- data


def test_a_scene_depends_on_its_seed_split_and_place_only():
    scenes, others = load_scenes(train=5, validation=5, test=5), load_scenes(train=900, validation=5, test=5)
    for split in SPLITS:
        index = np.array([4, 1])
        assert np.array_equal(scenes.pixels(split, index), others.pixels(split, index[::-1])[::-1])
        assert scenes.references[split][4] == others.references[split][4]
    assert scenes.references["test"][0] != scenes.references["validation"][0]
    assert scenes.references["test"][0] != load_scenes(test=1, seed=1).references["test"][0]
    with pytest.raises(IndexError):
        scenes.references["train"][5]


def test_captions_are_true_of_their_scene():
    scenes = load_scenes(train=40)
    items = {split: set() for split in SPLITS}
    for i in range(40):
        scene = scenes.scene("train", i)
        (first, second), sides = scene.groups, (CELLS[scene.relation], CELLS[OPPOSITE[scene.relation]])
        assert first[0] != second[0]
        for item in scene.items:
            cell = 2 * ((item.top + item.size / 2) // 16) + (item.left + item.size / 2) // 16
            assert cell in sides[item.kind == second[0]]
        assert Counter(item.kind for item in scene.items) == dict(scene.groups)
        for caption in scenes.references["train"][i]:
            for kind, number in scene.groups:
                assert any(name[number - 1] in caption.split() for name in NOUNS["digits"][kind]), (caption, scene)
            assert 3 not in scenes.vocabulary.encode([caption])  # no word is unknown
        for split in SPLITS:
            items[split] |= {item.source for item in scenes.scene(split, i).items}
    assert items["train"].isdisjoint(items["test"] | items["validation"])
    assert items["test"].isdisjoint(items["validation"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"items": "cats"}, "items='cats', expected digits or fashion_mnist"),
        ({"test": 0}, "test=0, expected a whole number from 1"),
        ({"size": 3}, "unknown option 'size'"),
    ],
)
def test_scenes_that_cannot_be_made(options, message):
    with pytest.raises(ValueError, match=message):
        load_captions("scenes", **options)


def test_words():
    words = Words.of(["A dog, and a DOG.", "a cat's toy"], max_tokens=4, least=2)
    assert words.known == ("a", "dog")
    ids = words.encode(["A dog!", "a blue dog on a mat"])
    assert ids.tolist() == [[1, 4, 5, 2, 0], [1, 4, 3, 5, 2]]
    assert [words.decode(row[1:]) for row in ids] == ["a dog", "a <unk> dog"]
    tokens, labels, there = following(ids, words.eos)
    assert (labels[0][there[0]].tolist(), tokens[0].tolist()) == ([4, 5, 2], [1, 4, 5, 2])
    assert following(np.array([[2, 4, 2, 2]]), 2)[2].tolist() == [[True, True, False]]  # one token for both ends


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    """A folder with a GPT-2 of the usual format and its tokenizer, both tiny."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    folder, end = tmp_path_factory.mktemp("gpt2"), "<|endoftext|>"
    pieces = ByteLevelBPETokenizer()
    pieces.train_from_iterator(["a dog on a mat", "two dogs"], vocab_size=270, special_tokens=[end])
    PreTrainedTokenizerFast(tokenizer_object=pieces._tokenizer, bos_token=end, eos_token=end).save_pretrained(folder)
    torch.manual_seed(0)
    size = {"n_layer": 3, "n_embd": 12, "n_head": 3, "n_positions": 32}
    special = dict.fromkeys(("bos_token_id", "eos_token_id"), pieces.token_to_id(end))
    GPT2LMHeadModel(GPT2Config(vocab_size=pieces.get_vocab_size(), **size, **special)).save_pretrained(folder)
    return str(folder)


def test_the_tokens_of_a_pretrained_decoder(gpt2):
    pieces = Pieces(gpt2, max_tokens=30)
    assert pieces.bos == pieces.eos == pieces.pad
    ids = pieces.encode(["A dog, on a mat!", "two cats", ""])
    assert [pieces.decode(row[1:]) for row in ids] == ["a dog on a mat", "two cats", ""]
    words = pieces.words(ids[1][1:])
    assert [word for word, _ in words] == ["two", "cats"]
    assert words[1][1] > 1  # not in the texts of which the pieces were made
    _, labels, there = following(ids, pieces.eos)
    assert sum(n for _, n in words) == there[1].sum() - 1 == (labels[1] != pieces.eos).sum()
    assert pieces.encode(["a dog " * 19]).shape == (1, 31)
    one, spaces, dog = pieces.ids("a"), pieces._encoder("  ")["input_ids"], pieces.ids("dog")
    assert pieces.words([*one, *spaces, *dog]) == [("a", len(one)), ("dog", len(spaces) + len(dog))]
    assert pieces.words([*one, *spaces]) == [("a", len(one) + len(spaces))]
    assert pieces.words(spaces) == [("?", len(spaces))]


def test_a_captioner_with_a_pretrained_decoder(gpt2, tmp_path, monkeypatch):
    root = tmp_path / "coco"
    root.mkdir()
    coco(root)
    options = {"root": str(root), "size": 28, "tokenizer": gpt2}
    dataset = load_captions("coco", **options)
    no_weights = {"pretrained": False}  # those of the encoder are elsewhere
    monkeypatch.setattr(captioner, "build_timm", lambda *names, **given: build_timm(*names, **given | no_weights))
    shape = {"image_shape": (3, 28, 28), "vocabulary": dataset.vocabulary}
    chosen = {"backbone": "test_vit", "patch_size": 14, "decoder": gpt2, "shared": True}
    model = Captioner(**shape, **chosen, pretrained=True)
    stored = load_file(f"{gpt2}/model.safetensors")
    for name in ("wte.weight", "h.2.mlp.c_fc.weight"):
        own = model.decoder.transformer.get_parameter(name)
        assert torch.equal(own, stored.get(name, stored.get(f"transformer.{name}")))
    made = {"model": "captioner", "model_options": {**chosen, "pretrained": True}}
    made |= {"dataset": "coco", "dataset_options": options}
    steps = TrainingOptions(epochs=1, batch_size=2, optimizer="adamw", learning_rate=1e-3, schedule="linear")
    files = {"out": tmp_path / "weights.safetensors", "history": tmp_path / "history.csv"}
    train_captioner(model, dataset, steps, exit_epochs=1, seed=0, parameters=made, threads=1, label="", **files)
    loaded, dataset, _ = load_captioner(files["out"])
    images = dataset.images("test", np.arange(1))
    full = Generation(loaded.eval(), make_policy("confidence"), np.inf)(images)
    assert equal(full.tokens, loaded.reference(images))
    _, captions = sweep(loaded, dataset, "test", [("confidence", make_policy("confidence"), 0.004, "recompute")])
    for caption in captions.itertuples():
        layers = read_layers(caption.exits)
        assert len(caption.caption.split()) <= len(layers) <= len(caption.caption.split()) + 1
        assert sum(map(len, layers)) == caption.tokens
        assert sum(map(sum, layers)) == caption.layers
    with pytest.raises(ValueError, match=r"expected those of the captions, 5 and at least 21 \(for coco, tokenizer="):
        Captioner(**shape | {"vocabulary": Words(("a",), 20)}, **chosen)


def coco(root, split="train", **changes):
    """Write a small COCO with the real formats, with these changes in it, and load it."""
    names = ["COCO_val2014_000000000001.jpg", "COCO_val2014_000000000002.jpg", "COCO_val2014_000000000003.jpg"]
    for folder in ("val2014", "train2014"):
        (root / folder).mkdir()
        for i, name in enumerate(names):
            Image.new("RGB", (40, 30), (90 * i, 0, 0)).save(root / folder / name)
    images = [
        {
            "filepath": "val2014",
            "sentids": [2 * i],
            "filename": name,
            "imgid": i,
            "split": split,
            "cocoid": i + 1,
            "sentences": [{"tokens": ["a", "dog"], "raw": f"A dog {i}.", "imgid": i, "sentid": 2 * i}] * 2,
        }
        for i, (name, split) in enumerate(zip(names, ("restval", "val", "test")))
    ]
    images[0] |= changes.pop("image", {})
    (root / "dataset_coco.json").write_text(json.dumps({"images": images, "dataset": "coco"}))
    (root / "annotations").mkdir()
    for part in ("train2014", "val2014"):
        content = {
            "info": {"year": 2014},
            "licenses": [],
            "images": [{"id": i + 7, "file_name": name, "width": 40, "height": 30} for i, name in enumerate(names)],
            "annotations": [{"image_id": i + 7, "id": i, "caption": f"{part} {i}"} for i in (2, 0, 1)],
        }
        (root / "annotations" / f"captions_{part}.json").write_text(json.dumps(content | changes.get(part, {})))
    return lambda **options: load_captions("coco", root=str(root), size=28, least=1, **options)


def test_coco_in_its_real_formats(tmp_path):
    load = coco(tmp_path)
    karpathy = load()
    assert {split: list(those) for split, those in karpathy.references.items()} == {
        "train": [("A dog 0.", "A dog 0.")],
        "validation": [("A dog 1.", "A dog 1.")],
        "test": [("A dog 2.", "A dog 2.")],
    }
    assert karpathy.vocabulary.known == ("0", "a", "dog")  # of the training captions
    pixels = karpathy.pixels("test", np.array([0]))
    assert pixels.shape == (1, 3, 28, 28)
    assert abs(int(pixels[0, 0].mean()) - 180) < 3
    official = load(annotations="2014")
    assert official.references["train"] == [("train2014 0",), ("train2014 1",), ("train2014 2",)]
    assert official.references["validation"] == [("val2014 0",), ("val2014 2",)]
    assert official.references["test"] == [("val2014 1",)]


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"image": {"split": "dev"}}, {}, "image 1 has the split 'dev'; expected one of train, restval, val, test"),
        ({"image": {"sentences": []}}, {}, "image 1, COCO_val2014_000000000001.jpg, has no sentences"),
        ({"image": {"sentences": [{}]}}, {}, "image 1, a sentence: expected 'raw', a str"),
        ({"image": {"filename": "x.jpg"}}, {}, "val2014/x.jpg: no such image, but it has captions"),
        ({"image": {"split": "val"}}, {}, "no train images"),
        (
            {"train2014": {"annotations": [{"image_id": 1, "caption": "a"}]}},
            {"annotations": "2014"},
            "for image 1, which",
        ),
        ({"train2014": {"annotations": []}}, {"annotations": "2014"}, "image 7, COCO.*, has no caption"),
        ({"train2014": {"images": None}}, {"annotations": "2014"}, "expected 'images', a list"),
        (
            {},
            {"annotations": "2017"},
            "captions_train2017.json: No such file or directory; expected the captions of COCO",
        ),
        ({}, {"annotations": "2015"}, "annotations='2015', expected 'karpathy', '2014' or '2017'"),
    ],
)
def test_a_coco_that_is_not_whole(tmp_path, changes, options, message):
    with pytest.raises(ValueError, match=message) as raised:
        coco(tmp_path, **changes)(**options)
    assert "\n" not in str(raised.value)


def test_a_broken_file_of_captions(tmp_path):
    load = coco(tmp_path)
    path = tmp_path / "dataset_coco.json"
    path.write_text(path.read_text()[:100])
    with pytest.raises(ValueError, match=r"dataset_coco.json: not readable as JSON \(.*\); get a good copy"):
        load()


# ----- commands


def test_the_splits_of_images_with_captions_are_listed(run, said, tmp_path):
    line = f"data scenes:train=3,validation=2,test=2 --out {tmp_path}/splits.csv"
    assert "--validation: scenes has splits of its own" in said(f"{line} --validation 5")
    code, _, err = run(f"{line} --pictures {tmp_path}/pictures.parquet")
    assert code == 0, err
    assert pd.read_csv(tmp_path / "splits.csv")["split"].tolist() == 3 * ["train"] + 2 * ["validation"] + 2 * ["test"]
    pictures = pd.read_parquet(tmp_path / "pictures.parquet")
    shown = np.stack([np.asarray(Image.open(BytesIO(png))) for png in pictures["png"]])
    assert np.array_equal(shown[:, None], load_scenes(train=3).pixels("test", np.arange(2)))


def test_what_sweep_captions_refuses(said, tmp_path):
    for name in ("weights", "tokens"):
        (tmp_path / name).write_text("")
    line = f"sweep-captions {tmp_path}/weights {tmp_path}/tokens --points {tmp_path}/p.csv --captions {tmp_path}/c.csv"
    assert "expected --level and --certified together" in said(f"{line} --policy confidence --level 0.1")
    line += f" --level 0.1 --certified {tmp_path}/certified.csv"
    assert "needs --thresholds, and policies that do not learn" in said(f"{line} --policy pcee --thresholds 0.5")
    assert "needs --thresholds" in said(f"{line} --policy confidence")
    assert "nothing to record" in said(f"record-tokens {tmp_path}/weights")


def test_what_generate_refuses_to_read(said, tmp_path):
    weights = tmp_path / "weights"
    weights.write_text("")
    line = f"generate {weights} --out {tmp_path}/out.csv"
    assert said(line).startswith("2 offramp: error: expected either FOLDER or --split")
    assert "expected --policies and --threshold together" in said(f"{line} --split test --threshold 0.5")
    (tmp_path / "photos").mkdir()
    assert "--quality needs --split" in said(f"{line} {tmp_path}/photos --quality {tmp_path}/quality.csv")
    assert "expected no --policies and no --figure" in said(f"{line} --split test --beams 3 --figure {tmp_path}/out")


@pytest.mark.nightly
def test_from_scenes_to_captions(run, tmp_path):
    pytest.importorskip("pycocoevalcap")

    def do(line):
        code, _, err = run(line.replace("@", f"{tmp_path}/"))
        assert code == 0, err

    do(
        "train-captioner --dataset scenes:train=512,validation=32,test=32 --epochs 8 --exit-epochs 1 --out @weights "
        "--model captioner:patch_size=8,encoder_layers=1,encoder_width=32,encoder_heads=2,layers=3,width=32 "
        "--history @history.csv"
    )
    do("record-tokens @weights --validation @tokens.safetensors")
    do("calibrate @tokens.safetensors --policy pcee --out @policies --reliability @reliability.csv")
    options = "--policies @policies --threshold 0.5 --images 5"
    do(f"generate @weights --split test {options} --out @by_split.csv --figure @captions --quality @exits.csv")
    assert pd.read_csv(tmp_path / "exits.csv")[["policy", "threshold"]].to_numpy().tolist() == [["pcee", 0.5]]
    assert (tmp_path / "captions.png").exists()
    (tmp_path / "photos").mkdir()
    scenes = load_scenes(train=1, validation=1, test=5)
    for i, pixels in enumerate(scenes.pixels("test", np.arange(5))):
        Image.fromarray(pixels[0]).save(tmp_path / f"photos/{i}.png")
    do(f"generate @weights @photos {options} --out @of_folder.csv")
    by_split, of_folder = (pd.read_csv(tmp_path / f"{name}.csv") for name in ("by_split", "of_folder"))
    pd.testing.assert_frame_equal(by_split.drop(columns="image"), of_folder.drop(columns="image"))
    do("generate @weights --split test --images 5 --beams 3 --out @beams.csv --quality @quality.csv")
    captions = pd.read_csv(tmp_path / "beams.csv")
    assert captions["macs"].isna().all()
    quality = pd.read_csv(tmp_path / "quality.csv").iloc[0]
    references = [[plain(text) for text in scenes.references["test"][i]] for i in range(5)]
    whole, _ = caption_quality(captions["caption"].tolist(), references)
    assert quality[list(METRICS)].tolist() == pytest.approx(list(whole.values()))
    assert (quality["beams"], quality["images"], quality["system"]) == (3, 5, "captioner")
