"""Which element of which factor depends on which latent elements: no less than flipping shows; and the plates."""

import numpy as np
import pymc as pm
import pytensor.tensor as pt
import pytest
import small_models
from oracles import INTERPRETED, Enumeration, changed_by

import emppl
from emppl.errors import UnsupportedModelError

every_model = pytest.mark.parametrize("name", small_models.MODELS)
QUICK = ("coins", "two_binary_latents", "long_form", "potential_on_latent", "vector_of_latents", "change_point",
         "two_plates", "nested", "members_of_groups", "pairs", "items_of_three", "gated")  # fmt: skip


@pytest.mark.parametrize("name", QUICK)
def test_scopes_contain_what_flipping_shows(name):
    """Every latent element is set to every value in turn: whatever then changes must lie in the scope."""
    structure = small_models.plan(name).structure
    rng = np.random.default_rng(1)
    touched = [factor for factor in structure.factors if factor.latents]
    inputs = [node.value for node in (*structure.parameters, *structure.latents)]
    density = pm.compile(inputs, [factor.log_density for factor in touched], mode=INTERPRETED, on_unused_input="ignore")
    found = [np.zeros(factor.scope.shape, dtype=bool) for factor in touched]
    for theta in small_models.points(structure.coordinates, count=3):
        point = theta | {
            node.name: rng.choice(node.support, size=node.shape).astype(node.value.dtype) for node in structure.latents
        }
        for i in range(len(touched)):
            columns = [
                changed_by(lambda p, i=i: density(**p)[i], point, node.name, node.support) for node in structure.latents
            ]
            found[i] |= np.concatenate(columns, axis=1)
    for factor, changed in zip(touched, found):
        scope = factor.scope.toarray().astype(bool)
        assert not (changed & ~scope).any(), f"{factor.name} depends on more than its scope says"


@every_model
def test_plates(name):
    case, structure = small_models.model(name), small_models.plan(name).structure
    if case.plates is not None:
        assert tuple((plate.size, plate.n_configurations) for plate in structure.plates) == case.plates
    total = sum(node.size for node in structure.latents)
    members = np.concatenate([plate.members.ravel() for plate in structure.plates])
    if structure.eliminations:  # tied elements stand in several scopes
        members = np.unique(members)
    np.testing.assert_array_equal(np.sort(members), np.arange(total))  # each latent element in one member
    for plate in structure.plates:
        assert len(np.unique(plate.configurations, axis=0)) == plate.n_configurations


@pytest.mark.parametrize("size", [30, 300])
@pytest.mark.parametrize("kind", ["index", "categories", "matrix product", "two observed"])
def test_members_stay_apart_however_many(kind, size):
    """Nothing is enumerated over a plate: the members of a large one are as many as its elements."""
    rng = np.random.default_rng(0)
    with pm.Model() as model:
        mu = pm.Normal("mu", 0.0, 5.0, shape=2)
        z = pm.Bernoulli("z", p=np.float64(0.4), shape=(size, 2) if kind == "matrix product" else size)
        if kind == "categories":
            p = pm.Dirichlet("p", np.ones(3), shape=(2, 3))
            pm.Categorical("y", p=p[z], observed=rng.integers(0, 3, size))
        elif kind == "matrix product":
            pm.Normal("y", z @ mu, 1.0, observed=rng.normal(size=size))
        else:
            pm.Normal("y", mu[z], 1.0, observed=rng.normal(size=size))
            if kind == "two observed":
                pm.Poisson("x", pm.math.exp(mu[z] + mu[1 - z]), observed=rng.poisson(1.0, size))
    (plate,) = emppl.analyse(model).plates
    assert plate.size == size


def refusal(model: pm.Model, **options) -> UnsupportedModelError:
    with pytest.raises(UnsupportedModelError) as caught:
        emppl.analyse(model, **options)
    assert caught.value.remedies
    return caught.value


def chain(length: int) -> pm.Model:
    with pm.Model(coords={"day": range(length)}) as model:
        mu = pm.Normal("mu", 0.0, 5.0, shape=2)
        step = pm.Dirichlet("step", np.ones(2), shape=(2, 2))
        state = pm.Categorical("state", p=np.array([0.5, 0.5]), dims="day")
        pm.Potential("transitions", pt.log(step[state[:-1], state[1:]]))
        pm.Normal("y", mu[state], 1.0, observed=np.zeros(length), dims="day")
    return model


def test_a_grid_that_costs_too_much_is_refused_with_its_cost():
    """Forty rows and forty columns that meet in every cell: any order needs a table over forty of them."""
    with pm.Model(coords={"person": range(40), "question": range(40)}) as model:
        knows = pm.Bernoulli("knows", p=np.float64(0.5), dims="person")
        easy = pm.Bernoulli("easy", p=np.float64(0.5), dims="question")
        right = pm.Beta("right", 2.0, 2.0, shape=(2, 2))
        pm.Bernoulli("answer", p=right[knows[:, None], easy[None, :]], observed=np.zeros((40, 40), int))
    error = refusal(model)
    assert "knows[person]" in error.where and "easy[question]" in error.where
    assert "80 latent elements" in error.what and "over 41 of them" in error.what


