"""Diagnosis of label switching in made situations whose truth is known."""

from types import SimpleNamespace

import arviz as az
import numpy as np
import pytest
import xarray as xr
from comparison import fakes

from emppl.comparison import compare
from emppl.errors import InvalidArgumentError
from emppl.labels import LabelState, compare_methods, diagnose, relabel
from emppl.labels.draws import convergence
from emppl.labels.relabel import AxisAlignment

CHAINS, DRAWS = 4, 150


@pytest.fixture(scope="module")
def three():
    return fakes.case(3, n=90, gap=9.0, draws=DRAWS, chains=CHAINS)


def by_chain(*perms):
    """[chain, draw, K]: one labelling a chain."""
    return np.stack([np.tile(perm, (DRAWS, 1)) for perm in perms])


def test_no_switching(three):
    fit, tree = three
    report = diagnose(tree, fit)
    assert report.state is LabelState.NO_SWITCHING
    assert report.symmetric == {"component": ("weights", "mu", "sigma")}
    assert report.permutations.shape == (CHAINS, DRAWS, 3)
    assert (report.switches == 0).all()
    assert report.r_hat_before == pytest.approx(report.r_hat_after)
    assert "no switching" in report.verdict


@pytest.mark.parametrize("look", [diagnose, relabel, compare, compare_methods], ids=lambda f: f.__name__)
def test_no_draws_at_all_are_refused(three, look):
    fit, tree = three
    none = tree.isel(draw=slice(0))
    none.attrs["interrupted"] = "True"
    with pytest.raises(InvalidArgumentError, match="no draws: sampling was interrupted"):
        look(*((fit, none) if look is compare else (none, fit)))


def test_chains_in_different_labellings(three):
    fit, tree = three
    perms = by_chain([0, 1, 2], [1, 2, 0], [0, 1, 2], [2, 1, 0])
    report = diagnose(fakes.switch(tree, perms, fit.plan), fit)
    assert report.state is LabelState.BETWEEN_CHAINS
    assert "2 of 4" in report.verdict
    assert report.r_hat_before > 1.5
    assert report.r_hat_after < 1.02
    assert report.switches.tolist() == [0, 0, 0, 0]
    np.testing.assert_array_equal(report.permutations, np.argsort(perms, axis=-1))
    assert f"{report.r_hat_before:.1f} →" in report.verdict


def test_switches_within_chains_are_counted(three):
    fit, tree = three
    perms = by_chain(*[[0, 1, 2]] * CHAINS).copy()
    perms[0, 50:] = [1, 2, 0]
    perms[2, 20:40] = [0, 2, 1]
    report = diagnose(fakes.switch(tree, perms, fit.plan), fit)
    assert report.state is LabelState.WITHIN_CHAINS
    assert report.switches.tolist() == [1, 0, 2, 0]
    assert "1, 0, 2, 0" in report.verdict
    assert report.r_hat_after < 1.02 < report.r_hat_before


def test_full_random_permutation_hides_from_r_hat_but_not_from_us(three):
    """When labels mix perfectly the raw R-hat is fine and raw means are meaningless."""
    fit, tree = three
    perms = np.random.default_rng(0).permuted(np.tile([0, 1, 2], (CHAINS, DRAWS, 1)), axis=-1)
    report = diagnose(fakes.switch(tree, perms, fit.plan), fit)
    assert report.state is LabelState.WITHIN_CHAINS
    assert report.r_hat_before < 1.05
    assert report.switches.min() > DRAWS / 2


def test_a_chain_in_a_mode_of_its_own_is_not_a_matter_of_names(three):
    fit, tree = three
    other = tree["posterior"].to_dataset()
    shifted = other["mu"].copy(data=other["mu"].values + np.array([0, 0, 0, 1.0])[:, None, None] * np.array([0, 2, 0]))
    moved = tree.copy()
    moved["posterior"] = xr.DataTree(other.assign(mu=shifted))
    del moved["latent"]
    report = diagnose(moved, fit)
    assert report.state is LabelState.DIFFERENT_MODES
    assert report.r_hat_after > 1.5
    assert not report.state.cured
    assert "more than the names" in report.verdict


