# Settings of the study, paths of its files, and functions that turn settings into command lines.
import json
import os
import shlex
from pathlib import Path

from snakemake.exceptions import WorkflowError

from offramp.datasets import CAPTIONED, DATASETS
from offramp.datasets.corruptions import CORRUPTIONS
from offramp.models import CAPTIONING, MODELS, STORED
from offramp.policies import make_policy
from offramp.policies import spec as unquoted_spec
from offramp.reports.catalogue import FIGURES, TABLES, shown
from offramp.study.params import composed_of, contents_of, dataset_of, policies_of, select_study, systems_of, trained_of
from offramp.study.params import training_of, used_policies
from offramp.study.processor import same_on_every_processor
from offramp.study.sources import sources

try:
    STUDY = select_study(config, workflow.source_path("../schemas/params.schema.yaml"))
except ValueError as error:
    raise WorkflowError(str(error))

os.environ.update(same_on_every_processor(os.environ))  # jobs inherit it

ROOT = f"artifacts/{config['study']}"
REPORT = f"reports/{config['study']}"
LOGS = f"logs/{config['study']}"
BENCHMARKS = f"benchmarks/results/{config['study']}"
TRAINED, COMPOSED = trained_of(STUDY), composed_of(STUDY)  # cascades and routers are composed of models
POLICIES = used_policies(STUDY)
SYSTEMS = systems_of(STUDY)  # the systems on which policies are evaluated
SINGLES = [model for model in STUDY["models"] if model not in SYSTEMS]
OF_CAPTIONS = STUDY["dataset"]["name"] in CAPTIONED  # the models write captions of images
# Models whose time is measured, or is published where the outputs are stored
TIMED = [model for model in SINGLES if model in TRAINED or "timm" in STUDY["models"][model]]


def one_of(names):
    """Regular expression that matches any of the names, or nothing if there are none."""
    return "|".join(map(re.escape, names)) or "(?!)"


wildcard_constraints:
    system=one_of([*STUDY["models"], *COMPOSED]),
    seed=r"\d+",
    split="validation|test",


def dataset_code(dataset):
    """Source files of a dataset, and the data files of the user, which can change too."""
    own = [dataset[pool] for pool in ("train", "test") if dataset["name"] == "text_files" and pool in dataset]
    named = [dataset[key] for key in ("name", "items") if key in dataset]
    return sources(*(f"datasets.{({**DATASETS, **CAPTIONED})[name].partition(':')[0]}" for name in named)) + own


def members(system):
    """The models of a cascade or router, or the model itself."""
    return COMPOSED.get(system, [system])


def model_code(system, *modules):
    """Source files that training or running models depends on: the models, their datasets, and the given modules."""
    if not {*members(system)} <= {*TRAINED}:  # stored outputs
        table = [STUDY["dataset"]["costs"]] if "costs" in STUDY["dataset"] else []
        return sorted({*sources("stored", "datasets.splits"), *dataset_code(STUDY["dataset"]), *table})
    its = {*sources(*modules, "datasets.batches")}
    for model in members(system):
        name = STUDY["models"][model]["model"]
        its.update(sources(f"models.{({**MODELS, **CAPTIONING})[name].partition(':')[0]}"))
        its.update(dataset_code(dataset_of(STUDY, model)))
    return sorted(its)


def weights_of(system, seed):
    """The weights of a model that is trained. Stored outputs have none."""
    return expand(rules.train.output.weights, system=system, seed=seed) if system in TRAINED else []


def recorded_from(system, weights):
    """What `offramp record` reads: the weights of a model, or its stored outputs."""
    if system in TRAINED:
        return weights
    outputs = spec(STORED, without(STUDY["models"][system], "model"))
    return f"--dataset {dataset_spec(STUDY['dataset'])} --model {outputs} --system {system}"


def spec(name, options):
    """`NAME:option=value,…`, quoted for the shell."""
    return shlex.quote(unquoted_spec(name, options))


def flags(**options):
    """Command-line options `--option value`. Lists repeat the option, true gives a flag, and false gives nothing."""
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
    """`offramp`, or torchrun with this number of processes, each on its own GPU."""
    return "offramp" if processes == 1 else f"torchrun --standalone --nproc-per-node {processes} -m offramp"


def cores(system):
    """Number of cores used by a training job: processes × (threads + workers)."""
    its = training_of(STUDY, system)
    return its.get("processes", 1) * (its.get("threads", 1) + its.get("workers", 0))


def needs(rule_name, mem_mb, runtime):
    """Resources that a job requests from a cluster: those of the study, with the arguments as defaults (MB, minutes).

    The memory is multiplied by the number of the attempt. On a single machine these values have no effect, except that
    `--resources gpu=1` limits the number of GPU jobs that run at once.
    """
    its = {"mem_mb": mem_mb, "runtime": runtime, **STUDY.get("resources", {}).get(rule_name, {})}
    return {**its, "mem_mb": lambda wildcards, attempt: attempt * its["mem_mb"]}


def stems(folder, names, suffixes):
    """Paths of the files of each figure or table."""
    return expand(f"{folder}/{{name}}.{{suffix}}", name=names, suffix=suffixes)


def of_runs(pattern, systems=SYSTEMS):
    """One file per run of these systems. The default is all systems on which policies are evaluated."""
    return expand(pattern, system=systems, seed=STUDY["seeds"], allow_missing=True)


def dataset_spec(dataset):
    return spec(dataset["name"], without(dataset, "name"))


def grid(delta):
    return "{start}:{stop}:{step}".format(**delta)


def grids(system):
    """The threshold grid of the study, and the grids of policies whose signal has a different scale."""
    return [grid(STUDY["delta"])] + [
        f"{label}={grid(STUDY['deltas'][label])}" for label in policies_of(STUDY, system) if label in STUDY["deltas"]
    ]


def captions_of_all(table, suffix="parquet"):
    """This table of all sweeps of captions. `SWEEPS` is set in evaluate.smk."""
    return expand(SWEEPS, system=SYSTEMS, seed=STUDY["seeds"], table=table, suffix=suffix) if OF_CAPTIONS else []


# Figures and tables: FILES, SETTINGS, SYSTEM_OF and SHOWN are set in report.smk


def shown_here(entries):
    """The catalogue entries that this study shows, by file name. Entries about one system have its name appended."""
    kept = shown(entries, FILES, SETTINGS, [options["policy"] for options in POLICIES.values()])
    return {
        "-".join([entry.name, *(SYSTEM_OF[kind] for kind in entry.reads if kind in SYSTEM_OF)]): entry for entry in kept
    }


def entry_of(kind, wildcards):
    return {**SHOWN[kind], "public-zoo": {"figure": FIGURES, "table": TABLES}[kind]["public-zoo"]}[wildcards.stem]


def options_of(entry):
    """Command-line options for the settings of the study that the figure or table uses."""
    words = []
    if "pairs" in entry.options:
        words += [f"--pair {small} {large}" for small, large in SETTINGS["pairs"]]
    if "exits" in entry.options:
        words.append(flags(exit=SETTINGS["exits"]))
    words += [f"--policy {label}" for label, options in POLICIES.items() if options["policy"] in entry.judges]
    return " ".join(words)
