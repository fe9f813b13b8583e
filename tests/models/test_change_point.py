import numpy as np
import pytest
from scipy import stats
from scipy.special import logsumexp

import emppl
from emppl.models import change_point

Y, TIME = np.array([4.0, 6, 5, np.nan, 1, 0, 2]), np.array([1900, 1901, 1903, 1904, 1905, 1906, 1908])


def log_marginal_by_hand(y, time, rate):
    """Sum over every year of the change, one by one."""
    known = ~np.isnan(y)
    y, kept = y[known], time[known]
    years = np.arange(time[0] + 1, time[-1] + 1)
    terms = [stats.poisson.logpmf(y, np.where(kept < year, *rate)).sum() for year in years]
    return logsumexp(terms) - np.log(len(years)), np.exp(np.array(terms) - logsumexp(terms))


def test_likelihood_equals_the_sum_over_years():
    model = change_point.build({"y": Y, "time": TIME})
    rate = np.array([4.5, 1.2])
    value, posterior = log_marginal_by_hand(Y, TIME, rate)
    plan = emppl.plan(model)
    assert plan.log_likelihood({"rate": rate}) == pytest.approx(value, rel=1e-12)
    prior = stats.gamma.logpdf(rate, 2, scale=np.nanmean(Y)).sum()
    assert plan.log_posterior({"rate": rate}) == pytest.approx(value + prior, rel=1e-12)
    np.testing.assert_allclose(plan.responsibilities({"rate": rate})["change"], posterior, atol=1e-12)
    assert model.coords["time"] == (1900, 1901, 1903, 1905, 1906, 1908)


def test_coal_mines():
    """The best of a fine grid is no better; the change came about 1890."""
    model = change_point.build()
    fit = emppl.fit(model, estimate="ml", starts=3, seed=0)
    assert fit.certificate.holds
    early, late = fit.theta["rate"].values
    table = np.genfromtxt(change_point.FOLDER / "coal_mining_disasters.csv", delimiter=",", skip_header=1)
    y, time = table[:, 1], table[:, 0].astype(int)
    value, posterior = log_marginal_by_hand(y, time, (early, late))
    assert fit.log_likelihood == pytest.approx(value, rel=1e-12)
    grid = [(e, b) for e in early * np.linspace(0.9, 1.1, 9) for b in late * np.linspace(0.9, 1.1, 9)]
    assert max(log_marginal_by_hand(y, time, rate)[0] for rate in grid) <= value + 1e-9
    assert early == pytest.approx(3.1, abs=0.1) and late == pytest.approx(0.9, abs=0.1)
    assert 1885 < np.arange(1852, 1962)[posterior.argmax()] < 1895


def test_text_messages():
    assert change_point.build(example="text_messages").coords["time"][-1] == 74


@pytest.mark.parametrize(
    ("data", "options", "error", "words"),
    [
        ({"x": [1]}, {}, KeyError, ["'y'"]),
        ({"y": [1, 2, -3]}, {}, ValueError, ["'y', row 2: -3", "count"]),
        ({"y": [1, 2, np.inf]}, {}, ValueError, ["'y', row 2: inf"]),
        ({"y": [*"abc"]}, {}, ValueError, ["'y' must hold numbers"]),
        ({"y": [3]}, {}, ValueError, ["'y' has shape (1,)", "three times"]),
        ({"y": [2, 2, 2, 2]}, {}, ValueError, ["'y' is constant"]),
        ({"y": [1, 2, 3], "time": [1, 1, 2]}, {}, ValueError, ["'time', row 1", "sort"]),
        ({"y": [1, 2, 3], "time": [1, 1.5, 2]}, {}, ValueError, ["'time', row 1: 1.5", "whole number"]),
        ({"y": [1, 2, 3], "time": [1, 2]}, {}, ValueError, ["'time' has shape (2,)"]),
        ({"y": [1, 2, 3], "time": [1, 2, 10**7]}, {}, ValueError, ["'time' runs over"]),
        (None, {"example": "mines"}, ValueError, ["'mines'", "coal_mining"]),
    ],
)
def test_bad_input_is_named(data, options, error, words):
    with pytest.raises(error) as caught:
        change_point.build(data, **options)
    assert [word for word in words if word not in str(caught.value.args[0])] == []
