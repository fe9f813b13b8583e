"""Regressions: natural forms found by values, least squares, Newton's method in the linear predictors, separation."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pymc as pm
import pytensor.tensor as pt
import pytest
import small_models
from hypothesis import given, settings
from hypothesis.strategies import integers
from scipy.optimize import minimize
from scipy.special import expit, gammaln, log_ndtr

import emppl
from emppl.ascent.starts import through_members
from emppl.compiling import compile_graph
from emppl.estep.tables import factor_table
from emppl.mstep.regression import highest_spread
from emppl.structure.predictor import NotLinear, linear_rows

DATA = Path(__file__).parents[1] / "data"
ZERO, ONE, TWO, FIVE, TWENTY = (np.float64(v) for v in (0.0, 1.0, 2.0, 5.0, 20.0))
N = 12


def _data(seed: int) -> tuple[np.random.Generator, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng, rng.normal(size=N), rng.normal(size=(N, 3))


# -- regressions in natural form ---------------------------------------------------------------------------------------


def straight(rng, x, X, z, beta):
    return beta[0, z] + beta[1, z] * x


def matrix_then_component(rng, x, X, z, beta):
    return pt.take_along_axis(X @ beta[:3], z[:, None], axis=1)[:, 0]


def rows_of_coefficients(rng, x, X, z, beta):
    return (X * beta.T[:, :3][z]).sum(axis=-1)


def polynomial_with_offset(rng, x, X, z, beta):
    return beta[0, z] + beta[1, z] * x + beta[2, 0] * x**2 + np.linspace(0.0, 5.0, N)


def intercept_by_group(rng, x, X, z, beta):
    return beta[np.arange(N) % 4, 0] + beta[1, z] * x


def switched(rng, x, X, z, beta):
    return pt.switch(pt.eq(z, 0), beta[0, 0] + beta[1, 0] * x, beta[2, 1] * x**2)


def far_from_zero(rng, x, X, z, beta):
    return 1e6 + beta[0, z] + beta[1, z] * (2000.0 + x)


def nonlinear_in_theta(rng, x, X, z, beta):
    return pt.exp(beta[0, z]) + beta[1, z] * beta[2, 0] * x


WRITTEN = (
    straight, matrix_then_component, rows_of_coefficients, polynomial_with_offset, intercept_by_group, switched,
    far_from_zero, nonlinear_in_theta,
)  # fmt: skip


def regression(predictor, seed: int = 0, spread: str = "free", **normal) -> pm.Model:
    rng, x, X = _data(seed)
    with pm.Model() as model:
        weights = pm.Dirichlet("weights", np.ones(2))
        beta = pm.Normal("beta", ZERO, FIVE, shape=(4, 2))
        sigma = pm.HalfNormal("sigma", TWO, shape=2)
        z = pm.Categorical("z", weights, shape=N)
        mu = predictor(rng, x, X, z, beta)
        sd = {"free": sigma[z], "shared": sigma[0] * sigma[1], "known": sigma[z] * (1.0 + np.arange(N))}[spread]
        pm.Normal("y", mu, sd, observed=rng.normal(size=N) + (1e6 if predictor is far_from_zero else 0.0))
    return model


@pytest.mark.parametrize("spread", ["free", "shared", "known"])
@pytest.mark.parametrize("predictor", WRITTEN, ids=lambda f: f.__name__)
def test_a_natural_form_is_the_density_of_its_graph(predictor, spread):
    plan = emppl.plan(regression(predictor, spread=spread))
    structure = plan.structure
    entry = next(e for e in plan.factors if e.factor.name == "y")
    assert entry.engine == "natural form", entry.reason
    assert entry.form.features.shape[1] <= 1 + 15 + 6
    enumerated = factor_table(structure, entry.factor, structure.plates[0])
    function = compile_graph(structure.coordinates.values, [entry.form.eta, enumerated])
    for theta in small_models.points(plan):
        eta, exact = function(*structure.coordinates.arguments(theta))
        tolerance = 1e-7 if predictor is far_from_zero else 1e-10  # 2000 beta + 1e6 - y leaves nine digits
        np.testing.assert_allclose(
            eta @ np.asarray(entry.form.features).T + entry.form.base, exact, rtol=tolerance, atol=tolerance
        )


def test_several_columns_several_rows_a_member_and_no_latent():
    """Two outcomes on one design, repeated measures of each unit, and a regression beside the mixture."""
    rng, x, _ = _data(0)
    unit = np.arange(N) // 3
    with pm.Model() as model:
        slope = pm.Normal("slope", ZERO, FIVE, shape=(2, 2))
        sigma = pm.HalfNormal("sigma", TWO, shape=2)
        z = pm.Categorical("z", p=np.array([0.3, 0.7]), shape=4)
        pm.Normal("y", slope[z[unit]] * x[:, None], sigma, observed=rng.normal(size=(N, 2)))
        pm.Normal("plain", slope[0, 0] + slope[1, 1] * x, sigma[0], observed=rng.normal(size=N))
    plan, graph = emppl.plan(model), emppl.plan(model, estep="graph")
    assert {e.engine for e in plan.factors} == {"natural form"}
    for theta in small_models.points(plan):
        assert plan.log_posterior(theta) == pytest.approx(graph.log_posterior(theta), rel=1e-11)


def test_what_is_not_linear_is_refused():
    """The covariate enters inside an exponential: no few columns are enough, and the reason is printed."""
    rng, x, _ = _data(0)
    x = np.linspace(0.0, 1.0, 100)
    with pm.Model() as model:
        rate = pm.Normal("rate", ZERO, ONE, shape=2)
        z = pm.Categorical("z", p=np.array([0.3, 0.7]), shape=100)
        pm.Normal("y", pt.exp(rate[z] * x), ONE, observed=rng.normal(size=100))
    plan = emppl.plan(model)
    entry = next(e for e in plan.factors if e.factor.name == "y")
    assert entry.form is None or entry.form.features.shape[1] > 40
    assert "mu varies over the rows" in str(plan)


@settings(max_examples=10, deadline=None)
@given(seed=integers(0, 10**6))
def test_the_basis_explains_all_rows(seed):
    rng = np.random.default_rng(seed)
    n, p = int(rng.integers(1, 200)), int(rng.integers(1, 8))
    a = rng.normal(size=(n, p)) * 10.0 ** rng.uniform(-3, 3, size=p)

    def values(draw):
        return a @ np.random.default_rng(draw).normal(size=(p, 2))

    basis, coefficients = linear_rows(values, rng)
    assert len(basis) == min(n, p)
    fresh = values(12345)
    np.testing.assert_allclose(coefficients @ fresh[basis], fresh, rtol=0, atol=1e-9 * np.abs(fresh).max())


def test_noise_has_no_basis():
    with pytest.raises(NotLinear, match="known columns"):
        linear_rows(lambda draw: np.random.default_rng(draw).normal(size=(300, 2)), np.random.default_rng(0))


# -- least squares -----------------------------------------------------------------------------------------------------


def _is_conditional_maximum(plan, theta, names):
    """The M-step from `theta`: no step in the parameters `names` raises the expected log joint."""
    coordinates = plan.structure.coordinates
    posterior = plan.e_step(theta)
    new = plan.m_step(theta, posterior)
    for _ in range(60):  # coefficients and spreads in turn, for the same expectations
        new = plan.m_step(new, posterior)
    u = coordinates.unconstrain(new)
    value, slope, _ = *plan.expected(u, posterior, plan.weights), None
    moved = np.concatenate([np.arange(coordinates.size)[coordinates.slices[n]] for n in names])
    assert np.abs(slope[moved]).max() < 1e-6 * max(1.0, abs(value))


@pytest.mark.parametrize("estimate", ["map", "ml"])
@pytest.mark.parametrize("predictor", [straight, polynomial_with_offset, intercept_by_group, switched])
def test_least_squares_reach_the_maximum_of_q(predictor, estimate):
    plan = emppl.plan(regression(predictor, seed=3), estimate=estimate)
    rules = {name: block.rule for block in plan.blocks for name in block.parameters}
    one_step = estimate == "ml" and predictor in (straight, switched)
    assert rules["beta"] == rules["sigma"] == ("closed form" if one_step else "least squares")
    theta = small_models.points(plan, count=1)[0] | {"sigma": np.array([0.8, 1.3])}
    _is_conditional_maximum(plan, theta, ["beta", "sigma"])


def test_least_squares_by_hand():
    """Weighted least squares and the weighted mean square, nothing else."""
    plan = emppl.plan(regression(straight, seed=1), estimate="ml")
    _, x, _ = _data(1)
    y = np.asarray(plan.structure.node("y").value.data)
    theta = small_models.points(plan, count=1)[0]
    posterior = plan.e_step(theta, keep=True)
    new = plan.m_step(theta, posterior)
    design = np.column_stack([np.ones(N), x])
    for k, r in enumerate(posterior.responsibilities[0].T):
        beta = np.linalg.solve(design.T @ (r[:, None] * design), design.T @ (r * y))
        np.testing.assert_allclose(new["beta"][:2, k], beta, rtol=1e-9)
        left = (r * (y - design @ beta) ** 2).sum() / r.sum()
        assert new["sigma"][k] == pytest.approx(np.sqrt(left), rel=1e-9)


def test_hierarchical_coefficients_are_a_ridge():
    """A prior whose centre and spread are parameters: a ridge at each step, the rest by numbers, never a decrease."""
    rng, x, _ = _data(5)
    with pm.Model() as model:
        centre, tau = pm.Normal("centre", ZERO, FIVE), pm.HalfNormal("tau", ONE)
        a = pm.Normal("a", ZERO, FIVE, shape=2)
        b = pm.Normal("b", centre, tau, shape=2)
        sigma = pm.Exponential("sigma", ONE)
        z = pm.Categorical("z", p=np.array([0.4, 0.6]), shape=N)
        pm.Normal("y", a[z] + b[z] * x, sigma, observed=rng.normal(size=N))
    plan = emppl.plan(model)
    assert {block.rule for block in plan.blocks} == {"least squares + numeric"}
    theta = small_models.points(plan, count=1)[0]
    for _ in range(10):
        posterior = plan.e_step(theta)
        theta = plan.m_step(theta, posterior)
        assert plan.log_posterior(theta) >= posterior.objective - 1e-10 * abs(posterior.objective)


def test_slopes_with_a_domain_keep_to_it():
    """The best free slope is negative: a positive one ends near zero, and nothing falls on the way."""
    _, x, _ = _data(6)
    with pm.Model() as model:
        slope = pm.HalfNormal("slope", FIVE, shape=2)
        sigma = pm.HalfNormal("sigma", TWO)
        z = pm.Categorical("z", p=np.array([0.4, 0.6]), shape=N)
        pm.Normal("y", slope[z] * x, sigma, observed=-2.0 * x)
    plan = emppl.plan(model)
    theta = small_models.points(plan, count=1)[0]
    for _ in range(10):
        posterior = plan.e_step(theta)
        theta = plan.m_step(theta, posterior)
        assert (theta["slope"] >= 0).all()
        assert plan.log_posterior(theta) >= posterior.objective - 1e-10 * abs(posterior.objective)


@settings(max_examples=20, deadline=None)
@given(seed=integers(0, 10**6))
def test_the_highest_spread(seed):
    """Against scipy, for a half-normal prior of any size."""
    rng = np.random.default_rng(seed)
    n, s, scale = rng.uniform(0, 50), 10.0 ** rng.uniform(-3, 3), 10.0 ** rng.uniform(-1, 1)

    def prior(t):
        return -0.5 * (t / scale) ** 2, -t / scale**2, np.full_like(t, -1 / scale**2)

    found = highest_spread(np.array([n]), np.array([s]), prior, np.array([1.0]))[0]
    v = 2 * s / (n + np.sqrt(n**2 + 4 * s / scale**2))  # the root of n v + v² / scale² = S
    assert found == pytest.approx(np.sqrt(v), rel=1e-7)


# -- Newton's method in the linear predictors --------------------------------------------------------------------------

x_glm = np.random.default_rng(8).normal(size=(40, 3))
beta_glm = np.array([0.4, -0.7, 0.3])
h_glm = x_glm @ beta_glm


def _draws(kind):
    rng = np.random.default_rng(9)
    return {
        "poisson": lambda: rng.poisson(np.exp(h_glm)),
        "binomial": lambda: rng.binomial(7, expit(h_glm)),
        "probit": lambda: (rng.normal(size=40) < h_glm).astype(int),
        "gamma": lambda: rng.gamma(2.0, np.exp(h_glm) / 2.0),
        "negative_binomial": lambda: rng.negative_binomial(3, 3 / (3 + np.exp(h_glm))),
        "exponential": lambda: rng.exponential(np.exp(-h_glm)),
        "student": lambda: h_glm + rng.standard_t(4, size=40),
    }[kind]()


DENSITIES = {  # as written in a model, and the log density that scipy climbs
    "poisson": (lambda h, y: pm.Poisson("y", pt.exp(h), observed=y), lambda h, y: y * h - np.exp(h) - gammaln(y + 1)),
    "binomial": (
        lambda h, y: pm.Binomial("y", n=7, logit_p=h, observed=y),
        lambda h, y: y * h - 7 * np.logaddexp(0, h),
    ),
    "probit": (
        lambda h, y: pm.Bernoulli("y", p=pm.math.invprobit(h), observed=y),
        lambda h, y: log_ndtr(np.where(y > 0, h, -h)),
    ),
    "gamma": (
        lambda h, y: pm.Gamma("y", alpha=TWO, beta=TWO * pt.exp(-h), observed=y),
        lambda h, y: -2 * h - 2 * y * np.exp(-h),
    ),
    "negative_binomial": (
        lambda h, y: pm.NegativeBinomial("y", mu=pt.exp(h), alpha=np.float64(3.0), observed=y),
        lambda h, y: y * h - (y + 3) * np.log(3 + np.exp(h)),
    ),
    "exponential": (lambda h, y: pm.Exponential("y", pt.exp(h), observed=y), lambda h, y: h - y * np.exp(h)),
    "student": (
        lambda h, y: pm.StudentT("y", nu=np.float64(4.0), mu=h, sigma=ONE, observed=y),
        lambda h, y: -2.5 * np.log1p((y - h) ** 2 / 4),
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", DENSITIES)
@pytest.mark.parametrize("estimate", ["map", "ml"])
def test_one_m_step_is_scipys_maximum(kind, estimate):
    """Weighted regressions of each family by component: Newton from anywhere against BFGS on the formula."""
    written, density = DENSITIES[kind]
    y = _draws(kind)
    with pm.Model() as model:
        beta = pm.Normal("beta", np.float64(0.3), TWO, shape=(2, 3))
        z = pm.Categorical("z", p=np.array([0.3, 0.7]), shape=40)
        written((x_glm * beta[z]).sum(axis=-1), y)
    plan = emppl.plan(model, estimate=estimate, estep="graph")
    assert [block.rule for block in plan.blocks] == ["GLM"]
    theta = {"beta": np.random.default_rng(1).normal(scale=0.5, size=(2, 3))}
    posterior = plan.e_step(theta, keep=True)
    new = theta
    for _ in range(3):
        new = plan.m_step(new, posterior)
    for k, r in enumerate(posterior.responsibilities[0].T):

        def downhill(b, r=r):
            prior = 0.5 * (((b - 0.3) / 2.0) ** 2).sum() if estimate == "map" else 0.0
            return prior - (r * density(x_glm @ b, y)).sum()

        found = minimize(downhill, new["beta"][k], method="BFGS", options={"gtol": 1e-9})
        assert downhill(new["beta"][k]) <= found.fun + 1e-8
        np.testing.assert_allclose(new["beta"][k], found.x, atol=2e-5)


def test_softmax_weights_with_covariates():
    """Concomitants: the multinomial-logit M-step against scipy, on all coefficients at once."""
    rng = np.random.default_rng(3)
    x = np.column_stack([np.ones(30), rng.normal(size=(30, 2))])
    with pm.Model() as model:
        g = pm.Normal("g", ZERO, TWO, shape=(3, 4))
        mu = pm.Normal("mu", ZERO, FIVE, shape=4)
        z = pm.Categorical("z", logit_p=x @ g, shape=30)
        pm.Normal("y", mu[z], ONE, observed=rng.normal(scale=3.0, size=30))
    plan = emppl.plan(model)
    assert {b.name: b.rule for b in plan.blocks}["g"] == "GLM"
    theta = small_models.points(plan, count=1)[0]
    posterior = plan.e_step(theta, keep=True)
    r = posterior.responsibilities[0]
    new = plan.m_step(plan.m_step(theta, posterior), posterior)["g"]

    def downhill(flat):
        h = x @ flat.reshape(3, 4)
        return 0.125 * (flat**2).sum() - (r * (h - np.logaddexp.reduce(h, axis=1)[:, None])).sum()

    found = minimize(downhill, new.ravel(), method="BFGS", options={"gtol": 1e-9})
    assert downhill(new.ravel()) <= found.fun + 1e-8
    np.testing.assert_allclose(new.ravel(), found.x, atol=2e-5)


def test_weights_of_observations_count():
    """A row that counts twice is two rows, also for Newton's method."""
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=20), rng.poisson(2.0, 20)
    weight = rng.integers(1, 4, 20)

    def plan(x, y, **options):
        with pm.Model() as model:
            a = pm.Normal("a", ZERO, FIVE, shape=2)
            b = pm.Normal("b", ZERO, FIVE)
            z = pm.Categorical("z", p=np.array([0.3, 0.7]), shape=len(y))
            pm.Poisson("y", pt.exp(a[z] + b * x), observed=y)
        return emppl.plan(model, estep="graph", **options)

    weighted, repeated = plan(x, y, obs_weights=weight.astype(float)), plan(np.repeat(x, weight), np.repeat(y, weight))
    theta = {"a": np.array([0.1, 1.0]), "b": np.array(0.2)}
    first, second = (p.m_step(theta, p.e_step(theta)) for p in (weighted, repeated))
    for name in theta:
        np.testing.assert_allclose(first[name], second[name], rtol=1e-9)


