"""nutpie on the compiled density: the same posterior as by the graph, the same draws from the same seed."""

import logging

import numpy as np
import nutpie
import pymc as pm
import pytensor.tensor as pt
import pytest

import emppl
from emppl.errors import InvalidArgumentError
from emppl.sampling import samplers
from emppl.unrolled.tracing import Untraceable


def build(rate: float = 1.0) -> pm.Model:
    """One mode: which component is which is known."""
    y = np.random.default_rng(0).normal(np.repeat([-1.0, 2.0], [15, 25]), 0.8)
    with pm.Model(coords={"row": range(40)}) as model:
        share = pm.Beta("share", np.float64(2.0), np.float64(2.0))
        sigma = pm.Exponential("sigma", np.float64(rate))
        z = pm.Bernoulli("z", share, dims="row")
        pm.Normal("y", pt.as_tensor([-1.0, 2.0])[z], sigma, observed=y, dims="row")
        pm.Deterministic("odds", share / (1.0 - share))
    return model


@pytest.fixture(scope="module")
def plan():
    return emppl.plan(build())


@pytest.fixture(scope="module")
def draws(plan):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nutpie, "compile_pymc_model", lambda *_, **__: pytest.fail("compiled the graph"))
        return emppl.sample(plan, draws=1000, tune=500, chains=2, seed=5, cores=2)


def test_the_same_posterior_as_by_the_graph(plan, draws, monkeypatch, caplog):
    def untraceable(_):
        raise Untraceable("it has no ending")

    monkeypatch.setattr(samplers, "CompiledDensity", untraceable)
    with caplog.at_level(logging.INFO, "emppl"):
        by_graph = emppl.sample(plan, draws=1000, tune=500, chains=2, seed=6)
    (line,) = [record.getMessage() for record in caplog.records if record.levelno == logging.INFO]
    assert "compiles the graph" in line and "it has no ending" in line
    assert list(by_graph.children) == list(draws.children)
    assert set(by_graph["sample_stats"].data_vars) == set(draws["sample_stats"].data_vars)
    for name in ("share", "sigma", "odds"):
        one, two = (tree["posterior"][name] for tree in (draws, by_graph))
        assert one.dims == two.dims and one.shape == two.shape
        assert one.mean().item() == pytest.approx(two.mean().item(), abs=0.2 * two.std().item())
        assert one.std().item() == pytest.approx(two.std().item(), rel=0.2)


def test_the_density_in_the_statistics_is_that_of_the_draw(plan, draws):
    """On PyMC's unconstrained scale, as of the graph."""
    coordinates = plan.structure.coordinates
    for chain, draw in ((0, 0), (1, 640)):
        theta = {n: draws["posterior"][n].values[chain, draw] for n in plan.structure.parameter_names}
        jacobian, _ = coordinates.log_jacobian(coordinates.unconstrain(theta))
        logp = float(draws["sample_stats"]["logp"][chain, draw])
        assert logp == pytest.approx(plan.log_posterior(theta) + jacobian, rel=1e-9)
        assert float(draws["sample_stats"]["log_posterior"][chain, draw]) == pytest.approx(plan.log_posterior(theta))


@pytest.mark.parametrize("cores", [1, 2])
def test_the_same_seed_gives_the_same_draws(plan, draws, cores):
    """On one core or two, whatever was computed before."""
    again = emppl.sample(build(), draws=1000, tune=500, chains=2, seed=5, cores=cores)
    for name in plan.structure.parameter_names:
        np.testing.assert_array_equal(again["posterior"][name], draws["posterior"][name])
    np.testing.assert_array_equal(again["sample_stats"]["log_posterior"], draws["sample_stats"]["log_posterior"])


def test_a_density_that_is_not_the_plans_is_not_sampled(plan, monkeypatch, caplog):
    """Whatever is wrong with the compiled code, the graph takes its place."""
    other, right = emppl.plan(build(rate=1.0001)), samplers.CompiledDensity
    monkeypatch.setattr(samplers, "CompiledDensity", lambda _: right(other))
    with caplog.at_level(logging.INFO, "emppl"):
        assert samplers._of_density(plan, lambda seed: None) is None
    assert "where the plan's is" in caplog.text


def test_options_of_nutpie_reach_it(plan):
    tree = emppl.sample(
        plan, draws=20, tune=60, chains=1, seed=0, target_accept=0.95, store_unconstrained=True, adaptation="low_rank"
    )
    assert dict(tree["posterior"].sizes)["draw"] == 20


def test_latents_as_they_are_wanted(plan):
    run = {"draws": 10, "tune": 20, "chains": 1, "seed": 0}
    assert "latent" not in emppl.sample(plan, latents=False, **run).children
    with pytest.raises(InvalidArgumentError, match="latents must be"):
        emppl.sample(plan, latents="z")
