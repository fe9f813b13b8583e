"""The loop: the paper's iterates, a rising objective, stopping by what is left, honest statuses."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pymc as pm
import pytest
import small_models

import emppl
from emppl import Status
from emppl.ascent.loop import ascend
from emppl.models import coins, poisson_mixture
from emppl.planner import Plan

DATA = Path(__file__).parents[1] / "data"
COINS = json.loads((DATA / "coin_do_batzoglou" / "reference.json").read_text())
PRIORS = json.loads((DATA / "map_priors" / "reference.json").read_text())["fits"]
DEATHS = json.loads((DATA / "death_notices_poisson" / "reference.json").read_text())


@pytest.fixture(scope="module")
def known():
    return emppl.plan(coins.build())


def plain(model, start: dict, steps: int, **options) -> emppl.Fit:
    """Textbook EM, all of its steps."""
    return emppl.fit(model, start=start, starts=0, accelerate=None, max_iter=steps, tol=1e-300, **options)


def test_the_iterates_of_the_paper(known):
    """Do & Batzoglou's ten steps from (.6, .5), to the last digits; parameters and objective leave together."""
    path = COINS["path"]
    fit = plain(known, {"bias": [path[0]["theta_A"], path[0]["theta_B"]]}, 10)
    assert fit.status is Status.MAX_ITER and fit.n_iter == 10 and fit.n_passes == 11
    assert fit.trace.sizes["iteration"] == len(path)
    expected = np.array([[step["theta_A"], step["theta_B"]] for step in path])
    np.testing.assert_allclose(fit.trace["bias"], expected, atol=1e-10)
    np.testing.assert_allclose(fit.trace["log_posterior"], [step["loglik"] for step in path], atol=1e-10)
    for step, bias in zip(path, expected):
        r = known.responsibilities({"bias": bias})["coin_of_set"]
        np.testing.assert_allclose(r[:, 0], step["resp_A"], atol=1e-10)
    np.testing.assert_array_equal(fit.theta["bias"], fit.trace["bias"].isel(iteration=-1))
    assert fit.log_posterior == fit.trace["log_posterior"].values[-1]


def test_the_iterates_with_free_weights():
    path = COINS["variants"]["free_weight"]["path"]
    start = {
        "bias": [path[0]["theta_A"], path[0]["theta_B"]],
        "weights": [path[0]["weight_A"], 1 - path[0]["weight_A"]],
    }
    fit = plain(coins.build(weights="free"), start, 10)
    expected = [[step["weight_A"], step["theta_A"], step["theta_B"]] for step in path]
    found = np.column_stack([fit.trace["weights"][:, 0], fit.trace["bias"]])
    np.testing.assert_allclose(found, expected, atol=1e-10)
    np.testing.assert_allclose(fit.trace["log_posterior"], [step["loglik"] for step in path], atol=1e-10)


def test_the_iterates_of_two_poissons():
    path = DEATHS["path"]
    start = {"rate": [path[0]["mu1"], path[0]["mu2"]], "weights": [path[0]["p"], 1 - path[0]["p"]]}
    at = [step["iteration"] for step in path if step["iteration"] <= 200]
    fit = plain(poisson_mixture.build(), start, at[-1], estimate="ml")
    expected = [[step["p"], step["mu1"], step["mu2"]] for step in path[: len(at)]]
    trace = fit.trace.isel(iteration=at)
    np.testing.assert_allclose(np.column_stack([trace["weights"][:, 0], trace["rate"]]), expected, atol=1e-9)
    np.testing.assert_allclose(trace["log_posterior"], [step["loglik"] for step in path[: len(at)]], atol=1e-8)


def poissons_with_priors() -> pm.Model:
    table = pd.read_csv(DATA / "map_priors" / "data.csv")
    y = np.repeat(table["deaths"].to_numpy(), table["days"].to_numpy())
    with pm.Model() as model:
        w = pm.Dirichlet("w", np.array([2.0, 2.0]))
        mu = pm.Gamma("mu", np.float64(2.0), np.float64(1.0), shape=2)
        z = pm.Categorical("z", p=w, shape=len(y))
        pm.Poisson("y", mu[z], observed=y)
    return model


