"""Estimate of the cost of a study before it runs: jobs, CPU-hours, memory, disk and wall time.

The jobs and their resource requests are taken from a dry run of Snakemake. For training and recording, the models of
the study are built with random weights, and a few steps are timed on this machine. The cost of later steps is estimated
roughly from data sizes. Nothing is downloaded.
"""

import heapq
import inspect
import os
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from offramp._registry import load
from offramp.comparison.cascades import VARIANTS
from offramp.datasets import CAPTIONED, DATASETS, OUTPUTS, load_dataset
from offramp.datasets.base import Dataset, InMemoryDataset, Samples, TextDataset
from offramp.datasets.batches import batches_in_order
from offramp.datasets.download import data_folder
from offramp.datasets.labelled import Labelled
from offramp.datasets.splits import make_splits
from offramp.datasets.text import tokenize
from offramp.models import build_model
from offramp.models.base import MultiExitModel
from offramp.models.costs import exit_costs
from offramp.study.params import (
    composed_of,
    dataset_of,
    policies_of,
    read_params,
    select_study,
    systems_of,
    trained_of,
    training_of,
)
from offramp.training.device import default_device, torch_settings
from offramp.training.loop import make_optimizer, train_epoch, wrap_for_training
from offramp.training.losses import exit_losses, joint_loss
from offramp.training.options import TrainingOptions

STEPS = ["data", "train", "record", "cascade", "calibrate", "evaluate", "compare", "sensitivity", "search", "resplit"]
STEPS += ["times", "shift", "accelerations", "captions", "report"]
RENAMED = dict.fromkeys(("seconds", "shifted", "heads", "tokens"), "record")  # steps of rules with another name
RENAMED |= dict.fromkeys(("sweep_captions", "calm_captions", "full_captions", "compare_captions"), "captions")
RECORDING_BATCH = 256  # default of `offramp record`
PROBE = 2.0  # approximate seconds for timing training steps of a model, and for timing its forward passes
ONCE = 1.0  # approximate maximum seconds of one step on a CPU; larger batches are timed in part

# CPU-seconds of the steps after recording, measured on the machine of docs/benchmarks.md: per job (FIXED), and per cell
# (A_CELL), with samples × exits × policies (or settings) cells. Measured with ten classes; a thousand classes take
# longer. `compare` is for 2,000 resamples. For `search`, a cell is a sample and variant, and for `resplit` a sample,
# variant, split and kind of cost; for `accelerations`, it is a sample, cascade, level and draw.
FIXED = {"cascade": 0.2, "calibrate": 1.2, "evaluate": 0.8, "compare": 5.0, "sensitivity": 5.0, "report": 0.7}
FIXED |= {"search": 10.0, "resplit": 10.0, "shift": 5.0, "accelerations": 5.0}
A_CELL = {
    "calibrate": 1e-7,
    "evaluate": 7e-7,
    "compare": 1e-5,
    "sensitivity": 2e-6,
    "search": 3e-4,
    "resplit": 8e-5,
    "shift": 1e-5,
    "accelerations": 5e-5,
}
FRONTIER = 7  # bytes per cell
# Of `times`: samples, passes over them for each policy, and CPU-seconds of one decision
TIMED, PASSES, DECISION = 96, 5, 3e-4
FILE_SIZE = 2e5  # bytes of a table, a figure or a page


@dataclass(frozen=True)
class Job:
    """One job of a Snakemake dry run.

    Attributes
    ----------
    rule : str
    system : str or None
        The model of the job, or None if the job is for all models.
    threads : int
    resources : mapping of str to int
        Requested mem_mb, runtime (minutes) and gpu.
    output : str
        Output files, as listed by Snakemake. They identify the job.
    benchmark : Path or None
        File to which Snakemake writes its measurements.
    """

    rule: str
    system: str | None
    threads: int
    resources: Mapping[str, int]
    output: str
    benchmark: Path | None

    @property
    def step(self) -> str:
        return RENAMED.get(self.rule, self.rule if self.rule in STEPS else "report")


class Estimate(NamedTuple):
    """Estimate for one job: CPU seconds, wall-clock seconds on an idle machine, GPU seconds, and bytes written."""

    cpu: float
    clock: float
    gpu: float
    size: float


