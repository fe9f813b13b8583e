"""Graphs as numpy calls give the very numbers that PyTensor's interpreter gives, node by node."""

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
import pytest
from pytensor.compile.mode import Mode
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.conditional.op import ifelse
from pytensor.graph.replace import vectorize_graph

import emppl
from emppl.compiling import compile_graph
from emppl.compiling.numpy_dispatch import linked
from emppl.models import coins, gaussian_mixture, latent_class, occupancy, zero_inflated

RNG = np.random.default_rng(2)
x, m, t3 = pt.dvector("x"), pt.dmatrix("m"), pt.dtensor3("t3")
i, b = pt.lvector("i"), pt.bvector("b")
f32 = pt.fvector("f32")
VALUES = {
    x: RNG.uniform(0.1, 1.0, 4), m: RNG.normal(size=(4, 4)), t3: RNG.normal(size=(3, 4, 4)), i: np.array([2, 0, 1, 2]),
    b: np.array([1, 0, 1, 1], dtype="int8"), f32: RNG.uniform(size=4).astype("float32"),
}  # fmt: skip
spd = pt.specify_shape(t3 @ t3.mT + 5.0 * pt.eye(4), (3, 4, 4))
GRAPHS = {
    "arithmetic": 2.0 * x + x**2 - x / 3.0 + x * x * x * x,
    "special functions": pt.gammaln(x) + pt.sigmoid(x) + pt.log1p(x) + pt.erf(x) + pt.psi(x),
    "integers": i * 3 + i // 2 + i % 2,
    "bool sums": (x > 0.5).sum() + (i > 0).astype("int8").sum(),
    "single precision": f32 * 2 + f32.sum(),
    "mixed precision": f32 + x,
    "casts": x.astype("int64") + pt.cast(i, "float32"),
    "switch": pt.switch(x > 0.5, x, -1.0),
    "softplus": pt.softplus(x[0]) + pt.softplus(pt.as_tensor([-800.0, -37.0, -3.0, 18.0, 30.0, 34.0, 800.0]) * x[1]),
    "clip": pt.clip(x, 0.2, 0.6),
    "axes": x[:, None] + m.T[None].sum(axis=0) + t3.sum(axis=(0, 2))[None, :],
    "dropped axes": m[:1].dimshuffle(1),
    "slices": m[1:, ::-1][:, :2],
    "slices that are computed": x[: i[0]],
    "elements": m[2, 1] + x[-1],
    "gathered": m[i] + m[:, i] + m[np.array([0, 1, 2, 3]), i],
    "set": pt.set_subtensor(m[1, :2], 0.0) + pt.inc_subtensor(m[i, 0], 1.0),
    "added to": pt.inc_subtensor(m[np.array([0, 2]), np.array([1, 1])], x[:2]) + pt.inc_subtensor(m[:, 1], x),
    "added to twice": pt.inc_subtensor(x[np.array([1, 1, 0])], x[:3]) + pt.inc_subtensor(x[np.array([1, -3])], x[:2]),
    "diagonals": pt.diagonal(m) + pt.diagonal(t3, axis1=1, axis2=2)[0],
    "reductions": pt.stack([m.sum(), m.max(), m.prod(), m.min(), m.mean()]),
    "any": pt.any(m > 1.0, axis=0) & pt.all(m < 2.0, axis=0),
    "joined": pt.concatenate([x, x[:2], pt.zeros(3)]),
    "filled": pt.alloc(pt.specify_shape(x, 4)[:2], i[0]) + pt.alloc(x[0], i[0]) + pt.alloc(x[1], 2),
    "shapes": pt.ones((x.shape[0], 2)) * m.shape[1],
    "reshaped": m.reshape((2, 8)) + m.reshape((2, -1)),
    "products": m @ m + pt.dot(m, x) + t3[0] @ m,
    "batched": t3 @ t3 + pt.specify_shape(t3, (3, 4, 4)) @ pt.specify_shape(m, (4, 4)),
    "softmax": pt.special.softmax(m, axis=1) + pt.special.log_softmax(x),
    "cumulative": pt.cumsum(x) + pt.sort(x),
    "linear algebra": pt.linalg.cholesky(spd) + pt.linalg.solve_triangular(pt.linalg.cholesky(spd), spd, lower=True),
    "cut into parts": pt.concatenate(
        pt.split(pt.specify_shape(m, (4, 4)) * 2.0, [1, 3], n_splits=2, axis=1)[::-1], axis=1
    ),
    "logs of zero": pt.log(x - x),
    "no factor": pt.linalg.cholesky(pt.stack([spd[0], -spd[1]]), on_error="nan"),
    "no solution": pt.linalg.solve_triangular(
        pt.stack([pt.linalg.cholesky(spd[0]), pt.zeros((4, 4))]), pt.stack([pt.eye(4), spd[0]]), lower=True
    ),
    "picked from each": vectorize_graph(pt.specify_shape(x, 4)[np.array([3, 0, 0])], {x: pt.specify_shape(m, (4, 4))}),
    "diagonals of each": vectorize_graph(pt.diag(pt.specify_shape(x, 4)), {x: pt.specify_shape(m, (4, 4))}),
}