def test_chains_that_never_meet_in_what_no_renaming_changes_are_in_different_modes(three):
    """Sorted means and all else that is symmetric tell a mode of its own from another labelling, however mixed."""
    fit, tree = three
    other = tree["posterior"].to_dataset()
    shift = np.array([0, 0, 0, 1.0])[:, None, None] * np.array([0, 4.5, 0])
    moved = tree.copy()
    moved["posterior"] = xr.DataTree(other.assign(mu=other["mu"].copy(data=other["mu"].values + shift)))
    del moved["latent"]
    perms = np.random.default_rng(1).permuted(np.tile([0, 1, 2], (CHAINS, DRAWS, 1)), axis=-1)
    report = diagnose(fakes.switch(moved, perms, fit.plan), fit)
    assert report.state is LabelState.DIFFERENT_MODES
    assert report.r_hat_before < 1.1 < 1.5 < report.r_hat_invariant
    worst = report.invariants["r_hat"].idxmax()
    assert worst.startswith("mu sorted") and bool(report.invariants.loc[worst, "apart"])
    assert f"R-hat of {worst} is {report.r_hat_invariant:.1f}, which no renaming changes" in report.verdict


def test_what_no_renaming_changes_is_the_same_under_every_name(three):
    fit, tree = three
    perms = np.random.default_rng(2).permuted(np.tile([0, 1, 2], (CHAINS, DRAWS, 1)), axis=-1)
    plain, switched = diagnose(tree, fit), diagnose(fakes.switch(tree, perms, fit.plan), fit)
    for column in ("r_hat", "ess"):
        np.testing.assert_allclose(plain.invariants[column], switched.invariants[column], rtol=1e-9)
    names = list(plain.invariants.index)
    assert names[:3] == ["log density", "log-likelihood", "weights sorted, least"]
    assert names[-1] == "number of occupied components"
    assert (plain.axes[0].occupied == 3).all() and plain.axes[0].occupied_text() == "3 in 100.0% of the draws"


def test_slow_chains_of_overlapping_components_are_not_modes_of_their_own():
    """R-hat of sorted weights is high, since these chains hardly move, but they go over the same ground."""
    fit, tree = fakes.case(2, n=60, gap=0.3, draws=DRAWS, chains=CHAINS)
    report = diagnose(tree, fit)
    assert report.state is LabelState.OVERLAPPING
    assert report.r_hat_invariant > 1.1 and not report.invariants["apart"].any()
    assert "chains have not mixed either" in report.verdict


def test_auto_tries_again_where_the_names_of_the_fit_do_not_hold(three):
    """A reference that is distinct, but not what the draws are like, is given up for their own mean."""
    fit, tree = three
    point = {name: value.copy() for name, value in fit.point.items()}
    point["mu"] = np.array([0.5, 12.0, 19.0])  # B and C share what is C's, A has what is A's and B's
    far = fakes.replace(fit, point=point)
    perms = by_chain([0, 1, 2], [1, 2, 0], [0, 1, 2], [2, 1, 0])
    report = diagnose(fakes.switch(tree, perms, fit.plan), far)
    assert report.state is LabelState.BETWEEN_CHAINS and report.r_hat_after < 1.02


@pytest.mark.parametrize("method", ["STEPHENS", "ECR", "ECR-ITERATIVE-1", "ECR-ITERATIVE-2", "PRA", "parameters"])
def test_any_method_may_be_asked_for(three, method):
    fit, tree = three
    perms = by_chain([0, 1, 2], [1, 2, 0], [0, 1, 2], [2, 1, 0])
    report = diagnose(fakes.switch(tree, perms, fit.plan), fit, method=method)
    assert report.state is LabelState.BETWEEN_CHAINS and report.axes[0].method == method
    np.testing.assert_array_equal(report.permutations, np.argsort(perms, axis=-1))  # under the names of the fit


