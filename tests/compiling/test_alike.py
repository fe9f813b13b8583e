"""Branches of a graph that are alike are computed once for all, and give what each gave alone."""

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
import pytest
import small_models
from pytensor.graph.traversal import ancestors

import emppl
from emppl.compiling import compile_graph
from emppl.compiling.alike import FEW, computed_together
from emppl.models import gaussian_mixture

RNG = np.random.default_rng(5)
v = pt.dvector("v", shape=(6,))
a, b, c, d = (pt.dmatrix(n, shape=(3, 3)) for n in "abcd")
long = pt.dvector("long", shape=(FEW + 1,))
INPUTS = [v, a, b, c, d, long]
VALUES = [RNG.uniform(0.1, 1.0, (6,)), *RNG.normal(size=(4, 3, 3)), RNG.normal(size=FEW + 1)]
LOWER = np.tril_indices(3)


def unpacked(packed):
    return pt.zeros((3, 3))[LOWER].set(packed)


def log_density(value, sd):
    return pm.logp(pm.Normal.dist(0.0, sd), value)


GRAPHS = {
    "matrices": pt.stack([m @ m.T + pt.eye(3) for m in (a, b, c)]),
    "along another axis": pt.stack([pt.exp(m).sum(axis=0) for m in (a, b, c)], axis=1),
    "numbers": pt.stack([pt.log(v[k]) * 2.0 for k in range(5)]),
    "constants of their own": pt.stack([pt.sqrt(v[:3] * f + f) for f in (1.0, 2.5, 0.5)]),
    "linear algebra": pt.stack([pt.linalg.cholesky(m @ m.T + pt.eye(3)).sum(axis=0) for m in (a, b, c)]),
    "two kinds in turn": pt.stack([pt.exp(a), pt.sqrt(b**2), pt.exp(c), pt.sqrt(d**2), pt.exp(d)]),
    "one that stands alone": pt.stack([pt.exp(a), pt.exp(b), c @ d, pt.exp(d)]),
    "nested": pt.stack([pt.stack([pt.exp(m[k]).sum() for k in range(3)]).prod() for m in (a, b)]),
    "the same twice": pt.stack([pt.exp(a), pt.exp(a), pt.exp(b)]),
    "one where others are two": pt.stack([pt.exp(a) @ pt.exp(a), pt.exp(b) @ pt.exp(c), pt.exp(d) @ pt.exp(d)]),
    "other outputs": pt.stack([pt.linalg.svd(a)[0], pt.linalg.svd(b)[2], pt.linalg.svd(c)[0]]),
    "shared among them": pt.stack([(a @ m).sum() + v.sum() for m in (b, c, d)]),
    "unpacked": pt.stack([unpacked(v) * f for f in (1.0, 3.0)] + [unpacked(v[::-1])]),
    "added to": pt.stack([v[:3][np.array([0, 0, 2])].inc(m[0]) for m in (a, b, c)]),
    "exponents": pt.stack([v**k for k in (2, 3, 4)]),
    "some rows of each": pt.stack([m[:k].sum() for m, k in ((a, 1), (b, 2), (c, 3))]),
    "long ones": pt.stack([(long * f).sum() for f in (1.0, 2.0)]),
    "densities": pt.stack([log_density(v[k], v[k + 1] - 0.5) for k in range(5)]),
}


def nodes(graphs):
    return len({x.owner for x in ancestors(graphs) if x.owner is not None})


def evaluated(graph):
    function = pytensor.function(INPUTS, graph, mode="FAST_COMPILE", on_unused_input="ignore")
    with np.errstate(all="ignore"):
        return function(*VALUES)


@pytest.mark.parametrize("name", GRAPHS)
def test_the_numbers_stay(name):
    graph = GRAPHS[name]
    before, size = None, nodes([graph])
    (together,) = computed_together([graph])
    if name != "densities":  # whose check raises an error where it is not rewritten
        before = evaluated(graph)
        np.testing.assert_allclose(evaluated(together), before, rtol=1e-14, atol=1e-14)
    assert together.type.dtype == graph.type.dtype and together.type.ndim == graph.type.ndim
    assert nodes([graph]) == size  # the given graph is left as it was


