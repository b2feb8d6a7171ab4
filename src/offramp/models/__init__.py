"""Multi-exit models by name. To add one, write a class in a module of this package and register it in `MODELS`."""

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from offramp._registry import check_options, find, load

if TYPE_CHECKING:
    from offramp.models.base import MultiExitModel

__all__ = ["CAPTIONING", "MODELS", "SINGLE_EXIT", "STORED", "build_model"]

# Module and class of each model. They are imported when they are built: this module itself needs no torch.
MODELS: dict[str, "str | Callable[..., MultiExitModel]"] = {
    "encoder": "encoder:Encoder",
    "huggingface": "huggingface:HuggingFace",
    "msdnet": "msdnet:MSDNet",
    "timm": "timm:Timm",
    "vit": "vit:ViT",
}
# Models that write captions, which are built with a vocabulary in place of classes
CAPTIONING = {"captioner": "captioner:Captioner"}
STORED = "outputs"  # in place of a model: the stored outputs of one, so that nothing runs (`offramp.stored`)
SINGLE_EXIT = ("huggingface", STORED, "timm")  # models that answer once: cascades are made of them
INPUTS = {"image_shape": "images", "vocabulary": "texts"}  # what a model asks of its inputs, and which these are


def build_model(name: str, *, classes: int, **options: Any) -> "MultiExitModel":
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
    model = load(find(MODELS, "model", name), __name__)
    check_options(name, [option for option in options if option not in INPUTS], model.options())
    given, taken = (
        [f"{kind} ({key})" for key, kind in INPUTS.items() if key in keys]
        for keys in (options, inspect.signature(model).parameters)
    )
    if given and given != taken:
        raise ValueError(f"{name} takes {', '.join(taken)}, but the dataset gives {', '.join(given)}")
    return model(classes=classes, **options)
