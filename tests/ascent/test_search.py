"""Many starts, one fit: reproducible, honest about every start, and interrupted without loss."""

import contextlib
import gc
import importlib
import json
import os
import signal
import sys
import threading
import time
from multiprocessing import active_children
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pandas as pd
import pymc as pm
import pytest
import small_models

import emppl
from emppl import Status
from emppl.ascent import conclude, loop, pool, stages
from emppl.errors import InvalidArgumentError, InvalidDataError, NoStartError, SourceError
from emppl.models import coins, gaussian_mixture
from emppl.planner import Plan

DATA = Path(__file__).parents[1] / "data"
IRIS = pd.read_csv(DATA / "kmeans_hard_em" / "data.csv").drop(columns="species")
KMEANS = json.loads((DATA / "kmeans_hard_em" / "reference.json").read_text())


@pytest.fixture(scope="module")
def plan():
    plan = emppl.plan(coins.build(weights="free"))
    assert plan.axes  # found now: an interrupt while they are is one before any start
    return plan


def same(one: emppl.Fit, two: emppl.Fit) -> None:
    pd.testing.assert_frame_equal(one.starts, two.starts)
    assert one.log_posterior == two.log_posterior
    for name in one.theta:
        np.testing.assert_array_equal(one.theta[name], two.theta[name])


def test_seeds_are_reproducible(plan):
    same(emppl.fit(plan, starts=4, seed=7), emppl.fit(plan, starts=4, seed=7))
    one, two = (emppl.fit(plan, starts=4, seed=seed).starts for seed in (7, 8))
    assert not one.equals(two)


def test_workers_change_nothing(plan):
    same(emppl.fit(plan, starts=4, seed=3, workers=2), emppl.fit(plan, starts=4, seed=3))


def test_more_starts_keep_the_first(plan):
    few, many = (emppl.fit(plan, starts=n, seed=3).starts for n in (3, 6))
    np.testing.assert_allclose(many["log_posterior"][:3], few["log_posterior"], atol=1e-6)
    assert list(many["kind"][:3]) == list(few["kind"])


def test_the_table_of_starts(plan):
    fit = emppl.fit(plan, start={"bias": [0.6, 0.5]}, starts=5, seed=0)
    assert list(fit.starts.columns) == [
        "start",
        "kind",
        "status",
        "reason",
        "log_posterior",
        "n_iter",
        "n_passes",
        "mode",
    ]
    assert list(fit.starts["start"]) == list(range(6)) and fit.starts["kind"][0] == "given"
    assert set(fit.starts["status"]) <= {status.name for status in Status}
    assert fit.starts["log_posterior"].max() == fit.log_posterior
    assert len(fit.traces) == 6
    for path, row in zip(fit.traces, fit.starts.itertuples()):
        assert path[-1] == row.log_posterior
    (best,) = fit.starts["mode"][fit.starts["log_posterior"] == fit.log_posterior].unique()
    assert best == 0


def test_swapped_labels_are_one_mode(plan):
    """The coins may come out in either order: modes that are equal up to a relabelling are counted once."""
    fit = emppl.fit(plan, starts=10, seed=0)
    converged = fit.starts[fit.starts["status"] == "CONVERGED"]
    assert converged["mode"].nunique() == 1


@pytest.mark.parametrize("tol", [1e-3, 1e-6])
def test_a_start_that_converged_has_no_more_to_gain_than_tol(plan, tol):
    """Also those that did not win: else near misses pass for modes of their own."""
    fit = emppl.fit(plan, starts=10, seed=0, tol=tol)
    gaps = fit.log_posterior - fit.starts["log_posterior"][fit.starts["status"] == "CONVERGED"]
    assert gaps.max() < 2 * tol


