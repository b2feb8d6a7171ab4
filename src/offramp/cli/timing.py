"""The command `offramp time`, which measures how much faster a model is if it stops."""

import click
import numpy as np

from offramp._io.tables import write_table
from offramp.cascades.building import Combined
from offramp.cli.options import EXISTING, TABLE, THREADS, Verb, about, choosing_part
from offramp.policies import load_policies
from offramp.policies.reference import Oracle, Random
from offramp.records import ExitRecord


@click.command(cls=Verb)
@click.argument("weights", type=EXISTING, nargs=-1, required=True)
@click.option("--splits", type=EXISTING, required=True, help="Splits from `offramp data`.")
@click.option("--policies", type=EXISTING, required=True, help="File of fitted policies from `offramp calibrate`.")
@click.option(
    "--validation",
    type=EXISTING,
    required=True,
    help="Validation record. Thresholds are chosen on the samples that were held out at the fit, if there are any.",
)
@click.option("--test", type=EXISTING, required=True, help="Test record of the same model, with the costs.")
@click.option(
    "--batch-size",
    "batch_sizes",
    type=click.IntRange(1),
    multiple=True,
    default=(1, 32),
    show_default=True,
    help="Number of samples per batch. Repeat this option for each size.",
)
@click.option(
    "--samples",
    type=click.IntRange(1),
    help="Number of test samples. Default: 96, or the largest batch size if larger.",
)
@THREADS
@click.option("--out", type=TABLE, required=True, help="Output: one row per policy and batch size, .parquet or .csv.")
def time(weights, splits, policies, validation, test, batch_sizes, samples, threads, out) -> None:
    """Measure the speed-up of each policy in seconds, beside its speed-up in layers and in costs (MACs).

    WEIGHTS are files from `offramp train`: one model, or the models of a cascade, cheaper models first. For each
    policy, the threshold is the cheapest that loses no accuracy on --validation, compared with the last exit. Test
    samples then run through the model, which stops for each of them at its exit, and through the full model, side by
    side. The policies `oracle` and `random` are left out: they are not rules for use. `other_exits` is the number of
    samples that left at another exit than in the record, because the signal was closer to the threshold than rounding.

    \b
    For example:
      offramp time weights.safetensors --splits splits.csv --policies policies.safetensors \\
          --validation validation.safetensors --test test.safetensors --out times.csv
    """
    import pandas as pd
    import torch

    from offramp.datasets.splits import load_splits
    from offramp.evaluation import accuracy_without_loss
    from offramp.recording import load_trained
    from offramp.runtime.timing import stopping, time_policies
    from offramp.training.device import default_device, torch_settings

    of_file, run = load_policies(policies)
    held_out, record = choosing_part(run, ExitRecord.load(validation)), ExitRecord.load(test)
    target = accuracy_without_loss(held_out)
    chosen = {
        label: (policy, policy.choose_threshold(held_out, accuracy=target))
        for label, policy in of_file.items()
        if not isinstance(policy, Oracle | Random)
    }
    if not chosen:
        raise ValueError(f"{policies}: only oracle and random; expected a policy that can run")
    models, datasets, _ = zip(*map(load_trained, weights))
    of_models = [dataset.samples(load_splits(splits, dataset), "test") for dataset in datasets]
    if not np.array_equal(record.index, of_models[0].index):
        raise ValueError(
            f"{test}: its samples are not the test samples of {splits}; expected the record of {weights[0]}"
        )
    for model in models:
        model.to(default_device(), memory_format=torch.channels_last)
    samples = min(samples or max(96, *batch_sizes), len(record))
    rows = np.linspace(0, len(record) - 1, samples).astype(int)  # (n,)
    any_policy = next(iter(chosen.values()))
    stop, inputs = stopping(models, of_models, rows, Combined.of(held_out), *any_policy, cost=record.cost)
    parts, tables = np.arange(len(rows)), []  # (n,)
    with torch_settings(threads):
        for size in batch_sizes:
            batches = [inputs(part) for part in np.split(parts, parts[size::size])]
            title = f"{record.metadata.get('system', test.stem)}, batch size {size}"
            times = time_policies(stop, chosen, batches, record.take(rows), progress=title)
            tables.append(times.assign(batch_size=size))
    device = torch.cuda.get_device_name() if stop.device.type == "cuda" else "cpu"
    table = pd.concat(tables, ignore_index=True).assign(samples=len(rows), threads=threads, device=device)
    write_table(about(record, test, table), out)
