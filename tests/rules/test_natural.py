"""From a factor to features and eta: by member and configuration it is the factor's density, or it is refused."""

import subprocess
import sys

import numpy as np
import pymc as pm
import pytest
import small_models

import emppl
from emppl.compiling import compile_graph
from emppl.estep.tables import factor_table
from emppl.rules import family, rules
from emppl.rules.natural import Refused, _agree


@pytest.mark.parametrize(
    "name",
    ["coins", "latent_class", "rates_with_exposure", "gaussian_full", "two_binary_latents", "long_form", "nested",
     "signed_latent", "unequal_trials", "items_of_three", "mixture_of_vectors", "vector_of_latents"],
)  # fmt: skip
def test_each_form_is_its_factors_density(name):
    """<eta_j, features_c> + base_c for every member c and configuration j, against the enumerated graph."""
    plan = small_models.plan(name)
    structure = plan.structure
    forms = [entry for entry in plan.factors if entry.form is not None and entry.plate is not None]
    assert forms or name == "vector_of_latents"
    for entry in forms:
        table = factor_table(structure, entry.factor, structure.plates[entry.plate])
        function = compile_graph(structure.coordinates.values, [entry.form.eta, table])
        for theta in small_models.points(plan, count=2):
            with np.errstate(all="ignore"):
                eta, exact = function(*structure.coordinates.arguments(theta))
                eta = np.where(np.isneginf(eta), -1e300, eta)
                found = eta @ np.asarray(entry.form.features).T + entry.form.base
            np.testing.assert_allclose(np.where(found < -1e290, -np.inf, found), exact, rtol=1e-10, atol=1e-10)


def test_rows_with_equal_parameters_are_one_group():
    """Observations without latents: a thousand rows of two known kinds are two groups of sums."""
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 2, 1000)
    with pm.Model() as model:
        mu = pm.Normal("mu", 0.0, 5.0, shape=2)
        pm.Normal("y", mu[kind], 1.0, observed=rng.normal(size=1000))
    (entry,) = [entry for entry in emppl.plan(model).factors if entry.factor.kind == "observed"]
    assert entry.form.features.shape == (2, 3)


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan, 1.0 + 1e-6])
def test_parameters_that_differ_are_seen(bad):
    """Also where one of the two is no finite number."""
    with pytest.raises(Refused, match="varies over the rows"):
        _agree(np.array([1.0, bad]), np.array([1.0, 1.0]), "its rate")
    _agree(np.array([1.0, np.inf, np.nan]), np.array([1.0 + 1e-12, np.inf, np.nan]), "its rate")


@pytest.mark.parametrize(
    "model, factor, reason",
    [
        ("heavy_tails", "y", "StudentT is not registered"),
        ("gated", "z", "its density varies over the rows"),
        ("one_table_over_two_plates", "y", "several plates"),
        ("bounded_poisson", "seen", "n depends on a latent"),
        ("zero_inflated", "y", "not that of one plain distribution"),
    ],
)
def test_refusals_have_a_reason(model, factor, reason):
    reasons = {entry.factor.name: entry.reason for entry in small_models.plan(model).factors}
    assert reason in reasons[factor]


def test_the_table_of_rules():
    table = rules()
    assert [row["family"] for row in table["families"]] == [
        "Bernoulli", "Beta", "Binomial", "Categorical", "Dirichlet", "Exponential", "Gamma", "Geometric", "HalfNormal",
        "InverseGamma", "Laplace", "LogNormal", "Multinomial", "MvNormal", "NegativeBinomial", "Normal", "Pareto",
        "Poisson", "VonMises", "Wald", "Weibull",
    ]  # fmt: skip
    assert {"prior": "Beta", "family": "Binomial", "parameter": "p"} in table["conjugate priors"]
    assert all(all(row.values()) for rows in table.values() for row in rows)


def test_the_package_of_rules_is_not_hidden_by_its_table():
    import emppl.rules as package

    assert package.family is family and emppl.rules is package
    assert emppl.rules() == rules() == package()


OWN_RULE = """
import numpy as np, pymc as pm, pytensor.tensor as pt, emppl
from emppl.rules import Family, columns, conjugate, family, single

@family.register(pm.Kumaraswamy)
def kumaraswamy(op):
    return Family(
        name="Kumaraswamy", parameters=("a", "b"), known=("a",), describe="0 < y < 1, a known",
        statistic=lambda y, a: columns(1.0, -np.log1p(-(y**a))),
        natural=lambda b: pt.stack([pt.log(b), -b], axis=-1),
        log_base=lambda y, a: np.log(a) + (a - 1.0) * np.log(y) - np.log1p(-(y**a)),
        maximise=single("b", lambda s: s[:, 0] / s[:, 1]),
        inside=lambda y, a: (y > 0) & (y < 1),
    )

@conjugate(pm.Gamma, pm.Kumaraswamy, "b")
def gamma_kumaraswamy(alpha, scale):
    return columns(alpha - 1.0, 1.0 / scale)

with pm.Model() as model:
    b = pm.Gamma("b", np.float64(2.0), np.float64(0.5), shape=2)
    z = pm.Categorical("z", p=np.array([0.5, 0.5]), shape=8)
    pm.Kumaraswamy("y", np.float64(1.5), b[z], observed=np.array([0.1, 0.2, 0.15, 0.1, 0.8, 0.9, 0.7, 0.95]))
plan = emppl.plan(model)
assert plan.estep.startswith("natural form") and plan.blocks[0].rule == "closed form", plan
fit = emppl.fit(plan, starts=2, seed=0)
assert fit.certificate.holds, fit.certificate
"""


def test_a_rule_of_the_users_own():
    """It has the same standing as ours. In a process of its own, since registering cannot be undone."""
    done = subprocess.run([sys.executable, "-c", OWN_RULE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_rows_of_a_long_table_have_statistics_by_group():
    """Dawid and Skene's table: rating after rating, each by one of three raters, of one of five items."""
    rng = np.random.default_rng(5)
    item, rater = np.repeat(np.arange(5), 4), rng.integers(0, 3, 20)
    with pm.Model() as model:
        weights = pm.Dirichlet("weights", np.full(2, np.float64(2.0)))
        confusion = pm.Dirichlet("confusion", np.full(3, np.float64(2.0)), shape=(3, 2, 3))
        truth = pm.Categorical("truth", p=weights, shape=5)
        pm.Categorical("rating", p=confusion[rater, truth[item]], observed=rng.integers(0, 3, 20))
    plan, graph = emppl.plan(model), emppl.plan(model, estep="graph")
    assert {block.name: block.rule for block in plan.blocks} == {"weights": "closed form", "confusion": "closed form"}
    coordinates = plan.structure.coordinates
    for seed in range(3):
        u = np.random.default_rng(seed).normal(size=coordinates.size)
        (value, slope, _), (value_2, slope_2, _) = plan.gradient(u), graph.gradient(u)
        assert value == pytest.approx(value_2, rel=1e-12)
        np.testing.assert_allclose(slope, slope_2, atol=1e-10)
    theta = coordinates.constrain(np.zeros(coordinates.size))
    r = plan.responsibilities(theta)["truth"]
    counts = np.zeros((3, 2, 3)) + 1.0  # alpha - 1
    for i, j, y in zip(item, rater, np.asarray(plan.structure.node("rating").value.data)):
        counts[j, :, y] += r[i]
    np.testing.assert_allclose(
        plan.m_step(theta, plan.e_step(theta))["confusion"], counts / counts.sum(-1, keepdims=True), rtol=1e-10
    )
