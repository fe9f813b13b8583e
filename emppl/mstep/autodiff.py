"""The expected log joint and its gradient from the graph, and the numeric M-steps that climb it.

Q(u; S, R) = sum over plates of <eta(theta), S> + <table(theta), R>, plus what depends on parameters alone. Where all
factors have a natural form it costs nothing in N. By Fisher's identity its gradient at the posterior of the same
theta is the gradient of the marginal log posterior.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pytensor.tensor as pt

from emppl.compiling import CompiledSlope, building, substitute
from emppl.estep.posterior import Posterior
from emppl.mstep.search import climb
from emppl.structure.coordinates import Coordinates

STEPS_FROM_A_GUESS = 2  # from the maximum without priors
ENOUGH = 1e-4  # of what a step has gained: what is left is then left to the next M-step


@dataclass(frozen=True, eq=False)
class ExpectedLogJoint:
    """Q as a function of unconstrained coordinates; compiled at the first call, since closed forms never need it."""

    coordinates: Coordinates = field(repr=False)
    etas: tuple[Any, ...] = field(repr=False)  # a graph [J, F] a plate, in the parameters' values
    tables: tuple[Any | None, ...] = field(repr=False)  # a graph [J, C] a plate
    direct_likelihood: Any = field(repr=False)  # log-likelihood of what depends on no latent, a scalar graph
    log_prior: Any = field(repr=False)  # a scalar graph

    @property
    def direct(self) -> Any:
        """What depends on parameters alone."""
        return self.direct_likelihood + self.log_prior

    @cached_property
    @building()
    def with_gradient(self) -> CompiledSlope:
        """(Unconstrained coordinates in PyMC's own units, statistics, responsibilities) → Q and its gradient."""
        statistics = [pt.dmatrix(f"statistics_{i}") for i in range(len(self.etas))]
        responsibilities = [pt.dmatrix(f"responsibilities_{i}") for i, t in enumerate(self.tables) if t is not None]
        terms = [self.direct]
        rest = iter(responsibilities)
        for eta, table, expected in zip(self.etas, self.tables, statistics):
            terms.append(pt.switch(pt.eq(expected, 0), 0.0, eta * expected).sum())
            if table is not None:
                r = next(rest).T
                terms.append(pt.switch(pt.eq(r, 0), 0.0, table * r).sum())
        total = pt.stack([pt.as_tensor(t).astype("float64") for t in terms]).sum()
        replacements = dict(zip(self.coordinates.values, self.coordinates.graphs.values()))
        (value,) = substitute([total], replacements)
        return CompiledSlope([self.coordinates.vector, *statistics, *responsibilities], value)

    def __call__(
        self, u: np.ndarray, posterior: Posterior, weights: tuple[np.ndarray | None, ...]
    ) -> tuple[float, np.ndarray]:
        """Q and its gradient [P] at u, for the statistics of `posterior`."""
        arguments = list(posterior.statistics)
        for table, r, w in zip(self.tables, posterior.responsibilities, weights):
            if table is not None:
                arguments.append(r if w is None else r * w[:, None])
        with np.errstate(all="ignore"):
            value, gradient = self.with_gradient(self.coordinates.raw(u), *arguments)
            gradient = np.asarray(gradient, float) * self.coordinates.width
            if np.isfinite(value) and not np.isfinite(gradient).all():
                gradient = self._by_differences(np.asarray(u, float), gradient, arguments)
        return float(value), gradient

    def _by_differences(self, u: np.ndarray, gradient: np.ndarray, arguments: list[Any]) -> np.ndarray:
        """Where the derivative of an impossible entry is not a number, though its weight is zero."""
        answer, grain = gradient.copy(), self.coordinates.grain(u)
        for i in np.flatnonzero(~np.isfinite(gradient)):
            h = 1e-5 * max(1.0, abs(u[i]), 1e-3 * grain[i])
            up, down = u.copy(), u.copy()
            up[i] += h
            down[i] -= h
            above, below = (float(self.with_gradient(self.coordinates.raw(v), *arguments)[0]) for v in (up, down))
            answer[i] = (above - below) / (2 * h)
        return answer


@dataclass(frozen=True, eq=False)
class NumericUpdate:
    """Climbs Q in the coordinates of some parameters, the others held. Never ends below where it began.

    without_priors: the closed form of the same block that leaves its priors out, where there is one. Among many members
    priors weigh little, and the climb from there is short.
    """

    names: tuple[str, ...]
    expected: ExpectedLogJoint = field(repr=False)
    weights: tuple[np.ndarray | None, ...] = field(repr=False)
    max_steps: int = 8  # a generalised M-step: what is left is climbed in the next iteration
    without_priors: Callable[..., dict[str, np.ndarray] | None] | None = field(repr=False, default=None)

    def __call__(self, theta: dict[str, np.ndarray], posterior: Posterior) -> dict[str, np.ndarray] | None:
        coordinates = self.expected.coordinates
        free = np.concatenate([np.arange(coordinates.size)[coordinates.slices[name]] for name in self.names])
        start = coordinates.unconstrain(theta)
        start = np.where(np.isfinite(start), start, np.where(np.isnan(start), 0.0, np.sign(start) * 30.0))
        mask = np.zeros(coordinates.size, dtype=bool)
        mask[free] = True
        scale = max(1.0, float(sum(s.sum() for s in posterior.counts)))

        seen: dict[bytes, tuple[float, np.ndarray]] = {}  # searches ask again for where they start

        def objective(v: np.ndarray) -> tuple[float, np.ndarray]:
            key = v.tobytes()
            if key not in seen:
                seen[key] = self.expected(v, posterior, self.weights)
            return seen[key]

        steps, other = self.max_steps, None
        guess = None if self.without_priors is None else self.without_priors(theta, posterior)
        if guess is not None:
            found = coordinates.unconstrain({**theta, **guess})
            if np.isfinite(found).all() and np.isfinite(objective(found)[0]):
                other = found
                if objective(found)[0] > objective(start)[0]:
                    if _little_left(objective(start), objective(found), (found - start)[free], free):
                        return guess
                    start, other, steps = found, start, min(steps, STEPS_FROM_A_GUESS)
        u, value, _ = climb(objective, start, mask, scale, steps, coordinates.transformed, other=other)
        if not np.isfinite(value):
            return None
        constrained = coordinates.constrain(u)
        return {name: constrained[name] for name in self.names}


def _little_left(before: Any, after: Any, step: np.ndarray, free: np.ndarray) -> bool:
    """Whether what a climb from `after` would gain is nothing beside the way there from `before` (value, gradient).

    The gain g² / 2c by the mean curvature c of that way; the next iteration has another E-step to go by.
    """
    gained = after[0] - before[0]
    bent = float((before[1] - after[1])[free] @ step)
    slopes = float(after[1][free] @ after[1][free])
    return bent > 0 and 0.5 * slopes * float(step @ step) / bent <= ENOUGH * gained
