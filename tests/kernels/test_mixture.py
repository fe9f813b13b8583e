"""The one pass over the data, against the same arithmetic without blocks, frames or care."""

import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis.strategies import booleans, integers
from scipy.special import logsumexp

from emppl.kernels import features as reading
from emppl.kernels import mixture as passes
from emppl.kernels.features import Features, Source
from emppl.kernels.mixture import mixture
from emppl.kernels.threads import threads

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


@given(seed=seeds, with_table=booleans(), with_mask=booleans(), with_weights=booleans(), compiled=booleans())
def test_equals_its_definition(seed, with_table, with_mask, with_weights, compiled):
    rng = np.random.default_rng(seed)
    data = inputs(rng)
    extra = {"compiled": compiled}
    if with_table:
        extra["table"] = rng.normal(size=(23, 3))
    if with_mask:
        extra["mask"] = rng.random((23, 3)) < 0.6
        extra["mask"][:, 0] |= ~extra["mask"].any(axis=1)
    if with_weights:
        extra["weights"] = rng.uniform(0.0, 3.0, 23)
    r, member, statistics, counts = plain(*data, **{k: v for k, v in extra.items() if k != "compiled"})
    done = mixture(*data, **extra, keep=True)
    np.testing.assert_allclose(done.responsibilities, r, atol=1e-12)
    np.testing.assert_allclose(done.by_member, member, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(done.statistics, statistics, atol=1e-10)
    np.testing.assert_allclose(done.counts, counts, atol=1e-12)
    assert done.log_likelihood == pytest.approx(float(np.sum(extra.get("weights", 1.0) * member)), rel=1e-12)
    without = mixture(*data, **extra)
    assert without.responsibilities is None and without.by_member is None
    assert without.log_likelihood == pytest.approx(done.log_likelihood, rel=1e-14)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("block", [1, 2**8 * 10, 2**30])
@pytest.mark.parametrize("hard", [False, True])
def test_blocks_change_nothing(monkeypatch, block, hard, compiled):
    rng = np.random.default_rng(0)
    data = inputs(rng, n=1000)
    extra = {
        "table": rng.normal(size=(1000, 3)),
        "weights": rng.uniform(size=1000),
        "hard": hard,
        "keep": True,
        "compiled": compiled,
    }
    whole = mixture(*data, **extra)
    monkeypatch.setattr(reading, "BLOCK_NUMBERS", block)
    monkeypatch.setattr(reading, "SMALL", 0)
    monkeypatch.setattr(passes, "COMPILED_NUMBERS", block)
    parts = mixture(*data, **extra)
    np.testing.assert_allclose(parts.responsibilities, whole.responsibilities, rtol=1e-13)
    np.testing.assert_allclose(parts.by_member, whole.by_member, rtol=1e-13)
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


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("hard", [False, True])
def test_a_log_of_zero_rules_out_what_it_meets(hard, compiled):
    """log p = -inf with a count of zero is 0, as in 0 log 0; with a count it rules the component out."""
    eta = np.log(
        np.array([[0.5, 0.5], [0.0, 1.0]]) + np.array([[0.0, 0.0], [0.0, 0.0]]),
        where=[[1, 1], [0, 1]],
        out=np.full((2, 2), -np.inf),
    )
    features = np.array([[0.0, 3.0], [1.0, 2.0]])
    done = mixture(features, eta, np.zeros(2), hard=hard, keep=True, compiled=compiled)
    np.testing.assert_allclose(done.responsibilities[1], [1.0, 0.0])
    expected = np.array([np.log(1.0 if hard else 1.0 + 0.125), np.log(0.125)])
    np.testing.assert_allclose(done.by_member, expected, atol=1e-12)
    assert np.isfinite(done.statistics).all()


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("how", ["eta", "table", "mask"])
def test_a_member_that_nothing_explains(how, compiled):
    features, eta, extra = np.ones((3, 1)), np.zeros((2, 1)), {"compiled": compiled}
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


@pytest.mark.parametrize("compiled", [False, True])
def test_large_and_small_densities_neither_overflow_nor_vanish(compiled):
    features = np.ones((2, 1))
    for size in (1e5, -1e5):
        done = mixture(features, np.array([[size], [size + 1.0]]), np.zeros(2), keep=True, compiled=compiled)
        assert done.log_likelihood == pytest.approx(2 * (size + np.logaddexp(0, 1)), rel=1e-14)
        np.testing.assert_allclose(done.responsibilities[0], [1 / (1 + np.e), np.e / (1 + np.e)])


@pytest.mark.parametrize("far", [-400.0, -800.0, -1e5, 400.0, 800.0])
def test_a_member_far_from_all_others(far):
    """One density that is no number of its own, or nearly: it and all others count as they should."""
    features = np.column_stack([np.ones(50), np.linspace(-1.0, 1.0, 50)])
    features[7, 1] = far
    eta = np.array([[0.0, 1.0], [0.3, 1.001], [-1.0, 0.5]])
    r, member, statistics, counts = plain(features, eta, np.zeros(50))
    done = mixture(features, eta, keep=True)
    np.testing.assert_allclose(done.responsibilities, r, rtol=1e-12)
    np.testing.assert_allclose(done.by_member, member, rtol=1e-13)
    np.testing.assert_allclose(done.statistics, statistics, rtol=1e-12)
    np.testing.assert_allclose(mixture(features, eta).counts, counts, rtol=1e-12)


def test_results_outlive_the_next_pass():
    """Passes share their room, each thread's own; what they return is the caller's."""
    rng = np.random.default_rng(8)
    cases = [inputs(rng, n, 3, k)[:2] for n, k in ((900, 2), (50, 4), (3000, 3), (900, 5))] * 20
    alone, kept = [], []
    for case, keep in zip(cases, [False, True] * 40):
        alone.append(mixture(*case, keep=keep))
        kept.append(pickle.dumps(alone[-1]))
    with ThreadPoolExecutor(4) as pool:
        again = list(pool.map(lambda case, keep: mixture(*case, keep=keep), cases, [False, True] * 40))
    for one, two, before in zip(alone, again, kept):
        assert pickle.dumps(one) == before
        assert one.log_likelihood == two.log_likelihood
        np.testing.assert_array_equal(one.statistics, two.statistics)


@pytest.mark.parametrize("compiled", [False, True])
def test_nan_is_not_hidden(compiled):
    done = mixture(np.ones((2, 1)), np.array([[np.nan], [0.0]]), np.zeros(2), compiled=compiled)
    assert not np.isfinite(done.log_likelihood)


# -- the compiled loop and its numpy twin ------------------------------------------------------------------------------


def gaussian(rng: np.random.Generator, n: int, d: int) -> Features:
    i, j = np.triu_indices(d)
    left, right = np.r_[0, np.zeros(d, int), i + 1], np.r_[0, np.arange(d) + 1, j + 1]
    source = Source(
        rng.normal(size=(n, d)), centre=rng.normal(size=d), whiten=np.eye(d) + 0.1 * rng.normal(size=(d, d))
    )
    return Features(n, (source,), left, right)


@pytest.mark.parametrize("d, k", [(1, 2), (2, 3), (3, 5), (8, 8), (20, 16)])  # plain loops, products, long sums
@pytest.mark.parametrize("hard", [False, True])
def test_compiled_equals_numpy(d, k, hard):
    rng = np.random.default_rng(d)
    features = gaussian(rng, 700, d)
    eta = rng.normal(size=(k, features.shape[1])) / d
    one, two = (mixture(features, eta, hard=hard, compiled=c) for c in (False, True))
    assert two.log_likelihood == pytest.approx(one.log_likelihood, rel=1e-13)
    np.testing.assert_allclose(two.statistics, one.statistics, rtol=1e-11, atol=1e-11 * np.abs(one.statistics).max())
    np.testing.assert_allclose(two.counts, one.counts, rtol=1e-12, atol=1e-10)


@pytest.mark.parametrize("compiled", [False, True])
def test_small_shares_are_as_exact_as_large_ones(compiled):
    """The loop's own exp over all of its range: odds e^-v for v up to where numbers end, one share at a time."""
    v = np.linspace(0.0, 700.0, 3001)
    features = Features.of(np.eye(1, 3) + np.zeros((300, 1)))
    for below in v[::100]:
        done = mixture(features, np.array([[0.0, 0, 0], [-below, 0, 0]]), compiled=compiled)
        assert done.counts[1] == pytest.approx(300 / (1 + np.exp(below)), rel=2e-13, abs=0.0)
    column = v[:, None]
    done = mixture(Features.of(column), np.array([[0.0], [-1.0]]), compiled=compiled)
    assert done.counts[1] == pytest.approx((1 / (1 + np.exp(v))).sum(), rel=1e-14)
    assert done.log_likelihood == pytest.approx(np.log1p(np.exp(-v)).sum(), rel=1e-13)


@pytest.mark.parametrize("scales", [np.ones(4), np.array([1.0, 3.0, 0.2, 7.0])])
def test_squares_that_share_a_parameter_are_summed(scales):
    """A spherical Gaussian: one eta for all squares, whatever the frame; the sums serve as the squares would."""
    rng = np.random.default_rng(2)
    source = Source(rng.normal(size=(900, 4)) * scales, centre=rng.normal(size=4), whiten=scales)
    columns = np.arange(4) + 1
    plain = Features(900, (source,), np.r_[0, 0 * columns, columns], np.r_[0, columns, columns])

    def eta(k: int = 3) -> np.ndarray:
        precision = rng.uniform(0.5, 2.0, size=(k, 1))
        return np.concatenate([rng.normal(size=(k, 5)), -0.5 * precision * scales**2], axis=1)

    summed = plain.summed([eta(), eta()])
    assert len(summed.together.first) == 1
    for here in (eta(), eta()):
        one, two = mixture(plain, here), mixture(summed, here, compiled=True)
        assert two.log_likelihood == pytest.approx(one.log_likelihood, rel=1e-12)
        np.testing.assert_allclose(two.statistics[:, :5], one.statistics[:, :5], rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(two.statistics[:, 5:] @ scales**2, one.statistics[:, 5:] @ scales**2, rtol=1e-11)
    apart = eta()
    apart[0, 6] *= 1.001  # a parameter that tells two squares apart: they are not summed
    one, two = mixture(plain, apart), mixture(summed, apart, compiled=True)
    np.testing.assert_allclose(two.statistics, one.statistics, rtol=1e-10, atol=1e-9)
    assert plain.summed([eta(), apart]).together is None or len(plain.summed([eta(), apart]).together.first) == 2


def test_improbable_configurations_count_for_nothing_at_all():
    """exp underflows to 0 in both, so that an impossible configuration has no statistics."""
    features, eta = np.ones((300, 1)), np.array([[0.0], [-720.0], [-800.0], [-1e150], [-np.inf]])
    for compiled in (False, True):
        done = mixture(features, eta, compiled=compiled)
        np.testing.assert_array_equal(done.counts[2:], 0.0)
        assert done.counts[1] <= 300 * np.exp(-700)


def test_the_number_of_threads_changes_nothing():
    rng = np.random.default_rng(5)
    features = gaussian(rng, 40_000, 3)
    eta = rng.normal(size=(3, features.shape[1]))
    one, two = (mixture(features, eta, compiled=True, workers=w) for w in (1, 3))
    assert one.log_likelihood == two.log_likelihood
    np.testing.assert_array_equal(one.statistics, two.statistics)


def test_threads_in_a_forked_process():
    """A pool of threads does not survive a fork: the child makes do with one thread, and gets the same."""
    rng = np.random.default_rng(6)
    features = gaussian(rng, 20_000, 2)
    eta = rng.normal(size=(2, features.shape[1]))
    here = mixture(features, eta, compiled=True, workers=2).log_likelihood

    def child() -> tuple[float, int]:
        return mixture(features, eta, compiled=True, workers=2).log_likelihood, threads()

    there, n_threads = in_a_fork(child)
    assert there == here and n_threads == 1


def in_a_fork(function):
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writer, pickle.dumps(function()))
        os._exit(0)
    with os.fdopen(reader, "rb") as stream:
        os.close(writer)
        answer = pickle.load(stream)
    os.waitpid(pid, 0)
    return answer


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32])
@pytest.mark.parametrize("compiled", [False, True])
def test_data_are_read_as_they_lie(order, dtype, compiled):
    rng = np.random.default_rng(7)
    values = np.round(10 * rng.normal(size=(500, 3)))
    left, right = np.zeros(4, int), np.arange(4)
    eta, centre = rng.normal(size=(2, 4)), values.mean(axis=0)
    source = Source(np.asarray(values, dtype, order=order), centre=centre, whiten=np.array([1.0, 2.0, 3.0]))
    done = mixture(Features(500, (source,), left, right), eta, compiled=compiled)
    expected = mixture(np.c_[np.ones(500), (values - centre) / [1.0, 2.0, 3.0]], eta)
    assert done.log_likelihood == pytest.approx(expected.log_likelihood, rel=1e-12)
    np.testing.assert_allclose(done.statistics, expected.statistics, rtol=1e-10, atol=1e-10)


