"""Symmetries that no permuting of parameters shows: the map of them that goes with renaming a latent's values.

Two values of a latent may change names where, for any theta, some theta' gives every member the same log joint with
the names exchanged. What permuting shows is known from `symmetry`; here theta' is solved for: from the M-step whose
responsibilities are renamed, steps of Levenberg and Marquardt bring the log joint of all members and configurations
to that of theta renamed. Weights of a logistic or softmax regression with a reference, differences of parameters and
other parametrisations are all the same to it. Around one solution the map is linear; at further points it is checked
whether it is so everywhere, as it is for all of these on unconstrained coordinates. Else each point is solved for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any

import numpy as np

from emppl.kernels.mixture import LOWEST, log_joint
from emppl.structure.initial import initial_point
from emppl.structure.symmetry import MOST_VALUES, ComponentAxis, Theta, densities, dim_of, same, unnamed
from emppl.structure.types import Node, Structure

ROWS = 200  # members of each plate at which the log joint is compared, besides the whole likelihood in the end
WORK = 4e7  # densities that the search may evaluate
MOST, FEWEST = 4000, 300  # evaluations of the log joint that it may take
LARGEST = 120  # coordinates beyond which nothing is solved for
PAIRS = 2  # components none of which may change places, after which no other pair is tried
WARMING = 4  # EM steps that bring a point to where the data are
TRIALS = 6  # random points of which the likeliest, one EM step on, is where the data are looked for
SPREAD = 0.3  # of a coordinate, between points
POINTS = 3  # further points at which a map must hold
ALIKE = 1e-7  # of the log joint, relative to its size: rounding of a solution
APART = 1e-5  # of the log joint, relative to its size: less between two values shows nothing about their names
STEP = 1e-4  # of a coordinate, for derivatives by differences
BARRED = 1e3  # what an impossible configuration differs by from a possible one
FARTHEST = 1e100  # what a log joint differs by at most: sums of squares stay numbers
ITERATIONS = 20  # steps to a solution, which is met exactly if at all
TRIED, HARDLY = 5, 0.3  # steps after which it is given up where more than that part of the way is left
FORWARD = 1e-6  # of a coordinate, for their derivatives
NEARLY, EXACT = 1e-3, 1e-8  # parts of ALIKE from which on a step that gains nothing is the last, and where they end
DAMPING, LIGHTEST, HEAVIEST = 1e-2, 1e-7, 1e6  # of a step, at first, the least before none, and the most
NULL = 1e-7  # singular values below this part of the largest are none
EDGE = 40.0  # |log| or |logit| at which a number on its border is renamed
TWELFTHS = 12  # entries of a map are mostly whole numbers, halves or thirds: rounding is taken off these
UNFIT = (FloatingPointError, np.linalg.LinAlgError, ValueError)  # what an M-step raises far from where the data are


@dataclass(frozen=True, eq=False)
class Renaming:
    """theta with two values of a latent renamed, on unconstrained coordinates: u' = matrix u + offset.

    Where that is not all of it (`solved`), it is where the solution begins.
    """

    pair: tuple[int, int]
    matrix: np.ndarray = field(repr=False)
    offset: np.ndarray = field(repr=False)
    free: np.ndarray = field(repr=False)
    tables: Tables | None = field(repr=False, default=None)

    @property
    def solved(self) -> bool:
        """Whether each point has to be solved for."""
        return self.tables is not None

    def __call__(self, u: np.ndarray) -> np.ndarray:
        """u [n, P] renamed. A point that cannot be solved for comes out as nan."""
        moved = u @ self.matrix.T + self.offset
        if self.tables is None:
            return moved
        for t, (one, guess) in enumerate(zip(u, moved)):
            moved[t] = self.tables.solve(self.pair, one, [guess], self.free)
            if np.isnan(moved[t]).any():
                moved[t] = self.tables.solve(
                    self.pair, one, [_by_m_step(self.tables, self.pair, one, guess)], self.free
                )
        return moved


@dataclass(frozen=True, eq=False)
class MappedAxis(ComponentAxis):
    """A component axis whose names are exchanged by maps of the parameters, in place of slots that are permuted.

    Exchangeable are components whose exchange leaves the log posterior on the parameters' own scale as it is: copies of
    a mode are equally high. Where a map is not linear they need not be equally wide.

    first [K]: the first component of the group of each whose names the likelihood does not know; renamings: one for
    each other component, which it exchanges with that.
    evaluations: of the log joint that finding them took.
    """

    renamings: tuple[Renaming, ...] = field(repr=False, default=())
    first: tuple[int, ...] = ()
    coordinates: Any = field(repr=False, default=None)
    evaluations: int = 0

    def permute_draws(self, theta: Mapping[str, np.ndarray], perms: np.ndarray) -> Theta:
        """Arrays [draws, *shape] with components renamed, perms [draws, K]; as they are where nothing is renamed."""
        perms = np.asarray(perms)
        answer = {name: np.array(theta[name], dtype=float) for name in self.shapes}
        kinds, which = np.unique(perms, axis=0, return_inverse=True)
        for kind, perm in enumerate(kinds):
            swaps = self._swaps(perm)
            chosen = np.flatnonzero(which.ravel() == kind)
            if not swaps:
                continue
            points = [self.coordinates.unconstrain({n: theta[n][t] for n in self.shapes}) for t in chosen]
            u = np.array([self.coordinates.off_the_border(point, EDGE) for point in points])
            for swap in swaps:
                u = swap(u)
            for t, point in zip(chosen, u):
                for name, value in self.coordinates.constrain(point).items():
                    if name in self.variables:
                        answer[name][t] = value
        return answer

    def _swaps(self, perm: np.ndarray) -> list[Renaming]:
        """The renamings that make perm, in the order in which they are done. Raises ValueError where there are none."""
        of_pair = {swap.pair: swap for swap in self.renamings}
        state: list[int] = list(range(self.size))
        done: list[Renaming] = []
        for j in range(self.size):
            i = state.index(int(perm[j]))
            if i != j:
                if self.first[i] != self.first[j]:
                    raise ValueError(f"components {self.labels[i]} and {self.labels[j]} may not change places")
                done += _exchange(of_pair, self.first, j, i)
                state[i], state[j] = state[j], state[i]
        return done

    def sentence(self) -> str:
        """What this symmetry means for the user, in one line."""
        how = "by a map of the parameters, not by permuting them"
        if self.is_symmetric or self.symmetric_likelihood:
            return f"{super().sentence()} ({how})"
        groups = [[self.labels[k] for k in range(self.size) if self.first[k] == a] for a in range(self.size)]
        alike = "; ".join("{" + ", ".join(group) + "}" for group in groups if len(group) > 1)
        over = f"{self.dim or self.latent} ({', '.join(self.variables)})"
        return f"labels of {over}: {alike} told apart by the prior alone ({how}), the others by the likelihood"


class Exhausted(Exception):
    """The evaluations that the search may take are spent."""


class Tables:
    """The log joint of all members and configurations as one vector of theta, and the same with values renamed."""

    def __init__(self, plan: Any, latents: Sequence[Node]) -> None:
        self.plan, self.latents = plan, latents
        self.coordinates = plan.structure.coordinates
        self.rows = [np.unique(np.linspace(0, p.size - 1, min(p.size, ROWS)).astype(int)) for p in plan.engine.plates]
        self.features = [plate.features.take(rows) for plate, rows in zip(plan.engine.plates, self.rows)]
        self.evaluations = 0
        self.left: float = np.clip(WORK / max(plan.densities, 1), FEWEST, MOST)

    def __call__(self, u: np.ndarray) -> list[np.ndarray]:
        """By plate [members, configurations], then what belongs to no member [1, 1]."""
        if self.evaluations >= self.left:
            raise Exhausted
        self.evaluations += 1
        plan = self.plan
        with np.errstate(all="ignore"):
            outputs = list(plan.engine.terms(*self.coordinates.arguments(self.coordinates.constrain(u))))
            outputs.pop()
            direct = outputs.pop()
            found = []
            for plate, rows, features in zip(plan.engine.plates, self.rows, self.features):
                eta = outputs.pop(0)
                table = outputs.pop(0).T[rows] if plate.has_table else None
                mask = None if plate.mask is None else plate.mask[rows]
                found.append(log_joint(features, eta, table=table, mask=mask))
        return [*found, np.atleast_2d(np.asarray(direct, dtype=float))]

    def renamed(self, tables: Sequence[np.ndarray], pair: tuple[int, int]) -> list[np.ndarray] | None:
        """Tables [members, configurations] with two values renamed, None where a configuration has no partner."""
        moved = []
        for plate, table in zip(self.plan.structure.plates, tables):
            places = _partners(plate, self.latents, pair)
            if places is None:
                return None
            moved.append(table[:, places])
        return [*moved, *tables[len(moved) :]]

    def apart(self, pair: tuple[int, int], u: np.ndarray) -> bool:
        """Whether two values of the latents are told apart at u at all: else whatever moves nothing renames them."""
        here = self(u)
        target = self.renamed(here, pair)
        return target is not None and np.abs(self.residuals(u, target)).max(initial=0.0) > APART * _size(here)

    def residuals(self, u: np.ndarray, target: Sequence[np.ndarray]) -> np.ndarray:
        parts = []
        for here, there in zip(self(u), target):
            barred, meant = here < 0.5 * LOWEST, there < 0.5 * LOWEST
            difference = np.where(barred | meant, np.where(barred == meant, 0.0, BARRED), here - there)
            difference = np.nan_to_num(difference, nan=FARTHEST, posinf=FARTHEST, neginf=-FARTHEST)
            parts.append(np.clip(difference, -FARTHEST, FARTHEST).ravel())
        return np.concatenate(parts)

    def solve(
        self, pair: tuple[int, int], u: np.ndarray, guesses: Sequence[np.ndarray], free: np.ndarray
    ) -> np.ndarray:
        """u' [P] whose log joint is that of u renamed, nan where none is found from the guesses.

        free [P]: the coordinates that may be changed on the way.
        """
        target = self.renamed(self(u), pair)
        nothing = np.full(len(u), np.nan)
        if target is None:
            return nothing
        size = _size(target)
        for guess in guesses:
            if np.isfinite(guess).all():
                found = self._climb(guess, target, ALIKE * size, free)
                if found is not None:
                    return found
        return nothing

    @np.errstate(over="ignore")  # from afar, squares of log joints have no number: no step that leads there is taken
    def _climb(self, u: np.ndarray, target: Sequence[np.ndarray], enough: float, free: np.ndarray) -> np.ndarray | None:
        """Steps of Levenberg and Marquardt from u to where the log joint is the target's, None where they miss it."""
        here, damping = self.residuals(u, target), DAMPING
        first = np.linalg.norm(here)
        for turn in range(ITERATIONS):
            small = np.abs(here).max(initial=0.0) <= EXACT * enough
            if small or not free.any() or (turn >= TRIED and np.linalg.norm(here) > HARDLY * first):
                break
            columns = []
            for i in np.flatnonzero(free):
                unit = np.zeros(len(u))
                unit[i] = FORWARD * max(1.0, abs(u[i]))
                columns.append((self.residuals(u + unit, target) - here) / unit[i])
            there = here
            while damping < HEAVIEST:
                step = np.zeros(len(u))
                step[free] = _least_squares(np.array(columns).T, -here, damping)
                there = self.residuals(u + step, target)
                if np.linalg.norm(there) < np.linalg.norm(here):
                    break
                rests = np.abs(here).max() <= NEARLY * enough
                damping = HEAVIEST if rests else max(damping, LIGHTEST) * 10.0
            else:
                break
            damping = 0.1 * damping if damping > LIGHTEST else 0.0
            u, here = u + step, there
        return u if np.abs(here).max(initial=0.0) <= enough else None

    def slope(self, u: np.ndarray) -> np.ndarray:
        """Derivative [entries, P] of the log joint at u, by differences of fourth order; 0 where it is impossible."""
        columns = []
        for i in range(len(u)):
            unit = np.zeros(len(u))
            unit[i] = STEP * max(1.0, abs(u[i]))
            near, far = (
                [np.subtract(a, b) for a, b in zip(self(u + s * unit), self(u - s * unit))] for s in (1.0, 2.0)
            )
            parts = [((8.0 * a - b) / (12.0 * unit[i])).ravel() for a, b in zip(near, far)]
            columns.append(np.concatenate(parts))
        slopes = np.array(columns).T
        return np.where(np.isfinite(slopes) & (np.abs(slopes) < -0.5 * LOWEST * STEP), slopes, 0.0)


