"""Parts of a graph that are alike, computed once for all of them.

Users write a covariance for each component, `pt.stack([cov_0, cov_1, …])`, and the graph then holds every step from
each parameter to its covariance K times over. Where things are stacked that differ in their leaves alone, the leaves
are stacked in their place, and PyTensor makes of one branch the graph of all.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pytensor.tensor as pt
from pymc.logprob.utils import local_check_parameter_to_ninf_switch
from pytensor.graph.basic import Constant
from pytensor.graph.fg import FunctionGraph
from pytensor.graph.replace import vectorize_graph
from pytensor.graph.rewriting.basic import MergeOptimizer, node_rewriter, out2in
from pytensor.graph.traversal import ancestors
from pytensor.tensor.basic import Alloc, ExtractDiag, Join, MakeVector
from pytensor.tensor.blockwise import Blockwise
from pytensor.tensor.elemwise import CAReduce, DimShuffle, Elemwise
from pytensor.tensor.extra_ops import CumOp
from pytensor.tensor.math import Dot
from pytensor.tensor.rewriting.basic import local_tensor_scalar_tensor
from pytensor.tensor.shape import Reshape, SpecifyShape
from pytensor.tensor.subtensor import AdvancedIncSubtensor, AdvancedSubtensor, IncSubtensor, Subtensor
from pytensor.tensor.type import TensorType

FEW = 4096  # numbers in a variable: more are better computed one after the other, in a core's cache
BATCHED = (
    Elemwise, DimShuffle, CAReduce, Subtensor, AdvancedSubtensor, IncSubtensor, AdvancedIncSubtensor, Dot, Blockwise,
    Reshape, SpecifyShape, ExtractDiag, CumOp, Alloc, Join, MakeVector,
)  # fmt: skip


class Match:
    """What in a branch stands for what in the first one, and where the two part."""

    def __init__(self) -> None:
        self.same: dict[Any, Any] = {}
        self.leaves: set[Any] = set()

    def of(self, first: Any, other: Any) -> bool:
        """Whether `other` can take the place of `first`, as a leaf if need be."""
        if first is other:
            return True
        if isinstance(first, Constant) and isinstance(other, Constant) and first.signature() == other.signature():
            return True
        if first in self.same:
            return self.same[first] is other
        if first.type != other.type or not isinstance(first.type, TensorType):
            return False
        self.same[first] = other
        if first.owner is not None and other.owner is not None and self._alike(first, other):
            return True
        if first.type.dtype.startswith("float"):
            self.leaves.add(first)
            return True
        return False

    def _alike(self, first: Any, other: Any) -> bool:
        one, two = first.owner, other.owner
        return (
            one.op == two.op
            and isinstance(one.op, BATCHED)
            and len(one.inputs) == len(two.inputs)
            and one.outputs.index(first) == two.outputs.index(other)
            and all(self.of(a, b) for a, b in zip(one.inputs, two.inputs))
        )


def computed_together(graphs: Sequence[Any]) -> list[Any]:
    """The graphs, of the same inputs, with branches that are alike made one.

    Checks of parameters become minus infinity first: one that fails in one branch says nothing of the others.
    """
    fgraph = FunctionGraph(outputs=list(graphs), clone=True, copy_inputs=False)
    for rewriter in (MergeOptimizer(), CHECKS, TOGETHER):
        rewriter.rewrite(fgraph)
    return list(fgraph.outputs)


@node_rewriter([Join, MakeVector])
def together(_: Any, node: Any) -> Any:
    """Stacked branches that are alike as one branch of stacked leaves."""
    stacked = _stacked(node)
    if stacked is None:
        return None
    branches, axis = stacked
    groups = _groups(branches)
    if all(batch is None for _, batch in groups):
        return None
    parts = [pt.stack([branches[k] for k in members]) if batch is None else batch for members, batch in groups]
    order = np.argsort(np.concatenate([members for members, _ in groups]))
    whole = parts[0] if len(parts) == 1 else pt.concatenate(parts, axis=0)[order]
    answer = pt.moveaxis(whole, 0, axis) if axis else whole
    return [node.outputs[0].type.filter_variable(answer, allow_convert=True)]


def _stacked(node: Any) -> tuple[list[Any], int] | None:
    """What a node stacks, and along which axis."""
    if isinstance(node.op, MakeVector):
        return list(node.inputs), 0
    axis, branches = node.op.axis, []
    for part in node.inputs:
        op = part.owner.op if part.owner is not None else None
        order = list(op.new_order) if isinstance(op, DimShuffle) else []
        if order != [*range(axis), "x", *range(axis, part.type.ndim - 1)]:
            return None
        branches.append(part.owner.inputs[0])
    return branches, axis


def _groups(branches: list[Any]) -> list[tuple[list[int], Any]]:
    """Branches that are alike with one graph for all of them, and (None) the others."""
    rest, groups, alone = list(range(len(branches))), [], []
    while rest:
        first, others = rest[0], rest[1:]
        matches: dict[int, Match] = {}
        for k in others:
            match = Match()
            if match.of(branches[first], branches[k]) and branches[first] not in match.leaves:
                matches[k] = match
        batch = _batched(branches[first], list(matches.values())) if matches else None
        if batch is None:
            alone.append(first)
            rest = others
            continue
        groups.append(([first, *matches], batch))
        rest = [k for k in others if k not in matches]
    return [*groups, *([(alone, None)] if alone else [])]


def _batched(first: Any, matches: list[Match]) -> Any:
    """The branch `first` for itself and all that match it, a leading axis; None where that would not pay."""
    leaves = list(dict.fromkeys(leaf for match in matches for leaf in match.leaves))
    if not leaves or not _are_few(ancestors([first])):
        return None
    replace = {leaf: pt.stack([leaf, *(match.same.get(leaf, leaf) for match in matches)]) for leaf in leaves}
    return vectorize_graph(first, replace)


def _are_few(variables: Iterable[Any]) -> bool:
    """Whether what a branch is computed from is known to be small."""
    for v in variables:
        if v.owner is None and isinstance(v.type, TensorType):
            shape = v.data.shape if isinstance(v, Constant) else v.type.shape
            if None in shape or int(np.prod(shape, dtype=int)) > FEW:
                return False
    return True


CHECKS = out2in(local_check_parameter_to_ninf_switch, local_tensor_scalar_tensor, name="checks")
TOGETHER = out2in(together, name="together")
