"""Draws from the same model by NUTS: the discrete latents summed out by the E-step's engine, the gradient by Fisher."""

from __future__ import annotations

import logging
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from difflib import get_close_matches
from inspect import signature
from typing import Any, NamedTuple

import numpy as np
import pymc as pm
import pytensor.tensor as pt
import xarray as xr
from pytensor.graph.replace import clone_replace, graph_replace
from pytensor.graph.traversal import graph_inputs
from pytensor.tensor.random.type import RandomType

from emppl.arguments import Seed, as_seed, as_whole, unknown_keyword
from emppl.ascent.result import Fit
from emppl.ascent.starts import start_point
from emppl.chainstarts import ModeStarts, mode_starts
from emppl.compiling import building, compile_graph, interpreted_mode, uncompiled
from emppl.concurrency import quiet
from emppl.errors import InvalidArgumentError, SamplerError, UnsupportedModelError
from emppl.estep import elimination
from emppl.estep.marginal import marginal_log_likelihood, members, register
from emppl.estep.tables import free_elements
from emppl.inference.information import observed_information
from emppl.interrupts import noticed
from emppl.kernels.caching import checked_caches
from emppl.kernels.threads import one_blas_thread
from emppl.planner import Plan
from emppl.planner import plan as make_plan
from emppl.progress import Watcher, watching
from emppl.structure.constants import in_double
from emppl.structure.types import Structure
from emppl.structure.variables import freeze_data

log = logging.getLogger("emppl")
Theta = dict[str, np.ndarray]
POTENTIAL = "marginal_log_likelihood"
LARGEST_GROUP = (
    3e7  # numbers in a group of draws; a larger `latent` group is left out and recomputed where it is needed
)
LONGEST_REASON = 160  # characters of an error in a warning
TOLD_SECONDS = 0.1  # between two events of a sampler
START_SPREAD = 0.5  # standard deviation, unconstrained, of the noise on each chain's start


def sample(
    model: Any,
    *,
    fit: Fit | None = None,
    draws: int = 1000,
    tune: int = 1000,
    chains: int = 4,
    seed: Seed = None,
    progress: bool | Callable[[dict[str, Any]], None] | None = None,
    cores: int | None = None,
    sampler: str = "auto",
    init: str = "random",
    **nuts_options: Any,
) -> xr.DataTree:
    """Posterior draws of the model's parameters by NUTS, with its discrete latents summed out.

    model: a pm.Model, a Plan or a Fit (priors are always kept: draws from a likelihood alone need not exist).
    fit: takes over its plan's options (freeze, labels, support); chains still start at their own random points, so
    labels are whatever they become.
    sampler: "nutpie", "pymc", or "auto": nutpie, and pm.sample, which is slower, where nutpie fails; a RuntimeWarning
    says so in a line, the logger "emppl" has the details at level DEBUG.
    init: where chains start. "random": each at a place of its own, so that R-hat shows whether they come together.
    "modes": around the modes that EM reaches from the fit and from ten random starts, as many chains at each as it
    holds of the posterior by Laplace's approximation. No chain is then caught in a mode that hardly counts; but R-hat,
    which wants starts further apart than the posterior, sees less, and a mode that EM missed stays unseen.

    progress: True, a bar on standard error (lines, where that is a file) that is gone at the end; False, none; None,
    one on a terminal and in notebooks; or a callable, called with {"stage": "compiling"}, then some ten times a second
    with {"stage": "drawing", "done", "of": draws of all chains with those that tune, "chains", "tuning": chains that
    still do, "divergences"}. What it raises ends the run.

    Ctrl-C gives back what there is at any moment: the draws that every chain has finished, none of them while the
    sampler is compiled or tuned; where it comes while log-likelihoods are computed, the draws without those.

    Groups of the result: posterior (parameters and deterministics), log_likelihood (per observation), latent
    (posterior probability of each latent value given that draw's parameters), sample_stats, observed_data. Attributes:
    sampling_seconds, compile_seconds, sampler, init, interrupted ("True" after Ctrl-C).
    Raises UnsupportedModelError where there is nothing to draw, InvalidArgumentError for numbers that are none or too
    small (draws, tune and chains are at least 1), SamplerError where nutpie, asked for by name, breaks down.
    """
    own = {name for name, p in signature(sample).parameters.items() if p.kind is p.KEYWORD_ONLY}
    for name in nuts_options:  # the others are for the sampler to know
        if get_close_matches(name, own, 1, 0.75):
            raise unknown_keyword(name, "sample", own)
    seed = as_seed(seed)
    draws, chains = as_whole(draws, "draws", 1), as_whole(chains, "chains", 1)
    tune, cores = as_whole(tune, "tune", 1), None if cores is None else as_whole(cores, "cores", 1)
    if sampler not in ("auto", "nutpie", "pymc"):
        raise InvalidArgumentError(f"sampler must be 'auto', 'nutpie' or 'pymc', not {sampler!r}", "sampler")
    if init not in ("random", "modes"):
        raise InvalidArgumentError(f"init must be 'random' or 'modes', not {init!r}", "emppl.sample")
    plan = _plan_with_priors(model, fit)
    if not plan.structure.parameters:
        raise UnsupportedModelError("the model has no free parameter, so there is nothing to draw", plan.structure.name)
    with one_blas_thread():
        known = model if isinstance(model, Fit) else fit
        forks = cores is not None and cores > 1 and sampler != "nutpie"
        with watching(progress, ticking=not forks) as watcher:
            return _sample(plan, draws, tune, chains, seed, watcher, cores, sampler, nuts_options, init, known)


