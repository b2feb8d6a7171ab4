"""Recording: what the model says sample by sample, in the record, whatever the batches."""

import numpy as np
import pytest
import torch
from torch import nn

from offramp import ExitRecord
from offramp.costs import exit_costs
from offramp.datasets import load_dataset, make_splits
from offramp.models import MultiExitModel
from offramp.recording import record

torch.set_num_threads(1)


class Tiny(MultiExitModel):
    """Two exits whose answers depend on mode: batch norm and dropout."""

    n_exits = 2

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5))
        self.body = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.heads = nn.ModuleList([nn.Linear(36, 10), nn.Linear(4, 10)])

    def exits(self, x):
        first = self.stem(x)
        yield self.heads[0](first.flatten(1))
        yield self.heads[1](self.body(first).flatten(1))


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits")


@pytest.fixture(scope="module")
def splits(digits):
    return make_splits(digits, validation=100, test=97, seed=0)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return Tiny()


def test_a_record_is_each_sample_run_by_itself(digits, splits, model):
    model.train()  # recording must not care
    made = record(model, digits, splits, "test", system="tiny", seed=3, parameters={"width": 4}, progress=False)
    index = splits[splits["split"] == "test"]["index"].to_numpy()
    model.eval()
    with torch.no_grad():
        for i, place in enumerate(index):
            image = digits.images("all", np.array([place]), augment=False)
            expected = np.stack([logits[0].numpy() for logits in model.exits(image)])  # (L, C)
            np.testing.assert_allclose(made.logits[i], expected, atol=1e-5, rtol=1e-4)
    assert made.logits.dtype == np.float32
    np.testing.assert_array_equal(made.index, index)
    np.testing.assert_array_equal(made.labels, digits.labels["all"][index])
    np.testing.assert_array_equal(made.cost, exit_costs(model, (1, 8, 8)).macs)
    assert made.metadata == {
        "dataset": "digits",
        "split": "test",
        "system": "tiny",
        "seed": 3,
        "classes": 10,
        "unit": "MAC",
        "exit_parameters": exit_costs(model, (1, 8, 8)).parameters.tolist(),
        "parameters": {"width": 4},
    }


@pytest.mark.parametrize(("batch_size", "workers"), [(1000, 0), (30, 2), (1, 0)])
def test_batches_and_workers_do_not_matter(digits, splits, model, batch_size, workers):
    def go(**changes):
        return record(model, digits, splits, "validation", system="tiny", seed=0, progress=False, **changes)

    made, other = go(), go(batch_size=batch_size, workers=workers)
    np.testing.assert_array_equal(other.index, made.index)
    np.testing.assert_array_equal(other.labels, made.labels)
    np.testing.assert_allclose(other.logits, made.logits, atol=1e-5, rtol=1e-4)


def test_two_recordings_are_the_same_file_contents(digits, splits, model, tmp_path):
    for name in "first", "second":
        made = record(model, digits, splits, "test", system="tiny", seed=0, progress=False)
        made.save(tmp_path / name)
    first, second = ExitRecord.load(tmp_path / "first"), ExitRecord.load(tmp_path / "second")
    np.testing.assert_array_equal(first.logits, second.logits)
    assert first.metadata == second.metadata


def test_recording_shows_a_bar(digits, splits, model, capsys):
    record(model, digits, splits, "test", system="tiny", seed=3)
    assert "tiny seed 3 test: 100%" in capsys.readouterr().err


def test_logits_that_are_not_finite_are_refused(digits, splits):
    broken = Tiny()
    nn.init.constant_(broken.heads[1].bias, float("nan"))
    with pytest.raises(ValueError, match="logits"):
        record(broken, digits, splits, "test", system="tiny", seed=0, progress=False)
