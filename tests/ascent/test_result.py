"""What a fit answers, under the model's own names, and that it survives the disk."""

import json
import os
import subprocess
import sys
import threading
import zipfile

import broken_files
import numpy as np
import pandas as pd
import pymc as pm
import pytest
import small_models
import xarray as xr
from scipy.stats import binom

import emppl
from emppl.ascent.result import _whole_dataset
from emppl.errors import InvalidArgumentError, InvalidDataError, SavedFitError, UnsupportedModelError
from emppl.models import coins, gaussian_mixture


@pytest.fixture(scope="module")
def fit():
    return emppl.fit(coins.build(weights="free"), starts=4, seed=0)


@pytest.fixture(scope="module")
def faithful():
    return emppl.fit(gaussian_mixture.build(), starts=3, seed=0)


def test_parts_of_the_objective(fit):
    assert fit.log_posterior == pytest.approx(fit.log_likelihood + fit.log_prior, abs=1e-12)
    assert fit.log_posterior == fit.plan.log_posterior(fit.point)
    assert fit.plan.estimate == "map" and fit.seed == 0 and fit.seconds > 0


def test_names_dims_and_coords(fit, faithful):
    assert fit.theta["bias"].dims == ("coin",) and list(fit.theta["coin"].values) == ["A", "B"]
    r = fit.responsibilities()["coin_of_set"]
    assert r.dims == ("set", "coin_of_set_value") and list(r["coin_of_set_value"].values) == [0, 1]
    np.testing.assert_allclose(r.sum("coin_of_set_value"), 1.0)
    np.testing.assert_array_equal(fit.assign()["coin_of_set"], r.argmax("coin_of_set_value"))
    assert faithful.theta["mu"].dims == ("component", "feature")
    assert faithful.theta["cov"].dims == ("component", "feature", "feature_bis")  # a deterministic, as in the model
    assert set(faithful.point) == set(faithful.plan.structure.parameter_names)
    assert "component_of_row" in faithful.responsibilities()


LABELS = {
    "whole": np.array([3, 1]), "text": np.array(["a", "bb"]), "numbers": np.array([0.5, 2.0]),
    "single": np.float32([1, 2]), "truth": np.array([True, False]),
    "mixed": np.array(["a", 1], dtype=object), "bytes": np.array([b"a", b"b"]),
    "days": np.array(["2020-01-01", "2020-01-02"], dtype="M8[D]"),
}  # fmt: skip


@pytest.mark.parametrize("kind", LABELS)
def test_datasets_are_what_xarray_makes_of_the_same(kind):
    labels, values = LABELS[kind], np.arange(4.0).reshape(2, 2)
    found = _whole_dataset({"a": (("row", "it"), values), "b": ((), values[0, 0])}, {"row": labels})
    expected = xr.Dataset({"a": (("row", "it"), values), "b": ((), 0.0)}, coords={"row": labels})
    assert found.identical(expected)
    assert found["row"].dtype == expected["row"].dtype and found.indexes["row"].dtype == expected.indexes["row"].dtype
    assert found["a"].sel(row=labels[1]).values.tolist() == [2.0, 3.0]


def test_a_whole_call_imports_nothing():
    """Neither dask nor scipy's search of graphs, say: they would take as long as all the rest of a small fit."""
    code = "import sys, emppl\nfrom emppl.models import coins\nmodel, before = coins.build(), set(sys.modules)\n"
    code += "emppl.fit(emppl.plan(model), seed=0).theta['bias'].values\nprint(sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_summary_has_a_row_a_number(faithful):
    table = faithful.summary()
    assert list(table.columns) == ["parameter", "index", "estimate", "standard_error", "low", "high"]
    assert len(table) == sum(values.size for values in faithful.theta.values())
    row = table[(table["parameter"] == "mu") & (table["index"] == "0, eruptions")].iloc[0]
    assert row["estimate"] == float(faithful.theta["mu"].sel(component=0, feature="eruptions"))
    free = table[table["parameter"] == "mu"]
    middle = (free["low"] + free["high"]) / 2
    np.testing.assert_allclose(middle, free["estimate"], rtol=1e-9)
    np.testing.assert_allclose((free["high"] - free["low"]) / 2, 1.959964 * free["standard_error"], rtol=1e-6)
    narrow = faithful.summary(level=0.5)
    assert (narrow["high"] - narrow["low"])[3] < (table["high"] - table["low"])[3]


def test_intervals_stay_in_the_domain(fit):
    table = fit.summary()
    assert (table["low"] >= 0).all() and (table["high"] <= 1).all()


