import re

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from offramp._registry import load
from offramp.datasets.base import Vocabulary
from offramp.models import MODELS, build_model
from offramp.models.base import LayeredModel, MultiExitModel, TextModel
from offramp.models.costs import exit_costs
from offramp.models.msdnet import PRESETS, MSDNetConfig, _Layer

torch.set_num_threads(1)

DIGITS = (1, 8, 8)
WORDS = Vocabulary(size=30522, pad=0, separator=102, tokenizer="minilm-l6", max_tokens=12)
IMAGES, TEXTS = {"image_shape": DIGITS}, {"vocabulary": WORDS}
INPUTS = {"encoder": TEXTS, "huggingface": TEXTS, "msdnet": IMAGES, "timm": IMAGES, "vit": IMAGES}
STAGED = ["encoder", "msdnet", "vit"]  # with several exits
SMALL = {
    "encoder": {"layers": 3},
    "huggingface": {"layers": 1, "width": 12, "heads": 3},
    "msdnet": {
        "exits": 3,
        "step_mode": "even",
        "channels": 4,
        "growth": 2,
        "growth_factors": [1, 2],
        "bottleneck_factors": [1, 2],
        "head_width": 8,
        "head_strides": [2],
    },
    "timm": {"backbone": "lcnet_035"},
    "vit": {"patch_size": 2, "embed_dim": 12, "depth": 3, "num_heads": 3},
}


def small(name, **changes):
    return build_model(name, classes=10, **(INPUTS[name] | SMALL[name] | changes))


def examples(model, n):
    return torch.randint(1, WORDS.size, (n, 6)) if isinstance(model, TextModel) else torch.randn(n, *DIGITS)


def blocks_of(model):
    if hasattr(model, "blocks"):
        return model.blocks
    return model.vit.blocks if hasattr(model, "vit") else model.backbone["layers"]


@pytest.fixture(params=MODELS)
def model(request):
    torch.manual_seed(0)
    return small(request.param)


@pytest.fixture(params=STAGED)
def staged(request):
    torch.manual_seed(0)
    return small(request.param)


def test_forward_stacks_the_exits(model, request):
    model.eval()
    x = examples(model, 5)
    logits = model(x)
    assert logits.shape == (5, model.n_exits, 10)
    assert model.n_exits == (3 if request.node.callspec.params["model"] in STAGED else 1)
    for l, exit_logits in enumerate(model.exits(x)):
        torch.testing.assert_close(exit_logits, logits[:, l], rtol=0, atol=0)


def test_stopping_early_computes_no_later_layer(staged):
    ran = []
    for kind, modules in {"block": blocks_of(staged), "head": staged.heads}.items():
        for i, module in enumerate(modules):
            module.register_forward_hook(lambda *_, name=(kind, i): ran.append(name))
    exits = staged.exits(examples(staged, 2))
    next(exits)
    assert ran == [("block", 0), ("head", 0)]
    next(exits)
    assert ran[2:] == [("block", 1), ("head", 1)]


def test_gradients_reach_every_parameter(model):
    model(examples(model, 4)).square().sum().backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


def test_an_exit_does_not_depend_on_later_parameters(staged):
    next(staged.exits(examples(staged, 4))).sum().backward()
    assert all(p.grad is None for head in list(staged.heads)[1:] for p in head.parameters())
    assert all(p.grad is not None for p in staged.heads[0].parameters())


@pytest.mark.parametrize("name", ["encoder", "vit"])
def test_exits_are_heads_on_the_states_of_the_layers(name):
    torch.manual_seed(0)
    model = small(name).eval()
    assert isinstance(model, LayeredModel)
    ran = []
    for i, block in enumerate(blocks_of(model)):
        block.register_forward_hook(lambda *_, i=i: ran.append(i))
    x = examples(model, 5)
    logits = model(x)
    ran.clear()
    state = model.embed(x)
    before = model.hidden(*state)
    assert ran == []
    for i in range(model.n_exits):
        state = model.layer(i, *state)
        hidden = model.hidden(*state)
        assert ran == list(range(i + 1))
        assert hidden.shape == before.shape == (5, 12 if name == "vit" else 384)
        assert not torch.equal(hidden, before)
        assert torch.equal(model.head(i, hidden), logits[:, i])
        before = hidden
    assert i == 2


def test_a_blank_input_fits_the_model(model):
    shape = (6,) if isinstance(model, TextModel) else DIGITS
    blank = model.double().blank(shape)
    assert blank.shape == (1, *shape)
    assert blank.dtype == (torch.int64 if isinstance(model, TextModel) else torch.float64)
    assert model.eval()(blank).shape == (1, model.n_exits, 10)


