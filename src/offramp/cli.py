"""`offramp VERB`: what every rule of the workflow calls, and a person can type.

A verb reads files, calls one module, writes files. What it needs is imported inside, so that `--help` and the
verbs right of the record start at once.
"""

import json
import math
import os
import re
import sys
import warnings
from contextlib import ExitStack
from pathlib import Path

import click
import numpy as np

from offramp import __version__
from offramp.evaluation import evaluate as evaluate_policy
from offramp.evaluation import frontier as policy_frontier
from offramp.files import TABLE_SUFFIXES, claim, write_table
from offramp.imports import import_outputs
from offramp.policies import POLICIES, Policy, load_policies, make_policy, save_policies
from offramp.records import ExitRecord

EXISTING = click.Path(exists=True, dir_okay=False, path_type=Path)
OUT = click.Path(dir_okay=False, path_type=Path)


class TablePath(click.Path):
    """A table to write; its ending is checked before any work is done."""

    def convert(self, value, param, ctx):
        path = super().convert(value, param, ctx)
        if path.suffix not in TABLE_SUFFIXES:
            self.fail(f"{path}: expected a name that ends in {' or '.join(TABLE_SUFFIXES)}", param, ctx)
        return path


TABLE = TablePath(dir_okay=False, path_type=Path)


class Verb(click.Command):
    """A command that is the only one to write its files, from its start to its end."""

    def invoke(self, ctx):
        files = {ctx.params[param.name] for param in self.params if param.type in (OUT, TABLE)} - {None}
        with ExitStack() as claims:
            if os.environ.get("RANK", "0") == "0":  # of the processes that torchrun started, the first writes
                for path in sorted(files):
                    claims.enter_context(claim(path))
            return super().invoke(ctx)


class Spec(click.ParamType):
    """NAME:option=value,…; values as in JSON, bare words are strings."""

    name = "NAME[:option=value,…]"

    def convert(self, value, param, ctx):
        if isinstance(value, tuple):
            return value
        name, _, rest = value.partition(":")
        options = {}
        for item in re.split(r",(?![^\[]*\])", rest) if rest else []:  # commas, but not those inside [ ]
            option, equals, text = item.partition("=")
            if not equals:
                self.fail(f"{item!r} in {value!r}: expected option=value", param, ctx)
            try:
                options[option] = json.loads(text)
            except ValueError:
                options[option] = text
        return name, options


class PolicySpec(Spec):
    """[LABEL=]NAME:option=value,…; the label names the policy in tables, its own name where there is none."""

    name = "[LABEL=]NAME[:option=value,…]"

    def convert(self, value, param, ctx):
        label, name, options = self.parts(value, param, ctx)
        return label, make_policy(name, **options)

    def parts(self, value, param, ctx):
        label, _, rest = value.partition("=") if re.match(r"[^:]*=", value) else ("", "", value)
        name, options = super().convert(rest, param, ctx)
        return label or name, name, options


class VariantSpec(PolicySpec):
    """FACTOR/SETTING=, then a policy; its option `validation` is how many validation samples to fit it on."""

    name = "FACTOR/SETTING=[LABEL=]NAME[:option=value,…]"

    def convert(self, value, param, ctx):
        from offramp.sensitivity import Variant

        place = re.fullmatch(r"([^/=]+)/([^=]+)=(.+)", value)
        if place is None:
            self.fail(f"{value!r}: expected {self.name}", param, ctx)
        factor, setting, rest = place.groups()
        label, name, options = self.parts(rest, param, ctx)
        samples = options.pop("validation", None)
        if samples is not None:
            samples = click.IntRange(1).convert(str(samples), param, ctx)
        return Variant(factor, setting, label, make_policy(name, **options), samples)


def _labelled(ctx, param, specs: list[tuple[str, Policy]]) -> dict[str, Policy]:
    labelled = dict(specs)
    if len(labelled) < len(specs):
        raise click.BadParameter("two policies of one name; expected a label for each, LABEL=NAME", ctx, param)
    return labelled


