"""Models whose rows are pm.Data, each with data: what a fit over blocks is compared on."""

from collections.abc import Callable

import numpy as np
import pymc as pm

ZERO, ONE, TWO, TEN = (np.float64(v) for v in (0.0, 1.0, 2.0, 10.0))  # plain numbers become float32 constants in PyMC
Arrays = dict[str, np.ndarray]


def vectors(data: Arrays) -> pm.Model:
    """Vectors far from zero, with one covariance for all."""
    with pm.Model() as model:
        y = pm.Data("y", data["y"])
        w = pm.Dirichlet("w", np.full(2, TWO))
        mu = pm.Normal("mu", np.float64(1e8), np.float64(1e3), shape=(2, 3))
        chol, _, _ = pm.LKJCholeskyCov("chol", n=3, eta=TWO, sd_dist=pm.HalfNormal.dist(TWO, shape=3))
        z = pm.Categorical("z", p=w, shape=y.shape[0])
        pm.MvNormal("rows", mu[z], chol=chol, observed=y)
    return model


def named(data: Arrays) -> pm.Model:
    """Dims and coords, the variance as the parameter; closed form but for the means."""
    coords = {"row": np.arange(len(data["y"])), "k": ["low", "high"], "column": ["a", "b"]}
    with pm.Model(coords=coords) as model:
        y = pm.Data("y", data["y"], dims=("row", "column"))
        w = pm.Dirichlet("w", np.full(2, TWO), dims="k")
        mu = pm.Flat("mu", dims=("k", "column"))
        variance = pm.InverseGamma("variance", TWO, TWO, dims="k")
        z = pm.Categorical("z", p=w, dims="row")
        pm.Deterministic("spread", pm.math.sqrt(variance), dims="k")
        pm.Deterministic("twice", TWO * y, dims=("row", "column"))
        pm.Normal("rows", mu[z], pm.math.sqrt(variance)[z][:, None], observed=y, dims=("row", "column"))
    return model


def rates(data: Arrays) -> pm.Model:
    with pm.Model() as model:
        y, exposure = pm.Data("y", data["y"]), pm.Data("exposure", data["exposure"])
        w = pm.Dirichlet("w", np.full(2, TWO))
        rate = pm.Gamma("rate", TWO, ONE, shape=2)
        z = pm.Categorical("z", p=w, shape=y.shape[0])
        pm.Poisson("rows", exposure * rate[z], observed=y)
    return model


def trials(data: Arrays) -> pm.Model:
    with pm.Model() as model:
        y, n = pm.Data("y", data["y"]), pm.Data("n", data["n"])
        w, p = pm.Beta("w", TWO, TWO), pm.Beta("p", TWO, ONE, shape=2)
        z = pm.Bernoulli("z", p=w, shape=y.shape[0])
        pm.Binomial("rows", n=n, p=p[z], observed=y)
    return model


def lines(data: Arrays) -> pm.Model:
    with pm.Model() as model:
        x, y = pm.Data("x", data["x"]), pm.Data("y", data["y"])
        w = pm.Dirichlet("w", np.full(2, TWO))
        level, slope = pm.Normal("level", ZERO, TEN, shape=2), pm.Normal("slope", ZERO, TEN, shape=(2, 3))
        spread = pm.HalfNormal("spread", TWO, shape=2)
        z = pm.Categorical("z", p=w, shape=y.shape[0])
        pm.Normal("rows", level[z] + (slope[z] * x).sum(axis=-1), spread[z], observed=y)
    return model


def items(data: Arrays) -> pm.Model:
    """Two observed variables, words and yes or no."""
    with pm.Model() as model:
        y, word = pm.Data("y", data["y"]), pm.Data("word", data["word"])
        w = pm.Dirichlet("w", np.full(2, TWO))
        p, q = pm.Beta("p", TWO, ONE, shape=(2, 3)), pm.Dirichlet("q", np.full(4, TWO), shape=(2, 4))
        z = pm.Categorical("z", p=w, shape=y.shape[0])
        pm.Bernoulli("rows", p[z], observed=y)
        pm.Categorical("words", q[z], observed=word)
    return model


def implicit(data: Arrays) -> pm.Model:
    with pm.Model() as model:
        y = pm.Data("y", data["y"])
        w = pm.Dirichlet("w", np.full(2, TWO))
        mu, spread = pm.Normal("mu", ZERO, TEN, shape=2), pm.HalfNormal("spread", TWO, shape=2)
        pm.NormalMixture("rows", w, mu, spread, observed=y)
    return model


def logarithms(data: Arrays) -> pm.Model:
    """Statistics that are no products of the data."""
    with pm.Model() as model:
        y = pm.Data("y", data["y"])
        w = pm.Dirichlet("w", np.full(2, TWO))
        alpha, beta = pm.Gamma("alpha", TWO, ONE, shape=2), pm.Gamma("beta", TWO, ONE, shape=2)
        z = pm.Categorical("z", p=w, shape=y.shape[0])
        pm.Gamma("rows", alpha[z], beta[z], observed=y)
    return model


def fixed_length(data: Arrays) -> pm.Model:
    """The latents have the length of the first block, whatever the data are."""
    with pm.Model() as model:
        y = pm.Data("y", data["y"])
        w = pm.Dirichlet("w", np.full(2, TWO))
        rate = pm.Gamma("rate", TWO, ONE, shape=2)
        z = pm.Categorical("z", p=w, shape=len(data["y"]))
        pm.Exponential("rows", rate[z], observed=y)
    return model


def cases(n: int = 900, seed: int = 1) -> dict[str, tuple[Callable[[Arrays], pm.Model], Arrays]]:
    """{name: (model of some data, data of n rows)}."""
    rng = np.random.default_rng(seed)
    z = rng.integers(0, 2, n)
    x = rng.normal(size=(n, 3)) * [1.0, 100.0, 1e-3] + [0.0, 1e4, 5.0]
    return {
        "vectors": (vectors, {"y": 1e8 + 3.0 * z[:, None] + rng.normal(size=(n, 3))}),
        "named": (named, {"y": 3.0 * z[:, None] + rng.normal(size=(n, 2))}),
        "rates": (rates, {"y": rng.poisson(1 + 4 * z), "exposure": rng.uniform(0.5, 2.0, n)}),
        "trials": (trials, {"y": rng.binomial(5, 0.2 + 0.5 * z), "n": rng.integers(5, 9, n)}),
        "lines": (lines, {"x": x, "y": z * x[:, 0] + 0.01 * x[:, 1] * (1 - z) + rng.normal(size=n)}),
        "items": (items, {"y": rng.binomial(1, 0.2 + 0.5 * z[:, None], (n, 3)), "word": rng.integers(0, 4, n)}),
        "implicit": (implicit, {"y": 3.0 * z + rng.normal(size=n)}),
        "logarithms": (logarithms, {"y": rng.gamma(1.0 + 4.0 * z)}),
        "fixed_length": (fixed_length, {"y": rng.exponential(1.0 + 4.0 * z)}),
    }


def head(data: Arrays, n: int = 40) -> Arrays:
    """The rows that a model is built on."""
    return {name: array[:n] for name, array in data.items()}
