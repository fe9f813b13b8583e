"""What is computed along the draws against one E-step a draw; draws in coordinates against their parameters."""

import numpy as np
import pytest
import small_models

import emppl
from emppl.estep.along import Passes
from emppl.models import coins
from emppl.progress import Watcher
from emppl.sampling import along
from emppl.unrolled.tracing import Untraceable

N = 7


def random_draws(plan, n=N):
    u = np.random.default_rng(3).normal(scale=0.7, size=(n, plan.structure.coordinates.size))
    return u, along.expanded(plan, u)


@pytest.fixture(params=["machine code", "call by call"])
def way(request, monkeypatch):
    def untraceable(*_):
        raise Untraceable

    if request.param == "call by call":
        monkeypatch.setattr(along, "machine_code", untraceable)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize(
    "name",
    ["coins", "gaussian_full", "crossed", "missing_values", "several_observed", "heavy_tails", "two_plates", "nested"],
)
def test_the_same_as_one_e_step_a_draw(name, monkeypatch):
    """Blocks of two draws, the last of them shorter."""
    plan = small_models.plan(name)
    _, flat = random_draws(plan)
    monkeypatch.setattr(along, "BLOCK_NUMBERS", 2 * Passes(plan.engine, plan.structure).numbers)
    found = along.along_draws(plan, flat, N, Watcher(), None)
    likelihood = sum(values.reshape(N, -1).sum(axis=1) for values, _ in found.by_member.values())
    for t in range(N):
        theta = {name: flat[name][t] for name in plan.structure.parameter_names}
        posterior = plan.e_step(theta, keep=True)
        assert found.log_posterior[t] == pytest.approx(posterior.objective, rel=1e-10)
        assert likelihood[t] == pytest.approx(posterior.log_likelihood, rel=1e-9, abs=1e-9) or "potential" in str(plan)
        for latent, expected in plan.marginals(posterior).items():
            np.testing.assert_allclose(found.latents[latent][t], expected, atol=1e-10)
    assert not found.stopped


def test_known_labels_and_weights():
    case = small_models.model("coins")
    plan = emppl.plan(case.model, labels={"z": [0, -1, -1, 1, -1, -1]}, obs_weights=np.arange(6.0))
    _, flat = random_draws(plan)
    found = along.along_draws(plan, flat, N, Watcher(), None)
    for t in range(N):
        theta = {name: flat[name][t] for name in plan.structure.parameter_names}
        assert found.log_posterior[t] == pytest.approx(plan.log_posterior(theta), rel=1e-10)
    np.testing.assert_array_equal(found.latents["z"][:, 0], [[1.0, 0.0]] * N)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("name", ["ordered_means", "hierarchical", "gaussian_full", "deterministic_of_latent"])
def test_parameters_and_deterministics_of_coordinates(name):
    plan = small_models.plan(name)
    u, flat = random_draws(plan)
    for t in range(N):
        theta = plan.structure.coordinates.constrain(u[t])
        for node, expected in {**theta, **plan.deterministics(theta)}.items():
            np.testing.assert_allclose(flat[node][t], expected, rtol=1e-11, atol=1e-13)


def test_an_impossible_draw_has_no_density():
    """A configuration that a probability of zero bars, and one that no configuration explains."""
    plan = emppl.plan(coins.build())
    flat = {"bias": np.array([[0.0, 0.5], [0.0, 1.0], [0.4, 0.6]])}
    found = along.along_draws(plan, flat, 3, Watcher(), True)
    np.testing.assert_array_equal(found.latents["coin_of_set"][0], [[0.0, 1.0]] * 5)
    assert np.isfinite(found.log_posterior[[0, 2]]).all() and found.log_posterior[1] == -np.inf
    assert np.isneginf(found.by_member["heads"][0][1]).all()


def test_latents_come_where_they_are_few_or_wanted(monkeypatch):
    plan = small_models.plan("coins")
    _, flat = random_draws(plan)
    assert along.along_draws(plan, flat, N, Watcher(), None).latents
    assert not along.along_draws(plan, flat, N, Watcher(), False).latents
    monkeypatch.setattr(along, "SMALL_GROUP", 10)
    assert not along.along_draws(plan, flat, N, Watcher(), None).latents
    assert along.along_draws(plan, flat, N, Watcher(), True).latents
