"""The commands that report results on test data: `offramp evaluate`, `compare`, `sensitivity`, `search` and others."""

import math
import warnings

import click

from offramp._io.tables import write_table
from offramp.cli.options import (
    BOOTSTRAP_SEED,
    CONFIDENCE,
    EXISTING,
    FIT_SHARE,
    ONLY,
    RESAMPLES,
    RISK,
    SETTINGS,
    TABLE,
    TARGETS,
    Grid,
    LabelledGrid,
    PolicySpec,
    Spec,
    Threshold,
    VariantSpec,
    Verb,
    about,
    certified,
    check_promise,
    labelled,
    load_fitted,
    load_settings,
    those_of,
    write_all,
)
from offramp.evaluation import default_thresholds
from offramp.evaluation import evaluate as evaluate_policy
from offramp.evaluation import frontier as policy_frontier
from offramp.policies import Policy, load_policies
from offramp.records import ExitRecord
from offramp.records.metrics import with_metric
from offramp.records.splitting import Holdout


@click.command(cls=Verb)
@click.option(
    "--policy",
    "specs",
    type=PolicySpec(),
    multiple=True,
    callback=labelled,
    help="Policy, for example pcee:bins=20, which is fitted on --validation. Repeat this option for several policies.",
)
@click.option(
    "--policies",
    type=EXISTING,
    help="File of fitted policies from `offramp calibrate`, or settings of a cascade (.json) from `offramp search "
    "--cascade-out`, instead of --policy.",
)
@ONLY
@click.option(
    "--validation",
    type=EXISTING,
    help="Record on which policies are fitted, and thresholds certified (--level). Not needed for policies that do not "
    "learn from data.",
)
@click.option("--test", type=EXISTING, required=True, help="Record on which policies are evaluated.")
@click.option(
    "--thresholds",
    "grids",
    type=LabelledGrid(),
    multiple=True,
    help="Thresholds δ, including both ends. Repeat this option with LABEL= for policies whose signal has another "
    "scale. Default: 0:1:0.01 if δ is an accuracy, and otherwise at most 101 values over the range of the signal on "
    "--validation, or on --test if there is none.",
)
@click.option(
    "--per-exit",
    "rows",
    type=LabelledGrid(),
    metavar="[LABEL=]δ,δ,…",
    multiple=True,
    help="One threshold per exit except the last, instead of --thresholds. Repeat this option for several rows. "
    "Default: the thresholds of the settings of a cascade.",
)
@click.option(
    "--level",
    type=float,
    help="Certify thresholds with this --risk on --validation, instead of --thresholds. Policies of --policy "
    "that learn from data are then fitted on one half of it, and certified on the other.",
)
@RISK
@CONFIDENCE
@click.option(
    "--reject-below",
    type=float,
    default=-math.inf,
    help="Reject answers that are estimated to be right with less than this (max softmax, if the policy estimates no "
    "accuracy). --out then has the coverage, and the accuracy of the accepted answers.",
)
@click.option(
    "--abstain-below",
    type=Threshold(),
    default="-inf",
    help="Reject samples at once that stay at an exit with an estimate below this: later exits do not run. One number, "
    "or one per exit except the last.",
)
@click.option(
    "--bins",
    type=click.IntRange(1),
    default=15,
    show_default=True,
    help="Number of bins of the calibration error in --exits.",
)
@click.option("--out", type=TABLE, required=True, help="Output: one row per policy and threshold, .parquet or .csv.")
@click.option("--frontier", type=TABLE, help="Output: one row per operating point of each policy, .parquet or .csv.")
@click.option(
    "--exits",
    type=TABLE,
    help="Output: one row per exit with accuracy, metric, cost, agreement with the exit before, calibration error.",
)
def evaluate(
    specs,
    policies,
    only,
    validation,
    test,
    grids,
    rows,
    level,
    risk,
    confidence,
    reject_below,
    abstain_below,
    bins,
    out,
    frontier,
    exits,
) -> None:
    """Evaluate policies on a test record, over a grid of thresholds δ.

    Policies are either fitted on a validation record (--policy and --validation), or read from a file (--policies). The
    output contains the accuracy, the average cost, and the share of samples that leave at each exit. For real results,
    fit on validation data and evaluate on separate test data.

    \b
    For example:
      offramp evaluate --policy pcee --validation validation.safetensors --test test.safetensors --out curve.csv
      offramp evaluate --policies policies.safetensors --test test.safetensors --thresholds 0.5:1:0.01 --out curve.csv
      offramp evaluate --policy confidence --test test.safetensors --per-exit 0.9,0.8 --out points.csv
      offramp evaluate --policy pcee --validation validation.safetensors --test test.safetensors \\
          --risk gap --level 0.02 --out point.csv
      offramp evaluate --policies policies.safetensors --test test.safetensors --thresholds 0.9 --reject-below 0.6 \\
          --out rejecting.csv
    """
    import pandas as pd

    from offramp.evaluation.exits import exit_table

    if bool(specs) == (policies is not None):
        raise click.UsageError("expected either --policy (with --validation) or --policies")
    check_promise(level)
    if policies and validation and level is None:
        raise click.UsageError("--policies are fitted already; expected no --validation, or --level as well")
    if level is not None and not validation:
        raise click.UsageError("--level needs --validation, a record on which thresholds are certified")
    if level is not None and (grids or rows):
        raise click.UsageError("--level chooses the thresholds; expected no --thresholds and no --per-exit")
    if len({out, frontier, exits} - {None}) < sum(path is not None for path in (out, frontier, exits)):
        raise click.UsageError("two tables of one name; expected another file for each of --out, --frontier, --exits")
    record = ExitRecord.load(test)
    held_out = ExitRecord.load(validation) if validation else record
    if policies and policies.suffix in SETTINGS.suffixes:
        settings = load_settings(policies)
        settings.check(record)
        fitted = {settings.policy.name: settings.policy}
        rows = rows or ([] if grids or level is not None else [(None, settings.chosen_thresholds)])
    else:
        fitted = specs or load_policies(policies)[0]
        if policies and level is not None:
            fitted, held_out = load_fitted(policies, held_out)
    fitted = those_of(fitted, only)
    of_label = dict(grids)
    for option, labels in (("thresholds", of_label), ("per-exit", dict(rows))):
        if unknown := sorted(labels.keys() - {None, *fitted}):
            raise click.UsageError(f"--{option} for {unknown[0]!r}; expected one of {', '.join(fitted)}")
    if specs and not validation and (untaught := [label for label, policy in fitted.items() if policy.learns]):
        raise ValueError(f"{untaught[0]} learns from data: give --validation, a record to fit it on")
    if specs and validation:
        fitting = held_out
        if level is not None and any(policy.learns for policy in fitted.values()):
            fitting, held_out = Holdout.of_run(0.5, held_out.metadata).parts(held_out)
        fitted = {label: policy.fit(fitting) for label, policy in fitted.items()}
    if level is not None:
        for label, policy in list(fitted.items()):
            result = certified(label, policy, held_out, risk, level, confidence)
            rows = [*rows, (label, result.threshold)]
            if result.threshold is None:
                del fitted[label]
                warnings.warn(f"{label}: {result.reason}", stacklevel=1)
        if not fitted:
            raise ValueError(f"no policy keeps {risk} at most {level:g} with confidence {confidence:g}")

    def of_all(function) -> pd.DataFrame:
        tables = [function(label, policy).assign(policy=label) for label, policy in fitted.items()]
        return about(record, test, pd.concat(tables, ignore_index=True))

    rejection = {"reject_below": reject_below, "abstain_below": abstain_below}

    def curve(label: str, policy: Policy) -> pd.DataFrame:
        if own := [row for of, row in rows if of in (None, label)]:
            return pd.concat([evaluate_policy(policy, record, [row], **rejection) for row in own], ignore_index=True)
        grid = of_label.get(label, of_label.get(None))
        if grid is None:
            return evaluate_policy(policy, record, default_thresholds(policy, held_out), **rejection)
        points = evaluate_policy(policy, record, grid, **rejection)
        if points["threshold"].nunique() > 1 and len(points.drop(columns="threshold").drop_duplicates()) == 1:
            signal = policy.signal(record)
            warnings.warn(
                f"{label}: all {len(points)} thresholds give the same result; its signal is from {signal.min():g} to "
                f"{signal.max():g} (--thresholds {label}=…)",
                stacklevel=2,
            )
        return points

    tables = {out: of_all(curve)}
    if frontier:
        tables[frontier] = of_all(lambda _, policy: policy_frontier(policy, record))
    if exits:
        tables[exits] = about(record, test, exit_table(record, fitted, bins))
    write_all(tables)


