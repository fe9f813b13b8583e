"""The log prior of all parameters, whatever an estimate drops."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from emppl.compiling import compile_graph
from emppl.structure.types import Structure


def whole_log_prior(structure: Structure) -> Callable[[Mapping[str, np.ndarray]], float]:
    """theta → log prior density on the parameters' own scale, frozen ones included; compiled once a structure.

    As it stands, which is ready long before it is rewritten; where that is no number the rewritten has the last word.
    """
    cached = structure.__dict__.get("_whole_log_prior")
    if cached is None:
        values = structure.coordinates.values
        graphs = [f.log_density.sum().astype("float64") for f in structure.factors if f.kind == "prior"]
        function = compile_graph(values, graphs, optimise=False)

        def cached(theta: Mapping[str, np.ndarray]) -> float:
            arguments = structure.coordinates.arguments(theta)
            with np.errstate(all="ignore"):
                found = float(sum(function(*arguments)))
                return found if np.isfinite(found) else float(sum(compile_graph(values, graphs)(*arguments)))

        structure.__dict__["_whole_log_prior"] = cached
    return cached
