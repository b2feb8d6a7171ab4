"""Models that answer in stages. A new one is a file here and a line in `MODELS`."""

from collections.abc import Callable
from typing import Any

from offramp.models.base import MultiExitModel
from offramp.models.msdnet import MSDNet
from offramp.models.vit import ViT

__all__ = ["MODELS", "MultiExitModel", "build_model"]

MODELS: dict[str, Callable[..., MultiExitModel]] = {
    "msdnet": MSDNet,
    "vit": ViT,
}


def build_model(name: str, *, classes: int, image_shape: tuple[int, int, int], **options: Any) -> MultiExitModel:
    """Build the model called `name`.

    Parameters
    ----------
    name : str
        A key of `MODELS`.
    classes : int
        Number of classes C.
    image_shape : tuple of int
        Channels, height, width of an image.
    **options
        The model's own options.

    Raises
    ------
    ValueError
        If the model or one of its options is unknown; the message lists the known ones.
    """
    if name not in MODELS:
        raise ValueError(f"unknown model {name!r}: expected one of {', '.join(MODELS)}")
    known = MODELS[name].options()
    if unknown := [option for option in options if option not in known]:
        raise ValueError(f"{name}: unknown option {', '.join(unknown)}: expected some of {', '.join(known)}")
    return MODELS[name](classes=classes, image_shape=image_shape, **options)
