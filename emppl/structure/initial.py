"""A first point inside the prior: PyMC's support points, on the constrained scale, and draws from the prior."""

from __future__ import annotations

from typing import Any

import numpy as np
import pymc as pm
from pymc.initial_point import make_initial_point_expression
from pytensor.compile.mode import Mode

from emppl.compiling import building, compile_graph, uncompiled
from emppl.concurrency import quiet
from emppl.structure.types import Structure
from emppl.structure.variables import freeze_data

Theta = dict[str, np.ndarray]


def initial_point(structure: Structure, *, draw: bool = False, seed: int = 0) -> Theta:
    """Where the prior would begin (its support point, or the user's initval), or one draw from the prior.

    Elements on the border of their domain (PyMC's start of an ordered vector has equal entries) are moved inside.
    """
    if not structure.parameters:
        return {}
    if draw:
        return _inner_point(structure, np.random.default_rng(seed))
    coordinates, found = structure.__dict__.get("_initial_point", (None, {}))
    if coordinates is not structure.coordinates:  # a copy's, which counts in other units
        found = _inner_point(structure, None)
        structure.__dict__["_initial_point"] = structure.coordinates, found
    return dict(found)


def _inner_point(structure: Structure, rng: np.random.Generator | None) -> Theta:
    """The point where the prior begins, or a draw by `rng`."""
    coordinates = structure.coordinates
    try:
        with np.errstate(all="ignore"):
            values = _values(structure, rng)
    except (NotImplementedError, ArithmeticError, ValueError):
        # a flat prior cannot be drawn from, and a draw from a very wide one may leave the floating-point numbers: a
        # point around where the coordinates have their middle stands in, which has the unit of the data
        return coordinates.constrain((rng or np.random.default_rng(0)).normal(size=coordinates.size))
    u = coordinates.unconstrain(dict(zip(structure.parameter_names, values)))
    return coordinates.constrain(coordinates.inside(u, 20.0) if rng else np.where(np.isfinite(u), u, 0.0))


def support_point(structure: Structure) -> Theta:
    """Where the prior would begin, be it on the border of its domain."""
    if not structure.parameters:
        return {}
    with np.errstate(all="ignore"):
        return dict(zip(structure.parameter_names, _values(structure, None)))


def _values(structure: Structure, rng: np.random.Generator | None) -> list[np.ndarray]:
    if rng is not None:
        return _drawn([node.rv for node in structure.parameters], rng)
    key = "_support_point"
    if key not in structure.__dict__:  # nothing goes in: it is always the same
        structure.__dict__[key] = compile_graph([], _support_point(structure), optimise=False)()
    return list(structure.__dict__[key])


def _drawn(rvs: list[Any], rng: np.random.Generator) -> list[np.ndarray]:
    with building(**uncompiled(rvs)):  # drawn once, which is sooner done than the graph is rewritten
        drawn = pm.draw(rvs, random_seed=rng, mode=Mode(linker="py", optimizer=None))
    return drawn if isinstance(drawn, list) else [drawn]


def _support_point(structure: Structure) -> list[Any]:
    """The graphs of where the parameters would begin."""
    model = structure.model
    rvs = list(model.free_RVs)
    with building(), quiet():
        graphs = make_initial_point_expression(
            free_rvs=rvs, rvs_to_transforms=dict.fromkeys(rvs), default_strategy="support_point",
            initval_strategies={rv: model.rvs_to_initial_values.get(rv) for rv in rvs}, return_transformed=False,
        )  # fmt: skip
    return freeze_data([graphs[rvs.index(node.rv)] for node in structure.parameters])
