"""Whether the draws of all chains are one sample of the posterior: without that nothing can be read off them."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import xarray as xr

from emppl.ascent.atlas import Atlas
from emppl.comparison.evidence import listed, unnameable
from emppl.comparison.table import ESS_LIMIT, R_HAT_LIMIT
from emppl.labels.diagnose import LabelState, SwitchingReport
from emppl.labels.draws import LEAST_DRAWS, posterior_of, sampler_record
from emppl.limits import as_printed

LEAST_ESS = 100  # effective draws below which no quantile is known well enough to be set beside an estimate
DIVERGING_LIMIT = 0.1  # of the draws: beyond it they are not NUTS's way through the posterior
SETTLED = 0.95  # share of a chain in one mode from which on it stays there


@dataclass(frozen=True)
class Mixing:
    """What the chains have in common, once labels are aligned.

    reasons: why the draws are no sample of one distribution, empty where they are. apart: whether chains sit in
    different modes, rather than on the way. r_hat, ess: of every parameter that moves; where components overlap so far
    that names mean nothing, of what does not depend on names: parameters without components, and what no renaming
    changes. r_hat holds nan where there are too few draws.
    """

    reasons: tuple[str, ...]
    apart: bool
    r_hat: pd.Series
    ess: pd.Series

    @property
    def holds(self) -> bool:
        """Whether findings may rest on the draws of all chains together."""
        return not self.reasons


def mixing(
    draws: xr.DataTree, table: pd.DataFrame, details: pd.DataFrame, switching: SwitchingReport, atlas: Atlas | None
) -> Mixing:
    """Judged by R-hat, by effective draws, and by the modes that the chains stay in; `draws` are aligned."""
    parameters = details[~details["derived"].astype(bool)]
    moving = parameters[~parameters["constant"].astype(bool)]
    rows = moving[~moving["variable"].isin(unnameable(switching))]
    r_hat, ess = (table.loc[rows.index, column] for column in ("r_hat", "ess_bulk"))
    if switching.state is LabelState.OVERLAPPING:
        known = switching.invariants.dropna(subset=["r_hat", "ess"])
        r_hat, ess = pd.concat([r_hat, known["r_hat"]]), pd.concat([ess, known["ess"]])
    r_hat = pd.Series(as_printed(r_hat.to_numpy(float), R_HAT_LIMIT, 3), r_hat.index)
    ess = pd.Series(as_printed(ess.to_numpy(float), ESS_LIMIT, 0), ess.index)
    if len(parameters) and moving.empty:
        return Mixing(("no parameter moves in any chain",), False, r_hat, ess)
    reasons, apart = [], switching.state is LabelState.DIFFERENT_MODES and bool(switching.invariants["apart"].any())
    if switching.draws < LEAST_DRAWS:
        reasons.append(f"chains of {switching.draws} draw{'s' * (switching.draws > 1)} are too short to tell")
    elif r_hat.isna().any():
        reasons.append(f"R-hat of {listed(r_hat.index[r_hat.isna()])} does not exist")
    high = r_hat[r_hat > R_HAT_LIMIT].sort_values(ascending=False)
    if len(high):
        reasons.append(f"R-hat of {listed(high.index)} up to {high.iloc[0]:.3f}, above {R_HAT_LIMIT}")
    elif switching.state is LabelState.DIFFERENT_MODES:
        reasons.append(f"R-hat of what no renaming changes up to {switching.r_hat_invariant:.3f}")
    still = standing(draws) if switching.draws >= LEAST_DRAWS else []
    if still:
        reasons.append(f"chain{'' if len(still) == 1 else 's'} {listed(still)} stand{'s' * (len(still) == 1)} still")
    homes = residence(atlas) if atlas is not None else np.empty(0, dtype=int)
    settled = homes[homes >= 0]
    if atlas is not None and len(set(settled.tolist())) > 1:
        apart = True
        chains = np.unique(atlas.chains)
        parts = [chains[homes == home] for home in dict.fromkeys(settled.tolist())]
        said = [f"chain{'' if len(part) == 1 else 's'} {listed(part)}" for part in parts]
        reasons.append(f"{listed(said)} stay in different modes")
    diverging = sampler_record(draws, "diverging")
    if diverging is not None and diverging.mean() > DIVERGING_LIMIT:
        reasons.append(f"{int(diverging.sum()):,} of {diverging.size:,} draws diverged")
    if len(ess) and ess.min() < LEAST_ESS:
        reasons.append(f"only {ess.min():.0f} effective draws of {ess.idxmin()}")
    return Mixing(tuple(reasons), apart, r_hat, ess)


def standing(draws: xr.DataTree) -> list[int]:
    """Chains in which no parameter moves, where others do."""
    posterior = posterior_of(draws)
    moves = np.zeros(posterior.sizes["chain"], dtype=bool)
    for name in posterior.data_vars:
        values = posterior[name].transpose("chain", "draw", ...).values
        moves |= (values != values[:, :1]).reshape(len(values), -1).any(axis=1)
    return [int(chain) for chain in np.flatnonzero(~moves)] if len(moves) > 1 else []


def residence(found: Atlas) -> np.ndarray:
    """The mode that each chain stays in, -1 where it moves between modes: [chain]."""
    chains = np.unique(found.chains)
    homes = np.full(len(chains), -1)
    for place, chain in enumerate(chains):
        reached = found.reached[found.chains == chain]
        for mode in range(len(found.modes)):
            if (reached == mode).mean() >= SETTLED:
                homes[place] = mode
    return homes
