"""M-step of Normal regressions in closed form: weighted least squares, then the spreads.

Given the spreads, the expected log joint is quadratic in the coefficients, and Gaussian priors are a ridge; given the
coefficients, each spread is the root of a weighted mean square. Both steps are exact, so that no step falls; where
each coefficient meets one spread alone and the priors are flat, the two together are the maximum itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt

from emppl.compiling import compile_graph, depends_on
from emppl.estep.posterior import Posterior
from emppl.mstep.closed_form import FLAT, ThetaLayout, _element_role, _Role
from emppl.mstep.closed_form import RULE as CLOSED_RULE
from emppl.mstep.problem import BlockProblem, Refusal, Update
from emppl.rules.regression import RegressionForm
from emppl.structure.domain import domain
from emppl.structure.types import Factor

RULE = "least squares"
LINEAR = 1e-9
SINGULAR = 1e-12
Theta = dict[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class _Part:
    """One regression: where its statistics stand, and its design [cells, P, B] in the coefficients of the block."""

    form: RegressionForm = field(repr=False)
    plate: int | None
    columns: slice
    design: np.ndarray = field(repr=False)
    cells: Any = field(repr=False)  # theta → coefficients in the frame [J, P, slots], spreads [J × slots]
    role: _Role | None = field(repr=False, default=None)  # the parameters that its spreads are
    prior: Any = field(repr=False, default=None)  # of a spread [groups] → log density, two derivatives; None: flat

    def sums(self, posterior: Posterior) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Counts, y², x y and x x' by cell: [cells], [cells], [cells, P], [cells, P, P], in the frame."""
        alone = self.plate is None
        statistics = np.asarray(self.form.features) if alone else posterior.statistics[self.plate][:, self.columns]
        p, n_slots = self.design.shape[1], int(np.prod(self.form.slots, dtype=int))
        n_pairs = p * (p + 1) // 2
        i, j = np.triu_indices(p)
        square = np.empty((len(statistics), p, p))
        square[:, i, j] = square[:, j, i] = statistics[:, 1 : 1 + n_pairs]
        own = statistics[:, 1 + n_pairs : 1 + n_pairs + n_slots].ravel()
        cross = statistics[:, 1 + n_pairs + n_slots :].reshape(-1, p, n_slots).transpose(0, 2, 1).reshape(-1, p)
        return np.repeat(statistics[:, 0], n_slots), own, cross, np.repeat(square, n_slots, axis=0)


@dataclass(frozen=True, eq=False)
class LeastSquares:
    """New coefficients, then new spreads."""

    parts: tuple[_Part, ...] = field(repr=False)
    names: tuple[str, ...]  # of the coefficients
    index: np.ndarray = field(repr=False)  # their places among all parameters, [B]
    spreads: tuple[str, ...]
    layout: ThetaLayout = field(repr=False)
    coordinates: Any = field(repr=False)
    prior: Callable[..., Any] | None = field(repr=False)  # theta → precision [B], mean [B] of the Gaussian prior
    inside: Callable[[Theta], bool] = field(repr=False)

    def __call__(self, theta: Theta, posterior: Posterior) -> Theta | None:
        arguments = self.coordinates.arguments(theta)
        flat = self.layout.ravel(theta)
        if self.names and not self._coefficients(flat, arguments, posterior):
            return None
        new = self.layout.unravel(flat, self.names)
        self._spreads(flat, self.coordinates.arguments(theta | new), posterior)
        new = self.layout.unravel(flat, (*self.names, *self.spreads))
        finite = all(np.isfinite(v).all() for v in new.values())
        return new if finite and self.inside(theta | new) else None

    def _coefficients(self, flat: np.ndarray, arguments: list[np.ndarray], posterior: Posterior) -> bool:
        size = len(self.index)
        hessian, slope = np.zeros((size, size)), np.zeros(size)
        for part in self.parts:
            beta, sigma = part.cells(*arguments)
            beta = beta.transpose(0, 2, 1).reshape(-1, beta.shape[1])
            weight = 1.0 / sigma**2
            _, _, cross, square = part.sums(posterior)
            fitted = (square @ beta[..., None])[..., 0]
            slope += np.einsum("c,cp,cpb->b", weight, cross - fitted, part.design, optimize=True)
            half = np.einsum("cpq,cqb->cpb", square, part.design)
            hessian += np.einsum("c,cpa,cpb->ab", weight, part.design, half, optimize=True)
        if self.prior is not None:
            precision, mean = (np.asarray(v, float) for v in self.prior(*arguments))
            slope += precision * (mean - flat[self.index])
            hessian[np.diag_indices(size)] += precision
        step = solved(hessian, slope)
        if step is None:
            return False
        flat[self.index] += step
        return True

    def _spreads(self, flat: np.ndarray, arguments: list[np.ndarray], posterior: Posterior) -> None:
        for part in self.parts:
            if part.role is None:
                continue
            beta = part.cells(*arguments)[0]
            beta = beta.transpose(0, 2, 1).reshape(-1, beta.shape[1])
            count, own, cross, square = part.sums(posterior)
            left = own - 2 * (cross * beta).sum(axis=1) + np.einsum("cp,cpq,cq->c", beta, square, beta)
            frame = part.form.frame
            assert frame is not None  # a regression always has one
            sums = np.zeros((int(part.role.groups.max()) + 1, 2))
            np.add.at(sums, part.role.groups, np.stack([count, np.maximum(left, 0.0) * frame.whiten**2], axis=1))
            held = sums[:, 0] > 0
            if part.prior is not None:
                start = flat[part.role.index[:, 0]]
                flat[part.role.index[:, 0]] = highest_spread(sums[:, 0], sums[:, 1], part.prior, start)
                continue
            with np.errstate(all="ignore"):
                found = part.role.invert(np.sqrt(sums[:, 1] / sums[:, 0])).reshape(part.role.index.shape)
            flat[part.role.index] = np.where(held[:, None], found, flat[part.role.index])


