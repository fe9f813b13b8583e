"""Gaussian mixtures beside scikit-learn: one pass at equal parameters, and the way to the optimum from equal starts."""

from __future__ import annotations

import time
import warnings
from functools import partial
from typing import Any

import numpy as np
from sklearn.mixture import GaussianMixture
from sklearn.mixture._gaussian_mixture import _compute_precision_cholesky

import emppl
from emppl.ascent.loop import Ascent, ascend
from emppl.kernels.threads import one_blas_thread

from .cases import Pair, Race, scaled
from .data import Gaussians, gaussians
from .mixtures import by_cholesky, cholesky_theta, covariances, difference, shipped, shipped_theta
from .timing import em_pass, local

NATS = 1e-6  # both sides must come this near to the optimum
SKLEARN_TYPES = {"full": "full", "diagonal": "diag", "spherical": "spherical"}


class Sklearn:
    """scikit-learn's mixture at given parameters, without its regularisation: plain maximum likelihood."""

    def __init__(self, data: Gaussians, shape: str) -> None:
        self.y = data.y
        kind = SKLEARN_TYPES[shape]
        variances = np.diagonal(data.covariances, axis1=1, axis2=2)
        given = {"full": data.covariances, "diag": variances, "spherical": variances.mean(axis=1)}[kind]
        self.model = GaussianMixture(len(data.weights), covariance_type=kind, reg_covar=0.0)
        self.start = data.weights, data.means, _compute_precision_cholesky(given, kind)

    def one_pass(self) -> float:
        """Its E-step and its M-step from the given parameters; the log-likelihood at those."""
        self.model.weights_, self.model.means_, self.model.precisions_cholesky_ = self.start
        return self.next_pass()

    def next_pass(self) -> float:
        """The same from where the last pass ended."""
        mean, log_responsibilities = self.model._e_step(self.y)
        self.model._m_step(self.y, log_responsibilities)
        return float(mean) * len(self.y)

    @property
    def parameters(self) -> tuple[Any, ...]:
        return self.model.weights_, self.model.means_, self.model.covariances_


def one_pass(n: int, d: int, k: int, shape: str, scale: float) -> Pair:
    data = gaussians(scaled(n, scale), d, k)
    began = time.perf_counter()
    plan = emppl.plan(shipped(data, shape), estimate="ml")
    planning = time.perf_counter() - began
    theta, rival = shipped_theta(data, shape), Sklearn(data, shape)
    posterior = plan.e_step(theta)
    ours = plan.m_step(theta, posterior)
    theirs = rival.one_pass(), *rival.parameters
    spread = plan.deterministics(ours)["cov"] if shape == "full" and d > 1 else ours["sd"] ** 2
    mine = posterior.log_likelihood, ours["weights"], ours["mu"].reshape(k, d), spread.reshape(theirs[3].shape)
    return Pair(
        em_pass(plan, theta), local(rival.one_pass), difference(mine, theirs),
        f"planning apart: {planning:.1f} s",
    )  # fmt: skip


def cholesky_pass(n: int, d: int, k: int, scale: float) -> Pair:
    """MAP under LKJ priors, whose M-step is a search: compared are log-likelihood and expected statistics."""
    data = gaussians(scaled(n, scale), d, k)
    model, theta, rival = by_cholesky(data.y, k), cholesky_theta(data), Sklearn(data, "full")
    plan = emppl.plan(model, estimate="map")
    posterior, theirs = plan.e_step(theta), (rival.one_pass(), *rival.parameters)
    exact = emppl.plan(model, estimate="ml").m_step(theta, posterior)  # the maximum of the same statistics, no priors
    mine = posterior.log_likelihood, exact["weights"], exact["mu"], covariances(exact, d)
    return Pair(
        em_pass(plan, theta), local(rival.one_pass), difference(mine, theirs),
        "ours with priors and a numeric M-step; compared by the M-step without priors on the same statistics",
    )  # fmt: skip


