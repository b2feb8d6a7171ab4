"""The command `offramp reject`."""

import click

from offramp.cli.options import EXISTING, TABLE, PolicySpec, Verb, about, choosing_part, labelled, write_all
from offramp.evaluation import choose_rejection
from offramp.policies import load_policies
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
    "fitted on one half of VALIDATION, and the thresholds are chosen on the other.",
)
@click.option(
    "--policies",
    type=EXISTING,
    help="File of policies from `offramp calibrate`, instead of --policy. If they were fitted on a part of VALIDATION "
    "(calibrate --fit-share), the thresholds are chosen on the rest.",
)
@click.option("--error", type=float, required=True, help="Highest error of the accepted answers.")
@click.option("--coverage", type=float, help="Choose the cheapest thresholds that accept this share of the answers.")
@click.option("--cost", type=float, help="Choose the thresholds with the highest coverage at this average cost.")
@click.option("--test", type=EXISTING, help="Record on which the chosen thresholds are evaluated.")
@click.option("--out", type=TABLE, help="Output: one row per policy and record, .parquet or .csv.")
def reject(validation, specs, policies, error, coverage, cost, test, out) -> None:
    """Choose the threshold for exits (δ) and the threshold for rejection (ρ) together.

    An answer is rejected if the policy estimates that it is right with less than ρ. Policies that estimate no accuracy
    use max softmax. The command prints both thresholds, and the coverage (share of accepted answers), the accuracy of
    the accepted answers, and the average cost, on VALIDATION and on --test. There is no guarantee: `offramp certify
    --risk error_among_accepted` has one, for a given δ.

    \b
    For example:
      offramp reject validation.safetensors --policy pcee --error 0.02 --coverage 0.9 --test test.safetensors
      offramp evaluate --policy pcee --validation validation.safetensors --test test.safetensors \\
          --thresholds 0.95 --reject-below 0.8 --out points.csv
    """
    import pandas as pd

    from offramp.evaluation import evaluate

    if bool(specs) == (policies is not None):
        raise click.UsageError("expected either --policy or --policies")
    record = ExitRecord.load(validation)
    records = {} if test is None else {test: ExitRecord.load(test)}
    fitted = specs
    if policies:
        fitted, run = load_policies(policies)
        record = choosing_part(run, record)
    elif any(policy.learns for policy in specs.values()):
        fitting, record = Holdout.of_run(0.5, record.metadata).parts(record)
        fitted = {label: policy.fit(fitting) for label, policy in specs.items()}
    tables = []
    for label, policy in fitted.items():
        try:
            chosen = choose_rejection(policy, record, risk=error, coverage=coverage, cost=cost)
        except ValueError as failure:
            raise ValueError(f"{label}: {failure}") from None
        click.echo(f"{label}: threshold {chosen.threshold:.6g}, reject below {chosen.reject_below:.6g}")
        for path, each in {validation: record, **records}.items():
            point = evaluate(policy, each, [chosen.threshold], reject_below=chosen.reject_below)
            point.insert(1, "reject_below", chosen.reject_below)
            coverage_there, accuracy, paid = point.iloc[0][["coverage", "accuracy", "cost"]]
            click.echo(f"  {path}: coverage {coverage_there:.4g}, accuracy {accuracy:.4g}, average cost {paid:.6g}")
            tables.append(about(each, path, point.assign(policy=label, split=each.metadata.get("split"))))
    if out:
        write_all({out: pd.concat(tables, ignore_index=True)})
