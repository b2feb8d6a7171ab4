"""scikit-learn's handwritten digits: 1,797 grey images of 8 × 8, shipped with the package."""

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
    from sklearn.datasets import load_digits as load_source

    source = load_source()
    return InMemoryDataset(
        name="digits",
        classes=10,
        image_shape=(1, 8, 8),
        labels={"all": source.target.astype(np.int64)},
        pixels={"all": torch.from_numpy(source.images.astype(np.uint8))[:, None]},
        mean=(8.0,),
        std=(8.0,),
        shift=shift,
        flip=False,
    )
