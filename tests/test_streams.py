"""Streams that cannot be written to, and consoles without room."""

import io
import os

import pytest
from rich.console import Console

import emppl
from emppl.models import coins
from emppl.streams import LEAST_WIDTH, Tolerant, with_a_width


def full():
    return open("/dev/full", "w")


def unread():
    """A pipe whose other end is closed."""
    reading, writing = os.pipe()
    os.close(reading)
    return os.fdopen(writing, "w")


def closed():
    stream = io.StringIO()
    stream.close()
    return stream


@pytest.fixture(params=[full, unread])
def broken(request):
    stream = request.param()
    yield stream
    with open(os.devnull, "w") as nowhere:  # what it holds goes there when it is closed
        os.dup2(nowhere.fileno(), stream.fileno())
    stream.close()


def test_a_broken_stream_takes_everything(broken):
    stream = Tolerant(broken)
    assert stream.write("one\n") == 4
    stream.flush()
    assert stream.failed and stream.write("two") == 3
    stream = Tolerant(closed())
    stream.write("one")
    assert stream.failed


def test_characters_that_an_encoding_lacks_are_question_marks():
    held = io.BytesIO()
    stream = Tolerant(io.TextIOWrapper(held, encoding="ascii"))
    stream.write("best · 3\n")
    stream.flush()
    assert held.getvalue() == b"best ? 3\n" and not stream.failed


def test_a_bar_that_cannot_be_written_ends_no_fit(broken, monkeypatch):
    monkeypatch.setattr("sys.stderr", broken)
    fit = emppl.fit(coins.build(), starts=3, seed=0, progress=True)
    monkeypatch.undo()
    assert fit.status is emppl.Status.CONVERGED


def test_a_bar_is_written_in_ascii_where_there_is_nothing_else(monkeypatch):
    held = io.BytesIO()
    monkeypatch.setattr("sys.stderr", io.TextIOWrapper(held, encoding="ascii", write_through=True))
    emppl.fit(coins.build(), starts=3, seed=0, progress=True)
    monkeypatch.undo()
    assert b"1/3 starts ? best" in held.getvalue()


@pytest.mark.parametrize("columns", [0, 1, LEAST_WIDTH, 200])
def test_consoles_have_room_for_text(columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    width = with_a_width(Console(file=io.StringIO()), 120).width
    assert width == (120 if columns < LEAST_WIDTH else columns)
