"""Training of multi-exit models: all exits at once, the same bits every time, resumed where it was killed."""

import hashlib
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD, AdamW, Optimizer
from torch.utils.data import DataLoader
from tqdm import tqdm

from offramp.checkpoints import fingerprint, resume, save_checkpoint, save_weights
from offramp.datasets import ImageDataset
from offramp.datasets.batches import SeededSamples, ShuffledBatches, batch_loader, batches_in_order
from offramp.files import write_text


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """How to train; the defaults are MSDNet's on CIFAR.

    Parameters
    ----------
    epochs : int
    batch_size : int
        The most samples in a batch; an epoch is cut into equal ones.
    optimizer : {"sgd", "adamw"}
    learning_rate : float
        Of the first epoch.
    momentum : float
        Of SGD; AdamW keeps torch's betas.
    weight_decay : float
        On all parameters.
    schedule : {"multistep", "cosine"}
        How the learning rate falls from epoch to epoch. "multistep": times `gamma` after each of the
        `milestones`. "cosine": to 0, along half a cosine over all epochs.
    milestones : sequence of int
        After how many epochs.
    gamma : float
    exit_weights : {"sum", "linear"}
        How the exits' cross-entropies make one loss. "sum": their plain sum (MSDNet). "linear": their mean,
        exit i weighted by i (PABEE).

    Raises
    ------
    ValueError
        If a name is unknown or a number out of range.
    """

    epochs: int = 300
    batch_size: int = 64
    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    schedule: Literal["multistep", "cosine"] = "multistep"
    milestones: tuple[int, ...] = (150, 225)
    gamma: float = 0.1
    exit_weights: Literal["sum", "linear"] = "sum"

    def __post_init__(self) -> None:
        for name in "optimizer", "schedule", "exit_weights":
            known = get_args(get_type_hints(type(self))[name])
            if (value := getattr(self, name)) not in known:
                raise ValueError(f"unknown {name} {value!r}: expected one of {', '.join(known)}")
        for name in "epochs", "batch_size", "learning_rate":
            if not (value := getattr(self, name)) > 0:
                raise ValueError(f"{name}={value}, expected more than 0")

    def learning_rate_of(self, epoch: int) -> float:
        """The learning rate of an epoch, counted from 0."""
        if self.schedule == "cosine":
            return self.learning_rate * (1 + math.cos(math.pi * epoch / self.epochs)) / 2
        return self.learning_rate * self.gamma ** sum(epoch >= milestone for milestone in self.milestones)


