"""Along the draws: parameters of coordinates, log-likelihoods of observations, latent probabilities, log posterior."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from emppl.compiling import compile_graph
from emppl.estep.along import Passes, term_shapes
from emppl.estep.tables import free_elements
from emppl.interrupts import noticed
from emppl.planner import Plan
from emppl.progress import Watcher
from emppl.sampling.density import traceable
from emppl.sampling.samplers import COORDINATES, Drawn
from emppl.structure.variables import freeze_data
from emppl.unrolled.machine import Untraceable, machine_code

Theta = dict[str, np.ndarray]
BLOCK_NUMBERS = 1 << 18  # log joints of members and configurations that are looked at together
SAME = 1e-9  # relative difference between machine code and the graph that it was made of
SMALL_GROUP = 4e6  # numbers in a `latent` group that comes unasked
TOLD_SECONDS = 1.0  # between two words on how far it is


# -- parameters --------------------------------------------------------------------------------------------------------


def finished_draws(plan: Plan, drawn: Drawn) -> tuple[Theta, xr.Dataset, bool]:
    """({name: [chain, draw, *shape]}, statistics by chain and draw, whether chains were cut short).

    An interrupted sampler leaves the draws that a chain did not make as nan. Chains have one length here: of all
    lengths the one that keeps most draws.
    """
    structure, tree = plan.structure, drawn.tree
    nodes = [*structure.parameters, *structure.deterministics]
    if tree is None or not min(tree["posterior"].sizes.get(dim, 0) for dim in ("chain", "draw")):
        return {node.name: np.empty((0, 0, *node.shape)) for node in nodes}, xr.Dataset(), True
    source = tree["posterior"].to_dataset()
    shape = source.sizes["chain"], source.sizes["draw"]
    if drawn.in_coordinates:
        arrays = {COORDINATES: np.asarray(source[COORDINATES].values, dtype=float)}
    else:
        arrays = {
            node.name: np.asarray(source[node.name].values, dtype=float).reshape(*shape, *node.shape)
            for node in nodes
            if node.name in source
        }
    made = np.ones(shape, dtype=bool)
    for name in [COORDINATES] if drawn.in_coordinates else structure.parameter_names:
        made &= ~np.isnan(arrays[name].reshape(*shape, -1)).any(axis=2)
    lengths = np.where(made.all(axis=1), shape[1], made.argmin(axis=1))
    chains, n_draw = np.arange(shape[0]), shape[1]
    if not made.all():
        order = np.argsort(-lengths, kind="stable")
        kept = int(np.argmax(lengths[order] * (1 + chains)))
        chains, n_draw = np.sort(order[: kept + 1]), int(lengths[order[kept]])
    arrays = {name: values[chains, :n_draw] for name, values in arrays.items()}
    if drawn.in_coordinates:
        found = expanded(plan, arrays[COORDINATES].reshape(len(chains) * n_draw, -1))
        arrays = {name: values.reshape(len(chains), n_draw, *values.shape[1:]) for name, values in found.items()}
    stats = xr.Dataset()
    if "sample_stats" in tree.children:
        every = tree["sample_stats"].to_dataset().isel(chain=chains, draw=slice(0, n_draw))
        stats = every[[name for name in every.data_vars if every[name].dims == ("chain", "draw")]]
    return arrays, stats, not made.all()


def expanded(plan: Plan, u: np.ndarray) -> Theta:
    """Parameters and deterministics {name: [n, *shape]} of coordinates [n, P]."""
    structure, coordinates = plan.structure, plan.structure.coordinates
    shift, width = coordinates.shift, coordinates.width

    def one(u: np.ndarray) -> list[np.ndarray]:
        theta = coordinates.constrain(u)
        return [*theta.values(), *plan.deterministics(theta).values()]

    def traced() -> Callable[..., list[Any]]:
        constrain = traceable(coordinates._backward)
        others = None if plan._deterministics is None else traceable(plan._deterministics)

        def function(u: Any) -> list[Any]:
            theta = constrain(u * width + shift)
            return [*theta, *([] if others is None else others(*theta))]

        return function

    nodes = [*structure.parameters, *structure.deterministics]
    (found,) = _evaluated(one, traced, [(coordinates.size,)], [u], [node.shape for node in nodes], len(u))
    return dict(zip((node.name for node in nodes), found))


def _evaluated(
    one: Callable[..., Sequence[np.ndarray]],
    traced: Callable[[], Callable[..., list[Any]]],
    shapes: Sequence[tuple[int, ...]],
    arrays: Sequence[np.ndarray],
    results: Sequence[tuple[int, ...]],
    block: int,
) -> Iterator[list[np.ndarray]]:
    """A function at arguments [n, *shape] each, as arrays [block, *result], block by block.

    By machine code where that gives the same at the first arguments, else one call after the other.
    """
    n = len(arrays[0]) if arrays else 0
    code = None
    try:
        code = machine_code(traced(), shapes)
        first = code(*(a[0] for a in arrays)) if n else None
        if first is None or not all(
            np.allclose(found, wanted, rtol=SAME, atol=SAME * np.abs(wanted[np.isfinite(wanted)]).max(initial=0.0))
            for found, wanted in zip(first, map(np.asarray, one(*(a[0] for a in arrays))), strict=True)
        ):
            code = None
    except Untraceable:
        pass
    flat = np.concatenate([np.zeros((n, 0)), *(a.reshape(n, -1) for a in arrays)], axis=1) if code else None
    for start in range(0, n, max(1, block)):
        stop = min(start + max(1, block), n)
        if code is not None and flat is not None:
            yield code.along(flat[start:stop])
            continue
        found = [np.empty((stop - start, *shape)) for shape in results]
        for t in range(start, stop):
            for array, value in zip(found, one(*(a[t] for a in arrays)), strict=True):
                array[t - start] = value
        yield found


# -- members -----------------------------------------------------------------------------------------------------------


class Along(NamedTuple):
    """What is known of each of n draws. by_member: {name: ([n, *shape], dims)}; latents {name: [n, *shape, K]}.

    Where it was stopped only the log posterior [n] of the first draws is there.
    """

    by_member: dict[str, tuple[np.ndarray, tuple[str, ...]]]
    latents: Theta
    log_posterior: np.ndarray
    stopped: bool


def along_draws(plan: Plan, flat: Theta, n: int, watcher: Watcher, latents: bool | None) -> Along:
    """Log-likelihoods, latent probabilities and log posterior of draws {name: [n, *shape]}.

    latents: whether probabilities are wanted; None: where they are few.
    """
    structure = plan.structure
    homes = {p: _member_dims(plan, p) for p in plan.engine.of_members_alone}
    groups = [f"group_{i}" if i else "group" for i in range(len(structure.eliminations))]
    by_member: dict[str, tuple[np.ndarray, tuple[str, ...]]] = {
        name: (np.empty((n, structure.plates[p].size)), dims) for p, (name, dims) in homes.items()
    }
    for name, tied in zip(groups, structure.eliminations):
        by_member[name] = (np.empty((n, tied.size)), (f"{name}_of_tied_latents",))
    direct, elements = _direct_terms(plan)
    by_member |= {name: (np.empty((n, *shape)), dims) for name, (shape, dims) in elements.items()}
    size = sum(node.size * node.n_values for node in structure.latents)
    wanted = n * size <= SMALL_GROUP if latents is None else latents
    probabilities = {node.name: np.empty((n, *node.shape, node.n_values)) for node in structure.latents if wanted}
    log_posterior = np.full(n, np.nan)
    passes = Passes(plan.engine, structure)
    block = max(1, BLOCK_NUMBERS // max(1, passes.numbers))
    spoken = time.monotonic()
    start = 0
    try:
        with noticed():
            for terms in _terms(plan, flat, direct, [shape for shape, _ in elements.values()], block):
                rows = slice(start, start + len(terms[0]))
                done = passes(terms[: passes.n_terms])
                log_posterior[rows] = done.log_posterior
                for p, (name, _) in homes.items():
                    by_member[name][0][rows] = done.by_member[p]
                for name, values in zip(groups, done.by_component):
                    by_member[name][0][rows] = values
                for name, values in zip(elements, terms[passes.n_terms :]):
                    by_member[name][0][rows] = values
                if wanted:
                    for name, values in passes.marginals(done).items():
                        probabilities[name][rows] = values
                start = rows.stop
                if time.monotonic() > spoken + TOLD_SECONDS:
                    spoken = time.monotonic()
                    watcher.say(f"NUTS: log-likelihoods of {start:,}/{n:,} draws")
    except KeyboardInterrupt:
        return Along({}, {}, log_posterior, True)
    return Along(by_member, probabilities, log_posterior, False)


def _terms(
    plan: Plan, flat: Theta, direct: Any, elements: list[tuple[int, ...]], block: int
) -> Iterator[list[np.ndarray]]:
    """What an E-step asks of the parameters, and log densities without latents: arrays [block, …], block by block."""
    coordinates, terms = plan.structure.coordinates, plan.engine.terms
    shapes = [node.shape for node in coordinates.parameters]
    results = term_shapes(plan.engine)

    def one(*theta: np.ndarray) -> list[np.ndarray]:
        arguments = coordinates.arguments(dict(zip(plan.structure.parameter_names, theta)))
        with np.errstate(all="ignore"):
            return [*terms(*arguments), *([] if direct is None else direct(*arguments))]

    def traced() -> Callable[..., list[Any]]:
        of_theta, others = traceable(terms), None if direct is None else traceable(direct)
        return lambda *theta: [*of_theta(*theta), *([] if others is None else others(*theta))]

    arrays = [flat[name] for name in plan.structure.parameter_names]
    return _evaluated(one, traced, shapes, arrays, [*results, (), (), *elements], block)


def _member_dims(plan: Plan, p: int) -> tuple[str, tuple[str, ...]]:
    """Name and dims of a plate's log-likelihood: the observed variable's own where each row is one member."""
    entries = [e for e in plan.factors if e.factor.kind == "observed" and p in e.plates]
    name = "_and_".join(dict.fromkeys(e.factor.variable for e in entries)) or f"members_{p}"
    plate = plan.structure.plates[p]
    if any(len(e.plates) > 1 for e in entries):  # each of its plates has the members of other rows
        name += f"_of_{'_'.join(dict.fromkeys(plate.latents))}"
    for entry in entries:
        node = plan.structure.node(entry.factor.variable)
        axis = entry.form.axis if entry.form is not None else 0
        shape, members = entry.factor.shape, plate.members_of(entry.factor)
        if len(shape) > axis and shape[axis] == plate.size:
            rows = np.moveaxis(members.reshape(shape), axis, 0).reshape(plate.size, -1)
            if (rows == np.arange(plate.size)[:, None]).all():
                return name, (node.dims[axis],)
    return name, (f"{'_'.join(dict.fromkeys(plate.latents))}_member",)


def _direct_terms(plan: Plan) -> tuple[Any, dict[str, tuple[tuple[int, ...], tuple[str, ...]]]]:
    """Log densities of the observations that depend on no latent, as a compiled graph; shape and dims by name."""
    graphs, shapes = [], {}
    for factor in (e.factor for e in plan.factors if e.factor.kind == "observed"):
        if not factor.latents:
            graphs.append(factor.log_density)
            node, n_dims = plan.structure.node(factor.variable), len(factor.shape)
            own = tuple(f"{factor.name}_dim_{axis}" for axis in range(n_dims))
            shapes[factor.name] = factor.shape, node.dims[:n_dims] if node.shape[:n_dims] == factor.shape else own
        elif (free := free_elements(plan.structure, factor)) is not None:
            name, graph, count = f"{factor.name}_without_latent", *free
            graphs.append(graph)
            shapes[name] = (count,), (f"{name}_row",)
    if not graphs:
        return None, {}
    return compile_graph(plan.structure.coordinates.values, freeze_data(graphs)), shapes
