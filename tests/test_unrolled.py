"""Numpy functions written out number by number give the same numbers to rounding, or hand over."""

import numpy as np
import pymc as pm
import pytest
import scipy.special
import small_models

import emppl
from emppl import unrolled as module
from emppl.compiling import compile_graph
from emppl.models import coins, gaussian_mixture, poisson_mixture
from emppl.mstep.closed_form import ClosedForm
from emppl.unrolled import Unrolled, add_at, cholesky, put, solve_triangular
from emppl.unrolled.machine import machine_code
from emppl.unrolled.tracing import Number, Tape, Traced, Untraceable

RNG = np.random.default_rng(5)
V, M, B = RNG.uniform(0.2, 0.9, 3), RNG.uniform(0.2, 0.9, (3, 3)), RNG.normal(size=(2, 3, 3))
SPD = B @ B.mT + 3.0 * np.eye(3)
FUNCTIONS = {
    "arithmetic": lambda v, m, b: 2.0 * v + m / (1.0 - v) - v * v * m - (-b),
    "neutral numbers": lambda v, m, b: (0.0 + v * 1.0 - 0.0) / 1.0 + v * 0.0 + 1.0 * m,
    "powers": lambda v, m, b: v**2 + m**-3 + v**0.5 + m**v + np.square(b) + np.reciprocal(v),
    "functions": lambda v, m, b: np.exp(b) + np.log(v) + np.log1p(-v) + np.expm1(m) + np.sqrt(m) + np.abs(b),
    "extremes": lambda v, m, b: np.maximum(b, v) + np.minimum(m, v) + np.maximum.reduce(b, axis=(0, 2)),
    "conditions": lambda v, m, b: np.where((b > v) & ~(m <= 0.5) | (b == 0.0), b, -v) + (b != m).astype(float),
    "truth as numbers": lambda v, m, b: [(v > 0.5) * 1.0, (m > v) + 0.0, b > 0.0, (v > 0.5) & (v < 0.7)],
    "truth with truth": lambda v, m, b: [
        (v > 0.5) + (m > v),
        (v > 0.5) * (m > v),
        np.maximum(v > 0.5, m > v),
        (v > 0.5) == (m > v),
        np.add.reduce(b > 0.0, axis=0, dtype=int) * 0.5,
    ],
    "not finite": lambda v, m, b: np.where(np.isinf(v) | np.isnan(m) | ~np.isfinite(v), 1.0, v),
    "more functions": lambda v, m, b: np.log2(v) + np.sinh(b) * np.cosh(m),
    "known conditions": lambda v, m, b: np.where(np.array([True, False, True]), v, m),
    "sums": lambda v, m, b: v.sum() + m.sum(axis=0) + b.sum(axis=(0, -1)) + np.sum(m, 1) + m.mean(axis=1),
    "kept axes": lambda v, m, b: m / np.add.reduce(m, 1, keepdims=True) + np.multiply.reduce(b, axis=0),
    "moved": lambda v, m, b: np.concatenate([m.T, b.mT[0], np.stack([v, v[::-1]])])[[0, 3, 7], 1:],
    "reshaped": lambda v, m, b: m.reshape(9)[None, ::2] + b.transpose(2, 0, 1).reshape(-1, 1) + m.diagonal()[0],
    "of a dtype": lambda v, m, b: [
        np.concatenate([v > 0.5, v], dtype="float64"),
        np.stack([v, v], axis=1, dtype=float),
        (v > 0.5).astype(float),
    ],
    "columns": lambda v, m, b: np.column_stack([v, m[:, 0]]) + np.diagonal(b, axis1=-2, axis2=-1).T,
    "unpacked": lambda v, m, b: sum(row * k for k, row in enumerate(m)) + len(m) * np.ndim(b) * np.shape(b)[1],
    "products": lambda v, m, b: m @ v + v @ m + (v @ v) + (b @ m)[1] + np.dot(b, m)[0] + np.dot(m, b)[:, 1] + m @ M,
    "several": lambda v, m, b: [v, m @ v, b[0, 1, 2], np.array([1.0, 2.0])],
    "in place": lambda v, m, b: _in_place(m),
    "factors": lambda v, m, b: np.linalg.cholesky(b @ b.mT + 3.0 * np.eye(3)),
}


