"""Whatever PyMC takes for a name or a label ends in a file that can be read again, or is refused before the work."""

import numpy as np
import pandas as pd
import pymc as pm
import pytest
import xarray as xr

import emppl
from emppl.errors import UnsupportedModelError
from emppl.structure.naming import labels_of

Y = np.r_[np.linspace(-4, -2, 6), np.linspace(2, 4, 6)]


def build(labels=("a", "b"), dim="k", name="mu", rows=None) -> pm.Model:
    with pm.Model(coords={dim: labels, "row": range(12) if rows is None else rows}) as model:
        mu = pm.Normal(name, [-1.0, 1.0], 10.0, dims=dim)
        pm.Normal("y", mu[pm.Bernoulli("z", 0.4, dims="row")], 1.0, observed=Y)
    return model


@pytest.mark.parametrize(
    "labels, shown",
    [
        ([("a", 1), ("b", 2)], ["a, 1", "b, 2"]),
        ([("a", 1), "b"], ["a, 1", "b"]),
        ([("a", (1, 2)), ("b", 2, 3)], ["a, 1, 2", "b, 2, 3"]),
        (pd.MultiIndex.from_tuples([("a", 1), ("b", 2)]), ["a, 1", "b, 2"]),
        ([1 + 1j, 2], ["(1+1j)", "2"]),
        (np.array([0.5, 1.5], dtype=np.longdouble), ["0.5", "1.5"]),
        (["\ud800", "b"], ["\\ud800", "b"]),
        (["a\0b", "a"], ["a\\x00b", "a"]),
        (["a", "b"], ["a", "b"]),
        ([True, False], ["True", "False"]),
    ],
)
def test_labels_of_any_kind_are_kept_in_results_and_files(tmp_path, labels, shown):
    fit = emppl.fit(build(labels, rows=[(n, "r") for n in range(12)]), seed=1, starts=2)
    fit.save(tmp_path / "fit.nc")
    loaded = emppl.load(tmp_path / "fit.nc")
    for one in (fit, loaded):
        assert list(map(str, one.theta.k.values)) == shown
        assert list(one.summary()["index"]) == shown
        assert list(one.assign().row.values[:2]) == ["0, r", "1, r"]
        assert isinstance(one.to_datatree(), xr.DataTree) and all(label in str(one) for label in shown)
    np.testing.assert_array_equal(fit.theta.mu.values, loaded.theta.mu.values)


@pytest.mark.parametrize("labels", [["a", "b"], [1, "a"], [None, 2.0], pd.date_range("2020", periods=2), [2**70, 1]])
def test_labels_that_xarray_holds_stay_as_they_are(labels):
    np.testing.assert_array_equal(labels_of(labels), np.asarray(labels))


@pytest.mark.parametrize("wrong", [".", "..", "m\0u", "\ud800"])
def test_names_that_no_file_holds_are_refused(wrong):
    for options in ({"name": wrong}, {"dim": wrong}):
        with pytest.raises(UnsupportedModelError, match="cannot stand in a result"):
            emppl.plan(build(**options))


def test_a_dim_that_is_a_path_is_refused_and_one_that_is_not_used_is_not():
    with pytest.raises(UnsupportedModelError, match="'a/b'"):
        emppl.plan(build(dim="a/b"))
    model = build()
    model.add_coord("a/b", ["x"])
    assert "a/b" not in emppl.plan(model).structure.coords
