"""The first pass over a source: are all rows numbers, how many are there, where do they lie, and a sample of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from emppl.errors import InvalidDataError
from emppl.kernels.moments import Moments
from emppl.rules.tables import Family
from emppl.streaming.blocks import Rows, Shape, checked

WIDEST = 512  # numbers in a vector up to which all their covariances are kept


@dataclass(frozen=True)
class Survey:
    """What is known of the rows of some blocks."""

    n: int
    blocks: int
    moments: dict[str, Moments] = field(repr=False)
    sample: Rows = field(repr=False)
    ticket: np.ndarray = field(repr=False)  # [sample]: the lowest tickets of all rows are in the sample
    place: np.ndarray = field(repr=False)  # [sample, 2]: block and row

    def merged(self, other: Survey, size: int) -> Survey:
        ticket = np.concatenate([self.ticket, other.ticket])
        place = np.concatenate([self.place, other.place])
        kept = np.sort(np.argsort(ticket, kind="stable")[:size])  # rows stay in the order that they have
        sample = {name: np.concatenate([rows, other.sample[name]])[kept] for name, rows in self.sample.items()}
        moments = {name: m.merged(other.moments[name]) for name, m in self.moments.items()}
        return Survey(self.n + other.n, self.blocks + other.blocks, moments, sample, ticket[kept], place[kept])


@dataclass(frozen=True)
class Observations:
    """One observed variable: its values as a graph of the rows, and where they must lie, as far as that is known.

    takes: what the family's support depends on, numbers or graphs of the rows.
    """

    name: str
    graph: Any = field(repr=False)
    vectors: bool
    rule: Family | None = field(repr=False, default=None)
    takes: dict[str, Any] = field(repr=False, default_factory=dict)

    def look(self, number: int, rows: Rows, n: int) -> Moments:
        """Raises InvalidDataError for values outside the support: which block, which row."""
        y = self.graph(rows)
        if y.shape[:1] != (n,):
            raise InvalidDataError(
                f"{self.name} has {y.shape[:1]} rows where block {number} has {n}", f"observed variable {self.name!r}"
            )
        if self.rule is not None:
            takes = {k: v(rows) if callable(v) else v for k, v in self.takes.items()}
            check_inside(self.name, self.rule, number, y, takes)
        return Moments.of(y, self.vectors and y[0].size <= WIDEST)


def check_inside(name: str, rule: Family, number: int, y: np.ndarray, takes: Mapping[str, Any]) -> None:
    """Raise InvalidDataError naming the first row of a block that the family cannot produce."""
    inside = np.asarray(rule.inside(y, **takes))
    if not inside.all():
        place = tuple(int(i) for i in np.argwhere(~inside)[0])
        raise InvalidDataError(
            f"{name}{list(place)} = {y[place]} of block {number} is outside the support of {rule.name}",
            f"observed variable {name!r}, block {number}, row {place[0]} of the block",
            ("correct the value, or leave the row out", f"{rule.name}: {rule.describe}"),
        )


class Surveyor:
    """Looks at one block; travels to workers."""

    def __init__(
        self, shapes: Sequence[Shape], observed: Mapping[str, Observations], size: int, seed: int | None
    ) -> None:
        self.shapes, self.observed, self.size = list(shapes), dict(observed), size
        self.seed = np.random.SeedSequence(seed).entropy

    def look(self, number: int, block: Any) -> Survey | None:
        """None for a block without rows. Raises InvalidDataError: which block, which row."""
        rows = checked(number, block, self.shapes, values=True)
        n = len(next(iter(rows.values())))
        if not n:
            return None
        moments = {name: one.look(number, rows, n) for name, one in self.observed.items()}
        ticket = np.random.default_rng([self.seed, number]).random(n)
        kept = np.sort(np.argsort(ticket, kind="stable")[: self.size])
        sample = {name: np.array(array[kept]) for name, array in rows.items()}
        place = np.stack([np.full(len(kept), number), kept], axis=1)
        return Survey(n, 1, moments, sample, ticket[kept], place)


def surveyed(found: Iterable[Survey | None], size: int) -> Survey:
    """All blocks together, in their order. Raises InvalidDataError where there is no row at all."""
    total: Survey | None = None
    for one in found:
        if one is not None:
            total = one if total is None else total.merged(one, size)
    if total is None:
        raise InvalidDataError("the source has no rows", "source", ("give at least one block of rows",))
    return total
