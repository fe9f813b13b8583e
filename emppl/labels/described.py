"""Draws of anything: the component axes as the user names them, where no model says which they are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import xarray as xr

from emppl.errors import InvalidArgumentError
from emppl.kernels.assignment import Groups
from emppl.labels.draws import Theta, latent_draws, posterior_of

WAYS = (
    'component_dims="component", a dim that variables share',
    'component_dims={"mu": 0, "Gamma": (0, 1)}, axes counted from 0 after chain and draw, or names of dims',
    'component_dims=[{"mu": 0}, {"nu": 0}], one entry for each family of components',
)


@dataclass(frozen=True, eq=False)
class NamedAxis:
    """A component axis that the user has named. carriers: variable -> the axes (after the draws) that run along it.

    `responsibilities`, `allocations`: where the membership of units is kept in the draws, as (group, variable).
    All components are taken to be exchangeable, unless `groups` says otherwise: that is the user's word.
    """

    latent: str
    size: int
    dim: str | None
    labels: tuple[str, ...]
    carriers: dict[str, tuple[int, ...]]
    exchangeable: Groups
    responsibilities: tuple[str, str] | None = None
    allocations: tuple[str, str] | None = None
    symmetric_likelihood: bool = True
    symmetric_prior: bool = True
    ordered: bool = False

    @property
    def variables(self) -> tuple[str, ...]:
        """The variables that carry the axis."""
        return tuple(self.carriers)

    def permute_draws(self, theta: Mapping[str, np.ndarray], perms: np.ndarray) -> Theta:
        """Arrays [T, *shape] with components renamed along every axis that is theirs; perms [T, K]."""
        answer = dict(theta)
        for name, axes in self.carriers.items():
            if name not in answer:
                continue
            values = answer[name]
            for axis in axes:
                shape = [len(perms), *[1] * (values.ndim - 1)]
                shape[axis + 1] = self.size
                values = np.take_along_axis(values, perms.reshape(shape), axis=axis + 1)
            answer[name] = values
        return answer

    def permute(self, theta: Mapping[str, np.ndarray], perm: Any) -> Theta:
        """The same for one set of parameters."""
        batched = {name: np.asarray(value)[None] for name, value in theta.items()}
        return {name: value[0] for name, value in self.permute_draws(batched, np.asarray(perm)[None]).items()}

    def sentence(self) -> str:
        """What was named, in one line."""
        return f"components of {', '.join(self.variables)}, exchangeable as you say"


@dataclass(frozen=True, eq=False)
class Described:
    """What a plan would tell about the draws, as far as the user has told it."""

    axes: tuple[NamedAxis, ...]
    structure: Any = field(repr=False)

    def deterministics(self, theta: Mapping[str, np.ndarray]) -> Theta:
        """None: without a model nothing can be computed anew."""
        return {}


def described(
    draws: xr.DataTree,
    component_dims: Any,
    responsibilities: str | Sequence[str] | None = None,
    allocations: str | Sequence[str] | None = None,
) -> Described:
    """The component axes of draws by name. See `emppl.relabel` for the arguments.

    Raises InvalidArgumentError naming the variable, axis or size that does not fit.
    """
    posterior = posterior_of(draws)
    families = component_dims if isinstance(component_dims, list) else [component_dims]
    if not families:
        raise InvalidArgumentError("no component axis is named", "the argument `component_dims`", WAYS)
    chosen_p = _by_family(responsibilities, len(families), "responsibilities")
    chosen_z = _by_family(allocations, len(families), "allocations")
    used = {name for name in (*chosen_p, *chosen_z) if name is not None}
    axes = []
    for number, (family, p_name, z_name) in enumerate(zip(families, chosen_p, chosen_z)):
        carriers, dim = _carriers(posterior, family, used)
        size = _size(posterior, carriers)
        latent = dim or ("component" if len(families) == 1 else f"component_{number}")
        p = _probabilities(draws, p_name, size, len(families) == 1)
        z = None if z_name is None else _found(draws, z_name, "allocations")
        labels = tuple(map(str, posterior[dim].values)) if dim in posterior.coords else tuple(map(str, range(size)))
        whole = (tuple(range(size)),)
        axes.append(NamedAxis(latent, size, dim, labels, carriers, whole, p, z))
    _apart(axes)
    names = dict.fromkeys(name for axis in axes for name in axis.variables)
    parameters = tuple(_node(posterior[name]) for name in names)
    coords = {str(name): np.asarray(values) for name, values in posterior.coords.items()}
    return Described(tuple(axes), SimpleNamespace(parameters=parameters, coords=coords, name="draws", latents=()))


def _node(variable: xr.DataArray) -> Any:
    dims = tuple(str(dim) for dim in variable.dims if dim not in ("chain", "draw"))
    return SimpleNamespace(name=str(variable.name), dims=dims, shape=tuple(variable.sizes[dim] for dim in dims))


def _by_family(names: str | Sequence[str] | None, count: int, argument: str) -> list[str | None]:
    if names is None:
        return [None] * count
    listed: list[str | None] = [names] if isinstance(names, str) else list(names)
    if len(listed) != count:
        raise InvalidArgumentError(
            f"{len(listed)} names for {count} families of components",
            f"the argument `{argument}`",
            ("one name for each entry of component_dims, None where there is none",),
        )
    return listed


def _carriers(posterior: xr.Dataset, family: Any, used: set[str]) -> tuple[dict[str, tuple[int, ...]], str | None]:
    """Variable -> axes, and the dim they run along, where one is named."""
    if isinstance(family, Mapping):
        carriers = {str(name): _axes(posterior, str(name), where) for name, where in family.items()}
        dims = {str(_node(posterior[name]).dims[axes[0]]) for name, axes in carriers.items()}
        dim = dims.pop() if len(dims) == 1 else None
        return carriers, dim if dim is not None and "_dim_" not in dim else None
    wanted = (family,) if isinstance(family, str) else tuple(family) if isinstance(family, tuple | set) else ()
    known = [dim for dim in wanted if dim in posterior.dims]
    if not wanted or len(known) < len(wanted):
        missing = [dim for dim in wanted if dim not in posterior.dims]
        what = f"the draws have no dim {', '.join(map(str, missing))}" if missing else f"{family!r} names no axis"
        own = [str(dim) for dim in posterior.dims if dim not in ("chain", "draw")]
        raise InvalidArgumentError(
            f"{what}; they have {', '.join(own) or 'none but chain and draw'}", "the argument `component_dims`", WAYS
        )
    carriers = {}
    for name in map(str, posterior.data_vars):
        dims = _node(posterior[name]).dims
        axes = tuple(axis for axis, dim in enumerate(dims) if dim in known)
        if axes and name not in used:
            carriers[name] = axes
    return carriers, str(known[0])


def _axes(posterior: xr.Dataset, name: str, where: Any) -> tuple[int, ...]:
    if name not in posterior:
        raise InvalidArgumentError(
            f"the draws have no {name}; they hold {', '.join(map(str, posterior.data_vars))}",
            "the argument `component_dims`", WAYS,
        )  # fmt: skip
    dims = _node(posterior[name]).dims
    found = []
    for one in where if isinstance(where, tuple | list) else (where,):
        if isinstance(one, str) and one in dims:
            found.append(dims.index(one))
        elif isinstance(one, int | np.integer) and not isinstance(one, bool) and -len(dims) <= one < len(dims):
            found.append(int(one) % len(dims))
        else:
            raise InvalidArgumentError(
                f"{name} has no axis {one!r}: after chain and draw it has {', '.join(dims) or 'none'}",
                f'component_dims["{name}"]', WAYS,
            )  # fmt: skip
    return tuple(found)


def _size(posterior: xr.Dataset, carriers: Mapping[str, tuple[int, ...]]) -> int:
    sizes = {(name, axis): _node(posterior[name]).shape[axis] for name, axes in carriers.items() for axis in axes}
    if not sizes or len(set(sizes.values())) > 1 or min(sizes.values()) < 2:
        told = ", ".join(f"{name} axis {axis}: {size}" for (name, axis), size in sizes.items())
        raise InvalidArgumentError(
            f"the axes named are not one number of components, at least two ({told or 'none'})",
            "the argument `component_dims`", WAYS,
        )  # fmt: skip
    return next(iter(sizes.values()))


def _found(draws: xr.DataTree, name: str, argument: str) -> tuple[str, str]:
    for group in ("latent", "posterior"):
        if group in draws.children and name in draws[group].to_dataset():
            return group, name
    raise InvalidArgumentError(
        f"the draws have no {name}, neither in `posterior` nor in `latent`", f"the argument `{argument}`",
        (f"{argument}=None, and a method that needs parameters alone",),
    )  # fmt: skip


def _probabilities(draws: xr.DataTree, name: str | None, size: int, alone: bool) -> tuple[str, str] | None:
    """Where the responsibilities are: as named, else the one variable of the `latent` group that has K values."""
    if name is None:
        if "latent" not in draws.children or not alone:
            return None
        fitting = []
        for candidate in map(str, draws["latent"].to_dataset().data_vars):
            found = latent_draws(draws, candidate)
            if found is not None and found.ndim > 3 and found.shape[-1] == size and found.dtype.kind == "f":
                fitting.append(candidate)
        return ("latent", fitting[0]) if len(fitting) == 1 else None
    group, name = _found(draws, name, "responsibilities")
    variable = draws[group][name]
    if variable.ndim < 4 or variable.transpose("chain", "draw", ...).shape[-1] != size:
        raise InvalidArgumentError(
            f"{name} has shape {variable.transpose('chain', 'draw', ...).shape[2:]} after chain and draw; its last "
            f"axis should be the {size} components",
            "the argument `responsibilities`",
        )
    return group, name


def _apart(axes: list[NamedAxis]) -> None:
    taken: dict[tuple[str, int], str] = {}
    for axis in axes:
        for name, places in axis.carriers.items():
            for place in places:
                if (name, place) in taken:
                    raise InvalidArgumentError(
                        f"axis {place} of {name} is named for two families of components",
                        "the argument `component_dims`",
                        WAYS,
                    )
                taken[name, place] = axis.latent
