"""Estimates stay in the support of their priors, which an estimate that drops the priors keeps."""

import warnings
from collections.abc import Callable

import numpy as np
import pymc as pm
import pytensor.tensor as pt
import pytest
from pymc.distributions import transforms
from scipy import stats

import emppl
from emppl.compiling import compile_graph
from emppl.errors import InvalidArgumentError
from emppl.structure.domain import domain

ZERO, ONE, TWO = np.float64(0.0), np.float64(1.0), np.float64(2.0)
RNG = np.random.default_rng(7)
FAR = np.r_[RNG.normal(-6.0, 1.0, 12), RNG.normal(-2.0, 1.0, 12)]  # below zero, and nowhere near a sum of zero

# Priors of two centres, none of which has the data's own centres in its support.
PRIORS: dict[str, Callable[[], pt.TensorVariable]] = {
    "HalfNormal": lambda: pm.HalfNormal("a", ONE, shape=2),
    "HalfNormal, no transform": lambda: pm.HalfNormal("a", ONE, shape=2, default_transform=None),
    "HalfNormal, log_exp_m1": lambda: pm.HalfNormal(
        "a", ONE, shape=2, default_transform=None, transform=transforms.log_exp_m1
    ),
    "Beta": lambda: pm.Beta("a", ONE, ONE, shape=2),
    "Dirichlet": lambda: pm.Dirichlet("a", np.ones(2)),
    "ZeroSumNormal": lambda: pm.ZeroSumNormal("a", ONE, shape=2),
    "ZeroSumNormal, no transform": lambda: pm.ZeroSumNormal("a", ONE, shape=2, default_transform=None),
    "sum to one": lambda: pm.Normal(
        "a", ZERO, TWO, shape=2, transform=transforms.SumTo1(), initval=np.array([0.4, 0.6])
    ),
    "ordered and positive": lambda: pm.HalfNormal(
        "a", ONE, shape=2, transform=transforms.ordered, initval=np.array([0.4, 0.6])
    ),
    "Uniform": lambda: pm.Uniform("a", -ONE, TWO, shape=2),
    "Uniform, no transform": lambda: pm.Uniform("a", -ONE, TWO, shape=2, default_transform=None),
    "TruncatedNormal": lambda: pm.TruncatedNormal("a", ZERO, TWO, lower=-ONE, upper=ONE, shape=2),
    "Truncated": lambda: pm.Truncated("a", pm.Normal.dist(ZERO, TWO), lower=-ONE, upper=ONE, shape=2),
    "VonMises": lambda: pm.VonMises("a", ZERO, ONE, shape=2),
    "Pareto": lambda: pm.Pareto("a", TWO, ONE, shape=2),
    "Triangular": lambda: pm.Triangular("a", lower=-ONE, c=ZERO, upper=ONE, shape=2),
    "CustomDist": lambda: pm.CustomDist(
        "a", logp=lambda v: pt.switch(pt.gt(v, 0), -v, -np.inf), shape=2, initval=np.array([0.4, 0.6])
    ),
    "Cholesky factor": lambda: pm.LKJCholeskyCov(
        "a", n=2, eta=TWO, sd_dist=pm.HalfNormal.dist(ONE, shape=2), compute_corr=False
    ),
}


def of_centres(prior: str, values: np.ndarray = FAR) -> pm.Model:
    """Normals around numbers with that prior."""
    with warnings.catch_warnings(), pm.Model() as model:
        warnings.simplefilter("ignore")
        a = PRIORS[prior]()
        z = pm.Categorical("z", np.full(a.type.shape[0], 1.0 / a.type.shape[0]), shape=len(values))
        pm.Normal("y", a[z], ONE, observed=values)
    return model


def log_prior(plan: emppl.planner.Plan, theta: dict[str, np.ndarray]) -> float:
    graphs = [factor.log_density.sum() for factor in plan.structure.factors if factor.kind == "prior"]
    return sum(compile_graph(plan.structure.coordinates.values, graphs)(*plan.structure.coordinates.arguments(theta)))


@pytest.mark.parametrize(
    ("prior", "estimate"), [*((p, "ml") for p in PRIORS), ("ZeroSumNormal, no transform", "map"), ("CustomDist", "map")]
)
def test_an_m_step_stays_in_the_support(prior: str, estimate: str):
    """From any point, and no lower than it: the data pull outside with all their might."""
    plan = emppl.plan(of_centres(prior), estimate=estimate)
    coordinates = plan.structure.coordinates.unscaled
    theta = emppl.structure.initial.initial_point(plan.structure)
    height = -np.inf
    for _ in range(4):
        posterior = plan.e_step(theta)
        assert posterior.objective >= height - 1e-9 * abs(height)
        height, theta = posterior.objective, plan.m_step(theta, posterior)
        assert domain(plan.structure, ("a",))(theta)
        u = coordinates.unconstrain(theta)
        inner = np.clip(u, -30.0, 30.0)  # a border has no density of its own
        assert np.isfinite(log_prior(plan, coordinates.constrain(inner)))
        np.testing.assert_allclose(coordinates.constrain(inner)["a"], theta["a"], atol=1e-6)


