"""DVC and Snakemake: the same pipeline, the same idea of what is stale, and nothing to run after a pull."""

import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import chdir
from pathlib import Path

import pytest
import yaml

import listing
from checkout import CAPTIONED, ENVIRONMENT, ROOT, SHARED, STORED, WHOLE, Checkout
from offramp.study.sources import sources

pytest.importorskip("dvc", reason="DVC is not installed: pip install -e .[versions]")

STAGES = ["data", "train", "record", "calibrate", "evaluate", "report"]
NOTHING = "Nothing to be done"
IN_GIT = {"GIT_AUTHOR_NAME": "t", "GIT_AUTHOR_EMAIL": "t@t", "GIT_COMMITTER_NAME": "t", "GIT_COMMITTER_EMAIL": "t@t"}


def said(done: subprocess.CompletedProcess) -> str:
    return done.stdout + done.stderr


# Figures, tables and the page take most of a study's time, and what they show does not matter here: what is written
# tells the command and its files apart. All other verbs do what they always do.
STAND_IN = f"""#!{sys.executable} -I
import hashlib, os, sys
verb, *words = sys.argv[1:]
suffixes = {{"figure": [".pdf", ".png"], "table": [".csv", ".md", ".tex"], "report": [""]}}
if verb not in suffixes:
    os.execv({sys.executable!r}, [{sys.executable!r}, "-m", "offramp", verb, *words])
read = [open(word, "rb").read() for word in words if os.path.isfile(word)]
content = hashlib.sha256(b"".join([repr(words).encode(), *read])).hexdigest()
for suffix in suffixes[verb]:
    with open(words[words.index("--out") + 1] + suffix, "w") as file:
        file.write(content)
"""


@pytest.fixture(scope="module", autouse=True)
def stand_in(finished, tmp_path_factory):
    """The stand-in for `offramp`, found before the command itself, but not by the study that all tests share."""
    folder = tmp_path_factory.mktemp("bin")
    (folder / "offramp").write_text(STAND_IN)
    (folder / "offramp").chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ENVIRONMENT, "PATH", f"{folder}{os.pathsep}{ENVIRONMENT['PATH']}")
        yield


def do(checkout: Checkout, *command: str, **environment: str) -> str:
    """What the command says; it must succeed."""
    done = checkout.call(*command, **IN_GIT, **environment)
    assert done.returncode == 0, said(done)
    return said(done)


def commit(checkout: Checkout) -> None:
    do(checkout, "git", "add", "--all")
    do(checkout, "git", "commit", "--quiet", "--message", "as it is")


def clone(checkout: Checkout, folder: Path) -> Checkout:
    subprocess.run(["git", "clone", "--quiet", checkout.folder, folder], check=True)
    return Checkout.at(folder)


@pytest.fixture(scope="module")
def versioned(finished, tmp_path_factory) -> Checkout:
    """The finished study in git and DVC, pushed to a folder. Tests work on clones or copies."""
    folder = tmp_path_factory.mktemp("versioned")
    checkout = finished.copy(folder / "study")
    do(checkout, "git", "init", "--quiet")
    commit(checkout)
    assert do(checkout, "dvc", "repro").count(NOTHING) == len(STAGES)  # what Snakemake had made is taken as it is
    do(checkout, "dvc", "remote", "add", "--default", "store", str(folder / "store"))
    do(checkout, "dvc", "push")
    commit(checkout)
    return checkout