@pytest.mark.parametrize("name", ["matrices", "numbers", "linear algebra", "two kinds in turn", "shared among them"])
def test_gradients_stay(name):
    graph = GRAPHS[name]
    (together,) = computed_together([graph])
    weights = RNG.normal(size=graph.eval(dict(zip(INPUTS, VALUES)), on_unused_input="ignore").shape)
    for x in (v, a, b):
        before, after = (pytensor.grad((weights * g).sum(), x, disconnected_inputs="ignore") for g in (graph, together))
        np.testing.assert_allclose(evaluated(after), evaluated(before), rtol=1e-12, atol=1e-13)


def test_a_parameter_that_fails_its_check_says_nothing_of_the_others():
    sds = VALUES[0][1:] - 0.5
    expected = [-np.inf if s <= 0 else -0.5 * (x / s) ** 2 - np.log(s) - 0.5 * np.log(2 * np.pi)
                for x, s in zip(VALUES[0], sds)]  # fmt: skip
    assert np.isneginf(expected).any() and np.isfinite(expected).any()
    assert nodes(computed_together([GRAPHS["densities"]])) < nodes([GRAPHS["densities"]]) / 2
    function = compile_graph(INPUTS, GRAPHS["densities"])
    with np.errstate(all="ignore"):
        np.testing.assert_allclose(function(*VALUES), expected, rtol=1e-13)


def test_their_number_no_longer_counts():
    def size(k):
        parameters = [pt.dvector(f"p{i}", shape=(6,)) for i in range(k)]
        graph = pt.stack([unpacked(p) @ unpacked(p).T for p in parameters])
        return nodes(computed_together([graph])) - k  # each is still stacked itself

    assert size(3) == size(12)


def test_what_is_long_is_left_apart():
    graph = GRAPHS["long ones"]
    assert nodes(computed_together([graph])) == nodes([graph])


def by_factors():
    """Covariances by factors, each with a prior of its own."""
    with pm.Model() as model:
        z = pm.Categorical("z", p=pm.Dirichlet("w", np.ones(3)), shape=20)
        mu = pm.Normal("mu", 0.0, 3.0, shape=(3, 2))
        factors = [pm.LKJCholeskyCov(f"factor_{k}", n=2, eta=2.0, sd_dist=pm.Exponential.dist(1.0),
                                     store_in_trace=False)[0] for k in range(3)]  # fmt: skip
        pm.MvNormal("y", mu[z], chol=pt.stack(factors)[z], observed=RNG.normal(size=(20, 2)))
    return model


@pytest.mark.parametrize("name", ["factors", "gaussian_full", "unlike_components", "heavy_tails", "gated"])
def test_models_mean_what_they_meant(name, monkeypatch):
    """Objective, expected log joint and its gradient, with and without."""
    model = by_factors() if name == "factors" else small_models.model(name).model
    options = {} if name == "factors" else small_models.model(name).options
    plan = emppl.plan(model, **options)
    u = 0.3 * np.random.default_rng(0).normal(size=plan.structure.coordinates.size)

    def seen(plan):
        posterior = plan.e_step(plan.structure.coordinates.constrain(u), keep=True)
        value, gradient = plan.expected(u, posterior, plan.weights)
        return posterior.objective, value, gradient

    together = seen(plan)
    monkeypatch.setattr("emppl.compiling.computed_together", list)
    monkeypatch.setattr("emppl.mstep.autodiff.computed_together", list)
    for one, two in zip(together, seen(emppl.plan(model, **options))):
        np.testing.assert_allclose(one, two, rtol=1e-10, atol=1e-10 * np.abs(two).max())


def test_components_written_one_by_one_cost_as_one():
    """The terms of a mixture with a covariance for each component."""
    sizes = []
    for k in (2, 6):
        plan = emppl.plan(gaussian_mixture.build(k=k))
        sizes.append(len(plan.engine.terms.function.maker.fgraph.apply_nodes))
    assert sizes[1] - sizes[0] == 4  # one ExpandDims for each further component
