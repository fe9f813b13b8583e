"""Structure → Plan: which E-step, which M-step for each block, and why the others were refused."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import pytensor.tensor as pt

from emppl import explanation
from emppl.compiling import building, compile_graph
from emppl.errors import InvalidArgumentError
from emppl.estep.data import PlateData
from emppl.estep.engine import EStep
from emppl.estep.known import label_masks, member_weights
from emppl.estep.missing import owners
from emppl.estep.posterior import Posterior
from emppl.estep.scales import Scales
from emppl.estep.tables import elements_of, factor_table, free_elements
from emppl.kernels.features import Features
from emppl.kernels.mixture import pays
from emppl.kernels.threads import one_blas_thread
from emppl.mstep.autodiff import ExpectedLogJoint, NumericUpdate
from emppl.mstep.problem import BlockProblem, Refusal, Update
from emppl.mstep.rules import first_accepted
from emppl.portable import Portable
from emppl.rules.bends import bend
from emppl.rules.distinct import distinct_form
from emppl.rules.natural import Deriver, NaturalForm, Refused
from emppl.rules.regression import natural_form
from emppl.rules.tables import check_name
from emppl.structure import analyse
from emppl.structure.domain import support_factors, support_term
from emppl.structure.plates import factored, is_decomposable
from emppl.structure.renaming import symmetries
from emppl.structure.symmetry import ComponentAxis, component_axes
from emppl.structure.types import Factor, Structure

MANY = 1000  # members from which on a step is longer than it takes to see to the threads of BLAS
METHODS = ("em", "hard")
ESTIMATES = ("map", "ml")
ESTEPS = ("auto", "natural", "graph")
COMPILE = ("auto", "always", "never")
Theta = dict[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Block:
    """Parameters that are updated together, by which rule, and what was refused before it.

    fallback: a numeric search for all of them, where the update itself is none.
    """

    parameters: tuple[str, ...]
    update: Update
    refused: tuple[Refusal, ...]
    fallback: NumericUpdate | None = field(repr=False, default=None)

    @property
    def name(self) -> str:
        return " + ".join(self.parameters)

    @property
    def rule(self) -> str:
        """The rule's name, for readers."""
        return self.update.rule if self.update.rest is None else f"{self.update.rule} + numeric"

    @property
    def cost(self) -> str:
        """What one update takes, in words."""
        return self.update.cost


@dataclass(frozen=True, eq=False)
class FactorPlan:
    """How one factor is evaluated: "natural form" or "graph", on which plates, and why a form was refused.

    A natural form with a reason is one over distinct rows: the reason is why its family gives none.
    """

    factor: Factor
    engine: str
    reason: str
    form: NaturalForm | None = field(repr=False, default=None)
    plates: tuple[int, ...] = ()  # those whose members its elements belong to; a form has one, or none
    columns: slice | None = None

    @property
    def plate(self) -> int | None:
        """The only plate, None where there are several or none."""
        return self.plates[0] if len(self.plates) == 1 else None


