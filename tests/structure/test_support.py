"""The values that latents can take: no value that the model gives a density may be left out of the sum."""

import warnings

import numpy as np
import pymc as pm
import pytensor.tensor as pt
import pytest
import small_models
from oracles import Enumeration
from pymc.exceptions import ImputationWarning

import emppl
from emppl.ascent import certificate
from emppl.errors import InvalidArgumentError, UnsupportedModelError
from emppl.structure.support import stray_value


def difference() -> pm.Model:
    """The bound of n reaches 6, but never where both elements of z are equal."""
    with pm.Model() as model:
        z = pm.DiscreteUniform("z", 0, 3, shape=2)
        n = pm.DiscreteUniform("n", 0, z[0] - z[1] + 3)
        sigma = pm.HalfNormal("sigma", np.float64(2.0))
        pm.Normal("y", n, sigma, observed=np.array([5.0, 6.5]))
    return model


def product() -> pm.Model:
    with pm.Model() as model:
        z = pm.DiscreteUniform("z", 0, 2, shape=2)
        n = pm.Binomial("n", z[0] * (2 - z[1]), np.float64(0.4))
        pm.Normal("y", n, pm.HalfNormal("sigma", np.float64(2.0)), observed=np.array([3.0]))
    return model


def truncated_bound() -> pm.Model:
    """PyMC makes a truncated variable of several random ones: evaluating its graph would draw it."""
    with pm.Model() as model:
        z = pm.Truncated("z", pm.Poisson.dist(np.float64(2.0)), upper=4)
        n = pm.Binomial("n", z, np.float64(0.4))
        pm.Normal("y", n, pm.HalfNormal("sigma", np.float64(2.0)), observed=np.array([3.0]))
    return model


def truncated_below() -> pm.Model:
    with pm.Model() as model:
        n = pm.Truncated("n", pm.Binomial.dist(4, np.float64(0.3)), lower=1)
        pm.Normal("y", n, pm.HalfNormal("sigma", np.float64(2.0)), observed=np.array([3.0]))
    return model


def sample_of_marked() -> pm.Model:
    with pm.Model() as model:
        n = pm.HyperGeometric("n", N=12, k=4, n=3)
        pm.Normal("y", n, pm.HalfNormal("sigma", np.float64(2.0)), observed=np.array([3.0]))
    return model


