"""One marginal log posterior with gradient, as a sampler asks for it: compiled by Numba on every side."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pymc as pm
import pytensor.tensor as pt
from pymc.blocking import DictToArrayBijection

import emppl
from emppl.compiling import compile_graph
from emppl.estep.marginal import register
from emppl.sampling import marginal_model

from .cases import NotInstalled, Pair, Race, scaled
from .data import gaussians
from .mixtures import by_cholesky, cholesky_theta, difference
from .timing import local


def by_emppl(y: np.ndarray, k: int) -> pm.Model:
    """The latents summed out by emppl: what emppl.sample hands to a sampler."""
    register()
    return marginal_model(emppl.plan(by_cholesky(y, k)))


def by_explicit_graph(y: np.ndarray, k: int) -> pm.Model:
    """The same model with an explicit log-sum-exp."""
    return by_cholesky(y, k, summed_out=True)


def by_marginalize(y: np.ndarray, k: int) -> pm.Model:
    """The same by pymc_extras."""
    try:
        from pymc_extras.marginal import marginalize
    except ImportError as reason:
        raise NotInstalled(f"pymc_extras, from the extra `bench` ({reason})") from None
    return marginalize(by_cholesky(y, k), ["component"])


def density(model: pm.Model, point: dict[str, np.ndarray]) -> tuple[Callable[[], Any], dict[str, Any]]:
    """A call of log density and gradient at a point of the unconstrained space, and what it gives, by variable."""
    function = model.logp_dlogp_function(ravel_inputs=True, mode="NUMBA")
    function.set_extra_values({})
    start = {name: point[name] for name in model.initial_point()}
    at = DictToArrayBijection.map(start)
    value, slope = function(at)
    gradient = DictToArrayBijection.rmap(type(at)(slope, at.point_map_info))
    return lambda: function(at), {"log density": float(value), **gradient}


def unconstrained(model: pm.Model, theta: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Values of a model's variables at parameters on their own scale."""
    point = {}
    for rv in model.free_RVs:
        value, transform = model.rvs_to_values[rv], model.rvs_to_transforms[rv]
        at = pt.constant(theta[rv.name])
        point[value.name] = compile_graph([], at if transform is None else transform.forward(at, *rv.owner.inputs))()
    return point


def race(n: int, d: int, k: int, rival: Callable[[np.ndarray, int], pm.Model], scale: float) -> Pair:
    data = gaussians(scaled(n, scale), d, k)
    other = rival(data.y, k)
    model = by_emppl(data.y, k)
    point = unconstrained(model, cholesky_theta(data))
    ours, mine = density(model, point)
    theirs, others = density(other, point)
    compared = difference(tuple(mine[name] for name in mine), tuple(others[name] for name in mine))
    return Pair(local(ours), local(theirs), compared, "log density and gradient compared")


RIVALS = (
    ("explicit", "explicit log-sum-exp", by_explicit_graph, 20.0, 2.5),
    ("marginalize", "pymc_extras.marginalize", by_marginalize, 100.0, 20.0),
)  # name, in words, model, bar of one gradient, bar of a sampling run

ROWS = tuple(
    Race(
        f"gradient-{name}", "GMM by LKJ-Cholesky factors, 1e5 × 8, K = 8: marginal log posterior with gradient",
        f"{words}, Numba", bar, partial(race, 100_000, 8, 8, rival),
    )
    for name, words, rival, bar, _ in RIVALS
)  # fmt: skip
