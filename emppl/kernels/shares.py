"""Responsibilities from log joints, as loops that numba compiles: exponentials of many numbers at once."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.extending import intrinsic

from emppl.kernels.caching import jit

LOWEST = -1e200  # stands for minus infinity, so that differences of two of them are not nan
# Sums may be reordered and products fused, but infinities and nan keep their meaning.
FAST = {"contract", "reassoc", "nsz", "arcp"}
IN_ORDER = {"contract", "nsz", "arcp"}  # what rounds by adding and taking away a large number must not be reordered

# exp(v) = 2^k exp(r), |r| <= log(2) / 2. Adding TO_WHOLE rounds to a whole number, k, whose bits then stand last in the
# sum; added to the exponent of exp(r) they multiply it by 2^k. exp(r) is its Chebyshev series, written in powers of r:
# relative error 2e-16. Below LOWEST_EXPONENT the result is 0.
TO_WHOLE = 1.5 * 2.0**52
LOG2_E, LN2, LOWEST_EXPONENT = 1.4426950408889634, 0.6931471805599453, -708.0
E0, E1, E2, E3, E4, E5 = (
    1.0, 1.0000000000000067, 0.5000000000000019, 0.16666666666554303, 0.04166666666648794, 0.008333333385702748,
)  # fmt: skip
E6, E7, E8, E9, E10 = (
    0.0013888888952356135, 0.00019841170226646184, 2.480148543844738e-05, 2.7640198843428347e-06, 2.763265575933203e-07,
)  # fmt: skip


@intrinsic
def _bits(_: Any, number: Any) -> Any:
    """The bits of a floating-point number as a whole number."""
    return types.int64(number), _same_bits


@intrinsic
def _number(_: Any, bits: Any) -> Any:
    """The floating-point number that has these bits."""
    return types.float64(bits), _same_bits


def _same_bits(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    return builder.bitcast(arguments[0], context.get_value_type(signature.return_type))


@jit(fastmath=IN_ORDER)
def softmax(joint: Any, n: int, peak: Any, scale: Any, inverse: Any) -> None:
    """joint becomes responsibilities; peak their largest log joint, scale the sum of exp(joint - peak)."""
    for b in range(n):
        peak[b] = joint[0, b]
        scale[b] = 0.0
    for j in range(1, len(joint)):
        for b in range(n):
            peak[b] = max(peak[b], joint[j, b])
    for j in range(len(joint)):
        row = joint[j]
        for b in range(n):
            v = row[b] - peak[b]
            whole = v * LOG2_E + TO_WHOLE
            r = v - (whole - TO_WHOLE) * LN2
            p = E10 * r + E9
            p = p * r + E8
            p = p * r + E7
            p = p * r + E6
            p = p * r + E5
            p = p * r + E4
            p = p * r + E3
            p = p * r + E2
            p = p * r + E1
            p = p * r + E0
            e = _number(_bits(p) + (_bits(whole) << 52))
            e = e if v > LOWEST_EXPONENT else 0.0
            row[b] = e
            scale[b] += e
    for b in range(n):
        peak[b] = peak[b] if peak[b] > 0.5 * LOWEST else -np.inf
        inverse[b] = 1.0 / scale[b]
    for j in range(len(joint)):
        row = joint[j]
        for b in range(n):
            row[b] *= inverse[b]


@jit(fastmath=FAST)
def log_sum(peak: Any, scale: Any, n: int) -> float:
    """Sum of peak + log(scale): scales lie between 1 and J, so products of sixteen need one logarithm."""
    total, b = 0.0, 0
    while b + 16 <= n:
        product = 1.0
        for i in range(16):
            total += peak[b + i]
            product *= scale[b + i]
        total += np.log(product)
        b += 16
    product = 1.0
    for i in range(b, n):
        total += peak[i]
        product *= scale[i]
    return total + np.log(product)
