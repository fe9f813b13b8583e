"""Methods that evaluate the model: on draws of the galaxies' velocities whose relabelling is known."""

import arviz as az
import numpy as np
import pymc as pm
import pytest
from labels.test_methods import Draws

import emppl
from emppl.labels import relabel
from emppl.labels.draws import at, theta_draws
from emppl.labels.subject import components_of, material, pivots_of

NAMES = ("mu", "variance", "weight")


@pytest.fixture(scope="module")
def galaxies():
    draws = Draws("galaxies_k3")
    with pm.Model(coords={"component": range(3), "galaxy": range(82)}) as model:
        weight = pm.Dirichlet("weight", np.ones(3), dims="component")
        mu = pm.Normal("mu", np.float64(20.0), np.float64(20.0), dims="component")
        variance = pm.InverseGamma("variance", np.float64(2.0), np.float64(2.0), dims="component")
        z = pm.Categorical("z", p=weight, dims="galaxy")
        pm.Normal("y", mu[z], pm.math.sqrt(variance)[z], observed=draws.y, dims="galaxy")
    posterior = {name: draws.theta[:, :, i].reshape(3, 100, 3) for i, name in enumerate(NAMES)}
    tree = az.from_dict(
        {"posterior": posterior, "observed_data": {"y": draws.y}},
        dims={**{name: ["component"] for name in NAMES}, "y": ["galaxy"]},
    )
    return draws, emppl.plan(model), tree


def point(draws):
    return {name: draws.theta[draws.best, :, i] for i, name in enumerate(NAMES)}


def test_the_model_gives_what_methods_read(galaxies):
    draws, plan, tree = galaxies
    (axis,) = plan.axes
    theta = theta_draws(tree, plan)
    at_best = point(draws)
    matter = material(tree, plan, axis, at_best, theta, pivots_of(tree, plan, at_best, theta), ((0, 1, 2),))
    np.testing.assert_allclose(np.concatenate([p for _, p in matter.chunks()]), draws.p, atol=1e-12)
    np.testing.assert_array_equal(matter.data, draws.y[:, None])
    values, columns = components_of(axis, theta, plan)
    order = [columns.index(name) for name in NAMES]
    np.testing.assert_array_equal(values[:, :, order], draws.theta)
    own = np.empty((3, 3))
    own[:, order] = draws.theta[7]
    np.testing.assert_allclose(matter.log_joint(own), draws.log_joint(draws.theta[7]), rtol=1e-10)
    found = np.concatenate([f for _, f in matter.densities()])
    expected = np.exp(draws.log_joint(draws.theta[9]))
    np.testing.assert_allclose(found[9] / found[9].sum(axis=0), expected / expected.sum(axis=0), rtol=1e-9, atol=1e-300)
    assert at(theta, 7)["mu"].shape == (3,)


def test_methods_that_evaluate_the_model_undo_the_known_relabelling(galaxies):
    draws, plan, tree = galaxies
    applied = draws.stored["applied_perm"].astype(int)
    found = emppl.compare_methods(tree, point(draws), ("ascent", "SJW", "densities", "DATA-BASED", "ECR"), plan)
    for name, perms in found.permutations.items():
        product = np.take_along_axis(applied, perms.reshape(-1, 3), axis=1)
        assert (product == product[0]).all(), name
    assert found.table.loc["ascent", "note"].startswith("1 mode up to names")
    by_mode = relabel(tree, point(draws), "ascent", plan)["posterior"]["mu"]
    assert list(by_mode.values.mean(axis=(0, 1)).argsort()) == list(
        point(draws)["mu"].argsort()
    )  # the reference's names
    ordered = relabel(tree, point(draws), "ordering", plan, by="mu")["posterior"]["mu"]
    assert (np.diff(ordered.values, axis=-1) > 0).all()


def test_labels_of_the_mode_that_is_climbed_to(galaxies):
    """One mode up to names: every draw takes its names, and they are those of the reference."""
    draws, plan, tree = galaxies
    few = tree.isel(draw=slice(0, 8))
    aligned = relabel(few, point(draws), "ascent", plan)
    applied = draws.stored["applied_perm"].astype(int).reshape(3, 100, 3)[:, :8]
    product = np.take_along_axis(applied, aligned["relabelling"]["z"].values, axis=-1)
    assert (product == product[0, 0]).all()
    means = aligned["posterior"]["mu"].values.mean(axis=(0, 1))
    assert list(means.argsort()) == list(point(draws)["mu"].argsort())
