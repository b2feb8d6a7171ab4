"""Confidence measures of logits: max softmax, margin and entropy."""

import os
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

MEASURES = ("max_softmax", "margin", "entropy")
BLOCK_BYTES = 1 << 22  # logits handed to the kernel at once: a float16 or strided input is copied block by block


class Confidences(NamedTuple):
    """What a policy needs of logits (N, L, C); every field has shape (N, L)."""

    prediction: np.ndarray  # int64, the first class with the highest logit
    max_softmax: np.ndarray  # float32
    margin: np.ndarray  # float32, largest minus second largest probability
    entropy: np.ndarray  # float32, in nats, not negated


def available_threads() -> int:
    """Threads this process may use: OMP_NUM_THREADS (Snakemake sets it for each job), else the cores it is bound to."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    if given.isdigit() and int(given) > 0:
        return int(given)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def confidences(logits: np.ndarray, temperature: np.ndarray | None = None) -> Confidences:
    """All three confidence measures and the prediction, in one pass over the logits.

    Parameters
    ----------
    logits : ndarray of shape (N, L, C)
        float16, float32 or float64; a memory map will do. float16 is computed in float32.
    temperature : ndarray of shape (L,), optional
        Divides the logits of each exit.

    Returns
    -------
    Confidences
        With p = softmax(logits): max p, p(1) − p(2) and −Σ p ln p in nats.

    Raises
    ------
    ValueError
        Where a logit is not finite.
    """
    from offramp._kernels.softmax import softmax_rows  # Numba: only who has logits pays for its start

    n_samples, n_exits, _ = logits.shape
    dtype = np.float64 if logits.dtype == np.float64 else np.float32
    scale = np.ones(1, dtype) if temperature is None else (1 / np.asarray(temperature, np.float64)).astype(dtype)
    shape = (n_samples, n_exits)
    result = Confidences(np.empty(shape, np.int64), *(np.empty(shape, np.float32) for _ in MEASURES))

    def run(start: int) -> int:
        block = np.ascontiguousarray(logits[start : start + step], dtype)  # (n, L, C)
        outputs = (array[start : start + step].reshape(-1) for array in result)
        bad = softmax_rows(block.reshape(-1, block.shape[-1]), scale, *outputs)
        return -1 if bad < 0 else start + bad // n_exits

    step = max(1, BLOCK_BYTES // max(1, logits[0].size * dtype().itemsize))
    with ThreadPoolExecutor(available_threads()) as pool:
        bad = [sample for sample in pool.map(run, range(0, n_samples, step)) if sample >= 0]
    if bad:
        exit_, class_ = np.argwhere(~np.isfinite(logits[bad[0]]))[0]
        value = logits[bad[0], exit_, class_]
        raise ValueError(f"logits[{bad[0]}, {exit_}, {class_}] is {value}: logits must be finite")
    return result