def _in_place(m):
    m = m.copy()
    np.exp(m, out=m)
    m[0, 1:] = 7.0
    m += 1.0
    return m


@pytest.fixture
def worth(monkeypatch):
    """However long it takes."""
    monkeypatch.setattr(module, "WORTH", 1000)


def written(function, *arrays):
    """The function written out, known to be in use: it must not hand over."""
    found = module.written_out(function, arrays)
    assert found is not None
    return found


def same(found, expected):
    if isinstance(expected, list):
        assert len(found) == len(expected)
        for pair in zip(found, expected):
            same(*pair)
        return
    assert isinstance(found, np.ndarray) and found.dtype == np.asarray(expected).dtype
    assert found.shape == np.shape(expected)
    np.testing.assert_allclose(found, expected, rtol=1e-13, atol=1e-13)


@pytest.mark.usefixtures("worth")
@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_same_numbers(name):
    function = FUNCTIONS[name]
    found = written(function, V, M, B)
    for seed in range(5):
        rng = np.random.default_rng(seed)
        arrays = rng.uniform(0.2, 0.9, 3), rng.uniform(0.2, 0.9, (3, 3)), rng.normal(size=(2, 3, 3))
        same(found(*arrays), function(*arrays))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_same_numbers_by_machine_code(name):
    def function(*arrays):
        results = FUNCTIONS[name](*arrays)
        return results if isinstance(results, list) else [results]

    code = machine_code(function, [V.shape, M.shape, B.shape])
    for seed in range(3):
        rng = np.random.default_rng(seed)
        arrays = rng.uniform(0.2, 0.9, 3), rng.uniform(0.2, 0.9, (3, 3)), rng.normal(size=(2, 3, 3))
        for found, expected in zip(code(*arrays), function(*arrays), strict=True):
            assert found.shape == np.shape(expected)
            np.testing.assert_allclose(found, np.asarray(expected, float), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("name", ["gammaln", "psi", "erf", "erfcx", "log_ndtr", "i1e", "xlogy", "betaln", "gammainc"])
def test_functions_of_scipy_in_machine_code(name):
    function, x = getattr(scipy.special, name), np.array([1e-8, 0.3, 2.2, 171.0])
    arguments = [x] * function.nin
    (found,) = machine_code(lambda *a: [function(*a)], [x.shape] * function.nin)(*arguments)
    np.testing.assert_allclose(found, function(*arguments), rtol=1e-13)


def test_numbers_that_are_not_finite_go_through_machine_code():
    def function(v):
        return [
            1.0 / v,
            np.log(v),
            np.maximum(v, 0.5),
            np.minimum(0.5, v),
            np.where(v > 0.0, v, -v),
            np.sign(v),
            np.sqrt(v),
        ]

    values = np.array([0.0, -0.0, -1.0, np.inf, -np.inf, np.nan])
    with np.errstate(all="ignore"):
        for found, expected in zip(machine_code(function, [(6,)])(values), function(values), strict=True):
            np.testing.assert_array_equal(found, expected)


def test_a_negative_pivot_has_no_answer():
    code = machine_code(lambda a: [np.linalg.cholesky(a)], [(2, 2)])
    np.testing.assert_allclose(code(SPD[0, :2, :2])[0], np.linalg.cholesky(SPD[0, :2, :2]), rtol=1e-14)
    assert code(-np.eye(2)) is None
    with pytest.raises(ValueError, match="3 numbers for 4 inputs"):
        code(np.ones(3))


@pytest.mark.parametrize(
    "function, reason",
    [
        (lambda v: [np.sort(v)], "sort"),
        (lambda v: [v if v[0] > 0.0 else -v], "depends on values"),
        (lambda v: [scipy.special.zeta(v)], "zeta"),
        (lambda v: [v[0] + np.arange(90_000.0)], "numbers"),
        (lambda v: [v + np.ones(4)], "ValueError"),
    ],
)
def test_why_there_is_no_machine_code(function, reason):
    with pytest.raises(Untraceable, match=reason):
        machine_code(function, [(3,)])


@pytest.mark.usefixtures("worth")
@pytest.mark.parametrize("lower", [True, False])
@pytest.mark.parametrize("unit", [True, False])
def test_triangular_matrices(lower, unit):
    right = np.concatenate([np.eye(3)[:, ::-1], B[0]], axis=1)
    factors = np.linalg.cholesky(SPD)
    factors = factors if lower else factors.mT

    def known(a):
        ones = np.eye(3) if unit else np.zeros((3, 3))
        return np.linalg.solve(np.where(ones > 0, 1.0, a), np.broadcast_to(right, (2, *right.shape)))

    found = written(lambda a: solve_triangular(a, right, lower, unit), factors)
    same(found(factors * 1.5), known(factors * 1.5))
    same(written(lambda a: cholesky(a, lower), SPD)(SPD), factors)


@pytest.mark.usefixtures("worth")
@pytest.mark.parametrize("index", [(slice(None), np.array([0, 2])), np.array([1, 1, 0]), (0, slice(1, 3))])
@pytest.mark.parametrize("step", [put, add_at])
def test_entries_set_or_added_to(step, index):
    values = B[0][index]
    for function in (lambda w, v: step(w, index, v), lambda w, v: w + v.sum() + step(M, index, v)):
        same(written(function, B[1], values)(B[0], 2.0 * values), function(B[0], 2.0 * values))


@pytest.mark.parametrize(
    "function, values",
    [
        (lambda v: 1.0 / v, [0.0, 1.0]),
        (lambda v: np.log(v), [0.0, 1.0]),
        (lambda v: np.log(v), [-1.0, 1.0]),
        (lambda v: np.sqrt(v), [-1.0, 1.0]),
        (lambda v: v**1.5, [-1.0, 1.0]),
        (lambda v: np.exp(v), [1e4, 1.0]),
        (lambda v: v * v, [1e200, 1.0]),
        (lambda v: v * 0.0, [np.inf, 1.0]),
        (lambda v: np.maximum(v, 0.5), [np.nan, 1.0]),
        (lambda v: np.minimum(0.5, v), [np.nan, 1.0]),
        (lambda v: np.maximum(0.5, v), [np.nan, 1.0]),
        (lambda v: np.minimum(v, 0.5), [np.nan, 1.0]),
        (lambda v: v - v[0], [np.inf, 1.0]),
        (lambda v: np.linalg.cholesky(v[:, None] * np.eye(2)) + 0.0 * v.sum(), [0.0, 1.0]),
        (lambda v: np.linalg.cholesky(v[:, None] * np.eye(2)), [1.0, 0.0]),
        (lambda v: v[:2] + 1.0, [1.0, 2.0, 3.0]),
    ],
)
def test_what_plain_numbers_cannot_is_handed_over(function, values):
    found = Unrolled(function, lambda v: function(v) if v[0] == 0.3 else "asked")
    with np.errstate(all="ignore"):
        same(found(np.array([0.3, 0.6])), function(np.array([0.3, 0.6])))
    assert found.is_plain
    assert not isinstance(found(np.array([0.4, 0.7])), str)
    assert found(np.array(values)) == "asked"


def test_not_a_number_is_larger_and_smaller_than_everything():
    """Where it leaves no trace in the result it must not change which one is chosen."""
    found = written(lambda v: np.where(np.maximum(v[0], v[1]) != np.maximum(v[0], v[1]), 1.0, 2.0), np.ones(2))
    for values in ([np.nan, 0.0], [0.0, np.nan]):
        assert found(np.array(values)) == 1.0
    assert found(np.array([0.0, 1.0])) == 2.0


def _by_value(v):
    return v if v[0] > 0.0 else -v


@pytest.mark.parametrize(
    "function, arrays",
    [
        (_by_value, [V]),
        (lambda v: np.sort(v) + v * v, [V]),
        (lambda v: (v > 0.5).sum() + v, [V]),
        (lambda v: np.cumsum(v > 0.5) + v, [V]),
        (lambda v: np.asarray(v) + 1.0, [V]),
        (lambda v: v.astype(int) + 1.0, [V]),
        (lambda v: v + float(v[0]), [V]),
        (lambda v: None, [V]),
        (lambda v: v + 1.0, [V.astype("float32")]),
        (lambda v: v + 1.0, [np.arange(3)]),
        (lambda v: v + 1.0, [np.ones(module.MOST_ARGUMENTS + 1)]),
        (lambda v: np.cumsum(v, dtype=float), [V]),
        (lambda v: np.add.accumulate(v), [V]),
        (lambda v: np.exp(v, where=V > 0.0, out=np.zeros(3)), [V]),
        (lambda v: np.exp(v, out=np.zeros(3)), [V]),
        (lambda v: np.maximum.reduce(v, initial=0.5), [V]),
        (lambda m: m @ m, [RNG.normal(size=(8, 8))]),  # one call of numpy is sooner
    ],
)
def test_what_cannot_be_written_out_stays(function, arrays):
    expected = function(*arrays)
    found = Unrolled(function)
    for _ in range(3):
        again = found(*arrays)
        assert again is None if expected is None else np.array_equal(again, expected)
    assert not found.is_plain


@pytest.mark.parametrize("other", [lambda v: v + 1.0 + 1e-6, lambda v: [v + 1.0], lambda v: v[None] + 1.0])
def test_another_answer_is_refused(other):
    found = Unrolled(lambda v: v + 1.0, other)
    for _ in range(3):
        assert np.array_equal(found(V), other(V))
    assert not found.is_plain


def test_the_comparison_waits_for_numbers():
    """Where the first arrays are nothing for plain numbers, the next are compared, and wrong ones still refused."""
    right, wrong = Unrolled(np.log), Unrolled(np.log, lambda v: np.log(v) + 1.0)
    for found in (right, wrong):
        with np.errstate(all="ignore"):
            assert found(np.zeros(3))[0] == -np.inf
    np.testing.assert_array_equal(wrong(V), np.log(V) + 1.0)
    same(right(V), np.log(V))
    assert right.is_plain and not wrong.is_plain


def test_what_is_infinite_whatever_is_asked_does_not_matter():
    found = written(lambda v: np.log(np.concatenate([v, np.zeros(2)])), V)
    np.testing.assert_array_equal(found(V)[3:], -np.inf)
    same(found(2.0 * V)[:3], np.log(2.0 * V))
    assert found(np.zeros(3)) is None  # nothing that it could be handed over to


def test_results_are_the_callers_own():
    found = written(lambda v: [v, np.array([1.0, 2.0]), v], V)
    given = V.copy()
    for result in found(given):
        result[...] = -1.0
    np.testing.assert_array_equal(given, V)
    same(found(given), [V, np.array([1.0, 2.0]), V])


def test_each_number_is_made_once():
    """What stands in several places, or in none, costs nothing more."""
    tape = Tape()
    v = Traced(tape, [tape.add(Number(f"a0_{i}")) for i in range(2)])
    np.exp(v) + np.exp(v)[::-1]
    result = v[0] * v[1] + v[1] * v[0]
    lines, texts, count = module._spelled(tape, [int(result.ids)])
    assert count == 2 and len(lines) == 1 and texts[int(result.ids)].count("x") == 2


def test_long_chains_are_cut():
    """Python reads no more than some two hundred brackets within each other."""

    def function(v):
        for _ in range(500):
            v = np.exp(-v)
        return v

    same(written(function, np.array([0.3]))(np.array([0.5])), function(np.array([0.5])))


def test_the_first_answer_is_as_the_last():
    """Bit for bit: what is answered must not depend on how often was asked, nor in which process."""

    def function(v):
        return np.exp(v) / np.exp(v).sum() * np.log1p(v) ** 3 - 1.0 / 3.0

    found = Unrolled(function)
    first = found(V)
    for _ in range(3):
        np.testing.assert_array_equal(found(V), first)
    assert found.is_plain
    same(found(np.ones(4)), function(np.ones(4)))  # other shapes go another way


def test_graphs_that_read_shared_data_stay_as_they_are():
    with pm.Model():
        data = pm.Data("data", np.arange(3.0))
    x = pm.math.sqr(data) * 2.0
    function = compile_graph([], [x], unroll=True)
    for _ in range(3):
        function()
    data.set_value(np.ones(3))
    np.testing.assert_array_equal(function()[0], [2.0, 2.0, 2.0])


# -- E-steps and M-steps -----------------------------------------------------------------------------------------------


def _plan(name, **options):
    case = small_models.model(name)
    return emppl.plan(case.model, **case.options, **options)


PLANS = {
    "coins": lambda: emppl.plan(coins.build()),
    "coins, weighted": lambda: emppl.plan(coins.build(), obs_weights=[1.0, 2.0, 0.0, 3.0, 0.5]),
    "normal": lambda: _plan("normal_mixture", estimate="ml"),
    "waiting times": lambda: _plan("waiting_times"),
    "several observed": lambda: _plan("several_observed"),
    "rows that are counted": lambda: emppl.plan(poisson_mixture.build()),
    "two plates": lambda: _plan("two_plates"),
}


@pytest.mark.parametrize("name", PLANS)
def test_steps_of_a_few_members(name):
    """An iteration written out equals the one that is not, wherever theta lies."""
    plan = PLANS[name]()
    for theta in small_models.points(plan, count=6):
        posterior, kept = plan.e_step(theta), plan.e_step(theta, keep=True)
        assert plan.engine._plain.is_plain and kept.responsibilities[0] is not None
        np.testing.assert_allclose(posterior.log_likelihood, kept.log_likelihood, rtol=1e-12)
        np.testing.assert_allclose(posterior.log_prior, kept.log_prior, rtol=1e-12, atol=1e-12)
        for one, two in zip((*posterior.statistics, *posterior.counts), (*kept.statistics, *kept.counts), strict=True):
            np.testing.assert_allclose(one, two, rtol=1e-10, atol=1e-12)
        for block in plan.blocks:
            step = block.update.step
            if isinstance(step, ClosedForm):
                statistics = posterior.statistics[step.plate][:, step.columns]
                found, wanted = step._solved(statistics), step._solve(statistics)
                np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-12)
                assert step._solved.is_plain


