"""EM, MAP and the full posterior from one PyMC model: fitted, sampled and compared."""

# ruff: noqa: E402
import gc

_collects = gc.isenabled()
gc.disable()  # what imports make stays: looking for garbage among it takes a fifth of their time

from typing import TYPE_CHECKING, Any

from emppl import compiledir

compiledir.provide()

from emppl.ascent.loop import Status
from emppl.ascent.result import Fit, load
from emppl.ascent.search import fit
from emppl.planner import Plan, plan
from emppl.structure import Structure, analyse

if TYPE_CHECKING:
    from emppl.rules import rules
else:
    from emppl import rules  # the package, so that `import emppl.rules as r` gives it; called, it lists its tables

if _collects:
    if not gc.get_freeze_count():
        gc.freeze()
        gc.unfreeze()  # which leaves all of it in the oldest generation, and the next small collection small
    gc.enable()

__version__ = "0.1.0"
__all__ = [
    "Comparison", "Fit", "MethodComparison", "Plan", "Status", "Structure", "SwitchingReport",
    "analyse", "compare", "compare_methods", "diagnose", "fit", "load", "plan", "relabel", "rules", "sample",
]  # fmt: skip

_LATER = {  # what draws, compares and relabels is imported when it is first asked for: a fit must not wait for it
    "sample": "emppl.sampling",
    "Comparison": "emppl.comparison",
    "compare": "emppl.comparison",
    "SwitchingReport": "emppl.labels",
    "MethodComparison": "emppl.labels",
    "compare_methods": "emppl.labels",
    "diagnose": "emppl.labels",
    "relabel": "emppl.labels",
}


_PACKAGES = ("comparison", "labels", "plots", "streaming")  # imported when first named, too


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in _LATER:
        return getattr(import_module(_LATER[name]), name)
    if name in _PACKAGES:
        return import_module(f"emppl.{name}")
    raise AttributeError(f"module 'emppl' has no attribute {name!r}")


def __dir__() -> list[str]:
    """What there is, before it is imported too: for completion."""
    return sorted({*__all__, *_PACKAGES, "errors", *(name for name in globals() if name.startswith("__"))})
