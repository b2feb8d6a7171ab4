"""The command `offramp stream`."""

import click

from offramp.cli.options import EXISTING, FALSE_ALARMS, TABLE, PolicySpec, Spec, Verb, about, write_all
from offramp.policies import spec
from offramp.records import ExitRecord


@click.command(cls=Verb)
@click.argument("record", type=EXISTING)
@click.option(
    "--validation",
    type=EXISTING,
    required=True,
    help="Record on which the policy is fitted, online policies start, and alarms are based.",
)
@click.option(
    "--policy", type=PolicySpec(), default="pcee", show_default=True, help="Policy, for example pcee:bins=20."
)
@click.option("--threshold", type=float, required=True, help="Threshold δ of the start, shared by all exits.")
@click.option(
    "--method",
    "methods",
    type=Spec(),
    multiple=True,
    default=("static", "window"),
    show_default=True,
    help="How the policy learns, for example window:size=500. Repeat this option to compare several.",
)
@click.option(
    "--source",
    type=click.Choice(["labels", "audited", "last_exit"]),
    default="labels",
    show_default=True,
    help="What it learns from: labels of any samples, labels of audited samples, or the last exit in place of labels.",
)
@click.option(
    "--audit",
    type=click.FloatRange(0, 1),
    default=0.0,
    show_default=True,
    help="Share of samples that run to the last exit in any case.",
)
@click.option(
    "--delay",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Number of samples that are answered between a sample and its label.",
)
@click.option(
    "--labelled",
    type=click.FloatRange(0, 1),
    default=1.0,
    show_default=True,
    help="Share of samples whose labels come.",
)
@click.option(
    "--batch",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Number of samples that are answered at once.",
)
@FALSE_ALARMS
@click.option(
    "--risk-level",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="Raise an alarm if the error is above this level. Without it, confidences alone are tested.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of all random choices.")
@click.option("--out", type=TABLE, required=True, help="Output: one row per method and sample, .parquet or .csv.")
def stream(
    record,
    validation,
    policy,
    threshold,
    methods,
    source,
    audit,
    delay,
    labelled,
    batch,
    false_alarms,
    risk_level,
    seed,
    out,
) -> None:
    """Answer the samples of RECORD in order with a policy that learns from their labels, and watch for a shift.

    The policy is fitted on --validation. While it is used, labels come in, late or for a share of the samples, and
    change its maps or its threshold. An alarm tells whether confidences are no longer those of --validation (it needs
    no labels), and, with --risk-level, whether the error is above a level.

    \b
    Methods:
      static     nothing is learned, for comparison
      window     the maps of pcee on the latest samples of each exit (size=1000)
      discount   the maps of pcee, in which samples count half after some others (half_life=500)
      platt      online Platt scaling of an estimated accuracy, with calibeating (bins=50)
      aci        the threshold moves until the share of samples that leave with a wrong answer is a level
                 (level, by default that of --validation; step=0.01)

    \b
    For example:
      offramp stream test.safetensors --validation validation.safetensors --threshold 0.9 --out stream.csv
      offramp stream test.safetensors --validation validation.safetensors --threshold 0.9 --method static \\
        --method discount:half_life=200 --source audited --audit 0.1 --delay 100 --out stream.csv
    """
    import pandas as pd

    from offramp.online import ConfidenceAlarm, Online, RiskAlarm, run_stream

    label, policy = policy
    on, test = ExitRecord.load(validation), ExitRecord.load(record)
    policy.fit(on)
    tables, score = [], policy.options.get("score", "max_softmax")
    for name, options in {spec(*method): method for method in methods}.values():
        alarms = {"confidence": ConfidenceAlarm(on, false_alarms, score=score, seed=seed)}
        if risk_level is not None:
            alarms["risk"] = RiskAlarm(risk_level, false_alarms)
        online = Online(policy, threshold, on, name, source=source, audit=audit, alarms=alarms, seed=seed, **options)
        table = run_stream(online, test, delay=delay, labelled=labelled, batch=batch, seed=seed)
        method = spec(name, options)
        right = f"accuracy {table['correct'].mean():.4g}, " if "correct" in table else ""
        raised = [
            f"{kind} alarm at sample {table['raised_' + kind].argmax() + 1}"
            for kind, its in alarms.items()
            if its.raised
        ]
        click.echo(f"{method}: {right}average cost {table['cost'].mean():.6g}, {', '.join(raised) or 'no alarm'}")
        table.insert(0, "method", method)
        tables.append(table.assign(policy=label))
    write_all({out: about(test, record, pd.concat(tables, ignore_index=True))})