# What each parameter is changed to. All of the study's are here, by themselves or with what they belong to.
CHANGES = {
    "policies.confidence.policy": "isotonic",
    "policies.temperature": {"policy": "isotonic"},
    "policies.pcee.policy": "beem-a",
    "policies.pcee.bins": 20,
    "policies.pcee-ws.window": 60,
    "policies.pcee-ws.policy": "pcee",
    "policies.oracle.policy": "random",
    "deltas": {"oracle": {"start": 0, "stop": 1, "step": 1}},
    "duels": [["pcee", "confidence"]],
    "notes": ["A note."],
    "dataset.name": "fashion_mnist",
    "dataset.shift": 2,
    "splits.validation": 310,
    "splits.test": 800,
    "splits.seed": 1,
    "seeds": [0, 1],
    "training.epochs": 3,
    "training.batch_size": 32,
    "training.learning_rate": 0.2,
    "training.threads": 2,
    "training.portable": False,
    "models.net-small.exits": 3,
    "models.net-small.channels": 6,
    "models.net-small.growth": 3,
    "models.net-small.growth_factors": [1, 1],
    "models.net-small.bottleneck_factors": [1, 1],
    "models.net-small.head_strides": [1],
    "models.net-small.head_pool": 2,
    "models.net-small.model": "vit",
    "models.net-large": {"model": "vit", "depth": 3},
    "models.vit.model": "encoder",
    "models.vit.patch_size": 2,
    "models.vit.embed_dim": 32,
    "models.vit.depth": 3,
    "models.vit.num_heads": 4,
    "models.vit.training.optimizer": "sgd",
    "models.vit.training.learning_rate": 0.004,
    "models.resnet-4.model": "huggingface",
    "models.resnet-4.backbone": "lcnet_035",
    "models.resnet-4.image_size": 5,
    "models.resnet-4.training.epochs": 5,
    "models.resnet-4.training.batch_size": 16,
    "models.resnet-4.training.optimizer": "sgd",
    "models.resnet-4.training.learning_rate": 0.001,
    "models.resnet-8": {"model": "timm", "backbone": "test_vit"},
    "models.resnet-12": {"model": "timm", "backbone": "test_vit"},
    "cascades.two": ["resnet-4", "resnet-8"],
    "cascades.three": ["resnet-4", "resnet-8"],
    "routers": {"either": ["resnet-4", "resnet-12"]},
    "own_policies": {"mine": {"policy": "random"}},
    "calibration.bins": 12,
    "calibration.fit_share": 1,
    "delta.start": 0.3,
    "delta.stop": 0.9,
    "delta.step": 0.1,
    "comparison.targets": [0.6],
    "comparison.pairs": [["net-large", "net-small"]],
    "comparison.baseline": "pcee",
    "comparison.level": 0.05,
    "comparison.resamples": 300,
    "comparison.splits": 3,
    "comparison.samples": [50],
    "comparison.duels": [["pcee-ws", "confidence"]],
    "sensitivity.draws": 3,
    "sensitivity.factors.map fitted on": [{"setting": "all", "policy": "pcee-ws"}],
    "sensitivity.factors.samples": [
        {"setting": 300, "policy": "pcee"},
        {"setting": 50, "policy": "pcee", "validation": 50},
    ],
    "search.bands": [[0.3, 0.5]],
    "search.step": 0.1,
    "search.variants.max-softmax": {"measure": "entropy"},
    "search.variants.margin.measure": "entropy",
    "search.variants.geometric.ensemble": "mean_logit",
    "times.systems": ["vit"],
    "times.batch_sizes": [1, 9],
    "shifts.systems": ["vit"],
    "shifts.kinds": ["blur"],
    "shifts.severities": [1, 4],
    "accelerate.models.resnet-4": ["resnet-8"],
    "accelerate.joint": ["vit"],
    "accelerate.levels": [0.3],
    "accelerate.draws": 3,
    "captions": CAPTIONED["captions"],
    "report.oracle": "net-large",
    "report.reliability": "net-small",
    "report.reliability_exits": [1, 2],
}
# A change that keeps the file as it should be: what must change with it, or in its place
INSTEAD = {
    "policies.pcee.policy": {"policies.pcee": {"policy": "beem-a"}, "sensitivity": {}},
    "policies.pcee-ws.policy": {"policies.pcee-ws": {"policy": "pcee", "bins": 5}},
    "models.net-small.model": {"models.net-small": {"model": "vit", "depth": 1}},
    "models.vit.model": {"models.vit": {"model": "msdnet", "exits": 2}},
    "models.resnet-4.model": {"models.resnet-4": {"model": "huggingface", "backbone": "minilm-l6"}},
    "captions": {key: value for key, value in CAPTIONED.items() if value != WHOLE[key]},  # another kind of study
    "resources": {"resources": {"train": {"mem_mb": 5000}}},  # nothing that makes a result
}


def leaves(tree: dict, path: str = "") -> list[str]:
    found = []
    for key, value in tree.items():
        found += leaves(value, f"{path}{key}.") if isinstance(value, dict) and value else [f"{path}{key}"]
    return found


def test_every_parameter_is_changed_in_turn():
    covered = [f"{key}." for key in CHANGES]
    missing = [leaf for leaf in leaves({**SHARED, **WHOLE}) if not any(f"{leaf}.".startswith(key) for key in covered)]
    assert missing == []


@pytest.fixture(scope="module")
def untouched(versioned, tmp_path_factory) -> Checkout:
    """A copy whose parameters are changed and put back."""
    return versioned.copy(tmp_path_factory.mktemp("parameters") / "study")


