"""Fit and draws → Comparison: the table, the verdicts, the report."""

from emppl.comparison import modes, normal, predictive  # noqa: F401  (they enter their verdicts in the table)
from emppl.comparison.evidence import VERDICTS, Evidence, Verdict, verdict
from emppl.comparison.report import Comparison, compare

__all__ = ["VERDICTS", "Comparison", "Evidence", "Verdict", "compare", "verdict"]
