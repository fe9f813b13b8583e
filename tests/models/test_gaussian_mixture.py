import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.special import logsumexp

from emppl.models import gaussian_mixture

DATA = Path(__file__).parents[1] / "data"
ROWS = np.array([[1.0, 200.0], [1.7, 260.0], [3.1, 190.0], [2.2, 300.0]])  # two features of different units
MEAN, SD = ROWS.mean(axis=0), ROWS.std(axis=0)
WEIGHTS = np.array([0.3, 0.7])
MU = np.array([[1.5, 210.0], [2.6, 280.0]])
PACKED = np.array([[0.8, 0.3, 0.5], [1.2, -0.4, 0.9]])  # Cholesky factors by rows, in units of the columns' sds
SPREAD = np.array([[0.5, 20.0], [0.9, 45.0]])


def inverse_gamma(sd, scale):
    return np.sum(stats.invgamma.logpdf(sd, 2.0, scale=scale))


def log_prior_of_factor(packed):
    """LKJ(2) on the correlation, InverseGamma(2, 1) on both sds, as a density of (l11, l21, l22), up to a constant.

    The constant is left out because PyMC 6.3 adds the logarithm of LKJ's normaliser where it is to be subtracted.
    """
    sds = np.array([packed[0], np.hypot(packed[1], packed[2])])
    rest = (packed[2] / sds[1]) ** 2  # 1 - r²
    return np.log(rest) + inverse_gamma(sds, 1.0) + 0.5 * np.log(rest) - np.log(sds[1])


def factor(packed):
    return SD[:, None] * np.array([[packed[0], 0.0], [packed[1], packed[2]]])


def case(covariance, packed=PACKED, spread=SPREAD):
    """The parameters of a shape, the covariances [2, 2, 2] that they mean, their log prior."""
    covariances = [factor(p) @ factor(p).T for p in packed]
    rms = np.sqrt(np.mean(SD**2))
    if covariance == "full":
        return {"chol_0": packed[0], "chol_1": packed[1]}, covariances, sum(log_prior_of_factor(p) for p in packed)
    if covariance == "tied":
        return {"chol": packed[0]}, [covariances[0]] * 2, log_prior_of_factor(packed[0])
    if covariance == "diagonal":
        return {"sd": spread}, [np.diag(s**2) for s in spread], inverse_gamma(spread, SD)
    if covariance == "spherical":
        return {"sd": spread[:, 1]}, [np.eye(2) * s**2 for s in spread[:, 1]], inverse_gamma(spread[:, 1], rms)
    return {"sd": spread[0, 1]}, [np.eye(2) * spread[0, 1] ** 2] * 2, inverse_gamma(spread[0, 1], rms)


def expected_log_posterior(covariances, log_prior):
    members = [stats.multivariate_normal.logpdf(ROWS, m, c) for m, c in zip(MU, covariances, strict=True)]
    means = stats.norm.logpdf(MU, MEAN, 3.0 * SD).sum() + stats.dirichlet.logpdf(WEIGHTS, np.ones(2))
    return logsumexp(np.transpose(members) + np.log(WEIGHTS), axis=1).sum() + log_prior + means


@pytest.mark.parametrize("covariance", ["diagonal", "spherical", "tied_spherical"])
def test_density_equals_scipy(log_marginal, covariance):
    parameters, covariances, log_prior = case(covariance)
    density = log_marginal(gaussian_mixture.build({"y": ROWS}, covariance=covariance), "component_of_row", 2)
    expected = expected_log_posterior(covariances, log_prior)
    assert density({"weights": WEIGHTS, "mu": MU, **parameters}) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("covariance", ["full", "tied"])
def test_density_of_a_cholesky_factor_equals_scipy_up_to_a_constant(log_marginal, covariance):
    density = log_marginal(gaussian_mixture.build({"y": ROWS}, covariance=covariance), "component_of_row", 2)
    differences = []
    for packed in (PACKED, PACKED[::-1] * [0.9, -1.3, 1.1]):
        parameters, covariances, log_prior = case(covariance, packed)
        value = density({"weights": WEIGHTS, "mu": MU, **parameters})
        differences.append(value - expected_log_posterior(covariances, log_prior))
    assert differences[0] == pytest.approx(differences[1], abs=1e-11)


@pytest.mark.parametrize("covariance", ["full", "diagonal", "spherical", "tied", "tied_spherical"])
def test_one_feature_equals_scipy(log_marginal, covariance):
    y, tied = ROWS[:, 0], covariance.startswith("tied")
    sd = np.array(0.6) if tied else np.array([0.4, 0.9])
    members = stats.norm.logpdf(y[:, None], MU[:, 0], sd) + np.log(WEIGHTS)
    expected = logsumexp(members, axis=1).sum() + inverse_gamma(sd, SD[0])
    expected += stats.norm.logpdf(MU[:, 0], MEAN[0], 3.0 * SD[0]).sum() + stats.dirichlet.logpdf(WEIGHTS, np.ones(2))
    model = gaussian_mixture.build({"y": y}, covariance=covariance)
    assert model.named_vars_to_dims["y"] == ("row",) and model.named_vars_to_dims["mu"] == ("component",)
    density = log_marginal(model, "component_of_row", 2)
    assert density({"weights": WEIGHTS, "mu": MU[:, 0], "sd": sd}) == pytest.approx(expected, rel=1e-12)


