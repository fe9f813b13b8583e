"""Coins of unknown bias are tossed in sets; which coin was tossed in a set is hidden.

    bias[c]         ~ Beta(a, b)                                   c = A, B, …
    weights         ~ Dirichlet(1, …, 1)                           only with weights="free"; otherwise known
    coin_of_set[s]  ~ Categorical(weights)                         s = 1 … S, hidden
    heads[s]        ~ Binomial(tosses[s], bias[coin_of_set[s]])    observed

The example, five sets of ten tosses with two coins, is figure 1 of Do & Batzoglou (2008), What is the expectation
maximization algorithm?, Nature Biotechnology 26:897-899.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import numpy as np
import pandas as pd
import pymc as pm

from emppl.models._columns import beta_prior, check_table, whole

EXAMPLE = Path(__file__).parent / "data" / "coins.csv"


def build(
    data: pd.DataFrame | Mapping[str, Any] | None = None,
    *,
    k: int | None = None,
    weights: str | Sequence[float] = "known",
    labels: str | None = None,
    prior: tuple[float, float] = (1.0, 1.0),
    coins: str | Sequence[str] | None = None,
) -> pm.Model:
    """Sets of tosses, each with one of k coins.

    data     `heads` [S] and `tosses` [S] (or one number for all sets); optional `set` [S], the names of the sets;
             optional `coin` [S], names or numbers (0 … k-1) of the coins, which then are known and not hidden.
             None: the example.
    k        number of coins; 2 unless `coins` says otherwise.
    weights  "known": each coin is as likely as the next; k probabilities: these; "free": estimated, Dirichlet(1, …, 1).
    labels   "hidden": a column `coin` is ignored; "known": it must be there (the example uses what the paper reveals);
             None: known if there is such a column.
    prior    (a, b) of the Beta prior of every bias; (1, 1) is flat, so that the mode is the maximum of the likelihood.
    coins    names of the coins, also as "A,B"; A, B, … if not given.

    Variables: `bias` [coin]; `weights` [coin] when free; `coin_of_set` [set], latent unless known; `heads` [set],
    observed.
    Raises KeyError for a missing column, ValueError for anything else that cannot be: each names the set.
    """
    names = _coin_names(coins, k)
    k = len(names)
    a, b = beta_prior(prior)
    if isinstance(weights, str) and weights not in ("known", "free"):
        raise ValueError(f'weights={weights!r} is not understood: give "known", "free" or {k} probabilities')
    if labels not in (None, "hidden", "known"):
        raise ValueError(f'labels={labels!r} is not understood: give "hidden", "known" or None')
    if data is None:
        example = pd.read_csv(EXAMPLE)
        data = example.rename(columns={"coin_in_paper": "coin"}) if labels == "known" else example

    heads, tosses = _counts(data)
    known = _known_coins(data, names, len(heads), labels)

    with pm.Model(coords={"coin": names, "set": _set_names(data, len(heads))}) as model:
        bias = pm.Beta("bias", a, b, dims="coin")
        if not isinstance(weights, str):
            probabilities = _probabilities(weights, names)
        elif weights == "known" or k == 1:  # one coin leaves nothing to estimate
            probabilities = np.full(k, 1.0 / k)
        else:
            # Flat: the most probable weights are those of the largest likelihood, and an unused coin may get weight 0.
            probabilities = pm.Dirichlet("weights", np.ones(k), dims="coin")
        coin_of_set = pm.Categorical("coin_of_set", p=probabilities, observed=known, dims="set")
        pm.Binomial("heads", n=tosses, p=bias[coin_of_set], observed=heads, dims="set")
    return model


def _coin_names(coins: str | Sequence[str] | None, k: int | None) -> list[str]:
    if k is not None and (isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1):
        raise ValueError(f"k={k!r} is not a number of coins: give a whole number, 1 or more")
    if coins is None:
        count = 2 if k is None else int(k)
        return list(ascii_uppercase[:count]) if count <= len(ascii_uppercase) else [f"{i + 1}" for i in range(count)]
    names = [name.strip() for name in coins.split(",")] if isinstance(coins, str) else [str(name) for name in coins]
    if not names or len(set(names)) < len(names) or "" in names:
        raise ValueError(f"coins={coins!r}: every coin needs a name, and no two the same")
    if k is not None and k != len(names):
        raise ValueError(f"k={k} coins, but {len(names)} names in coins={names}: leave one of the two away")
    return names


def _probabilities(weights: Sequence[float], names: list[str]) -> np.ndarray:
    values = np.asarray(weights, dtype=float)
    if values.shape != (len(names),) or not np.all(values >= 0) or not np.isclose(values.sum(), 1.0):
        raise ValueError(
            f"weights={weights!r}: give {len(names)} probabilities (coins {', '.join(names)}) that sum to 1"
        )
    return values


def _counts(data: pd.DataFrame | Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Heads [S] and tosses [S], whole numbers with 0 <= heads <= tosses."""
    check_table(data)
    for column in ("heads", "tosses"):
        if column not in data:
            raise KeyError(f"no column {column!r} in the data, which hold {list(data)}: rename yours, or add it")
    heads, tosses = _numbers("heads", data["heads"]), _numbers("tosses", data["tosses"])
    if heads.ndim != 1 or len(heads) == 0:
        raise ValueError(f"heads has shape {heads.shape}: give one number a set, for at least one set")
    if tosses.ndim != 0 and tosses.shape != heads.shape:
        raise ValueError(f"tosses has shape {tosses.shape}, heads {heads.shape}: give one number a set, or one for all")
    tosses = np.broadcast_to(tosses, heads.shape)
    for column, values in (("heads", heads), ("tosses", tosses)):
        bad = np.flatnonzero(~((values >= 0) & (values == np.floor(values)) & np.isfinite(values)))
        if len(bad):
            raise ValueError(
                f"{column}[{bad[0]}] = {values[bad[0]]:g} is not a count: give a whole number, or leave the set out"
            )
    bad = np.flatnonzero(heads > tosses)
    if len(bad):
        i = bad[0]
        raise ValueError(f"heads[{i}] = {heads[i]:g} is more than tosses[{i}] = {tosses[i]:g}: correct one of the two")
    return whole("heads", heads), whole("tosses", tosses)