@pytest.mark.parametrize("name", MODELS)
def test_what_the_dataset_says_of_its_inputs_is_no_option(name):
    assert {"classes", "image_shape", "vocabulary"}.isdisjoint(load(MODELS[name], "offramp.models").options())


@pytest.mark.parametrize(
    ("name", "inputs", "message"),
    [
        ("vit", {"vocabulary": WORDS}, "vit takes images (image_shape), but the dataset gives texts (vocabulary)"),
        ("encoder", {"image_shape": DIGITS}, "encoder takes texts (vocabulary), but the dataset gives images"),
    ],
)
def test_the_model_takes_other_inputs(name, inputs, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        build_model(name, classes=10, **inputs)


def test_a_registry_line_adds_a_model(monkeypatch):
    class Constant(MultiExitModel):
        def __init__(self, *, classes, image_shape, value=0.0):
            super().__init__()
            self.n_exits, self.classes, self.value = 2, classes, value

        def exits(self, x):
            for _ in range(self.n_exits):
                yield torch.full((len(x), self.classes), self.value)

    monkeypatch.setitem(MODELS, "constant", Constant)
    model = build_model("constant", classes=3, image_shape=DIGITS, value=7.0)
    assert torch.equal(model(torch.zeros(4, *DIGITS)), torch.full((4, 2, 3), 7.0))
    with pytest.raises(ValueError, match="constant: unknown option 'depth': expected some of value"):
        build_model("constant", classes=3, image_shape=DIGITS, depth=1)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet", {}, "unknown model 'resnet': expected one of encoder, huggingface, msdnet, timm, vit"),
        ("msdnet", {"depth": 3}, "msdnet: unknown option 'depth': expected some of preset, exits, base, step,"),
        ("vit", {"exits": 3}, "vit: unknown option 'exits': expected some of backbone, patch_size"),
        ("msdnet", {"preset": "tiny"}, "unknown preset of msdnet 'tiny': expected one of cifar-small,"),
        ("msdnet", {"step_mode": "odd"}, "step_mode='odd', expected one of even, lin_grow"),
        ("msdnet", {"prune": "all"}, "prune='all', expected one of max, min"),
        ("msdnet", {"first_layer": "mnist"}, "first_layer='mnist', expected one of cifar, half, imagenet"),
        ("msdnet", {"exits": 0}, "exits=0, expected at least 1"),
        ("msdnet", {"growth_factors": []}, "scales=0, expected at least 1"),
        ("msdnet", {"reduction": 0}, r"reduction=0, expected a number in \(0, 1\]"),
        ("msdnet", {"growth_factors": [1, 2]}, "3 bottleneck_factors, expected 2"),
        ("msdnet", {"growth": 3, "growth_factors": [1, 1, 2]}, "is odd, expected even"),
        ("msdnet", {}, r"images \(1, 8, 8\) shrink 16 times"),
        ("vit", {"backbone": "vit_none"}, r"timm cannot build 'vit_none'.*Unknown model"),
        ("vit", {"backbone": "resnet18"}, "timm cannot build 'resnet18'"),
        ("vit", {"backbone": "swin_tiny_patch4_window7_224"}, "is a SwinTransformer, expected a VisionTr"),
        ("vit", {"num_heads": 5}, "timm cannot build 'vit_tiny_patch16_224'.*divisible"),
    ],
)
def test_what_cannot_be_built_says_so(name, options, message):
    with pytest.raises(ValueError, match=message) as error:
        build_model(name, classes=10, image_shape=DIGITS, **options)
    assert "\n" not in str(error.value)


# MSDNet


@pytest.mark.parametrize(
    ("preset", "block_layers", "depth"),
    [
        ("cifar-small", [1, 2, 3, 4], 10),
        ("cifar-medium", [1, 2, 3, 4, 5, 6], 21),
        ("cifar-large", [1, 2, 3, 4, 5, 6, 7, 8], 36),
        ("cifar-even", [4, 2, 2, 2, 2, 2, 2], 16),
        ("imagenet-4", [4] * 5, 20),
        ("imagenet-6", [6] * 5, 30),
        ("imagenet-7", [7] * 5, 35),
    ],
)
def test_layers_of_the_published_blocks(preset, block_layers, depth):
    assert PRESETS[preset].block_layers == block_layers
    assert PRESETS[preset].depth == depth