def test_a_short_chain_is_enumerated():
    (plate,) = emppl.analyse(chain(6)).plates
    assert (plate.size, plate.n_configurations) == (1, 64)


def count_model(latent: str) -> pm.Model:
    with pm.Model() as model:
        rate = pm.Gamma("rate", 2.0, 1.0)
        n = pm.Poisson(latent, mu=rate, shape=3)
        pm.Normal("y", n, 1.0, observed=np.array([1.0, 2.0, 3.0]))
    return model


def test_an_unbounded_count_has_a_window():
    node = emppl.analyse(count_model("animals")).node("animals")
    assert node.window and node.support[0] == 0 and node.support[-1] >= 20


def test_support_bounds_a_count():
    structure = emppl.analyse(count_model("animals"), support={"animals": range(20)})
    np.testing.assert_array_equal(structure.node("animals").support, np.arange(20))
    assert structure.plates[0].n_configurations == 20


def test_trials_that_are_a_count_themselves():
    with pm.Model() as model:
        n = pm.Poisson("n", 3.0)
        seen = pm.Binomial("seen", n=n, p=0.5)
        pm.Normal("y", seen, 1.0, observed=np.array([1.0]))
    structure = emppl.analyse(model, support={"n": range(9)})
    assert [len(node.support) for node in structure.latents] == [9, 9]
    structure = emppl.analyse(model)
    assert [node.window for node in structure.latents] == [True, True]


def test_a_support_that_is_itself_unknown_is_refused():
    with pm.Model() as model:
        share = pm.Beta("share", 2.0, 2.0)
        seen = pm.Binomial("seen", n=pt.floor(20 * share).astype("int64"), p=0.5)
        pm.Normal("y", seen, 1.0, observed=np.array([1.0]))
    error = refusal(model)
    assert "number of trials of seen" in error.what
    assert len(emppl.analyse(model, support={"seen": range(21)}).node("seen").support) == 21


def test_a_bound_that_depends_on_another_latent_takes_all_its_values():
    years, counts = np.arange(6), [3, 1, 9, 8, 2, 1]
    with pm.Model() as model:  # the second change comes after the first; what is left over is seen to shrink
        rate = pm.Exponential("rate", np.float64(0.2), shape=3)
        first = pm.DiscreteUniform("first", 0, 5)
        second = pm.DiscreteUniform("second", first, 5)
        left = pm.Binomial("left", 5 - first, np.float64(0.3))
        pm.Poisson("y", pt.switch(years < first, rate[0], pt.switch(years < second, rate[1], rate[2])), observed=counts)
        pm.Normal("weight", left * rate[0], np.float64(1.0), observed=np.float64(2.0))
    plan = emppl.plan(model)
    supports = {name: np.arange(6) for name in ("first", "second", "left")}
    assert all(np.array_equal(plan.structure.node(name).support, v) for name, v in supports.items())
    theta = {"rate": np.array([2.0, 8.0, 1.5])}
    np.testing.assert_allclose(plan.log_posterior(theta), Enumeration(model, supports).log_posterior(theta), rtol=1e-7)


@pytest.mark.parametrize("name", ["ZeroInflatedPoisson", "HurdlePoisson"])
def test_a_hidden_choice_whose_chances_another_latent_sets(name):
    """The chances are indexed by one latent and chosen from by another: rows stay apart all the same."""
    y = np.array([0, 1, 2, 0, 5, 7, 0, 3, 0, 4])
    with pm.Model() as model:
        goes = pm.Beta("goes", np.float64(2.0), np.float64(1.0), shape=2)
        rate = pm.Gamma("rate", np.float64(2.0), np.float64(0.5), shape=2)
        z = pm.Bernoulli("z", p=np.float64(0.4), shape=len(y))
        getattr(pm, name)("y", psi=goes[z], mu=rate[z], observed=y)
    plan = emppl.plan(model)
    (plate,) = plan.structure.plates
    assert plate.size == len(y) and plate.n_configurations == 4
    theta = {"goes": np.array([0.6, 0.9]), "rate": np.array([1.0, 4.0])}
    kind = getattr(pm, name)
    rows = [
        np.log(p) + pm.logp(kind.dist(psi=np.float64(g), mu=np.float64(r)), y).eval(mode=INTERPRETED)
        for p, g, r in zip([0.6, 0.4], theta["goes"], theta["rate"])
    ]
    assert plan.log_likelihood(theta) == pytest.approx(np.logaddexp(*rows).sum(), rel=1e-12)