class LabelledGrid(click.ParamType):
    """[LABEL=]GRID: for the policy of that label, else for all."""

    name = "[LABEL=]START:STOP:STEP"

    def convert(self, value, param, ctx):
        if isinstance(value, tuple):
            return value
        label, equals, rest = value.rpartition("=")
        return label if equals else None, Grid().convert(rest, param, ctx)


class Grid(click.ParamType):
    """start:stop:step (both ends included) or numbers with commas."""

    name = "START:STOP:STEP or δ,δ,…"

    def convert(self, value, param, ctx):
        if isinstance(value, np.ndarray):
            return value
        try:
            if ":" not in value:
                return np.array([float(part) for part in value.split(",")])
            start, stop, step = map(float, value.split(":"))
            if not step > 0 or not -math.inf < start <= stop < math.inf:
                raise ValueError
            steps = math.floor((stop - start) / step + 1e-9)
            return np.round(start + step * np.arange(steps + 1), 12)  # rounded, so that 0.9 is the float 0.9
        except ValueError:
            self.fail(f"{value!r}: expected START:STOP:STEP (a rise) or numbers with commas", param, ctx)


DEFAULT_GRID = Grid().convert("0:1:0.01", None, None)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="offramp")
def cli() -> None:
    """Decide, input by input, when a model that answers in stages has computed enough.

    \b
    With your own model's outputs:
      offramp import outputs.npz validation.safetensors
      offramp evaluate --policy pcee --validation validation.safetensors --test test.safetensors --out curve.csv
    The verbs in the order of the pipeline: data, train, record, cascade, calibrate, evaluate, compare, sensitivity,
    search, figure, table, summary, environment, report. `offramp policies` lists the rules, `offramp plan` tells what a
    study costs.
    """


cli.command_class = Verb


@cli.command()
@click.argument("dataset", type=Spec())
@click.option("--validation", type=click.IntRange(1), required=True, help="Samples held out to fit policies.")
@click.option("--test", type=click.IntRange(1), help="Samples held out for the test, where the source has no test set.")
@click.option("--train", type=click.IntRange(1), help="How many of the rest train; all, if not given.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--out", type=OUT, required=True, help="CSV: split, pool, index.")
def data(dataset, out, **options) -> None:
    """Split DATASET into train, validation and test, and write the split down."""
    from offramp.datasets import load_dataset, make_splits, save_splits

    name, dataset_options = dataset
    source = load_dataset(name, **dataset_options)
    save_splits(make_splits(source, **options), out, source)


