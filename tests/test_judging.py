"""`offramp judge` and `offramp compare-reports` on the command line."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from offramp import ExitRecord, certify, evaluate, load_policies, make_policy
from offramp.cli import cli
from offramp.comparison.bootstrap import Bootstrap
from offramp.comparison.runs import Run
from offramp.records.splitting import Holdout, split_record
from offramp.reports.comparing import compare_reports
from offramp.reports.judging import REFERENCES, fit_all, judge, recommend


def make_record(n, seed, **metadata):
    """A record whose later exits are right more often, and more confident when they are right."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, n)
    sharpness = np.array([1.0, 2.0, 4.0])[:, None]
    logits = rng.normal(size=(n, 3, 4)) + sharpness * np.eye(4)[labels][:, None]
    return ExitRecord(logits, labels, [1, 2, 4], metadata=metadata)


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """A judgement of two records without metadata."""
    folder = tmp_path_factory.mktemp("judged")
    for seed, split in enumerate(("validation", "mine")):
        make_record(400, seed).save(folder / f"{split}.safetensors")
    line = f"judge --validation {folder}/validation.safetensors --test {folder}/mine.safetensors --resamples 100"
    result = CliRunner().invoke(cli, [*line.split(), "--out", str(folder / "out")])
    assert result.exit_code == 0, result.output
    return folder, result.output


def test_a_judgement_recommends_what_its_files_say(judged):
    folder, output = judged
    chosen = json.loads((folder / "out/recommendation.json").read_text())
    policies, _ = load_policies(folder / "out/policies.safetensors")
    assert {"confidence", "margin", "entropy", "temperature", "pcee", "beem-a", "ztw"} <= policies.keys()
    point = evaluate(
        policies[chosen["policy"]], ExitRecord.load(folder / "mine.safetensors"), [chosen["threshold"]]
    ).iloc[0]
    assert point.accuracy == pytest.approx(chosen["accuracy"])
    assert point.cost / 4 == pytest.approx(chosen["cost"])
    assert chosen["accuracy_low"] <= chosen["accuracy"] <= chosen["accuracy_high"]
    assert f"threshold {chosen['threshold']:.6g}" in output
    page = (folder / "out/index.html").read_text()
    assert "Recommended for the accuracy of the last exit" in page
    assert "policies for mine" in page  # the name of the file is used, because the metadata contain no name
    assert "hidden-similarity (these outputs have no similarity" in page
    for name in ("speedup", "control", "reliability", "exit-histogram"):
        assert (folder / f"out/figures/{name}.png").stat().st_size > 1000
    assert set(pd.read_csv(folder / "out/tables/speedup.csv")["policy"]) == set(policies)


def test_the_recommended_policy_is_the_best_on_the_half_that_did_not_fit(unrendered, tmp_path):
    validation, test = make_record(300, 2), make_record(300, 3)
    chosen = judge(validation, test, tmp_path, cost=2.0, resamples=100)
    fitting, choosing = split_record(validation, 0.5)
    policies, _ = fit_all(fitting)
    best = max(
        max(
            (row.accuracy for row in evaluate(policy, choosing, np.unique(policy.signal(choosing))).itertuples()
             if row.cost <= 2.0),
            default=-1,
        )
        for label, policy in policies.items() if label not in REFERENCES
    )  # fmt: skip
    mine = evaluate(policies[chosen.policy], choosing, [chosen.threshold]).iloc[0]
    assert mine.cost <= 2.0
    assert mine.accuracy <= best  # the threshold spends the budget, which may not be the most accurate point
    assert chosen.policy not in REFERENCES


