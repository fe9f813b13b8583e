"""Random sets of priors in one model, each log density against PyMC's own for the same arguments as doubles.

`python tests/fuzz_priors.py --n 10000 --seed 0` reports; the suite runs a few dozen. Arguments are few and often equal,
so that priors stand beside each other that are alike in all but a number; they are written as whole numbers of all
sizes, in single and in double precision, as scalars and as vectors, and some are other parameters of the model. The
reference is one function a family, of inputs in double: nothing in it can be folded, rounded or confused.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
from pymc.distributions.transforms import ordered
from pytensor.compile.mode import Mode

import emppl
from emppl.compiling import compile_graph
from emppl.structure.constants import in_double

AGREES = 1e-10  # relative, of the sum of the terms' sizes
PER_MODEL = 10  # sets in one model
POSITIVE = (1, 2, 3, 5, 10, 120, 0.1, 0.3, 1.5, 2.5, 7.3)
REAL = (0, 1, -1, 3, -7, 100, 0.2, -0.6, 2.5)
SHARES = (0.1, 0.25, 0.3, 0.7)
WHOLE = (int, np.int8, np.int16, np.int32, np.int64)
BROKEN = (float, np.float32, np.float64)
FADING = ("SkewNormal", "Logistic")  # without PyTensor's rewrites their far tails have no digits, and then no number


class Kind(NamedTuple):
    """A family of priors: kinds of its arguments by name, where its values lie, and the length of one value.

    by_numpy: PyMC works its arguments out in numpy before there is a graph, in whatever precision they have.
    """

    make: Callable[..., Any]
    arguments: dict[str, str]
    values: str = "real"
    vector: int = 0
    by_numpy: bool = False


FAMILIES: dict[str, Kind] = {
    "Normal": Kind(pm.Normal, {"mu": "real", "sigma": "positive"}),
    "Normal by precision": Kind(pm.Normal, {"mu": "real", "tau": "positive"}, by_numpy=True),
    "HalfNormal": Kind(pm.HalfNormal, {"sigma": "positive"}, "positive"),
    "TruncatedNormal": Kind(pm.TruncatedNormal, {"mu": "real", "sigma": "positive", "lower": "zero"}, "positive"),
    "StudentT": Kind(pm.StudentT, {"nu": "positive", "mu": "real", "sigma": "positive"}),
    "HalfStudentT": Kind(pm.HalfStudentT, {"nu": "positive", "sigma": "positive"}, "positive"),
    "Cauchy": Kind(pm.Cauchy, {"alpha": "real", "beta": "positive"}),
    "HalfCauchy": Kind(pm.HalfCauchy, {"beta": "positive"}, "positive"),
    "Exponential": Kind(pm.Exponential, {"lam": "positive"}, "positive"),
    "Exponential by scale": Kind(pm.Exponential, {"scale": "positive"}, "positive", by_numpy=True),
    "Gamma": Kind(pm.Gamma, {"alpha": "positive", "beta": "positive"}, "positive"),
    "Gamma by moments": Kind(pm.Gamma, {"mu": "positive", "sigma": "positive"}, "positive", by_numpy=True),
    "InverseGamma": Kind(pm.InverseGamma, {"alpha": "positive", "beta": "positive"}, "positive"),
    "ChiSquared": Kind(pm.ChiSquared, {"nu": "positive"}, "positive"),
    "Beta": Kind(pm.Beta, {"alpha": "positive", "beta": "positive"}, "share"),
    "Beta by mean": Kind(pm.Beta, {"mu": "share", "nu": "positive"}, "share", by_numpy=True),
    "Kumaraswamy": Kind(pm.Kumaraswamy, {"a": "positive", "b": "positive"}, "share"),
    "LogitNormal": Kind(pm.LogitNormal, {"mu": "real", "sigma": "positive"}, "share"),
    "LogNormal": Kind(pm.LogNormal, {"mu": "real", "sigma": "positive"}, "positive"),
    "Laplace": Kind(pm.Laplace, {"mu": "real", "b": "positive"}),
    "AsymmetricLaplace": Kind(pm.AsymmetricLaplace, {"kappa": "positive", "mu": "real", "b": "positive"}),
    "ExGaussian": Kind(pm.ExGaussian, {"mu": "real", "sigma": "positive", "nu": "positive"}),
    "Gumbel": Kind(pm.Gumbel, {"mu": "real", "beta": "positive"}),
    "Logistic": Kind(pm.Logistic, {"mu": "real", "s": "positive"}),
    "Moyal": Kind(pm.Moyal, {"mu": "real", "sigma": "positive"}),
    "Pareto": Kind(pm.Pareto, {"alpha": "positive", "m": "small"}, "above one"),
    "Rice": Kind(pm.Rice, {"nu": "moderate", "sigma": "positive"}, "positive", by_numpy=True),
    "SkewNormal": Kind(pm.SkewNormal, {"mu": "real", "sigma": "positive", "alpha": "real"}),
    "Triangular": Kind(pm.Triangular, {"lower": "low", "c": "zero", "upper": "high"}, "around zero"),
    "Uniform": Kind(pm.Uniform, {"lower": "low", "upper": "high"}, "around zero"),
    "VonMises": Kind(pm.VonMises, {"mu": "share", "kappa": "positive"}, "share"),
    "Wald": Kind(pm.Wald, {"mu": "positive", "lam": "positive"}, "positive"),
    "Weibull": Kind(pm.Weibull, {"alpha": "positive", "beta": "positive"}, "positive"),
    "Dirichlet": Kind(pm.Dirichlet, {"a": "positive vector"}, "simplex", 3),
    "MvNormal": Kind(pm.MvNormal, {"mu": "real", "cov": "covariance"}, "real", 3),
    "ZeroSumNormal": Kind(pm.ZeroSumNormal, {"sigma": "positive scalar"}, "zero sum", 3),
}  # fmt: skip
POOLS: dict[str, tuple[Any, ...]] = {
    "moderate": (1, 2, 3, 0.3, 1.5, 2.5),
    "real": REAL, "positive": POSITIVE, "positive scalar": POSITIVE, "positive vector": POSITIVE, "share": SHARES,
    "zero": (0,), "small": (1, 0.5, 0.25), "low": (-1, -2, -20000, -100, -1.5), "high": (1, 2, 20000, 100, 1.25),
}  # fmt: skip


@dataclass
class Prior:
    """One prior of a model: its family, its arguments as written, and their values as doubles or names of parents."""

    name: str
    kind: Kind
    family: str
    shape: tuple[int, ...]
    written: dict[str, Any]
    doubles: dict[str, Any]
    options: dict[str, Any] = field(default_factory=dict)


class Maker:
    """A model of PER_MODEL random sets of priors, with a point inside them."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.priors: list[Prior] = []
        self.theta: dict[str, np.ndarray] = {}
        with pm.Model() as self.model:
            for _ in range(PER_MODEL):
                self._set(int(self.rng.integers(2, 4)))
            self.y = self.rng.normal(size=3)
            z = pm.Bernoulli("z", np.float64(0.4), shape=3)
            pm.Normal("y", z, np.float64(1.0), observed=self.y)

    def _set(self, size: int) -> None:
        family = str(self.rng.choice(list(FAMILIES)))
        for k in range(size):
            if self.rng.random() < 0.3:  # most of a set is of one family
                family = str(self.rng.choice(list(FAMILIES)))
            before = [p for p in self.priors[len(self.priors) - k :] if p.family == family]
            twin = before[-1] if before and self.rng.random() < 0.6 else None
            self._add(self._prior(family, twin))

    def _prior(self, family: str, twin: Prior | None) -> Prior:
        """A prior; like its twin in all but one argument, or in all, where there is one."""
        kind, name = FAMILIES[family], f"v{len(self.priors)}"
        length = self.rng.choice([0, 0, 2, 3]) if kind.vector == 0 else 0
        shape = twin.shape if twin else ((int(length),) if length else (kind.vector,) if kind.vector else ())
        prior = Prior(name, kind, family, shape, {}, {})
        changed = str(self.rng.choice([*kind.arguments, "none"]))
        for argument, pool in kind.arguments.items():
            if twin is not None and argument != changed:
                prior.written[argument], prior.doubles[argument] = twin.written[argument], twin.doubles[argument]
            else:
                prior.written[argument], prior.doubles[argument] = self._argument(pool, shape, kind.by_numpy)
        if kind.values == "real" and len(shape) == 1 and not kind.vector and self.rng.random() < 0.2:
            prior.options["transform"] = ordered
            prior.options["initval"] = np.arange(shape[0], dtype=float)
        return prior

    def _argument(self, pool: str, shape: tuple[int, ...], double: bool) -> tuple[Any, Any]:
        parents = [p.name for p in self.priors if p.kind.values == pool and p.shape == ()]
        if pool in ("real", "positive") and parents and self.rng.random() < 0.15:
            parent = str(self.rng.choice(parents))
            return self.model[parent], parent
        if pool == "covariance":
            return self._as(np.array([[4, 1, 0], [1, 3, 1], [0, 1, 2]]) * self.rng.choice([1, 2, 20]))
        is_vector = pool == "positive vector" or (pool != "positive scalar" and self.rng.random() < 0.4)
        values = self.rng.choice(np.array(POOLS[pool], dtype=float), size=shape if is_vector else ())
        return (values, values) if double else self._as(values)

    def _as(self, values: np.ndarray) -> tuple[Any, Any]:
        """The values in some dtype that can hold them, and as the doubles that they are then."""
        values = np.asarray(values)
        whole = bool((values == np.round(values)).all())
        narrow = [t for t in WHOLE if t is int or np.array_equal(values.astype(t), values)]
        dtype = self.rng.choice([*narrow, *BROKEN] if whole else list(BROKEN))
        written = values.astype(dtype)
        number = written.item() if not written.ndim and dtype in (int, float) else written
        return number if written.ndim or dtype in (int, float) else written[()], written.astype(float)

    def _add(self, prior: Prior) -> None:
        prior.kind.make(prior.name, **prior.written, shape=prior.shape, **prior.options)
        self.priors.append(prior)
        self.theta[prior.name] = self._value(prior)

    def _value(self, prior: Prior) -> np.ndarray:
        rng, shape = self.rng, prior.shape
        if prior.kind.values == "simplex":
            return rng.dirichlet(np.full(shape[-1], 3.0))
        if prior.kind.values == "zero sum":
            value = rng.normal(size=shape)
            return value - value.mean()
        value = {
            "real": lambda: rng.normal(size=shape), "positive": lambda: rng.uniform(0.1, 3.0, shape),
            "share": lambda: rng.uniform(0.05, 0.95, shape), "above one": lambda: rng.uniform(1.1, 4.0, shape),
            "around zero": lambda: rng.uniform(-0.9, 0.9, shape),
        }[prior.kind.values]()  # fmt: skip
        return np.sort(value) if "transform" in prior.options else np.asarray(value)

    def reference(self) -> np.ndarray:
        """PyMC's log density of each prior [priors], of arguments in double."""
        answer = []
        for prior in self.priors:
            arguments = {k: self.theta[v] if isinstance(v, str) else v for k, v in prior.doubles.items()}
            shapes = prior.family, tuple(np.ndim(v) for v in arguments.values()), len(prior.shape)
            values = self.theta[prior.name], *[np.asarray(v, float) for v in arguments.values()]
            answer.append(float(density(*shapes, stable=prior.family in FADING)(*values)))
        return np.array(answer)


