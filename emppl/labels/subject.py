"""From draws and what goes with them (a fit, a model, or axes named by the user) to the material that methods read."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import xarray as xr

from emppl.errors import InvalidArgumentError
from emppl.kernels.assignment import Groups
from emppl.labels.described import Described, described
from emppl.labels.draws import (
    Theta,
    at,
    highest_draw,
    latent_draws,
    responsibility_chunks,
    shape_of,
    stacked,
    theta_draws,
)
from emppl.labels.material import Material
from emppl.labels.methods.modes import climb
from emppl.labels.units import array_chunks, replayed
from emppl.structure.symmetry import axes_of

TINY = 1e-300  # what a responsibility of 0 counts as where its logarithm is taken


def plan_of(model: Any) -> Any:
    """The plan of a Plan, a Fit or a PyMC model (planned here)."""
    if hasattr(model, "axes") and hasattr(model, "structure"):
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
                'name the axis, for draws of anything else: component_dims="component"',
            ),
        )
    plan = plan_of(to if model is None else model)
    if not isinstance(plan, Described) and not hasattr(plan, "responsibilities"):
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
    return plan, at(theta, _index(draws, chain, draw)), theta


def _index(draws: xr.DataTree, chain: int, draw: int) -> int:
    shape = shape_of(draws)
    try:
        return int(np.ravel_multi_index((chain, draw), shape))
    except ValueError:
        raise InvalidArgumentError(
            f"there is no draw {draw} of chain {chain}: {shape[0]} chains of {shape[1]} draws are counted from 0",
            "the argument `to`",
        ) from None


def subject(
    draws: xr.DataTree,
    to: Any,
    model: Any,
    component_dims: Any = None,
    responsibilities: Any = None,
    allocations: Any = None,
) -> tuple[Any, Theta, Theta]:
    """The same where the axes may be named by the user instead: what stands for the plan is a `Described` then."""
    if component_dims is None:
        if responsibilities is not None or allocations is not None:
            raise InvalidArgumentError(
                "responsibilities= and allocations= go with component_dims=; a model computes its own",
                "the arguments",
                ('component_dims="component"',),
            )
        return reference(draws, to, model)
    if model is not None or hasattr(to, "plan"):
        raise InvalidArgumentError(
            "a model or fit tells the component axes itself, so they cannot be named beside it",
            "the argument `component_dims`",
            ("leave out component_dims, or the model",),
        )
    return reference(draws, to, described(draws, component_dims, responsibilities, allocations))


# -- material ----------------------------------------------------------------------------------------------------------


def latents_of(axis: Any) -> tuple[str, ...]:
    """The latents whose values are the components of an axis: one as a rule, all states of a chain."""
    return getattr(axis, "latents", ()) or (axis.latent,)


def pivots_of(draws: xr.DataTree, plan: Any, point: Theta, theta: Theta) -> dict[str, np.ndarray]:
    """Responsibilities of the reference by latent; of a draw in the draws' own words where there is no model."""
    if not isinstance(plan, Described):
        return dict(plan.responsibilities(point))
    found = {}
    t = _place(theta, point)
    if t is None:
        return {}
    for axis in axes_of(plan):
        if axis.responsibilities is not None:
            variable = _stored(draws, axis.responsibilities)
            found[axis.latent] = np.asarray(variable[divmod(t, variable.sizes["draw"])].values, dtype=float)
        elif axis.allocations is not None:
            z = _allocations(draws, axis)[t]
            found[axis.latent] = (z[:, None] == np.arange(axis.size)).astype(float)
    return found


def _place(theta: Theta, point: Theta) -> int | None:
    """Index of the draw that the reference is, None where it is none of them."""
    same = np.ones(len(next(iter(theta.values()))), dtype=bool)
    for name, values in theta.items():
        if name in point:
            same &= (values == point[name]).reshape(len(values), -1).all(axis=1)
    places = np.flatnonzero(same)
    return int(places[0]) if len(places) else None


