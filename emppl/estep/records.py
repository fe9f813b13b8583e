"""What the compiled pass of `kernels.posterior` reads of the members, as records of addresses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from emppl.estep.data import PlateData
from emppl.estep.elimination import program
from emppl.estep.engine import EStep
from emppl.kernels.mixture import LOWEST, pays
from emppl.structure.types import Structure


class Records:
    """Records of all plates, and of the model that they are in; arrays are kept as long as this is.

    Numbers lie end to end in the room of one call: a one, coordinates u [P], expected statistics and responsibilities
    (what `n_inputs` counts), the terms of theta (`n_terms`), log joints of tied plates, and room for the others.
    """

    def __init__(self, engine: EStep, structure: Structure, size: int, n_inputs: int, n_terms: int) -> None:
        from emppl.kernels import posterior

        self.kept: list[Any] = []
        self.records, self.model = np.zeros(len(engine.plates), posterior.PLATE), np.zeros(1, posterior.MODEL)
        records, model, inputs = self.records, self.model, 1
        shapes = [Shape(data) for data in engine.plates]
        ends = np.cumsum([inputs + size, *(s.n_values * s.width for s in shapes)])
        responsibilities = int(ends[-1])
        first_term = place = inputs + n_inputs
        leaf = first_term + n_terms
        leaves, room = 0, 0
        for record, data, shape, expected in zip(records, engine.plates, shapes, ends):
            record["configurations"], record["statistics"], record["members"] = shape.n_values, shape.width, shape.n
            record["eta"], record["table"] = place, -1
            place += shape.n_values * shape.width
            record["expected"], record["responsibilities"] = expected, -1
            if data.has_table:
                record["table"], record["responsibilities"] = place, responsibilities
                place += shape.n_values * shape.n
                responsibilities += shape.n_values * shape.n
            record["base_at"] = self.at([data.base_sum])
            if data.tied:
                record["room"] = leaf + leaves
                leaves += shape.n_values * shape.n
            else:
                room = max(room, (shape.n_values + 3) * shape.n)
            self._members(record, data, posterior)
        for record, data in zip(records, engine.plates):
            if not data.tied:
                record["room"] = leaf + leaves
        model["dimension"], model["size"] = size, leaf + leaves + room
        model["inputs"], model["terms"], model["direct"] = inputs, first_term, leaf - 1
        model["plates_at"], model["plates"] = records.ctypes.data, len(records)
        if leaves:
            model["tied_at"] = posterior.c_function("tied").address
            model["leaf"], model["leaves"] = leaf, leaves
            arrays = program(structure)
            for name in ("steps", "sources", "outputs", "roots", "entries"):
                model[f"{name}_at"] = self.at(arrays[name], np.int64)
                if name != "entries":
                    model[name] = len(arrays[name])

    def _members(self, record: Any, data: PlateData, posterior: Any) -> None:
        """What a pass reads of the members of a plate; equal ones are counted, not repeated."""
        kinds = data.kinds
        features, weights, mask = (
            (data.features, data.weights, data.mask) if kinds is None else (kinds.features, kinds.counts, kinds.mask)
        )
        if weights is not None:
            record["weights_at"], record["weights"] = self.at(weights), len(weights)
        if mask is not None:
            record["extra_at"] = self.at(np.where(mask.T, 0.0, LOWEST))
        many = not (data.tied or data.has_table) and mask is None and pays(features, record["configurations"])
        if not data.tied:
            record["pass_at"] = posterior.c_function("many" if many else "few").address
        if not many:
            record["dense_at"] = self.at(np.asarray(features).T)
            return
        single, left, right, position, _ = features.distinct
        record["columns"] = features.n_columns
        record["z_at"] = self.at(features.columns(slice(0, features.n)))
        record["single_at"], record["singles"] = self.at(single, np.int64), len(single)
        record["left_at"], record["right_at"] = self.at(left, np.int64), self.at(right, np.int64)
        record["pairs"], record["position_at"] = len(left), self.at(position, np.int64)

    def at(self, values: Any, dtype: Any = np.float64) -> int:
        """The address of a copy of an array."""
        self.kept.append(np.array(values, dtype=dtype, order="C"))
        return int(self.kept[-1].ctypes.data)


class Shape:
    """How many members, configurations and statistics a pass over a plate has."""

    def __init__(self, data: PlateData) -> None:
        kinds = data.kinds
        self.n = (data.features if kinds is None else kinds.features).n
        self.n_values = int(np.prod(data.supports, dtype=int))
        self.width = data.features.shape[1]


def expected_shapes(engine: EStep) -> list[tuple[int, int]]:
    """Of what an expected log joint takes: statistics [J, F] of each plate, then responsibilities [C, J] of tables."""
    shapes: Sequence[Shape] = [Shape(data) for data in engine.plates]
    sums = [(s.n_values, s.width) for s in shapes]
    return sums + [(s.n, s.n_values) for s, data in zip(shapes, engine.plates) if data.has_table]
