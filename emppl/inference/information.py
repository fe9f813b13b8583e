"""Observed information by differentiating the Fisher gradient, and what follows: standard errors, Laplace, Newton."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

FLAT_CURVATURE = 1e-7  # relative to the largest: below it a direction counts as not identified
BORDER = 18.0  # a logit or log beyond this is on the border for all that doubles can tell


@dataclass(frozen=True, eq=False)
class Information:
    """Curvature of the objective at unconstrained coordinates u [P].

    basis [P, P']: the directions that stay on the borders where theta lies; gradient [P'] and information [P', P'] are
    along these alone.
    """

    u: np.ndarray = field(repr=False)
    basis: np.ndarray = field(repr=False)
    gradient: np.ndarray = field(repr=False)
    information: np.ndarray = field(repr=False)  # minus the Hessian, symmetrised

    @property
    def interior(self) -> np.ndarray:
        """Which coordinates [P] any of the directions moves."""
        return np.any(self.basis != 0, axis=1)

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
        return (self.basis @ vectors[:, flat]).T

    def step(self) -> np.ndarray:
        """The Newton step [P], with curvature of the wrong sign turned round, so that it always points uphill."""
        values, vectors = self.spectrum
        if not len(values):
            return np.zeros(len(self.u))
        floor = 1e-9 * np.abs(values).max() + 1e-300
        return self.basis @ (vectors @ ((vectors.T @ self.gradient) / np.maximum(np.abs(values), floor)))

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
        known = self.basis @ vectors[:, good]
        inverse = (known / values[good]) @ known.T
        touched = np.any(np.abs(self.basis @ vectors[:, ~good]) > 1e-6, axis=1) | ~self.interior
        full[np.ix_(~touched, ~touched)] = inverse[np.ix_(~touched, ~touched)]
        return full


def observed_information(plan: Any, u: np.ndarray, gradient_of: Any = None) -> Information:
    """Minus the Hessian of the objective at u [P], by central differences of the Fisher gradient: 2 P E-steps.

    gradient_of(u) → gradient [P]; the plan's own objective unless given (the Laplace approximation adds the Jacobian).
    """
    if gradient_of is None:

        def gradient_of(v: np.ndarray) -> np.ndarray:
            return plan.gradient(v)[1]

    coordinates = plan.structure.coordinates
    basis = coordinates.face(u, BORDER)
    point = coordinates.inside(u, 2 * BORDER)
    centre = basis.T @ gradient_of(point)
    hessian = np.zeros((basis.shape[1], basis.shape[1]))
    for row, direction in enumerate(basis.T):
        hessian[row] = _row(gradient_of, point, direction, basis, row)
    hessian = 0.5 * (hessian + hessian.T)
    good = np.isfinite(hessian).all(axis=1)
    if not good.all():
        basis, hessian, centre = basis[:, good], hessian[np.ix_(good, good)], centre[good]
    return Information(np.asarray(u, float), basis, centre, -hessian)


def _row(gradient_of: Any, point: np.ndarray, direction: np.ndarray, basis: np.ndarray, row: int) -> np.ndarray:
    """One row of the Hessian, with a step that is small beside the width of the objective.

    A mean of 1e8 may have a width of 1.
    """
    alone = np.count_nonzero(direction) == 1
    size = float(np.abs(point[np.argmax(np.abs(direction))])) if alone else 1.0
    h = 1e-5 * max(1.0, size)
    for _ in range(6):
        up, down = point + h * direction, point - h * direction
        length = float((up - down)[np.argmax(np.abs(direction))] / direction[np.argmax(np.abs(direction))])
        change = basis.T @ (gradient_of(up) - gradient_of(down)) / length
        bend = abs(change[row])
        wanted = 1e-4 / np.sqrt(bend) if np.isfinite(bend) and bend > 0 else 1e-3 * h
        wanted = max(wanted, 4e-12 * size, 1e-12)
        if np.isfinite(change).all() and h <= 30 * wanted:
            break
        h = wanted
    return change
