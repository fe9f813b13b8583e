"""Closed forms are the maximum of the expected log joint; where there is none, the reason is said."""

from collections.abc import Callable

import numpy as np
import pymc as pm
import pytensor.tensor as pt
import pytest
import small_models

import emppl
from emppl.mstep.autodiff import NumericUpdate

RNG = np.random.default_rng(7)
Y = RNG.normal(size=9) + np.array([0, 0, 0, 0, 3, 3, 3, 3, 3.0])
PAIRS = np.column_stack([Y, 0.5 * Y + RNG.normal(size=9)])
COUNTS = RNG.poisson(3.0, 9)
WAITS = RNG.exponential(2.0, 9)
BITS = RNG.integers(0, 2, 9)
EXPOSURE = RNG.uniform(0.5, 2.0, 9)


def is_the_maximum(plan: emppl.Plan, graph: emppl.Plan, seed: int = 0) -> None:
    """Each closed form against a numeric search of the same Q, and against the gradient of the enumerated graph's Q."""
    coordinates = plan.structure.coordinates
    for theta in small_models.points(coordinates.unscaled, count=2, seed=seed):  # all components hold members there
        posterior, enumerated = plan.e_step(theta), graph.e_step(theta)
        scale = max(1.0, sum(counts.sum() for counts in posterior.counts))
        closed = [block for block in plan.blocks if block.rule == "closed form"]
        assert closed
        for block in closed:
            new = block.update(theta, posterior)
            assert new is not None and set(new) == set(block.parameters)
            u = coordinates.unconstrain(theta | new)
            own = np.concatenate([np.arange(coordinates.size)[coordinates.slices[name]] for name in block.parameters])
            value, _ = plan.expected(u, posterior, plan.weights)
            _, gradient = graph.expected(u, enumerated, graph.weights)
            np.testing.assert_allclose(gradient[own] / scale, 0.0, atol=1e-8)
            search = NumericUpdate(block.parameters, plan.expected, plan.weights, max_steps=300)
            found = search(theta, posterior)
            by_search, _ = plan.expected(coordinates.unconstrain(theta | found), posterior, plan.weights)
            assert value >= by_search - 1e-9 * scale
            for name, values in found.items():
                np.testing.assert_allclose(new[name], values, rtol=1e-3, atol=1e-4)


def check(model: pm.Model, rules: dict[str, str] | None = None, **options) -> emppl.Plan:
    """The plan has these rules, and its closed forms are maxima."""
    plan = emppl.plan(model, **options)
    found = {name: block.rule for block in plan.blocks for name in block.parameters}
    assert found == (rules or dict.fromkeys(found, "closed form")), [block.refused for block in plan.blocks]
    is_the_maximum(plan, emppl.plan(model, estep="graph", **options))
    return plan


@pytest.mark.parametrize(
    "name",
    ["coins", "latent_class", "categories", "counts_of_categories", "rates_with_exposure", "waiting_times",
     "implicit_normals", "several_observed", "long_form", "gated", "nested", "items_of_three"],
)  # fmt: skip
def test_conjugate_models(name):
    case, plan = small_models.model(name), small_models.plan(name)
    rules = {parameter: block.rule for block in plan.blocks for parameter in block.parameters}
    assert {parameter: rules[parameter] for parameter in case.rules} == case.rules
    is_the_maximum(plan, small_models.plan(name, estep="graph"))


@pytest.mark.parametrize("shape", ["full", "diagonal", "tied", "spherical"])
def test_maximum_likelihood_of_gaussians(shape):
    """Means and covariance in one step, through LKJ Cholesky factors and standard deviations alike."""
    check(small_models.model(f"gaussian_{shape}").model, estimate="ml")


