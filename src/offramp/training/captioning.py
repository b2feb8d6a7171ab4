"""Training of captioners in two stages: the backbone first, then the exits of the frozen backbone."""

import math
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from offramp._io.progress import progress_bar
from offramp._io.writing import write_text
from offramp.datasets.captions import CaptionDataset, following
from offramp.models.captioner import Captioner
from offramp.training.checkpoints import fingerprint, resume, save_checkpoint, save_weights
from offramp.training.device import torch_settings
from offramp.training.loop import make_optimizer
from offramp.training.losses import exit_losses
from offramp.training.options import TrainingOptions

STAGES = ("backbone", "exits")


def train_captioner(
    model: Captioner,
    dataset: CaptionDataset,
    options: TrainingOptions,
    *,
    exit_epochs: int,
    seed: int,
    out: str | os.PathLike,
    history: str | os.PathLike,
    parameters: Mapping[str, Any] | None = None,
    threads: int = 1,
    label: str = "captioner",
    progress: bool = True,
) -> pd.DataFrame:
    """Train a captioner, as in BEEM: the backbone first, then the exits, while the backbone does not change.

    Its weights and its history are written atomically. After each epoch, a checkpoint of the stage is written next to
    `out` (with ".backbone.checkpoint" or ".exits.checkpoint" appended to its name), from which the next call continues
    after an interruption, as `loop.train` does. Both are deleted at the end.

    The loss of the backbone is the cross-entropy of the last exit. The loss of the earlier exits is 0.5 times the
    cross-entropy plus 0.5 times KL(last exit ‖ exit), averaged over tokens and exits. They start from the weights of
    the last exit (our choice). In each epoch, one of the captions of each image is drawn. There is no augmentation.

    Parameters
    ----------
    model : Captioner
        It is trained in place, on the device of its parameters.
    dataset : CaptionDataset
    options : TrainingOptions
        `epochs` are those of the backbone. Training is in float32, and the options `precision`, `exit_weights`,
        `distillation` and `compile` are not used.
    exit_epochs : int
        Number of epochs of the exits, with the same schedule.
    seed : int
        Seed of the order of the images, of the captions, and of dropout. The weights are drawn before.
    out : path
        File of the weights, for `load_weights`.
    history : path
        CSV file with the history.
    parameters : mapping, optional
        Further parameters as JSON values: name and options of the model and of the dataset. They are stored with the
        weights, together with the training options and the seed.
    threads : int
        Number of CPU threads of torch.
    label : str
        Name of the progress bar.
    progress : bool
        Show a progress bar on stderr.

    Returns
    -------
    DataFrame
        One row per epoch: stage, epoch, learning_rate, train_loss, validation_loss (the loss of the stage, per token),
        accuracy_1 … accuracy_L (share of tokens of the validation captions that each exit predicts), seconds.

    Raises
    ------
    ValueError
        If the loss is not finite.
    """
    parameters = {
        **(parameters or {}),
        "training": options.stored_options() | {"exit_epochs": exit_epochs},
        "seed": seed,
    }
    rows, checkpoints = [], []
    with torch_settings(threads):
        for stage, epochs in zip(STAGES, (options.epochs, exit_epochs)):
            if stage == "exits":
                model.start_exits()
            checkpoints.append(Path(f"{out}.{stage}.checkpoint"))
            its = replace(options, epochs=epochs)
            rows += _train(model, dataset, its, stage, seed, checkpoints[-1], parameters, f"{label}, {stage}", progress)
    model.requires_grad_(True)
    table = pd.DataFrame(rows, columns=None if rows else ["stage", "epoch"])
    write_text(history, table.to_csv(index=False))
    save_weights(out, model, parameters)
    for checkpoint in checkpoints:
        checkpoint.unlink(missing_ok=True)
    return table


