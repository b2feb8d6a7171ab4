"""The softmax kernel, the only code that reads all logits."""

import math

import numpy as np

from offramp._kernels.compiling import FLOOR, LOG2E, RELAXED, compiled, exp2, larger, prefetch

WIDTH = 16  # classes; a multiple of all vector widths, so that no class is left over for slow scalar code
CHUNK = 64  # classes among which the maximum is looked for at once
TILE = 512  # classes that are summed before their sum is added, for precision with many classes
LINE = 64  # bytes in a cache line


@compiled(fastmath={"reassoc"})
def _copy(row, copy):  # (C,), (≥ C,)
    """Copy the row, and return its maximum and a value that is 0 if all of its values are finite and NaN otherwise."""
    top, zero = row[0], row[0] - row[0]
    for c in range(row.shape[0]):
        z = row[c]
        copy[c] = z
        top = larger(z, top)
        zero += z - z
    return top, zero


@compiled(fastmath=RELAXED)
def _maximum(row):  # (c,)
    top = row[0]
    for c in range(row.shape[0]):
        top = larger(row[c], top)
    return top


@compiled(fastmath=RELAXED, error_model="numpy")
def _sums(row, top, log2_scale):  # (c,)
    """Σ eˣ and Σ d·eˣ, for d = z - top and eˣ = 2^(d · log2_scale), and the maximum of d."""
    kind = type(top)
    floor = kind(FLOOR) / log2_scale
    total, weighted, nearest = kind(0), kind(0), floor
    for c in range(row.shape[0]):
        d = larger(row[c] - top, floor)
        nearest = larger(d, nearest)
        e = exp2(d, log2_scale)
        total += e
        weighted += e * d
    return total, weighted, nearest


@compiled(error_model="numpy")
def softmax_rows(logits, scale, prediction, max_softmax, margin, entropy):
    """Compute the four outputs (R,) from logits (R, C). Row r is multiplied by scale[r % len(scale)].

    Returns the first row with a value that is not finite, or -1. Memory is read once: a copy of each row stays in the
    first-level cache between the computation of its maximum and of its sums, while the next row is being loaded. The
    largest class is excluded from the sums, so that the small terms of the other classes are not lost by rounding.
    """
    n_rows, n_classes = logits.shape
    kind = logits.dtype.type
    copy = np.full(-(-n_classes // WIDTH) * WIDTH, -np.inf, logits.dtype)  # (≥ C,)
    k = -1
    for r in range(n_rows):
        top, zero = _copy(logits[r], copy)
        if zero != 0:
            return r
        if r + 1 < n_rows:
            for c in range(0, n_classes, LINE // logits.itemsize):
                prefetch(logits[r + 1], c)
        winner = 0
        while winner + CHUNK < n_classes and _maximum(copy[winner : winner + CHUNK]) != top:
            winner += CHUNK
        while copy[winner] != top:
            winner += 1
        copy[winner] = -np.inf
        k = k + 1 if k + 1 < scale.shape[0] else 0  # r % len(scale), without a slow division
        s = larger(scale[k], kind(1e-36))  # so that FLOOR / s is finite at any temperature
        others, weighted, nearest = _sums(copy[:TILE], top, s * kind(LOG2E))
        for c in range(TILE, n_classes, TILE):
            total, product, largest = _sums(copy[c : c + TILE], top, s * kind(LOG2E))
            others, weighted, nearest = others + total, weighted + product, larger(nearest, largest)
        prediction[r] = winner
        max_softmax[r] = 1 / (1 + others)
        margin[r] = -math.expm1(nearest * s) / (1 + others)
        entropy[r] = math.log1p(others) - weighted * s / (1 + others)
    return -1
