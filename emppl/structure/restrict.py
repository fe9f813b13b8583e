"""A graph over a whole plate, restricted to chosen (row, configuration) pairs.

`mu[z]` over a plate of N members takes only as many values as `z` has: restricted to row r with z = 0, 1, …, it is a
graph over K elements. The restriction pushes the choice of rows down to data and latents by exact identities, so what
comes out costs nothing in N. Where an operation is not known it refuses, and the caller uses the whole graph.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pytensor.tensor as pt
from pytensor.compile.ops import ViewOp
from pytensor.graph.basic import Constant
from pytensor.graph.traversal import explicit_graph_inputs
from pytensor.tensor.basic import Alloc, ExtractDiag, Join
from pytensor.tensor.blockwise import Blockwise
from pytensor.tensor.elemwise import CAReduce, DimShuffle, Elemwise
from pytensor.tensor.math import Dot
from pytensor.tensor.shape import SpecifyShape
from pytensor.tensor.special import LogSoftmax, LogSumExp, Softmax
from pytensor.tensor.subtensor import AdvancedSubtensor, Subtensor

from emppl.compiling import compile_graph
from emppl.structure.topology import Scopes, index_block
from emppl.structure.types import Factor, Plate

COMPARED_AT_ONCE = 1 << 16  # rows


class CannotRestrict(Exception):
    """An operation on the way mixes rows, or is not known; the message says which."""


@dataclass(frozen=True)
class Layout:
    """How a factor's elements lie over a plate: member of each row along `axis`; the other axes are slots.

    groups: of rows that have parameters of their own; one group where nothing but the latents tells rows apart.
    """

    axis: int
    members: np.ndarray
    slots: tuple[int, ...]
    groups: np.ndarray = field(default_factory=lambda: np.zeros(1, dtype=int))

    @property
    def n_groups(self) -> int:
        return int(self.groups.max()) + 1

    def pairs(self, configuration: np.ndarray) -> np.ndarray:
        """The pair [configuration, group] of each row, for the configuration of each member."""
        return configuration[self.members] * self.n_groups + self.groups


def layout_of(factor: Factor, plate: Plate) -> Layout:
    """The axis of a factor that runs over the members of a plate.

    Raises CannotRestrict where elements depend on no latent, on several plates, or lie along no single axis.
    """
    scope = factor.scope
    if scope.shape[0] == 0 or (np.diff(scope.indptr) == 0).any():
        raise CannotRestrict("some of its elements depend on no latent")
    members = plate.members_of(factor).reshape(factor.shape)
    if (members < 0).any():
        raise CannotRestrict("its elements belong to several plates")
    for axis in range(members.ndim):
        line = np.moveaxis(members, axis, 0).reshape(members.shape[axis], -1)
        if (line == line[:, :1]).all():
            own_rows = len(line) == plate.size and np.array_equal(line[:, 0], plate.numbers)
            return Layout(
                axis,
                plate.numbers if own_rows else line[:, 0],
                tuple(n for a, n in enumerate(factor.shape) if a != axis),
            )
    raise CannotRestrict("no single axis of it runs over the members")


class Leaf(NamedTuple):
    """What tells rows apart: a graph that varies along an axis, at the places `every` [rows] there; None: one a row."""

    graph: Any
    axis: int
    every: np.ndarray | None


class Restriction:
    """Restriction of graphs along one axis to pairs p: row `rows[p]`, its member in configuration `configurations[p]`.

    rows [P]: index along the axis; members [P]: the member of each; configurations [P, slots].
    plate: None where no latent enters. leaves: all that a row of the graphs restricted so far depends on beside what
    every row does, so that rows which are equal in these numbers are one function of parameters and latents.
    """

    def __init__(
        self, scopes: Scopes, rows: np.ndarray, members: np.ndarray, configurations: np.ndarray, plate: Plate | None
    ) -> None:
        self.scopes, self.rows, self.members, self.configurations = scopes, rows, members, configurations
        self.plate = plate
        self.leaves: list[Leaf] = []
        self._every: np.ndarray | None = None
        self._done: dict[tuple[Any, int], Any] = {}

    @classmethod
    def over(cls, plate: Plate, scopes: Scopes, rows: np.ndarray, members: np.ndarray) -> Restriction:
        """Every configuration of the plate at every one of `rows`, which belong to `members`.

        Pairs come in the order [configuration, row].
        """
        pairs = np.repeat(plate.configurations, len(rows), axis=0)
        n = plate.n_configurations
        return cls(scopes, np.tile(rows, n), np.tile(members, n), pairs, plate)

    @classmethod
    def without_latents(cls, rows: np.ndarray) -> Restriction:
        """Rows of graphs in which no latent stands."""
        return cls(Scopes((), (), {}), rows, np.zeros(len(rows), dtype=int), np.zeros((len(rows), 0), dtype=int), None)

    def __call__(self, variable: Any, axis: int) -> Any:
        key = (variable, axis)
        if key not in self._done:
            self._done[key] = self._restrict(variable, axis)
        return self._done[key]

    def told_apart(self, members: np.ndarray) -> Iterator[np.ndarray]:
        """The numbers [rows, …] of each leaf, all rows of the axis, which belong to `members` [rows].

        Raises CannotRestrict where they depend on parameters.
        """
        for graph, axis, every in self.leaves:
            if graph in self.scopes.moved:
                ids = _along(self.scopes.moved[graph], axis, every)
                assert self.plate is not None  # a latent moved here, so there is one
                yield self.plate.slot_of(members[:, None], ids.reshape(len(ids), -1))
            elif isinstance(graph, Constant):
                yield _along(graph.data, axis, every)
            elif any(True for _ in explicit_graph_inputs([graph])) or not self.latent_free(graph):
                raise CannotRestrict("a parameter varies over its rows")
            else:
                yield _along(compile_graph([], graph)(), axis, every)

    def is_alike(self, members: np.ndarray) -> bool:
        """Whether all rows of the axis are equal in all leaves: one comparison of each with its first row."""
        try:
            return all(_is_one_row(rows) for rows in self.told_apart(members))
        except CannotRestrict:
            return False

    def latent_free(self, variable: Any) -> bool:
        return variable not in self.scopes.scope

    def carries(self, variable: Any, axis: int) -> bool:
        """Whether the variable varies along this axis at all (it has it, and is not of length one there)."""
        if not 0 <= axis < variable.type.ndim or variable.type.broadcastable[axis]:
            return False
        return variable.type.shape[axis] is not None or self.scopes.length(variable, axis) != 1

    def _restrict(self, v: Any, axis: int) -> Any:
        if not self.carries(v, axis):
            if not self.latent_free(v):
                raise CannotRestrict("a latent enters apart from the rows")
            hidden = 0 <= axis < v.type.ndim and not v.type.broadcastable[axis]
            return pt.specify_broadcastable(v, axis) if hidden else v
        if v in self.scopes.moved:
            self.leaves.append(Leaf(v, axis, self._every))
            ids = np.take(np.moveaxis(self.scopes.moved[v], axis, 0), self.rows, axis=0)
            flat = ids.reshape(len(self.rows), -1)
            assert self.plate is not None  # a latent moved here, so there is one
            slots = self.plate.slot_of(self.members[:, None], flat)
            if (slots < 0).any():
                raise CannotRestrict("a latent of another member enters")
            values = self.configurations[np.arange(len(flat))[:, None], slots].reshape(ids.shape)
            return pt.constant(np.moveaxis(values, 0, axis).astype(v.dtype))
        if isinstance(v, Constant):
            self.leaves.append(Leaf(v, axis, self._every))
            return pt.constant(np.take(v.data, self.rows, axis=axis))
        rule = self._rule(v)
        if rule is None:
            if self.latent_free(v):
                self.leaves.append(Leaf(v, axis, self._every))
                return v.take(self.rows, axis=axis)
            raise CannotRestrict(f"{v.owner.op if v.owner else v} mixes rows in a way that is not known")
        return rule(v.owner, axis)

    def _rule(self, v: Any) -> Any:
        if v.owner is None:
            return None
        op = v.owner.op
        table = (
            (Elemwise, self._elementwise), (DimShuffle, self._shuffle), (CAReduce, self._reduce),
            (LogSumExp, self._reduce), (Softmax, self._normalise), (LogSoftmax, self._normalise),
            (AdvancedSubtensor, self._index), (Subtensor, self._slice), (Join, self._join),
            (Blockwise, self._blockwise), (Dot, self._dot), (SpecifyShape, self._specify),
            (ViewOp, self._specify), (Alloc, self._alloc), (ExtractDiag, self._diagonal),
        )  # fmt: skip
        for kind, rule in table:
            if isinstance(op, kind):
                return rule
        return None

    def _elementwise(self, node: Any, axis: int) -> Any:
        return node.op(*[self(v, axis) for v in node.inputs])

    def _shuffle(self, node: Any, axis: int) -> Any:
        source = node.op.new_order[axis]
        if source == "x":
            raise CannotRestrict("an axis of length one was named as the plate")
        return node.op(self(node.inputs[0], int(source)))

    def _axes(self, node: Any) -> tuple[int, ...]:
        axis = node.op.axis
        return tuple(range(node.inputs[0].type.ndim)) if axis is None else tuple(axis)

    def _reduce(self, node: Any, axis: int) -> Any:
        (source,), axes = node.inputs, self._axes(node)
        keeps = node.outputs[0].type.ndim == source.type.ndim
        inner = axis if keeps else [a for a in range(source.type.ndim) if a not in axes][axis]
        return node.op(self(source, inner))

    def _normalise(self, node: Any, axis: int) -> Any:
        if axis in self._axes(node):
            raise CannotRestrict("a softmax runs along the plate")
        return node.op(self(node.inputs[0], axis))

    def _index(self, node: Any, axis: int) -> Any:
        source, *indices = node.inputs
        block = index_block(node)
        if block is None:
            raise CannotRestrict("an index that is not a plain list of integers")
        position, ndim = block
        if position <= axis < position + ndim:
            if not self.latent_free(source):
                return self._taken(source, position, indices)
            inner = [self(v, axis - position - (ndim - v.type.ndim)) for v in indices]
            return node.op(source, *inner)
        if any(not self.latent_free(v) for v in indices):
            raise CannotRestrict("a latent indexes apart from the rows")
        sliced = [
            i for i in range(source.type.ndim) if i >= len(node.op.idx_list) or isinstance(node.op.idx_list[i], slice)
        ]
        kept = axis if axis < position else axis - ndim
        return node.op(self(source, sliced[kept]), *indices)

    def _taken(self, source: Any, axis: int, indices: list[Any]) -> Any:
        """Rows picked from one axis of what depends on latents, as `mean_of_group[group]`: those rows of the source."""
        if len(indices) > 1 or indices[0].type.ndim != 1 or list(explicit_graph_inputs(indices)):
            raise CannotRestrict("what is indexed depends on a latent itself")
        (index,) = indices
        picked = np.asarray(index.data if isinstance(index, Constant) else compile_graph([], index)())
        length = self.scopes.length(source, axis)
        picked = np.where(picked < 0, picked + (length or 0), picked)
        inner = Restriction(self.scopes, picked[self.rows], self.members, self.configurations, self.plate)
        inner._every = picked if self._every is None else picked[self._every]
        answer = inner(source, axis)
        self.leaves += inner.leaves
        return answer

    def _slice(self, node: Any, axis: int) -> Any:
        source, *rest = node.inputs
        out_axis = 0
        for i in range(source.type.ndim):
            entry = node.op.idx_list[i] if i < len(node.op.idx_list) else slice(None)
            if not isinstance(entry, slice):
                continue
            if out_axis == axis:
                if entry != slice(None):
                    raise CannotRestrict("the plate is sliced")
                return node.op(self(source, i), *rest)
            out_axis += 1
        raise CannotRestrict("the plate is sliced")

    def _join(self, node: Any, axis: int) -> Any:
        if node.op.axis == axis or not isinstance(node.op.axis, int):
            raise CannotRestrict("arrays are joined along the plate")
        parts = [self(v, axis) for v in node.inputs]
        length = len(self.rows)
        full = [p if self.carries(v, axis) else pt.repeat(p, length, axis=axis) for p, v in zip(parts, node.inputs)]
        return node.op(*full)

    def _blockwise(self, node: Any, axis: int) -> Any:
        batch_ndim = node.op.batch_ndim(node)
        if axis >= batch_ndim and isinstance(node.op.core_op, Dot):
            left, right = node.inputs
            own, other = (left, right) if axis == batch_ndim else (right, left)
            if not self.latent_free(other):
                raise CannotRestrict("a latent enters a matrix product across the rows")
            pair = (self(own, axis), other) if own is left else (other, self(own, axis))
            return node.op(*pair)
        if axis >= batch_ndim:
            raise CannotRestrict(f"{node.op} works across the rows")
        return node.op.make_node(*[self(v, axis) for v in node.inputs]).outputs[node.outputs.index(node.outputs[0])]

    def _dot(self, node: Any, axis: int) -> Any:
        left, right = node.inputs
        if axis == 0 and left.type.ndim == 2:
            if not self.latent_free(right):
                raise CannotRestrict("a latent enters a matrix product across the rows")
            return node.op(self(left, 0), right)
        if not self.latent_free(left):
            raise CannotRestrict("a latent enters a matrix product across the rows")
        return node.op(left, self(right, right.type.ndim - 1))

    def _specify(self, node: Any, axis: int) -> Any:
        return self(node.inputs[0], axis)

    def _alloc(self, node: Any, axis: int) -> Any:
        value, *shape = node.inputs
        inner = axis - (len(shape) - value.type.ndim)
        if not self.carries(value, inner):
            if not self.latent_free(value):
                raise CannotRestrict("a latent enters apart from the rows")
        else:
            value = self(value, inner)
        shape[axis] = len(self.rows)
        return pt.alloc(value, *shape)

    def _diagonal(self, node: Any, axis: int) -> Any:
        (source,) = node.inputs
        if node.op.axis1 <= axis and node.op.axis1 != source.type.ndim - 2:
            raise CannotRestrict("a diagonal is taken across the rows")
        if axis == node.outputs[0].type.ndim - 1:
            raise CannotRestrict("a diagonal is taken across the rows")
        return node.op(self(source, axis))


def _along(array: Any, axis: int, every: np.ndarray | None) -> np.ndarray:
    rows = np.moveaxis(np.asarray(array), axis, 0)
    return rows if every is None else rows[every]


def _is_one_row(rows: np.ndarray) -> bool:
    starts = range(0, len(rows), COMPARED_AT_ONCE)
    return all((rows[start : start + COMPARED_AT_ONCE] == rows[:1]).all() for start in starts)