def interpreted(function):
    """The rewritten graph of a compiled one by PyTensor's own interpreter."""
    fgraph = function.compilation.fgraph
    shared = {v for v in fgraph.inputs if isinstance(v, SharedVariable)}
    return pytensor.function(
        [v for v in fgraph.inputs if v not in shared], fgraph.outputs, mode=Mode("py", None), on_unused_input="ignore"
    )


@pytest.mark.parametrize("optimise", [True, False])
@pytest.mark.parametrize("name", GRAPHS)
def test_every_kind_of_node(name, optimise):
    function = compile_graph(list(VALUES), [GRAPHS[name]], optimise=optimise)
    assert linked(function.compilation.fgraph) is not None
    with np.errstate(all="ignore"):
        (expected,), (found,) = interpreted(function)(*VALUES.values()), function(*VALUES.values())
    assert found.dtype == expected.dtype and found.shape == expected.shape
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    "build", [coins.build, gaussian_mixture.build, latent_class.build, zero_inflated.build, occupancy.build]
)
def test_what_models_evaluate(build):
    """The terms of the E-step, and the expected log joint with its gradient."""
    plan = emppl.plan(build())
    coordinates = plan.structure.coordinates
    u = 0.3 * np.random.default_rng(0).normal(size=coordinates.size)
    theta = coordinates.constrain(u)
    posterior = plan.e_step(theta)
    plan.expected(u, posterior, plan.weights)
    tables = [r for r, table in zip(posterior.responsibilities, plan.expected.tables) if table is not None]
    for graph, arguments in (
        (plan.engine.terms, coordinates.arguments(theta)),
        (plan.expected.with_gradient._by_graph, [u, *posterior.statistics, *tables]),
    ):
        with np.errstate(all="ignore"):
            expected, found = interpreted(graph)(*arguments), graph.compilation.run(*arguments)
            for one, two in zip(expected, found, strict=True):
                np.testing.assert_array_equal(two, one)


def test_shared_data_are_read_when_asked_for():
    with pm.Model():
        data = pm.Data("data", np.arange(3.0))
    function = compile_graph([], [data * 2.0])
    np.testing.assert_array_equal(function()[0], [0.0, 2.0, 4.0])
    data.set_value(np.ones(3))
    np.testing.assert_array_equal(function()[0], [2.0, 2.0, 2.0])


@pytest.mark.parametrize("optimise", [True, False])
def test_results_are_the_callers_own(optimise):
    """As PyTensor has it: what is an input, or a constant, comes back as a copy."""
    double = 2.0 * x
    function = compile_graph([x], [x, pt.zeros(3) + 1.0, x[:2], double, double, double[:2]], optimise=optimise)
    given = np.arange(4.0)
    for k in range(6):
        results = function(given)
        results[k][...] = -1.0
        np.testing.assert_array_equal(given, np.arange(4.0))
        for other, expected in zip(results, [given, np.ones(3), given[:2], 2 * given, 2 * given, 2 * given[:2]]):
            np.testing.assert_array_equal(other, -1.0 if other is results[k] else expected)
    np.testing.assert_array_equal(function(given)[1], np.ones(3))


def test_whole_numbers_stay_whole():
    """Constants that nothing has folded: a place computed from two of them."""
    graph = x[pt.as_tensor([0, 1]) + pt.as_tensor([1, 2])] + np.array([1, 2])
    function = compile_graph([x], [graph], optimise=False)
    np.testing.assert_array_equal(function(VALUES[x])[0], VALUES[x][[1, 3]] + [1, 2])


def test_control_flow_is_left_to_pytensor():
    graph = ifelse(pt.gt(x[0], 0.5), x * 2.0, x * 3.0)
    function = compile_graph([x], [graph])
    assert linked(function.compilation.fgraph) is None
    for _ in range(2):
        np.testing.assert_array_equal(function(np.full(2, 0.1))[0], np.full(2, 0.1) * 3.0)


def test_one_output_comes_alone():
    function = compile_graph([x], x.sum())
    result = function(np.arange(4.0))
    assert np.ndim(result) == 0 and float(result) == 6.0
    assert isinstance(pytensor.function([x], x.sum())(np.arange(4.0)), type(result))
