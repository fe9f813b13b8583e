"""A fit over blocks is the fit of all rows in memory, to rounding, and holds one block at a time."""

import tracemalloc

import numpy as np
import pymc as pm
import pytest
import row_models
from row_models import ONE, TWO, ZERO, head
from scipy.stats import poisson

import emppl
from emppl.ascent.starts import start_point
from emppl.errors import InvalidArgumentError, SourceError, UnsupportedModelError
from emppl.estep.missing import score_covariance
from emppl.streaming import assemble, streamed

CASES = row_models.cases()
BLOCK = 130
SAMPLE = 200


@pytest.fixture
def few(monkeypatch):
    """A sample that is a part of the rows."""
    monkeypatch.setattr(assemble, "SAMPLE_ROWS", SAMPLE)


def slope_of(plan, theta):
    """The gradient by PyMC's own coordinates: u counts in widths, which each plan finds from the rows it holds."""
    coordinates = plan.structure.coordinates
    return plan.gradient(coordinates.unconstrain(theta))[1] / coordinates.width


def streamed_case(name, **options):
    build, data = CASES[name]
    return streamed(build(head(data)), data, block_size=BLOCK, **options)


@pytest.mark.parametrize("name", CASES)
def test_passes_and_steps_are_those_of_all_rows_in_memory(name, few):
    build, data = CASES[name]
    whole, blocks = emppl.plan(build(data)), streamed_case(name)
    assert blocks.structure.parameter_names == whole.structure.parameter_names
    assert [b.rule for b in blocks.blocks] == [b.rule for b in whole.blocks]
    assert blocks.sample.structure.plates[0].size == (40 if name == "fixed_length" else SAMPLE)
    theta = start_point(whole, "k-means++", np.random.default_rng(0))
    for hard in (False, True):
        here, there = whole.e_step(theta, hard=hard), blocks.e_step(theta, hard=hard)
        np.testing.assert_allclose(there.log_likelihood, here.log_likelihood, rtol=1e-10)
        assert there.log_prior == here.log_prior
    np.testing.assert_allclose(there.counts[0].sum(), len(data["y"]))
    slope, own = (slope_of(plan, theta) for plan in (whole, blocks))
    np.testing.assert_allclose(own, slope, rtol=1e-9, atol=1e-9 * np.abs(slope).max())
    eta = whole.engine.terms(*whole.structure.coordinates.arguments(theta))[0]
    own = blocks.engine.terms(*whole.structure.coordinates.arguments(theta))[0]
    if name not in ("lines", "vectors"):  # whose frames turn with rounding, or with the rows that are held
        missing, found = score_covariance(whole.engine.plates[0], eta), score_covariance(blocks.engine.plates[0], own)
        np.testing.assert_allclose(found, missing, atol=1e-9 * np.abs(missing).max())
    here, there = (plan.m_step(theta, plan.e_step(theta)) for plan in (whole, blocks))
    searched = {n for b in whole.blocks if b.update.is_search for n in b.parameters}
    for parameter, value in here.items():
        limit = 1e-4 if parameter in searched else 1e-8  # a search goes part of the way, by widths of the rows it holds
        np.testing.assert_allclose(there[parameter], value, rtol=limit, atol=limit * np.abs(value).max())


def test_the_log_likelihood_is_the_sum_over_rows_of_the_mixture_s_density():
    _, data = CASES["rates"]
    w, rate = np.array([0.3, 0.7]), np.array([1.2, 4.5])
    density = (w * poisson.pmf(data["y"][:, None], data["exposure"][:, None] * rate)).sum(axis=1)
    found = streamed_case("rates").log_likelihood({"w": w, "rate": rate})
    np.testing.assert_allclose(found, np.log(density).sum(), rtol=1e-12)


@pytest.mark.parametrize("name, starts", [("vectors", 1), ("named", 3)])
def test_a_fit_is_that_of_all_rows_in_memory(name, starts):
    """Where the sample is all rows, starts are the same, and so is everything.

    To a millionth of a standard error: a mean of `vectors` is at 1e8, where doubles are 1.5e-8 apart.
    """
    build, data = CASES[name]
    here = emppl.fit(build(data), starts=starts, seed=4)
    there = emppl.fit(build(head(data)), source=data, block_size=BLOCK, starts=starts, seed=4)
    np.testing.assert_allclose(there.log_likelihood, here.log_likelihood, rtol=1e-10)
    found = there.standard_errors()
    for parameter, value in here.point.items():
        error = here.standard_errors()[parameter].values
        assert (np.abs(there.point[parameter] - value) <= 1e-6 * error).all(), parameter
    for parameter, value in here.standard_errors().data_vars.items():
        if parameter in found:
            np.testing.assert_allclose(found[parameter], value, rtol=1e-6, atol=1e-6 * float(value.max()))
    assert [(p.name, p.holds) for p in there.certificate.points] == [(p.name, p.holds) for p in here.certificate.points]
    assert list(there.starts["status"]) == list(here.starts["status"])


