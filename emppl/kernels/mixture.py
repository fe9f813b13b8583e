"""The one pass over the data: log joint by member and configuration, log-sum-exp, expected statistics.

The same pass twice: in numpy, with no compiler to wait for, and as a loop that numba compiles (`kernels.compiled`).
Members go through in blocks of fixed size, each with sums of its own that are added up in order: the result does not
depend on how many threads share the blocks.
"""

from __future__ import annotations

from contextlib import nullcontext
from math import isfinite
from typing import Any, NamedTuple

import numpy as np

from emppl.kernels.features import Features
from emppl.kernels.threads import one_blas_thread, pool, scratch

LOWEST = -1e200  # stands for minus infinity, so that differences of two of them are not nan
COMPILED_NUMBERS = 1 << 15  # numbers in the columns of a block of the compiled loop: 256 KiB, and as many to read them
SAFE = 1e-150  # sums of densities with room below them for every share that counts beside them
PAYS = 2e6  # multiplications in a pass, from which on compiled code saves more than its making costs
MOST_CHUNKS = 512  # sums that are kept apart
SHARES = 4  # parts of the work that a thread takes one after the other
THREADED = 1 << 14  # members below which threads cost more than they save
NONE_1, NONE_2, NO_BARS = np.zeros(0), np.zeros((0, 0)), np.zeros((0, 0), dtype=bool)


class MixturePass(NamedTuple):
    """What one pass returns. J configurations, F statistics, C members."""

    log_likelihood: float  # sum over members of weight × log-sum-exp (its largest term when `hard`)
    statistics: np.ndarray  # [J, F]
    counts: np.ndarray  # [J], expected number of members in each configuration
    responsibilities: np.ndarray | None  # [C, J]
    by_member: np.ndarray | None  # [C], log-likelihood of each member, unweighted


def pays(features: Features, n_values: int) -> bool:
    """Whether passes over these members are worth compiled code: a few tens of them take as long as loading it."""
    return features.n * n_values * (2 * features.distinct.n + 20) > PAYS


def mixture(
    features: Features | np.ndarray,
    eta: np.ndarray,
    base: np.ndarray | None = None,
    *,
    table: np.ndarray | None = None,
    mask: np.ndarray | None = None,
    weights: np.ndarray | None = None,
    hard: bool = False,
    keep: bool = False,
    compiled: bool = False,
    workers: int = 1,
) -> MixturePass:
    """E-step of independent members in natural form.

    Shapes: features [C, F], eta [J, F], base [C] (None: zeros), table [C, J] (log densities that have no natural form),
    mask [C, J] (False where a configuration is ruled out), weights [C]. Natural logarithms. `hard` gives each member
    wholly to its best configuration. `keep` returns responsibilities and the log-likelihood by member. `compiled` runs
    numba's loop in place of numpy's, on `workers` threads, where neither table, mask nor keep is asked for.
    Cost: O(C J F) time, O(block) memory unless `keep`. A member that no configuration explains gives -inf.
    """
    features = Features.of(features)
    if table is None and mask is None and not compiled and features.small is not None and isfinite(eta.sum()):
        return _small(features, eta, base, weights, hard, keep)
    n, n_values = features.n, len(eta)
    const, reduced, barred = _prepared(features, eta)
    if not (np.isfinite(const).all() and np.isfinite(reduced).all()):
        return _not_a_number(features, n_values, keep)
    kept = np.empty((n_values, n)) if keep else None
    member = np.empty(n) if keep else None
    if compiled and table is None and mask is None and not keep:
        done = _compiled(features, const, reduced, barred, weights, hard, workers if n >= THREADED else 1)
    else:

        def one(rows: slice) -> tuple[float, np.ndarray, np.ndarray]:
            return _numpy(
                features, rows, const, reduced, barred, _extra(table, mask, rows),
                None if weights is None else weights[rows], hard,
                None if kept is None else kept[:, rows], None if member is None else member[rows],
            )  # fmt: skip

        parts = features.blocks()
        with one_blas_thread() if len(parts) > 1 else nullcontext():
            done = [one(rows) for rows in parts]
    if not done:
        done = [(0.0, np.zeros((n_values, features.distinct.n)), np.zeros(n_values))]
    total = sum(value for value, _, _ in done)
    statistics, counts = done[0][1], done[0][2]
    if len(done) > 1:
        statistics, counts = np.sum([s for _, s, _ in done], axis=0), np.sum([c for _, _, c in done], axis=0)
    if base is not None:
        total += float(base.sum() if weights is None else base @ weights)
        if member is not None:
            member += base
    return MixturePass(
        float(total), features.full(statistics, counts), counts, None if kept is None else kept.T, member
    )


