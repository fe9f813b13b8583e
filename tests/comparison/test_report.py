"""Comparison: table and verdicts against hand computations, in made situations with known truth."""

import json
from types import SimpleNamespace

import arviz as az
import numpy as np
import pymc as pm
import pytest
import xarray as xr
from comparison import fakes

import emppl
from emppl.comparison import VERDICTS, compare
from emppl.comparison.table import COLUMNS
from emppl.errors import InvalidArgumentError

CHAINS, DRAWS = 4, 300


@pytest.fixture(scope="module")
def pair():
    fit, draws = fakes.case(2, n=80, gap=6.0, chains=CHAINS, draws=DRAWS)
    return fit, draws


@pytest.fixture(scope="module")
def comparison(pair):
    fit, draws = pair
    perms = np.stack([np.tile(perm, (DRAWS, 1)) for perm in ([0, 1], [1, 0], [1, 0], [0, 1])])
    return compare(fit, fakes.switch(draws, perms, fit.plan))


def verdict(comparison, name):
    return next(v for v in comparison.verdicts if v.name == name)


def with_posterior(draws, **variables):
    out = draws.copy()
    posterior = draws["posterior"].to_dataset()
    out["posterior"] = xr.DataTree(posterior.assign({k: posterior[k].copy(data=v) for k, v in variables.items()}))
    return out


def test_agreement_up_to_names(comparison):
    assert comparison.headline.startswith("EM and NUTS agree, up to which component is called which")
    assert comparison.reliable
    assert "2 of 4 swapped" in verdict(comparison, "labels").text
    assert repr(comparison) == "Comparison(fake_mixture: 9 rows, all checks hold)"


def test_table_equals_hand_computation(pair, comparison):
    """Labels were switched in two chains: aligned numbers must be those of the unswitched draws."""
    fit, draws = pair
    table = comparison.table
    assert list(table.columns) == COLUMNS
    assert list(table.index[:6]) == [f"{name}[{k}]" for name in ("weights", "mu", "sigma") for k in "AB"]
    mu = draws["posterior"]["mu"].values[..., 1]
    row = table.loc["mu[B]"]
    assert row["estimate"] == fit.point["mu"][1]
    assert row["standard_error"] == pytest.approx(float(fit.standard_errors()["mu"][1]))
    np.testing.assert_allclose(row[["low", "high"]].to_numpy(float), fit.intervals()["mu"].values[:, 1])
    assert row["mean"] == pytest.approx(mu.mean())
    assert row["sd"] == pytest.approx(mu.std(ddof=1))
    assert row["difference"] == pytest.approx((fit.point["mu"][1] - mu.mean()) / mu.std(ddof=1))
    assert row["r_hat"] == pytest.approx(float(az.rhat(mu)))
    assert row["ess_bulk"] == pytest.approx(float(az.ess(mu)))
    ordered = np.sort(mu.ravel())
    inside = int(np.ceil(0.95 * len(ordered)))
    widths = ordered[inside - 1 :] - ordered[: len(ordered) - inside + 1]
    assert row["hdi_high"] - row["hdi_low"] == pytest.approx(widths.min(), rel=0.02)
    assert comparison.details.loc["overall_mean", "derived"]
    assert not comparison.details.loc["mu[B]", "derived"]


def test_place_and_shape_equal_hand_computation(pair, comparison):
    fit, draws = pair
    ends = fit.intervals()
    tails, coverages = {}, {}
    for name in ("weights", "mu", "sigma"):
        values = draws["posterior"][name].values.reshape(-1, 2)
        for k, label in enumerate("AB"):
            estimate, (low, high) = fit.point[name][k], ends[name].values[:, k]
            below = (values[:, k] < estimate).mean()
            tails[f"{name}[{label}]"] = min(below, 1 - below)
            coverages[f"{name}[{label}]"] = ((values[:, k] >= low) & (values[:, k] <= high)).mean()
    place, shape = verdict(comparison, "place"), verdict(comparison, "shape")
    assert place.value == pytest.approx(min(tails.values()))
    assert min(tails, key=tails.get) in place.text
    assert shape.value == pytest.approx(min(coverages.values()), abs=1e-3)
    assert min(coverages, key=coverages.get) in shape.text
    assert f"{shape.value:.0%}" in shape.text