def _sample(
    plan: Plan,
    draws: int,
    tune: int,
    chains: int,
    seed: int | None,
    watcher: Watcher,
    cores: int | None,
    sampler: str,
    nuts_options: dict[str, Any],
    init: str,
    known: Fit | None,
) -> xr.DataTree:
    began = time.perf_counter()
    seeds = np.random.SeedSequence(seed)
    own = seeds.spawn(1)[0]
    number = int(seeds.generate_state(1)[0] % (2**31))
    run = {"draws": draws, "tune": tune, "chains": chains, "seed": number, "cores": cores, "watcher": watcher}
    drawn, starts = None, None
    try:
        watcher({"stage": "compiling"})
        with noticed(), building():
            marginal = marginal_model(plan)
        if init == "modes":
            watcher.say("NUTS: looking for modes to start from")
        starts = _starts(plan, known, chains, init, own)
        if sampler in ("auto", "nutpie"):
            try:
                drawn = _by_nutpie(plan, marginal, starts, run, nuts_options)
            except (KeyboardInterrupt, SystemExit, GeneratorExit):
                raise
            except BaseException as problem:  # a panic of Rust is no Exception
                if problem is watcher.raised or (sampler == "nutpie" and isinstance(problem, Exception)):
                    raise
                if sampler == "nutpie":
                    raise SamplerError(
                        f"nutpie could not sample this model ({_in_a_line(problem)})", "emppl.sample",
                        ("sampler='pymc': pm.sample, which is slower",),
                    ) from problem  # fmt: skip
                log.debug("nutpie could not sample this model", exc_info=True)
                warnings.warn(
                    f"slower: pm.sample, since nutpie could not sample this model ({_in_a_line(problem)})",
                    RuntimeWarning, stacklevel=3,
                )  # fmt: skip
        if drawn is None:
            drawn = _by_pymc(plan, marginal, starts, run, nuts_options)
    except KeyboardInterrupt:
        drawn = _Drawn("pymc" if sampler == "pymc" else "nutpie", stopped=True)
    watcher.say("NUTS: log-likelihoods of the draws")
    seconds = time.perf_counter() - began - drawn.compiling
    return _dressed(
        plan, drawn,
        {"sampling_seconds": seconds, "compile_seconds": drawn.compiling, "sampler": drawn.sampler, "seed": str(seed),
         "tune": tune, "init": "modes" if isinstance(starts, ModeStarts) else "random"},
    )  # fmt: skip


class _Drawn(NamedTuple):
    """What a sampler gave back, or would have: tree is None where it was stopped before it had anything."""

    sampler: str
    tree: xr.DataTree | None = None
    compiling: float = 0.0  # seconds
    stopped: bool = False