def test_old_faithful_equals_the_reference(observed):
    reference = json.loads((DATA / "old_faithful_gmm2" / "reference.json").read_text())
    model = gaussian_mixture.build()
    y = observed(model, "y")
    p = reference["parameters"]
    members = [stats.multivariate_normal.logpdf(y, m, c) for m, c in zip(p["means"], p["covariances"], strict=True)]
    value = logsumexp(np.transpose(members) + np.log(p["weights"]), axis=1).sum()
    assert value == pytest.approx(reference["loglik"], abs=1e-8)
    assert model.coords["feature"] == ("eruptions", "waiting") and len(model.coords["row"]) == 272


@pytest.mark.parametrize(
    ("example", "fit"),
    [("windsor_prices", "price_in_thousands, K=2"), ("windsor_houses", "log_price_and_log_lot, K=2")],
)
def test_windsor_equals_the_reference(observed, example, fit):
    reference = json.loads((DATA / "house_prices" / "reference.json").read_text())["fits"][fit]
    model = gaussian_mixture.build(example=example)
    y = observed(model, "y").reshape(546, -1)
    members = [
        stats.multivariate_normal.logpdf(y, m, c)
        for m, c in zip(reference["means"], reference["covariances"], strict=True)
    ]
    value = logsumexp(np.transpose(members) + np.log(reference["weights"]), axis=1).sum()
    assert value == pytest.approx(reference["loglik"], abs=1e-4)


@pytest.mark.parametrize("covariance", ["full", "tied"])
def test_cov_is_in_the_units_of_the_data(evaluate, covariance):
    parameters, covariances, _ = case(covariance)
    model = gaussian_mixture.build({"y": ROWS}, covariance=covariance)
    cov = evaluate(model["cov"], {model[name]: value for name, value in parameters.items()})
    np.testing.assert_allclose(cov, covariances if covariance == "full" else covariances[0], rtol=1e-12)


def test_dims_and_coords():
    frame = pd.DataFrame({"name": list("abcd"), "length": ROWS[:, 0], "width": ROWS[:, 1], "ripe": [True] * 4})
    with pytest.warns(UserWarning, match="left out: 'name', 'ripe'"):
        model = gaussian_mixture.build(frame, k=3)
    frame = frame[["length", "width"]]
    both = ("component", "feature")
    assert model.named_vars_to_dims == {
        "weights": ("component",),
        "mu": both,
        "component_of_row": ("row",),
        "chol_0": ("entry",),
        "chol_1": ("entry",),
        "chol_2": ("entry",),
        "cov": (*both, "feature_bis"),
        "y": ("row", "feature"),
    }
    assert model.coords["feature"] == model.coords["feature_bis"] == ("length", "width")
    assert model.coords["entry"] == ("length, length", "width, length", "width, width")
    assert model.coords["component"] == (0, 1, 2)
    assert gaussian_mixture.build(frame, covariance="diagonal").named_vars_to_dims["sd"] == both
    assert gaussian_mixture.build(frame, covariance="spherical").named_vars_to_dims["sd"] == ("component",)
    assert "sd" not in gaussian_mixture.build(frame, covariance="tied_spherical").named_vars_to_dims  # a scalar
    assert gaussian_mixture.build(frame, covariance="tied").named_vars_to_dims["cov"] == ("feature", "feature_bis")


def test_columns_choose_and_order_the_features():
    frame = pd.DataFrame({"a": ROWS[:, 0], "b": ROWS[:, 1], "c": ROWS[:, 0] ** 2})
    assert gaussian_mixture.build(frame, columns=["c", "a"]).coords["feature"] == ("c", "a")
    assert gaussian_mixture.build(frame, columns="c, a").coords["feature"] == ("c", "a")
    mapping = {"a": ROWS[:, 0], "b": ROWS[:, 1]}
    assert gaussian_mixture.build(mapping).coords["feature"] == ("a", "b")
    assert gaussian_mixture.build({**mapping, "y": ROWS[:, 0]}, columns=["b", "a"]).coords["feature"] == ("b", "a")
    assert gaussian_mixture.build({"y": ROWS}).coords["feature"] == ("y1", "y2")


@pytest.mark.parametrize("weights", ["equal", (0.25, 0.75)])
def test_given_weights_are_no_parameter(log_marginal, weights):
    model = gaussian_mixture.build({"y": ROWS[:, 0]}, covariance="tied", weights=weights)
    assert "weights" not in model.named_vars
    members = stats.norm.logpdf(ROWS[:, 0][:, None], MU[:, 0], 0.6) + np.log(
        [0.5, 0.5] if weights == "equal" else weights
    )
    expected = logsumexp(members, axis=1).sum() + inverse_gamma(0.6, SD[0])
    expected += stats.norm.logpdf(MU[:, 0], MEAN[0], 3.0 * SD[0]).sum()
    density = log_marginal(model, "component_of_row", 2)
    assert density({"mu": MU[:, 0], "sd": np.array(0.6)}) == pytest.approx(expected, rel=1e-12)


