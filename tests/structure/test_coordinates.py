"""theta ↔ u by PyMC's own transforms, and points to begin at."""

import numpy as np
import pymc as pm
import pytest
import small_models
from oracles import INTERPRETED, gradient

import emppl
from emppl.structure.initial import initial_point

MODELS = ("coins", "normal_mixture", "ordered_means", "gaussian_full", "gated")


@pytest.mark.parametrize("name", MODELS)
def test_back_and_forth(name):
    coordinates = small_models.plan(name).structure.coordinates
    rng = np.random.default_rng(0)
    for _ in range(3):
        u = rng.normal(size=coordinates.size)
        np.testing.assert_allclose(coordinates.unconstrain(coordinates.constrain(u)), u, atol=1e-9)


@pytest.mark.parametrize("name", MODELS)
def test_the_jacobian_is_that_of_pymc(name):
    """log |d theta / d u| is the difference between PyMC's two densities, and its gradient that of differences."""
    case, coordinates = small_models.model(name), small_models.plan(name).structure.coordinates
    model = case.model
    priors = [rv for rv in model.free_RVs if rv.name in {node.name for node in coordinates.parameters}]
    values = [model.rvs_to_values[rv] for rv in priors]
    graphs = [model.logp(vars=priors, jacobian=flag) for flag in (True, False)]
    both = pm.compile(values, graphs, mode=INTERPRETED)
    u = np.random.default_rng(1).normal(size=coordinates.size)
    parts = coordinates.split(u)
    with_it, without = both(*[parts[rv.name] for rv in priors])
    value, slope = coordinates.log_jacobian(u)
    assert float(value) == pytest.approx(float(with_it - without), abs=1e-9)
    by_differences = gradient(lambda v: float(coordinates.log_jacobian(v)[0]), u)
    np.testing.assert_allclose(slope, by_differences, atol=1e-7)


def test_a_bound_that_is_another_parameter():
    """Uniform(0, upper): the bound is the value of `upper`, not a draw of it."""
    with pm.Model() as model:
        upper = pm.Gamma("upper", 2.0, 1.0)
        inner = pm.Uniform("inner", 0.0, upper)
        pm.Normal("y", inner, 1.0, observed=np.zeros(2))
    coordinates = emppl.analyse(model).coordinates
    theta = coordinates.constrain(np.array([0.4, -0.3]))
    assert theta["inner"] == pytest.approx(theta["upper"] / (1 + np.exp(0.3)), rel=1e-12)
    np.testing.assert_allclose(coordinates.unconstrain(theta), [0.4, -0.3], atol=1e-12)


def test_the_border_is_infinite_and_beyond_is_nan():
    coordinates = small_models.plan("coins").structure.coordinates
    u = coordinates.unconstrain({"bias": np.array([0.0, 0.5]), "weights": np.array([0.5, 0.5])})
    assert u[0] == -np.inf and np.isfinite(u[1])
    assert np.isnan(coordinates.unconstrain({"bias": np.array([-0.1, 0.5]), "weights": np.array([0.5, 0.5])})[0])


@pytest.mark.parametrize("weights", [[0.0, 1.0], [1.0, 0.0]])
def test_a_simplex_with_a_zero_is_on_the_border_not_beyond(weights):
    """A weight of 0 is where EM may well end."""
    coordinates = small_models.plan("coins").structure.coordinates
    u = coordinates.unconstrain({"bias": np.array([0.4, 0.5]), "weights": np.array(weights)})
    np.testing.assert_allclose(coordinates.constrain(u)["weights"], weights, atol=1e-15)
    assert list(coordinates.interior(u, 18.0)) == [True, True, False]


@pytest.mark.parametrize("zeros", [(), (0,), (1,), (3,), (0, 3), (1, 2), (0, 1, 2), (1, 2, 3)])
def test_the_interior_of_a_face_of_the_simplex(zeros):
    """As many free coordinates as the face has dimensions; they move every weight on it, and the others stay zero."""
    with pm.Model() as model:
        weights = pm.Dirichlet("weights", np.ones(4), shape=(2, 4))
        pm.Categorical("y", p=weights[0], observed=np.arange(4))
    coordinates = emppl.analyse(model).coordinates
    on_face = np.array([0.1, 0.2, 0.3, 0.4])
    on_face[list(zeros)] = 0.0
    theta = {"weights": np.stack([on_face / on_face.sum(), np.full(4, 0.25)])}
    u = coordinates.unconstrain(theta)
    back = coordinates.constrain(coordinates.off_the_border(u, 36.0))["weights"]
    np.testing.assert_allclose(back, theta["weights"], atol=1e-15)
    interior = coordinates.interior(u, 18.0)
    assert interior[:3].sum() == 3 - len(zeros) and interior[3:].all()
    change = np.zeros((4, 3))
    for i in np.flatnonzero(interior[:3]):
        step = np.where(np.arange(6) == i, 1e-6, 0.0)
        up, down = (coordinates.constrain(coordinates.off_the_border(u, 36.0) + s * step) for s in (1.0, -1.0))
        change[:, i] = (up["weights"][0] - down["weights"][0]) / 2e-6
    assert np.linalg.matrix_rank(change, tol=1e-6) == interior[:3].sum()
    np.testing.assert_allclose(change[list(zeros)], 0.0, atol=1e-9)


@pytest.mark.parametrize("name", small_models.MODELS)
def test_the_first_point_lies_inside(name):
    plan = small_models.plan(name)
    for theta in (initial_point(plan.structure), initial_point(plan.structure, draw=True, seed=1)):
        assert np.isfinite(plan.structure.coordinates.unconstrain(theta)).all()
        assert np.isfinite(plan.log_posterior(theta))


def test_a_start_value_of_the_user_is_kept():
    structure = small_models.plan("ordered_means").structure
    np.testing.assert_allclose(initial_point(structure)["mu"], [-1.0, 1.0])


def test_equal_starts_of_an_ordered_vector_are_spread():
    """PyMC's own start of an ordered vector has log density minus infinity."""
    case = small_models.model("ordered_means")
    plan = emppl.plan(case.same)
    assert np.isfinite(plan.log_posterior(initial_point(plan.structure)))


def test_draws_from_the_prior_are_reproducible():
    structure = small_models.plan("coins").structure
    one, two, other = (initial_point(structure, draw=True, seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one["bias"], two["bias"])
    assert not np.array_equal(one["bias"], other["bias"])


def test_a_prior_whose_draws_overflow_still_gives_a_start():
    with pm.Model() as model:  # 1 / Gamma draws of shape 0.001: most are 1 / 0, which a scalar draw raises
        variance = pm.InverseGamma("variance", np.float64(1e-3), np.float64(1e-3))
        z = pm.Bernoulli("z", 0.5, shape=4)
        pm.Normal("y", 2.0 * z - 1.0, variance**0.5, observed=[-1.2, 0.8, 1.1, -0.9])
    plan = emppl.plan(model)
    for seed in range(5):
        theta = initial_point(plan.structure, draw=True, seed=seed)
        assert np.isfinite(plan.log_posterior(theta))
