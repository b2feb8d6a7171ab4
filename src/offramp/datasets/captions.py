"""Base class of datasets of images with reference captions, and vocabularies of captions."""

import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
import torch

from offramp.datasets.preparing import ImagePreparation

if TYPE_CHECKING:
    import pandas as pd

SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>")


def plain(caption: str) -> str:
    """Return a caption in lower case, without punctuation, with single spaces. All captions are compared like this."""
    return " ".join(re.findall(r"[^\W_]+(?:['’-][^\W_]+)*", caption.lower()))


@dataclass(frozen=True)
class Words:
    """A vocabulary of words. Ids are 0 … size − 1; the first are those of `SPECIAL`.

    Parameters
    ----------
    words : tuple of str
    max_tokens : int
        Maximum number of tokens of a caption, including the token that ends it.
    """

    words: tuple[str, ...]
    max_tokens: int

    pad, bos, eos, unknown = range(4)

    @classmethod
    def of(cls, captions: Iterable[str], *, max_tokens: int, least: int = 1) -> "Words":
        """Return the vocabulary of all words that occur at least `least` times, in alphabetical order."""
        counts = Counter(word for caption in captions for word in plain(caption).split())
        return cls(tuple(sorted(word for word, n in counts.items() if n >= least)), max_tokens)

    @property
    def size(self) -> int:
        return len(SPECIAL) + len(self.words)

    def encode(self, captions: Sequence[str]) -> np.ndarray:
        """Return the token ids (N, 1 + T) of captions: the token that starts them, words, the token that ends them.

        Captions are cut to `max_tokens` and padded to the longest of them. Words that are not known are `unknown`.
        """
        number = {word: n for n, word in enumerate(self.words, start=len(SPECIAL))}
        rows = [
            [self.bos, *(number.get(word, self.unknown) for word in plain(caption).split()[: self.max_tokens - 1])]
            for caption in captions
        ]
        ids = np.full((len(rows), 1 + max(map(len, rows), default=0)), self.pad)  # (N, 1 + T)
        for i, row in enumerate(rows):
            ids[i, : len(row) + 1] = [*row, self.eos]
        return ids

    def spell(self, ids: Iterable[int]) -> list[str]:
        """Return the text of each token. Special tokens have their name in angle brackets."""
        every = (*SPECIAL, *self.words)
        return [every[n] for n in ids]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the caption of token ids: everything before the first token that ends it."""
        spelled = self.spell(ids)
        end = SPECIAL[self.eos]
        return " ".join(spelled[: spelled.index(end)] if end in spelled else spelled)


def following(ids: np.ndarray, end: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return what a decoder reads of token ids (N, 1 + T), what it should say, and where, (N, T) each.

    The last is bool: False after the token `end`, with which a caption ends.
    """
    before = np.cumsum(ids[:, 1:] == end, axis=1) - (ids[:, 1:] == end)  # (N, T): ends before this token
    return ids[:, :-1], ids[:, 1:], before == 0


@dataclass(frozen=True, kw_only=True, eq=False)
class CaptionDataset(ABC):
    """Images, each with several reference captions, in the splits "train", "validation" and "test".

    Parameters
    ----------
    name : str
        Name in the registry `CAPTIONED`.
    preparation : ImagePreparation
        How pixels become inputs of a model. Its `shape` is that of the images.
    vocabulary : Words
    references : mapping of str to sequence of tuples of str
        The captions of each image, by split.
    """

    name: str
    preparation: ImagePreparation
    vocabulary: Words
    references: Mapping[str, Sequence[tuple[str, ...]]] = field(repr=False)

    @abstractmethod
    def pixels(self, split: str, index: np.ndarray) -> np.ndarray:
        """Return the pixels of images of a split, uint8 (B, C, H, W)."""

    def images(self, split: str, index: np.ndarray) -> torch.Tensor:
        """Return images of a split as inputs of a model, float32 (B, C, H, W)."""
        return torch.from_numpy(self.preparation(self.pixels(split, index)))

    def pictures(self, split: str, n: int) -> "pd.DataFrame":
        """Return the first n images of a split as a table: image, and png (bytes of a file), for figures."""
        import pandas as pd
        from PIL import Image

        index = np.arange(min(n, len(self.references[split])))
        files = [BytesIO() for _ in index]
        for pixels, file in zip(self.pixels(split, index), files):  # (C, H, W)
            Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)).save(file, "PNG")
        return pd.DataFrame({"image": index, "png": [file.getvalue() for file in files]})
