"""What becomes of promises under shift, compared with loops over samples, and the verdict at its bounds."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import oracles
from offramp import ExitRecord, certify, make_policy, save_policies
from offramp._io.tables import write_table
from offramp.calibration import reliability_diagram
from offramp.cli import cli
from offramp.comparison.bootstrap import Bootstrap
from offramp.comparison.runs import Run
from offramp.comparison.shift import load_shifted_runs, of_frequencies, under_shift
from offramp.evaluation import frontier, threshold_on
from offramp.records.splitting import split_record
from offramp.reports.catalogue import FIGURES, TABLES
from offramp.reports.tables.shift_claim import verdict_4

N, L, SEEDS, COSTS = 300, 3, (0, 1), [1.0, 3.0, 8.0]
TARGETS = [0.75, 0.9]
LEVEL = 0.2


def make_record(seed, split, severity=0, system="net"):
    """Exits that are as sure as ever, and wrong more often with each severity."""
    labels = np.random.default_rng(split == "test").integers(0, 4, N)
    random = np.random.default_rng([seed, split == "test"])
    logits = random.normal(size=(N, L, 4))  # (N, L, C)
    logits[np.arange(N), :, labels] += np.linspace(0.8, 3, L)
    if severity:
        wrong = random.random(N) < 0.07 * severity  # (N,)
        logits[wrong] = logits[wrong][..., [1, 2, 3, 0]]
    about = {"system": system, "seed": seed, "split": split, "dataset": "made up"}
    about |= {"corruption": {"kind": "noise", "severity": severity}} if severity else {}
    return ExitRecord(logits.astype(np.float32), labels, COSTS, np.arange(N) + 50, about)


def make_policies(record):
    made = {"confidence": make_policy("confidence"), "margin": make_policy("confidence", score="margin")}
    return {label: policy.fit(record) for label, policy in {**made, "pcee": make_policy("pcee", bins=5)}.items()}


@pytest.fixture(scope="module")
def runs():
    made = []
    for seed in SEEDS:
        validation = make_record(seed, "validation")
        made.append(Run("net", seed, validation, make_record(seed, "test"), make_policies(validation)))
    return made


@pytest.fixture(scope="module")
def corrupted():
    return {("noise", severity): [make_record(seed, "test", severity) for seed in SEEDS] for severity in (1, 5)}


@pytest.fixture(scope="module")
def resampled():
    return Bootstrap.draw(N, 100, seed=3)


@pytest.fixture(scope="module")
def table(runs, corrupted, resampled):
    return under_shift(runs, corrupted, TARGETS, resampled, level=LEVEL, bins=8)


# Reference implementation


def answers(policy, record, delta):
    """Return accuracy and mean cost at a threshold."""
    exits, right = oracles.route(policy.signal(record), record.correct, delta, None)
    return np.mean([float(r) for r in right]), np.mean([COSTS[i] for i in exits])


def measured(run, label, test, choice):
    """Return accuracy of each target, mean cost as a share, for one seed."""
    policy = run.policies[label]
    if choice == "direct":
        deltas = TARGETS
    elif choice == "validation":
        deltas = [threshold_on(frontier(policy, run.validation), accuracy=target) for target in TARGETS]
    else:
        fitting, certifying = split_record(run.validation, 0.5, run.seed)
        policy = make_policies(fitting)[label]
        deltas = [certify(policy, certifying, "gap", LEVEL, 0.9).threshold]
    accuracy, cost = zip(*(answers(policy, test, delta) for delta in deltas))
    return np.array(accuracy), np.mean(cost) / COSTS[-1]


def row_of(table, severity, label, choice):
    (row,) = table.query("severity == @severity and policy == @label and choice == @choice").to_dict("records")
    return row


@pytest.mark.parametrize("choice", ["direct", "validation", "certified"])
@pytest.mark.parametrize("label", ["confidence", "margin", "pcee"])
@pytest.mark.parametrize("severity", [0, 1, 5])
def test_numbers_are_those_of_a_loop(table, runs, corrupted, severity, label, choice):
    if (label, choice) == ("margin", "direct"):
        assert table.query("policy == 'margin' and choice == 'direct'").empty  # it promises no accuracy
        return
    row = row_of(table, severity, label, choice)
    tests = corrupted["noise", severity] if severity else [run.test for run in runs]
    seeds = [measured(run, label, test, choice) for run, test in zip(runs, tests)]
    full = np.array([test.correct[:, -1].mean() for test in tests])
    assert row["accuracy"] == pytest.approx(np.mean([accuracy.mean() for accuracy, _ in seeds]))
    assert row["full_accuracy"] == pytest.approx(full.mean())
    gaps = [whole - accuracy.mean() for whole, (accuracy, _) in zip(full, seeds)]
    assert row["gap"] == pytest.approx(np.mean(gaps))
    assert row["gap_sd"] == pytest.approx(np.std(gaps, ddof=1))
    assert row["cost"] == pytest.approx(np.mean([share for _, share in seeds]))
    assert row["speedup"] == pytest.approx(np.mean([1 / share for _, share in seeds]))
    if choice == "certified":
        assert np.isnan(row["error"])
        assert row["level"] == LEVEL
    else:
        assert np.isnan(row["level"])
        assert row["error"] == pytest.approx(np.mean([np.abs(accuracy - TARGETS).mean() for accuracy, _ in seeds]))
        clean = row_of(table, 0, label, choice)
        assert row["rise"] == pytest.approx(row["error"] - clean["error"])
        assert row["full_error"] == pytest.approx(np.mean([np.abs(whole - TARGETS).mean() for whole in full]))


def test_calibration_error_is_that_of_reliability_diagrams(table, runs, corrupted, resampled):
    row = row_of(table, 5, "pcee", "direct")
    seeds, replicates = [], []
    for run, test in zip(runs, corrupted["noise", 5]):
        signal, correct = run.policies["pcee"].signal(test), test.correct

        def error(samples, signal=signal, correct=correct):
            return np.mean([reliability_diagram(signal[samples, i], correct[samples, i], 8).ece for i in range(L)])

        seeds.append(error(np.arange(N)))
        replicates.append([error(np.repeat(np.arange(N), counts.astype(int))) for counts in resampled.counts])
    assert row["calibration"] == pytest.approx(np.mean(seeds))
    low, high = np.quantile(resampled.over_seeds(np.array(replicates)), [0.025, 0.975])
    assert row["calibration_high"] == pytest.approx(2 * np.mean(seeds) - low)  # as for all distances
    assert row["calibration_low"] == pytest.approx(max(0, 2 * np.mean(seeds) - high))
    assert np.isnan(row_of(table, 5, "margin", "validation")["calibration"])


def test_a_shift_of_the_labels_breaks_control(table):
    rises = [row_of(table, severity, "pcee", "direct")["rise"] for severity in (0, 1, 5)]
    assert rises[0] == 0
    assert rises[2] > max(rises[1], 0.05)
    assert verdict_4(*(row_of(table, 5, "pcee", "direct")[f"rise_{end}"] for end in ("low", "high"))) == "holds"


def test_a_shift_of_class_frequencies_is_measured_on_the_samples_that_are_drawn(runs, corrupted, resampled):
    drawn = of_frequencies(runs, [4])
    tests = drawn["class-frequencies", 4]
    assert 0 < tests[0].n_samples < N
    np.testing.assert_array_equal(tests[0].index, tests[1].index)
    table = under_shift(runs, corrupted | drawn, TARGETS, resampled, level=LEVEL, bins=8)
    clean, row = (
        table[
            (table["corruption"] == "class-frequencies") & (table["policy"] == "pcee") & (table["choice"] == "direct")
        ]
        .set_index("severity")
        .loc[severity]
        for severity in (0, 4)
    )
    errors = []
    for run, test in zip(runs, tests):
        reached = [answers(run.policies["pcee"], test, target)[0] for target in TARGETS]
        errors.append(np.abs(np.array(reached) - TARGETS).mean())
    assert row["error"] == pytest.approx(np.mean(errors))
    assert row["rise"] == pytest.approx(row["error"] - clean["error"])
    assert row["error_low"] <= row["error"] <= row["error_high"]


def test_too_few_samples_to_certify_leave_the_other_promises(runs, corrupted, resampled, table, tmp_path):
    with pytest.warns(
        UserWarning, match=r"net, margin: certify: 150 samples are too few .* at least 384 are needed; the"
    ):
        few = under_shift(runs, corrupted, TARGETS, resampled, level=0.01, bins=8)
    pd.testing.assert_frame_equal(
        few.drop(columns="level"), table[table["choice"] != "certified"].reset_index(drop=True).drop(columns="level")
    )
    write_table(few, tmp_path / "shift.parquet")
    shown = TABLES["shift"].load()
    assert set(shown.readable(shown.numbers([tmp_path / "shift.parquet"]))["Certified gap (points)"]) == {"–"}
    assert FIGURES["shift"].make([tmp_path / "shift.parquet"], {}).axes


def test_a_policy_without_a_certified_threshold_keeps_its_other_promises(runs, corrupted, resampled):
    """The full model is not a safe end if another exit answers for samples that no exit accepts."""
    options = {"bins": 5, "no_exit": "most_confident"}
    changed = [replace(run, policies={"unsure": make_policy("pcee", **options).fit(run.validation)}) for run in runs]
    with pytest.warns(UserWarning, match="net, unsure: no threshold is certified: gap is"):
        table = under_shift(changed, corrupted, TARGETS, resampled, level=0.06, bins=8)
    assert set(table["choice"]) == {"direct", "validation"}


def test_verdict():
    assert verdict_4(0.01, 0.05) == "holds"
    assert verdict_4(-0.05, -0.01) == "does not hold"
    assert verdict_4(-0.01, 0.05) == verdict_4(0.0, 0.05) == verdict_4(0.0, 0.0) == verdict_4(-0.1, 0.0) == "undecided"


# Files and the command


@pytest.fixture
def files(tmp_path, runs, corrupted):
    for run in runs:
        run.validation.save(tmp_path / f"validation-{run.seed}")
        run.test.save(tmp_path / f"test-{run.seed}")
        save_policies(run.policies, tmp_path / f"policies-{run.seed}", run.validation.metadata)
        for (kind, severity), tests in corrupted.items():
            shuffled = tests[run.seed].take(np.random.default_rng(0).permutation(N))
            shuffled.save(tmp_path / f"test-{kind}-{severity}-{run.seed}")
    return tmp_path


def test_command(files, table):
    words = [str(path) for path in sorted(files.iterdir())]
    words += [*(f"--target={target}" for target in TARGETS), "--level", str(LEVEL), "--bins", "8", "--resamples", "100"]
    cli(["shift", *words, "--seed", "3", "--out", str(files / "shift.parquet")], standalone_mode=False)
    pd.testing.assert_frame_equal(pd.read_parquet(files / "shift.parquet"), table, check_exact=False)


def test_command_without_corrupted_samples(files):
    words = [str(path) for path in sorted(files.iterdir()) if "noise" not in path.name]
    words += ["--target", "0.8", "--frequencies", "2", "--frequencies", "4", "--resamples", "100"]
    with pytest.warns(UserWarning, match="too few to certify gap at level 0.02"):
        cli(["shift", *words, "--out", str(files / "shift.csv")], standalone_mode=False)
    table = pd.read_csv(files / "shift.csv")
    assert (set(table["corruption"]), set(table["severity"])) == ({"class-frequencies"}, {0, 2, 4})


@pytest.mark.parametrize(
    ("without", "message"),
    [
        ("test-noise*", "no record of corrupted samples among the files"),
        ("test-noise-5-1", "no record of net seed 1 with noise of severity 5; expected the same corruptions of all"),
        ("*[a-z]-1", "test-noise-1-1: no other files of net seed 1"),
    ],
)
def test_missing_files_are_named(files, without, message):
    for path in files.glob(without):
        path.unlink()
    with pytest.raises(ValueError, match=message):
        load_shifted_runs(sorted(files.iterdir()))


def test_other_files_are_refused(files):
    record = ExitRecord.load(files / "test-noise-5-0")
    record.save(files / "twice")
    with pytest.raises(ValueError, match=r"twice: net seed 0 with noise of severity 5, as .*test-noise-5-0; expected"):
        load_shifted_runs(sorted(files.iterdir()))
    (files / "twice").unlink()
    record.take(np.arange(9)).save(files / "test-noise-5-0")
    with pytest.raises(ValueError, match=r"shift: .*test-noise-5-0"):
        load_shifted_runs(sorted(files.iterdir()))
    record.metadata["split"] = "validation"
    record.save(files / "test-noise-5-0")
    with pytest.raises(ValueError, match="its samples are corrupted, and its split is validation; expected test"):
        load_shifted_runs(sorted(files.iterdir()))


# Figure and tables


@pytest.mark.parametrize("name", ["shift", "shift-claim"])
def test_tables(name, table, tmp_path):
    write_table(table, tmp_path / "shift.parquet")
    options = {"policies": ["pcee"]} if name == "shift-claim" else {}
    TABLES[name].write([tmp_path / "shift.parquet"], tmp_path / name, **options)
    text = (tmp_path / f"{name}.md").read_text()
    row = row_of(table, 5, "pcee", "direct")
    if name == "shift-claim":
        assert "It holds in 1 of 2 cases, does not hold in 1" in text
        assert "Does not hold: net, noise 1 (PCEE)." in text
        assert f"control error {100 * row['error']:.1f} points, rise +{100 * row['rise']:.1f} [" in text
    else:
        clean = row_of(table, 0, "pcee", "direct")
        assert f"{100 * clean['error']:.1f} → {100 * row['error']:.1f} [{100 * row['error_low']:.1f}, " in text
        assert len(pd.read_csv(tmp_path / "shift.csv")) == len(table)


def test_figure(table, tmp_path):
    write_table(table, tmp_path / "shift.parquet")
    figure = FIGURES["shift"].make([tmp_path / "shift.parquet"], {})
    assert [ax.get_ylabel().partition("\n")[0] for ax in figure.axes] == [
        *("Control error", "Certified gap", "Calibration error", "Speed-up")
    ]
    lines = figure.axes[0].get_lines()
    drawn = [line.get_ydata() for line in lines if len(line.get_ydata()) == 3]
    expected = [100 * row_of(table, severity, "pcee", "direct")["error"] for severity in (0, 1, 5)]
    assert any(np.allclose(line, expected) for line in drawn)
