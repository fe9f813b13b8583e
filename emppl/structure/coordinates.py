"""The parameters as one flat vector of unconstrained numbers, by the transforms that PyMC gave them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt
from pymc.logprob.utils import replace_rvs_by_values
from pytensor.tensor.random.type import RandomType

from emppl.compiling import compile_graph
from emppl.structure.graph import freeze_data
from emppl.structure.types import Node

Point = dict[str, np.ndarray]
SMALLEST_WEIGHT = 1e-16  # stands for a weight of zero where its log is needed


class Coordinates:
    """theta (constrained, by name) ↔ u (unconstrained, [P]).

    `graphs` holds each parameter as a graph in `vector`, so that any density of theta can be differentiated by u.
    """

    def __init__(self, parameters: Sequence[Node]) -> None:
        self.parameters = tuple(parameters)
        self.vector = pt.dvector("unconstrained")
        rvs_to_values = {node.rv: node.value for node in parameters if node.rv is not None}
        forward, shapes = [], []
        for node in parameters:
            inputs = self._inputs(node, rvs_to_values)
            u = node.value if node.transform is None else node.transform.forward(node.value, *inputs)
            forward.append(u)
        forward = freeze_data(forward)
        values = [node.value for node in parameters]
        self._forward = compile_graph(values, forward) if parameters else None
        trial = [np.ones(node.shape, dtype=node.value.dtype) for node in parameters]
        with np.errstate(all="ignore"):
            shapes = [np.shape(u) for u in self._forward(*trial)] if parameters else []
        self._shapes = shapes
        sizes = [int(np.prod(shape, dtype=int)) for shape in shapes]
        self.size = sum(sizes)
        ends = np.cumsum([0, *sizes])
        self.slices = {node.name: slice(int(a), int(b)) for node, a, b in zip(parameters, ends[:-1], ends[1:])}
        self.graphs: dict[str, Any] = {}
        replaced: dict[Any, Any] = {}
        for node, shape in zip(parameters, shapes):
            u = self.vector[self.slices[node.name]].reshape(shape)
            if node.transform is None:
                theta = u
            else:
                # a bound may be another parameter, which PyMC lists earlier: its value stands in for the random
                # variable
                inputs = [_replace(v, replaced) for v in self._inputs(node, rvs_to_values)]
                theta = node.transform.backward(u, *inputs)
            replaced[node.value] = theta
            self.graphs[node.name] = theta
        backward = freeze_data([self.graphs[node.name] for node in parameters])
        self.graphs = dict(zip(self.graphs, backward))
        self._backward = compile_graph([self.vector], backward) if parameters else None
        self._log_jacobian = [
            node.transform.log_jac_det(self.vector[self.slices[node.name]].reshape(shape), *[
                _replace(v, replaced) for v in self._inputs(node, rvs_to_values)
            ]).sum()
            for node, shape in zip(parameters, shapes)
            if node.transform is not None
        ]  # fmt: skip

    @cached_property
    def log_jacobian(self) -> Any:
        """u → (log |d theta / d u|, its gradient [P]): what a density gains on the unconstrained scale."""
        if not self._log_jacobian:
            return lambda u: (0.0, np.zeros(self.size))
        (total,) = freeze_data([pt.stack(self._log_jacobian).sum()])
        gradient = pytensor.grad(total, self.vector, disconnected_inputs="ignore")
        return compile_graph([self.vector], [total, gradient])

    def _inputs(self, node: Node, rvs_to_values: Mapping[Any, Any]) -> list[Any]:
        inputs = list(node.rv.owner.inputs)
        graphs = [v for v in inputs if not isinstance(v.type, RandomType) and hasattr(v.type, "ndim")]
        replaced = iter(replace_rvs_by_values(graphs, rvs_to_values=dict(rvs_to_values), rvs_to_transforms={}))
        return [next(replaced) if v in graphs else v for v in inputs]

    @property
    def values(self) -> list[Any]:
        """The value variables, in order: the inputs of every compiled function of theta."""
        return [node.value for node in self.parameters]

    def arguments(self, theta: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """theta as the positional arguments of a function over `values`."""
        return [np.asarray(theta[node.name], dtype=node.value.dtype) for node in self.parameters]

    def constrain(self, u: np.ndarray) -> Point:
        if self._backward is None:
            return {}
        return {node.name: np.asarray(v) for node, v in zip(self.parameters, self._backward(np.asarray(u, float)))}

    @cached_property
    def transformed(self) -> np.ndarray:
        """Which coordinates [P] are logs, logits and the like.

        There a large number is a border, elsewhere just a number.
        """
        mask = np.zeros(self.size, dtype=bool)
        for node in self.parameters:
            mask[self.slices[node.name]] = node.transform is not None
        return mask

    def inside(self, u: np.ndarray, limit: float) -> np.ndarray:
        """u with nan as zero, logs and logits kept within ±limit, and no weight below exp(-limit) of the largest.

        A point that every density can be asked at.
        """
        bounded = np.clip(np.nan_to_num(u, nan=0.0, posinf=limit, neginf=-limit), -limit, limit)
        answer = np.where(self.transformed, bounded, np.nan_to_num(u, nan=0.0, posinf=0.0, neginf=0.0))
        for _, part, logs in self._weights(np.where(np.isfinite(u), u, answer)):
            kept = np.maximum(logs, logs.max(axis=1, keepdims=True) - limit)
            answer[part] = (kept - kept.mean(axis=1, keepdims=True))[:, :-1].ravel()
        return answer

    def _weights(self, u: np.ndarray) -> Iterator[tuple[Node, slice, np.ndarray]]:
        """Parameters on a simplex: node, coordinates, and the logs of their weights [simplices, K] up to a constant."""
        for node, shape in zip(self.parameters, self._shapes):
            if getattr(node.transform, "name", None) == "simplex":
                part = self.slices[node.name]
                free = u[part].reshape(-1, shape[-1])
                yield node, part, np.concatenate([free, -free.sum(axis=1, keepdims=True)], axis=1)

    def face(self, u: np.ndarray, border: float) -> np.ndarray:
        """Directions [P, P'] that move theta without leaving the borders on which it lies.

        A log or logit beyond ±border is left out; of weights on a simplex those below exp(-border) of the largest are,
        and the others move against each other.
        """
        with np.errstate(invalid="ignore"):
            free = np.isfinite(u) & ((np.abs(u) < border) | ~self.transformed)
        columns = {int(i): np.eye(self.size)[:, i] for i in np.flatnonzero(free)}
        for _, part, logs in self._weights(np.nan_to_num(u)):
            k, start = logs.shape[1], part.start
            for row, values in enumerate(logs):
                first = start + row * (k - 1)
                held = np.flatnonzero(values > values.max() - border)
                for i in range(first, first + k - 1):
                    columns.pop(i, None)
                if len(held) == k:
                    columns |= {i: np.eye(self.size)[:, i] for i in range(first, first + k - 1)}
                    continue
                top = int(values.argmax())
                for i, w in enumerate(int(h) for h in held if h != top):
                    column = np.zeros(self.size)
                    column[first : first + k - 1] = _weight_direction(w, k) - _weight_direction(top, k)
                    columns[first + i] = column
        return np.stack([columns[i] for i in sorted(columns)], axis=1) if columns else np.zeros((self.size, 0))

    def outward(self, u: np.ndarray, border: float) -> list[tuple[str, np.ndarray]]:
        """Parameters with an element on a border of its domain, and the direction [P] that leads further there."""
        answer = []
        simplices = np.zeros(self.size, dtype=bool)
        for node, part, logs in self._weights(np.nan_to_num(u)):
            simplices[part] = True
            k = logs.shape[1]
            for row, w in np.argwhere(logs <= logs.max(axis=1, keepdims=True) - border):
                direction = np.zeros(self.size)
                first = part.start + row * (k - 1)
                direction[first : first + k - 1] = -_weight_direction(int(w), k)
                answer.append((node.name, direction))
        with np.errstate(invalid="ignore"):
            far = self.transformed & ~simplices & (np.abs(u) > border)
        for node in self.parameters:
            for i in range(self.slices[node.name].start, self.slices[node.name].stop):
                if far[i]:
                    answer.append((node.name, np.sign(u[i]) * np.eye(self.size)[:, i]))
        return answer

    def split(self, u: np.ndarray) -> dict[str, np.ndarray]:
        """u cut into each parameter's own unconstrained array, as PyMC's value variables hold it."""
        return {n.name: u[self.slices[n.name]].reshape(s) for n, s in zip(self.parameters, self._shapes)}

    def unconstrain(self, theta: Mapping[str, np.ndarray]) -> np.ndarray:
        """u of theta; infinite where theta lies on the border of its domain, nan where it lies outside."""
        if self._forward is None:
            return np.zeros(0)
        with np.errstate(all="ignore"):
            parts = [np.ravel(v) for v in self._forward(*self.arguments(theta))]
            if not all(np.isfinite(part).all() for part in parts):
                inside = {n.name: _off_the_zeros(n, np.asarray(theta[n.name], float)) for n in self.parameters}
                again = [np.ravel(v) for v in self._forward(*self.arguments(inside))]
                parts = [
                    b if getattr(n.transform, "name", None) == "simplex" and not np.isfinite(a).all() else a
                    for n, a, b in zip(self.parameters, parts, again)
                ]
            return np.concatenate(parts)

    def jacobian(self, u: np.ndarray) -> dict[str, np.ndarray]:
        """d theta / d u for each parameter, [*shape, P], by central differences of the smooth map."""
        h = 1e-6 * np.maximum(1.0, np.abs(u))
        columns = []
        for i in range(self.size):
            step = np.zeros(self.size)
            step[i] = h[i]
            up, down = self.constrain(u + step), self.constrain(u - step)
            columns.append({name: (up[name] - down[name]) / (2 * h[i]) for name in up})
        return {name: np.stack([c[name] for c in columns], axis=-1) for name in columns[0]} if columns else {}


def _off_the_zeros(node: Node, value: np.ndarray) -> np.ndarray:
    """Weights of zero a hair inside their simplex, since logs of their ratios are no numbers; all else as it is."""
    on_simplex = (value >= 0).all() and getattr(node.transform, "name", None) == "simplex"
    return np.maximum(value, SMALLEST_WEIGHT) if on_simplex and np.allclose(value.sum(axis=-1), 1.0) else value


def _replace(graph: Any, replaced: dict[Any, Any]) -> Any:
    if not replaced or isinstance(graph.type, RandomType):
        return graph
    return pytensor.graph.replace.graph_replace([graph], replaced, strict=False)[0]


def _weight_direction(w: int, k: int) -> np.ndarray:
    """d u [K - 1] as the log of weight w of K rises: PyMC's coordinates are the logs less their mean, but the last."""
    return (np.arange(k - 1) == w) - 1.0 / k
