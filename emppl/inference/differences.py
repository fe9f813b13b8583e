"""Derivatives of many slopes along many coordinates by central differences, those of different components at once.

The mean of one component and that of another change different blocks of eta, so both may move in one evaluation and
what each has done is told apart by where it shows (Curtis, Powell & Reid 1974). Whether it may is read from values, and
the result is checked along a random direction.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Slopes = Callable[[np.ndarray], np.ndarray]
Between = Callable[[np.ndarray, np.ndarray], np.ndarray]

ROUNDS = 6  # steps tried for a coordinate
FINEST = 2e-13  # a step relative to what is rounded, a thousand times the rounding
COARSE = 0.1  # widths; a step that is longer says nothing of the curvature
AGREES = 1e-4  # relative difference of a product with a random direction, which differences alone can make
LEAST_BEND = 1.0  # nats within the width of a coordinate: what bends less is not scaled up to one that bends
APART = 2e-2  # widths over which a slope must change as its derivative says: far beyond the step of that
JUMPS = 0.25  # of what it changes and of what it should, by which a slope that jumps misses


def jacobian(
    slopes: Slopes, point: np.ndarray, inside: np.ndarray, owner: np.ndarray | None = None,
    grain: np.ndarray | None = None, between: Between = np.subtract,
) -> np.ndarray:  # fmt: skip
    """d slopes / d coordinate, a row for each coordinate in `inside`: [n, S] at point [P].

    slopes(v) → [S], whose first P are a gradient. owner [S]: the component that each slope belongs to, -1 for those
    that belong to none or several; None where that is not known. grain [P]: what the rounding of each coordinate is
    relative to, its own size unless given; between(v, w) [P]: how far two points are apart once they are rounded to
    that. Coordinates of no component have an evaluation of
    their own, and stand in the rows of the others by symmetry.
    """
    grain = np.abs(point) if grain is None else grain
    if owner is not None:
        groups = _groups(owner[inside])
        if len(groups) < len(inside):
            found = _in_groups(slopes, point, inside, groups, owner, grain, between)
            if found is not None:
                return found
    return np.array([_rows(slopes, point, np.array([i]), inside, grain, between)[0] for i in inside])


def _groups(owners: np.ndarray) -> list[np.ndarray]:
    """Which rows may be had at once: the first of every component, the second of every component, …"""
    rank = np.array([np.count_nonzero(owners[:n] == o) for n, o in enumerate(owners)])
    alone = [np.array([n]) for n in np.flatnonzero(owners < 0)]
    return alone + [np.flatnonzero((owners >= 0) & (rank == r)) for r in np.unique(rank[owners >= 0])]


def _in_groups(
    slopes: Slopes, point: np.ndarray, inside: np.ndarray, groups: list[np.ndarray], owner: np.ndarray,
    grain: np.ndarray, between: Between,
) -> np.ndarray | None:  # fmt: skip
    answer, is_shared = np.zeros((len(inside), len(owner))), owner[inside] < 0
    for group in groups:
        known = None if is_shared[group[0]] else owner
        answer[group] = _rows(slopes, point, inside[group], inside, grain, between, known)
    answer[np.ix_(~is_shared, inside[is_shared])] = answer[np.ix_(is_shared, inside[~is_shared])].T
    direction = np.random.default_rng(0).normal(size=len(inside))
    widths = np.sqrt(np.maximum(np.abs(answer[np.arange(len(inside)), inside]), 1e-300))
    along = np.zeros(len(point))
    along[inside] = direction / widths  # as far in all of them, as the gradient bends
    length = 1e-4 / np.sqrt(len(inside))
    with np.errstate(invalid="ignore"):
        seen = (slopes(point + length * along) - slopes(point - length * along)) / (2 * length)
    expected = along[inside] @ answer
    wrong = np.abs(seen - expected)[: len(point)][inside] * (1 / widths)
    size = (np.abs(expected)[: len(point)][inside] / widths).max()
    rest, rest_size = np.abs(seen - expected)[len(point) :], np.abs(expected[len(point) :])
    agrees = wrong.max() <= AGREES * size and rest.max(initial=0.0) <= AGREES * rest_size.max(initial=1e-300)
    return answer if agrees else None


def _rows(
    slopes: Slopes, point: np.ndarray, group: np.ndarray, inside: np.ndarray, grain: np.ndarray, between: Between,
    owner: np.ndarray | None = None,
) -> np.ndarray:  # fmt: skip
    """Differences along each coordinate of a group that moves at once, each with a step that suits it: [group, S].

    Small beside the width of the objective, that is: a mean of 1e8 may have a width of 1. owner, grain, between: as in
    `jacobian`.
    """
    finest = FINEST * np.maximum(grain, np.abs(point))[group]
    h = np.maximum(1e-5, finest)
    for _ in range(ROUNDS):
        up, down = point.copy(), point.copy()
        up[group] += h
        down[group] -= h
        with np.errstate(invalid="ignore"):  # where a spread has collapsed, slopes are infinite
            change = slopes(up) - slopes(down)
            rows = change / between(up, down)[group][:, None]
        if owner is not None:
            rows = np.where(owner == owner[group][:, None], rows, 0.0)
        bend = np.abs(rows[np.arange(len(group)), group])
        with np.errstate(divide="ignore"):
            wanted = np.where(np.isfinite(bend) & (bend > 0), 1e-4 / np.sqrt(bend), 1e-3 * h)
        wanted = np.maximum(np.maximum(wanted, finest), 1e-12)
        if np.isfinite(rows[:, inside]).all() and (h <= 30 * wanted).all():
            break
        h = np.where(h <= 30 * wanted, h, wanted) if len(group) > 1 else wanted
    return rows


def too_coarse(point: np.ndarray, inside: np.ndarray, hessian: np.ndarray, grain: np.ndarray) -> np.ndarray:
    """Coordinates in `inside` whose finest step is too long for their width, so that slopes say little of it: [n]."""
    finest = FINEST * np.maximum(grain, np.abs(point))[inside]
    with np.errstate(invalid="ignore"):
        return np.asarray(finest * np.sqrt(np.abs(np.diag(hessian))) > COARSE)


def corners(slopes: Slopes, point: np.ndarray, inside: np.ndarray, hessian: np.ndarray) -> np.ndarray:
    """Coordinates in `inside` along which the objective has a corner for its top, so that `hessian` means nothing: [n].

    Differences of a slope that jumps are the larger, the smaller their step. slopes(v) [≥ P]: its first P are a
    gradient, `hessian` [n, n] its derivative by differences. Two evaluations where there is no corner.
    """
    found = np.zeros(len(inside), bool)
    if not len(inside):
        return found
    bends = np.abs(np.diag(hessian))
    steps = APART / np.sqrt(np.where(np.isfinite(bends), np.maximum(bends, LEAST_BEND), LEAST_BEND))

    def ends(step: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        up, down = point.copy(), point.copy()
        up[inside] += step
        down[inside] -= step
        with np.errstate(invalid="ignore"):
            return slopes(up)[: len(point)][inside], slopes(down)[: len(point)][inside]

    def misses(change: np.ndarray, expected: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            size = np.abs(change) + np.abs(expected)
            return (np.abs(change - expected) > JUMPS * size) & (size * steps > JUMPS * APART**2)

    step = steps * np.random.default_rng(0).choice([-1.0, 1.0], size=len(inside))
    above, below = ends(step)
    for n in np.flatnonzero(misses(above - below, 2.0 * step @ hessian)):
        alone = np.where(np.arange(len(inside)) == n, steps, 0.0)
        above, below = ends(alone)
        is_top = above[n] <= 0.0 <= below[n]
        found[n] = is_top and misses(above - below, 2.0 * alone @ hessian)[n]
    return found
