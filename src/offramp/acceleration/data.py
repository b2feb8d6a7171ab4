"""The inputs for which a model is accelerated: images, arrays or texts, with or without labels."""

import os
import warnings
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


@dataclass(frozen=True, eq=False)
class Inputs:
    """N inputs of a model.

    Attributes
    ----------
    names : list
        File names, or numbers of rows or lines.
    preparation : ImagePreparation or TextPreparation
    pixels : ndarray of shape (N, C, H, W), or list of paths, or None
        Stored pixels, prepared images (floats), or image files.
    tokens, offsets : ndarray, or None
        Token ids of all texts, and where each begins, (N + 1,).
    labels : ndarray of shape (N,), int64, or None
    classes : tuple of str
        Names of the classes in `labels`.
    """

    names: list
    preparation: ImagePreparation | TextPreparation
    pixels: np.ndarray | list | None = None
    tokens: np.ndarray | None = None
    offsets: np.ndarray | None = None
    labels: np.ndarray | None = None
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    @property
    def lengths(self) -> np.ndarray | None:
        """Number of tokens of each text (N,), or None for images."""
        return None if self.offsets is None else np.diff(self.offsets)

    def batch(self, rows: np.ndarray) -> Tensor:
        """Return the model inputs of these samples, (B, C, H, W) or (B, T)."""
        if self.tokens is not None:
            lengths = self.lengths[rows]
            return torch.from_numpy(padded(self.tokens, self.offsets[rows], lengths, self.preparation.pad))
        if isinstance(self.pixels, np.ndarray):
            pixels = self.pixels[rows]
            return torch.from_numpy(pixels.astype(np.float32) if pixels.dtype.kind == "f" else self.preparation(pixels))
        return torch.from_numpy(self.preparation(np.stack([self.preparation.read(self.pixels[row]) for row in rows])))


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
        return Inputs(found.names, preparation, found.samples, labels=_labels(labels, found, labelled)), None
    preparation = preparation or _preparation_of(Path(data))
    files, pixels = _readable(Path(data), found, preparation, skip_unreadable, progress)
    names = [Path(file).relative_to(Path(data)).as_posix() for file in files]
    inputs = Inputs(names, preparation, files if pixels is None else pixels)
    if labelled:
        folders = [name.partition("/")[0] if "/" in name else None for name in names]
        if None in folders:
            raise ValueError(f"{data}: {names[folders.index(None)]} is in no class folder; this risk needs labels")
        classes = sorted(set(folders))
        inputs = replace(
            inputs, labels=np.array([classes.index(each) for each in folders], np.int64), classes=tuple(classes)
        )
    return inputs, None


def inputs_of(parts: Sequence[Samples], preparation: ImagePreparation | TextPreparation) -> Inputs:
    """Return the samples of one or more splits of a dataset, one after another, as inputs without labels."""
    found = [samples[np.arange(len(samples))][0].numpy() for samples in parts]  # (N, C, H, W) or (N, T) each
    names = [int(i) for samples in parts for i in samples.index]
    if parts[0].lengths is None:
        return Inputs(names, preparation, np.concatenate(found))
    tokens = [
        x[np.arange(x.shape[1]) < samples.lengths[:, None]] for x, samples in zip(found, parts)
    ]  # padding is last
    lengths = np.concatenate([samples.lengths for samples in parts])  # (N,)
    return Inputs(names, preparation, tokens=np.concatenate(tokens), offsets=np.append(0, lengths.cumsum()))


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
    error = None
    for file in anything.samples:
        try:
            image = read_image(file, mode=None)
        except ValueError as reason:
            error = reason
            continue
        channels = 1 if image.mode in ("1", "L", "I", "I;16", "F") else 3
        return ImagePreparation(shape=(channels, image.height, image.width), divisor=255.0)
    raise error


def _readable(
    folder: Path, found: RawInputs, preparation: ImagePreparation, skip: bool, progress: bool
) -> tuple[list, np.ndarray | None]:
    """Return the files that can be read, and their pixels (N, C, H, W) unless these need too much memory."""
    keep = len(found) * int(np.prod(preparation.shape)) <= KEPT
    files, pixels, errors = [], [], []
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
    labels, classes = None, ()
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
    return Inputs(names, preparation, tokens=tokens, offsets=offsets, labels=labels, classes=classes), vocabulary


def read_texts_of(tokenizer: str, max_tokens: int, columns: Sequence[str] = ("text",)) -> TextPreparation:
    """Return the preparation of texts for a model with this tokenizer."""
    from offramp.datasets.text import load_tokenizer

    return TextPreparation(
        tokenizer=tokenizer, max_tokens=max_tokens, pad=load_tokenizer(tokenizer).pad_token_id, columns=tuple(columns)
    )
