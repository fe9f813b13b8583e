"""Components that collapse, and components that mean nothing: recognised from the family's own parameters."""

from __future__ import annotations

from typing import Any

import numpy as np
from pytensor.graph.traversal import explicit_graph_inputs

from emppl.ascent.spread import graph_spreads
from emppl.compiling import compile_graph
from emppl.errors import DegenerateDataError, InvalidDataError
from emppl.estep.posterior import Posterior
from emppl.inference.information import BORDER, Information
from emppl.rules.tables import family
from emppl.structure.faults import check_covariates, check_priors
from emppl.structure.initial import initial_point

COLLAPSED = 1e-9  # smallest variance in the frame of the data, where all of the data has variance one
VANISHING = 1e-5
NARROW = 1e-3
LOWEST = 60.0  # logs or logits, at which a spread is as small as it can get
EMPTY = 1e-8  # expected members
FEW = 12  # configurations; of the values of a count many stay empty, and nothing follows from it
REMOTE = 1e3  # widths: what has no domain and lies beyond is tried at twice its value
FAR_OUT = 2.0  # widths from zero, from which on a coefficient is asked whether the data are separated along it
FARTHER = (1.0, 3.0, 15.0)  # times as far as it is; at the first a location may have come to other data
ROUNDING = 1e-9
STILL_RISING = 0.01  # nats for each unit of a log or logit, or for a doubling of what has neither


def check_data(plan: Any) -> None:
    """Raise DegenerateDataError where maximum likelihood cannot have an answer.

    That is: constant values, fewer distinct rows than components.
    Only for families with a spread that is itself estimated; a prior (estimate="map") is the way out.
    """
    if plan.estimate != "ml":
        return
    for entry in plan.factors:
        factor, form = entry.factor, entry.form
        rule = family(factor.op) if factor.kind == "observed" and factor.op is not None else None
        if rule is None or rule.narrowness is None or not _can_collapse(plan, entry, rule):
            continue
        axis = form.axis if form is not None else 0
        node = plan.structure.node(entry.factor.variable)
        y = np.moveaxis(np.atleast_1d(np.asarray(factor.value.data, dtype=float)), axis, 0)
        flat = y.reshape(len(y), -1)
        framed_by = plan.structure.frames.get(node.name, y)  # where y is a sample: rows that vary where all rows do
        constant = np.flatnonzero(np.ptp(framed_by.reshape(len(framed_by), -1), axis=0) == 0)
        cure = (
            "estimate='map' with a prior on the spread whose density vanishes at zero",
            "freeze the spread at a known value",
        )
        if len(constant):
            column = f", column {_column_name(plan, node, axis, int(constant[0]))}" if flat.shape[1] > 1 else ""
            rows = f"all {len(y)} rows" if len(y) > 1 else "the only row"
            more = "leave the constant column out" if flat.shape[1] > 1 else "collect more rows"
            raise DegenerateDataError(
                f"{node.name} has the same value, {flat[0, constant[0]]:g}, in {rows}: "
                "its likelihood grows without bound as the spread goes to zero",
                f"observed variable {node.name!r}{column}",
                (more, *cure),
            )
        components = plan.structure.plates[entry.plate].n_configurations if entry.plate is not None else 1
        some = np.linspace(0, len(flat) - 1, min(len(flat), 64 * components)).astype(int)
        if len(np.unique(flat[some], axis=0)) >= components:
            continue
        distinct = len(np.unique(flat, axis=0))
        if distinct < components:
            raise DegenerateDataError(
                f"{node.name} has {distinct} distinct rows, fewer than its {components} components: "
                "each would sit on one value with no spread",
                f"observed variable {node.name!r}",
                ("use fewer components", *cure),
            )


