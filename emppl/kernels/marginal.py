"""The same pass for a sampler: a loop that numba compiles, without a matrix of members × configurations."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np


@cache
def marginal_loop() -> Callable[..., Any]:
    """(eta [J, F], features [C, F], base [C], weights [C]) → (log-likelihood, expected statistics [J, F]).

    Compiled by numba. Its numpy twin is `kernels.mixture.mixture`. Made when first asked for, since importing numba
    takes a second.
    """
    from numba import njit

    @njit
    def marginal(eta: Any, features: Any, base: Any, weights: Any) -> Any:
        n, n_features = features.shape
        n_values = eta.shape[0]
        statistics = np.zeros((n_values, n_features))
        log_joint = np.empty(n_values)
        total = 0.0
        for i in range(n):
            if weights[i] == 0.0:
                continue
            peak = -np.inf
            for j in range(n_values):
                value = 0.0
                for f in range(n_features):
                    if features[i, f] != 0.0:  # a log of zero may meet a count of zero
                        value += -np.inf if eta[j, f] == -np.inf else features[i, f] * eta[j, f]
                log_joint[j] = value
                if not value <= peak:
                    peak = value
            if not np.isfinite(peak):
                return np.asarray(-np.inf), statistics
            scale = 0.0
            for j in range(n_values):
                log_joint[j] = np.exp(log_joint[j] - peak)
                scale += log_joint[j]
            total += weights[i] * (peak + np.log(scale) + base[i])
            for j in range(n_values):
                share = weights[i] * log_joint[j] / scale
                if share != 0.0:
                    for f in range(n_features):
                        statistics[j, f] += share * features[i, f]
        return np.asarray(total), statistics

    return marginal
