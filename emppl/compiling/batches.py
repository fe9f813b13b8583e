"""Long batches of small matrices, all at once: what PyTensor's interpreter does matrix by matrix, 5–10 µs each.

A Gaussian written for each of 100,000 rows has as many triangular systems to solve. Here the loop goes over the rows of
a matrix and numpy over the batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from pytensor.graph.rewriting.basic import node_rewriter
from pytensor.tensor.blockwise import Blockwise
from pytensor.tensor.linalg.decomposition.cholesky import Cholesky
from pytensor.tensor.linalg.solvers.triangular import SolveTriangular
from pytensor.tensor.math import Dot

MANY = 64  # matrices from which on it pays


class AtOnce(Blockwise):
    """A Blockwise op that takes its whole batch in one go where that is long."""

    def perform(self, node: Any, inputs: Any, output_storage: Any) -> None:
        batch_ndim = self.batch_ndim(node)
        batch = np.broadcast_shapes(*(np.shape(v)[:batch_ndim] for v in inputs))
        if int(np.prod(batch, dtype=int)) >= MANY:
            answer = RULES[type(self.core_op)](self.core_op, *inputs)
            if answer is not None:
                output_storage[0][0] = np.ascontiguousarray(answer, dtype=node.outputs[0].type.dtype)
                return
        super().perform(node, inputs, output_storage)


def solve_triangular(op: Any, a: np.ndarray, b: np.ndarray) -> np.ndarray:
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


def cholesky(op: Any, a: np.ndarray) -> np.ndarray | None:
    """Cholesky factors of a [..., m, m]; None where one of them has none, which is then told apart one by one."""
    try:
        return np.linalg.cholesky(a if op.lower else np.swapaxes(a, -1, -2), upper=not op.lower)
    except np.linalg.LinAlgError:
        return None


def dot(op: Any, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Matrix products a @ b of a [..., m, n] and b [..., n, k]."""
    return np.matmul(a, b)


RULES: dict[type, Callable[..., np.ndarray | None]] = {
    SolveTriangular: solve_triangular, Cholesky: cholesky, Dot: dot
}  # fmt: skip


@node_rewriter([Blockwise])
def at_once(_: Any, node: Any) -> Any:
    """Blockwise ops that have a rule, unless their batch is known to be short."""
    op = node.op
    if isinstance(op, AtOnce) or type(op.core_op) not in RULES or op.destroy_map:
        return None
    lengths = node.outputs[0].type.shape[: op.batch_ndim(node)]
    if None not in lengths and int(np.prod(lengths, dtype=int)) < MANY:
        return None
    return AtOnce(op.core_op, signature=op.signature).make_node(*node.inputs).outputs
