"""Draws that have not converged: one verdict says so, and nothing rests on them together."""

import json
from types import SimpleNamespace

import arviz as az
import numpy as np
import pytest
import xarray as xr
from comparison import fakes

import emppl
from emppl.comparison import compare
from emppl.comparison.evidence import listed
from emppl.comparison.mixing import mixing
from emppl.comparison.modes import other_modes
from emppl.comparison.renderings import render_json, render_markdown
from emppl.comparison.several import Other, _why
from emppl.errors import InvalidArgumentError
from emppl.models import coins

POOLED = {"place", "shape", "laplace", "scale", "priors", "ordering", "members", "loo"}


@pytest.fixture(scope="module")
def pair():
    return fakes.case(2, n=80, gap=6.0, chains=4, draws=200)


def changed(draws, **variables):
    posterior = draws["posterior"].to_dataset()
    out = draws.copy()
    out["posterior"] = xr.DataTree(posterior.assign({k: posterior[k].copy(data=v) for k, v in variables.items()}))
    return out


def away(draws):
    """Two chains somewhere else for good."""
    mu = draws["posterior"]["mu"].values.copy()
    mu[2:] += 3.0
    return changed(draws, mu=mu)


def by_name(comparison):
    return {v.name: v for v in comparison.verdicts}


@pytest.fixture(scope="module")
def apart(pair):
    fit, draws = pair
    return compare(fit, away(draws))


def test_nothing_rests_on_draws_that_have_not_converged(pair, apart):
    fit, draws = pair
    assert set(by_name(compare(fit, draws))) & POOLED == {"place", "shape", "members", "loo"}
    assert set(by_name(apart)) & POOLED == set()
    found = by_name(apart)["convergence"]
    assert found.check and not found.holds and found.advice
    assert found.text.startswith("the draws have not converged, so that they bear no comparison with EM")
    assert not apart.reliable
    assert "nothing is compared" in apart.headline
    assert {word for flag in apart.table["flag"] for word in flag.split(", ")} <= {"", "R-hat", "ESS", "boundary"}


def test_every_rendering_says_so(apart):
    text, document = render_markdown(apart), json.loads(render_json(apart))
    assert "**The draws have not converged:" in text and "no score of all of them together is given" in text
    assert "the draws have not converged" in str(apart)
    assert document["converged"] is False
    assert document["prediction"]["elpd"] is None and document["priors"] is None
    assert f"{apart.prediction.elpd:.1f}".replace("-", "−") not in text
    assert "not compared with the posterior's, since the draws have not converged" in text
    for figure in (apart.plot_forest(), apart.plot_marginals(), apart.plot_responsibilities(), apart.plot_data()):
        assert figure.get_supxlabel() == "the draws have not converged"


@pytest.mark.parametrize(
    ("draws", "reason"),
    [
        (lambda d: d.isel(draw=slice(0, 5)), "chains of 5 draws are too short to tell"),
        (lambda d: d.isel(draw=slice(0, 10)), "effective draws of"),
        (lambda d: changed(d, **{k: np.broadcast_to(v.values[:1, :1], v.shape) for k, v in parts(d)}), "no parameter"),
        (lambda d: changed(d, **{k: np.broadcast_to(v.values[:, :1], v.shape) for k, v in parts(d)}), "stand still"),
        (lambda d: changed(d, **{k: stuck(v.values) for k, v in parts(d)}), "chain 1 stands still"),
    ],
    ids=["five", "ten", "constant", "all chains stand", "one chain stands"],
)
def test_too_few_draws_and_chains_that_stand_still(pair, draws, reason):
    fit, given = pair
    found = compare(fit, draws(given))
    assert any(reason in said for said in found.mixing.reasons), found.mixing.reasons
    assert not found.reliable and not set(by_name(found)) & POOLED
    assert by_name(found)["convergence"].advice


def test_draws_that_mostly_diverged(pair):
    fit, draws = pair
    stats = draws["sample_stats"].to_dataset()
    for share, holds in ((0.05, True), (1.0, False)):
        out = draws.copy()
        marks = np.arange(stats["diverging"].size).reshape(stats["diverging"].shape) < share * stats["diverging"].size
        out["sample_stats"] = xr.DataTree(stats.assign(diverging=stats["diverging"].copy(data=marks)))
        found = compare(fit, out)
        assert found.mixing.holds is holds and not found.reliable
    assert found.mixing.reasons == ("800 of 800 draws diverged",)


def test_draws_of_other_data_and_draws_with_gaps_are_refused():
    """By name and place, whatever made them."""
    fit = emppl.fit(coins.build(), starts=2, seed=0)
    bias = np.random.default_rng(0).uniform(0.4, 0.9, size=(2, 50, 2))
    heads = np.array([5, 9, 8, 4, 7])
    with pytest.raises(InvalidArgumentError, match=r"heads has 3 in the draws and 8 in the model at heads\[2\]"):
        compare(fit, az.from_dict({"posterior": {"bias": bias}, "observed_data": {"heads": np.array([5, 9, 3, 4, 7])}}))
    with pytest.raises(InvalidArgumentError, match=r"shape \(4,\) in the draws and \(5,\) in the model"):
        compare(fit, az.from_dict({"posterior": {"bias": bias}, "observed_data": {"heads": heads[:4]}}))
    with pytest.raises(InvalidArgumentError, match="the draws have no bias; they hold coin_bias"):
        compare(fit, az.from_dict({"posterior": {"coin_bias": bias}}))  # not taken for a parameter that was frozen
    bias[1, 30:, 0] = np.nan
    with pytest.raises(
        InvalidArgumentError, match=r"bias is not finite in 20 of 100 draws \(first: chain 1, draw 30\)"
    ) as e:
        compare(fit, az.from_dict({"posterior": {"bias": bias}}))
    assert "slice(30)" in str(e.value)


