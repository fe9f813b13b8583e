"""Gaussian mixtures as models of PyMC, and their parameters from weights, means and covariances and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pymc as pm
import pytensor.tensor as pt

from emppl.models import gaussian_mixture

from .data import Gaussians

Theta = dict[str, np.ndarray]


def shipped(data: Gaussians, shape: str) -> pm.Model:
    """The mixture that comes with emppl. shape: "full", "diagonal" or "spherical"; one feature is always spherical."""
    return gaussian_mixture.build({"y": data.y}, k=len(data.weights), covariance=shape)


def shipped_theta(data: Gaussians, shape: str) -> Theta:
    """Its parameters."""
    scale, d = data.y.std(axis=0), data.y.shape[1]
    theta = {"weights": data.weights, "mu": data.means if d > 1 else data.means[:, 0]}
    variances = np.diagonal(data.covariances, axis1=1, axis2=2)
    if d == 1 or shape == "spherical":
        return theta | {"sd": np.sqrt(variances.mean(axis=1))}
    if shape == "diagonal":
        return theta | {"sd": np.sqrt(variances)}
    lower = np.tril_indices(d)
    roots = np.linalg.cholesky(data.covariances) / scale[:, None]
    return theta | {f"chol_{c}": root[lower] for c, root in enumerate(roots)}


def by_cholesky(y: np.ndarray, k: int, *, summed_out: bool = False, as_data: bool = False) -> pm.Model:
    """The mixture as users of PyMC write it; with `summed_out` as an explicit log-sum-exp in place of the latent.

    as_data: the rows are a pm.Data "rows", which a source may replace.
    """
    d = y.shape[1]
    with pm.Model() as model:
        rows = pm.Data("rows", y) if as_data else y
        weights = pm.Dirichlet("weights", np.ones(k))
        mu = pm.Normal("mu", 0.0, 10.0, shape=(k, d))
        factors = [
            pm.LKJCholeskyCov(f"chol_{c}", n=d, eta=2.0, sd_dist=pm.Exponential.dist(1.0), store_in_trace=False)[0]
            for c in range(k)
        ]
        if summed_out:
            log_densities = [pm.logp(pm.MvNormal.dist(mu[c], chol=factors[c]), y) for c in range(k)]
            pm.Potential("y", pt.logsumexp(pt.log(weights) + pt.stack(log_densities, axis=1), axis=1).sum())
        else:
            component = pm.Categorical("component", p=weights, shape=rows.shape[0])
            pm.MvNormal("y", mu[component], chol=pt.stack(factors)[component], observed=rows)
    return model


def cholesky_theta(data: Gaussians) -> Theta:
    """Parameters of `by_cholesky`."""
    lower = np.tril_indices(data.y.shape[1])
    theta = {"weights": data.weights, "mu": data.means}
    return theta | {f"chol_{c}": root[lower] for c, root in enumerate(np.linalg.cholesky(data.covariances))}


def covariances(theta: Theta, d: int) -> np.ndarray:
    """Covariances [K, D, D] from parameters of `by_cholesky`."""
    roots = np.zeros((len(theta["weights"]), d, d))
    for c, root in enumerate(roots):
        root[np.tril_indices(d)] = theta[f"chol_{c}"]
    return roots @ roots.transpose(0, 2, 1)


def difference(ours: Any, theirs: Any) -> float:
    """The largest difference of two arrays, or pairs of them, relative to the largest number of each."""
    pairs = zip(ours, theirs) if isinstance(ours, tuple) else [(ours, theirs)]
    largest = 0.0
    for a, b in pairs:
        a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
        assert a.shape == b.shape, (a.shape, b.shape)
        largest = max(largest, float(np.max(np.abs(a - b)) / max(np.max(np.abs(b)), 1e-300)))
    return largest
