"""Genetic linkage: how often two genes are inherited together, from animals sorted by looks; genes are hidden.

    pi                 ~ Beta(1, 1)
    cell_of_animal[n]  ~ Categorical(1/2, pi/4, (1-pi)/4, (1-pi)/4, pi/4)     n = 0 … N-1, hidden
    phenotype[n]       = AB, AB, Ab, aB, ab for the five cells                observed

Two genes with a dominant form each (A over a, B over b) sit on one chromosome, and offspring of double heterozygotes
show AB, Ab, aB or ab. With recombination fraction r, pi = (1 - r)². An animal that shows AB belongs to the cell of
probability 1/2, which says nothing of pi, or to that of probability pi/4: which one is hidden. So the observed cells
have the probabilities 1/2 + pi/4, (1-pi)/4, (1-pi)/4 and pi/4.

The example, 197 animals, is the first one of Dempster, Laird & Rubin (1977), Maximum likelihood from incomplete data
via the EM algorithm, Journal of the Royal Statistical Society B 39:1-38, from Rao (1965), Linear Statistical Inference
and Its Applications, pp. 368-369. Plain EM from pi = 0.5 (`start={"pi": 0.5}, starts=0, accelerate=None`) goes through
their table: 0.608247423, 0.624321051, 0.626488879, …
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pymc as pm
import pytensor.tensor as pt

from emppl.models._columns import beta_prior, check_table, whole

EXAMPLE = Path(__file__).parent / "data" / "linkage.csv"
PHENOTYPES = ("AB", "Ab", "aB", "ab")
CELLS = ("AB (any pi)", "AB (by pi)", "Ab", "aB", "ab")
SHOWS = np.array([[1.0, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])  # [cell, phenotype]


def build(data: pd.DataFrame | Mapping[str, Any] | None = None, *, prior: tuple[float, float] = (1.0, 1.0)) -> pm.Model:
    """Linkage of two genes from the phenotypes of offspring.

    data   `phenotype`, AB, Ab, aB or ab, and `count` [4 or fewer rows], the animals of each; or `phenotype` alone, one
           row an animal. None: the example.
    prior  (a, b) of the Beta prior of pi; (1, 1) is flat, so that the mode is the maximum of the likelihood.

    Variables: `pi`; `recombination` = 1 - sqrt(pi), a deterministic; `cell_of_animal` [animal], latent, one of five;
    `phenotype` [animal], observed. The log-likelihood is that of the animals one by one: the multinomial coefficient
    of the table of counts, which holds no pi, is not in it.
    Raises KeyError for a missing column, ValueError for anything else that cannot be: each names column and row.
    """
    a, b = beta_prior(prior)
    phenotype = _phenotypes(pd.read_csv(EXAMPLE) if data is None else data)
    coords = {"animal": np.arange(len(phenotype)), "cell": list(CELLS)}
    with pm.Model(coords=coords) as model:
        pi = pm.Beta("pi", a, b)
        pm.Deterministic("recombination", 1.0 - pt.sqrt(pi))
        probabilities = pt.stack([pt.constant(0.5), pi / 4, (1 - pi) / 4, (1 - pi) / 4, pi / 4])
        cell = pm.Categorical("cell_of_animal", p=probabilities, dims="animal")
        pm.Categorical("phenotype", p=pt.constant(SHOWS)[cell], observed=phenotype, dims="animal")
    return model


def _phenotypes(data: pd.DataFrame | Mapping[str, Any]) -> np.ndarray:
    """Place of each animal's phenotype among PHENOTYPES [N]."""
    check_table(data)
    if "phenotype" not in data:
        raise KeyError(f"no column 'phenotype' in the data, which hold {list(data)}: rename yours, or add it")
    shown = np.atleast_1d(np.ma.filled(np.ma.asarray(data["phenotype"]).astype(object), None))
    if len(shown) == 0:
        raise ValueError("column 'phenotype' has no rows: give the animals, or a count for each phenotype")
    for i, value in enumerate(shown):
        if value not in PHENOTYPES:
            raise ValueError(f"column 'phenotype', row {i}: {value!r} is none of {', '.join(PHENOTYPES)}")
    places = np.array([PHENOTYPES.index(value) for value in shown])
    if "count" not in data:
        return places
    try:
        counts = np.ma.filled(np.ma.asarray(data["count"], dtype=float), np.nan)
    except (TypeError, ValueError) as error:
        raise ValueError(f"column 'count' must hold numbers: {error}") from None
    if counts.shape != places.shape:
        raise ValueError(f"column 'count' has shape {counts.shape}, phenotype {places.shape}: give one number a row")
    bad = np.flatnonzero(~((counts >= 0) & (counts == np.floor(counts)) & np.isfinite(counts)))
    if len(bad):
        raise ValueError(f"column 'count', row {bad[0]}: {counts[bad[0]]:g} is not a number of animals: correct it")
    if counts.sum() == 0:
        raise ValueError("column 'count' is constant: no animal of any phenotype")
    return np.repeat(places, whole("count", counts))
