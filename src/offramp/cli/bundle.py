"""The commands `offramp export`, `offramp run` and `offramp serve`, for models without torch."""

import math
import os
import tempfile
from pathlib import Path

import click
import numpy as np

from offramp._io.progress import progress_bar
from offramp._io.tables import write_table
from offramp.cli.options import (
    CONFIDENCE,
    EXISTING,
    RISK,
    SETTINGS,
    TABLE,
    Threshold,
    Verb,
    certified,
    check_promise,
    choosing_part,
    load_settings,
    warn_of_fit,
)
from offramp.policies import load_policies
from offramp.records import ExitRecord
from offramp.runtime.manifest import Combined

FOLDER = click.Path(file_okay=False, path_type=Path)


class Regroup(click.ParamType):
    """measured, always, never, or a number of samples."""

    name = "measured|always|never|N"

    def convert(self, value, param, ctx):
        from offramp.runtime.regrouping import regrouping

        choice = int(value) if str(value).isdigit() else value
        try:
            regrouping(choice, None)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        return choice


@click.command(cls=Verb)
@click.argument("weights", type=EXISTING, nargs=-1, required=True)
@click.option(
    "--policies",
    type=EXISTING,
    required=True,
    help="File of fitted policies from `offramp calibrate`, or settings of a cascade (.json) with its thresholds from "
    "`offramp search --cascade-out`.",
)
@click.option("--policy", "label", help="Label of the policy. Not needed if the file has one policy.")
@click.option("--threshold", type=Threshold(), help="Threshold δ, or one per exit: δ,δ,…")
@click.option("--accuracy", type=float, help="Choose the threshold for this accuracy on --validation.")
@click.option("--cost", type=float, help="Choose the threshold for this average cost on --validation.")
@click.option(
    "--reject-below",
    type=float,
    default=-math.inf,
    help="Threshold for rejection: answers that the policy estimates to be right with less than this get the "
    "prediction -1. By default, all answers are accepted.",
)
@click.option(
    "--abstain-below",
    type=Threshold(),
    default="-inf",
    help="Reject samples at once that stay at an exit with an estimate below this: later stages do not run. One "
    "number, or one per exit except the last.",
)
@click.option(
    "--level",
    type=float,
    help="Certify the threshold with this --risk on --validation, on whose samples the policy was not fitted.",
)
@RISK
@CONFIDENCE
@click.option(
    "--validation",
    type=EXISTING,
    help="Validation record, for --accuracy, --cost and --level, and for the ensemble and the temperatures of a "
    "cascade. If the policies were fitted on a part of it, the threshold is chosen on the rest.",
)
@click.option("--out", type=FOLDER, required=True, help="Output: the bundle, a folder.")
def export(
    weights,
    policies,
    label,
    threshold,
    accuracy,
    cost,
    reject_below,
    abstain_below,
    level,
    risk,
    confidence,
    validation,
    out,
) -> None:
    """Export a trained model with a policy and a threshold, to run it without torch.

    WEIGHTS are files from `offramp train`: one model, or the models of a cascade, cheaper models first. The bundle
    contains one ONNX file per stage, the policy, the preparation of the inputs, and a manifest with a checksum of every
    file. `offramp run` and `offramp.runtime.load` use it.

    \b
    For example:
      offramp export weights.safetensors --policies policies.safetensors --policy pcee --accuracy 0.9 \\
          --validation validation.safetensors --out bundle/
    """
    check_promise(level)
    settings = load_settings(policies) if policies.suffix in SETTINGS.suffixes else None
    if settings is not None and threshold is accuracy is cost is level is None:
        threshold = settings.chosen_thresholds
    if sum(value is not None for value in (threshold, accuracy, cost, level)) != 1:
        raise click.UsageError("expected one of --threshold, --accuracy, --cost and --level")
    if threshold is None and validation is None:
        raise click.UsageError(
            "--accuracy, --cost and --level need --validation, a record on which the threshold is chosen"
        )
    if settings is None:
        fitted, run = load_policies(policies)
    else:
        fitted, run = {settings.policy.name: settings.policy}, settings.origin
    label = label or (next(iter(fitted)) if len(fitted) == 1 else None)
    if label not in fitted:
        raise click.UsageError(f"--policy: {label!r} is not in {policies}; expected one of {', '.join(fitted)}")
    record = None if validation is None else ExitRecord.load(validation)
    if settings is not None:
        combined = settings.combined
    elif record is not None:
        combined = Combined.of(record)
    elif run.get("ensemble") or run.get("temperatures"):
        raise click.UsageError(f"{policies}: fitted on a cascade with an ensemble or temperatures; give --validation")
    else:
        combined = Combined()
    choosing = None if record is None else choosing_part(run, record)
    if level is not None:
        if settings is None and fitted[label].learns:
            warn_of_fit(policies, run, record)
        result = certified(label, fitted[label], choosing, risk, level, confidence)
        threshold = result.threshold
        if threshold is None:
            raise ValueError(f"{label}: {result.reason}")
    elif threshold is None:
        threshold = fitted[label].choose_threshold(choosing, accuracy=accuracy, cost=cost)

    from offramp.recording import load_trained
    from offramp.runtime.exporting import check_target, export_bundle

    check_target(out)
    models, datasets, made = zip(*map(load_trained, weights))
    if settings is not None:
        systems = [f"{each['system']} seed {each['seed']}" for each in made]
        expected = [f"{stage} seed {settings.origin.get('seed', made[0]['seed'])}" for stage in settings.stages]
        if systems != expected:
            raise ValueError(f"{policies}: a cascade of {', '.join(expected)}, but WEIGHTS are of {', '.join(systems)}")
    for key in ("system", "seed") if len(made) == 1 else ():
        if run.get(key, made[0][key]) != made[0][key]:
            raise ValueError(f"{policies}: fitted on {key} {run[key]}, but {weights[0]} is of {made[0][key]}")
    kept = ("system", "seed", "dataset", "dataset_options", "model", "model_options", "splits")
    export_bundle(
        out,
        models,
        fitted[label],
        threshold,
        [dataset.preparation for dataset in datasets],
        label=label,
        names=datasets[0].names,
        sources=[{key: each[key] for key in kept if key in each} for each in made],
        combined=combined,
        reject_below=reject_below,
        abstain_below=abstain_below,
        run=run,
    )
    rejects = "" if reject_below == -math.inf else f", rejects below {reject_below:g}"
    if not np.all(np.equal(abstain_below, -np.inf)):
        rejects += f", abstains below {abstain_below}"
    click.echo(f"{out}: {sum(model.n_exits for model in models)} exits, {label} at {threshold}{rejects}")