@cli.command()
@click.option("--dataset", type=Spec(), required=True, help="For example digits, digits:shift=0 or reviews.")
@click.option("--splits", type=EXISTING, required=True, help="What `offramp data` wrote.")
@click.option(
    "--model",
    type=Spec(),
    required=True,
    help="For example msdnet:exits=4,channels=16 or encoder:backbone=minilm-l6,pretrained=true.",
)
@click.option("--system", required=True, help="What the study calls this model, for example msdnet-small.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option(
    "--epochs",
    type=click.IntRange(0),
    help="Default: 300, as for MSDNet on CIFAR; so are the next. 0 keeps the weights as they come.",
)
@click.option("--batch-size", type=click.IntRange(1), help="Default: 64.")
@click.option("--optimizer", type=click.Choice(["sgd", "adamw"]), help="Default: sgd.")
@click.option("--learning-rate", type=float, help="Of the first step. Default: 0.1.")
@click.option("--momentum", type=float, help="Of SGD. Default: 0.9.")
@click.option("--weight-decay", type=float, help="Default: 0.0001.")
@click.option("--schedule", type=click.Choice(["multistep", "cosine", "linear"]), help="Default: multistep.")
@click.option(
    "--milestone",
    "milestones",
    type=int,
    multiple=True,
    help="Of multistep: cut the rate after this epoch. Repeat. Default: 150 225.",
)
@click.option("--gamma", type=float, help="Of multistep: what a cut multiplies by. Default: 0.1.")
@click.option(
    "--exit-weights", type=click.Choice(["sum", "linear"]), help="Weight of exit i in the loss: 1 (the default), or i."
)
@click.option("--distillation", type=float, help="Weight of KL(final exit ‖ exit) in an exit's loss. Default: 0.")
@click.option(
    "--precision",
    type=click.Choice(["auto", "float32", "bfloat16"]),
    help="Of the model in training. Default: auto, which is bfloat16 on CUDA, else float32.",
)
@click.option("--compile", is_flag=True, default=None, help="Compile the training step.")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="CPU threads of torch.")
@click.option("--workers", type=click.IntRange(0), default=0, show_default=True, help="Processes that prepare batches.")
@click.option("--out", type=OUT, required=True, help="Weights, .safetensors; a checkpoint lies beside it until done.")
@click.option("--history", type=OUT, required=True, help="CSV, a row an epoch.")
def train(dataset, splits, model, system, seed, threads, workers, out, history, **training) -> None:
    """Train a model, all exits jointly. Killed and started again, it goes on from the last epoch.

    \b
    On 4 GPUs of a machine, each batch cut over them:
      torchrun --standalone --nproc-per-node 4 -m offramp train …
    """
    from offramp.datasets import load_dataset, load_splits
    from offramp.models import build_model
    from offramp.training import TrainingOptions, train

    (data_name, data_options), (model_name, model_options) = dataset, model
    source = load_dataset(data_name, **data_options)
    train(
        lambda: build_model(model_name, classes=source.classes, **source.input_options, **model_options),
        source,
        load_splits(splits, source),
        TrainingOptions(**{key: value for key, value in training.items() if value not in (None, ())}),
        seed=seed,
        out=out,
        history=history,
        parameters={
            "system": system,
            "dataset_options": data_options,
            "model": model_name,
            "model_options": model_options,
        },
        label=f"{system} seed {seed}",
        threads=threads,
        workers=workers,
    )


@cli.command()
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
    from offramp.checkpoints import digest
    from offramp.datasets import load_splits
    from offramp.recording import load_pretrained, load_trained, record, time_exits

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


@cli.command()
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
    from offramp.calibration import fit_temperatures, with_temperatures
    from offramp.cascades import cascade

    records = [ExitRecord.load(path) for path in stages]
    known = ExitRecord.load(like).metadata if like else {}
    if temperature:
        fitted = known.get("temperatures") or [fit_temperatures(record).tolist() for record in records]
        if len(fitted) != len(records):
            raise ValueError(f"{like}: a cascade of {len(fitted)} stages; expected one of {len(records)}")
        records = [with_temperatures(record, its) for record, its in zip(records, fitted)]
    made = cascade(records, ensemble, weights=known.get("weights"), confidence=confidence)
    if temperature:
        made.metadata["temperatures"] = fitted
    if system:
        made.metadata["system"] = system
    made.save(out)


@cli.command()
@click.argument("validation", type=EXISTING)
@click.option(
    "--policy",
    "policies",
    type=PolicySpec(),
    multiple=True,
    required=True,
    callback=_labelled,
    help="Repeat for several.",
)
@click.option("--bins", type=click.IntRange(1), default=15, show_default=True, help="Bins of the reliability diagrams.")
@click.option("--out", type=OUT, required=True, help="Fitted policies, .safetensors.")
@click.option("--reliability", type=TABLE, help="The diagrams' bins, .parquet or .csv.")
def calibrate(validation, policies, bins, out, reliability) -> None:
    """Fit policies on a VALIDATION record, and draw up its reliability diagrams."""
    from offramp.calibration import reliability_table

    record = ExitRecord.load(validation)
    fitted = {label: policy.fit(record) for label, policy in policies.items()}
    diagrams = _about(record, reliability_table(record, bins))
    save_policies(fitted, out, record.metadata)
    if reliability:
        write_table(diagrams, reliability)


