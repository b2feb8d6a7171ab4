"""Time of evaluation, compared with the usual implementations in the same run: `make bench`.

Times are the best of several repetitions. Machines are noisy, so only the ratios are meaningful.
"""

import argparse
import resource
import time

import numpy as np
import torch

from offramp import ExitRecord, evaluate, frontier, make_policy
from offramp.records.confidence import MEASURES, available_threads, confidences


def best_of(repetitions, function):
    """Return the seconds of the fastest repetition, and the last result."""
    seconds = []
    for _ in range(repetitions):
        start = time.perf_counter()
        result = function()
        seconds.append(time.perf_counter() - start)
    return min(seconds), result


def peak_gb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9  # in KiB on Linux


def random_logits(n, l, c):
    """Return logits (N, L, C) float32 whose confidence increases from exit to exit, and labels (N,)."""
    rng = np.random.Generator(np.random.SFC64(0))
    logits = np.empty((n, l, c), np.float32)
    labels = rng.integers(0, c, n)
    for start in range(0, n, 500):
        block = logits[start : start + 500]
        rng.standard_normal(out=block, dtype=np.float32)
        block[np.arange(len(block)), :, labels[start : start + 500]] += np.linspace(2, 6, l, dtype=np.float32)
    return logits, labels


def torch_pass(logits):
    """Compute the confidence in the usual way: the maximum with its class, and the normaliser."""
    values = torch.from_numpy(logits)
    top = values.max(-1)
    return top.indices, (top.values - values.logsumexp(-1)).exp()


def read(logits):
    """Read all logits once, and do as little as possible with them."""
    return torch.from_numpy(logits).sum()


def from_logits(logits, labels, cost, threshold):
    """Evaluate one threshold as most repositories do: softmax of all logits, then the first exit that reaches it."""
    confidence, prediction = torch.from_numpy(logits).softmax(-1).max(-1)  # (N, L) each
    return from_confidences(confidence.numpy(), prediction.numpy() == labels[:, None], cost, threshold)


def from_confidences(confidence, correct, cost, threshold):
    """Evaluate one threshold on stored confidences, vectorised over samples."""
    stops = confidence >= threshold
    stops[:, -1] = True
    exits = stops.argmax(1)
    return correct[np.arange(len(correct)), exits].mean(), cost[exits].mean()


def side_by_side(n, l, c, thresholds, repeat):
    """Measure every step and the usual implementations."""
    grid = np.linspace(0, 1, thresholds)
    logits, labels = random_logits(n, l, c)
    cost = np.arange(1.0, l + 1)
    policy = make_policy("confidence")
    before = peak_gb()
    torch.set_num_threads(available_threads())
    pass_s = read_s = np.inf
    for _ in range(repeat):  # alternating, so that other work on the machine affects both
        seconds, (prediction, *measured) = best_of(1, lambda: confidences(logits))
        pass_s, read_s = min(pass_s, seconds), min(read_s, best_of(1, lambda: read(logits))[0])
    record = ExitRecord.from_outputs(prediction, dict(zip(MEASURES, measured, strict=True)), labels, cost)
    curve_s, curve = best_of(repeat, lambda: evaluate(policy, record, grid))
    frontier_s, points = best_of(repeat, lambda: frontier(policy, record))
    extra = peak_gb() - before

    confidence, correct = record.confidence(), record.correct
    stored_s, naive = best_of(repeat, lambda: [from_confidences(confidence, correct, cost, t) for t in grid])
    assert np.allclose(curve[["accuracy", "cost"]], naive)
    plain_s, _ = best_of(repeat, lambda: torch_pass(logits))
    again_s, _ = best_of(1, lambda: from_logits(logits, labels, cost, 0.5))

    rows = [
        ("torch: sum of all logits, a plain read", read_s, ""),
        ("torch: maximum and normaliser", plain_s, ""),
        ("offramp: 3 confidences and the prediction, one pass", pass_s, f"{pass_s / read_s:.2f} times a plain read"),
        (f"offramp: curve of {thresholds} thresholds, after that", curve_s, ""),
        ("offramp: exact frontier, after that", frontier_s, f"{len(points):,} operating points"),
        (f"{thresholds} thresholds one by one, on stored confidences", stored_s, ""),
        (
            f"{thresholds} thresholds, softmax recomputed for each",
            again_s * thresholds,
            f"extrapolated from one ({again_s:.1f} s)",
        ),
    ]
    print(f"\n| {'step':<52} | {'seconds':>9} | {'ratio to torch':>14} |")
    print(f"|{'-' * 54}|{'-' * 11}|{'-' * 16}|")
    for name, seconds, note in rows:
        print(f"| {name:<52} | {seconds:>9.4f} | {seconds / plain_s:>14.3f} | {note}")
    print(f"\nPeak memory of offramp in addition to the logits: {extra:.2f} GB")

    print("\nThe time of the curve hardly grows with the number of thresholds (ratio to 100):")
    times = {t: best_of(repeat, lambda t=t: evaluate(policy, record, np.linspace(0, 1, t)))[0] for t in (10, 100, 1000)}
    print("  " + ", ".join(f"{t:,}: {seconds / times[100]:.2f}" for t, seconds in times.items()))


def scaling(n, l, c, thresholds, repeat):
    """Measure the same steps on parts of the samples and of the exits."""
    grid = np.linspace(0, 1, thresholds)
    policy = make_policy("confidence")
    print(f"\nTime grows in proportion to samples and exits (here with {c} classes; seconds, ratio to the whole):")
    whole = None
    for part_n, part_l in [(n, l), (n // 2, l), (n // 4, l), (n, l // 2), (n, l // 4)]:
        logits, labels = random_logits(part_n, part_l, c)
        record = ExitRecord(logits=logits, labels=labels, cost=np.arange(1.0, part_l + 1))
        steps = {
            "pass": lambda z=logits: confidences(z),
            "curve": lambda r=record: evaluate(policy, r, grid),
            "frontier": lambda r=record: frontier(policy, r),
        }
        times = {name: best_of(repeat, step)[0] for name, step in steps.items()}
        whole = whole or times
        shown = ", ".join(f"{name} {seconds:.3f} ({seconds / whole[name]:.2f})" for name, seconds in times.items())
        print(f"  {part_n:>7,} × {part_l:>2} ({part_n * part_l / (n * l):.2f}): {shown}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=50_000)
    parser.add_argument("--exits", type=int, default=12)
    parser.add_argument("--classes", type=int, default=1_000)
    parser.add_argument("--thresholds", type=int, default=100)
    parser.add_argument("--repetitions", type=int, default=5)
    args = parser.parse_args()
    n, l, c = args.samples, args.exits, args.classes
    confidences(np.zeros((1, 1, 2), np.float32))  # compiles the kernel, once per machine
    print(f"{n:,} samples × {l} exits × {c:,} classes, float32: {n * l * c * 4 / 1e9:.1f} GB of logits")
    print(f"{args.thresholds} thresholds, {available_threads()} threads, best of {args.repetitions}")
    side_by_side(n, l, c, args.thresholds, args.repetitions)
    scaling(n, max(l, 4), max(2, c // 10), args.thresholds, args.repetitions)


if __name__ == "__main__":
    main()
