"""MSDNet: dense feature maps at several scales, with an exit on the coarsest scale after every block.

*Multi-Scale Dense Networks for Resource Efficient Image Classification*, Huang et al., ICLR 2018, in the
configurations of its public PyTorch code, which PCEE also uses.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import islice, pairwise
from math import ceil, floor, prod
from typing import Any, Literal

import torch
from torch import Tensor, nn

from offramp._registry import find
from offramp.models.base import ExitOutput, MultiExitModel

# Number of times that each kind of first layer halves the image
_FIRST_HALVINGS = {"cifar": 0, "half": 1, "imagenet": 2}


@dataclass(frozen=True)
class MSDNetConfig:
    """Configuration of an MSDNet. The defaults are the published CIFAR network with 4 exits.

    Widths are numbers of channels of the finest scale; scale s has `growth_factors[s]` times as many. Scale 0 is the
    finest, and each following scale halves height and width.

    Attributes
    ----------
    exits : int
        Number of blocks, each followed by an exit.
    base : int
        Number of layers of the first block.
    step, step_mode
        Number of layers of block i = 1, 2, …: `step` ("even") or `step`·i + 1 ("lin_grow").
    channels : int
        Width after the first layer.
    growth : int
        Width added by each layer.
    growth_factors : sequence of int
        One factor per scale. Their number is the number of scales.
    bottleneck, bottleneck_factors
        Whether each 3×3 convolution is preceded by a 1×1 convolution, with at most `bottleneck_factors[s]` times the
        output channels of the 3×3 convolution on scale s.
    prune : {"max", "min"}
        When the finest scale is dropped. "max" drops one scale after every ⌈depth / scales⌉ layers. "min" drops only
        scales that can no longer contribute to the last exit.
    reduction : float
        Factor by which a transition reduces the width. With "max", there is a transition wherever a scale is dropped;
        with "min", there is one after a third and one after two thirds of the layers.
    first_layer : {"cifar", "half", "imagenet"}
        "cifar": 3×3 convolution at full resolution. "half": the same with stride 2, at a quarter of the cost (our
        addition, for training on CPUs). "imagenet": 7×7 convolution with stride 2 and max pooling with stride 2.
    head_width : int or None
        Number of channels in an exit. None uses the channels of its input.
    head_strides : sequence of int
        Strides of the 3×3 convolutions of an exit. The published value is (2, 2); change it for small images.
    head_pool : int
        Size and stride of the average pooling after the convolutions. The published value is 2.
    """

    exits: int = 4
    base: int = 1
    step: int = 1
    step_mode: Literal["even", "lin_grow"] = "lin_grow"
    channels: int = 16
    growth: int = 6
    growth_factors: Sequence[int] = (1, 2, 4)
    bottleneck: bool = True
    bottleneck_factors: Sequence[int] = (1, 2, 4)
    prune: Literal["max", "min"] = "max"
    reduction: float = 0.5
    first_layer: Literal["cifar", "half", "imagenet"] = "cifar"
    head_width: int | None = 128
    head_strides: Sequence[int] = (2, 2)
    head_pool: int = 2

    def __post_init__(self) -> None:
        for name, known in [
            ("step_mode", ("even", "lin_grow")),
            ("prune", ("max", "min")),
            ("first_layer", tuple(_FIRST_HALVINGS)),
        ]:
            if getattr(self, name) not in known:
                raise ValueError(f"msdnet: {name}={getattr(self, name)!r}, expected one of {', '.join(known)}")
        for name in ("exits", "base", "step", "channels", "growth", "scales", "head_pool"):
            if getattr(self, name) < 1:
                raise ValueError(f"msdnet: {name}={getattr(self, name)!r}, expected at least 1")
        if not 0 < self.reduction <= 1:
            raise ValueError(f"msdnet: reduction={self.reduction!r}, expected a number in (0, 1]")
        if len(self.bottleneck_factors) != self.scales:
            raise ValueError(
                f"msdnet: {len(self.bottleneck_factors)} bottleneck_factors, expected {self.scales}, "
                "one for each of growth_factors"
            )
        if any(self.growth * factor % 2 for factor in self.growth_factors[1:]):
            raise ValueError(
                f"msdnet: growth={self.growth} times growth_factors={self.growth_factors} is odd, expected "
                "even beyond the first scale, where two convolutions share it"
            )

    @property
    def scales(self) -> int:
        """Number of scales S."""
        return len(self.growth_factors)

    @property
    def block_layers(self) -> list[int]:
        """Number of layers of each block, (L,)."""
        even = self.step_mode == "even"
        return [self.base] + [self.step if even else self.step * i + 1 for i in range(1, self.exits)]

    @property
    def depth(self) -> int:
        """Number of layers of the network."""
        return sum(self.block_layers)

    def finest_scale(self, layer: int) -> int:
        """Return the finest scale that is still needed after this number of layers."""
        if self.prune == "max":
            return max(layer - 1, 0) // ceil(self.depth / self.scales)
        return max(self.scales - 1 - (self.depth - layer), 0)

    def has_transition(self, layer: int) -> bool:
        """Return whether the width is reduced after this layer."""
        if self.prune == "max":
            return self.finest_scale(layer) > self.finest_scale(layer - 1)
        return layer in (self.depth // 3, 2 * self.depth // 3)


_IMAGENET = MSDNetConfig(
    exits=5,
    step_mode="even",
    channels=32,
    growth=16,
    growth_factors=(1, 2, 4, 4),
    bottleneck_factors=(1, 2, 4, 4),
    first_layer="imagenet",
    head_width=None,
)

PRESETS: dict[str, MSDNetConfig] = {
    "cifar-small": MSDNetConfig(exits=4),
    "cifar-medium": MSDNetConfig(exits=6),
    "cifar-large": MSDNetConfig(exits=8),
    "cifar-even": MSDNetConfig(exits=7, step_mode="even", base=4, step=2),
    "imagenet-4": replace(_IMAGENET, base=4, step=4),
    "imagenet-6": replace(_IMAGENET, base=6, step=6),
    "imagenet-7": replace(_IMAGENET, base=7, step=7),
}


class MSDNet(MultiExitModel):
    """The network described by an `MSDNetConfig`.

    Weights are initialised as in the published code: convolutions with N(0, √(2 / (k²·C_out))), batch norms with γ = 1
    and β = 0, and linear biases with 0.

    Parameters
    ----------
    classes : int
        Number of classes C.
    image_shape : tuple of int
        Channels, height and width of an image.
    preset : str
        A key of `PRESETS`.
    **changes
        Fields of `MSDNetConfig` that differ from the preset.

    Raises
    ------
    ValueError
        If the preset is unknown, a field is invalid, or the images are too small for the exits.
    """

    def __init__(
        self, *, classes: int, image_shape: tuple[int, int, int], preset: str = "cifar-small", **changes: Any
    ) -> None:
        super().__init__()
        config = self.config = replace(find(PRESETS, "preset of msdnet", preset), **changes)
        self.n_exits = config.exits
        positions = _head_positions(config, image_shape)
        self.first = _FirstLayer(config, image_shape[0])
        self.blocks = nn.ModuleList()
        self.heads = nn.ModuleList()
        width = config.channels
        layers = iter(range(1, config.depth + 1))
        for n_layers in config.block_layers:
            block = nn.Sequential()
            for layer in islice(layers, n_layers):
                block.append(_Layer(config, layer, width))
                width += config.growth
                if config.has_transition(layer):
                    reduced = floor(config.reduction * width)
                    block.append(_Transition(config, layer, width, reduced))
                    width = reduced
            self.blocks.append(block)
            self.heads.append(_head(config, width, positions, classes))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def stage(self, i: int, *state: Tensor) -> ExitOutput:
        maps = self.blocks[i](self.first(*state) if i == 0 else list(state))
        return ExitOutput(self.heads[i](maps[-1]), tuple(maps))

    @classmethod
    def options(cls) -> list[str]:
        return ["preset", *(field.name for field in fields(MSDNetConfig))]


# Layers exchange a list of maps, one per remaining scale, finest first: (B, width·factor[s], H / 2^s, W / 2^s).


class _FirstLayer(nn.Module):
    """Compute one map per scale from the image, each from the previous one."""

    def __init__(self, config: MSDNetConfig, channels: int) -> None:
        super().__init__()
        widths = [config.channels * factor for factor in config.growth_factors]
        if config.first_layer != "imagenet":
            finest = _conv(channels, widths[0], stride=2 ** _FIRST_HALVINGS[config.first_layer])
        else:
            finest = nn.Sequential(
                nn.Conv2d(channels, widths[0], 7, stride=2, padding=3),
                nn.BatchNorm2d(widths[0]),
                nn.ReLU(inplace=True),
                nn.MaxPool2d(3, stride=2, padding=1),
            )
        coarser = [_conv(n_in, n_out, stride=2) for n_in, n_out in pairwise(widths)]
        self.scales = nn.ModuleList([finest, *coarser])

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for scale in self.scales:
            x = scale(x)
            maps.append(x)
        return maps


class _Layer(nn.Module):
    """Append features to every remaining scale, computed from this scale and from the next finer one."""

    def __init__(self, config: MSDNetConfig, layer: int, width: int) -> None:
        super().__init__()
        self.normal = nn.ModuleList()
        self.down = nn.ModuleList()
        for scale in range(config.finest_scale(layer), config.scales):
            n_out = config.growth * config.growth_factors[scale]
            if scale > config.finest_scale(layer - 1):  # half of the growth comes from the finer scale
                n_out //= 2
                self.down.append(_grow(config, width, scale - 1, n_out, stride=2))
            self.normal.append(_grow(config, width, scale, n_out, stride=1))

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        kept = maps[-len(self.normal) :]
        finer = maps[-len(self.down) - 1 : -1]
        new = [[x, normal(x)] for x, normal in zip(kept, self.normal)]
        for parts, x, down in zip(new[-len(finer) :], finer, self.down):
            parts.insert(1, down(x))
        return [torch.cat(parts, dim=1) for parts in new]


class _Transition(nn.Module):
    """Reduce the width of every remaining scale."""

    def __init__(self, config: MSDNetConfig, layer: int, width: int, reduced: int) -> None:
        super().__init__()
        factors = config.growth_factors[config.finest_scale(layer) :]
        self.scales = nn.ModuleList(_conv(width * factor, reduced * factor, kernel=1) for factor in factors)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        return [scale(x) for scale, x in zip(self.scales, maps)]


def _conv(n_in: int, n_out: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(n_in, n_out, kernel, stride=stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(n_out),
        nn.ReLU(inplace=True),
    )


def _grow(config: MSDNetConfig, width: int, scale: int, n_out: int, stride: int) -> nn.Sequential:
    """Return the convolution that reads `scale`, with its bottleneck."""
    n_in = width * config.growth_factors[scale]
    if not config.bottleneck:
        return _conv(n_in, n_out, stride=stride)
    n_inner = min(n_in, config.bottleneck_factors[scale] * n_out)
    return nn.Sequential(_conv(n_in, n_inner, kernel=1), _conv(n_inner, n_out, stride=stride))


def _head(config: MSDNetConfig, width: int, positions: int, classes: int) -> nn.Sequential:
    n_in = width * config.growth_factors[-1]
    inner = n_in if config.head_width is None else config.head_width
    widths = [n_in] + [inner] * len(config.head_strides)
    convs = [_conv(a, b, stride=stride) for a, b, stride in zip(widths, widths[1:], config.head_strides)]
    return nn.Sequential(
        *convs,
        nn.AvgPool2d(config.head_pool),
        nn.Flatten(),
        nn.Linear(widths[-1] * positions, classes),
    )


def _head_positions(config: MSDNetConfig, image_shape: tuple[int, int, int]) -> int:
    """Return height times width of the input to the linear layer of an exit (1 in the published networks)."""
    halvings = config.scales - 1 + _FIRST_HALVINGS[config.first_layer]
    shrink = 2**halvings * prod(config.head_strides)
    pooled = [ceil(size / shrink) // config.head_pool for size in image_shape[1:]]
    if 0 in pooled:
        raise ValueError(
            f"msdnet: images {image_shape} shrink {shrink} times before the exits' pooling, too small for "
            f"head_pool={config.head_pool}: expected larger images, fewer scales or smaller head_strides"
        )
    return prod(pooled)