def test_the_maximum_under_a_sum_of_zero():
    """Two centres a and -a of equal shares: the one number that is left is found by golden section."""
    y = np.array([-3.0, -2.5, -1.0, 1.5, 4.0, 4.5])
    fit = emppl.fit(of_centres("ZeroSumNormal", y), estimate="ml", seed=1, starts=3)
    grid = np.linspace(0.0, 6.0, 60_001)
    heights = np.log(0.5 * (stats.norm.pdf(y[:, None] - grid) + stats.norm.pdf(y[:, None] + grid))).sum(axis=0)
    assert fit.log_posterior == pytest.approx(heights.max(), abs=1e-6)
    np.testing.assert_allclose(np.sort(fit.theta["a"]), [-grid[heights.argmax()], grid[heights.argmax()]], atol=2e-4)


@pytest.mark.parametrize("axes", [1, 2])
def test_lines_keep_sums_over_all_their_axes(axes: int):
    rng = np.random.default_rng(3)
    g, h = np.arange(48) % 3, np.arange(48) % 4
    with pm.Model() as model:
        mu = pm.Normal("mu", ZERO, np.float64(10.0), shape=2)
        off = pm.ZeroSumNormal("off", ONE, shape=(3, 4), n_zerosum_axes=axes)
        z = pm.Bernoulli("z", 0.4, shape=48)
        pm.Normal("y", mu[z] + off[g, h], ONE, observed=rng.normal(4.0 * (np.arange(48) % 5 == 0), 1.0))
    plan = emppl.plan(model, estimate="ml")
    fit = emppl.fit(plan, seed=1, starts=2)
    for axis in range(-axes, 0):
        np.testing.assert_allclose(fit.theta["off"].values.sum(axis=axis), 0.0, atol=1e-8)
    u = plan.structure.coordinates.unconstrain(fit.point)
    assert np.abs(plan.gradient(u)[1]).max() < 1e-2  # a maximum within the sums, not merely a point that keeps them


def test_a_bound_that_is_estimated_too():
    """Uniform(0, top): no estimate of the one passes the other, and the two are found together."""
    with pm.Model() as model:
        top = pm.HalfNormal("top", np.float64(3.0))
        a = pm.Uniform("a", ZERO, top, shape=2)
        z = pm.Bernoulli("z", 0.4, shape=20)
        pm.Normal("y", a[z], ONE, observed=np.repeat([0.5, 6.0], 10))
        pm.Normal("x", top, ONE, observed=np.full(5, 2.0))
    plan = emppl.plan(model, estimate="ml")
    assert [block.name for block in plan.blocks] == ["top + a"]
    theta = emppl.fit(plan, seed=1, starts=3).theta
    assert (theta["a"].values <= float(theta["top"]) + 1e-9).all()
    assert float(theta["top"]) == pytest.approx((5 * 2.0 + 10 * 6.0) / 15, abs=0.05)  # the bound holds the upper centre


def test_a_slope_of_the_user_s_sign():
    """Newton's method in a regression keeps a half-normal slope positive where the data want it negative."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=60)
    with pm.Model() as model:
        mu = pm.Normal("mu", ZERO, TWO)
        b = pm.HalfNormal("b", ONE, default_transform=None, shape=2)
        z = pm.Bernoulli("z", 0.4, shape=60)
        pm.Poisson("y", pt.exp(mu - b[z] * x), observed=rng.poisson(np.exp(0.5 + 0.5 * x)))
    for estimate in ("ml", "map"):
        assert (emppl.fit(model, estimate=estimate, seed=1, starts=2).theta["b"] >= 0).all()


def test_a_start_outside_the_support_is_refused():
    with pytest.raises(InvalidArgumentError, match=r"puts a = \[1\. 2\.\] outside"):
        emppl.fit(of_centres("ZeroSumNormal"), start={"a": [1.0, 2.0]}, starts=0)


def two_kinds(bound, estimate, **options):
    y = np.r_[np.random.default_rng(5).normal(0.0, 1.0, 40), np.random.default_rng(6).normal(3.0, 1.0, 40)]
    with pm.Model() as model:
        a = pm.Normal("a", np.float64(0.0), np.float64(5.0))
        b = pm.Normal("b", np.float64(5.0), np.float64(5.0))
        pm.Potential("bound", bound(a, b))
        z = pm.Bernoulli("z", np.float64(0.5), shape=80)
        pm.Normal("y", pt.stack([a, b])[z], np.float64(1.0), observed=y)
    return emppl.fit(model, estimate=estimate, seed=1, **options)


@pytest.mark.parametrize("estimate", ["map", "ml"])
def test_a_potential_that_rules_parameters_out_is_kept_whatever_the_estimate(estimate):
    """Its height is a prior's and goes with the priors; where it is zero is no place for an estimate."""
    fit = two_kinds(lambda a, b: pt.switch(b - a > 4.0, 0.0, -np.inf), estimate, starts=2)
    assert float(fit.theta["b"] - fit.theta["a"]) >= 4.0
    assert not fit.certificate.holds and "stopped at a wall" in str(fit.certificate)
    fit = two_kinds(
        lambda a, b: -0.5 * (b - a - 4.0) ** 2, "ml", starts=2
    )  # nothing is ruled out, all of it is dropped
    free = two_kinds(lambda a, b: 0.0 * a, "ml", starts=2)
    np.testing.assert_allclose(fit.theta["b"], free.theta["b"], rtol=1e-8)


def test_a_start_that_is_ruled_out_is_pulled_to_where_the_prior_begins():
    fit = two_kinds(lambda a, b: pt.switch((a < 0.5) & (b > 2.0), 0.0, -np.inf), "map", starts=4)
    assert "FAILED" not in set(fit.starts["status"])
    assert fit.status.name == "CONVERGED" and fit.certificate.holds
