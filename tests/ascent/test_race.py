"""The race of starts: the answers of all carried to the end, at no more than the best one's cost, and told why."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pymc as pm
import pytest
import small_models

import emppl
from emppl.ascent import rows, stages
from emppl.ascent.agreement import Agreement
from emppl.ascent.certificate import starts_agree
from emppl.ascent.loop import Ascent, Status, ascend
from emppl.ascent.pool import Job
from emppl.ascent.starts import start_point
from emppl.models import coins, gaussian_mixture, latent_class, mixture_regression, poisson_mixture

ENDED = Ascent({"mu": np.zeros(1)}, 0.0, Status.CONVERGED, "", 29, 30, 0.0, 0.0, np.zeros(30), [])


def mixture(seed: int, n: int = 900, k: int = 3) -> pm.Model:
    rng = np.random.default_rng(seed)
    centres = 4.0 * rng.normal(size=(k, 2))
    y = (
        centres[rng.integers(k, size=n)]
        + rng.normal(size=(n, 2)) * rng.uniform(0.5, 1.5, (k, 1))[rng.integers(k, size=n)]
    )
    return gaussian_mixture.build({"y": y}, k=k, covariance="diagonal")


@pytest.fixture
def dear(monkeypatch):
    """Passes count as dear, and rows as many."""
    monkeypatch.setattr(stages, "CHEAP", 0.0)
    monkeypatch.setattr(rows, "ROWS", 200)


def climbing(gains: list[float], end: float, **fields) -> Ascent:
    """A start under way whose path ends at `end` with these gains by pass."""
    path = end - np.cumsum(gains[::-1])[::-1]
    return replace(
        ENDED, status=Status.MAX_ITER, objective=end, path=np.append(path, end), n_passes=len(gains) + 1, **fields
    )


def race(ascents: list[Ascent], drawn: list[bool], others=()) -> dict[int, str]:
    jobs = [Job(i, "random", None, None, one) for i, one in enumerate(drawn)]
    return stages._Race(None, jobs, 1, None, others)._left_behind(ascents)[0]


# -- the same answers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_a_race_on_some_rows_finds_what_all_starts_find(dear, monkeypatch, seed):
    plan = emppl.plan(mixture(seed))
    raced = emppl.fit(plan, seed=seed)
    monkeypatch.setattr(stages, "CHEAP", np.inf)
    whole = emppl.fit(plan, seed=seed)
    assert raced.log_posterior == pytest.approx(whole.log_posterior, abs=1e-5)
    assert "SHORT" in set(raced.starts["status"]) and "SHORT" not in set(whole.starts["status"])
    assert raced.status is Status.CONVERGED


@pytest.mark.parametrize(
    "build", [coins.build, latent_class.build, poisson_mixture.build, mixture_regression.build, gaussian_mixture.build]
)
def test_a_race_of_dear_passes_finds_what_all_starts_find(monkeypatch, build):
    plan = emppl.plan(build(), estimate="ml")
    whole = emppl.fit(plan, seed=1)
    monkeypatch.setattr(stages, "CHEAP", 0.0)
    raced = emppl.fit(plan, seed=1)
    assert raced.log_posterior == pytest.approx(whole.log_posterior, abs=1e-6)


@pytest.mark.parametrize("seed", range(2))
def test_no_loser_takes_more_passes_than_the_winner(seed):
    """Three components for two clusters: some starts crawl for hundreds of passes, far below the best."""
    plan = emppl.plan(gaussian_mixture.build(k=3), estimate="ml")
    fit = emppl.fit(plan, seed=seed)
    of_newton = 3 * (2 * plan.structure.coordinates.size + 1)
    lost = fit.starts[(fit.starts["mode"] != 0) & (fit.starts["log_posterior"] < fit.log_posterior)]
    most = stages.LONGER * max(fit.starts["n_passes"][fit.starts["mode"] == 0].max(), stages.SHORT_RUN) + of_newton
    assert len(lost) and (lost["n_passes"] <= most).all()


# -- who is left behind, and why -------------------------------------------------------------------------------------


def test_a_start_that_cannot_catch_up_is_left_behind_and_told_so():
    slow = climbing([0.01 * 0.9**n for n in range(40)], -5.0)
    (reason,) = race([ENDED, slow], [True, True]).values()
    assert "5 nats below a start that took 30 passes, after 41" in reason


def test_a_start_that_still_gains_on_the_best_goes_on():
    assert race([ENDED, climbing([0.3 * 0.98**n for n in range(40)], -5.0)], [True, True]) == {}
    assert race([ENDED, climbing([1e-3 * 1.2**n for n in range(40)], -5.0)], [True, True]) == {}  # off a plateau


def test_one_that_is_drawn_has_as_many_passes_as_the_best():
    hopeless = [1e-3 * 0.5**n for n in range(24)]
    few = climbing(hopeless, -5.0)
    assert list(race([ENDED, few, few], [True, True, False])) == [2]
    assert list(race([replace(ENDED, n_passes=25), few], [True, True])) == [1]


def test_without_a_start_that_has_ended_the_better_half_goes_on():
    """Whatever rises fast may be on its way to no maximum at all: it leaves nobody behind but by rank."""
    ascents = [climbing([1.0] * 24, -float(i)) for i in range(6)]
    left = race(ascents, [False] * 5 + [True])
    assert list(left) == [3, 4] and left[3] == "behind 3 others after 25 passes"
    assert race(ascents, [True] * 6) == {}


def test_of_starts_as_high_as_each_other_one_is_enough():
    ascents = [climbing([1.0] * 24, height) for height in (-1.0, -1.05, -1.05, -30.0)]
    left = race(ascents, [False, False, True, True])
    assert sorted(left) == [0, 1] and "where start 2 is" in left[0]


def test_units_of_the_data_do_not_matter():
    """What is gained and what is missing are both nats: a constant that all objectives share says nothing."""
    gains = [0.05 * 0.9**n for n in range(40)]
    for constant in (0.0, -1e6, 1e4):
        best = replace(ENDED, objective=constant)
        assert list(race([best, climbing(gains, constant - 5.0)], [True, True])) == [1]
        assert race([best, climbing(gains, constant - 1e-3)], [True, True]) == {}


def test_where_all_others_collapse_the_best_left_behind_is_taken_up_again():
    left = replace(ENDED, status=Status.SHORT)
    gone = replace(ENDED, status=Status.DEGENERATE)
    started = stages._Race(None, [], 1, None)
    assert started._still_to_run([gone, replace(left, objective=-2.0), left]) == [2]
    assert started._still_to_run([ENDED, left]) == []
    assert stages._Race(None, [], 1, None, [ENDED])._still_to_run([gone, left]) == []


def test_the_table_tells_why(dear):
    fit = emppl.fit(emppl.plan(mixture(1)), seed=0)
    left = fit.starts[fit.starts["status"] == "SHORT"]
    assert len(left) and left["reason"].str.contains("nats|others").all()
    twins = left[left["reason"].str.contains("as well")]
    lost = left.drop(twins.index)
    assert len(twins) and (twins["mode"] == 0).all() and len(lost) and (lost["mode"] == -1).all()
    (point,) = [point for point in fit.certificate.points if point.name == "starts"]
    assert f"of {len(fit.starts) - len(lost)} starts carried to their end, {len(twins)} of them as" in point.text
    assert f", while {len(lost)} w" in point.text


def test_a_certificate_counts_those_carried_to_their_end():
    assert (
        "reached by 3 of 6 starts carried to their end, while 4 were left behind"
        in starts_agree(Agreement(3, 6, (), 5, 1, 4)).text
    )
    assert "while 1 was left behind" in starts_agree(Agreement(3, 6, (), 5, 1, 1)).text


def test_some_are_drawn_at_random_and_the_given_ones_all(dear):
    plan = emppl.plan(mixture(2))
    given = start_point(plan, "k-means++", np.random.default_rng(0))
    chosen = [[job.drawn for job in stages.make_jobs(plan, given, 10, seed)] for seed in range(8)]
    assert all(one[0] and sum(one) == 1 + stages.DRAWN for one in chosen)
    assert len({tuple(one) for one in chosen}) > 4


# -- the same, whatever it runs on -----------------------------------------------------------------------------------


def test_workers_change_nothing(dear):
    plan = emppl.plan(mixture(3))
    one, two = emppl.fit(plan, seed=5), emppl.fit(plan, seed=5, workers=2)
    pd.testing.assert_frame_equal(one.starts, two.starts)
    assert one.log_posterior == two.log_posterior and one.theta.equals(two.theta)


def test_a_race_goes_on_from_a_checkpoint(dear, tmp_path, monkeypatch):
    plan = emppl.plan(mixture(3))
    whole, original, made = emppl.fit(plan, seed=5), stages.each, []

    class Killed(BaseException):
        pass

    def each(*arguments):
        made.append(arguments)
        if len(made) == 2:
            raise Killed
        return original(*arguments)

    monkeypatch.setattr(stages, "each", each)
    with pytest.raises(Killed):
        emppl.fit(plan, seed=5, checkpoint=tmp_path / "run.nc")
    again = emppl.fit(plan, seed=5, checkpoint=tmp_path / "run.nc")
    pd.testing.assert_frame_equal(again.starts, whole.starts)
    assert again.theta.equals(whole.theta)


@pytest.mark.parametrize("look", [1, 2])
def test_ctrl_c_at_any_look(dear, monkeypatch, look):
    plan = emppl.plan(mixture(3))
    original, calls = stages.each, []

    def each(*arguments):
        calls.append(arguments)
        done = original(*arguments)
        return replace(done, interrupted=True) if len(calls) == look else done

    monkeypatch.setattr(stages, "each", each)
    fit = emppl.fit(plan, seed=5)
    assert fit.status is Status.INTERRUPTED and len(calls) == look
    assert fit.log_posterior == pytest.approx(plan.log_posterior(fit.point), rel=1e-12)


@pytest.mark.parametrize("accelerate", [None, "squarem"])
def test_an_ascent_that_is_carried_on_keeps_its_path(accelerate):
    plan = emppl.plan(coins.build(weights="free"))
    theta = start_point(plan, "random", np.random.default_rng(0))
    options = {"accelerate": accelerate, "record": True, "finish": False}
    first = ascend(plan, theta, max_iter=8, **options)
    both = ascend(plan, first.theta, max_iter=25, before=first, **options)
    np.testing.assert_array_equal(both.path[: len(first.path)], first.path)
    assert len(both.trace) == len(both.path) == both.n_iter + 1
    if accelerate is None:  # textbook iterates know of nothing but where they are
        whole = ascend(plan, theta, max_iter=25, **options)
        np.testing.assert_array_equal(both.path, whole.path)


# -- some of the rows ------------------------------------------------------------------------------------------------


def test_a_row_counts_for_those_that_it_stands_for(dear):
    plan = emppl.plan(mixture(4))
    few = rows.on_some_rows(plan, 7)
    theta = start_point(plan, "k-means++", np.random.default_rng(1))
    whole = plan.e_step(theta, keep=True)
    chosen = few.structure.plates[0].members[:, 0]
    assert len(np.unique(chosen)) == few.engine.plates[0].size == 200
    found = few.e_step(theta)
    np.testing.assert_allclose(found.log_likelihood, 4.5 * whole.by_member[0][chosen].sum(), rtol=1e-12)
    assert found.log_prior == whole.log_prior
    assert [axis.exchangeable for axis in few.axes] == [axis.exchangeable for axis in plan.axes]
    np.testing.assert_allclose(found.counts[0].sum(), 900.0)
    again = rows.on_some_rows(plan, 7).structure.plates[0].members[:, 0]
    np.testing.assert_array_equal(chosen, again)


def test_weights_of_observations_are_kept(dear):
    plan = emppl.plan(mixture(4), obs_weights=np.linspace(0.5, 2.0, 900))
    few = rows.on_some_rows(plan, 7)
    assert few.weights[0].sum() == pytest.approx(plan.weights[0].sum())


@pytest.mark.parametrize("name", ["coins", "two_plates", "pairs"])
def test_few_rows_are_all_taken(dear, name):
    assert rows.on_some_rows(small_models.plan(name), 0) is None


# -- errors that are not asked for -----------------------------------------------------------------------------------


def test_errors_are_made_when_they_are_asked_for(monkeypatch):
    from emppl.ascent import loop, result

    for module in (loop, result):
        monkeypatch.setattr(module, "NEWTON_LIMIT", 2)
    plan = emppl.plan(gaussian_mixture.build(), estimate="ml")
    whole, bare = emppl.fit(plan, seed=0, starts=2), emppl.fit(plan, seed=0, starts=2, standard_errors=False)
    assert whole.information is not None and bare.information is None
    (point,) = [point for point in bare.certificate.points if point.name == "maximum"]
    assert not point.holds and point.text.startswith("not asked for")
    monkeypatch.setattr(result, "MOST_WORK", 0.0)
    assert "fit.summary() makes standard errors: the curvature in 11 coordinates takes up to 22 passes" in str(bare)
    assert "standard_error " not in str(bare)
    for name, errors in whole.standard_errors().items():
        np.testing.assert_allclose(bare.standard_errors()[name], errors, rtol=1e-4)
    assert "standard_error " in str(bare)  # now they are known