def _small(
    features: Features, eta: np.ndarray, base: np.ndarray | None, weights: np.ndarray | None, hard: bool, keep: bool
) -> MixturePass:
    """The pass over few members, where each call counts."""
    small = features.small
    assert small is not None
    t, ones = small
    room = np.empty((len(eta) + 1, features.n)) if keep else scratch(len(eta) + 1, features.n)
    posterior = np.matmul(eta, t, out=room[:-1])
    value = None if hard else _shares_as_they_are(posterior, room[-1])
    if value is None:
        posterior, value, _ = _shares(np.matmul(eta, t, out=room[:-1]), hard)
    if base is not None:
        value = value + base
    if weights is None:
        weighted, total = posterior, np.add.reduce(value)
    else:
        weighted, total = posterior * weights, value @ weights
    statistics = weighted @ t.T
    counts = weighted.sum(axis=1) if ones is None else statistics[:, ones].copy()
    return MixturePass(float(total), statistics, counts, posterior.T if keep else None, value if keep else None)


def _shares_as_they_are(joint: np.ndarray, scale: np.ndarray) -> np.ndarray | None:
    """As `_shares`, without its search for the largest: the log-sum-exp by member, joint [J, C] overwritten.

    None where a density is too small or too large for a number, which a member far from all components can have; what
    is lost beside SAFE is no share.
    """
    with np.errstate(over="ignore", under="ignore"):
        np.exp(joint, joint)
        np.add.reduce(joint, 0, out=scale)
    if not (np.minimum.reduce(scale, initial=1.0) > SAFE and np.maximum.reduce(scale, initial=1.0) < 1.0 / SAFE):
        return None
    value = np.log(scale)
    np.reciprocal(scale, scale)
    np.multiply(joint, scale, joint)
    return value


def shares_of_few(small: tuple[np.ndarray, int | None], eta: Any, weights: np.ndarray | None) -> tuple[Any, Any, Any]:
    """The same pass for traced eta: log-likelihood, statistics and counts, as in `MixturePass`."""
    t, ones = small
    density = np.exp(np.matmul(eta, t))
    scale = density.sum(axis=0)
    value, weight = np.log(scale), 1.0 / scale  # not finite, and so handed over, where shares would lose digits
    if weights is not None:
        value, weight = value * weights, weight * weights
    weighted = density * weight
    statistics = np.matmul(weighted, t.T)
    return value.sum(), statistics, weighted.sum(axis=1) if ones is None else statistics[:, ones]


def log_joint(
    features: Features | np.ndarray,
    eta: np.ndarray,
    *,
    table: np.ndarray | None = None,
    mask: np.ndarray | None = None,
) -> np.ndarray:
    """Log joint [C, J] of members and configurations without its base; shapes as in `mixture`. At least LOWEST."""
    features = Features.of(features)
    const, reduced, barred = _prepared(features, eta)
    answer = np.empty((features.n, len(eta)))
    for rows in features.blocks():
        answer[rows] = _joint(features.block(rows), const, reduced, barred, _extra(table, mask, rows)).T
    return np.maximum(answer, LOWEST)


