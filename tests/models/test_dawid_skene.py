import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.special import logsumexp

import emppl
from emppl.models import dawid_skene

DATA = Path(__file__).parents[1] / "data" / "dawid_skene"
REFERENCE = json.loads((DATA / "reference.json").read_text())
NAMES = {"patient": "item", "observer": "rater", "rating": "label"}
TRANSCRIPTIONS = {
    "data.csv": REFERENCE["variants"]["best_known"],
    "data_rater_package.csv": REFERENCE["variants"]["rater_package_data"]["best_known"],
}


def table(file: str) -> pd.DataFrame:
    return pd.read_csv(DATA / file).rename(columns=NAMES)


def test_density_equals_scipy(log_marginal):
    data = {"item": ["x", "x", "y", "x"], "rater": ["Ann", "Bob", "Bob", "Ann"], "label": [0, 1, 1, 0]}
    rates = np.array([[[0.8, 0.2], [0.3, 0.7]], [[0.6, 0.4], [0.1, 0.9]]])
    prevalence = np.array([0.4, 0.6])
    members = np.log(prevalence) + np.stack(
        [np.log(rates[0, :, 0]) * 2 + np.log(rates[1, :, 1]), np.log(rates[1, :, 1])]
    )
    prior = sum(stats.dirichlet.logpdf(rates[r, c], 1.25 + 0.5 * np.eye(2)[c]) for r in (0, 1) for c in (0, 1))
    density = log_marginal(dawid_skene.build(data), "class_of_item", 2)
    expected = logsumexp(members, axis=1).sum() + prior
    assert density({"prevalence": prevalence, "error_rates": rates}) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("file", TRANSCRIPTIONS)
def test_best_known_fit(file):
    """Beyond the published mode, which most starts reach."""
    fit = emppl.fit(dawid_skene.build(table(file)), estimate="ml", seed=0)
    known = TRANSCRIPTIONS[file]
    assert fit.log_likelihood == pytest.approx(known["loglik"], abs=1e-6)
    assert fit.status is emppl.Status.CONVERGED and fit.certificate.holds
    assert "on the border: error_rates" in str(fit.certificate)
    np.testing.assert_allclose(np.sort(fit.theta["prevalence"]), np.sort(known["prevalence"]), atol=1e-4)


def test_published_path():
    """From the shares of each patient's ratings, plain EM goes through the published log-likelihoods."""
    data = table("data.csv")
    shares = pd.crosstab(data["item"], data["label"]).to_numpy() / 7.0
    votes = np.zeros((5, 4, 4))
    for i, r, label in zip(data["item"] - 1, data["rater"] - 1, data["label"] - 1):
        votes[r, :, label] += shares[i]
    start = {"prevalence": shares.mean(axis=0), "error_rates": votes / votes.sum(axis=2, keepdims=True)}
    fit = emppl.fit(dawid_skene.build(), estimate="ml", start=start, starts=0, accelerate=None, max_iter=14)
    published = [step["loglik"] for step in REFERENCE["path"][:15]]
    np.testing.assert_allclose(fit.trace["log_posterior"][:15], published, atol=1e-8)


def test_with_the_prior_class_and_label_agree():
    """Raters are right more often than wrong, so that no name is in doubt; five modes lie within 9 nats."""
    fit = emppl.fit(dawid_skene.build(), starts=20, seed=0)
    rates = fit.theta["error_rates"].mean("rater").values
    assert (rates.argmax(axis=1) == np.arange(4)).all() and fit.certificate.holds


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        ({"item": [1], "rater": [1]}, KeyError, ["'label'", "long form"]),
        ({"item": [1, 2], "rater": [1, 1], "label": [1, np.nan]}, ValueError, ["'label', row 1 is empty", "dropna"]),
        ({"item": [1, 2], "rater": [1, 1], "label": [1, 1]}, ValueError, ["'label' is constant"]),
        (
            pd.DataFrame({"item": [1, 2], "rater": [1, "b"], "label": [1, 2]}),
            ValueError,
            ["'rater' mixes words and numbers"],
        ),
        ({"item": [1, 2, 3], "rater": [1, 1], "label": [1, 2]}, ValueError, ["not of one length", "(3,)"]),
        ({"item": [], "rater": [], "label": []}, ValueError, ["'item' has shape (0,)"]),
        ({c: np.arange(40) for c in ("item", "rater", "label")}, ValueError, ["'label' takes 40", "group"]),
    ],
)
def test_bad_input_is_named(data, error, words):
    with pytest.raises(error) as caught:
        dawid_skene.build(data)
    assert [word for word in words if word not in str(caught.value.args[0])] == []
