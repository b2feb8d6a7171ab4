"""The decorator of all compiled kernels, and arithmetic functions that LLVM can vectorise."""

import math

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic, overload

# Allow reordering of sums and assume that there is no NaN (checked by `_finite`). Otherwise LLVM does not vectorise.
RELAXED = {"nnan", "nsz", "arcp", "contract", "reassoc"}
FLOOR = -87.0  # exp(-87) is about the smallest normal float32; classes this far below the maximum contribute nothing


def compiled(**options):
    """numba.njit, with the compiled code cached on disk if there is a writable folder."""

    def decorate(function):
        try:
            return njit(cache=True, nogil=True, **options)(function)
        except RuntimeError:
            return njit(nogil=True, **options)(function)

    return decorate


@intrinsic
def larger(typingctx, a, b):
    """max(a, b) that LLVM can vectorise. Numba's own max handles NaN, which requires a branch."""

    def generate(context, builder, signature, arguments):
        a, b = arguments
        flags = ("nnan", "nsz")
        return builder.select(builder.fcmp_ordered(">", a, b, flags=flags), a, b, flags=flags)

    return a(a, a), generate


@intrinsic
def power_of_two(typingctx, k):
    """2**k as float32 for an int32 k in -126 … 127, by setting the exponent bits."""

    def generate(context, builder, signature, arguments):
        i32 = ir.IntType(32)
        bits = builder.shl(builder.add(arguments[0], ir.Constant(i32, 127)), ir.Constant(i32, 23))
        return builder.bitcast(bits, ir.FloatType())

    return types.float32(types.int32), generate


def exp(x):
    """exp(x) for FLOOR ≤ x ≤ 0."""


@overload(exp, jit_options={"fastmath": RELAXED})
def _exp_of_type(x):
    if x != types.float32:
        return lambda x: math.exp(x)

    f = np.float32
    log2e, half = f(1.4426950408889634), f(0.5)
    ln2_high, ln2_low = f(0.693359375), f(-2.12194440e-4)  # ln 2 as the sum of two numbers, the first of which is exact
    # Minimax polynomial of the Cephes library for (exp(r) - 1 - r) / r² on |r| ≤ ln(2)/2
    p0, p1, p2 = f(1.9875691500e-4), f(1.3981999507e-3), f(8.3334519073e-3)
    p3, p4, p5 = f(4.1665795894e-2), f(1.6666665459e-1), f(5.0000001201e-1)

    def exp32(x):
        k = np.floor(x * log2e + half)
        r = x - k * ln2_high
        r = r - k * ln2_low
        p = ((((p0 * r + p1) * r + p2) * r + p3) * r + p4) * r + p5
        return (p * r * r + r + f(1)) * power_of_two(np.int32(k))

    return exp32
