"""Random models with discrete latents, each against the enumeration of all its joint values.

`python tests/fuzz.py --n 1000 --seed 0` reports; the suite runs a few dozen. A model is put together from a structure,
families, priors, a way of writing, awkward data, the dtypes of its constants and a unit of its data. Compared at a
random point: log-likelihood, gradient and responsibilities of the derived plan with brute force; then a short fit must
not fall and must not end with a failed log joint, gradient or ascent in its certificate, and in another unit it must
end at the same mode. With `--threads 4` the same models are fitted once more in a pool, and must end bit for bit where
they ended alone. An UnsupportedModelError is an answer; a wrong number is not.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pymc as pm
import pytensor.tensor as pt
from oracles import Enumeration

import emppl
from emppl.errors import EmpplError, UnsupportedModelError

AGREES = 1e-8
MOST_ASSIGNMENTS = 1500
STRUCTURES = (
    "plate", "two latents", "vector", "parallel", "groups", "long form", "scalar", "crossed", "chain", "masked latent",
)  # fmt: skip
FAMILIES = (
    "Normal", "Poisson", "Bernoulli", "Binomial", "Categorical", "Exponential", "Gamma", "NegativeBinomial",
    "LogNormal", "Geometric", "StudentT", "Beta", "Laplace", "MvNormal", "ZeroInflatedPoisson", "Weibull",
)  # fmt: skip
WRITINGS = ("index", "switch", "equals", "stack", "product", "deterministic")
PRIORS = ("conjugate", "other", "hierarchical", "flat")
DATA = ("plain", "constant", "one row", "offset", "ties")
CONSTANTS = ("double", "python", "whole", "single", "mixed")
UNITS = (1e-9, 1e-6, 1e-3, 1e4, 1e6, 1e9)
MEASURED = ("Normal", "Laplace", "StudentT", "Exponential", "Gamma", "Weibull", "MvNormal")  # that have a unit
SAME_MODE = 1e-4  # posterior standard deviations


@dataclass(frozen=True)
class Outcome:
    """What became of one model. kind: "ok", "refused", "wrong" or "crash"; digest: all bits of where its fit ended."""

    seed: int
    recipe: tuple[str, ...]
    kind: str
    text: str = ""
    digest: bytes = b""


class Maker:
    """One random model. Everything it chooses comes from one generator, its constants and its unit from a second one.

    constants: "double" in place of those drawn. exact: its twin whose constants are doubles of the same values.
    in_unit: whether the data are in the unit drawn.
    """

    def __init__(self, seed: int, *, constants: str | None = None, exact: bool = False, in_unit: bool = True) -> None:
        self.rng = np.random.default_rng(seed)
        self.dress = np.random.default_rng([seed, 1])
        drawn = str(self.dress.choice(CONSTANTS))
        self.constants = constants or drawn
        self.exact = exact
        unit = float(self.dress.choice(UNITS))
        self.powers: dict[str, int] = {}  # parameter -> power of the unit that it is in
        self.structure = str(self.rng.choice(STRUCTURES))
        self.family = str(self.rng.choice(FAMILIES))
        self.writing = str(self.rng.choice(WRITINGS))
        self.prior = str(self.rng.choice(PRIORS))
        self.data = str(self.rng.choice(DATA))
        self.has_unit = self.family in MEASURED and self.structure != "two latents"
        self.unit = unit if self.has_unit and in_unit else 1.0
        self.supports: dict[str, np.ndarray] = {}
        self.counter = 0

    @property
    def recipe(self) -> tuple[str, ...]:
        unit = f"unit {self.unit:g}" if self.has_unit else "no unit"
        return self.structure, self.family, self.writing, self.prior, self.data, self.constants, unit

    def f(self, value: float, power: int = 0) -> Any:
        """A constant of a prior, in the dtype that this model writes constants in; power: of the unit it is in."""
        value = value * self.unit**power
        kind = str(self.dress.choice(CONSTANTS)) if self.constants == "mixed" else self.constants
        if kind == "whole" and abs(value) >= 1 and abs(value) < 100:  # an int8 for PyTensor, or a small one of numpy's
            written: Any = self.dress.choice([int, np.int8, np.int16, np.int64])(round(value))
        elif kind == "single":
            written = np.float32(value)
        elif kind == "python":
            written = float(value)
        else:
            written = np.float64(value)
        return np.float64(written) if self.exact else written

    def model(self) -> pm.Model:
        with pm.Model() as model:
            getattr(self, "_" + self.structure.replace(" ", "_"))()
        return model

    # -- parameters ------------------------------------------------------------------------------------------------

    def real(self, name: str, shape: tuple[int, ...], power: int = 0) -> Any:
        self.powers[name] = power
        if self.prior == "hierarchical":
            self.powers[f"{name}_centre"] = power
            centre = pm.Normal(f"{name}_centre", self.f(0.0), self.f(2.0, power))
            return pm.Normal(name, centre, self.f(1.5, power), shape=shape)
        if self.prior == "other":
            return pm.StudentT(name, nu=self.f(4.0), mu=self.f(0.2, power), sigma=self.f(2.0, power), shape=shape)
        if self.prior == "flat":
            return pm.Uniform(name, self.f(-6.0, power), self.f(6.0, power), shape=shape)
        return pm.Normal(name, self.f(0.3, power), self.f(2.0, power), shape=shape)

    def positive(self, name: str, shape: tuple[int, ...], power: int = 0) -> Any:
        self.powers[name] = power
        if self.prior == "other":
            centre = self.f(np.exp(0.1), power)
            return pm.LogNormal(name, np.log(np.float64(centre)), self.f(0.7), shape=shape)
        if self.prior == "hierarchical":
            self.powers[f"{name}_scale"] = -power
            scale = pm.Gamma(f"{name}_scale", self.f(3.0), self.f(2.0, power))
            return pm.Gamma(name, self.f(2.5), scale, shape=shape)
        if self.prior == "flat":
            return pm.Uniform(name, self.f(0.05, power), self.f(9.0, power), shape=shape)
        return pm.Gamma(name, self.f(2.5), self.f(1.3, -power), shape=shape)

    def share(self, name: str, shape: tuple[int, ...]) -> Any:
        if self.prior == "other":
            return pm.Deterministic(
                name, pm.math.sigmoid(pm.Normal(f"{name}_logit", self.f(0.1), self.f(1.2), shape=shape))
            )
        return (
            pm.Beta(name, self.f(1.7), self.f(2.2), shape=shape)
            if self.prior != "flat"
            else pm.Beta(name, self.f(1.0), self.f(1.0), shape=shape)
        )

    def weights(self, name: str, k: int) -> Any:
        if self.prior == "other":
            logits = pm.Normal(f"{name}_logits", self.f(0.0), self.f(1.0), shape=k - 1)
            return pm.math.softmax(pt.concatenate([np.zeros(1), logits]))
        return pm.Dirichlet(name, np.full(k, 1.8))

    # -- latents -----------------------------------------------------------------------------------------------------

    def latent(self, name: str, k: int, shape: tuple[int, ...], p: Any = None, **observed: Any) -> Any:
        self.supports[name] = np.arange(k)
        if k == 2 and p is None and self.rng.random() < 0.5:
            return pm.Bernoulli(name, p=self.share(f"p_{name}", ()), shape=shape, **observed)
        return pm.Categorical(name, p=self.weights(f"w_{name}", k) if p is None else p, shape=shape, **observed)

    def by_value(self, parameter: Any, z: Any, k: int) -> Any:
        """parameter[z], in one of the ways in which people write it. parameter: [K, ...]."""
        if parameter.ndim > 1 or self.writing == "index":
            return parameter[z]
        if self.writing == "switch" and k == 2:
            return pm.math.switch(pt.eq(z, 0), parameter[0], parameter[1])
        if self.writing == "equals":
            return sum(parameter[j] * pt.eq(z, j) for j in range(k))
        if self.writing == "product" and k == 2:
            return parameter[0] * (1 - z) + parameter[1] * z
        if self.writing == "stack":
            return pt.stack([parameter[j] for j in range(k)])[z]
        if self.writing == "deterministic":
            self.counter += 1
            return pm.Deterministic(f"chosen_{self.counter}", parameter[z])
        return parameter[z]

    # -- observed ----------------------------------------------------------------------------------------------------

    def observe(self, name: str, z: Any, k: int, shape: tuple[int, ...]) -> None:
        """Observations of the chosen family whose parameters follow z; shape: that of z, broadcast."""
        make = getattr(self, "_observe_" + self.family)
        make(name, lambda parameter: self.by_value(parameter, z, k), k, shape)

    def _shaped(self, values: np.ndarray, dtype: Any = float) -> np.ndarray:
        values = np.asarray(values, dtype=dtype)
        if self.data == "constant":
            values = np.full_like(values, values.flat[0])
        if self.data == "ties" and values.size > 2:
            values.flat[1] = values.flat[2] = values.flat[0]
        return values

    def _observe_Normal(self, name: str, at: Any, k: int, shape: tuple[int, ...]) -> None:
        offset = 1e4 * self.unit if self.data == "offset" else 0.0
        sigma = self.positive(f"sd_{name}", (k,) if self.rng.random() < 0.5 else (), 1)
        spread = at(sigma) if sigma.ndim else sigma
        y = self._shaped(self.rng.normal(size=shape) * 2 * self.unit + offset)
        pm.Normal(name, offset + at(self.real(f"mu_{name}", (k,), 1)), spread, observed=y)

    def _observe_LogNormal(self, name: str, at: Any, k: int, shape: tuple[int, ...]) -> None:
        y = self._shaped(self.rng.lognormal(size=shape))
        pm.LogNormal(name, at(self.real(f"mu_{name}", (k,))), self.positive(f"sd_{name}", ()), observed=y)

    def _observe_Laplace(self, name: str, at: Any, k: int, shape: tuple[int, ...]) -> None:
        y = self._shaped(self.rng.laplace(size=shape) * self.unit)
        pm.Laplace(name, at(self.real(f"mu_{name}", (k,), 1)), self.positive(f"b_{name}", (), 1), observed=y)

    def _observe_StudentT(self, name: str, at: Any, k: int, shape: tuple[int, ...]) -> None:
        y = self._shaped(self.rng.standard_t(4, size=shape) * self.unit)
        mu = at(self.real(f"mu_{name}", (k,), 1))
        pm.StudentT(name, nu=self.f(4.0), mu=mu, sigma=self.f(1.3, 1), observed=y)

    def _observe_Poisson(self, name: str, at: Any, k: int, shape: tuple[int, ...]) -> None:
        exposure = self.rng.uniform(0.5, 2.0, size=shape) if self.rng.random() < 0.4 else self.f(1.0)
        y = self._shaped(self.rng.poisson(2.0, size=shape), int)
        pm.Poisson(name, exposure * at(self.positive(f"rate_{name}", (k,))), observed=y)

    def _observe_ZeroInflatedPoisson(self, name: str, at: Any, k: int, shape: tuple[int, ...]) -> None:
        y = self._shaped(self.rng.poisson(1.5, size=shape) * self.rng.integers(0, 2, size=shape), int)
        pm.ZeroInflatedPoisson(name, self.f(0.7), at(self.positive(f"rate_{name}", (k,))), observed=y)

    def _observe_NegativeBinomial(self, name: str, at: Any, k: int, shape: tuple[int, ...]) -> None:
        alpha = self.f(1.8) if self.rng.random() < 0.5 else self.positive(f"alpha_{name}", ())
        y = self._shaped(self.rng.negative_binomial(2, 0.4, size=shape), int)
        pm.NegativeBinomial(name, mu=at(self.positive(f"mu_{name}", (k,))), alpha=alpha, observed=y)

    def _observe_Geometric(self, name: str, at: Any, k: int, shape: tuple[int, ...]) -> None:
        pm.Geometric(
            name, at(self.share(f"p_{name}", (k,))), observed=self._shaped(self.rng.geometric(0.4, shape), int)
        )

    def _observe_Bernoulli(self, name: str, at: Any, k: int, shape: tuple[int, ...]) -> None:
        y = self._shaped(self.rng.integers(0, 2, size=shape), int)
        if self.rng.random() < 0.3:
            pm.Bernoulli(name, logit_p=at(self.real(f"logit_{name}", (k,))), observed=y)
        else:
            pm.Bernoulli(name, p=at(self.share(f"p_{name}", (k,))), observed=y)

    def _observe_Binomial(self, name: str, at: Any, k: int, shape: tuple[int, ...]) -> None:
        n = self.rng.integers(1, 6, size=shape)
        y = self.rng.binomial(n, 0.5)
        pm.Binomial(name, n=n, p=at(self.share(f"p_{name}", (k,))), observed=y)

    def _observe_Categorical(self, name: str, at: Any, k: int, shape: tuple[int, ...]) -> None:
        p = pm.Dirichlet(f"p_{name}", np.full(3, 1.6), shape=(k, 3))
        pm.Categorical(name, p=at(p), observed=self._shaped(self.rng.integers(0, 3, size=shape), int))

    def _observe_Exponential(self, name: str, at: Any, k: int, shape: tuple[int, ...]) -> None:
        y = self._shaped(self.rng.exponential(size=shape) * self.unit)
        pm.Exponential(name, at(self.positive(f"rate_{name}", (k,), -1)), observed=y)

    def _observe_Gamma(self, name: str, at: Any, k: int, shape: tuple[int, ...]) -> None:
        alpha = self.f(2.0) if self.rng.random() < 0.5 else self.positive(f"alpha_{name}", ())
        y = self._shaped(self.rng.gamma(2.0, size=shape) * self.unit)
        pm.Gamma(name, alpha, at(self.positive(f"rate_{name}", (k,), -1)), observed=y)

    def _observe_Weibull(self, name: str, at: Any, k: int, shape: tuple[int, ...]) -> None:
        y = self._shaped(self.rng.weibull(1.5, size=shape) * self.unit)
        pm.Weibull(name, self.f(1.5), at(self.positive(f"scale_{name}", (k,), 1)), observed=y)

    def _observe_Beta(self, name: str, at: Any, k: int, shape: tuple[int, ...]) -> None:
        y = self._shaped(self.rng.beta(2.0, 3.0, size=shape))
        pm.Beta(name, at(self.positive(f"a_{name}", (k,))), self.f(2.5), observed=y)

    def _observe_MvNormal(self, name: str, at: Any, k: int, shape: tuple[int, ...]) -> None:
        y = self._shaped(self.rng.normal(size=(*shape, 2)) * self.unit)
        cov = np.array([[1.0, 0.3], [0.3, 0.8]]) * self.unit**2
        pm.MvNormal(name, at(self.real(f"mu_{name}", (k, 2), 1)), cov=cov, observed=y)

    # -- structures ----------------------------------------------------------------------------------------------------

    def _rows(self) -> int:
        return 1 if self.data == "one row" else int(self.rng.integers(3, 7))

    def _plate(self) -> None:
        k, n = int(self.rng.integers(2, 4)), self._rows()
        self.observe("y", self.latent("z", k, (n,)), k, (n,))

    def _two_latents(self) -> None:
        n = min(self._rows(), 4)
        a, b = self.latent("a", 2, (n,)), self.latent("b", 2, (n,))
        self.observe("y", a, 2, (n,))
        mean = self.real("effect", (3,))
        y = self.rng.normal(size=n)
        pm.Normal("both", mean[0] + mean[1] * a + mean[2] * a * b, self.f(1.0), observed=y)

    def _vector(self) -> None:
        n = min(self._rows(), 3)
        q = np.array([[1, 0], [0, 1], [1, 1]])
        skill = self.latent("skill", 2, (n, 2))
        guess = self.share("guess", (3,))
        able = pt.prod(skill[:, None, :] ** q[None], axis=-1)
        y = self.rng.integers(0, 2, size=(n, 3))
        pm.Bernoulli("y", p=pt.switch(pt.eq(able, 1), self.f(0.9), guess), observed=y)

    def _parallel(self) -> None:
        n = min(self._rows(), 4)
        self.observe("y", self.latent("a", 2, (n,)), 2, (n,))
        rate = self.positive("rate", (2,))
        pm.Poisson("x", rate[self.latent("b", 2, (3,))], observed=self.rng.poisson(2.0, 3))

    def _groups(self) -> None:
        group = np.array([0, 0, 1, 1, 1])
        kind = self.latent("kind", 2, (2,))
        q = self.share("q", (2,))
        self.supports["z"] = np.arange(2)
        z = pm.Bernoulli("z", p=q[kind[group]], shape=5)
        self.observe("y", z, 2, (5,))

    def _long_form(self) -> None:
        item = self.rng.integers(0, 3, size=7)
        k = int(self.rng.integers(2, 4))
        z = self.latent("z", k, (3,))
        self.observe("y", z[item], k, (7,))

    def _scalar(self) -> None:
        n = max(self._rows(), 3)
        self.supports["change"] = np.arange(n)
        change = pm.DiscreteUniform("change", lower=np.int64(0), upper=np.int64(n - 1))
        late = (np.arange(n) > change).astype("int64")
        self.observe("y", late, 2, (n,))

    def _crossed(self) -> None:
        row, column = self.latent("row", 2, (3,)), self.latent("column", 2, (2,))
        right = self.share("right", (2, 2))
        y = self.rng.integers(0, 2, size=(3, 2))
        pm.Bernoulli("y", p=right[row[:, None], column[None, :]], observed=y)

    def _chain(self) -> None:
        n = 5
        z = self.latent("z", 2, (n,))
        stay = self.share("stay", ())
        same = pt.eq(z[1:], z[:-1])
        pm.Potential("moves", pt.switch(same, pt.log(stay), pt.log1p(-stay)).sum())
        self.observe("y", z, 2, (n,))

    def _masked_latent(self) -> None:
        n = 5
        known = np.ma.masked_array(self.rng.integers(0, 2, size=n), mask=[True, False, True, False, True])
        z = pm.Bernoulli("z", p=self.share("p_z", ()), observed=known)
        self.supports["z_unobserved"] = np.arange(2)
        self.observe("y", z, 2, (n,))


def check(seed: int) -> Outcome:
    """Make the model of this seed and compare it with brute force."""
    maker = Maker(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            model = maker.model()
        except Exception as problem:  # PyMC itself refuses the combination
            return Outcome(seed, maker.recipe, "refused", f"PyMC: {type(problem).__name__}")
        try:
            return _compare(seed, maker, model)
        except UnsupportedModelError as problem:
            return Outcome(seed, maker.recipe, "refused", problem.what)
        except EmpplError as problem:
            degenerate = maker.data in ("constant", "one row", "ties")
            kind = "refused" if degenerate else "crash"
            return Outcome(seed, maker.recipe, kind, f"{type(problem).__name__}: {problem.what}")
        except Exception:
            return Outcome(seed, maker.recipe, "crash", traceback.format_exc(limit=-3))


def _compare(seed: int, maker: Maker, model: pm.Model) -> Outcome:
    plan = emppl.plan(model)
    sizes = {n.name: n.size for n in plan.structure.latents if not n.implicit}
    count = np.prod([float(len(maker.supports[name])) ** size for name, size in sizes.items()])
    if count > MOST_ASSIGNMENTS:
        return Outcome(seed, maker.recipe, "refused", "too many assignments for brute force")
    exact = Enumeration(Maker(seed, exact=True).model(), {name: maker.supports[name] for name in sizes})
    plain = emppl.plan(Maker(seed, constants="double", in_unit=False).model())  # a point is drawn in unit 1
    coordinates, rng = plain.structure.coordinates, np.random.default_rng(seed)
    centre, direction = rng.normal(scale=0.7, size=coordinates.size), rng.normal(size=coordinates.size)
    direction /= np.linalg.norm(direction)

    def scaled(theta: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: value * maker.unit ** maker.powers.get(name, 0) for name, value in theta.items()}

    def along(t: float) -> dict[str, np.ndarray]:
        return scaled(coordinates.constrain(centre + t * direction))

    def ours(t: float) -> np.ndarray:
        return plan.structure.coordinates.unconstrain(along(t))

    value, gradient, _ = plan.gradient(ours(0.0))
    reference = exact.log_posterior(along(0.0))
    if not abs(value - reference) <= AGREES * max(1.0, abs(reference)):
        return Outcome(seed, maker.recipe, "wrong", f"log posterior {value!r} against {reference!r}")

    def slope(h: float) -> float:
        return (exact.log_posterior(along(h)) - exact.log_posterior(along(-h))) / (2 * h)

    way = ours(0.5) - ours(-0.5)
    size = max(1.0, float(np.linalg.norm(gradient) * np.linalg.norm(way)))
    for h in (1e-3, 1e-5):  # a corner of the density may lie within the longer steps
        by_differences = (4 * slope(h) - slope(2 * h)) / 3
        if abs(by_differences - gradient @ way) <= 1e-5 * size:
            break
    else:
        return Outcome(seed, maker.recipe, "wrong", f"gradient {gradient @ way!r} against {by_differences!r}")
    theta = along(0.0)
    found = plan.responsibilities(theta)
    for name, p in exact.responsibilities(theta).items():
        if not np.allclose(found[name], p, atol=AGREES):
            return Outcome(seed, maker.recipe, "wrong", f"responsibilities of {name}")
    fit = emppl.fit(plan, seed=seed, starts=2, max_iter=200)
    points = {point.name: point for point in fit.certificate.points}
    for name in ("log joint", "gradient", "ascent"):  # a collapse has no digits left to compare, and is marked
        if not points[name].holds and fit.status is not emppl.Status.DEGENERATE:
            return Outcome(seed, maker.recipe, "wrong", f"certificate: {points[name].text}")
    end = exact.log_posterior(fit.point)
    if (
        fit.status is not emppl.Status.DEGENERATE
        and np.isfinite(end)
        and not abs(end - fit.log_posterior) <= 1e-6 * max(1.0, abs(end))
    ):
        return Outcome(seed, maker.recipe, "wrong", f"fit says {fit.log_posterior!r}, brute force {end!r}")
    if maker.unit != 1.0:
        measured = emppl.plan(Maker(seed, constants="double").model())
        problem = _other_unit(plain, measured, coordinates.constrain(centre), scaled, seed)
        if problem:
            return Outcome(seed, maker.recipe, "wrong", f"in another unit {problem}")
    digest = b"".join(np.ascontiguousarray(fit.point[name]).tobytes() for name in sorted(fit.point))
    return Outcome(seed, maker.recipe, "ok", fit.status.name, digest + np.float64(fit.log_posterior).tobytes())


def _other_unit(plain: Any, measured: Any, theta: dict[str, np.ndarray], scaled: Any, seed: int) -> str:
    """What differs between the fit in unit 1 and that in another one; nothing if all is well."""
    one, other = (emppl.fit(p, seed=seed, starts=2, max_iter=200) for p in (plain, measured))
    if {one.status, other.status} == {emppl.Status.CONVERGED, emppl.Status.MAX_ITER}:  # on a kink, rounding decides
        return ""
    if one.status is not other.status:
        return f"{other.status.name} in place of {one.status.name}"
    if one.status is not emppl.Status.CONVERGED:
        return ""
    shift = measured.log_posterior(scaled(theta)) - plain.log_posterior(theta)
    if not abs(other.log_posterior - one.log_posterior - shift) <= 1e-5 + 1e-9 * abs(shift):
        if any(not p.holds for f in (one, other) for p in f.certificate.points if p.name == "starts"):
            return ""  # one of them says itself that two starts are too few
        return f"a log posterior {other.log_posterior - one.log_posterior - shift:.3g} higher"
    problem = _differs(one, other, scaled)
    if problem:  # two copies of a mode, whose names no sorting exchanges, as those of p and 1 - p
        one, other = (
            emppl.fit(p, start=theta, starts=0, max_iter=200)
            for p, theta in ((plain, one.point), (measured, scaled(one.point)))
        )
        problem = _differs(one, other, scaled)
    return problem


def _differs(one: Any, other: Any, scaled: Any) -> str:
    """What the second fit has another point or standard error of, in its unit, than the first."""
    errors = {name: np.asarray(v) for name, v in one.standard_errors().items()}
    expected, widths = scaled(one.point), scaled(errors)
    for name, value in other.point.items():  # sorted: labels may end the other way round
        found, sought, width = (_by_size(v) for v in (value, expected[name], np.nan_to_num(widths[name], nan=np.inf)))
        if not (np.abs(found - sought) <= SAME_MODE * width.max() + 1e-12 * np.abs(sought)).all():
            return f"{name} = {value} in place of {expected[name]}"
        error = np.asarray(other.standard_errors()[name])
        if not np.allclose(_by_size(error), _by_size(widths[name]), rtol=1e-3, equal_nan=True, atol=0.0):
            return f"the standard error of {name} {error} in place of {widths[name]}"
    return ""


def _by_size(values: np.ndarray) -> np.ndarray:
    return np.sort(np.atleast_1d(values), axis=0)


def _differs_in_pool(alone: list[Outcome], threads: int) -> list[Outcome]:
    """Models whose outcome in a pool of threads is not bit for bit the one that they had alone."""
    with ThreadPoolExecutor(threads) as pool:
        together = list(pool.map(check, [outcome.seed for outcome in alone]))
    return [one for one, other in zip(alone, together) if (one.kind, one.digest) != (other.kind, other.digest)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0, help="fit some once more in a pool of so many threads")
    parser.add_argument("--every", type=int, default=1, help="those some: every so manyth")
    arguments = parser.parse_args()
    began, outcomes = time.perf_counter(), []
    for seed in range(arguments.seed, arguments.seed + arguments.n):
        outcome = check(seed)
        outcomes.append(outcome)
        if outcome.kind in ("wrong", "crash"):
            print(f"seed {seed} {outcome.recipe}: {outcome.kind}: {outcome.text}", flush=True)
        if len(outcomes) % 50 == 0:
            print(f"{len(outcomes)} models", flush=True)
    print(f"{arguments.n} models in {time.perf_counter() - began:.0f} s: {dict(Counter(o.kind for o in outcomes))}")
    for text, times in Counter(o.text[:90] for o in outcomes if o.kind in ("refused", "ok")).most_common(25):
        print(f"  {times:5d}  {text}")
    differing = _differs_in_pool(outcomes[:: arguments.every], arguments.threads) if arguments.threads else []
    for outcome in differing:
        print(f"seed {outcome.seed} {outcome.recipe}: ended elsewhere in a pool of threads")
    return int(any(o.kind in ("wrong", "crash") for o in outcomes) or bool(differing))


if __name__ == "__main__":
    sys.exit(main())
