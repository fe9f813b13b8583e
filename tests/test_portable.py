"""Results travel: by pickle, by cloudpickle, to another process, and what comes out answers as what went in."""

import copy
import pickle
import subprocess
import sys

import cloudpickle
import numpy as np
import pandas as pd
import pytest
import small_models
import xarray as xr

import emppl
from emppl.models import coins
from emppl.structure.initial import initial_point

WAYS = {
    "pickle": lambda thing: pickle.loads(pickle.dumps(thing)),
    "cloudpickle": lambda thing: cloudpickle.loads(cloudpickle.dumps(thing)),
    "deepcopy": copy.deepcopy,
}
# a closed form, tables, a graph, an ordered vector, a nested latent, a regression
NAMES = ("coins", "ordered_means", "two_binary_latents", "change_point", "lines", "hidden_count")


@pytest.fixture(scope="module")
def fit():
    return emppl.fit(coins.build(weights="free"), starts=3, seed=0)


@pytest.fixture(scope="module")
def comparison(fit):
    rng = np.random.default_rng(0)
    point = {name: values + 0.01 * rng.normal(size=(2, 50, *values.shape)) for name, values in fit.point.items()}
    point["weights"] /= point["weights"].sum(axis=-1, keepdims=True)
    draws = xr.DataTree.from_dict(
        {"posterior": xr.Dataset({k: (("chain", "draw", *fit.theta[k].dims), v) for k, v in point.items()})}
    )
    return emppl.compare(fit, draws, ascents=0)


@pytest.mark.parametrize("name", NAMES)
def test_a_plan_answers_the_same_to_the_last_digit(name):
    case = small_models.model(name)
    plan = emppl.plan(case.model, **case.options)
    again = pickle.loads(pickle.dumps(plan))
    theta = initial_point(plan.structure, draw=True)
    assert again.log_posterior(theta) == plan.log_posterior(theta) and str(again) == str(plan)
    one, two = (p.m_step(theta, p.e_step(theta)) for p in (plan, again))
    for parameter in one:
        np.testing.assert_array_equal(one[parameter], two[parameter])
    u = plan.structure.coordinates.unconstrain(theta)
    np.testing.assert_array_equal(again.gradient(u)[1], plan.gradient(u)[1])


@pytest.mark.parametrize("way", WAYS)
def test_a_fit_answers_as_before(fit, way):
    again = WAYS[way](fit)
    assert str(again) == str(fit) and again.plan is not fit.plan
    xr.testing.assert_identical(again.standard_errors(), fit.standard_errors())
    xr.testing.assert_identical(again.responsibilities(), fit.responsibilities())
    data = {"heads": np.array([3]), "heads.n": np.array([10])}
    assert again.score(data) == fit.score(data)
    refitted = emppl.fit(again.plan, starts=3, seed=0)
    assert refitted.log_posterior == fit.log_posterior


def test_a_comparison_answers_as_before(comparison, tmp_path):
    again = pickle.loads(pickle.dumps(comparison))
    assert str(again) == str(comparison) and again.fit is again.fits["EM"]
    pd.testing.assert_frame_equal(again.table, comparison.table)
    pages = [c.to_markdown(tmp_path / f"{i}.md").read_text() for i, c in enumerate((comparison, again))]
    assert pages[0] == pages[1]
    assert str(pickle.loads(pickle.dumps(comparison.switching))) == str(comparison.switching)


def test_a_loaded_fit_travels(fit, tmp_path):
    loaded = emppl.load(fit.save(tmp_path / "fit.nc"))
    assert str(pickle.loads(pickle.dumps(loaded))) == str(fit)


def test_a_fit_and_a_structure_are_used_in_another_process(fit, tmp_path):
    """One that has imported nothing yet; and the fit still has its model, which can be fitted again."""
    path = tmp_path / "fit.pickle"
    path.write_bytes(pickle.dumps((fit, emppl.analyse(fit.plan.structure.model))))
    code = (
        "import pickle, sys\nfit, structure = pickle.load(open(sys.argv[1], 'rb'))\nimport emppl\n"
        "print(fit.standard_errors()['bias'].values[0], emppl.fit(structure, starts=3, seed=0).log_posterior)"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    error, height = map(float, done.stdout.split())
    assert error == fit.standard_errors()["bias"].values[0] and height == fit.log_posterior


CUSTOM = """
import pickle, sys
import numpy as np, pymc as pm
import emppl

def logp(value, mu):
    return -0.5 * (value - mu) ** 2

with pm.Model() as model:
    mu = pm.Normal("mu", 0.0, 5.0, shape=2)
    z = pm.Categorical("z", p=np.array([0.4, 0.6]), shape=6)
    pm.CustomDist("y", mu[z], logp=logp, observed=np.array([-2.0, -2.1, -1.8, 2.0, 2.2, 1.9]))
fit = emppl.fit(model, starts=2, seed=0)
pickle.dump((fit, fit.log_posterior), open(sys.argv[1], "wb"))
"""


def test_a_distribution_of_the_user_travels_with_its_density(tmp_path):
    """PyMC looks it up by a class that is made when the model is, in a table of the process."""
    path = tmp_path / "fit.pickle"
    subprocess.run([sys.executable, "-c", CUSTOM, path], check=True)
    fit, height = pickle.loads(path.read_bytes())
    assert emppl.fit(fit.plan, starts=2, seed=0).log_posterior == height
    assert emppl.fit(fit.plan.structure.model, starts=2, seed=0).log_posterior == height


def test_a_shallow_copy_keeps_the_plan(fit):
    assert copy.copy(fit).plan is fit.plan
