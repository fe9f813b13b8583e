"""Tied latents summed out one after the other: log-likelihoods of the components and marginals of every local table.

Variable elimination forwards (Koller & Friedman 2009, algorithm 9.1); backwards the derivative of the log-likelihood
with respect to each table entry, which is the posterior probability of that entry. Cost: that of the elimination.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytensor.tensor as pt
from pytensor.gradient import disconnected_type
from pytensor.graph.basic import Apply
from pytensor.graph.op import Op

from emppl.kernels.elimination import elimination_loop
from emppl.kernels.mixture import LOWEST
from emppl.structure.types import Elimination, Structure


def eliminate(
    plan: Elimination, tables: Sequence[np.ndarray], *, hard: bool = False
) -> tuple[np.ndarray, list[np.ndarray]]:
    """(log-likelihood [B], posterior probabilities, one array of the shape of each table).

    tables: log potentials [B, values of each variable of its scope], in the order of `plan.tables`; all finite
    (LOWEST stands for minus infinity). hard: the best joint assignment in place of the sum, as in Viterbi's algorithm.
    """
    scopes = plan.left()
    held: list[np.ndarray] = list(tables)
    sums: list[np.ndarray] = []
    for variable, used in plan.steps:
        joined = _joined(scopes, used, variable)
        total = sum(_spread(held[t], scopes[t], joined) for t in used)
        axis = 1 + joined.index(variable)
        peak = np.asarray(total).max(axis=axis)
        if not hard:
            peak = peak + np.log(np.exp(total - np.expand_dims(peak, axis)).sum(axis=axis))
        sums.append(np.asarray(total))
        held.append(peak)
    log_likelihood = sum(held[t] for t in _last(plan, scopes))
    weights: list[np.ndarray] = [np.empty(0)] * len(held)
    for t in _last(plan, scopes):
        weights[t] = np.ones(len(tables[0]))
    for number in range(len(plan.steps) - 1, -1, -1):
        variable, used = plan.steps[number]
        out = len(plan.scopes) + number
        joined = _joined(scopes, used, variable)
        axis = 1 + joined.index(variable)
        if hard:
            best = sums[number].argmax(axis=axis)
            share = (np.expand_dims(best, axis) == _along(axis, sums[number])).astype(float)
        else:
            share = np.exp(sums[number] - np.expand_dims(held[out], axis))
        share = share * np.expand_dims(weights[out], axis)
        for t in used:
            gone = tuple(1 + i for i, v in enumerate(joined) if v not in scopes[t])
            place = sorted(scopes[t])
            weights[t] = share.sum(axis=gone).transpose(0, *(1 + place.index(v) for v in scopes[t]))
    log_likelihood = np.where(np.asarray(log_likelihood) <= 0.5 * LOWEST, -np.inf, log_likelihood)
    return log_likelihood, weights[: len(plan.tables)]


def log_likelihood_graph(plan: Elimination, tables: Sequence[Any]) -> Any:
    """The same log-likelihood [B] as a PyTensor graph of the tables; its gradient is that of the model."""
    scopes, held = plan.left(), [pt.maximum(t, np.float64(LOWEST)) for t in tables]  # no differences of infinities
    for variable, used in plan.steps:
        joined = _joined(scopes, used, variable)
        total = sum(_spread(held[t], scopes[t], joined) for t in used)
        held.append(pt.logsumexp(total, axis=1 + joined.index(variable)))
    return pt.stack([held[t] for t in _last(plan, scopes)]).sum(axis=0)


def program(structure: Structure) -> dict[str, np.ndarray]:
    """All eliminations of a structure as index arrays: what `kernels.elimination` and its Op run over.

    Leaves are the log joints [C, J] of the tied plates, row by row, plate after plate.
    """
    offset, leaves = {}, 0
    for p, plate in enumerate(structure.plates):
        if plate.tied:
            offset[p] = leaves
            leaves += plate.size * plate.n_configurations
    entries, steps, sources, outputs = leaves, [], [], []
    roots: list[np.ndarray] = []
    n_sources = n_outputs = 0
    for plan in structure.eliminations:
        scopes = plan.left()
        first: list[np.ndarray] = [
            offset[p] + members * structure.plates[p].n_configurations for p, members in plan.tables
        ]
        for variable, used in plan.steps:
            joined = _joined(scopes, used, variable)
            grids = np.indices([plan.supports[v] for v in joined]).reshape(len(joined), -1)
            values = dict(zip(joined, grids))

            out = tuple(v for v in joined if v != variable)
            size = int(np.prod([plan.supports[v] for v in out], dtype=int))
            first.append(entries + size * np.arange(plan.size))
            entries += size * plan.size
            parts = [first[t][:, None] + _places(scopes[t], plan.supports, values) for t in used]
            source = np.stack(parts, axis=-1)  # [B, states, tables]
            output = first[-1][:, None] + _places(out, plan.supports, values)
            steps.append((output.size, len(used), n_sources, n_outputs))
            sources.append(source.ravel())
            outputs.append(output.ravel())
            n_sources, n_outputs = n_sources + source.size, n_outputs + output.size
        roots.extend(first[t] for t in _last(plan, scopes))
    return {
        "steps": np.array(steps, dtype=np.int64),
        "sources": np.concatenate(sources).astype(np.int64),
        "outputs": np.concatenate(outputs).astype(np.int64),
        "roots": np.concatenate(roots).astype(np.int64),
        "entries": np.array([entries], dtype=np.int64),
    }


def _places(scope: tuple[int, ...], supports: tuple[int, ...], values: dict[int, np.ndarray]) -> np.ndarray:
    """The entry of a table over `scope` that belongs to each joint state; values[v]: that of variable v."""
    index = np.zeros(len(next(iter(values.values()))), dtype=np.int64)
    for v in scope:
        index = index * supports[v] + values[v]
    return index


class EliminationLogLikelihood(Op):
    """(leaves [L], and the arrays of a `program`) → (log-likelihood, probabilities of the leaves [L]).

    The probabilities are the derivative of the log-likelihood with respect to the leaves.
    """

    __props__ = ()

    def make_node(self, leaves: Any, steps: Any, sources: Any, outputs: Any, roots: Any, entries: Any) -> Apply:
        inputs = [pt.as_tensor_variable(v) for v in (leaves, steps, sources, outputs, roots, entries)]
        return Apply(self, inputs, [pt.dscalar(), pt.dvector()])

    def perform(self, node: Any, inputs: Any, outputs: Any) -> None:
        outputs[0][0], outputs[1][0] = elimination_loop()(*inputs)

    def infer_shape(self, node: Any, shapes: Any) -> Any:
        return [(), shapes[0]]

    def connection_pattern(self, node: Any) -> list[list[bool]]:
        return [[True, False], *[[False, False]] * 5]

    def pullback(self, inputs: Any, outputs: Any, cotangents: Any) -> list[Any]:
        return [cotangents[0] * outputs[1], *[disconnected_type() for _ in inputs[1:]]]


elimination_log_likelihood = EliminationLogLikelihood()


def register() -> None:
    """Tell PyTensor's Numba backend of the Op; called when a sampler is compiled."""
    from pytensor.link.numba.dispatch.basic import register_funcify_default_op_cache_key

    from emppl.kernels.caching import code_key

    @register_funcify_default_op_cache_key(EliminationLogLikelihood)
    def funcify(op: Any, node: Any, **kwargs: Any) -> Any:
        return elimination_loop(), code_key(elimination_loop())


def _joined(scopes: Sequence[tuple[int, ...]], used: Sequence[int], variable: int) -> tuple[int, ...]:
    return tuple(sorted({v for t in used for v in scopes[t]} | {variable}))


def _last(plan: Elimination, scopes: Sequence[tuple[int, ...]]) -> list[int]:
    """Tables that no step uses: one, unless a component falls apart."""
    used = {t for _, tables in plan.steps for t in tables}
    return [t for t in range(len(scopes)) if t not in used]


def _spread(table: Any, scope: tuple[int, ...], joined: tuple[int, ...]) -> Any:
    """A table [B, scope] with an axis of length one for every variable that it does not have."""
    order = sorted(range(len(scope)), key=lambda i: scope[i])
    if isinstance(table, np.ndarray):
        table = table.transpose(0, *(1 + i for i in order))
        return table[(slice(None), *(slice(None) if v in scope else None for v in joined))]
    axes = iter(1 + i for i in order)
    return table.dimshuffle(0, *(next(axes) if v in scope else "x" for v in joined))


def _along(axis: int, array: np.ndarray) -> np.ndarray:
    return np.arange(array.shape[axis]).reshape([-1 if a == axis else 1 for a in range(array.ndim)])
