"""Threads of passes, and those of BLAS, which would stand in their way."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

_FORKED: list[bool] = []


def threads() -> int:
    """Cores that this process may use; one in a forked process, whose siblings use the others."""
    if _FORKED:
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def pool(workers: int) -> ThreadPoolExecutor:
    """Threads that wait for passes."""
    return ThreadPoolExecutor(workers, thread_name_prefix="emppl")


def _forked() -> None:
    """In the child of a fork, where the threads of the pool are gone."""
    _FORKED.append(True)
    pool.cache_clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


class one_blas_thread:
    """A context in which BLAS uses one thread: several for small matrices wait for each other, on all cores.

    A few microseconds, where threadpoolctl's own takes twenty: every step of a fit goes through it.
    """

    def __enter__(self) -> None:
        self._before = [(library, library.get_num_threads()) for library in _libraries()]
        self._set(1)

    def __exit__(self, *_: Any) -> None:
        self._set(None)

    def _set(self, wanted: int | None) -> None:
        for library, before in self._before:
            if before != 1:
                library.set_num_threads(wanted or before)


@cache
def _libraries() -> list[Any]:
    import scipy.linalg  # noqa: F401 - its BLAS is what compiled code calls, and must be there to be held

    return list(ThreadpoolController().select(user_api="blas").lib_controllers)
