"""Records of a diagnosis: one component axis, and the report over all of them."""

from dataclasses import dataclass, field
from enum import Enum

import numpy as np
import pandas as pd

from emppl.kernels.assignment import Groups
from emppl.portable import Portable
from emppl.text import visible

R_HAT_ALIGNED = 1.1  # above this, what is left after alignment is neither names nor noise
AMBIGUOUS_MARGIN = 0.1  # of the reference's own margin: below it, another labelling fits the draw nearly as well
AMBIGUOUS_SHARE = 0.05  # of all draws
BLURRED = 0.4  # distance of two components' members on average over aligned draws, below which they overlap


class LabelState(Enum):
    """What the draws say about the names of the components."""

    NO_SYMMETRY = "no components can be renamed without changing the model"
    NO_SWITCHING = "every draw names the components alike"
    BETWEEN_CHAINS = "chains settled in different labellings"
    WITHIN_CHAINS = "labels switch within chains"
    OVERLAPPING = "components overlap so far that many draws could be labelled either way"
    DIFFERENT_MODES = "chains differ in more than the names of the components"

    @property
    def cured(self) -> bool:
        """Whether aligned draws can be read component by component."""
        return self not in (LabelState.OVERLAPPING, LabelState.DIFFERENT_MODES)


@dataclass(frozen=True)
class AxisSwitching:
    """Switching along one component axis.

    permutations [chain, draw, K] (perm[..., j] = the draw's component that becomes component j of the reference),
    margins [chain, draw] (1: as clear as the reference, 0: a tie), `distance` of the two closest reference
    components `closest` (0 the same, 1 disjoint). `exchangeable`: groups of components whose names may be swapped.
    `weak` says that likelihood alone is symmetric: permutations are then for information, draws are not permuted.
    `method` and `why`: how draws were aligned. `occupied` [chain, draw]: components that are some unit's most probable
    one (None where nothing is known of units). `sentence`: the symmetry in words. `mean_distance`: as
    `distance`, of the members that components have on average over the aligned draws.
    """

    latent: str
    dim: str | None
    labels: tuple[str, ...]
    variables: tuple[str, ...]
    exchangeable: Groups
    permutations: np.ndarray
    margins: np.ndarray
    distance: float
    closest: tuple[int, int]
    distinct: bool
    weak: bool
    method: str = "responsibilities"
    why: str = ""
    occupied: np.ndarray | None = None
    sentence: str = ""
    mean_distance: float = float("nan")

    @property
    def switches(self) -> np.ndarray:
        """Draws of each chain whose labelling differs from that of the draw before: [chain]."""
        return (self.permutations[:, 1:] != self.permutations[:, :-1]).any(axis=-1).sum(axis=1)

    @property
    def ambiguous(self) -> np.ndarray:
        """[chain, draw], True where another labelling fits nearly as well."""
        return self.margins < AMBIGUOUS_MARGIN

    @property
    def clear_switches(self) -> np.ndarray:
        """Switches of each chain when draws that could be labelled either way are passed over: [chain]."""
        counts = []
        for perms, unclear in zip(self.permutations, self.ambiguous, strict=True):
            clear = perms[~unclear]
            counts.append(int((clear[1:] != clear[:-1]).any(axis=-1).sum()))
        return np.array(counts)

    @property
    def chain_labellings(self) -> np.ndarray:
        """The commonest permutation of each chain: [chain, K]."""
        modes = []
        for perms in self.permutations:
            rows, counts = np.unique(perms, axis=0, return_counts=True)
            modes.append(rows[counts.argmax()])
        return np.stack(modes)

    def occupied_text(self) -> str:
        """How many components have members, over all draws: "3 in 96% of the draws, 2 in 4%"."""
        if self.occupied is None:
            return "unknown"
        numbers, counts = np.unique(self.occupied, return_counts=True)
        order = np.argsort(-counts)[:4]
        parts = [f"{numbers[i]} in {counts[i] / counts.sum():.1%}" for i in order]
        return f"{parts[0]} of the draws" + "".join(f", {part}" for part in parts[1:])

    @property
    def noun(self) -> str:
        """What one element of the axis is called: the model's dim, where the user named one."""
        return "component" if self.dim is None or "_dim_" in self.dim else self.dim


