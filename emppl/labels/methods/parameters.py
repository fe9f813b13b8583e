"""Relabelling by parameters alone: for draws of anything, with neither allocations nor probabilities."""

from collections.abc import Callable, Sequence

import numpy as np

from emppl.kernels.assignment import Groups, assign, forbidden_pairs, total_cost
from emppl.labels.material import Alignment, Material, alignment_of
from emppl.labels.methods.pivots import ordering
from emppl.labels.methods.table import method
from emppl.labels.sweeps import MAX_SWEEPS, SETTLED

NARROWEST = 0.02  # least spread of a label's parameter, in sds of all labels together
COORDINATES = 6  # columns by whose order a start begins
PIVOT_DRAWS = 4  # draws that a start is aligned to
SAME = 1e-9  # relative difference of objectives below which two starts have met


def normal_likelihood(
    components: np.ndarray,
    *,
    starts: Sequence[np.ndarray] | None = None,
    pivots: Sequence[np.ndarray] = (),
    groups: Groups | None = None,
) -> Alignment:
    """Each label's parameters as like one normal distribution as may be: means, spreads and permutations in turn.

    components [T, K, J]; starts: permutations [T, K] (default: as they come, the order of each column, and a few draws
    as pivots); pivots: parameters [K, J] that all draws are aligned to, as further starts. Columns of positive numbers
    are taken as logarithms, those between 0 and 1 as log odds. Objective: minus the normal log-likelihood of the
    relabelled draws, one mean and sd for each label and column, constants left out; both steps lower it. Cost of a
    sweep: O(T (K² J + K³)).
    Source: Yao & Lindsay (2009), second method, with diagonal covariances; with equal ones, Celeux (1998).
    """
    components = np.asarray(components, dtype=float)
    scaled = real_line(components)
    x = scaled(components)
    forbidden = forbidden_pairs(x.shape[1], groups)
    begun = [(f"start {i}", np.asarray(perms)) for i, perms in enumerate(starts or ())]
    if starts is None:
        begun.append(("as drawn", np.tile(np.arange(x.shape[1]), (len(x), 1))))
        columns = range(min(x.shape[2], COORDINATES))
        begun += [(f"order of column {r}", ordering(x[:, :, r], groups).permutations) for r in columns]
        picked = np.unique(np.linspace(0, len(x) - 1, PIVOT_DRAWS).astype(int))
        pivots = [*pivots, *(components[t] for t in picked)]
    for i, pivot in enumerate(pivots):
        near = scaled(np.asarray(pivot, dtype=float)[None])[0]
        begun.append((f"pivot {i}", assign(_costs(x, near, np.ones(near.shape)), forbidden)))
    met: list[float] = []
    ends = [(name, *_settled(x, perms, forbidden, met)) for name, perms in begun]
    name, costs, perms, total, sweeps, converged = min(ends, key=lambda end: end[3])
    return alignment_of(
        costs, forbidden, None, perms, objective=total, sweeps=sweeps, converged=converged,
        note=f"best of {len(ends)} starts: {name}", starts=tuple((end[0], *end[3:]) for end in ends),
    )  # fmt: skip


def _settled(
    x: np.ndarray, perms: np.ndarray, forbidden: np.ndarray, met: list[float]
) -> tuple[np.ndarray, np.ndarray, float, int, bool]:
    """Costs, permutations, objective, sweeps, whether it settled. `met`: objectives that other starts went through."""
    total, own = np.inf, []
    for _ in range(MAX_SWEEPS):
        aligned = np.take_along_axis(x, perms[:, :, None], axis=1)
        costs = _costs(x, aligned.mean(axis=0), np.maximum(aligned.std(axis=0), NARROWEST))
        new = assign(costs, forbidden)
        before, total = total, float(total_cost(costs, new).sum())
        own.append(total)
        still = bool((new == perms).all()) or not before - total > SETTLED * abs(total)
        perms = new
        still = still or any(abs(total - other) <= SAME * abs(total) for other in met)  # goes another start's way
        if still:
            break
    met += own
    return costs, perms, total, len(own), still


def _costs(x: np.ndarray, centres: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """Minus twice the normal log density of each old component as each new one, constants left out: [T, K, K]."""
    weights = 1.0 / widths**2  # [K new, J]
    squares = x**2 @ weights.T - 2.0 * x @ (centres * weights).T  # [T, K old, K new]
    constant = (centres**2 * weights).sum(axis=1) + 2.0 * np.log(widths).sum(axis=1)
    return (squares + constant).transpose(0, 2, 1)


def real_line(components: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """What puts parameters [T, K, J] on the real line, each column in sds of all draws and components together.

    Positive columns by the logarithm, those between 0 and 1 by log odds; columns that never move are left out.
    """
    flat = components.reshape(-1, components.shape[-1])
    positive = (flat > 0).all(axis=0)
    share = positive & (flat < 1).all(axis=0)

    def onto(values: np.ndarray) -> np.ndarray:
        safe = np.where(positive, np.maximum(values, 1e-300), 1.0)
        rest = np.where(share, np.maximum(1.0 - values, 1e-300), 1.0)
        return np.where(positive, np.log(safe) - np.log(rest), values)

    moved = onto(flat)
    centre, width = moved.mean(axis=0), moved.std(axis=0)
    moving = width > 1e-12 * np.maximum(np.abs(centre), 1e-300)
    return lambda values: ((onto(values) - centre) / np.where(moving, width, 1.0))[..., moving]


@method(
    "parameters", ("components",), "parameters of each label as like one normal distribution as may be",
    "Yao & Lindsay (2009), second method; Celeux (1998)",
)  # fmt: skip
def _parameters(material: Material) -> Alignment:
    assert material.components is not None
    pivots = [] if material.reference is None else [material.reference]
    if material.best is not None:
        pivots.append(material.components[material.best])
    found = normal_likelihood(material.components, pivots=pivots, groups=material.groups)
    if material.reference is None:
        return found
    scaled = real_line(material.components)
    mean = np.take_along_axis(scaled(material.components), found.permutations[:, :, None], axis=1).mean(axis=0)
    near = scaled(np.asarray(material.reference, dtype=float)[None])[0]
    order = assign(_costs(mean[None], near, np.ones(near.shape)), material.forbidden)[0]
    return found._replace(permutations=found.permutations[:, order])
