"""`offramp figure`, `table`, `summary`, `report`, `environment`: what a study shows."""

import json
from pathlib import Path

import click

from offramp.cli.options import (
    EXISTING,
    OUT,
    Verb,
)


@click.command(cls=Verb)
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
    from offramp.reports.figures import draw

    draw(name, files, out, **{option: value for option, value in options.items() if value not in (None, ())})


@click.command(cls=Verb)
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
    from offramp.reports.tables import write

    write(name, files, out, **{option: value for option, value in options.items() if value != ()})


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
