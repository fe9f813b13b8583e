"""The loop that numba compiles equals its numpy twin, on the same inputs."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis.strategies import integers

from emppl.kernels.marginal import marginal_loop
from emppl.kernels.mixture import mixture


@pytest.fixture(scope="module")
def loop():
    return marginal_loop()


def check(loop, features, eta, base, weights):
    value, statistics = loop(eta, features, base, weights)
    twin = mixture(features, eta, base, weights=weights)
    np.testing.assert_allclose(float(value), twin.log_likelihood, rtol=1e-12, atol=1e-12)
    if np.isfinite(twin.log_likelihood):
        np.testing.assert_allclose(statistics, twin.statistics, rtol=1e-10, atol=1e-11)


@given(seed=integers(0, 2**32 - 1), n=integers(1, 40), k=integers(1, 5), f=integers(1, 4))
def test_equals_the_numpy_kernel(loop, seed, n, k, f):
    rng = np.random.default_rng(seed)
    weights = rng.uniform(size=n) * rng.integers(0, 2, n)
    check(loop, rng.normal(size=(n, f)), 5.0 * rng.normal(size=(k, f)), rng.normal(size=n), weights)


def test_logs_of_zero(loop):
    counts = np.array([[2.0, 0.0], [1.0, 1.0], [0.0, 3.0]])
    with np.errstate(divide="ignore"):
        eta = np.log(np.array([[0.5, 0.5], [1.0, 0.0]]))
    check(loop, counts, eta, np.zeros(3), np.ones(3))
    check(loop, counts, eta[1:], np.zeros(3), np.ones(3))  # nothing explains the second and the third row
    check(loop, counts, eta[1:], np.zeros(3), np.array([1.0, 0.0, 0.0]))  # which does no harm if they do not count


def test_large_densities(loop):
    check(loop, np.ones((2, 1)), np.array([[1e5], [1e5 + 1.0]]), np.zeros(2), np.ones(2))
