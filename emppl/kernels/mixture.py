"""The one pass over the data: log joint by member and configuration, log-sum-exp, expected features."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

BLOCK_NUMBERS = 1 << 17  # members × (features + configurations) of a block: about 1 MiB, a core's cache
LOWEST = -1e200  # stands for minus infinity, so that differences of two of them are not nan


class MixturePass(NamedTuple):
    """What one pass returns. J configurations, F features, C members."""

    log_likelihood: float  # sum over members of weight × log-sum-exp (its largest term when `hard`)
    statistics: np.ndarray  # [J, F]
    counts: np.ndarray  # [J], expected number of members in each configuration
    responsibilities: np.ndarray | None  # [C, J]
    by_member: np.ndarray | None  # [C], log-likelihood of each member, unweighted


def mixture(
    features: np.ndarray,
    eta: np.ndarray,
    base: np.ndarray,
    *,
    table: np.ndarray | None = None,
    mask: np.ndarray | None = None,
    weights: np.ndarray | None = None,
    hard: bool = False,
    keep: bool = False,
) -> MixturePass:
    """E-step of independent members in natural form.

    Shapes: features [C, F], eta [J, F], base [C], table [C, J] (log densities that have no natural form), mask [C, J]
    (False where a configuration is ruled out), weights [C]. Natural logarithms. `hard` gives each member wholly to its
    best configuration. `keep` returns responsibilities and the log-likelihood by member.
    Cost: O(C J F) time, O(block) memory unless `keep`. A member that no configuration explains gives -inf.
    """
    n, n_features = features.shape
    n_values = len(eta)
    dead = np.isneginf(eta)  # a log of zero: harmless where the count is zero, impossible elsewhere
    eta = np.where(dead, 0.0, eta)
    block = max(256, BLOCK_NUMBERS // (n_features + 2 * n_values))
    statistics, counts, total = np.zeros((n_values, n_features)), np.zeros(n_values), 0.0
    kept = np.empty((n, n_values)) if keep else None
    member = np.empty(n) if keep else None
    for start in range(0, n, block):
        rows = slice(start, start + block)
        part = features[rows]
        joint = _joint(part, eta, dead, None if table is None else table[rows], None if mask is None else mask[rows])
        peak = joint.max(axis=1)
        if hard:
            best = joint.argmax(axis=1)
            posterior = np.zeros_like(joint)
            posterior[np.arange(len(best)), best] = 1.0
            value = peak
        else:
            posterior = np.exp(joint - peak[:, None])
            scale = posterior.sum(axis=1)
            posterior /= scale[:, None]
            value = peak + np.log(scale)
        value = np.where(peak <= 0.5 * LOWEST, -np.inf, value) + base[rows]
        if keep:
            kept[rows], member[rows] = posterior, value
        if weights is not None:
            value = np.where(weights[rows] > 0, value, 0.0) * weights[rows]
            posterior = posterior * weights[rows, None]
        total += value.sum()
        counts += posterior.sum(axis=0)
        statistics += posterior.T @ part
    return MixturePass(float(total), statistics, counts, kept, member)


def log_joint(
    features: np.ndarray, eta: np.ndarray, *, table: np.ndarray | None = None, mask: np.ndarray | None = None
) -> np.ndarray:
    """Log joint [C, J] of members and configurations without its base; shapes as in `mixture`. At least LOWEST."""
    dead = np.isneginf(eta)
    return np.maximum(_joint(features, np.where(dead, 0.0, eta), dead, table, mask), LOWEST)


def _joint(
    features: np.ndarray, eta: np.ndarray, dead: np.ndarray, table: np.ndarray | None, mask: np.ndarray | None
) -> np.ndarray:
    joint = features @ eta.T
    if dead.any():
        joint[((features != 0) @ dead.T.astype(float)) > 0] = LOWEST
    if table is not None:
        joint += np.maximum(table, LOWEST)
    if mask is not None:
        joint[~mask] = LOWEST
    return joint
