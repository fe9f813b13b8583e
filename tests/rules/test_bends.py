"""Parameters that bend where a parameter says are not judged by values at a few points."""

import numpy as np
import pymc as pm
import pytensor.tensor as pt
import pytest

import emppl

N = 40
X = np.linspace(-10.0, -1.0, N)
F = np.float64


def fitted(mean, estep="auto"):
    rng = np.random.default_rng(0)
    y = np.repeat([0.0, 6.0], N // 2) + 2.0 * np.maximum(X + 5.0, 0.0) + rng.normal(size=N)
    with pm.Model() as model:
        a = pm.Normal("a", F(0.0), F(10.0), shape=2)
        knot = pm.Normal("knot", F(-4.0), F(3.0))
        z = pm.Bernoulli("z", F(0.5), shape=N)
        pm.Normal("y", mean(a[z], knot), F(1.0), observed=y)
    return emppl.plan(model, estep=estep)


@pytest.mark.parametrize(
    "mean",
    [
        lambda a, knot: a + pt.maximum(X - knot, 0.0),
        lambda a, knot: a + pt.switch(knot < X, 2.0 * X, 0.0),
        lambda a, knot: a + pt.clip(X, knot - 1.0, knot) * 2.0,
    ],
    ids=["maximum", "switch", "clip"],
)
def test_a_knot_that_random_points_do_not_meet(mean):
    """All rows lie left of every knot that is tried, and would pass for rows of one kind."""
    plan, graph = fitted(mean), fitted(mean, "graph")
    (entry,) = [entry for entry in plan.factors if entry.factor.name == "y"]
    assert entry.form is None and entry.reason == "where it bends depends on knot"
    theta = {"a": np.array([0.0, 6.0]), "knot": np.array(-5.0)}
    assert plan.log_likelihood(theta) == pytest.approx(graph.log_likelihood(theta), abs=1e-9)


@pytest.mark.parametrize(
    "mean",
    [
        lambda a, knot: pt.maximum(a, knot),  # no numbers that vary
        lambda a, knot: a + knot * np.maximum(X + 5.0, 0.0),  # bends where numbers say
    ],
    ids=["of parameters alone", "of numbers alone"],
)
def test_what_is_safe_keeps_its_form(mean):
    (entry,) = [entry for entry in fitted(mean).factors if entry.factor.name == "y"]
    assert entry.form is not None
