"""Iterative relabelling: a reference made from all draws, and every draw aligned to it, in turn until nothing moves.

Stephens, both iterative ECRs, the data-based and the complete-data method differ in three words: what is added up over
draws, how that becomes a reference, and what is held against it. Costs add over units, so that each draw's alignment is
an assignment. All starts go through the draws together, and the one that ends at the least objective is taken.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from emppl.kernels.assignment import Groups, aligned_to, assign, forbidden_pairs, total_cost
from emppl.kernels.threads import one_blas_thread
from emppl.labels.units import Units, block_costs, summed

MAX_SWEEPS = 100
SETTLED = 1e-10  # relative fall of the objective below which a start is at its end

Reference = Callable[[Units, np.ndarray, np.ndarray], np.ndarray]  # units, sums [n, K], permutations [T, K] → [n, K]


class Start(NamedTuple):
    """Where a start begins: permutations [T, K], or probabilities (allocations) of a reference [n, K]."""

    name: str
    permutations: np.ndarray | None = None
    pivot: np.ndarray | None = None


@dataclass
class Run:
    """One start on its way. `total`: the objective at the last sweep; costs [T, K, K] of that sweep."""

    name: str
    permutations: np.ndarray
    weights: np.ndarray
    costs: np.ndarray
    total: float = np.inf
    sweeps: int = 0
    converged: bool = False
    met: "Run | None" = None  # another start that it has become, up to names

    @property
    def end(self) -> "Run":
        """The run that this one ends in."""
        return self if self.met is None else self.met.end


class Descent(NamedTuple):
    """The best of several starts, and (name, objective, sweeps, converged) of each.

    One that met another ends as that does.
    """

    best: Run
    starts: tuple[tuple[str, float, int, bool], ...]


def descend(
    units: Units,
    starts: Sequence[Start],
    reference: Reference,
    *,
    gather: str,
    against: str,
    groups: Groups | None = None,
    constant: float = 0.0,
    max_sweeps: int = MAX_SWEEPS,
) -> Descent:
    """Sweeps from every start to a fixed point of permutations, or until the total objective no longer falls.

    `gather`: "p" or "z", what is summed over draws for the reference; `against`: "p" or "z", what of a draw is held
    against it: costs are minus the products with the reference. `constant` is added to the objective. Where all units
    cannot be kept between sweeps, the starts compete over a sample of them and the winner goes on over all.
    """
    if units.streamed:
        sample = units.fewer
        narrowed = [_narrowed(start, sample) for start in starts]
        rival = _compete(sample, narrowed, reference, gather, against, groups, max_sweeps)
        winner = min(rival, key=lambda run: run.end.total).end
        first = [Start(winner.name, permutations=winner.permutations)]
        runs = _compete(units, first, reference, gather, against, groups, max_sweeps)
        told = [_told(run) for run in rival if run is not winner]
    else:
        runs = _compete(units, starts, reference, gather, against, groups, max_sweeps)
        told = []
    for run in runs:
        run.total += constant
    best = min(runs, key=lambda run: run.end.total).end
    return Descent(best, (*(_told(run) for run in runs), *told))


def _narrowed(start: Start, sample: Units) -> Start:
    """A pivot over the sample's units; it may have been made from them already."""
    if start.pivot is None or len(start.pivot) == sample.n_units:
        return start
    return start._replace(pivot=start.pivot[sample.kept])


def _told(run: Run) -> tuple[str, float, int, bool]:
    return run.name, run.end.total, run.end.sweeps, run.end.converged


def _compete(
    units: Units, starts: Sequence[Start], reference: Reference, gather: str, against: str, groups: Groups | None,
    max_sweeps: int,
) -> list[Run]:  # fmt: skip
    forbidden = forbidden_pairs(units.size, groups)
    runs = _begun(units, starts, reference, gather)
    active = list(runs)
    for _ in range(max_sweeps):
        with one_blas_thread():
            sums = _sweep(units, active, forbidden, gather, against)
        going = []
        for run, total, new, costs, own in sums:
            still = bool((new == run.permutations).all()) or not run.total - total > SETTLED * abs(total)
            run.sweeps += 1
            if total <= run.total:
                run.permutations, run.total, run.costs = new, total, costs
            run.converged = still
            if not still:
                run.weights = reference(units, own, new)
                going.append(run)
        active = _merged(going, groups)
        if not active:
            break
    return runs


def _begun(units: Units, starts: Sequence[Start], reference: Reference, gather: str) -> list[Run]:
    nothing = np.full((units.n_draws, units.size), -1)
    given = [start.permutations for start in starts if start.permutations is not None]
    sums = iter(units.sums(np.stack(given), gather) if given else ())
    runs = []
    for start in starts:
        if start.permutations is not None:
            own, perms = next(sums), start.permutations
        else:
            assert start.pivot is not None  # a start has one or the other
            own, perms = start.pivot * units.n_draws, nothing
        runs.append(Run(start.name, nothing, reference(units, own, perms), np.empty(0)))
    return runs


def _sweep(units: Units, runs: list[Run], forbidden: np.ndarray, gather: str, against: str) -> list[tuple]:
    """(run, objective, permutations, costs, sums over draws) after one alignment of all draws to each reference."""
    shape = (len(runs), units.n_draws, units.size)
    perms = np.empty(shape, dtype=np.int64)
    costs = np.empty((*shape, units.size))
    sums = np.zeros((len(runs), units.n_units, units.size))
    weights = np.stack([run.weights for run in runs])
    for where, (collected, held) in units.blocks(gather, against):
        costs[:, where] = block = block_costs(weights, held)
        flat = assign(block.reshape(-1, units.size, units.size), forbidden)
        perms[:, where] = flat.reshape(len(runs), -1, units.size)
        sums += summed(collected, perms[:, where])
    totals = [float(total_cost(own, new).sum()) for own, new in zip(costs, perms)]
    return list(zip(runs, totals, perms, costs, sums))


def _merged(runs: list[Run], groups: Groups | None) -> list[Run]:
    """Without starts that have become another one up to one relabelling of all draws: they would go its way."""
    kept: list[Run] = []
    for run in runs:
        for other in kept:
            near = abs(run.total - other.total) <= 1e-9 * max(1.0, abs(other.total))
            if near and (aligned_to(run.permutations, other.permutations, groups) == other.permutations).all():
                run.met = other
                break
        else:
            kept.append(run)
    return kept
