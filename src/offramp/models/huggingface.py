"""Text classifiers of Hugging Face transformers as models with a single exit, for cascades."""

from typing import Any

import torch
from torch import Tensor

from offramp.datasets.base import Vocabulary
from offramp.datasets.pretrained import from_transformers, source_of
from offramp.models.base import ExitOutput, TextModel


class HuggingFace(TextModel):
    """A model of `AutoModelForSequenceClassification` with a single exit at its end.

    Token types are 0 up to the first separator and 1 after it, if the model uses token types. Padding is masked in
    attention.

    Parameters
    ----------
    classes : int
        Number of classes C. A pretrained classifier for C classes is kept; otherwise the classifier is untrained.
    vocabulary : Vocabulary
        Vocabulary of the texts. It must be that of the model.
    backbone : str
        "minilm-l6", a folder, or a name on the Hugging Face hub.
    pretrained : bool
        Load the pretrained weights.
    layers, width, heads : int, optional
        Changes of the configuration: number of layers, width of the hidden states (the inner width of the layers is
        scaled with it), and number of attention heads. With pretrained weights, only `layers` can be changed; the first
        layers are kept.

    Raises
    ------
    ValueError
        If the model cannot be built, its weights cannot be downloaded, or its vocabulary has a different size.
    """

    n_exits = 1

    def __init__(
        self,
        *,
        classes: int,
        vocabulary: Vocabulary,
        backbone: str = "minilm-l6",
        pretrained: bool = False,
        layers: int | None = None,
        width: int | None = None,
        heads: int | None = None,
    ) -> None:
        super().__init__(vocabulary)
        if pretrained and (width, heads) != (None, None):
            raise ValueError("huggingface: pretrained weights have a width and heads of their own; expected none given")
        changes = {"num_hidden_layers": layers, "hidden_size": width, "num_attention_heads": heads}
        self.classifier = _load(backbone, pretrained, {key: n for key, n in changes.items() if n}, classes)
        self.check_vocabulary(backbone, self.classifier.config)
        self.has_types = getattr(self.classifier.config, "type_vocab_size", 0) > 1

    def stage(self, i: int, *state: Tensor) -> ExitOutput:
        (x,) = state
        types = {"token_type_ids": self.token_types(x)} if self.has_types else {}
        return ExitOutput(self.classifier(input_ids=x, attention_mask=(x != self.pad).long(), **types).logits)


def _load(backbone: str, pretrained: bool, changes: dict[str, int], classes: int):
    from transformers import AutoConfig, AutoModelForSequenceClassification  # slow import

    source = source_of(backbone)
    options: dict[str, Any] = {"dtype": torch.float32}
    with from_transformers("huggingface", backbone):
        config = AutoConfig.from_pretrained(source, num_labels=classes)
        for name, value in changes.items():
            if not hasattr(config, name):
                raise ValueError(f"{backbone!r} is a {config.model_type}, which has no {name}")
            setattr(config, name, value)
        if "hidden_size" in changes and hasattr(config, "intermediate_size"):
            config.intermediate_size = 4 * config.hidden_size
        if not pretrained:
            return AutoModelForSequenceClassification.from_config(config, **options)
        return AutoModelForSequenceClassification.from_pretrained(
            source, config=config, ignore_mismatched_sizes=True, **options
        )