@pytest.mark.parametrize("accelerate", ["squarem", None])
def test_short_runs_first_change_no_answer(plan, monkeypatch, accelerate):
    """Where passes are dear, all starts run for a while and the best go on: paths stay whole, the rest is marked."""
    whole = emppl.fit(plan, starts=8, seed=0, accelerate=accelerate)
    monkeypatch.setattr(stages, "CHEAP", 0.0)
    monkeypatch.setattr(stages, "SHORT_RUN", 5)
    fit = emppl.fit(plan, starts=8, seed=0, accelerate=accelerate)
    assert fit.log_posterior == pytest.approx(whole.log_posterior, abs=1e-6)
    assert (fit.starts["status"] == "SHORT").any()
    for path, row in zip(fit.traces, fit.starts.itertuples()):
        assert len(path) == row.n_iter + 1 and path[-1] == row.log_posterior
    trace = fit.trace
    assert trace["log_posterior"].values[-1] == fit.log_posterior
    if "bias" in trace:  # each objective with the parameters that it belongs to
        assert trace.sizes["iteration"] == fit.n_iter + 1
        for i in range(0, trace.sizes["iteration"], 3):
            theta = {name: trace[name].values[i] for name in plan.structure.parameter_names}
            assert plan.log_posterior(theta) == pytest.approx(float(trace["log_posterior"][i]), rel=1e-12)


def test_a_given_start_is_used_exactly(plan):
    start = {"bias": np.array([0.61, 0.52]), "weights": np.array([0.4, 0.6])}
    fit = emppl.fit(plan, start=start, starts=0, accelerate=None, max_iter=1)
    for name, value in start.items():
        np.testing.assert_array_equal(fit.trace[name][0], value)
    assert fit.trace["log_posterior"][0] == plan.log_posterior(start)


def test_several_given_starts_and_a_fit(plan):
    first = emppl.fit(plan, starts=2, seed=0)
    again = emppl.fit(plan, start=[first, {"bias": [0.3, 0.2]}], starts=0)
    assert list(again.starts["kind"]) == ["given", "given"]
    assert again.log_posterior >= first.log_posterior - 1e-9
    resumed = emppl.fit(plan, start=first, starts=0)
    assert resumed.starts["n_iter"][0] <= 5


def test_a_start_on_the_border_is_taken(plan):
    """A fit may end with a weight of zero: what one fit returns another must accept."""
    fit = emppl.fit(plan, start={"bias": [0.6, 0.5], "weights": [0.0, 1.0]}, starts=0, accelerate=None, max_iter=3)
    np.testing.assert_array_equal(fit.trace["weights"][0], [0.0, 1.0])
    assert fit.theta["weights"].values[0] == 0.0  # EM does not leave it
    again = emppl.fit(plan, start=fit, starts=2, seed=0)
    assert again.log_posterior > fit.log_posterior


def test_what_is_not_given_comes_from_the_prior(plan):
    fit = emppl.fit(plan, start={"bias": [0.6, 0.5]}, starts=0, accelerate=None, max_iter=0)
    np.testing.assert_allclose(fit.theta["weights"], [0.5, 0.5])


def test_no_start_at_all(plan):
    with pytest.raises(InvalidArgumentError, match="nothing to start from"):
        emppl.fit(plan, starts=0)


def test_options_of_the_plan_are_kept_and_may_be_changed(plan):
    fixed = emppl.plan(coins.build(weights="free"), freeze={"weights": [0.5, 0.5]}, estimate="ml")
    fit = emppl.fit(fixed, starts=2, seed=0, labels={"coin_of_set": [1, -1, -1, -1, -1]})
    assert "weights" not in fit.plan.structure.parameter_names and fit.plan.estimate == "ml"
    np.testing.assert_array_equal(fit.responsibilities()["coin_of_set"][0], [0.0, 1.0])


# -- weights, labels, hard assignments ---------------------------------------------------------------------------------


