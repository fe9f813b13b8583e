"""Shapes of families that have no formula: safeguarded Newton, all groups at once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.special import gammaln, polygamma, psi

FARTHEST = 100.0  # |log x| at which a root counts as none: the likelihood rises to the border of the domain


def falling_root(function: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]], start: np.ndarray) -> np.ndarray:
    """x > 0 [G] at which a falling function is zero; nan where it has no zero.

    `function` maps x [G] to its value and slope [G]. Newton in log x, kept inside a bracket that shrinks, by halves
    where a step would leave it. A start that is no number has no root.
    """
    low, high = np.full(np.shape(start), -1.2 * FARTHEST), np.full(np.shape(start), 1.2 * FARTHEST)
    u = np.clip(np.nan_to_num(np.log(start)), 0.9 * low, 0.9 * high)
    with np.errstate(all="ignore"):
        for _ in range(200):
            x = np.exp(u)
            value, slope = function(x)
            low, high = np.where(value > 0, u, low), np.where(value > 0, high, u)
            new = u - value / (slope * x)
            new = np.where((new > low) & (new < high), new, np.where(value == 0, u, 0.5 * (low + high)))
            done = np.abs(new - u) <= 4e-16 * np.maximum(1.0, np.abs(u))
            u = new
            if done.all():
                break
        value, _ = function(np.exp(u))
    return np.where(np.isfinite(value) & np.isfinite(start) & (np.abs(u) < FARTHEST), np.exp(u), np.nan)


def dirichlet_shapes(mean_log: np.ndarray) -> np.ndarray:
    """Shapes a [G, D] of Dirichlet distributions whose expected log shares are `mean_log` [G, D]; nan where none.

    Newton with the inverse of a diagonal plus a constant (Minka 2000, "Estimating a Dirichlet distribution", section
    1), halved while the objective falls. A Beta distribution is the case D = 2.
    """
    with np.errstate(all="ignore"):
        share = np.exp(mean_log)
        spare = 1.0 - share.sum(axis=1, keepdims=True)  # positive by Jensen, unless all observations are equal
        possible = (spare[:, 0] > 1e-14) & np.isfinite(mean_log).all(axis=1)
        a = np.maximum(share / share.sum(axis=1, keepdims=True) * (mean_log.shape[1] - 1) / (2 * spare), 1e-3)
        a[~possible] = 1.0
        m = np.where(possible[:, None], mean_log, psi(1.0) - psi(float(mean_log.shape[1])))
        for _ in range(200):
            total = a.sum(axis=1, keepdims=True)
            gradient, bend = psi(total) - psi(a) + m, -polygamma(1, a)
            common = (gradient / bend).sum(axis=1, keepdims=True)
            common = common / (1.0 / polygamma(1, total) + (1.0 / bend).sum(axis=1, keepdims=True))
            step = (gradient - common) / bend
            before, size = _dirichlet_objective(a, m), np.ones((len(a), 1))
            for _ in range(60):
                new = a - size * step
                worse = (new <= 0).any(axis=1) | (_dirichlet_objective(new, m) < before - 1e-12 * np.abs(before))
                if not worse.any():
                    break
                size[worse] *= 0.5
            a = np.where(worse[:, None], a, new)
            if (np.abs(size * step) <= 1e-13 * a).all() or worse.all():
                break
    a[~possible] = np.nan
    return a


def _dirichlet_objective(a: np.ndarray, mean_log: np.ndarray) -> np.ndarray:
    return gammaln(a.sum(axis=1)) - gammaln(a).sum(axis=1) + ((a - 1.0) * mean_log).sum(axis=1)
