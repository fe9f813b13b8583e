"""A number means the same however it was written: as a double, in single precision, or whole in few bits."""

import numpy as np
import pymc as pm
import pytensor
import pytensor.sparse
import pytensor.tensor as pt
import pytest
from pytensor.graph.traversal import ancestors
from scipy.sparse import csr_matrix

import emppl
from emppl.compiling import compile_graph
from emppl.structure.constants import in_double
from emppl.structure.variables import with_constants

DTYPES = ("int8", "uint8", "int16", "int32", "int64", "float16", "float32")
a = pt.dvector("a", shape=(3,))
z = pt.lvector("z", shape=(3,))
A, Z = np.array([0.3, -1.2, 2.5]), np.array([0, 2, 1])
long = pt.dvector("long", shape=(400,))
LONG = np.arange(400.0)
NUMBERS = np.array([1, 3, 100])
# each of a constant of NUMBERS in some dtype; what is whole may go beyond the dtype's range on the way
GRAPHS = {
    "logarithm": lambda x: pt.log(x),
    "square": lambda x: x**2 * a,
    "difference": lambda x: x - 120,
    "sum of squares": lambda x: (x * x).sum() + a,
    "product": lambda x: x.prod() * a[0],
    "running sum": lambda x: pt.cumsum(x * x),
    "running product": lambda x: pt.cumprod(x),
    "mean": lambda x: x.mean() + a,
    "quotient": lambda x: 1 / x + a,
    "negative power": lambda x: pt.pow(x, -1) * a,
    "whole quotient": lambda x: x * x // 7,
    "remainder": lambda x: (x * x) % 7,
    "stacked": lambda x: pt.stack([x[0], x[1] * x[2], a[0]]),
    "stacked apart": lambda x: pt.stack([x * x, x]).sum(axis=0) / 3,
    "concatenated": lambda x: pt.concatenate([x * x, pt.as_tensor(np.int8([5]))])[:3] * a,
    "set": lambda x: pt.set_subtensor(pt.zeros(3)[1:], pt.log(x[1:])),
    "set in it": lambda x: pt.set_subtensor((x * x)[0], x[1]) * a,
    "added to a whole array": lambda x: pt.inc_subtensor((z * 0)[1:], x[1:] * x[1:]) * a,
    "matrix product": lambda x: pt.outer(x, x) @ a,
    "matrix product of constants": lambda x: pt.dot(x, x) * a,
    "softmax": lambda x: pt.special.softmax(pt.log(x)),
    "log of a sum of exponentials": lambda x: pt.logsumexp(x / 7) + a,
    "chosen": lambda x: pt.switch(x * x > 130, pt.log(x), x * 2),
    "chosen by a whole number": lambda x: pt.switch(pt.eq(z, 1), x * x, pt.log(x)),
    "larger": lambda x: pt.maximum(x * x, 500),
    "clipped": lambda x: pt.clip(x * x, 2, 5000),
    "gamma function": lambda x: pt.gammaln(x + 120),
    "spread out": lambda x: pt.alloc(x[2] * x[2], 3) * a,
    "repeated": lambda x: pt.repeat(x * x, 2)[:3] + a,
    "reshaped": lambda x: (x * x).reshape((3, 1))[:, 0].dimshuffle("x", 0)[0] * 1,
    "of a latent": lambda x: (z * x + 1) * a,
    "powers of a latent": lambda x: a[0] ** (z * x),
    "cast": lambda x: pt.cast(x, "int32") ** 2 * a,
    "made single": lambda x: pt.log(pt.cast(x, "float32")),
    "diagonal": lambda x: pt.diagonal(pt.outer(x, x)) * a,
    "standard deviation": lambda x: x.std() + a,
    "sorted": lambda x: pt.sort(x * x) * a,
    "largest": lambda x: (x * x).max() - a,
    "index": lambda x: long[pt.cast(x, "int16") + 200] if x.type.dtype.startswith("float") else long[x + 200],
    "Cholesky factor": lambda x: pt.linalg.cholesky(pt.diag(x) + 1)[2] * a,
    "inverse": lambda x: pt.linalg.inv(pt.diag(x)) @ a,
    "inverse of products": lambda x: pt.linalg.inv(pt.diag(x * x)) @ a,
    "Kronecker product": lambda x: pt.linalg.inv(pt.linalg.kron(pt.diag(x), pt.eye(2, dtype="int8")))[0, 0] * a,
    "blocks": lambda x: pt.linalg.inv(pt.linalg.block_diag(pt.diag(x), pt.diag(x)))[0, 0] * a,
    "solution": lambda x: pt.linalg.solve(pt.diag(x) + 1, x),
    "triangular solution": lambda x: pt.linalg.solve_triangular(pt.diag(x) + 1, x, lower=True),
    "determinant": lambda x: pt.linalg.det(pt.diag(x) + 1) * a,
    "eigenvalues": lambda x: pt.linalg.eigh(pt.diag(x) + 1)[0],
    "matrix products": lambda x: pt.stack([pt.outer(x, x)] * 2) @ pt.stack([pt.outer(x, x)] * 2) / 7,
    "row of an index": lambda x: (x * x)[z] * a,
}  # fmt: skip


