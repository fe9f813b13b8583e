"""Families inside models: the plan's rule, and the best maximum that scipy finds of a density written with scipy."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pymc as pm
import pytest
from scipy import optimize, stats
from scipy.special import expit, logsumexp

import emppl
from emppl.errors import InvalidDataError

N = 60
F = np.float64


def rate(name: str) -> Any:
    return pm.Exponential(name, F(0.3), shape=2)


class Case(NamedTuple):
    """A mixture of two: `build(z, y)` inside a model with z; u [P] in logs → log density [N, 2] and log prior."""

    draw: Callable[[np.random.Generator, np.ndarray], np.ndarray]  # rng, z -> y
    build: Callable[[Any, np.ndarray], Any]
    rule: str  # of the components' parameters
    density: Callable[[np.ndarray, np.ndarray], np.ndarray]  # y [N, 1], (a [2], b [2], …) -> [N, 2]
    n_parameters: int = 2


def exponential_priors(values: np.ndarray) -> float:
    return float(stats.expon.logpdf(values, scale=1 / 0.3).sum())


CASES = {
    "Gamma": Case(
        lambda rng, z: rng.gamma(np.where(z, 3.0, 20.0), np.where(z, 1.0, 0.5)),
        lambda z, y: pm.Gamma("y", rate("a")[z], rate("b")[z], observed=y),
        "closed form",
        lambda y, v: stats.gamma.logpdf(y, v[0], scale=1 / v[1]),
    ),
    "Gamma by mean": Case(
        lambda rng, z: rng.gamma(np.where(z, 3.0, 20.0), np.where(z, 1.0, 0.5)),
        lambda z, y: pm.Gamma("y", mu=rate("a")[z], sigma=rate("b")[z], observed=y),
        "natural form",
        lambda y, v: stats.gamma.logpdf(y, (v[0] / v[1]) ** 2, scale=v[1] ** 2 / v[0]),
    ),
    "Beta": Case(
        lambda rng, z: rng.beta(np.where(z, 2.0, 9.0), np.where(z, 8.0, 3.0)),
        lambda z, y: pm.Beta("y", rate("a")[z], rate("b")[z], observed=y),
        "closed form",
        lambda y, v: stats.beta.logpdf(y, v[0], v[1]),
    ),
    "Weibull": Case(
        lambda rng, z: np.where(z, 1.0, 6.0) * rng.weibull(np.where(z, 1.5, 5.0)),
        lambda z, y: pm.Weibull("y", rate("a")[z], rate("b")[z], observed=y),
        "autodiff",
        lambda y, v: stats.weibull_min.logpdf(y, v[0], scale=v[1]),
    ),
    "NegativeBinomial": Case(
        lambda rng, z: np.minimum(rng.negative_binomial(4, np.where(z, 0.8, 0.3)), 14),  # 15 distinct rows at most
        lambda z, y: pm.NegativeBinomial("y", mu=rate("a")[z], alpha=rate("b")[z], observed=y),
        "natural form",
        lambda y, v: stats.nbinom.logpmf(y, v[1], v[1] / (v[0] + v[1])),
    ),
    "StudentT": Case(
        lambda rng, z: np.where(z, 1.0, 8.0) + rng.standard_t(4, z.size),
        lambda z, y: pm.StudentT("y", nu=rate("c")[z], mu=rate("a")[z], sigma=rate("b")[z], observed=y),
        "",
        lambda y, v: stats.t.logpdf(y, v[0], loc=v[1], scale=v[2]),
        3,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_mixture_reaches_the_best_that_scipy_finds(name):
    case, rng = CASES[name], np.random.default_rng(4)
    y = case.draw(rng, np.arange(N) % 2 == 0)
    with pm.Model() as model:
        case.build(pm.Bernoulli("z", F(0.5), shape=N), y)
    plan = emppl.plan(model)
    assert case.rule in plan.blocks[0].rule
    fit = emppl.fit(plan, seed=1, starts=5)
    assert fit.certificate.holds, fit.certificate

    def downhill(logs: np.ndarray) -> float:
        values = np.exp(logs).reshape(-1, 2)
        with np.errstate(all="ignore"):
            joint = case.density(y[:, None], values) - np.log(2.0)
            value = -logsumexp(joint, axis=1).sum() - exponential_priors(values)
        return value if np.isfinite(value) else 1e10

    starts = rng.normal(scale=1.0, size=(8, 2 * case.n_parameters))
    best = min(optimize.minimize(downhill, start, method="BFGS").fun for start in starts)
    assert fit.log_posterior >= -best - 1e-6
    at_fit = np.log(np.stack([fit.theta[n].values for n in ("c", "a", "b") if n in fit.theta]))
    assert fit.log_posterior == pytest.approx(-downhill(at_fit.ravel()), abs=1e-8)  # and it is the same function


# -- what is hidden in a distribution: zero-inflated and hurdle --------------------------------------------------------


def _zero_or(log_zero: np.ndarray, log_rest: np.ndarray, y: np.ndarray, law: np.ndarray) -> np.ndarray:
    return np.where(y == 0, np.logaddexp(log_zero, log_rest + law), log_rest + law)


def _hurdle(y: np.ndarray, psi: float, law: Any) -> np.ndarray:
    return np.where(y == 0, np.log1p(-psi), np.log(psi) + law.logpmf(y) - law.logsf(0))


HIDDEN = {
    "ZeroInflatedPoisson": (
        lambda psi, a, b, y: pm.ZeroInflatedPoisson("y", psi, a, observed=y),
        lambda y, psi, a, b: _zero_or(np.log1p(-psi), np.log(psi), y, stats.poisson.logpmf(y, a)),
    ),
    "ZeroInflatedBinomial": (
        lambda psi, a, b, y: pm.ZeroInflatedBinomial("y", psi, 30, a / (1 + a), observed=y),
        lambda y, psi, a, b: _zero_or(np.log1p(-psi), np.log(psi), y, stats.binom.logpmf(y, 30, a / (1 + a))),
    ),
    "ZeroInflatedNegativeBinomial": (
        lambda psi, a, b, y: pm.ZeroInflatedNegativeBinomial("y", psi, mu=a, alpha=b, observed=y),
        lambda y, psi, a, b: _zero_or(np.log1p(-psi), np.log(psi), y, stats.nbinom.logpmf(y, b, b / (a + b))),
    ),
    "HurdlePoisson": (
        lambda psi, a, b, y: pm.HurdlePoisson("y", psi, a, observed=y),
        lambda y, psi, a, b: _hurdle(y, psi, stats.poisson(a)),
    ),
    "HurdleNegativeBinomial": (
        lambda psi, a, b, y: pm.HurdleNegativeBinomial("y", psi, mu=a, alpha=b, observed=y),
        lambda y, psi, a, b: _hurdle(y, psi, stats.nbinom(b, b / (a + b))),
    ),
}


@pytest.mark.parametrize("name", HIDDEN)
def test_what_is_hidden_in_a_distribution(name):
    """The share of true values in closed form; the rest over the distinct values; the optimum is scipy's."""
    build, density = HIDDEN[name]
    rng = np.random.default_rng(3)
    y = rng.negative_binomial(4, 0.5, 150) * rng.binomial(1, 0.7, 150)
    two = "NegativeBinomial" in name
    with pm.Model() as model:
        psi = pm.Beta("psi", F(2.0), F(1.5))
        build(psi, pm.Exponential("a", F(0.3)), pm.Exponential("b", F(0.3)) if two else F(1.0), y)
    plan = emppl.plan(model)
    assert plan.estep.startswith("natural form") and plan.blocks[0].rule == "closed form"
    fit = emppl.fit(plan, seed=1, starts=2)
    assert fit.certificate.holds, fit.certificate

    def downhill(u: np.ndarray) -> float:
        psi, a, b = expit(u[0]), np.exp(u[1]), np.exp(u[2]) if two else 1.0
        prior = stats.beta.logpdf(psi, 2.0, 1.5) + exponential_priors(np.array([a, b])[: 1 + two])
        with np.errstate(all="ignore"):
            value = -density(y, psi, a, b).sum() - prior
        return value if np.isfinite(value) else 1e10

    best = min(optimize.minimize(downhill, s, method="BFGS").fun for s in rng.normal(size=(4, 2 + two)))
    assert fit.log_posterior == pytest.approx(-best, abs=1e-6)


