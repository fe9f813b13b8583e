"""A first point inside the prior: PyMC's support points, on the constrained scale, and draws from the prior."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pymc as pm
from pymc.initial_point import make_initial_point_expression

from emppl.compiling import building, compile_graph, interpreted_mode, uncompiled
from emppl.concurrency import quiet
from emppl.structure.types import Structure
from emppl.structure.variables import freeze_data

Theta = dict[str, np.ndarray]


def initial_point(structure: Structure, *, draw: bool = False, seed: int = 0) -> Theta:
    """Where the prior would begin (its support point, or the user's initval), or one draw from the prior.

    Elements on the border of their domain (PyMC's start of an ordered vector has equal entries) are moved inside.
    """
    coordinates = structure.coordinates
    if not structure.parameters:
        return {}
    rng = np.random.default_rng(seed)
    try:
        with np.errstate(all="ignore"):
            values = _values(structure, draw, rng)
    except (NotImplementedError, ArithmeticError, ValueError):
        # a flat prior cannot be drawn from, and a draw from a very wide one may leave the floating-point numbers: a
        # point around where the coordinates have their middle stands in, which has the unit of the data
        return coordinates.constrain(rng.normal(size=coordinates.size))
    u = coordinates.unconstrain(dict(zip(structure.parameter_names, values)))
    return coordinates.constrain(coordinates.inside(u, 20.0) if draw else np.where(np.isfinite(u), u, 0.0))


def support_point(structure: Structure) -> Theta:
    """Where the prior would begin, be it on the border of its domain."""
    if not structure.parameters:
        return {}
    with np.errstate(all="ignore"):
        return dict(zip(structure.parameter_names, _values(structure, False, np.random.default_rng(0))))


def _values(structure: Structure, draw: bool, rng: np.random.Generator) -> list[np.ndarray]:
    function = structure.__dict__.get(f"_initial_{draw}")
    if function is None:
        function = _compile(structure, "prior" if draw else "support_point")
        structure.__dict__[f"_initial_{draw}"] = function
    return list(function(rng if draw else None))


def _compile(structure: Structure, strategy: str) -> Any:
    model = structure.model
    rvs = list(model.free_RVs)
    strategies = {rv: (None if strategy == "prior" else model.rvs_to_initial_values.get(rv)) for rv in rvs}
    with building(), quiet():
        graphs = make_initial_point_expression(
            free_rvs=rvs, rvs_to_transforms=dict.fromkeys(rvs), initval_strategies=strategies,
            default_strategy=strategy, return_transformed=False,
        )  # fmt: skip
    wanted = [graphs[rvs.index(node.rv)] for node in structure.parameters]
    wanted = freeze_data(wanted)
    if strategy != "prior":
        return cache(lambda rng: compile_graph([], wanted, optimise=False)())  # nothing goes in: it is always the same

    def sample(rng: np.random.Generator) -> list[np.ndarray]:
        rvs = [node.rv for node in structure.parameters]
        with building(**uncompiled(rvs)):
            drawn = pm.draw(rvs, random_seed=rng, mode=interpreted_mode())
        return drawn if isinstance(drawn, list) else [drawn]

    return sample
