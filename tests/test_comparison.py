"""Comparisons over several runs, compared with loops over two seeds."""

import numpy as np
import pytest
from scipy.stats import bootstrap as scipy_bootstrap

import oracles
from offramp import ExitRecord, make_policy, save_policies
from offramp.comparison import claims
from offramp.comparison.bootstrap import Bootstrap
from offramp.comparison.claims import at_targets, control, pairs
from offramp.comparison.runs import load_runs
from offramp.evaluation import frontier

N = 40
SEEDS = (0, 1)
SYSTEMS = {"small": (2, 1.0), "large": (4, 1.6)}
COSTS = {"small": [3, 10], "large": [4, 9, 20, 33]}
TARGETS = [0.3, 0.7, 1.0]
GRID = np.arange(0.2013, 1, 0.05)  # values that no accuracy of 40 samples can have
COLUMNS = ["", "_sd", "_low", "_high"]


def make_record(system, seed, split):
    exits, skill = SYSTEMS[system]
    labels = np.random.default_rng(split == "test").integers(0, 3, N)  # the same for all runs
    random = np.random.default_rng([seed, exits, split == "test"])
    logits = random.normal(size=(N, exits, 3))
    logits[np.arange(N), :, labels] += skill * np.linspace(0.5, 1.5, exits)
    metadata = {"system": system, "seed": seed, "split": split, "dataset": "made up"}
    return ExitRecord(logits.astype(np.float32), labels, COSTS[system], np.arange(N) + 100, metadata)


def make_policies():
    return {
        "confidence": make_policy("confidence"),
        "margin": make_policy("confidence", score="margin"),
        "pcee": make_policy("pcee", bins=5, no_exit="most_accurate"),
    }


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for system in SYSTEMS:
        for seed in SEEDS:
            for split in ("validation", "test"):
                make_record(system, seed, split).save(folder / f"{system}-{seed}-{split}")
            record = make_record(system, seed, "validation")
            fitted = {label: policy.fit(record) for label, policy in make_policies().items()}
            save_policies(fitted, folder / f"{system}-{seed}-policies", record.metadata)
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def runs(files):
    return load_runs(files)


@pytest.fixture(scope="module")
def resampled():
    return Bootstrap.draw(N, 60, seed=5)


# Reference implementations


def answers(policy, record, delta):
    """Return correctness and cost of each sample at a threshold."""
    signal = policy.signal(record)
    fallback = oracles.best_exit(signal) if policy.name == "pcee" else None
    exits, right = oracles.route(signal, record.correct, delta, fallback)
    return [float(r) for r in right], [float(record.cost[i]) for i in exits]


def mean(values):
    return sum(values) / len(values)


def choices(policy, record):
    """Return (accuracy, cost, largest threshold that gives them) of every operating point."""
    points = {}
    for delta in [*np.unique(policy.signal(record)), np.inf]:
        right, cost = answers(policy, record, delta)
        points[sum(right), tuple(sorted(cost))] = mean(right), mean(cost), float(delta)
    return points.values()


def cheapest(policy, record, accuracy):
    enough = [(cost, delta) for right, cost, delta in choices(policy, record) if right >= accuracy]
    return min(enough)[1] if enough else np.inf


def dearest(policy, record, cost):
    affordable = [(paid, -delta) for _, paid, delta in choices(policy, record) if paid <= cost]
    return -max(affordable)[1] if affordable else -np.inf


def summary(per_sample, resampled):
    """Return mean and deviation over seeds, and the interval over samples and seeds, of values (seeds, samples)."""
    replicates = [[sum(k * v for k, v in zip(counts, row)) / N for counts in resampled.counts] for row in per_sample]
    return [*spread([mean(row) for row in per_sample]), *interval(replicates, resampled)]


def spread(seeds):
    return [mean(seeds), np.std(seeds, ddof=1)]


def interval(replicates, resampled):
    """Return the central 95 % of the replicates over resampled samples and seeds."""
    return np.quantile(resampled.over_seeds(np.array(replicates)), [0.025, 0.975])


