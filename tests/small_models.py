"""Small models, one a row, each with what is true of it; plans are made once a session."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import pymc as pm
import pytensor.tensor as pt
from oracles import INTERPRETED
from pymc.exceptions import ImputationWarning

import emppl
from emppl.models import gaussian_mixture

Arrays = dict[str, np.ndarray]
ONE, TWO, FIVE = np.float64(1.0), np.float64(2.0), np.float64(5.0)  # plain numbers become float32 constants in PyMC
ZERO = np.float64(0.0)


@dataclass(frozen=True, eq=False)
class ModelCase:
    """A small model with what is true of it. supports: values of each explicit latent, for the enumeration."""

    model: pm.Model
    supports: dict[str, np.ndarray]
    plates: tuple[tuple[int, int], ...] | None  # members and joint values of each plate; None: not asked for
    engines: dict[str, str] = field(default_factory=dict)  # factor -> "natural form" | "graph"
    rules: dict[str, str] = field(default_factory=dict)  # parameter -> rule of its M-step
    options: dict[str, Any] = field(default_factory=dict)  # of emppl.plan
    same: pm.Model | None = None  # the same density as the enumeration can take it, where it cannot take `model`


NATURAL, GRAPH = "natural form", "graph"
CLOSED, SQUARES, NUMERIC, NEWTON, AUTODIFF = "closed form", "least squares", "natural form", "GLM", "autodiff"
BINARY = np.arange(2)


def coins(rng: np.random.Generator) -> ModelCase:
    with pm.Model(coords={"coin": ["A", "B"], "set": range(6)}) as model:
        bias = pm.Beta("bias", TWO, np.float64(1.5), dims="coin")
        weights = pm.Dirichlet("weights", np.array([2.0, 1.5]), dims="coin")
        z = pm.Categorical("z", p=weights, dims="set")
        tosses = rng.integers(4, 12, 6)
        pm.Binomial("heads", n=tosses, p=bias[z], observed=rng.binomial(tosses, 0.5), dims="set")
    return ModelCase(
        model, {"z": BINARY}, ((6, 2),), {"heads": NATURAL, "z": NATURAL}, {"bias": CLOSED, "weights": CLOSED}
    )


def latent_class(rng: np.random.Generator) -> ModelCase:
    """Four yes-or-no items, three classes."""
    with pm.Model() as model:
        p = pm.Beta("p", TWO, TWO, shape=(3, 4))
        z = pm.Categorical("z", p=np.array([0.5, 0.3, 0.2]), shape=4)
        pm.Bernoulli("item", p=p[z], observed=rng.integers(0, 2, (4, 4)))
    return ModelCase(model, {"z": np.arange(3)}, ((4, 3),), {"item": NATURAL}, {"p": CLOSED})


def categories(rng: np.random.Generator) -> ModelCase:
    with pm.Model() as model:
        p = pm.Dirichlet("p", np.full(3, TWO), shape=(2, 3))
        z = pm.Bernoulli("z", p=np.float64(0.4), shape=5)
        pm.Categorical("y", p=p[z], observed=rng.integers(0, 3, 5))
    return ModelCase(model, {"z": BINARY}, ((5, 2),), {"y": NATURAL}, {"p": CLOSED})


def counts_of_categories(rng: np.random.Generator) -> ModelCase:
    y = rng.multinomial(6, [0.2, 0.3, 0.5], 5)
    with pm.Model() as model:
        p = pm.Dirichlet("p", np.full(3, TWO), shape=(2, 3))
        weights = pm.Dirichlet("weights", np.full(2, TWO))
        z = pm.Categorical("z", p=weights, shape=5)
        pm.Multinomial("y", n=y.sum(axis=1), p=p[z], observed=y)
    return ModelCase(model, {"z": BINARY}, ((5, 2),), {"y": NATURAL}, {"p": CLOSED, "weights": CLOSED})


def rates_with_exposure(rng: np.random.Generator) -> ModelCase:
    exposure = rng.uniform(0.5, 3.0, 6)
    with pm.Model() as model:
        rate = pm.Gamma("rate", TWO, ONE, shape=2)
        z = pm.Categorical("z", p=np.array([0.3, 0.7]), shape=6)
        pm.Poisson("y", mu=exposure * rate[z], observed=rng.poisson(3.0, 6))
    return ModelCase(model, {"z": BINARY}, ((6, 2),), {"y": NATURAL}, {"rate": CLOSED})


def waiting_times(rng: np.random.Generator) -> ModelCase:
    with pm.Model() as model:
        lam = pm.Gamma("lam", TWO, ONE, shape=2)
        z = pm.Categorical("z", p=np.array([0.3, 0.7]), shape=6)
        pm.Exponential("y", lam=lam[z], observed=rng.exponential(1.0, 6))
    return ModelCase(model, {"z": BINARY}, ((6, 2),), {"y": NATURAL}, {"lam": CLOSED})


def normal_mixture(rng: np.random.Generator) -> ModelCase:
    with pm.Model() as model:
        weights = pm.Dirichlet("weights", np.full(2, TWO))
        mu = pm.Normal("mu", ZERO, FIVE, shape=2)
        sigma = pm.HalfNormal("sigma", TWO, shape=2)
        z = pm.Categorical("z", p=weights, shape=6)
        pm.Normal("y", mu[z], sigma[z], observed=rng.normal(size=6))
    return ModelCase(
        model, {"z": BINARY}, ((6, 2),), {"y": NATURAL}, {"mu": NUMERIC, "sigma": NUMERIC, "weights": CLOSED}
    )


def ordered_means(rng: np.random.Generator) -> ModelCase:
    """The model orders the means itself; PyMC cannot rewrite models with start values, so the enumeration has none."""
    y = rng.normal(size=6)

    def build(**start: Any) -> pm.Model:
        with pm.Model() as model:
            mu = pm.Normal("mu", ZERO, FIVE, shape=2, transform=pm.distributions.transforms.ordered, **start)
            tau = pm.Gamma("tau", TWO, ONE)
            z = pm.Categorical("z", p=np.array([0.3, 0.7]), shape=6)
            pm.Normal("y", mu[z], tau=tau, observed=y)
        return model

    return ModelCase(
        build(initval=np.array([-1.0, 1.0])), {"z": BINARY}, ((6, 2),), {"y": NATURAL}, {"mu": NUMERIC, "tau": NUMERIC},
        same=build(),
    )  # fmt: skip


def _gaussian(covariance: str) -> Callable[[np.random.Generator], ModelCase]:
    def build(rng: np.random.Generator) -> ModelCase:
        y = rng.normal(size=(6, 2)) @ np.array([[2.0, 0.5], [0.0, 0.3]])
        model = gaussian_mixture.build({"y": y}, k=2, covariance=covariance)
        return ModelCase(
            model, {"component_of_row": BINARY}, ((6, 2),), {"y": NATURAL}, {"weights": CLOSED, "mu": NUMERIC}
        )

    return build


def implicit_normals(rng: np.random.Generator) -> ModelCase:
    """pm.NormalMixture: the component is not a variable of the model."""
    with pm.Model() as model:
        w = pm.Dirichlet("w", np.full(3, TWO))
        mu = pm.Normal("mu", ZERO, FIVE, shape=3)
        pm.NormalMixture("y", w, mu=mu, sigma=np.array([0.5, 1.0, 2.0]), observed=rng.normal(size=7))
    return ModelCase(model, {}, ((7, 3),), {"y": NATURAL}, {"w": CLOSED, "mu": CLOSED})


def unlike_components(rng: np.random.Generator) -> ModelCase:
    """pm.Mixture of two distributions that are not of one kind: good data and outliers."""
    with pm.Model() as model:
        w = pm.Dirichlet("w", np.full(2, TWO))
        mu = pm.Normal("mu", ZERO, FIVE)
        components = [pm.Normal.dist(mu, ONE), pm.StudentT.dist(nu=np.float64(3.0), mu=mu, sigma=FIVE)]
        pm.Mixture("y", w, components, observed=rng.normal(size=7))
    return ModelCase(model, {}, ((7, 2),), {"y": GRAPH}, {"w": CLOSED, "mu": NEWTON})


def zero_inflated(rng: np.random.Generator) -> ModelCase:
    with pm.Model() as model:
        psi = pm.Beta("psi", TWO, TWO)
        mu = pm.Gamma("mu", TWO, ONE)
        pm.ZeroInflatedPoisson("y", psi, mu, observed=np.r_[0, 0, rng.poisson(2.0, 6)])
    return ModelCase(model, {}, ((8, 2),), {"y": GRAPH}, {"mu": AUTODIFF})


def two_binary_latents(rng: np.random.Generator) -> ModelCase:
    """One plate, two latents; one is seen through a count, both through a measurement."""
    with pm.Model(coords={"person": range(4)}) as model:
        rate = pm.Gamma("rate", TWO, ONE, shape=2)
        effect = pm.Normal("effect", ZERO, TWO, shape=3)
        ill = pm.Bernoulli("ill", p=np.float64(0.3), dims="person")
        old = pm.Bernoulli("old", p=np.float64(0.5), dims="person")
        pm.Poisson("visits", mu=rate[ill], observed=rng.poisson(2.0, 4), dims="person")
        mean = effect[0] + effect[1] * ill + effect[2] * ill * old
        pm.Normal("score", mean, ONE, observed=rng.normal(size=4), dims="person")
    return ModelCase(
        model,
        {"ill": BINARY, "old": BINARY},
        ((4, 4),),
        {"visits": NATURAL, "score": NATURAL},
        {"rate": CLOSED, "effect": NUMERIC},
    )


def several_observed(rng: np.random.Generator) -> ModelCase:
    with pm.Model() as model:
        mu = pm.Normal("mu", ZERO, FIVE, shape=2)
        p = pm.Beta("p", ONE, ONE, shape=2)
        z = pm.Categorical("z", p=np.array([0.3, 0.7]), shape=5)
        pm.Normal("height", mu[z], ONE, observed=rng.normal(size=5))
        pm.Bernoulli("answer", p=p[z], observed=rng.integers(0, 2, 5))
    return ModelCase(
        model, {"z": BINARY}, ((5, 2),), {"height": NATURAL, "answer": NATURAL}, {"mu": CLOSED, "p": CLOSED}
    )


def long_form(rng: np.random.Generator) -> ModelCase:
    """Rows belong to sites, and the latent is the site's."""
    site = np.array([0, 2, 1, 1, 3, 0, 3, 2, 2])
    with pm.Model() as model:
        mu = pm.Normal("mu", ZERO, FIVE, shape=2)
        z = pm.Categorical("z", p=np.array([0.3, 0.7]), shape=4)
        pm.Normal("y", mu[z[site]], ONE, observed=rng.normal(size=9))
    return ModelCase(model, {"z": BINARY}, ((4, 2),), {"y": NATURAL}, {"mu": CLOSED})


