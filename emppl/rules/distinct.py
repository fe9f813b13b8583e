"""Any density as a natural form, where the data take few distinct values: which value it is, is the statistic.

Over a few distinct rows every distribution is an exponential family: T(y) says which row y is, eta is the row's log
density, and after one pass nothing costs more than the distinct rows do. It serves counts whose distribution is no
exponential family in its own right: negative binomial of unknown alpha, BetaBinomial, zero-inflated, hurdle, truncated.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from emppl.kernels.features import Features, Source
from emppl.rules.natural import BOTH, Deriver, NaturalForm, Refused, _agree
from emppl.structure.restrict import CannotRestrict, Layout, Restriction
from emppl.structure.types import Factor, Plate

MAX_DISTINCT = 64  # statistics of a row: more, and a matrix product with them costs what the densities would
SAVES = 4  # rows for each distinct one, from which on it is worth the while


def distinct_form(deriver: Deriver, factor: Factor, plate: Plate | None) -> NaturalForm:
    """The natural form of an observed factor over its distinct rows. Raises Refused with the reason.

    Rows are the same where every number that enters their densities is. That the densities are those of one row of
    each kind is then checked by values, as for other natural forms.
    """
    if factor.kind != "observed" or not factor.shape:
        raise Refused("only rows of observations are compared")
    if plate is not None and plate.tied:
        raise Refused("its members are tied to each other by their latents")
    everywhere = np.zeros(factor.shape[0], dtype=int)
    layout = Layout(0, everywhere, factor.shape[1:]) if plate is None else deriver._layout(factor, plate)
    kind, chosen = _kinds(deriver, factor, plate, layout)
    if plate is None:
        restriction, size, n = Restriction.without_latents(chosen), 1, 1
    else:
        restriction = Restriction.over(plate, deriver.structure.scopes, chosen, layout.members[chosen])
        size, n = plate.size, plate.n_configurations
    small = restriction(factor.log_density, layout.axis)
    others = [a for a in range(small.type.ndim) if a != layout.axis]
    eta = small.dimshuffle(layout.axis, *others).reshape((n, len(chosen), -1)).sum(axis=2)
    _check(deriver, factor, plate, layout, eta, kind)
    if np.array_equal(layout.members, np.arange(size)):
        places = np.arange(1, len(chosen) + 1)
        features = Features(size, (Source(np.eye(len(chosen)), kind),), np.zeros_like(places), places)
    else:
        counts = np.zeros((size, len(chosen)))
        np.add.at(counts, (layout.members, kind), 1.0)
        features = Features.of(counts)
    return NaturalForm(
        factor, plate, features, np.broadcast_to(0.0, (size,)), eta, members=layout.members, axis=layout.axis,
        slots=layout.slots,
    )  # fmt: skip


def _kinds(deriver: Deriver, factor: Factor, plate: Plate | None, layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    """The kind of each row [rows], and a row of each kind [kinds]."""
    first = np.zeros(1, dtype=int)
    if plate is None:
        restriction = Restriction.without_latents(first)
    else:
        restriction = Restriction.over(plate, deriver.structure.scopes, first, layout.members[first])
    n = len(layout.members)
    try:
        restriction(factor.log_density, layout.axis)
        if not restriction.carries(factor.log_density, layout.axis):
            raise CannotRestrict("its density is the same for all rows")
        numbers = [np.asarray(rows, dtype=float).reshape(n, -1) for rows in restriction.told_apart(layout.members)]
    except CannotRestrict as reason:
        raise Refused(str(reason)) from None
    rows = np.concatenate([np.zeros((n, 1)), *numbers], axis=1)
    limit = min(MAX_DISTINCT, len(rows) // SAVES)
    if len(np.unique(rows[: 8 * limit + 8], axis=0)) <= limit:
        _, chosen, kind = np.unique(rows, axis=0, return_index=True, return_inverse=True)
        if len(chosen) <= limit:
            return kind.ravel(), chosen
    raise Refused(f"it has more than {limit} distinct rows")


def _check(deriver: Deriver, factor: Factor, plate: Plate | None, layout: Layout, eta: Any, kind: np.ndarray) -> None:
    """Raise Refused where the density of a row is not that of its kind."""
    evaluate = deriver._evaluator([factor.log_density, eta])
    trials = [({}, np.zeros(1, dtype=int), BOTH)] if plate is None else deriver._trials(plate)
    for latents, configuration, points in trials:
        for full, mini in evaluate(latents, points):
            by_row = np.moveaxis(np.broadcast_to(full, factor.shape), layout.axis, 0).reshape(len(kind), -1).sum(axis=1)
            _agree(by_row, mini[configuration[layout.members], kind], "its density")
