"""Methods of one pass: every draw to a reference that is known beforehand."""

import numpy as np

from emppl.errors import InvalidArgumentError
from emppl.kernels.assignment import Groups, forbidden_pairs
from emppl.kernels.threads import one_blas_thread
from emppl.labels.material import Alignment, Material, alignment_of
from emppl.labels.methods.table import method
from emppl.labels.units import Chunks, array_chunks


def to_responsibilities(
    p: np.ndarray | Chunks, pivot: np.ndarray, groups: Groups | None = None, n_draws: int | None = None
) -> Alignment:
    """Every draw to reference responsibilities: the assignment that maximises sum_ij pivot_ij p_t,i,perm(j).

    p [T, n, K] or a function that yields (slice of draws, [c, n, K]), with `n_draws` then; pivot [n, K]. Exact where
    components are distinct; cost O(T (n K² + K³)).
    """
    return _held_against(p, pivot, pivot, groups, n_draws)


def to_densities(
    densities: np.ndarray | Chunks, pivot: np.ndarray, groups: Groups | None = None, n_draws: int | None = None
) -> Alignment:
    """Every draw to the component densities of a reference, by Bhattacharyya's affinity over the units.

    densities [T, n, K] (or chunks): density of each unit in each component, up to a factor of the component; pivot
    [n, K] those of the reference. Components are told apart by where their density lies, whatever their weights: a
    component without members keeps its name. Source: Bhattacharyya (1943); Nielsen (2014) for mixtures.
    """
    chunks, n_draws, _ = _chunked(densities, n_draws)

    def roots() -> object:
        for where, values in chunks():
            yield where, _profile(values)

    reference = _profile(pivot)
    return _held_against(roots, reference, reference, groups, n_draws)  # type: ignore[arg-type]


def _profile(densities: np.ndarray) -> np.ndarray:
    """Square roots of densities [..., n, K] that sum to 1 over the units."""
    total = densities.sum(axis=-2, keepdims=True)
    return np.sqrt(densities / np.where(total > 0, total, 1.0))


def _held_against(
    values: np.ndarray | Chunks, pivot: np.ndarray, own: np.ndarray, groups: Groups | None, n_draws: int | None
) -> Alignment:
    chunks, n_draws, size = _chunked(values, n_draws, pivot.shape[1])
    costs = np.empty((n_draws, size, size))
    for where, p in chunks():
        with one_blas_thread():  # many small products
            costs[where] = -np.matmul(pivot.T, p)  # [c, K new, K old]
    return alignment_of(costs, forbidden_pairs(size, groups), -pivot.T @ own)


def _chunked(values: np.ndarray | Chunks, n_draws: int | None, size: int = 0) -> tuple[Chunks, int, int]:
    if callable(values):
        if n_draws is None:
            raise ValueError("n_draws says how many draws the chunks hold")
        return values, n_draws, size
    values = np.asarray(values)
    return array_chunks(values), len(values), values.shape[2]


def pra(components: np.ndarray, pivot: np.ndarray, groups: Groups | None = None) -> Alignment:
    """Pivotal reordering: the permutation with the largest inner product of parameters and those of a pivot.

    components [T, K, J], pivot [K, J], on whatever scales they come: a column of large numbers decides. An assignment
    replaces the K! comparisons. Source: Marin, Mengersen & Robert (2005), section 3.
    """
    components, pivot = np.asarray(components, dtype=float), np.asarray(pivot, dtype=float)
    costs = -np.einsum("jr,tkr->tjk", pivot, components, optimize=True)
    return alignment_of(costs, forbidden_pairs(components.shape[1], groups), -pivot @ pivot.T)


def ecr(allocations: np.ndarray, pivot: np.ndarray, size: int | None = None, groups: Groups | None = None) -> Alignment:
    """Equivalence classes representatives: as many units as may be are in the component that a pivot puts them in.

    allocations [T, n] and pivot [n], whole numbers from 0; size: K, where the draws may lack the last components. Cost
    of old k becoming new j: members of k that the pivot has elsewhere. Cost: O(T (n + K³)).
    Source: Papastamoulis & Iliopoulos (2010), algorithm 1.
    """
    z, pivot = np.asarray(allocations), np.asarray(pivot)
    size = int(max(z.max(initial=0), pivot.max(initial=0))) + 1 if size is None else size
    costs = np.empty((len(z), size, size))
    for where, block in array_chunks(z, 8)():
        drawn = len(block)
        base = (np.arange(drawn) * size * size)[:, None] + pivot.astype(np.int64) * size
        counts = np.bincount((base + block).ravel(), minlength=drawn * size * size)
        together = counts.reshape(drawn, size, size)  # [c, pivot's component, draw's component]
        costs[where] = together.sum(axis=1, keepdims=True) - together
    own = np.bincount(pivot, minlength=size)
    return alignment_of(costs, forbidden_pairs(size, groups), own[None, :] - np.diag(own).astype(float))


