"""Enumerated graphs: a factor's log density by member and configuration, for any density that PyMC can evaluate."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytensor.tensor as pt
from pytensor.graph.replace import vectorize_graph

from emppl.compiling import compile_graph, substitute
from emppl.structure.restrict import CannotRestrict, Restriction, layout_of
from emppl.structure.types import Factor, Plate, Structure


def factor_table(structure: Structure, factor: Factor, plate: Plate) -> Any:
    """Log density of the factor's elements in this plate, summed by member: a graph [J, C] of the parameters."""
    elements, members = elements_of(factor, plate)
    if plate.tied:
        return _table_of_tied(structure, factor, plate, elements, members)
    table = _whole_table(structure, factor, plate, elements, members)
    if impossible(structure, table).any():
        try:
            return _restricted_table(structure, factor, plate, np.arange(plate.size))
        except CannotRestrict:
            pass
    return table


def _whole_table(structure: Structure, factor: Factor, plate: Plate, elements: np.ndarray, members: np.ndarray) -> Any:
    flat = _first_values(structure, plate.n_configurations)
    flat[:, plate.members] = plate.configurations[:, None, :]
    by_configuration = _by_assignment(structure, factor, flat)
    flat_density = by_configuration.reshape((plate.n_configurations, factor.size))
    if len(elements) == factor.size and np.array_equal(members, np.arange(plate.size)):
        return flat_density
    per_member, rest = divmod(len(members), plate.size)
    if (
        not rest
        and len(elements) == factor.size
        and np.array_equal(members, np.repeat(np.arange(plate.size), per_member))
    ):
        return flat_density.reshape((plate.n_configurations, plate.size, per_member)).sum(axis=-1)
    zeros = pt.zeros((plate.n_configurations, plate.size))
    return zeros[:, members].inc(flat_density[:, elements])


def impossible(structure: Structure, table: Any) -> np.ndarray:
    """Where a graph is minus infinity whatever theta is, as far as two random points can tell."""
    coordinates = structure.coordinates
    rng = np.random.default_rng(11)
    points = [coordinates.constrain(rng.normal(scale=0.5, size=coordinates.size)) for _ in range(2)]
    for rewritten in (False, True):  # as it stands it is ready sooner, but may leave the numbers where it need not
        function = compile_graph(coordinates.values, table, optimise=rewritten)
        with np.errstate(all="ignore"):
            one, other = (function(*coordinates.arguments(theta)) for theta in points)
        if np.isfinite(one).all():
            break
    return np.isneginf(one) & np.isneginf(other)


def _table_of_tied(
    structure: Structure, factor: Factor, plate: Plate, elements: np.ndarray, members: np.ndarray
) -> Any:
    """The same where members share latent elements, so that they cannot all take a configuration at once.

    Latent elements are coloured so that no two of one member agree; each colour takes all values in turn, and every
    entry of the table is read from the assignment in which the member's own elements have the configuration's values.
    """
    colour = colours(plate, int(structure.scopes.total))
    n_colours = int(colour[plate.members].max()) + 1
    owner_support = _supports_by_element(structure)
    held = np.unique(plate.members)
    sizes = [max(len(owner_support[e]) for e in held[colour[held] == c]) for c in range(n_colours)]
    strides = np.cumprod([1, *sizes[:-1]])
    n_assignments = int(np.prod(sizes))
    flat = _first_values(structure, n_assignments)
    for e in held:
        values = owner_support[e]
        turn = np.arange(n_assignments) // strides[colour[e]] % sizes[colour[e]]
        flat[:, e] = values[np.minimum(turn, len(values) - 1)]
    density = _by_assignment(structure, factor, flat).reshape((n_assignments, factor.size))
    place = value_places(structure, plate)  # [J, slots]: which of its values each slot has
    member_colours = strides[colour[plate.members]]  # [C, slots]
    assignment = place @ member_colours.T  # [J, C]
    entries = density[assignment[:, members], elements]
    if np.array_equal(members, np.arange(plate.size)):
        return entries
    return pt.zeros((plate.n_configurations, plate.size))[:, members].inc(entries)


def colours(plate: Plate, total: int) -> np.ndarray:
    """A number for each latent element [total] such that no two elements of one member have the same."""
    colour = np.full(total, -1)
    by_slot = np.full(total, -1)
    consistent = True
    for slot in range(plate.members.shape[1]):
        elements = plate.members[:, slot]
        consistent &= bool(np.isin(by_slot[elements], (-1, slot)).all())
        by_slot[elements] = slot
    if consistent:
        return by_slot
    neighbours: dict[int, set[int]] = {}
    for member in plate.members.tolist():
        for e in member:
            neighbours.setdefault(e, set()).update(member)
    for e in sorted(neighbours):
        taken = {int(colour[n]) for n in neighbours[e] if n != e}
        colour[e] = next(c for c in range(len(taken) + 1) if c not in taken)
    return colour


