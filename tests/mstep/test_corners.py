"""Climbs from kink to kink, beside linear programs and closed forms; models whose errors have corners."""

import numpy as np
import pymc as pm
import pytest
from scipy.optimize import linprog, minimize

import emppl
from emppl.ascent.loop import Status
from emppl.mstep.corners import Climb, Landscape


def absolute_errors(x, y, weights, bend, unit=1.0):
    """−Σ w |y − x β| − ½ bend |β|², coefficients of size `unit`."""

    def slope(beta):
        left = y - x @ beta
        gradient = x.T @ (weights * np.sign(left)) - bend * beta
        size = np.abs(x).T @ weights + bend * np.abs(beta)
        return float(-(weights * np.abs(left)).sum() - 0.5 * bend * beta @ beta), gradient, size

    b = x.shape[1]
    return Landscape(
        slope, lambda beta: bend * np.eye(b), lambda beta: y - x @ beta, np.full(b, unit),
        lambda step: 1e3 * unit / np.abs(step).max(),
    )  # fmt: skip


def least_absolute_deviations(x, y, weights):
    """The least Σ w |y − x β|, by a linear program."""
    n, b = x.shape
    cost = np.concatenate([np.zeros(b), weights, weights])
    equal = np.hstack([x, np.eye(n), -np.eye(n)])
    found = linprog(cost, A_eq=equal, b_eq=y, bounds=[(None, None)] * b + [(0, None)] * (2 * n))
    return found.fun


@pytest.mark.parametrize("seed", range(12))
def test_a_climb_ends_where_the_linear_program_does(seed):
    rng = np.random.default_rng(seed)
    n, b = int(rng.integers(6, 80)), int(rng.integers(1, 5))
    x = np.column_stack([np.ones(n), rng.normal(size=(n, b - 1))])
    y = rng.standard_t(3, size=n).round(1 if seed % 2 else 8)  # ties, and none
    weights = rng.uniform(size=n) * (rng.uniform(size=n) < 0.8)
    land = absolute_errors(x, y, weights, 0.0)
    climb = Climb(land, rng.normal(size=b) * 10)
    climb.run()
    assert -climb.value == pytest.approx(least_absolute_deviations(x, y, weights), rel=1e-9)


@pytest.mark.parametrize("unit", [1.0, 1e9, 1e-7])
def test_a_prior_may_hold_coefficients_between_the_kinks(unit):
    """No way leads up from where the climb ends, in whatever unit; each kink that is held is zero to rounding."""
    rng = np.random.default_rng(4)
    x = np.column_stack([np.ones(6), rng.normal(size=(6, 2))])
    y = rng.normal(size=6) * unit
    land = absolute_errors(x, y, np.full(6, 1.0 / unit), 4.0 / unit**2, unit)
    climb = Climb(land, rng.normal(size=3) * unit)
    found = climb.run()
    assert len(climb.active) < 3  # the prior decides the rest
    assert np.abs(climb.at(found)[climb.active]).max(initial=0.0) < 1e-13
    for way in rng.normal(size=(2000, 3)):
        for size in (1e-6, 1e-3, 0.1):
            assert land.slope(found + size * unit * way)[0] < climb.value + 1e-13 * abs(climb.value)


def test_a_climb_of_nothing_but_a_kink_stays():
    land = absolute_errors(np.ones((3, 1)), np.array([1.0, 2.0, 5.0]), np.ones(3), 0.0)
    climb = Climb(land, np.array([2.0]))
    assert climb.active and climb.run() == 2.0


def lines(error, y=1.0, n=60):
    """A mixture of two lines."""
    rng = np.random.default_rng(2)
    x = rng.uniform(-2, 2, n)
    data = np.where(np.arange(n) < n // 2, 1.0 + 2.0 * x, -2.0 - x) + rng.laplace(scale=0.4, size=n)
    with pm.Model() as model:
        weights = pm.Dirichlet("weights", np.full(2, 2.0))
        intercept = pm.Normal("intercept", 0.0, 10.0 * y, shape=2)
        slope = pm.Normal("slope", 0.0, 10.0 * y, shape=2)
        spread = pm.InverseGamma("spread", 2.0, y)
        z = pm.Categorical("z", p=weights, shape=n)
        error("y", intercept[z] + slope[z] * x, spread, data * y)
    return model


ERRORS = {
    "Laplace": lambda name, mu, spread, y: pm.Laplace(name, mu, spread, observed=y),
    "AsymmetricLaplace": lambda name, mu, spread, y: pm.AsymmetricLaplace(
        name, b=1.0 / spread, q=0.7, mu=mu, observed=y
    ),
}


@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS.keys())
def test_regressions_to_medians_and_quantiles_end_in_a_corner_in_every_unit(error):
    fits = {unit: emppl.fit(lines(error, unit), seed=1, starts=4) for unit in (1.0, 1e6)}
    for fit in fits.values():
        assert fit.status is Status.CONVERGED and fit.certificate.holds
        assert fit.information.corners.sum() == 4
    one, other = fits.values()
    assert one.starts["mode"].tolist() == other.starts["mode"].tolist()
    assert np.sort(one.theta["slope"]) == pytest.approx(np.sort(other.theta["slope"]) / 1e6, rel=1e-9)
    # no other search finds more from there
    plan, u = one.plan, one.plan.structure.coordinates.unconstrain(one.theta)
    for seed in range(3):
        simplex = np.random.default_rng(seed).normal(scale=1e-3, size=(len(u) + 1, len(u))) + u
        options = {"initial_simplex": simplex, "maxiter": 600}
        found = minimize(lambda v: -plan.gradient(v)[0], u, method="Nelder-Mead", options=options)
        assert -found.fun <= one.log_posterior + 1e-6


def test_a_prior_with_a_corner_sets_a_coefficient_to_zero():
    """The lasso of a Poisson regression, beside a search by the absolute value's two sides."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(80, 3))
    counts = rng.poisson(np.exp(0.5 + 0.8 * x[:, 0]))
    with pm.Model() as model:
        beta = pm.Laplace("beta", 0.0, 0.1, shape=3)
        pm.Poisson("y", pm.math.exp(0.5 + x @ beta), observed=counts)
    fit = emppl.fit(model, seed=1)

    def loss(v):
        h = 0.5 + x @ (v[:3] - v[3:])
        return float((np.exp(h) - counts * h).sum() + v.sum() / 0.1)

    best = minimize(loss, np.full(6, 0.1), bounds=[(0, None)] * 6, method="L-BFGS-B", options={"ftol": 1e-15})
    wanted = best.x[:3] - best.x[3:]
    assert (np.abs(wanted) < 1e-6).any()
    found = np.asarray(fit.theta["beta"])
    assert found == pytest.approx(wanted, abs=1e-4)
    assert (found[np.abs(wanted) < 1e-6] == 0).all()
