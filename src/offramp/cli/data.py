"""The command `offramp data`."""

import click

from offramp.cli.options import (
    OUT,
    Spec,
    Verb,
)


@click.command(cls=Verb)
@click.argument("dataset", type=Spec())
@click.option(
    "--validation",
    type=click.IntRange(1),
    required=True,
    help="Number of training samples to hold out for fitting policies.",
)
@click.option(
    "--test", type=click.IntRange(1), help="Number of samples to hold out for testing, if the dataset has no test set."
)
@click.option("--train", type=click.IntRange(1), help="Number of remaining samples to use for training. Default: all.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the random split.")
@click.option("--out", type=OUT, required=True, help="Output: CSV file with the columns split, pool, index.")
def data(dataset, out, **options) -> None:
    """Split DATASET into training, validation and test samples.

    DATASET is NAME:option=value,…; it is downloaded if necessary. The output has one row per sample. `offramp train`
    and `offramp record` read it. Each class has about the same share in every part.

    \b
    For example:
      offramp data digits --validation 360 --test 540 --out splits.csv
    """
    from offramp.datasets import load_dataset
    from offramp.datasets.splits import make_splits, save_splits

    name, dataset_options = dataset
    source = load_dataset(name, **dataset_options)
    save_splits(make_splits(source, **options), out, source)