def deterministic_of_latent(rng: np.random.Generator) -> ModelCase:
    with pm.Model() as model:
        low = pm.Normal("low", ZERO, FIVE)
        step = pm.HalfNormal("step", TWO)
        z = pm.Bernoulli("z", p=np.float64(0.4), shape=5)
        level = pm.Deterministic("level", low + step * z)
        pm.Deterministic("high", low + step)
        pm.Normal("y", level, ONE, observed=rng.normal(size=5))
    return ModelCase(model, {"z": BINARY}, ((5, 2),), {"y": NATURAL}, {"low": NUMERIC, "step": NUMERIC})


def potential_on_latent(rng: np.random.Generator) -> ModelCase:
    """A field pulls at each latent; the Potential is summed already."""
    pull = rng.normal(size=5)
    with pm.Model() as model:
        mu = pm.Normal("mu", ZERO, FIVE, shape=2)
        strength = pm.Normal("strength", ZERO, ONE)
        z = pm.Categorical("z", p=np.array([0.3, 0.7]), shape=5)
        pm.Potential("field", (strength * pull * z).sum())
        pm.Normal("y", mu[z], ONE, observed=rng.normal(size=5))
    return ModelCase(
        model, {"z": BINARY}, ((5, 2),), {"y": NATURAL, "field": GRAPH}, {"mu": CLOSED, "strength": NEWTON}
    )


