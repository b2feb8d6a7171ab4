"""Text encoders of the BERT family with an exit after every layer."""

from copy import deepcopy
from typing import Any, Literal

import torch
from torch import Tensor, nn

from offramp.datasets.base import Vocabulary
from offramp.datasets.pretrained import from_transformers, source_of
from offramp.models.base import LayeredModel, TextModel

# Architectures of transformers that are a sequence of layers with normalisation after each layer
_FAMILIES = ("albert", "bert", "camembert", "electra", "roberta", "xlm-roberta")


class Encoder(LayeredModel, TextModel):
    """A transformers encoder with an exit after every layer, as in BEEM (section "Training").

    An exit consists of the pretrained pooler of the backbone (Linear and tanh on the state of the first token), which
    all exits share, of dropout, and of a separate Linear layer. If the backbone has no pooler, an untrained one is
    added (our choice). If the backbone is frozen, every exit trains its own copy of the pooler, as in DeeBERT, because
    the layers cannot adapt to a shared pooler.

    Token types are 0 up to the first separator and 1 after it, as in the tokenizer of BERT, if the backbone uses token
    types. Padding is masked in attention.

    Parameters
    ----------
    classes : int
        Number of classes C.
    vocabulary : Vocabulary
        Vocabulary of the texts. It must be that of the backbone.
    backbone : str
        "minilm-l6", a folder, or a name on the Hugging Face hub.
    pretrained : bool
        Load the pretrained weights of the backbone. The Linear layers of the exits are always untrained.
    frozen : bool
        Train the exits only. The embeddings and layers of the backbone are not changed and stay in evaluation mode.
    dropout : float
        Dropout rate of the exits, in [0, 1). The dropout in the backbone is that of its configuration.
    pooling : {"first", "mean"}
        Input of the exits: the state of the first token, as in BEEM, or the mean over all tokens. Sentence encoders
        such as MiniLM-L6 were trained with the mean; in their early layers, the first token has little information.
    layers : int, optional
        Number of layers of the backbone to keep, from the first, which is the number of exits L. Default: all.

    Raises
    ------
    ValueError
        If the backbone or its weights cannot be downloaded, if its architecture is not in the BERT family, if it has
        fewer layers, a vocabulary of a different size or a smaller maximum length, or if `dropout` is out of range or
        `pooling` unknown.
    """

    def __init__(
        self,
        *,
        classes: int,
        vocabulary: Vocabulary,
        backbone: str = "minilm-l6",
        pretrained: bool = False,
        frozen: bool = False,
        dropout: float = 0.1,
        pooling: Literal["first", "mean"] = "first",
        layers: int | None = None,
    ) -> None:
        super().__init__(vocabulary)
        if not 0 <= dropout < 1:
            raise ValueError(f"encoder: dropout={dropout!r}, expected a number in [0, 1)")
        if pooling not in ("first", "mean"):
            raise ValueError(f"encoder: pooling={pooling!r}, expected 'first' or 'mean'")
        model = _load(backbone, pretrained)
        config = model.config
        self.check_vocabulary(backbone, config)
        _check_positions(backbone, model, vocabulary)
        project, blocks, order = _chain(model)
        if layers is not None and not 1 <= layers <= len(order):
            raise ValueError(f"encoder: layers={layers!r}, expected 1 to {len(order)}, as many as {backbone!r} has")
        self.order = order[:layers]
        self.backbone = nn.ModuleDict(
            {"embeddings": model.embeddings, "project": project, "layers": blocks[: self.order[-1] + 1]}
        ).requires_grad_(not frozen)
        self.frozen, self.pooling = frozen, pooling
        self.n_exits = len(self.order)
        self.has_types = config.type_vocab_size > 1

        def linear(n_out: int) -> nn.Linear:
            new = nn.Linear(config.hidden_size, n_out)
            nn.init.normal_(new.weight, std=config.initializer_range)
            nn.init.zeros_(new.bias)
            return new

        pooler = getattr(model, "pooler", None)
        pooler = getattr(pooler, "dense", pooler) or linear(config.hidden_size)
        self.pooler = nn.ModuleList(deepcopy(pooler) for _ in self.order) if frozen else pooler
        self.dropout = nn.Dropout(dropout)
        self.heads = nn.ModuleList(linear(classes) for _ in self.order)
        self.train()

    def embed(self, x: Tensor) -> tuple[Tensor, ...]:
        kept = x != self.pad  # (B, T)
        x = self.backbone["embeddings"](input_ids=x, token_type_ids=self.token_types(x) if self.has_types else None)
        return self.backbone["project"](x), kept  # (B, T, D), (B, T)

    def layer(self, i: int, *state: Tensor) -> tuple[Tensor, ...]:
        x, kept = state
        x = self.backbone["layers"][self.order[i]](x, kept[:, None, None, :])
        return x[0] if isinstance(x, tuple) else x, kept  # earlier versions return a tuple

    def hidden(self, *state: Tensor) -> Tensor:
        x, kept = state
        if self.pooling == "first":
            return x[:, 0]
        mask = kept[..., None].to(x.dtype)  # (B, T, 1), excludes padding
        return (x * mask).sum(1) / mask.sum(1)

    def head(self, i: int, hidden: Tensor) -> Tensor:
        pooler = self.pooler[i] if self.frozen else self.pooler
        return self.heads[i](self.dropout(pooler(hidden).tanh()))

    def keep(self, state: tuple[Tensor, ...], rows: Tensor, length: int | None = None) -> tuple[Tensor, ...]:
        x, kept, hidden = state
        return super().keep((x[:, :length], kept[:, :length], hidden), rows)

    def train(self, mode: bool = True) -> "Encoder":
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self


