"""Members: the responsibilities at EM's estimate beside their average over the aligned posterior."""

from typing import Any

import numpy as np
import xarray as xr

from emppl.labels.draws import at, latent_draws, responsibility_chunks, shape_of, theta_draws

DRAWS_COMPUTED = 200  # where the draws hold no latent group, responsibilities are averaged over so many of them


def members(fit: Any, draws: xr.DataTree) -> dict[str, xr.Dataset]:
    """Latent name -> Dataset with `em` and `posterior`, dims (*latent dims, "<latent>_value"), rows sum to one.

    `draws` are aligned. EM plugs its estimate into p(z | y, theta); the posterior averages that over theta, so EM's
    are the more extreme of the two.
    """
    plan = fit.plan
    plugged = plan.responsibilities(fit.point)
    theta = theta_draws(draws, plan, fit.point)
    found = {}
    for latent in plan.structure.latents:
        em = np.asarray(plugged[latent.name], dtype=float)
        mean = _average(draws, plan, latent.name, theta, em)
        dims = (*latent.dims, f"{latent.name}_value")
        values = {dim: plan.structure.coords[dim] for dim in latent.dims if dim in plan.structure.coords}
        values[dims[-1]] = value_labels(plan, latent)
        found[latent.name] = xr.Dataset({"em": (dims, em), "posterior": (dims, mean)}, coords=values)
    return found


def value_labels(plan: Any, latent: Any) -> list[str]:
    """What each value of a latent is called: the labels of its component axis, else the values themselves."""
    for axis in plan.axes:
        if axis.latent == latent.name:
            return [str(label) for label in axis.labels]
    return [str(value) for value in np.asarray(latent.support)]


def _average(draws: xr.DataTree, plan: Any, latent: str, theta: dict[str, np.ndarray], like: np.ndarray) -> np.ndarray:
    n_draws = int(np.prod(shape_of(draws)))
    if latent_draws(draws, latent) is not None:
        total = np.zeros((like.size // like.shape[-1], like.shape[-1]))
        for _, p in responsibility_chunks(draws, plan, latent, theta):
            total += p.sum(axis=0)
        return (total / n_draws).reshape(like.shape)
    picked = spread(n_draws, DRAWS_COMPUTED)
    return np.mean([plan.responsibilities(at(theta, t))[latent] for t in picked], axis=0)


def spread(total: int, wanted: int) -> np.ndarray:
    """Up to `wanted` indices spread evenly over 0..total-1."""
    return np.unique(np.linspace(0, total - 1, min(total, wanted)).round().astype(int))


def changes(table: xr.Dataset) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Most probable value by EM [n], by the posterior average [n], largest |difference| of each member [n]."""
    em = table["em"].values.reshape(-1, table["em"].shape[-1])
    posterior = table["posterior"].values.reshape(em.shape)
    return em.argmax(axis=1), posterior.argmax(axis=1), np.abs(em - posterior).max(axis=1)


def member_names(table: xr.Dataset) -> list[str]:
    """ "set 3", or "site 3, visit 2" for a latent on two plates: the members, row by row."""
    dims = table["em"].dims[:-1]
    if not dims:
        return ["the whole data set"]
    labels = [[str(value) for value in table[dim].values] for dim in dims]
    return [
        ", ".join(f"{dim} {labels[d][i]}" for d, (dim, i) in enumerate(zip(dims, index, strict=True)))
        for index in np.ndindex(*table["em"].shape[:-1])
    ]
