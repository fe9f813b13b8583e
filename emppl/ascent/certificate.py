"""Evidence that a fit is what it says: each point with its number, its limit and a sentence."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt
from pymc.logprob.basic import transformed_conditional_logp
from pymc.logprob.utils import replace_rvs_by_values
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.traversal import graph_inputs

from emppl.ascent.agreement import UNSEEN_LIMIT, Agreement
from emppl.ascent.sampled import MEMBERS, Sample, can_stand_for_all, sample_of
from emppl.compiling import FEW, building, compile_graph, substitute
from emppl.estep.engine import EStep
from emppl.estep.known import label_masks
from emppl.inference.information import BORDER, FLAT_CURVATURE, Information
from emppl.planner import Plan
from emppl.structure import analyse
from emppl.structure.constants import in_double, model_in_double
from emppl.structure.coordinates import Coordinates
from emppl.structure.initial import initial_point
from emppl.structure.prior import whole_log_prior
from emppl.structure.restrict import CannotRestrict
from emppl.structure.support import stray_value
from emppl.structure.types import Node, Structure
from emppl.text import visible

Theta = dict[str, np.ndarray]
DRAWS = 3  # random assignments of the latents at which log joints are compared
IMPOSSIBLE = -1e100  # a log density below this stands for minus infinity
LONG = 40  # steps of elimination beyond which their graph takes longer to build than to check by differences
STILL = 1e-4  # relative change of theta a unit of u below which a direction leads along a border only
SAME_NATS = 1e-6  # nats by which the derived log joint may differ from PyMC's
ROUNDING = 1e-12  # the same for each nat of the sizes of its terms
SAME_AS_WRITTEN = 1e-9  # nats
INSIDE = 8.0  # |logit| or |log| at which the checks evaluate a parameter that lies on its border


@dataclass(frozen=True)
class Point:
    """One thing that must hold, the number that shows it, and the limit it is held against."""

    name: str
    holds: bool
    value: float
    limit: float
    text: str


@dataclass(frozen=True)
class Certificate:
    """All points of a fit. `holds` only if each does."""

    points: tuple[Point, ...]
    notes: tuple[str, ...] = field(default=())

    @property
    def holds(self) -> bool:
        return all(point.holds for point in self.points)

    def __str__(self) -> str:
        lines = [f"certificate: {sum(p.holds for p in self.points)} of {len(self.points)} hold"]
        lines += [f"  {'ok  ' if p.holds else 'FAIL'}  {p.name}: {p.text}" for p in self.points]
        return visible("\n".join(lines + [f"  note  {note}" for note in self.notes]))


def log_joint_agrees(plan: Plan, theta: Mapping[str, np.ndarray], draws: int = DRAWS, seed: int = 0) -> Point:
    """(1) At random assignments of the latents, the derived log joint equals PyMC's own `model.logp` (no Jacobian).

    In nats, of the model as written or, where it is not the same, with its constants as doubles; `as_it_stands` says
    what that changes. `model.logp` is evaluated as it stands, which is ready ten times as soon; where that does not
    agree at the fit itself it is rewritten for precision, as PyMC does, and has the last word.
    """
    point = _agrees_as_written(plan, theta, draws, seed)
    if point is None and _is_small(plan):
        point = _where_possible(plan, theta, draws, seed, lambda: _model_logp(plan, False, draws, seed))
    if point is None or not point.holds:
        point = _log_joint_agrees(plan, theta, draws, seed, _model_logp(plan, True, draws, seed))
    assert point is not None  # only a graph as it stands may be without an answer
    return point


def _is_small(plan: Plan) -> bool:
    """Whether what is evaluated of the model's density is so small that it is sooner done as it stands."""
    some = plan.engine.has_members_alone and can_stand_for_all(plan.structure)
    most = DRAWS * MEMBERS if some else np.inf
    return sum(min(factor.size, most) for factor in plan.structure.factors) <= FEW


