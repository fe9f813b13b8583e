"""Closed-form M-steps: expected statistics plus the pseudo-statistics of the prior, then the family's `maximise`.

Which element of which parameter each of the family's parameters is, is read from values: at two random points the
op's parameters are compared with every element of theta. So `bias[z]`, `switch(z, a, b)`, `stack([p, q])[z]`, tied
and transformed parameters are the same case.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from math import isfinite
from typing import Any

import numpy as np
import pymc as pm

from emppl.compiling import compile_graph, depends_on
from emppl.estep.posterior import Posterior
from emppl.mstep.problem import BlockProblem, Refusal, Update
from emppl.rules.natural import NaturalForm
from emppl.rules.tables import Conjugate, all_together, conjugates_of, each_its_own
from emppl.structure.domain import domain
from emppl.structure.types import Node, Structure
from emppl.unrolled import Unrolled

RULE = "closed form"
FLAT = (pm.Flat, pm.HalfFlat, pm.Uniform)
EMPTY = 1e-3  # members of a configuration that is left out where there is no maximum otherwise
FILLING = 1e-15  # of all members, which stands in for those of such a configuration
MOST_TRIED = 64  # elements of theta that are moved to tell why there is no closed form

LINKS: dict[str, tuple[Callable, Callable]] = {  # op parameter = link(parameter); and back
    "identity": (lambda t: t, lambda v: v),
    "sqrt": (np.sqrt, np.square),
    "square": (np.square, np.sqrt),
    "exp": (np.exp, np.log),
    "reciprocal": (lambda t: 1.0 / t, lambda v: 1.0 / v),
    "reciprocal_sqrt": (lambda t: 1.0 / np.sqrt(t), lambda v: 1.0 / np.square(v)),
    "one_minus": (lambda t: 1.0 - t, lambda v: 1.0 - v),
    "sigmoid": (lambda t: 1.0 / (1.0 + np.exp(-t)), lambda v: np.log(v) - np.log1p(-v)),
    "negative": (lambda t: -t, lambda v: -v),
}
POSITIVE = ("sigma", "scale", "alpha", "beta", "b", "kappa", "lam")  # parameters of families that are so whatever data
KEEP_SIGN = ("identity", "sqrt", "square", "reciprocal", "reciprocal_sqrt")


@cache
def _triangle(d: int) -> np.ndarray:
    """Places of the lower triangle among the elements of a matrix."""
    return np.ravel_multi_index(np.tril_indices(d), (d, d))


def _packed_cholesky(cov: np.ndarray) -> np.ndarray:
    d = cov.shape[-1]
    return np.linalg.cholesky(cov).reshape(*cov.shape[:-2], d * d)[..., _triangle(d)]


def _diagonal(cov: np.ndarray) -> np.ndarray | None:
    d = cov.shape[-1]
    off = cov[..., ~np.eye(d, dtype=bool)]
    return (
        None if off.size and np.any(np.abs(off) > 1e-12 * np.abs(cov).max()) else np.diagonal(cov, axis1=-2, axis2=-1)
    )


def _common_diagonal(cov: np.ndarray) -> np.ndarray | None:
    diagonal = _diagonal(cov)
    if diagonal is None or np.ptp(diagonal, axis=-1).max() > 1e-12 * np.abs(diagonal).max():
        return None
    return diagonal.mean(axis=-1, keepdims=True)


# How a covariance may be written: what of it the user's parameter is, and what of a scatter matrix maximises it.
COVARIANCES: dict[str, tuple[Callable, Callable]] = {
    "covariance": (lambda c: c.reshape(*c.shape[:-2], -1), lambda c: c.reshape(*c.shape[:-2], -1)),
    "packed Cholesky factor": (_packed_cholesky, _packed_cholesky),
    "standard deviations": (
        lambda c: None if _diagonal(c) is None else np.sqrt(_diagonal(c)),
        lambda c: np.sqrt(np.diagonal(c, axis1=-2, axis2=-1)),
    ),
    "variances": (_diagonal, lambda c: np.diagonal(c, axis1=-2, axis2=-1)),
    "common standard deviation": (
        lambda c: None if _common_diagonal(c) is None else np.sqrt(_common_diagonal(c)),
        lambda c: np.sqrt(np.diagonal(c, axis1=-2, axis2=-1).mean(axis=-1, keepdims=True)),
    ),
    "common variance": (_common_diagonal, lambda c: np.diagonal(c, axis1=-2, axis2=-1).mean(axis=-1, keepdims=True)),
}


@dataclass(frozen=True)
class _Role:
    """One parameter of the family: where in theta its cells come from (index [groups, entries]), by which link."""

    index: np.ndarray
    factor: np.ndarray  # known numbers that multiply the parameter, as index
    groups: np.ndarray  # [cells]
    invert: Callable[[np.ndarray], np.ndarray]
    link: str
    of_two: bool = False  # the parameter is the probability of the second of two categories


@dataclass(frozen=True, eq=False)
class ClosedForm:
    """Maximum of the expected log joint over a block, from expected statistics."""

    form: NaturalForm = field(repr=False)
    plate: int | None
    columns: slice
    names: tuple[str, ...]
    layout: ThetaLayout = field(repr=False)
    roles: dict[str, _Role] = field(repr=False)
    fixed: dict[str, np.ndarray] = field(repr=False)
    pseudo: dict[str, np.ndarray] = field(repr=False)
    inside: Callable[[Mapping[str, np.ndarray]], bool] = field(repr=False)

    def __call__(self, theta: dict[str, np.ndarray], posterior: Posterior) -> dict[str, np.ndarray] | None:
        alone = self.plate is None
        statistics = np.asarray(self.form.features) if alone else posterior.statistics[self.plate][:, self.columns]
        flat = self._solved(statistics)
        if (flat is None or not isfinite(np.add.reduce(flat))) and not alone:
            flat = self._but_for_empty(theta, statistics, posterior.counts[self.plate])
        if flat is None or not isfinite(np.add.reduce(flat)):
            return None
        new = self._own.unravel(flat)
        return new if self.inside(theta | new) else None

    def _but_for_empty(
        self, theta: dict[str, np.ndarray], statistics: np.ndarray, counts: np.ndarray
    ) -> np.ndarray | None:
        """The maximum where configurations hold next to no members [J]; what they alone have keeps its value.

        The expected log joint hardly changes with that, and a search through all parameters would find no more.
        """
        empty = counts < EMPTY
        if not empty.any() or empty.all():
            return None
        filling = FILLING * statistics[~empty].sum(axis=0)
        flat = self._solved(np.where(empty[:, None], filling, statistics))
        if flat is None:
            return None
        kept = []
        for role in self.roles.values():
            cells = np.repeat(empty, len(role.groups) // len(empty))
            alive = np.zeros(len(role.index), bool)
            alive[role.groups[~cells]] = True
            kept.append(role.index[~alive].ravel())
        own = np.concatenate([self.layout.part(name) for name in self.names])
        return np.where(np.isin(own, np.concatenate(kept)), self._own.ravel(theta), flat)

    @cached_property
    def _solved(self) -> Unrolled:
        return Unrolled(self._solve)

    def _solve(self, statistics: np.ndarray) -> np.ndarray | None:
        """The block's parameters end to end, from the expected statistics [J, F]."""
        family, frame = self.form.family, self.form.frame
        factors, order = self._places
        with np.errstate(all="ignore"):
            values = family.maximise(self.form.cell_statistics(statistics), self._groups, self.fixed, self.pseudo)
            if values is None:
                return None
            if frame is not None:
                values = _out_of_frame(family, values, frame, self._first)
            parts = []
            for name, factor in factors.items():
                try:
                    entries = self.roles[name].invert(values[name]).reshape(-1)
                except np.linalg.LinAlgError:
                    return None
                parts.append(entries if factor is None else entries / factor)
        together = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return together if order is None else together[order]

    @cached_property
    def _groups(self) -> dict[str, np.ndarray]:
        known = [groups(len(next(iter(self.roles.values())).groups)) for groups in (each_its_own, all_together)]

        def recognised(groups: np.ndarray) -> np.ndarray:
            return next((k for k in known if np.array_equal(k, groups)), groups)

        return {name: recognised(role.groups) for name, role in self.roles.items()}

    @cached_property
    def _first(self) -> dict[str, np.ndarray]:
        return {name: _first_cells(role.groups) for name, role in self.roles.items()}

    @cached_property
    def _own(self) -> ThetaLayout:
        """The block's parameters end to end."""
        return self.layout.only(self.names)

    @cached_property
    def _places(self) -> tuple[dict[str, np.ndarray | None], np.ndarray | None]:
        """Of each role the factors of its entries (None: all 1); where each of the block's numbers is among these.

        Roles stand one after the other, some with numbers that are none of the block's; None: all as they stand.
        """
        index = np.concatenate([role.index.ravel() for role in self.roles.values()])
        place = {number: k for k, number in enumerate(index.tolist())}
        wanted = np.concatenate([self.layout.part(name) for name in self.names]).tolist()
        order = np.array([place[number] for number in wanted])
        factors = {name: role.factor.ravel() for name, role in self.roles.items()}
        return (
            {name: None if (factor == 1).all() else factor for name, factor in factors.items()},
            None if np.array_equal(order, np.arange(len(index))) else order,
        )


