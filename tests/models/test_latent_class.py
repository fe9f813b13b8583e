import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.special import logsumexp

import emppl
from emppl.models import latent_class

DATA = Path(__file__).parents[1] / "data" / "lca_binary"
FITS = json.loads((DATA / "reference.json").read_text())["fits"]
ROWS = pd.DataFrame({"A": [0, 1, 1], "B": [1, 1, 0]})


def test_density_equals_scipy(log_marginal):
    p, w = np.array([[0.2, 0.6], [0.7, 0.9]]), np.array([0.3, 0.7])
    members = stats.bernoulli.logpmf(ROWS.to_numpy()[:, None], p).sum(axis=2) + np.log(w)
    expected = logsumexp(members, axis=1).sum() + stats.beta.logpdf(p, 1.5, 1.5).sum()
    density = log_marginal(latent_class.build(ROWS), "class_of_person", 2)
    assert density({"weights": w, "probability": p}) == pytest.approx(expected, rel=1e-12)


def test_items_of_several_answers(log_marginal):
    model = latent_class.build({"sky": ["sun", "rain", "fog"], "wind": [0, 1, 1]})
    assert model.coords["sky_answer"] == ("fog", "rain", "sun")
    sky, wind = np.array([[0.2, 0.5, 0.3], [0.6, 0.3, 0.1]]), np.array([[0.4, 0.6], [0.9, 0.1]])
    members = np.log(sky[:, [2, 1, 0]].T) + np.log(wind[:, [0, 1, 1]].T) + np.log(0.5)
    prior = sum(stats.dirichlet.logpdf(row, np.full(len(row), 1 + 1 / len(row))) for row in (*sky, *wind))
    density = log_marginal(model, "class_of_person", 2)
    point = {"weights": np.array([0.5, 0.5]), "probability_sky": sky, "probability_wind": wind}
    assert density(point) == pytest.approx(logsumexp(members, axis=1).sum() + prior, rel=1e-12)


@pytest.mark.parametrize("case", [name for name in FITS if name.startswith(("stouffer_toby", "carcinoma"))])
def test_best_known_fit(case):
    k = int(case[-1])
    model = latent_class.build(pd.read_csv(DATA / FITS[case]["file"]), k=k)
    fit = emppl.fit(model, estimate="ml", seed=0)
    assert fit.log_likelihood == pytest.approx(FITS[case]["loglik"], abs=1e-6)
    assert fit.status is emppl.Status.CONVERGED
    if case == "stouffer_toby_K3":  # 14 parameters, and patterns that tell 13 of them
        assert not fit.certificate.holds and "do not tell apart" in str(fit.certificate)
    else:
        assert fit.certificate.holds
        order = np.argsort(-fit.theta["probability"].values[:, 0])
        known = np.array(FITS[case]["probabilities_of_1"])
        known = known[np.argsort(-known[:, 0])]
        np.testing.assert_allclose(fit.theta["probability"].values[order], known, atol=1e-3)
    if case == "carcinoma_K2":
        assert "on the border: probability" in str(fit.certificate)


def test_examples():
    assert len(latent_class.build().coords["person"]) == 216
    assert len(latent_class.build(example="carcinoma").coords["item"]) == 7


@pytest.mark.parametrize(
    ("data", "options", "error", "words"),
    [
        ({"A": [0, np.nan], "B": [0, 1]}, {}, ValueError, ["'A', row 1", "dropna"]),
        ({"A": [0, None], "B": [0, 1]}, {}, ValueError, ["'A', row 1"]),
        ({"A": [0, 1], "B": [1, 1]}, {}, ValueError, ["'B' is constant", "items="]),
        (pd.DataFrame({"A": [0, "x"], "B": [0, 1]}), {}, ValueError, ["'A' mixes words and numbers"]),
        ({"A": [0, 1], "count": [1, -2]}, {}, ValueError, ["'count', row 1: -2", "whole number"]),
        ({"A": [0, 1], "count": ["a", "b"]}, {}, ValueError, ["'count' must hold numbers"]),
        ({"A": [1], "B": [0]}, {}, ValueError, ["'A' is constant"]),
        ({"A": []}, {}, ValueError, ["no rows"]),
        ({"A": [0, 1], "B": [0, 1, 1]}, {}, ValueError, ["'B' has shape (3,)"]),
        ({"name": np.arange(100) * 0.5, "A": np.arange(100) % 2}, {}, ValueError, ["'name' takes 100", "items="]),
        (ROWS, {"items": "A,C"}, KeyError, ["'C'", "items="]),
        (ROWS, {"items": ""}, KeyError, ["items="]),
        (ROWS, {"k": 0}, ValueError, ["k=0"]),
        (None, {"example": "values"}, ValueError, ["'values'", "carcinoma"]),
    ],
)
def test_bad_input_is_named(data, options, error, words):
    with pytest.raises(error) as caught:
        latent_class.build(data, **options)
    assert [word for word in words if word not in str(caught.value.args[0])] == []
