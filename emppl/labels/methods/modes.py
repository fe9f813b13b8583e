"""Labels by the mode that an ascent from each draw reaches (Yao & Lindsay 2009)."""

from typing import Any

import numpy as np

from emppl.kernels.assignment import assign, forbidden_pairs, total_cost
from emppl.labels.draws import Theta
from emppl.labels.material import Alignment, Material, alignment_of
from emppl.labels.methods.table import method


def climb(plan: Any, axis: Any, theta: Theta, n_chains: int) -> tuple[np.ndarray, np.ndarray]:
    """Modes that the plan's own EM reaches from draws spread over all chains: responsibilities [M, n, K] of each mode.

    Best mode first; the other modes under the names of the best one. Also the share of the ascents that ended at each.
    """
    from emppl.ascent.atlas import affordable, atlas  # an ascent is not needed for anything else here

    n_draws = len(next(iter(theta.values())))
    picked = np.unique(np.linspace(0, n_draws - 1, min(n_draws, affordable(plan))).astype(int))
    points = {name: values[picked] for name, values in theta.items()}
    found = atlas(plan, points, chains=picked // max(1, n_draws // n_chains))
    names = getattr(axis, "latents", ()) or (axis.latent,)
    pivots = []
    for mode in found.modes:
        r = plan.responsibilities(mode.theta)
        pivots.append(np.concatenate([np.reshape(r[name], (-1, axis.size)) for name in names]))
    shares = np.array([(found.reached == m).mean() for m in range(len(found.modes))])
    return np.stack(pivots), shares


def by_modes(p: Any, modes: np.ndarray, n_draws: int, groups: Any = None) -> tuple[Alignment, np.ndarray]:
    """Every draw under the names of the mode that it is most like: permutations, and the mode of each draw [T].

    p: a function that yields (slice of draws, probabilities [c, n, K]); modes [M, n, K], under one set of names.
    """
    size = modes.shape[2]
    forbidden = forbidden_pairs(size, groups)
    costs = np.empty((n_draws, size, size))
    nearest = np.empty(n_draws, dtype=int)
    for where, values in p():
        by_mode = [-2.0 * np.matmul(mode.T, values) + (mode**2).sum() / size for mode in modes]
        totals = np.stack([total_cost(own, assign(own, forbidden)) for own in by_mode])
        nearest[where] = totals.argmin(axis=0)
        costs[where] = np.stack(by_mode)[nearest[where], np.arange(len(values))]
    return alignment_of(costs, forbidden), nearest


@method("ascent", ("ascend", "chunks"), "the mode that EM reaches from each draw", "Yao & Lindsay (2009), PM(ALG)")
def _ascent(material: Material) -> Alignment:
    assert material.ascend is not None and material.chunks is not None
    modes, _ = material.ascend()
    first = modes[0] if material.pivot is None else material.pivot
    for m, mode in enumerate(modes):  # one set of names for all modes: the reference's
        modes[m] = mode[:, assign(-(first.T @ mode)[None], material.forbidden)[0]]
    found, nearest = by_modes(material.chunks, modes, material.n_draws, material.groups)
    count = np.bincount(nearest, minlength=len(modes)) / max(1, len(nearest))
    told = ", ".join(f"{share:.0%}" for share in count)
    return found._replace(
        note=f"{len(modes)} mode{'' if len(modes) == 1 else 's'} up to names; draws nearest to each: {told}"
    )
