"""The whole way from a model and inputs to a bundle with a certificate (`offramp.accelerate`, `offramp accelerate`)."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

from offramp._io.progress import progress_bar
from offramp._io.tables import write_table
from offramp._io.writing import write_text
from offramp.acceleration.blocks import EncoderNetwork, First, Network, check_encoder, find_blocks
from offramp.acceleration.data import Inputs, read_data
from offramp.acceleration.features import compute_features, fingerprint
from offramp.acceleration.heads import Head, pool_of, train_heads
from offramp.acceleration.loading import Loaded, load_model
from offramp.acceleration.page import write_page
from offramp.acceleration.splits import RISKS, Parts, certifiable, draw_parts
from offramp.acceleration.subset import Choice, Choices, choose_exits
from offramp.certification import Certificate, certify
from offramp.certification.losses import loss_of
from offramp.certification.pvalues import P_VALUES, upper_bound
from offramp.datasets.preparing import ImagePreparation
from offramp.models.huggingface import HuggingFace
from offramp.models.wrapping import CascadeModel
from offramp.policies import Policy, make_policy, save_policies
from offramp.policies.base import first_exit
from offramp.records import ExitRecord
from offramp.runtime.bundle import load
from offramp.runtime.exporting import check_target, cost_coefficients, export_bundle
from offramp.runtime.modules import EarlyExit
from offramp.runtime.timing import side_by_side

# Policies whose signal at an exit does not depend on other exits
FAMILIES = {
    "confidence": ("confidence", {}),
    "margin": ("confidence", {"score": "margin"}),
    "temperature": ("confidence", {"temperature": "per_exit"}),
    "isotonic": ("isotonic", {}),
}
HELD = 0.25  # share of the part of the heads on which they are not trained, but chosen, and maps are fitted
BATCHES = (1, 32)  # sizes at which seconds are measured
MEASURED = 96  # samples on which they are


@dataclass(frozen=True, kw_only=True)
class Promise:
    """What is promised, and what is known of it.

    Attributes
    ----------
    risk : {"disagreement", "gap", "error"}
    level, confidence : float
        The risk on future inputs is at most the level, with this confidence over the draw of the samples.
    n_samples : int
        Samples of the certificate.
    threshold : float or None
        None: the model was handed over as it is.
    estimate, bound : float or None
        The risk on these samples, and its upper confidence bound.
    checked : int
        Samples that were used for nothing else. 0: there are none.
    measured : float or None
        The risk on them.
    interval : tuple of float, or None
        Its 95 % interval, exact for `disagreement` and `error`, by betting for `gap`.
    """

    risk: str
    level: float
    confidence: float
    n_samples: int
    threshold: float | None
    estimate: float | None
    bound: float | None
    checked: int
    measured: float | None
    interval: tuple[float, float] | None

    def __str__(self) -> str:
        what = {
            "disagreement": "answers differ from those of the model",
            "gap": "the error is higher than that of the model by",
            "error": "answers are wrong",
        }[self.risk]
        share = f"at most {self.level:.3g}" if self.risk == "gap" else f"at most {self.level:.3%} of the time"
        text = f"{what} {share}, with confidence {self.confidence:g} ({self.n_samples} samples)"
        if self.measured is not None and self.threshold is not None:
            low, high = self.interval
            text += f"; on {self.checked} other samples, {self.measured:.2%} [{low:.2%}, {high:.2%}]"
        return text


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
        Record of the chosen exits on the samples of the certificate.
    policy : Policy
    certificate : Certificate or None
    times : DataFrame
        Measured seconds per sample, side by side: runtime, batch_size, plain, fast, speedup.
    macs : float
        Average MACs on the samples of the certificate, as a share of those of the model.
    choices : Choices
        The best exits of each number, with the lower bound of the cost.
    lines : tuple of str
        What it promises, what it saves, and what was chosen and why.
    """

    bundle: Path
    report: Path
    promise: Promise
    record: ExitRecord
    policy: Policy
    certificate: Certificate | None
    times: pd.DataFrame
    macs: float
    choices: Choices
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
    """Make a classifier faster: add exits to it, choose which to keep, and certify what is lost.

    The network stays as it is, and its answer at the last exit is exactly its own. The samples are divided at random
    into four parts: heads are trained on the first, the exits and the policy are chosen on the second, the threshold is
    certified on the third (`certify`), and the promise is checked on the fourth, if there are enough samples. The
    samples must be what the model will meet, and must not be those on which it was trained.

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
        If an argument is not valid, if no blocks can be found, if the inputs cannot be read, or if there are too few of
        them. The message says how many are needed.
    OSError
        If there is no room for the cache. What is written is whole, and the next run goes on from there.
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
    network = _network(loaded, inputs, exits_at)
    inputs = _matched(inputs, loaded, network)
    exits = Exits.of(network, inputs, loaded, parts, out / "cache", seed, progress)
    plain = export_bundle(
        out / "cache" / "plain", network.module, make_policy("confidence"), np.inf, inputs.preparation, **exits.about
    )
    structure, certificate = (exits.record(rows) for rows in (parts.structure, parts.certificate))
    base = structure.correct[:, -1].mean() if risk == "error" else None
    if base is not None and 1 - base >= level:
        raise ValueError(
            f"accelerate: the error of the model itself is {1 - base:.3g} on {len(structure)} samples, so an error "
            f"of at most {level:g} cannot be promised; give a higher level, or the risk gap"
        )
    held = exits.record(parts.heads[exits.held], answered=True)
    aim = certifiable(risk, level, confidence, len(parts.certificate))
    choices = choose_exits(structure, fit_families(held), risk, aim, most_exits)
    chosen = [choice for choice in choices.best if choice.cost < _full(structure)]
    made = _fastest(exits, chosen, held, plain, parts.structure, optimise, out / "cache", threads, progress)
    result, fallback = None, "no exits are cheaper than the model at this level"
    if made is not None:
        choice, policy = made
        own = certificate.exits(choice.exits)
        result = certify(policy, own, risk, level, confidence)
        if result.threshold is None or result.threshold == np.inf:
            made, fallback = None, f"{result.reason}"
    if made is not None:
        export_bundle(
            out / "bundle",
            exits.staged(choice),
            policy,
            result.threshold,
            inputs.preparation,
            label=choice.policy,
            **exits.about,
            run=own.metadata,
        )
        times = measure(out / "bundle", plain, exits, choice, policy, result.threshold, parts.certificate, threads)
        onnx = times[times["runtime"] == "onnxruntime"]
        saved = own.cost_of(first_exit(policy.signal(own), result.threshold)).mean() / _full(own)
        if optimise == "seconds" and onnx["speedup"].min() < 1:
            made, fallback = None, f"the best exits save {1 - saved:.1%} of the MACs, but no time ({_speedups(onnx)})"
    if made is None:
        choice, policy, result, saved = Choice((len(network.places),), "confidence", np.inf, 0.0, 0.0), None, None, 1.0
        policy, own = make_policy("confidence"), certificate.exits([len(network.places)])
        wrong = None if risk != "error" else 1.0 - own.correct[:, -1]  # (n,)
        if wrong is not None and (bound := upper_bound(P_VALUES["binomial"], wrong, confidence)) > level:
            raise ValueError(
                f"accelerate: an error of at most {level:g} cannot be certified for the model itself on "
                f"{len(own)} samples (its upper bound is {bound:.3g}); give a higher level, or the risk gap"
            )
        export_bundle(
            out / "bundle", network.module, policy, np.inf, inputs.preparation, **exits.about, run=own.metadata
        )
        times = pd.DataFrame(columns=["runtime", "batch_size", "plain", "fast", "speedup"])
    promise = _promise(exits, choice, policy, result, risk, level, confidence, parts)
    lines = (
        f"Promise: {promise}.",
        _saving(saved, times),
        _reason(network, choice, choices, len(structure), _full(structure), optimise, aim)
        if made
        else f"Chosen: the model as it is, since {fallback}.",
    )
    of_parts = {"held": held, "structure": structure, "certificate": certificate}
    if len(parts.check):
        of_parts["check"] = exits.record(parts.check)
    for name, record in of_parts.items():
        record.save(out / "records" / f"{name}.safetensors")
    save_policies({choice.policy: policy}, out / "policies.safetensors", own.metadata)
    write_table(times, out / "data" / "times.csv")
    chosen = {"exits": list(choice.exits), "policy": choice.policy}
    write_text(out / "promise.json", json.dumps(asdict(promise) | chosen, indent=2) + "\n")
    report = write_page(
        of_parts["structure"].exits(choice.exits),
        of_parts["check" if len(parts.check) else "structure"].exits(choice.exits),
        fit_families(held.exits(choice.exits)),
        lines,
        {
            "model": loaded.source,
            "samples": {name: len(rows) for name, rows in vars(parts).items()},
            "promise": asdict(promise),
            "measured seconds per sample": times.round(7).astype(str).to_dict("records"),
        },
        command,
        out,
    )
    return Accelerated(
        bundle=out / "bundle",
        report=report,
        promise=promise,
        record=own,
        policy=policy,
        certificate=result,
        times=times,
        macs=float(saved),
        choices=choices,
        lines=lines,
    )


def fit_families(record: ExitRecord, labels: Iterable[str] = FAMILIES) -> dict[str, Policy]:
    """Fit the policies of `FAMILIES` on a record with labels."""
    return {label: make_policy(FAMILIES[label][0], **FAMILIES[label][1]).fit(record) for label in labels}


def _network(loaded: Loaded, inputs: Inputs, exits_at: Sequence[str] | None) -> Network:
    x = inputs.batch(np.arange(min(4, len(inputs))))
    if not isinstance(loaded.module, HuggingFace):
        return find_blocks(loaded.module.float().cpu(), x, exits_at)
    network = check_encoder(EncoderNetwork(loaded.module), x)
    if exits_at is None:
        return network
    if unknown := [name for name in exits_at if name not in network.places]:
        raise ValueError(f"--exits-at: no {unknown[0]!r}; expected some of {', '.join(network.places)}")
    return network.limited(exits_at)


@dataclass(frozen=True, eq=False)
class Exits:
    """A network with a trained head at every place, and the outputs of all of them on all inputs.

    Attributes
    ----------
    network : Network
    heads : list of Head
    features : list of ndarray of shape (N, F)
    teacher : ndarray of shape (N, C)
        Logits of the network.
    inputs : Inputs
    held : ndarray of shape (H,), bool
        Which samples of the part of the heads were not trained on.
    coefficients : ndarray of shape (L, 1) or (L, 3)
        Of the cost of each exit, as in a bundle.
    head_cost : list of float
        MACs of the head of each exit; the last one has none.
    loaded : Loaded
    """

    network: Network
    heads: list[Head]
    features: list[np.ndarray]
    teacher: np.ndarray
    inputs: Inputs
    held: np.ndarray
    coefficients: np.ndarray
    head_cost: list[float]
    loaded: Loaded

    @classmethod
    def of(
        cls, network: Network, inputs: Inputs, loaded: Loaded, parts: Parts, cache: Path, seed: int, progress: bool
    ) -> "Exits":
        """Compute the features and train the heads, as far as the cache does not have them."""
        places = range(len(network.places))
        with torch.inference_mode():
            *states, _ = network.states(inputs.batch(np.arange(2)))
        pools = [pool_of(state) for state in states]
        key = fingerprint(network, inputs)
        features, teacher = compute_features(network, pools, inputs, cache, key, progress=progress)
        rows = parts.heads
        held = np.zeros(len(rows), bool)  # (H,)
        held[np.random.default_rng(seed).permutation(len(rows))[: max(1, round(HELD * len(rows)))]] = True
        labels = None if inputs.labels is None else inputs.labels[rows]
        heads = train_heads(
            pools, [each[rows] for each in features], teacher[rows], labels, held, cache, key, progress=progress
        )
        bare = np.array(cost_coefficients(network.staged(places, [First() for _ in places]), inputs.preparation))
        full = np.array(cost_coefficients(network.staged(places, heads), inputs.preparation))  # (L, 1) or (L, 3)
        head_cost = np.diff((full - bare).sum(axis=1), prepend=0)  # (L,): at one token; heads may pool more than one
        return cls(network, heads, features, teacher, inputs, held, full, head_cost.tolist(), loaded)

    @property
    def about(self) -> dict:
        """Arguments of `export_bundle`."""
        return {"names": self.names, "sources": [self.loaded.source]}

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the classes, if they are known."""
        known = self.loaded.names or self.inputs.classes
        return known if len(known) == self.teacher.shape[1] else ()

    def record(self, rows: np.ndarray, *, answered: bool = False) -> ExitRecord:
        """Return the record of all exits on some samples.

        Parameters
        ----------
        rows : ndarray of shape (n,)
        answered : bool
            Whether the answers of the network take the place of labels where there are none.
        """
        with torch.inference_mode():
            early = [head.of_features(torch.from_numpy(x[rows])).numpy() for head, x in zip(self.heads, self.features)]
        logits = np.stack([*early, self.teacher[rows]], axis=1)  # (n, L, C)
        labels = None if self.inputs.labels is None else self.inputs.labels[rows]
        if labels is None and answered:
            labels = logits[:, -1].argmax(axis=1)
        lengths = self.inputs.lengths
        tokens = np.ones(1) if lengths is None else lengths[rows].astype(np.float64)  # (1,) or (n,)
        cost = (tokens[:, None] ** np.arange(self.coefficients.shape[1])) @ self.coefficients.T  # (1, L) or (n, L)
        metadata = {
            "system": self.loaded.name,
            "seed": 0,
            "classes": logits.shape[2],
            "unit": "MAC",
            "head_cost": self.head_cost,
            "blocks": [*self.network.places, "end"],
        }
        if self.names:
            metadata["names"] = list(self.names)
        return ExitRecord(logits, labels, cost[0] if lengths is None else cost, rows, metadata)

    def staged(self, choice: Choice):
        """Return the network with the chosen exits."""
        cuts = choice.exits[:-1]
        return self.network.staged(cuts, [self.heads[i] for i in cuts])