def check(row, name, per_sample, resampled):
    np.testing.assert_allclose([row[name + end] for end in COLUMNS], summary(per_sample, resampled), atol=1e-12)


def of_system(runs, system):
    return [run for run in runs if run.system == system]


# The bootstrap


def test_resamplings_are_draws_with_replacement():
    counts = Bootstrap.draw(30, 500, seed=1).counts
    assert counts.shape == (500, 30)
    np.testing.assert_array_equal(counts.sum(1), 30)
    np.testing.assert_array_equal(counts, np.rint(counts))
    assert np.abs(counts.mean(0) - 1).max() < 0.2
    assert counts.var() == pytest.approx(29 / 30, abs=0.05)  # binomial, so some samples are drawn several times
    np.testing.assert_array_equal(counts, Bootstrap.draw(30, 500, seed=1).counts)
    assert not np.array_equal(counts, Bootstrap.draw(30, 500, seed=2).counts)


@pytest.mark.parametrize("seed", [0, 1])
def test_intervals_are_scipys(seed):
    values = np.random.default_rng(seed).gamma(1.0, size=80)  # skewed, so the interval is not symmetric
    ours = Bootstrap.draw(80, 8000, seed)
    found = ours.interval(ours.means(values))
    theirs = scipy_bootstrap((values,), np.mean, n_resamples=8000, method="percentile", rng=np.random.default_rng(9))
    np.testing.assert_allclose(found, theirs.confidence_interval, atol=0.1 * theirs.standard_error)


def test_means_of_several_at_once():
    ours = Bootstrap.draw(5, 7, 0)
    values = np.arange(10.0).reshape(2, 5)
    expected = [
        [sum(w * v for w, v in zip(weights, row)) for weights in ours.counts / ours.counts.shape[1]] for row in values
    ]
    np.testing.assert_allclose(ours.means(values), expected)


def test_seeds_are_resampled_too():
    """Each replicate is a mean over the same number of seeds, drawn with replacement."""
    ours = Bootstrap.draw(5, 20_000, 3)
    one = np.arange(20_000.0)[None]
    np.testing.assert_array_equal(ours.over_seeds(one), one[0])  # with one seed, there is nothing to resample
    np.testing.assert_array_equal(ours.over_seeds(np.repeat(one, 3, axis=0)), one[0])  # replicates keep their order
    seeds = np.repeat([[1.0], [2.0], [6.0]], 20_000, axis=1)
    means = ours.over_seeds(seeds)
    possible = {(a + b + c) / 3 for a in (1, 2, 6) for b in (1, 2, 6) for c in (1, 2, 6)}
    assert set(np.unique(means)) == possible
    assert means.mean() == pytest.approx(3, abs=0.05)
    assert means.var() == pytest.approx(np.var([1, 2, 6]) / 3, rel=0.05)
    np.testing.assert_array_equal(means, ours.over_seeds(seeds))


# Tables


def test_targets(runs, resampled):
    table = at_targets(runs, TARGETS, resampled)
    cases = [
        (system, label, choice, target)
        for system in ("large", "small")
        for label in make_policies()
        for choice in (["validation"] if label == "margin" else ["direct", "validation"])
        for target in TARGETS
    ]
    keys = table[["system", "policy", "choice", "target"]].itertuples(index=False, name=None)
    assert list(keys) == cases
    for case, (_, row) in zip(cases, table.iterrows()):
        system, label, choice, target = case
        right, cost = [], []
        for run in of_system(runs, system):
            policy = run.policies[label]
            delta = target if choice == "direct" else cheapest(policy, run.validation, target)
            of_run = answers(policy, run.test, delta)
            right.append(of_run[0])
            cost.append(of_run[1])
        full = COSTS[system][-1]
        check(row, "accuracy", right, resampled)
        check(row, "cost", cost, resampled)
        saving = summary([[1 - c / full for c in of_run] for of_run in cost], resampled)
        np.testing.assert_allclose([row["saving" + end] for end in COLUMNS], saving, atol=1e-12)
        assert row.full_accuracy == pytest.approx(
            mean([run.test.correct[:, -1].mean() for run in of_system(runs, system)])
        )


