"""A change of units changes nothing but the numbers' names: models × units of the data and of the covariates.

`python -m tests.equivariance [NAME …]` prints a row for each model and unit, and ends with the number that differ;
`test_equivariance.py` has a dozen of them.
Priors are in the same units as the data, so that theta, its standard errors and the log posterior must follow the
unit exactly: mode, status, certificate and the modes that the starts reach are compared with those in unit 1.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable, Iterator
from itertools import permutations
from typing import Any, NamedTuple

import numpy as np
import pymc as pm

import emppl
from emppl.models import (
    gaussian_mixture,
    mixture_regression,
    naive_bayes,
    occupancy,
    poisson_mixture,
    robust_regression,
    zero_inflated,
)

UNITS = (1e-9, 1e-6, 1e-3, 1e3, 1e6, 1e9)
MODE = 1e-4  # posterior sds
ERRORS = 1e-3  # relative
HEIGHT = 1e-6  # nats, and as much for a nat of the largest term that cancels
Units = tuple[float, float]


class Case(NamedTuple):
    """A model in the units (of y, of x): `build(y, x)`, and what they do to each parameter, observation and prior."""

    name: str
    build: Callable[[float, float], pm.Model]
    factors: Callable[[float, float], dict[str, Any]]  # by which a parameter grows; the others stay
    observations: Callable[[float, float], float]  # log of what the density of all observations shrinks by
    units: tuple[Units, ...] = tuple((u, 1.0) for u in UNITS)
    flat: tuple[str, ...] = ()  # parameters whose prior is as high in every unit
    starts: int = 5


DATA_UNITS = tuple((u, 1.0) for u in UNITS)
BOTH_UNITS = (*DATA_UNITS, *((1.0, u) for u in UNITS), (1e-9, 1e9), (1e9, 1e-9), (1e6, 1e3))
COVARIATE_UNITS = tuple((1.0, u) for u in UNITS)
RNG = np.random.default_rng(20)
N = 90
GROUP = RNG.integers(0, 2, N)
X = RNG.normal(2.0, 1.0, N)
Y = np.where(GROUP == 0, RNG.normal(-2.0, 1.0, N), RNG.normal(3.0, 0.6, N))
PAIR = np.column_stack([Y, RNG.normal(GROUP * 2.0, 1.0, N)])
LINE = np.where(GROUP == 0, 1.0 + 2.0 * X, 6.0 - 1.0 * X) + 0.5 * RNG.normal(size=N)
POSITIVE = np.where(GROUP == 0, RNG.gamma(3.0, 1.0, N), RNG.gamma(20.0, 0.6, N))
TAILED = np.where(GROUP == 0, -3.0, 3.0) + RNG.standard_t(4, N)
COUNTS = RNG.poisson(np.where(GROUP == 0, 2.0, 9.0))
SITE = np.repeat(np.arange(30), 3)
ALTITUDE = RNG.normal(1.0, 0.5, 30)
SEEN = (RNG.random(90) < 0.5) & (RNG.random(30) < 1 / (1 + np.exp(1.0 - 1.5 * ALTITUDE)))[SITE]


def _f(number: float) -> np.float64:
    return np.float64(number)


def _normals(y: float, x: float, spread: str = "half_normal", each: bool = True) -> pm.Model:
    """Two components; the prior of their spread by name."""
    size = {"shape": 2} if each else {}
    with pm.Model() as model:
        weights = pm.Dirichlet("weights", np.full(2, 2.0))
        mu = pm.Normal("mu", _f(0.0), _f(10.0 * y), shape=2)
        if spread == "inverse_gamma":
            sd = pm.math.sqrt(pm.InverseGamma("spread", _f(2.0), _f(2.0 * y * y), **size))
        elif spread == "half_normal":
            sd = pm.HalfNormal("spread", _f(5.0 * y), **size)
        elif spread == "log_normal":
            sd = pm.LogNormal("spread", np.log(y), _f(1.0), **size)
        elif spread == "half_cauchy":
            sd = pm.HalfCauchy("spread", _f(2.0 * y), **size)
        else:
            sd = pm.Uniform("spread", _f(0.0), _f(20.0 * y), **size)
        z = pm.Categorical("z", p=weights, shape=N)
        pm.Normal("y", mu[z], sd[z] if each else sd, observed=Y * y)
    return model


def _flat(y: float, x: float) -> pm.Model:
    """No prior has a unit."""
    with pm.Model() as model:
        weights = pm.Dirichlet("weights", np.full(2, 2.0))
        mu = pm.Flat("mu", shape=2)
        sd = pm.HalfFlat("spread")
        z = pm.Categorical("z", p=weights, shape=N)
        pm.Normal("y", mu[z], sd, observed=Y * y)
    return model


def _ordered(y: float, x: float) -> pm.Model:
    with pm.Model() as model:
        weights = pm.Dirichlet("weights", np.full(2, 2.0))
        order = pm.distributions.transforms.ordered
        mu = pm.Normal("mu", np.array([-1.0, 1.0]) * y, _f(10.0 * y), transform=order, shape=2)
        sd = pm.InverseGamma("spread", _f(2.0), _f(y))
        z = pm.Categorical("z", p=weights, shape=N)
        pm.Normal("y", mu[z], sd, observed=Y * y)
    return model


def _pair(y: float, x: float) -> pm.Model:
    """Two columns, each in a unit of its own."""
    unit = np.array([y, x])
    with pm.Model() as model:
        weights = pm.Dirichlet("weights", np.full(2, 2.0))
        mu = pm.Normal("mu", _f(0.0), 10.0 * unit, shape=(2, 2))
        sd = pm.InverseGamma("spread", _f(2.0), unit, shape=(2, 2))
        z = pm.Categorical("z", p=weights, shape=N)
        pm.Normal("y", mu[z], sd[z], observed=PAIR * unit)
    return model


def _lkj(y: float, x: float) -> pm.Model:
    with pm.Model() as model:
        weights = pm.Dirichlet("weights", np.full(2, 2.0))
        mu = pm.Normal("mu", _f(0.0), _f(10.0 * y), shape=(2, 2))
        chol, *_ = pm.LKJCholeskyCov("chol", n=2, eta=2.0, sd_dist=pm.InverseGamma.dist(_f(2.0), _f(y)))
        z = pm.Categorical("z", p=weights, shape=N)
        pm.MvNormal("y", mu[z], chol=chol, observed=PAIR * y)
    return model


def _student(y: float, x: float) -> pm.Model:
    with pm.Model() as model:
        weights = pm.Dirichlet("weights", np.full(2, 2.0))
        mu = pm.Normal("mu", _f(0.0), _f(10.0 * y), shape=2)
        sd = pm.HalfNormal("spread", _f(5.0 * y))
        nu = pm.Gamma("nu", _f(2.0), _f(0.1))
        z = pm.Categorical("z", p=weights, shape=N)
        pm.StudentT("y", nu=nu, mu=mu[z], sigma=sd, observed=TAILED * y)
    return model


def _laplace(y: float, x: float) -> pm.Model:
    """The mode is at a corner of the density."""
    with pm.Model() as model:
        weights = pm.Dirichlet("weights", np.full(2, 2.0))
        mu = pm.Normal("mu", _f(0.0), _f(10.0 * y), shape=2)
        spread = pm.InverseGamma("spread", _f(2.0), _f(y))
        z = pm.Categorical("z", p=weights, shape=N)
        pm.Laplace("y", mu[z], spread, observed=Y * y)
    return model


def _gamma(y: float, x: float) -> pm.Model:
    with pm.Model() as model:
        weights = pm.Dirichlet("weights", np.full(2, 2.0))
        shape = pm.Gamma("shape", _f(2.0), _f(0.2), shape=2)
        mean = pm.Gamma("mean", _f(2.0), _f(0.3 / y), shape=2)
        z = pm.Categorical("z", p=weights, shape=N)
        pm.Gamma("y", alpha=shape[z], beta=(shape / mean)[z], observed=POSITIVE * y)
    return model


def _exponential(y: float, x: float) -> pm.Model:
    with pm.Model() as model:
        weights = pm.Dirichlet("weights", np.full(2, 2.0))
        rate = pm.Gamma("rate", _f(2.0), _f(3.0 * y), shape=2)
        z = pm.Categorical("z", p=weights, shape=N)
        pm.Exponential("y", rate[z], observed=POSITIVE * y)
    return model


def _lines(y: float, x: float, shared: bool = True) -> pm.Model:
    with pm.Model() as model:
        weights = pm.Dirichlet("weights", np.full(2, 2.0))
        intercept = pm.Normal("intercept", _f(0.0), _f(10.0 * y), shape=2)
        slope = pm.Normal("slope", _f(0.0), _f(5.0 * y / x), shape=2)
        sd = pm.InverseGamma("spread", _f(2.0), _f(y))
        z = pm.Categorical("z", p=weights, shape=N)
        pm.Normal("y", intercept[z] + slope[z] * (X * x), sd, observed=LINE * y)
    return model


def _robust_lines(y: float, x: float) -> pm.Model:
    """Regression with Student errors: every step is a search."""
    with pm.Model() as model:
        weights = pm.Dirichlet("weights", np.full(2, 2.0))
        intercept = pm.Normal("intercept", _f(0.0), _f(10.0 * y), shape=2)
        slope = pm.Normal("slope", _f(0.0), _f(5.0 * y / x), shape=2)
        sd = pm.HalfNormal("spread", _f(y))
        z = pm.Categorical("z", p=weights, shape=N)
        pm.StudentT("y", nu=_f(5.0), mu=intercept[z] + slope[z] * (X * x), sigma=sd, observed=LINE * y)
    return model


def _logistic_weights(y: float, x: float) -> pm.Model:
    with pm.Model() as model:
        gate = pm.Normal("gate", _f(0.0), _f(2.0 / x))
        mu = pm.Normal("mu", _f(0.0), _f(10.0 * y), shape=2)
        sd = pm.InverseGamma("spread", _f(2.0), _f(y))
        z = pm.Bernoulli("z", pm.math.sigmoid(gate * (X - 2.0) * x), shape=N)
        pm.Normal("y", mu[z], sd, observed=Y * y)
    return model


def _poisson_lines(y: float, x: float) -> pm.Model:
    with pm.Model() as model:
        weights = pm.Dirichlet("weights", np.full(2, 2.0))
        level = pm.Normal("level", _f(0.0), _f(3.0), shape=2)
        slope = pm.Normal("slope", _f(0.0), _f(1.0 / x))
        z = pm.Categorical("z", p=weights, shape=N)
        pm.Poisson("y", pm.math.exp(level[z] + slope * (X * x)), observed=COUNTS)
    return model


def _measured(powers: dict[str, tuple[int, int]]) -> Callable[[float, float], dict[str, Any]]:
    return lambda y, x: {name: y**a * x**b for name, (a, b) in powers.items()}


def _all_of(y: float, x: float) -> float:
    return N * float(np.log(y))


def _none_of(y: float, x: float) -> float:
    return 0.0


def shipped() -> Iterator[Case]:
    """The shipped models that measure something, on small data of this module."""
    for kind in ("full", "diagonal", "spherical", "tied", "tied_spherical"):

        def pairs(y: float, x: float, kind: str = kind) -> pm.Model:
            return gaussian_mixture.build({"y": PAIR * np.array([y, x])}, k=2, covariance=kind)

        apart = kind in ("full", "tied", "diagonal")
        spread = {"sd": lambda y, x: np.array([y, x])} if kind == "diagonal" else {}
        if not apart:
            spread = {"sd": lambda y, x: y}

        def factors(y: float, x: float, spread: dict[str, Any] = spread, apart: bool = apart) -> dict[str, Any]:
            unit = np.array([y, x]) if apart else np.array([y, y])
            return {"mu": unit, **{name: by(y, x) for name, by in spread.items()}}

        def both(y: float, x: float) -> float:
            return N * float(np.log(y) + np.log(x))

        if apart:
            yield Case(f"gaussian_mixture, {kind}", pairs, factors, both, (*DATA_UNITS, (1e-9, 1e9), (1e6, 1e-3)))
        else:

            def alike(y: float, x: float, pairs: Any = pairs) -> pm.Model:
                return pairs(y, y)

            yield Case(f"gaussian_mixture, {kind}", alike, factors, lambda y, x: 2 * N * float(np.log(y)))
    yield Case(
        "gaussian_mixture, one column", lambda y, x: gaussian_mixture.build({"y": Y * y}, k=2),
        _measured({"mu": (1, 0), "sd": (1, 0)}), _all_of,
    )  # fmt: skip
    yield Case(
        "mixture_regression", lambda y, x: mixture_regression.build({"y": LINE * y, "x": X * x}, k=2),
        lambda y, x: {"coefficients": y * np.array([1.0, 1.0 / x]), "sigma": y}, _all_of, BOTH_UNITS,
    )  # fmt: skip
    yield Case(
        "mixture_regression, poisson",
        lambda y, x: mixture_regression.build({"y": COUNTS, "x": X * x}, k=2, family="poisson"),
        lambda y, x: {"coefficients": np.array([1.0, 1.0 / x])}, _none_of, COVARIATE_UNITS,
    )  # fmt: skip
    yield Case(
        "robust_regression",
        lambda y, x: robust_regression.build({"y": (1.0 + 2.0 * X + 0.3 * TAILED) * y, "x": X * x}),
        _measured({"intercept": (1, 0), "slope": (1, -1), "outlier_mean": (1, 0), "outlier_sd": (1, 0),
                   "sigma": (1, 0)}),
        _all_of, BOTH_UNITS,
    )  # fmt: skip
    yield Case(
        "naive_bayes", lambda y, x: naive_bayes.build({"a": PAIR[:, 0] * y, "b": PAIR[:, 1] * x}, k=2),
        lambda y, x: {"mu": np.array([y, x]), "sd": np.array([y, x])},
        lambda y, x: N * float(np.log(y) + np.log(x)), (*DATA_UNITS, (1e-9, 1e9), (1e6, 1e-3)),
    )  # fmt: skip
    yield Case(
        "poisson_mixture", lambda y, x: poisson_mixture.build({"y": COUNTS, "exposure": np.full(N, x)}, k=2),
        _measured({"rate": (0, -1)}), _none_of, COVARIATE_UNITS,
    )  # fmt: skip
    yield Case(
        "zero_inflated",
        lambda y, x: zero_inflated.build({"y": COUNTS * (GROUP == 0), "x": X * x}),
        lambda y, x: {"count_coefficients": np.array([1.0, 1.0 / x])}, _none_of, COVARIATE_UNITS,
    )  # fmt: skip
    yield Case(
        "occupancy",
        lambda y, x: occupancy.build(
            {"detected": SEEN.astype(int), "site": SITE, "altitude": ALTITUDE[SITE] * x}, site_covariates=["altitude"]
        ),
        lambda y, x: {"occupancy_coefficients": np.array([1.0, 1.0 / x])}, _none_of, COVARIATE_UNITS,
    )  # fmt: skip


SPREADS = ("half_normal", "inverse_gamma", "log_normal", "half_cauchy", "uniform")
OTHERS = (
    *(
        Case(
            f"two normals, {spread}", lambda y, x, spread=spread: _normals(y, x, spread),
            _measured({"mu": (1, 0), "spread": (2 if spread == "inverse_gamma" else 1, 0)}), _all_of,
        )
        for spread in SPREADS
    ),
    Case("two normals, one spread", lambda y, x: _normals(y, x, "half_normal", False),
         _measured({"mu": (1, 0), "spread": (1, 0)}), _all_of),
    Case("flat priors", _flat, _measured({"mu": (1, 0), "spread": (1, 0)}), _all_of, flat=("mu", "spread")),
    Case("ordered means", _ordered, _measured({"mu": (1, 0), "spread": (1, 0)}), _all_of),
    Case("two columns", _pair, lambda y, x: {"mu": np.array([y, x]), "spread": np.array([y, x])},
         lambda y, x: N * float(np.log(y) + np.log(x)), (*BOTH_UNITS[:6], (1e-9, 1e9), (1e9, 1e-9), (1e6, 1e3))),
    Case("a covariance", _lkj, _measured({"mu": (1, 0), "chol": (1, 0)}), lambda y, x: 2 * N * float(np.log(y))),
    Case("Student errors", _student, _measured({"mu": (1, 0), "spread": (1, 0)}), _all_of),
    Case("Laplace errors", _laplace, _measured({"mu": (1, 0), "spread": (1, 0)}), _all_of, starts=5),
    Case("gamma", _gamma, _measured({"mean": (1, 0)}), _all_of),
    Case("exponential", _exponential, _measured({"rate": (-1, 0)}), _all_of),
    Case("lines", _lines, _measured({"intercept": (1, 0), "slope": (1, -1), "spread": (1, 0)}), _all_of, BOTH_UNITS),
    Case("lines with Student errors", _robust_lines,
         _measured({"intercept": (1, 0), "slope": (1, -1), "spread": (1, 0)}), _all_of, BOTH_UNITS),
    Case("weights by a covariate", _logistic_weights,
         _measured({"gate": (0, -1), "mu": (1, 0), "spread": (1, 0)}), _all_of, BOTH_UNITS),
    Case("Poisson lines", _poisson_lines, _measured({"slope": (0, -1)}), _none_of, COVARIATE_UNITS),
)  # fmt: skip


def cases() -> tuple[Case, ...]:
    """All of them."""
    return (*shipped(), *OTHERS)


def fitted(case: Case, units: Units, **options: Any) -> Any:
    """The fit in these units."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return emppl.fit(case.build(*units), **{"seed": 1, "starts": case.starts, **options})


