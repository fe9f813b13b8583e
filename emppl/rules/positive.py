"""Natural forms of positive measurements: LogNormal, Gamma, InverseGamma, Weibull, Pareto, HalfNormal, Wald."""

from __future__ import annotations

from typing import Any

import numpy as np
import pymc as pm
import pytensor.tensor as pt
from scipy.special import polygamma, psi

from emppl.rules.continuous import inverse_gamma_variance, normal, normal_mean
from emppl.rules.roots import falling_root
from emppl.rules.tables import Family, Groups, columns, conjugate, family, grouped, nested, ratio, single

LOG_2PI = float(np.log(2 * np.pi))


def _positive(y: np.ndarray) -> np.ndarray:
    return np.isfinite(y) & (y > 0)


@family.register(pm.LogNormal)
def log_normal(op: Any) -> Family:
    """The Normal of log y. No frame: logarithms of numbers never lie far from the origin."""
    rule = normal(op)
    return rule._replace(
        name="LogNormal",
        describe="y > 0",
        statistic=lambda y: rule.statistic(np.log(y)),
        log_base=lambda y: -np.log(y),
        inside=_positive,
        frame=None,
        into_frame=lambda frame, mu, sigma: (mu, sigma),
    )


conjugate(pm.InverseGamma, pm.LogNormal, "sigma", link="sqrt")(inverse_gamma_variance)
conjugate(pm.Normal, pm.LogNormal, "mu", given=("sigma",), signed=True)(normal_mean)


# -- Gamma -----------------------------------------------------------------------------------------------------------


