"""The marginal log posterior and the responsibilities, against every assignment of the latents one by one."""

from functools import cache

import numpy as np
import pymc as pm
import pytensor.tensor as pt
import pytest
import small_models
from oracles import Enumeration
from scipy.special import softmax

import emppl
from emppl.estep.data import PlateData
from emppl.kernels.features import Features
from emppl.kernels.mixture import mixture
from emppl.models import poisson_mixture

SEEDS = {"coins": (0, 1), "long_form": (0, 1)}  # other data for the quickest
ROWS = [(name, seed) for name in small_models.MODELS for seed in SEEDS.get(name, (0,))]
every_model = pytest.mark.parametrize("name, seed", ROWS, ids=[f"{n}-{s}" if s else n for n, s in ROWS])


@cache
def enumeration(name: str, seed: int) -> Enumeration:
    case = small_models.model(name, seed)
    return Enumeration(case.same or case.model, case.supports)


@every_model
def test_marginal_equals_enumeration(name, seed):
    """Derived, general and brute force are three ways to the same number."""
    plan, graph = small_models.plan(name, seed), small_models.plan(name, seed, estep="graph")
    assert {entry.engine for entry in graph.factors if entry.factor.latents} == {"graph"}
    for theta in small_models.points(plan, seed=seed):
        exact = enumeration(name, seed).log_posterior(theta)
        np.testing.assert_allclose(plan.log_posterior(theta), exact, rtol=1e-10)
        np.testing.assert_allclose(graph.log_posterior(theta), exact, rtol=1e-10)
        np.testing.assert_allclose(plan.log_likelihood(theta) + plan.log_prior(theta), exact, rtol=1e-10)


@every_model
def test_responsibilities_equal_enumeration(name, seed):
    plan, graph = small_models.plan(name, seed), small_models.plan(name, seed, estep="graph")
    for theta in small_models.points(plan, count=2, seed=seed):
        derived, general = plan.responsibilities(theta), graph.responsibilities(theta)
        for latent, exact in enumeration(name, seed).responsibilities(theta).items():
            np.testing.assert_allclose(derived[latent], exact, atol=1e-10)
            np.testing.assert_allclose(general[latent], exact, atol=1e-10)
        for values in derived.values():
            np.testing.assert_allclose(values.sum(axis=-1), 1.0)


def test_implicit_components_equal_explicit_ones():
    """pm.NormalMixture and the same model with its component written out."""
    y = np.array([-1.0, 0.2, 0.3, 2.0])
    w, mu, sigma = np.array([0.2, 0.3, 0.5]), np.array([-1.0, 0.0, 1.5]), np.array([0.5, 1.0, 2.0])
    with pm.Model() as implicit:
        centre = pm.Normal("centre", 0.0, 5.0)
        pm.NormalMixture("y", w, mu=centre + mu, sigma=sigma, observed=y)
    with pm.Model() as explicit:
        centre = pm.Normal("centre", 0.0, 5.0)
        z = pm.Categorical("z", p=w, shape=4)
        pm.Normal("y", centre + pt.constant(mu)[z], pt.constant(sigma)[z], observed=y)
    theta = {"centre": np.array(0.3)}
    one, two = emppl.plan(implicit), emppl.plan(explicit)
    assert one.log_posterior(theta) == pytest.approx(two.log_posterior(theta), rel=1e-10)
    r, s = one.responsibilities(theta)["y_component"], two.responsibilities(theta)["z"]
    np.testing.assert_allclose(r, s, atol=1e-10)
    table = np.log(w) - 0.5 * ((y[:, None] - 0.3 - mu) / sigma) ** 2 - np.log(sigma)
    np.testing.assert_allclose(r, softmax(table, axis=1), atol=1e-10)


def test_far_from_the_origin_no_digits_are_lost():
    """Data of mean 1e6 and spread 1: the statistics are taken in a frame of the data."""
    rng = np.random.default_rng(2)
    y = np.round(rng.normal(size=(8, 2)), 6)
    plans = {}
    for offset in (0.0, 1e6):
        with pm.Model() as model:
            mu = pm.Normal("mu", offset, np.float64(3.0), shape=(2, 2))
            z = pm.Categorical("z", p=np.array([0.4, 0.6]), shape=8)
            pm.MvNormal("y", mu[z], cov=np.array([[1.0, 0.3], [0.3, 0.5]]), observed=y + offset)
        plans[offset] = emppl.plan(model)
    assert plans[1e6].estep.startswith("natural form")
    mu = rng.normal(size=(2, 2))
    near, far = plans[0.0].log_likelihood({"mu": mu}), plans[1e6].log_likelihood({"mu": mu + 1e6})
    assert far == pytest.approx(near, rel=1e-9)  # the data themselves are rounded to 1e-10


def test_posterior_of_the_member_is_joint():
    """`assignment` is the most probable joint value, which need not be made of the most probable single ones."""
    plan = small_models.plan("two_binary_latents")
    exact = enumeration("two_binary_latents", 0)
    for theta in small_models.points(plan, count=2):
        best = exact.assignments[int(np.argmax(exact.log_terms(theta)))]
        for latent, values in plan.assignment(theta).items():
            np.testing.assert_array_equal(values, best[latent])