def test_weights_of_two_are_rows_given_twice():
    data = pd.read_csv(DATA / "coin_do_batzoglou" / "data.csv")[["heads", "tosses"]]
    twice = pd.concat([data, data])
    weighted = emppl.fit(coins.build(data), starts=3, seed=0, obs_weights=np.full(5, 2.0))
    named = emppl.fit(coins.build(data), starts=3, seed=0, obs_weights={"heads": np.full(5, 2.0)})
    repeated = emppl.fit(coins.build(twice), starts=3, seed=0)
    assert weighted.log_likelihood == pytest.approx(repeated.log_likelihood, abs=1e-7)
    assert named.log_likelihood == weighted.log_likelihood
    np.testing.assert_allclose(np.sort(weighted.theta["bias"]), np.sort(repeated.theta["bias"]), atol=1e-4)
    errors = [np.sort(fit.standard_errors()["bias"]) for fit in (weighted, repeated)]
    np.testing.assert_allclose(*errors, rtol=1e-3)
    assert weighted.certificate.holds


def test_all_labels_known_is_complete_data():
    labels = np.array([1, 0, 0, 1, 0])
    fit = emppl.fit(coins.build(), starts=2, seed=0, labels={"coin_of_set": labels})
    np.testing.assert_allclose(fit.theta["bias"], [0.8, 0.45], rtol=1e-9)
    np.testing.assert_array_equal(fit.assign()["coin_of_set"], labels)


@pytest.mark.parametrize("k", [2, 3])
def test_hard_em_is_k_means(k):
    """Equal weights, one spherical covariance: the least sum of squares, and sigma² = W / (4 n)."""
    case = KMEANS["fits"][f"K{k}"]
    model = gaussian_mixture.build(IRIS, k=k, covariance="tied_spherical", weights="equal")
    fit = emppl.fit(model, method="hard", estimate="ml", seed=0)
    y = IRIS.to_numpy()
    centres, label = fit.theta["mu"].values, fit.assign()["component_of_row"].values
    assert ((y - centres[label]) ** 2).sum() == pytest.approx(case["inertia"], abs=1e-8)
    assert float(fit.theta["sd"]) ** 2 == pytest.approx(case["sigma2"], rel=1e-9)
    assert fit.log_likelihood == pytest.approx(case["classification_loglik"], abs=1e-6)
    assert sorted(np.bincount(label)) == sorted(case["sizes"])
    assert fit.status is Status.CONVERGED


# -- interruption ------------------------------------------------------------------------------------------------------


def interrupt_at(monkeypatch, number: int) -> None:
    """Ctrl-C in the middle of the E-step with that number; later ones run as usual."""
    original, count = Plan.e_step, {"calls": 0}

    def e_step(self, *args, **kwargs):
        count["calls"] += 1
        if count["calls"] == number:
            raise KeyboardInterrupt
        return original(self, *args, **kwargs)

    monkeypatch.setattr(Plan, "e_step", e_step)


@pytest.mark.parametrize("number", [3, 8, 25, 60])
def test_an_interrupted_fit_returns_what_it_has(plan, monkeypatch, number):
    """Wherever Ctrl-C falls, in a short run, a start or between: no more starts, the best so far, and a mark on it."""
    interrupt_at(monkeypatch, number)
    fit = emppl.fit(plan, starts=10, seed=0)
    assert fit.status is Status.INTERRUPTED and "resume" in fit.status.value
    assert len(fit.starts) < 10
    assert np.isfinite(fit.log_posterior) and fit.log_posterior == plan.log_posterior(fit.point)


def test_a_single_start_interrupted_keeps_its_path(plan, monkeypatch):
    interrupt_at(monkeypatch, 5)
    fit = emppl.fit(plan, start={"bias": [0.6, 0.5]}, starts=0, accelerate=None)
    assert fit.status is Status.INTERRUPTED
    assert fit.trace.sizes["iteration"] == 4
    monkeypatch.undo()
    resumed = emppl.fit(plan, start=fit, starts=0)
    assert resumed.status is Status.CONVERGED


