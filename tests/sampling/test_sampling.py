"""Draws from the same model with its latents summed out: what NUTS sees, and what comes back."""

import contextlib
import os
import signal
import threading

import numba
import numpy as np
import nutpie
import pymc as pm
import pytensor.tensor as pt
import pytest
import small_models
import xarray as xr
from scipy import stats

import emppl
from emppl import sampling
from emppl.compiling import compile_graph
from emppl.errors import InvalidArgumentError, SamplerError, UnsupportedModelError
from emppl.kernels.caching import CheckedCache
from emppl.models import coins
from emppl.progress import Watcher
from emppl.sampling import along, samplers

HEADS, TOSSES = np.array([5, 9, 8, 4, 7]), 10


# -- the density -------------------------------------------------------------------------------------------------------


def density_and_gradient(plan: emppl.Plan):
    """u → what the sampler's model gives there, its variables in the order of the plan's coordinates."""
    marginal = sampling.marginal_model(plan)
    assert [rv.name for rv in marginal.free_RVs] == list(plan.structure.parameter_names)
    values = [marginal.rvs_to_values[rv] for rv in marginal.free_RVs]
    function = compile_graph(values, [marginal.logp(), marginal.dlogp()])
    split = plan.structure.coordinates.split
    return lambda u: function(*[split(u)[name] for name in plan.structure.parameter_names])


@pytest.mark.parametrize(
    "name",
    ["coins", "gaussian_diagonal", "ordered_means", "two_plates", "heavy_tails", "implicit_normals", "hierarchical",
     "potential_on_latent", "change_point", "several_observed", "zero_inflated"],
)  # fmt: skip
def test_nuts_sees_the_log_posterior_and_its_fisher_gradient(name):
    """The density of u: log posterior plus log Jacobian. Its gradient by the Op is that of the E-step."""
    plan = small_models.plan(name)
    coordinates = plan.structure.coordinates
    evaluate = density_and_gradient(plan)
    for seed in range(2):
        u = np.random.default_rng(seed).normal(scale=0.5, size=coordinates.size)
        value, slope = evaluate(u)
        objective, gradient, _ = plan.gradient(u)
        jacobian, bend = coordinates.log_jacobian(u)
        assert float(value) == pytest.approx(objective + float(jacobian), rel=1e-9)
        np.testing.assert_allclose(slope * coordinates.width, gradient + bend, rtol=1e-8, atol=1e-8)


def test_known_labels_weights_and_frozen_parameters_enter_the_density():
    case = small_models.model("coins")
    plan = emppl.plan(
        case.model, labels={"z": [0, -1, -1, 1, -1, -1]}, obs_weights=np.arange(6.0), freeze={"weights": [0.3, 0.7]}
    )
    u = np.array([0.3, -0.8])
    value, _ = density_and_gradient(plan)(u)
    expected = plan.gradient(u)[0] + float(plan.structure.coordinates.log_jacobian(u)[0])
    assert float(value) == pytest.approx(expected, rel=1e-9)


def test_the_model_of_the_sampler_keeps_names_dims_and_transforms():
    plan = emppl.plan(coins.build(weights="free"))
    marginal = sampling.marginal_model(plan)
    assert marginal.named_vars_to_dims["bias"] == ("coin",) and list(marginal.coords["coin"]) == ["A", "B"]
    assert "coin_of_set" not in marginal.named_vars and "heads" not in marginal.named_vars


# -- a run of nutpie ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model():
    return coins.build(prior=(2.0, 2.0))


@pytest.fixture(scope="module")
def draws(model):
    return emppl.sample(model, draws=400, tune=300, chains=2, seed=1, sampler="nutpie")


def test_groups_dims_and_attributes(draws):
    assert {"posterior", "log_likelihood", "latent", "sample_stats", "observed_data"} <= set(draws.children)
    assert draws["posterior"]["bias"].dims == ("chain", "draw", "coin")
    assert list(draws["posterior"]["coin"].values) == ["A", "B"]
    assert dict(draws["posterior"].sizes) == {"chain": 2, "draw": 400, "coin": 2}
    assert draws["log_likelihood"]["heads"].dims == ("chain", "draw", "set")
    assert draws["latent"]["coin_of_set"].dims == ("chain", "draw", "set", "coin_of_set_value")
    assert draws["sample_stats"]["diverging"].dims == ("chain", "draw")
    np.testing.assert_array_equal(draws["observed_data"]["heads"], HEADS)
    assert draws.attrs["sampler"] == "nutpie"
    assert draws.attrs["sampling_seconds"] > 0 and draws.attrs["compile_seconds"] > 0