def test_pairs(runs, resampled):
    table = pairs(runs, [("small", "large"), ("large", "small")], resampled)
    cases = [
        (small, large, label, match)
        for small, large in (("small", "large"), ("large", "small"))
        for label in make_policies()
        for match in ("equal cost", "equal accuracy")
    ]
    assert list(table[["small", "large", "policy", "match"]].itertuples(index=False, name=None)) == cases
    for (small, large, label, match), (_, row) in zip(cases, table.iterrows()):
        gain, ratio, base, right, paid = [], [], [], [], []
        for one, other in zip(of_system(runs, small), of_system(runs, large)):
            assert one.seed == other.seed
            policy = other.policies[label]
            if match == "equal cost":
                delta = dearest(policy, other.validation, COSTS[small][-1])
            else:
                delta = cheapest(policy, other.validation, mean([float(c) for c in one.validation.correct[:, -1]]))
            of_run, cost = answers(policy, other.test, delta)
            full = [float(c) for c in one.test.correct[:, -1]]
            gain.append([a - b for a, b in zip(of_run, full)])
            ratio.append([c / COSTS[small][-1] for c in cost])
            base, right, paid = base + full, right + of_run, paid + cost
        check(row, "gain", gain, resampled)
        check(row, "cost_ratio", ratio, resampled)
        assert row.small_cost == COSTS[small][-1]
        expected = [mean(base), mean(right), mean(paid)]
        np.testing.assert_allclose([row.small_accuracy, row.large_accuracy, row.large_cost], expected)


def weighted(weights, values):
    return sum(w * v for w, v in zip(weights, values))


def control_of(run, label, deltas, weights):
    """Compute control and relative cost with one weighting of the samples."""
    of_each = [answers(run.policies[label], run.test, delta) for delta in deltas]
    accuracy = [weighted(weights, right) for right, _ in of_each]
    miss = [a - delta for a, delta in zip(accuracy, deltas)]
    return {
        "error": mean([abs(m) for m in miss]),
        "worst": max(abs(m) for m in miss),
        "short": mean([m < 0 for m in miss]),
        "cost": mean([weighted(weights, cost) for _, cost in of_each]) / float(run.test.cost[-1]),
        "accuracy": mean(accuracy),
    }


def test_control(runs):
    resampled = Bootstrap.draw(N, 12, seed=5)
    table = control(runs, GRID, "confidence", resampled)
    cases = [(system, label) for system in ("large", "small") for label in ("confidence", "pcee")]
    assert list(table[["system", "policy"]].itertuples(index=False, name=None)) == cases
    for (system, label), (_, row) in zip(cases, table.iterrows()):
        own, others, counted = [], [], []  # for each seed, results by weighting; equal weights first
        for run in of_system(runs, system):
            ends = sorted(mean([float(c) for c in run.test.correct[:, i]]) for i in (0, -1))
            deltas = [delta for delta in GRID if ends[0] <= delta <= ends[1]]
            assert deltas
            counted.append(len(deltas))
            weightings = [[k / N for k in counts] for counts in ([1] * N, *resampled.counts)]
            own.append([control_of(run, label, deltas, weights) for weights in weightings])
            others.append([control_of(run, "confidence", deltas, weights) for weights in weightings])
        assert (row.deltas, row.baseline) == (mean(counted), "confidence")
        numbers = {name: [[of[name] for of in seed] for seed in own] for name in own[0][0]}
        for name, measure in (("excess", "error"), ("cost_excess", "cost")):
            numbers[name] = [[a[measure] - b[measure] for a, b in zip(*seeds)] for seeds in zip(own, others)]
        for name, seeds in numbers.items():
            expected = spread([seed[0] for seed in seeds])
            low, high = interval([seed[1:] for seed in seeds], resampled)
            if name in ("error", "worst"):  # the basic interval, cut off at 0
                low, high = max(0, 2 * expected[0] - high), max(0, 2 * expected[0] - low)
            found = [row[name + end] for end in COLUMNS]
            np.testing.assert_allclose(found, [*expected, low, high], atol=1e-12, err_msg=name)


