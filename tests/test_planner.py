"""What a plan chooses, and what it tells the reader."""

import re

import numpy as np
import pymc as pm
import pytest
import small_models

import emppl
from emppl.errors import InvalidArgumentError
from emppl.models import coins, gaussian_mixture


@pytest.mark.parametrize("name", small_models.MODELS)
def test_engines_and_rules(name):
    """The natural form where there is one, the closed form where the prior allows it; and a reason for each refusal."""
    case, plan = small_models.model(name), small_models.plan(name)
    engines = {entry.factor.name: entry.engine for entry in plan.factors}
    reasons = {entry.factor.name: entry.reason for entry in plan.factors if entry.reason}
    assert {factor: engines[factor] for factor in case.engines} == case.engines, reasons
    rules = {parameter: block.rule for block in plan.blocks for parameter in block.parameters}
    assert {parameter: rules[parameter] for parameter in case.rules} == case.rules
    assert set(rules) == set(plan.structure.parameter_names)
    for entry in plan.factors:
        assert bool(entry.reason) == (entry.engine == "graph")
    for block in plan.blocks:
        assert bool(block.refused) == (block.rule != "closed form")
        assert all(reason for _, reason in block.refused)


@pytest.mark.parametrize("name", small_models.MODELS)
def test_the_printed_plan_names_everything(name):
    plan = small_models.plan(name)
    text, page = str(plan), plan._repr_html_()
    structure = plan.structure
    for node in (*structure.parameters, *structure.latents, *structure.observed):
        assert re.search(rf"^  {node.name}\b", text, re.MULTILINE), node.name
        assert f"<td>{node.name}</td>" in page
    for block in plan.blocks:
        for _, reason in block.refused:
            assert reason in text
    for entry in plan.factors:
        assert entry.reason in text
    assert "E-step:" in text
    for plate in structure.plates:
        assert plate.tied or f"{plate.size:,} independent member" in text
    for tied in structure.eliminations:
        assert f"{tied.size:,} group{'s' if tied.size > 1 else ''} of {len(tied.supports)} tied" in text
    assert "<script" not in page


def test_the_plan_of_the_coins():
    """What the design shows, to the words that matter."""
    text = str(emppl.plan(coins.build(), name="coins"))
    for words in ("coins · 5 observations · 1 latent · 1 parameter block", "exact", "Beta(1, 1)", "closed form",
                  "summed out: 5 members × 2 values", "Binomial(10, ·)", "2 equivalent modes"):  # fmt: skip
        assert words in text


def test_blocks_are_what_meets_in_a_factor():
    plan = small_models.plan("two_binary_latents")
    assert [block.parameters for block in plan.blocks] == [("rate",), ("effect",)]
    (block,) = small_models.plan("hierarchical").blocks
    assert set(block.parameters) == {"centre", "spread", "mu"}
    blocks = small_models.plan("gaussian_full", estimate="ml").blocks
    assert {block.parameters for block in blocks} == {("weights",), ("mu", "chol_0", "chol_1")}


def test_maximum_likelihood_drops_the_priors_of_parameters_alone():
    case = small_models.model("coins")
    map_, ml = small_models.plan("coins"), emppl.plan(case.model, estimate="ml")
    for theta in small_models.points(map_, count=2):
        assert ml.log_prior(theta) == 0.0
        assert ml.log_posterior(theta) == pytest.approx(map_.log_likelihood(theta), rel=1e-14)
    assert "dropped" in str(ml)


def test_a_plan_of_a_structure_and_of_a_plan():
    case = small_models.model("coins")
    structure = emppl.analyse(case.model)
    theta = small_models.points(small_models.plan("coins"), count=1)[0]
    expected = small_models.plan("coins").log_posterior(theta)
    assert emppl.plan(structure).log_posterior(theta) == expected
    assert emppl.plan(emppl.plan(structure)).log_posterior(theta) == expected


def test_freezing_a_structure_keeps_what_was_said_of_it():
    case = small_models.model("bounded_poisson")
    structure = emppl.analyse(case.model, support={"n": range(9)})
    plan = emppl.plan(structure, freeze={"p": 0.5})
    assert list(plan.structure.node("n").support) == list(range(9))


@pytest.mark.parametrize("estep", ["auto", "graph"])
def test_frozen_parameters_keep_their_value(estep):
    case = small_models.model("normal_mixture")
    plan = emppl.plan(case.model, freeze={"sigma": [1.0, 2.0]}, estep=estep)
    theta = small_models.points(plan, count=1)[0]
    assert set(theta) == {"weights", "mu"}
    whole = small_models.plan("normal_mixture")
    both = theta | {"sigma": np.array([1.0, 2.0])}
    assert plan.log_likelihood(theta) == pytest.approx(whole.log_likelihood(both), rel=1e-12)
    assert "frozen" in str(plan) and plan.frozen["sigma"].tolist() == [1.0, 2.0]
    # without it the means have a closed form: known sds make the normal prior conjugate
    if estep == "auto":
        assert {block.rule for block in plan.blocks if "mu" in block.parameters} == {"closed form"}


def test_deterministics_at_theta():
    plan = small_models.plan("deterministic_of_latent")
    theta = small_models.points(plan, count=1)[0]
    assert set(plan.deterministics(theta)) == {"high"}
    assert plan.deterministics(theta)["high"] == pytest.approx(theta["low"] + theta["step"])


def test_asking_for_a_natural_form_that_is_not_there():
    with pytest.raises(InvalidArgumentError, match="StudentT is not registered"):
        emppl.plan(small_models.model("heavy_tails").model, estep="natural")
    assert emppl.plan(small_models.model("coins").model, estep="natural").estep.startswith("natural form")


def test_a_parameter_that_only_a_prior_holds():
    with pm.Model() as model:
        a = pm.Normal("a", 0.0, 1.0)
        pm.Normal("idle", a, 1.0)
        pm.Normal("y", 0.0, 1.0, observed=np.zeros(2))
    with pytest.raises(InvalidArgumentError) as caught:
        emppl.plan(model, estimate="ml")
    assert "nothing in the likelihood depends on a" in caught.value.what and caught.value.remedies


def test_the_natural_form_costs_nothing_in_n():
    """Statistics of ten times the data are no more numbers."""
    sizes = []
    for n in (50, 500):
        y = np.random.default_rng(0).normal(size=(n, 2))
        plan = emppl.plan(gaussian_mixture.build({"y": y}, covariance="diagonal"))
        posterior = plan.e_step(small_models.points(plan, count=1)[0])
        sizes.append((posterior.statistics[0].size, posterior.responsibilities[0]))
    assert sizes[0] == sizes[1] == (sizes[0][0], None)
