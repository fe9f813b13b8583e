"""Natural forms of shares and angles: Beta, Dirichlet, VonMises."""

from __future__ import annotations

from typing import Any

import numpy as np
import pymc as pm
import pytensor.tensor as pt
from scipy.special import ive, polygamma, psi

from emppl.rules.roots import dirichlet_shapes, falling_root
from emppl.rules.tables import Family, Groups, columns, conjugate, family, grouped, nested, ratio, single

LOG_2PI = float(np.log(2 * np.pi))


def _beta_maximise(statistics: np.ndarray, groups: Groups, fixed: Groups, pseudo: Groups) -> Groups | None:
    if not fixed:
        if not np.array_equal(groups["alpha"], groups["beta"]):
            return None
        sums = grouped(statistics, groups["alpha"]) + sum(pseudo.values())
        alpha, beta = dirichlet_shapes(ratio(sums[:, 1:], sums[:, :1])).T
        return {"alpha": alpha, "beta": beta}
    (name,), (other,) = groups, fixed
    g, known = groups[name], fixed[other]
    sums = grouped(statistics, g, pseudo.get(name))
    logs = sums[:, 1 if name == "alpha" else 2]

    def slope_of_shape(a: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        count, whole = statistics[:, 0], a[g] + known
        value = logs - sums[:, 0] * psi(a) + np.bincount(g, count * psi(whole), len(a))
        return value, -sums[:, 0] * polygamma(1, a) + np.bincount(g, count * polygamma(1, whole), len(a))

    return {name: falling_root(slope_of_shape, np.where(sums[:, 0] > 0, 1.0, np.nan))}


@family.register(pm.Beta)
def beta(op: Any) -> Family:
    return Family(
        name="Beta",
        parameters=("alpha", "beta"),
        describe="0 < y < 1",
        statistic=lambda y: columns(1.0, np.log(y), np.log1p(-y)),
        natural=lambda alpha, beta: pt.stack(
            [
                pt.gammaln(alpha + beta) - pt.gammaln(alpha) - pt.gammaln(beta),
                *pt.broadcast_arrays(alpha - 1.0, beta - 1.0),
            ],
            axis=-1,
        ),
        log_base=lambda y: np.zeros(np.shape(y)),
        maximise=_beta_maximise,
        inside=lambda y: np.isfinite(y) & (y > 0) & (y < 1),
    )


@conjugate(pm.Exponential, pm.Beta, "alpha", signed=True)
def exponential_of_alpha(scale: np.ndarray) -> np.ndarray:
    return columns(0.0, -1.0 / np.asarray(scale), 0.0)


@conjugate(pm.Exponential, pm.Beta, "beta", signed=True)
def exponential_of_beta(scale: np.ndarray) -> np.ndarray:
    return columns(0.0, 0.0, -1.0 / np.asarray(scale))


@family.register(pm.Dirichlet)
def dirichlet(op: Any) -> Family:
    return Family(
        name="Dirichlet",
        parameters=("a",),
        describe="positive shares that sum to 1",
        statistic=lambda y: np.concatenate([np.ones((*np.shape(y)[:-1], 1)), np.log(y)], axis=-1),
        natural=lambda a: pt.concatenate(
            [(pt.gammaln(a.sum(axis=-1)) - pt.gammaln(a).sum(axis=-1))[..., None], a - 1.0], axis=-1
        ),
        log_base=lambda y: np.zeros(np.shape(y)[:-1]),
        maximise=single("a", lambda s: dirichlet_shapes(ratio(s[:, 1:], s[:, :1]))),
        inside=lambda y: (y > 0).all(axis=-1) & (np.abs(y.sum(axis=-1) - 1.0) < 1e-5),
    )


def _von_mises_maximise(statistics: np.ndarray, groups: Groups, fixed: Groups, pseudo: Groups) -> Groups | None:
    count, cosine, sine = statistics.T
    answer: Groups = {}
    if "mu" in groups:
        g = groups["mu"]
        if "kappa" in groups and nested(g, groups["kappa"]) is None:
            return None
        weight = fixed.get("kappa", np.ones_like(count))
        sums = grouped(columns(weight * count, weight * cosine, weight * sine), g, pseudo.get("mu"))
        answer["mu"] = np.where(sums[:, 0] + np.hypot(*sums[:, 1:].T) > 0, np.arctan2(sums[:, 2], sums[:, 1]), np.nan)
    if "kappa" in groups:
        mu = fixed["mu"] if "mu" in fixed else answer["mu"][groups["mu"]]
        along = cosine * np.cos(mu) + sine * np.sin(mu)
        sums = grouped(columns(count, along), groups["kappa"])
        length = ratio(sums[:, 1], sums[:, 0])

        def left(kappa: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            mean = ive(1, kappa) / ive(0, kappa)
            return length - mean, -(1.0 - mean / kappa - mean**2)

        answer["kappa"] = falling_root(left, np.clip(length * (2 - length**2) / (1 - length**2), 1e-6, 1e12))
    return answer


@family.register(pm.VonMises)
def von_mises(op: Any) -> Family:
    """The concentration solves I1(kappa) / I0(kappa) = mean length (Mardia & Jupp 2000, section 5.3)."""
    return Family(
        name="VonMises",
        parameters=("mu", "kappa"),
        describe="angles from -π to π",
        statistic=lambda y: columns(1.0, np.cos(y), np.sin(y)),
        natural=lambda mu, kappa: pt.stack(
            [
                *pt.broadcast_arrays(-LOG_2PI - pt.log(pt.ive(0, kappa)) - kappa, kappa * pt.cos(mu)),
                kappa * pt.sin(mu),
            ],
            axis=-1,
        ),
        log_base=lambda y: np.zeros(np.shape(y)),
        maximise=_von_mises_maximise,
        inside=lambda y: np.isfinite(y) & (np.abs(y) <= np.pi),
        into_frame=lambda frame, mu, kappa: (mu, kappa),
        narrowness=lambda values: 1.0 / values["kappa"],
    )


@conjugate(pm.VonMises, pm.VonMises, "mu", given=("kappa",), signed=True)
def von_mises_mean(mu: np.ndarray, kappa: np.ndarray) -> np.ndarray:
    """In units of the observations' own concentration, where that is a known number."""
    return columns(0.0, kappa * np.cos(mu), kappa * np.sin(mu))