def test_intervals_of_bounded_parameters(tmp_path):
    """Between two bounds on the logit of the way between them, above one on the log of what is above it."""
    y = np.linspace(0.2, 1.5, 8)  # around 0.85
    with pm.Model() as model:
        level = pm.Uniform("level", -1.0, 1.0)
        spread = pm.TruncatedNormal("spread", 0.5, 1.0, lower=0.2)
        pm.Normal("y", level, spread, observed=y)
    fit = emppl.fit(model, starts=2, seed=0)
    table = fit.summary().set_index("parameter")
    u, sd = fit.information.u, np.sqrt(np.diag(fit.information.covariance))
    ends = [fit.plan.structure.coordinates.constrain(u + sign * 1.959964 * sd) for sign in (-1, 1)]
    for name in ("level", "spread"):
        np.testing.assert_allclose(table.loc[name, ["low", "high"]].astype(float), [e[name] for e in ends], rtol=1e-4)
    plain = table["estimate"] + 1.959964 * table["standard_error"]
    assert plain["level"] > 1.0 > table.loc["level", "high"]
    fit.save(tmp_path / "fit.nc")
    pd.testing.assert_frame_equal(emppl.load(tmp_path / "fit.nc").summary(), fit.summary())


def test_it_prints(fit):
    assert "log posterior" in repr(fit) and "CONVERGED" in repr(fit)
    text = str(fit)
    assert "certificate: 5 of 5 hold" in text and "reached by 4 of 4 starts" in text and "bias" in text


def test_laplace_draws_are_an_arviz_tree(fit):
    tree = fit.to_datatree(draws=50)
    assert dict(tree["posterior"].sizes) == {"chain": 1, "draw": 50, "coin": 2}
    assert tree["posterior"].attrs["inference_library"] == "emppl"
    assert set(tree.children) >= {"posterior", "point_estimate", "latent"}
    again = fit.to_datatree(draws=50)
    np.testing.assert_array_equal(tree["posterior"]["bias"], again["posterior"]["bias"])


# -- new members -------------------------------------------------------------------------------------------------------


def test_new_members_are_judged_as_if_the_model_had_been_built_on_them(fit):
    new = {"heads": np.array([0, 3, 7, 12, 9, 10]), "heads.n": np.array([5, 5, 10, 12, 10, 20])}
    model = coins.build({"heads": new["heads"], "tosses": new["heads.n"]}, weights="free")
    built = emppl.plan(model)
    np.testing.assert_allclose(
        fit.predict(new)["coin_of_set"], built.responsibilities(fit.point)["coin_of_set"], atol=1e-12
    )
    assert fit.score(new) == pytest.approx(built.log_likelihood(fit.point), rel=1e-12)


def test_new_vectors(faithful):
    rows = pd.DataFrame({"eruptions": [2.0, 4.5, 3.0], "waiting": [50.0, 80.0, 65.0]})
    predicted = faithful.predict({"y": rows.to_numpy()})["component_of_row"]
    assert predicted.dims == ("member", "component_of_row_value")
    old = faithful.predict({"y": np.asarray(faithful.plan.structure.node("y").value.data)})
    np.testing.assert_allclose(old["component_of_row"], faithful.responsibilities()["component_of_row"], atol=1e-12)
    assert faithful.score({"y": np.asarray(faithful.plan.structure.node("y").value.data)}) == pytest.approx(
        faithful.log_likelihood, rel=1e-12
    )


def test_density_sums_to_that_of_the_data_at_any_parameters(fit, faithful):
    y = np.asarray(faithful.plan.structure.node("y").value.data)
    joint = faithful.density({"y": y})["component_of_row"]
    assert float(np.log(joint.sum("component_of_row_value")).sum()) == pytest.approx(faithful.log_likelihood, rel=1e-12)
    np.testing.assert_allclose(
        joint / joint.sum("component_of_row_value"), faithful.responsibilities().component_of_row
    )
    new, theta = (
        {"heads": np.arange(11), "heads.n": np.full(11, 10)},
        {"bias": np.array([0.2, 0.9]), "weights": np.array([0.3, 0.7])},
    )
    expected = binom.pmf(np.arange(11)[:, None], 10, theta["bias"]) * theta["weights"]
    np.testing.assert_allclose(fit.density(new, theta)["coin_of_set"], expected, rtol=1e-10)


