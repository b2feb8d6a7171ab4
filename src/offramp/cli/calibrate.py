"""The commands `offramp calibrate` and `offramp policies`."""

import click

from offramp._io.tables import write_table
from offramp.cli.options import (
    EXISTING,
    FIT_SHARE,
    OUT,
    TABLE,
    PolicySpec,
    Verb,
    about,
    labelled,
)
from offramp.policies import POLICIES, make_policy, save_policies
from offramp.records import ExitRecord
from offramp.records.splitting import Holdout


@click.command(cls=Verb)
@click.argument("validation", type=EXISTING)
@click.option(
    "--policy",
    "policies",
    type=PolicySpec(),
    multiple=True,
    required=True,
    callback=labelled,
    help="Policy to fit, for example pcee:bins=20. Repeat this option for several policies.",
)
@click.option("--bins", type=click.IntRange(1), default=15, show_default=True, help="Number of bins per diagram.")
@FIT_SHARE
@click.option("--out", type=OUT, required=True, help="Output: fitted policies, .safetensors.")
@click.option("--reliability", type=TABLE, help="Output: bins of the reliability diagrams, .parquet or .csv.")
def calibrate(validation, policies, bins, fit_share, out, reliability) -> None:
    """Fit policies on a VALIDATION record, and compute its reliability diagrams.

    The fitted policies are stored in one file, which `offramp evaluate --policies` and `offramp.load_policies` read.
    The reliability diagrams contain the accuracy of samples with similar max softmax, per exit, on all samples.

    With --fit-share, the file of policies states which samples are held out. `offramp compare`, `time`, `certify` and
    `export` choose thresholds on these, if they are given the same VALIDATION.

    A policy is written as NAME:option=value,… (`offramp policies` lists names and options). To fit several versions of
    a policy, give each of them a label: LABEL=NAME:option=value,…

    \b
    For example:
      offramp calibrate validation.safetensors --policy pcee --policy coarse=pcee:bins=10 --out policies.safetensors
    """
    from offramp.evaluation.exits import reliability_table

    record = ExitRecord.load(validation)
    holdout = Holdout.of_run(fit_share, record.metadata)
    fitting, _ = holdout.parts(record)
    fitted = {label: policy.fit(fitting) for label, policy in policies.items()}
    diagrams = about(record, validation, reliability_table(record, bins)) if reliability else None
    save_policies(fitted, out, record.metadata | holdout.metadata)
    if reliability:
        write_table(diagrams, reliability)


@click.command(cls=Verb)
def policies() -> None:
    """List all exit policies with their rules and options.

    The rule is the condition under which a sample leaves at an exit, where δ is the threshold. The options are shown
    with their default values; `--policy NAME:option=value,…` of other commands sets them.
    """
    for name, policy in POLICIES.items():
        options = ", ".join(f"{key}={value}" for key, value in make_policy(name).options.items())
        click.echo(f"{name}\n    rule: {policy.rule}\n    options: {options or 'none'}\n    source: {policy.paper}")
