"""What bad input gets: one exception type a kind, the user's names in the text, the place, and a way out."""

import warnings
from collections.abc import Callable

import numpy as np
import pymc as pm
import pytensor.tensor as pt
import pytest
from pymc.exceptions import ImputationWarning

import emppl
from emppl.errors import (
    DegenerateDataError,
    EmpplError,
    InvalidArgumentError,
    InvalidDataError,
    SavedFitError,
    UnsupportedModelError,
)
from emppl.models import coins, gaussian_mixture

RNG = np.random.default_rng(0)
PRICES = np.r_[RNG.normal(100.0, 5.0, 12), RNG.normal(150.0, 5.0, 12)]


def says(kind: type[EmpplError], what: Callable, *words: str, ways_out: bool = True) -> EmpplError:
    """`what()` raises `kind`, whose text holds all the words and, unless told otherwise, a way out."""
    with pytest.raises(kind) as caught:
        what()
    text = str(caught.value)
    missing = [word for word in words if word not in text]
    assert not missing, f"{missing} not in:\n{text}"
    assert not ways_out or caught.value.remedies, f"no way out in:\n{text}"
    return caught.value


def mixture(values, k: int = 2, distribution: Callable | None = None) -> pm.Model:
    """k normals with free sds over `price`, a value a house."""
    values = np.ma.asanyarray(values)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ImputationWarning)
        with pm.Model(coords={"house": [f"h{i}" for i in range(len(values))]}) as model:
            w = pm.Dirichlet("w", np.ones(k))
            mu = pm.Normal("mu", np.float64(100.0), np.float64(50.0), shape=k)
            sd = pm.HalfNormal("sd", np.float64(20.0), shape=k)
            kind = pm.Categorical("kind", p=w, dims="house")
            if distribution is None:
                pm.Normal("price", mu[kind], sd[kind], observed=values, dims="house")
            else:
                distribution(mu[kind], values)
    return model


@pytest.fixture(scope="module")
def plan():
    """The coins: bias [coin], coin_of_set [set] hidden, heads [set] observed."""
    return emppl.plan(coins.build())


@pytest.fixture(scope="module")
def model():
    return coins.build()


# -- data --------------------------------------------------------------------------------------------------------------


def with_infinity(row: int) -> np.ndarray:
    values = PRICES.copy()
    values[row] = np.inf
    return values


def test_an_infinite_value_names_its_row():
    says(InvalidDataError, lambda: emppl.plan(mixture(with_infinity(7))), "price[7] = inf", "house 'h7'", "mask")


def test_a_masked_value_is_left_out():
    """As if it had never been there: nothing is refused, nothing made up."""
    masked = emppl.plan(mixture(np.ma.masked_where(np.arange(24) == 7, PRICES)))
    rest = emppl.plan(mixture(np.delete(PRICES, 7)))
    theta = {"w": np.array([0.4, 0.6]), "mu": np.array([100.0, 140.0]), "sd": np.array([4.0, 9.0])}
    assert masked.log_posterior(theta) == pytest.approx(rest.log_posterior(theta), rel=1e-12)


def vectors(mask):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ImputationWarning)
        with pm.Model() as model:
            z = pm.Bernoulli("z", 0.5, shape=6)
            mu = pm.Normal("mu", 0.0, 3.0, shape=(2, 2))
            pm.MvNormal("y", mu[z], cov=np.eye(2), observed=np.ma.masked_where(mask, np.arange(12.0).reshape(6, 2)))
    return model


def test_a_vector_is_left_out_whole_or_not_at_all():
    mask = np.zeros((6, 2), dtype=bool)
    mask[2] = True
    assert emppl.fit(vectors(mask), seed=0, starts=2).certificate.holds
    mask[2, 0] = False
    says(UnsupportedModelError, lambda: emppl.plan(vectors(mask)), "y has vectors", "some entries are missing")


def poisson(mean, values):
    pm.Poisson("price", mu=pm.math.exp(mean / 100), observed=values, dims="house")


def binomial(mean, values):
    pm.Binomial("price", n=np.int64(10), p=pm.math.sigmoid(mean / 100), observed=values, dims="house")


def exponential(mean, values):
    pm.Exponential("price", scale=pm.math.exp(mean / 100), observed=values, dims="house")


def categorical(mean, values):
    p = pm.math.sigmoid(mean / 100)[:, None]
    pm.Categorical("price", p=pm.math.concatenate([p, 1 - p], axis=1), observed=values, dims="house")