def _matched(inputs: Inputs, loaded: Loaded, network: Network) -> Inputs:
    """Return the inputs with the labels in the order of the classes of the model, whose names it may know."""
    if inputs.labels is None:
        return inputs
    with torch.inference_mode():
        *_, (logits,) = network.states(inputs.batch(np.arange(1)))
    classes = logits.shape[1]
    found = len(inputs.classes) or int(inputs.labels.max()) + 1
    if found > classes or (inputs.classes and found != classes):
        raise ValueError(f"the data have {found} classes, {loaded.name} has {classes}; expected the same")
    known = list(loaded.names)
    if inputs.classes and set(known) == set(inputs.classes):
        order = np.array([known.index(name) for name in inputs.classes])  # (C,)
        return replace(inputs, labels=order[inputs.labels], classes=loaded.names)
    return inputs


def _full(record: ExitRecord) -> float:
    """Return the average cost of the network without any of the heads."""
    return float(record.exits([record.n_exits - 1]).cost[-1])


def _fastest(
    exits: Exits,
    chosen: Sequence[Choice],
    held: ExitRecord,
    plain: Path,
    rows: np.ndarray,
    optimise: str,
    cache: Path,
    threads: int,
    progress: bool,
) -> tuple[Choice, Policy] | None:
    """Return the choice with the lowest cost, or the fastest one on some samples of the structure, with its policy."""
    made = [(choice, fit_families(held.exits(choice.exits), [choice.policy])[choice.policy]) for choice in chosen]
    if not made:
        return None
    if optimise == "macs":
        return min(made, key=lambda each: each[0].cost)
    measured = []
    with progress_bar(len(made), "measuring structures", shown=progress) as bar:
        for choice, policy in made:
            folder = export_bundle(
                cache / f"exits-{len(choice.exits)}",
                exits.staged(choice),
                policy,
                choice.threshold,
                exits.inputs.preparation,
                label=choice.policy,
            )
            times = measure(folder, plain, exits, None, None, None, rows, threads)
            measured.append(np.exp(np.log(times["speedup"]).mean()))
            bar.update()
    return made[int(np.argmax(measured))]


