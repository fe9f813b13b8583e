"""Tied latents: elimination against enumeration of all joint values, and against the forward algorithm for a chain."""

import itertools
from types import SimpleNamespace

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
import pytest
from scipy.special import logsumexp

import emppl
from emppl.compiling import compile_graph, substitute
from emppl.errors import InvalidArgumentError
from emppl.estep.elimination import eliminate, program
from emppl.kernels.elimination import elimination_loop
from emppl.structure.plates import _order
from emppl.structure.types import Elimination, Plate

ONE, TWO = np.float64(1.0), np.float64(2.0)


def random_elimination(rng: np.random.Generator, scopes, supports, size: int = 3):
    """Random tables over the given scopes, and the elimination of all of their variables."""
    tables = [rng.normal(size=(size, *(supports[v] for v in scope))) for scope in scopes]
    plan = Elimination(
        tuple((t, np.arange(size)) for t in range(len(scopes))),
        tuple(scopes),
        tuple(supports),
        _order(scopes, supports),
    )
    return plan, tables


CASES = {
    "chain": (((0,), (0, 1), (1, 2), (2, 3)), (2, 3, 2, 4)),
    "star": (((0,), (0, 1), (0, 2), (0, 3), (1,), (2,)), (3, 2, 2, 5)),
    "grid": (((0, 1), (2, 3), (0, 2), (1, 3)), (2, 2, 3, 3)),
    "scopes out of order": (((2, 0), (1, 2), (0, 1)), (2, 3, 4)),
    "apart": (((0,), (1,), (1,)), (2, 3)),
    "one": (((0, 1, 2),), (2, 2, 2)),
}


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_elimination_equals_enumeration(name, hard):
    scopes, supports = CASES[name]
    plan, tables = random_elimination(np.random.default_rng(len(name)), scopes, supports)
    log_likelihood, marginals = eliminate(plan, tables, hard=hard)
    joint = list(itertools.product(*map(range, supports)))
    logs = np.array(
        [sum(t[(slice(None), *(z[v] for v in scope))] for t, scope in zip(tables, scopes)) for z in joint]
    )  # [joint values, B]
    if hard:
        np.testing.assert_allclose(log_likelihood, logs.max(axis=0), rtol=1e-13)
        p = (np.arange(len(joint))[:, None] == logs.argmax(axis=0)).astype(float)
    else:
        np.testing.assert_allclose(log_likelihood, logsumexp(logs, axis=0), rtol=1e-13)
        p = np.exp(logs - logsumexp(logs, axis=0))
    for marginal, scope in zip(marginals, scopes):
        expected = np.zeros_like(marginal)
        for z, weight in zip(joint, p):
            expected[(slice(None), *(z[v] for v in scope))] += weight
        np.testing.assert_allclose(marginal, expected, atol=1e-12)


def crossed(n: int) -> pm.Model:
    rng = np.random.default_rng(0)
    with pm.Model(coords={"person": range(n), "question": range(n)}) as model:
        right = pm.Beta("right", np.float64(5.0), ONE)
        easy = pm.Beta("easy", TWO, TWO, dims="question")
        answer = pm.Bernoulli("answer", easy, dims="question")
        belief = pm.Bernoulli("belief", np.float64(0.4), dims="person")
        agree = pt.eq(answer[None], belief[:, None])
        pm.Bernoulli("said", p=pt.switch(agree, right, 1 - right), observed=rng.integers(0, 2, (n, n)))
    return model


def hidden_chain(length: int) -> pm.Model:
    rng = np.random.default_rng(1)
    with pm.Model() as model:
        mu = pm.Normal("mu", np.float64(0.0), np.float64(5.0), shape=2)
        step = pm.Dirichlet("step", np.full(2, TWO), shape=(2, 2))
        state = pm.Categorical("state", p=np.array([0.5, 0.5]), shape=length)
        pm.Potential("moves", pt.log(step[state[:-1], state[1:]]))
        pm.Normal("y", mu[state], ONE, observed=rng.normal(size=length))
    return model


def classes_of_groups(size: int) -> pm.Model:
    """A class of each group above a latent of each member; groups of different size."""
    rng = np.random.default_rng(2)
    group = np.repeat(np.arange(2), [size, size + 1])
    with pm.Model() as model:
        kind = pm.Bernoulli("kind", np.float64(0.4), shape=2)
        q = pm.Beta("q", TWO, TWO, shape=2)
        z = pm.Bernoulli("z", q[kind[group]], shape=len(group))
        mu = pm.Normal("mu", np.array([-1.0, 1.0]), np.float64(3.0), shape=2)
        pm.Normal("y", mu[z], ONE, observed=rng.normal(size=len(group)))
    return model


