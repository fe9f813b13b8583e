"""Natural forms of counts and categories.

Bernoulli, Binomial, Categorical, Multinomial, Poisson, Geometric, NegativeBinomial.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pymc as pm
import pytensor.tensor as pt
from scipy.special import gammaln, xlogy

from emppl.rules.tables import Family, columns, conjugate, family, ratio, single


def _whole(y: np.ndarray) -> np.ndarray:
    return np.isfinite(y) & (y == np.round(y)) & (y >= 0)


@family.register(pm.Bernoulli)
def bernoulli(op: Any) -> Family:
    return Family(
        name="Bernoulli",
        parameters=("p",),
        describe="0 or 1",
        statistic=lambda y: columns(1 - y, y),
        natural=lambda p: pt.stack([pt.log1p(-p), pt.log(p)], axis=-1),
        log_base=lambda y: np.zeros(np.shape(y)),
        maximise=single("p", lambda s: ratio(s[:, 1], np.add.reduce(s, 1))),
        inside=lambda y: (y == 0) | (y == 1),
    )


@family.register(pm.Binomial)
def binomial(op: Any) -> Family:
    return Family(
        name="Binomial",
        parameters=("n", "p"),
        known=("n",),
        describe="0 … n, n known",
        statistic=lambda y, n: columns(n - y, y),
        natural=lambda p: pt.stack([pt.log1p(-p), pt.log(p)], axis=-1),
        log_base=lambda y, n: gammaln(n + 1.0) - gammaln(y + 1.0) - gammaln(n - y + 1.0),
        maximise=single("p", lambda s: ratio(s[:, 1], np.add.reduce(s, 1))),
        inside=lambda y, n: _whole(y) & (y <= n),
    )


@conjugate(pm.Beta, pm.Bernoulli, "p")
@conjugate(pm.Beta, pm.Binomial, "p")
def beta_successes(alpha: np.ndarray, beta: np.ndarray) -> np.ndarray:
    return columns(beta - 1.0, alpha - 1.0)


@family.register(pm.Categorical)
def categorical(op: Any) -> Family:
    return Family(
        name="Categorical",
        parameters=("p",),
        describe="0 … K - 1",
        statistic=lambda y, size: np.eye(size)[np.asarray(y, dtype=int)],
        natural=lambda p: pt.log(p),
        log_base=lambda y: np.zeros(np.shape(y)),
        maximise=single("p", lambda s: ratio(s, np.add.reduce(s, 1, keepdims=True))),
        inside=lambda y, size: _whole(y) & (y < size),
    )


@family.register(pm.Multinomial)
def multinomial(op: Any) -> Family:
    return Family(
        name="Multinomial",
        parameters=("n", "p"),
        known=("n",),
        describe="counts that sum to n, n known",
        statistic=lambda y, n: np.asarray(y, dtype=float),
        natural=lambda p: pt.log(p),
        log_base=lambda y, n: gammaln(n + 1.0) - gammaln(y + 1.0).sum(axis=-1),
        maximise=single("p", lambda s: ratio(s, np.add.reduce(s, 1, keepdims=True))),
        inside=lambda y, n: _whole(y).all(axis=-1) & (y.sum(axis=-1) == n),
    )


@conjugate(pm.Dirichlet, pm.Categorical, "p")
@conjugate(pm.Dirichlet, pm.Multinomial, "p")
def dirichlet_counts(alpha: np.ndarray) -> np.ndarray:
    return np.asarray(alpha) - 1.0


@family.register(pm.Poisson)
def poisson(op: Any) -> Family:
    """With a known exposure e the rate is e mu: the exposure takes the place of the count of observations."""
    return Family(
        name="Poisson",
        parameters=("mu",),
        scale="mu",
        describe="0, 1, 2, …; a known exposure may multiply mu",
        statistic=lambda y, exposure=1.0: columns(exposure, y),
        natural=lambda mu: pt.stack([-mu, pt.log(mu)], axis=-1),
        log_base=lambda y, exposure=1.0: xlogy(y, exposure) - gammaln(y + 1.0),
        maximise=single("mu", lambda s: ratio(s[:, 1], s[:, 0])),
        inside=lambda y: _whole(y),
    )


@conjugate(pm.Gamma, pm.Poisson, "mu")
def gamma_poisson(alpha: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return columns(1.0 / np.asarray(scale), alpha - 1.0)


@conjugate(pm.Exponential, pm.Poisson, "mu")
def exponential_poisson(scale: np.ndarray) -> np.ndarray:
    return columns(1.0 / np.asarray(scale), 0.0)


@family.register(pm.Geometric)
def geometric(op: Any) -> Family:
    return Family(
        name="Geometric",
        parameters=("p",),
        describe="1, 2, 3, …",
        statistic=lambda y: columns(1.0, y - 1.0),
        natural=lambda p: pt.stack([pt.log(p), pt.log1p(-p)], axis=-1),
        log_base=lambda y: np.zeros(np.shape(y)),
        maximise=single("p", lambda s: ratio(s[:, 0], s.sum(axis=1))),
        inside=lambda y: _whole(y) & (y >= 1),
    )


@family.register(pm.NegativeBinomial)
def negative_binomial(op: Any) -> Family:
    """As PyMC's op holds it: by alpha and p = alpha / (mu + alpha); an exponential family where alpha is known."""
    return Family(
        name="NegativeBinomial",
        parameters=("alpha", "p"),
        known=("alpha",),
        describe="0, 1, 2, …, alpha known",
        statistic=lambda y, alpha: columns(alpha, y),
        natural=lambda p: pt.stack([pt.log(p), pt.log1p(-p)], axis=-1),
        log_base=lambda y, alpha: gammaln(y + alpha) - gammaln(alpha) - gammaln(y + 1.0),
        maximise=single("p", lambda s: ratio(s[:, 0], s.sum(axis=1))),
        inside=lambda y, alpha: _whole(y),
    )


@conjugate(pm.Beta, pm.Geometric, "p")
@conjugate(pm.Beta, pm.NegativeBinomial, "p")
def beta_first_success(alpha: np.ndarray, beta: np.ndarray) -> np.ndarray:
    return columns(alpha - 1.0, beta - 1.0)
