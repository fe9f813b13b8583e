"""Matrices of a batch all at once, against PyTensor's own loop over them."""

import numpy as np
import pytensor.tensor as pt
import pytest
from pytensor.tensor.blockwise import Blockwise
from pytensor.tensor.linalg.decomposition.cholesky import Cholesky
from pytensor.tensor.linalg.solvers.triangular import SolveTriangular

from emppl.compiling import compile_graph
from emppl.compiling.matrices import MANY

N = MANY + 3


def both(core_op, *arrays):
    """Results of the batch at once and of PyTensor's loop."""
    inputs = [pt.tensor(shape=a.shape, dtype=a.dtype) for a in arrays]
    one = compile_graph(inputs, Blockwise(core_op)(*inputs), optimise=False)
    node = Blockwise(core_op).make_node(*inputs)
    storage = [[None]]
    node.op.perform(node, list(arrays), storage)
    return one(*arrays), storage[0][0]


@pytest.mark.parametrize("lower", [True, False])
@pytest.mark.parametrize("unit", [True, False])
@pytest.mark.parametrize("shapes", [((N, 4, 4), (N, 4, 2)), ((1, 4, 4), (N, 4, 2)), ((N, 4, 4), (1, 4, 2))])
def test_triangular_systems(lower, unit, shapes):
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=shapes[0]) + 3 * np.eye(4), rng.normal(size=shapes[1])  # the other triangle is not read
    op = SolveTriangular(lower=lower, unit_diagonal=unit, b_ndim=2)
    np.testing.assert_allclose(*both(op, a, b), rtol=1e-11, atol=1e-12)


def test_systems_of_one_column_and_a_singular_one():
    rng = np.random.default_rng(2)
    a, b = np.tril(rng.normal(size=(N, 3, 3))) + 2 * np.eye(3), rng.normal(size=(N, 3))
    a[5, 1, 1] = 0.0
    mine, theirs = both(SolveTriangular(lower=True, b_ndim=1), a, b)
    assert np.isnan(mine[5]).all() and np.isnan(theirs[5]).all()
    np.testing.assert_allclose(mine, theirs, rtol=1e-11)


@pytest.mark.parametrize("lower", [True, False])
@pytest.mark.parametrize("broken", [True, False])
def test_cholesky_factors(lower, broken):
    rng = np.random.default_rng(3)
    roots = rng.normal(size=(N, 5, 5))
    a = roots @ roots.transpose(0, 2, 1) + np.eye(5)
    if broken:
        a[7] = -np.eye(5)  # no factor: nan there, and nowhere else
    mine, theirs = both(Cholesky(lower=lower), a)
    assert np.isnan(theirs).all(axis=(1, 2)).sum() == broken
    np.testing.assert_allclose(mine, theirs, rtol=1e-10, atol=1e-12)