def to_the_optimum(n: int, d: int, k: int, checks: bool, scale: float) -> Pair:
    """Both sides stop where they first come near enough: told beforehand, at no cost to either.

    checks: emppl.fit, which ends with its certificate and what standard errors need; otherwise its ascent alone.
    """
    data = gaussians(scaled(n, scale), d, k, spread=0.6)  # so that EM takes some fifty iterations
    began = time.perf_counter()
    plan = emppl.plan(shipped(data, "full"), estimate="ml")
    planning = time.perf_counter() - began
    theta = shipped_theta(data, "full")
    fit = emppl.fit(plan, start=theta, starts=0)
    rival, passes, before = Sklearn(data, "full"), 1, -np.inf
    reached = rival.one_pass()  # a pass tells the log-likelihood before its M-step
    while reached < fit.log_likelihood - NATS and reached > before:
        before, reached, passes = reached, rival.next_pass(), passes + 1

    def climb(tol: float) -> Ascent:
        with one_blas_thread():  # as in emppl.fit
            return ascend(plan, theta, tol=tol)

    def theirs() -> GaussianMixture:
        precisions = np.linalg.inv(data.covariances)
        model = GaussianMixture(
            k, reg_covar=0.0, tol=0.0, max_iter=passes - 1, weights_init=data.weights, means_init=data.means,
            precisions_init=precisions,
        )  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it does not know that it has arrived
            return model.fit(data.y)

    def ours() -> object:
        return emppl.fit(plan, start=theta, starts=0) if checks else climb(tol)

    tol, end, mine = NATS, fit.log_likelihood, fit.n_passes
    if not checks:
        runs = ((tol, climb(tol)) for tol in NATS * 0.1 ** np.arange(6))
        tol, run = next((pair for pair in runs if pair[1].objective > fit.log_likelihood - NATS), (NATS, climb(NATS)))
        end, mine = run.objective, run.n_passes
    gap = reached - end
    note = f"{mine} passes against {passes - 1}; planning apart: {planning:.1f} s; theirs ends {gap:+.1e} nats"
    if not checks:
        note += f"; ours with tol={tol:.0e}"
    if abs(gap) > 2 * NATS:
        note = f"NOT THE SAME OPTIMUM: {note}"
    return Pair(local(ours), local(theirs), abs(gap) / abs(reached), note, warm=False)


def _pass_row(n: int, d: int, k: int, shape: str, bar: float) -> Race:
    size = f"{n:.0e}".replace("e+0", "e")
    return Race(
        f"pass-{shape}-{size}x{d}", f"GMM {shape}, {size} × {d}, K = {k}: one pass", "scikit-learn", bar,
        partial(one_pass, n, d, k, shape),
    )  # fmt: skip


ROWS = (
    _pass_row(10_000, 2, 3, "full", 10),
    _pass_row(100_000, 8, 8, "full", 20),
    _pass_row(1_000_000, 8, 8, "full", 30),
    _pass_row(100_000, 32, 16, "full", 8),
    _pass_row(1_000_000, 1, 5, "full", 30),
    _pass_row(1_000_000, 8, 8, "diagonal", 20),
    _pass_row(1_000_000, 8, 8, "spherical", 30),
    Race(
        "pass-cholesky", "GMM by LKJ-Cholesky factors, MAP, 1e5 × 8, K = 8: one pass", "scikit-learn, full", 15,
        partial(cholesky_pass, 100_000, 8, 8),
    ),
    Race(
        "optimum-fit", "GMM full, 1e5 × 8, K = 8: to the optimum within 1e-6 nats, same start; emppl.fit, all checks",
        "scikit-learn", 30, partial(to_the_optimum, 100_000, 8, 8, True),
    ),
    Race(
        "optimum-ascent", "the same, the ascent alone: no certificate, no standard errors", "scikit-learn", 30,
        partial(to_the_optimum, 100_000, 8, 8, False),
    ),
)  # fmt: skip
