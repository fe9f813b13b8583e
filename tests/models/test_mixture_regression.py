import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.special import log_softmax, logsumexp

import emppl
from emppl.models import mixture_regression

DATA = Path(__file__).parents[1] / "data" / "npreg_flexmix"
FITS = json.loads((DATA / "reference.json").read_text())["fits"]
X, Y = np.array([0.5, 1.0, 2.5, 4.0, 3.0]), np.array([1.0, 4.0, 2.0, 9.0, 3.0])
B = np.array([[0.5, 0.3], [1.2, 0.1]])


def log_prior(coefficients, y_scale, centre):
    width = y_scale * np.array([np.sqrt(1 + (X.mean() / X.std()) ** 2), 1 / X.std()])
    return stats.norm.logpdf(coefficients, [centre, 0.0], width).sum()


@pytest.mark.parametrize("family", ["normal", "poisson"])
def test_density_equals_scipy(log_marginal, family):
    sigma, w = np.array([0.7, 2.0]), np.array([0.4, 0.6])
    means = B[:, 0] + X[:, None] * B[:, 1]
    point = {"weights": w, "coefficients": B}
    if family == "normal":
        members = stats.norm.logpdf(Y[:, None], means, sigma)
        prior = log_prior(B, 10 * Y.std(), Y.mean()) + stats.invgamma.logpdf(sigma, 2, scale=Y.std()).sum()
        point["sigma"] = sigma
    else:
        members = stats.poisson.logpmf(Y[:, None], np.exp(means))
        prior = log_prior(B, 5.0, np.log(Y.mean()))
    model = mixture_regression.build({"x": X, "y": Y}, family=family)
    expected = logsumexp(members + np.log(w), axis=1).sum() + prior
    assert log_marginal(model, "component_of_row", 2)(point) == pytest.approx(expected, rel=1e-12)


def test_concomitants_equal_scipy(log_marginal):
    z = np.array([0.0, 1.0, 1.0, 0.0, 2.0])
    gamma = np.array([[0.3, -0.8]])
    model = mixture_regression.build({"x": X, "y": Y, "z": z}, covariates="x", concomitants="z", family="poisson")
    weights = log_softmax(np.column_stack([np.zeros(5), gamma[0, 0] + gamma[0, 1] * z]), axis=1)
    members = stats.poisson.logpmf(Y[:, None], np.exp(B[:, 0] + X[:, None] * B[:, 1])) + weights
    width = 5.0 * np.array([np.sqrt(1 + (z.mean() / z.std()) ** 2), 1 / z.std()])
    prior = log_prior(B, 5.0, np.log(Y.mean())) + stats.norm.logpdf(gamma, 0.0, width).sum()
    density = log_marginal(model, "component_of_row", 2)
    expected = logsumexp(members, axis=1).sum() + prior
    assert density({"coefficients": B, "concomitant_coefficients": gamma}) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("family", "case"), [("normal", "gaussian"), ("poisson", "poisson")])
def test_best_known_fit(family, case):
    table = pd.read_csv(DATA / "data.csv")
    response, degree = {"normal": ("yn", 2), "poisson": ("yp", 1)}[family]
    model = mixture_regression.build(table, family=family, response=response, covariates="x", degree=degree)
    fit = emppl.fit(model, estimate="ml", seed=0)
    assert fit.log_likelihood == pytest.approx(FITS[case]["loglik"], abs=1e-6)
    assert fit.status is emppl.Status.CONVERGED and fit.certificate.holds
    order = np.argsort(fit.theta["coefficients"].values[:, 0])
    np.testing.assert_allclose(fit.theta["coefficients"].values[order], FITS[case]["coefficients"], atol=1e-3)


def test_examples_are_the_published_ones():
    """The shipped table, called without data, is what the reference is about."""
    fit = emppl.fit(mixture_regression.build(family="poisson"), estimate="ml", seed=0)
    assert fit.log_likelihood == pytest.approx(FITS["poisson"]["loglik"], abs=1e-6)
    assert mixture_regression.build().coords["covariate"] == ("intercept", "x", "x^2")


@pytest.mark.parametrize(
    ("data", "options", "error", "words"),
    [
        ({"x": X}, {}, KeyError, ["'y'", "response="]),
        ({"y": Y}, {}, ValueError, ["no covariate"]),
        ({"x": X, "y": Y}, {"covariates": "z"}, KeyError, ["'z'", "covariates="]),
        ({"x": [1, 2, np.nan, 4, 5], "y": Y}, {}, ValueError, ["'x', row 2: nan", "dropna"]),
        ({"x": X, "y": [*"abcde"]}, {}, ValueError, ["'y' must hold numbers"]),
        ({"x": X, "y": -Y}, {"family": "poisson"}, ValueError, ["'y', row 0: -1", "count", 'family="normal"']),
        ({"x": np.ones(5), "y": Y}, {}, ValueError, ["'x' is constant", "covariates="]),
        ({"x": X, "y": np.ones(5)}, {}, ValueError, ["'y' is constant"]),
        ({"x": [1.0], "y": [2.0]}, {}, ValueError, ["'y' has shape (1,)", "two rows"]),
        ({"x": X[:3], "y": Y}, {}, ValueError, ["'x' has 3 rows"]),
        ({"x": X[:3], "y": Y[:3]}, {"degree": 3}, ValueError, ["3 rows for 4 coefficients"]),
        ({"x": X, "y": Y}, {"family": "gamma"}, ValueError, ["'gamma'", "poisson"]),
        ({"x": X, "y": Y}, {"degree": 0}, ValueError, ["degree=0"]),
        ({"x": X, "y": Y}, {"k": 0}, ValueError, ["k=0"]),
    ],
)
def test_bad_input_is_named(data, options, error, words):
    with pytest.raises(error) as caught:
        mixture_regression.build(data, **options)
    assert [word for word in words if word not in str(caught.value.args[0])] == []
