"""The expected log joint, its gradient, and the numeric M-steps that climb it."""

import numpy as np
import pytest
import small_models
from hypothesis import given, settings
from hypothesis.strategies import integers
from oracles import gradient

import emppl
from emppl.mstep.autodiff import NumericUpdate

NUMERIC = (
    "normal_mixture", "ordered_means", "gaussian_diagonal", "hierarchical", "two_plates",
    "heavy_tails", "lines", "change_point", "zero_inflated", "gated", "bounded_poisson",
)  # fmt: skip
FISHER = (
    "coins", "ordered_means", "gaussian_diagonal", "gated", "two_plates", "potential_on_latent", "vector_of_latents",
    "change_point", "signed_latent", "mixture_by_column", "missing_values", "crossed", "unequal_trials",
)  # fmt: skip


@pytest.mark.parametrize("name", FISHER)
def test_fishers_identity(name):
    """The gradient of Q at the posterior of the same theta is that of the log posterior, here by differences."""
    plan = small_models.plan(name)
    coordinates = plan.structure.coordinates
    u = np.random.default_rng(2).normal(scale=0.5, size=coordinates.size)
    value, slope, posterior = plan.gradient(u)
    assert value == posterior.objective == plan.log_posterior(coordinates.constrain(u))
    by_differences = gradient(lambda v: plan.log_posterior(coordinates.constrain(v)), u)
    np.testing.assert_allclose(slope, by_differences, rtol=1e-7, atol=1e-7 * max(1.0, np.abs(slope).max()))


@pytest.mark.parametrize("name", NUMERIC)
def test_natural_and_enumerated_q_agree(name):
    """Up to what does not depend on theta: differences of Q between points are the same."""
    plan, graph = small_models.plan(name), small_models.plan(name, estep="graph")
    coordinates = plan.structure.coordinates
    first, *others = [coordinates.unconstrain(theta) for theta in small_models.points(plan, count=3)]
    posteriors = [p.e_step(coordinates.constrain(first)) for p in (plan, graph)]
    values = [[p.expected(u, q, p.weights)[0] for u in (first, *others)] for p, q in zip((plan, graph), posteriors)]
    np.testing.assert_allclose(np.diff(values[0]), np.diff(values[1]), rtol=1e-8)


@pytest.mark.parametrize("name", NUMERIC)
@settings(max_examples=4)
@given(seed=integers(0, 1000))
def test_an_m_step_never_falls(name, seed):
    plan = small_models.plan(name)
    theta = small_models.points(plan, count=1, seed=seed)[0]
    posterior = plan.e_step(theta)
    before = posterior.objective
    assert plan.log_posterior(plan.m_step(theta, posterior)) >= before - 1e-10 * max(1.0, abs(before))


@pytest.mark.parametrize("name", ["normal_mixture", "gaussian_tied", "hierarchical", "heavy_tails"])
def test_a_numeric_m_step_carried_on_reaches_a_stationary_point(name):
    plan = small_models.plan(name)
    coordinates = plan.structure.coordinates
    theta = small_models.points(plan, count=1)[0]
    posterior = plan.e_step(theta)
    search = NumericUpdate(plan.structure.parameter_names, plan.expected, plan.weights, max_steps=500)
    found = search(theta, posterior)
    _, slope = plan.expected(coordinates.unconstrain(found), posterior, plan.weights)
    np.testing.assert_allclose(slope, 0.0, atol=2e-5)


def test_other_parameters_are_held():
    plan = small_models.plan("normal_mixture")
    theta = small_models.points(plan, count=1)[0]
    found = NumericUpdate(("mu",), plan.expected, plan.weights)(theta, plan.e_step(theta))
    assert set(found) == {"mu"}


def test_ordered_means_stay_ordered():
    plan = small_models.plan("ordered_means")
    for seed in range(4):
        theta = small_models.points(plan, count=1, seed=seed)[0]
        new = plan.m_step(theta, plan.e_step(theta))
        assert (np.diff(new["mu"]) > 0).all()


def test_a_start_on_the_border_is_left_behind():
    """A bias of exactly 0 is where numbers end, not where the search does."""
    case = small_models.model("coins")
    plan = emppl.plan(case.model)
    border = {"bias": np.array([0.0, 0.5]), "weights": np.array([0.5, 0.5])}
    posterior = plan.e_step({"bias": np.array([0.3, 0.5]), "weights": np.array([0.5, 0.5])})
    found = NumericUpdate(("bias",), plan.expected, plan.weights, max_steps=300)(border, posterior)
    closed = plan.blocks[0].update(border, posterior)
    np.testing.assert_allclose(found["bias"], closed["bias"], atol=1e-4)


def test_compiling_is_quiet(capfd, caplog):
    """PyTensor prints a traceback for each rewrite of its own that fails: no user may see those."""
    case = small_models.model("mixture_by_column", seed=1)
    plan = emppl.plan(case.model)
    plan.gradient(np.zeros(plan.structure.coordinates.size))
    assert caplog.text == "" and capfd.readouterr().err == ""