def hidden_count(rng: np.random.Generator) -> ModelCase:
    with pm.Model() as model:
        p = pm.Beta("p", TWO, TWO)
        gain = pm.Normal("gain", ONE, ONE)
        n = pm.Binomial("n", n=np.int64(3), p=p, shape=4)
        pm.Normal("y", gain * n, ONE, observed=rng.normal(size=4))
    return ModelCase(model, {"n": np.arange(4)}, ((4, 4),), {"y": NATURAL}, {"p": NUMERIC})


def bounded_poisson(rng: np.random.Generator) -> ModelCase:
    """An unbounded count, summed over the values that the caller names; two visits a site."""
    with pm.Model() as model:
        rate = pm.Gamma("rate", TWO, ONE)
        p = pm.Beta("p", TWO, TWO)
        n = pm.Poisson("n", mu=rate, shape=2)
        pm.Binomial("seen", n=n[:, None], p=p, observed=rng.integers(0, 3, (2, 2)))
    values = np.arange(12)
    return ModelCase(model, {"n": values}, ((2, 12),), {"seen": GRAPH}, {"p": AUTODIFF}, {"support": {"n": values}})


def vector_of_latents(rng: np.random.Generator) -> ModelCase:
    """Three skills a person, all of which speak through one score."""
    with pm.Model() as model:
        effect = pm.Normal("effect", ZERO, TWO, shape=3)
        skill = pm.Bernoulli("skill", p=np.array([0.3, 0.5, 0.8]), shape=(3, 3))
        pm.Normal("score", skill @ effect, ONE, observed=rng.normal(size=3))
    return ModelCase(model, {"skill": BINARY}, ((3, 8),))