@click.command(cls=Verb)
@click.argument("bundle", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("inputs", metavar="INPUT", type=click.Path(exists=True, path_type=Path))
@click.option("--out", type=TABLE, required=True, help="Output: one row per sample, .parquet or .csv.")
@click.option(
    "--batch-size", type=click.IntRange(1), default=64, show_default=True, help="Number of samples per batch."
)
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="Number of CPU threads.")
@click.option(
    "--regroup",
    type=Regroup(),
    default="always",
    show_default=True,
    help="When samples that have left are removed from the batch. measured: when it saves time, which is measured on "
    "the first batch. A number: once at most this many samples are left.",
)
def run(bundle, inputs, out, batch_size, threads, regroup) -> None:
    """Run an exported model (a BUNDLE from `offramp export`) on INPUT, without torch.

    \b
    INPUT is, for images:
      a folder of image files, which are resized and cropped as at evaluation
      a .npy file of shape (N, C, H, W): integers are pixels as the dataset stores them, floats are prepared already
    and for texts, in UTF-8:
      a .txt file with one text per line
      a .csv or .tsv file with the columns of the dataset (two for pairs of texts)

    The columns of the output are sample (file name, row from 0, or line), prediction (-1 if the answer is rejected),
    class (if the names of the classes are known), exit (from 1), signal, confidence (max softmax of the exit) and cost.
    Texts that are too long are truncated as in training.

    \b
    For example:
      offramp run bundle/ images/ --out answers.csv
    """
    import pandas as pd

    from offramp.runtime.bundle import load
    from offramp.runtime.inputs import read_inputs

    model = load(bundle, threads=threads, regroup=regroup)
    raw = read_inputs(inputs, model.preparations)
    batches = raw.batches(batch_size)
    columns = {"prediction": np.int64, "exit": np.int64, "signal": float, "confidence": np.float32, "cost": float}
    found = {name: np.empty(len(raw), dtype) for name, dtype in columns.items()}  # (N,) each
    with progress_bar(len(batches), str(inputs), shown=True) as bar:
        for rows in batches:
            x = model.prepare(raw.take(rows))
            if regroup == "measured" and model.times is None:
                model.profile(x)
            answers = model(x)
            for name, values in found.items():
                values[rows] = getattr(answers, name)
            bar.update()
    table = pd.DataFrame({"sample": raw.names, **found})
    table["exit"] += 1
    if model.manifest.names:
        table.insert(2, "class", np.array([*model.manifest.names, ""])[table["prediction"]])
    write_table(table, out)


