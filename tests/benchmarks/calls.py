"""python -m tests.benchmarks.calls fit|sample|explicit NAME SCALE: a whole call in a process of its own, as JSON.

From the pm.Model to the answer, all that emppl plans, compiles and checks on the way included; the imports and the
making of data and model are not. "explicit" is nutpie on the same posterior written as a log-sum-exp.
"""

from __future__ import annotations

import gc
import json
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import pymc as pm
import pytensor.tensor as pt

import emppl
from emppl.models import coins, dawid_skene, gaussian_mixture, latent_class, mixture_regression, zero_inflated

from .cases import scaled
from .data import gaussians
from .memory import held, reset_peak
from .mixtures import shipped

DRAWS = {"draws": 1000, "tune": 1000, "chains": 4}


@dataclass(frozen=True)
class Call:
    """A model, made for a scale of its data, and the options of its fit."""

    build: Callable[[float], pm.Model]
    options: dict[str, Any] = field(default_factory=dict)


def _mixture(n: int, d: int, k: int) -> Callable[[float], pm.Model]:
    return lambda scale: shipped(gaussians(scaled(n, scale), d, k), "full")


CALLS: dict[str, Call] = {
    "coins": Call(lambda _: coins.build()),
    "old-faithful-ml": Call(lambda _: gaussian_mixture.build(), {"estimate": "ml"}),
    "old-faithful-map": Call(lambda _: gaussian_mixture.build()),
    "old-faithful-3": Call(lambda _: gaussian_mixture.build(k=3)),
    "npreg": Call(lambda _: mixture_regression.build(), {"estimate": "ml"}),
    "zero-inflated": Call(lambda _: zero_inflated.build(), {"estimate": "ml"}),
    "dawid-skene": Call(lambda _: dawid_skene.build()),
    "latent-class": Call(lambda _: latent_class.build()),
    "rows-1e5": Call(_mixture(100_000, 8, 8), {"estimate": "ml"}),
    "rows-1e6": Call(_mixture(1_000_000, 8, 8), {"estimate": "ml"}),
    "wide": Call(_mixture(20_000, 32, 16), {"estimate": "ml", "standard_errors": False}),
}


def fit(name: str, scale: float) -> dict[str, Any]:
    """Seconds of plan and fit with certificate and standard errors, of the first call and of the same once more."""
    call = CALLS[name]
    model, again = call.build(scale), call.build(scale)
    gc.collect()
    was_reset, before = reset_peak(), held("VmRSS")
    processor = time.process_time()
    planning, first, found = _fitted(model, call.options)
    processor = time.process_time() - processor
    memory = (held("VmHWM") - before) / 1e9
    return {
        "seconds": first, "processor": processor, "planning": planning, "again": _fitted(again, call.options)[1],
        "memory": memory, "memory_of_the_call_alone": was_reset, "value": found.log_posterior,
        "status": found.status.name, "holds": found.certificate.holds,
    }  # fmt: skip


def _fitted(model: pm.Model, options: dict[str, Any]) -> tuple[float, float, emppl.Fit]:
    began = time.perf_counter()
    plan = emppl.plan(model, estimate=options.get("estimate", "map"))
    planning = time.perf_counter() - began
    found = emppl.fit(plan, seed=1, progress=False, **{k: v for k, v in options.items() if k != "estimate"})
    return planning, time.perf_counter() - began, found


def sample(name: str, scale: float) -> dict[str, Any]:
    """Seconds from the model to 4 × 1000 draws with latents and log-likelihoods, and of the same once more."""
    compiling = []

    def draw(model: pm.Model) -> None:
        tree = emppl.sample(model, seed=1, progress=False, latents=True, **DRAWS)
        assert {"latent", "log_likelihood"} <= set(tree.children)
        compiling.append(float(tree.attrs["compile_seconds"]))

    return _twice(lambda: CALLS[name].build(scale), draw) | {"compiling": compiling[0]}


def explicit(name: str, scale: float) -> dict[str, Any]:
    """The same of nutpie on the posterior that a user would write out; the draws alone."""
    import nutpie

    def draw(model: pm.Model) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            nutpie.sample(nutpie.compile_pymc_model(model), seed=1, progress_bar=False, **DRAWS)

    return _twice(EXPLICIT[name], draw)