@click.command(cls=Verb)
@click.argument("files", type=EXISTING, nargs=-1, required=True)
@TARGETS
@click.option(
    "--pair", "chosen_pairs", nargs=2, multiple=True, help="SMALL LARGE: two systems to compare. Repeat this option."
)
@click.option(
    "--duel",
    "chosen_duels",
    nargs=2,
    multiple=True,
    help="POLICY RIVAL: two policies to compare, for --duels-out. Repeat this option.",
)
@click.option(
    "--grid",
    type=Grid(),
    default="0:1:0.01",
    show_default=True,
    help="Values of δ at which the control error is measured.",
)
@click.option(
    "--baseline",
    default="confidence",
    show_default=True,
    help="Policy with which the control error of other policies is compared.",
)
@RESAMPLES
@BOOTSTRAP_SEED
@click.option(
    "--targets-out", type=TABLE, required=True, help="Output: accuracy and cost of every policy for each target."
)
@click.option(
    "--pairs-out", type=TABLE, required=True, help="Output: large systems with exits compared with full small systems."
)
@click.option("--control-out", type=TABLE, required=True, help="Output: how closely accuracy follows δ.")
@click.option(
    "--speedup-out",
    type=TABLE,
    help="Output: speed-up of every policy at matched accuracy, with one threshold for all exits or one per exit.",
)
@click.option("--duels-out", type=TABLE, help="Output: each --duel, at matched accuracy and at matched cost.")
@click.option(
    "--rejection-out", type=TABLE, help="Output: accuracy of the accepted answers of every policy against coverage."
)
@click.option(
    "--splits",
    type=click.IntRange(1),
    default=40,
    show_default=True,
    help="Random splits of the samples of each system, over its seeds, for --promises-out.",
)
@click.option(
    "--promises-out",
    type=TABLE,
    help="Output: how often thresholds break the promise of each --target, if the threshold is the target itself, is "
    "chosen, or is certified.",
)
@click.option(
    "--efficiency-out",
    type=TABLE,
    help="Output: accuracy of every policy at equal cost, the share of the gap between max softmax and the oracle that "
    "it closes, and the calibration error, AUROC and AURC of its signal.",
)
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
    rejection_out,
    splits,
    promises_out,
    efficiency_out,
) -> None:
    """Compare the runs of a study. Results are means over seeds, with 95 % intervals.

    FILES are the validation and test records of all runs, and the files of policies that were fitted on them. Their
    order does not matter, because each file contains its system, seed and split. A run is one system with one seed.
    Thresholds are chosen on validation data, and results are measured on test data. If policies were fitted on a part
    of the validation samples (`offramp calibrate --fit-share`), thresholds are chosen on the others.

    \b
    For example, for the records of two systems:
      offramp compare small/*.safetensors large/*.safetensors --target 0.9 --pair small large \\
          --targets-out targets.csv --pairs-out pairs.csv --control-out control.csv
    """
    from offramp.comparison import claims, matched
    from offramp.comparison.bootstrap import Bootstrap
    from offramp.comparison.promises import promises
    from offramp.comparison.ranking import efficiency
    from offramp.comparison.rejection import rejection
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
    if speedup_out or duels_out or efficiency_out:
        matches = matched.match(runs)
        if speedup_out:
            tables[speedup_out] = matched.speedup(matches, bootstrap)
        if duels_out:
            tables[duels_out] = matched.duels(matches, chosen_duels, bootstrap)
        if efficiency_out:
            tables[efficiency_out] = efficiency(matches, bootstrap)
    if rejection_out:
        tables[rejection_out] = rejection(runs, bootstrap)
    if promises_out:
        tables[promises_out] = promises(runs, targets, splits=splits, seed=seed)
    write_all({path: with_metric(table, runs[0].test) for path, table in tables.items()})