def test_the_finest_scale_is_dropped_and_the_width_halved():
    config = PRESETS["cifar-small"]
    assert [config.finest_scale(l) for l in range(11)] == [0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2]
    assert [l for l in range(1, 11) if config.has_transition(l)] == [5, 9]

    model = build_model("msdnet", classes=10, image_shape=(3, 32, 32)).eval()
    # The width is 16 + 6·layers, 46 → 23 after layer 5, 47 → 23 after layer 9; the coarsest scale has 4×.
    shapes = []
    for block in model.blocks:
        block.register_forward_hook(lambda *a: shapes.append([tuple(m.shape[1:]) for m in a[2]]))
    model(torch.zeros(1, 3, 32, 32))
    assert shapes == [
        [(22, 32, 32), (44, 16, 16), (88, 8, 8)],
        [(34, 32, 32), (68, 16, 16), (136, 8, 8)],
        [(58, 16, 16), (116, 8, 8)],
        [(116, 8, 8)],
    ]
    assert [head[0][0].in_channels for head in model.heads] == [88, 136, 116, 116]
    assert [(head[0][0].out_channels, head[-1].in_features) for head in model.heads] == [(128, 128)] * 4


def test_a_layer_appends_to_each_scale():
    torch.manual_seed(0)
    layer = _Layer(PRESETS["cifar-small"], layer=5, width=40).eval()  # drops the finest of three scales
    maps = [torch.randn(2, 40 * factor, side, side) for factor, side in [(1, 8), (2, 4), (4, 2)]]
    for x, finer, grown, down, normal in zip(maps[1:], maps, layer(maps), layer.down, layer.normal):
        torch.testing.assert_close(grown, torch.cat([x, down(finer), normal(x)], dim=1))
    layer = _Layer(PRESETS["cifar-small"], layer=4, width=40).eval()  # keeps it
    torch.testing.assert_close(layer(maps)[0], torch.cat([maps[0], layer.normal[0](maps[0])], dim=1))


def test_min_pruning_keeps_every_scale_that_reaches_the_last_exit():
    config = MSDNetConfig(prune="min")
    assert [config.finest_scale(l) for l in range(11)] == [0] * 9 + [1, 2]
    assert [l for l in range(1, 11) if config.has_transition(l)] == [3, 6]


def test_imagenet_exits_are_as_wide_as_the_map_they_read():
    with torch.device("meta"):
        model = build_model("msdnet", classes=1000, image_shape=(3, 224, 224), preset="imagenet-4")
    # (32 + 16·4)·4; 128 → 64 after layer 6; 144 → 72 after 11; 152 → 76 after 16.
    assert [head[0][0].in_channels for head in model.heads] == [384, 384, 352, 304, 560]
    for head in model.heads:
        assert head[0][0].in_channels == head[0][0].out_channels == head[-1].in_features
    assert model(torch.zeros(1, 3, 224, 224, device="meta")).shape == (1, 5, 1000)


def test_half_a_first_layer_makes_the_network_of_half_the_image():
    options = {"classes": 10, "head_pool": 1}
    half = build_model("msdnet", image_shape=(1, 28, 28), first_layer="half", **options)
    whole = build_model("msdnet", image_shape=(1, 14, 14), **options)
    assert half(torch.zeros(2, 1, 28, 28)).shape == (2, 4, 10)
    costs, expected = exit_costs(half, (1, 28, 28)), exit_costs(whole, (1, 14, 14))
    assert list(costs.macs) == list(expected.macs)
    assert list(costs.parameters) == list(expected.parameters)


def test_initialised_as_published():
    torch.manual_seed(0)
    model = build_model("msdnet", classes=100, image_shape=(3, 32, 32))
    large = 0
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            c_out, _, k, _ = module.weight.shape
            z = module.weight * (k * k * c_out / 2) ** 0.5  # standard normal
            if z.numel() > 10_000:
                large += 1
                assert abs(z.mean()) < 0.05
                assert abs(z.std() - 1) < 0.03
                assert abs((z.abs() > 2).float().mean() - 0.0455) < 0.01  # tails of a normal distribution
        elif isinstance(module, nn.BatchNorm2d):
            assert module.weight.eq(1).all()
            assert module.bias.eq(0).all()
        elif isinstance(module, nn.Linear):
            assert module.bias.eq(0).all()
    assert large > 10


def test_the_exits_fit_other_image_sizes():
    model = build_model("msdnet", classes=10, image_shape=(3, 64, 64))
    assert model(torch.zeros(2, 3, 64, 64)).shape == (2, 4, 10)
    assert model.heads[0][-1].in_features == 128 * 2 * 2