def check_possible(plan: Any) -> None:
    """Raise InvalidDataError naming a covariate that is nan, a prior without room, or what is impossible.

    That is the first latent without probabilities, or the first observation without a density, where the prior begins.
    """
    structure = plan.structure
    check_covariates(structure.factors)
    check_priors(
        structure.factors, structure.coordinates.unscaled, {n.name: n.distribution for n in structure.parameters}
    )
    arguments = structure.coordinates.arguments(initial_point(structure))
    turns = range(max((len(n.support) for n in structure.latents), default=1))
    values = [
        [np.full(n.shape, n.support[k % len(n.support)], n.value.dtype) for n in structure.latents] for k in turns
    ]
    inputs = [*structure.coordinates.values, *[n.value for n in structure.latents]]
    for node in structure.latents:
        own = next((f for f in structure.factors if f.name == node.name and f.latents == (node.name,)), None)
        if own is None:  # it depends on other latents
            continue
        with np.errstate(all="ignore"):
            function = compile_graph(inputs, own.log_density)
            density = np.array([function(*arguments, *latents) for latents in values])
        impossible = np.argwhere(np.isnan(density).any(axis=0) | ~np.isfinite(density).any(axis=0))
        if len(impossible):
            index = tuple(int(i) for i in impossible[0])
            raise InvalidDataError(
                f"{node.name}{list(index) if index else ''} has no probabilities under {node.distribution}",
                f"latent variable {node.name!r}",
                ("give it probabilities from 0 to 1, and rates that are not negative",),
            )
    for node in structure.observed:
        factor = next(f for f in structure.factors if f.name == node.name)
        with np.errstate(all="ignore"):
            function = compile_graph(inputs, factor.log_density)
            density = np.max([function(*arguments, *latents) for latents in values], axis=0)
        impossible = np.argwhere(np.isneginf(density))
        if len(impossible):
            index = tuple(int(i) for i in impossible[0])
            places = ", ".join(f"{d} {structure.coords[d][i]}" for d, i in zip(node.dims, index))
            raise InvalidDataError(
                f"{node.name}[{', '.join(map(str, index))}] = {np.asarray(node.value.data)[index]} has no density "
                f"under {node.distribution}",
                f"observed variable {node.name!r}, {places}",
                ("correct the value, or mask it: np.ma.masked_invalid / np.ma.masked_equal",),
            )


def _can_collapse(plan: Any, entry: Any, rule: Any) -> bool:
    """Whether a spread is estimated, and its range ends no sooner than what counts as zero."""
    graphs = [graph for name, graph in zip(rule.parameters, entry.factor.params) if name != "mu"]
    inputs = set(explicit_graph_inputs(graphs))
    coordinates = plan.structure.coordinates
    own = [node for node in coordinates.parameters if node.value in inputs]
    if not own or entry.form is None or entry.form.plate is None or entry.form.family.narrowness is None:
        return bool(own)
    least = np.inf
    for end in (-LOWEST, LOWEST):
        u = coordinates.unconstrain(initial_point(plan.structure))
        for node in own:
            part = coordinates.slices[node.name]
            u[part] = np.where(coordinates.transformed[part], end, u[part])
        arguments = coordinates.arguments(coordinates.constrain(u))
        with np.errstate(all="ignore"):
            variance = entry.form.family.narrowness(_framed(plan, entry)(*arguments))
        least = min(least, float(np.nan_to_num(np.min(variance), nan=0.0)))
    return least < COLLAPSED


def _framed(plan: Any, entry: Any) -> Any:
    """theta → the parameters of a factor's family in the frame of its data, by name."""
    form = entry.form
    graphs = form.family.into_frame(form.frame, *form.params.values())
    function = compile_graph(plan.structure.coordinates.values, list(graphs), optimise=False)
    return lambda *arguments: dict(zip(form.params, function(*arguments)))


def _column_name(plan: Any, node: Any, axis: int, column: int) -> str:
    sizes = [n for a, n in enumerate(node.shape) if a != axis]
    dims = [d for a, d in enumerate(node.dims) if a != axis]
    place = np.unravel_index(column, sizes)
    return ", ".join(f"{d} {plan.structure.coords[d][i]}" for d, i in zip(dims, place))


def _small_parameters(plan: Any) -> list[tuple[Any, Any]]:
    """(factor plan, theta → framed parameters by name) for families that can collapse; compiled once a plan.

    A spread that is a known number cannot, however small it is beside the data's, nor one that is bounded from below.
    """
    cached = plan.__dict__.get("_small_parameters")
    if cached is None:
        cached = []
        for entry in plan.factors:
            form = entry.form
            if (
                form is not None
                and form.family is not None
                and form.family.narrowness is not None
                and form.plate is not None
                and _can_collapse(plan, entry, form.family)
            ):
                cached.append((entry, _framed(plan, entry)))
        plan.__dict__["_small_parameters"] = cached
    return cached


def spreads(plan: Any, theta: dict[str, np.ndarray]) -> list[tuple[Any, np.ndarray]]:
    """For each family whose spread is estimated: its smallest variance by cell, relative to the data's. [J × slots]"""
    arguments = plan.structure.coordinates.arguments(theta)
    with np.errstate(all="ignore"):
        return [
            (entry, np.asarray(entry.form.family.narrowness(framed(*arguments))))
            for entry, framed in _small_parameters(plan)
        ]


