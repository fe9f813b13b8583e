"""Weights of observations: repeated rows, whatever plates the rows belong to; or refused."""

from collections.abc import Callable

import numpy as np
import pymc as pm
import pytensor.tensor as pt
import pytest

import emppl
from emppl.errors import EmpplError, InvalidArgumentError

ONE, FIVE = np.float64(1.0), np.float64(5.0)
RNG = np.random.default_rng(4)
Y, X = RNG.normal(0.0, 3.0, (7, 2)).round(2), RNG.normal(size=7).round(2)
Build = Callable[[np.ndarray], pm.Model]


def centres(size: int = 2) -> pt.TensorVariable:
    return pm.Normal("mu", np.float64(0.0), FIVE, shape=size)


def two_plates(rows: np.ndarray) -> pm.Model:
    """Rows 0 to 2 have a latent of one kind, rows 3 to 6 of another."""
    with pm.Model() as model:
        mu = centres()
        z = pm.Bernoulli("z", 0.3, shape=int((rows < 3).sum()))
        v = pm.Categorical("v", np.array([0.2, 0.8]), shape=int((rows >= 3).sum()))
        pm.Normal("y", mu[pt.concatenate([z, v])], ONE, observed=Y[rows, 0])
    return model


def backwards(rows: np.ndarray) -> pm.Model:
    """The latent of the last row stands first: a weight is its row's, wherever its member stands."""
    with pm.Model() as model:
        mu = centres()
        z = pm.Bernoulli("z", 0.3, shape=len(rows))
        pm.Logistic("y", mu[z[::-1]], ONE, observed=Y[rows, 0])
    return model


def two_observed(rows: np.ndarray) -> pm.Model:
    with pm.Model() as model:
        mu, rate = centres(), pm.Gamma("rate", ONE, ONE, shape=2)
        z = pm.Bernoulli("z", 0.3, shape=len(rows))
        pm.Normal("y", mu[z], ONE, observed=Y[rows, 0])
        pm.Exponential("x", rate[z], observed=np.abs(X[rows]))
    return model


def vectors(rows: np.ndarray) -> pm.Model:
    with pm.Model() as model:
        mu = pm.Normal("mu", np.float64(0.0), FIVE, shape=(2, 2))
        z = pm.Bernoulli("z", 0.3, shape=len(rows))
        pm.MvNormal("y", mu[z], cov=np.array([[1.0, 0.3], [0.3, 2.0]]), observed=Y[rows])
    return model


def columns(rows: np.ndarray) -> pm.Model:
    """Two numbers a row; one weight a row stands for both."""
    with pm.Model() as model:
        mu = centres()
        z = pm.Bernoulli("z", 0.3, shape=len(rows))
        pm.Normal("y", mu[z][:, None], ONE, observed=Y[rows])
    return model


def lines(rows: np.ndarray) -> pm.Model:
    """A regression whose M-step is Newton's method on the graph."""
    with pm.Model() as model:
        slope = pm.Normal("slope", np.float64(0.0), ONE, shape=2)
        z = pm.Bernoulli("z", 0.3, shape=len(rows))
        pm.Poisson("y", pt.exp(slope[z] * X[rows]), observed=np.abs(Y[rows, 0]).astype(int))
    return model


