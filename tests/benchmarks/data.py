"""Seeded data and the parameters at which a pass is timed: overlapping components, parameters near the truth."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Gaussians(NamedTuple):
    """N rows of D features, and the parameters of K components: not those that made the rows, but near them."""

    y: np.ndarray  # [N, D]
    weights: np.ndarray  # [K]
    means: np.ndarray  # [K, D]
    covariances: np.ndarray  # [K, D, D]


def gaussians(n: int, d: int, k: int, *, spread: float = 2.0, seed: int = 1) -> Gaussians:
    """Components whose centres lie `spread` standard deviations about the origin."""
    rng = np.random.default_rng([seed, d, k])
    centres = spread * rng.normal(size=(k, d))
    roots = np.eye(d) + 0.3 * np.tril(rng.normal(size=(k, d, d)))
    weights = rng.dirichlet(np.full(k, 10.0))
    members = rng.choice(k, size=n, p=weights)
    y = np.empty((n, d))
    for c in range(k):
        rows = np.flatnonzero(members == c)
        y[rows] = rng.standard_normal((len(rows), d)) @ roots[c].T + centres[c]
    covariances = 1.2 * roots @ roots.transpose(0, 2, 1)
    return Gaussians(y, np.full(k, 1.0 / k), centres + 0.2 * rng.normal(size=(k, d)), covariances)


def counts(n: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Counts [N] of three rates, and parameters to start from."""
    rng = np.random.default_rng(2)
    y = rng.poisson(np.array([1.0, 4.0, 9.0])[rng.choice(3, size=n, p=[0.5, 0.3, 0.2])])
    return y, {"weights": np.full(3, 1.0 / 3.0), "rate": np.array([1.5, 3.5, 8.0])}


def lines(n: int, covariates: int) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Covariates [N, D], responses [N] on one of three lines, and parameters to start from."""
    rng = np.random.default_rng(3)
    coefficients = 2.0 * rng.normal(size=(3, covariates + 1))
    x = rng.normal(size=(n, covariates))
    line = rng.choice(3, size=n, p=[0.5, 0.3, 0.2])
    y = coefficients[line, 0] + np.sum(coefficients[line, 1:] * x, axis=1) + rng.normal(size=n)
    start = coefficients + 0.2 * rng.normal(size=coefficients.shape)
    return x, y, {"weights": np.full(3, 1.0 / 3.0), "coefficients": start, "sigma": np.array([1.2, 0.9, 1.1])}