class Probe(NamedTuple):
    """Timings of one model. Seconds are arrays (2,): CPU time and wall-clock time.

    Attributes
    ----------
    start : ndarray
        Seconds to build the model, and for the first step, which is always slow.
    prepare, step : ndarray
        Seconds per training sample, for preparing it and for the training step.
    prepare_held_out, forward : ndarray
        Seconds per held-out sample.
    counting : ndarray
        Seconds to count the costs for one input shape.
    exits, weights : int
        Number of exits, and bytes of the weights.
    macs : float
        Multiply-accumulates per sample, with all exits.
    """

    start: np.ndarray
    prepare: np.ndarray
    step: np.ndarray
    prepare_held_out: np.ndarray
    forward: np.ndarray
    counting: np.ndarray
    exits: int
    weights: int
    macs: float


NOTHING_RUNS = Probe(*[np.zeros(2)] * 6, exits=1, weights=0, macs=0.0)  # for stored outputs


def plan(name: str | None = None, cores: int | None = None) -> str:
    """Return the estimated cost of a study as text: a table with one row per step, the wall time, and notes.

    Parameters
    ----------
    name : str, optional
        The study. Default: the one that params.yaml names.
    cores : int, optional
        Number of cores for the wall time. Default: all cores of this machine.

    Raises
    ------
    ValueError
        If the working directory is not a checkout, params.yaml is invalid, the study does not exist, or Snakemake is
        missing or fails.
    """
    os.environ["HF_HUB_OFFLINE"] = "1"  # must be set before the library of the hub is imported
    name, study = read_study(name)
    with tqdm(total=3 + len(study["models"]), leave=False, disable=None) as bar:

        def show_progress(what: str) -> None:
            bar.set_description(what, refresh=False)
            bar.update()

        show_progress("dry run")
        jobs = list_jobs(name, "--forceall")
        to_do = {job.output for job in list_jobs(name)}
        show_progress("start-up")
        runs = trained_of(study)  # the other models are stored outputs
        begin = start_up("offramp.recording" if runs else "offramp.stored")
        begin_light = start_up("offramp.comparison.runs", "pyarrow.parquet")
        show_progress("dataset")
        notes = ["Cores, GPUs, memory and limit are what one job asks for, at most; written is without checkpoints."]
        probes, sizes = {}, None
        try:
            dataset, seconds, note = find_dataset(study["dataset"])
            notes += note
            splits = make_splits(dataset, **study["splits"])
            sizes = Sizes.of(dataset, splits)
        except ValueError as error:
            notes.append(f"No estimate of any job that needs the data: {error}")
            bar.update(len(study["models"]))
        else:
            begin += seconds
            for system, options in study["models"].items():
                show_progress(system)
                if system not in runs:
                    probes[system] = NOTHING_RUNS
                    continue
                try:
                    its = dataset
                    if "dataset" in options:
                        its, _, note = find_dataset(dataset_of(study, system))
                        notes += [line for line in note if line not in notes]
                    probes[system] = probe(options, its, splits, training_of(study, system))
                except (ValueError, RuntimeError) as error:
                    notes.append(f"No estimate of {system}: {error}")
    if probed := [system for system, its in probes.items() if its is not NOTHING_RUNS]:
        notes.append(f"Probed on this machine's {default_device()}: {', '.join(probed)}. The rest is reckoned.")
    estimate = estimator(study, probes, sizes, begin, begin_light)
    estimates = [estimate(job) for job in jobs]
    if missing := estimates.count(None):
        notes.append(f"The sums leave out the {missing} jobs without an estimate.")
    if any(job.resources.get("gpu") for job in jobs) and default_device() == "cpu":
        notes.append("The study asks for GPUs, but this machine has none: hours are those of its CPU.")
        if probes:
            trained = [job.system for job in jobs if job.rule == "train" and job.system in probes]
            samples = [3 * sizes.train * training_of(study, system)["epochs"] for system in trained]  # backward: 2 of 3
            macs = sum(n * probes[system].macs for n, system in zip(samples, trained))
            notes.append(f"The trainings are about {macs:.0e} multiply-accumulates, those of frozen backbones fewer.")
    steps = summary(jobs, estimates, [job.output not in to_do for job in jobs])
    if steps["measured"].notna().any():
        notes.append(
            "Measured: CPU time in the benchmark files; Snakemake looks twice a second at first, then every 30 s, so "
            "that of a job's end up to 30 s are missing."
        )
    cores = cores or os.cpu_count()
    machine = f"{cores} cores" + (f", {torch.cuda.device_count()} GPUs" if steps["gpu"].any() else "")
    wall = "for how long cannot be told" if missing else f"about {format_duration(wall_time(jobs, estimates, cores))}"
    title = f"The study {name}: {len(jobs)} jobs on {machine}, {wall}."
    return "\n".join([title, "", readable(steps), "", *(f"- {note}" for note in notes)])


