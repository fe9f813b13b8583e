"""Clusters of rows with features of mixed kind, numbers and words; which cluster a row belongs to is hidden.

    weights              ~ Dirichlet(1, …, 1)
    mu[c, f]             ~ Normal(m[f], 3 s[f])                          c = 0 … k-1, f = features that are numbers
    sd[c, f]             ~ InverseGamma(2, s[f])
    probability_g[c]     ~ Dirichlet(1 + 1/L, …, 1 + 1/L)                g = features that are words, L its values
    cluster_of_row[n]    ~ Categorical(weights)                          n = 0 … N-1, hidden
    number[n, f]         ~ Normal(mu[c, f], sd[c, f])                    c = cluster_of_row[n], observed
    word_g[n]            ~ Categorical(probability_g[c])                 observed

Given the cluster, all features are independent, whence the name. m and s are the mean and the standard deviation of
each column. Why InverseGamma(2, s) for a standard deviation: it has a heavy tail, and its density vanishes at 0 faster
than any power, so that no cluster can close in on a few equal values.

The example: 546 houses sold in Windsor, Ontario, in 1987 by the logarithms of price and lot, and yes or no for a
driveway, a recreation room, a full basement, gas heating, air conditioning and a preferred neighbourhood (Anglin &
Gencay 1996, Journal of Applied Econometrics 11:633-648).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pymc as pm

from emppl.models._columns import check_table, warn_of_words

EXAMPLE = Path(__file__).parent / "data" / "windsor_houses.csv"
SHAPE = np.float64(2.0)  # not a plain 2.0, which PyTensor holds in single precision, and its log-gamma with it


def build(
    data: pd.DataFrame | Mapping[str, Any] | None = None,
    *,
    k: int = 2,
    columns: str | Sequence[str] | None = None,
    words: str | Sequence[str] = (),
) -> pm.Model:
    """k clusters of rows, by numbers and words.

    data     columns of numbers and of words, one row a member. None: the example.
    k        number of clusters.
    columns  the features, also as "price,driveway"; all columns if not given.
    words    names of columns that hold numbers but mean categories, such as codes.

    Variables: `weights` [cluster] (none for k=1); `mu` and `sd` [cluster, feature] and `number` [row, feature], if any
    column holds numbers; `probability_<column>` [cluster, <column>_value] and `word_<column>` [row] for each column of
    words; `cluster_of_row` [row], latent.
    Raises KeyError for a missing column, ValueError for anything else that cannot be: each names column and row.
    """
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
        raise ValueError(f"k={k!r} is not a number of clusters: give a whole number, 1 or more")
    numbers, categories = _features(_example() if data is None else data, _names(columns), _names(words) or [])
    n = len(next(iter([*numbers.values(), *categories.values()])))
    if k > n:
        raise ValueError(f"k={k} clusters for {n} rows: give at most as many clusters as rows")

    with pm.Model(coords={"cluster": np.arange(k), "row": np.arange(n)}) as model:
        # Flat: the most probable weights are those of the largest likelihood, an unused cluster may get weight 0.
        weights = pm.Dirichlet("weights", np.ones(k), dims="cluster") if k > 1 else np.ones(1)
        cluster = pm.Categorical("cluster_of_row", p=weights, dims="row")
        if numbers:
            model.add_coord("feature", list(numbers))
            y = np.stack(list(numbers.values()), axis=1)
            mu = pm.Normal("mu", y.mean(axis=0), 3.0 * y.std(axis=0), dims=("cluster", "feature"))
            sd = pm.InverseGamma("sd", SHAPE, y.std(axis=0), dims=("cluster", "feature"))
            pm.Normal("number", mu[cluster], sd[cluster], observed=y, dims=("row", "feature"))
        for name, values in categories.items():
            levels, codes = np.unique(values, return_inverse=True)
            model.add_coord(f"{name}_value", levels.tolist())
            prior = np.full(len(levels), 1.0 + 1.0 / len(levels))
            probability = pm.Dirichlet(f"probability_{name}", prior, dims=("cluster", f"{name}_value"))
            pm.Categorical(f"word_{name}", p=probability[cluster], observed=codes, dims="row")
    return model


def _example() -> pd.DataFrame:
    houses = pd.read_csv(EXAMPLE)
    kept = houses[["driveway", "recreation", "fullbase", "gasheat", "aircon", "prefer"]]
    return kept.assign(log_price=np.log(houses["price"]), log_lot=np.log(houses["lotsize"]))


def _names(names: str | Sequence[str] | None) -> list[str] | None:
    if names is None:
        return None
    found = [name.strip() for name in names.split(",") if name.strip()] if isinstance(names, str) else list(names)
    if len(set(found)) < len(found):
        raise ValueError(f"{found}: no column twice")
    return found


def _features(
    data: pd.DataFrame | Mapping[str, Any], columns: list[str] | None, words: list[str]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Columns of numbers and columns of words, each [N]."""
    check_table(data)
    columns = [str(name) for name in data] if columns is None else columns
    numbers: dict[str, np.ndarray] = {}
    categories: dict[str, np.ndarray] = {}
    for name in [*columns, *words]:
        if name not in data:
            raise KeyError(f"no column {name!r} in the data, which hold {list(data)}: correct columns=… or words=…")
    if not columns:
        raise ValueError("no column is left: give at least one in columns=…")
    length = len(np.asarray(data[columns[0]]))
    for name in columns:
        values = np.ma.filled(np.ma.asarray(data[name]).astype(object), None)
        if values.ndim != 1 or len(values) != length or length == 0:
            raise ValueError(
                f"column {name!r} has shape {values.shape}, the first one {length} rows: give one value a row"
            )
        missing = np.flatnonzero(pd.isna(values))
        if len(missing):
            raise ValueError(
                f"column {name!r}, row {missing[0]} is empty ({len(missing)} such rows): leave the rows out, as "
                "data.dropna() does, or make 'not known' a word of its own"
            )
        is_word = name in words or any(isinstance(value, str | bool | np.bool_) for value in values)
        if is_word:
            categories[name] = np.array([str(value) for value in values])
        else:
            numbers[name] = _finite(name, values)
        kept = categories[name] if is_word else numbers[name]
        distinct = np.unique(kept)
        if len(distinct) == 1:
            raise ValueError(
                f"column {name!r} is constant: {values[0]!r} in all {length} rows; it tells no cluster from another: "
                "leave it out, as with columns=…"
            )
        if is_word and len(distinct) > 20 and len(distinct) > length / 4:
            raise ValueError(
                f"column {name!r} takes {len(distinct)} different words in {length} rows, as names do: group them, or "
                "leave it out, as with columns=…"
            )
    warn_of_words(data, [name for name in categories if name not in words], "are taken as words", among_numbers=True)
    return numbers, categories


def _finite(name: str, values: np.ndarray) -> np.ndarray:
    try:
        numbers = values.astype(float)
    except (TypeError, ValueError) as error:
        raise ValueError(f"column {name!r} holds neither numbers nor words: {error}") from None
    bad = np.flatnonzero(~np.isfinite(numbers))
    if len(bad):
        raise ValueError(f"column {name!r}, row {bad[0]}: {numbers[bad[0]]} is not a finite number: correct it")
    return numbers
