"""A vision transformer with a classifier after every block."""

from collections.abc import Iterator

from torch import Tensor, nn

from offramp.datasets.pretrained import build_timm
from offramp.models.base import LayeredModel


class ViT(LayeredModel):
    """A `VisionTransformer` of timm whose every block is followed by an exit of its own.

    An exit is LayerNorm and Linear on the class token, or on the mean of the patch tokens where the
    architecture has no class token. PCEE does not say how its ViT's exits are built: our choice, which
    is timm's own head repeated at every block; nothing is shared between exits.

    Parameters
    ----------
    classes : int
        Number of classes C.
    image_shape : tuple of int
        Channels, height, width of an image.
    backbone : str
        timm's name of the architecture, with the weights' tag if there is one.
    patch_size, embed_dim, depth, num_heads : int, optional
        What to change in that architecture. `depth` is the number of exits L.
    weight_init : {"", "jax", "jax_nlhb", "moco"}
        timm's scheme for the initial weights of the blocks. Its default is meant for wide models; narrow ones that
        are trained from scratch learn far sooner from "moco" (Xavier uniform).
    pretrained : bool
        Start from timm's weights for the backbone; the exits start untrained. For another image or patch size timm
        resamples the patch embedding and the positions.
    frozen : bool
        Train the exits only: the backbone keeps its weights and stays in evaluation mode.

    Raises
    ------
    ValueError
        If timm cannot build the backbone or fetch its weights, or what it builds is not a `VisionTransformer`.
    """

    def __init__(
        self,
        *,
        classes: int,
        image_shape: tuple[int, int, int],
        backbone: str = "vit_tiny_patch16_224",
        patch_size: int | None = None,
        embed_dim: int | None = None,
        depth: int | None = None,
        num_heads: int | None = None,
        weight_init: str = "",
        pretrained: bool = False,
        frozen: bool = False,
    ) -> None:
        super().__init__()
        from timm.models.vision_transformer import VisionTransformer  # takes seconds

        channels, *size = image_shape
        vit = build_timm(
            "vit",
            backbone,
            pretrained=pretrained,
            in_chans=channels,
            img_size=tuple(size),
            patch_size=patch_size,
            embed_dim=embed_dim,
            depth=depth,
            num_heads=num_heads,
            weight_init=weight_init,
        )
        if not isinstance(vit, VisionTransformer):
            raise ValueError(f"vit: {backbone!r} is a {type(vit).__name__}, expected a VisionTransformer")
        # The exits take the place of everything behind the blocks.
        vit.reset_classifier(0, global_pool="token" if vit.has_class_token else "avg")
        vit.norm = vit.fc_norm = nn.Identity()
        self.vit = vit.requires_grad_(not frozen)
        self.frozen = frozen
        self.n_exits = len(vit.blocks)
        self.heads = nn.ModuleList(_head(vit.embed_dim, classes) for _ in vit.blocks)

    def states(self, x: Tensor) -> Iterator[Tensor]:
        x = self.vit._pos_embed(self.vit.patch_embed(x))
        x = self.vit.norm_pre(self.vit.patch_drop(x))  # (B, T, D)
        yield self.vit.pool(x)
        for block in self.vit.blocks:
            x = block(x)
            yield self.vit.pool(x)

    def head(self, i: int, state: Tensor) -> Tensor:
        return self.heads[i](state)

    def train(self, mode: bool = True) -> "ViT":
        super().train(mode)
        if self.frozen:
            self.vit.eval()
        return self


def _head(width: int, classes: int) -> nn.Sequential:
    """LayerNorm and Linear, initialised as timm does."""
    linear = nn.Linear(width, classes)
    nn.init.trunc_normal_(linear.weight, std=0.02)
    nn.init.zeros_(linear.bias)
    return nn.Sequential(nn.LayerNorm(width, eps=1e-6), linear)
