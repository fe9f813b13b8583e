"""Page, markdown and JSON are renderings of one content: the same tables, the same numbers."""

import html as entities
import json
import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from comparison import fakes

from emppl.comparison import compare
from emppl.comparison.numbers import figure, fixed, height, number, percent
from emppl.comparison.page import render
from emppl.comparison.renderings import render_json, render_markdown
from emppl.labels import LabelState
from emppl.plain import plain

LAPLACE = ("mean", "sd", "low", "high", "distance", "ks", "coverage", "unconstrained_mode", "shift")
COMMAND = "emppl compare fake --seed 1"


@pytest.fixture(scope="module")
def comparison():
    fit, draws = fakes.case(2, n=60, gap=2.0, draws=150, seed=1)  # near enough for members to change
    perms = np.stack([np.tile(perm, (150, 1)) for perm in ([0, 1], [1, 0], [0, 1], [0, 1])])
    fit = fakes.replace(fit, starts=fit.starts.assign(status=["CONVERGED", "CONVERGED", "MAX_ITER", "CONVERGED"]))
    found = compare(fit, fakes.switch(draws, perms, fit.plan))
    assert not found.mixing.holds  # so that there are weights of chains; that there be members too, it is taken back
    switching = fakes.replace(found.switching, state=LabelState.BETWEEN_CHAINS)
    return fakes.replace(found, mixing=fakes.replace(found.mixing, reasons=()), switching=switching)


@pytest.fixture(scope="module")
def page(comparison):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("emppl.plots.svg", lambda figure: "<svg></svg>")  # pictures have tests of their own
        return render(comparison, "faked", COMMAND)


@pytest.fixture(scope="module")
def text(comparison):
    return render_markdown(comparison, "faked", COMMAND)


@pytest.fixture(scope="module")
def document(comparison):
    return json.loads(render_json(comparison, "faked", COMMAND))


def clean(cell):
    bare = entities.unescape(re.sub(r"<[^>]+>", "", cell))
    return " ".join(re.sub(r" \(?derived\)?$", "", bare.strip()).replace("\\|", "|").split())


def tables_of_page(text):
    for found in re.findall(r"<table>(.*?)</table>", text, re.S):
        rows = re.findall(r"<tr.*?>(.*?)</tr>", found, re.S)
        yield [[clean(cell) for cell in re.findall(r"<t[hd].*?>(.*?)</t[hd]>", row, re.S)] for row in rows]


def tables_of_markdown(text):
    for block in re.findall(r"(?:^\|.*\n)+", text, re.M):
        rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in block.splitlines()]
        yield [[clean(cell) for cell in row] for i, row in enumerate(rows) if i != 1]


def test_page_and_markdown_hold_the_same_tables(page, text):
    of_page, of_markdown = list(tables_of_page(page)), list(tables_of_markdown(text))
    assert len(of_page) == len(of_markdown) == 8  # numbers, details, R-hat, ends, members, weights, blocks, certificate
    for one, two in zip(of_page, of_markdown, strict=True):
        assert one == two


def test_json_holds_the_numbers_that_the_tables_round(document, text):
    numbers, details, r_hat, ends, members, weights, _, certificate = list(tables_of_markdown(text))

    def column(rows, i):
        return [row[i] for row in rows[1:]]

    def written(records, key, form):
        return [form(np.nan if record[key] is None else record[key]) for record in records]

    rows = document["table"]
    keys = ("estimate", "standard_error", "low", "high", "mean", "sd", "hdi_low", "hdi_high", "r_hat")
    for i, key in enumerate(keys, start=1):
        assert column(numbers, i) == written(rows, key, number)
    assert column(numbers, 10) == written(rows, "ess_bulk", lambda value: number(value, 0))
    assert column(numbers, 11) == written(rows, "difference", fixed)
    assert column(numbers, 12) == [row["flag"] for row in rows]
    assert column(details, 1) == written(rows, "quantile", number)
    assert column(details, 3) == written(rows, "coverage", percent)
    assert column(r_hat, 1) == written(document["labels"]["r_hat"], "r_hat_before", number)
    assert column(ends, 1) == written(document["ascent"]["ends"], "height", height)
    assert column(members, 2) == written(document["members"][0]["changed"], "em_probability", number)
    assert column(weights, 3) == written(document["prediction"]["groups"], "weight", number)
    assert column(certificate, 2) == written(document["certificate"]["points"], "value", figure)


