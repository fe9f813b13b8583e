"""Whole calls, as the user's clock has them: from the pm.Model to the fit or the draws, in a fresh process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from emppl.models import dawid_skene, latent_class, mixture_regression, zero_inflated

from .against_r import R
from .calls import CALLS
from .cases import Limit, NotInstalled, Pair, Race, scaled
from .data import gaussians
from .timing import Timing, local

ROOT = Path(__file__).parents[2]
PROCESSES = 3  # of which the median counts
SHORT = 20.0  # seconds of one from which on it counts alone
EMPTY_CACHES = 5.0  # seconds more that draws may take where nothing was ever compiled


def called(what: str, name: str, scale: float, caches: str | None = None) -> dict[str, Any]:
    """What a process of `calls` says; caches: a folder for compiled code, the user's own if None."""
    own = {} if caches is None else {
        "PYTENSOR_FLAGS": f"base_compiledir={caches}/pytensor", "NUMBA_CACHE_DIR": f"{caches}/numba"
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", f"{__package__}.calls", what, name, str(scale)], capture_output=True, text=True,
        cwd=ROOT if "tests." in __package__ else None, env=os.environ | own,
    )  # fmt: skip
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or [f"ended with status {done.returncode}"]
        raise RuntimeError(last[0])
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def side(what: str, name: str, scale: float, caches: str | None = None) -> Timing:
    """A whole call as one side of a race."""
    found = called(what, name, scale, caches)
    return Timing(found["seconds"], found["processor"])


