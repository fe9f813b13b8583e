"""Sums and products of many terms as sums of sums: numpy, which interprets them, takes 32 arrays in one operation.

They come from a user's loop, from gradients that are added up, and from rewrites that flatten sums of sums.
"""

from __future__ import annotations

from typing import Any

from pytensor.graph.rewriting.basic import node_rewriter
from pytensor.scalar.basic import Add, Mul
from pytensor.tensor.elemwise import Elemwise

MOST_OPERANDS = 16


@node_rewriter([Elemwise])
def in_pairs(_: Any, node: Any) -> Any:
    """A sum or product of more than MOST_OPERANDS terms as that of its two halves.

    Halves keep the rounding of a long sum at the logarithm of its length.
    """
    terms = list(node.inputs)
    if len(terms) <= MOST_OPERANDS or not isinstance(node.op.scalar_op, Add | Mul):
        return None

    def joined(part: list[Any]) -> Any:
        if len(part) <= MOST_OPERANDS:
            return node.op(*part) if len(part) > 1 else part[0]
        half = (len(part) + 1) // 2
        return node.op(joined(part[:half]), joined(part[half:]))

    (output,) = node.outputs
    return [output.type.filter_variable(joined(terms), allow_convert=True)]
