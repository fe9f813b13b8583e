"""Which variables share a component axis, and which components may change places."""

import numpy as np
import pymc as pm
import pytest
import small_models

import emppl

Y = np.array([-1.0, 0.2, 0.4, 2.0, 3.0])


def mixture(k: int = 3, *, prior_means=0.0, weights=None, ordered: bool = False, alpha=None) -> emppl.Plan:
    with pm.Model(coords={"component": [f"c{i}" for i in range(k)]}) as model:
        p = (
            pm.Dirichlet("weights", np.ones(k) if alpha is None else alpha, dims="component")
            if weights is None
            else weights
        )
        how = {"transform": pm.distributions.transforms.ordered} if ordered else {}
        mu = pm.Normal("mu", prior_means, 5.0, dims="component", **how)
        sigma = pm.HalfNormal("sigma", 1.0, dims="component")
        common = pm.HalfNormal("common", 1.0)
        z = pm.Categorical("z", p=p, shape=5)
        pm.Normal("y", mu[z], sigma[z] + common, observed=Y)
    return emppl.plan(model)


def test_components_of_a_mixture():
    (axis,) = mixture().axes
    assert (axis.latent, axis.size, axis.dim) == ("z", 3, "component")
    assert axis.labels == ("c0", "c1", "c2") and axis.variables == (
        "weights",
        "mu",
        "sigma",
    )  # common is not among them
    assert axis.symmetric_likelihood and axis.symmetric_prior and axis.exchangeable == ((0, 1, 2),)
    assert "6 equivalent modes" in axis.sentence()


def test_permuting_moves_every_variable_and_nothing_else():
    plan = mixture()
    (axis,) = plan.axes
    theta = small_models.points(plan, count=1)[0]
    perm = np.array([2, 0, 1])  # perm[j]: the old component that becomes new component j
    new = axis.permute(theta, perm)
    for name in axis.variables:
        np.testing.assert_array_equal(new[name], theta[name][perm])
    assert new["common"] == theta["common"]
    assert plan.log_posterior(new) == pytest.approx(plan.log_posterior(theta), rel=1e-12)
    r, s = plan.responsibilities(theta)["z"], plan.responsibilities(new)["z"]
    np.testing.assert_allclose(s, r[:, perm], atol=1e-12)


def test_draws_are_permuted_one_by_one():
    plan = mixture()
    (axis,) = plan.axes
    thetas = small_models.points(plan, count=4)
    perms = np.array([[0, 1, 2], [2, 0, 1], [1, 0, 2], [2, 1, 0]])
    draws = {name: np.stack([theta[name] for theta in thetas]) for name in thetas[0]}
    moved = axis.permute_draws(draws, perms)
    for t, perm in enumerate(perms):
        for name, value in axis.permute(thetas[t], perm).items():
            np.testing.assert_array_equal(moved[name][t], value)


def test_the_prior_may_tell_components_apart():
    (axis,) = mixture(prior_means=np.array([-1.0, 0.0, 0.0])).axes
    assert axis.symmetric_likelihood and not axis.symmetric_prior
    assert set(axis.exchangeable) == {(0,), (1, 2)}
    (axis,) = mixture(alpha=np.array([1.0, 2.0, 3.0])).axes
    assert axis.exchangeable == ((0,), (1,), (2,)) and not axis.is_symmetric


def test_known_weights_tell_components_apart():
    (axis,) = mixture(weights=np.array([0.2, 0.4, 0.4])).axes
    assert not axis.symmetric_likelihood and set(axis.exchangeable) == {(0,), (1, 2)}
    (axis,) = mixture(weights=np.full(3, 1 / 3)).axes
    assert axis.symmetric_likelihood and axis.variables == ("mu", "sigma")


def test_an_ordered_parameter_fixes_the_labels():
    (axis,) = mixture(ordered=True).axes
    assert axis.ordered and not axis.is_symmetric
    assert "fixed by an ordered parameter" in axis.sentence()


