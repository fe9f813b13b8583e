"""Documents as bags of words, in k clusters with different vocabularies; the cluster of a document is hidden.

    weights                 ~ Dirichlet(1, …, 1)
    word_probabilities[c]   ~ Dirichlet(1 + 1/V, …, 1 + 1/V)                                c = 0 … k-1
    cluster_of_document[d]  ~ Categorical(weights)                                          d = documents, hidden
    counts[d]               ~ Multinomial(length[d], word_probabilities[cluster_of_document[d]])   observed

V is the number of words; the prior counts as one made-up word in each cluster, spread over the vocabulary. Words given
the cluster are independent draws: a document in one cluster, unlike topic models, where every word has its own
(Nigam, McCallum, Thrun & Mitchell 2000, Machine Learning 39:103-134). Any table of counts will do: species by place,
purchases by customer.

The example, simulated: 200 documents of about ten words each out of ten, in four clusters, which the column `cluster`
tells and the model does not see (Stan's example models, misc/cluster/naive-bayes).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pymc as pm

from emppl.models._columns import check_table, whole

EXAMPLE = Path(__file__).parent / "data" / "simulated_documents.csv"


def build(
    data: pd.DataFrame | Mapping[str, Any] | None = None,
    *,
    k: int | None = None,
    words: str | Sequence[str] | None = None,
) -> pm.Model:
    """Mixture of k multinomials.

    data   one column a word, one row a document, counts; or a mapping with `counts` [D, V]. None: the example.
    k      number of clusters; 4 for the example, otherwise 2, if not given.
    words  the words, by name and in this order, also as "tax,goal"; all columns if not given.

    Variables: `weights` [cluster] (none for k=1); `word_probabilities` [cluster, word]; `cluster_of_document`
    [document], latent; `counts` [document, word], observed.
    Raises KeyError for a missing column, ValueError for anything else that cannot be: each names column and row.
    """
    k = (4 if data is None else 2) if k is None else k
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
        raise ValueError(f"k={k!r} is not a number of clusters: give a whole number, 1 or more")
    names, counts = _counts(pd.read_csv(EXAMPLE).drop(columns="cluster") if data is None else data, words)
    if k > len(counts):
        raise ValueError(f"k={k} clusters for {len(counts)} documents: give at most as many clusters as documents")

    coords = {"cluster": np.arange(k), "document": np.arange(len(counts)), "word": names}
    with pm.Model(coords=coords) as model:
        # Flat: the most probable weights are those of the largest likelihood, an unused cluster may get weight 0.
        weights = pm.Dirichlet("weights", np.ones(k), dims="cluster") if k > 1 else np.ones(1)
        prior = np.full(len(names), 1.0 + 1.0 / len(names))
        probabilities = pm.Dirichlet("word_probabilities", prior, dims=("cluster", "word"))
        cluster = pm.Categorical("cluster_of_document", p=weights, dims="document")
        length = counts.sum(axis=1)
        pm.Multinomial("counts", n=length, p=probabilities[cluster], observed=counts, dims=("document", "word"))
    return model


def _counts(data: pd.DataFrame | Mapping[str, Any], words: str | Sequence[str] | None) -> tuple[list[Any], np.ndarray]:
    """Words [V] and counts [D, V]."""
    check_table(data)
    if not isinstance(data, pd.DataFrame) and "counts" in data:
        table = np.asarray(data["counts"])
        if table.ndim != 2:
            raise ValueError(f"counts has shape {table.shape}: give [documents, words]")
        data = pd.DataFrame(table, columns=[f"word_{v + 1}" for v in range(table.shape[1])])
    if isinstance(words, str):
        words = [name.strip() for name in words.split(",") if name.strip()]
    names = list(data) if words is None else list(words)
    missing = [name for name in names if name not in data]
    if missing:
        raise KeyError(f"no column {missing[0]!r} in the data, which hold {list(data)[:20]}: correct words=…")
    if len(names) < 2 or len(set(names)) < len(names):
        raise ValueError(f"words={names}: give two or more, and none twice")
    columns = []
    for name in names:
        try:
            column = np.ma.filled(np.ma.asarray(data[name], dtype=float), np.nan)
        except (TypeError, ValueError) as error:
            raise ValueError(f"column {name!r} must hold counts: {error}; or leave it out, as with words=…") from None
        bad = np.flatnonzero(~((column >= 0) & (column == np.floor(column)) & np.isfinite(column)))
        if len(bad):
            raise ValueError(
                f"column {name!r}, row {bad[0]}: {column[bad[0]]:g} is not a count: give a whole number, or leave the "
                "column out, as with words=…"
            )
        columns.append(whole(name, column))
    if len({len(column) for column in columns}) > 1:
        raise ValueError(f"the columns are not of one length: {dict(zip(names, map(len, columns)))}")
    counts = np.stack(columns, axis=1)
    whole("all words", counts.sum(axis=1))
    unused = [name for name, total in zip(names, counts.sum(axis=0)) if total == 0]
    if unused:
        raise ValueError(f"column {unused[0]!r} is constant: zero in every row; leave the word out, as with words=…")
    empty = np.flatnonzero(counts.sum(axis=1) == 0)
    if len(empty):
        raise ValueError(f"row {empty[0]} has no word at all ({len(empty)} such rows): leave these documents out")
    return names, counts
