"""The comparison table: a row for each number of the model, EM's estimate beside the aligned posterior."""

from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from arviz_stats.base import array_stats
from scipy.stats import skew

from emppl.comparison.evidence import is_degenerate
from emppl.labels.diagnose import element_names
from emppl.labels.draws import convergence, is_constant, posterior_of
from emppl.limits import as_printed

COLUMNS = [
    "estimate", "standard_error", "low", "high", "mean", "sd", "hdi_low", "hdi_high", "r_hat", "ess_bulk",
    "difference", "flag",
]  # fmt: skip
INTERVAL = 0.95  # of EM's interval, and of the posterior's beside it
R_HAT_LIMIT = 1.01  # Vehtari et al. (2021)
ESS_LIMIT = 400  # Vehtari et al. (2021): 100 for each of four chains
TAIL_LIMIT = 0.01  # an estimate in the outer 1 % of the posterior on either side is "far"
SKEW_LIMIT = 0.5  # beyond this a normal interval visibly misses on one side
DERIVED_ELEMENTS = 50  # a deterministic with more elements is data-sized: left out of the table


def tabulate(fit: Any, draws: xr.DataTree) -> tuple[pd.DataFrame, pd.DataFrame, tuple[str, ...]]:
    """Table with the columns COLUMNS, a second one with what the verdicts need, names of variables left out.

    Rows: parameters in the model's order, then deterministics that depend on parameters alone. `draws` are aligned.
    low and high are EM's interval, that of `fit.summary()`: 95 %, on the unconstrained scale; hdi_low and hdi_high the
    shortest interval with 95 % of the draws. Second table: variable, derived (bool), constant (bool), quantile (of the
    estimate in the posterior), skewness, coverage (share of the draws inside EM's interval), mcse (Monte Carlo error of
    the mean).
    """
    posterior, coords = posterior_of(draws), fit.plan.structure.coords
    errors, intervals = fit.standard_errors(), fit.intervals(INTERVAL)
    parameters = [node.name for node in fit.plan.structure.parameters]
    derived = [name for name in fit.theta.data_vars if name not in parameters]
    pieces, left_out = [], []
    for name in (*parameters, *derived):
        if name not in posterior or name not in fit.theta:
            continue
        if name in derived and fit.theta[name].size > DERIVED_ELEMENTS:
            left_out.append(str(name))
            continue
        estimate = np.asarray(fit.theta[name].values, dtype=float)
        values = posterior[name].transpose("chain", "draw", ...).values.astype(float)
        error = np.asarray(errors[name].values, dtype=float) if name in errors else np.full(estimate.shape, np.nan)
        ends = intervals[name].values if name in intervals else np.full((2, *estimate.shape), np.nan)
        piece = _summarise(estimate, np.broadcast_to(error, estimate.shape), ends, values)
        piece.index = element_names(str(name), estimate.shape, _dims(fit, name), coords)
        piece.insert(0, "variable", str(name))
        piece.insert(1, "derived", name in derived)
        pieces.append(piece)
    full = pd.concat(pieces) if pieces else _summarise(np.empty(0), np.empty(0), np.empty((2, 0)), np.empty((1, 1, 0)))
    bounded = not is_degenerate(fit)  # else nothing has a standard error
    full["flag"] = flags(full, bounded)
    details = ["variable", "derived", "constant", "quantile", "skewness", "coverage", "mcse"]
    return full[COLUMNS], full.reindex(columns=details), tuple(left_out)


def _dims(fit: Any, name: Any) -> tuple[str, ...]:
    for node in (*fit.plan.structure.parameters, *fit.plan.structure.deterministics):
        if node.name == name:
            return tuple(node.dims)
    return tuple(map(str, fit.theta[name].dims))


def _summarise(estimate: np.ndarray, error: np.ndarray, ends: np.ndarray, values: np.ndarray) -> pd.DataFrame:
    """One row for each element; estimate and error [...], ends of its interval [2, ...], values [chain, draw, ...]."""
    values = values.reshape(*values.shape[:2], -1)
    estimate, error, (low, high) = estimate.ravel(), error.ravel(), ends.reshape(2, -1)
    flat = values.reshape(-1, values.shape[2])
    r_hat, ess = convergence(values)
    constant = is_constant(values) if values.size else np.zeros(0, dtype=bool)
    sd = np.where(constant, 0.0, flat.std(axis=0, ddof=1) if len(flat) > 1 else 0.0)
    mean = np.where(constant, flat[0], flat.mean(axis=0))
    hdi = array_stats.hdi(values, INTERVAL, axis=[0, 1]) if values.size else np.empty((0, 2))
    moving = sd > 0
    skewness = np.zeros(len(sd))
    skewness[moving] = skew(flat[:, moving], axis=0)
    same = np.isclose(estimate, mean, rtol=1e-6, atol=1e-9)
    difference = np.where(same & ~moving, 0.0, np.nan)
    difference[moving] = (estimate - mean)[moving] / sd[moving]
    inside = (flat >= low) & (flat <= high)
    return pd.DataFrame(
        {
            "estimate": estimate,
            "standard_error": error,
            "low": low,
            "high": high,
            "mean": mean,
            "sd": sd,
            "hdi_low": hdi[:, 0],
            "hdi_high": hdi[:, 1],
            "r_hat": r_hat,
            "ess_bulk": ess,
            "difference": difference,
            "constant": constant,
            # ties count half, so that an estimate amid equal draws lies in their middle
            "quantile": ((flat < estimate).mean(axis=0) + (flat <= estimate).mean(axis=0)) / 2,
            "skewness": skewness,
            "coverage": np.where(np.isnan(low) | constant, np.nan, inside.mean(axis=0)),
            "mcse": sd / np.sqrt(np.where(ess > 0, ess, np.nan)),
        }
    )


def flags(rows: pd.DataFrame, bounded: bool, pooled: bool = True) -> list[str]:
    """What a reader should look at in each row of both tables together.

    `bounded`: whether a missing standard error is a border's. `pooled`: whether anything may rest on all draws
    together, the place of the estimate among them and their skewness.
    """
    return [_flag(row, bounded, pooled) for _, row in rows.iterrows()]


def _flag(row: pd.Series, bounded: bool, pooled: bool) -> str:
    """Short words for what a reader should look at in a row, none when all is well."""
    if row["constant"]:
        return "" if row["difference"] == 0 or not pooled else "far"
    tail = min(row["quantile"], 1 - row["quantile"])
    words = {
        "R-hat": as_printed(row["r_hat"], R_HAT_LIMIT, 3) > R_HAT_LIMIT,
        "ESS": as_printed(row["ess_bulk"], ESS_LIMIT, 0) < ESS_LIMIT,
        "boundary": bounded and bool(np.isnan(row["standard_error"])) and not row["derived"],
        "far": pooled and as_printed(tail, TAIL_LIMIT, 3) < TAIL_LIMIT,
        "skewed": pooled and as_printed(abs(row["skewness"]), SKEW_LIMIT, 2) > SKEW_LIMIT,
    }
    return ", ".join(word for word, holds in words.items() if holds)
