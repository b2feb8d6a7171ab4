"""The command `offramp data`."""

import click

from offramp.cli.options import OUT, TABLE, Spec, Verb, write_all


@click.command(cls=Verb)
@click.argument("dataset", type=Spec())
@click.option(
    "--validation",
    type=click.IntRange(1),
    help="Number of training samples to hold out for fitting policies. Required, except for images with captions.",
)
@click.option(
    "--test", type=click.IntRange(1), help="Number of samples to hold out for testing, if the dataset has no test set."
)
@click.option("--train", type=click.IntRange(1), help="Number of remaining samples to use for training. Default: all.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the random split.")
@click.option("--out", type=OUT, required=True, help="Output: CSV file with the columns split, pool, index.")
@click.option("--pictures", type=TABLE, help="Output, for images with captions: the first 12 test images.")
def data(dataset, out, pictures, **options) -> None:
    """Split DATASET into training, validation and test samples.

    DATASET is NAME:option=value,…; it is downloaded if necessary. The output has one row per sample. `offramp train`
    and `offramp record` read it. Each class has about the same share in every part.

    Images with captions have their own splits, which this command only lists, so the other options must be left out.

    \b
    For example:
      offramp data digits --validation 360 --test 540 --out splits.csv
    """
    from offramp.datasets import CAPTIONED, load_captions, load_dataset
    from offramp.datasets.splits import make_splits, save_splits

    name, dataset_options = dataset
    if name in CAPTIONED:
        import pandas as pd

        from offramp._io.writing import write_text

        if given := [f"--{key}" for key, value in options.items() if value]:
            raise click.UsageError(f"{given[0]}: {name} has splits of its own; expected options of the dataset")
        captioned = load_captions(name, **dataset_options)
        rows = [(split, split, i) for split, those in captioned.references.items() for i in range(len(those))]
        write_text(out, pd.DataFrame(rows, columns=["split", "pool", "index"]).to_csv(index=False))
        if pictures:
            write_all({pictures: captioned.pictures("test", 12)})
        return
    if options["validation"] is None or pictures:
        raise click.UsageError(
            "--pictures is for images with captions" if pictures else "Missing option '--validation'."
        )
    source = load_dataset(name, **dataset_options)
    save_splits(make_splits(source, **options), out, source)