def _supports_by_element(structure: Structure) -> list[np.ndarray]:
    return [node.support for node in structure.latents for _ in range(node.size)]


def value_places(structure: Structure, plate: Plate) -> np.ndarray:
    """Which of its values each slot has in each configuration [J, slots]."""
    places = []
    for slot, name in enumerate(plate.latents):
        support = structure.node(name).support
        order = np.argsort(support)
        places.append(order[np.searchsorted(support[order], plate.configurations[:, slot])])
    return np.stack(places, axis=1)


def _first_values(structure: Structure, rows: int) -> np.ndarray:
    flat = np.zeros((rows, sum(node.size for node in structure.latents)), dtype="int64")
    for node in structure.latents:
        start = structure.offsets[node.name]
        flat[:, start : start + node.size] = node.support[0]
    return flat


def sampled_table(
    structure: Structure, factor: Factor, plate: Plate, members: np.ndarray, possible: bool = True
) -> Any:
    """The columns of `factor_table` that belong to chosen members [M]: a graph [J, M].

    Small where rows can be picked out. possible: see `_restricted_table`.
    """
    try:
        return _restricted_table(structure, factor, plate, members, possible)
    except CannotRestrict:
        return factor_table(structure, factor, plate)[:, members]


def _restricted_table(
    structure: Structure, factor: Factor, plate: Plate, members: np.ndarray, possible: bool = True
) -> Any:
    """The table [J, M] from the graph restricted to rows and configurations; possible: those that are not impossible.

    A density of zero has a derivative that is not a number, and zero times that is none either: entries that are minus
    infinity whatever theta is must not be differentiated at all. Raises CannotRestrict.
    """
    layout = layout_of(factor, plate)
    rows = np.flatnonzero(np.isin(layout.members, members))
    place = np.searchsorted(members, layout.members[rows])
    n, shape = plate.n_configurations, (plate.n_configurations, len(rows))

    def by_pair(restriction: Restriction) -> Any:
        small = restriction(factor.log_density, layout.axis)
        if not restriction.carries(factor.log_density, layout.axis):
            raise CannotRestrict("it is the same for all rows")
        small = small.dimshuffle(layout.axis, *[a for a in range(len(factor.shape)) if a != layout.axis])
        return small.reshape((len(restriction.rows), -1)).sum(axis=-1)

    whole = Restriction.over(plate, structure.scopes, rows, layout.members[rows])
    by_row = by_pair(whole).reshape(shape)
    barred = impossible(structure, by_row) if possible else None
    if barred is not None and barred.any():
        configuration, row = np.nonzero(~barred)
        kept = Restriction(
            structure.scopes, rows[row], layout.members[rows[row]], plate.configurations[configuration], plate
        )
        by_row = pt.alloc(np.float64(-np.inf), *shape)[configuration, row].set(by_pair(kept).astype("float64"))
    if len(rows) == len(members) and np.array_equal(place, np.arange(len(rows))):
        return by_row
    return pt.zeros((n, len(members)))[:, place].inc(by_row)


def free_elements(structure: Structure, factor: Factor) -> tuple[Any, int] | None:
    """The elements that depend on no latent, whatever the latents are: a graph [elements], and how many there are."""
    free = np.flatnonzero(np.diff(factor.scope.indptr) == 0)
    if not len(free):
        return None
    fixed = {}
    for name in factor.latents:
        node = structure.node(name)
        fixed[node.value] = pt.constant(np.full(node.shape, node.support[0], dtype=node.value.dtype))
    (graph,) = substitute([factor.log_density], fixed)
    return graph.reshape((factor.size,))[free], len(free)


def elements_of(factor: Factor, plate: Plate) -> tuple[np.ndarray, np.ndarray]:
    """Elements of the factor that belong to this plate, and the member of each."""
    members = plate.members_of(factor)
    elements = np.flatnonzero(members >= 0)
    return elements, members[elements]


def _by_assignment(structure: Structure, factor: Factor, flat: np.ndarray) -> Any:
    """Log density [A, *shape] with the latents at each of A assignments; flat [A, latent elements]."""
    values = {}
    for name in factor.latents:
        node, start = structure.node(name), structure.offsets[name]
        array = flat[:, start : start + node.size].reshape(len(flat), *node.shape)
        values[node.value] = pt.constant(array.astype(node.value.dtype))
    try:
        return vectorize_graph(factor.log_density, replace=values)
    except Exception:  # an op without a vectorised form: PyTensor raises many kinds; one copy an assignment is as exact
        copies = [
            substitute([factor.log_density], {v: pt.constant(c.data[j]) for v, c in values.items()})[0]
            for j in range(len(flat))
        ]
        return pt.stack(copies)