def evaluated(graph):
    with np.errstate(all="ignore"):
        return compile_graph([a, z, long], graph, optimise=False)(A, Z, LONG)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_gives_what_a_double_gives(dtype):
    for name, graph in GRAPHS.items():
        plain = graph(pt.constant(NUMBERS.astype("float64")))
        expected = evaluated(in_double([plain], numbers=True)[0])
        (double,) = in_double([graph(pt.constant(NUMBERS.astype(dtype)))], numbers=True)
        assert double.type.ndim == plain.type.ndim, name
        np.testing.assert_allclose(evaluated(double), expected, rtol=1e-14, err_msg=name)
        singles = [v for v in ancestors([double]) if getattr(v.type, "dtype", "") in ("float16", "float32")]
        assert name == "made single" or not [v for v in singles if v.owner is not None], name


def test_the_doubles_are_right():
    """Against numpy, since above all could be wrong alike."""
    x = NUMBERS.astype(float)
    for name, expected in {
        "square": x**2 * A, "difference": x - 120, "running sum": np.cumsum(x * x), "whole quotient": x * x // 7,
        "negative power": A / x, "of a latent": (Z * x + 1) * A, "index": LONG[NUMBERS + 200],
        "chosen": np.where(x * x > 130, np.log(x), 2 * x), "mean": x.mean() + A, "largest": 1e4 - A,
    }.items():  # fmt: skip
        (double,) = in_double([GRAPHS[name](pt.constant(NUMBERS.astype("int8")))], numbers=True)
        np.testing.assert_allclose(evaluated(double), expected, rtol=1e-14, err_msg=name)


def test_what_is_double_or_counts_places_stays_as_it_is():
    flags = pt.constant(np.array([True, False, True]))
    same = [
        a * 0.1, a[z], pt.eq(z, np.int64(1)), long[pt.constant(np.int8([1, 2]))], pt.switch(flags, a, a * 0.1),
        a.sum(), z + np.int64(3), flags & pt.eq(z, np.int64(0)),
    ]  # fmt: skip
    assert all(new is old for new, old in zip(in_double(same), same))


def test_whole_graphs_stay_whole():
    small = pt.constant(np.int8([100, 3, 5]))
    whole = [small + 100, z * small, (small > 4).sum(), pt.cast(pt.cast(small, "int16") * 2, "int8")]
    found = in_double(whole)
    assert all(np.dtype(v.type.dtype).kind == "i" for v in found)
    assert evaluated(found[0]).tolist() == [200, 103, 105]
    assert evaluated(found[3]).tolist() == [-56, 6, 10]  # a cast to fewer bits is meant


def test_truths_are_no_numbers():
    flags = pt.constant(np.array([True, False, True]))
    for graph in (flags * 5, flags + flags, pt.cast(flags, "int8") * 100, flags.sum() * a):
        np.testing.assert_array_equal(evaluated(in_double([graph])[0]), evaluated(graph))


def test_data_may_change():
    data = pytensor.shared(np.int8([1, 2, 100]), name="x")
    (open_,) = in_double([data**2 * a], data=[data])
    (closed,) = in_double(with_constants([data**2 * a]))
    np.testing.assert_allclose(evaluated(open_), [1, 4, 1e4] * A)
    np.testing.assert_allclose(evaluated(closed), [1, 4, 1e4] * A)
    data.set_value(np.int8([5, 50, 11]))
    np.testing.assert_allclose(evaluated(open_), [25, 2500, 121] * A)


def test_a_loop_keeps_its_types():
    """What cannot be made anew of doubles is given what it was made for."""
    x, start = pt.constant(np.float32([1, 2, 3])), pt.constant(np.float32(0.0))
    halve = lambda x, before: before * np.float32(0.5) + x  # noqa: E731
    total = pytensor.scan(halve, sequences=[x], outputs_info=start, return_updates=False)
    (double,) = in_double([total[-1] * a])
    assert double.type.dtype == "float64"
    np.testing.assert_allclose(evaluated(double), 4.25 * A)