def median(what: str, name: str, scale: float) -> dict[str, Any]:
    """The middle one of some processes by its seconds."""
    runs = [called(what, name, scale)]
    while len(runs) < PROCESSES and runs[0]["seconds"] < SHORT:
        runs.append(called(what, name, scale))
    return sorted(runs, key=lambda run: run["seconds"])[len(runs) // 2]


def fitting(name: str, scale: float) -> tuple[float, str]:
    """Seconds of plan and fit."""
    seen = median("fit", name, scale)
    note = f"planning {seen['planning']:.2f} s; the same once more {seen['again']:.2f} s; {seen['memory']:.2f} GB"
    sound = seen["holds"] and seen["status"] == "CONVERGED"
    return seen["seconds"], note if sound else f"NOT CERTIFIED ({seen['status']}): {note}"


def memory(name: str, scale: float) -> tuple[float, str]:
    """Memory of plan and fit beyond imports, data and model."""
    seen = called("fit", name, scale)
    return seen["memory"], "" if seen["memory_of_the_call_alone"] else "MAKING THE DATA COUNTED"


def planning(name: str, scale: float) -> tuple[float, str]:
    seen = called("fit", name, scale)
    return seen["planning"], f"and {seen['seconds'] - seen['planning']:.1f} s of fit"


def drawing(name: str, caches: bool, scale: float) -> tuple[float, str]:
    """Seconds from the model to the draws; caches: whether with those of the user, or with empty ones."""
    if caches:
        called("sample", name, scale)
        seen = median("sample", name, scale)
    else:
        with tempfile.TemporaryDirectory() as empty:
            seen = called("sample", name, scale, empty)
    return seen["seconds"], f"compiling {seen['compiling']:.1f} s; the same once more {seen['again']:.1f} s"


def beside_nutpie(name: str, caches: bool, scale: float) -> Pair:
    """Both from their model to 4 × 1000 draws, compiling included; with the user's caches, or with empty ones."""
    if caches:
        called("sample", name, scale)
        called("explicit", name, scale)

    def run(what: str, _: int) -> Timing:
        with tempfile.TemporaryDirectory() as empty:
            return side(what, name, scale, None if caches else empty)

    note = "ours with latents and log-likelihoods"
    return Pair(partial(run, "sample"), partial(run, "explicit"), None, note, warm=False, fewest=1)


def beside_sklearn(name: str, n: int | None, k: int, starts: int, tol: float, scale: float) -> Pair:
    """Ours with ten starts, certificate and standard errors beside so many of scikit-learn's to a tolerance."""
    from sklearn.mixture import GaussianMixture

    y = gaussians(scaled(n, scale), 8, k).y if n else np.asarray(_values(CALLS[name].build(scale)))
    ours = called("fit", name, scale)
    rival = GaussianMixture(k, n_init=starts, tol=tol, max_iter=5000, random_state=1)
    theirs = local(lambda: rival.fit(y))
    theirs(1)
    short = ours["value"] - rival.score(y) * len(y)
    return Pair(
        lambda _: side("fit", name, scale), theirs, None,
        f"theirs ends {short:+.1g} nats below", warm=False,
    )  # fmt: skip


def _values(model: Any) -> Any:
    return model.rvs_to_values[model["y"]].data


def beside_r(name: str, package: str, rival: str, k: int, columns: Callable[[], dict[str, Any]], scale: float) -> Pair:
    """Ours beside a package of R by its own defaults, on the same data."""
    arrays = columns()
    y = arrays["y"]
    r = R(package, rival, (len(y), sum(np.atleast_2d(a.T).shape[0] for n, a in arrays.items() if n != "y"), k), arrays)
    short = called("fit", name, scale)["value"] - float(r.result()[0])
    return Pair(
        lambda _: side("fit", name, scale), r.side, None,
        f"theirs ends {short:+.1g} nats below", warm=False, close=r.close,
    )  # fmt: skip


def _npreg() -> dict[str, Any]:
    data = pd.read_csv(mixture_regression.EXAMPLE)
    return {"y": data["yn"].to_numpy(), "x": data["x"].to_numpy()}


def _articles() -> dict[str, Any]:
    data = pd.read_csv(zero_inflated.EXAMPLE)
    return {"y": data["art"].to_numpy(), "x": data.drop(columns="art").select_dtypes("number").to_numpy()}


def _by_hand(module: str, package: str) -> Any:
    """The module of a rival that is no dependency of the tests."""
    try:
        return import_module(module)
    except ImportError:
        raise NotInstalled(f"{package} (pip install {package})") from None


def beside_crowdkit(scale: float) -> Pair:
    """Dawid–Skene: ours with its ten starts beside the single run of crowd-kit."""
    data = pd.read_csv(dawid_skene.EXAMPLE)
    data = data.rename(columns={"patient": "task", "observer": "worker", "rating": "label"})
    rival = _by_hand("crowdkit.aggregation", "crowd-kit").DawidSkene(n_iter=5000, tol=1e-9)
    return Pair(
        lambda _: side("fit", "dawid-skene", scale), local(lambda: rival.fit(data)), None,
        "one run from the majority's vote, without errors; maximum likelihood where ours has priors", warm=False,
    )  # fmt: skip


def beside_stepmix(scale: float) -> Pair:
    """A latent class model: ours beside StepMix, ten starts."""
    model = latent_class.build()
    answers = np.asarray(model.rvs_to_values[model["answer"]].data)
    rival = _by_hand("stepmix.stepmix", "stepmix").StepMix(
        2, measurement="binary", n_init=10, abs_tol=1e-8, rel_tol=0.0, max_iter=5000, progress_bar=0
    )
    return Pair(
        lambda _: side("fit", "latent-class", scale), local(lambda: rival.fit(answers)),
        None, "ten starts, maximum likelihood where ours has priors", warm=False,
    )  # fmt: skip


FITS = (
    ("coins", "coins", 0.25), ("old-faithful-ml", "Old Faithful, K = 2, maximum likelihood", 0.6),
    ("old-faithful-map", "Old Faithful, K = 2, LKJ priors", 1.0), ("npreg", "NPreg, maximum likelihood", 0.7),
    ("zero-inflated", "zero-inflated Poisson regression, 915 students", None),
    ("dawid-skene", "Dawid–Skene, anaesthetists", 0.7), ("latent-class", "latent class, Stouffer–Toby", 0.4),
    ("rows-1e5", "GMM full, 1e5 × 8, K = 8", 2.5), ("rows-1e6", "GMM full, 1e6 × 8, K = 8", 12.0),
    ("wide", "GMM full, 2e4 × 32, K = 16, without standard errors", 20.0),
)  # fmt: skip
DRAWS = (
    ("coins", "coins", 2.5), ("old-faithful-map", "Old Faithful, K = 2", 4.5),
    ("old-faithful-3", "Old Faithful, K = 3", 6.0), ("latent-class", "latent class, Stouffer–Toby", 6.0),
    ("dawid-skene", "Dawid–Skene, anaesthetists", 10.0),
)  # fmt: skip
ROWS: tuple[Race | Limit, ...] = (
    *(Limit(f"whole-{name}", f"{work}: plan and fit", "s", bar, partial(fitting, name)) for name, work, bar in FITS),
    Limit("whole-memory-1e5", "GMM full, 1e5 × 8, K = 8: memory of the call", "GB", 0.08, partial(memory, "rows-1e5")),
    Limit("whole-memory-1e6", "GMM full, 1e6 × 8, K = 8: memory of the call", "GB", 0.2, partial(memory, "rows-1e6")),
    Limit("whole-plan-1e6", "GMM full, 1e6 × 8, K = 8: the plan alone", "s", 2.0, partial(planning, "rows-1e6")),
    *(
        Limit(f"draws-{name}", f"{work}: model to 4 × 1000 draws", "s", bar, partial(drawing, name, True))
        for name, work, bar in DRAWS
    ),
    *(
        Limit(
            f"draws-first-{name}", f"{work}: the same, nothing ever compiled", "s", bar + EMPTY_CACHES,
            partial(drawing, name, False),
        )
        for name, work, bar in DRAWS
    ),
    *(
        Race(
            f"draws-nutpie-{name}{'' if caches else '-first'}",
            f"{work}: model to 4 × 1000 draws{'' if caches else ', nothing ever compiled'}",
            "nutpie on an explicit log-sum-exp", 2.0 if caches else 3.0, partial(beside_nutpie, name, caches),
        )
        for name, work, _ in DRAWS for caches in (True, False)
    ),
    *(
        Race(
            f"whole-sklearn-{name}-{starts}", f"{work}: plan and fit, ten starts",
            f"scikit-learn, {starts} start{'s' if starts > 1 else ''}, tol {tol:g}", None,
            partial(beside_sklearn, name, n, k, starts, tol),
        )
        for name, work, n, k in (
            ("old-faithful-ml", "Old Faithful, K = 2", None, 2), ("rows-1e5", "GMM full, 1e5 × 8, K = 8", 100_000, 8),
        )
        for starts, tol in ((1, 1e-3), (10, 1e-9))
    ),
    Race(
        "whole-flexmix", "NPreg: plan and fit, ten starts", "flexmix, ten runs", None,
        partial(beside_r, "npreg", "flexmix", "npreg", 2, _npreg),
    ),
    Race(
        "whole-pscl", "zero-inflated Poisson regression: plan and fit, ten starts", "pscl's zeroinfl", None,
        partial(beside_r, "zero-inflated", "pscl", "zero_inflated", 2, _articles),
    ),
    Race("whole-crowdkit", "Dawid–Skene: plan and fit, ten starts", "crowd-kit, one run", None, beside_crowdkit),
    Race("whole-stepmix", "latent class: plan and fit, ten starts", "StepMix, ten starts", None, beside_stepmix),
)  # fmt: skip
