"""Relabelling: in every draw, component k is made to mean the same thing.

A permutation `perm[t, j]` names the OLD component that becomes NEW component j (the convention of R's label.switching
and of Stephens 2000), so theta'[t, j] = theta[t, perm[t, j]] and p'[t, i, j] = p[t, i, perm[t, j]]. A method is one
function from `Material` to `Alignment`, entered in METHODS with `@method("name")`.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from scipy.optimize import linear_sum_assignment

from emppl.errors import InvalidArgumentError
from emppl.labels.draws import (
    Theta,
    at,
    highest_draw,
    latent_draws,
    posterior_of,
    responsibility_chunks,
    shape_of,
    theta_draws,
)

Groups = tuple[tuple[int, ...], ...]

COINCIDENT = 0.05  # two columns closer than this (0 the same, 1 disjoint) do not tell their components apart


class Alignment(NamedTuple):
    """What a method returns: permutations [T, K], margins [T] (1: as clear as the reference itself, 0: a tie)."""

    permutations: np.ndarray
    margins: np.ndarray


@dataclass(frozen=True)
class Material:
    """What a method may read about one component axis; later methods add what they need.

    `chunks()` yields (slice of draws, responsibilities [c, n, K]) and can be run through as often as needed;
    `pivot` [n, K] are the reference responsibilities; only components of one group in `groups` may be swapped.
    """

    n_draws: int
    size: int
    pivot: np.ndarray
    groups: Groups
    chunks: Callable[[], Iterator[tuple[slice, np.ndarray]]]


METHODS: dict[str, Callable[[Material], Alignment]] = {}


def method(name: str) -> Callable[[Callable[[Material], Alignment]], Callable[[Material], Alignment]]:
    """Enter a relabelling method in the table under `name`."""

    def enter(function: Callable[[Material], Alignment]) -> Callable[[Material], Alignment]:
        METHODS[name] = function
        return function

    return enter


@method("responsibilities")
def to_responsibilities(material: Material) -> Alignment:
    """Every draw to the reference responsibilities: the assignment that maximises sum_ij pivot_ij p_t,i,perm(j).

    Exact where components are distinct; cost O(T (n K² + K⁴)), the last for the margins. Never K!.
    """
    permutations = np.empty((material.n_draws, material.size), dtype=np.int64)
    margins = np.empty(material.n_draws)
    forbidden = forbidden_pairs(material.size, material.groups)
    own = assignment_margin(-material.pivot.T @ material.pivot, np.arange(material.size), forbidden)
    for where, p in material.chunks():
        costs = -np.matmul(material.pivot.T, p)  # [c, K new, K old]
        for t, cost in zip(range(where.start, where.stop), costs, strict=True):
            permutations[t] = cheapest(cost, forbidden)
            margins[t] = assignment_margin(cost, permutations[t], forbidden)
    # where the reference itself has no margin (coincident components) nothing is clear, whatever the draws say
    scaled = margins / own if own > 1e-12 * max(1, len(material.pivot)) else np.zeros_like(margins)
    return Alignment(permutations, np.where(np.isfinite(scaled), scaled, 1.0))


def forbidden_pairs(size: int, groups: Groups) -> np.ndarray:
    """[K, K], True where old component k may not become new component j: they are in different groups."""
    group = np.arange(size) + len(groups)
    for number, members in enumerate(groups):
        group[list(members)] = number
    return group[:, None] != group[None, :]


def cheapest(cost: np.ndarray, forbidden: np.ndarray) -> np.ndarray:
    """The permutation with the least total cost; cost[j, k] is that of old component k becoming new component j."""
    return linear_sum_assignment(np.where(forbidden, np.inf, cost))[1]


def assignment_margin(cost: np.ndarray, perm: np.ndarray, forbidden: np.ndarray) -> float:
    """How much dearer the second best assignment is; inf when there is no other.

    The second best differs from the best in at least one component: each in turn is denied its choice.
    """
    rows = np.arange(len(perm))
    best = cost[rows, perm].sum()
    if len(perm) == 2:
        return np.inf if forbidden.any() else float(cost[rows, perm[::-1]].sum() - best)
    second = np.inf
    for j in rows:
        denied = np.where(forbidden, np.inf, cost)
        denied[j, perm[j]] = np.inf
        if np.isinf(denied[j]).all():  # alone in its group
            continue
        try:
            second = min(second, cost[rows, linear_sum_assignment(denied)[1]].sum())
        except ValueError:  # scipy: "cost matrix is infeasible": no other assignment through here
            continue
    return float(second - best)


def pivot_distance(pivot: np.ndarray, groups: Groups) -> tuple[float, tuple[int, int]]:
    """Least distance between two components of a reference [n, K] that may be swapped, and which two they are.

    Squared distance of the columns over the sum of their squared lengths: 0 the same members in the same shares
    (or both empty), 1 no member in common. (inf, (0, 0)) when nothing may be swapped.
    """
    least, pair = np.inf, (0, 0)
    squares = (pivot**2).sum(axis=0)
    products = pivot.T @ pivot
    for members in groups:
        for a, first in enumerate(members):
            for second in members[a + 1 :]:
                total = squares[first] + squares[second]
                distance = (total - 2 * products[first, second]) / total if total > 0 else 0.0
                if distance < least:
                    least, pair = float(max(distance, 0.0)), (first, second)
    return least, pair


@dataclass(frozen=True)
class AxisAlignment:
    """The alignment of one component axis: permutations [T, K], margins [T], and how distinct the reference is."""

    axis: Any
    groups: Groups
    permutations: np.ndarray
    margins: np.ndarray
    method: str
    distance: float
    closest: tuple[int, int]

    @property
    def distinct(self) -> bool:
        """Whether the components of the reference can be told apart."""
        return self.distance >= COINCIDENT


def swappable(axis: Any) -> Groups:
    """Groups of at least two components of an axis whose names may be exchanged without changing the log posterior."""
    return tuple(tuple(group) for group in axis.exchangeable if len(group) > 1)


def align(
    draws: xr.DataTree, plan: Any, pivots: Mapping[str, np.ndarray], theta: Theta, method: str = "auto",
    groups: Callable[[Any], Groups] = swappable,
) -> tuple[AxisAlignment, ...]:  # fmt: skip
    """Alignment of every axis of the plan that has something to swap, one axis after the other.

    `pivots`: latent -> reference responsibilities [..., K]. Relabelling one latent leaves the marginal responsibilities
    of the others as they are, so the axes of a product group are independent of each other here.
    """
    name = choose(method)
    found = []
    for axis in plan.axes:
        may_swap = groups(axis)
        if not may_swap:
            continue
        pivot = np.asarray(pivots[axis.latent], dtype=float).reshape(-1, axis.size)
        material = Material(
            n_draws=int(np.prod(shape_of(draws))),
            size=axis.size,
            pivot=pivot,
            groups=may_swap,
            chunks=partial(responsibility_chunks, draws, plan, axis.latent, theta),
        )
        permutations, margins = METHODS[name](material)
        found.append(AxisAlignment(axis, may_swap, permutations, margins, name, *pivot_distance(pivot, may_swap)))
    return tuple(found)


def choose(method: str) -> str:
    """The name in METHODS that a method argument stands for. Raises InvalidArgumentError that lists them."""
    if method == "auto":
        return "responsibilities"
    if method not in METHODS:
        raise InvalidArgumentError(
            f'no relabelling method is called "{method}"',
            "the argument `method`",
            tuple(f'method="{name}"' for name in ("auto", *METHODS)),
        )
    return method


def permuted(draws: xr.DataTree, plan: Any, alignments: tuple[AxisAlignment, ...], theta: Theta) -> xr.DataTree:
    """The draws with every component renamed: parameters, deterministics that follow from them, the latent group.

    All other groups are kept as they are. A group `relabelling` records the permutations [chain, draw, component].
    """
    tree = draws.copy()
    moved = np.zeros(int(np.prod(shape_of(draws))), dtype=bool)
    renamed = dict(theta)
    for found in alignments:
        renamed |= found.axis.permute_draws(renamed, found.permutations)
        moved |= (found.permutations != np.arange(found.axis.size)).any(axis=1)
    if moved.any():
        tree["posterior"] = xr.DataTree(_posterior(posterior_of(draws), plan, renamed, moved))
        probabilities = _latent(draws, alignments)
        if probabilities:
            tree["latent"] = xr.DataTree(draws["latent"].to_dataset().assign(probabilities))
    if alignments:
        tree["relabelling"] = xr.DataTree(_record(posterior_of(draws), alignments))
        tree.attrs["relabel_method"] = alignments[0].method
    return tree


def _posterior(posterior: xr.Dataset, plan: Any, theta: Theta, moved: np.ndarray) -> xr.Dataset:
    """Parameters as given, deterministics computed anew at the draws that moved."""
    new = {name: values for name, values in theta.items() if name in posterior}
    derived = {name for name in plan.deterministics(at(theta, 0)) if name in posterior and name not in new}
    if derived:
        new |= {name: np.array(posterior[name].transpose("chain", "draw", ...).values) for name in derived}
        new |= {name: new[name].reshape(-1, *new[name].shape[2:]) for name in derived}
        for t in np.flatnonzero(moved):
            values = plan.deterministics(at(theta, t))
            for name in derived:
                new[name][t] = values[name]
    changed = {}
    for name, values in new.items():
        before = posterior[name].transpose("chain", "draw", ...)
        changed[name] = before.copy(data=values.reshape(before.shape)).transpose(*posterior[name].dims)
    return posterior.assign(changed)


def _latent(draws: xr.DataTree, alignments: tuple[AxisAlignment, ...]) -> dict[str, xr.DataArray]:
    """Posterior probabilities of the latents with their last axis, the values, permuted draw by draw."""
    changed = {}
    for found in alignments:
        before = latent_draws(draws, found.axis.latent)
        if before is not None:
            shape = (*before.shape[:2], *(1,) * (before.ndim - 3), found.axis.size)
            order = found.permutations.reshape(shape)
            changed[found.axis.latent] = before.copy(data=np.take_along_axis(before.values, order, axis=-1))
    return changed


def _record(posterior: xr.Dataset, alignments: tuple[AxisAlignment, ...]) -> xr.Dataset:
    shape = (posterior.sizes["chain"], posterior.sizes["draw"])
    variables: dict[str, Any] = {}
    for found in alignments:
        name, dim = found.axis.latent, f"{found.axis.latent}_new_label"
        variables[name] = (("chain", "draw", dim), found.permutations.reshape(*shape, -1))
        variables[f"{name}_margin"] = (("chain", "draw"), found.margins.reshape(shape))
    return xr.Dataset(variables, coords={name: posterior[name] for name in ("chain", "draw") if name in posterior})


def plan_of(model: Any) -> Any:
    """The plan of a Plan, a Fit or a PyMC model (planned here)."""
    if hasattr(model, "axes") and hasattr(model, "responsibilities") and hasattr(model, "structure"):
        return model
    if hasattr(model, "plan"):
        return model.plan
    from emppl.planner import plan  # only here: everything else in this package works on draws and a plan alone

    return plan(model)


def reference(draws: xr.DataTree, to: Any, model: Any) -> tuple[Any, Theta, Theta]:
    """Plan, parameters of the reference, and the parameters of all draws, from the arguments of `relabel`.

    `to`: a Fit; a draw as (chain, draw) or as {name: value}; None: the draw of highest log density.
    Raises InvalidArgumentError when nothing says which variables carry the component axis.
    """
    if to is None and model is not None and hasattr(model, "point"):
        to = model
    if model is None and not hasattr(to, "plan"):
        raise InvalidArgumentError(
            "nothing says which variables share the component axis: the draws alone do not",
            "the model or fit that goes with the draws",
            (
                "pass the fit: emppl.relabel(draws, to=fit), emppl.diagnose(draws, fit)",
                "pass the PyMC model: emppl.relabel(draws, model=model), emppl.diagnose(draws, model)",
            ),
        )
    plan = plan_of(to if model is None else model)
    if not hasattr(plan, "responsibilities"):
        raise InvalidArgumentError(
            "a loaded fit holds results and no model, so nothing can be evaluated at the draws",
            "the fit",
            ("fit = emppl.fit(model, start=loaded, starts=0), then go on with that",),
        )
    fixed = to.point if hasattr(to, "point") else None
    theta = theta_draws(draws, plan, fixed)
    if hasattr(to, "point"):
        return plan, to.point, theta
    if isinstance(to, Mapping):
        return plan, {name: np.asarray(value) for name, value in to.items()}, theta
    if to is None:
        return plan, at(theta, highest_draw(draws)), theta
    try:
        chain, draw = to
    except (TypeError, ValueError):
        raise InvalidArgumentError(
            f"a reference cannot be a {type(to).__name__}",
            "the argument `to`",
            ("a Fit, a draw as (chain, draw), the parameters as {name: value}, or None for the highest draw",),
        ) from None
    return plan, at(theta, int(np.ravel_multi_index((chain, draw), shape_of(draws)))), theta


def relabel(draws: xr.DataTree, to: Any = None, method: str = "auto", model: Any = None) -> xr.DataTree:
    """Draws in which every component keeps its name: aligned to a fit, to one draw, or to the highest draw.

    `to`: a Fit, a draw (chain, draw), parameters {name: value}, or None (the draw of highest log density; then
    `model`, a pm.Model, Plan or Fit, says which variables carry the component axis). `method`: a name in METHODS.
    Returns a new DataTree, dims and coords unchanged: parameters are permuted along every axis that belongs to the
    components, deterministics computed anew, the `latent` group permuted, all else kept; a group `relabelling`
    holds the permutations. Draws are read in chunks, so memory does not grow with their number.
    Raises InvalidArgumentError for draws of another model, an unknown method, or no model to take the axes from.
    """
    plan, point, theta = reference(draws, to, model)
    alignments = align(draws, plan, plan.responsibilities(point), theta, method)
    return permuted(draws, plan, alignments, theta)