@cli.command()
@click.option(
    "--policy",
    "specs",
    type=PolicySpec(),
    multiple=True,
    callback=_labelled,
    help="Fitted on --validation. Repeat for several.",
)
@click.option("--policies", type=EXISTING, help="Or: policies that `offramp calibrate` has fitted.")
@click.option("--validation", type=EXISTING, help="Record to fit on; not needed for what learns nothing.")
@click.option("--test", type=EXISTING, required=True, help="Record to report on.")
@click.option(
    "--thresholds",
    "grids",
    type=LabelledGrid(),
    multiple=True,
    help="Default: 0:1:0.01. Both ends included. Repeat with LABEL= for a policy whose signal is on another scale.",
)
@click.option(
    "--bins",
    type=click.IntRange(1),
    default=15,
    show_default=True,
    help="Bins of --exits' calibration error.",
)
@click.option("--out", type=TABLE, required=True, help="A row a policy and threshold, .parquet or .csv.")
@click.option("--frontier", type=TABLE, help="Also every operating point there is, exactly.")
@click.option(
    "--exits",
    type=TABLE,
    help="Also each exit's accuracy, metric, cost, agreement with the one before, calibration error.",
)
def evaluate(specs, policies, validation, test, grids, bins, out, frontier, exits) -> None:
    """Accuracy, cost and exit shares of policies over a grid of thresholds δ."""
    import pandas as pd

    from offramp.calibration import exit_table

    if bool(specs) == (policies is not None):
        raise click.UsageError("expected either --policy (with --validation) or --policies")
    if policies and validation:
        raise click.UsageError("--policies are fitted already; expected no --validation")
    if len({out, frontier, exits} - {None}) < sum(path is not None for path in (out, frontier, exits)):
        raise click.UsageError("two tables of one name; expected another file for each of --out, --frontier, --exits")
    record = ExitRecord.load(test)
    fitted = specs or load_policies(policies)[0]
    of_label = dict(grids)
    if unknown := sorted(of_label.keys() - {None, *fitted}):
        raise click.UsageError(f"--thresholds for {unknown[0]!r}; expected one of {', '.join(fitted)}")
    if specs and not validation and (untaught := [label for label, policy in fitted.items() if policy.learns]):
        raise ValueError(f"{untaught[0]} learns from data: give --validation, a record to fit it on")
    if specs and validation:
        held_out = ExitRecord.load(validation)
        fitted = {label: policy.fit(held_out) for label, policy in fitted.items()}

    def of_all(function) -> pd.DataFrame:
        tables = [function(label, policy).assign(policy=label) for label, policy in fitted.items()]
        return _about(record, pd.concat(tables, ignore_index=True))

    def curve(label: str, policy: Policy) -> pd.DataFrame:
        return evaluate_policy(policy, record, of_label.get(label, of_label.get(None, DEFAULT_GRID)))

    tables = {out: of_all(curve)}
    if frontier:
        tables[frontier] = of_all(lambda _, policy: policy_frontier(policy, record))
    if exits:
        tables[exits] = _about(record, exit_table(record, fitted, bins))
    _write_all(tables)


def _write_all(tables: dict) -> None:
    """Write tables only once all of them are there: an error leaves none behind."""
    for path, table in tables.items():
        write_table(table, path)


def _about(record: ExitRecord, table):
    """The table with columns in front that say of what it is, as far as the record knows."""
    for place, key in enumerate(["dataset", "system", "seed"]):
        table.insert(place, key, record.metadata.get(key))
    if "policy" in table:
        table.insert(3, "policy", table.pop("policy"))
    return table