def test_members_equal_hand_computation(pair, comparison):
    fit, draws = pair
    em = fit.plan.responsibilities(fit.point)["component_of_row"]
    mean = draws["latent"]["component_of_row"].values.mean(axis=(0, 1))
    table = comparison.members["component_of_row"]
    np.testing.assert_allclose(table["em"].values, em)
    np.testing.assert_allclose(table["posterior"].values, mean, rtol=1e-12)
    assert verdict(comparison, "members").value == (em.argmax(1) != mean.argmax(1)).mean()


def test_members_without_a_latent_group(pair):
    """Fewer draws than are averaged over: the computed average is then that of all draws."""
    fit, draws = pair
    few = draws.isel(draw=slice(0, 40))
    bare = few.copy()
    del bare["latent"]
    expected = few["latent"]["component_of_row"].values.mean(axis=(0, 1))
    found = compare(fit, bare).members["component_of_row"]["posterior"].values
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_nuts_below_em_at_the_mode(pair, comparison):
    fit, draws = pair
    modes = verdict(comparison, "modes")
    assert modes.holds
    best = fit.plan.log_posterior(comparison.best_draw)
    assert modes.value == pytest.approx(best - fit.log_posterior)
    values = draws["posterior"]
    heights = [
        fit.plan.log_posterior({name: values[name].values[c, t] for name in fit.point})
        for c in range(CHAINS)
        for t in range(DRAWS)
    ]
    assert best <= max(heights) + 1e-9
    assert best >= np.quantile(heights, 0.99)


@pytest.mark.parametrize("guide", ["sample_stats", "log_likelihood"])
def test_the_highest_draw_is_looked_at_wherever_it_is(pair, guide):
    """One draw of 1200 sits on the mode itself; the sampler's own numbers point to it."""
    fit, draws = pair
    chain, draw = 2, 151
    values = {name: draws["posterior"][name].values.copy() for name in fit.point}
    for name, array in values.items():
        array[chain, draw] = fit.point[name]
    moved = with_posterior(draws, **values)
    for group, name in (("sample_stats", "lp"), ("log_likelihood", "y")):
        numbers = draws[group].to_dataset()
        marked = numbers[name].values.copy()
        marked[chain, draw] = 1e3
        if group == guide:
            moved[group] = xr.DataTree(numbers.assign({name: numbers[name].copy(data=marked)}))
        else:
            del moved[group]
    result = compare(fit, moved)
    assert verdict(result, "modes").value == pytest.approx(0.0, abs=1e-9)
    assert all(np.array_equal(result.best_draw[name], fit.point[name]) for name in fit.point)


def test_nuts_above_em_is_found_and_its_draw_leads_on(pair):
    fit, draws = pair
    low = {name: value.copy() for name, value in fit.point.items()}
    low["mu"] = low["mu"] + np.array([0.8, 0.0])
    result = compare(fakes.replace(fit, point=low), draws)
    modes = verdict(result, "modes")
    assert not modes.holds
    assert not result.reliable
    assert result.verdicts[0].check and not result.verdicts[0].holds
    assert modes.value == pytest.approx(fit.plan.log_posterior(result.best_draw) - fit.plan.log_posterior(low))
    assert result.headline.startswith("EM missed a better mode")
    assert "best_draw" in modes.advice
    theta = result.best_draw
    for _ in range(500):
        theta = fit.plan.m_step(theta)
    assert fit.plan.log_posterior(theta) == pytest.approx(fit.log_posterior, abs=1e-6)


def test_maximum_likelihood_is_compared_by_likelihood():
    plan = fakes.MixturePlan(fakes.data(2, 60), 2, estimate="ml")
    fit = fakes.em(plan)
    result = compare(fit, fakes.gibbs(fit, 2, 100))
    modes = verdict(result, "modes")
    assert "log-likelihood" in modes.text
    assert modes.value == pytest.approx(plan.log_likelihood(result.best_draw) - fit.log_likelihood)


