"""Few distinct rows: which one it is, is a statistic of any density, and of nothing less than every number in it."""

import numpy as np
import pymc as pm
import pytensor.tensor as pt
import pytest

import emppl
from emppl.compiling import compile_graph
from emppl.errors import UnsupportedModelError
from emppl.estep.tables import factor_table
from emppl.rules.distinct import distinct_form
from emppl.rules.natural import Deriver, Refused

N = 240


def overdispersed(rng):
    """Negative binomial of unknown alpha, with a covariate of two levels and components that differ in both."""
    z = pm.Bernoulli("z", np.float64(0.4), shape=N)
    level = np.arange(N) % 2
    mu = pm.Exponential("mu", np.float64(0.2), shape=(2, 2))
    alpha = pm.Exponential("alpha", np.float64(0.5), shape=2)
    pm.NegativeBinomial("y", mu=mu[z, level], alpha=alpha[z], observed=rng.poisson(1.0 + 2.0 * level))


def zero_inflated(rng):
    psi = pm.Beta("psi", np.float64(2.0), np.float64(2.0))
    mu = pm.Exponential("mu", np.float64(0.2))
    pm.ZeroInflatedPoisson("y", psi, mu, observed=rng.poisson(2.0, N) * rng.integers(0, 2, N))


def hurdle(rng):
    psi = pm.Beta("psi", np.float64(2.0), np.float64(2.0))
    mu = pm.Exponential("mu", np.float64(0.2))
    pm.HurdlePoisson("y", psi, mu, observed=rng.poisson(2.0, N) * rng.integers(0, 2, N))


def pairs(rng):
    """Two answers a member, each a row of two slots."""
    z = pm.Bernoulli("z", np.float64(0.4), shape=N)
    a = pm.Exponential("a", np.float64(0.5), shape=(2, 2))
    pm.BetaBinomial("y", n=2, alpha=a[z], beta=np.float64(1.5), observed=rng.integers(0, 3, (N, 2)))


def bent(rng):
    """Rows left of the knot are alike in value at any one knot, but not in truth."""
    z = pm.Bernoulli("z", np.float64(0.4), shape=N)
    x = np.arange(N) % 4
    knot = pm.Uniform("knot", np.float64(2.0), np.float64(3.0))
    alpha = pm.Exponential("alpha", np.float64(0.5), shape=2)
    pm.NegativeBinomial("y", mu=1.0 + pt.maximum(x - knot, 0.0), alpha=alpha[z], observed=rng.integers(0, 3, N))


def slots_of_a_member(rng):
    """Rows that read another latent of their member are not the same row."""
    z = pm.Bernoulli("z", np.float64(0.4), shape=(N // 4, 2))
    alpha = pm.Exponential("alpha", np.float64(0.5), shape=2)
    member, which = np.arange(N) // 4, np.arange(N) // 2 % 2
    both = z[:, 0] + z[:, 1]
    pm.NegativeBinomial("sum", mu=np.float64(2.0), alpha=alpha[both // 2], observed=rng.integers(0, 2, N // 4))
    pm.NegativeBinomial("y", mu=np.float64(2.0), alpha=alpha[z[member, which]], observed=rng.integers(0, 2, N))


MODELS = {
    overdispersed: None, zero_inflated: None, hurdle: None, pairs: 9, bent: 12, slots_of_a_member: 4,
}  # fmt: skip


@pytest.mark.parametrize("build", MODELS, ids=lambda build: build.__name__)
def test_it_is_the_density_of_every_row(build):
    with pm.Model() as model:
        build(np.random.default_rng(0))
    plan = emppl.plan(model)
    structure = plan.structure
    entry = next(entry for entry in plan.factors if entry.factor.name == "y")
    assert entry.form is not None and entry.form.family is None
    if MODELS[build] is not None:
        assert entry.form.features.shape[1] == MODELS[build]
    table = factor_table(structure, entry.factor, structure.plates[entry.plate])
    function = compile_graph(structure.coordinates.values, [entry.form.eta, table])
    rng = np.random.default_rng(1)
    for _ in range(3):
        theta = structure.coordinates.constrain(rng.normal(scale=0.7, size=structure.coordinates.size))
        eta, exact = function(*structure.coordinates.arguments(theta))
        found = np.where(np.isneginf(eta), -1e300, eta) @ np.asarray(entry.form.features).T
        np.testing.assert_allclose(np.where(found < -1e290, -np.inf, found), exact, rtol=1e-10, atol=1e-10)


def test_it_reaches_what_the_graph_reaches():
    with pm.Model() as model:
        zero_inflated(np.random.default_rng(0))
    assert "natural form" in emppl.plan(model).estep and "graph" in emppl.plan(model, estep="graph").estep
    fast, slow = (emppl.fit(model, starts=2, seed=0, estep=estep) for estep in ("auto", "graph"))
    assert fast.certificate.holds
    assert fast.log_posterior == pytest.approx(slow.log_posterior, abs=1e-8)
    with pytest.raises(UnsupportedModelError, match="natural form"):
        fast.score({"y": np.array([0, 1])})  # a new row may be of a kind that was never seen


def test_without_a_latent():
    rng = np.random.default_rng(0)
    with pm.Model() as model:
        mu, alpha = pm.Exponential("mu", np.float64(0.2)), pm.Exponential("alpha", np.float64(0.5))
        pm.NegativeBinomial("y", mu=mu, alpha=alpha, observed=rng.negative_binomial(2.0, 0.4, N))
    plan = emppl.plan(model)
    (entry,) = plan.factors
    assert entry.form.features.shape[0] == 1 and np.asarray(entry.form.features).sum() == N
    point = {"mu": np.array(1.3), "alpha": np.array(0.8)}
    assert plan.log_likelihood(point) == pytest.approx(emppl.plan(model, estep="graph").log_likelihood(point))


def test_the_plan_says_why():
    with pm.Model() as model:
        overdispersed(np.random.default_rng(0))
    assert "its alpha is free: NegativeBinomial is no exponential family in it → natural form over its" in str(
        emppl.plan(model)
    )


@pytest.mark.parametrize("reason", ["more than 60 distinct rows", "a parameter varies over its rows"])
def test_refusals(reason):
    rng = np.random.default_rng(0)
    with pm.Model() as model:
        z = pm.Bernoulli("z", np.float64(0.4), shape=N)
        nu = pm.Exponential("nu", np.float64(0.1), shape=N if "parameter" in reason else 2)
        y = rng.integers(0, 3, N) if "parameter" in reason else rng.normal(size=N)
        pm.StudentT("y", nu=nu * (1 + z) if "parameter" in reason else nu[z], mu=np.float64(0.0), observed=y)
    structure = emppl.analyse(model)
    factor = next(factor for factor in structure.factors if factor.name == "y")
    with pytest.raises(Refused, match=reason):
        distinct_form(Deriver(structure), factor, structure.plates[0])
