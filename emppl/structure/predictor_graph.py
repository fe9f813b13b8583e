"""Linear predictors inside any density, found by values.

From a log density towards its parameters, the first variables that are affine in the coefficients, with a slope that
is the same everywhere, are the predictors: `a[z] + b[z] * x` inside `exp`, `x @ g` inside a softmax. No link function
has to be known.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytensor.scalar as ps
from pytensor.graph.traversal import toposort
from pytensor.tensor.shape import Shape, Shape_i
from pytensor.tensor.sort import SortOp

from emppl.compiling import compile_graph, depends_on, substitute
from emppl.structure.types import Factor, Plate, Structure

AFFINE = 1e-8  # of two increments by the same step from different points, relative to their size
ROUNDING = 1e-12  # the same relative to the values
ROUNDS = 12  # configurations that few members go through; designs are checked under all
MANY = 200  # members, which are in different configurations at once
KINKED = (ps.Abs, ps.Sign, ps.Maximum, ps.Minimum, ps.Clip, ps.IntDiv, ps.Mod, SortOp)  # pieces, affine each


def predictors(
    structure: Structure, factor: Factor, names: Sequence[str], plate: Plate | None = None, seed: int = 17
) -> list[Any]:
    """The variables of the factor's log density through which alone the parameters `names` enter it, affinely.

    plate: of the factor's latents, whose configurations are gone through.
    """
    wanted = {node.value for node in structure.parameters if node.name in names}
    reached, broken = set(wanted), set[Any]()
    order: list[Any] = []
    for node in toposort([factor.log_density]):
        entering = [v for v in node.inputs if v in reached]
        if not entering or isinstance(node.op, Shape | Shape_i):
            continue
        reached.update(node.outputs)
        if _is_kinked(node.op) or any(v in broken or not _is_real(v) for v in entering):
            broken.update(node.outputs)
        else:
            order.extend(v for v in node.outputs if _is_real(v))
    affine = wanted | {v for v, is_affine in zip(order, _affine(structure, order, names, plate, seed)) if is_affine}
    found: list[Any] = []
    seen: set[Any] = set()
    stack = [factor.log_density]
    while stack:
        v = stack.pop()
        if v in seen or v not in reached:
            continue
        seen.add(v)
        if v in affine:
            found.append(v)
        else:
            stack.extend(v.owner.inputs)
    return _outermost_left_out(found, wanted)


def _is_real(variable: Any) -> bool:
    return hasattr(variable.type, "ndim") and bool(variable.dtype.startswith("float"))


def _is_kinked(op: Any) -> bool:
    """Whether an operation, or one within it, may be affine in pieces without being affine."""
    inner = getattr(op, "scalar_op", None) or getattr(op, "core_op", None)
    if isinstance(op, KINKED) or (inner is not None and _is_kinked(inner)):
        return True
    graph = getattr(op, "fgraph", None)
    return graph is not None and any(_is_kinked(node.op) for node in graph.apply_nodes)


def _outermost_left_out(found: list[Any], wanted: set[Any]) -> list[Any]:
    """Without variables that are functions of the others: log(exp(h)) is affine too, beside h itself."""
    kept = list(found)
    for v in found:
        others = {w: w.type() for w in kept if w is not v}
        if others and v not in wanted:
            (inner,) = substitute([v], others)
            if not depends_on(inner, wanted):
                kept.remove(v)
    return kept


def _affine(
    structure: Structure, variables: Sequence[Any], names: Sequence[str], plate: Plate | None, seed: int
) -> list[bool]:
    """Whether a step in the parameters `names` changes a variable by the same wherever it is taken."""
    if not variables:
        return []
    rng = np.random.default_rng(seed)
    coordinates, latents = structure.coordinates, structure.latents
    function = compile_graph([*coordinates.values, *[node.value for node in latents]], list(variables))
    good = np.ones(len(variables), bool)
    n_configurations = plate.n_configurations if plate is not None else 1
    first = rng.integers(n_configurations, size=plate.size if plate is not None else 0)
    few = plate is not None and plate.size < MANY
    for turn in range(max(2, min(n_configurations, ROUNDS)) if few else 2):
        values = _assigned(structure, plate, (first + turn) % n_configurations, rng)
        step = {name: coordinates.spread(name) * rng.normal(size=structure.node(name).shape) for name in names}
        pairs = []
        for factor in (1.0, 1.0, -0.5) if turn < 2 else (1.0, -0.5):
            theta = coordinates.constrain(rng.normal(scale=0.7, size=coordinates.size))
            moved = theta | {name: theta[name] + factor * step[name] for name in names}
            with np.errstate(all="ignore"):
                here = function(*coordinates.arguments(theta), *values)
                there = function(*coordinates.arguments(moved), *values)
            pairs.append((factor, here, there))
        for i in range(len(variables)):
            ends = [(factor, np.asarray(a[i], float), np.asarray(b[i], float)) for factor, a, b in pairs]
            if not all(np.isfinite(a).all() and np.isfinite(b).all() for _, a, b in ends):
                good[i] = False
                continue
            size = max(float(np.abs(v).max(initial=0.0)) for _, *both in ends for v in both)
            changes = [(b - a) / factor for factor, a, b in ends]
            limit = AFFINE * float(np.abs(changes[0]).max(initial=0.0)) + ROUNDING * size + 1e-300
            good[i] &= all(np.allclose(changes[0], c, rtol=0, atol=limit) for c in changes[1:])
    return list(good)


def _assigned(
    structure: Structure, plate: Plate | None, configuration: np.ndarray, rng: np.random.Generator
) -> list[np.ndarray]:
    """Values of the latents: each member of the plate in its configuration, all others at random."""
    values = [rng.choice(node.support, size=node.shape).astype(node.value.dtype) for node in structure.latents]
    if plate is None:
        return values
    flat = np.concatenate([v.ravel() for v in values])
    flat[plate.members] = plate.configurations[configuration]
    starts = [structure.offsets[node.name] for node in structure.latents]
    return [flat[s : s + v.size].reshape(v.shape).astype(v.dtype) for s, v in zip(starts, values)]