def one_run(folder, right, **about):
    """A run of one system with two exits, which are right where `right` (N, 2) is 1."""
    labels = np.zeros(len(right), int)
    for split in ("validation", "test"):
        metadata = {"system": "s", "seed": 0, "split": split} | about
        record = ExitRecord.from_outputs(1 - right, np.full(right.shape, 0.5), labels, [1, 2], metadata=metadata)
        record.save(folder / split)
    fitted = {"confidence": make_policy("confidence").fit(record)}
    save_policies(fitted, folder / "policies", record.metadata)
    return load_runs(sorted(folder.iterdir()))


def test_control_where_no_delta_can_be_reached(tmp_path):
    """If no δ is within reach, the δ nearest to the accuracy of the full model is used."""
    right = np.repeat([[1, 1], [0, 1], [0, 0]], [10, 2, 8], axis=0)  # accuracy 0.5, then 0.6
    runs = one_run(tmp_path, right)
    table = control(runs, np.array([0.2, 0.45, 0.7]), "confidence", Bootstrap.draw(20, 30, 0))
    assert table.deltas.tolist() == [1]
    assert table.error[0] == pytest.approx(0.1)
    assert np.isnan(table.error_sd[0])  # no standard deviation with one seed


def test_intervals_of_a_distance_reach_down_to_the_truth():
    """100 tosses of a coin: the true |share − 1/2| is 0.

    Every resampling is farther from 1/2 on average.
    """
    hit = 0
    for seed in range(20):
        right = np.random.default_rng([seed, 1]).random((1, 100)) < 0.5  # (1, N)
        bootstrap = Bootstrap.draw(100, 200, seed)
        distance = np.abs(right.mean(1) - 0.5)  # (1,)
        columns = bootstrap.summary("d", distance, np.abs(bootstrap.means(right) - 0.5), distance=True)
        assert 0 <= columns["d_low"] <= columns["d_high"]
        assert columns["d_high"] <= 2 * columns["d"]
        hit += columns["d_low"] == 0
    assert hit >= 17
    far = bootstrap.summary("d", np.array([9.0]), np.array([np.arange(8, 12.1, 0.1)]), distance=True)
    assert (far["d_low"], far["d_high"]) == pytest.approx((6.1, 9.9))


def test_a_validation_frontier_serves_all_targets(runs, resampled, monkeypatch):
    drawn = []
    monkeypatch.setattr(claims, "frontier", lambda *of: drawn.append(of) or frontier(*of))
    at_targets(runs, TARGETS, resampled)
    assert len(drawn) == len(runs) * len(make_policies())
    drawn.clear()
    pairs(runs, [("small", "large")], resampled)
    assert len(drawn) == len(SEEDS) * len(make_policies())


@pytest.mark.parametrize("n", [19, 20, 49])
def test_always_right_is_never_short(n, tmp_path):
    """An accuracy of 1 is not below δ = 1, with and without resampling."""
    runs = one_run(tmp_path, np.ones((n, 2), int))
    bootstrap = Bootstrap.draw(n, 200, 0)
    assert control(runs, np.array([1.0]), "confidence", bootstrap).short[0] == 0
    targets = at_targets(runs, [1.0], bootstrap)
    assert (targets[["accuracy", "accuracy_low", "accuracy_high"]] == 1).all(axis=None)


# What it refuses


@pytest.mark.parametrize("step", [1, -1, 5])
def test_runs_are_put_together_by_what_the_files_say(step, files):
    order = sorted(files, key=lambda path: files.index(path) * step % len(files))
    runs = load_runs(order)
    assert {(run.system, run.seed) for run in runs} == {(system, seed) for system in SYSTEMS for seed in SEEDS}
    assert len(runs) == 4
    for run in runs:
        for split in ("validation", "test"):
            expected = make_record(run.system, run.seed, split)
            np.testing.assert_array_equal(getattr(run, split).prediction, expected.prediction)
        assert list(run.policies) == list(make_policies())


