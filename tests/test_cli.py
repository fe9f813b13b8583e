import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from typer.testing import CliRunner

import emppl
from emppl import storage
from emppl.cli import app
from emppl.documents import to_json
from emppl.errors import SamplerError

BIAS = [0.5195824, 0.7967892]  # Do & Batzoglou's example at the maximum; which coin is called A is for the seed to say
CONDITIONS = """
    '''Two hidden conditions of a patient: one shows in a count, both in a measurement.'''
    import numpy as np
    import pymc as pm

    print("the model file was read")

    def build(data=None, *, patients=60):
        rng = np.random.default_rng(3)
        infected, inflamed = rng.random(patients) < 0.4, rng.random(patients) < 0.3
        events = rng.poisson(np.where(infected, 7.0, 1.0))
        level = rng.normal(1.0 + 2.0 * infected + 4.0 * inflamed, 0.5)
        with pm.Model(coords={"patient": np.arange(patients), "state": ["absent", "present"]}) as model:
            infected = pm.Bernoulli("infected", pm.Beta("p_infected", 1.0, 1.0), dims="patient")
            inflamed = pm.Bernoulli("inflamed", pm.Beta("p_inflamed", 1.0, 1.0), dims="patient")
            rate = pm.Gamma("rate", 2.0, 0.5, dims="state")
            height = pm.Normal("height", 0.0, 5.0, shape=(2, 2))
            pm.Poisson("events", rate[infected], observed=events, dims="patient")
            pm.Normal("level", height[infected, inflamed], 0.5, observed=level, dims="patient")
        return model
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    """run("fit", "coins"): the command in an empty folder, with exit_code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COLUMNS", raising=False)

    def invoke(*words: str):
        result = CliRunner().invoke(app, [str(word) for word in words])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return invoke


@pytest.fixture(scope="module")
def coin_fit():
    return emppl.fit(_coins(), seed=0, name="coins")


@pytest.fixture(scope="module")
def coin_draws(coin_fit):
    return emppl.sample(coin_fit, draws=150, tune=150, chains=2, seed=1)


def _coins():
    from emppl.models import coins

    return coins.build()


@pytest.fixture
def quick(monkeypatch, coin_fit, coin_draws):
    """Fit and draws of the coins made once for all tests that only look at what becomes of them."""
    monkeypatch.setattr(emppl, "fit", lambda plan, **_: coin_fit)
    monkeypatch.setattr(emppl, "sample", lambda fit, **_: coin_draws, raising=False)


def of_conditions(tmp_path: Path) -> Path:
    path = tmp_path / "elsewhere" / "two conditions.py"
    path.parent.mkdir()
    path.write_text(textwrap.dedent(CONDITIONS))
    return path


# -- what is printed ---------------------------------------------------------------------------------------------------


def test_version(run):
    result = run("--version")
    assert (result.exit_code, result.stdout) == (0, f"emppl {emppl.__version__}\n")


def test_explain_prints_the_plan(run):
    result = run("explain", "coins")
    assert result.exit_code == 0 and result.stderr == ""
    for word in (
        "bias",
        "coin (2)",
        "Beta(1, 1)",
        "coin_of_set",
        "heads",
        "closed form",
        "symmetric under relabelling",
    ):
        assert word in result.stdout
    plan = emppl.plan(_coins(), name="coins")
    assert all(remark.split(":")[0] in result.stdout for remark in plan.remarks())


@pytest.mark.parametrize("columns", ["0", "1"])
def test_no_width_at_all_is_no_width(run, monkeypatch, columns):
    wide = run("explain", "coins").stdout
    monkeypatch.setenv("COLUMNS", columns)
    assert run("explain", "coins").stdout == wide


def test_explain_may_write_a_text(run):
    result = run("explain", "coins", "--out", "notes/today", "--seed", "3")
    assert result.exit_code == 0 and "notes/today/plan.txt" in result.stdout
    assert Path("notes/today/plan.txt").read_text("utf-8") in result.stdout