@dataclass(frozen=True, eq=False)
class ThetaLayout:
    """All parameters laid end to end, on the constrained scale."""

    shapes: dict[str, tuple[int, ...]]
    starts: dict[str, int]
    size: int

    @classmethod
    def of(cls, structure: Structure) -> ThetaLayout:
        starts, total = {}, 0
        for node in structure.parameters:
            starts[node.name] = total
            total += node.size
        return cls({n.name: n.shape for n in structure.parameters}, starts, total)

    def only(self, names: tuple[str, ...]) -> ThetaLayout:
        """Some of the parameters end to end."""
        sizes = [int(np.prod(self.shapes[name], dtype=int)) for name in names]
        starts = np.cumsum([0, *sizes])
        return ThetaLayout({n: self.shapes[n] for n in names}, dict(zip(names, starts.tolist())), int(starts[-1]))

    def ravel(self, theta: Mapping[str, np.ndarray]) -> np.ndarray:
        return (
            np.concatenate([theta[name] for name in self.shapes], axis=None, dtype=float)
            if self.shapes
            else np.zeros(0)
        )

    def part(self, name: str) -> np.ndarray:
        start = self.starts[name]
        return np.arange(start, start + int(np.prod(self.shapes[name], dtype=int)))

    def unravel(self, flat: np.ndarray, names: tuple[str, ...] | None = None) -> dict[str, np.ndarray]:
        return {name: flat[self._slices[name]].reshape(self.shapes[name]) for name in (names or self.shapes)}

    @cached_property
    def _slices(self) -> dict[str, slice]:
        return {name: slice(s, s + int(np.prod(self.shapes[name], dtype=int))) for name, s in self.starts.items()}

    def owner(self, index: np.ndarray) -> set[str]:
        return {name for name in self.shapes if np.isin(index, self.part(name)).any()}


