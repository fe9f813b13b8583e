"""Observed information by differentiating the Fisher gradient, and what follows: standard errors, Laplace, Newton."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from emppl.estep.missing import by_score, is_worthwhile, score_covariance
from emppl.inference.differences import jacobian, owners

FLAT_CURVATURE = 1e-7  # relative to the largest: below it a direction counts as not identified
BORDER = 18.0  # a logit or log beyond this is on the border for all that doubles can tell


@dataclass(frozen=True, eq=False)
class Information:
    """Curvature of the objective at unconstrained coordinates u [P].

    `interior` [P]: coordinates that are not on the border; gradient and information are over these alone.
    """

    u: np.ndarray = field(repr=False)
    interior: np.ndarray = field(repr=False)
    gradient: np.ndarray = field(repr=False)
    information: np.ndarray = field(repr=False)  # minus the Hessian, symmetrised

    @cached_property
    def spectrum(self) -> tuple[np.ndarray, np.ndarray]:
        """Eigenvalues (ascending) and vectors of the information."""
        if not len(self.information):
            return np.zeros(0), np.zeros((0, 0))
        values, vectors = np.linalg.eigh(self.information)
        return values, vectors

    @property
    def smallest_curvature(self) -> float:
        """Smallest eigenvalue over the largest in size: negative at a saddle, about zero where not identified."""
        values, _ = self.spectrum
        return float(values[0] / np.abs(values).max()) if len(values) and np.abs(values).max() > 0 else 1.0

    @property
    def is_maximum(self) -> bool:
        return self.smallest_curvature > -FLAT_CURVATURE

    @property
    def flat_directions(self) -> np.ndarray:
        """Unit vectors [n, P] along which the objective does not bend."""
        values, vectors = self.spectrum
        flat = np.abs(values) <= FLAT_CURVATURE * (np.abs(values).max() if len(values) else 1.0)
        full = np.zeros((int(flat.sum()), len(self.u)))
        full[:, self.interior] = vectors[:, flat].T
        return full

    def step(self) -> np.ndarray:
        """The Newton step [P], with curvature of the wrong sign turned round, so that it always points uphill."""
        values, vectors = self.spectrum
        full = np.zeros(len(self.u))
        if len(values):
            floor = 1e-9 * np.abs(values).max() + 1e-300
            full[self.interior] = vectors @ ((vectors.T @ self.gradient) / np.maximum(np.abs(values), floor))
        return full

    @property
    def decrement(self) -> float:
        """Half the Newton decrement squared: the gain, in nats, that a quadratic model says is left."""
        values, vectors = self.spectrum
        if not len(values):
            return 0.0
        bent = np.abs(values) > FLAT_CURVATURE * np.abs(values).max()
        slope = vectors.T @ self.gradient
        return float(0.5 * np.sum(slope[bent] ** 2 / np.abs(values[bent])))

    @cached_property
    def covariance(self) -> np.ndarray:
        """Inverse information [P, P]; nan in coordinates on the border or mixed up in a flat direction."""
        n = len(self.u)
        full = np.full((n, n), np.nan)
        values, vectors = self.spectrum
        if not len(values):
            return full
        good = values > FLAT_CURVATURE * np.abs(values).max()
        inverse = (vectors[:, good] / values[good]) @ vectors[:, good].T
        touched = np.any(np.abs(vectors[:, ~good]) > 1e-6, axis=1)
        inverse[touched] = np.nan
        inverse[:, touched] = np.nan
        full[np.ix_(self.interior, self.interior)] = inverse
        return full


def observed_information(plan: Any, u: np.ndarray, further: Any = None) -> Information:
    """Minus the Hessian of the objective at u [P].

    By central differences of the Fisher gradient, 2 P E-steps; where those are dear and members have natural forms, as
    complete minus missing information, which takes one pass and differences of the expected log joint, free of N.
    further(u) → gradient [P] of what the objective has beside the plan's own (the Laplace approximation: the Jacobian).
    """
    interior = plan.structure.coordinates.interior(u, BORDER)
    inside = np.flatnonzero(interior)
    point = plan.structure.coordinates.off_the_border(u, 2 * BORDER)
    _, centre, posterior = plan.gradient(point)
    scores = _scores(plan, point) if len(inside) and is_worthwhile(plan) else None

    def slopes(v: np.ndarray) -> np.ndarray:
        """Gradient [P], and beside it the scores of the members as functions of v."""
        parts = [plan.gradient(v)[1]] if scores is None else [plan.expected(v, posterior, plan.weights)[1], scores(v)]
        if further is not None:
            parts[0] = parts[0] + further(v)
        return np.concatenate(parts)

    width = -1 if len(inside) else len(point)  # nothing to estimate, or all of it on the border
    owner = owners(plan, point) if scores is not None else None
    rows = jacobian(slopes, point, inside, owner).reshape(len(inside), width)
    hessian = rows[:, inside]
    if scores is not None:
        hessian = hessian + _missing(plan, point, rows[:, len(point) :])
    centre = (centre if further is None else centre + further(point))[inside]
    hessian = 0.5 * (hessian + hessian.T)
    bad = ~np.isfinite(hessian).all(axis=1)
    if bad.any():
        keep = inside[~bad]
        interior = np.zeros_like(interior)
        interior[keep] = True
        hessian, centre = hessian[np.ix_(~bad, ~bad)], centre[~bad]
    return Information(np.asarray(u, float), interior, centre, -hessian)


def _scores(plan: Any, point: np.ndarray) -> Any | None:
    """v → all eta, plate by plate as `score_covariance` orders them; None where they are not finite at `point`."""
    coordinates = plan.structure.coordinates

    def scores(v: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            etas = plan.engine.terms(*coordinates.arguments(coordinates.constrain(v)))
        return np.concatenate([by_score(data, eta) for data, eta in zip(plan.engine.plates, etas)])

    return scores if np.isfinite(scores(point)).all() else None


def _missing(plan: Any, point: np.ndarray, jacobian: np.ndarray) -> np.ndarray:
    """Covariance of the scores [n, n] along the coordinates whose rows `jacobian` [n, all eta] holds."""
    coordinates = plan.structure.coordinates
    etas = plan.engine.terms(*coordinates.arguments(coordinates.constrain(point)))
    total, start = np.zeros((len(jacobian), len(jacobian))), 0
    for data, eta in zip(plan.engine.plates, etas):
        covariance = score_covariance(data, eta)
        part = jacobian[:, start : start + len(covariance)]
        start += len(covariance)
        total += part @ covariance @ part.T
    return total
