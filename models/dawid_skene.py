"""Raters of unequal skill judge the same items; the true class of an item is hidden, and so are the raters' errors.

    prevalence            ~ Dirichlet(1, …, 1)
    error_rates[r, c]     ~ Dirichlet(1 + 1/(2 L), …, and 1/2 more for label c)          r = raters, c = classes
    class_of_item[i]      ~ Categorical(prevalence)                                      i = items, hidden
    label[n]              ~ Categorical(error_rates[rater[n], class_of_item[item[n]]])   n = ratings, observed

error_rates[r, c, l] is the probability that rater r says l of an item that truly is c: a confusion matrix for each
rater. Any rater may have judged any number of items, any number of times. The prior counts as one rating in each class
by each rater, half of it right and half spread over the L labels: raters know something, so that class c is the one
that raters call c. Maximum likelihood (estimate="ml") has no such help; there classes may come out in any order.

The example: seven ratings of the fitness for a general anaesthetic of each of 45 patients by five anaesthetists, of
whom the first rated three times (Dawid & Skene 1979, Maximum likelihood estimation of observer error-rates using the EM
algorithm, Applied Statistics 28:20-28, table 1).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pymc as pm

from emppl.models._columns import check_table

EXAMPLE = Path(__file__).parent / "data" / "anaesthetists.csv"
COLUMNS = ("item", "rater", "label")


def build(data: pd.DataFrame | Mapping[str, Any] | None = None) -> pm.Model:
    """Hidden classes of items, and the confusion matrix of each rater.

    data  in long form, one row a rating: `item`, `rater` and `label` [N], names or numbers. None: the example.

    The classes are the labels that occur. Variables: `prevalence` [class]; `error_rates` [rater, class, label];
    `class_of_item` [item], latent; `given` [rating], observed, the place of the label given.
    Raises KeyError for a missing column, ValueError for anything else that cannot be: each names column and row.
    """
    if data is None:
        data = pd.read_csv(EXAMPLE).rename(columns={"patient": "item", "observer": "rater", "rating": "label"})
    item, rater, label = (_codes(data, column) for column in COLUMNS)
    if len({len(codes) for codes, _ in (item, rater, label)}) > 1:
        lengths = {column: np.shape(data[column]) for column in COLUMNS}
        raise ValueError(f"the columns are not of one length: {lengths}")
    labels = label[1]
    if len(labels) < 2:
        raise ValueError(f"column 'label' is constant: {labels[0]!r} in every row, so there is one class and no error")
    size = len(labels)
    coords = {"item": item[1], "rater": rater[1], "class": labels, "label": labels, "rating": np.arange(len(label[0]))}
    with pm.Model(coords=coords) as model:
        # Flat: the most probable prevalence is that of the largest likelihood, a class without items may get 0.
        prevalence = pm.Dirichlet("prevalence", np.ones(size), dims="class")
        prior = np.broadcast_to(1.0 + 0.5 / size + 0.5 * np.eye(size), (len(rater[1]), size, size))
        error_rates = pm.Dirichlet("error_rates", prior, dims=("rater", "class", "label"))
        classes = pm.Categorical("class_of_item", p=prevalence, dims="item")
        pm.Categorical("given", p=error_rates[rater[0], classes[item[0]]], observed=label[0], dims="rating")
    return model


def _codes(data: pd.DataFrame | Mapping[str, Any], column: str) -> tuple[np.ndarray, list[Any]]:
    """Place of each row's name among the names in order, and the names."""
    check_table(data)
    if column not in data:
        raise KeyError(
            f"no column {column!r} in the data, which hold {list(data)}: the data are in long form, one row a rating, "
            "with columns item, rater and label"
        )
    values = np.ma.filled(np.ma.asarray(data[column]).astype(object), None)
    if values.ndim != 1 or len(values) == 0:
        raise ValueError(f"column {column!r} has shape {values.shape}: give one value a rating, for at least one")
    missing = np.flatnonzero(pd.isna(values))
    if len(missing):
        raise ValueError(
            f"column {column!r}, row {missing[0]} is empty ({len(missing)} such rows): leave these ratings out, as "
            "data.dropna() does; not every rater need have judged every item"
        )
    if len({isinstance(value, str) for value in values}) > 1:
        raise ValueError(f"column {column!r} mixes words and numbers: {sorted(map(str, set(values)))[:6]}")
    names = np.unique(values)
    if column == "label" and len(names) > 30:
        raise ValueError(
            f"column 'label' takes {len(names)} different values: raters choose among a few classes; group the labels"
        )
    return np.searchsorted(names, values), names.tolist()
