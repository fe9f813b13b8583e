"""The log posterior with its Jacobian, and its gradient, as a C function of the plan's coordinates.

Terms of the members and the gradient of the expected log joint are machine code of the graphs that the plan has
compiled already; what is between them is a pass, compiled once for all models. By Fisher's identity that is the
gradient of the log posterior.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from emppl.compiling import building
from emppl.estep.elimination import program
from emppl.estep.independent import PlateData
from emppl.kernels.mixture import LOWEST, pays
from emppl.planner import Plan
from emppl.unrolled.machine import MachineCode, Untraceable, machine_code

AGREES = 1e-9  # relative difference of the compiled log posterior from the plan's, and of its gradient


class CompiledDensity:
    """u [P] → log posterior plus log Jacobian, and its gradient; any thread may call.

    Coordinates are the plan's, in widths of the model; the Jacobian is that of PyMC's own, which differs from theirs by
    a constant. Raises Untraceable, with the reason, where the model's graphs cannot be written down number by number.
    """

    def __init__(self, plan: Plan) -> None:
        from emppl.kernels import posterior

        self.size = plan.structure.coordinates.size
        self._kept: list[Any] = []  # what the records below hold addresses of
        self._of_plates(plan, posterior)
        self.function = posterior.c_function("density")
        self.draw = posterior.c_function("draw")

    def _of_plates(self, plan: Plan, posterior: Any) -> None:
        plates = plan.engine.plates
        terms, slope = _codes(plan)
        self.operations = terms.operations + slope.operations
        records, model = np.zeros(len(plates), posterior.PLATE), np.zeros(1, posterior.MODEL)
        self.records = records
        inputs = 1
        ends = np.cumsum([inputs + self.size, *(p.n_values * p.width for p in map(_Shape, plates))])
        responsibilities = int(ends[-1])
        first_term = inputs + slope.n_inputs
        place = first_term
        leaf = first_term + terms.n_outputs
        leaves, room = 0, 0
        for record, data, expected in zip(records, plates, ends):
            shape = _Shape(data)
            n, size = shape.n, shape.n_values
            record["configurations"], record["statistics"], record["members"] = size, shape.width, n
            record["eta"], record["table"] = place, -1
            place += size * shape.width
            record["expected"], record["responsibilities"] = expected, -1
            if data.has_table:
                record["table"], record["responsibilities"] = place, responsibilities
                place += size * n
                responsibilities += size * n
            record["base_at"] = self._at([data.base_sum])
            if data.tied:
                record["room"] = leaf + leaves
                leaves += size * n
            self._of_members(record, data, posterior)
            if not data.tied:
                room = max(room, (size + 3) * n)
        for record, data in zip(records, plates):
            if not data.tied:
                record["room"] = leaf + leaves
        self._kept += [terms, slope]
        model["dimension"], model["size"] = self.size, leaf + leaves + room
        model["inputs"], model["terms"], model["direct"] = inputs, first_term, leaf - 1
        model["terms_at"], model["slope_at"] = terms.address, slope.address
        model["plates_at"], model["plates"] = records.ctypes.data, len(records)
        if leaves:
            model["tied_at"] = posterior.c_function("tied").address
            model["leaf"], model["leaves"] = leaf, leaves
            arrays = program(plan.structure)
            for name in ("steps", "sources", "outputs", "roots", "entries"):
                model[f"{name}_at"] = self._at(arrays[name], np.int64)
                if name != "entries":
                    model[name] = len(arrays[name])
        self.model = model

    def _of_members(self, record: Any, data: PlateData, posterior: Any) -> None:
        """What a pass reads of the members of a plate; equal ones are counted, not repeated."""
        kinds = data.kinds
        features, weights, mask = (
            (data.features, data.weights, data.mask) if kinds is None else (kinds.features, kinds.counts, kinds.mask)
        )
        if weights is not None:
            record["weights_at"], record["weights"] = self._at(weights), len(weights)
        if mask is not None:
            record["extra_at"] = self._at(np.where(mask.T, 0.0, LOWEST))
        many = not (data.tied or data.has_table) and mask is None and pays(features, record["configurations"])
        if not data.tied:
            record["pass_at"] = posterior.c_function("many" if many else "few").address
        if not many:
            record["dense_at"] = self._at(np.asarray(features).T)
            return
        single, left, right, position, _ = features.distinct
        record["columns"] = features.n_columns
        record["z_at"] = self._at(features.columns(slice(0, features.n)))
        record["single_at"], record["singles"] = self._at(single, np.int64), len(single)
        record["left_at"], record["right_at"] = self._at(left, np.int64), self._at(right, np.int64)
        record["pairs"], record["position_at"] = len(left), self._at(position, np.int64)

    def _at(self, values: Any, dtype: Any = np.float64) -> int:
        """The address of a copy of an array."""
        self._kept.append(np.array(values, dtype=dtype, order="C"))
        return int(self._kept[-1].ctypes.data)

    def __call__(self, u: np.ndarray) -> tuple[float, np.ndarray]:
        """The log density and its gradient [P]; minus infinity and nan where there is none."""
        u, gradient, value = np.array(u, dtype=float), np.empty(self.size), np.empty(1)
        status = self.function.ctypes(
            self.size, u.ctypes.data, gradient.ctypes.data, value.ctypes.data, self.model.ctypes.data
        )
        return (float(value[0]), gradient) if status == 0 else (-np.inf, np.full(self.size, np.nan))

    def check(self, plan: Plan, points: Sequence[np.ndarray]) -> None:
        """Raise Untraceable unless it is the plan's log posterior at these points [P] each, some of them possible."""
        here = [self(u) for u in points]
        there = [_by_plan(plan, u) for u in points]
        steepest = max((np.abs(g).max(initial=0.0) for v, g in there if np.isfinite(v)), default=None)
        if steepest is None:
            raise Untraceable("the log posterior is finite at none of the points at which it is compared")
        for (value, gradient), (wanted, slope) in zip(here, there):
            if not np.isfinite(wanted) and not np.isfinite(value):
                continue
            if not (
                np.isclose(value, wanted, rtol=AGREES, atol=AGREES)
                and np.allclose(gradient, slope, rtol=AGREES, atol=AGREES * max(1.0, steepest))
            ):
                raise Untraceable(
                    f"compiled, it is {value:.12g} where the plan's is {wanted:.12g}, with gradients that differ by "
                    f"{np.abs(gradient - slope).max(initial=0.0):.2g} of {steepest:.2g}"
                )


