"""Confidence measures computed from logits: max softmax, margin and entropy."""

import math
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

MEASURES = ("max_softmax", "margin", "entropy")  # those that are computed from logits
SCORES = (*MEASURES, "mean_token_margin")  # all confidences, for cascades and for features of policies
BLOCK_BYTES = 1 << 22  # size of the blocks of logits that are processed at once; float16 or strided input is copied


class Confidences(NamedTuple):
    """Predictions and confidence measures of logits (N, L, C). Every field has shape (N, L)."""

    prediction: np.ndarray  # int64, the first class with the highest logit
    max_softmax: np.ndarray  # float32
    margin: np.ndarray  # float32, largest minus second largest probability
    entropy: np.ndarray  # float32, in nats, not negated


def found(measure: str, values: Mapping[str, np.ndarray], prediction: np.ndarray | None, whose: str) -> np.ndarray:
    """Return a measure. If it is not there, raise ValueError, which begins with `whose`: "this record has"."""
    if measure not in values:
        there = ", ".join(values) or ("" if prediction is None else "predictions")
        others = f"only {there}" if there else "and no other confidence"
        another = next((score for score in SCORES if score in values and measure in SCORES), None)
        way = f"use score={another}, or " if another else ""
        raise ValueError(f"confidence: {whose} no {measure}, {others}; {way}make the record with {measure}")
    return values[measure]


def available_threads() -> int:
    """Return the number of threads that this process may use.

    This is the value of OMP_NUM_THREADS, which Snakemake sets for each job, or otherwise the number of available cores.
    """
    given = os.environ.get("OMP_NUM_THREADS", "")
    if given.isdigit() and int(given) > 0:
        return int(given)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def confidences(logits: np.ndarray, temperature: np.ndarray | None = None) -> Confidences:
    """Compute the prediction and all confidence measures in one pass over the logits.

    Parameters
    ----------
    logits : ndarray of shape (N, L, C)
        float16, float32 or float64. Can be a memory map. float16 is converted to float32.
    temperature : ndarray of shape (L,), optional
        Temperature of each exit, by which its logits are divided.

    Returns
    -------
    Confidences
        For p = softmax(logits): the maximum of p, the difference of its two largest values, and −Σ p ln p in nats.

    Raises
    ------
    ValueError
        If a logit is not finite.
    """
    from offramp._kernels.softmax import softmax_rows  # imported here, because importing Numba takes time

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

    step = max(1, BLOCK_BYTES // max(1, math.prod(logits.shape[1:]) * dtype().itemsize))
    if n_samples <= step:  # starting threads takes longer than a small block
        found = [run(0)]
    else:
        with ThreadPoolExecutor(available_threads()) as pool:
            found = list(pool.map(run, range(0, n_samples, step)))
    bad = [sample for sample in found if sample >= 0]
    if bad:
        exit_, class_ = np.argwhere(~np.isfinite(logits[bad[0]]))[0]
        value = logits[bad[0], exit_, class_]
        raise ValueError(f"logits[{bad[0]}, {exit_}, {class_}] is {value}: logits must be finite")
    return result
