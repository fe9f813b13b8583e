"""Assignment problems, one a draw: which old component becomes which new one, and how clear that is.

costs [T, K, K]: costs[t, j, k] is what it costs in draw t that old component k becomes new component j. Permutations
[T, K] hold the old component of each new one. No factorial anywhere: K = 30 is as good as K = 3.
"""

from functools import cache
from itertools import permutations

import numpy as np
from scipy.optimize import linear_sum_assignment

Groups = tuple[tuple[int, ...], ...]

ENUMERATED = 4  # components up to which comparing all permutations of all draws at once is the faster way


def forbidden_pairs(size: int, groups: Groups | None) -> np.ndarray:
    """[K, K], True where old component k may not become new component j: they are in different groups."""
    if groups is None:
        return np.zeros((size, size), dtype=bool)
    group = np.arange(size) + len(groups)
    for number, members in enumerate(groups):
        group[list(members)] = number
    return group[:, None] != group[None, :]


def assign(costs: np.ndarray, forbidden: np.ndarray | None = None) -> np.ndarray:
    """The permutation of least total cost in every draw: [T, K]. Cost: O(T K³), Hungarian (Crouse 2016)."""
    size = costs.shape[-1]
    if forbidden is not None and forbidden.any():
        costs = np.where(forbidden, np.inf, costs)
    if size <= ENUMERATED:
        table = _table(size)
        flat = costs.reshape(len(costs), -1)
        totals = np.zeros((len(table), len(costs)))
        for j in range(size):
            totals += flat.T[j * size + table[:, j]]
        return table[totals.argmin(axis=0)]
    answer = np.empty((len(costs), size), dtype=np.int64)
    for t, cost in enumerate(costs):
        answer[t] = linear_sum_assignment(cost)[1]
    return answer


@cache
def _table(size: int) -> np.ndarray:
    return np.array(list(permutations(range(size))), dtype=np.int64)


def total_cost(costs: np.ndarray, perms: np.ndarray) -> np.ndarray:
    """What the permutations cost: [T]."""
    return np.take_along_axis(costs, perms[:, :, None], axis=2)[:, :, 0].sum(axis=1)


def margins(costs: np.ndarray, perms: np.ndarray, forbidden: np.ndarray | None = None) -> np.ndarray:
    """How much dearer the second best assignment of every draw is, inf where there is no other: [T].

    Another assignment differs from the best one by cycles: new component j takes the old one of j', which takes … .
    No cycle lowers the cost, so the cheapest one is found as the shortest way from a component back to itself
    (Floyd 1962). Cost: O(T K³).
    """
    size = costs.shape[-1]
    if forbidden is not None and forbidden.any():
        costs = np.where(forbidden, np.inf, costs)
    taken = np.take_along_axis(costs, perms[:, None, :], axis=2)  # [T, j, j']: j takes what is j''s now
    own = np.einsum("tjj->tj", taken)
    way = taken - own[:, :, None]
    rows = np.arange(size)
    way[:, rows, rows] = np.inf
    for via in rows:
        np.minimum(way, way[:, :, via, None] + way[:, None, via, :], out=way)
    return np.maximum(way[:, rows, rows].min(axis=1, initial=np.inf), 0.0)


def inverse(perms: np.ndarray) -> np.ndarray:
    """New component of each old one, [T, K]: z' = inverse(perms)[t, z]."""
    return np.argsort(perms, axis=-1)


def one_hot(perms: np.ndarray) -> np.ndarray:
    """[T, K, K], 1 where old component k becomes new component j (row k, column j): p' = p @ one_hot(perms)."""
    return (perms[:, None, :] == np.arange(perms.shape[1])[None, :, None]).astype(float)


def aligned_to(perms: np.ndarray, other: np.ndarray, groups: Groups | None = None) -> np.ndarray:
    """perms [T, K] after the one relabelling of all draws alike that makes them agree with `other` as far as may be.

    Agreement of single components is counted, so the best relabelling is an assignment.
    """
    size = perms.shape[1]
    counts = np.zeros((size, size))
    for j in range(size):
        counts[j] = (perms == other[:, j, None]).sum(axis=0)  # new j of other is new k of perms
    return perms[:, assign(-counts[None], forbidden_pairs(size, groups))[0]]


def share_equal(one: np.ndarray, two: np.ndarray, groups: Groups | None = None) -> float:
    """Share of draws with equal permutations after the best relabelling of all draws alike.

    Several candidates are tried, since the share is no sum over components: the relabelling that single components
    vote for, and those that make the draws equal which are commonest.
    """
    if not len(one):
        return 1.0
    best = float((aligned_to(one, two, groups) == two).all(axis=1).mean())
    relative = np.take_along_axis(inverse(one), two, axis=1)  # g with one[t, g] == two[t]
    rows, counts = np.unique(relative, axis=0, return_counts=True)
    allowed = ~forbidden_pairs(one.shape[1], groups)
    fits = [c for row, c in zip(rows, counts) if allowed[np.arange(len(row)), row].all()]
    return max(best, max(fits, default=0) / len(one))
