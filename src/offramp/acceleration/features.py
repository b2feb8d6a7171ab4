"""Features of every block, computed once and cached on disk in chunks, so that a run that was ended goes on."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from offramp._io.arrays import open_arrays, save_arrays
from offramp._io.progress import progress_bar
from offramp.acceleration.blocks import Network
from offramp.acceleration.data import Inputs
from offramp.training.device import default_device

CHUNK, BATCH = 512, 64  # samples per file, and per batch
KIND = "offramp-features/1"


def fingerprint(network: Network, inputs: Inputs) -> str:
    """Return a hash of the weights, of the places and of the inputs, by which a cache is recognised."""
    digest = hashlib.sha256(repr((network.places, inputs.preparation, inputs.names)).encode())
    for name, value in network.module.state_dict().items():
        digest.update(f"{name} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy() if value.ndim else b"")
    for array in inputs.stored:
        digest.update(np.ascontiguousarray(array).data.cast("B"))
    return digest.hexdigest()


def compute_features(
    network: Network,
    pools: Sequence[nn.Module],
    inputs: Inputs,
    folder: Path,
    key: str,
    *,
    title: str = "computing features",
    progress: bool = True,
) -> tuple[list[np.ndarray], np.ndarray]:
    """Return the features of every block, (N, F) each, and the logits of the network, (N, C).

    Chunks that are in the folder already, of the same key, are read. Each chunk is written whole or not at all.

    Raises
    ------
    ValueError
        If a chunk is damaged, or if a feature is not finite.
    OSError
        If there is no room for a chunk.
    """
    device = default_device()
    chunks = np.array_split(np.arange(len(inputs)), -(-len(inputs) // CHUNK))
    found = []
    for stage in (network.module, *network.all_stages):  # stages share parameters, but not all buffers
        stage.to(device)
    pools = [pool.to(device) for pool in pools]
    with progress_bar(len(chunks), title, shown=progress) as bar, torch.inference_mode():
        for k, rows in enumerate(chunks):
            path = Path(folder, f"features-{k:05d}.safetensors")
            arrays = _read(path, key)
            if arrays is None:
                arrays = _compute(network, pools, inputs, rows, device)
                save_arrays(path, KIND, arrays, {"key": key})
            found.append(arrays)
            bar.update()
    joined = {name: np.concatenate([arrays[name] for arrays in found]) for name in found[0]}
    for module in (network.module, *network.all_stages, *pools):
        module.cpu()
    return [joined[f"block-{i:02d}"] for i in range(len(pools))], joined["logits"]


def _compute(network: Network, pools: Sequence[nn.Module], inputs: Inputs, rows: np.ndarray, device: str) -> dict:
    order = rows if inputs.lengths is None else rows[np.argsort(inputs.lengths[rows], kind="stable")]
    parts: dict[str, list[np.ndarray]] = {}
    for batch in np.array_split(order, -(-len(order) // BATCH)):
        *states, (logits,) = network.states(inputs.batch(batch).to(device))
        values = [pool(*state) for pool, state in zip(pools, states)]
        for name, value in [*((f"block-{i:02d}", value) for i, value in enumerate(values)), ("logits", logits)]:
            if not torch.isfinite(value).all():
                raise ValueError(f"{name}: a value is not finite for one of the inputs {batch[0]} to {batch[-1]}")
            parts.setdefault(name, []).append(value.float().cpu().numpy())
    back = np.argsort(order, kind="stable")  # to the order of `rows`, which ascend
    return {name: np.concatenate(each)[back] for name, each in parts.items()}


def _read(path: Path, key: str) -> dict[str, np.ndarray] | None:
    """Return the arrays of a chunk, or None if there is none of this key."""
    if not path.exists():
        return None
    _, stored, metadata = open_arrays(path, KIND)
    return {name: array.read() for name, array in stored.items()} if metadata.get("key") == key else None
