"""The whole way from a model and inputs to a bundle with a certificate (`offramp.accelerate`, `offramp accelerate`)."""

import json
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from offramp._io.progress import progress_bar
from offramp._io.tables import write_table
from offramp._io.writing import write_text
from offramp.acceleration.candidates import open_candidates
from offramp.acceleration.data import read_data
from offramp.acceleration.exits import Exits, Member
from offramp.acceleration.loading import load_model
from offramp.acceleration.measuring import Memory, Running, choose_fastest
from offramp.acceleration.page import write_page
from offramp.acceleration.promise import Promise
from offramp.acceleration.splits import RISKS, certifiable, draw_parts
from offramp.acceleration.structures import Fitted, Structure, Structures, choose_structures, full_cost
from offramp.acceleration.subset import fit_families
from offramp.certification import Certificate, certify
from offramp.certification.pvalues import P_VALUES, upper_bound
from offramp.datasets.preparing import ImagePreparation
from offramp.policies import Policy, save_policies
from offramp.records import ExitRecord
from offramp.runtime.exporting import check_target

ONE_ANSWER = 0.95  # share of the samples with the same answer from which on there is a warning; our choice


@dataclass(frozen=True, kw_only=True, eq=False)
class Accelerated:
    """What `accelerate` made.

    Attributes
    ----------
    bundle : Path
        Folder for `offramp run` and `offramp serve`.
    report : Path
        The page.
    promise : Promise
    record : ExitRecord
        Record of the chosen structure on the samples of the certificate.
    structure : Structure
        The models that run, and their exits.
    policy : Policy
    certificate : Certificate or None
    times : DataFrame
        Measured seconds per sample, side by side: runtime, batch_size, plain, fast, speedup.
    macs : float
        Average MACs on the samples of the certificate, as a share of those of the model.
    found : Structures
        The best structures, with the lower bound of their cost.
    kinds : DataFrame
        The best structure of each kind (exits, cascade, both), as `choose_fastest` returns them.
    memory : Memory
    lines : tuple of str
        What it promises, what it saves, and what was chosen and why.
    """

    bundle: Path
    report: Path
    promise: Promise
    record: ExitRecord
    structure: Structure
    policy: Policy
    certificate: Certificate | None
    times: pd.DataFrame
    macs: float
    found: Structures
    kinds: pd.DataFrame
    memory: Memory
    lines: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join(self.lines)


