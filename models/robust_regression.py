"""A straight line through points of known error bars, some of which are wrong altogether; which ones is hidden.

    intercept           ~ Normal(mean(y), 10 s sqrt(1 + (mean(x) / sd(x))²))     s = sd(y)
    slope               ~ Normal(0, 10 s / sd(x))
    outlier_probability ~ Beta(1, 4)
    outlier_mean        ~ Normal(mean(y), 2 s),   outlier_sd ~ InverseGamma(2, s)
    outlier_of_point[n] ~ Bernoulli(outlier_probability)                          n = 0 … N-1, hidden
    y[n]                ~ Normal(intercept + slope x[n], sigma_y[n])              if not an outlier, observed
    y[n]                ~ Normal(outlier_mean, sqrt(sigma_y[n]² + outlier_sd²))   if an outlier

This is the mixture of section 3 of Hogg, Bovy & Lang (2010), Data analysis recipes: fitting a model to data,
arXiv:1008.4686, whose table 1 is the example (x, y and sigma_y; the errors of x are left aside, as there). Without
error bars in the data one `sigma` ~ InverseGamma(2, s) for all points is estimated.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pymc as pm

from emppl.models.columns import column, require

EXAMPLE = Path(__file__).parent / "data" / "hogg_line.csv"
SHAPE = np.float64(2.0)  # not a plain 2.0, which PyTensor holds in single precision, and its log-gamma with it


def build(data: pd.DataFrame | Mapping[str, Any] | None = None) -> pm.Model:
    """A line and outliers.

    data  `x` and `y` [N]; optional `sigma_y` [N], the known standard deviation of each y. None: the example.

    Variables: `intercept`, `slope`, `outlier_probability`, `outlier_mean`, `outlier_sd`, and `sigma` where the data
    have no sigma_y; `outlier_of_point` [point], latent; `y` [point], observed.
    Raises KeyError for a missing column, ValueError for anything else that cannot be: each names column and row.
    """
    data = pd.read_csv(EXAMPLE) if data is None else data
    x, y = column(data, "x"), column(data, "y")
    if len(x) != len(y) or len(y) < 4:
        raise ValueError(f"columns 'x' and 'y' have {len(x)} and {len(y)} rows: give four or more, equally many")
    for name, values in (("x", x), ("y", y)):
        if np.ptp(values) == 0:
            raise ValueError(f"column {name!r} is constant: {values[0]:g} in all {len(y)} rows, which makes no line")
    known = None
    if "sigma_y" in data:
        known = column(data, "sigma_y")
        if len(known) != len(y):
            raise ValueError(f"column 'sigma_y' has {len(known)} rows, y {len(y)}")
        mend = "give the standard deviation of y, or leave the column out, so that one for all is estimated"
        require("sigma_y", known, known > 0, "not positive", mend)
    mean, s = y.mean(), y.std()

    with pm.Model(coords={"point": np.arange(len(y))}) as model:
        intercept = pm.Normal("intercept", mean, 10.0 * s * np.sqrt(1.0 + (x.mean() / x.std()) ** 2))
        slope = pm.Normal("slope", 0.0, 10.0 * s / x.std())
        probability = pm.Beta("outlier_probability", np.float64(1.0), np.float64(4.0))
        outlier_mean = pm.Normal("outlier_mean", mean, 2.0 * s)
        outlier_sd = pm.InverseGamma("outlier_sd", SHAPE, s)
        sigma = pm.InverseGamma("sigma", SHAPE, s) if known is None else known
        outlier = pm.Bernoulli("outlier_of_point", p=probability, dims="point")
        centre = pm.math.switch(outlier, outlier_mean, intercept + slope * x)
        spread = pm.math.switch(outlier, pm.math.sqrt(sigma**2 + outlier_sd**2), sigma)
        pm.Normal("y", centre, spread, observed=y, dims="point")
    return model
