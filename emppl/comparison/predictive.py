"""Prediction: leave-one-out scores of the posterior, and stacking weights of chains that do not mix."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from arviz_stats import compare as az_compare
from arviz_stats import loo as az_loo

from emppl.ascent.atlas import Atlas
from emppl.comparison.evidence import Evidence, Verdict, listed, pooled, verdict
from emppl.comparison.members import spread
from emppl.comparison.mixing import residence
from emppl.concurrency import quiet
from emppl.labels.diagnose import R_HAT_ALIGNED

CELLS = 2e7  # rows × draws that leave-one-out goes over; more draws are thinned
MOST_ROWS = 5000  # more are thinned too: tails are fitted row by row
LEAST_DRAWS = 100  # fewer say nothing about tails
PARETO_LIMIT = 0.7  # Vehtari, Gelman & Gabry (2017): above it the estimate for a row cannot be trusted


@dataclass(frozen=True)
class Prediction:
    """Leave-one-out prediction by PSIS (Vehtari, Gelman & Gabry 2017), of all chains together.

    elpd: expected log density of the rows, each predicted from the others; error: its standard error; effective:
    effective number of parameters; unreliable: how many rows have a Pareto k above 0.7; rows: how many were looked at,
    of `total`. groups: chains that do not mix,
    a row for each group: chains, mode (of the atlas, -1 where it says nothing), elpd, weight (by stacking); empty where
    all chains mix. LOO does not depend on names, so relabelled copies of one mode are one group.
    """

    elpd: float
    error: float
    effective: float
    unreliable: int
    rows: int
    total: int
    groups: pd.DataFrame


def predict(draws: xr.DataTree, modes: Atlas | None, r_hat: float) -> Prediction | None:
    """LOO of the draws, and stacking weights where chains stay apart; None where the draws hold no log-likelihoods.

    `r_hat`: the largest after alignment. Chains are grouped by the mode in which they stay; where they are in one mode
    and yet R-hat is high, each chain is a group.
    """
    thinned = _rows(draws)
    if thinned is None:
        return None
    found = _score(thinned)
    if found is None:
        return None
    return Prediction(
        float(found.elpd), float(found.se), float(found.p), int((found.pareto_k > PARETO_LIMIT).sum()),
        int(found.pareto_k.size), thinned.attrs["total"], _stacked(thinned, modes, r_hat),
    )  # fmt: skip


def _score(draws: xr.DataTree) -> Any:
    """PSIS-LOO, row by row; None where the draws do not vary."""
    with quiet():  # of Pareto k, which is told in a verdict
        try:
            return az_loo(draws, var_name="all", pointwise=True)
        except ValueError:  # arviz: "All tail values are the same"
            return None


def _rows(draws: xr.DataTree) -> xr.DataTree | None:
    """Log-likelihoods of all observed variables as one variable `all`, draws and rows thinned where they are many."""
    if "log_likelihood" not in draws.children:
        return None
    group = draws["log_likelihood"].to_dataset()
    parts = []
    for name in group.data_vars:
        if not {"chain", "draw"} <= set(group[name].dims):
            return None
        values = group[name].transpose("chain", "draw", ...).values
        parts.append(values.reshape(*values.shape[:2], -1))
    if not parts:
        return None
    values = np.concatenate(parts, axis=2)
    total = values.shape[2]
    values = values[:, :, spread(total, MOST_ROWS)]
    keep = spread(values.shape[1], max(int(CELLS / (values.shape[0] * values.shape[2])), 1))
    values = values[:, keep]
    if values[..., 0].size < LEAST_DRAWS or values.shape[2] < 2 or not np.isfinite(values).all():
        return None
    likelihood = xr.Dataset({"all": (("chain", "draw", "row"), values)})
    posterior = xr.Dataset({"total": (("chain", "draw"), values.sum(axis=2))})  # what the efficiency is judged by
    tree = xr.DataTree.from_dict({"posterior": posterior, "log_likelihood": likelihood})
    tree.attrs["total"] = total
    return tree


def _stacked(draws: xr.DataTree, modes: Atlas | None, r_hat: float) -> pd.DataFrame:
    columns = ["chains", "mode", "elpd", "weight"]
    chains = draws["posterior"].sizes["chain"]
    homes = residence(modes) if modes is not None and len(modes.reached) else np.full(chains, -1)
    if len(homes) != chains:
        homes = np.full(chains, -1)
    if len(set(homes[homes >= 0].tolist())) > 1:  # a chain that moves between modes by itself is no sign of it
        groups = [(np.flatnonzero(homes == home), int(home)) for home in sorted(set(homes.tolist()))]
    elif r_hat > R_HAT_ALIGNED and chains > 1:
        groups = [(np.array([chain]), int(homes[chain])) for chain in range(chains)]
    else:
        return pd.DataFrame(columns=columns)
    scores = {str(i): _score(draws.isel(chain=members)) for i, (members, _) in enumerate(groups)}
    scores = {name: score for name, score in scores.items() if score is not None}  # a chain that stands still has none
    if len(scores) < 2:
        return pd.DataFrame(columns=columns)
    with quiet():
        weights = az_compare(scores, method="stacking", round_to="none")["weight"]
    rows = [
        (tuple(int(c) for c in groups[int(i)][0]), groups[int(i)][1], float(score.elpd), float(weights[i]))
        for i, score in scores.items()
    ]
    return pd.DataFrame(rows, columns=columns)


@verdict
@pooled
def loo(evidence: Evidence) -> Verdict | None:
    """How well does the posterior predict rows that it has not seen, and can that number be trusted?"""
    found: Prediction | None = evidence.prediction
    if found is None:
        return None
    holds = found.unreliable == 0
    rows = f"{found.rows:,} of the {found.total:,}" if found.rows < found.total else f"the {found.rows:,}"
    text = (
        f"expected log density of {rows} rows, each predicted from the others: {found.elpd:.1f} ± "
        f"{found.error:.1f} ({found.effective:.1f} effective parameters)"
    )
    if not holds:
        which = "one of them has" if found.unreliable == 1 else f"{found.unreliable} of them have"
        text += f"; {which} a Pareto k above {PARETO_LIMIT}, so the number is too good"
    advice = "" if holds else "such rows move the posterior by themselves: look at them, or leave them out one by one"
    measure = f"rows with a Pareto k above {PARETO_LIMIT}"
    return Verdict("loo", float(found.unreliable), 0.0, holds, text, measure, False, advice)


@verdict
def stacking(evidence: Evidence) -> Verdict | None:
    """Where chains do not mix: which of them predict best?"""
    found: Prediction | None = evidence.prediction
    if found is None or found.groups.empty:
        return None
    groups, atlas = found.groups, evidence.atlas
    own = atlas.known[0] if atlas is not None and atlas.known else -1
    said = [
        f"{_chains(row.chains)} {_mode(row.mode, own)}{row.weight:.0%}"
        for row in groups.sort_values("weight", ascending=False).itertuples()
    ]
    text = f"chains do not mix; weights by how well each part predicts (stacking): {listed(said)}"
    at_home = groups.loc[groups["mode"] == own, "weight"].sum() if own >= 0 else np.nan
    if own >= 0 and (groups["mode"] == own).any() and at_home < 0.5:
        text += ": the chains outside EM's mode predict better"
    advice = "sample longer; if the chains must be put together, weigh them by this and not by their numbers of draws"
    measure = "groups of chains that do not mix with each other"
    return Verdict("stacking", float(len(groups)), 1.0, False, text, measure, False, advice)


def _chains(chains: tuple[int, ...]) -> str:
    return f"chain{'' if len(chains) == 1 else 's'} {listed(chains)}"


def _mode(mode: int, own: int) -> str:
    return "" if mode < 0 or own < 0 else "(EM's mode) " if mode == own else "(another mode) "