@pytest.mark.parametrize(
    "distribution, values, words",
    [
        (poisson, [1, 2, -3, 4], ("price[2] = -3", "Poisson")),
        (binomial, [1, 11, 3, 4], ("price[1] = 11", "Binomial(n=10)")),
        (exponential, [1.0, 2.0, 3.0, -0.5], ("price[3] = -0.5", "Exponential")),
        (categorical, [0, 1, 2, 0], ("price[2] = 2", "Categorical")),
    ],
    ids=["Poisson", "Binomial", "Exponential", "Categorical"],
)
def test_a_value_outside_the_support_names_its_row_and_the_family(distribution, values, words):
    build = mixture(values, distribution=distribution)
    row = int(words[0].split("[")[1].split("]")[0])
    says(InvalidDataError, lambda: emppl.fit(build, starts=1, seed=0), *words, f"house h{row}", "mask")


def test_outside_the_support_without_a_natural_form():
    """The same where only the graph knows the density: not a failed search, but the row."""

    def gamma(mean, values):
        pm.Gamma("price", alpha=pm.math.exp(mean / 100), beta=np.float64(1.0), observed=values, dims="house")

    build = mixture([1.0, 2.0, -3.0, 4.0], distribution=gamma)
    says(EmpplError, lambda: emppl.fit(build, starts=2, seed=0), "price[2] = -3")


@pytest.mark.parametrize("k, distinct", [(3, 2), (5, 4)])
def test_more_components_than_distinct_rows(k, distinct):
    values = np.arange(24.0) % distinct
    fit = lambda: emppl.fit(mixture(values, k=k), estimate="ml", seed=0)  # noqa: E731
    says(DegenerateDataError, fit, "price", f"{distinct} distinct", f"{k} components", "fewer components")


def test_a_constant_column():
    fit = lambda: emppl.fit(mixture(np.full(8, 250.0)), estimate="ml", seed=0)  # noqa: E731
    says(DegenerateDataError, fit, "price", "250", "map")


def test_a_constant_column_among_others():
    y = np.column_stack([PRICES, np.full(24, 3.0)])
    with pm.Model(coords={"house": range(24), "feature": ["price", "rooms"]}) as build:
        mu = pm.Normal("mu", np.float64(100.0), np.float64(50.0), shape=(2, 2))
        sd = pm.HalfNormal("sd", np.float64(20.0), shape=(2, 2))
        kind = pm.Categorical("kind", p=np.array([0.5, 0.5]), dims="house")
        pm.Normal("measured", mu[kind], sd[kind], observed=y, dims=("house", "feature"))
    error = says(DegenerateDataError, lambda: emppl.fit(build, estimate="ml", seed=0), "measured", "feature rooms")
    assert any("leave" in way for way in error.remedies)


def test_a_single_row():
    fit = lambda: emppl.fit(mixture([100.0]), estimate="ml", seed=0)  # noqa: E731
    says(DegenerateDataError, fit, "price", "only row")


def test_a_single_row_with_priors_is_fine():
    with pm.Model() as build:
        mu = pm.Normal("mu", np.float64(0.0), np.float64(1.0), shape=2)
        z = pm.Bernoulli("z", np.float64(0.5))
        pm.Normal("y", mu[z], np.float64(1.0), observed=np.array(0.7))
    fit = emppl.fit(build, starts=3, seed=0)
    assert np.isfinite(fit.log_posterior) and fit.certificate.points[0].holds


def test_an_empty_plate():
    with pm.Model(coords={"house": []}) as build:
        mu = pm.Normal("mu", 0.0, 1.0, shape=2)
        kind = pm.Bernoulli("kind", 0.5, dims="house")
        pm.Normal("price", mu[kind], 1.0, observed=np.zeros(0), dims="house")
    says(InvalidDataError, lambda: emppl.plan(build), "kind is empty", "(0,)")


def test_a_huge_offset_is_only_a_number():
    far, near = (emppl.fit(mixture(PRICES + o), estimate="ml", starts=4, seed=0) for o in (1e8, 0.0))
    assert far.log_likelihood == pytest.approx(near.log_likelihood, abs=1e-5)
    np.testing.assert_allclose(np.sort(far.theta["mu"]) - 1e8, np.sort(near.theta["mu"]), atol=1e-4)


