"""Base classes of multi-exit models, as used by training, recording and the cost counter."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from offramp.datasets.base import Vocabulary
from offramp.models import INPUTS


class ExitOutput(NamedTuple):
    """What a model computes up to one exit.

    Attributes
    ----------
    logits : Tensor
        (B, C).
    state : tuple of Tensor
        Everything that the next stage reads. The samples are the first dimension of each tensor. After the last exit,
        it is not used.
    similarity : Tensor, optional
        (B,), cosine similarity between the hidden state that this exit reads and the one before it.
    """

    logits: Tensor
    state: tuple[Tensor, ...] = ()
    similarity: Tensor | None = None


class MultiExitModel(nn.Module, ABC):
    """A classifier with `n_exits` exits, each later and more expensive than the previous one.

    The constructor of a subclass takes `classes`, one of `INPUTS`, and its own options, all as keyword arguments. A
    subclass defines `stage`, the part of the network between two exits. Everything else follows from it: training,
    recording, early exits that remove samples from the batch, and the export to ONNX.

    A subclass can define the generator `exits` instead, if export is not needed. At each `yield`, such a generator may
    receive the positions (K,) of the samples that stay; if it ignores them, samples are never removed from the batch.
    """

    n_exits: int

    def stage(self, i: int, *state: Tensor) -> ExitOutput:
        """Run the part of the network between exits i − 1 and i, and exit i.

        Parameters
        ----------
        i : int
            Exit, counted from 0.
        *state : Tensor
            The state that stage i − 1 returned. For stage 0, this is the input: images (B, channels, H, W), or texts as
            padded token ids (B, T).
        """
        raise NotImplementedError(f"{type(self).__name__} defines exits, not stage: expected stage(i, *state)")

    def keep(self, state: tuple[Tensor, ...], rows: Tensor, length: int | None = None) -> tuple[Tensor, ...]:
        """Return the state of these samples only.

        Parameters
        ----------
        state : tuple of Tensor
        rows : Tensor
            Positions (K,) of the samples to keep.
        length : int, optional
            Number of tokens of the longest text among them. A text model can cut its state to this length.
        """
        return tuple(tensor.index_select(0, rows) for tensor in state)

    def lengths(self, x: Tensor) -> Tensor | None:
        """Return the number of tokens of each text (B,), or None for images."""
        return None

    def outputs(
        self, x: Tensor, stage: Callable[..., ExitOutput] | None = None
    ) -> Generator[ExitOutput, tuple[Tensor, int | None] | None, None]:
        """Yield the output of each exit as soon as it is computed.

        If iteration stops early, later exits are not computed. `send((rows, length))` continues with these samples
        only; the arguments are those of `keep`.

        Parameters
        ----------
        x : Tensor
            Images (B, channels, H, W), or texts as padded token ids (B, T).
        stage : callable, optional
            Function that is called instead of the method `stage`.
        """
        stage = stage or self.stage
        if not self.has_stages:
            yield from self._outputs_of_exits(x)
            return
        state: tuple[Tensor, ...] = (x,)
        for i in range(self.n_exits):
            output = stage(i, *state)
            kept = yield output
            state = output.state if kept is None else self.keep(output.state, *kept)

    def _outputs_of_exits(self, x: Tensor) -> Generator[ExitOutput, tuple[Tensor, int | None] | None, None]:
        exits, rows = self.exits(x), None
        while True:
            try:
                logits = exits.send(rows) if isinstance(exits, Generator) else next(exits)
            except StopIteration:
                return
            kept = yield ExitOutput(logits)
            rows = None if kept is None else kept[0]

    @property
    def has_stages(self) -> bool:
        """Whether the model defines `stage`."""
        return type(self).stage is not MultiExitModel.stage

    def exits(self, x: Tensor) -> Iterator[Tensor]:
        """Yield the logits (B, C) of exits 1, 2, … L as soon as they are computed.

        If iteration stops early, later exits are not computed.

        Parameters
        ----------
        x : Tensor
            Images (B, channels, H, W), or texts as padded token ids (B, T).
        """
        return (output.logits for output in self.outputs(x))

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
    """A model whose layers have the same width, with one exit after each layer. Each exit reads a state h (B, D)."""

    @abstractmethod
    def embed(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return what the first layer reads, computed from the input. Samples are the first dimension."""

    @abstractmethod
    def layer(self, i: int, *state: Tensor) -> tuple[Tensor, ...]:
        """Return what the next layer reads, computed by layer `i`, counted from 0."""

    @abstractmethod
    def hidden(self, *state: Tensor) -> Tensor:
        """Return the state h (B, D) that the exit reads."""

    @abstractmethod
    def head(self, i: int, hidden: Tensor) -> Tensor:
        """Return the logits (B, C) of exit `i`, counted from 0, computed from its state h (B, D)."""

    def states(self, x: Tensor) -> Iterator[Tensor]:
        """Yield the states (B, D) that the exits read, as soon as they are computed: h_0, before the first layer, to
        h_L."""
        state = self.embed(x)
        yield self.hidden(*state)
        for i in range(self.n_exits):
            state = self.layer(i, *state)
            yield self.hidden(*state)

    def stage(self, i: int, *state: Tensor) -> ExitOutput:
        if i == 0:
            state = self.embed(*state)
            before = self.hidden(*state)
        else:
            *state, before = state
        state = self.layer(i, *state)
        hidden = self.hidden(*state)
        return ExitOutput(self.head(i, hidden), (*state, hidden), cosine_similarity(before, hidden))


class TextModel(MultiExitModel):
    """A model that reads the token ids of a vocabulary."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.pad, self.separator = vocabulary.pad, vocabulary.separator

    def blank(self, shape: tuple[int, ...]) -> Tensor:
        """Return a text (1, T) without padding."""
        return torch.full((1, *shape), int(self.pad == 0), device=next(self.parameters()).device)

    def lengths(self, x: Tensor) -> Tensor:
        return (x != self.pad).sum(1)

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
