"""What is read from a pm.Model: roles, shapes, dims, supports; nothing of it is changed."""

import warnings

import numpy as np
import pymc as pm
import pytest
import small_models
from pymc.exceptions import ImputationWarning

import emppl


def test_roles_dims_and_coords():
    with pm.Model(coords={"coin": ["A", "B"], "set": [10, 20, 30]}) as model:
        bias = pm.Beta("bias", 1.0, 1.0, dims="coin")
        extra = pm.Normal("extra", 0.0, 1.0, shape=(2, 4))
        z = pm.Categorical("z", p=np.array([0.5, 0.5]), dims="set")
        pm.Deterministic("odds", bias / (1 - bias), dims="coin")
        pm.Deterministic("chosen", bias[z], dims="set")
        pm.Binomial("heads", n=9, p=bias[z], observed=[1, 2, 3], dims="set")
        pm.Normal("y", extra.sum(), 1.0, observed=np.zeros(5))
    structure = emppl.analyse(model)
    assert structure.parameter_names == ("bias", "extra")
    assert [node.name for node in structure.latents] == ["z"]
    assert [node.name for node in structure.observed] == ["heads", "y"]
    assert [node.name for node in structure.deterministics] == ["odds"]  # the other depends on a latent
    assert structure.node("bias").dims == ("coin",) and structure.node("z").dims == ("set",)
    assert structure.node("extra").dims == ("extra_dim_0", "extra_dim_1")  # made up where none are given
    assert structure.node("y").dims == ("y_dim_0",)
    for node in (*structure.parameters, *structure.latents, *structure.observed, *structure.deterministics):
        assert tuple(len(structure.coords[dim]) for dim in node.dims) == node.shape
    assert list(structure.coords["coin"]) == ["A", "B"] and list(structure.coords["set"]) == [10, 20, 30]
    np.testing.assert_array_equal(structure.node("z").support, [0, 1])


@pytest.mark.parametrize(
    "make, support",
    [
        (lambda: pm.Bernoulli("z", 0.3, shape=2), range(2)),
        (lambda: pm.Categorical("z", np.ones(4) / 4, shape=2), range(4)),
        (lambda: pm.Binomial("z", n=3, p=0.3, shape=2), range(4)),
        (lambda: pm.Binomial("z", n=np.array([1, 4]), p=0.3), range(5)),
        (lambda: pm.BetaBinomial("z", n=3, alpha=1.0, beta=2.0, shape=2), range(4)),
        (lambda: pm.DiscreteUniform("z", lower=-1, upper=2, shape=2), range(-1, 3)),
    ],
    ids=["Bernoulli", "Categorical", "Binomial", "Binomial of unequal n", "BetaBinomial", "DiscreteUniform"],
)
def test_supports(make, support):
    with pm.Model() as model:
        z = make()
        pm.Normal("y", z, 1.0, observed=np.zeros(2))
    np.testing.assert_array_equal(emppl.analyse(model).node("z").support, list(support))


def test_the_component_of_a_mixture_is_a_latent():
    with pm.Model(coords={"row": range(3)}) as model:
        psi = pm.Beta("psi", 1.0, 1.0)
        pm.ZeroInflatedPoisson("y", psi, 2.0, observed=[0, 1, 2], dims="row")
    (latent,) = emppl.analyse(model).latents
    assert (latent.name, latent.implicit, latent.dims, latent.shape) == ("y_component", True, ("row",), (3,))
    assert len(latent.labels) == 2 and "Poisson" in latent.labels[1]


def test_what_was_not_observed_leaves_the_model():
    structure = small_models.plan("missing_values").structure
    assert structure.dropped == ("y_unobserved",)
    assert "y_unobserved" not in structure.parameter_names


