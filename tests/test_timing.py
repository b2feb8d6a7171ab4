"""Measured time of models that stop, side by side with the full model."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from offramp import ExitRecord, make_policy
from offramp.cli import cli
from offramp.models.wrapping import Staged
from offramp.reports.catalogue import TABLES
from offramp.runtime import EarlyExit
from offramp.runtime.timing import side_by_side, time_policies

STUDY = "artifacts/tiny"


def options(system, seed=0):
    return [
        *("--splits", f"{STUDY}/data/splits.csv"),
        *("--policies", f"{STUDY}/calibrate/{system}-s{seed}.safetensors"),
        *("--validation", f"{STUDY}/records/{system}-s{seed}/validation.safetensors"),
        *("--test", f"{STUDY}/records/{system}-s{seed}/test.safetensors"),
    ]


def test_each_function_gets_each_batch_in_each_repetition():
    calls = []
    variants = {name: lambda x, name=name: calls.append((name, x)) for name in "ab"}
    times = side_by_side(variants, [1, 2], repetitions=3)
    assert sorted(calls) == sorted([("a", 1), ("b", 1)] + 3 * [(name, x) for name in "ab" for x in (1, 2)])
    assert {name: each.shape for name, each in times.items()} == {"a": (3,), "b": (3,)}


def test_the_ratios_are_those_of_the_exits_taken():
    torch.manual_seed(0)
    model = Staged([nn.Linear(4, 8), nn.Linear(8, 8)], [nn.Linear(8, 3), nn.Linear(8, 3)])
    x = torch.randn(10, 4)
    record = ExitRecord(model.eval()(x).detach().numpy(), None, [1.0, 4.0])
    policy = make_policy("confidence")
    median = np.sort(record.confidence()[:, 0])[5]  # half of the samples leave
    chosen = {"half": (policy, median), "none": (policy, np.inf), "all": (policy, -np.inf)}
    stop = EarlyExit(model, policy, 0.5, cost=record.cost)
    table = time_policies(stop, chosen, list(x.split(4)), record, repetitions=2).set_index("policy")
    assert table["in_layers"].to_dict() == pytest.approx({"half": 2 / 1.5, "none": 1, "all": 2})
    assert table["in_cost"].to_dict() == pytest.approx({"half": 4 / 2.5, "none": 1, "all": 4})
    assert (table["other_exits"] == 0).all()
    assert (table["in_seconds_low"] <= table["in_seconds"]).all()
    assert (table["in_seconds"] <= table["in_seconds_high"]).all()
    assert (table["seconds"] > 0).all()


def test_the_table_of_a_cascade_and_of_a_model(finished, tmp_path, monkeypatch):
    monkeypatch.chdir(finished.folder)
    weights = [f"{STUDY}/train/{model}-s0.safetensors" for model in ("resnet-4", "resnet-12")]
    own = tmp_path / "times.csv"
    sizes = ["--batch-size", "5", "--samples", "10"]
    cli(["time", *weights, *options("two"), *sizes, "--out", str(own)], standalone_mode=False)
    of_cascade = pd.read_csv(own)
    assert set(of_cascade["policy"]) == {"confidence", "temperature", "pcee", "pcee-ws"}  # not the oracle
    assert of_cascade[["batch_size", "samples", "other_exits"]].drop_duplicates().to_numpy().tolist() == [[5, 10, 0]]
    table = TABLES["times"].load()
    numbers = table.numbers([own, f"{STUDY}/evaluate/net-small-s0/times.csv"])
    assert set(zip(numbers["system"], numbers["batch_size"])) == {("net-small", 1), ("net-small", 8), ("two", 5)}
    assert "In MACs" in table.readable(numbers)


def test_a_record_of_other_samples_is_refused(finished, tmp_path, monkeypatch):
    monkeypatch.chdir(finished.folder)
    words = options("net-small")
    words[-1] = f"{STUDY}/records/net-small-s0/validation.safetensors"
    weights = f"{STUDY}/train/net-small-s0.safetensors"
    with pytest.raises(
        ValueError, match=r"its samples are not the test samples of .*splits\.csv; expected the record of"
    ):
        cli(["time", weights, *words, "--out", str(tmp_path / "times.csv")], standalone_mode=False)
