"""Derivatives of traced numbers, against differences and against PyTensor's own."""

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
import pytest
import scipy.special
import small_models

import emppl
from emppl.compiling import CompiledSlope, compile_graph
from emppl.models import dawid_skene, gaussian_mixture, latent_class, mixture_regression, zero_inflated
from emppl.unrolled.machine import INSTRUCTIONS, machine_code
from emppl.unrolled.slopes import FLAT, RULES, with_slope
from emppl.unrolled.tracing import PYTHON

X = np.array([0.3, 0.7, 0.45])
SPECIAL = scipy.special
# each operation that has a rule, of numbers that all hang on x
FUNCTIONS = {
    np.add: lambda x: x + 2.0 * x[::-1],
    np.subtract: lambda x: 1.0 - x - x[::-1],
    np.multiply: lambda x: x * x[::-1] * 3.0,
    np.divide: lambda x: 2.0 / x + x / x[::-1],
    np.negative: lambda x: -x,
    np.reciprocal: lambda x: np.reciprocal(x),
    np.power: lambda x: x**2.5 + x**-2 + 2.0**x + x ** x[::-1],
    np.maximum: lambda x: np.maximum(x, 0.4) + np.maximum(0.4, x) ** 2,
    np.minimum: lambda x: np.minimum(x, 0.4) + np.minimum(0.4, x[::-1]) ** 2,
    np.where: lambda x: np.where(x > 0.4, x**3, np.where(x < 0.35, 1.0, x)),
    np.absolute: lambda x: np.abs(x - 0.4) * x,
    np.fabs: lambda x: np.fabs(0.4 - x) * x,
}
FUNCTIONS |= {ufunc: ufunc for ufunc in RULES if getattr(ufunc, "nin", 0) == 1 and ufunc not in FUNCTIONS}


def slope_by_machine(function, x):
    code = machine_code(with_slope(function), [x.shape])
    value, gradient = code(x)
    return float(value), gradient


def by_differences(function, x, h=1e-3):
    def slope(h):
        return np.array([(function(x + h * e) - function(x - h * e)) / (2 * h) for e in np.eye(len(x))])

    return (4.0 * slope(h / 2) - slope(h)) / 3.0  # Richardson


@pytest.mark.parametrize("ufunc", [u for u in RULES if isinstance(u, np.ufunc)] + [np.where], ids=lambda u: u.__name__)
def test_each_rule_is_the_derivative(ufunc):
    weights = np.array([1.0, -2.0, 0.5])

    def function(x):
        return (FUNCTIONS[ufunc](x) * weights).sum()

    value, gradient = slope_by_machine(function, X)
    assert value == pytest.approx(function(X), rel=1e-14)
    np.testing.assert_allclose(gradient, by_differences(function, X), rtol=2e-8, atol=1e-9)


def test_every_operation_of_plain_numbers_has_a_derivative():
    """What both languages write out is differentiated; what only scipy has falls back on PyTensor's gradient."""
    known = set(RULES) | FLAT | {np.square}
    assert set(PYTHON) <= known
    assert {ufunc for ufunc in INSTRUCTIONS if ufunc in RULES} >= set(PYTHON) - FLAT - {SPECIAL.gammaln}


@pytest.mark.parametrize(
    "function",
    [
        lambda x: (x * 0.0 + 2.0).sum(),
        lambda x: np.linalg.cholesky(x[0] * np.eye(3) + np.outer(np.array([1.0, 2, 3]), np.array([1.0, 2, 3]))).sum(),
        lambda x: (np.array([[2.0, 1.0, 0.5]]) @ x)[0] ** 2,
        lambda x: np.log(np.exp(x).sum()) + np.cumsum(x)[1] * x[2] + np.maximum.reduce(x),
        lambda x: np.where(x > 0.5, np.log(x - 0.5 + (x <= 0.5) * 1.0), 0.0).sum(),
        lambda x: ((x > 0.5) * x).sum(),
        lambda x: np.where(x <= 0.4, x, np.log(x - 0.3) * 2.0).sum(),  # the other is infinite
    ],
)
def test_whole_functions(function):
    _, gradient = slope_by_machine(function, X)
    with np.errstate(all="ignore"):
        np.testing.assert_allclose(gradient, by_differences(function, X), rtol=1e-7, atol=1e-9)