def accelerate(
    model,
    data,
    *,
    risk: str = "disagreement",
    level: float = 0.01,
    confidence: float = 0.95,
    candidates: Sequence = (),
    out: str | Path = "accelerated",
    optimise: str = "seconds",
    exits_at: Sequence[str] | None = None,
    most_exits: int = 3,
    labels=None,
    preparation: ImagePreparation | None = None,
    max_tokens: int = 128,
    skip_unreadable: bool = False,
    seed: int = 0,
    threads: int = 1,
    progress: bool = False,
    command: str = "",
) -> Accelerated:
    """Make a classifier faster: add exits or smaller models to it, choose which to keep, and certify what is lost.

    The network stays as it is, and its answer at the last exit is exactly its own. The samples are divided at random
    into four parts: heads are trained on the first, the structure and the policy are chosen on the second, the
    threshold is certified on the third (`certify`), and the promise is checked on the fourth, if there are enough
    samples. The samples must be what the model will meet, and must not be those on which it was trained.

    Parameters
    ----------
    model : Module, path, or str
        As for `--model` of `offramp accelerate`.
    data : path or ndarray
        A folder of images, a .npy file or array (N, …), or a file of texts.
    risk : {"disagreement", "gap", "error"}
        disagreement: share of answers that differ from those of the model, which needs no labels. gap: error minus that
        of the model. error: share of wrong answers.
    level, confidence : float
        The risk is at most the level, with this confidence.
    candidates : sequence of Module, path, or str
        Smaller models of the same classes, which can answer before the model, with or without exits of their own.
        `front:FILE` stands for members of the front of accuracy and MACs in a table of timm's results.
    out : path
        Folder for the bundle (`bundle/`), the page (`index.html`), the records (`records/`), the numbers (`data/`) and
        the cache (`cache/`), from which a run that was ended goes on.
    optimise : {"seconds", "macs"}
        Choose what is fastest on this machine, or what has the fewest MACs.
    exits_at : sequence of str, optional
        Names of the modules after which exits are possible. By default, up to 12 blocks that are found.
    most_exits : int
        Largest number of exits before the end of the model.
    labels : path or array-like of shape (N,), optional
        Labels of an array.
    preparation : ImagePreparation, optional
        Of the images. By default, that of the model if it is known. Otherwise, images must have one size, and pixels
        are divided by 255.
    max_tokens : int
        Longer texts are truncated.
    skip_unreadable : bool
        Leave out images that cannot be read.
    seed : int
        Of the random parts and of the heads.
    threads : int
        Threads of onnxruntime and torch for measured seconds.
    progress : bool
        Show progress bars on stderr.
    command : str
        Command that creates the page, which is shown in it.

    Returns
    -------
    Accelerated

    Raises
    ------
    ValueError
        If an argument is not valid, if no blocks can be found, if the inputs cannot be read, if there are too few of
        them (the message says how many are needed), or if a candidate has other classes, is not cheaper than the model,
        or is there twice.
    OSError
        If there is no room for the cache. What is written is whole, and the next run goes on from there.

    Warns
    -----
    UserWarning
        If nearly all answers of the model are the same class, which is what happens if its inputs are prepared in
        another way than those on which it was trained.
    """
    if risk not in RISKS:
        raise ValueError(f"accelerate: risk is {risk!r}; expected one of {', '.join(RISKS)}")
    if optimise not in ("seconds", "macs"):
        raise ValueError(f"accelerate: optimise is {optimise!r}; expected seconds or macs")
    if not 0 < level < 1 or not 0 < confidence < 1:
        raise ValueError(f"accelerate: level {level:g}, confidence {confidence:g}; expected numbers between 0 and 1")
    if most_exits < 1:
        raise ValueError(f"accelerate: most_exits is {most_exits}; expected at least 1")
    out = Path(out)
    check_target(out / "bundle")
    loaded = load_model(model, max_tokens)
    inputs, _ = read_data(
        data,
        preparation or loaded.preparation,
        labelled=risk != "disagreement",
        labels=labels,
        skip_unreadable=skip_unreadable,
        progress=progress,
    )
    parts = draw_parts(len(inputs), risk, level, confidence, seed)
    model = Member.of(loaded, inputs, exits_at).matched()
    options: dict[str, Any] = {"max_tokens": max_tokens, "skip_unreadable": skip_unreadable, "progress": progress}
    smaller = open_candidates(candidates, model, data, **options)
    cache = out / "cache"
    own = Exits.of(model, parts, cache, seed, progress)
    _warn_of_one_answer(own.logits.argmax(axis=1), model)
    teacher = own.logits[parts.heads]
    systems = [Exits.of(each, parts, cache / f"candidate-{each.key[:12]}", seed, progress, teacher) for each in smaller]
    systems.append(own)
    held = [each.record(parts.heads[own.held], own.logits.argmax(axis=1)) for each in systems]
    structure, certificate = ([each.record(rows) for each in systems] for rows in (parts.structure, parts.certificate))
    check = [each.record(parts.check) for each in systems if len(parts.check)]
    full = full_cost(structure)
    if risk == "error":
        _check_error(1 - structure[-1].correct[:, -1].mean(), level, len(parts.structure))
    fitted = Fitted(held)
    as_it_is = Running.of(systems, Structure.plain(held), fitted)
    with progress_bar(1, "exporting the model", shown=progress, unit="model") as bar:
        plain = as_it_is.export(cache / "plain", np.inf)
        bar.update()
    aim = certifiable(risk, level, confidence, len(parts.certificate))
    found = choose_structures(structure, fitted, risk, aim, most_exits)
    chosen, kinds = choose_fastest(systems, found, fitted, structure, plain, cache, optimise, threads, progress)
    result: Certificate | None = None
    saved, fallback = 1.0, f"no exits {'or cascades ' * bool(smaller)}are cheaper than it at this level"
    if chosen is not None:
        record = chosen.structure.of(certificate)
        result = certify(chosen.policy, record, risk, level, confidence)
        saved = np.inf if result.cost is None else result.cost / full_cost(certificate)
        if result.threshold is None or result.threshold == np.inf:
            chosen, fallback = None, f"{result.reason}"
        elif optimise == "macs" and saved >= 1:
            chosen, fallback = None, "the best structure saves no MACs at the threshold that could be certified"
    if chosen is not None and result is not None:
        threshold = result.shared_threshold
        with progress_bar(1, "exporting what was chosen", shown=progress, unit="model") as bar:
            chosen.export(out / "bundle", threshold, record.metadata)
            bar.update()
        times = chosen.measure(out / "bundle", plain, parts.certificate, threads, threshold, progress)
        onnx = times[times["runtime"] == "onnxruntime"]
        if optimise == "seconds" and onnx["speedup"].min() < 1:
            fallback = f"the best structure saves {1 - saved:.1%} of the MACs, but no time ({_speedups(onnx)})"
            chosen = None
    if chosen is None:
        chosen, result, saved = as_it_is, None, 1.0
        record = chosen.structure.of(certificate)
        if risk == "error":
            _check_plain(1.0 - record.correct[:, -1], level, confidence)
        chosen.export(out / "bundle", np.inf, record.metadata)
        times = pd.DataFrame(columns=["runtime", "batch_size", "plain", "fast", "speedup"])
    memory = Memory.of(chosen, as_it_is, out / "bundle", plain)
    unseen = chosen.structure.of(check) if check else None
    promise = Promise.of(risk, level, confidence, len(parts.certificate), chosen.policy, result, unseen)
    lines = (
        f"Promise: {promise}.",
        _saving(saved, times),
        f"Chosen: the model as it is, since {fallback}."
        if chosen is as_it_is
        else _reason(chosen, found, kinds, memory, len(parts.structure), full, optimise, aim),
    )
    shutil.rmtree(out / "records", ignore_errors=True)  # those of other candidates
    for name, records in {"held": held, "structure": structure, "certificate": certificate, "check": check}.items():
        for k, each in enumerate(records, start=1):
            folder = "" if k == len(records) else f"candidate-{k}"
            each.save(out / "records" / folder / f"{name}.safetensors")
    label = chosen.structure.policy
    save_policies({label: chosen.policy}, out / "policies.safetensors", record.metadata)
    write_table(times, out / "data" / "times.csv")
    write_table(kinds, out / "data" / "kinds.csv")
    models = [
        {"model": system.member.loaded.name, "exits": list(exits)}
        for system, exits in zip(chosen.systems, chosen.structure.exits)
    ]
    about = {"kind": chosen.structure.kind, "models": models, "policy": label, "memory": asdict(memory)}
    about["kinds"] = kinds.astype(object).where(kinds.notna(), None).to_dict("records")
    write_text(out / "promise.json", json.dumps(asdict(promise) | about, indent=2) + "\n")
    report = write_page(
        chosen.structure.of(structure),
        chosen.structure.of(check or structure),
        fit_families(chosen.structure.of(held)),
        (label, np.inf if result is None else result.shared_threshold),
        lines,
        {
            "model": loaded.source,
            "candidates": [each.loaded.source for each in smaller],
            "samples": {name: len(rows) for name, rows in vars(parts).items()},
            "promise": asdict(promise),
            "chosen": about,
            "measured seconds per sample": times.round(7).astype(str).to_dict("records"),
        },
        command,
        out,
    )
    return Accelerated(
        bundle=out / "bundle",
        report=report,
        promise=promise,
        record=record,
        structure=chosen.structure,
        policy=chosen.policy,
        certificate=result,
        times=times,
        macs=saved,
        found=found,
        kinds=kinds,
        memory=memory,
        lines=lines,
    )