@pytest.mark.parametrize("family", ["gamma", "negative_binomial"])
@settings(max_examples=5, deadline=None)
@given(seed=integers(0, 10**6))
def test_a_free_dispersion_is_updated_in_turn_and_nothing_falls(family, seed):
    plan = _dispersed(family)
    assert [b.rule for b in plan.blocks if "beta" in b.parameters] == ["GLM + numeric"]
    theta = small_models.points(plan, count=1, seed=seed)[0]
    for _ in range(4):
        posterior = plan.e_step(theta)
        theta = plan.m_step(theta, posterior)
        assert plan.log_posterior(theta) >= posterior.objective - 1e-10 * max(1.0, abs(posterior.objective))


_PLANS: dict = {}


def _dispersed(family):
    if family not in _PLANS:
        y = _draws(family)
        with pm.Model() as model:
            beta = pm.Normal("beta", ZERO, TWO, shape=(2, 3))
            alpha = pm.HalfNormal("alpha", FIVE)
            z = pm.Categorical("z", p=np.array([0.3, 0.7]), shape=40)
            mu = pt.exp((x_glm * beta[z]).sum(axis=-1))
            if family == "gamma":
                pm.Gamma("y", alpha=alpha, beta=alpha / mu, observed=y)
            else:
                pm.NegativeBinomial("y", mu=mu, alpha=alpha, observed=y)
        _PLANS[family] = emppl.plan(model)
    return _PLANS[family]