@pytest.mark.parametrize("estep", ["auto", "graph"])
def test_weights_are_repeated_members(estep):
    heads, tosses = np.array([5, 9, 8]), np.array([10, 10, 9])
    repeats = np.array([2, 1, 3])

    def model(rows: np.ndarray) -> pm.Model:
        with pm.Model() as model:
            bias = pm.Beta("bias", 2.0, 2.0, shape=2)
            z = pm.Categorical("z", p=np.array([0.4, 0.6]), shape=len(rows))
            pm.Binomial("heads", n=tosses[rows], p=bias[z], observed=heads[rows])
        return model

    weighted = emppl.plan(model(np.arange(3)), obs_weights=repeats, estep=estep)
    repeated = emppl.plan(model(np.repeat(np.arange(3), repeats)), estep=estep)
    theta = {"bias": np.array([0.4, 0.7])}
    assert weighted.log_posterior(theta) == pytest.approx(repeated.log_posterior(theta), rel=1e-12)
    one, two = weighted.e_step(theta), repeated.e_step(theta)
    np.testing.assert_allclose(one.counts[0], two.counts[0])
    np.testing.assert_allclose(weighted.m_step(theta, one)["bias"], repeated.m_step(theta, two)["bias"], rtol=1e-6)


@pytest.mark.parametrize("name", ["coins", "two_binary_latents", "lines"])
def test_order_of_the_rows_changes_nothing(name):
    """The members are independent: their log-likelihoods add up, and each stands alone."""
    plan = small_models.plan(name)
    for theta in small_models.points(plan, count=2):
        posterior = plan.e_step(theta, keep=True)
        assert posterior.by_member[0].sum() == pytest.approx(posterior.log_likelihood, rel=1e-12)


@pytest.mark.parametrize("estep", ["auto", "graph"])
def test_known_labels_are_clamped(estep):
    """labels: as if those latents had been observed; masked and −1 entries stay hidden."""
    case = small_models.model("several_observed")
    exact = enumeration("several_observed", 0)
    known = np.array([0, -1, 1, -1, 1])
    plan = emppl.plan(case.model, labels={"z": known}, estep=estep)
    masked = emppl.plan(case.model, labels={"z": np.ma.masked_equal(known, -1)}, estep=estep)
    for theta in small_models.points(plan, count=2):
        terms = exact.log_terms(theta)
        fits = np.array([np.all((z["z"] == known) | (known == -1)) for z in exact.assignments])
        assert plan.log_posterior(theta) == pytest.approx(float(np.logaddexp.reduce(terms[fits])), rel=1e-10)
        assert masked.log_posterior(theta) == plan.log_posterior(theta)
        r = plan.responsibilities(theta)["z"]
        np.testing.assert_array_equal(r[known >= 0].argmax(axis=1), known[known >= 0])
        np.testing.assert_allclose(r[known >= 0].max(axis=1), 1.0)


def test_hard_gives_each_member_to_its_best_value():
    case = small_models.model("several_observed")
    plan = emppl.plan(case.model, method="hard")
    exact = enumeration("several_observed", 0)
    for theta in small_models.points(plan, count=2):
        posterior = plan.e_step(theta)
        assert posterior.objective == pytest.approx(exact.log_terms(theta).max(), rel=1e-10)
        assert set(np.mod(posterior.counts[0], 1.0)) == {0.0}
        assert plan.log_posterior(theta) == pytest.approx(exact.log_posterior(theta), rel=1e-10)  # not the hard one


# -- equal members are counted -----------------------------------------------------------------------------------------


def test_rounded_data_are_reduced_to_their_kinds():
    """The London death notices: 1096 days, ten different counts."""
    plate = emppl.plan(poisson_mixture.build()).engine.plates[0]
    assert len(plate.features) == 1096 and len(plate.kinds.counts) == 10 and plate.kinds.counts.sum() == 1096


@pytest.mark.parametrize("with_mask", [False, True])
@pytest.mark.parametrize("with_weights", [False, True])
@pytest.mark.parametrize("hard", [False, True])
def test_counting_kinds_changes_nothing(with_mask, with_weights, hard):
    rng = np.random.default_rng(8)
    n, k = 1500, 3
    values = rng.integers(0, 6, size=(n, 2)).astype(float)
    mask = None
    if with_mask:
        mask = rng.random((n, k)) < 0.7
        mask[:, 0] = True
    weights = rng.uniform(size=n) * (rng.random(n) < 0.9) if with_weights else None
    features = Features.of(np.c_[np.ones(n), values])
    data = PlateData(features, rng.normal(size=n), weights, mask)
    assert data.kinds is not None and len(data.kinds.counts) <= 36 * 8
    eta = rng.normal(size=(k, 3))
    done = data.run(eta, None, hard=hard, keep=True)
    plain = mixture(features, eta, data.base, mask=mask, weights=weights, hard=hard, keep=True)
    assert done.log_likelihood == pytest.approx(plain.log_likelihood, rel=1e-12)
    for one, two in zip(done[1:], plain[1:]):
        np.testing.assert_allclose(one, two, rtol=1e-10, atol=1e-10)
