"""Means, variances and covariances of rows, gathered block by block."""

from __future__ import annotations

from functools import reduce
from typing import NamedTuple

import numpy as np

BLOCK = 1 << 19  # numbers in a block of rows: 4 MiB


class Moments(NamedTuple):
    """Mean [D], and sums of squared deviations [D] or of all their products [D, D]."""

    n: int
    mean: np.ndarray
    spread: np.ndarray

    @classmethod
    def of(cls, y: np.ndarray, vectors: bool) -> Moments:
        """Of rows y [N, …]; vectors: with the products of different columns."""
        y = y.reshape(len(y), -1)
        near = y[:1].astype(float)  # deviations from any row keep the digits that an offset of 1e8 would cost
        deviation = np.subtract(y, near, dtype=float)
        shift = deviation.mean(axis=0)
        deviation -= shift
        spread = deviation.T @ deviation if vectors else np.einsum("nd,nd->d", deviation, deviation)
        return cls(len(y), near[0] + shift, spread)

    @classmethod
    def over(cls, y: np.ndarray, vectors: bool) -> Moments:
        """The same of many rows, a block at a time: no copy of them is made."""
        rows_at_once = max(1, BLOCK // max(1, y[:1].size))
        parts = (cls.of(y[start : start + rows_at_once], vectors) for start in range(0, len(y), rows_at_once))
        return reduce(cls.merged, parts)

    def merged(self, other: Moments) -> Moments:
        """Of both together (Chan, Golub & LeVeque 1983)."""
        n = self.n + other.n
        gap = other.mean - self.mean
        between = np.outer(gap, gap) if self.spread.ndim == 2 else gap**2
        return Moments(
            n, self.mean + gap * (other.n / n), self.spread + other.spread + between * (self.n * other.n / n)
        )

    def rows(self, trailing: tuple[int, ...]) -> np.ndarray:
        """A few rows with this very mean and covariance (or variances): what a frame is made from."""
        if self.spread.ndim == 1:
            away = np.sqrt(self.spread / self.n)[None]
        else:
            scale = np.sqrt(np.diag(self.spread) / self.n)
            safe = np.where(scale > 0, scale, 1.0)
            values, vectors = np.linalg.eigh(self.spread / self.n / np.outer(safe, safe))
            away = np.sqrt(len(values) * np.maximum(values, 0.0))[:, None] * vectors.T * scale
        return np.concatenate([self.mean + away, self.mean - away]).reshape(-1, *trailing)
