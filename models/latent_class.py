"""Latent class analysis: people answer several questions; the class that a person belongs to is hidden.

    weights               ~ Dirichlet(1, …, 1)
    probability[c, i]     ~ Beta(1.5, 1.5)                                   c = 0 … k-1, i = items
    class_of_person[n]    ~ Categorical(weights)                             n = 0 … N-1, hidden
    answer[n, i]          ~ Bernoulli(probability[class_of_person[n], i])    observed

Given the class, answers are independent: the class is what makes them hang together. Items with more than two answers
have a table each: probability_i[c] ~ Dirichlet(1 + 1/L, …), answer_i[n] ~ Categorical, L the number of answers to item
i. The priors count as one made-up person in each class whose answers are spread evenly: they keep probabilities off 0
and 1, which maximum likelihood (estimate="ml") often reaches.

Examples: four dilemmas between friendship and duty, put to 216 students (Stouffer & Toby 1951, American Journal of
Sociology 56:395-406; Goodman 1974, Biometrika 61:215-231), and the slides of 118 biopsies that seven pathologists
judged to show carcinoma of the uterine cervix or not (Landis & Koch 1977, Biometrics 33:363-374; Agresti 2002,
Categorical Data Analysis, table 13.1).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pymc as pm

from emppl.models._columns import check_table, whole

FOLDER = Path(__file__).parent / "data"
EXAMPLES = ("stouffer_toby", "carcinoma")
COUNT = "count"


def build(
    data: pd.DataFrame | Mapping[str, Any] | None = None,
    *,
    k: int = 2,
    items: str | Sequence[str] | None = None,
    example: str = "stouffer_toby",
) -> pm.Model:
    """k classes of people, told apart by their answers to several items.

    data     one column an item, one row a person; answers of any kind (0/1, words). A column `count` says for how many
             people a row stands. None: the example.
    k        number of classes.
    items    the items, by name and in this order, also as "A,B,C"; all columns but `count` if not given.
    example  "stouffer_toby" (items A to D, 1: for the friend) or "carcinoma" (pathologists A to G, 1: carcinoma).

    Variables: `weights` [class] (none for k=1); where every item has two answers `probability` [class, item] of the
    second one in order, and `answer` [person, item], observed; otherwise `probability_<item>` [class, <item>_answer]
    and `answer_<item>` [person] for each item; `class_of_person` [person], latent.
    Raises KeyError for a missing column, ValueError for anything else that cannot be: each names column and row.
    """
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
        raise ValueError(f"k={k!r} is not a number of classes: give a whole number, 1 or more")
    if data is None and example not in EXAMPLES:
        raise ValueError(f"example={example!r} is unknown: {' and '.join(EXAMPLES)} are there")
    answers = _answers(pd.read_csv(FOLDER / f"{example}.csv") if data is None else data, items)
    levels = {name: np.unique(column) for name, column in answers.items()}
    codes = {name: np.searchsorted(levels[name], column) for name, column in answers.items()}
    names, n = list(answers), len(next(iter(answers.values())))

    with pm.Model(coords={"class": np.arange(k), "person": np.arange(n)}) as model:
        # Flat: the most probable weights are those of the largest likelihood, an unused class may get weight 0.
        weights = pm.Dirichlet("weights", np.ones(k), dims="class") if k > 1 else np.ones(1)
        classes = pm.Categorical("class_of_person", p=weights, dims="person")
        if all(len(values) == 2 for values in levels.values()):
            model.add_coord("item", names)
            probability = pm.Beta("probability", np.float64(1.5), np.float64(1.5), dims=("class", "item"))
            table = np.stack([codes[name] for name in names], axis=1)
            pm.Bernoulli("answer", p=probability[classes], observed=table, dims=("person", "item"))
        else:
            for name in names:
                size = len(levels[name])
                model.add_coord(f"{name}_answer", levels[name].tolist())
                prior = np.full(size, 1.0 + 1.0 / size)
                probability = pm.Dirichlet(f"probability_{name}", prior, dims=("class", f"{name}_answer"))
                pm.Categorical(f"answer_{name}", p=probability[classes], observed=codes[name], dims="person")
    return model


def _answers(data: pd.DataFrame | Mapping[str, Any], items: str | Sequence[str] | None) -> dict[str, np.ndarray]:
    """The answers to each item [N], one row a person."""
    check_table(data)
    if isinstance(items, str):
        items = [name.strip() for name in items.split(",")]
    names = [name for name in data if name != COUNT] if items is None else list(items)
    missing = [name for name in names if name not in data]
    if missing:
        raise KeyError(f"no column {missing[0]!r} in the data, which hold {list(data)}: correct items=…")
    if not names or len(set(names)) < len(names):
        raise ValueError(f"items={names}: give at least one item, and none twice")
    columns = {str(name): np.ma.filled(np.ma.asarray(data[name]).astype(object), None) for name in names}
    counts = _counts(data, len(next(iter(columns.values()))))
    for name, column in columns.items():
        if column.shape != counts.shape:
            raise ValueError(f"column {name!r} has shape {column.shape}, the first one {counts.shape}")
        missing_rows = np.flatnonzero(pd.isna(column))
        if len(missing_rows):
            raise ValueError(
                f"column {name!r}, row {missing_rows[0]}: no answer ({len(missing_rows)} such rows): leave the rows "
                "out, as data.dropna() does, or make 'no answer' an answer of its own"
            )
        kinds = {type(value) if isinstance(value, str) else float for value in column}
        if len(kinds) > 1:
            raise ValueError(f"column {name!r} mixes words and numbers: {sorted(map(str, set(column)))[:6]}")
        values = np.unique(column)
        if len(values) == 1:
            raise ValueError(
                f"column {name!r} is constant: {values[0]!r} in every row; it tells no class from another: leave it "
                "out, as with items=…"
            )
        if len(values) > 20 and len(values) > len(column) / 4:
            raise ValueError(
                f"column {name!r} takes {len(values)} different values in {len(column)} rows: an item has a few "
                "answers; group them, or leave the column out, as with items=…"
            )
    return {name: np.repeat(np.array(column.tolist()), counts) for name, column in columns.items()}


def _counts(data: pd.DataFrame | Mapping[str, Any], rows: int) -> np.ndarray:
    """For how many people each row stands [rows]."""
    if rows == 0:
        raise ValueError("the data have no rows")
    if COUNT not in data:
        return np.ones(rows, dtype="int64")
    try:
        counts = np.ma.filled(np.ma.asarray(data[COUNT], dtype=float), np.nan)
    except (TypeError, ValueError) as error:
        raise ValueError(f"column {COUNT!r} must hold numbers: {error}") from None
    bad = np.flatnonzero(~((counts >= 0) & (counts == np.floor(counts)) & np.isfinite(counts)))
    if len(bad):
        raise ValueError(
            f"column {COUNT!r}, row {bad[0]}: {counts[bad[0]]:g} is not a number of people: give a whole number"
        )
    if counts.shape != (rows,) or counts.sum() == 0:
        raise ValueError(f"column {COUNT!r} has shape {counts.shape} and sum {counts.sum():g}: give one number a row")
    return whole(COUNT, counts)
