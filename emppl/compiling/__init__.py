"""Small graphs become callable in a fraction of a second: PyTensor interpreted, no compiler to wait for."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import pytensor
from pytensor.compile.builders import OpFromGraph
from pytensor.compile.mode import OPT_FAST_RUN, Mode
from pytensor.compile.rewriting import inline_ofg_node
from pytensor.graph.replace import clone_replace
from pytensor.graph.rewriting.basic import dfs_rewriter, node_rewriter
from pytensor.graph.traversal import ancestors

from emppl.compiling.batches import at_once
from emppl.compiling.pairs import in_pairs
from emppl.unrolled import Unrolled

CALLS_THAT_PAY = 8  # writing a function out costs about as much as some calls of it
INTERPRETED_EXCLUSIONS = ("fusion", "inplace", "BlasOpt", "scan", "add_mul_fusion")
FEW = 2e4  # densities up to which a graph that is asked a few times answers sooner as it stands than rewritten first
BEFORE_MERGING = 48.9  # position after all rewrites of meaning, before the last pass that unites equal nodes


@cache
def interpreted_mode() -> Mode:
    """Python linker, without fusion: nothing is compiled, and nothing has more operands than numpy takes.

    Checks of distribution parameters become minus infinity instead of exceptions, as in PyMC's own compiled functions.
    """
    optimizer = OPT_FAST_RUN.excluding(*INTERPRETED_EXCLUSIONS).including("local_check_parameter_to_ninf_switch")
    return Mode(linker="py", optimizer=optimizer).register((dfs_rewriter(in_pairs), BEFORE_MERGING))


class CompiledGraph:
    """A PyTensor function that becomes straight Python once it is called again and again: the same numbers, sooner.

    With `unroll` a small one becomes arithmetic on plain numbers: sooner still, the same numbers to rounding.
    """

    def __init__(self, function: Any, unroll: bool = False) -> None:
        self.function = function
        self.unroll = unroll
        self.traceable: Any = None  # the same of traced arrays, once written out
        self._run = function
        self._calls_left = 1 if unroll else CALLS_THAT_PAY  # what is answered must not depend on the number of calls

    def __call__(self, *arguments: Any) -> Any:
        if self._calls_left:
            self._calls_left -= 1
            if not self._calls_left:
                self._write_out()
        return self._run(*arguments)

    def _write_out(self) -> None:
        from emppl.compiling.straightline import straight

        straightened = straight(self.function)
        if straightened is not None:
            self._run, self.traceable = straightened
            if self.unroll and self.traceable is not None:
                self._run = Unrolled(self.traceable, self._run)


@node_rewriter([OpFromGraph])
def spell_out(_: Any, node: Any) -> Any:
    """A graph within the graph (softmax, log-sum-exp) becomes part of it.

    Left whole it is linked apart, which takes longer than all the rest, and is called through all of its own wrapping.
    """
    return inline_ofg_node(node)


@cache
def _mode(optimise: bool) -> Mode:
    if optimise:
        return interpreted_mode().register((dfs_rewriter(spell_out, at_once), BEFORE_MERGING - 0.01))
    return Mode(linker="py", optimizer=dfs_rewriter(spell_out, at_once, in_pairs))


def compile_graph(inputs: Sequence[Any], outputs: Any, *, optimise: bool = True, unroll: bool = False) -> CompiledGraph:
    """A PyTensor function over `inputs`; unused inputs are allowed, since one signature serves several graphs.

    optimise: rewrite the graph first, for speed and precision; not for what is evaluated a few times.
    unroll: for what each step of a fit asks for: where small, arithmetic on plain numbers, from the first call on. Its
    last digits are not those of another function for the same.
    """
    # else folding constants would call the C compiler, and rewrites that fail (and are undone) print tracebacks
    with pytensor.config.change_flags(cxx="", on_opt_error="ignore"), untraced():
        function = pytensor.function(list(inputs), outputs, mode=_mode(optimise), on_unused_input="ignore")
    function.trust_input = True
    return CompiledGraph(function, unroll)


def untraced() -> Any:
    """A context in which no node of a graph notes which lines of code made it: a tenth of what building it takes."""
    return pytensor.config.change_flags(traceback__limit=0)


def substitute(graphs: Sequence[Any], replacements: dict[Any, Any]) -> list[Any]:
    """The graphs with some variables replaced; types may change (a length becomes known, an axis is added)."""
    if not replacements:
        return list(graphs)
    return list(clone_replace(list(graphs), replace=replacements, rebuild_strict=False))


def depends_on(graph: Any, variables: set[Any]) -> bool:
    """Whether any of `variables` stands in the graph."""
    return any(node in variables for node in ancestors([graph]))
