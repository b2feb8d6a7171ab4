"""The commands `offramp record`, `offramp cascade` and `offramp import`, which create exit records."""

import click

from offramp._io.tables import write_table
from offramp.cli.options import (
    EXISTING,
    OUT,
    TABLE,
    Spec,
    Verb,
)
from offramp.models import STORED
from offramp.records import ExitRecord
from offramp.records.importing import import_outputs


@click.command(cls=Verb)
@click.argument("weights", type=EXISTING, required=False)
@click.option(
    "--dataset",
    type=Spec(),
    help="Dataset, together with --model, instead of WEIGHTS. For example imagenet:folder=val.",
)
@click.option(
    "--model",
    type=Spec(),
    help="Pretrained classifier, for example timm:backbone=resnet18.a1_in1k,pretrained=true or "
    "huggingface:backbone=textattack/bert-base-uncased-SST-2,pretrained=true; or stored outputs, for example "
    "outputs:file=lenet-5-cifar-100.npz,macs=659280.",
)
@click.option("--system", help="Name of the pretrained classifier. Default: its backbone or file.")
@click.option("--splits", type=EXISTING, required=True, help="Splits from `offramp data`.")
@click.option("--validation", type=OUT, help="Output: record of the validation samples, .safetensors.")
@click.option("--test", type=OUT, help="Output: record of the test samples, .safetensors.")
@click.option(
    "--seconds",
    type=TABLE,
    help="Output: time per sample up to each exit, measured on this machine (or published, for stored outputs), "
    ".parquet or .csv.",
)
@click.option(
    "--batch-size", type=click.IntRange(1), default=256, show_default=True, help="Number of samples per batch."
)
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="Number of CPU threads of torch.")
@click.option(
    "--workers", type=click.IntRange(0), default=0, show_default=True, help="Number of processes that prepare batches."
)
def record(weights, dataset, model, system, splits, validation, test, seconds, batch_size, threads, workers) -> None:
    """Run a model on the validation and test samples, and write its exit records.

    The model is either one that `offramp train` trained (WEIGHTS), or a pretrained classifier of timm or Hugging Face
    (--dataset and --model). A record contains logits, predictions and confidences of every exit, the labels, and the
    cumulative cost of each exit in MACs. Some datasets consist of the stored outputs of models (imagenet_outputs,
    cifar100_outputs): then nothing is run, and the record contains what is stored.

    \b
    For example:
      offramp record weights.safetensors --splits splits.csv --validation validation.safetensors --test test.safetensors
      offramp record --dataset imagenet:folder=val --model timm:backbone=resnet18.a1_in1k,pretrained=true \\
          --splits splits.csv --validation validation.safetensors --test test.safetensors
      offramp record --dataset cifar100_outputs --model outputs:file=lenet-5-cifar-100.npz,macs=659280 \\
          --splits splits.csv --validation validation.safetensors --test test.safetensors
    """
    from offramp.datasets.splits import load_splits

    if (weights is None) == (model is None) or (model is None) != (dataset is None):
        raise click.UsageError("expected either WEIGHTS, or both --dataset and --model")
    if weights is None and model[0] == STORED:
        from offramp.stored import stored_outputs

        stored = stored_outputs(dataset, model[1], system)
        made = stored.records(load_splits(splits, stored.source))
        for split, out in (("validation", validation), ("test", test)):
            if out is not None:
                made[split].save(out)
        if seconds is not None:
            about = {"dataset": stored.source.name, "system": stored.system, "seed": 0}
            write_table(stored.seconds().assign(**about)[[*about, "exit", "seconds", "device"]], seconds)
        return
    from offramp.recording import load_pretrained, load_trained, record, time_exits
    from offramp.training.checkpoints import digest

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
    help="How the predictions of all models that have run are combined. By default, they are not combined.",
)
@click.option(
    "--confidence",
    type=click.Choice(["own", "ensemble"]),
    default="own",
    show_default=True,
    help="Confidence of the exits: that of the model itself, or that of the ensemble.",
)
@click.option(
    "--temperature",
    is_flag=True,
    help="Divide the logits of each stage by temperatures first, which are fitted on STAGES or taken from --like.",
)
@click.option(
    "--like",
    type=EXISTING,
    help="Take temperatures and weights of an ensemble from this record, which is the same cascade on validation data.",
)
@click.option("--system", help="Name of the cascade. Default: the names of its stages, joined by +.")
@click.option("--out", type=OUT, required=True, help="Output: record of the cascade, .safetensors.")
def cascade(stages, ensemble, confidence, temperature, like, system, out) -> None:
    """Combine the records of several models into the record of a cascade.

    STAGES are records of the models on the same samples, in the order in which they run: cheaper models first. The
    costs of the stages are added up. Every policy runs on the resulting record, as on any other record (`offramp
    judge`, `calibrate`, `evaluate`).

    \b
    For example, a cascade that runs the large model only if the small one is not confident enough:
      offramp cascade small/validation.safetensors large/validation.safetensors --out cascade/validation.safetensors
      offramp cascade small/test.safetensors large/test.safetensors --out cascade/test.safetensors
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
@click.option("--system", help="Name of the model. `offramp compare` needs system, seed and split.")
@click.option("--seed", type=click.IntRange(0), help="Seed with which the model was trained.")
@click.option("--split", type=click.Choice(["validation", "test"]), help="Split from which the samples are.")
@click.option("--dataset", help="Name of the dataset, for tables.")
@click.option(
    "--metric", type=click.Choice(["f1", "matthews"]), help="Metric in addition to accuracy, for two classes."
)
@click.option("--classes", type=click.IntRange(1), help="Number of classes, if OUTPUTS contains no logits.")
@click.option(
    "--cost",
    type=float,
    multiple=True,
    help="Cumulative cost of an exit, if OUTPUTS contains no costs. Repeat this option for each exit.",
)
def import_(outputs, record, cost, **about) -> None:
    """Convert the OUTPUTS of your own model (.npz, .csv or .parquet) to an exit RECORD (.safetensors).

    \b
    .npz files contain arrays, for N samples, L exits and C classes:
      labels (N,)
      logits (N, L, C); or prediction (N, L) with max_softmax, margin or entropy (N, L)
      cost (L,), cumulative, or (N, L) if it differs between samples; otherwise use --cost

    \b
    .csv and .parquet files contain one row per sample, with the columns:
      label
      prediction with max_softmax, margin or entropy; or, for a single exit, logit_0, logit_1, …
      cost, cumulative; otherwise use --cost

    If there are several exits, the columns of the exits are numbered: prediction_1, prediction_2, …

    Optional arrays or columns are index (positions of the samples in their split) and, for each exit, similarity
    (cosine similarity between the hidden state of the exit and that of the exit before it).

    \b
    For example:
      offramp import validation.npz validation.safetensors
      offramp import outputs.csv test.safetensors --cost 1 --cost 2.5
    """
    metadata = {key: value for key, value in about.items() if value is not None}
    two = {"classes": 2} if "metric" in metadata else {}
    made = import_outputs(outputs, two | metadata, cost=cost or None)
    made.save(record)
    click.echo(f"{record}: {made!r}")
