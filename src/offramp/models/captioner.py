"""An image encoder and a decoder of captions, with an exit after every layer of the decoder."""

import inspect
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from offramp.datasets.captions import CaptionVocabulary
from offramp.datasets.pretrained import build_timm, from_transformers
from offramp.models import INPUTS
from offramp.models.base import MultiExitModel
from offramp.models.costs import exit_costs
from offramp.models.timm import has_fixed_size


@dataclass(frozen=True, eq=False)
class CaptionCosts:
    """Multiply-accumulates of the parts of a captioner, from which the cost of a caption is added up.

    Attributes
    ----------
    encoder : float
        Of the encoder, paid once for each image.
    memory : ndarray of shape (L,)
        Of the keys and values of the image in each layer, paid once for each image and layer that it reaches.
    keys : ndarray of shape (L,)
        Of the keys and values of one token.
    token : ndarray of shape (L,)
        Of the rest of the layer for one token, without its attention to other tokens.
    attention : ndarray of shape (L,)
        Of the attention of one token to one token.
    head : ndarray of shape (L,)
        Of the exit after each layer, for one token.
    """

    encoder: float
    memory: np.ndarray
    keys: np.ndarray
    token: np.ndarray
    attention: np.ndarray
    head: np.ndarray

    def layer(self, i: int, keys, queries, attended):
        """Return the cost of layer i for a number of new keys, of queries, and of pairs of queries and keys."""
        return self.keys[i] * keys + self.token[i] * queries + self.attention[i] * attended


