"""Models with many components or columns are planned, fitted and certified within seconds."""

import numpy as np
import pymc as pm
import pytest

import emppl
from emppl.estep.scales import FEWEST_IN_ALL, _representatives


def many_components():
    y = np.random.default_rng(0).normal(3.0 * np.arange(64), 0.5, (8, 64)).ravel()
    with pm.Model() as model:
        mu = pm.Normal("mu", np.float64(96.0), np.float64(100.0), shape=64)
        z = pm.Categorical("z", p=np.full(64, 1 / 64), shape=len(y))
        pm.Normal("y", mu[z], np.float64(0.5), observed=y)
    return model, {"mu": 3.0 * np.arange(64)}


def many_columns():
    y = np.random.default_rng(1).normal(size=(30, 64)) + 2.0 * np.repeat([0, 1], 15)[:, None]
    with pm.Model() as model:
        mu = pm.Normal("mu", np.float64(0.0), np.float64(10.0), shape=(2, 64))
        z = pm.Bernoulli("z", np.float64(0.5), shape=30)
        pm.Normal("y", mu[z], np.float64(1.0), observed=y)
    return model, {"mu": y[[0, -1]]}


@pytest.mark.parametrize("made", [many_components, many_columns])
def test_wide_models_are_fitted_and_their_log_joint_is_that_of_pymc(made):
    model, start = made()
    fit = emppl.fit(emppl.plan(model), start=start, starts=0, accelerate=None, max_iter=3)
    assert fit.status in (emppl.Status.CONVERGED, emppl.Status.MAX_ITER)
    (joint,) = [point for point in fit.certificate.points if point.name == "log joint"]
    assert joint.holds, joint.text


def test_the_search_for_widths_looks_at_few_coordinates_of_many():
    """16 covariances in 12 dimensions: each value goes through the graph of 1,248 coordinates."""
    with pm.Model() as model:
        for c in range(16):
            pm.LKJCholeskyCov(
                f"chol_{c}", eta=2.0, n=12, sd_dist=pm.HalfNormal.dist(np.float64(1.0)), compute_corr=False
            )
        z = pm.Bernoulli("z", np.float64(0.5), shape=4)
        pm.Normal("y", z, np.float64(1.0), observed=np.zeros(4))
    coordinates = emppl.structure.analyse(model).coordinates
    linear, logs = ~coordinates.transformed, coordinates.logarithmic
    chosen, nearest = _representatives(coordinates, 1e5, (linear, logs))
    assert len(chosen) <= FEWEST_IN_ALL and len(set(chosen)) == len(chosen)
    looked_at = np.isin(np.arange(coordinates.size), chosen)
    assert looked_at[nearest[linear]].all() and linear[nearest[linear]].all()
