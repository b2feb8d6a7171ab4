"""Export of torch models with early exits to bundles, which run without torch."""

import copy
import logging
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn

from offramp import __version__
from offramp._io.writing import whole_folder
from offramp.datasets.preparing import ImagePreparation, TextPreparation
from offramp.models.base import MultiExitModel
from offramp.models.costs import exit_costs
from offramp.models.wrapping import CascadeModel
from offramp.policies import Policy, save_policies
from offramp.runtime.bundle import load, open_session
from offramp.runtime.manifest import MANIFEST, POLICY, Combined, Manifest, Model, Stage, sha256

Preparation = ImagePreparation | TextPreparation
TOLERANCE = 1e-3  # largest difference between torch and onnxruntime that is no error, relative to 1 + |value|


def export_bundle(
    folder: str | os.PathLike,
    model: nn.Module | Sequence[nn.Module],
    policy: Policy,
    threshold,
    preparation: Preparation | Sequence[Preparation],
    *,
    label: str | None = None,
    names: Sequence[str] = (),
    sources: Sequence[Mapping[str, Any]] | None = None,
    combined: Combined | None = None,
    reject_below: float = -np.inf,
    abstain_below=-np.inf,
    run: Mapping[str, Any] | None = None,
) -> Path:
    """Export a model, or the models of a cascade, with a policy and a threshold.

    Every stage is exported to ONNX and compared with torch. The folder is written whole or not at all. A bundle that is
    there already is replaced.

    Parameters
    ----------
    folder : path
    model : MultiExitModel, or a sequence of modules
        A sequence is a cascade, as for `EarlyExit.cascade`.
    policy : Policy
        A fitted policy, or one that does not learn from data.
    threshold : float or array-like of shape (L − 1,)
        Threshold δ, shared by all exits or one per exit.
    preparation : ImagePreparation or TextPreparation, or one for each model
        For the model of a dataset: `dataset.preparation`.
    label : str, optional
        Label of the policy. Default: its name.
    names : sequence of str
        Names of the classes, if they are known.
    sources : sequence of mapping, optional
        Where each model came from. JSON values.
    combined : Combined, optional
        Ensemble and temperatures of a cascade.
    reject_below : float
        Threshold ρ, below which answers are rejected, as for `EarlyExit`.
    abstain_below : float or array-like of shape (L − 1,)
        Threshold for early abstention, as for `EarlyExit`.
    run : mapping, optional
        Metadata of the validation record on which the policy was fitted.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    ValueError
        If the folder exists and is not a bundle, if the policy, threshold or preparations do not suit the models, if a
        stage computes something else in onnxruntime, or if the cost of a text is not a + b·T + c·T² in its length T.
    """
    folder = Path(folder)
    check_target(folder)
    given = [model] if isinstance(model, nn.Module) else list(model)
    prepare = [preparation] if isinstance(preparation, Preparation) else list(preparation)
    models = [copy.deepcopy(each).cpu().float().eval() for each in CascadeModel(given).models]
    if len(prepare) != len(models):
        raise ValueError(f"{len(models)} models and {len(prepare)} preparations; expected one for each model")
    sources = [{}] * len(models) if sources is None else sources
    label = label or policy.name
    with whole_folder(folder) as partial:
        save_policies({label: policy}, partial / POLICY, run)
        made, opsets, classes = [], set(), set()
        for k, (each, its, source) in enumerate(zip(models, prepare, sources), start=1):
            stages, opset, outputs = _write_stages(each, its, partial, f"model-{k}-" if len(models) > 1 else "")
            opsets |= opset
            classes.add(outputs)
            costs = cost_coefficients(each, its)
            if isinstance(its, TextPreparation):
                its = _write_tokenizer(its, partial)
            if len(models) > 1:  # as in `CascadeModel`, whose similarities would be those of different models
                stages = [replace(stage, similarity=False, outputs=_without(stage)) for stage in stages]
            made.append(Model(preparation=its, cost=costs, stages=tuple(stages), source=dict(source)))
        if len(classes) > 1 or (names and len(names) not in classes):
            raise ValueError(f"models with {sorted(classes)} classes and {len(names)} names; expected one number")
        Manifest(
            offramp=__version__,
            opset=max(opsets),
            classes=classes.pop(),
            names=tuple(names),
            unit="MAC",
            policy=label,
            threshold=_plain(threshold),
            models=tuple(made),
            files={file.name: sha256(file) for file in sorted(partial.iterdir())},
            combined=combined or Combined(),
            reject_below=None if reject_below == -np.inf else float(reject_below),
            abstain_below=None if np.all(np.equal(abstain_below, -np.inf)) else _plain(abstain_below),
        ).write(partial)
        load(partial)  # raises an error if the policy or the threshold does not suit the models
    return folder


