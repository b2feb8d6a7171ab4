"""The commands `offramp figure`, `table`, `summary`, `report`, `environment`, `compare-reports` and `judge`."""

import json
from collections.abc import Mapping
from pathlib import Path

import click

from offramp._registry import find
from offramp.cli.options import CONFIDENCE, EXISTING, OUT, RESAMPLES, RISK, Verb, check_promise
from offramp.records import ExitRecord
from offramp.records.origin import system_of
from offramp.reports.catalogue import FIGURES, TABLES, Entry
from offramp.reports.loading import describe


class Listed(Verb):
    """A command whose help ends with a list of the entries of the catalogue."""

    entries: Mapping[str, Entry] = {}

    def format_epilog(self, ctx, formatter):
        with formatter.section("Names, and the files that each one needs"):
            formatter.write_dl([(name, "; ".join(map(describe, entry.reads))) for name, entry in self.entries.items()])


class FigureVerb(Listed):
    """Lists all figures."""

    entries = FIGURES


class TableVerb(Listed):
    """Lists all tables."""

    entries = TABLES


STEM = {"type": click.Path(path_type=Path), "metavar": "STEM", "required": True}


@click.command(cls=FigureVerb)
@click.argument("name")
@click.argument("files", type=EXISTING, nargs=-1, required=True)
@click.option(
    "--pair",
    "pairs",
    nargs=2,
    multiple=True,
    help="For error-cost: SMALL LARGE, one panel per pair. Repeat this option.",
)
@click.option(
    "--policy",
    "policies",
    multiple=True,
    help="For error-cost, control, speedup, exit-histogram: label of a policy to show. Repeat this option.",
)
@click.option(
    "--exit",
    "exits",
    type=int,
    multiple=True,
    help="For reliability: exit to show, counted from 1. Repeat this option.",
)
@click.option("--seed", type=click.IntRange(0), help="For oracle-heatmap: seed of the random choice of samples.")
@click.option("--out", **STEM, help="Output: STEM.pdf and STEM.png.")
def figure(name, files, out, **options) -> None:
    """Draw the figure NAME from FILES.

    FILES are outputs of other commands. The list below states which ones each figure needs. Their order does not
    matter, because each file is recognised by its columns.

    \b
    For example:
      offramp evaluate --policy pcee --validation validation.safetensors --test test.safetensors \\
          --out curve.parquet --exits exits.parquet
      offramp figure control curve.parquet exits.parquet --out control
    """
    find(FIGURES, "figure", name).write(files, out, **_given(options))


@click.command(cls=TableVerb)
@click.argument("name")
@click.argument("files", type=EXISTING, nargs=-1, required=True)
@click.option(
    "--policy",
    "policies",
    multiple=True,
    help="For claims, beem-claims: label of a policy to test. Repeat this option.",
)
@click.option("--out", **STEM, help="Output: STEM.csv, STEM.md and STEM.tex.")
def table(name, files, out, **options) -> None:
    """Create the table NAME from FILES.

    FILES are outputs of other commands. The list below states which ones each table needs. Their order does not
    matter, because each file is recognised by its columns. The .csv file contains the numbers at full precision.

    \b
    For example:
      offramp table exits exits.parquet --out exits
    """
    find(TABLES, "table", name).write(files, out, **_given(options))


def _given(options: dict) -> dict:
    return {name: value for name, value in options.items() if value not in (None, ())}


@click.command(cls=Verb)
@click.argument("files", type=EXISTING, nargs=-1, required=True)
@click.option("--out", type=OUT, required=True, help="Output: JSON file.")
def summary(files, out) -> None:
    """Summarise a study in a few numbers, which `dvc metrics show` displays.

    FILES are the tables that `offramp compare --speedup-out` and `--control-out` wrote. The output contains the
    accuracy of each full system and, for each policy, the mean speed-up, change of accuracy and control error.

    \b
    For example:
      offramp summary speedup.parquet control.parquet --out metrics.json
    """
    from offramp._io.writing import write_text
    from offramp.reports.summary import summarise

    write_text(out, json.dumps(summarise(files), indent=2) + "\n")


