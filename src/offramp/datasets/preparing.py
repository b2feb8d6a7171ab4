"""How raw images and texts become inputs of a model: data that datasets and exported models share. Without torch."""

import csv
import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # of Pillow, by number of channels
FORMATS: dict[str, dict[str, Any]] = {
    ".csv": {"delimiter": ",", "quoting": csv.QUOTE_MINIMAL},
    ".tsv": {"delimiter": "\t", "quoting": csv.QUOTE_NONE},
}


@dataclass(frozen=True, kw_only=True)
class ImagePreparation:
    """Preparation of images at evaluation.

    An image file is resized and its centre is cropped. Its pixels x become (x · factor / divisor − mean) / std, in
    float32. A factor and a divisor are distinguished, because x · (1/255) and x / 255 round differently.

    Parameters
    ----------
    shape : tuple of int
        Channels, height and width of the model input.
    mean, std : tuple of float
        One number per channel. Empty: no normalisation.
    factor, divisor : float
    resize : tuple of int
        Size before the crop: the short side, or height and width. Empty: image files must have the size of the input.
    interpolation : str
        Name of a resampling filter of Pillow, in lower case.
    """

    shape: tuple[int, ...]
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    factor: float = 1.0
    divisor: float = 1.0
    resize: tuple[int, ...] = ()
    interpolation: str = "bilinear"

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """Return the model inputs, float32 (B, C, H, W), of stored pixels (B, C, H, W)."""
        x = pixels.astype(np.float32)  # (B, C, H, W)
        if self.factor != 1:
            x *= np.float32(self.factor)
        if self.divisor != 1:
            x /= np.float32(self.divisor)
        if self.mean:
            mean, std = np.array([self.mean, self.std], np.float32)[:, :, None, None]  # (C, 1, 1) each
            x -= mean
            x /= std
        return x

    def read(self, path: str | os.PathLike) -> np.ndarray:
        """Read, resize and crop an image file. Return its pixels, uint8 (C, H, W).

        Raises
        ------
        ValueError
            If the file cannot be read completely, or if it has another size and is not resized.
        """
        channels, height, width = self.shape
        image = read_image(path, MODES[channels])
        if self.resize:
            image = _resized(image, self.resize, self.interpolation)
            left, top = round((image.width - width) / 2), round((image.height - height) / 2)
            image = image.crop((left, top, left + width, top + height))
        elif image.size != (width, height):
            raise ValueError(
                f"{path}: {image.width} × {image.height} pixels; expected {width} × {height}, as the model was trained"
            )
        return np.ascontiguousarray(np.asarray(image).reshape(height, width, channels).transpose(2, 0, 1))


def _resized(image, size: tuple[int, ...], interpolation: str):
    from PIL import Image

    if len(size) == 1:  # rounded down, as in torchvision
        short, long = sorted(image.size)
        ends = size[0], int(size[0] * long / short)
        height, width = ends if image.height <= image.width else ends[::-1]
    else:
        height, width = size
    if image.size == (width, height):
        return image
    return image.resize((width, height), Image.Resampling[interpolation.upper()])


def read_image(path: str | bytes | os.PathLike, mode: str | None = "RGB"):
    """Read an image file with Pillow.

    Raises
    ------
    ValueError
        If the file cannot be read completely.
    """
    from PIL import Image

    path = os.fsdecode(path)
    try:
        with Image.open(path) as image:
            return image.convert(mode)
    except Exception as error:  # PIL raises many types of exceptions for damaged files
        raise ValueError(f"{path}: unreadable image ({error}); put a good copy there") from None


@dataclass(frozen=True, kw_only=True)
class TextPreparation:
    """Preparation of texts: token ids, truncated as in training.

    Parameters
    ----------
    tokenizer : str
        In a dataset: its name, see `pretrained.source_of`. In a bundle: the file of the tokenizer.
    max_tokens : int
        Maximum number of tokens of a text, including special tokens.
    pad : int
        Id of the padding token.
    columns : tuple of str
        Columns of the texts in a table: one, or two for pairs of texts.
    """

    tokenizer: str
    max_tokens: int
    pad: int
    columns: tuple[str, ...] = ("text",)

    def rows(self, samples: Sequence[tuple[str, ...]], folder: str | os.PathLike) -> list[np.ndarray]:
        """Return the token ids of each text or pair, (T,) int64, with the tokenizer file in this folder.

        For pairs, the longer text is truncated first. Names of special tokens in a text are ordinary tokens. Both are
        as in `text.tokenize`.
        """
        file = Path(folder, self.tokenizer)
        tokenizer = _tokenizer(file, file.stat().st_mtime_ns, self.max_tokens)
        pairs = [sample[0] if len(sample) == 1 else tuple(sample) for sample in samples]
        return [np.array(encoded.ids, np.int64) for encoded in tokenizer.encode_batch(pairs)]


@cache  # reading the file takes longer than most texts
def _tokenizer(file: Path, changed: int, max_tokens: int) -> "Tokenizer":
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.encode_special_tokens = True
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_tokens, strategy="longest_first")
    return tokenizer


def padded(tokens: np.ndarray, starts: np.ndarray, lengths: np.ndarray, pad: int) -> np.ndarray:
    """Return texts as padded token ids, int64 (B, T).

    Parameters
    ----------
    tokens : ndarray
        Token ids of all texts, concatenated.
    starts, lengths : ndarray of shape (B,)
        Text i is `tokens[starts[i] : starts[i] + lengths[i]]`.
    pad : int
    """
    filled = np.arange(lengths.max(initial=0)) < lengths[:, None]  # (B, T)
    batch = np.full(filled.shape, pad, np.int64)
    batch[filled] = tokens[(starts[:, None] + np.arange(filled.shape[1]))[filled]]
    return batch


def read_table(
    content: bytes,
    where: str,
    columns: Sequence[str],
    *,
    delimiter: str,
    quoting: int,
    header: Sequence[str] | None = None,
) -> Iterator[tuple[int, list[str]]]:
    """Yield the line number and the fields in `columns` for each row of a UTF-8 table. Blank lines are skipped.

    Parameters
    ----------
    content : bytes
    where : str
        Name of the table in error messages.
    columns : sequence of str
    delimiter : str
    quoting : int
        As in `csv`.
    header : sequence of str, optional
        Names of all columns. By default, they are in the first line.

    Raises
    ------
    ValueError
        If a column is missing, or if a line is not UTF-8 or has the wrong number of fields.
    """
    reader = csv.reader(_lines(content, where), delimiter=delimiter, quoting=quoting, strict=True)
    try:
        for row in filter(None, reader):
            if header is None:
                header = row
                if missing := [column for column in columns if column not in header]:
                    raise ValueError(f"{where}, line {reader.line_num}: no column {missing[0]!r}: only {header}")
                if twice := [column for column in columns if header.count(column) > 1]:
                    raise ValueError(f"{where}, line {reader.line_num}: two columns {twice[0]!r}, expected one")
                continue
            if len(row) != len(header):
                raise ValueError(f"{where}, line {reader.line_num}: {len(row)} fields, expected {len(header)}")
            yield reader.line_num, [row[header.index(column)] for column in columns]
    except csv.Error as error:
        reason = str(error).split(" - ")[0]  # the rest is advice to programmers
        raise ValueError(f"{where}, line {reader.line_num}: not as expected in such a table ({reason})") from None


def _lines(content: bytes, where: str) -> Iterator[str]:
    for number, line in enumerate(io.BytesIO(content), 1):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError:
            raise ValueError(f"{where}: not UTF-8 at line {number}: save it as UTF-8") from None
