"""One row for each family and each conjugate prior; contracts run over all rows. Models: `small_models`."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pymc as pm
from scipy import integrate, stats

Arrays = dict[str, np.ndarray]


class FamilyCase(NamedTuple):
    """`draw(rng)` makes parameters of one cell as the op holds them, from a convex set: mixing two stays inside."""

    distribution: Any
    draw: Callable[[np.random.Generator], Arrays]
    dist: Callable[..., Any]  # op parameters -> pm.X.dist
    sample: Callable[..., np.ndarray]  # rng, n, op parameters -> [n, *core]
    log_density: Callable[..., np.ndarray]  # y, op parameters -> [n], by scipy
    expected: Callable[..., np.ndarray]  # op parameters -> expected statistics of one observation [S], by other means
    takes: Mapping[str, Any] = {}  # what the statistics need besides: numbers of trials, of categories
    outside: tuple[Any, ...] = ()  # values that the family cannot produce


def simplex(rng: np.random.Generator, size: int = 3) -> np.ndarray:
    return rng.dirichlet(np.full(size, 2.0))


def covariance(rng: np.random.Generator, d: int = 2) -> np.ndarray:
    root = rng.normal(size=(d, d))
    return root @ root.T + 0.3 * np.eye(d)


def _second_moments(mu: np.ndarray, cov: np.ndarray) -> np.ndarray:
    i, j = np.triu_indices(len(mu))
    return np.concatenate([[1.0], mu, (cov + np.outer(mu, mu))[i, j]])


def _by_quadrature(scale: float) -> np.ndarray:
    mean, _ = integrate.quad(lambda y: y * np.exp(-y / scale) / scale, 0, np.inf)
    return np.array([1.0, mean])


def _poisson_mean(mu: float) -> np.ndarray:
    y = np.arange(400)
    return np.array([1.0, y @ stats.poisson.pmf(y, mu)])


def _multinomial_mean(p: np.ndarray, n: int) -> np.ndarray:
    table = np.array([(a, b, n - a - b) for a in range(n + 1) for b in range(n + 1 - a)])
    return stats.multinomial.pmf(table, n, p) @ table


TRIALS = 7
FAMILIES = {
    "Bernoulli": FamilyCase(
        pm.Bernoulli,
        lambda rng: {"p": rng.uniform(0.05, 0.95)},
        lambda p: pm.Bernoulli.dist(p=p),
        lambda rng, n, p: rng.binomial(1, p, n),
        lambda y, p: stats.bernoulli.logpmf(y, p),
        lambda p: np.array([1 - p, p]),
        outside=(2, -1),
    ),
    "Binomial": FamilyCase(
        pm.Binomial,
        lambda rng: {"p": rng.uniform(0.05, 0.95)},
        lambda p: pm.Binomial.dist(n=np.int64(TRIALS), p=p),
        lambda rng, n, p: rng.binomial(TRIALS, p, n),
        lambda y, p: stats.binom.logpmf(y, TRIALS, p),
        lambda p: (
            stats.binom.pmf(np.arange(TRIALS + 1), TRIALS, p)
            @ np.stack([TRIALS - np.arange(TRIALS + 1), np.arange(TRIALS + 1)], axis=1)
        ),
        {"n": np.array(TRIALS)},
        outside=(TRIALS + 1, -1),
    ),
    "Categorical": FamilyCase(
        pm.Categorical,
        lambda rng: {"p": simplex(rng)},
        lambda p: pm.Categorical.dist(p=p),
        lambda rng, n, p: rng.choice(3, size=n, p=p),
        lambda y, p: np.log(p)[y],
        lambda p: p,
        {"size": 3},
        outside=(3, -1),
    ),
    "Multinomial": FamilyCase(
        pm.Multinomial,
        lambda rng: {"p": simplex(rng)},
        lambda p: pm.Multinomial.dist(n=np.int64(TRIALS), p=p),
        lambda rng, n, p: rng.multinomial(TRIALS, p, n),
        lambda y, p: stats.multinomial.logpmf(y, TRIALS, p),
        lambda p: _multinomial_mean(p, TRIALS),
        {"n": np.array(TRIALS)},
        outside=((1, 1, 1), (TRIALS + 1, -1, 0)),
    ),
    "Poisson": FamilyCase(
        pm.Poisson,
        lambda rng: {"mu": rng.uniform(0.2, 9.0)},
        lambda mu: pm.Poisson.dist(mu=mu),
        lambda rng, n, mu: rng.poisson(mu, n),
        lambda y, mu: stats.poisson.logpmf(y, mu),
        _poisson_mean,
        outside=(-1, 0.5),
    ),
    "Exponential": FamilyCase(
        pm.Exponential,
        lambda rng: {"scale": rng.uniform(0.2, 5.0)},
        lambda scale: pm.Exponential.dist(scale=scale),
        lambda rng, n, scale: rng.exponential(scale, n),
        lambda y, scale: stats.expon.logpdf(y, scale=scale),
        _by_quadrature,
        outside=(-0.1, np.nan, np.inf),
    ),
    "Normal": FamilyCase(
        pm.Normal,
        lambda rng: {"mu": rng.normal(), "sigma": rng.uniform(0.3, 3.0)},
        lambda mu, sigma: pm.Normal.dist(mu=mu, sigma=sigma),
        lambda rng, n, mu, sigma: rng.normal(mu, sigma, n),
        lambda y, mu, sigma: stats.norm.logpdf(y, mu, sigma),
        lambda mu, sigma: np.array([1.0, mu, sigma**2 + mu**2]),
        outside=(np.nan, np.inf),
    ),
    "MvNormal": FamilyCase(
        pm.MvNormal,
        lambda rng: {"mu": rng.normal(size=2), "cov": covariance(rng)},
        lambda mu, cov: pm.MvNormal.dist(mu=mu, cov=cov),
        lambda rng, n, mu, cov: rng.multivariate_normal(mu, cov, n),
        lambda y, mu, cov: stats.multivariate_normal.logpdf(y, mu, cov),
        _second_moments,
        outside=((np.nan, 0.0), (0.0, np.inf)),
    ),
}


class ConjugateCase(NamedTuple):
    """`log_prior(user's parameter)` up to a constant; `op(user's parameter)`: the parameters of the family's op."""

    prior: Any
    family: str
    parameter: str
    arguments: tuple[Any, ...]  # as the prior's op holds them
    draw: Callable[[np.random.Generator], Any]
    op: Callable[[Any], Arrays]
    log_prior: Callable[[Any], float]


