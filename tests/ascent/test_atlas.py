"""The mode atlas: every point to the mode its own EM reaches, modes once up to relabelling."""

from itertools import permutations

import numpy as np
import pymc as pm
import pytest
from scipy.integrate import trapezoid
from scipy.special import logsumexp

import emppl
from emppl.ascent.atlas import affordable, atlas
from emppl.ascent.conclude import judged
from emppl.ascent.loop import Status, ascend
from emppl.errors import InvalidArgumentError


def normals(y, k, scale=3.0):
    with pm.Model() as model:
        w = pm.Dirichlet("w", np.full(k, 2.0))
        mu = pm.Normal("mu", np.float64(0.0), np.float64(10.0), shape=k)
        sigma = pm.HalfNormal("sigma", np.float64(scale), shape=k)
        z = pm.Categorical("z", p=w, shape=len(y))
        pm.Normal("y", mu[z], sigma[z], observed=y)
    return model


def mirrored(y):
    """Half of the members come from mu, half from -mu: to rename them turns the sign of mu, and permutes nothing."""
    with pm.Model() as model:
        mu = pm.Normal("mu", np.float64(0.0), np.float64(10.0))
        z = pm.Categorical("z", p=np.array([0.5, 0.5]), shape=len(y))
        pm.Normal("y", pm.math.stack([mu, -mu])[z], np.float64(1.0), observed=y)
    return model


def squared(y):
    """Half of the members come from mu², half from 0: two modes, equal but for the sign, that are no relabelling."""
    with pm.Model() as model:
        mu = pm.Normal("mu", np.float64(0.0), np.float64(10.0))
        z = pm.Categorical("z", p=np.array([0.5, 0.5]), shape=len(y))
        pm.Normal("y", pm.math.stack([mu**2, 0.0 * mu])[z], np.float64(1.0), observed=y)
    return model


def stacked(points):
    return {name: np.stack([point[name] for point in points]) for name in points[0]}


@pytest.fixture(scope="module")
def three():
    rng = np.random.default_rng(1)
    y = np.concatenate([rng.normal(c, 0.8, n) for c, n in ((-5, 40), (0, 25), (4, 15))])
    return emppl.fit(normals(y, 3), starts=4, seed=1)


def test_renamed_draws_get_their_names_back(three):
    """3-cycles among the permutations: the inverse would be found out."""
    rng = np.random.default_rng(2)
    laplace = three.to_datatree(60)["posterior"]
    before = {name: laplace[name].values[0] for name in three.point}
    (axis,) = three.plan.axes
    perms = np.array([rng.permutation(3) for _ in range(60)])
    drawn = axis.permute_draws(before, perms)
    found = atlas(three.plan, drawn, chains=np.arange(60) % 3, known=[three.point])
    assert (found.reached == 0).all()
    np.testing.assert_array_equal(found.permutations["z"], np.argsort(perms, axis=1))
    back = found.theta_of(three.plan, drawn)
    for name, values in before.items():
        np.testing.assert_array_equal(back[name], values)
    np.testing.assert_array_equal(found.modes[0].draws, np.ones(3))
    assert found.modes[0].share == 1.0
    assert found.modes[0].labellings == 6
    np.testing.assert_allclose(found.modes[0].theta["mu"], three.point["mu"], atol=1e-4)


def test_points_reach_what_their_own_ascents_reach():
    """Four components on data of three, starts anywhere, several modes: the end is that of textbook EM or of a fit."""
    rng = np.random.default_rng(1)
    plan = emppl.plan(normals(np.concatenate([rng.normal(c, 0.8, 30) for c in (-4, 0, 4)]), 4))
    points = [
        {"w": rng.dirichlet(np.ones(4)), "mu": rng.uniform(-5, 5, 4), "sigma": rng.uniform(0.5, 2.0, 4)}
        for _ in range(6)
    ]
    found = atlas(plan, stacked(points))
    values = np.array([mode.log_posterior for mode in found.modes])
    assert (np.diff(values) <= 0).all()
    assert len(values) > 2
    same = []
    for point, mode in zip(points, found.reached, strict=True):
        runs = [judged(plan, ascend(plan, point, **more)) for more in ({}, {"accelerate": None, "max_iter": 200})]
        ends = [run.objective for run in runs if run.status in (Status.CONVERGED, Status.MAX_ITER)]
        same.append(not ends if mode < 0 else min(np.abs(ends - values[mode]), default=np.inf) < 0.05)
    assert np.mean(same) > 0.8


