"""Rejection: decisions, risk against coverage, and the choice of both thresholds, compared with slow versions."""

import itertools
import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import oracles
from offramp import ExitRecord, choose_rejection, choose_threshold, decide, evaluate, make_policy, risk_coverage
from offramp._io.tables import write_table
from offramp.comparison.bootstrap import Bootstrap
from offramp.comparison.rejection import rejection
from offramp.comparison.runs import Run
from offramp.evaluation.rejection import Ranking
from offramp.records.splitting import Holdout, split_record
from offramp.reports.catalogue import FIGURES, TABLES
from strategies import EDGES, Given, given_signal, quick, records, signals, thresholds, without_labels

RHOS = st.sampled_from([-np.inf, np.inf, *EDGES]) | st.floats(allow_nan=False)


class Sure(Given):
    """A policy whose signal is given by the test, and is an estimated accuracy."""

    claims_accuracy = True


@st.composite
def cases(draw, scored=False):
    """Draw a record and a policy that estimates by its signal or by max softmax, with or without a fallback."""
    record = draw(records(samples=(1, 12), sample_costs=True))
    if scored:
        quality = draw(arrays(np.float64, record.prediction.shape, elements=st.sampled_from([0, 0.25, 0.5, 1])))
        cost = record.cost if record.sample_cost is None else record.sample_cost
        record = ExitRecord.from_scores(quality, record.confidence(), cost)
    values = draw(signals((record.n_samples, record.n_exits)))
    fallback = draw(st.none() | arrays(np.int64, record.n_samples, elements=st.integers(0, record.n_exits - 1)))
    policy = given_signal(values, fallback)
    if draw(st.booleans()):
        policy.__class__ = Sure
    return record, policy


def estimates_of(record, policy):
    return policy.values if policy.claims_accuracy else record.confidence().astype(float)


# Decisions


@quick
@given(cases(), st.data(), RHOS, RHOS)
def test_rejects_as_the_slow_version(case, data, rho, eta):
    record, policy = case
    delta = data.draw(thresholds(policy.values))
    expected = oracles.rejecting(
        estimates_of(record, policy), policy.values, record.prediction, delta, rho, eta, policy.answers
    )
    (exits,), (answers,) = decide(policy, record, [delta], reject_below=rho, abstain_below=eta)
    assert (exits.tolist(), answers.tolist()) == tuple(map(list, expected))
    np.testing.assert_array_equal(policy.predict(record, delta, reject_below=rho, abstain_below=eta), answers)


@quick
@given(cases(), st.data(), RHOS, RHOS)
def test_evaluates_what_it_decides(case, data, rho, eta):
    record, policy = case
    assume((rho, eta) != (-np.inf, -np.inf))
    deltas = data.draw(st.lists(thresholds(policy.values), min_size=1, max_size=3))
    table = evaluate(policy, record, deltas, reject_below=rho, abstain_below=eta)
    for row, delta in zip(table.itertuples(), deltas, strict=True):
        exits, answers = oracles.rejecting(
            estimates_of(record, policy), policy.values, record.prediction, delta, rho, eta, policy.answers
        )
        accepted = [n for n, answer in enumerate(answers) if answer != -1]
        right = sum(answers[n] == record.labels[n] for n in accepted)
        assert row.coverage == len(accepted) / record.n_samples
        assert row.accuracy == right / len(accepted) if accepted else math.isnan(row.accuracy)
        assert row.cost == pytest.approx(math.fsum(oracles.cost_of(record, exits)) / record.n_samples)
        assert [getattr(row, f"exit_{i + 1}") for i in range(record.n_exits)] == [
            exits.count(i) / record.n_samples for i in range(record.n_exits)
        ]


