"""What the user knows of single members: weights of observations, and labels, the values of some latents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from emppl.errors import InvalidArgumentError, as_numbers
from emppl.structure.types import Structure


def member_weights(structure: Structure, plans: Sequence[Any], obs_weights: Any) -> list[np.ndarray | None]:
    """Weights of the members [C] of each plate from `obs_weights`: one array, or {observed name: array}."""
    answer: list[np.ndarray | None] = [None] * len(structure.plates)
    if obs_weights is None:
        return answer
    observed = [node.name for node in structure.observed]
    if not observed:
        raise InvalidArgumentError("the model has no observed variable to weight", "obs_weights")
    given = dict(obs_weights) if isinstance(obs_weights, Mapping) else {observed[0]: obs_weights}
    for name, values in given.items():
        where = f"obs_weights of {name!r}"
        if name not in observed:
            raise InvalidArgumentError(
                f"obs_weights names {name!r}, which is not observed", f"observed: {', '.join(observed)}"
            )
        values = as_numbers(values, where)
        if not np.isfinite(values).all() or (values < 0).any():
            raise InvalidArgumentError("weights must be finite and not negative", where)
        entry = next(e for e in plans if e.factor.name == name)
        if entry.plate is None:
            raise InvalidArgumentError(
                f"{name} depends on no latent, and weights of such observations are not supported", where,
                ("repeat the rows instead",),
            )  # fmt: skip
        plate = structure.plates[entry.plate]
        if plate.tied:
            raise InvalidArgumentError(
                f"the members of {name} are tied to each other by their latents: none can be weighted alone", where,
                ("repeat or leave out whole groups instead",),
            )  # fmt: skip
        if values.shape != (plate.size,):
            raise InvalidArgumentError(
                f"weights have shape {values.shape}, but {name} has {plate.size} members", where,
                ("one weight a member of the plate: rows that share a latent share a weight",),
            )  # fmt: skip
        answer[entry.plate] = values
    return answer


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
