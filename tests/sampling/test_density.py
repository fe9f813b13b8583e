"""The compiled log posterior against the plan's: value and gradient, on shipped, small and random models."""

import importlib

import numpy as np
import pymc as pm
import pytest
import small_models
from fuzz import Maker

import emppl
from emppl.kernels import posterior
from emppl.sampling.density import CompiledDensity
from emppl.unrolled.tracing import Untraceable

SHIPPED = (
    "change_point", "coins", "dawid_skene", "gaussian_mixture", "latent_class", "linkage", "mixture_regression",
    "multinomial_mixture", "naive_bayes", "occupancy", "poisson_mixture", "robust_regression", "zero_inflated",
)  # fmt: skip


def points(plan, count=3):
    rng = np.random.default_rng(0)
    return [rng.normal(scale=0.5, size=plan.structure.coordinates.size) for _ in range(count)]


def compared(plan):
    """The compiled density, equal to the plan's where it was compared, and to its own differences."""
    density = CompiledDensity(plan)
    density.check(plan, points(plan))
    return density


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_models(name):
    compared(emppl.plan(importlib.import_module(f"emppl.models.{name}").build()))


@pytest.mark.parametrize(
    "name",
    ["gated", "heavy_tails", "hierarchical", "missing_values", "pairs", "crossed", "two_plates", "members_of_groups",
     "potential_on_latent", "ordered_means", "mixture_within_a_component", "choice_of_model", "bounded_poisson"],
)  # fmt: skip
def test_small_models(name):
    compared(small_models.plan(name))


@pytest.mark.parametrize("seed", [1, 2, 3, 4, 6, 12])
def test_random_models(seed):
    compared(emppl.plan(Maker(seed).model()))


def test_weights_labels_and_frozen_parameters():
    model = small_models.model("coins").model
    compared(emppl.plan(model, obs_weights=np.arange(6.0)))
    compared(emppl.plan(model, labels={"z": [0, -1, -1, 1, -1, -1]}))
    compared(emppl.plan(model, freeze={"weights": [0.3, 0.7]}))
    compared(emppl.plan(model, estep="graph", obs_weights=np.arange(6.0)))


def test_many_members_go_through_the_compiled_pass(monkeypatch):
    """The same density by either pass."""
    plan = small_models.plan("gaussian_full")
    few = compared(plan)
    monkeypatch.setattr("emppl.estep.records.pays", lambda *_: True)
    many = compared(plan)
    assert many.records["pass_at"] == posterior.c_function("many").address != few.records["pass_at"]


def test_the_gradient_is_that_of_the_value():
    plan = small_models.plan("latent_class")
    density, u = CompiledDensity(plan), points(plan)[0]
    _, gradient = density(u)
    for i in range(len(u)):
        step = 1e-5 * (np.arange(len(u)) == i)
        slope = (density(u + step)[0] - density(u - step)[0]) / 2e-5
        assert slope == pytest.approx(gradient[i], rel=1e-6, abs=1e-6)


def test_the_density_of_another_model_is_found_out():
    plan, other = (emppl.plan(small_models.MODELS["coins"](np.random.default_rng(s)).model) for s in (0, 1))
    density = CompiledDensity(plan)
    with pytest.raises(Untraceable, match="where the plan's is"):
        density.check(other, points(other))


def test_what_has_no_density():
    density = CompiledDensity(small_models.plan("gaussian_full"))
    for value in (np.nan, np.inf, 1e300):
        found, gradient = density(np.full(density.size, value))
        assert found == -np.inf and np.isnan(gradient).all()


def test_a_model_too_long_says_so():
    with pm.Model() as model:
        mu = pm.Normal("mu", np.float64(0.0), np.float64(1.0), shape=2)
        z = pm.Bernoulli("z", 0.5, shape=30_000)
        pm.Laplace("y", mu[z], np.float64(1.0), observed=np.linspace(-1.0, 1.0, 30_000))
    with pytest.raises(Untraceable, match="numbers"):
        CompiledDensity(emppl.plan(model))