class _Shape:
    """How many members, configurations and statistics a pass over a plate has."""

    def __init__(self, data: PlateData) -> None:
        kinds = data.kinds
        self.n = (data.features if kinds is None else kinds.features).n
        self.n_values = int(np.prod(data.supports, dtype=int))
        self.width = data.features.shape[1]


def _codes(plan: Plan) -> tuple[MachineCode, MachineCode]:
    """(u → etas, tables, and the log density of all else; (u, statistics, responsibilities) → the gradient)."""
    coordinates, plates = plan.structure.coordinates, plan.engine.plates
    for node in coordinates.parameters:
        if node.value.dtype != "float64":
            raise Untraceable(f"{node.name} is {node.value.dtype}")
    shift, width = coordinates.shift, coordinates.width
    with building():
        constrain = traceable(coordinates.backward)
        of_theta = traceable(plan.engine.terms)
        expected = plan.expected.with_gradient.traceable
        jacobian = coordinates.jacobian_of_raw.traceable if coordinates.has_jacobian else lambda raw: (0.0, 0.0)

    def terms(u: Any) -> list[Any]:
        raw = u * width + shift
        *arrays, direct, prior = of_theta(*constrain(raw))
        return [*arrays, direct + prior + jacobian(raw)[0]]

    def slope(u: Any, *sums: Any) -> list[Any]:
        raw = u * width + shift
        return [(expected(raw, *sums)[1] + jacobian(raw)[1]) * width]

    shapes = [_Shape(data) for data in plates]
    sums = [(s.n_values, s.width) for s in shapes]
    shares = [(s.n, s.n_values) for s, data in zip(shapes, plates) if data.has_table]
    return machine_code(terms, [(coordinates.size,)]), machine_code(slope, [(coordinates.size,), *sums, *shares])


def traceable(compiled: Any) -> Callable[..., Any]:
    """A compiled graph as a function of traced arrays. Raises Untraceable where it has none."""
    function: Callable[..., Any] | None = compiled.compilation.traceable
    if function is None:
        raise Untraceable("a graph with a loop, or with values that may change")
    return function


def _by_plan(plan: Plan, u: np.ndarray) -> tuple[float, np.ndarray]:
    value, gradient, _ = plan.gradient(u)
    jacobian, bend = plan.structure.coordinates.log_jacobian(u)
    return value + jacobian, gradient + bend
