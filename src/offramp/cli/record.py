"""The commands `offramp record`, `cascade`, `router` and `import`, which create exit records."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np

from offramp._io.tables import write_table
from offramp.cli.options import EXISTING, OUT, TABLE, THREADS, Spec, Verb, load_named, load_settings
from offramp.datasets.corruptions import CORRUPTIONS, Corruption
from offramp.models import STORED
from offramp.records.importing import import_outputs
from offramp.records.importing.roles import ROLES, option
from offramp.records.importing.source import title
from offramp.records.splitting import split_record


class CorruptionSpec(click.ParamType):
    """KIND:SEVERITY, a corruption of the inputs."""

    name = "KIND:SEVERITY"

    def convert(self, value, param, ctx):
        kind, _, severity = value.partition(":")
        if not severity.isdecimal():
            self.fail(f"{value!r}: expected KIND:SEVERITY, for example noise:3", param, ctx)
        try:
            return Corruption(kind, int(severity))
        except ValueError as error:
            self.fail(str(error), param, ctx)


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
    "--corruption",
    type=CorruptionSpec(),
    help="Corrupt the inputs of the test samples, before their preparation. The severity is 1 to 5. "
    + "; ".join(
        f"{inputs.capitalize()}: {', '.join(kind for kind, its in CORRUPTIONS.items() if its.inputs == inputs)}"
        for inputs in ("images", "texts")
    )
    + ".",
)
@click.option(
    "--batch-size", type=click.IntRange(1), default=256, show_default=True, help="Number of samples per batch."
)
@THREADS
@click.option(
    "--workers", type=click.IntRange(0), default=0, show_default=True, help="Number of processes that prepare batches."
)
def record(
    weights, dataset, model, system, splits, validation, test, seconds, corruption, batch_size, threads, workers
) -> None:
    """Run a model on the validation and test samples, and write its exit records.

    The model is either one that `offramp train` trained (WEIGHTS), or a pretrained classifier of timm or Hugging Face
    (--dataset and --model). A record contains logits, predictions and confidences of every exit, the labels, and the
    cumulative cost of each exit in MACs. Some datasets consist of the stored outputs of models (such as
    imagenet_outputs and gsm8k_outputs): then nothing is run, and the record contains what is stored.

    \b
    For example:
      offramp record weights.safetensors --splits splits.csv --validation validation.safetensors --test test.safetensors
      offramp record --dataset imagenet:folder=val --model timm:backbone=resnet18.a1_in1k,pretrained=true \\
          --splits splits.csv --validation validation.safetensors --test test.safetensors
      offramp record --dataset cifar100_outputs --model outputs:file=lenet-5-cifar-100.npz,macs=659280 \\
          --splits splits.csv --validation validation.safetensors --test test.safetensors

    \b
    What the model answers if the test samples are corrupted (`offramp shift` compares such records):
      offramp record weights.safetensors --splits splits.csv --corruption noise:3 --test test-noise-3.safetensors
    """
    from offramp.datasets.splits import load_splits

    if (weights is None) == (model is None) or (model is None) != (dataset is None):
        raise click.UsageError("expected either WEIGHTS, or both --dataset and --model")
    if corruption is not None and (validation or seconds or not test):
        raise click.UsageError("--corruption is for --test alone: thresholds are chosen on clean validation samples")
    if corruption is not None and weights is None and model[0] == STORED:
        raise click.UsageError("--corruption needs a model that runs; stored outputs have no inputs")
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
                corruption=corruption,
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
    help="Confidence of the exits: that of the model itself (default), or that of the ensemble.",
)
@click.option(
    "--temperature",
    is_flag=True,
    help="Divide the logits of each stage by temperatures first, which are fitted on STAGES.",
)
@click.option(
    "--like",
    type=EXISTING,
    help="Build the cascade of this file on other samples: the record of a cascade on validation data, or the settings "
    "that `offramp search --cascade-out` wrote. Ensemble, weights, confidence and temperatures are taken from it.",
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

    \b
    Temperatures, and the weights of an ensemble by accuracy, are fitted on validation data and used on test data:
      offramp cascade small/validation.safetensors large/validation.safetensors --temperature \\
          --ensemble accuracy_weighted --out cascade/validation.safetensors
      offramp cascade small/test.safetensors large/test.safetensors --like cascade/validation.safetensors \\
          --out cascade/test.safetensors
    """
    from offramp.cascades import cascade

    records = [load_named(path) for path in stages]
    if like is None:
        fit = "fit" if temperature else None
        made = cascade(records, ensemble, confidence=confidence or "own", temperatures=fit)
    else:
        settings = load_settings(like)
        fixed = settings.combined
        there = {"ensemble": fixed.ensemble, "confidence": fixed.confidence, "temperature": bool(fixed.temperatures)}
        asked = {"ensemble": ensemble, "confidence": confidence, "temperature": temperature or None}
        for name, value in asked.items():
            if value not in (None, there[name]):
                raise click.UsageError(f"--{name}: {like} has another; expected the cascade of --like, or no --like")
        made = settings.build(records)
    if system:
        made.metadata["system"] = system
    made.save(out)


