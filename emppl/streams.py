"""Streams and consoles that end no run: what cannot be shown is left out, and the work goes on."""

from __future__ import annotations

from typing import Any, TextIO

from rich.console import Console

LEAST_WIDTH = 20  # columns; an environment that says less (COLUMNS=0) says nothing
PLAIN_WIDTH = 80  # columns where nothing else is known


class Tolerant:
    """A text stream whose `write` and `flush` never fail. Everything else is the stream's own.

    Characters that its encoding lacks become "?"; after an error of the system (a full disk, a pipe that nobody reads)
    the rest goes nowhere, and `failed` is true.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream, self.failed = stream, False

    def write(self, text: str) -> int:
        if not self.failed:
            try:
                self._stream.write(text)
            except UnicodeError:
                encoding = getattr(self._stream, "encoding", None) or "ascii"
                self.write(text.encode(encoding, "replace").decode(encoding))
            except (OSError, ValueError):  # ValueError: it was closed
                self.failed = True
        return len(text)

    def flush(self) -> None:
        if not self.failed:
            try:
                self._stream.flush()
            except (OSError, ValueError):
                self.failed = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def with_a_width(console: Console, otherwise: int = PLAIN_WIDTH) -> Console:
    """The console, `otherwise` columns wide where the environment or the terminal leaves no room for text."""
    if console.width < LEAST_WIDTH:
        console.width = otherwise
    return console
