"""Who is told how far a run has come: a callable of the user's, somebody before a bar on standard error, or nobody."""

from __future__ import annotations

import io
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from importlib import import_module
from multiprocessing import parent_process
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn, TimeElapsedColumn
from rich.text import Text

from emppl.errors import InvalidArgumentError
from emppl.streams import Tolerant, with_a_width

Event = dict[str, Any]
Wish = bool | Callable[[Event], None] | None  # what the argument `progress` may be
BAR_WIDTH = 24  # columns
PAGE_WIDTH = 100  # columns of the line in a notebook
PAGE_SECONDS = 0.3  # between two changes of it, and before the first
LINE_SECONDS = 10.0  # between two lines about one stage, where standard error is a file
_SHOWN = threading.Lock()  # one bar at a time: two of them would each erase the other


class Watcher:
    """Is told of every event, in the thread of the run; this one listens to nothing.

    listens: whether anybody does. raised: what the user's callable raised, which no run takes for a failure of its own.
    """

    listens = False
    raised: BaseException | None = None

    def __call__(self, event: Event) -> None:
        """An event: a start of EM, or {"stage": …} with what there is to say of it."""

    def say(self, text: str, total: int | None = None) -> None:
        """What goes on until the next event; total: how many steps it has. Callables are not told."""


@contextmanager
def watching(progress: Wish, *, ticking: bool = True) -> Iterator[Watcher]:
    """Whoever is to be told of a run.

    progress: a callable; True and False: a bar, and none; None: a bar on a terminal and in a notebook. ticking: whether
    a thread may keep clock and spinner going between events, which is not wise where processes are forked.
    Raises InvalidArgumentError for anything else. The bar is gone at the end, however that comes.
    """
    if progress is not None and not isinstance(progress, bool) and not callable(progress):
        raise InvalidArgumentError(
            f"progress must be True, False, None or a callable, not {progress!r}", "progress", ("progress=True: a bar",)
        )
    if callable(progress):
        yield _Told(progress)
        return
    bar = _bar(progress, ticking) if _wanted(progress) else None
    if bar is None or not _SHOWN.acquire(blocking=False):
        yield Watcher()
        return
    try:
        bar.begin()
        yield bar
    finally:
        try:
            bar.end()
        finally:
            _SHOWN.release()


def _wanted(progress: bool | None) -> bool:
    """Not in a worker process, unless asked: several of them would share one terminal."""
    return progress is True or (progress is None and parent_process() is None)


def _bar(progress: bool | None, ticking: bool) -> _Bar | None:
    """What shows a bar here; None where nobody could see it."""
    display = _notebook_display()
    if display is not None:
        return _Page(display)
    console = stderr_console()
    if console is not None and console.is_terminal and not console.is_dumb_terminal:
        return _Terminal(console, ticking)
    return _Lines(console) if console is not None and progress else None


def stderr_console() -> Console | None:
    """A console on standard error, a terminal where that is one, whatever the environment says; None if closed.

    A bar that cannot be written ends no run: the console's stream takes everything.
    """
    stream = sys.stderr
    if stream is None or stream.closed:
        return None
    file: Any = Tolerant(stream)
    console = Console(
        file=file, force_terminal=stream.isatty(), force_jupyter=False, markup=False, emoji=False, highlight=False
    )
    return with_a_width(console)


def _notebook_display() -> Callable[..., Any] | None:
    """What shows something under the cell that runs; None outside of notebooks."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if getattr(shell, "kernel", None) is None:
        return None
    return import_module("IPython.display").display


class _Told(Watcher):
    """The user's callable."""

    listens = True

    def __init__(self, callback: Callable[[Event], None]) -> None:
        self._callback = callback

    def __call__(self, event: Event) -> None:
        try:
            self._callback(event)
        except BaseException as problem:
            self.raised = problem
            raise