def test_overlapping_components():
    fit, tree = fakes.case(2, n=60, gap=0.3, draws=DRAWS, chains=CHAINS)
    report = diagnose(tree, fit)
    assert report.state is LabelState.OVERLAPPING
    assert report.verdict.startswith("components overlap: over the aligned draws two of them share members")
    assert report.axes[0].mean_distance < 0.4
    assert not report.state.cured
    to_fit = diagnose(tree, fit, method="responsibilities")
    assert to_fit.state is LabelState.OVERLAPPING
    assert to_fit.ambiguous > 0.05
    assert f"{to_fit.ambiguous:.0%}" in to_fit.verdict


def test_coincident_components_of_the_reference_are_said(three):
    fit, tree = three
    point = {name: value.copy() for name, value in fit.point.items()}
    for values in point.values():
        values[2] = values[1]
    twin = fakes.replace(fit, point=point)
    report = diagnose(tree, twin)
    assert report.state is LabelState.NO_SWITCHING  # the draws' components are distinct all the same
    assert report.axes[0].method == "STEPHENS"
    assert "components B and C of the reference hold the same members (distance 0.000)" in report.axes[0].why
    assert report.caveat.startswith("components B and C of the fit hold the same members")
    assert report.caveat in str(report)


def test_no_symmetry():
    plan = fakes.MixturePlan(fakes.data(2, 40), 2)
    fit = fakes.em(plan)
    tree = fakes.gibbs(fit, 2, 50)
    bare = SimpleNamespace(
        axes=(), structure=plan.structure, responsibilities=plan.responsibilities, deterministics=plan.deterministics
    )
    report = diagnose(tree, bare)
    assert report.state is LabelState.NO_SYMMETRY
    assert report.symmetric == {}
    assert report.permutations.shape == (2, 50, 0)
    assert report.switches.tolist() == [0, 0]
    assert np.isnan(report.r_hat_before)
    assert report.state.cured


def test_an_ordering_in_the_model_is_said():
    fit, tree = fakes.case(2, n=60, draws=60, chains=2, ordered=True)
    report = diagnose(tree, fit)
    assert report.state is LabelState.NO_SYMMETRY
    assert report.axes == ()
    assert "orders the components of weights, mu, sigma" in report.verdict


def test_a_prior_that_tells_components_apart_is_said_and_draws_are_left():
    """The likelihood is symmetric, the prior is not: another labelling is another mode, not another name."""
    fit, tree = fakes.case(2, n=60, gap=6.0, draws=DRAWS, chains=CHAINS, centre=np.array([0.0, 1.0]))
    swapped = fakes.switch(tree, by_chain([0, 1], [1, 0], [0, 1], [0, 1]), fit.plan)
    report = diagnose(swapped, fit)
    assert report.state is LabelState.NO_SYMMETRY
    assert report.symmetric == {}
    assert "the prior alone" in report.verdict
    assert "2 different labellings" in report.verdict
    assert report.r_hat_before == pytest.approx(report.r_hat_after)
    assert "all chains agree" in diagnose(tree, fit).verdict


def test_model_without_fit_uses_the_highest_draw(three):
    fit, tree = three
    perms = by_chain([1, 2, 0], [1, 2, 0], [1, 2, 0], [0, 1, 2])
    report = diagnose(fakes.switch(tree, perms, fit.plan), fit.plan)
    assert report.state is LabelState.BETWEEN_CHAINS
    assert "the highest draw" in report.verdict or "of 4" in report.verdict
    with pytest.raises(InvalidArgumentError, match="component axis"):
        diagnose(tree)