def change_point(rng: np.random.Generator) -> ModelCase:
    """A scalar latent over all the data, and not the first value of its support."""
    day = np.arange(8)
    with pm.Model(coords={"day": day}) as model:
        early = pm.Gamma("early", TWO, ONE)
        late = pm.Gamma("late", TWO, ONE)
        change = pm.DiscreteUniform("change", lower=np.int64(2), upper=np.int64(6))
        pm.Poisson("y", mu=pm.math.switch(day < change, early, late), observed=rng.poisson(2.0, 8), dims="day")
    return ModelCase(model, {"change": np.arange(2, 7)}, ((1, 5),))


def signed_latent(rng: np.random.Generator) -> ModelCase:
    """The support holds −1, which elsewhere stands for an unknown label."""
    with pm.Model() as model:
        slope = pm.Normal("slope", ZERO, TWO)
        z = pm.DiscreteUniform("z", lower=np.int64(-1), upper=np.int64(1), shape=4)
        pm.Normal("y", slope * z, ONE, observed=rng.normal(size=4))
    return ModelCase(model, {"z": np.arange(-1, 2)}, ((4, 3),), {"y": NATURAL}, {"slope": NUMERIC})


def lines(rng: np.random.Generator) -> ModelCase:
    """A mixture of regressions: the mean varies over the rows within a component."""
    x = rng.normal(size=6)
    with pm.Model() as model:
        a = pm.Normal("a", ZERO, TWO, shape=2)
        b = pm.Normal("b", ZERO, TWO, shape=2)
        sigma = pm.HalfNormal("sigma", TWO)
        z = pm.Categorical("z", p=np.array([0.4, 0.6]), shape=6)
        pm.Normal("y", a[z] + b[z] * x, sigma, observed=rng.normal(size=6))
    return ModelCase(
        model,
        {"z": BINARY},
        ((6, 2),),
        {"y": NATURAL},
        {"a": SQUARES, "b": SQUARES, "sigma": SQUARES},
    )