def read_study(name: str | None) -> tuple[str, dict[str, Any]]:
    """Return the name and the settings of the study, from the checkout in the working directory."""
    if missing := [file for file in ("Snakefile", "params.yaml") if not Path(file).is_file()]:
        raise ValueError(f"{Path.cwd()}: no {missing[0]} here, expected a checkout of the project; change into one")
    if not find_spec("snakemake"):
        raise ValueError("snakemake is not installed, which lists the jobs; pip install 'offramp[workflow]'")
    params = read_params("params.yaml")
    if name is not None:
        params["study"] = name
    study = select_study(params, "workflow/schemas/params.schema.yaml")
    return params["study"], study


def list_jobs(study: str, *options: str) -> list[Job]:
    """Return the jobs of a Snakemake dry run, without targets that have no output of their own."""
    most = "9999"  # otherwise Snakemake limits the threads of jobs
    command = ["-m", "snakemake", "-n", "--nocolor", "--cores", most, *options, "--config", f"study={study}"]
    here = {key: value for key, value in os.environ.items() if key != "SNAKEMAKE_PROFILE"}  # it may group jobs
    run = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False, env=here)
    said = run.stdout + run.stderr
    if run.returncode:
        error = re.search(r"^\w*(?:Error|Exception)\b.*", said, re.MULTILINE | re.DOTALL)
        raise ValueError(f"snakemake -n failed: {' '.join((error[0] if error else said[-300:]).split())[:500]}")
    jobs = []
    for block in re.split(r"^(?=(?:local)?(?:rule|checkpoint) \w+:$)", said, flags=re.MULTILINE)[1:]:
        about = dict(re.findall(r"^    (\w+): (.+)$", block, re.MULTILINE))
        if "output" in about:
            jobs.append(
                Job(
                    rule=re.search(r" (\w+):", block)[1],
                    system=dict(re.findall(r"(\w+)=([^,]+)", about.get("wildcards", ""))).get("system"),
                    threads=int(about.get("threads", 1)),
                    resources={
                        key: int(value)
                        for key, value in re.findall(r"\b(mem_mb|runtime|gpu)=(\d+)", about["resources"])
                    },
                    output=about["output"],
                    benchmark=Path(about["benchmark"]) if "benchmark" in about else None,
                )
            )
    return jobs


def start_up(*modules: str) -> float:
    """Return the CPU-seconds that Python needs to start and to import the command line and the given modules."""

    def spent() -> float:
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return children.ru_utime + children.ru_stime

    before = spent()
    subprocess.run([sys.executable, "-c", f"import offramp.cli, {', '.join(modules)}"], check=True)
    return spent() - before


# Datasets