def _agrees_as_written(plan: Plan, theta: Mapping[str, np.ndarray], draws: int, seed: int) -> Point | None:
    """The same of the model as written, where that agrees so well that doubles for its constants change nothing."""
    if not _is_small(plan):
        return None
    point = _where_possible(plan, theta, draws, seed, lambda: _written_logp(plan, draws, seed))
    return point if point is not None and point.value <= SAME_AS_WRITTEN else None


def _where_possible(
    plan: Plan, theta: Mapping[str, np.ndarray], draws: int, seed: int, reference: Callable[[], _Reference]
) -> Point | None:
    """The same by a graph as it stands, None where it has no answer."""
    try:
        return _log_joint_agrees(plan, theta, draws, seed, reference())
    except Exception:  # impossible parameters raise what the distribution likes to; rewritten they are -inf
        return None


def _log_joint_agrees(
    plan: Plan, theta: Mapping[str, np.ndarray], draws: int, seed: int, by_model: _Reference
) -> Point | None:
    structure = plan.structure
    rng = np.random.default_rng(seed)
    coordinates, sample = by_model.coordinates, by_model.sample
    u = coordinates.unconstrain(dict(theta) | dict(plan.frozen))
    assigned = _assignments(structure, rng, draws) if sample is None else []
    pairs: list[tuple[float, float]] = []
    for point in _check_points(plan, coordinates, u)[: None if by_model.rewritten else 1]:
        here = coordinates.constrain(point)
        inputs = _inputs_at(structure, coordinates, point)
        if sample is None:
            found = [by_model(inputs | values) for values in assigned]
            derived_at = [_derived_log_joint(plan, here, values) for values in assigned]
        else:
            found = by_model.by_draw(inputs)
            derived_at = [_derived_of_sample(plan, here, sample, draw) for draw in range(draws)]
        pairs = [(total, ours) for (total, _), ours in zip(found, derived_at, strict=True)]
        size = max((terms for _, terms in found), default=0.0)
        if np.isfinite(pairs).all() and min(min(pair) for pair in pairs) > IMPOSSIBLE:
            break
    else:
        if not by_model.rewritten:  # nothing but impossible values: the rewritten graph may know better
            return None
    worst = max(_nats_apart(*pair) for pair in pairs)
    limit = max(SAME_NATS, ROUNDING * size) if np.isfinite(size) else SAME_NATS
    stray = stray_value(structure, structure.coordinates.arguments(here), rng)
    if stray is not None:
        return Point("log joint", False, np.inf, limit, f"{stray}, and is left out of the sum: please report")
    where = f" at random assignments of the latents{_of_some(sample)}" if sample or assigned[0] else ""
    if worst <= limit:
        return Point("log joint", True, worst, limit, f"equals model.logp to {worst:.1e} nats{where}")
    reference, derived = max(pairs, key=lambda pair: _nats_apart(*pair))
    text = f"{derived:.10g} where model.logp gives {reference:.10g}{where}: {worst:.2g} nats apart, please report"
    return Point("log joint", False, worst, limit, text)


def _of_some(sample: Sample | None) -> str:
    return "" if sample is None else f", over {' + '.join(f'{len(m):,}' for m in sample.members)} members"


def _nats_apart(reference: float, derived: float) -> float:
    """How far two log densities are apart; two that are impossible are the same, and no number is like no other."""
    if derived == reference or (not np.isfinite(reference) and derived <= IMPOSSIBLE):
        return 0.0
    apart = abs(derived - reference)
    return apart if np.isfinite(apart) else np.inf