def highest_spread(
    count: np.ndarray, squares: np.ndarray, prior: Any, sigma: np.ndarray, steps: int = 20
) -> np.ndarray:
    """Maximum of -n log s - S / 2 s² + log prior(s) for each spread s by Newton in log s, never below where it began.

    count n, squares S, sigma: [groups]; prior(s) → log density and its first two derivatives, each [groups].
    """
    with np.errstate(all="ignore"):

        def at(u: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            s = np.exp(u)
            log_prior, first, second = prior(s)
            inverse = squares * np.exp(-2 * u)
            value = -count * u - 0.5 * inverse + log_prior
            return value, -count + inverse + s * first, -2 * inverse + s * first + s**2 * second

        u = np.log(sigma)
        value, slope, bend = at(u)
        for _ in range(steps):
            step = np.where(bend < 0, -slope / bend, np.sign(slope))
            step = np.clip(np.nan_to_num(step), -2.0, 2.0)
            for _ in range(30):
                new = at(u + step)
                worse = ~(new[0] >= value)
                if not worse.any():
                    break
                step = np.where(worse, 0.5 * step, step)
            else:
                step = np.where(worse, 0.0, step)
                new = at(u + step)
            u, (value, slope, bend) = u + step, new
            if np.abs(step).max(initial=0.0) < 1e-10:
                break
        return np.exp(u)


def solved(hessian: np.ndarray, slope: np.ndarray) -> np.ndarray | None:
    """The step with hessian @ step = slope; directions that the data say nothing on do not move."""
    if not np.isfinite(hessian).all() or not np.isfinite(slope).all():
        return None
    size = np.sqrt(np.maximum(np.diagonal(hessian), 0.0))
    size = np.where(size > 0, size, 1.0)
    values, vectors = np.linalg.eigh(hessian / np.outer(size, size))
    kept = values > SINGULAR * max(values[-1], 1e-300)
    return (vectors[:, kept] @ ((vectors[:, kept].T @ (slope / size)) / values[kept])) / size


def ascent_step(hessian: np.ndarray, slope: np.ndarray) -> np.ndarray | None:
    """The Newton step; where the curvature has the wrong sign it is turned round, so that the step points uphill."""
    if not np.isfinite(hessian).all():
        return None
    try:
        np.linalg.cholesky(hessian)
    except np.linalg.LinAlgError:
        size = np.sqrt(np.maximum(np.abs(np.diagonal(hessian)), 1e-300))  # coefficients have units of their own
        values, vectors = np.linalg.eigh(hessian / np.outer(size, size))
        floor = 1e-10 * max(float(np.abs(values).max(initial=0.0)), 1e-300)
        hessian = (vectors * np.maximum(np.abs(values), floor)) @ vectors.T * np.outer(size, size)
    return solved(hessian, slope)


def least_squares(problem: BlockProblem) -> Update | Refusal:
    """Coefficients of Normal regressions by weighted least squares, then their spreads, each exact given the other.

    What is neither is left to a numeric search.
    """
    forms = problem.forms
    regressions = [(form, plate, columns) for form, plate, columns in forms if isinstance(form, RegressionForm)]
    if not regressions:
        return Refusal(RULE, "")
    if problem.without_form:
        return Refusal(RULE, f"{problem.without_form[0].name} has no natural form")
    if len(regressions) < len(forms):
        other = next(form for form, *_ in forms if not isinstance(form, RegressionForm))
        return Refusal(RULE, f"it enters {other.factor.name} too, which is no Normal regression")
    return _Recogniser(problem, regressions).update()


class _Recogniser:
    """Which parameters are coefficients and which are spreads: read from values at two random points."""

    def __init__(self, problem: BlockProblem, forms: Sequence[tuple[RegressionForm, int | None, slice]]) -> None:
        self.problem, self.forms, self.names, self.priors = problem, forms, problem.names, problem.priors
        self.structure = structure = problem.structure
        self.layout = ThetaLayout.of(structure)
        coordinates = structure.coordinates
        self.values = {node.name: node.value for node in structure.parameters}
        rng = np.random.default_rng(13)
        self.points = [coordinates.constrain(rng.normal(scale=0.5, size=coordinates.size)) for _ in range(2)]
        self.cells = [
            compile_graph(coordinates.values, [form.coefficients, form.params["sigma"] / form.frame.whiten])
            for form, *_ in forms
        ]

    def update(self) -> Update | Refusal:
        coordinates, layout = self.structure.coordinates, self.layout
        in_spread = {n for n in self.names if any(self._enters(n, form.params["sigma"]) for form, *_ in self.forms)}
        spreads = self._spreads(in_spread)
        coefficients: list[str] = []
        designs: dict[str, list[np.ndarray]] = {}
        for name in self.names:
            if name not in in_spread and name not in coordinates.bound and self._quadratic_prior(name):
                found = self._design(name)
                if found is not None:
                    coefficients.append(name)
                    designs[name] = found
        if not coefficients:
            return Refusal(RULE, "no parameter of the block enters the mean linearly with a Gaussian or flat prior")
        index = np.concatenate([layout.part(name) for name in coefficients])
        taken = {name for name, *_ in spreads.values()}
        parts = []
        for f, ((form, plate, columns), cells) in enumerate(zip(self.forms, self.cells)):
            design = np.concatenate([designs[name][f] for name in coefficients], axis=2)
            role, prior = spreads[f][1:] if f in spreads else (None, None)
            parts.append(_Part(form, plate, columns, design, cells, role, prior))
        rest = tuple(n for n in self.names if n not in coefficients and n not in taken)
        handled = (*coefficients, *sorted(taken))
        ridge = self._prior(coefficients)
        step = LeastSquares(
            tuple(parts), tuple(coefficients), index, tuple(sorted(taken)), layout, coordinates, ridge,
            domain(self.structure, handled),
        )  # fmt: skip
        exact = not rest and _one_step(parts, ridge is not None)
        return Update(
            CLOSED_RULE if exact else RULE, step, f"{self.problem.size} numbers, one step",
            "weighted least squares, solved exactly; the prior adds a few made-up data",
            self.problem.search(rest) if rest else None, is_exact=exact,
        )  # fmt: skip

    def _enters(self, name: str, graph: Any) -> bool:
        return depends_on(graph, {self.values[name]})

    def _own_prior(self, name: str) -> Factor | None:
        return next((factor for factor in self.priors if factor.name == name), None)

    def _in_other_priors(self, name: str) -> bool:
        return any(name in factor.parameters for factor in self.priors if factor.name != name)

    def _quadratic_prior(self, name: str) -> bool:
        """Whether its prior is flat or Normal, apart from others, and it is no parameter of another prior."""
        factor = self._own_prior(name)
        if self._in_other_priors(name):
            return False
        if factor is None or factor.op is None:
            return factor is None
        if isinstance(factor.op, FLAT):
            return True
        own = self.values[name]
        return isinstance(factor.op, pm.Normal) and not any(depends_on(p, {own}) for p in factor.params)

    def _design(self, name: str) -> list[np.ndarray] | None:
        """d coefficients / d parameter by cell [cells, P, size], None where it is not the same wherever one stands."""
        found = []
        coordinates, size = self.structure.coordinates, self.structure.node(name).size
        unit = max(float(np.abs(point[name]).max(initial=0.0)) for point in self.points) or 1.0  # no step drowns in it
        for cells in self.cells:
            seen = []
            for point, step in zip(self.points, (unit, 0.5 * unit)):
                with np.errstate(all="ignore"):
                    here = cells(*coordinates.arguments(point))[0]
                    columns = []
                    for i in range(size):
                        moved = np.array(point[name], dtype=float)
                        moved.flat[i] += step
                        there = cells(*coordinates.arguments(point | {name: moved}))[0]
                        columns.append((there - here) / step)
                seen.append(np.stack(columns, axis=-1))
            largest = np.abs(seen[0]).max(initial=0.0)
            if not np.isfinite(seen[0]).all() or not np.allclose(seen[0], seen[1], rtol=0, atol=LINEAR * largest):
                return None
            found.append(seen[0].transpose(0, 2, 1, 3).reshape(-1, seen[0].shape[1], size))
        return found

    def _spreads(self, in_spread: set[str]) -> dict[int, tuple[str, _Role, Any]]:
        """By regression: the one parameter that its spreads are, in closed form."""
        answer: dict[int, tuple[str, _Role, Any]] = {}
        flats = [self.layout.ravel(theta) for theta in self.points]
        for f, (form, *_) in enumerate(self.forms):
            own = [n for n in in_spread if self._enters(n, form.params["sigma"])]
            shared = [n for n in own for other, *_ in self.forms if other is not form and self._enters(n, other.eta)]
            if len(own) != 1 or shared or self._enters(own[0], form.coefficients) or self._in_other_priors(own[0]):
                continue
            function = compile_graph(self.structure.coordinates.values, form.params["sigma"])
            pair = [
                np.asarray(function(*self.structure.coordinates.arguments(theta)), dtype=float) for theta in self.points
            ]
            role = _element_role(pair, flats)
            if role is None or not np.isin(role.index, self.layout.part(own[0])).all():
                continue
            if len(np.unique(role.index)) < self.structure.node(own[0]).size:
                continue
            factor = self._own_prior(own[0])
            if factor is None or isinstance(factor.op, FLAT):
                answer[f] = (own[0], role, None)
            elif role.link == "identity" and len(factor.parameters) == 1 and self._apart(factor, own[0]):
                answer[f] = (own[0], role, self._prior_of_spread(factor, own[0], role))
        return answer

    def _apart(self, factor: Factor, name: str) -> bool:
        """Whether a prior is a density of each element apart."""
        return factor.op is not None and factor.op.ndim_supp == 0 and factor.shape == self.structure.node(name).shape

    def _prior_of_spread(self, factor: Factor, name: str, role: _Role) -> Any:
        value = self.values[name]
        first = pytensor.grad(factor.log_density.sum(), value, disconnected_inputs="ignore")
        second = pytensor.grad(first.sum(), value, disconnected_inputs="ignore")
        function = compile_graph([value], [v.astype("float64").ravel() for v in (factor.log_density, first, second)])
        places = role.index[:, 0] - self.layout.starts[name]
        shape = self.structure.node(name).shape

        def prior(sigma: np.ndarray) -> list[np.ndarray]:
            elements = np.ones(int(np.prod(shape, dtype=int)))
            elements[places] = sigma
            return [v[places] for v in function(elements.reshape(shape).astype(value.dtype))]

        return prior

    def _prior(self, names: Sequence[str]) -> Callable[..., Any] | None:
        """theta → (precision [B], mean [B]) of the coefficients' priors; None where all are flat."""
        precisions, means = [], []
        for name in names:
            factor, node = self._own_prior(name), self.structure.node(name)
            if factor is None or isinstance(factor.op, FLAT):
                precisions.append(np.zeros(node.size))
                means.append(np.zeros(node.size))
            else:
                mu, sigma = (_spread_out(p, node.shape) for p in factor.params)
                precisions.append(sigma**-2.0)
                means.append(mu)
        if all(isinstance(p, np.ndarray) for p in precisions):
            return None
        return compile_graph(self.structure.coordinates.values, [pt.concatenate(precisions), pt.concatenate(means)])


def _one_step(parts: Sequence[_Part], ridge: bool) -> bool:
    """Whether coefficients and spreads together are at their maximum after one turn: no spread changes the weights."""
    roles = [part.role for part in parts if part.role is not None]
    if not roles:
        return True
    if ridge or len(roles) < len(parts):
        return False
    met = [np.unique(part.role.groups, return_inverse=True)[1] for part in parts if part.role is not None]
    for b in range(parts[0].design.shape[2]):
        groups = {(f, g) for f, part in enumerate(parts) for g in met[f][np.any(part.design[:, :, b] != 0, axis=1)]}
        if len(groups) > 1:
            return False
    return True


def _spread_out(graph: Any, shape: tuple[int, ...]) -> Any:
    return pt.broadcast_to(graph.astype("float64"), shape).ravel()
