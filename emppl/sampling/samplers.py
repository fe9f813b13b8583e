"""Samplers of a plan's log posterior: nutpie on the compiled density or on the model's graph, and pm.sample."""

from __future__ import annotations

import logging
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pymc as pm
import xarray as xr

from emppl.ascent.result import Fit
from emppl.ascent.starts import start_point
from emppl.chainstarts import ModeStarts, mode_starts
from emppl.compiling import building
from emppl.concurrency import quiet
from emppl.errors import UnsupportedModelError
from emppl.estep import elimination
from emppl.estep.marginal import register
from emppl.inference.information import observed_information
from emppl.interrupts import noticed
from emppl.kernels.caching import checked_caches
from emppl.planner import Plan
from emppl.progress import Watcher
from emppl.sampling.density import CompiledDensity
from emppl.sampling.graph import marginal_model

log = logging.getLogger("emppl")
TOLD_SECONDS = 0.1  # between two events of a sampler
START_SPREAD = 0.5  # standard deviation, unconstrained, of the noise on each chain's start
LONGEST_REASON = 160  # characters of an error in a warning
COORDINATES = "coordinates"  # the variable of draws that are not expanded yet
COMPARED_AT = (0.3, 0.5, 1.0, 2.0)  # spreads of the points at which a compiled density is compared with the plan's


class Drawn(NamedTuple):
    """What a sampler gave back, or would have: tree is None where it was stopped before it had anything.

    in_coordinates: the posterior is one variable, COORDINATES, of the plan's coordinates.
    """

    sampler: str
    tree: xr.DataTree | None = None
    compiling: float = 0.0  # seconds
    stopped: bool = False
    in_coordinates: bool = False


def _until_stopped(draw: Callable[..., xr.DataTree], *arguments: Any, **options: Any) -> tuple[xr.DataTree, bool]:
    """What a sampler gives back, and whether it was stopped: samplers make fewer draws of Ctrl-C and say nothing."""
    with noticed() as interrupt:
        tree = draw(*arguments, **options)
        stopped, interrupt.raised = interrupt.raised is not None, None
    return tree, stopped


def chain_starts(
    plan: Plan, fit: Fit | None, chains: int, init: str, seeds: np.random.SeedSequence
) -> Callable[[Any], np.ndarray]:
    """seed → unconstrained start of one chain."""
    if init == "modes":
        found = mode_starts(plan, fit, chains, seeds)
        if found is not None:
            return found
        warnings.warn("EM ends in no proper mode, so chains start at random", RuntimeWarning, stacklevel=4)
    return random_starts(plan, seeds)


def random_starts(plan: Plan, seeds: np.random.SeedSequence) -> Callable[[int], np.ndarray]:
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


def by_nutpie(plan: Plan, starts: Callable, run: dict[str, Any], options: dict[str, Any]) -> Drawn:
    """Draws by nutpie. run: draws, tune, chains, seed, cores and watcher; options: more of nutpie's own."""
    import nutpie

    began = time.perf_counter()
    run["watcher"].say("NUTS: compiling")
    with noticed(), quiet(), checked_caches():
        compiled = _of_density(plan, starts)
    in_coordinates = compiled is not None
    if compiled is None:
        run["watcher"].say("NUTS: compiling the graph of the model")
        compiled = _of_graph(plan, starts)
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
    return Drawn("nutpie", tree, compiling, stopped or run["watcher"].raised is not None, in_coordinates)


def _of_density(plan: Plan, starts: Callable) -> Any:
    """The compiled density as nutpie takes it; None, with the reason in the log, where there is none to rely on."""
    from nutpie.compile_pymc import CompiledPyMCModel

    try:
        density = CompiledDensity(plan)
        coordinates, rng = plan.structure.coordinates, np.random.default_rng(0)
        points = [coordinates.inside(rng.normal(scale=s, size=density.size), 6.0) for s in COMPARED_AT]
        density.check(plan, points)
        shape = (density.size,)
        return CompiledPyMCModel(
            dims={}, compiled_logp_func=density.function, compiled_expand_func=density.draw, initial_point_func=starts,
            shared_data={}, shared_var_keys={}, user_data=density.model, n_expanded=density.size,
            shape_info=([COORDINATES], [slice(0, density.size)], [shape]), logp_func=density, expand_func=None,
            _n_dim=density.size, _shapes={COORDINATES: shape}, _coords={}, reparameterized_names=[],
        )  # fmt: skip
    except Exception as problem:  # of whatever kind: what the graph gives instead is as good, and takes longer
        log.info("slower: nutpie compiles the graph of the model, since it has no compiled density (%s)", told(problem))
        log.debug("no compiled density", exc_info=True)
        return None