def as_it_stands(plan: Plan, theta: Mapping[str, np.ndarray], seed: int = 0) -> str | None:
    """What the density that PyMC gives the model as written differs by, where that is more than SAME_AS_WRITTEN.

    emppl reads whole-number and single-precision constants as doubles, and PyMC computes with what they are.
    """
    if _agrees_as_written(plan, theta, DRAWS, seed) is not None:
        return None
    structure, written = plan.structure, _written_logp(plan, DRAWS, seed)
    reference = _model_logp(plan, _key(plan, "_model_logp_True") in structure.__dict__, DRAWS, seed)
    u = reference.coordinates.unconstrain(dict(theta) | dict(plan.frozen))
    (values,) = _assignments(structure, np.random.default_rng(seed), 1) if reference.sample is None else ({},)
    for point in _check_points(plan, reference.coordinates, u):
        parts = _inputs_at(structure, reference.coordinates, point) | values
        with np.errstate(all="ignore"):
            try:
                double, single = (one.by_draw(parts)[0][0] for one in (reference, written))
            except Exception:  # impossible parameters raise what the distribution likes to
                continue
        if not np.isfinite(double) or double <= IMPOSSIBLE:
            continue
        apart = _nats_apart(double, single)
        how = "is not a number" if np.isnan(single) else f"is {apart:.1e} nats off{_of_some(reference.sample)}"
        read = "constants that are whole numbers or in single precision are read as doubles here"
        return f"{read}: as the model is written, model.logp {how}" if apart > SAME_AS_WRITTEN else None
    return None


def _inputs_at(structure: Structure, coordinates: Coordinates, point: np.ndarray) -> dict[str, np.ndarray]:
    """What PyMC's density takes for the parameters: as they are where the user turned their transform off."""
    here = coordinates.constrain(point)
    plain = {n.name for n in coordinates.parameters if structure.model.rvs_to_transforms.get(n.rv) is None}
    return coordinates.split(point) | {name: here[name] for name in plain}


def _assignments(structure: Structure, rng: np.random.Generator, draws: int) -> list[Theta]:
    """Random values of the latents that stand in the model, `draws` times; once nothing where there are none."""
    explicit = [node for node in structure.latents if not node.implicit]
    return [{node.name: _random_values(node, rng) for node in explicit} for _ in range(draws if explicit else 1)]


def _random_values(latent: Node, rng: np.random.Generator) -> np.ndarray:
    assert latent.support is not None  # every latent has one
    return rng.choice(latent.support, size=latent.shape).astype(latent.value.dtype)


def _derived_log_joint(plan: Plan, theta: Theta, assigned: Theta) -> float:
    """Our log joint at assigned latents: the E-step's own arrays, with all other configurations masked out."""
    masks = label_masks(plan.structure, {name: np.ma.masked_array(v) for name, v in assigned.items()})
    return _log_joint_of(plan, plan.engine.clamped(masks), theta)


def _derived_of_sample(plan: Plan, theta: Theta, sample: Sample, draw: int) -> float:
    """The same of some members, in the configurations of one draw."""
    engine = plan.engine.of_members(sample.members)
    return _log_joint_of(plan, engine.clamped(sample.masks(plan.structure, draw)), theta)


def _log_joint_of(plan: Plan, engine: EStep, theta: Theta) -> float:
    structure = plan.structure
    posterior = engine(structure.coordinates.arguments(theta), hard=False)
    if plan.estimate == "map" and not structure.frozen:  # the plan drops no prior
        return posterior.log_likelihood + posterior.log_prior
    return posterior.log_likelihood + whole_log_prior(structure)(theta)


@dataclass(frozen=True, eq=False)
class _Reference:
    """PyMC's log density at values of its inputs by name: of all members, or of a sample at its configurations."""

    function: Any
    order: list[str]
    coordinates: Coordinates
    sample: Sample | None
    rewritten: bool

    def __call__(self, parts: Mapping[str, np.ndarray]) -> tuple[float, float]:
        """The log density and the sum of its terms' sizes."""
        return self.by_draw(parts)[0]

    def by_draw(self, parts: Mapping[str, np.ndarray]) -> list[tuple[float, float]]:
        """The same for each draw of the sample, one of all members."""
        with np.errstate(all="ignore"):
            total, sizes = (np.atleast_1d(v) for v in self.function(*[parts[name] for name in self.order]))
        return [(float(t), float(s)) for t, s in zip(total, sizes)]


