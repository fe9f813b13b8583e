"""Linear predictors inside any density, found by values.

From a log density towards its parameters, the first variables that are affine in the coefficients, with a slope that
is the same everywhere, are the predictors: `a[z] + b[z] * x` inside `exp`, `x @ g` inside a softmax. No link function
has to be known.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pytensor.graph.traversal import toposort

from emppl.compiling import compile_graph, depends_on, substitute
from emppl.structure.types import Factor, Structure

AFFINE = 1e-8  # of two increments by the same step from different points, relative to the values


def predictors(structure: Structure, factor: Factor, names: Sequence[str], seed: int = 17) -> list[Any]:
    """The variables of the factor's log density through which alone the parameters `names` enter it, affinely."""
    wanted = {node.value for node in structure.parameters if node.name in names}
    reached = set(wanted)
    order: list[Any] = []
    for node in toposort([factor.log_density]):
        if any(v in reached for v in node.inputs):
            reached.update(node.outputs)
            order.extend(v for v in node.outputs if hasattr(v.type, "ndim") and v.dtype.startswith("float"))
    affine = wanted | {v for v, is_affine in zip(order, _affine(structure, order, names, seed)) if is_affine}
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


def _affine(structure: Structure, variables: Sequence[Any], names: Sequence[str], seed: int) -> list[bool]:
    """Whether a step in the parameters `names` changes a variable by the same wherever it is taken."""
    if not variables:
        return []
    rng = np.random.default_rng(seed)
    coordinates, latents = structure.coordinates, structure.latents
    function = compile_graph([*coordinates.values, *[node.value for node in latents]], list(variables))
    good = np.ones(len(variables), bool)
    for _ in range(2):
        values = [rng.choice(node.support, size=node.shape).astype(node.value.dtype) for node in latents]
        step = {name: rng.normal(size=structure.node(name).shape) for name in names}
        pairs = []
        for factor in (1.0, 1.0, -0.5):
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
            good[i] &= all(np.allclose(changes[0], c, rtol=0, atol=AFFINE * max(size, 1e-300)) for c in changes[1:])
    return list(good)
