"""M-step of generalised linear models: Newton's method on the expected log joint, by rows of linear predictors.

Q(beta) = sum over rows n and configurations j of r_nj f(h_nj) + log prior, with predictors h = offset + X beta. The
slopes and curvatures of f come from the density's own graph, so that every family and link is the same case; for
canonical links this is iteratively reweighted least squares (McCullagh & Nelder 1989, section 2.5).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt
from pytensor.graph.replace import vectorize_graph

from emppl.compiling import building, compile_graph, depends_on, substitute
from emppl.estep.posterior import Posterior
from emppl.mstep.closed_form import ThetaLayout
from emppl.mstep.corners import MOST_COEFFICIENTS, Climb, Landscape, kinks_of
from emppl.mstep.problem import BlockProblem, Refusal, Update
from emppl.mstep.regression import ascent_step
from emppl.structure.predictor_graph import AFFINE, ROUNDING, predictors
from emppl.structure.types import Factor, Plate, Structure

RULE = "GLM"
STEPS = 6  # Newton steps in one M-step
ENOUGH = 1e-9  # nats that a Newton step promises, below which none is made
MAX_COEFFICIENTS = 300
MAX_WIDTH = 64  # of a softmax
MAX_NUMBERS = 5e7  # in the design matrices
APART = 1e-9
LEAST = 1e-9  # responsibility of a density whose corner is one
WIDTHS = 8.0  # of its coefficients, that a predictor moves at most in one step; it may have any unit
DIAGONAL, LAST_AXIS, DENSE = "diagonal", "blocks along the last axis", "dense"
Theta = dict[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Predictor:
    """One linear predictor of a factor: an array [J, *shape], or [*shape] where no latent enters it (J = 1 here).

    designs: for each j the columns [B_j] that enter it, and X [size, B_j].
    """

    designs: tuple[tuple[np.ndarray, np.ndarray], ...] = field(repr=False)
    shape: tuple[int, ...]

    def times(self, step: np.ndarray) -> np.ndarray:
        """X step, in the shape of the predictor."""
        return np.stack([x @ step[columns] for columns, x in self.designs]).reshape(self.shape)

    def longest(self, spread: np.ndarray) -> float:
        """How far it may move in one step; spread [B]: of its coefficients."""
        squares = [float(((x * spread[columns]) ** 2).sum()) for columns, x in self.designs]
        return WIDTHS * float(np.sqrt(sum(squares) / max(1, prod(self.shape))))

    @cached_property
    def sizes(self) -> Predictor:
        """The predictor with |X|: sizes of the terms of a sum."""
        return Predictor(tuple((columns, np.abs(x)) for columns, x in self.designs), self.shape)

    def add_transposed(self, rows: np.ndarray, total: np.ndarray) -> None:
        """total [B] += X' rows."""
        for (columns, x), row in zip(self.designs, rows.reshape(len(self.designs), -1)):
            total[columns] += x.T @ row