def collapse(plan: Any, theta: dict[str, np.ndarray], posterior: Posterior | None) -> str | None:
    """Which component has collapsed, in words; None if all is well."""
    for entry, variance in spreads(plan, theta):
        if (variance < COLLAPSED).any():
            cell = int(np.argmin(variance))
            held = ""
            if posterior is not None:
                count = entry.form.cell_statistics(posterior.statistics[entry.plate][:, entry.columns])[cell, 0]
                held = f" and holds {count:.4g} effective observations"
            return f"{component_name(plan, entry, cell)} of {entry.factor.name} has collapsed to a spread of zero{held}"
    arguments = plan.structure.coordinates.arguments(theta)
    for spread in graph_spreads(plan):
        if (spread.variances(arguments) < COLLAPSED).any():
            return f"{spread.name(plan, theta)} has collapsed to zero"
    return None


def is_vanishing(plan: Any, theta: dict[str, np.ndarray]) -> bool:
    """Whether a spread is so small that densities around it have lost their digits."""
    arguments = plan.structure.coordinates.arguments(theta)
    variances = [variance for _, variance in spreads(plan, theta)]
    variances += [spread.variances(arguments) for spread in graph_spreads(plan)]
    return any((variance < VANISHING).any() for variance in variances)


def narrowest(plan: Any, theta: dict[str, np.ndarray]) -> str:
    """The component with the smallest spread, in words: what was collapsing when the objective left the numbers."""
    arguments = plan.structure.coordinates.arguments(theta)
    found = [
        (float(variance.min()), f"{component_name(plan, entry, int(np.argmin(variance)))} of {entry.factor.name}")
        for entry, variance in spreads(plan, theta)
    ] + [(float(spread.variances(arguments).min()), spread.name(plan, theta)) for spread in graph_spreads(plan)]
    if not found:
        return "the objective stopped being finite"
    variance, name = min(found)
    return f"{name} was collapsing (spread {np.sqrt(max(variance, 0.0)):.2g} of the data's)"


def runs_off(plan: Any, theta: dict[str, np.ndarray], information: Information | None = None) -> str | None:
    """A parameter towards whose border (zero, one, infinity) the objective still rises: it has no maximum there."""
    coordinates = plan.structure.coordinates
    u = coordinates.unconstrain(theta)
    far = ~coordinates.transformed & (np.abs(u) > REMOTE)
    for node in coordinates.parameters:
        part = np.zeros(len(u), bool)
        part[coordinates.slices[node.name]] = True
        if (part & far).any():
            points = (coordinates.constrain(v) for v in (u, np.where(part & far, 2 * u, u)))
            here, beyond = (plan.e_step(point).objective for point in points)
            if beyond - here > STILL_RISING + ROUNDING * abs(here):
                return f"{node.name} runs to infinity, and the objective still rises on the way"
    far = coordinates.transformed & ~coordinates.interior(u, BORDER)
    if not far.any():
        return separated(plan, theta, information)
    at = coordinates.off_the_border(u, 2 * BORDER)
    at = np.where(far, np.clip(at, -2 * BORDER, 2 * BORDER), at)
    slope = plan.gradient(at)[1]
    still = far & (slope * np.sign(u) > STILL_RISING)
    for node in coordinates.parameters:
        if still[coordinates.slices[node.name]].any():
            return f"{node.name} runs to the border of its domain, and the objective still rises on the way"
    return separated(plan, theta, information)


def separated(plan: Any, theta: dict[str, np.ndarray], information: Information | None = None) -> str | None:
    """A coefficient without a finite best value, in words: fitted values that lie at their border hold it no more.

    Tried along the directions in which the curvature says nothing, and along each coefficient that is large: twice as
    far and farther the objective is no lower, and nearer to zero it falls. Not those that have a closed form, means of
    the data.
    """
    coordinates = plan.structure.coordinates
    u = coordinates.unconstrain(theta)
    if not np.isfinite(u).all():
        return None
    directions = [] if information is None else list(information.flat_directions)
    from_zero = coordinates.raw(u) / coordinates.width
    means = {name for block in plan.blocks if block.update.is_exact for name in block.parameters}

    def objective(v: np.ndarray) -> float:
        return float(plan.e_step(coordinates.constrain(v)).objective)

    for node in coordinates.parameters:
        if node.name in means:
            continue
        part = np.zeros(len(u))
        part[coordinates.slices[node.name]] = from_zero[coordinates.slices[node.name]]
        if node.transform is None and np.abs(part).max(initial=0.0) > FAR_OUT:
            directions += [part, *(np.where(np.arange(len(u)) == i, part, 0.0) for i in np.flatnonzero(part))]
    here = None
    for direction in directions:
        direction = np.where(coordinates.transformed, 0.0, direction)
        length = float(np.linalg.norm(direction))
        if length < 0.1:  # it moves logs and logits alone
            continue
        way = direction / length * float(direction @ from_zero) / length  # as far as u itself goes this way
        here = objective(u) if here is None else here
        slack = ROUNDING * max(1.0, abs(here))
        if any(objective(u + times * way) < here - slack for times in FARTHER):
            continue
        if any(objective(u - share * way) < here - max(1e-3, slack) for share in (0.5, 0.75, 0.9, 1.0)):
            name = _element_name(plan, int(np.argmax(np.abs(way))))
            return (
                f"{name} runs to infinity: the data are separated along it, so that fitted values lie at their border, "
                "and a prior on it is the cure"
            )
    return None