@pytest.fixture(scope="module")
def with_priors():
    return emppl.plan(poissons_with_priors())


def test_the_iterates_under_conjugate_priors(with_priors):
    """Pseudo-counts: the path of MAP, with its log posterior."""
    path = PRIORS["poisson_mixture"]["path"]
    start = {"w": [path[0]["p"], 1 - path[0]["p"]], "mu": [path[0]["mu1"], path[0]["mu2"]]}
    fit = plain(with_priors, start, len(path) - 1)
    expected = [[step["p"], step["mu1"], step["mu2"]] for step in path]
    np.testing.assert_allclose(np.column_stack([fit.trace["w"][:, 0], fit.trace["mu"]]), expected, atol=1e-9)
    np.testing.assert_allclose(fit.trace["log_posterior"], [step["log_posterior"] for step in path], atol=1e-8)


def test_the_mode_under_conjugate_priors(with_priors):
    case = PRIORS["poisson_mixture"]
    fit = emppl.fit(with_priors, seed=0)
    assert fit.log_posterior == pytest.approx(case["log_posterior"], abs=1e-7)
    assert fit.log_likelihood == pytest.approx(case["loglik"], abs=1e-4)
    assert fit.log_likelihood + fit.log_prior == pytest.approx(fit.log_posterior, abs=1e-9)
    np.testing.assert_allclose(
        np.sort(fit.theta["mu"]), [case["parameters"]["mu1"], case["parameters"]["mu2"]], rtol=1e-4
    )


def test_the_mode_with_the_variance_as_parameter():
    """Normal means, inverse-gamma variances: the mode depends on the parametrisation, and this is that of the model."""
    case = PRIORS["normal_mixture"]
    y = pd.read_csv(DATA / "map_priors" / "galaxies.csv")["velocity_1000km_s"].to_numpy()
    with pm.Model() as model:
        w = pm.Dirichlet("w", np.full(3, 2.0))
        mu = pm.Normal("mu", np.float64(20.0), np.float64(10.0), shape=3)
        v = pm.InverseGamma("v", np.float64(2.0), np.float64(1.0), shape=3)
        z = pm.Categorical("z", p=w, shape=len(y))
        pm.Normal("y", mu[z], pm.math.sqrt(v[z]), observed=y)
    fit = emppl.fit(model, seed=0)
    assert fit.log_posterior == pytest.approx(case["log_posterior"], abs=1e-6)
    assert fit.log_prior == pytest.approx(case["log_prior"], abs=1e-3)
    order = np.argsort(fit.theta["mu"].values)
    np.testing.assert_allclose(fit.theta["v"].values[order], case["parameters"]["variances"], rtol=1e-3)


# -- the objective rises -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("accelerate", [None, "squarem"])
@pytest.mark.parametrize("name", ["coins", "two_binary_latents", "gaussian_diagonal", "heavy_tails", "ordered_means"])
def test_no_step_falls(name, accelerate):
    plan = small_models.plan(name)
    for theta in small_models.points(plan, count=2):
        done = ascend(plan, theta, accelerate=accelerate, max_iter=60)
        steps = np.diff(done.path)
        assert (steps >= -1e-9 * np.maximum(1.0, np.abs(done.path[:-1]))).all()
        assert done.objective == done.path[-1] == plan.e_step(done.theta).objective


def test_a_wrong_rule_is_noticed(known, monkeypatch):
    """An M-step that walks downhill: the status says whose fault it is."""
    monkeypatch.setattr(Plan, "m_step", lambda self, theta, posterior: {"bias": theta["bias"] * 0.9})
    done = ascend(known, {"bias": np.array([0.8, 0.5])}, accelerate=None)
    assert done.status is Status.DECREASED and "fell by" in done.reason
    fit = emppl.fit(known, start={"bias": [0.8, 0.5]}, starts=0, accelerate=None)
    assert fit.status is Status.DECREASED and not fit.certificate.holds