# -- where a parameter is known, and where not -------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", ["number", "frozen", "by row"])
def test_a_known_nuisance_parameter_gives_the_natural_form(alpha):
    rng = np.random.default_rng(0)
    with pm.Model() as model:
        z = pm.Bernoulli("z", F(0.4), shape=N)
        p = pm.Beta("p", F(2.0), F(3.0), shape=2)
        known = {"number": F(2.5), "frozen": None, "by row": np.linspace(1.0, 3.0, N)}[alpha]
        if known is None:
            known = pm.Exponential("alpha", F(1.0))
        pm.NegativeBinomial("y", n=known, p=p[z], observed=rng.negative_binomial(2.5, 0.4, N))
    plan = emppl.plan(model, freeze={"alpha": 2.5} if alpha == "frozen" else None)
    (entry,) = [entry for entry in plan.factors if entry.factor.name == "y"]
    assert entry.form.family.name == "NegativeBinomial" and plan.blocks[0].rule == "closed form"


@pytest.mark.parametrize(
    "family, reason",
    [
        ("Laplace", "its mu is free: Laplace is no exponential family in it"),
        ("Weibull", "its alpha is free: Weibull is no exponential family in it"),
        ("Pareto", "its m is free: Pareto is no exponential family in it"),
        ("Weibull by row", "its alpha varies over the rows, and Weibull takes one number"),
    ],
)
def test_a_free_nuisance_parameter_has_a_reason(family, reason):
    y = np.linspace(1.0, 2.0, N)
    with pm.Model() as model:
        z = pm.Bernoulli("z", F(0.4), shape=N)
        free, other = pm.Exponential("free", F(1.0)), pm.Exponential("other", F(1.0), shape=2)
        if family == "Laplace":
            pm.Laplace("y", free, other[z], observed=y)
        elif family == "Pareto":
            pm.Pareto("y", other[z], 1.0 / (1.0 + free), observed=y)
        elif family == "Weibull":
            pm.Weibull("y", free, other[z], observed=y)
        else:
            pm.Weibull("y", np.linspace(1.0, 2.0, N), other[z] + free, observed=y)
    assert f"y: natural form refused: {reason} → graph" in str(emppl.plan(model))


