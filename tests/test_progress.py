"""Who sees how far a run is: a bar on a terminal, a line under a notebook's cell, a callable; and nobody else."""

import io
import re
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pymc as pm
import pytest
from rich.console import Console

import emppl
from emppl import progress
from emppl.cli import app
from emppl.errors import InvalidArgumentError
from emppl.models import coins
from emppl.progress import watching
from emppl.sampling import samplers

HIDDEN, SHOWN = "\x1b[?25l", "\x1b[?25h"  # what makes a terminal's cursor go and come


@pytest.fixture(scope="module")
def plan() -> emppl.Plan:
    return emppl.plan(coins.build())


@pytest.fixture(scope="module")
def fit(plan):
    return emppl.fit(plan, starts=3, seed=0)


@pytest.fixture
def screen(monkeypatch):
    """What a terminal in place of standard error is sent."""
    sent = io.StringIO()
    monkeypatch.setattr(progress, "stderr_console", lambda: Console(file=sent, force_terminal=True, width=110))
    monkeypatch.setenv("TERM", "xterm")
    return sent


def words(screen) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.getvalue())


def left_whole(screen) -> bool:
    """The cursor is there, and the last thing that happened is that the bar's line was erased."""
    text = screen.getvalue()
    return text.rfind(SHOWN) > text.rfind(HIDDEN) >= 0 and text.endswith("\x1b[2K")


def test_a_terminal_sees_starts_and_the_best_value(screen, plan, capsys):
    fit = emppl.fit(plan, starts=4, seed=1)
    seen = words(screen)
    for text in ("EM: compiling", "EM: 0/4 starts", "EM: checking the certificate"):
        assert text in seen
    assert f"best {fit.log_posterior:.4f}"[:-2] in seen
    assert left_whole(screen) and capsys.readouterr() == ("", "")


def test_a_terminal_sees_compiling_draws_and_divergences(screen, fit, capfd):
    emppl.sample(fit, draws=150, tune=100, chains=2, seed=0, init="modes")
    seen = words(screen)
    assert seen.index("NUTS: compiling") < seen.index("500/500 draws of 2 chains") < seen.index("log-likelihoods of")
    assert "divergences" in seen and "looking for modes" in seen
    assert left_whole(screen) and capfd.readouterr() == ("", "")


def test_a_terminal_sees_what_is_compared(screen, fit):
    draws = emppl.sample(fit, draws=100, tune=100, chains=2, seed=0, progress=False)
    assert screen.getvalue() == ""
    emppl.compare(fit, draws, ascents=12)
    assert "comparing: labels" in words(screen) and "comparing: ascents 14/14" in words(screen)
    assert left_whole(screen)