@dataclass(frozen=True)
class SwitchingReport(Portable):
    """Label switching in a set of draws: by axis, convergence before and after alignment, and a verdict in words.

    `r_hat`: table with a row for each element of a variable that carries a component axis, columns variable,
    r_hat_before, r_hat_after, ess_before, ess_after. `invariants`: the same before and after any renaming: log density,
    log-likelihood, sorted parameters, occupied components; columns r_hat, ess, apart (some two chains have
    nothing in common). Chains that differ in those differ in more than names. `caveat`: what else a reader must know of
    the reference, empty as a rule.
    """

    axes: tuple[AxisSwitching, ...]
    r_hat: pd.DataFrame
    state: LabelState
    verdict: str
    chains: int
    draws: int
    invariants: pd.DataFrame = field(
        default_factory=lambda: pd.DataFrame(columns=["r_hat", "ess", "apart"], dtype=float)
    )
    caveat: str = ""

    @property
    def symmetric(self) -> dict[str, tuple[str, ...]]:
        """Dim of each component axis (the latent's name where no dim is shared) and the variables that carry it."""
        return {axis.dim or axis.latent: axis.variables for axis in self.axes if not axis.weak}

    @property
    def permutations(self) -> np.ndarray:
        """[chain, draw, K] of the first axis; those of further axes are in `axes`. K is 0 without symmetry."""
        return self.axes[0].permutations if self.axes else np.empty((self.chains, self.draws, 0), dtype=int)

    @property
    def switches(self) -> np.ndarray:
        """Switches within each chain, all axes together: [chain]."""
        return sum((axis.switches for axis in self.axes), np.zeros(self.chains, dtype=int))

    @property
    def r_hat_before(self) -> float:
        """Largest R-hat of the variables that carry a component axis, as sampled (nan without symmetry)."""
        return largest(self.r_hat["r_hat_before"])

    @property
    def r_hat_after(self) -> float:
        """The same after alignment."""
        return largest(self.r_hat["r_hat_after"])

    @property
    def r_hat_invariant(self) -> float:
        """Largest R-hat of what no renaming changes (nan where nothing is known)."""
        return largest(self.invariants["r_hat"])

    @property
    def ess_invariant(self) -> float:
        """Least effective sample size of what no renaming changes (nan where nothing is known)."""
        known = self.invariants["ess"].to_numpy(dtype=float)
        known = known[~np.isnan(known)]
        return float(known.min()) if known.size else float("nan")

    @property
    def ambiguous(self) -> float:
        """Share of draws that could be labelled either way, on the axis where it is largest (0 without symmetry)."""
        return max((float(axis.ambiguous.mean()) for axis in self.axes if not axis.weak), default=0.0)

    @property
    def least_distance(self) -> float:
        """Of the members of two components on average over aligned draws, or where they are one: 1 without symmetry."""
        strong = [axis for axis in self.axes if not axis.weak]
        found = [axis.mean_distance if axis.distinct else axis.distance for axis in strong]
        return min((float(d) for d in found if not np.isnan(d)), default=1.0)

    def __repr__(self) -> str:
        return f"SwitchingReport({self.verdict})"

    def __str__(self) -> str:
        lines = [self.verdict, *([f"  {self.caveat}"] if self.caveat else [])]
        for axis in self.axes:
            lines.append(f"  {axis.noun} ({', '.join(axis.variables)}): switches by chain {axis.switches.tolist()}")
            if axis.sentence:
                lines.append(f"    {axis.sentence}")
            how = f"    aligned by {axis.method}" + (f": {axis.why}" if axis.why else "")
            lines.append(how + "; for information only" if axis.weak else how)
            lines.append(
                f"    margin of an assignment: median {np.median(axis.margins):.2f} of the reference's own; "
                f"{axis.ambiguous.mean():.1%} of the draws could be labelled either way"
            )
            if axis.occupied is not None:
                lines.append(f"    occupied components: {axis.occupied_text()}")
        if len(self.r_hat):
            lines += ["", self.r_hat.drop(columns="variable").round(3).to_string()]
        if len(self.invariants):
            lines += ["", "what no renaming changes", self.invariants.round(3).to_string()]
        return visible("\n".join(lines))


def largest(values: pd.Series) -> float:
    """The largest number that is known, nan where none is."""
    known = values.to_numpy(dtype=float)
    known = known[~np.isnan(known)]
    return float(known.max()) if known.size else float("nan")
