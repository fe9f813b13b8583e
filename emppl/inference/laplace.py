"""Normal approximations at the mode: standard errors by the delta method, and Laplace draws."""

from __future__ import annotations

from typing import Any

import numpy as np

from emppl.inference.information import BORDER, Information, observed_information

Theta = dict[str, np.ndarray]


def standard_errors(plan: Any, information: Information | None) -> Theta:
    """Standard errors of parameters and deterministics on their own scale: sqrt diag(J Sigma J')."""
    structure = plan.structure
    everything = [*structure.parameters, *structure.deterministics]
    if information is None:
        return {node.name: np.full(node.shape, np.nan) for node in everything}
    coordinates = structure.coordinates
    u, covariance = information.u, information.covariance
    bad = ~np.isfinite(np.diag(covariance))
    unknown = bad.copy()
    for part, _ in coordinates.simplexes:  # weights of zero stay there: the others vary among themselves
        unknown[part] &= ~information.on_border[part]
    point = coordinates.off_the_border(u, 2 * BORDER)
    grain = coordinates.grain(point)
    jacobians: dict[str, list[np.ndarray]] = {node.name: [] for node in everything}
    for i in range(coordinates.size):
        width = np.sqrt(covariance[i, i]) if covariance[i, i] > 0 else 1.0
        h = max(1e-4 * min(width, 1.0 if coordinates.transformed[i] else np.inf), 4e-12 * grain[i])
        ends = []
        for sign in (1.0, -1.0):
            moved = point.copy()
            moved[i] += sign * h
            theta = coordinates.constrain(moved)
            ends.append(theta | plan.deterministics(theta))
        for name in jacobians:
            jacobians[name].append((ends[0][name] - ends[1][name]) / (2 * h))
    errors = {}
    filled = np.where(bad[:, None] | bad[None, :], 0.0, covariance)
    for node in everything:
        j = np.stack(jacobians[node.name], axis=-1) if jacobians[node.name] else np.zeros((*node.shape, 0))
        variance = np.einsum("...i,ij,...j->...", j, filled, j)
        scale = np.abs(j).max(axis=-1, keepdims=True) if j.shape[-1] else 0.0
        touched = (np.abs(j) > 1e-8 * scale)[..., unknown].any(axis=-1) if bad.any() else np.zeros(node.shape, bool)
        part = coordinates.slices.get(node.name)
        if part is not None and bad[part].any() and j.shape[-1]:
            least = np.exp(-BORDER) if any(part == weights for weights, _ in coordinates.simplexes) else 0.0
            touched = touched | (np.abs(j).max(axis=-1) <= least)  # on the border, where nothing moves it
        errors[node.name] = np.where(touched, np.nan, np.sqrt(np.maximum(variance, 0.0)))
    return errors


def laplace_draws(plan: Any, theta: Theta, information: Information | None, draws: int, seed: int | None) -> Theta:
    """{name: [draws, *shape]}: normal on the unconstrained scale, mapped back; see `laplace_centre`."""
    return normal_draws(plan, *laplace_centre(plan, theta, information), draws, seed)


def laplace_centre(plan: Any, theta: Theta, information: Information | None) -> tuple[np.ndarray, Information | None]:
    """Centre u [P] and curvature of the Laplace approximation at theta.

    For "map" the mode of the density that NUTS sees (log posterior + log Jacobian), a few Newton steps from theta; for
    "ml" the estimate itself.
    """
    if plan.estimate == "map" and plan.method == "em":
        return unconstrained_mode(plan, theta)[:2]
    coordinates = plan.structure.coordinates
    return coordinates.off_the_border(coordinates.unconstrain(theta), 2 * BORDER), information


def normal_draws(plan: Any, u: np.ndarray, information: Information | None, draws: int, seed: int | None) -> Theta:
    """{name: [draws, *shape]} of parameters and deterministics, normal around u [P] on the unconstrained scale.

    Coordinates on a border or not identified stay at u.
    """
    coordinates = plan.structure.coordinates
    if information is None:
        covariance = np.zeros((coordinates.size, coordinates.size))
    else:
        covariance = np.nan_to_num(information.covariance)
    values, vectors = np.linalg.eigh(covariance) if coordinates.size else (np.zeros(0), np.zeros((0, 0)))
    noise = np.random.default_rng(seed).normal(size=(draws, coordinates.size))
    points = u + (noise * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    samples = [coordinates.constrain(p) for p in points]
    samples = [s | plan.deterministics(s) for s in samples]
    return {name: np.stack([s[name] for s in samples]) for name in samples[0]} if samples else {}


def unconstrained_mode(plan: Any, theta: Theta) -> tuple[np.ndarray, Information, float]:
    """The mode of the density that NUTS sees, a few Newton steps from theta: (u [P], curvature there, log density).

    That density is the log posterior plus the log Jacobian of the parameters' transforms, so its mode is another point
    than the one of the log posterior itself.
    """
    coordinates = plan.structure.coordinates
    u = coordinates.off_the_border(coordinates.unconstrain(theta), 2 * BORDER)

    def jacobian(v: np.ndarray) -> np.ndarray:
        return np.asarray(coordinates.log_jacobian(v)[1])

    def value(v: np.ndarray) -> float:
        return plan.log_posterior(coordinates.constrain(v)) + float(coordinates.log_jacobian(v)[0])

    here = value(u)
    information = observed_information(plan, u, jacobian)
    for _ in range(20):
        if information.decrement < 1e-8:
            break
        step, size = information.step(), 1.0
        size = min(1.0, 3.0 / max(np.abs(step).max(), 1e-300))
        while size > 1e-6 and not value(u + size * step) > here:
            size /= 2
        if size <= 1e-6:
            break
        u = u + size * step
        here = value(u)
        information = observed_information(plan, u, jacobian)
    return u, information, here


def log_evidence(plan: Any, theta: Theta) -> float:
    """Laplace approximation of log p(y) by the mode nearest theta alone: log p + P/2 log 2π - ½ log det H.

    On the unconstrained scale, Jacobian included. One copy of the mode counts: the log of the number of equivalent
    labellings is still to be added. nan where the curvature there is not that of an interior maximum, and where that
    scale has no mode of its own nearby.
    """
    if plan.estimate != "map" or plan.method != "em":
        return float("nan")
    if not plan.structure.coordinates.size:
        return float(plan.log_posterior(theta))
    coordinates = plan.structure.coordinates
    u, information, value = unconstrained_mode(plan, theta)
    if not information.interior.all() or not information.is_definite:
        return float("nan")
    here = plan.log_posterior(theta)
    if information.decrement > 1e-4 or plan.log_posterior(coordinates.constrain(u)) > here + 1e-6 * max(1.0, abs(here)):
        return float("nan")  # it left the mode's hill for a higher one
    widths = float(np.log(coordinates.width).sum())  # the density is by PyMC's own coordinates, the curvature by u
    return float(value + widths + 0.5 * len(u) * np.log(2 * np.pi) - 0.5 * information.log_determinant)