def test_estimate_outside_the_posterior_is_far(pair):
    fit, draws = pair
    row = compare(fit, draws).table.loc["mu[A]"]
    off = {name: value.copy() for name, value in fit.point.items()}
    off["mu"][0] = row["mean"] + 5 * row["sd"]
    errors = {name: values.values for name, values in fit.standard_errors().items()}
    result = compare(fakes.replace(fit, point=off, errors=errors), draws)
    assert result.table.loc["mu[A]", "flag"].startswith("far")
    assert result.table.loc["mu[A]", "difference"] == pytest.approx(5.0)
    place = verdict(result, "place")
    assert not place.holds
    assert place.value == 0.0
    assert "mu[A]" in place.text
    assert not verdict(result, "modes").holds  # that far from the mode most draws are higher


def test_an_estimate_on_a_border_has_no_standard_error(pair):
    fit, draws = pair
    errors = {name: values.values.copy() for name, values in fit.standard_errors().items()}
    errors["weights"] = np.full(2, np.nan)
    result = compare(fakes.replace(fit, errors=errors), draws)
    assert (result.table.loc[["weights[A]", "weights[B]"], "flag"] == "boundary").all()
    shape = verdict(result, "shape")
    assert not shape.holds and not shape.check
    assert "weights[A] and weights[B] are on a border" in shape.text
    assert result.reliable
    assert "take intervals from NUTS" in result.headline
    assert np.isfinite(verdict(result, "place").value)
    nowhere = {name: np.full(np.shape(value), np.nan) for name, value in errors.items()}
    assert verdict(compare(fakes.replace(fit, errors=nowhere), draws), "shape").limit == 0.85


def test_chains_that_differ_and_few_draws(pair):
    fit, draws = pair
    mu = draws["posterior"]["mu"].values.copy()
    mu[0, :, 1] += 1.5
    result = compare(fit, with_posterior(draws, mu=mu))
    convergence = verdict(result, "convergence")
    assert not convergence.holds
    assert convergence.value == pytest.approx(float(az.rhat(mu[..., 1])))
    assert "mu[B]" in convergence.text
    assert not verdict(result, "labels").holds
    assert "R-hat" in result.table.loc["mu[B]", "flag"]
    assert result.headline.startswith("The draws of NUTS cannot be relied on yet")
    short = compare(fit, draws.isel(draw=slice(0, 50)))
    precision = verdict(short, "precision")
    assert not precision.holds
    assert precision.value == pytest.approx(short.table["ess_bulk"].iloc[:6].min())
    assert "times as many" in precision.advice


def test_divergences_are_counted(pair):
    fit, draws = pair
    bad = draws.copy()
    stats = draws["sample_stats"].to_dataset()
    diverging = stats["diverging"].values.copy()
    diverging[1, 3:10] = True
    bad["sample_stats"] = xr.DataTree(stats.assign(diverging=stats["diverging"].copy(data=diverging)))
    found = verdict(compare(fit, bad), "divergences")
    assert (found.value, found.holds) == (7, False)
    assert "7 of 1200" in found.text
    bare = draws.copy()
    del bare["sample_stats"]
    assert "divergences" not in {v.name for v in compare(fit, bare).verdicts}


def test_status_starts_and_certificate(pair):
    fit, draws = pair
    starts = fit.starts.copy()
    starts["status"] = [fakes.Status.CONVERGED, fakes.Status.DEGENERATE, "MAX_ITER", fakes.Status.CONVERGED]
    result = compare(fakes.replace(fit, starts=starts), draws)
    text = verdict(result, "fit").text
    assert verdict(result, "fit").holds
    assert "2 of 4 starts ended otherwise (degenerate, max iter)" in text
    assert "2 of 4 starts" in verdict(result, "modes").text
    stopped = compare(fakes.with_status(fit, fakes.Status.MAX_ITER), draws)
    assert not verdict(stopped, "fit").holds
    assert "iterations exhausted" in verdict(stopped, "fit").text
    points = (*fit.certificate.points, SimpleNamespace(name="curvature", holds=False, value=-1, limit=0, text="saddle"))
    broken = compare(fakes.replace(fit, certificate=SimpleNamespace(points=points, holds=False)), draws)
    assert verdict(broken, "certificate").value == 1
    assert "curvature does not (saddle)" in verdict(broken, "certificate").text
    assert broken.headline == "EM's result cannot be relied on."


