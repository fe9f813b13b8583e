"""Scopes → plates: latent elements that meet in a factor belong together; what is independent is a plate.

Small groups are enumerated whole. Larger ones (the class of a group over its members' own latents, people × questions)
keep one plate for every kind of scope, and an order in which their elements are summed out one after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy import sparse

from emppl.errors import UnsupportedModelError
from emppl.structure.types import Elimination, Factor, Node, Plate, Structure

MAX_CONFIGURATIONS = 4096  # joint values of one scope, or of one group that is enumerated whole
FEW_MEMBERS = 1 << 18  # members × joint values up to which more than that are enumerated
SMALL_GROUP = 128  # joint values up to which a group is enumerated whole without asking what else could be done
MAX_TABLE = 1 << 20  # numbers in the largest table of an elimination, in one component
MAX_WORK = 5e8  # numbers in all tables of an elimination


def plates_of(
    latents: Sequence[Node], factors: Sequence[Factor], factored: bool = False
) -> tuple[tuple[Plate, ...], tuple[Elimination, ...]]:
    """Plates, and the eliminations that tie some of them together.

    factored: also groups that could be enumerated whole keep a plate for each kind of scope.
    Raises UnsupportedModelError where neither enumeration nor elimination can be paid for.
    """
    if not latents:
        return (), ()
    owner = np.concatenate([np.full(node.size, i) for i, node in enumerate(latents)])
    label = _components(factors, len(owner))
    widest = _widest_scope(factors, label)
    plates: list[Plate] = []
    tied: list[np.ndarray] = []
    for make_up, members in _groups(owner, label):
        nodes = [latents[i] for i in make_up]
        count = float(np.prod([float(n.n_values) for n in nodes]))
        whole = widest[label[members[:, 0]]].max() == len(make_up)
        if whole or count <= (1 if factored and len(make_up) > 1 else SMALL_GROUP):
            plates.append(_plate(nodes, members))
        else:
            tied.extend(members)
    if not tied:
        return tuple(plates), ()
    local = _local_plates(latents, owner, factors, np.isin(np.arange(len(owner)), np.concatenate(tied)))
    eliminations = _eliminations(latents, owner, tied, local, first=len(plates))
    return (*plates, *local), eliminations


def _groups(owner: np.ndarray, label: np.ndarray) -> list[tuple[tuple[int, ...], np.ndarray]]:
    """Components of one make-up together: the owner of each of their elements, and the elements [components, width].

    Both in the order of the labels.
    """
    order = np.argsort(label, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(label[order]) > 0])
    widths = np.diff(np.r_[starts, len(order)])
    found: list[tuple[int, tuple[int, ...], np.ndarray]] = []
    for width in np.unique(widths):
        first = starts[widths == width]
        members = order[first[:, None] + np.arange(width)]
        owners = owner[members]
        if (owners == owners[:1]).all():
            found.append((int(first[0]), tuple(owners[0].tolist()), members))
            continue
        kinds, kind = np.unique(owners, axis=0, return_inverse=True)
        for k, make_up in enumerate(kinds):
            chosen = np.flatnonzero(kind.ravel() == k)
            found.append((int(first[chosen[0]]), tuple(make_up.tolist()), members[chosen]))
    return [(make_up, members) for _, make_up, members in sorted(found, key=lambda group: group[0])]


def is_decomposable(structure: Structure) -> bool:
    """Whether a group of latents that is enumerated whole could be summed out element by element instead."""
    several = [plate for plate in structure.plates if plate.members.shape[1] > 1 and not plate.tied]
    if not several:
        return False
    label = _components(structure.factors, sum(node.size for node in structure.latents))
    widest = _widest_scope(structure.factors, label)
    return any(widest[label[plate.members[:, 0]]].max() < plate.members.shape[1] for plate in several)


def factored(structure: Structure) -> Structure:
    """The same structure with such groups taken apart."""
    plates, eliminations = plates_of(structure.latents, structure.factors, factored=True)
    return replace(structure, plates=plates, eliminations=eliminations)


def _components(factors: Sequence[Factor], total: int) -> np.ndarray:
    """The group of each latent element: elements that meet in an element of a factor share one."""
    graph = sparse.csr_matrix((total, total), dtype=np.int32)
    for factor in factors:
        if factor.scope is not None and factor.scope.nnz:
            several = factor.scope[np.diff(factor.scope.indptr) > 1].astype(np.int32)
            if several.shape[0] and several.nnz:
                # linking the first latent of each row to the others is enough for connectedness, and keeps this linear
                first = np.repeat(several.indices[several.indptr[:-1]], np.diff(several.indptr))
                graph = graph + sparse.csr_matrix(
                    (np.ones(several.nnz, np.int32), (first, several.indices)), (total, total)
                )
    if not graph.nnz:  # as usual, and sooner known than the search is imported
        return np.arange(total, dtype=np.int32)
    return sparse.csgraph.connected_components(graph, directed=False)[1]


def _widest_scope(factors: Sequence[Factor], label: np.ndarray) -> np.ndarray:
    """Most latent elements that meet in one element of a factor, by group."""
    widest = np.ones(label.max() + 1, dtype=int)
    for factor in factors:
        if factor.scope is not None and factor.scope.nnz:
            width = np.diff(factor.scope.indptr)
            rows = np.flatnonzero(width)
            np.maximum.at(widest, label[factor.scope.indices[factor.scope.indptr[rows]]], width[rows])
    return widest


def _plate(nodes: Sequence[Node], members: np.ndarray, tied: bool = False) -> Plate:
    supports = [node.support for node in nodes]
    count = float(np.prod([float(len(s)) for s in supports]))
    if count > MAX_CONFIGURATIONS and (tied or count * len(members) > FEW_MEMBERS):
        raise UnsupportedModelError(
            f"{len(nodes)} latent elements meet in one observation or in each other, which makes {count:.3g} joint "
            f"configurations, more than the {MAX_CONFIGURATIONS} that are enumerated",
            names_of(list(dict.fromkeys(nodes))),
            (
                "break the tie: let each observation depend on fewer latents",
                "make the support smaller: support={name: range(...)}",
            ),
        )
    grids = np.meshgrid(*[np.arange(len(s)) for s in supports], indexing="ij")
    configurations = np.stack([s[g.ravel()] for s, g in zip(supports, grids)], axis=-1)
    return Plate(tuple(node.name for node in nodes), members, configurations, tied)


def _local_plates(
    latents: Sequence[Node], owner: np.ndarray, factors: Sequence[Factor], tied: np.ndarray
) -> list[Plate]:
    """A plate for every make-up of scopes that factors have among the tied elements."""
    found: dict[tuple[int, ...], dict[tuple[int, ...], None]] = {}
    for factor in factors:
        scope = factor.scope
        if scope is None:
            continue
        for start, end in zip(scope.indptr[:-1], scope.indptr[1:]):
            if end > start and tied[scope.indices[start]]:
                elements = tuple(sorted(scope.indices[start:end].tolist()))
                make_up = tuple(int(owner[e]) for e in elements)
                found.setdefault(make_up, {})[elements] = None
    return [_plate([latents[i] for i in make_up], np.array(list(members)), True) for make_up, members in found.items()]


def _eliminations(
    latents: Sequence[Node], owner: np.ndarray, tied: list[np.ndarray], local: list[Plate], first: int
) -> tuple[Elimination, ...]:
    """Components of one pattern are summed out together, as batches of tables."""
    component = np.full(len(owner), -1)
    place = np.full(len(owner), -1)
    for c, elements in enumerate(tied):
        component[elements], place[elements] = c, np.arange(len(elements))
    held: list[list[tuple[int, tuple[int, ...], int]]] = [[] for _ in tied]
    for p, plate in enumerate(local):
        for i, elements in enumerate(plate.members):
            held[component[elements[0]]].append((first + p, tuple(int(v) for v in place[elements]), i))
    patterns: dict[tuple, list[int]] = {}
    for c, elements in enumerate(tied):
        held[c].sort()
        key = (tuple(int(i) for i in owner[elements]), tuple((p, scope) for p, scope, _ in held[c]))
        patterns.setdefault(key, []).append(c)
    answer = []
    for (make_up, tables), components in patterns.items():
        nodes = [latents[i] for i in make_up]
        supports = tuple(node.n_values for node in nodes)
        scopes = tuple(scope for _, scope in tables)
        members = [np.array([held[c][t][2] for c in components]) for t in range(len(tables))]
        steps = _order(scopes, supports)
        done = Elimination(tuple((p, m) for (p, _), m in zip(tables, members)), scopes, supports, steps)
        _check_cost(done, nodes)
        answer.append(done)
    return tuple(answer)


def _order(scopes: Sequence[tuple[int, ...]], supports: Sequence[int]) -> tuple[tuple[int, tuple[int, ...]], ...]:
    """Greedy: next is the variable that leaves the smallest table (min-weight; Koller & Friedman 2009, 9.4)."""
    alive: dict[int, frozenset[int]] = dict(enumerate(frozenset(s) for s in scopes))
    holders: list[set[int]] = [set() for _ in supports]
    for t, scope in alive.items():
        for v in scope:
            holders[v].add(t)
    logs = np.log([float(s) for s in supports])

    def joined(v: int) -> frozenset[int]:
        return frozenset().union(*(alive[t] for t in holders[v]), {v})

    union = {v: joined(v) for v in range(len(supports))}
    steps: list[tuple[int, tuple[int, ...]]] = []
    while union:
        v = min(union, key=lambda u: (sum(logs[w] for w in union[u]), u))
        used = tuple(sorted(holders[v]))
        number = len(scopes) + len(steps)
        steps.append((v, used))
        rest = union.pop(v) - {v}
        for t in used:
            for w in alive.pop(t):
                holders[w].discard(t)
        alive[number] = rest
        for w in rest:
            holders[w].add(number)
        for w in rest:
            union[w] = joined(w)
    return tuple(steps)


def _check_cost(done: Elimination, nodes: Sequence[Node]) -> None:
    scopes, largest, widest = done.left(), 0.0, 0
    for variable, used in done.steps:
        together = {v for t in used for v in scopes[t]} | {variable}
        size = float(np.prod([float(done.supports[v]) for v in together]))
        if size > largest:
            largest, widest = size, len(together)
    if largest > MAX_TABLE or done.cost * done.size > MAX_WORK:
        raise UnsupportedModelError(
            f"{len(nodes)} latent elements are tied together, and summing them out one after the other needs a table "
            f"over {widest} of them at once: {largest:.3g} numbers, more than the {MAX_TABLE:,} that are affordable",
            names_of(list(dict.fromkeys(nodes))),
            (
                "break the tie: let each observation depend on fewer latents",
                "condition on some of them: labels={name: values}, or freeze={name: values}",
                "make the support smaller: support={name: range(...)}",
            ),
        )


def names_of(nodes: Sequence[Node]) -> str:
    """Names with dims, for messages."""
    words = [f"{n.name}[{', '.join(n.dims)}]" if n.dims else n.name for n in nodes]
    return ", ".join(words[:5]) + (f" and {len(words) - 5} more" if len(words) > 5 else "")
