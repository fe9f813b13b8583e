"""Methods whose reference is made from the draws themselves, from several starts."""

from collections.abc import Sequence

import numpy as np

from emppl.kernels.assignment import Groups, assign, forbidden_pairs
from emppl.labels.material import Alignment, Material, alignment_of
from emppl.labels.methods.pivots import column_of, ordering
from emppl.labels.methods.table import method
from emppl.labels.sweeps import Descent, Start, descend
from emppl.labels.units import FLOOR, Units, array_chunks, block_costs

COORDINATES = 6  # columns of the parameters by whose order a start begins
PIVOT_DRAWS = 4  # draws that a start is aligned to
CANDIDATES = 64  # draws that are looked at for those


def stephens(p: np.ndarray, *, starts: Sequence[np.ndarray] | None = None, groups: Groups | None = None) -> Alignment:
    """Stephens' relabelling: least Kullback–Leibler divergence of each draw's probabilities from their mean.

    p [T, n, K]; starts: permutations [T, K] to begin from (default: as they come, and each of several draws as pivot).
    Objective: sum over draws, units and components of p' log(p' / q), q the mean of p' over draws. Both steps lower it;
    the least of all starts is kept. Source: Stephens (2000), algorithm 2.
    """
    units = _units(p=p)
    return _stephens(units, _starts(units, starts), groups)


def ecr_iterative_1(
    allocations: np.ndarray, size: int | None = None, *, starts: Sequence[np.ndarray] | None = None,
    groups: Groups | None = None,
) -> Alignment:  # fmt: skip
    """ECR whose pivot is the commonest component of each unit after relabelling, in turn until nothing moves.

    allocations [T, n]. Objective: allocations that differ from the pivot. A label that a unit never has counts zero.
    Source: Papastamoulis & Iliopoulos (2010); Rodríguez & Walker (2014), algorithm 5.
    """
    units = _units(z=allocations, size=size)
    return _ecr_1(units, _starts(units, starts, "z"), groups)


def ecr_iterative_2(
    p: np.ndarray, allocations: np.ndarray | None = None, *, starts: Sequence[np.ndarray] | None = None,
    groups: Groups | None = None,
) -> Alignment:  # fmt: skip
    """ECR whose pivot is the component of largest mean probability of each unit after relabelling.

    p [T, n, K], allocations [T, n] (default: the most probable). Source: Papastamoulis & Iliopoulos (2010).
    """
    units = _units(p=p, z=allocations)
    return _ecr_2(units, _starts(units, starts), groups)


def _stephens(units: Units, starts: Sequence[Start], groups: Groups | None) -> Alignment:
    def reference(units: Units, sums: np.ndarray, perms: np.ndarray) -> np.ndarray:
        return np.log(np.maximum(sums / units.n_draws, 1e-12))

    entropy = sum(float((block * np.log(block)).sum()) for _, (block,) in units.blocks("p"))
    found = descend(units, starts, reference, gather="p", against="p", groups=groups, constant=entropy)
    q = np.exp(found.best.weights)
    return told(found, groups, -found.best.weights.T @ q)


def _ecr_1(units: Units, starts: Sequence[Start], groups: Groups | None) -> Alignment:
    return _by_votes(units, starts, groups, "z")


def _ecr_2(units: Units, starts: Sequence[Start], groups: Groups | None) -> Alignment:
    return _by_votes(units, starts, groups, "p")


def _by_votes(units: Units, starts: Sequence[Start], groups: Groups | None, gather: str) -> Alignment:
    def reference(units: Units, sums: np.ndarray, perms: np.ndarray) -> np.ndarray:
        return (sums.argmax(axis=1)[:, None] == np.arange(units.size)).astype(np.float32)

    every = float(units.n_draws * units.n_units)  # less the agreements: disagreements
    found = descend(units, starts, reference, gather=gather, against="z", groups=groups, constant=every)
    return told(found, groups, -np.diag(found.best.weights.sum(axis=0)).astype(float))


def told(found: Descent, groups: Groups | None, own: np.ndarray | None) -> Alignment:
    """The best start as an alignment; `own` [K, K]: costs of its reference held against itself."""
    run = found.best
    return alignment_of(
        run.costs, forbidden_pairs(run.permutations.shape[1], groups), own, run.permutations,
        objective=run.total, sweeps=run.sweeps, converged=run.converged, starts=found.starts,
        note=f"best of {len(found.starts)} starts: {run.name}" if len(found.starts) > 1 else f"from {run.name}",
    )  # fmt: skip


# -- starts ------------------------------------------------------------------------------------------------------------


def _units(p: np.ndarray | None = None, z: np.ndarray | None = None, size: int | None = None) -> Units:
    z = None if z is None else np.asarray(z)
    if p is not None:
        p = np.asarray(p)
        return Units(len(p), p.shape[1], p.shape[2], array_chunks(p), z)
    assert z is not None
    return Units(len(z), z.shape[1], int(z.max(initial=0)) + 1 if size is None else size, None, z)


