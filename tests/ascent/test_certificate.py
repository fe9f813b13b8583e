"""The certificate holds for what is right, and shouts when something is broken on purpose."""

from dataclasses import replace

import numpy as np
import pymc as pm
import pytest
import small_models

import emppl
from emppl.ascent import certificate
from emppl.inference.information import observed_information
from emppl.kernels.features import Features
from emppl.planner import Plan
from emppl.structure.prior import whole_log_prior

NAMES = ("coins", "two_binary_latents", "gaussian_full", "implicit_normals", "zero_inflated", "change_point", "lines",
         "two_plates", "potential_on_latent", "missing_values", "ordered_means", "pairs", "unequal_trials")  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_the_derived_log_joint_is_that_of_pymc(name):
    plan = small_models.plan(name)
    for theta in small_models.points(plan, count=2):
        point = certificate.log_joint_agrees(plan, theta)
        assert point.holds and point.value < 1e-10, point.text


@pytest.mark.parametrize("name", NAMES)
def test_the_fisher_gradient_is_that_of_the_graph(name):
    plan = small_models.plan(name)
    u = plan.structure.coordinates.unconstrain(small_models.points(plan, count=1)[0])
    point = certificate.gradient_agrees(plan, u)
    assert point.holds and point.value < 1e-9, point.text


def broken(plan: Plan, which: str) -> Plan:
    """The plan with one array of its E-step spoiled, as a wrong rule would."""
    plate = plan.engine.plates[0]
    if which == "base":
        plate = replace(plate, base=plate.base + np.linspace(0.0, 0.1, len(plate.base)))
    else:
        features = np.array(plate.features)
        features[0] += 0.5
        plate = replace(plate, features=Features.of(features))
    return replace(plan, engine=plan.engine.with_data([plate, *plan.engine.plates[1:]]))


@pytest.mark.parametrize("which", ["base", "features"])
def test_a_wrong_e_step_is_found(which):
    plan = small_models.plan("coins")
    theta = small_models.points(plan, count=1)[0]
    assert not certificate.log_joint_agrees(broken(plan, which), theta).holds
    if which == "features":
        u = plan.structure.coordinates.unconstrain(theta)
        assert not certificate.gradient_agrees(broken(plan, which), u).holds


def test_a_member_lost_is_found():
    """Two members mistaken for one another: the structure itself is wrong."""
    plan = small_models.plan("coins")
    plate = plan.structure.plates[0]
    swapped = replace(plate, members=plate.members[::-1])
    wrong = replace(plan, structure=replace(plan.structure, plates=(swapped,)))
    assert not certificate.log_joint_agrees(wrong, small_models.points(plan, count=1)[0]).holds


def test_a_fit_with_a_broken_rule_does_not_pass():
    fit = emppl.fit(broken(small_models.plan("coins"), "base"), starts=2, seed=0)
    assert not fit.certificate.holds
    assert "FAIL" in str(fit.certificate) and "log joint" in str(fit.certificate)
    assert fit.status is emppl.Status.DISAGREES and "disagrees" in str(fit) and "please report" in str(fit)


def test_frozen_parameters_weights_and_labels_are_certified():
    case = small_models.model("coins")
    fit = emppl.fit(
        case.model, freeze={"weights": [0.5, 0.5]}, labels={"z": [0, -1, -1, 1, -1, -1]}, starts=2, seed=0,
        obs_weights=np.arange(1.0, 7.0),
    )  # fmt: skip
    points = {point.name: point for point in fit.certificate.points}
    assert points["log joint"].holds and points["gradient"].holds


def with_constants(number):
    with pm.Model() as model:
        mu = pm.Normal("mu", number(0), number(10), shape=2)
        z = pm.Categorical("z", p=np.array([0.4, 0.6]), shape=4)
        pm.Normal("y", mu[z], np.float64(1.0), observed=np.array([-1.0, 0.1, 2.0, 3.0]))
    return model


def test_constants_are_compared_as_doubles_and_what_the_model_as_written_gives_is_noted():
    """pm.Normal("mu", 0, 10): PyMC takes the logarithm of these in single precision."""
    doubles = emppl.fit(with_constants(np.float64), starts=2, seed=0)
    for number in (int, np.int8, np.float32):
        fit = emppl.fit(with_constants(number), starts=2, seed=0)
        assert fit.certificate.points[0].holds and fit.certificate.points[0].value < 1e-12
        assert fit.log_posterior == doubles.log_posterior
        (note,) = [note for note in fit.certificate.notes if "as the model is written" in note]
        assert "nats off" in note
    assert not [note for note in doubles.certificate.notes if "as the model is written" in note]


def test_the_log_joint_is_held_against_nats():
    """Much of a large log joint is little of it: 1.9 nats were 1.3e-05 of one."""
    y = np.random.default_rng(0).normal(size=2000) * 100.0
    with pm.Model() as model:
        mu, z = pm.Normal("mu", np.float64(0.0), np.float64(10.0)), pm.Bernoulli("z", np.float64(0.3), shape=len(y))
        pm.Normal("y", mu + z, np.float64(1.0), observed=y)
    plan = emppl.plan(model)
    theta = {"mu": np.array(0.3)}
    assert certificate.log_joint_agrees(plan, theta).holds
    plate = plan.engine.plates[0]
    off = replace(plate, base=plate.base + 2e-5 / len(y))
    point = certificate.log_joint_agrees(replace(plan, engine=plan.engine.with_data([off])), theta)
    assert not point.holds and "2e-05 nats apart" in point.text, point.text