# -- stopping ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("accelerate", [None, "squarem"])
@pytest.mark.parametrize("tol", [1e-3, 1e-7])
def test_stops_when_little_is_left_to_gain(accelerate, tol):
    """What Aitken's rule says is left is what is left, even where EM creeps."""
    plan = emppl.plan(poisson_mixture.build(), estimate="ml")
    start = {"rate": np.array([1.0, 2.5]), "weights": np.array([0.3, 0.7])}
    done = ascend(plan, start, tol=tol, accelerate=accelerate, max_iter=5000)
    assert done.status is Status.CONVERGED
    assert DEATHS["loglik"] - done.objective < 3 * tol
    if accelerate is None and tol == 1e-3:
        assert done.n_iter < 1.5 * DEATHS["em_iterations"]["until_distance_to_maximum_below"]["loglik_0.001"]


def test_small_steps_are_not_the_end():
    """Where a step gains less than tol but a hundred times as much is left, EM goes on."""
    plan = emppl.plan(poisson_mixture.build(), estimate="ml")
    start = {"rate": np.array([1.0, 2.5]), "weights": np.array([0.3, 0.7])}
    done = ascend(plan, start, tol=1e-4, accelerate=None, max_iter=5000)
    assert np.diff(done.path)[-1] < 1e-6


def test_iterations_may_run_out(known):
    fit = emppl.fit(known, start={"bias": [0.6, 0.5]}, starts=0, max_iter=2)
    assert fit.status is Status.MAX_ITER and "max_iter" in fit.status.value
    assert np.isfinite(fit.log_posterior)
    none = emppl.fit(known, start={"bias": [0.6, 0.5]}, starts=0, max_iter=0, accelerate=None)
    np.testing.assert_array_equal(none.theta["bias"], [0.6, 0.5])
    assert none.log_posterior == pytest.approx(COINS["path"][0]["loglik"], abs=1e-12)


def test_a_start_of_no_density_fails(known):
    done = ascend(known, {"bias": np.array([0.0, 0.0])})
    assert done.status is Status.FAILED and "start" in done.reason


def test_a_saddle_is_no_maximum(known):
    """Equal coins are a stationary point, and no maximum: it is said, with the direction that leads on."""
    fit = emppl.fit(known, start={"bias": [0.66, 0.66]}, starts=0)
    point = {p.name: p for p in fit.certificate.points}["maximum"]
    assert not point.holds and "saddle" in point.text and "bias" in point.text
    assert fit.status is Status.SADDLE
    better = emppl.fit(known, start={"bias": [0.66, 0.66]}, starts=5, seed=0)
    assert better.status is Status.CONVERGED and better.log_posterior > fit.log_posterior + 0.4


# -- acceleration ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["coins", "two_binary_latents", "gaussian_diagonal", "ordered_means", "zero_inflated"])
def test_squarem_and_plain_em_reach_the_same(name):
    plan = small_models.plan(name)
    theta = small_models.points(plan, count=1)[0]
    plain = ascend(plan, theta, accelerate=None, tol=1e-9, max_iter=5000)
    fast = ascend(plan, theta, accelerate="squarem", tol=1e-9)
    assert fast.objective == pytest.approx(plain.objective, abs=1e-6)
    for parameter in theta:
        np.testing.assert_allclose(fast.theta[parameter], plain.theta[parameter], rtol=1e-2, atol=1e-3)


def test_squarem_is_faster():
    plan = emppl.plan(poisson_mixture.build(), estimate="ml")
    start = {"rate": np.array([1.0, 2.5]), "weights": np.array([0.3, 0.7])}
    plain = ascend(plan, start, accelerate=None, max_iter=5000, finish=False)
    fast = ascend(plan, start, accelerate="squarem", finish=False)
    assert fast.n_passes < plain.n_passes / 3