@click.command(cls=Verb)
@click.argument("files", type=EXISTING, nargs=-1, required=True)
@click.option(
    "--weights",
    help="Path of the weights of each model, with {system} and {seed} in place of its name and seed, for the commands "
    "on the page.",
)
@RESAMPLES
@BOOTSTRAP_SEED
@click.option("--out", type=TABLE, required=True, help="Output: one row per policy and threshold.")
def points(files, weights, resamples, seed, out) -> None:
    """Evaluate every policy at a few thresholds in detail, for the linked charts of the page of `offramp report`.

    FILES are those of `offramp compare`. At most 33 thresholds of each policy are picked on validation data: corners
    of the curve of accuracy against cost, and points at even distances of cost. The output contains their results on
    test data with 95 % intervals, and for each of them the exits, the reliability diagram, and the risk at coverages.

    \b
    For example:
      offramp points small/*.safetensors large/*.safetensors --out points.parquet
    """
    from offramp.comparison.bootstrap import Bootstrap
    from offramp.comparison.points import points
    from offramp.comparison.runs import load_runs

    runs = load_runs(files)
    bootstrap = Bootstrap.draw(runs[0].test.n_samples, resamples, seed)
    write_table(with_metric(points(runs, bootstrap, weights), runs[0].test), out)


@click.command(cls=Verb)
@click.argument("files", type=EXISTING, nargs=-1, required=True)
@click.option(
    "--variant",
    "variants",
    type=VariantSpec(),
    multiple=True,
    required=True,
    help="A policy with one setting of a factor. Repeat this option. The first setting of a factor is the reference "
    "for the others. The option validation=N limits the number of validation samples. With fit_share=SHARE, δ is a "
    "target accuracy: the policy is fitted on a share of the samples, and its threshold chosen on the others (1: both "
    "on all). With folds=K, it is chosen on all, each decided by a policy that was fitted on the other folds.",
)
@click.option(
    "--grid",
    type=Grid(),
    default="0:1:0.01",
    show_default=True,
    help="Values of δ at which the control error is measured.",
)
@click.option(
    "--draws",
    type=click.IntRange(1),
    default=10,
    show_default=True,
    help="Random draws of each smaller validation set.",
)
@RESAMPLES
@BOOTSTRAP_SEED
@click.option("--out", type=TABLE, required=True, help="Output: one row per system and variant, .parquet or .csv.")
def sensitivity(files, variants, grid, draws, resamples, seed, out) -> None:
    """Measure the effect of single settings on control error and cost, varying one factor at a time.

    FILES are the validation and test records of all runs. Their order does not matter, because each record contains
    its system, seed and split. Policies are fitted by this command. Only policies whose δ is an accuracy are allowed.

    \b
    For example:
      offramp sensitivity */validation.safetensors */test.safetensors --out sensitivity.csv \\
          --variant bins/50=pcee --variant bins/10=pcee:bins=10 \\
          --variant samples/all=pcee --variant samples/200=pcee:validation=200
    """
    from offramp.comparison.bootstrap import Bootstrap
    from offramp.comparison.runs import load_runs
    from offramp.comparison.sensitivity import sensitivity

    runs = load_runs(files, fitted=False)
    bootstrap = Bootstrap.draw(runs[0].test.n_samples, resamples, seed)
    write_table(with_metric(sensitivity(runs, variants, grid, draws, bootstrap), runs[0].test), out)