def gated(rng: np.random.Generator) -> ModelCase:
    """The covariate speaks through the prior of the latent."""
    x = rng.normal(size=(5, 2))
    with pm.Model() as model:
        slope = pm.Normal("slope", ZERO, TWO, shape=(2, 3))
        mu = pm.Normal("mu", ZERO, FIVE, shape=3)
        z = pm.Categorical("z", logit_p=x @ slope)
        pm.Normal("y", mu[z], ONE, observed=rng.normal(size=5))
    return ModelCase(model, {"z": np.arange(3)}, ((5, 3),), {"y": NATURAL, "z": GRAPH}, {"mu": CLOSED, "slope": NEWTON})


def two_plates(rng: np.random.Generator) -> ModelCase:
    """Two latents on plates of their own that share a parameter, and observations that depend on none."""
    with pm.Model() as model:
        mu = pm.Normal("mu", ZERO, FIVE, shape=2)
        first = pm.Categorical("first", p=np.array([0.4, 0.6]), shape=4)
        second = pm.Bernoulli("second", p=np.float64(0.2), shape=3)
        pm.Normal("y", mu[first], ONE, observed=rng.normal(size=4))
        pm.Poisson("count", mu=pm.math.exp(mu[second]), observed=rng.poisson(1.0, 3))
        pm.Normal("known", mu[np.array([0, 1, 1])], TWO, observed=rng.normal(size=3))
    return ModelCase(
        model,
        {"first": BINARY, "second": BINARY},
        ((4, 2), (3, 2)),
        {"y": NATURAL, "count": NATURAL, "known": NATURAL},
        {"mu": NUMERIC},
    )


def heavy_tails(rng: np.random.Generator) -> ModelCase:
    with pm.Model() as model:
        mu = pm.Normal("mu", ZERO, FIVE, shape=2)
        z = pm.Categorical("z", p=np.array([0.4, 0.6]), shape=6)
        pm.StudentT("y", nu=np.float64(4.0), mu=mu[z], sigma=ONE, observed=rng.normal(size=6))
    return ModelCase(model, {"z": BINARY}, ((6, 2),), {"y": GRAPH}, {"mu": NEWTON})


def hierarchical(rng: np.random.Generator) -> ModelCase:
    """The means have a mean and a spread of their own, whose prior keeps it from zero."""
    with pm.Model() as model:
        centre = pm.Normal("centre", ZERO, FIVE)
        spread = pm.InverseGamma("spread", TWO, TWO)
        mu = pm.Normal("mu", centre, spread, shape=2)
        z = pm.Categorical("z", p=np.array([0.4, 0.6]), shape=6)
        pm.Normal("y", mu[z], ONE, observed=rng.normal(size=6))
    return ModelCase(
        model, {"z": BINARY}, ((6, 2),), {"y": NATURAL}, {"mu": NUMERIC, "centre": NUMERIC, "spread": NUMERIC}
    )


def missing_values(rng: np.random.Generator) -> ModelCase:
    """Entries that were not observed: as if they had never been in the model."""
    y = np.ma.masked_where(np.arange(6) % 3 == 1, rng.normal(size=6))
    seen = np.flatnonzero(~y.mask)

    def build(rows: Any, data: Any) -> pm.Model:
        with pm.Model() as model:
            mu = pm.Normal("mu", ZERO, FIVE, shape=2)
            z = pm.Categorical("z", p=np.array([0.4, 0.6]), shape=6)
            pm.Normal("y", mu[z[rows]], ONE, observed=data)
        return model

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ImputationWarning)
        model = build(slice(None), y)
    return ModelCase(model, {"z": BINARY}, ((6, 2),), same=build(seen, y.data[seen]))


def nested(rng: np.random.Generator) -> ModelCase:
    """A latent that is the parent of another."""
    with pm.Model() as model:
        mu = pm.Normal("mu", ZERO, FIVE, shape=2)
        p = pm.Beta("p", TWO, TWO, shape=2)
        top = pm.Bernoulli("top", p=np.float64(0.4), shape=3)
        z = pm.Bernoulli("z", p=p[top], shape=3)
        pm.Normal("y", mu[z], ONE, observed=rng.normal(size=3))
    return ModelCase(model, {"top": BINARY, "z": BINARY}, ((3, 4),), {"y": NATURAL, "z": NATURAL}, {"mu": CLOSED})