# -- models ------------------------------------------------------------------------------------------------------------


def mixture(number, x, kind):
    """number: makes the constants of the model; x: a covariate; kind: how it comes in."""
    rng = np.random.default_rng(4)
    with pm.Model() as model:
        covariate = {"array": lambda: x, "data": lambda: pm.Data("x", x), "shared": lambda: pytensor.shared(x)}[kind]()
        width = pm.Uniform("width", number(-20000), number(20000))
        slope, rate = pm.Normal("slope", number(0), number(3), shape=2), pm.Gamma("rate", number(2), number(7))
        share = pm.Beta("share", number(3), number(2))
        z = pm.Bernoulli("z", share, shape=len(x))
        mu = slope[z] * pt.as_tensor(covariate) ** 2 / number(100) + width
        pm.Normal("y", mu, number(5) * rate, observed=rng.normal(size=len(x)))
        pm.Poisson("n", rate * number(3), observed=np.array([1, 4]))
    return model


@pytest.fixture(scope="module")
def plain():
    return emppl.plan(mixture(np.float64, X.astype(float), "array"))


X = np.array([1, 50, 100, -100, 7, 3])
THETA = {"width": np.array(0.2), "slope": np.array([0.7, -0.4]), "rate": np.array(1.3), "share": np.array(0.4)}
WAYS = [("int8", "shared"), ("int16", "array"), ("float32", "data"), ("python", "array")]


@pytest.mark.parametrize(("dtype", "kind"), WAYS)
def test_a_model_means_the_same_in_every_dtype(plain, dtype, kind):
    given = X.astype("int8" if dtype == "python" else dtype)
    number = (lambda v: v) if dtype == "python" else np.dtype("int16" if dtype == "int8" else dtype).type
    plan = emppl.plan(mixture(number, given, kind))
    np.testing.assert_allclose(plan.log_prior(THETA), plain.log_prior(THETA), rtol=1e-15)
    np.testing.assert_allclose(plan.log_likelihood(THETA), plain.log_likelihood(THETA), rtol=1e-14)
    u = plan.structure.coordinates.unconstrain(THETA)
    np.testing.assert_allclose(plan.gradient(u)[1], plain.gradient(u)[1], rtol=1e-12)
    assert [f.engine for f in plan.factors] == [f.engine for f in plain.factors]
    assert [b.rule for b in plan.blocks] == [b.rule for b in plain.blocks]


def test_a_plan_holds_the_data_that_it_was_made_of():
    """Some of its functions are compiled later than others: all of them see the same numbers."""
    with pm.Model() as model:
        x = pm.Data("x", np.array([1.0, 2.0, 3.0]))
        mu, z = pm.Normal("mu", x.sum(), 1.0), pm.Bernoulli("z", 0.5, shape=3)
        pm.Normal("y", mu * x + z, 1.0, observed=np.array([0.1, 0.9, 1.2]))
    theta = {"mu": np.array(0.3)}
    before, after = emppl.plan(model), emppl.plan(model)
    expected = before.log_prior(theta), before.log_likelihood(theta)
    with model:
        pm.set_data({"x": np.array([5.0, 6.0, 7.0])})
    assert (before.log_prior(theta), before.log_likelihood(theta)) == expected
    assert (after.log_prior(theta), after.log_likelihood(theta)) == expected
    assert emppl.plan(model).log_prior(theta) != expected[0]


@pytest.mark.parametrize("kind", ["matrix", "sparse"])
def test_a_design_of_another_class_means_its_numbers(kind):
    """np.matrix multiplies by rules of its own, and a sparse matrix is no array: both ended in errors of numpy."""
    rng = np.random.default_rng(0)
    X = np.round(rng.normal(size=(8, 2)), 1)

    def plan(predictor):
        with pm.Model() as model:
            b, z = pm.Normal("b", 0.0, 3.0, shape=2), pm.Bernoulli("z", 0.5, shape=8)
            pm.Normal("y", predictor(b) + 2.0 * z, 1.0, observed=X[:, 0])
        return emppl.plan(model)

    sparse = pytensor.sparse.as_sparse_variable(csr_matrix(X))
    written = {
        "matrix": lambda b: pt.dot(pt.constant(X.view(np.matrix)), b),
        "sparse": lambda b: pytensor.sparse.structured_dot(sparse, b[:, None])[:, 0],
    }
    theta = {"b": np.array([0.3, -1.2])}
    assert plan(written[kind]).log_posterior(theta) == pytest.approx(plan(lambda b: X @ b).log_posterior(theta), 1e-13)
