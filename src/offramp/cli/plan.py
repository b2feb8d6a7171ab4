"""`offramp plan`: what a study costs."""

import click

from offramp.cli.options import (
    Verb,
)


@click.command(cls=Verb)
@click.option("--study", "name", help="Default: the one that params.yaml names.")
@click.option("--cores", type=click.IntRange(1), help="To tell the wall time on. Default: all of this machine.")
def plan(name, cores) -> None:
    """Tell what a study will cost, before anything runs: jobs, CPU-hours, memory, disk and wall time.

    For a checkout of the project. Trainings and recordings are probed on this machine, for a minute or so; nothing is
    downloaded. Where benchmark files of the study are there, what they measured stands beside the estimates.
    """
    from offramp.study.plan import plan

    click.echo(plan(name, cores))
