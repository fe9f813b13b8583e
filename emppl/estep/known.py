"""What the user knows of single members: weights of observations, and labels, the values of some latents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from emppl.errors import InvalidArgumentError, as_numbers
from emppl.estep.tables import elements_of
from emppl.structure.types import Factor, Node, Structure


def member_weights(structure: Structure, plans: Sequence[Any], obs_weights: Any) -> list[np.ndarray | None]:
    """Weights of the members [C] of each plate from `obs_weights`: one array, or {observed name: array}.

    An array has a weight for each row of its variable (its shape, or the first axes of it), all rows of one member the
    same; or, where rows share members, one for each member.
    """
    answer: list[np.ndarray | None] = [None] * len(structure.plates)
    if obs_weights is None:
        return answer
    observed = [node.name for node in structure.observed]
    if not observed:
        raise InvalidArgumentError("the model has no observed variable to weight", "obs_weights")
    touched = {name: [e for e in plans if e.factor.variable == name] for name in observed}
    if not isinstance(obs_weights, Mapping):
        if len({e.plates for entries in touched.values() for e in entries}) > 1:
            raise InvalidArgumentError(
                f"one array of weights leaves open whose they are: {', '.join(observed)} have different members",
                "obs_weights", tuple(f"obs_weights={{{name!r}: ...}}" for name in observed),
            )  # fmt: skip
        obs_weights = {observed[0]: obs_weights}
    said: dict[int, str] = {}
    for name, values in obs_weights.items():
        where = f"obs_weights of {name!r}"
        if name not in observed:
            raise InvalidArgumentError(
                f"obs_weights names {name!r}, which is not observed", f"observed: {', '.join(observed)}"
            )
        values = as_numbers(values, where)
        if not np.isfinite(values).all() or (values < 0).any():
            raise InvalidArgumentError("weights must be finite and not negative", where)
        entries = touched[name]
        plates = sorted({p for entry in entries for p in entry.plates})
        if not plates:
            raise InvalidArgumentError(
                f"{name} depends on no latent, and weights of such observations are not supported", where,
                ("repeat the rows instead",),
            )  # fmt: skip
        if any(structure.plates[p].tied for p in plates):
            raise InvalidArgumentError(
                f"the members of {name} are tied to each other by their latents: none can be weighted alone", where,
                ("repeat or leave out whole groups instead",),
            )  # fmt: skip
        for p, found in _by_plate(structure, structure.node(name), [e.factor for e in entries], plates, values, where):
            if answer[p] is not None and not np.array_equal(answer[p], found):
                raise InvalidArgumentError(
                    f"{said[p]} and {name} share members, and are given different weights", where,
                    ("a weight is a member's, with all that is observed of it: give one of them",),
                )  # fmt: skip
            answer[p], said[p] = found, name
    return answer


def _by_plate(
    structure: Structure, node: Node, factors: Sequence[Factor], plates: Sequence[int], values: np.ndarray, where: str
) -> list[tuple[int, np.ndarray]]:
    """The weights of one variable's rows as those of the members of the plates that the rows belong to."""
    sizes = tuple(structure.plates[p].size for p in plates)
    by_row = values.ndim > 0 and all(
        values.ndim <= len(f.shape) and f.shape == node.shape[: len(f.shape)] and f.shape[: values.ndim] == values.shape
        for f in factors
    )
    differs = None
    if by_row:
        answer, differs = _members_of_rows(structure, factors, plates, values)
        if differs is None:
            return answer
    if values.shape == sizes and node.shape != values.shape:
        return [(plates[0], values)]
    if differs is not None:
        raise InvalidArgumentError(f"{node.name}{differs[0]} {differs[1]}", where, differs[2])
    raise InvalidArgumentError(
        f"weights have shape {values.shape}, but {node.name} has shape {node.shape} and "
        f"{' + '.join(map(str, sizes))} members", where,
        ("one weight a row, or one a member of the plate: rows that share a latent share a weight",),
    )  # fmt: skip


