import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

import emppl
from emppl.models import zero_inflated

VARIANTS = json.loads((Path(__file__).parents[1] / "data" / "zip_counts" / "reference.json").read_text())["variants"]
OPTIONS = {"intercept_only": {"covariates": ""}, "count_covariates": {}, "both": {"zero_covariates": "same"}}
X, Y = np.array([0.2, 1.0, 1.7, 3.0]), np.array([0, 2, 0, 5])


def test_density_equals_scipy(log_marginal):
    b, g = np.array([0.4, 0.3]), np.array([-0.5, 0.2])
    rate, zero = np.exp(b[0] + b[1] * X), 1 / (1 + np.exp(-g[0] - g[1] * X))
    likelihood = np.log(zero * (Y == 0) + (1 - zero) * stats.poisson.pmf(Y, rate)).sum()
    width = 5.0 * np.array([np.sqrt(1 + (X.mean() / X.std()) ** 2), 1 / X.std()])
    prior = stats.norm.logpdf(b, [np.log(Y.mean()), 0.0], width).sum() + stats.norm.logpdf(g, 0.0, width).sum()
    model = zero_inflated.build({"x": X, "y": Y}, zero_covariates="same")
    density = log_marginal(model, "never_of_row", 2)
    assert density({"count_coefficients": b, "zero_coefficients": g}) == pytest.approx(likelihood + prior, rel=1e-12)
    plain = log_marginal(zero_inflated.build({"y": Y}), "never_of_row", 2)
    likelihood = np.log(0.3 * (Y == 0) + 0.7 * stats.poisson.pmf(Y, 2.0)).sum()
    prior = stats.gamma.logpdf(2.0, 2, scale=Y.mean())
    assert plain({"rate": 2.0, "zero_probability": 0.3}) == pytest.approx(likelihood + prior, rel=1e-12)


@pytest.mark.parametrize("variant", OPTIONS)
def test_best_known_fit(variant):
    known = VARIANTS[variant]
    fit = emppl.fit(zero_inflated.build(**OPTIONS[variant]), estimate="ml", seed=0)
    assert fit.log_likelihood == pytest.approx(known["loglik"], abs=1e-6)
    assert fit.status is emppl.Status.CONVERGED and fit.certificate.holds
    if variant == "intercept_only":
        assert fit.theta["rate"].item() == pytest.approx(known["lambda_"], rel=1e-5)
        assert fit.theta["zero_probability"].item() == pytest.approx(known["pi"], rel=1e-4)
    else:
        np.testing.assert_allclose(fit.theta["count_coefficients"], known["count_coefficients"], atol=1e-4)
    if variant == "both":
        np.testing.assert_allclose(fit.theta["zero_coefficients"], known["inflation_coefficients_logit"], atol=1e-3)


@pytest.mark.parametrize(
    ("data", "options", "error", "words"),
    [
        ({"x": X}, {}, KeyError, ["'y'", "response="]),
        ({"x": X, "y": [0, 1, -2, 3]}, {}, ValueError, ["'y', row 2: -2", "count"]),
        ({"x": X, "y": [0, 1, 2.5, 3]}, {}, ValueError, ["'y', row 2: 2.5"]),
        ({"x": X, "y": [0, 1, np.nan, 3]}, {}, ValueError, ["'y', row 2: nan", "dropna"]),
        ({"x": X, "y": [*"abcd"]}, {}, ValueError, ["'y' must hold numbers"]),
        ({"x": X, "y": [0, 0, 0, 0]}, {}, ValueError, ["'y' is constant"]),
        ({"x": X, "y": [1, 2, 3, 4]}, {}, ValueError, ["no zero", "plain Poisson"]),
        ({"x": np.ones(4), "y": Y}, {}, ValueError, ["'x' is constant", "covariates="]),
        ({"x": X, "y": Y}, {"zero_covariates": "z"}, KeyError, ["'z'"]),
        ({"x": X[:3], "y": Y}, {}, ValueError, ["'x' has 3 rows"]),
        ({"y": [3]}, {}, ValueError, ["'y' has shape (1,)"]),
    ],
)
def test_bad_input_is_named(data, options, error, words):
    with pytest.raises(error) as caught:
        zero_inflated.build(data, **options)
    assert [word for word in words if word not in str(caught.value.args[0])] == []
