"""Draws from the same model by NUTS: the discrete latents summed out by the E-step's engine, the gradient by Fisher."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable
from difflib import get_close_matches
from inspect import signature
from typing import Any

import numpy as np
import pymc as pm
import xarray as xr

from emppl.arguments import Seed, as_seed, as_whole, unknown_keyword
from emppl.ascent.result import Fit
from emppl.chainstarts import ModeStarts
from emppl.errors import InvalidArgumentError, SamplerError, UnsupportedModelError
from emppl.kernels.threads import one_blas_thread
from emppl.planner import Plan
from emppl.planner import plan as make_plan
from emppl.progress import Watcher, watching
from emppl.sampling.along import along_draws, finished_draws
from emppl.sampling.graph import log_likelihood_graph, marginal_model, prior_draws
from emppl.sampling.samplers import Drawn, by_nutpie, by_pymc, chain_starts, told
from emppl.structure.types import Structure

__all__ = ["log_likelihood_graph", "marginal_model", "prior_draws", "sample"]

log = logging.getLogger("emppl")


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
    latents: bool | None = None,
    **nuts_options: Any,
) -> xr.DataTree:
    """Posterior draws of the model's parameters by NUTS, with its discrete latents summed out.

    model: a pm.Model, a Plan or a Fit (priors are always kept: draws from a likelihood alone need not exist).
    fit: takes over its plan's options (freeze, labels, support); chains still start at their own random points, so
    labels are whatever they become.
    sampler: "nutpie", "pymc", or "auto": nutpie, and pm.sample, which is slower, where nutpie fails; a RuntimeWarning
    says so in a line, the logger "emppl" has the details at level DEBUG. nutpie takes the log posterior as machine code
    of the plan's own graphs, made in a second or two; of a model that is too long for that, or has a step without such
    code, it compiles the graph, which takes ten to sixty seconds: the logger says so, and why, at level INFO.
    init: where chains start. "random": each at a place of its own, so that R-hat shows whether they come together.
    "modes": around the modes that EM reaches from the fit and from ten random starts, as many chains at each as it
    holds of the posterior by Laplace's approximation. No chain is then caught in a mode that hardly counts; but R-hat,
    which wants starts further apart than the posterior, sees less, and a mode that EM missed stays unseen.
    latents: whether the result has posterior probabilities of the latents at every draw; None: where they are at most
    4 million numbers (32 MB). What needs more of them computes them again from the parameters.

    progress: True, a bar on standard error (lines, where that is a file) that is gone at the end; False, none; None,
    one on a terminal and in notebooks; or a callable, called with {"stage": "compiling"}, then some ten times a second
    with {"stage": "drawing", "done", "of": draws of all chains with those that tune, "chains", "tuning": chains that
    still do, "divergences"}. What it raises ends the run.

    Ctrl-C gives back what there is at any moment: the draws that every chain has finished, none of them while the
    sampler is compiled or tuned; where it comes while log-likelihoods are computed, the draws without those.

    Groups of the result: posterior (parameters and deterministics), log_likelihood (per observation), latent
    (posterior probability of each latent value given that draw's parameters; see `latents`), sample_stats,
    observed_data. Attributes:
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
    if latents is not None and not isinstance(latents, bool):
        raise InvalidArgumentError(f"latents must be True, False or None, not {latents!r}", "latents")
    plan = _plan_with_priors(model, fit)
    if not plan.structure.parameters:
        raise UnsupportedModelError("the model has no free parameter, so there is nothing to draw", plan.structure.name)
    with one_blas_thread():
        known = model if isinstance(model, Fit) else fit
        forks = cores is not None and cores > 1 and sampler != "nutpie"
        with watching(progress, ticking=not forks) as watcher:
            return _sample(plan, draws, tune, chains, seed, watcher, cores, sampler, nuts_options, init, known, latents)


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
    latents: bool | None,
) -> xr.DataTree:
    began = time.perf_counter()
    seeds = np.random.SeedSequence(seed)
    own = seeds.spawn(1)[0]
    number = int(seeds.generate_state(1)[0] % (2**31))
    run = {"draws": draws, "tune": tune, "chains": chains, "seed": number, "cores": cores, "watcher": watcher}
    drawn, starts = None, None
    try:
        watcher({"stage": "compiling"})
        if init == "modes":
            watcher.say("NUTS: looking for modes to start from")
        starts = chain_starts(plan, known, chains, init, own)
        if sampler in ("auto", "nutpie"):
            try:
                drawn = by_nutpie(plan, starts, run, nuts_options)
            except (KeyboardInterrupt, SystemExit, GeneratorExit):
                raise
            except BaseException as problem:  # a panic of Rust is no Exception
                if problem is watcher.raised or (sampler == "nutpie" and isinstance(problem, Exception)):
                    raise
                if sampler == "nutpie":
                    raise SamplerError(
                        f"nutpie could not sample this model ({told(problem)})", "emppl.sample",
                        ("sampler='pymc': pm.sample, which is slower",),
                    ) from problem  # fmt: skip
                log.debug("nutpie could not sample this model", exc_info=True)
                warnings.warn(
                    f"slower: pm.sample, since nutpie could not sample this model ({told(problem)})",
                    RuntimeWarning, stacklevel=3,
                )  # fmt: skip
        if drawn is None:
            drawn = by_pymc(plan, starts, run, nuts_options)
    except KeyboardInterrupt:
        drawn = Drawn("pymc" if sampler == "pymc" else "nutpie", stopped=True)
    watcher.say("NUTS: log-likelihoods of the draws")
    seconds = time.perf_counter() - began - drawn.compiling
    return _dressed(
        plan, drawn,
        {"sampling_seconds": seconds, "compile_seconds": drawn.compiling, "sampler": drawn.sampler, "seed": str(seed),
         "tune": tune, "init": "modes" if isinstance(starts, ModeStarts) else "random"},
        watcher, latents,
    )  # fmt: skip


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


def _dressed(
    plan: Plan, drawn: Drawn, attributes: dict[str, Any], watcher: Watcher, wanted: bool | None
) -> xr.DataTree:
    """The sampler's tree with the model's names, and the groups that need the E-step's engine."""
    structure = plan.structure
    arrays, stats, stopped = finished_draws(plan, drawn)
    n_chain, n_draw = next(iter(arrays.values())).shape[:2]
    flat = {name: values.reshape(n_chain * n_draw, *values.shape[2:]) for name, values in arrays.items()}
    by_member, latents, log_posterior, given_up = along_draws(plan, flat, n_chain * n_draw, watcher, wanted)
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
