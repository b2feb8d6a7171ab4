# The study's settings, where its files lie, and how settings become command lines.
import json
import shlex
from pathlib import Path

from snakemake.exceptions import WorkflowError

from offramp.datasets import DATASETS
from offramp.models import MODELS
from offramp.policies import spec as unquoted_spec
from offramp.reports.catalogue import FIGURES, TABLES, shown
from offramp.study.params import dataset_of, policies_of, select_study, systems_of, training_of
from offramp.study.sources import sources

try:
    STUDY = select_study(config, workflow.source_path("../schemas/params.schema.yaml"))
except ValueError as error:
    raise WorkflowError(str(error))

ROOT = f"artifacts/{config['study']}"
REPORT = f"reports/{config['study']}"
LOGS = f"logs/{config['study']}"
BENCHMARKS = f"benchmarks/results/{config['study']}"
TRAINED, CASCADES = list(STUDY["models"]), list(STUDY["cascades"])
SYSTEMS = systems_of(STUDY)  # what policies are for
SINGLES = [model for model in TRAINED if model not in SYSTEMS]


def one_of(names):
    """A pattern for any of them; for nothing, where there are none."""
    return "|".join(map(re.escape, names)) or "(?!)"


wildcard_constraints:
    system=one_of(TRAINED + CASCADES),
    seed=r"\d+",
    split="validation|test",


def dataset_code(dataset):
    """The loader's code, and one's own files, which may change too."""
    own = [dataset[pool] for pool in ("train", "test") if dataset["name"] == "text_files" and pool in dataset]
    return sources(f"datasets.{DATASETS[dataset['name']].partition(':')[0]}") + own


def model_code(system, *modules):
    """What trains or runs this model: its code, that of its data, and the modules named."""
    its = sources(*modules, "datasets.batches", f"models.{MODELS[STUDY['models'][system]['model']].partition(':')[0]}")
    return sorted({*its, *dataset_code(dataset_of(STUDY, system))})


def spec(name, options):
    """NAME:option=value,… for the shell."""
    return shlex.quote(unquoted_spec(name, options))


def flags(**options):
    """--option value for each, repeated for the entries of a list; of true the option alone, of false nothing."""
    words = []
    for key, value in options.items():
        option = f"--{key.replace('_', '-')}"
        if isinstance(value, bool):
            words += [option] if value else []
        else:
            words += [
                f"{option} {shlex.quote(str(entry))}" for entry in (value if isinstance(value, list) else [value])
            ]
    return " ".join(words)


def without(mapping, *keys):
    return {key: value for key, value in mapping.items() if key not in keys}


def launch(processes):
    """The command itself, or torchrun with so many of it, a GPU each."""
    return "offramp" if processes == 1 else f"torchrun --standalone --nproc-per-node {processes} -m offramp"


def cores(system):
    """What a training keeps busy: its processes, each with its threads and its workers."""
    its = training_of(STUDY, system)
    return its.get("processes", 1) * (its.get("threads", 1) + its.get("workers", 0))


def needs(rule_name, mem_mb, runtime):
    """What a job asks a cluster for: the study's numbers, else these (MB, minutes), and as much memory more each retry.

    On one machine they limit nothing: `--resources gpu=1` does, where jobs that want a GPU must wait for one another.
    """
    its = {"mem_mb": mem_mb, "runtime": runtime, **STUDY.get("resources", {}).get(rule_name, {})}
    return {**its, "mem_mb": lambda wildcards, attempt: attempt * its["mem_mb"]}


def stems(folder, names, suffixes):
    """The files of each figure or table."""
    return expand(f"{folder}/{{name}}.{{suffix}}", name=names, suffix=suffixes)


def of_runs(pattern, systems=SYSTEMS):
    """A file of every run of these models and cascades; of all that have policies, where none is named."""
    return expand(pattern, system=systems, seed=STUDY["seeds"], allow_missing=True)


def dataset_spec(dataset):
    return spec(dataset["name"], without(dataset, "name"))


def grid(delta):
    return "{start}:{stop}:{step}".format(**delta)


def grids(system):
    """The study's δ, and those of this system's policies whose signal is on another scale."""
    return [grid(STUDY["delta"])] + [
        f"{label}={grid(STUDY['deltas'][label])}" for label in policies_of(STUDY, system) if label in STUDY["deltas"]
    ]