# -- published answers -------------------------------------------------------------------------------------------------


def reference(case: str) -> dict:
    return json.loads((DATA / case / "reference.json").read_text())


def table(case: str) -> pd.DataFrame:
    return pd.read_csv(DATA / case / "data.csv")


def reaches(model: pm.Model, log_likelihood: float, seed: int) -> emppl.Fit:
    fit = emppl.fit(model, estimate="ml", seed=seed)
    assert fit.log_likelihood == pytest.approx(log_likelihood, abs=1e-6)
    assert fit.status is emppl.Status.CONVERGED and fit.certificate.holds, fit.certificate
    return fit


@pytest.mark.parametrize("seed", [0, 1])
def test_two_parabolas(seed):
    """NPreg of flexmix: the mixture of quadratic regressions."""
    case, data = reference("npreg_flexmix")["fits"]["gaussian"], table("npreg_flexmix")
    x = data["x"].to_numpy()
    with pm.Model() as model:
        weights = pm.Dirichlet("weights", np.ones(2))
        b = pm.Normal("b", ZERO, TWENTY, shape=(2, 3))
        sigma = pm.HalfNormal("sigma", TWENTY, shape=2)
        z = pm.Categorical("z", weights, shape=len(x))
        pm.Normal("y", b[z, 0] + b[z, 1] * x + b[z, 2] * x**2, sigma[z], observed=data["yn"])
    fit = reaches(model, case["loglik"], seed)
    assert {block.rule for block in fit.plan.blocks} == {"closed form"}
    order = np.argsort(fit.theta["b"].values[:, 0])
    np.testing.assert_allclose(fit.theta["b"].values[order], case["coefficients"], rtol=1e-3)
    np.testing.assert_allclose(fit.theta["sigma"].values[order], case["sigmas"], rtol=1e-3)


