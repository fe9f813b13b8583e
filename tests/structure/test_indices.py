"""A latent index beside parts of other axes: the same numbers as indices apart, and the same fast forms."""

import numpy as np
import pymc as pm
import pytensor.tensor as pt
import pytest
from oracles import INTERPRETED, Enumeration

import emppl
from emppl.structure.indices import slices_apart

WAYS = {
    "B[z, :3]": (lambda b, z: b[z, :3], (2, 5)),
    "B[z, 1:-1]": (lambda b, z: b[z, 1:-1], (2, 5)),
    "B[z, ::2]": (lambda b, z: b[z, ::2], (2, 5)),
    "B[:3, z]": (lambda b, z: b[:3, z].T, (5, 2)),
    "B[1, :3, z]": (lambda b, z: b[1, :3, z], (3, 5, 2)),
    "B[z, 1, :3]": (lambda b, z: b[z, 1, :3], (2, 3, 5)),
    "B[z, 1:][i, 1:]": (lambda b, z: b[z, 1:][np.arange(4)[::-1], 1:], (2, 5)),
}
every_way = pytest.mark.parametrize("way, shape", WAYS.values(), ids=WAYS)


@every_way
def test_the_numbers_are_the_same(way, shape):
    rng = np.random.default_rng(0)
    b, z = pt.tensor("b", dtype="float64", shape=shape), pt.tensor("z", dtype="int64", shape=(4,))
    graph = way(b, z)
    (apart,) = slices_apart([graph])
    for _ in range(3):
        given = {b: rng.normal(size=shape), z: rng.integers(0, 2, size=4)}
        np.testing.assert_array_equal(apart.eval(given, mode=INTERPRETED), graph.eval(given, mode=INTERPRETED))


@every_way
def test_the_natural_form_is_found(way, shape):
    rng = np.random.default_rng(1)
    with pm.Model() as model:
        b = pm.Normal("b", np.float64(0.0), np.float64(2.0), shape=shape)
        z = pm.Bernoulli("z", np.float64(0.4), shape=4)
        pm.Normal("y", way(b, z), np.float64(1.0), observed=rng.normal(size=(4, 3)))
    plan = emppl.plan(model)
    assert [entry.engine for entry in plan.factors if entry.factor.name == "y"] == ["natural form"]
    theta = {"b": rng.normal(size=shape)}
    expected = Enumeration(model, {"z": np.arange(2)}).log_posterior(theta)
    np.testing.assert_allclose(plan.log_posterior(theta), expected, rtol=1e-10)


@pytest.mark.parametrize("group", [[0, 0, 1, 2, 2, 1, 3], [0, -1, 1, -2, 2, 1, 3]], ids=["plain", "from the end"])
def test_rows_picked_from_the_means_of_groups(group):
    """`mean = mu[z]` for each group, then `mean[group]` for each observation: it once went by the graph."""
    rng = np.random.default_rng(2)
    with pm.Model() as model:
        mu = pm.Normal("mu", np.float64(0.0), np.float64(2.0), shape=2)
        z = pm.Bernoulli("z", np.float64(0.4), shape=4)
        mean = pm.Deterministic("mean", mu[z])
        pm.Normal("y", mean[np.array(group)], np.float64(1.0), observed=rng.normal(size=7))
    plan = emppl.plan(model)
    assert [entry.engine for entry in plan.factors if entry.factor.name == "y"] == ["natural form"]
    theta = {"mu": rng.normal(size=2)}
    expected = Enumeration(model, {"z": np.arange(2)}).log_posterior(theta)
    np.testing.assert_allclose(plan.log_posterior(theta), expected, rtol=1e-10)
