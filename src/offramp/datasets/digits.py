"""The handwritten digits of scikit-learn: 1,797 grey images of 8 × 8 pixels, included in that package."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from offramp.datasets.base import InMemoryDataset


def load_digits(shift: int = 1) -> InMemoryDataset:
    """Load the digits as one pool, "all", because the source has no test set.

    Pixels are scaled from 0 … 16 to −1 … 1 (our choice). Images are not flipped, because a flipped digit is invalid.

    Parameters
    ----------
    shift : int
        Maximum random shift by augmentation, in pixels in each direction.
    """
    pixels, labels = _source()
    return InMemoryDataset(
        name="digits",
        classes=10,
        image_shape=(1, 8, 8),
        highest=16,
        labels={"all": labels},
        pixels={"all": torch.from_numpy(pixels)[:, None]},
        mean=(8.0,),
        std=(8.0,),
        shift=shift,
        flip=False,
    )


def _source() -> tuple[np.ndarray, np.ndarray]:
    """Read the data of `sklearn.datasets.load_digits` without importing scikit-learn, which takes two seconds."""
    table = np.loadtxt(Path(find_spec("sklearn").origin).parent / "datasets/data/digits.csv.gz", delimiter=",")
    return table[:, :-1].reshape(-1, 8, 8).astype(np.uint8), table[:, -1].astype(np.int64)  # (N, 8, 8), (N,)
