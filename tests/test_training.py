"""Training gives the same bits every time, also if killed and resumed. Checkpoints that do not fit are refused."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.functional import cross_entropy

from offramp.datasets import load_dataset
from offramp.datasets.base import TextDataset, Vocabulary
from offramp.datasets.batches import ShuffledBatches, batches_in_order
from offramp.datasets.splits import make_splits
from offramp.models import build_model
from offramp.training import loop as training
from offramp.training.checkpoints import load_weights, read_parameters
from offramp.training.distributed import ProcessRank, ShardedBatches
from offramp.training.loop import train
from offramp.training.losses import exit_losses, joint_loss
from offramp.training.options import TrainingOptions

torch.set_num_threads(1)
EPOCHS = 3
SGD = TrainingOptions(epochs=EPOCHS, batch_size=32, learning_rate=0.05, milestones=(1, 2))
ADAMW = TrainingOptions(
    epochs=EPOCHS, batch_size=32, optimizer="adamw", learning_rate=1e-3, schedule="cosine", exit_weights="linear"
)
BEEM = replace(ADAMW, schedule="linear", distillation=0.5)


class Tiny(nn.Module):
    """Two exits, with all state that training must restore: running means of batch norm, dropout, convolutions."""

    def __init__(self, width=4):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, width, 3, stride=2), nn.BatchNorm2d(width), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(width, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Dropout(0.2))
        self.heads = nn.ModuleList([nn.Linear(width * 9, 10), nn.Linear(width, 10)])

    def forward(self, x):
        first = self.stem(x)
        second = self.body(first)
        return torch.stack([self.heads[0](first.flatten(1)), self.heads[1](second.flatten(1))], 1)


class Words(nn.Module):
    """Two exits over the mean of the tokens of a text. Token 0 is padding and has no effect."""

    def __init__(self, dropout=0.2):
        super().__init__()
        self.tokens = nn.Embedding(20, 8, padding_idx=0)
        self.body = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Dropout(dropout))
        self.heads = nn.ModuleList([nn.Linear(8, 3), nn.Linear(8, 3)])

    def forward(self, x):
        first = self.tokens(x).sum(1) / (x > 0).sum(1, keepdim=True)
        return torch.stack([self.heads[0](first), self.heads[1](self.body(first))], 1)


def make_texts():
    """Return as many texts as there are digits, of 2 to 30 tokens."""
    random = np.random.default_rng(0)
    lengths = random.integers(2, 31, 1797)
    return TextDataset(
        name="texts",
        classes=3,
        labels={"all": random.integers(3, size=1797)},
        vocabulary=Vocabulary(size=20, pad=0, separator=1, tokenizer="none", max_tokens=30),
        tokens={"all": random.integers(1, 20, lengths.sum(), dtype=np.int32)},
        offsets={"all": np.concatenate([[0], lengths.cumsum()])},
    )


def stopping(model, step):
    """Return the model, modified to stop at a training step, counted from 0."""
    left = iter(range(step))

    def count(module, _):
        if module.training and next(left, None) is None:
            raise KeyboardInterrupt

    model.register_forward_pre_hook(count)
    return model


class Failing(Tiny):
    """Stops at a training step, counted from 0."""

    def __init__(self, step):
        super().__init__()
        self.left = step

    def forward(self, x):
        if self.training:
            if self.left == 0:
                self.stop()
            self.left -= 1
        return super().forward(x)

    def stop(self):
        raise KeyboardInterrupt


class Sleeping(Failing):
    def stop(self):
        time.sleep(600)


class Counting(Tiny):
    """Counts training steps."""

    steps = 0

    def forward(self, x):
        Counting.steps += self.training
        return super().forward(x)


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits")


@pytest.fixture(scope="module")
def splits(digits):
    return make_splits(digits, validation=200, test=1437, seed=0)  # 160 samples for training: 5 steps per epoch


@pytest.fixture
def run(digits, tmp_path):
    """Train in a separate folder. Return the bytes of the weights, and the history without the seconds."""

    def go(folder, options=SGD, build=Tiny, seed=0, splits_seed=0, dataset=digits, **changes):
        folder = tmp_path / folder
        splits = make_splits(dataset, validation=200, test=1437, seed=splits_seed)
        out, history = folder / "weights.safetensors", folder / "history.csv"
        train(build, dataset, splits, options, seed=seed, out=out, history=history, progress=False, **changes)
        left = {name for name in os.listdir(folder) if not name.endswith(".old")}
        assert left == {"history.csv", "weights.safetensors"}
        return out.read_bytes(), pd.read_csv(history).drop(columns="seconds").to_csv()

    return go


@pytest.mark.parametrize("options", [SGD, ADAMW], ids=["sgd", "adamw"])
def test_two_trainings_are_equal_bit_for_bit(run, options):
    first = run("first", options)
    torch.manual_seed(123)  # has no effect
    assert run("second", options, workers=2) == first
    assert run("other", options, seed=1) != first


@pytest.mark.parametrize("options", [SGD, ADAMW], ids=["sgd", "adamw"])
@pytest.mark.parametrize("step", range(1, EPOCHS * 5, 2))  # within every epoch and at its boundaries
def test_a_stopped_training_ends_with_the_same_bits(run, tmp_path, options, step):
    whole = run("whole", options)
    with pytest.raises(KeyboardInterrupt):
        run("stopped", options, lambda: Failing(step))
    left = [path.name for path in tmp_path.glob("stopped/*")]
    assert left == (["weights.safetensors.checkpoint"] if step >= 5 else [])
    Counting.steps = 0
    assert run("stopped", options, Counting) == whole
    assert Counting.steps == (EPOCHS - step // 5) * 5  # only the remaining epochs


@pytest.mark.parametrize("step", [5, 8])
def test_texts_train_the_same_in_workers_and_when_stopped(run, step):
    whole = run("whole", BEEM, Words, dataset=make_texts(), workers=2)
    with pytest.raises(KeyboardInterrupt):
        run("stopped", BEEM, lambda: stopping(Words(), step), dataset=make_texts())
    assert run("stopped", BEEM, Words, dataset=make_texts()) == whole
    assert run("cosine", replace(BEEM, schedule="cosine"), Words, dataset=make_texts()) != whole


@pytest.mark.parametrize("file", ["history.csv", "weights.safetensors"])
def test_stopped_after_the_last_epoch_it_only_writes(run, monkeypatch, tmp_path, file):
    whole = run("whole")
    name = {"history.csv": "write_text", "weights.safetensors": "save_weights"}[file]

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training, name, stop)
        with pytest.raises(KeyboardInterrupt):
            run("stopped")
    assert not (tmp_path / "stopped" / file).exists()
    assert run("stopped", build=lambda: Failing(0)) == whole


def test_killed_for_good_it_resumes(run, tmp_path):
    whole = run("whole")
    folder = tmp_path / "killed"
    code = f"""
