"""`offramp evaluate`, `compare`, `sensitivity`, `search`: what policies and cascades give on test data."""

import click

from offramp._io.tables import write_table
from offramp.cli.options import (
    DEFAULT_GRID,
    EXISTING,
    TABLE,
    Grid,
    LabelledGrid,
    PolicySpec,
    Spec,
    VariantSpec,
    Verb,
    about,
    labelled,
    write_all,
)
from offramp.evaluation import evaluate as evaluate_policy
from offramp.evaluation import frontier as policy_frontier
from offramp.policies import Policy, load_policies
from offramp.records import ExitRecord


@click.command(cls=Verb)
@click.option(
    "--policy",
    "specs",
    type=PolicySpec(),
    multiple=True,
    callback=labelled,
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

    from offramp.evaluation.exits import exit_table

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
        return about(record, test, pd.concat(tables, ignore_index=True))

    def curve(label: str, policy: Policy) -> pd.DataFrame:
        return evaluate_policy(policy, record, of_label.get(label, of_label.get(None, DEFAULT_GRID)))

    tables = {out: of_all(curve)}
    if frontier:
        tables[frontier] = of_all(lambda _, policy: policy_frontier(policy, record))
    if exits:
        tables[exits] = about(record, test, exit_table(record, fitted, bins))
    write_all(tables)


@click.command(cls=Verb)
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
    from offramp.comparison import claims, matched
    from offramp.comparison.bootstrap import Bootstrap
    from offramp.comparison.runs import load_runs

    if chosen_duels and not duels_out:
        raise click.UsageError("--duel needs --duels-out, where to write what came of it")
    runs = load_runs(files)
    bootstrap = Bootstrap.draw(runs[0].test.n_samples, resamples, seed)
    tables = {
        targets_out: claims.at_targets(runs, targets, bootstrap),
        pairs_out: claims.pairs(runs, chosen_pairs, bootstrap),
        control_out: claims.control(runs, grid, baseline, bootstrap),
    }
    if speedup_out or duels_out:
        matches = matched.match(runs)
        if speedup_out:
            tables[speedup_out] = matched.speedup(matches, bootstrap)
        if duels_out:
            tables[duels_out] = matched.duels(matches, chosen_duels, bootstrap)
    write_all(tables)


@click.command(cls=Verb)
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
    from offramp.comparison.bootstrap import Bootstrap
    from offramp.comparison.runs import load_runs
    from offramp.comparison.sensitivity import sensitivity

    runs = load_runs(files, fitted=False)
    bootstrap = Bootstrap.draw(runs[0].test.n_samples, resamples, seed)
    write_table(sensitivity(runs, variants, grid, draws, bootstrap), out)


@click.command(cls=Verb)
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
    from offramp.comparison.cascades import VARIANTS, Variant, reduction_tables
    from offramp.comparison.runs import load_runs

    made = reduction_tables(
        load_runs(files, fitted=False),
        {name: Variant(**options) for name, options in variants} or VARIANTS,
        bands,
        step,
        resamples,
        seed,
        progress=True,
    )
    write_all({outs[f"{name}_out"]: table for name, table in made.items()})
