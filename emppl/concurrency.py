"""What a process has one of, used from several threads: locks that a fork leaves open, settings held while needed."""

from __future__ import annotations

import os
import sys
import threading
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any
from weakref import WeakSet


class Lock:
    """A lock that its own thread may take again, open in a forked child and in a copy that was sent elsewhere.

    A thread of the parent that held it does not exist in the child, where it would stay closed for ever.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        _LOCKS.add(self)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: Any) -> None:
        self._lock.release()

    def __reduce__(self) -> tuple[Any, tuple[()]]:
        return Lock, ()

    def open(self) -> None:
        """Replaced by one that nobody holds."""
        self._lock = threading.RLock()


_LOCKS: WeakSet[Lock] = WeakSet()


def _forked() -> None:
    for lock in list(_LOCKS):
        lock.open()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


class Held:
    """A setting of the whole process as a context: made by the first thread that enters, undone by the last to leave.

    Contexts that each restore what they found leave a wrong setting behind for good where threads overlap.
    """

    def __init__(self, make: Callable[[], AbstractContextManager[Any]]) -> None:
        self.make = make
        self._lock, self._users = Lock(), 0
        self._open: AbstractContextManager[Any] | None = None

    def __enter__(self) -> None:
        with self._lock:
            if not self._users:
                self._open = self.make()
                self._open.__enter__()
            self._users += 1

    def __exit__(self, *_: Any) -> None:
        with self._lock:
            self._users -= 1
            if not self._users and self._open is not None:
                made, self._open = self._open, None
                made.__exit__(None, None, None)


class _Silence(warnings.catch_warnings):
    def __enter__(self) -> Any:
        found = super().__enter__()
        warnings.simplefilter("ignore")
        return found


_SILENT = Held(_Silence)


def quiet() -> AbstractContextManager[Any]:
    """A context without warnings."""
    own = getattr(sys.flags, "context_aware_warnings", False)  # each thread has filters of its own
    return _Silence() if own else _SILENT
