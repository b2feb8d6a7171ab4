"""Thresholds are chosen on samples on which nothing was fitted, and every command holds out the same samples."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from offramp import ExitRecord, certify, choose_threshold, load_policies, make_policy, save_policies
from offramp.calibration import fit_temperatures
from offramp.cli.options import choosing_part, load_fitted
from offramp.comparison.bootstrap import Bootstrap
from offramp.comparison.cascades import Variant, cheapest, search_zoo
from offramp.comparison.claims import at_targets, pairs
from offramp.comparison.matched import DROPS, match
from offramp.comparison.runs import Run, load_runs
from offramp.evaluation import accuracy_without_loss, outcomes
from offramp.policies.base import answering_exits
from offramp.records.splitting import Holdout, split_record
from strategies import quick

N = 200
HALF = Holdout(0.5, 3)
LEARNING = ("pcee", "pcee-ws", "isotonic", "temperature", "ztw", "beem-a")
SPECS = {"temperature": ("confidence", {"temperature": "per_exit"})}


def policies():
    made = {label: SPECS.get(label, (label, {})) for label in (*LEARNING, "confidence")}
    return {label: make_policy(name, **options) for label, (name, options) in made.items()}


def made(split, system="a", exits=3, seed=3):
    labels = np.random.default_rng(split == "test").integers(0, 4, N)
    logits = np.random.default_rng([split == "test", exits, len(system)]).normal(size=(N, exits, 4))
    logits[np.arange(N), :, labels] += np.linspace(1, 2.5, exits)
    about = {"system": system, "seed": seed, "split": split}
    return ExitRecord(logits.astype(np.float32), labels, len(system) * np.arange(1.0, exits + 1), metadata=about)


def spoiled(record, part):
    """Return the record with other outputs for the samples of a part. The labels, which decide the split, stay."""
    logits = record.logits.copy()
    logits[part.index] = np.random.default_rng(9).normal(size=(part.n_samples, *logits.shape[1:]))
    return ExitRecord(logits, record.labels, record.cost, metadata=record.metadata)


def chosen(run):
    """Return the thresholds of a run as its tables use them, and what they give on test samples."""
    found = {}
    for label, each in match([run]).items():
        found[label] = each.exits, each.validation_loss
    table = at_targets([run], [0.5, 0.6, 0.7], Bootstrap.draw(N, 0, 0))
    return found, table


def of_run(record, test, holdout=HALF):
    fitting, _ = holdout.parts(record)
    return Run("a", 3, record, test, {k: p.fit(fitting) for k, p in policies().items()}, holdout=holdout)


# The split


@quick
@given(st.integers(20, 300), st.floats(0.05, 1), st.integers(0, 4), st.randoms(use_true_random=False))
def test_every_sample_is_in_one_part_whatever_the_order_of_the_record(n, share, seed, random):
    labels = np.array([random.randrange(3) for _ in range(n)])
    record = ExitRecord(np.zeros((n, 2, 3), np.float32), labels, [1, 2], index=np.arange(n) * 7)
    holdout = Holdout(share, seed)
    try:
        sizes = holdout.sizes(n)
    except ValueError:
        assert min(round(share * n), n - round(share * n)) < 10
        return
    fitting, choosing = holdout.parts(record)
    assert (len(fitting), len(choosing)) == sizes
    if share == 1:
        assert fitting is choosing is record
        return
    assert sorted([*fitting.index, *choosing.index]) == list(record.index)
    assert np.abs(np.bincount(fitting.labels, minlength=3) - share * np.bincount(labels, minlength=3)).max() < 3
    order = list(range(n))
    random.shuffle(order)
    assert set(holdout.parts(record.take(order))[0].index) == set(fitting.index)


@pytest.mark.parametrize(
    ("share", "samples", "message"),
    [
        (0, 100, "fit_share is 0; expected a number above 0 and at most 1"),
        (1.5, 100, "fit_share is 1.5; expected a number above 0"),
        (float("nan"), 100, "fit_share is nan; expected"),
        (
            0.5,
            18,
            "so that 9 of 18 validation samples are for fitting and 9 for choosing thresholds; expected at least 10",
        ),
        (0.99, 360, "so that 356 of 360 validation samples are for fitting and 4 for choosing"),
    ],
)
def test_shares_that_leave_too_little(share, samples, message):
    with pytest.raises(ValueError, match=message) as refused:
        Holdout(share).sizes(samples)
    assert "\n" not in str(refused.value)


# Fits and choices do not see each other's samples


def test_no_fit_sees_the_samples_that_choose():
    record, test = made("validation"), made("test")
    _, choosing = HALF.parts(record)
    one, other = of_run(record, test), of_run(spoiled(record, choosing), test)
    for label in LEARNING:
        for name, values in one.policies[label].state.items():
            np.testing.assert_array_equal(values, other.policies[label].state[name], err_msg=label)
    assert not chosen(one)[1].equals(chosen(other)[1])  # it does change the choice


def test_no_choice_sees_the_samples_of_the_fit():
    record, test = made("validation"), made("test")
    fitting, _ = HALF.parts(record)
    one = of_run(record, test)
    other = Run("a", 3, spoiled(record, fitting), test, one.policies, holdout=HALF)
    (found, table), (founds, tables) = chosen(one), chosen(other)
    pd.testing.assert_frame_equal(table, tables)
    for key, values in found.items():
        for value, same in zip(values, founds[key]):
            np.testing.assert_array_equal(value, same)
    changed = of_run(other.validation, test)
    assert not chosen(changed)[1].equals(table)  # it does change the fit


def test_thresholds_are_those_of_the_part_that_chooses():
    record, test = made("validation"), made("test")
    run = of_run(record, test)
    _, choosing = split_record(record, 0.5, 3)
    table = chosen(run)[1].query("choice == 'validation'").set_index(["policy", "target"])
    for label, policy in run.policies.items():
        threshold = choose_threshold(policy, choosing, accuracy=0.6)
        (right,), _ = outcomes(policy, test, [threshold])
        assert table.loc[(label, 0.6), "accuracy"] == right.mean()
        shared = [choose_threshold(policy, choosing, accuracy=accuracy_without_loss(choosing, drop)) for drop in DROPS]
        leave = answering_exits(policy, test, shared)[0]
        np.testing.assert_array_equal(match([run])["a", label].exits[: len(DROPS), 0], leave)
    small = Run("s", 3, made("validation", "s"), made("test", "s"), holdout=HALF)
    (row,) = (
        pairs([run, small], [("s", "a")], Bootstrap.draw(N, 0, 0))
        .query("policy == 'pcee' and match == 'equal accuracy'")
        .itertuples()
    )
    full = HALF.parts(small.validation)[1].correct[:, -1].mean()
    threshold = choose_threshold(run.policies["pcee"], choosing, accuracy=full)
    assert row.large_accuracy == outcomes(run.policies["pcee"], test, [threshold])[0].mean()


def test_all_samples_do_both_with_a_share_of_1():
    record, test = made("validation"), made("test")
    run = of_run(record, test, Holdout())
    former = Run("a", 3, record, test, {k: p.fit(record) for k, p in policies().items()})
    assert run.fitting is run.choosing is record
    pd.testing.assert_frame_equal(chosen(run)[1], chosen(former)[1])


# Files and commands


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for split in ("validation", "test"):
        made(split).save(f"{split}.safetensors")
    return tmp_path


def test_the_file_of_policies_says_what_is_held_out(folder, run):
    assert run("calibrate validation.safetensors --policy pcee --fit-share 0.4 --out p")[0] == 0
    record = ExitRecord.load("validation.safetensors")
    fitting, choosing = split_record(record, 0.4, 3)  # the seed of the record
    fitted, about = load_policies("p")
    assert about == record.metadata | {"holdout": {"fit_share": 0.4, "seed": 3}}
    np.testing.assert_array_equal(fitted["pcee"].signal(record), make_policy("pcee").fit(fitting).signal(record))
    (loaded,) = load_runs(["p", "validation.safetensors", "test.safetensors"])
    assert loaded.holdout == Holdout(0.4, 3)
    np.testing.assert_array_equal(loaded.choosing.index, choosing.index)
    np.testing.assert_array_equal(choosing_part(about, record).index, choosing.index)
    other = ExitRecord(record.logits, record.labels, record.cost, metadata={**record.metadata, "seed": 4})
    assert choosing_part(about, other) is other  # of another run
    assert load_fitted("p", record)[1].n_samples == 120  # no warning: these are other samples than those of the fit
    result = certify(make_policy("pcee").fit(fitting), choosing, level=0.6)
    assert run("certify validation.safetensors --policies p --level 0.6 --out c.csv")[0] == 0
    row = pd.read_csv("c.csv").iloc[0]
    assert (row.threshold, row.n_samples) == (result.threshold, 120)
    assert run("evaluate --policies p --validation validation.safetensors --test test.safetensors --level 0.6"
               " --out e.csv")[0] == 0  # fmt: skip
    assert pd.read_csv("e.csv").threshold[0] == result.threshold


def test_a_share_of_1_writes_the_former_file(folder, run):
    assert run("calibrate validation.safetensors --policy pcee --policy confidence --fit-share 1 --out p")[0] == 0
    record = ExitRecord.load("validation.safetensors")
    former = {"pcee": make_policy("pcee").fit(record), "confidence": make_policy("confidence").fit(record)}
    save_policies(former, "former", record.metadata)
    assert (folder / "p").read_bytes() == (folder / "former").read_bytes()


def test_what_certify_fits_is_held_out_by_others(folder, run):
    line = "certify validation.safetensors --policy pcee --fit-share 0.3 --seed 8 --level 0.6 --policies-out p"
    assert run(line)[0] == 0
    (loaded,) = load_runs(["p", "validation.safetensors", "test.safetensors"])
    assert loaded.holdout == Holdout(0.3, 8)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--fit-share 0", "--fit-share"),
        ("--fit-share 1.2", "--fit-share"),
        (
            "--fit-share 0.99",
            "fit_share is 0.99, so that 198 of 200 validation samples are for fitting and 2 for choosing",
        ),
    ],
)
def test_commands_that_are_refused(folder, run, line, message):
    code, _, error = run(f"calibrate validation.safetensors --policy pcee {line} --out p")
    assert code != 0
    assert message in error
    assert not (folder / "p").exists()


# Cascades


def models(spoil=None):
    """Return runs of two models, of which a part of the validation samples is spoiled."""
    runs = []
    for system in ("a", "bb"):
        record = made("validation", system, exits=1)
        if spoil is not None:
            record = spoiled(record, HALF.parts(record)[spoil])
        runs.append(Run(system, 3, record, made("test", system, exits=1), holdout=HALF))
    return runs


def found(runs, **variants):
    return search_zoo(runs, variants, [(0.3, 0.5)], 0.005, 100)


def test_cascades_are_chosen_on_samples_that_fit_no_temperature():
    both = {"plain": Variant(), "scaled": Variant(temperature=True), "weighted": Variant(ensemble="accuracy_weighted")}
    whole, no_fit = found(models(), **both), found(models(0), **both)
    pd.testing.assert_frame_equal(
        whole.searched["plain"][0].relations, no_fit.searched["plain"][0].relations
    )  # the samples of the fit do not choose
    settings = cheapest(found(models(), scaled=both["scaled"]), 0.0)
    fitted = {run.system: fit_temperatures(run.fitting).tolist() for run in models()}
    splits = whole.searched["scaled"][0].splits["validation"].zoo
    assert splits.n_samples == N // 2
    if settings.combined.temperatures is not None:
        assert [list(its) for its in settings.combined.temperatures] == [fitted[stage] for stage in settings.stages]
    np.testing.assert_array_equal(
        found(models(1), **both).searched["scaled"][0].splits["test"].zoo.confidence,
        whole.searched["scaled"][0].splits["test"].zoo.confidence,
    )  # and those that choose fit no temperature


def test_all_samples_choose_cascades_that_learn_nothing():
    zoo = found(models(), plain=Variant()).searched["plain"][0].splits["validation"].zoo
    assert zoo.n_samples == N
