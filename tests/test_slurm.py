"""Studies on a Slurm cluster: a real one, on this machine alone, where it is installed."""

import os
import re
import shutil
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pandas as pd
import psutil
import pytest
import yaml

from checkout import ENVIRONMENT, ROOT, TINY, WHOLE, Checkout
from offramp._io.arrays import open_arrays
from offramp.training.checkpoints import CHECKPOINT

LOOPBACK = ROOT / "workflow" / "loopback_slurm.sh"
RULES = ROOT / "workflow" / "rules"
FOLDER = Path("/run/offramp-slurm")
PROFILE = "profiles/slurm"
PATIENCE = 3600  # seconds, after which a study that does not move is given up

# One model, trained long enough to be disturbed
LONG = {
    **TINY,
    "models": {"vit": TINY["models"]["vit"]},
    "training": {**TINY["training"], "epochs": 100},
    "comparison": {**TINY["comparison"], "pairs": []},
    "report": {"oracle": "vit", "reliability": "vit", "reliability_exits": [1]},
    "resources": {"train": {"mem_mb": 1500, "runtime": 10, "gpu": 1}},
}
WEIGHTS, HISTORY = "artifacts/tiny/train/vit-s0.safetensors", "artifacts/tiny/train/vit-s0.csv"


@pytest.fixture(scope="module")
def slurm():
    """Slurm, up."""
    missing = [name for name in ("munged", "slurmctld", "slurmd", "sbatch") if not shutil.which(name)]
    if missing:
        pytest.skip(f"Slurm is not installed (no {', '.join(missing)}): apt-get install slurm-wlm munge")
    if os.geteuid() != 0:
        pytest.skip("Slurm's daemons want root")
    settings = Path("/etc/slurm/slurm.conf")
    if (
        settings.exists()
        and LOOPBACK.name in settings.read_text()
        and subprocess.run(["pgrep", "slurmctld"]).returncode
    ):
        subprocess.run([LOOPBACK, "down"], check=True)  # left by tests that were killed
    if settings.exists():
        pytest.skip(f"this machine has a Slurm of its own: {settings}")
    up = subprocess.run([LOOPBACK, "up"], capture_output=True, text=True, check=False)
    assert up.returncode == 0, up.stderr
    yield
    subprocess.run([LOOPBACK, "down"], check=True)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Checkout:
    """The long training, done without Slurm."""
    checkout = Checkout(tmp_path_factory.mktemp("trained"))
    checkout.write(LONG)
    done = checkout.run("--cores", "2", "models")
    assert done.returncode == 0, done.stderr
    return checkout


def make_folder(path: Path) -> Path:
    path.mkdir()
    return path


class Run:
    """A study under way on Slurm."""

    def __init__(self, checkout: Checkout, *arguments: str, **environment: str):
        self.folder = checkout.folder
        self.log = checkout.folder / "run.log"
        command = ["snakemake", "--nocolor", *arguments]
        environment = {**ENVIRONMENT, **environment}
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, cwd=self.folder, env=environment, stdout=log, stderr=log)

    def until(self, happened):
        """Wait for something to be true of the study, and return it."""
        deadline = time.monotonic() + PATIENCE
        while not (found := happened()):
            assert self.process.poll() is None, f"ended too soon:\n{self.log.read_text()}"
            if time.monotonic() > deadline:
                self.process.kill()
                pytest.fail(f"waited {PATIENCE} s in vain:\n{self.log.read_text()}")
            time.sleep(0.1)
        return found

    def end(self) -> None:
        try:
            assert self.process.wait(PATIENCE) == 0, self.log.read_text()
        finally:
            self.process.kill()

    def name(self) -> str:
        """That of its jobs, as docs/running.md says to find it."""
        return re.search(r"SLURM run ID: (\S+)", self.log.read_text())[1]

    def epochs(self) -> list[dict]:
        """What the checkpoint says of the training so far."""
        path = self.folder / f"{WEIGHTS}.checkpoint"
        return open_arrays(path, CHECKPOINT)[2]["history"] if path.exists() else []


def queue(column: str, *options: str) -> list[str]:
    """squeue's column of the jobs."""
    command = ["squeue", "--noheader", "--sort=i", f"--Format={column}:200", *options]
    return subprocess.check_output(command, text=True).split()


def kill_node(run: Run) -> None:
    """The node daemon and all that runs under it end at once, as with the power; Slurm misses it; it comes back."""
    daemon = psutil.Process(int((FOLDER / "slurmd.pid").read_text()))
    steps = [process for process in psutil.process_iter() if process.name() == "slurmstepd"]
    for process in [daemon, *steps, *(child for step in steps for child in step.children(recursive=True))]:
        with suppress(psutil.NoSuchProcess):  # ended with another one
            process.kill()
    run.until(lambda: "down" in subprocess.check_output(["sinfo", "--noheader", "--format=%T"], text=True))
    subprocess.run([LOOPBACK, "daemon"], check=True)


def test_the_profile_keeps_what_the_default_one_sets():
    default, slurm = (
        yaml.safe_load((ROOT / "profiles" / name / "config.yaml").read_text()) for name in ("default", "slurm")
    )
    default.pop("cores", None)  # of this machine, where no job runs
    assert {key: slurm.get(key) for key in default} == default


