"""Data on which the likelihood has no maximum, or a meaningless one: recognised, named, and not averaged away."""

import numpy as np
import pymc as pm
import pytest
import small_models

import emppl
from emppl import Status
from emppl.ascent.degeneracy import runs_off
from emppl.ascent.stages import INNER
from emppl.ascent.unbounded import followed
from emppl.mstep.glm import DIAGONAL

RNG = np.random.default_rng(5)


def mixture(y, k: int = 2) -> pm.Model:
    """Normals with sds of their own; the priors are dropped below."""
    with pm.Model() as model:
        w = pm.Dirichlet("w", np.ones(k))
        mu = pm.Normal("mu", y.mean(), np.float64(5.0), shape=k)
        sd = pm.HalfNormal("sd", np.float64(5.0), shape=k)
        z = pm.Categorical("z", p=w, shape=len(y))
        pm.Normal("y", mu[z], sd[z], observed=y)
    return model


def test_a_component_on_equal_rows():
    """Twelve equal values among thirty: the likelihood has no bound, and the fit says so whichever start wins."""
    y = np.r_[np.full(12, 2.5), RNG.normal(size=18) * 3.0]
    fit = emppl.fit(mixture(y), estimate="ml", seed=0)
    assert fit.status is Status.DEGENERATE
    text = f"{fit.status.value} {fit.certificate}"
    assert "12" in text and "prior" in text
    assert np.isfinite(fit.log_likelihood)


def test_a_collapsed_start_is_kept_with_its_reason():
    y = np.r_[np.full(12, 2.5), RNG.normal(size=18) * 3.0]
    fit = emppl.fit(mixture(y), estimate="ml", seed=0)
    fallen = fit.starts[fit.starts["status"] == "DEGENERATE"]
    assert len(fit.starts) == 10 + INNER  # since all have fallen
    assert fallen["reason"].str.contains("of y").all() and fallen["reason"].str.contains("component z = ").all()
    assert fallen["reason"].str.contains("iteration").any()


def test_a_start_put_on_two_rows_is_no_mode():
    """A component on two close values is a maximum without meaning."""
    y = np.r_[0.0, 1e-4, np.random.default_rng(5).normal(size=40) + 3.0]
    start = {"w": [0.05, 0.95], "mu": [5e-5, 3.0], "sd": [5e-5, 1.0]}
    fit = emppl.fit(mixture(y), estimate="ml", start=start, starts=0)
    assert fit.status in (Status.SPURIOUS, Status.DEGENERATE)
    fit = emppl.fit(mixture(y), estimate="ml", start=start, starts=6, seed=0)
    assert fit.status is Status.CONVERGED and fit.starts["status"][0] in ("SPURIOUS", "DEGENERATE")
    assert any("set aside" in note for note in fit.certificate.notes)


def far_ties(prior):
    """A hundred values around 0 and ten that are 10: a component on the ten has no bound of its own."""
    y = np.r_[np.random.default_rng(21).normal(size=100), np.full(10, 10.0)]
    with pm.Model() as model:
        w = pm.Dirichlet("w", np.ones(2))
        mu = pm.Normal("mu", np.float64(0.0), np.float64(20.0), shape=2)
        sd = prior("sd", shape=2)
        z = pm.Categorical("z", p=w, shape=len(y))
        pm.Normal("y", mu[z], sd[z], observed=y)
    return model


def half_normal(name, **size):
    return pm.HalfNormal(name, np.float64(10.0), **size)


def inverse_gamma(name, **size):
    return pm.InverseGamma(name, np.float64(2.0), np.float64(1.0), **size)


@pytest.mark.parametrize("estimate", ["map", "ml"])
def test_what_has_no_maximum_is_not_given_the_height_of_a_collapse(estimate):
    """A HalfNormal prior is flat at zero and holds nothing: neither that nor keeping it is named as the cure."""
    fit = emppl.fit(far_ties(half_normal), estimate=estimate, seed=1, starts=3)
    assert fit.status is Status.DEGENERATE and not fit.certificate.holds
    assert fit.log_posterior == pytest.approx(fit.plan.log_posterior(fit.point)) and fit.log_posterior < -250
    (point,) = (p for p in fit.certificate.points if p.name == "bounded")
    assert "10 observations are equal" in point.text and "no inner mode was found" in point.text
    assert "InverseGamma(2, s) on sd" in point.text and "estimate='map'" not in point.text