def test_log_likelihood_and_latents_are_those_of_the_draw(draws, model):
    plan = emppl.plan(model)
    total = draws["log_likelihood"]["heads"].sum("set")
    for chain, draw in ((0, 0), (1, 399), (0, 57)):
        theta = {"bias": draws["posterior"]["bias"].values[chain, draw]}
        assert float(total[chain, draw]) == pytest.approx(plan.log_likelihood(theta), rel=1e-10)
        r = plan.responsibilities(theta)["coin_of_set"]
        np.testing.assert_allclose(draws["latent"]["coin_of_set"].values[chain, draw], r, atol=1e-10)
        assert float(draws["sample_stats"]["log_posterior"][chain, draw]) == pytest.approx(plan.log_posterior(theta))
    np.testing.assert_allclose(draws["latent"]["coin_of_set"].sum("coin_of_set_value"), 1.0)


def test_the_draws_are_from_the_posterior(draws):
    """Against integration over a grid, in what no swap of labels changes: the larger and the smaller bias."""
    grid = (np.arange(400) + 0.5) / 400
    one, two = np.meshgrid(grid, grid, indexing="ij")
    density = stats.beta.pdf(one, 2, 2) * stats.beta.pdf(two, 2, 2)
    for h in HEADS:
        density = density * (stats.binom.pmf(h, TOSSES, one) + stats.binom.pmf(h, TOSSES, two)) / 2
    density /= density.sum()
    bias = draws["posterior"]["bias"].values
    for found, exact in ((bias.max(axis=2), np.maximum(one, two)), (bias.min(axis=2), np.minimum(one, two))):
        mean = (density * exact).sum()
        sd = np.sqrt((density * exact**2).sum() - mean**2)
        assert found.mean() == pytest.approx(mean, abs=5 * sd / np.sqrt(80))  # 800 draws are worth 80 at least
        assert found.std() == pytest.approx(sd, rel=0.35)


# -- a run of pm.sample: the fallback, pm.Mixture, frozen parameters, deterministics -----------------------------------


@pytest.fixture(scope="module")
def mixture_plan():
    rng = np.random.default_rng(0)
    y = np.r_[rng.normal(-2.0, 1.0, 12), rng.normal(2.0, 1.0, 12)]
    with pm.Model(coords={"kind": ["a", "b"], "row": range(24)}) as model:
        mu = pm.Normal("mu", np.float64(0.0), np.float64(3.0), dims="kind")
        sigma = pm.HalfNormal("sigma", np.float64(1.0))
        pm.Deterministic("gap", mu[1] - mu[0])
        pm.NormalMixture("y", np.array([0.5, 0.5]), mu=mu, sigma=sigma, observed=y, dims="row")
    return emppl.plan(model, freeze={"sigma": 1.0}, estimate="ml")


@pytest.fixture(scope="module")
def fallback(mixture_plan):
    with pytest.MonkeyPatch.context() as patch:

        def fails(*args):
            raise RuntimeError("no compiler today\n" + "in many words " * 200)

        patch.setattr(sampling, "by_nutpie", fails)
        with pytest.warns(RuntimeWarning) as told:
            tree = emppl.sample(mixture_plan, draws=40, tune=60, chains=2, seed=3)
        (message,) = [str(one.message) for one in told]
        assert message == (
            "slower: pm.sample, since nutpie could not sample this model (RuntimeError: no compiler today)"
        )
        assert told[0].filename == __file__
        return tree


def test_pm_sample_takes_over(fallback):
    assert fallback.attrs["sampler"] == "pymc"
    assert dict(fallback["posterior"].sizes) == {"chain": 2, "draw": 40, "kind": 2}
    assert "diverging" in fallback["sample_stats"]


def test_frozen_parameters_are_not_drawn_and_deterministics_are(fallback):
    posterior = fallback["posterior"]
    assert set(posterior.data_vars) == {"mu", "gap"}
    np.testing.assert_allclose(posterior["gap"], posterior["mu"].sel(kind="b") - posterior["mu"].sel(kind="a"))


def test_priors_are_kept_where_the_fit_dropped_them(fallback, mixture_plan):
    mu = fallback["posterior"]["mu"].values[0, 7]
    with_prior = float(fallback["sample_stats"]["log_posterior"][0, 7])
    likelihood = mixture_plan.log_likelihood({"mu": mu})
    assert with_prior == pytest.approx(likelihood + stats.norm.logpdf(mu, 0, 3).sum(), rel=1e-10)


def test_the_component_of_a_mixture_is_in_the_latent_group(fallback):
    latent = fallback["latent"]["y_component"]
    assert latent.dims == ("chain", "draw", "row", "y_component_value")
    assert (latent.max("y_component_value").mean() > 0.9).item()  # two kinds four sds apart


def test_the_result_is_written_as_netcdf(fallback, tmp_path):
    fallback.to_netcdf(tmp_path / "draws.nc", engine="h5netcdf")
    back = xr.open_datatree(tmp_path / "draws.nc", engine="h5netcdf")
    np.testing.assert_array_equal(back["posterior"]["mu"], fallback["posterior"]["mu"])
    back.close()


