"""Any density as a natural form, where the data take few distinct values: which value it is, is the statistic.

Over a few distinct rows every distribution is an exponential family: T(y) says which row y is, eta is the row's log
density, and after one pass nothing costs more than the distinct rows do. It serves counts whose distribution is no
exponential family in its own right: negative binomial of unknown alpha, BetaBinomial, zero-inflated, hurdle, truncated.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from pytensor.graph.basic import Constant
from pytensor.graph.traversal import explicit_graph_inputs

from emppl.compiling import compile_graph
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


class _Record(Restriction):
    """Keeps the numbers that tell rows apart: constants along the axis, and which of a member's latents enters."""

    def __init__(self, scopes: Any, layout: Layout, plate: Plate | None) -> None:
        rows = np.arange(len(layout.members))
        slots = 0 if plate is None else plate.configurations.shape[1]
        first = (
            np.zeros((len(rows), slots), dtype=int) if plate is None else plate.configurations[:1].repeat(len(rows), 0)
        )
        super().__init__(scopes, rows, layout.members, first, plate)
        self.numbers: list[np.ndarray] = [np.zeros((len(rows), 1))]

    def _restrict(self, v: Any, axis: int) -> Any:
        if self.carries(v, axis):
            if v in self.scopes.moved:
                ids = np.moveaxis(self.scopes.moved[v], axis, 0).reshape(len(self.rows), -1)
                assert self.plate is not None  # a latent moved here, so there is one
                self._keep(self.plate.slot_of(self.members[:, None], ids), 0)
            elif isinstance(v, Constant):
                self._keep(v.data, axis)
            elif self._rule(v) is None:
                if any(True for _ in explicit_graph_inputs([v])) or not self.latent_free(v):
                    raise CannotRestrict("a parameter varies over its rows")
                self._keep(compile_graph([], v)(), axis)
        return super()._restrict(v, axis)

    def _keep(self, numbers: Any, axis: int) -> None:
        self.numbers.append(np.moveaxis(np.asarray(numbers, dtype=float), axis, 0).reshape(len(self.rows), -1))


def _kinds(deriver: Deriver, factor: Factor, plate: Plate | None, layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    """The kind of each row [rows], and a row of each kind [kinds]."""
    scopes = Restriction.without_latents(layout.members).scopes if plate is None else deriver.structure.scopes
    record = _Record(scopes, layout, plate)
    try:
        record(factor.log_density, layout.axis)
        if not record.carries(factor.log_density, layout.axis):
            raise CannotRestrict("its density is the same for all rows")
    except CannotRestrict as reason:
        raise Refused(str(reason)) from None
    rows = np.concatenate(record.numbers, axis=1)
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
