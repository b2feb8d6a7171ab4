"""Vision transformer with an exit after every block."""

from torch import Tensor, nn

from offramp.datasets.pretrained import build_timm
from offramp.models.base import LayeredModel


class ViT(LayeredModel):
    """A `VisionTransformer` of timm with an exit after every block.

    An exit consists of LayerNorm and Linear on the class token, or on the mean of the patch tokens if the architecture
    has no class token. The PCEE paper does not state how the exits of its ViT are built. We use the head of timm after
    every block (our choice). Exits do not share parameters.

    Parameters
    ----------
    classes : int
        Number of classes C.
    image_shape : tuple of int
        Channels, height and width of an image.
    backbone : str
        Name of the architecture in timm, with the tag of the weights if there is one.
    patch_size, embed_dim, depth, num_heads : int, optional
        Changes of the architecture. `depth` is the number of exits L.
    weight_init : {"", "jax", "jax_nlhb", "moco"}
        Initialisation scheme of timm for the blocks. The default is meant for wide models. Narrow models that are
        trained from scratch learn much faster with "moco" (Xavier uniform).
    pretrained : bool
        Load the pretrained weights of timm for the backbone. The exits are always untrained. For a different image or
        patch size, timm resamples the patch embedding and the position embeddings.
    frozen : bool
        Train the exits only. The backbone is not changed and stays in evaluation mode.

    Raises
    ------
    ValueError
        If timm cannot build the backbone or download its weights, or if it is not a `VisionTransformer`.
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
        from timm.models.vision_transformer import VisionTransformer  # slow import

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
        # The exits replace everything after the blocks.
        vit.reset_classifier(0, global_pool="token" if vit.has_class_token else "avg")
        vit.norm = vit.fc_norm = nn.Identity()
        self.vit = vit.requires_grad_(not frozen)
        self.frozen = frozen
        self.n_exits = len(vit.blocks)
        self.heads = nn.ModuleList(_head(vit.embed_dim, classes) for _ in vit.blocks)

    def embed(self, x: Tensor) -> tuple[Tensor, ...]:
        x = self.vit._pos_embed(self.vit.patch_embed(x))
        return (self.vit.norm_pre(self.vit.patch_drop(x)),)  # (B, T, D)

    def layer(self, i: int, *state: Tensor) -> tuple[Tensor, ...]:
        return (self.vit.blocks[i](*state),)

    def hidden(self, *state: Tensor) -> Tensor:
        return self.vit.pool(*state)

    def head(self, i: int, hidden: Tensor) -> Tensor:
        return self.heads[i](hidden)

    def train(self, mode: bool = True) -> "ViT":
        super().train(mode)
        if self.frozen:
            self.vit.eval()
        return self


def _head(width: int, classes: int) -> nn.Sequential:
    """LayerNorm and Linear, initialised as in timm."""
    linear = nn.Linear(width, classes)
    nn.init.trunc_normal_(linear.weight, std=0.02)
    nn.init.zeros_(linear.bias)
    return nn.Sequential(nn.LayerNorm(width, eps=1e-6), linear)
