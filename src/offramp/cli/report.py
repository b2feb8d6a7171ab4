"""`offramp figure`, `table`, `summary`, `report`, `environment`: what a study shows."""

import json
from collections.abc import Mapping
from pathlib import Path

import click

from offramp._registry import find
from offramp.cli.options import (
    EXISTING,
    OUT,
    Verb,
)
from offramp.reports.catalogue import FIGURES, TABLES, Entry
from offramp.reports.loading import describe


class Listed(Verb):
    """A verb whose help ends with what the catalogue lists."""

    entries: Mapping[str, Entry] = {}

    def format_epilog(self, ctx, formatter):
        with formatter.section("Names, and what each is made from"):
            formatter.write_dl([(name, "; ".join(map(describe, entry.reads))) for name, entry in self.entries.items()])


class FigureVerb(Listed):
    entries = FIGURES


class TableVerb(Listed):
    entries = TABLES


STEM = {"type": click.Path(path_type=Path), "metavar": "STEM", "required": True}


@click.command(cls=FigureVerb)
@click.argument("name")
@click.argument("files", type=EXISTING, nargs=-1, required=True)
@click.option("--pair", "pairs", nargs=2, multiple=True, help="error-cost: SMALL LARGE, one panel each. Repeat.")
@click.option(
    "--policy",
    "policies",
    multiple=True,
    help="error-cost, control, speedup, exit-histogram: label of a policy to show. Repeat.",
)
@click.option("--exit", "exits", type=int, multiple=True, help="reliability: exit to show, from 1. Repeat.")
@click.option("--seed", type=click.IntRange(0), help="oracle-heatmap: seed of the choice of samples.")
@click.option("--out", **STEM, help="Writes STEM.pdf and STEM.png.")
def figure(name, files, out, **options) -> None:
    """Draw figure NAME from FILES, in any order: each file says itself what it is."""
    find(FIGURES, "figure", name).write(files, out, **_given(options))


@click.command(cls=TableVerb)
@click.argument("name")
@click.argument("files", type=EXISTING, nargs=-1, required=True)
@click.option("--policy", "policies", multiple=True, help="claims, beem-claims: label of a policy to judge. Repeat.")
@click.option("--out", **STEM, help="Writes STEM.csv, STEM.md and STEM.tex.")
def table(name, files, out, **options) -> None:
    """Make table NAME from FILES, in any order: each file says itself what it is."""
    find(TABLES, "table", name).write(files, out, **_given(options))


def _given(options: dict) -> dict:
    return {name: value for name, value in options.items() if value not in (None, ())}


@click.command(cls=Verb)
@click.argument("files", type=EXISTING, nargs=-1, required=True)
@click.option("--out", type=OUT, required=True, help="JSON.")
def summary(files, out) -> None:
    """Make of FILES, the speed-up and the control table (compare --speedup-out, --control-out), the few numbers that
    are followed from version to version (`dvc metrics show`)."""
    from offramp._io.writing import write_text
    from offramp.reports.summary import summarise

    write_text(out, json.dumps(summarise(files), indent=2) + "\n")


@click.command(cls=Verb)
@click.argument("files", type=EXISTING, nargs=-1, required=True)
@click.option("--title", required=True)
@click.option("--parameters", type=EXISTING, required=True, help="JSON: what the study is; its notes are set apart.")
@click.option("--environment", type=EXISTING, required=True, help="JSON: what `offramp environment` printed.")
@click.option("--command", required=True, help="What makes the report, to be shown in it.")
@click.option("--out", type=OUT, required=True, help="HTML page.")
def report(files, title, parameters, environment, command, out) -> None:
    """Put figures (.png) and tables (.csv) together into one page, in the order of FILES, claims first."""
    from offramp.reports.page import read_json, write_report

    write_report(files, title, read_json(parameters), read_json(environment), command, out)


@click.command(cls=Verb)
def environment() -> None:
    """Print this machine's hardware and the versions installed, as JSON."""
    from offramp.reports.environment import environment

    click.echo(json.dumps(environment(), indent=2))