def _until_stopped(draw: Callable[..., xr.DataTree], *arguments: Any, **options: Any) -> tuple[xr.DataTree, bool]:
    """What a sampler gives back, and whether it was stopped: samplers make fewer draws of Ctrl-C and say nothing."""
    with noticed() as interrupt:
        tree = draw(*arguments, **options)
        stopped, interrupt.raised = interrupt.raised is not None, None
    return tree, stopped


def _in_a_line(problem: BaseException) -> str:
    """An error's name and the beginning of its first line."""
    first = next((line.strip() for line in str(problem).splitlines() if line.strip()), "")
    text = f"{type(problem).__name__}: {first}" if first else type(problem).__name__
    return text if len(text) <= LONGEST_REASON else f"{text[:LONGEST_REASON]}…"


def _plan_with_priors(model: Any, fit: Fit | None) -> Plan:
    source = model if isinstance(model, Fit) else fit
    earlier = fit.plan if fit is not None else None
    if (
        isinstance(model, pm.Model)
        and isinstance(earlier, Plan)
        and _variables(model) != _variables(earlier.structure.model)
    ):
        raise InvalidArgumentError(
            "fit is of another model than the one to sample", "emppl.sample(model, fit=fit)",
            ("emppl.sample(fit) samples the fit's own model", "leave out fit="),
        )  # fmt: skip
    given: Any = source.plan if source is not None and isinstance(model, Fit | pm.Model) else model
    if isinstance(given, Plan) and given.sample is not None:
        raise UnsupportedModelError(
            "NUTS goes over all rows in memory at every step, and those of the fit were streamed",
            "emppl.sample(fit of a source)",
            (
                "fit.to_datatree(): draws from the Laplace approximation",
                "emppl.sample(model) on rows that fit in memory",
            ),
        )
    if isinstance(given, Plan):
        if given.estimate == "map" and given.method == "em":
            return given
        return make_plan(
            given, estimate="map", labels=given.options.get("labels"), obs_weights=given.options.get("obs_weights")
        )
    if not isinstance(given, pm.Model | Structure):
        given = model
    return make_plan(given, estimate="map")


def _variables(model: pm.Model) -> tuple[dict[str, Any], dict[str, int]]:
    """Names and shapes: what two models must share for one's fit to serve the other."""
    shapes = {rv.name: rv.type.shape for rv in model.basic_RVs}
    return shapes, {dim: len(labels) for dim, labels in model.coords.items() if labels is not None}


def marginal_model(plan: Plan) -> pm.Model:
    """The user's model with its likelihood replaced by one Potential in which the latents are summed out.

    Priors, transforms and deterministics of parameters are as written; frozen parameters are constants.
    """
    structure = plan.structure
    nodes = [*structure.parameters, *structure.deterministics]
    fixed = {
        rv: pt.constant(structure.frozen[rv.name]) for rv in structure.model.free_RVs if rv.name in structure.frozen
    }
    originals = [node.rv for node in nodes]
    cloned = _with_constants(originals, fixed)
    names = {node.name: rv for node, rv in zip(nodes, cloned)}
    coords = {dim: list(structure.coords[dim]) for node in nodes for dim in node.dims}
    with pm.Model(coords=coords) as marginal:
        for node in structure.parameters:
            marginal.register_rv(
                names[node.name],
                name=node.name,
                dims=node.dims or None,
                transform=node.transform,
                default_transform=None,
            )
        replacements = {node.value: names[node.name] for node in structure.parameters}
        (log_likelihood,) = graph_replace([log_likelihood_graph(plan)], replacements, strict=False)
        pm.Potential(POTENTIAL, log_likelihood)
        for factor in structure.factors:
            if factor.kind == "prior" and factor.parameters and factor.name not in structure.parameter_names:
                (term,) = graph_replace([factor.log_density.sum()], replacements, strict=False)
                pm.Potential(factor.name, term)
        for node in structure.deterministics:
            pm.Deterministic(node.name, names[node.name], dims=node.dims or None)
    return marginal


