"""Predictors that are known linear maps over the rows, found by values.

`a[z] + b[z] * x`, `(x @ beta)[..., z]`, `(X * B[z]).sum(-1)`, polynomials and intercepts by group all are
mu[n, k](theta) = sum over p of A[n, p] m[k, p](theta), where A is made of known numbers alone. No pattern is matched:
the values of mu at random theta form a matrix with one row for each n; its rank is P, P of its rows are a basis, and
m is mu itself at these rows.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.linalg import qr

MAX_BASIS = 40
DRAWS = (2, 4, 8, 16, 32, 64)  # thetas; more are drawn until the rank stays
RANK = 1e-11  # relative size below which a direction is rounding
AGREES = 1e-10  # of fresh values with what the basis says, relative to the largest
SEARCHED = 3000  # rows among which a basis is sought; others are looked at where it does not explain them
COLUMNS = 256  # columns of values that are compared at most
Values = Callable[[int], np.ndarray]  # number of a draw of theta -> values [N, columns]


class NotLinear(Exception):
    """Why the values are no known linear map of a few of their rows."""


def linear_rows(values: Values, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Basis rows [P] and coefficients A [N, P] with values = A values[basis] at every theta.

    Raises NotLinear where more than MAX_BASIS rows would be needed or fresh values disagree.
    Cost: O(N P²) and up to 64 draws; far fewer where P is small.
    """
    seen = np.zeros((0, 0))
    rank, drawn = -1, 0
    rows: np.ndarray | None = None
    for draws in DRAWS:
        fresh = [_normalised(values(i)) for i in range(drawn, draws)]
        seen = np.concatenate([seen, *fresh], axis=1) if seen.size else np.concatenate(fresh, axis=1)
        seen, drawn = _thinned(seen, rng), draws
        if not seen.shape[1]:
            continue
        rows = _searched(len(seen), rng) if rows is None else rows
        basis = _basis(seen, rows)
        if len(basis) > MAX_BASIS:
            raise NotLinear(f"it is no sum of at most {MAX_BASIS} known columns with unknown coefficients")
        if len(basis) != rank:
            rank = len(basis)
            continue
        for _ in range(4):
            coefficients = np.linalg.lstsq(seen[basis].T, seen.T, rcond=RANK)[0].T
            wrong = _disagreement(values, draws, basis, coefficients)
            if not len(wrong):
                return basis, coefficients
            rows = np.union1d(rows, rng.choice(wrong, min(len(wrong), SEARCHED), replace=False))
            found = _basis(seen, rows)
            if len(found) == len(basis) or len(found) > MAX_BASIS:
                break
            basis = found
        rank = len(basis)
    raise NotLinear(f"it is no sum of at most {MAX_BASIS} known columns with unknown coefficients")


def _normalised(values: np.ndarray) -> np.ndarray:
    """Columns of unit length; those that are zero or no numbers are left out."""
    size = np.abs(values).max(axis=0)
    good = np.isfinite(size) & (size > 0)
    part = values[:, good] / size[good]
    return part / np.linalg.norm(part, axis=0)


def _thinned(seen: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    if seen.shape[1] <= COLUMNS:
        return seen
    return seen[:, np.sort(rng.choice(seen.shape[1], COLUMNS, replace=False))]


def _searched(n: int, rng: np.random.Generator) -> np.ndarray:
    return np.arange(n) if n <= SEARCHED else np.sort(rng.choice(n, SEARCHED, replace=False))


def _basis(seen: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Rows chosen by pivoted QR: each the one that the rows before it explain least."""
    triangle, order = qr(seen[rows].T, mode="r", pivoting=True)
    sizes = np.abs(np.diagonal(triangle))
    return rows[order[: int((sizes > RANK * max(sizes[0], 1e-300)).sum())]]


def _disagreement(values: Values, draw: int, basis: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
    """Rows that two fresh draws of theta show to be unexplained."""
    wrong = np.zeros(len(coefficients), bool)
    for i in (1000 + draw, 1001 + draw):
        fresh = values(i)
        if not np.isfinite(fresh).all():
            return np.arange(len(fresh))
        size = np.maximum(np.abs(fresh).max(axis=0), 1e-300)
        wrong |= (np.abs(coefficients @ fresh[basis] - fresh) > AGREES * size).any(axis=1)
    return np.flatnonzero(wrong)
