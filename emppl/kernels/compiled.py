"""The pass over a block of members as a loop that numba compiles; its numpy twin is `kernels.mixture`.

Importing this module takes a second, and its first use on a machine some seconds: `kernels.mixture` does it where the
work pays for it. The compiled code is kept beside the module, or in the user's cache where that cannot be written to.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types

from emppl.kernels.caching import jit
from emppl.kernels.shares import FAST, LOWEST, log_sum, softmax

ROWS = 256  # rows that stay in a core's first cache from their statistics to the sums over them


def _read(number: Any, ndim: int, layout: str = "C") -> Any:
    """The type of an array that is only read: one that may be written to is taken for it, the reverse is refused."""
    return types.Array(number, ndim, layout, readonly=True)


ONE, TWO, PLACES, FLAGS = (
    _read(types.float64, 1), _read(types.float64, 2), _read(types.int64, 1), _read(types.boolean, 2),
)  # fmt: skip
RUN_ROWS = types.void(  # of the data alone any strides are taken; what is written to comes last
    _read(types.float64, 2, "A"), ONE, ONE, TWO, types.int64, types.int64, types.int64, PLACES, PLACES, PLACES, PLACES,
    ONE, TWO, ONE, FLAGS, ONE, types.boolean, types.float64[::1], types.float64[:, :, ::1], types.float64[:, ::1],
)  # fmt: skip


@jit(fastmath=FAST)
def _statistics(z: Any, n: int, single: Any, left: Any, right: Any, place: Any, ratio: Any, t: Any) -> None:
    """Fill t [F, n] with columns of z [D, n], then sums of ratio × products of two; place says which sum, in order."""
    for f in range(len(single)):
        out, column = t[f], z[single[f]]
        for b in range(n):
            out[b] = column[b]
    for f in range(len(left)):
        out, one, two, times = t[len(single) + place[f]], z[left[f]], z[right[f]], ratio[f]
        if f and place[f] == place[f - 1]:
            for b in range(n):
                out[b] += times * one[b] * two[b]
        elif times == 1.0:
            for b in range(n):
                out[b] = one[b] * two[b]
        else:
            for b in range(n):
                out[b] = times * one[b] * two[b]


@jit(fastmath=FAST)
def _combined(t: Any, n: int, eta: Any, const: Any, joint: Any) -> None:
    """joint [J, n] = const + eta t, four rows × four statistics at a time: each number read serves sixteen products."""
    size, width = eta.shape
    for j in range(size):
        for b in range(n):
            joint[j, b] = const[j]
    j = 0
    while j + 4 <= size:
        o0, o1, o2, o3 = joint[j], joint[j + 1], joint[j + 2], joint[j + 3]
        f = 0
        while f + 4 <= width:
            e00, e01, e02, e03 = eta[j, f], eta[j, f + 1], eta[j, f + 2], eta[j, f + 3]
            e10, e11, e12, e13 = eta[j + 1, f], eta[j + 1, f + 1], eta[j + 1, f + 2], eta[j + 1, f + 3]
            e20, e21, e22, e23 = eta[j + 2, f], eta[j + 2, f + 1], eta[j + 2, f + 2], eta[j + 2, f + 3]
            e30, e31, e32, e33 = eta[j + 3, f], eta[j + 3, f + 1], eta[j + 3, f + 2], eta[j + 3, f + 3]
            t0, t1, t2, t3 = t[f], t[f + 1], t[f + 2], t[f + 3]
            for b in range(n):
                x0, x1, x2, x3 = t0[b], t1[b], t2[b], t3[b]
                o0[b] += (e00 * x0 + e01 * x1) + (e02 * x2 + e03 * x3)
                o1[b] += (e10 * x0 + e11 * x1) + (e12 * x2 + e13 * x3)
                o2[b] += (e20 * x0 + e21 * x1) + (e22 * x2 + e23 * x3)
                o3[b] += (e30 * x0 + e31 * x1) + (e32 * x2 + e33 * x3)
            f += 4
        while f < width:
            e00, e10, e20, e30 = eta[j, f], eta[j + 1, f], eta[j + 2, f], eta[j + 3, f]
            t0 = t[f]
            for b in range(n):
                x0 = t0[b]
                o0[b] += e00 * x0
                o1[b] += e10 * x0
                o2[b] += e20 * x0
                o3[b] += e30 * x0
            f += 1
        j += 4
    while j < size:
        o0 = joint[j]
        f = 0
        while f + 4 <= width:
            e00, e01, e02, e03 = eta[j, f], eta[j, f + 1], eta[j, f + 2], eta[j, f + 3]
            t0, t1, t2, t3 = t[f], t[f + 1], t[f + 2], t[f + 3]
            for b in range(n):
                o0[b] += (e00 * t0[b] + e01 * t1[b]) + (e02 * t2[b] + e03 * t3[b])
            f += 4
        while f < width:
            e00, t0 = eta[j, f], t[f]
            for b in range(n):
                o0[b] += e00 * t0[b]
            f += 1
        j += 1


@jit(fastmath=FAST)
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


@jit(fastmath=FAST)
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


@jit()
def _block(
    n: int, z: Any, scratch: Any, single: Any, left: Any, right: Any, place: Any, ratio: Any, eta: Any, const: Any,
    barred: Any, weights: Any, hard: bool, statistics: Any, counts: Any,
) -> float:  # fmt: skip
    """The pass over n members with columns z [D, n]: adds to the sums, returns the log-likelihood."""
    t, joint, peak, scale, inverse = scratch
    size, width = eta.shape
    _statistics(z, n, single, left, right, place, ratio, t)
    _combined(t, n, eta, const, joint)
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
        softmax(joint, n, peak, scale, inverse)
    total = 0.0
    if weights.size:
        for b in range(n):
            w = weights[b]
            if w > 0.0:
                total += w * (peak[b] + np.log(scale[b]))
            for j in range(size):
                joint[j, b] *= w
    else:
        total = log_sum(peak, scale, n)
    _sums(joint, t, n, statistics, counts)
    return total


@jit(fastmath=FAST)
def _framed(rows: Any, n: int, centre: Any, scale: Any, z: Any) -> None:
    """z [D, n] = (rows - centre) / scale; a scale without elements is 1."""
    for e in range(len(centre)):
        out, column, middle = z[e], rows[:, e], centre[e]
        if scale.size:
            divisor = scale[e]
            for b in range(n):
                out[b] = (column[b] - middle) / divisor
        else:
            for b in range(n):
                out[b] = column[b] - middle


@jit(signature=RUN_ROWS)
def run_rows(
    rows: Any, centre: Any, scale: Any, whiten: Any, chunk: int, first: int, last: int, single: Any, left: Any,
    right: Any, place: Any, ratio: Any, eta: Any, const: Any, barred: Any, weights: Any, hard: bool, totals: Any,
    statistics: Any, counts: Any,
) -> None:  # fmt: skip
    """The pass over chunks `first` to `last` (not included) of members, read as they lie: rows [C, D], any strides.

    Columns are whiten ((row - centre) / scale), whiten [D, D], scale [D]. single, left, right, place, ratio: the
    statistics F as columns, then sums of products of two (see `_statistics`); eta [J, F]; const [J]; barred [J, F]:
    configurations that a statistic other than zero rules out; weights [C]. What is not wanted has no elements. Each
    chunk has log-likelihood, statistics and counts of its own: totals [chunks], statistics [chunks, J, F], counts
    [chunks, J].
    """
    d, (size, width) = rows.shape[1], eta.shape
    centred, z, zeros = np.zeros((d, ROWS)), np.zeros((d if whiten.size else 0, ROWS)), np.zeros(d)
    scratch = np.zeros((width, ROWS)), np.zeros((size, ROWS)), np.zeros(ROWS), np.zeros(ROWS), np.zeros(ROWS)
    for c in range(first, last):
        stop = min((c + 1) * chunk, len(rows))
        for start in range(c * chunk, stop, ROWS):
            n = min(ROWS, stop - start)
            _framed(rows[start : start + n], n, centre, scale, centred)
            if whiten.size:
                _combined(centred, n, whiten, zeros, z)
            totals[c] += _block(
                n, z if whiten.size else centred, scratch, single, left, right, place, ratio, eta, const, barred,
                weights[start : start + n], hard, statistics[c], counts[c],
            )  # fmt: skip


@jit()
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
    nothing, none = np.zeros(0), np.zeros((0, 0))
    run_rows(
        z.T, np.zeros(len(z)), nothing, none, z.shape[1], 0, 1, single, left, right, np.arange(len(left)),
        np.ones(len(left)), reduced, const, bars, weights, False, totals, statistics, counts,
    )  # fmt: skip
    for j in range(size):
        for f in range(width):
            full[j, f] = counts[0, j] if position[f] < 0 else statistics[0, j, position[f]]
    return np.asarray(totals[0]), full
