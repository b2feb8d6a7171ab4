"""A copy of the pipeline with a tiny study: what tests of the workflow run."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path

import yaml

import listing
from offramp.reports.comparing import OF_THE_MACHINE

ROOT = Path(__file__).parents[1]
# As in an activated environment
ENVIRONMENT = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}

# What all studies share
SHARED = {
    "policies": {
        "confidence": {"policy": "confidence"},
        "temperature": {"policy": "confidence", "temperature": "per_exit"},
        "pcee": {"policy": "pcee", "bins": 10},
        "pcee-ws": {"policy": "pcee-ws", "window": 50},
        "oracle": {"policy": "oracle"},
    },
    "deltas": {},
    "duels": [],
}

TINY = {
    "notes": [],
    "dataset": {"name": "digits", "shift": 1},
    "splits": {"validation": 300, "test": 900, "seed": 0},
    "seeds": [0],
    "training": {"epochs": 2, "batch_size": 64, "learning_rate": 0.1, "threads": 1, "portable": True},
    "models": {
        "net-small": {"model": "msdnet", "exits": 2, "channels": 4, "growth": 2, "growth_factors": [1, 2],
                      "bottleneck_factors": [1, 2], "head_strides": [], "head_pool": 4},
        "net-large": {"model": "msdnet", "exits": 3, "channels": 4, "growth": 2, "growth_factors": [1, 2],
                      "bottleneck_factors": [1, 2], "head_strides": [], "head_pool": 4},
        "vit": {"model": "vit", "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2,
                "training": {"optimizer": "adamw", "learning_rate": 0.003}},
    },
    "cascades": {},
    "routers": {},
    "own_policies": {},
    "calibration": {"bins": 10, "fit_share": 0.5},
    "delta": {"start": 0.2, "stop": 1.0, "step": 0.05},
    "comparison": {"targets": [0.5], "pairs": [["net-small", "net-large"]], "baseline": "confidence", "resamples": 200,
                   "splits": 2},
    "sensitivity": {
        "draws": 2,
        "factors": {
            "map fitted on": [{"setting": "all", "policy": "pcee"},
                              {"setting": "those who come", "policy": "pcee", "fit_on": "reached"}],
            "samples": [{"setting": 300, "policy": "pcee"}, {"setting": 100, "policy": "pcee", "validation": 100}],
        },
    },
    "search": {},
    "times": {},
    "shifts": {},
    "accelerate": {},
    "captions": {},
    "report": {"oracle": "vit", "reliability": "net-large", "reliability_exits": [1, 3]},
}  # fmt: skip


# With single models, cascades of them and a search: the study that is run to its end once, for all tests
RESNET = {"model": "timm", "backbone": "test_resnet"}
RESNET |= {"training": {"epochs": 4, "batch_size": 32, "optimizer": "adamw", "learning_rate": 0.002}}
WHOLE = {
    **TINY,
    "models": {
        **TINY["models"],
        "resnet-4": {**RESNET, "image_size": 4},
        "resnet-8": RESNET,
        "resnet-12": {**RESNET, "image_size": 12},
    },
    "cascades": {"two": ["resnet-4", "resnet-12"], "three": ["resnet-4", "resnet-8", "resnet-12"]},
    "search": {
        "bands": [[0.4, 0.6]],
        "step": 0.02,
        "variants": {"max-softmax": {}, "margin": {"measure": "margin"}, "geometric": {"ensemble": "geometric"}},
    },
    "times": {"systems": ["net-small"], "batch_sizes": [1, 8]},
    "shifts": {"systems": ["net-small"], "kinds": ["noise"], "severities": [1, 5]},
    "accelerate": {"models": {"resnet-4": []}, "joint": ["net-small"], "levels": [0.2], "draws": 2},
    "comparison": {**TINY["comparison"], "level": 0.1, "samples": [100], "duels": [["pcee", "confidence"]]},
    "report": {**TINY["report"], "oracle": "three"},
}

# Stored outputs of three models, two cascades of them, and their search on other random splits
_COSTS = {"timm": "mobilenetv3_large_100.ra_in1k", "image_size": 224}
STORED = {
    **TINY,
    "dataset": {"name": "imagenet_outputs", "costs": str(ROOT / "data/timm/timm_pareto.csv")},
    "splits": {"validation": 1000, "test": 1000, "seed": 0},
    "training": {"epochs": 0},
    "models": {
        "small": {"model": "outputs", "file": "a/small.csv", **_COSTS},
        "middle": {"model": "outputs", "file": "a/middle.csv", "timm": "tf_efficientnet_b1.in1k", "image_size": 240},
        "large": {"model": "outputs", "file": "b/large.csv", "timm": "efficientnet_b3.ra2_in1k", "image_size": 320},
    },
    "cascades": {"two": ["small", "large"], "three": ["small", "middle", "large"]},
    "comparison": {**TINY["comparison"], "pairs": []},
    "sensitivity": {},
    "search": {"bands": [[0.6, 0.8]], "step": 0.02, "splits": 2, "variants": {"max-softmax": {}}},
    "report": {"oracle": "three", "reliability": "two", "reliability_exits": [1, 2]},
}


# Scenes of digits, and a captioner whose captions are swept
CAPTIONED = {
    **TINY,
    "dataset": {"name": "scenes", "items": "digits", "train": 640, "validation": 40, "test": 40},
    "splits": {},
    "training": {"epochs": 6, "exit_epochs": 1, "batch_size": 32, "learning_rate": 0.003, "threads": 1},
    "models": {
        "captioner": {"model": "captioner", "patch_size": 8, "encoder_layers": 1, "encoder_width": 32,
                      "encoder_heads": 2, "layers": 3, "width": 32, "heads": 2},
    },
    "calibration": {"bins": 10, "fit_share": 1},
    "comparison": {"targets": [0.3], "pairs": [], "baseline": "confidence", "resamples": 100, "splits": 2},
    "sensitivity": {},
    "captions": {
        "policies": ["confidence", "pcee"],
        "thresholds": 2,
        "at_most": [0, 0.5],
        "beams": 2,
        "calm": {"score": "margin", "thresholds": {"start": 0.3, "stop": 0.9, "step": 0.6}, "level": 0.5},
    },
    "report": {"oracle": "captioner", "reliability": "captioner", "reliability_exits": [1, 3]},
}  # fmt: skip


def told_jobs(output: str) -> Iterator[tuple[str, str, str]]:
    """Of each job that Snakemake printed: its rule, its system ("" if it is for all), and all that it printed of it."""
    for block in re.split(r"\n(?=(?:local)?rule )", output)[1:]:
        system = re.search(r"wildcards: .*?system=([\w-]+)", block)
        yield re.match(r"(?:local)?rule (\w+):", block)[1], system[1] if system else "", block


class Checkout:
    """A copy of what the workflow needs, with params.yaml holding the tiny study alone."""

    def __init__(self, folder: Path):
        self.folder = folder
        for name in ("workflow", "profiles", "src"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        (folder / ".dvc").mkdir()
        for name in ("Snakefile", "dvc.yaml", ".dvcignore", ".dvc/config", ".dvc/.gitignore", ".gitignore"):
            shutil.copy(ROOT / name, folder / name)
        self.write(TINY)

    def write(self, study: dict, shared: dict = SHARED) -> None:
        params = {"study": "tiny", **shared, "studies": {"tiny": study}}
        (self.folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))

    @classmethod
    def at(cls, folder: Path) -> "Checkout":
        """One that is there already."""
        checkout = object.__new__(cls)
        checkout.folder = folder
        return checkout

    def copy(self, folder: Path) -> "Checkout":
        """The same files, times among them, in another folder that does not exist yet."""
        return Checkout.at(shutil.copytree(self.folder, folder, symlinks=True))

    def call(self, *command: str, **environment: str) -> subprocess.CompletedProcess:
        """Run a command of this environment there."""
        return subprocess.run(
            command, cwd=self.folder, env={**ENVIRONMENT, **environment}, capture_output=True, text=True, check=False
        )

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
        """Run Snakemake there."""
        return self.call("snakemake", "--nocolor", *arguments, **environment)

    def run_here(self, *targets: str) -> None:
        """Run the commands of all jobs for these targets in this process, which saves their starts."""
        from offramp.cli import cli

        with chdir(self.folder):
            for job in listing.jobs(self.folder, "--forceall", *targets):
                for file in (*job.output, *job.log):
                    Path(file).parent.mkdir(parents=True, exist_ok=True)
                command, piped, _ = job.shell.partition(" 2>&1 | tee ")
                if piped:
                    cli(shlex.split(command)[1:], standalone_mode=False)
                else:
                    subprocess.run(command, shell=True, env=ENVIRONMENT, check=True)

    def would_run(self) -> dict[str, set[str]]:
        """Rules that a dry run lists, each with the systems that its jobs are for."""
        jobs: dict[str, set[str]] = {}
        for job in listing.jobs(self.folder):
            jobs.setdefault(job.rule, set()).add(job.system)
        return jobs

    def artifacts(self) -> dict[str, bytes]:
        """What the study keeps, without measured times."""
        kept = {
            str(path.relative_to(self.folder)): path.read_bytes()
            for folder in ("artifacts", "reports")
            for path in sorted((self.folder / folder).rglob("*"))
            if path.is_file() and path.stem not in OF_THE_MACHINE
        }
        for name in [name for name in kept if name.endswith(".csv") and "/train/" in name]:
            kept[name] = b"\n".join(line.rpartition(b",")[0] for line in kept[name].splitlines())  # not the seconds
        of_machine = f'<div class="[^"]*" id="table-(?:{"|".join(OF_THE_MACHINE)})".*?</div>'.encode()
        for name in [name for name in kept if name.endswith("index.html")]:
            kept[name] = re.sub(of_machine, b"", kept[name], flags=re.DOTALL)
        return kept