def test_words_for_data_name_the_column():
    data = {"y": ["low", "high", "low"]}
    with pytest.raises(ValueError, match="numbers"):
        gaussian_mixture.build(data)


# -- models ------------------------------------------------------------------------------------------------------------


def test_nothing_observed():
    with pm.Model() as build:
        pm.Normal("height", 0.0, 1.0)
    says(UnsupportedModelError, lambda: emppl.fit(build), "no observed variable", "height", "observed=")


def test_nothing_hidden_is_plain_map_and_says_so():
    with pm.Model() as build:
        mean = pm.Normal("mean", np.float64(0.0), np.float64(10.0))
        pm.Normal("height", mean, np.float64(1.0), observed=np.array([1.0, 2.0]))
    plan = emppl.plan(build)
    assert "no latent variable: this is plain maximum a posteriori estimation" in str(plan)


@pytest.mark.parametrize("thing", [3, None, "coins", coins.build], ids=["a number", "None", "a name", "a function"])
def test_what_is_no_model(thing):
    says(InvalidArgumentError, lambda: emppl.fit(thing), "pm.Model is needed", type(thing).__name__)


def test_a_latent_whose_support_is_unknown():
    with pm.Model() as model:
        share = pm.Beta("share", 2.0, 2.0)
        n = pm.Binomial("animals", n=pt.floor(20 * share).astype("int64"), p=0.5, shape=3)
        pm.Normal("y", n, 1.0, observed=np.array([1.0, 2.0, 3.0]))
    says(UnsupportedModelError, lambda: emppl.fit(model), "animals", "number of trials", "support={'animals'")


def test_latents_tied_together():
    with pm.Model(coords={"day": range(30)}) as build:
        state = pm.Bernoulli("state", 0.5, dims="day")
        pm.Normal("total", state.sum(), 1.0, observed=np.array([11.0]))
    says(UnsupportedModelError, lambda: emppl.fit(build), "state[day]", "30 latent elements", "joint configurations")


# -- arguments ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"freeze": {"bais": 0.5}}, ("bais", "bias")),
        ({"freeze": {"bias": [0.5, 0.5, 0.5]}}, ("bias", "(3,)", "(2,)")),
        ({"freeze": {"bias": [0.5, 1.5]}}, ("bias", "1.5", "Beta")),
        ({"freeze": {"bias": np.nan}}, ("bias", "nan")),
        ({"freeze": {"bias": "high"}}, ("bias", "high", "number")),
        ({"freeze": {"coin_of_set": [0, 1, 2, 0, 0]}}, ("coin_of_set", "2")),
        ({"freeze": {"coin_of_set": [0, 1, 0.5, 0, 0]}}, ("coin_of_set", "0.5")),
        ({"freeze": ["bias"]}, ("freeze", "bias")),
        ({"labels": {"coin": [0, 1, 0, 1, 0]}}, ("coin", "coin_of_set")),
        ({"labels": {"coin_of_set": [0, 1]}}, ("coin_of_set", "(2,)", "(5,)")),
        ({"labels": {"coin_of_set": [0, 1, 2, 0, 0]}}, ("coin_of_set", "[2] = 2", "[0, 1]")),
        ({"labels": {"coin_of_set": list("ABABA")}}, ("coin_of_set", "integers", "factorize")),
        ({"labels": {"coin_of_set": [0.0, 0.5, 0.0, 1.0, 0.0]}}, ("coin_of_set", "integers")),
        ({"labels": [0, 1, 0, 1, 0]}, ("labels", "coin_of_set")),
        ({"obs_weights": {"tails": np.ones(5)}}, ("tails", "heads")),
        ({"obs_weights": np.ones(4)}, ("heads", "(4,)", "5 members")),
        ({"obs_weights": [1, 1, 1, 1, -1]}, ("heads", "not negative")),
        ({"obs_weights": [1, 1, np.nan, 1, 1]}, ("heads", "finite")),
        ({"obs_weights": list("abcde")}, ("heads", "number")),
        ({"support": {"coins": range(2)}}, ("coins", "coin_of_set")),
        ({"support": {"coin_of_set": range(3)}}, ("coin_of_set", "2")),
        ({"support": {"coin_of_set": [0, 0, 1]}}, ("coin_of_set", "twice")),
        ({"support": {"coin_of_set": [0.0, 1.0]}}, ("coin_of_set", "integers")),
        ({"support": {"coin_of_set": []}}, ("coin_of_set",)),
        ({"latents": ["coin"]}, ("coin", "bias")),
        ({"latents": ["bias"]}, ("bias", "continuous")),
        ({"latents": "coin_of_set"}, ("latents", "list")),
        ({"estimate": "mle"}, ("estimate", "'ml'", "'mle'")),
        ({"method": "kmeans"}, ("method", "'hard'")),
        ({"estep": "fast"}, ("estep", "'graph'")),
        ({"start": {"bais": [0.3, 0.5]}}, ("bais", "bias")),
        ({"start": {"bias": [0.1, 0.2, 0.3]}}, ("bias", "(3,)", "(2,)")),
        ({"start": {"bias": [0.1, 1.2]}}, ("bias", "1.2", "Beta")),
        ({"start": {"bias": [0.1, np.nan]}}, ("bias", "nan")),
        ({"start": {"bias": "high"}}, ("bias", "high", "number")),
        ({"start": 0.5}, ("start", "bias")),
        ({"start": "bias"}, ("start", "bias")),
        ({"accelerate": "fast"}, ("accelerate", "'squarem'")),
        ({"tol": -1.0}, ("tol",)),
        ({"tol": np.nan}, ("tol",)),
        ({"max_iter": -1}, ("max_iter",)),
        ({"starts": -1}, ("starts",)),
    ],
    ids=lambda value: repr(value)[:60] if isinstance(value, dict) else "",
)
def test_arguments_that_cannot_be(model, arguments, words):
    """The text names the user's variable, the value met beside what was expected."""
    says(EmpplError, lambda: emppl.fit(model, **{"starts": 1, "seed": 0, **arguments}), *words, ways_out=False)


