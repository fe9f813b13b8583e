"""Counts that come from k sources of different rate; which source a count comes from is hidden.

    weights              ~ Dirichlet(1, …, 1)
    rate[c]              ~ Gamma(2, 1 / r)                                   c = 0 … k-1
    component_of_row[n]  ~ Categorical(weights)                              n = 0 … N-1, hidden
    y[n]                 ~ Poisson(exposure[n] · rate[component_of_row[n]])  observed

r is the rate of all rows together, sum(y) / sum(exposure). The prior of a rate thus has its mode at r and weighs as
much as a single event: it keeps the scale of the data and rules out rate 0, and otherwise hardly speaks.

The example: deaths of women over 80 announced in The Times of London on each of the 1096 days of 1910 to 1912 (Whitaker
1914; Hasselblad 1969, Journal of the American Statistical Association 64:1459-1471). More of them die in winter.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pymc as pm

from emppl.models._columns import check_table, whole

SHAPE = np.float64(2.0)  # not a plain 2.0, which PyTensor holds in single precision, and its log-gamma with it
EXAMPLE = Path(__file__).parent / "data" / "death_notices.csv"


def build(data: pd.DataFrame | Mapping[str, Any] | None = None, *, k: int = 2) -> pm.Model:
    """Mixture of k Poisson distributions.

    data  `y` [N], counts; optional `exposure` [N], positive (time, area, population that a count stands for), 1 if not
          given. None: the example, whose table (deaths, days) is written out to one row a day.
    k     number of components.

    Variables: `weights` [component] (none for k=1, where it could only be 1), `rate` [component], events per unit of
    exposure; `component_of_row` [row], latent; `y` [row], observed.
    Raises KeyError for a missing column, ValueError for anything else that cannot be: each names the row.
    """
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
        raise ValueError(f"k={k!r} is not a number of components: give a whole number, 1 or more")
    y, exposure = _example() if data is None else _counts(data)
    overall = max(y.sum(), 1) / exposure.sum()  # rows of nothing but zeros have a scale too

    with pm.Model(coords={"component": np.arange(k), "row": np.arange(len(y))}) as model:
        # Flat: the most probable weights are those of the largest likelihood, a component without use may get weight 0.
        weights = pm.Dirichlet("weights", np.ones(k), dims="component") if k > 1 else np.ones(1)
        rate = pm.Gamma("rate", alpha=SHAPE, beta=1.0 / overall, dims="component")
        component = pm.Categorical("component_of_row", p=weights, dims="row")
        mean = rate[component] if np.all(exposure == 1.0) else exposure * rate[component]
        pm.Poisson("y", mu=mean, observed=y, dims="row")
    return model


def _example() -> tuple[np.ndarray, np.ndarray]:
    table = pd.read_csv(EXAMPLE)
    y = np.repeat(table["deaths"].to_numpy("int64"), table["days"].to_numpy("int64"))
    return y, np.ones(len(y))


def _counts(data: pd.DataFrame | Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Counts [N] and exposures [N]."""
    check_table(data)
    if "y" not in data:
        raise KeyError(f"no column 'y' in the data, which hold {list(data)}: rename the column of counts to 'y'")
    y = _numbers("y", data["y"])
    if y.ndim != 1 or len(y) == 0:
        raise ValueError(f"y has shape {y.shape}: give one count a row, for at least one row")
    bad = np.flatnonzero(~((y >= 0) & (y == np.floor(y)) & np.isfinite(y)))
    if len(bad):
        raise ValueError(f"y[{bad[0]}] = {y[bad[0]]:g} is not a count: give a whole number, or leave the row out")
    exposure = _numbers("exposure", data["exposure"]) if "exposure" in data else np.ones(len(y))
    if exposure.shape != y.shape:
        raise ValueError(f"exposure has shape {exposure.shape}, y {y.shape}: give one number a row")
    bad = np.flatnonzero(~((exposure > 0) & np.isfinite(exposure)))
    if len(bad):
        raise ValueError(
            f"exposure[{bad[0]}] = {exposure[bad[0]]:g} is not positive: give what the count stands for (time, area, "
            "population), or leave the row out"
        )
    return whole("y", y), exposure


def _numbers(column: str, values: Any) -> np.ndarray:
    try:
        return np.ma.filled(np.ma.asarray(values, dtype=float), np.nan)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{column} must hold numbers: {error}") from None