def find_dataset(settings: Mapping[str, Any]) -> tuple[Labelled, float, list[str]]:
    """Load the dataset of the study. Return it with the CPU-seconds of loading, and notes for the user.

    If the dataset is not available locally, a placeholder of the same size is returned, with blank inputs that need no
    memory: images of zeros, or texts of `max_tokens` tokens.
    """
    name, given = settings["name"], {key: value for key, value in settings.items() if key != "name"}
    if name in CAPTIONED:
        raise ValueError(f"studies of captions are not estimated ({name})")
    loader = load(DATASETS[name], "offramp.datasets")
    options = {key: option.default for key, option in inspect.signature(loader).parameters.items()} | given
    expected = loader.published(**options) if hasattr(loader, "published") else None
    begin = clock()
    if expected is None or all((data_folder(name) / file).exists() for file in expected.files):
        try:
            return load_dataset(name, **given), float((clock() - begin)[0]), []
        except ValueError:
            if name != "imagenet":  # its folder may be missing; for other datasets, the error is real
                raise
    labels = {pool: np.arange(n) % expected.classes for pool, n in expected.pools.items()}
    about = {"name": name, "classes": expected.classes, "labels": labels}
    if name in OUTPUTS:
        dataset, note = Labelled(**about), "and labels in turn"
    elif expected.image_shape:
        blank = torch.zeros(1, *expected.image_shape, dtype=torch.uint8)
        channels = expected.image_shape[0]
        dataset = InMemoryDataset(
            **about,
            image_shape=expected.image_shape,
            pixels={pool: blank.expand(n, -1, -1, -1) for pool, n in expected.pools.items()},
            mean=(0.0,) * channels,
            std=(1.0,) * channels,
            shift=options.get("shift", 0),
            flip=True,
        )
        note = "with blank images" + (", which nobody has to decode" if name == "imagenet" else "")
    else:
        length = options["max_tokens"]
        vocabulary, *_ = tokenize([""], None, options["tokenizer"], length)
        dataset = TextDataset(
            **about,
            vocabulary=vocabulary,
            tokens={
                pool: np.broadcast_to(np.int32(vocabulary.pad == 0), n * length) for pool, n in expected.pools.items()
            },
            offsets={pool: np.arange(n + 1) * length for pool, n in expected.pools.items()},
        )
        note = f"with {length} tokens in every text, an upper bound"
    return dataset, 0.0, [f"{name} is not in {data_folder(name)}: reckoned with its known size, {note}."]


class Sizes(NamedTuple):
    """Sizes of a dataset: samples per split, logits per answer, and number of different lengths of held-out texts."""

    train: int
    validation: int
    test: int
    logits: int
    lengths: int
    texts: bool

    @classmethod
    def of(cls, dataset: Labelled, splits: pd.DataFrame) -> "Sizes":
        counts = splits["split"].value_counts()
        held_out = [None, None]  # lengths of texts
        if isinstance(dataset, Dataset):
            held_out = [dataset.samples(splits, split).lengths for split in ("validation", "test")]
        texts = held_out[0] is not None
        return cls(
            *(int(counts.get(split, 0)) for split in ("train", "validation", "test")),
            logits=dataset.classes if "logits" in OUTPUTS.get(dataset.name, ["logits"]) else 0,
            lengths=sum(len(np.unique(lengths)) for lengths in held_out) if texts else 2,
            texts=texts,
        )


# Probes


def clock() -> np.ndarray:
    """Return the CPU time of this process and the wall-clock time in seconds, (2,)."""
    return np.array([time.process_time(), time.perf_counter()])


