"""Limits are compared with numbers as they are printed: nothing reads "1.010, above 1.01"."""

from typing import Any

import numpy as np


def as_printed(value: Any, limit: float, digits: int) -> Any:
    """`value`, or `limit` where both read the same with `digits` decimals; of an array, element by element.

    What compares this with the limit agrees with a reader who sees the rounded number. `digits`: the decimals with
    which it is printed, beside which the limit has no more.
    """
    if np.ndim(value) == 0:
        return limit if f"{value:.{digits}f}" == f"{limit:.{digits}f}" else value
    return np.array([as_printed(float(one), limit, digits) for one in np.ravel(value)]).reshape(np.shape(value))
