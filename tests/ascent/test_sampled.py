"""Where members are many, the checks of the certificate look at some of them, and find there what is wrong with all."""

from dataclasses import replace

import numpy as np
import pytest
import small_models

from emppl.ascent import certificate, sampled


@pytest.fixture
def few(monkeypatch):
    """Every plan is long enough to be looked at in part."""
    monkeypatch.setattr(sampled, "LONG", 0.0)
    monkeypatch.setattr(sampled, "MEMBERS", 3)


def fresh(name):
    """A plan whose structure holds nothing that another certificate compiled."""
    plan = small_models.plan(name)
    return replace(plan, structure=replace(plan.structure))


LOOKED_AT = (
    "coins",
    "normal_mixture",
    "rates_with_exposure",
    "several_observed",
    "lines",
    "two_plates",
    "hierarchical",
)


@pytest.mark.parametrize("name", small_models.MODELS)
def test_the_log_joint_of_some_members_equals_pymc(name, few):
    plan = fresh(name)
    for theta in small_models.points(plan, count=2):
        point = certificate.log_joint_agrees(plan, theta)
        assert point.holds, point.text
        assert ("members" in point.text) or name not in LOOKED_AT


@pytest.mark.parametrize("name", LOOKED_AT)
def test_what_is_wrong_with_some_members_is_found(name, few):
    plan = fresh(name)
    (theta,) = small_models.points(plan, count=1)
    for p, (plate, members) in enumerate(zip(plan.engine.plates, plan.structure.plates)):
        off = replace(plate, base=plate.base + 1e-5)
        engine = plan.engine.with_data([*plan.engine.plates[:p], off, *plan.engine.plates[p + 1 :]])
        assert not certificate.log_joint_agrees(replace(plan, engine=engine), theta).holds
        if len(np.unique(np.asarray(plate.features), axis=0)) < len(plate.features):
            continue
        others = list(plan.structure.plates)
        others[p] = replace(members, members=np.roll(members.members, 1, axis=0))
        wrong = replace(plan, structure=replace(plan.structure, plates=tuple(others)))
        assert not certificate.log_joint_agrees(wrong, theta).holds


def test_the_gradient_of_some_members_is_that_of_all_when_all_are_taken():
    for name in LOOKED_AT:
        plan = small_models.plan(name)
        (theta,) = small_models.points(plan, count=1)
        u = plan.structure.coordinates.unconstrain(theta)
        everyone = [np.arange(plate.size) for plate in plan.structure.plates]
        unweighted = plan.engine.with_data([replace(p, weights=None) for p in plan.engine.plates])
        _, wanted, _ = replace(plan, engine=unweighted).gradient(u)
        found = certificate._fisher_gradient(plan, u, everyone)
        np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-9)
