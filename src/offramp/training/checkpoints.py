"""Files with weights and checkpoints: safetensors with a checksum and the parameters of the training."""

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.optim import Optimizer

from offramp._io.arrays import open_arrays, save_arrays

WEIGHTS = "offramp-weights/1"
CHECKPOINT = "offramp-checkpoint/1"
log = logging.getLogger(__name__)


def save_weights(path: str | os.PathLike, model: nn.Module, parameters: Mapping[str, Any]) -> None:
    """Write the weights of a model with the parameters of its training, atomically."""
    _write(path, WEIGHTS, model.state_dict(), {"parameters": parameters, "torch": torch.__version__})


def load_weights(path: str | os.PathLike, model: nn.Module) -> dict[str, Any]:
    """Load trained weights into a model, and return the parameters of its training.

    Raises
    ------
    ValueError
        If the file was not written by `save_weights`, is damaged, or contains weights of another model.
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
    """Return the parameters in a file of weights, from which its model is built.

    Raises
    ------
    ValueError
        If the file was not written by `save_weights`, or is damaged.
    """
    return _read(path, WEIGHTS)[1]["parameters"]


def digest(splits: pd.DataFrame) -> str:
    """Return a hash of a table of splits. It is stored with the weights that were trained on it."""
    return hashlib.sha256(splits.to_csv(index=False).encode()).hexdigest()


def fingerprint(model: nn.Module, parameters: Mapping[str, Any]) -> str:
    """Return a hash that identifies a training run: its parameters, its initial weights and the version of torch."""
    # Copies, because the library does not take weights that share their memory
    weights = save({name: tensor.clone() for name, tensor in _on_cpu(model.state_dict()).items()})
    run = {**parameters, "torch": torch.__version__, "weights": hashlib.sha256(weights).hexdigest()}
    return hashlib.sha256(json.dumps(run, sort_keys=True).encode()).hexdigest()


def save_checkpoint(path: Path, run: str, model: nn.Module, optimizer: Optimizer, history: list[dict]) -> None:
    """Write the complete state of a training run. `run` is its fingerprint."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for i, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{i}.{key}": value for key, value in state.items() if value is not None}
    _write(path, CHECKPOINT, tensors, {"fingerprint": run, "history": history})


def resume(path: Path, run: str, model: nn.Module, optimizer: Optimizer) -> list[dict]:
    """Load the state of model and optimizer from a checkpoint, and return the history so far.

    If there is no checkpoint, nothing is changed and the history is empty. A checkpoint that is damaged or belongs to
    another run is renamed, with a warning.
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
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    weights, state = {}, {}
    for name, tensor in tensors.items():
        part, name = name.split(".", 1)
        if part == "model":
            weights[name] = tensor
        else:
            i, key = name.split(".")
            like = parameters[int(i)]
            if tensor.shape == like.shape:  # fused optimizers need the memory layout of the parameter
                tensor = torch.empty_like(like, requires_grad=False).copy_(tensor)
            state.setdefault(int(i), {})[key] = tensor
    model.load_state_dict(weights)
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    return about["history"]


def _write(path: str | os.PathLike, kind: str, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    save_arrays(path, kind, {name: tensor.numpy() for name, tensor in _on_cpu(tensors).items()}, about)


def _read(path: str | os.PathLike, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    _, stored, about = open_arrays(path, kind)
    return {name: torch.from_numpy(np.array(array.read())) for name, array in stored.items()}, about


def _on_cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