def _warn_of_one_answer(answers: np.ndarray, model: Member) -> None:
    """Warn if nearly all answers (N,) of the model are the same class: its inputs may be prepared in another way."""
    classes, counts = np.unique(answers, return_counts=True)
    share = counts.max() / len(answers)
    if share >= ONE_ANSWER:
        name = model.names[classes[counts.argmax()]] if model.names else classes[counts.argmax()]
        warnings.warn(
            f"the model answers class {name} for {share:.1%} of the samples, so there is little to decide; if this is "
            "not what it usually does, its inputs are prepared in another way (--prepare, or a function that returns "
            "the model and its ImagePreparation)",
            stacklevel=3,
        )


def _check_error(base: float, level: float, n: int) -> None:
    """Raise ValueError if the model itself errs too often (its error on n samples) for a level of the error."""
    if base >= level:
        raise ValueError(
            f"accelerate: the error of the model itself is {base:.3g} on {n} samples, so an error of at most {level:g} "
            "cannot be promised; give a higher level, or the risk gap"
        )


def _check_plain(wrong: np.ndarray, level: float, confidence: float) -> None:
    """Raise ValueError if an error of at most the level cannot be certified for the model itself, whose wrong answers
    (n,) are given."""
    bound = upper_bound(P_VALUES["binomial"], wrong, confidence)
    if bound > level:
        raise ValueError(
            f"accelerate: an error of at most {level:g} cannot be certified for the model itself on {len(wrong)} "
            f"samples (its upper bound is {bound:.3g}); give a higher level, or the risk gap"
        )