def test_nothing_is_said_where_no_terminal_is(plan, capfd, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # which makes no terminal of a file
    fit = emppl.fit(plan, starts=2, seed=0)
    draws = emppl.sample(fit, draws=20, tune=20, chains=2, seed=0)
    emppl.compare(fit, draws, ascents=0)
    assert capfd.readouterr() == ("", "")


def test_a_file_gets_lines_if_it_is_asked_for(plan, capsys):
    emppl.fit(plan, starts=3, seed=0, progress=True)
    out, err = capsys.readouterr()
    assert out == "" and "\x1b" not in err
    assert "EM: compiling\nEM: 0/3 starts\nEM: 1/3 starts · best" in err


@pytest.mark.parametrize("problem", [KeyboardInterrupt, ZeroDivisionError])
def test_whatever_ends_a_run_the_terminal_is_left_whole(screen, problem):
    with pytest.raises(problem), watching(True) as watcher:
        watcher.say("EM: compiling")
        raise problem
    assert left_whole(screen)
    with watching(True) as watcher:  # and the next run has its bar
        assert watcher.listens


def test_what_others_print_to_standard_error_stays_readable(screen):
    with watching(True) as watcher:
        watcher.say("EM: compiling")
        print("a warning", file=sys.stderr)
    assert "\x1b[2Ka warning" in screen.getvalue()


def test_one_bar_at_a_time(screen):
    with watching(None), watching(None) as inner:
        assert not inner.listens
    ends = []

    def elsewhere() -> None:
        with watching(None) as other:
            ends.append(other.listens)

    with watching(None):
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
    elsewhere()
    assert ends == [False, True]


def test_starts_that_are_carried_on_are_counted_anew(screen):
    """Their short runs may have been on a sample of the rows, whose values are no values of all rows."""
    event = {"of": 6, "runs": 6, "kind": "random", "status": "CONVERGED", "n_passes": 1}
    with watching(True, ticking=False) as watcher:
        for start, best in ((1, -5.0), (2, -7.0)):
            watcher({**event, "start": start, "best": best})
        assert "EM: 2/6 starts · best -5.0000" in words(screen)
        watcher({**event, "start": 2, "best": -9.0, "runs": 4})
        assert "EM: 1/4 carried on · best -9.0000" in words(screen)


def test_time_that_is_left_is_told(screen):
    event = {"stage": "drawing", "of": 8000, "chains": 4, "tuning": 4, "divergences": 3}
    with watching(True, ticking=False) as watcher:
        watcher({**event, "done": 0})
        watcher({**event, "done": 2})
        watcher({**event, "done": 40})
    assert re.search(r"40/8,000 draws of 4 chains, tuning · 3 divergences.* left", words(screen))


def test_a_notebook_gets_a_line_that_is_gone_at_the_end(monkeypatch):
    shown = []
    handle = SimpleNamespace(update=lambda content, raw: shown.append(content["text/plain"]))

    def display(content, raw, display_id):
        shown.append(content["text/plain"])
        return handle

    monkeypatch.setattr(progress, "_notebook_display", lambda: display)
    monkeypatch.setattr(progress, "PAGE_SECONDS", 0.0)
    with watching(None) as watcher:
        watcher.say("EM: compiling")
        watcher.say("EM: 0/3 starts", 3)
    assert "EM: compiling" in shown[0] and "EM: 0/3 starts" in shown[-2] and shown[-1] == ""


def test_a_callable_hears_of_the_sampler(fit):
    events, threads = [], set()

    def told(event):
        events.append(event)
        threads.add(threading.current_thread())

    draws = emppl.sample(fit, draws=300, tune=200, chains=2, seed=0, progress=told)
    assert events[0] == {"stage": "compiling"}
    done = [event["done"] for event in events if event["stage"] == "drawing"]
    assert done == sorted(done) and done[-1] == events[-1]["of"] == 1000
    assert events[-1]["tuning"] == 0
    assert threads == {threading.current_thread()}
    unwatched = emppl.sample(fit, draws=300, tune=200, chains=2, seed=0)
    np.testing.assert_array_equal(draws["posterior"]["bias"], unwatched["posterior"]["bias"])


def test_what_a_callable_raises_ends_the_run(fit, monkeypatch):
    """It is no failure of nutpie, after which pm.sample would go on."""
    monkeypatch.setattr(samplers, "TOLD_SECONDS", 0.01)

    def told(event):
        if event["stage"] == "drawing":
            raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        emppl.sample(fit, draws=20_000, tune=100, chains=2, seed=0, progress=told)
    with pytest.raises(ZeroDivisionError):
        emppl.fit(fit.plan, starts=2, seed=0, progress=lambda event: 1 / 0)


def test_a_callable_can_stop_the_sampler(fit, monkeypatch):
    monkeypatch.setattr(samplers, "TOLD_SECONDS", 0.01)

    def told(event):
        if event["stage"] == "drawing" and not event["tuning"]:
            raise KeyboardInterrupt

    draws = emppl.sample(fit, draws=200_000, tune=100, chains=2, seed=0, cores=2, progress=told)
    assert draws.attrs["interrupted"] == "True" and draws["posterior"].sizes["draw"] < 200_000


def test_a_callable_hears_of_the_comparison(fit):
    events = []
    draws = emppl.sample(fit, draws=100, tune=100, chains=2, seed=0)
    emppl.compare(fit, draws, ascents=12, progress=events.append)
    assert [event["done"] for event in events if "done" in event] == list(range(1, 15))
    assert list(dict.fromkeys(event["what"] for event in events)) == ["labels", "table", "ascents", "verdicts"]


@pytest.mark.parametrize("run", [emppl.fit, emppl.sample])
def test_what_is_neither_wish_nor_callable_is_refused(run, plan):
    with pytest.raises(InvalidArgumentError, match="progress must be True"):
        run(plan, progress="bar")


def test_divergences_of_pm_sample_are_counted_as_it_counts_them():
    with pm.Model() as funnel:
        scale = pm.Normal("scale", 0.0, 3.0)
        x = pm.Normal("x", 0.0, pm.math.exp(scale / 2), shape=4)
        pm.Normal("y", x, 10.0, observed=np.zeros(4))
    events = []
    draws = emppl.sample(funnel, draws=100, tune=30, chains=2, seed=1, cores=1, sampler="pymc", progress=events.append)
    counted = int(draws["sample_stats"]["diverging"].sum())
    assert events[-1]["divergences"] == counted > 0
    assert events[-1]["done"] == events[-1]["of"] == 260 and events[-1]["tuning"] == 0


def test_the_command_goes_on_from_its_checkpoint(tmp_path, screen, monkeypatch):
    from typer.testing import CliRunner

    words_of = ["fit", "coins", "--starts", "3", "--checkpoint", str(tmp_path / "run.nc"), "--json"]
    first = CliRunner().invoke(app, words_of)
    assert (tmp_path / "run.nc").exists() and screen.getvalue() == ""
    monkeypatch.setattr("emppl.ascent.pool._one", lambda *_: pytest.fail("a start was made again"))
    again = CliRunner().invoke(app, [word for word in words_of if word != "--json"])
    assert again.exit_code == first.exit_code == 0
    assert "EM: 3/3 starts" in words(screen) and "EM:" not in again.stdout
    other = CliRunner().invoke(app, [*words_of, "--seed", "1"])
    assert other.exit_code == 2 and "seed" in other.stdout
    nowhere = CliRunner().invoke(app, ["fit", "coins", "--checkpoint", str(tmp_path / "run.nc" / "x")])
    assert nowhere.exit_code == 2 and "checkpoint" in nowhere.stderr and "defect" not in nowhere.output
