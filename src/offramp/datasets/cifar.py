"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009): 60,000 colour images of 32 × 32 pixels, from the binary archives."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from offramp.datasets.base import InMemoryDataset
from offramp.datasets.download import data_folder, fetch, read_checked, read_tar
from offramp.datasets.labelled import Published, published

URL = "https://www.cs.toronto.edu/~kriz/"


@dataclass(frozen=True)
class Archive:
    """Description of an archive.

    Each sample consists of label bytes, the last of which is the class, and of 3 × 32 × 32 pixels.
    """

    name: str
    sha256: str
    members: Mapping[str, list[str]]  # files of each pool
    label_bytes: int
    classes: int
    mean: tuple[float, ...]  # for pixels from 0 to 1
    std: tuple[float, ...]


ARCHIVES = {  # mean and std as in the code of MSDNet
    "cifar10": Archive(
        name="cifar-10-binary.tar.gz",
        sha256="c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        members={
            "train": [f"cifar-10-batches-bin/data_batch_{batch}.bin" for batch in range(1, 6)],
            "test": ["cifar-10-batches-bin/test_batch.bin"],
        },
        label_bytes=1,
        classes=10,
        mean=(0.4914, 0.4824, 0.4467),
        std=(0.2471, 0.2435, 0.2616),
    ),
    "cifar100": Archive(
        name="cifar-100-binary.tar.gz",
        sha256="58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
        members={"train": ["cifar-100-binary/train.bin"], "test": ["cifar-100-binary/test.bin"]},
        label_bytes=2,  # coarse label, fine label
        classes=100,
        mean=(0.5071, 0.4867, 0.4408),
        std=(0.2675, 0.2565, 0.2761),
    ),
}


def _published(name: str) -> Published:
    return Published({"train": 50_000, "test": 10_000}, ARCHIVES[name].classes, [ARCHIVES[name].name], (3, 32, 32))


@published(lambda **_: _published("cifar10"))
def load_cifar10(shift: int = 4) -> InMemoryDataset:
    """Load CIFAR-10: 50,000 training and 10,000 test images of ten classes, downloaded once.

    Augmentation shifts and flips images.

    Parameters
    ----------
    shift : int
        Maximum random shift by augmentation, in pixels in each direction. The default is the common choice.

    Raises
    ------
    ValueError
        If the archive cannot be downloaded or is not the expected file.
    """
    return load_cifar("cifar10", shift)


@published(lambda **_: _published("cifar100"))
def load_cifar100(shift: int = 4) -> InMemoryDataset:
    """Load CIFAR-100, with its 100 fine labels. Otherwise as `load_cifar10`.

    Parameters
    ----------
    shift : int
        Maximum random shift by augmentation, in pixels in each direction. The default is the common choice.

    Raises
    ------
    ValueError
        If the archive cannot be downloaded or is not the expected file.
    """
    return load_cifar("cifar100", shift)


def load_cifar(dataset: str, shift: int) -> InMemoryDataset:
    archive = ARCHIVES[dataset]
    folder = data_folder(dataset)
    fetch(folder, URL, {archive.name: [archive.sha256]})
    path = folder / archive.name
    contents = read_tar(read_checked(path, [archive.sha256]))
    labels, pixels = {}, {}
    for pool, members in archive.members.items():
        if missing := [member for member in members if member not in contents]:
            raise ValueError(f"{path}: holds no {', '.join(missing)}; only {', '.join(contents)}")
        content = b"".join(contents[member] for member in members)
        samples = np.frombuffer(content, np.uint8).reshape(-1, archive.label_bytes + 3 * 32 * 32)
        labels[pool] = samples[:, archive.label_bytes - 1].astype(np.int64)
        pixels[pool] = torch.from_numpy(samples[:, archive.label_bytes :].reshape(-1, 3, 32, 32).copy())
    return InMemoryDataset(
        name=dataset,
        classes=archive.classes,
        image_shape=(3, 32, 32),
        labels=labels,
        pixels=pixels,
        mean=tuple(255 * value for value in archive.mean),
        std=tuple(255 * value for value in archive.std),
        shift=shift,
        flip=True,
    )
