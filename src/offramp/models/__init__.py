"""Multi-exit models by name. To add one, write a class in a module of this package and register it in `MODELS`."""

import inspect
from collections.abc import Callable
from typing import Any

from offramp.models.base import INPUTS, LayeredModel, MultiExitModel
from offramp.models.encoder import Encoder
from offramp.models.huggingface import HuggingFace
from offramp.models.msdnet import MSDNet
from offramp.models.timm import Timm
from offramp.models.vit import ViT

__all__ = ["MODELS", "LayeredModel", "MultiExitModel", "build_model"]

MODELS: dict[str, Callable[..., MultiExitModel]] = {
    "encoder": Encoder,
    "huggingface": HuggingFace,
    "msdnet": MSDNet,
    "timm": Timm,
    "vit": ViT,
}


def build_model(name: str, *, classes: int, **options: Any) -> MultiExitModel:
    """Build the model called `name`.

    Parameters
    ----------
    name : str
        A key of `MODELS`.
    classes : int
        Number of classes C.
    **options
        The description of the inputs from the dataset (`input_options`: the `image_shape` of images, the `vocabulary`
        of texts), and the options of the model.

    Raises
    ------
    ValueError
        If the model or one of its options is unknown (the message lists the known ones), or if the model expects other
        inputs.
    """
    if name not in MODELS:
        raise ValueError(f"unknown model {name!r}: expected one of {', '.join(MODELS)}")
    model = MODELS[name]
    known = model.options()
    if unknown := [option for option in options if option not in known and option not in INPUTS]:
        raise ValueError(f"{name}: unknown option {', '.join(unknown)}: expected some of {', '.join(known)}")
    given, taken = (
        [f"{kind} ({key})" for key, kind in INPUTS.items() if key in keys]
        for keys in (options, inspect.signature(model).parameters)
    )
    if given and given != taken:
        raise ValueError(f"{name} takes {', '.join(taken)}, but the dataset gives {', '.join(given)}")
    return model(classes=classes, **options)