def test_starts_on_a_sample_reach_the_mode_of_all_rows(few, monkeypatch):
    """Short runs are made on the sample where passes are dear; what they reached counts for nothing by itself."""
    monkeypatch.setattr("emppl.ascent.stages.CHEAP", 0.0)
    build, data = CASES["named"]
    here = emppl.fit(build(data), starts=8, seed=1)
    there = emppl.fit(build(head(data)), source=data, block_size=BLOCK, starts=8, seed=1)
    np.testing.assert_allclose(there.log_posterior, here.log_posterior, rtol=1e-10)
    assert there.certificate.holds
    left_behind = there.starts[there.starts["status"] == "SHORT"]
    assert (left_behind["n_passes"] == 1).any()  # one pass over all rows, to say what its end on the sample is worth
    assert (there.starts["log_posterior"] <= there.log_posterior + 1e-6).all()


def test_what_a_fit_over_blocks_can_say_of_rows_and_what_not(few, tmp_path):
    build, data = CASES["named"]
    fit = emppl.fit(build(head(data)), source=data, block_size=BLOCK, starts=2, seed=1)
    assert "spread" in fit.theta and "twice" not in fit.theta  # which would be that of the sample
    np.testing.assert_allclose(fit.theta["spread"], np.sqrt(fit.theta["variance"]))
    for words in ("rows are streamed", "900 observations", "900 independent members", "a sample of 200"):
        assert words in str(fit.plan)
    held = emppl.plan(build(data))
    predicted = fit.predict({"rows": data["y"][:7]})["z"]
    np.testing.assert_allclose(predicted, held.responsibilities(fit.point)["z"][:7], atol=1e-10)
    for ask in (fit.responsibilities, fit.assign, lambda: emppl.sample(fit)):
        with pytest.raises(UnsupportedModelError, match="streamed"):
            ask()
    assert set(fit.to_datatree().children) == {"posterior", "point_estimate"}
    loaded = emppl.load(fit.save(tmp_path / "fit.nc"))
    np.testing.assert_array_equal(loaded.theta["mu"], fit.theta["mu"])


def test_memory_is_that_of_one_block(tmp_path):
    """A pass over 200 blocks takes no more than one over 20."""
    build, data = CASES["named"]
    y = np.lib.format.open_memmap(tmp_path / "y.npy", "w+", float, (400_000, 2))
    y[:] = np.tile(data["y"][:800], (500, 1))
    plan = streamed(build(head(data)), {"y": y}, block_size=2000, compile="never")
    theta = start_point(plan, "k-means++", np.random.default_rng(0))
    peaks = []
    for rows in (40_000, 400_000):
        over = streamed(build(head(data)), {"y": y[:rows]}, block_size=2000, compile="never")
        over.e_step(theta)
        tracemalloc.start()
        over.e_step(theta)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0] and peaks[1] < 40 * 2000 * 2 * 8 < y.nbytes / 4


def test_the_user_s_model_stays_as_it_was():
    build, data = CASES["named"]
    model = build(head(data))
    streamed(model, data, block_size=BLOCK)
    np.testing.assert_array_equal(model["y"].get_value(), data["y"][:40])
    assert list(model.coords["row"]) == list(range(40)) and model.dim_lengths["row"].get_value() == 40


def test_products_that_only_the_sample_shows_are_not_used():
    """Where all sampled counts are 1, the count looks like the statistic that is 1 in every row; elsewhere not."""
    y = np.ones(1000, dtype=int)
    y[777] = 5
    with pm.Model() as model:
        held = pm.Data("y", y[:50])
        rate = pm.Gamma("rate", TWO, ONE, shape=2)
        z = pm.Bernoulli("z", np.float64(0.4), shape=50)
        pm.Poisson("rows", rate[z], observed=held)
    plan = streamed(model, {"y": y}, block_size=300)
    assert (plan.sample.structure.observed[0].value.data == 1).all()
    rates = np.array([0.7, 3.0])
    wanted = np.log((np.array([0.6, 0.4]) * poisson.pmf(y[:, None], rates)).sum(axis=1)).sum()
    np.testing.assert_allclose(plan.log_likelihood({"rate": rates}), wanted, rtol=1e-12)


# What cannot be done is refused, with the way out ---------------------------------------------------------------------