def _gamma_maximise(statistics: np.ndarray, groups: Groups, fixed: Groups, pseudo: Groups) -> Groups | None:
    """The scale is a ratio given the shape; what is left is one falling function of the shape."""
    count, logs, total = statistics.T
    if "alpha" in fixed:
        a = fixed["alpha"]
        sums = grouped(columns(a * count, logs, total), groups["scale"], pseudo.get("scale"))
        return {"scale": ratio(sums[:, 2], sums[:, 0])}
    g = groups["alpha"]
    if "scale" in fixed:
        sums = grouped(columns(count, logs - count * np.log(fixed["scale"]), total), g, pseudo.get("alpha"))
        n, mean = sums[:, 0], ratio(sums[:, 1], sums[:, 0])
        return {"alpha": falling_root(lambda a: (mean - psi(a), -polygamma(1, a)), np.where(n > 0, 1.0, np.nan))}
    outer = nested(groups["scale"], g)
    if outer is None:
        return None
    sums, inner = grouped(statistics, g, pseudo.get("alpha")), grouped(statistics, groups["scale"])
    prior = pseudo.get("scale", np.zeros_like(inner))
    n, extra, y = inner[:, 0], prior[:, 0], inner[:, 2] + prior[:, 2]

    def slope_of_shape(a: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        units = a[outer] * n + extra
        value = sums[:, 1] - sums[:, 0] * psi(a) - np.bincount(outer, n * np.log(y / units), len(sums))
        return value, -sums[:, 0] * polygamma(1, a) + np.bincount(outer, n * n / units, len(sums))

    spread = np.bincount(outer, n * np.log(ratio(y, n)), len(sums)) - sums[:, 1]
    alpha = falling_root(slope_of_shape, np.clip(ratio(sums[:, 0], 2 * spread), 1e-6, 1e12))
    return {"alpha": alpha, "scale": y / (alpha[outer] * n + extra)}


@family.register(pm.Gamma)
def gamma(op: Any) -> Family:
    """As PyMC's op holds it: by shape and scale 1 / beta. The scale in closed form, the shape by Newton."""
    return Family(
        name="Gamma",
        parameters=("alpha", "scale"),
        scale="scale",
        describe="y > 0; by its scale 1 / beta",
        statistic=lambda y, exposure=1.0: columns(1.0, np.log(y / exposure), y / exposure),
        natural=lambda alpha, scale: pt.stack(
            pt.broadcast_arrays(-pt.gammaln(alpha) - alpha * pt.log(scale), alpha - 1.0, -1.0 / scale), axis=-1
        ),
        log_base=lambda y, exposure=1.0: np.broadcast_to(-np.log(exposure), np.shape(y)),
        maximise=_gamma_maximise,
        inside=_positive,
    )


@conjugate(pm.InverseGamma, pm.Gamma, "scale")
def inverse_gamma_of_scale(alpha: np.ndarray, beta: np.ndarray) -> np.ndarray:
    """Counts in units of the shape, so it holds for any."""
    return columns(alpha + 1.0, 0.0, beta)


@conjugate(pm.Gamma, pm.Gamma, "scale", link="reciprocal")
@conjugate(pm.Gamma, pm.InverseGamma, "beta")
def gamma_of_rate(alpha: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return columns(alpha - 1.0, 0.0, 1.0 / np.asarray(scale))


@conjugate(pm.Exponential, pm.Gamma, "scale", link="reciprocal")
@conjugate(pm.Exponential, pm.InverseGamma, "beta")
def exponential_of_rate(scale: np.ndarray) -> np.ndarray:
    return columns(0.0, 0.0, 1.0 / np.asarray(scale))


@conjugate(pm.Exponential, pm.Gamma, "alpha", signed=True)
@conjugate(pm.Exponential, pm.InverseGamma, "alpha", signed=True)
def exponential_of_shape(scale: np.ndarray) -> np.ndarray:
    return columns(0.0, -1.0 / np.asarray(scale), 0.0)


def _inverse_gamma_maximise(statistics: np.ndarray, groups: Groups, fixed: Groups, pseudo: Groups) -> Groups | None:
    def renamed(values: Groups, new: str, old: str) -> Groups:
        return {new if name == old else name: value for name, value in values.items()}

    fixed = fixed | ({"beta": 1.0 / fixed["beta"]} if "beta" in fixed else {})
    found = _gamma_maximise(statistics, *(renamed(values, "scale", "beta") for values in (groups, fixed, pseudo)))
    return (
        None
        if found is None
        else {n: v if n == "alpha" else 1.0 / v for n, v in renamed(found, "beta", "scale").items()}
    )


@family.register(pm.InverseGamma)
def inverse_gamma(op: Any) -> Family:
    """1 / y is Gamma of shape alpha and rate beta."""
    return Family(
        name="InverseGamma",
        parameters=("alpha", "beta"),
        describe="y > 0",
        statistic=lambda y: columns(1.0, -np.log(y), 1.0 / y),
        natural=lambda alpha, beta: pt.stack(
            pt.broadcast_arrays(-pt.gammaln(alpha) + alpha * pt.log(beta), alpha - 1.0, -beta), axis=-1
        ),
        log_base=lambda y: -2.0 * np.log(y),
        maximise=_inverse_gamma_maximise,
        inside=_positive,
    )


# -- one unknown -----------------------------------------------------------------------------------------------------


def _weibull_maximise(statistics: np.ndarray, groups: Groups, fixed: Groups, pseudo: Groups) -> Groups | None:
    if "beta" not in groups or pseudo:
        return None
    power = fixed["alpha"][0]  # one number: it is a constant of the family
    sums = grouped(statistics, groups["beta"])
    return {"beta": ratio(sums[:, 1], sums[:, 0]) ** (1.0 / power)}


@family.register(pm.Weibull)
def weibull(op: Any) -> Family:
    """y ** alpha is Exponential: an exponential family only where alpha is known."""
    return Family(
        name="Weibull",
        parameters=("alpha", "beta"),
        constant=("alpha",),
        describe="y > 0, alpha known",
        statistic=lambda y, alpha: columns(1.0, y**alpha),
        natural=lambda alpha, beta: pt.stack([pt.log(alpha) - alpha * pt.log(beta), -(beta ** (-alpha))], axis=-1),
        log_base=lambda y, alpha: (alpha - 1.0) * np.log(y),
        maximise=_weibull_maximise,
        inside=lambda y, alpha: _positive(y),
    )


@family.register(pm.Pareto)
def pareto(op: Any) -> Family:
    """log(y / m) is Exponential of rate alpha."""
    return Family(
        name="Pareto",
        parameters=("alpha", "m"),
        known=("m",),
        describe="y ≥ m, m known",
        statistic=lambda y, m: columns(1.0, np.log(y / m)),
        natural=lambda alpha: pt.stack([pt.log(alpha), -alpha], axis=-1),
        log_base=lambda y, m: -np.log(y),
        maximise=single("alpha", lambda s: ratio(s[:, 0], s[:, 1])),
        inside=lambda y, m: np.isfinite(y) & (y >= m),
    )


@conjugate(pm.Gamma, pm.Pareto, "alpha")
def gamma_pareto(alpha: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return columns(alpha - 1.0, 1.0 / np.asarray(scale))


@conjugate(pm.Exponential, pm.Pareto, "alpha")
def exponential_pareto(scale: np.ndarray) -> np.ndarray:
    return columns(0.0, 1.0 / np.asarray(scale))


@family.register(pm.HalfNormal)
def half_normal(op: Any) -> Family:
    return Family(
        name="HalfNormal",
        parameters=("loc", "sigma"),
        known=("loc",),
        describe="y ≥ loc (0 in PyMC)",
        statistic=lambda y, loc: columns(1.0, (y - loc) ** 2),
        natural=lambda sigma: pt.stack([0.5 * np.log(2 / np.pi) - pt.log(sigma), -0.5 / sigma**2], axis=-1),
        log_base=lambda y, loc: np.zeros(np.shape(y)),
        maximise=single("sigma", lambda s: np.sqrt(ratio(s[:, 1], s[:, 0]))),
        inside=lambda y, loc: np.isfinite(y) & (y >= loc),
    )


@conjugate(pm.InverseGamma, pm.HalfNormal, "sigma", link="sqrt")
def inverse_gamma_half_normal(alpha: np.ndarray, beta: np.ndarray) -> np.ndarray:
    return columns(2.0 * (alpha + 1.0), 2.0 * beta)


# -- Wald ------------------------------------------------------------------------------------------------------------


def _wald_maximise(statistics: np.ndarray, groups: Groups, fixed: Groups, pseudo: Groups) -> Groups | None:
    count, total, inverse = statistics.T
    answer: Groups = {}
    mu = fixed.get("mu")
    if mu is None:
        g = groups["mu"]
        weight = fixed.get("lam", np.ones_like(count))
        if "lam" in groups and nested(g, groups["lam"]) is None:
            return None
        sums = grouped(columns(weight * count, weight * total), g)
        answer["mu"] = ratio(sums[:, 1], sums[:, 0])
        mu = answer["mu"][g]
    if "lam" in groups:
        sums = grouped(columns(count, total / mu**2 - 2 * count / mu + inverse), groups["lam"])
        answer["lam"] = ratio(sums[:, 0], sums[:, 1])
    return answer


@family.register(pm.Wald)
def wald(op: Any) -> Family:
    return Family(
        name="Wald",
        parameters=("mu", "lam", "alpha"),
        known=("alpha",),
        describe="y > alpha, the shift alpha known (0 in PyMC)",
        statistic=lambda y, alpha: columns(1.0, y - alpha, 1.0 / (y - alpha)),
        natural=lambda mu, lam: pt.stack(
            [0.5 * pt.log(lam) - 0.5 * LOG_2PI + lam / mu, -0.5 * lam / mu**2, -0.5 * lam * pt.ones_like(mu)], axis=-1
        ),
        log_base=lambda y, alpha: -1.5 * np.log(y - alpha),
        maximise=_wald_maximise,
        inside=lambda y, alpha: np.isfinite(y) & (y > alpha),
    )