def test_ctrl_c_between_two_starts(plan):
    """A callback is where most of the time between starts is spent."""
    seen = []

    def progress(event):
        seen.append(event)
        if len(seen) == 2:
            raise KeyboardInterrupt

    fit = emppl.fit(plan, starts=6, seed=0, progress=progress)
    assert fit.status is Status.INTERRUPTED and len(fit.starts) == 2


@pytest.mark.parametrize("workers", [1, 2])
def test_progress_is_told(plan, workers):
    seen = []
    fit = emppl.fit(plan, starts=3, seed=0, progress=seen.append, workers=workers)
    assert sorted(event["start"] for event in seen) == [1, 2, 3] and seen[0]["of"] == 3
    assert max(event["best"] for event in seen) == pytest.approx(fit.log_posterior, abs=1e-4)


def test_ctrl_c_at_any_pass(plan, monkeypatch):
    """From the first value on something comes back, up to the last look at the fit; before it there is nothing yet."""
    options = {"starts": 2, "seed": 0}
    repr(plan.axes)  # which take passes of their own, once
    for number in [*range(1, 30), *range(30, 400, 7)]:
        monkeypatch.undo()
        interrupt_at(monkeypatch, number)
        try:
            fit = emppl.fit(plan, **options)
        except KeyboardInterrupt:
            assert number == 1
            continue
        if fit.status is not Status.INTERRUPTED:
            break
        assert fit.log_posterior == pytest.approx(plan.log_posterior(fit.point), rel=1e-12)
        assert any("Ctrl-C" in note for note in fit.certificate.notes)
    else:
        pytest.fail("no number of passes was enough")
    assert fit.status is Status.CONVERGED and number > 60


@pytest.mark.parametrize(
    "module, name", [("certificate", "log_joint_agrees"), ("certificate", "gradient_agrees"), ("conclude", "judged"),
                     ("conclude", "_finished"), ("conclude", "_notes"), ("conclude", "make_fit")],
)  # fmt: skip
def test_ctrl_c_after_the_search(plan, monkeypatch, module, name):
    """The search has ended, and what it found is whole: only what is said of it is missing."""
    whole = emppl.fit(plan, starts=3, seed=0)
    place = importlib.import_module(f"emppl.ascent.{module}")
    original, calls = getattr(place, name), []

    def once(*arguments, **options):
        calls.append(name)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return original(*arguments, **options)

    monkeypatch.setattr(place, name, once)
    fit = emppl.fit(plan, starts=3, seed=0)
    assert fit.status is Status.INTERRUPTED and len(fit.starts) == 3
    assert fit.log_posterior == pytest.approx(whole.log_posterior, abs=1e-6)
    repr(fit), str(fit), fit.summary(), fit.responsibilities(), fit.standard_errors()


def test_a_second_ctrl_c_is_not_caught(plan, monkeypatch):
    def again(*_, **__):
        raise KeyboardInterrupt

    interrupt_at(monkeypatch, 20)
    monkeypatch.setattr(conclude, "make_fit", again)
    with pytest.raises(KeyboardInterrupt):
        emppl.fit(plan, starts=3, seed=0)


def test_a_signal_that_a_callee_swallows_is_not_lost(plan, monkeypatch):
    """Compilers and callbacks of C print what is raised in them, and go on."""
    original, calls = loop.collapse, []

    def deaf(*arguments):
        calls.append(1)
        if len(calls) == 3:
            with contextlib.suppress(BaseException):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(1.0)
        return original(*arguments)

    monkeypatch.setattr(loop, "collapse", deaf)
    fit = emppl.fit(plan, starts=5, seed=0)
    assert fit.status is Status.INTERRUPTED and len(fit.starts) < 5


# -- worker processes --------------------------------------------------------------------------------------------------

SLOW = {"seed": 1, "accelerate": None, "max_iter": 10_000_000, "tol": 0}  # far longer than a test waits


