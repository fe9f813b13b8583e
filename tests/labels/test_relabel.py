"""Relabelling against R's label.switching, against known permutations, and by what must not change."""

import itertools
from pathlib import Path
from types import SimpleNamespace

import arviz as az
import numpy as np
import pytest
import xarray as xr
from comparison import fakes
from hypothesis import given, settings
from hypothesis import strategies as st

from emppl.errors import InvalidArgumentError
from emppl.kernels.assignment import assign, forbidden_pairs, margins
from emppl.labels import METHODS, Material, draws, relabel
from emppl.labels.align import pivot_distance

FIXTURES = Path(__file__).parent.parent / "data" / "label_switching"


def fixture(name):
    with np.load(FIXTURES / f"{name}.npz") as stored:
        return {key: stored[key] for key in stored.files}


def run(p, pivot, groups=None, chunk=17):
    size = pivot.shape[1]

    def chunks():
        for start in range(0, len(p), chunk):
            yield slice(start, min(start + chunk, len(p))), p[start : start + chunk]

    material = Material(len(p), size, pivot, groups or (tuple(range(size)),), chunks)
    return METHODS["responsibilities"](material)


@pytest.mark.parametrize("name", ["galaxies_k3", "synth_k4", "galaxies_k4"])
def test_hard_allocations_give_the_permutations_of_ecr(name):
    """With one-hot responsibilities the cost is ECR's, so R's permutations must come out, draw by draw."""
    stored = fixture(name)
    size = stored["perm_ECR"].shape[1]
    z, pivot = np.eye(size)[stored["z"]], np.eye(size)[stored["zpivot"]]
    mine = run(z, pivot).permutations
    differing = np.flatnonzero((mine != stored["perm_ECR"]).any(axis=1))

    def agreement(t, perm):
        return (z[t][:, perm] * pivot).sum()

    # a draw may have two assignments of exactly equal cost; then either is right
    assert all(agreement(t, mine[t]) == agreement(t, stored["perm_ECR"][t]) for t in differing)
    assert len(differing) <= 1


@pytest.mark.parametrize("name", ["galaxies_k3", "synth_k4"])
def test_responsibilities_agree_with_r_where_components_are_separate(name):
    stored = fixture(name)
    mine = run(stored["p"].astype(float), stored["p_pivot"].astype(float))
    np.testing.assert_array_equal(mine.permutations, stored["perm_ECR"][:60])
    assert mine.margins.min() > 0.5


def test_known_relabelling_is_undone():
    """galaxies_k3 was relabelled at random: the product of both permutations is the same in every draw."""
    stored = fixture("galaxies_k3")
    mine = run(stored["p"].astype(float), stored["p_pivot"].astype(float)).permutations
    product = np.take_along_axis(stored["applied_perm"][:60].astype(int), mine, axis=1)
    assert (product == product[0]).all()
    assert (mine != mine[0]).any()  # there was something to undo


@given(seed=st.integers(0, 2**32 - 1), size=st.integers(2, 6))
@settings(max_examples=60, deadline=None)
def test_assignment_and_margin_equal_enumeration(seed, size):
    rng = np.random.default_rng(seed)
    cost = rng.normal(size=(size, size))
    cut = int(rng.integers(1, size + 1))
    groups = (tuple(range(cut)), tuple(range(cut, size)))
    forbidden = forbidden_pairs(size, groups)
    allowed = [
        perm for perm in itertools.permutations(range(size)) if all((j < cut) == (k < cut) for j, k in enumerate(perm))
    ]
    totals = sorted((sum(cost[j, k] for j, k in enumerate(perm)), perm) for perm in allowed)
    best = assign(cost[None], forbidden)
    assert tuple(best[0]) == totals[0][1]
    second = totals[1][0] - totals[0][0] if len(totals) > 1 else np.inf
    assert margins(cost[None], best, forbidden)[0] == pytest.approx(second)


def test_margin_of_the_reference_itself_is_one_and_a_tie_is_zero():
    pivot = np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]])
    tie = np.full((3, 2), 0.5)
    margins = run(np.stack([pivot, pivot[:, ::-1], tie]), pivot).margins
    np.testing.assert_allclose(margins, [1.0, 1.0, 0.0], atol=1e-12)


def test_coincident_components_are_seen():
    rng = np.random.default_rng(0)
    clear = np.eye(3)[rng.integers(3, size=50)]
    assert pivot_distance(clear, ((0, 1, 2),))[0] == pytest.approx(1.0)
    blurred = np.stack([clear[:, 0], (clear[:, 1] + clear[:, 2]) / 2, (clear[:, 1] + clear[:, 2]) / 2], axis=1)
    assert pivot_distance(blurred, ((0, 1, 2),)) == (pytest.approx(0.0), (1, 2))
    empty = np.c_[clear[:, 0], clear[:, 1] + clear[:, 2], np.zeros((50, 2))]
    assert pivot_distance(empty, ((0, 1, 2, 3),)) == (0.0, (2, 3))
    assert pivot_distance(blurred, ((0, 1),))[0] > 0.5  # the two alike cannot be swapped, so it does not matter
    assert run(np.stack([blurred]), blurred).margins[0] == 0.0


