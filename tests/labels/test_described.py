"""Draws of anything, whose component axes the user names: Stan's, transition matrices, several families."""

import arviz as az
import numpy as np
import pytest
import xarray as xr
from comparison import fakes

from emppl.errors import InvalidArgumentError
from emppl.kernels.assignment import inverse
from emppl.labels import LabelState, compare_methods, diagnose, relabel

CHAINS, DRAWS = 3, 60


def permuted(perms, values, *axes):
    """values [chain, draw, …] with components renamed along these axes, counted after the draws."""
    for axis in axes:
        shape = [*perms.shape[:2], *[1] * (values.ndim - 2)]
        shape[axis + 2] = perms.shape[-1]
        values = np.take_along_axis(values, perms.reshape(shape), axis=axis + 2)
    return values


def random_perms(size, seed=0):
    return np.random.default_rng(seed).permuted(np.tile(np.arange(size), (CHAINS, DRAWS, 1)), axis=-1)


def around(centre, spread=0.02, seed=0):
    centre = np.asarray(centre, dtype=float)
    return centre + spread * np.random.default_rng(seed).normal(size=(CHAINS, DRAWS, *centre.shape))


@pytest.fixture(scope="module")
def stan():
    """A hidden Markov model as Stan leaves it: no dims of its own, labels from 1, rows and columns of one matrix."""
    size, n = 3, 40
    rng = np.random.default_rng(1)
    perms = random_perms(size)
    truth = rng.integers(size, size=n)
    gamma = around([[0.8, 0.15, 0.05], [0.1, 0.7, 0.2], [0.3, 0.1, 0.6]], 0.01)
    mu, loads, common = around([-3.0, 0.0, 4.0]), around([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], 0.1), around(1.0)
    p = np.full((CHAINS, DRAWS, n, size), 0.05)
    p[..., np.arange(n), truth] = 0.9
    true = {
        "mu": mu,
        "gamma": gamma,
        "loads": loads,
        "common": common,
        "p": p,
        "z": np.broadcast_to(truth, p.shape[:3]),
    }
    switched = {
        "mu": permuted(perms, mu, 0), "gamma": permuted(perms, gamma, 0, 1), "loads": permuted(perms, loads, 0),
        "common": common, "p": permuted(perms, p, 1), "z": inverse(perms)[..., truth] + 1,
    }  # fmt: skip
    switched["z"] = np.take_along_axis(inverse(perms), np.broadcast_to(truth, p.shape[:3]), axis=-1) + 1
    return az.from_dict({"posterior": switched}), true, perms


NAMED = {"mu": 0, "gamma": (0, 1), "loads": 0}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"allocations": "z"},
        {"responsibilities": "p"},
        {"responsibilities": "p", "allocations": "z"},
        {"method": "STEPHENS", "responsibilities": "p"},
        {"method": "ordering", "by": "mu"},
        {"method": "PRA"},
    ],
)
def test_every_axis_of_a_component_is_permuted(stan, options):
    tree, true, perms = stan
    aligned = relabel(tree, component_dims=NAMED, **options)
    found = aligned["relabelling"]["component"].values
    product = np.take_along_axis(perms, found, axis=-1)
    assert (product == product[0, 0]).all()
    order = product[0, 0]  # one relabelling of all draws alike is left
    posterior = aligned["posterior"]
    np.testing.assert_allclose(posterior["mu"].values, true["mu"][..., order])
    np.testing.assert_allclose(posterior["loads"].values, true["loads"][:, :, order])
    np.testing.assert_allclose(posterior["gamma"].values, true["gamma"][:, :, order][..., order])
    np.testing.assert_allclose(posterior["common"].values, true["common"])
    if "allocations" in options:
        np.testing.assert_array_equal(posterior["z"].values, inverse(order[None])[0][true["z"]] + 1)
    if "responsibilities" in options:
        np.testing.assert_allclose(posterior["p"].values, true["p"][..., order])
    for name, variable in posterior.data_vars.items():
        assert variable.dims == tree["posterior"][name].dims


def test_diagnosis_needs_no_model(stan):
    tree, _, _ = stan
    report = diagnose(tree, component_dims=NAMED)
    assert report.state is LabelState.WITHIN_CHAINS
    assert report.symmetric == {"component": ("mu", "gamma", "loads")}
    assert report.r_hat_after < 1.1
    assert "gamma[1, 2]" in report.r_hat.index
    assert report.axes[0].method == "parameters" and report.axes[0].occupied is None
    with_units = diagnose(tree, component_dims=NAMED, responsibilities="p")
    assert with_units.axes[0].method == "responsibilities" and (with_units.axes[0].occupied == 3).all()
    by_labels = diagnose(tree, component_dims=NAMED, allocations="z")
    assert by_labels.axes[0].method == "ECR-ITERATIVE-1" and "3 in 100.0%" in by_labels.axes[0].occupied_text()