def test_missing_values_that_matter_stay():
    """A masked entry that something else depends on does not integrate to one."""
    y = np.ma.masked_where([False, True, False], [1.0, 0.0, 2.0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ImputationWarning)
        with pm.Model() as model:
            mu = pm.Normal("mu", 0.0, 1.0)
            x = pm.Normal("x", mu, 1.0, observed=y)
            pm.Normal("z", x, 1.0, observed=np.zeros(3))
    structure = emppl.analyse(model)
    assert structure.dropped == () and "x_unobserved" in structure.parameter_names
    plan = str(emppl.plan(model))
    assert "x: 1 value is missing" in plan and "estimated with the parameters" in plan


@pytest.mark.parametrize("of_column", [False, True])
def test_rows_around_what_is_missing_keep_their_natural_form(of_column):
    """PyMC picks what was observed by truth values; the fit is that of the rows which are there."""
    rng = np.random.default_rng(0)
    y = np.r_[rng.normal(0.0, 1.0, 20), rng.normal(6.0, 1.0, 20)]
    seen = np.arange(40) % 9 != 4

    def build(values, masked):
        with pm.Model() as model:
            mu = pm.Normal("mu", 0.0, 10.0, shape=2)
            z = pm.Categorical("z", p=[0.4, 0.6], shape=len(values))
            centre = mu[z] if not of_column else mu[:, None][z][:, 0]
            pm.Normal("y", centre, 1.0, observed=np.where(masked, np.nan, values))
        return model

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ImputationWarning)
        plan = emppl.plan(build(y, ~seen))
    entry = next(e for e in plan.factors if e.factor.name == "y_observed")
    assert entry.form is not None and entry.form.features is not None
    assert "y: 4 values are missing" in str(plan)
    here, there = emppl.fit(plan, seed=0), emppl.fit(build(y[seen], np.zeros(seen.sum(), bool)), seed=0)
    assert here.certificate.holds
    np.testing.assert_allclose(np.sort(here.point["mu"]), np.sort(there.point["mu"]), rtol=1e-8)
    assert here.log_posterior == pytest.approx(there.log_posterior, abs=1e-9)


def test_data_containers_are_read():
    with pm.Model() as model:
        heads = pm.Data("heads_seen", np.array([1, 2, 3]))
        trials = pm.Data("trials", np.array([4, 5, 6]))
        bias = pm.Beta("bias", 1.0, 1.0, shape=2)
        z = pm.Bernoulli("z", 0.5, shape=heads.shape[0])
        pm.Binomial("heads", n=trials, p=bias[z], observed=heads)
    plan = emppl.plan(model)
    assert plan.structure.node("z").shape == (3,)
    before = plan.log_likelihood({"bias": np.array([0.3, 0.6])})
    with model:
        pm.set_data({"heads_seen": np.array([3, 2, 1, 0]), "trials": np.array([4, 5, 6, 7])})
    again = emppl.plan(model)  # the same model with other data
    assert again.structure.node("z").shape == (4,)
    assert again.log_likelihood({"bias": np.array([0.3, 0.6])}) != before


def test_the_model_is_not_changed():
    case = small_models.model("ordered_means", seed=5)
    before = {rv.name: transform for rv, transform in case.model.rvs_to_transforms.items()}
    start = {name: np.array(v) for name, v in case.model.initial_point().items()}
    emppl.plan(case.model)
    assert {rv.name: transform for rv, transform in case.model.rvs_to_transforms.items()} == before
    for name, value in case.model.initial_point().items():
        np.testing.assert_array_equal(value, start[name])


def test_freezing_takes_a_variable_out():
    case = small_models.model("normal_mixture")
    structure = emppl.analyse(case.model, freeze={"sigma": 1.0})
    assert structure.parameter_names == ("weights", "mu")
    np.testing.assert_array_equal(structure.frozen["sigma"], [1.0, 1.0])


def test_variables_may_be_named_as_dtypes_are():
    with pm.Model() as model:
        half = pm.Normal("half", 0.0, 1.0, shape=2)
        single = pm.Bernoulli("single", 0.4, shape=3)
        pm.Normal("double", half[single], 1.0, observed=np.arange(3.0))
    structure = emppl.analyse(model)
    assert structure.parameter_names == ("half",) and [node.name for node in structure.latents] == ["single"]
