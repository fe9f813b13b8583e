"""What the shipped models ask of the columns of their data."""

import importlib

import numpy as np
import pandas as pd
import pytest

from emppl.modelfile import shipped_models
from emppl.models import _columns as columns

TABLE = {"x": [1, 2.5, 4], "hole": np.ma.masked_equal([1.0, -1.0, 2.0], -1.0), "flat": [3, 3, 3], "word": [*"abc"]}


def test_columns_are_read():
    np.testing.assert_array_equal(columns.column(pd.DataFrame({"x": TABLE["x"]}), "x"), [1.0, 2.5, 4.0])
    np.testing.assert_array_equal(columns.design(TABLE, ["x"], 3), [[1, 1.0], [1, 2.5], [1, 4.0]])
    assert columns.names_of("a, b,") == columns.names_of(["a", "b"]) == ["a", "b"]
    np.testing.assert_array_equal(columns.are_counts(np.array([0, 2, -1, 0.5, np.nan])), [1, 1, 0, 0, 0])


def test_words_among_numbers_are_told():
    table = {"x": ["1", "2.5", "n/a", 4], "word": [*"abcd"]}
    with pytest.warns(UserWarning, match="'x' \\(row 2 holds 'n/a' among numbers\\), 'word'") as told:
        columns.warn_of_words(table, ["x", "word"], "are left out")
        columns.warn_of_words(table, ["word"], "are taken as words", among_numbers=True)
    assert len(told) == 1


@pytest.mark.parametrize("name", shipped_models())
def test_what_is_no_table_is_refused_by_every_model(name):
    build = importlib.import_module(f"emppl.models.{name}").build
    for thing in ([1.0, 2.0], "faithful", pd.Series([1.0, 2.0]), np.ones((2, 1)), 3):
        with pytest.raises(ValueError, match="data must be a pandas DataFrame or a mapping"):
            build(thing)
    with pytest.raises(ValueError, match="two columns of the data are called 'a'"):
        build(pd.DataFrame(np.ones((3, 2)), columns=["a", "a"]))


@pytest.mark.parametrize("name", ["gaussian_mixture", "mixture_regression"])
def test_columns_that_are_left_out_are_named(name):
    rng = np.random.default_rng(0)
    data = pd.DataFrame({"y": rng.normal(size=20), "x": rng.normal(size=20), "day": [*"ab"] * 10})
    with pytest.warns(UserWarning, match="do not hold numbers are left out: 'day'"):
        importlib.import_module(f"emppl.models.{name}").build(data)


def test_a_coefficient_of_its_width_moves_the_predictor_by_the_spread():
    x = np.column_stack([np.ones(6), np.array([3.0, 1, 4, 1, 5, 9]), np.array([-2.0, 7, 1, 8, 2, 8])])
    widths = columns.widths(x, 2.5)
    np.testing.assert_allclose((x[:, 1:] * widths[1:]).std(axis=0), 2.5, rtol=1e-12)
    centred = np.column_stack([np.ones(6), x[:, 1:] - x[:, 1:].mean(axis=0)])
    assert columns.widths(centred, 2.5)[0] == pytest.approx(2.5) and widths[0] > 2.5


@pytest.mark.parametrize(
    ("ask", "error", "words"),
    [
        (lambda: columns.column(TABLE, "y"), KeyError, ["'y'", "rename yours"]),
        (lambda: columns.column(TABLE, "word"), ValueError, ["'word' must hold numbers"]),
        (lambda: columns.column(TABLE, "hole"), ValueError, ["'hole', row 1: nan", "dropna"]),
        (lambda: columns.column({"x": [[1, 2], [3, 4]]}, "x"), ValueError, ["shape (2, 2)"]),
        (lambda: columns.covariate(TABLE, "flat", 3), ValueError, ["'flat' is constant: 3"]),
        (lambda: columns.covariate(TABLE, "x", 4), ValueError, ["'x' has 3 rows"]),
        (lambda: columns.names_of("a,a"), ValueError, ["no column twice"]),
        (lambda: columns.beta_prior((0.0, 1.0)), ValueError, ["(a, b) of a Beta"]),
        (lambda: columns.beta_prior("flat"), ValueError, ["(a, b) of a Beta"]),
    ],
)
def test_what_is_wrong_is_named(ask, error, words):
    with pytest.raises(error) as caught:
        ask()
    assert [word for word in words if word not in str(caught.value.args[0])] == []


def test_the_helper_is_no_model():
    assert "columns" not in shipped_models() and "coins" in shipped_models()


HUGE = 4294967301  # PyMC would hold it as 5
COUNTED = {
    "poisson_mixture": {"y": [HUGE, 3, 4]},
    "coins": {"heads": [3, 4], "tosses": [HUGE, 10]},
    "change_point": {"y": [3, HUGE, 4, 5]},
    "latent_class": {"a": [0, 1, 1], "b": [1, 0, 1], "count": [2, HUGE, 4]},
    "multinomial_mixture": {"a": [3, HUGE, 1], "b": [1, 2, 4]},
    "mixture_regression": {"y": [3, HUGE, 4], "x": [0.1, 0.4, 2.0]},
    "zero_inflated": {"count": [0, HUGE, 4], "x": [0.1, 0.4, 2.0]},
    "occupancy": {"site": [1, 1, 2], "counted": [0, HUGE, 4]},
}
OPTIONS = {
    "mixture_regression": {"family": "poisson", "response": "y"},
    "zero_inflated": {"response": "count"},
    "occupancy": {"kind": "abundance"},
}


@pytest.mark.parametrize("model", COUNTED)
def test_counts_beyond_32_bits_are_refused(model: str):
    build = importlib.import_module(f"emppl.models.{model}").build
    with pytest.raises(ValueError, match=str(HUGE)):
        build(COUNTED[model], **OPTIONS.get(model, {}))
