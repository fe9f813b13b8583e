"""The pass over a block of members as a loop that numba compiles; its numpy twin is `kernels.mixture`.

Importing this module takes a second, and its first use on a machine some seconds: `kernels.mixture` does it where the
work pays for it. The compiled code is kept beside the module, or in the user's cache where that cannot be written to.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit, types

ROWS = 256  # rows that stay in a core's first cache from their statistics to the sums over them
SMALL = 64  # numbers in eta up to which plain loops beat a matrix product
LONG = 2048  # and numbers in the sums up to which they do
LOWEST = -1e200  # stands for minus infinity, so that differences of two of them are not nan
# Sums may be reordered and products fused, but infinities and nan keep their meaning.
FAST = {"contract", "reassoc", "nsz", "arcp"}

# exp(v) = 2^k exp(r), |r| <= log(2) / 2: k by rounding, exp(r) by its series, 2^k by writing k + 1023 into the exponent
# of a number, so that what lies below the smallest normal number is 0.
LOG2_E, LN2_HIGH, LN2_LOW = 1.4426950408889634, 6.93147180369123816490e-01, 1.90821492927058770002e-10
LOWEST_EXPONENT = -745.2

ONE, TWO, THREE = types.float64[::1], types.float64[:, ::1], types.float64[:, :, ::1]
PLACES, FLAGS = types.int64[::1], types.boolean[:, ::1]
RUN_ROWS = types.void(  # of the data alone any strides are taken, and that they may not be written to
    types.Array(types.float64, 2, "A", readonly=True), ONE, TWO, types.int64, types.int64, types.int64, PLACES, PLACES,
    PLACES, TWO, ONE, FLAGS, ONE, types.boolean, ONE, THREE, TWO,
)  # fmt: skip


def _jit(signature: Any = None, **options: Any) -> Callable:
    """`njit` with the code kept on disk, where some folder can be written to."""

    def decorate(function: Callable) -> Any:
        try:
            return njit(signature, nogil=True, cache=True, **options)(function)
        except RuntimeError:  # no folder for the cache
            return njit(signature, nogil=True, **options)(function)

    return decorate


@_jit(fastmath=FAST)
def _statistics(z: Any, n: int, single: Any, left: Any, right: Any, t: Any) -> None:
    """Fill t [F, n] with columns and products of columns of z [D, n]."""
    for f in range(len(single)):
        out, column = t[f], z[single[f]]
        for b in range(n):
            out[b] = column[b]
    for f in range(len(left)):
        out, one, two = t[len(single) + f], z[left[f]], z[right[f]]
        for b in range(n):
            out[b] = one[b] * two[b]


@_jit(fastmath=FAST)
def _log_joint(t: Any, n: int, eta: Any, const: Any, joint: Any) -> None:
    """joint [J, n] = const + eta t, four statistics at a time."""
    width = eta.shape[1]
    for j in range(len(const)):
        for b in range(n):
            joint[j, b] = const[j]
        f = 0
        while f + 4 <= width:
            e0, e1, e2, e3 = eta[j, f], eta[j, f + 1], eta[j, f + 2], eta[j, f + 3]
            for b in range(n):
                joint[j, b] += (e0 * t[f, b] + e1 * t[f + 1, b]) + (e2 * t[f + 2, b] + e3 * t[f + 3, b])
            f += 4
        while f < width:
            e0 = eta[j, f]
            for b in range(n):
                joint[j, b] += e0 * t[f, b]
            f += 1


@_jit(fastmath=FAST)
def _softmax(joint: Any, n: int, peak: Any, scale: Any, bits: Any, power: Any) -> None:
    """joint becomes responsibilities; peak their largest log joint, scale the sum of exp(joint - peak).

    bits and power are one array, as whole numbers and as the floating-point numbers that have these bits.
    """
    for b in range(n):
        peak[b] = joint[0, b]
        scale[b] = 0.0
    for j in range(1, len(joint)):
        for b in range(n):
            peak[b] = max(peak[b], joint[j, b])
    for j in range(len(joint)):
        row = joint[j]
        for b in range(n):
            v = max(row[b] - peak[b], LOWEST_EXPONENT)
            k = np.rint(v * LOG2_E)
            r = (v - k * LN2_HIGH) - k * LN2_LOW
            p = 2.08767569878681e-9
            p = p * r + 2.505210838544172e-8
            p = p * r + 2.755731922398589e-7
            p = p * r + 2.7557319223985893e-6
            p = p * r + 2.48015873015873e-5
            p = p * r + 1.984126984126984e-4
            p = p * r + 1.3888888888888889e-3
            p = p * r + 8.333333333333333e-3
            p = p * r + 4.1666666666666664e-2
            p = p * r + 1.6666666666666666e-1
            p = p * r + 0.5
            p = p * r + 1.0
            p = p * r + 1.0
            row[b] = p
            bits[b] = np.int64(max(k, -1023.0) + 1023.0) << 52
        for b in range(n):
            e = row[b] * power[b]
            row[b] = e
            scale[b] += e
    for b in range(n):
        peak[b] = peak[b] if peak[b] > 0.5 * LOWEST else -np.inf
        power[b] = 1.0 / scale[b]
    for j in range(len(joint)):
        row = joint[j]
        for b in range(n):
            row[b] *= power[b]


@_jit(fastmath=FAST)
def _best(joint: Any, n: int, peak: Any, scale: Any) -> None:
    """The same where each member belongs wholly to its best configuration, the first of equals."""
    for b in range(n):
        best = 0
        for j in range(1, len(joint)):
            if joint[j, b] > joint[best, b]:
                best = j
        peak[b] = joint[best, b] if joint[best, b] > 0.5 * LOWEST else -np.inf
        scale[b] = 1.0
        for j in range(len(joint)):
            joint[j, b] = 1.0 if j == best else 0.0


@_jit(fastmath=FAST)
def _sums(r: Any, t: Any, n: int, statistics: Any, counts: Any) -> None:
    """statistics += r tᵀ and counts += sums of r, over n rows; four configurations × two statistics at a time."""
    size, width = statistics.shape
    for j in range(size):
        total = 0.0
        for b in range(n):
            total += r[j, b]
        counts[j] += total
    f = 0
    while f + 2 <= width:
        j = 0
        while j + 4 <= size:
            s0, s1, s2, s3, u0, u1, u2, u3 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
            for b in range(n):
                one, two = t[f, b], t[f + 1, b]
                s0 += r[j, b] * one
                s1 += r[j + 1, b] * one
                s2 += r[j + 2, b] * one
                s3 += r[j + 3, b] * one
                u0 += r[j, b] * two
                u1 += r[j + 1, b] * two
                u2 += r[j + 2, b] * two
                u3 += r[j + 3, b] * two
            statistics[j, f] += s0
            statistics[j + 1, f] += s1
            statistics[j + 2, f] += s2
            statistics[j + 3, f] += s3
            statistics[j, f + 1] += u0
            statistics[j + 1, f + 1] += u1
            statistics[j + 2, f + 1] += u2
            statistics[j + 3, f + 1] += u3
            j += 4
        while j < size:
            s0, u0 = 0.0, 0.0
            for b in range(n):
                s0 += r[j, b] * t[f, b]
                u0 += r[j, b] * t[f + 1, b]
            statistics[j, f] += s0
            statistics[j, f + 1] += u0
            j += 1
        f += 2
    while f < width:
        for j in range(size):
            s0 = 0.0
            for b in range(n):
                s0 += r[j, b] * t[f, b]
            statistics[j, f] += s0
        f += 1


@_jit(fastmath=FAST)
def _log_sum(peak: Any, scale: Any, n: int) -> float:
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


@_jit()
def _scratch(n_columns: int, width: int, size: int) -> Any:
    """What a block of ROWS members needs: columns, statistics, log joint and its product, sums, and four rows."""
    product = np.zeros((size, ROWS)) if size * width > SMALL else np.zeros((0, 0))
    sums = np.zeros((size, width)) if size * width > LONG else np.zeros((0, 0))
    bits = np.zeros(ROWS, np.int64)
    return (
        np.zeros((n_columns, ROWS)), np.zeros((width, ROWS)), np.zeros((size, ROWS)), product, sums,
        np.zeros(ROWS), np.ones(ROWS), bits, bits.view(np.float64),
    )  # fmt: skip


@_jit()
def _block(
    n: int, scratch: Any, single: Any, left: Any, right: Any, eta: Any, const: Any, barred: Any, weights: Any,
    hard: bool, statistics: Any, counts: Any,
) -> float:  # fmt: skip
    """The pass over the n members whose columns stand in the scratch: adds to the sums, returns the log-likelihood."""
    z, t, joint, product, sums, peak, scale, bits, power = scratch
    size, width = eta.shape
    _statistics(z, n, single, left, right, t)
    if product.size:
        np.dot(eta, t, product)
        for j in range(size):
            for b in range(n):
                joint[j, b] = product[j, b] + const[j]
    else:
        _log_joint(t, n, eta, const, joint)
    if barred.size:
        for j in range(size):
            for f in range(width):
                if barred[j, f]:
                    for b in range(n):
                        if t[f, b] != 0.0:
                            joint[j, b] = LOWEST
    if hard:
        _best(joint, n, peak, scale)
    else:
        _softmax(joint, n, peak, scale, bits, power)
    total = 0.0
    if weights.size:
        for b in range(n):
            w = weights[b]
            if w > 0.0:
                total += w * (peak[b] + np.log(scale[b]))
            for j in range(size):
                joint[j, b] *= w
    else:
        total = _log_sum(peak, scale, n)
    if sums.size:
        for j in range(size):
            for b in range(n, ROWS):
                joint[j, b] = 0.0
            for b in range(n):
                counts[j] += joint[j, b]
        np.dot(joint, t.T, sums)
        for j in range(size):
            for f in range(width):
                statistics[j, f] += sums[j, f]
    else:
        _sums(joint, t, n, statistics, counts)
    return total


@_jit(signature=RUN_ROWS)
def run_rows(
    rows: Any, centre: Any, whiten: Any, chunk: int, first: int, last: int, single: Any, left: Any, right: Any,
    eta: Any, const: Any, barred: Any, weights: Any, hard: bool, totals: Any, statistics: Any, counts: Any,
) -> None:  # fmt: skip
    """The pass over chunks `first` to `last` (not included) of members, read as they lie: rows [C, D], any strides.

    Columns are whiten (row - centre), whiten [D, D] or without elements: row - centre. single, left, right: the
    statistics F as columns and products of two; eta [J, F]; const [J]; barred [J, F]: configurations that a statistic
    other than zero rules out; weights [C]. What is not wanted has no elements. Each chunk has
    log-likelihood, statistics and counts of its own: totals [chunks], statistics [chunks, J, F], counts [chunks, J].
    """
    d = rows.shape[1]
    scratch = _scratch(d, eta.shape[1], len(eta))
    z, centred = scratch[0], np.zeros((d, ROWS))
    for c in range(first, last):
        stop = min((c + 1) * chunk, len(rows))
        for start in range(c * chunk, stop, ROWS):
            n = min(ROWS, stop - start)
            for e in range(d):
                out, column, middle = centred[e], rows[start : start + n, e], centre[e]
                for b in range(n):
                    out[b] = column[b] - middle
            if whiten.size:
                np.dot(whiten, centred, z)
            else:
                for e in range(d):
                    for b in range(n):
                        z[e, b] = centred[e, b]
            own = weights[start : start + n]
            totals[c] += _block(
                n, scratch, single, left, right, eta, const, barred, own, hard, statistics[c], counts[c]
            )


@_jit()
def marginal(eta: Any, z: Any, single: Any, left: Any, right: Any, position: Any, weights: Any) -> tuple[Any, Any]:
    """(log-likelihood, expected statistics [J, F]) of all members in one thread, for a sampler.

    eta [J, F] by the statistics that were asked for, position [F] the distinct one that each of them is (-1: the
    number 1), z [D, C] columns; the others as in `run_rows`.
    """
    size, width = eta.shape
    const, reduced = np.zeros(size), np.zeros((size, len(single) + len(left)))
    barred, any_barred = np.zeros(reduced.shape, np.bool_), False
    sound = True
    for j in range(size):
        never = False
        for f in range(width):
            value, place = eta[j, f], position[f]
            if value == -np.inf:
                if place < 0:
                    never = True
                else:
                    barred[j, place] = any_barred = True
            elif not np.isfinite(value):
                sound = False
            elif place < 0:
                const[j] += value
            else:
                reduced[j, place] += value
        if never:
            const[j] = LOWEST
    full = np.zeros((size, width))
    if not sound:
        return np.asarray(-np.inf), full
    totals, counts, statistics = np.zeros(1), np.zeros((1, size)), np.zeros((1, *reduced.shape))
    bars = barred if any_barred else np.zeros((0, 0), np.bool_)
    run_rows(
        z.T, np.zeros(len(z)), np.zeros((0, 0)), z.shape[1], 0, 1, single, left, right, reduced, const, bars, weights,
        False, totals, statistics, counts,
    )  # fmt: skip
    for j in range(size):
        for f in range(width):
            full[j, f] = counts[0, j] if position[f] < 0 else statistics[0, j, position[f]]
    return np.asarray(totals[0]), full