def test_members_far_from_all_components():
    """Where densities underflow, the pass with its search for the largest is asked."""
    plan = emppl.plan(coins.build(), estimate="ml")
    plan.e_step({"bias": np.array([0.3, 0.8])})
    for bias in ([1e-200, 1e-190], [2.8e-36, 3e-36], [0.0, 0.5], [0.0, 0.0], [1.0, 0.5], [np.nan, 0.5]):
        found, wanted = (plan.e_step({"bias": np.array(bias)}, keep=keep) for keep in (False, True))
        np.testing.assert_allclose(found.log_likelihood, wanted.log_likelihood, rtol=1e-12)
        np.testing.assert_allclose(found.statistics[0], wanted.statistics[0], rtol=1e-12)


def test_a_collapse_is_seen_in_plain_numbers_too():
    """A covariance of zeros has no closed form: None, as from numpy; a component without members keeps its own."""
    plan = emppl.plan(gaussian_mixture.build(k=2), estimate="ml")
    theta = small_models.points(plan, count=1)[0]
    posterior = plan.e_step(theta)
    block = plan.blocks[-1]
    whole = block.update(theta, posterior)
    assert whole is not None and block.update.step._solved.is_plain
    empty = posterior._replace(statistics=tuple(s * np.array([[1.0], [0.0]]) for s in posterior.statistics))
    flat = posterior._replace(statistics=tuple(np.ones_like(s) for s in posterior.statistics))
    one_left = block.update(theta, empty)
    np.testing.assert_array_equal(one_left["chol_1"], theta["chol_1"])
    np.testing.assert_array_equal(one_left["mu"], [whole["mu"][0], theta["mu"][1]])
    assert block.update(theta, flat) is None  # a covariance of zeros has no factor
