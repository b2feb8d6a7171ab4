"""`offramp figure`, `table`, `summary`, `report`, `environment`, `verify`, `judge`: what a study shows."""

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
from offramp.records import ExitRecord
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


FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command(cls=Verb)
@click.argument("report", type=FOLDER)
@click.argument("reference", type=FOLDER)
@click.pass_context
def verify(ctx, report, reference) -> None:
    """Compare the tables of a finished REPORT with those of a REFERENCE, both folders of one study.

    Prints how many numbers are equal, how many differ but have overlapping intervals, and which verdicts changed. The
    exit status is 0 if all verdicts and intervals agree, else 1.
    """
    from offramp.reports import verifying

    found = verifying.verify(report, reference)
    click.echo(verifying.readable(found))
    ctx.exit(not all(each.agrees for each in found.values()))


@click.command(cls=Verb)
@click.option("--validation", type=EXISTING, required=True, help="Record to fit policies and choose thresholds on.")
@click.option("--test", type=EXISTING, required=True, help="Record to report on.")
@click.option("--accuracy", type=click.FloatRange(0, 1), help="Recommend the cheapest policy of this accuracy.")
@click.option("--cost", type=float, help="Or the most accurate policy at this mean cost, in the record's unit.")
@click.option("--resamples", type=click.IntRange(100), default=2000, show_default=True, help="Of the bootstrap.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder to write to.")
def judge(validation, test, accuracy, cost, resamples, out) -> None:
    """From your own outputs to a report: fit every policy that the records allow, compare them, recommend one.

    Writes OUT/index.html with curves, reliability diagrams and the policies at matched accuracy, the fitted policies
    and the recommended policy with its threshold. Without --accuracy and --cost, the recommended policy is the cheapest
    that is no less accurate on validation than the last exit.

    \b
    For example:
      offramp import validation.npz validation.safetensors
      offramp import test.npz test.safetensors
      offramp judge --validation validation.safetensors --test test.safetensors --out judged/
    """
    from offramp.reports.judging import judge

    target = {"accuracy": accuracy, "cost": cost}
    options = "".join(f" --{name} {value:g}" for name, value in target.items() if value is not None)
    click.echo(
        judge(
            ExitRecord.load(validation),
            ExitRecord.load(test),
            out,
            system=test.stem,
            **target,
            resamples=resamples,
            command=f"offramp judge --validation {validation} --test {test}{options} --out {out}",
            progress=True,
        )
    )