def differences(case: Case, units: Units, here: Any, there: Any) -> list[str]:
    """What a fit in other units, `there`, has otherwise than the one in unit 1, in words."""
    found = []
    factors = case.factors(*units)
    if here.status is not there.status:
        found.append(f"status {there.status.name}, not {here.status.name}")
    if here.certificate.holds != there.certificate.holds:
        found.append(f"certificate {there.certificate.holds}: " + str(there.certificate).replace("\n", "; "))
    modes = [sorted(np.asarray(fit.starts["mode"]).tolist()) for fit in (here, there)]
    if modes[0] != modes[1]:
        found.append(f"starts reach modes {modes[1]}, not {modes[0]}")
    if np.isfinite(here.log_posterior):
        shift = -case.observations(*units)
        if here.plan.estimate == "map":
            for node in here.plan.structure.parameters:
                if node.name in case.flat:
                    continue
                shift -= float(np.log(np.broadcast_to(factors.get(node.name, 1.0), node.shape)).sum())
        off = abs(there.log_posterior - shift - here.log_posterior)
        if not off <= HEIGHT + 1e-10 * abs(shift):
            found.append(f"log posterior off by {off:.2g}")
    mode, error = _apart(factors, here, there)
    if not mode <= MODE:  # a copy of the mode, as high as it, to which no permutation leads
        point = {name: np.asarray(v) * factors.get(name, 1.0) for name, v in here.point.items()}
        mode, error = _apart(factors, here, emppl.fit(there.plan, start=point, starts=0))
    if not mode <= MODE:
        found.append(f"mode off by {mode:.2g} posterior sds")
    if not error <= ERRORS:
        found.append(f"standard errors off by {error:.2g}")
    return found


