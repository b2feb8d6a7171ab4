"""Base classes of datasets: labels, inputs by index, and torch datasets of a split."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.nn.functional import pad

from offramp.datasets.labelled import Labelled
from offramp.datasets.preparing import ImagePreparation, TextPreparation, padded


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset(Labelled, ABC):
    """Labelled inputs in one or more source pools. The parameters are those of `Labelled`."""

    @property
    @abstractmethod
    def preparation(self) -> ImagePreparation | TextPreparation:
        """How raw inputs become model inputs at evaluation."""

    @property
    @abstractmethod
    def input_options(self) -> dict[str, Any]:
        """Keyword arguments that describe the inputs, for the constructor of a model."""

    @abstractmethod
    def inputs(self, pool: str, index: np.ndarray, *, augment: bool) -> torch.Tensor:
        """Return the model inputs for some samples, (B, …).

        Parameters
        ----------
        pool : str
        index : ndarray of shape (B,)
            Indices of the samples in the pool.
        augment : bool
            Apply training augmentation, with random numbers from torch's global generator. Otherwise apply the
            test-time transforms.
        """

    def lengths(self, pool: str, index: np.ndarray) -> np.ndarray | None:
        """Length of each input, (B,) int64, or None if all inputs have the same size."""
        return None

    @abstractmethod
    def corrupted(self, corruption, pool: str) -> "Dataset":
        """Return the same dataset with corrupted inputs in one pool.

        Parameters
        ----------
        corruption : Corruption
            See `datasets.corruptions`, which this module does not import: models do not depend on it.
        pool : str

        Raises
        ------
        ValueError
            If the corruption is for other inputs, or if the dataset cannot be corrupted.
        """

    def samples(self, splits: pd.DataFrame, split: str, *, augment: bool = False, corruption=None) -> "Samples":
        """Return the inputs and labels of one split, in the order of its rows.

        Parameters
        ----------
        splits : DataFrame
            From `make_splits`.
        split : str
        augment : bool
            As for `inputs`.
        corruption : Corruption, optional
            Of the inputs, before their preparation.

        Raises
        ------
        ValueError
            If the table has no rows for this split, or if the inputs cannot be corrupted in this way.
        """
        rows = splits[splits["split"] == split]
        if rows.empty:
            raise ValueError(f"no {split!r} samples in the splits: only {', '.join(splits['split'].unique())}")
        pool = rows["pool"].iloc[0]
        dataset = self if corruption is None else self.corrupted(corruption, pool)
        return Samples(dataset, pool, rows["index"].to_numpy(), augment)


class Samples(torch.utils.data.Dataset):
    """Samples of one pool. `samples[3]` is one sample and `samples[[3, 5]]` a batch, as in torch's TensorDataset.

    Attributes
    ----------
    index : ndarray of shape (N,), int64
        Indices of the samples in their pool.
    labels : ndarray of shape (N,), int64
    lengths : ndarray of shape (N,), int64, or None
        Number of tokens of each text; None for images.
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
    """Labelled images. Inputs are normalised float32 tensors of shape (B, C, H, W).

    Parameters
    ----------
    image_shape : tuple of int
        Shape (C, H, W) of the model input.
    highest : int
        Value of a white pixel.
    corruption : Corruption, optional
        Of all images, unless they are augmented.
    """

    image_shape: tuple[int, int, int]
    highest: int = 255
    corruption: Any = None

    @property
    def input_options(self) -> dict[str, Any]:
        return {"image_shape": self.image_shape}

    def corrupted(self, corruption, pool: str) -> "ImageDataset":
        corruption.check("images")
        return replace(self, corruption=corruption)

    def prepared(self, pixels: np.ndarray, index: np.ndarray) -> torch.Tensor:
        """Return the model inputs (B, C, H, W) of stored pixels (B, C, H, W), which are corrupted first, if asked."""
        if self.corruption is not None:
            pixels = self.corruption.images(pixels, index, self.highest)
        return torch.from_numpy(self.preparation(pixels))


@dataclass(frozen=True, kw_only=True, eq=False)
class InMemoryDataset(ImageDataset):
    """Small images that are stored in memory unprocessed, and transformed batch by batch.

    Parameters
    ----------
    pixels : mapping of str to Tensor of shape (N, C, H, W)
        uint8 pixels of each pool.
    mean, std : tuple of float
        Mean and standard deviation per channel, in pixel units.
    shift : int
        Maximum random shift by augmentation, in pixels in each direction. The border is filled with 0.
    flip : bool
        Whether augmentation flips half of the images horizontally.
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
        return self.prepared(pixels.numpy(), index)

    @property
    def preparation(self) -> ImagePreparation:
        return ImagePreparation(shape=tuple(self.image_shape), mean=tuple(self.mean), std=tuple(self.std))


@dataclass(frozen=True)
class Vocabulary:
    """Description of the tokens that a text model reads.

    Parameters
    ----------
    size : int
        Token ids are 0 … size − 1.
    pad, separator : int
        Ids of the padding token and of the token that ends a sentence.
    tokenizer : str
        Name of the tokenizer, see `pretrained.source_of`.
    max_tokens : int
        Maximum number of tokens of a text, including special tokens.
    """

    size: int
    pad: int
    separator: int
    tokenizer: str
    max_tokens: int


@dataclass(frozen=True, kw_only=True, eq=False)
class TextDataset(Dataset):
    """Labelled texts. Inputs are token ids (B, T), int64, padded on the right to the longest text of the batch.

    There is no augmentation. `text.Texts` also knows the texts themselves.

    Parameters
    ----------
    vocabulary : Vocabulary
    tokens : mapping of str to ndarray of shape (sum of lengths,)
        int32 token ids of each pool: all texts, concatenated.
    offsets : mapping of str to ndarray of shape (N + 1,)
        int64 offsets of each pool: text i is `tokens[offsets[i]:offsets[i + 1]]`.
    columns : tuple of str
        Columns of the texts in its tables: one, or two for pairs of texts.
    """

    vocabulary: Vocabulary
    tokens: Mapping[str, np.ndarray] = field(repr=False)
    offsets: Mapping[str, np.ndarray] = field(repr=False)
    columns: tuple[str, ...] = ("text",)

    @property
    def preparation(self) -> TextPreparation:
        vocabulary = self.vocabulary
        return TextPreparation(
            tokenizer=vocabulary.tokenizer,
            max_tokens=vocabulary.max_tokens,
            pad=vocabulary.pad,
            columns=self.columns,
        )

    @property
    def input_options(self) -> dict[str, Any]:
        return {"vocabulary": self.vocabulary}

    def inputs(self, pool: str, index: np.ndarray, *, augment: bool) -> torch.Tensor:
        starts, lengths = self.offsets[pool][index], self.lengths(pool, index)
        return torch.from_numpy(padded(self.tokens[pool], starts, lengths, self.vocabulary.pad))

    def corrupted(self, corruption, pool: str) -> "TextDataset":
        raise ValueError(f"{self.name}: only token ids are known; a corruption needs the texts")

    def lengths(self, pool: str, index: np.ndarray) -> np.ndarray:
        offsets = self.offsets[pool]
        return offsets[index + 1] - offsets[index]


def shift_and_flip(pixels: torch.Tensor, shift: int, flip: bool) -> torch.Tensor:
    """Random crop of zero-padded images, for a whole batch at once.

    Each image is shifted by a separate random number of −shift … shift pixels per axis. If `flip`, it is flipped
    horizontally with probability ½.

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