STAGE_OF = {
    rule: path.stem
    for path in ROOT.joinpath("workflow/rules").glob("*.smk")
    for rule in re.findall(r"^rule (\w+):", path.read_text(), re.MULTILINE)
}


def changed(change: str) -> dict:
    """All settings, with this change."""
    return with_changes(WHOLE, INSTEAD.get(change, {change: CHANGES.get(change)}))


def with_changes(study: dict, changes: dict) -> dict:
    """All settings with this study, and with changes in it."""
    params = json.loads(json.dumps({**SHARED, **study}))
    for path, value in changes.items():
        *way, key = path.split(".")
        entry = params
        for part in way:
            entry = entry[part]
        assert entry.get(key) != value
        entry[key] = value
    return params


def write(checkout: Checkout, params: dict) -> None:
    checkout.write({k: v for k, v in params.items() if k not in SHARED}, {k: params[k] for k in SHARED})


def stages_of_snakemake(folder: Path) -> set[str]:
    """The stages of the rules that `snakemake -n` lists."""
    return {STAGE_OF[job.rule] for job in listing.jobs(folder)}


def stages_of_dvc(folder: Path) -> set[str]:
    """The stages that `dvc repro` would run: those that changed, and what comes after them."""
    from dvc.repo import Repo
    from networkx import ancestors

    with Repo(folder) as repo:
        graph, status = repo.index.graph, repo.status()
        changed = [stage for stage in graph if stage.addressing in status]
        after = {stage for one in changed for stage in [one, *ancestors(graph, one)]}
    return {stage.name for stage in after} - {"provenance"}


@pytest.mark.parametrize(
    "change",
    [
        "policies.pcee.bins",
        "dataset.shift",
        "seeds",
        "training.epochs",
        "models.net-small.channels",
        "cascades.two",
        "comparison.targets",
        "report.oracle",
        "resources",
    ],
)
def test_both_call_the_same_stages_stale(untouched, change):
    """As they say of the files that are there."""
    write(untouched, changed(change))
    try:
        of_dvc, of_snakemake = stages_of_dvc(untouched.folder), stages_of_snakemake(untouched.folder)
    finally:
        untouched.write(WHOLE)
    assert of_dvc == of_snakemake
    assert bool(of_dvc) == (change != "resources")


def stages_of_other_jobs(before: list[listing.Job], after: list[listing.Job]) -> set[str]:
    """The stages of the jobs that have another command or other inputs than before, and of those that come after them.
    What Snakemake calls stale, where all files are there."""
    known = {job.output: job for job in before}
    stale, stages = set(), set()
    for job in after:
        if known.get(job.output) != job or stale.intersection(job.input):
            stale.update(job.output)
            stages.add(STAGE_OF[job.rule])
    return stages


def stages_that_watch(folder: Path, before: dict, after: dict) -> set[str]:
    """The stages of dvc.yaml that name a setting which differs, and those that come after them."""

    def setting(params, path):
        for part in path.removeprefix("studies.${study}.").split("."):
            params = params.get(part)
        return params

    stages = yaml.safe_load((folder / "dvc.yaml").read_text())["stages"]
    stale, found = set(), set()
    for name in STAGES:
        stage = stages[name]
        if any(setting(before, path) != setting(after, path) for path in stage["params"]) or stale & {*stage["deps"]}:
            found.add(name)
            stale.update(out for outs in stage["outs"] for out in outs)
    return found


@pytest.fixture(scope="module")
def empty(tmp_path_factory) -> Checkout:
    """A checkout in which nothing was run."""
    checkout = Checkout(tmp_path_factory.mktemp("empty"))
    checkout.write(WHOLE)
    with chdir(checkout.folder):  # once for all forks: which imports there are is found out and kept
        package = Path("src/offramp")
        files = [path.relative_to(package).with_suffix("") for path in package.rglob("*.py")]
        sources(*(".".join(file.parts) for file in files if file.name not in ("__init__", "__main__")))
    return checkout


@pytest.fixture(scope="module")
def all_jobs(empty) -> list[listing.Job]:
    return listing.jobs(empty.folder, "--forceall")


def one_of_each(changes):
    """The first change of each setting of a study, and the others for the long tests only: each needs a dry run."""
    first = {change.split(".")[0]: change for change in reversed(changes)}
    return [
        change if change in first.values() else pytest.param(change, marks=pytest.mark.nightly) for change in changes
    ]