def _twice(build: Callable[[], pm.Model], work: Callable[[pm.Model], None]) -> dict[str, Any]:
    """Seconds and processor seconds of the work on a model, and seconds of the same on another one like it."""
    models, wall = [build(), build()], []
    processor = time.process_time()
    for model in models:
        began = time.perf_counter()
        work(model)
        wall.append(time.perf_counter() - began)
        processor = time.process_time() - processor if model is models[0] else processor
    return {"seconds": wall[0], "processor": processor, "again": wall[1]}


def _observed(model: pm.Model, name: str) -> np.ndarray:
    return np.asarray(model.rvs_to_values[model[name]].data)


# -- the same posteriors with their latents summed out, as users write them ------------------------------------------


def explicit_coins() -> pm.Model:
    data = pd.read_csv(coins.EXAMPLE)
    heads, tosses = (data[column].to_numpy() for column in ("heads", "tosses"))
    with pm.Model() as model:
        bias = pm.Beta("bias", 1.0, 1.0, shape=2)
        each = pm.logp(pm.Binomial.dist(n=tosses[:, None], p=bias[None]), heads[:, None])
        pm.Potential("heads", pt.logsumexp(each - np.log(2.0), axis=1).sum())
    return model


def explicit_mixture(k: int) -> pm.Model:
    """Old Faithful with the priors of the model that comes with emppl."""
    y = _observed(gaussian_mixture.build(k=k), "y")
    mean, sd = y.mean(axis=0), y.std(axis=0)
    with pm.Model() as model:
        weights = pm.Dirichlet("weights", np.ones(k))
        mu = pm.Normal("mu", mean, 3.0 * sd, shape=(k, 2))
        spread = pm.InverseGamma.dist(gaussian_mixture.SHAPE, 1.0)
        factors = [
            sd[:, None] * pm.LKJCholeskyCov(f"chol_{c}", n=2, eta=2.0, sd_dist=spread, store_in_trace=False)[0]
            for c in range(k)
        ]
        each = [pm.logp(pm.MvNormal.dist(mu[c], chol=factors[c]), y) for c in range(k)]
        pm.Potential("y", pt.logsumexp(pt.log(weights) + pt.stack(each, axis=1), axis=1).sum())
    return model


def explicit_classes() -> pm.Model:
    answers = _observed(latent_class.build(), "answer")
    with pm.Model() as model:
        weights = pm.Dirichlet("weights", np.ones(2))
        probability = pm.Beta("probability", 1.5, 1.5, shape=(2, answers.shape[1]))
        each = pm.logp(pm.Bernoulli.dist(p=probability[None]), answers[:, None]).sum(axis=2)
        pm.Potential("answer", pt.logsumexp(pt.log(weights) + each, axis=1).sum())
    return model


def explicit_raters() -> pm.Model:
    data = pd.read_csv(dawid_skene.EXAMPLE)
    item, rater, label = (np.unique(data[c], return_inverse=True)[1] for c in ("patient", "observer", "rating"))
    size = label.max() + 1
    with pm.Model() as model:
        prevalence = pm.Dirichlet("prevalence", np.ones(size))
        prior = np.broadcast_to(1.0 + 0.5 / size + 0.5 * np.eye(size), (rater.max() + 1, size, size))
        rates = pm.Dirichlet("error_rates", prior)
        each = pt.log(rates)[rater, :, label]  # [ratings, classes]
        by_item = pt.zeros((item.max() + 1, size))[item].inc(each)
        pm.Potential("given", pt.logsumexp(pt.log(prevalence) + by_item, axis=1).sum())
    return model


EXPLICIT: dict[str, Callable[[], pm.Model]] = {
    "coins": explicit_coins, "old-faithful-map": lambda: explicit_mixture(2),
    "old-faithful-3": lambda: explicit_mixture(3), "latent-class": explicit_classes, "dawid-skene": explicit_raters,
}  # fmt: skip

if __name__ == "__main__":
    what, name, scale = sys.argv[1:]
    print(json.dumps({"fit": fit, "sample": sample, "explicit": explicit}[what](name, float(scale))))
