"""Agreement of starts: modes by height, the share of starts that is unseen, and more starts where it is large."""

from dataclasses import replace

import numpy as np
import pymc as pm
import pytest
from hypothesis import given
from hypothesis.strategies import integers, lists

import emppl
from emppl.ascent.agreement import UNSEEN_LIMIT, Agreement, agreement, modes_of
from emppl.ascent.certificate import starts_agree
from emppl.ascent.loop import Ascent, Status
from emppl.inference.information import Information

KNOWN = Information(*[np.zeros(0)] * 6)
END = Ascent({"mu": np.zeros(1)}, 0.0, Status.CONVERGED, "", 1, 1, 0.0, 0.0, np.zeros(1), [], KNOWN)


def ended(*heights: float) -> list[Ascent]:
    return [replace(END, objective=height) for height in heights]


def test_modes_are_told_apart_by_height_best_first():
    results = ended(-5.0, -1.0, -1.00001, -9.0)
    assert modes_of(results, range(4)) == {1: 0, 2: 0, 0: 1, 3: 2}
    assert modes_of([*results, replace(END, status=Status.FAILED)], range(5)) == {1: 0, 2: 0, 0: 1, 3: 2}


def test_heights_that_are_estimates_have_more_room():
    """Newton says what is left to be gained; Aitken's rule may be wrong by as much as 30 times."""
    near = ended(-1e7, -1e7 - 3e-4)
    assert len(set(modes_of(near, [0, 1]).values())) == 2
    assert len(set(modes_of([near[0], replace(near[1], information=None)], [0, 1]).values())) == 1


def test_large_objectives_are_equal_to_their_own_rounding():
    assert len(set(modes_of(ended(-1e9, -1e9 - 5e-4), [0, 1]).values())) == 1
    assert len(set(modes_of(ended(-1e3, -1e3 - 5e-4), [0, 1]).values())) == 2


def test_a_start_that_another_one_went_on_for_counts_as_carried_to_its_end():
    """Of a chain too; not where the other one was left behind after that."""
    left = replace(END, status=Status.SHORT, objective=-50.0)
    results = [*ended(0.0), *[left] * 4]
    twins = {1: 0, 2: 1, 4: 3}
    assert modes_of(results, range(5), twins) == {0: 0, 1: 0, 2: 0}
    found = agreement(results, [True] * 5, 0, twins)
    assert (found.reached, found.total, found.joined, found.left) == (3, 3, 2, 2) and found.holds
    assert starts_agree(found).text == (
        "reached by 3 of 3 starts carried to their end, 2 of them as far as where another one went on from, while 2 "
        "were left behind"
    )


@given(sizes=lists(integers(1, 20), min_size=1, max_size=6), seed=integers(0, 2**32 - 1))
def test_unseen_share_is_that_of_a_uniform_prior(sizes, seed):
    """Between nothing and everything, and larger the more modes the same number of starts ended in."""
    heights = [-3.0 * mode for mode, size in enumerate(sizes) for _ in range(size)]
    order = np.random.default_rng(seed).permutation(len(heights))
    found = agreement(ended(*np.array(heights)[order]), [True] * len(heights), int(np.argmin(order)))
    assert (found.reached, found.seen, found.settled) == (sizes[0], len(sizes), len(heights))
    assert found.others == tuple(3.0 * mode for mode in range(1, len(sizes)))
    assert 0.0 <= found.unseen <= 1.0
    more = replace(found, seen=found.seen + 1)
    assert more.unseen >= found.unseen
    if found.missing and found.is_scattered:
        assert replace(found, settled=found.settled + found.missing).unseen <= UNSEEN_LIMIT


def test_published_values_of_the_unseen_share():
    """Boender & Rinnooy Kan (1987): w (w + 1) / (n (n - 1))."""
    assert Agreement(2, 10, (1.0, 2.0), 10, 3).unseen == pytest.approx(12 / 90)
    assert Agreement(10, 10, (), 10, 1).unseen == 0.0


def test_starts_that_scatter_leave_a_doubt_with_its_number():
    point = starts_agree(Agreement(7, 10, (0.1, 5.0, 20.0), 10, 4))
    assert not point.holds and point.value == pytest.approx(20 / 90) and point.limit == UNSEEN_LIMIT
    assert "7 of 10 starts; 3 other modes found, 0.1 to 20 nats lower; an estimated 22% of random starts" in point.text
    near = starts_agree(Agreement(7, 10, (0.1, 0.2, 0.5), 10, 4))
    assert near.holds and "0.1 to 0.5 nats lower" in near.text
    assert starts_agree(Agreement(3, 10, (57.0,), 10, 2)).holds
    assert not starts_agree(Agreement(1, 10, (1.0, 2.0), 10, 3)).holds
    assert "raise `starts`" in starts_agree(Agreement(1, 10, (1.0, 2.0), 10, 3)).text
    assert starts_agree(Agreement(4, 10)).holds and starts_agree(Agreement(1, 1)).holds


def steps(seed: int = 2009) -> pm.Model:
    """Lengths of 1 to 4 hidden units: multiples of the wrong unit are modes of their own, far below."""
    rng = np.random.default_rng(seed)
    number = rng.choice(np.arange(1, 5), 60, p=[0.4, 0.3, 0.2, 0.1])
    with pm.Model() as model:
        share = pm.Dirichlet("share", np.ones(4))
        unit = pm.HalfNormal("unit", np.float64(10.0))
        sd = pm.HalfNormal("sd", np.float64(2.0))
        count = pm.Categorical("count", p=share, shape=60)
        pm.Normal("length", (count + 1) * unit, sd, observed=rng.normal(3.7 * number, 0.45))
    return model


def test_far_modes_are_left_behind_or_doubted():
    plan = emppl.plan(steps())
    for seed in range(3):
        fit = emppl.fit(plan, seed=seed, starts=5)
        right = abs(float(fit.theta["unit"]) - 3.7) < 0.1
        assert right or not fit.certificate.holds
        assert 5 <= len(fit.starts) <= 15
        assert list(fit.starts["start"]) == list(range(len(fit.starts)))


def test_starts_that_agree_are_as_many_as_asked_for():
    rng = np.random.default_rng(1)
    y = np.concatenate([rng.normal(-4, 1, 30), rng.normal(4, 1, 20)])
    with pm.Model() as model:
        w = pm.Dirichlet("w", np.ones(2))
        mu = pm.Normal("mu", np.float64(0.0), np.float64(10.0), shape=2)
        z = pm.Categorical("z", p=w, shape=50)
        pm.Normal("y", mu[z], np.float64(1.0), observed=y)
    fit = emppl.fit(model, seed=1, starts=4)
    assert len(fit.starts) == 4 and fit.certificate.holds