def _plain(threshold) -> float | tuple[float, ...]:
    values = np.asarray(threshold, np.float64)  # () or (L − 1,)
    return float(values) if values.ndim == 0 else tuple(values.tolist())


def check_target(folder: Path) -> None:
    """Raise ValueError if the folder exists and is neither empty nor a bundle."""
    if folder.exists() and not (folder.is_dir() and (not any(folder.iterdir()) or (folder / MANIFEST).is_file())):
        raise ValueError(f"{folder}: exists and is not a bundle; expected a new folder, or a bundle to replace")


class _Stage(nn.Module):
    """One stage of a model, with tensors as outputs."""

    def __init__(self, model: MultiExitModel, i: int) -> None:
        super().__init__()
        self.model, self.i = model, i

    def forward(self, *state: Tensor) -> tuple[Tensor, ...]:
        output = self.model.stage(self.i, *state)
        similarity = () if output.similarity is None else (output.similarity,)
        following = output.state if self.i + 1 < self.model.n_exits else ()
        return (output.logits, *similarity, *following)


@torch.no_grad()
def _write_stages(
    model: MultiExitModel, prepare: Preparation, folder: Path, prefix: str
) -> tuple[list[Stage], set[int], int]:
    """Export all stages. Return them, the versions of their operators, and the number of classes."""
    # Two batches of different size and length: an axis in which they differ is not fixed
    (example, tokens), (other, fewer) = (_example(model, prepare, batch, less) for batch, less in ((3, 0), (2, 1)))
    states, stages, opsets = [(example,), (other,)], [], set()
    inputs: tuple[str, ...] = ("input",)
    for i in range(model.n_exits):
        stage = _Stage(model, i).eval()
        axes = [[d for d, sizes in enumerate(zip(a.shape, b.shape)) if sizes[0] != sizes[1]] for a, b in zip(*states)]
        for a, free in zip(states[0], axes):
            if free[:1] != [0] or len(a) != 3:
                raise ValueError(f"stage {i + 1} reads a tensor {tuple(a.shape)}; expected the samples (3) as first")
        results = [stage(*state) for state in states]
        output = model.stage(i, *states[0])
        following = tuple(f"next_{n + 1}" for n in range(len(results[0]) - 1 - (output.similarity is not None)))
        outputs = ("logits", *(() if output.similarity is None else ("similarity",)), *following)
        file = folder / f"{prefix}stage-{i + 1}.onnx"
        try:
            with _quiet(), _one_table():
                program = torch.onnx.export(
                    stage,
                    states[0],
                    dynamo=True,
                    verbose=False,
                    input_names=list(inputs),
                    output_names=list(outputs),
                    dynamic_shapes={"state": tuple(dict.fromkeys(free, torch.export.Dim.DYNAMIC) for free in axes)},
                )
                program.save(file, external_data=False)
        except Exception as error:  # the exporter raises many types of exceptions
            reason = " ".join(str(error.__cause__ or error).split())[:300]
            raise ValueError(f"stage {i + 1}: torch cannot export it to ONNX ({reason})") from error
        opsets.add(program.model.opset_imports[""])
        _verify(stage, file, inputs, outputs, states[1], results[1])
        lengths = {name: free[1:] for name, free in zip(inputs, axes) if free[1:]}
        at = [(a.shape[d], b.shape[d]) for a, b, free in zip(*states, axes) for d in free[1:]]
        if any(sizes != (tokens, fewer) for sizes in at):  # states with more places than tokens cannot be cut
            lengths = {}
        stages.append(
            Stage(
                file=file.name,
                inputs=inputs,
                outputs=outputs,
                similarity=output.similarity is not None,
                lengths=lengths,
            )
        )
        states = [output.state, model.stage(i, *states[1]).state]
        inputs = tuple(f"state_{n + 1}" for n in range(len(following)))
    return stages, opsets, output.logits.shape[1]


