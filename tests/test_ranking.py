"""Efficiency, calibration and ranking: worked examples, monotone maps, and correlations over runs."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import linprog

from offramp import ExitRecord, Policy, make_policy
from offramp._io.tables import write_table
from offramp.comparison.bootstrap import Bootstrap
from offramp.comparison.matched import BUDGETS, match
from offramp.comparison.ranking import best_possible, correlations, efficiency, measures
from offramp.comparison.runs import Run
from offramp.evaluation.rejection import Ranking
from offramp.reports.catalogue import TABLES
from strategies import quick

QUALITIES = st.sampled_from([0.0, 0.25, 1.0])


@dataclass
class Power(Policy):
    """A strictly increasing map of max softmax."""

    power: int = 1

    name = "power"
    rule = "max softmax to a power ≥ δ"
    paper = "none"
    claims_accuracy = True

    def _step(self, outputs, stream):
        return outputs.score().astype(np.float64) ** self.power


def table_of(policies, records, system="made"):
    """Return the efficiencies of policies on (validation, test) records of several seeds."""
    runs = []
    for seed, (validation, test) in enumerate(records):
        fitted = {label: policy.fit(validation) for label, policy in policies.items()}
        runs.append(Run(system, seed, validation, test, fitted))
    return efficiency(match(runs), Bootstrap.draw(records[0][1].n_samples, 20, 0))


def of_policy(table, column):
    return table.groupby("policy", sort=False)[column].first()


def random_record(seed, n=40, skill=(0.4, 0.6, 0.8)):
    """Draw a record whose confidences are multiples of 1/64, which have exact powers."""
    rng = np.random.default_rng(seed)
    right = rng.random((n, len(skill))) < skill  # (N, L)
    confidence = np.where(right, rng.integers(24, 64, right.shape), rng.integers(1, 48, right.shape)) / 64
    labels = rng.integers(0, 5, n)
    return ExitRecord.from_outputs(
        np.where(right, labels[:, None], (labels[:, None] + 1) % 5), confidence, labels, np.arange(len(skill)) + 1.0
    )


def test_measures_of_a_worked_example():
    """The last exit does not count, nor do exits at which all are right for AUROC."""
    confidence = np.array([[0.9, 0.5, 0.1], [0.8, 0.5, 0.2], [0.8, 0.5, 0.3], [0.6, 0.5, 0.4]])
    record = ExitRecord.from_outputs([[0, 0, 0], [0, 0, 1], [1, 0, 1], [1, 0, 0]], confidence, [0] * 4, [1, 2, 3])
    found = measures(make_policy("confidence"), record)
    assert found["auroc"][1] == 3.5 / 4  # 0.9 above both wrong ones, 0.8 above 0.6 and equal to 0.8
    assert np.isnan(found["auroc"][2])
    np.testing.assert_allclose(found["ece"], [(0.1 + 2 * 0.3 + 0.6) / 4, 0.5])
    np.testing.assert_allclose(found["aurc"], [(2 * 1 / 3 + 2 / 4) / 4, 0])
    assert measures(make_policy("patience"), record)["ece"].isna().all()  # its signal estimates no accuracy
    row = table_of({"confidence": make_policy("confidence")}, [(record, record)]).iloc[0]
    assert (row["auroc"], row["aurc"], row["aurc_1"]) == (3.5 / 4, found["aurc"].mean(), found["aurc"][1])


@quick
@given(st.data(), st.integers(1, 8))
def test_auroc_counts_pairs(data, n):
    estimate = data.draw(arrays(np.float64, n, elements=st.sampled_from([-np.inf, 0.0, 0.5, np.inf])))
    quality = data.draw(arrays(np.float64, n, elements=QUALITIES))
    above = (estimate[:, None] > estimate) + (estimate[:, None] == estimate) / 2  # (N, N)
    pairs = quality[:, None] * (1 - quality)  # (N, N): the first is right and the second is wrong
    expected = (pairs * above).sum() / (quality.sum() * (1 - quality).sum() or np.nan)
    np.testing.assert_allclose(Ranking(estimate, 1 - quality).curve(0.0).auroc, expected)


def test_efficiency_of_a_worked_example():
    """Exit 1 is right on samples 1 to 8, and exit 2 on 1 to 4, 9 and 10. The margin knows it, max softmax does not."""
    prediction = np.ones((10, 2), int)
    prediction[:8, 0] = prediction[:4, 1] = prediction[8:, 1] = 0
    scores = {"max_softmax": np.full((10, 2), 0.5), "margin": np.repeat([[0.9], [0.1]], [8, 2], axis=0) * [1, 1]}
    record = ExitRecord.from_outputs(prediction, scores, np.zeros(10, int), [1, 2], metadata={"classes": 2})
    policies = {"margin": make_policy("confidence", score="margin"), "confidence": make_policy("confidence")}
    table = table_of(policies | {"random": make_policy("random")}, [(record, record)])
    share = np.arange(1, 10) / 10  # of the budget that exit 2 costs more
    softmax, best = (0.8 - 0.2 * share).mean(), np.minimum(0.8 + share, 1).mean()  # the oracle spends at most 0.2
    margin = np.where(share < 0.2, 0.8 + share, 1 - 0.4 * (share - 0.2) / 0.8).mean()
    accuracy = of_policy(table, "accuracy")
    np.testing.assert_allclose(accuracy[["margin", "confidence"]], [margin, softmax])
    closed = of_policy(table, "gap_closed")
    np.testing.assert_allclose(closed[["margin", "confidence"]], [(margin - softmax) / (best - softmax), 0], atol=1e-12)
    chance = accuracy["random"]
    expected = [(margin - chance) / (best - chance), (softmax - chance) / (best - chance), 0]
    np.testing.assert_allclose(of_policy(table, "efficiency"), expected, atol=1e-12)
    assert of_policy(table, "cost")["margin"] == 0.5  # exit 1 alone is at least as accurate as exit 2


@quick
@given(st.data(), st.integers(1, 6), st.integers(2, 4), st.booleans())
def test_no_choice_of_exits_is_better_than_the_best_possible(data, n, n_exits, each):
    """The linear programme over all shares with which samples leave at exits."""
    quality = data.draw(arrays(np.float64, (n, n_exits), elements=QUALITIES))
    steps = data.draw(arrays(np.float64, (n, n_exits) if each else n_exits, elements=st.sampled_from([1.0, 2.0, 5.0])))
    record = ExitRecord.from_scores(quality, cost=steps.cumsum(axis=-1))
    costs = np.broadcast_to(record.costs, quality.shape)
    expected = []
    for budget in record.cost[0] + BUDGETS * (record.cost[-1] - record.cost[0]):
        found = linprog(
            -quality.ravel(),
            A_ub=costs.reshape(1, -1),
            b_ub=[budget * n],
            A_eq=np.repeat(np.eye(n), n_exits, axis=1),
            b_eq=np.ones(n),
            bounds=(0, 1),
        )
        expected.append(-found.fun / n)
    assert best_possible(record).mean() == pytest.approx(np.mean(expected))


@pytest.mark.parametrize("seed", range(3))
def test_the_gap_is_from_max_softmax_to_the_best_possible(seed):
    record = random_record(seed)
    policies = {"confidence": make_policy("confidence"), "pcee": make_policy("pcee")}
    policies |= {"oracle": make_policy("oracle", target="label"), "random": make_policy("random")}
    table = table_of(policies, [(record, record)])
    closed = of_policy(table, "gap_closed")
    assert closed["confidence"] == 0
    assert closed.max() <= 1 + 1e-12
    assert closed["oracle"] > closed[["pcee", "random"]].max()
    assert table["of_seed"].tolist() == of_policy(table, "efficiency").tolist()  # of one seed


@pytest.mark.parametrize("seed", range(5))
def test_monotone_maps_change_calibration_only(seed):
    records = [(random_record([seed, 0]), random_record([seed, 1]))]
    table = table_of({"one": Power(), "three": Power(3)}, records).set_index("policy")
    one, three = table.loc["one"], table.loc["three"]
    changed = ["ece", "ece_1", "ece_2"]
    assert (one[changed] != three[changed]).all()
    pd.testing.assert_series_equal(one.drop(changed), three.drop(changed), check_names=False, check_exact=True)


def made(seed, efficiencies, ece, auroc):
    table = pd.DataFrame({"of_seed": efficiencies, "ece": ece, "auroc": auroc}).assign(system="a", seed=seed)
    return table.assign(aurc=1 - table["auroc"], rule=["pcee", "ztw", "isotonic", "patience", "oracle"])


def test_correlations_are_means_over_runs(tmp_path):
    """In both runs, calibration is the opposite of efficiency. Ranking predicts it in the first."""
    ece = [0.1, 0.2, 0.3, np.nan, 0.0]
    first = made(0, [0.1, 0.2, 0.3, 0.4, 1.0], ece, [0.6, 0.7, 0.8, 0.9, 0.0])
    second = made(1, [0.1, 0.2, 0.3, 0.0, 1.0], ece, [0.8, 0.7, 0.6, 0.9, 1.0])
    found = correlations(pd.concat([first, second])).set_index(["rules", "measure"])
    assert set(found["runs"]) == {2}
    of = found.loc["with an accuracy"]
    np.testing.assert_allclose(of.loc["ece", ["correlation", "correlation_low", "correlation_high"]].tolist(), -1)
    np.testing.assert_allclose(of.loc["auroc", ["correlation", "correlation_low", "correlation_high"]], [0, -1, 1])
    np.testing.assert_allclose(of["correlation"]["auroc − ece"], 1)
    assert (of["dots"]["ece"], found["dots"]["all", "auroc"]) == (6, 8)
    np.testing.assert_allclose(found["correlation"]["all", "aurc"], 0)

    one = correlations(first).set_index(["rules", "measure"]).loc[("all", "auroc")]
    assert (one["correlation"], np.isnan(one["correlation_low"])) == (pytest.approx(1), True)
    columns = {"policy": "pcee", "gap_closed": 0.0}
    write_table(pd.concat([first, second]).assign(**columns), tmp_path / "efficiency.parquet")
    numbers = TABLES["calibration-or-ranking"].make([tmp_path / "efficiency.parquet"], {})
    verdicts = numbers.set_index(["rules", "measure"])["verdict"]
    assert verdicts["with an accuracy", "ece"] == "predicts the opposite"
    assert verdicts["all", "auroc"] == verdicts["with an accuracy", "auroc − ece"].replace("more than ECE", "undecided")
    sentences = TABLES["calibration-or-ranking"].load().sentences(numbers)
    assert sentences[0] == (
        "A better ECE goes with a lower efficiency of an exit rule: rank correlation −1.00 [−1.00, −1.00] "
        "(6 exit rules that estimate an accuracy, in 2 systems and seeds)."
    )


def test_systems_with_one_exit_are_left_out():
    record = random_record(0, skill=(0.5,))
    table = table_of({"confidence": make_policy("confidence")}, [(record, record)])
    assert table.empty
    assert correlations(table)["runs"].eq(0).all()
