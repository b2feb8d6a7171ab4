"""Classifiers of timm as models with a single exit, for cascades."""

from torch import Tensor
from torch.nn.functional import interpolate

from offramp.datasets.pretrained import build_timm
from offramp.models.base import ExitOutput, MultiExitModel


class Timm(MultiExitModel):
    """A timm classifier with a single exit at its end.

    Parameters
    ----------
    classes : int
        Number of classes C. A pretrained classifier for C classes is kept; otherwise the classifier is untrained.
    image_shape : tuple of int
        Channels, height and width of an image. For channel counts other than three, timm adapts the pretrained weights
        of the first layer.
    backbone : str
        Name of the architecture in timm, with the tag of the weights if there is one.
    pretrained : bool
        Load the pretrained weights of timm.
    image_size : int, optional
        Resize images (bilinear) to this height and width in pixels first. Some architectures do not work with small
        images.

    Raises
    ------
    ValueError
        If timm cannot build the backbone or download its weights.
    """

    n_exits = 1

    def __init__(
        self,
        *,
        classes: int,
        image_shape: tuple[int, int, int],
        backbone: str,
        pretrained: bool = False,
        image_size: int | None = None,
    ) -> None:
        super().__init__()
        self.image_size = image_size
        size = tuple(image_shape[1:]) if image_size is None else (image_size, image_size)
        self.classifier = build_timm(
            "timm",
            backbone,
            pretrained=pretrained,
            num_classes=classes,
            in_chans=image_shape[0],
            img_size=size if has_fixed_size(backbone) else None,
        )

    def stage(self, i: int, *state: Tensor) -> ExitOutput:
        (x,) = state
        if self.image_size is not None:
            x = resized(x, self.image_size)
        return ExitOutput(self.classifier(x))


def resized(x: Tensor, size: int) -> Tensor:
    """Return images (B, C, H, W) with this height and width."""
    return interpolate(x, size=(size, size), mode="bilinear", antialias=True)


def has_fixed_size(backbone: str) -> bool:
    """Whether timm builds this architecture for a fixed image size, as most transformers, or for any size."""
    from timm.models import get_pretrained_cfg  # slow import

    known = get_pretrained_cfg(backbone, allow_unregistered=True)
    return known is not None and known.fixed_input_size
