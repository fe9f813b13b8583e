"""What a user gives to start from → points in the parameters' domain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from emppl.errors import InvalidArgumentError, as_numbers
from emppl.planner import Plan
from emppl.structure.domain import domain
from emppl.structure.initial import initial_point

Theta = dict[str, np.ndarray]


def given_starts(plan: Plan, start: Any) -> list[Theta]:
    """The points of `start`: {name: value}, a Fit, or a list of these; what a point leaves out is the initial point's.

    Raises InvalidArgumentError for unknown names, shapes that do not fit, and values outside a parameter's domain.
    """
    if start is None:
        return []
    several = start if isinstance(start, Sequence) and not isinstance(start, str | bytes) else [start]
    return [_checked_start(plan, one) for one in several]


def _checked_start(plan: Plan, start: Any) -> Theta:
    if not hasattr(start, "point") and not isinstance(start, Mapping):
        example = ", ".join(f"{name!r}: ..." for name in plan.structure.parameter_names)
        raise InvalidArgumentError(
            f"start must be {{name: value}} or a Fit, not {start!r}", "start", (f"start={{{example}}}",)
        )
    given = dict(start.point if hasattr(start, "point") else start)
    values = {str(name): as_numbers(value, f"start[{name!r}]") for name, value in given.items()}
    names = plan.structure.parameter_names
    unknown = set(values) - set(names) - set(plan.frozen)
    if unknown:
        source = "the saved or earlier fit is of another model" if hasattr(start, "point") else "start"
        raise InvalidArgumentError(
            f"{', '.join(sorted(unknown))} is no parameter of this model", source, (f"parameters: {', '.join(names)}",)
        )
    theta = dict(initial_point(plan.structure)) if set(names) - set(values) else {}
    for node in plan.structure.parameters:
        if node.name in values:
            try:
                theta[node.name] = np.broadcast_to(values[node.name], node.shape).astype(float)
            except ValueError:
                raise InvalidArgumentError(
                    f"start has shape {np.shape(values[node.name])} for {node.name}, which has shape {node.shape}",
                    f"start[{node.name!r}]",
                ) from None
    for node in plan.structure.parameters:
        if not domain(plan.structure, (node.name,))(theta):
            raise InvalidArgumentError(
                f"start puts {node.name} = {np.asarray(theta[node.name])} outside its domain",
                f"{node.name} ~ {node.distribution}",
            )
    return theta