def probe(options: Mapping[str, Any], dataset: Dataset, splits: pd.DataFrame, training: Mapping[str, Any]) -> Probe:
    """Time a few training steps and forward passes of one model with random weights.

    Parameters
    ----------
    options : mapping
        Options of the model, as in params.yaml.
    dataset : Dataset
    splits : DataFrame
    training : mapping
        Training settings of the model, as in params.yaml.

    Raises
    ------
    ValueError
        If the model cannot be built, for example because the configuration of its backbone is not available locally.
    """
    device = torch.device(default_device())
    threads, processes = training.get("threads", 1), training.get("processes", 1)
    settings = {key: value for key, value in training.items() if key not in ("threads", "workers", "processes")}
    steps = TrainingOptions(**settings | {"learning_rate": 1e-6})  # blank inputs cannot be learned

    def timed(work: Callable[[], Any]) -> tuple[np.ndarray, Any]:
        begin = clock()
        result = work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds = clock() - begin
        if device.type == "cpu":  # the CPU may be busy with other work, so wall-clock time is unreliable
            seconds[1] = seconds[0] / threads
        return seconds, result

    def build() -> MultiExitModel:
        not_its = ("model", "training", "dataset", "pretrained")
        made = {key: value for key, value in options.items() if key not in not_its}
        model = build_model(options["model"], classes=dataset.classes, **dataset.input_options, **made)
        return model.to(device, memory_format=torch.channels_last)

    def each(samples: Samples, batch_size: int, work: Callable[[torch.Tensor, torch.Tensor], Any]):
        """Return seconds per sample, (2,), for preparing it and for the work, and those of a small first batch."""
        batches = batches_in_order(len(samples), batch_size, samples.lengths)
        few = batches[-1][:4]  # for texts, the longest ones
        first, _ = timed(lambda: work(*samples[few]))
        again, _ = timed(lambda: work(*samples[few]))
        size, n = len(batches[0]), 4
        if device.type == "cpu":
            once = again[0] / len(few)  # per sample; larger batches take less
            size = int(np.clip(ONCE / once, len(few), size))
            n = int(np.clip(PROBE / (once * size), 1, 30))
        spent, done = np.zeros((2, 2)), 0
        for i in range(n):
            batch = batches[int((i + 0.5) * len(batches) / n)][:size]  # includes short and long texts
            preparing, made = timed(lambda batch=batch: samples[batch])
            spent += preparing, timed(lambda made=made: work(*made))[0]
            done += len(batch)
        return *spent / done, first

    with torch_settings(threads):
        building, model = timed(build)
        optimizer, stepping = make_optimizer(model, steps), wrap_for_training(model, steps)
        silent = tqdm(disable=True)

        def step(inputs: torch.Tensor, labels: torch.Tensor) -> None:
            train_epoch(stepping, [(inputs, labels)], [len(labels)], optimizer, steps, 0, silent, {})

        batch_size = ceil(steps.batch_size / processes)
        prepare, stepped, first = np.zeros((3, 2))
        if steps.epochs:  # with 0 epochs, the weights are not changed
            prepare, stepped, first = each(dataset.samples(splits, "train", augment=True), batch_size, step)

        @torch.inference_mode()
        def forward(inputs: torch.Tensor, labels: torch.Tensor) -> None:
            logits = model(inputs.to(device))
            joint_loss(exit_losses(logits, labels.to(device), steps.distillation), steps.exit_weights).item()

        model.eval()
        held_out = dataset.samples(splits, "validation")
        prepare_held_out, forwarded, _ = each(held_out, RECORDING_BATCH, forward)
        shape = tuple(held_out[0][0].shape)
        counting, costs = timed(lambda: exit_costs(model, shape))
    return Probe(
        start=building + first,
        prepare=prepare,
        step=stepped,
        prepare_held_out=prepare_held_out,
        forward=forwarded,
        counting=counting,
        exits=model.n_exits,
        weights=sum(tensor.nbytes for tensor in model.state_dict().values()),
        macs=costs.macs[-1],
    )


# Estimates


def estimator(
    study: Mapping[str, Any],
    probes: Mapping[str, Probe],
    sizes: Sizes | None,
    begin: float,
    begin_light: float,
) -> Callable[[Job], Estimate | None]:
    """Return a function that estimates a job. It returns None for jobs that need a timing that is not available.

    Parameters
    ----------
    study : mapping
        Settings of the study.
    probes : mapping of str to Probe
        Timings of its models, as far as available.
    sizes : Sizes or None
    begin, begin_light : float
        Start-up seconds of jobs that need torch and the dataset, and of jobs that need neither.
    """
    on_gpu = default_device() != "cpu"
    settings = sum(map(len, study["sensitivity"].get("factors", {}).values()))
    variants = len(study["search"].get("variants", VARIANTS))
    composed = composed_of(study)

    def stages(system: str) -> list[str]:
        return composed.get(system, [system])

    def exits(system: str) -> int:
        return sum(probes[stage].exits for stage in stages(system))

    def cells(n: int, *systems: str) -> int:
        """Samples × exits × policies, summed over the given systems."""
        return sum(n * exits(system) * len(policies_of(study, system)) for system in systems)

    def light(step: str, n_cells: float = 0, size: float = FILE_SIZE) -> Estimate:
        seconds = begin_light + FIXED[step] + n_cells * A_CELL.get(step, 0)
        return Estimate(seconds, seconds, 0.0, size)

    @cache
    def estimate(step: str, system: str | None) -> Estimate | None:
        if step == "report":
            return light(step)
        systems = [system] if system else systems_of(study) if step in A_CELL else []
        if sizes is None or not probes.keys() >= {stage for its in systems for stage in stages(its)}:
            return None
        runs = len(study["seeds"]) * systems
        held_out = sizes.validation + sizes.test
        match step:
            case "data":
                return Estimate(begin, begin, 0.0, 12 * sum(sizes[:3]))  # one line per sample
            case "train":
                return estimate_training(probes[system], sizes, training_of(study, system), begin, on_gpu)
            case "record":
                return estimate_recording(probes[system], sizes, training_of(study, system), begin, on_gpu)
            case "cascade":
                n = held_out / 2 * exits(system)  # one job per split
                return light(step, n, n * (24 + 4 * sizes.logits))
            case "calibrate":
                return light(step, cells(sizes.validation, system), 16 * sizes.validation * exits(system))
            case "evaluate":
                return light(step, n := cells(sizes.test, system), FRONTIER * n)
            case "compare":
                return light(step, cells(sizes.test, *runs) * study["comparison"]["resamples"] / 2000)
            case "sensitivity":
                return light(step, settings * sum(sizes.test * exits(run) for run in runs))
            case "search":
                draws = study["comparison"]["resamples"] / 2000
                return light(step, held_out * variants * len(study["seeds"]) * draws)
            case "resplit":
                costs = 3 if any("timm" in options for options in study["models"].values()) else 1
                return light(step, held_out * variants * len(study["seeds"]) * study["search"]["splits"] * costs)

            case "shift":
                its = study["shifts"]
                tests = 1 + len(its["kinds"]) * len(its["severities"])
                n = cells(sizes.test, *len(study["seeds"]) * its["systems"])
                return light(step, n * tests * study["comparison"]["resamples"] / 2000)
            case "accelerations":
                its = study["accelerate"]
                structures = sum(2 ** len(smaller) for smaller in its["models"].values())
                times = structures * len(its["levels"]) * its["draws"] * len(study["seeds"])
                return light(step, sizes.test * times)
            case "times":
                passes = TIMED * PASSES * len(study["times"]["batch_sizes"]) * len(policies_of(study, system))
                parts = [probes[stage] for stage in stages(system)]
                work = sum(probe.start + passes * probe.forward for probe in parts) + passes * exits(system) * DECISION
                cpu, seconds = begin + work
                return Estimate(cpu, seconds, on_gpu * seconds, FILE_SIZE)

    return lambda job: estimate(job.step, job.system)


