"""The device and the settings of torch."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def default_device() -> str:
    """Return the GPU if there is one. Each process started by torchrun has its own."""
    return f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"


# ATen, oneDNN and MKL choose their kernels by the processor. They read these variables when they compute for the first
# time. Only with COMPATIBLE does MKL use the same kernels on processors of different vendors.
PORTABLE = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_CBWR": "COMPATIBLE"}


@contextmanager
def portable_kernels(enabled: bool = True) -> Iterator[None]:
    """Context manager in which torch uses kernels that compute the same bytes on every x86-64 processor with AVX2.

    It has an effect only if torch computes for the first time in this process within the block.
    """
    before = {name: os.environ.get(name) for name in PORTABLE} if enabled else {}
    os.environ.update(PORTABLE if enabled else {})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def torch_settings(threads: int) -> Iterator[None]:
    """Context manager that sets the number of CPU threads and enables deterministic algorithms.

    torch warns if an operation has no deterministic algorithm.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # makes cuBLAS deterministic
    memory = torch.utils.deterministic
    before = torch.get_num_threads(), torch.get_deterministic_debug_mode(), memory.fill_uninitialized_memory
    torch.set_num_threads(threads)
    torch.set_deterministic_debug_mode("warn")  # use_deterministic_algorithms imports the compiler, which takes 3 s
    memory.fill_uninitialized_memory = False  # filling new tensors takes 8 % of a step of MSDNet on a CPU
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.set_deterministic_debug_mode(before[1])
        memory.fill_uninitialized_memory = before[2]
