"""Reading draws: what a relabelling method or a diagnosis needs from an ArviZ DataTree, as plain arrays.

Shapes here: T = chains × draws, chain by chain; K components; n members of a latent (its plates flattened).
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import xarray as xr
from arviz_stats.base import array_stats

from emppl.errors import InvalidArgumentError

Theta = dict[str, np.ndarray]

CHUNK_CELLS = 4_000_000  # responsibilities held at once: 32 MB of doubles, whatever the number of draws
LEAST_DRAWS = 8  # split R-hat halves every chain and takes a variance within each half


def posterior_of(draws: xr.DataTree) -> xr.Dataset:
    """The `posterior` group as a Dataset.

    Raises InvalidArgumentError when there is none, it lacks chain or draw, or holds no draw.
    """
    if not isinstance(draws, xr.DataTree):
        raise InvalidArgumentError(
            f"draws must be an xarray DataTree, as ArviZ 1 uses it, not {type(draws).__name__}",
            "the argument `draws`",
            (
                "draws = emppl.sample(model), or pm.sample(...)",
                'az.from_dict({"posterior": {...}}) with arrays of shape [chain, draw, ...]',
            ),
        )
    if "posterior" not in draws.children:
        raise InvalidArgumentError(
            f"the draws hold no posterior group, only {', '.join(sorted(draws.children)) or 'nothing'}",
            "the argument `draws`",
            ('az.from_dict({"posterior": {...}})',),
        )
    posterior = draws["posterior"].to_dataset()
    missing = [dim for dim in ("chain", "draw") if dim not in posterior.dims]
    if missing:
        raise InvalidArgumentError(
            f"the posterior group has dims {', '.join(map(str, posterior.dims))}, without {' and '.join(missing)}",
            "draws.posterior",
            ("posterior.expand_dims(chain=[0]), for a single chain",),
        )
    if not (posterior.sizes["chain"] and posterior.sizes["draw"]):
        stopped = draws.attrs.get("interrupted") == "True"
        raise InvalidArgumentError(
            "there are no draws" + (": sampling was interrupted before the first" if stopped else ""),
            "draws.posterior",
            ("sample again",),
        )
    return posterior


def shape_of(draws: xr.DataTree) -> tuple[int, int]:
    """Numbers of chains and of draws in each."""
    sizes = posterior_of(draws).sizes
    return int(sizes["chain"]), int(sizes["draw"])


def sampler_record(draws: xr.DataTree, name: str) -> np.ndarray | None:
    """A number or flag that the sampler noted with every draw (`lp`, `diverging`): [T], None where it did not."""
    if "sample_stats" not in draws.children:
        return None
    group = draws["sample_stats"].to_dataset()
    return stacked(group[name]) if name in group else None


def stacked(variable: xr.DataArray) -> np.ndarray:
    """Values of one variable of the draws as [T, *shape], chain by chain."""
    values = variable.transpose("chain", "draw", ...).values
    return values.reshape(-1, *values.shape[2:])


def theta_draws(draws: xr.DataTree, plan: Any, fixed: Mapping[str, Any] | None = None) -> Theta:
    """Every free parameter of the plan as [T, *shape], on the constrained scale.

    A parameter that the draws lack (it was frozen) takes its value in `fixed`, repeated. Raises
    InvalidArgumentError naming the parameters that neither has, those whose shape in the draws is not the model's, and
    those that are no finite number in some draw.
    """
    posterior = posterior_of(draws)
    n_draws = posterior.sizes["chain"] * posterior.sizes["draw"]
    fixed = fixed or {}
    theta, missing = {}, []
    for parameter in plan.structure.parameters:
        name, shape = parameter.name, tuple(parameter.shape)
        if name in posterior:
            theta[name] = stacked(posterior[name])
        elif name in fixed:
            theta[name] = np.broadcast_to(np.asarray(fixed[name]), (n_draws, *shape))
        else:
            missing.append(name)
            continue
        if theta[name].shape[1:] != shape:
            raise InvalidArgumentError(
                f"{name} has shape {theta[name].shape[1:]} in the draws and {shape} in the model",
                f'draws.posterior["{name}"]',
                ("sample the model that was fitted, with the same data and options",),
            )
        _refuse_gaps(name, theta[name], posterior.sizes["draw"])
    if missing:
        raise InvalidArgumentError(
            f"the draws have no {', '.join(missing)}; they hold {', '.join(map(str, posterior.data_vars))}",
            "draws.posterior",
            ("sample the model that was fitted, and keep all its parameters in the draws",),
        )
    return theta


def _refuse_gaps(name: str, values: np.ndarray, length: int) -> None:
    """Raises where some draw of [T, *shape] is not finite: a sampler that was stopped leaves such draws."""
    gaps = np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(axis=1))
    if len(gaps):
        finished = int((gaps % length).min())
        raise InvalidArgumentError(
            f"{name} is not finite in {len(gaps):,} of {len(values):,} draws (first: chain {gaps[0] // length}, draw "
            f"{gaps[0] % length})",
            f'draws.posterior["{name}"]',
            (f"draws.isel(draw=slice({finished})): what every chain has before the first of them",) if finished else (),
        )


def at(theta: Theta, t: int | np.integer) -> Theta:
    """The parameters at draw t."""
    return {name: values[t] for name, values in theta.items()}


def highest_draw(draws: xr.DataTree) -> int:
    """Index in 0..T-1 of the draw of highest log density that the sampler noted, of the last draw where it did not."""
    for name in ("log_posterior", "lp"):
        density = sampler_record(draws, name)
        if density is not None and not np.isnan(density).all():
            return int(np.nanargmax(density))
    chains, length = shape_of(draws)
    return chains * length - 1


def latent_draws(draws: xr.DataTree, latent: str) -> xr.DataArray | None:
    """Posterior probabilities of a latent's values at every draw, dims (chain, draw, …); None where there are none.

    A `latent` group without chain and draw (a fit's own responsibilities) says nothing about the draws.
    """
    if "latent" not in draws.children:
        return None
    group = draws["latent"].to_dataset()
    if latent not in group or not {"chain", "draw"} <= set(group[latent].dims):
        return None
    return group[latent].transpose("chain", "draw", ...)


def responsibility_chunks(
    draws: xr.DataTree, plan: Any, latent: str, theta: Theta
) -> Iterator[tuple[slice, np.ndarray]]:
    """Posterior probabilities of a latent's values draw by draw, in chunks: (slice of 0..T-1, [c, n, K]).

    Read from the `latent` group where the draws have it, else computed from the parameters of every draw.
    Memory: CHUNK_CELLS doubles at a time. A group that is not loaded (opened from disk) is read chunk by chunk.
    """
    n_draws = len(next(iter(theta.values())))
    variable = latent_draws(draws, latent)
    if variable is not None:
        length, size = variable.sizes["draw"], variable.sizes[variable.dims[-1]]
        members = int(np.prod(variable.shape[2:-1], dtype=int))
        step = _step(members, size)
        for chain in range(variable.sizes["chain"]):
            for start in range(0, length, step):
                stop = min(start + step, length)
                values = np.asarray(variable[chain, start:stop].values, dtype=float)
                yield slice(chain * length + start, chain * length + stop), values.reshape(stop - start, members, size)
        return
    start, step, held = 0, 1, []
    for t in range(n_draws):
        values = np.asarray(plan.responsibilities(at(theta, t))[latent], dtype=float)
        held.append(values.reshape(-1, values.shape[-1]))
        step = _step(*held[-1].shape)
        if len(held) >= step or t == n_draws - 1:
            yield slice(start, t + 1), np.stack(held)
            start, held = t + 1, []


def _step(members: int, size: int) -> int:
    return max(1, CHUNK_CELLS // max(1, members * size))


def is_constant(values: np.ndarray) -> np.ndarray:
    """Which elements of [chain, draw, ...] never move (a unit diagonal, a frozen value), rounding apart."""
    spread = np.ptp(values, axis=(0, 1))
    scale = np.abs(values).max(axis=(0, 1))
    return ~(spread > 1e-12 * np.maximum(scale, 1e-300))


def convergence(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rank-normalised split R-hat and bulk effective sample size of [chain, draw, ...], each of shape [...].

    Elements that never move have neither (nan, without a warning), nor have elements with a value that is not
    finite. A single chain is judged by its two halves. Source: Vehtari et al. (2021), Bayesian Analysis 16:667.
    """
    values = np.asarray(values, dtype=float)
    shape = values.shape[2:]
    values = values.reshape(*values.shape[:2], -1)
    r_hat, ess = np.full((2, values.shape[2]), np.nan)
    if values.shape[1] < LEAST_DRAWS or not values.size:
        return r_hat.reshape(shape), ess.reshape(shape)
    moving = np.isfinite(values).all(axis=(0, 1))
    moving[moving] = ~is_constant(values[..., moving])
    if moving.any():
        kept = values[..., moving]
        ess[moving] = array_stats.ess(kept, chain_axis=0, draw_axis=1, method="bulk")
        if kept.shape[0] == 1:
            half = kept.shape[1] // 2
            kept = np.stack([kept[0, :half], kept[0, half : 2 * half]])
        with np.errstate(divide="ignore", invalid="ignore"):  # chains that each stand still at their own value
            r_hat[moving] = array_stats.rhat(kept, chain_axis=0, draw_axis=1)
    return r_hat.reshape(shape), ess.reshape(shape)
