"""Base classes of multi-exit models, as used by training, recording and the cost counter."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterator
from itertools import islice

import torch
from torch import Tensor, nn

from offramp.datasets.base import Vocabulary
from offramp.models import INPUTS


class MultiExitModel(nn.Module, ABC):
    """A classifier with `n_exits` exits, each later and more expensive than the previous one.

    The constructor of a subclass takes `classes`, one of `INPUTS`, and its own options, all as keyword arguments.
    """

    n_exits: int

    @abstractmethod
    def exits(self, x: Tensor) -> Iterator[Tensor]:
        """Yield the logits of each exit as soon as they are computed.

        If iteration stops early, later exits are not computed.

        Parameters
        ----------
        x : Tensor
            Images (B, channels, H, W), or texts as padded token ids (B, T).

        Yields
        ------
        Tensor
            Logits (B, C) of exits 1, 2, … L.
        """

    def blank(self, shape: tuple[int, ...]) -> Tensor:
        """Return an input (1, *shape) for counting costs: a black image."""
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
    """A model whose layers have the same width, with one exit after each layer. Each exit reads a state (B, D)."""

    @abstractmethod
    def states(self, x: Tensor) -> Iterator[Tensor]:
        """Yield the states that the exits read, as soon as they are computed.

        If iteration stops early, later states are not computed.

        Parameters
        ----------
        x : Tensor
            As for `exits`.

        Yields
        ------
        Tensor
            States (B, D): h_0, the state before the first layer, then h_1 … h_L.
        """

    @abstractmethod
    def head(self, i: int, state: Tensor) -> Tensor:
        """Return the logits (B, C) of exit `i`, counted from 0, computed from its state h_{i+1} (B, D)."""

    def exits(self, x: Tensor) -> Iterator[Tensor]:
        for i, state in enumerate(islice(self.states(x), 1, None)):
            yield self.head(i, state)


class TextModel(MultiExitModel):
    """A model that reads the token ids of a vocabulary."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.pad, self.separator = vocabulary.pad, vocabulary.separator

    def blank(self, shape: tuple[int, ...]) -> Tensor:
        """Return a text (1, T) without padding."""
        return torch.full((1, *shape), int(self.pad == 0), device=next(self.parameters()).device)

    def token_types(self, ids: Tensor) -> Tensor:
        """Token types (B, T): 1 after the first separator; 0 before it and for padding."""
        separators = (ids == self.separator).long()  # (B, T)
        behind = separators.cumsum(1) > separators  # (B, T)
        return (behind & (ids != self.pad)).long()

    def check_vocabulary(self, backbone: str, config) -> None:
        """Raise ValueError if the configuration of a transformers model does not match the vocabulary of the texts."""
        spare = config.vocab_size - self.vocabulary.size  # embedding tables may be padded to a multiple of up to 128
        if not 0 <= spare < 128 or config.pad_token_id != self.pad:
            raise ValueError(
                f"the texts have {self.vocabulary.size} tokens and pad with {self.pad}, but {backbone!r} has "
                f"{config.vocab_size} and {config.pad_token_id}: expected dataset.tokenizer to be the backbone's"
            )
