"""Enumerated graphs: a factor's log density by member and configuration, for any density that PyMC can evaluate."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytensor.tensor as pt
from pytensor.graph.replace import vectorize_graph

from emppl.compiling import substitute
from emppl.structure.restrict import CannotRestrict, Restriction, layout_of
from emppl.structure.types import Factor, Plate, Structure


def factor_table(structure: Structure, factor: Factor, plate: Plate) -> Any:
    """Log density of the factor's elements in this plate, summed by member: a graph [J, C] of the parameters."""
    total = sum(node.size for node in structure.latents)
    flat = np.zeros((plate.n_configurations, total), dtype="int64")
    for node in structure.latents:
        start = structure.offsets[node.name]
        flat[:, start : start + node.size] = node.support[0]
    flat[:, plate.members] = plate.configurations[:, None, :]
    values = {}
    for name in factor.latents:
        node, start = structure.node(name), structure.offsets[name]
        array = flat[:, start : start + node.size].reshape(plate.n_configurations, *node.shape)
        values[node.value] = pt.constant(array.astype(node.value.dtype))
    by_configuration = _by_configuration(factor.log_density, values, plate.n_configurations)
    elements, members = elements_of(factor, plate, total)
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


def sampled_table(structure: Structure, factor: Factor, plate: Plate, members: np.ndarray) -> Any:
    """The columns of `factor_table` that belong to chosen members [M]: a graph [J, M].

    Small where rows can be picked out.
    """
    total = sum(node.size for node in structure.latents)
    try:
        layout = layout_of(factor, plate, total)
        rows = np.flatnonzero(np.isin(layout.members, members))
        restriction = Restriction.over(plate, structure.scopes, rows, total)
        small = restriction(factor.log_density, layout.axis)
        if not restriction.carries(factor.log_density, layout.axis):
            raise CannotRestrict("it is the same for all rows")
    except CannotRestrict:
        return factor_table(structure, factor, plate)[:, members]
    small = small.dimshuffle(layout.axis, *[a for a in range(len(factor.shape)) if a != layout.axis])
    by_row = small.reshape((plate.n_configurations, len(rows), -1)).sum(axis=-1)
    place = np.searchsorted(members, layout.members[rows])
    return pt.zeros((plate.n_configurations, len(members)))[:, place].inc(by_row)


def free_elements(structure: Structure, factor: Factor) -> Any | None:
    """Sum of the elements that depend on no latent, whatever the latents are; None where there are none."""
    free = np.flatnonzero(np.diff(factor.scope.indptr) == 0)
    if not len(free):
        return None
    fixed = {}
    for name in factor.latents:
        node = structure.node(name)
        fixed[node.value] = pt.constant(np.full(node.shape, node.support[0], dtype=node.value.dtype))
    (graph,) = substitute([factor.log_density], fixed)
    return graph.reshape((factor.size,))[free].sum()


def elements_of(factor: Factor, plate: Plate, total: int) -> tuple[np.ndarray, np.ndarray]:
    """Elements of the factor that depend on a latent of this plate, and the member of each."""
    member_of = np.full(total, -1)
    member_of[plate.members.ravel()] = np.repeat(np.arange(plate.size), plate.members.shape[1])
    scope = factor.scope
    nonempty = np.flatnonzero(np.diff(scope.indptr) > 0)
    members = member_of[scope.indices[scope.indptr[nonempty]]]
    return nonempty[members >= 0], members[members >= 0]


def _by_configuration(graph: Any, values: dict[Any, Any], n_configurations: int) -> Any:
    try:
        return vectorize_graph(graph, replace=values)
    except (
        Exception
    ):  # an op without a vectorised form: PyTensor raises many kinds; one copy a configuration is as exact
        copies = [
            substitute([graph], {v: pt.constant(c.data[j]) for v, c in values.items()})[0]
            for j in range(n_configurations)
        ]
        return pt.stack(copies)