def measure(
    bundle: Path,
    plain: Path,
    exits: Exits,
    choice: Choice | None,
    policy: Policy | None,
    threshold: float | None,
    rows: np.ndarray,
    threads: int,
) -> pd.DataFrame:
    """Measure the seconds per sample of the model and of the one with exits, in onnxruntime and, with a choice, torch.

    Returns
    -------
    DataFrame
        runtime, batch_size, plain and fast (seconds per sample, medians), speedup (median of the ratios).
    """
    rows = rows[np.random.default_rng(0).permutation(len(rows))[:MEASURED]]
    found = []
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for size in BATCHES:
            batches = [exits.inputs.batch(part) for part in np.array_split(rows, -(-len(rows) // size))]
            arrays = [batch.numpy() for batch in batches]
            bundles = {name: load(path, threads=threads) for name, path in (("plain", plain), ("fast", bundle))}
            for each in bundles.values():
                each.profile(arrays[0])
            found.append(("onnxruntime", size, side_by_side(bundles, arrays)))
            if choice is None:
                continue
            models = {"plain": CascadeModel([exits.network.module]), "fast": exits.staged(choice)}
            cost = np.arange(1.0, len(choice.exits) + 1)  # counting costs takes time
            early = EarlyExit(models["fast"], policy, threshold, cost=cost)
            early.profile(batches[0])
            with torch.inference_mode():
                variants = {"plain": partial(_forward, models["plain"].eval()), "fast": early}
                found.append(("torch", size, side_by_side(variants, batches)))
    finally:
        torch.set_num_threads(before)
    return pd.DataFrame(
        [
            {
                "runtime": runtime,
                "batch_size": size,
                **{name: np.median(values) / len(rows) for name, values in times.items()},
                "speedup": np.median(times["plain"] / times["fast"]),
            }
            for runtime, size, times in found
        ]
    )


def _forward(model: nn.Module, x: torch.Tensor) -> np.ndarray:
    return model(x)[:, -1].cpu().numpy()


def _promise(
    exits: Exits,
    choice: Choice,
    policy: Policy,
    result: Certificate | None,
    risk: str,
    level: float,
    confidence: float,
    parts: Parts,
) -> Promise:
    measured = interval = None
    if len(parts.check):
        record = exits.record(parts.check).exits(choice.exits)
        threshold = np.inf if result is None else result.threshold
        left = first_exit(policy.signal(record), threshold)  # (K,)
        loss = loss_of(risk, policy, record, None, None)
        own = loss.scaled(loss.values)[np.arange(len(left)), left].astype(np.float64)  # (K,)
        p_value, scale = P_VALUES["binomial" if loss.binary else "wsr"], loss.high - loss.low
        ends = 1 - upper_bound(p_value, 1 - own, 0.975), upper_bound(p_value, own, 0.975)
        measured = loss.low + scale * float(own.mean())
        interval = tuple(loss.low + scale * float(end) for end in ends)
    return Promise(
        risk=risk,
        level=level,
        confidence=confidence,
        n_samples=len(parts.certificate),
        threshold=None if result is None else float(result.threshold),
        estimate=None if result is None else result.estimate,
        bound=None if result is None else result.bound,
        checked=len(parts.check),
        measured=measured,
        interval=interval,
    )


def _speedups(times: pd.DataFrame) -> str:
    return ", ".join(f"{row.speedup:.2f}× at batch size {row.batch_size}" for row in times.itertuples())


def _saving(macs: float, times: pd.DataFrame) -> str:
    if macs == 1:
        return "Saving: none."
    each = [f"{runtime} {_speedups(own)}" for runtime, own in times.groupby("runtime")]
    return f"Saving: {1 - macs:.1%} of the MACs ({1 / macs:.2f}×); measured here, {'; '.join(each)}."


def _reason(network: Network, choice: Choice, choices: Choices, n: int, full: float, optimise: str, aim: float) -> str:
    places = ", ".join(network.places[i] for i in choice.exits[:-1])
    how = "all subsets of exits were tried" if choices.exact else "exits were added greedily"
    return (
        f"Chosen: exits after {places} with the policy {choice.policy}, the best by {optimise} on {n} samples "
        f"({choice.cost / full:.1%} of the MACs at a risk of {aim:.2%} there; {how}; no choice of exits among the "
        f"{len(network.places)} places can need less than {choices.bound / full:.1%})."
    )
