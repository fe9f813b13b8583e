"""A plan over some of its rows, on which starts run first where a pass over all of them is long."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from emppl.estep.data import PlateData
from emppl.planner import FactorPlan, Plan
from emppl.structure.types import Structure

ROWS = 20_000
WORTHWHILE = 2  # times as many rows there must be


def on_some_rows(plan: Plan, seed: int | None) -> Plan | None:
    """The plan over ROWS members drawn at random, each of which counts for those that it stands for.

    A gain in nats there is an estimate of the gain over all members. Where rows are streamed: over the sample that is
    held. None where members are few, or more than sums goes over all of them (tables of graphs, ties).
    """
    plates = plan.engine.plates
    if not plates or not plan.engine.has_members_alone:
        return None
    if plan.sample is not None:
        (streamed,), (held,) = plates, plan.sample.engine.plates
        if streamed.size < WORTHWHILE * held.size:
            return None
        counted = replace(held, weights=np.full(held.size, streamed.size / held.size))
        return replace(plan.sample, engine=plan.sample.engine.with_data([counted]))
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(ROWS,)))
    rows = [
        np.sort(rng.choice(plate.size, ROWS, replace=False)) if plate.members.n >= WORTHWHILE * ROWS else None
        for plate in plates
    ]
    if all(chosen is None for chosen in rows):
        return None
    structure = _structure(plan.structure, rows)
    return replace(
        plan,
        structure=structure,
        factors=tuple(_factor(entry, rows) for entry in plan.factors),
        engine=plan.engine.with_data([_data(plate, chosen) for plate, chosen in zip(plates, rows)], structure),
    )


def _data(plate: PlateData, rows: np.ndarray | None) -> PlateData:
    if rows is None:
        return plate
    weights = np.ones(plate.size) if plate.weights is None else plate.weights
    counted = weights[rows] * (weights.sum() / weights[rows].sum())
    return replace(plate.take(rows), weights=counted, compiled=plate.compiled)


def _factor(entry: FactorPlan, rows: list[np.ndarray | None]) -> FactorPlan:
    chosen = None if entry.plate is None else rows[entry.plate]
    if chosen is None or entry.form is None:
        return entry
    return replace(entry, form=replace(entry.form, features=entry.form.features.take(chosen)))


def _structure(structure: Structure, rows: list[np.ndarray | None]) -> Structure:
    plates = tuple(
        plate if chosen is None else replace(plate, members=plate.members[chosen])
        for plate, chosen in zip(structure.plates, rows)
    )
    return replace(structure, plates=plates)