THREE_CYCLES = [(1, 2, 0), (2, 0, 1)]


def random_perms(fit, tree, seed):
    shape = draws.shape_of(tree)
    return np.random.default_rng(seed).permuted(np.tile(np.arange(fit.plan.k), (*shape, 1)), axis=-1)


def assert_same(left, right):
    for group in ("posterior", "latent"):
        for name, values in left[group].data_vars.items():
            np.testing.assert_allclose(values.values, right[group][name].values, rtol=1e-12, err_msg=name)


@pytest.fixture(scope="module")
def three():
    return fakes.case(3, n=90, gap=9.0, draws=60, chains=3)


@pytest.mark.parametrize("cycle", THREE_CYCLES)
def test_three_cycles_come_back(three, cycle):
    """A 3-cycle is not its own inverse: applying the permutation the wrong way round cannot pass."""
    fit, tree = three
    perms = np.broadcast_to(np.array(cycle), (3, 60, 3))
    aligned = relabel(fakes.switch(tree, perms, fit.plan), to=fit)
    assert_same(aligned, tree)
    found = aligned["relabelling"]["component_of_row"].values
    assert (np.take_along_axis(perms, found, axis=-1) == np.arange(3)).all()
    assert (found == np.argsort(cycle)).all()


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=10, deadline=None)
def test_names_of_the_draws_do_not_matter(three, seed):
    fit, tree = three
    assert_same(relabel(fakes.switch(tree, random_perms(fit, tree, seed), fit.plan), to=fit), relabel(tree, to=fit))


def test_without_a_latent_group_responsibilities_are_computed(three):
    fit, tree = three
    switched = fakes.switch(tree, random_perms(fit, tree, 3), fit.plan)
    bare = xr.DataTree.from_dict({"posterior": switched["posterior"].to_dataset()})
    aligned = relabel(bare, to=fit)
    for name in tree["posterior"].data_vars:
        np.testing.assert_allclose(aligned["posterior"][name].values, tree["posterior"][name].values, rtol=1e-12)


def test_chunks_do_not_change_the_answer(three, monkeypatch):
    fit, tree = three
    switched = fakes.switch(tree, random_perms(fit, tree, 4), fit.plan)
    whole = relabel(switched, to=fit)
    monkeypatch.setattr(draws, "CHUNK_CELLS", 700)  # two draws at a time
    pieces = relabel(switched, to=fit)
    assert_same(whole, pieces)
    monkeypatch.setattr(draws, "CHUNK_CELLS", 1000)
    bare = switched.copy()
    del bare["latent"]
    np.testing.assert_allclose(relabel(bare, to=fit)["posterior"]["mu"].values, whole["posterior"]["mu"].values)


def test_deterministics_are_computed_anew(three):
    fit, tree = three
    switched = fakes.switch(tree, random_perms(fit, tree, 5), fit.plan)
    wrong = switched["posterior"].to_dataset()
    switched["posterior"] = xr.DataTree(wrong.assign(odds=wrong["odds"] * 0 - 1.0))  # cannot be got by permuting
    aligned = relabel(switched, to=fit)["posterior"]
    moved = (aligned.root["relabelling"]["component_of_row"] != np.arange(3)).any("component_of_row_new_label").values
    weights = aligned["weights"].values
    np.testing.assert_allclose(aligned["odds"].values[moved], (weights / (1 - weights))[moved], rtol=1e-12)


def test_input_and_other_groups_are_left_alone(three):
    fit, tree = three
    switched = fakes.switch(tree, random_perms(fit, tree, 6), fit.plan)
    before = switched["posterior"]["mu"].values.copy()
    aligned = relabel(switched, to=fit)
    np.testing.assert_array_equal(switched["posterior"]["mu"].values, before)
    assert "relabelling" not in switched.children
    assert set(aligned.children) == {*switched.children, "relabelling"}
    xr.testing.assert_identical(aligned["log_likelihood"].to_dataset(), switched["log_likelihood"].to_dataset())
    assert aligned.attrs["sampler"] == "gibbs"
    for name, variable in aligned["posterior"].data_vars.items():
        assert variable.dims == switched["posterior"][name].dims
        assert list(variable.coords) == list(switched["posterior"][name].coords)


def test_dims_in_another_order_are_understood(three):
    fit, tree = three
    switched = fakes.switch(tree, random_perms(fit, tree, 7), fit.plan)
    turned = switched.copy()
    turned["posterior"] = xr.DataTree(switched["posterior"].to_dataset().transpose("component", "draw", "chain"))
    turned["latent"] = xr.DataTree(switched["latent"].to_dataset().transpose("draw", "chain", ...))
    aligned = relabel(turned, to=fit)
    assert aligned["posterior"]["mu"].dims == ("component", "draw", "chain")
    expected = tree["posterior"]["mu"].transpose("component", "draw", "chain")
    np.testing.assert_allclose(aligned["posterior"]["mu"].values, expected.values)