import sys
sys.path.insert(0, {os.path.dirname(__file__)!r})
from test_training import *

digits = load_dataset("digits")
splits = make_splits(digits, validation=200, test=1437, seed=0)
out, history = {[str(folder / name) for name in ("weights.safetensors", "history.csv")]}
train(lambda: Sleeping(7), digits, splits, SGD, seed=0, out=out, history=history, progress=False)
"""
    process = subprocess.Popen([sys.executable, "-c", code])
    checkpoint = folder / "weights.safetensors.checkpoint"
    while not checkpoint.exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert os.listdir(folder) == [checkpoint.name]
    assert run("killed") == whole


def truncate(checkpoint):
    checkpoint.write_bytes(checkpoint.read_bytes()[:-100])


def flip_a_bit(checkpoint):
    data = bytearray(checkpoint.read_bytes())
    data[-100] ^= 1
    checkpoint.write_bytes(data)


def empty(checkpoint):
    checkpoint.write_bytes(b"")


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, empty])
def test_a_damaged_checkpoint_is_set_aside(run, tmp_path, caplog, damage):
    whole = run("whole")
    with pytest.raises(KeyboardInterrupt):
        run("damaged", build=lambda: Failing(7))
    damage(tmp_path / "damaged" / "weights.safetensors.checkpoint")
    assert run("damaged") == whole
    assert (tmp_path / "damaged" / "weights.safetensors.checkpoint.old").exists()
    (message,) = caplog.messages
    assert "\n" not in message
    assert "set aside as weights.safetensors.checkpoint.old, training starts anew" in message


OTHER_RUNS = {
    "options": {"options": ADAMW},
    "seed": {"seed": 1},
    "parameters": {"parameters": {"shift": 2}},
    "model": {"build": lambda: Tiny(width=5)},
    "splits": {"splits_seed": 1},
    "precision": {"options": replace(SGD, precision="bfloat16")},
}


@pytest.mark.parametrize("change", OTHER_RUNS.values(), ids=OTHER_RUNS)
def test_a_checkpoint_of_another_run_is_set_aside(run, caplog, change):
    whole = run("whole", **change)
    with pytest.raises(KeyboardInterrupt):
        run("other", build=lambda: Failing(7))
    assert run("other", **change) == whole
    (message,) = caplog.messages
    assert "checkpoint of another run" in message


def test_weights_and_history_say_what_happened(digits, splits, tmp_path):
    out, history = tmp_path / "weights.safetensors", tmp_path / "history.csv"
    parameters = {"model": "tiny"}
    table = train(Tiny, digits, splits, SGD, seed=0, out=out, history=history, parameters=parameters)
    pd.testing.assert_frame_equal(pd.read_csv(history), table)
    assert list(table) == [
        *("epoch", "learning_rate", "train_loss", "validation_loss"),
        *("validation_accuracy_1", "validation_accuracy_2", "seconds"),
    ]
    assert list(table["epoch"]) == [1, 2, 3]
    np.testing.assert_allclose(table["learning_rate"], [0.05, 0.005, 0.0005])

    model = Tiny()
    told = load_weights(out, model)
    assert told == read_parameters(out)
    assert told["model"] == "tiny"
    assert (told["dataset"], told["seed"], told["training"]["milestones"]) == ("digits", 0, [1, 2])
    assert set(told) == {"model", "dataset", "splits", "training", "seed"}  # more keys would exclude old checkpoints
    assert set(told["training"]) == {
        *("epochs", "batch_size", "optimizer", "learning_rate", "momentum", "weight_decay", "schedule", "milestones"),
        *("gamma", "exit_weights"),
    }
    model.eval()
    samples = digits.samples(splits, "validation")
    logits = torch.stack([model(image[None])[0] for image, _ in samples])  # (N, L, C)
    labels = torch.from_numpy(samples.labels)
    accuracy = (logits.argmax(2) == labels[:, None]).double().mean(0)
    np.testing.assert_allclose(table.iloc[-1][["validation_accuracy_1", "validation_accuracy_2"]], accuracy)
    loss = cross_entropy(logits[:, 0], labels) + cross_entropy(logits[:, 1], labels)
    np.testing.assert_allclose(table["validation_loss"].iloc[-1], loss.item(), rtol=1e-5)


def test_no_epochs_keep_the_weights_as_they_come(digits, splits, tmp_path):
    out, history = tmp_path / "weights.safetensors", tmp_path / "history.csv"
    theirs = Tiny()
    table = train(lambda: theirs, digits, splits, TrainingOptions(epochs=0), seed=0, out=out, history=history)
    expected = {name: values.clone() for name, values in theirs.state_dict().items()}
    load_weights(out, model := Tiny())
    assert all(torch.equal(values, expected[name]) for name, values in model.state_dict().items())
    assert table.empty
    assert pd.read_csv(history).empty


def test_a_training_learns(digits, tmp_path):
    splits = make_splits(digits, validation=200, test=397, seed=0)
    options = TrainingOptions(epochs=8, batch_size=32, learning_rate=0.05, milestones=(6,))
    table = train(
        lambda: Tiny(8), digits, splits, options, seed=0, out=tmp_path / "w", history=tmp_path / "h", progress=False
    )
    assert table["train_loss"].iloc[-1] < table["train_loss"].iloc[0] / 2
    assert table["validation_accuracy_1"].iloc[-1] > 0.8


@pytest.mark.parametrize("distillation", [0.0, 0.5])
def test_one_epoch_is_plain_sgd(digits, splits, tmp_path, distillation):
    """One epoch compared with explicit SGD on the sum of the losses of the exits, without augmentation."""
    still = load_dataset("digits", shift=0)
    options = TrainingOptions(epochs=1, batch_size=160, learning_rate=0.05, momentum=0, weight_decay=0)
    options = replace(options, distillation=distillation)
    build = lambda: Tiny().apply(without_dropout)  # noqa: E731
    table = train(build, still, splits, options, seed=0, out=tmp_path / "w", history=tmp_path / "h", progress=False)

    def loss(model, split, n):
        images, labels = still.samples(splits, split)[np.arange(n)]
        logits = model(images)
        first, final = logits.softmax(2).unbind(1)
        divergence = (final.detach() * (final.detach() / first).log()).sum(1).mean()
        return cross_entropy(logits[:, 0], labels) + cross_entropy(logits[:, 1], labels) + distillation * divergence

    torch.manual_seed(0)
    model = build()
    loss(model, "train", 160).backward()
    trained = Tiny()
    told = load_weights(tmp_path / "w", trained)
    assert told["training"].get("distillation", 0.0) == distillation
    np.testing.assert_allclose(table["validation_loss"], loss(trained.eval(), "validation", 200).item(), rtol=1e-5)
    for (name, before), after in zip(model.named_parameters(), trained.parameters(), strict=True):
        expected = before - 0.05 * before.grad
        torch.testing.assert_close(after, expected, atol=1e-5, rtol=1e-4, msg=lambda m, name=name: f"{name}: {m}")


def without_dropout(module):
    if isinstance(module, nn.Dropout):
        module.p = 0.0


@pytest.mark.parametrize("options", [SGD, ADAMW], ids=["sgd", "adamw"])
def test_only_the_exits_of_a_frozen_backbone_are_trained(run, tmp_path, options):
    def build():
        options = {"patch_size": 4, "embed_dim": 12, "depth": 2, "num_heads": 3, "frozen": True}
        return build_model("vit", classes=10, image_shape=(1, 8, 8), **options)

    whole = run("whole", options, build)
    trained = build()
    load_weights(tmp_path / "whole" / "weights.safetensors", trained)
    torch.manual_seed(0)
    before = build().state_dict()
    for name, value in trained.state_dict().items():
        assert torch.equal(value, before[name]) == name.startswith("vit."), name
    with pytest.raises(KeyboardInterrupt):
        run("stopped", options, lambda: stopping(build(), 7))
    assert run("stopped", options, build) == whole


def test_precision_is_that_of_the_model_in_training(run, tmp_path):
    seen = []

    class Seeing(Tiny):
        def forward(self, x):
            logits = super().forward(x)
            seen.append((self.training, logits.dtype))
            return logits

    plain = run("plain", build=Seeing)
    assert set(seen) == {(True, torch.float32), (False, torch.float32)}
    seen.clear()
    half = run("half", replace(SGD, precision="bfloat16"), Seeing)
    assert set(seen) == {(True, torch.bfloat16), (False, torch.float32)}
    assert half != plain
    assert read_parameters(tmp_path / "half" / "weights.safetensors")["training"]["precision"] == "bfloat16"
    assert {value.dtype for value in load_file(tmp_path / "half" / "weights.safetensors").values()} == {
        torch.float32,
        torch.int64,  # counters of batch norm
    }


@pytest.mark.parametrize("texts", [False, True], ids=["images", "texts"])
def test_a_compiled_step_is_compiled_once_and_does_the_same(run, monkeypatch, tmp_path, texts):
    compile, graphs = torch.compile, []

    def count(graph, _):
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", lambda model: compile(model, backend=count))
    options = replace(SGD, batch_size=30)  # 160 samples in batches of 27 and 26
    made = {"dataset": make_texts(), "build": Words} if texts else {}
    plain, compiled = run("plain", options, **made), run("compiled", replace(options, compile=True), **made)
    assert len(graphs) == 1
    assert compiled[1] == plain[1]
    assert read_parameters(tmp_path / "compiled" / "weights.safetensors")["training"]["compile"] is True


class Plain(Tiny):
    """A model that does not depend on how a batch is divided."""

    def __init__(self):
        super().__init__()
        self.stem[1] = self.body[1] = self.body[3] = nn.Identity()


TWO_PROCESSES = """
import sys

