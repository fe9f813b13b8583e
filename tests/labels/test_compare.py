"""Methods of relabelling side by side."""

import numpy as np
import pytest
from comparison import fakes
from labels.test_methods import Draws

import emppl
from emppl.errors import InvalidArgumentError
from emppl.labels import Material
from emppl.labels.compare import side_by_side
from emppl.labels.units import array_chunks


@pytest.fixture(scope="module")
def hard():
    """Galaxies with four components: methods disagree."""
    draws = Draws("galaxies_k4")
    matter = Material(
        300, 4, draws.p[draws.best], None, array_chunks(draws.p), draws.z, draws.theta, ("mean", "variance", "weight"),
        draws.stored["prapivot"], draws.best, draws.y[:, None], draws.log_joint,
    )  # fmt: skip
    return draws, side_by_side(matter, shape=(3, 100))


def test_objective_agreement_and_clusters_are_those_of_the_permutations(hard):
    draws, found = hard
    assert found.table.index[0] == "STEPHENS"
    assert found.table.loc["STEPHENS", "objective"] == pytest.approx(5030.326, abs=1e-3)
    assert found.table.loc["PRA", "objective"] == pytest.approx(8958.429, abs=1e-2)  # as R's permutations have
    assert found.table.loc["ordering", "objective"] == pytest.approx(8496.764, abs=1e-2)
    assert (found.table["objective"].diff().dropna() > -1e-6).all()
    for name, perms in found.permutations.items():
        assert perms.shape == (3, 100, 4)
        p = np.take_along_axis(np.clip(draws.p, 1e-6, 1), perms.reshape(300, 1, 4), axis=2)
        exact = float((p * np.log(p / p.mean(axis=0))).sum())
        assert found.table.loc[name, "objective"] == pytest.approx(exact, rel=1e-3)
        np.testing.assert_array_equal(found.best_clusters[name], p.mean(axis=0).argmax(axis=1))
        equal = (perms == found.permutations["STEPHENS"]).all(axis=2).mean()
        assert found.table.loc[name, "agree"] >= equal
    assert found.agreement.loc["PRA", "STEPHENS"] == found.table.loc["PRA", "agree"] < 0.8
    assert found.clustering.loc["ECR", "ECR"] == 1.0
    assert found.table["spread"].between(0, 1).all()
    assert set(found.skipped) == {"densities", "ascent"}


def test_it_prints_what_was_found(hard):
    _, found = hard
    text = str(found)
    assert 'method="auto" takes' in text and "not run: densities (needs the model's density" in text
    assert repr(found) == "MethodComparison(component: 10 methods, least objective by STEPHENS)"


def test_separate_components_leave_nothing_to_disagree_about():
    fit, tree = fakes.case(3, n=60, gap=9.0, draws=50, chains=2)
    perms = np.random.default_rng(0).permuted(np.tile(np.arange(3), (2, 50, 1)), axis=-1)
    found = emppl.compare_methods(fakes.switch(tree, perms, fit.plan), fit, by="mu")
    assert (found.table["agree"] == 1.0).all()
    assert found.table.index[0] == "responsibilities"  # of equals the first in the table of methods
    aligned = np.take_along_axis(perms, found.permutations["ECR"], axis=-1)
    assert (aligned == aligned[0, 0]).all()
    with pytest.raises(InvalidArgumentError, match='axis="component_of_row"'):
        emppl.compare_methods(tree, fit, axis="rabbit")
    with pytest.raises(InvalidArgumentError, match='"SJW" needs'):
        emppl.compare_methods(tree, fit, ["SJW"])
    rigid, draws = fakes.case(2, n=40, draws=30, chains=2, exchangeable=())
    with pytest.raises(InvalidArgumentError, match="nothing to relabel"):
        emppl.compare_methods(draws, rigid)
