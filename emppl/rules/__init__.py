"""The tables of families and conjugate priors; importing this package fills them."""

from emppl.rules import continuous, discrete  # noqa: F401  (each registers its rules)
from emppl.rules.tables import Family, Frame, conjugate, family, rules

__all__ = ["Family", "Frame", "conjugate", "family", "rules"]
