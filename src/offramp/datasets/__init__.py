"""Datasets by name. To add one, write a loader in a module of this package and register it in `DATASETS`."""

import inspect
from collections.abc import Callable

from offramp.datasets.base import Dataset, ImageDataset, InMemoryDataset, Samples, TextDataset, Vocabulary
from offramp.datasets.cifar import load_cifar10, load_cifar100
from offramp.datasets.digits import load_digits
from offramp.datasets.fashion_mnist import load_fashion_mnist
from offramp.datasets.glue import load_glue
from offramp.datasets.imagenet import load_imagenet
from offramp.datasets.reviews import load_reviews
from offramp.datasets.splits import load_splits, make_splits, save_splits
from offramp.datasets.text_files import load_text_files

__all__ = [
    "DATASETS",
    "Dataset",
    "ImageDataset",
    "InMemoryDataset",
    "Samples",
    "TextDataset",
    "Vocabulary",
    "load_dataset",
    "load_splits",
    "make_splits",
    "save_splits",
]

DATASETS: dict[str, Callable[..., Dataset]] = {
    "digits": load_digits,
    "fashion_mnist": load_fashion_mnist,
    "cifar10": load_cifar10,
    "cifar100": load_cifar100,
    "imagenet": load_imagenet,
    "reviews": load_reviews,
    "glue": load_glue,
    "text_files": load_text_files,
}


def load_dataset(name: str, **options) -> Dataset:
    """Load the dataset called `name`. Its options are the parameters of its loader in `DATASETS`.

    Raises
    ------
    ValueError
        If the name or an option is unknown, or a required option is missing. The message lists the known ones.
    """
    if name not in DATASETS:
        raise ValueError(f"unknown dataset {name!r}: expected one of {', '.join(DATASETS)}")
    known = inspect.signature(DATASETS[name]).parameters
    if unknown := [option for option in options if option not in known]:
        raise ValueError(f"{name}: unknown option {', '.join(unknown)}: expected some of {', '.join(known)}")
    if missing := [key for key, option in known.items() if option.default is option.empty and key not in options]:
        raise ValueError(f"{name}: expected the option {', '.join(missing)}")
    return DATASETS[name](**options)