def estimate_training(probe: Probe, sizes: Sizes, training: Mapping[str, Any], begin: float, on_gpu: bool) -> Estimate:
    """Estimate one training job. All processes have start-up time and share the samples of each epoch."""
    workers, processes = training.get("workers", 0), training.get("processes", 1)
    training_cpu, training_clock = pipelined_time(probe.prepare, probe.step, workers)
    validating_cpu, validating_clock = pipelined_time(probe.prepare_held_out, probe.forward, workers)
    start = begin + probe.start
    cpu = processes * start[0] + training["epochs"] * (sizes.train * training_cpu + sizes.validation * validating_cpu)
    passing = training["epochs"] * (sizes.train * training_clock + sizes.validation * validating_clock)
    seconds = start[1] + passing / processes
    return Estimate(cpu, seconds, on_gpu * processes * seconds, probe.weights)


def estimate_recording(probe: Probe, sizes: Sizes, training: Mapping[str, Any], begin: float, on_gpu: bool) -> Estimate:
    """Estimate one recording job, for validation and test samples."""
    held_out = sizes.validation + sizes.test
    passing = np.array(pipelined_time(probe.prepare_held_out, probe.forward, training.get("workers", 0)))
    cpu, seconds = begin + probe.start + sizes.lengths * probe.counting + held_out * passing
    # Label and index per sample; prediction, four measures and logits per exit, and the cost of each text
    size = held_out * (16 + probe.exits * (4 + 16 + 4 * sizes.logits + 8 * sizes.texts))
    return Estimate(cpu, seconds, on_gpu * seconds, size)


def pipelined_time(prepare: np.ndarray, work: np.ndarray, workers: int) -> tuple[float, float]:
    """Return CPU and wall-clock seconds per sample, if workers prepare samples while the model processes others."""
    clock = max(prepare[1] / workers, work[1]) if workers else prepare[1] + work[1]
    return prepare[0] + work[0], clock


