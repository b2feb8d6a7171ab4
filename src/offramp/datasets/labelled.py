"""Base class of all datasets: labelled samples, of which nothing else is known. Needs no torch."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

import numpy as np


@dataclass(frozen=True, kw_only=True, eq=False)
class Labelled:
    """Labels of samples in one or more source pools.

    Parameters
    ----------
    name : str
        Name in the registry `DATASETS`.
    classes : int
        Labels are 0 … classes − 1.
    labels : mapping of str to ndarray of shape (N,)
        int64 labels of each pool: "train" and "test" if the source has its own test set, otherwise "all".
    metric : str
        Metric that is usually reported for this dataset: accuracy, f1 or matthews, or the name of a mean quality.
    names : tuple of str
        Names of the classes. Empty: they are not known.
    """

    name: str
    classes: int
    labels: Mapping[str, np.ndarray] = field(repr=False)
    metric: str = "accuracy"
    names: tuple[str, ...] = ()


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