def test_equal_height_is_not_enough_to_be_one_mode():
    rng = np.random.default_rng(4)
    plan = emppl.plan(squared(rng.choice([0.0, 9.0], 60) + rng.normal(0.0, 1.0, 60)))
    points = {"mu": np.array([2.5, -3.5, 3.0, 0.8, -0.8])}
    found = atlas(plan, points, chains=[0, 0, 0, 1, 1])
    assert len(found.modes) == 2
    assert found.modes[0].log_posterior == pytest.approx(found.modes[1].log_posterior, abs=1e-5)
    signs_of = [np.sign(found.modes[mode].theta["mu"]) for mode in found.reached]
    np.testing.assert_array_equal(signs_of, np.sign(points["mu"]))
    positive = 0 if found.modes[0].theta["mu"] > 0 else 1
    np.testing.assert_allclose(found.modes[positive].draws, [2 / 3, 1 / 2])
    assert found.permutations == {}


def test_copies_by_another_map_than_a_permutation_are_one_mode():
    rng = np.random.default_rng(4)
    signs = rng.choice([-1, 1], 60, p=[0.5, 0.5])
    plan = emppl.plan(mirrored(signs * rng.normal(3.0, 1.0, 60)))
    points = {"mu": np.array([2.5, -3.5, 3.0, 0.4, -0.4])}
    found = atlas(plan, points, chains=[0, 0, 0, 1, 1])
    (mode,) = found.modes
    assert mode.labellings == 2 and (found.reached == 0).all()
    turned = np.sign(points["mu"]) != np.sign(mode.theta["mu"])
    np.testing.assert_array_equal(found.permutations["z"], np.where(turned[:, None], [1, 0], [0, 1]))
    np.testing.assert_allclose(found.theta_of(plan, points)["mu"], np.where(turned, -points["mu"], points["mu"]))


def test_a_flat_ridge_is_one_mode():
    """One coin toss each: the likelihood knows w p1 + (1 - w) p2 alone, and every start ends elsewhere on the ridge."""
    with pm.Model() as model:
        w = pm.Beta("w", np.float64(1.0), np.float64(1.0))
        p = pm.Beta("p", np.float64(1.0), np.float64(1.0), shape=2)
        z = pm.Bernoulli("z", p=w, shape=20)
        pm.Bernoulli("y", p=p[z], observed=np.repeat([0, 1], [8, 12]))
    plan = emppl.plan(model, estimate="ml")
    found = atlas(plan, starts=8)
    assert len(found.modes) == 1
    assert found.modes[0].log_likelihood == pytest.approx(12 * np.log(0.6) + 8 * np.log(0.4), abs=1e-5)
    assert found.modes[0].starts == 1.0
    assert found.modes[0].definite is False


def test_evidence_of_a_mode_counts_its_copies():
    """Against quadrature over both means: all of it lies in two equivalent modes."""
    rng = np.random.default_rng(5)
    y = np.concatenate([rng.normal(-3, 1, 12), rng.normal(3, 1, 12)])
    with pm.Model() as model:
        mu = pm.Normal("mu", np.float64(0.0), np.float64(5.0), shape=2)
        z = pm.Categorical("z", p=np.array([0.5, 0.5]), shape=len(y))
        pm.Normal("y", mu[z], np.float64(1.0), observed=y)
    (mode,) = atlas(emppl.plan(model), starts=4).modes
    grid = np.linspace(-8, 8, 401)
    each = -0.5 * (y[:, None] - grid) ** 2 - 0.5 * np.log(2 * np.pi)
    prior = -0.5 * (grid / 5) ** 2 - np.log(5 * np.sqrt(2 * np.pi))
    both = logsumexp([each[:, :, None] + 0 * grid, each[:, None, :] + 0 * grid[:, None]], axis=0) - np.log(2)
    joint = both.sum(axis=0) + prior[:, None] + prior
    exact = np.log(trapezoid(trapezoid(np.exp(joint - joint.max()), grid), grid)) + joint.max()
    assert mode.labellings == 2
    assert mode.log_evidence == pytest.approx(exact, abs=0.02)


