"""Renamings that are no permutation: found in reparametrised mixtures, and never where there is none."""

from itertools import permutations

import numpy as np
import pymc as pm
import pytensor.tensor as pt
import pytest
import xarray as xr

import emppl
from emppl.labels import LabelState
from emppl.structure.renaming import MappedAxis

RNG = np.random.default_rng(8)
X, V = RNG.normal(size=40), RNG.normal(size=40)
Y = RNG.normal(np.array([-4.0, 0.0, 5.0])[RNG.integers(0, 3, 40)], 1.0)


def weights(how: str, k: int):
    """Weights of k components, the first a reference, in a parametrisation that tells them apart by form alone."""
    if how == "dirichlet":
        return pm.Dirichlet("w", np.ones(k))
    if how == "sticks":
        stick = pm.Beta("stick", np.ones(k - 1), np.arange(k - 1, 0, -1.0))
        rest = pt.concatenate([pt.ones(1), pt.cumprod(1.0 - stick)])
        return pt.concatenate([stick * rest[:-1], rest[-1:]])
    if how == "probit":
        g = pm.Normal("g", 0.0, 2.0, shape=2)
        p = pm.math.invprobit(g[0] + g[1] * V)
        return pt.stack([1.0 - p, p], axis=-1)
    g = pm.Normal("g", 0.0, 2.0, shape=(2, k - 1))
    if how == "logistic":
        p = pm.math.sigmoid(g[0, 0] + g[1, 0] * V)
        return pt.stack([1.0 - p, p], axis=-1)
    return pm.math.softmax(pt.concatenate([pt.zeros((len(V), 1)), g[0] + g[1] * V[:, None]], axis=1), axis=-1)


def means(how: str, k: int):
    if how == "own":
        return pm.Normal("mu", 0.0, 5.0, shape=k)
    if how == "differences":
        first, steps = pm.Normal("first", 0.0, 5.0), pm.Normal("steps", 0.0, 5.0, shape=k - 1)
        return pt.concatenate([pt.stack([first]), first + steps])
    if how == "half":
        centre, half = pm.Normal("centre", 0.0, 5.0), pm.Normal("half_gap", 0.0, 5.0)
        return pt.stack([centre - half, centre + half])
    centre, scale = pm.Normal("centre", 0.0, 5.0), pm.HalfNormal("scale", 3.0)
    return centre + scale * pm.Normal("effect", 0.0, 1.0, shape=k)


def spreads(how: str, k: int):
    if how == "common":
        return pm.HalfNormal("s", 2.0) * pt.ones(k)
    if how == "own":
        return pm.HalfNormal("s", 2.0, shape=k)
    first, ratio = pm.LogNormal("first_s", 0.0, 1.0), pm.LogNormal("ratio", 0.0, 1.0, shape=k - 1)
    return pt.concatenate([pt.stack([first]), first * ratio])


def mixture(w: str, mu: str, s: str, k: int = 2) -> pm.Model:
    with pm.Model() as model:
        share = weights(w, k)
        centre, spread = means(mu, k), spreads(s, k)
        z = pm.Categorical("z", p=share, shape=len(Y))
        pm.Normal("y", centre[z], spread[z], observed=Y)
    return model


# weights, means, spreads, components, whether the prior is the same after all renamings, after some, or after none
FORMS = (
    ("logistic", "own", "own", 2, "all"),
    ("probit", "half", "common", 2, "all"),
    ("softmax", "own", "own", 3, "some"),
    ("dirichlet", "half", "common", 2, "all"),
    ("dirichlet", "differences", "own", 3, "some"),
    ("dirichlet", "own", "ratio", 2, "none"),
    ("logistic", "hierarchical", "common", 2, "all"),
    ("sticks", "own", "common", 3, "some"),
)


def anywhere(plan: emppl.Plan, count: int, seed: int) -> list[dict[str, np.ndarray]]:
    coordinates = plan.structure.coordinates
    rng = np.random.default_rng(seed)
    return [coordinates.constrain(rng.normal(scale=0.8, size=coordinates.size)) for _ in range(count)]


