"""What was compiled of a graph serves all that have the same graph, and nobody else."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest

import emppl
from emppl.compiling import compile_graph, reuse
from emppl.models import gaussian_mixture


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch):
    monkeypatch.setattr(reuse, "_kept", type(reuse._kept)())


NUMBERS = np.array(3.0), np.array(1.0)


def graph(constant, name="x"):
    x = pt.dvector(name)
    return [x], pt.exp(x) * pt.constant(constant) + x.sum()


def test_the_same_graph_is_compiled_once():
    one, other = (compile_graph(*graph(np.array([1.0, 2.0]), name)) for name in ("x", "y"))
    assert one.compilation is other.compilation
    assert compile_graph(*graph(np.array([1.0, 2.0])), optimise=False).compilation is not one.compilation


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (np.array([1.0, 2.0]), np.array([1.0, np.nextafter(2.0, 3.0)])),
        (np.array([0.0, 1.0]), np.array([-0.0, 1.0])),
        (np.array([1.0, 3.0]), np.array([3.0, 1.0])),
        (np.array([1.0, 2.0]), np.array([1.0, 2.0], dtype=np.float32)),
        (np.array([1, 2]), np.array([1.0, 2.0])),
        (np.array([1.0]), np.array([1.0, 1.0])),
        (np.array([np.nan, 1.0]), np.array([np.nan, 2.0])),
    ],
)
def test_constants_are_compared_to_the_last_bit(first, second):
    one, other = (compile_graph(*graph(constant)) for constant in (first, second))
    assert one.compilation is not other.compilation
    x = np.array([0.3, -0.7]) if len(second) == 2 else np.array([0.3])
    np.testing.assert_array_equal(other(x), np.exp(x) * second + x.sum())


def test_the_order_of_inputs_and_one_output_beside_a_list_tell_graphs_apart():
    x, y = pt.dscalar("x"), pt.dscalar("y")
    assert float(compile_graph([x, y], x - y)(*NUMBERS)) == 2.0
    assert float(compile_graph([y, x], x - y)(*NUMBERS)) == -2.0
    (answer,) = compile_graph([x, y], [x - y])(*NUMBERS)
    assert float(answer) == 2.0


def test_what_holds_storage_is_never_shared():
    """A shared variable is what its owner sets it to."""
    held = [pytensor.shared(np.array([1.0, 2.0]), "data") for _ in range(2)]
    functions = [compile_graph([], 2.0 * data) for data in held]
    held[0].set_value(np.array([5.0, 6.0]))
    np.testing.assert_array_equal(functions[0](), [10.0, 12.0])
    np.testing.assert_array_equal(functions[1](), [2.0, 4.0])
    assert not reuse._kept


def test_no_more_is_kept_than_said(monkeypatch):
    monkeypatch.setattr(reuse, "MOST", 3)
    for k in range(5):
        compile_graph(*graph(np.array([float(k)])))
    assert len(reuse._kept) == 3
    kept = list(reuse._kept)
    compile_graph(*graph(np.zeros(reuse.LARGEST + 1)))  # too large to be kept
    assert list(reuse._kept) == kept


def other_data():
    return gaussian_mixture.build({"y": np.random.default_rng(4).normal(size=60)}, k=2)


def test_a_fit_has_the_same_digits_whatever_was_compiled_before():
    fresh = emppl.fit(other_data(), seed=1, starts=3)
    reuse._kept.clear()
    emppl.fit(gaussian_mixture.build({"y": np.random.default_rng(5).normal(size=40)}, k=2), seed=2, starts=2)
    emppl.fit(other_data(), estimate="ml", seed=3, starts=2)
    after = emppl.fit(other_data(), seed=1, starts=3)
    assert fresh.log_posterior == after.log_posterior
    for name, value in fresh.point.items():
        np.testing.assert_array_equal(after.point[name], value)


def test_a_second_plan_of_a_model_rewrites_little(monkeypatch):
    rewriter = emppl.compiling._rewritten().optimizer
    calls, rewrite = [], rewriter.rewrite
    monkeypatch.setattr(rewriter, "rewrite", lambda fgraph: calls.append(1) or rewrite(fgraph))
    counts = []
    for _ in range(2):
        calls.clear()
        emppl.plan(other_data())
        counts.append(len(calls))
    assert counts[1] <= counts[0] // 4


def test_threads_compile_one_graph_once_and_get_their_own_answers():
    x = pt.dmatrix("x")
    factor = pt.linalg.cholesky(x @ x.T + np.eye(3))

    def ask(k: int) -> np.ndarray:
        function = compile_graph([x], factor)
        given = np.full((3, 3), float(k)) + np.eye(3)
        return np.array([function(given) for _ in range(20)]) - np.linalg.cholesky(given @ given.T + np.eye(3))

    with ThreadPoolExecutor(8) as pool:
        wrong = np.array(list(pool.map(ask, range(40))))
    assert np.abs(wrong).max() < 1e-12
    assert len(reuse._kept) == 1
