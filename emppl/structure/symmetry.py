"""Which variables share the component axis of a latent: found by nudging parameters, checked by permuting them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from emppl.structure.prior import whole_log_prior
from emppl.structure.shared import shared_axes
from emppl.structure.types import Node, Structure

Theta = dict[str, np.ndarray]
SAME = 1e-8


@dataclass(frozen=True, eq=False)
class ComponentAxis:
    """The components that a latent tells apart, and how to rename them.

    slots [K, M]: elements of theta (all parameters laid end to end) that belong to each component, in matching order;
    flips: elements that turn into 1 − value when two labels change places (the p of a Bernoulli latent).
    exchangeable: groups of components whose exchange leaves the log posterior unchanged.
    latents: all latents whose values are these components, the states of a chain say; `latent` is the first.
    grids: elements [K, …, K, M] of tables that have the components along several axes, as a transition matrix has.
    """

    latent: str
    size: int
    dim: str | None
    labels: tuple[str, ...]
    variables: tuple[str, ...]
    symmetric_likelihood: bool
    symmetric_prior: bool
    ordered: bool  # the model itself orders a parameter along this axis
    exchangeable: tuple[tuple[int, ...], ...]
    slots: np.ndarray = field(repr=False)
    flips: np.ndarray = field(repr=False)
    shapes: dict[str, tuple[int, ...]] = field(repr=False)
    latents: tuple[str, ...] = ()
    grids: tuple[np.ndarray, ...] = field(repr=False, default=())

    def permute(self, theta: Mapping[str, np.ndarray], perm: Any) -> Theta:
        """theta with components renamed: perm[j] is the old component that becomes new component j."""
        batched = {name: np.asarray(theta[name])[None] for name in self.shapes}
        return {name: values[0] for name, values in self.permute_draws(batched, np.asarray(perm)[None]).items()}

    def permute_draws(self, theta: Mapping[str, np.ndarray], perms: np.ndarray) -> Theta:
        """The same for many draws at once: arrays [draws, *shape], perms [draws, K]."""
        n = len(perms)
        flat = np.concatenate([np.asarray(theta[name], float).reshape(n, -1) for name in self.shapes], axis=1)
        new = flat.copy()
        rows = np.arange(n)[:, None]
        for j in range(self.size):
            new[:, self.slots[j]] = flat[rows, self.slots[perms[:, j]]]
        for grid in self.grids:
            depth = grid.ndim - 1
            where = [perms.reshape(n, *(self.size if d == e else 1 for e in range(depth))) for d in range(depth)]
            new[:, grid.ravel()] = flat[rows, grid[tuple(where)].reshape(n, -1)]
        if len(self.flips):
            swapped = perms[:, 0] != 0
            new[np.ix_(swapped, self.flips)] = 1.0 - flat[np.ix_(swapped, self.flips)]
        answer, start = {}, 0
        for name, shape in self.shapes.items():
            width = int(np.prod(shape, dtype=int))
            answer[name] = new[:, start : start + width].reshape(n, *shape)
            start += width
        return answer

    @property
    def is_symmetric(self) -> bool:
        """Whether any two components may change places without changing the log posterior."""
        return any(len(group) > 1 for group in self.exchangeable)

    def sentence(self) -> str:
        """What this symmetry means for the user, in one line."""
        over = f"{self.dim or self.latent} ({', '.join(self.variables)})"
        if self.ordered:
            return f"labels of {over}: fixed by an ordered parameter"
        if not self.is_symmetric:
            if not self.symmetric_likelihood:
                return f"labels of {over}: {_beyond(self.size)}"
            return f"labels of {over}: told apart by the prior alone; draws may still switch where the prior is weak"
        count = int(np.prod([_factorial(len(group)) for group in self.exchangeable]))
        part = ""
        if len(self.exchangeable) > 1:
            who = "the likelihood" if not self.symmetric_likelihood else "the prior"
            part = f" in part ({self.groups_text()}, told apart by {who})"
        return f"symmetric under relabelling of {over}{part}: {count} equivalent modes; draws will need aligning"

    def groups_text(self) -> str:
        return "; ".join(
            "{" + ", ".join(self.labels[k] for k in group) + "}" for group in self.exchangeable if len(group) > 1
        )


MOST_VALUES = 12  # of a latent, up to which other maps of the parameters than permuting them are looked for


def _beyond(size: int) -> str:
    further = "; the fit looks further" if size <= MOST_VALUES else ""
    return f"not exchanged by permuting parameters{further}"


def unnamed(structure: Structure, axes: Sequence[ComponentAxis]) -> list[tuple[Node, ...]]:
    """Latents without a component axis, in families: those that are tied to each other and take the same values."""
    named = {name for axis in axes for name in (*axis.latents, axis.latent)}
    rest = [node for node in structure.latents if node.name not in named and not node.window]
    rest = [node for node in rest if 1 < len(node.support) <= MOST_VALUES]
    tied = {name for plate in structure.plates if plate.tied for name in plate.latents}
    families: dict[tuple[float, ...], list[Node]] = {}
    for node in rest:
        if node.name in tied:
            families.setdefault(tuple(node.support), []).append(node)
    return [*map(tuple, families.values()), *((node,) for node in rest if node.name not in tied)]


def axes_of(plan: Any) -> tuple[Any, ...]:
    """The component axes of a plan, those that take a map of the parameters included where the plan can look."""
    return tuple(getattr(plan, "symmetries", plan.axes))


def _factorial(n: int) -> int:
    return 1 if n < 2 else n * _factorial(n - 1)


def component_axes(plan: Any) -> tuple[ComponentAxis, ...]:
    """Component axes of a plan's latents. Cost: one evaluation of the plan's small graphs an element of theta."""
    structure: Structure = plan.structure
    if not structure.parameters or not structure.plates:
        return ()
    influence = _influence(plan)
    axes = []
    for node in structure.latents:
        plate_index = next(p for p, plate in enumerate(structure.plates) if node.name in plate.latents)
        plate = structure.plates[plate_index]
        slots_of_node = [s for s, name in enumerate(plate.latents) if name == node.name]
        if len(slots_of_node) != 1 or len(node.support) < 2 or _same_latent_elsewhere(structure, node, plate_index):
            continue
        values = plate.configurations[:, slots_of_node[0]]
        component = _component_of_elements(influence, plate_index, values, node.support)
        slots = _slots(structure, component, len(node.support))
        if slots is None:
            continue
        flips = _flips(structure, plan, node, influence, plate_index)
        axes.append(_check(plan, structure, (node,), slots, flips))
    found = {axis.latent for axis in axes}
    rest = [node for node in structure.latents if node.name not in found and len(node.support) > 1]
    for nodes, slots, grids in shared_axes(plan, rest):
        axes.append(_check(plan, structure, nodes, slots, np.zeros(0, dtype=int), grids))
    return tuple(axes)


def _same_latent_elsewhere(structure: Structure, node: Node, plate_index: int) -> bool:
    return any(node.name in plate.latents for p, plate in enumerate(structure.plates) if p != plate_index)


def _influence(plan: Any) -> list[np.ndarray]:
    """For each plate [P, J]: does element e of theta change the log joint of configuration j?

    Last entry: direct terms [P, 1].
    """
    structure = plan.structure
    coordinates = structure.coordinates
    theta = coordinates.constrain(np.random.default_rng(3).normal(scale=0.5, size=coordinates.size))
    base = _rows(plan, theta)
    changed: list[list[np.ndarray]] = [[] for _ in base]
    for node in structure.parameters:
        for i in range(node.size):
            moved = dict(theta)
            array = np.array(theta[node.name], dtype=float)
            array.flat[i] += 1e-4 * max(abs(array.flat[i]), 1e-2)
            moved[node.name] = array
            for p, rows in enumerate(_rows(plan, moved)):
                changed[p].append(np.any(rows != base[p], axis=1))
    return [np.array(c) for c in changed]


def _rows(plan: Any, theta: Theta) -> list[np.ndarray]:
    with np.errstate(all="ignore"):
        outputs = list(plan.engine.terms(*plan.structure.coordinates.arguments(theta)))
    outputs.pop()
    direct = np.atleast_2d(outputs.pop())
    rows = []
    for plate in plan.engine.plates:
        eta = outputs.pop(0)
        rows.append(np.nan_to_num(np.concatenate([eta, outputs.pop(0)], axis=1) if plate.has_table else eta))
    return [*rows, direct]


def _component_of_elements(
    influence: list[np.ndarray], plate: int, values: np.ndarray, support: np.ndarray
) -> np.ndarray:
    """Component of each element of theta: k where it enters configurations with value k alone, else -1."""
    n = len(influence[plate])
    component = np.full(n, -1)
    elsewhere = np.zeros(n, bool)
    for p, changed in enumerate(influence):
        if p != plate:
            elsewhere |= changed.any(axis=1)
    for k, value in enumerate(support):
        alone = influence[plate].any(axis=1) & ~influence[plate][:, values != value].any(axis=1)
        component[alone & ~elsewhere] = k
    return component


def _slots(structure: Structure, component: np.ndarray, size: int) -> np.ndarray | None:
    """[K, M]: matching elements of the components; None where the components have different make-up."""
    columns: list[np.ndarray] = []
    whole: dict[tuple[int, ...], list[list[np.ndarray]]] = {}
    start = 0
    for node in structure.parameters:
        ids = start + np.arange(node.size).reshape(node.shape)
        own = component[start : start + node.size].reshape(node.shape)
        start += node.size
        if (own < 0).all():
            continue
        axis = next((a for a in range(own.ndim) if own.shape[a] == size and _runs_along(own, a)), None)
        if axis is not None:
            columns.append(np.moveaxis(ids, axis, 0).reshape(size, -1))
        elif (own == own.flat[0]).all():
            whole.setdefault(node.shape, [[] for _ in range(size)])[int(own.flat[0])].append(ids.ravel())
        elif (own >= 0).any():
            return None
    for lists in whole.values():
        if len({len(part) for part in lists}) != 1:
            return None
        columns.extend(np.array(parts) for parts in zip(*lists))
    return np.concatenate(columns, axis=1) if columns else None


def _runs_along(own: np.ndarray, axis: int) -> bool:
    line = np.moveaxis(own, axis, 0).reshape(own.shape[axis], -1)
    known = np.where(
        line >= 0, line, np.arange(len(line))[:, None]
    )  # a constant entry (a one on a diagonal) belongs to its row
    return bool((known == np.arange(len(line))[:, None]).all())


def _flips(structure: Structure, plan: Any, node: Node, influence: list[np.ndarray], plate: int) -> np.ndarray:
    """Elements that act as the p of this Bernoulli latent, and as nothing else."""
    if len(node.support) != 2:
        return np.zeros(0, dtype=int)
    entry = next((f for f in plan.factors if f.factor.name == node.name), None)
    if entry is None or entry.form is None or entry.form.family is None or entry.form.family.name != "Bernoulli":
        return np.zeros(0, dtype=int)
    start, found = 0, []
    for parameter in structure.parameters:
        for i in range(parameter.size):
            others = [
                f
                for f in plan.factors
                if f is not entry and parameter.name in f.factor.parameters and f.factor.kind == "observed"
            ]
            if parameter.name in entry.factor.parameters and not others and influence[plate][start + i].all():
                found.append(start + i)
        start += parameter.size
    return np.array(found, dtype=int)


def densities(plan: Any, theta: Theta) -> tuple[float, float]:
    """Log-likelihood and log prior at theta, the prior too where the estimate drops it."""
    posterior = plan.e_step(theta, hard=False)
    if plan.estimate == "map":  # all of the prior but that of frozen parameters, which is the same everywhere
        return float(posterior.log_likelihood), float(posterior.log_prior)
    return float(posterior.log_likelihood), whole_log_prior(plan.structure)(theta)


def _check(
    plan: Any,
    structure: Structure,
    nodes: tuple[Node, ...],
    slots: np.ndarray,
    flips: np.ndarray,
    grids: tuple[np.ndarray, ...] = (),
) -> ComponentAxis:
    node, size = nodes[0], len(nodes[0].support)
    shapes = {n.name: n.shape for n in structure.parameters}
    owners = np.concatenate([np.full(n.size, i) for i, n in enumerate(structure.parameters)])
    own = np.concatenate([slots.ravel(), flips, *(grid.ravel() for grid in grids)])
    names = [structure.parameters[i].name for i in np.unique(owners[own])]
    dim, labels = dim_of(structure, names, slots, size)
    known = (slots, flips, shapes, tuple(other.name for other in nodes), grids)
    trial = ComponentAxis(node.name, size, dim, labels or node.labels, tuple(names), False, False, False, (), *known)
    coordinates = structure.coordinates
    rng = np.random.default_rng(5)
    points = [coordinates.constrain(rng.normal(scale=0.5, size=coordinates.size)) for _ in range(2)]
    before = [densities(plan, theta) for theta in points]
    likelihood, prior, ordered = np.eye(size, dtype=bool), np.eye(size, dtype=bool), False
    for i in range(size):
        for j in range(i):
            # (i j) = (k j) (i k) (k j): exchanged with one of a class, or not, is so with all of it
            same_as = [next((k for k in range(j) if relation[i, k]), None) for relation in (likelihood, prior)]
            if None not in same_as:
                for relation, k in zip((likelihood, prior), same_as):
                    relation[i, j] = relation[j, i] = relation[k, j]
                continue
            perm = np.arange(size)
            perm[[i, j]] = perm[[j, i]]
            swapped = [trial.permute(theta, perm) for theta in points]
            if np.isnan(coordinates.unconstrain(swapped[0])).any():  # outside the domain of a parameter
                ordered |= any(getattr(n.transform, "name", None) == "ordered" for n in structure.parameters)
                likelihood[i, j] = likelihood[j, i] = ordered  # a mean and a spread cannot change places at all
                continue
            alike = np.ones(2, dtype=bool)  # likelihood, prior
            for theta, values in zip(swapped, before):
                alike &= [same(a, b) for a, b in zip(values, densities(plan, theta))]
            likelihood[i, j] = likelihood[j, i] = alike[0]
            prior[i, j] = prior[j, i] = alike[1]
    both = likelihood & prior & (not ordered)
    groups: list[tuple[int, ...]] = []
    seen: set[int] = set()
    for k in range(size):
        if k not in seen:
            group = tuple(int(i) for i in np.flatnonzero(both[k]))
            groups.append(group)
            seen.update(group)
    return ComponentAxis(
        node.name, size, dim, labels or node.labels, tuple(names), bool(likelihood.all()), bool(prior.all()), ordered,
        tuple(groups), *known,
    )  # fmt: skip


def same(a: float, b: float) -> bool:
    """Whether two log densities are equal to what rounding leaves of them."""
    return a == b or abs(a - b) <= SAME * max(abs(a), abs(b), 1.0)


def dim_of(structure: Structure, names: list[str], slots: np.ndarray, size: int) -> tuple[str | None, tuple[str, ...]]:
    """The model's own dim along the component axis, if a variable has one, with its coordinate labels."""
    start = 0
    for node in structure.parameters:
        if node.name in names:
            ids = start + np.arange(node.size).reshape(node.shape)
            for axis, (dim, n) in enumerate(zip(node.dims, node.shape)):
                named = dim != f"{node.name}_dim_{axis}"
                if n == size and named and _is_slot_axis(ids, axis, slots):
                    return dim, tuple(str(c) for c in structure.coords[dim])
        start += node.size
    return None, ()


def _is_slot_axis(ids: np.ndarray, axis: int, slots: np.ndarray) -> bool:
    line = np.moveaxis(ids, axis, 0).reshape(len(slots), -1)
    return slots.size > 0 and all(np.isin(line[k], slots[k]).all() for k in range(len(slots)))
