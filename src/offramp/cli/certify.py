"""The command `offramp certify`."""

import click

from offramp.certification import Certificate
from offramp.certification.certifying import METHODS
from offramp.certification.pvalues import P_VALUES
from offramp.cli.options import (
    CONFIDENCE,
    EXISTING,
    ONLY,
    OUT,
    RISK,
    TABLE,
    Grid,
    PolicySpec,
    Threshold,
    Verb,
    about,
    certified,
    labelled,
    load_fitted,
    those_of,
    write_all,
)
from offramp.policies import save_policies
from offramp.records import ExitRecord
from offramp.records.splitting import Holdout


@click.command(cls=Verb)
@click.argument("validation", type=EXISTING)
@click.option(
    "--policy",
    "specs",
    type=PolicySpec(),
    multiple=True,
    callback=labelled,
    help="Policy, for example pcee:bins=20. Repeat this option for several policies. Policies that learn from data are "
    "fitted on a part of VALIDATION (--fit-share), and certified on the rest.",
)
@click.option(
    "--policies",
    type=EXISTING,
    help="File of policies from `offramp calibrate`, instead of --policy. They were fitted on another record, or on a "
    "part of VALIDATION (calibrate --fit-share); then the rest is used.",
)
@ONLY
@click.option(
    "--fit-share",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.5,
    show_default=True,
    help="Share of VALIDATION on which policies of --policy are fitted.",
)
@click.option(
    "--seed", type=click.IntRange(0), help="Seed of the random choice of this share. Default: that of the record, or 0."
)
@RISK
@click.option(
    "--level",
    type=float,
    default=0.05,
    show_default=True,
    help="Highest acceptable risk: a share, or a cost in the unit of the record.",
)
@CONFIDENCE
@click.option(
    "--method",
    type=click.Choice(list(METHODS)),
    default="ltt",
    show_default=True,
    help="ltt: tests from the safe end on. ucb: the same with the bound of betting. crc: on average over validation "
    "sets, for costs. holm: the given --per-exit thresholds. naive: no guarantee.",
)
@click.option(
    "--p-value",
    type=click.Choice(list(P_VALUES)),
    help="Default: binomial for losses of 0 and 1, and wsr (betting) for others.",
)
@click.option("--budget", type=float, help="Budget of the cost of one sample, for --risk over_budget.")
@click.option(
    "--bounds", type=float, nargs=2, help="LOWEST HIGHEST possible cost, if the costs differ between samples."
)
@click.option(
    "--per-exit",
    "rows",
    type=Grid(),
    metavar="δ,δ,…",
    multiple=True,
    help="One threshold per exit except the last, chosen without these samples, for --method holm. Repeat this option "
    "for all candidates.",
)
@click.option(
    "--threshold",
    type=Threshold(),
    help="Threshold δ, chosen without these samples, for --risk error_among_accepted. Default: inf, the full model.",
)
@click.option("--out", type=TABLE, help="Output: one row per policy with its threshold, .parquet or .csv.")
@click.option("--policies-out", type=OUT, help="Output: the policies that were fitted (--policy), .safetensors.")
def certify(
    validation,
    specs,
    policies,
    only,
    fit_share,
    seed,
    risk,
    level,
    confidence,
    method,
    p_value,
    budget,
    bounds,
    rows,
    threshold,
    out,
    policies_out,
) -> None:
    """Choose thresholds that keep a promise: the risk is at most a level, with a given confidence.

    A threshold that is chosen on a few hundred samples keeps its error there, and exceeds it on new data about every
    second time. This command chooses the cheapest threshold of which the samples prove that its risk is at most
    --level. With --confidence 0.9, at most one in ten such choices is wrong. The proof needs independent samples of
    what the policy will meet, on which it was not fitted.

    \b
    Risks:
      error                the share of wrong answers (or 1 minus the mean quality)
      gap                  how much more often the policy errs than the last exit
      disagreement         the share of answers that differ from those of the last exit (needs no labels)
      error_among_exited   the share of wrong answers among the samples that leave early
      error_among_accepted the share of wrong answers among those that are not rejected. δ is given (--threshold), and
                           the threshold ρ is certified, below which answers are rejected
      cost                 the average cost (needs no labels)
      over_budget          the share of samples that cost more than --budget (needs no labels)

    If nothing can be certified, the result is inf (the full model) where it keeps the promise itself. Otherwise, there
    is no threshold, and the lowest level that can be certified is printed.

    \b
    For example:
      offramp certify validation.safetensors --policy pcee --risk gap --level 0.02 --policies-out policies.safetensors
      offramp certify validation.safetensors --policy confidence --level 0.1 --out certified.csv
    """
    import numpy as np
    import pandas as pd

    if bool(specs) == (policies is not None):
        raise click.UsageError("expected either --policy or --policies")
    if policies_out and not specs:
        raise click.UsageError("--policies-out is for the policies of --policy")
    record = ExitRecord.load(validation)
    if policies:
        fitted, record = load_fitted(policies, record)
        fitted = those_of(fitted, only)
    else:
        fitted, holdout = specs, Holdout()
        if any(policy.learns for policy in fitted.values()):
            holdout = Holdout.of_run(fit_share, record.metadata) if seed is None else Holdout(fit_share, seed)
            fitting, record = holdout.parts(record)
            fitted = {label: policy.fit(fitting) for label, policy in fitted.items()}
    options = {"method": method, "p_value": p_value, "budget": budget, "bounds": bounds, "threshold": threshold}
    if rows:
        if len({len(row) for row in rows}) > 1:
            raise click.UsageError(
                "--per-exit: rows of different lengths; expected one number per exit except the last"
            )
        options["thresholds"] = np.array(rows)
    results = {
        label: certified(label, policy, record, risk, level, confidence, **options) for label, policy in fitted.items()
    }
    for label, result in results.items():
        click.echo(f"{label}: {_described(result)}")
    if policies_out:
        save_policies(fitted, policies_out, record.metadata | holdout.metadata)
    if out:
        table = pd.DataFrame([{"policy": label} | _row(result) for label, result in results.items()])
        write_all({out: about(record, validation, table)})


def _described(result: Certificate) -> str:
    if result.threshold is None:
        return result.reason
    import numpy as np

    values = ",".join(f"{value:.6g}" for value in np.atleast_1d(result.threshold))
    note = f" ({result.reason})" if result.reason else ""
    if result.reject_below is not None:
        values += f", reject below {result.reject_below:.6g}, coverage {result.coverage:.4g}"
    return f"threshold {values}, average cost {result.cost:.6g}, {result.risk} {result.estimate:.4g}{note}"


def _row(result: Certificate) -> dict:
    """Return the row of a table."""
    import numpy as np

    names = ["threshold"]
    if result.thresholds.ndim == 2:
        names = [f"threshold_{i + 1}" for i in range(result.thresholds.shape[1])]
    values = np.full(len(names), np.nan) if result.threshold is None else np.atleast_1d(result.threshold)
    rejection = ["reject_below", "coverage"] if result.risk == "error_among_accepted" else []
    shown = [*rejection, "risk", "level", "confidence", "method", "n_samples", "estimate", "bound", "cost", "reason"]
    return dict(zip(names, values)) | {name: getattr(result, name) for name in shown}
