"""Evidence that a fit is what it says: each point with its number, its limit and a sentence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt

from emppl.ascent.agreement import UNSEEN_LIMIT, Agreement
from emppl.compiling import FEW, building, compile_graph, substitute
from emppl.estep.elimination import tied_log_likelihood
from emppl.estep.known import label_masks
from emppl.estep.tables import elements_of, sampled_table
from emppl.inference.information import BORDER, FLAT_CURVATURE, Information
from emppl.planner import Plan
from emppl.structure import analyse
from emppl.structure.coordinates import Coordinates
from emppl.structure.initial import initial_point
from emppl.structure.prior import whole_log_prior
from emppl.structure.support import stray_value
from emppl.structure.types import Node, Structure

Theta = dict[str, np.ndarray]
SUBSAMPLE = 400  # densities that the check of the gradient may cost; beyond it members are drawn at random
IMPOSSIBLE = -1e100  # a log density below this stands for minus infinity
LONG = 40  # steps of elimination beyond which their graph takes longer to build than to check by differences
STILL = 1e-4  # relative change of theta a unit of u below which a direction leads along a border only
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
        return "\n".join(lines + [f"  note  {note}" for note in self.notes])


def log_joint_agrees(plan: Plan, theta: Mapping[str, np.ndarray], draws: int = 3, seed: int = 0) -> Point:
    """(1) At random assignments of the latents, the derived log joint equals PyMC's own `model.logp` (no Jacobian).

    `model.logp` is evaluated as it stands, which is ready ten times as soon; where that does not agree at the fit
    itself it is rewritten for precision, as PyMC does, and has the last word.
    """
    if sum(factor.size for factor in plan.structure.factors) <= FEW:
        try:
            point = _log_joint_agrees(plan, theta, draws, seed, rewritten=False)
        except Exception:  # impossible parameters raise what the distribution likes to; rewritten they are -inf
            point = None
        if point is not None and point.holds:
            return point
    point = _log_joint_agrees(plan, theta, draws, seed, rewritten=True)
    assert point is not None  # only the graph as it stands may be without an answer
    return point


def _log_joint_agrees(
    plan: Plan, theta: Mapping[str, np.ndarray], draws: int, seed: int, rewritten: bool
) -> Point | None:
    structure = plan.structure
    rng = np.random.default_rng(seed)
    function, coordinates, order = _model_logp(structure, rewritten)
    u = coordinates.unconstrain(dict(theta) | dict(plan.frozen))
    explicit = [node for node in structure.latents if not node.implicit]
    draws = draws if explicit else 1
    assigned = [{node.name: _random_values(node, rng) for node in explicit} for _ in range(draws)]
    pairs: list[tuple[float, float]] = []
    for point in _check_points(plan, coordinates, u)[: None if rewritten else 1]:
        here = coordinates.constrain(point)
        # parameters whose transform the user turned off: PyMC takes them as they are
        plain = {n.name for n in coordinates.parameters if structure.model.rvs_to_transforms.get(n.rv) is None}
        inputs = coordinates.split(point) | {name: here[name] for name in plain}
        pairs = []
        for values in assigned:
            parts = inputs | values
            with np.errstate(all="ignore"):
                reference = float(function(*[parts[name] for name in order]))
            pairs.append((reference, _derived_log_joint(plan, here, values)))
        if np.isfinite(pairs).all() and min(min(pair) for pair in pairs) > IMPOSSIBLE:
            break
    else:
        if not rewritten:  # nothing but impossible values: the rewritten graph may know better
            return None
    worst = 0.0
    for reference, derived in pairs:
        same = derived == reference or (not np.isfinite(reference) and not derived > IMPOSSIBLE)
        worst = max(worst, 0.0 if same else abs(derived - reference) / max(1.0, abs(reference)))
    limit = 1e-6 if _has_float32(structure) else 1e-9
    stray = stray_value(structure, structure.coordinates.arguments(here), rng)
    if stray is not None:
        return Point("log joint", False, np.inf, limit, f"{stray}, and is left out of the sum: please report")
    text = f"equals model.logp to {worst:.1e} (relative){' at random assignments of the latents' if explicit else ''}"
    return Point("log joint", bool(worst <= limit), worst, limit, text)


def _random_values(latent: Node, rng: np.random.Generator) -> np.ndarray:
    assert latent.support is not None  # every latent has one
    return rng.choice(latent.support, size=latent.shape).astype(latent.value.dtype)


def _derived_log_joint(plan: Plan, theta: Theta, assigned: Theta) -> float:
    """Our log joint at assigned latents: the E-step's own arrays, with all other configurations masked out."""
    structure, engine = plan.structure, plan.engine
    masks = label_masks(structure, {name: np.ma.masked_array(v) for name, v in assigned.items()})
    posterior = engine.masked(masks)(structure.coordinates.arguments(theta), hard=False)
    if plan.estimate == "map" and not structure.frozen:  # the plan drops no prior
        return posterior.log_likelihood + posterior.log_prior
    return posterior.log_likelihood + whole_log_prior(structure)(theta)


