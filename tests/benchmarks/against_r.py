"""One pass beside R's packages mclust and flexmix, which run and are timed inside an R of their own (rivals.R)."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import emppl
from emppl.models import mixture_regression, poisson_mixture

from .cases import NotInstalled, Pair, Race, scaled
from .data import counts, gaussians, lines
from .mixtures import difference, shipped, shipped_theta
from .timing import Timing, em_pass


class R:
    """A rival that waits for commands. arrays: what it reads, handed over as files of doubles."""

    def __init__(self, package: str, rival: str, shape: tuple[int, int, int], arrays: Mapping[str, Any]) -> None:
        if shutil.which("Rscript") is None:
            raise NotInstalled("R (Rscript is not found)")
        if subprocess.run(["Rscript", "-e", f"library({package})"], capture_output=True).returncode:
            raise NotInstalled(f"the package {package} of R")
        self.folder = tempfile.TemporaryDirectory()
        for name, array in arrays.items():
            np.ascontiguousarray(array, dtype=float).tofile(Path(self.folder.name) / name)
        script = Path(__file__).with_name("rivals.R")
        command = ["Rscript", "--vanilla", script, self.folder.name, rival, *shape]
        self.process = subprocess.Popen(
            [str(word) for word in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, command: str) -> str:
        """The line that answers a command."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(f"{command}\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"R ended with status {self.process.wait()}; its message stands above")
        return answer

    def side(self, repetitions: int) -> Timing:
        """One of so many passes, timed inside R."""
        return Timing(*map(float, self.ask(f"time {repetitions}").split()))

    def result(self) -> np.ndarray:
        """Log-likelihood and parameters after one pass, as one array."""
        self.ask("check")
        return np.fromfile(Path(self.folder.name) / "result")

    def close(self) -> None:
        """End it."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()
        self.folder.cleanup()


def _pair(plan: emppl.Plan, theta: dict[str, np.ndarray], r: R, compared: float, note: str) -> Pair:
    return Pair(em_pass(plan, theta), r.side, compared, note, close=r.close)


def _next_weights(plan: emppl.Plan, theta: dict[str, np.ndarray]) -> np.ndarray:
    """The weights that flexmix tells with its parameters are those of the next M-step."""
    return plan.m_step(theta, plan.e_step(theta))["weights"]


def against_mclust(n: int, d: int, k: int, scale: float) -> Pair:
    data = gaussians(scaled(n, scale), d, k)
    arrays = data._asdict()
    r = R("mclust", "mclust", (len(data.y), d, k), arrays)
    plan, theta = emppl.plan(shipped(data, "full"), estimate="ml"), shipped_theta(data, "full")
    posterior = plan.e_step(theta)
    new = plan.m_step(theta, posterior)
    theirs = r.result()
    parts = np.split(theirs, np.cumsum([1, k, k * d]))
    mine = posterior.log_likelihood, new["weights"], new["mu"].ravel(), plan.deterministics(new)["cov"].ravel()
    return _pair(plan, theta, r, difference(mine, (parts[0][0], *parts[1:])), "estep and mstep of VVV")


def poisson(n: int, scale: float) -> Pair:
    y, theta = counts(scaled(n, scale))
    plan = emppl.plan(poisson_mixture.build({"y": y}, k=3), estimate="ml")
    (responsibilities,) = plan.responsibilities(theta).values()
    r = R("flexmix", "poisson", (len(y), 1, 3), {"y": y, "responsibilities": responsibilities})
    new = plan.m_step(theta, plan.e_step(theta))
    theirs = r.result()
    mine = plan.log_likelihood(new), _next_weights(plan, new), new["rate"]
    compared = difference(mine, (theirs[0], *np.split(theirs[1:], 2)))
    return _pair(plan, theta, r, compared, "FLXMCmvpois; an iteration by difference")


def regression(n: int, covariates: int, scale: float) -> Pair:
    x, y, theta = lines(scaled(n, scale), covariates)
    columns = {"y": y} | {f"x{j + 1}": column for j, column in enumerate(x.T)}
    plan = emppl.plan(mixture_regression.build(columns, k=3), estimate="ml")
    (responsibilities,) = plan.responsibilities(theta).values()
    arrays = {"y": y, "x": x, "responsibilities": responsibilities}
    r = R("flexmix", "regression", (len(y), covariates, 3), arrays)
    theirs = r.result()
    by_line = theirs[4:].reshape(3, covariates + 2)
    new = plan.m_step(theta, plan.e_step(theta))
    # flexmix divides by the rows less the coefficients where maximum likelihood divides by the rows
    new["sigma"] = new["sigma"] * np.sqrt(len(y) / (len(y) - covariates - 1))
    mine = plan.log_likelihood(new), _next_weights(plan, new), new["coefficients"], new["sigma"]
    compared = difference(mine, (theirs[0], theirs[1:4], by_line[:, :-1], by_line[:, -1]))
    return _pair(plan, theta, r, compared, "FLXMRglm, its sigma put on our scale; an iteration by difference")


ROWS = (
    Race(
        "mclust", "GMM full, 1e5 × 8, K = 8: one pass", "mclust", 10,
        partial(against_mclust, 100_000, 8, 8),
    ),
    Race(
        "flexmix-poisson", "Poisson mixture, 1e6 counts, K = 3: one pass", "flexmix", 100,
        partial(poisson, 1_000_000),
    ),
    Race(
        "flexmix-regression", "mixture of 3 linear regressions, 1e5 × 5: one pass", "flexmix", 20,
        partial(regression, 100_000, 5),
    ),
)  # fmt: skip