def material(
    draws: xr.DataTree, plan: Any, axis: Any, point: Theta, theta: Theta, pivots: Mapping[str, np.ndarray],
    groups: Groups, given: Any = None, by: str | None = None,
) -> Material:  # fmt: skip
    """What methods may read about one axis."""
    names = latents_of(axis)
    have = [np.asarray(pivots[name], dtype=float).reshape(-1, axis.size) for name in names if name in pivots]
    pivot = np.concatenate(have) if have else None
    components, columns = components_of(axis, theta, plan)
    known = {name: np.asarray(value)[None] for name, value in point.items()}
    common: dict[str, Any] = {
        "n_draws": int(np.prod(shape_of(draws))), "size": axis.size, "groups": groups, "components": components,
        "columns": columns, "reference": _at_point(axis, known, plan, theta), "pivot": pivot, "given": given, "by": by,
        "best": highest_draw(draws),
    }  # fmt: skip
    if isinstance(plan, Described):
        return Material(
            chunks=None
            if axis.responsibilities is None
            else replayed(partial(_stored_chunks, draws, axis.responsibilities)),
            allocations=None if axis.allocations is None else _allocations(draws, axis),
            **common,
        )
    joint = _log_joint(plan, axis, theta)
    densities = None if joint is None or components is None else replayed(partial(_densities, joint, theta))
    return Material(
        chunks=replayed(partial(_chunks, draws, plan, names, theta)),
        data=_data(draws, plan, names),
        log_joint=None if joint is None or components is None else partial(_joint_of_components, axis, joint, theta),
        densities=densities,
        pivot_densities=None if joint is None or densities is None else _density(joint(point)),
        ascend=partial(climb, plan, axis, theta, shape_of(draws)[0]) if hasattr(plan, "engine") else None,
        **common,
    )


def _at_point(axis: Any, known: Theta, plan: Any, theta: Theta) -> np.ndarray | None:
    if not all(name in known for name in theta):
        return None
    values, _ = components_of(axis, known, plan)
    return None if values is None else values[0]


def _chunks(draws: xr.DataTree, plan: Any, names: tuple[str, ...], theta: Theta) -> Iterator[tuple[slice, np.ndarray]]:
    """Responsibilities of all latents of an axis, members of one after those of the other."""
    if len(names) == 1:
        yield from responsibility_chunks(draws, plan, names[0], theta)
        return
    stored = [latent_draws(draws, name) for name in names]
    n_draws = len(next(iter(theta.values())))
    if all(variable is not None for variable in stored):
        parts = [stacked(variable).reshape(n_draws, -1, variable.shape[-1]) for variable in stored]  # type: ignore
        yield from array_chunks(np.concatenate(parts, axis=1))()
        return
    for t in range(n_draws):
        found = plan.responsibilities(at(theta, t))
        yield slice(t, t + 1), np.concatenate([np.reshape(found[n], (-1, np.shape(found[n])[-1])) for n in names])[None]


def _stored(draws: xr.DataTree, where: tuple[str, str]) -> xr.DataArray:
    return draws[where[0]][where[1]].transpose("chain", "draw", ...)


def _stored_chunks(draws: xr.DataTree, where: tuple[str, str]) -> Iterator[tuple[slice, np.ndarray]]:
    variable = _stored(draws, where)
    length, size = variable.sizes["draw"], variable.shape[-1]
    for chain in range(variable.sizes["chain"]):
        for part, values in array_chunks(variable[chain])():  # type: ignore[arg-type]
            start = chain * length
            yield slice(start + part.start, start + part.stop), np.reshape(values, (part.stop - part.start, -1, size))


def _allocations(draws: xr.DataTree, axis: Any) -> np.ndarray:
    """Allocations [T, n] from 0: those of Stan and R count from 1. Raises where the values are no labels."""
    group, name = axis.allocations
    values = stacked(_stored(draws, (group, name)))
    values = values.reshape(len(values), -1)
    low, high = int(values.min()), int(values.max())
    from_one = low >= 1 and high == axis.size
    if low < 0 or high - from_one >= axis.size or (values != np.floor(values)).any():
        raise InvalidArgumentError(
            f"{name} holds values from {values.min()} to {values.max()}, which are no labels of {axis.size} components",
            f'allocations="{name}"',
            ("whole numbers, from 0 or from 1",),
        )
    if low >= 1 and not from_one:
        raise InvalidArgumentError(
            f"{name} holds {low} … {high}: whether its labels count from 0 or from 1 cannot be told",
            f'allocations="{name}"',
            ("count them from 0: subtract 1 before",),
        )
    return (values - int(from_one)).astype(np.int8 if axis.size < 128 else np.int16)


def first_label(values: np.ndarray, size: int) -> int:
    """0 or 1: where the labels in `values` begin, as `_allocations` takes them."""
    return int(values.min() >= 1 and values.max() == size)


