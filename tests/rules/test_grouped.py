"""Rows with known, differing parameters: the natural form by groups equals the enumeration of all assignments."""

import itertools

import numpy as np
import pymc as pm
import pytest
import scipy.stats as st
from scipy.special import logsumexp

import emppl

ITEM = np.array([0, 0, 0, 1, 1, 2, 2, 2, 2, 0])
RATER = np.array([0, 1, 1, 0, 1, 0, 0, 1, 1, 0])
LABEL = np.array([0, 2, 1, 1, 1, 2, 2, 0, 2, 0])
RNG = np.random.default_rng(3)
RATES = RNG.dirichlet(np.ones(3), size=(2, 2))  # [rater, class, label]
WEIGHTS = np.array([0.3, 0.7])


def raters(alpha: float = 1.5) -> pm.Model:
    with pm.Model() as model:
        weights = pm.Dirichlet("weights", np.full(2, alpha))
        rates = pm.Dirichlet("rates", np.full(3, alpha), shape=(2, 2, 3))
        kind = pm.Categorical("kind", p=weights, shape=3)
        pm.Categorical("label", p=rates[RATER, kind[ITEM]], observed=LABEL)
    return model


def by_hand(weights: np.ndarray, rates: np.ndarray) -> np.ndarray:
    """Log joint [items, classes]."""
    log_joint = np.tile(np.log(weights), (3, 1))
    for i, r, label in zip(ITEM, RATER, LABEL):
        log_joint[i] += np.log(rates[r, :, label])
    return log_joint


def test_ratings_in_long_form_equal_enumeration():
    plan = emppl.plan(raters(), estimate="ml")
    assert {b.name: b.rule for b in plan.blocks} == {"weights": "closed form", "rates": "closed form"}
    assert plan.estep.startswith("natural form, 3 independent members")
    theta, log_joint = {"weights": WEIGHTS, "rates": RATES}, by_hand(WEIGHTS, RATES)
    assert plan.log_likelihood(theta) == pytest.approx(logsumexp(log_joint, axis=1).sum(), rel=1e-12)
    r = np.exp(log_joint - logsumexp(log_joint, axis=1, keepdims=True))
    np.testing.assert_allclose(plan.responsibilities(theta)["kind"], r, atol=1e-12)


@pytest.mark.parametrize("estimate", ["ml", "map"])
def test_the_closed_form_is_the_weighted_table(estimate):
    plan = emppl.plan(raters(), estimate=estimate)
    theta, log_joint = {"weights": WEIGHTS, "rates": RATES}, by_hand(WEIGHTS, RATES)
    new = plan.m_step(theta, plan.e_step(theta))
    r = np.exp(log_joint - logsumexp(log_joint, axis=1, keepdims=True))
    table = np.full((2, 2, 3), 0.5 if estimate == "map" else 0.0)
    for i, rater, label in zip(ITEM, RATER, LABEL):
        table[rater, :, label] += r[i]
    np.testing.assert_allclose(new["rates"], table / table.sum(-1, keepdims=True), rtol=1e-12)


def test_counts_by_known_sites_equal_enumeration():
    """Poisson counts whose rate depends on a hidden state and a known season."""
    season, night, y = np.array([0, 1, 0, 1, 1, 0]), np.array([0, 0, 1, 1, 2, 2]), np.array([2, 9, 0, 4, 7, 1])
    with pm.Model() as model:
        rate = pm.Gamma("rate", np.float64(2.0), np.float64(0.5), shape=(2, 2))
        calm = pm.Bernoulli("calm", np.float64(0.4), shape=3)
        pm.Poisson("y", rate[calm[night], season], observed=y)
    plan = emppl.plan(model)
    assert [b.rule for b in plan.blocks] == ["closed form"]
    rates = np.array([[1.3, 6.0], [0.4, 3.1]])
    total = []
    for z in itertools.product((0, 1), repeat=3):
        prior = st.bernoulli.logpmf(z, 0.4).sum()
        total.append(prior + st.poisson.logpmf(y, rates[np.array(z)[night], season]).sum())
    assert plan.log_likelihood({"rate": rates}) == pytest.approx(logsumexp(total), rel=1e-12)


def test_as_many_parameters_as_rows_are_no_groups():
    """Where every row has its own known offset, nothing is gained by groups."""
    offset = np.linspace(0.1, 0.9, 40)
    with pm.Model() as model:
        shift = pm.Normal("shift", np.float64(0.0), np.float64(1.0), shape=2)
        z = pm.Bernoulli("z", np.float64(0.5), shape=40)
        pm.Bernoulli("y", logit_p=shift[z] * offset, observed=np.arange(40) % 2)
    (entry,) = [f for f in emppl.plan(model).factors if f.factor.name == "y"]
    assert entry.form is None and "different values over the rows" in entry.reason
