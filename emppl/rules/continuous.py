"""Natural forms of measurements: Exponential, Laplace, Normal, MvNormal."""

from __future__ import annotations

from functools import cache, lru_cache
from math import sqrt
from typing import Any

import numpy as np
import pymc as pm
import pytensor.tensor as pt

from emppl.kernels.moments import Moments
from emppl.rules.tables import (
    Family,
    Frame,
    Groups,
    columns,
    conjugate,
    differ_within,
    each_its_own,
    family,
    grouped,
    ratio,
    single,
)

LOG_2PI = float(np.log(2 * np.pi))


@family.register(pm.Exponential)
def exponential(op: Any) -> Family:
    """As PyMC's op holds it: by its scale 1 / lam."""
    return Family(
        name="Exponential",
        parameters=("scale",),
        scale="scale",
        describe="y ≥ 0; by its scale 1 / lam",
        statistic=lambda y, exposure=1.0: columns(1.0, y / exposure),
        natural=lambda scale: pt.stack([-pt.log(scale), -1.0 / scale], axis=-1),
        log_base=lambda y, exposure=1.0: np.broadcast_to(-np.log(exposure), np.shape(y)),
        maximise=single("scale", lambda s: ratio(s[:, 1], s[:, 0])),
        inside=lambda y: np.isfinite(y) & (y >= 0),
    )


@conjugate(pm.InverseGamma, pm.Exponential, "scale")
def inverse_gamma_exponential(alpha: np.ndarray, beta: np.ndarray) -> np.ndarray:
    return columns(alpha + 1.0, beta)


@conjugate(pm.Exponential, pm.Exponential, "scale", link="reciprocal")
def exponential_exponential(scale: np.ndarray) -> np.ndarray:
    return columns(0.0, 1.0 / np.asarray(scale))


