"""Recording: a record contains the outputs of the model for each sample, independent of the batches."""

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from torch import nn

from offramp import ExitRecord
from offramp.cli import cli
from offramp.datasets import load_dataset
from offramp.datasets.base import TextDataset, Vocabulary
from offramp.datasets.splits import make_splits, save_splits
from offramp.models import build_model
from offramp.models.base import MultiExitModel
from offramp.models.costs import exit_costs
from offramp.recording import load_pretrained, record, time_exits
from offramp.records.confidence import MEASURES

torch.set_num_threads(1)


class Tiny(MultiExitModel):
    """Two exits whose outputs depend on the mode: batch norm and dropout."""

    n_exits = 2

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5))
        self.body = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.heads = nn.ModuleList([nn.Linear(36, 10), nn.Linear(4, 10)])

    def exits(self, x):
        first = self.stem(x)
        yield self.heads[0](first.flatten(1))
        yield self.heads[1](self.body(first).flatten(1))


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits")


@pytest.fixture(scope="module")
def splits(digits):
    return make_splits(digits, validation=100, test=97, seed=0)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return Tiny()


def test_a_record_is_each_sample_run_by_itself(digits, splits, model):
    model.train()  # must have no effect on recording
    made = record(model, digits, splits, "test", system="tiny", seed=3, parameters={"width": 4}, progress=False)
    index = splits[splits["split"] == "test"]["index"].to_numpy()
    model.eval()
    with torch.no_grad():
        for i, place in enumerate(index):
            image = digits.inputs("all", np.array([place]), augment=False)
            expected = np.stack([logits[0].numpy() for logits in model.exits(image)])  # (L, C)
            np.testing.assert_allclose(made.logits[i], expected, atol=1e-5, rtol=1e-4)
    assert made.logits.dtype == np.float32
    np.testing.assert_array_equal(made.index, index)
    np.testing.assert_array_equal(made.labels, digits.labels["all"][index])
    np.testing.assert_array_equal(made.cost, exit_costs(model, (1, 8, 8)).macs)
    assert made.metadata == {
        "dataset": "digits",
        "split": "test",
        "system": "tiny",
        "seed": 3,
        "classes": 10,
        "metric": "accuracy",
        "unit": "MAC",
        "exit_parameters": exit_costs(model, (1, 8, 8)).parameters.tolist(),
        "parameters": {"width": 4},
    }


@pytest.mark.parametrize(("batch_size", "workers"), [(1000, 0), (30, 2), (1, 0)])
def test_batches_and_workers_do_not_matter(digits, splits, model, batch_size, workers):
    def go(**changes):
        return record(model, digits, splits, "validation", system="tiny", seed=0, progress=False, **changes)

    made, other = go(), go(batch_size=batch_size, workers=workers)
    np.testing.assert_array_equal(other.index, made.index)
    np.testing.assert_array_equal(other.labels, made.labels)
    np.testing.assert_allclose(other.logits, made.logits, atol=1e-5, rtol=1e-4)


def test_two_recordings_are_the_same_file_contents(digits, splits, model, tmp_path):
    for name in "first", "second":
        made = record(model, digits, splits, "test", system="tiny", seed=0, progress=False)
        made.save(tmp_path / name)
    first, second = ExitRecord.load(tmp_path / "first"), ExitRecord.load(tmp_path / "second")
    np.testing.assert_array_equal(first.logits, second.logits)
    assert first.metadata == second.metadata


def test_recording_shows_a_bar(digits, splits, model, capsys):
    record(model, digits, splits, "test", system="tiny", seed=3)
    assert "tiny seed 3 test: 100%" in capsys.readouterr().err


def test_logits_that_are_not_finite_are_refused(digits, splits):
    broken = Tiny()
    nn.init.constant_(broken.heads[1].bias, float("nan"))
    with pytest.raises(ValueError, match="logits"):
        record(broken, digits, splits, "test", system="tiny", seed=0, progress=False)


# Texts of different lengths