def test_the_remedy_that_is_named_was_tried():
    """Under a prior that falls fast enough the same collapse has a bound, and dropping it is what takes that away."""
    kept, dropped = (emppl.plan(far_ties(inverse_gamma), estimate=e) for e in ("map", "ml"))
    flat = emppl.plan(far_ties(half_normal))
    theta = {"w": [0.9, 0.1], "mu": [0.0, 10.0], "sd": [1.0, 1e-5]}
    theta = {name: np.array(value) for name, value in theta.items()}
    assert not followed(kept, theta).is_unbounded
    assert followed(dropped, theta).is_unbounded and followed(dropped, theta).own_priors_cure
    assert followed(flat, theta).is_unbounded and followed(flat, theta).inverse_gamma_cures
    assert followed(flat, theta).parameters == ("sd",)


def test_a_prior_that_vanishes_at_zero_cures_it():
    y = np.r_[np.full(12, 2.5), RNG.normal(size=18) * 3.0]
    with pm.Model() as model:
        w = pm.Dirichlet("w", np.ones(2))
        mu = pm.Normal("mu", np.float64(0.0), np.float64(5.0), shape=2)
        sd = pm.InverseGamma("sd", np.float64(2.0), np.float64(1.0), shape=2)
        z = pm.Categorical("z", p=w, shape=len(y))
        pm.Normal("y", mu[z], sd[z], observed=y)
    fit = emppl.fit(model, seed=0)
    assert fit.status is Status.CONVERGED and fit.theta["sd"].values.min() > 0.01


@pytest.mark.parametrize("offset", [0.0, 1e8])
def test_an_offset_is_no_collapse(offset):
    """Spreads are measured against that of the data, wherever they lie."""
    y = np.r_[RNG.normal(size=25), RNG.normal(size=25) + 6.0]
    fit = emppl.fit(mixture(y + offset), estimate="ml", seed=0, starts=5)
    assert fit.status is Status.CONVERGED
    near = emppl.fit(mixture(y), estimate="ml", seed=0, starts=5)
    assert fit.log_likelihood == pytest.approx(near.log_likelihood, abs=1e-5)
    np.testing.assert_allclose(np.sort(fit.theta["mu"]) - offset, np.sort(near.theta["mu"]), atol=1e-5)


def test_an_unused_component_is_noted():
    """Three components for two kinds of coin: a weight may end at 0, and is said to."""
    with pm.Model() as model:
        w = pm.Dirichlet("w", np.ones(3))
        bias = pm.Beta("bias", np.float64(1.0), np.float64(1.0), shape=3)
        z = pm.Categorical("z", p=w, shape=20)
        pm.Binomial("heads", n=np.int64(50), p=bias[z], observed=np.r_[np.full(10, 10), np.full(10, 40)])
    fit = emppl.fit(model, seed=0)
    assert np.isfinite(fit.log_posterior)
    point = {p.name: p for p in fit.certificate.points}["maximum"]
    assert not point.holds or "border" in point.text  # not a single maximum: the third coin is free


@pytest.mark.parametrize("seed", [0, 4, 7, 9, 10])
def test_a_funnel_is_not_called_converged(seed):
    """The joint mode of a hierarchical spread lies at zero, where the density has no bound.

    On the way there the means bend so much more than the spread that its slope is lost to the Newton decrement.
    """
    with pm.Model() as model:
        centre = pm.Normal("centre", np.float64(0.0), np.float64(5.0))
        spread = pm.HalfNormal("spread", np.float64(2.0))
        mu = pm.Normal("mu", centre, spread, shape=3)
        z = pm.Categorical("z", p=np.ones(3) / 3, shape=12)
        pm.Normal("y", mu[z], np.float64(1.0), observed=np.random.default_rng(seed).normal(size=12))
    fit = emppl.fit(model, seed=0, starts=3)
    assert fit.status is not Status.CONVERGED
    said = " ".join([*fit.starts["reason"], *fit.certificate.notes, *(p.text for p in fit.certificate.points)])
    assert "spread" in said


def test_an_objective_without_bound():
    """A field on the latents that is not normalised: under maximum likelihood its strength has no end."""
    fit = emppl.fit(small_models.model("potential_on_latent").model, estimate="ml", seed=0, starts=3)
    assert fit.status is not Status.CONVERGED
    said = " ".join([*fit.starts["reason"], *fit.certificate.notes, *(p.text for p in fit.certificate.points)])
    assert "strength" in said


def test_separation():
    """Covariates that tell the classes apart without error: their slopes have no end, and the model is not to blame."""
    fit = emppl.fit(small_models.model("gated").model, estimate="ml", seed=0, starts=3)
    points = {point.name: point for point in fit.certificate.points}
    assert points["log joint"].holds and points["gradient"].holds
    assert not points["maximum"].holds or fit.status is not Status.CONVERGED
    said = " ".join([*fit.starts["reason"], *fit.certificate.notes, points["maximum"].text])
    assert "slope" in said


