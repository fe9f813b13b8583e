"""Linear predictors are found by values, but not where values look straight only for a while."""

import numpy as np
import pymc as pm
import pytensor.tensor as pt
import pytest
import small_models

import emppl
from emppl.compiling import compile_graph
from emppl.structure.predictor_graph import predictors

ZERO, ONE, TWO, FAR = np.float64(0.0), np.float64(1.0), np.float64(2.0), np.float64(40.0)
x = np.random.default_rng(3).normal(size=(6, 2))
y = np.random.default_rng(4).normal(size=6)
KINKS = {  # FAR is as many standard deviations from the start: no few values near it see the kink
    "abs": lambda h: pt.abs(h + FAR),
    "maximum": lambda h: pt.maximum(h, -FAR),
    "clip": lambda h: pt.clip(h, -FAR, FAR),
    "switch": lambda h: pt.switch(pt.gt(h, -FAR), h, h**2),
    "of a stack": lambda h: pt.max(pt.stack([h, h - FAR]), axis=0),
    "sorted": lambda h: pt.sort(pt.stack([h, h - FAR]), axis=0)[1],
    "greater": lambda h: h + pt.cast(pt.gt(h, FAR), "float64") * h,
}


def regressions(written) -> pm.Model:
    with pm.Model() as model:
        beta = pm.Normal("beta", ZERO, ONE, shape=(2, 2))
        z = pm.Bernoulli("z", p=np.float64(0.4), shape=6)
        pm.Logistic("y", written((x * beta[z]).sum(axis=-1)), ONE, observed=y)
    return model


def laplace() -> pm.Model:
    """All observations on one side of whatever mean the prior offers."""
    with pm.Model() as model:
        mu = pm.Normal("mu", ZERO, np.float64(20.0), shape=2)
        z = pm.Bernoulli("z", p=np.float64(0.4), shape=3)
        pm.Laplace("y", mu[z], ONE, observed=np.full(3, 12.0) + np.arange(3))
    return model


def skills() -> pm.Model:
    """Each answer of the only pupil: `guess` counts in some configurations alone, which a few draws may all miss."""
    with pm.Model() as model:
        guess = pm.Normal("guess", ZERO, ONE, shape=3)
        skill = pm.Bernoulli("skill", p=np.float64(0.5), shape=(1, 2))
        able = pt.prod(skill[:, None, :] ** np.array([[1, 0], [0, 1], [1, 1]])[None], axis=-1)
        p = pt.switch(pt.eq(able, 1), np.float64(0.9), pm.math.sigmoid(guess))
        pm.Bernoulli("y", p=p, observed=np.zeros((1, 3), int))
    return model


def checked(model: pm.Model, name: str) -> int:
    """The number of predictors found, each of which must be affine as far out as numbers go, under every assignment."""
    structure = emppl.analyse(model)
    factor = next(f for f in structure.factors if f.name == "y")
    found = predictors(structure, factor, [name], structure.plates[0])
    values = [*structure.coordinates.values, *[node.value for node in structure.latents]]
    function = compile_graph(values, list(found))
    (latent,) = structure.latents
    rng = np.random.default_rng(5)
    for scale in (1.0, 1e3):
        coefficients = scale * rng.normal(size=structure.node(name).shape)
        for _ in range(8):
            z = rng.choice(latent.support, size=latent.shape).astype(latent.value.dtype)
            at = [function(*structure.coordinates.arguments({name: t * coefficients}), z) for t in (0.0, 1.0, -1.0)]
            for origin, there, back in zip(*at):
                np.testing.assert_allclose(there - origin, origin - back, atol=1e-9 * scale)
    return len(found)


@pytest.mark.parametrize("kind", KINKS)
def test_nothing_beyond_a_kink_is_a_predictor(kind):
    assert checked(regressions(KINKS[kind]), "beta") >= 1


def test_a_link_is_still_looked_through():
    assert checked(regressions(lambda h: pt.exp(pt.tanh(h))), "beta") == 1


def test_one_side_of_an_absolute_value():
    assert checked(laplace(), "mu") == 1


def test_coefficients_that_count_in_some_configurations_alone():
    assert checked(skills(), "guess") == 1


@pytest.mark.parametrize(
    "build", [laplace, skills, lambda: regressions(KINKS["abs"])], ids=["laplace", "skills", "abs"]
)
def test_no_m_step_lowers_the_expected_log_joint(build):
    plan = emppl.plan(build(), estep="graph")
    for theta in small_models.points(plan, count=3):
        for _ in range(5):
            posterior, before = plan.e_step(theta, keep=True), theta
            theta = plan.m_step(theta, posterior)
            u = [plan.structure.coordinates.unconstrain(t) for t in (before, theta)]
            q = [plan.expected(v, posterior, plan.weights)[0] for v in u]
            assert q[1] >= q[0] - 1e-12 * abs(q[0])
