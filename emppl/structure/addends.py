"""Sums taken apart: the elementwise terms whose elements add up to what the elements of a graph add up to.

A potential that is `(z * a).sum() + pm.math.dot(1 - z, b) / n` is one number that hangs on all of z; its terms
z[i] · a[i] and (1 − z[i]) · b[i] / n hang on one element each. Looked through is what is linear in what lies below it:
sums, means and dot products; sums, differences and multiples of these; moved axes; parts joined.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pytensor.tensor as pt
from pytensor.compile.ops import ViewOp
from pytensor.compile.rewriting import inline_ofg_node
from pytensor.graph.basic import Constant
from pytensor.graph.traversal import ancestors, graph_inputs, toposort
from pytensor.raise_op import CheckAndRaise
from pytensor.scalar import basic as scalars
from pytensor.tensor.basic import Alloc, Join, MakeVector
from pytensor.tensor.blockwise import Blockwise
from pytensor.tensor.einsum import Einsum
from pytensor.tensor.elemwise import DimShuffle, Elemwise
from pytensor.tensor.math import Dot, Sum
from pytensor.tensor.shape import Reshape, Shape, Shape_i, SpecifyShape

from emppl.compiling import compile_graph, substitute

THROUGH = (Reshape, SpecifyShape, ViewOp, CheckAndRaise, DimShuffle, Alloc)  # axes that are made have length one
LINEAR = (scalars.Add, scalars.Sub, scalars.Neg, scalars.Identity, scalars.Cast)
LARGEST = 10_000_000  # numbers of a product of matrices whose terms are taken one by one
Wrap = Callable[[Any], Any]


class _Below(NamedTuple):
    """Graphs whose totals, after `wrap` and `times` over, add up to that of the graph above them."""

    graph: Any
    wrap: Wrap | None = None
    times: int = 1


def addends(graph: Any, latents: set[Any]) -> list[Any]:
    """Terms of a graph: the sum of all elements of all terms is that of all elements of the graph.

    [graph] itself where no sum over what hangs on `latents` (values) stands in the way. Numbers that were added up one
    by one are one term, a vector.
    """
    return _Addends(latents).of(graph)


class _Addends:
    def __init__(self, latents: set[Any]) -> None:
        self._latents = latents
        self._dependent: dict[Any, bool] = {}  # whether a variable hangs on latents
        self._summed: dict[Any, bool] = {}  # whether a sum over such lies below it, with only linear operations above

    def of(self, graph: Any) -> list[Any]:
        sums = [v for v in ancestors([graph]) if v.owner and isinstance(v.owner.op, Einsum)]
        graph = substitute([graph], {v: inline_ofg_node(v.owner)[0] for v in sums})[0] if sums else graph
        if not self._has_sum(graph):
            return [graph]
        terms: list[Any] = []
        numbers: list[Any] = []
        stack: list[tuple[Any, tuple[Wrap, ...]]] = [(graph, ())]
        while stack:
            current, wraps = stack.pop()
            parts = self._parts(current) if self._has_sum(current) else None
            if parts is not None:
                for part in reversed(parts):
                    own = (*wraps, *((part.wrap,) if part.wrap is not None else ()))
                    stack.append((part.graph, own if part.times == 1 else (*own, _multiple(part.times))))
                continue
            for wrap in reversed(wraps):
                current = wrap(current)
            (terms if current.type.ndim else numbers).append(current)
        return [*terms, *([pt.stack(numbers)] if len(numbers) > 1 else numbers)]

    def _has_sum(self, graph: Any) -> bool:
        if graph not in self._summed:
            for node in toposort([graph], blockers=list(self._summed)) if graph.owner else ():
                for out in node.outputs:
                    if out not in self._summed:
                        self._dependent[out] = self._hangs(node)
                        self._summed[out] = self._dependent[out] and self._stands_above_a_sum(out)
            self._summed.setdefault(graph, False)
        return self._summed[graph]

    def _depends(self, graph: Any) -> bool:
        if graph.owner is None:
            return graph in self._latents
        self._has_sum(graph)
        return self._dependent[graph]

    def _hangs(self, node: Any) -> bool:
        shapes_alone = isinstance(node.op, Shape | Shape_i)
        return not shapes_alone and any(v in self._latents or self._dependent.get(v, False) for v in node.inputs)

    def _stands_above_a_sum(self, graph: Any) -> bool:
        op, inputs = graph.owner.op, graph.owner.inputs
        if isinstance(op, Sum) or _is_product(graph):
            return True
        summed = [self._summed.get(v, False) for v in inputs]
        if isinstance(op, THROUGH):
            return summed[0]
        if isinstance(op, MakeVector | Join):
            return any(summed)
        if isinstance(op, Elemwise):
            kind = op.scalar_op
            if isinstance(kind, scalars.Switch):
                return any(summed[1:])
            if isinstance(kind, scalars.TrueDiv):
                return summed[0]
            if isinstance(kind, scalars.Mul):
                return sum(summed) == 1
            if isinstance(kind, scalars.Add | scalars.Sub) and not graph.type.ndim:  # numbers added up one by one
                return sum(self._dependent.get(v, v in self._latents) for v in inputs) > 1 or any(summed)
            return isinstance(kind, LINEAR) and any(summed)
        return False

    def _parts(self, graph: Any) -> list[_Below] | None:
        """What lies right below a linear operation; None where it cannot be told apart."""
        op, inputs = graph.owner.op, graph.owner.inputs
        if isinstance(op, Alloc):
            return _repeated(graph, [(inputs[0], None)])
        if isinstance(op, (*THROUGH, Sum)):
            return [_Below(inputs[0])]
        if isinstance(op, MakeVector | Join):
            return [_Below(v) for v in inputs]
        if _is_product(graph):
            return _product(*inputs)
        kind = op.scalar_op
        if isinstance(kind, scalars.Add | scalars.Identity):
            return _repeated(graph, [(v, None) for v in inputs])
        if isinstance(kind, scalars.Sub):
            return _repeated(graph, [(inputs[0], None), (inputs[1], pt.neg)])
        if isinstance(kind, scalars.Neg):
            return [_Below(inputs[0], pt.neg)]
        if isinstance(kind, scalars.Cast):
            return [_Below(inputs[0], lambda v: v.astype(graph.type.dtype))] if "float" in graph.type.dtype else None
        if isinstance(kind, scalars.Switch):
            return self._chosen(graph, *inputs)
        if isinstance(kind, scalars.TrueDiv):
            return self._scaled(graph, inputs[0], [inputs[1]], pt.true_div)
        summed = next(v for v in inputs if self._has_sum(v))
        return self._scaled(graph, summed, [v for v in inputs if v is not summed], pt.mul)

    def _chosen(self, graph: Any, condition: Any, yes: Any, no: Any) -> list[_Below] | None:
        """One of two sums, by a condition on no latent: the terms of both, those of the other as zeros."""
        if not all(condition.type.broadcastable) or self._depends(condition):
            return None
        whether = condition.flatten()[0]
        return _repeated(
            graph, [(yes, lambda v: pt.switch(whether, v, 0.0)), (no, lambda v: pt.switch(whether, 0.0, v))]
        )

    def _scaled(self, graph: Any, below: Any, others: Sequence[Any], operation: Any) -> list[_Below] | None:
        """A multiple: by numbers that hang on no latent, or row by row below the sum itself."""
        numbers = [_without_shapes(v) for v in others]
        if all(all(v.type.broadcastable) for v in numbers) and not any(self._depends(v) for v in numbers):
            flat = [v.flatten()[0] for v in numbers]
            return _repeated(graph, [(below, lambda v: operation(v, *flat))])
        if all(below.type.broadcastable) and not any(self._depends(v) for v in numbers):
            total = (pt.mul(*numbers) if operation is pt.mul else 1.0 / numbers[0]).sum()
            return [_Below(below, lambda v: v * total)]
        same = all(v.type.ndim == graph.type.ndim for v in (below, *numbers))
        if not same or below.owner is None or not isinstance(below.owner.op, Sum):
            return None
        (source,), axes = below.owner.inputs, below.owner.op.axis
        axes = tuple(range(source.type.ndim)) if axes is None else axes
        return [_Below(operation(source, *[pt.expand_dims(v, axes) for v in numbers]))]


def _is_product(graph: Any) -> bool:
    """Whether a graph is a product of matrices, of no more numbers than can be taken one by one."""
    op = graph.owner.op
    if not (isinstance(op, Dot) or (isinstance(op, Blockwise) and isinstance(op.core_op, Dot))):
        return False
    left, right = graph.owner.inputs
    if left.type.ndim < 2 or right.type.ndim < 2:
        return False
    lengths = (*left.type.shape, right.type.shape[-1])
    return None not in lengths and float(np.prod(lengths, dtype=float)) <= LARGEST


def _product(left: Any, right: Any) -> list[_Below]:
    return [_Below(left[..., :, :, None] * right[..., None, :, :])]


def _multiple(times: int) -> Wrap:
    return lambda v: v * np.float64(times)


def _repeated(graph: Any, parts: Sequence[tuple[Any, Wrap | None]]) -> list[_Below] | None:
    """Operands with how often broadcasting repeats each; None where lengths are not known."""
    answer = []
    for v, wrap in parts:
        if v.type.broadcastable == graph.type.broadcastable and v.type.ndim == graph.type.ndim:
            answer.append(_Below(v, wrap))
            continue
        if None in graph.type.shape or None in v.type.shape:
            return None
        times = int(np.prod(graph.type.shape, dtype=int)) // int(np.prod(v.type.shape, dtype=int))
        answer.append(_Below(v, wrap, times))
    return answer


def _without_shapes(number: Any) -> Any:
    """A number that is made of lengths alone, as a constant: what a mean divides by is one."""
    if not all(number.type.broadcastable):
        return number
    lengths = [v for v in ancestors([number]) if v.owner and isinstance(v.owner.op, Shape | Shape_i)]
    sources = {v.owner.inputs[0] for v in lengths}
    if not sources or any(None in v.type.shape for v in sources):
        return number
    (plain,) = substitute([number], {v: pt.zeros(v.type.shape, v.type.dtype) for v in sources})
    if any(not isinstance(v, Constant) for v in graph_inputs([plain])):
        return number
    return pt.constant(np.asarray(compile_graph([], plain)()))
