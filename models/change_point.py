"""Counts year by year, whose rate changes once; when it did is hidden.

    rate[0], rate[1]  ~ Gamma(2, 1 / mean(y))                       before and after
    change            ~ DiscreteUniform over all years but the first   hidden: the first year of the new rate
    y[t]              ~ Poisson(rate[0] if time[t] < change else rate[1])   observed

One hidden number for all of the data: its posterior is a curve over the years.

Examples: disasters in British coal mines that killed ten or more, 1851 to 1961, two years not known (Jarrett 1979,
Biometrika 66:191-193, as PyMC's own introduction has them); and the text messages that a person got on each of 74 days
(Davidson-Pilon 2015, Bayesian Methods for Hackers, chapter 1).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pymc as pm
import pytensor.tensor as pt

from emppl.models._columns import check_table, whole

FOLDER = Path(__file__).parent / "data"
EXAMPLES = {  # file, its column of times, its column of counts
    "coal_mining": ("coal_mining_disasters", "year", "disasters"),
    "text_messages": ("text_messages", "day", "messages"),
}
SHAPE = np.float64(2.0)  # not a plain 2.0, which PyTensor holds in single precision, and its log-gamma with it


def build(data: pd.DataFrame | Mapping[str, Any] | None = None, *, example: str = "coal_mining") -> pm.Model:
    """One change of a Poisson rate at an unknown time.

    data     `y` [T], counts; optional `time` [T], whole numbers that increase, 0 … T-1 if not given. A count may be
             missing (NaN): its time is then left out, and still may be that of the change. None: the example.
    example  "coal_mining" (disasters a year) or "text_messages" (messages a day).

    Variables: `rate` [period], before and after; `change` [], latent, the first time of the new rate; `y` [time],
    observed.
    Raises KeyError for a missing column, ValueError for anything else that cannot be: each names column and row.
    """
    if data is None:
        if example not in EXAMPLES:
            raise ValueError(f"example={example!r} is unknown: {' and '.join(EXAMPLES)} are there")
        file, time_name, y_name = EXAMPLES[example]
        data = pd.read_csv(FOLDER / f"{file}.csv").rename(columns={time_name: "time", y_name: "y"})
    y, time = _series(data)
    first, last = int(time[0]) + 1, int(time[-1])
    known = ~np.isnan(y)
    y, time = whole("y", y[known]), time[known]

    with pm.Model(coords={"period": ["before", "after"], "time": time}) as model:
        rate = pm.Gamma("rate", SHAPE, 1.0 / max(y.mean(), 0.5 / len(y)), dims="period")
        # int64, since PyMC takes the logarithm of smaller integers in single precision
        change = pm.DiscreteUniform("change", *(pt.constant(year, dtype="int64") for year in (first, last)))
        pm.Poisson("y", mu=pm.math.switch(time < change, rate[0], rate[1]), observed=y, dims="time")
    return model


def _series(data: pd.DataFrame | Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Counts [T], NaN where missing, and their times [T]."""
    check_table(data)
    if "y" not in data:
        raise KeyError(f"no column 'y' in the data, which hold {list(data)}: rename the column of counts to 'y'")
    y = _numbers("y", data["y"])
    if y.ndim != 1 or (~np.isnan(y)).sum() < 3:
        raise ValueError(f"column 'y' has shape {y.shape}: give one count for each time, for three times or more")
    bad = np.flatnonzero(~(((y >= 0) & (y == np.floor(y)) & np.isfinite(y)) | np.isnan(y)))
    if len(bad):
        raise ValueError(
            f"column 'y', row {bad[0]}: {y[bad[0]]:g} is not a count: give a whole number, or NaN where it is not known"
        )
    values = y[~np.isnan(y)]
    if np.ptp(values) == 0:
        raise ValueError(f"column 'y' is constant: {values[0]:g} in all rows, so that no time of a change stands out")
    time = _numbers("time", data["time"]) if "time" in data else np.arange(len(y), dtype=float)
    if time.shape != y.shape:
        raise ValueError(f"column 'time' has shape {time.shape}, y {y.shape}: give one time for each count")
    bad = np.flatnonzero(~(np.isfinite(time) & (time == np.floor(time))))
    if len(bad):
        raise ValueError(
            f"column 'time', row {bad[0]}: {time[bad[0]]:g} is not a whole number: give years, days, or leave it out"
        )
    order = np.flatnonzero(np.diff(time) <= 0)
    if len(order):
        i = order[0] + 1
        raise ValueError(f"column 'time', row {i}: {time[i]:g} does not come after {time[i - 1]:g}: sort the rows")
    if time[-1] - time[0] > 1e5:
        raise ValueError(
            f"column 'time' runs over {time[-1] - time[0]:g} steps: count in units between two observations"
        )
    return y, whole("time", time)


def _numbers(column: str, values: Any) -> np.ndarray:
    try:
        return np.ma.filled(np.ma.asarray(values, dtype=float), np.nan)
    except (TypeError, ValueError) as error:
        raise ValueError(f"column {column!r} must hold numbers: {error}") from None