@pytest.fixture(scope="module")
def texts():
    """A pool of 60 unsorted texts of 3 to 12 tokens with a separator at the end, some of two sentences."""
    random = np.random.default_rng(0)
    lengths = random.integers(3, 13, 60)
    ids = [np.append(random.integers(4, 40, length - 1), 3).astype(np.int32) for length in lengths]
    for one in ids[::7]:
        one[1] = 3
    return TextDataset(
        name="made-up",
        classes=2,
        labels={"all": random.integers(0, 2, 60)},
        metric="f1",
        vocabulary=Vocabulary(size=40, pad=0, separator=3, tokenizer="none", max_tokens=12),
        tokens={"all": np.concatenate(ids)},
        offsets={"all": np.append(0, lengths.cumsum())},
    )


@pytest.fixture(scope="module")
def encoder(texts, tmp_path_factory):
    from transformers import BertConfig

    folder = tmp_path_factory.mktemp("bert")
    BertConfig(
        vocab_size=40,
        hidden_size=16,
        intermediate_size=24,
        num_attention_heads=2,
        num_hidden_layers=3,
        max_position_embeddings=20,
        initializer_range=0.3,  # large enough for untrained layers to have an effect
    ).save_pretrained(folder)
    torch.manual_seed(0)
    return build_model("encoder", classes=2, backbone=str(folder), **texts.input_options)


@pytest.fixture(scope="module")
def texts_split(texts):
    return make_splits(texts, validation=20, test=25, seed=0)


def recorded(model, dataset, splits, **changes):
    return record(model, dataset, splits, "test", **{"system": "s", "seed": 0, "progress": False} | changes)


def cosine(a, b):
    a, b = (np.asarray(each, np.float64) for each in (a, b))
    return (a @ b) / (np.sqrt(a @ a) * np.sqrt(b @ b))


def check_states(made, n, model, sample):
    """Compare logits and similarity of sample `n` of the record with those of the model, run on this sample only."""
    with torch.no_grad():
        logits = model(sample)[0]  # (L, C)
        states = [state[0].numpy() for state in model.states(sample)]
    np.testing.assert_allclose(made.logits[n], logits, atol=1e-5, rtol=1e-4)
    expected = [cosine(one, other) for one, other in zip(states[1:], states)]
    np.testing.assert_allclose(made.measure("similarity")[n], expected, atol=1e-5)


@pytest.mark.parametrize("batch_size", [4, 1000])
def test_texts_are_recorded_in_their_order_each_at_its_own_length(batch_size, texts, texts_split, encoder):
    encoder.train()
    made = recorded(encoder, texts, texts_split, batch_size=batch_size)
    assert not encoder.training
    index = texts_split[texts_split["split"] == "test"]["index"].to_numpy()
    np.testing.assert_array_equal(made.index, index)
    np.testing.assert_array_equal(made.labels, texts.labels["all"][index])
    tokens, offsets = texts.tokens["all"], texts.offsets["all"]
    lengths = []
    for n, place in enumerate(index):
        ids = tokens[offsets[place] : offsets[place + 1]]
        lengths.append(len(ids))
        check_states(made, n, encoder, torch.from_numpy(ids.astype(np.int64))[None])
        np.testing.assert_array_equal(made.sample_cost[n], exit_costs(encoder, (len(ids),)).macs)
    assert len(set(lengths)) > 5
    assert lengths != sorted(lengths)  # batches are sorted by length, but the record is not
    assert made.metric == "f1"
    assert made.metadata["exit_parameters"] == exit_costs(encoder, (max(lengths),)).parameters.tolist()
    np.testing.assert_allclose(made.cost, made.sample_cost.mean(0))


def test_a_record_of_texts_is_kept_whole(texts, texts_split, encoder, tmp_path):
    made = recorded(encoder, texts, texts_split)
    made.save(tmp_path / "r")
    loaded = ExitRecord.load(tmp_path / "r")
    for field in ("logits", "sample_cost", "index", "labels"):
        np.testing.assert_array_equal(getattr(loaded, field), getattr(made, field))
    np.testing.assert_array_equal(loaded.measure("similarity"), made.measure("similarity"))
    assert loaded.metadata == made.metadata