def _key(plan: Plan, name: str) -> str:
    """Where a structure keeps what was compiled; plans whose members can be taken alone may look at some of them."""
    return f"{name}_{plan.engine.has_members_alone}"


def _model_logp(plan: Plan, rewritten: bool, draws: int, seed: int) -> _Reference:
    """PyMC's log density, constants in double, compiled once a structure."""
    structure, key = plan.structure, _key(plan, f"_model_logp_{rewritten}")
    if key not in structure.__dict__:
        inputs, terms = _terms_in_double(structure)
        structure.__dict__[key] = _reference(plan, inputs, terms, rewritten, draws, seed)
    found: _Reference = structure.__dict__[key]
    return found


def _reference(
    plan: Plan, inputs: dict[str, Any], terms: list[Any], rewritten: bool, draws: int, seed: int
) -> _Reference:
    structure = plan.structure
    coordinates = structure.coordinates
    if structure.frozen:
        coordinates = analyse(structure.model, support=structure.support_given).coordinates
    sample = sample_of(structure, draws, seed) if plan.engine.has_members_alone else None
    along: list[tuple[Any, tuple[int, ...] | None]] = [(term, None) for term in terms]
    if sample is not None:
        at = _inputs_at(structure, coordinates, np.zeros(coordinates.size))
        try:
            with building():
                along = sample.rows(structure, terms, inputs, at)
            inputs = {name: inputs[name] for name in at}
        except CannotRestrict:
            sample = None
    graphs = [_total([t.sum(axis) for t, axis in along]), _total([pt.abs(t).sum(axis) for t, axis in along])]
    function = compile_graph(list(inputs.values()), graphs, optimise=rewritten)
    return _Reference(function, list(inputs), coordinates, sample, rewritten)


def _written_logp(plan: Plan, draws: int, seed: int) -> _Reference:
    """PyMC's log density with its constants as written, once a structure."""
    structure, key = plan.structure, _key(plan, "_written_logp")
    if key not in structure.__dict__:
        structure.__dict__[key] = _reference(plan, *_terms(structure), False, draws, seed)
    found: _Reference = structure.__dict__[key]
    return found


def _terms(structure: Structure) -> tuple[dict[str, Any], list[Any]]:
    """The terms of `model.logp` as written, as graphs of {name: value variable}, built once a structure.

    Data stay open: what is compared is the model as it is when it is asked.
    """
    key = "_model_terms"
    if key not in structure.__dict__:
        variables = [*structure.model.basic_RVs, *structure.model.potentials]
        structure.__dict__[key] = _log_densities(structure, {v: v for v in variables})
    return structure.__dict__[key]


def _terms_in_double(structure: Structure) -> tuple[dict[str, Any], list[Any]]:
    """The same with all constants in double."""
    with building():
        doubles = structure.__dict__.get("_doubles") or model_in_double(structure.model)
    is_new = any(new is not old for old, new in doubles.items())
    inputs, terms = _log_densities(structure, doubles) if is_new else _terms(structure)
    with building():
        shared = [v for v in graph_inputs(terms) if isinstance(v, SharedVariable)]
        return inputs, in_double(terms, numbers=True, data=shared)


def _log_densities(structure: Structure, variables: Mapping[Any, Any]) -> tuple[dict[str, Any], list[Any]]:
    """The terms of `model.logp` without Jacobian, of {variable of the model: what stands in for it}."""
    model = structure.model
    kept = [rv for rv in model.free_RVs if rv.name not in structure.dropped]
    values = {variables[rv]: value for rv, value in model.rvs_to_values.items()}
    transforms = {variables[rv]: transform for rv, transform in model.rvs_to_transforms.items()}
    with building():
        terms = transformed_conditional_logp(
            [variables[rv] for rv in [*kept, *model.observed_RVs]],
            rvs_to_values=values, rvs_to_transforms=transforms, jacobian=False,
        )  # fmt: skip
        potentials = [variables[potential] for potential in model.potentials]
        terms += replace_rvs_by_values(potentials, rvs_to_values=values, rvs_to_transforms=transforms)
    return {rv.name: model.rvs_to_values[rv] for rv in kept}, terms


