"""Statistics kept as products of columns, against the same statistics written out."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis.strategies import integers

from emppl.kernels import features as module
from emppl.kernels.features import Features, Source

RNG = np.random.default_rng(3)


def written_out(features: Features) -> np.ndarray:
    z = [np.ones(features.n)]
    for source in features.sources:
        rows = np.asarray(source.array, dtype=float)[slice(None) if source.row_of is None else source.row_of]
        rows = rows if source.centre is None else rows - source.centre
        if source.whiten is not None:
            rows = rows / source.whiten if source.whiten.ndim == 1 else rows @ source.whiten.T
        z += list(rows.T)
    return np.stack([z[a] * z[b] for a, b in zip(features.left, features.right)], axis=1)


def some(n: int = 50) -> Features:
    """Two sources, the number 1 twice, a column twice, products of columns of one source and of both."""
    one = Source(RNG.normal(size=(n, 2)), centre=np.array([0.3, -1.0]), whiten=np.array([[1.0, 0.2], [0.0, 2.0]]))
    two = Source(RNG.normal(size=(4, 1)), row_of=RNG.integers(4, size=n))
    return Features(n, (one, two), np.array([0, 0, 1, 1, 0, 2, 0, 0]), np.array([0, 1, 1, 2, 1, 3, 3, 0]))


def test_what_it_reads():
    features = some()
    dense = written_out(features)
    np.testing.assert_allclose(np.asarray(features), dense, rtol=1e-14, atol=1e-15)
    np.testing.assert_allclose(features[3:7], dense[3:7], rtol=1e-14, atol=1e-15)
    np.testing.assert_allclose(features[4], dense[4], rtol=1e-14, atol=1e-15)
    assert features.shape == dense.shape and len(features) == 50
    assert features.distinct.n == 5  # of eight: the number 1 and a column stand twice


@given(seed=integers(0, 2**32 - 1))
def test_sums_and_inner_products(seed):
    rng = np.random.default_rng(seed)
    features = some()
    dense = written_out(features)
    weights, eta = rng.uniform(size=(50, 3)), rng.normal(size=dense.shape[1])
    np.testing.assert_allclose(features.weighted(weights), weights.T @ dense, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(features.times(eta), dense @ eta, rtol=1e-11, atol=1e-12)


def test_joined_is_side_by_side():
    one, two = some(), Features.of(RNG.normal(size=(50, 3)))
    np.testing.assert_allclose(
        np.asarray(Features.joined([one, two])), np.concatenate([written_out(one), np.asarray(two)], axis=1), rtol=1e-14
    )


def test_an_array_is_kept_but_for_the_number_one():
    array = np.c_[np.ones(9), RNG.normal(size=9), np.ones(9), np.full(9, 2.0)]
    features = Features.of(array)
    np.testing.assert_array_equal(np.asarray(features), array)
    assert features.n_columns == 2


@pytest.mark.parametrize("power", [1, 2])
def test_products_are_found(power):
    y = RNG.normal(size=(300, 2))
    source = Source(y)

    def evaluate(rows):
        z = y[rows]
        return z, np.stack([np.ones(len(z)), z[:, 1], z[:, 0] * z[:, 1], z[:, 0] ** power], axis=1)

    features = Features.products(source, evaluate)
    assert features.sources[0].array is y  # nothing beside the data
    np.testing.assert_array_equal(np.asarray(features), evaluate(slice(None))[1])


def test_what_is_a_product_in_some_rows_alone_is_written_out(monkeypatch):
    """|y| is y in every row that the sample sees."""
    monkeypatch.setattr(module, "SAMPLE", 2)
    y = np.array([[1.0], [-2.0], [3.0]])
    features = Features.products(Source(y), lambda rows: (y[rows], np.abs(y[rows])))
    np.testing.assert_array_equal(np.asarray(features), np.abs(y))


def test_equal_rows_are_found_where_many_are_equal():
    counts = RNG.poisson(2.0, size=2000)
    first, kind = Features.of(np.c_[np.ones(2000), counts]).unique_rows()
    np.testing.assert_array_equal(counts[first][kind], counts)
    assert len(first) == len(np.unique(counts))
    assert Features.of(RNG.normal(size=(2000, 1))).unique_rows() is None
    first, kind = Features.of(counts[:, None].astype(float)).unique_rows(RNG.random((2000, 1)) < 0.5)
    assert len(first) > len(np.unique(counts))  # equal data, but not in what is known of them beside