def test_a_vision_transformer_has_similarities(digits, splits):
    torch.manual_seed(0)
    vit = build_model(
        "vit", classes=10, image_shape=(1, 8, 8), patch_size=2, embed_dim=12, depth=3, num_heads=3, weight_init="moco"
    )
    made = recorded(vit, digits, splits, batch_size=30)
    assert made.sample_cost is None
    assert made.measures == (*MEASURES, "similarity")
    for n in range(0, 97, 9):
        check_states(made, n, vit, digits.inputs("all", made.index[[n]], augment=False))


def test_layers_of_several_widths_have_none(digits, splits, model):
    msdnet = build_model(
        "msdnet",
        classes=10,
        image_shape=(1, 8, 8),
        exits=2,
        channels=4,
        growth=2,
        growth_factors=[1, 2],
        bottleneck_factors=[1, 2],
        head_width=8,
        head_strides=[2],
    )
    for each in (msdnet, model):
        assert recorded(each, digits, splits).measures == MEASURES


def test_seconds_are_measured_exit_by_exit(digits, splits, model):
    table = time_exits(model, digits, splits, batch_size=20, batches=3)
    assert table["exit"].tolist() == [1, 2]
    assert (table["seconds_low"] > 0).all()
    assert (table["seconds_low"] <= table["seconds"]).all()
    assert (table["seconds"] <= table["seconds_high"]).all()
    assert table["seconds"][0] < table["seconds"][1]  # the time of an exit includes everything before it
    assert table[["batch_size", "batches", "threads"]].drop_duplicates().to_numpy().tolist() == [[20, 3, 1]]
    assert set(table["device"]) == {"cpu"}


def test_a_classifier_of_timm_as_it_comes(digits, splits, tmp_path):
    """A classifier of timm is recorded with its own weights, without training here."""
    import timm
    from timm.models import save_for_hf

    torch.manual_seed(0)
    theirs = timm.create_model("test_resnet", num_classes=10, in_chans=1)
    save_for_hf(theirs, tmp_path / "theirs")
    save_splits(splits, tmp_path / "splits.csv", digits)
    backbone = f"local-dir:{tmp_path / 'theirs'}"
    given = ["--splits", tmp_path / "splits.csv", "--test", tmp_path / "test.safetensors"]
    given += ["--seconds", tmp_path / "seconds.csv", "--system", "theirs"]
    command = ["record", "--dataset", "digits", "--model", f"timm:backbone={backbone},pretrained=true", *given]
    done = CliRunner().invoke(cli, [str(word) for word in command], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    made = ExitRecord.load(tmp_path / "test.safetensors")
    index = splits[splits["split"] == "test"]["index"].to_numpy().copy()
    with torch.no_grad():
        expected = theirs.eval()(digits.inputs("all", index, augment=False))
    np.testing.assert_allclose(made.logits[:, 0], expected, atol=1e-4)
    assert (made.n_exits, made.metadata["system"], made.metadata["unit"]) == (1, "theirs", "MAC")
    seconds = pd.read_csv(tmp_path / "seconds.csv")
    assert seconds.loc[0, ["dataset", "system", "exit"]].tolist() == ["digits", "theirs", 1]


def test_a_text_classifier_as_it_comes():
    model, source, made = load_pretrained(
        ("reviews", {"tokenizer": "minilm-l6"}), ("huggingface", {"backbone": "minilm-l6", "pretrained": True})
    )
    assert (source.name, made["system"], model.n_exits) == ("reviews", "minilm-l6", 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset", "digits"], "expected either WEIGHTS, or both --dataset and --model"),
        (["--model", "timm:backbone=test_resnet"], "expected either WEIGHTS, or both --dataset and --model"),
        (["--dataset", "digits", "--model", "timm:backbone=test_resnet"], "timm: its weights are new; expected"),
    ],
)
def test_a_record_of_nothing(arguments, message, digits, splits, tmp_path):
    save_splits(splits, tmp_path / "splits.csv", digits)
    done = CliRunner().invoke(cli, ["record", *arguments, "--splits", str(tmp_path / "splits.csv")])
    assert message in done.output + str(done.exception)
