"""Weights and checkpoints on disk: safetensors with a checksum and what made them."""

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from offramp.files import whole_file

WEIGHTS = "offramp-weights/1"
CHECKPOINT = "offramp-checkpoint/1"
log = logging.getLogger(__name__)


def save_weights(path: str | os.PathLike, model: nn.Module, parameters: Mapping[str, Any]) -> None:
    """Write a model's weights with the parameters that made them, whole or not at all."""
    _write(path, WEIGHTS, model.state_dict(), {"parameters": parameters, "torch": torch.__version__})


def load_weights(path: str | os.PathLike, model: nn.Module) -> dict[str, Any]:
    """Load trained weights into a model, and return the parameters that made them.

    Raises
    ------
    ValueError
        If the file is not one that `save_weights` wrote, is damaged, or holds the weights of another model.
    """
    tensors, about = _read(path, WEIGHTS)
    expected = model.state_dict()
    for name in sorted(expected.keys() | tensors.keys()):
        found, wanted = (list(t[name].shape) if name in t else "missing" for t in (tensors, expected))
        if found != wanted:
            raise ValueError(f"{path}: another model's weights: {name} is {found}, expected {wanted}")
    model.load_state_dict(tensors)
    return about["parameters"]


def read_parameters(path: str | os.PathLike) -> dict[str, Any]:
    """The parameters that made a file of weights: what its model is built from.

    Raises
    ------
    ValueError
        If the file is not one that `save_weights` wrote, or is damaged.
    """
    return _read(path, WEIGHTS)[1]["parameters"]


def fingerprint(model: nn.Module, parameters: Mapping[str, Any]) -> str:
    """What tells one training from another: its parameters, its initial weights and torch's version."""
    run = {**parameters, "torch": torch.__version__, "weights": _checksum(_on_cpu(model.state_dict()))}
    return hashlib.sha256(json.dumps(run, sort_keys=True).encode()).hexdigest()


def save_checkpoint(path: Path, run: str, model: nn.Module, optimizer: Optimizer, history: list[dict]) -> None:
    """Write all that the rest of a training needs; `run` is its fingerprint."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for i, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{i}.{key}": value for key, value in state.items() if value is not None}
    _write(path, CHECKPOINT, tensors, {"fingerprint": run, "history": history})


def resume(path: Path, run: str, model: nn.Module, optimizer: Optimizer) -> list[dict]:
    """Bring model and optimizer to where the checkpoint left them, and return the history so far.

    Without a checkpoint nothing is done and the history is empty. A damaged one, or one of another run, is
    set aside with a warning.
    """
    if not path.exists():
        return []
    try:
        tensors, about = _read(path, CHECKPOINT)
        if about["fingerprint"] != run:
            raise ValueError(f"{path}: checkpoint of another run (parameters, splits, weights or torch differ)")
    except ValueError as error:
        aside = path.replace(path.with_name(f"{path.name}.old"))
        log.warning("%s; set aside as %s, training starts anew", error, aside.name)
        return []
    parameters = list(model.parameters())
    weights, state = {}, {}
    for name, tensor in tensors.items():
        part, name = name.split(".", 1)
        if part == "model":
            weights[name] = tensor
        else:
            i, key = name.split(".")
            like = parameters[int(i)]
            if tensor.shape == like.shape:  # fused optimizers want it laid out in memory as its parameter is
                tensor = torch.empty_like(like, requires_grad=False).copy_(tensor)
            state.setdefault(int(i), {})[key] = tensor
    model.load_state_dict(weights)
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    return about["history"]


def _write(path: str | os.PathLike, kind: str, tensors: Mapping[str, Tensor], about: dict[str, Any]) -> None:
    tensors = _on_cpu(tensors)
    # One key: of several, safetensors changes the order from run to run, and so the file's bytes.
    metadata = {"offramp": json.dumps({"format": kind, "sha256": _checksum(tensors), **about})}
    with whole_file(path) as partial:
        save_file(tensors, partial, metadata)


def _read(path: str | os.PathLike, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {}).get("offramp", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{path}: not a readable file of safetensors ({error})") from None
    if about.get("format") != kind:
        raise ValueError(f"{path}: not written by training, expected metadata that say format: {kind}")
    if about["sha256"] != _checksum(tensors):
        raise ValueError(f"{path}: damaged, its checksum differs from the one written")
    return tensors, about


def _on_cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _checksum(tensors: dict[str, Tensor]) -> str:
    return hashlib.sha256(save(tensors)).hexdigest()