@quick
@given(cases(), st.data())
def test_nothing_is_rejected_below_minus_infinity(case, data):
    record, policy = case
    delta = data.draw(thresholds(policy.values))
    table = evaluate(policy, record, [delta], reject_below=-np.inf)
    assert "coverage" not in table
    np.testing.assert_array_equal(
        decide(policy, record, [delta], reject_below=-np.inf), decide(policy, record, [delta])
    )
    assert (decide(policy, record, [delta], reject_below=np.inf)[1] == -1).all()


def test_early_abstention_saves_the_later_stages():
    """A cascade of three stages that cost 1, 10 and 100: the hopeless sample is rejected at the first of them."""
    sure = np.array([[0.9, 0.9, 0.9], [0.1, 0.5, 0.7], [0.5, 0.3, 0.9], [0.6, 0.7, 0.65]])
    record = ExitRecord.from_outputs(np.zeros((4, 3), int), sure, np.zeros(4, int), [1, 11, 111])
    policy = make_policy("confidence")
    (exits,), (answers,) = decide(policy, record, [0.8], reject_below=0.66, abstain_below=0.2)
    assert (exits.tolist(), answers.tolist()) == ([0, 0, 2, 2], [0, -1, 0, -1])
    (exits,), (answers,) = decide(policy, record, [0.8], reject_below=0.66, abstain_below=[0.2, 0.4])
    assert (exits.tolist(), answers.tolist()) == ([0, 0, 1, 2], [0, -1, -1, -1])
    table = evaluate(policy, record, [0.8], reject_below=0.66, abstain_below=[0.2, 0.4])
    assert table[["coverage", "accuracy", "cost"]].to_numpy().tolist() == [[0.25, 1, (1 + 1 + 11 + 111) / 4]]


def test_names_and_thresholds_per_exit():
    about = {"names": ["cat", "dog"], "classes": 2}
    record = ExitRecord.from_outputs([[0, 1], [1, 1]], [[0.9, 0.9], [0.4, 0.6]], [0, 1], [1, 2], metadata=about)
    policy = make_policy("confidence")
    assert policy.predict(record, [0.8], reject_below=0.7).tolist() == ["cat", ""]
    assert evaluate(policy, record, [[0.8], [0.2]], reject_below=0.5).coverage.tolist() == [1, 0.5]


def test_the_metric_is_that_of_the_accepted():
    """F1 of class 1: one hit, two answers, and one label among the three accepted samples."""
    about = {"classes": 2, "metric": "f1"}
    record = ExitRecord.from_outputs(
        [[1], [1], [0], [0]], [[0.9], [0.8], [0.7], [0.2]], [1, 0, 0, 1], [1], metadata=about
    )
    table = evaluate(make_policy("confidence"), record, [np.inf], reject_below=0.5)
    assert table.f1[0] == pytest.approx(2 / 3)
    assert table.accuracy[0] == pytest.approx(2 / 3)


# Risk against coverage


@quick
@given(cases(scored=True) | cases(), st.data())
def test_the_curve_is_the_slow_one(case, data):
    record, policy = case
    delta = data.draw(thresholds(policy.values))
    estimates, losses = slow_answers(record, policy, delta)
    curve = risk_coverage(policy, record, delta)
    points = oracles.selective_points(estimates, losses)
    assert curve.reject_below.tolist() == [rho for rho, _, _ in points]
    assert curve.accepted.tolist() == [k for _, k, _ in points]
    np.testing.assert_allclose(curve.lost, [float(lost) for _, _, lost in points], rtol=1e-12)
    assert curve.aurc == pytest.approx(oracles.aurc(estimates, losses), rel=1e-12)
    assert curve.e_aurc == pytest.approx(curve.aurc - oracles.lowest_aurc(losses), abs=1e-12)
    assert curve.e_aurc >= -1e-12
    assert curve.accuracy_at(1.0) == pytest.approx(1 - sum(losses) / len(losses))
    for rho, coverage, risk in zip(curve.reject_below, curve.coverage, curve.risk):
        assert curve.accuracy_at(coverage) == pytest.approx(1 - risk)
        if record.prediction is not None:  # the same as rejecting below this threshold
            answers = decide(policy, record, [delta], reject_below=rho)[1][0]
            assert (answers != -1).mean() == coverage