# -- Ctrl-C ------------------------------------------------------------------------------------------------------------


def press() -> None:
    signal.raise_signal(signal.SIGINT)


def swallowed() -> None:
    with contextlib.suppress(BaseException):
        press()


def made_another() -> None:
    try:
        press()
    except BaseException as problem:
        raise RuntimeError("the compiler failed") from problem


@pytest.mark.parametrize("meet", [press, swallowed, made_another], ids=lambda f: f.__name__)
@pytest.mark.parametrize("compiles", ["density", "graph"])
def test_stopped_while_compiling_there_are_no_draws(model, draws, monkeypatch, compiles, meet):
    def compile_model(*_, **__):
        assert numba.core.dispatcher.FunctionCache is CheckedCache  # what a broken entry costs is its time alone
        meet()
        return

    if compiles == "density":
        monkeypatch.setattr(samplers, "CompiledDensity", compile_model)
    else:
        monkeypatch.setattr(samplers, "_of_density", lambda *_: None)
        monkeypatch.setattr(nutpie, "compile_pymc_model", compile_model)
    monkeypatch.setattr(nutpie, "sample", lambda *_, **__: pytest.fail("sampled all the same"))
    monkeypatch.setattr(pm, "sample", lambda *_, **__: pytest.fail("sampled all the same"))
    tree = emppl.sample(model, draws=40, tune=30, chains=2, seed=1)
    assert tree.attrs["interrupted"] == "True" and tree["posterior"].sizes["draw"] == 0
    assert set(tree.children) == set(draws.children)


@pytest.mark.parametrize(("n_draws", "tune"), [(2_000_000, 10), (10, 2_000_000)], ids=["drawing", "tuning"])
def test_stopped_while_sampling_the_draws_so_far_come_back(model, monkeypatch, n_draws, tune):
    sample = nutpie.sample

    def stopped(*arguments, **options):
        thread = threading.Timer(1.5, os.kill, (os.getpid(), signal.SIGINT))
        thread.start()
        return sample(*arguments, **options)

    monkeypatch.setattr(nutpie, "sample", stopped)
    monkeypatch.setattr(sampling, "along_draws", lambda plan, flat, n, *_: along.Along({}, {}, np.zeros(n), False))
    tree = emppl.sample(model, draws=n_draws, tune=tune, chains=2, cores=2, seed=1)
    assert tree.attrs["interrupted"] == "True" and tree.attrs["sampler"] == "nutpie"
    n = tree["posterior"].sizes["draw"]
    assert (0 < n < n_draws) if n_draws > tune else n == 0
    assert np.isfinite(tree["posterior"]["bias"]).all()


def test_stopped_while_log_likelihoods_are_computed_the_draws_stay(model, draws, monkeypatch):
    run, calls = along.Passes.__call__, []

    def stopping(self, terms):
        calls.append(1)
        if len(calls) == 3:
            swallowed()
        return run(self, terms)

    monkeypatch.setattr(along.Passes, "__call__", stopping)
    monkeypatch.setattr(along, "BLOCK_NUMBERS", 1000)
    tree = emppl.sample(model, draws=400, tune=300, chains=2, seed=1)
    assert len(calls) >= 3 and tree.attrs["interrupted"] == "True"
    np.testing.assert_array_equal(tree["posterior"]["bias"], draws["posterior"]["bias"])
    assert not tree["log_likelihood"].data_vars and "latent" not in tree.children


@pytest.mark.parametrize(
    ("lengths", "expected"), [((9, 9, 9), (3, 9)), ((9, 7, 0), (2, 7)), ((2, 9, 1), (1, 9)), ((0, 0, 0), (1, 0))]
)
def test_chains_cut_short_keep_most_draws(lengths, expected):
    """Chains × draws, from chains of these lengths."""
    plan = small_models.plan("coins")
    structure = plan.structure
    full = {
        node.name: np.arange(27.0 * node.size).reshape(3, 9, *node.shape)
        for node in (*structure.parameters, *structure.deterministics)
    }
    for values in full.values():
        for chain, length in enumerate(lengths):
            values[chain, length:] = np.nan
    groups = {name: (("chain", "draw", *(f"{name}_{i}" for i in range(v.ndim - 2))), v) for name, v in full.items()}
    tree = xr.DataTree.from_dict({"posterior": xr.Dataset(groups)})
    arrays, _, short = along.finished_draws(plan, samplers.Drawn("nutpie", tree))
    assert short == (min(lengths) < 9)
    for name, values in arrays.items():
        assert values.shape[:2] == expected and np.isfinite(values).all()
        kept = sorted(np.argsort(-np.array(lengths), kind="stable")[: expected[0]])
        np.testing.assert_array_equal(values, full[name][kept, : expected[1]])