def closed_form(problem: BlockProblem) -> Update | Refusal:
    """The maximum from expected statistics plus the pseudo-statistics of conjugate or flat priors, in one step."""
    structure, names, forms = problem.structure, problem.names, problem.forms
    if problem.without_form:
        return Refusal(RULE, f"{problem.without_form[0].name} has no natural form")
    if not forms:
        return Refusal(RULE, "no observation or latent depends on it")
    if len(forms) > 1:
        return Refusal(RULE, f"shared by {' and '.join(f.factor.name for f, *_ in forms)}")
    form, plate, columns = forms[0]
    if form.family is None or not form.params:
        return Refusal(RULE, f"{form.factor.name} enters only through its density, not as a family with parameters")
    layout = ThetaLayout.of(structure)
    coordinates = structure.coordinates
    rng = np.random.default_rng(11)
    spread = 0.7 / np.sqrt(_width(form))  # else a large covariance is too far from its factor, by rounding
    points = [coordinates.constrain(rng.normal(scale=spread, size=coordinates.size)) for _ in range(2)]
    function = compile_graph(coordinates.values, list(form.params.values()), optimise=False)  # for two points
    draws = [function(*coordinates.arguments(theta)) for theta in points]
    flats = [layout.ravel(theta) for theta in points]
    roles, fixed = {}, {}
    for i, name in enumerate(form.params):
        pair = [np.asarray(draw[i], float) for draw in draws]
        if np.array_equal(pair[0], pair[1]):
            fixed[name] = pair[0]
            continue
        role = _covariance_role(pair, flats) if name == "cov" else _element_role(pair, flats)
        if role is None and name == "p":
            role = _two_category_role(pair, flats)
        if role is None:
            graph = form.params[name]
            sources = [n for n, v in zip(structure.parameter_names, coordinates.values) if depends_on(graph, {v})]
            return Refusal(
                RULE,
                f"{name} of {form.factor.name} is not a parameter itself but computed from {' and '.join(sources)}",
            )
        roles[name] = role
    indices = np.concatenate([role.index.ravel() for role in roles.values()]) if roles else np.zeros(0, int)
    if len(np.unique(indices)) != len(indices):
        return Refusal(RULE, f"one number of {' and '.join(names)} stands for several parameters of {form.factor.name}")
    wanted = np.concatenate([layout.part(name) for name in names])
    missing = np.setdiff1d(wanted, indices)
    if len(missing):
        return Refusal(RULE, _why_missing(structure, form, layout, missing, points[0]))
    framed_fixed = _fixed_into_frame(form, fixed)
    if framed_fixed is None:
        return Refusal(RULE, "a known parameter cannot be taken into the frame of the data")
    empty = _try(form, roles, framed_fixed)
    if empty is None or set(empty) != set(roles):
        return Refusal(RULE, f"parameters of {form.factor.name} are tied across cells that differ in another parameter")
    pseudo = _pseudo_statistics(problem, form, roles, fixed, layout)
    if isinstance(pseudo, Refusal):
        return pseudo
    sure = _sure(structure, form, roles, layout)
    for name in names:
        if name in coordinates.bound and name not in sure:
            return Refusal(RULE, f"the elements of {name} hang together, and its maximum takes them one by one")
    return Update(
        RULE,
        ClosedForm(form, plate, columns, names, layout, roles, framed_fixed, pseudo, domain(structure, names, sure)),
        f"{problem.size} numbers, one step",
        "solved by a formula, weighted sums of the data to which the prior adds a few made-up data; one step reaches "
        "the top", is_exact=True,
    )  # fmt: skip


