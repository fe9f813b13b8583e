"""Data on which sums of squares lose their digits: the derived log posterior is that of the graph all the same."""

import numpy as np
import pymc as pm
import pytest

import emppl

N = 400


def offset(rng):
    """1e8 away from zero with a spread of 1, in one dimension."""
    return 1e8 + rng.normal(size=(N, 1)) + 4.0 * rng.integers(2, size=(N, 1))


def scales(rng):
    """Columns in units 1e12 apart, far from zero."""
    return (rng.normal(size=(N, 3)) + 3.0 * rng.integers(2, size=(N, 1)) + 100.0) * [1e-6, 1.0, 1e6]


def singular(rng):
    """Columns that are nearly sums of each other: a condition of 1e7, of which the graph itself loses 1e-9."""
    y = rng.normal(size=(N, 3)) + 3.0 * rng.integers(2, size=(N, 1))
    y[:, 2] = y[:, 0] + y[:, 1] + 1e-3 * rng.normal(size=N)
    return y


def model_of(y: np.ndarray) -> pm.Model:
    d = y.shape[1]
    scatter, centre = np.atleast_2d(np.cov(y, rowvar=False)), y.mean(axis=0)
    root = np.linalg.cholesky(scatter)
    with pm.Model() as model:
        weights = pm.Dirichlet("weights", np.ones(2))
        z = pm.Categorical("z", p=weights, shape=N)
        shift = pm.Normal("shift", np.float64(0.0), np.float64(1.0), shape=(2, d))
        spread = pm.HalfNormal("spread", np.float64(1.0), shape=2)
        mu = centre + shift @ root.T
        if d == 1:
            pm.Normal("y", mu=mu[z, 0], sigma=(spread * root[0, 0])[z], observed=y[:, 0])
        else:
            chol = spread[:, None, None] * root
            pm.MvNormal("y", mu=mu[z], chol=chol[z], observed=y)
    return model


@pytest.mark.parametrize("compiled", ["never", "always"])
@pytest.mark.parametrize("make", [offset, scales, singular])
def test_the_kernel_equals_the_graph(make, compiled):
    model = model_of(make(np.random.default_rng(1)))
    plan = emppl.plan(model, compile=compiled)
    graph = emppl.plan(model, estep="graph")
    assert plan.engine.plates[0].compiled == (compiled == "always")
    assert not plan.engine.plates[0].has_table and graph.engine.plates[0].has_table
    coordinates = plan.structure.coordinates
    for seed in range(3):
        u = 0.4 * np.random.default_rng(seed).normal(size=coordinates.size)
        value, gradient, _ = plan.gradient(u)
        expected, slope, _ = graph.gradient(u)
        assert value == pytest.approx(expected, rel=1e-9)
        np.testing.assert_allclose(gradient, slope, rtol=1e-6, atol=1e-9 * max(1.0, np.abs(slope).max()))
