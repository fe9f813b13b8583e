import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.special import expit, logsumexp

import emppl
from emppl.models import occupancy

SITE, SEEN = ["a", "a", "b", "b", "b", "c"], np.array([0, 1, 0, 0, 0, 0])
WIND = np.array([0.1, 0.4, 1.2, 0.3, 2.0, 0.7])
HEIGHT = np.array([3.0, 3.0, 5.0, 5.0, 5.0, 1.0])


def by_hand(occupied, detection, seen=SEEN, site=(0, 0, 1, 1, 1, 2)):
    """log P of each site [sites]: seen and there, or never seen and there or not."""
    there, absent = np.log(occupied), np.log1p(-occupied)
    for n, i in enumerate(site):
        there[i] += stats.bernoulli.logpmf(seen[n], detection[n])
        absent[i] += 0.0 if seen[n] == 0 else -np.inf
    return np.logaddexp(there, absent)


def test_occupancy_equals_scipy(log_marginal):
    model = occupancy.build({"site": SITE, "detected": SEEN})
    expected = by_hand(np.full(3, 0.4), np.full(6, 0.3)).sum()
    assert log_marginal(model, "occupied_of_site", 2)({"occupancy": 0.4, "detection": 0.3}) == pytest.approx(expected)


def test_covariates_equal_scipy():
    data = {"site": SITE, "detected": SEEN, "wind": WIND, "height": HEIGHT}
    model = occupancy.build(data, site_covariates="height", visit_covariates="wind")
    a, b = np.array([-0.5, 0.3]), np.array([0.2, -0.6])
    theta = {"occupancy_coefficients": a, "detection_coefficients": b}
    expected = by_hand(expit(a[0] + a[1] * np.array([3.0, 5.0, 1.0])), expit(b[0] + b[1] * WIND)).sum()
    assert emppl.plan(model).log_likelihood(theta) == pytest.approx(expected, rel=1e-12)


def test_the_example_against_a_search(observed):
    """Rosalia alpina: the maximum of a fine grid over both probabilities is no higher."""
    model = occupancy.build()
    fit = emppl.fit(model, estimate="ml", starts=3, seed=0)
    assert fit.certificate.holds and len(model.coords["site"]) == 27
    table = pd.read_csv(occupancy.FOLDER / "blue_bug.csv")
    site, seen = table["site"].to_numpy() - 1, table["detected"].to_numpy()

    def value(psi, p):
        return by_hand(np.full(27, psi), np.full(len(seen), p), seen, site).sum()

    psi, p = fit.theta["occupancy"].item(), fit.theta["detection"].item()
    assert fit.log_likelihood == pytest.approx(value(psi, p), rel=1e-12)
    grid = [value(q, d) for q in np.linspace(0.2, 0.99, 30) for d in np.linspace(0.1, 0.9, 30)]
    assert max(grid) <= fit.log_likelihood + 1e-9
    assert psi > table.groupby("site")["detected"].max().mean()  # more sites than those where it was seen


def test_abundance_is_written_without_bound(log_joint):
    """Poisson animals, each seen or not at each visit."""
    data = {"site": [0, 0, 1, 1], "counted": [2, 3, 0, 1]}
    model = occupancy.build(data, kind="abundance")
    density = log_joint(model)
    animals = np.array([5, 2])
    expected = (
        stats.poisson.logpmf(animals, 3.0).sum() + stats.binom.logpmf([2, 3, 0, 1], animals[[0, 0, 1, 1]], 0.4).sum()
    )
    expected += stats.gamma.logpdf(3.0, 2, scale=2.0)
    point = {"abundance": 3.0, "detection": 0.4, "animals_of_site": animals}
    assert density(point) == pytest.approx(expected, rel=1e-12)
    plan = emppl.plan(model, support={"animals_of_site": range(60)})
    by_number = stats.poisson.logpmf(np.arange(60), 3.0)[:, None]
    by_number = by_number + stats.binom.logpmf([[2, 0]], np.arange(60)[:, None], 0.4)
    by_number = by_number + stats.binom.logpmf([[3, 1]], np.arange(60)[:, None], 0.4)
    value = plan.log_likelihood({"abundance": 3.0, "detection": 0.4})
    assert value == pytest.approx(logsumexp(by_number, axis=0).sum(), rel=1e-10)


@pytest.mark.parametrize(
    ("data", "options", "error", "words"),
    [
        ({"detected": [1]}, {}, KeyError, ["'site'", "long form"]),
        ({"site": [1, 1]}, {}, KeyError, ["'detected'"]),
        ({"site": [1, 1, 2], "detected": [0, 2, 1]}, {}, ValueError, ["'detected', row 1: 2", 'kind="abundance"']),
        ({"site": [1, 1, 2], "detected": [0, np.nan, 1]}, {}, ValueError, ["'detected', row 1: nan", "dropna"]),
        ({"site": [1, 1, 2], "detected": [*"abc"]}, {}, ValueError, ["'detected' must hold numbers"]),
        ({"site": [1, 1, 2], "detected": [0, 0, 0]}, {}, ValueError, ["'detected' is constant"]),
        ({"site": [1, 2, 3], "detected": [0, 1, 0]}, {}, ValueError, ["'site' names each site once"]),
        ({"site": [1, None, 3], "detected": [0, 1, 0]}, {}, ValueError, ["'site', row 1 is empty"]),
        ({"site": [1], "detected": [0]}, {}, ValueError, ["'site' has shape (1,)"]),
        ({"site": [1, 1], "counted": [2, -1]}, {"kind": "abundance"}, ValueError, ["'counted', row 1: -1"]),
        (
            {"site": SITE, "detected": SEEN, "wind": WIND},
            {"site_covariates": "wind"},
            ValueError,
            ["'wind' changes", "visit_covariates"],
        ),
        ({"site": SITE, "detected": SEEN, "w": np.ones(6)}, {"visit_covariates": "w"}, ValueError, ["'w' is constant"]),
        (None, {"kind": "density"}, ValueError, ["'density'", "occupancy"]),
    ],
)
def test_bad_input_is_named(data, options, error, words):
    with pytest.raises(error) as caught:
        occupancy.build(data, **options)
    assert [word for word in words if word not in str(caught.value.args[0])] == []