def placed(values: np.ndarray, how: str) -> np.ndarray:
    """The same numbers in memory that others laid out."""
    if how == "not aligned":
        raw = bytearray(values.nbytes + 1)
        answer = np.frombuffer(raw, offset=1).reshape(values.shape)
        answer[...] = values
        return answer
    if how == "read-only":
        values = values.copy()
        values.flags.writeable = False
        return values
    if how == "memmap":
        return values.view(np.memmap)
    return {"strided": np.repeat(values, 2, axis=0)[::2], "reversed": values[::-1].copy()[::-1]}[how]


@pytest.mark.parametrize("how", ["read-only", "not aligned", "strided", "reversed", "memmap"])
def test_any_memory_will_do(how):
    rng = np.random.default_rng(8)
    values, eta, weights = rng.normal(size=(300, 2)), rng.normal(size=(2, 3)), rng.random(300)
    left, right = np.zeros(3, int), np.arange(3)
    expected = mixture(np.c_[np.ones(300), values], eta, weights=weights)
    features = Features(300, (Source(placed(values, how)),), placed(left, how) if how == "read-only" else left, right)
    own = placed(weights, how)
    done = mixture(features, placed(eta, how), weights=own, compiled=True)
    assert done.log_likelihood == pytest.approx(expected.log_likelihood, rel=1e-12)
    np.testing.assert_allclose(done.statistics, expected.statistics, rtol=1e-10, atol=1e-10)