def test_a_certified_recommendation_is_the_cheapest_and_allows_for_the_choice():
    validation, test = make_record(2000, 2), make_record(300, 3)
    holdout = Holdout(0.5, 0)
    fitting, choosing = holdout.parts(validation)
    policies = {name: make_policy(name).fit(fitting) for name in ("confidence", "pcee-ws", "beem-a", "oracle")}
    run = Run("net", 0, validation, test, policies, holdout=holdout)
    bootstrap = Bootstrap.draw(300, 100, 0)
    chosen = recommend(run, bootstrap, level=0.03, risk="gap", confidence=0.8)
    candidates = policies.keys() - set(REFERENCES)
    found = {label: certify(policies[label], choosing, "gap", 0.03, 1 - 0.2 / len(candidates)) for label in candidates}
    assert found[chosen.policy].cost == min(its.cost for its in found.values()) < 4
    assert chosen.threshold == found[chosen.policy].threshold
    assert "Recommended for gap of at most 0.03, certified with confidence 0.8: " in str(chosen)
    there = evaluate(policies[chosen.policy], choosing, [chosen.threshold])
    assert chosen.accuracy_there == pytest.approx(there.accuracy[0])
    wrong = Run("net", 0, validation.replace(labels=(validation.labels + 1) % 4), test, policies, holdout=holdout)
    with pytest.raises(ValueError, match=r"no policy keeps error at most 0\.05; .*: no threshold is certified"):
        recommend(wrong, bootstrap, level=0.05)


def test_a_judgement_goes_without_what_records_lack(unrendered, tmp_path):
    made = make_record(200, 4)
    plain = ExitRecord.from_outputs(made.prediction, {"margin": made.measure("margin")}, made.labels, made.cost)
    judge(plain, plain, tmp_path, resamples=100)
    policies, _ = load_policies(tmp_path / "policies.safetensors")
    assert {"margin", "patience", "oracle"} <= policies.keys()
    assert not {"confidence", "temperature", "ztw"} & policies.keys()
    figures = {path.name for path in (tmp_path / "figures").iterdir()}
    assert ("reliability.png" in figures, "control.png" in figures) == (False, True)


@pytest.mark.parametrize(
    ("measures", "used"),
    [
        (["max_softmax", "mean_token_margin"], "max_softmax"),
        (["entropy", "margin"], "margin"),
        (["mean_token_margin"], "mean_token_margin"),
    ],
)
def test_policies_use_the_first_measure_that_is_there(measures, used):
    made = make_record(200, 4)
    known = {measure: made.measure("margin") for measure in measures}
    scored = ExitRecord.from_scores(made.correct.astype(float), known, made.cost, made.prediction)
    policies, _ = fit_all(scored)
    of = {label: getattr(policy, "score", None) for label, policy in policies.items()}
    assert {of[label] for label in ("isotonic", "pcee", "budget", "beem-a")} == {used}
    assert ("confidence" in of) == (used == "max_softmax")
    assert [of.get(measure.replace("_", "-")) for measure in measures if measure != "max_softmax"] == [
        measure for measure in measures if measure != "max_softmax"
    ]


@pytest.mark.parametrize(
    ("validation", "test", "more", "message"),
    [
        ({}, {"exits": 1}, {}, "the test record has one exit; expected at least two"),
        ({"exits": 2}, {}, {}, "the validation record has 2 exits, the test record 3"),
        ({}, {}, {"accuracy": 0.9, "cost": 1.0}, "expected a target accuracy, a target cost or a level, and not sev"),
        ({}, {}, {"level": 0.9, "risk": "cost"}, "risk is 'cost'; expected one of error, gap, disagreement, error_am"),
    ],
)
def test_records_that_do_not_fit_are_refused(tmp_path, validation, test, more, message):
    def cut(exits=3):
        made = make_record(50, 0)
        return ExitRecord(made.logits[:, :exits], made.labels, made.cost[:exits])

    with pytest.raises(ValueError, match=message):
        judge(cut(**validation), cut(**test), tmp_path / "out", **more)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("share", [0, 1, -0.5, float("nan")])
def test_a_share_outside_0_and_1_is_refused(share):
    with pytest.raises(ValueError, match=f"share is {share}"):
        split_record(make_record(10, 0), share)


def test_parts_are_disjoint_and_have_the_classes_in_their_shares():
    record = make_record(400, 0)
    first, second = split_record(record, 0.25, seed=3)
    assert (first.n_samples, second.n_samples) == (100, 300)
    assert sorted([*first.index, *second.index]) == list(range(400))
    shares = [np.bincount(part.labels, minlength=4) / part.n_samples for part in (first, second)]
    assert np.abs(shares[0] - shares[1]).max() < 0.02
    assert (split_record(record, 0.25, seed=3)[0].index == first.index).all()
    assert (split_record(record, 0.25, seed=4)[0].index != first.index).any()


