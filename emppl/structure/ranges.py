"""How far a graph can go over all values of the latents it depends on.

Asked of bounds: `DiscreteUniform(0, z[0] - z[1] + 3)` reaches 6 where z is (3, 0), though never where the elements of
z are equal. A part of the graph is evaluated at every joint value of the latent elements that its elements depend on,
while these are few; beyond that its range follows from those of its operands, which can only err towards a wider one.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from pytensor.graph.basic import Constant
from pytensor.tensor.basic import Join, MakeVector
from pytensor.tensor.elemwise import CAReduce, Elemwise
from pytensor.tensor.math import Max, Min, Sum
from pytensor.tensor.subtensor import AdvancedSubtensor, Subtensor
from scipy import sparse

from emppl.compiling import compile_graph
from emppl.structure.topology import MOVES, Scopes
from emppl.structure.types import Node

MOST_ASSIGNMENTS = 4096  # joint values of latents at which a graph is evaluated
MOST_NUMBERS = 10_000_000  # of all its elements in all these evaluations
MOST_CORNERS = 8  # operands of one operation that vary
# Each rises or falls in each operand, whatever the others are: its extremes lie at corners of the operands' ranges.
MONOTONE = {
    "Add", "Sub", "Mul", "Neg", "Maximum", "Minimum", "Cast", "Identity", "Floor", "Ceil", "Trunc", "RoundHalfToEven",
    "RoundHalfAwayFromZero", "Exp", "Expm1", "Log", "Log1p", "Sqrt", "Sigmoid", "LT", "LE", "GT", "GE", "AND", "OR",
    "Invert", "Switch", "Clip",
}  # fmt: skip
VALLEYS = {"Abs", "Sqr"}  # these fall to zero and rise from there, as whole powers do or rise throughout
QUOTIENTS = {"TrueDiv", "IntDiv"}  # monotone where the denominator keeps its sign
Range = tuple[np.ndarray, np.ndarray]


class UnknownRange(Exception):
    """An operation whose range is not known meets more joint values than are evaluated; the message says which."""


class Ranges:
    """The smallest and the largest value of each element of a graph, over all values of the latents in it.

    latents: those that the graph may hold, with their supports. Raises UnknownRange; UnknownRange too where the graph
    is no number at some of the values.
    """

    def __init__(self, graph: Any, latents: Sequence[Node]) -> None:
        self._scopes = Scopes([graph], latents, {}, keep=True)
        self._latents = latents
        self._sizes = np.array([node.n_values for node in latents for _ in range(node.size)])
        self._found: dict[Any, Range] = {}

    def __call__(self, v: Any) -> Range:
        """Lowest and highest value of each element of v, both of its shape."""
        if v not in self._found:
            low, high = self._range(v)
            if np.isnan(low).any() or np.isnan(high).any():
                raise UnknownRange("it is no number at some values of what it depends on")
            self._found[v] = (low, high)
        return self._found[v]

    def _range(self, v: Any) -> Range:
        if v not in self._scopes.scope:
            number = np.asarray(v.data if isinstance(v, Constant) else compile_graph([], v)())
            return number, number
        colours = self._colours(v)
        if colours is not None:
            return self._by_assignments(v, colours)
        if v.owner is None:
            node = next(node for node in self._latents if node.value is v)
            low, high = np.min(node.support), np.max(node.support)
            return np.full(node.shape, low, dtype=v.dtype), np.full(node.shape, high, dtype=v.dtype)
        return self._by_operands(v.owner)

    # -- few joint values: all of them ----------------------------------------------------------------------------

    def _colours(self, v: Any) -> np.ndarray | None:
        """A colour for each latent element that v depends on, −1 for others, so that no two elements of one colour meet
        in an element of v and all of one colour belong to one latent: each can take all its values while the others do.

        None where that makes too many joint values.
        """
        scope = self._scopes.matrix(v)
        varies = self._sizes > 1
        scope = scope.astype(np.int32).multiply(varies[None, :]).tocsr()  # the others have one value only
        scope.eliminate_zeros()
        most = min(MOST_ASSIGNMENTS, MOST_NUMBERS // max(scope.shape[0], 1))
        if scope.nnz and (scope @ np.log(self._sizes)).max() > np.log(most) + 1e-9:
            return None
        colours, first, count = np.full(scope.shape[1], -1), 0, 1.0
        for node in self._latents:
            start = self._scopes.offsets[node.name]
            part = scope[:, start : start + node.size].astype(np.int32)
            own = _colour(part)
            colours[start : start + node.size] = np.where(own < 0, -1, first + own)
            n_colours = int(own.max(initial=-1)) + 1
            first += n_colours
            count *= float(node.n_values) ** n_colours
        return colours if count <= most else None

    def _by_assignments(self, v: Any, colours: np.ndarray) -> Range:
        values = [node.value for node in self._latents]
        function = compile_graph(values, v)
        owner = np.repeat(np.arange(len(self._latents)), [node.size for node in self._latents])
        supports = []
        for colour in range(colours.max(initial=-1) + 1):
            supports.append(self._latents[owner[np.argmax(colours == colour)]].support)
        flat = [np.full(node.size, node.support[0]).astype(node.value.dtype) for node in self._latents]
        places = [
            (c, n, np.flatnonzero(part == c))
            for n, node in enumerate(self._latents)
            for part in [colours[self._scopes.offsets[node.name] :][: node.size]]
            for c in np.unique(part[part >= 0])
        ]
        low = high = None
        for chosen in itertools.product(*supports):
            for c, n, elements in places:
                flat[n][elements] = chosen[c]
            with np.errstate(all="ignore"):
                found = np.asarray(function(*[f.reshape(node.shape) for f, node in zip(flat, self._latents)]))
            low = found.copy() if low is None else np.minimum(low, found)
            high = found.copy() if high is None else np.maximum(high, found)
        assert low is not None and high is not None  # a product of nothing is one assignment
        return low, high

    # -- many: from the ranges of the operands --------------------------------------------------------------------

    def _by_operands(self, node: Any) -> Range:
        op, out = node.op, node.outputs[0]
        if isinstance(op, Elemwise):
            return self._elementwise(node)
        if isinstance(op, Sum | Max | Min) or (
            isinstance(op, CAReduce) and type(op.scalar_op).__name__ in ("AND", "OR")
        ):
            return self._at_both_ends(node, list(node.inputs), [])
        indexed = isinstance(op, Subtensor | AdvancedSubtensor)
        if indexed and any(v in self._scopes.scope for v in node.inputs[1:]):  # whichever element is taken
            low, high = self(node.inputs[0])
            shape = self._scopes.shape(out)
            return np.full(shape, low.min()), np.full(shape, high.max())
        if isinstance(op, (*MOVES, AdvancedSubtensor)):
            return self._at_both_ends(node, [node.inputs[0]], list(node.inputs[1:]))
        if isinstance(op, Join | MakeVector):
            return self._at_both_ends(node, list(node.inputs), [])
        raise UnknownRange(f"{op} of them goes through too many joint values")

    def _at_both_ends(self, node: Any, rising: list[Any], fixed: list[Any]) -> Range:
        """An operation that never falls where its operands rise."""
        fresh = [v.type() for v in rising]
        function = compile_graph(fresh, node.op(*fresh, *fixed) if fixed or len(fresh) > 1 else node.op(fresh[0]))
        ranges = [self(v) for v in rising]
        low, high = (
            np.asarray(function(*[np.asarray(r[end], v.dtype) for r, v in zip(ranges, rising)])) for end in (0, 1)
        )
        return low, high

    def _elementwise(self, node: Any) -> Range:
        name = type(node.op.scalar_op).__name__.removeprefix("Scalar")
        ranges = [self(v) for v in node.inputs]
        if name in ("EQ", "NEQ"):
            shape = self._scopes.shape(node.outputs[0])
            return np.zeros(shape), np.ones(shape)
        known, turns = name in MONOTONE or name in VALLEYS, name in VALLEYS
        if name in QUOTIENTS:
            known = bool((ranges[1][0] > 0).all() or (ranges[1][1] < 0).all())
        if name == "Pow":
            exponent = ranges[1][0]
            turns = ranges[1][0] is ranges[1][1] and bool((exponent >= 0).all() and (exponent % 1 == 0).all())
            known = turns or bool((ranges[0][0] > 0).all())
        if not known or sum(low is not high for low, high in ranges) > MOST_CORNERS:
            raise UnknownRange(f"{name} of them goes through too many joint values")
        fresh = [v.type() for v in node.inputs]
        function = compile_graph(fresh, node.op(*fresh))
        ends: list[tuple[np.ndarray, ...]] = [(low,) if low is high else (low, high) for low, high in ranges]
        if turns:
            ends[0] = (*ends[0], np.clip(0, *ranges[0]))
        found = []
        for corner in itertools.product(*ends):
            with np.errstate(all="ignore"):
                found.append(np.asarray(function(*[np.asarray(c, v.dtype) for c, v in zip(corner, node.inputs)])))
        return np.min(found, axis=0), np.max(found, axis=0)


def _colour(scope: sparse.csr_matrix) -> np.ndarray:
    """Colours [latent elements] such that no row of scope [rows, latent elements] holds one twice; −1 if in none."""
    used = np.asarray(scope.sum(axis=0)).ravel() > 0
    if np.asarray(scope.sum(axis=1)).max(initial=0) <= 1:
        return np.where(used, 0, -1)
    meets, colours = (scope.T @ scope).tocsr(), np.full(scope.shape[1], -1)
    for element in np.flatnonzero(used):
        taken = set(colours[meets.indices[meets.indptr[element] : meets.indptr[element + 1]]].tolist())
        colours[element] = next(c for c in itertools.count() if c not in taken)
    return colours
