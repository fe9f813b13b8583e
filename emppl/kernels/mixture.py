"""The one pass over the data: log joint by member and configuration, log-sum-exp, expected statistics.

The same pass twice: in numpy, with no compiler to wait for, and as a loop that numba compiles (`kernels.compiled`).
Members go through in blocks of fixed size, each with sums of its own that are added up in order: the result does not
depend on how many threads share the blocks.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from math import isfinite
from typing import Any, NamedTuple

import numpy as np
from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

from emppl.kernels.features import Features, blocks

LOWEST = -1e200  # stands for minus infinity, so that differences of two of them are not nan
COMPILED_NUMBERS = 1 << 15  # numbers in the columns of a block of the compiled loop: 256 KiB, and as many to read them
PAYS = 2e6  # multiplications in a pass, from which on compiled code saves more than its making costs
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


def threads() -> int:
    """Cores that this process may use; one in a forked process, whose siblings use the others."""
    if _FORKED:
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
    numba's loop in place of numpy's, on `workers` threads. Cost: O(C J F) time, O(block) memory unless `keep`. A member
    that no configuration explains gives -inf.
    """
    features = Features.of(features)
    if table is None and mask is None and not compiled and features.small is not None and isfinite(eta.sum()):
        return _small(features.small, eta, base, weights, hard, keep)
    n, n_values = features.n, len(eta)
    const, reduced, barred = _prepared(features, eta)
    if not (np.isfinite(const).all() and np.isfinite(reduced).all()):
        return _not_a_number(features, n_values, keep)
    kept = np.empty((n_values, n)) if keep else None
    member = np.empty(n) if keep else None
    block = _compiled if compiled else _numpy

    def one(rows: slice) -> tuple[float, np.ndarray, np.ndarray]:
        return block(
            features, rows, const, reduced, barred, _extra(table, mask, rows),
            None if weights is None else weights[rows], hard,
            None if kept is None else kept[:, rows], None if member is None else member[rows],
        )  # fmt: skip

    parts = features.blocks()
    if compiled:
        size = COMPILED_NUMBERS // (features.n_columns + (n_values if keep or table is not None else 1))
        parts = blocks(n, max(512, size))
    if compiled and workers > 1 and n >= THREADED:
        with _blas().limit(limits=1):
            done = list(_pool(workers).map(one, parts))
    elif len(parts) > 1:
        with _blas().limit(limits=1):
            done = [one(rows) for rows in parts]
    else:
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
    t: np.ndarray, eta: np.ndarray, base: np.ndarray | None, weights: np.ndarray | None, hard: bool, keep: bool
) -> MixturePass:
    """The pass over few members, where each call counts: t [F, C] as the statistics were asked for."""
    posterior = eta @ t
    peak = posterior.max(axis=0)
    if hard:
        posterior = (np.arange(len(eta))[:, None] == posterior.argmax(axis=0)).astype(float)
        value = peak
    else:
        posterior -= peak
        np.exp(posterior, posterior)
        scale = posterior.sum(axis=0)
        posterior /= scale
        value = peak + np.log(scale)
    if base is not None:
        value = value + base
    weighted = posterior if weights is None else posterior * weights
    total = float(value.sum() if weights is None else value @ weights)
    kept, member = (posterior.T, value) if keep else (None, None)
    return MixturePass(total, weighted @ t.T, weighted.sum(axis=1), kept, member)


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


def _numpy(
    features: Features, rows: slice, const: np.ndarray, eta: np.ndarray, barred: Any, extra: Any, weights: Any,
    hard: bool, kept: Any, member: Any,
) -> tuple[float, np.ndarray, np.ndarray]:  # fmt: skip
    t = features.block(rows)
    posterior = _joint(t, const, eta, barred, extra)
    peak = posterior.max(axis=0)
    if hard:
        posterior = (np.arange(len(posterior))[:, None] == posterior.argmax(axis=0)).astype(float)
        value = peak.copy()
    else:
        posterior -= peak
        np.exp(posterior, out=posterior)
        scale = posterior.sum(axis=0)
        posterior /= scale
        value = peak + np.log(scale)
    if peak.min(initial=0.0) <= 0.5 * LOWEST:
        value[peak <= 0.5 * LOWEST] = -np.inf
    if kept is not None:
        kept[:], member[:] = posterior, value
    if weights is not None:
        value = np.where(weights > 0, value, 0.0) * weights
        posterior = posterior * weights
    return float(value.sum()), posterior @ t.T, posterior.sum(axis=1)


def _compiled(
    features: Features, rows: slice, const: np.ndarray, eta: np.ndarray, barred: Any, extra: Any, weights: Any,
    hard: bool, kept: Any, member: Any,
) -> tuple[float, np.ndarray, np.ndarray]:  # fmt: skip
    from emppl.kernels.compiled import run

    z = features.columns(rows)
    single, left, right, _, n_distinct = features.distinct
    statistics, counts = np.zeros((len(eta), n_distinct)), np.zeros(len(eta))
    responsibilities = NONE_2 if kept is None else np.empty((len(eta), z.shape[1]))
    by_member = NONE_1 if member is None else np.empty(z.shape[1])
    value = run(
        z, single, left, right, np.ascontiguousarray(eta), np.ascontiguousarray(const),
        NO_BARS if barred is None else barred, NONE_2 if extra is None else np.ascontiguousarray(extra),
        NONE_1 if weights is None else np.ascontiguousarray(weights, dtype=float), hard, responsibilities, by_member,
        statistics, counts,
    )  # fmt: skip
    if kept is not None:
        kept[:], member[:] = responsibilities, by_member
    return float(value), statistics, counts


def _not_a_number(features: Features, n_values: int, keep: bool) -> MixturePass:
    """Parameters that are no numbers, or infinite: nothing is hidden, and nothing is computed with them."""
    n, width = features.shape
    return MixturePass(
        np.nan, np.full((n_values, width), np.nan), np.full(n_values, np.nan),
        np.full((n, n_values), np.nan) if keep else None, np.full(n, np.nan) if keep else None,
    )  # fmt: skip


_FORKED: list[bool] = []


def _forked() -> None:
    """In the child of a fork, where the threads of the pool are gone."""
    _FORKED.append(True)
    _pool.cache_clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


@cache
def _pool(workers: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(workers, thread_name_prefix="emppl")


@cache
def _blas() -> ThreadpoolController:
    """BLAS held to one thread inside the blocks: several for small matrices wait for each other."""
    return ThreadpoolController()
