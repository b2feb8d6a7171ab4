"""Recording: what a trained model says about every sample of a split, at every exit, in one pass."""

import os
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.nn.functional import cosine_similarity

from offramp.checkpoints import load_weights, read_parameters
from offramp.costs import exit_costs
from offramp.datasets import Dataset, Samples, load_dataset
from offramp.datasets.batches import batch_loader, batches_in_order
from offramp.models import LayeredModel, MultiExitModel, build_model
from offramp.records import ExitRecord
from offramp.training import default_device, progress_bar, torch_settings


def load_trained(weights: str | os.PathLike) -> tuple[MultiExitModel, Dataset, dict[str, Any]]:
    """A trained model from its file of weights, the dataset it was trained on, and the parameters that made it.

    Raises
    ------
    ValueError
        If the file is none, or model or dataset cannot be had.
    """
    made = read_parameters(weights)
    dataset = load_dataset(made["dataset"], **made["dataset_options"])
    options = {key: value for key, value in made["model_options"].items() if key != "pretrained"}  # we have weights
    model = build_model(made["model"], classes=dataset.classes, **dataset.input_options, **options)
    load_weights(weights, model)
    return model, dataset, made


def record(
    model: MultiExitModel,
    dataset: Dataset,
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
    dataset : Dataset
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
        Logits (N, L, C) float32; the index is the samples' place in their source pool; the cost is in MACs, for texts
        that of each at its own length, without padding. Of models whose layers are of one width also the cosine of the
        state that an exit reads with the one before it.
    """
    device = torch.device(device or default_device())
    samples = dataset.samples(splits, split)
    cost, parameters_needed = _costs(model, dataset, samples)
    n, n_exits = len(samples), model.n_exits
    logits = torch.empty(n, n_exits, dataset.classes)  # (N, L, C)
    similarity = torch.empty(n, n_exits) if isinstance(model, LayeredModel) else None  # (N, L)
    batches = batches_in_order(n, batch_size, samples.lengths)
    model.to(device, memory_format=torch.channels_last).eval()
    with (
        torch_settings(threads),
        torch.inference_mode(),
        torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False),
        progress_bar(len(batches), f"{system} seed {seed} {split}", shown=progress) as bar,
    ):
        for positions, (inputs, _) in zip(batches, batch_loader(samples, batches, workers, device)):
            inputs = inputs.to(device, non_blocking=True)
            if similarity is None:
                logits[positions] = model(inputs).cpu()  # (B, L, C)
            else:
                states = list(model.states(inputs))  # L + 1 of (B, D)
                logits[positions] = torch.stack([model.head(i, h) for i, h in enumerate(states[1:])], dim=1).cpu()
                pairs = pairwise(states)
                similarity[positions] = torch.stack([cosine_similarity(*pair) for pair in pairs], dim=1).cpu()
            bar.update()
    return ExitRecord(
        logits=logits.numpy(),
        labels=samples.labels,
        cost=cost,
        index=samples.index,
        metadata={
            "dataset": dataset.name,
            "split": split,
            "system": system,
            "seed": seed,
            "classes": dataset.classes,
            "metric": dataset.metric,
            "unit": "MAC",
            "exit_parameters": parameters_needed.tolist(),
            "parameters": dict(parameters or {}),
        },
        similarity=None if similarity is None else similarity.numpy(),
    )


def _costs(model: MultiExitModel, dataset: Dataset, samples: Samples) -> tuple[np.ndarray, np.ndarray]:
    """MACs, (L,) for images, (N, L) for texts at their own lengths; and the parameters that each exit needs, (L,)."""
    if samples.lengths is None:
        costs = exit_costs(model, dataset.input_options["image_shape"])
        return costs.macs, costs.parameters
    lengths, place = np.unique(samples.lengths, return_inverse=True)  # (U,), (N,)
    each = [exit_costs(model, (int(length),)) for length in lengths]
    return np.stack([costs.macs for costs in each])[place], each[-1].parameters
