"""The decorator of all compiled kernels, and arithmetic functions that LLVM can vectorise."""

import math

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic, overload

# Allow reordering of sums and assume that there is no NaN (checked by `_copy`). Otherwise LLVM does not vectorise.
RELAXED = {"nnan", "nsz", "arcp", "contract", "reassoc"}
LOG2E = 1.4426950408889634
FLOOR = -127.0  # 2**x is 0 there; classes this far below the maximum contribute nothing
MAGIC = 12582912.0 + 127  # 1.5 · 2²³ + 127: a float32 of this size has no fraction, so that adding MAGIC rounds


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
def fma(typingctx, a, b, c):
    """a·b + c, rounded once. LLVM does not contract a product that is used twice."""

    def generate(context, builder, signature, arguments):
        return builder.fma(*arguments)

    return a(a, a, a), generate


@intrinsic
def power_of_two(typingctx, k):
    """2**k as float32 from k + MAGIC, with k in -126 … 127, by setting the exponent bits; 0 for k = -127."""

    def generate(context, builder, signature, arguments):
        i32 = ir.IntType(32)
        bits = builder.shl(builder.bitcast(arguments[0], i32), ir.Constant(i32, 23))
        return builder.bitcast(bits, ir.FloatType())

    return types.float32(types.float32), generate


@intrinsic
def prefetch(typingctx, array, index):
    """Start loading array[index] into the first-level cache."""

    def generate(context, builder, signature, arguments):
        pointer = builder.gep(context.make_array(array)(context, builder, arguments[0]).data, [arguments[1]])
        options = [ir.Constant(ir.IntType(32), option) for option in (0, 3, 1)]  # read, keep in all caches, data
        signature = ir.FunctionType(ir.VoidType(), [pointer.type, *(option.type for option in options)])
        builder.call(builder.module.declare_intrinsic("llvm.prefetch", [pointer.type], signature), [pointer, *options])
        return context.get_dummy_value()

    return types.void(array, types.intp), generate


def exp2(a, b):
    """2**(a·b) for FLOOR ≤ a·b ≤ 0, and 0 at FLOOR."""


@overload(exp2, jit_options={"fastmath": RELAXED - {"reassoc"}})
def _exp2_of_type(a, b):
    if a != types.float32:
        return lambda a, b: math.exp(a * b / LOG2E) if a * b > FLOOR + 0.5 else 0.0

    f = np.float32
    magic, one = f(MAGIC), f(1)
    # Minimax polynomial for (2^r - 1) / r on |r| ≤ 1/2, with a relative error of 2e-9 in 2^r
    p1, p2, p3 = f(6.9314720e-1), f(2.4022648e-1), f(5.5503325e-2)
    p4, p5, p6 = f(9.6184374e-3), f(1.3398874e-3), f(1.5353362e-4)

    def exp32(a, b):
        rounded = fma(a, b, magic)
        r = fma(a, b, magic - rounded)
        s = r * r
        p = (p6 * s + (p5 * r + p4)) * (s * s) + ((p3 * r + p2) * s + (p1 * r + one))  # short chains of operations
        return p * power_of_two(rounded)

    return exp32
