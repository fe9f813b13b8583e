"""Chains that start at the modes that EM finds: as many at each as it holds, around it, the same with the same seed."""

from types import SimpleNamespace

import numpy as np
import pymc as pm
import pytest

import emppl
from emppl.chainstarts import mode_starts, spread_over
from emppl.errors import InvalidArgumentError
from emppl.sampling import samplers


def modes(*pairs):
    return SimpleNamespace(modes=[SimpleNamespace(log_posterior=h, log_evidence=e) for h, e in pairs])


@pytest.mark.parametrize(
    ("pairs", "chains", "expected"),
    [
        ([(-10.0, -20.0)], 4, [4]),
        ([(-10.0, -20.0), (-10.0, -20.0)], 4, [2, 2]),
        ([(-10.0, -20.0), (-10.5, -20.0 + np.log(3))], 4, [1, 3]),
        ([(-10.0, -20.0), (-19.0, -29.0)], 4, [4, 0]),
        ([(-10.0, -20.0), (-10.0, np.nan)], 4, [2, 2]),  # on a border: by its height
        ([(-10.0, np.nan), (-10.0, np.nan), (-30.0, np.nan)], 3, [2, 1, 0]),
        ([(-10.0, -20.0), (-10.2, -20.2), (-10.4, -20.4)], 1, [1, 0, 0]),
    ],
)
def test_chains_are_shared_out_by_what_each_mode_holds(pairs, chains, expected):
    assert spread_over(modes(*pairs), chains).tolist() == expected


@pytest.fixture(scope="module")
def fit():
    """A shift of either sign: two modes far apart, of nearly one height."""
    y = np.r_[np.full(10, 2.9), np.full(10, -3.1)] + np.random.default_rng(0).normal(0, 0.4, 20)
    with pm.Model() as model:
        shift = pm.Normal("shift", 0.0, 5.0)
        sign = pm.Bernoulli("sign", 0.501, shape=20)
        pm.Normal("y", (2 * sign - 1) * shift, 1.0, observed=y)
    return emppl.fit(model, starts=6, seed=0)


def test_each_chain_starts_around_its_mode_and_again_with_the_same_seed(fit):
    one, two = (mode_starts(fit.plan, fit, 4, np.random.SeedSequence(3)) for _ in range(2))
    assert one.counts.tolist() == [2, 2] and one.n_modes == 2
    points = np.array([one(seed) for seed in (11, 12, 13, 14)])
    np.testing.assert_array_equal(points, [two(seed) for seed in (11, 12, 13, 14)])
    np.testing.assert_array_equal(points[0], one(11))  # asked once more, the chain stays the chain it was
    best = float(fit.point["shift"])
    assert (np.sign(points[:, 0]) == np.sign(best) * np.array([1, 1, -1, -1])).all()
    sd = 1 / np.sqrt(20 + 1 / 25)
    assert (np.abs(np.abs(points[:, 0]) - abs(best)) < 1.5 * 4 * sd).all()
    assert len(np.unique(points)) == 4


def test_a_mode_on_the_border_is_started_from_within():
    y = np.array([0, 0, 0, 0, 0, 0])
    with pm.Model() as model:
        p = pm.Beta("p", 1.0, 1.0)
        pm.Bernoulli("y", p, observed=y)
    fit = emppl.fit(model, starts=1, seed=0)
    starts = mode_starts(fit.plan, fit, 2, np.random.SeedSequence(0))
    for seed in (1, 2):
        point = fit.plan.structure.coordinates.constrain(starts(seed))
        assert 1e-6 < point["p"] < 0.9 and np.isfinite(fit.plan.log_posterior(point))


def test_sampling_from_the_modes(fit):
    draws = emppl.sample(fit, init="modes", draws=30, tune=60, chains=4, seed=1, sampler="pymc")
    assert draws.attrs["init"] == "modes"
    shift = draws["posterior"]["shift"].values
    assert sorted(np.sign(shift[:, -1])) == [-1, -1, 1, 1]
    found = emppl.compare(fit, draws, ascents=8)
    assert not found.mixing.holds and found.mixing.apart
    assert any("stay in different modes" in reason for reason in found.mixing.reasons)


def test_where_em_ends_in_no_mode_chains_start_at_random(fit, monkeypatch):
    monkeypatch.setattr(samplers, "mode_starts", lambda *_: None)
    with pytest.warns(RuntimeWarning, match="start at random"):
        start = samplers.chain_starts(fit.plan, fit, 2, "modes", np.random.SeedSequence(0))
    assert np.isfinite(start(5)).all()


def test_an_unknown_init_is_named(fit):
    with pytest.raises(InvalidArgumentError, match="'random' or 'modes', not 'mode'"):
        emppl.sample(fit, init="mode")