def _size(tables: Sequence[np.ndarray]) -> float:
    """The largest log joint of what is possible, 1 at least."""
    every = np.concatenate([table.ravel() for table in tables])
    return max(1.0, float(np.abs(every[every > 0.5 * LOWEST]).max(initial=0.0)))


def _least_squares(matrix: np.ndarray, wanted: np.ndarray, damping: float = 0.0) -> np.ndarray:
    """The smallest solution, coordinates measured by what they change; directions that change nothing are left.

    damping: weight of the solution's own size, beside columns of length 1.
    """
    scale = np.linalg.norm(matrix, axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    left, values, right = np.linalg.svd(matrix / scale, full_matrices=False)
    kept = values > NULL * values.max(initial=0.0)
    shares = np.where(kept, values, 0.0) / np.where(kept, values**2 + damping, 1.0)
    return ((right.T * shares) @ (left.T @ wanted).reshape(len(values), -1) / scale[:, None]).reshape(
        len(scale), *wanted.shape[1:]
    )


def _partners(plate: Any, latents: Sequence[Node], pair: tuple[int, int]) -> np.ndarray | None:
    """For each configuration [J] the one with two values of the latents exchanged."""
    moved = plate.configurations.copy()
    for slot, name in enumerate(plate.latents):
        node = next((latent for latent in latents if latent.name == name), None)
        if node is not None:
            first, second = (node.support[k] for k in pair)
            own = plate.configurations[:, slot]
            moved[:, slot] = np.where(own == first, second, np.where(own == second, first, own))
    place = {tuple(values): j for j, values in enumerate(plate.configurations.tolist())}
    found = [place.get(tuple(values), -1) for values in moved.tolist()]
    return None if min(found) < 0 else np.array(found)


def symmetries(plan: Any, known: tuple[ComponentAxis, ...]) -> tuple[tuple[ComponentAxis, ...], tuple[str, ...]]:
    """The component axes `known` of a plan with those that only a map of the parameters shows, and what was left open.

    Looked for among latents of up to 12 values that permuting does not rename freely, unless the model orders its
    components. Cost: at most 4e7 densities, between 300 and 4000 evaluations of the log joint at 200 members for each;
    where they are spent without an answer, or there are more than 120 coordinates to solve for, a sentence says so.
    """
    structure: Structure = plan.structure
    if any(axis.ordered for axis in known) or not structure.parameters:
        return known, ()
    found, notes = list(known), []
    open_axes = [axis for axis in known if not axis.symmetric_likelihood and axis.size <= MOST_VALUES]
    families: list[tuple[ComponentAxis | None, tuple[Node, ...]]] = [
        (axis, tuple(structure.node(name) for name in axis.latents or (axis.latent,))) for axis in open_axes
    ]
    families += [(None, family) for family in unnamed(structure, known)]
    for axis, latents in families:
        names = ", ".join(node.name for node in latents)
        if structure.coordinates.size > LARGEST:
            notes.append(f"{names}: too many parameters to look for a renaming beyond permuting them")
            continue
        try:
            mapped = _mapped(plan, axis, latents)
        except Exhausted:
            notes.append(f"{names}: no renaming beyond permuting parameters was found in the passes allowed")
            continue
        if mapped is not None:
            if axis is not None:
                found.remove(axis)
            found.append(mapped)
    return tuple(found), tuple(notes)


def _mapped(plan: Any, axis: ComponentAxis | None, latents: tuple[Node, ...]) -> MappedAxis | None:
    """The axis of these latents with all renamings that maps give; None where they give no more than permuting."""
    structure, size = plan.structure, len(latents[0].support)
    tables = Tables(plan, latents)
    rng = np.random.default_rng(13)
    points = _points(plan, rng)
    swaps: dict[tuple[int, int], Renaming] = {}
    first = list(range(size))  # the first component of the group of each, by the likelihood
    for a, b in combinations(range(size), 2):
        if first[a] == a and first[b] == b and (a < PAIRS or swaps):
            swap = _renaming(tables, (a, b), points, axis)
            if swap is not None:
                swaps[a, b], first[b] = swap, a
    if not swaps:
        return None
    prior = np.eye(size, dtype=bool)
    for a, b in combinations(range(size), 2):
        if first[a] == first[b]:
            prior[a, b] = prior[b, a] = _keeps_prior(plan, _exchange(swaps, first, a, b), points[1:])
    seen: set[int] = set()
    groups = []
    for k in range(size):
        if k not in seen:
            groups.append(tuple(int(i) for i in np.flatnonzero(prior[k])))
            seen.update(groups[-1])
    moved = np.any([np.abs(s.matrix - np.eye(len(s.offset))).max(axis=1) > 0 for s in swaps.values()], axis=0)
    coordinates = structure.coordinates
    names = tuple(n.name for n in structure.parameters if moved[coordinates.slices[n.name]].any())
    dim, labels = (None, ()) if axis is None else (axis.dim, axis.labels)
    empty = np.empty((size, 0), dtype=int)
    if dim is None:
        dim, labels = dim_of(structure, list(names), empty, size)
    shapes = {node.name: node.shape for node in structure.parameters}
    tables.left = np.inf  # what follows is asked for
    one = len(set(first)) == 1
    return MappedAxis(
        latents[0].name, size, dim, labels or latents[0].labels, names, one, bool(prior[0].all()), False,
        tuple(groups), empty, np.zeros(0, dtype=int), shapes, tuple(node.name for node in latents), (),
        tuple(swaps.values()), tuple(first), coordinates, tables.evaluations,
    )  # fmt: skip


def _exchange(swaps: Mapping[tuple[int, int], Renaming], first: Sequence[int], a: int, b: int) -> list[Renaming]:
    """The renamings, one after the other, that exchange a and b of one group: by way of its first component."""
    own = [swaps[first[a], k] for k in (a, b) if k != first[a]]
    return [*own, own[0]] if len(own) == 2 else own


def _points(plan: Any, rng: np.random.Generator) -> list[np.ndarray]:
    """Points u [P] around where the data are, which a few EM steps from the best of some random points tell.

    Points at which components coincide would tell nothing, and they are many: where all components are alike is often
    a stationary point of EM. So the points to begin at are drawn both from the prior and around where all members are
    shared alike, and the likelihood chooses.
    """
    coordinates = plan.structure.coordinates
    best, end = -np.inf, np.zeros(coordinates.size)
    for turn in range(TRIALS):
        with suppress(*UNFIT):
            if turn % 2:
                theta = initial_point(plan.structure, draw=True, seed=turn)
            else:
                theta = coordinates.constrain(rng.normal(scale=0.5, size=coordinates.size))
            theta = plan.m_step(theta, plan.e_step(theta, keep=True, hard=False))
            value = plan.e_step(theta, hard=False).log_likelihood
            if np.isfinite(value) and value > best:
                best, end = value, coordinates.unconstrain(theta)
    with suppress(*UNFIT):
        theta = coordinates.constrain(end)
        for _ in range(WARMING):
            theta = plan.m_step(theta, plan.e_step(theta, keep=True, hard=False))
        end = coordinates.unconstrain(theta)
    end = coordinates.inside(end, 4.0)
    return [end + SPREAD * rng.normal(size=len(end)) for _ in range(1 + POINTS)]


def _renaming(
    tables: Tables, pair: tuple[int, int], points: Sequence[np.ndarray], axis: ComponentAxis | None
) -> Renaming | None:
    """The map that exchanges two values at all points, if there is one that leaves the whole likelihood as it is.

    Where slots can be permuted the rest of the parameters is tried alone first: what it need not move stays then.
    """
    base, whole = points[0], np.ones(len(points[0]), dtype=bool)
    if not tables.apart(pair, base):
        return None
    own = _permuting(tables.coordinates, axis, pair)
    if own is not None:
        jacobian = np.array([own(base + e) - own(base) for e in np.eye(len(base))]).T
        rest = np.isclose(jacobian, np.eye(len(base))).all(axis=1)
        mixed = np.where(rest, _by_m_step(tables, pair, base, own(base)), own(base))
        found = _linear(tables, pair, points, [own(base), mixed], jacobian, rest)
        if found is not None:
            return found
    guesses = [_by_m_step(tables, pair, base, base if own is None else own(base)), base]
    return _linear(tables, pair, points, guesses, np.eye(len(base)), whole)


def _linear(
    tables: Tables, pair: tuple[int, int], points: Sequence[np.ndarray], guesses: Sequence[np.ndarray],
    start: np.ndarray, free: np.ndarray,
) -> Renaming | None:  # fmt: skip
    """The map around its solution at the first point, `start` [P, P] but for the coordinates that are free."""
    base = points[0]
    there = tables.solve(pair, base, guesses, free)
    if not np.isfinite(there).all():
        return None
    shapes = [t.shape for t in tables(base)]
    parts = np.split(tables.slope(base), np.cumsum([np.prod(shape) for shape in shapes])[:-1])
    moved = tables.renamed([part.reshape(*shape, -1) for part, shape in zip(parts, shapes)], pair)
    assert moved is not None  # a solution was found
    here = tables.slope(there)
    matrix = start.copy()
    wanted = np.concatenate([m.reshape(-1, len(base)) for m in moved])
    if free.any():
        matrix[free] += _least_squares(here[:, free], wanted - here @ start)
    matrix, offset = _exact(tables.coordinates, matrix, base, there)
    if np.allclose(matrix, np.eye(len(base))) and np.allclose(offset, 0.0):
        return None  # nothing moves: the names are not in the model
    swap = Renaming(pair, matrix, offset, free)
    for last in (swap, replace(swap, tables=tables)):
        if all(_holds(tables, last, u) for u in points[1:]):
            return last
    return None


def _exact(coordinates: Any, matrix: np.ndarray, base: np.ndarray, there: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The map from base to there, matrix [P, P] and offset [P], with rounding taken off.

    That is done in PyMC's own coordinates, where entries are mostly whole numbers, halves or thirds, and offsets zero.
    """
    shift, width = coordinates.shift, coordinates.width
    units = width[:, None] / width
    near = np.round(matrix * units * TWELFTHS) / TWELFTHS
    own = np.where(np.abs(matrix - near / units) < 1e-6, near, matrix * units)
    offset = coordinates.raw(there) - own @ coordinates.raw(base)
    offset = np.where(np.abs(offset) < 1e-8 * width, 0.0, offset)
    return own / units, (own @ shift - shift + offset) / width


def _permuting(coordinates: Any, axis: ComponentAxis | None, pair: tuple[int, int]) -> Any:
    """u → u with the slots of two components exchanged, None where that is not possible."""
    if axis is None or not axis.slots.size:
        return None
    perm = np.arange(axis.size)
    perm[list(pair)] = perm[list(pair)[::-1]]

    def permuted(u: np.ndarray) -> np.ndarray:
        return coordinates.unconstrain(axis.permute(coordinates.constrain(u), perm))

    return permuted if np.isfinite(permuted(np.zeros(coordinates.size))).all() else None


def _by_m_step(tables: Tables, pair: tuple[int, int], base: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Where M-steps lead whose responsibilities are those of the base with two values renamed."""
    plan, coordinates = tables.plan, tables.coordinates
    r = plan.e_step(coordinates.constrain(base), keep=True, hard=False).responsibilities
    renamed = tables.renamed(list(r), pair)
    if renamed is None:
        return np.full(len(base), np.nan)
    posterior = plan.engine.summarised(renamed)
    theta = coordinates.constrain(start)
    try:
        for _ in range(WARMING):
            theta = plan.m_step(theta, posterior)
    except UNFIT:
        return np.full(len(base), np.nan)
    return coordinates.inside(coordinates.unconstrain(theta), 8.0)


def _holds(tables: Tables, swap: Renaming, u: np.ndarray) -> bool:
    """Whether the renamed point has the same likelihood, and its members have the names exchanged."""
    plan, coordinates = tables.plan, tables.coordinates
    (moved,) = swap(u[None])
    if not np.isfinite(moved).all():
        return False
    before, after = (plan.e_step(coordinates.constrain(v), keep=True, hard=False) for v in (u, moved))
    if not np.isfinite(before.log_likelihood) or not same(before.log_likelihood, after.log_likelihood):
        return False
    renamed = tables.renamed(list(before.responsibilities), swap.pair)
    return renamed is not None and all(
        np.allclose(a, b, atol=1e-6) for a, b in zip(after.responsibilities, renamed) if a is not None
    )


def _keeps_prior(plan: Any, swaps: Sequence[Renaming], points: Sequence[np.ndarray]) -> bool:
    """Whether the log prior on the parameters' own scale is the same after these renamings."""
    for u in points:
        moved = u[None]
        for swap in swaps:
            moved = swap(moved)
        before, after = (densities(plan, plan.structure.coordinates.constrain(v))[1] for v in (u, moved[0]))
        if not same(before, after):
            return False
    return True