@dataclass(frozen=True, eq=False)
class Part:
    """One factor: its density by configuration and element as a function of its predictors."""

    factor: Factor
    plate: int | None
    members: np.ndarray = field(repr=False)  # member of each element, −1 where it depends on no latent
    n_configurations: int
    predictors: tuple[Predictor, ...] = field(repr=False)
    at: Any = field(repr=False)  # theta → values of the predictors
    inner: tuple[Any, ...] = field(repr=False)  # variables that stand for the predictors in `table`
    table: Any = field(repr=False)  # log density [J, elements]
    coordinates: Any = field(repr=False)

    @cached_property
    @building()
    def _expected(self) -> tuple[Any, Any, list[Any]]:
        rows = pt.dmatrix("rows")
        total = pt.switch(pt.eq(rows, 0), 0.0, self.table * rows).sum()
        return rows, total, pytensor.grad(total, list(self.inner), disconnected_inputs="ignore")

    @cached_property
    def slopes(self) -> Any:
        """(predictors, R [J, elements], theta) → Q, dQ / dh of each predictor."""
        rows, total, slopes = self._expected
        return compile_graph([*self.inner, rows, *self.coordinates.values], [total, *slopes])

    @cached_property
    @building()
    def curvature(self) -> Any:
        """(predictors, a direction of each, R, theta) → the Hessian in the predictors times the direction."""
        rows, _, slopes = self._expected
        directions = [v.type() for v in self.inner]
        along = pt.stack([(s * d).sum() for s, d in zip(slopes, directions)]).sum()
        bends = pytensor.grad(along, list(self.inner), disconnected_inputs="ignore")
        return compile_graph([*self.inner, *directions, rows, *self.coordinates.values], bends)

    @cached_property
    @building()
    def kinks(self) -> Any:
        """(predictors, theta) → what is zero where a density has a corner, [J, elements] each; None without any."""
        found = []
        for g in kinks_of(self.table, self.inner):
            if g.ndim <= 1 + len(self.factor.shape):
                found.append(
                    pt.broadcast_to(g, (self.n_configurations, *self.factor.shape)).reshape(
                        (self.n_configurations, len(self.members))
                    )
                )
        return compile_graph([*self.inner, *self.coordinates.values], found) if found else None

    @cached_property
    def hessian_sparsity(self) -> str:
        """Sparsity of the Hessian in the predictors: which of their elements enter one density, found by values."""
        return _hessian_sparsity(self)

    def weights(self, posterior: Posterior, weights: Sequence[np.ndarray | None]) -> np.ndarray | None:
        """R [J, elements]: the responsibility of each element's member for each configuration."""
        answer = np.zeros((self.n_configurations, len(self.members)))
        free = self.members < 0
        answer[0, free] = 1.0
        if self.plate is None:
            return answer
        r = posterior.responsibilities[self.plate]
        if r is None:
            return None
        w = weights[self.plate]
        r = r if w is None else r * w[:, None]
        answer[:, ~free] = r[self.members[~free]].T
        return answer


