"""What every dataset offers: labels, images by their place in a pool, and torch datasets of a split."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from torch.nn.functional import pad


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageDataset(ABC):
    """Labelled images in one or more source pools.

    Parameters
    ----------
    name : str
        As the registry calls it.
    classes : int
        Labels are 0 … classes − 1.
    image_shape : tuple of int
        (C, H, W), what a model sees.
    labels : mapping of str to ndarray of shape (N,)
        int64, for each pool: "train" and "test" where the source has its own test set, else "all".
    """

    name: str
    classes: int
    image_shape: tuple[int, int, int]
    labels: Mapping[str, np.ndarray] = field(repr=False)

    @abstractmethod
    def images(self, pool: str, index: np.ndarray, *, augment: bool) -> torch.Tensor:
        """Normalised images, (B, C, H, W) float32.

        Parameters
        ----------
        pool : str
        index : ndarray of shape (B,)
            Places in the pool.
        augment : bool
            Train-time augmentation, drawn from torch's global generator; else test-time transforms.
        """

    def samples(self, splits: pd.DataFrame, split: str, *, augment: bool = False) -> "Samples":
        """The images and labels of one split, in the order of its rows.

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
    """

    def __init__(self, dataset: ImageDataset, pool: str, index: np.ndarray, augment: bool):
        self.dataset, self.pool, self.index, self.augment = dataset, pool, index, augment
        self.labels = dataset.labels[pool][index]

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, positions) -> tuple[torch.Tensor, torch.Tensor]:
        if np.ndim(positions) == 0:
            images, labels = self[[positions]]
            return images[0], labels[0]
        images = self.dataset.images(self.pool, self.index[positions], augment=self.augment)  # (B, C, H, W)
        return images, torch.from_numpy(self.labels[positions])


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

    def images(self, pool: str, index: np.ndarray, *, augment: bool) -> torch.Tensor:
        pixels = self.pixels[pool][torch.from_numpy(index)]  # (B, C, H, W)
        if augment:
            pixels = shift_and_flip(pixels, self.shift, self.flip)
        mean, std = torch.tensor([self.mean, self.std])[:, :, None, None]  # (C, 1, 1) each
        return (pixels - mean) / std


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