@pytest.mark.parametrize("form", FORMS, ids=["-".join(map(str, form)) for form in FORMS])
def test_renamed_points_have_the_same_density_and_the_names_exchanged(form):
    *how, k, prior = form
    plan = emppl.plan(mixture(*how, k))
    (axis,) = plan.symmetries
    assert isinstance(axis, MappedAxis) and axis.symmetric_likelihood
    assert {"all": axis.symmetric_prior, "some": axis.is_symmetric, "none": not axis.is_symmetric}[prior]
    assert not any(other.symmetric_likelihood for other in plan.axes)
    assert ("the fit looks further" in str(plan)) and "no relabelling" not in str(plan)
    allowed = [set(group) for group in axis.exchangeable]
    for theta in anywhere(plan, 2, seed=len("".join(how))):
        r = plan.responsibilities(theta)["z"]
        for perm in permutations(range(k)):
            moved = dict(theta) | axis.permute(theta, np.array(perm))
            assert plan.log_likelihood(moved) == pytest.approx(plan.log_likelihood(theta), rel=1e-9)
            np.testing.assert_allclose(plan.responsibilities(moved)["z"], r[:, list(perm)], atol=1e-7)
            if all(any({j, old} <= group for group in allowed) for j, old in enumerate(perm)):
                assert plan.log_posterior(moved) == pytest.approx(plan.log_posterior(theta), rel=1e-9)


def test_renaming_and_renaming_back_is_nothing():
    plan = emppl.plan(mixture("softmax", "own", "own", 3))
    (axis,) = plan.symmetries
    draws = {name: np.stack([t[name] for t in anywhere(plan, 6, 1)]) for name in plan.structure.parameter_names}
    perms = np.array(list(permutations(range(3))))
    back = axis.permute_draws(axis.permute_draws(draws, perms), np.argsort(perms, axis=1))
    for name, values in draws.items():
        np.testing.assert_allclose(back[name], values, rtol=1e-10, atol=1e-10)
    np.testing.assert_array_equal(axis.permute_draws(draws, perms)["g"][0], draws["g"][0])  # perms[0] renames nothing


def without(which: str) -> pm.Model:
    """Mixtures of which no two components can change names."""
    with pm.Model() as model:
        if which == "known weights":  # every parameter belongs to one component: nothing else could make up for them
            mu = pm.Normal("mu", 0.0, 5.0, shape=2)
            z = pm.Categorical("z", p=np.array([0.3, 0.7]), shape=len(Y))
            pm.Normal("y", mu[z], 1.0, observed=Y)
            return model
        w = pm.Dirichlet("w", np.ones(2))
        mu, s = pm.Normal("mu", 0.0, 5.0), pm.HalfNormal("s", 2.0)
        if which == "families":
            pm.Mixture("y", w=w, comp_dists=[pm.Normal.dist(mu, s), pm.Laplace.dist(mu, s)], observed=Y)
            return model
        z = pm.Categorical("z", p=w, shape=len(Y))
        step = pm.HalfNormal("step", 5.0) if which == "positive step" else 3.0
        power = {"square": pm.math.stack([mu, mu**2])}.get(which, mu + step * pt.arange(2))
        spread = pm.math.stack([s, 2.0 * s]) if which == "known ratio" else s * pt.ones(2)
        pm.Normal("y", power[z], spread[z], observed=Y)
    return model


@pytest.mark.parametrize(
    "which", ["families", "known shift", "positive step", "square", "known ratio", "known weights"]
)
def test_none_is_claimed_where_there_is_none(which):
    plan = emppl.plan(without(which))
    assert not any(axis.is_symmetric or axis.symmetric_likelihood for axis in plan.symmetries)
    assert not any(isinstance(axis, MappedAxis) for axis in plan.symmetries)


def test_the_prior_may_tell_mapped_components_apart():
    with pm.Model() as model:
        g = pm.Normal("g", 1.0, 2.0)
        mu = pm.Normal("mu", 0.0, 5.0, shape=2)
        p = pm.math.sigmoid(g * (1.0 + V))
        z = pm.Bernoulli("z", p=p, shape=len(Y))
        pm.Normal("y", mu[z], 1.0, observed=Y)
    (axis,) = emppl.plan(model).symmetries
    assert axis.symmetric_likelihood and not axis.symmetric_prior and not axis.is_symmetric
    assert "told apart by the prior alone" in axis.sentence()
    (axis,) = emppl.plan(model, estimate="ml").symmetries
    assert axis.symmetric_likelihood and not axis.symmetric_prior