def _total(sums: list[Any]) -> Any:
    """What sums come to together: one number, or one a draw where some are [draws]."""
    numbers = [s.astype("float64") for s in sums if s.type.ndim == 0]
    by_draw = [s.astype("float64") for s in sums if s.type.ndim]
    return sum(by_draw, pt.stack(numbers).sum() if numbers else pt.constant(0.0))


def gradient_agrees(plan: Plan, u: np.ndarray, seed: int = 0, possible: bool = False) -> Point:
    """(2) The Fisher gradient equals autodiff of the enumerated log posterior (a log-sum-exp graph) on a subsample.

    possible: leave out entries that are impossible whatever theta is, which takes longer and is rarely needed.
    """
    structure, coordinates = plan.structure, plan.structure.coordinates
    if not structure.plates or not coordinates.size:
        return Point("gradient", True, 0.0, 1e-8, "nothing is summed out: the gradient is that of the graph itself")
    if sum(len(tied.steps) for tied in structure.eliminations) > LONG:
        return _gradient_by_differences(plan, u, seed)
    rng = np.random.default_rng(seed)
    slope, chosen = _enumerated_slope(plan, rng, possible)
    nudge = 0.05 * rng.normal(size=len(u))  # off the mode, where both would simply be zero
    limit = 1e-8
    for rewritten in (False, True):  # as it stands it is ready ten times as soon; rewritten it keeps more digits
        gradient = compile_graph([coordinates.vector], slope, optimise=rewritten)
        for point in _check_points(plan, coordinates, u)[: None if rewritten else 1]:
            with np.errstate(all="ignore"):
                by_graph = np.asarray(gradient(coordinates.raw(point + nudge))) * coordinates.width
                by_fisher = _fisher_gradient(plan, point + nudge, chosen)
            if np.isfinite(by_graph).all():
                break
        worst = float(np.abs(by_graph - by_fisher).max()) / max(1.0, float(np.abs(by_graph).max()))
        if worst <= limit:
            break
    if not np.isfinite(by_graph).all():  # a derivative of zero times infinity somewhere on the way
        return _gradient_by_differences(plan, u, seed) if possible else gradient_agrees(plan, u, seed, possible=True)
    text = f"by Fisher's identity equals autodiff of the log-sum-exp graph to {worst:.1e} (relative)"
    return Point("gradient", bool(worst <= limit), worst, limit, text)


@building()
def _enumerated_slope(plan: Plan, rng: np.random.Generator, possible: bool) -> tuple[Any, list[np.ndarray]]:
    """The gradient of the enumerated log posterior of a subsample, as a graph; the members [..] of each plate in it."""
    coordinates = plan.structure.coordinates
    value, chosen = plan.engine.some_log_likelihood(
        [entry.factor for entry in plan.factors], plan.expected.etas, plan.expected.tables, rng, possible
    )
    value = plan.expected.direct + value
    (value,) = substitute([value], dict(zip(coordinates.values, coordinates.graphs.values())))
    return pytensor.grad(value, coordinates.vector, disconnected_inputs="ignore"), chosen


