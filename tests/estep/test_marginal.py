"""The Op of the marginal log-likelihood: numpy, numba and a graph that PyTensor differentiates itself agree."""

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from oracles import INTERPRETED
from pytensor.compile.mode import Mode

from emppl.estep.data import PlateData
from emppl.estep.marginal import MarginalLogLikelihood, marginal_log_likelihood, members, register
from emppl.kernels.features import Features

RNG = np.random.default_rng(11)
N, F, K = 40, 3, 4
FEATURES, BASE = RNG.normal(size=(N, F)), RNG.normal(size=N)
WEIGHTS = np.r_[np.zeros(3), RNG.uniform(0.1, 2.0, N - 3)]
DATA = PlateData(Features.of(FEATURES), BASE, WEIGHTS)
MEMBERS = members(DATA)
POINTS = RNG.normal(size=(3, 2 * K * F))


def eta_of(u):
    """A small graph eta(u), as a model has one: the chain rule must go through it."""
    return pt.tanh(u[: K * F].reshape((K, F))) + u[K * F :].reshape((K, F)) ** 2


def by_the_op(u):
    value, _ = marginal_log_likelihood(eta_of(u), *MEMBERS)
    return value + DATA.base_sum


def by_autodiff(u):
    log_joint = pt.constant(FEATURES) @ eta_of(u).T + BASE[:, None]
    return (WEIGHTS * pt.logsumexp(log_joint, axis=1)).sum()


def compiled(build, mode):
    u = pt.dvector("u")
    value = build(u)
    return pytensor.function([u], [value, pytensor.grad(value, u)], mode=mode)


@pytest.fixture(scope="module")
def reference():
    function = compiled(by_autodiff, INTERPRETED)
    return [function(u) for u in POINTS]


@pytest.fixture(scope="module")
def numba():
    register()
    return Mode(linker="numba", optimizer="fast_compile")


def test_perform_equals_autodiff(reference):
    function = compiled(by_the_op, INTERPRETED)
    for u, (value, slope) in zip(POINTS, reference):
        found, by_fisher = function(u)
        np.testing.assert_allclose(found, value, rtol=1e-12)
        np.testing.assert_allclose(by_fisher, slope, rtol=1e-8, atol=1e-10)


def test_numba_equals_autodiff(reference, numba):
    function = compiled(by_the_op, numba)
    for u, (value, slope) in zip(POINTS, reference):
        found, by_fisher = function(u)
        np.testing.assert_allclose(found, value, rtol=1e-12)
        np.testing.assert_allclose(by_fisher, slope, rtol=1e-8, atol=1e-10)


def test_both_outputs_of_both_versions(numba):
    """The statistics too, at a log of zero, and -inf where nothing explains a member."""
    eta = pt.dmatrix("eta")
    counts = PlateData(Features.of(np.abs(FEATURES)), BASE, WEIGHTS)  # logs of zero are met by counts alone
    outputs = marginal_log_likelihood(eta, *members(counts))
    slow, fast = (pytensor.function([eta], outputs, mode=mode) for mode in (INTERPRETED, numba))
    values = RNG.normal(size=(K, F))
    impossible = np.full((K, F), -np.inf)
    for case in (values, np.where(np.arange(K)[:, None] == 1, -np.inf, values)):
        for one, two in zip(slow(case), fast(case)):
            np.testing.assert_allclose(one, two, rtol=1e-10, atol=1e-12)
    assert slow(impossible)[0] == fast(impossible)[0] == -np.inf


def test_the_gradient_goes_to_eta_alone():
    op = MarginalLogLikelihood()
    assert op == marginal_log_likelihood and hash(op) == hash(
        marginal_log_likelihood
    )  # one compiled function serves all
    eta, columns = pt.dmatrix("eta"), pt.dmatrix("columns")
    value, statistics = op(eta, columns, *MEMBERS[1:])
    slope = pytensor.grad(3.0 * value, eta)
    function = pytensor.function([eta, columns], [slope, statistics], mode=INTERPRETED)
    point = RNG.normal(size=(K, F))
    by_fisher, expected = function(point, MEMBERS[0].get_value())
    np.testing.assert_allclose(by_fisher, 3.0 * expected)
    with pytest.raises(pytensor.gradient.DisconnectedInputError):
        pytensor.grad(value, columns)


def test_shapes_are_known_without_running():
    eta = pt.dmatrix("eta")
    _, statistics = marginal_log_likelihood(eta, *MEMBERS)
    function = pytensor.function([eta], statistics.shape, mode=INTERPRETED)
    assert tuple(int(n) for n in function(np.zeros((K, F)))) == (K, F)


@pytest.mark.parametrize(("writeable", "layout"), [(True, "C"), (False, "F")])
def test_the_loop_takes_what_a_sampler_hands_over(writeable, layout):
    """nutpie hands over data that may not be written to; a graph may lay eta out either way."""
    from emppl.kernels.compiled import marginal

    arrays = [variable.get_value() for variable in MEMBERS]
    for array in arrays:
        array.flags.writeable = writeable
    eta = RNG.normal(size=(K, F))
    value, statistics = marginal(np.asarray(eta, order=layout), *arrays)
    log_joint = FEATURES @ eta.T
    peak = log_joint.max(axis=1, keepdims=True)
    density = np.exp(log_joint - peak)
    expected = WEIGHTS @ (np.log(density.sum(axis=1)) + peak[:, 0])
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    shares = WEIGHTS[:, None] * density / density.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(statistics, shares.T @ FEATURES, rtol=1e-10)