def _of_graph(plan: Plan, starts: Callable) -> Any:
    """The model's graph with its latents summed out, compiled by nutpie."""
    import nutpie

    register()
    elimination.register()
    with noticed(), building(), quiet(), checked_caches():
        marginal = marginal_model(plan)
        compiled = nutpie.compile_pymc_model(marginal, freeze_model=False)
    order = [str(name) for name in plan.structure.parameter_names]
    model_order = [rv.name for rv in marginal.free_RVs]
    if model_order != order:
        raise UnsupportedModelError("the sampler orders the parameters otherwise", f"{model_order} against {order}")
    return replace(compiled, initial_point_func=lambda seed: plan.structure.coordinates.raw(starts(seed)))


def told(problem: BaseException) -> str:
    """An error's name and the beginning of its first line."""
    first = next((line.strip() for line in str(problem).splitlines() if line.strip()), "")
    text = f"{type(problem).__name__}: {first}" if first else type(problem).__name__
    return text if len(text) <= LONGEST_REASON else f"{text[:LONGEST_REASON]}…"


def _watched(watcher: Watcher, compiled: Any, **options: Any) -> xr.DataTree:
    """What nutpie.sample gives back, the watcher told how far it is; fewer draws after Ctrl-C.

    nutpie tells from a thread of its own, where an error would be printed and forgotten: the last that it said is
    handed on from this one.
    """
    import nutpie

    if not watcher.listens:
        return nutpie.sample(compiled, **options)
    said: deque[Any] = deque(maxlen=1)

    def tell() -> None:
        if said:
            chains = said.pop()
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

    sampler = nutpie.sample(compiled, blocking=False, **{"progress_callback": said.append, **options})
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


def by_pymc(plan: Plan, starts: Callable, run: dict[str, Any], options: dict[str, Any]) -> Drawn:
    """Draws by pm.sample, its arguments as in `by_nutpie`."""
    register()
    elimination.register()
    coordinates, watcher = plan.structure.coordinates, run["watcher"]
    chains, each = run["chains"], run["tune"] + run["draws"]
    seen: dict[str, Any] = {"stage": "drawing", "done": 0, "of": chains * each, "chains": chains, "tuning": chains}
    seen["divergences"] = 0
    next_told = 0.0

    def tell(draw: Any, **_: Any) -> None:
        nonlocal next_told
        seen["done"] += 1
        seen["tuning"] -= draw.draw_idx == run["tune"]
        seen["divergences"] += any(stats.get("diverging", False) for stats in draw.stats) and not draw.tuning
        if seen["done"] == seen["of"] or time.monotonic() >= next_told:
            next_told = time.monotonic() + TOLD_SECONDS
            watcher(dict(seen))

    watcher.say("NUTS: compiling")
    with noticed(), building():
        marginal = marginal_model(plan)
    with noticed():
        initial = [coordinates.constrain(starts(run["seed"] + chain)) for chain in range(run["chains"])]
    with marginal, quiet(), checked_caches():
        tree, stopped = _until_stopped(
            pm.sample, run["draws"], tune=run["tune"], chains=run["chains"], random_seed=run["seed"],
            cores=run["cores"] or 1, initvals=initial, progressbar=False, nuts_sampler="pymc",
            compute_convergence_checks=False, **({"callback": tell} if watcher.listens else {}) | options,
        )  # fmt: skip
    return Drawn("pymc", tree, stopped=stopped or watcher.raised is not None)