CONJUGATES = [
    ConjugateCase(
        pm.Beta,
        family,
        "p",
        (2.5, 1.5),
        lambda rng: rng.uniform(0.1, 0.9),
        lambda p: {"p": p},
        lambda p: stats.beta.logpdf(p, 2.5, 1.5),
    )
    for family in ("Bernoulli", "Binomial")
]
CONJUGATES += [
    ConjugateCase(
        pm.Dirichlet,
        family,
        "p",
        (np.array([2.0, 1.0, 3.5]),),
        simplex,
        lambda p: {"p": p},
        lambda p: stats.dirichlet.logpdf(p, [2.0, 1.0, 3.5]),
    )
    for family in ("Categorical", "Multinomial")
]
CONJUGATES += [
    ConjugateCase(
        pm.Gamma,
        "Poisson",
        "mu",
        (3.0, 0.7),
        lambda rng: rng.uniform(0.5, 6.0),
        lambda mu: {"mu": mu},
        lambda mu: stats.gamma.logpdf(mu, 3.0, scale=0.7),
    ),
    ConjugateCase(
        pm.Exponential,
        "Poisson",
        "mu",
        (1.7,),
        lambda rng: rng.uniform(0.5, 6.0),
        lambda mu: {"mu": mu},
        lambda mu: stats.expon.logpdf(mu, scale=1.7),
    ),
    ConjugateCase(
        pm.InverseGamma,
        "Exponential",
        "scale",
        (2.0, 3.0),
        lambda rng: rng.uniform(0.5, 6.0),
        lambda scale: {"scale": scale},
        lambda scale: stats.invgamma.logpdf(scale, 2.0, scale=3.0),
    ),
    ConjugateCase(
        pm.Gamma,
        "Exponential",
        "scale",
        (3.0, 0.7),
        lambda rng: rng.uniform(0.5, 6.0),
        lambda lam: {"scale": 1 / lam},
        lambda lam: stats.gamma.logpdf(lam, 3.0, scale=0.7),
    ),
    ConjugateCase(
        pm.Exponential,
        "Exponential",
        "scale",
        (1.7,),
        lambda rng: rng.uniform(0.5, 6.0),
        lambda lam: {"scale": 1 / lam},
        lambda lam: stats.expon.logpdf(lam, scale=1.7),
    ),
    ConjugateCase(
        pm.InverseGamma,
        "Normal",
        "sigma",
        (2.0, 3.0),
        lambda rng: rng.uniform(0.5, 6.0),
        lambda variance: {"mu": 0.0, "sigma": np.sqrt(variance)},
        lambda variance: stats.invgamma.logpdf(variance, 2.0, scale=3.0),
    ),
    ConjugateCase(
        pm.Normal,
        "Normal",
        "mu",
        (0.4, 2.0),
        lambda rng: rng.normal(),
        lambda mu: {"mu": mu, "sigma": 1.0},
        lambda mu: stats.norm.logpdf(mu, 0.4, 2.0),
    ),
]
