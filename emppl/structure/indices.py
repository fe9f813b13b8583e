"""Ways to write an index, brought to one."""

from __future__ import annotations

from typing import Any

from pytensor.graph.traversal import toposort
from pytensor.tensor.subtensor import AdvancedSubtensor, indices_from_subtensor

from emppl.compiling import substitute

WHOLE = slice(None)


def slices_apart(graphs: list[Any]) -> list[Any]:
    """The graphs with `x[z, :3]` written as `x[:, :3][z]`: first the slices, then the index arrays.

    The same numbers; what follows an index through a graph then meets index arrays beside whole axes only.
    """
    graphs = list(graphs)
    while (node := _first_mixed(graphs)) is not None:
        source, *flat = node.inputs
        indices = indices_from_subtensor(flat, node.op.idx_list)
        sliced = source[tuple(i if isinstance(i, slice) else WHOLE for i in indices)]
        out = sliced[tuple(WHOLE if isinstance(i, slice) else i for i in indices)]
        graphs = substitute([out if g is node.outputs[0] else g for g in graphs], {node.outputs[0]: out})
    return graphs


def _first_mixed(graphs: list[Any]) -> Any:
    """The innermost index that holds index arrays and parts of axes, None where there is none."""
    for node in toposort(graphs):
        entries = node.op.idx_list if node is not None and isinstance(node.op, AdvancedSubtensor) else ()
        if any(isinstance(entry, slice) and entry != WHOLE for entry in entries):
            return node
    return None
