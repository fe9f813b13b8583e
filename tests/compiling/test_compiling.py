"""Compiled graphs: what they hold, and that rewriting them changes no value."""

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from pytensor.compile.builders import OpFromGraph
from pytensor.link.c.basic import CLinker
from scipy.special import logsumexp, softmax

import emppl
from emppl.compiling import compile_graph, untraced
from emppl.models import gaussian_mixture, zero_inflated

X = np.array([[0.3, -2.0, 700.0], [1.5, 1.5, 1.5]])


@pytest.mark.parametrize("optimise", [True, False])
def test_graphs_within_graphs_are_spelled_out(optimise):
    x = pt.dmatrix("x")
    total = pt.logsumexp(x, axis=1)
    slope = pytensor.grad(total.sum(), x)
    function = compile_graph([x], [pt.special.softmax(x, axis=1), total, slope], optimise=optimise)
    assert not any(isinstance(node.op, OpFromGraph) for node in function.compilation.fgraph.apply_nodes)
    weights, value, gradient = function(X)
    np.testing.assert_allclose(weights, softmax(X, axis=1), rtol=1e-14)
    np.testing.assert_allclose(value, logsumexp(X, axis=1), rtol=1e-14)
    np.testing.assert_allclose(gradient, softmax(X, axis=1), rtol=1e-14)


def test_nodes_of_our_own_graphs_keep_no_trace():
    with untraced():
        silent = pt.exp(pt.dvector("x"))
    assert not getattr(silent.tag, "trace", [])
    assert any(pt.exp(pt.dvector("x")).tag.trace)  # those of others still do


@pytest.mark.parametrize("model", [gaussian_mixture, zero_inflated])
def test_no_compiler_is_asked(monkeypatch, model):
    """Seconds on a machine where nothing has run yet; loops and ops on batches ask for it unless they are told."""
    monkeypatch.setattr(CLinker, "make_thunk", lambda *_, **__: pytest.fail("asked for C code"))
    fit = emppl.fit(model.build(), starts=2, seed=0, progress=False)
    assert fit.certificate.holds, str(fit.certificate)
    assert len(emppl.sample(fit, draws=5, tune=5, chains=1, seed=1, progress=False)["posterior"].draw) == 5