def bound_by_data() -> pm.Model:
    """Trials that are partly known: the bound is where the data are, and every value elsewhere."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ImputationWarning)
        with pm.Model() as model:
            z = pm.DiscreteUniform("z", 0, 5, observed=np.ma.masked_equal([1, -1], -1))
            n = pm.Binomial("n", z, np.float64(0.4))
            pm.Normal("y", n, pm.HalfNormal("sigma", np.float64(2.0)), observed=np.array([1.0, 4.0]))
    return model


CASES = {
    difference: {"z": range(4), "n": range(7)},
    product: {"z": range(3), "n": range(5)},
    truncated_bound: {"z": range(5), "n": range(5)},
    truncated_below: {"n": range(1, 5)},
    sample_of_marked: {"n": range(4)},
    bound_by_data: {"z_unobserved": range(6), "n": range(6)},
}
every_case = pytest.mark.parametrize("make", CASES, ids=lambda make: make.__name__)


@every_case
def test_no_value_is_left_out(make):
    model, supports = make(), {name: np.asarray(values) for name, values in CASES[make].items()}
    plan = emppl.plan(model)
    assert {node.name: node.support.tolist() for node in plan.structure.latents} == {
        name: values.tolist() for name, values in supports.items()
    }
    wider = {name: np.arange(values[0] - 1, values[-1] + 2) for name, values in supports.items()}
    theta = {"sigma": np.array(1.3)}
    with np.errstate(all="ignore"):
        expected = Enumeration(model, wider).log_posterior(theta)
    np.testing.assert_allclose(plan.log_posterior(theta), expected, rtol=1e-7)
    assert certificate.log_joint_agrees(plan, theta).holds


@every_case
def test_a_support_that_is_too_small_is_found(make):
    """As if the bound had been read wrongly: the certificate tries the values beside the support."""
    plan = emppl.plan(make())
    node = plan.structure.node("n")
    object.__setattr__(node, "support", node.support[:-1])
    arguments = plan.structure.coordinates.arguments({"sigma": np.array(1.3)})
    stray = stray_value(plan.structure, arguments, np.random.default_rng(0))
    assert stray is not None and stray.startswith(f"n = {node.support[-1] + 1} is possible")


def test_the_certificate_fails_where_a_value_was_left_out():
    plan = emppl.plan(difference())
    node = plan.structure.node("n")
    theta = {"sigma": np.array(1.3)}
    assert certificate.log_joint_agrees(plan, theta).holds
    object.__setattr__(node, "support", node.support[:4])  # as it was once read
    smaller = emppl.plan(plan.structure.model, support={"n": range(4)})
    assert certificate.log_joint_agrees(smaller, theta).holds  # the user's word
    smaller.structure.support_given.clear()
    point = certificate.log_joint_agrees(smaller, theta)
    assert not point.holds and "n = 4 is possible" in point.text


@pytest.mark.parametrize("name", ["change_point", "two_plates", "unequal_trials", "nested"])
def test_no_small_model_has_a_stray_value(name):
    plan = small_models.plan(name)
    arguments = plan.structure.coordinates.arguments(small_models.points(plan, count=1)[0])
    assert stray_value(plan.structure, arguments, np.random.default_rng(1)) is None


def test_a_bound_of_unknown_range_is_refused():
    with pm.Model() as model:
        z = pm.Bernoulli("z", np.float64(0.5), shape=30)
        n = pm.DiscreteUniform("n", 0, pt.cos(z.sum()) + 4)
        pm.Normal("y", n, 1.0, observed=np.array([1.0]))
    with pytest.raises(UnsupportedModelError, match="upper end of n") as caught:
        emppl.analyse(model)
    assert "support={'n'" in caught.value.remedies[0] and "it depends on z" in caught.value.what


def test_a_whole_number_that_pymc_transforms_is_refused():
    """PyMC gives a truncated DiscreteUniform the type of a real number: it was once taken for a parameter."""
    with pm.Model() as model:
        n = pm.Truncated("n", pm.DiscreteUniform.dist(-5, 5), lower=-3, upper=2)
        pm.Normal("y", n, 1.0, observed=np.array([-3.0]))
    with pytest.raises(UnsupportedModelError, match="n takes whole numbers"):
        emppl.analyse(model)


@pytest.mark.parametrize("frozen", [1, 3])
def test_a_frozen_latent_bounds_another(frozen):
    with pm.Model() as model:
        z = pm.DiscreteUniform("z", 0, 3)
        n = pm.Binomial("n", z, np.float64(0.4))
        pm.Normal("y", n, pm.HalfNormal("sigma", np.float64(2.0)), observed=np.array([1.0]))
    structure = emppl.analyse(model)
    for source in (model, structure):  # what was read before freezing is read again
        assert len(emppl.plan(source, freeze={"z": frozen}).structure.node("n").support) == frozen + 1


def test_a_bound_that_pymc_draws_inside_is_refused():
    """A Weibull variable is made of others without a name: its graph, evaluated, once gave a draw for a bound."""
    with pm.Model() as model:
        w = pm.Weibull("w", np.float64(1.5), np.float64(6.0))
        n = pm.Binomial("n", pt.floor(w).astype("int64"), np.float64(0.5))
        pm.Normal("y", n, 1.0, observed=np.array([1.0]))
    with pytest.raises(UnsupportedModelError, match="number of trials of n is itself unknown"):
        emppl.analyse(model)


def test_values_that_are_not_known_are_asked_for():
    with pm.Model() as model:
        n = pm.ZeroInflatedBinomial("n", 0.5, 4, 0.3)
        pm.Normal("y", n, 1.0, observed=np.array([1.0]))
    with pytest.raises(UnsupportedModelError, match="which values n can take is not known") as caught:
        emppl.analyse(model)
    assert "support={'n'" in caught.value.remedies[0]
    assert len(emppl.analyse(model, support={"n": range(5)}).node("n").support) == 5


def test_too_long_or_empty_a_support_is_refused():
    for make, word in (
        (lambda: pm.Binomial("n", 10**9, np.float64(0.5)), "1,000,000,001 values"),
        (lambda: pm.DiscreteUniform("n", 4, 3), "no value"),
    ):
        with pm.Model() as model:
            pm.Normal("y", make(), 1.0, observed=np.array([1.0]))
        with pytest.raises(UnsupportedModelError, match=word):
            emppl.analyse(model)


def test_a_given_support_below_the_lowest_value_is_refused():
    with pm.Model() as model:
        pm.Normal("y", pm.Poisson("n", np.float64(2.0)), 1.0, observed=np.array([1.0]))
    with pytest.raises(InvalidArgumentError, match="holds -1"):
        emppl.analyse(model, support={"n": range(-1, 20)})


def test_bounds_that_elements_treat_apart_agree_with_enumeration_at_random():
    """Random bounds over a latent of two elements, against all assignments."""
    rng = np.random.default_rng(3)
    for a, b, c in rng.integers(-2, 3, size=(4, 3)):
        with pm.Model() as model:
            z = pm.DiscreteUniform("z", 0, 2, shape=2)
            n = pm.DiscreteUniform("n", a * z[0] + b * z[1], a * z[0] + b * z[1] + c**2 * z[0] * z[1] + 1)
            pm.Normal("y", n, pm.HalfNormal("sigma", np.float64(2.0)), observed=np.array([3.0]))
        plan, theta = emppl.plan(model), {"sigma": np.array(2.0)}
        supports = {"z": np.arange(3), "n": np.arange(-12, 30)}
        np.testing.assert_allclose(
            plan.log_posterior(theta), Enumeration(model, supports).log_posterior(theta), rtol=1e-7
        )
