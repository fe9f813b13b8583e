"""The table of M-step rules: what an Update says of itself holds, and a rule of the user's own is taken like ours."""

import numpy as np
import pymc as pm
import pytensor.tensor as pt
import pytest
import small_models
from scipy.optimize import minimize_scalar

import emppl
from emppl.mstep import rules
from emppl.mstep.problem import BlockProblem, Refusal, Update


@pytest.mark.parametrize("name", small_models.MODELS)
def test_what_an_update_says_of_itself(name):
    """An exact one stays where it is at a second step; a search of the whole block is its own fallback."""
    plan = small_models.plan(name)
    theta = small_models.points(plan, count=1)[0]
    posterior = plan.e_step(theta)
    for block in plan.blocks:
        update = block.update
        assert not (update.is_exact and update.is_search)
        assert (block.fallback is None) == update.is_numeric
        assert update.densities == 0 or any(entry.form is None for entry in plan.factors)
        once = update(theta, posterior) or {}
        twice = update(theta | once, posterior) or {}
        for parameter in once if update.is_exact else ():
            np.testing.assert_allclose(twice[parameter], once[parameter], rtol=1e-9, atol=1e-12)


def golden_section(problem: BlockProblem) -> Update | Refusal:
    """The rule of somebody else: one number, by a line search that needs no gradient."""
    if problem.size > 1:
        return Refusal("golden section", f"{problem.size} numbers are more than one")
    coordinates, (name,) = problem.structure.coordinates, problem.names

    def step(theta, posterior):
        u = coordinates.unconstrain(theta)

        def loss(value):
            u[coordinates.slices[name]] = value
            return -problem.expected(u, posterior, problem.weights)[0]

        u[coordinates.slices[name]] = minimize_scalar(loss, (-1.0, 1.0), method="golden", tol=1e-10).x
        return {name: coordinates.constrain(u)[name]}

    return Update("golden section", step, "some fifty evaluations", is_numeric=True)


def two_measurements() -> pm.Model:
    """A block of one number and one of four, both searched numerically."""
    rng = np.random.default_rng(4)
    z = rng.integers(0, 2, 40)
    with pm.Model() as model:
        shift = pm.Normal("shift", np.float64(0.0), np.float64(5.0))
        mu = pm.Normal("mu", np.float64(0.0), np.float64(5.0), shape=2)
        sigma = pm.HalfNormal("sigma", np.float64(2.0), shape=2)
        latent = pm.Categorical("z", p=np.array([0.4, 0.6]), shape=40)
        pm.Normal("y", shift * latent, np.float64(1.0), observed=rng.normal(4.0 * z))
        pm.Normal("x", mu[latent], sigma[latent], observed=rng.normal(2.0 * z))
    return model


def test_a_rule_is_one_function_and_one_line(monkeypatch):
    ours = emppl.plan(two_measurements())
    assert [block.rule for block in ours.blocks] == ["natural form", "natural form"]
    monkeypatch.setattr(rules, "RULES", [golden_section, *rules.RULES])
    theirs = emppl.plan(two_measurements())
    assert [block.rule for block in theirs.blocks] == ["golden section", "natural form"]
    text = str(theirs)
    assert any(line.split()[0] == "shift" and "golden section" in line for line in text.splitlines() if line.strip())
    assert "mu, sigma: golden section refused: 4 numbers are more than one → natural form" in text
    theta = small_models.points(ours, count=1)[0]
    one, two = (plan.m_step(theta, plan.e_step(theta)) for plan in (ours, theirs))
    np.testing.assert_allclose(two["shift"], one["shift"], rtol=1e-6)
    assert ours.has_search and theirs.has_search and not theirs.has_exact_m_step
    one, two = (emppl.fit(plan, starts=1, seed=1) for plan in (ours, theirs))
    np.testing.assert_allclose(two.log_posterior, one.log_posterior, rtol=1e-9)


def test_a_support_that_a_density_alone_knows_is_left_to_a_search(monkeypatch):
    """Nothing but its density keeps the parameter inside: no other rule is tried, and the cost is said."""
    asked = []
    monkeypatch.setattr(rules, "RULES", [lambda problem: asked.append(problem.names), *rules.RULES])
    with pm.Model() as model:
        mu = pm.CustomDist("mu", logp=lambda value: pt.switch(value > -2.0, -0.5 * value**2, -np.inf))
        z = pm.Bernoulli("z", p=np.float64(0.4), shape=12)
        pm.StudentT("y", nu=np.float64(3.0), mu=mu * z, observed=np.random.default_rng(0).normal(size=12))
    (block,) = emppl.plan(model, estimate="ml").blocks
    assert asked == [] and block.rule == "autodiff" and block.update.densities == 12
    assert block.cost == "each evaluation goes through 12 densities"
    assert "the support of mu is known by a density alone" in block.refused[0].reason