def _numbers(column: str, values: Any) -> np.ndarray:
    try:
        return np.ma.filled(np.ma.asarray(values, dtype=float), np.nan)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{column} must hold numbers: {error}") from None


def _set_names(data: pd.DataFrame | Mapping[str, Any], count: int) -> list[Any]:
    if "set" not in data:
        return list(range(1, count + 1))
    names = np.asarray(data["set"]).tolist()
    if not isinstance(names, list) or len(names) != count or len(set(names)) < count:
        raise ValueError(f"set = {names}: give {count} different names, one a set, or leave the column out")
    return names


def _known_coins(
    data: pd.DataFrame | Mapping[str, Any], names: list[str], count: int, labels: str | None
) -> np.ndarray | None:
    """Index of the coin of every set [S], or None where they are hidden."""
    if labels == "hidden" or (labels is None and "coin" not in data):
        return None
    if "coin" not in data:
        raise KeyError(f"labels='known', but no column 'coin' in the data, which hold {list(data)}")
    given = np.ma.asarray(data["coin"]).tolist()  # masked entries become None
    if not isinstance(given, list) or len(given) != count:
        raise ValueError(f"coin has shape {np.shape(data['coin'])} for {count} sets: give one name or number a set")
    places = {name: i for i, name in enumerate(names)}
    index = np.empty(count, dtype="int64")
    for i, coin in enumerate(given):
        if pd.isna(coin) or coin in (-1, ""):
            raise ValueError(
                f"coin[{i}] is missing, but others are known: build the model with labels='hidden' and give the known "
                "ones to the fit: emppl.fit(model, labels={'coin_of_set': [0, 1, -1, …]}), -1 where unknown"
            )
        number = int(coin) if isinstance(coin, int | float | np.number) and float(coin).is_integer() else -1
        place = places.get(str(coin), places.get(str(number), number))  # a coin may be called "1": names come first
        if not 0 <= place < len(names):
            raise ValueError(
                f"coin[{i}] = {coin!r} is none of the coins {', '.join(names)} (or 0 … {len(names) - 1}): "
                "name all coins in coins=[…]"
            )
        index[i] = place
    return index