def slow_answers(record, policy, delta):
    """Return the estimate and the loss of each answer."""
    quality = record.correct.astype(float)
    _, estimates = oracles.answers(policy.values, estimates_of(record, policy), delta, policy.answers)
    _, right = oracles.answers(policy.values, quality, delta, policy.answers)
    return estimates, [1 - float(r) for r in right]


def test_by_hand():
    """Four answers in the order right, wrong, right, wrong: the formula of Geifman et al. (2019)."""
    record = ExitRecord.from_outputs([[0], [1], [0], [1]], [[0.9], [0.8], [0.7], [0.6]], [0, 0, 0, 0], [2])
    curve = risk_coverage(make_policy("confidence"), record, np.inf)
    assert curve.aurc == pytest.approx((0 + 1 / 2 + 1 / 3 + 2 / 4) / 4)
    assert curve.e_aurc == pytest.approx(curve.aurc - (1 / 3 + 2 / 4) / 4)  # Σ i / (n (1 − r) + i) / n for i = 1, 2
    assert curve.cost == 2
    np.testing.assert_allclose(curve.accuracy_at([0.25, 0.375, 0.5]), [1, 1 / 1.5, 1 / 2])


def test_another_estimate_at_the_same_exits():
    """Patience does not estimate how often it is right. With the estimate of PCEE, it still leaves where it did."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, 400)
    logits = rng.normal(size=(400, 3, 5)) + 2 * np.eye(5)[labels][:, None]
    record = ExitRecord(logits, labels, [1, 2, 3])
    patience, pcee = make_policy("patience"), make_policy("pcee").fit(record)
    exits = patience.exits(record, 1)
    for by, values in ((None, record.confidence()), (pcee, pcee.signal(record))):
        estimates = values[np.arange(400), exits]
        wrong = ~record.correct[np.arange(400), exits]
        curve = risk_coverage(patience, record, 1, by=by)
        assert curve.aurc == pytest.approx(oracles.aurc(estimates.tolist(), wrong.tolist()))
        assert curve.cost == (exits + 1).mean()


@quick
@given(cases(), st.data())
def test_counts_are_repeated_samples(case, data):
    record, policy = case
    delta = data.draw(thresholds(policy.values))
    estimates, losses = map(np.array, slow_answers(record, policy, delta))
    counts = data.draw(arrays(np.int64, len(losses), elements=st.integers(0, 3)))
    assume(counts.any())
    at = np.array([0.1, 0.5, 0.95, 1.0])
    resampled = Ranking(estimates, losses).resampled(np.stack([counts, np.ones(len(losses))]), at)
    for row, repeats in zip(resampled, (counts, 1)):
        curve = Ranking(np.repeat(estimates, repeats), np.repeat(losses, repeats)).curve(0)
        np.testing.assert_allclose(row, [*curve.accuracy_at(at), curve.aurc], rtol=1e-12, atol=1e-15)


# Joint choice


@quick
@given(cases(), st.data(), st.sampled_from([0.0, 0.1, 0.25, 0.5, 1.0]), st.booleans())
def test_the_choice_is_the_best_of_all_pairs(case, data, risk, at_coverage):
    record, policy = case
    deltas = data.draw(st.lists(thresholds(policy.values), min_size=1, max_size=4))
    target = data.draw(st.sampled_from([0.2, 0.5, 1.0])) if at_coverage else float(data.draw(st.integers(1, 20)))
    pairs = []  # coverage, risk, cost
    for delta in deltas:
        cost = math.fsum(oracles.cost_of(record, policy.exits(record, delta))) / record.n_samples
        for _, accepted, lost in oracles.selective_points(*slow_answers(record, policy, delta)):
            if float(lost / accepted) <= risk:
                pairs.append((accepted / record.n_samples, -cost))
    close = 1e-9
    possible = [each for each in pairs if (each[0] >= target if at_coverage else -each[1] <= target + close)]
    options = {"coverage": target} if at_coverage else {"cost": target + close}
    if not possible:
        with pytest.raises(ValueError, match=r"choose_rejection: .* on"):
            choose_rejection(policy, record, risk=risk, thresholds=deltas, **options)
        return
    found = choose_rejection(policy, record, risk=risk, thresholds=deltas, **options)
    best = max(possible, key=lambda each: each[::-1] if at_coverage else each)
    assert (found.cost, found.risk <= risk) == (pytest.approx(-best[1]), True)
    assert found.coverage == best[0] or at_coverage  # costs that differ by rounding only
    table = evaluate(policy, record, [found.threshold], reject_below=found.reject_below).iloc[0]
    assert table.get("coverage", 1.0) == found.coverage
    assert (table.accuracy, table.cost) == pytest.approx((1 - found.risk, found.cost))


def test_a_choice_by_hand():
    """The first exit is right on the first two samples, the second one on all but the last."""
    record = ExitRecord.from_outputs(
        [[0, 0], [0, 0], [1, 0], [1, 1]], [[0.9, 0.95], [0.8, 0.9], [0.7, 0.75], [0.2, 0.3]], np.zeros(4, int), [1, 4]
    )
    policy = make_policy("confidence")
    found = choose_rejection(policy, record, risk=0, coverage=0.5)
    assert (found.threshold, found.reject_below, found.coverage, found.cost) == (-np.inf, pytest.approx(0.8), 0.5, 1)
    found = choose_rejection(policy, record, risk=0, coverage=0.75)
    assert (found.reject_below, found.coverage, found.cost) == (0.75, 0.75, (1 + 1 + 4 + 4) / 4)
    assert choose_rejection(policy, record, risk=0, cost=2).coverage == 0.5
    with pytest.raises(ValueError, match=r"error of at most 0 is possible up to a coverage of 0\.75 on 4 samples; exp"):
        choose_rejection(policy, record, risk=0, coverage=0.9)
    with pytest.raises(ValueError, match=r"error of at most 0 costs at least 1 on 4 samples; expected 0\.5"):
        choose_rejection(policy, record, risk=0, cost=0.5)


# Comparison of policies


def made(system, seed, split, n=200):
    """A system whose first exit is far too confident, so that max softmax does not compare across exits."""
    rng = np.random.default_rng([seed, split == "test"])
    labels = np.random.default_rng(split == "test").integers(0, 3, n)  # (N,)
    hard = rng.random((n, 1))
    right = rng.random((n, 2)) > hard * [0.9, 0.5]  # (N, L)
    sure = np.clip(1 - hard * [0.2, 0.8] + rng.normal(0, 0.02, (n, 2)), 0.34, 1).astype(np.float32)
    prediction = np.where(right, labels[:, None], (labels[:, None] + 1) % 3)
    about = {"system": system, "seed": seed, "split": split, "dataset": "made", "unit": "MAC"}
    return ExitRecord.from_outputs(prediction, sure, labels, [1.0, 4.0], metadata=about)


@pytest.fixture(scope="module")
def runs():
    found = []
    for system, seed in itertools.product(("one", "two"), (0, 1)):
        validation, test = (made(system, seed, split) for split in ("validation", "test"))
        policies = {"confidence": make_policy("confidence"), "patience": make_policy("patience")}
        policies["isotonic"] = make_policy("isotonic").fit(validation)
        found.append(Run(system, seed, validation, test, policies))
    return found


@pytest.fixture(scope="module")
def compared(runs):
    return rejection(runs, Bootstrap.draw(200, 100, 0))


def test_comparison(runs, compared):
    assert len(compared) == 2 * 3 * 20
    assert compared.groupby("policy")["by"].first().to_dict() == {
        **dict.fromkeys(("confidence", "patience"), "max softmax"),
        "isotonic": "estimate",
    }
    for gain in ("gain", "aurc_gain"):
        assert compared[gain].notna().eq(compared["policy"] == "isotonic").all()
    for (system, label), rows in compared.groupby(["system", "policy"]):
        areas, gains, at_80, better, costs = [], [], [], [], []
        for run in (each for each in runs if each.system == system):
            policy, test = run.policies[label], run.test
            delta = choose_threshold(policy, run.validation, accuracy=run.validation.correct[:, -1].mean() - 1e-12)
            exits = policy.exits(test, delta)
            wrong = ~test.correct[np.arange(200), exits]
            sure = test.confidence()[np.arange(200), exits]
            own = policy.signal(test)[np.arange(200), exits] if label == "isotonic" else sure
            areas.append(oracles.aurc(own.tolist(), wrong.tolist()))
            gains.append(oracles.aurc(sure.tolist(), wrong.tolist()) - areas[-1])
            costs.append((exits == 0).mean() / 4 + (exits == 1).mean())
            at_80.append(accuracy_of_160(own, wrong))
            better.append(at_80[-1] - accuracy_of_160(sure, wrong))
        row = rows.set_index("coverage").loc[0.8]
        assert (row.aurc, row.accuracy, row.cost) == pytest.approx((np.mean(areas), np.mean(at_80), np.mean(costs)))
        assert row.aurc_sd == pytest.approx(np.std(areas, ddof=1))
        if label == "isotonic":
            assert (row.aurc_gain, row.gain) == pytest.approx((np.mean(gains), np.mean(better)))
            assert row.aurc_gain_low < row.aurc_gain < row.aurc_gain_high
        for name in ("aurc", "accuracy", "cost"):
            assert row[f"{name}_low"] <= row[name] <= row[f"{name}_high"]


def accuracy_of_160(estimates, wrong):
    """Return the mean accuracy of the 160 answers with the highest estimates, if ties are broken at random."""
    last = np.sort(estimates)[::-1][159]
    above, tied = estimates > last, estimates == last
    share = (160 - above.sum()) / tied.sum()
    return 1 - (wrong[above].sum() + share * wrong[tied].sum()) / 160


def test_table_and_figure(compared, tmp_path):
    write_table(compared, tmp_path / "rejection.csv")
    table = TABLES["coverage"].load()
    numbers = table.numbers([tmp_path / "rejection.csv"])
    text = table.readable(numbers)
    assert text["Policy"].tolist() == ["max softmax", "isotonic", "patience"] * 2
    of_isotonic = numbers[(numbers["coverage"] == 0.9) & (numbers["policy"] == "isotonic")]
    for column, name, gain in (
        ("Verdict at 90 %", "verdict", "gain"),
        ("Verdict by AURC", "aurc_verdict", "aurc_gain"),
    ):
        expected = [
            "better" if low > 0 else "worse" if high < 0 else "undecided"
            for low, high in zip(of_isotonic[f"{gain}_low"], of_isotonic[f"{gain}_high"])
        ]
        assert text[column].tolist() == ["–", expected[0], "–", "–", expected[1], "–"]
        assert of_isotonic[name].tolist() == expected
    cells = text["Accuracy at 90 % (%)"][text["Policy"] == "isotonic"]
    assert [cell.split()[0] for cell in cells] == [f"{100 * accuracy:.1f}" for accuracy in of_isotonic["accuracy"]]
    rows = numbers[numbers["policy"] == "isotonic"].copy()
    rows["verdict"] = rows["coverage"].map({0.8: "better", 0.9: "worse", 0.95: "better", 1.0: "undecided"})
    rows["aurc_verdict"] = rows["system"].map({"one": "better", "two": "worse"})
    assert table.sentences(rows) == [
        "Rejecting by the estimate of isotonic against rejecting by max softmax: at equal coverage better in 4, worse "
        "in 2, undecided in 0 of 6 cases (systems × coverages); by AURC better in 1, worse in 1, undecided in 0 of 2 "
        "systems."
    ]
    figure = FIGURES["risk-coverage"].function([tmp_path / "rejection.csv"], policies=["isotonic", "patience"])
    for system, ax in zip(("one", "two"), figure.axes, strict=True):
        rows = numbers[(numbers["system"] == system) & (numbers["policy"] == "isotonic")]
        at = dict(zip(*ax.lines[0].get_data()))
        for row in rows.itertuples():
            assert at[100 * row.coverage] == pytest.approx(100 * (1 - row.accuracy))
    with pytest.raises(ValueError, match="policy 'pcee' is not in the files"):
        FIGURES["risk-coverage"].function([tmp_path / "rejection.csv"], policies=["pcee"])


def test_without_max_softmax(runs):
    """Only the policies that estimate accuracy can reject; with other confidences, isotonic regression does."""

    def without(record):
        return ExitRecord.from_outputs(
            record.prediction, {"margin": record.confidence()}, record.labels, record.cost, metadata=record.metadata
        )

    policies = {"patience": make_policy("patience")}
    bare = Run("one", 0, without(runs[0].validation), without(runs[0].test), policies)
    bootstrap = Bootstrap.draw(200, 100, 0)
    table = rejection([bare], bootstrap)
    assert table.empty
    assert {"system", "coverage", "aurc_gain_low"} <= set(table)
    policies["isotonic"] = make_policy("isotonic", score="margin").fit(bare.validation)
    table = rejection([bare], bootstrap)
    assert set(table["policy"]) == {"isotonic"}
    assert table["aurc_gain"].isna().all()


# The command line


@pytest.fixture
def offramp(tmp_path, monkeypatch, said):
    """Run a command in a folder with two records, and return what it printed, or its error."""
    monkeypatch.chdir(tmp_path)
    for split in ("validation", "test"):
        made("s", 0, split, 400).save(split)
    return said


def test_reject_command(offramp):
    said = offramp("reject validation --policy isotonic --error 0.2 --coverage 0.6 --test test --out r.csv")
    fitting, rest = split_record(ExitRecord.load("validation"), 0.5)
    policy = make_policy("isotonic").fit(fitting)
    chosen = choose_rejection(policy, rest, risk=0.2, coverage=0.6)
    table = pd.read_csv("r.csv")
    assert table["split"].tolist() == ["validation", "test"]
    assert table["reject_below"].tolist() == [chosen.reject_below] * 2
    there = evaluate(policy, ExitRecord.load("test"), [chosen.threshold], reject_below=chosen.reject_below).iloc[0]
    np.testing.assert_allclose(
        table[["coverage", "accuracy", "cost"]],
        [[chosen.coverage, 1 - chosen.risk, chosen.cost], [there.coverage, there.accuracy, there.cost]],
    )
    assert f"isotonic: threshold {chosen.threshold:.6g}, reject below {chosen.reject_below:.6g}\n" in said
    assert f"test: coverage {there.coverage:.4g}, accuracy {there.accuracy:.4g}, average cost {there.cost:.6g}" in said


def test_reject_chooses_on_the_samples_that_calibrate_held_out(offramp):
    """With the seed of the record, as all other commands."""
    record = made("s", 3, "validation", 400)
    record.save("validation")
    fitting, rest = Holdout(0.5, 3).parts(record)
    chosen = choose_rejection(make_policy("isotonic").fit(fitting), rest, risk=0.2, coverage=0.6)
    expected = f"isotonic: threshold {chosen.threshold:.6g}, reject below {chosen.reject_below:.6g}\n"
    offramp("calibrate validation --policy isotonic --fit-share 0.5 --out p")
    for policies in ("--policy isotonic", "--policies p"):
        assert expected in offramp(f"reject validation {policies} --error 0.2 --coverage 0.6")


def test_evaluate_takes_both_thresholds(offramp):
    words = "evaluate --policy confidence --test test --reject-below 0.6 --abstain-below 0.85 --out e.csv"
    offramp(f"{words} --thresholds 0.9,0.95")
    record, policy = ExitRecord.load("test"), make_policy("confidence")
    expected = evaluate(policy, record, [0.9, 0.95], reject_below=0.6, abstain_below=0.85)
    np.testing.assert_allclose(pd.read_csv("e.csv")[list(expected)], expected)
    offramp("evaluate --policy confidence --test test --reject-below 0.6 --per-exit 0.9 --out e.csv")
    expected = evaluate(policy, record, [[0.9]], reject_below=0.6)
    np.testing.assert_allclose(pd.read_csv("e.csv")[list(expected)], expected)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("reject validation --error 0.1 --coverage 0.9", "expected either --policy or --policies"),
        ("reject validation --policy confidence --error 0.1", "confidence: choose_rejection: expected either coverage"),
        ("reject validation --policy confidence --error 0 --coverage 1", "possible up to a coverage of"),
        ("evaluate --policy confidence --test test --reject-below nan --out e.csv", "reject_below: expected one numbe"),
        ("evaluate --policy confidence --test test --abstain-below 1,2 --out e.csv", "abstain_below: expected a numbe"),
    ],
)
def test_commands_that_are_refused(offramp, line, message):
    said = offramp(line)
    assert message in said
    assert "\n" not in said.strip()


# docs/rejection.md


def test_the_code_of_the_page_runs(capsys):
    page = (Path(__file__).parents[1] / "docs/rejection.md").read_text(encoding="utf-8")
    names = {}
    for code in re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE):
        exec(code, names)
    assert names["result"].reject_below is not None
    assert names["chosen"].coverage >= 0.9


# Bad inputs


def test_bad_inputs():
    record = ExitRecord.from_outputs([[0, 0]], [[0.5, 0.6]], [0], [1, 2])
    policy = make_policy("confidence")
    bad = {
        r"reject_below: expected one number, not NaN; got nan": {"reject_below": np.nan},
        r"reject_below: expected one number, not NaN; got \[0\.1, 0\.2\]": {"reject_below": [0.1, 0.2]},
        r"abstain_below: expected a number or 1 of them .* got \[0\.1, 0\.2\]": {"abstain_below": [0.1, 0.2]},
    }
    for message, options in bad.items():
        with pytest.raises(ValueError, match=message):
            decide(policy, record, [0.5], **options)
        with pytest.raises(ValueError, match=message):
            evaluate(policy, record, [0.5], **options)
    bad = {
        "expected either coverage or cost": [{}, {"coverage": 0.5, "cost": 1}],
        r"risk is -0\.1; expected a number from 0 to 1": [{"risk": -0.1, "cost": 1}],
        r"coverage is 1\.5; expected a number from 0 to 1": [{"coverage": 1.5}],
        r"risk is nan; expected a number from 0 to 1": [{"risk": np.nan, "cost": 1}],
    }
    for message, calls in bad.items():
        for options in calls:
            with pytest.raises(ValueError, match=message):
                choose_rejection(policy, record, **({"risk": 0.1} | options))
    for function in (risk_coverage, lambda *args: choose_rejection(*args, risk=0.1, cost=1)):
        with pytest.raises(ValueError, match="labels"):
            function(policy, *[without_labels(record), 0.5][: 2 if function is risk_coverage else 1])
    bare = ExitRecord.from_outputs([[0, 0]], None, [0], [1, 2])
    with pytest.raises(ValueError, match=r"confidence: this record has no max_softmax, only predictions"):
        decide(make_policy("patience"), bare, [1], reject_below=0.5)
