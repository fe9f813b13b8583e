"""The tables of families and conjugate priors; importing this package fills them."""

from emppl.rules import bounded, continuous, discrete, positive  # noqa: F401  (each registers its rules)
from emppl.rules.tables import Family, Frame, columns, conjugate, custom_family, family, ratio, rules, single

__all__ = ["Family", "Frame", "columns", "conjugate", "custom_family", "family", "ratio", "rules", "single"]