def wall_time(jobs: Sequence[Job], estimates: Sequence[Estimate | None], cores: int) -> float:
    """Return wall-clock seconds if steps run one after another, and jobs share the cores or GPUs, the longest first."""
    total = 0.0
    for step in STEPS:
        its = [(job, estimate) for job, estimate in zip(jobs, estimates) if job.step == step and estimate]
        at_once = max(1, cores // max((job.threads for job, _ in its), default=1))
        if any(estimate.gpu for _, estimate in its):
            devices = torch.cuda.device_count() // max(job.resources.get("gpu", 1) for job, _ in its)
            at_once = max(1, min(at_once, devices))
        free = [0.0] * at_once  # time at which each slot is free
        spans = [
            max(estimate.clock, estimate.cpu / min(job.threads, cores) * (not estimate.gpu)) for job, estimate in its
        ]
        for seconds in sorted(spans, reverse=True):
            heapq.heapreplace(free, free[0] + seconds)
        total += max(free)
    return total


# Output


def summary(jobs: Sequence[Job], estimates: Sequence[Estimate | None], done: Sequence[bool]) -> pd.DataFrame:
    """Return a table with one row per step and one for all steps: sums over jobs, and maxima of requested resources.

    Columns are step, jobs, done, cpu and gpu (hours), size (bytes), threads, mem_mb, runtime, gpus, measured
    (CPU-hours in the benchmark files) and estimated (CPU-hours of the jobs with a benchmark file).
    """
    unknown = Estimate(*[np.nan] * 4)
    table = pd.DataFrame(
        {
            "step": job.step,
            "jobs": 1,
            "done": int(is_done),
            "cpu": (estimate or unknown).cpu / 3600,
            "gpu": (estimate or unknown).gpu / 3600,
            "size": (estimate or unknown).size,
            "threads": job.threads,
            "mem_mb": job.resources.get("mem_mb"),
            "runtime": job.resources.get("runtime"),
            "gpus": job.resources.get("gpu"),
            "measured": measured_seconds(job) / 3600,
        }
        for job, estimate, is_done in zip(jobs, estimates, done)
    )
    table["estimated"] = table["cpu"].where(table["measured"].notna())
    table["measured"] = table["measured"].where(table["cpu"].notna())
    whole = table.assign(step="all")
    most = ["threads", "mem_mb", "runtime", "gpus"]
    each = {column: "max" if column in most else lambda of: of.sum(min_count=1) for column in table.columns[1:]}
    steps = pd.concat([table, whole]).groupby("step").agg(each)
    return steps.loc[[step for step in [*STEPS, "all"] if step in steps.index]].reset_index()


def measured_seconds(job: Job) -> float:
    """Return the CPU-seconds in the benchmark file of a job, or NaN if there is none."""
    if job.benchmark is None or not job.benchmark.exists():
        return np.nan
    return float(pd.to_numeric(pd.read_csv(job.benchmark, sep="\t")["cpu_time"], errors="coerce").mean())


def readable(steps: pd.DataFrame) -> str:
    """Format the summary as a Markdown table, without empty columns."""
    shown = pd.DataFrame(
        {
            "step": steps["step"],
            "jobs": steps["jobs"],
            "done": steps["done"],
            "CPU-hours": steps["cpu"].map(two_digits),
            "GPU-hours": steps["gpu"].replace(0, np.nan).map(two_digits),
            "written": steps["size"].map(lambda size: tqdm.format_sizeof(size, "B")),
            "cores": steps["threads"],
            "GPUs": steps["gpus"].map("{:.0f}".format),
            "memory": steps["mem_mb"].map(lambda size: tqdm.format_sizeof(1e6 * size, "B")),
            "limit": steps["runtime"].map("{:.0f} min".format),
            "measured": steps["measured"].map(two_digits),
            "measured / estimate": (steps["measured"] / steps["estimated"]).map("{:.2f}".format),
        }
    ).astype(str)
    shown = shown.mask(shown.apply(lambda column: column.str.contains("nan")))
    shown = shown.dropna(axis="columns", how="all").fillna("–")
    return shown.to_markdown(index=False, disable_numparse=True, colalign=["left"] + ["right"] * (shown.shape[1] - 1))


def two_digits(value: float) -> str:
    """Format a number with two significant digits, without an exponent."""
    return np.format_float_positional(value, 2, unique=False, fractional=False, trim="-")


def format_duration(seconds: float) -> str:
    """Format a time in a suitable unit."""
    for unit, length, least_of_next in ("seconds", 1, 90), ("minutes", 60, 5400), ("hours", 3600, 172_800):
        if seconds < least_of_next:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds / 86_400:.0f} days"