def _gradient_by_differences(plan: Plan, u: np.ndarray, seed: int) -> Point:
    """The same for models whose log-sum-exp has no usable derivative: along random directions, by differences."""
    rng = np.random.default_rng(seed)
    coordinates, worst = plan.structure.coordinates, 0.0
    point = coordinates.off_the_border(u, INSIDE) + 0.05 * rng.normal(size=len(u))
    _, gradient, _ = plan.gradient(point)
    for _ in range(3):
        direction = rng.normal(size=len(u))
        direction /= np.linalg.norm(direction)

        def slope(h: float, d: np.ndarray = direction) -> float:
            up, down = (plan.e_step(coordinates.constrain(point + s * h * d)).objective for s in (1.0, -1.0))
            return (up - down) / (2.0 * h)

        by_differences = (4.0 * slope(1e-4) - slope(2e-4)) / 3.0  # Richardson's extrapolation
        along = float(gradient @ direction)
        worst = max(worst, abs(by_differences - along) / max(1.0, float(np.linalg.norm(gradient))))
    limit = 1e-5
    text = f"by Fisher's identity equals differences of the log posterior to {worst:.1e} (relative)"
    return Point("gradient", bool(worst <= limit), worst, limit, text)


def _fisher_gradient(plan: Plan, u: np.ndarray, chosen: list[np.ndarray]) -> np.ndarray:
    """Gradient [P] of the log posterior of the chosen members of each plate, as the M-step's own expected log joint."""
    if plan.engine.has_members_alone:
        some = plan.engine.of_members(chosen)
        theta = plan.structure.coordinates.constrain(u)
        posterior = some(plan.structure.coordinates.arguments(theta), keep=True, hard=False)
        return plan.expected(u, posterior, tuple(None for _ in chosen))[1]
    posterior = plan.e_step(plan.structure.coordinates.constrain(u), keep=True, hard=False)
    return plan.expected(u, plan.engine.only(posterior, chosen), tuple(None for _ in chosen))[1]


def monotone(largest_fall: float, n_iter: int, collapsed: bool = False) -> Point:
    """(3) No step fell by more than rounding. collapsed: towards a spread of zero, where rounding knows no limit."""
    text = (
        f"no step of {n_iter} fell"
        if largest_fall <= 0
        else f"largest fall {largest_fall:.1e} (relative), which is rounding"
    )
    if largest_fall > 1e-9:
        blame = "the collapse has cost the digits" if collapsed else "an E-step or M-step rule is wrong, please report"
        text = f"a step fell by {largest_fall:.1e} (relative): {blame}"
    return Point("ascent", largest_fall <= 1e-9, largest_fall, 1e-9, text)


def is_maximum(plan: Plan, information: Information, tol: float) -> Point:
    """(4) The gain left by Newton's decrement and the smallest curvature: maximum, saddle, border or not identified."""
    left, curvature = information.decrement, information.smallest_curvature
    border = border_names(plan, information)
    where = f"; on the border: {', '.join(border)}" if border else ""
    corner = _names_at(plan, information.corners)
    where += f"; at a corner of the density, without standard error: {', '.join(corner)}" if corner else ""
    lost = _names_at(plan, information.lost)
    where += f"; too far from zero, or too near a border, for a standard error: {', '.join(lost)}" if lost else ""
    if not information.is_maximum:
        direction = direction_in_words(plan, information.direction(0))
        return Point(
            "maximum", False, curvature, 0.0, f"a saddle: the objective rises along {direction}; use other starts"
        )
    if left > max(tol, 1e-6) and _is_barred(plan, information):
        text = (
            f"stopped at a wall: {left:.2g} nats are to be gained on a way on which the density falls to zero at once, "
            "and no search goes along what the density alone tells; write the bound as a transform or pm.Truncated"
            f"{where}"
        )
        return Point("maximum", False, left, tol, text)
    if left > max(tol, 1e-6):
        return Point("maximum", False, left, tol, f"{left:.2g} nats are still to be gained: raise max_iter{where}")
    flat = [d for d in information.flat_directions if moves(plan, information.u, d)]
    if flat:
        words = [direction_in_words(plan, d) for d in flat]
        directions = " and ".join(list(dict.fromkeys(words))[:3])
        text = f"a maximum, but not a single one: the data do not tell apart {directions}{where}"
        return Point("maximum", False, curvature, FLAT_CURVATURE, text)
    return Point(
        "maximum", True, left, max(tol, 1e-6), f"a local maximum: {left:.1e} nats left by Newton's decrement{where}"
    )


