"""Whole-number and single-precision constants as doubles, so that a number means the same however it was written.

PyTensor holds `5` as int8 and `5.0` as float32: the logarithm of either is in single precision, `x**2` of an int8 wraps
at 127, and `Uniform(-20000, 20000)` spans a negative width in int16. Here constants become doubles wherever arithmetic
meets them, and all that follows is worked out anew from them. What counts places (an index, a length, the operands of a
comparison of whole numbers) stays whole, in 64 bits.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from copy import copy
from typing import Any

import numpy as np
import pytensor.scalar as ps
import pytensor.tensor as pt
from pymc.distributions.distribution import SymbolicRandomVariable
from pytensor.compile.builders import OpFromGraph
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.basic import Constant
from pytensor.graph.fg import FunctionGraph
from pytensor.graph.traversal import graph_inputs, toposort
from pytensor.raise_op import CheckAndRaise
from pytensor.scalar.basic import BinaryBitOp, FixedLogicalComparison, LogicalComparison, UnaryBitOp
from pytensor.tensor.basic import Alloc, AllocDiag, ExtractDiag, Join, MakeVector, Split
from pytensor.tensor.blockwise import Blockwise
from pytensor.tensor.elemwise import CAReduce, DimShuffle, Elemwise
from pytensor.tensor.extra_ops import CumOp, Repeat
from pytensor.tensor.linalg.constructors import BaseBlockDiagonal
from pytensor.tensor.linalg.products import KroneckerProduct
from pytensor.tensor.math import Dot
from pytensor.tensor.random.op import RandomVariable
from pytensor.tensor.random.type import RandomType
from pytensor.tensor.shape import Reshape, SpecifyShape
from pytensor.tensor.subtensor import AdvancedIncSubtensor, AdvancedSubtensor, IncSubtensor, Subtensor
from pytensor.tensor.type import DenseTensorType, TensorType

COMPARISONS = (LogicalComparison, FixedLogicalComparison)
BITS = (BinaryBitOp, UnaryBitOp)
# Which inputs hold the numbers that come out; the others say where, or how many.
NUMBERS: dict[type, Callable[[int], int]] = {
    **dict.fromkeys((Join, MakeVector, Dot, KroneckerProduct, BaseBlockDiagonal), lambda given: given),
    **dict.fromkeys((IncSubtensor, AdvancedIncSubtensor), lambda given: 2),
    **dict.fromkeys(
        (DimShuffle, Reshape, SpecifyShape, Alloc, AllocDiag, Subtensor, AdvancedSubtensor, Split, ExtractDiag, Repeat,
         CAReduce, CumOp, CheckAndRaise),
        lambda given: 1,
    ),
}  # fmt: skip


def in_double(
    graphs: Sequence[Any],
    *,
    numbers: bool = False,
    data: Collection[Any] = (),
    keep: Collection[Any] = (),
    draws: bool = False,
) -> list[Any]:
    """The graphs with whole-number and single-precision constants as doubles.

    numbers: graphs of whole numbers become doubles too where they are made of constants (densities, parameters of
    distributions); else they stay whole. data: inputs that stand for data, whose numbers are taken as constants are.
    keep: constants that stay as they are. draws: parameters of random variables too, whose nodes are then new ones.
    """
    doubles = _Doubles(data, keep, draws)
    doubles.read(graphs)
    return [doubles.number(g) if numbers else doubles.kept(g) for g in graphs]


def model_in_double(model: Any) -> dict[Any, Any]:
    """The variables of a model as they would be had all constants been written as doubles: {variable: its double}.

    Before densities are derived: on its way to them PyMC folds constants in the precision that they have. Shared data
    stay open.
    """
    variables = [*model.basic_RVs, *model.potentials, *model.deterministics]
    shared = [v for v in graph_inputs(variables) if isinstance(v, SharedVariable)]
    found = dict(zip(variables, in_double(variables, data=shared, draws=True)))
    for variable, double in found.items():
        double.name = variable.name
    return found


class _Doubles:
    """Two readings of each variable of a graph: as a number (a double), and kept whole where it is whole."""

    def __init__(self, data: Collection[Any], keep: Collection[Any], draws: bool) -> None:
        self.data, self.keep, self.draws = set(data), set(keep), draws
        self._kept: dict[Any, Any] = {}
        self._numbers: dict[Any, Any] = {}

    def kept(self, v: Any) -> Any:
        """v with whole numbers in 64 bits and other numbers as doubles."""
        if v.owner is None and v not in self._kept:
            self._kept[v], self._numbers[v] = self._leaf(v)
        return self._kept.get(v, v)

    def number(self, v: Any) -> Any:
        """v as a double wherever it is made of constants."""
        self.kept(v)
        return self._numbers.get(v, self._kept.get(v, v))

    def _leaf(self, v: Any) -> tuple[Any, Any]:
        if not isinstance(v.type, DenseTensorType) or v in self.keep or np.dtype(v.type.dtype).kind not in "iuf":
            return v, v
        whole = np.dtype(v.type.dtype).kind in "iu"
        if isinstance(v, Constant):
            data = np.asarray(v.data)  # of a matrix, which has arithmetic of its own, the numbers
            fits = not whole or data.dtype != np.uint64 or not data.size or data.max() <= np.iinfo(np.int64).max
            number = _constant(v, data, "float64")
            return (_constant(v, data, "int64" if fits else "uint64") if whole else number), number
        if v in self.data and v.type.dtype != "float64":
            number = v.astype("float64")
            return (v.astype("int64") if whole else number), number
        return v, v

    def read(self, graphs: Sequence[Any]) -> None:
        for node in toposort(graphs):
            if any(isinstance(v.type, RandomType) for v in node.inputs) and not self.draws:
                continue
            whole = all(_is_whole(v) for v in node.outputs)
            kept = self._made(node, self._inputs(node, numbers=not whole))
            if kept is not None:
                self._kept |= zip(node.outputs, kept)
            if whole and _has_numbers(node.op):
                numbers = self._made(node, self._inputs(node, numbers=True))
                if numbers is not None:
                    self._numbers |= zip(node.outputs, numbers)

    def _inputs(self, node: Any, numbers: bool) -> list[Any]:
        """The inputs of the node, as doubles or kept whole as its operation needs them."""
        op, given = node.op, node.inputs
        if isinstance(op, Elemwise):
            scalar = op.scalar_op
            if isinstance(scalar, COMPARISONS):
                numbers = not all(_is_whole(v) for v in given)
            if isinstance(scalar, BITS) or _is_narrowing(node):
                numbers = False
            of_numbers = [numbers] * len(given)
            if isinstance(scalar, ps.Switch | ps.Second):  # the condition, or what gives the shape
                of_numbers[0] = False
            return [self.number(v) if n else self.kept(v) for v, n in zip(given, of_numbers)]
        count = next((rule(len(given)) for kind, rule in NUMBERS.items() if isinstance(op, kind)), 0)
        if _is_algebra(op):
            count = len(given)
        values = [self.number(v) if numbers else self.kept(v) for v in given[:count]]
        if isinstance(op, IncSubtensor | AdvancedIncSubtensor) and _kind(values[1]) == "f" != _kind(values[0]):
            values[0] = values[0].astype("float64")  # it takes the type of what is put into
        # what says where stays as it was written, down to its constants
        return values + [v if isinstance(v, Constant) and _is_whole(v) else self.kept(v) for v in given[count:]]

    def _made(self, node: Any, inputs: list[Any]) -> list[Any] | None:
        """The outputs of a node made anew of other inputs; None where they are the same."""
        op = node.op
        if isinstance(op, Elemwise) and isinstance(op.scalar_op, ps.Cast):
            made = _cast(node, inputs[0])
            return None if made is node.outputs[0] else [made]
        if all(new is old for new, old in zip(inputs, node.inputs)) and not getattr(op, "inline_logprob", False):
            return None
        try:
            made = self._again(node, inputs)
        except (TypeError, ValueError, NotImplementedError, AssertionError):  # its types are fixed, as a loop's are
            made = None
        if made is None or any(_axes(new) != _axes(old) for new, old in zip(made, node.outputs)):
            back = [n if n.type == o.type or not isinstance(o.type, TensorType) else n.astype(o.type.dtype)
                    for n, o in zip(inputs, node.inputs)]  # fmt: skip
            made = op(*back, return_list=True)
        return [_widened(v) for v in made]

    def _again(self, node: Any, inputs: list[Any]) -> list[Any]:
        """The op on inputs of other types, whatever types it was made for."""
        op = node.op
        if isinstance(op, RandomVariable):
            return list(op.make_node(*inputs).outputs)
        if isinstance(op, SymbolicRandomVariable):
            fresh = [v.type() for v in inputs]
            op = op.clone_with_inner_graph(FunctionGraph(fresh, self._inside(op, fresh), clone=False))
            return list(op.make_node(*inputs).outputs)
        if isinstance(op, CAReduce):
            op = copy(op)
            op.dtype = op.acc_dtype = None
        elif isinstance(op, MakeVector):
            op = MakeVector(dtype=ps.upcast(*[v.type.dtype for v in inputs]))
        elif type(op) is OpFromGraph:
            return self._inside(op, inputs)
        return list(op(*inputs, return_list=True))

    def _inside(self, op: Any, inputs: list[Any]) -> list[Any]:
        """The outputs of a graph within the graph, of other inputs."""
        inner = _Doubles((), self.keep, self.draws)
        within = op.fgraph.unfreeze()  # frozen nodes cannot be cloned, as those that infer shapes do
        inner._kept |= zip(within.inputs, inputs)
        inner.read(within.outputs)
        return [inner.kept(v) for v in within.outputs]


def _constant(v: Constant, data: np.ndarray, dtype: str) -> Constant:
    """The constant v as an array of this type; v itself where it is one."""
    return v if type(v.data) is np.ndarray and data.dtype == dtype else pt.constant(data.astype(dtype), name=v.name)


def _axes(v: Any) -> int:
    return getattr(v.type, "ndim", 0)


def _kind(v: Any) -> str:
    return np.dtype(v.type.dtype).kind if isinstance(v.type, TensorType) else ""


def _is_whole(v: Any) -> bool:
    return _kind(v) in ("i", "u")


def _has_numbers(op: Any) -> bool:
    """Whether what comes out of an op of whole numbers can be worked out in doubles instead."""
    if isinstance(op, Elemwise):
        return not isinstance(op.scalar_op, BITS)
    return isinstance(op, tuple(NUMBERS)) or _is_algebra(op)


def _is_algebra(op: Any) -> bool:
    """Whether an op is linear algebra along leading axes: made of all that it is given, as numbers."""
    if not isinstance(op, Blockwise):
        return False
    core = op.core_op
    count = next((rule for kind, rule in NUMBERS.items() if isinstance(core, kind)), None)
    return count is None or count(3) == 3


def _widened(v: Any) -> Any:
    return v.astype("float64") if isinstance(v.type, TensorType) and v.type.dtype in ("float32", "float16") else v


def _cast(node: Any, given: Any) -> Any:
    """What a cast makes of its input, which may have become wider: a double is never made single again."""
    source, target = (np.dtype(v.type.dtype) for v in (node.inputs[0], node.outputs[0]))
    if target.kind == "f":
        return given if given.type.dtype == "float64" else pt.cast(given, "float64")
    if given is node.inputs[0]:
        return node.outputs[0]
    if source.kind in "iu" and target.kind in "iu" and not _is_narrowing(node):
        return given
    return pt.cast(given, target.name)


def _is_narrowing(node: Any) -> bool:
    """Whether a node casts whole numbers to fewer of them, and so means to wrap those that do not fit."""
    if not isinstance(node.op.scalar_op, ps.Cast) or not (_is_whole(node.inputs[0]) and _is_whole(node.outputs[0])):
        return False
    return not np.can_cast(node.inputs[0].type.dtype, node.outputs[0].type.dtype)