def test_what_not_every_comparison_has_is_told_alike(comparison):
    """The atlas, the normal approximation, the priors and further fits, made up here."""
    names = comparison.table.index
    numbers = pd.DataFrame({key: np.arange(len(names)) + i / 7 for i, key in enumerate(LAPLACE)}, index=names)
    mode = SimpleNamespace(
        log_posterior=-10.0, log_likelihood=-8.0, share=0.75, starts=0.5, labellings=2, draws=np.array([1.0, 0.5]),
        coincident=(("A", "B"),), empty=("B",), border=("sigma",), definite=False, log_evidence=-20.0,
    )  # fmt: skip
    lower = SimpleNamespace(**vars(mode) | {"log_posterior": -11.5, "share": 0.25})
    full = fakes.replace(
        comparison,
        laplace=numbers,
        priors=pd.DataFrame({"share": 0.125}, index=names[:3]),
        estimates=pd.DataFrame({"EM": 1.0, "hard|er": 2.5, "mean": 3.0, "sd": 4.0}, index=names),
        atlas=SimpleNamespace(modes=(mode, lower), known=(1,), reached=np.zeros(40), n_starts=4, starts_lost=0),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("emppl.plots.svg", lambda figure: "<svg></svg>")
        page = render(full)
    text, document = render_markdown(full), json.loads(render_json(full))
    of_page, of_markdown = list(tables_of_page(page)), list(tables_of_markdown(text))
    assert len(of_page) == len(of_markdown) == 11
    for one, two in zip(of_page, of_markdown, strict=True):
        assert one == two
    fits, normal, atlas = of_markdown[1], of_markdown[2], of_markdown[6]
    assert fits[0] == ["parameter", "EM", "hard|er", "mean", "sd"] and fits[1][1:] == [
        "1.000",
        "2.500",
        "3.000",
        "4.000",
    ]
    assert [row[3] for row in normal[1:]] == [fixed(row["distance"]) for row in document["laplace"]]
    assert [row[-1] for row in normal[1:5]] == ["12.5%"] * 3 + ["–"]
    assert atlas[1][:6] == ["1", "−10.0000", "0.000", "75.0%", "50.0%", "2"] and atlas[2][0] == "2 (reported)"
    assert atlas[1][6] == "A and B hold the same members; empty: B; on the border: sigma; flat in some direction"
    assert document["modes"][1]["below"] == 1.5 and document["modes"][1]["reported"] is True
    assert "from 40 draws of NUTS" in text and "from 40 draws of" in page


def test_json_holds_the_comparison_unrounded(comparison, document):
    rows = pd.DataFrame(document["table"]).set_index("parameter")
    for name in comparison.table.columns.drop("flag"):
        np.testing.assert_array_equal(rows[name].to_numpy(float), comparison.table[name].to_numpy(float))
    for name in ("quantile", "skewness", "coverage", "mcse"):
        np.testing.assert_array_equal(rows[name].to_numpy(float), comparison.details[name].to_numpy(float))
    assert document["headline"] == comparison.headline and document["reliable"] == comparison.reliable
    assert [entry["text"] for entry in document["verdicts"]] == [verdict.text for verdict in comparison.verdicts]
    assert document["ascent"]["log_posterior"] == comparison.fit.log_posterior
    ends = document["ascent"]["ends"]
    assert [end["below"] for end in ends] == [ends[0]["height"] - end["height"] for end in ends]
    assert document["labels"]["switches"] == comparison.switching.switches.tolist()
    assert document["timing"]["em_seconds"] == comparison.fit.seconds


def test_verdicts_steps_and_commands_are_in_all_three(document, page, text):
    bare = clean(page)
    for words in (
        *(entry["text"] for entry in document["verdicts"]),
        *(entry["advice"] for entry in document["verdicts"]),
        *document["plan"]["steps"],
        document["headline"],
        document["cost"],
        document["members"][0]["summary"],
        document["reproduce"]["command"],
        document["reproduce"]["code"].splitlines()[2],
    ):
        assert words in bare
        assert words in text
    assert "1 × max iter" in bare and "1 × max iter" in text
    assert document["ascent"]["unfinished"] == [{"status": "MAX_ITER", "reason": "", "starts": 1}]


def test_code_repeats_what_was_done(comparison):
    draws = comparison.draws.copy()
    draws.attrs |= {"seed": "7", "tune": 300}
    plan = fakes.MixturePlan(comparison.fit.plan.y, 2, estimate="ml", method="hard")
    fit = fakes.replace(comparison.fit, plan=plan)
    changed = fakes.replace(comparison, fit=fit, draws=draws)
    code = json.loads(render_json(changed))["reproduce"]["code"]
    assert "emppl.fit(model, starts=4, seed=1, estimate='ml', method='hard')" in code
    assert "emppl.sample(model, fit=fit, draws=150, chains=4, seed=7, tune=300)" in code
    assert 'emppl.compare(fit, draws).to_html("report.html")' in code
    several = fakes.replace(changed, fits={"EM": fit, "k-means": fit})
    code = json.loads(render_json(several))["reproduce"]["code"]
    assert "fit_2 = emppl.fit(model, starts=4, seed=1, estimate='ml', method='hard')" in code
    assert "emppl.compare({'EM': fit, 'k-means': fit_2}, draws)" in code
    steps = json.loads(render_json(changed))["plan"]["steps"]
    assert "as k-means does" in steps[0] and "priors were dropped" in steps[1]


def test_files(comparison, tmp_path):
    path = comparison.to_markdown(tmp_path / "report.md", title="faked", command=COMMAND, pictures=True)
    links = re.findall(r"!\[[^\]]+\]\((.*?)\)", path.read_text("utf-8"))
    assert [link.split("/")[1] for link in links] == [
        f"{name}.svg"
        for name in ("marginals", "forest", "permutations", "ranks", "ascent", "members-component_of_row", "data")
    ]
    assert all((tmp_path / link).read_text("utf-8").startswith("<?xml") for link in links)
    path = comparison.to_json(tmp_path / "report.json")
    assert json.loads(path.read_text("utf-8"))["title"] == "fake_mixture"


def test_plain_knows_what_json_does_not():
    assert plain({"a": np.nan, 1: np.arange(2), "s": fakes.Status.CONVERGED, "t": (np.float64(0.5), None)}) == {
        "a": None, "1": [0, 1], "s": "CONVERGED", "t": [0.5, None]
    }  # fmt: skip
