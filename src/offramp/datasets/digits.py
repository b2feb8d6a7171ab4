"""scikit-learn's handwritten digits: 1,797 grey images of 8 × 8, shipped with the package."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from offramp.datasets.base import InMemoryDataset


def load_digits(shift: int = 1) -> InMemoryDataset:
    """The digits as one pool, "all": the source has no test set of its own.

    Normalised from 0 … 16 to −1 … 1 (our choice), and never mirrored: a mirrored digit is no digit.

    Parameters
    ----------
    shift : int
        Pixels by which augmentation may move an image each way.
    """
    pixels, labels = _source()
    return InMemoryDataset(
        name="digits",
        classes=10,
        image_shape=(1, 8, 8),
        labels={"all": labels},
        pixels={"all": torch.from_numpy(pixels)[:, None]},
        mean=(8.0,),
        std=(8.0,),
        shift=shift,
        flip=False,
    )


def _source() -> tuple[np.ndarray, np.ndarray]:
    """What `sklearn.datasets.load_digits` gives, without the two seconds that its import takes in every job."""
    table = np.loadtxt(Path(find_spec("sklearn").origin).parent / "datasets/data/digits.csv.gz", delimiter=",")
    return table[:, :-1].reshape(-1, 8, 8).astype(np.uint8), table[:, -1].astype(np.int64)  # (N, 8, 8), (N,)
