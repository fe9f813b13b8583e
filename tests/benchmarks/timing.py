"""Two sides of a pair, timed in turn within one run, so that a machine whose speed drifts drifts for both."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from emppl.kernels.threads import one_blas_thread

SHORTEST = 0.05  # seconds of one timing: faster work is repeated until it takes as long
FEWEST, MOST = 3, 15  # rounds
SETTLE = 0.3  # seconds between the sides


class Timing(NamedTuple):
    """One repetition of the work: wall-clock seconds, and processor seconds of all threads."""

    seconds: float
    processor: float

    @property
    def cores(self) -> float:
        """Cores that were kept busy."""
        return self.processor / self.seconds


Side = Callable[[int], Timing]  # number of repetitions → one of them


def local(work: Callable[[], Any]) -> Side:
    """A side that runs in this process."""

    def run(repetitions: int) -> Timing:
        wall, processor = time.perf_counter(), time.process_time()
        for _ in range(repetitions):
            work()
        return Timing((time.perf_counter() - wall) / repetitions, (time.process_time() - processor) / repetitions)

    return run


def em_pass(plan: Any, theta: dict[str, np.ndarray]) -> Side:
    """One pass of emppl at these parameters: an E-step, and the M-step that follows. Planning is no part of it.

    BLAS is held to one thread around the repetitions, as emppl.fit does it around an ascent.
    """
    passes = local(lambda: plan.m_step(theta, plan.e_step(theta)))

    def run(repetitions: int) -> Timing:
        with one_blas_thread():
            return passes(repetitions)

    return run


def _settled(side: Side, times: int) -> Timing:
    """A side's timing once the other's threads sleep: those of BLAS and OpenMP wait for more work on a busy core.

    Short work is run once uncounted after that rest, since a core that slept runs at half its speed for a while.
    """
    time.sleep(SETTLE)
    if times > 1:
        side(times)
    return side(times)


def in_turn(*sides: Side, seconds: float, warm: bool = True, fewest: int = FEWEST) -> list[Timing]:
    """The median of each side over rounds A, B, A, B, …; `seconds`: what all rounds together may take.

    warm: first run each side once, uncounted, which also tells how often to repeat work that takes no time.
    """
    once = [side(1) for side in sides] if warm else []
    once = [side(1) for side in sides] if once and sum(t.seconds for t in once) < 0.1 * seconds else once
    repetitions = [math.ceil(SHORTEST / max(t.seconds, 1e-7)) for t in once] or [1] * len(sides)
    rounds: list[list[Timing]] = []
    began = time.perf_counter()
    while len(rounds) < fewest or (len(rounds) < MOST and time.perf_counter() - began < seconds):
        one = _settled if len(sides) > 1 else lambda side, times: side(times)  # alone there is nobody to wait for
        rounds.append([one(side, times) for side, times in zip(sides, repetitions)])
    return [Timing(*np.median(column, axis=0)) for column in zip(*rounds)]