def _speedups(times: pd.DataFrame) -> str:
    return ", ".join(f"{row.speedup:.2f}× at batch size {row.batch_size}" for row in times.itertuples())


def _saving(macs: float, times: pd.DataFrame) -> str:
    if macs == 1:
        return "Saving: none."
    each = [f"{runtime} {_speedups(own)}" for runtime, own in times.groupby("runtime")]
    return f"Saving: {1 - macs:.1%} of the MACs ({1 / macs:.2f}×); measured here, {'; '.join(each)}."


def _reason(
    chosen: Running, found: Structures, kinds: pd.DataFrame, memory: Memory, n: int, full: float, optimise: str, aim
) -> str:
    """Say what was chosen and why, how the other kinds compare, and what memory it needs."""
    each = []
    for system, exits in zip(chosen.systems, chosen.structure.exits):
        places = ", ".join(system.member.network.places[i] for i in exits[:-1])
        each.append(f"{system.member.loaded.name} with exits after {places}" if places else system.member.loaded.name)
    what = each[0].partition(" with ")[2] if len(each) == 1 else f"a cascade of {', then '.join(each)},"
    how = "all subsets of exits were tried" if found.exact else "exits were added greedily"
    text = (
        f"Chosen: {what} with the policy {chosen.structure.policy}, the best by {optimise} on {n} samples "
        f"({chosen.structure.cost / full:.1%} of the MACs at a risk of {aim:.2%} there; {how}; no structure of these "
        f"models can need less than {found.bound / full:.1%})."
    )
    others = kinds[kinds["kind"] != chosen.structure.kind]
    if len(others):
        text += f" The best of the other kinds: {'; '.join(_kind(row) for row in others.itertuples())}."
    if memory.parameters != memory.plain_parameters:
        text += f" {memory}"
    return text


def _kind(row) -> str:
    names = {"exits": "exits alone", "cascade": "a cascade without exits", "both": "a cascade with exits"}
    return f"{names[row.kind]}, {row.macs:.1%} of the MACs" + ("" if np.isnan(row.speedup) else f", {row.speedup:.2f}×")