def _verify(stage: _Stage, file: Path, inputs, outputs, state: tuple[Tensor, ...], expected) -> None:
    """Raise ValueError if onnxruntime computes something else than torch, for a batch and for its first sample."""
    session = open_session(file)
    for rows in (slice(None), slice(1)):
        feeds = {name: tensor[rows].numpy() for name, tensor in zip(inputs, state)}
        for name, found, wanted in zip(outputs, session.run(outputs, feeds), expected):
            wanted = wanted[rows].numpy().astype(np.float64)
            if found.shape != wanted.shape or not (np.abs(found - wanted) <= TOLERANCE * (1 + np.abs(wanted))).all():
                worst = np.abs(found - wanted).max() if found.shape == wanted.shape else f"shape {found.shape}"
                raise ValueError(
                    f"stage {stage.i + 1}: {name} differs in onnxruntime ({worst}, expected {wanted.shape} within "
                    f"{TOLERANCE}): the model may take decisions on its inputs, which an export fixes"
                )


def _example(model: MultiExitModel, prepare: Preparation, batch: int, less: int) -> tuple[Tensor, int]:
    """Return a random batch and its number of tokens (0 for images)."""
    random = torch.Generator().manual_seed(0)
    if isinstance(prepare, ImagePreparation):
        return torch.randn(batch, *prepare.shape, generator=random), 0
    length = min(prepare.max_tokens, 9) - less
    x = model.blank((length,)).repeat(batch, 1)  # (B, T)
    if hasattr(model, "vocabulary"):
        x = torch.randint(model.vocabulary.size, (batch, length), generator=random)
        x[x == prepare.pad] = model.blank((1,)).item()
    x[1, length - 1 :] = prepare.pad
    return x, length


def cost_coefficients(model: MultiExitModel, prepare: Preparation) -> tuple[tuple[float, ...], ...]:
    """Return the coefficients of the cost of each exit, (L, 1) for images or (L, 3) for texts."""
    if isinstance(prepare, ImagePreparation):
        return tuple((float(macs),) for macs in exit_costs(model, prepare.shape).macs)
    one, two, three = (exit_costs(model, (length,)).macs for length in (1, 2, 3))  # (L,) each
    c = (three - 2 * two + one) / 2
    b = two - one - 3 * c
    a = one - b - c
    length = prepare.max_tokens
    counted, expected = exit_costs(model, (length,)).macs, a + b * length + c * length**2  # (L,) each
    if not np.array_equal(counted, expected):
        raise ValueError(
            f"cost: {counted.tolist()} MACs for a text of {length} tokens; expected {expected.tolist()}, since costs "
            "are stored as a + b·T + c·T² in the number of tokens T"
        )
    return tuple(map(tuple, np.stack([a, b, c], axis=1).tolist()))


def _write_tokenizer(prepare: TextPreparation, folder: Path) -> TextPreparation:
    """Write the tokenizer to the folder, unless it is there. Return the preparation with its file."""
    from offramp.datasets.text import load_tokenizer

    tokenizer = getattr(load_tokenizer(prepare.tokenizer), "backend_tokenizer", None)
    if tokenizer is None:
        raise ValueError(f"tokenizer {prepare.tokenizer!r} has no fast version, which a bundle needs")
    text = tokenizer.to_str()
    same = (file for file in folder.glob("tokenizer*.json") if file.read_text(encoding="utf-8") == text)
    number = len(list(folder.glob("tokenizer*.json")))
    file = next(same, folder / (f"tokenizer-{number + 1}.json" if number else "tokenizer.json"))
    file.write_text(text, encoding="utf-8")
    return replace(prepare, tokenizer=file.name)


def _without(stage: Stage) -> tuple[str, ...]:
    return tuple(name for name in stage.outputs if name != "similarity")


@contextmanager
def _quiet():
    """Hide the warnings and messages of the exporter, which are for its developers."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _one_table() -> AbstractContextManager:
    """Let all exports share the exporter's table of operators, which torch would build anew for each stage.

    That takes most of the time of a small stage. With a version of torch that keeps no such table, nothing is changed.
    """
    try:
        registry = import_module("torch.onnx._internal.exporter._registration").ONNXRegistry
        build = registry.from_torchlib
    except (ImportError, AttributeError):
        return nullcontext()
    return patch.object(registry, "from_torchlib", partial(_table, build))


@cache
def _table(build: Callable, **options) -> Any:
    return build(**options)
