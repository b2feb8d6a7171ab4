"""The training loop: joint training of all exits, reproducible and resumable."""

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
from offramp.training.device import default_device, portable_kernels, torch_settings
from offramp.training.distributed import (
    ShardedBatches,
    broadcast_from_first,
    first_before_others,
    gather,
    process_group,
    process_rank,
    shard,
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
    """Train a model on the training split, and write its weights and its history atomically.

    The weights are those after the last epoch. They are not selected by validation accuracy, because the validation
    samples are used to fit policies and would then give optimistic results.

    After each epoch, a checkpoint is written next to `out` (with ".checkpoint" appended to its name). If training was
    interrupted, the next call continues from the checkpoint. The results are then bit-identical to those of an
    uninterrupted run on the same machine with the same number of threads. With more than two processes, they are equal
    up to the rounding of sums. The number of workers has no effect. A checkpoint is renamed, with a warning, if it is
    damaged or belongs to another run, that is, if `parameters`, splits, options, seed, initial weights, the number of
    processes or the version of torch differ.

    If started by torchrun, all processes train one model together, each on its own GPU if there are GPUs. Every batch
    is split among the processes, and each step uses the gradient of the mean loss over the whole batch, so the options
    have the same meaning as for one process. Two things differ: each process uses its own random numbers for
    augmentation and dropout, and batch norm uses the process's part of the batch, with the running averages of the
    first process. Only the first process writes files and shows a progress bar. All processes must have access to the
    folder.

    Parameters
    ----------
    build : callable
        Function that returns a new model, which maps inputs (B, …) to logits (B, L, classes). It is called after torch
        is seeded.
    dataset : Dataset
    splits : DataFrame
        From `make_splits`. The split "train" is augmented; "validation" is not. Texts are batched by similar length.
    options : TrainingOptions
    seed : int
        Non-negative seed of the initial weights, the order of the samples, augmentation and dropout.
    out : path
        File of the weights, for `load_weights`.
    history : path
        CSV file with one row per epoch: epoch, learning_rate (of its first step), train_loss, validation_loss,
        validation_accuracy_1 … validation_accuracy_L, seconds. All columns except seconds are reproducible.
    parameters : mapping, optional
        Further parameters as JSON values: name and options of the model, options of the dataset. They are stored with
        the weights, together with dataset, splits, training options, seed, and the number of processes if there are
        several.
    label : str
        Name of the progress bar, for example "msdnet-large seed 0".
    threads : int
        Number of CPU threads of torch in each process.
    workers : int
        Number of processes that prepare batches, for each training process. 0 prepares them in the training process.
    device : str, optional
        Default: CUDA if available.
    progress : bool
        Show a progress bar on stderr.

    Returns
    -------
    DataFrame
        The history.

    Raises
    ------
    ValueError
        If the loss is not finite (the message names epoch and step), or if there are more processes than samples in a
        batch.
    """
    device = torch.device(device or default_device())
    with portable_kernels(options.portable), torch_settings(threads), process_group(device):
        rank, processes = process_rank()
        train_set = dataset.samples(splits, "train", augment=True)
        validation_set = dataset.samples(splits, "validation")
        order = ShuffledBatches(len(train_set), options.batch_size, seed, train_set.lengths)
        in_order = batches_in_order(len(validation_set), options.batch_size, validation_set.lengths)
        sizes = [len(batch) for batch in batches_in_order(len(train_set), options.batch_size)]  # also of `order`
        if (least := min(sizes + [len(batch) for batch in in_order])) < processes:
            raise ValueError(
                f"batch_size={options.batch_size}: a batch has {least} samples, expected one for each of the "
                f"{processes} processes; start fewer"
            )
        train_batches = batch_loader(SeededSamples(train_set), ShardedBatches(order, rank, processes), workers, device)
        validation_shards = [shard(batch, rank, processes) for batch in in_order]
        validation_batches = batch_loader(validation_set, validation_shards, workers, device)
        parameters = {
            **(parameters or {}),
            "dataset": dataset.name,
            "splits": digest(splits),
            "training": options.stored_options(),
            "seed": seed,
            **({"processes": processes} if processes > 1 else {}),
        }
        checkpoint = Path(f"{out}.checkpoint")

        torch.manual_seed(seed)
        model = build()
        run = fingerprint(model, parameters)
        model.to(device, memory_format=torch.channels_last)  # faster convolutions, on CPUs too
        optimizer = make_optimizer(model, options)
        with first_before_others():  # it may rename the checkpoint
            rows = resume(checkpoint, run, model, optimizer)
        stepping = wrap_for_training(model, options)
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
    """Return the optimizer of the trainable parameters, without those of a frozen backbone."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    shared = {"lr": options.learning_rate, "weight_decay": options.weight_decay, "fused": True}
    if options.optimizer == "sgd":
        return SGD(trained, momentum=options.momentum, **shared)
    return AdamW(trained, **shared)


def wrap_for_training(model: nn.Module, options: TrainingOptions) -> nn.Module:
    """Wrap the model for training steps: distributed over all processes, and compiled if the options require it."""
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
    """Train for one epoch, with the given batch sizes summed over all processes, and return the mean loss."""
    model.train()
    device = next(model.parameters()).device
    losses, counts = [], []
    for step, ((inputs, labels), size) in enumerate(zip(batches, sizes)):
        for group in optimizer.param_groups:
            group["lr"] = options.learning_rate_of(epoch, step / len(batches))
        inputs = inputs.to(device, non_blocking=True)  # (B, …)
        labels = labels.to(device, non_blocking=True)  # (B,)
        if options.compile:  # compile once: batch sizes differ by one, and token batches (B, T) also in length
            torch._dynamo.mark_dynamic(inputs, 0 if inputs.is_floating_point() else (0, 1))
        with torch.autocast(device.type, torch.bfloat16, enabled=options.in_bfloat16(device)):
            logits = model(inputs)  # (B, L, C)
        loss = joint_loss(exit_losses(logits, labels, options.distillation), options.exit_weights)
        optimizer.zero_grad()
        # Gradients are averaged over processes with equal weights. This corrects for parts of different size
        (loss * (process_rank().processes * len(labels) / size)).backward()
        optimizer.step()
        losses.append(loss.detach())
        counts.append(len(labels))
        if bar.update():  # the bar was just redrawn: only then wait for the device to read the loss
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
    return float(np.average(gather(losses), weights=gather(torch.tensor(counts))))


@torch.inference_mode()
def _validate(
    model: nn.Module, batches: Collection[tuple[Tensor, Tensor]], options: TrainingOptions, epoch: int
) -> tuple[float, list[float]]:
    """Return the joint loss on the validation split and the accuracy of each exit."""
    model.eval()
    broadcast_from_first(model.buffers())  # running averages of batch norm: those of the first process are saved
    device = next(model.parameters()).device
    losses, correct = [], []
    for inputs, labels in batches:
        logits = model(inputs.to(device, non_blocking=True))  # (B, L, C)
        labels = labels.to(device, non_blocking=True)  # (B,)
        losses.append(exit_losses(logits, labels, options.distillation))
        correct.append(logits.argmax(2) == labels[:, None])
    loss = joint_loss(gather(torch.cat(losses).cpu().double()), options.exit_weights).item()
    if not math.isfinite(loss):
        raise ValueError(f"training diverged: validation loss {loss} after epoch {epoch + 1}, expected a finite one")
    return loss, gather(torch.cat(correct).cpu().double()).mean(0).tolist()
