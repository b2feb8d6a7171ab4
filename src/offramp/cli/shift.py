"""The commands `offramp shift` and `offramp drift`, about corrupted data."""

import click

from offramp._io.tables import write_table
from offramp.cli.options import (
    BOOTSTRAP_SEED,
    CONFIDENCE,
    EXISTING,
    FALSE_ALARMS,
    RESAMPLES,
    TABLE,
    TARGETS,
    Verb,
)
from offramp.records.metrics import with_metric


@click.command(cls=Verb)
@click.argument("files", type=EXISTING, nargs=-1, required=True)
@TARGETS
@click.option(
    "--level",
    type=float,
    default=0.02,
    show_default=True,
    help="Certified gap: highest acceptable error, minus that of the last exit.",
)
@CONFIDENCE
@click.option(
    "--bins", type=click.IntRange(1), default=15, show_default=True, help="Number of bins of the calibration error."
)
@click.option(
    "--frequencies",
    type=click.IntRange(1),
    multiple=True,
    help="Severity of a shift of class frequencies, for which some of the test samples are drawn: the odds between two "
    "classes change by at most 2 to this power. Repeat this option for several severities.",
)
@RESAMPLES
@BOOTSTRAP_SEED
@click.option("--out", type=TABLE, required=True, help="Output: one row per corruption and policy, .parquet or .csv.")
def shift(files, targets, level, confidence, bins, frequencies, resamples, seed, out) -> None:
    """Measure what becomes of the promises of policies under a shift of the test samples.

    FILES are the validation and test records of runs, the files of policies that were fitted on them, and records of
    corrupted test samples from `offramp record --corruption`, the same corruptions for all runs. Their order does not
    matter. With --frequencies, records of corrupted samples are not needed. Thresholds are chosen, stated or certified
    on clean validation data; models and policies stay the same. Results are means over seeds, with 95 % intervals.
    Severity 0 are the clean test samples.

    \b
    For example:
      offramp record weights.safetensors --splits splits.csv --corruption noise:3 --test test-noise-3.safetensors
      offramp shift validation.safetensors test.safetensors policies.safetensors test-noise-3.safetensors \\
          --target 0.9 --out shift.csv
    """
    from offramp.comparison.bootstrap import Bootstrap
    from offramp.comparison.shift import load_shifted_runs, of_frequencies, under_shift

    runs, corrupted = load_shifted_runs(files, needs_corrupted=not frequencies)
    corrupted |= of_frequencies(runs, frequencies)
    bootstrap = Bootstrap.draw(runs[0].test.n_samples, resamples, seed)
    table = under_shift(runs, corrupted, targets, bootstrap, level=level, confidence=confidence, bins=bins)
    write_table(with_metric(table, runs[0].test), out)


@click.command(cls=Verb)
@click.argument("files", type=EXISTING, nargs=-1, required=True)
@click.option("--target", type=float, required=True, help="Target accuracy, which is the threshold of PCEE.")
@click.option("--orders", type=click.IntRange(1), default=2, show_default=True, help="Number of random orders.")
@click.option(
    "--delay",
    type=click.IntRange(0),
    default=20,
    show_default=True,
    help="Number of samples that are answered between a sample and its label.",
)
@click.option(
    "--audit",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.2,
    show_default=True,
    help="Share of samples that run to the last exit in any case, where policies learn from these only.",
)
@FALSE_ALARMS
@click.option("--out", type=TABLE, required=True, help="Output: one row per block of samples, .parquet or .csv.")
def drift(files, target, orders, delay, audit, false_alarms, out) -> None:
    """Run static and online policies over streams of test samples whose corruption grows.

    FILES are the same as for `offramp shift`. A stream goes through the clean test samples and then the corrupted ones
    by severity, each sample once, in a random order. PCEE, with the target accuracy as its threshold, decides with its
    fitted maps (static) or learns from labels that come late, from labels of an audited share of the samples, or from
    the last exit. Alarms test whether the confidences changed (without labels), and whether the error is above
    1 - TARGET. `offramp stream` does this for any record, policy and method.

    \b
    For example:
      offramp drift validation.safetensors test.safetensors policies.safetensors test-noise-1.safetensors \\
          test-noise-3.safetensors --target 0.9 --out drift.parquet
    """
    from offramp.comparison.drift import under_drift
    from offramp.comparison.shift import load_shifted_runs

    runs, corrupted = load_shifted_runs(files)
    options = {"orders": orders, "delay": delay, "audit": audit, "false_alarms": false_alarms}
    write_table(with_metric(under_drift(runs, corrupted, target, **options), runs[0].test), out)
