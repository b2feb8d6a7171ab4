"""The softmax kernel, the only code that reads all logits."""

import math

import numpy as np

from offramp._kernels.compiling import FLOOR, RELAXED, compiled, exp, larger


@compiled()
def _finite(row):  # (C,)
    finite = True
    for c in range(row.shape[0]):
        finite &= abs(row[c]) < np.inf
    return finite


@compiled(fastmath=RELAXED)
def _maximum(row):  # (C,)
    top = row[0]
    for c in range(row.shape[0]):
        top = larger(row[c], top)
    return top


@compiled(fastmath=RELAXED, error_model="numpy")
def _sums(row, top, scale):  # (c,)
    """Σ eˣ, Σ x·eˣ and max x, for x = (z - top)·scale over a contiguous range of classes."""
    kind = type(top)
    total, weighted, nearest = kind(0), kind(0), kind(FLOOR)
    for c in range(row.shape[0]):
        x = larger((row[c] - top) * scale, kind(FLOOR))
        nearest = larger(x, nearest)
        e = exp(x)
        total += e
        weighted += e * x
    return total, weighted, nearest


@compiled(error_model="numpy")
def softmax_rows(logits, scale, prediction, max_softmax, margin, entropy):
    """Compute the four outputs (R,) from logits (R, C). Row r is multiplied by scale[r % len(scale)].

    Returns the first row with a value that is not finite, or -1. Each row stays in the first-level cache between the
    computation of its maximum and of its sums, so that memory is read once. The largest class is excluded from the
    sums, so that the small terms of the other classes are not lost by rounding.
    """
    for r in range(logits.shape[0]):
        row = logits[r]
        if not _finite(row):
            return r
        top = _maximum(row)
        winner = 0
        while row[winner] != top:
            winner += 1
        s = scale[r % scale.shape[0]]
        before, before_x, before_top = _sums(row[:winner], top, s)
        after, after_x, after_top = _sums(row[winner + 1 :], top, s)
        others = before + after
        prediction[r] = winner
        max_softmax[r] = 1 / (1 + others)
        margin[r] = -math.expm1(max(before_top, after_top)) / (1 + others)
        entropy[r] = math.log1p(others) - (before_x + after_x) / (1 + others)
    return -1