def train(
    build: Callable[[], nn.Module],
    dataset: ImageDataset,
    splits: pd.DataFrame,
    options: TrainingOptions,
    *,
    seed: int,
    out: str | os.PathLike,
    history: str | os.PathLike,
    parameters: Mapping[str, Any] | None = None,
    label: str = "training",
    threads: int = 1,
    workers: int = 0,
    device: str | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Train a model on the train split; write its weights and its history, each whole or not at all.

    The weights are those after the last epoch. None is chosen by its validation accuracy: the validation
    samples are there to fit policies on, and would look too easy to a model chosen by them.

    After each epoch a checkpoint is written beside `out` (its name and ".checkpoint"). A training that was
    killed goes on from there when it is started again, and ends with the same bits as one that was not: on
    the same machine, with the same number of threads. The number of workers does not matter. A checkpoint is
    set aside with a warning if it is damaged or not of this run: `parameters`, splits, options, seed, initial
    weights or torch's version differ.

    Parameters
    ----------
    build : callable
        Returns a new model, from images (B, C, H, W) to logits (B, L, classes). Called once torch is seeded.
    dataset : ImageDataset
    splits : DataFrame
        From `make_splits`. "train" is augmented, "validation" is not.
    options : TrainingOptions
    seed : int
        Of the initial weights, the order of the samples, augmentation and dropout; not negative.
    out : path
        Weights, for `load_weights`.
    history : path
        CSV, a row an epoch: epoch, learning_rate, train_loss, validation_loss, validation_accuracy_1 …
        validation_accuracy_L, seconds. All but the seconds are the same every time.
    parameters : mapping, optional
        What else makes the model: its name and options, the dataset's options; JSON values. Kept with the
        weights, beside dataset, splits, training options and seed.
    label : str
        Name of the progress bar, for example "msdnet-large seed 0".
    threads : int
        CPU threads of torch.
    workers : int
        Processes that make the batches; 0 makes them in this one.
    device : str, optional
        CUDA where there is one, if not given. There the training runs in bfloat16.
    progress : bool
        Show a bar on stderr.

    Returns
    -------
    DataFrame
        The history.

    Raises
    ------
    ValueError
        If the loss is no longer finite: it names epoch and step.
    """
    device = torch.device(device or default_device())
    train_set = dataset.samples(splits, "train", augment=True)
    validation_set = dataset.samples(splits, "validation")
    order = ShuffledBatches(len(train_set), options.batch_size, seed)
    train_batches = batch_loader(SeededSamples(train_set), order, workers, device)
    in_order = batches_in_order(len(validation_set), options.batch_size)
    validation_batches = batch_loader(validation_set, in_order, workers, device)
    parameters = {
        **(parameters or {}),
        "dataset": dataset.name,
        "splits": hashlib.sha256(splits.to_csv(index=False).encode()).hexdigest(),
        "training": asdict(options),
        "seed": seed,
    }
    checkpoint = Path(f"{out}.checkpoint")

    with torch_settings(threads):
        torch.manual_seed(seed)
        model = build()
        run = fingerprint(model, parameters)
        model.to(device, memory_format=torch.channels_last)  # convolutions are faster so, on CPUs too
        optimizer = _optimizer(model, options)
        rows = resume(checkpoint, run, model, optimizer)
        total, done = options.epochs * len(order), len(rows) * len(order)
        with progress_bar(total, label, done=done, shown=progress) as bar:
            postfix: dict[str, str] = {}
            for epoch in range(len(rows), options.epochs):
                start = time.monotonic()
                rate = options.learning_rate_of(epoch)
                for group in optimizer.param_groups:
                    group["lr"] = rate
                order.epoch = epoch
                torch.manual_seed(int(np.random.default_rng([seed, epoch, 1]).integers(2**63)))  # dropout
                train_loss = _train_epoch(model, train_batches, optimizer, options, epoch, bar, postfix)
                validation_loss, accuracy = _validate(model, validation_batches, options, epoch)
                rows.append(
                    {
                        "epoch": epoch + 1,
                        "learning_rate": rate,
                        "train_loss": train_loss,
                        "validation_loss": validation_loss,
                        **{f"validation_accuracy_{i}": share for i, share in enumerate(accuracy, 1)},
                        "seconds": round(time.monotonic() - start, 3),
                    }
                )
                save_checkpoint(checkpoint, run, model, optimizer, rows)
                postfix["accuracy"] = f"{accuracy[-1]:.1%}"
    table = pd.DataFrame(rows)
    write_text(history, table.to_csv(index=False))
    save_weights(out, model, parameters)
    checkpoint.unlink(missing_ok=True)
    return table


def exit_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each sample at each exit, (B, L), from logits (B, L, C) and labels (B,)."""
    labels = labels[:, None].expand(logits.shape[:2])  # (B, L)
    losses = cross_entropy(logits.float().flatten(0, 1), labels.flatten(), reduction="none")  # (B·L,)
    return losses.view(labels.shape)


def joint_loss(losses: Tensor, exit_weights: Literal["sum", "linear"]) -> Tensor:
    """One number from the samples' losses at each exit, (B, L)."""
    losses = losses.mean(0)  # (L,)
    if exit_weights == "sum":
        return losses.sum()
    weights = torch.arange(1, len(losses) + 1, dtype=losses.dtype, device=losses.device)  # (L,)
    return (weights * losses).sum() / weights.sum()


def _optimizer(model: nn.Module, options: TrainingOptions) -> Optimizer:
    shared = {"lr": options.learning_rate, "weight_decay": options.weight_decay, "fused": True}
    if options.optimizer == "sgd":
        return SGD(model.parameters(), momentum=options.momentum, **shared)
    return AdamW(model.parameters(), **shared)


def _train_epoch(
    model: nn.Module,
    batches: DataLoader,
    optimizer: Optimizer,
    options: TrainingOptions,
    epoch: int,
    bar: tqdm,
    postfix: dict[str, str],
) -> float:
    """One pass over the train split; returns its mean loss."""
    model.train()
    device = next(model.parameters()).device
    losses, sizes = [], []
    for images, labels in batches:
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            logits = model(images.to(device, non_blocking=True))  # (B, L, C)
        loss = joint_loss(exit_losses(logits, labels.to(device, non_blocking=True)), options.exit_weights)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
        sizes.append(len(labels))
        if bar.update():  # it was drawn just now: only then wait for the device and look at the loss
            postfix["loss"] = f"{loss.item():.3f}"
            bar.set_postfix(postfix, refresh=False)
            if not math.isfinite(loss.item()):
                break
    losses = torch.stack(losses).cpu().double().numpy()  # (steps,)
    if not (finite := np.isfinite(losses)).all():
        raise ValueError(
            f"training diverged: loss {losses[finite.argmin()]} in epoch {epoch + 1}, "
            f"step {finite.argmin() + 1} of {len(batches)}, expected finite numbers"
        )
    return float(np.average(losses, weights=sizes))


@torch.inference_mode()
def _validate(model: nn.Module, batches: DataLoader, options: TrainingOptions, epoch: int) -> tuple[float, list[float]]:
    """The joint loss on the validation split, and the accuracy of each exit."""
    model.eval()
    device = next(model.parameters()).device
    losses, correct = [], []
    for images, labels in batches:
        logits = model(images.to(device, non_blocking=True))  # (B, L, C)
        labels = labels.to(device, non_blocking=True)  # (B,)
        losses.append(exit_losses(logits, labels))
        correct.append(logits.argmax(2) == labels[:, None])
    loss = joint_loss(torch.cat(losses).cpu().double(), options.exit_weights).item()
    if not math.isfinite(loss):
        raise ValueError(f"training diverged: validation loss {loss} after epoch {epoch + 1}, expected a finite one")
    return loss, torch.cat(correct).cpu().double().mean(0).tolist()


def default_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


@contextmanager
def torch_settings(threads: int) -> Iterator[None]:
    """Inside, torch uses so many CPU threads and deterministic algorithms; it warns where it has none."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what makes cuBLAS deterministic
    before = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.set_deterministic_debug_mode(before[1])


def progress_bar(total: int, label: str, *, done: int = 0, shown: bool) -> tqdm:
    """A bar of batches on stderr; where that is no terminal (a log, several jobs at once), a line of it every 5 s."""
    terminal = sys.stderr.isatty()
    every = 0.2 if terminal else 5
    return tqdm(
        total=total,
        desc=label,
        initial=done,
        disable=not shown,
        unit="batch",
        mininterval=every,
        maxinterval=10,
        file=sys.stderr if terminal else _Lines(),
    )


class _Lines:
    """stderr, with a new line where a bar would draw over itself."""

    def write(self, text: str) -> None:
        sys.stderr.write(f"{text.strip()}\n" if text.strip() else "")

    def flush(self) -> None:
        sys.stderr.flush()
