"""The user's model with its latents summed out, as PyMC and nutpie take it, and draws from its priors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pymc as pm
import pytensor.tensor as pt
from pytensor.graph.replace import clone_replace, graph_replace
from pytensor.graph.traversal import graph_inputs
from pytensor.tensor.random.type import RandomType

from emppl.compiling import building, interpreted_mode, uncompiled
from emppl.planner import Plan
from emppl.structure.constants import in_double

Theta = dict[str, np.ndarray]
POTENTIAL = "marginal_log_likelihood"


def marginal_model(plan: Plan) -> pm.Model:
    """The user's model with its likelihood replaced by one Potential in which the latents are summed out.

    Priors, transforms and deterministics of parameters are as written; frozen parameters are constants.
    """
    structure = plan.structure
    nodes = [*structure.parameters, *structure.deterministics]
    fixed = {
        rv: pt.constant(structure.frozen[rv.name]) for rv in structure.model.free_RVs if rv.name in structure.frozen
    }
    originals = [node.rv for node in nodes]
    cloned = _with_constants(originals, fixed)
    names = {node.name: rv for node, rv in zip(nodes, cloned)}
    coords = {dim: list(structure.coords[dim]) for node in nodes for dim in node.dims}
    with pm.Model(coords=coords) as marginal:
        for node in structure.parameters:
            marginal.register_rv(
                names[node.name],
                name=node.name,
                dims=node.dims or None,
                transform=node.transform,
                default_transform=None,
            )
        replacements = {node.value: names[node.name] for node in structure.parameters}
        (log_likelihood,) = graph_replace([log_likelihood_graph(plan)], replacements, strict=False)
        pm.Potential(POTENTIAL, log_likelihood)
        for factor in structure.factors:
            if factor.kind == "prior" and factor.parameters and factor.name not in structure.parameter_names:
                (term,) = graph_replace([factor.log_density.sum()], replacements, strict=False)
                pm.Potential(factor.name, term)
        for node in structure.deterministics:
            pm.Deterministic(node.name, names[node.name], dims=node.dims or None)
    return marginal


def _with_constants(graphs: list[Any], fixed: dict[Any, Any]) -> list[Any]:
    """A copy of random-variable graphs with dims, data and frozen parameters as constants; parents stay parents.

    Constants are doubles, as in the plan.
    """
    shared = {
        v: pt.constant(v.get_value(borrow=True))
        for v in graph_inputs(graphs)
        if hasattr(v, "get_value") and not isinstance(v.type, RandomType)
    }
    copies = in_double(clone_replace(graphs, replace={**shared, **fixed}, rebuild_strict=False), draws=True)
    for copy, original in zip(copies, graphs):
        copy.name = original.name
    return list(copies)


def prior_draws(plan: Plan, draws: int, seed: int = 0) -> Theta:
    """{name: [draws, *shape]} from the priors of the model's parameters; those that cannot be drawn from are left out.

    An ordered vector is sorted: that is what the prior of an ordered vector of exchangeable numbers is.
    """
    structure = plan.structure
    fixed = {
        rv: pt.constant(structure.frozen[rv.name]) for rv in structure.model.free_RVs if rv.name in structure.frozen
    }
    names = structure.parameter_names
    graphs = dict(zip(names, _with_constants([node.rv for node in structure.parameters], fixed))) if names else {}
    together = _drawn_from(list(graphs.values()), draws, seed)
    if together is not None:
        found = dict(zip(names, together))
    else:
        each = {name: _drawn_from([graph], draws, seed) for name, graph in graphs.items()}
        found = {name: values[0] for name, values in each.items() if values is not None}
    for node in structure.parameters:
        if node.name in found and getattr(node.transform, "name", None) == "ordered":
            found[node.name] = np.sort(found[node.name], axis=-1)
    return found


def _drawn_from(graphs: list[Any], draws: int, seed: int) -> list[np.ndarray] | None:
    """Draws of random variables, None where one of them cannot be drawn from (a flat prior)."""
    if not graphs:
        return []
    try:
        with building(**uncompiled(graphs)), np.errstate(all="ignore"):
            return list(pm.draw(graphs, draws=draws, random_seed=seed, mode=interpreted_mode()))
    except (NotImplementedError, ArithmeticError, ValueError):
        return None


def log_likelihood_graph(plan: Plan) -> Any:
    """Marginal log-likelihood as a graph of the parameters' values.

    Plates in natural form by the Op with Fisher gradient.
    """
    total = plan.engine.log_likelihood(plan.expected.etas, plan.expected.tables)
    return (plan.expected.direct_likelihood + total).astype("float64")
