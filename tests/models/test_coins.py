import importlib.util
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.special import logsumexp

from emppl.models import coins

DATA = Path(__file__).parents[1] / "data" / "coin_do_batzoglou"
REFERENCE = json.loads((DATA / "reference.json").read_text())
PAPER = pd.read_csv(DATA / "data.csv")


def marginal(heads, tosses, bias, weights, prior=(1.0, 1.0)):
    members = stats.binom.logpmf(np.asarray(heads)[:, None], np.asarray(tosses)[:, None], bias) + np.log(weights)
    return logsumexp(members, axis=1).sum() + stats.beta.logpdf(bias, *prior).sum()


@pytest.mark.parametrize("step", [0, 1, 5])
def test_example_equals_the_reference(log_marginal, step):
    at = REFERENCE["path"][step]
    density = log_marginal(coins.build(), "coin_of_set", 2)
    assert density({"bias": np.array([at["theta_A"], at["theta_B"]])}) == pytest.approx(at["loglik"], abs=1e-12)


def test_free_weights_and_prior(log_marginal):
    bias, weights = np.array([0.3, 0.55, 0.8]), np.array([0.5, 0.2, 0.3])
    data = {"heads": [2, 9, 0], "tosses": [10, 12, 3]}
    density = log_marginal(coins.build(data, k=3, weights="free", prior=(2.0, 3.5)), "coin_of_set", 3)
    expected = marginal(**data, bias=bias, weights=weights, prior=(2.0, 3.5)) + stats.dirichlet.logpdf(
        weights, np.ones(3)
    )
    assert density({"bias": bias, "weights": weights}) == pytest.approx(expected, rel=1e-12)


def test_given_weights(log_marginal):
    data, bias = {"heads": [2, 9], "tosses": 10}, np.array([0.3, 0.8])
    density = log_marginal(coins.build(data, weights=(0.9, 0.1)), "coin_of_set", 2)
    expected = marginal(data["heads"], [10, 10], bias, [0.9, 0.1])
    assert density({"bias": bias}) == pytest.approx(expected, rel=1e-12)


def test_known_labels_of_the_example(log_joint):
    model = coins.build(labels="known")
    assert [v.name for v in model.free_RVs] == ["bias"]
    density, bias = log_joint(model), np.array([0.8, 0.45])
    index = np.array([1, 0, 0, 1, 0])
    expected = stats.binom.logpmf(PAPER["heads"], PAPER["tosses"], bias[index]).sum() + 5 * np.log(0.5)
    assert density({"bias": bias}) == pytest.approx(expected, rel=1e-12)
    # the published estimate from complete data: 24 of 30 and 9 of 20
    assert all(density({"bias": bias}) > density({"bias": bias + step}) for step in ([0.01, 0.0], [0.0, -0.01]))


@pytest.mark.parametrize("column", [["B", "A", "A"], [1, 0, 0], [1.0, 0.0, 0.0]])
def test_known_labels_by_name_or_number(observed, column):
    model = coins.build({"heads": [1, 2, 3], "tosses": 4, "coin": column})
    assert model["coin_of_set"] in model.observed_RVs
    np.testing.assert_array_equal(observed(model, "coin_of_set"), [1, 0, 0])
    hidden = coins.build({"heads": [1, 2, 3], "tosses": 4, "coin": column}, labels="hidden")
    assert hidden["coin_of_set"] in hidden.free_RVs


def test_a_name_that_is_a_number_is_a_name(observed):
    model = coins.build({"heads": [1, 2], "tosses": 4, "coin": [2, 1]}, coins=["1", "2"])
    np.testing.assert_array_equal(observed(model, "coin_of_set"), [1, 0])


def test_dims_and_coords():
    model = coins.build(weights="free")
    assert model.named_vars_to_dims == {
        "bias": ("coin",),
        "weights": ("coin",),
        "coin_of_set": ("set",),
        "heads": ("set",),
    }
    assert model.coords == {"coin": ("A", "B"), "set": (1, 2, 3, 4, 5)}
    model = coins.build({"heads": [1, 2], "tosses": 4, "set": ["morning", "evening"]}, coins="fair, bent, new")
    assert model.coords == {"coin": ("fair", "bent", "new"), "set": ("morning", "evening")}


