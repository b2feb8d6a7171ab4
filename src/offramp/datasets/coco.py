"""Captions of COCO (Chen et al. 2015), in its own files or in the split of Karpathy and Fei-Fei (2015)."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from offramp.datasets.captions import CaptionDataset, Pieces, Words
from offramp.datasets.download import data_folder
from offramp.datasets.imagenet import MEAN, STD, preparation_of
from offramp.datasets.preparing import ImagePreparation

KARPATHY = "dataset_coco.json"
# Our name of each split of the file; "restval" is the part of the validation images that is used for training
SPLIT_OF = {"train": "train", "restval": "train", "val": "validation", "test": "test"}

Captioned = dict[Path, tuple[str, ...]]  # the captions of each image


@dataclass(frozen=True, kw_only=True, eq=False)
class Coco(CaptionDataset):
    """Images in files, which are read when they are accessed.

    Parameters
    ----------
    paths : mapping of str to list of Path
        Files of the images of each split.
    """

    paths: Mapping[str, Sequence[Path]] = field(repr=False)

    def pixels(self, split: str, index: np.ndarray) -> np.ndarray:
        return np.stack([self.preparation.read(self.paths[split][i]) for i in index])  # (B, 3, H, W)


def load_coco(
    root: str | None = None,
    annotations: Literal["karpathy", "2014", "2017"] = "karpathy",
    size: int = 224,
    prepare: str | None = None,
    max_tokens: int = 20,
    least: int = 5,
    tokenizer: str | None = None,
) -> Coco:
    """Load COCO from a folder with the files and folders of its archives.

    With "karpathy", the captions and splits are those of ROOT/dataset_coco.json, and the images are in ROOT/train2014
    and ROOT/val2014. With a year, the captions are those of ROOT/annotations/captions_trainYEAR.json and
    captions_valYEAR.json, and the images are in ROOT/trainYEAR and ROOT/valYEAR. As the captions of the official test
    set are not public, the validation images are then divided: every second one, in the order of the file, is for test
    (our choice).

    The vocabulary has the words that occur at least `least` times in the training captions, or it is that of a
    tokenizer. Images are resized, and
    their centre is cropped.

    Parameters
    ----------
    root : str, optional
        The folder. The default is `coco` in the folder of datasets.
    annotations : {"karpathy", "2014", "2017"}
    size : int
        Height and width of the model input in pixels.
    prepare : str, optional
        Name of a timm model whose image size, crop, interpolation and normalisation are used instead.
    max_tokens : int
        Maximum number of tokens of a caption, including the token that ends it. Longer captions are cut for training.
    least : int
    tokenizer : str, optional
        Name on the Hugging Face hub, or folder, of a pretrained GPT-2, for a decoder with its weights.

    Raises
    ------
    ValueError
        If a file is missing or damaged, if a caption has no image or an image no caption, or if an option is unknown.
    """
    folder = Path(root or data_folder("coco")).expanduser()
    if annotations == "karpathy":
        found = _karpathy(folder)
    elif annotations in ("2014", "2017"):
        found = _by_year(folder, annotations)
    else:
        raise ValueError(f"coco: annotations={annotations!r}, expected 'karpathy', '2014' or '2017'")
    for split, images in found.items():
        if not images:
            raise ValueError(f"{folder}: no {split} images in the file of captions; expected at least one")
        for path in images:
            if not path.is_file():
                raise ValueError(f"{path}: no such image, but it has captions; expected all images in {folder}")
    preparation = ImagePreparation(
        shape=(3, size, size), mean=MEAN, std=STD, factor=1 / 255, resize=(size * 256 // 224,)
    )
    references = {split: list(images.values()) for split, images in found.items()}
    return Coco(
        name="coco",
        preparation=preparation_of(prepare) if prepare else preparation,
        vocabulary=Words.of(
            (caption for captions in references["train"] for caption in captions), max_tokens=max_tokens, least=least
        )
        if tokenizer is None
        else Pieces(tokenizer, max_tokens),
        references=references,
        paths={split: list(images) for split, images in found.items()},
    )


def _karpathy(folder: Path) -> dict[str, Captioned]:
    path = folder / KARPATHY
    found: dict[str, Captioned] = {"train": {}, "validation": {}, "test": {}}
    for n, image in enumerate(_entries(path, _read(path), "images"), start=1):
        where = f"{path}: image {n}"
        name, inside, split, sentences = (
            _value(where, image, key, kind)
            for key, kind in (("filename", str), ("filepath", str), ("split", str), ("sentences", list))
        )
        if split not in SPLIT_OF:
            raise ValueError(f"{where} has the split {split!r}; expected one of {', '.join(SPLIT_OF)}")
        captions = tuple(_value(f"{where}, a sentence", sentence, "raw", str) for sentence in sentences)
        if not captions:
            raise ValueError(f"{where}, {name}, has no sentences; expected at least one")
        found[SPLIT_OF[split]][folder / inside / name] = captions
    return found


def _by_year(folder: Path, year: str) -> dict[str, Captioned]:
    train = _official(folder, f"train{year}")
    others = list(_official(folder, f"val{year}").items())
    return {"train": train, "validation": dict(others[::2]), "test": dict(others[1::2])}


def _official(folder: Path, part: str) -> Captioned:
    path = folder / "annotations" / f"captions_{part}.json"
    content = _read(path)
    names, captions = {}, {}
    for n, image in enumerate(_entries(path, content, "images"), start=1):
        number = _value(f"{path}: image {n}", image, "id", int)
        names[number] = _value(f"{path}: image {n}", image, "file_name", str)
        captions[number] = []
    for n, annotation in enumerate(_entries(path, content, "annotations"), start=1):
        number = _value(f"{path}: caption {n}", annotation, "image_id", int)
        if number not in names:
            raise ValueError(f"{path}: caption {n} is for image {number}, which the file does not list")
        captions[number].append(_value(f"{path}: caption {n}", annotation, "caption", str))
    if lone := [number for number, texts in captions.items() if not texts]:
        raise ValueError(f"{path}: image {lone[0]}, {names[lone[0]]}, has no caption; expected at least one")
    return {folder / part / names[number]: tuple(texts) for number, texts in captions.items()}


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise ValueError(
            f"{path}: {error.strerror}; expected the captions of COCO there, set root to their folder"
        ) from None
    except ValueError as error:  # includes bytes that are not UTF-8
        raise ValueError(f"{path}: not readable as JSON ({error}); get a good copy") from None


def _entries(path: Path, content: Any, key: str) -> list:
    return _value(str(path), content, key, list)


def _value(where: str, entry: Any, key: str, kind: type) -> Any:
    if not isinstance(entry, dict) or not isinstance(entry.get(key), kind):
        raise ValueError(f"{where}: expected {key!r}, a {kind.__name__}")
    return entry[key]
