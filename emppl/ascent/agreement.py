"""Agreement of the starts of a fit: the modes they ended in, and how many starts no mode seen yet would hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, sqrt

import numpy as np

from emppl.ascent.loop import Ascent, Status

SAME_MODE = 2e-5  # nats
SAME_BY_ESTIMATE = 1e-3  # where Aitken's rule alone says what an ascent leaves to be gained
SAME_DIGITS = 1e-12  # the same relative to the objective, whose own rounding is more where it is large
FAR = 2.0  # nats: a start that ends so far below the best one has missed what matters
UNSEEN_LIMIT = 0.1  # share of random starts that may be expected to end in a mode not seen yet
MOST_STARTS = 3  # times as many as were asked for are made while more than that is expected
SETTLED = (Status.CONVERGED, Status.SPURIOUS, Status.SADDLE, Status.MAX_ITER)


def same_height(one: float, other: float, room: float = SAME_MODE) -> bool:
    """Whether two objectives, in nats, are equal to what an ascent leaves to be gained (`room`) and to rounding."""
    return abs(one - other) <= max(room, SAME_DIGITS * max(abs(one), abs(other)))


def modes_of(results: Sequence[Ascent], among: Sequence[int], twins: Mapping[int, int] | None = None) -> dict[int, int]:
    """A number for the mode of each ascent that settled, best first: ascents of the same height share one.

    twins: {an ascent that was left behind: the one that went on from where both were}, whose mode is its as well.
    """
    settled = [i for i in among if results[i].status in SETTLED]
    modes: dict[int, int] = {}
    number, last = -1, np.inf
    for i in sorted(settled, key=lambda i: -results[i].objective):
        room = SAME_BY_ESTIMATE if results[i].information is None else SAME_MODE
        if number < 0 or not same_height(last, results[i].objective, room):
            number, last = number + 1, results[i].objective
        modes[i] = number
    joined, known = {}, twins or {}
    for i in known:
        went_on = i
        while went_on not in modes and went_on in known:
            went_on = known[went_on]
        if went_on in modes:
            joined[i] = modes[went_on]
    return modes | joined


@dataclass(frozen=True)
class Agreement:
    """What the starts of a fit found: `reached` of the `total` carried to their end did so at the best mode.

    joined: those of them that were carried as far as another start, which alone went on.
    others: nats by which further modes lie below it. settled, seen: starts that converged, of those drawn at random to
    be carried to their end, and the modes that they ended in. left: starts that were left behind.
    """

    reached: int
    total: int
    others: tuple[float, ...] = ()
    settled: int = 0
    seen: int = 0
    left: int = 0
    joined: int = 0

    @property
    def unseen(self) -> float:
        """Expected share of random starts that would end in a mode that none has ended in.

        For W modes seen from n starts W (W + 1) / (n (n - 1)), whatever the sizes of the basins, in the mean over a
        uniform prior on them and on their number. Source: Boender & Rinnooy Kan (1987), Math. Programming 37:59.
        """
        if self.seen < 2 or self.settled < 2:  # all agree
            return 0.0
        return min(1.0, self.seen * (self.seen + 1) / (self.settled * (self.settled - 1)))

    @property
    def is_scattered(self) -> bool:
        """Whether starts end far below the best one, and more modes are to be expected than were seen."""
        return max(self.others, default=0.0) > FAR and self.unseen > UNSEEN_LIMIT

    @property
    def holds(self) -> bool:
        return not self.is_scattered and not self.reached < 2 <= self.total

    @property
    def missing(self) -> int:
        """Further starts after which few modes would be unseen, if they end where others did; 0 where it holds."""
        if self.holds:
            return 0
        enough = ceil(0.5 + sqrt(0.25 + self.seen * (self.seen + 1) / UNSEEN_LIMIT)) if self.is_scattered else 0
        return max(enough - self.settled, 2)


def agreement(
    results: Sequence[Ascent], drawn: Sequence[bool], best: int, twins: Mapping[int, int] | None = None
) -> Agreement:
    """The agreement of judged ascents; `best` is the winner, `drawn[i]` says that start i is random, and not chosen."""
    modes = modes_of(results, [i for i, r in enumerate(results) if r.theta and np.isfinite(r.objective)], twins)
    here = modes.get(best)
    reached = sum(mode == here for mode in modes.values()) if here is not None else 1
    ended = {i: mode for i, mode in modes.items() if results[i].status is Status.CONVERGED}
    heights = {mode: results[i].objective for i, mode in ended.items() if mode != here}
    seen = [mode for i, mode in ended.items() if drawn[i]]
    below = tuple(sorted(results[best].objective - height for height in heights.values()))
    short = [i for i, result in enumerate(results) if i != best and result.status is Status.SHORT]
    joined = sum(i in modes for i in short)
    left = len(short) - joined
    return Agreement(reached, len(results) - left, below, len(seen), len(set(seen)), left, joined)