def test_two_poisson_regressions():
    case, data = reference("npreg_flexmix")["fits"]["poisson"], table("npreg_flexmix")
    x = data["x"].to_numpy()
    with pm.Model() as model:
        weights = pm.Dirichlet("weights", np.ones(2))
        b = pm.Normal("b", ZERO, FIVE, shape=(2, 2))
        z = pm.Categorical("z", weights, shape=len(x))
        pm.Poisson("y", pt.exp(b[z, 0] + b[z, 1] * x), observed=data["yp"])
    fit = reaches(model, case["loglik"], 0)
    order = np.argsort(fit.theta["b"].values[:, 0])
    np.testing.assert_allclose(fit.theta["b"].values[order], case["coefficients"], atol=1e-4)


@pytest.mark.parametrize("variant", ["count_covariates", "both"])
def test_zero_inflated_articles(variant):
    """915 doctoral students: the published 12 and 7 coefficients."""
    case, data = reference("zip_counts")["variants"][variant], table("zip_counts")
    x = np.column_stack([np.ones(len(data)), data[["female", "married", "kid5", "phd", "ment"]]]).astype(float)
    with pm.Model() as model:
        count = pm.Normal("count", ZERO, FIVE, shape=6)
        inflation = pm.Normal("inflation", ZERO, FIVE, shape=6 if variant == "both" else 1)
        h = x[:, : inflation.type.shape[0]] @ inflation
        pm.ZeroInflatedPoisson("art", psi=pm.math.sigmoid(-h), mu=pt.exp(x @ count), observed=data["art"])
    fit = reaches(model, case["loglik"], 0)
    assert {b.name: b.rule for b in fit.plan.blocks}["count"] == "GLM"
    np.testing.assert_allclose(fit.theta["count"], case["count_coefficients"], atol=1e-4)
    np.testing.assert_allclose(fit.theta["inflation"], case["inflation_coefficients_logit"], atol=2e-3)


