"""Climbing a concave function with corners, as the log density of Laplace's errors has: from one kink to the next.

Where a kink is met it is kept, and the climb goes on along it by Newton steps of what is smooth; where all directions
that are left are spent, kinks are let go one at a time. For weighted absolute errors this is the simplex method of
Barrodale and Roberts (1973), a prior's curvature added; it ends in the corner itself, in a finite number of steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytensor.scalar as ps
import pytensor.tensor as pt
from pytensor.graph.traversal import toposort

from emppl.compiling import depends_on
from emppl.mstep.regression import ascent_step

PIVOTS = 40  # steps in one M-step; what is left is climbed in the next
MOST_COEFFICIENTS = 40  # each costs two slopes wherever all directions are spent
ENOUGH = 1e-9  # nats that a step promises, below which none is made
ROUNDING = 1e-11  # of the sum of the sizes of what a slope is made of
GRAIN = 1e-14  # of a coefficient, in spreads
NEAR = 1e-6  # of a piece, where the slope at its end is taken
HALVINGS = 60


def kinks_of(graph: Any, variables: Sequence[Any]) -> list[Any]:
    """Graphs, functions of `variables`, at whose zeros its slope may jump: |g|, sign(g), max(g, 0), g < 0."""
    wanted = set(variables)
    found = []
    for node in toposort([graph]):
        op = getattr(node.op, "scalar_op", None)
        if isinstance(op, ps.Abs | ps.Sign):
            found.append(node.inputs[0])
        elif isinstance(op, ps.Maximum | ps.Minimum | ps.LT | ps.LE | ps.GT | ps.GE):
            found.append(node.inputs[0] - node.inputs[1])
    return [pt.as_tensor(g) for g in found if depends_on(g, wanted)]


@dataclass(frozen=True)
class Landscape:
    """A function of coefficients [B], and where its kinks are.

    slope(beta) → its value, gradient [B], and the size [B] of the terms that the gradient is the sum of;
    hessian(beta) → minus the Hessian [B, B] off the kinks; kinks(beta) [K], affine: zero at a kink; spread [B]: of the
    coefficients, each in its unit; farthest(step): how much of it is gone at most.
    """

    slope: Callable[[np.ndarray], tuple[float, np.ndarray, np.ndarray]]
    hessian: Callable[[np.ndarray], np.ndarray]
    kinks: Callable[[np.ndarray], np.ndarray]
    spread: np.ndarray
    farthest: Callable[[np.ndarray], float]


class Climb:
    """One climb over a Landscape, from beta [B]; `active` are the kinks that are held at zero."""

    def __init__(self, land: Landscape, beta: np.ndarray) -> None:
        self.land = land
        self.beta = beta
        here = land.kinks(beta)
        steps = np.exp2(np.round(np.log2(land.spread)))
        # scaled by the coefficients' spread and each kink by its own slope, so that no unit is left
        rows = np.stack([land.kinks(beta + steps * unit) - here for unit in np.eye(len(beta))], axis=1)
        rows = rows * (land.spread / steps)
        lengths = np.linalg.norm(rows, axis=1)
        there = land.kinks(beta + 3.0 * steps)
        expected = here + rows @ (3.0 * steps / land.spread)
        with np.errstate(all="ignore"):
            size = np.abs(here) + np.abs(there) + lengths
            self.bending = (lengths > 1e-9 * size) & (np.abs(there - expected) <= 1e-9 * size)
        self.rows = rows[self.bending] / lengths[self.bending, None]
        self.lengths = lengths[self.bending]
        self.active: list[int] = []
        self.value = land.slope(beta)[0]
        self.hold_those_at(self.at(beta))

    @property
    def grain(self) -> float:
        """Distance from a kink, in spreads, that is none."""
        return GRAIN * (1.0 + float(np.abs(self.beta / self.land.spread).max(initial=0.0)))

    def at(self, beta: np.ndarray) -> np.ndarray:
        """Signed distances [K] from the kinks, in spreads."""
        return np.asarray(self.land.kinks(beta)[self.bending] / self.lengths)

    def hold_those_at(self, distances: np.ndarray) -> None:
        """Keep to the kinks that are no distance [K] away, unless those that are held say it all."""
        for i in np.flatnonzero(np.abs(distances) <= self.grain):
            rows = self.rows[[*self.active, i]]
            if len(rows) <= len(self.beta) and np.linalg.matrix_rank(rows, tol=1e-8) == len(rows):
                self.active.append(int(i))

    def run(self) -> np.ndarray:
        """The coefficients [B] reached; the value never falls."""
        for _ in range(PIVOTS):
            if not (self.along_the_kinks() or self.off_a_kink()):
                break
        return self.beta

    def along_the_kinks(self) -> bool:
        """A Newton step in the directions that leave the active kinks at zero."""
        _, slope, size = self.land.slope(self.beta)
        spread = self.land.spread
        if not np.isfinite(slope).all():
            return False
        axes = np.linalg.qr(self.rows[self.active].T, mode="complete")[0][:, len(self.active) :]
        if not axes.shape[1]:
            return False
        reduced = axes.T @ (spread * slope)
        noise = ROUNDING * np.abs(axes.T) @ (spread * size)
        reduced = np.where(np.abs(reduced) > noise, reduced, 0.0)
        if not reduced.any():
            return False
        bends = axes.T @ (self.land.hessian(self.beta) * np.outer(spread, spread)) @ axes
        step = ascent_step(bends, reduced) if np.abs(bends).any() else reduced
        if step is None or not 0.5 * float(reduced @ step) > ENOUGH:
            return False
        return self.search(spread * (axes @ step), self.active)

    def off_a_kink(self) -> bool:
        """Let go the active kink off which the function rises most."""
        if not self.active:
            return False
        ways = np.linalg.pinv(self.rows[self.active])  # along column i kink i alone changes
        best: tuple[float, np.ndarray, list[int]] | None = None
        for place in range(len(self.active)):
            rest = [i for n, i in enumerate(self.active) if n != place]
            for sign in (1.0, -1.0):
                way = sign * ways[:, place] / np.linalg.norm(ways[:, place])
                step = self.land.spread * way
                stops = self.stops(step, self.active)
                rise = self.rise(step, NEAR * (stops[0] if len(stops) else self.land.farthest(step)))
                if rise > 0 and (best is None or rise > best[0]):
                    best = rise, step, rest
        return best is not None and self.search(best[1], best[2])

    def stops(self, step: np.ndarray, held: Sequence[int]) -> np.ndarray:
        """Multiples of `step` at which a kink that is not held is crossed, ascending."""
        here = self.at(self.beta)
        moves = self.rows @ (step / self.land.spread)
        moves[list(held)] = 0.0
        with np.errstate(all="ignore"):
            crossed = -here / moves
        crossed = crossed[np.isfinite(crossed) & (np.abs(here) > self.grain)]
        return np.unique(crossed[crossed > 0])

    def rise(self, step: np.ndarray, size: float) -> float:
        """The slope along `step` at a multiple of it; 0 where it is rounding."""
        _, slope, terms = self.land.slope(self.beta + size * step)
        along = float(slope @ step)
        return along if abs(along) > ROUNDING * float(terms @ np.abs(step)) else 0.0

    def search(self, step: np.ndarray, held: Sequence[int]) -> bool:
        """To the top along `step`, whichever kinks are crossed; whether anything was gained."""
        far = self.land.farthest(step)
        stops = self.stops(step, held)
        ends = np.concatenate([[0.0], stops[stops < far], [far]])
        near = NEAR * np.diff(ends)
        low, high = 0, len(ends)  # at the first end it rises, at the last but beyond all it falls
        while high - low > 1:
            middle = (low + high) // 2
            if self.rise(step, ends[middle] - near[middle - 1]) > 0:
                low = middle
            else:
                high = middle
        size = ends[low]
        if high < len(ends) and self.rise(step, ends[low] + near[low]) > 0:
            size = self.smooth_top(step, ends[low], ends[high])
        return size > 0 and self.moved(step, size, held)

    def smooth_top(self, step: np.ndarray, low: float, high: float) -> float:
        """Where the slope along `step` is zero, between a rise at `low` and a fall at `high`."""
        for _ in range(HALVINGS):
            middle = 0.5 * (low + high)
            rise = self.rise(step, middle)
            if rise == 0 or not low < middle < high:
                break
            low, high = (middle, high) if rise > 0 else (low, middle)
        return middle

    def moved(self, step: np.ndarray, size: float, held: Sequence[int]) -> bool:
        """Go there if the function is higher, and hold the kinks that it ends on."""
        distances, beta = self.at(self.beta) + size * (self.rows @ (step / self.land.spread)), self.beta + size * step
        value = self.land.slope(beta)[0]
        if not value > self.value:
            return False
        self.beta, self.value, self.active = beta, value, list(held)
        self.hold_those_at(distances)
        return True