def test_a_point_where_components_coincide_tells_nothing():
    """At mu = 0 nothing would have to move; elsewhere 0 and mu² cannot change places."""
    with pm.Model() as model:
        mu = pm.Normal("mu", 0.0, 1e-7)
        z = pm.Categorical("z", p=np.array([0.5, 0.5]), shape=len(Y))
        pm.Normal("y", pm.math.stack([mu**2, 0.0 * mu])[z], 1.0, observed=Y)
    assert emppl.plan(model).symmetries == ()


@pytest.mark.parametrize("unit", [1e-9, 1e6])
def test_renamings_are_found_and_exact_whatever_the_unit(unit):
    with pm.Model() as model:
        g = pm.Normal("g", 0.0, 2.0)
        centre, half = pm.Normal("centre", 0.0, 5.0 * unit), pm.Normal("half", 0.0, 5.0 * unit)
        s = pm.HalfNormal("s", 2.0 * unit)
        p = pm.math.sigmoid(g * V)
        z = pm.Categorical("z", p=pt.stack([1.0 - p, p], axis=-1), shape=len(Y))
        pm.Normal("y", pt.stack([centre - half, centre + half])[z], s, observed=unit * (Y + 100.0))
    (axis,) = emppl.plan(model).symmetries
    theta = {"g": 0.7, "centre": 99.0 * unit, "half": 2.0 * unit, "s": 1.5 * unit}
    moved = axis.permute({name: np.array(value) for name, value in theta.items()}, [1, 0])
    for name, value in theta.items():
        assert moved[name] == pytest.approx(-value if name in ("g", "half") else value, rel=1e-12)


def test_doses_are_renamed_from_the_other_end():
    """Means a + b · dose: the outer doses change names as b turns its sign, the middle one keeps its own."""
    with pm.Model() as model:
        w = pm.Dirichlet("w", np.ones(3))
        b = pm.Normal("b", 0.0, 5.0)
        z = pm.Categorical("z", p=w, shape=len(Y))
        pm.Normal("y", b * (z - 1.0), 1.0, observed=Y)
    (axis,) = emppl.plan(model).symmetries
    assert set(axis.exchangeable) == {(0, 2), (1,)} and "2 equivalent modes" in axis.sentence()
    moved = axis.permute({"w": np.array([0.2, 0.3, 0.5]), "b": np.array(1.5)}, [2, 1, 0])
    np.testing.assert_allclose(moved["w"], [0.5, 0.3, 0.2])
    assert moved["b"] == pytest.approx(-1.5)
    with pytest.raises(ValueError, match="may not change places"):
        axis.permute({"w": np.array([0.2, 0.3, 0.5]), "b": np.array(1.5)}, [1, 0, 2])


@pytest.fixture(scope="module")
def switched():
    """A fit of a logistic mixture, Laplace draws of it in two chains, and the same with names exchanged at random."""
    fit = emppl.fit(mixture("logistic", "own", "own"), seed=1, starts=3)
    (axis,) = fit.plan.symmetries
    laplace = fit.to_datatree(60, seed=2)["posterior"]
    straight = {name: laplace[name].values[0] for name in fit.point}
    perms = np.array([np.random.default_rng(t).permutation(2) for t in range(60)])
    mixed = axis.permute_draws(straight, perms)
    variables = {
        name: (("chain", "draw", *(f"{name}_{i}" for i in range(v.ndim - 1))), v.reshape(2, 30, *v.shape[1:]))
        for name, v in mixed.items()
    }
    return fit, straight, perms, xr.DataTree.from_dict({"posterior": xr.Dataset(variables)})


def test_the_fit_tells_what_it_found(switched):
    fit = switched[0]
    assert any("2 equivalent modes" in note and "map of the parameters" in note for note in fit.certificate.notes)


def test_switching_by_a_map_is_seen_and_undone(switched):
    fit, straight, perms, draws = switched
    report = emppl.diagnose(draws, fit)
    assert report.state is not LabelState.NO_SYMMETRY
    (axis,) = report.axes
    np.testing.assert_array_equal(axis.permutations.reshape(60, 2), np.argsort(perms, axis=1))
    aligned = emppl.relabel(draws, fit)["posterior"]
    for name, values in straight.items():
        np.testing.assert_allclose(aligned[name].values.reshape(values.shape), values, rtol=1e-9, atol=1e-9)
