"""Training, recording and early exits on a GPU. `make gpu-check` runs this file; elsewhere it is skipped."""

import numpy as np
import pandas as pd
import pytest
import torch

from offramp import ExitRecord, decide, make_policy
from offramp.datasets import load_dataset
from offramp.datasets.splits import make_splits
from offramp.models import build_model
from offramp.models.costs import exit_costs
from offramp.recording import record, time_exits
from offramp.runtime import EarlyExit
from offramp.training import loop
from offramp.training.checkpoints import load_weights
from offramp.training.loop import train
from offramp.training.options import TrainingOptions

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

DIGITS = (1, 8, 8)
NET = {"exits": 3, "channels": 8, "growth": 4, "growth_factors": [1, 2], "bottleneck_factors": [1, 2]}
NET |= {"head_strides": [], "head_pool": 4}
MODELS = {
    "msdnet": NET,
    "vit": {"patch_size": 2, "embed_dim": 24, "depth": 3, "num_heads": 3, "weight_init": "moco"},
}


def build(name):
    return build_model(name, classes=10, image_shape=DIGITS, **MODELS[name])


@pytest.fixture(scope="module")
def digits():
    source = load_dataset("digits")
    return source, make_splits(source, validation=300, test=400, seed=0)


@pytest.fixture(scope="module", params=MODELS)
def trained(request, digits, tmp_path_factory):
    """A model that was trained in bfloat16, with channels last and pinned copies, and the folder of its weights."""
    folder = tmp_path_factory.mktemp(request.param)
    options = TrainingOptions(epochs=20, batch_size=64, optimizer="adamw", learning_rate=3e-3)
    assert options.in_bfloat16(torch.device("cuda"))
    files = {"out": folder / "w.safetensors", "history": folder / "h.csv"}
    train(lambda: build(request.param), *digits, options, seed=0, workers=1, progress=False, **files)
    model = build(request.param)
    load_weights(folder / "w.safetensors", model)
    return request.param, model, options, folder


def test_training_in_bfloat16_learns(trained):
    *_, folder = trained
    history = pd.read_csv(folder / "h.csv")
    assert history["validation_accuracy_3"].iloc[-1] > 0.5
    assert history["train_loss"].iloc[-1] < 0.7 * history["train_loss"].iloc[0]


def test_a_training_that_was_stopped_ends_the_same(trained, digits, tmp_path, monkeypatch):
    name, _, options, folder = trained
    files = {"out": tmp_path / "w.safetensors", "history": tmp_path / "h.csv"}
    epoch_of = loop.train_epoch

    def stop(*given, **named):
        if given[5] == 3:
            raise KeyboardInterrupt
        return epoch_of(*given, **named)

    monkeypatch.setattr(loop, "train_epoch", stop)
    with pytest.raises(KeyboardInterrupt):
        train(lambda: build(name), *digits, options, seed=0, progress=False, **files)
    monkeypatch.setattr(loop, "train_epoch", epoch_of)
    train(lambda: build(name), *digits, options, seed=0, progress=False, **files)
    assert files["out"].read_bytes() == (folder / "w.safetensors").read_bytes()


def test_a_record_is_that_of_the_cpu(trained, digits):
    name, model, *_ = trained
    on_gpu, on_cpu = (
        record(model, *digits, "test", system=name, seed=0, device=device, progress=False) for device in ("cuda", "cpu")
    )
    np.testing.assert_allclose(on_gpu.logits, on_cpu.logits, atol=2e-3)
    assert (on_gpu.prediction == on_cpu.prediction).mean() > 0.995
    seconds = time_exits(model, *digits, batch_size=64, device="cuda")
    assert (seconds["seconds"].diff().dropna() > 0).all()
    assert torch.cuda.get_device_name() in set(seconds["device"])


@pytest.mark.parametrize("size", [1, 7, 64, 148])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_samples_leave_where_the_record_says(trained, size, dtype):
    name, model, *_ = trained
    torch.manual_seed(0)
    model = build(name).to("cuda", dtype).eval()
    with torch.no_grad():
        for head in model.heads:
            head[-1].weight.mul_(20)  # otherwise all confidences are about the same
    x = torch.randn(148, *DIGITS)
    with torch.inference_mode():
        logits = model(x.to("cuda", dtype)).float().cpu().numpy()
    whole = ExitRecord(logits, None, exit_costs(model, DIGITS).macs)
    policy = make_policy("confidence")
    signal = policy.signal(whole)
    threshold = float(np.quantile(signal[:, :-1], 0.4))
    (exits,), (answers,) = decide(policy, whole, [threshold])
    sure = (np.abs(signal[:, :-1] - threshold) > (1e-4 if dtype == torch.float32 else 2e-2)).all(axis=1)
    assert sure.mean() > 0.3
    fast = EarlyExit(model, policy, threshold)
    for regroup in ("always", "never"):
        fast.regroup = regroup
        for start in range(0, len(x), size):
            rows = slice(start, start + size)
            found = fast(x[rows].to(dtype))
            np.testing.assert_array_equal(found.exit[sure[rows]], exits[rows][sure[rows]])
            if dtype == torch.float32:
                np.testing.assert_array_equal(found.prediction[sure[rows]], answers[rows][sure[rows]])
    assert fast._graphs.captured


def test_a_profile_of_a_gpu(trained):
    _, model, *_ = trained
    fast = EarlyExit(model.to("cuda"), make_policy("confidence"), 0.9)
    times = fast.profile(torch.randn(256, *DIGITS))
    assert (times.stages > 0).all()
    assert fast(torch.randn(256, *DIGITS)).exit.shape == (256,)