class _Bar(Watcher):
    """A line of text, a bar, and the time that has passed and is left; one stage of the run after the other."""

    listens = True

    def __init__(self, console: Console, **options: Any) -> None:
        columns = (
            SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(BAR_WIDTH),
            TimeElapsedColumn(), _Left(),
        )  # fmt: skip
        self.progress = Progress(*columns, console=console, transient=True, redirect_stdout=False, **options)
        self._task, self._stage = self.progress.add_task("", total=None), ""
        self._seen: set[int] = set()
        self._carried_on, self._best = False, -float("inf")

    def begin(self) -> None:
        """Before the first event."""

    def end(self) -> None:
        """After the last one."""

    def changed(self, now: bool) -> None:
        """There is something else to show; now: a stage begins or is complete."""

    def say(self, text: str, total: int | None = None) -> None:
        self._show(text, text, 0, total)

    def __call__(self, event: Event) -> None:
        stage = event.get("stage", "starts")
        if stage == "starts":
            self._start(event)
        elif stage == "drawing":
            done, total, chains = event["done"], event["of"], event["chains"]
            tuning = ", tuning" if event["tuning"] else ""
            text = f"NUTS: {done:,}/{total:,} draws of {chains} chains{tuning} · {event['divergences']:,} divergences"
            self._show(stage, text, done, total)
        elif "of" in event:
            text = f"{stage}: {event['what']} {event['done']:,}/{event['of']:,}"
            self._show(f"{stage}: {event['what']}", text, event["done"], event["of"])
        else:
            self.say(f"{stage}: {event['what']}" if "what" in event else f"NUTS: {stage}")

    def _start(self, event: Event) -> None:
        if event["start"] in self._seen:  # short runs are over: the best of them go to the end
            self._seen.clear()
            self._carried_on, self._best = True, -float("inf")
        self._seen.add(event["start"])
        self._best = max(self._best, event["best"])
        done, total = len(self._seen), event["runs"] if self._carried_on else event["of"]
        what = "carried on" if self._carried_on else "starts"
        self._show(what, f"EM: {done}/{total} {what} · best {self._best:.4f}", done, total)

    def _show(self, stage: str, text: str, done: int, total: int | None) -> None:
        new, self._stage = stage != self._stage, stage
        if new:
            with suppress(KeyError):  # Ctrl-C may have come between these two lines
                self.progress.remove_task(self._task)
            self._task = self.progress.add_task(text, total=total, completed=done)
        else:
            self.progress.update(self._task, description=text, completed=done, total=total)
        self.changed(new or done == total)


class _Terminal(_Bar):
    """At the bottom of a terminal; what others print to standard error meanwhile goes above it."""

    def __init__(self, console: Console, ticking: bool) -> None:
        super().__init__(console, auto_refresh=ticking)
        self._ticking = ticking

    def begin(self) -> None:
        self.progress.start()

    def end(self) -> None:
        self.progress.stop()

    def changed(self, now: bool) -> None:
        if now or not self._ticking:
            self.progress.refresh()


class _Page(_Bar):
    """Under the cell of a notebook; runs that are over at once show nothing."""

    def __init__(self, display: Callable[..., Any]) -> None:
        self._display, self._handle, self._next = display, None, time.monotonic() + PAGE_SECONDS
        super().__init__(Console(file=io.StringIO(), force_terminal=False, force_jupyter=False, width=PAGE_WIDTH))

    def changed(self, now: bool) -> None:
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + PAGE_SECONDS
        with self.progress.console.capture() as shown:
            self.progress.console.print(self.progress.get_renderable())
        self._put(shown.get().rstrip())

    def end(self) -> None:
        if self._handle is not None:
            self._put("")

    def _put(self, text: str) -> None:
        content = {"text/plain": text}
        if self._handle is None:
            self._handle = self._display(content, raw=True, display_id=True)
        else:
            self._handle.update(content, raw=True)


class _Lines(_Bar):
    """Into a file, where somebody asked for it: a line a stage, and one from time to time."""

    def __init__(self, console: Console) -> None:
        self._next = 0.0
        super().__init__(console)

    def changed(self, now: bool) -> None:
        if now or time.monotonic() >= self._next:
            self._next = time.monotonic() + LINE_SECONDS
            print(self.progress.tasks[0].description, file=self.progress.console.file, flush=True)


class _Left(ProgressColumn):
    """The time that is left, once it can be told."""

    def render(self, task: Task) -> Text:
        if task.finished or task.total is None or task.time_remaining is None:
            return Text("")
        return Text(f"{timedelta(seconds=int(task.time_remaining))} left")
