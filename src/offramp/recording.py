"""Recording: run a trained model on all samples of a split and store the outputs of all exits."""

import os
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
import torch

from offramp._io.progress import progress_bar
from offramp.datasets import load_dataset
from offramp.datasets.base import Dataset, Samples
from offramp.datasets.batches import batch_loader, batches_in_order
from offramp.models import build_model
from offramp.models.base import LayeredModel, MultiExitModel
from offramp.models.costs import exit_costs
from offramp.records import ExitRecord
from offramp.training.checkpoints import load_weights, read_parameters
from offramp.training.device import default_device, portable_kernels, torch_settings


def load_trained(weights: str | os.PathLike) -> tuple[MultiExitModel, Dataset, dict[str, Any]]:
    """Load a trained model from its file of weights. Return it with its dataset and the parameters of its training.

    Raises
    ------
    ValueError
        If the file is not a file of weights, or if the model or the dataset cannot be loaded.
    """
    made = read_parameters(weights)
    options = {key: value for key, value in made["model_options"].items() if key != "pretrained"}  # not needed
    with portable_kernels(made["training"].get("portable", False)):
        dataset = load_dataset(made["dataset"], **made["dataset_options"])
        model = build_model(made["model"], classes=dataset.classes, **dataset.input_options, **options)
        load_weights(weights, model)
    return model, dataset, made


def load_pretrained(
    dataset: tuple[str, Mapping[str, Any]], model: tuple[str, Mapping[str, Any]], system: str | None = None
) -> tuple[MultiExitModel, Dataset, dict[str, Any]]:
    """Build a pretrained model. Return the same values as `load_trained`.

    Parameters
    ----------
    dataset, model : tuple of str and mapping
        Name and options.
    system : str, optional
        Name of the model. Default: its backbone.

    Raises
    ------
    ValueError
        If the model is not pretrained, or if the model or the dataset cannot be loaded.
    """
    (data_name, data_options), (name, options) = dataset, model
    if not options.get("pretrained"):
        raise ValueError(f"{name}: its weights are new; expected pretrained=true, or what `offramp train` wrote")
    source = load_dataset(data_name, **data_options)
    made = {"system": system or options.get("backbone", name), "seed": 0, "dataset": data_name}
    made |= {"dataset_options": dict(data_options), "model": name, "model_options": dict(options)}
    return build_model(name, classes=source.classes, **source.input_options, **options), source, made


def record(
    model: MultiExitModel,
    dataset: Dataset,
    splits: pd.DataFrame,
    split: str,
    *,
    system: str,
    seed: int,
    corruption=None,
    parameters: Mapping[str, Any] | None = None,
    batch_size: int = 256,
    threads: int = 1,
    workers: int = 0,
    device: str | None = None,
    progress: bool = True,
) -> ExitRecord:
    """Run a model on one split, in float32 and without augmentation.

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
        Seed that the model was trained with.
    corruption : Corruption, optional
        Of the inputs, before their preparation (see `datasets.corruptions`).
    parameters : mapping, optional
        Parameters of the training, as returned by `load_weights`. They are stored in the record.
    batch_size : int
    threads, workers, device, progress
        As for `training.train`.

    Returns
    -------
    ExitRecord
        Contains logits (N, L, C), float32, and the indices of the samples in their source pool. The cost is in MACs;
        for texts, it is stored per sample, at the length of the text without padding. For models whose layers have the
        same width, the record also contains the cosine similarity between the state of each exit and the previous one.
        The metadata state the corruption, if there is one.

    Raises
    ------
    ValueError
        If the split has no samples, or if the corruption is for other inputs.
    """
    device = torch.device(device or default_device())
    samples = dataset.samples(splits, split, corruption=corruption)
    portable = (parameters or {}).get("training", {}).get("portable", False)
    with portable_kernels(portable):  # before anything is computed: counting the costs does
        cost, parameters_needed = _costs(model, dataset, samples)
    n, n_exits = len(samples), model.n_exits
    logits = torch.empty(n, n_exits, dataset.classes)  # (N, L, C)
    similarity = torch.empty(n, n_exits) if isinstance(model, LayeredModel) else None  # (N, L)
    batches = batches_in_order(n, batch_size, samples.lengths)
    model.to(device, memory_format=torch.channels_last).eval()
    with (
        portable_kernels(portable),
        torch_settings(threads),
        torch.inference_mode(),
        torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False),
        progress_bar(len(batches), f"{system} seed {seed} {split}", shown=progress) as bar,
    ):
        for positions, (inputs, _) in zip(batches, batch_loader(samples, batches, workers, device)):
            inputs = inputs.to(device, non_blocking=True)
            outputs = list(model.outputs(inputs))  # L
            logits[positions] = torch.stack([output.logits for output in outputs], dim=1).cpu()  # (B, L, C)
            if similarity is not None:
                similarity[positions] = torch.stack([output.similarity for output in outputs], dim=1).cpu()  # (B, L)
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
            **({} if corruption is None else {"corruption": asdict(corruption)}),
        },
        similarity=None if similarity is None else similarity.numpy(),
    )