@click.command(cls=Verb)
@click.argument("files", type=EXISTING, nargs=-1, required=True)
@click.option(
    "--duel", "duels", nargs=2, multiple=True, required=True, help="POLICY RIVAL: two policies to compare. Repeatable."
)
@click.option(
    "--samples",
    "sizes",
    type=click.IntRange(20),
    multiple=True,
    required=True,
    help="Number of validation samples. Repeat this option. All samples are always included.",
)
@click.option("--draws", type=click.IntRange(1), default=4, show_default=True, help="Random draws of each number.")
@RESAMPLES
@BOOTSTRAP_SEED
@click.option("--out", type=TABLE, required=True, help="Output: one row per system, duel and number of samples.")
def learning_curve(files, duels, sizes, draws, resamples, seed, out) -> None:
    """Measure what policies gain over others at equal cost, with fewer validation samples.

    FILES are the validation and test records of all runs, and the files of policies, as for `offramp compare`. The
    policies are fitted again on random draws of the validation samples, on which their thresholds are chosen, too.

    \b
    For example:
      offramp learning-curve cascade/*.safetensors --duel stopping confidence --samples 200 --samples 1000 \\
          --out curve.csv
    """
    from offramp.comparison.bootstrap import Bootstrap
    from offramp.comparison.runs import load_runs
    from offramp.comparison.samples import learning_curve

    runs = load_runs(files)
    bootstrap = Bootstrap.draw(runs[0].test.n_samples, resamples, seed)
    write_table(with_metric(learning_curve(runs, duels, sizes, draws, bootstrap), runs[0].test), out)


