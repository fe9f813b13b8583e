"""Effective draws per second of sampling: emppl.sample beside nutpie on the same model with its latents summed out."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import arviz as az
import numpy as np
import nutpie
import pymc as pm
import xarray as xr

import emppl

from .cases import Pair, Race, scaled
from .data import gaussians
from .gradient import RIVALS, by_emppl, density, unconstrained
from .mixtures import by_cholesky, cholesky_theta, difference
from .timing import Timing

CHAINS = 2
RUNS, LONG = 3, 60.0  # runs of which the median counts, as long as they are not longer than so many seconds


def effective_draws(posterior: xr.Dataset) -> float:
    """The smallest bulk effective sample size of weights, means and factors, components in order of their first mean.

    posterior: draws of a model of `mixtures.by_cholesky`.
    """
    k = posterior["weights"].shape[-1]
    factors = np.stack([posterior[f"chol_{c}"].values for c in range(k)], axis=2)
    order = np.argsort(posterior["mu"].values[..., 0], axis=-1)  # [chain, draw, K]
    every = np.concatenate([posterior["weights"].values[..., None], posterior["mu"].values, factors], axis=-1)
    aligned = np.take_along_axis(every, order[..., None], axis=2)
    quantities = xr.DataArray(aligned, dims=("chain", "draw", "component", "quantity"), name="aligned")
    return float(az.ess(quantities.to_dataset())["aligned"].min())


def race(n: int, d: int, k: int, rival: Callable[[np.ndarray, int], pm.Model], draws: int, scale: float) -> Pair:
    """Both sides: as many warm-up steps and draws, chains on as many cores. Compiling is apart on both sides.

    The rival's chains start near parameters that are near the truth; ours find their own start.
    """
    data = gaussians(scaled(n, scale), d, k, spread=4.0)
    theta = cholesky_theta(data)
    model, other = by_cholesky(data.y, k), rival(data.y, k)
    point = unconstrained(other, theta)
    mine, others = (density(m, point)[1] for m in (by_emppl(data.y, k), other))
    compared = difference(tuple(mine[name] for name in mine), tuple(others[name] for name in mine))
    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = nutpie.compile_pymc_model(other, initial_points={rv: theta[rv.name] for rv in other.free_RVs})
    compiling = time.perf_counter() - began
    plan, seeds = emppl.plan(model), iter(range(1, 1000))
    run: dict[str, Any] = {"draws": draws, "tune": draws, "chains": CHAINS, "cores": min(CHAINS, os.cpu_count() or 1)}

    def per_effective_draw(seconds: float, processor: float, posterior: Any) -> Timing:
        size = effective_draws(posterior)
        return Timing(seconds / size, processor / size)

    def several(run: Callable[[], Timing]) -> Callable[[int], Timing]:
        """The median of some runs under seeds of their own: a short warm-up goes wrong now and then."""

        def side(repetitions: int) -> Timing:
            began, found = time.perf_counter(), [run()]
            while len(found) < RUNS and time.perf_counter() - began < LONG:
                found.append(run())
            return sorted(found)[len(found) // 2]

        return side

    def ours() -> Timing:
        processor = time.process_time()
        tree = emppl.sample(plan, seed=next(seeds), **run)
        processor = time.process_time() - processor
        whole = tree.attrs["sampling_seconds"] + tree.attrs["compile_seconds"]
        share = tree.attrs["sampling_seconds"] / max(whole, 1e-9)  # the processor time of compiling is not told apart
        return per_effective_draw(tree.attrs["sampling_seconds"], processor * share, tree["posterior"].to_dataset())

    def theirs() -> Timing:
        wall, processor = time.perf_counter(), time.process_time()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = nutpie.sample(compiled, seed=next(seeds), progress_bar=False, save_warmup=False, **run)
        wall, processor = time.perf_counter() - wall, time.process_time() - processor
        return per_effective_draw(wall, processor, tree["posterior"].to_dataset())

    note = (
        f"seconds of sampling per effective draw, {CHAINS} chains of {draws} + {draws}; log density and gradient "
        f"compared; median of {RUNS} seeds (of as many as fit in a minute); theirs compiles in {compiling:.0f} s, apart"
    )
    emppl.sample(plan, seed=0, **(run | {"draws": 8, "tune": 8}))  # what is loaded at the first call is not sampling
    return Pair(several(ours), several(theirs), compared, note, warm=False, fewest=1)


ROWS = tuple(
    Race(
        f"sample-{name}", "emppl.sample, 1e4 × 2, K = 3, LKJ-Cholesky factors: effective draws", f"nutpie on {words}",
        bar, partial(race, 10_000, 2, 3, rival, draws),
    )
    for (name, words, rival, _, bar), draws in zip(RIVALS, (500, 200))
)  # fmt: skip
