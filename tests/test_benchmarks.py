"""The benchmarks, at small sizes: both sides give the same results, and rows say what was measured. No timings."""

import sys

import numpy as np
import pytensor.tensor as pt
import pytest
from benchmarks import against_labels, against_r, against_sklearn, calls, cases, rows, table, timing
from benchmarks.__main__ import main
from pytensor.compile.mode import Mode

import emppl

SMALL = 1e-6  # of the numbers of rows named: a thousand rows
PASSES = [row for row in against_sklearn.ROWS if row.name.startswith("pass-full") and "x32" not in row.name]


@pytest.mark.parametrize("row", [PASSES[0], *against_sklearn.ROWS[4:7]], ids=lambda row: row.name)
def test_a_pass_of_both_sides_is_the_same(row):
    assert row.make(SMALL).difference < 1e-12


def test_the_difference_is_that_of_the_results(monkeypatch):
    """Parameters that differ in one number by 1e-6 do not pass as equal."""
    given = against_sklearn.shipped_theta

    def off(data, shape):
        theta = given(data, shape)
        return theta | {"mu": theta["mu"] * (1.0 + 1e-6)}

    monkeypatch.setattr(against_sklearn, "shipped_theta", off)
    assert PASSES[0].make(SMALL).difference > table.AGREES


def test_sides_take_turns_and_medians_are_told():
    calls = []

    def side(name, times):
        durations = iter(times)

        def run(repetitions):
            calls.append(name)
            return timing.Timing(next(durations), 1.0)

        return run

    a, b = timing.in_turn(side("a", [3.0, 1.0, 2.0]), side("b", [9.0, 9.0, 7.0]), seconds=0.0, warm=False)
    assert "".join(calls) == "ababab"
    assert (a.seconds, b.seconds) == (2.0, 9.0)


def test_fast_work_is_repeated_within_one_timing():
    asked = []

    def side(repetitions):
        asked.append(repetitions)
        return timing.Timing(1e-3, 1e-3)

    timing.in_turn(side, seconds=1.0)
    assert asked[-1] == round(timing.SHORTEST / 1e-3) and set(asked[:2]) == {1}


@pytest.mark.parametrize(
    "ours, difference, bold",
    [(1.0, 1e-9, []), (4.0, 1e-9, ["**2.5**"]), (1.0, 1e-7, ["**1.0e-07**"]), (1.0, None, [])],
)
def test_a_row_shows_what_misses_its_bar_or_does_not_agree(ours, difference, bold):
    race = cases.Race("name", "work", "rival", 5.0, None)
    pair = cases.Pair(None, None, difference)
    text = table.pair_row(race, pair, timing.Timing(ours, ours), timing.Timing(10.0, 20.0))
    assert [cell for cell in text.split(" | ") if cell.startswith("**")] == bold
    assert "≥ 5" in text and f"{1.0:.1f} / {2.0:.1f}" in text
    assert text.count("|") == table.row(*table.PAIR_HEAD).count("|")


def test_a_rival_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr(against_r.shutil, "which", lambda name: None)
    (row,) = [row for row in against_r.ROWS if row.name == "flexmix-poisson"]
    assert "not installed: R (Rscript is not found)" in rows.run(row, SMALL, 0.1)
    assert table._r_versions() == "R not installed"


def test_names_of_rows_are_their_own():
    assert len({row.name for row in rows.ROWS}) == len(rows.ROWS)


def test_the_command_prints_a_table(monkeypatch, capsys):
    for pool in ("OMP", "OPENBLAS", "MKL", "NUMBA"):
        monkeypatch.setenv(f"{pool}_NUM_THREADS", "1")  # to be as it was afterwards: the command sets them
    words = ["pass-full-1e4x2", "small-coins", "--scale", "0.1", "--seconds", "0.1", "--threads", "1"]
    monkeypatch.setattr(sys, "argv", ["benchmarks", *words])
    assert main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("Machine: ") and lines[1].startswith("Threads: at most 1 ")
    assert table.row(*table.PAIR_HEAD) in lines and table.row(*table.LIMIT_HEAD) in lines
    assert any(line.startswith("| GMM full, 1e4 × 2, K = 3: one pass | scikit-learn |") for line in lines)
    assert any(line.startswith("| an EM iteration of the coins |") for line in lines)


def test_a_row_that_fails_does_not_cost_the_others(monkeypatch, capsys):
    def broken(scale):
        raise RuntimeError("no | way")

    done = cases.Limit("done", "work done", "s", 1.0, lambda scale: (0.5, "note"))
    monkeypatch.setattr(rows, "ROWS", (cases.Limit("broken", "work broken", "s", 1.0, broken), done))
    monkeypatch.setattr(sys, "argv", ["benchmarks"])
    for pool in ("OMP", "OPENBLAS", "MKL", "NUMBA"):
        monkeypatch.setenv(f"{pool}_NUM_THREADS", "1")
    assert main() == 1
    out = capsys.readouterr().out
    assert "| work broken | – | ≤ 1 s | FAILED: RuntimeError: no / way |" in out
    assert "| work done | 0.5 s | ≤ 1 s | note |" in out


def test_relabelling_is_left_out_by_name_where_r_has_no_such_package(monkeypatch):
    monkeypatch.setattr(against_r.shutil, "which", lambda name: None)
    lines = [rows.run(row, SMALL, 0.0) for row in against_labels.ROWS]
    assert all("not installed: R" in line and against_labels.FOLDER in line for line in lines)


def test_draws_of_the_relabelling_rows_are_draws():
    for draws in (against_labels.galaxies(1.0), against_labels.made(4000, 1000, 6, SMALL)):
        m, n, k = draws.p.shape
        assert draws.z.shape == (m, n) and draws.pivot.shape == (n,) and draws.z.max() < k
        assert abs(draws.p.sum(axis=2) - 1.0).max() < 1e-12
        assert draws.p[np.arange(m)[:, None], np.arange(n), draws.z].min() > 0.0


@pytest.mark.parametrize("name", calls.EXPLICIT)
def test_what_nutpie_is_given_is_the_posterior_of_our_model(name):
    """Written out by hand, with the same names: the log density at a point is that of the plan."""
    plan, other = emppl.plan(calls.CALLS[name].build(1.0)), calls.EXPLICIT[name]()
    coordinates = plan.structure.coordinates
    u = np.random.default_rng(0).normal(scale=0.3, size=coordinates.size)
    theta = coordinates.constrain(u)
    values, interpreted = {}, Mode("py", "fast_compile")
    for rv in other.free_RVs:
        transform, value = other.rvs_to_transforms[rv], pt.constant(theta[rv.name])
        moved = value if transform is None else transform.forward(value, *rv.owner.inputs)
        values[other.rvs_to_values[rv].name] = moved.eval(mode=interpreted)
    theirs = float(other.compile_logp(jacobian=False, mode=interpreted)(values))
    assert theirs == pytest.approx(plan.log_posterior(theta), rel=1e-8)  # PyMC holds plain numbers in single precision
