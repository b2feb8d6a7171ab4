"""Promises of accuracy, compared with a loop over splits and draws, and the guarantee where the truth is known."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest

import oracles
from offramp import ExitRecord, certify, make_policy
from offramp._io.tables import write_table
from offramp.comparison.promises import CHOICES, DRAWS, clopper_pearson, promises
from offramp.comparison.runs import Run
from offramp.evaluation import frontier, threshold_on
from offramp.records.splitting import Holdout
from offramp.reports.catalogue import FIGURES, TABLES
from offramp.reports.tables.promises import verdict

N, TARGETS, COSTS = 120, [0.7, 0.85, 0.99], [1.0, 3.0, 8.0]
FITTED = {"confidence": make_policy("confidence"), "pcee": make_policy("pcee", bins=4)}
FITTED |= {"margin": make_policy("confidence", score="margin")}  # its signal is no accuracy


def made(seed, split, quality=False):
    """Three exits that are less sure than they are right, and costs that differ between samples for qualities."""
    rng = np.random.default_rng([seed, split == "test"])
    hard = rng.random((N, 1))
    right = rng.random((N, 3)) > hard * [0.7, 0.4, 0.1]  # (N, L)
    sure = np.clip(1 - hard * [0.6, 0.4, 0.3] + rng.normal(0, 0.05, (N, 3)), 0, 1).round(2)
    measures = {"max_softmax": sure, "margin": sure}
    about = {"system": "net", "seed": seed, "split": split}
    if quality:
        costs = rng.random((N, 1)) + COSTS
        return ExitRecord.from_scores(0.9 * right + 0.1 * sure, measures, costs, metadata=about)
    return ExitRecord.from_outputs(1 - right, measures, np.zeros(N, int), COSTS, metadata=about)


def made_runs(quality=False, **more):
    found = []
    for seed in (0, 1):
        validation, test = made(seed, "validation", quality), made(seed, "test", quality)
        fitted = {label: replace(policy).fit(validation) for label, policy in FITTED.items()}
        found.append(Run("net", seed, validation, test, fitted, **more))
    return found


def slow(runs, splits, seed):
    """Return promised, accuracy and cost of each try, by policy, choice and target."""
    tries = {}
    for run in runs:
        both = run.validation, run.test
        right = np.concatenate([record.correct for record in both])  # (2N, L)
        sure = np.concatenate([record.confidence() for record in both])
        costs = np.concatenate([np.broadcast_to(record.costs, (N, 3)) for record in both])

        def part(rows, right=right, sure=sure, costs=costs, quality=run.test.labels is None):
            """A record of some samples, with repetition."""
            if quality:
                return ExitRecord.from_scores(right[rows], sure[rows], costs[rows])
            return ExitRecord.from_outputs(1 - right[rows], sure[rows], np.zeros(len(rows), int), costs[rows])

        for split in range(splits):
            random = np.random.default_rng([seed, run.seed, split, *b"net"])
            order = random.permutation(2 * N)
            draws = random.choice(order[N:], (DRAWS, N // 2))
            truth = part(order[N:])
            for label in ("confidence", "pcee"):
                for choice in CHOICES:
                    policy = replace(FITTED[label]).fit(part(order[: N if choice == "direct" else N // 2]))
                    for target in TARGETS:
                        for draw in draws[:1] if choice == "direct" else draws:
                            delta = chosen(policy, part(draw), choice, target)
                            full = delta is None or delta == np.inf
                            exits = policy.exits(truth, np.inf if full else delta)
                            right = truth.correct[np.arange(N), exits].mean()
                            paid = np.mean(oracles.cost_of(truth, exits)) / truth.costs[..., -1].mean()
                            tries.setdefault((label, choice, target), []).append((delta is not None, right, paid))
    return tries


def chosen(policy, samples, choice, target):
    """Return the threshold, or None if there is none."""
    if choice == "direct":
        return target
    if choice == "validation":
        points = frontier(policy, samples)
        return threshold_on(points, accuracy=target) if points.accuracy.max() >= target else None
    if target == 0.99:  # needs 230 samples
        with pytest.raises(ValueError, match="too few"):
            certify(policy, samples, level=1 - target)
        return None
    return certify(policy, samples, level=1 - target).threshold


@pytest.mark.filterwarnings("ignore:pcee was fitted on")  # made anew, samples are counted from 0
@pytest.mark.parametrize("quality", [False, True])
def test_numbers_are_those_of_a_loop(quality):
    runs = made_runs(quality)
    table = promises(runs, TARGETS, splits=2, seed=5).set_index(["policy", "choice", "target"])
    tries = slow(runs, 1, 5)
    assert set(table.index) == set(tries)
    for key, each in tries.items():
        promised, accuracy, cost = map(np.array, zip(*each))
        row, short = table.loc[key], (key[2] - accuracy)[promised & (accuracy < key[2])]
        assert row.tries == len(each) == (2 if key[1] == "direct" else 2 * DRAWS)
        assert row.broken == len(short) / len(each)
        assert row.shortfall == pytest.approx(short.mean() if len(short) else np.nan, nan_ok=True)
        assert (row.promised, row.accuracy, row.cost) == pytest.approx((promised.mean(), accuracy.mean(), cost.mean()))
        assert row.oracle_cost <= 1
    of_pcee = table.loc["pcee"]
    assert 0 < of_pcee.loc["certified", 0.85].promised < 1  # else this would not test much
    assert of_pcee.loc["direct"].broken.max() > 0


def test_the_interval_is_that_of_clopper_and_pearson():
    for n in (1, 7, 60):
        for count in range(n + 1):
            expected = binomtest(count, n).proportion_ci(0.95, "exact")
            assert clopper_pearson(count, n) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_certificates_are_broken_no_more_often_than_they_say():
    """While a policy that is too sure of itself breaks its promise always, and chosen thresholds every second time."""
    rng = np.random.default_rng(0)
    hard = rng.random((4000, 1))
    right = rng.random((4000, 2)) > hard * [0.8, 0.2]
    sure = 1 - hard * [0.1, 0.05]
    whole = ExitRecord.from_outputs(1 - right, sure, np.zeros(4000, int), [1, 4])
    run = Run("net", 0, whole.take(np.arange(800)), whole.take(np.arange(800, 4000)), {"it": make_policy("confidence")})
    table = promises([run], [0.7, 0.8], splits=40).set_index(["choice", "target"])
    assert (table.loc["certified"].broken_low <= 0.1).all()
    assert (table.loc["certified"].promised > 0.9).all()
    assert (table.loc["direct"].broken == 1).all()
    assert (table.loc["validation"].broken_low > 0.3).all()
    ahead = table.loc["certified"]
    assert (ahead.oracle_cost < ahead.cost).all()
    assert (ahead.cost < ahead.oracle_cost + 0.2).all()


def test_the_order_of_runs_and_other_policies_change_nothing():
    runs = made_runs()
    expected = promises(runs, TARGETS, splits=1)
    again = promises(runs[::-1], TARGETS[::-1], splits=1)
    key = ["policy", "choice", "target"]
    pd.testing.assert_frame_equal(
        expected.sort_values(key, ignore_index=True), again.sort_values(key, ignore_index=True), check_exact=False
    )
    assert promises([replace(run, policies={}) for run in runs], TARGETS).columns.tolist() == expected.columns.tolist()


def test_held_out_samples_are_those_of_the_run():
    """With δ, too, the policy is fitted on a part, if the run does so."""
    runs = made_runs(holdout=Holdout(0.25, 0))
    table = promises(runs, [0.7], splits=5).set_index(["policy", "choice"])
    assert table.loc[("pcee", "direct"), "tries"] == 6
    few = promises(made_runs(holdout=Holdout(0.9, 0)), [0.85], splits=3).set_index(["policy", "choice"])
    assert few.loc[("confidence", "certified"), "promised"] == 0  # 12 samples prove nothing


def test_verdicts():
    assert verdict(1, 0, 0.1, 0.9) == "kept"
    assert verdict(1, 0.05, 0.101, 0.9) == verdict(1, 0.1, 0.2, 0.9) == "undecided"
    assert verdict(0.2, 0.11, 0.2, 0.9) == "broken"
    assert verdict(0, 0, 0.01, 0.9) == "no promise"


def test_table_and_figure(tmp_path):
    numbers = promises(made_runs(), TARGETS, splits=2)
    write_table(numbers, tmp_path / "promises.csv")
    TABLES["promises"].write([tmp_path / "promises.csv"], tmp_path / "table")
    text = (tmp_path / "table.md").read_text()
    row = numbers.query("policy == 'pcee' and choice == 'validation' and target == 0.85").iloc[0]
    interval = f"{100 * row.broken:.1f} [{100 * row.broken_low:.1f}, {100 * row.broken_high:.1f}]"
    (line,) = (line for line in text.splitlines() if "PCEE" in line and " 85 |" in line)
    assert interval in line
    assert f"| {100 * row.cost:.1f} " in " ".join(line.split())
    assert "PCEE: of 3 promises (systems × accuracies), with δ, " in text
    figure = FIGURES["promises"].function([tmp_path / "promises.csv"], policies=["pcee"])
    costs = [line.get_ydata() for line in figure.axes[2].get_lines()]
    for _, rows in numbers[numbers["policy"] == "pcee"].groupby("choice"):
        expected = 100 * rows["cost"]
        assert any(np.allclose(line, expected) for line in costs)
