"""Probabilities whose best value is 0 or 1 end there, and are called by their name."""

import numpy as np
import pymc as pm
import pytest

import emppl
from emppl.ascent.border import put_on_border


def ratings(n: int = 30) -> pm.Model:
    """Two kinds of item; one kind is never called 0, the other never 2: weights of zero in rows of three."""
    rng = np.random.default_rng(5)
    kind = np.arange(n) % 2
    label = np.where(
        kind[:, None] == 0, rng.choice(3, (n, 6), p=[0.7, 0.3, 0.0]), rng.choice(3, (n, 6), p=[0, 0.2, 0.8])
    )
    with pm.Model() as model:
        weights = pm.Dirichlet("weights", np.ones(2))
        rates = pm.Dirichlet("rates", np.ones(3), shape=(2, 3))
        z = pm.Categorical("z", p=weights, shape=n)
        pm.Categorical("label", p=rates[z][:, None], observed=label)
    return model


def test_weights_of_zero_are_a_maximum_on_the_border():
    fit = emppl.fit(ratings(), estimate="ml", seed=0)
    assert fit.status is emppl.Status.CONVERGED and fit.certificate.holds
    assert "on the border: rates" in str(fit.certificate)
    rates = np.sort(fit.theta["rates"].values, axis=1)
    assert (rates[:, 0] < 1e-12).all()
    textbook = emppl.fit(ratings(), estimate="ml", start=fit, starts=0, accelerate=None, max_iter=300)
    assert fit.log_likelihood >= textbook.log_likelihood - 1e-9
    errors = fit.standard_errors()["rates"].values
    inner = fit.theta["rates"].values > 1e-6
    count = fit.responsibilities()["z"].values.sum(axis=0)[:, None] * 6
    p = fit.theta["rates"].values
    expected = np.sqrt(p * (1 - p) / count)  # kinds are told apart without doubt: a plain binomial
    np.testing.assert_allclose(errors[inner], expected[inner], rtol=1e-2)


def test_only_what_gains_is_put_on_the_border():
    plan = emppl.plan(ratings(), estimate="ml")
    coordinates = plan.structure.coordinates
    best = emppl.fit(plan, seed=0).point
    near = best["rates"] + 1e-5
    theta = best | {"rates": near / near.sum(-1, keepdims=True)}
    u, before = coordinates.unconstrain(theta), plan.log_likelihood(theta)
    moved, value, spent = put_on_border(plan, u, before)
    assert value > before and spent <= 5
    assert value == pytest.approx(plan.log_likelihood(coordinates.constrain(moved)))
    assert value == pytest.approx(plan.log_likelihood(best), abs=1e-6)
    away = {"weights": np.array([0.5, 0.5]), "rates": np.array([[0.6, 0.395, 0.005], [0.3, 0.3, 0.4]])}
    u = coordinates.unconstrain(away)
    _, value, _ = put_on_border(plan, u, plan.log_likelihood(away))
    assert value >= plan.log_likelihood(away)
