"""The mode atlas: where EM ends from many points of the parameter space, modes counted once up to relabelling.

From draws of a posterior this is the labelling of Yao & Lindsay (2009, JASA 104:758): a draw belongs to the mode that
its ascent reaches, and takes the names of that mode.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import factorial
from typing import Any

import numpy as np

from emppl.arguments import Seed, as_seed
from emppl.ascent.agreement import SAME_MODE
from emppl.ascent.conclude import judged
from emppl.ascent.loop import Status, ascend
from emppl.ascent.pool import Stopped, best_of_short_runs
from emppl.ascent.starts import KINDS
from emppl.compiling import untraced
from emppl.errors import InvalidArgumentError
from emppl.inference.information import BORDER, FLAT_CURVATURE
from emppl.inference.laplace import log_evidence
from emppl.kernels.assignment import assign, forbidden_pairs
from emppl.kernels.threads import one_blas_thread
from emppl.structure.symmetry import axes_of

Theta = dict[str, np.ndarray]
STEPS = 24  # EM steps after which it is asked whether a known mode lies straight uphill
NUMERIC_STEPS = 8  # the same where each M-step is a search of its own
CLOSE = 1.0  # nats below a mode from which on that is asked at all: from afar, many a hill is straight uphill
SETTLED = 0.05  # nats that a step gains, below which it is asked earlier
ALONG = (0.03, 0.1, 0.25, 0.4, 0.55, 0.7, 0.85, 0.97)  # of the way to a mode, where the objective is looked at
DIP = 1e-3  # nats it may fall on the way: slower iterations leave that much of rounding in a flat ridge
TOL = 1e-6
LONGEST = 1000  # E-steps of an ascent to a mode that is not known yet
NEAR = 1e-4  # nats: converged ascents that ended so near each other may be at one mode
COINCIDENT = 0.05  # two columns of responsibilities closer than this (0 the same, 1 disjoint) are one component
EMPTY = 0.5  # members: a component with fewer is empty
DESCRIBED = 12  # modes whose curvature is computed, the best ones
CURVATURE_LIMIT = 250  # coordinates; beyond it curvature costs too much to be had in passing
CELLS = 2e6  # members × values × ascents that `affordable` allows
ELEMENTS = 3000  # parameters × ascents, since a whole ascent ends with one gradient or two a parameter
MOST_POINTS, MOST_NUMERIC, FEWEST_POINTS = 200, 60, 20


@dataclass(frozen=True, eq=False)
class Mode:
    """One local maximum, up to relabelling.

    theta: one copy of it, that of the reference's labels where it is the reference's mode. log_likelihood,
    log_posterior: there, on the parameters' own scale (equal for estimate="ml"). starts: share of the random starts
    that came to an end at a mode which ended here. draws [chain]: share of each chain's points that did, points
    that were lost included. labellings: how many equivalent copies it has. coincident: pairs of components that
    hold the same members; empty: components with less than half a member; border: parameters on the border of their
    domain. definite: whether the curvature says a strict local maximum (None where it was not computed).
    log_evidence: Laplace approximation of log p(y) by this mode alone, all its copies counted; nan where there is
    none (maximum likelihood, a border).
    """

    theta: Theta = field(repr=False)
    log_likelihood: float
    log_posterior: float
    starts: float
    draws: np.ndarray
    labellings: int
    coincident: tuple[tuple[str, str], ...]
    empty: tuple[str, ...]
    border: tuple[str, ...]
    definite: bool | None
    log_evidence: float

    @property
    def share(self) -> float:
        """Share of all points that ended here, chains weighed alike; nan where no points were given."""
        return float(self.draws.mean()) if len(self.draws) else float("nan")


@dataclass(frozen=True, eq=False)
class Atlas:
    """Modes, best objective first, and what each given point has to do with them.

    reached [n]: index of the mode that the ascent from point i ended at, -1 where it was lost (it collapsed, ran off or
    did not come to an end). permutations: {latent: [n, K]}, perm[i, j] the component of point i that becomes component
    j of that mode (`axis.permute` takes it), for every axis whose components may be renamed; 0, 1, 2, … where the point
    was lost. known: the mode that each `known` point reached. chains [n]: the chain that each point was said to be of.
    lost: {name of a Status: how many points}.
    n_starts: random starts besides the points that came to an end at a mode; starts_lost: those that did not.
    n_passes: E-steps spent.
    """

    modes: tuple[Mode, ...]
    reached: np.ndarray
    permutations: dict[str, np.ndarray]
    known: tuple[int, ...]
    chains: np.ndarray
    n_starts: int
    lost: dict[str, int]
    n_passes: int
    starts_lost: int = 0

    def theta_of(self, plan: Any, points: Mapping[str, np.ndarray]) -> Theta:
        """The points [n, *shape] with components renamed as those of the mode that each reached."""
        renamed = {name: np.asarray(values) for name, values in points.items()}
        for axis in movable(plan):
            renamed |= axis.permute_draws(renamed, self.permutations[axis.latent])
        return renamed


def affordable(plan: Any) -> int:
    """How many ascents are worth their time: 200, fewer where a pass over the data is dear."""
    number = min(CELLS / max(plan.densities, 1), max(MOST_NUMERIC, ELEMENTS / max(plan.structure.coordinates.size, 1)))
    if not plan.has_exact_m_step:
        number = min(number, MOST_NUMERIC)
    return int(np.clip(number, FEWEST_POINTS, MOST_POINTS))


def atlas(
    plan: Any,
    points: Mapping[str, np.ndarray] | None = None,
    *,
    chains: Sequence[int] | np.ndarray | None = None,
    known: Sequence[Mapping[str, np.ndarray]] = (),
    starts: int = 0,
    seed: Seed = 0,
    told: Callable[[int, int], None] | None = None,
) -> Atlas:
    """The modes that the plan's own EM reaches from `points` and from random starts.

    points: {name: [n, *shape]}, all parameters on their own scale, thinned draws as a rule (`affordable` says how
    many). chains [n]: the chain of each, 0 for all unless given. known: points whose modes keep their labels, a fit's
    estimate above all. starts: random starts besides, their seed `seed`. told: is called after each ascent from a point
    or a start with how many were made, and how many there are.

    A point climbs by EM until a known mode lies straight uphill of it, or by a whole ascent that finds a new one.
    Cost: about 20 E-steps a point, and those of a fit's start for each new mode. Raises InvalidArgumentError where
    `chains` and `points` differ in length.
    """
    given = {} if points is None else {name: np.asarray(points[name], float) for name in plan.structure.parameter_names}
    n = len(next(iter(given.values()))) if given else 0
    origin = np.zeros(n, dtype=int) if chains is None else np.asarray(chains, dtype=int)
    if len(origin) != n:
        raise InvalidArgumentError(f"chains has {len(origin)} entries for {n} points", "emppl.ascent.atlas.atlas")
    climber = _Climber(plan)
    with one_blas_thread(), untraced():
        names = plan.structure.parameter_names
        at_known = [climber.climb({name: np.asarray(theta[name], float) for name in names})[0] for theta in known]
        climber.lost.clear()
        results = []
        for i in range(n):
            results.append(climber.climb({name: values[i] for name, values in given.items()}))
            if told is not None:
                told(i + 1, n + starts)
        lost = Counter(climber.lost)
        ends = []
        for i, child in enumerate(np.random.SeedSequence(as_seed(seed)).spawn(starts)):
            rng = np.random.default_rng(child)
            kind = KINDS[i % len(KINDS)] if plan.structure.plates else "prior"
            try:
                # as a fit makes its starts
                start, _ = best_of_short_runs(plan, kind, rng, {"tol": TOL, "max_iter": LONGEST})
            except Stopped:
                raise KeyboardInterrupt from None
            ends.append(climber.climb(start)[0])
            if told is not None:
                told(n + i + 1, n + starts)
        return _drawn(plan, climber, results, at_known, origin, ends, dict(lost))


def movable(plan: Any) -> list[Any]:
    """The component axes of a plan some of whose components may be renamed."""
    return [axis for axis in axes_of(plan) if axis.is_symmetric]


def _drawn(
    plan: Any, climber: _Climber, results: list[Any], at_known: list[int], origin: np.ndarray, ends: list[int],
    lost: dict[str, int],
) -> Atlas:  # fmt: skip
    order = sorted(range(len(climber.found)), key=lambda i: -climber.found[i].value)
    rank = {old: new for new, old in enumerate(order)} | {-1: -1}
    reached = np.array([rank[mode] for mode, _ in results], dtype=int)
    ended = np.array([rank[mode] for mode in ends if mode >= 0], dtype=int)
    numbers = np.unique(origin)
    modes = []
    for new, old in enumerate(order):
        draws = np.array([(reached[origin == chain] == new).mean() for chain in numbers])
        share = float((ended == new).mean()) if len(ended) else float("nan")
        modes.append(_described(plan, climber.found[old], draws, share, new < DESCRIBED))
    permutations = {
        axis.latent: np.array([perms[a] for _, perms in results], dtype=int).reshape(-1, axis.size)
        for a, axis in enumerate(climber.axes)
    }
    at = tuple(rank[mode] for mode in at_known)
    missing = len(ends) - len(ended)
    return Atlas(tuple(modes), reached, permutations, at, origin, len(ended), lost, climber.passes, missing)


def _described(plan: Any, found: _Found, draws: np.ndarray, starts: float, whole: bool) -> Mode:
    posterior = plan.e_step(found.theta, hard=False)
    coincident, empty, copies = [], [], 1
    for axis in movable(plan):
        r = found.responsibilities[axis.latent]
        empty += [str(axis.labels[k]) for k in np.flatnonzero(r.sum(axis=0) < EMPTY)]
        for group in axis.exchangeable:
            twins = _twins(plan, found, axis, group)
            coincident += [(str(axis.labels[a]), str(axis.labels[b])) for a, b in _same_members(r, group)]
            copies *= factorial(len(group)) // int(np.prod([factorial(n) for n in twins]))
    coordinates = plan.structure.coordinates
    u = coordinates.unconstrain(found.theta)
    interior = coordinates.interior(u, BORDER)
    border = tuple(node.name for node in plan.structure.parameters if not interior[coordinates.slices[node.name]].all())
    definite, evidence = None, float("nan")
    if whole and plan.method == "em" and coordinates.size <= CURVATURE_LIMIT:
        definite = found.definite
        if not border:
            evidence = log_evidence(plan, found.theta) + np.log(copies)
    return Mode(
        found.theta, float(posterior.log_likelihood), float(posterior.objective), starts, draws, copies,
        tuple(coincident), tuple(empty), border, definite, evidence,
    )  # fmt: skip


def _same_members(r: np.ndarray, group: tuple[int, ...]) -> list[tuple[int, int]]:
    """Pairs of components whose columns of responsibilities r [n, K] are nearly the same."""
    squares, products = (r**2).sum(axis=0), r.T @ r
    pairs = []
    for a, first in enumerate(group):
        for second in group[a + 1 :]:
            total = squares[first] + squares[second]
            if total > 0 and total - 2 * products[first, second] < COINCIDENT * total:
                pairs.append((first, second))
    return pairs


def _twins(plan: Any, found: _Found, axis: Any, group: tuple[int, ...]) -> list[int]:
    """Sizes of the sets of components in a group that are the same: exchanging them makes no other copy."""
    sets: list[list[int]] = []
    for k in group:
        home = next((s for s in sets if _are_twins(plan, found, axis, s[0], k)), None)
        sets.append([k]) if home is None else home.append(k)
    return [len(s) for s in sets]


def _are_twins(plan: Any, found: _Found, axis: Any, first: int, second: int) -> bool:
    """Whether the mode and its copy with two components exchanged are one: half way between them it is as high."""
    perm = np.arange(axis.size)
    perm[[first, second]] = second, first
    coordinates = plan.structure.coordinates
    copy = coordinates.unconstrain(dict(found.theta) | axis.permute(found.theta, perm))
    between = 0.5 * (found.u + coordinates.off_the_border(copy, 2 * BORDER))
    return bool(abs(plan.e_step(coordinates.constrain(between)).objective - found.value) <= SAME_MODE)


# -- climbing --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Found:
    theta: Theta
    u: np.ndarray
    value: float
    responsibilities: dict[str, np.ndarray]  # latent → [n, K]
    definite: bool | None


class _Climber:
    """The modes found so far, and the ascent from one more point to one of them."""

    def __init__(self, plan: Any) -> None:
        self.plan, self.axes = plan, movable(plan)
        self.found: list[_Found] = []
        self.lost: list[str] = []
        self.passes = 0
        self.steps = STEPS if plan.has_exact_m_step else NUMERIC_STEPS
        self.identity = [np.arange(axis.size) for axis in self.axes]

    def climb(self, theta: Theta) -> tuple[int, list[np.ndarray]]:
        """(index of the mode that the ascent from theta ends at or -1, permutation to its names for each axis)."""
        here, value = self._few_steps(theta)
        if not np.isfinite(value):
            self.lost.append(Status.FAILED.name)
            return -1, self.identity
        for mode in self._nearest(here):
            if value < self.found[mode].value - CLOSE:
                continue
            perms = self._uphill(here, value, self.found[mode], DIP)
            if perms is not None:
                return mode, perms
        run = judged(self.plan, ascend(self.plan, here, tol=TOL, max_iter=LONGEST))
        self.passes += run.n_passes
        if run.status is Status.INTERRUPTED:
            raise KeyboardInterrupt
        if run.status is not Status.CONVERGED:
            self.lost.append(run.status.name)
            return -1, self.identity
        definite = None if run.information is None else bool(run.information.smallest_curvature > FLAT_CURVATURE)
        for mode, known in enumerate(self.found):
            if abs(known.value - run.objective) < NEAR:
                perms = self._uphill(run.theta, min(run.objective, known.value), known, max(SAME_MODE, DIP / 10))
                if perms is None and definite is False and known.definite is False:
                    perms = self._renamings(run.theta, known)[0]  # two places on one ridge, which may be bent
                if perms is not None:
                    return mode, perms
        self.found.append(self._made(run, definite))
        return len(self.found) - 1, self.identity

    def _made(self, run: Any, definite: bool | None) -> _Found:
        theta, coordinates = run.theta, self.plan.structure.coordinates
        responsibilities = self._responsibilities(theta)
        if self.found:  # a further mode takes the names of the first as far as it can
            for axis in self.axes:
                perm = _cheapest(-self.found[0].responsibilities[axis.latent].T @ responsibilities[axis.latent], axis)
                theta = dict(theta) | axis.permute(theta, perm)
                responsibilities[axis.latent] = responsibilities[axis.latent][:, perm]
        u = coordinates.off_the_border(coordinates.unconstrain(theta), 2 * BORDER)
        return _Found(theta, u, run.objective, responsibilities, definite)

    def _few_steps(self, theta: Theta) -> tuple[Theta, float]:
        """theta a few EM steps on, and the objective there."""
        posterior = self.plan.e_step(theta)
        self.passes += 1
        for _ in range(self.steps if self.found and np.isfinite(posterior.objective) else 0):
            before = posterior.objective
            new = self.plan.m_step(theta, posterior)
            after = self.plan.e_step(new)
            self.passes += 1
            if not after.objective >= before:
                break
            theta, posterior = new, after
            if after.objective - before < SETTLED:
                break
        return theta, posterior.objective

    def _nearest(self, theta: Theta) -> list[int]:
        """The known modes, nearest first by whom their components hold."""
        if len(self.found) < 2:
            return list(range(len(self.found)))
        r = self._responsibilities(theta)
        distances = []
        for found in self.found:
            total = 0.0
            for axis in self.axes:
                overlap = found.responsibilities[axis.latent].T @ r[axis.latent]
                perm = _cheapest(-overlap, axis)
                total += ((found.responsibilities[axis.latent] - r[axis.latent][:, perm]) ** 2).sum()
            distances.append(total if self.axes else -found.value)
        return [int(i) for i in np.argsort(distances, kind="stable")]

    def _uphill(self, theta: Theta, value: float, found: _Found, dip: float) -> list[np.ndarray] | None:
        """The renaming after which the objective never falls on the straight way from theta to a mode, if any."""
        if value > found.value + dip:
            return None
        coordinates = self.plan.structure.coordinates
        tried: list[list[np.ndarray]] = []
        for perms in self._renamings(theta, found):
            if any(all(np.array_equal(a, b) for a, b in zip(perms, other)) for other in tried):
                continue
            tried.append(perms)
            renamed = theta
            for axis, perm in zip(self.axes, perms):
                renamed = dict(renamed) | axis.permute(renamed, perm)
            u = coordinates.off_the_border(coordinates.unconstrain(renamed), 2 * BORDER)
            height, rises = value, True
            for part in ALONG:
                there = self.plan.e_step(coordinates.constrain((1 - part) * u + part * found.u)).objective
                self.passes += 1
                if not there >= height - dip:
                    rises = False
                    break
                height = max(height, there)
            if rises:
                return perms
        return None

    def _renamings(self, theta: Theta, found: _Found) -> list[list[np.ndarray]]:
        """The permutations that could be meant: by whom the components hold, and by their parameters."""
        if not self.axes:
            return [[]]
        r = self._responsibilities(theta)
        by_members = [_cheapest(-found.responsibilities[a.latent].T @ r[a.latent], a) for a in self.axes]
        if len(self.axes) > 1:  # a parameter may run along two axes, which its distance alone does not tell apart
            return [by_members]
        return [by_members, [_by_parameters(theta, found.theta, self.axes[0])]]

    def _responsibilities(self, theta: Theta) -> dict[str, np.ndarray]:
        self.passes += 1
        r = self.plan.responsibilities(theta)
        return {axis.latent: np.asarray(r[axis.latent]).reshape(-1, axis.size) for axis in self.axes}


def _by_parameters(theta: Theta, mode: Theta, axis: Any) -> np.ndarray:
    """The permutation of theta's components that brings their parameters nearest the mode's, each in its own spread."""
    here, there = (
        np.concatenate([np.asarray(values[name], float).ravel() for name in axis.shapes])[axis.slots]
        for values in (theta, mode)
    )
    spread = np.concatenate([here, there]).std(axis=0)
    scaled = np.where(spread > 0, spread, 1.0)
    difference = (there[:, None, :] - here[None, :, :]) / scaled
    return _cheapest((difference**2).sum(axis=-1), axis)


def _cheapest(cost: np.ndarray, axis: Any) -> np.ndarray:
    """The permutation with the least cost [K new, K old] among those that the model allows."""
    return assign(cost[None], forbidden_pairs(axis.size, axis.exchangeable))[0]
