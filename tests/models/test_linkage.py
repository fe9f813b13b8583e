import json
from pathlib import Path

import numpy as np
import pytest

import emppl
from emppl.models import linkage

REFERENCE = json.loads((Path(__file__).parents[1] / "data" / "linkage_dlr" / "reference.json").read_text())
COEFFICIENT = REFERENCE["loglik"] - REFERENCE["loglik_without_multinomial_coefficient"]


def test_best_known_fit():
    fit = emppl.fit(linkage.build(), estimate="ml", seed=0)
    known = REFERENCE["parameters"]
    assert fit.log_likelihood + COEFFICIENT == pytest.approx(REFERENCE["loglik"], abs=1e-9)
    assert fit.theta["pi"].item() == pytest.approx(known["pi"], abs=1e-7)
    assert fit.theta["recombination"].item() == pytest.approx(1 - np.sqrt(known["pi"]), abs=1e-7)
    assert fit.standard_errors()["pi"].item() == pytest.approx(REFERENCE["standard_error"], rel=1e-5)
    assert fit.responsibilities()["cell_of_animal"].values[:, 1].sum() == pytest.approx(known["expected_x2"], abs=1e-5)
    assert fit.certificate.holds


def test_path_of_dempster_laird_and_rubin():
    fit = emppl.fit(linkage.build(), estimate="ml", start={"pi": 0.5}, starts=0, accelerate=None, tol=1e-14)
    path = [step["pi"] for step in REFERENCE["path"][:9]]
    np.testing.assert_allclose(fit.trace["pi"][:9], path, atol=1e-8)


def test_with_a_beta_prior():
    fit = emppl.fit(linkage.build(prior=(3.0, 3.0)), seed=0)
    known = REFERENCE["variants"]["map_beta33"]
    assert fit.theta["pi"].item() == pytest.approx(known["parameters"]["pi"], abs=1e-7)
    assert fit.log_posterior + COEFFICIENT == pytest.approx(known["log_posterior_unnormalised"], abs=1e-9)


def test_one_row_an_animal():
    model = linkage.build({"phenotype": ["AB", "ab", "AB", "Ab"]})
    assert len(model.coords["animal"]) == 4 and len(linkage.build().coords["animal"]) == 197


@pytest.mark.parametrize(
    ("data", "options", "error", "words"),
    [
        ({"count": [1]}, {}, KeyError, ["'phenotype'", "['count']"]),
        ({"phenotype": ["AB", "BA"]}, {}, ValueError, ["'phenotype', row 1: 'BA'", "AB, Ab, aB, ab"]),
        ({"phenotype": ["AB", None]}, {}, ValueError, ["'phenotype', row 1"]),
        ({"phenotype": ["AB", "ab"], "count": [1, -1]}, {}, ValueError, ["'count', row 1: -1"]),
        ({"phenotype": ["AB", "ab"], "count": [1, np.nan]}, {}, ValueError, ["'count', row 1: nan"]),
        ({"phenotype": ["AB", "ab"], "count": ["a", "b"]}, {}, ValueError, ["'count' must hold numbers"]),
        ({"phenotype": ["AB", "ab"], "count": [0, 0]}, {}, ValueError, ["no animal"]),
        ({"phenotype": []}, {}, ValueError, ["no rows"]),
        (None, {"prior": 2.0}, ValueError, ["prior=2.0"]),
    ],
)
def test_bad_input_is_named(data, options, error, words):
    with pytest.raises(error) as caught:
        linkage.build(data, **options)
    assert [word for word in words if word not in str(caught.value.args[0])] == []