def _train(
    model: Captioner,
    dataset: CaptionDataset,
    options: TrainingOptions,
    stage: str,
    seed: int,
    checkpoint: Path,
    parameters: Mapping[str, Any],
    label: str,
    shown: bool,
) -> list[dict]:
    """Run the epochs of one stage, from its checkpoint on, and return the rows of its history."""
    of_exits = {id(parameter) for parameter in model.exits}
    for parameter in model.parameters():
        parameter.requires_grad_((id(parameter) in of_exits) == (stage == "exits"))
    optimizer, run = make_optimizer(model, options), fingerprint(model, {**parameters, "stage": stage})
    rows = resume(checkpoint, run, model, optimizer)
    steps = -(-len(dataset.references["train"]) // options.batch_size)
    with progress_bar(options.epochs * steps, label, done=len(rows) * steps, shown=shown) as bar:
        for epoch in range(len(rows), options.epochs):
            begin = time.monotonic()
            rng = np.random.default_rng([seed, STAGES.index(stage), epoch])
            torch.manual_seed(int(rng.integers(2**63)))  # dropout
            model.train(stage == "backbone")
            losses = []
            for step, batch in enumerate(batches(dataset, "train", options.batch_size, rng)):
                for group in optimizer.param_groups:
                    group["lr"] = options.learning_rate_of(epoch, step / steps)
                loss = _losses(model, *batch, stage)[0]  # (P,)
                optimizer.zero_grad()
                loss.mean().backward()
                optimizer.step()
                losses.append(loss.detach())
                bar.update()
            train_loss = torch.cat(losses).double().mean().item()
            if not math.isfinite(train_loss):
                raise ValueError(
                    f"training diverged: loss {train_loss} in epoch {epoch + 1} of the {stage}, expected a finite one; "
                    "lower the learning rate"
                )
            validation_loss, accuracy = _validate(model, dataset, options.batch_size, stage)
            rows.append(
                {
                    "stage": stage,
                    "epoch": epoch + 1,
                    "learning_rate": options.learning_rate_of(epoch),
                    "train_loss": train_loss,
                    "validation_loss": validation_loss,
                    **{f"accuracy_{i}": share for i, share in enumerate(accuracy, 1)},
                    "seconds": round(time.monotonic() - begin, 3),
                }
            )
            save_checkpoint(checkpoint, run, model, optimizer, rows)
    return rows


def batches(
    dataset: CaptionDataset, split: str, size: int, rng: np.random.Generator | None = None
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Yield images (B, C, H, W), tokens, labels and where these are, (B, T) each, of a split, as in `following`.

    With random numbers, the order and one caption of each image are drawn. Otherwise, it is the first caption of each
    image, in order.
    """
    references, vocabulary = dataset.references[split], dataset.vocabulary
    order = np.arange(len(references)) if rng is None else rng.permutation(len(references))  # (N,)
    for first in range(0, len(order), size):
        index = order[first : first + size]  # (B,)
        of_images = [references[i] for i in index]
        drawn = [captions[0 if rng is None else rng.integers(len(captions))] for captions in of_images]
        tokens = following(vocabulary.encode(drawn), vocabulary.eos)
        yield dataset.images(split, index), *map(torch.from_numpy, tokens)


def _losses(
    model: Captioner, images: Tensor, tokens: Tensor, labels: Tensor, there: Tensor, stage: str
) -> tuple[Tensor, Tensor]:
    """Return the loss of each token (P,), and whether each exit predicts it (P, L); in the first stage, the last."""
    images, tokens, labels, there = (x.to(model.device) for x in (images, tokens, labels, there))
    _, *states = model.states(model.encode(images), tokens)
    labels = labels[there]  # (P,)
    if stage == "backbone":
        logits = model.head(model.n_exits - 1, states[-1][there])  # (P, V)
        return cross_entropy(logits, labels, reduction="none"), logits.argmax(1, keepdim=True) == labels[:, None]
    logits = torch.stack([model.head(i, hidden[there]) for i, hidden in enumerate(states)], dim=1)  # (P, L, V)
    losses = exit_losses(logits, labels, distillation=1.0)[:, :-1]  # (P, L − 1)
    return 0.5 * losses.mean(1), logits.argmax(2) == labels[:, None]


@torch.inference_mode()
def _validate(model: Captioner, dataset: CaptionDataset, size: int, stage: str) -> tuple[float, list[float]]:
    model.eval()
    each = [_losses(model, *batch, stage) for batch in batches(dataset, "validation", size)]
    losses, right = (torch.cat(values) for values in zip(*each))
    accuracy = right.double().mean(0).tolist()
    return losses.double().mean().item(), [float("nan")] * (model.n_exits - len(accuracy)) + accuracy