def _with_constants(graphs: list[Any], fixed: dict[Any, Any]) -> list[Any]:
    """A copy of random-variable graphs with dims, data and frozen parameters as constants; parents stay parents.

    Constants are doubles, as in the plan.
    """
    shared = {
        v: pt.constant(v.get_value(borrow=True))
        for v in graph_inputs(graphs)
        if hasattr(v, "get_value") and not isinstance(v.type, RandomType)
    }
    copies = in_double(clone_replace(graphs, replace={**shared, **fixed}, rebuild_strict=False), draws=True)
    for copy, original in zip(copies, graphs):
        copy.name = original.name
    return list(copies)


def prior_draws(plan: Plan, draws: int, seed: int = 0) -> Theta:
    """{name: [draws, *shape]} from the priors of the model's parameters; those that cannot be drawn from are left out.

    An ordered vector is sorted: that is what the prior of an ordered vector of exchangeable numbers is.
    """
    structure = plan.structure
    fixed = {
        rv: pt.constant(structure.frozen[rv.name]) for rv in structure.model.free_RVs if rv.name in structure.frozen
    }
    names = structure.parameter_names
    graphs = dict(zip(names, _with_constants([node.rv for node in structure.parameters], fixed))) if names else {}
    together = _drawn_from(list(graphs.values()), draws, seed)
    if together is not None:
        found = dict(zip(names, together))
    else:
        each = {name: _drawn_from([graph], draws, seed) for name, graph in graphs.items()}
        found = {name: values[0] for name, values in each.items() if values is not None}
    for node in structure.parameters:
        if node.name in found and getattr(node.transform, "name", None) == "ordered":
            found[node.name] = np.sort(found[node.name], axis=-1)
    return found


def _drawn_from(graphs: list[Any], draws: int, seed: int) -> list[np.ndarray] | None:
    """Draws of random variables, None where one of them cannot be drawn from (a flat prior)."""
    if not graphs:
        return []
    try:
        with building(**uncompiled(graphs)), np.errstate(all="ignore"):
            return list(pm.draw(graphs, draws=draws, random_seed=seed, mode=interpreted_mode()))
    except (NotImplementedError, ArithmeticError, ValueError):
        return None


def log_likelihood_graph(plan: Plan) -> Any:
    """Marginal log-likelihood as a graph of the parameters' values.

    Plates in natural form by the Op with Fisher gradient.
    """
    total = [plan.expected.direct_likelihood]
    if plan.structure.eliminations:
        total.append(elimination.sampled_log_likelihood(plan))
    for data, eta, table in zip(plan.engine.plates, plan.expected.etas, plan.expected.tables):
        if data.tied:
            continue
        if table is None and data.mask is None:
            total.append(marginal_log_likelihood(eta, *members(data))[0] + data.base_sum)
            continue
        weights = np.ones(len(data.base)) if data.weights is None else data.weights
        log_joint = elimination.log_joint_graph(data, eta, table)
        total.append((weights * (pt.logsumexp(log_joint, axis=0) + data.base)).sum())
    return pt.stack([t.astype("float64") for t in total]).sum()


def _starts(
    plan: Plan, fit: Fit | None, chains: int, init: str, seeds: np.random.SeedSequence
) -> Callable[[Any], np.ndarray]:
    """seed → unconstrained start of one chain."""
    if init == "modes":
        found = mode_starts(plan, fit, chains, seeds)
        if found is not None:
            return found
        warnings.warn("EM ends in no proper mode, so chains start at random", RuntimeWarning, stacklevel=4)
    return _chain_starts(plan, seeds)