def test_one_component_has_no_weight_to_estimate():
    assert "weights" not in gaussian_mixture.build(k=1).named_vars


def test_offset_and_units_change_nothing_but_units(log_joint):
    """Prior and likelihood follow the data: rescaled, the log joint shifts by the logarithms of the scales alone."""
    offset, scale = np.array([1e9, -3.0]), np.array([1.0, 1e-6])
    point = {"weights": WEIGHTS, "component_of_row": np.array([0, 1, 1, 0]), "chol_0": PACKED[0], "chol_1": PACKED[1]}
    here = log_joint(gaussian_mixture.build({"y": ROWS}))({**point, "mu": MU})
    there = log_joint(gaussian_mixture.build({"y": offset + scale * ROWS}))({**point, "mu": offset + scale * MU})
    densities = ROWS.shape[0] + MU.shape[0]  # each row and each mean is a density in the units of the data
    assert there == pytest.approx(here - densities * np.log(scale).sum(), abs=1e-4)


@pytest.mark.parametrize(("n", "k"), [(17, 1), (40, 2)])
def test_the_prior_keeps_a_component_off_equal_values(log_joint, n, k):
    """With n equal values the log joint has its maximum in sd at s / (n + 3), as the docstring says, not at 0."""
    y = np.concatenate([np.full(n, 50.0), [20.0, 90.0]])
    component = np.zeros(len(y), dtype=int)
    sd, z = np.ones(k + 1) * 20.0, component.copy()
    z[n:] = k
    density = log_joint(gaussian_mixture.build({"y": y}, k=k + 1))
    mu = np.full(k + 1, 50.0)
    best = y.std() / (n + 3)

    def at(value):
        return density(
            {
                "weights": np.full(k + 1, 1.0 / (k + 1)),
                "mu": mu,
                "sd": np.concatenate([[value], sd[1:]]),
                "component_of_row": z,
            }
        )

    assert at(best) > max(at(best * 0.99), at(best * 1.01), at(best * 1e-3), at(best * 1e-9))


GOOD = {"a": ROWS[:, 0], "b": ROWS[:, 1]}


@pytest.mark.parametrize(
    ("data", "options", "error", "words"),
    [
        ({"a": [1.0, np.nan, np.nan]}, {}, ValueError, ["column 'a', row 1", "nan", "2 such rows", "dropna"]),
        ({"a": [1.0, 2.0, np.inf]}, {}, ValueError, ["column 'a', row 2", "inf"]),
        ({"y": np.ma.masked_equal([1.0, 2.0], 2.0)}, {}, ValueError, ["column 'y', row 1"]),
        ({"a": [1.0, 2.0], "b": [3.0, 3.0]}, {}, ValueError, ["column 'b' is constant", "3 from row 0", "columns="]),
        ({"a": [1.0]}, {}, ValueError, ["column 'a' is constant"]),
        ({"a": [1.0, 2.0], "b": [3.0]}, {}, ValueError, ["not of one length", "'a': (2,)", "'b': (1,)"]),
        ({"y": np.zeros((2, 2, 2))}, {}, ValueError, ["(2, 2, 2)", "[N, D]"]),
        ({"y": []}, {}, ValueError, ["(0,)", "at least one row"]),
        ({"y": ["one"]}, {}, ValueError, ["y must hold numbers", "one"]),
        (pd.DataFrame({"a": [], "b": []}, dtype=float), {}, ValueError, ["no rows"]),
        ({"name": ["x", "y"]}, {}, ValueError, ["no numeric column", "['name']"]),
        (GOOD, {"columns": ["a", "c"]}, KeyError, ["'c'", "['a', 'b']", "columns="]),
        ({**GOOD, "d": list("wxyz")}, {"columns": ["d"]}, ValueError, ["'d' does not hold numbers"]),
        (GOOD, {"columns": ["a", "a"]}, ValueError, ["none twice"]),
        (GOOD, {"columns": []}, ValueError, ["at least one column"]),
        (GOOD, {"k": 0}, ValueError, ["k=0", "1 or more"]),
        (GOOD, {"k": "three"}, ValueError, ["k='three'"]),
        (GOOD, {"covariance": "round"}, ValueError, ["covariance='round'", "full, diagonal, tied"]),
        (GOOD, {"weights": "known"}, ValueError, ["weights='known'", '"equal"']),
        (GOOD, {"weights": (0.5, 0.4)}, ValueError, ["2 probabilities", "sum to 1"]),
        (None, {"example": "iris"}, ValueError, ["example='iris'", "old_faithful"]),
        (None, {"columns": "waiting,height"}, KeyError, ["'height'", "'eruptions'"]),
    ],
)
def test_bad_input_is_named(data, options, error, words):
    with pytest.raises(error) as caught:
        gaussian_mixture.build(data, **options)
    text = str(caught.value.args[0])
    assert [word for word in words if word not in text] == []
