"""Recording: what a trained model says about every sample of a split, at every exit, in one pass."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
import torch

from offramp.costs import exit_costs
from offramp.datasets import ImageDataset
from offramp.datasets.batches import batch_loader, batches_in_order
from offramp.models import MultiExitModel
from offramp.records import ExitRecord
from offramp.training import default_device, progress_bar, torch_settings


def record(
    model: MultiExitModel,
    dataset: ImageDataset,
    splits: pd.DataFrame,
    split: str,
    *,
    system: str,
    seed: int,
    parameters: Mapping[str, Any] | None = None,
    batch_size: int = 256,
    threads: int = 1,
    workers: int = 0,
    device: str | None = None,
    progress: bool = True,
) -> ExitRecord:
    """Run a model over one split, never augmented, in float32.

    Parameters
    ----------
    model : MultiExitModel
    dataset : ImageDataset
    splits : DataFrame
        From `make_splits`.
    split : {"train", "validation", "test"}
    system : str
        Name of the model in the study, for example "msdnet-large".
    seed : int
        The one that it was trained with.
    parameters : mapping, optional
        What made the model: what `load_weights` returned. Kept in the record.
    batch_size : int
    threads, workers, device, progress
        As for `training.train`.

    Returns
    -------
    ExitRecord
        Logits (N, L, C) float32; the index is the samples' place in their source pool; the cost is in MACs.
    """
    device = torch.device(device or default_device())
    samples = dataset.samples(splits, split)
    costs = exit_costs(model, dataset.image_shape)
    cuda = device.type == "cuda"
    logits = torch.empty(len(samples), model.n_exits, dataset.classes, pin_memory=cuda)  # (N, L, C)
    batches = batches_in_order(len(samples), batch_size)
    model.to(device, memory_format=torch.channels_last).eval()
    with (
        torch_settings(threads),
        torch.inference_mode(),
        torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False),
        progress_bar(len(batches), f"{system} seed {seed} {split}", shown=progress) as bar,
    ):
        for positions, (images, _) in zip(batches, batch_loader(samples, batches, workers, device)):
            here = slice(positions[0], positions[-1] + 1)
            logits[here].copy_(model(images.to(device, non_blocking=True)), non_blocking=True)
            bar.update()
        if cuda:
            torch.cuda.synchronize(device)  # the copies overlap with the batches after them
    return ExitRecord(
        logits=logits.numpy(),
        labels=samples.labels,
        cost=costs.macs,
        index=samples.index,
        metadata={
            "dataset": dataset.name,
            "split": split,
            "system": system,
            "seed": seed,
            "classes": dataset.classes,
            "unit": "MAC",
            "exit_parameters": costs.parameters.tolist(),
            "parameters": dict(parameters or {}),
        },
    )
