"""Every exception that a user of emppl can meet: what happened, where, and the ways out."""

from __future__ import annotations

from typing import Any

import numpy as np

from emppl.text import visible


class EmpplError(Exception):
    """Base of all errors raised on purpose: `what` was met, `where`, and `remedies`, the ways out."""

    def __init__(self, what: str, where: str = "", remedies: tuple[str, ...] = ()) -> None:
        super().__init__(what, where, tuple(remedies))  # all of them: multi-start pickles errors across processes
        self.what, self.where, self.remedies = what, where, tuple(remedies)

    def __str__(self) -> str:
        lines = [self.what]
        if self.where:
            lines.append(f"  where: {self.where}")
        if self.remedies:
            lines.append("  ways out:")
            lines.extend(f"  - {remedy}" for remedy in self.remedies)
        return visible("\n".join(lines))


class UnsupportedModelError(EmpplError, NotImplementedError):
    """No exact rule covers a part of the model."""


class InvalidDataError(EmpplError, ValueError):
    """Data that no model of this kind can have produced: missing, infinite, outside the support, of a wrong shape."""


class SourceError(EmpplError, RuntimeError):
    """A source of blocks does not give in a later pass what it gave in the first."""


class WorkersLostError(EmpplError, RuntimeError):
    """The workers that a fit was given have died, and none is left to go on with."""


class InvalidArgumentError(EmpplError, ValueError):
    """An argument names something that the model does not have, or gives it a value it cannot take."""


class UnknownKeywordError(InvalidArgumentError, TypeError):
    """A function was called with a keyword that it does not have."""


class DegenerateDataError(EmpplError, ValueError):
    """Data on which the model has no maximum or no unique one: too few distinct rows, a constant column."""


class NoStartError(EmpplError, RuntimeError):
    """No start reached a finite objective, so there is nothing to report as a fit."""


class SamplerError(EmpplError, RuntimeError):
    """A sampler broke down in the midst of its work."""


class SavedFitError(EmpplError, ValueError):
    """A saved fit cannot be read, or belongs to another model."""


def as_numbers(values: Any, where: str) -> np.ndarray:
    """An array of floats; InvalidArgumentError showing what was given where it is none."""
    try:
        return np.asarray(values, dtype=float)
    except (TypeError, ValueError):
        raise InvalidArgumentError(f"{values!r} is not a number, nor an array of numbers", where) from None