@pytest.mark.parametrize("columns", [30, 44, 80, 200])
@pytest.mark.parametrize("command", ["explain", "fit", "compare"])
def test_nothing_is_cut_on_a_narrow_terminal(run, quick, coin_fit, monkeypatch, command, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    result = run(command, "coins", *(["--draws", "150"] if command == "compare" else []))
    lines = [line for line in result.stdout.splitlines() if "emppl-coins" not in line]  # paths are not broken
    assert lines and max(map(len, lines)) <= columns
    squeezed = "".join(result.stdout.split())
    wanted = {
        "explain": ["coin_of_set", "Binomial(10,·)"],
        "fit": ["0.797", "0.520", "P(coinA)"],
        "compare": ["labels"],
    }
    assert [word for word in wanted[command] if word not in squeezed] == []
    if command == "fit":
        low, high = (f"{coin_fit.summary()[end][0]:.3f}" for end in ("low", "high"))
        assert f"{low}…{high}" in squeezed


def test_fit_prints_height_evidence_parameters_and_members(run):
    result = run("fit", "coins")
    assert result.exit_code == 0 and result.stderr == ""
    for word in ("log posterior  -9.7969", "found by 10 of 10 starts", "certificate: 5 of 5 hold", "converged"):
        assert word in result.stdout
    lines = [line.split() for line in result.stdout.splitlines()]
    rows = {tuple(line[2:4]) for line in lines if line[:1] == ["bias"]}
    assert rows == {("0.797", "0.101"), ("0.520", "0.131")}
    (members,) = (line[2:] for line in lines if line[:2] == ["P(coin", "A)"])
    assert members in (["0.10", "0.95", "0.85", "0.03", "0.60"], ["0.90", "0.05", "0.15", "0.97", "0.40"])
    assert "What to do next" not in result.stdout


def test_many_members_are_counted(run):
    result = run("fit", "poisson_mixture", "--starts", "3", "--estimate", "ml")
    assert "log-likelihood  -1989.9" in result.stdout and "log prior" not in result.stdout
    assert "1,096 members of component_of_row" in result.stdout and "expected" in result.stdout


def test_rules_are_listed_and_those_of_a_model_named(run):
    result = run("rules")
    assert result.exit_code == 0
    assert [word for word in ("families", "conjugate priors", "E-steps", "M-steps") if word not in result.stdout] == []
    used = json.loads(run("rules", "coins", "--json").stdout)
    (binomial,) = (row for row in used["families"] if row["family"] == "Binomial")
    assert binomial["used by"] == "heads"
    assert {"prior": "Beta", "family": "Binomial", "parameter": "p", "used by": "bias"} in used["conjugate priors"]
    (closed,) = (row for row in used["M-steps"] if row["rule"] == "closed form")
    assert closed["used by"] == "bias"
    assert run("rules", "--set", "k=3").exit_code == 2


def test_every_command_has_help(run):
    for command in ("explain", "fit", "sample", "compare", "labels", "rules"):
        result = run(command, "--help")
        assert result.exit_code == 0 and "Keys of --json" in result.stdout


# -- documents ---------------------------------------------------------------------------------------------------------


def test_fit_as_one_document(run):
    result = run("fit", "coins", "--json", "--seed", "2")
    found = json.loads(result.stdout)
    assert result.exit_code == 0 and result.stderr == "" and found["reliable"]
    assert (found["command"], found["line"], found["seed"]) == ("fit", "emppl fit coins --seed 2", 2)
    assert sorted(found["theta"]["bias"]["values"]) == pytest.approx(BIAS, abs=1e-4)
    assert np.shape(found["responsibilities"]["coin_of_set"]["probabilities"]) == (5, 2)
    assert found["status"] == "CONVERGED" and len(found["starts"]) == 10 and len(found["certificate"]["points"]) == 5


def test_what_does_not_exist_is_null(run):
    settings = ("--set", "covariance=tied_spherical", "--set", "weights=equal")
    result = run("fit", "gaussian_mixture", *settings, "--method", "hard", "--starts", "2", "--json")
    found = json.loads(result.stdout, parse_constant=lambda name: pytest.fail(f"{name} in the document"))
    assert {row["standard_error"] for row in found["parameters"]} == {None}
    assert found["model"]["options"] == {"covariance": "tied_spherical", "weights": "equal"}


def test_explain_as_one_document(run):
    found = json.loads(run("explain", "coins", "--json").stdout)
    assert found["component_axes"][0]["labels"] == ["A", "B"] and found["blocks"][0]["rule"] == "closed form"


def test_any_value_has_a_form_in_a_document():
    content = {"a": np.float64("nan"), 1: np.arange(2), "c": emppl.Status.CONVERGED, "d": (np.int64(3), None, True)}
    written = json.loads(to_json({**content, "e": Path("x"), "f": [np.inf], "g": np.array(["é"])}))
    plain = {"a": None, "1": [0, 1], "c": "CONVERGED", "d": [3, None, True], "e": "x", "f": [None], "g": ["é"]}
    assert written == plain


# -- results on disk ---------------------------------------------------------------------------------------------------


def test_a_model_file_that_goes_elsewhere_moves_no_results(run):
    Path("elsewhere").mkdir()
    Path("elsewhere/heads.csv").write_text("heads,tosses\n5,10\n9,10\n8,10\n4,10\n7,10\n")
    Path("moves.py").write_text(
        "import os\nimport pandas as pd\nfrom emppl.models import coins\nos.chdir('elsewhere')\n"
        "def build(): return coins.build(pd.read_csv('heads.csv'))\n"
    )
    assert run("explain", "moves.py", "--out", "kept").exit_code == 0
    assert Path("kept/plan.txt").exists() and not Path("elsewhere/kept").exists()
    Path("moves.py").write_text("import os\nos.chdir('elsewhere')\ndef build():\n    1 / 0\n")
    assert "moves.py, line 4, in build(): 1 / 0" in run("explain", "moves.py").stderr


def test_fit_is_saved_where_asked(run):
    assert run("fit", "coins", "--starts", "2").exit_code == 0
    assert list(Path().iterdir()) == []
    result = run("fit", "coins", "--starts", "2", "--out", "a folder/b")
    assert "a folder/b/fit.nc" in result.stdout
    assert sorted(emppl.load("a folder/b/fit.nc").theta["bias"].values) == pytest.approx(BIAS, abs=1e-4)


def test_compare_writes_everything_and_prints_its_verdicts(run, quick):
    result = run("compare", "coins", "--json", "--draws", "150")
    found = json.loads(result.stdout)
    files = {
        "fit": "fit.nc", "draws": "draws.nc", "report": "report.html", "text": "report.md", "summary": "summary.json"
    }  # fmt: skip
    assert found["files"] == {name: str(Path("emppl-coins") / file) for name, file in files.items()}
    assert {path.name for path in Path("emppl-coins").iterdir()} == set(files.values())
    assert json.loads(Path("emppl-coins/summary.json").read_text("utf-8")) == found
    assert found["reliable"] is (result.exit_code == 0)
    failed = [verdict["name"] for verdict in found["verdicts"] if verdict["check"] and not verdict["holds"]]
    assert found["reliable"] is not bool(failed)
    assert {row["parameter"] for row in found["table"]} == {"bias[A]", "bias[B]"}
    assert found["fit"]["log_posterior"] == pytest.approx(-9.79692429, abs=1e-6)
    page = Path("emppl-coins/report.html").read_text("utf-8")
    assert "emppl compare coins --draws 150" in page
    with xr.open_datatree("emppl-coins/draws.nc", engine="h5netcdf") as tree:
        assert tree["posterior"]["bias"].shape == (2, 150, 2)
        assert list(tree["posterior"]["coin"].values) == ["A", "B"]
    printed = run("compare", "coins", "--out", "there", "--draws", "150")
    assert printed.exit_code == result.exit_code and printed.stdout.startswith(found["headline"])
    assert all(verdict["name"] in printed.stdout for verdict in found["verdicts"])
    assert "there/report.html" in printed.stdout and ("✗" in printed.stdout) is bool(failed)


def test_sample_keeps_the_draws_as_they_came(run, quick, coin_draws):
    result = run("sample", "coins", "--out", "d", "--draws", "150", "--json")
    found = json.loads(result.stdout)
    with xr.open_datatree("d/draws.nc", engine="h5netcdf") as tree:
        np.testing.assert_array_equal(tree["posterior"]["bias"].values, coin_draws["posterior"]["bias"].values)
    means = coin_draws["posterior"]["bias"].mean(("chain", "draw")).values
    assert [row["mean"] for row in found["parameters"]] == pytest.approx(means)
    assert {verdict["name"] for verdict in found["verdicts"]} == {"labels", "convergence", "precision", "divergences"}
    assert result.exit_code == (0 if all(verdict["holds"] for verdict in found["verdicts"]) else 1)
    assert "2 chains × 150 draws by nutpie" in run("sample", "coins", "--draws", "150").stdout


# -- a model of the user's own -----------------------------------------------------------------------------------------


def test_a_file_from_elsewhere_runs_through_explain_and_fit(run, tmp_path):
    path = of_conditions(tmp_path)
    result = run("explain", path)
    assert result.exit_code == 0 and "60 independent members × 4 joint values" in result.stdout
    result = run("fit", path, "--starts", "4", "--json")
    found = json.loads(result.stdout)  # although the file prints
    assert result.exit_code == 0 and "the model file was read" in result.stderr
    assert found["model"]["name"] == "two conditions" and found["model"]["origin"] == str(path)
    assert sorted(found["theta"]["rate"]["values"]) == pytest.approx([1.0, 7.0], abs=1.2)
    assert set(found["responsibilities"]) == {"infected", "inflamed"}


def test_a_model_without_latents_says_so(run):
    text = "import pymc as pm\ndef build(data=None):\n    with pm.Model() as m:\n"
    text += "        pm.Normal('y', pm.Normal('mu', 0.0, 1.0), 1.0, observed=[1.0, 2.0])\n    return m\n"
    Path("plain.py").write_text(text)
    assert "no latent variable" in run("explain", "plain.py").stdout
    result = run("fit", "plain.py", "--starts", "2")
    assert result.exit_code == 0 and ["mu", "1.000", "0.577"] in [
        line.split()[:3] for line in result.stdout.splitlines()
    ]


def test_warnings_of_ours_are_one_line_and_others_are_not_shown(run, monkeypatch):
    Path("d.csv").write_text("5,10\n9,10\n")
    plan = emppl.plan

    def chatty(*args, **options):
        warnings.warn_explicit("noise of a library", UserWarning, "x.py", 1, module="somewhere.else")
        warnings.warn_explicit("two\nlines", RuntimeWarning, "y.py", 1, module="emppl.kernels.mixture")
        return plan(*args, **options)

    monkeypatch.setattr(emppl, "plan", chatty)
    result = run("fit", "coins", "--starts", "2")
    assert result.exit_code == 0 and result.stderr == "warning (RuntimeWarning): two lines\n"
    result = run("fit", "coins", "--data", "d.csv")
    assert result.exit_code == 2
    assert result.stderr.splitlines()[0].startswith(
        "warning: d.csv: the first line is read as names of columns (5, 10)"
    )


def test_missing_values_are_told(run):
    text = "import pymc as pm, numpy as np\ndef build(data=None):\n    with pm.Model() as m:\n"
    text += "        z = pm.Bernoulli('z', 0.5, shape=3)\n        mu = pm.Normal('mu', 0.0, 1.0, shape=2)\n"
    text += "        pm.Normal('y', mu[z], 1.0, observed=[1.0, np.nan, 2.0])\n    return m\n"
    Path("gap.py").write_text(text)
    told = "y: 1 value is missing, imputed by PyMC as y_unobserved: left out"
    assert told in run("fit", "gap.py", "--starts", "2").stderr
    explained = run("explain", "gap.py")
    assert told in " ".join(explained.stdout.split()) and not explained.stderr


# -- exit statuses -----------------------------------------------------------------------------------------------------


def test_a_fit_that_did_not_end_is_1_and_says_what_to_do(run):
    result = run("fit", "coins", "--starts", "1", "--max-iter", "1")
    assert result.exit_code == 1
    assert "✗ MAX_ITER" in result.stdout and "What to do next" in result.stdout and "--max-iter" in result.stdout
    assert not json.loads(run("fit", "coins", "--starts", "1", "--max-iter", "1", "--json").stdout)["reliable"]


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ("INTERRUPTED", "stopped by the user"),
        ("DEGENERATE", "fewer components"),
        ("SPURIOUS", "--starts 50"),
        ("SADDLE", "--seed"),
        ("DECREASED", "report it"),
        ("DISAGREES", "report it"),
    ],
)
def test_every_other_ending_is_1_too(run, monkeypatch, coin_fit, status, words):
    changed = dataclasses.replace(coin_fit, status=emppl.Status[status])
    monkeypatch.setattr(emppl, "fit", lambda *_, **__: changed)
    result = run("fit", "coins")
    assert result.exit_code == 1 and status in result.stdout and words in result.stdout and "0.797" in result.stdout


