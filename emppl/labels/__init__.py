"""Label switching: draws → is there switching, and draws in which every component keeps its name."""

from emppl.labels.compare import MethodComparison, compare_methods
from emppl.labels.diagnose import AxisSwitching, LabelState, SwitchingReport, diagnose
from emppl.labels.relabel import METHODS, Alignment, Material, method, relabel

__all__ = [
    "METHODS",
    "Alignment",
    "AxisSwitching",
    "LabelState",
    "Material",
    "MethodComparison",
    "SwitchingReport",
    "compare_methods",
    "diagnose",
    "method",
    "relabel",
]