def test_numbers_that_never_move(pair):
    """A frozen or structurally constant number: no R-hat, no warning, flagged only where EM says something else."""
    fit, draws = pair
    sigma = np.broadcast_to(fit.point["sigma"], (CHAINS, DRAWS, 2))
    result = compare(fit, with_posterior(draws, sigma=sigma))
    assert (result.table.loc[["sigma[A]", "sigma[B]"], "flag"] == "").all()
    assert (result.table.loc[["sigma[A]", "sigma[B]"], "difference"] == 0).all()
    assert result.table.loc["sigma[A]", "sd"] == 0
    other = compare(fit, with_posterior(draws, sigma=sigma + 1.0))
    assert (other.table.loc[["sigma[A]", "sigma[B]"], "flag"] == "far").all()
    for v in result.verdicts:
        assert "sigma" not in v.text


def test_members_that_change_are_named(pair):
    fit, draws = pair
    latent = draws["latent"].to_dataset()
    p = latent["component_of_row"].values.copy()
    p[:, :, [3, 17]] = p[:, :, [3, 17], ::-1]
    odd = draws.copy()
    odd["latent"] = xr.DataTree(latent.assign(component_of_row=latent["component_of_row"].copy(data=p)))
    found = verdict(compare(fit, odd), "members")
    assert found.value == pytest.approx(2 / 80)
    assert "row 3 and row 17" in found.text
    p[:, :, :10] = p[:, :, :10, ::-1]
    odd["latent"] = xr.DataTree(latent.assign(component_of_row=latent["component_of_row"].copy(data=p)))
    result = compare(fit, odd)
    assert not verdict(result, "members").holds
    assert "less certain than EM says" in result.headline


def test_every_verdict_says_its_number_limit_and_side(comparison):
    names = [v.name for v in comparison.verdicts]
    assert len(names) == len(set(names)) <= len(VERDICTS)
    for v in comparison.verdicts:
        assert v.bound in ("at most", "at least")
        assert v.measure and v.text
        assert bool(v.advice) != v.holds
        if np.isfinite(v.value):
            assert v.holds == (v.value <= v.limit if v.bound == "at most" else v.value >= v.limit)


def test_failed_checks_come_first(pair):
    fit, draws = pair
    result = compare(fakes.with_status(fit, fakes.Status.MAX_ITER), draws.isel(draw=slice(0, 40)))
    order = [(v.holds, not v.check) for v in result.verdicts]
    assert order == sorted(order)
    lines = str(result).splitlines()
    assert lines[0] == result.headline
    assert lines[1].startswith("✗")
    assert lines[2].strip().startswith("→")


def test_text_has_verdicts_cost_and_table(comparison):
    text = str(comparison)
    assert text.index("labels") < text.index("cost") < text.index("mu[A]")
    assert "EM 0.02 s · NUTS 2.5 s sampling · 4.0 s compiling" in text
    assert "nan" not in text
    assert comparison.timing["ess_per_second"] == pytest.approx(comparison.timing["ess_min"] / 2.5)
    assert max(map(len, text.splitlines())) < 220


def test_timing_without_attributes(pair):
    fit, draws = pair
    bare = draws.copy()
    bare.attrs = {}
    result = compare(fit, bare)
    assert result.cost == "EM 0.02 s"
    assert np.isnan(result.timing["ess_per_second"])


def test_many_rows_are_cut_and_counted(pair):
    """Hundreds of parameters and a data-sized deterministic: text stays short, and says what it leaves out."""
    fit, draws = wide(pair, 500)
    result = compare(fit, draws)
    assert len(result.table) == 9 + 500
    assert result.left_out == ("big",)
    assert "… and 479 more rows" in str(result)