@dataclass(frozen=True, eq=False)
class GLM:
    """Newton's method in the coefficients, with step halving."""

    structure: Structure = field(repr=False)
    parts: tuple[Part, ...] = field(repr=False)
    names: tuple[str, ...]
    index: np.ndarray = field(repr=False)
    prior: Any = field(repr=False)  # theta → log prior, gradient [B], and Hessian [B, B]; None: flat
    weights: tuple[np.ndarray | None, ...] = field(repr=False)

    @cached_property
    def layout(self) -> ThetaLayout:
        return ThetaLayout.of(self.structure)

    @cached_property
    def farthest(self) -> list[float]:
        """How far each predictor may move in one step."""
        spread = np.concatenate([self.structure.coordinates.spread(name).ravel() for name in self.names])
        return [p.longest(spread) for part in self.parts for p in part.predictors]

    def __call__(self, theta: Theta, posterior: Posterior) -> Theta | None:
        with np.errstate(all="ignore"):
            return (self._from_kink_to_kink if self.has_corners else self._newton)(theta, posterior)

    @cached_property
    def has_corners(self) -> bool:
        """Whether a density, or the prior, may have a corner in the coefficients."""
        parts = [part.kinks for part in self.parts] + [self.prior and self.prior.kinks]
        return len(self.index) <= MOST_COEFFICIENTS and any(kinks is not None for kinks in parts)

    def _from_kink_to_kink(self, theta: Theta, posterior: Posterior) -> Theta | None:
        climb = self._climb(theta, posterior)
        if climb is None:
            return None
        flat = self.layout.ravel(theta)
        flat[self.index] = climb.run()
        return self.layout.unravel(flat, self.names)

    def corners(self, theta: Theta, posterior: Posterior) -> Theta:
        """{name: boolean}: coefficients that are held by kinks, where the expected log joint has its top there."""
        with np.errstate(all="ignore"):
            climb = self._climb(theta, posterior) if self.has_corners else None
        flat = np.zeros(self.layout.size, bool)
        if climb is not None and climb.active:
            held, before = climb.rows[climb.active].any(axis=0), climb.value
            climb.run()
            flat[self.index] = held & (climb.value <= before + ENOUGH)
        return self.layout.unravel(flat, self.names)  # they have no transform: these are their coordinates too

    def _climb(self, theta: Theta, posterior: Posterior) -> Climb | None:
        """A climb from theta; None where the expected log joint is no number there."""
        rows = [part.weights(posterior, self.weights) for part in self.parts]
        if any(r is None for r in rows):
            return None
        arguments = self.structure.coordinates.arguments(theta)
        origin = [part.at(*arguments) for part in self.parts]
        beginning = self.layout.ravel(theta)[self.index]

        def where(beta: np.ndarray) -> list[list[np.ndarray]]:
            step = beta - beginning
            return [[h + p.times(step) for h, p in zip(hs, part.predictors)] for hs, part in zip(origin, self.parts)]

        def slope(beta: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
            sizes = np.zeros(len(beta))
            value, gradient = self._slope(where(beta), rows, arguments, beta, sizes)
            return value, gradient, sizes

        def kinks(beta: np.ndarray) -> np.ndarray:
            found = [
                np.asarray(g, float)[r > LEAST]
                for part, hs, r in zip(self.parts, where(beta), rows) if part.kinks is not None
                for g in part.kinks(*hs, *arguments)
            ]  # fmt: skip
            if self.prior is not None and self.prior.kinks is not None:
                found += [np.asarray(g, float).ravel() for g in self.prior.kinks(beta, *arguments)]
            return np.concatenate(found)

        def farthest(step: np.ndarray) -> float:
            along = [p.times(step) for part in self.parts for p in part.predictors]
            return min(far / max(float(np.abs(a).max(initial=0.0)), 1e-300) for far, a in zip(self.farthest, along))

        spread = np.concatenate([self.structure.coordinates.spread(name).ravel() for name in self.names])
        land = Landscape(slope, lambda beta: self._hessian(where(beta), rows, arguments, beta), kinks, spread, farthest)
        return Climb(land, beginning) if np.isfinite(slope(beginning)[0]) else None

    def _newton(self, theta: Theta, posterior: Posterior) -> Theta | None:
        rows = [part.weights(posterior, self.weights) for part in self.parts]
        if any(r is None for r in rows):
            return None
        arguments = self.structure.coordinates.arguments(theta)
        where = [part.at(*arguments) for part in self.parts]
        flat = self.layout.ravel(theta)
        beta = flat[self.index].copy()
        value, slope = self._slope(where, rows, arguments, beta)
        farthest = self.farthest
        for _ in range(STEPS):
            if not np.isfinite(value) or not np.isfinite(slope).all():
                return None
            step = ascent_step(self._hessian(where, rows, arguments, beta), slope)
            if step is None or not 0.5 * float(slope @ step) > ENOUGH:
                break
            along = [[p.times(step) for p in part.predictors] for part in self.parts]
            size = 1.0
            for far, a in zip(farthest, (a for part in along for a in part)):
                size = min(size, far / max(float(np.abs(a).max(initial=0.0)), 1e-300))
            for _ in range(30):
                trial = [[h + size * a for h, a in zip(hs, moves)] for hs, moves in zip(where, along)]
                new, new_slope = self._slope(trial, rows, arguments, beta + size * step)
                if new >= value:
                    break
                size *= 0.5
            else:
                break
            where, beta, value, slope = trial, beta + size * step, new, new_slope
        flat[self.index] = beta
        new_theta = self.layout.unravel(flat, self.names)
        return new_theta if all(np.isfinite(v).all() for v in new_theta.values()) else None

    def _slope(
        self, where: Any, rows: Any, arguments: Any, beta: np.ndarray, sizes: np.ndarray | None = None
    ) -> tuple[float, np.ndarray]:
        """Q and its gradient [B]; sizes [B] is increased by the absolute terms that the gradient is the sum of."""
        total, slope = 0.0, np.zeros(len(self.index))
        for part, hs, r in zip(self.parts, where, rows):
            value, *slopes = part.slopes(*hs, r, *arguments)
            total += float(value)
            for p, s in zip(part.predictors, slopes):
                p.add_transposed(np.asarray(s), slope)
                if sizes is not None:
                    p.sizes.add_transposed(np.abs(s), sizes)
        if self.prior is not None:
            value, gradient = self.prior.slopes(beta, *arguments)
            total, slope = total + float(value), slope + gradient
            if sizes is not None:
                sizes += np.abs(gradient)
        return (total if np.isfinite(total) else -np.inf), slope

    def _hessian(self, where: Any, rows: Any, arguments: Any, beta: np.ndarray) -> np.ndarray:
        """Minus the Hessian of Q, [B, B]."""
        hessian = np.zeros((len(self.index), len(self.index)))
        for part, hs, r in zip(self.parts, where, rows):

            def bends(*directions: np.ndarray, part: Part = part, hs: Any = hs, r: Any = r) -> list[np.ndarray]:
                return [np.asarray(v) for v in part.curvature(*hs, *directions, r, *arguments)]

            HESSIANS[part.hessian_sparsity](part.predictors, bends, hessian)
        if self.prior is not None:
            hessian -= self.prior.hessian(beta, arguments)
        return 0.5 * (hessian + hessian.T)


def _diagonal(predictors: Sequence[Predictor], bends: Any, hessian: np.ndarray) -> None:
    """hessian −= X' diag(f'') X for each predictor: one element of one of them enters each density."""
    for p, curvature in zip(predictors, bends(*(np.ones(p.shape) for p in predictors))):
        for (columns, x), row in zip(p.designs, curvature.reshape(len(p.designs), -1)):
            hessian[np.ix_(columns, columns)] -= x.T @ (row[:, None] * x)


def _by_last_axis(predictors: Sequence[Predictor], bends: Any, hessian: np.ndarray) -> None:
    """The same where all elements along the last axis enter one density, as in a softmax."""
    (p,) = predictors
    width = p.shape[-1]
    for k in range(width):
        direction = np.zeros(p.shape)
        direction[..., k] = 1.0
        (curvature,) = bends(direction)
        for (columns, x), row in zip(p.designs, curvature.reshape(len(p.designs), -1, width)):
            by_row = x.reshape(-1, width, x.shape[1])
            hessian[np.ix_(columns, columns)] -= np.einsum("nl,nlb->nb", row, by_row).T @ by_row[:, k]


def _dense(predictors: Sequence[Predictor], bends: Any, hessian: np.ndarray) -> None:
    """The same for any sparsity: one product with the Hessian for each coefficient."""
    unit = np.zeros(len(hessian))
    for b in range(len(hessian)):
        unit[b] = 1.0
        directions = [p.times(unit) for p in predictors]
        if any(d.any() for d in directions):
            column = np.zeros(len(hessian))
            for p, curvature in zip(predictors, bends(*directions)):
                p.add_transposed(curvature, column)
            hessian[:, b] -= column
        unit[b] = 0.0


HESSIANS = {DIAGONAL: _diagonal, LAST_AXIS: _by_last_axis, DENSE: _dense}


def glm(problem: BlockProblem) -> Update | Refusal:
    """Newton's method in the linear predictors of any density; what is no coefficient is left to a numeric search."""
    structure, names = problem.structure, problem.names
    free = [node.name for node in structure.parameters if node.name in names and node.transform is None]
    if not free:
        return Refusal(RULE, f"{' and '.join(names)} have a domain: none is a coefficient")
    for entry in problem.factors:
        if any(plate.tied for plate in structure.plates):
            return Refusal(RULE, f"the members of {entry.factor.name} are tied to each other by their latents")
        if len(entry.plates) > 1:
            return Refusal(RULE, f"{entry.factor.name} spans several plates")
        if entry.plate is not None and problem.expected.tables[entry.plate] is None:
            return Refusal(RULE, f"{entry.factor.name} has a natural form")
    try:
        parts = _parts(structure, free, problem.factors)
    except _NoDesign as reason:
        return Refusal(RULE, str(reason))
    layout = ThetaLayout.of(structure)
    index = np.concatenate([layout.part(name) for name in free])
    rest = tuple(n for n in names if n not in free)
    prior = _Prior.of(structure, free, problem.priors)
    step = GLM(structure, tuple(parts), tuple(free), index, prior, problem.weights)
    return Update(
        RULE, step,
        f"{'from kink to kink' if step.has_corners else 'Newton steps'} through {problem.densities:,} densities",
        "Newton steps of a generalised linear model, weighted by the responsibilities",
        problem.search(rest) if rest else None, densities=problem.densities,
        corners=step.corners if step.has_corners else None,
    )  # fmt: skip


class _NoDesign(Exception):
    """Why parameters form no linear predictor."""


def _parts(structure: Structure, free: list[str], entries: Sequence[Any]) -> list[Part]:
    """The factors that the coefficients enter, as functions of their predictors."""
    size = sum(structure.node(name).size for name in free)
    if size > MAX_COEFFICIENTS:
        raise _NoDesign(f"{size} coefficients are more than the {MAX_COEFFICIENTS} of a dense Hessian")
    return [_part(structure, entry, free) for entry in entries if set(free) & set(entry.factor.parameters)]


def _part(structure: Structure, entry: Any, names: Sequence[str]) -> Part:
    factor, coordinates = entry.factor, structure.coordinates
    own = {node.value for node in structure.parameters if node.name in names}
    plate: Plate | None = structure.plates[entry.plate] if entry.plate is not None else None
    found = predictors(structure, factor, names, plate)
    n_configurations = plate.n_configurations if plate is not None else 1
    members = plate.members_of(factor) if plate is not None else np.full(factor.size, -1)
    latents = enumerated(structure, factor, plate)
    batched = [bool(latents) and depends_on(v, set(latents)) for v in found]
    values = [vectorize_graph(v, replace=latents) if many else v for v, many in zip(found, batched)]
    at = compile_graph(coordinates.values, [v.astype("float64") for v in values])
    designs = _designs(structure, names, at, batched)
    if not _are_affine(structure, names, at, designs):
        raise _NoDesign(f"{factor.name} depends on {' and '.join(names)} through no linear predictor")
    if sum(x.size for p in designs for _, x in p.designs) > MAX_NUMBERS:
        raise _NoDesign(f"the design matrix of {factor.name} is too large to keep")
    # the density as a function of its predictors
    inner = [v.type() for v in found]
    (density,) = substitute([factor.log_density], dict(zip(found, inner)))
    if any(depends_on(density, {v}) for v in own):
        raise _NoDesign(f"{factor.name} depends on {' and '.join(names)} beside any linear predictor")
    outer = [pt.tensor(f"predictor_{i}", dtype="float64", shape=p.shape) for i, p in enumerate(designs)]
    replace = dict(latents)
    plain: dict[Any, Any] = {}
    for v, o, many in zip(inner, outer, batched):
        (replace if many else plain)[v] = o.astype(v.dtype)
    table = vectorize_graph(density, replace=replace) if replace else density
    if plain:
        (table,) = substitute([table], plain)
    if table.type.ndim == len(factor.shape):  # the same in every configuration
        table = pt.broadcast_to(table, (n_configurations, *factor.shape))
    table = table.reshape((n_configurations, factor.size)).astype("float64")
    return Part(
        factor, entry.plate, members, n_configurations, tuple(designs), at, tuple(outer), table, coordinates
    )  # fmt: skip


def enumerated(structure: Structure, factor: Factor, plate: Plate | None) -> dict[Any, Any]:
    """The factor's latents with every member in configuration j, [J, *shape]."""
    if plate is None:
        return {}
    n = plate.n_configurations
    flat = np.zeros((n, sum(node.size for node in structure.latents)), dtype="int64")
    for node in structure.latents:
        start = structure.offsets[node.name]
        assert node.support is not None  # every latent has one
        flat[:, start : start + node.size] = node.support[0]
    flat[:, plate.members] = plate.configurations[:, None, :]
    answer = {}
    for name in factor.latents:
        node, start = structure.node(name), structure.offsets[name]
        array = flat[:, start : start + node.size].reshape(n, *node.shape)
        answer[node.value] = pt.constant(array.astype(node.value.dtype))
    return answer


def _designs(structure: Structure, names: Sequence[str], at: Any, batched: Sequence[bool]) -> list[Predictor]:
    """X of each predictor by exact differences: one evaluation a coefficient."""
    coordinates = structure.coordinates
    rng = np.random.default_rng(19)
    theta = coordinates.constrain(rng.normal(scale=0.5, size=coordinates.size))
    zero = theta | {name: np.zeros_like(theta[name]) for name in names}
    with np.errstate(all="ignore"):
        here = at(*coordinates.arguments(zero))
        columns: list[list[np.ndarray]] = [[] for _ in here]
        for name in names:
            steps = np.exp2(np.round(np.log2(coordinates.spread(name))))  # which no product with them rounds
            for i in range(structure.node(name).size):
                moved = np.zeros_like(theta[name], dtype=float)
                moved.flat[i] = steps.flat[i]
                there = at(*coordinates.arguments(zero | {name: moved}))
                for c, a, b in zip(columns, here, there):
                    c.append(np.asarray(b - a, dtype=float) / steps.flat[i])
    answer = []
    for c, h, many in zip(columns, here, batched):
        shape = np.shape(h)
        x = np.stack(c, axis=-1).reshape(shape[0] if many else 1, -1, len(c))
        if not np.isfinite(x).all():
            raise _NoDesign("a linear predictor is no number")
        entering = [np.flatnonzero(part.any(axis=0)) for part in x]
        designs = tuple((e, np.ascontiguousarray(part[:, e])) for part, e in zip(x, entering))
        answer.append(Predictor(designs, shape))
    return answer


def _are_affine(structure: Structure, names: Sequence[str], at: Any, designs: Sequence[Predictor]) -> bool:
    """Whether the predictors equal offset + X beta in every configuration, near the start and farther out."""
    coordinates, rng = structure.coordinates, np.random.default_rng(29)
    layout = ThetaLayout.of(structure)
    index = np.concatenate([layout.part(name) for name in names])
    for scale in (0.5, 5.0):
        theta = coordinates.constrain(rng.normal(scale=0.5, size=coordinates.size))
        theta |= {name: scale * coordinates.spread(name) * rng.normal(size=np.shape(theta[name])) for name in names}
        zero = theta | {name: np.zeros_like(theta[name]) for name in names}
        with np.errstate(all="ignore"):
            origin, values = (at(*coordinates.arguments(t)) for t in (zero, theta))
        for predictor, start, value in zip(designs, origin, values):
            value, expected = np.asarray(value, float), start + predictor.times(layout.ravel(theta)[index])
            size = max(float(np.abs(v).max(initial=0.0)) for v in (start, value, expected))
            change = float(np.abs(expected - start).max(initial=0.0))
            if not np.allclose(value, expected, rtol=0, atol=AFFINE * change + ROUNDING * size + 1e-300):
                return False
    return True


def _hessian_sparsity(part: Part) -> str:
    """Sparsity of the Hessian in the predictors: which of their elements enter one density, found by values."""
    coordinates, rng = part.coordinates, np.random.default_rng(23)
    arguments = coordinates.arguments(coordinates.constrain(rng.normal(scale=0.5, size=coordinates.size)))
    rows = rng.uniform(0.5, 1.0, size=(part.n_configurations, len(part.members)))
    h, directions = ([rng.normal(scale=s, size=p.shape) for p in part.predictors] for s in (0.5, 1.0))

    def product(directions: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [np.asarray(v) for v in part.curvature(*h, *directions, rows, *arguments)]

    with np.errstate(all="ignore"):
        exact = product(directions)
        if not all(np.isfinite(e).all() for e in exact):
            return DENSE
        limit = APART * max(*(float(np.abs(e).max(initial=0.0)) for e in exact), 1e-300)
        alone = product([np.ones(p.shape) for p in part.predictors])
        if all(np.allclose(a * d, e, rtol=0, atol=limit) for a, d, e in zip(alone, directions, exact)):
            return DIAGONAL
        if len(part.predictors) > 1:
            return DENSE
        (p,), (direction,) = part.predictors, directions
        if p.shape and p.shape[-1] <= MAX_WIDTH:
            total = np.zeros(p.shape)
            for k in range(p.shape[-1]):
                unit = np.zeros(p.shape)
                unit[..., k] = 1.0
                total += product([unit])[0] * direction[..., k : k + 1]
            if np.allclose(total, exact[0], rtol=0, atol=limit):
                return LAST_AXIS
    return DENSE


@dataclass(frozen=True, eq=False)
class _Prior:
    """Log prior of the coefficients, with its first two derivatives; any density, since the block is small."""

    beta: Any = field(repr=False)
    total: Any = field(repr=False)
    values: list[Any] = field(repr=False)

    @classmethod
    def of(cls, structure: Structure, names: Sequence[str], priors: Sequence[Factor]) -> _Prior | None:
        own = {node.value: node for node in structure.parameters if node.name in names}
        touching = [f for f in priors if set(f.parameters) & set(names)]
        if not touching:
            return None
        beta, graphs, start = pt.dvector("coefficients"), {}, 0
        for name in names:
            node = structure.node(name)
            graphs[node.value] = beta[start : start + node.size].reshape(node.shape).astype(node.value.dtype)
            start += node.size
        total = pt.stack([f.log_density.sum().astype("float64") for f in touching]).sum()
        (total,) = substitute([total], {v: graphs[v] for v in own})
        return cls(beta, total, structure.coordinates.values)

    @cached_property
    @building()
    def _gradient(self) -> Any:
        return pytensor.grad(self.total, self.beta, disconnected_inputs="ignore")

    @cached_property
    def slopes(self) -> Any:
        """(coefficients, theta) → log prior and its gradient [B]."""
        return compile_graph([self.beta, *self.values], [self.total, self._gradient])

    @cached_property
    @building()
    def kinks(self) -> Any:
        """(coefficients, theta) → what is zero where the density has a corner; None without any."""
        found = kinks_of(self.total, [self.beta])
        return compile_graph([self.beta, *self.values], found) if found else None

    @cached_property
    @building()
    def _product(self) -> Any:
        direction = pt.dvector("direction")
        product = pytensor.grad((self._gradient * direction).sum(), self.beta, disconnected_inputs="ignore")
        return compile_graph([self.beta, direction, *self.values], product)

    def hessian(self, beta: np.ndarray, arguments: Sequence[np.ndarray]) -> np.ndarray:
        """Of the log prior, [B, B]; a diagonal one costs two products."""
        size = len(beta)
        probe = np.cos(np.arange(size) + 1.0)  # any direction that is not special
        diagonal, along = (self._product(beta, v, *arguments) for v in (np.ones(size), probe))
        if np.allclose(diagonal * probe, along, rtol=1e-10, atol=1e-12 * float(np.abs(along).max(initial=0.0))):
            return np.diag(diagonal)
        return np.stack([self._product(beta, row, *arguments) for row in np.eye(size)])