@cache
def density(family: str, ndims: tuple[int, ...], ndim: int, stable: bool = False) -> Any:
    """PyMC's log density of a family, summed, as a function of a value and its arguments, all in double.

    stable: with PyTensor's rewrites, without which the far tail of these families has no digits, and then no number.
    """
    kind = FAMILIES[family]
    value = pt.tensor("value", dtype="float64", shape=(None,) * ndim)
    arguments = [pt.tensor(name, dtype="float64", shape=(None,) * n) for name, n in zip(kind.arguments, ndims)]
    given: dict[str, Any] = dict(zip(kind.arguments, arguments))
    size = {"shape": (kind.vector,)} if family == "ZeroSumNormal" else {}
    # log(2) is in single precision in some of PyMC's own formulas
    (graph,) = in_double([pm.logp(kind.make.dist(**given, **size), value).sum()])
    with pytensor.config.change_flags(cxx=""):
        return pytensor.function(
            [value, *arguments], graph, mode=Mode("py", "fast_run" if stable else None), on_unused_input="ignore"
        )


@dataclass(frozen=True)
class Outcome:
    """What became of one model of PER_MODEL sets: the wrong priors by name, or what was raised."""

    seed: int
    wrong: str = ""
    priors: int = 0


def check(seed: int) -> Outcome:
    """Log prior and log posterior of one model at one point, against PyMC's densities and a sum by hand."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        maker = Maker(seed)
        expected = maker.reference()
        plan = emppl.plan(maker.model)
        posterior = plan.e_step(maker.theta)
    y = maker.y[:, None]
    normal = -0.5 * (y - np.array([0.0, 1.0])) ** 2 - 0.5 * np.log(2 * np.pi)
    likelihood = float(np.logaddexp.reduce(normal + np.log([0.6, 0.4]), axis=1).sum())
    sizes = np.abs(expected[np.isfinite(expected)]).sum()
    limit = AGREES * max(1.0, float(sizes + abs(likelihood)))
    total = float(expected.sum())
    wrong = []
    if not _same(posterior.log_prior, total, limit):
        wrong.append(f"log prior {posterior.log_prior:.12g}, PyMC {total:.12g}: {_which(plan, maker, expected)}")
    if not _same(posterior.objective, total + likelihood, limit):
        wrong.append(f"log posterior {posterior.objective:.12g}, by hand {total + likelihood:.12g}")
    return Outcome(seed, "; ".join(wrong), len(expected))


def _same(one: float, two: float, limit: float) -> bool:
    """Whether two log densities agree; a value may be too far out for either to be a number but minus infinity."""
    return one == two or bool(np.isfinite([one, two]).all() and abs(one - two) <= limit)


def _which(plan: Any, maker: Maker, expected: np.ndarray) -> str:
    """The priors whose own factor is not PyMC's; none where only their sum is wrong."""
    found = []
    factors = {f.name: f for f in plan.structure.factors}
    arguments = plan.structure.coordinates.arguments(maker.theta)
    for prior, value in zip(maker.priors, expected):
        function = compile_graph(plan.structure.coordinates.values, factors[prior.name].log_density)
        own = float(np.sum(function(*arguments)))
        if not _same(own, value, AGREES * max(1.0, abs(value))):
            found.append(f"{prior.name} {prior.family}{prior.written} {own:.12g} for {value:.12g}")
    return ", ".join(found) or "each alone is right"


def main() -> int:
    """Check many sets and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=10_000, help="sets of priors")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    began, wrong, priors = time.process_time(), 0, 0
    count = -(-arguments.n // PER_MODEL)
    for k in range(count):
        outcome = check(arguments.seed + k)
        priors += outcome.priors
        if outcome.wrong:
            wrong += 1
            print(f"seed {outcome.seed}: {outcome.wrong}", flush=True)
        if (k + 1) % 50 == 0:
            spent = time.process_time() - began
            print(f"{(k + 1) * PER_MODEL} sets, {priors} priors, {wrong} wrong, {spent:.0f} s of processor", flush=True)
    print(f"{count * PER_MODEL} sets of {priors} priors in {count} models: {wrong} wrong")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
