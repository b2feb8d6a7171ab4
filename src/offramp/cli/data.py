"""`offramp data`: the splits of a dataset."""

import click

from offramp.cli.options import (
    OUT,
    Spec,
    Verb,
)


@click.command(cls=Verb)
@click.argument("dataset", type=Spec())
@click.option("--validation", type=click.IntRange(1), required=True, help="Samples held out to fit policies.")
@click.option("--test", type=click.IntRange(1), help="Samples held out for the test, where the source has no test set.")
@click.option("--train", type=click.IntRange(1), help="How many of the rest train; all, if not given.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--out", type=OUT, required=True, help="CSV: split, pool, index.")
def data(dataset, out, **options) -> None:
    """Split DATASET into train, validation and test, and write the split down."""
    from offramp.datasets import load_dataset
    from offramp.datasets.splits import make_splits, save_splits

    name, dataset_options = dataset
    source = load_dataset(name, **dataset_options)
    save_splits(make_splits(source, **options), out, source)
