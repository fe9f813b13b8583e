"""Curvature from the Fisher gradient, against second differences of log-likelihoods coded by hand."""

import numpy as np
import pymc as pm
import pytensor.tensor as pt
import pytest
import small_models
from oracles import hessian
from scipy import stats
from scipy.special import logsumexp

import emppl
from emppl.estep import missing
from emppl.inference.information import Information, observed_information
from emppl.models import coins, gaussian_mixture, latent_class, poisson_mixture

HEADS, TOSSES = np.array([5, 9, 8, 4, 7]), 10


def coin_log_likelihood(bias) -> float:
    return float(logsumexp(stats.binom.logpmf(HEADS[:, None], TOSSES, bias) + np.log(0.5), axis=1).sum())


def test_standard_errors_of_the_coins():
    """The information in the biases themselves, inverted; the fit goes through logits and the delta method."""
    fit = emppl.fit(coins.build(), starts=3, seed=0)
    by_hand = np.linalg.inv(-hessian(coin_log_likelihood, fit.theta["bias"].values))
    np.testing.assert_allclose(fit.standard_errors()["bias"], np.sqrt(np.diag(by_hand)), rtol=1e-5)
    assert fit.standard_errors()["bias"].dims == ("coin",)


def test_standard_errors_of_two_poissons():
    """Weights that sum to one have one degree of freedom: both have the same standard error."""
    rng = np.random.default_rng(3)
    y = np.r_[rng.poisson(2.0, 60), rng.poisson(9.0, 40)]
    fit = emppl.fit(poisson_mixture.build({"y": y}), estimate="ml", starts=4, seed=0)

    def log_likelihood(x):
        terms = stats.poisson.logpmf(y[:, None], x[1:]) + np.log([x[0], 1 - x[0]])
        return float(logsumexp(terms, axis=1).sum())

    x = np.r_[fit.theta["weights"].values[0], fit.theta["rate"].values]
    errors = np.sqrt(np.diag(np.linalg.inv(-hessian(log_likelihood, x))))
    found = fit.standard_errors()
    np.testing.assert_allclose(found["rate"], errors[1:], rtol=1e-5)
    np.testing.assert_allclose(found["weights"], [errors[0], errors[0]], rtol=1e-5)


def test_a_prior_adds_its_information():
    with pm.Model() as model:
        m = pm.Normal("m", np.float64(0.0), np.float64(0.5))
        z = pm.Bernoulli("z", np.float64(0.5), shape=6)
        pm.Normal("y", m + np.float64(0.0) * z, np.float64(2.0), observed=np.linspace(-1, 3, 6))
    fit = emppl.fit(model, starts=1, seed=0)
    assert float(fit.standard_errors()["m"]) == pytest.approx((6 / 4 + 4) ** -0.5, rel=1e-6)
    fit = emppl.fit(model, estimate="ml", starts=1, seed=0)
    assert float(fit.standard_errors()["m"]) == pytest.approx((6 / 4) ** -0.5, rel=1e-6)


def test_deterministics_have_errors_too():
    """The delta method through a function of the parameters."""
    with pm.Model() as model:
        p = pm.Beta("p", np.float64(1.0), np.float64(1.0))
        pm.Deterministic("odds", p / (1 - p))
        pm.Binomial("heads", n=np.int64(40), p=p, observed=np.array([30]))
    fit = emppl.fit(model, seed=0, starts=1)
    se = float(fit.standard_errors()["p"])
    assert se == pytest.approx(np.sqrt(0.75 * 0.25 / 40), rel=1e-5)
    assert float(fit.standard_errors()["odds"]) == pytest.approx(se / 0.25**2, rel=1e-4)


