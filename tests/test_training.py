"""Training: the same bits every time, also when killed and resumed; nothing false is resumed from."""

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
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.functional import cross_entropy

from offramp import training
from offramp.checkpoints import load_weights, read_parameters
from offramp.datasets import load_dataset, make_splits
from offramp.training import TrainingOptions, exit_losses, joint_loss, train

torch.set_num_threads(1)
EPOCHS = 3
SGD = TrainingOptions(epochs=EPOCHS, batch_size=32, learning_rate=0.05, milestones=(1, 2))
ADAMW = TrainingOptions(
    epochs=EPOCHS, batch_size=32, optimizer="adamw", learning_rate=1e-3, schedule="cosine", exit_weights="linear"
)


class Tiny(nn.Module):
    """Two exits with all that a training must carry over: batch norm's averages, dropout, convolutions."""

    def __init__(self, width=4):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, width, 3, stride=2), nn.BatchNorm2d(width), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(width, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Dropout(0.2))
        self.heads = nn.ModuleList([nn.Linear(width * 9, 10), nn.Linear(width, 10)])

    def forward(self, x):
        first = self.stem(x)
        second = self.body(first)
        return torch.stack([self.heads[0](first.flatten(1)), self.heads[1](second.flatten(1))], 1)


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
    return make_splits(digits, validation=200, test=1437, seed=0)  # 160 left to train: 5 steps an epoch


@pytest.fixture
def run(digits, tmp_path):
    """Train in a folder of its own; gives the bytes of the weights and the history less its seconds."""

    def go(folder, options=SGD, build=Tiny, seed=0, splits_seed=0, **changes):
        folder = tmp_path / folder
        splits = make_splits(digits, validation=200, test=1437, seed=splits_seed)
        out, history = folder / "weights.safetensors", folder / "history.csv"
        train(build, digits, splits, options, seed=seed, out=out, history=history, progress=False, **changes)
        left = {name for name in os.listdir(folder) if not name.endswith(".old")}
        assert left == {"history.csv", "weights.safetensors"}
        return out.read_bytes(), pd.read_csv(history).drop(columns="seconds").to_csv()

    return go


@pytest.mark.parametrize("options", [SGD, ADAMW], ids=["sgd", "adamw"])
def test_two_trainings_are_equal_bit_for_bit(run, options):
    first = run("first", options)
    torch.manual_seed(123)  # what happened before does not matter
    assert run("second", options, workers=2) == first
    assert run("other", options, seed=1) != first


@pytest.mark.parametrize("options", [SGD, ADAMW], ids=["sgd", "adamw"])
@pytest.mark.parametrize("step", range(1, EPOCHS * 5, 2))  # in the middle and at the borders of every epoch
def test_a_stopped_training_ends_with_the_same_bits(run, tmp_path, options, step):
    whole = run("whole", options)
    with pytest.raises(KeyboardInterrupt):
        run("stopped", options, lambda: Failing(step))
    left = [path.name for path in tmp_path.glob("stopped/*")]
    assert left == (["weights.safetensors.checkpoint"] if step >= 5 else [])
    Counting.steps = 0
    assert run("stopped", options, Counting) == whole
    assert Counting.steps == (EPOCHS - step // 5) * 5  # only the epochs that were not done


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
    model.eval()
    samples = digits.samples(splits, "validation")
    logits = torch.stack([model(image[None])[0] for image, _ in samples])  # (N, L, C)
    labels = torch.from_numpy(samples.labels)
    accuracy = (logits.argmax(2) == labels[:, None]).double().mean(0)
    np.testing.assert_allclose(table.iloc[-1][["validation_accuracy_1", "validation_accuracy_2"]], accuracy)
    loss = cross_entropy(logits[:, 0], labels) + cross_entropy(logits[:, 1], labels)
    np.testing.assert_allclose(table["validation_loss"].iloc[-1], loss.item(), rtol=1e-5)


def test_a_training_learns(digits, tmp_path):
    splits = make_splits(digits, validation=200, test=397, seed=0)
    options = TrainingOptions(epochs=8, batch_size=32, learning_rate=0.05, milestones=(6,))
    table = train(
        lambda: Tiny(8), digits, splits, options, seed=0, out=tmp_path / "w", history=tmp_path / "h", progress=False
    )
    assert table["train_loss"].iloc[-1] < table["train_loss"].iloc[0] / 2
    assert table["validation_accuracy_1"].iloc[-1] > 0.8


def test_one_epoch_is_plain_sgd(digits, splits, tmp_path):
    """What training does, written out: SGD on the sum of the exits' cross-entropies, without augmentation."""
    still = load_dataset("digits", shift=0)
    options = TrainingOptions(epochs=1, batch_size=160, learning_rate=0.05, momentum=0, weight_decay=0)
    build = lambda: Tiny().apply(without_dropout)  # noqa: E731
    train(build, still, splits, options, seed=0, out=tmp_path / "w", history=tmp_path / "h", progress=False)
    torch.manual_seed(0)
    model = build()
    images, labels = still.samples(splits, "train")[np.arange(160)]
    logits = model(images)
    (cross_entropy(logits[:, 0], labels) + cross_entropy(logits[:, 1], labels)).backward()
    trained = Tiny()
    load_weights(tmp_path / "w", trained)
    for (name, before), after in zip(model.named_parameters(), trained.parameters(), strict=True):
        expected = before - 0.05 * before.grad
        torch.testing.assert_close(after, expected, atol=1e-5, rtol=1e-4, msg=lambda m, name=name: f"{name}: {m}")


def without_dropout(module):
    if isinstance(module, nn.Dropout):
        module.p = 0.0


def test_joint_losses_of_exits():
    torch.manual_seed(0)
    logits, labels = torch.randn(7, 3, 5, dtype=torch.float64), torch.randint(5, (7,))
    losses = exit_losses(logits, labels)
    means = [cross_entropy(logits[:, i], labels).item() for i in range(3)]
    np.testing.assert_allclose(losses.mean(0), means, rtol=1e-6)
    np.testing.assert_allclose(joint_loss(losses, "sum"), sum(means), rtol=1e-6)
    np.testing.assert_allclose(joint_loss(losses, "linear"), np.average(means, weights=[1, 2, 3]), rtol=1e-6)


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
        ({"schedule": "step"}, "unknown schedule 'step': expected one of multistep, cosine"),
        ({"exit_weights": "mean"}, "unknown exit_weights 'mean': expected one of sum, linear"),
        ({"epochs": 0}, "epochs=0, expected more than 0"),
        ({"learning_rate": float("nan")}, "learning_rate=nan, expected more than 0"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        TrainingOptions(**options)


class Exploding(Tiny):
    """Not finite from a training step on, or wherever it is validated."""

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
    """The trap of the public MSDNet code: validation images that keep the training augmentation."""
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
    assert shown[:160] != shown[160:]  # every epoch draws anew
    assert 0 < sum(image in plain for image in shown) < len(shown) / 2  # one of nine shifts is none


def test_settings_of_torch_come_back(run):
    before = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    run("any", replace(SGD, epochs=1), threads=2)
    assert (torch.get_num_threads(), torch.get_deterministic_debug_mode()) == before


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
