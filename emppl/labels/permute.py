"""Renaming components in draws: parameters, deterministics that follow from them, latents; dims and coords kept."""

from typing import Any

import numpy as np
import xarray as xr

from emppl.kernels.assignment import inverse
from emppl.labels.align import AxisAlignment
from emppl.labels.draws import Theta, at, latent_draws, posterior_of, shape_of, stacked
from emppl.labels.subject import first_label, latents_of


def permuted(draws: xr.DataTree, plan: Any, alignments: tuple[AxisAlignment, ...], theta: Theta) -> xr.DataTree:
    """The draws with every component renamed: parameters, deterministics that follow from them, the latent group.

    All other groups are kept as they are. A group `relabelling` records the permutations [chain, draw, component].
    """
    tree = draws.copy()
    moved = np.zeros(int(np.prod(shape_of(draws))), dtype=bool)
    renamed = dict(theta)
    for found in alignments:
        renamed |= found.axis.permute_draws(renamed, found.permutations)
        moved |= (found.permutations != np.arange(found.axis.size)).any(axis=1)
    if moved.any():
        tree["posterior"] = xr.DataTree(_posterior(posterior_of(draws), plan, renamed, moved))
        for group, changed in _latents(draws, alignments).items():
            tree[group] = xr.DataTree(tree[group].to_dataset().assign(changed))
    if alignments:
        tree["relabelling"] = xr.DataTree(_record(posterior_of(draws), alignments))
        tree.attrs["relabel_method"] = alignments[0].method
        tree.attrs["relabel_reason"] = alignments[0].why
    return tree


def _posterior(posterior: xr.Dataset, plan: Any, theta: Theta, moved: np.ndarray) -> xr.Dataset:
    """Parameters as given, deterministics computed anew at the draws that moved."""
    new = {name: values for name, values in theta.items() if name in posterior}
    derived = {name for name in plan.deterministics(at(theta, 0)) if name in posterior and name not in new}
    if derived:
        new |= {name: np.array(posterior[name].transpose("chain", "draw", ...).values) for name in derived}
        new |= {name: new[name].reshape(-1, *new[name].shape[2:]) for name in derived}
        for t in np.flatnonzero(moved):
            values = plan.deterministics(at(theta, t))
            for name in derived:
                new[name][t] = values[name]
    changed = {}
    for name, values in new.items():
        before = posterior[name].transpose("chain", "draw", ...)
        changed[name] = before.copy(data=values.reshape(before.shape)).transpose(*posterior[name].dims)
    return posterior.assign(changed)


def _latents(draws: xr.DataTree, alignments: tuple[AxisAlignment, ...]) -> dict[str, dict[str, xr.DataArray]]:
    """By group: probabilities of latents with their last axis, the values, permuted, and allocations renamed."""
    changed: dict[str, dict[str, xr.DataArray]] = {}
    for found in alignments:
        axis = found.axis
        for name in latents_of(axis):
            before = latent_draws(draws, name)
            if before is not None and before.shape[-1] == axis.size:
                changed.setdefault("latent", {})[name] = _along_last(before, found)
        stored = getattr(axis, "responsibilities", None)
        if stored is not None:
            changed.setdefault(stored[0], {})[stored[1]] = _along_last(draws[stored[0]].to_dataset()[stored[1]], found)
        stored = getattr(axis, "allocations", None)
        if stored is not None:
            changed.setdefault(stored[0], {})[stored[1]] = _renamed(draws[stored[0]].to_dataset()[stored[1]], found)
    return changed


def _along_last(variable: xr.DataArray, found: AxisAlignment) -> xr.DataArray:
    before = variable.transpose("chain", "draw", ...)
    shape = (*before.shape[:2], *(1,) * (before.ndim - 3), found.axis.size)
    values = np.take_along_axis(before.values, found.permutations.reshape(shape), axis=-1)
    return before.copy(data=values).transpose(*variable.dims)


def _renamed(variable: xr.DataArray, found: AxisAlignment) -> xr.DataArray:
    """Allocations under the new names, counted from where they were counted from."""
    before = variable.transpose("chain", "draw", ...)
    flat = stacked(before)
    first = first_label(flat, found.axis.size)
    rows = np.arange(len(flat)).reshape(-1, *[1] * (flat.ndim - 1))
    values = inverse(found.permutations)[rows, flat.astype(np.int64) - first] + first
    return before.copy(data=values.reshape(before.shape).astype(flat.dtype)).transpose(*variable.dims)


def _record(posterior: xr.Dataset, alignments: tuple[AxisAlignment, ...]) -> xr.Dataset:
    shape = (posterior.sizes["chain"], posterior.sizes["draw"])
    variables: dict[str, Any] = {}
    attrs = {}
    for found in alignments:
        name, dim = found.axis.latent, f"{found.axis.latent}_new_label"
        variables[name] = (("chain", "draw", dim), found.permutations.reshape(*shape, -1))
        variables[f"{name}_margin"] = (("chain", "draw"), found.margins.reshape(shape))
        attrs[f"{name}_method"] = f"{found.method}: {found.why}" if found.why else found.method
    coords = {name: posterior[name] for name in ("chain", "draw") if name in posterior}
    return xr.Dataset(variables, coords=coords, attrs=attrs)