@pytest.mark.parametrize("name", ["coins", "two_binary_latents", "gaussian_diagonal", "zero_inflated", "ordered_means"])
def test_information_is_minus_the_second_derivative(name):
    plan = small_models.plan(name)
    coordinates = plan.structure.coordinates
    u = np.random.default_rng(0).normal(scale=0.4, size=coordinates.size)
    information = observed_information(plan, u)
    by_differences = -hessian(lambda v: plan.log_posterior(coordinates.constrain(v)), u)
    scale = np.abs(by_differences).max()
    np.testing.assert_allclose(information.information, by_differences, atol=2e-5 * scale)
    assert information.interior.all()


def test_a_probability_on_the_border_has_no_standard_error():
    """A coin that shows nothing but heads: nan, not an interval of no width."""
    with pm.Model() as model:
        bias = pm.Beta("bias", np.float64(1.0), np.float64(1.0), shape=2)
        z = pm.Categorical("z", p=np.array([0.5, 0.5]), shape=6)
        pm.Binomial("heads", n=np.int64(30), p=bias[z], observed=np.array([30, 30, 30, 9, 8, 10]))
    fit = emppl.fit(model, estimate="ml", starts=3, seed=0)
    edge = fit.theta["bias"].values > 0.999
    errors = fit.standard_errors()["bias"].values
    assert edge.sum() == 1 and np.isnan(errors[edge]).all()
    assert errors[~edge] == pytest.approx(np.sqrt(0.3 * 0.7 / 90), rel=1e-4)


@pytest.mark.parametrize("unit", [1.0, 1e-7, 1e6])
@pytest.mark.parametrize("hidden", [False, True])
def test_at_a_corner_of_the_density_there_is_no_standard_error(unit, hidden):
    """The median of Laplace's distribution is one of the values, where the slope jumps; the scale's error is known."""
    y = unit * np.random.default_rng(1).laplace(3.0, 2.0, size=41)
    with pm.Model() as model:
        centre = pm.Uniform("centre", -100 * unit, 100 * unit)
        spread = pm.Uniform("spread", 1e-3 * unit, 100 * unit)
        pm.Deterministic("twice", 2.0 * centre)
        if hidden:
            z = pm.Bernoulli("z", np.float64(0.3), shape=41)
            pm.Bernoulli("seen", pt.switch(pt.eq(z, 1), np.float64(0.9), np.float64(0.2)), observed=np.arange(41) % 2)
        pm.Laplace("y", centre, spread, observed=y)
    fit = emppl.fit(model, estimate="ml", starts=2, seed=0)
    errors, scale = fit.standard_errors(), float(np.abs(y - np.median(y)).mean())
    assert float(fit.theta["centre"]) == pytest.approx(np.median(y), rel=1e-8)
    assert np.isnan([errors["centre"], errors["twice"]]).all()
    assert fit.certificate.holds and "at a corner of the density, without standard error: centre" in str(
        fit.certificate
    )
    assert float(fit.theta["spread"]) == pytest.approx(scale, rel=1e-6)
    assert float(errors["spread"]) == pytest.approx(scale / np.sqrt(41), rel=1e-4)


# -- what is read from it ----------------------------------------------------------------------------------------------


def info(matrix, gradient=None) -> Information:
    matrix = np.asarray(matrix, float)
    n = len(matrix)
    slope = np.zeros(n) if gradient is None else np.array(gradient)
    return Information(np.zeros(n), np.ones(n, bool), slope, matrix, np.zeros(n, bool), np.zeros(n, bool))


def test_a_maximum_a_saddle_and_a_flat_direction():
    assert info([[2.0, 0.5], [0.5, 1.0]]).is_maximum
    assert not info([[2.0, 0.0], [0.0, -1.0]]).is_maximum
    flat = info([[1.0, 1.0], [1.0, 1.0]])
    assert flat.is_maximum and len(flat.flat_directions) == 1
    np.testing.assert_allclose(np.abs(flat.flat_directions[0]), [2**-0.5, 2**-0.5])
    assert np.isnan(flat.covariance).all()  # neither is identified


def test_the_covariance_of_what_is_identified():
    matrix = np.diag([2.0, 4.0, 0.0])
    covariance = info(matrix).covariance
    np.testing.assert_allclose(covariance[:2, :2], np.diag([0.5, 0.25]))
    assert np.isnan(covariance[2]).all()


