"""Where parameters may be: the range of their transforms, and what their priors' densities leave of it.

An estimate that drops priors keeps both: a maximum outside is none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytensor.scalar as ps
import pytensor.tensor as pt
from pymc.distributions.censored import CensoredRV
from pymc.distributions.custom import CustomDistRV, CustomSymbolicDistRV
from pymc.distributions.simulator import SimulatorRV
from pymc.distributions.transforms import ChainedTransform, _default_transform
from pytensor.graph.basic import Constant
from pytensor.graph.traversal import ancestors

from emppl.compiling import depends_on
from emppl.structure.types import Factor, Node, Structure

CLOSE = 1e-8  # of the largest entry: how far a point may lie from where its coordinates lead back to
LOGS = (ps.Log, ps.Log1p, ps.Log2, ps.Log10)
OPAQUE = (CensoredRV, CustomDistRV, CustomSymbolicDistRV, SimulatorRV)  # PyMC knows no support of these


def default_transform(rv: Any) -> Any | None:
    """The transform whose range is the support of a random variable; None where that is all numbers, or not known."""
    try:
        return _default_transform(rv.owner.op, rv)
    except NotImplementedError:  # a mixture whose components have different supports
        return None


def support_factors(structure: Structure) -> list[Factor]:
    """Priors whose support is more narrow than the range of their parameter's transform, or may be.

    Potentials of parameters alone among them, where their graph may come to minus infinity.
    """
    priors = {factor.name: factor for factor in structure.factors if factor.kind == "prior" and factor.parameters}
    own = [priors.pop(node.name) for node in structure.parameters if node.name in priors and not _is_whole(node)]
    names = set(structure.parameter_names)
    return own + [f for f in priors.values() if f.name not in names and _may_be_impossible(structure, f.log_density)]


def _may_be_impossible(structure: Structure, graph: Any) -> bool:
    """Whether infinity stands in a graph, or the log of what parameters make."""
    values = {node.value for node in structure.parameters}
    for v in ancestors([graph]):
        if isinstance(v, Constant) and np.asarray(v.data).dtype.kind == "f" and np.isinf(v.data).any():
            return True
        scalar = getattr(getattr(v.owner, "op", None), "scalar_op", None)
        if isinstance(scalar, LOGS) and depends_on(v, values):
            return True
    return False


def _is_whole(node: Node) -> bool:
    """Whether a transform leads to nothing but the support of its parameter."""
    wanted = default_transform(node.rv)
    steps = node.transform.transform_list if isinstance(node.transform, ChainedTransform) else [node.transform]
    if wanted is None:
        return not isinstance(node.rv.owner.op, OPAQUE)
    return any(type(step) is type(wanted) for step in steps)


def support_term(factor: Factor) -> Any:
    """A scalar graph: 0 where a prior has a density, minus infinity where it has none."""
    return pt.switch(pt.isneginf(factor.log_density), -np.inf, 0.0).sum()


def domain(structure: Structure, names: tuple[str, ...], sure: tuple[str, ...] = ()) -> Callable[[Mapping], bool]:
    """theta → whether the parameters `names` lie in the range of their transforms, borders included.

    sure: those that whatever finds them keeps there.
    """
    checked = [n for n in structure.parameters if n.name in names and n.transform is not None and n.name not in sure]
    plain = [(n.name, CHECKS[n.transform.name]) for n in checked if n.transform.name in CHECKS]
    others = [n.name for n in checked if n.transform.name not in CHECKS]
    coordinates = structure.coordinates

    def contains(theta: Mapping[str, np.ndarray]) -> bool:
        if not all(check(np.asarray(theta[name])) for name, check in plain):
            return False
        if not others:
            return True
        u = coordinates.unconstrain(theta)
        with np.errstate(all="ignore"):
            back = coordinates.constrain(u)
        for name in others:
            if np.isnan(u[coordinates.slices[name]]).any():
                return False
            value = np.asarray(theta[name], float)
            close = np.abs(back[name] - value) <= CLOSE * np.abs(value).max(initial=0.0)
            # on a border coordinates are infinite, and what they lead back to may be no number
            if np.isfinite(u[coordinates.slices[name]]).all() and not close.all():
                return False
        return True

    return contains


def _is_positive(value: np.ndarray) -> bool:
    return bool((value >= 0).all())


def _is_probability(value: np.ndarray) -> bool:
    return bool(((value >= 0) & (value <= 1)).all())


def _are_weights(value: np.ndarray) -> bool:
    return bool((value >= 0).all() and (np.abs(value.sum(axis=-1) - 1.0) <= CLOSE).all())


CHECKS: dict[str, Callable[[np.ndarray], bool]] = {
    "log": _is_positive,
    "logodds": _is_probability,
    "simplex": _are_weights,
}