@pytest.fixture
def children(plan):
    """Called with a function of a worker process, it is run on one of them once they are at work; none stays."""
    before = active_children()

    def run(act):
        while not (found := [child for child in active_children() if child not in before]):
            time.sleep(0.01)
        time.sleep(0.3)
        act(found[0])

    yield lambda act: threading.Thread(target=run, args=(act,), daemon=True).start()
    assert [child for child in active_children() if child not in before] == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="worker processes are forked")
def test_ctrl_c_with_workers(plan, children):
    children(lambda _: os.kill(os.getpid(), signal.SIGINT))
    fit = emppl.fit(plan, starts=5, workers=2, **SLOW)
    assert fit.status is Status.INTERRUPTED and 1 <= len(fit.starts) <= 5
    assert fit.log_posterior == plan.log_posterior(fit.point)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="worker processes are forked")
def test_ctrl_c_with_a_worker_that_hangs(plan, children):
    def act(child):
        os.kill(child.pid, signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGINT)

    children(act)
    fit = emppl.fit(plan, starts=5, workers=2, **SLOW)
    assert fit.status is Status.INTERRUPTED


@pytest.mark.skipif(not hasattr(os, "fork"), reason="worker processes are forked")
def test_a_killed_worker_costs_its_start_a_second_time(plan, monkeypatch, tmp_path):
    """Made again, it ends where it would have ended, and a note says so."""
    expected, original = emppl.fit(plan, starts=4, seed=3), pool.ascend

    def deadly(plan, theta, **options):
        if options.get("tol") is not None:  # no short run
            mark = tmp_path / "ascents"
            with mark.open("ab") as file:
                file.write(b".")
            if mark.stat().st_size == 2:
                os.kill(os.getpid(), signal.SIGKILL)
        return original(plan, theta, **options)

    monkeypatch.setattr(pool, "ascend", deadly)
    fit = emppl.fit(plan, starts=4, seed=3, workers=2)
    same(fit, expected)
    assert any("SIGKILL" in note and "made again" in note for note in fit.certificate.notes)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="worker processes are forked")
def test_a_start_that_kills_every_worker_has_failed(plan, monkeypatch):
    original = pool.start_point

    def deadly(plan, kind, rng):
        if kind == "random":
            os.kill(os.getpid(), signal.SIGKILL)
        return original(plan, kind, rng)

    monkeypatch.setattr(pool, "start_point", deadly)
    fit = emppl.fit(plan, starts=3, seed=3, workers=2)
    assert list(fit.starts["status"]) == ["CONVERGED", "FAILED", "CONVERGED"]
    assert "SIGKILL" in fit.starts["reason"][1] and fit.status is Status.CONVERGED


@pytest.mark.skipif(not hasattr(os, "fork"), reason="worker processes are forked")
def test_ctrl_c_while_a_start_is_sent_leaves_no_buffer_behind(plan, monkeypatch):
    """A view of a BytesIO in a traceback that ends in a cycle is an error out of the blue, wherever garbage is met."""
    unraisable = []
    monkeypatch.setattr(sys, "unraisablehook", unraisable.append)

    def interrupted(self, buffer):
        problem = KeyboardInterrupt()
        problem.cycle = problem
        raise problem

    with pool.Crew(plan, 1) as crew:
        worker = crew.another()
        with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
            patch.setattr(Connection, "_send_bytes", interrupted)
            worker.give(0, ())
    gc.collect()
    assert not unraisable


@pytest.mark.skipif(not hasattr(os, "fork"), reason="worker processes are forked")
def test_an_error_of_a_worker_is_the_parents(plan, monkeypatch):
    def wrong(*_):
        raise SourceError("what a source met", "where")

    monkeypatch.setattr(pool, "start_point", wrong)
    with pytest.raises(SourceError, match="what a source met"):
        emppl.fit(plan, starts=3, seed=3, workers=2)


# -- nothing hidden, nothing to start from -----------------------------------------------------------------------------