def _is_barred(plan: Plan, information: Information) -> bool:
    """Whether the Newton step leads to where nothing is possible, however much of it is taken."""
    coordinates, step = plan.structure.coordinates, information.step()
    points = (coordinates.constrain(information.u + share * step) for share in (1.0, 0.1, 0.01))
    with np.errstate(all="ignore"):
        return not any(np.isfinite(plan.e_step(point).objective) for point in points)


def border_names(plan: Plan, information: Information) -> list[str]:
    """Parameters with an element on the border of its domain (a weight of 0, a probability of 1)."""
    return _names_at(plan, information.on_border)


def _names_at(plan: Plan, chosen: np.ndarray) -> list[str]:
    """Parameters with a coordinate among the chosen [P]."""
    coordinates = plan.structure.coordinates
    return [n.name for n in coordinates.parameters if chosen[coordinates.slices[n.name]].any()]


def moves(plan: Plan, u: np.ndarray, direction: np.ndarray) -> bool:
    """Whether theta changes along a direction [P]; close to a border the log of a small weight moves nothing else."""
    coordinates = plan.structure.coordinates
    if np.abs(direction[~coordinates.transformed]).max(initial=0.0) > STILL:
        return True
    point, h = coordinates.inside(u, 2 * BORDER), 1e-3
    up, down = (coordinates.constrain(point + s * h * direction) for s in (1.0, -1.0))
    for node in coordinates.parameters:
        change = np.abs(up[node.name] - down[node.name]).max(initial=0.0) / (2 * h)
        if change > STILL * np.abs(up[node.name]).max(initial=0.0):
            return True
    return False


def direction_in_words(plan: Plan, direction: np.ndarray) -> str:
    """A direction [P] over the coordinates, by the parameters that it moves most."""
    coordinates = plan.structure.coordinates
    direction = direction / max(float(np.linalg.norm(direction)), 1e-300)
    share = {n.name: float(np.linalg.norm(direction[coordinates.slices[n.name]])) for n in coordinates.parameters}
    moved = sorted((name for name, size in share.items() if size > 0.1), key=lambda name: -share[name])
    return " with ".join(moved) or "no parameter"


def _check_points(plan: Plan, coordinates: Coordinates, u: np.ndarray) -> list[np.ndarray]:
    """Where the checks evaluate: at the fit, else ever nearer to the start of the prior, where densities are numbers.

    A slope that runs off makes probabilities of exactly zero, in which any two formulas agree or none.
    """
    near = coordinates.unconstrain(initial_point(plan.structure) | dict(plan.frozen))
    inside = coordinates.off_the_border(u, INSIDE)
    return [inside + t * (near - inside) for t in (0.0, 0.5, 0.9, 0.99, 1.0)]


def starts_agree(found: Agreement) -> Point:
    """(5) How many starts reached this mode, and whether the others say that a better one may have been missed."""
    reached, total = found.reached, found.total
    text = f"reached by {reached} of {total} start{'s' if total != 1 else ''}"
    if found.left or found.joined:
        text += " carried to their end"
    if found.joined:
        text += f", {found.joined} of them as far as where another one went on from"
    if found.left:
        text += f", while {found.left} {'were' if found.left > 1 else 'was'} left behind"
    if found.others:
        number, lowest = len(found.others), max(found.others)
        many = f"{number} other modes found, {min(found.others):.2g} to {lowest:.2g} nats lower"
        text += f"; {many if number > 1 else f'1 other mode found, {lowest:.2g} nats lower'}"
    if found.is_scattered:
        text += (
            f"; an estimated {found.unseen:.0%} of random starts would end in a mode not seen yet: raise `starts`, or "
            "give a start near what you expect"
        )
        return Point("starts", False, found.unseen, UNSEEN_LIMIT, text)
    if not found.holds:
        text += ": raise `starts` until the best mode is found more than once"
    return Point("starts", found.holds, float(reached), 2.0 if total > 1 else 1.0, text)
