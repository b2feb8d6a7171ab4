"""Certified thresholds: the time that they take, and how often they keep their promise.

The first table compares `certify` on the exact frontier with the frontier itself and with 100 thresholds one by one.

The second one repeats the choice of a threshold on many random samples from a population whose true risk is known:
synthetic data, or the outputs of three classifiers of scikit-learn for the digits. It counts how often the true risk is
above the level. "certified" is the share of draws with a threshold (or the full model). "cost / oracle" is the true
average cost beside that of the cheapest threshold whose true risk is at most the level.

The third one does the same for the other risks and methods. If answers are rejected, coverage takes the place of the
cost. If the cost is certified, the oracle is the most expensive threshold.
"""

import argparse
import time
import warnings

import numpy as np

from bench_policies import best_of
from offramp import ExitRecord, certify, frontier, make_policy
from offramp.evaluation import threshold_on


def population(samples: int, exits: int, seed: int = 0) -> ExitRecord:
    """Return a record whose exits become more accurate, with confidences that are noisy estimates of it."""
    random = np.random.default_rng(seed)
    chance = random.beta(6, 1, (samples, 1)) * np.linspace(0.75, 1, exits)  # (N, L), to be right
    right = random.random((samples, 1)) * 0.7 + random.random((samples, exits)) * 0.3 < chance  # (N, L)
    sure = np.clip(chance + random.normal(0, 0.1, right.shape), 0, 1).astype(np.float32)
    labels = random.integers(0, 2, samples)
    return ExitRecord.from_outputs(
        np.where(right, labels[:, None], 1 - labels[:, None]), sure, labels, np.arange(1.0, exits + 1)
    )


def digits() -> ExitRecord:
    """Return the cross-validated outputs of three classifiers, which see more and more pixels."""
    from sklearn.datasets import load_digits
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_predict
    from sklearn.svm import SVC

    pixels, labels = load_digits(return_X_y=True)
    models = [
        (LogisticRegression(max_iter=200), pixels[:, 20:44]),
        (LogisticRegression(max_iter=200), pixels),
        (SVC(probability=True, random_state=0), pixels),
    ]
    chances = [cross_val_predict(model, x / 16, labels, cv=3, method="predict_proba") for model, x in models]
    return ExitRecord(np.log(np.maximum(np.stack(chances, axis=1), 1e-12)), labels, [1.0, 3.0, 30.0])


class Pool:
    """A record as a population, from which samples are drawn with repetition."""

    def __init__(self, record: ExitRecord):
        self.record = record
        self.wrong = ~record.correct  # (N, L)

    def draw(self, n: int, random: np.random.Generator) -> ExitRecord:
        return self.taken(random.integers(0, len(self.record), n))

    def taken(self, rows: np.ndarray) -> ExitRecord:
        its = self.record
        return ExitRecord.from_outputs(
            its.prediction[rows],
            its.confidence()[rows],
            its.labels[rows],
            its.cost,
            metadata={"classes": its.n_classes},
        )

    def losses(self, risk: str) -> np.ndarray:
        """Return the loss of each sample at each exit, (N, L)."""
        its = self.record
        differs = its.prediction != its.prediction[:, -1:]  # (N, L)
        return {
            "error": self.wrong,
            "gap": self.wrong - self.wrong[:, -1:].astype(int),
            "disagreement": differs,
            "error_among_exited": self.wrong,
            "error_among_accepted": self.wrong,
            "cost": np.broadcast_to(its.cost, differs.shape),
            "over_budget": np.broadcast_to(its.cost > its.cost[1], differs.shape),
            HALVES: (self.wrong + differs) / 2,
        }[risk]

    def outcome(self, policy, threshold: float, risk: str) -> tuple[float, float]:
        """Return the true risk, and the true average cost or coverage."""
        accepts = risk == "error_among_accepted"  # then the threshold is that of the estimate
        exits = policy.exits(self.record, DELTA if accepts else threshold)  # (N,)
        rows = np.arange(len(exits))
        losses, counts = self.losses(risk)[rows, exits], np.ones(len(exits), bool)
        if accepts:
            counts = policy.estimate(self.record)[rows, exits] >= threshold
        if risk == "error_among_exited":
            counts = exits < self.record.n_exits - 1
        spent = counts.mean() if accepts else self.record.cost_of(exits).mean()
        return losses[counts].mean() if counts.any() else 0.0, spent

    def oracle(self, policy, risk: str, level: float) -> float:
        """Return the best cost or coverage of all thresholds whose true risk is at most the level."""
        tried = np.unique(np.append(policy.signal(self.record), [-np.inf, np.inf]))
        spent = [spent for value, spent in (self.outcome(policy, x, risk) for x in tried) if value <= level + 1e-12]
        return max(spent) if risk in ("cost", "over_budget", "error_among_accepted") else min(spent)


