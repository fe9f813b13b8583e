"""Fit and draws → Comparison: the table, the verdicts, the report."""

from emppl.comparison.report import Comparison, compare
from emppl.comparison.verdicts import VERDICTS, Evidence, Verdict, verdict

__all__ = ["VERDICTS", "Comparison", "Evidence", "Verdict", "compare", "verdict"]