def _apart(factors: dict[str, Any], here: Any, there: Any) -> tuple[float, float]:
    """How far two modes are apart, in posterior sds, and their standard errors, relative; best order of components."""
    wanted, errors = here.standard_errors(), there.standard_errors()
    best: tuple[float, float] | None = None
    for order in permutations(range(2)):
        mode = error = 0.0
        for node in here.plan.structure.parameters:
            a, b = np.asarray(here.theta[node.name]), np.asarray(there.theta[node.name])
            sa, sb = np.asarray(wanted[node.name]), np.asarray(errors[node.name])
            b, sb = b / factors.get(node.name, 1.0), sb / factors.get(node.name, 1.0)
            if node.shape and node.shape[0] == 2 and _is_by_component(here, node.name):
                b, sb = b[list(order)], sb[list(order)]
            width = np.where(np.isfinite(sa) & (sa > 0), sa, np.maximum(np.abs(a), 1e-12))
            mode = max(mode, float(np.max(np.abs(a - b) / width)))
            same = np.isnan(sa) == np.isnan(sb)
            relative = np.where(same, np.nan_to_num(np.abs(sb - sa) / np.where(sa > 0, sa, 1.0)), np.inf)
            error = max(error, float(np.max(relative)))
        if best is None or (mode, error) < best:
            best = (mode, error)
    assert best is not None
    return best


def _is_by_component(fit: Any, name: str) -> bool:
    return any(name in axis.shapes for axis in fit.plan.axes)


def main(names: list[str]) -> int:
    """Print the table; the number of rows that differ."""
    wrong = total = 0
    for case in cases():
        if names and not any(name in case.name for name in names):
            continue
        began = time.perf_counter()
        here = fitted(case, (1.0, 1.0))
        print(f"{case.name}: {here.status.name}, certificate {here.certificate.holds}", flush=True)
        for units in case.units:
            try:
                found = differences(case, units, here, fitted(case, units))
            except Exception as problem:  # the table goes on, and counts it
                found = [f"{type(problem).__name__}: {str(problem)[:200]}"]
            total, wrong = total + 1, wrong + bool(found)
            print(f"  y {units[0]:g}, x {units[1]:g}: {'; '.join(found) or 'the same'}", flush=True)
        print(f"  {time.perf_counter() - began:.0f} s", flush=True)
    print(f"{wrong} of {total} differ")
    return wrong


if __name__ == "__main__":
    sys.exit(1 if main(sys.argv[1:]) else 0)