def time_exits(
    model: MultiExitModel,
    dataset: Dataset,
    splits: pd.DataFrame,
    *,
    batch_size: int = 256,
    batches: int = 10,
    threads: int = 1,
    device: str | None = None,
) -> pd.DataFrame:
    """Measure the time per sample up to each exit, in batches of test samples, on this machine.

    One batch is run first without being measured. Reading and preparing the samples is not included. These numbers are
    not stored in records, because they differ from run to run.

    Parameters
    ----------
    model : MultiExitModel
    dataset : Dataset
    splits : DataFrame
        From `make_splits`.
    batch_size : int
        Number of samples per batch.
    batches : int
        Maximum number of batches that are measured. They are spread over the test samples, and over all text lengths.
    threads, device
        As for `record`.

    Returns
    -------
    DataFrame
        One row per exit: exit, seconds (per sample, median over batches), seconds_low and seconds_high (quartiles),
        batch_size, batches, threads, device.
    """
    device = torch.device(device or default_device())
    samples = dataset.samples(splits, "test")
    in_order = list(batches_in_order(len(samples), batch_size, samples.lengths))
    chosen = [in_order[place] for place in np.linspace(0, len(in_order) - 1, min(batches, len(in_order))).astype(int)]
    model.to(device, memory_format=torch.channels_last).eval()

    def seconds(inputs: torch.Tensor) -> list[float]:  # (L,): per sample, up to each exit
        passed, begin = [], time.perf_counter()
        for _ in model.exits(inputs):
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            passed.append((time.perf_counter() - begin) / len(inputs))
        return passed

    with torch_settings(threads), torch.inference_mode():
        prepared = [samples[batch][0].to(device) for batch in (chosen[0], *chosen)]
        measured = np.array([seconds(inputs) for inputs in prepared])[1:]  # (batches, L)
    low, median, high = np.quantile(measured, [0.25, 0.5, 0.75], axis=0)  # (L,) each
    return pd.DataFrame(
        {
            "exit": np.arange(1, model.n_exits + 1),
            "seconds": median,
            "seconds_low": low,
            "seconds_high": high,
            "batch_size": min(batch_size, len(samples)),
            "batches": len(chosen),
            "threads": threads,
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        }
    )


def _costs(model: MultiExitModel, dataset: Dataset, samples: Samples) -> tuple[np.ndarray, np.ndarray]:
    """Return MACs, (L,) for images or (N, L) for texts at their lengths, and the parameters used by each exit, (L,)."""
    if samples.lengths is None:
        costs = exit_costs(model, dataset.input_options["image_shape"])
        return costs.macs, costs.parameters
    lengths, place = np.unique(samples.lengths, return_inverse=True)  # (U,), (N,)
    each = [exit_costs(model, (int(length),)) for length in lengths]
    return np.stack([costs.macs for costs in each])[place], each[-1].parameters