@cli.command()
@click.argument("files", type=EXISTING, nargs=-1, required=True)
@click.option(
    "--target", "targets", type=float, multiple=True, required=True, help="Accuracy to aim at. Repeat for several."
)
@click.option(
    "--pair", "chosen_pairs", nargs=2, multiple=True, help="SMALL LARGE: systems to set side by side. Repeat."
)
@click.option(
    "--duel",
    "chosen_duels",
    nargs=2,
    multiple=True,
    help="POLICY RIVAL: policies to set side by side, for --duels-out. Repeat.",
)
@click.option(
    "--grid", type=Grid(), default="0:1:0.01", show_default=True, help="The δ over which control is measured."
)
@click.option(
    "--baseline",
    default="confidence",
    show_default=True,
    help="Policy that others' control is compared with.",
)
@click.option("--resamples", type=click.IntRange(100), default=2000, show_default=True, help="Of the bootstrap.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the bootstrap.")
@click.option("--targets-out", type=TABLE, required=True, help="Accuracy and cost of every policy at the targets.")
@click.option("--pairs-out", type=TABLE, required=True, help="Large systems with exits against small full ones.")
@click.option("--control-out", type=TABLE, required=True, help="How closely accuracy follows δ.")
@click.option(
    "--speedup-out",
    type=TABLE,
    help="Also speed-up of every policy at matched accuracy, with one threshold for all exits and with one an exit.",
)
@click.option("--duels-out", type=TABLE, help="Also each --duel, at matched accuracy and at matched cost.")
def compare(
    files,
    targets,
    chosen_pairs,
    chosen_duels,
    grid,
    baseline,
    resamples,
    seed,
    targets_out,
    pairs_out,
    control_out,
    speedup_out,
    duels_out,
) -> None:
    """Put the runs of a study together: means over seeds, an interval with every number.

    FILES are the validation and test records of all runs and the policies fitted on them, in any order: each says
    itself what it is.
    """
    from offramp import comparison, matching

    if chosen_duels and not duels_out:
        raise click.UsageError("--duel needs --duels-out, where to write what came of it")
    runs = comparison.load_runs(files)
    bootstrap = comparison.Bootstrap.draw(runs[0].test.n_samples, resamples, seed)
    tables = {
        targets_out: comparison.at_targets(runs, targets, bootstrap),
        pairs_out: comparison.pairs(runs, chosen_pairs, bootstrap),
        control_out: comparison.control(runs, grid, baseline, bootstrap),
    }
    if speedup_out or duels_out:
        matched = matching.match(runs)
        if speedup_out:
            tables[speedup_out] = matching.speedup(matched, bootstrap)
        if duels_out:
            tables[duels_out] = matching.duels(matched, chosen_duels, bootstrap)
    _write_all(tables)


@cli.command()
@click.argument("files", type=EXISTING, nargs=-1, required=True)
@click.option(
    "--variant",
    "variants",
    type=VariantSpec(),
    multiple=True,
    required=True,
    help="A policy with one setting of a factor. Repeat; of a factor's settings the first is what others are compared "
    "with. validation=N among the options: fit on so many samples.",
)
@click.option(
    "--grid", type=Grid(), default="0:1:0.01", show_default=True, help="The δ over which control is measured."
)
@click.option(
    "--draws", type=click.IntRange(1), default=10, show_default=True, help="Of validation samples, where not all."
)
@click.option("--resamples", type=click.IntRange(100), default=2000, show_default=True, help="Of the bootstrap.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the draws and the bootstrap.")
@click.option("--out", type=TABLE, required=True, help="A row a system and variant, .parquet or .csv.")
def sensitivity(files, variants, grid, draws, resamples, seed, out) -> None:
    """Find out what matters: control and cost of policies, one factor at a time.

    FILES are the validation and test records of all runs, in any order: each says itself what it is.

    \b
    For example:
      --variant bins/50=pcee --variant bins/10=pcee:bins=10
      --variant samples/all=pcee --variant samples/200=pcee:validation=200
    """
    from offramp import comparison
    from offramp.sensitivity import sensitivity

    runs = comparison.load_runs(files, fitted=False)
    bootstrap = comparison.Bootstrap.draw(runs[0].test.n_samples, resamples, seed)
    write_table(sensitivity(runs, variants, grid, draws, bootstrap), out)


