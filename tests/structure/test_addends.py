"""Sums taken apart: the same total, and factors whose elements hang on few latents."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pymc as pm
import pytensor.tensor as pt
import pytest
from oracles import Enumeration

import emppl
from emppl.compiling import compile_graph
from emppl.structure.addends import addends
from emppl.structure.types import Structure

N = 6
RNG = np.random.default_rng(0)
Y = RNG.normal(size=N) + 4.0 * (np.arange(N) % 2)
W, A = RNG.uniform(1.0, 2.0, N), RNG.normal(size=(4, N))
Z, MU = pt.tensor("z", dtype="int64", shape=(N,)), pt.tensor("mu", dtype="float64", shape=())


def normal(mu: Any, y: Any = Y) -> Any:
    return pm.logp(pm.Normal.dist(mu, np.float64(1.0)), y)


# Each hangs on one latent element at a time once it is taken apart, and on all of them before.
SUMS: dict[str, Callable[[Any, Any], Any]] = {
    "two sums": lambda z, mu: ((1 - z) * normal(np.float64(0.0))).sum() + (z * normal(mu)).sum(),
    "mean": lambda z, mu: 3.0 * normal(mu * z).mean() - pt.sqr(mu),
    "vectors": lambda z, mu: pm.math.dot(z, normal(mu)) + (1 - z) @ normal(np.float64(0.0)),
    "matrix and vector": lambda z, mu: (mu * A) @ (1.0 * z) / 7.0,
    "einsum": lambda z, mu: pt.einsum("i,i->", z.astype("float64"), normal(mu)),
    "minus": lambda z, mu: -(-normal(z * mu).sum() + (W * z).sum()),
    "rows of sums": lambda z, mu: (W[:2] * normal(mu * z).reshape((2, 3)).sum(axis=1)).sum(),
    "repeated": lambda z, mu: pt.stack([normal(mu * z).sum(), mu * 2.0]) + np.ones((3, 1)) * (z * W).sum(),
    "bounds": lambda z, mu: pt.switch(mu > 100.0, -np.inf, normal(mu * z).sum()),
    "parameter times sum": lambda z, mu: pt.exp(mu) * (z * W).sum() * 0.1,
    "loop": lambda z, mu: sum(normal(mu * z[i], Y[i]) for i in range(N)),
    "joined": lambda z, mu: pt.concatenate([normal(mu * z[:2], Y[:2]), normal(-mu * z[2:], Y[2:])]).sum(),
}


def model_of(build: Callable[[Any, Any], Any]) -> pm.Model:
    with pm.Model() as model:
        mu = pm.Normal("mu", np.float64(0.0), np.float64(5.0))
        pm.Potential("potential", build(pm.Bernoulli("z", np.float64(0.3), shape=N), mu))
    return model


@pytest.mark.filterwarnings("ignore:PyTensor could not link to a BLAS")  # of the oracle's own einsum
@pytest.mark.parametrize("name", SUMS)
def test_a_sum_over_rows_is_as_many_members(name: str):
    model = model_of(SUMS[name])
    plan = emppl.plan(model)
    assert [(plate.size, plate.n_configurations) for plate in plan.structure.plates] == [(N, 2)]
    theta = {"mu": np.array(1.3)}
    exact = Enumeration(model, {"z": np.arange(2)}).log_posterior(theta)
    assert plan.log_posterior(theta) == pytest.approx(exact, rel=1e-13, abs=1e-13)


@pytest.mark.parametrize(
    ("build", "plates"),
    [
        (lambda z, mu: pt.logsumexp(z * W) + normal(mu * z).sum(), [(1, 2**N)]),  # not linear below: stays whole
        (lambda z, mu: (z * W).sum() * normal(mu * z).sum(), [(1, 2**N)]),
        (lambda z, mu: (z[1:] * z[:-1] * W[1:]).sum() + normal(z * mu).sum(), [(N, 2), (N - 1, 4)]),  # a chain
    ],
)
def test_what_ties_latents_stays_tied(build: Callable, plates: list[tuple[int, int]]):
    model = model_of(build)
    plan = emppl.plan(model)
    assert [(plate.size, plate.n_configurations) for plate in plan.structure.plates] == plates
    exact = Enumeration(model, {"z": np.arange(2)}).log_posterior({"mu": np.array(0.4)})
    assert plan.log_posterior({"mu": np.array(0.4)}) == pytest.approx(exact, rel=1e-12)


def parts(structure: Structure, variable: str) -> list[tuple[str, str, tuple[int, ...]]]:
    return [(f.name, f.kind, f.shape) for f in structure.factors if f.variable == variable]


def test_terms_stand_under_the_name_of_the_potential():
    """Terms of the same rows are one factor; a term of no latent goes with the likelihood, which "ml" keeps."""
    model = model_of(lambda z, mu: (z * normal(mu)).sum() + (W * z).sum() - pt.sqr(mu))
    plan = emppl.plan(model, estimate="ml")
    assert parts(plan.structure, "potential") == [("potential", "potential", (N,)), ("potential (2)", "potential", ())]
    assert plan.log_posterior({"mu": np.array(2.0)}) == pytest.approx(
        Enumeration(model, {"z": np.arange(2)}).log_posterior({"mu": np.array(2.0)})
        - float(normal(np.float64(0.0), np.float64(0.4)).eval()) + np.log(5.0)
    )  # fmt: skip
    assert "potential: natural form refused" in str(plan)


@pytest.mark.parametrize("columns", [1, 2])
def test_a_density_of_the_user_s_own_that_is_summed(columns: int):
    """CustomDist with one number for all rows, or for each row."""
    y = np.stack([Y, Y + 1.0], axis=1)[:, :columns]
    y = y if columns > 1 else y[:, 0]
    with pm.Model() as model:
        mu = pm.Normal("mu", np.float64(0.0), np.float64(5.0), shape=2)
        z = pm.Bernoulli("z", np.float64(0.3), shape=N)
        centre = mu[z] if columns == 1 else mu[z][:, None] + np.zeros(2)
        pm.CustomDist("y", centre, logp=lambda v, m: normal(m, v).sum(axis=-1), signature="(n)->(n)", observed=y)
    plan = emppl.plan(model)
    assert parts(plan.structure, "y") == [("y", "observed", y.shape)]
    assert plan.structure.plates[0].size == N
    theta = {"mu": np.array([0.3, 2.0])}
    exact = Enumeration(model, {"z": np.arange(2)}).log_posterior(theta)
    assert plan.log_posterior(theta) == pytest.approx(exact, rel=1e-12)
    assert emppl.fit(plan, seed=1, starts=2).certificate.holds


def random_sum(rng: np.random.Generator, depth: int) -> Any:
    """A random graph of what is looked through and of what is not."""
    if depth == 0:
        return [Z * W, normal(MU * Z), pt.sqr(Z - MU), MU * np.ones(N), Z * Z[::-1], pt.exp(-MU) * Z][rng.integers(6)]
    one = random_sum(rng, depth - 1)
    kind = rng.integers(10)
    if kind < 3:
        return one + random_sum(rng, depth - 1) if kind else one - random_sum(rng, depth - 1)
    if kind == 3:
        return one * [2.0, MU, np.float32(0.5), 3][rng.integers(4)]
    if kind == 4:
        return one / [2.0, pt.exp(MU), 7][rng.integers(3)]
    if kind == 5:
        return pt.exp(-pt.abs(one))
    if one.type.ndim == 0:
        return pt.stack([one, MU, one * 2.0]).sum() if kind == 6 else one
    return [
        one.sum(), one.mean(), pt.dot(one.flatten(), random_sum(rng, 0)[: one.type.shape[-1]])
        if one.type.shape == (N,) else one.sum(axis=0), pt.switch(rng.normal() < MU, one, -one).sum(keepdims=True),
    ][kind - 6]  # fmt: skip


@pytest.mark.parametrize("seed", range(25))
def test_terms_add_up(seed: int):
    """Random graphs: the same total at random points, with nothing lost and nothing counted twice."""
    rng = np.random.default_rng(seed)
    graph = random_sum(rng, 4) + random_sum(rng, 3).sum()
    terms = addends(graph, {Z})
    whole = compile_graph([Z, MU], [graph.sum(), pt.stack([t.sum() for t in terms]).sum()], optimise=False)
    for _ in range(3):
        one, other = whole(rng.integers(0, 2, N), np.asarray(rng.normal()))
        assert float(other) == pytest.approx(float(one), rel=1e-10, abs=1e-10)
