"""Threads of passes, and those of BLAS, which would stand in their way."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

from emppl.concurrency import Held

MOST_ROOM = 1 << 18  # numbers that a thread keeps room for
_FORKED: list[bool] = []
_OWN = threading.local()  # a thread's room, and the contexts it has open


def threads() -> int:
    """Cores that this process may use; one in a forked process, whose siblings use the others."""
    if _FORKED:
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def pool(workers: int) -> ThreadPoolExecutor:
    """Threads that wait for passes."""
    return ThreadPoolExecutor(workers, thread_name_prefix="emppl")


def scratch(rows: int, columns: int) -> np.ndarray:
    """Room [rows, columns] of this thread's own, its contents undefined, which the next call hands out again.

    Fresh memory of this size is asked of the system and given back at each call, which can take longer than the work.
    """
    size = rows * columns
    if size > MOST_ROOM:
        return np.empty((rows, columns))
    room = getattr(_OWN, "room", None)
    if room is None or len(room) < size:
        room = _OWN.room = np.empty(size)
    return room[:size].reshape(rows, columns)


def _forked() -> None:
    """In the child of a fork, where the threads of the pool are gone."""
    _FORKED.append(True)
    pool.cache_clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


class one_blas_thread:
    """A context in which BLAS uses one thread: several for small matrices wait for each other, on all cores.

    The outermost of a thread's counts it as a user: the first sets, the last restores. Those within it, one for each
    step of a fit, cost next to nothing.
    """

    def __enter__(self) -> None:
        depth = getattr(_OWN, "depth", 0)
        if not depth:
            _SINGLE.__enter__()
        _OWN.depth = depth + 1

    def __exit__(self, *_: Any) -> None:
        _OWN.depth -= 1
        if not _OWN.depth:
            _SINGLE.__exit__()


@contextmanager
def _single() -> Iterator[None]:
    before = [(library, library.get_num_threads()) for library in _libraries()]
    several = [(library, n) for library, n in before if n != 1]
    for library, _ in several:
        library.set_num_threads(1)
    try:
        yield
    finally:
        for library, n in several:
            library.set_num_threads(n)


_SINGLE = Held(_single)


@cache
def _libraries() -> list[Any]:
    import scipy.linalg  # noqa: F401 - its BLAS is what compiled code calls, and must be there to be held

    return list(ThreadpoolController().select(user_api="blas").lib_controllers)
