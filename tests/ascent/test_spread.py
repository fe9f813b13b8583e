"""Spreads that no natural form knows: those of Laplace, logistic, Student-t … in a graph, and of scalar latents."""

import numpy as np
import pymc as pm
import pytensor.tensor as pt
import pytest
import small_models

import emppl
from emppl import Status
from emppl.ascent.degeneracy import collapse, narrowest
from emppl.ascent.spread import graph_spreads

ZERO, ONE, TWO = np.float64(0.0), np.float64(1.0), np.float64(2.0)
FAMILIES = {
    "Normal": lambda mu, sd, y: pm.Normal("y", mu, sd, observed=y),
    "LogNormal": lambda mu, sd, y: pm.LogNormal("y", mu, sd, observed=np.exp(y)),
    "Laplace": lambda mu, sd, y: pm.Laplace("y", mu, sd, observed=y),
    "Logistic": lambda mu, sd, y: pm.Logistic("y", mu, sd, observed=y),
    "Gumbel": lambda mu, sd, y: pm.Gumbel("y", mu, sd, observed=y),
    "Cauchy": lambda mu, sd, y: pm.Cauchy("y", mu, sd, observed=y),
    "Moyal": lambda mu, sd, y: pm.Moyal("y", mu, sd, observed=y),
    "StudentT": lambda mu, sd, y: pm.StudentT("y", nu=np.float64(4.0), mu=mu, sigma=sd, observed=y),
    "SkewNormal": lambda mu, sd, y: pm.SkewNormal("y", mu=mu, sigma=sd, alpha=ONE, observed=y),
}
TIES = np.array([2.5, 2.5, 2.5, 0.3, -0.4, 1.2])


def mixture(family: str, y: np.ndarray, sd=None) -> pm.Model:
    with pm.Model(coords={"kind": ["a", "b"]}) as model:
        w = pm.Dirichlet("w", np.full(2, 1.5))
        z = pm.Categorical("z", p=w, shape=len(y))
        mu = pm.Normal("mu", ZERO, np.float64(3.0), dims="kind")
        sd = pm.HalfNormal("sd", TWO, dims="kind") if sd is None else pt.constant(sd)
        FAMILIES[family](mu[z], sd[z], y)
    return model


def change_point(family: str, y: np.ndarray) -> pm.Model:
    with pm.Model(coords={"kind": ["a", "b"]}) as model:
        change = pm.DiscreteUniform("change", lower=np.int64(0), upper=np.int64(len(y) - 1))
        late = (np.arange(len(y)) > change).astype("int64")
        mu = pm.Normal("mu", ZERO, np.float64(3.0), dims="kind")
        sd = pm.HalfNormal("sd", TWO, dims="kind")
        FAMILIES[family](mu[late], sd[late], y)
    return model


@pytest.mark.parametrize(
    ("family", "build"), [*((f, mixture) for f in FAMILIES), *((f, change_point) for f in ("Normal", "StudentT"))]
)
def test_a_spread_of_zero_is_seen_and_named(family, build):
    plan = emppl.plan(build(family, TIES), estep="graph")
    theta = small_models.points(plan, count=1)[0]
    (spread,) = graph_spreads(plan)
    unit = np.median(np.abs(TIES - np.median(TIES)))
    smallest = spread.variances(plan.structure.coordinates.arguments(theta)).min()
    assert smallest == pytest.approx((theta["sd"].min() / unit) ** 2, rel=1e-12)
    assert collapse(plan, theta, None) is None
    small = theta | {"sd": np.array([0.7, 2e-5 * unit])}
    assert collapse(plan, small, None) == "the spread of y (sd[b]) has collapsed to zero"
    assert "the spread of y (sd[b]) was collapsing (spread 2e-05 of the data's)" in narrowest(plan, small)


def test_a_known_scale_does_not_collapse():
    model = mixture("Laplace", TIES, sd=np.array([1.0, 1e-7]))
    assert graph_spreads(emppl.plan(model, estep="graph")) == []


def test_an_outlier_does_not_make_the_others_narrow():
    y = np.r_[np.random.default_rng(2).normal(size=20), 1e9]
    plan = emppl.plan(mixture("Cauchy", y), estep="graph")
    theta = small_models.points(plan, count=1)[0]
    assert collapse(plan, theta, None) is None


@pytest.mark.parametrize(
    ("build", "family", "y"),
    [(mixture, "Laplace", np.full(5, 2.34)), (change_point, "Gumbel", TIES)],
    ids=["Laplace", "Gumbel"],
)
def test_without_bound_is_degenerate_and_blames_no_rule(build, family, y):
    """Equal values under a prior that is flat at a spread of zero: no maximum, whatever the search met there."""
    fit = emppl.fit(build(family, y), seed=1, starts=2, max_iter=100)
    assert fit.status is Status.DEGENERATE
    assert set(fit.starts["status"]) == {"DEGENERATE"}
    text = str(fit.certificate)
    assert "sd" in text and "InverseGamma" in text and "please report" not in text


@pytest.mark.parametrize("max_iter", [6, 180])
def test_a_leap_into_a_collapse_is_seen_though_it_spent_the_last_iteration(max_iter):
    """The search of the marginal objective may take all passes that are left; nobody looks at its end after that."""
    with pm.Model() as model:
        w = pm.Dirichlet("w", np.full(3, 1.8))
        z = pm.Categorical("z", p=w, shape=3)
        mu = pm.Normal("mu", np.float64(0.3), TWO, shape=3)
        sd = pm.Gamma("sd", np.float64(2.5), np.float64(1.3))
        pm.LogNormal("y", mu[z], sd, observed=np.array([3.2, 0.52, 0.29]))
    fit = emppl.fit(model, seed=429, starts=2, max_iter=max_iter)
    collapsed = fit.starts["log_posterior"] > 10.0  # where no spread is near zero it is below -7
    assert collapsed.any()  # it is the case that this is about
    assert set(fit.starts["status"][collapsed]) == {"DEGENERATE"}
    assert fit.point["sd"] > 0.1 and fit.log_posterior < 0.0


@pytest.mark.parametrize("unit", [1.0, 1e-3])
def test_a_spread_held_up_at_a_corner_is_on_its_way_to_zero(unit):
    """Equal values: the nearer the centre comes to them, the narrower it gets, and neither moves without the other."""
    with pm.Model() as model:
        z = pm.Bernoulli("z", np.float64(0.4), shape=4)
        mu = pm.Normal("mu", ZERO, 2 * unit, shape=2)
        spread = pm.Gamma("spread", np.float64(2.5), 1.3 / unit)
        pm.Laplace("y", mu[z], spread, observed=np.full(4, 0.2 * unit))
    fit = emppl.fit(model, starts=2, seed=0)
    assert fit.status is Status.DEGENERATE
    assert set(fit.starts["status"]) == {"DEGENERATE"}
