"""The report page: complete, self-contained, accessible, and never half written."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest
from comparison import fakes

from emppl.comparison import compare
from emppl.comparison.numbers import figure, fixed, number, short
from emppl.comparison.page import link_terms, render

SECTIONS = ["table", "marginals", "labels", "ascent", "members", "data", "plan", "reproduce", "terms"]


class Reader(HTMLParser):
    """Collects what the tests ask about, and checks that tags are closed."""

    VOID = frozenset({"meta", "img", "br", "hr", "link", "input"})

    def __init__(self, html):
        super().__init__()
        self.tags, self.open, self.ids, self.headings = [], [], [], []
        self.feed(html)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append((tag, attrs))
        self.ids += [attrs["id"]] if "id" in attrs else []
        self.headings += [int(tag[1])] if re.fullmatch("h[1-6]", tag) else []
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture(scope="module")
def comparison():
    fit, draws = fakes.case(2, n=40, gap=4.0, draws=150)
    perms = np.stack([np.tile(perm, (150, 1)) for perm in ([0, 1], [1, 0], [0, 1], [0, 1])])
    return compare(fit, fakes.switch(draws, perms, fit.plan))


@pytest.fixture(scope="module")
def html(comparison):
    return render(comparison, command="emppl compare fake --seed 1")


@pytest.fixture(scope="module")
def page(html):
    return Reader(html)


@pytest.fixture
def unpictured(monkeypatch):
    """Pictures take most of the time, and have tests of their own."""
    monkeypatch.setattr("emppl.plots.svg", lambda figure: "<svg></svg>")


def test_nothing_is_fetched(html, page):
    assert not re.search(r"https?:|//[a-z]|url\(|@import|<script|<link|<iframe", re.sub(r"base64,[^\"]*", "", html))
    for tag, attrs in page.tags:
        for name in ("src", "href", "srcset", "data", "action"):
            value = attrs.get(name)
            assert value is None or value.startswith(("#", "data:image/")), (tag, value[:60])
    assert len(html.encode()) < 5_000_000


def test_every_link_has_a_target_and_ids_are_unique(page):
    assert len(page.ids) == len(set(page.ids))
    assert {attrs["href"][1:] for attrs in page.all("a")} <= set(page.ids)


def test_sections_are_in_order_and_headings_nest(page):
    assert [name for name in page.ids if name in SECTIONS] == SECTIONS
    assert page.headings[0] == 1 and page.headings.count(1) == 1
    assert all(after - before <= 1 for before, after in zip(page.headings, page.headings[1:], strict=False))


def test_readable_without_sight_and_on_small_screens(html, page):
    assert page.all("html")[0]["lang"] == "en"
    assert all(len(attrs["alt"]) > 20 for attrs in page.all("img"))
    assert any(attrs.get("name") == "viewport" for attrs in page.all("meta"))
    assert html.count("<table>") == html.count("<table><thead>")
    scrolls = [attrs for attrs in page.all("div") if attrs.get("class") == "scroll"]
    assert len(scrolls) >= html.count("<table>")  # every table scrolls inside its own box
    assert all(attrs["tabindex"] == "0" and attrs["aria-label"] for attrs in scrolls)
    assert all(attrs.get("scope") in ("col", "row") for attrs in page.all("th"))
    assert "prefers-color-scheme: dark" in html and "@media print" in html


def test_verdicts_and_numbers_are_those_of_the_comparison(comparison, html):
    text = re.sub(r"<[^>]+>", "", html)
    for verdict in comparison.verdicts:
        assert verdict.text.replace("'", "&#39;") in text
    for name, row in comparison.table.iterrows():
        line = re.search(rf'<th scope="row">{re.escape(name)}.*?</tr>', html).group()
        assert number(row["mean"]) in line and number(row["estimate"]) in line and row["flag"] in line
    assert "emppl compare fake --seed 1" in text
    assert comparison.headline.split(";")[0] in text
    assert "nan" not in text.lower().replace("dominance", "").split()


def test_no_labels_section_without_symmetry(unpictured):
    fit, draws = fakes.case(2, n=40, draws=100, exchangeable=(), centre=None)
    assert 'id="labels"' in render(compare(fit, draws))  # the likelihood is symmetric: it is told
    axes = property(lambda self: ())
    plan = type("NoAxes", (fakes.MixturePlan,), {"axes": axes})(fit.plan.y, 2)
    bare = Reader(render(compare(fakes.replace(fit, plan=plan), draws)))
    assert "labels" not in bare.ids
    assert not any(attrs.get("href") == "#labels" for attrs in bare.all("a"))


def test_names_from_the_model_are_escaped(comparison, unpictured):
    structure = comparison.fit.plan.structure
    structure.name = "<script>alert(1)</script>"
    plan = type("Named", (fakes.MixturePlan,), {"structure": property(lambda self: structure)})(
        comparison.fit.plan.y, 2
    )
    html = render(compare(fakes.replace(comparison.fit, plan=plan), comparison.draws))
    assert "<script" not in html
    assert "&lt;script&gt;" in html


def test_title_is_the_callers_or_the_models(comparison, html, unpictured):
    assert "<title>fake_mixture: EM beside NUTS</title>" in html
    assert "<h1>geysers: EM beside NUTS</h1>" in render(comparison, title="geysers")


def test_source_of_the_model_is_shown_where_there_is_one(comparison, unpictured):
    structure = comparison.fit.plan.structure
    structure.source = "with pm.Model():\n    x < y"
    plan = type("Sourced", (fakes.MixturePlan,), {"structure": property(lambda self: structure)})
    fit = fakes.replace(comparison.fit, plan=plan(comparison.fit.plan.y, 2))
    assert "x &lt; y" in render(compare(fit, comparison.draws))
    assert "Source of the model" not in render(comparison)


def test_long_tables_are_folded_and_counted(monkeypatch, comparison, unpictured):
    monkeypatch.setattr("emppl.comparison.page.ROWS_SHOWN", 4)
    monkeypatch.setattr("emppl.comparison.page.ROWS_FOLDED", 3)
    html = render(comparison)
    assert "3 more rows" in html
    assert "2 further rows are left out" in html


def test_file_appears_whole_or_not_at_all(comparison, tmp_path, monkeypatch, unpictured):
    path = comparison.to_html(tmp_path / "deep" / "report.html")
    assert path.read_text(encoding="utf-8").rstrip().endswith("</html>")
    assert [entry.name for entry in path.parent.iterdir()] == ["report.html"]
    before = path.read_bytes()
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk")))
    with pytest.raises(OSError, match="disk"):
        comparison.to_html(path)
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == ["report.html"]


def test_same_comparison_same_page(comparison, html):
    assert render(comparison, command="emppl compare fake --seed 1") == html


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.000"),
        (1.23456, "1.235"),
        (-0.5, "−0.500"),
        (1234.56, "1\u202f234.6"),
        (1e-7, "1.0·10⁻⁷"),
        (-3.2e12, "−3.2·10¹²"),
        (np.nan, "–"),
    ],
)
def test_numbers_are_written_for_people(value, text):
    assert number(value) == text


def test_other_numbers():
    assert [fixed(-0.001), fixed(-1.5), fixed(np.nan)] == ["0.00", "−1.50", "–"]
    assert [short(400.0), short(0.001), short(1.05), short(np.nan)] == ["400", "0.001", "1.05", "–"]
    assert number(812.4, 0) == "812"
    assert [figure(10.0), figure(2.5), figure(0.0), figure(np.nan), figure(1e-13)] == [
        "10",
        "2.500",
        "0",
        "–",
        "1.0·10⁻¹³",
    ]


def test_terms_are_linked_once_and_text_is_escaped():
    html = link_terms("R-hat <b> and R-hat; NUTS's modes")
    assert html.count("#term-r-hat") == 1
    assert html.count("#term-nuts") == 1
    assert "#term-mode" not in html  # "modes" is another word
    assert "#term-sd" not in link_terms("sd[0] is skewed")  # a parameter's name
    assert "#term-sd" in link_terms("2 posterior sd (units)")
    assert "&lt;b&gt;" in html


def test_digits_show_the_sd_of_a_number_far_from_zero():
    assert number(100_000_008.6512, spread=0.448) == "100\u202f000\u202f008.65"
    assert number(-25_000.123, spread=3.0) == "−25\u202f000.1"
    assert number(812.4, spread=0.1) == number(812.4) and number(1e8, spread=1e7) == number(1e8)
    assert number(1e8, spread=0.0) == number(1e8)  # a constant has no sd to show