def _width(form: NaturalForm) -> int:
    """Features that a covariance of the form couples; 1 where it has none."""
    return int(form.params["cov"].type.shape[-1] or 1) if "cov" in form.params else 1


def _why_missing(
    structure: Structure, form: NaturalForm, layout: ThetaLayout, missing: np.ndarray, theta: Mapping[str, np.ndarray]
) -> str:
    """Why elements of theta are none of the family's parameters: the density does not change with them, or it does."""
    coordinates = structure.coordinates
    function = compile_graph(coordinates.values, form.eta)

    def eta_at(flat: np.ndarray) -> np.ndarray:
        arguments = coordinates.arguments(layout.unravel(flat))
        with np.errstate(all="ignore"):
            return np.asarray(function(*arguments))

    flat = layout.ravel(theta)
    base = eta_at(flat)
    for element in missing[:: 1 + len(missing) // MOST_TRIED]:
        moved = flat.copy()
        moved[element] += 0.01 * (abs(moved[element]) + 0.01)
        if np.array_equal(eta_at(moved), base, equal_nan=True):
            (owner,) = layout.owner(np.array([element]))
            return f"some elements of {owner} enter no observation"
    owner = sorted(layout.owner(missing))[0]
    return f"{owner} enters {form.factor.name} through a predictor, not as a parameter of its family"


def _first_cells(groups: np.ndarray) -> np.ndarray:
    return np.unique(groups, return_index=True)[1]


def _cells_of_frame(frame: Any, cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centre and whitening of chosen cells; a frame that all cells share (vectors) is returned as it is."""
    if np.ndim(frame.whiten) == 2:
        return frame.centre, frame.whiten
    return frame.centre[cells], frame.whiten[cells]


def _out_of_frame(
    family: Any, values: dict[str, np.ndarray], frame: Any, first: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    if np.ndim(frame.whiten) == 2:
        return family.out_of_frame(values, frame.centre, frame.whiten)
    back: dict[str, np.ndarray] = {}
    for name, value in values.items():
        centre, whiten = _cells_of_frame(frame, first[name])
        back |= family.out_of_frame({name: value}, centre, whiten)
    return back


def _fixed_into_frame(form: NaturalForm, fixed: dict[str, np.ndarray]) -> dict[str, np.ndarray] | None:
    if form.frame is None or not fixed:
        return fixed
    numbers = {name: np.zeros_like(next(iter(fixed.values()))) for name in form.params}
    if len({v.shape for v in fixed.values()}) == 1 and all(np.ndim(v) == 1 for v in fixed.values()):
        arguments = [fixed.get(name, numbers[name]) for name in form.params]
    else:
        shapes = {name: graph.type.shape for name, graph in form.params.items()}
        if any(None in s for s in shapes.values()):
            return None
        arguments = [fixed.get(name, np.zeros(shapes[name])) for name in form.params]
    moved = dict(zip(form.params, form.family.into_frame(form.frame, *arguments)))
    return {name: np.asarray(moved[name], float) for name in fixed}


def _try(form: NaturalForm, roles: dict[str, _Role], fixed: dict[str, np.ndarray]) -> dict[str, np.ndarray] | None:
    statistics = form.cell_statistics(np.ones((form.eta.type.shape[0], form.features.shape[1])))
    with np.errstate(all="ignore"):
        return form.family.maximise(np.abs(statistics) + 1.0, {n: r.groups for n, r in roles.items()}, fixed, {})


def _match(seen: list[np.ndarray], candidates: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray] | None:
    """For each entry the element of theta that it is, at both points, up to a known factor; None where one has none."""
    index, factor = np.empty(seen[0].size, dtype=int), np.empty(seen[0].size)
    for i, (a, b) in enumerate(zip(seen[0].ravel(), seen[1].ravel())):
        with np.errstate(all="ignore"):
            first, second = a / candidates[0], b / candidates[1]
            same = np.isfinite(first) & (np.abs(first - second) <= 1e-9 * np.abs(first)) & (first != 0)
        found = np.flatnonzero(same)
        if not len(found):
            return None
        best = found[np.argmin(np.abs(np.log(np.abs(first[found]))))]
        index[i] = best
        factor[i] = 1.0 if abs(first[best] - 1.0) < 1e-9 else first[best]
    return index.reshape(seen[0].shape), factor.reshape(seen[0].shape)


def _role(seen: list[np.ndarray], candidates: list[np.ndarray], back: Callable, link: str) -> _Role | None:
    matched = _match(seen, candidates)
    if matched is None:
        return None
    index, factor = (m.reshape(len(m), -1) for m in matched)
    rows, first, groups = np.unique(index, axis=0, return_index=True, return_inverse=True)
    groups = groups.ravel()
    if not np.allclose(factor, factor[first][groups], rtol=1e-9):
        return None  # the same parameter under several factors: no one number maximises all
    return _Role(rows, factor[first], groups, back, link if np.all(factor == 1.0) else f"{link} × known numbers")


def _element_role(pair: list[np.ndarray], flats: list[np.ndarray]) -> _Role | None:
    for link, (forward, back) in LINKS.items():
        with np.errstate(all="ignore"):
            role = _role(pair, [forward(flat) for flat in flats], lambda v: v, link)
        if role is not None:
            # value = factor × link(parameter): the factor is divided out before the link is undone
            return _Role(role.index, np.ones_like(role.factor), role.groups, _undo(role.factor, back), role.link)
    return None


def _two_category_role(pair: list[np.ndarray], flats: list[np.ndarray]) -> _Role | None:
    """Probabilities (1 - q, q) of two categories, q a parameter or its complement: a Bernoulli of the second."""
    if pair[0].ndim != 2 or pair[0].shape[1] != 2 or not np.allclose(pair[0].sum(axis=1), 1.0, rtol=1e-9):
        return None
    role = _element_role([p[:, 1:] for p in pair], flats)
    if role is None:
        return None
    return _Role(role.index, role.factor, role.groups, lambda value: role.invert(value[:, 1:]), role.link, True)


def _undo(factor: np.ndarray, back: Callable) -> Callable[[np.ndarray], np.ndarray]:
    return lambda value: back(value.reshape(factor.shape) / factor)


def _covariance_role(pair: list[np.ndarray], flats: list[np.ndarray]) -> _Role | None:
    for link, (read, maximum) in COVARIANCES.items():
        try:
            seen = [read(cov) for cov in pair]
        except np.linalg.LinAlgError:
            continue
        if any(s is None for s in seen):
            continue
        role = _role(seen, flats, maximum, link)
        if role is None or (link == "covariance" and any(len(set(row)) < len(row) for row in role.index)):
            continue
        return role
    return None


def _sure(structure: Structure, form: NaturalForm, roles: Mapping[str, _Role], layout: ThetaLayout) -> tuple[str, ...]:
    """Parameters that the family's own maximum keeps in their domain: spreads, rates, probabilities, covariances."""

    def keeps(node: Node, name: str, role: _Role) -> bool:
        kind = getattr(node.transform, "name", None)
        if kind == "simplex":
            whole = np.array_equal(role.index.ravel(), layout.part(node.name))
            return name == "p" and role.link == "identity" and form.params["p"].type.ndim == 2 and whole
        if name == "cov":
            return kind in ("log", "cholesky-cov-packed")
        # under other links, or where known numbers multiply a parameter, it may leave: half a probability, a log
        return (kind == "log" and name in POSITIVE and role.link in KEEP_SIGN) or (
            kind == "logodds" and name == "p" and role.link in ("identity", "one_minus")
        )

    answer = []
    for node in structure.parameters:
        own = [(n, r) for n, r in roles.items() if np.isin(r.index, layout.part(node.name)).any()]
        if own and all(keeps(node, n, r) for n, r in own):
            answer.append(node.name)
    return tuple(answer)


def _pseudo_statistics(
    problem: BlockProblem, form: NaturalForm, roles: dict[str, _Role], fixed: dict, layout: ThetaLayout
) -> dict[str, np.ndarray] | Refusal:
    """Pseudo-statistics [groups, S] of each role's prior; zeros for flat ones."""
    structure, by_name = problem.structure, {factor.name: factor for factor in problem.priors}
    pseudo = {}
    for factor in problem.priors:
        if len(factor.parameters) > 1 or factor.kind != "prior" or factor.name not in structure.parameter_names:
            return Refusal(RULE, f"the prior of {factor.name} depends on {' and '.join(factor.parameters)}")
    for role_name, role in roles.items():
        total = None
        for owner in sorted(layout.owner(role.index)):
            factor = by_name.get(owner)
            if factor is None:
                continue
            node = structure.node(owner)
            if factor.op is not None and isinstance(factor.op, FLAT):
                continue
            found = [] if factor.op is None else conjugates_of(factor.op, form.factor.op, role_name)
            if role.of_two and factor.op is not None and role.link in ("identity", "one_minus"):
                found = _of_two(conjugates_of(factor.op, pm.Bernoulli.rv_op, "p"), role.link)
            found = [c for c in found if c.link == role.link]  # a known factor makes another link, and no conjugate
            missing = sorted({name for c in found for name in c.given if name not in fixed})
            if not found or missing:
                why = f" while its {_said(missing)} is unknown too" if found else ""
                prior = f"the prior {node.distribution} of {owner}"
                return Refusal(RULE, f"{prior} is not conjugate to {form.family.name}{why}")
            numbers = compile_graph([], list(factor.params), optimise=False)()
            core = factor.op.ndim_supp
            arguments = [np.broadcast_to(v, node.shape if not core or np.ndim(v) else np.shape(v)) for v in numbers]
            per_element = np.asarray(found[0].statistics(*arguments), float)
            if (per_element[..., 0] < 0).any() or (not found[0].signed and (per_element < 0).any()):
                return Refusal(RULE, f"the mode of {owner}'s prior lies on the border (negative pseudo-counts)")
            width = per_element.shape[-1]
            total = np.zeros((len(role.index), width)) if total is None else total
            flat = per_element.reshape(-1, width)
            inside = np.isin(role.index[:, 0], layout.part(owner))
            start = layout.starts[owner]
            entries = role.index.shape[1] if core else 1
            total[inside] += flat[(role.index[inside, 0] - start) // entries]
        if total is not None:
            if form.frame is not None:
                centre, whiten = _cells_of_frame(form.frame, _first_cells(role.groups))
                total = form.family.pseudo_into_frame(role_name, total, centre, whiten)
            pseudo[role_name] = total
    return pseudo


def _of_two(found: list[Conjugate], link: str) -> list[Conjugate]:
    """Conjugate priors of a Bernoulli for two categories; of the first, the pseudo-statistics change places."""
    if link == "identity":
        return [c for c in found if c.link == link]

    def turned(c: Conjugate) -> Conjugate:
        return c._replace(link=link, statistics=lambda *arguments: np.asarray(c.statistics(*arguments))[..., ::-1])

    return [turned(c) for c in found if c.link == "identity"]


def _said(parameters: list[str]) -> str:
    return " and ".join("spread" if name == "sigma" else name for name in parameters)