def test_a_bernoulli_latent_turns_its_probability_round():
    with pm.Model() as model:
        p = pm.Beta("p", 2.0, 2.0)
        mu = pm.Normal("mu", 0.0, 5.0, shape=2)
        z = pm.Bernoulli("z", p=p, shape=5)
        pm.Normal("y", mu[z], 1.0, observed=Y)
    plan = emppl.plan(model)
    (axis,) = plan.axes
    theta = {"p": np.array(0.3), "mu": np.array([1.0, 2.0])}
    swapped = axis.permute(theta, [1, 0])
    assert swapped["p"] == pytest.approx(0.7) and list(swapped["mu"]) == [2.0, 1.0]
    assert axis.exchangeable == ((0, 1),)
    assert plan.log_posterior(swapped) == pytest.approx(plan.log_posterior(theta), rel=1e-12)


def test_a_latent_that_is_a_number_has_no_components():
    """low + step × z: the values of z mean something, and no parameter belongs to one of them."""
    assert small_models.plan("deterministic_of_latent").axes == ()
    assert small_models.plan("hidden_count").axes == ()


@pytest.mark.parametrize("shape", ["full", "tied", "diagonal", "spherical"])
def test_covariances_go_with_their_component(shape):
    plan = small_models.plan(f"gaussian_{shape}")
    (axis,) = plan.axes
    spread = {"full": ("chol_0", "chol_1"), "tied": (), "diagonal": ("sd",), "spherical": ("sd",)}[shape]
    assert axis.variables == ("weights", "mu", *spread) and axis.dim == "component"
    theta = small_models.points(plan, count=1)[0]
    assert plan.log_posterior(axis.permute(theta, [1, 0])) == pytest.approx(plan.log_posterior(theta), rel=1e-9)


def test_implicit_components():
    (axis,) = small_models.plan("implicit_normals").axes
    assert axis.latent == "y_component" and axis.variables == ("w", "mu")
    assert not axis.symmetric_likelihood  # the sds are known, and differ


def test_components_of_different_make_up_are_no_labels():
    """ill has rates of its own, but also effects that only one of its values has: renaming it means nothing."""
    assert small_models.plan("two_binary_latents").axes == ()


def test_two_latents_on_one_plate():
    with pm.Model() as model:
        rate = pm.Gamma("rate", 2.0, 1.0, shape=2)
        mu = pm.Normal("mu", 0.0, 5.0, shape=2)
        a = pm.Bernoulli("a", p=np.float64(0.5), shape=5)
        b = pm.Bernoulli("b", p=np.float64(0.3), shape=5)
        pm.Poisson("count", mu=rate[a], observed=np.arange(5))
        pm.Normal("y", mu[b], 1.0, observed=Y)
        pm.Bernoulli("same", p=pm.math.switch(pm.math.eq(a, b), 0.7, 0.3), observed=np.array([0, 1, 1, 0, 1]))
    plan = emppl.plan(model)
    axes = {axis.latent: axis for axis in plan.axes}
    assert plan.structure.plates[0].n_configurations == 4
    assert axes["a"].variables == ("rate",) and axes["b"].variables == ("mu",)
    assert not axes["b"].symmetric_likelihood  # 0.3 is not 0.7


def test_a_mean_and_a_spread_cannot_change_places():
    """Good points follow a line, outliers a scatter of their own: components of different make-up are not ordered."""
    with pm.Model() as model:
        level = pm.Normal("level", np.float64(-2.0), np.float64(5.0))
        spread = pm.HalfNormal("spread", np.float64(2.0))
        z = pm.Bernoulli("z", p=np.float64(0.2), shape=6)
        pm.Normal("y", pm.math.switch(z, 0.0, level), pm.math.switch(z, spread, 1.0), observed=np.arange(6.0))
    for axis in emppl.plan(model).axes:
        assert not axis.ordered and "ordered" not in axis.sentence() and not axis.is_symmetric
