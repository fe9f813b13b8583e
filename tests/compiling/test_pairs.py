"""Sums and products of any number of terms are evaluated, rewritten or as they stand, once and again."""

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
import pytest

import emppl
from emppl.compiling import compile_graph
from emppl.compiling.pairs import MOST_OPERANDS

NUMBERS = [pt.dscalar(f"x{i}") for i in range(200)]
VECTORS = [pt.dvector(f"v{i}", shape=(3,)) for i in range(200)]
LONG = pt.dvector("long", shape=(50,))
RNG = np.random.default_rng(3)
VALUES = [[np.array(v) for v in RNG.uniform(0.9, 1.1, 200)], list(RNG.uniform(0.9, 1.1, (200, 3)))]


@pytest.mark.parametrize("optimise", [False, True])
@pytest.mark.parametrize("number", [2, MOST_OPERANDS, MOST_OPERANDS + 1, 33, 64, 65, 200])
def test_sums_and_products_of_many_terms(number, optimise):
    for variables, values in zip((NUMBERS, VECTORS), VALUES):
        terms, given = variables[:number], values[:number]
        graphs = [pt.add(*terms), pt.stack(terms).sum(axis=0), sum(terms), pt.mul(*terms), pt.stack(terms).prod(axis=0)]
        function = compile_graph(terms, graphs, optimise=optimise)
        total, product = np.sum(given, axis=0), np.prod(given, axis=0)
        for _ in range(10):  # interpreted at first, then written out
            np.testing.assert_allclose(function(*given), [total] * 3 + [product] * 2, rtol=1e-13)


@pytest.mark.parametrize("optimise", [False, True])
def test_a_gradient_that_is_added_up_from_many_terms(optimise):
    value = sum(pt.exp(0.01 * k * LONG).sum() for k in range(1, 100))
    function = compile_graph([LONG], pytensor.grad(value, LONG), optimise=optimise)
    x, k = RNG.normal(size=50), 0.01 * np.arange(1, 100)[:, None]
    np.testing.assert_allclose(function(x), (k * np.exp(k * x)).sum(axis=0), rtol=1e-12)


def test_a_long_sum_keeps_its_digits():
    terms = [np.array(1e16), *[np.array(1.0)] * 199]
    exact = 1e16 + 199
    assert abs(compile_graph(NUMBERS, pt.add(*NUMBERS))(*terms) - exact) <= 16.0  # one by one: 199 short


def test_priors_are_drawn_from_that_depend_on_many_terms():
    with pm.Model() as model:
        parts = [pm.Normal(f"p{i}", 0.0, 1.0) for i in range(40)]
        total = pm.Normal("total", sum(parts), 1.0)
        z = pm.Bernoulli("z", 0.5, shape=4)
        pm.Normal("y", total + z, 1.0, observed=np.array([0.1, 0.9, 1.2, -0.3]))
    fit = emppl.fit(model, starts=1, seed=0, max_iter=3)
    assert all(p.holds for p in fit.certificate.points if p.name in ("log joint", "gradient", "ascent"))


def test_a_covariance_written_entry_by_entry_is_planned():
    """Stacks within stacks whose entries are alike."""
    with pm.Model() as model:
        sd, rho = pm.HalfNormal("sd", 1.0, shape=2), pm.Uniform("rho", -1.0, 1.0)
        covariance = rho * sd[0] * sd[1]
        cov = pt.stack([pt.stack([sd[0] ** 2, covariance]), pt.stack([covariance, sd[1] ** 2])])
        z, mu = pm.Bernoulli("z", 0.5, shape=40), pm.Normal("mu", 0.0, 2.0, shape=(2, 2))
        pm.MvNormal("y", mu[z], cov=cov, observed=RNG.normal(size=(40, 2)))
    plan = emppl.plan(model)
    theta = {"sd": np.array([0.7, 1.3]), "rho": np.array(0.4), "mu": np.array([[0.0, 1.0], [2.0, -1.0]])}
    (point,) = [emppl.ascent.certificate.log_joint_agrees(plan, theta)]
    assert point.holds, point.text
