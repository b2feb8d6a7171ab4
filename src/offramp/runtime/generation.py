"""Captions with early exits: a policy decides for each token how many layers of the decoder run."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from offramp.models.captioner import Captioner
from offramp.policies import Policy
from offramp.policies.base import checked_threshold
from offramp.runtime.loop import Stages

Fill = Literal["copy", "recompute"]
DECAY = 4.0  # τ of CALM


@dataclass(frozen=True, eq=False)
class Captions:
    """Captions of B images, in their order.

    Attributes
    ----------
    tokens : list of ndarray of shape (T,), int64
        Token ids of each caption, with the token that ends it, unless it is cut at the maximum length.
    exits : list of ndarray of shape (T,), int64
        Exit at which each token left, counted from 0.
    confidence : list of ndarray of shape (T,), float32
        Max softmax of this exit.
    cost : ndarray of shape (B,), float64
        MACs of each caption, with the encoder, with the exits, and with what was filled in.
    """

    tokens: list[np.ndarray]
    exits: list[np.ndarray]
    confidence: list[np.ndarray]
    cost: np.ndarray

    @classmethod
    def joined(cls, parts: Sequence["Captions"]) -> "Captions":
        """Return the captions of several batches as one."""
        return cls(
            tokens=[each for part in parts for each in part.tokens],
            exits=[each for part in parts for each in part.exits],
            confidence=[each for part in parts for each in part.confidence],
            cost=np.concatenate([part.cost for part in parts]),
        )


class Generation:
    """A captioner whose tokens leave at the first exit of the decoder at which a policy says so. Greedy.

    The policy starts again at every token, and its classes are the tokens of the vocabulary (BEEM). A token that left
    has no keys and values in the layers above, which later tokens need if they go deeper. `fill` says where they come
    from:

    - "copy": they are projected from the state with which the token left (CALM, section 3.1).
    - "recompute": the layers run for the earlier tokens then, together with the token that needs them. All states are
      therefore those of the full model, given the tokens so far.

    Both wait until a later token needs them. Tokens that have left are removed from the batch, so captions do not
    depend on the batch, up to rounding.

    Parameters
    ----------
    model : Captioner
        It is set to evaluation mode.
    policy : Policy
        A fitted policy, or one that does not learn from data. All but `Oracle`.
    threshold : float or array-like of shape (L − 1,)
        Threshold δ, shared by all exits or one per exit.
    fill : {"copy", "recompute"}
    decay : bool
        Lower the threshold with the position of the token (CALM, equation 5), for signals from 0 to 1: position t of at
        most N tokens, counted from 0, has the threshold 0.9 · δ + 0.1 · exp(−4 · t / N), clipped to 0 … 1. Thresholds
        of ±∞ stay.

    Raises
    ------
    NotFittedError
        If the policy learns from data and was not fitted.
    ValueError
        If an option is unknown, if a threshold is NaN or has another shape, or if the policy does not suit the model.
    """

    def __init__(
        self, model: Captioner, policy: Policy, threshold, *, fill: Fill = "recompute", decay: bool = False
    ) -> None:
        if fill not in get_args(Fill):
            raise ValueError(f"fill is {fill!r}; expected {' or '.join(map(repr, get_args(Fill)))}")
        policy.start(0, model.n_exits)  # raises its errors here
        self.model, self.policy, self.fill, self.decay = model.eval(), policy, fill, decay
        self.threshold = checked_threshold(threshold, model.n_exits)

    def threshold_at(self, position: int) -> np.ndarray:
        """Return the threshold of the token in a position, counted from 0."""
        if not self.decay:
            return self.threshold
        rest = np.exp(-DECAY * position / self.model.vocabulary.max_tokens)
        lowered = np.clip(0.9 * self.threshold + 0.1 * rest, 0, 1)
        return np.where(np.isfinite(self.threshold), lowered, self.threshold)

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Captions:
        """Write captions for images (B, C, H, W).

        Raises
        ------
        ValueError
            If there are no images, if a logit is not finite, or if the outputs lack data that the policy needs.
        """
        if not len(images):
            raise ValueError("expected at least one image")
        return self.write(self.model.encode(images.to(self.model.device)))

    @torch.inference_mode()
    def write(self, memory: Tensor) -> Captions:
        """Write captions for what the encoder made of images, (B, S, D). Their cost includes the encoder.

        Raises
        ------
        ValueError
            If a logit is not finite, or if the outputs lack data that the policy needs.
        """
        vocabulary, batch = self.model.vocabulary, _Batch(self, memory)
        rows = np.arange(len(memory))  # (b,): captions that have not ended
        tokens = np.full(len(memory), vocabulary.bos)  # (b,)
        written = np.empty((3, len(memory), vocabulary.max_tokens))  # tokens, exits and confidences
        lengths = np.zeros(len(memory), np.int64)  # (B,)
        for position in range(vocabulary.max_tokens):
            answers = batch.write(position, rows, tokens)
            written[:, rows, position] = answers.prediction, answers.exit, answers.confidence
            lengths[rows] += 1
            goes_on = answers.prediction != vocabulary.eos  # (b,)
            rows, tokens = rows[goes_on], answers.prediction[goes_on]
            if not len(rows):
                break
        types = (np.int64, np.int64, np.float32)
        columns = [[row[:n].astype(kind) for row, n in zip(values, lengths)] for values, kind in zip(written, types)]
        return Captions(columns[0], columns[1], columns[2], batch.paid)


class _Batch(Stages):
    """The captions of a batch of images as they are written. Calling it with tokens (b,) writes the next ones.

    What is known of each token of each caption: the state after the last layer that it went through, and its keys and
    values in the first layers. In each layer, the tokens with keys and values are the first ones of a caption, because
    a token that enters a layer fills in all earlier ones.
    """

    def __init__(self, generation: Generation, memory: Tensor) -> None:
        model = self.model = generation.model
        super().__init__(model.n_exits, generation.policy, generation.threshold, "always")
        self.generation, self.fill = generation, generation.fill
        self.memory = memory  # (B, S, D)
        size, longest, depth = len(memory), model.vocabulary.max_tokens, model.n_exits
        heads = model.decoder.config.n_head
        each = (2, heads, model.width // heads)  # keys and values of a token
        self.keys = self.memory.new_zeros(depth, size, longest, *each)
        self.of_image = self.memory.new_zeros(depth, size, self.memory.shape[1], *each)
        self.hidden = self.memory.new_zeros(size, longest, model.width)
        self.filled = np.zeros((depth, size), np.int64)  # (L, B): number of tokens with keys and values
        self.paid = np.full(size, model.costs.encoder)  # (B,)
        self.position, self.rows = 0, np.arange(size)

    def write(self, position: int, rows: np.ndarray, tokens: np.ndarray):
        """Return the `Answers` for the tokens that follow `tokens` (b,) in a position of these captions (b,)."""
        self.position, self.rows = position, rows
        self.threshold = self.generation.threshold_at(position)
        return self(torch.from_numpy(tokens).to(self.model.device))

    def start(self, x: Tensor) -> "_Token":
        return _Token(self, self.rows, x)

    def cost(self, x) -> np.ndarray:
        return np.zeros(self.n_exits)  # is counted in `paid`, because it depends on earlier tokens

    def layer(self, i: int, rows: np.ndarray) -> Tensor:
        """Run layer i for the current token of some captions (k,), with what it needs. Return its states (k, D)."""
        model, costs, end = self.model, self.model.costs, self.position + 1
        first = self.filled[i, rows]  # (k,)
        fresh = rows[first == 0]  # whose image this layer has not seen
        if len(fresh):
            self.of_image[i, fresh] = model.memory_keys(i, self.memory[fresh])
        columns = np.arange(first.min(), end)  # (n,)
        missing = columns >= first[:, None]  # (k, n)
        caption, place = rows[missing.nonzero()[0]], columns[missing.nonzero()[1]]  # (M,) each
        self.keys[i, caption, place] = model.keys(i, self.hidden[caption, place])
        self.filled[i, rows] = end
        if self.fill == "copy":  # the layer runs for the current token only
            missing, caption, place = missing[:, -1:], rows, np.full(len(rows), self.position)
        self.hidden[caption, place] = model.layer(
            i,
            self.hidden[caption, place],
            torch.from_numpy(missing).to(self.memory.device),
            self.keys[i, rows, :end],
            self.of_image[i, rows],
        )
        attended = np.where(missing, np.arange(end - missing.shape[1], end) + 1, 0).sum(axis=1)  # (k,)
        self.paid[rows] += costs.layer(i, end - first, missing.sum(axis=1), attended) + costs.head[i]
        self.paid[fresh] += costs.memory[i]
        return self.hidden[rows, self.position]


class _Token:
    """The current token of some captions on its way through the layers, as in `loop.Run`."""

    def __init__(self, batch: _Batch, rows: np.ndarray, tokens: Tensor) -> None:
        self.batch, self.rows, self.i = batch, rows, -1
        self.hidden = batch.model.embed(tokens, torch.full_like(tokens, batch.position))  # (b, D)
        batch.hidden[rows, batch.position] = self.hidden

    def step(self) -> tuple[np.ndarray, np.ndarray]:
        self.i += 1
        before, self.hidden = self.hidden, self.batch.layer(self.i, self.rows)
        logits = self.batch.model.head(self.i, self.hidden)  # (b, V)
        return logits.float().cpu().numpy(), cosine_similarity(before, self.hidden).float().cpu().numpy()

    def keep(self, rows: np.ndarray) -> None:
        self.rows, self.hidden = self.rows[rows], self.hidden[torch.from_numpy(rows)]

    def select(self, rows: np.ndarray) -> None:
        """Times are not measured for captions."""