def _chain_starts(plan: Plan, seeds: np.random.SeedSequence) -> Callable[[int], np.ndarray]:
    """seed → unconstrained start of one chain: random assignments, one M-step, then noise. Labels fall as they may."""
    prefix = seeds.generate_state(2).tolist()
    lock = threading.Lock()  # chains ask from threads of their own, and interpreted functions hold their own storage

    def start(seed: int) -> np.ndarray:
        with lock:
            return one(seed)

    def one(seed: int) -> np.ndarray:
        rng = np.random.default_rng([*prefix, int(np.asarray(seed).ravel()[0]) % (2**32)])
        for kind in ("random", "k-means++", "prior"):
            u = plan.structure.coordinates.inside(
                plan.structure.coordinates.unconstrain(start_point(plan, kind, rng)), 6.0
            )
            u = u + rng.normal(size=u.shape) * np.minimum(START_SPREAD, 2.0 * _widths(plan, u))
            if np.isfinite(plan.log_posterior(plan.structure.coordinates.constrain(u))):
                return u
        return plan.structure.coordinates.unconstrain(start_point(plan, "k-means++", rng))

    return start


def _widths(plan: Plan, u: np.ndarray) -> np.ndarray:
    """Width of the objective along each coordinate at u [P].

    A mean in the hundreds and a logit are both moved sensibly.
    """
    information = observed_information(plan, u)
    widths = np.ones(len(u))
    widths[information.interior] = 1.0 / np.sqrt(np.maximum(np.abs(np.diag(information.information)), 1e-12))
    return np.where(np.isfinite(widths), widths, 1.0)


def _by_nutpie(
    plan: Plan, marginal: pm.Model, starts: Callable, run: dict[str, Any], options: dict[str, Any]
) -> _Drawn:
    import nutpie

    register()
    elimination.register()
    began = time.perf_counter()
    run["watcher"].say("NUTS: compiling")
    with noticed(), building(), quiet(), checked_caches():
        compiled = nutpie.compile_pymc_model(marginal, freeze_model=False)
    order = [str(name) for name in plan.structure.parameter_names]
    model_order = [rv.name for rv in marginal.free_RVs]
    if model_order != order:
        raise UnsupportedModelError("the sampler orders the parameters otherwise", f"{model_order} against {order}")
    compiled = replace(compiled, initial_point_func=lambda seed: plan.structure.coordinates.raw(starts(seed)))
    if isinstance(starts, ModeStarts) and starts.n_modes > 1:  # which chain starts where is settled one by one
        with noticed(), quiet():
            nutpie.sample(
                compiled, draws=1, tune=1, chains=run["chains"], seed=run["seed"], cores=1, progress_bar=False
            )
    compiling = time.perf_counter() - began
    with quiet():
        tree, stopped = _until_stopped(
            _watched, run["watcher"], compiled, draws=run["draws"], tune=run["tune"], chains=run["chains"],
            seed=run["seed"], cores=run["cores"], progress_bar=False, save_warmup=False, **options,
        )  # fmt: skip
    return _Drawn("nutpie", tree, compiling, stopped or run["watcher"].raised is not None)


def _watched(watcher: Watcher, compiled: Any, **options: Any) -> xr.DataTree:
    """What nutpie.sample gives back, the watcher told how far it is; fewer draws after Ctrl-C.

    nutpie tells from a thread of its own, where an error would be printed and forgotten: the last that it said is
    handed on from this one.
    """
    import nutpie

    if not watcher.listens:
        return nutpie.sample(compiled, **options)
    told: deque[Any] = deque(maxlen=1)

    def tell() -> None:
        if told:
            chains = told.pop()
            watcher(
                {
                    "stage": "drawing",
                    "done": sum(chain.finished_draws for chain in chains),
                    "of": sum(chain.total_draws for chain in chains),
                    "chains": len(chains),
                    "tuning": sum(chain.tuning for chain in chains),
                    "divergences": sum(chain.divergences for chain in chains),
                }
            )

    sampler = nutpie.sample(compiled, blocking=False, **{"progress_callback": told.append, **options})
    try:
        while True:
            try:
                tree = sampler.wait(timeout=TOLD_SECONDS)
                break
            except TimeoutError:
                tell()
        tell()
    except KeyboardInterrupt:
        return sampler.abort()
    except BaseException:
        sampler.cancel()
        raise
    return tree


