"""Variable elimination as one loop over index arrays, for a sampler: no array of more than one axis, any structure."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np


@cache
def elimination_loop() -> Callable[..., Any]:
    """(leaves [L], steps [S, 4], sources, outputs, roots, entries [1]) → (log-likelihood, probabilities [L]).

    leaves: log potentials, entry by entry. A step is a row (states, tables, first source, first output): each of its
    joint states adds up one entry of each of its tables (`sources`, states × tables) and is summed into one entry of
    the table that it leaves (`outputs`). Entries are numbered through: leaves first, then what the steps leave.
    roots: the entries whose sum is the log-likelihood. Compiled by numba; its numpy twin is `estep.elimination`.
    """
    from emppl.kernels.caching import jit

    @jit()
    def eliminate(leaves: Any, steps: Any, sources: Any, outputs: Any, roots: Any, entries: Any) -> Any:
        n_leaves = len(leaves)
        value = np.empty(entries[0])
        value[:n_leaves] = leaves
        value[n_leaves:] = -np.inf
        joint = np.empty(len(outputs))
        done = np.zeros(entries[0], np.bool_)
        for s in range(len(steps)):
            states, tables, source, output = steps[s]
            for q in range(states):
                total = 0.0
                for t in range(tables):
                    total += value[sources[source + q * tables + t]]
                joint[output + q] = total
                out = outputs[output + q]
                if total > value[out]:
                    value[out] = total  # the largest first, for a sum without overflow
            peak = np.empty(states)
            for q in range(states):
                peak[q] = value[outputs[output + q]]
            for q in range(states):
                value[outputs[output + q]] = 0.0
            for q in range(states):
                if peak[q] > -np.inf:
                    value[outputs[output + q]] += np.exp(joint[output + q] - peak[q])
            for q in range(states):
                out = outputs[output + q]
                if not done[out]:
                    done[out] = True
                    value[out] = peak[q] + np.log(value[out]) if peak[q] > -np.inf else -np.inf
        total = 0.0
        weight = np.zeros(entries[0])
        for r in range(len(roots)):
            total += value[roots[r]]
            weight[roots[r]] = 1.0
        if not np.isfinite(total):
            return np.asarray(-np.inf), np.zeros(n_leaves)
        for back in range(len(steps)):
            s = len(steps) - 1 - back
            states, tables, source, output = steps[s]
            for q in range(states):
                out = outputs[output + q]
                if weight[out] > 0.0 and value[out] > -np.inf:
                    share = weight[out] * np.exp(joint[output + q] - value[out])
                    for t in range(tables):
                        weight[sources[source + q * tables + t]] += share
        return np.asarray(total), weight[:n_leaves]

    return eliminate