def _members_of_rows(
    structure: Structure, factors: Sequence[Factor], plates: Sequence[int], values: np.ndarray
) -> tuple[list[tuple[int, np.ndarray]], tuple[list[int], str, tuple[str, ...]] | None]:
    """Weights by plate, and the first row that cannot have its own: where it is, what bars it, and ways out."""
    answer = [(p, np.ones(structure.plates[p].size)) for p in plates]
    for factor in factors:
        weight = np.broadcast_to(values.reshape(values.shape + (1,) * (len(factor.shape) - values.ndim)), factor.shape)
        weight, free = weight.ravel(), np.ones(factor.size, dtype=bool)
        for p, found in answer:
            elements, members = elements_of(factor, structure.plates[p])
            free[elements] = False
            found[members[::-1]] = weight[elements[::-1]]  # the first row of each member is the one that stays
            unequal = elements[found[members] != weight[elements]]
            if len(unequal):
                place = [int(i) for i in np.unravel_index(unequal[0], factor.shape)]
                why = "has another weight than other rows with the same latent"
                return answer, (place, why, ("rows that share a latent share a weight",))
        apart = np.flatnonzero(free & (weight != 1.0))
        if len(apart):
            place = [int(i) for i in np.unravel_index(apart[0], factor.shape)]
            why = "depends on no latent, and weights of such observations are not supported"
            return answer, (place, why, ("give such rows weight 1, and repeat them instead",))
    return answer, None


def label_masks(structure: Structure, labels: Mapping[str, Any] | None) -> list[np.ndarray | None]:
    """Which configurations known labels leave possible: [C, J] a plate. Masked or −1 entries are unknown."""
    masks: list[np.ndarray | None] = [None] * len(structure.plates)
    if not labels:
        return masks
    if not isinstance(labels, Mapping):
        raise InvalidArgumentError(
            f"labels must say whose they are, not {type(labels).__name__}",
            "labels",
            (f"labels={{{', '.join(repr(n.name) for n in structure.latents)}: [...]}}",),
        )
    total = sum(node.size for node in structure.latents)
    unknown_value = np.iinfo("int64").min
    known = np.full(total, unknown_value, dtype="int64")
    names = [node.name for node in structure.latents]
    for name, values in labels.items():
        if name not in names:
            raise InvalidArgumentError(
                f"labels names {name!r}, which is no latent variable", f"latents: {', '.join(names)}"
            )
        node = structure.node(name)
        hidden = np.ma.getmaskarray(values) if np.ma.isMaskedArray(values) else np.zeros(np.shape(values), bool)
        array = np.asarray(np.ma.getdata(values))
        if array.shape != node.shape:
            raise InvalidArgumentError(
                f"labels of {name} have shape {array.shape}, not {node.shape}", f"labels[{name!r}]"
            )
        if array.dtype.kind not in "iub":
            if array.dtype.kind != "f" or not (np.isnan(array) | (array == np.round(array))).all():
                raise InvalidArgumentError(
                    f"labels of {name} must be integers from its support {node.support.tolist()}", f"labels[{name!r}]",
                    ("pandas.factorize turns words into integers", "mask or set to −1 what is unknown"),
                )  # fmt: skip
            array = np.where(np.isnan(array), -1, array).astype("int64")
        if not np.ma.isMaskedArray(values):
            if -1 in node.support:
                raise InvalidArgumentError(
                    f"−1 is a value of {name}, so it cannot mean unknown",
                    f"labels[{name!r}]",
                    ("mask what is unknown: np.ma.masked_array(labels, mask=unknown)",),
                )
            hidden = hidden | (array == -1)
        wrong = ~hidden & ~np.isin(array, node.support)
        if wrong.any():
            index = tuple(int(i) for i in np.argwhere(wrong)[0])
            raise InvalidArgumentError(
                f"labels[{name!r}]{list(index)} = {array[index]} is not among the values {node.support.tolist()}",
                f"latent {name!r}",
            )
        start = structure.offsets[name]
        known[start : start + node.size] = np.where(hidden, unknown_value, array).ravel()
    unknown = known == unknown_value
    for p, plate in enumerate(structure.plates):
        ids = plate.members
        fits = unknown[ids][:, None, :] | (known[ids][:, None, :] == plate.configurations[None])
        masks[p] = fits.all(axis=2)
    return masks