def _by_pymc(plan: Plan, marginal: pm.Model, starts: Callable, run: dict[str, Any], options: dict[str, Any]) -> _Drawn:
    register()
    elimination.register()
    coordinates, watcher = plan.structure.coordinates, run["watcher"]
    chains, each = run["chains"], run["tune"] + run["draws"]
    seen: dict[str, Any] = {"stage": "drawing", "done": 0, "of": chains * each, "chains": chains, "tuning": chains}
    seen["divergences"] = 0
    next_told = 0.0

    def told(draw: Any, **_: Any) -> None:
        nonlocal next_told
        seen["done"] += 1
        seen["tuning"] -= draw.draw_idx == run["tune"]
        seen["divergences"] += any(stats.get("diverging", False) for stats in draw.stats) and not draw.tuning
        if seen["done"] == seen["of"] or time.monotonic() >= next_told:
            next_told = time.monotonic() + TOLD_SECONDS
            watcher(dict(seen))

    watcher.say("NUTS: compiling")
    with noticed():
        initial = [coordinates.constrain(starts(run["seed"] + chain)) for chain in range(run["chains"])]
    with marginal, quiet(), checked_caches():
        tree, stopped = _until_stopped(
            pm.sample, run["draws"], tune=run["tune"], chains=run["chains"], random_seed=run["seed"],
            cores=run["cores"] or 1, initvals=initial, progressbar=False, nuts_sampler="pymc",
            compute_convergence_checks=False, **({"callback": told} if watcher.listens else {}) | options,
        )  # fmt: skip
    return _Drawn("pymc", tree, stopped=stopped or watcher.raised is not None)


def _dressed(plan: Plan, drawn: _Drawn, attributes: dict[str, Any]) -> xr.DataTree:
    """The sampler's tree with the model's names, and the groups that need the E-step's engine."""
    structure = plan.structure
    arrays, stats, stopped = _finished_draws(plan, drawn.tree)
    n_chain, n_draw = next(iter(arrays.values())).shape[:2]
    flat = {name: values.reshape(n_chain * n_draw, *values.shape[2:]) for name, values in arrays.items()}
    by_member, latents, log_posterior, given_up = _along_draws(plan, flat, n_chain * n_draw)
    stopped = stopped or drawn.stopped or given_up
    lead = {"chain": np.arange(n_chain), "draw": np.arange(n_draw)}

    def dressed(
        name: str, values: np.ndarray, dims: tuple[str, ...], extra: dict[str, Any] | None = None
    ) -> xr.DataArray:
        coords = {**lead, **{d: structure.coords[d] for d in dims if d in structure.coords}, **(extra or {})}
        return xr.DataArray(
            values.reshape(n_chain, n_draw, *values.shape[1:]), dims=("chain", "draw", *dims), coords=coords, name=name
        )

    posterior = {
        node.name: dressed(node.name, flat[node.name], node.dims)
        for node in (*structure.parameters, *structure.deterministics)
        if node.name in flat
    }
    groups: dict[str, xr.Dataset] = {"posterior": xr.Dataset(posterior)}
    groups["log_likelihood"] = xr.Dataset(
        {name: dressed(name, values, dims) for name, (values, dims) in by_member.items()}
    )
    if latents:
        groups["latent"] = xr.Dataset(
            {
                name: dressed(
                    name,
                    values,
                    (*structure.node(name).dims, f"{name}_value"),
                    {f"{name}_value": structure.node(name).support},
                )
                for name, values in latents.items()
            }
        )
    stats = stats.assign_coords(lead)
    groups["sample_stats"] = stats.assign(log_posterior=(("chain", "draw"), log_posterior.reshape(n_chain, n_draw)))
    groups["observed_data"] = xr.Dataset(
        {
            node.name: xr.DataArray(
                np.asarray(node.value.data), dims=node.dims, coords={d: structure.coords[d] for d in node.dims}
            )
            for node in structure.observed
        }
    )
    tree = xr.DataTree.from_dict(groups)
    tree.attrs.update(
        {"model": structure.name, "inference_library": "emppl", "interrupted": str(stopped), **attributes}
    )
    return tree