@dataclass(frozen=True, eq=False)
class Plan(Portable):
    """What will be done to a model, ready to run. `print(plan)` shows it; `emppl.fit(plan)` runs it.

    theta everywhere is {name: array} of the free parameters on their own, constrained scale.
    """

    structure: Structure
    estimate: str
    method: str
    blocks: tuple[Block, ...]
    factors: tuple[FactorPlan, ...]
    engine: EStep = field(repr=False)
    expected: ExpectedLogJoint = field(repr=False)
    frozen: Theta = field(repr=False, default_factory=dict)
    options: dict[str, Any] = field(repr=False, default_factory=dict)
    is_exact: bool = True
    sample: Plan | None = field(repr=False, default=None)  # where rows are streamed: the same over some, in memory

    # -- values at theta -----------------------------------------------------------------------------------------

    def e_step(self, theta: Mapping[str, np.ndarray], *, keep: bool = False, hard: bool | None = None) -> Posterior:
        """Posterior of the latents at theta; `keep` also returns responsibilities by member."""
        with self._threads():
            return self.engine(self.structure.coordinates.arguments(theta), keep=keep, hard=hard)

    def m_step(self, theta: Theta, posterior: Posterior) -> Theta:
        """theta that maximises the expected log joint, block by block.

        A block that finds no better point keeps its own.
        """
        new = dict(theta)
        with self._threads():
            for block in self.blocks:
                found = block.update(new, posterior)
                if found is None and block.fallback is not None:
                    found = block.fallback(new, posterior)
                if found is not None:
                    new |= found
        return new

    @property
    def has_corners(self) -> bool:
        """Whether an M-step climbs from kink to kink, as that of Laplace's errors does."""
        return any(block.update.corners for block in self.blocks)

    @property
    def has_search(self) -> bool:
        """Whether an M-step is a numeric search, which may stop short of the maximum."""
        return any(block.update.is_search for block in self.blocks)

    @property
    def has_exact_m_step(self) -> bool:
        """Whether one M-step is the maximum of the expected log joint over each block."""
        return all(block.update.is_exact for block in self.blocks)

    def corners(self, theta: Theta, posterior: Posterior) -> np.ndarray:
        """Unconstrained coordinates [P] (boolean) that kinks hold where the expected log joint has its top there."""
        coordinates = self.structure.coordinates
        found = np.zeros(coordinates.size, bool)
        for block in self.blocks:
            if block.update.corners is not None:
                for name, held in block.update.corners(theta, posterior).items():
                    found[coordinates.slices[name]] = held.ravel()
        return found

    @cached_property
    def _threads(self) -> Any:
        """The context of a step: several threads of BLAS are in the way of everything but a few plain numbers."""
        nodes = self.engine.terms.compilation.fgraph.apply_nodes
        factorises = any("linalg" in type(getattr(node.op, "core_op", node.op)).__module__ for node in nodes)
        many = any(size >= MANY for size in self.engine.held)
        return one_blas_thread if many or factorises else nullcontext

    def log_likelihood(self, theta: Mapping[str, np.ndarray]) -> float:
        """Marginal log-likelihood, latents summed out, with all constants."""
        return float(self.e_step(theta, hard=False).log_likelihood)

    def log_prior(self, theta: Mapping[str, np.ndarray]) -> float:
        """Log prior density on the parameters' own scale, no Jacobian; 0 for estimate="ml"."""
        return float(self.e_step(theta, hard=False).log_prior)

    def log_posterior(self, theta: Mapping[str, np.ndarray]) -> float:
        """The objective of estimate="map": marginal log-likelihood plus log prior; the log-likelihood for "ml"."""
        return float(self.e_step(theta, hard=False).objective)

    def gradient(self, u: np.ndarray) -> tuple[float, np.ndarray, Posterior]:
        """Objective, its gradient [P] by Fisher's identity, and the E-step, at unconstrained coordinates u [P]."""
        posterior = self.e_step(self.structure.coordinates.constrain(u))
        _, gradient = self.expected(u, posterior, self.weights)
        return posterior.objective, gradient, posterior

    @property
    def weights(self) -> tuple[np.ndarray | None, ...]:
        """Weights of the members of each plate, None where all count once."""
        return self.engine.weights

    def responsibilities(self, theta: Mapping[str, np.ndarray]) -> Theta:
        """Posterior probability of each value of each latent element: {latent: [*shape, K]}."""
        return self.marginals(self.e_step(theta, keep=True, hard=False))

    def marginals(self, posterior: Posterior) -> Theta:
        """The responsibilities in an E-step made with keep=True, summed to each latent element."""
        total = sum(node.size for node in self.structure.latents)
        answer = {}
        width = max((len(node.support) for node in self.structure.latents), default=0)
        flat = np.zeros((total, width))
        self.engine.marginals(posterior, flat)
        for node in self.structure.latents:
            start = self.structure.offsets[node.name]
            answer[node.name] = flat[start : start + node.size, : len(node.support)].reshape(
                *node.shape, len(node.support)
            )
        return answer

    def assignment(self, theta: Mapping[str, np.ndarray]) -> Theta:
        """The most probable joint value of the latents of each member: {latent: [*shape]}."""
        posterior = self.e_step(theta, keep=True, hard=True)
        flat = np.zeros(sum(node.size for node in self.structure.latents), dtype="int64")
        self.engine.mode(posterior, flat)
        return {
            node.name: flat[self.structure.offsets[node.name] :][: node.size].reshape(node.shape)
            for node in self.structure.latents
        }

    @cached_property
    def _deterministics(self) -> Any:
        graphs = [node.value for node in self.structure.deterministics]
        return compile_graph(self.structure.coordinates.values, graphs) if graphs else None

    def deterministics(self, theta: Mapping[str, np.ndarray]) -> Theta:
        """The deterministics that depend on parameters alone."""
        if self._deterministics is None:
            return {}
        values = self._deterministics(*self.structure.coordinates.arguments(theta))
        return {node.name: np.asarray(v) for node, v in zip(self.structure.deterministics, values)}

    @cached_property
    def owners(self) -> np.ndarray:
        """The component of each coordinate, asked at one point for all: the same whoever asks first."""
        return owners(self)

    @cached_property
    def axes(self) -> tuple[ComponentAxis, ...]:
        """Which variables share a component axis with which latent, found from values and checked by permuting."""
        return component_axes(self.sample or self)

    @cached_property
    def _symmetries(self) -> tuple[tuple[ComponentAxis, ...], tuple[str, ...]]:
        return symmetries(self.sample or self, self.axes)

    @property
    def symmetries(self) -> tuple[ComponentAxis, ...]:
        """`axes`, and those whose components are renamed by another map of the parameters than a permutation.

        Found with the first fit or diagnosis, by solving for the map: at most 4000 evaluations of the log joint.
        """
        return self._symmetries[0]

    @property
    def symmetry_notes(self) -> tuple[str, ...]:
        """What `symmetries` had to leave open, a sentence each."""
        return self._symmetries[1]

    def value_labels(self, latent: str) -> tuple[str, ...]:
        """Names of a latent's values: those of the component axis it tells apart, where the model names them."""
        for axis in self.axes:
            if axis.latent == latent:
                return axis.labels
        return self.structure.node(latent).labels

    # -- what the user reads -------------------------------------------------------------------------------------

    @property
    def estep(self) -> str:
        """The E-step in words."""
        return explanation.estep(self)

    @property
    def densities(self) -> int:
        """Numbers evaluated in one pass: members × configurations of all plates, and the tables of eliminations."""
        return self.engine.numbers

    def rows(self) -> list[dict[str, str]]:
        """One row a variable: name, role, dims, prior or support, how it is treated."""
        return explanation.rows(self)

    def remarks(self) -> list[str]:
        """E-step, refusals and symmetry, a line each."""
        return explanation.remarks(self)

    def __str__(self) -> str:
        return explanation.text(self)

    def _repr_html_(self) -> str:
        return explanation.html(self)

    def __repr__(self) -> str:
        return (
            f"Plan({self.structure.name!r}: {self.estep}; "
            + "; ".join(f"{b.name}: {b.rule}" for b in self.blocks)
            + ")"
        )