# compare-reports


@pytest.fixture
def reports(tmp_path):
    """Two equal reports with one table."""
    table = pd.DataFrame(
        {"system": ["a", "b"], "policy": "pcee", "verdict": ["holds", "undecided"]}
        | {"gain": [0.1, 0.2], "gain_low": [0.0, 0.1], "gain_high": [0.2, 0.3], "seconds": [1.0, 2.0]}
    )
    for name in ("a", "b"):
        (tmp_path / name / "tables").mkdir(parents=True)
        table.to_csv(tmp_path / name / "tables/claims.csv", index=False)
        (tmp_path / name / "parameters.json").write_text('{"seeds": [0], "delta": {"step": 0.1}}')
    return tmp_path / "a", tmp_path / "b", table


def compared(reports, **columns):
    """Replace columns of the second report, and compare. Return the result and how often each change occurs."""
    a, b, table = reports
    table.assign(**columns).to_csv(b / "tables/claims.csv", index=False)
    result = CliRunner().invoke(cli, ["compare-reports", str(a), str(b)])
    return result, compare_reports(a, b)["change"].value_counts().to_dict()


def test_equal_reports_are_equal(reports):
    result, changes = compared(reports)
    assert (result.exit_code, changes) == (0, {"equal": 6})  # verdict, gain and seconds of two rows
    assert result.output.endswith("All numbers are equal.\n")


def test_rows_may_come_in_another_order(reports):
    a, b, table = reports
    table.iloc[::-1].to_csv(b / "tables/claims.csv", index=False)
    assert set(compare_reports(a, b)["change"]) == {"equal"}


def test_overlapping_intervals_agree(reports):
    result, changes = compared(reports, gain=[0.12, 0.2], gain_low=[0.15, 0.1], seconds=[1.5, 2.0])
    assert (result.exit_code, changes) == (0, {"equal": 4, "within noise": 1, "no interval": 1})
    assert "All intervals overlap, and all verdicts are the same." in result.output


def test_what_changes_beyond_noise_is_listed(reports):
    result, changes = compared(
        reports, gain_low=[0.25, 0.1], gain=[0.28, 0.2], gain_high=[0.3, 0.3], verdict=["holds", "holds"]
    )
    assert (result.exit_code, changes) == (1, {"equal": 4, "beyond noise": 1, "verdict": 1})
    assert "- claims: a, pcee: gain 0.1 [0, 0.2] became 0.28 [0.25, 0.3]\n" in result.output
    assert "- claims: b, pcee: undecided became holds\n" in result.output


def test_what_only_one_report_has(reports):
    a, b, table = reports
    table.iloc[:1].to_csv(b / "tables/claims.csv", index=False)
    assert (compare_reports(a, b)["change"] == "only in A").sum() == 1
    assert CliRunner().invoke(cli, ["compare-reports", str(a), str(b)]).exit_code == 1
    new = CliRunner().invoke(cli, ["compare-reports", str(b), str(a)])  # what is new is no disagreement
    assert (new.exit_code, "only in B" in new.output) == (0, True)
    shutil.move(b / "tables/claims.csv", b / "tables/other.csv")
    changes = compare_reports(a, b)
    assert changes[["table", "row", "change"]].to_numpy().tolist() == [
        ["claims", "all rows", "only in A"],
        ["other", "all rows", "only in B"],
    ]


def test_reports_with_other_parameters_are_compared(reports, tmp_path):
    a, b, _ = reports
    (b / "parameters.json").write_text('{"seeds": [0, 1], "delta": {"step": 0.1}, "notes": ["new"]}')
    result, _ = compared(reports)
    assert (result.exit_code, result.output.startswith("Other parameters: seeds: [0] became [0, 1]\n")) == (0, True)
    result, _ = compared(reports, verdict=["holds", "holds"])
    assert result.exit_code == 3
    out = tmp_path / "changes.csv"
    CliRunner().invoke(cli, ["compare-reports", str(a), str(b), "--out", str(out)])
    assert len(pd.read_csv(out)) == 6
    with pytest.raises(ValueError, match=r"no tables/\*.csv; expected the folder of a finished report"):
        compare_reports(a, tmp_path)
