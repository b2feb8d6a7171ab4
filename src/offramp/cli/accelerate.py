"""The command `offramp accelerate`, and those with which a study measures what it does."""

import sys
from pathlib import Path

import click

from offramp._io.tables import write_table
from offramp.acceleration.splits import RISKS
from offramp.cli.options import EXISTING, OUT, TABLE, THREADS, Verb
from offramp.records import ExitRecord

_CONFIDENCE = click.option(
    "--confidence", type=float, default=0.95, show_default=True, help="Probability with which the promise holds."
)


@click.command()
@click.option(
    "--model",
    required=True,
    help="timm:backbone=NAME,pretrained=true (also classes=, channels=, weights=FILE.safetensors); "
    "huggingface:backbone=NAME or FOLDER; MODULE:FUNCTION, a function of your own that returns an nn.Module (or that "
    "and an ImagePreparation); or a file of weights from `offramp train`.",
)
@click.option(
    "--data",
    type=click.Path(exists=True, path_type=Path),
    required=True,
    help="A folder of images, a .npy file (N, C, H, W), or texts: .csv or .tsv with the column text, or .txt.",
)
@click.option(
    "--candidates",
    multiple=True,
    help="A smaller model of the same classes, written as for --model, which can answer before it; or front:FILE, a "
    "table of timm's results, for some models of its front. May be repeated.",
)
@click.option("--agree", type=float, help="Promise: answers are those of the model at least this often. No labels.")
@click.option("--drop", type=float, help="Promise: the accuracy is lower than that of the model by at most this.")
@click.option("--error", type=float, help="Promise: at most this share of the answers is wrong.")
@_CONFIDENCE
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Output: a folder.")
@click.option(
    "--optimise",
    type=click.Choice(["seconds", "macs"]),
    default="seconds",
    show_default=True,
    help="Choose what is fastest on this machine, or what has the fewest MACs.",
)
@click.option("--exits-at", help="Names of the modules after which exits are possible: layer1,layer2,…")
@click.option(
    "--most-exits",
    type=click.IntRange(1),
    default=3,
    show_default=True,
    help="Largest number of exits before the end of the model.",
)
@click.option("--labels", type=EXISTING, help="Labels of the rows of a .npy file, a .npy file of integers.")
@click.option("--prepare", help="Prepare images as for this timm model. Default: as the model says, or pixels / 255.")
@click.option("--max-tokens", type=click.IntRange(3), default=128, show_default=True, help="Longer texts are cut.")
@click.option("--skip-unreadable", is_flag=True, help="Leave out images that cannot be read.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the random parts of the data.")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="CPU threads for times.")
def accelerate(
    model, data, agree, drop, error, confidence, out, optimise, exits_at, labels, prepare, **options
) -> None:
    """Make a model faster, with a certificate of what is lost, in one command.

    The model stays as it is. Exits are added after some of its blocks, and trained on its own answers, so that no
    labels are needed (with --drop and --error: on the labels, too). An easy input leaves at an early exit. With
    --candidates, smaller models can answer before it, with or without exits of their own. Which exits and models there
    are, and when an input leaves, is chosen on a second part of the data; a third part proves the promise, and a fourth
    one checks it. The data must be what the model will meet, and must not be those on which it was trained.

    \b
    OUT contains:
      bundle/        the faster model, for `offramp run` and `offramp serve`, which need no torch
      index.html     the page: what is promised and saved
      promise.json   the promise, and the models, exits and policy that were chosen
      records/       the answers of all exits on each part of the data, for all other commands
      cache/         features and heads, from which a run that was ended goes on; it can be deleted

    If nothing is faster than the model, this is said, and the bundle is the model as it is.

    \b
    For example:
      offramp accelerate --model timm:backbone=resnet50.a1_in1k,pretrained=true --data images/ --agree 0.99 --out fast/
      offramp accelerate --model huggingface:backbone=mymodel/ --data texts.csv --drop 0.005 --out fast/
      offramp accelerate --model mypackage.net:build --data images/ --agree 0.98 --exits-at layer1,layer2 --out fast/
      offramp accelerate --model timm:backbone=resnet50.a1_in1k,pretrained=true --data images/ --agree 0.99 \\
          --candidates timm:backbone=resnet18.a1_in1k,pretrained=true --out fast/
      offramp run fast/bundle images/ --out answers.csv
    """
    given = {"disagreement": agree, "gap": drop, "error": error}
    risks = {risk: value for risk, value in given.items() if value is not None}
    if len(risks) != 1:
        raise click.UsageError("expected one of --agree, --drop and --error")
    ((risk, level),) = risks.items()
    if risk == "disagreement":
        level = round(1 - level, 12)

    from offramp.acceleration.accelerating import accelerate
    from offramp.datasets.imagenet import preparation_of

    result = accelerate(
        model,
        data,
        risk=risk,
        level=level,
        confidence=confidence,
        out=out,
        optimise=optimise,
        exits_at=None if exits_at is None else exits_at.split(","),
        labels=labels,
        preparation=None if prepare is None else preparation_of(prepare),
        progress=True,
        command=" ".join(["offramp", *sys.argv[1:]]),
        **options,
    )
    click.echo(result)
    click.echo(f"{result.bundle}, {result.report}")