@pytest.mark.parametrize("change", one_of_each([*CHANGES, "resources"]))
def test_each_parameter_concerns_the_same_stages_in_both(empty, all_jobs, change):
    params = changed(change)
    write(empty, params)
    of_snakemake = stages_of_other_jobs(all_jobs, listing.jobs(empty.folder, "--forceall"))
    assert stages_that_watch(empty.folder, {**SHARED, **WHOLE}, params) == of_snakemake
    assert bool(of_snakemake) == (change != "resources")


def test_nothing_is_stale(untouched):
    assert stages_of_dvc(untouched.folder) == stages_of_snakemake(untouched.folder) == set()


@pytest.fixture(scope="module")
def jobs_of_outputs(tmp_path_factory) -> list[listing.Job]:
    """The jobs of a study of stored outputs."""
    checkout = Checkout(tmp_path_factory.mktemp("outputs"))
    checkout.write(STORED)
    return listing.jobs(checkout.folder, "--forceall")


@pytest.fixture(scope="module")
def captioning(tmp_path_factory) -> Checkout:
    """A checkout with a study of captions, in which nothing was run."""
    checkout = Checkout(tmp_path_factory.mktemp("captions"))
    checkout.write(CAPTIONED)
    return checkout


@pytest.fixture(scope="module")
def jobs_of_captions(captioning) -> list[listing.Job]:
    return listing.jobs(captioning.folder, "--forceall")


@pytest.mark.parametrize(
    ("path", "value"), [("dataset.train", 650), ("training.exit_epochs", 2), ("captions.calm.level", 0.4)]
)
def test_each_parameter_of_captions_concerns_the_same_stages_in_both(captioning, jobs_of_captions, path, value):
    params = with_changes(CAPTIONED, {path: value})
    write(captioning, params)
    of_snakemake = stages_of_other_jobs(jobs_of_captions, listing.jobs(captioning.folder, "--forceall"))
    assert stages_that_watch(captioning.folder, {**SHARED, **CAPTIONED}, params) == of_snakemake != set()


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_watches_the_code_that_its_jobs_read(all_jobs, jobs_of_outputs, jobs_of_captions, stage):
    watched = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"][stage]["deps"]
    jobs = [*all_jobs, *jobs_of_outputs, *jobs_of_captions]
    read = {file for job in jobs if STAGE_OF[job.rule] == stage for file in job.input if file.startswith("src/")}
    code = {dep for dep in watched if dep.startswith("src/")}
    assert {file for file in read if not any(f"{file}/".startswith(f"{dep}/") for dep in code)} == set()
    assert {dep for dep in code if not any(f"{file}/".startswith(f"{dep}/") for file in read)} == set()  # nor others
    assert set(watched) - code >= {"workflow/rules/common.smk", f"workflow/rules/{stage}.smk"}


def test_an_edit_of_code_runs_the_same_in_both(untouched):
    for module in ("policies/pcee", "training/loop", "reports/figures/control", "comparison/claims", "models/vit"):
        source = untouched.folder / f"src/offramp/{module}.py"
        text = source.read_text()
        source.write_text(text + "\n# an edit\n")
        try:
            assert stages_of_dvc(untouched.folder) == stages_of_snakemake(untouched.folder) != set()
        finally:
            source.write_text(text)


def test_a_clone_that_pulled_has_nothing_to_run(versioned, tmp_path):
    twin = clone(versioned, tmp_path / "twin")
    assert "up to date" in do(twin, "dvc", "repro", "--dry", "--allow-missing")  # lock, code and settings agree
    do(twin, "dvc", "pull")
    assert NOTHING in do(twin, "snakemake", "-n")
    assert "up to date" in do(twin, "dvc", "status")
    assert do(twin, "git", "status", "--porcelain") == ""
    assert twin.artifacts() == versioned.artifacts()


@pytest.mark.nightly
def test_a_remote_of_s3(versioned, tmp_path, monkeypatch):
    """A real S3 interface, on loopback."""
    moto = pytest.importorskip("moto.server")
    boto3 = pytest.importorskip("boto3")
    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
    for key, value in keys.items():
        monkeypatch.setenv(key, value)
    server = moto.ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        url = f"http://{host}:{port}"
        boto3.client("s3", endpoint_url=url).create_bucket(Bucket="studies")
        source = versioned.copy(tmp_path / "source")
        do(source, "dvc", "remote", "add", "--default", "cloud", "s3://studies/offramp")
        do(source, "dvc", "remote", "modify", "cloud", "endpointurl", url)
        commit(source)
        do(source, "dvc", "push", **keys)
        twin = clone(source, tmp_path / "twin")
        do(twin, "dvc", "pull", **keys)
        assert NOTHING in do(twin, "snakemake", "-n")
        assert "up to date" in do(twin, "dvc", "status", **keys)
    finally:
        server.stop()


