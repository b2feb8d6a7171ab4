"""Where torch runs, and with which settings."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def default_device() -> str:
    """The GPU where there is one; for processes that torchrun started, each its own."""
    return f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"


@contextmanager
def torch_settings(threads: int) -> Iterator[None]:
    """Inside, torch uses so many CPU threads and deterministic algorithms; it warns where it has none."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what makes cuBLAS deterministic
    memory = torch.utils.deterministic
    before = torch.get_num_threads(), torch.get_deterministic_debug_mode(), memory.fill_uninitialized_memory
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    memory.fill_uninitialized_memory = False  # or each new tensor is filled before use: 8 % of MSDNet's step on a CPU
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.set_deterministic_debug_mode(before[1])
        memory.fill_uninitialized_memory = before[2]
