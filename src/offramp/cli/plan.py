"""The command `offramp plan`."""

import click

from offramp.cli.options import (
    Verb,
)


@click.command(cls=Verb)
@click.option("--study", "name", help="Name of the study. Default: the one that params.yaml names.")
@click.option(
    "--cores",
    type=click.IntRange(1),
    help="Number of cores for the estimate of the wall time. Default: all cores of this machine.",
)
def plan(name, cores) -> None:
    """Estimate the cost of a study before it runs: jobs, CPU-hours, memory, disk space and wall time.

    Run this command in a checkout of the project. A few steps of training and inference are timed on this machine,
    which takes about a minute. Nothing is downloaded. If the study has been run before, the measured CPU time is shown
    next to the estimates.

    \b
    For example:
      offramp plan --study fashion_mnist --cores 2
    """
    from offramp.study.plan import plan

    click.echo(plan(name, cores))
