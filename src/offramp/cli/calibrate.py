"""`offramp calibrate`, `policies`: policies fitted on validation data, and the list of them."""

import click

from offramp._io.tables import write_table
from offramp.cli.options import (
    EXISTING,
    OUT,
    TABLE,
    PolicySpec,
    Verb,
    about,
    labelled,
)
from offramp.policies import POLICIES, make_policy, save_policies
from offramp.records import ExitRecord


@click.command(cls=Verb)
@click.argument("validation", type=EXISTING)
@click.option(
    "--policy",
    "policies",
    type=PolicySpec(),
    multiple=True,
    required=True,
    callback=labelled,
    help="Repeat for several.",
)
@click.option("--bins", type=click.IntRange(1), default=15, show_default=True, help="Bins of the reliability diagrams.")
@click.option("--out", type=OUT, required=True, help="Fitted policies, .safetensors.")
@click.option("--reliability", type=TABLE, help="The diagrams' bins, .parquet or .csv.")
def calibrate(validation, policies, bins, out, reliability) -> None:
    """Fit policies on a VALIDATION record, and draw up its reliability diagrams."""
    from offramp.evaluation.exits import reliability_table

    record = ExitRecord.load(validation)
    fitted = {label: policy.fit(record) for label, policy in policies.items()}
    diagrams = about(record, validation, reliability_table(record, bins))
    save_policies(fitted, out, record.metadata)
    if reliability:
        write_table(diagrams, reliability)


@click.command(cls=Verb)
def policies() -> None:
    """List the exit policies, their rules and options."""
    for name, policy in POLICIES.items():
        options = ", ".join(f"{key}={value}" for key, value in make_policy(name).options.items())
        click.echo(f"{name}\n    leaves where {policy.rule}\n    options: {options or 'none'}\n    {policy.paper}")
