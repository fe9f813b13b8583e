"""The tables of families and conjugate priors; importing this package fills them.

`emppl.rules()` lists them, and `emppl.rules` is this package: a call is passed on to `rules`.
"""

import sys
from types import ModuleType
from typing import Any

from emppl.rules import bounded, continuous, discrete, positive  # noqa: F401  (each registers its rules)
from emppl.rules.tables import Family, Frame, columns, conjugate, custom_family, family, ratio, rules, single

__all__ = ["Family", "Frame", "columns", "conjugate", "custom_family", "family", "ratio", "rules", "single"]


class _Package(ModuleType):
    def __call__(self) -> dict[str, Any]:
        return rules()


sys.modules[__name__].__class__ = _Package
