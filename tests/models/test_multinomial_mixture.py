import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.special import logsumexp
from sklearn.metrics import adjusted_rand_score

import emppl
from emppl.models import multinomial_mixture

COUNTS = np.array([[3, 0, 1], [0, 2, 2], [4, 1, 0]])


def test_density_equals_scipy(log_marginal):
    p, w = np.array([[0.7, 0.1, 0.2], [0.1, 0.5, 0.4]]), np.array([0.6, 0.4])
    members = np.log(w) + np.stack([stats.multinomial.logpmf(COUNTS, COUNTS.sum(axis=1), q) for q in p], axis=1)
    expected = logsumexp(members, axis=1).sum() + sum(stats.dirichlet.logpdf(q, np.full(3, 4 / 3)) for q in p)
    frame = pd.DataFrame(COUNTS, columns=["tax", "goal", "team"])
    for data in (frame, {"counts": COUNTS}):
        density = log_marginal(multinomial_mixture.build(data, k=2), "cluster_of_document", 2)
        assert density({"weights": w, "word_probabilities": p}) == pytest.approx(expected, rel=1e-12)
    assert multinomial_mixture.build(frame).coords["word"] == ("tax", "goal", "team")


def test_the_clusters_of_the_example_are_found():
    fit = emppl.fit(multinomial_mixture.build(), starts=3, seed=0)
    true = pd.read_csv(multinomial_mixture.EXAMPLE)["cluster"]
    assert fit.status is emppl.Status.CONVERGED
    assert adjusted_rand_score(true, fit.assign()["cluster_of_document"].values) > 0.5


@pytest.mark.parametrize(
    ("data", "options", "error", "words"),
    [
        ({"a": [1, 2], "b": [1, -1]}, {}, ValueError, ["'b', row 1: -1", "words="]),
        ({"a": [1, 2], "b": [1, np.nan]}, {}, ValueError, ["'b', row 1: nan"]),
        ({"a": [1, 2], "b": ["x", "y"]}, {}, ValueError, ["'b' must hold counts", "words="]),
        ({"a": [1, 2], "b": [0, 0]}, {}, ValueError, ["'b' is constant", "words="]),
        ({"a": [1, 0], "b": [2, 0]}, {}, ValueError, ["row 1 has no word"]),
        ({"a": [1, 2]}, {}, ValueError, ["two or more"]),
        ({"a": [1, 2], "b": [1, 2, 3]}, {}, ValueError, ["not of one length"]),
        ({"a": [1], "b": [2]}, {}, ValueError, ["k=2", "1 documents"]),
        ({"a": [1, 2], "b": [1, 2]}, {"words": "a,c"}, KeyError, ["'c'"]),
        ({"counts": [1, 2, 3]}, {}, ValueError, ["counts has shape (3,)"]),
        ({"a": [1, 2], "b": [1, 2]}, {"k": 0}, ValueError, ["k=0"]),
    ],
)
def test_bad_input_is_named(data, options, error, words):
    with pytest.raises(error) as caught:
        multinomial_mixture.build(data, **options)
    assert [word for word in words if word not in str(caught.value.args[0])] == []