def test_dims_name_the_axes_and_are_kept():
    """Rows and columns run over the same components under two names; coords stay where they are."""
    perms = random_perms(3, 2)
    gamma, mu = around([[0.8, 0.15, 0.05], [0.1, 0.7, 0.2], [0.3, 0.1, 0.6]], 0.01), around([-3.0, 0.0, 4.0])
    tree = az.from_dict(
        {"posterior": {"mu": permuted(perms, mu, 0), "gamma": permuted(perms, gamma, 0, 1)}},
        dims={"mu": ["state"], "gamma": ["state", "next_state"]},
        coords={"state": ["a", "b", "c"], "next_state": ["a", "b", "c"]},
    )
    aligned = relabel(tree, component_dims=("state", "next_state"))
    order = np.take_along_axis(perms, aligned["relabelling"]["state"].values, axis=-1)[0, 0]
    np.testing.assert_allclose(aligned["posterior"]["gamma"].values, gamma[:, :, order][..., order])
    assert list(aligned["posterior"]["gamma"].coords["next_state"].values) == ["a", "b", "c"]
    turned = tree.copy()
    turned["posterior"] = xr.DataTree(tree["posterior"].to_dataset().transpose("next_state", "state", "draw", "chain"))
    again = relabel(turned, component_dims=("state", "next_state"))["posterior"]["gamma"]
    assert again.dims == ("next_state", "state", "draw", "chain")
    expected = aligned["posterior"]["gamma"].transpose(*again.dims).values
    np.testing.assert_allclose(np.sort(again.values, axis=None), np.sort(expected, axis=None))


def test_families_are_renamed_apart():
    """A product of groups: rows by one family, columns by another, of one table and of vectors of their own."""
    rows, columns = random_perms(3, 3), random_perms(2, 4)
    table = around([[0.0, 5.0], [10.0, 15.0], [20.0, 25.0]])
    a, b = around([1.0, 2.0, 3.0]), around([-4.0, 4.0])
    tree = az.from_dict(
        {
            "posterior": {
                "table": permuted(columns, permuted(rows, table, 0), 1),
                "a": permuted(rows, a, 0),
                "b": permuted(columns, b, 0),
            }
        },
        dims={"table": ["row", "column"], "a": ["row"], "b": ["column"]},
    )
    aligned = relabel(tree, component_dims=["row", "column"])["posterior"]
    np.testing.assert_allclose(np.sort(aligned["a"].values.mean((0, 1))), [1.0, 2.0, 3.0], atol=0.05)
    assert aligned["table"].values.std(axis=(0, 1)).max() < 0.1
    report = diagnose(tree, component_dims=["row", "column"])
    assert [axis.variables for axis in report.axes] == [("table", "a"), ("table", "b")]
    assert report.state is LabelState.WITHIN_CHAINS and report.r_hat_after < 1.1
    assert "table sorted as a whole, least" in report.invariants.index
    by_name = compare_methods(tree, component_dims=["row", "column"], axis="column")
    assert by_name.latent == "column" and by_name.permutations["parameters"].shape == (CHAINS, DRAWS, 2)


def test_a_latent_group_that_fits_is_used_and_permuted():
    fit, tree = fakes.case(3, n=60, gap=9.0, draws=DRAWS, chains=CHAINS)
    switched = fakes.switch(tree, random_perms(3, 5), fit.plan)
    aligned = relabel(switched, component_dims="component")
    expected = relabel(switched, model=fit.plan)
    for name in ("mu", "sigma", "weights"):
        np.testing.assert_allclose(aligned["posterior"][name].values, expected["posterior"][name].values)
    np.testing.assert_allclose(
        aligned["latent"]["component_of_row"].values, expected["latent"]["component_of_row"].values
    )
    # without a model what follows from parameters is only known to be permuted where it has the dim
    np.testing.assert_allclose(aligned["posterior"]["odds"].values, expected["posterior"]["odds"].values)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"component_dims": "rabbit"}, "no dim rabbit"),
        ({"component_dims": {"nu": 0}}, "no nu; they hold"),
        ({"component_dims": {"mu": 4}}, "mu has no axis 4"),
        ({"component_dims": {"mu": "dim"}}, "mu has no axis 'dim'"),
        ({"component_dims": {"mu": 0, "loads": 1}}, "mu axis 0: 3, loads axis 1: 2"),
        ({"component_dims": [{"mu": 0}, {"mu": 0, "loads": 0}]}, "axis 0 of mu is named for two families"),
        ({"component_dims": NAMED, "responsibilities": "mu"}, "its last axis should be"),
        ({"component_dims": NAMED, "responsibilities": "q"}, "no q, neither"),
        ({"component_dims": NAMED, "allocations": "common"}, "no labels of 3 components"),
        ({"component_dims": NAMED, "allocations": ["z", "z"]}, "2 names for 1 families"),
        ({"component_dims": NAMED, "method": "SJW"}, 'method="SJW" needs'),
        ({"component_dims": NAMED, "method": "ordering", "by": "loads"}, 'by="loads[1]"'),
        ({"component_dims": NAMED, "to": (7, 0)}, "no draw 0 of chain 7"),
        ({"component_dims": NAMED, "permutations": np.zeros((2, 3), dtype=int)}, "180 draws of 3 components"),
        ({"component_dims": NAMED, "model": 1}, "cannot be named beside it"),
        ({"allocations": "z"}, "go with component_dims="),
        ({}, 'component_dims="component"'),
    ],
)
def test_wrong_names_are_said(stan, options, words):
    with pytest.raises(InvalidArgumentError) as caught:
        relabel(stan[0], **options)
    assert words in str(caught.value)


def test_labels_that_could_count_from_either_end_are_refused(stan):
    tree, _, _ = stan
    doubtful = tree.copy()
    values = tree["posterior"].to_dataset()
    doubtful["posterior"] = xr.DataTree(values.assign(z=values["z"].clip(1, 2)))
    with pytest.raises(InvalidArgumentError, match="from 0 or from 1 cannot be told"):
        relabel(doubtful, component_dims=NAMED, allocations="z")


def test_permutations_of_ones_own_are_applied(stan):
    tree, true, perms = stan
    aligned = relabel(tree, component_dims=NAMED, permutations=inverse(perms))
    np.testing.assert_allclose(aligned["posterior"]["mu"].values, true["mu"])
    assert aligned.attrs["relabel_method"] == "permutations"
