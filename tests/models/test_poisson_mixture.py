import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from scipy.special import logsumexp

from emppl.models import poisson_mixture

REFERENCE = json.loads((Path(__file__).parents[1] / "data" / "death_notices_poisson" / "reference.json").read_text())


def log_prior(weights, rate, overall):
    weighing = stats.dirichlet.logpdf(weights, np.ones(len(weights))) if len(weights) > 1 else 0.0
    return weighing + stats.gamma.logpdf(rate, 2.0, scale=overall).sum()


@pytest.mark.parametrize("exposure", [None, [1.0, 0.5, 3.0, 2.0]])
@pytest.mark.parametrize("k", [1, 2, 3])
def test_density_equals_scipy(log_marginal, exposure, k):
    y = np.array([0, 4, 2, 9])
    data = {"y": y} if exposure is None else {"y": y, "exposure": exposure}
    time = np.ones(4) if exposure is None else np.array(exposure)
    rate, weights = np.array([0.7, 2.5, 6.0])[:k], np.array([0.2, 0.5, 0.3])[:k]
    weights = weights / weights.sum()
    point = {"rate": rate} | ({"weights": weights} if k > 1 else {})
    members = stats.poisson.logpmf(y[:, None], time[:, None] * rate) + np.log(weights)
    expected = logsumexp(members, axis=1).sum() + log_prior(weights, rate, y.sum() / time.sum())
    density = log_marginal(poisson_mixture.build(data, k=k), "component_of_row", k)
    assert density(point) == pytest.approx(expected, rel=1e-12)


def test_example_is_the_published_table(log_joint, observed):
    model = poisson_mixture.build()
    y = observed(model, "y")
    assert y.shape == (1096,)
    # All days in one component: the likelihood of a single Poisson, which the reference holds.
    single = REFERENCE["variants"]["one_poisson"]
    rate, weights = np.array([single["parameters"]["mu"], 1.0]), np.array([0.5, 0.5])
    density = log_joint(model)({"rate": rate, "weights": weights, "component_of_row": np.zeros(1096, dtype=int)})
    expected = single["loglik"] + 1096 * np.log(0.5) + log_prior(weights, rate, y.mean())
    assert density == pytest.approx(expected, abs=1e-8)


def test_dims_and_coords():
    model = poisson_mixture.build({"y": [1, 2, 3]}, k=2)
    assert model.named_vars_to_dims == {
        "weights": ("component",),
        "rate": ("component",),
        "component_of_row": ("row",),
        "y": ("row",),
    }
    assert model.coords == {"component": (0, 1), "row": (0, 1, 2)}


def test_rows_of_zeros_have_a_proper_prior(log_joint):
    density = log_joint(poisson_mixture.build({"y": [0, 0, 0]}, k=1))
    assert np.isfinite(density({"rate": np.array([0.1]), "component_of_row": np.zeros(3, dtype=int)}))


@pytest.mark.parametrize(
    ("data", "options", "error", "words"),
    [
        ({"deaths": [1]}, {}, KeyError, ["'y'", "['deaths']"]),
        ({"y": [1, 2.5]}, {}, ValueError, ["y[1] = 2.5", "whole number"]),
        ({"y": [1, -2]}, {}, ValueError, ["y[1] = -2"]),
        ({"y": [1, np.inf]}, {}, ValueError, ["y[1] = inf"]),
        ({"y": ["many"]}, {}, ValueError, ["y must hold numbers", "many"]),
        ({"y": []}, {}, ValueError, ["y has shape (0,)"]),
        ({"y": [[1, 2]]}, {}, ValueError, ["y has shape (1, 2)"]),
        ({"y": [1, 2], "exposure": [1.0]}, {}, ValueError, ["exposure has shape (1,)", "y (2,)"]),
        ({"y": [1, 2], "exposure": [1.0, 0.0]}, {}, ValueError, ["exposure[1] = 0", "positive"]),
        ({"y": [1, 2], "exposure": [1.0, np.nan]}, {}, ValueError, ["exposure[1] = nan"]),
        ({"y": [1, 2]}, {"k": 0}, ValueError, ["k=0", "1 or more"]),
        ({"y": [1, 2]}, {"k": True}, ValueError, ["k=True"]),
    ],
)
def test_bad_input_is_named(data, options, error, words):
    with pytest.raises(error) as caught:
        poisson_mixture.build(data, **options)
    text = str(caught.value.args[0])
    assert [word for word in words if word not in text] == []