@click.command(cls=Verb)
@click.argument("bundle", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--host",
    type=click.Choice(["127.0.0.1", "0.0.0.0", "::"]),
    default="127.0.0.1",
    show_default=True,
    help="127.0.0.1: this machine only. 0.0.0.0 and ::: all networks. There is no authentication.",
)
@click.option("--port", type=click.IntRange(1024, 65535), default=8000, show_default=True, help="TCP port.")
@click.option(
    "--batch-size", type=click.IntRange(1), default=16, show_default=True, help="Maximum number of requests per batch."
)
@click.option(
    "--batch-timeout",
    type=click.FloatRange(0, 10_000),
    default=5.0,
    show_default=True,
    help="Milliseconds that the first request of a batch waits for others.",
)
@click.option(
    "--threads", type=click.IntRange(1), default=1, show_default=True, help="Number of CPU threads per worker."
)
@click.option(
    "--workers", type=click.IntRange(1), default=1, show_default=True, help="Number of processes that compute."
)
@click.option(
    "--max-bytes",
    type=click.IntRange(1),
    help="Maximum size of a request. Default: 1 MiB, or what the input of the model needs.",
)
@click.option(
    "--regroup",
    type=Regroup(),
    default="always",
    show_default=True,
    help="When samples that have left are removed from the batch, as for `offramp run`.",
)
@click.option(
    "--online",
    type=EXISTING,
    help="File of an online policy (Online.save), which decides, learns from POST /feedback, and is saved there.",
)
def serve(bundle, batch_timeout, **options) -> None:
    """Serve an exported model (a BUNDLE from `offramp export`) over HTTP, on one machine.

    Requests that arrive together are computed together. The server ends on Ctrl-C and on SIGTERM.

    \b
    POST /predict   one sample in JSON:
                      {"pixels": [[[0, 255, …], …], …]}  integers (C, H, W), as the dataset stores them
                      {"input": [[[0.5, …], …], …]}      numbers (C, H, W), prepared already
                      {"text": "…"} or {"text": ["…", "…"]}
    POST /feedback  with --online, labels of answered samples: {"ids": [12, …], "labels": [3, …]}
    GET /health     200 if the server is ready, and 503 otherwise
    GET /metrics    exits, costs, requests and latency, for Prometheus

    The response has prediction, class (if the names of the classes are known), exit (from 1), signal, confidence,
    cost, and with --online, id. docs/serving.md describes all of this, and serving on many machines.

    \b
    For example:
      offramp serve bundle/ --port 8000
      curl -d '{"text": "The film was good."}' http://127.0.0.1:8000/predict
    """
    with tempfile.TemporaryDirectory(prefix="offramp-metrics-") as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder  # read when prometheus_client is imported
        try:
            from offramp.runtime.server import serve
        except ModuleNotFoundError as error:
            raise ValueError(f"{error.name} is not installed; pip install offramp[run,serve]") from None
        serve(bundle, batch_timeout=batch_timeout / 1000, **options)