def test_what_does_not_hang_on_it_has_no_slope():
    _, gradient = slope_by_machine(lambda x: np.where(x > 9.0, 1.0, 2.0).sum(), X)
    np.testing.assert_array_equal(gradient, np.zeros(3))


MODELS = {
    "mixture": lambda: emppl.plan(gaussian_mixture.build()),
    "mixture, ml": lambda: emppl.plan(gaussian_mixture.build(), estimate="ml"),
    "latent class": lambda: emppl.plan(latent_class.build()),
    "raters": lambda: emppl.plan(dawid_skene.build()),
    "regressions": lambda: emppl.plan(mixture_regression.build(), estimate="ml"),
    "zero-inflated": lambda: emppl.plan(zero_inflated.build()),
    **{name: (lambda name=name: small_models.plan(name)) for name in small_models.MODELS},
}


@pytest.mark.parametrize("name", MODELS)
def test_the_expected_log_joint_of_models(name):
    """Value and gradient, and those of the Jacobian, are PyTensor's to rounding."""
    plan = MODELS[name]()
    coordinates, rng = plan.structure.coordinates, np.random.default_rng(3)
    for _ in range(3):
        u = 0.3 * rng.normal(size=coordinates.size)
        posterior = plan.e_step(coordinates.constrain(u), keep=True)
        tables = [r for r, table in zip(posterior.responsibilities, plan.expected.tables) if table is not None]
        v = coordinates.raw(u + 0.1 * rng.normal(size=coordinates.size))
        same(plan.expected.with_gradient, [v, *posterior.statistics, *tables])
        if coordinates.has_jacobian:
            same(coordinates.jacobian_of_raw, [v])


def same(slope, arguments):
    with np.errstate(all="ignore"):
        value, gradient = slope(*arguments)
        expected, wanted = slope._by_graph(*arguments)
    size = max(1.0, float(np.abs(wanted).max(initial=0.0)))
    assert float(value) == pytest.approx(float(expected), rel=1e-11, abs=1e-11)
    np.testing.assert_allclose(gradient, wanted, rtol=1e-9, atol=1e-10 * size)


def test_the_gradient_of_pytensor_is_compiled_where_it_is_needed_alone():
    x = pt.dvector("x")
    slope = CompiledSlope([x], (pt.exp(x) * x).sum())
    _, gradient = slope(X)
    np.testing.assert_allclose(gradient, np.exp(X) * (1.0 + X), rtol=1e-14)
    assert "_by_graph" not in slope.__dict__
    with np.errstate(over="ignore"):
        assert slope(np.array([800.0, 0.0, 1.0]))[0] == np.inf  # handed over
    assert "_by_graph" in slope.__dict__


def test_what_has_no_rule_is_differentiated_by_pytensor():
    x = pt.dvector("x")
    slope = CompiledSlope([x], pt.psi(x).sum())
    np.testing.assert_allclose(slope(X)[1], scipy.special.polygamma(1, X), rtol=1e-12)


def test_many_numbers_become_machine_code():
    """Beyond what plain Python is worth: the same numbers as PyTensor's gradient, which is not compiled for it."""
    x, y = pt.dvector("x", shape=(200,)), pt.dmatrix("y", shape=(3, 200))
    slope = CompiledSlope([x, y], (pt.log(pt.exp(x * y).sum(axis=0)) * y[0]).sum())
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=200), rng.normal(size=(3, 200))]
    _, gradient = slope(*arrays)
    assert "_by_graph" not in slope.__dict__
    np.testing.assert_allclose(gradient, slope._by_graph(*arrays)[1], rtol=1e-10, atol=1e-12)
    function = compile_graph([x, y], pytensor.grad(slope.output, x))
    np.testing.assert_array_equal(slope._by_graph(*arrays)[1], function(*arrays))


def test_a_fit_takes_the_derivative_that_is_there_at_once():
    with pm.Model() as model:
        p = pm.Beta("p", 2, 2, shape=2)
        z = pm.Bernoulli("z", 0.3, shape=40)
        pm.Bernoulli("y", p[z], observed=(np.arange(40) % 3 == 0).astype(int))
    fit = emppl.fit(model, latents=["z"], seed=0)
    assert fit.certificate.holds and "_by_graph" not in fit.plan.expected.with_gradient.__dict__