def pairs(rng: np.random.Generator) -> ModelCase:
    """One member holds two elements of the same latent: its rows read different ones."""
    with pm.Model() as model:
        mu = pm.Normal("mu", ZERO, FIVE, shape=2)
        z = pm.Categorical("z", p=np.array([0.4, 0.6]), shape=2)
        pm.Normal("y", mu[z[:1]] - TWO * mu[z[1:]], ONE, observed=rng.normal(size=1))
    return ModelCase(model, {"z": BINARY}, ((1, 4),))


def crossed(rng: np.random.Generator) -> ModelCase:
    """Classes of rows and classes of columns meet in every cell."""
    with pm.Model() as model:
        effect = pm.Normal("effect", ZERO, ONE, shape=(2, 2))
        row = pm.Bernoulli("row", p=np.float64(0.3), shape=2)
        column = pm.Bernoulli("column", p=np.float64(0.4), shape=3)
        pm.Normal("y", effect[row[:, None], column[None, :]], ONE, observed=rng.normal(size=(2, 3)))
    return ModelCase(model, {"row": BINARY, "column": BINARY}, ((2, 2), (3, 2), (6, 4)))  # taken apart: 2 × 2 a cell


def members_of_groups(rng: np.random.Generator) -> ModelCase:
    """A latent of each member under a latent of its group; the groups are not of one size."""
    group = np.array([0, 0, 1, 1, 2])
    with pm.Model() as model:
        mu = pm.Normal("mu", ZERO, FIVE, shape=2)
        p = pm.Beta("p", TWO, TWO, shape=2)
        top = pm.Bernoulli("top", p=np.float64(0.4), shape=3)
        z = pm.Bernoulli("z", p=p[top[group]], shape=5)
        pm.Normal("y", mu[z], ONE, observed=rng.normal(size=5))
    return ModelCase(model, {"top": BINARY, "z": BINARY}, ((2, 8), (1, 4)))


def one_table_over_two_plates(rng: np.random.Generator) -> ModelCase:
    """Some elements of one observed variable depend on one latent, some on another, some on none."""
    with pm.Model() as model:
        mu = pm.Normal("mu", ZERO, FIVE, shape=2)
        a = pm.Categorical("a", p=np.array([0.4, 0.6]), shape=2)
        b = pm.Bernoulli("b", p=np.float64(0.3), shape=2)
        pm.Normal("y", pt.concatenate([mu[a], mu[b] + ONE, mu]), ONE, observed=rng.normal(size=6))
    return ModelCase(model, {"a": BINARY, "b": BINARY}, ((2, 2), (2, 2)))


def unequal_trials(rng: np.random.Generator) -> ModelCase:
    """Counts whose supports differ: the density of a value is zero for some members and not for others."""
    with pm.Model() as model:
        gain = pm.Normal("gain", ZERO, ONE)
        n = pm.Binomial("n", n=np.array([1, 2, 3]), p=np.float64(0.3), shape=3)
        pm.Normal("y", gain * n, ONE, observed=rng.normal(size=3))
    return ModelCase(model, {"n": np.arange(4)}, ((3, 4),), {"y": NATURAL})


def items_of_three(rng: np.random.Generator) -> ModelCase:
    """Two items with three answers each, as two observed variables and as the columns of a third."""
    with pm.Model() as model:
        z = pm.Bernoulli("z", p=np.float64(0.3), shape=4)
        for item in ("first", "second"):
            p = pm.Dirichlet(f"p_{item}", np.full(3, TWO), shape=(2, 3))
            pm.Categorical(item, p=p[z], observed=rng.integers(0, 3, 4))
        both = pm.Dirichlet("p_both", np.full(3, TWO), shape=(2, 2, 3))
        pm.Categorical("both", p=both[z], observed=rng.integers(0, 3, (4, 2)))
    forms = dict.fromkeys(("first", "second", "both"), NATURAL)
    return ModelCase(model, {"z": BINARY}, ((4, 2),), forms, {"p_first": CLOSED, "p_both": CLOSED})


