"""Statistics of all members of a plate, as products of a few columns that are read block by block.

A Gaussian in 8 dimensions has 45 statistics, each a product of two of the 8 columns of the data, or a column, or 1.
Kept like that a pass reads the data as they lie, in any order and precision, and needs no array beside them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

BLOCK_NUMBERS = 1 << 17  # numbers in the statistics of a block: 1 MiB, a core's cache
SAMPLE = 64  # rows on which products are looked for, before all are checked
SMALL = 1 << 17  # numbers up to which the statistics themselves are kept
WORTHWHILE = 2  # rows must be this many times the distinct ones for these to be counted instead
SAME = 1e-13  # relative difference that is rounding
SORTED_AT_ONCE = 1 << 26  # numbers in the rows among which distinct ones are looked for


class Source(NamedTuple):
    """Columns as they lie in memory, and the affine frame in which they are read: whiten (row - centre)."""

    array: np.ndarray  # [C, D], any dtype and order
    row_of: np.ndarray | None = None  # [C], the row of `array` that each member has; None: one after the other
    centre: np.ndarray | None = None  # [D]
    whiten: np.ndarray | None = None  # [D, D], or the scales [D] by which columns are divided

    def read(self, rows: slice, out: np.ndarray) -> None:
        """Fill out [D, rows] with the framed columns."""
        block = self.array[rows if self.row_of is None else self.row_of[rows]]
        if self.centre is None:
            out[:] = block.T
        elif self.whiten is None or self.whiten.ndim == 1:
            np.subtract(block.T, self.centre[:, None], out=out)
            if self.whiten is not None:
                out /= self.whiten[:, None]
        else:
            np.matmul(self.whiten, np.subtract(block, self.centre, dtype=float).T, out=out)

    def take(self, rows: np.ndarray) -> Source:
        if self.row_of is not None:
            return self._replace(row_of=self.row_of[rows])
        return self._replace(array=self.array[rows])

    @property
    def key(self) -> np.ndarray:
        """Columns in which members are equal if they are."""
        return self.array if self.row_of is None else self.row_of[:, None]


@dataclass(frozen=True, eq=False)
class Features:
    """T [C, F]: statistic f of a member is z[left] z[right], where z_0 = 1 and z_1, z_2, … are the sources' columns.

    Behaves as an array where that is asked for: `shape`, `len`, `features[rows]`, `np.asarray`.
    """

    n: int
    sources: tuple[Source, ...] = field(repr=False)
    left: np.ndarray = field(repr=False)  # [F]
    right: np.ndarray = field(repr=False)  # [F], left <= right; both 0: the number 1
    together: Together | None = field(repr=False, default=None)  # products that no parameter tells apart

    # -- making them -----------------------------------------------------------------------------------------------

    @classmethod
    def of(cls, array: Any) -> Features:
        """Features that are an array [C, F] already; constant ones are not kept."""
        if isinstance(array, Features):
            return array
        array = np.asarray(array)
        n, width = array.shape
        ones = np.array([n > 0 and bool((array[:, f] == 1.0).all()) for f in range(width)], dtype=bool)
        kept = np.flatnonzero(~ones)
        right = np.zeros(width, dtype=np.int64)
        right[kept] = 1 + np.arange(len(kept))
        sources = (Source(array if len(kept) == width else array[:, kept]),) if len(kept) else ()
        return cls(n, sources, np.zeros(width, dtype=np.int64), right)

    @classmethod
    def products(cls, source: Source, evaluate: Callable[[slice], tuple[np.ndarray, np.ndarray]]) -> Features:
        """Features of rows whose framed columns [rows, D] and statistics [rows, F] `evaluate` gives.

        Where each statistic is the number 1, a column or a product of two, exactly and in every row, the source alone
        is kept.
        """
        n = len(source.array if source.row_of is None else source.row_of)
        sample = np.unique(np.linspace(0, n - 1, min(n, SAMPLE)).astype(int))
        z, t = (np.concatenate(parts) for parts in zip(*(evaluate(slice(i, i + 1)) for i in sample)))
        width = t.shape[1]
        rows_at_once = max(1, BLOCK_NUMBERS // max(1, width))
        found = _as_products(z, t)
        if found is not None:
            left, right = found
            for rows in blocks(n, rows_at_once):
                z, t = evaluate(rows)
                z = np.concatenate([np.ones((len(z), 1)), z], axis=1)
                if not np.array_equal(z[:, left] * z[:, right], t):
                    found = None
                    break
        if found is not None:
            return cls(n, (source,), *found)
        dense = np.empty((n, width))
        for rows in blocks(n, rows_at_once):
            dense[rows] = evaluate(rows)[1]
        return cls.of(dense)

    @classmethod
    def joined(cls, parts: Sequence[Features]) -> Features:
        """The statistics of several factors of one plate, side by side."""
        if len(parts) == 1:
            return parts[0]
        sources: list[Source] = []
        lefts, rights, start = [], [], 0
        for part in parts:
            sources += part.sources
            lefts.append(np.where(part.left > 0, part.left + start, 0))
            rights.append(np.where(part.right > 0, part.right + start, 0))
            start += part.n_columns
        return cls(parts[0].n, tuple(sources), np.concatenate(lefts), np.concatenate(rights))

    # -- reading them ----------------------------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, int]:
        return self.n, len(self.left)

    def __len__(self) -> int:
        return self.n

    @property
    def n_columns(self) -> int:
        """Columns of all sources."""
        return sum(source.array.shape[1] for source in self.sources)

    @cached_property
    def distinct(self) -> Distinct:
        """Each product once; what stands for 1 is left to the counts."""
        pairs, position = np.unique(np.stack([self.left, self.right], axis=1), axis=0, return_inverse=True)
        position = position.ravel()
        if len(pairs) and not pairs[0].any():
            pairs, position = pairs[1:], position - 1
        order = np.argsort(pairs[:, 0] > 0, kind="stable")  # columns first, then products
        rank = np.empty(len(order), dtype=np.int64)
        rank[order] = np.arange(len(order))
        position = np.where(position >= 0, rank[position] if len(rank) else -1, -1)
        pairs = np.ascontiguousarray(pairs[order])
        single = int((pairs[:, 0] == 0).sum())
        return Distinct(pairs[:single, 1] - 1, pairs[single:, 0] - 1, pairs[single:, 1] - 1, position, len(pairs))

    def columns(self, rows: slice, out: np.ndarray | None = None) -> np.ndarray:
        """Framed columns of a block of rows, [D, rows], one column after the other in memory."""
        size = rows.stop - rows.start
        z = np.empty((self.n_columns, size)) if out is None else out
        start = 0
        for source in self.sources:
            stop = start + source.array.shape[1]
            source.read(rows, z[start:stop])
            start = stop
        return z

    def block(self, rows: slice) -> np.ndarray:
        """Distinct statistics of a block of rows, [distinct, rows]."""
        return self.expand(self.columns(rows))

    def expand(self, z: np.ndarray) -> np.ndarray:
        """Distinct statistics [distinct, rows] from framed columns [D, rows]."""
        single, left, right, _, n_distinct = self.distinct
        if not len(left) and len(single) == len(z) and (single == np.arange(len(z))).all():
            return z
        t = np.empty((n_distinct, z.shape[1]))
        t[: len(single)] = z[single]
        for f in range(len(left)):
            np.multiply(z[left[f]], z[right[f]], out=t[len(single) + f])
        return t

    @cached_property
    def small(self) -> tuple[np.ndarray, int | None] | None:
        """All statistics as they were asked for, [F, C], and one that is the number 1, if any; None where too many."""
        if self.n * len(self.left) > SMALL:
            return None
        ones = self._places[0]
        return np.ascontiguousarray(self.dense(slice(0, self.n)).T), int(ones[0]) if len(ones) else None

    def dense(self, rows: slice) -> np.ndarray:
        """Statistics of a block of rows as they were asked for, [rows, F]."""
        position = self.distinct.position
        t = self.block(rows)
        full = t[position].T if len(t) else np.ones((rows.stop - rows.start, len(position)))
        full[:, position < 0] = 1.0
        return full

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        answer = np.empty(self.shape)
        for rows in self.blocks():
            answer[rows] = self.dense(rows)
        return answer if dtype is None else answer.astype(dtype)

    def __getitem__(self, rows: Any) -> np.ndarray:
        part = self.take(np.atleast_1d(np.arange(self.n)[rows]))
        whole = np.asarray(part)
        return whole[0] if np.ndim(np.arange(self.n)[rows]) == 0 else whole

    def blocks(self) -> list[slice]:
        """Rows in blocks whose statistics fit a core's cache."""
        return blocks(self.n, max(256, BLOCK_NUMBERS // (self.n_columns + 2 * self.distinct.n + 1)))

    def take(self, rows: np.ndarray) -> Features:
        """The features of some members."""
        return Features(len(rows), tuple(source.take(rows) for source in self.sources), self.left, self.right)

    def weighted(self, weights: np.ndarray) -> np.ndarray:
        """Sums over members, weights [C, K] → [K, F]."""
        answer = np.zeros((weights.shape[1], self.shape[1]))
        for rows in self.blocks():
            answer += self.full(weights[rows].T @ self.block(rows).T, weights[rows].sum(axis=0))
        return answer

    def times(self, eta: np.ndarray) -> np.ndarray:
        """<eta, T> of each member: eta [F] → [C]."""
        const, reduced = self.reduce(np.asarray(eta)[None])
        return np.concatenate([(reduced @ self.block(rows))[0] + const[0] for rows in self.blocks()])

    # -- between the statistics that were asked for and the distinct ones --------------------------------------------

    def reduce(self, eta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """eta [J, F] as what multiplies the number 1, [J], and the distinct statistics, [J, distinct]."""
        ones, order = self._places
        if order is not None:
            return eta[:, ones].sum(axis=1), eta[:, order]
        position, answer = self.distinct.position, np.zeros((len(eta), self.distinct.n))
        for f in np.flatnonzero(position >= 0):
            answer[:, position[f]] += eta[:, f]
        return eta[:, ones].sum(axis=1), answer

    @cached_property
    def _places(self) -> tuple[np.ndarray, np.ndarray | None]:
        """Statistics that are the number 1, and where the distinct ones stand; None where one is asked for twice."""
        position = self.distinct.position
        ones, places = np.flatnonzero(position < 0), np.flatnonzero(position >= 0)
        if len(places) != self.distinct.n:
            return ones, None
        order = np.empty(len(places), dtype=np.int64)
        order[position[places]] = places
        return ones, order

    def full(self, statistics: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """Expected distinct statistics [J, distinct] and counts [J] as the statistics asked for, [J, F]."""
        position = self.distinct.position
        if not len(position):
            return np.zeros((len(counts), 0))
        padded = np.concatenate([statistics, counts[:, None]], axis=1)  # position -1 is the last
        return padded[:, position]

    # -- fewer of them -----------------------------------------------------------------------------------------------

    def summed(self, etas: Sequence[np.ndarray]) -> Features:
        """The same, where passes may add up products whose eta are proportional in each of `etas` [J, F].

        In a spherical Gaussian the squares of all columns have one eta between them, so their sum is all that counts.
        """
        rows = np.concatenate([self.reduce(eta)[1] for eta in etas])[:, len(self.distinct.single) :]
        sizes = np.sqrt((rows**2).sum(axis=0))
        if rows.shape[1] < 2 or not np.isfinite(sizes).all() or not sizes.all():
            return self
        # columns of one direction lie next to each other once each is divided by its first large element
        lead = np.abs(rows).argmax(axis=0)
        directions = rows / rows[lead, np.arange(rows.shape[1])]
        first: list[int] = []
        place = np.empty(rows.shape[1], dtype=np.int64)
        for f in range(rows.shape[1]):
            same = [g for g, one in enumerate(first) if np.abs(directions[:, f] - directions[:, one]).max() < SAME]
            if not same:
                first.append(f)
            place[f] = same[0] if same else len(first) - 1
        if len(first) == len(place) or (np.diff(place) < 0).any():
            return self
        ratio = (rows * rows[:, first][:, place]).sum(axis=0) / (sizes[first] ** 2)[place]
        squares = np.bincount(place, ratio**2)
        return replace(self, together=Together(place, ratio, np.array(first), ratio / squares[place]))

    def sums_of(self, eta: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """(place, ratio, eta [J, F'] of columns and sums) for eta [J, distinct]; None where it tells products apart."""
        if self.together is None:
            return None
        place, ratio, first, _ = self.together
        n_single = len(self.distinct.single)
        products = eta[:, n_single:]
        kept = products[:, first]
        if not (np.abs(products - kept[:, place] * ratio) <= SAME * np.abs(products)).all():
            return None
        return place, ratio, np.concatenate([eta[:, :n_single], kept], axis=1)

    def apart(self, statistics: np.ndarray) -> np.ndarray:
        """Statistics [..., F'] of columns and sums as [..., distinct].

        Each product gets the part of its sum that leaves <eta, statistics> as it is: no parameter tells the rest.
        """
        assert self.together is not None
        n_single = len(self.distinct.single)
        place, _, _, part = self.together
        return np.concatenate([statistics[..., :n_single], statistics[..., n_single:][..., place] * part], axis=-1)

    def unique_rows(self, also: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray] | None:
        """(first member of each kind, kind of each member) where many members are equal, also in the columns `also`.

        None where too few are, so that counting them would not pay.
        """
        if self.n < 2 * SAMPLE or not self.sources:
            return None
        also = np.zeros((self.n, 0)) if also is None else also
        sample = np.linspace(0, self.n - 1, 16 * SAMPLE).astype(int)
        raw = [source.key for source in self.sources] + [also]

        def keys(rows: Any) -> np.ndarray:
            parts = [np.asarray(a[rows], dtype=float) for a in raw]
            return np.concatenate([p.reshape(len(p), -1) for p in parts], axis=1) + 0.0  # -0 is 0

        if self.n * sum(a.shape[1] for a in raw) > SORTED_AT_ONCE:
            return None
        few = np.unique(keys(np.unique(sample)), axis=0)
        if len(few) * WORTHWHILE > len(np.unique(sample)):
            return None
        rows = keys(slice(None))
        rows = rows[:, 0] if rows.shape[1] == 1 else rows
        _, first, kind = np.unique(rows, axis=0, return_index=True, return_inverse=True)
        return (first, kind.ravel()) if len(first) * WORTHWHILE <= self.n else None


class Together(NamedTuple):
    """Products that are summed: the sum that each belongs to, its ratio there, the first of each sum, its part."""

    place: np.ndarray
    ratio: np.ndarray
    first: np.ndarray
    part: np.ndarray


class Distinct(NamedTuple):
    """Columns (by number) that stand alone, then products of two; `position` [F] of each statistic asked for, or -1."""

    single: np.ndarray
    left: np.ndarray
    right: np.ndarray
    position: np.ndarray
    n: int


def blocks(n: int, size: int) -> list[slice]:
    """Rows 0 … n - 1 in slices of `size`."""
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]


def _as_products(framed: np.ndarray, statistics: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """(left, right) [F] by which statistics [rows, F] are products of columns [rows, D] in these rows; else None."""
    z = np.concatenate([np.ones((len(framed), 1)), framed], axis=1)
    index: dict[bytes, tuple[int, int]] = {}
    for a in range(z.shape[1]):
        for b in range(a, z.shape[1]):
            index.setdefault((z[:, a] * z[:, b]).tobytes(), (a, b))
    pairs = [index.get(np.ascontiguousarray(column).tobytes()) for column in statistics.T]
    if any(pair is None for pair in pairs):
        return None
    found = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    return found[:, 0], found[:, 1]