def test_two_observed_variables():
    case = small_models.model("several_observed")
    fit = emppl.fit(case.model, starts=2, seed=0)
    data = {"height": np.array([0.3, -2.0]), "answer": np.array([1, 0])}
    with pm.Model() as model:
        mu = pm.Normal("mu", 0.0, 5.0, shape=2)
        p = pm.Beta("p", 1.0, 1.0, shape=2)
        z = pm.Categorical("z", p=np.array([0.3, 0.7]), shape=2)
        pm.Normal("height", mu[z], 1.0, observed=data["height"])
        pm.Bernoulli("answer", p=p[z], observed=data["answer"])
    built = emppl.plan(model)
    np.testing.assert_allclose(fit.predict(data)["z"], built.responsibilities(fit.point)["z"], atol=1e-12)
    with pytest.raises(InvalidArgumentError, match="answer"):
        fit.predict({"height": data["height"]})


def test_bad_new_members(fit, faithful):
    with pytest.raises(InvalidDataError) as caught:  # the bad row lies beyond the rows of the fit
        fit.predict({"heads": np.r_[np.full(9, 3), 21], "heads.n": np.full(10, 20)})
    assert "heads[9] = 21" in str(caught.value) and "Binomial" in str(caught.value)
    with pytest.raises(InvalidDataError, match="y"):
        faithful.predict({"y": np.zeros((3, 5))})
    with pytest.raises(InvalidDataError, match=r"y\[300\]"):
        faithful.predict({"y": np.r_[np.ones((300, 2)), [[np.nan, 1.0]]]})
    with pytest.raises(InvalidArgumentError, match="y"):
        faithful.predict({"x": np.zeros((3, 2))})
    varying = emppl.fit(coins.build({"heads": [1, 2, 3], "tosses": [4, 5, 6]}), starts=1, seed=0)
    with pytest.raises(InvalidArgumentError, match=r"heads\.n"):
        varying.predict({"heads": np.array([1])})
    graph = emppl.fit(small_models.model("heavy_tails").model, starts=1, seed=0)
    with pytest.raises(UnsupportedModelError) as caught:
        graph.predict({"y": np.zeros(2)})
    assert any("responsibilities" in way for way in caught.value.remedies)


# -- disk --------------------------------------------------------------------------------------------------------------


def test_there_and_back(fit, tmp_path):
    path = fit.save(tmp_path / "deep" / "fit.nc")
    assert [p.name for p in path.parent.iterdir()] == ["fit.nc"]  # nothing half written beside it
    loaded = emppl.load(path)
    xr.testing.assert_identical(loaded.theta.drop_attrs(), fit.theta.drop_attrs())
    for name in ("log_likelihood", "log_prior", "log_posterior", "status", "n_iter", "n_passes", "seed", "seconds"):
        assert getattr(loaded, name) == getattr(fit, name)
    xr.testing.assert_allclose(loaded.trace, fit.trace)
    pd.testing.assert_frame_equal(loaded.starts, fit.starts, rtol=1e-14)
    pd.testing.assert_frame_equal(loaded.summary(), fit.summary())
    xr.testing.assert_allclose(loaded.responsibilities(), fit.responsibilities())
    xr.testing.assert_equal(loaded.assign(), fit.assign())
    assert str(loaded.certificate) == str(fit.certificate) and str(loaded.plan) == str(fit.plan)
    assert str(loaded) == str(fit)
    for one, two in zip(loaded.traces, fit.traces):
        np.testing.assert_array_equal(one, two)
    xr.testing.assert_allclose(
        loaded.to_datatree(20)["posterior"].to_dataset(), fit.to_datatree(20)["posterior"].to_dataset()
    )


def test_a_loaded_fit_is_a_start(fit, tmp_path):
    loaded = emppl.load(fit.save(tmp_path / "fit.nc"))
    again = emppl.fit(coins.build(weights="free"), start=loaded, starts=0)
    assert again.log_posterior >= fit.log_posterior - 1e-12
    with pytest.raises(SavedFitError) as caught:
        loaded.predict({"heads": np.array([1])})
    assert "start=loaded" in str(caught.value)


def test_saving_again_replaces_the_file(fit, tmp_path):
    path = tmp_path / "fit.nc"
    path.write_text("what was there before")
    fit.save(path)
    assert emppl.load(path).log_posterior == fit.log_posterior
    emppl.load(path).save(tmp_path / "copy.nc")
    assert emppl.load(tmp_path / "copy.nc").log_posterior == fit.log_posterior


@pytest.mark.parametrize("seed", [None, np.int64(3)])
def test_any_seed_is_saved(tmp_path, seed):
    case = small_models.model("coins")
    fit = emppl.fit(case.model, starts=1, seed=seed)
    assert emppl.load(fit.save(tmp_path / "fit.nc")).seed == seed


def test_a_fit_without_latents_is_saved(tmp_path):
    fit = emppl.fit(coins.build(labels="known"), seed=0)
    loaded = emppl.load(fit.save(tmp_path / "fit.nc"))
    assert len(loaded.responsibilities()) == 0
    np.testing.assert_array_equal(loaded.theta["bias"], fit.theta["bias"])


