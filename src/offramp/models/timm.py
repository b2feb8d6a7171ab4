"""Any classifier of timm, as a model of one exit: what cascades are made of."""

from collections.abc import Iterator

from torch import Tensor
from torch.nn.functional import interpolate

from offramp.datasets.pretrained import build_timm
from offramp.models.base import MultiExitModel


class Timm(MultiExitModel):
    """A classifier of timm that answers once, at its end.

    Parameters
    ----------
    classes : int
        Number of classes C. Pretrained weights for as many keep their classifier; for others it starts untrained.
    image_shape : tuple of int
        Channels, height, width of an image. timm fits the first layer's weights to other channels than three.
    backbone : str
        timm's name of the architecture, with the weights' tag if there is one.
    pretrained : bool
        Start from timm's weights.
    image_size : int, optional
        Resize images (bilinear) to this height and width first: what an architecture with few pixels cannot do without.

    Raises
    ------
    ValueError
        If timm cannot build the backbone or fetch its weights.
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

    def exits(self, x: Tensor) -> Iterator[Tensor]:
        if self.image_size is not None:
            x = interpolate(x, size=(self.image_size, self.image_size), mode="bilinear", antialias=True)
        yield self.classifier(x)


def has_fixed_size(backbone: str) -> bool:
    """Whether timm builds this architecture for images of one size: most transformers; else any size will do."""
    from timm.models import get_pretrained_cfg  # takes seconds

    known = get_pretrained_cfg(backbone, allow_unregistered=True)
    return known is not None and known.fixed_input_size