def test_coincident_components_are_named_and_have_fewer_copies():
    """At the symmetric saddle both components are the same: one copy, and no maximum."""
    y = np.array([-1.0, -0.5, 0.5, 1.0])
    with pm.Model(coords={"part": ["a", "b"]}) as model:
        mu = pm.Normal("mu", np.float64(0.0), np.float64(1.0), dims="part")
        z = pm.Categorical("z", p=np.array([0.5, 0.5]), shape=4)
        pm.Normal("y", mu[z], np.float64(2.0), observed=y)
    (mode,) = atlas(emppl.plan(model), {"mu": np.array([[0.3, -0.2], [-0.1, 0.4]])}).modes
    assert mode.coincident == (("a", "b"),)
    assert mode.labellings == 1
    np.testing.assert_allclose(mode.theta["mu"], [0.0, 0.0], atol=1e-3)


def test_two_families_of_components():
    """Two latents, each with names of its own: one mode, 2 × 2 copies, all undone."""
    rng = np.random.default_rng(6)
    a, b = rng.integers(2, size=60), rng.integers(2, size=60)
    x, y = rng.normal(np.array([-4.0, 4.0])[a], 1.0), rng.normal(np.array([0.0, 7.0])[b], 1.0)
    with pm.Model() as model:
        left = pm.Normal("left", np.float64(0.0), np.float64(10.0), shape=2)
        right = pm.Normal("right", np.float64(0.0), np.float64(10.0), shape=2)
        first = pm.Categorical("first", p=np.array([0.5, 0.5]), shape=60)
        second = pm.Categorical("second", p=np.array([0.5, 0.5]), shape=60)
        pm.Normal("x", left[first], np.float64(1.0), observed=x)
        pm.Normal("y", right[second], np.float64(1.0), observed=y)
    plan = emppl.plan(model)
    point = {"left": np.array([-4.0, 4.0]), "right": np.array([0.0, 7.0])}
    cases = [(p, q) for p in permutations(range(2)) for q in permutations(range(2))]
    points = stacked([{"left": point["left"][list(p)], "right": point["right"][list(q)]} for p, q in cases])
    found = atlas(plan, points, known=[point])
    assert [mode.labellings for mode in found.modes] == [4]
    for i, (p, q) in enumerate(cases):
        np.testing.assert_array_equal(found.permutations["first"][i], np.argsort(p))
        np.testing.assert_array_equal(found.permutations["second"][i], np.argsort(q))


def test_what_collapses_is_counted_and_reaches_nothing():
    rng = np.random.default_rng(7)
    plan = emppl.plan(normals(rng.normal(size=40), 2), estimate="ml")
    y = plan.structure.observed[0].value.data
    sound = {"w": np.array([0.5, 0.5]), "mu": np.array([-0.5, 0.5]), "sigma": np.array([1.0, 1.0])}
    spike = {"w": np.array([0.02, 0.98]), "mu": np.array([y[0], 0.0]), "sigma": np.array([1e-4, 1.0])}
    found = atlas(plan, stacked([sound, spike]))
    assert found.reached[1] == -1
    assert sum(found.lost.values()) == (found.reached < 0).sum()
    assert found.permutations["z"][1].tolist() == [0, 1]


def test_arguments(three):
    points = {name: value[None] for name, value in three.point.items()}
    with pytest.raises(InvalidArgumentError, match="2 entries for 1 points"):
        atlas(three.plan, points, chains=[0, 1])
    assert 20 <= affordable(three.plan) <= 200
    assert np.isnan(atlas(three.plan, starts=1).modes[0].share)
