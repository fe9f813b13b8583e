import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.special import logsumexp

import emppl
from emppl.models import naive_bayes

DATA = pd.DataFrame({"size": [1.0, 2.5, 4.0], "shade": ["dark", "pale", "pale"], "code": [7, 3, 7]})
SIZE = DATA["size"].to_numpy()


def test_density_equals_scipy(log_marginal):
    mu, sd, w = np.array([[1.2], [3.0]]), np.array([[0.5], [1.1]]), np.array([0.3, 0.7])
    shade, code = np.array([[0.8, 0.2], [0.3, 0.7]]), np.array([[0.4, 0.6], [0.9, 0.1]])
    members = stats.norm.logpdf(SIZE[:, None], mu[:, 0], sd[:, 0]) + np.log(w)
    members = members + np.log(shade[:, [0, 1, 1]].T) + np.log(code[:, [1, 0, 1]].T)
    prior = stats.norm.logpdf(mu, SIZE.mean(), 3 * SIZE.std()).sum()
    prior += stats.invgamma.logpdf(sd, 2, scale=SIZE.std()).sum()
    prior += sum(stats.dirichlet.logpdf(row, [1.5, 1.5]) for row in (*shade, *code))
    model = naive_bayes.build(DATA, words="code")
    assert model.coords["shade_value"] == ("dark", "pale") and model.coords["feature"] == ("size",)
    point = {"weights": w, "mu": mu, "sd": sd, "probability_shade": shade, "probability_code": code}
    expected = logsumexp(members, axis=1).sum() + prior
    assert log_marginal(model, "cluster_of_row", 2)(point) == pytest.approx(expected, rel=1e-12)


def test_houses():
    """The dearer cluster has more of everything; without priors every update is a closed form."""
    plan = emppl.plan(naive_bayes.build(), estimate="ml")
    assert {block.rule for block in plan.blocks} == {"closed form"}
    fit = emppl.fit(plan, starts=2, seed=0)
    dear = int(fit.theta["mu"].sel(feature="log_price").values.argmax())
    assert fit.status is emppl.Status.CONVERGED
    for name in ("driveway", "recreation", "aircon", "prefer"):
        yes = fit.theta[f"probability_{name}"].sel({f"{name}_value": "yes"}).values
        assert yes[dear] > yes[1 - dear]


@pytest.mark.parametrize(
    ("data", "options", "error", "words"),
    [
        (DATA, {"columns": "size,weight"}, KeyError, ["'weight'", "columns="]),
        ({"a": [1.0, np.nan, 3.0]}, {}, ValueError, ["'a', row 1 is empty", "dropna"]),
        ({"a": [1.0, np.inf, 3.0]}, {}, ValueError, ["'a', row 1: inf"]),
        ({"a": [1.0, 2.0], "b": ["x", "x"]}, {}, ValueError, ["'b' is constant", "columns="]),
        ({"a": [1.0]}, {"k": 1}, ValueError, ["'a' is constant"]),
        ({"a": [1.0, 2.0], "b": [1.0]}, {}, ValueError, ["'b' has shape (1,)"]),
        ({"name": [f"n{i}" for i in range(50)]}, {}, ValueError, ["'name' takes 50", "columns="]),
        (DATA, {"k": 5}, ValueError, ["k=5", "3 rows"]),
        (DATA, {"k": 0}, ValueError, ["k=0"]),
        (DATA, {"columns": ""}, ValueError, ["no column is left"]),
    ],
)
def test_bad_input_is_named(data, options, error, words):
    with pytest.raises(error) as caught:
        naive_bayes.build(data, **options)
    assert [word for word in words if word not in str(caught.value.args[0])] == []
