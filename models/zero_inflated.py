"""Counts with more zeros than a Poisson has: some rows could never have been anything but zero; which ones is hidden.

    never_of_row[n]     ~ Bernoulli(zero_probability[n])                 n = 0 … N-1, hidden where y[n] = 0
    y[n]                ~ Poisson(rate[n] (1 - never_of_row[n]))         observed
    rate[n]             = exp(X[n] count_coefficients)                   with covariates; otherwise one `rate`
    zero_probability[n] = 1 / (1 + exp(-Z[n] zero_coefficients))         with zero covariates; otherwise one number

    rate                ~ Gamma(2, 1 / mean(y)),   zero_probability ~ Beta(1, 1)
    coefficients        ~ Normal(0, 5 / sd(x)); the intercept's prior follows, centred at log mean(y) for the counts

The example: articles that 915 doctoral students of biochemistry published in their last three years, with their sex
and marriage, children under six, the prestige of the department and the articles of the mentor (Long 1990, Social
Forces 68:1297-1315; Long 1997, Regression Models for Categorical and Limited Dependent Variables; `bioChemists` of R's
package pscl).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pymc as pm
import pytensor.tensor as pt

EXAMPLE = Path(__file__).parent / "data" / "bio_chemists.csv"
SHAPE = np.float64(2.0)  # not a plain 2.0, which PyTensor holds in single precision, and its log-gamma with it
STUDENTS = ("female", "married", "kid5", "phd", "ment")


def build(
    data: pd.DataFrame | Mapping[str, Any] | None = None,
    *,
    covariates: str | Sequence[str] | None = None,
    zero_covariates: str | Sequence[str] = (),
    response: str = "y",
) -> pm.Model:
    """Zero-inflated Poisson regression.

    data             the counts in `response`, and columns of numbers. None: the example, with response "art".
    covariates       names of the columns that the rate depends on, also as "x,z", or "" for none. If not given: every
                     other numeric column.
    zero_covariates  those that the probability of never counting depends on; "same" for the covariates of the rate.
    response         name of the column of counts.

    Variables: `rate` [] or `count_coefficients` [covariate], `zero_probability` [] or `zero_coefficients`
    [zero_covariate]; `never_of_row` [row], latent, 1 where a row can only be zero; `y` [row], observed.
    Raises KeyError for a missing column, ValueError for anything else that cannot be: each names column and row.
    """
    if data is None:
        data = pd.read_csv(EXAMPLE)
        response = "art" if response == "y" else response
    if covariates is None:
        covariates = [str(c) for c in data if c != response and np.asarray(data[c]).dtype.kind in "iuf"]
    names = _names(covariates)
    zero_names = names if isinstance(zero_covariates, str) and zero_covariates == "same" else _names(zero_covariates)
    y = _column(data, response)
    bad = np.flatnonzero((y < 0) | (y != np.floor(y)))
    if len(bad):
        raise ValueError(
            f"column {response!r}, row {bad[0]}: {y[bad[0]]:g} is not a count: give whole numbers, or name the column "
            "of counts with response=…"
        )
    if not y.any():
        raise ValueError(f"column {response!r} is constant: zero in all {len(y)} rows, which tells nothing of the rate")
    if y.all():
        raise ValueError(f"column {response!r} holds no zero: there are none in excess; use a plain Poisson regression")
    x, z = _design(data, names, len(y)), _design(data, zero_names, len(y))

    with pm.Model(coords={"row": np.arange(len(y))}) as model:
        if names:
            model.add_coord("covariate", ["intercept", *names])
            centre = np.where(np.arange(x.shape[1]) == 0, np.log(y.mean()), 0.0)
            rate = pt.exp(x @ pm.Normal("count_coefficients", centre, _widths(x), dims="covariate"))
        else:
            rate = pm.Gamma("rate", SHAPE, 1.0 / y.mean())
        if zero_names:
            model.add_coord("zero_covariate", ["intercept", *zero_names])
            zero = pm.math.sigmoid(z @ pm.Normal("zero_coefficients", 0.0, _widths(z), dims="zero_covariate"))
        else:
            zero = pm.Beta("zero_probability", np.float64(1.0), np.float64(1.0))
        never = pm.Bernoulli("never_of_row", p=zero, dims="row")
        pm.Poisson("y", mu=rate * (1 - never), observed=y.astype("int64"), dims="row")
    return model


def _widths(x: np.ndarray) -> np.ndarray:
    """So wide that a standard deviation of any column moves the predictor by 5; the intercept's follows."""
    sd, mean = x[:, 1:].std(axis=0), x[:, 1:].mean(axis=0)
    return 5.0 * np.concatenate([[np.sqrt(1.0 + np.sum((mean / sd) ** 2))], 1.0 / sd])


def _names(names: str | Sequence[str]) -> list[str]:
    found = [name.strip() for name in names.split(",") if name.strip()] if isinstance(names, str) else list(names)
    if len(set(found)) < len(found):
        raise ValueError(f"{found}: no column twice")
    return found


def _column(data: pd.DataFrame | Mapping[str, Any], name: str) -> np.ndarray:
    """A column of finite numbers [N]."""
    if name not in data:
        raise KeyError(f"no column {name!r} in the data, which hold {list(data)}: correct response=… or covariates=…")
    try:
        values = np.ma.filled(np.ma.asarray(data[name], dtype=float), np.nan)
    except (TypeError, ValueError) as error:
        raise ValueError(f"column {name!r} must hold numbers: {error}") from None
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(f"column {name!r} has shape {values.shape}: give one number a row, for two rows or more")
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise ValueError(
            f"column {name!r}, row {bad[0]}: {values[bad[0]]} is not a finite number ({len(bad)} such rows): fill it "
            "in, or leave the rows out, as data.dropna() does"
        )
    return values


def _design(data: pd.DataFrame | Mapping[str, Any], names: list[str], rows: int) -> np.ndarray:
    """A column of ones and the covariates [N, 1 + J]."""
    columns = [np.ones(rows)]
    for name in names:
        values = _column(data, name)
        if len(values) != rows:
            raise ValueError(f"column {name!r} has {len(values)} rows, the counts {rows}")
        if np.ptp(values) == 0:
            raise ValueError(
                f"column {name!r} is constant: {values[0]:g} in all {rows} rows, as the intercept is: leave it out, as "
                "with covariates=…"
            )
        columns.append(values)
    return np.column_stack(columns)