def test_minus_one_as_a_value_and_as_unknown():
    with pm.Model() as build:
        slope = pm.Normal("slope", np.float64(0.0), np.float64(2.0))
        sign = pm.DiscreteUniform("sign", lower=np.int64(-1), upper=np.int64(1), shape=3)
        pm.Normal("y", slope * sign, np.float64(1.0), observed=np.array([-1.0, 0.1, 1.2]))
    says(InvalidArgumentError, lambda: emppl.plan(build, labels={"sign": [-1, 0, 1]}), "−1", "masked")
    known = np.ma.masked_array([-1, 0, 0], mask=[False, False, True])
    plan = emppl.plan(build, labels={"sign": known})  # the way out that the text names
    r = plan.responsibilities({"slope": np.array(1.0)})["sign"]
    np.testing.assert_array_equal(r[:2], [[1, 0, 0], [0, 1, 0]])


def test_labels_that_no_parameter_allows():
    """A known label of weight zero: no density anywhere."""
    with pm.Model() as build:
        mu = pm.Normal("mu", 0.0, 1.0, shape=2)
        z = pm.Categorical("z", p=np.array([1.0, 0.0]), shape=2)
        pm.Normal("y", mu[z], 1.0, observed=np.zeros(2))
    says(EmpplError, lambda: emppl.fit(build, labels={"z": [0, 1]}, starts=2, seed=0), "finite")


def test_a_start_that_is_a_fit_of_another_model(model, tmp_path):
    two = emppl.fit(coins.build(weights="free"), starts=1, seed=0)
    three = emppl.fit(coins.build(k=3), starts=1, seed=0)
    for other in (two, emppl.load(two.save(tmp_path / "two.nc"))):
        says(InvalidArgumentError, lambda o=other: emppl.fit(model, start=o, starts=0), "weights", "another model")
    says(InvalidArgumentError, lambda: emppl.fit(model, start=three, starts=0), "bias", "(3,)", "(2,)", ways_out=False)


def test_a_loaded_fit_knows_its_limits(plan, tmp_path):
    loaded = emppl.load(emppl.fit(plan, starts=1, seed=0).save(tmp_path / "fit.nc"))
    says(SavedFitError, lambda: loaded.score({"heads": np.array([3])}), "no model", "start=loaded")


@pytest.mark.parametrize("kind", [InvalidDataError, InvalidArgumentError, UnsupportedModelError, DegenerateDataError])
def test_errors_cross_processes(kind):
    """Starts run in workers: an error must survive pickling with all it says."""
    import pickle

    error = pickle.loads(pickle.dumps(kind("what", "where", ("one way", "another"))))
    assert (error.what, error.where, error.remedies) == ("what", "where", ("one way", "another"))
    assert str(error) == "what\n  where: where\n  ways out:\n  - one way\n  - another"
