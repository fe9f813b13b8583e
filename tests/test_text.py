"""Text of unknown origin: shown as it stands, obeyed by nothing."""

import io
import re
import warnings
from xml.etree import ElementTree

import numpy as np
import pymc as pm
import pytest
import xarray as xr
from hypothesis import given
from hypothesis.strategies import sampled_from, text
from rich.markdown import Markdown
from rich.table import Table
from rich.text import Text

import emppl
from emppl.console import make_console, show_error, show_fit, show_plan
from emppl.errors import InvalidArgumentError
from emppl.text import fenced, markdown, visible

MARKUP = "a_b*`[](){}<>|~\\$&;#!:-+. 1\n\r\tü"
CONTROLS = "\x00\x07\x08\x1b\x7f\x85\x9b\u2028\u202e\u2066\u200f\ud800"
NASTY = ("a|b", "*c*_d_", "<b>e</b>", "\x1b[31mf\x07\x00", "\u202eg", "[h](http://i)", "`j`", "$k^$", "[red]l[/red]")


def shown(source: str) -> str:
    """What markdown shows of one paragraph, which has to be plain text."""
    (opening, inline, closing) = Markdown(source).parsed
    assert (opening.type, closing.type) == ("paragraph_open", "paragraph_close")
    assert {token.type for token in inline.children} <= {"text"}, source
    return inline.content and "".join(token.content for token in inline.children)


@given(text(sampled_from(MARKUP), min_size=1, max_size=12))
def test_markdown_shows_what_stands_there(words):
    line = re.sub(r"\s*[\r\n]\s*", " ", words)
    assert shown(f"x{markdown(words)}x") == f"x{line}x"


@given(text(sampled_from(MARKUP), min_size=1, max_size=12))
def test_a_cell_of_a_table_stays_one(words):
    tokens = Markdown(f"| a | b |\n|--|--|\n| x{markdown(words)}x | y |").parsed
    cells = [t for t, before in zip(tokens[1:], tokens) if before.type == "td_open"]
    line = re.sub(r"\s*[\r\n]\s*", " ", words)
    assert ["".join(token.content for token in cell.children) for cell in cells] == [f"x{line}x", "y"]


def test_a_fence_is_longer_than_any_inside():
    (block,) = Markdown(fenced("a\n````\nb\x1b", "python")).parsed
    assert (block.type, block.info, block.content) == ("fence", "python", "a\n````\nb\\x1b\n")


@given(text(sampled_from(MARKUP + CONTROLS)))
def test_what_is_seen_is_all_there_is(words):
    seen = visible(words)
    assert not set(seen) & set(CONTROLS) and visible(seen) == seen
    if not set(words) & set(CONTROLS + "\r"):
        assert seen == words


@pytest.mark.parametrize("terminal", [False, True])
def test_a_console_sends_no_control_character_but_its_own(terminal, monkeypatch):
    page = io.StringIO()
    if terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("TERM", "xterm-256color")
    console = make_console(page)
    console.print("plain \x1b[2J[red]x[/red]")
    console.print(Text("text \x00\u202e", style="bold"))
    table = Table("head \x1b]0;t\x07")
    table.add_row(Text("cell \x9b31m"))
    console.print(table)
    show_error(console, InvalidArgumentError("what \x1b[31m\nof it", "where \x00", ("way \x08",)))
    assert not set(page.getvalue()) & set(CONTROLS) - {"\x1b"}
    own = re.sub(r"\x1b\[[0-9;]*m", "", page.getvalue())
    assert "\x1b" not in own and ("\x1b" in page.getvalue()) == terminal
    for words in (r"plain \x1b[2J[red]x[/red]", r"text \x00\u202e", r"cell \x9b31m", r"what \x1b[31m", r"way \x08"):
        assert words in own


def test_an_error_is_fit_to_print():
    error = InvalidArgumentError("a\x1b[2J", "b\x00", ("c\u202e",))
    assert str(error) == "a\\x1b[2J\n  where: b\\x00\n  ways out:\n  - c\\u202e" and error.what == "a\x1b[2J"


@pytest.fixture(scope="module")
def nasty():
    """A comparison whose model has names and labels of every kind."""
    y = np.r_[np.arange(4.0), np.arange(5.0) + 30.0]
    with pm.Model(coords={"co|mp": NASTY[:2], "row": NASTY}) as model:
        mu = pm.Normal("m*u*_x_", np.float64(10.0), np.float64(20.0), dims="co|mp")
        z = pm.Categorical("<z>", p=np.array([0.5, 0.5]), dims="row")
        pm.Normal("y\x1b[31m", mu[z], np.float64(2.0), observed=y, dims="row")
    fit = emppl.fit(emppl.plan(model, name="na`me\x1b|$x$"), starts=2, seed=0)
    rng = np.random.default_rng(0)
    draws = {name: values + 0.3 * rng.normal(size=(2, 60, *values.shape)) for name, values in fit.point.items()}
    tree = xr.DataTree.from_dict(
        {"posterior": xr.Dataset({k: (("chain", "draw", "co|mp"), v) for k, v in draws.items()})}
    )
    return emppl.compare(fit, tree)


def test_every_rendering_shows_names_as_they_stand(nasty, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        page = nasty.to_html(tmp_path / "a.html").read_text()
        source = nasty.to_markdown(tmp_path / "a.md", pictures=True).read_text()
    assert not set(page + source) & set(CONTROLS)
    assert "<z>" not in page and "&lt;z&gt;" in page
    tokens = Markdown(source).parsed
    assert not [t for t in tokens if t.type == "html_block"]
    inline = [child for token in tokens for child in token.children or ()]
    assert {c.type for c in inline} <= {
        "text",
        "strong_open",
        "strong_close",
        "em_open",
        "em_close",
        "softbreak",
        "image",
    }
    cells = {token.content for token in tokens if token.type == "inline"}
    rows = {"".join(child.content for child in token.children or ()) for token in tokens if token.type == "inline"}
    assert "m*u*_x_[a|b]" in rows and "m*u*_x_[a|b]" not in cells
    pictures = list((tmp_path / "a-pictures").glob("*.svg"))
    for picture in pictures:
        ElementTree.parse(picture)
        assert not set(picture.read_text()) & set(CONTROLS)
    assert len(pictures) >= 3


def test_the_terminal_and_print_show_names_as_they_stand(nasty):
    page = io.StringIO()
    show_plan(make_console(page), nasty.fit.plan)
    show_fit(make_console(page), nasty.fit, "emppl fit")
    printed = [page.getvalue(), *map(str, (nasty, nasty.fit, nasty.fit.plan, nasty.switching))]
    printed.append(nasty.fit.plan._repr_html_())
    for words in printed:
        assert not set(words) & set(CONTROLS)
    assert "[red]l[/red]" in printed[0] and r"\x1b[31mf" in printed[0], printed[0]