def test_a_certificate_that_fails_is_1(run, monkeypatch, coin_fit):
    points = [dataclasses.replace(point, holds=point.name != "starts") for point in coin_fit.certificate.points]
    certificate = dataclasses.replace(coin_fit.certificate, points=tuple(points), notes=("mind the gap",))
    changed = dataclasses.replace(coin_fit, certificate=certificate)
    monkeypatch.setattr(emppl, "fit", lambda *_, **__: changed)
    result = run("fit", "coins")
    assert result.exit_code == 1 and "certificate: 4 of 5 hold" in result.stdout
    assert "✗ starts: reached by" in result.stdout and "note mind the gap" in result.stdout
    assert "--starts 50" in result.stdout


def test_interrupted_before_a_result_is_130(run, monkeypatch, coin_fit, coin_draws):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(emppl, "fit", lambda *_, **__: coin_fit)
    made = {n: coin_draws["posterior"].to_dataset().isel(draw=slice(n)) for n in (20, 0)}
    short, empty = (xr.DataTree.from_dict({"posterior": made[n]}) for n in made)
    for tree in (short, empty):
        tree.attrs["interrupted"] = "True"
    for command in ("sample", "compare"):
        for sample, kept in ((interrupted, 0), (lambda *_, **__: empty, 0), (lambda *_, **__: short, 20)):
            monkeypatch.setattr(emppl, "sample", sample, raising=False)
            result = run(command, "coins", "--out", f"{command}-{kept}")
            assert result.exit_code == 130 and result.stdout == "" and f"{command}-{kept}/fit.nc" in result.stderr
            assert emppl.load(f"{command}-{kept}/fit.nc").log_posterior == coin_fit.log_posterior
            assert ("draws.nc" in result.stderr) == bool(kept)
        with xr.open_datatree(f"{command}-20/draws.nc", engine="h5netcdf") as tree:
            assert tree["posterior"].sizes["draw"] == 20
    monkeypatch.setattr(emppl, "fit", interrupted)
    result = run("fit", "coins")
    assert result.exit_code == 130 and result.stdout == "" and "nothing was written" in result.stderr