@click.command(cls=Verb)
@click.argument("files", type=EXISTING, nargs=-1, required=True)
@click.option("--title", required=True, help="Title of the page.")
@click.option(
    "--parameters",
    type=EXISTING,
    required=True,
    help="JSON file with the settings of the study. Its key `notes` is shown separately.",
)
@click.option("--environment", type=EXISTING, required=True, help="JSON file with the output of `offramp environment`.")
@click.option("--command", required=True, help="Command that creates the report, which is shown on the page.")
@click.option("--out", type=OUT, required=True, help="Output: HTML page.")
def report(files, title, parameters, environment, command, out) -> None:
    """Combine linked charts, figures and tables into one HTML page, which needs no network.

    FILES are figures (.png) and tables (.csv) from `offramp figure` and `offramp table`, in the order in which they are
    shown. Claims are shown first. The other formats (.pdf, .md, .tex) must be next to these files. FILES can also be
    the output of `offramp points` (.parquet). The page then begins with linked charts of all policies, in which a point
    can be chosen, with the commands for it.

    \b
    For example:
      offramp environment > environment.json
      offramp report figures/*.png tables/*.csv points.parquet --title "My study" --parameters parameters.json \\
          --environment environment.json --command "make reproduce" --out index.html
    """
    from offramp.reports.page import read_json, write_report

    write_report(files, title, read_json(parameters), read_json(environment), command, out)


@click.command(cls=Verb)
def environment() -> None:
    """Print the hardware of this machine and the versions of installed packages, as JSON."""
    from offramp.reports.environment import environment

    click.echo(json.dumps(environment(), indent=2))


FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command("compare-reports", cls=Verb)
@click.argument("a", type=FOLDER)
@click.argument("b", type=FOLDER)
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), help="Write all values that were compared (CSV)."
)
@click.pass_context
def compare_reports(ctx, a, b, out) -> None:
    """Compare the tables of two reports of a study: what changed from A to B beyond noise.

    A is the earlier report or the reference, and B the one of another commit, setting or machine. A number changed
    beyond noise if its intervals in A and B do not overlap. Verdicts that changed and rows of A that B lacks are
    listed, too. Measured times are not compared. The exit status is 0 if nothing changed beyond noise and 1 otherwise;
    with other parameters, which are listed first, it is 3 in place of 1.

    \b
    For example:
      offramp compare-reports reports/reference/digits reports/digits --out changes.csv
    """
    from offramp._io.tables import write_table
    from offramp.reports import comparing

    if out is not None and out.suffix != ".csv":
        raise ValueError(f"{out}: expected a name that ends in .csv")
    changes, parameters = comparing.compare_reports(a, b), comparing.differing_parameters(a, b)
    if out is not None:
        write_table(changes, out)
    click.echo(comparing.readable(changes, parameters))
    ctx.exit(0 if comparing.agrees(changes) else 3 if parameters else 1)


@click.command(cls=Verb)
@click.option(
    "--validation", type=EXISTING, required=True, help="Record on which policies are fitted and thresholds chosen."
)
@click.option("--test", type=EXISTING, required=True, help="Record on which results are measured.")
@click.option("--accuracy", type=click.FloatRange(0, 1), help="Recommend the cheapest policy with this accuracy.")
@click.option(
    "--cost", type=float, help="Recommend the most accurate policy with this average cost, in the unit of the record."
)
@click.option(
    "--level",
    type=float,
    help="Recommend the cheapest policy with a certified threshold: its --risk is at most this level, which allows for "
    "the choice of the policy.",
)
@RISK
@CONFIDENCE
@RESAMPLES
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="Output: folder for the report and the fitted policies.",
)
def judge(validation, test, accuracy, cost, level, risk, confidence, resamples, out) -> None:
    """Compare all policies on your own outputs, and recommend one of them with a threshold.

    All policies that the records allow are fitted on validation data and compared on test data. One half of the
    validation samples is used to fit them, the other half to choose thresholds and the recommended policy. The folder
    OUT contains the report (index.html, with curves, reliability diagrams, and the policies at matched accuracy), the
    fitted policies (policies.safetensors) and the recommendation (recommendation.json). Without --accuracy, --cost or
    --level, the recommended policy is the cheapest one that is at least as accurate on validation data as the last
    exit.

    \b
    For example:
      offramp import validation.npz validation.safetensors
      offramp import test.npz test.safetensors
      offramp judge --validation validation.safetensors --test test.safetensors --out judged/
      offramp judge --validation validation.safetensors --test test.safetensors --risk gap --level 0.02 --out judged/
    """
    from offramp.reports.judging import judge

    check_promise(level)
    target = {"accuracy": accuracy, "cost": cost, "level": level}
    if level is not None:
        target |= {"risk": risk, "confidence": confidence}
    options = "".join(f" --{name} {_word(value)}" for name, value in target.items() if value is not None)
    record = ExitRecord.load(test)
    click.echo(
        judge(
            ExitRecord.load(validation),
            record,
            out,
            system=system_of(record.metadata, test),
            **target,
            resamples=resamples,
            files={"validation": str(validation), "test": str(test)},
            command=f"offramp judge --validation {validation} --test {test}{options} --out {out}",
            progress=True,
        )
    )


def _word(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:g}"
