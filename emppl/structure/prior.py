"""The log prior of all parameters, whatever an estimate drops."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from emppl.compiling import compile_graph
from emppl.structure.types import Structure


def whole_log_prior(structure: Structure) -> Callable[[Mapping[str, np.ndarray]], float]:
    """theta → log prior density on the parameters' own scale, frozen ones included; compiled once a structure."""
    cached = structure.__dict__.get("_whole_log_prior")
    if cached is None:
        graphs = [f.log_density.sum().astype("float64") for f in structure.factors if f.kind == "prior"]
        function = compile_graph(structure.coordinates.values, graphs)

        def cached(theta: Mapping[str, np.ndarray]) -> float:
            return float(sum(function(*structure.coordinates.arguments(theta))))

        structure.__dict__["_whole_log_prior"] = cached
    return cached