@pytest.mark.parametrize("how", ["option", "environment"])
def test_without_a_controller_a_dry_run_tells_what_jobs_ask_for(tmp_path, how):
    study = Checkout(tmp_path)
    study.write({**TINY, "resources": {"train": {"mem_mb": 30000, "runtime": 2880, "gpu": 2}}})
    options = ["--workflow-profile", PROFILE] if how == "option" else []
    environment = {} if how == "option" else {"SNAKEMAKE_PROFILE": PROFILE}
    dry = study.call("snakemake", "--nocolor", *options, "-n", "--forceall", "--attempt", "2", **environment)
    assert dry.returncode == 0, dry.stderr
    if how == "option":
        assert f"Using workflow specific profile {PROFILE}" in dry.stdout + dry.stderr
    jobs = dict(re.findall(r"\n *rule (\w+):.*?resources: (.*?)\n", dry.stdout + dry.stderr, re.DOTALL))
    assert {"mem_mb=60000", "runtime=2880", "gpu=2"} <= set(jobs["train"].split(", "))  # of the second attempt
    assert {"mem_mb=8000", "runtime=30"} <= set(jobs["compare"].split(", "))
    assert {"mem_mb=4000", "runtime=5", "lane=1"} <= set(jobs["figure"].split(", "))


def test_small_jobs_are_in_groups():
    """A rule that a group lacks would be a Slurm job of two seconds."""
    groups = yaml.safe_load((ROOT / "profiles" / "slurm" / "config.yaml").read_text())["groups"]
    rules = re.findall(r"^rule (\w+):(.*?)(?=^rule|\Z)", (RULES / "report.smk").read_text(), re.DOTALL | re.MULTILINE)
    assert {name for name, body in rules if "shell:" in body} == {rule for rule in groups if groups[rule] == "report"}


def test_other_resources_make_nothing_stale(finished, tmp_path):
    study = finished.copy(tmp_path / "study")
    study.write({**WHOLE, "resources": {name: {"mem_mb": 9000, "runtime": 9} for name in ("data", "train", "compare")}})
    assert study.would_run() == {}


def test_resources_of_an_unknown_rule_are_refused(tmp_path):
    study = Checkout(tmp_path)
    study.write({**TINY, "resources": {"trian": {"gpu": 1}}})
    refused = study.run("-n")
    assert refused.returncode == 1
    assert "studies.tiny.resources is 'trian': expected one of data, train" in refused.stdout + refused.stderr


@pytest.mark.nightly
@pytest.mark.slurm
def test_a_study_ends_with_the_same_bytes_though_its_node_died(slurm, tmp_path):
    calm, study = (Checkout(make_folder(tmp_path / name)) for name in ("calm", "study"))
    done = calm.run("--cores", "2")
    assert done.returncode == 0, done.stderr
    run = Run(study, "--workflow-profile", PROFILE, "--profile", str(FOLDER / "profile"))
    run.until(lambda: (study.folder / WEIGHTS).exists() and queue("jobid", "--states=running"))
    kill_node(run)
    run.end()
    assert study.artifacts() == calm.artifacts()
    assert study.would_run() == {}
    jobs = sorted(comment.split("_")[1] for comment in queue("comment", "--states=all", f"--name={run.name()}"))
    assert jobs == ["compare", "data", "policies", *["record"] * 3, "report", "sensitivity", *["train"] * 3]


def cancelled(run: Run) -> None:
    job = run.until(lambda: queue("jobid", "--states=running"))
    subprocess.run(["scancel", *job], check=True)


def snakemake_died(run: Run) -> None:
    run.process.kill()  # its jobs go on
    run.process.wait()
    subprocess.run(["scancel", f"--name={run.name()}"], check=True)


@pytest.mark.nightly
@pytest.mark.slurm
@pytest.mark.parametrize(
    ("disturb", "memory"), [(cancelled, ["1500M", "3000M"]), (kill_node, ["1500M"]), (snakemake_died, ["1500M"])]
)
def test_a_training_goes_on_from_its_last_epoch(slurm, trained, tmp_path, disturb, memory):
    study = trained.copy(tmp_path / "study")
    for file in (WEIGHTS, HISTORY):
        (study.folder / file).unlink()
    profiles = {"SNAKEMAKE_PROFILE": f"[{PROFILE},{FOLDER / 'profile'}]"}
    run = Run(study, "models", **profiles)
    run.until(lambda: len(run.epochs()) >= 3)
    disturb(run)
    done = run.epochs()
    if disturb is snakemake_died:
        assert study.run("--unlock", "models").returncode == 0
        run = Run(study, "models", **profiles)
    run.end()
    assert (study.folder / WEIGHTS).read_bytes() == (trained.folder / WEIGHTS).read_bytes()
    history = pd.read_csv(study.folder / HISTORY)
    assert len(history) == LONG["training"]["epochs"]
    assert list(history["seconds"][: len(done)]) == [epoch["seconds"] for epoch in done]  # they were not run again
    assert queue("minmemory", "--states=all", f"--name={run.name()}") == memory
    assert set(queue("tres-per-job", "--states=all", f"--name={run.name()}")) == {"gres:gpu:1"}
