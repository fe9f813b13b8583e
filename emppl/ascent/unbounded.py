"""A collapse followed on: does the objective have a bound there, and which prior would give it one?

Neither is taken from a book: both are tried on the model at hand, along the way on which the spread goes to zero.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from pytensor.graph.traversal import explicit_graph_inputs

from emppl.ascent.degeneracy import STILL_RISING, spreads
from emppl.ascent.spread import graph_spreads
from emppl.structure.prior import whole_log_prior

FURTHER = (0.0, 1.0, 2.0, 3.0, 4.0)  # logs by which the spread is made narrower than it was found
SHAPE = 2.0  # of the inverse gamma distribution that is tried as a remedy, in units of the spread of the data
Theta = dict[str, np.ndarray]


@dataclass(frozen=True)
class Collapse:
    """A spread on its way to zero: of which observations, made of which parameters, and what holds it."""

    of: str
    parameters: tuple[str, ...]
    is_unbounded: bool
    at_once: bool  # whether it rises from the point itself on, so that nothing ends an ascent there
    own_priors_cure: bool  # whether those that "ml" drops would hold it
    inverse_gamma_cures: bool

    @property
    def remedy(self) -> str:
        """The ways out that were tried and hold the spread above zero."""
        if self.own_priors_cure:
            return "the model's own priors hold it above zero: estimate='map'"
        if self.inverse_gamma_cures and self.parameters:
            names = " and ".join(self.parameters)
            return (
                f"a prior whose density falls fast enough at zero holds it: InverseGamma({SHAPE:g}, s) on {names}, "
                f"if a standard deviation, s the spread of {self.of}, in an estimate that keeps the priors; "
                "otherwise use fewer components, or model the rounding that made values equal"
            )
        return "use fewer components, or model the rounding that made values equal"


def followed(plan: Any, theta: Theta) -> Collapse | None:
    """The narrowest spread at theta made narrower still; None where no spread is known."""
    found = _narrowest(plan, theta)
    if found is None:
        return None
    log_spread, of, parameters = found
    coordinates = plan.structure.coordinates
    u = coordinates.off_the_border(coordinates.unconstrain(theta), 36.0)
    slope = np.zeros(len(u))
    for i in np.flatnonzero(coordinates.transformed):
        h = 1e-4 * (np.arange(len(u)) == i)
        ends = (log_spread(coordinates.constrain(u + sign * h)) for sign in (1.0, -1.0))
        slope[i] = (next(ends) - next(ends)) / 2e-4
    if not np.isfinite(slope).all() or not slope.any():
        return None
    way = -slope / float(slope @ slope)
    points = [coordinates.constrain(u + far * way) for far in FURTHER]
    logs = np.array([log_spread(point) for point in points])
    values = np.array([plan.e_step(point, hard=False).objective for point in points])
    prior = whole_log_prior(plan.structure)
    own = np.array([prior(point) for point in points]) if plan.estimate == "ml" else np.zeros(len(points))
    with np.errstate(all="ignore"):  # further on there may be no numbers left
        return Collapse(
            of, parameters, _rises(values), bool((np.diff(values) > STILL_RISING).all()),
            plan.estimate == "ml" and _falls(values + own), _falls(values - (SHAPE + 1.0) * logs - np.exp(-logs)),
        )  # fmt: skip


def _rises(values: np.ndarray) -> bool:
    """Whether it does so to the end, by as much as one observation alone would make it."""
    return bool(np.isfinite(values).all() and (np.diff(values)[-2:] > STILL_RISING).all())


def _falls(values: np.ndarray) -> bool:
    return bool(not np.isnan(values).any() and (np.diff(values)[-2:] < 0).all())


def _narrowest(plan: Any, theta: Theta) -> tuple[Callable[[Theta], float], str, tuple[str, ...]] | None:
    """(theta → log of the smallest spread in units of the data's, what is observed, the parameters it is made of)."""
    coordinates = plan.structure.coordinates
    best: tuple[float, Callable[[Theta], float], str, tuple[str, ...]] | None = None
    for n, (entry, variance) in enumerate(spreads(plan, theta)):
        cell = int(np.argmin(variance))
        graphs = [g for name, g in entry.form.params.items() if name != "mu"]
        inputs = set(explicit_graph_inputs(graphs))
        names = tuple(node.name for node in plan.structure.parameters if node.value in inputs)

        def by_form(at: Theta, n: int = n, cell: int = cell) -> float:
            with np.errstate(all="ignore"):
                return float(0.5 * np.log(spreads(plan, at)[n][1].ravel()[cell]))

        if best is None or float(variance.min()) < best[0]:
            best = float(variance.min()), by_form, entry.factor.name, names
    for spread in graph_spreads(plan):
        variances = spread.variances(coordinates.arguments(theta))
        cell = int(np.argmin(variances))

        def by_graph(at: Theta, spread: Any = spread, cell: int = cell) -> float:
            with np.errstate(all="ignore"):
                return float(0.5 * np.log(spread.variances(coordinates.arguments(at)).ravel()[cell]))

        if best is None or float(variances.min()) < best[0]:
            best = float(variances.min()), by_graph, spread.entry.factor.name, spread.parameters
    return None if best is None else best[1:]