def mixture_within_a_component(rng: np.random.Generator) -> ModelCase:
    """pm.Mixture for outliers around the mean of an explicit component."""
    with pm.Model() as model:
        mu = pm.Normal("mu", ZERO, FIVE, shape=2)
        z = pm.Bernoulli("z", p=np.float64(0.4), shape=2)
        components = [pm.Normal.dist(mu[z], ONE), pm.Normal.dist(ZERO, np.float64(10.0))]
        pm.Mixture("y", np.array([0.9, 0.1]), components, observed=rng.normal(size=2))
    return ModelCase(model, {"z": BINARY}, None)


def mixture_of_vectors(rng: np.random.Generator) -> ModelCase:
    with pm.Model() as model:
        w = pm.Dirichlet("w", np.full(2, TWO))
        mu = pm.Normal("mu", ZERO, FIVE, shape=(2, 2))
        pm.Mixture("y", w, pm.MvNormal.dist(mu=mu, cov=np.eye(2)), observed=rng.normal(size=(5, 2)))
    return ModelCase(model, {}, ((5, 2),), {"y": NATURAL}, {"w": CLOSED})


def mixture_by_column(rng: np.random.Generator) -> ModelCase:
    """Weights and means of their own in each column, so that every element of the data has a component."""
    with pm.Model() as model:
        w = pm.Dirichlet("w", np.full(3, TWO), shape=(2, 3))
        mu = pm.Normal("mu", ZERO, FIVE, shape=(2, 3))
        pm.NormalMixture("y", w, mu=mu, sigma=ONE, observed=rng.normal(size=(4, 2)))
    return ModelCase(model, {}, ((8, 3),))


def choice_of_model(rng: np.random.Generator) -> ModelCase:
    """One latent for the whole table: does the covariate matter?"""
    x = rng.normal(size=5)
    with pm.Model() as model:
        slope = pm.Normal("slope", ZERO, FIVE)
        matters = pm.Bernoulli("matters", p=np.float64(0.5))
        pm.Normal("y", matters * slope * x, ONE, observed=rng.normal(size=5))
    return ModelCase(model, {"matters": BINARY}, ((1, 2),))


MODELS: dict[str, Callable[[np.random.Generator], ModelCase]] = {
    function.__name__: function
    for function in (
        coins, latent_class, categories, counts_of_categories, rates_with_exposure, waiting_times, normal_mixture,
        ordered_means, implicit_normals, unlike_components, zero_inflated, two_binary_latents, several_observed,
        long_form, deterministic_of_latent, potential_on_latent, hidden_count, bounded_poisson, vector_of_latents,
        change_point, signed_latent, lines, gated, two_plates, heavy_tails, hierarchical, missing_values, nested, pairs,
        crossed, members_of_groups, one_table_over_two_plates, unequal_trials, items_of_three,
        mixture_within_a_component, mixture_of_vectors, mixture_by_column, choice_of_model,
    )
} | {f"gaussian_{shape}": _gaussian(shape) for shape in ("full", "diagonal", "tied", "spherical")}  # fmt: skip


@cache
def model(name: str, seed: int = 0) -> ModelCase:
    """The case of that name with data from `seed`."""
    return MODELS[name](np.random.default_rng([seed, len(name)]))


@cache
def plan(name: str, seed: int = 0, **options: Any) -> emppl.Plan:
    """Its plan, made once a session."""
    case = model(name, seed)
    return emppl.plan(case.model, **case.options, **options)


def points(plan: Any, count: int = 3, seed: int = 0) -> list[Arrays]:
    """Parameter values drawn at random in PyMC's unconstrained coordinates; of a plan, or of its coordinates."""
    coordinates = (plan.structure.coordinates if hasattr(plan, "structure") else plan).unscaled
    rng = np.random.default_rng(seed)
    return [coordinates.constrain(rng.normal(scale=0.7, size=coordinates.size)) for _ in range(count)]


def value(graph: Any) -> np.ndarray:
    """A PyTensor graph without inputs as numbers."""
    return np.asarray(pt.as_tensor_variable(graph).eval(mode=INTERPRETED))
