"""Slips in a model are named by its variables, the place and both lengths; models without them pass."""

from collections.abc import Callable

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
import pytest

import emppl
from emppl.errors import InvalidDataError, UnsupportedModelError
from emppl.models import coins

ONE = np.float64(1.0)
Y = np.linspace(-2.0, 2.0, 8)
GROUP = np.array([0, 1, 2, 0, 1, 5, 0, 1])


def three_weights_two_means() -> None:
    z = pm.Categorical("z", p=pm.Dirichlet("w", np.ones(3)), shape=8)
    pm.Normal("y", pm.Normal("mu", shape=2)[z], ONE, observed=Y)


def three_weights_two_means_of_a_mixture() -> None:
    w, mu = pm.Dirichlet("w", np.ones(3)), pm.Normal("mu", shape=2)
    z = pm.Categorical("z", p=w, shape=8)
    pm.Normal("y", (2.0 * mu)[z[::-1]], ONE, observed=Y)


def a_group_too_many() -> None:
    z = pm.Bernoulli("z", 0.5, shape=8)
    effect = pm.Normal("effect", shape=3)
    pm.Normal("y", effect[GROUP] + z, ONE, observed=Y)


def nan_in_a_covariate() -> None:
    x = np.tile(Y[:, None], 2)
    x[6, 1] = np.nan
    b = pm.Normal("b", shape=(2, 2))
    pm.Normal("y", (b[pm.Bernoulli("z", 0.5, shape=8)] * x).sum(axis=-1), ONE, observed=Y)


def nan_in_named_data() -> None:
    x = pytensor.shared(np.r_[Y[:7], np.nan], name="age")
    b = pm.Normal("b", shape=2)
    pm.Poisson("y", pt.exp(b[pm.Bernoulli("z", 0.5, shape=8)] * x), observed=np.arange(8))


def a_probability_that_is_nan() -> None:
    z = pm.Bernoulli("z", np.nan, shape=8)
    pm.Normal("y", pm.Normal("mu", shape=2)[z], ONE, observed=Y)


def a_probability_above_one() -> None:
    z = pm.Bernoulli("z", 1.5, shape=8)
    pm.Normal("y", pm.Normal("mu", shape=2)[z], ONE, observed=Y)


def no_room() -> None:
    pm.Bernoulli("y", pm.Uniform("p", 0, 0, shape=2)[pm.Bernoulli("z", 0.5, shape=8)], observed=GROUP % 2)


def bounds_the_wrong_way_round() -> None:
    pm.Normal("y", pm.Uniform("m", ONE, -ONE, shape=2)[pm.Bernoulli("z", 0.5, shape=8)], ONE, observed=Y)


def a_negative_spread() -> None:
    pm.Normal("y", pm.Normal("m", 0.0, -2.0, shape=2)[pm.Bernoulli("z", 0.5, shape=8)], ONE, observed=Y)


def bounds_that_overflow() -> None:
    w, s = pm.Dirichlet("w", np.ones(2)), pm.HalfNormal("s", 5000.0)
    pm.Mixture("x", w=w, comp_dists=[pm.Normal.dist(0.0, s), pm.Uniform.dist(-20000, 20000)], observed=1000 * Y)


FAULTS: list[tuple[Callable[[], None], tuple[str, ...]]] = [
    (three_weights_two_means, ("z takes 3 values, 0 to 2", "mu", "2 elements")),
    (three_weights_two_means_of_a_mixture, ("z takes 3 values", "mu", "2 elements")),
    (a_group_too_many, ("index[5] is 5", "effect", "3 elements")),
    (nan_in_a_covariate, ("[6, 1] = nan", "y depends on it", "row 6", "(8, 2)")),
    (nan_in_named_data, ("age[7] = nan", "row 7")),
    (a_probability_that_is_nan, ("a number = nan", "z depends on it", "give it a value")),
    (a_probability_above_one, ("z[0] has no probabilities under Bernoulli(1.5)",)),
    (no_room, ("Uniform(0, 0) of p", "no room")),
    (bounds_the_wrong_way_round, ("Uniform(1, -1) of m", "no room")),
    (a_negative_spread, ("Normal(0, -2) of m", "no room")),
    (bounds_that_overflow, ("x is nan", "20000", "16 bits")),
]


@pytest.mark.parametrize(("write", "words"), FAULTS, ids=[write.__name__ for write, _ in FAULTS])
def test_a_slip_is_named(write: Callable[[], None], words: tuple[str, ...]):
    with pm.Model() as model:
        write()
    with pytest.raises(InvalidDataError) as caught:
        emppl.fit(model, seed=1, starts=2)
    assert not [word for word in words if word not in str(caught.value)], str(caught.value)
    assert caught.value.remedies


def test_only_what_is_observed_can_be_made_an_unknown():
    with pm.Model() as model:
        z = pm.Bernoulli("z", np.where(np.arange(8) == 4, np.nan, 0.4), shape=8)
        pm.Normal("y", pm.Normal("mu", shape=2)[z], ONE, observed=Y)
    with pytest.raises(InvalidDataError, match="row 4") as caught:
        emppl.fit(model, starts=1, seed=0)
    assert "observed=" not in str(caught.value)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_numbers_whose_squares_overflow_have_no_density():
    with pm.Model() as model:
        z = pm.Bernoulli("z", 0.4, shape=8)
        pm.Normal("y", pm.Normal("mu", 0.0, 10.0, shape=2)[z], ONE, observed=1e300 * Y)
    with pytest.raises(InvalidDataError, match=r"y\[0\] = -2e\+300 has no density"):
        emppl.fit(model, starts=1, seed=0)


def test_single_precision_is_named():
    with pytensor.config.change_flags(floatX="float32"), pytest.raises(UnsupportedModelError, match="floatX"):
        emppl.fit(coins.build(), starts=1)


def test_what_is_no_slip_passes():
    """Tables of indices of which only some are picked, negative indices, wide bounds that are doubles."""
    table = np.array([0, 1, 9])
    with pm.Model() as model:
        mu = pm.Normal("mu", shape=2)
        z = pm.Bernoulli("z", 0.5, shape=8)
        wide = pm.Uniform("wide", np.float64(-20000.0), np.float64(20000.0))
        pm.Normal("y", mu[pt.as_tensor(table)[z]] + mu[z - 2] + wide, ONE, observed=Y)
    assert emppl.analyse(model).plates[0].size == 8