@conjugate(pm.Gamma, pm.Exponential, "scale", link="reciprocal")
def gamma_exponential(alpha: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return columns(alpha - 1.0, 1.0 / np.asarray(scale))


@family.register(pm.Laplace)
def laplace(op: Any) -> Family:
    """The distance from mu is Exponential; with mu free it is no exponential family."""
    return Family(
        name="Laplace",
        parameters=("mu", "b"),
        known=("mu",),
        describe="any real number, mu known",
        statistic=lambda y, mu: columns(1.0, np.abs(y - mu)),
        natural=lambda b: pt.stack([-pt.log(2.0 * b), -1.0 / b], axis=-1),
        log_base=lambda y, mu: np.zeros(np.shape(y)),
        maximise=single("b", lambda s: ratio(s[:, 1], s[:, 0])),
        inside=lambda y, mu: np.isfinite(y),
    )


@conjugate(pm.InverseGamma, pm.Laplace, "b")
def inverse_gamma_laplace(alpha: np.ndarray, beta: np.ndarray) -> np.ndarray:
    return columns(alpha + 1.0, beta)


# -- Normal ----------------------------------------------------------------------------------------------------------


def _normal_frame(y: np.ndarray) -> Frame:
    """Mean and standard deviation of the observations, over the members (first axis)."""
    moments = Moments.over(y, vectors=False)
    centre, scale = (part.reshape(y.shape[1:]) for part in (moments.mean, np.sqrt(moments.spread / moments.n)))
    scale = np.where(scale > 0, scale, _size(centre))
    return Frame(centre, scale, -np.log(scale))


def _size(values: np.ndarray) -> np.ndarray:
    """What stands in for the spread of data that have none, in their unit."""
    return np.where(values != 0, np.abs(values), 1.0)


def _normal_maximise(statistics: np.ndarray, groups: Groups, fixed: Groups, pseudo: Groups) -> Groups | None:
    """Means first, then the variance left; where cells of one mean have several sds there is no closed form."""
    count, total, square = statistics.T
    if "mu" in groups:
        g = groups["mu"]
        weight = np.ones_like(count)
        if "sigma" in fixed:
            weight = 1.0 / fixed["sigma"] ** 2
        elif "sigma" in groups and differ_within(groups["sigma"], g):
            return None
        prior = pseudo.get("mu")
        sums = grouped(np.stack([weight * count, weight * total], axis=1), g, None if prior is None else prior[:, :2])
        mu_groups = sums[:, 1] / np.where(sums[:, 0] > 0, sums[:, 0], np.nan)
        mu = mu_groups[g]
    else:
        mu_groups, mu = None, fixed["mu"]
    answer = {} if mu_groups is None else {"mu": mu_groups}
    if "sigma" in groups:
        scatter = square - 2 * mu * total + mu**2 * count
        prior = pseudo.get("sigma")
        sums = grouped(np.stack([count, scatter], axis=1), groups["sigma"], None if prior is None else prior[:, [0, 2]])
        answer["sigma"] = np.sqrt(np.maximum(sums[:, 1], 0.0) / np.where(sums[:, 0] > 0, sums[:, 0], np.nan))
    return answer


def _normal_pseudo_into_frame(parameter: str, pseudo: np.ndarray, centre: np.ndarray, whiten: np.ndarray) -> np.ndarray:
    if parameter == "sigma":
        return np.stack([pseudo[:, 0], pseudo[:, 1], pseudo[:, 2] / whiten**2], axis=1)
    weight, total = pseudo[:, 0], pseudo[:, 1]
    return np.stack([weight * whiten**2, (total - weight * centre) * whiten, pseudo[:, 2]], axis=1)


@family.register(pm.Normal)
def normal(op: Any) -> Family:
    return Family(
        name="Normal",
        parameters=("mu", "sigma"),
        describe="any real number",
        statistic=lambda y: columns(1.0, y, y * y),
        natural=lambda mu, sigma: pt.stack(
            [
                -0.5 * (mu / sigma) ** 2 - pt.log(sigma) - 0.5 * LOG_2PI,
                mu / sigma**2,
                -0.5 / (sigma**2 * pt.ones_like(mu)),
            ],
            axis=-1,
        ),
        log_base=lambda y: np.zeros(np.shape(y)),
        maximise=_normal_maximise,
        inside=lambda y: np.isfinite(y),
        frame=_normal_frame,
        into_frame=lambda frame, mu, sigma: ((mu - frame.centre) / frame.whiten, sigma / frame.whiten),
        out_of_frame=lambda values, centre, whiten: {
            name: value * whiten + (centre if name == "mu" else 0.0) for name, value in values.items()
        },
        pseudo_into_frame=_normal_pseudo_into_frame,
        narrowness=lambda values: values["sigma"] ** 2,
    )


@conjugate(pm.InverseGamma, pm.Normal, "sigma", link="sqrt")
def inverse_gamma_variance(alpha: np.ndarray, beta: np.ndarray) -> np.ndarray:
    """-(alpha + 1) log v - beta / v: alpha + 1 in place of half a count, beta in place of half a squared deviation."""
    return columns(2.0 * (alpha + 1.0), 0.0, 2.0 * beta)


@conjugate(pm.Normal, pm.Normal, "mu", given=("sigma",), signed=True)
def normal_mean(mu: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """Counts in units of 1 / sigma², so it holds where the observation's own sigma is a known number."""
    return columns(1.0 / np.asarray(sigma) ** 2, mu / np.asarray(sigma) ** 2, 0.0)


# -- MvNormal --------------------------------------------------------------------------------------------------------


@cache
def _pairs(d: int) -> tuple[np.ndarray, np.ndarray]:
    return np.triu_indices(d)


def _mv_statistic(y: np.ndarray) -> np.ndarray:
    """1, y [D], and y_i y_j for i <= j: each product once."""
    i, j = _pairs(y.shape[-1])
    return np.concatenate([np.ones((*y.shape[:-1], 1)), y, y[..., i] * y[..., j]], axis=-1)


def _mv_natural(mu: Any, cov: Any) -> Any:
    chol = pt.linalg.cholesky(cov, on_error="nan")
    inverse = pt.linalg.solve_triangular(chol, pt.eye(_dimension(mu, cov)), lower=True, b_ndim=2)
    return _mv_by_inverse(mu, inverse, _log_diagonal(chol))


def _mv_natural_of_factor(frame: Frame, mu: Any, chol: Any) -> Any:
    """In the frame, W (y - c), of a covariance L L': by the inverse of W L, which need not be triangular."""
    moved = (mu - frame.centre) @ frame.whiten.T
    inverse = pt.linalg.solve_triangular(chol, np.linalg.inv(frame.whiten), lower=True, b_ndim=2)
    return _mv_by_inverse(moved, inverse, _log_diagonal(chol) + np.linalg.slogdet(frame.whiten)[1])


def _dimension(mu: Any, cov: Any) -> int:
    return mu.type.shape[-1] if mu.type.shape[-1] is not None else cov.type.shape[-1]


def _log_diagonal(chol: Any) -> Any:
    return pt.log(pt.abs(pt.diagonal(chol, axis1=-2, axis2=-1))).sum(axis=-1)


def _mv_by_inverse(mu: Any, inverse: Any, log_det: Any) -> Any:
    """inverse: A of the precision A' A; log_det: the log of |det| of what it is the inverse of."""
    d = _dimension(mu, inverse)
    i, j = _pairs(d)
    precision = inverse.mT @ inverse
    linear = (precision @ mu[..., None])[..., 0]
    constant = -0.5 * (mu * linear).sum(axis=-1) - log_det - 0.5 * d * LOG_2PI
    twice = np.where(i == j, 0.5, 1.0)  # an off-diagonal product stands for both of its places
    return pt.concatenate([constant[..., None], linear, -twice * precision[..., i, j]], axis=-1)


def _mv_frame(y: np.ndarray) -> Frame:
    d = y.shape[-1]
    moments = Moments.over(y.reshape(-1, d), vectors=True)
    centre, cov = moments.mean, moments.spread / moments.n
    scale = np.sqrt(np.diag(cov))
    scale = np.where(scale > 0, scale, _size(centre))
    correlation = cov / np.outer(scale, scale)
    values, vectors = np.linalg.eigh(correlation)
    values = np.maximum(values, 1e-14 * max(values.max(), 1.0))
    whiten = (vectors / np.sqrt(values)).T / scale
    return Frame(centre, whiten, float(-np.log(scale).sum() - 0.5 * np.log(values).sum()))


@cache
def _square(d: int) -> np.ndarray:
    """Where in the statistics each element of the matrix of products stands, [D × D]."""
    i, j = _pairs(d)
    place = np.empty((d, d), dtype=np.int64)
    place[i, j] = place[j, i] = 1 + d + np.arange(len(i))
    return place.ravel()


def _mv_maximise(statistics: np.ndarray, groups: Groups, fixed: Groups, pseudo: Groups) -> Groups | None:
    d = int((sqrt(9 + 8 * (statistics.shape[1] - 1)) - 3) / 2)
    if groups.get("mu") is groups.get("cov") is each_its_own(len(statistics)):  # as nearly always
        count = statistics[:, :1]
        moments = statistics / np.where(count > 0, count, np.nan)
        mu = moments[:, 1 : d + 1]
        return {"mu": mu, "cov": moments[:, _square(d)].reshape(-1, d, d) - mu[:, :, None] * mu[:, None, :]}
    count, total = statistics[:, 0], statistics[:, 1 : d + 1]
    square = statistics[:, _square(d)].reshape(-1, d, d)
    if "mu" in groups:
        g = groups["mu"]
        if any(differ_within(known["cov"], g) for known in (groups, fixed) if "cov" in known):
            return None
        sums = grouped(np.column_stack([count, total]), g)
        mu_groups = sums[:, 1:] / np.where(sums[:, :1] > 0, sums[:, :1], np.nan)
        mu = mu_groups[g]
    else:
        mu_groups, mu = None, fixed["mu"]
    answer = {} if mu_groups is None else {"mu": mu_groups}
    if "cov" in groups:
        cross = total[:, :, None] * mu[:, None, :]
        scatter = square - cross - cross.transpose(0, 2, 1) + count[:, None, None] * mu[:, :, None] * mu[:, None, :]
        g = groups["cov"]
        sums = grouped(np.column_stack([count, scatter.reshape(len(count), -1)]), g)
        answer["cov"] = (sums[:, 1:] / np.where(sums[:, :1] > 0, sums[:, :1], np.nan)).reshape(-1, d, d)
    return answer


def _mv_into_frame(frame: Frame, mu: Any, cov: Any) -> tuple[Any, Any]:
    moved = (mu - frame.centre) @ frame.whiten.T
    return moved, frame.whiten @ cov @ frame.whiten.T


@lru_cache(maxsize=64)
def _inverse(matrix: bytes, d: int) -> np.ndarray:
    """Inverse of a frame's matrix, which every M-step asks for."""
    return np.linalg.inv(np.frombuffer(matrix).reshape(d, d))


def _mv_out_of_frame(values: dict[str, np.ndarray], centre: np.ndarray, whiten: np.ndarray) -> dict[str, np.ndarray]:
    back = _inverse(whiten.tobytes(), len(whiten))
    answer = {}
    if "mu" in values:
        answer["mu"] = np.dot(values["mu"], back.T) + centre
    if "cov" in values:
        cov = np.dot(back @ values["cov"], back.T)
        answer["cov"] = 0.5 * (cov + cov.mT)
    return answer


def _mv_narrowness(values: dict[str, np.ndarray]) -> np.ndarray:
    cov = np.where(np.isfinite(values["cov"]), values["cov"], 0.0)
    return np.linalg.eigvalsh(cov)[..., 0]


@family.register(pm.MvNormal)
def mv_normal(op: Any) -> Family:
    return Family(
        name="MvNormal",
        parameters=("mu", "cov"),
        describe="vectors of real numbers; cov, chol, tau or LKJ",
        statistic=_mv_statistic,
        natural=_mv_natural,
        log_base=lambda y: np.zeros(np.shape(y)[:-1]),
        maximise=_mv_maximise,
        inside=lambda y: np.isfinite(y).all(axis=-1),
        frame=_mv_frame,
        into_frame=_mv_into_frame,
        natural_of_factor=_mv_natural_of_factor,
        out_of_frame=_mv_out_of_frame,
        narrowness=_mv_narrowness,
    )
