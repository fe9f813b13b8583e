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
from emppl.estep.records import Records, expected_shapes
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
        terms, slope = _codes(plan)
        self.operations = terms.operations + slope.operations
        held = Records(plan.engine, plan.structure, self.size, slope.n_inputs, terms.n_outputs)
        held.model["terms_at"], held.model["slope_at"] = terms.address, slope.address
        self.records, self.model = held.records, held.model
        self._kept = held, terms, slope  # the model holds addresses of them
        self.function = posterior.c_function("density")
        self.draw = posterior.c_function("draw")

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


def _codes(plan: Plan) -> tuple[MachineCode, MachineCode]:
    """(u → etas, tables, and the log density of all else; (u, statistics, responsibilities) → the gradient)."""
    coordinates = plan.structure.coordinates
    for node in coordinates.parameters:
        if node.value.dtype != "float64":
            raise Untraceable(f"{node.name} is {node.value.dtype}")
    shift, width = coordinates.shift, coordinates.width
    with building():
        constrain = traceable(coordinates._backward)
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

    sums = expected_shapes(plan.engine)
    return machine_code(terms, [(coordinates.size,)]), machine_code(slope, [(coordinates.size,), *sums])


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
