"""Names and labels of a model as result sets and their files can hold them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from emppl.errors import UnsupportedModelError
from emppl.text import storable

STORABLE = "biufSUmMO"  # kinds of arrays that labels may be; objects become text in files


def check_name(name: str, where: str) -> None:
    """Raise UnsupportedModelError for a variable or a dim whose name no DataTree or netCDF file can hold."""
    if name in ("", ".", "..") or "/" in name or storable(name) != name:
        raise UnsupportedModelError(
            f"the name {name!r} cannot stand in a result: no file can hold it, or it is a place in one ('/', '.')",
            where,
            ("another name in the model",),
        )


def labels_of(coord: Sequence[Any]) -> np.ndarray:
    """The labels of a dim in one line, for xarray: as they are where it can hold them, else as text ("a, 1").

    So are the labels of a pd.MultiIndex and tuples. What text in a file cannot hold is written out ("\\x00").
    """
    try:
        labels = np.asarray(coord)
    except ValueError:  # tuples of several lengths
        labels = np.empty((0, 0))
    wide = labels.dtype.kind == "f" and labels.dtype.itemsize > np.dtype(float).itemsize
    nested = labels.dtype.kind == "O" and any(map(_is_several, labels.flat))
    if labels.ndim != 1 or labels.dtype.kind not in STORABLE or wide or nested:
        labels = _objects([_text(one) for one in coord])
    if labels.dtype.kind in "UO":
        written = [storable(one) if isinstance(one, str) else one for one in labels]
        if any(isinstance(one, str) and one != label for one, label in zip(written, labels)):
            labels = _objects(written)
    return labels


def _objects(values: list[Any]) -> np.ndarray:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def _is_several(label: Any) -> bool:
    return isinstance(label, tuple | list) or (isinstance(label, np.ndarray) and label.ndim > 0)


def _text(label: Any) -> str:
    return ", ".join(map(_text, label)) if _is_several(label) else str(label)