def test_an_interrupted_second_fit_is_130(run, monkeypatch, quick, coin_fit):
    stopped = dataclasses.replace(coin_fit, status=emppl.Status.INTERRUPTED)
    monkeypatch.setattr(emppl, "fit", lambda plan, **_: stopped if plan.estimate == "ml" else coin_fit)
    monkeypatch.setattr(emppl, "compare", lambda *_, **__: pytest.fail("compared all the same"), raising=False)
    result = run("compare", "coins", "--draws", "150", "--also", "ml")
    assert result.exit_code == 130 and result.stdout == "" and "emppl-coins/draws.nc" in result.stderr


def test_an_interrupt_that_a_library_swallows_while_results_are_written_is_130(run, monkeypatch, coin_fit):
    def swallowing(self, path):
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(emppl, "fit", lambda plan, **_: coin_fit)
    monkeypatch.setattr(emppl.Fit, "save", swallowing)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    try:
        assert run("fit", "coins", "--out", "kept").exit_code == 130
    finally:
        signal.signal(signal.SIGINT, before)


def test_the_fit_is_kept_where_the_sampler_breaks_down(run, monkeypatch, coin_fit):
    def broken(*_, **__):
        raise SamplerError("nutpie could not sample this model", "emppl.sample")

    monkeypatch.setattr(emppl, "fit", lambda plan, **_: coin_fit)
    monkeypatch.setattr(emppl, "sample", broken, raising=False)
    result = run("sample", "coins")
    assert result.exit_code == 2 and "SamplerError" in result.stderr and "emppl-coins/fit.nc" in result.stderr
    assert emppl.load("emppl-coins/fit.nc").log_posterior == coin_fit.log_posterior


