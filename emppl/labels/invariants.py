"""What no renaming of components changes: where chains differ in it, they differ in more than names."""

from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from emppl.labels.align import AxisAlignment
from emppl.labels.draws import LEAST_DRAWS, Theta, convergence, sampler_record, shape_of, stacked
from emppl.labels.subject import components_of

MOST = 200  # sorted numbers of one axis that are looked at


def empty() -> pd.DataFrame:
    """The table without rows."""
    return pd.DataFrame({"r_hat": np.empty(0), "ess": np.empty(0), "apart": np.empty(0, dtype=bool)})


def invariants(draws: xr.DataTree, plan: Any, alignments: tuple[AxisAlignment, ...], theta: Theta) -> pd.DataFrame:
    """R-hat, bulk effective sample size and whether chains are apart: log density, sorted parameters, occupancy, …

    Parameters are sorted over the components that may change places; a table that several axes share is sorted as a
    whole. Empty where nothing may be renamed.
    """
    chains, length = shape_of(draws)
    rows: dict[str, np.ndarray] = {}
    if alignments:
        rows |= _densities(draws)
    # a map of the parameters that is no permutation leaves no sorted parameters as they are
    sorted_too = [found for found in alignments if components_of(found.axis, theta, plan)[0] is not None]
    carriers = [name for found in sorted_too for name in found.axis.variables]
    shared = sorted({name for name in carriers if carriers.count(name) > 1})
    for name in shared:
        flat = np.sort(theta[name].reshape(len(theta[name]), -1), axis=1)
        rows |= {f"{name} sorted as a whole, {_place(i, flat.shape[1])}": flat[:, i] for i in _some(flat.shape[1])}
    for found in alignments:
        values, columns = components_of(found.axis, theta, plan)
        for r in _some(0 if values is None else values.shape[2], found.axis.size):
            assert values is not None
            if columns[r].partition("[")[0].removesuffix(" diagonal") in shared:
                continue
            for group in found.groups:
                ranked = np.sort(values[:, list(group), r], axis=1)
                for i in range(len(group)):
                    rows[f"{columns[r]} sorted, {_place(i, len(group))}{_of(found, group)}"] = ranked[:, i]
        if found.occupied is not None:
            rows["number of occupied components" + _family(found, alignments)] = found.occupied.astype(float)
    if not rows:
        return empty()
    table = np.stack(list(rows.values()), axis=1).reshape(chains, length, -1)
    r_hat, ess = convergence(table)
    told = {"r_hat": r_hat, "ess": ess, "apart": _apart(table)}
    return pd.DataFrame(told, index=pd.Index(list(rows), dtype=object))


def _apart(table: np.ndarray) -> np.ndarray:
    """Whether the central 90 % of some two chains [chain, draw, R] have nothing in common: [R]. One chain: its halves.

    Chains that mix slowly overlap, and only their R-hat is high; chains in modes of their own never meet.
    """
    if len(table) == 1:
        half = table.shape[1] // 2
        table = np.stack([table[0, :half], table[0, half : 2 * half]])
    if table.shape[1] < LEAST_DRAWS:
        return np.zeros(table.shape[2], dtype=bool)
    low, high = np.quantile(table, (0.05, 0.95), axis=1)
    return (low[:, None] > high[None, :]).any(axis=(0, 1))


def _densities(draws: xr.DataTree) -> dict[str, np.ndarray]:
    found = {}
    for name in ("log_posterior", "lp"):
        record = sampler_record(draws, name)
        if record is not None:
            found["log density"] = record
            break
    if "log_likelihood" in draws.children:
        group = draws["log_likelihood"].to_dataset()
        parts = [stacked(group[name]) for name in group.data_vars if {"chain", "draw"} <= set(group[name].dims)]
        if parts:
            found["log-likelihood"] = np.sum([part.reshape(len(part), -1).sum(axis=1) for part in parts], axis=0)
    return found


def _some(count: int, each: int = 1) -> np.ndarray:
    """Indices of all, or of as many spread evenly as are looked at."""
    wanted = max(1, MOST // each)
    return np.arange(count) if count <= wanted else np.unique(np.linspace(0, count - 1, wanted).astype(int))


def _place(i: int, count: int) -> str:
    return "least" if i == 0 else "largest" if i == count - 1 else f"{i + 1} of {count}"


def _of(found: AxisAlignment, group: tuple[int, ...]) -> str:
    if len(group) == found.axis.size:
        return ""
    return f" of {', '.join(str(found.axis.labels[k]) for k in group)}"


def _family(found: AxisAlignment, alignments: tuple[AxisAlignment, ...]) -> str:
    return "" if len(alignments) == 1 else f" of {found.axis.dim or found.axis.latent}"
