"""Exit heads: what they read of a state, and their training from cached features, by distillation or with labels."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from offramp._io.arrays import open_arrays, save_arrays
from offramp._io.progress import progress_bar

WIDEST = 512  # features of a state; our choice, as are all constants of this module
GRIDS = (4, 2, 1)  # cells per axis to which images are pooled
HIDDEN = 128  # width of a head with a hidden layer
GAIN = 0.01  # share by which a hidden layer must reduce the held-out loss
EPOCHS, STEPS, BATCH, RATE, DECAY = 20, 600, 256, 5e-3, 1e-2  # at least so many epochs and steps
MOST = 150  # epochs, with few samples
KIND = "offramp-head/1"


class ImagePool(nn.Module):
    """The mean of each channel in the cells of a grid, as in adaptive average pooling, (B, C · G²).

    It is written as two products of matrices, which every runtime has for every size.

    Parameters
    ----------
    height, width : int
    grid : int
        G.
    last : bool
        Whether channels are the last dimension: (B, H, W, C) in place of (B, C, H, W).
    """

    def __init__(self, height: int, width: int, grid: int, last: bool) -> None:
        super().__init__()
        self.last = last
        self.register_buffer("rows", _cells(height, grid))  # (G, H)
        self.register_buffer("columns", _cells(width, grid).T.contiguous())  # (W, G)

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 3, 1, 2) if self.last else x
        return (self.rows @ (x @ self.columns)).flatten(1)


class TokenPool(nn.Module):
    """The first token and the mean over all tokens that are no padding, (B, 2 D)."""

    def forward(self, x: Tensor, kept: Tensor | None = None) -> Tensor:
        if kept is None:
            return torch.cat([x[:, 0], x.mean(1)], dim=1)
        mask = kept[..., None].to(x.dtype)  # (B, T, 1)
        return torch.cat([x[:, 0], (x * mask).sum(1) / mask.sum(1)], dim=1)


class Head(nn.Module):
    """An exit: pooling, standardisation, and a linear layer or two with a ReLU between them."""

    def __init__(self, pool: nn.Module, mean: Tensor, std: Tensor, layers: nn.Module) -> None:
        super().__init__()
        self.pool, self.layers = pool, layers
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, *state: Tensor) -> Tensor:
        return self.of_features(self.pool(*state))

    def of_features(self, features: Tensor) -> Tensor:
        return self.layers((features - self.mean) / self.std)


def pool_of(state: Sequence[Tensor]) -> nn.Module:
    """Return what makes features (B, F) of a state, for its shape: images, tokens, or vectors."""
    x = state[0]
    if x.ndim == 2:
        return nn.Identity()
    if x.ndim == 3:
        return TokenPool()
    last = x.shape[1] == x.shape[2] != x.shape[3]  # as in Swin
    height, width = x.shape[1:3] if last else x.shape[2:]
    channels = x.shape[3] if last else x.shape[1]
    grid = next((g for g in GRIDS if channels * g * g <= WIDEST and g <= min(height, width)), 1)
    return ImagePool(height, width, grid, last)


def train_heads(
    pools: Sequence[nn.Module],
    features: Sequence[np.ndarray],
    teacher: np.ndarray,
    labels: np.ndarray | None,
    held: np.ndarray,
    folder: Path,
    key: str,
    *,
    seed: int = 0,
    progress: bool = True,
) -> list[Head]:
    """Train the head of each block. Heads that a run before this one has trained are read from the folder.

    The loss is the cross-entropy with the probabilities of the network, which needs no labels. With labels, it is the
    mean of this and of the cross-entropy with the labels.

    Parameters
    ----------
    pools : sequence of Module
        One for each block.
    features : sequence of ndarray of shape (N, F)
    teacher : ndarray of shape (N, C)
        Logits of the network.
    labels : ndarray of shape (N,), or None
    held : ndarray of shape (N,), bool
        Samples that are not trained on. The best epoch, and whether a hidden layer pays, are chosen on them.
    folder : path
    key : str
        Of the features. Heads of other features are trained again.
    seed : int
    progress : bool
    """
    digest = hashlib.sha256(
        f"{key} {seed} {held.tobytes()!r} {None if labels is None else labels.tobytes()!r}".encode()
    )
    digest.update(teacher.tobytes())
    targets = torch.from_numpy(teacher).softmax(1)  # (N, C)
    if labels is not None:
        targets = (targets + nn.functional.one_hot(torch.from_numpy(labels), teacher.shape[1])) / 2
    heads = []
    with progress_bar(len(pools), "training heads", shown=progress, unit="head") as bar:
        for i, (pool, values) in enumerate(zip(pools, features), start=1):
            path = Path(folder, f"head-{i:02d}.safetensors")
            head = _read(path, pool, digest.hexdigest())
            if head is None:
                head = _train(pool, values, targets, held, seed)
                _write(path, head, digest.hexdigest())
            heads.append(head)
            bar.update()
    return heads


def _train(pool: nn.Module, values: np.ndarray, targets: Tensor, held: np.ndarray, seed: int) -> Head:
    x = torch.from_numpy(values)  # (N, F)
    rows = torch.from_numpy(~held)
    mean, std = x[rows].mean(0), x[rows].std(0)  # (F,) each
    std = torch.where(std > 1e-6, std, torch.ones_like(std))
    tried: list[tuple[float, Head]] = []
    n_in, n_out = x.shape[1], targets.shape[1]
    for hidden in (None, HIDDEN):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            layers: nn.Module = nn.Linear(n_in, n_out)
            if hidden is not None:
                layers = nn.Sequential(nn.Linear(n_in, hidden), nn.ReLU(), nn.Linear(hidden, n_out))
            loss = _fit(layers, ((x - mean) / std).float(), targets, rows)
        tried.append((loss, Head(pool, mean, std, layers).eval().requires_grad_(False)))
    (plain, linear), (other, deeper) = tried
    return deeper if other < plain * (1 - GAIN) else linear


def _fit(layers: nn.Module, x: Tensor, targets: Tensor, rows: Tensor) -> float:
    """Train with AdamW and a cosine schedule, and keep the epoch with the lowest held-out loss, which is returned."""
    own, wanted = x[rows], targets[rows]
    batches = -(-len(own) // BATCH)
    epochs = max(EPOCHS, min(MOST, -(-STEPS // batches)))
    optimizer = torch.optim.AdamW(layers.parameters(), RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=epochs * batches)
    lowest, kept = np.inf, {}
    for _ in range(epochs):
        for batch in torch.randperm(len(own)).chunk(batches):
            optimizer.zero_grad(set_to_none=True)
            cross_entropy(layers(own[batch]), wanted[batch]).backward()
            optimizer.step()
            schedule.step()
        with torch.no_grad():
            loss = cross_entropy(layers(x[~rows]), targets[~rows]).item()
        if loss < lowest:
            lowest, kept = loss, {name: value.clone() for name, value in layers.state_dict().items()}
    layers.load_state_dict(kept)
    return lowest


def _write(path: Path, head: Head, key: str) -> None:
    arrays = {name: value.numpy() for name, value in head.layers.state_dict().items()}
    save_arrays(path, KIND, arrays | {"mean": head.mean.numpy(), "std": head.std.numpy()}, {"key": key})


def _read(path: Path, pool: nn.Module, key: str) -> Head | None:
    """Return the head in a file, or None if there is none of these features."""
    if not path.exists():
        return None
    _, stored, metadata = open_arrays(path, KIND)
    if metadata.get("key") != key:
        return None
    arrays = {name: torch.from_numpy(np.array(array.read())) for name, array in stored.items()}
    mean, std = arrays.pop("mean"), arrays.pop("std")
    if "weight" in arrays:
        layers: nn.Module = nn.Linear(*arrays["weight"].shape[::-1])
    else:
        first, second = (nn.Linear(*arrays[f"{i}.weight"].shape[::-1]) for i in (0, 2))
        layers = nn.Sequential(first, nn.ReLU(), second)
    layers.load_state_dict(arrays)
    return Head(pool, mean, std, layers).eval().requires_grad_(False)


def _cells(size: int, grid: int) -> Tensor:
    """Return the weights (G, S) with which the mean of each cell is taken, as in adaptive average pooling."""
    weights = torch.zeros(grid, size)
    for g in range(grid):
        begin, end = g * size // grid, -(-(g + 1) * size // grid)
        weights[g, begin:end] = 1 / (end - begin)
    return weights
