"""Observed information by differentiating the Fisher gradient, and what follows: standard errors, Laplace, Newton."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from emppl.estep.missing import Scores, are_many
from emppl.inference.differences import LEAST_BEND, corners, jacobian, too_coarse

FLAT_CURVATURE = 1e-7  # of the information scaled to unit diagonal: below it a direction counts as not identified
DOUBTFUL = 1e-4  # below it the slope that an ascent leaves may be all that bends a direction
BORDER = 18.0  # a logit, or a log counted from where the model puts it, is on the border beyond this


@dataclass(frozen=True, eq=False)
class Information:
    """Curvature of the objective at unconstrained coordinates u [P].

    `interior` [P]: coordinates that are neither on the border nor at a corner, and have a curvature; gradient and
    information are over these alone. `corners` [P]: those along which the slope jumps from positive to negative (the
    median of a Laplace distribution, at one of its values), so that the objective has a top there and no curvature.
    `lost` [P]: those whose curvature is no number, or too coarse a one for a standard error. What is said of the
    eigenvalues is said of the information scaled to unit diagonal, which no unit of a parameter changes.
    """

    u: np.ndarray = field(repr=False)
    interior: np.ndarray = field(repr=False)
    gradient: np.ndarray = field(repr=False)
    information: np.ndarray = field(repr=False)  # minus the Hessian, symmetrised
    corners: np.ndarray = field(repr=False)
    lost: np.ndarray = field(repr=False)
    carried: bool = False  # whether it is that of a point near by
    passes: int = 0  # over the data that it took

    @property
    def on_border(self) -> np.ndarray:
        """Coordinates [P] on the border of their domain."""
        return ~(self.interior | self.corners | self.lost)

    @cached_property
    def widths(self) -> np.ndarray:
        """Of the objective along each interior coordinate, at most one."""
        return np.asarray(1.0 / np.sqrt(np.maximum(np.abs(np.diag(self.information)), LEAST_BEND)))

    @cached_property
    def spectrum(self) -> tuple[np.ndarray, np.ndarray]:
        """Eigenvalues (ascending) and vectors of the information scaled to unit diagonal."""
        if not len(self.information):
            return np.zeros(0), np.zeros((0, 0))
        values, vectors = np.linalg.eigh(self.widths[:, None] * self.information * self.widths)
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
    def _is_flat(self) -> np.ndarray:
        values, _ = self.spectrum
        return np.abs(values) <= FLAT_CURVATURE * np.abs(values).max(initial=0.0)

    def direction(self, n: int) -> np.ndarray:
        """The n-th eigenvector as a direction over all coordinates [P], of length one."""
        full = np.zeros(len(self.u))
        full[self.interior] = self.widths * self.spectrum[1][:, n]
        return full / max(float(np.linalg.norm(full)), 1e-300)

    @property
    def flat_directions(self) -> np.ndarray:
        """Unit vectors [n, P] along which the objective does not bend."""
        flat = np.flatnonzero(self._is_flat)
        return np.array([self.direction(int(n)) for n in flat]).reshape(len(flat), len(self.u))

    @property
    def slopes(self) -> np.ndarray:
        """Gradient along the eigenvectors."""
        return np.asarray(self.spectrum[1].T @ (self.widths * self.gradient))

    @property
    def log_determinant(self) -> float:
        """Of the information over the interior coordinates; nan where it is not positive definite."""
        values, _ = self.spectrum
        with np.errstate(invalid="ignore", divide="ignore"):
            return float(np.log(values).sum() - 2.0 * np.log(self.widths).sum())

    @property
    def is_doubtful(self) -> bool:
        """Whether a direction hardly bends: along a bent ridge, slope times bend looks like curvature."""
        values = np.abs(self.spectrum[0])
        least = FLAT_CURVATURE * values.max(initial=0.0)
        return bool(((values > least) & (values < DOUBTFUL * values.max(initial=0.0))).any())

    @property
    def is_definite(self) -> bool:
        """Whether the objective bends downwards in every interior direction."""
        return self.smallest_curvature > FLAT_CURVATURE

    def step(self, least: float = 0.0) -> np.ndarray:
        """The Newton step [P], with curvature of the wrong sign turned round, so that it always points uphill.

        Along directions alone whose curvature is `least` of the largest.
        """
        values, vectors = self.spectrum
        full = np.zeros(len(self.u))
        if len(values):
            size = np.abs(values)
            floor = 1e-9 * size.max() + 1e-300
            parts = np.where(size >= least * size.max(), self.slopes / np.maximum(size, floor), 0.0)
            full[self.interior] = self.widths * (vectors @ parts)
        return full

    def way_up_the_flat(self, far: float) -> tuple[np.ndarray, float]:
        """(direction [P], the slope along it) in which the objective rises most, among those that do not bend.

        Nor do those along which a quadratic model would have its top more than `far` away.
        """
        values, vectors = self.spectrum
        lengths = np.linalg.norm(self.widths[:, None] * vectors, axis=0)
        flat, full = self._is_flat | (np.abs(self.slopes) * lengths > far * np.abs(values)), np.zeros(len(self.u))
        slopes = self.slopes[flat]
        size = float(np.linalg.norm(slopes))
        full[self.interior] = self.widths * (vectors[:, flat] @ slopes)
        return full / max(size, 1e-300), size

    @property
    def decrement(self) -> float:
        """Half the Newton decrement squared: the gain, in nats, that a quadratic model says is left."""
        values, _ = self.spectrum
        if not len(values):
            return 0.0
        bent = ~self._is_flat
        return float(0.5 * np.sum(self.slopes[bent] ** 2 / np.abs(values[bent])))

    @cached_property
    def covariance(self) -> np.ndarray:
        """Inverse information [P, P]; nan in coordinates not inside or mixed up in a flat direction."""
        n = len(self.u)
        full = np.full((n, n), np.nan)
        values, vectors = self.spectrum
        if not len(values):
            return full
        good = values > FLAT_CURVATURE * np.abs(values).max()
        inverse = (vectors[:, good] / values[good]) @ vectors[:, good].T
        inverse = self.widths[:, None] * inverse * self.widths
        touched = np.any(np.abs(vectors[:, ~good]) > 1e-6, axis=1)
        inverse[touched] = np.nan
        inverse[:, touched] = np.nan
        full[np.ix_(self.interior, self.interior)] = inverse
        full[self.lost] = full[:, self.lost] = np.nan
        return full


def observed_information(plan: Any, u: np.ndarray, further: Any = None) -> Information:
    """Minus the Hessian of the objective at u [P].

    By central differences of the Fisher gradient, 2 P E-steps; where those are dear or many and members have natural
    forms, as complete minus missing information: one pass, and differences of the expected log joint, free of N.
    further(u) → gradient [P] of what the objective has beside the plan's own (the Laplace approximation: the Jacobian).
    """
    coordinates = plan.structure.coordinates
    point = coordinates.off_the_border(u, 2 * BORDER)
    interior = coordinates.interior(u, BORDER)
    _, centre, posterior = plan.gradient(point)
    held = interior & plan.corners(coordinates.constrain(point), posterior)
    interior &= ~held
    inside = np.flatnonzero(interior)
    scores = Scores.of(plan, point) if len(inside) else None

    def slopes(v: np.ndarray) -> np.ndarray:
        """Gradient [P], and beside it the scores of the members as functions of v."""
        parts = [plan.gradient(v)[1]] if scores is None else [plan.expected(v, posterior, plan.weights)[1], scores(v)]
        if further is not None:
            parts[0] = parts[0] + further(v)
        return np.concatenate(parts)

    finest = coordinates.grain(point)
    width = -1 if len(inside) else len(point)  # nothing to estimate, or all of it on the border
    owner = plan.owners if scores is not None and are_many(plan) else None

    def between(v: np.ndarray, w: np.ndarray) -> np.ndarray:
        return np.asarray((coordinates.raw(v) - coordinates.raw(w)) / coordinates.width)

    rows = jacobian(slopes, point, inside, owner, finest, between).reshape(len(inside), width)
    hessian = rows[:, inside]
    at_corner = corners(slopes, point, inside, hessian)
    bad = at_corner | ~np.isfinite(np.diag(hessian))
    if scores is not None:
        hessian = hessian + scores.covariance(rows[:, len(point) :])
    centre = (centre if further is None else centre + further(point))[inside]
    hessian = 0.5 * (hessian + hessian.T)
    bad = bad | ~np.isfinite(hessian[:, ~bad]).all(axis=1)
    found, lost = held, np.zeros_like(interior)
    found[inside[at_corner]] = True
    lost[inside[~at_corner & (bad | too_coarse(point, inside, rows[:, inside], finest))]] = True
    interior[inside[bad]] = False
    passes = 1 + 2 * len(inside) if scores is None else 2
    information = -hessian[np.ix_(~bad, ~bad)]
    return Information(np.asarray(u, float), interior, centre[~bad], information, found, lost, passes=passes)
