"""Laplace draws: centred where the density that NUTS sees has its mode."""

import numpy as np
import pymc as pm
import pytest
import small_models
from scipy import integrate, stats
from scipy.special import expit

import emppl
from emppl.inference.laplace import log_evidence


@pytest.fixture(scope="module")
def nine_of_ten():
    with pm.Model() as model:
        p = pm.Beta("p", np.float64(1.0), np.float64(1.0))
        pm.Binomial("heads", n=np.int64(10), p=p, observed=np.array([9]))
    return emppl.fit(model, starts=1, seed=0)


def test_nine_of_ten(nine_of_ten):
    """The posterior is Beta(10, 2): on the logit its mode is at 10/12, not at the estimate 9/10."""
    assert float(nine_of_ten.theta["p"]) == pytest.approx(0.9, abs=1e-6)
    draws = nine_of_ten.to_datatree(draws=4000)["posterior"]["p"].values.ravel()
    logit = np.log(draws / (1 - draws))
    sd = (12 * (10 / 12) * (2 / 12)) ** -0.5
    assert logit.mean() == pytest.approx(np.log(5), abs=4 * sd / np.sqrt(4000))
    assert logit.std() == pytest.approx(sd, rel=0.05)
    assert np.median(draws) == pytest.approx(
        stats.beta(10, 2).median(), abs=0.03
    )  # without the Jacobian it would be 0.90
    mean, _ = integrate.quad(lambda x: expit(x) * stats.norm.pdf(x, np.log(5), sd), -10, 10)
    assert draws.mean() == pytest.approx(mean, abs=0.01)


def test_maximum_likelihood_is_centred_at_the_estimate():
    with pm.Model() as model:
        p = pm.Beta("p", np.float64(1.0), np.float64(1.0))
        pm.Binomial("heads", n=np.int64(10), p=p, observed=np.array([9]))
    fit = emppl.fit(model, estimate="ml", starts=1, seed=0)
    draws = fit.to_datatree(draws=2000)["posterior"]["p"].values.ravel()
    assert np.median(draws) == pytest.approx(0.9, abs=0.02)


def test_a_normal_posterior_is_exact():
    """Where the posterior is normal its Laplace approximation is the posterior."""
    y = np.array([1.0, 2.0, 4.0])
    with pm.Model() as model:
        m = pm.Normal("m", np.float64(0.0), np.float64(2.0))
        pm.Deterministic("square", m**2)
        pm.Normal("y", m, np.float64(1.0), observed=y)
    posterior = emppl.fit(model, starts=1, seed=0).to_datatree(draws=5000)["posterior"]
    precision = 3 + 1 / 4
    draws = posterior["m"].values.ravel()
    assert draws.mean() == pytest.approx(y.sum() / precision, abs=4 / np.sqrt(precision * 5000))
    assert draws.std() == pytest.approx(precision**-0.5, rel=0.04)
    np.testing.assert_allclose(posterior["square"], posterior["m"] ** 2)


def test_draws_stay_in_the_domain():
    fit = emppl.fit(small_models.model("coins").model, starts=2, seed=0)
    posterior = fit.to_datatree(draws=200)["posterior"]
    assert (posterior["bias"] > 0).all() and (posterior["bias"] < 1).all() and (posterior["weights"] >= 0).all()
    np.testing.assert_allclose(posterior["weights"].sum(posterior["weights"].dims[-1]), 1.0)


def test_seeds(nine_of_ten):
    one, two, other = (nine_of_ten.to_datatree(draws=20, seed=s)["posterior"]["p"].values for s in (1, 1, 2))
    np.testing.assert_array_equal(one, two)
    assert not np.array_equal(one, other)


def test_evidence_is_exact_where_the_posterior_is_normal():
    y = np.array([0.3, 1.9, -0.4, 2.2])
    with pm.Model() as model:
        mu = pm.Normal("mu", np.float64(0.5), np.float64(2.0))
        pm.Normal("y", mu, np.float64(1.5), observed=y)
    plan = emppl.plan(model)
    fit = emppl.fit(plan, starts=1, seed=0)
    covariance = 1.5**2 * np.eye(4) + 2.0**2
    exact = stats.multivariate_normal(np.full(4, 0.5), covariance).logpdf(y)
    assert log_evidence(plan, fit.point) == pytest.approx(exact, abs=1e-6)


def test_evidence_of_nine_of_ten(nine_of_ten):
    """On the logit scale p(y, u) = C(10, 9) p^10 (1-p)^2 with p = expit(u): mode 10/12, curvature 12 p (1 - p)."""
    p = 10 / 12
    height = np.log(10) + 10 * np.log(p) + 2 * np.log(1 - p)
    expected = height + 0.5 * np.log(2 * np.pi) - 0.5 * np.log(12 * p * (1 - p))
    assert log_evidence(nine_of_ten.plan, nine_of_ten.point) == pytest.approx(expected, abs=1e-5)
    assert expected == pytest.approx(np.log(1 / 11), abs=0.1)  # the truth


def test_no_evidence_without_a_prior():
    with pm.Model() as model:
        p = pm.Beta("p", np.float64(1.0), np.float64(1.0))
        pm.Binomial("heads", n=np.int64(10), p=p, observed=np.array([9]))
    fit = emppl.fit(model, estimate="ml", starts=1, seed=0)
    assert np.isnan(log_evidence(fit.plan, fit.point))