def ordering(values: np.ndarray, groups: Groups | None = None) -> Alignment:
    """An identifiability constraint put on afterwards: components of each draw in the order of one number of theirs.

    values [T, K]. What cannot be swapped stays. The draws keep the sampler's posterior, which an ordering within the
    model would not; where the numbers overlap, the order cuts the components apart in the wrong place.
    """
    values = np.asarray(values, dtype=float)
    size = values.shape[1]
    ranks = np.arange(size, dtype=float)
    if groups is not None:  # the order within each group, at the places that the group has
        for members in groups:
            ranks[list(members)] = np.arange(len(members))
    costs = -ranks[None, :, None] * values[:, None, :]
    return alignment_of(costs, forbidden_pairs(size, groups), objective=float("nan"))


def user_permutations(permutations: np.ndarray, n_draws: int, size: int) -> Alignment:
    """Permutations that the user has found elsewhere, [T, K] or [chain, draw, K]: checked, and taken as they are.

    Raises InvalidArgumentError naming the first row that is none.
    """
    perms = np.asarray(permutations)
    shape = perms.shape
    perms = perms.reshape(-1, shape[-1]) if perms.ndim else perms
    if perms.ndim != 2 or perms.shape != (n_draws, size) or not np.issubdtype(perms.dtype, np.integer):
        raise InvalidArgumentError(
            f"permutations of shape {shape} and kind {perms.dtype} for {n_draws} draws of {size} components",
            "the argument `permutations`",
            (f"whole numbers [{n_draws}, {size}]: the old component of each new one, counted from 0",),
        )
    wrong = np.flatnonzero((np.sort(perms, axis=1) != np.arange(size)).any(axis=1))
    if len(wrong):
        raise InvalidArgumentError(
            f"{perms[wrong[0]].tolist()} is no permutation of 0 … {size - 1}",
            f"the argument `permutations`, row {wrong[0]}",
            ("count from 0: R's permutations less 1",),
        )
    return Alignment(perms.astype(np.int64), np.ones(n_draws), note="as given")


@method("responsibilities", ("chunks", "pivot"), "each draw to the responsibilities of the reference")
def _responsibilities(material: Material) -> Alignment:
    assert material.chunks is not None and material.pivot is not None
    return to_responsibilities(material.chunks, material.pivot, material.groups, material.n_draws)


@method("densities", ("densities", "pivot_densities"), "each draw to the component densities of the reference")
def _densities(material: Material) -> Alignment:
    assert material.densities is not None and material.pivot_densities is not None
    return to_densities(material.densities, material.pivot_densities, material.groups, material.n_draws)


@method("ordering", ("components",), "components in the order of one parameter", "Diebolt & Robert (1994)")
def _ordering(material: Material) -> Alignment:
    assert material.components is not None
    column = column_of(material)
    found = ordering(material.components[:, :, column], material.groups)
    return found._replace(note=f"by {material.columns[column]}" if material.columns else "")


def column_of(material: Material) -> int:
    """Index of the column that `by` names, the first where it names none."""
    if material.by is None:
        return 0
    names = material.columns
    exact = [i for i, name in enumerate(names) if name == material.by]
    starting = [i for i, name in enumerate(names) if name.partition("[")[0] == material.by]
    if exact or len(starting) == 1:
        return (exact or starting)[0]
    raise InvalidArgumentError(
        f'"{material.by}" does not name one number of each component',
        "the argument `by`",
        tuple(f'by="{name}"' for name in (names[i] for i in (starting or range(min(len(names), 8))))),
    )


@method(
    "PRA", ("components", "reference"), "largest inner product with the parameters of the reference",
    "Marin, Mengersen & Robert (2005)",
)  # fmt: skip
def _pra(material: Material) -> Alignment:
    assert material.components is not None and material.reference is not None
    return pra(material.components, material.reference, material.groups)


@method(
    "ECR", ("membership", "pivot"), "allocations of each draw to those of the reference",
    "Papastamoulis & Iliopoulos (2010)",
)  # fmt: skip
def _ecr(material: Material) -> Alignment:
    assert material.pivot is not None
    target = material.pivot.argmax(axis=1)
    if material.allocations is not None:
        return ecr(material.allocations, target, material.size, material.groups)
    assert material.chunks is not None
    z = np.empty((material.n_draws, material.n_units), dtype=np.int8 if material.size < 128 else np.int16)
    for where, p in material.chunks():
        z[where] = p.argmax(axis=2)
    return ecr(z, target, material.size, material.groups)


@method("permutations", ("given",), "permutations of your own, checked")
def _given(material: Material) -> Alignment:
    assert material.given is not None
    return user_permutations(material.given, material.n_draws, material.size)
