"""ImageNet (ILSVRC 2012), or another folder with the same layout. Images are decoded when they are accessed."""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from offramp.datasets.base import ImageDataset
from offramp.datasets.download import data_folder
from offramp.datasets.labelled import Published, published
from offramp.datasets.preparing import ImagePreparation, read_image

FOLDERS = {"train": "train", "test": "val"}  # of each pool; results on ImageNet are reported on its validation set
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageFolder(ImageDataset):
    """Images in files. Only the file names are kept in memory.

    Parameters
    ----------
    paths : mapping of str to ndarray of shape (N,)
        File names of each pool as bytes arrays, because a million Python strings would be copied to every worker.
    prepare : ImagePreparation
        Test-time transform. Its mean and standard deviation are used for augmented images, too.
    """

    paths: Mapping[str, np.ndarray] = field(repr=False)
    prepare: ImagePreparation

    @property
    def preparation(self) -> ImagePreparation:
        return self.prepare

    def inputs(self, pool: str, index: np.ndarray, *, augment: bool) -> torch.Tensor:
        paths, prepare = self.paths[pool][index], self.prepare
        if augment:
            steps = _augmentation(prepare)
            return torch.stack([steps(read_image(path)) for path in paths])  # (B, 3, H, W)
        return self.prepared(np.stack([prepare.read(os.fsdecode(path)) for path in paths]), index)


def _augmentation(prepare: ImagePreparation):
    from torchvision.transforms import v2

    steps = [v2.RandomResizedCrop(prepare.shape[1]), v2.RandomHorizontalFlip(), v2.ToImage()]
    return v2.Compose([*steps, v2.ToDtype(torch.float32, scale=True), v2.Normalize(prepare.mean, prepare.std)])


def _published(*, folder: str | None, prepare: str | None, size: int, classes: int, **_) -> Published:
    train, val = 1_281_167, 50_000
    pools = {"all": {"train": train, "val": val}[folder]} if folder else {"train": train, "test": val}
    size = preparation_of(prepare).shape[1] if prepare else size
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
    preparation = ImagePreparation(
        shape=(3, size, size), mean=MEAN, std=STD, factor=1 / 255, resize=(size * 256 // 224,)
    )
    if prepare:
        preparation = preparation_of(prepare)
    return ImageFolder(
        name="imagenet",
        classes=classes,
        image_shape=preparation.shape,
        names=tuple(next(iter(listed.values()))[0]),
        labels={pool: np.array([label for _, label in samples], np.int64) for pool, (_, samples) in listed.items()},
        prepare=preparation,
        paths={pool: np.array([os.fsencode(path) for path, _ in samples]) for pool, (_, samples) in listed.items()},
    )


def preparation_of(name: str) -> ImagePreparation:
    """Return the preparation of images for a timm model, as `timm.data.create_transform` does it."""
    from timm.data import resolve_data_config
    from timm.models import get_pretrained_cfg

    known = get_pretrained_cfg(name, allow_unregistered=True)
    if known is None:
        raise ValueError(f"prepare: timm knows no model {name!r}; expected one of `timm.list_pretrained()`")
    config = resolve_data_config(pretrained_cfg=known.to_dict())
    (channels, height, width), mode = config["input_size"], config["crop_mode"]
    if height != width or mode not in ("center", "squash"):
        raise ValueError(
            f"prepare: {name!r} takes {height} × {width} pixels, crop {mode!r}; expected a square, 'center'"
        )
    size = math.floor(height / config["crop_pct"])
    return ImagePreparation(
        shape=(channels, height, width),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        divisor=255.0,
        resize=(size, size) if mode == "squash" else (size,),
        interpolation=config["interpolation"],
    )


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
