"""What every dataset offers: labels, inputs by their place in a pool, and torch datasets of a split."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
import pandas as pd
import torch
from torch.nn.functional import pad


class Published(NamedTuple):
    """What is known of a dataset before it is fetched.

    Attributes
    ----------
    pools : mapping of str to int
        Samples in each pool.
    classes : int
    files : sequence of str
        Its files in the data folder, once they are fetched.
    image_shape : tuple of int, or None
        Channels, height and width; None for texts.
    """

    pools: Mapping[str, int]
    classes: int
    files: Sequence[str] = ()
    image_shape: tuple[int, ...] | None = None


Loader = TypeVar("Loader", bound=Callable)


def published(describe: Callable[..., Published]) -> Callable[[Loader], Loader]:
    """Decorate a loader of a dataset that has to be fetched: `describe(**options)` tells its size beforehand.

    `offramp plan` estimates a study by it where the dataset is not there yet. Loaders that fetch nothing need none.
    """

    def decorate(loader: Loader) -> Loader:
        loader.published = describe
        return loader

    return decorate


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset(ABC):
    """Labelled inputs in one or more source pools.

    Parameters
    ----------
    name : str
        As the registry calls it.
    classes : int
        Labels are 0 … classes − 1.
    labels : mapping of str to ndarray of shape (N,)
        int64, for each pool: "train" and "test" where the source has its own test set, else "all".
    metric : {"accuracy", "f1", "matthews"}
        What the source is reported with.
    """

    name: str
    classes: int
    labels: Mapping[str, np.ndarray] = field(repr=False)
    metric: Literal["accuracy", "f1", "matthews"] = "accuracy"

    @property
    @abstractmethod
    def input_options(self) -> dict[str, Any]:
        """What a model must know of its inputs: keyword arguments of its constructor."""

    @abstractmethod
    def inputs(self, pool: str, index: np.ndarray, *, augment: bool) -> torch.Tensor:
        """What a model sees, (B, …).

        Parameters
        ----------
        pool : str
        index : ndarray of shape (B,)
            Places in the pool.
        augment : bool
            Train-time augmentation, drawn from torch's global generator; else test-time transforms.
        """

    def lengths(self, pool: str, index: np.ndarray) -> np.ndarray | None:
        """How long each input is, (B,) int64; None where all are of one size."""
        return None

    def samples(self, splits: pd.DataFrame, split: str, *, augment: bool = False) -> "Samples":
        """The inputs and labels of one split, in the order of its rows.

        Raises
        ------
        ValueError
            If the table has no rows of this split.
        """
        rows = splits[splits["split"] == split]
        if rows.empty:
            raise ValueError(f"no {split!r} samples in the splits: only {', '.join(splits['split'].unique())}")
        return Samples(self, rows["pool"].iloc[0], rows["index"].to_numpy(), augment)


class Samples(torch.utils.data.Dataset):
    """Some samples of one pool; `samples[3]` is one, `samples[[3, 5]]` a batch, as in torch's TensorDataset.

    Attributes
    ----------
    index : ndarray of shape (N,), int64
        The samples' places in their pool.
    labels : ndarray of shape (N,), int64
    lengths : ndarray of shape (N,), int64, or None
        Tokens of each; None for images.
    """

    def __init__(self, dataset: Dataset, pool: str, index: np.ndarray, augment: bool):
        self.dataset, self.pool, self.index, self.augment = dataset, pool, index, augment
        self.labels = dataset.labels[pool][index]

    def __len__(self) -> int:
        return len(self.index)

    @property
    def lengths(self) -> np.ndarray | None:
        return self.dataset.lengths(self.pool, self.index)

    def __getitem__(self, positions) -> tuple[torch.Tensor, torch.Tensor]:
        if np.ndim(positions) == 0:
            inputs, labels = self[[positions]]
            return inputs[0], labels[0]
        inputs = self.dataset.inputs(self.pool, self.index[positions], augment=self.augment)  # (B, …)
        return inputs, torch.from_numpy(self.labels[positions])


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageDataset(Dataset):
    """Labelled images: normalised, (B, C, H, W) float32.

    Parameters
    ----------
    image_shape : tuple of int
        (C, H, W), what a model sees.
    """

    image_shape: tuple[int, int, int]

    @property
    def input_options(self) -> dict[str, Any]:
        return {"image_shape": self.image_shape}


@dataclass(frozen=True, kw_only=True, eq=False)
class InMemoryDataset(ImageDataset):
    """Small images, held as they came and prepared a batch at a time.

    Parameters
    ----------
    pixels : mapping of str to Tensor of shape (N, C, H, W)
        uint8, for each pool.
    mean, std : tuple of float
        One per channel, in units of the pixels.
    shift : int
        Augmentation moves an image by up to so many pixels each way; what comes in at the border is 0.
    flip : bool
        Augmentation mirrors half of the images, left to right.
    """

    pixels: Mapping[str, torch.Tensor] = field(repr=False)
    mean: tuple[float, ...]
    std: tuple[float, ...]
    shift: int
    flip: bool

    def inputs(self, pool: str, index: np.ndarray, *, augment: bool) -> torch.Tensor:
        pixels = self.pixels[pool][torch.from_numpy(index)]  # (B, C, H, W)
        if augment:
            pixels = shift_and_flip(pixels, self.shift, self.flip)
        mean, std = torch.tensor([self.mean, self.std])[:, :, None, None]  # (C, 1, 1) each
        return (pixels - mean) / std


@dataclass(frozen=True)
class Vocabulary:
    """What a model must know of the tokens that it reads.

    Parameters
    ----------
    size : int
        Token ids are 0 … size − 1.
    pad, separator : int
        The ids that fill up a batch, and that end a sentence.
    tokenizer : str
        The name that `pretrained.source_of` knows.
    max_tokens : int
        The most that a text has, the special ones among them.
    """

    size: int
    pad: int
    separator: int
    tokenizer: str
    max_tokens: int


@dataclass(frozen=True, kw_only=True, eq=False)
class TextDataset(Dataset):
    """Labelled texts as token ids, (B, T) int64: each batch padded to its longest text, on the right. Not augmented.

    Parameters
    ----------
    vocabulary : Vocabulary
    tokens : mapping of str to ndarray of shape (sum of lengths,)
        int32, for each pool: the ids of all its texts, one text after the other.
    offsets : mapping of str to ndarray of shape (N + 1,)
        int64: text i is `tokens[offsets[i]:offsets[i + 1]]`.
    """

    vocabulary: Vocabulary
    tokens: Mapping[str, np.ndarray] = field(repr=False)
    offsets: Mapping[str, np.ndarray] = field(repr=False)

    @property
    def input_options(self) -> dict[str, Any]:
        return {"vocabulary": self.vocabulary}

    def inputs(self, pool: str, index: np.ndarray, *, augment: bool) -> torch.Tensor:
        starts, lengths = self.offsets[pool][index], self.lengths(pool, index)
        filled = np.arange(lengths.max(initial=0)) < lengths[:, None]  # (B, T)
        batch = np.full(filled.shape, self.vocabulary.pad, np.int64)
        batch[filled] = self.tokens[pool][(starts[:, None] + np.arange(filled.shape[1]))[filled]]
        return torch.from_numpy(batch)

    def lengths(self, pool: str, index: np.ndarray) -> np.ndarray:
        offsets = self.offsets[pool]
        return offsets[index + 1] - offsets[index]


def shift_and_flip(pixels: torch.Tensor, shift: int, flip: bool) -> torch.Tensor:
    """The usual random crop of zero-padded images, for a whole batch at once.

    Each image moves by its own draw of −shift … shift pixels, and is mirrored with probability ½ if `flip`.

    Parameters
    ----------
    pixels : Tensor of shape (B, C, H, W)
    """
    b, _, h, w = pixels.shape
    windows = pad(pixels, [shift] * 4).unfold(2, h, 1).unfold(3, w, 1)  # (B, C, tops, lefts, H, W)
    top, left = torch.randint(2 * shift + 1, (2, b))  # (B,) each
    moved = windows[torch.arange(b), :, top, left]  # (B, C, H, W)
    if flip:
        moved = torch.where(torch.rand(b, 1, 1, 1) < 0.5, moved.flip(3), moved)
    return moved
