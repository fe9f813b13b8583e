"""Component axes that several latents share, or that a table has twice: the states of a chain, the blocks of a network.

No element of a transition matrix belongs to one state, so what each element enters does not show the axes. They are
found by trying: parameters are permuted along axes of the right length, and the latents must be renamed by it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations, product
from typing import Any

import numpy as np

from emppl.structure.types import Node

Family = tuple[tuple[Node, ...], np.ndarray, tuple[np.ndarray, ...]]

TRIALS = 64  # ways of laying the components along the parameters that are tried for one family
SAME = 1e-7


def shared_axes(plan: Any, nodes: Sequence[Node]) -> list[Family]:
    """(latents, slots [K, M], grids [K, …, K, M]) of each family of components among these latents.

    Latents of equal support are taken for one family first, then each for itself. Slots are elements of theta (all
    parameters laid end to end) along one axis, grids those of tables with the components along several.
    Cost: at most 64 E-steps for each pair of components until one pair can change places.
    """
    found: list[Family] = []
    by_size: dict[int, list[Node]] = {}
    for node in nodes:
        by_size.setdefault(len(node.support), []).append(node)
    for size, family in by_size.items():
        tried = [tuple(family)] + ([(node,) for node in family] if len(family) > 1 else [])
        for latents in tried:
            layout = _layout(plan, latents, size)
            if layout is not None:
                found.append((latents, *layout))
                if len(latents) == len(family):
                    break
    return found


def _layout(plan: Any, latents: tuple[Node, ...], size: int) -> tuple[np.ndarray, tuple[np.ndarray, ...]] | None:
    structure = plan.structure
    coordinates = structure.coordinates
    rng = np.random.default_rng(7)
    points = [coordinates.constrain(rng.normal(scale=0.5, size=coordinates.size)) for _ in range(2)]
    before = [_seen(plan, latents, theta) for theta in points]
    if not all(np.isfinite(height) for height, _ in before):
        return None
    for choice in _choices(structure.parameters, size):
        for pair in combinations(range(size), 2):
            perm = np.arange(size)
            perm[list(pair)] = perm[list(pair)[::-1]]
            if all(_renamed(plan, latents, theta, seen, choice, perm) for theta, seen in zip(points, before)):
                return _elements(structure.parameters, choice, size)
            if pair[1] > 2:  # components none of the first three of which may change places are rare
                break
    return None


def _choices(parameters: Sequence[Node], size: int) -> Iterator[dict[str, tuple[int, ...]]]:
    """Axes of each parameter that the components may lie along, more of them first, at least one."""
    options = []
    for node in parameters:
        axes = [axis for axis, length in enumerate(node.shape) if length == size]
        subsets = [own for count in range(len(axes), -1, -1) for own in combinations(axes, count)]
        options.append([(node.name, own) for own in subsets])
    if int(np.prod([len(own) for own in options], dtype=float)) > 16 * TRIALS:
        return
    ranked = sorted(product(*options), key=lambda chosen: -sum(len(own) for _, own in chosen))
    for chosen in ranked[:TRIALS]:
        choice = {name: own for name, own in chosen if own}
        if choice:
            yield choice


def _seen(plan: Any, latents: tuple[Node, ...], theta: dict[str, np.ndarray]) -> tuple[float, list[np.ndarray]]:
    """Log-likelihood at theta, and the latents' responsibilities [members, K]."""
    posterior = plan.e_step(theta, keep=True, hard=False)
    found = plan.marginals(posterior)
    return float(posterior.log_likelihood), [found[node.name].reshape(-1, len(node.support)) for node in latents]


def _renamed(
    plan: Any, latents: tuple[Node, ...], theta: dict[str, np.ndarray], seen: tuple[float, list[np.ndarray]],
    choice: dict[str, tuple[int, ...]], perm: np.ndarray,
) -> bool:  # fmt: skip
    """Whether permuting theta along these axes leaves the likelihood as it is and renames the latents' values."""
    moved = dict(theta)
    for name, axes in choice.items():
        for axis in axes:
            moved[name] = np.take(moved[name], perm, axis=axis)
    with np.errstate(all="ignore"):
        height, after = _seen(plan, latents, moved)
    if not abs(height - seen[0]) <= SAME * max(1.0, abs(height)):
        return False
    changed = any(np.abs(r - r[:, perm]).max() > SAME for r in seen[1])  # else nothing was seen
    return changed and all(np.allclose(new, old[:, perm], atol=SAME, rtol=0) for new, old in zip(after, seen[1]))


def _elements(
    parameters: Sequence[Node], choice: dict[str, tuple[int, ...]], size: int
) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    columns, grids, start = [np.empty((size, 0), dtype=int)], [], 0
    for node in parameters:
        ids = start + np.arange(node.size).reshape(node.shape)
        start += node.size
        axes = choice.get(node.name, ())
        if not axes:
            continue
        laid = np.moveaxis(ids, axes, range(len(axes))).reshape(*[size] * len(axes), -1)
        if len(axes) == 1:
            columns.append(laid)
        else:
            grids.append(laid)
    return np.concatenate(columns, axis=1), tuple(grids)
