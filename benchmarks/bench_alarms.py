"""Alarms and online policies: false alarms over long streams, the delay until an alarm, and the time per sample.

The first table counts, over many streams without a shift, how often an alarm is ever raised. The second one has the
delay: the stream changes after some samples, and the median and the 90 % quantile of the number of further samples
until the alarm are shown, with the share of streams in which it is raised at all. The shifts are those of a system
whose truth is known: noise in its scores (more errors, and lower confidences), overconfidence (more errors at the same
confidences), class frequencies by resampling (`shifted`), and noise that grows slowly. The third table has the time of
`decide` and `feedback` per 1,000 samples.
"""

import argparse
import time
from dataclasses import dataclass

import numpy as np

from offramp import ExitRecord, make_policy
from offramp.online import METHODS, ConfidenceAlarm, Online, RiskAlarm, run_stream, shifted

EXITS, CLASSES = 4, 10
LEVEL = 0.05  # of false alarms
GAIN = np.linspace(2, 5, EXITS)[:, None]  # (L, 1): of the score of the true class
DIFFICULTY = np.linspace(0.6, 1.4, CLASSES)  # (C,): noise of the samples of each class


def population(n: int, random: np.random.Generator, noise=1.0, overconfident: float = 0.0) -> ExitRecord:
    """Return a record whose later exits are more often right. `noise` is a number, or one for each sample (n,).

    If it is overconfident, this share of the samples gets the label of another class.
    """
    labels = random.integers(0, CLASSES, n)
    noise = np.broadcast_to(noise, n)[:, None, None] * DIFFICULTY[labels][:, None, None]
    scores = noise * (0.6 * random.normal(size=(n, 1, CLASSES)) + 0.8 * random.normal(size=(n, EXITS, CLASSES)))
    scores += np.eye(CLASSES)[labels][:, None] * GAIN  # (n, L, C)
    share = np.exp(1.5 * scores)
    share /= share.sum(axis=2, keepdims=True)
    other = random.random(n) < overconfident
    labels = np.where(other, (labels + 1) % CLASSES, labels)
    return ExitRecord.from_outputs(
        share.argmax(axis=2), share.max(axis=2), labels, np.arange(1.0, EXITS + 1), metadata={"classes": CLASSES}
    )


def noisy(n, severity, random):
    return population(n, random, 1 + 0.1 * severity)


def overconfident(n, severity, random):
    return population(n, random, overconfident=0.03 * severity)


def classes(n, severity, random):
    record = shifted(population(8 * n, random), severity=severity, seed=0)  # always the same classes become rare
    return record.take(np.arange(min(n, len(record))))


def growing(n, severity, random):
    return population(n, random, 1 + 0.1 * severity * np.arange(n) / n)


SHIFTS = {"noise": noisy, "overconfidence": overconfident, "class frequencies": classes, "growing noise": growing}


@dataclass
class Run:
    """The alarms on one stream, by name: the number of samples until each was raised, or None."""

    raised: dict[str, int | None]

    @classmethod
    def of(cls, policy, threshold, validation: ExitRecord, streams: list[ExitRecord], seed: int) -> "Run":
        alarms = {
            "exit 1": ConfidenceAlarm(validation, LEVEL, seed=seed),
            "all exits": ConfidenceAlarm(validation, LEVEL, exits=range(EXITS), seed=seed),
            "risk": RiskAlarm.of_validation(policy, threshold, validation, false_alarms=LEVEL),
        }
        for stream in streams:
            confidence, exits = stream.confidence(), policy.exits(stream, threshold)
            wrong = ~stream.correct[np.arange(len(stream)), exits]
            for name, alarm in alarms.items():
                alarm.update(wrong if name == "risk" else confidence)
        return cls({name: alarm.raised_at for name, alarm in alarms.items()})


def interval(count: int, n: int) -> str:
    from scipy.stats import binomtest

    low, high = binomtest(count, n).proportion_ci(0.95, "exact")
    return f"{count / n:.3f} ({low:.3f} to {high:.3f})"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=200, help="streams without a shift")
    parser.add_argument("--samples", type=int, default=5_000, help="samples of each of them")
    parser.add_argument("--repetitions", type=int, default=20, help="streams of each kind and severity")
    parser.add_argument("--after", type=int, default=1_000, help="samples before a shift, and twice as many after it")
    args = parser.parse_args()
    random = np.random.default_rng(0)
    policy, threshold = make_policy("pcee").fit(population(2_000, random)), 0.9

    print(f"{args.streams} streams of {args.samples:,} samples without a shift; level {LEVEL}\n", flush=True)
    print("| validation samples | alarm | false alarms (95 % interval) |\n|--:|---|---|", flush=True)
    for size in (100, 1_000):
        runs = [
            Run.of(policy, threshold, population(size, random), [population(args.samples, random)], seed)
            for seed in range(args.streams)
        ]
        for name in runs[0].raised:
            count = sum(run.raised[name] is not None for run in runs)
            print(f"| {size:,} | {name} | {interval(count, args.streams)} |", flush=True)

    print(f"\nDelay after {args.after:,} samples, {args.repetitions} streams each, 1,000 validation samples\n")
    print("| shift | severity | " + " | ".join(f"{name} | raised" for name in runs[0].raised) + " |")
    print("|---|--:|" + "--:|--:|" * 3, flush=True)
    for kind, make in SHIFTS.items():
        for severity in (1, 2, 3, 4, 5):
            runs = [
                Run.of(
                    policy,
                    threshold,
                    population(1_000, random),
                    [population(args.after, random), make(2 * args.after, severity, random)],
                    seed,
                )
                for seed in range(args.repetitions)
            ]
            cells = []
            for name in runs[0].raised:
                times = [run.raised[name] for run in runs]
                delays = np.array([np.inf if t is None else t - args.after for t in times])
                delays = delays[delays > 0]  # without false alarms before the shift
                middle, late = np.quantile(delays, [0.5, 0.9], method="higher")
                found = np.isfinite(delays).mean()
                cells += [f"{middle:.0f} ({late:.0f})".replace("inf", "–"), f"{found:.2f}"]
            print(f"| {kind} | {severity} | {' | '.join(cells)} |", flush=True)

    print("\nSeconds of processor time per 1,000 samples, 4 exits, labels for all samples\n")
    print("| method | one by one | batches of 50 |\n|---|--:|--:|")
    validation, stream = population(2_000, random), population(2_000, random)
    plan = {name: {} for name in METHODS}
    for name, alarms in [*((name, False) for name in plan), ("static", True)]:
        cells = []
        for batch in (1, 50):
            its = {"confidence": ConfidenceAlarm(validation), "risk": RiskAlarm(0.2)} if alarms else {}
            online = Online(policy, threshold, validation, name, alarms=its)
            begin = time.process_time()
            run_stream(online, stream, batch=batch)
            cells.append(f"{(time.process_time() - begin) / 2:.3f}")
        print(f"| {name}{' with two alarms' if alarms else ''} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