class Captioner(nn.Module):
    """A timm encoder and a GPT-2 decoder with cross-attention, with an exit after every layer of the decoder (BEEM).

    The states of the encoder (before its classifier) are the memory of the decoder; they are projected to the width of
    the decoder if it differs. The last exit is that of GPT-2: a LayerNorm and the projection to the vocabulary, which
    shares its weights with the embeddings of tokens. Each earlier exit has a LayerNorm and a projection of its own, or
    shares the projection of the last exit. `start_exits` copies the weights of the last exit to the earlier ones.

    Parameters
    ----------
    image_shape : tuple of int
        Channels, height and width of the images.
    vocabulary : CaptionVocabulary
    backbone : str
        Name of the encoder in timm.
    patch_size, encoder_layers, encoder_width, encoder_heads : int, optional
        Changes of a vision transformer of timm.
    decoder : str, optional
        Name of a GPT-2 on the Hugging Face hub, or a folder, with the vocabulary of the captions. By default, the
        decoder has the following size.
    layers, width, heads : int
        Number of layers L, width D of the states, and attention heads of the decoder, without a name.
    dropout : float
        Dropout rate of the decoder, without a name.
    shared : bool
        Whether the exits share the projection to the vocabulary.
    pretrained : bool
        Load the pretrained weights of the encoder, and those of a decoder with a name.

    Raises
    ------
    ValueError
        If the encoder or the decoder cannot be built or fetched, or if the decoder has another vocabulary or fewer
        positions than captions have tokens.
    """

    def __init__(
        self,
        *,
        image_shape: tuple[int, int, int],
        vocabulary: CaptionVocabulary,
        backbone: str = "vit_tiny_patch16_224",
        patch_size: int | None = None,
        encoder_layers: int | None = None,
        encoder_width: int | None = None,
        encoder_heads: int | None = None,
        decoder: str | None = None,
        layers: int = 6,
        width: int = 128,
        heads: int = 4,
        dropout: float = 0.1,
        shared: bool = False,
        pretrained: bool = False,
    ) -> None:
        super().__init__()
        changes = {
            "patch_size": patch_size,
            "depth": encoder_layers,
            "embed_dim": encoder_width,
            "num_heads": encoder_heads,
        }
        self.image_shape, self.vocabulary, self.shared = tuple(image_shape), vocabulary, shared
        self.encoder = build_timm(
            "captioner",
            backbone,
            pretrained=pretrained,
            num_classes=0,
            in_chans=image_shape[0],
            img_size=self.image_shape[1:] if has_fixed_size(backbone) else None,
            **changes,
        )
        size = {"n_layer": layers, "n_embd": width, "n_head": heads, "resid_pdrop": dropout, "embd_pdrop": dropout}
        self.decoder = _load(decoder, vocabulary, size, pretrained)
        self.width, self.n_exits = self.decoder.config.n_embd, self.decoder.config.n_layer
        wide = self.encoder.num_features
        self.bridge = nn.Identity() if wide == self.width else nn.Linear(wide, self.width)
        last = self.decoder.transformer.ln_f, self.decoder.lm_head
        self.norms = nn.ModuleList(deepcopy(last[0]) for _ in range(self.n_exits - 1))
        own = [] if shared else range(self.n_exits - 1)
        self.projections = nn.ModuleList(nn.Linear(self.width, vocabulary.size, bias=False) for _ in own)
        self.start_exits()

    def start_exits(self) -> None:
        """Copy the weights of the last exit to all earlier ones, from which their training starts."""
        for norm in self.norms:
            norm.load_state_dict(self.decoder.transformer.ln_f.state_dict())
        for projection in self.projections:
            projection.load_state_dict(self.decoder.lm_head.state_dict())

    @classmethod
    def options(cls) -> list[str]:
        """Return the names of the options that the constructor takes."""
        return [name for name in inspect.signature(cls).parameters if name not in INPUTS]

    @property
    def exits(self) -> list[nn.Parameter]:
        """The parameters of the earlier exits, which are trained after the backbone."""
        return [*self.norms.parameters(), *self.projections.parameters()]

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def encode(self, images: Tensor) -> Tensor:
        """Return the memory of the decoder (B, S, D), computed from images (B, C, H, W)."""
        features = self.encoder.forward_features(images)
        if features.ndim == 4:  # (B, H, W, E), or (B, E, H, W)
            last = getattr(self.encoder, "output_fmt", "NCHW") == "NHWC"
            features = features.flatten(1, 2) if last else features.flatten(2).transpose(1, 2).contiguous()
        return self.bridge(features)

    def embed(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Return what the first layer reads, (…, D), for tokens (…) in given positions (…)."""
        decoder = self.decoder.transformer
        return decoder.drop(decoder.wte(tokens) + decoder.wpe(positions))

    def head(self, i: int, hidden: Tensor) -> Tensor:
        """Return the logits (…, V) of exit i, counted from 0, computed from states (…, D)."""
        if i + 1 == self.n_exits:
            return self.decoder.lm_head(self.decoder.transformer.ln_f(hidden))
        projection = self.decoder.lm_head if self.shared else self.projections[i]
        return projection(self.norms[i](hidden))

    def states(self, memory: Tensor, tokens: Tensor) -> Iterator[Tensor]:
        """Yield the states (B, T, D) of whole captions: before the first layer, and after each of them.

        Parameters
        ----------
        memory : Tensor of shape (B, S, D)
        tokens : Tensor of shape (B, T)
            Token ids from the token that starts a caption.
        """
        hidden = self.embed(tokens, torch.arange(tokens.shape[1], device=tokens.device))
        yield hidden
        for block in self.decoder.transformer.h:
            hidden = block(hidden, encoder_hidden_states=memory)
            yield hidden

    def forward(self, images: Tensor, tokens: Tensor) -> Tensor:
        """Return the logits (B, T, L, V) of all exits for the tokens that follow `tokens` (B, T): teacher forcing."""
        _, *states = self.states(self.encode(images), tokens)
        return torch.stack([self.head(i, hidden) for i, hidden in enumerate(states)], dim=2)

    def memory_keys(self, i: int, memory: Tensor) -> Tensor:
        """Return the keys and values of the memory (B, S, D) in layer i, (B, S, 2, H, D / H)."""
        return self._heads(self.decoder.transformer.h[i].crossattention.c_attn(memory), 2)

    def keys(self, i: int, hidden: Tensor) -> Tensor:
        """Return the keys and values of tokens in layer i, (P, 2, H, D / H), from the states before it (P, D)."""
        block = self.decoder.transformer.h[i]
        weight, bias = block.attn.c_attn.weight[:, self.width :], block.attn.c_attn.bias[self.width :]
        return self._heads(torch.addmm(bias, block.ln_1(hidden), weight), 2)

    def layer(self, i: int, hidden: Tensor, places: Tensor, keys: Tensor, memory: Tensor) -> Tensor:
        """Run layer i for some tokens of several captions, whose keys and values are given.

        The captions have T tokens so far, and the tokens are among the last n of them.

        Parameters
        ----------
        i : int
            Layer, counted from 0.
        hidden : Tensor of shape (P, D)
            States of the tokens before the layer, caption by caption.
        places : Tensor of shape (B, n), bool
            Which of the last n tokens of each caption these are.
        keys : Tensor of shape (B, T, 2, H, D / H)
            Keys and values of all tokens.
        memory : Tensor of shape (B, S, 2, H, D / H)
            Keys and values of the images, from `memory_keys`.

        Returns
        -------
        Tensor of shape (P, D)
            The states after the layer.
        """
        block = self.decoder.transformer.h[i]
        n, positions = places.shape[1], torch.arange(keys.shape[1], device=keys.device)  # (T,)
        earlier = None if n == 1 else positions <= positions[-n:, None]  # (n, T)
        weight, bias = block.attn.c_attn.weight[:, : self.width], block.attn.c_attn.bias[: self.width]
        queries = torch.addmm(bias, block.ln_1(hidden), weight)  # (P, D)
        hidden = hidden + block.attn.c_proj(self._attend(block.attn, queries, places, keys, earlier))
        queries = block.crossattention.q_attn(block.ln_cross_attn(hidden))  # (P, D)
        attended = self._attend(block.crossattention, queries, places, memory, None)
        hidden = hidden + block.crossattention.c_proj(attended)
        return hidden + block.mlp(block.ln_2(hidden))

    def _attend(self, attention: nn.Module, queries: Tensor, places: Tensor, keys: Tensor, mask: Tensor | None):
        """Return what queries (P, D) read from keys and values (B, T, 2, H, D / H): (P, D)."""
        heads = self._heads(queries, 1)[:, 0]  # (P, H, D / H)
        padded = heads.new_zeros(*places.shape, *heads.shape[1:])  # (B, n, H, D / H)
        padded[places] = heads
        key, value = keys.permute(2, 0, 3, 1, 4)  # (B, H, T, D / H) each
        read = scaled_dot_product_attention(padded.transpose(1, 2), key, value, mask, scale=attention.scaling)
        return read.transpose(1, 2)[places].flatten(1)

    def _heads(self, values: Tensor, n: int) -> Tensor:
        """Divide (…, n · D) into n parts and heads, (…, n, H, D / H)."""
        return values.unflatten(-1, (n, self.decoder.config.n_head, -1))

    @cached_property
    def costs(self) -> CaptionCosts:
        """The costs of all parts, as `exit_costs` counts them."""
        macs = exit_costs(_Parts(self), self.image_shape).macs
        each = np.diff(macs, prepend=0)
        encoder, (memory, keys, one, two, head) = each[0], each[1:].reshape(self.n_exits, 5).T
        return CaptionCosts(encoder, memory, keys, 2 * one - two, two - one, head)

    @torch.inference_mode()
    def reference(self, images: Tensor, *, beams: int = 1) -> list[np.ndarray]:
        """Write captions with the full model by `generate` of transformers, greedily or with a beam search.

        Parameters
        ----------
        images : Tensor of shape (B, C, H, W)
        beams : int
            Number of beams; 1 is greedy.

        Returns
        -------
        list of ndarray of shape (T,)
            Token ids of each caption, with the token that ends it, unless it is cut.
        """
        its, memory = self.vocabulary, self.encode(images.to(self.device))
        written = self.decoder.generate(
            input_ids=torch.full((len(memory), 1), its.bos, device=self.device),
            encoder_hidden_states=memory,
            max_new_tokens=its.max_tokens,
            attention_mask=torch.ones(len(memory), 1, dtype=torch.long, device=self.device),
            num_beams=beams,
            do_sample=False,
            eos_token_id=its.eos,
            pad_token_id=its.pad,
        )
        return [until(its.eos, row) for row in written[:, 1:].cpu().numpy()]


def until(end: int, ids: np.ndarray) -> np.ndarray:
    """Return token ids up to the first `end`, with it."""
    ends = np.flatnonzero(ids == end)
    return ids[: ends[0] + 1] if len(ends) else ids


class _Parts(MultiExitModel):
    """The parts of a captioner one after another, as if they were exits, for counting their costs."""

    def __init__(self, model: Captioner) -> None:
        super().__init__()
        self.model, self.n_exits = model, 1 + 5 * model.n_exits

    def exits(self, x: Tensor) -> Iterator[Tensor]:
        model, place = self.model, torch.ones(1, 1, dtype=torch.bool, device=x.device)
        memory = model.encode(x)
        yield memory
        hidden = model.embed(place.long()[0], place.long()[0])  # (1, D)
        for i in range(model.n_exits):
            of_image = model.memory_keys(i, memory)
            yield of_image
            keys = model.keys(i, hidden)[:, None]  # (1, 1, 2, H, D / H)
            yield keys
            for n in (1, 2):
                yield model.layer(i, hidden, place, keys.expand(-1, n, -1, -1, -1), of_image)
            yield model.head(i, hidden)


def _load(name: str | None, vocabulary: CaptionVocabulary, size: dict[str, Any], pretrained: bool) -> nn.Module:
    """Return a GPT-2 with cross-attention in float32: one with a name, or one of this size."""
    from transformers import GPT2Config, GPT2LMHeadModel  # slow import

    longest = vocabulary.max_tokens + 1
    if name is None:
        special = {"bos_token_id": vocabulary.bos, "eos_token_id": vocabulary.eos}
        config = GPT2Config(
            vocab_size=vocabulary.size, n_positions=longest, add_cross_attention=True, **size, **special
        )
        try:
            return GPT2LMHeadModel(config)
        except ValueError as error:
            raise ValueError(f"captioner: the decoder cannot be built: {error}") from None
    with from_transformers("captioner", name):
        config = GPT2Config.from_pretrained(name, add_cross_attention=True)
    if config.vocab_size != vocabulary.size or config.n_positions < longest:
        raise ValueError(
            f"captioner: {name!r} has {config.vocab_size} tokens and {config.n_positions} positions; expected those of "
            f"the captions, {vocabulary.size} and at least {longest} (for coco, tokenizer={name})"
        )
    if not pretrained:
        return GPT2LMHeadModel(config)
    with from_transformers("captioner", name):
        return GPT2LMHeadModel.from_pretrained(name, config=config, dtype=torch.float32)
