"""Ctrl-C that is not lost where code in between swallows the exception that it raises.

Compilers catch everything to say what failed, and what is raised in a callback of C or in a finaliser is printed and
forgotten: the run then goes on as if nobody had asked it to stop.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType


@dataclass
class Interrupt:
    """What a handler of SIGINT raised, from when on it did; None before. Set to None, it counts as dealt with."""

    raised: BaseException | None = None

    def check(self) -> None:
        """Raise what the handler raised, if it did."""
        if self.raised is not None:
            raise self.raised


@contextlib.contextmanager
def noticed() -> Iterator[Interrupt]:
    """A context that ends with what a handler of SIGINT raised inside, KeyboardInterrupt as a rule, even if swallowed.

    The handler stays whose it was: it is called as before, and only what it raises is kept. Contexts may stand within
    each other. In threads other than the main one, which signals never interrupt, and where SIGINT is ignored or not
    handled by Python, nothing is done and `raised` stays None.
    """
    seen = Interrupt()
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield seen
        return

    def handler(number: int, frame: FrameType | None) -> None:
        try:
            before(number, frame)
        except BaseException as problem:
            seen.raised = problem
            raise

    signal.signal(signal.SIGINT, handler)
    try:
        yield seen
    except Exception as problem:
        if seen.raised is not None and seen.raised is not problem:
            raise seen.raised from problem
        raise
    finally:
        if signal.getsignal(signal.SIGINT) is handler:
            signal.signal(signal.SIGINT, before)
    seen.check()


@contextlib.contextmanager
def put_off() -> Iterator[None]:
    """A context in which Ctrl-C waits for its end: for imports, which are broken for good where they are cut in two.

    In threads other than the main one, and where SIGINT is not handled by Python, nothing is done.
    """
    before, waiting = signal.getsignal(signal.SIGINT), []
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return
    signal.signal(signal.SIGINT, lambda *given: waiting.append(given))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if waiting:
        before(*waiting[0])
