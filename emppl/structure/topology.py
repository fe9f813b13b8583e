"""Which element of which factor depends on which latent elements, and the plates that follow from it.

Element identities are carried through the graph as sparse boolean matrices [elements, latent elements]: elementwise
operations unite, reshapes and constant indices move, reductions unite along their axes, and whatever is not known
unites everything. Where all elements along an axis have one scope (the entries of `chol[z]`) it is kept once. The
result can only err towards larger scopes; the certificate of each fit checks it by values.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from pytensor.compile.builders import infer_shape
from pytensor.compile.ops import ViewOp
from pytensor.graph.traversal import explicit_graph_inputs, toposort
from pytensor.tensor.basic import Alloc, ExtractDiag, Join, MakeVector
from pytensor.tensor.blockwise import Blockwise
from pytensor.tensor.elemwise import CAReduce, DimShuffle, Elemwise
from pytensor.tensor.math import Dot
from pytensor.tensor.shape import Reshape, Shape, Shape_i, SpecifyShape
from pytensor.tensor.special import LogSoftmax, LogSumExp, Softmax
from pytensor.tensor.subtensor import AdvancedIncSubtensor, AdvancedSubtensor, IncSubtensor, Subtensor
from scipy import sparse

from emppl.compiling import compile_graph
from emppl.structure.types import Node

MOVES = (DimShuffle, Reshape, Subtensor, SpecifyShape, Alloc, ExtractDiag, ViewOp)


class Scope(NamedTuple):
    """The latent elements that each element of a variable depends on: rows [elements of shape, latent elements].

    `shape` is the variable's own, or has 1 in place of an axis along which all elements have the same scope.
    """

    rows: sparse.csr_matrix
    shape: tuple[int, ...]

    def over(self, shape: tuple[int, ...]) -> sparse.csr_matrix:
        """One row for each element of a shape that this one broadcasts to."""
        if shape == self.shape or self.rows.shape[0] == int(np.prod(shape, dtype=int)):
            return self.rows  # axes of length one beside those that are there move nothing
        return self.rows[_rows(self.shape, shape)]

    def united(self, kept: tuple[int, ...]) -> Scope:
        """The scopes along some axes united: `kept` has 1 in their place."""
        kept = tuple(1 if own == 1 else n for own, n in zip(self.shape, kept, strict=True))
        if kept == self.shape:
            return self
        size = int(np.prod(kept, dtype=int))
        place = np.broadcast_to(np.arange(size).reshape(kept), self.shape).ravel()
        gather = sparse.csr_matrix((np.ones(len(place), np.int32), (place, np.arange(len(place)))), (size, len(place)))
        return Scope((gather @ self.rows.astype(np.int32)).astype(bool).tocsr(), kept)


class Scopes:
    """Scopes of every variable of some graphs.

    `moved[v]` holds the latent element of each element of v where v merely moves them. What depends on latents is in
    `scope`; of what lies between the latents and the graphs, the matrices are kept where `keep` says so, else None.
    """

    def __init__(
        self, graphs: Sequence[Any], latents: Sequence[Node], point: dict[Any, np.ndarray], keep: bool = False
    ) -> None:
        self.offsets, total = {}, 0
        for node in latents:
            self.offsets[node.name] = total
            total += node.size
        self.total = total
        latent_values = {node.value: node for node in latents}
        inputs = list(dict.fromkeys(v for v in explicit_graph_inputs(list(graphs)) if v in point or v in latent_values))
        order = [node for node in toposort(list(graphs)) if node is not None]
        tainted: set[Any] = set(latent_values)
        relevant = []
        for node in order:
            if any(v in tainted for v in node.inputs) and not isinstance(node.op, Shape | Shape_i):
                tainted.update(node.outputs)
                relevant.append(node)
        wanted = list(
            dict.fromkeys(v for node in relevant for v in (*node.inputs, *node.outputs) if hasattr(v.type, "ndim"))
        )
        wanted = [v for v in wanted if v not in inputs]
        first = {value: np.full(n.shape, n.support[0], dtype=value.dtype) for value, n in latent_values.items()}
        arguments = [point[v] if v in point else first[v] for v in inputs]
        known = [v for v in wanted if v not in tainted and v.type.dtype not in ("float32", "float64")]  # e.g. indices
        # of all else the shapes alone: the values together would be many times the data; most have theirs written on
        self._shapes = {v: v.type.shape for v in wanted if None not in v.type.shape}
        asked = [v for v in wanted if v not in self._shapes]
        with np.errstate(all="ignore"):
            lengths = [n for shape in infer_shape(asked, (), ()) for n in shape]
            evaluate = compile_graph(inputs, [*known, *lengths], optimise=False)
            values = evaluate(*arguments) if known or asked else []
        self._number = dict(zip(known, values)) | dict(zip(inputs, arguments))
        rest = iter(values[len(known) :])
        self._shapes |= {v: tuple(int(next(rest)) for _ in range(v.type.ndim)) for v in asked}
        self._shapes |= {v: np.shape(value) for v, value in zip(inputs, arguments)}
        self.scope: dict[Any, Any] = {}
        self.moved: dict[Any, np.ndarray] = {}
        for value, node in latent_values.items():
            ids = self.offsets[node.name] + np.arange(node.size).reshape(node.shape)
            self.moved[value] = ids
            own = sparse.csr_matrix((np.ones(node.size, bool), (np.arange(node.size), ids.ravel())), (node.size, total))
            self.scope[value] = Scope(own, node.shape)
        uses = Counter(v for node in relevant for v in set(node.inputs))
        for node in relevant:
            self._visit(node)
            for v in set(node.inputs) if not keep else ():
                uses[v] -= 1
                if v in self.scope and not uses[v] and v not in graphs and v not in latent_values:
                    self.scope[v] = None
        self._number = {}  # of all rows, and wanted no more

    def shape(self, variable: Any) -> tuple[int, ...]:
        return self._shapes[variable]

    def length(self, variable: Any, axis: int) -> int | None:
        """Length of an axis as it was evaluated, None for variables that were not."""
        shape = self._shapes.get(variable)
        return None if shape is None else shape[axis]

    def matrix(self, variable: Any) -> sparse.csr_matrix:
        """[elements, latent elements]: True where an element of the variable depends on a latent element."""
        return self.scope[variable].over(self.shape(variable))

    def _empty(self, rows: int) -> sparse.csr_matrix:
        return sparse.csr_matrix((rows, self.total), dtype=bool)

    def _visit(self, node: Any) -> None:
        op, out = node.op, node.outputs[0]
        if not hasattr(out.type, "ndim"):  # e.g. a scalar index: it depends on latents in a way we do not follow
            for output in node.outputs:
                self.scope[output] = self._everything(node, ())
            return
        shape = self.shape(out)
        rule = self._rule(node)
        scope = rule(node, shape) if rule is not None else None
        if scope is None:
            for output in node.outputs:
                self.scope[output] = self._everything(node, self.shape(output))
            return
        self.scope[out] = scope
        moves = isinstance(op, (*MOVES, AdvancedSubtensor))
        if moves and node.inputs[0] in self.moved and not any(v in self.scope for v in node.inputs[1:]):
            self.moved[out] = self._perform(node, self.moved[node.inputs[0]])
        elif isinstance(op, Elemwise) and type(op.scalar_op).__name__ == "Cast" and node.inputs[0] in self.moved:
            self.moved[out] = self.moved[node.inputs[0]]

    def _rule(self, node: Any) -> Any:
        op = node.op
        if isinstance(op, Elemwise):
            return self._elementwise
        if isinstance(op, MOVES):
            return self._move
        if isinstance(op, AdvancedSubtensor):
            return self._index
        if isinstance(op, IncSubtensor | AdvancedIncSubtensor):
            return self._set
        if isinstance(op, CAReduce | LogSumExp | Softmax | LogSoftmax):
            return self._reduce
        if isinstance(op, Join | MakeVector):
            return self._join
        if isinstance(op, Blockwise):
            return self._blockwise
        if isinstance(op, Dot):
            return self._dot
        return None

    def _everything(self, node: Any, shape: tuple[int, ...]) -> Scope:
        union = sum(
            (self.scope[v].rows.astype(np.int32).sum(axis=0) for v in node.inputs if v in self.scope),
            np.zeros((1, self.total)),
        )
        return Scope(sparse.csr_matrix(np.asarray(union).reshape(1, -1) > 0), (1,) * len(shape))

    def _perform(self, node: Any, ids: np.ndarray) -> np.ndarray:
        storage = [[None]]
        node.op.perform(node, [ids, *[self._number_of(v) for v in node.inputs[1:]]], storage)
        return np.asarray(storage[0][0])

    def _number_of(self, variable: Any) -> Any:
        if variable in self._number:
            return self._number[variable]
        return variable.data if hasattr(variable, "data") else compile_graph([], [variable])()[0]

    def _together(self, scopes: Sequence[Scope]) -> Scope:
        """The scopes of elements that meet by broadcasting, united."""
        shape = np.broadcast_shapes(*(scope.shape for scope in scopes))
        first, *others = {id(rows): rows for rows in (scope.over(shape) for scope in scopes)}.values()
        if not others:  # handed on as it is: rows of their own along a long plate are made once, not for each operation
            return Scope(first, shape)
        return Scope(sum(others, first).astype(bool), shape)

    def _elementwise(self, node: Any, shape: tuple[int, ...]) -> Scope:
        return self._together([self.scope[v] for v in dict.fromkeys(node.inputs) if v in self.scope])

    def _move(self, node: Any, shape: tuple[int, ...]) -> Scope | None:
        if any(v in self.scope for v in node.inputs[1:]):
            return None
        source = self.scope[node.inputs[0]]
        if isinstance(node.op, ViewOp | SpecifyShape):
            return source
        ids = np.arange(source.rows.shape[0]).reshape(source.shape)
        if not isinstance(node.op, DimShuffle):
            ids = np.broadcast_to(ids, self.shape(node.inputs[0]))
        moved = self._perform(node, ids)
        for axis in range(moved.ndim) if source.rows.shape[0] < ids.size else ():
            first = moved.take([0], axis=axis) if moved.size else moved
            if (moved == first).all():  # one scope along an axis, as before
                moved = first
        if moved.size == source.rows.shape[0] and np.array_equal(moved.ravel(), np.arange(moved.size)):
            return Scope(source.rows, moved.shape)
        return Scope(source.rows[moved.ravel()], moved.shape)

    def _index(self, node: Any, shape: tuple[int, ...]) -> Scope | None:
        source, *indices = node.inputs
        if not any(v in self.scope for v in indices):
            return self._move(node, shape)
        block = index_block(node)
        if block is None:
            return None
        position, ndim = block
        found = self._together([self.scope[v] for v in indices if v in self.scope])
        middle = (1,) * (ndim - len(found.shape)) + found.shape
        found = Scope(found.rows, (1,) * position + middle + (1,) * (len(shape) - position - ndim))
        if source not in self.scope:
            return found
        # what may be taken, wherever a latent points: all along the axes that latents choose from
        places = [axis for axis, entry in enumerate(node.op.idx_list) if not isinstance(entry, slice)]
        chosen = {axis for axis, v in zip(places, indices, strict=True) if v in self.scope}
        full = self.shape(source)
        own = self.scope[source].united(tuple(1 if axis in chosen else n for axis, n in enumerate(full)))
        ids = np.broadcast_to(np.arange(own.rows.shape[0]).reshape(own.shape), full)
        storage: list[list[Any]] = [[None]]
        anywhere = [np.zeros(self.shape(v), int) if v in self.scope else self._number_of(v) for v in indices]
        node.op.perform(node, [ids, *anywhere], storage)
        taken = np.asarray(storage[0][0])
        return self._together([found, Scope(own.rows[taken.ravel()], taken.shape)])

    def _set(self, node: Any, shape: tuple[int, ...]) -> Scope | None:
        """Known and unknown entries put together: an element is what was put there, or what was there before."""
        before, put, *indices = node.inputs
        if any(v in self.scope for v in indices):
            return None
        size, n_put = int(np.prod(shape, dtype=int)), int(np.prod(self.shape(put), dtype=int))
        numbers = size + np.arange(n_put).reshape(self.shape(put))
        storage: list[list[Any]] = [[None]]
        op = node.op if node.op.set_instead_of_inc else type(node.op)(node.op.idx_list, set_instead_of_inc=True)
        own = np.arange(size).reshape(shape)
        op.perform(node, [own, numbers, *[self._number_of(v) for v in indices]], storage)
        place = np.asarray(storage[0][0]).ravel()
        scopes = [
            self.matrix(v) if v in self.scope else self._empty(rows) for v, rows in ((before, size), (put, n_put))
        ]
        total = sparse.vstack(scopes, format="csr")[place]
        return Scope(total if node.op.set_instead_of_inc else (total + scopes[0]).astype(bool), shape)

    def _reduce(self, node: Any, shape: tuple[int, ...]) -> Scope:
        (source,) = node.inputs
        full = self.shape(source)
        axes = tuple(range(len(full))) if node.op.axis is None else tuple(node.op.axis)
        found = self.scope[source].united(tuple(1 if axis in axes else n for axis, n in enumerate(full)))
        if len(shape) == len(full):  # a softmax keeps the axis that it normalises over
            return found
        return Scope(found.rows, tuple(n for axis, n in enumerate(found.shape) if axis not in axes))

    def _join(self, node: Any, shape: tuple[int, ...]) -> Scope | None:
        parts = list(node.inputs)
        axis = 0
        if isinstance(node.op, Join):
            axis = node.op.axis if isinstance(getattr(node.op, "axis", None), int) else 0
        stacked, ids, start = [], [], 0
        for v in parts:
            part_shape = self._shapes[v] if v in self._shapes else np.shape(self._number_of(v))
            rows = int(np.prod(part_shape, dtype=int))
            stacked.append(self.matrix(v) if v in self.scope else self._empty(rows))
            ids.append(start + np.arange(rows).reshape(part_shape))
            start += rows
        joined = (
            np.array([i.item() for i in ids]) if isinstance(node.op, MakeVector) else np.concatenate(ids, axis=axis)
        )
        return Scope(sparse.vstack(stacked, format="csr")[joined.ravel()], shape)

    def _blockwise(self, node: Any, shape: tuple[int, ...]) -> Scope | None:
        if len(node.outputs) > 1:
            return None
        if isinstance(node.op.core_op, Dot):
            return self._matmul(node, shape)
        batch_ndim = node.op.batch_ndim(node)
        found = []
        for v in dict.fromkeys(node.inputs):
            if v in self.scope:
                own = self.shape(v)[:batch_ndim]
                united = self.scope[v].united((*own, *(1,) * (len(self.shape(v)) - batch_ndim)))
                found.append(Scope(united.rows, united.shape[:batch_ndim]))
        batch = self._together(found)
        return Scope(batch.rows, (*batch.shape, *(1,) * (len(shape) - batch_ndim)))

    def _matmul(self, node: Any, shape: tuple[int, ...]) -> Scope:
        """Batches of matrix products: an element depends on its row of the left and its column of the right."""
        found = []
        for side, v in enumerate(node.inputs):
            if v in self.scope:
                own = self.shape(v)
                found.append(self.scope[v].united((*own[:-1], 1) if side == 0 else (*own[:-2], 1, own[-1])))
        return self._together(found)

    def _dot(self, node: Any, shape: tuple[int, ...]) -> Scope | None:
        return self._matmul(node, shape) if len(shape) == 2 else None


def index_block(node: Any) -> tuple[int, int] | None:
    """Where the axes of the index arrays lie in the result of an AdvancedSubtensor: (position, number of axes)."""
    places = [i for i, entry in enumerate(node.op.idx_list) if not isinstance(entry, slice)]
    if any(isinstance(entry, slice) and entry != slice(None) for entry in node.op.idx_list):
        return None
    if any(v.type.dtype == "bool" for v in node.inputs[1:]):
        return None
    ndim = max(v.type.ndim for v in node.inputs[1:])
    contiguous = places == list(range(places[0], places[-1] + 1))
    return (places[0] if contiguous else 0), ndim


def _rows(own: tuple[int, ...], shape: tuple[int, ...]) -> np.ndarray:
    """For each element of `shape`, the element of an array of shape `own` that broadcasting puts there."""
    return np.broadcast_to(np.arange(int(np.prod(own, dtype=int))).reshape(own), shape).ravel()
