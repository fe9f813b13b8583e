"""Spreads of location-scale families that have no natural form, measured by the data's: what collapses in a graph."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pymc as pm
from pytensor.graph.replace import vectorize_graph
from pytensor.graph.traversal import explicit_graph_inputs

from emppl.compiling import compile_graph, depends_on
from emppl.mstep.glm import enumerated

# where the op keeps its scale
PLACES = {
    pm.Normal: 1, pm.LogNormal: 1, pm.Laplace: 1, pm.Logistic: 1, pm.Gumbel: 1, pm.Cauchy: 1, pm.Moyal: 1,
    pm.StudentT: 2, pm.SkewNormal: 1,
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Spread:
    """The scale of one factor in every configuration of its latents."""

    entry: Any = field(repr=False)
    of_theta: Any = field(repr=False)  # theta → scales [J, ...], or [...] where no latent enters them
    by_configuration: bool
    unit: float  # spread of the data
    parameters: tuple[str, ...]  # that it is made of

    def variances(self, arguments: list[np.ndarray]) -> np.ndarray:
        """The smallest by configuration, relative to the data's: [J], or [1]."""
        with np.errstate(all="ignore"):
            scales = np.asarray(self.of_theta(*arguments), float) / self.unit
        rows = scales.reshape(len(scales), -1) if self.by_configuration else scales.reshape(1, -1)
        return np.asarray(rows.min(axis=1) ** 2)

    def name(self, plan: Any, theta: dict[str, np.ndarray]) -> str:
        """In the user's words: the spread of y (sigma[b])."""
        smallest = np.sqrt(self.variances(plan.structure.coordinates.arguments(theta)).min()) * self.unit
        names = []
        for node in (plan.structure.node(name) for name in self.parameters):
            place = np.unravel_index(int(np.argmin(theta[node.name])), node.shape)
            is_it = node.shape and np.isclose(theta[node.name][place], smallest, rtol=1e-9, atol=0.0)
            labels = ", ".join(str(plan.structure.coords[d][i]) for d, i in zip(node.dims, place))
            names.append(f"{node.name}[{labels}]" if is_it else node.name)
        return f"the spread of {self.entry.factor.name} ({', '.join(names)})"


def graph_spreads(plan: Any) -> list[Spread]:
    """Of the observed factors whose scale is estimated but known to no natural form; compiled once a plan."""
    cached = plan.__dict__.get("_graph_spreads")
    if cached is None:
        cached = [s for s in (_spread(plan, entry) for entry in plan.factors) if s is not None]
        plan.__dict__["_graph_spreads"] = cached
    return list(cached)


def _spread(plan: Any, entry: Any) -> Spread | None:
    factor, form, structure = entry.factor, entry.form, plan.structure
    known = form is not None and form.family is not None and form.family.narrowness is not None
    place = next((i for kind, i in PLACES.items() if isinstance(factor.op, kind)), None)
    if factor.kind != "observed" or known or place is None or (entry.plate is None and factor.latents):
        return None
    graph = factor.params[place]
    inputs = set(explicit_graph_inputs([graph]))
    own = tuple(node.name for node in structure.parameters if node.value in inputs)
    if not own:
        return None
    latents = enumerated(structure, factor, structure.plates[entry.plate] if entry.plate is not None else None)
    many = bool(latents) and depends_on(graph, set(latents))
    graph = vectorize_graph(graph, replace=latents) if many else graph
    y = np.asarray(factor.value.data, float)
    unit = _unit(np.log(y) if isinstance(factor.op, pm.LogNormal) else y)
    return Spread(entry, compile_graph(structure.coordinates.values, graph), many, unit, own)


def _unit(y: np.ndarray) -> float:
    """Spread of the data, by their median deviation, since these families are chosen for outliers."""
    y = y[np.isfinite(y)]
    if not y.size or np.ptp(y) == 0:
        return float(np.abs(y).max(initial=0.0)) or 1.0
    return float(np.median(np.abs(y - np.median(y)))) or float(y.std())
