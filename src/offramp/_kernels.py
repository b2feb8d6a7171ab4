"""The softmax kernel, compiled by Numba: the one place where every class of every logit is read."""

import math

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic, overload

# Sums may be reordered and NaN is ruled out beforehand (`_finite`): without this LLVM leaves the loops scalar.
RELAXED = {"nnan", "nsz", "arcp", "contract", "reassoc"}
FLOOR = -87.0  # exp(-87) is the smallest normal float32; a class that far below the top adds nothing


def _compiled(**options):
    """numba.njit, kept on disk for the next start where there is a folder that can be written."""

    def decorate(function):
        try:
            return njit(cache=True, nogil=True, **options)(function)
        except RuntimeError:
            return njit(nogil=True, **options)(function)

    return decorate


@intrinsic
def _larger(typingctx, a, b):
    """max(a, b) that LLVM turns into a vector maximum: Numba's own max keeps NaN and with it a branch."""

    def generate(context, builder, signature, arguments):
        a, b = arguments
        flags = ("nnan", "nsz")
        return builder.select(builder.fcmp_ordered(">", a, b, flags=flags), a, b, flags=flags)

    return a(a, a), generate


@intrinsic
def _power_of_two(typingctx, k):
    """2**k as float32 for an int32 k in -126 … 127: k put straight into the exponent's bits."""

    def generate(context, builder, signature, arguments):
        i32 = ir.IntType(32)
        bits = builder.shl(builder.add(arguments[0], ir.Constant(i32, 127)), ir.Constant(i32, 23))
        return builder.bitcast(bits, ir.FloatType())

    return types.float32(types.int32), generate


def _exp(x):
    """exp(x) for FLOOR ≤ x ≤ 0."""


@overload(_exp, jit_options={"fastmath": RELAXED})
def _exp_of_type(x):
    if x != types.float32:
        return lambda x: math.exp(x)

    f = np.float32
    log2e, half = f(1.4426950408889634), f(0.5)
    ln2_high, ln2_low = f(0.693359375), f(-2.12194440e-4)  # ln 2 in two parts, the first exact
    # Cephes' minimax polynomial for (exp(r) - 1 - r) / r² on |r| ≤ ln(2)/2
    p0, p1, p2 = f(1.9875691500e-4), f(1.3981999507e-3), f(8.3334519073e-3)
    p3, p4, p5 = f(4.1665795894e-2), f(1.6666665459e-1), f(5.0000001201e-1)

    def exp32(x):
        k = np.floor(x * log2e + half)
        r = x - k * ln2_high
        r = r - k * ln2_low
        p = ((((p0 * r + p1) * r + p2) * r + p3) * r + p4) * r + p5
        return (p * r * r + r + f(1)) * _power_of_two(np.int32(k))

    return exp32


@_compiled()
def _finite(row):  # (C,)
    finite = True
    for c in range(row.shape[0]):
        finite &= abs(row[c]) < np.inf
    return finite


@_compiled(fastmath=RELAXED)
def _maximum(row):  # (C,)
    top = row[0]
    for c in range(row.shape[0]):
        top = _larger(row[c], top)
    return top


@_compiled(fastmath=RELAXED, error_model="numpy")
def _sums(row, top, scale):  # (c,)
    """Σ eˣ, Σ x·eˣ and max x, for x = (z - top)·scale over one stretch of classes."""
    kind = type(top)
    total, weighted, nearest = kind(0), kind(0), kind(FLOOR)
    for c in range(row.shape[0]):
        x = _larger((row[c] - top) * scale, kind(FLOOR))
        nearest = _larger(x, nearest)
        e = _exp(x)
        total += e
        weighted += e * x
    return total, weighted, nearest


@_compiled(error_model="numpy")
def softmax_rows(logits, scale, prediction, max_softmax, margin, entropy):
    """Fill the four outputs (R,) from logits (R, C); row r is scaled by scale[r % len(scale)].

    Returns the first row that holds a value which is not finite, or -1. Each row stays in the first-level
    cache between its maximum and its sums, so memory is read once. The winner is left out of the sums:
    what little the others hold is then not rounded away against its 1.
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
