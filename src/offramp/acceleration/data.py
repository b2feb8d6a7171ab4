"""The inputs for which a model is accelerated: images, arrays or texts, with or without labels."""

import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from offramp._io.progress import progress_bar
from offramp.datasets.base import Samples, Vocabulary
from offramp.datasets.preparing import FORMATS, ImagePreparation, TextPreparation, padded, read_image
from offramp.datasets.text import tokenize
from offramp.datasets.text_files import class_names, read_file
from offramp.runtime.inputs import RawInputs, read_inputs

KEPT = 2 << 30  # bytes of decoded images that are kept in memory


@dataclass(frozen=True, eq=False, kw_only=True)
class Inputs(ABC):
    """N inputs of a model.

    Attributes
    ----------
    names : list
        File names, or numbers of rows or lines.
    preparation : ImagePreparation or TextPreparation
    labels : ndarray of shape (N,), int64, or None
    classes : tuple of str
        Names of the classes in `labels`.
    """

    names: list
    preparation: ImagePreparation | TextPreparation
    labels: np.ndarray | None = None
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    @property
    @abstractmethod
    def lengths(self) -> np.ndarray | None:
        """Number of tokens of each text (N,), or None for images."""

    @property
    @abstractmethod
    def stored(self) -> list[np.ndarray]:
        """What is kept in memory of the inputs."""

    @abstractmethod
    def batch(self, rows: np.ndarray) -> Tensor:
        """Return the model inputs of these samples, (B, C, H, W) or (B, T)."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Images(Inputs):
    """N images: stored pixels or prepared images (floats) as an array (N, C, H, W), or image files as a list."""

    preparation: ImagePreparation
    pixels: np.ndarray | list

    @property
    def lengths(self) -> None:
        return None

    @property
    def stored(self) -> list[np.ndarray]:
        return [self.pixels] if isinstance(self.pixels, np.ndarray) else []

    @property
    def are_prepared(self) -> bool:
        """Whether the images are what a model reads, so that another preparation is impossible."""
        return isinstance(self.pixels, np.ndarray) and self.pixels.dtype.kind == "f"

    def batch(self, rows: np.ndarray) -> Tensor:
        if isinstance(self.pixels, np.ndarray):
            pixels = self.pixels[rows]  # (B, C, H, W)
        else:
            pixels = np.stack([self.preparation.read(self.pixels[row]) for row in rows])  # (B, C, H, W)
        return torch.from_numpy(pixels.astype(np.float32) if self.are_prepared else self.preparation(pixels))


@dataclass(frozen=True, eq=False, kw_only=True)
class Texts(Inputs):
    """N texts: the token ids of all of them, and where each begins, (N + 1,)."""

    preparation: TextPreparation
    tokens: np.ndarray
    offsets: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)

    @property
    def stored(self) -> list[np.ndarray]:
        return [self.tokens, self.offsets]

    def batch(self, rows: np.ndarray) -> Tensor:
        return torch.from_numpy(padded(self.tokens, self.offsets[rows], self.lengths[rows], self.preparation.pad))


def read_data(
    data,
    preparation: ImagePreparation | TextPreparation | None,
    *,
    vocabulary: Vocabulary | None = None,
    labelled: bool = False,
    labels=None,
    skip_unreadable: bool = False,
    progress: bool = True,
) -> tuple[Inputs, Vocabulary | None]:
    """Read inputs from a folder of images, a .npy file, an array, or a table or file of texts.

    Parameters
    ----------
    data : path or ndarray
        A folder of images (with labels, one folder per class), a .npy file or an array (N, C, H, W), integers (stored
        pixels) or floats (prepared inputs), or a .csv, .tsv or .txt file of texts (column text; with labels, also
        label).
    preparation : ImagePreparation, TextPreparation or None
        None: images must have the same size, and pixels are divided by 255.
    labelled : bool
        Whether labels are needed.
    labels : path or array-like of shape (N,), optional
        Labels of the rows of an array: a .npy file, or the numbers.
    skip_unreadable : bool
        Leave out image files that cannot be read. Otherwise, they are an error.
    progress : bool

    Raises
    ------
    ValueError
        If the inputs are not readable or of another kind, or if labels are needed and not there.
    """
    if isinstance(preparation, TextPreparation):
        return _texts(Path(data), preparation, labelled)
    if isinstance(data, np.ndarray):
        found = _checked_array(data)
    else:
        path = Path(data).expanduser()
        found = read_inputs(path, [preparation or _preparation_of(path)])
        if isinstance(found.samples, np.ndarray):
            found = replace(found, samples=_checked_array(found.samples).samples)
    if isinstance(found.samples, np.ndarray):
        preparation = preparation or ImagePreparation(shape=found.samples.shape[1:], divisor=255.0)
        given = _labels(labels, found, labelled)
        return Images(names=found.names, preparation=preparation, pixels=found.samples, labels=given), None
    preparation = preparation or _preparation_of(Path(data))
    files, pixels = _readable(Path(data), found, preparation, skip_unreadable, progress)
    names = [Path(file).relative_to(Path(data)).as_posix() for file in files]
    inputs = Images(names=names, preparation=preparation, pixels=files if pixels is None else pixels)
    if labelled:
        if loose := [name for name in names if "/" not in name]:
            raise ValueError(f"{data}: {loose[0]} is in no class folder; this risk needs labels")
        folders = [name.partition("/")[0] for name in names]
        classes = sorted(set(folders))
        inputs = replace(
            inputs, labels=np.array([classes.index(each) for each in folders], np.int64), classes=tuple(classes)
        )
    return inputs, None


def inputs_of(parts: Sequence[Samples], preparation: ImagePreparation | TextPreparation) -> Inputs:
    """Return the samples of one or more splits of a dataset, one after another, as inputs without labels."""
    found = [samples[np.arange(len(samples))][0].numpy() for samples in parts]  # (N, C, H, W) or (N, T) each
    names = [int(i) for samples in parts for i in samples.index]
    if isinstance(preparation, ImagePreparation):
        return Images(names=names, preparation=preparation, pixels=np.concatenate(found))
    lengths = [np.asarray(samples.lengths) for samples in parts]  # (N,) each
    tokens = [x[np.arange(x.shape[1]) < its[:, None]] for x, its in zip(found, lengths)]  # padding is last
    offsets = np.append(0, np.concatenate(lengths).cumsum())  # (N + 1,)
    return Texts(names=names, preparation=preparation, tokens=np.concatenate(tokens), offsets=offsets)


def _checked_array(values: np.ndarray) -> RawInputs:
    if values.ndim < 2 or values.dtype.kind not in "iuf" or not len(values):
        raise ValueError(f"data: {values.dtype} {values.shape}; expected numbers of shape (samples, …)")
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise ValueError("data: a value is not finite; expected finite numbers")
    return RawInputs(list(range(len(values))), values)


def _labels(labels, found: RawInputs, labelled: bool) -> np.ndarray | None:
    if labels is None:
        if labelled:
            raise ValueError("data: no labels, which this risk needs; give --labels, or the risk disagreement")
        return None
    if isinstance(labels, str | os.PathLike):
        try:
            labels = np.load(labels, allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise ValueError(f"{labels}: not a readable .npy file ({error})") from None
    labels = np.asarray(labels)
    if labels.shape != (len(found),) or labels.dtype.kind not in "iu":
        raise ValueError(f"labels: {labels.dtype} {labels.shape}; expected integers of shape ({len(found)},)")
    return labels.astype(np.int64)


def _preparation_of(path: Path) -> ImagePreparation:
    """Return the preparation for a network of which none is known: pixels from 0 to 1, at the size of the images."""
    if path.suffix == ".npy":
        try:
            shape = np.load(path, mmap_mode="r", allow_pickle=False).shape
        except (OSError, ValueError, EOFError) as error:
            raise ValueError(f"{path}: not a readable .npy file ({error})") from None
        return ImagePreparation(shape=tuple(shape[1:]), divisor=255.0)
    anything = read_inputs(path, [ImagePreparation(shape=(3, 1, 1))])
    errors: list[ValueError] = []
    for file in anything.samples:
        try:
            image = read_image(file, mode=None)
        except ValueError as error:
            errors.append(error)
            continue
        channels = 1 if image.mode in ("1", "L", "I", "I;16", "F") else 3
        return ImagePreparation(shape=(channels, image.height, image.width), divisor=255.0)
    raise errors[-1]


def _readable(
    folder: Path, found: RawInputs, preparation: ImagePreparation, skip: bool, progress: bool
) -> tuple[list, np.ndarray | None]:
    """Return the files that can be read, and their pixels (N, C, H, W) unless these need too much memory."""
    keep = len(found) * int(np.prod(preparation.shape)) <= KEPT
    files: list = []
    pixels: list[np.ndarray] = []
    errors: list[ValueError] = []
    with progress_bar(len(found), "reading images", shown=progress, unit="image") as bar:
        for file in found.samples:
            try:
                values = preparation.read(file)
            except ValueError as error:
                errors.append(error)
            else:
                files.append(file)
                if keep:
                    pixels.append(values)
            bar.update()
    if errors and (not skip or not files):
        raise ValueError(
            f"{folder}: {len(errors)} of {len(found)} images cannot be used, the first: {errors[0]}; "
            "--skip-unreadable leaves them out"
        )
    if errors:
        warnings.warn(f"{len(errors)} of {len(found)} images are left out, the first: {errors[0]}", stacklevel=2)
    return files, np.stack(pixels) if keep else None


def _texts(path: Path, preparation: TextPreparation, labelled: bool) -> tuple[Inputs, Vocabulary]:
    labels: np.ndarray | None = None
    classes: tuple[str, ...] = ()
    names: list
    samples: Sequence | np.ndarray
    if labelled:
        if path.suffix not in FORMATS:
            raise ValueError(f"{path}: this risk needs labels; expected .csv or .tsv with the columns text and label")
        rows = read_file(path, ["label", *preparation.columns])
        classes = tuple(class_names(str(path), {name for _, (name, *_) in rows}))
        labels = np.array([classes.index(name) for _, (name, *_) in rows], np.int64)
        names, samples = [line for line, _ in rows], [tuple(fields) for _, (_, *fields) in rows]
    else:
        found = read_inputs(path, [preparation])
        names, samples = found.names, found.samples
    first, pairs = [list(column) for column in zip(*samples)], None
    if len(first) > 1:
        pairs = first[1]
    vocabulary, tokens, offsets = tokenize(
        first[0], pairs, preparation.tokenizer, preparation.max_tokens, label=str(path)
    )
    inputs = Texts(names=names, preparation=preparation, tokens=tokens, offsets=offsets, labels=labels, classes=classes)
    return inputs, vocabulary


def read_texts_of(tokenizer: str, max_tokens: int, columns: Sequence[str] = ("text",)) -> TextPreparation:
    """Return the preparation of texts for a model with this tokenizer."""
    from offramp.datasets.text import load_tokenizer

    return TextPreparation(
        tokenizer=tokenizer, max_tokens=max_tokens, pad=load_tokenizer(tokenizer).pad_token_id, columns=tuple(columns)
    )
