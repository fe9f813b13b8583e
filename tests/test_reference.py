"""The best known answers on published data, reached from the defaults: `emppl.fit(model, estimate="ml", seed=s)`."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import emppl
from emppl.models import coins, gaussian_mixture, poisson_mixture

DATA = Path(__file__).parent / "data"
SHAPES = {"full": "full", "tied": "tied", "diag": "diagonal", "spherical": "spherical"}
HOUSES = {"price_in_thousands": "windsor_prices", "log_price_and_log_lot": "windsor_houses"}


def reference(case: str) -> dict:
    return json.loads((DATA / case / "reference.json").read_text())


def table(case: str) -> pd.DataFrame:
    return pd.read_csv(DATA / case / "data.csv")


def reaches(model, log_likelihood: float, seed: int = 0) -> emppl.Fit:
    """The fit found what is known to be best, knows that it has converged, and says so."""
    fit = emppl.fit(model, estimate="ml", seed=seed)
    assert fit.log_likelihood == pytest.approx(log_likelihood, abs=1e-6)
    assert fit.log_posterior == fit.log_likelihood and fit.log_prior == 0.0
    assert fit.status is emppl.Status.CONVERGED
    return fit


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("weights", ["known", "free"])
def test_coins(weights, seed):
    case = reference("coin_do_batzoglou")
    case = case["variants"]["free_weight"] if weights == "free" else case
    fit = reaches(coins.build(weights=weights), case["loglik"], seed)
    order = np.argsort(-fit.theta["bias"].values)
    known = case["parameters"]
    np.testing.assert_allclose(fit.theta["bias"].values[order], [known["theta_A"], known["theta_B"]], atol=2e-4)
    r = fit.responsibilities()["coin_of_set"].values[:, order[0]]
    np.testing.assert_allclose(r, known["responsibility_A"], atol=2e-4)
    assert fit.certificate.holds


def test_coins_with_known_labels():
    case = reference("coin_do_batzoglou")["variants"]
    known = emppl.fit(coins.build(labels="known"), estimate="ml", seed=0)
    np.testing.assert_allclose(known.theta["bias"], list(case["complete_data"]["parameters"].values()), rtol=1e-9)
    labels = np.where(table("coin_do_batzoglou")["coin_in_paper"] == "B", 1, 0)
    given = emppl.fit(coins.build(), estimate="ml", seed=0, labels={"coin_of_set": labels})
    np.testing.assert_allclose(given.theta["bias"], known.theta["bias"], rtol=1e-9)
    assert given.log_likelihood == pytest.approx(known.log_likelihood, rel=1e-12)
    one = reaches(coins.build(k=1), case["one_coin"]["loglik"])
    np.testing.assert_allclose(one.theta["bias"], 0.66, rtol=1e-9)


@pytest.mark.parametrize("shape", SHAPES)
def test_old_faithful(shape):
    case = reference("old_faithful_gmm2")["fits"][shape]
    fit = reaches(gaussian_mixture.build(table("old_faithful_gmm2"), covariance=SHAPES[shape]), case["loglik"])
    order = np.argsort(fit.theta["mu"].values[:, 0])
    known = case["parameters"]
    np.testing.assert_allclose(fit.theta["weights"].values[order], known["weights"], atol=1e-4)
    np.testing.assert_allclose(fit.theta["mu"].values[order], known["means"], rtol=1e-4)
    covariances = np.array(known["covariances"])
    if shape in ("full", "tied"):
        found = fit.theta["cov"].values
        found = found[order] if shape == "full" else np.stack([found, found])
        np.testing.assert_allclose(found, covariances, rtol=1e-3)
    else:
        sd = np.sqrt(np.diagonal(covariances, axis1=-2, axis2=-1))
        found = fit.theta["sd"].values[order]
        np.testing.assert_allclose(found, sd if shape == "diag" else sd[:, 0], rtol=1e-3)
    assert fit.certificate.holds


@pytest.mark.parametrize("shape", SHAPES)
def test_iris(shape):
    case = reference("iris_gmm3")["fits"][shape]
    flowers = table("iris_gmm3").drop(columns="species")
    reaches(gaussian_mixture.build(flowers, k=3, covariance=SHAPES[shape]), case["loglik"])


@pytest.mark.parametrize("variance, k", [("equal", 1), ("equal", 2), ("equal", 3), ("unequal", 3)])
def test_galaxies(variance, k):
    case = reference("galaxies")["fits"][f"{variance}_K{k}"]
    shape = "tied_spherical" if variance == "equal" else "spherical"
    model = gaussian_mixture.build(table("galaxies"), k=k, covariance=shape, columns="velocity_1000km_s")
    fit = reaches(model, case["loglik"])
    order = np.argsort(fit.theta["mu"].values)
    np.testing.assert_allclose(fit.theta["mu"].values[order], case["parameters"]["means"], rtol=1e-3)


def test_death_notices():
    """EM's textbook case of slowness: plain EM needs 1287 steps to come as near."""
    case = reference("death_notices_poisson")
    fit = reaches(poisson_mixture.build(), case["loglik"])
    np.testing.assert_allclose(np.sort(fit.theta["rate"].values), case["parameters"]["rates"], atol=1e-3)
    assert fit.n_passes < 300


def test_one_rate():
    case = reference("death_notices_poisson")["variants"]["one_poisson"]
    fit = reaches(poisson_mixture.build(k=1), case["loglik"])
    np.testing.assert_allclose(fit.theta["rate"], case["parameters"]["mu"], rtol=1e-9)


@pytest.mark.parametrize(
    "columns, k",
    [("price_in_thousands", 1), ("price_in_thousands", 2), ("log_price_and_log_lot", 2)],
)
def test_house_prices(columns, k):
    case = reference("house_prices")["fits"][f"{columns}, K={k}"]
    reaches(gaussian_mixture.build(example=HOUSES[columns], k=k), case["loglik"])


@pytest.mark.parametrize("seed", [0, 1])
def test_house_prices_without_a_maximum(seed):
    """17 houses cost exactly 50,000: a component on them alone has no bound, and no inner mode is passed off as one."""
    fit = emppl.fit(gaussian_mixture.build(example="windsor_prices", k=3), estimate="ml", seed=seed)
    assert fit.status is emppl.Status.DEGENERATE
    said = f"{fit.status.value} {fit.certificate}"
    assert not fit.certificate.holds
    assert "17 observations are equal" in said and "prior" in said
    assert np.isfinite(fit.log_likelihood) and fit.log_likelihood < -2490  # what is shown is an inner mode


def test_a_narrow_component_is_pointed_out():
    """Seven galaxies at 9.7 with a tenth of the spread of all: the best mode has a component on them alone."""
    case = reference("galaxies")["fits"]["unequal_K2"]
    model = gaussian_mixture.build(table("galaxies"), k=2, covariance="spherical", columns="velocity_1000km_s")
    fit = emppl.fit(model, estimate="ml", seed=0)
    assert fit.log_likelihood == pytest.approx(case["loglik"], abs=1e-6)
    (note,) = [note for note in fit.certificate.notes if "narrow" in note]
    assert "of y" in note and "6.98" in note
