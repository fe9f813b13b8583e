"""Counts without an upper end: the window, what is neglected beyond it, and exact marginals where there are some."""

import numpy as np
import pymc as pm
import pytest
from scipy import stats

import emppl
from emppl.ascent.window import TAIL, tail_mass, widened

ONE, TWO = np.float64(1.0), np.float64(2.0)


def thinned(y: np.ndarray) -> pm.Model:
    """N ~ Poisson, each seen with probability 0.4: what is seen is Poisson with 0.4 times the rate."""
    with pm.Model(coords={"site": range(len(y))}) as model:
        rate = pm.Gamma("rate", TWO, np.float64(0.1))
        n = pm.Poisson("n", rate, dims="site")
        pm.Binomial("seen", n=n, p=np.float64(0.4), observed=y, dims="site")
    return model


def test_a_thinned_poisson_is_poisson():
    y = np.array([3, 0, 5, 2, 4, 1])
    fit = emppl.fit(thinned(y), estimate="ml", seed=0, starts=2)
    assert float(fit.theta["rate"]) == pytest.approx(y.mean() / 0.4, rel=1e-4)
    assert fit.log_likelihood == pytest.approx(stats.poisson.logpmf(y, y.mean()).sum(), abs=1e-6)
    point = {p.name: p for p in fit.certificate.points}["tail"]
    assert point.holds and point.value < TAIL and "n ≤" in point.text
    missed = fit.responsibilities()["n"].values @ np.arange(fit.responsibilities().sizes["n_value"]) - y
    np.testing.assert_allclose(missed, 0.6 * float(fit.theta["rate"]), rtol=1e-9)  # those not seen are Poisson as well


def test_the_neglected_tail_is_what_scipy_says():
    plan = emppl.plan(thinned(np.array([2, 2])))
    last = int(plan.structure.node("n").support[-1])
    rate = 25.0
    exact = stats.poisson.sf(last - 2, 0.6 * rate)  # unseen given seen: Poisson
    assert tail_mass(plan, {"rate": np.array(rate)})["n"] == pytest.approx(exact, rel=1e-6)


def test_a_window_grows_until_nothing_is_neglected():
    """The data are no counts, so nothing in them says how long the window must be."""
    y = np.array([118.0, 131.0, 125.0, 140.0])
    with pm.Model() as model:
        rate = pm.Gamma("rate", TWO, np.float64(0.01))
        n = pm.Poisson("n", rate, shape=4)
        pm.Normal("y", n, ONE, observed=y)
    assert emppl.plan(model).structure.node("n").support[-1] < 100
    fit = emppl.fit(model, estimate="ml", seed=0, starts=2)
    assert fit.plan.structure.node("n").support[-1] > 150
    counts = np.arange(400)

    def exact(rate: float) -> float:
        joint = stats.poisson.pmf(counts, rate)[:, None] * stats.norm.pdf(y, counts[:, None])
        return float(np.log(joint.sum(axis=0)).sum())

    assert fit.log_likelihood == pytest.approx(exact(float(fit.theta["rate"])), abs=1e-8)
    assert {p.name: p.holds for p in fit.certificate.points}["tail"]


def test_a_wider_plan_keeps_everything_else():
    plan = emppl.plan(thinned(np.array([1, 2])), estimate="ml", freeze={"rate": 4.0})
    wide = widened(plan)
    assert wide.estimate == "ml" and float(wide.frozen["rate"]) == 4.0
    assert wide.structure.node("n").window
    assert wide.structure.node("n").n_values > 1.9 * plan.structure.node("n").n_values


def test_the_plan_says_so():
    assert "n has no upper end" in str(emppl.plan(thinned(np.array([1, 2]))))
