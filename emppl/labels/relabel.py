"""Relabelling: in every draw, component k is made to mean the same thing.

A permutation `perm[t, j]` names the OLD component that becomes NEW component j (the convention of R's label.switching
and of Stephens 2000), so theta'[t, j] = theta[t, perm[t, j]] and p'[t, i, j] = p[t, i, perm[t, j]]. The methods are in
`emppl.labels.methods`.
"""

from collections.abc import Sequence
from typing import Any

import xarray as xr

from emppl.kernels.assignment import Groups, forbidden_pairs
from emppl.labels.align import AxisAlignment, align, choose, pivot_distance, swappable
from emppl.labels.material import Alignment, Material
from emppl.labels.methods import METHODS, method
from emppl.labels.permute import permuted
from emppl.labels.subject import pivots_of, plan_of, reference, subject

__all__ = [
    "METHODS", "Alignment", "AxisAlignment", "Groups", "Material", "align", "choose", "forbidden_pairs", "method",
    "permuted", "pivot_distance", "plan_of", "reference", "relabel", "swappable",
]  # fmt: skip


def relabel(
    draws: xr.DataTree,
    to: Any = None,
    method: str = "auto",
    model: Any = None,
    *,
    component_dims: Any = None,
    responsibilities: str | Sequence[str | None] | None = None,
    allocations: str | Sequence[str | None] | None = None,
    by: str | None = None,
    permutations: Any = None,
) -> xr.DataTree:
    """Draws in which every component keeps its name: aligned to a fit, to one draw, to the highest draw, or each other.

    `to`: a Fit, a draw (chain, draw), parameters {name: value}, or None (the draw of highest log density; then
    `model`, a pm.Model, Plan or Fit, says which variables carry the component axis). `method`: a name in METHODS, or
    "auto", which takes the reference where its components are distinct and otherwise Stephens' method from several
    starts; `relabel_reason` among the attributes of the result says why.

    Draws of anything, without a model: `component_dims`, a dim that variables share, a tuple of dims that run over the
    same components (rows and columns of a transition matrix), or {variable: axis, dim, or a tuple of them}, with axes
    counted from 0 after chain and draw; a list of these for several families of components. `responsibilities`:
    variable [chain, draw, …, K], or the only one of the `latent` group that fits; `allocations`: variable of whole
    numbers, counted from 0 or from 1. With several families, one name for each.

    `by`: the variable that method="ordering" goes by. `permutations` [chain, draw, K] for method="permutations"
    ({latent: …} where there are several axes).

    Returns a new DataTree, dims and coords unchanged: parameters are permuted along every axis that belongs to the
    components, deterministics computed anew, the `latent` group permuted, all else kept; a group `relabelling`
    holds the permutations and margins. Draws are read in chunks, so memory does not grow with their number.
    Raises InvalidArgumentError for draws of another model, an unknown method or one that needs what is not there, or
    nothing to take the axes from.
    """
    plan, point, theta = subject(draws, to, model, component_dims, responsibilities, allocations)
    if permutations is not None and method == "auto":
        method = "permutations"
    pivots = pivots_of(draws, plan, point, theta)
    alignments = align(draws, plan, pivots, theta, method, point=point, permutations=permutations, by=by)
    return permuted(draws, plan, alignments, theta)
