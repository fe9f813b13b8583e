"""Records that travel: to a file of pickle, to another process, to a copy."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import fields
from typing import Any, Self

import cloudpickle

_PACKING: ContextVar[bool] = ContextVar("packing", default=False)


class Portable:
    """A dataclass that pickle, cloudpickle, joblib and `copy.deepcopy` take as it is.

    A model holds functions without a name, which only cloudpickle can send, and the parts of a record share graphs,
    which have to stay the same on the other side: so the whole is packed at once, by cloudpickle, whoever asks. Only
    its fields travel; what was kept beside them is made again when it is asked for.
    """

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    def __reduce_ex__(self, protocol: Any) -> Any:
        if _PACKING.get():  # a part of what is being packed
            return super().__reduce_ex__(protocol)
        token = _PACKING.set(True)
        try:
            return cloudpickle.loads, (cloudpickle.dumps(self),)
        finally:
            _PACKING.reset(token)

    def __copy__(self) -> Self:
        made = object.__new__(type(self))
        made.__dict__.update(self.__dict__)
        return made