@click.command(cls=Verb)
@click.argument("models", type=EXISTING, nargs=-1, required=True)
@click.option("--system", help="Name of the router. Default: the names of the models, joined by or.")
@click.option("--out", type=OUT, required=True, help="Output: record of the router, .safetensors.")
def router(models, system, out) -> None:
    """Combine the records of several models into the record of a router.

    A router chooses one model for each sample before any of them runs, so that only this model is paid. MODELS are
    records of one exit on the same samples, in ascending order of cost. The policy `router` chooses by the features of
    the records (`offramp import --features`); policies that read the outputs of models refuse the record.

    \b
    For example:
      offramp router small/validation.safetensors large/validation.safetensors --out router/validation.safetensors
      offramp router small/test.safetensors large/test.safetensors --out router/test.safetensors
      offramp evaluate --policy router --validation router/validation.safetensors \\
          --test router/test.safetensors --out curve.csv
    """
    from offramp.cascades import router

    made = router([load_named(path) for path in models])
    if system:
        made.metadata["system"] = system
    made.save(out)


SEPARATORS = {"tab": "\t", "\\t": "\t"}  # names of what is hard to type


class SplitOrShare(click.ParamType):
    """validation, test, or the share of the samples that become the validation record."""

    name = "validation|test|SHARE"

    def convert(self, value, param, ctx):
        if value in ("validation", "test") or isinstance(value, float):
            return value
        try:
            share = float(value)
        except ValueError:
            share = 0.0
        if not 0 < share < 1:
            self.fail(f"{value!r}: expected validation, test, or a share between 0 and 1", param, ctx)
        return share


def _mapping(command):
    """Add an option for each role of columns."""
    for role, its in reversed(ROLES.items()):
        if role != "cost":  # which can be numbers, too
            usual = f" Found as {', '.join(its.names)}." if its.usual else ""
            repeated = {"multiple": True} if its.by_exit else {}
            text = f"Column of the {its.about}.{usual}"
            command = click.option(option(role), role, metavar="COLUMN", help=text, **repeated)(command)
    return command


def _say_once(said: Sequence[tuple[list[Path], str]]) -> None:
    """Give each warning once, although several files may give it. It begins with their names."""
    files: dict[str, list[Path]] = {}
    for paths, text in said:
        files.setdefault(text.removeprefix(f"{title(paths)}: "), []).extend(paths)
    for text, paths in files.items():
        warnings.warn(f"{title(paths)}: {text}", stacklevel=3)


