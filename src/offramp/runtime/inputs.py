"""Raw inputs in files: arrays of images, folders of images, and texts."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from offramp.datasets.preparing import FORMATS, ImagePreparation, TextPreparation, read_table

IMAGES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


@dataclass(frozen=True, eq=False)
class RawInputs:
    """Inputs that are not prepared.

    Attributes
    ----------
    names : list
        File names, or numbers of rows: from 0 in arrays, and line numbers in text files.
    samples : ndarray or list
        What `Bundle.prepare` takes.
    """

    names: list
    samples: np.ndarray | list

    def __len__(self) -> int:
        return len(self.names)

    def batches(self, size: int) -> list[np.ndarray]:
        """Return the positions of the samples in batches. Texts of similar length are together."""
        order = np.arange(len(self))  # (N,)
        if isinstance(self.samples, list) and isinstance(self.samples[0], tuple):
            order = np.argsort([sum(map(len, each)) for each in self.samples], kind="stable")
        return np.array_split(order, -(-len(self) // size))

    def take(self, rows: np.ndarray) -> np.ndarray | list:
        """Return the samples in these positions."""
        return self.samples[rows] if isinstance(self.samples, np.ndarray) else [self.samples[row] for row in rows]


def read_inputs(path: str | os.PathLike, preparations: Sequence[ImagePreparation | TextPreparation]) -> RawInputs:
    """Read the inputs of a bundle.

    Parameters
    ----------
    path : path
        For images: a folder with image files, or a .npy file of shape (N, C, H, W): integers are stored pixels, floats
        are prepared inputs. For texts: a .txt file with one text per line, or a .csv or .tsv file with the columns of
        the dataset of the model, as for the dataset `text_files`.
    preparations : sequence
        Those of the models of the bundle.

    Raises
    ------
    ValueError
        If the inputs are of another kind, empty, damaged or not finite. The message names the file and the place.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(f"{path}: no such file or folder")
    if isinstance(preparations[0], TextPreparation):
        found = _texts(path, preparations[0].columns)
    elif path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix.lower() in IMAGES)
        found = RawInputs([file.relative_to(path).as_posix() for file in files], files)
    elif path.suffix == ".npy":
        found = _array(path, [each for each in dict.fromkeys(preparations) if isinstance(each, ImagePreparation)])
    else:
        raise ValueError(f"{path}: expected a .npy file or a folder of images ({' '.join(IMAGES)})")
    if not len(found):
        raise ValueError(f"{path}: no {'images' if path.is_dir() else 'samples'} in it; expected at least one")
    return found


def _array(path: Path, preparations: list[ImagePreparation]) -> RawInputs:
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError:
        raise
    except Exception as error:  # a damaged header is parsed by NumPy as Python, with errors of many types
        raise ValueError(f"{path}: not a readable .npy file ({' '.join(str(error).split())})") from None
    for shape in {each.shape for each in preparations}:
        if values.ndim != 4 or values.shape[1:] != tuple(shape):
            raise ValueError(f"{path}: shape {values.shape}; expected (N, {', '.join(map(str, shape))})")
    if values.dtype.kind not in "iuf":
        raise ValueError(f"{path}: {values.dtype}; expected integers (stored pixels) or floats (prepared inputs)")
    if values.dtype.kind == "f":
        if len(preparations) > 1:
            raise ValueError(f"{path}: {values.dtype}; expected integers, since each model has its own preparation")
        for i, row in enumerate(values):  # (C, H, W)
            if not np.isfinite(row).all():
                raise ValueError(f"{path}: row {i} has a value that is not finite; expected finite numbers")
    return RawInputs(list(range(len(values))), values)


def _texts(path: Path, columns: tuple[str, ...]) -> RawInputs:
    if path.suffix in FORMATS:
        rows = list(read_table(path.read_bytes(), str(path), columns, **FORMATS[path.suffix]))
        return RawInputs([line for line, _ in rows], [tuple(fields) for _, fields in rows])
    if path.suffix != ".txt" or len(columns) > 1:
        plain = ".txt with one text per line, or " if len(columns) == 1 else ""
        raise ValueError(f"{path}: expected {plain}.csv or .tsv with the columns {', '.join(columns)}")
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise ValueError(f"{path}: not UTF-8 at line {line}: save it as UTF-8") from None
    lines = lines[:-1] if lines[-1] == "" else lines
    return RawInputs(list(range(1, len(lines) + 1)), [(line,) for line in lines])