def test_a_model_without_latents_is_plain_map():
    with pm.Model() as model:
        p = pm.Beta("p", np.float64(3.0), np.float64(2.0))
        pm.Binomial("heads", n=np.int64(10), p=p, observed=np.array([7, 8]))
    plan = emppl.plan(model)
    assert "no latent variable" in str(plan) and plan.estep.startswith("none")
    fit = emppl.fit(plan, seed=0)
    assert float(fit.theta["p"]) == pytest.approx((15 + 2) / (20 + 3), rel=1e-9)
    assert fit.status is Status.CONVERGED and fit.certificate.holds
    assert len(fit.responsibilities()) == 0


def test_a_regression_without_latents():
    """No closed form, no latent: the mode of ridge regression."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(30, 2))
    y = x @ [1.0, -2.0] + rng.normal(size=30)
    with pm.Model() as model:
        b = pm.Normal("b", np.float64(0.0), np.float64(2.0), shape=2)
        pm.Normal("y", x @ b, np.float64(1.0), observed=y)
    fit = emppl.fit(model, seed=0, starts=2)
    np.testing.assert_allclose(fit.theta["b"], np.linalg.solve(x.T @ x + np.eye(2) / 4, x.T @ y), rtol=1e-6)
    assert fit.certificate.holds


def test_flat_priors():
    """They cannot be drawn from, and need not be."""
    y = np.array([-3.1, -2.9, -3.3, 2.7, 3.0, 3.2, 2.6])
    with pm.Model() as model:
        mu, sd = pm.Flat("mu", shape=2), pm.HalfFlat("sd")
        z = pm.Bernoulli("z", np.float64(0.5), shape=7)
        pm.Normal("y", mu[z], sd, observed=y)
    fit = emppl.fit(model, seed=0)
    assert fit.status is Status.CONVERGED
    np.testing.assert_allclose(np.sort(fit.theta["mu"]), [y[:3].mean(), y[3:].mean()], atol=1e-3)


def test_nothing_left_to_estimate():
    fit = emppl.fit(coins.build(), freeze={"bias": [0.8, 0.5]})
    assert fit.log_likelihood == pytest.approx(small_fit_value([0.8, 0.5]), abs=1e-10)
    assert fit.responsibilities()["coin_of_set"].shape == (5, 2)


def small_fit_value(bias) -> float:
    return emppl.plan(coins.build()).log_likelihood({"bias": np.array(bias)})


def test_an_observation_that_no_parameter_allows():
    """Not a failed search, but the observation."""
    with pm.Model() as model:
        m = pm.Uniform("m", np.float64(0.0), np.float64(1.0))
        z = pm.Bernoulli("z", np.float64(0.5), shape=2)
        pm.Uniform("y", m + z, m + z + np.float64(1.0), observed=np.array([1.7, 40.0]))  # 1.7 where z is 1
    with pytest.raises(InvalidDataError, match=r"y\[1\] = 40"):
        emppl.fit(model, seed=0)


def test_no_start_with_a_density():
    """Two observations, each of which has a density, and never both: the search says that it found nothing."""
    with pm.Model() as model:
        pm.Uniform("m", np.float64(0.0), np.float64(1.0))
        z = pm.Bernoulli("z", np.float64(0.5), shape=2)
        pm.Normal("y", z, np.float64(1.0), observed=np.array([0.5, 1.0]))
        pm.Potential("never", pm.math.log(np.float64(0.0)))
    with pytest.raises(NoStartError) as caught:
        emppl.fit(model, seed=0)
    assert "no start of 10" in caught.value.what and caught.value.remedies


def test_unusual_structures_are_fitted():
    """Whatever the structure, a short fit ends with a finite objective and a derived log joint that is PyMC's."""
    for name in ("vector_of_latents", "change_point", "two_plates", "pairs"):
        case = small_models.model(name)
        fit = emppl.fit(emppl.plan(case.model, **case.options), starts=2, seed=0)
        points = {point.name: point for point in fit.certificate.points}
        assert np.isfinite(fit.log_posterior), name
        assert points["log joint"].holds and points["gradient"].holds and points["ascent"].holds, name
