"""Portable computations: the same bytes whatever kernels the processor would choose."""

import os
import subprocess
import sys

import pytest

from offramp.study.processor import AVX2, same_on_every_processor
from offramp.training.device import PORTABLE, portable_kernels

MODEL = "msdnet:exits=2,channels=4,growth=2,growth_factors=[1,2],bottleneck_factors=[1,2],head_strides=[],head_pool=4"
# What an older processor would choose
OLDER = {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"}


def offramp(folder, line, **environment):
    clean = {name: value for name, value in os.environ.items() if name not in (*PORTABLE, *AVX2)}
    command = [sys.executable, "-m", "offramp", *line.split()]
    subprocess.run(command, cwd=folder, env={**clean, **environment}, check=True, capture_output=True)


def train(folder, name, *options, **environment) -> bytes:
    line = f"train --dataset digits --splits splits.csv --model {MODEL} --system s --epochs 1 --out {name} --history h"
    offramp(folder, " ".join([line, *options]), **environment)
    return (folder / name).read_bytes()


@pytest.mark.nightly
@pytest.mark.skipif(not same_on_every_processor({}), reason="needs an x86-64 processor with AVX2")
def test_a_portable_training_does_not_depend_on_the_kernels_of_the_processor(tmp_path):
    offramp(tmp_path, "data digits --validation 200 --test 1500 --out splits.csv")
    portable = train(tmp_path, "portable", "--portable")
    assert train(tmp_path, "older", "--portable", **OLDER) == portable
    assert b'"portable": true' in portable.replace(b'\\"', b'"')  # so that it is recorded alike
    offramp(tmp_path, "record portable --splits splits.csv --validation one.safetensors")
    offramp(tmp_path, "record portable --splits splits.csv --validation other.safetensors", **OLDER)
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "other.safetensors").read_bytes()
    assert train(tmp_path, "a") != train(tmp_path, "b", **OLDER)  # else this test would show nothing


def test_the_environment_is_restored(monkeypatch):
    monkeypatch.setenv("MKL_CBWR", "AVX2")
    monkeypatch.delenv("ATEN_CPU_CAPABILITY", raising=False)
    with portable_kernels():
        assert {name: os.environ[name] for name in PORTABLE} == PORTABLE
    assert os.environ["MKL_CBWR"] == "AVX2"
    assert "ATEN_CPU_CAPABILITY" not in os.environ
    with portable_kernels(False):
        assert os.environ["MKL_CBWR"] == "AVX2"


def test_settings_of_the_user_are_kept(monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr("offramp.study.processor._has_avx2", lambda: True)
    assert same_on_every_processor({}) == AVX2
    assert "OPENBLAS_CORETYPE" not in same_on_every_processor({"OPENBLAS_CORETYPE": "Zen"})
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    assert same_on_every_processor({}) == {}