@click.command(name="import", cls=Verb)
@click.argument("outputs", type=EXISTING, nargs=-1, required=True)
@click.argument("record", type=click.Path(dir_okay=False))
@click.option(
    "--cost",
    multiple=True,
    metavar="NUMBER|COLUMN",
    help="Cumulative cost of an exit, repeated for each exit, or the column of the costs. With one file per model, the "
    "cost of each model, in the order of OUTPUTS.",
)
@_mapping
@click.option("--percent", is_flag=True, help="Probabilities, confidences, margins and qualities are percentages.")
@click.option("--names", metavar="NAME,…", help="Names of the classes in their order, for labels that are text.")
@click.option(
    "--separator", help="Character between the fields of text files, or tab. Default: , ; or tab, as in the header."
)
@click.option(
    "--join",
    type=click.Choice(["samples", "cascade"]),
    help="With several OUTPUTS: further samples of the same outputs, or one file per stage of a cascade.",
)
@click.option(
    "--split",
    type=SplitOrShare(),
    help="Split from which the samples are, or the share of them that becomes the validation record; the others become "
    "the test record. Each class has about the same share in both.",
)
@click.option(
    "--seed",
    type=click.IntRange(0),
    help="Seed with which the model was trained; with --split SHARE, seed of the random split (default: 0).",
)
@click.option(
    "--system",
    multiple=True,
    help="Name of the model, repeated for each model. `offramp compare` needs system, seed and split.",
)
@click.option("--dataset", help="Name of the dataset, for tables.")
@click.option("--unit", help="Unit of the costs, for example MAC, s, USD or token.")
@click.option(
    "--metric", type=click.Choice(["f1", "matthews"]), help="Metric in addition to accuracy, for two classes."
)
@click.option("--classes", type=click.IntRange(1), help="Number of classes, if OUTPUTS contains no logits.")
def import_(outputs, record, cost, percent, names, separator, join, split, seed, system, **about) -> None:
    """Convert the OUTPUTS of your own models to an exit RECORD (.safetensors).

    OUTPUTS are tables with one row per sample (.csv, .tsv, .jsonl, .parquet; also .csv.gz) or NumPy archives (.npz).
    Their columns or arrays are, for each sample:

    \b
      label, and one of
      - prediction, and if known max_softmax, margin or entropy (in nats), for each exit
      - logits or probabilities of all classes, for each exit
      or quality of the answer (0 to 1) for each exit, in place of the label
      cost, cumulative, for each exit; otherwise use --cost
      if known: index (identity of the sample), similarity of the hidden states

    If the columns have other names, name them with the options below, for example --label species. Common names are
    found without options, which is reported. Other columns are ignored. Several exits are columns with numbers from 0
    or 1 (prediction_1, …), for which {} stands in names: --prediction "exit{}_pred". You can also repeat the option, or
    import arrays and lists with one value per exit. Columns of classes (logit_0, …) are numbered likewise;
    "exit{}_logit{}" has both. Keys in nested JSON are joined by dots: --prediction model.answer.

    Several OUTPUTS are parts of one table (--join samples), stages of a cascade (--join cascade), or models on the same
    samples of which each gets its record, if RECORD contains {system}, for which the name of the file is put. With
    --split SHARE, RECORD contains {split}, for which validation and test are put.

    \b
    For example:
      offramp import validation.npz validation.safetensors
      offramp import outputs.csv test.safetensors --label species --max-softmax score --cost 1 --cost 2.5
      offramp import outputs.csv {split}.safetensors --split 0.5 --seed 0 --cost 1 --cost 2.5
      offramp import small.csv large.csv cascade.safetensors --join cascade --cost 0.4 --cost 4.1 --unit GMAC
      offramp import small.csv large.csv "{system}/{split}.safetensors" --split 0.5 --cost 0.4 --cost 4.1
      offramp import part_*.csv all.safetensors --join samples --cost 1
    """
    from offramp.cascades import cascade

    given = {role: about.pop(role, None) for role in ROLES}
    columns = {role: names if isinstance(names, str) else list(names) for role, names in given.items() if names}
    try:
        cost = [float(number) for number in cost]
    except ValueError:
        columns["cost"], cost = list(cost), []
    files = [[path] for path in outputs] if join != "samples" else [list(outputs)]  # of each model
    if len(files) > 1 and join is None and "{system}" not in record:
        raise click.UsageError("several OUTPUTS; expected --join samples, --join cascade, or {system} in RECORD")
    if len(files) > 1 and cost and len(cost) != len(files):
        raise click.UsageError(f"{len(cost)} costs for {len(files)} models; expected one --cost for each of OUTPUTS")
    costs = [[each] for each in cost] if len(files) > 1 and cost else [cost or None] * len(files)
    systems = list(system)
    if not system and (len(files) > 1 or "{system}" in record):
        systems = [Path(path.name.removesuffix(".gz")).stem for path, *_ in files]
    whole = systems.pop() if join == "cascade" and len(systems) == 1 < len(files) else None
    if systems and (len(systems) != len(files) or len(set(systems)) < len(files)):
        raise click.UsageError(f"{len(set(systems))} names of {len(files)} models; expected one --system for each")
    parts = ["validation", "test"] if isinstance(split, float) else [split]
    if ("{split}" in record) != isinstance(split, float):
        raise click.UsageError("expected {split} in RECORD and --split SHARE, or none of them")
    if isinstance(split, float) and seed is None:
        seed = 0

    metadata = {key: value for key, value in (about | {"seed": seed}).items() if value is not None}
    metadata |= {"names": names.split(",")} if names else {}
    metadata = ({"classes": 2} if "metric" in metadata else {}) | metadata
    made, said = [], []
    for k, paths in enumerate(files):
        own = metadata | ({"system": systems[k]} if systems else {})
        reading = {
            "cost": costs[k],
            "columns": columns,
            "percent": percent,
            "separator": separator and SEPARATORS.get(separator, separator),
        }
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            made.append(import_outputs(paths, own, **reading))
        said += [(paths, str(warning.message)) for warning in caught]
    _say_once(said)
    if join == "cascade":
        made = [cascade(made)]
        made[0].metadata |= {"system": whole} if whole else {}
    for its in made:
        pieces = [its]
        if isinstance(split, float):  # in order, so that all models on the same samples have the same parts
            pieces = split_record(its.take(np.argsort(its.index)), split, seed)
        for part, piece in zip(parts, pieces):
            piece.metadata |= {"split": part} if part else {}
            path = record.replace("{system}", str(its.metadata.get("system"))).replace("{split}", str(part))
            piece.save(path)
            click.echo(f"{path}: {piece!r}")