def parts(draws):
    return list(draws["posterior"].data_vars.items())


def stuck(values):
    values = values.copy()
    values[1] = values[1, :1]
    return values


def test_one_chain_is_judged_by_its_halves():
    fit, one = fakes.case(2, n=80, gap=6.0, chains=1, draws=1000)
    assert "the two halves of the one chain agree" in by_name(compare(fit, one))["convergence"].text
    mu = one["posterior"]["mu"].values.copy()
    mu[:, 500:] += 3.0
    assert not compare(fit, changed(one, mu=mu)).mixing.holds


def test_chains_in_modes_of_their_own_are_named(pair, apart):
    """By the atlas, where R-hat alone would say no more than that they differ."""
    fit, draws = pair
    good = compare(fit, draws)
    reached = np.repeat([0, 0, 1, -1], 10)
    atlas = SimpleNamespace(modes=(None, None), reached=reached, chains=np.repeat(np.arange(4), 10))
    found = mixing(draws, good.table, good.details, good.switching, atlas)
    assert found.apart and found.reasons == ("chains 0 and 1 and chain 2 stay in different modes",)
    assert good.mixing.holds and not good.mixing.apart


def test_a_high_r_hat_counts_as_it_is_printed(pair):
    fit, draws = pair
    good = compare(fit, draws)
    for value, holds in ((1.01049, True), (1.0106, False)):
        table = good.table.assign(r_hat=value)
        found = mixing(draws, table, good.details, good.switching, None)
        assert found.holds is holds
        assert float(f"{found.r_hat.max():.3f}") == (1.01 if holds else 1.011)


def atlas_of(heights, reached):
    """An atlas whose first mode is the fit's, of modes with these heights."""
    reached = np.array(reached)
    modes = tuple(
        SimpleNamespace(log_posterior=height, share=float((reached == i).mean()), log_evidence=np.nan)
        for i, height in enumerate(heights)
    )
    return SimpleNamespace(
        modes=modes,
        reached=reached,
        chains=np.zeros(len(reached), dtype=int),
        known=(0,),
        lost={},
        n_starts=4,
        starts_lost=0,
    )


def told(heights, reached):
    plan = SimpleNamespace(axes=(), estimate="map")
    return other_modes(SimpleNamespace(atlas=atlas_of(heights, reached), fit=SimpleNamespace(plan=plan))).text


def test_modes_are_told_by_their_heights():
    assert told([-10.0, -10.0], [0] * 20).endswith("climbs to a further mode at -10.00, which lies as high")
    assert told([-10.0, -12.5], [0] * 20).endswith("climbs to a further mode at -12.50, which lies lower")
    assert told([-10.0, -10.0, -12.5], [0] * 20).endswith("2 further modes at -10.00 and -12.50 (1 lower, 1 as high)")


def test_a_mode_that_no_chain_met_is_told_by_what_it_holds():
    plan = SimpleNamespace(axes=(), estimate="map")
    for evidence, holds in ((-20.0, False), (-26.0, True)):
        atlas = atlas_of([-10.0, -12.0], [0] * 20)
        for mode, value in zip(atlas.modes, (-20.0, evidence), strict=True):
            mode.log_evidence = value
        found = other_modes(SimpleNamespace(atlas=atlas, fit=SimpleNamespace(plan=plan)))
        assert found.holds is holds
        assert ("gives 50% of the posterior" in found.text) is not holds


def test_what_is_left_over_is_counted_and_its_heights_are_told():
    text = told([-10.0, -11.0, -12.0, -13.0, -14.0, -15.0, -16.0], [0] * 10 + [1] * 4 + [2] * 3 + [3] * 2 + [4, 5])
    for height in range(10, 17):
        assert f"-{height}.00" in text
    assert "10% to 2 further modes at -14.00 and -15.00" in text and "none to a further mode at -16.00" in text
    assert "more" not in text


@pytest.mark.parametrize("count", range(1, 9))
def test_a_list_counts_what_it_does_not_name(count):
    names = [f"n{i}" for i in range(count)]
    text = listed(names)
    named = [name for name in names if name in text]
    more = text.rpartition(" and ")[2]
    assert len(named) + (int(more.split()[0]) if more.endswith("more") else 0) == count


def test_another_fit_on_a_hill_as_high_is_not_said_to_lie_below():
    one, two = (Other(name, SimpleNamespace(plan=None), {}, -1.0, -1.0) for name in ("MAP", "again"))
    assert _why(one, two, atlas_of([-10.0, -10.0], [0]), 1).endswith("the hill of another mode, as high as MAP's")
    assert "2 nats below MAP's" in _why(one, two, atlas_of([-10.0, -12.0], [0]), 1)
