"""Covariances that are written by a factor, L L': what needs no Cholesky factor made of them again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from pytensor.graph.basic import equal_computations
from pytensor.tensor.basic import Alloc, Join
from pytensor.tensor.blockwise import Blockwise
from pytensor.tensor.elemwise import DimShuffle
from pytensor.tensor.math import Dot
from pytensor.tensor.shape import Reshape, SpecifyShape
from pytensor.tensor.subtensor import AdvancedSubtensor, Subtensor


def triangular_factor(cov: Any, evaluate: Callable[[Any], list[np.ndarray]]) -> Any:
    """The graph of L [..., D, D] where cov [..., D, D] is written L L' with L lower triangular; else None.

    evaluate: the values of a graph at some points, by which L is known to be triangular.
    """
    factor = _factor(cov)
    if factor is None or factor.type.shape != cov.type.shape:
        return None
    return factor if all(_is_lower(value) for value in evaluate(factor)) else None


def _is_lower(value: np.ndarray) -> bool:
    diagonal = np.diagonal(value, axis1=-2, axis2=-1)
    return bool(np.isfinite(value).all() and diagonal.all() and not np.triu(value, 1).any())


def _factor(graph: Any) -> Any:
    """A of what is A A', through everything that leaves the last two axes as they are."""
    node = graph.owner
    if node is None:
        return None
    op, inputs = node.op, node.inputs
    if isinstance(op, Dot) or (isinstance(op, Blockwise) and isinstance(op.core_op, Dot)):
        return inputs[0] if _is_transpose(inputs[1], inputs[0]) else None
    if isinstance(op, Join) and op.axis < graph.type.ndim - 2:
        parts = [_factor(part) for part in inputs]
        return None if any(part is None for part in parts) else op.make_node(*parts).outputs[0]
    if not _leaves_matrices(node):
        return None
    inner = _factor(inputs[0])
    return None if inner is None else op.make_node(inner, *inputs[1:]).outputs[0]


def _is_transpose(graph: Any, of: Any) -> bool:
    """Whether a graph is the transposed matrices of another."""
    op = graph.owner.op if graph.owner is not None else None
    if not (isinstance(op, DimShuffle) and op.is_matrix_transpose):
        return False
    return equal_computations([graph.owner.inputs[0]], [of])


def _leaves_matrices(node: Any) -> bool:
    """Whether a node repeats, picks or arranges matrices and does nothing to one of them."""
    op, before, after = node.op, node.inputs[0], node.outputs[0]
    if min(before.type.ndim, after.type.ndim) < 2 or None in before.type.shape[-2:]:
        return False
    if before.type.shape[-2:] != after.type.shape[-2:]:
        return False
    if isinstance(op, DimShuffle):
        return op.new_order[-2:] == (before.type.ndim - 2, before.type.ndim - 1)
    if isinstance(op, Subtensor | AdvancedSubtensor):
        return len(op.idx_list) <= before.type.ndim - 2
    return isinstance(op, Reshape | Alloc | SpecifyShape)