@cli.command()
@click.argument("files", type=EXISTING, nargs=-1, required=True)
@click.option(
    "--variant",
    "variants",
    type=Spec(),
    multiple=True,
    help="NAME:measure=…,temperature=…,ensemble=…, none of which is needed: how cascades defer and answer. Repeat; the "
    "first is what others are compared with. Default: the confidence measures, temperature, and all ensembles.",
)
@click.option(
    "--band",
    "bands",
    type=float,
    nargs=2,
    multiple=True,
    required=True,
    help="FROM TO: accuracies over which the reduction of compute is averaged. Repeat.",
)
@click.option("--step", type=float, default=0.001, show_default=True, help="Between accuracies that are aimed at.")
@click.option("--resamples", type=click.IntRange(100), default=2000, show_default=True, help="Of the bootstrap.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the bootstrap.")
@click.option("--models-out", type=TABLE, required=True, help="The models, and which are on their front.")
@click.option("--relations-out", type=TABLE, required=True, help="All pairs: exit rate at equal accuracy.")
@click.option("--choices-out", type=TABLE, required=True, help="The cascade chosen for each accuracy, and its test.")
@click.option("--reductions-out", type=TABLE, required=True, help="How many times less compute at equal accuracy.")
@click.option("--replacements-out", type=TABLE, required=True, help="What takes the place of each model of the front.")
@click.option("--measures-out", type=TABLE, required=True, help="Shares and correlations over all pairs.")
def search(files, variants, bands, step, resamples, seed, **outs) -> None:
    """Search all cascades of two models, and of three of their Pareto front: every threshold, exactly.

    FILES are the validation and test records of models that answer once, in any order: each says itself what it is.
    Cascades are chosen on validation and scored on test.

    \b
    For example:
      --band 0.88 0.9 --variant max-softmax --variant margin:measure=margin
      --variant temperature:temperature=true --variant ensemble:ensemble=mean_probability
    """
    from offramp.comparison import load_runs
    from offramp.reduction import VARIANTS, Variant, reduction_tables

    made = reduction_tables(
        load_runs(files, fitted=False),
        {name: Variant(**options) for name, options in variants} or VARIANTS,
        bands,
        step,
        resamples,
        seed,
        progress=True,
    )
    _write_all({outs[f"{name}_out"]: table for name, table in made.items()})


@cli.command(name="import")
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


@cli.command()
def policies() -> None:
    """List the exit policies, their rules and options."""
    for name, policy in POLICIES.items():
        options = ", ".join(f"{key}={value}" for key, value in make_policy(name).options.items())
        click.echo(f"{name}\n    leaves where {policy.rule}\n    options: {options or 'none'}\n    {policy.paper}")


@cli.command()
@click.argument("name")
@click.argument("files", type=EXISTING, nargs=-1, required=True)
@click.option("--pair", "pairs", nargs=2, multiple=True, help="error-cost: SMALL LARGE, a panel each. Repeat.")
@click.option(
    "--policy",
    "policies",
    multiple=True,
    help="error-cost, control, speedup, exit-histogram: label of a policy to show. Repeat.",
)
@click.option("--exit", "exits", type=int, multiple=True, help="reliability: exit to show, from 1. Repeat.")
@click.option("--seed", type=click.IntRange(0), help="oracle-heatmap: seed of the choice of samples.")
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="STEM", required=True, help="Writes STEM.pdf and STEM.png."
)
def figure(name, files, out, **options) -> None:
    """Draw figure NAME of FILES: error-cost, control, reliability, overconfidence, oracle-heatmap, sensitivity,
    speedup, exit-histogram, agreement, public-zoo, cascades-front, cascade-relation, cascade-reduction or
    cascade-variants.

    \b
    error-cost, control, speedup      curves and exits of all runs (evaluate --out, --exits)
    reliability                       bins of one system's runs (calibrate --reliability)
    overconfidence, oracle-heatmap    one test record
    sensitivity                       the sensitivity table (sensitivity --out)
    exit-histogram                    the speed-up table (compare --speedup-out)
    agreement                         exits of all runs (evaluate --exits)
    public-zoo                        tables of public models (data/timm), the older first
    cascades-front                    the models and the choices (search --models-out, --choices-out)
    cascade-relation                  the relations (search --relations-out)
    cascade-reduction,
    cascade-variants                  the reductions (search --reductions-out)
    """
    from offramp.figures import draw

    draw(name, files, out, **{option: value for option, value in options.items() if value not in (None, ())})


