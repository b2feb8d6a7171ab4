"""The model that is accelerated: a network, how its inputs are prepared, and where it came from."""

import copy
import importlib
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from offramp._registry import check_options, parse_spec
from offramp.datasets.base import Dataset, Vocabulary
from offramp.datasets.imagenet import preparation_of
from offramp.datasets.preparing import ImagePreparation, TextPreparation
from offramp.datasets.pretrained import build_timm, one_line
from offramp.models.huggingface import HuggingFace
from offramp.models.timm import Timm, resized

TIMM = ("backbone", "pretrained", "classes", "channels", "weights")
RENAMED = {"classes": "num_classes", "channels": "in_chans"}  # in timm
HUGGING_FACE = ("backbone", "pretrained", "classes")


@dataclass(frozen=True, eq=False)
class Loaded:
    """A network for images, or a text classifier (`HuggingFace`).

    Attributes
    ----------
    module : Module
    preparation : ImagePreparation, TextPreparation or None
        None: it is not known, and follows from the inputs.
    name : str
    names : tuple of str
        Names of the classes, if they are known.
    source : dict
        Where it came from, as JSON values.
    """

    module: nn.Module
    preparation: ImagePreparation | TextPreparation | None
    name: str
    names: tuple[str, ...] = ()
    source: dict = field(default_factory=dict)


def load_model(model, max_tokens: int = 128) -> Loaded:
    """Load a model.

    Parameters
    ----------
    model : Module, path, or tuple of str and dict
        A network; a file of weights from `offramp train`; or a name with options: `timm`, `huggingface`, or
        MODULE:FUNCTION, a function of your own that returns a network, or a network and its `ImagePreparation`.
    max_tokens : int
        Longer texts are truncated.

    Raises
    ------
    ValueError
        If the model cannot be loaded.
    """
    if isinstance(model, nn.Module):
        preparation = getattr(model, "preparation", None)
        model = copy.deepcopy(model)  # it is moved and set to evaluation mode
        return Loaded(model, preparation, type(model).__name__, source={"model": type(model).__name__})
    if isinstance(model, str | os.PathLike):
        model = _parsed(str(model))
    name, options = model
    if name == "timm":
        return _timm(options)
    if name == "huggingface":
        return _hugging_face(options, max_tokens)
    return _trained(name) if name.endswith(".safetensors") else _own(name, options)


def _parsed(text: str) -> tuple[str, dict[str, Any]]:
    """Return the name and the options of a model that is written as NAME:option=value,… or MODULE:FUNCTION,…"""
    if text.endswith(".safetensors") and "=" not in text:
        return text, {}
    name, _, rest = text.partition(":")
    first, comma, options = rest.partition(",")
    if first and "=" not in first:  # MODULE:FUNCTION
        return f"{name}:{first}", parse_spec(f"{name}:{options}")[1] if comma else {}
    return parse_spec(text)


def _timm(options: dict[str, Any]) -> Loaded:
    check_options("timm", list(options), TIMM)
    if "backbone" not in options:
        raise ValueError("timm: no backbone; expected timm:backbone=NAME, one of `timm.list_models()`")
    backbone, weights = str(options["backbone"]), options.get("weights")
    module = build_timm(
        "timm",
        backbone,
        pretrained=bool(options.get("pretrained", False)),
        **{key: options[name] for name, key in RENAMED.items() if name in options},
    )
    if weights is not None:
        from safetensors.torch import load_file

        try:
            module.load_state_dict(load_file(weights))
        except Exception as error:  # safetensors and torch raise many types of exceptions
            raise ValueError(f"{weights}: not the weights of {backbone} ({one_line(error)[:200]})") from error
    own = "pretrained" in options and "channels" not in options
    return Loaded(module, preparation_of(backbone) if own else None, backbone, source={"model": "timm", **options})


def _hugging_face(options: dict[str, Any], max_tokens: int) -> Loaded:
    from transformers import AutoConfig

    from offramp.datasets.pretrained import from_transformers, source_of
    from offramp.datasets.text import load_tokenizer

    check_options("huggingface", list(options), HUGGING_FACE)
    backbone = str(options.get("backbone", "minilm-l6"))
    with from_transformers("huggingface", backbone):
        config = AutoConfig.from_pretrained(source_of(backbone))
    tokenizer = load_tokenizer(backbone)
    vocabulary = Vocabulary(len(tokenizer), tokenizer.pad_token_id, tokenizer.sep_token_id, backbone, max_tokens)
    module = HuggingFace(
        classes=int(options.get("classes", config.num_labels)),
        vocabulary=vocabulary,
        backbone=backbone,
        pretrained=bool(options.get("pretrained", True)),
    )
    names = tuple(str(config.id2label[i]) for i in range(config.num_labels)) if "classes" not in options else ()
    preparation = TextPreparation(tokenizer=backbone, max_tokens=max_tokens, pad=vocabulary.pad)
    return Loaded(module, preparation, Path(backbone).name, names, {"model": "huggingface", **options})


def _trained(path: str) -> Loaded:
    from offramp.recording import load_trained

    return of_trained(path, *load_trained(path))


def of_trained(path: str, model: nn.Module, dataset: Dataset, made: dict[str, Any]) -> Loaded:
    """Return a single-exit model that `offramp train` trained, from what `load_trained` returned for its file."""
    if isinstance(model, Timm):
        model = model.classifier if model.image_size is None else Resizing(model, model.image_size)
    elif not isinstance(model, HuggingFace):
        raise ValueError(f"{path}: a {made['model']}; expected a single-exit model")
    kept = {key: made[key] for key in ("system", "seed", "dataset") if key in made}
    return Loaded(model, dataset.preparation, str(made["system"]), tuple(dataset.names), kept)


class Resizing(nn.Module):
    """A classifier of timm that resizes its inputs first, from images to logits."""

    def __init__(self, model: Timm, size: int) -> None:
        super().__init__()
        self.size, self.classifier = size, model.classifier

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(resized(x, self.size))


def _own(name: str, options: dict[str, Any]) -> Loaded:
    module_name, colon, function = name.partition(":")
    if not colon:
        raise ValueError(
            f"--model: {name!r}; expected timm:…, huggingface:…, MODULE:FUNCTION, or a file of weights (.safetensors)"
        )
    sys.path.insert(0, os.getcwd())  # as for `python -m`
    try:
        build = getattr(importlib.import_module(module_name), function)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"--model: {name!r} cannot be imported ({one_line(error)})") from error
    finally:
        sys.path.pop(0)
    try:
        made = build(**options)
    except Exception as error:
        raise ValueError(f"--model: {name} failed ({type(error).__name__}: {one_line(error)[:200]})") from error
    module, preparation = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(module, nn.Module):
        raise ValueError(f"--model: {name} returns a {type(module).__name__}; expected an nn.Module")
    preparation = preparation or getattr(module, "preparation", None)
    return Loaded(module, preparation, function, source={"model": name, **options})
