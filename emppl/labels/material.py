"""What a relabelling method may read, and what it returns."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np

from emppl.kernels.assignment import Groups, assign, forbidden_pairs, margins, total_cost
from emppl.labels.units import Chunks, Units

CLEAR = 1e-12  # margins of a reference below this are none: nothing is clear then, whatever the draws say


class Alignment(NamedTuple):
    """What a method returns: permutations [T, K], margins [T] (1: as clear as the reference itself, 0: a tie).

    `objective`: what the method minimises (nan where it minimises nothing over all draws), `sweeps` over the draws,
    `converged`, and a `note` for the reader. `starts`: (name, objective, sweeps, converged) of each start.
    """

    permutations: np.ndarray
    margins: np.ndarray
    objective: float = float("nan")
    sweeps: int = 1
    converged: bool = True
    note: str = ""
    starts: tuple[tuple[str, float, int, bool], ...] = ()

    @property
    def status(self) -> str:
        """How it ended, in words."""
        if self.sweeps == 1 and self.converged:
            return "one pass"
        return f"settled in {self.sweeps} sweeps" if self.converged else f"not settled in {self.sweeps} sweeps"


@dataclass(frozen=True, eq=False)
class Material:
    """What a method may read about one component axis. T draws, n units, K components, J numbers of a component.

    `chunks()` yields (slice of draws, responsibilities [c, n, K]) and can be run through as often as needed;
    `pivot` [n, K] are the reference's; only components of one group in `groups` may be swapped (None: all may).
    `allocations` [T, n]; `components` [T, K, J] with names `columns` of the J; `reference` [K, J] the reference's,
    `best` the index of the highest draw; `data` [n, d] observed; `log_joint(theta [K, J])` → [n, K], the log density of
    each unit together with its being in each component; `densities()` as `chunks`, density of each unit in each
    component; `ascend()` → the mode that an ascent from each draw reaches; `given` permutations of the user; `by`, the
    column that orders.
    What is None is not there, and methods that need it say so.
    """

    n_draws: int
    size: int
    pivot: np.ndarray | None = None
    groups: Groups | None = None
    chunks: Chunks | None = None
    allocations: np.ndarray | None = None
    components: np.ndarray | None = None
    columns: tuple[str, ...] = ()
    reference: np.ndarray | None = None
    best: int | None = None
    data: np.ndarray | None = None
    log_joint: Callable[[np.ndarray], np.ndarray] | None = field(default=None, repr=False)
    densities: Callable[[], Iterator[tuple[slice, np.ndarray]]] | None = field(default=None, repr=False)
    pivot_densities: np.ndarray | None = None
    ascend: Callable[[], tuple[np.ndarray, np.ndarray]] | None = field(default=None, repr=False)
    given: np.ndarray | None = None
    by: str | None = None

    @cached_property
    def n_units(self) -> int:
        """Number of units, 0 where neither allocations nor responsibilities are known."""
        if self.allocations is not None:
            return self.allocations.shape[1]
        if self.pivot is not None:
            return len(self.pivot)
        return next(self.chunks())[1].shape[1] if self.chunks is not None else 0

    @cached_property
    def units(self) -> Units:
        """Probabilities and allocations of the units, kept between sweeps and between methods where they are small."""
        return Units(self.n_draws, self.n_units, self.size, self.chunks, self.allocations)

    @cached_property
    def forbidden(self) -> np.ndarray:
        """[K, K], True where old component k may not become new component j."""
        return forbidden_pairs(self.size, self.groups)


def alignment_of(
    costs: np.ndarray, forbidden: np.ndarray, own: np.ndarray | None = None, perms: np.ndarray | None = None,
    **told: object,
) -> Alignment:  # fmt: skip
    """Permutations and margins from the costs [T, K, K] of every draw.

    Margins are relative to that of `own` [K, K], the costs of the reference held against itself; where it is not given,
    to the costs of all draws on average, once they are aligned. `perms`: where they are known already.
    """
    perms = assign(costs, forbidden) if perms is None else perms
    raw = margins(costs, perms, forbidden)
    if own is None:
        own = (
            np.take_along_axis(costs, perms[:, None, :], axis=2).mean(axis=0)
            if len(costs)
            else np.zeros(forbidden.shape)
        )
    here = assign(own[None], forbidden)
    scale = float(margins(own[None], here, forbidden)[0])
    size = max(1.0, float(np.abs(own).max(initial=0.0)))
    clear = raw / scale if scale > CLEAR * size else np.zeros_like(raw)
    clear = np.where(np.isfinite(raw) & np.isfinite(clear), clear, 1.0)
    told.setdefault("objective", float(total_cost(costs, perms).sum()))
    return Alignment(perms, clear, **told)  # type: ignore[arg-type]