@cli.command()
@click.argument("name")
@click.argument("files", type=EXISTING, nargs=-1, required=True)
@click.option("--policy", "policies", multiple=True, help="claims, beem-claims: label of a policy to judge. Repeat.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="STEM",
    required=True,
    help="Writes STEM.csv, STEM.md and STEM.tex.",
)
def table(name, files, out, **options) -> None:
    """Make table NAME of FILES: claims, equal-cost, equal-accuracy, control, calibration, targets, exits, sensitivity,
    beem-claims, duels, speedup, per-exit, public-zoo, cascade-claims, reductions, cascade-variants, replacements,
    models or seconds.

    \b
    claims                      the pairs and the control table (compare --pairs-out, --control-out)
    equal-cost, equal-accuracy  the pairs table (compare --pairs-out)
    control                     the control table (compare --control-out)
    calibration                 the control table and exits of all runs (evaluate --exits)
    targets                     the targets table (compare --targets-out)
    exits                       exits of all runs (evaluate --exits)
    sensitivity                 the sensitivity table (sensitivity --out)
    beem-claims                 the speed-up table and the duels (compare --speedup-out, --duels-out)
    duels                       the duels (compare --duels-out)
    speedup, per-exit           the speed-up table (compare --speedup-out)
    public-zoo                  tables of public models (data/timm)
    cascade-claims              reductions and measures (search --reductions-out, --measures-out)
    reductions,
    cascade-variants            the reductions (search --reductions-out)
    replacements                the replacements (search --replacements-out)
    models                      the models (search --models-out)
    seconds                     the seconds of all models (record --seconds)
    """
    from offramp.tables import write

    write(name, files, out, **{option: value for option, value in options.items() if value != ()})


@cli.command()
@click.argument("files", type=EXISTING, nargs=-1, required=True)
@click.option("--out", type=OUT, required=True, help="JSON.")
def summary(files, out) -> None:
    """Make of FILES, the speed-up and the control table (compare --speedup-out, --control-out), the few numbers that
    are followed from version to version (`dvc metrics show`)."""
    from offramp.files import write_text
    from offramp.summary import summarise

    write_text(out, json.dumps(summarise(files), indent=2) + "\n")


@cli.command()
@click.argument("files", type=EXISTING, nargs=-1, required=True)
@click.option("--title", required=True)
@click.option("--parameters", type=EXISTING, required=True, help="JSON: what the study is; its notes are set apart.")
@click.option("--environment", type=EXISTING, required=True, help="JSON: what `offramp environment` printed.")
@click.option("--command", required=True, help="What makes the report, to be shown in it.")
@click.option("--out", type=OUT, required=True, help="HTML page.")
def report(files, title, parameters, environment, command, out) -> None:
    """Put figures (.png) and tables (.csv) together into one page, in the order of FILES, claims first."""
    from offramp.report import read_json, write_report

    write_report(files, title, read_json(parameters), read_json(environment), command, out)


@cli.command()
def environment() -> None:
    """Print this machine's hardware and the versions installed, as JSON."""
    from offramp.environment import environment

    click.echo(json.dumps(environment(), indent=2))


@cli.command()
@click.option("--study", "name", help="Default: the one that params.yaml names.")
@click.option("--cores", type=click.IntRange(1), help="To tell the wall time on. Default: all of this machine.")
def plan(name, cores) -> None:
    """Tell what a study will cost, before anything runs: jobs, CPU-hours, memory, disk and wall time.

    For a checkout of the project. Trainings and recordings are probed on this machine, for a minute or so; nothing is
    downloaded. Where benchmark files of the study are there, what they measured stands beside the estimates.
    """
    from offramp.plan import plan

    click.echo(plan(name, cores))


def main() -> None:
    warnings.formatwarning = lambda message, *_: f"offramp: warning: {message}\n"
    try:
        cli(standalone_mode=False)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.ClickException as error:
        command = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "offramp"
        print(f"offramp: error: {error.format_message()} (see {command} --help)", file=sys.stderr)
        sys.exit(error.exit_code)
    except click.Abort:
        sys.exit("offramp: interrupted")
    except (ValueError, OSError) as error:
        sys.exit(f"offramp: error: {error}")


if __name__ == "__main__":
    main()