def test_a_location_on_its_way_to_other_data_is_not_separated():
    """Twice as far the objective is higher, and nearer to zero it falls: that is no way to infinity."""
    y = np.concatenate([RNG.normal(10.0, 1.0, 50), RNG.normal(20.0, 1.0, 50)])
    with pm.Model() as model:
        weights = pm.Dirichlet("weights", np.ones(2))
        mu = pm.Normal("mu", 0.0, 50.0, shape=2)
        pm.Mixture("y", w=weights, comp_dists=[pm.Normal.dist(mu[k], 1.0) for k in range(2)], observed=y)
    plan = emppl.plan(model)
    assert any("mu" in block.parameters and block.rule.startswith("GLM") for block in plan.blocks)
    assert runs_off(plan, {"weights": np.full(2, 0.5), "mu": np.array([10.0, 10.0])}) is None
    (block,) = [block for block in plan.blocks if "mu" in block.parameters]
    assert {part.hessian_sparsity for part in block.update.step.parts} == {DIAGONAL}  # no density holds both of them


def test_a_collapse_is_not_blamed_on_a_rule():
    """Digits go as a spread vanishes, and the objective may waver: that asks for a prior, not for a report."""
    fit = emppl.fit(small_models.model("normal_mixture").model, seed=0, starts=3)
    assert fit.status is Status.DEGENERATE
    assert "please report" not in str(fit.certificate)


@pytest.mark.parametrize("unit", [1.0, 1e-9])
@pytest.mark.parametrize("constant", [False, True])
def test_a_known_spread_cannot_collapse(unit, constant):
    """However narrow it is beside the data's, and whatever stands in for that where all data are equal."""
    y = unit * (np.full(6, 0.7) if constant else np.array([0.0, 0.0, 0.01, 1000.0, 1000.0, 1000.03]))
    with pm.Model() as model:
        mu = pm.Normal("mu", np.float64(0.0), 1e3 * unit, shape=2)
        z = pm.Bernoulli("z", np.float64(0.4), shape=6)
        pm.Normal("y", mu[z], 0.01 * unit, observed=y)
    fit = emppl.fit(model, starts=4, seed=0)
    assert fit.status is Status.CONVERGED
    if not constant:
        expected = [0.01 / 3, 1000.01]
        np.testing.assert_allclose(np.sort(fit.theta["mu"].values) / unit, expected, rtol=1e-6)
        np.testing.assert_allclose(fit.standard_errors()["mu"].values / unit, 0.01 / np.sqrt(3), rtol=1e-4)


@pytest.mark.parametrize("spread", ["known", "shared", "own"])
def test_clusters_that_are_far_apart_do_not_collapse(spread):
    """A spread is small beside a distance of 3000 of itself, whether known or estimated, and few rows are no spike."""
    rng = np.random.default_rng(6)
    y = np.r_[rng.normal(0.0, 1.0, 60), rng.normal(3e3, 1.0, 40), rng.normal(1.5e3, 1.0, 4)]
    sizes = {"shared": (), "own": (3,)}
    with pm.Model() as model:
        mu = pm.Normal("mu", np.float64(0.0), np.float64(3e3), shape=3)
        sd = np.float64(1.0) if spread == "known" else pm.HalfNormal("sd", np.float64(3.0), shape=sizes[spread])
        z = pm.Categorical("z", p=np.array([0.5, 0.4, 0.1]), shape=104)
        pm.Normal("y", mu[z], sd[z] if spread == "own" else sd, observed=y)
    start = {"mu": np.array([1.0, 3e3 + 1.0, 1.5e3])} | ({"sd": np.ones(sizes[spread])} if spread in sizes else {})
    fit = emppl.fit(model, start=start, starts=0)
    means = np.array([y[:60].mean(), y[60:100].mean(), y[100:].mean()])
    np.testing.assert_allclose(fit.theta["mu"], means, rtol=0, atol=1e-3)
    assert fit.status is (
        Status.SPURIOUS if spread == "own" else Status.CONVERGED
    )  # four rows with a spread of their own


def test_a_spread_with_a_lower_bound_is_no_reason_to_refuse():
    """Three distinct values for four components, and one value alone: bounded by the support of the spread."""
    for y in (np.full(8, 2.5), np.tile([1.0, 2.0, 3.0], 4)):
        with pm.Model() as model:
            sd = pm.Uniform("sd", np.float64(0.5), np.float64(2.0))
            mu = pm.Normal("mu", np.float64(0.0), np.float64(5.0), shape=4)
            z = pm.Categorical("z", p=np.full(4, 0.25), shape=len(y))
            pm.Normal("y", mu[z], sd, observed=y)
        fit = emppl.fit(model, estimate="ml", starts=2, seed=0)
        assert fit.status is not Status.DEGENERATE
        assert float(fit.theta["sd"]) == pytest.approx(0.5, abs=2e-3)
