import numpy as np
import pytest
import torch
from torch import nn

from offramp.datasets.base import Vocabulary
from offramp.models import build_model
from offramp.models.base import MultiExitModel
from offramp.models.costs import exit_costs

torch.set_num_threads(1)

# Cumulative cost per exit of the published networks, in millions, with the published convention.
MSDNET = {
    ("cifar-small", 10): (
        "6.85 14.33 26.09 38.00",
        "0.288 0.627 0.987 1.373",
    ),
    ("cifar-small", 100): (
        "6.86 14.35 26.13 38.04",
        "0.300 0.650 1.021 1.420",
    ),
    ("cifar-large", 10): (
        "6.85 14.33 27.26 48.40 81.52 112.57 152.84 192.60",
        "0.288 0.627 1.077 1.681 2.336 3.115 4.024 5.218",
    ),
    ("cifar-large", 100): (
        "6.86 14.35 27.29 48.45 81.57 112.64 152.92 192.69",
        "0.300 0.650 1.111 1.727 2.394 3.184 4.105 5.311",
    ),
    ("cifar-medium", 100): ("6.86 14.35 27.29 46.56 67.43 89.09", None),
    ("cifar-even", 100): ("15.14 25.51 37.10 46.33 57.34 66.96 75.94", None),
    ("imagenet-4", 1000): (
        "339.90 685.46 1008.16 1254.47 1360.53",
        "4.24 8.77 13.07 16.75 23.96",
    ),
    ("imagenet-7", 1000): (
        "615.69 1436.39 2283.21 2967.42 3253.79",
        "8.76 20.15 31.73 41.86 62.31",
    ),
}
# Convolutions and linear layers only.
MAC = {
    ("cifar-small", 100): "6.79 14.21 25.89 37.74",
    ("cifar-large", 100): "6.79 14.21 27.04 48.05 81.01 111.95 152.12 191.82",
}


def published(preset, classes, convention):
    side = 224 if preset.startswith("imagenet") else 32
    with torch.device("meta"):  # shapes are enough to count
        model = build_model("msdnet", classes=classes, image_shape=(3, side, side), preset=preset)
    return exit_costs(model, (3, side, side), convention)


def as_printed(counts, like):
    """Format the counts in millions with as many decimals as `like`."""
    decimals = len(like.split()[0].partition(".")[2])
    return " ".join(f"{count / 1e6:.{decimals}f}" for count in counts)


@pytest.mark.parametrize(("preset", "classes"), MSDNET)
def test_published_msdnet_costs(preset, classes):
    macs, parameters = MSDNET[preset, classes]
    costs = published(preset, classes, "msdnet")
    assert as_printed(costs.macs, macs) == macs
    if parameters:
        assert as_printed(costs.parameters, parameters) == parameters
    assert (costs.macs.dtype, costs.parameters.dtype) == (np.float64, np.int64)


@pytest.mark.parametrize(("preset", "classes"), MAC)
def test_msdnet_macs_without_the_rest(preset, classes):
    macs = MAC[preset, classes]
    assert as_printed(published(preset, classes, "mac").macs, macs) == macs


@pytest.mark.parametrize("convention", ["mac", "msdnet"])
def test_a_network_counted_by_hand(convention):
    class Hand(MultiExitModel):
        def __init__(self):
            super().__init__()
            self.n_exits = 3
            self.conv = nn.Sequential(nn.Conv2d(2, 6, 3, stride=2, padding=1, groups=2), nn.BatchNorm2d(6))
            self.late = nn.Conv2d(6, 6, (1, 3), padding=(0, 1))
            self.head = nn.Linear(6, 5)
            self.unused = nn.Linear(6, 5)

        def exits(self, x):
            x = self.conv(x).relu()  # (1, 6, 4, 4)
            x = nn.functional.max_pool2d(x, 3, stride=1, padding=1)  # (1, 6, 4, 4)
            yield self.head(x.mean((2, 3)))
            x = nn.functional.relu_(self.late(x))
            x = nn.functional.avg_pool2d(x, (2, 4))  # (1, 6, 2, 1)
            yield self.head(x.mean((2, 3)))
            yield x.mean((2, 3)) @ self.head.weight.T

    costs = exit_costs(Hand(), (2, 8, 8), convention)
    first = 6 * 16 * 9 + 6 * 5
    second = 6 * 16 * 6 * 3 + 6 * 5
    if convention == "msdnet":
        first += 6 * 16 + 6 * 16 * 9 + 5
        second += 6 * 16 + 6 * 2 * 8 + 5
    np.testing.assert_array_equal(costs.macs, np.cumsum([first, second, 6 * 5]))
    conv, late, head = 6 * 9 + 6 + 2 * 6, 6 * 6 * 3 + 6, 6 * 5 + 5
    np.testing.assert_array_equal(costs.parameters, [conv + head, conv + head + late, conv + head + late])


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.inference_mode])
def test_a_vit_counted_by_hand(mode):
    """In inference mode, too, where torch does not take operations apart."""
    d, depth, classes, patches = 12, 3, 10, 16
    tokens = patches + 1
    model = build_model(
        "vit", classes=classes, image_shape=(1, 8, 8), patch_size=2, embed_dim=d, depth=depth, num_heads=3
    )
    with mode():
        costs = exit_costs(model, (1, 8, 8))
    embed = patches * 4 * d
    projections = tokens * (3 * d * d + d * d + 2 * 4 * d * d)
    attention = 2 * tokens * tokens * d
    block = projections + attention + d * classes
    np.testing.assert_array_equal(costs.macs, embed + block * np.arange(1, depth + 1))
    embed = 4 * d + d + d + tokens * d
    block = (2 * d + 3 * d * d + 3 * d + d * d + d) + (2 * d + 8 * d * d + 5 * d)
    head = 2 * d + d * classes + classes
    np.testing.assert_array_equal(costs.parameters, embed + (block + head) * np.arange(1, depth + 1))


