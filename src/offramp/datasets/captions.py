"""Base class of datasets of images with reference captions, and vocabularies of captions."""

import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from io import BytesIO
from itertools import takewhile
from typing import TYPE_CHECKING

import numpy as np
import torch

from offramp.datasets.preparing import ImagePreparation
from offramp.datasets.text import fetch_tokenizer

if TYPE_CHECKING:
    import pandas as pd

SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>")


def plain(caption: str) -> str:
    """Return a caption in lower case, without punctuation, with single spaces. All captions are compared like this."""
    return " ".join(re.findall(r"[^\W_]+(?:['’-][^\W_]+)*", caption.lower()))


class CaptionVocabulary(ABC):
    """The tokens of captions.

    Attributes
    ----------
    size : int
        Number of tokens.
    max_tokens : int
        Maximum number of tokens of a caption, including the token that ends it.
    pad, bos, eos : int
        Ids of the tokens that fill up, start and end a caption. They may be the same.
    """

    max_tokens: int
    pad: int
    bos: int
    eos: int

    @property
    @abstractmethod
    def size(self) -> int: ...

    @abstractmethod
    def ids(self, caption: str) -> list[int]:
        """Return the token ids of a caption, without those that start and end it."""

    @abstractmethod
    def words(self, ids: Iterable[int]) -> list[tuple[str, int]]:
        """Return the words of token ids up to the end of the caption, each with the number of its tokens."""

    def encode(self, captions: Sequence[str]) -> np.ndarray:
        """Return the token ids (N, 1 + T) of captions: the token that starts them, theirs, the token that ends them.

        Captions are cut to `max_tokens` and padded to the longest of them.
        """
        rows = [[self.bos, *self.ids(caption)[: self.max_tokens - 1], self.eos] for caption in captions]
        ids = np.full((len(rows), max(map(len, rows), default=1)), self.pad)  # (N, 1 + T)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = row
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """Return the caption of token ids: everything before the first token that ends it."""
        return " ".join(word for word, _ in self.words(ids))

    def before_end(self, ids: Iterable[int]) -> list[int]:
        """Return the token ids before the first one that ends the caption."""
        return list(takewhile(lambda n: n != self.eos, ids))


@dataclass(frozen=True)
class Words(CaptionVocabulary):
    """A vocabulary of words. Ids are 0 … size − 1; the first are those of `SPECIAL`.

    Parameters
    ----------
    known : tuple of str
    max_tokens : int
    """

    known: tuple[str, ...]
    max_tokens: int

    pad, bos, eos, unknown = range(4)

    @classmethod
    def of(cls, captions: Iterable[str], *, max_tokens: int, least: int = 1) -> "Words":
        """Return the vocabulary of all words that occur at least `least` times, in alphabetical order."""
        counts = Counter(word for caption in captions for word in plain(caption).split())
        return cls(tuple(sorted(word for word, n in counts.items() if n >= least)), max_tokens)

    @property
    def size(self) -> int:
        return len(SPECIAL) + len(self.known)

    def ids(self, caption: str) -> list[int]:
        return [self._number.get(word, self.unknown) for word in plain(caption).split()]

    def words(self, ids: Iterable[int]) -> list[tuple[str, int]]:
        every = (*SPECIAL, *self.known)
        return [(every[n], 1) for n in self.before_end(ids)]

    @cached_property
    def _number(self) -> dict[str, int]:
        return {word: n for n, word in enumerate(self.known, start=len(SPECIAL))}


@dataclass(frozen=True)
class Pieces(CaptionVocabulary):
    """The vocabulary of a pretrained GPT-2, whose tokens are words and pieces of words.

    Captions are read as all others, in lower case and without punctuation (our choice).

    Parameters
    ----------
    tokenizer : str
        Name on the Hugging Face hub, for example "gpt2", or a folder.
    max_tokens : int

    Raises
    ------
    ValueError
        If the tokenizer cannot be loaded, or if it has no token that ends a text.
    """

    tokenizer: str
    max_tokens: int

    def __post_init__(self) -> None:
        if self._encoder.eos_token_id is None:
            raise ValueError(f"tokenizer {self.tokenizer!r} has no token that ends a text: expected that of a GPT-2")

    @cached_property
    def _encoder(self):
        return fetch_tokenizer(self.tokenizer)

    @property
    def size(self) -> int:
        return len(self._encoder)

    @property
    def eos(self) -> int:
        return self._encoder.eos_token_id

    @property
    def bos(self) -> int:
        return self.eos if self._encoder.bos_token_id is None else self._encoder.bos_token_id

    @property
    def pad(self) -> int:
        return self.eos  # what follows the end of a caption is never read

    def ids(self, caption: str) -> list[int]:
        # With a space before it, the first word has the same tokens as elsewhere
        text = "".join(f" {word}" for word in plain(caption).split())
        return self._encoder(text, add_special_tokens=False)["input_ids"]

    def words(self, ids: Iterable[int]) -> list[tuple[str, int]]:
        pieces: list[list[int]] = []
        for n in self.before_end(ids):
            if pieces and not (self._spelled([n], whole=False)[:1].isspace() and self._spelled(pieces[-1])):
                pieces[-1].append(n)
            else:
                pieces.append([n])
        if len(pieces) > 1 and not self._spelled(pieces[-1]):  # spaces at the end
            spaces = pieces.pop()
            pieces[-1].extend(spaces)
        return [(self._spelled(own) or "?", len(own)) for own in pieces]

    def _spelled(self, ids: list[int], whole: bool = True) -> str:
        text = self._encoder.decode(ids)
        return "".join(text.split()) if whole else text


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
    vocabulary : CaptionVocabulary
    references : mapping of str to sequence of tuples of str
        The captions of each image, by split.
    """

    name: str
    preparation: ImagePreparation
    vocabulary: CaptionVocabulary
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