def components_of(axis: Any, theta: Theta, plan: Any = None) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """The numbers of each component [T, K, J] and their names. Of a table along several axes, its diagonal."""
    if hasattr(axis, "slots"):
        flat = np.concatenate([np.asarray(theta[n], float).reshape(_length(theta), -1) for n in axis.shapes], axis=1)
        own = [flat[:, axis.slots]]
        own += [flat[:, _diagonal(grid)] for grid in getattr(axis, "grids", ())]
        values = np.concatenate(own, axis=2)
        names = [
            f"{name}[{', '.join(map(str, i))}]" if i else name
            for name, shape in axis.shapes.items()
            for i in np.ndindex(*shape)
        ]
        columns = [_short(names[i], axis) for i in axis.slots[0]]
        for grid in getattr(axis, "grids", ()):
            columns += [f"{names[i].partition('[')[0]} diagonal" for i in _diagonal(grid)[0]]
        return (values if values.shape[2] else None), tuple(columns)
    parts: list[np.ndarray] = []
    columns = []
    for name in axis.variables:
        if name not in theta:
            continue
        values = np.asarray(theta[name], dtype=float)
        places = axis.carriers[name] if hasattr(axis, "carriers") else (values.shape[1:].index(axis.size),)
        part = _along(values, places)
        parts.append(part.reshape(len(part), axis.size, -1))
        rest = part.shape[2:]
        name = f"{name} diagonal" if len(places) > 1 else name
        columns += [f"{name}[{', '.join(map(str, i))}]" if rest else name for i in np.ndindex(*rest)]
    return (np.concatenate(parts, axis=2), tuple(columns)) if parts else (None, ())


def _length(theta: Theta) -> int:
    return len(next(iter(theta.values())))


def _along(values: np.ndarray, places: tuple[int, ...]) -> np.ndarray:
    """[T, K, …]: the component axis first, the diagonal of several."""
    values = np.moveaxis(values, [place + 1 for place in places], range(1, len(places) + 1))
    for _ in places[1:]:
        values = np.moveaxis(np.diagonal(values, axis1=1, axis2=2), -1, 1)
    return values


def _diagonal(grid: np.ndarray) -> np.ndarray:
    """[K, M] of a grid [K, …, K, M]."""
    while grid.ndim > 2:
        grid = np.moveaxis(np.diagonal(grid, axis1=0, axis2=1), -1, 0)
    return grid


def _short(name: str, axis: Any) -> str:
    """The name of a column: "mu" for mu[0], where nothing but the component varies."""
    variable, _, index = name.partition("[")
    shape = axis.shapes[variable]
    if len(shape) <= 1:
        return variable
    places = index.rstrip("]").split(", ")
    along = shape.index(axis.size) if axis.size in shape else 0
    return f"{variable}[{', '.join(place for d, place in enumerate(places) if d != along)}]"


def _log_joint(plan: Any, axis: Any, theta: Theta) -> Callable[[Theta], np.ndarray] | None:
    """theta → log density of each member together with its being in each component [n, K]; None where members meet."""
    if not hasattr(plan, "marginals"):
        return None
    structure, names = plan.structure, latents_of(axis)
    if not all(plan.engine.sums_by_element(name) for name in names):
        return None

    def joint(point: Theta) -> np.ndarray:
        posterior = plan.e_step({name: point[name] for name in structure.parameter_names}, keep=True, hard=False)
        found = plan.marginals(posterior)
        parts = []
        for name in names:
            height = plan.engine.by_element(posterior, name)
            r = found[name].reshape(len(height), -1)
            parts.append(np.log(np.maximum(r, TINY)) + height[:, None])
        return np.concatenate(parts)

    return joint


def _density(joint: np.ndarray) -> np.ndarray:
    """Density of each unit in each component, up to a factor of the component, out of its log joint [n, K]."""
    return np.exp(joint - joint.max(axis=0))


def _densities(joint: Callable[[Theta], np.ndarray], theta: Theta) -> Iterator[tuple[slice, np.ndarray]]:
    for t in range(_length(theta)):
        yield slice(t, t + 1), _density(joint(at(theta, t)))[None]


def _joint_of_components(
    axis: Any, joint: Callable[[Theta], np.ndarray], theta: Theta, components: np.ndarray
) -> np.ndarray:
    """The log joint at these numbers of the components [K, J]; parameters that are nobody's at their posterior mean."""
    mean = {name: np.asarray(values, dtype=float).mean(axis=0) for name, values in theta.items()}
    flat = np.concatenate([mean[name].ravel() for name in axis.shapes])
    flat[axis.slots] = components[:, : axis.slots.shape[1]]
    start = 0
    for name, shape in axis.shapes.items():
        width = int(np.prod(shape, dtype=int))
        mean[name] = flat[start : start + width].reshape(shape)
        start += width
    return joint(mean)


def _data(draws: xr.DataTree, plan: Any, names: tuple[str, ...]) -> np.ndarray | None:
    """Observed numbers that follow the members of a latent row by row: [n, d], None where there are none."""
    if "observed_data" not in draws.children or len(names) != 1:
        return None
    group = draws["observed_data"].to_dataset()
    shape = next((tuple(node.shape) for node in plan.structure.latents if node.name == names[0]), ())
    columns = []
    for node in plan.structure.observed:
        if shape and node.name in group and tuple(group[node.name].shape[: len(shape)]) == shape:
            values = np.asarray(group[node.name].values, dtype=float)
            columns.append(values.reshape(int(np.prod(shape)), -1))
    return np.concatenate(columns, axis=1) if columns else None
