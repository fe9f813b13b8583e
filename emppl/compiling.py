"""Small graphs become callable in a fraction of a second: PyTensor interpreted, no compiler to wait for."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import pytensor
from pytensor.compile.mode import OPT_FAST_RUN, Mode
from pytensor.graph.replace import clone_replace
from pytensor.graph.traversal import ancestors
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

CALLS_THAT_PAY = 8  # writing a function out costs about as much as some calls of it
INTERPRETED_EXCLUSIONS = ("fusion", "inplace", "BlasOpt", "scan", "add_mul_fusion")


@cache
def interpreted_mode() -> Mode:
    """Python linker; fusion is left out because a Python Elemwise takes at most 32 operands.

    Checks of distribution parameters become minus infinity instead of exceptions, as in PyMC's own compiled functions.
    """
    optimizer = OPT_FAST_RUN.excluding(*INTERPRETED_EXCLUSIONS).including("local_check_parameter_to_ninf_switch")
    return Mode(linker="py", optimizer=optimizer)


class CompiledGraph:
    """A PyTensor function that becomes straight Python once it is called again and again: the same numbers, sooner."""

    def __init__(self, function: Any) -> None:
        self.function = function
        self._run = function
        self._calls_left = CALLS_THAT_PAY

    def __call__(self, *arguments: Any) -> Any:
        if self._calls_left:
            self._calls_left -= 1
            if not self._calls_left:
                from emppl.straightline import straight

                self._run = straight(self.function) or self.function
        return self._run(*arguments)


def compile_graph(inputs: Sequence[Any], outputs: Any, *, optimise: bool = True) -> CompiledGraph:
    """A PyTensor function over `inputs`; unused inputs are allowed, since one signature serves several graphs."""
    mode = interpreted_mode() if optimise else Mode(linker="py", optimizer=None)
    # else folding constants would call the C compiler, and rewrites that fail (and are undone) print tracebacks
    with pytensor.config.change_flags(cxx="", on_opt_error="ignore"):
        function = pytensor.function(list(inputs), outputs, mode=mode, on_unused_input="ignore")
    function.trust_input = True
    return CompiledGraph(function)


def one_blas_thread() -> Any:
    """A context in which BLAS uses one thread.

    For small matrices several threads wait for each other, on a busy machine for long.
    """
    return threadpool_limits(limits=1, user_api="blas")


def substitute(graphs: Sequence[Any], replacements: dict[Any, Any]) -> list[Any]:
    """The graphs with some variables replaced; types may change (a length becomes known, an axis is added)."""
    if not replacements:
        return list(graphs)
    return list(clone_replace(list(graphs), replace=replacements, rebuild_strict=False))


def depends_on(graph: Any, variables: set[Any]) -> bool:
    """Whether any of `variables` stands in the graph."""
    return any(node in variables for node in ancestors([graph]))
