"""Datasets by name. Another one is a file with a loader here, and a line in `DATASETS`."""

import inspect
from collections.abc import Callable

from offramp.datasets.base import ImageDataset, InMemoryDataset, Samples
from offramp.datasets.cifar import load_cifar10, load_cifar100
from offramp.datasets.digits import load_digits
from offramp.datasets.fashion_mnist import load_fashion_mnist
from offramp.datasets.imagenet import load_imagenet
from offramp.datasets.splits import load_splits, make_splits, save_splits

__all__ = [
    "DATASETS",
    "ImageDataset",
    "InMemoryDataset",
    "Samples",
    "load_dataset",
    "load_splits",
    "make_splits",
    "save_splits",
]

DATASETS: dict[str, Callable[..., ImageDataset]] = {
    "digits": load_digits,
    "fashion_mnist": load_fashion_mnist,
    "cifar10": load_cifar10,
    "cifar100": load_cifar100,
    "imagenet": load_imagenet,
}


def load_dataset(name: str, **options) -> ImageDataset:
    """Load the dataset called `name`; its loader in `DATASETS` says which options it takes.

    Raises
    ------
    ValueError
        For an unknown name or option; the message lists the known ones.
    """
    if name not in DATASETS:
        raise ValueError(f"unknown dataset {name!r}: expected one of {', '.join(DATASETS)}")
    known = inspect.signature(DATASETS[name]).parameters
    if unknown := [option for option in options if option not in known]:
        raise ValueError(f"{name}: unknown option {', '.join(unknown)}: expected some of {', '.join(known)}")
    return DATASETS[name](**options)
