"""Coordinates of different components moved at once, against one coordinate at a time."""

import numpy as np
import pymc as pm
import pytest

import emppl
from emppl.estep import missing
from emppl.inference import differences
from emppl.inference.information import observed_information
from emppl.models import dawid_skene, gaussian_mixture, latent_class
from emppl.planner import Plan


def coupled(strength: float) -> pm.Model:
    """Two normals whose means a potential ties together, which no eta shows."""
    y = np.r_[np.random.default_rng(0).normal(-2, 1, 60), np.random.default_rng(1).normal(2, 1, 40)]
    with pm.Model() as model:
        w = pm.Dirichlet("w", np.ones(2))
        mu = pm.Normal("mu", 0.0, 10.0, shape=2)
        sd = pm.HalfNormal("sd", 2.0, shape=2)
        pm.Potential("tie", -np.float64(strength) * (mu[0] * mu[1] + sd[0] * mu[1]))
        z = pm.Categorical("z", p=w, shape=100)
        pm.Normal("y", mu[z], sd[z], observed=y)
    return model


CASES = {
    "full": lambda: gaussian_mixture.build(k=3, covariance="full"),
    "tied": lambda: gaussian_mixture.build(k=3, covariance="tied"),
    "several items": latent_class.build,
    "coupled by a prior": lambda: coupled(3.0),
}


@pytest.mark.parametrize("name", CASES)
def test_the_same_as_one_at_a_time(monkeypatch, name):
    monkeypatch.setattr(missing, "WORTHWHILE", 0)
    plan = emppl.plan(CASES[name]())
    point = plan.structure.coordinates.unconstrain(emppl.fit(plan, seed=0, starts=2).point)
    asked, groups, grouped = [], differences._groups, differences._in_groups
    monkeypatch.setattr(differences, "_groups", lambda *a: asked.append(groups(*a)) or asked[-1])
    kept = []
    monkeypatch.setattr(differences, "_in_groups", lambda *a: kept.append(grouped(*a)) or kept[-1])
    one = observed_information(plan, point)
    assert not kept
    monkeypatch.setattr(missing, "OWNED", 0)
    two = observed_information(plan, point)
    scale = np.abs(one.information).max()
    np.testing.assert_allclose(two.information, one.information, rtol=1e-6, atol=1e-8 * scale)
    assert len(asked[-1]) < len(point)
    if name == "coupled by a prior":
        assert kept == [None]  # seen along a random direction, and done again one at a time
    else:
        assert kept[-1] is not None


def test_many_coordinates_and_few_rows(monkeypatch):
    """63 of them and 45 patients: so many are moved in groups, however short a pass is."""
    plan = emppl.plan(dawid_skene.build())
    point = plan.structure.coordinates.unconstrain(emppl.fit(plan, seed=0, starts=1).point)
    point += 0.1 * np.random.default_rng(0).normal(size=len(point))
    passes = []
    gradient = Plan.gradient
    monkeypatch.setattr(Plan, "gradient", lambda *a: passes.append(1) or gradient(*a))
    grouped = observed_information(plan, point)
    assert len(passes) == 1
    monkeypatch.setattr(missing, "OWNED", 1000)
    alone = observed_information(plan, point)
    assert len(passes) > 2 * len(point)
    scale = np.sqrt(np.diag(alone.information))
    np.testing.assert_allclose(
        grouped.information / scale / scale[:, None], alone.information / scale / scale[:, None], atol=1e-8
    )
    np.testing.assert_array_equal(grouped.gradient, alone.gradient)
