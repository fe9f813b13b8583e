"""A covariance L L' is taken by its factor where L is triangular, and only there; the natural form stays the same."""

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
import pytest

import emppl
from emppl.rules.continuous import _mv_frame, _mv_into_frame, _mv_natural, _mv_natural_of_factor
from emppl.rules.factors import triangular_factor

RNG = np.random.default_rng(3)
packed = pt.dmatrix("packed", shape=(3, 3))
full = pt.dtensor3("full", shape=(3, 2, 2))
PACKED, FULL = RNG.uniform(0.5, 2.0, size=(3, 3)), RNG.normal(size=(3, 2, 2))
LOWER = pt.stack([pt.zeros((2, 2))[np.tril_indices(2)].set(packed[k]) for k in range(3)])
PRODUCT = LOWER @ LOWER.mT

WRITTEN = {
    "product": (PRODUCT, LOWER),
    "picked": (PRODUCT[[2, 0, 0]], LOWER[[2, 0, 0]]),
    "one of them": (PRODUCT[1], LOWER[1]),
    "repeated": (pt.alloc(PRODUCT[0], 3, 2, 2), pt.alloc(LOWER[0], 3, 2, 2)),
    "arranged": (PRODUCT.reshape((3, 1, 2, 2)), LOWER.reshape((3, 1, 2, 2))),
    "stacked": (pt.stack([LOWER[k] @ LOWER[k].T for k in range(3)]), LOWER),
    "written twice": (LOWER[[0, 1]] @ LOWER[[0, 1]].mT, LOWER[[0, 1]]),
}
OTHERS = {
    "not triangular": full @ full.mT,
    "two factors": LOWER @ (2.0 * LOWER).mT,
    "something added": PRODUCT + pt.eye(2),
    "a submatrix": PRODUCT[:, :1, :1],
    "entries moved": PRODUCT[:, ::-1, ::-1],
    "matrices torn apart": pt.concatenate([PRODUCT, PRODUCT], axis=2).reshape((6, 2, 2)),
    "no graph": pt.constant(np.eye(2)),
}


def evaluate(graph):
    function = pytensor.function([packed, full], graph, mode="FAST_COMPILE", on_unused_input="ignore")
    return [function(PACKED, FULL), function(PACKED[::-1], FULL)]


@pytest.mark.parametrize("name", WRITTEN)
def test_factors_are_found(name):
    cov, expected = WRITTEN[name]
    factor = triangular_factor(cov, evaluate)
    np.testing.assert_array_equal(evaluate(factor)[0], evaluate(expected)[0])


@pytest.mark.parametrize("name", OTHERS)
def test_other_covariances_have_none(name):
    assert triangular_factor(OTHERS[name], evaluate) is None


def test_the_natural_form_is_the_same():
    """Against that of the covariance, in a frame that turns, stretches and moves; a factor may have negative signs."""
    frame = _mv_frame(RNG.normal(size=(50, 2)) @ np.array([[3.0, 1.0], [0.0, 0.1]]) + 20.0)
    mu, signs = pt.constant(RNG.normal(size=(3, 2)) + 20.0), np.array([1.0, -1.0])
    by_factor = _mv_natural_of_factor(frame, mu, LOWER * signs)
    by_covariance = _mv_natural(*_mv_into_frame(frame, mu, PRODUCT))
    for one, two in zip(evaluate(by_factor), evaluate(by_covariance)):
        np.testing.assert_allclose(one, two, rtol=1e-9, atol=1e-9 * np.abs(two).max())


@pytest.mark.parametrize("how", ["chol", "cov"])
def test_a_mixture_by_factors_needs_no_cholesky_factor(how):
    """And its log-likelihood is the model's own."""
    y = RNG.normal(size=(30, 2)) @ np.array([[2.0, 1.9], [0.0, 0.3]]) + 100.0
    with pm.Model() as model:
        z = pm.Categorical("z", p=np.full(2, 0.5), shape=30)
        mu = pm.Normal("mu", 100.0, 9.0, shape=(2, 2))
        factors = [pm.LKJCholeskyCov(f"f{k}", n=2, eta=2.0, sd_dist=pm.Exponential.dist(1.0), store_in_trace=False)[0]
                   for k in range(2)]  # fmt: skip
        given = {"chol": pt.stack(factors)[z]} if how == "chol" else {"cov": pt.stack([f @ f.T for f in factors])[z]}
        pm.MvNormal("y", mu[z], observed=y, **given)
    plan = emppl.plan(model)
    nodes = plan.engine.terms.compilation.fgraph.apply_nodes
    assert not any("Cholesky" in str(node.op) for node in nodes)
    fit = emppl.fit(plan, starts=2, seed=0)
    log_joint = [point for point in fit.certificate.points if point.name == "log joint"]
    assert log_joint and log_joint[0].holds
