"""Natural forms where rows of a member have known, differing parameters: `error_rates[rater, class[item]]`.

Rows are grouped by their parameters, and each group is one more axis of cells. So ratings in long form, with any number
of ratings by each rater and of each item, cost what a table of counts would, and have its closed-form M-step.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from emppl.rules.natural import MAX_GROUPS, Deriver, NaturalForm, Refused, _agree, _features, _rows_first, check_support
from emppl.structure.restrict import Layout, Restriction
from emppl.structure.types import Factor, Plate

SPARSEST = 16  # members × groups for each row; beyond it nearly all statistics would be zero
MAX_VALUES = 1e7  # parameters evaluated while looking for groups


def grouped_form(deriver: Deriver, factor: Factor, plate: Plate) -> NaturalForm:
    """The natural form of a factor whose rows fall into groups of equal parameters. Raises Refused with the reason.

    Cells come in the order [configuration, group, slots]. Two rows are of one group where their parameters agree in
    every configuration at random points; the cells are then compared with all rows at fresh assignments.
    """
    rule = deriver._family(factor)
    if rule.frame is not None:
        raise Refused(f"its parameters vary over the rows, and {rule.name} is not added up by groups of rows")
    if plate.tied or not factor.shape:
        raise Refused("its parameters vary over the rows, and its members are tied to each other by their latents")
    layout = deriver._layout(factor, plate)
    unknown, known = deriver._split(factor, rule)
    cores = deriver._cores(factor, rule, unknown)
    graphs = [graph for _, graph in unknown]
    group, first = _groups(deriver, factor, plate, layout, graphs, cores)
    restriction = Restriction.over(plate, deriver.structure.scopes, first, layout.members[first])
    params = {
        name: deriver._restrict(restriction, graph, layout.axis, len(factor.shape), factor.shape, core)
        for (name, graph), core in zip(unknown, cores)
    }
    _check(deriver, factor, plate, layout, graphs, params, cores, group)
    y = np.moveaxis(np.asarray(factor.value.data), layout.axis, 0)
    takes: dict[str, Any] = {name: _rows_first(v, factor.shape, 0, layout.axis) for name, v in known.items()}
    takes |= {"size": int(params["p"].type.shape[-1])} if rule.name == "Categorical" else {}
    check_support(deriver.structure, factor, rule, y, layout.axis, takes)
    rows, log_base = _features(rule, None, factor.op.ndim_supp, layout.slots, y, takes)
    by_group, base = np.zeros((plate.size, len(first), rows.shape[1])), np.zeros(plate.size)
    np.add.at(by_group, (layout.members, group), rows)
    np.add.at(base, layout.members, log_base)
    features = by_group.reshape(plate.size, -1)
    eta = rule.natural(*params.values()).reshape((plate.n_configurations, features.shape[1]))
    return NaturalForm(
        factor, plate, features, base, eta, rule, params, members=layout.members, axis=layout.axis, slots=layout.slots
    )


def _groups(
    deriver: Deriver, factor: Factor, plate: Plate, layout: Layout, graphs: list[Any], cores: list[int]
) -> tuple[np.ndarray, np.ndarray]:
    """The group of each row, numbered from 0, and a row of each group."""
    rows, n = factor.shape[layout.axis], plate.n_configurations
    most = min(MAX_GROUPS, SPARSEST * rows // plate.size)
    if n * factor.size > MAX_VALUES:
        raise Refused(f"its parameters vary over the rows, and {n * factor.size:,} are too many to look for groups")
    evaluate = deriver._evaluator(graphs)
    keys = []
    for j in range(n):
        for draw in evaluate(deriver._assignment(plate, np.full(plate.size, j))):
            parts = [_rows_first(v, factor.shape, core, layout.axis).reshape(rows, -1) for v, core in zip(draw, cores)]
            keys.append(np.concatenate(parts, axis=1))
            if len(np.unique(keys[-1][: 2 * most + 1], axis=0)) > most:
                raise Refused(f"its parameters take more than {most} different values over the rows")
    _, first, group = np.unique(np.concatenate(keys, axis=1), axis=0, return_index=True, return_inverse=True)
    if len(first) > most:
        raise Refused(f"its parameters take {len(first)} different values over the rows")
    return group.ravel(), first


def _check(
    deriver: Deriver,
    factor: Factor,
    plate: Plate,
    layout: Layout,
    graphs: list[Any],
    params: dict[str, Any],
    cores: list[int],
    group: np.ndarray,
) -> None:
    """Raise Refused where a row's parameters are not those of its cell."""
    evaluate = deriver._evaluator([*graphs, *params.values()])
    groups = int(group.max()) + 1
    for latents, configuration in deriver._trials(plate):
        cell = configuration[layout.members] * groups + group
        for draw in evaluate(latents):
            for full, mini, name, core in zip(draw, draw[len(graphs) :], params, cores):
                by_cell = mini.reshape(-1, *layout.slots, *mini.shape[1:])
                _agree(_rows_first(full, factor.shape, core, layout.axis), by_cell[cell], f"its {name}")