@pytest.mark.parametrize(("reference", "derived", "nats"), [
    (1.0, 1.5, 0.5), (-np.inf, -np.inf, 0.0), (-np.inf, -1e300, 0.0), (-np.inf, 3.0, np.inf), (3.0, -np.inf, np.inf),
    (3.0, np.nan, np.inf), (np.nan, 3.0, np.inf),
])  # fmt: skip
def test_no_number_is_like_no_other(reference, derived, nats):
    assert certificate._nats_apart(reference, derived) == nats


def test_what_is_too_wide_is_not_judged_and_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr("emppl.ascent.result.NEWTON_LIMIT", 0)
    monkeypatch.setattr("emppl.ascent.result.MOST_WORK", 1.0)
    fit = emppl.fit(small_models.model("coins").model, starts=2, seed=0, accelerate=None, max_iter=50)
    (maximum,) = [point for point in fit.certificate.points if point.name == "maximum"]
    assert not maximum.holds and not fit.certificate.holds
    assert "not judged: with" in str(fit.certificate) and "fit.standard_errors()" in str(fit.certificate)
    unasked = emppl.load(fit.save(tmp_path / "fit.nc"))
    assert all(np.isnan(v).all() for v in unasked.standard_errors().values())
    assert all(np.isfinite(v).all() for v in fit.standard_errors().values())  # asked for, they are made
    asked = emppl.load(fit.save(tmp_path / "fit.nc"))
    assert all(np.isfinite(v).all() for v in asked.standard_errors().values())


def test_a_support_with_minus_one():
    """−1 is a value here, not an unknown label."""
    plan = small_models.plan("signed_latent")
    assert certificate.log_joint_agrees(plan, small_models.points(plan, count=1)[0]).holds


# -- the maximum -------------------------------------------------------------------------------------------------------


def maximum(plan: Plan, theta) -> certificate.Point:
    return certificate.is_maximum(plan, observed_information(plan, plan.structure.coordinates.unconstrain(theta)), 1e-6)


def test_what_is_left_is_said():
    plan = emppl.plan(small_models.model("coins").model)
    point = maximum(plan, small_models.points(plan, count=1)[0])
    assert not point.holds


def test_directions_that_the_data_do_not_tell_apart():
    with pm.Model() as model:
        a, b = pm.Normal("a", 0.0, 1.0), pm.Normal("b", 0.0, 1.0)
        z = pm.Bernoulli("z", np.float64(0.5), shape=4)
        pm.Normal("y", a + b + 5.0 * z, np.float64(1.0), observed=np.array([0.1, 5.3, 4.8, -0.2]))
    fit = emppl.fit(model, estimate="ml", starts=2, seed=0)
    point = {p.name: p for p in fit.certificate.points}["maximum"]
    assert not point.holds and "do not tell apart" in point.text and "a" in point.text and "b" in point.text


def test_a_border_is_named():
    """A coin that never shows heads: its bias is 0, where no curvature is."""
    with pm.Model() as model:
        bias = pm.Beta("bias", np.float64(1.0), np.float64(1.0), shape=2)
        z = pm.Categorical("z", p=np.array([0.5, 0.5]), shape=4)
        pm.Binomial("heads", n=np.int64(10), p=bias[z], observed=np.array([0, 0, 9, 8]))
    fit = emppl.fit(model, starts=3, seed=0)
    point = {p.name: p for p in fit.certificate.points}["maximum"]
    assert "on the border: bias" in point.text
    assert np.isnan(fit.standard_errors()["bias"].values[fit.theta["bias"].values < 1e-6]).all()


def overflowing(x: float):
    """A plan and a theta where log(1 + exp(x)) overflows unless it is rewritten as PyMC's own functions are."""
    with pm.Model() as model:
        a = pm.Normal("a", np.float64(0.0), np.float64(1e3))
        pm.Potential("far", -pm.math.log(np.float64(1.0) + pm.math.exp(a)))
        z = pm.Bernoulli("z", np.float64(0.3), shape=3)
        pm.Normal("y", a + z, np.float64(1.0), observed=np.array([x, x + 1.0, x]))
    plan = emppl.plan(model)
    return plan, {"a": np.array(x)}


def test_where_a_graph_overflows_as_it_stands_its_rewritten_form_decides():
    plan, theta = overflowing(800.0)
    point = certificate.log_joint_agrees(plan, theta)
    assert point.holds and point.value < 1e-10, point.text
    by_graph = certificate.gradient_agrees(plan, np.array([800.0]))
    assert by_graph.holds and "autodiff" in by_graph.text
    with pytest.raises(AssertionError):  # as it stands it overflows: the fit itself is what was looked at
        assert certificate._log_joint_agrees(plan, theta, 3, 0, certificate._model_logp(plan, False, 3, 0)) is not None


def test_a_prior_that_overflows_as_it_stands_is_asked_rewritten():
    plan, theta = overflowing(800.0)
    assert whole_log_prior(plan.structure)(theta) == pytest.approx(plan.log_prior(theta), rel=1e-13)


def test_what_raises_as_it_stands_is_asked_rewritten(monkeypatch):
    """PyMC's check of a parameter raises in a graph as it stands; a fit is not to end like that."""
    plan = small_models.plan("coins")
    theta = small_models.points(plan, count=1)[0]
    compiled = certificate._model_logp

    def checking(structure, rewritten, *options):
        def refuse(*_):
            raise ValueError("0 <= p <= 1")

        found = compiled(structure, rewritten, *options)
        return found if rewritten else replace(found, function=refuse)

    monkeypatch.setattr(certificate, "_model_logp", checking)
    monkeypatch.setattr(certificate, "_agrees_as_written", lambda *_: None)
    point = certificate.log_joint_agrees(plan, theta)
    assert point.holds and point.value < 1e-10, point.text
