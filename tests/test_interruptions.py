"""What goes wrong with a study: kills, two runs at once, full disks, damaged files. Nothing is silently wrong then."""

import fcntl
import os
import pickle
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from checkout import ENVIRONMENT, WHOLE, Checkout
from kill_loop import TOLD, differences, half_done, run_and_kill
from offramp import ExitRecord
from offramp._io.arrays import open_arrays
from offramp._io.tables import read_table, write_table
from offramp._io.writing import whole_file, write_text
from offramp.cli import main
from offramp.datasets import load_dataset
from offramp.datasets.splits import load_splits
from offramp.evaluation.exits import exit_table

SPLITS = "artifacts/tiny/data/splits.csv"
WEIGHTS = "artifacts/tiny/train/net-small-s0.safetensors"
HISTORY = "artifacts/tiny/train/net-small-s0.csv"


@pytest.fixture
def study(finished, tmp_path, monkeypatch):
    """A copy of the finished study, and this process in it."""
    copy = finished.copy(tmp_path / "study")
    monkeypatch.chdir(copy.folder)
    return copy


@pytest.fixture
def offramp(monkeypatch, capsys):
    """Calls `offramp LINE` in this process, and gives the line that it failed with; "" if it did not."""

    def call(line):
        monkeypatch.setattr(sys, "argv", ["offramp", *line.split()])
        try:
            main()
        except SystemExit as stop:
            return str(stop.code or "")
        finally:
            capsys.readouterr()
        return ""

    return call


def wait_for(condition):
    end = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < end, "waited for 5 minutes"
        time.sleep(0.05)


@contextmanager
def started(study, *arguments):
    """Snakemake, in a process group of its own, which does not outlive the block."""
    process = subprocess.Popen(
        ["snakemake", "--nocolor", *arguments],
        cwd=study.folder,
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # a background shell ignores it
    )
    try:
        yield process
    finally:
        with_group(process, signal.SIGKILL)
        process.wait()


def with_group(process, number):
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return False
    return True


def said(done):
    return " ".join((done.stdout + done.stderr).split())


# Killed


# An output of each way of writing: weights, records and policies on the way to a curve, and a table and figure of many.
# The nightly test below makes all outputs.
MADE = (
    "artifacts/tiny/evaluate/targets.parquet",
    "reports/tiny/curves/net-small-s0.parquet",
    "reports/tiny/figures/control.png",
    "reports/tiny/tables/control.csv",
)


@pytest.mark.xdist_group("kill")
def test_a_study_killed_once_on_one_core_ends_as_on_two_undisturbed(finished, tmp_path):
    """One model is trained again, and all that is made of it follows."""
    study, undisturbed = finished.copy(tmp_path / "study"), finished.artifacts()
    for name in undisturbed:
        if ("/net-small-" in name and "/test-noise-" not in name) or name in MADE:
            (study.folder / name).unlink()
    kills = list(run_and_kill(study, 1, random.Random(), longest=9, cores=1, targets=MADE))
    assert kills
    assert differences(study, undisturbed, MADE) == [], "\n".join(map(str, kills))


@pytest.mark.nightly
@pytest.mark.xdist_group("kill")
def test_killed_again_and_again_a_study_ends_as_if_it_were_not(finished, tmp_path):
    """From its first job on."""
    study = Checkout(tmp_path)
    study.write(WHOLE)
    kills = list(run_and_kill(study, 5, random.Random(), longest=60, cores=1))
    assert kills
    assert differences(study, finished.artifacts()) == [], "\n".join(map(str, kills))