def garbage(folder, kind: str):
    path = folder / "file.nc"
    if kind == "text":
        path.write_text("not a fit")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "another netCDF":
        xr.Dataset({"x": ("a", [1.0, 2.0])}).to_netcdf(path, engine="h5netcdf")
    elif kind == "netCDF 3":
        xr.Dataset({"x": ("a", [1.0, 2.0])}).to_netcdf(path, engine="scipy")
    elif kind == "zip":
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("a", "b")
    elif kind == "without a checksum":
        xr.Dataset(attrs={"emppl": json.dumps({"format": 1, "emppl": "0.1.0"})}).to_netcdf(path, engine="h5netcdf")
    elif kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "link to itself":
        path.symlink_to(path)
    elif kind == "terabyte":
        with path.open("wb") as file:
            file.truncate(2**40)
    return path


KINDS = (
    "text", "empty", "another netCDF", "netCDF 3", "zip", "without a checksum", "folder", "pipe", "device",
    "link to itself", "terabyte", "missing",
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_saved_fit(tmp_path, kind):
    with pytest.raises(SavedFitError) as caught:
        emppl.load(garbage(tmp_path, kind))
    assert "file.nc" in str(caught.value)


@pytest.mark.parametrize("name", ["", "nul\0.nc", "x" * 5000])
def test_a_name_that_no_file_has(name):
    with pytest.raises(SavedFitError):
        emppl.load(name)


def test_what_may_not_be_read(fit, tmp_path, monkeypatch):
    path = fit.save(tmp_path / "fit.nc")

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)  # for root every file can be read
    with pytest.raises(SavedFitError, match="Permission denied"):
        emppl.load(path)


@pytest.mark.parametrize(
    "cases",
    [
        lambda good: broken_files.damaged(good, 1, 200),
        lambda good: broken_files.headed(good, 4),
        broken_files.rebuilt,
    ],
)
def test_every_broken_file_is_refused(fit, tmp_path, cases):
    path = tmp_path / "fit.nc"
    good = fit.save(path).read_bytes()
    path.write_bytes(broken_files.changed(good, lambda file: None))
    assert emppl.load(path).log_posterior == fit.log_posterior  # what is changed is what breaks it
    wrong = []
    for what, content in cases(good):
        path.write_bytes(content)
        said, _ = broken_files.answer(path)
        if said != "SavedFitError":
            wrong.append((what, said))
    assert wrong == []


def test_a_later_format_says_what_to_do(fit, tmp_path):
    path = tmp_path / "fit.nc"
    good = fit.save(path).read_bytes()
    head = json.dumps({"format": 99, "emppl": "9.9"})
    path.write_bytes(broken_files.changed(good, lambda file: file.attrs.__setitem__("emppl", head)))
    with pytest.raises(SavedFitError, match="update emppl"):
        emppl.load(path)


def test_a_saved_fit_is_netcdf(fit, tmp_path):
    """The checksum behind it disturbs no reader."""
    with xr.open_datatree(fit.save(tmp_path / "fit.nc")) as tree:
        np.testing.assert_array_equal(tree["theta"]["bias"], fit.theta["bias"])


def test_threads_and_processes_save_and_load_one_name(fit, tmp_path):
    path, errors = fit.save(tmp_path / "fit.nc"), []
    other = emppl.load(path)

    def work(one):
        try:
            for _ in range(3):
                one.save(path)
                assert emppl.load(path).log_posterior == fit.log_posterior
        except BaseException as error:
            errors.append(error)

    code = "import emppl, sys\nfit = emppl.load(sys.argv[1])\nfor _ in range(4): fit.save(sys.argv[1])"
    process = subprocess.Popen([sys.executable, "-c", code, path], stderr=subprocess.PIPE, text=True)
    threads = [threading.Thread(target=work, args=(one,)) for one in (fit, other, fit, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert process.communicate()[1] == "" and process.returncode == 0
    assert errors == [] and emppl.load(path).log_posterior == fit.log_posterior
    assert [p.name for p in tmp_path.iterdir()] == ["fit.nc"]


def test_loading_executes_nothing(fit, tmp_path):
    """Numbers and text alone: no pickle, no object arrays."""
    tree = xr.open_datatree(fit.save(tmp_path / "fit.nc"), engine="h5netcdf")
    for group in tree.subtree:
        for variable in (*group.data_vars.values(), *group.coords.values()):
            assert variable.dtype.kind in "iufbUS" or all(isinstance(v, str) for v in variable.values.ravel())
    tree.close()
