"""Factors and triangular systems of matrices, one by one, all of a batch at once, or traced.

PyTensor's interpreter takes 5–10 µs for each matrix of a batch, and a Gaussian written for each of 100,000 rows has as
many triangular systems to solve. Here the loop goes over the rows of a matrix and numpy over the batch.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from pytensor.tensor.linalg.decomposition.cholesky import Cholesky
from pytensor.tensor.linalg.solvers.triangular import SolveTriangular
from scipy.linalg.lapack import dpotrf, dtrtrs

from emppl import unrolled
from emppl.unrolled.tracing import Traced

MANY = 64  # matrices from which on it pays
Step = Callable[..., Any]


def of_one(op: Any) -> Step:
    """LAPACK on one matrix of doubles, as the op's `perform` calls it; or all steps on traced ones."""
    return partial(ONE[type(op)], op)


def of_a_batch(op: Any, length: int | None, one_by_one: Step) -> Step:
    """The op on matrices [..., m, m], of which there are `length` (None: not known yet)."""
    at_once, traced = AT_ONCE[type(op)], of_one(op)

    def run(*arrays: Any) -> Any:
        if any(isinstance(a, Traced) for a in arrays):
            return traced(*arrays)
        many = length is None and max(a.size // (a.shape[-1] * a.shape[-2] or 1) for a in arrays) >= MANY
        answer = at_once(op, *arrays) if many or (length or 0) >= MANY else None
        return one_by_one(*arrays) if answer is None else np.ascontiguousarray(answer)

    run.stores = getattr(one_by_one, "stores", False)  # type: ignore[attr-defined]
    return run


def _cholesky(op: Any, a: Any) -> Any:
    if isinstance(a, Traced):
        return unrolled.cholesky(a, op.lower)
    factor, info = dpotrf(a, op.lower, True)
    if info:
        factor[...] = np.nan
    return factor


def _solve_triangular(op: Any, a: Any, b: Any) -> Any:
    if isinstance(a, Traced) or isinstance(b, Traced):
        if op.b_ndim == 1:
            return unrolled.solve_triangular(a, b[..., None], op.lower, op.unit_diagonal)[..., 0]
        return unrolled.solve_triangular(a, b, op.lower, op.unit_diagonal)
    if a.flags.f_contiguous:
        x, info = dtrtrs(a, b, op.lower, 0, op.unit_diagonal)
    else:
        x, info = dtrtrs(a.T, b, not op.lower, 1, op.unit_diagonal)
    if info:
        x[...] = np.nan
    return x


def _all_factors(op: Any, a: np.ndarray) -> np.ndarray | None:
    """Cholesky factors of a [..., m, m]; None where one of them has none, which is then told apart one by one."""
    try:
        return np.linalg.cholesky(a if op.lower else np.swapaxes(a, -1, -2), upper=not op.lower)
    except np.linalg.LinAlgError:
        return None


def _all_solutions(op: Any, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """x of a x = b by substitution: a [..., m, m], b [..., m] or [..., m, n]. A singular matrix gives nan."""
    m, vector = a.shape[-1], op.b_ndim == 1
    b = b[..., None] if vector else b
    batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    x = np.array(np.broadcast_to(b, (*batch, *b.shape[-2:])), dtype=np.result_type(a, b))
    order = range(m) if op.lower else range(m - 1, -1, -1)
    with np.errstate(all="ignore"):
        for i in order:
            before = slice(0, i) if op.lower else slice(i + 1, m)
            x[..., i, :] -= np.einsum("...k,...kn->...n", a[..., i, before], x[..., before, :])
            if not op.unit_diagonal:
                x[..., i, :] /= a[..., i, i, None]
    if not op.unit_diagonal:
        singular = np.broadcast_to((np.diagonal(a, axis1=-2, axis2=-1) == 0).any(axis=-1), batch)
        x[singular] = np.nan
    return x[..., 0] if vector else x


ONE: dict[type, Step] = {Cholesky: _cholesky, SolveTriangular: _solve_triangular}
AT_ONCE: dict[type, Step] = {Cholesky: _all_factors, SolveTriangular: _all_solutions}