sys.path.insert(0, sys.argv[1])
from test_training import *

from offramp.training.distributed import process_group

still = load_dataset("digits", shift=0)
moving = load_dataset("digits")
splits = make_splits(still, validation=200, test=1437, seed=0)
rank = int(os.environ["RANK"])


def run(name, digits, build):
    train(build, digits, splits, ODD, seed=0, out=f"{name}.safetensors", history=f"{name}.csv")


with process_group(torch.device("cpu")):
    run("plain", still, Plain)
    run("texts", make_texts(), lambda: Words(dropout=0))
    run("whole", moving, Tiny)
    with pytest.raises(KeyboardInterrupt):
        run("stopped", moving, lambda: Failing(10))
    run("stopped", moving, Tiny)
    run("lost", moving, lambda: Failing(10 if rank == 0 else 8))
"""
ODD = replace(SGD, epochs=2, batch_size=23)  # 160 samples in batches of 23 and 22, which do not divide equally


@pytest.mark.parametrize("lengths", [None, np.arange(11) % 4], ids=["images", "texts"])
@pytest.mark.parametrize("processes", [1, 2, 3])
def test_processes_share_every_batch(processes, lengths):
    order = ShuffledBatches(11, 5, seed=0, lengths=lengths)
    parts = [list(ShardedBatches(order, rank, processes)) for rank in range(processes)]
    for whole, *shared in zip(order, *parts):
        np.testing.assert_array_equal(np.concatenate([positions for positions, _ in shared]), whole[0])
        seeds = [seed for _, seed in shared]
        assert seeds[0] == whole[1]
        assert len(set(seeds)) == processes


def test_more_processes_than_samples_in_a_batch_are_refused(run, monkeypatch):
    monkeypatch.setattr(training, "process_rank", lambda: ProcessRank(0, 33))
    with pytest.raises(ValueError, match="batch_size=32: a batch has 28 samples, expected one for each of the 33 proc"):
        run("too many")


@pytest.mark.nightly
def test_two_processes_train_one_model(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(TWO_PROCESSES)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launch, script, os.path.dirname(__file__)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    # If one process stops, the other stops too, and the reason is printed
    assert done.returncode == 1, done.stderr
    assert "KeyboardInterrupt" in done.stderr
    assert [path.name for path in tmp_path.glob("lost*")] == ["lost.safetensors.checkpoint"]
    assert done.stderr.count("training: 100%") == 4  # one progress bar for both processes

    still = load_dataset("digits", shift=0)
    splits = make_splits(still, validation=200, test=1437, seed=0)
    out, history = tmp_path / "one.safetensors", tmp_path / "one.csv"
    for kind, dataset, build in ("plain", still, Plain), ("texts", make_texts(), lambda: Words(dropout=0)):
        train(build, dataset, splits, ODD, seed=0, out=out, history=history, progress=False)
        alone, together = load_file(out), load_file(tmp_path / f"{kind}.safetensors")
        for name, value in alone.items():
            torch.testing.assert_close(together[name], value, rtol=1e-4, atol=1e-6)
        expected, found = (pd.read_csv(path).drop(columns="seconds") for path in (history, tmp_path / f"{kind}.csv"))
        pd.testing.assert_frame_equal(found, expected, rtol=1e-5)
    assert read_parameters(tmp_path / "plain.safetensors")["processes"] == 2

    whole, stopped = ((tmp_path / f"{name}.safetensors").read_bytes() for name in ("whole", "stopped"))
    assert stopped == whole
    whole, stopped = (pd.read_csv(tmp_path / f"{name}.csv").drop(columns="seconds") for name in ("whole", "stopped"))
    pd.testing.assert_frame_equal(stopped, whole)
    model = Tiny()  # the validated weights are the saved ones
    load_weights(tmp_path / "whole.safetensors", model)
    images, labels = still.samples(splits, "validation")[np.arange(200)]
    loss = joint_loss(exit_losses(model.eval()(images), labels), "sum").item()
    np.testing.assert_allclose(whole["validation_loss"].iloc[-1], loss, rtol=1e-6)


def test_joint_losses_of_exits():
    torch.manual_seed(0)
    logits, labels = torch.randn(7, 3, 5, dtype=torch.float64), torch.randint(5, (7,))
    losses = exit_losses(logits, labels)
    means = [cross_entropy(logits[:, i], labels).item() for i in range(3)]
    np.testing.assert_allclose(losses.mean(0), means, rtol=1e-6)
    np.testing.assert_allclose(joint_loss(losses, "sum"), sum(means), rtol=1e-6)
    np.testing.assert_allclose(joint_loss(losses, "linear"), np.average(means, weights=[1, 2, 3]), rtol=1e-6)


def test_exits_are_drawn_to_the_final_one_which_stays():
    torch.manual_seed(0)
    logits, labels = 3 * torch.randn(7, 3, 5, requires_grad=True), torch.randint(5, (7,))
    logits.retain_grad()
    losses = exit_losses(logits, labels, 0.7)
    losses.sum().backward()
    p = logits.detach().double().softmax(2).numpy()  # (N, L, C)
    right = np.eye(5)[labels][:, None]  # (N, 1, C)
    q = p[:, -1:]
    expected = -(right * np.log(p)).sum(2) + 0.7 * (q * np.log(q / p)).sum(2)
    np.testing.assert_allclose(losses.detach(), expected, rtol=1e-5)
    gradient = (
        p - right + 0.7 * (p - q)
    )  # of the logits of an exit; p − right for the final one, as the teacher has no gradient
    np.testing.assert_allclose(logits.grad, gradient, atol=1e-6)
    assert torch.equal(losses[:, -1], exit_losses(logits, labels)[:, -1])
    assert torch.equal(exit_losses(logits[:, :1], labels, 0.7), exit_losses(logits[:, :1], labels))  # a single exit


@given(st.integers(1, 300), st.integers(1, 9), st.integers(0, 99))
def test_batches_of_texts_hold_each_once_and_are_as_large_as_others(n, batch_size, epoch):
    lengths = np.random.default_rng(epoch).geometric(0.2, n)
    order = ShuffledBatches(n, batch_size, 0, lengths)
    order.epoch = epoch
    sizes = [len(batch) for batch in batches_in_order(n, batch_size)]
    shuffled, by_length = [batch for batch, _ in order], batches_in_order(n, batch_size, lengths)
    for batches in shuffled, by_length:
        np.testing.assert_array_equal(np.sort(np.concatenate(batches)), np.arange(n))
        assert [len(batch) for batch in batches] == sizes
    assert (np.diff(lengths[np.concatenate(by_length)]) >= 0).all()


def test_batches_of_texts_are_little_padded_and_new_in_every_epoch():
    lengths = np.random.default_rng(0).geometric(0.05, 2000)

    def batches(lengths_known=None, epoch=0):
        order = ShuffledBatches(2000, 20, 0, lengths_known)  # 100 batches, in two parts
        order.epoch = epoch
        return list(order)

    def padding(batches):
        return sum(len(batch) * lengths[batch].max() for batch, _ in batches) - lengths.sum()

    first = batches(lengths)
    assert padding(first) < padding(batches()) / 5
    again, other = batches(lengths), batches(lengths, epoch=1)
    for (batch, seed), (same, same_seed), (different, _) in zip(first, again, other):
        np.testing.assert_array_equal(batch, same)
        assert seed == same_seed
        assert set(batch) != set(different)
    longest = [lengths[batch].max() for batch, _ in first]
    assert 30 < (np.diff(longest) > 0).sum() < 70  # not sorted by length


def test_batches_of_images_are_what_they_were():
    (first, seed), (second, _) = ShuffledBatches(7, 4, 3)
    assert (first.tolist(), second.tolist(), seed) == ([5, 6, 2, 1], [4, 3, 0], 3994890908985562243)


def test_texts_are_validated_each_with_its_label(run, tmp_path):
    texts = make_texts()
    run("texts", BEEM, Words, dataset=texts)
    model = Words().eval()
    load_weights(tmp_path / "texts" / "weights.safetensors", model)
    samples = texts.samples(make_splits(texts, validation=200, test=1437, seed=0), "validation")
    logits = torch.stack([model(text[None])[0] for text, _ in samples])  # (N, L, C)
    labels = torch.from_numpy(samples.labels)
    last = pd.read_csv(tmp_path / "texts" / "history.csv").iloc[-1]
    accuracy = (logits.argmax(2) == labels[:, None]).double().mean(0)
    np.testing.assert_allclose(last[["validation_accuracy_1", "validation_accuracy_2"]], accuracy)
    loss = joint_loss(exit_losses(logits, labels, 0.5), "linear").item()
    np.testing.assert_allclose(last["validation_loss"], loss, rtol=1e-5)


def test_the_linear_schedule_falls_at_every_step(run, monkeypatch, tmp_path):
    make, rates = training.make_optimizer, []

    def watched(*args):
        optimizer = make(*args)
        optimizer.register_step_pre_hook(lambda optimizer, *_: rates.append(optimizer.param_groups[0]["lr"]))
        return optimizer

    monkeypatch.setattr(training, "make_optimizer", watched)
    run("linear", BEEM)
    np.testing.assert_allclose(rates, [1e-3 * (1 - step / 15) for step in range(15)])  # 5 steps per epoch
    table = pd.read_csv(tmp_path / "linear" / "history.csv")
    np.testing.assert_allclose(table["learning_rate"], rates[::5])
    rates.clear()
    run("multistep", SGD)
    np.testing.assert_allclose(rates, np.repeat([0.05, 0.005, 0.0005], 5))


def test_learning_rates():
    cosine = TrainingOptions(epochs=4, learning_rate=1.0, schedule="cosine")
    expected = [1, (1 + 0.5**0.5) / 2, 0.5, (1 - 0.5**0.5) / 2]
    np.testing.assert_allclose([cosine.learning_rate_of(epoch) for epoch in range(4)], expected)
    steps = TrainingOptions()
    rates = [steps.learning_rate_of(epoch) for epoch in (0, 149, 150, 224, 225, 299)]
    np.testing.assert_allclose(rates, [0.1, 0.1, 0.01, 0.01, 0.001, 0.001])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": "adam"}, "unknown optimizer 'adam': expected one of sgd, adamw"),
        ({"schedule": "step"}, "unknown schedule 'step': expected one of multistep, cosine, linear"),
        ({"exit_weights": "mean"}, "unknown exit_weights 'mean': expected one of sum, linear"),
        ({"precision": "float16"}, "unknown precision 'float16': expected one of auto, float32, bfloat16"),
        ({"epochs": -1}, "epochs=-1, expected 0 or more"),
        ({"learning_rate": float("nan")}, "learning_rate=nan, expected more than 0"),
        ({"distillation": -0.5}, "distillation=-0.5, expected 0 or more"),
        ({"distillation": float("nan")}, "distillation=nan, expected 0 or more"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        TrainingOptions(**options)


class Exploding(Tiny):
    """A model whose outputs are not finite from a training step on, or in every validation."""

    def __init__(self, step):
        super().__init__()
        self.left = step

    def forward(self, x):
        logits = super().forward(x)
        if self.training:
            self.left -= 1
        return logits * (float("inf") if self.left < 0 else 1)


@pytest.mark.parametrize("every", [0, 10], ids=["seen at once", "seen after the epoch"])
def test_a_loss_that_is_not_finite_stops_the_training(run, monkeypatch, tmp_path, every):
    bar = training.progress_bar

    def frequent(total, label, **options):
        shown = bar(total, label, done=options["done"], shown=True)
        shown.mininterval, shown.miniters = every, 1
        return shown

    monkeypatch.setattr(training, "progress_bar", frequent)
    with pytest.raises(ValueError, match=r"training diverged: loss nan in epoch 2, step 3 of 5"):
        run("diverged", build=lambda: Exploding(7))
    assert os.listdir(tmp_path / "diverged") == ["weights.safetensors.checkpoint"]


def test_a_validation_loss_that_is_not_finite_stops_the_training(run, tmp_path):
    with pytest.raises(ValueError, match="training diverged: validation loss nan after epoch 1"):
        run("diverged", build=lambda: NotFiniteOutside())
    assert not (tmp_path / "diverged").exists()


class NotFiniteOutside(Tiny):
    def forward(self, x):
        return super().forward(x) * (1 if self.training else float("inf"))


def test_validation_images_are_as_in_the_test(digits, splits, tmp_path):
    """In the public code of MSDNet, validation images are augmented as for training."""
    seen = {True: [], False: []}

    class Watching(Tiny):
        def forward(self, x):
            seen[self.training].append(x.clone())
            return super().forward(x)

    options = TrainingOptions(epochs=2, batch_size=64)
    train(Watching, digits, splits, options, seed=0, out=tmp_path / "w", history=tmp_path / "h", progress=False)
    validation = digits.samples(splits, "validation")[np.arange(200)][0]
    assert torch.equal(torch.cat(seen[False]), torch.cat([validation, validation]))
    plain = {image.numpy().tobytes() for image in digits.samples(splits, "train")[np.arange(160)][0]}
    shown = [image.numpy().tobytes() for image in torch.cat(seen[True])]
    assert shown[:160] != shown[160:]  # every epoch has new augmentations
    assert 0 < sum(image in plain for image in shown) < len(shown) / 2  # one of nine shifts changes nothing


def test_settings_of_torch_come_back(run):
    def now():
        fills = torch.utils.deterministic.fill_uninitialized_memory
        return torch.get_num_threads(), torch.get_deterministic_debug_mode(), fills

    before = now()
    run("any", replace(SGD, epochs=1), threads=2)
    assert now() == before


def test_the_progress_bar_of_a_log_is_short(digits, splits, tmp_path, capsys):
    options = TrainingOptions(epochs=10, batch_size=16)
    train(Tiny, digits, splits, options, seed=0, out=tmp_path / "w", history=tmp_path / "h", label="tiny seed 0")
    printed = capsys.readouterr().err
    assert "tiny seed 0: 100%" in printed
    assert printed.count("\r") <= 4  # of 100 steps


def test_weights_of_another_model_or_kind_are_refused(run, tmp_path):
    run("trained")
    path = tmp_path / "trained" / "weights.safetensors"
    with pytest.raises(ValueError, match=r"another model's weights: body.0.bias is \[4\], expected \[5\]"):
        load_weights(path, Tiny(5))
    with pytest.raises(ValueError, match=r"another model's weights: body.0.bias is \[4\], expected missing"):
        load_weights(path, nn.ModuleDict())
    save_file(load_file(path), tmp_path / "bare.safetensors")
    with pytest.raises(ValueError, match="expected a whole offramp-weights/1 file"):
        load_weights(tmp_path / "bare.safetensors", Tiny())
    (tmp_path / "text").write_text("no weights")
    with pytest.raises(ValueError, match="not readable"):
        load_weights(tmp_path / "text", Tiny())
    flip_a_bit(path)
    with pytest.raises(ValueError, match=r"is damaged \(checksum differs\)"):
        read_parameters(path)
