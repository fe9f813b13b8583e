"""The climber: it reaches the maximum, never falls, and keeps away from walls."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis.strategies import integers
from scipy.optimize import rosen, rosen_der

from emppl.mstep import search
from emppl.mstep.search import DENSE_LIMIT, newton


def climb(objective, start, free, scale, steps):
    return search.climb(objective, start, free, scale, steps, np.zeros(len(start), bool))


def quadratic(matrix, centre):
    def objective(u):
        step = u - centre
        return -0.5 * step @ matrix @ step, -matrix @ step

    return objective


@given(seed=integers(0, 2**32 - 1), n=integers(1, 8))
def test_reaches_the_maximum_of_a_quadratic(seed, n):
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(n, n))
    objective = quadratic(root @ root.T + np.eye(n), rng.normal(size=n))
    start = rng.normal(size=n)
    u, value, _ = climb(objective, start, np.ones(n, bool), 1.0, 200)
    assert value == pytest.approx(0.0, abs=1e-8)
    assert objective(u)[0] == value


@pytest.mark.parametrize("n", [2, 10])
def test_a_bent_valley(n):
    """Rosenbrock's function, which takes many small steps."""
    u, value, calls = climb(lambda u: (-rosen(u), -rosen_der(u)), np.zeros(n), np.ones(n, bool), 1.0, 2000)
    np.testing.assert_allclose(u, 1.0, atol=1e-3)
    assert -1e-6 < value <= 0 and calls < 3000


def test_coordinates_that_are_not_free_stay():
    objective = quadratic(np.eye(3), np.array([1.0, 2.0, 3.0]))
    u, _, _ = climb(objective, np.zeros(3), np.array([True, False, True]), 1.0, 50)
    np.testing.assert_allclose(u, [1.0, 0.0, 3.0], atol=1e-6)


def test_never_below_the_start():
    """Few steps, a wall of minus infinity, nan beyond it: the value may only rise."""

    def objective(u):
        if u[0] > 1.0:
            return np.nan, np.array([np.nan])
        if u[0] < -1.0:
            return -np.inf, np.array([0.0])
        return float(u[0]), np.array([1.0])

    for start in (-0.9, 0.0, 0.99):
        u, value, _ = climb(objective, np.array([start]), np.array([True]), 1.0, 5)
        assert start <= value <= 1.0 and u[0] == value


def test_a_log_moves_by_little_at_a_time():
    """A scale that the line search would throw to exp(1000) is moved step by step."""
    seen = []

    def objective(u):
        seen.append(u[0])
        return -abs(u[0] - 100.0), -np.sign(u - 100.0)

    search.climb(objective, np.zeros(1), np.ones(1, bool), 1e-3, 20, np.ones(1, bool))
    assert np.abs(np.diff(seen)).max() <= search.LONGEST + 1e-9


def test_a_start_that_has_no_value():
    u, value, _ = climb(lambda u: (-np.inf, np.zeros(1)), np.array([0.3]), np.array([True]), 1.0, 5)
    assert value == -np.inf and u[0] == 0.3


@pytest.mark.parametrize("n", [3, DENSE_LIMIT + 3])
def test_the_scale_of_the_objective_does_not_matter(n):
    objective = quadratic(np.diag(np.linspace(1, 3, n)) * 1e9, np.ones(n))
    u, _, _ = climb(objective, np.zeros(n), np.ones(n, bool), 1e9, 200)
    np.testing.assert_allclose(u, 1.0, atol=1e-5)


def test_newton_finds_a_maximum_across_scales_from_far_away():
    """The normal log-likelihood of 50 values near 500 with spread 3, in (mean, log variance), from (0, -7)."""
    y = np.random.default_rng(0).normal(500.0, 3.0, size=50)

    def objective(u):
        residuals, precision = y - u[0], np.exp(-u[1])
        squares = (residuals**2).sum() * precision
        value = -0.5 * (squares + len(y) * u[1])
        return value, np.array([residuals.sum() * precision, 0.5 * (squares - len(y))])

    u, value = newton(objective, np.array([0.0, -7.0]), np.array([True, True]), 60)
    np.testing.assert_allclose(u, [y.mean(), np.log(y.var())], atol=1e-3)
    assert value >= objective(np.array([y.mean(), np.log(y.var())]))[0] - 1e-6