HALVES = "losses of 0, ½ and 1"  # half for a wrong answer, and half for one that differs from that of the last exit
DELTA = 0.8  # threshold of the exits, if answers are rejected


def interval(count: int, n: int) -> str:
    from scipy.stats import binomtest

    low, high = binomtest(count, n).proportion_ci(0.95, "exact")
    return f"{count / n:.3f} ({low:.3f} to {high:.3f})"


def promises(name: str, pool: Pool, risks: dict[str, float], n: int, repetitions: int, confidence: float) -> None:
    """Print how often thresholds that are chosen on n samples (n more for fitting PCEE) break their promise."""
    random = np.random.default_rng(0)
    for risk, level in risks.items():
        ways = [
            "PCEE, δ = 1 − level",
            "naive",
            "ltt",
            *(["ucb"] if risk == "error" else []),
        ]  # for gaps, the same as ltt
        outcomes = {way: [] for way in ways}
        best = []
        for _ in range(repetitions):
            fitting, validation = pool.draw(n, random), pool.draw(n, random)
            policy = make_policy("pcee", bins=10).fit(fitting)
            for way in ways:
                if way.startswith("PCEE"):
                    # what PCEE promises: an accuracy of δ. For a gap, that of the last exit on the samples of the fit
                    full = 0.0 if risk == "error" else 1 - fitting.correct[:, -1].mean()
                    threshold = 1 - level - full
                else:
                    threshold = certify(policy, validation, risk, level, confidence, way).threshold
                if threshold is not None:
                    outcomes[way].append(pool.outcome(policy, threshold, risk))
            if len(best) < 20:  # the cheapest threshold that the whole population allows
                full = pool.wrong[:, -1].mean() if risk == "gap" else 0
                chosen = threshold_on(frontier(policy, pool.record), accuracy=1 - level - full)
                best.append(pool.outcome(policy, chosen, risk)[1])
        for way in ways:
            value, cost = np.array(outcomes[way]).T if outcomes[way] else (np.array([]), np.array([np.nan]))
            broken = interval(int((value > level + 1e-12).sum()), repetitions)
            print(
                f"| {name} | {n:,} | {risk} | {level:g} | {way} | {broken} | {len(value) / repetitions:.2f} "
                f"| {cost.mean() / np.mean(best):.2f} |"
            )