def test_only_exchangeable_components_are_permuted():
    """Components 0 and 2 may be swapped, 1 may not: a draw with 0 and 1 exchanged is not repaired."""
    fit, tree = fakes.case(3, n=90, gap=9.0, draws=40, chains=2, exchangeable=((0, 2),))
    swap = np.broadcast_to([2, 1, 0], (2, 40, 3))
    assert_same(relabel(fakes.switch(tree, swap, fit.plan), to=fit), tree)
    other = relabel(fakes.switch(tree, np.broadcast_to([1, 0, 2], (2, 40, 3)), fit.plan), to=fit)
    assert (other["relabelling"]["component_of_row"].values[..., 1] == 1).all()


def test_no_axis_to_permute_leaves_the_draws(three):
    fit, tree = fakes.case(2, n=40, draws=30, chains=2, exchangeable=())
    aligned = relabel(fakes.switch(tree, np.broadcast_to([1, 0], (2, 30, 2)), fit.plan), to=fit)
    assert "relabelling" not in aligned.children
    np.testing.assert_array_equal(aligned["posterior"]["mu"].values, tree["posterior"]["mu"].values[..., ::-1])


def test_references_other_than_a_fit(three):
    fit, tree = three
    switched = fakes.switch(tree, random_perms(fit, tree, 8), fit.plan)

    def up_to_names(aligned):
        """One global permutation may remain: the reference's own names."""
        order = np.argsort(aligned["posterior"]["mu"].values.mean(axis=(0, 1)))
        return aligned["posterior"]["mu"].values[..., order]

    expected = tree["posterior"]["mu"].values
    for options in (
        {"model": fit.plan},
        {"to": (1, 5), "model": fit.plan},
        {"to": fit.point, "model": fit},
        {"model": fit},
    ):
        np.testing.assert_allclose(up_to_names(relabel(switched, **options)), expected, rtol=1e-12)
    at_draw = relabel(switched, to=(1, 5), model=fit.plan)
    assert (at_draw["relabelling"]["component_of_row"].values[1, 5] == np.arange(3)).all()


def test_frozen_parameters_come_from_the_fit(three):
    fit, tree = three
    without = tree.copy()
    without["posterior"] = xr.DataTree(tree["posterior"].to_dataset().drop_vars("sigma"))
    aligned = relabel(without, to=fit)
    assert "sigma" not in aligned["posterior"]
    np.testing.assert_allclose(aligned["posterior"]["mu"].values, tree["posterior"]["mu"].values)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda tree, fit: ({"draws": np.zeros(3), "to": fit}), "DataTree"),
        (lambda tree, fit: ({"draws": xr.DataTree(), "to": fit}), "posterior"),
        (lambda tree, fit: ({"draws": tree}), "model"),
        (lambda tree, fit: ({"draws": tree, "to": fit, "method": "sorting"}), 'method="responsibilities"'),
        (lambda tree, fit: ({"draws": tree, "to": 3, "model": fit.plan}), "chain, draw"),
        (lambda tree, fit: ({"draws": az.from_dict({"posterior": {"nu": np.zeros((1, 9))}}), "model": fit.plan}), "nu"),
        (
            lambda tree, fit: (
                {"draws": az.from_dict({"posterior": {name: np.zeros((1, 9, 2)) for name in fit.point}}), "to": fit}
            ),
            "weights has shape (2,)",
        ),
    ],
)
def test_bad_input_is_named(three, spoil, words):
    fit, tree = three
    with pytest.raises(InvalidArgumentError) as caught:
        relabel(**spoil(tree, fit))
    assert words in str(caught.value)
    assert "ways out" in str(caught.value)


def test_a_loaded_fit_without_its_model_is_refused(three):
    fit, tree = three
    loaded = fakes.replace(fit, plan=SimpleNamespace(structure=fit.plan.structure))
    with pytest.raises(InvalidArgumentError, match="holds results and no model"):
        relabel(tree, to=loaded)


def test_laplace_draws_beside_a_fits_own_responsibilities(three):
    """A `latent` group without chain and draw says nothing about the draws: they are computed."""
    fit, tree = three
    own = xr.Dataset({"component_of_row": (("row", "value"), fit.plan.responsibilities(fit.point)["component_of_row"])})
    aligned = relabel(fakes.switch(tree, random_perms(fit, tree, 9), fit.plan), to=fit)
    bare = fakes.switch(tree, random_perms(fit, tree, 9), fit.plan)
    bare["latent"] = xr.DataTree(own)
    again = relabel(bare, to=fit)
    np.testing.assert_allclose(again["posterior"]["mu"].values, aligned["posterior"]["mu"].values)
    xr.testing.assert_identical(again["latent"].to_dataset(), own)


def test_thirty_components_need_no_factorial():
    rng = np.random.default_rng(0)
    pivot = np.eye(30)[rng.integers(30, size=400)] * 0.9 + 0.1 / 30
    perms = np.array([rng.permutation(30) for _ in range(20)])
    p = np.stack([pivot[:, perm] for perm in perms])
    np.testing.assert_array_equal(run(p, pivot).permutations, np.argsort(perms, axis=1))