@pytest.mark.parametrize("estep", ["auto", "graph"])
@pytest.mark.parametrize("build", [two_plates, backwards, two_observed, vectors, columns, lines])
def test_whole_weights_are_repeated_rows(build: Build, estep: str):
    weights = RNG.integers(0, 4, len(Y))
    weights[[0, 6]] = 2, 3  # both kinds of row stay, with different weights at the two ends
    weighted = emppl.plan(build(np.arange(len(Y))), obs_weights={"y": weights}, estep=estep)
    repeated = emppl.plan(build(np.repeat(np.arange(len(Y)), weights)), estep=estep)
    for _ in range(2):
        theta = weighted.structure.coordinates.constrain(RNG.normal(size=weighted.structure.coordinates.size))
        one, two = weighted.e_step(theta), repeated.e_step(theta)
        assert one.objective == pytest.approx(two.objective, rel=1e-11)
        for counts, same in zip(one.counts, two.counts, strict=True):
            np.testing.assert_allclose(counts, same, rtol=1e-10)
        m_steps = [settled(plan, theta, e_step) for plan, e_step in ((weighted, one), (repeated, two))]
        for name, value in m_steps[0].items():
            np.testing.assert_allclose(value, m_steps[1][name], rtol=1e-4 if build is lines else 1e-5)


def settled(plan, theta, e_step):
    """Where M-steps by one E-step end, of which a numeric one goes part of the way, to the root of rounding."""
    for _ in range(10):
        theta = plan.m_step(theta, e_step)
    return theta


def some_without_latent(rows: np.ndarray) -> pm.Model:
    with pm.Model() as model:
        mu = centres()
        z = pm.Bernoulli("z", 0.3, shape=3)
        pm.Normal("y", pt.concatenate([mu[z], mu, mu]), ONE, observed=Y[rows, 0])
    return model


def shared(rows: np.ndarray) -> pm.Model:
    """Two rows a member but for the last, which has three."""
    with pm.Model() as model:
        mu = centres()
        z = pm.Bernoulli("z", 0.3, shape=3)
        pm.Normal("y", mu[z[np.array([0, 0, 1, 1, 2, 2, 2])]], ONE, observed=Y[rows, 0])
    return model


@pytest.mark.parametrize(
    ("build", "weights", "words"),
    [
        (two_plates, {"y": np.ones(3)}, ("(3,)", "y", "(7,)")),
        (two_plates, np.ones(4), ("(4,)", "y", "(7,)")),
        (two_plates, np.ones((7, 1)), ("(7, 1)",)),
        (backwards, np.float64(2.0), ("()", "(7,)")),
        (some_without_latent, np.r_[np.ones(6), 2.0], ("y[6]", "no latent")),
        (shared, np.r_[np.ones(6), 2.0], ("y[6]", "another weight")),
        (shared, np.ones(4), ("(4,)", "3 members")),
        (two_observed, {"y": np.ones(7), "x": np.full(7, 2.0)}, ("y and x", "different weights")),
    ],
)
def test_other_weights_are_refused(build: Build, weights: object, words: tuple[str, ...]):
    with pytest.raises(InvalidArgumentError) as caught:
        emppl.plan(build(np.arange(7)), obs_weights=weights)
    assert not [word for word in words if word not in str(caught.value)], str(caught.value)


def test_weights_of_members_that_rows_share():
    """One for each row or one for each member: the same."""
    by_row = emppl.plan(shared(np.arange(7)), obs_weights=[2, 2, 0, 0, 1, 1, 1])
    by_member = emppl.plan(shared(np.arange(7)), obs_weights=[2, 0, 1])
    np.testing.assert_array_equal(by_row.weights[0], [2, 0, 1])
    np.testing.assert_array_equal(by_member.weights[0], [2, 0, 1])


def test_one_array_for_variables_with_different_members_is_refused():
    with pm.Model() as model:
        mu = centres()
        pm.Normal("y", mu[pm.Bernoulli("z", 0.3, shape=7)], ONE, observed=Y[:, 0])
        pm.Normal("x", mu[pm.Bernoulli("v", 0.3, shape=7)], ONE, observed=X)
    with pytest.raises(InvalidArgumentError, match="y, x"):
        emppl.plan(model, obs_weights=np.ones(7))


def test_new_rows_of_shared_members_are_not_taken_for_members():
    fit = emppl.fit(shared(np.arange(7)), seed=1, starts=2)
    with pytest.raises(EmpplError, match="rows of y"):
        fit.predict({"y": Y[:, 0]})
