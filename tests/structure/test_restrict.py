"""Rows that a graph does not tell apart: proved by comparing what it reads of them, in all rows and not in a few."""

import warnings

import numpy as np
import pymc as pm
import pytest
import small_models
from pymc.exceptions import ImputationWarning

import emppl
from emppl.errors import InvalidDataError
from emppl.rules import natural

N, ODD = 700, 613
ONE = np.float64(1.0)


def proved(monkeypatch, plan):
    """The plan with every natural form proved that can be, and how often a proof was asked for and held."""
    found, alike = [], natural.Restriction.is_alike

    def counted(self, members):
        found.append(alike(self, members))
        return found[-1]

    with monkeypatch.context() as patched:
        patched.setattr(natural, "PROVED", 0)
        patched.setattr(natural.Restriction, "is_alike", counted)
        return plan(), found


def same_plans(one, two):
    assert [(f.factor.name, f.engine, f.reason, f.columns) for f in one.factors] == [
        (f.factor.name, f.engine, f.reason, f.columns) for f in two.factors
    ]
    assert [(b.name, b.rule) for b in one.blocks] == [(b.name, b.rule) for b in two.blocks]
    for theta in small_models.points(one, count=2):
        a, b = one.e_step(theta), two.e_step(theta)
        assert a.log_likelihood == pytest.approx(b.log_likelihood, rel=1e-13, abs=1e-11)
        for s, t in zip(a.statistics, b.statistics):
            np.testing.assert_allclose(s, t, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", small_models.MODELS)
def test_a_plan_that_was_proved_is_the_plan_by_values(name, monkeypatch):
    case = small_models.model(name)
    by_proof, _ = proved(monkeypatch, lambda: emppl.plan(case.model, **case.options))
    same_plans(small_models.plan(name), by_proof)


def rows(odd, where, n=N):
    """A mixture of which one number beside the rows differs in one row, where `odd`."""
    rng = np.random.default_rng(3)
    known = np.full(n, 2.0)
    known[ODD] += odd
    index = np.zeros(n, dtype=int)
    index[ODD] = int(odd != 0)
    with pm.Model() as model:
        w = pm.Dirichlet("w", np.full(2, 2.0))
        mu = pm.Normal("mu", np.float64(0.0), np.float64(5.0), shape=(2, 2))
        z = pm.Categorical("z", p=w, shape=n)
        if where == "covariate":
            pm.Normal("y", mu[z, 0] + mu[0, 1] * known, ONE, observed=rng.normal(size=n))
        elif where == "index":
            pm.Normal("y", mu[z, index], ONE, observed=rng.normal(size=n))
        elif where == "exposure":
            pm.Poisson("y", known * pm.math.exp(mu[z, 0]), observed=rng.poisson(2.0, n))
        elif where == "spread":
            pm.Normal("y", mu[z, 0], known, observed=rng.normal(size=n))
        elif where == "prior":
            p = np.full((n, 2), 0.5)
            p[ODD, 0] += 0.1 * odd
            v = pm.Categorical("v", p=np.stack([p[:, 0], 1.0 - p[:, 0]], axis=1), shape=n)
            pm.Normal("y", mu[z, 0] + mu[v, 1], ONE, observed=rng.normal(size=n))
        else:
            pm.Normal("y", mu[z, 0], ONE, observed=rng.normal(size=n))
            pm.Potential("odd", z * known * mu[1, 1])
    return model


@pytest.mark.parametrize("where", ["covariate", "index", "exposure", "spread", "prior", "potential"])
def test_one_odd_row_among_many_is_found(where, monkeypatch):
    """Such a plan is that of all rows by values; rows that are all alike are proved to be."""
    odd = rows(0.5, where)
    by_proof, found = proved(monkeypatch, lambda: emppl.plan(odd))
    assert not all(found)
    same_plans(emppl.plan(odd), by_proof)
    even = rows(0.0, where)
    by_proof, found = proved(monkeypatch, lambda: emppl.plan(even))
    assert any(found)
    same_plans(emppl.plan(even), by_proof)


def with_row(value):
    y = np.random.default_rng(0).normal(size=N)
    y[ODD] = value
    with pm.Model() as model, warnings.catch_warnings():
        warnings.simplefilter("ignore", ImputationWarning)
        mu = pm.Normal("mu", np.float64(0.0), np.float64(5.0), shape=2)
        z = pm.Bernoulli("z", np.float64(0.4), shape=N)
        pm.Normal("y", mu[z], ONE, observed=y)
    return model


def test_one_row_that_is_infinite_is_named(monkeypatch):
    monkeypatch.setattr(natural, "PROVED", 0)
    with pytest.raises(InvalidDataError, match=str(ODD)):
        emppl.plan(with_row(np.inf))


def test_one_row_that_is_missing_is_left_out(monkeypatch):
    model = with_row(np.nan)
    by_proof, found = proved(monkeypatch, lambda: emppl.plan(model))
    assert any(found)
    same_plans(emppl.plan(model), by_proof)


def test_known_states_of_a_few_rows_count(monkeypatch):
    labels = np.full(N, -1)
    labels[[5, ODD]] = 1, 0
    model = rows(0.0, "plain")
    by_proof, found = proved(monkeypatch, lambda: emppl.plan(model, labels={"z": labels}))
    assert any(found)
    same_plans(emppl.plan(model, labels={"z": labels}), by_proof)