def test_single_chain_is_judged_by_its_halves(three):
    fit, tree = three
    one = tree.isel(chain=[0])
    perms = np.tile([0, 1, 2], (1, DRAWS, 1))
    perms[0, DRAWS // 2 :] = [2, 1, 0]
    report = diagnose(fakes.switch(one, perms, fit.plan), fit)
    assert report.state is LabelState.WITHIN_CHAINS
    assert report.r_hat_before > 1.5 > report.r_hat_after


def test_two_axes_are_aligned_apart():
    """A product group: each latent's labels are put right by its own permutations."""
    rng = np.random.default_rng(0)
    a, b = np.eye(3)[rng.integers(3, size=40)], np.eye(2)[rng.integers(2, size=30)]
    names = {"z": ("u", 3), "w": ("v", 2)}
    axes = tuple(
        fakes.Axis(z, size, f"{z}_dim", tuple("ABC"[:size]), (name,), True, True, (tuple(range(size)),))
        for z, (name, size) in names.items()
    )
    parameters = tuple(
        SimpleNamespace(name=name, dims=(f"{z}_dim",), shape=(size,)) for z, (name, size) in names.items()
    )
    structure = SimpleNamespace(parameters=parameters, coords={"z_dim": list("ABC"), "w_dim": list("AB")})
    plan = SimpleNamespace(
        axes=axes, structure=structure, deterministics=lambda theta: {}, responsibilities=lambda theta: {"z": a, "w": b}
    )
    true = {"u": np.array([1.0, 2.0, 3.0]), "v": np.array([10.0, 20.0])}
    perms = {z: rng.permuted(np.tile(np.arange(size), (2, 40, 1)), axis=-1) for z, (_, size) in names.items()}
    posterior = {name: (true[name] + 0.01 * rng.normal(size=(2, 40, size))) for name, size in names.values()}
    latent = {"z": np.broadcast_to(a, (2, 40, *a.shape)), "w": np.broadcast_to(b, (2, 40, *b.shape))}
    switched = {n: np.take_along_axis(posterior[n], perms[z], axis=-1) for z, (n, _) in names.items()}
    hidden = {z: np.take_along_axis(p, perms[z][:, :, None, :], axis=-1) for z, p in latent.items()}
    tree = az.from_dict({"posterior": switched, "latent": hidden})
    report = diagnose(tree, SimpleNamespace(plan=plan, point=true))
    assert report.symmetric == {"z_dim": ("u",), "w_dim": ("v",)}
    for axis, (z, _) in zip(report.axes, names.items(), strict=True):
        np.testing.assert_array_equal(axis.permutations, np.argsort(perms[z], axis=-1))
    assert report.switches.tolist() == sum(axis.switches for axis in report.axes).tolist()
    assert report.r_hat_after < 1.1
    assert list(report.r_hat.index) == ["u[A]", "u[B]", "u[C]", "v[A]", "v[B]"]


def test_constants_have_no_r_hat_and_raise_no_warning():
    values = np.random.default_rng(0).normal(size=(4, 50, 3))
    values[..., 1] = 1.0 + 1e-16
    values[..., 2] = np.arange(4)[:, None]  # each chain stands still at its own value
    r_hat, ess = convergence(values)
    assert np.isfinite([r_hat[0], ess[0]]).all()
    assert np.isnan([r_hat[1], ess[1]]).all()
    assert r_hat[2] > 1.05 or np.isinf(r_hat[2]) or np.isnan(r_hat[2])
    values[0, 0, 0] = np.nan
    assert np.isnan(convergence(values)[0][0])
    assert np.isnan(convergence(np.zeros((4, 3, 2)))[0]).all()


def test_convergence_equals_arviz():
    values = np.random.default_rng(1).normal(size=(4, 200)).cumsum(axis=1)
    r_hat, ess = convergence(values[..., None])
    assert r_hat[0] == pytest.approx(float(az.rhat(values)))
    assert ess[0] == pytest.approx(float(az.ess(values)))


def test_report_prints_its_verdict(three):
    fit, tree = three
    report = diagnose(tree, fit)
    assert repr(report) == f"SwitchingReport({report.verdict})"
    text = str(report)
    assert text.startswith(report.verdict)
    assert "mu[C]" in text
    assert report.axes[0].noun == "component"


def test_alignment_record_knows_whether_its_reference_is_distinct():
    record = AxisAlignment(None, ((0, 1),), np.zeros((1, 2)), np.zeros(1), "responsibilities", 0.01, (0, 1))
    assert not record.distinct