@pytest.mark.parametrize("tokens", [1, 24])
def test_an_encoder_counted_by_hand(tokens):
    d, inner, classes, words, positions = 384, 1536, 3, 30522, 512
    vocabulary = Vocabulary(size=words, pad=0, separator=102, tokenizer="minilm-l6", max_tokens=128)
    with torch.device("meta"):
        model = build_model("encoder", classes=classes, vocabulary=vocabulary)
    costs = exit_costs(model, (tokens,))
    layer = tokens * (4 * d * d + 2 * d * inner) + 2 * tokens * tokens * d
    head = d * d + d * classes  # the pooler runs at each exit
    np.testing.assert_array_equal(costs.macs, (layer + head) * np.arange(1, 7))
    embed = (words + positions + 2) * d + 2 * d
    layer = 4 * (d * d + d) + d * inner + inner + inner * d + d + 2 * 2 * d
    pooler, head = d * d + d, d * classes + classes
    np.testing.assert_array_equal(costs.parameters, embed + pooler + (layer + head) * np.arange(1, 7))


class FusedEncoder(MultiExitModel):
    """Layers that torch would run as one fused operation, and that also draw random numbers."""

    def __init__(self, d=8):
        super().__init__()
        self.n_exits = 2
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(d, 2, dim_feedforward=16, batch_first=True) for _ in range(2)
        )
        self.head = nn.Linear(d, 3)

    def exits(self, x):
        x = x.flatten(1, 2) + torch.rand(())  # (1, 4, 8)
        for layer in self.layers:
            x = layer(x)
            yield self.head(x[:, 0])


def test_fused_transformer_layers_are_counted():
    d, tokens = 8, 4
    layer = tokens * (3 * d * d + d * d + 2 * 16 * d) + 2 * tokens * tokens * d
    costs = exit_costs(FusedEncoder(d), (2, 2, d))
    np.testing.assert_array_equal(costs.macs, (layer + 3 * d) * np.arange(1, 3))
    assert torch.backends.mha.get_fastpath_enabled()


def snapshot(model):
    state = {name: value.clone() for name, value in model.state_dict().items()}
    grads = {name: p.grad.clone() for name, p in model.named_parameters()}
    return state, grads, torch.random.get_rng_state(), [m.training for m in model.modules()]


@pytest.mark.parametrize("fails", [False, True])
def test_counting_leaves_no_trace(fails, monkeypatch):
    model = FusedEncoder().train()
    model.layers[0].norm1.eval()  # a module in evaluation mode keeps its mode
    model(torch.randn(3, 2, 2, 8)).sum().backward()
    before = snapshot(model)
    if fails:
        monkeypatch.setattr(model.layers[1], "forward", lambda x: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            exit_costs(model, (2, 2, 8))
    else:
        exit_costs(model, (2, 2, 8))
    for was, now in zip(before, snapshot(model)):
        torch.testing.assert_close(now, was, rtol=0, atol=0)
    assert torch.is_grad_enabled()
    assert torch.backends.mha.get_fastpath_enabled()


def test_batch_norm_statistics_stay():
    model = build_model("msdnet", classes=10, image_shape=(3, 32, 32)).train()
    before = {name: value.clone() for name, value in model.named_buffers()}
    exit_costs(model, (3, 32, 32))
    assert model.training
    torch.testing.assert_close(dict(model.named_buffers()), before, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_model_keeps_its_precision(dtype):
    model = FusedEncoder().to(dtype)
    costs = exit_costs(model, (2, 2, 8))
    assert next(model.parameters()).dtype is dtype
    np.testing.assert_array_equal(costs.macs, exit_costs(FusedEncoder(), (2, 2, 8)).macs)


def test_unknown_convention():
    with pytest.raises(ValueError, match="convention='flops', expected one of mac, msdnet"):
        exit_costs(FusedEncoder(), (2, 2, 8), "flops")
