"""Small graphs become callable in a fraction of a second: PyTensor interpreted, no compiler to wait for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache, cached_property, partial
from typing import Any

import numpy as np
import pytensor
from pytensor.compile.builders import OpFromGraph
from pytensor.compile.mode import OPT_FAST_RUN, Mode
from pytensor.compile.rewriting import inline_ofg_node
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.fg import FunctionGraph
from pytensor.graph.replace import clone_replace
from pytensor.graph.rewriting.basic import dfs_rewriter, node_rewriter
from pytensor.graph.traversal import ancestors, graph_inputs
from pytensor.scan.op import Scan

from emppl.compiling.numpy_dispatch import linked
from emppl.compiling.pairs import in_pairs
from emppl.compiling.reuse import once
from emppl.concurrency import Held, Lock
from emppl.unrolled import Unrolled
from emppl.unrolled.slopes import with_slope
from emppl.unrolled.tracing import Untraceable

INTERPRETED_EXCLUSIONS = (
    "fusion", "inplace", "BlasOpt", "scan", "add_mul_fusion",
    "dot_diag_to_elemwise", "selection_dot_to_indexing",  # look at all that a product hangs on, at each product
)  # fmt: skip
FEW = 2e4  # densities up to which a graph that is asked a few times answers sooner as it stands than rewritten first
MOST_TRACED = 1000  # numbers given to a graph, beyond which PyTensor has its gradient sooner than LLVM
BEFORE_MERGING = 48.9  # position after all rewrites of meaning, before the last pass that unites equal nodes


@cache
def interpreted_mode() -> Mode:
    """Python linker, without fusion: nothing is compiled, and nothing has more operands than numpy takes.

    Checks of distribution parameters become minus infinity instead of exceptions, as in PyMC's own compiled functions.
    """
    optimizer = OPT_FAST_RUN.excluding(*INTERPRETED_EXCLUSIONS).including("local_check_parameter_to_ninf_switch")
    return Mode(linker="py", optimizer=optimizer).register((dfs_rewriter(in_pairs), BEFORE_MERGING))


_REWRITING = Lock()
_UNTRACED = Held(lambda: pytensor.config.change_flags(traceback__limit=0))


@contextmanager
def building(**flags: Any) -> Iterator[None]:
    """A context in which this thread alone rewrites and compiles graphs, under these flags of PyTensor.

    Neither its flags nor its rewriters are made for several threads. Nobody may wait for another thread in here.
    """
    with _REWRITING, pytensor.config.change_flags(**flags), untraced():
        yield


class CompiledGraph:
    """A graph as a function of arrays; with `unroll` a small one becomes arithmetic on plain numbers: sooner still.

    Several threads may call it: what computes in storage of its own takes one at a time. A copy that was sent elsewhere
    has the graphs alone, and is compiled there at its first call.
    """

    def __init__(self, inputs: Sequence[Any], outputs: Any, optimise: bool, unroll: bool) -> None:
        self.inputs, self.outputs, self.optimise, self.unroll = list(inputs), outputs, optimise, unroll

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return CompiledGraph, (self.inputs, self.outputs, self.optimise, self.unroll)

    @cached_property
    def compilation(self) -> Compilation:
        """What is compiled of it; what took rewriting is shared with all that have the same graph."""
        several = isinstance(self.outputs, list | tuple)
        with building(**uncompiled(self.outputs if several else [self.outputs])):
            if not self.optimise:  # sooner linked again than found
                return Compilation(self.inputs, self.outputs, _as_it_stands())
            return once((self.inputs, self.outputs), lambda: Compilation(self.inputs, self.outputs, _rewritten()))

    @cached_property
    def _call(self) -> Any:
        run, traceable = self.compilation.run, self.compilation.traceable
        return Unrolled(traceable, run) if self.unroll and traceable is not None else run

    def __call__(self, *arguments: Any) -> Any:
        return self._call(*arguments)


class CompiledSlope:
    """A graph of one number, and its gradient by the first input: arrays → [value, gradient].

    Small ones are arithmetic on plain numbers: the graph alone is rewritten, and the gradient found on what comes of
    it. Others, and what plain numbers cannot answer, go through PyTensor's gradient, compiled when it is first needed.
    """

    def __init__(self, inputs: Sequence[Any], output: Any) -> None:
        self.inputs, self.output = list(inputs), output
        self._run: Callable[..., Any] = self._begin

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return CompiledSlope, (self.inputs, self.output)

    def __call__(self, *arrays: np.ndarray) -> Any:
        return self._run(*arrays)

    @cached_property
    def _value(self) -> CompiledGraph:
        return compile_graph(self.inputs, self.output)

    @cached_property
    def _by_graph(self) -> CompiledGraph:
        with building():
            gradient = pytensor.grad(self.output, self.inputs[0], disconnected_inputs="ignore")
        return compile_graph(self.inputs, [self.output, gradient])

    def traceable(self, *arrays: Any) -> Any:
        """The same of traced arrays. Raises Untraceable where it cannot be written down number by number."""
        value = self._value.compilation.traceable
        if value is not None:
            with suppress(Untraceable):
                return with_slope(value)(*arrays)
        by_graph = self._by_graph.compilation.traceable  # some operations have a derivative there alone
        if by_graph is None:
            raise Untraceable("a graph with a loop, or with values that may change")
        return by_graph(*arrays)

    def _by_pytensor(self, *arrays: np.ndarray) -> Any:
        return self._by_graph(*arrays)  # compiled at the first call

    def _begin(self, *arrays: np.ndarray) -> Any:
        run: Callable[..., Any] = self._by_pytensor
        if sum(a.size for a in arrays) <= MOST_TRACED and self._value.compilation.traceable is not None:
            run = Unrolled(with_slope(self._value.compilation.traceable), run, self._value)
        self._run = run  # whole: another thread must not get other digits meanwhile
        return run(*arrays)


class Compilation:
    """A graph compiled: a function of arrays.

    traceable: the same of traced arrays (None: of none). fgraph: the graph that is evaluated.
    """

    def __init__(self, inputs: Sequence[Any], outputs: Any, mode: Mode) -> None:
        several = isinstance(outputs, list | tuple)
        graphs = list(outputs) if several else [outputs]
        shared = [v for v in graph_inputs(graphs) if isinstance(v, SharedVariable) and v not in inputs]
        self.fgraph = FunctionGraph([*inputs, *shared], graphs, clone=True)
        # rewrites that fail (and are undone) would print tracebacks
        with pytensor.config.change_flags(on_opt_error="ignore"):
            mode.optimizer.rewrite(self.fgraph)
        found = linked(self.fgraph)
        if found is None:
            function = pytensor.function(inputs, outputs, mode=mode, on_unused_input="ignore")
            function.trust_input = True
            self.run, self.traceable = partial(_alone, Lock(), function), None
            return
        run: Any = found.run
        evaluate: Any = found.evaluate
        if shared:
            held = [v.container.storage for v in shared]
            run = partial(_with_shared, run, held)
        if not several:
            run, evaluate = partial(_first, run), partial(_first, evaluate)
        self.run = partial(_alone, Lock(), run) if found.stores else run
        self.traceable = None if shared else evaluate


def _with_shared(function: Any, held: list[list[Any]], *arguments: Any) -> Any:
    return function(*arguments, *[storage[0] for storage in held])


def _first(function: Any, *arguments: Any) -> Any:
    return function(*arguments)[0]


def _alone(lock: Any, function: Any, *arguments: Any) -> Any:
    with lock:
        return function(*arguments)


@node_rewriter([OpFromGraph])
def spell_out(_: Any, node: Any) -> Any:
    """A graph within the graph (softmax, log-sum-exp) becomes part of it.

    Left whole it is linked apart, which takes longer than all the rest, and is called through all of its own wrapping.
    """
    return inline_ofg_node(node)


@cache
def _rewritten() -> Mode:
    return interpreted_mode().register((dfs_rewriter(spell_out), BEFORE_MERGING - 0.01))


@cache
def _as_it_stands() -> Mode:
    return Mode(linker="py", optimizer=dfs_rewriter(spell_out, in_pairs))


def compile_graph(inputs: Sequence[Any], outputs: Any, *, optimise: bool = True, unroll: bool = False) -> CompiledGraph:
    """A PyTensor function over `inputs`; unused inputs are allowed, since one signature serves several graphs.

    optimise: rewrite the graph first, for speed and precision; not for what is evaluated a few times.
    unroll: for what each step of a fit asks for: where small, arithmetic on plain numbers, from the first call on. Its
    last digits are not those of another function for the same.
    """
    compiled = CompiledGraph(inputs, outputs, optimise, unroll)
    _ = compiled.compilation  # at once: what cannot be compiled is known here
    return compiled


def uncompiled(graphs: Sequence[Any]) -> dict[str, str]:
    """The flags of PyTensor under which the bodies of loops in graphs are interpreted as all the rest is.

    None where there is no loop: a flag that PyMC changes too, in other threads that build models, is best left alone.
    """
    return {"cxx": ""} if _has_loop(graphs) else {}


def _has_loop(graphs: Sequence[Any]) -> bool:
    """Whether a loop stands in graphs or, as in PyMC's draws of correlations, in a graph within them."""
    ops = [variable.owner.op for variable in ancestors(graphs) if variable.owner is not None]
    return any(isinstance(op, Scan) or (isinstance(op, OpFromGraph) and _has_loop(op.inner_outputs)) for op in ops)


def untraced() -> Any:
    """A context in which no node of a graph notes which lines of code made it: a tenth of what building it takes."""
    return _UNTRACED


def substitute(graphs: Sequence[Any], replacements: dict[Any, Any]) -> list[Any]:
    """The graphs with some variables replaced; types may change (a length becomes known, an axis is added)."""
    if not replacements:
        return list(graphs)
    return list(clone_replace(list(graphs), replace=replacements, rebuild_strict=False))


def depends_on(graph: Any, variables: set[Any]) -> bool:
    """Whether any of `variables` stands in the graph."""
    return any(node in variables for node in ancestors([graph]))
