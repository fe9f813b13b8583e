"""EM, MAP and the full posterior from one PyMC model: fitted, sampled and compared."""

from emppl.ascent.loop import Status
from emppl.ascent.result import Fit, load
from emppl.ascent.search import fit
from emppl.planner import Plan, plan
from emppl.rules import rules
from emppl.structure import Structure, analyse

__version__ = "0.1.0"
__all__ = ["Fit", "Plan", "Status", "Structure", "analyse", "fit", "load", "plan", "rules"]