@pytest.mark.nightly
def test_another_window_from_change_to_difference(versioned, tmp_path):
    """What the README shows: change, `dvc repro`, what differs, and back; and another change as an experiment."""
    narrower = {**SHARED["policies"], "pcee-ws": {**SHARED["policies"]["pcee-ws"], "window": 3}}
    study = clone(versioned, tmp_path / "study")
    do(study, "dvc", "pull")
    study.write(WHOLE, {**SHARED, "policies": narrower})
    assert "policies.pcee-ws.window" in do(study, "dvc", "params", "diff")
    told = do(study, "dvc", "repro")
    assert all(f"Stage '{stage}' didn't change" in told for stage in ("data", "train", "record"))
    differs = do(study, "dvc", "metrics", "diff")
    assert ".pcee-ws " in differs
    assert ".pcee " not in differs
    assert NOTHING in do(study, "snakemake", "-n")  # the one does not repeat what the other did
    commit(study)
    do(study, "git", "checkout", "--quiet", "HEAD~1")
    do(study, "dvc", "checkout")
    assert NOTHING in do(study, "snakemake", "-n")
    assert study.artifacts() == versioned.artifacts()
    do(study, "dvc", "exp", "run", "--name", "another-diagram", "--set-param", "studies.tiny.report.reliability=vit")
    shown = json.loads(do(study, "dvc", "exp", "show", "--json"))
    assert "another-diagram" in json.dumps(shown)
    assert "reports/tiny/figures/reliability-vit.png" in study.artifacts()
    assert NOTHING in do(study, "snakemake", "-n")


def test_any_setting_can_be_turned_from_the_command_line(tmp_path):
    """DVC writes the file anew: anchors that studies share would lose a change, or spread it."""
    from dvc.utils.hydra import apply_overrides

    source = ROOT / "params.yaml"
    expected = yaml.safe_load(source.read_text())
    turned = ["policies.pcee.bins", "policies.pcee-ws.window", "deltas.beem-a.step"]
    for study in expected["studies"]:
        turned += [f"studies.{study}.{key}" for key in ("delta.step", "training.epochs", "comparison.resamples")]
    shutil.copy(source, tmp_path / "params.yaml")
    # All at once, each to a number of its own
    apply_overrides(tmp_path / "params.yaml", [f"{path}={1000 + i}" for i, path in enumerate(turned)])
    for i, path in enumerate(turned):
        *way, key = path.split(".")
        entry = expected
        for part in way:
            entry = entry[part]
        assert entry[key] != 1000 + i
        entry[key] = 1000 + i
    assert yaml.safe_load((tmp_path / "params.yaml").read_text()) == expected


@pytest.mark.nightly
def test_what_is_no_longer_made_is_removed(versioned, tmp_path):
    study = versioned.copy(tmp_path / "study")
    fewer = {label: options for label, options in WHOLE["models"].items() if label != "net-large"}
    changed = {
        "models": fewer,
        "comparison": {**WHOLE["comparison"], "pairs": []},
        "report": {"oracle": "three", "reliability": "net-small", "reliability_exits": [1, 2]},
    }
    study.write({**WHOLE, **changed})
    do(study, "dvc", "repro")
    assert not [name for name in study.artifacts() if "error-cost" in name]
    weights = "artifacts/tiny/train/net-large-s0.safetensors"
    assert weights in study.artifacts()  # what took long to make is kept until someone says otherwise
    assert f"removed {weights}" in do(study, "python", "workflow/prune.py", "artifacts/tiny")
    assert not [name for name in study.artifacts() if "net-large" in name and "/curves/" not in name]
    assert "the study makes nothing there" in said(study.call("python", "workflow/prune.py", "src"))
    assert NOTHING in do(study, "snakemake", "-n")


@pytest.mark.nightly
def test_after_a_job_that_failed_nothing_old_passes_for_new(versioned, tmp_path):
    """Snakemake forgets that a failed job's output is not there, unless it is named: `all` names everything."""
    study = versioned.copy(tmp_path / "study")
    models = {**WHOLE["models"], "vit": {**WHOLE["models"]["vit"], "num_heads": 3}}  # 16 is no multiple of 3
    study.write({**WHOLE, "models": models})
    failed = study.call("dvc", "repro")
    assert failed.returncode != 0
    assert "offramp: error:" in said(failed)
    assert {"train", "record", "evaluate", "report"} <= stages_of_snakemake(study.folder)
    assert "train" in stages_of_dvc(study.folder)