# -- starts and refusals -----------------------------------------------------------------------------------------------


def test_chains_begin_apart_and_reproducibly():
    plan = small_models.plan("coins")
    one, two = (samplers.random_starts(plan, np.random.SeedSequence(4)) for _ in range(2))
    points = [one(seed) for seed in range(4)]
    for seed, u in enumerate(points):
        np.testing.assert_array_equal(u, two(seed))
        assert np.isfinite(plan.log_posterior(plan.structure.coordinates.constrain(u)))
    assert len({tuple(np.round(u, 6)) for u in points}) == 4


def test_nothing_to_draw(model):
    with pytest.raises(UnsupportedModelError, match="no free parameter"):
        emppl.sample(model, fit=emppl.fit(model, freeze={"bias": [0.8, 0.5]}), draws=5)


@pytest.mark.parametrize(
    "options", [{"draws": 0}, {"chains": 0}, {"tune": -1}, {"sampler": "gibbs"}], ids=lambda o: next(iter(o))
)
def test_bad_arguments(options):
    with pytest.raises(InvalidArgumentError, match=next(iter(options))):
        emppl.sample(coins.build(), **options)


class Panic(BaseException):
    """As what pyo3 raises where Rust breaks down."""


def test_a_panic_of_nutpie_is_an_error_of_ours_or_hands_over_to_pymc(model, monkeypatch):
    def panics(*_, **__):
        raise Panic("index out of bounds")

    monkeypatch.setattr(sampling, "by_nutpie", panics)
    with pytest.raises(SamplerError, match="Panic: index out of bounds"):
        emppl.sample(model, draws=5, sampler="nutpie")
    monkeypatch.setattr(sampling, "by_pymc", lambda *_: pytest.fail("reached"))
    with pytest.warns(RuntimeWarning, match="nutpie could not"), pytest.raises(pytest.fail.Exception, match="reached"):
        emppl.sample(model, draws=5)


def test_a_fit_of_another_model():
    """Its plan would be sampled in place of the model that was asked for."""
    fit = emppl.fit(coins.build(k=3), starts=1, seed=0)
    with pytest.raises(InvalidArgumentError, match="another model"):
        emppl.sample(coins.build(), fit=fit, draws=5, tune=5, chains=1, sampler="pymc")


def test_draws_from_the_prior_are_those_of_the_model():
    """A flat prior has none, a frozen parent counts at its value, an ordered vector comes in order."""
    with pm.Model() as model:
        level = pm.Flat("level")
        spread = pm.HalfNormal("spread", np.float64(2.0))
        effect = pm.Normal("effect", np.float64(0.0), spread, shape=3)
        cut = pm.Normal("cut", shape=2, transform=pm.distributions.transforms.ordered)
        pm.Normal("y", level + effect + cut[1] - cut[0], np.float64(1.0), observed=np.ones((4, 3)))
    drawn = sampling.prior_draws(emppl.plan(model), 4000)
    assert set(drawn) == {"spread", "effect", "cut"}
    assert drawn["effect"].shape == (4000, 3)
    assert drawn["effect"].std() == pytest.approx(2.0, rel=0.05)  # E spread² = 4
    assert (np.diff(drawn["cut"], axis=1) > 0).all()
    assert drawn["cut"][:, 1].mean() == pytest.approx(1 / np.sqrt(np.pi), abs=0.06)  # the larger of two normals
    frozen = sampling.prior_draws(emppl.plan(model, freeze={"spread": 0.1}), 1000)
    assert frozen["effect"].std() == pytest.approx(0.1, rel=0.05)


def test_log_likelihoods_of_rows_over_several_plates_add_up():
    """Rows of two plates and of none, in any order: each is counted once, under the name of those it stands with."""
    with pm.Model() as model:
        mu = pm.Normal("mu", np.float64(0.0), np.float64(5.0), shape=2)
        z, v = pm.Bernoulli("z", 0.3, shape=3), pm.Bernoulli("v", 0.6, shape=4)
        y = np.linspace(-2.0, 3.0, 9)
        pm.Normal("y", pt.concatenate([mu[z[::-1]], mu, mu[v]]), np.float64(1.0), observed=y)
    plan = emppl.plan(model)
    theta = {"mu": np.array([-1.0, 2.0])}
    found = along.along_draws(plan, {"mu": theta["mu"][None]}, 1, Watcher(), None).by_member
    assert {name: values.shape[1:] for name, (values, _) in found.items()} == {
        "y_of_z": (3,), "y_of_v": (4,), "y_without_latent": (2,),
    }  # fmt: skip
    assert sum(values.sum() for values, _ in found.values()) == pytest.approx(plan.log_likelihood(theta), rel=1e-12)
    np.testing.assert_allclose(found["y_without_latent"][0][0], stats.norm.logpdf(y[3:5], theta["mu"], 1.0))
