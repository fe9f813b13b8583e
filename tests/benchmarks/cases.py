"""What a row of the benchmark is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .timing import Side


class NotInstalled(Exception):
    """A rival is not there; the text names it and how to get it."""


@dataclass(frozen=True)
class Pair:
    """Both sides, ready to run, after their results were compared.

    difference: the largest difference of the results, relative to the largest number of each; None where the rival
    gives nothing to compare. note: what a reader of the row must know.
    """

    ours: Side
    theirs: Side
    difference: float | None
    note: str = ""
    warm: bool = True
    fewest: int = 3  # rounds, however long they take
    close: Callable[[], Any] = lambda: None  # ends what the sides keep running


@dataclass(frozen=True)
class Race:
    """A row beside a rival. bar: how many times faster ours must be. make(scale) → Pair."""

    name: str
    work: str
    against: str
    bar: float | None
    make: Callable[[float], Pair]


@dataclass(frozen=True)
class Limit:
    """A row of ours alone. bar: what the value must not pass. measure(scale) → (value, note)."""

    name: str
    work: str
    unit: str
    bar: float | None
    measure: Callable[[float], tuple[float, str]]


def scaled(n: int, scale: float) -> int:
    """Rows at this scale: never so few that a component goes without."""
    return min(n, max(1000, round(n * scale)))