@pytest.mark.nightly
def test_a_job_that_outlives_its_snakemake_keeps_others_from_its_files(study):
    """Only the main process is killed: the training goes on, under settings that may no longer be those."""
    undisturbed = {name: study.artifacts()[name] for name in (WEIGHTS, HISTORY)}
    study.write({**WHOLE, "training": {**WHOLE["training"], "epochs": 60}})
    with started(study, "--cores", "1", WEIGHTS) as process:
        wait_for((study.folder / f"{WEIGHTS}.checkpoint").exists)
        process.kill()
        process.wait()
        assert with_group(process, signal.SIGSTOP)  # the orphan is there; it waits, so that this is no race
        study.write(WHOLE)
        locked = study.run("--cores", "1", WEIGHTS)
        assert locked.returncode != 0
        assert TOLD in said(locked)
        assert study.run("--unlock").returncode == 0
        again = study.run("--cores", "1", WEIGHTS)
        assert again.returncode != 0
        assert "net-small-s0.csv: another process is writing it; wait until that has ended, or end it" in said(again)
    done = study.run("--cores", "1", WEIGHTS)
    assert done.returncode == 0, done.stderr
    assert {name: study.artifacts()[name] for name in (WEIGHTS, HISTORY)} == undisturbed
    assert half_done(study) == ["net-small-s0.safetensors.checkpoint.old"]  # that of other settings, set aside


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_by_hand_it_leaves_no_lock(study, number):
    os.unlink(WEIGHTS)
    with started(study, "--cores", "1", WEIGHTS) as process:
        wait_for(lambda: (study.folder / "artifacts/tiny/train/.net-small-s0.safetensors.partial").exists())
        with_group(process, number)
        assert process.wait() != 0
    assert list((study.folder / ".snakemake/locks").glob("*")) == []


@contextmanager
def locked(study):
    """A Snakemake that has begun and stands still inside the block; then it ends well."""
    os.unlink("reports/tiny/index.html")
    with started(study, "--cores", "1") as process:
        wait_for(lambda: any((study.folder / ".snakemake/locks").glob("*")))
        with_group(process, signal.SIGSTOP)
        yield
        with_group(process, signal.SIGCONT)
        assert process.wait() == 0


@pytest.mark.nightly
def test_of_two_at_once_the_second_is_told_and_the_first_ends_well(study):
    undisturbed = study.artifacts()
    with locked(study):
        second = study.run("--cores", "1")
        assert second.returncode != 0
        assert "Directory cannot be locked" in said(second)
    assert differences(study, undisturbed) == []


@pytest.mark.nightly
def test_dvc_beside_a_running_snakemake_is_told_and_works_afterwards(study):
    pytest.importorskip("dvc", reason="DVC is not installed: pip install -e .[versions]")
    assert study.call("git", "init", "--quiet").returncode == 0
    undisturbed = study.artifacts()
    with locked(study):
        beside = study.call("dvc", "repro", "--single-item", "report")
        assert beside.returncode != 0
        assert "Directory cannot be locked" in said(beside)
    done = study.call("dvc", "repro", "--single-item", "report")
    assert done.returncode == 0, said(done)
    assert {name: content for name, content in study.artifacts().items() if name in undisturbed} == undisturbed


# Two writers of one file