def test_a_comparison_stops_where_the_fit_was_stopped(run, monkeypatch, coin_fit):
    changed = dataclasses.replace(coin_fit, status=emppl.Status.INTERRUPTED)
    monkeypatch.setattr(emppl, "fit", lambda *_, **__: changed)
    monkeypatch.setattr(emppl, "sample", lambda *_, **__: pytest.fail("sampled all the same"), raising=False)
    result = run("compare", "coins")
    assert result.exit_code == 1 and "INTERRUPTED" in result.stdout and "emppl-coins/fit.nc" in result.stdout


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["fit", "coin"], ["no shipped model coin", "did you mean coins?", "gaussian_mixture"]),
        (["explain", "no/such.py"], ["no/such.py"]),
        (["fit", "coins", "--set", "kk=3"], ["'kk'", "--set k=…", "weights='known'"]),
        (["fit", "coins", "--set", "k"], ["--set k=3"]),
        (["fit", "coins", "--set", "k=0"], ["k=0", "1 or more"]),
        (["fit", "coins", "--set", "k=three"], ["k='three'"]),
        (["fit", "coins", "--data", "none.csv"], ["none.csv"]),
        (["fit", "coins", "--data", "bad.csv"], ["heads[1] = 12", "tosses[1] = 10", "bad.csv"]),
        (["sample", "coins", "--data", "words.csv"], ["heads must hold numbers", "five"]),
        (["compare", "coins", "--set", "weights=some"], ["weights='some'"]),
        (["fit", "broken.py"], ["broken.py, line 2", "1 / 0", "ZeroDivisionError"]),
        (["fit", "unsupported.py"], ["UnsupportedModelError"]),
        (["fit", "coins", "--estimate", "mle"], ["mle", "ml"]),
        (["fit", "coins", "--starts", "0"], ["--starts"]),
        (["fit", "coins", "--starts", "1" + "0" * 30], ["--starts"]),
        (["sample", "coins", "--tune", "0"], ["--tune"]),
        (["fit", "coins", "--seed", "-1"], ["--seed"]),
        (["fit", "coins", "--frob"], ["--frob"]),
        (["frob"], ["frob"]),
        (["fit"], ["MODEL"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_input_is_2_and_names_what_was_met(run, words, told):
    Path("bad.csv").write_text("heads,tosses\n5,10\n12,10\n")
    Path("words.csv").write_text("heads,tosses\nfive,10\n")
    Path("broken.py").write_text("def build(data=None):\n    return 1 / 0\n")
    text = "import pymc as pm\ndef build():\n    with pm.Model() as m: pm.Normal('x', 0.0, 1.0)\n    return m\n"
    Path("unsupported.py").write_text(text)
    result = run(*words)
    assert result.exit_code == 2 and result.stdout == ""
    assert [word for word in told if word not in result.stderr] == []
    assert "Traceback" not in result.stderr


def test_bad_input_as_one_document(run):
    result = run("fit", "coins", "--set", "k=0", "--json")
    found = json.loads(result.stdout)
    assert result.exit_code == 2 and not found["reliable"] and "k=0" in found["error"]["what"]
    assert found["error"]["ways_out"] and "k=0" in result.stderr


def test_a_folder_that_cannot_be_is_noticed_before_any_work(run, monkeypatch):
    monkeypatch.setattr(emppl, "fit", lambda *_, **__: pytest.fail("fitted before looking at --out"))
    Path("taken").write_text("mine")
    for command in ("fit", "sample", "compare"):
        for out in ("taken", "taken/below"):
            result = run(command, "coins", "--out", out)
            assert result.exit_code == 2 and "taken is a file, not a folder" in result.stderr
    assert Path("taken").read_text() == "mine"


def test_too_little_memory_is_2(run, monkeypatch):
    def hungry(*_, **__):
        raise MemoryError

    monkeypatch.setattr(emppl, "plan", hungry)
    result = run("fit", "coins", "--set", "k=1000")
    assert result.exit_code == 2 and "memory" in result.stderr and "--set k=" in result.stderr


def test_a_defect_shows_itself(run, monkeypatch):
    def broken(*_, **__):
        raise TypeError("unexpected")

    monkeypatch.setattr(emppl, "plan", broken)
    with pytest.raises(TypeError, match="unexpected") as caught:
        run("fit", "coins")
    assert "defect of emppl" in caught.value.__notes__[0]


# -- from a shell ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("collects", [True, False])
def test_an_import_leaves_the_collection_of_garbage_as_it_was(collects):
    code = f"import gc; gc.{'enable' if collects else 'disable'}(); import emppl; print(gc.isenabled())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ)
    assert (done.returncode, done.stdout) == (0, f"{collects}\n"), done.stderr


def test_from_a_shell_a_fit_waits_for_nothing_it_does_not_need(tmp_path):
    code = """
        import sys
        from emppl.cli import main
        sys.argv = ["emppl", "fit", "coins", "--json"]
        try:
            main()
        except SystemExit as end:
            late = {"arviz", "matplotlib", "nutpie", "numba", "emppl.comparison", "emppl.sampling"}
            late |= {"scipy.optimize", "setuptools"}  # not jinja2: xarray imports dask where it is there, and dask that
            print(sorted(late & set(sys.modules)), file=sys.stderr)
            sys.exit(end.code)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=tmp_path, capture_output=True, text=True, env=os.environ
    )
    assert (done.returncode, done.stderr) == (0, "[]\n")
    assert sorted(row["estimate"] for row in json.loads(done.stdout)["parameters"]) == pytest.approx(BIAS, abs=1e-4)


# -- labels ------------------------------------------------------------------------------------------------------------


def test_labels_of_a_model(run, quick):
    result = run("labels", "coins", "--out", "there", "--draws", "150")
    assert result.exit_code == 0, result.stderr
    assert "symmetric under relabelling of coin (bias): 2 equivalent modes" in result.stdout
    assert "bias sorted, least" in result.stdout and "STEPHENS" in result.stdout
    assert Path("there/labels.txt").read_text().startswith(result.stdout.splitlines()[0][:40])
    found = json.loads(run("labels", "coins", "--json", "--draws", "150").stdout)
    assert found["reliable"] is True and found["state"] == "WITHIN_CHAINS"
    (axis,), (methods,) = found["axes"], found["methods"]
    assert axis["method"] == "responsibilities" and axis["variables"] == ["bias"]
    assert {row["method"] for row in methods["table"]} >= {"STEPHENS", "ECR", "PRA", "SJW", "ascent"}
    assert found["r_hat_invariant"] < 1.1


def test_labels_of_saved_draws(run, coin_draws):
    storage.write_tree("draws.nc", coin_draws)
    result = run("labels", "draws.nc", "--dims", "coin", "--out", "aligned")
    assert result.exit_code == 0, result.stderr
    assert "aligned  by responsibilities" in result.stdout
    with xr.open_datatree("aligned/draws.nc", engine="h5netcdf") as tree:
        bias = tree["posterior"]["bias"].values
    assert np.sort(bias.mean(axis=(0, 1))) == pytest.approx(
        np.sort(coin_draws["posterior"]["bias"], -1).mean((0, 1)), abs=0.02
    )
    by_axis = json.loads(run("labels", "draws.nc", "--dims", "bias=0", "--json").stdout)
    assert by_axis["axes"][0]["variables"] == ["bias"]
    assert run("labels", "draws.nc", "--model", "coins", "--quiet").exit_code == 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["draws.nc"], ["--dims coin", "--model MODEL"]),
        (["draws.nc", "--dims", "rabbit"], ["no dim rabbit", "coin"]),
        (["draws.nc", "--dims", "bias=3"], ["bias has no axis 3", "coin"]),
        (["draws.nc", "--dims", "coin", "--dims", "bias=0"], ["either dims or axes"]),
        (["draws.nc", "--dims", "coin", "--method", "sorting"], ['called "sorting"', 'method="STEPHENS"']),
        (["draws.nc", "--dims", "coin", "--allocations", "z"], ["the draws have no z"]),
        (["draws.nc", "--dims", "coin", "--set", "k=3"], ["none is named"]),
        (["coins", "--dims", "coin"], ["go with a file of draws"]),
        (["nothing.nc", "--dims", "coin"], ["cannot be read as draws"]),
        (["text.nc", "--dims", "coin"], ["cannot be read as draws"]),
    ],
)
def test_bad_words_about_labels_are_named(run, coin_draws, words, told):
    storage.write_tree("draws.nc", coin_draws)
    Path("text.nc").write_text("no draws")
    result = run("labels", *words)
    assert result.exit_code == 2
    for text in told:
        assert text in result.stderr


@pytest.mark.parametrize(
    ("line", "status", "said"),
    [
        ("rules | true", 1, ""),
        ("rules > /dev/full", 2, "No space left on device"),
        ("rules --json > /dev/full", 2, "No space left on device"),
        ("rules --json >&-", 0, ""),
        ("rules nothing 2>&-", 2, ""),
        ("rules nothing 2> /dev/full", 2, ""),
        ("rules --frob 2> /dev/full", 2, ""),
        ("--version > /dev/full", 2, "No space left on device"),
        ("fit --help > /dev/full", 2, "No space left on device"),
        ("explain warns.py > /dev/null 2> /dev/full", 0, ""),
        ("explain warns.py 2>&1 >/dev/null | true", 0, ""),
        ("rules <&- > /dev/null", 0, ""),
    ],
)
def test_streams_that_are_closed_or_full(line, status, said, tmp_path):
    told = 'import warnings\nwarnings.warn("odd")\nprint("read")\nfrom emppl.models.coins import build\n'
    (tmp_path / "warns.py").write_text(told)
    command, _, rest = line.partition(" ")
    script = f'"{sys.executable}" -m emppl.cli {command} {rest}; exit ${{PIPESTATUS[0]}}'
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == status and "Traceback" not in done.stderr and "Exception ignored" not in done.stderr
    assert said in done.stderr and (said or not done.stderr)