# -- separation --------------------------------------------------------------------------------------------------------


def _separated(kind: str) -> pm.Model:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=60), rng.poisson(np.where(rng.random(60) < 0.5, 2, 9))
    with pm.Model(coords={"covariate": ["one", "age"]}) as model:
        slope = pm.Normal("slope", ZERO, FIVE, dims="covariate")
        if kind == "answers":
            pm.Bernoulli("y", logit_p=slope[0] + slope[1] * x, observed=(x > 0.2).astype(int))
        else:
            treated = (np.arange(60) < 10).astype(float)
            level = pm.Normal("level", ZERO, FIVE)
            z = pm.Categorical("z", p=np.array([0.5, 0.5]), shape=60)
            pm.Poisson("y", pt.exp(slope[0] + z * level + slope[1] * treated), observed=np.where(treated, 0, y))
    return model


@pytest.mark.parametrize("kind", ["answers", "counts"])
def test_separation_is_named_with_the_covariates_own_name(kind):
    """All answers on one side of a threshold, or no count at all among the treated: the slope has no best value."""
    model = _separated(kind)
    fit = emppl.fit(model, estimate="ml", seed=0, starts=3)
    assert fit.status is emppl.Status.DEGENERATE
    (point,) = [p for p in fit.certificate.points if p.name == "maximum"]
    assert not point.holds and re.search(r"slope\[age\] runs to infinity.*separated.*prior", point.text)
    cured = emppl.fit(model, seed=0, starts=3)
    assert cured.status is emppl.Status.CONVERGED and cured.certificate.holds


