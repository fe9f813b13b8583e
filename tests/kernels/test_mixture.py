"""The one pass over the data, against the same arithmetic without blocks, frames or care."""

from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis.strategies import booleans, integers
from scipy.special import logsumexp

from emppl.kernels import mixture as kernel
from emppl.kernels.mixture import mixture

seeds = integers(0, 2**32 - 1)


class Inputs(NamedTuple):
    features: np.ndarray
    eta: np.ndarray
    base: np.ndarray


def inputs(rng: np.random.Generator, n: int = 23, f: int = 4, k: int = 3) -> Inputs:
    return Inputs(rng.normal(size=(n, f)), rng.normal(size=(k, f)), rng.normal(size=n))


def plain(features, eta, base, table=0.0, mask=True, weights=1.0):
    """Responsibilities, log-likelihood by member, statistics and counts by their definitions."""
    log_joint = np.where(mask, features @ eta.T + table, -np.inf) + base[:, None]
    member = logsumexp(log_joint, axis=1)
    r = np.exp(log_joint - member[:, None])
    weighted = r * np.reshape(weights, (-1, 1))
    return r, member, weighted.T @ features, weighted.sum(axis=0)


@given(seed=seeds, with_table=booleans(), with_mask=booleans(), with_weights=booleans())
def test_equals_its_definition(seed, with_table, with_mask, with_weights):
    rng = np.random.default_rng(seed)
    data = inputs(rng)
    extra = {}
    if with_table:
        extra["table"] = rng.normal(size=(23, 3))
    if with_mask:
        extra["mask"] = rng.random((23, 3)) < 0.6
        extra["mask"][:, 0] |= ~extra["mask"].any(axis=1)
    if with_weights:
        extra["weights"] = rng.uniform(0.0, 3.0, 23)
    r, member, statistics, counts = plain(*data, **extra)
    done = mixture(*data, **extra, keep=True)
    np.testing.assert_allclose(done.responsibilities, r, atol=1e-12)
    np.testing.assert_allclose(done.by_member, member, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(done.statistics, statistics, atol=1e-10)
    np.testing.assert_allclose(done.counts, counts, atol=1e-12)
    assert done.log_likelihood == pytest.approx(float(np.sum(extra.get("weights", 1.0) * member)), rel=1e-12)
    without = mixture(*data, **extra)
    assert without.responsibilities is None and without.by_member is None
    assert without.log_likelihood == done.log_likelihood


@pytest.mark.parametrize("block", [1, 2**8 * 10, 2**30])
@pytest.mark.parametrize("hard", [False, True])
def test_blocks_change_nothing(monkeypatch, block, hard):
    rng = np.random.default_rng(0)
    data = inputs(rng, n=1000)
    extra = {"table": rng.normal(size=(1000, 3)), "weights": rng.uniform(size=1000), "hard": hard, "keep": True}
    whole = mixture(*data, **extra)
    monkeypatch.setattr(kernel, "BLOCK_NUMBERS", block)
    parts = mixture(*data, **extra)
    np.testing.assert_array_equal(parts.responsibilities, whole.responsibilities)
    np.testing.assert_array_equal(parts.by_member, whole.by_member)
    np.testing.assert_allclose(parts.statistics, whole.statistics, rtol=1e-12, atol=1e-12)
    assert parts.log_likelihood == pytest.approx(whole.log_likelihood, rel=1e-13)


@given(seed=seeds)
def test_weights_are_repeated_rows(seed):
    rng = np.random.default_rng(seed)
    data, repeats = inputs(rng), rng.integers(0, 4, 23)
    weighted = mixture(*data, weights=repeats.astype(float))
    repeated = mixture(*(np.repeat(a, repeats, axis=0) if len(a) == 23 else a for a in data))
    assert weighted.log_likelihood == pytest.approx(repeated.log_likelihood, rel=1e-12, abs=1e-12)
    np.testing.assert_allclose(weighted.statistics, repeated.statistics, atol=1e-11)
    np.testing.assert_allclose(weighted.counts, repeated.counts, atol=1e-12)


@given(seed=seeds)
def test_order_and_labels_change_nothing(seed):
    rng = np.random.default_rng(seed)
    data, rows, labels = inputs(rng), rng.permutation(23), rng.permutation(3)
    one = mixture(*data)
    two = mixture(data.features[rows], data.eta[labels], data.base[rows])
    assert two.log_likelihood == pytest.approx(one.log_likelihood, rel=1e-12)
    np.testing.assert_allclose(two.statistics, one.statistics[labels], atol=1e-11)


def test_hard_takes_the_best_and_its_value():
    rng = np.random.default_rng(4)
    data = inputs(rng)
    done = mixture(*data, hard=True, keep=True)
    log_joint = data.features @ data.eta.T + data.base[:, None]
    np.testing.assert_array_equal(done.responsibilities.argmax(axis=1), log_joint.argmax(axis=1))
    np.testing.assert_array_equal(np.sort(done.responsibilities, axis=1)[:, -1], 1.0)
    assert done.log_likelihood == pytest.approx(log_joint.max(axis=1).sum(), rel=1e-12)


# -- where numbers end -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hard", [False, True])
def test_a_log_of_zero_rules_out_what_it_meets(hard):
    """log p = -inf with a count of zero is 0, as in 0 log 0; with a count it rules the component out."""
    eta = np.log(
        np.array([[0.5, 0.5], [0.0, 1.0]]) + np.array([[0.0, 0.0], [0.0, 0.0]]),
        where=[[1, 1], [0, 1]],
        out=np.full((2, 2), -np.inf),
    )
    features = np.array([[0.0, 3.0], [1.0, 2.0]])
    done = mixture(features, eta, np.zeros(2), hard=hard, keep=True)
    np.testing.assert_allclose(done.responsibilities[1], [1.0, 0.0])
    expected = np.array([np.log(1.0 if hard else 1.0 + 0.125), np.log(0.125)])
    np.testing.assert_allclose(done.by_member, expected, atol=1e-12)
    assert np.isfinite(done.statistics).all()


@pytest.mark.parametrize("how", ["eta", "table", "mask"])
def test_a_member_that_nothing_explains(how):
    features, eta, extra = np.ones((3, 1)), np.zeros((2, 1)), {}
    if how == "eta":
        features = np.array([[1.0, 0.0], [1.0, 2.0], [1.0, 0.0]])
        eta = np.array([[0.0, -np.inf], [0.0, -np.inf]])
    elif how == "table":
        extra["table"] = np.array([[0.0, 0.0], [-np.inf, -np.inf], [0.0, -np.inf]])
    else:
        extra["mask"] = np.array([[True, True], [False, False], [True, False]])
    done = mixture(features, eta, np.zeros(3), keep=True, **extra)
    assert done.log_likelihood == -np.inf and done.by_member[1] == -np.inf
    assert np.isfinite(done.by_member[[0, 2]]).all()
    weights = np.array([1.0, 0.0, 1.0])  # a member that does not count does no harm
    assert np.isfinite(mixture(features, eta, np.zeros(3), weights=weights, **extra).log_likelihood)


def test_large_and_small_densities_neither_overflow_nor_vanish():
    features = np.ones((2, 1))
    for size in (1e5, -1e5):
        done = mixture(features, np.array([[size], [size + 1.0]]), np.zeros(2), keep=True)
        assert done.log_likelihood == pytest.approx(2 * (size + np.logaddexp(0, 1)), rel=1e-14)
        np.testing.assert_allclose(done.responsibilities[0], [1 / (1 + np.e), np.e / (1 + np.e)])


def test_nan_is_not_hidden():
    done = mixture(np.ones((2, 1)), np.array([[np.nan], [0.0]]), np.zeros(2))
    assert not np.isfinite(done.log_likelihood)