def writer(folder):
    """Another process that has begun to write a table there, and ends when told."""
    code = """
import sys
from offramp._io.writing import whole_file
with whole_file("table.csv") as partial:
    partial.write_text("a\\n" * 1000)
    print("begun", flush=True)
    sys.stdin.readline()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "begun\n"
    return process


def test_a_second_writer_is_refused_and_the_first_ones_file_is_whole(tmp_path):
    table = tmp_path / "table.csv"
    with writer(tmp_path) as first:
        with pytest.raises(ValueError, match=r"table\.csv: another process is writing it"):
            write_text(table, "b\n")
        first.communicate("\n")
    assert table.read_text() == "a\n" * 1000
    write_text(table, "b\n")
    assert (table.read_text(), os.listdir(tmp_path)) == ("b\n", ["table.csv"])


def test_a_killed_writer_is_in_nobodys_way(tmp_path):
    with writer(tmp_path) as first:
        first.kill()
    assert os.listdir(tmp_path) == [".table.csv.partial"]
    write_text(tmp_path / "table.csv", "b\n")
    assert ((tmp_path / "table.csv").read_text(), os.listdir(tmp_path)) == ("b\n", ["table.csv"])


def test_a_writer_that_comes_between_lock_and_name_takes_a_new_file(tmp_path, monkeypatch):
    """Who opened the temporary file just before it got its final name must not write to it."""
    table, lock = tmp_path / "table.csv", fcntl.flock

    def late(file, how):
        monkeypatch.undo()
        (tmp_path / ".table.csv.partial").replace(table)
        lock(file, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with whole_file(table) as partial:
        partial.write_text("second")
        assert table.read_text() == ""
    assert (table.read_text(), os.listdir(tmp_path)) == ("second", ["table.csv"])


def test_where_files_cannot_be_locked_they_are_written_all_the_same(tmp_path, monkeypatch):
    def unknown(file, how):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", unknown)
    write_text(tmp_path / "text", "a")
    assert os.listdir(tmp_path) == ["text"]


# Disk full

ABOUT = {"dataset": "d", "system": "s", "seed": 0}


@pytest.fixture
def records(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    chance = np.random.default_rng(0)
    outputs = {"logits": chance.normal(size=(400, 3, 4)), "labels": chance.integers(0, 4, 400), "cost": [1, 2, 4]}
    np.savez("outputs.npz", **outputs)
    for split in ("validation", "test"):
        record = ExitRecord(**outputs, metadata=ABOUT | {"split": split, "exit_parameters": [1, 2, 3]})
        record.save(split)
    write_table(exit_table(record, {}, 15).assign(**ABOUT), "exits.parquet")


WRITES = {
    "record": ("import outputs.npz made.safetensors", "made.safetensors"),
    "policies": ("calibrate validation --policy pcee-ws --out made.safetensors", "made.safetensors"),
    "Parquet": ("evaluate --policy oracle --test test --out made.parquet", "made.parquet"),
    "CSV": ("evaluate --policy oracle --test test --out made.csv", "made.csv"),
    "table": ("table exits exits.parquet --out made", "made.csv"),
    "figure": ("figure overconfidence test --out made", "made.pdf"),
}


@pytest.mark.parametrize(("line", "made"), WRITES.values(), ids=WRITES)
def test_a_full_disk_is_told_and_what_was_there_stays(records, offramp, line, made, tmp_path):
    (tmp_path / made).write_text("what was there")
    before = sorted(os.listdir())
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))  # bytes that a file may have
    try:
        failure = offramp(line)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert failure == f"offramp: error: {made}: not written (File too large); make room and run again"
    assert (tmp_path / made).read_text() == "what was there"
    assert sorted(os.listdir()) == before
    assert offramp(line) == ""
    assert (tmp_path / made).read_bytes() != b"what was there"


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 1 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("needs the right to mount a small disk")
    yield disk
    subprocess.run(["umount", disk], check=True)


MODEL = "msdnet:exits=2,channels=4,growth=2,growth_factors=[1,2],bottleneck_factors=[1,2],head_strides=[],head_pool=4"


def test_a_training_whose_disk_was_full_goes_on_from_its_checkpoint(finished, small_disk, offramp, tmp_path):
    def train(folder):
        return offramp(
            f"train --dataset digits:shift=1 --splits {finished.folder / SPLITS} --model {MODEL} --system net-small"
            f" --epochs 3 --batch-size 64 --out {folder}/w.safetensors --history {folder}/h.csv"
        )

    assert train(tmp_path / "calm") == ""
    weights = (tmp_path / "calm/w.safetensors").read_bytes()
    filler = small_disk / "filler"  # room for one checkpoint (weights and momenta) but not for two
    filler.write_bytes(bytes(shutil.disk_usage(small_disk).free - 3 * len(weights)))
    failure = train(small_disk)
    checkpoint = small_disk / "w.safetensors.checkpoint"
    assert failure == f"offramp: error: {checkpoint}: not written (No space left on device); make room and run again"
    assert sorted(os.listdir(small_disk)) == ["filler", checkpoint.name]
    first_epoch = open_arrays(checkpoint, "offramp-checkpoint/1")[2]["history"]
    assert len(first_epoch) == 1

    filler.unlink()
    assert train(small_disk) == ""
    assert (small_disk / "w.safetensors").read_bytes() == weights
    assert pd.read_csv(small_disk / "h.csv")["seconds"][0] == first_epoch[0]["seconds"]  # not trained again
    assert sorted(os.listdir(small_disk)) == ["h.csv", "w.safetensors"]


# Damaged files


def cut_in_half(content):
    return content[: len(content) // 2]


def lose_the_end(content):
    return content[:-20]


def lose_the_last_lines(content):
    return b"".join(content.splitlines(keepends=True)[:-3])


def flip(place):
    def flipped(content):
        at = int(place * (len(content) - 1))
        return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]

    return flipped


CUTS = [cut_in_half, lose_the_end]
FLIPS = [flip(place) for place in (0.3, 0.5, 0.7)]  # some may fall where nothing is read
RECORD = "artifacts/tiny/records/vit-s0"
POLICIES = "artifacts/tiny/calibrate/vit-s0.safetensors"
RUNS = ("net-small", "net-large", "vit")
CURVES = " ".join(
    f"reports/tiny/curves/{run}-s0.parquet artifacts/tiny/evaluate/{run}-s0/exits.parquet" for run in RUNS
)
REPORT = (
    "report reports/tiny/figures/control.png reports/tiny/tables/control.csv reports/tiny/tables/sensitivity.csv"
    " --title t --parameters reports/tiny/parameters.json --environment reports/tiny/environment.json"
    " --command c --out reports/tiny/again.html"
)
READS = {
    "weights": (WEIGHTS, f"record {WEIGHTS} --splits {SPLITS} --test out.safetensors"),
    "validation record": (f"{RECORD}/validation.safetensors", "calibrate {} --policy pcee --out out.safetensors"),
    "test record": (
        f"{RECORD}/test.safetensors",
        f"evaluate --policies {POLICIES} --test {{}} --out out.parquet --exits out-exits.parquet",
    ),
    "policies": (POLICIES, f"evaluate --policies {{}} --test {RECORD}/test.safetensors --out out.parquet"),
    "curve": ("reports/tiny/curves/vit-s0.parquet", f"figure control {CURVES} --out out"),
    "exits": ("artifacts/tiny/evaluate/vit-s0/exits.parquet", "table exits {} --out out"),
    "reliability": ("artifacts/tiny/calibrate/net-large-s0.parquet", "figure reliability {} --exit 1 --out out"),
    "targets": ("artifacts/tiny/evaluate/targets.parquet", "table targets {} --out out"),
    "pairs": ("artifacts/tiny/evaluate/pairs.parquet", "table equal-cost {} --out out"),
    "control": ("artifacts/tiny/evaluate/control.parquet", "table control {} --out out"),
    "speedup": ("artifacts/tiny/evaluate/speedup.parquet", "table speedup {} --out out"),
    "sensitivity": ("artifacts/tiny/evaluate/sensitivity.parquet", "table sensitivity {} --out out"),
    "figure": ("reports/tiny/figures/control.png", REPORT),
    "table": ("reports/tiny/tables/control.csv", REPORT),
}


def outputs():
    return {str(path): path.read_bytes() for path in [*Path().glob("out*"), *Path().glob("reports/tiny/again.html")]}


def read_arrays(path):
    _, arrays, about = open_arrays(path, "offramp-weights/1", "offramp-record/1", "offramp-policies/1")
    return {name: array.read() for name, array in arrays.items()}, about


FORMATS = {
    "weights": (WEIGHTS, read_arrays),
    "record": (f"{RECORD}/test.safetensors", read_arrays),
    "policies": (POLICIES, read_arrays),
    "curve": ("reports/tiny/curves/vit-s0.parquet", read_table),
    "targets": ("artifacts/tiny/evaluate/targets.parquet", read_table),
}


def attempt(read, path):
    """All that is read, and what was said against it; one of them is empty."""
    try:
        return pickle.dumps(read(path)), ""
    except ValueError as error:
        return b"", str(error)


@pytest.mark.parametrize(("name", "read"), FORMATS.values(), ids=FORMATS)
def test_a_flipped_bit_is_noticed_or_changes_nothing(study, name, read):
    path = study.folder / name
    whole, (undamaged, _) = path.read_bytes(), attempt(read, path)
    assert undamaged
    refused = 0
    for place in np.linspace(0, 1, 300):
        path.write_bytes(flip(place)(whole))
        content, message = attempt(read, path)
        if message:
            refused += 1
            assert message.startswith(f"{path}: ")
            assert "run again" in message
        else:
            assert content == undamaged
    assert refused > (200 if read is read_arrays else 100)  # a table has places that nobody reads


@pytest.mark.parametrize(("name", "line"), READS.values(), ids=READS)
def test_a_damaged_file_is_refused_or_changes_nothing(study, offramp, name, line):
    line = line.format(name)
    path = study.folder / name
    whole = path.read_bytes()
    assert offramp(line) == ""
    undamaged = outputs()
    assert undamaged
    refused = 0
    for damage in [*CUTS, *FLIPS, *([lose_the_last_lines] if path.suffix == ".csv" else [])]:
        for made in outputs():
            os.unlink(made)
        path.write_bytes(damage(whole))
        failure = offramp(line)
        if failure:
            refused += 1
            assert failure.startswith(f"offramp: error: {name}: ")
            assert "run again" in failure
            assert "\n" not in failure
            assert outputs() == {}
        else:
            assert outputs() == undamaged
    assert refused >= len(CUTS)


@pytest.mark.parametrize("train", ["", "--train 100"])
def test_splits_that_lost_a_line_or_a_digit_are_refused(offramp, tmp_path, train):
    path, digits = tmp_path / "splits.csv", load_dataset("digits")
    assert offramp(f"data digits --validation 300 --test 400 {train} --out {path}") == ""
    whole, splits = path.read_bytes(), load_splits(path, digits)
    assert set(splits["split"]) == {"train", "validation", "test"}
    for damage in [cut_in_half, lose_the_last_lines, *(flip(place) for place in np.linspace(0, 0.999, 100))]:
        path.write_bytes(damage(whole))
        with pytest.raises(ValueError, match=r"splits\.csv"):
            load_splits(path, digits)
    path.write_bytes(whole[:-1])  # the line break
    pd.testing.assert_frame_equal(load_splits(path, digits), splits)


def test_a_model_is_not_recorded_on_other_splits_than_its_own(study, offramp):
    assert offramp(f"data digits --validation 300 --test 900 --seed 1 --out {SPLITS}") == ""
    failure = offramp(f"record {WEIGHTS} --splits {SPLITS} --test out.safetensors")
    assert failure == f"offramp: error: {SPLITS}: not the splits that {WEIGHTS} was trained on; make both again"
    assert outputs() == {}


@pytest.mark.nightly
def test_snakemake_says_which_record_is_damaged_and_makes_it_again_once_it_is_deleted(study):
    undisturbed = study.artifacts()
    policies = POLICIES.replace("vit", "net-small")
    path = study.folder / "artifacts/tiny/records/net-small-s0/validation.safetensors"
    path.write_bytes(flip(0.99)(path.read_bytes()))
    stopped = study.run("--cores", "1", policies)
    assert stopped.returncode != 0
    assert "records/net-small-s0/validation.safetensors: " in said(stopped)
    assert "is damaged (checksum differs); delete it and run again" in said(stopped)
    path.unlink()
    done = study.run("--cores", "1", policies)
    assert done.returncode == 0, done.stderr
    assert study.artifacts() == undisturbed
