"""ImageNet (ILSVRC 2012), or another folder with the same layout. Images are decoded when they are accessed."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from offramp.datasets.base import ImageDataset, Published, published
from offramp.datasets.download import data_folder

FOLDERS = {"train": "train", "test": "val"}  # of each pool; results on ImageNet are reported on its validation set
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageFolder(ImageDataset):
    """Images in files. Only the file names are kept in memory.

    Parameters
    ----------
    paths : mapping of str to ndarray of shape (N,)
        File names of each pool as bytes arrays, because a million Python strings would be copied to every worker.
    prepare : callable
        Test-time transform from an image to a tensor (3, H, W).
    mean, std : tuple of float
        Mean and standard deviation used to normalise augmented images.
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
    """Load training images from ROOT/train/CLASS/ and test images from ROOT/val/CLASS/.

    Labels number the classes in alphabetical order. Augmentation resizes a random crop and may flip it horizontally.
    Otherwise, the short side is resized to 256/224 of `size`, and the centre is cropped. Images are normalised with the
    usual mean and standard deviation of ImageNet.

    Parameters
    ----------
    root : str, optional
        The folder. The default is `imagenet` in the folder of datasets.
    size : int
        Height and width of the model input in pixels.
    classes : int
        Expected number of classes.
    folder : {"train", "val"}, optional
        Take all splits from this folder only. Use "val" for models that were trained on "train" elsewhere; otherwise
        their thresholds would be chosen on their training images.
    prepare : str, optional
        Name of a timm model whose image size, crop, interpolation and normalisation are used instead.

    Raises
    ------
    ValueError
        If a folder is missing or has no images, if the number of classes differs from `classes`, or if the timm model
        is unknown.
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
    """Return the image size, mean, standard deviation and test-time transform of a timm model."""
    from timm.data import create_transform, resolve_data_config
    from timm.models import get_pretrained_cfg

    known = get_pretrained_cfg(name, allow_unregistered=True)
    if known is None:
        raise ValueError(f"prepare: timm knows no model {name!r}; expected one of `timm.list_pretrained()`")
    config = resolve_data_config(pretrained_cfg=known.to_dict())
    return config["input_size"][1], config["mean"], config["std"], create_transform(**config)


def list_images(folder: Path) -> tuple[dict[str, int], list[tuple[str, int]]]:
    """Return the labels of the class folders, and all images with their labels, sorted by name."""
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
    """Read an image file as RGB.

    Raises
    ------
    ValueError
        If the file cannot be read completely.
    """
    from PIL import Image

    path = os.fsdecode(path)
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except Exception as error:  # PIL raises many types of exceptions for damaged files
        raise ValueError(f"{path}: unreadable image ({error}); put a good copy there") from None
