"""Training of multi-exit models: all exits at once, the same bits every time, resumed where it was killed."""

import math
import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD, AdamW, Optimizer
from tqdm import tqdm

from offramp._io.progress import progress_bar
from offramp._io.writing import write_text
from offramp.datasets.base import Dataset
from offramp.datasets.batches import SeededSamples, ShuffledBatches, batch_loader, batches_in_order
from offramp.training.checkpoints import digest, fingerprint, resume, save_checkpoint, save_weights
from offramp.training.device import default_device, torch_settings
from offramp.training.distributed import (
    Parts,
    first_before_others,
    gathered,
    part_of,
    process_group,
    process_rank,
    take_from_first,
)
from offramp.training.losses import exit_losses, joint_loss
from offramp.training.options import TrainingOptions


def train(
    build: Callable[[], nn.Module],
    dataset: Dataset,
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
    the same machine, with the same number of threads; of more than two processes, but for the rounding of
    their sums. The number of workers does not matter. A checkpoint is
    set aside with a warning if it is damaged or not of this run: `parameters`, splits, options, seed, initial
    weights, the number of processes or torch's version differ.

    Started by torchrun, its processes train one model together, each on a GPU of its own where there are GPUs.
    Every batch is cut over them, and a step follows the gradient of the whole batch's mean loss: the options mean
    what they mean for one process. What differs: each draws augmentation and dropout of its own, and batch norm
    sees a process's part of the batch; the first one's running averages are kept. It alone writes and shows a bar,
    to a folder that all of them must see.

    Parameters
    ----------
    build : callable
        Returns a new model, from the dataset's inputs (B, …) to logits (B, L, classes). Called once torch is seeded.
    dataset : Dataset
    splits : DataFrame
        From `make_splits`. "train" is augmented, "validation" is not. Texts come in batches of similar length.
    options : TrainingOptions
    seed : int
        Of the initial weights, the order of the samples, augmentation and dropout; not negative.
    out : path
        Weights, for `load_weights`.
    history : path
        CSV, a row an epoch: epoch, learning_rate (of its first step), train_loss, validation_loss,
        validation_accuracy_1 … validation_accuracy_L, seconds. All but the seconds are the same every time.
    parameters : mapping, optional
        What else makes the model: its name and options, the dataset's options; JSON values. Kept with the
        weights, beside dataset, splits, training options, seed, and the number of processes if there are several.
    label : str
        Name of the progress bar, for example "msdnet-large seed 0".
    threads : int
        CPU threads of torch, in each process.
    workers : int
        Processes that make the batches, for each one that trains; 0 makes them in this one.
    device : str, optional
        CUDA where there is one, if not given.
    progress : bool
        Show a bar on stderr.

    Returns
    -------
    DataFrame
        The history.

    Raises
    ------
    ValueError
        If the loss is no longer finite: it names epoch and step. If there are more processes than samples in a batch.
    """
    device = torch.device(device or default_device())
    with torch_settings(threads), process_group(device):
        rank, processes = process_rank()
        train_set = dataset.samples(splits, "train", augment=True)
        validation_set = dataset.samples(splits, "validation")
        order = ShuffledBatches(len(train_set), options.batch_size, seed, train_set.lengths)
        in_order = batches_in_order(len(validation_set), options.batch_size, validation_set.lengths)
        sizes = [len(batch) for batch in batches_in_order(len(train_set), options.batch_size)]  # those of `order` too
        if (least := min(sizes + [len(batch) for batch in in_order])) < processes:
            raise ValueError(
                f"batch_size={options.batch_size}: a batch has {least} samples, expected one for each of the "
                f"{processes} processes; start fewer"
            )
        train_batches = batch_loader(SeededSamples(train_set), Parts(order, rank, processes), workers, device)
        validation_parts = [part_of(batch, rank, processes) for batch in in_order]
        validation_batches = batch_loader(validation_set, validation_parts, workers, device)
        parameters = {
            **(parameters or {}),
            "dataset": dataset.name,
            "splits": digest(splits),
            "training": options.recorded(),
            "seed": seed,
            **({"processes": processes} if processes > 1 else {}),
        }
        checkpoint = Path(f"{out}.checkpoint")

        torch.manual_seed(seed)
        model = build()
        run = fingerprint(model, parameters)
        model.to(device, memory_format=torch.channels_last)  # convolutions are faster so, on CPUs too
        optimizer = make_optimizer(model, options)
        with first_before_others():  # it may set the checkpoint aside
            rows = resume(checkpoint, run, model, optimizer)
        stepping = for_steps(model, options)
        total, done = options.epochs * len(order), len(rows) * len(order)
        with progress_bar(total, label, done=done, shown=progress and rank == 0) as bar:
            postfix: dict[str, str] = {}
            for epoch in range(len(rows), options.epochs):
                start = time.monotonic()
                order.epoch = epoch
                torch.manual_seed(int(np.random.default_rng([seed, epoch, 1]).integers(2**63)) + rank)  # dropout
                train_loss = train_epoch(stepping, train_batches, sizes, optimizer, options, epoch, bar, postfix)
                validation_loss, accuracy = _validate(model, validation_batches, options, epoch)
                rows.append(
                    {
                        "epoch": epoch + 1,
                        "learning_rate": options.learning_rate_of(epoch),
                        "train_loss": train_loss,
                        "validation_loss": validation_loss,
                        **{f"validation_accuracy_{i}": share for i, share in enumerate(accuracy, 1)},
                        "seconds": round(time.monotonic() - start, 3),
                    }
                )
                if rank == 0:
                    save_checkpoint(checkpoint, run, model, optimizer, rows)
                postfix["accuracy"] = f"{accuracy[-1]:.1%}"
        table = pd.DataFrame(rows, columns=None if rows else ["epoch"])
        if rank == 0:
            write_text(history, table.to_csv(index=False))
            save_weights(out, model, parameters)
            checkpoint.unlink(missing_ok=True)
    return table


def make_optimizer(model: nn.Module, options: TrainingOptions) -> Optimizer:
    """The optimizer of what is to be trained: a frozen backbone is none of its business."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    shared = {"lr": options.learning_rate, "weight_decay": options.weight_decay, "fused": True}
    if options.optimizer == "sgd":
        return SGD(trained, momentum=options.momentum, **shared)
    return AdamW(trained, **shared)


def for_steps(model: nn.Module, options: TrainingOptions) -> nn.Module:
    """The model as training steps call it: over all processes, and compiled if the options say so."""
    if process_rank().processes > 1:
        model = DistributedDataParallel(model)
    return torch.compile(model) if options.compile else model


def train_epoch(
    model: nn.Module,
    batches: Collection[tuple[Tensor, Tensor]],
    sizes: Sequence[int],
    optimizer: Optimizer,
    options: TrainingOptions,
    epoch: int,
    bar: tqdm,
    postfix: dict[str, str],
) -> float:
    """One pass over the train split, in batches of these sizes over all processes; returns its mean loss."""
    model.train()
    device = next(model.parameters()).device
    losses, counts = [], []
    for step, ((inputs, labels), size) in enumerate(zip(batches, sizes)):
        for group in optimizer.param_groups:
            group["lr"] = options.learning_rate_of(epoch, step / len(batches))
        inputs = inputs.to(device, non_blocking=True)  # (B, …)
        labels = labels.to(device, non_blocking=True)  # (B,)
        if options.compile:  # once for all: batches differ by a sample, those of tokens (B, T) also in length
            torch._dynamo.mark_dynamic(inputs, 0 if inputs.is_floating_point() else (0, 1))
        with torch.autocast(device.type, torch.bfloat16, enabled=options.in_bfloat16(device)):
            logits = model(inputs)  # (B, L, C)
        loss = joint_loss(exit_losses(logits, labels, options.distillation), options.exit_weights)
        optimizer.zero_grad()
        # The processes' gradients are averaged as if all had as many samples; alone, this is 1
        (loss * (process_rank().processes * len(labels) / size)).backward()
        optimizer.step()
        losses.append(loss.detach())
        counts.append(len(labels))
        if bar.update():  # it was drawn just now: only then wait for the device and look at the loss
            postfix["loss"] = f"{loss.item():.3f}"
            bar.set_postfix(postfix, refresh=False)
            if not math.isfinite(loss.item()):
                break
    losses = torch.stack(losses).cpu().double()  # (steps,)
    if not losses.isfinite().all():
        step = losses.isfinite().tolist().index(False)
        raise ValueError(
            f"training diverged: loss {losses[step]} in epoch {epoch + 1}, "
            f"step {step + 1} of {len(batches)}, expected finite numbers"
        )
    return float(np.average(gathered(losses), weights=gathered(torch.tensor(counts))))


@torch.inference_mode()
def _validate(
    model: nn.Module, batches: Collection[tuple[Tensor, Tensor]], options: TrainingOptions, epoch: int
) -> tuple[float, list[float]]:
    """The joint loss on the validation split, and the accuracy of each exit."""
    model.eval()
    take_from_first(model.buffers())  # batch norm's averages: the first process's are saved
    device = next(model.parameters()).device
    losses, correct = [], []
    for inputs, labels in batches:
        logits = model(inputs.to(device, non_blocking=True))  # (B, L, C)
        labels = labels.to(device, non_blocking=True)  # (B,)
        losses.append(exit_losses(logits, labels, options.distillation))
        correct.append(logits.argmax(2) == labels[:, None])
    loss = joint_loss(gathered(torch.cat(losses).cpu().double()), options.exit_weights).item()
    if not math.isfinite(loss):
        raise ValueError(f"training diverged: validation loss {loss} after epoch {epoch + 1}, expected a finite one")
    return loss, gathered(torch.cat(correct).cpu().double()).mean(0).tolist()
