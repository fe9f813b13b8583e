"""Several fits in one comparison, and what each part of a comparison rests on, against direct computation."""

import arviz as az
import numpy as np
import pymc as pm
import pytest
from made import counts as poisson
from scipy.stats import wasserstein_distance

import emppl
from emppl.errors import InvalidArgumentError


@pytest.fixture(scope="module")
def made():
    rng = np.random.default_rng(11)
    counts = poisson.alike(poisson.apart(rng, 2), 2)
    model = counts.model()
    fit = emppl.fit(model, starts=4, seed=0)
    return counts, model, fit, counts.tree(counts.gibbs([fit.point] * 4, rng))


@pytest.fixture(scope="module")
def comparison(made):
    _, model, fit, draws = made
    turned = {name: values[::-1] for name, values in fit.point.items()}
    others = {
        "ML": emppl.fit(model, start=turned, starts=0, estimate="ml"),
        "hard": emppl.fit(model, start=turned, starts=0, method="hard"),
    }
    return emppl.compare({"MAP": fit, **others}, draws)


def verdict(comparison, name):
    return next(v for v in comparison.verdicts if v.name == name)


def test_estimates_are_in_the_names_of_the_first(made, comparison):
    _, _, fit, draws = made
    table = comparison.estimates
    assert list(table.columns) == ["MAP", "ML", "hard", "mean", "sd"]
    rates = ["rate[0]", "rate[1]"]
    np.testing.assert_allclose(table.loc[rates, "MAP"], fit.point["rate"])
    for name in ("ML", "hard"):
        np.testing.assert_allclose(table.loc[rates, name], comparison.fits[name].point["rate"][::-1])
        np.testing.assert_allclose(table.loc[rates, name], fit.point["rate"], rtol=0.02)
    np.testing.assert_allclose(table.loc[rates, "mean"], draws["posterior"]["rate"].mean(("chain", "draw")))
    largest = ((table["ML"] - table["MAP"]) / table["sd"]).abs().max()
    assert verdict(comparison, "ML").value == pytest.approx(largest)
    assert "on the same hill" in verdict(comparison, "ML").text
    assert "as k-means does" in verdict(comparison, "hard").text
    assert "all fits beside the posterior" in str(comparison)


def test_a_fit_that_stopped_short_is_beaten_by_the_other(made):
    _, model, fit, draws = made
    start = {"weights": [0.5, 0.5], "rate": fit.point["rate"] * 1.2}
    early = emppl.fit(model, start=start, starts=0, max_iter=0, accelerate=None)
    found = verdict(emppl.compare({"EM": fit, "early": early}, draws, ascents=0), "early")
    assert found.check and not found.holds
    lead = fit.log_posterior - early.log_posterior
    assert f"early is to maximise the log posterior, and EM's point has {lead:.2g} nats more of it" in found.text


def test_one_fit_in_a_mapping_is_the_fit_itself(made):
    _, _, fit, draws = made
    alone = emppl.compare({"EM": fit}, draws, ascents=0)
    assert alone.estimates is None
    assert alone.fits == {"EM": fit}
    assert [v.text for v in alone.verdicts] == [v.text for v in emppl.compare(fit, draws, ascents=0).verdicts]


def test_fits_of_different_models_are_refused(made):
    counts, _, fit, draws = made
    other = emppl.fit(poisson.alike(counts.y, 3).model(), starts=1, seed=0)
    with pytest.raises(InvalidArgumentError, match="three is a fit of another model than EM"):
        emppl.compare({"EM": fit, "three": other}, draws)
    with pytest.raises(InvalidArgumentError, match="no fit is given"):
        emppl.compare({}, draws)
    with pytest.raises(InvalidArgumentError, match="ML is a dict, no Fit"):
        emppl.compare({"EM": fit, "ML": {}}, draws)


def test_loo_is_that_of_arviz(made, comparison):
    _, _, _, draws = made
    expected = az.loo(draws, pointwise=True)
    assert comparison.prediction.elpd == pytest.approx(float(expected.elpd), abs=0.02)
    assert comparison.prediction.effective == pytest.approx(float(expected.p), abs=0.05)
    assert comparison.prediction.rows == expected.pareto_k.size
    assert comparison.prediction.groups.empty


def test_the_normal_approximation_beside_the_draws(made, comparison):
    _, _, fit, draws = made
    approximate = fit.to_datatree(4000, seed=0)["posterior"]["rate"].values[0, :, 1]
    exact = draws["posterior"]["rate"].values[..., 1].ravel()
    row = comparison.laplace.loc["rate[1]"]
    assert row["mean"] == pytest.approx(approximate.mean())
    assert row["distance"] == pytest.approx(wasserstein_distance(approximate, exact) / exact.std())
    low, high = np.quantile(approximate, [0.025, 0.975])
    assert row["coverage"] == pytest.approx(((exact >= low) & (exact <= high)).mean())
    assert list(comparison.laplace.index) == list(comparison.table.index)


def test_hard_em_is_not_blamed_for_its_height():
    with pm.Model() as close:  # a third of the members between the two: hard and soft differ
        rate = pm.Gamma("rate", np.float64(2.0), np.float64(0.2), shape=2)
        z = pm.Categorical("z", p=np.array([0.5, 0.5]), shape=60)
        pm.Poisson("y", rate[z], observed=np.repeat([3, 6, 9], 20))
    fit = emppl.fit(close, method="hard", starts=4, seed=0)
    soft = emppl.fit(close, start=fit, starts=0)
    drawn = soft.to_datatree(400, seed=1)["posterior"]["rate"].values.reshape(4, 100, 2)
    found = verdict(emppl.compare(fit, az.from_dict({"posterior": {"rate": drawn}})), "modes")
    assert not found.check
    assert "hard EM climbs another objective" in found.text


def test_components_that_are_not_needed_are_named():
    """One rate and two components: at the mode both are the same."""
    rng = np.random.default_rng(3)
    counts = poisson.alike(np.full(50, 4), 2)
    fit = emppl.fit(counts.model(), starts=4, seed=0)
    found = emppl.compare(fit, counts.tree(counts.gibbs([fit.point] * 4, rng, draws=100)))
    spare = verdict(found, "components")
    assert not spare.holds
    assert spare.value == 1
    assert "0 and 1 hold the same members" in spare.text


def test_ml_is_aligned_where_only_its_prior_tells_components_apart():
    """Without the prior the names are free; with it they are not."""
    rng = np.random.default_rng(4)
    y = poisson.apart(rng, 2)
    centres = np.sort([y[y < y.mean()].mean(), y[y > y.mean()].mean()])
    counts = poisson.Counts(y, np.full(2, 4.0), 4.0 / centres)
    model = counts.model()
    fit = emppl.fit(model, starts=4, seed=0)
    turned = {name: values[::-1] for name, values in fit.point.items()}
    ml = emppl.fit(model, start=turned, starts=0, estimate="ml")
    draws = counts.tree(counts.gibbs([fit.point] * 4, rng, draws=100))
    table = emppl.compare({"MAP": fit, "ML": ml}, draws, ascents=0).estimates
    np.testing.assert_allclose(table.loc[["rate[0]", "rate[1]"], "ML"], ml.point["rate"][::-1])