def test_a_wide_covariance_is_told_from_its_factor():
    """Of 32 features: the factor of a covariance drawn without care for its width is known to a few digits only."""
    y = np.random.default_rng(3).normal(size=(80, 32))
    with pm.Model() as model:
        z = pm.Bernoulli("z", p=np.float64(0.5), shape=80)
        mu = pm.Normal("mu", np.float64(0.0), np.float64(9.0), shape=(2, 32))
        chol, _, _ = pm.LKJCholeskyCov("chol", n=32, eta=2.0, sd_dist=pm.Exponential.dist(1.0), store_in_trace=False)
        pm.MvNormal("y", mu[z], chol=chol, observed=y)
    plan = emppl.plan(model, estimate="ml")
    (theta,) = small_models.points(plan, count=1)
    posterior = plan.e_step(theta, keep=True)
    new = plan.m_step(theta, posterior)
    shares = posterior.responsibilities[0]
    means = shares.T @ y / shares.sum(axis=0)[:, None]
    residuals = y[:, None, :] - means
    scatter = np.einsum("nk,nki,nkj->ij", shares, residuals, residuals) / 80
    np.testing.assert_allclose(new["mu"], means, rtol=1e-9)
    np.testing.assert_allclose(new["chol"], np.linalg.cholesky(scatter)[np.tril_indices(32)], rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(("components", "features"), [(8, 8), (6, 12)])
def test_many_covariances_are_told_from_their_factors(components, features):
    """The more numbers, the smaller the least of them, and the fewer digits of it the factor of a covariance has."""
    y = np.random.default_rng(3).normal(size=(40, features))
    with pm.Model() as model:
        z = pm.Categorical("z", p=np.full(components, 1.0 / components), shape=40)
        mu = pm.Normal("mu", np.float64(0.0), np.float64(9.0), shape=(components, features))
        spread = pm.Exponential.dist(np.float64(1.0))
        factors = [
            pm.LKJCholeskyCov(f"chol_{i}", n=features, eta=2.0, sd_dist=spread, compute_corr=False)
            for i in range(components)
        ]
        chol = pt.stack([pm.math.expand_packed_triangular(features, factor) for factor in factors])
        pm.MvNormal("y", mu[z], chol=chol[z], observed=y)
    assert [block.rule for block in emppl.plan(model, estimate="ml").blocks] == ["closed form"]


def test_means_and_variances_by_hand():
    """The weighted mean and the weighted second moment, nothing else."""
    plan = small_models.plan("normal_mixture", estimate="ml")
    y = np.asarray(plan.structure.node("y").value.data)
    theta = small_models.points(plan, count=1)[0]
    posterior = plan.e_step(theta, keep=True)
    r = posterior.responsibilities[0]
    new = plan.m_step(theta, posterior)
    mu = r.T @ y / r.sum(axis=0)
    np.testing.assert_allclose(new["weights"], r.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(new["mu"], mu, rtol=1e-12)
    variance = (r * (y[:, None] - mu) ** 2).sum(axis=0) / r.sum(axis=0)
    np.testing.assert_allclose(new["sigma"], np.sqrt(variance), rtol=1e-10)


# -- links: the user's parameter is a function of the family's ---------------------------------------------------------


LINKS = {
    "p = 1 - q": lambda z: pm.Bernoulli("y", p=1.0 - pm.Beta("q", 2.0, 2.0, shape=2)[z], observed=BITS),
    "p = sigmoid(a)": lambda z: pm.Bernoulli("y", logit_p=pm.Normal("a", 0.0, 5.0, shape=2)[z], observed=BITS),
    "rate = exp(a)": lambda z: pm.Poisson("y", mu=pm.math.exp(pm.Normal("a", 0.0, 5.0, shape=2)[z]), observed=COUNTS),
    "rate = 3 r": lambda z: pm.Poisson("y", mu=3.0 * pm.Gamma("r", 2.0, 1.0, shape=2)[z], observed=COUNTS),
    "rate with exposure": lambda z: pm.Poisson("y", EXPOSURE * pm.Gamma("r", 2.0, 1.0, shape=2)[z], observed=COUNTS),
    "lam = 1 / scale": lambda z: pm.Exponential("y", scale=pm.Gamma("s", 2.0, 1.0, shape=2)[z], observed=WAITS),
    "mean = -m": lambda z: pm.Normal("y", -pm.Normal("m", 0.0, 5.0, shape=2)[z], 1.0, observed=Y),
    "sd = 2 s": lambda z: pm.Normal("y", 0.0, 2.0 * pm.HalfNormal("s", 5.0, shape=2)[z], observed=Y),
    "variance": lambda z: pm.Normal("y", 0.0, pm.math.sqrt(pm.HalfNormal("v", 5.0, shape=2)[z]), observed=Y),
    "precision": lambda z: pm.Normal("y", 0.0, tau=pm.Gamma("t", 2.0, 1.0, shape=2)[z], observed=Y),
    "log sd": lambda z: pm.Normal("y", 0.0, pm.math.exp(pm.Normal("l", 0.0, 1.0, shape=2)[z]), observed=Y),
    "covariance matrix": lambda z: pm.MvNormal(
        "y", pm.Normal("m", 0.0, 5.0, shape=(2, 2))[z], cov=np.array([[1.0, 0.3], [0.3, 2.0]]), observed=PAIRS
    ),
    "two scalars": lambda z: pm.Normal(
        "y", pm.math.switch(z, pm.Normal("high", 1.0, 5.0), pm.Normal("low", 0.0, 5.0)), 1.0, observed=Y
    ),
    "one mean, two sds known": lambda z: pm.Normal("y", pm.Normal("m", 0.0, 5.0), 1.0 + z, observed=Y),
}


@pytest.mark.parametrize("link", LINKS)
def test_links(link):
    """However the parameter is written, the maximum of its likelihood is one step away."""
    with pm.Model() as model:
        LINKS[link](pm.Categorical("z", p=np.array([0.4, 0.6]), shape=9))
    check(model, estimate="ml")


@pytest.mark.parametrize(
    "prior",
    ["Beta by component", "Dirichlet by row", "InverseGamma variance", "Normal mean", "flat", "Exponential rate"],
)
def test_conjugate_priors(prior):
    with pm.Model() as model:
        z = pm.Categorical("z", p=np.array([0.4, 0.6]), shape=9)
        if prior == "Beta by component":
            p = pm.Beta("p", np.array([2.0, 5.0]), np.array([3.0, 1.5]), shape=2)
            pm.Bernoulli("y", p=p[z], observed=BITS)
        elif prior == "Dirichlet by row":
            p = pm.Dirichlet("p", np.array([[2.0, 3.0, 4.0], [1.0, 1.0, 6.0]]))
            pm.Multinomial("y", n=np.int64(5), p=p[z], observed=RNG.multinomial(5, [0.3, 0.3, 0.4], 9))
        elif prior == "InverseGamma variance":
            v = pm.InverseGamma("v", np.float64(2.0), np.float64(3.0), shape=2)
            pm.Normal("y", 1.0, pm.math.sqrt(v[z]), observed=Y)
        elif prior == "Normal mean":
            m = pm.Normal("m", np.array([0.0, 4.0]), np.array([1.0, 0.5]), shape=2)
            pm.Normal("y", m[z], 2.0, observed=Y)
        elif prior == "flat":
            m, s = pm.Flat("m", shape=2), pm.HalfFlat("s", shape=2)
            pm.Normal("y", m[z], s[z], observed=Y)
        else:
            r = pm.Exponential("r", np.float64(0.7), shape=2)
            pm.Poisson("y", mu=r[z], observed=COUNTS)
    check(model)


def test_conjugate_priors_far_from_the_origin():
    """The pseudo-statistics go into the frame of the data with them."""
    with pm.Model() as model:
        z = pm.Categorical("z", p=np.array([0.4, 0.6]), shape=9)
        m = pm.Normal("m", np.float64(1e6), np.float64(2.0), shape=2)
        pm.Normal("y", m[z], 2.0, observed=Y + 1e6)
    check(model)


def test_shared_standard_deviation():
    with pm.Model() as model:
        z = pm.Categorical("z", p=np.array([0.4, 0.6]), shape=9)
        m, s = pm.Flat("m", shape=2), pm.HalfFlat("s")
        pm.Normal("y", m[z], s, observed=Y)
    check(model)


def test_weights_of_members_count():
    with pm.Model() as model:
        w = pm.Dirichlet("w", np.array([2.0, 3.0]))
        z = pm.Categorical("z", p=w, shape=9)
        p = pm.Beta("p", 2.0, 2.0, shape=2)
        pm.Bernoulli("y", p=p[z], observed=BITS)
    check(model, obs_weights=np.linspace(0.0, 4.0, 9))


def test_known_labels_and_frozen_parameters():
    with pm.Model() as model:
        z = pm.Categorical("z", p=np.array([0.4, 0.6]), shape=9)
        m = pm.Normal("m", 0.0, 5.0, shape=2)
        s = pm.HalfNormal("s", 5.0)
        pm.Normal("y", m[z], s, observed=Y)
    check(model, labels={"z": np.r_[0, 1, np.full(7, -1)]}, freeze={"s": 1.3})


def test_a_bound_is_kept():
    """A flat prior on an interval: a maximum beyond the bound is not taken."""
    with pm.Model() as model:
        z = pm.Categorical("z", p=np.array([0.4, 0.6]), shape=9)
        m = pm.Uniform("m", np.float64(-0.5), np.float64(0.5), shape=2)
        pm.Normal("y", m[z], 1.0, observed=Y)
    plan = emppl.plan(model)
    theta = plan.structure.coordinates.constrain(np.zeros(2))
    new = plan.m_step(theta, plan.e_step(theta))
    assert (np.abs(new["m"]) <= 0.5).all()
    assert plan.log_posterior(new) >= plan.log_posterior(theta)


# -- refusals ----------------------------------------------------------------------------------------------------------


def refusals(model: pm.Model, name: str, **options) -> str:
    (block,) = [block for block in emppl.plan(model, **options).blocks if name in block.parameters]
    assert block.rule != "closed form"
    return " ".join(reason for _, reason in block.refused)


def model_with(prior: Callable, observed: Callable) -> pm.Model:
    with pm.Model() as model:
        observed(prior(), pm.Categorical("z", p=np.array([0.4, 0.6]), shape=9))
    return model


def test_a_prior_that_is_not_conjugate():
    model = model_with(
        lambda: pm.LogNormal("rate", 0.0, 1.0, shape=2), lambda r, z: pm.Poisson("y", r[z], observed=COUNTS)
    )
    assert "prior LogNormal(0, 1) of rate is not conjugate to Poisson" in refusals(model, "rate")


def test_a_prior_with_its_mode_on_the_border():
    model = model_with(lambda: pm.Beta("p", 0.5, 0.5, shape=2), lambda p, z: pm.Bernoulli("y", p[z], observed=BITS))
    assert "mode of p's prior lies on the border" in refusals(model, "p")


def test_a_parameter_of_two_likelihoods():
    def both(rate, z):
        pm.Poisson("visits", rate[z], observed=COUNTS)
        pm.Exponential("gap", 1 / rate[z], observed=WAITS)

    model = model_with(lambda: pm.Gamma("rate", 2.0, 1.0, shape=2), both)
    assert "shared by visits and gap" in refusals(model, "rate")


def test_a_function_of_several_parameters():
    assert "computed from low and " in refusals(small_models.model("deterministic_of_latent").model, "low")


def test_a_function_of_one_parameter():
    model = model_with(lambda: pm.Beta("p", 2.0, 2.0), lambda p, z: pm.Bernoulli("y", p**2 / (1 + z), observed=BITS))
    assert refusals(model, "p").endswith("computed from p")


def test_coefficients_of_a_regression_are_no_parameters_of_its_family():
    """They once were said to enter no observation."""
    text = refusals(small_models.model("lines").model, "b")
    assert "enters y through a predictor" in text and "no observation" not in text


def test_a_prior_with_parameters_of_its_own():
    assert "centre" in refusals(small_models.model("hierarchical").model, "mu")


def test_a_likelihood_without_natural_form():
    assert "y has no natural form" in refusals(small_models.model("heavy_tails").model, "mu")


def test_an_element_that_nothing_depends_on():
    model = model_with(lambda: pm.Beta("p", 2.0, 2.0, shape=3), lambda p, z: pm.Bernoulli("y", p[z], observed=BITS))
    assert "some elements of p enter no observation" in refusals(model, "p")


def test_one_parameter_in_two_places():
    def both(s, z):
        pm.Normal("y", s[z], s[z], observed=np.abs(Y) + 1)

    assert "stands for several parameters of y" in refusals(
        model_with(lambda: pm.HalfNormal("s", 5.0, shape=2), both), "s", estimate="ml"
    )


@pytest.mark.parametrize("order", ["second", "first"])
@pytest.mark.parametrize("prior", [pm.Beta, pm.Uniform])
def test_two_categories_are_a_bernoulli(order, prior):
    """`stack([1 - q, q])`, as one writes the weights of two components, has the closed form of q."""
    with pm.Model() as model:
        q = prior("q", *[np.float64(v) for v in ((2.0, 3.5) if prior is pm.Beta else (0.0, 1.0))])
        p = pt.stack([1.0 - q, q] if order == "second" else [q, 1.0 - q])
        z = pm.Categorical("z", p=p, shape=9)
        pm.Normal("y", np.float64(3.0) * z, np.float64(1.0), observed=Y)
    plan = emppl.plan(model)
    assert [block.rule for block in plan.blocks] == ["closed form"]
    is_the_maximum(plan, emppl.plan(model, estep="graph"))


def test_half_a_probability_is_no_more_than_one_half():
    """Where the data ask for more, the maximum lies on the border: the ratio of the sums would be no probability."""
    with pm.Model() as model:
        q = pm.Uniform("q", np.float64(0.0), np.float64(1.0), shape=2)
        z = pm.Bernoulli("z", np.float64(0.5), shape=40)
        pm.Binomial("y", n=5, p=np.float64(0.5) * q[z], observed=np.repeat([4, 1], 20))
    fit = emppl.fit(model, seed=0, starts=2)
    assert fit.theta["q"].values.max() == pytest.approx(1.0, abs=1e-6) and (fit.theta["q"].values <= 1.0).all()


@pytest.mark.parametrize("held", [0.0, 1e-7])
def test_a_component_without_members_keeps_its_parameters_and_the_others_their_maximum(held):
    """One empty component must not send the whole block into a search."""
    rng = np.random.default_rng(5)
    y = rng.normal(size=(40, 2)) * [1.0, 3.0] + np.where(np.arange(40)[:, None] < 20, 0.0, [4.0, -5.0])
    with pm.Model() as model:
        weights = pm.Dirichlet("weights", np.ones(3))
        mu = pm.Normal("mu", 0.0, 10.0, shape=(3, 2))
        chols = [pm.LKJCholeskyCov(f"chol_{k}", n=2, eta=2.0, sd_dist=pm.HalfNormal.dist(5.0))[0] for k in range(3)]
        z = pm.Categorical("z", p=weights, shape=40)
        pm.MvNormal("y", mu[z], chol=pt.stack(chols)[z], observed=y)
    plan = emppl.plan(model, estimate="ml")
    (block,) = [b for b in plan.blocks if "mu" in b.parameters]
    r = rng.dirichlet(np.ones(2), size=40)
    r = np.column_stack([r, np.zeros(40)])
    r[3] = [*r[3, :2] * (1.0 - held), held]  # a component on a part of one row has no covariance either
    theta = small_models.points(plan, count=1)[0]
    found = block.update(theta, plan.engine.summarised([r]))
    assert found is not None
    np.testing.assert_array_equal(found["mu"][2], theta["mu"][2])
    np.testing.assert_array_equal(found["chol_2"], theta["chol_2"])
    for k in range(2):
        np.testing.assert_allclose(found["mu"][k], np.average(y, axis=0, weights=r[:, k]), rtol=1e-12)
        lower = np.linalg.cholesky(np.cov(y.T, aweights=r[:, k], ddof=0))
        np.testing.assert_allclose(found[f"chol_{k}"], lower[np.tril_indices(2)], rtol=1e-10)
