import numpy as np
import pytest
from scipy import stats

import emppl
from emppl.models import robust_regression

X, Y, SIGMA = np.array([1.0, 2.0, 4.0, 5.0]), np.array([2.1, 3.9, 1.0, 10.2]), np.array([0.3, 0.2, 0.4, 0.3])
POINT = {"intercept": 0.2, "slope": 1.9, "outlier_probability": 0.2, "outlier_mean": 3.0, "outlier_sd": 2.0}


def log_prior(x, y):
    s, mean = y.std(), y.mean()
    width = 10 * s * np.sqrt(1 + (x.mean() / x.std()) ** 2)
    return (
        stats.norm.logpdf(0.2, mean, width)
        + stats.norm.logpdf(1.9, 0, 10 * s / x.std())
        + stats.beta.logpdf(0.2, 1, 4)
        + stats.norm.logpdf(3.0, mean, 2 * s)
        + stats.invgamma.logpdf(2.0, 2, scale=s)
    )


@pytest.mark.parametrize("known", [True, False])
def test_density_equals_scipy(log_marginal, known):
    sigma = SIGMA if known else 0.5
    line = 0.8 * stats.norm.pdf(Y, 0.2 + 1.9 * X, sigma)
    wrong = 0.2 * stats.norm.pdf(Y, 3.0, np.sqrt(sigma**2 + 4.0))
    expected = np.log(line + wrong).sum() + log_prior(X, Y)
    point = dict(POINT)
    if not known:
        expected += stats.invgamma.logpdf(0.5, 2, scale=Y.std())
        point["sigma"] = 0.5
    data = {"x": X, "y": Y} | ({"sigma_y": SIGMA} if known else {})
    assert log_marginal(robust_regression.build(data), "outlier_of_point", 2)(point) == pytest.approx(
        expected, rel=1e-12
    )


def test_the_line_of_hogg_bovy_and_lang():
    """Points 1 to 4 are the bad ones; the line through the others has slope 2.24 and intercept 34 (their figure 1)."""
    fit = emppl.fit(robust_regression.build(), seed=0)
    assert fit.certificate.holds
    assert fit.theta["slope"].item() == pytest.approx(2.24, abs=0.15)
    assert fit.theta["intercept"].item() == pytest.approx(34, abs=25)
    wrong = fit.responsibilities()["outlier_of_point"].values[:, 1]
    assert {1, 2, 3} <= set(np.flatnonzero(wrong > 0.5)) and (wrong[5:] < 0.5).all()


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        ({"x": X}, KeyError, ["'y'"]),
        ({"x": X, "y": [1, 2, np.nan, 3]}, ValueError, ["'y', row 2: nan", "dropna"]),
        ({"x": [*"abcd"], "y": Y}, ValueError, ["'x' must hold numbers"]),
        ({"x": np.ones(4), "y": Y}, ValueError, ["'x' is constant"]),
        ({"x": X[:3], "y": Y[:3]}, ValueError, ["3 and 3 rows", "four or more"]),
        ({"x": [1.0], "y": [2.0]}, ValueError, ["'x' has shape (1,)"]),
        ({"x": X, "y": Y, "sigma_y": [1, 1, 0, 1]}, ValueError, ["'sigma_y', row 2: 0", "leave the column out"]),
        ({"x": X, "y": Y, "sigma_y": [1, 1]}, ValueError, ["'sigma_y' has 2 rows"]),
    ],
)
def test_bad_input_is_named(data, error, words):
    with pytest.raises(error) as caught:
        robust_regression.build(data)
    assert [word for word in words if word not in str(caught.value.args[0])] == []