VARIANTS_OF_CASCADES = click.option(
    "--variant",
    "variants",
    type=Spec(),
    multiple=True,
    help="How cascades defer and predict: NAME:measure=…,temperature=…,ensemble=…, where all options can be left out. "
    "Repeat this option; the first variant is the reference for the others. Default: nine variants with all confidence "
    "measures, temperature scaling and all ensembles, or those of them that all records allow; and the "
    "mean token margin, if all have it.",
)
BANDS = click.option(
    "--band",
    "bands",
    type=float,
    nargs=2,
    multiple=True,
    required=True,
    help="FROM TO: range of accuracy over which the reduction of compute is averaged. Repeat this option.",
)
STEP = click.option("--step", type=float, default=0.001, show_default=True, help="Step between target accuracies.")


@click.command(cls=Verb)
@click.argument("files", type=EXISTING, nargs=-1, required=True)
@VARIANTS_OF_CASCADES
@BANDS
@STEP
@FIT_SHARE
@RESAMPLES
@BOOTSTRAP_SEED
@click.option("--models-out", type=TABLE, required=True, help="Output: models, and which of them are on the front.")
@click.option(
    "--relations-out",
    type=TABLE,
    required=True,
    help="Output: all pairs of models, with the exit rate at equal accuracy.",
)
@click.option(
    "--choices-out",
    type=TABLE,
    required=True,
    help="Output: the cascade chosen for each accuracy, and its test results.",
)
@click.option("--reductions-out", type=TABLE, required=True, help="Output: reduction of compute at equal accuracy.")
@click.option(
    "--replacements-out", type=TABLE, required=True, help="Output: cascades that can replace each model on the front."
)
@click.option("--measures-out", type=TABLE, required=True, help="Output: statistics over all pairs of models.")
@click.option(
    "--cascade-out",
    type=SETTINGS,
    help="Output: settings of the cheapest cascade that reaches --target on validation data, .json. `offramp cascade "
    "--like`, `evaluate --policies` and `export --policies` use them.",
)
@click.option(
    "--target",
    type=float,
    help="Accuracy on validation data for --cascade-out. Default: that of the most accurate single model.",
)
def search(files, variants, bands, step, fit_share, resamples, seed, cascade_out, target, **outs) -> None:
    """Search all cascades of two models, and of three models on the Pareto front, at every threshold.

    FILES are the validation and test records of single-exit models. Their order does not matter, because each record
    contains its system, seed and split. (Without a system, the name of the file is used, and without a seed, 0.)
    Cascades are chosen on validation data and evaluated on test data. --fit-share is for variants with temperatures or
    accuracy-weighted ensembles; without them, all validation samples choose.

    \b
    For example:
      offramp search */validation.safetensors */test.safetensors --band 0.88 0.9 --models-out models.csv \\
          --relations-out relations.csv --choices-out choices.csv --reductions-out reductions.csv \\
          --replacements-out replacements.csv --measures-out measures.csv --cascade-out cascade.json

    \b
    The chosen cascade, if its stages are small and large, on test data:
      offramp cascade small/test.safetensors large/test.safetensors --like cascade.json --out cascade.safetensors
      offramp evaluate --policies cascade.json --test cascade.safetensors --out point.csv

    \b
    The same with four variants of deferral and prediction:
          … --variant max-softmax --variant margin:measure=margin \\
          --variant temperature:temperature=true --variant ensemble:ensemble=mean_probability
    """
    from offramp.comparison.cascades import Variant, cheapest, default_variants, search_zoo, tables_of
    from offramp.comparison.runs import load_runs

    if target is not None and cascade_out is None:
        raise click.UsageError("--target is for --cascade-out; expected both")
    runs = load_runs(files, fitted=False, fit_share=fit_share)
    chosen = {name: Variant(**options) for name, options in variants} or default_variants(runs)
    found = search_zoo(runs, chosen, bands, step, resamples, seed, progress=True)
    settings = cheapest(found, target) if cascade_out else None
    write_all({outs[f"{name}_out"]: with_metric(table, runs[0].test) for name, table in tables_of(found).items()})
    if settings:
        settings.save(cascade_out)