def test_the_newton_step_and_its_gain():
    """On a quadratic one step is enough, and the decrement is the gain."""
    matrix, gradient = np.array([[2.0, 0.5], [0.5, 1.0]]), np.array([1.0, -0.3])
    found = info(matrix, gradient)
    np.testing.assert_allclose(found.step(), np.linalg.solve(matrix, gradient))
    assert found.decrement == pytest.approx(0.5 * gradient @ np.linalg.solve(matrix, gradient))
    saddle = info([[2.0, 0.0], [0.0, -1.0]], [1.0, 1.0])
    assert saddle.step() @ np.array([1.0, 1.0]) > 0  # uphill, although the curvature is of the wrong sign


def test_the_border_is_left_out():
    plan = small_models.plan("coins")
    information = observed_information(plan, np.array([-25.0, 0.3, 0.1]))
    assert list(information.interior) == [False, True, True] and information.information.shape == (2, 2)
    assert np.isnan(information.covariance[0]).all() and np.isfinite(information.covariance[1:, 1:]).all()


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("build", [gaussian_mixture.build, poisson_mixture.build, latent_class.build, coins.build])
def test_complete_minus_missing_equals_differences_of_passes(monkeypatch, build, weighted):
    """Two ways to the observed information, away from the mode too."""
    model = build()
    size = emppl.plan(model).structure.plates[0].size
    weights = np.random.default_rng(1).uniform(0.5, 2.0, size) if weighted else None
    plan = emppl.plan(model, obs_weights=weights)
    u = 0.2 * np.random.default_rng(0).normal(size=plan.structure.coordinates.size)
    u = plan.structure.coordinates.unconstrain(emppl.fit(plan, seed=0, starts=2).point) + u
    monkeypatch.setattr(missing, "WORTHWHILE", np.inf)
    by_passes = observed_information(plan, u)
    monkeypatch.setattr(missing, "WORTHWHILE", 0)
    assert missing.is_worthwhile(plan)
    by_statistics = observed_information(plan, u)
    scale = np.abs(by_passes.information).max()
    np.testing.assert_allclose(by_statistics.information, by_passes.information, rtol=1e-5, atol=1e-7 * scale)
    np.testing.assert_allclose(by_statistics.gradient, by_passes.gradient)


@pytest.mark.parametrize("offset", [0.0, 1e9, 1e11, 1e12])
def test_far_from_zero_errors_are_right_or_none(offset):
    """A step of differences must be far above rounding and far below the width: at 1e12 there is no such step."""
    y0 = np.random.default_rng(8).normal(size=50)
    with pm.Model() as model:
        mu = pm.Normal("mu", np.float64(offset), np.float64(100.0))
        z = pm.Bernoulli("z", np.float64(0.5), shape=50)
        pm.Normal("y", mu + np.float64(0.0) * z, np.float64(1.0), observed=offset + y0)
    fit = emppl.fit(model, starts=1, seed=0)
    error, expected = float(fit.standard_errors()["mu"]), (50.0 + 1e-4) ** -0.5
    if offset <= 1e9:
        assert error == pytest.approx(expected, rel=1e-4)
    else:
        assert np.isnan(error) or error == pytest.approx(expected, rel=1e-3)
        assert not np.isnan(error) or "for a standard error: mu" in str(fit.certificate)


def test_a_weight_next_to_zero_has_no_error_of_zero():
    with pm.Model() as model:
        w = pm.Dirichlet("w", np.ones(2))
        z = pm.Categorical("z", p=w, shape=40)
        means = pt.as_tensor(np.array([0.0, 3.0]))
        pm.Normal("y", means[z], np.float64(1.0), observed=np.random.default_rng(0).normal(-2.0, 1.0, 40))
    fit = emppl.fit(model, starts=3, seed=0)
    assert fit.theta["w"].values.min() < 1e-8
    assert np.isnan(fit.standard_errors()["w"]).all()