def test_one_coin_has_no_weight_to_estimate():
    model = coins.build(k=1, weights="free")
    assert {v.name for v in model.free_RVs} == {"bias", "coin_of_set"}


def test_the_file_stands_alone():
    spec = importlib.util.spec_from_file_location("my_coins", coins.__file__)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert len(module.build().coords["set"]) == 5


SETS = {"heads": [5, 9], "tosses": [10, 10]}


@pytest.mark.parametrize(
    ("data", "options", "error", "words"),
    [
        ({"heads": [1]}, {}, KeyError, ["'tosses'", "['heads']"]),
        ({"tosses": [1]}, {}, KeyError, ["'heads'"]),
        ({"heads": [5, 12], "tosses": [10, 10]}, {}, ValueError, ["heads[1] = 12", "tosses[1] = 10", "correct"]),
        ({"heads": [5, np.nan], "tosses": 10}, {}, ValueError, ["heads[1] = nan", "leave the set out"]),
        ({"heads": np.ma.masked_equal([5, 7], 7), "tosses": 10}, {}, ValueError, ["heads[1] = nan"]),
        ({"heads": [5, 2.5], "tosses": 10}, {}, ValueError, ["heads[1] = 2.5", "whole number"]),
        ({"heads": [5, -1], "tosses": 10}, {}, ValueError, ["heads[1] = -1"]),
        ({"heads": [5, 2], "tosses": [10, -3]}, {}, ValueError, ["tosses[1] = -3"]),
        ({"heads": ["five"], "tosses": 10}, {}, ValueError, ["heads", "numbers", "five"]),
        ({"heads": [5, 2], "tosses": [10]}, {}, ValueError, ["tosses has shape (1,)", "heads (2,)"]),
        ({"heads": [], "tosses": []}, {}, ValueError, ["heads has shape (0,)", "at least one set"]),
        ({**SETS, "set": ["a", "a"]}, {}, ValueError, ["set = ['a', 'a']", "different"]),
        ({**SETS, "coin": ["A", None]}, {}, ValueError, ["coin[1]", "labels='hidden'", "emppl.fit(model, labels="]),
        ({**SETS, "coin": np.ma.masked_equal([0, 1], 1)}, {}, ValueError, ["coin[1] is missing"]),
        ({**SETS, "coin": ["A", "C"]}, {}, ValueError, ["coin[1] = 'C'", "A, B", "coins=["]),
        ({**SETS, "coin": [0, 2]}, {}, ValueError, ["coin[1] = 2", "0 … 1"]),
        ({**SETS, "coin": ["A"]}, {}, ValueError, ["coin has shape (1,) for 2 sets"]),
        (SETS, {"labels": "known"}, KeyError, ["'coin'", "labels='known'"]),
        (SETS, {"labels": "some"}, ValueError, ["labels='some'", '"hidden"']),
        (SETS, {"weights": "equal"}, ValueError, ["weights='equal'", '"known"', '"free"']),
        (SETS, {"weights": (0.5, 0.6)}, ValueError, ["(0.5, 0.6)", "sum to 1"]),
        (SETS, {"weights": (1.0,)}, ValueError, ["2 probabilities"]),
        (SETS, {"prior": (0.0, 1.0)}, ValueError, ["prior=(0.0, 1.0)", "positive"]),
        (SETS, {"prior": 2.0}, ValueError, ["prior=2.0"]),
        (SETS, {"k": 0}, ValueError, ["k=0", "1 or more"]),
        (SETS, {"k": 2.5}, ValueError, ["k=2.5"]),
        (SETS, {"k": 3, "coins": ("A", "B")}, ValueError, ["k=3", "2 names"]),
        (SETS, {"coins": ("A", "A")}, ValueError, ["no two the same"]),
    ],
)
def test_bad_input_is_named(data, options, error, words):
    with pytest.raises(error) as caught:
        coins.build(data, **options)
    text = str(caught.value.args[0])
    assert [word for word in words if word not in text] == []