def test_a_value_outside_names_the_family():
    with pm.Model() as model:
        z = pm.Bernoulli("z", F(0.4), shape=4)
        pm.Gamma("y", pm.Exponential("a", F(1.0), shape=2)[z], F(1.0), observed=[1.0, 2.0, -0.5, 3.0])
    with pytest.raises(InvalidDataError, match=r"y\[2\] = -0.5 is outside the support of Gamma"):
        emppl.plan(model)


def test_components_of_a_weibull_mixture():
    """A batched component that is made of other random variables inside still is one family."""
    rng = np.random.default_rng(0)
    with pm.Model() as model:
        w = pm.Dirichlet("w", np.ones(2))
        scale = pm.Exponential("scale", F(0.5), shape=2)
        pm.Mixture("y", w, pm.Weibull.dist(F(2.0), scale, shape=2), observed=rng.weibull(2.0, N))
    plan = emppl.plan(model)
    theta = {"w": np.array([0.3, 0.7]), "scale": np.array([0.8, 1.5])}
    y = plan.structure.observed[0].value.data
    exact = logsumexp(stats.weibull_min.logpdf(y[:, None], 2.0, scale=theta["scale"]), b=theta["w"], axis=1).sum()
    assert plan.estep.startswith("natural form")
    assert plan.log_likelihood(theta) == pytest.approx(exact, abs=1e-9)


def test_a_prior_on_one_parameter_may_need_the_other():
    with pm.Model() as model:
        z = pm.Bernoulli("z", F(0.4), shape=N)
        mu = pm.VonMises("mu", F(0.0), F(0.5), shape=2)
        kappa = pm.HalfFlat("kappa", initval=F(1.0))
        pm.VonMises("y", mu[z], kappa, observed=np.linspace(-3.0, 3.0, N))
    assert "not conjugate to VonMises while its kappa is unknown too" in str(emppl.plan(model))
    assert emppl.plan(model, freeze={"kappa": 2.0}).blocks[0].rule == "closed form"
