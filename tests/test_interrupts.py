"""Ctrl-C that is not lost where code in between swallows what it raises."""

import contextlib
import signal
import threading

import pytest

from emppl import interrupts


def press() -> None:
    signal.raise_signal(signal.SIGINT)


@pytest.fixture(autouse=True)
def the_handler_stays():
    before = signal.getsignal(signal.SIGINT)
    yield
    assert signal.getsignal(signal.SIGINT) is before


class Finaliser:
    def __del__(self):
        press()


def in_a_finaliser():
    Finaliser()  # what is raised there is printed, and forgotten


def by_a_bare_except():
    with contextlib.suppress(BaseException):
        press()


def as_another_error():
    try:
        press()
    except BaseException as problem:
        raise ValueError("compilation failed") from problem


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    "swallow", [press, in_a_finaliser, by_a_bare_except, as_another_error], ids=lambda f: f.__name__
)
def test_an_interrupt_comes_out(swallow):
    with pytest.raises(KeyboardInterrupt), interrupts.noticed():
        swallow()


def test_other_errors_come_out_as_they_are():
    with pytest.raises(ValueError, match="no interrupt"), interrupts.noticed():
        raise ValueError("no interrupt")


def test_work_can_look_and_can_deal_with_it():
    with interrupts.noticed() as interrupt:
        interrupt.check()
        by_a_bare_except()
        with pytest.raises(KeyboardInterrupt):
            interrupt.check()
        interrupt.raised = None


def test_contexts_within_each_other_both_notice():
    with pytest.raises(KeyboardInterrupt), interrupts.noticed() as outer:
        with contextlib.suppress(KeyboardInterrupt), interrupts.noticed():
            by_a_bare_except()
        assert isinstance(outer.raised, KeyboardInterrupt)


@pytest.mark.parametrize("handler", [lambda *_: None, signal.SIG_IGN], ids=["of its own", "ignored"])
def test_a_handler_that_raises_nothing_is_obeyed(handler):
    before = signal.signal(signal.SIGINT, handler)
    try:
        with interrupts.noticed() as interrupt:
            press()
        assert interrupt.raised is None and signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_what_a_handler_of_the_user_raises_comes_out():
    class Stop(Exception):
        pass

    def handler(*_):
        raise Stop

    before = signal.signal(signal.SIGINT, handler)
    try:
        with pytest.raises(Stop), interrupts.noticed():
            as_another_error()
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_handler_set_inside_is_left():
    def later(*_):
        pass

    before = signal.getsignal(signal.SIGINT)
    try:
        with interrupts.noticed():
            signal.signal(signal.SIGINT, later)
        assert signal.getsignal(signal.SIGINT) is later
    finally:
        signal.signal(signal.SIGINT, before)


def test_in_other_threads_it_does_nothing():
    found = []

    def work():
        with interrupts.noticed() as interrupt:
            found.append(interrupt.raised)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [None]


def test_an_interrupt_waits_for_what_must_not_be_cut_in_two():
    done = []
    with pytest.raises(KeyboardInterrupt), interrupts.put_off():
        signal.raise_signal(signal.SIGINT)
        done.append("all of it")
    assert done
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)  # the handler is whose it was