def other_promises(name: str, pool: Pool, cases: list[tuple[str, float, dict]], n: int, repetitions: int) -> None:
    """Print how often certified thresholds break their promise, for other risks and methods."""
    random = np.random.default_rng(0)
    drawn = [(random.integers(0, len(pool.record), n), pool.draw(n, random)) for _ in range(repetitions)]
    policies = [make_policy("pcee", bins=10).fit(fitting) for _, fitting in drawn]
    best: dict[tuple[str, float], float] = {}
    for risk, level, options in cases:
        if (risk, level) not in best:
            best[risk, level] = np.mean([pool.oracle(policy, risk, level) for policy in policies[:20]])
        if risk == "over_budget":
            options = {**options, "budget": pool.record.cost[1]}
        if risk == "error_among_accepted":
            options = {**options, "threshold": DELTA}
        if options.get("method") == "holm":
            shared = np.linspace(0.05, 1, 20)[:, None]  # (20, 1)
            options = {**options, "thresholds": np.repeat(shared, pool.record.n_exits - 1, axis=1)}
        outcomes = []
        for policy, (rows, _) in zip(policies, drawn):
            loss = pool.losses(risk)[rows] if risk == HALVES else risk
            found = certify(policy, pool.taken(rows), loss, level, **options)
            threshold = found.reject_below if risk == "error_among_accepted" else found.threshold
            if threshold is not None:
                outcomes.append(pool.outcome(policy, threshold if np.ndim(threshold) == 0 else threshold[0], risk))
        value, spent = np.array(outcomes).T if outcomes else (np.array([]), np.array([np.nan]))
        broken = interval(int((value > level + 1e-12).sum()), repetitions)
        way = ", ".join(str(options[key]) for key in ("method", "p_value") if key in options) or "ltt"
        print(
            f"| {name} | {n:,} | {risk} | {level:g} | {way} | {broken} | {value.mean():.3g} "
            f"| {len(value) / repetitions:.2f} | {spent.mean() / best[risk, level]:.2f} |"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=50_000)
    parser.add_argument("--exits", type=int, default=12)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--splits", type=int, default=1_000, help="random samples for the second table; 0 for none")
    args = parser.parse_args()
    record, policy = population(args.samples, args.exits), make_policy("confidence")
    few = record.take(np.arange(1000))
    print(f"{args.samples:,} samples × {args.exits} exits, exact frontier; best of {args.repetitions}\n")
    print("| step | seconds | ratio to the frontier |\n|---|--:|--:|")
    base = None
    error = 1.0 - record.correct
    noisy = np.clip(error * np.random.default_rng(0).uniform(0.5, 1, error.shape), 0, 1)  # (N, L)
    steps = {"frontier": lambda: frontier(policy, record)}
    for risk, level, options in [
        ("error", 0.2, {}),
        ("error", 0.2, {"method": "ucb"}),
        ("gap", 0.05, {}),
        ("disagreement", 0.1, {}),
        ("error_among_exited", 0.2, {}),
        ("cost", 6.0, {}),
        ("over_budget", 0.1, {"budget": 8}),
        ("over_budget", 0.1, {"budget": 8, "method": "crc"}),
        (noisy, 0.15, {}),
    ]:
        title = f"certify: {risk if isinstance(risk, str) else 'losses from 0 to 1'}, {options.get('method', 'ltt')}"
        steps[title] = lambda risk=risk, level=level, options=options: certify(policy, record, risk, level, **options)

    def one_by_one():
        for threshold in np.linspace(0.5, 1, 100):
            exits = policy.exits(record, threshold)
            error[np.arange(len(exits)), exits].sum()

    steps["100 thresholds one by one, without their p-values"] = one_by_one
    certify(policy, few, level=0.3)  # imports modules
    for title, step in steps.items():
        seconds, *_ = best_of(args.repetitions, step)
        base = base or seconds
        print(f"| {title} | {seconds:.3f} | {seconds / base:.2f} |")
    if not args.splits:
        return
    start = time.perf_counter()
    print(f"\n{args.splits:,} random samples each, confidence 0.9; fitted on as many other samples\n")
    print("| record | samples | risk | level | threshold by | broken (95 % interval) | certified | cost / oracle |")
    print("|---|--:|---|--:|---|---|--:|--:|")
    warnings.simplefilter("ignore")
    pools = {"synthetic": Pool(population(3_000, 4)), "digits": Pool(digits())}
    for name, pool in pools.items():
        levels = {"error": 0.15, "gap": 0.05} if name == "synthetic" else {"error": 0.06, "gap": 0.03}
        for n in (300, 1_000):
            promises(name, pool, levels, n, args.splits, 0.9)
    print(f"\nPCEE, {args.splits:,} random samples each, confidence 0.9; rejection at δ = {DELTA}\n")
    print(
        "| record | samples | risk | level | method | broken (95 % interval) | risk, mean | certified | cost / oracle |"
    )
    print("|---|--:|---|--:|---|---|--:|--:|--:|")
    for name, pool in pools.items():
        wrong, exited, accepted, cost = (0.15, 0.12, 0.15, 2.0) if name == "synthetic" else (0.06, 0.05, 0.05, 10.0)
        cases = [
            ("error", wrong, {"method": "holm"}),
            ("disagreement", 0.1, {}),
            ("error_among_exited", exited, {}),
            ("error_among_exited", exited, {"method": "holm"}),
            ("error_among_accepted", accepted, {}),
            (HALVES, 0.1, {}),
            (HALVES, 0.1, {"p_value": "hoeffding_bentkus"}),
            ("cost", cost, {}),
            ("over_budget", 0.3, {}),
            ("over_budget", 0.3, {"method": "crc"}),
        ]
        other_promises(name, pool, cases, 1_000, args.splits)
    print(f"\n{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