def _starts(units: Units, given: Sequence[np.ndarray] | None, kind: str = "p") -> list[Start]:
    if given is not None:
        return [Start(f"start {i}", permutations=np.asarray(perms)) for i, perms in enumerate(given)]
    return [identity(units), *from_draws(units.fewer, kind)]


def identity(units: Units) -> Start:
    """Draws as they come."""
    return Start("as drawn", np.tile(np.arange(units.size), (units.n_draws, 1)))


def from_draws(units: Units, kind: str) -> list[Start]:
    """Starts that align all draws to one: those draws, of a few looked at, whose components are the most distinct."""
    wanted = np.unique(np.linspace(0, units.n_draws - 1, CANDIDATES).astype(int))
    found: list[tuple[float, int, np.ndarray]] = []
    for where, (block,) in units.blocks(kind):
        cube = block.reshape(units.n_units, -1, units.size)
        for t in wanted[(wanted >= where.start) & (wanted < where.stop)]:
            pivot = np.array(cube[:, t - where.start], dtype=float)
            products = pivot.T @ pivot
            squares = np.diag(products)
            apart = squares[:, None] + squares - 2 * products
            least = (apart + np.diag(np.full(units.size, np.inf))).min()
            found.append((float(least), int(t), pivot))
        found = sorted(found, key=lambda item: -item[0])[:PIVOT_DRAWS]
    return [Start(f"draw {t}", pivot=pivot) for _, t, pivot in found]


def starts_for(material: Material, kind: str, units: Units | None = None) -> list[Start]:
    """As drawn, the reference, a few distinct draws, and the order of each parameter."""
    units = material.units.fewer if units is None else units
    starts = [identity(units)]
    if material.pivot is not None:
        pivot = np.asarray(material.pivot, dtype=float)
        starts.append(Start("the reference", pivot=pivot if units.kept is None else pivot[units.kept]))
    if material.components is not None:
        columns = list(range(min(material.components.shape[2], COORDINATES)))
        if material.by is not None:
            columns = [column_of(material)]
        for r in columns:
            name = material.columns[r] if material.columns else f"column {r}"
            perms = ordering(material.components[:, :, r], material.groups).permutations
            starts.append(Start(f"order of {name}", permutations=perms))
    return [*starts, *from_draws(units, kind)]


def permutation_starts(material: Material, kind: str) -> list[Start]:
    """The same starts where a method needs permutations to begin with: each pivot's own alignment of all draws."""
    starts = []
    for start in starts_for(material, kind):
        if start.permutations is None:
            assert start.pivot is not None
            perms = np.empty((material.n_draws, material.size), dtype=np.int64)
            for where, (block,) in material.units.fewer.blocks(kind):
                perms[where] = assign(block_costs(start.pivot[None], block)[0], material.forbidden)
            start = Start(start.name, permutations=perms)
        starts.append(start)
    return starts


def divergence(units: Units, permutations: np.ndarray) -> np.ndarray:
    """Stephens' objective of each of several alignments: permutations [S, T, K] → [S]."""
    entropy = sum(float((block * np.log(block)).sum()) for _, (block,) in units.blocks("p"))
    means = units.sums(permutations, "p") / units.n_draws
    return entropy - units.n_draws * (means * np.log(np.maximum(means, FLOOR**2))).sum(axis=(1, 2))


def least_divergence(material: Material) -> tuple[Units, Alignment]:
    """Stephens' alignment over as many units as can be kept between sweeps, and those units."""
    units = material.units.fewer
    return units, _stephens(units, starts_for(material, "p", units), material.groups)


def named_as_reference(material: Material, found: Alignment, kind: str = "p") -> Alignment:
    """The same alignment under the reference's names: one relabelling of all draws alike."""
    if material.pivot is None:
        return found
    units = material.units.fewer
    mean = units.sums(found.permutations[None], kind)[0] / max(1, material.n_draws)
    pivot = material.pivot if units.kept is None else material.pivot[units.kept]
    order = assign(-(pivot.T @ mean)[None], material.forbidden)[0]
    return found._replace(permutations=found.permutations[:, order])


@method(
    "ECR-ITERATIVE-1", ("membership",), "allocations of each draw to their own mode over draws",
    "Papastamoulis & Iliopoulos (2010)",
)  # fmt: skip
def _ecr_iterative_1(material: Material) -> Alignment:
    found = _ecr_1(material.units, starts_for(material, "z"), material.groups)
    return named_as_reference(material, found, "z")


@method(
    "ECR-ITERATIVE-2", ("chunks",), "allocations of each draw to the mean probabilities over draws",
    "Papastamoulis & Iliopoulos (2010)",
)  # fmt: skip
def _ecr_iterative_2(material: Material) -> Alignment:
    return named_as_reference(material, _ecr_2(material.units, starts_for(material, "p"), material.groups))


@method("STEPHENS", ("chunks",), "least divergence of each draw's probabilities from their mean", "Stephens (2000)")
def _stephens_method(material: Material) -> Alignment:
    return named_as_reference(material, _stephens(material.units, starts_for(material, "p"), material.groups))
