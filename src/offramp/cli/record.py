"""`offramp record`, `cascade`, `import`: the exit records of a model, of a cascade, of other programs."""

import click

from offramp._io.tables import write_table
from offramp.cli.options import (
    EXISTING,
    OUT,
    TABLE,
    Spec,
    Verb,
)
from offramp.records import ExitRecord
from offramp.records.importing import import_outputs


@click.command(cls=Verb)
@click.argument("weights", type=EXISTING, required=False)
@click.option("--dataset", type=Spec(), help="In place of WEIGHTS, with --model: for example imagenet:folder=val.")
@click.option(
    "--model",
    type=Spec(),
    help="A classifier that somebody else trained, for example timm:backbone=resnet18.a1_in1k,pretrained=true or "
    "huggingface:backbone=textattack/bert-base-uncased-SST-2,pretrained=true.",
)
@click.option("--system", help="What to call that classifier; else its backbone.")
@click.option("--splits", type=EXISTING, required=True, help="What `offramp data` wrote.")
@click.option("--validation", type=OUT, help="Record of the validation split to write.")
@click.option("--test", type=OUT, help="Record of the test split to write.")
@click.option("--seconds", type=TABLE, help="Also measure how long a sample takes, here and now: a row an exit.")
@click.option("--batch-size", type=click.IntRange(1), default=256, show_default=True)
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
@click.option("--workers", type=click.IntRange(0), default=0, show_default=True)
def record(weights, dataset, model, system, splits, validation, test, seconds, batch_size, threads, workers) -> None:
    """Run a model over held-out samples and write its exit records: one that `offramp train` trained (WEIGHTS), or any
    classifier of timm or Hugging Face as it comes (--dataset, --model)."""
    from offramp.datasets.splits import load_splits
    from offramp.recording import load_pretrained, load_trained, record, time_exits
    from offramp.training.checkpoints import digest

    if (weights is None) == (model is None) or (model is None) != (dataset is None):
        raise click.UsageError("expected either WEIGHTS, or both --dataset and --model")
    network, source, made = load_pretrained(dataset, model, system) if weights is None else load_trained(weights)
    table = load_splits(splits, source)
    if weights is not None and digest(table) != made["splits"]:
        raise ValueError(f"{splits}: not the splits that {weights} was trained on; make both again")
    for split, out in (("validation", validation), ("test", test)):
        if out is not None:
            record(
                network,
                source,
                table,
                split,
                system=made["system"],
                seed=made["seed"],
                parameters=made,
                batch_size=batch_size,
                threads=threads,
                workers=workers,
            ).save(out)
    if seconds is not None:
        measured = time_exits(network, source, table, batch_size=batch_size, threads=threads)
        about = {"dataset": source.name, "system": made["system"], "seed": made["seed"]}
        write_table(measured.assign(**about)[[*about, *measured.columns]], seconds)


@click.command(cls=Verb)
@click.argument("stages", type=EXISTING, nargs=-1, required=True)
@click.option(
    "--ensemble",
    type=click.Choice(["mean_probability", "mean_logit", "accuracy_weighted", "geometric"]),
    help="The answer comes from all models that ran; else from the last one.",
)
@click.option(
    "--confidence",
    type=click.Choice(["own", "ensemble"]),
    default="own",
    show_default=True,
    help="Whose confidence decides: the running model's or the ensemble's.",
)
@click.option("--temperature", is_flag=True, help="First scale each stage's logits, fitted on these very samples.")
@click.option(
    "--like",
    type=EXISTING,
    help="Take temperatures and weights from this cascade instead: that of the same stages on validation.",
)
@click.option("--system", help="Name of the cascade; else its stages' names, with +.")
@click.option("--out", type=OUT, required=True, help="The cascade's record, .safetensors.")
def cascade(stages, ensemble, confidence, temperature, like, system, out) -> None:
    """Make one record of a cascade of STAGES: the records of models on the same samples, cheaper ones first.

    \b
    A small model first, a large one where it is not sure:
      offramp cascade small/validation.safetensors large/validation.safetensors --out cascade/validation.safetensors
      offramp cascade small/test.safetensors large/test.safetensors --out cascade/test.safetensors
    Then every policy runs on it, as on any record: offramp calibrate, evaluate.
    """
    from offramp.cascades import cascade

    records = [ExitRecord.load(path) for path in stages]
    known = ExitRecord.load(like).metadata if like else {}
    temperatures = (known.get("temperatures") or "fit") if temperature else None
    made = cascade(records, ensemble, weights=known.get("weights"), confidence=confidence, temperatures=temperatures)
    if system:
        made.metadata["system"] = system
    made.save(out)


@click.command(name="import", cls=Verb)
@click.argument("outputs", type=EXISTING)
@click.argument("record", type=OUT)
@click.option("--system", help="Name of the model; `offramp compare` and the figures ask for these four.")
@click.option("--seed", type=click.IntRange(0))
@click.option("--split", type=click.Choice(["validation", "test"]))
@click.option("--dataset")
@click.option("--metric", type=click.Choice(["f1", "matthews"]), help="Of two classes, beside accuracy.")
@click.option("--classes", type=click.IntRange(1), help="How many there are, where OUTPUTS has no logits.")
@click.option(
    "--cost",
    type=float,
    multiple=True,
    help="Cumulative cost of an exit, where OUTPUTS has none. Repeat, once an exit.",
)
def import_(outputs, record, cost, **about) -> None:
    """Make an exit RECORD (.safetensors) of your own model's OUTPUTS (.npz, .csv or .parquet).

    \b
    .npz: arrays of N samples, L exits, C classes
      labels (N,)
      logits (N, L, C), or prediction (N, L) with max_softmax, margin or entropy (N, L)
      cost (L,), cumulative, or (N, L) where samples differ; or else --cost

    \b
    .csv, .parquet: a row a sample, with the columns
      label
      prediction with max_softmax, margin or entropy; or logit_0, logit_1, …
      cost, cumulative; or else --cost

    Where there are several exits, their columns are numbered: prediction_1, prediction_2, … (logits are of one exit).
    Optional: index, the samples' places in their split; similarity, of each exit like the confidences, the cosine of
    its hidden state with the one before it.
    """
    metadata = {key: value for key, value in about.items() if value is not None}
    two = {"classes": 2} if "metric" in metadata else {}
    made = import_outputs(outputs, two | metadata, cost=cost or None)
    made.save(record)
    click.echo(f"{record}: {made!r}")
