"""Columns of a user's table, checked as they are read: what the shipped models ask of their data in the same words.

`data` is a pandas DataFrame or a mapping of arrays. Everything here raises KeyError for a missing column, ValueError
for anything else that cannot be, naming the column and the row.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

type Table = pd.DataFrame | Mapping[str, Any]
LARGEST = 2**31 - 1  # PyMC turns whole numbers into int32
LEAVE_OUT = "fill it in, or leave the rows out, as data.dropna() does"


def names_of(names: str | Sequence[str]) -> list[str]:
    """Names of columns, given as a list or as "x, z"."""
    found = [name.strip() for name in names.split(",") if name.strip()] if isinstance(names, str) else list(names)
    if len(set(found)) < len(found):
        raise ValueError(f"{found}: no column twice")
    return found


def check_table(data: Any) -> None:
    """ValueError for what is no table, and for a table in which two columns have one name."""
    if not isinstance(data, pd.DataFrame | Mapping):
        raise ValueError(
            f"data must be a pandas DataFrame or a mapping of arrays by name, not a {type(data).__name__}: give the "
            "columns names, as pd.DataFrame({'y': …}) does"
        )
    twice = list(dict.fromkeys(data.columns[data.columns.duplicated()])) if isinstance(data, pd.DataFrame) else []
    if twice:
        raise ValueError(f"two columns of the data are called {twice[0]!r}: rename one of them")


def column(data: Table, name: str, *, correct: str = "rename yours, or add it", mend: str = LEAVE_OUT) -> np.ndarray:
    """A column of finite numbers [N], N of two or more. correct, mend: what to do about a missing column or number."""
    check_table(data)
    if name not in data:
        raise KeyError(f"no column {name!r} in the data, which hold {list(data)}: {correct}")
    try:
        values = np.ma.filled(np.ma.asarray(data[name], dtype=float), np.nan)
    except (TypeError, ValueError) as error:
        raise ValueError(f"column {name!r} must hold numbers: {error}") from None
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(f"column {name!r} has shape {values.shape}: give one number a row, for two rows or more")
    require(name, values, np.isfinite(values), "not a finite number", mend)
    return values


def warn_of_words(data: Table, names: Sequence[str], what: str, among_numbers: bool = False) -> None:
    """A warning about columns that hold words, with the first of those that stand among numbers and its row.

    what: what becomes of them, "are left out"; among_numbers: of others nothing is said.
    """
    told = []
    for name in names:
        values = pd.Series(np.ma.filled(np.ma.asarray(data[name]).astype(object), None))
        words = np.flatnonzero(pd.to_numeric(values, errors="coerce").isna() & values.notna())
        few = 0 < len(words) <= len(values) / 2
        if few or not among_numbers:
            told.append(f"{name!r} (row {words[0]} holds {values[words[0]]!r} among numbers)" if few else repr(name))
    if told:
        warnings.warn(f"columns that do not hold numbers {what}: {', '.join(told)}", stacklevel=1)


def require(name: str, values: np.ndarray, good: np.ndarray, what: str, mend: str) -> None:
    """ValueError for the first of `values` [N] that is not good [N], a truth value for each."""
    bad = np.flatnonzero(~good)
    if len(bad):
        more = f" ({len(bad)} such rows)" if len(bad) > 1 else ""
        raise ValueError(f"column {name!r}, row {bad[0]}: {values[bad[0]]:g} is {what}{more}: {mend}")


def are_counts(values: np.ndarray) -> np.ndarray:
    """Which of the values are whole numbers of zero or more."""
    return (values >= 0) & (values == np.floor(values))


def whole(name: str, values: np.ndarray) -> np.ndarray:
    """Whole numbers as such. ValueError for the first beyond 32 bits, of which PyMC would keep the remainder."""
    bad = np.argwhere(np.abs(values) > LARGEST)
    if len(bad):
        row = ", ".join(str(i) for i in bad[0])
        raise ValueError(
            f"column {name!r}, row {row}: {int(values[tuple(bad[0])])} is more than {LARGEST}, where PyMC's whole "
            "numbers end: correct it, or count in larger units"
        )
    return values.astype("int64")


def covariate(data: Table, name: str, rows: int, correct: str = "correct covariates=…") -> np.ndarray:
    """A column of finite numbers [rows] that is not constant, as an intercept is beside it."""
    values = column(data, name, correct=correct)
    if len(values) != rows:
        raise ValueError(f"column {name!r} has {len(values)} rows, the response {rows}")
    if np.ptp(values) == 0:
        raise ValueError(
            f"column {name!r} is constant: {values[0]:g} in all {rows} rows, as the intercept is: leave it out, as "
            "with covariates=…"
        )
    return values


def design(data: Table, names: Sequence[str], rows: int) -> np.ndarray:
    """A column of ones and the covariates [rows, 1 + J]."""
    return np.column_stack([np.ones(rows), *[covariate(data, name, rows) for name in names]])


def widths(x: np.ndarray, spread: float) -> np.ndarray:
    """Standard deviations of the prior of the coefficients of a design x [N, 1 + J], the intercept first: [1 + J].

    So wide that a standard deviation of any column moves the predictor by `spread`; the intercept's follows.
    """
    sd, mean = x[:, 1:].std(axis=0), x[:, 1:].mean(axis=0)
    return spread * np.concatenate([[np.sqrt(1.0 + np.sum((mean / sd) ** 2))], 1.0 / sd])


def beta_prior(prior: tuple[float, float]) -> tuple[float, float]:
    """The (a, b) of a Beta prior; ValueError where they are none."""
    try:
        a, b = (float(value) for value in prior)
    except (TypeError, ValueError):
        a = b = np.nan
    if not (0 < a < np.inf and 0 < b < np.inf):
        raise ValueError(f"prior={prior!r} is not the (a, b) of a Beta: give two positive numbers, such as (2.0, 2.0)")
    return np.float64(a), np.float64(b)  # PyTensor holds a plain 2.0 in single precision, and its log-gamma with it