def _model_logp(structure: Structure, rewritten: bool) -> tuple[Any, Coordinates, list[str]]:
    """PyMC's log density, compiled once a structure, with coordinates of all its parameters and its inputs' order."""
    key = f"_model_logp_{rewritten}"
    cached = structure.__dict__.get(key)
    if cached is None:
        model = structure.model
        kept = [rv for rv in model.free_RVs if rv.name not in structure.dropped]
        with building():
            graph = model.logp(vars=[*kept, *model.observed_RVs, *model.potentials], jacobian=False)
        coordinates = structure.coordinates
        if structure.frozen:
            coordinates = analyse(model, support=structure.support_given).coordinates
        function = compile_graph([model.rvs_to_values[rv] for rv in kept], graph, optimise=rewritten)
        cached = (function, coordinates, [rv.name for rv in kept])
        structure.__dict__[key] = cached
    return cached


def _has_float32(structure: Structure) -> bool:
    """Integer literals in priors become float32 constants in PyMC, and then both sides round differently."""
    return any("float32" in str(v.type) for f in structure.factors for v in [f.log_density, *f.params])


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
    limit = 1e-5 if _has_float32(structure) else 1e-8
    for rewritten in (False, True):  # as it stands it is ready ten times as soon; rewritten it keeps more digits
        gradient = compile_graph([coordinates.vector], slope, optimise=rewritten)
        for point in _check_points(plan, coordinates, u)[: None if rewritten else 1]:
            with np.errstate(all="ignore"):
                by_graph, by_fisher = np.asarray(gradient(point + nudge)), _fisher_gradient(plan, point + nudge, chosen)
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
    structure, coordinates = plan.structure, plan.structure.coordinates
    chosen: list[np.ndarray] = []
    value = plan.expected.direct
    if structure.eliminations:
        value = value + tied_log_likelihood(plan)
    for p, plate in enumerate(structure.plates):
        if plate.tied:  # all of it, since its members hang together
            chosen.append(np.arange(plate.size))
            continue
        size = max(1, min(plate.size, SUBSAMPLE // plate.n_configurations))
        rows = np.sort(rng.choice(plate.size, size=size, replace=False))
        entering = [e.factor for e in plan.factors if e.factor.latents and len(elements_of(e.factor, plate)[0])]
        log_joint = sum(sampled_table(structure, factor, plate, rows, possible) for factor in entering)
        mask = plan.engine.plates[p].mask
        if mask is not None:
            log_joint = pt.switch(mask[rows].T, log_joint, -np.inf)
        value = value + pt.logsumexp(log_joint, axis=0).sum()
        chosen.append(rows)
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
    posterior = plan.e_step(plan.structure.coordinates.constrain(u), keep=True, hard=False)
    statistics, kept = [], []
    for whole, rows, plate in zip(posterior.responsibilities, chosen, plan.engine.plates):
        assert whole is not None  # the E-step was asked to keep them
        r = np.zeros_like(whole)
        r[rows] = whole[rows]
        statistics.append(plate.features.weighted(r))
        kept.append(r)
    part = posterior._replace(statistics=tuple(statistics), responsibilities=tuple(kept))
    return plan.expected(u, part, tuple(None for _ in chosen))[1]


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
    if not information.is_maximum:
        direction = direction_in_words(plan, _whole(information, information.spectrum[1][:, 0]))
        return Point(
            "maximum", False, curvature, 0.0, f"a saddle: the objective rises along {direction}; use other starts"
        )
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


def border_names(plan: Plan, information: Information) -> list[str]:
    """Parameters with an element on the border of its domain (a weight of 0, a probability of 1)."""
    coordinates = plan.structure.coordinates
    return [n.name for n in coordinates.parameters if not information.interior[coordinates.slices[n.name]].all()]


def _whole(information: Information, part: np.ndarray) -> np.ndarray:
    """A direction over the interior coordinates as one over all [P]."""
    direction = np.zeros(len(information.u))
    direction[information.interior] = part
    return direction


def moves(plan: Plan, u: np.ndarray, direction: np.ndarray) -> bool:
    """Whether theta changes along a direction [P]; close to a border the log of a small weight moves nothing else."""
    coordinates = plan.structure.coordinates
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