def test_runs_without_policies(files):
    records = [path for path in files if not path.name.endswith("policies")]
    runs = load_runs(records, fitted=False)
    assert [(run.system, run.seed, run.policies) for run in runs] == [
        (system, seed, {}) for system in ("large", "small") for seed in SEEDS
    ]
    with pytest.raises(ValueError, match=r"large-0-policies: .*expected a whole offramp-record/1 file"):
        load_runs(files, fitted=False)
    with pytest.raises(ValueError, match="small seed 1: no test among the files; expected validation, test"):
        load_runs(records[:-2] + records[-1:], fitted=False)


def test_a_missing_part(files):
    for part in ("validation", "test", "policies"):
        with pytest.raises(ValueError, match=f"small seed 1: no {part} among the files"):
            load_runs([path for path in files if path.name != f"small-1-{part}"])


def test_a_part_twice(files, tmp_path):
    make_record("small", 1, "test").save(tmp_path / "again")
    with pytest.raises(ValueError, match="again"):
        load_runs([*files, tmp_path / "again"])


@pytest.mark.parametrize("about", [{"split": None}, {"split": "train"}, {"split": "policies"}])
def test_a_file_that_does_not_say_what_it_is(about, files, tmp_path):
    record = make_record("small", 1, "test")
    record.metadata = {key: value for key, value in (record.metadata | about).items() if value is not None}
    record.save(tmp_path / "odd")
    with pytest.raises(ValueError, match="odd: its metadata"):
        load_runs([*files, tmp_path / "odd"])


def test_a_file_of_another_kind(files, tmp_path):
    (tmp_path / "text").write_text("system,seed\n")
    with pytest.raises(ValueError, match=r"text: .*expected a whole offramp-record/1 or offramp-policies/1 file"):
        load_runs([*files, tmp_path / "text"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("index", "the test record of small seed 1 has .* the same index; expected the same samples"),
        ("labels", "the test record of small seed 1 has . as label of sample .*, the test record of large seed 0 has"),
    ],
)
def test_other_test_samples(change, message, files, tmp_path):
    record = make_record("small", 1, "test")
    setattr(record, change, (getattr(record, change) + 1) % (3 if change == "labels" else 1000))
    record.save(tmp_path / "small-1-test")
    others = [path for path in files if path.name != "small-1-test"]
    with pytest.raises(ValueError, match=message):
        load_runs([*others, tmp_path / "small-1-test"])


def test_other_policies_in_one_seed(files, tmp_path, resampled):
    record = make_record("small", 1, "validation")
    save_policies({"confidence": make_policy("confidence").fit(record)}, tmp_path / "odd", record.metadata)
    others = [path for path in files if path.name != "small-1-policies"]
    with pytest.raises(ValueError, match="small seed 1"):
        at_targets(load_runs([*others, tmp_path / "odd"]), TARGETS, resampled)


def test_a_study_without_pairs_has_the_same_columns(runs, resampled):
    table = pairs(runs, [], resampled)
    assert table.empty
    assert list(table) == list(pairs(runs, [("small", "large")], resampled))


def test_pairs_and_baselines_that_are_not_there(runs, resampled):
    with pytest.raises(ValueError, match="pair small, huge: no run of huge; the files have large, small"):
        pairs(runs, [("small", "huge")], resampled)
    without = [run for run in runs if (run.system, run.seed) != ("small", 1)]
    with pytest.raises(ValueError, match="pair small, large: no run of small with seed 1"):
        pairs(without, [("small", "large")], resampled)
    for baseline in ("margin", "entropy"):  # the first estimates no accuracy, the second was not fitted
        with pytest.raises(ValueError, match=f"baseline '{baseline}': expected one of confidence, pcee"):
            control(runs, GRID, baseline, resampled)
