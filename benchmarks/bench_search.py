"""Time of the exact search over cascades for growing numbers of models and samples, compared with a sort per pair.

Elapsed seconds and CPU seconds, summed over all threads, are the best of several repetitions. Machines are noisy, so
only the ratios of CPU seconds are meaningful. `--models 500` is the size of a large public zoo.
"""

import argparse
import math
import time
from unittest.mock import patch

import numpy as np

from bench_evaluation import peak_gb
from bench_policies import best_of
from offramp.cascades import search
from offramp.cascades.fronts import pareto
from offramp.cascades.search import Zoo, search_pairs, search_triples
from offramp.records.confidence import available_threads


def synthetic_zoo(models, samples):
    """Return models with accuracies from 60 to 88 % that mostly fail on the same hard samples.

    Better models cost more, with some exceptions.
    """
    random = np.random.Generator(np.random.SFC64(0))
    hardness = random.standard_normal(samples, np.float32)
    skill = np.linspace(0.3, 1.5, models) + 0.1 * random.standard_normal(models)
    confidence = np.empty((models, samples), np.float32)
    correct = np.empty((models, samples), bool)
    for m in range(models):
        logit = skill[m] - hardness + 0.7 * random.standard_normal(samples, np.float32)
        correct[m] = logit > 0
        confidence[m] = 1 / (1 + np.exp(-2 * logit - random.standard_normal(samples, np.float32)))
    cost = np.geomspace(3e7, 4e11, models).round()  # MACs, in the range from tinynet_e to beit_large
    return Zoo(tuple(f"model {m}" for m in range(models)), cost, None, confidence, correct)


def one_pair(zoo, small, large):
    """Compute all operating points of one pair in the usual way: sort, accumulate, keep points where values change."""
    order = np.argsort(zoo.confidence[small])
    values = zoo.confidence[small, order]
    ends = np.concatenate([[True], values[1:] > values[:-1], [True]])  # (N + 1,)
    gain = zoo.correct[large, order].astype(np.int64) - zoo.correct[small, order]
    right = zoo.correct[small].sum() + np.append(0, gain.cumsum())  # (N + 1,)
    cost = zoo.cost[small] + np.arange(len(right)) * zoo.cost[large] / zoo.n_samples
    return right[ends].max() / zoo.n_samples, cost[ends]


def pairs(sizes, repeat):
    """Print the time of the search over all pairs for zoos of these sizes (models, samples).

    The ratio is that to the previous size.
    """
    heads = ["models", "samples", "pairs", "seconds", "CPU", "ratio", "CPU, ns per pair and sample", "rows of front"]
    print(f"\n| {' | '.join(heads)} |\n{'|--:' * len(heads)}|")
    before = None
    for models, samples in sizes:
        zoo = synthetic_zoo(models, samples)
        base = peak_gb()
        clock, cpu, found = best_of(repeat, lambda zoo=zoo: search_pairs(zoo))
        ratio = f"{cpu / before:.1f}" if before else ""
        before = cpu
        print(
            f"| {models} | {samples:,} | {len(found.pairs):,} | {clock:.2f} | {cpu:.2f} | {ratio} "
            f"| {1e9 * cpu / len(found.pairs) / samples:.2f} | {len(found.front):,} |",
            flush=True,
        )
    print(f"\npeak memory in addition to the last zoo of {5e-9 * models * samples:.2f} GB: {peak_gb() - base:.2f} GB")


def naive(models, samples, count):
    """Print the time of a search that sorts for each of a few pairs, compared with the whole search."""
    zoo = synthetic_zoo(models, samples)
    start = time.process_time()
    found = search_pairs(zoo).pairs
    ours = (time.process_time() - start) / len(found)
    some = found.iloc[:: len(found) // count]
    start = time.process_time()
    best = [one_pair(zoo, *(zoo.names.index(name) for name in (row.small, row.large)))[0] for row in some.itertuples()]
    theirs = (time.process_time() - start) / len(some)
    assert best == some.best_accuracy.tolist()
    print(
        f"\n{models} models × {samples:,} samples: {1e6 * ours:,.0f} µs per pair, including the front; "
        f"with a sort per pair and without the front {1e6 * theirs:,.0f} µs: {theirs / ours:.0f} times as long"
    )


def triples(models, sizes, members):
    """Print the time for all triples of models on the front, and for one triple without skipping blocks."""
    heads = ["samples", "triples", "seconds", "CPU", "ratio", "CPU, ms per triple", "all points of one, ms", "ratio"]
    heads += ["rows of front", "of triples"]
    print(f"\n| {' | '.join(heads)} |\n{'|--:' * len(heads)}|")
    before = None
    for samples in sizes:
        zoo = synthetic_zoo(models, samples)
        found = search_pairs(zoo)
        front = pareto(zoo.cost, zoo.correct.mean(axis=1))
        chosen = front[np.linspace(0, len(front) - 1, min(members, len(front))).round().astype(int)]
        count = math.comb(len(chosen), 3)
        clock, cpu, every = best_of(1, lambda zoo=zoo, of=chosen, found=found: search_triples(zoo, of, found))
        one = chosen[[len(chosen) // 4, len(chosen) // 2, 3 * len(chosen) // 4]]
        ruled_out = search_triples(zoo, one, found).front
        with patch.object(search, "BLOCK", samples + 1):
            _, full, walked = best_of(1, lambda zoo=zoo, of=one, found=found: search_triples(zoo, of, found))
        assert ruled_out.equals(walked.front)
        ratio = f"{cpu / before:.1f}" if before else ""
        before = cpu
        print(
            f"| {samples:,} | {count} | {clock:.2f} | {cpu:.2f} | {ratio} | {1e3 * cpu / count:.0f} "
            f"| {1e3 * full:,.0f} | {full * count / cpu:.0f} "
            f"| {len(every.front):,} | {(every.front.kind == 'triple').sum():,} |",
            flush=True,
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, nargs="+", default=[50, 100, 200])
    parser.add_argument("--samples", type=int, default=50_000)
    parser.add_argument("--members", type=int, default=12)
    parser.add_argument("--repetitions", type=int, default=3)
    args = parser.parse_args()
    search_triples(tiny := synthetic_zoo(3, 9), range(3), search_pairs(tiny))  # compiles the kernels, once per machine
    print(f"{available_threads()} threads, best of {args.repetitions}; ratios of CPU seconds to the previous row")
    if args.models == parser.get_default("models"):
        pairs([(100, args.samples // part) for part in (4, 2, 1)], args.repetitions)
    pairs([(models, args.samples) for models in args.models], args.repetitions)
    if args.models == parser.get_default("models"):
        naive(100, args.samples, 50)
        print(f"\nTriples of {args.members} members of the front of 100 models, and one of them without skipping")
        triples(100, (args.samples // 10, args.samples * 2 // 5), args.members)


if __name__ == "__main__":
    main()
