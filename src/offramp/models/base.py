"""What every multi-exit model looks like to training, recording and the cost counter."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterator
from itertools import islice

import torch
from torch import Tensor, nn

from offramp.datasets.base import Vocabulary
from offramp.models import INPUTS


# What a dataset may have: the constructor's argument that tells a model about it
class MultiExitModel(nn.Module, ABC):
    """A classifier that answers at `n_exits` places, each later and dearer than the one before.

    A subclass's constructor takes `classes`, one of `INPUTS` and its own options, all by keyword.
    """

    n_exits: int

    @abstractmethod
    def exits(self, x: Tensor) -> Iterator[Tensor]:
        """Yield the logits of each exit as soon as they are computed.

        Whoever stops asking stops paying: nothing behind the last exit asked for is computed.

        Parameters
        ----------
        x : Tensor
            Images (B, channels, H, W), or texts (B, T): the ids of their tokens, padded.

        Yields
        ------
        Tensor
            Logits (B, C) of exit 1, 2, … L.
        """

    def blank(self, shape: tuple[int, ...]) -> Tensor:
        """An input of that shape to count costs with, (1, *shape): a black image."""
        like = next(self.parameters())
        return torch.zeros(1, *shape, dtype=like.dtype, device=like.device)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of all exits, (B, L, C)."""
        return torch.stack(list(self.exits(x)), dim=1)  # (B, L, C)

    @classmethod
    def options(cls) -> list[str]:
        """Return the names of the options that the constructor takes."""
        return [name for name in inspect.signature(cls).parameters if name not in ("classes", *INPUTS)]


class LayeredModel(MultiExitModel):
    """Layers of one width, an exit after each: every exit reads a state (B, D) of its layer."""

    @abstractmethod
    def states(self, x: Tensor) -> Iterator[Tensor]:
        """Yield what the exits read, as soon as it is computed; behind the last state asked for nothing is.

        Parameters
        ----------
        x : Tensor
            As for `exits`.

        Yields
        ------
        Tensor
            (B, D): h_0, where an exit in front of the first layer would read, then h_1 … h_L.
        """

    @abstractmethod
    def head(self, i: int, state: Tensor) -> Tensor:
        """Return the logits (B, C) of exit `i`, counted from 0, from the state h_{i+1} (B, D) that it reads."""

    def exits(self, x: Tensor) -> Iterator[Tensor]:
        for i, state in enumerate(islice(self.states(x), 1, None)):
            yield self.head(i, state)


class TextModel(MultiExitModel):
    """A model that reads token ids, those of some vocabulary."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.pad, self.separator = vocabulary.pad, vocabulary.separator

    def blank(self, shape: tuple[int, ...]) -> Tensor:
        """Texts of that many tokens, (1, T), none of which is padding."""
        return torch.full((1, *shape), int(self.pad == 0), device=next(self.parameters()).device)

    def token_types(self, ids: Tensor) -> Tensor:
        """1 behind the first separator, else 0, as for padding, (B, T)."""
        separators = (ids == self.separator).long()  # (B, T)
        behind = separators.cumsum(1) > separators  # (B, T)
        return (behind & (ids != self.pad)).long()

    def check_vocabulary(self, backbone: str, config) -> None:
        """Raise ValueError where the configuration of a model of transformers has other tokens than the texts."""
        spare = config.vocab_size - self.vocabulary.size  # tables are filled up, to a multiple of 128 at most
        if not 0 <= spare < 128 or config.pad_token_id != self.pad:
            raise ValueError(
                f"the texts have {self.vocabulary.size} tokens and pad with {self.pad}, but {backbone!r} has "
                f"{config.vocab_size} and {config.pad_token_id}: expected dataset.tokenizer to be the backbone's"
            )