@settings(max_examples=20, deadline=None)
@given(
    exits=st.integers(1, 4),
    base=st.integers(1, 3),
    step=st.integers(1, 2),
    step_mode=st.sampled_from(["even", "lin_grow"]),
    factors=st.sampled_from([(1,), (1, 2), (2, 2, 4)]),
    bottleneck=st.booleans(),
    prune=st.sampled_from(["max", "min"]),
    head_width=st.sampled_from([None, 6]),
    head_strides=st.sampled_from([(), (1,), (2,)]),
)
def test_any_configuration_runs_and_later_exits_cost_more(factors, **fields):
    model = build_model(
        "msdnet",
        classes=3,
        image_shape=DIGITS,
        channels=4,
        growth=2,
        growth_factors=factors,
        bottleneck_factors=factors,
        head_pool=1,
        **fields,
    )
    assert model(torch.randn(2, *DIGITS)).shape == (2, fields["exits"], 3)
    costs = exit_costs(model, DIGITS)
    assert (costs.macs[1:] > costs.macs[:-1]).all()
    assert (costs.parameters[1:] > costs.parameters[:-1]).all()
    assert costs.parameters[-1] == sum(p.numel() for p in model.parameters())


# ViT


@pytest.mark.parametrize(
    "backbone",
    [
        "vit_small_patch16_224",  # class token
        "vit_medium_patch16_gap_240",  # mean of the patches
        "vit_base_patch16_siglip_224",  # attention pooling
        "deit_tiny_distilled_patch16_224",  # class and distillation token
        "vit_small_patch14_reg4_dinov2",  # registers
        "vit_base_patch16_clip_224",  # normalised before the blocks
    ],
)
def test_every_parameter_of_every_kind_of_vit_is_used(backbone):
    model = small("vit", backbone=backbone, depth=2)
    assert model(torch.randn(2, *DIGITS)).shape == (2, 2, 10)
    assert exit_costs(model, DIGITS).parameters[-1] == sum(p.numel() for p in model.parameters())


def test_without_options_the_vit_is_timms():
    with torch.device("meta"):
        model = build_model("vit", classes=10, image_shape=(3, 224, 224), backbone="vit_small_patch16_224")
        timms = timm.create_model("vit_small_patch16_224", num_classes=10)
    assert model.n_exits == 12
    state = model.vit.state_dict()
    replaced = {"norm.weight", "norm.bias", "head.weight", "head.bias"}
    assert {k: v.shape for k, v in timms.state_dict().items() if k not in replaced} == {
        k: v.shape for k, v in state.items()
    }


def test_the_last_exit_is_timms_head():
    torch.manual_seed(0)
    model = small("vit").eval()
    timms = timm.create_model("vit_tiny_patch16_224", num_classes=10, in_chans=1, img_size=8, **SMALL["vit"]).eval()
    norm, linear = model.heads[-1]
    timms.load_state_dict(
        model.vit.state_dict()
        | {f"norm.{k}": v for k, v in norm.state_dict().items()}
        | {f"head.{k}": v for k, v in linear.state_dict().items()}
    )
    x = torch.randn(3, *DIGITS)
    torch.testing.assert_close(model(x)[:, -1], timms(x))


def test_pretrained_is_passed_on(monkeypatch):
    create, passed = timm.create_model, {}

    def spy(name, pretrained, **options):
        passed.update(name=name, pretrained=pretrained)
        return create(name, **options)

    monkeypatch.setattr(timm, "create_model", spy)
    small("vit", pretrained=True)
    assert passed == {"name": "vit_tiny_patch16_224", "pretrained": True}


def test_pretrained_weights_that_cannot_be_fetched(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        ValueError, match="the pretrained weights of 'vit_tiny_patch16_224' could not be fetched"
    ) as error:
        build_model("vit", classes=10, image_shape=(3, 224, 224), pretrained=True)
    assert "\n" not in str(error.value)
    assert "(HF_HOME)" in str(error.value)


def test_pretrained_weights_are_resampled_to_other_patches_and_images(monkeypatch):
    """Fine-tuning on 32 × 32 images depends on this."""
    create = timm.create_model
    torch.manual_seed(0)
    weights = create("vit_tiny_patch16_224", depth=2).state_dict()

    def from_memory(name, **options):
        return create(name, pretrained_cfg_overlay={"state_dict": weights}, **options)

    monkeypatch.setattr(timm, "create_model", from_memory)
    model = build_model("vit", classes=10, image_shape=(3, 32, 32), patch_size=4, depth=2, pretrained=True)
    for name, value in model.vit.state_dict().items():
        if name == "patch_embed.proj.weight":
            assert value.shape == (192, 3, 4, 4)
        elif name == "pos_embed":
            assert value.shape == (1, 65, 192)
            assert torch.equal(value[:, 0], weights[name][:, 0])  # of the class token
        else:
            assert torch.equal(value, weights[name])


def test_a_frozen_backbone_stays_as_it_was_built():
    model = small("vit", frozen=True).train()
    assert model.training
    assert model.heads.training
    assert not any(module.training for module in model.vit.modules())
    model(torch.randn(2, *DIGITS)).sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is not None] == [
        name for name, _ in model.named_parameters() if name.startswith("heads.")
    ]
