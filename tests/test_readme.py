"""What the README tells a reader to type does what it says."""

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from offramp import ExitRecord, Policy, evaluate, make_policy
from offramp.cli import cli
from offramp.policies import POLICIES

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
PYTHON = [text for language, text in BLOCKS if language == "python"]
SHELL = [line.split("#")[0].strip() for language, text in BLOCKS if not language for line in text.splitlines()]


def test_bring_your_own_outputs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    subprocess.run([sys.executable, "-c", PYTHON[0]], check=True)
    commands = [line.split() for line in SHELL if line.startswith(("offramp import", "offramp evaluate"))]
    assert len(commands) == 2
    for command in commands:
        subprocess.run([sys.executable, "-m", "offramp", *command[1:]], check=True)
    curve = pd.read_csv("curve.csv")
    record = ExitRecord.load("record.safetensors")
    expected = evaluate(make_policy("pcee").fit(record), record, curve.threshold)
    np.testing.assert_allclose(curve[expected.columns], expected)


def test_python_example(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 300)
    for name in ("validation", "test"):
        logits = rng.normal(size=(300, 3, 10)) + 3 * np.eye(10)[labels][:, None]
        ExitRecord(logits=logits, labels=labels, cost=[1, 2, 3]).save(f"{name}.safetensors")
    small, large = (ExitRecord(rng.normal(size=(300, 1, 10)), labels, [cost]) for cost in (1, 5))
    exec(PYTHON[1], {"small": small, "large": large})


def test_policy_example():
    names = {"dataclass": dataclass, "Policy": Policy, "np": np}
    exec(PYTHON[2], names)
    record = ExitRecord.from_outputs([[1, 2, 2, 2], [3, 3, 0, 3]], np.full((2, 4), 0.5), [2, 3], [1, 2, 3, 4])
    assert names["LastChange"]().exits(record, 1).tolist() == [2, 1]


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_table_of_policies(name):
    row = next(line for line in README.split("\n") if line.startswith(f"| `{name}` |"))
    options = set(re.findall(r"`([a-z_]+)`", row.rpartition("|")[0].rpartition("|")[2]))
    assert options <= make_policy(name).options.keys()
    assert bool(options) == bool(make_policy(name).options)


def test_named_commands_exist():
    makefile = (Path(__file__).parents[1] / "Makefile").read_text()
    assert {"make reproduce", "make test"} <= set(SHELL)
    for target in re.findall(r"make ([a-z]+)", " ".join([*SHELL, *re.findall(r"`make [a-z]+`", README)])):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)
    for verb in re.findall(r"`?offramp ([a-z]+)", README):
        assert verb in cli.commands
