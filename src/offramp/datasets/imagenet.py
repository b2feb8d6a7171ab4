"""ImageNet (ILSVRC 2012), or another folder laid out like it: images of all sizes, decoded when they are asked for."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from offramp.datasets.base import ImageDataset, Published, published
from offramp.datasets.download import data_folder

FOLDERS = {"train": "train", "test": "val"}  # of the pools: the validation set is what everybody reports
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageFolder(ImageDataset):
    """Images in files. What is held in memory is their names.

    Parameters
    ----------
    paths : mapping of str to ndarray of shape (N,)
        The files of each pool, as bytes: a million Python strings would be copied into every worker process.
    prepare : callable
        Turns an image into a tensor (3, H, W), as for testing.
    mean, std : tuple of float
        What augmented images are normalised by.
    """

    paths: Mapping[str, np.ndarray] = field(repr=False)
    prepare: Callable[[Any], torch.Tensor] = field(repr=False)
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD

    def inputs(self, pool: str, index: np.ndarray, *, augment: bool) -> torch.Tensor:
        prepare = _steps("augment", self.image_shape[1], self.mean, self.std) if augment else self.prepare
        return torch.stack([prepare(read_image(path)) for path in self.paths[pool][index]])  # (B, 3, H, W)


def _steps(kind: Literal["augment", "centre"], size: int, mean: tuple[float, ...], std: tuple[float, ...]):
    from torchvision.transforms import v2

    if kind == "augment":
        steps = [v2.RandomResizedCrop(size), v2.RandomHorizontalFlip()]
    else:
        steps = [v2.Resize(size * 256 // 224), v2.CenterCrop(size)]
    return v2.Compose([*steps, v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)])


def _published(*, folder: str | None, prepare: str | None, size: int, classes: int, **_) -> Published:
    train, val = 1_281_167, 50_000
    pools = {"all": {"train": train, "val": val}[folder]} if folder else {"train": train, "test": val}
    size = preparation_of(prepare)[0] if prepare else size
    return Published(pools, classes, [], (3, size, size))


@published(_published)
def load_imagenet(
    root: str | None = None,
    size: int = 224,
    classes: int = 1000,
    folder: Literal["train", "val"] | None = None,
    prepare: str | None = None,
) -> ImageFolder:
    """The images of ROOT/train/CLASS/ to train and of ROOT/val/CLASS/ to test; a class's label is its place by name.

    To augment, a random part of an image is resized and perhaps mirrored; else the short side is resized to
    256/224 of `size`, and the centre cut out. Normalised by ImageNet's usual mean and standard deviation.

    Parameters
    ----------
    root : str, optional
        The folder. Default: `imagenet` where datasets lie.
    size : int
        Height and width that a model sees.
    classes : int
        How many there must be.
    folder : {"train", "val"}, optional
        Take all splits from this folder alone: of "val" for models that were trained on "train" elsewhere, or their
        thresholds would be chosen on images they know by heart.
    prepare : str, optional
        A model of timm whose own size, crop, interpolation and normalisation are used instead.

    Raises
    ------
    ValueError
        If a folder is missing, has no images, or is a class too many or too few; if timm knows no such model.
    """
    root = Path(root or data_folder("imagenet")).expanduser()
    folders = {pool: root / name for pool, name in ({"all": folder} if folder else FOLDERS).items()}
    listed = {pool: list_images(path) for pool, path in folders.items()}
    for pool, path in folders.items():
        for other in folders:
            if extra := sorted(listed[pool][0].keys() - listed[other][0].keys()):
                raise ValueError(f"{path}: class folder {extra[0]}, which {folders[other]} lacks")
    if (found := len(next(iter(listed.values()))[0])) != classes:
        raise ValueError(
            f"{root}: {found} class folders in {' and '.join(path.name for path in folders.values())} each, expected"
            f" {classes}; if they are what is meant, set classes in params.yaml"
        )
    mean, std = MEAN, STD
    steps = _steps("centre", size, mean, std)
    if prepare:
        size, mean, std, steps = preparation_of(prepare)
    return ImageFolder(
        name="imagenet",
        classes=classes,
        image_shape=(3, size, size),
        labels={pool: np.array([label for _, label in samples], np.int64) for pool, (_, samples) in listed.items()},
        prepare=steps,
        mean=mean,
        std=std,
        paths={pool: np.array([os.fsencode(path) for path, _ in samples]) for pool, (_, samples) in listed.items()},
    )


def preparation_of(name: str) -> tuple[int, tuple[float, ...], tuple[float, ...], Callable[[Any], torch.Tensor]]:
    """Size, mean, standard deviation and test-time transform of a model of timm."""
    from timm.data import create_transform, resolve_data_config
    from timm.models import get_pretrained_cfg

    known = get_pretrained_cfg(name, allow_unregistered=True)
    if known is None:
        raise ValueError(f"prepare: timm knows no model {name!r}; expected one of `timm.list_pretrained()`")
    config = resolve_data_config(pretrained_cfg=known.to_dict())
    return config["input_size"][1], config["mean"], config["std"], create_transform(**config)


def list_images(folder: Path) -> tuple[dict[str, int], list[tuple[str, int]]]:
    """The labels of the class folders in a folder, and the images in them, each with its label; all sorted by name."""
    from torchvision.datasets.folder import IMG_EXTENSIONS, find_classes, make_dataset

    try:
        labels = find_classes(folder)[1]
        return labels, make_dataset(folder, labels, IMG_EXTENSIONS)
    except OSError as error:
        raise ValueError(
            f"{folder}: expected {folder}/CLASS/*.JPEG ({error.strerror or error}); ImageNet's folder, with"
            f" {' and '.join(FOLDERS.values())} in it, is root of the dataset in params.yaml"
        ) from None


def read_image(path: bytes):
    """The image in a file, as RGB.

    Raises
    ------
    ValueError
        If it cannot be read to its end.
    """
    from PIL import Image

    path = os.fsdecode(path)
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except Exception as error:  # of damaged files PIL raises of every kind
        raise ValueError(f"{path}: unreadable image ({error}); put a good copy there") from None
