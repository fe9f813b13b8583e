"""The parameters as one flat vector of unconstrained numbers, by the transforms that PyMC gave them.

Once a plan has found where each of PyMC's coordinates lies and how wide it is, `u` counts from there in widths: a mean
in nanometres and a slope per million inhabitants are numbers about one alike, so that steps, borders and curvatures
can be judged by the same limits whatever the units of the data are.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pytensor.tensor as pt
from pymc.logprob.utils import replace_rvs_by_values
from pytensor.graph.replace import graph_replace
from pytensor.tensor.random.type import RandomType

from emppl.compiling import CompiledSlope, building, compile_graph, depends_on
from emppl.structure.types import Node
from emppl.structure.variables import freeze_data

Point = dict[str, np.ndarray]
FAR = 40.0  # of a coordinate, where what has no bound is past all numbers that a bound could be
BOUNDED = 1e10  # times its value in the middle: what is no larger at FAR has bounds


class Coordinates:
    """theta (constrained, by name) ↔ u (unconstrained, [P]).

    u counts from `shift` in units of `width`: PyMC's own coordinates are shift + width · u, which is what `raw` gives.
    `graphs` holds each parameter as a graph in `vector`, PyMC's own coordinates, so that any density of theta can be
    differentiated by them.
    """

    _scales: Callable[[], tuple[np.ndarray, np.ndarray]] | None = None
    _unscaled: Coordinates | None = None

    def __init__(self, parameters: Sequence[Node]) -> None:
        self.parameters = tuple(parameters)
        rvs_to_values = {node.rv: node.value for node in parameters if node.rv is not None}
        forward, shapes = [], []
        for node in parameters:
            inputs = self._inputs(node, rvs_to_values)
            u = node.value if node.transform is None else node.transform.forward(node.value, *inputs)
            forward.append(u)
        forward = freeze_data(forward, numbers=True)
        values = [node.value for node in parameters]
        # parameters whose values a parameter's bounds depend on
        self.bounds = {
            node.name: {other.name for other in parameters if other is not node and depends_on(u, {other.value})}
            for node, u in zip(parameters, forward)
        }
        self._forward = compile_graph(values, forward, unroll=True) if parameters else None
        trial = [np.ones(node.shape, dtype=node.value.dtype) for node in parameters]
        with np.errstate(all="ignore"):
            shapes = [np.shape(u) for u in self._forward(*trial)] if parameters else []
        self._shapes = shapes
        sizes = [int(np.prod(shape, dtype=int)) for shape in shapes]
        self.size = sum(sizes)
        self.vector = pt.dvector("unconstrained", shape=(self.size,))
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
        backward = freeze_data([self.graphs[node.name] for node in parameters], numbers=True)
        self.graphs = dict(zip(self.graphs, backward))
        self._backward = compile_graph([self.vector], backward, unroll=True) if parameters else None
        self._log_jacobian = [
            node.transform.log_jac_det(self.vector[self.slices[node.name]].reshape(shape), *[
                _replace(v, replaced) for v in self._inputs(node, rvs_to_values)
            ]).sum()
            for node, shape in zip(parameters, shapes)
            if node.transform is not None
        ]  # fmt: skip

    def scaled(self, scales: Callable[[], tuple[np.ndarray, np.ndarray]]) -> Coordinates:
        """The same with u counted from a shift [P] in widths [P], which `scales` is asked for when first needed."""
        other = copy.copy(self.unscaled)
        other.__dict__.pop("_shift_and_width", None)
        other._scales, other._unscaled = scales, self.unscaled
        return other

    @property
    def unscaled(self) -> Coordinates:
        """The same with PyMC's own coordinates for u."""
        return self if self._unscaled is None else self._unscaled

    @cached_property
    def _shift_and_width(self) -> tuple[np.ndarray, np.ndarray]:
        return (np.zeros(self.size), np.ones(self.size)) if self._scales is None else self._scales()

    @property
    def shift(self) -> np.ndarray:
        """PyMC's own coordinates [P] where u is zero."""
        return self._shift_and_width[0]

    @property
    def width(self) -> np.ndarray:
        """How much PyMC's own coordinates [P] move with one of u."""
        return self._shift_and_width[1]

    def spread(self, name: str) -> np.ndarray:
        """How much each number of a parameter [*shape] moves with one of u; 1 for logs, logits and the like."""
        part, node = self.slices[name], next(node for node in self.parameters if node.name == name)
        return np.ones(node.shape) if node.transform is not None else self.width[part].reshape(node.shape)

    def raw(self, u: np.ndarray) -> np.ndarray:
        """PyMC's own coordinates [P] of u [P]."""
        return np.asarray(u, float) if self._scales is None else self.shift + self.width * np.asarray(u, float)

    def grain(self, u: np.ndarray) -> np.ndarray:
        """Sizes [P] that rounding of u is relative to: those of PyMC's own coordinates, in widths."""
        return np.abs(self.raw(u)) / self.width

    @property
    def has_jacobian(self) -> bool:
        """Whether any parameter has a scale of its own."""
        return bool(self._log_jacobian)

    @cached_property
    @building()
    def jacobian_of_raw(self) -> CompiledSlope:
        """PyMC's own coordinates [P] → log |d theta / d them|, and its gradient."""
        (total,) = freeze_data([pt.stack(self._log_jacobian).sum()], numbers=True)
        return CompiledSlope([self.vector], total)

    def log_jacobian(self, u: np.ndarray) -> tuple[float, np.ndarray]:
        """(log |d theta / d PyMC's own coordinates|, its gradient [P] by u).

        What a density gains on the unconstrained scale.
        """
        if not self.has_jacobian:
            return 0.0, np.zeros(self.size)
        value, gradient = self.jacobian_of_raw(self.raw(u))
        return float(value), np.asarray(gradient) * self.width

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
        return {node.name: np.asarray(v) for node, v in zip(self.parameters, self._backward(self.raw(u)))}

    @cached_property
    def bound(self) -> set[str]:
        """Parameters whose elements hang together, as those of a given sum do: fewer coordinates than elements."""
        return {n.name for n in self.parameters if self.slices[n.name].stop - self.slices[n.name].start < n.size}

    @cached_property
    def transformed(self) -> np.ndarray:
        """Which coordinates [P] are logs, logits and the like.

        There a large number is a border, elsewhere just a number: of an ordered vector the first coordinate is a number
        as it stands, of a Cholesky factor those below the diagonal are.
        """
        if self._unscaled is not None:  # found by moving one coordinate after the other: once is enough
            return self._unscaled.transformed
        mask = np.zeros(self.size, dtype=bool)
        asked = []
        for node in self.parameters:
            if node.transform is not None and _is_bent_everywhere(node):
                mask[self.slices[node.name]] = True
            elif node.transform is not None:
                asked.append(node.name)
        together = [name for name in asked if not self.bounds[name]]
        for names in [together, *([name] for name in asked if self.bounds[name])]:
            mask |= self._is_bent(names)
        return mask

    def _is_bent(self, names: Sequence[str]) -> np.ndarray:
        """Coordinates [P] of which their own parameter is another function than a straight one.

        names: of parameters whose transforms do not depend on each other, so that one coordinate of each moves at once.
        """
        parts = {name: np.arange(self.size)[self.slices[name]] for name in names}
        answer, plain = np.zeros(self.size, dtype=bool), self.unscaled
        u = 0.3 * np.random.default_rng(11).normal(size=self.size)
        middle = plain.constrain(u)
        for turn in range(max(map(len, parts.values()), default=0)):
            moved = {name: part[turn] for name, part in parts.items() if turn < len(part)}
            step = np.zeros(self.size)
            step[list(moved.values())] = 1.0
            low, high = plain.constrain(u - step), plain.constrain(u + step)
            for name, i in moved.items():
                size = np.abs([low[name], high[name]]).max()
                answer[i] = not np.allclose(low[name] + high[name], 2 * middle[name], rtol=0, atol=1e-9 * size)
        return answer

    @cached_property
    def logarithmic(self) -> np.ndarray:
        """Which coordinates [P] are logs of what has no upper bound: they are moved by a change of its unit."""
        mask, plain = self.transformed.copy(), self.unscaled
        with np.errstate(all="ignore"):
            middle, far = plain.constrain(np.zeros(self.size)), plain.constrain(np.full(self.size, FAR))
            near = plain.constrain(np.full(self.size, -FAR))
        for node in self.parameters:
            largest = max(np.abs(t[node.name]).max(initial=0.0) for t in (far, near))
            if largest <= BOUNDED * np.abs(middle[node.name]).max(initial=0.0):
                mask[self.slices[node.name]] = False
        for part, _ in self.simplexes:
            mask[part] = False
        return mask

    def interior(self, u: np.ndarray, border: float) -> np.ndarray:
        """Which coordinates [P] move theta along its domain: not those beyond ±border, a logit or log on the border.

        Of K weights with zeros among them as many coordinates as span their face of the simplex.
        """
        mask = np.isfinite(u) & ((np.abs(u) < border) | ~self.transformed)
        for part, shape in self.simplexes:
            logs = self.log_weights(u[part].reshape(shape))
            zero = logs < -border
            free = ~zero[..., :-1]
            # where the last weight is zero, one of the others follows from the rest
            largest = np.arange(free.shape[-1]) == logs[..., :-1].argmax(-1)[..., None]
            free &= ~(largest & zero[..., -1:])
            mask[part] = np.where(zero.any(-1)[..., None], free, True).ravel()
        return mask

    def off_the_border(self, u: np.ndarray, limit: float) -> np.ndarray:
        """u with infinite coordinates at ±limit, and no weight of a simplex smaller than exp(-limit) of the largest."""
        moved = np.where(np.isfinite(u), u, np.sign(np.nan_to_num(u)) * limit)
        for part, shape in self.simplexes:
            logs = np.maximum(self.log_weights(u[part].reshape(shape)), -limit)
            moved[part] = (logs - logs.mean(-1, keepdims=True))[..., :-1].ravel()
        return moved

    @cached_property
    def simplexes(self) -> list[tuple[slice, tuple[int, ...]]]:
        """Coordinates and their shape [..., K - 1] of parameters whose rows are weights."""
        shapes = zip(self.parameters, self._shapes)
        return [(self.slices[n.name], s) for n, s in shapes if _is_simplex(n) and s and s[-1] > 0]

    @cached_property
    def logits(self) -> np.ndarray:
        """Which coordinates [P] are logits of probabilities."""
        mask = np.zeros(self.size, dtype=bool)
        for node in self.parameters:
            mask[self.slices[node.name]] = getattr(node.transform, "name", None) == "logodds"
        return mask

    @staticmethod
    def log_weights(u: np.ndarray) -> np.ndarray:
        """Logs of K weights, the largest as 0, from the K - 1 coordinates that PyMC gives them; nan counts as 0."""
        u = np.nan_to_num(u, nan=0.0, posinf=1e3, neginf=-1e3)
        logs = np.concatenate([u, -u.sum(-1, keepdims=True)], axis=-1)
        return logs - logs.max(-1, keepdims=True)

    def inside(self, u: np.ndarray, limit: float) -> np.ndarray:
        """u with nan as zero and transformed coordinates kept within ±limit.

        A point that every density can be asked at.
        """
        u = self.off_the_border(np.asarray(u, float), limit)
        bounded = np.clip(np.nan_to_num(u, nan=0.0, posinf=limit, neginf=-limit), -limit, limit)
        return np.where(self.transformed, bounded, np.nan_to_num(u, nan=0.0, posinf=0.0, neginf=0.0))

    def split(self, u: np.ndarray) -> dict[str, np.ndarray]:
        """PyMC's own coordinates of u, cut into each parameter's array, as PyMC's value variables hold it."""
        u = self.raw(u)
        return {n.name: u[self.slices[n.name]].reshape(s) for n, s in zip(self.parameters, self._shapes)}

    def unconstrain(self, theta: Mapping[str, np.ndarray]) -> np.ndarray:
        """u of theta; infinite where theta lies on the border of its domain, nan where it lies outside.

        Weights of zero are a hair inside: logs of their ratios to each other would be no numbers.
        """
        if self._forward is None:
            return np.zeros(0)
        with np.errstate(all="ignore"):
            parts = [np.ravel(v) for v in self._forward(*self.arguments(theta))]
            if any(not np.isfinite(part).all() for part in parts):
                inside = {n.name: _off_the_zeros(n, np.asarray(theta[n.name], float)) for n in self.parameters}
                parts = [np.ravel(v) for v in self._forward(*self.arguments(inside))]
            u = np.concatenate(parts)
            return u if self._scales is None else (u - self.shift) / self.width

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
    """Weights with zeros a hair inside their simplex; all else as it is."""
    on_simplex = _is_simplex(node) and (value >= 0).all()
    return np.maximum(value, 1e-300) if on_simplex and np.allclose(value.sum(axis=-1), 1.0) else value


def _is_bent_everywhere(node: Node) -> bool:
    """Whether all coordinates are known to be logs or logits, which most are."""
    return getattr(node.transform, "name", None) in ("log", "logodds", "interval", "simplex", "log_exp_m1")


def _is_simplex(node: Node) -> bool:
    return getattr(node.transform, "name", None) == "simplex"


def _replace(graph: Any, replaced: dict[Any, Any]) -> Any:
    if not replaced or isinstance(graph.type, RandomType):
        return graph
    return graph_replace([graph], replaced, strict=False)[0]