def test_coefficients_that_are_not_told_apart_are_not_called_separated():
    """A softmax knows its logits up to a constant only."""
    rng = np.random.default_rng(2)
    with pm.Model() as model:
        g = pm.Normal("g", ZERO, TWO, shape=(1, 2))
        z = pm.Categorical("z", logit_p=np.ones((60, 1)) @ g, shape=60)
        pm.Poisson(
            "y", pt.as_tensor(np.array([1.0, 12.0]))[z], observed=rng.poisson(np.where(rng.random(60) < 0.4, 1, 12))
        )
    fit = emppl.fit(model, estimate="ml", seed=0, starts=2)
    assert fit.status is emppl.Status.CONVERGED
    assert "do not tell apart g" in str(fit.certificate)


def test_starts_run_through_a_few_members():
    """Two crossing lines: regressions through random members find them, which no clusters of y do."""
    rng = np.random.default_rng(0)
    x = np.linspace(-1.0, 1.0, 60)
    first = np.arange(60) % 2 == 0
    with pm.Model() as model:
        b = pm.Normal("b", ZERO, FIVE, shape=(2, 2))
        z = pm.Categorical("z", p=np.array([0.5, 0.5]), shape=60)
        pm.Normal("y", b[z, 0] + b[z, 1] * x, ONE, observed=np.where(first, x, -x) + rng.normal(scale=0.01, size=60))
    plan = emppl.plan(model)
    form = next(e.form for e in plan.factors if e.factor.name == "y")
    y, design = np.asarray(plan.structure.node("y").value.data), np.column_stack([np.ones(60), x])
    chosen = np.array([3, 10, 41])
    exact = (y - design @ np.linalg.lstsq(design[chosen], y[chosen], rcond=None)[0]) ** 2
    scale = form.frame.whiten[0] ** 2
    np.testing.assert_allclose(
        scale * form.residuals(np.eye(60)[:, chosen].sum(axis=1)[:, None])[:, 0], exact, atol=1e-9
    )
    found = []
    for seed in range(10):
        label = through_members([form], 2, np.random.default_rng(seed))
        wide = np.abs(x) > 0.1
        found.append(max((label[wide] == first[wide]).mean(), (label[wide] != first[wide]).mean()) == 1.0)
    assert sum(found) >= 3
