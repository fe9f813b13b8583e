"""One row for each family and each conjugate prior; contracts run over all rows. Models: `small_models`."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pymc as pm
from scipy import integrate, stats

from emppl.rules import family

Arrays = dict[str, np.ndarray]


class FamilyCase(NamedTuple):
    """`draw(rng)` makes parameters of one cell as the op holds them, from a convex set: mixing two stays inside."""

    distribution: Any
    draw: Callable[[np.random.Generator], Arrays]
    dist: Callable[..., Any]  # op parameters -> pm.X.dist
    sample: Callable[..., np.ndarray]  # rng, n, op parameters -> [n, *core]
    log_density: Callable[..., np.ndarray]  # y, op parameters -> [n], by scipy
    expected: Callable[..., np.ndarray]  # op parameters -> expected statistics of one observation [S], by other means
    takes: Mapping[
        str, Any
    ] = {}  # what the statistics need besides: numbers of trials, of categories, known parameters
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


def by_scipy(
    distribution: Any,
    draw: Callable[[np.random.Generator], Arrays],
    frozen: Callable[..., Any],
    outside: tuple[Any, ...],
    takes: Mapping[str, Any] = {},
    dist: Callable[..., Any] | None = None,
) -> FamilyCase:
    """A row whose density, draws and expectations are those of a scipy distribution `frozen(**parameters)`."""
    dist = dist or distribution.dist

    def expected(**parameters: Any) -> np.ndarray:
        """Sums for counts; else the trapezoidal rule in the logit of the probability, exact to rounding."""
        law = frozen(**parameters, **takes)
        rule = family(dist(**parameters, **takes).owner.op)
        if hasattr(law, "pmf") or hasattr(law.dist, "pmf"):
            y = np.arange(3000)
            weights = law.pmf(y)
            return weights[weights > 0] @ rule.statistic(y[weights > 0], **takes)
        t = np.arange(-35.0, 35.0, 0.05)
        tail = 1.0 / (1.0 + np.exp(np.abs(t)))
        y = np.where(t < 0, law.ppf(tail), law.isf(tail))
        return 0.05 * (tail * (1.0 - tail)) @ rule.statistic(y, **takes)

    def log_density(y: np.ndarray, **parameters: Any) -> np.ndarray:
        law = frozen(**parameters, **takes)
        return law.logpmf(y) if isinstance(law.dist, stats.rv_discrete) else law.logpdf(y)

    def sample(rng: np.random.Generator, n: int, **parameters: Any) -> np.ndarray:
        return frozen(**parameters, **takes).rvs(size=n, random_state=rng)

    def make(**parameters: Any) -> Any:
        return dist(**parameters, **takes)

    return FamilyCase(distribution, draw, make, sample, log_density, expected, takes, outside)


def _wald_means(mu: float, lam: float) -> np.ndarray:
    y = np.exp(np.arange(-12.0, 12.0, 0.01))
    weight = 0.01 * y * stats.invgauss.pdf(y, mu / lam, scale=lam)
    return weight @ np.stack([np.ones(len(y)), y, 1.0 / y], axis=1)


def _mean_angles(mu: float, kappa: float) -> np.ndarray:
    angle = np.linspace(-np.pi, np.pi, 2001)[:-1]  # periodic: the trapezoidal rule is exact to rounding
    weight = stats.vonmises.pdf(angle, kappa, loc=mu)
    return weight @ np.stack([np.ones(2000), np.cos(angle), np.sin(angle)], axis=1) * (2 * np.pi / 2000)


def _mean_log_shares(a: np.ndarray) -> np.ndarray:
    """By quadrature over each share, which is Beta."""
    pairs = [FAMILIES["Beta"].expected(alpha=x, beta=a.sum() - x) for x in a]
    return np.array([1.0, *[pair[1] for pair in pairs]])


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
    "Geometric": by_scipy(
        pm.Geometric, lambda rng: {"p": rng.uniform(0.05, 0.95)}, lambda p: stats.geom(p), outside=(0, 1.5)
    ),
    "NegativeBinomial": by_scipy(
        pm.NegativeBinomial,
        lambda rng: {"p": rng.uniform(0.1, 0.9)},
        lambda p, alpha: stats.nbinom(alpha, p),
        outside=(-1, 0.5),
        takes={"alpha": np.array(2.5)},
        dist=lambda p, alpha: pm.NegativeBinomial.dist(n=alpha, p=p),
    ),
    "Laplace": by_scipy(
        pm.Laplace,
        lambda rng: {"b": rng.uniform(0.3, 3.0)},
        lambda b, mu: stats.laplace(mu, b),
        outside=(np.nan, np.inf),
        takes={"mu": np.array(0.7)},
    )._replace(expected=lambda b: _by_quadrature(b)),  # the distance from mu is Exponential
    "LogNormal": by_scipy(
        pm.LogNormal,
        lambda rng: {"mu": rng.normal(), "sigma": rng.uniform(0.3, 2.0)},
        lambda mu, sigma: stats.lognorm(sigma, scale=np.exp(mu)),
        outside=(0.0, -1.0, np.inf),
    ),
    "Gamma": by_scipy(
        pm.Gamma,
        lambda rng: {"alpha": rng.uniform(0.6, 9.0), "scale": rng.uniform(0.2, 5.0)},
        lambda alpha, scale: stats.gamma(alpha, scale=scale),
        outside=(0.0, -1.0, np.inf),
        dist=lambda alpha, scale: pm.Gamma.dist(alpha=alpha, beta=1.0 / scale),
    ),
    "InverseGamma": by_scipy(
        pm.InverseGamma,
        lambda rng: {"alpha": rng.uniform(0.6, 9.0), "beta": rng.uniform(0.2, 5.0)},
        lambda alpha, beta: stats.invgamma(alpha, scale=beta),
        outside=(0.0, -1.0, np.inf),
    ),
    "Weibull": by_scipy(
        pm.Weibull,
        lambda rng: {"beta": rng.uniform(0.3, 5.0)},
        lambda beta, alpha: stats.weibull_min(alpha, scale=beta),
        outside=(-0.1, 0.0, np.inf),
        takes={"alpha": np.array(1.7)},
    ),
    "Pareto": by_scipy(
        pm.Pareto,
        lambda rng: {"alpha": rng.uniform(0.5, 5.0)},
        lambda alpha, m: stats.pareto(alpha, scale=m),
        outside=(1.4, np.inf),
        takes={"m": np.array(1.5)},
    ),
    "HalfNormal": by_scipy(
        pm.HalfNormal,
        lambda rng: {"sigma": rng.uniform(0.3, 5.0)},
        lambda sigma, loc: stats.halfnorm(loc, sigma),
        outside=(-0.1, np.inf),
        takes={"loc": np.array(0.0)},
        dist=lambda sigma, loc: pm.HalfNormal.dist(sigma=sigma),
    ),
    "Wald": by_scipy(
        pm.Wald,
        lambda rng: {"mu": rng.uniform(0.5, 4.0), "lam": rng.uniform(0.5, 4.0)},
        lambda mu, lam, alpha: stats.invgauss(mu / lam, loc=alpha, scale=lam),
        outside=(0.2, np.inf),
        takes={"alpha": np.array(0.2)},
    )._replace(expected=_wald_means),  # scipy has no quantiles that far out
    "Beta": by_scipy(
        pm.Beta,
        lambda rng: {"alpha": rng.uniform(1.2, 9.0), "beta": rng.uniform(1.2, 9.0)},
        lambda alpha, beta: stats.beta(alpha, beta),
        outside=(0.0, 1.0, 1.2),
    ),
    "Dirichlet": FamilyCase(
        pm.Dirichlet,
        lambda rng: {"a": rng.uniform(1.2, 5.0, size=3)},
        lambda a: pm.Dirichlet.dist(a=a),
        lambda rng, n, a: rng.dirichlet(a, n),
        lambda y, a: stats.dirichlet.logpdf(y.T, a),
        _mean_log_shares,
        outside=((0.5, 0.6, 0.1), (0.0, 0.5, 0.5)),
    ),
    "VonMises": FamilyCase(
        pm.VonMises,
        lambda rng: {"mu": rng.uniform(-2.5, 2.5), "kappa": rng.uniform(0.3, 9.0)},
        lambda mu, kappa: pm.VonMises.dist(mu=mu, kappa=kappa),
        lambda rng, n, mu, kappa: rng.vonmises(mu, kappa, n),
        lambda y, mu, kappa: stats.vonmises.logpdf(y, kappa, loc=mu),
        _mean_angles,
        outside=(3.5, np.nan),
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
        name,
        "p",
        (2.5, 1.5),
        lambda rng: rng.uniform(0.1, 0.9),
        lambda p: {"p": p},
        lambda p: stats.beta.logpdf(p, 2.5, 1.5),
    )
    for name in ("Bernoulli", "Binomial", "Geometric", "NegativeBinomial")
]
CONJUGATES += [
    ConjugateCase(
        pm.Dirichlet,
        name,
        "p",
        (np.array([2.0, 1.0, 3.5]),),
        simplex,
        lambda p: {"p": p},
        lambda p: stats.dirichlet.logpdf(p, [2.0, 1.0, 3.5]),
    )
    for name in ("Categorical", "Multinomial")
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


def _rows(prior: Any, arguments: tuple[Any, ...], law: Any, places: Mapping[str, tuple[str, Callable]]) -> None:
    """One prior of positive parameters in several families: {family: (parameter, user's parameter -> op's)}."""
    for name, (parameter, op) in places.items():
        CONJUGATES.append(
            ConjugateCase(prior, name, parameter, arguments, lambda rng: rng.uniform(0.5, 6.0), op, law.logpdf)
        )


_rows(pm.InverseGamma, (2.0, 3.0), stats.invgamma(2.0, scale=3.0), {
    "Gamma": ("scale", lambda v: {"alpha": 1.0, "scale": v}),
    "Laplace": ("b", lambda v: {"b": v}),
    "HalfNormal": ("sigma", lambda v: {"sigma": np.sqrt(v)}),
    "LogNormal": ("sigma", lambda v: {"mu": 0.0, "sigma": np.sqrt(v)}),
})  # fmt: skip
_rows(pm.Gamma, (3.0, 0.7), stats.gamma(3.0, scale=0.7), {
    "Gamma": ("scale", lambda v: {"alpha": 1.0, "scale": 1 / v}),
    "InverseGamma": ("beta", lambda v: {"alpha": 1.0, "beta": v}),
    "Pareto": ("alpha", lambda v: {"alpha": v}),
})  # fmt: skip
_rows(pm.Exponential, (1.7,), stats.expon(scale=1.7), {
    "Gamma": ("scale", lambda v: {"alpha": 1.0, "scale": 1 / v}),
    "InverseGamma": ("beta", lambda v: {"alpha": 1.0, "beta": v}),
    "Pareto": ("alpha", lambda v: {"alpha": v}),
    "Beta": ("alpha", lambda v: {"alpha": v, "beta": 2.0}),
})  # fmt: skip
_rows(pm.Exponential, (1.7,), stats.expon(scale=1.7), {
    "Gamma": ("alpha", lambda v: {"alpha": v, "scale": 1.0}),
    "InverseGamma": ("alpha", lambda v: {"alpha": v, "beta": 1.0}),
    "Beta": ("beta", lambda v: {"alpha": 2.0, "beta": v}),
})  # fmt: skip
_rows(pm.Normal, (0.4, 2.0), stats.norm(0.4, 2.0), {"LogNormal": ("mu", lambda v: {"mu": v, "sigma": 1.0})})
_rows(pm.VonMises, (0.4, 2.0), stats.vonmises(2.0, loc=0.4), {"VonMises": ("mu", lambda v: {"mu": v, "kappa": 1.0})})