@click.command(cls=Verb)
@click.argument("weights", type=EXISTING)
@click.option("--splits", type=EXISTING, required=True, help="Splits from `offramp data`.")
@click.option(
    "--teacher",
    type=EXISTING,
    required=True,
    help="Validation record of the model whose answers the exits learn: this one, or a larger one.",
)
@click.option("--validation", type=OUT, required=True, help="Output: record of held-out validation samples.")
@click.option("--test", type=OUT, required=True, help="Output: record of the test samples.")
@THREADS
def record_exits(weights, splits, teacher, validation, test, threads) -> None:
    """Train an exit at every block of a trained model, which stays as it is, and record their answers.

    WEIGHTS is a single-exit model from `offramp train`. The exits are trained on three quarters of the validation
    samples; the record of the others has the answers of the teacher as labels.

    \b
    For example:
      offramp record-exits large.safetensors --splits splits.csv --teacher large/validation.safetensors \\
          --validation exits-validation.safetensors --test exits-test.safetensors
    """
    from offramp.acceleration.recording import record_exits

    held, rest = record_exits(weights, splits, ExitRecord.load(teacher), threads=threads)
    held.save(validation)
    rest.save(test)


@click.command(cls=Verb)
@click.argument("files", type=EXISTING, nargs=-1, required=True)
@click.option("--level", "levels", type=float, multiple=True, required=True, help="Highest risk. May be repeated.")
@click.option(
    "--risk",
    type=click.Choice(RISKS),
    default="disagreement",
    show_default=True,
    help="What is promised, as for `offramp certify`.",
)
@_CONFIDENCE
@click.option("--draws", type=click.IntRange(1), default=10, show_default=True, help="How often samples are drawn.")
@click.option("--out", type=TABLE, required=True, help="Output: one row per draw and kind, .parquet or .csv.")
def accelerations(files, levels, risk, confidence, draws, out) -> None:
    """Measure how often the promises of accelerated models are kept, and what they save.

    FILES are the validation and test records that `offramp record-exits` wrote for models and for smaller ones whose
    exits learnt their answers, and records of models whose exits were trained jointly. The test samples are taken as
    the population, of which the truth is known. As many as `offramp accelerate` uses are drawn from it at random, with
    replacement: some choose the structure (exits, a cascade, or a cascade with exits), others certify the threshold.
    The exits are the same in all draws.

    \b
    For example:
      offramp accelerations exits-validation.safetensors exits-test.safetensors --level 0.01 --out accelerations.csv
    """
    from offramp.acceleration.evaluating import evaluate_records

    records = [ExitRecord.load(file) for file in files]
    options = {"risk": risk, "confidence": confidence, "draws": draws}
    write_table(evaluate_records(records, levels, progress=True, **options), out)
