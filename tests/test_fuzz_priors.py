"""Some dozen random sets of priors against PyMC; `python tests/fuzz_priors.py --n 10000` checks many more."""

import fuzz_priors
import numpy as np
import pymc as pm
import pytest

import emppl

SEEDS = (0, 1, 2, 3)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_log_prior_is_that_of_pymc(seed):
    outcome = fuzz_priors.check(seed)
    assert not outcome.wrong and outcome.priors >= 2 * fuzz_priors.PER_MODEL


def test_every_family_is_met():
    met = {prior.family for seed in range(30) for prior in fuzz_priors.Maker(seed).priors}
    assert met == set(fuzz_priors.FAMILIES)


def test_a_confused_prior_is_seen(monkeypatch):
    """Two priors that stand beside each other and are alike but for a number, as one."""
    reference = fuzz_priors.Maker.reference

    def confused(self):
        values = reference(self)
        values[1] = values[0]
        return values

    monkeypatch.setattr(fuzz_priors.Maker, "reference", confused)
    assert "v1" in fuzz_priors.check(0).wrong


PRIORS = {
    "Beta": [(1.0, 1.0), (10.0, 1.0), (1.0, 10.0)],
    "Normal": [(0, 5), (0, 5), (0, 3)],
    "LogNormal": [(1.0, 1.0), (3.0, 1.0)],
    "InverseGamma": [(2.0, 2.0), (5.0, 2.0)],
    "Gamma": [(2, 2), (5, 2), (2, 7)],
}


def test_priors_that_are_alike_are_not_confused():
    values = np.array([0.3, 0.6])
    with pm.Model() as model:
        v = [
            getattr(pm, family)(f"{family}_{i}", *numbers, shape=2)
            for family, sets in PRIORS.items()
            for i, numbers in enumerate(sets)
        ]
        z = pm.Bernoulli("z", 0.5, shape=6)
        pm.Normal("y", sum(v)[z], 1.0, observed=np.arange(6.0))
    expected = sum(
        pm.logp(getattr(pm, family).dist(*map(np.float64, numbers)), values).sum().eval(mode="FAST_COMPILE")
        for family, sets in PRIORS.items()
        for numbers in sets
    )
    np.testing.assert_allclose(emppl.plan(model).log_prior({rv.name: values for rv in v}), expected, rtol=1e-13)