def _element_name(plan: Any, place: int) -> str:
    """The user's name of one unconstrained coordinate: slope[age]."""
    coordinates = plan.structure.coordinates
    node = next(n for n in coordinates.parameters if place in range(*coordinates.slices[n.name].indices(10**9)))
    if not node.shape:
        return node.name
    index = np.unravel_index(place - coordinates.slices[node.name].start, node.shape)
    return f"{node.name}[{', '.join(str(plan.structure.coords[d][i]) for d, i in zip(node.dims, index))}]"


def collapsed_on_ties(plan: Any, theta: dict[str, np.ndarray]) -> int:
    """How many identical rows the narrowest component sits on; 0 if its members are not all equal."""
    posterior = plan.e_step(theta, keep=True, hard=False)
    for entry, variance in spreads(plan, theta):
        slots = len(variance) // plan.structure.plates[entry.plate].n_configurations
        configuration = int(np.argmin(variance)) // max(slots, 1)
        held = posterior.responsibilities[entry.plate][:, configuration] > 0.5
        rows = np.flatnonzero(held[entry.form.members])
        y = np.moveaxis(np.asarray(entry.factor.value.data), entry.form.axis, 0)[rows]
        if len(rows) > 1 and variance.min() < NARROW and np.ptp(y.reshape(len(y), -1), axis=0).max() == 0:
            return len(rows)
    return 0


def spurious(plan: Any, theta: dict[str, np.ndarray], posterior: Posterior) -> str | None:
    """A component on a handful of nearly equal observations: a maximum of the likelihood, but not of interest."""
    for entry, variance in spreads(plan, theta):
        statistics = entry.form.cell_statistics(posterior.statistics[entry.plate][:, entry.columns])
        d = entry.form.factor.value.data.shape[-1] if entry.form.family.name == "MvNormal" else 1
        # cells of one spread, as of one that all components share, have all of their observations to go by
        _, same = np.unique(variance, return_inverse=True)
        held = np.bincount(same.ravel(), weights=statistics[:, 0])[same.ravel()]
        bad = (variance < NARROW) & (held < 5 * (d + 1)) & (statistics[:, 0] > 0.5)
        if bad.any():
            cell = int(np.flatnonzero(bad)[0])
            name = component_name(plan, entry, cell)
            return (
                f"{name} of {entry.factor.name} holds {statistics[cell, 0]:.3g} observations "
                f"with {np.sqrt(variance[cell]):.2g} of the spread of the data"
            )
    return None


def narrow(plan: Any, theta: dict[str, np.ndarray], posterior: Posterior) -> str | None:
    """A component far narrower than the data, though on many observations: worth a look."""
    for entry, variance in spreads(plan, theta):
        if len(variance) > 1 and (variance < 0.02).any() and variance.min() < 0.1 * np.median(variance):
            cell = int(np.argmin(variance))
            statistics = entry.form.cell_statistics(posterior.statistics[entry.plate][:, entry.columns])
            name = component_name(plan, entry, cell)
            return (
                f"{name} of {entry.factor.name} is narrow: {np.sqrt(variance[cell]):.2g} of the "
                f"spread of the data in one direction, on {statistics[cell, 0]:.4g} observations"
            )
    return None


def empty(plan: Any, posterior: Posterior) -> str | None:
    """A configuration of the latents that no member takes."""
    for plate, counts in zip(plan.structure.plates, posterior.counts):
        if 1 < len(counts) <= FEW and (counts < EMPTY).any():
            j = int(np.argmin(counts))
            values = ", ".join(f"{n} = {v}" for n, v in zip(plate.latents, plate.configurations[j]))
            return f"no member has {values}"
    return None


def component_name(plan: Any, entry: Any, cell: int) -> str:
    """The user's name of the component that a cell (configuration × slot) belongs to."""
    plate = plan.structure.plates[entry.plate]
    cells = next(iter(entry.form.params.values())).type.shape[0]
    slots = cells // plate.n_configurations
    configuration = plate.configurations[cell // slots]
    names = []
    for name, value in zip(plate.latents, configuration):
        node = plan.structure.node(name)
        label = node.labels[int(np.flatnonzero(node.support == value)[0])]
        names.append(f"{name} = {label}")
    return "component " + ", ".join(names)