def _load(backbone: str, pretrained: bool) -> nn.Module:
    """Load a transformers model in float32, with pretrained or with random weights."""
    from transformers import AutoConfig, AutoModel  # slow import, only needed here

    source = source_of(backbone)
    options: dict[str, Any] = {"dtype": torch.float32, "attn_implementation": "sdpa"}
    with from_transformers("encoder", backbone):
        config = AutoConfig.from_pretrained(source)
        if config.model_type not in _FAMILIES:
            raise ValueError(f"{backbone!r} is a {config.model_type}, expected one of {', '.join(_FAMILIES)}")
        if not pretrained:
            return AutoModel.from_config(config, **options)
        model, report = AutoModel.from_pretrained(source, config=config, output_loading_info=True, **options)
    if missing := sorted(name for name in report["missing_keys"] if not name.startswith("pooler.")):
        raise ValueError(f"encoder: {backbone!r} has no weights for {missing[0]}, expected all but the pooler's")
    return model


def _chain(model: nn.Module) -> tuple[nn.Module, nn.ModuleList, list[int]]:
    """Return the projection of the embeddings, the layers, and the indices of the layers in execution order."""
    depth, encoder = model.config.num_hidden_layers, model.encoder
    if model.config.model_type == "albert":  # layers share weights, as in `AlbertTransformer.forward`
        shared = depth / model.config.num_hidden_groups
        order = [int(i / shared) for i in range(depth)]
        return encoder.embedding_hidden_mapping_in, encoder.albert_layer_groups, order
    return getattr(model, "embeddings_project", nn.Identity()), encoder.layer, list(range(depth))


def _check_positions(backbone: str, model: nn.Module, vocabulary: Vocabulary) -> None:
    positions = model.embeddings.position_embeddings
    first = 0 if positions.padding_idx is None else positions.padding_idx + 1  # RoBERTa starts after the padding index
    if (longest := positions.num_embeddings - first) < vocabulary.max_tokens:
        raise ValueError(
            f"encoder: max_tokens={vocabulary.max_tokens}, but {backbone!r} takes at most {longest} tokens"
        )
