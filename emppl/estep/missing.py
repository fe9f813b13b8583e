"""The missing information: how the scores of members vary over their configurations (Louis 1982).

With a natural form the score of a member in configuration j is T in the block j of eta, so its covariance given the
data is a sum over members of products of statistics: one pass of matrix products in place of two passes a parameter.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from emppl.estep.data import PlateData
from emppl.kernels.features import blocks
from emppl.kernels.mixture import mixture
from emppl.kernels.threads import pool, threads

WORTHWHILE = 1e6  # multiplications in a pass, below which passes are cheap beside the graphs
LARGEST = 2500  # numbers in eta: their square is kept
LARGEST_OF_FEW = 500  # the same where a pass is short, beside which products of that square take long
BLOCK = 1 << 19  # numbers in the scores of a block of members: 4 MiB


OWNED = 40  # coordinates from which on it is worth finding out which component each belongs to


class Scores:
    """Scores of the members of a plan as functions of its coordinates, at one point [P]; eta there is finite."""

    def __init__(self, plan: Any, point: np.ndarray) -> None:
        self.plan, self.point = plan, point
        self.etas = self._etas(point)

    @classmethod
    def of(cls, plan: Any, point: np.ndarray) -> Scores | None:
        """None where members have none, or too few for this to pay, or eta is not finite."""
        found = cls(plan, point) if is_worthwhile(plan, are_many(plan)) else None
        return found if found is not None and all(np.isfinite(eta).all() for eta in found.etas) else None

    def _etas(self, v: np.ndarray) -> list[np.ndarray]:
        coordinates, engine = self.plan.structure.coordinates, self.plan.engine
        with np.errstate(all="ignore"):
            return list(engine.terms(*coordinates.arguments(coordinates.constrain(v)))[: len(engine.plates)])

    def __call__(self, v: np.ndarray) -> np.ndarray:
        """All eta, plate by plate as `score_covariance` orders them."""
        return np.concatenate([by_score(data, eta) for data, eta in zip(self.plan.engine.plates, self._etas(v))])

    def covariance(self, jacobian: np.ndarray) -> np.ndarray:
        """Of the scores [n, n] along the coordinates whose rows `jacobian` [n, all eta] holds."""
        total, start = np.zeros((len(jacobian), len(jacobian))), 0
        for data, eta in zip(self.plan.engine.plates, self.etas):
            covariance = score_covariance(data, eta)
            part = jacobian[:, start : start + len(covariance)]
            start += len(covariance)
            total += part @ covariance @ part.T
        return total


def are_many(plan: Any) -> bool:
    """Whether there are so many coordinates that it is worth finding out which component each belongs to."""
    return bool(plan.structure.coordinates.size >= OWNED)


def owners(plan: Any) -> np.ndarray:
    """The component of each coordinate [P], then of each number in eta: see `inference.differences.jacobian`.

    A component is a configuration of a plate, and a coordinate belongs to it where no other's eta changes with it.
    Cost: an evaluation of the plan's small graphs a coordinate.
    """
    base = Scores(plan, 0.3 * np.random.default_rng(7).normal(size=plan.structure.coordinates.size))
    found = np.full(len(base.point), -1)
    for i in range(len(base.point)):
        moved = base.point.copy()
        moved[i] += 1e-3 * max(1.0, abs(moved[i]))
        there = Scores(plan, moved)
        changed = np.concatenate([(a != b).any(axis=1) for a, b in zip(there.etas, base.etas)])
        if changed.sum() == 1:
            found[i] = int(changed.argmax())
    parts, number = [found], 0
    for data, eta in zip(plan.engine.plates, base.etas):
        parts.append(np.repeat(number + np.arange(len(eta)), 1 + data.features.distinct.n))
        number += len(eta)
    return np.concatenate(parts)


def is_worthwhile(plan: Any, in_groups: bool = False) -> bool:
    """Whether the plan's plates are in natural form throughout, and this pays. plan: a Plan.

    It does where passes are long, and where coordinates are so many that they are moved `in_groups`, which passes over
    the data, unlike complete information, do not tell apart.
    """
    plates = plan.engine.plates
    if not plates or plan.method != "em" or any(p.tied or p.has_table for p in plates):
        return False
    sizes = [plate.n_configurations * (1 + p.features.distinct.n) for p, plate in zip(plates, plan.structure.plates)]
    rows = [p.size if p.kinds is None else len(p.kinds.counts) for p in plates]
    if sum(n * size for n, size in zip(rows, sizes)) >= WORTHWHILE:
        return max(sizes) <= LARGEST
    return in_groups and max(sizes) <= LARGEST_OF_FEW


def score_covariance(data: PlateData, eta: np.ndarray) -> np.ndarray:
    """Covariance of the scores given the data, summed over members: [J (1 + F), J (1 + F)] at eta [J, F].

    Blocks by configuration; in each the number 1 first, then the distinct statistics. eta must be finite. A plate whose
    rows are not all held knows its own.
    """
    if hasattr(data, "score_covariance"):
        return data.score_covariance(eta)
    kinds = data.kinds
    features, weights, mask = (data.features, data.weights, data.mask)
    if kinds is not None:
        features, weights, mask = kinds.features, kinds.counts, kinds.mask
    n_values, width = len(eta), 1 + features.distinct.n

    def one(rows: slice) -> tuple[np.ndarray, np.ndarray]:
        """What a block of members adds: products of expected scores, and expected products by configuration."""
        part = features.take(np.arange(rows.start, rows.stop))
        done = mixture(part, eta, mask=None if mask is None else mask[rows], keep=True)
        assert done.responsibilities is not None  # kept
        r, t = np.ascontiguousarray(done.responsibilities.T), part.block(slice(0, part.n))
        t = np.concatenate([np.ones((1, part.n)), t])
        root = 1.0 if weights is None else np.sqrt(weights[rows])
        scores = ((r * root)[:, None] * t).reshape(n_values * width, part.n)
        own = np.stack([(t * (r[j] * root**2)) @ t.T for j in range(n_values)])
        return scores @ scores.T, own  # a matrix by itself: half the work

    answer = np.zeros((n_values * width, n_values * width))
    own = np.zeros((n_values, width, width))
    parts = blocks(features.n, max(64, BLOCK // (n_values * width)))
    for products, expected in pool(threads()).map(one, parts) if len(parts) > 1 else map(one, parts):
        answer -= products
        own += expected
    for j in range(n_values):
        place = slice(j * width, (j + 1) * width)
        answer[place, place] += own[j]
    return answer


def by_score(data: PlateData, eta: np.ndarray) -> np.ndarray:
    """eta [J, F] in the order of `score_covariance`: [J (1 + F)]."""
    const, reduced = data.features.reduce(eta)
    return np.concatenate([const[:, None], reduced], axis=1).ravel()
