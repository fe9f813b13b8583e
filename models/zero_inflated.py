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

from emppl.models._columns import are_counts, check_table, column, design, names_of, require, whole, widths

EXAMPLE = Path(__file__).parent / "data" / "bio_chemists.csv"
SHAPE = np.float64(2.0)  # not a plain 2.0, which PyTensor holds in single precision, and its log-gamma with it
SPREAD = 5.0  # by which a standard deviation of a covariate may move the predictor, a priori
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
    check_table(data)
    if covariates is None:
        covariates = [str(c) for c in data if c != response and np.asarray(data[c]).dtype.kind in "iuf"]
    names = names_of(covariates)
    zero_names = names if isinstance(zero_covariates, str) and zero_covariates == "same" else names_of(zero_covariates)
    y = column(data, response, correct="name the column of counts with response=…")
    mend = "give whole numbers, or name the column of counts with response=…"
    require(response, y, are_counts(y), "not a count", mend)
    if not y.any():
        raise ValueError(f"column {response!r} is constant: zero in all {len(y)} rows, which tells nothing of the rate")
    if y.all():
        raise ValueError(f"column {response!r} holds no zero: there are none in excess; use a plain Poisson regression")
    x, z = design(data, names, len(y)), design(data, zero_names, len(y))

    with pm.Model(coords={"row": np.arange(len(y))}) as model:
        if names:
            model.add_coord("covariate", ["intercept", *names])
            centre = np.where(np.arange(x.shape[1]) == 0, np.log(y.mean()), 0.0)
            rate = pt.exp(x @ pm.Normal("count_coefficients", centre, widths(x, SPREAD), dims="covariate"))
        else:
            rate = pm.Gamma("rate", SHAPE, 1.0 / y.mean())
        if zero_names:
            model.add_coord("zero_covariate", ["intercept", *zero_names])
            zero = pm.math.sigmoid(z @ pm.Normal("zero_coefficients", 0.0, widths(z, SPREAD), dims="zero_covariate"))
        else:
            zero = pm.Beta("zero_probability", np.float64(1.0), np.float64(1.0))
        never = pm.Bernoulli("never_of_row", p=zero, dims="row")
        pm.Poisson("y", mu=rate * (1 - never), observed=whole(response, y), dims="row")
    return model