def _added(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """The sum of two bases [C]; one number for all stays one number."""
    if one.strides == two.strides == (0,):
        return np.broadcast_to(one[:1] + two[:1], one.shape)
    return one + two


def plan(
    model_or_structure: Any,
    *,
    latents: Sequence[str] | None = None,
    support: Mapping[str, Any] | None = None,
    estimate: str = "map",
    method: str = "em",
    freeze: Mapping[str, Any] | None = None,
    estep: str = "auto",
    compile: str = "auto",
    obs_weights: Any = None,
    labels: Mapping[str, Any] | None = None,
    name: str | None = None,
) -> Plan:
    """Choose the E-step and the M-steps for a model, and say why.

    estimate: "map" (priors kept, constrained scale, no Jacobian) or "ml" (priors of parameters dropped);
    method: "em" or "hard"; freeze: {name: value};
    estep: "auto", "natural" (an error where a factor has no natural form) or "graph" (never the natural form: the slow,
    general way); compile: "auto" (numba where a pass is long enough to pay for it, else numpy), "always" or "never".
    obs_weights, labels: as in `emppl.fit`. Raises UnsupportedModelError, InvalidArgumentError, InvalidDataError.
    """
    check_name(estimate, ESTIMATES, "estimate")
    check_name(method, METHODS, "method")
    check_name(estep, ESTEPS, "estep")
    check_name(compile, COMPILE, "compile")
    with building():
        if isinstance(model_or_structure, Plan):
            model_or_structure = model_or_structure.structure
        if isinstance(model_or_structure, Structure) and not freeze:
            structure = model_or_structure
        else:
            given = model_or_structure.model if isinstance(model_or_structure, Structure) else model_or_structure
            if isinstance(model_or_structure, Structure):
                said = {k: v for k, v in model_or_structure.support_given.items() if k not in (freeze or {})}
                support, name = said | dict(support or {}), name or model_or_structure.name
                freeze = model_or_structure.frozen | dict(freeze or {})
            structure = analyse(given, latents=latents, support=support, freeze=freeze, name=name)
        structure = _scaled(structure)
        factor_plans = _plan_factors(structure, estep)
        if estep == "auto" and any(e.form is None for e in factor_plans) and is_decomposable(structure):
            # groups of tied latents that are enumerated whole hide natural forms which each scope on its own has
            apart = factored(structure)
            plans_apart = _plan_factors(apart, estep)
            if sum(e.form is None for e in plans_apart) < sum(e.form is None for e in factor_plans):
                structure, factor_plans = apart, plans_apart
        priors = [f for f in structure.factors if f.kind == "prior"]
        factor_plans, engine, expected = _assemble(
            structure, factor_plans, priors, estimate, method, obs_weights, labels, compile
        )
        blocks = _blocks(structure, factor_plans, priors, estimate, engine, expected)
    return Plan(
        structure, estimate, method, blocks, tuple(factor_plans), engine, expected, dict(structure.frozen),
        {"estep": estep, "compile": compile, "support": support, "freeze": freeze, "labels": labels,
         "obs_weights": obs_weights},
    )  # fmt: skip


def _scaled(structure: Structure) -> Structure:
    """The structure with coordinates counted in widths of the model and its data."""
    if structure.coordinates is not structure.coordinates.unscaled:  # an earlier plan's
        return structure
    scaled = copy.copy(structure)
    object.__setattr__(scaled, "coordinates", structure.coordinates.scaled(Scales(structure)))
    return scaled


def _plan_factors(structure: Structure, estep: str) -> list[FactorPlan]:
    deriver = Deriver(structure)
    return [_plan_factor(structure, deriver, f, estep) for f in structure.factors if f.kind != "prior"]


def _plan_factor(structure: Structure, deriver: Deriver, factor: Factor, estep: str) -> FactorPlan:
    plates: tuple[int, ...] = ()
    if factor.latents:
        plates = tuple(p for p, one in enumerate(structure.plates) if len(elements_of(factor, one)[0]))
    plate = plates[0] if len(plates) == 1 else None
    if estep == "graph":
        return FactorPlan(factor, "graph", "", None, plates)
    try:
        if factor.latents and plate is None:
            raise Refused("it spans several plates")
        bent = bend(structure, factor)
        if bent is not None:
            raise Refused(bent)
        form = natural_form(deriver, factor, structure.plates[plate] if plate is not None else None)
    except Refused as reason:
        if factor.kind == "observed" and (plate is not None or not factor.latents):
            try:
                form = distinct_form(deriver, factor, structure.plates[plate] if plate is not None else None)
                return FactorPlan(factor, "natural form", str(reason), form, plates)
            except Refused:
                pass  # the family's reason is the one to tell
        if estep == "natural":
            raise InvalidArgumentError(
                f"{factor.name} has no natural form: {reason}", "estep='natural'", ("estep='auto'",)
            ) from None
        return FactorPlan(factor, "graph", str(reason), None, plates)
    return FactorPlan(factor, "natural form", "", form, plates)


def _assemble(
    structure: Structure,
    plans: list[FactorPlan],
    priors: list[Factor],
    estimate: str,
    method: str,
    obs_weights: Any,
    labels: Mapping[str, Any] | None,
    compile: str,
) -> tuple[list[FactorPlan], EStep, ExpectedLogJoint]:
    """Put the factors' features and graphs together, plate by plate, and compile what the E-step evaluates."""
    weights = member_weights(structure, plans, obs_weights)
    masks = label_masks(structure, labels)
    etas, tables, data, placed = [], [], [], []
    direct: list[Any] = []
    for p, plate in enumerate(structure.plates):
        parts, graphs, base, table, start = [], [], np.broadcast_to(0.0, (plate.size,)), [], 0
        for entry in plans:
            if entry.form is not None and entry.plate == p:
                width = entry.form.features.shape[1]
                parts.append(entry.form.features)
                graphs.append(entry.form.eta)
                base = _added(base, entry.form.base)
                columns = slice(start, start + width)
                placed.append(replace(entry, columns=columns))
                start += width
            elif entry.form is None and entry.factor.latents and len(elements_of(entry.factor, plate)[0]):
                table.append(factor_table(structure, entry.factor, plate))
        if not parts:
            parts, graphs = [Features.of(np.zeros((plate.size, 1)))], [pt.zeros((plate.n_configurations, 1))]
        features = Features.joined(parts)
        etas.append(
            pt.concatenate([g.astype("float64") for g in graphs], axis=1)
            if len(graphs) > 1
            else graphs[0].astype("float64")
        )
        tables.append(pt.add(*table) if len(table) > 1 else table[0] if table else None)
        supports = tuple(structure.node(name).n_values for name in plate.latents)
        worthwhile = compile == "always" or (compile == "auto" and pays(features, plate.n_configurations))
        data.append(PlateData(features, base, weights[p], masks[p], bool(table), supports, plate.tied, worthwhile))
    for entry in plans:
        if entry.form is not None and entry.plate is None:
            expected = pt.constant(np.asarray(entry.form.features))
            direct.append(
                pt.switch(pt.eq(expected, 0), 0.0, entry.form.eta * expected).sum() + float(entry.form.base.sum())
            )
            placed.append(entry)
        elif entry.form is None:
            placed.append(entry)
            if not entry.factor.latents:
                direct.append(entry.factor.log_density.sum())
            else:
                free = free_elements(structure, entry.factor)
                if free is not None:
                    direct.append(free[0].sum())
    prior = [f.log_density.sum() for f in priors if estimate == "map" and f.parameters]
    prior += [f.log_density.sum() for f in priors if not f.parameters and f.name not in structure.frozen]
    if estimate == "ml":
        prior += [support_term(f) for f in support_factors(structure)]
    zero = pt.constant(0.0)
    direct_sum = pt.stack([d.astype("float64") for d in direct]).sum() if direct else zero
    prior_sum = pt.stack([d.astype("float64") for d in prior]).sum() if prior else zero
    outputs = []
    for eta, table in zip(etas, tables):
        outputs.append(eta)
        if table is not None:
            outputs.append(table)
    terms = compile_graph(structure.coordinates.values, [*outputs, direct_sum, prior_sum], unroll=True)
    if any(plate.compiled for plate in data):
        data = _summed(structure, terms, data)
    engine = EStep.of(structure, data, terms, method == "hard")
    expected = ExpectedLogJoint(structure.coordinates, tuple(etas), tuple(tables), direct_sum, prior_sum)
    order = {entry.factor.name: i for i, entry in enumerate(plans)}
    return sorted(placed, key=lambda e: order[e.factor.name]), engine, expected


def _summed(structure: Structure, terms: Any, data: list[PlateData]) -> list[PlateData]:
    """Long plates whose passes add up the statistics that no parameter tells apart: seen from eta at random theta."""
    rng, coordinates = np.random.default_rng(0), structure.coordinates
    points = [coordinates.arguments(coordinates.constrain(rng.normal(size=coordinates.size))) for _ in range(3)]
    with np.errstate(all="ignore"):
        outputs = [terms(*point) for point in points]
    found, start = [], 0
    for plate in data:
        if plate.compiled:
            plate = replace(plate, features=plate.features.summed([np.asarray(values[start]) for values in outputs]))
        found.append(plate)
        start += 1 + plate.has_table
    return found


def _blocks(
    structure: Structure,
    plans: list[FactorPlan],
    priors: list[Factor],
    estimate: str,
    engine: EStep,
    expected: ExpectedLogJoint,
) -> tuple[Block, ...]:
    """Parameters that meet in a factor, a prior or a bound are one block; the first rule that accepts updates it."""
    used = priors if estimate == "map" else []
    supports = support_factors(structure) if estimate == "ml" else []
    implicit = {name for factor in supports for name in factor.parameters}
    blocks = []
    for names in _connected(structure, [*(entry.factor for entry in plans), *used, *supports]):
        problem = BlockProblem(
            structure,
            names,
            tuple(entry for entry in plans if set(entry.factor.parameters) & set(names)),
            tuple(prior for prior in used if set(prior.parameters) & set(names)),
            expected,
            engine.weights,
            tuple(sorted(implicit & set(names))),
        )
        if not problem.factors and not problem.priors:
            raise InvalidArgumentError(
                f"nothing in the likelihood depends on {', '.join(names)}, so estimate='ml' cannot find it",
                f"parameter {names[0]!r}",
                ("estimate='map'", f"freeze={{{names[0]!r}: value}}", "take it out of the model"),
            )
        update, refused = first_accepted(problem)
        blocks.append(Block(names, update, refused, None if update.is_numeric else problem.search()))
    return tuple(blocks)


def _connected(structure: Structure, factors: Sequence[Factor]) -> list[tuple[str, ...]]:
    """The parameters in groups that no factor and no bound ties to another group, in the order of the model."""
    group = {name: {name} for name in structure.parameter_names}
    bounds = structure.coordinates.bounds
    for tied in [*(factor.parameters for factor in factors), *((name, *others) for name, others in bounds.items())]:
        merged = set().union(*(group[name] for name in tied))
        group |= dict.fromkeys(merged, merged)
    return list(dict.fromkeys(tuple(name for name in group if name in group[own]) for own in group))