def wide(pair, count):
    fit, draws = pair
    rng = np.random.default_rng(0)

    class Wide(fakes.MixturePlan):
        @property
        def structure(self):
            base = super().structure
            item = SimpleNamespace(name="effect", dims=("item",), shape=(count,))
            base.parameters = (*base.parameters, item)
            base.deterministics = (*base.deterministics, SimpleNamespace(name="big", dims=("row",), shape=(80,)))
            base.coords["item"] = np.arange(count)
            return base

        def deterministics(self, theta):
            return super().deterministics(theta) | {"big": np.full(80, theta["mu"][0])}

    plan = Wide(fit.plan.y, 2)
    errors = {name: values.values for name, values in fit.standard_errors().items()} | {"effect": np.ones(count)}
    errors.pop("overall_mean")

    class Fit(fakes.MixtureFit):
        def standard_errors(self):
            plain = {name: ("component", errors[name]) for name in ("weights", "mu", "sigma")}
            return xr.Dataset(plain | {"effect": ("item", errors["effect"])})

    wide_fit = Fit(plan, fit.point | {"effect": np.zeros(count)}, fit.traces, fit.starts)
    out = draws.copy()
    posterior = draws["posterior"].to_dataset()
    effect = (("chain", "draw", "item"), rng.normal(size=(CHAINS, DRAWS, count)))
    big = (("chain", "draw", "row"), np.zeros((CHAINS, DRAWS, 80)))
    out["posterior"] = xr.DataTree(posterior.assign(effect=effect, big=big))
    return wide_fit, out


def test_datatree_holds_everything_and_can_be_saved(comparison, tmp_path):
    tree = comparison.to_datatree()
    assert {"posterior", "point_estimate", "standard_error", "comparison", "members_component_of_row"} <= set(
        tree.children
    )
    np.testing.assert_allclose(tree["comparison"]["mean"].values, comparison.table["mean"].to_numpy())
    assert list(tree["comparison"]["element"].values) == list(comparison.table.index)
    assert [record["name"] for record in json.loads(tree.attrs["verdicts"])] == [v.name for v in comparison.verdicts]
    tree.to_netcdf(tmp_path / "comparison.nc", engine="h5netcdf")
    with xr.open_datatree(tmp_path / "comparison.nc", engine="h5netcdf") as back:
        assert back.attrs["headline"] == comparison.headline
        np.testing.assert_allclose(back["posterior"]["mu"].values, comparison.draws["posterior"]["mu"].values)


def test_arguments_in_the_wrong_order_are_named(pair):
    fit, draws = pair
    with pytest.raises(InvalidArgumentError, match="needs a Fit first"):
        compare(draws, fit)
    with pytest.raises(InvalidArgumentError, match="relabelling method"):
        compare(fit, draws, method="sorting")


def test_labels_that_the_prior_tells_apart_are_judged_by_how_chains_settled():
    fit, draws = fakes.case(2, n=40, draws=100, exchangeable=(), centre=None)
    alike = verdict(compare(fit, draws), "labels")
    assert alike.holds and (alike.value, alike.limit) == (1, 1)
    perms = np.stack([np.tile(perm, (100, 1)) for perm in ([0, 1], [1, 0], [0, 1], [0, 1])])
    apart = verdict(compare(fit, fakes.switch(draws, perms, fit.plan)), "labels")
    assert not apart.holds and not apart.check and (apart.value, apart.limit) == (2, 1)
    assert "2 different labellings" in apart.text and apart.advice


def test_a_fit_that_ran_off_is_not_taken_for_an_estimate():
    """No normal approximation, no scale, no border where the objective grows without bound; and no mode is claimed."""
    y = np.full(12, 2.0)  # a component collapses on to equal values
    with pm.Model() as model:
        w = pm.Dirichlet("w", np.ones(2))
        mu = pm.Normal("mu", 2.0, 5.0, shape=2)
        sd = pm.HalfNormal("sd", 1.0, shape=2)
        z = pm.Categorical("z", w, shape=len(y))
        pm.Normal("y", mu[z], sd[z], observed=y)
    fit = emppl.fit(model, seed=1, starts=3)
    assert fit.status is emppl.Status.DEGENERATE
    rng = np.random.default_rng(0)
    shape = (2, 100)
    first = rng.uniform(0.2, 0.8, size=shape)
    posterior = {
        "w": np.stack([first, 1 - first], axis=-1), "mu": rng.normal(2.0, 1.0, size=(*shape, 2)),
        "sd": np.abs(rng.normal(size=(*shape, 2))) + 0.01,
    }  # fmt: skip
    result = compare(fit, az.from_dict({"posterior": posterior}), ascents=10)
    assert result.headline == "EM's result cannot be relied on."
    assert {"shape", "laplace", "scale"}.isdisjoint(v.name for v in result.verdicts)
    assert not any("boundary" in flag for flag in result.table["flag"])
    assert verdict(result, "modes").text.startswith("EM ends in no proper mode from any of 10 draws")
