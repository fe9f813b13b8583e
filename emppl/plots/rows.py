"""Which rows of a comparison are drawn, their draws, and the scales they share."""

from typing import Any

import numpy as np
import xarray as xr

from emppl.structure.symmetry import axes_of


def shown_rows(comparison: Any, limit: int) -> list[str]:
    """Up to `limit` parameters that move, those with a flag first, then in the order of the table."""
    details = comparison.details
    rows = comparison.table[~details["constant"].astype(bool) & ~details["derived"].astype(bool)]
    if len(rows) > limit:
        kept = set(rows.index[np.argsort(rows["flag"] == "", kind="stable")[:limit]])
        return [str(name) for name in rows.index if name in kept]
    return [str(name) for name in rows.index]


def element_draws(comparison: Any, name: str, posterior: xr.Dataset | None = None) -> np.ndarray:
    """Draws of one row of the table, chain by chain: [T]; the aligned ones where no `posterior` is given."""
    rows = comparison.details
    variable = rows.loc[name, "variable"]
    within = int(np.flatnonzero(rows.index[rows["variable"] == variable] == name)[0])
    source = comparison.draws["posterior"] if posterior is None else posterior
    values = source[variable].transpose("chain", "draw", ...).values
    return values.reshape(values.shape[0] * values.shape[1], -1)[:, within]


def as_sampled(comparison: Any) -> xr.Dataset:
    """The posterior before alignment: every permutation that the switching report holds is taken back."""
    posterior = comparison.draws["posterior"].to_dataset()
    strong = {axis.latent: axis.permutations for axis in comparison.switching.axes if not axis.weak}
    flat = parameter_draws(comparison)
    for axis in reversed(axes_of(comparison.fit.plan)):
        if axis.latent in strong:
            perms = strong[axis.latent]
            back = np.argsort(perms.reshape(-1, perms.shape[-1]), axis=-1)
            flat |= axis.permute_draws(flat, back)
    for name in set(flat) & set(posterior.data_vars):
        aligned = posterior[name].transpose("chain", "draw", ...)
        posterior[name] = aligned.copy(data=np.asarray(flat[name]).reshape(aligned.shape))
    return posterior


def parameter_draws(comparison: Any) -> dict[str, np.ndarray]:
    """Aligned draws of every parameter, chain by chain, the frozen ones at their value: {name: [T, *shape]}."""
    posterior = comparison.draws["posterior"].to_dataset()
    size = posterior.sizes["chain"] * posterior.sizes["draw"]
    flat = {}
    for node in comparison.fit.plan.structure.parameters:
        if node.name in posterior:
            values = posterior[node.name].transpose("chain", "draw", ...).values
            flat[node.name] = values.reshape(size, *values.shape[2:])
        else:
            value = np.asarray(comparison.fit.point[node.name])
            flat[node.name] = np.broadcast_to(value, (size, *value.shape))
    return flat


def shared_limits(comparison: Any, names: list[str]) -> dict[str, tuple[float, float]]:
    """Horizontal range of each panel: one for all elements of a variable, unless that would flatten them to spikes."""
    own, limits = {}, {}
    for name in names:
        row, values = comparison.table.loc[name], element_draws(comparison, name)
        low, high = np.quantile(values, [0.004, 0.996])
        ends = np.array([row["low"], row["estimate"], row["high"]])
        reach = 3 * (high - low)  # a huge interval must not squeeze the posterior to a line
        ends = np.clip(ends[np.isfinite(ends)], row["estimate"] - reach, row["estimate"] + reach)
        own[name] = (min(low, ends.min()), max(high, ends.max()))
    for name in names:
        alike = [own[other] for other in names if _variable(comparison, other) == _variable(comparison, name)]
        both = min(low for low, _ in alike), max(high for _, high in alike)
        typical = float(np.median([high - low for low, high in alike]))
        low, high = both if both[1] - both[0] <= 6 * typical else own[name]
        margin = 0.04 * (high - low) or 1.0
        limits[name] = (low - margin, high + margin)
    return limits


def _variable(comparison: Any, name: str) -> str:
    return comparison.details.loc[name, "variable"]