@click.command(cls=Verb)
@click.argument("files", type=EXISTING, nargs=-1, required=True)
@VARIANTS_OF_CASCADES
@BANDS
@STEP
@FIT_SHARE
@click.option("--splits", type=click.IntRange(2), default=20, show_default=True, help="Number of random splits.")
@click.option(
    "--seconds",
    type=EXISTING,
    multiple=True,
    help="Time of a model, from `offramp record --seconds`. Repeat this option for all models: the search is then "
    "repeated with the seconds on each device as the cost, too.",
)
@BOOTSTRAP_SEED
@click.option("--out", type=TABLE, required=True, help="Output: one row per cost, split and quantity.")
def resplit(files, variants, bands, step, fit_share, splits, seconds, seed, out) -> None:
    """Repeat `offramp search` on other random splits, to measure the luck of the split.

    FILES are the validation and test records of single-exit models, as for `offramp search`. The samples of both are
    split again at random, into parts of the same sizes, and the search is repeated on every split. Validation and test
    samples must be from one pool.

    \b
    For example:
      offramp resplit */validation.safetensors */test.safetensors --band 0.88 0.9 --splits 20 --out resplits.csv
    """
    from offramp.comparison.cascades import Variant, default_variants
    from offramp.comparison.resplitting import resplit_table
    from offramp.comparison.runs import load_runs
    from offramp.reports.loading import read_tables

    of_device = {}
    if seconds:
        (times,) = read_tables(seconds, "seconds")
        last = times.groupby(["device", "system", "seed"], sort=False)["seconds"].max()  # up to the last exit
        means = last.groupby(["device", "system"], sort=False).mean()
        of_device = {device: its.droplevel("device").to_dict() for device, its in means.groupby("device", sort=False)}
    runs = load_runs(files, fitted=False, fit_share=fit_share)
    made = resplit_table(
        runs,
        {name: Variant(**options) for name, options in variants} or default_variants(runs),
        bands,
        step,
        splits,
        of_device,
        seed,
        progress=True,
    )
    write_table(made, out)