@pytest.mark.parametrize(
    "build, size", [(crossed, 4), (hidden_chain, 8), (classes_of_groups, 6)], ids=["crossed", "chain", "groups"]
)
def test_models_equal_enumeration(build, size, monkeypatch):
    """Log-likelihood, gradient, responsibilities and the best joint assignment."""
    model = build(size)
    monkeypatch.setattr("emppl.structure.plates.SMALL_GROUP", 1)
    apart = emppl.plan(model)
    assert apart.structure.eliminations and all(plate.tied for plate in apart.structure.plates)
    monkeypatch.setattr("emppl.structure.plates.SMALL_GROUP", 4096)
    monkeypatch.setattr("emppl.planner.is_decomposable", lambda structure: False)
    whole = emppl.plan(model)
    assert not whole.structure.eliminations
    coordinates = apart.structure.coordinates
    u = np.random.default_rng(3).normal(size=coordinates.size)
    theta = coordinates.constrain(u)
    others = whole.structure.coordinates  # which count in widths of their own
    (value, slope, _), (value_2, slope_2, _) = apart.gradient(u), whole.gradient(others.unconstrain(theta))
    assert value == pytest.approx(value_2, rel=1e-12)
    np.testing.assert_allclose(slope / coordinates.width, slope_2 / others.width, rtol=1e-9, atol=1e-9)
    for name, p in apart.responsibilities(theta).items():
        np.testing.assert_allclose(p, whole.responsibilities(theta)[name], atol=1e-10)
        np.testing.assert_array_equal(apart.assignment(theta)[name], whole.assignment(theta)[name])


def test_a_long_chain_equals_the_forward_algorithm():
    plan = emppl.plan(hidden_chain(60))
    coordinates = plan.structure.coordinates
    theta = coordinates.constrain(np.random.default_rng(4).normal(size=coordinates.size))
    y = np.asarray(plan.structure.node("y").value.data)
    emission = -0.5 * (y[:, None] - theta["mu"]) ** 2 - 0.5 * np.log(2 * np.pi)
    forward = np.log(0.5) + emission[0]
    for t in range(1, len(y)):  # the model's potential adds the moves to independent fair states
        forward = logsumexp(forward[:, None] + np.log(theta["step"]), axis=0) + np.log(0.5) + emission[t]
    assert plan.log_likelihood(theta) == pytest.approx(float(logsumexp(forward)), rel=1e-12)


def test_fit_and_certificate_of_crossed_latents():
    fit = emppl.fit(crossed(6), seed=0, starts=4)
    assert fit.certificate.holds, str(fit.certificate)
    assert fit.assign()["belief"].shape == (6,)
    assert "tied latent elements" in fit.plan.estep


def test_labels_rule_out_values_of_tied_latents():
    plan = emppl.plan(crossed(6), labels={"belief": np.array([1, -1, 0, -1, -1, 1])})
    theta = plan.structure.coordinates.constrain(np.zeros(plan.structure.coordinates.size))
    np.testing.assert_allclose(plan.responsibilities(theta)["belief"][[0, 2, 5]], [[0, 1], [1, 0], [0, 1]], atol=1e-12)
    np.testing.assert_array_equal(plan.assignment(theta)["belief"][[0, 2, 5]], [1, 0, 1])


def test_weights_of_single_members_are_refused():
    with pytest.raises(InvalidArgumentError, match="tied to each other"):
        emppl.plan(classes_of_groups(10), obs_weights=np.ones(21))


@pytest.mark.parametrize("name", CASES)
def test_the_samplers_loop_is_the_same_elimination(name):
    """Log-likelihood and probabilities of every entry, by the compiled loop over index arrays."""
    scopes, supports = CASES[name]
    plan, tables = random_elimination(np.random.default_rng(len(name)), scopes, supports)
    plates = [
        Plate(
            tuple(f"z{v}" for v in scope),
            np.zeros((plan.size, len(scope)), int),
            np.zeros((int(np.prod([supports[v] for v in scope])), len(scope)), int),
            tied=True,
        )
        for scope in scopes
    ]
    arrays = program(SimpleNamespace(plates=plates, eliminations=(plan,)))
    leaves = np.concatenate([t.ravel() for t in tables])
    value, weights = elimination_loop()(
        leaves, *(arrays[k] for k in ("steps", "sources", "outputs", "roots", "entries"))
    )
    log_likelihood, marginals = eliminate(plan, tables)
    assert float(value) == pytest.approx(log_likelihood.sum(), rel=1e-13)
    np.testing.assert_allclose(weights, np.concatenate([m.ravel() for m in marginals]), atol=1e-13)


def test_the_samplers_density_is_the_models():
    """The Op inside the model that NUTS sees: value and gradient against the E-step."""
    plan = emppl.plan(crossed(5))
    coordinates = plan.structure.coordinates
    u = np.random.default_rng(6).normal(size=coordinates.size)
    graph = plan.engine.log_likelihood(plan.expected.etas, plan.expected.tables)
    (value,) = substitute([graph], dict(zip(coordinates.values, coordinates.graphs.values())))
    gradient = pytensor.grad(value, coordinates.vector)
    found, slope = compile_graph([coordinates.vector], [value, gradient])(coordinates.raw(u))
    slope = slope * coordinates.width
    theta = coordinates.constrain(u)
    assert float(found) == pytest.approx(plan.log_likelihood(theta), rel=1e-12)
    ml = emppl.plan(crossed(5), estimate="ml")
    np.testing.assert_allclose(slope, ml.gradient(u)[1], atol=1e-10)