def _prepared(features: Features, eta: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """eta by distinct statistics: constant [J], [J, F], and what is barred where a statistic is not zero, [J, F].

    A log of zero is harmless where the count is zero, impossible elsewhere.
    """
    dead = np.isneginf(eta)
    if not dead.any():
        return *features.reduce(eta), None
    const, reduced = features.reduce(np.where(dead, 0.0, eta))
    dead_const, dead_reduced = features.reduce(dead.astype(float))
    barred = dead_reduced > 0
    return np.where(dead_const > 0, LOWEST, const), reduced, barred if barred.any() else None


def _extra(table: np.ndarray | None, mask: np.ndarray | None, rows: slice) -> np.ndarray | None:
    """Log densities [J, rows] beside those in natural form."""
    if table is None and mask is None:
        return None
    if table is None:
        assert mask is not None
        return np.where(mask[rows].T, 0.0, LOWEST)
    extra = np.maximum(table[rows].T, LOWEST)
    return extra if mask is None else np.where(mask[rows].T, extra, LOWEST)


def _joint(
    t: np.ndarray, const: np.ndarray, eta: np.ndarray, barred: np.ndarray | None, extra: np.ndarray | None
) -> np.ndarray:
    joint = eta @ t
    joint += const[:, None]
    if barred is not None:
        joint[(barred.astype(float) @ (t != 0)) > 0] = LOWEST
    if extra is not None:
        joint += extra
    return joint


def _shares(joint: np.ndarray, hard: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Responsibilities [J, C] of a log joint, which is overwritten; by member its log-sum-exp and its largest, [C]."""
    peak = joint.max(axis=0)
    if hard:
        return (np.arange(len(joint))[:, None] == joint.argmax(axis=0)).astype(float), peak.copy(), peak
    joint -= peak
    np.exp(joint, joint)
    scale = joint.sum(axis=0)
    joint *= 1.0 / scale
    return joint, peak + np.log(scale), peak


def _numpy(
    features: Features, rows: slice, const: np.ndarray, eta: np.ndarray, barred: Any, extra: Any, weights: Any,
    hard: bool, kept: Any, member: Any,
) -> tuple[float, np.ndarray, np.ndarray]:  # fmt: skip
    t = features.block(rows)
    posterior, value, peak = _shares(_joint(t, const, eta, barred, extra), hard)
    if peak.min(initial=0.0) <= 0.5 * LOWEST:
        value[peak <= 0.5 * LOWEST] = -np.inf
    if kept is not None:
        kept[:], member[:] = posterior, value
    if weights is not None:
        value = np.where(weights > 0, value, 0.0) * weights
        posterior = posterior * weights
    return float(value.sum()), posterior @ t.T, posterior.sum(axis=1)


def _compiled(
    features: Features, const: np.ndarray, eta: np.ndarray, barred: Any, weights: Any, hard: bool, workers: int
) -> list[tuple[float, np.ndarray, np.ndarray]]:
    """The pass as numba's loop, chunk by chunk; threads share the chunks, each of which has sums of its own."""
    from emppl.kernels.compiled import run_rows

    n, d, distinct = features.n, features.n_columns, features.distinct
    chunk = max(COMPILED_NUMBERS // max(d, 1), -(-n // MOST_CHUNKS))
    n_chunks = -(-n // chunk)
    sums = features.sums_of(eta) if barred is None else None
    place, ratio, wanted = (np.arange(len(distinct.left)), np.ones(len(distinct.left)), eta) if sums is None else sums
    totals, counts = np.zeros(n_chunks), np.zeros((n_chunks, len(eta)))
    statistics = np.zeros((n_chunks, *wanted.shape))
    own = NONE_1 if weights is None else np.ascontiguousarray(weights, dtype=float)
    fixed = (
        distinct.single, distinct.left, distinct.right, place, ratio, np.ascontiguousarray(wanted),
        np.ascontiguousarray(const), NO_BARS if barred is None else barred,
    )  # fmt: skip
    lying = _lying(features)
    workers = max(1, min(workers, n_chunks))
    at_once = max(1, n_chunks // (SHARES * workers))
    todo = iter(range(0, n_chunks, at_once))  # a thread that finds its core busy takes fewer of them

    def share() -> None:
        for first in todo:
            last = min(first + at_once, n_chunks)
            if lying is not None:
                run_rows(*lying, chunk, first, last, *fixed, own, hard, totals, statistics, counts)
                continue
            for c in range(first, last):
                rows = slice(c * chunk, min((c + 1) * chunk, n))
                here = slice(c, c + 1)
                run_rows(
                    features.columns(rows).T, np.zeros(d), NONE_1, NONE_2, chunk, 0, 1, *fixed, own[rows], hard,
                    totals[here], statistics[here], counts[here],
                )  # fmt: skip

    others = [pool(workers - 1).submit(share) for _ in range(workers - 1)] if workers > 1 else []
    try:
        share()
    finally:
        for other in others:
            other.result()
    if sums is not None:
        statistics = features.apart(statistics)
    return list(zip(totals.tolist(), statistics, counts))


def _lying(features: Features) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray] | None:
    """(rows, centre, scale, whiten) where the compiled loop can read the data as they lie; else blocks are made."""
    if len(features.sources) != 1:
        return None
    array, row_of, centre, whiten = features.sources[0]
    if row_of is not None or array.dtype != np.float64 or not (array.dtype.isnative and array.flags.aligned):
        return None
    scale, matrix = (whiten, None) if whiten is not None and whiten.ndim == 1 else (None, whiten)
    return (
        np.asarray(array), np.zeros(array.shape[1]) if centre is None else np.array(centre, dtype=float),
        NONE_1 if scale is None else np.array(scale, dtype=float),
        NONE_2 if matrix is None else np.array(matrix, dtype=float, order="C"),
    )  # fmt: skip


def _not_a_number(features: Features, n_values: int, keep: bool) -> MixturePass:
    """Parameters that are no numbers, or infinite: nothing is hidden, and nothing is computed with them."""
    n, width = features.shape
    return MixturePass(
        np.nan, np.full((n_values, width), np.nan), np.full(n_values, np.nan),
        np.full((n, n_values), np.nan) if keep else None, np.full(n, np.nan) if keep else None,
    )  # fmt: skip
