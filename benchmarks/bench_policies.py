"""Time of each policy once the confidences are known: fitting on a record, and computing the whole curve.

Times are the best of several repetitions. Machines are noisy, so only the ratios to the policy `confidence` and the CPU
time of fit and curve, summed over all threads, are meaningful.
"""

import argparse
import time

import numpy as np

from bench_evaluation import random_logits
from offramp import ExitRecord, evaluate, frontier, make_policy
from offramp.policies import POLICIES
from offramp.records.confidence import available_threads

# In addition to the defaults
OTHERS = [("f-pabee", {"divergence": "kl"}), ("ztw", {"ensemble": "arithmetic"}), ("stopping", {"answer": "exit"})]


def best_of(repetitions, function):
    """Return elapsed seconds and CPU seconds of the fastest repetition, and the last result."""
    clock, processor = [], []
    for _ in range(repetitions):
        starts = time.perf_counter(), time.process_time()
        result = function()
        clock.append(time.perf_counter() - starts[0])
        processor.append(time.process_time() - starts[1])
    return min(clock), min(processor), result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=50_000)
    parser.add_argument("--exits", type=int, default=12)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--thresholds", type=int, default=1_000)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--policy", choices=list(POLICIES), action="append", help="default: all")
    args = parser.parse_args()
    n, l, c = args.samples, args.exits, args.classes
    logits, labels = random_logits(n, l, c)
    random = np.random.default_rng(0)
    similarity, features = random.random((n, l), np.float32), random.normal(size=(n, 5))
    record = ExitRecord(logits, labels, np.arange(1.0, l + 1), similarity=similarity, features=features)
    few = record.take(np.arange(2))
    print(f"{n:,} samples × {l} exits × {c} classes; {args.thresholds:,} thresholds, between the ends of the signal")
    print(
        f"{available_threads()} threads, best of {args.repetitions}; seconds, and ratio to confidence in all but fit\n"
    )
    heads = {"policy": 24, "fit": 6, "curve": 6, "ratio": 5, "both, CPU": 9, "frontier": 8, "ratio ": 5, "points": 7}
    print("".join(f"| {head:<{width}} " for head, width in heads.items()) + "|")
    print("".join("|" + "-" * (width + 2) for width in heads.values()) + "|")
    base = None
    names = ["confidence", *(name for name in args.policy or POLICIES if name != "confidence")]
    for name, options in [*((name, {}) for name in names), *(other for other in OTHERS if other[0] in names)]:
        policy = make_policy(name, **options)
        evaluate(policy.fit(few), few, [0.5])  # imports modules and compiles kernels
        fit_s, fit_cpu, _ = best_of(args.repetitions, lambda policy=policy: policy.fit(record))
        signal = policy.signal(record)
        finite = signal[np.isfinite(signal)]
        grid = np.linspace(finite.min(), finite.max(), args.thresholds)
        curve_s, curve_cpu, _ = best_of(
            args.repetitions, lambda policy=policy, grid=grid: evaluate(policy, record, grid)
        )
        frontier_s, _, points = best_of(args.repetitions, lambda policy=policy: frontier(policy, record))
        base = base or (curve_s, frontier_s)
        label = " ".join([name, *options.values()])
        print(
            f"| {label:<24} | {fit_s:>6.3f} | {curve_s:>6.3f} | {curve_s / base[0]:>5.1f} "
            f"| {fit_cpu + curve_cpu:>9.3f} | {frontier_s:>8.3f} | {frontier_s / base[1]:>5.1f} | {len(points):>7,} |"
        )


if __name__ == "__main__":
    main()