def plain(y, **extra):
    """A mixture of two rates; extra(model, held, rate, z) adds to it."""
    with pm.Model() as model:
        held = pm.Data("y", y)
        rate = pm.Gamma("rate", TWO, ONE, shape=2)
        z = pm.Bernoulli("z", np.float64(0.4), shape=held.shape[0])
        for add in extra.values():
            add(held, rate, z)
        if "alone" not in extra:
            pm.Exponential("rows", rate[z], observed=held)
    return model


Y = np.random.default_rng(3).exponential(size=60) + 0.1


def one_for_all(y):
    with pm.Model() as model:
        held, rate = pm.Data("y", y), pm.Gamma("rate", TWO, ONE, shape=2)
        pm.Exponential("rows", rate[pm.Bernoulli("z", np.float64(0.4))], observed=held)
    return model


def no_latent(y):
    with pm.Model() as model:
        pm.Exponential("rows", pm.Gamma("rate", TWO, ONE), observed=pm.Data("y", y))
    return model


REFUSED = {
    "prior": (lambda y: plain(y, more=lambda held, rate, z: pm.Normal("a", held.mean(), ONE)), "a depends on y"),
    "potential": (
        lambda y: plain(y, more=lambda held, rate, z: pm.Potential("a", -held.sum() * rate[0])),
        "depends on",
    ),
    "no latent": (no_latent, "no latent"),
    "one latent": (one_for_all, "not the rows of the data"),
    "array": (
        lambda y: plain(y, alone=lambda held, rate, z: pm.Exponential("rows", rate[z] * (1 + y), observed=held)),
        "as many rows as the data",
    ),
    "student": (
        lambda y: plain(y, alone=lambda held, rate, z: pm.StudentT("t", nu=3.0, mu=rate[z], observed=held)),
        "t has no natural form",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_models_whose_rows_cannot_be_streamed_are_refused(name):
    build, reason = REFUSED[name]
    with pytest.raises(UnsupportedModelError, match=reason) as refusal:
        streamed(build(Y[:31]), {"y": Y}, block_size=20)
    assert refusal.value.remedies


def test_a_mean_that_is_no_linear_map_of_the_data_is_refused(few):
    def build(x, y):
        with pm.Model() as model:
            covariate, held = pm.Data("x", x), pm.Data("y", y)
            slope = pm.Normal("slope", ZERO, TWO, shape=2)
            z = pm.Bernoulli("z", np.float64(0.4), shape=held.shape[0])
            pm.Normal("rows", slope[z] * pm.math.exp(covariate), ONE, observed=held)
        return model

    x = np.linspace(-1, 1, 60)
    with pytest.raises(UnsupportedModelError, match="no linear map of x"):
        streamed(build(x[:31], Y[:31]), {"x": x, "y": Y}, block_size=20)


def test_a_covariate_that_the_sample_hardly_shows_is_noticed_in_its_block(few):
    """Nothing is computed from a sample that does not stand for all rows."""
    build, data = CASES["lines"]
    x = data["x"].copy()
    x[:, 2] = 0.0
    x[877, 2] = 1.0  # not in the sample
    with pytest.raises(UnsupportedModelError, match="block 6 does not follow") as refusal:
        streamed(build({"x": x[:40], "y": data["y"][:40]}), {"x": x, "y": data["y"]}, block_size=BLOCK)
    assert f"row {877 - 6 * BLOCK}" in str(refusal.value)


@pytest.mark.parametrize(
    "options, reason",
    [
        ({"obs_weights": np.ones(60)}, "obs_weights"),
        ({"labels": {"z": np.zeros(60)}}, "labels"),
        ({"estep": "graph"}, "graph"),
    ],
    ids=lambda v: next(iter(v)) if isinstance(v, dict) else v,
)
def test_options_about_single_rows_are_refused(options, reason):
    with pytest.raises(UnsupportedModelError, match=reason):
        emppl.fit(plain(Y[:31]), source={"y": Y}, **options)


def test_arguments_about_blocks_need_blocks():
    for argument in ({"block_size": 10}, {"executor": object()}):
        with pytest.raises(InvalidArgumentError, match="none is given"):
            emppl.fit(plain(Y), **argument)
    with pytest.raises(InvalidArgumentError, match=r"pm\.Model itself"):
        emppl.fit(emppl.plan(plain(Y)), source={"y": Y})
    with pytest.raises(InvalidArgumentError, match="workers"):
        emppl.fit(plain(Y), source={"y": Y}, workers=2, executor=object())


def test_a_source_that_changes_between_passes_is_noticed():
    lengths = iter([60, 60, 60, 50])

    def blocks():
        n = next(lengths)
        return [{"y": Y[:30]}, {"y": Y[30:n]}]

    with pytest.raises(SourceError, match="60 rows at first, and 50 in a later pass"):
        emppl.fit(plain(Y[:31]), source=blocks, starts=1)