def _finished_draws(plan: Plan, tree: xr.DataTree | None) -> tuple[Theta, xr.Dataset, bool]:
    """({name: [chain, draw, *shape]}, statistics by chain and draw, whether chains were cut short).

    An interrupted sampler leaves the draws that a chain did not make as nan. Chains have one length here: of all
    lengths the one that keeps most draws.
    """
    structure = plan.structure
    nodes = [*structure.parameters, *structure.deterministics]
    if tree is None or not min(tree["posterior"].sizes.get(dim, 0) for dim in ("chain", "draw")):
        return {node.name: np.empty((0, 0, *node.shape)) for node in nodes}, xr.Dataset(), True
    source = tree["posterior"].to_dataset()
    shape = source.sizes["chain"], source.sizes["draw"]
    arrays = {
        node.name: np.asarray(source[node.name].values, dtype=float).reshape(*shape, *node.shape)
        for node in nodes
        if node.name in source
    }
    made = np.ones(shape, dtype=bool)
    for name in structure.parameter_names:
        made &= ~np.isnan(arrays[name].reshape(*shape, -1)).any(axis=2)
    lengths = np.where(made.all(axis=1), shape[1], made.argmin(axis=1))
    chains, n_draw = np.arange(shape[0]), shape[1]
    if not made.all():
        order = np.argsort(-lengths, kind="stable")
        kept = int(np.argmax(lengths[order] * (1 + chains)))
        chains, n_draw = np.sort(order[: kept + 1]), int(lengths[order[kept]])
    arrays = {name: values[chains, :n_draw] for name, values in arrays.items()}
    stats = xr.Dataset()
    if "sample_stats" in tree.children:
        every = tree["sample_stats"].to_dataset().isel(chain=chains, draw=slice(0, n_draw))
        stats = every[[name for name in every.data_vars if every[name].dims == ("chain", "draw")]]
    return arrays, stats, not made.all()


def _along_draws(
    plan: Plan, flat: Theta, n: int
) -> tuple[dict[str, tuple[np.ndarray, tuple[str, ...]]], Theta, np.ndarray, bool]:
    """Log-likelihood by observation, latent probabilities and log posterior of every draw; whether that was stopped.

    Where it was, only the log posterior of the first draws is there.
    """
    structure = plan.structure
    homes = {p: _member_dims(plan, p) for p, plate in enumerate(structure.plates) if not plate.tied}
    groups = [f"group_{i}" if i else "group" for i in range(len(structure.eliminations))]
    by_member: dict[str, tuple[np.ndarray, tuple[str, ...]]] = {
        name: (np.empty((n, structure.plates[p].size)), dims) for p, (name, dims) in homes.items()
    }
    for name, tied in zip(groups, structure.eliminations):
        by_member[name] = (np.empty((n, tied.size)), (f"{name}_of_tied_latents",))
    direct, shapes = _direct_terms(plan)
    by_member |= {name: (np.empty((n, *shape)), dims) for name, (shape, dims) in shapes.items()}
    size = sum(node.size * node.n_values for node in structure.latents)
    latents = (
        {node.name: np.empty((n, *node.shape, node.n_values)) for node in structure.latents}
        if n * size <= LARGEST_GROUP
        else {}
    )
    log_posterior = np.full(n, np.nan)

    def look_at(t: int) -> None:
        theta = {name: flat[name][t] for name in structure.parameter_names}
        posterior = plan.e_step(theta, keep=True)
        for p, (name, _) in homes.items():
            by_member[name][0][t] = posterior.by_member[p]
        for name, values in zip(groups, posterior.by_component):
            by_member[name][0][t] = values
        for name, values in zip(shapes, direct(theta) if direct else []):
            by_member[name][0][t] = values
        if latents:
            for name, values in plan.marginals(posterior).items():
                latents[name][t] = values
        log_posterior[t] = posterior.objective

    try:
        with noticed():
            for t in range(n):
                look_at(t)
    except KeyboardInterrupt:
        return {}, {}, log_posterior, True
    return by_member, latents, log_posterior, False


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
    """Log densities of the observations that depend on no latent, as a function of theta; shape and dims by name."""
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
    function = compile_graph(plan.structure.coordinates.values, freeze_data(graphs))
    coordinates = plan.structure.coordinates
    return lambda theta: function(*coordinates.arguments(theta)), shapes
