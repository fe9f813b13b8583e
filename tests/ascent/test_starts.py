"""Where ascents begin: inside the domain, apart from each other, and near the data."""

import numpy as np
import pymc as pm
import pytest
import small_models
from hypothesis import given
from hypothesis.strategies import booleans, integers

import emppl
from emppl.ascent.starts import (
    _most_frequent,
    centres_plus_plus,
    lloyd,
    member_data,
    responsibilities,
    scaled,
    start_point,
)

seeds = integers(0, 2**32 - 1)


@given(seed=seeds, k=integers(1, 5))
def test_centres_are_rows_and_different(seed, k):
    rng = np.random.default_rng(seed)
    data = rng.normal(size=(30, 2))
    centres = centres_plus_plus(data, k, rng)
    assert centres.shape == (k, 2) and len(np.unique(centres, axis=0)) == k
    assert all((data == centre).all(axis=1).any() for centre in centres)


def test_centres_of_fewer_rows_than_components():
    assert centres_plus_plus(np.ones((5, 1)), 3, np.random.default_rng(0)).shape == (3, 1)


@given(seed=seeds)
def test_rounds_of_lloyd_lower_the_inertia(seed):
    rng = np.random.default_rng(seed)
    data = np.concatenate([rng.normal(size=(20, 2)) + 5 * centre for centre in rng.normal(size=(3, 2))])

    def inertia(label):
        return sum(((data[label == c] - data[label == c].mean(axis=0)) ** 2).sum() for c in np.unique(label))

    centres = centres_plus_plus(data, 3, rng)
    values = [inertia(lloyd(data, centres.copy(), rounds)) for rounds in (0, 1, 5, 20)]
    assert (np.diff(values) <= 1e-9).all()


def test_scaling_takes_units_and_correlation_out():
    rng = np.random.default_rng(0)
    data = 1e6 + rng.normal(size=(200, 2)) @ np.array([[1e3, 3.0], [0.0, 0.01]])
    plain, white = scaled(data, whiten=False), scaled(data, whiten=True)
    np.testing.assert_allclose(plain.std(axis=0), 1.0)
    np.testing.assert_allclose(np.cov(white, rowvar=False, bias=True), np.eye(2), atol=0.02)
    assert np.isfinite(scaled(np.ones((4, 2)), whiten=True)).all()  # constant columns


def test_rows_of_a_member_are_averaged():
    plan = small_models.plan("long_form")
    y = np.asarray(plan.structure.node("y").value.data)
    site = np.array([0, 2, 1, 1, 3, 0, 3, 2, 2])
    expected = [[y[site == s].mean()] for s in range(4)]
    np.testing.assert_allclose(member_data(plan, 0), expected)


@pytest.mark.parametrize("kind", ["k-means++", "random"])
@pytest.mark.parametrize("name", ["coins", "two_binary_latents", "gaussian_diagonal", "items_of_three"])
def test_first_responsibilities(name, kind):
    plan = small_models.plan(name)
    for seed in range(3):
        for p, plate in enumerate(plan.structure.plates):
            r = responsibilities(plan, p, kind, np.random.default_rng(seed))
            assert r.shape == (plate.size, plate.n_configurations) and (r > 0).all()
            np.testing.assert_allclose(r.sum(axis=1), 1.0)


def test_known_labels_are_respected():
    case = small_models.model("coins")
    plan = emppl.plan(case.model, labels={"z": [1, -1, 0, -1, -1, -1]})
    r = responsibilities(plan, 0, "random", np.random.default_rng(0))
    np.testing.assert_array_equal(r[[0, 2]], [[0.0, 1.0], [1.0, 0.0]])


@pytest.mark.parametrize("kind", ["k-means++", "random", "prior"])
@pytest.mark.parametrize("name", sorted(set(small_models.MODELS) - {"gaussian_full", "gaussian_tied"}))
def test_starts_lie_inside(name, kind):
    plan = small_models.plan(name)
    for seed in range(2):
        theta = start_point(plan, kind, np.random.default_rng(seed))
        assert set(theta) == set(plan.structure.parameter_names)
        u = plan.structure.coordinates.unconstrain(theta)
        assert not np.isnan(u).any()
        assert np.isfinite(plan.log_posterior(theta))


def test_starts_differ():
    """Also in which component gets which label: none is favoured."""
    y = np.r_[np.random.default_rng(0).normal(size=20), 9 + np.random.default_rng(1).normal(size=20)]
    with pm.Model() as model:
        mu = pm.Normal("mu", 0.0, 20.0, shape=2)
        z = pm.Categorical("z", p=np.array([0.5, 0.5]), shape=40)
        pm.Normal("y", mu[z], 1.0, observed=y)
    plan = emppl.plan(model)
    starts = [start_point(plan, "k-means++", np.random.default_rng(seed))["mu"] for seed in range(12)]
    ascending = sum(mu[0] < mu[1] for mu in starts)
    assert 2 <= ascending <= 10


def test_first_guesses_of_ordered_means_are_in_their_order():
    """Component 0 gets the lower members: a permutation would be undone by the transform, at the price of the start."""
    plan = small_models.plan("ordered_means")
    y = np.asarray(plan.structure.node("y").value.data)
    for seed in range(8):
        r = responsibilities(plan, 0, "k-means++", np.random.default_rng(seed))
        low, high = (r.T @ y) / r.sum(axis=0)
        assert low < high
        assert np.diff(start_point(plan, "k-means++", np.random.default_rng(seed))["mu"])[0] > 0


def test_starts_reach_data_far_from_the_prior_in_units_of_their_own():
    """A difference of means with a prior around zero, data near 540: every start used to end in one component."""
    rng = np.random.default_rng(1)
    y = np.concatenate([rng.normal(536.5, 3.5, size=29), rng.normal(549.0, 3.5, size=19)])
    with pm.Model() as model:
        apart = pm.HalfNormal("apart", np.float64(100.0))
        lower = pm.Normal("lower", np.float64(0.0), np.float64(1e3))
        variance = pm.InverseGamma("variance", np.float64(1e-3), np.float64(1e-3))
        weight = pm.Uniform("weight", 0.0, 1.0)
        z = pm.Bernoulli("z", 1 - weight, shape=len(y))
        pm.Normal("y", pm.math.stack([lower, lower + apart])[z], variance**0.5, observed=y)
    fit = emppl.fit(model, seed=0, starts=6)
    assert 9.0 < float(fit.theta["apart"]) < 15.0 and fit.certificate.holds
    one = {"apart": 1e-6, "lower": y.mean(), "variance": y.var(), "weight": 0.5}
    assert fit.log_posterior > fit.plan.log_posterior(one) + 5.0
    assert fit.n_passes < 100


@given(seed=seeds, width=integers(1, 3), least=integers(1, 9), missing=booleans())
def test_the_most_frequent_row_is_found_column_by_column(seed, width, least, missing):
    rng = np.random.default_rng(seed)
    data = rng.integers(0, 4, size=(30, width)).astype(float)
    if missing:
        data[rng.random(data.shape) < 0.1] = np.nan
    _, inverse, counts = np.unique(data, axis=0, return_inverse=True, return_counts=True)
    wanted = np.flatnonzero(inverse.ravel() == counts.argmax()) if counts.max() >= least else []
    np.testing.assert_array_equal(_most_frequent(data, least), wanted)
