"""Where checks by values cannot be trusted: parameters that bend at a point which depends on the parameters.

Two analytic functions of theta that agree at a random point agree everywhere, so natural forms may be checked at a few.
`maximum(x - knot, 0)` is none: left of any knot tried, all rows look alike.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from pytensor.graph.basic import Constant
from pytensor.graph.traversal import ancestors
from pytensor.scalar import basic as scalar
from pytensor.tensor.elemwise import Elemwise

from emppl.structure.types import Factor, Structure

BENDS = (
    scalar.LT, scalar.LE, scalar.GT, scalar.GE, scalar.EQ, scalar.NEQ, scalar.Maximum, scalar.Minimum, scalar.Abs,
    scalar.Sign, scalar.Clip, scalar.Floor, scalar.Ceil, scalar.Trunc, scalar.RoundHalfToEven, scalar.IntDiv,
)  # fmt: skip


def bend(structure: Structure, factor: Factor) -> str | None:
    """The reason why rows of a factor that look alike may differ elsewhere; None where they cannot.

    That is a comparison (or maximum, absolute value, …) of a parameter with numbers that vary.
    """
    graphs = factor.params if factor.op is not None else (factor.log_density,)
    names = {node.value: node.name for node in structure.parameters}
    for v in ancestors(graphs):
        if v.owner is None or not isinstance(v.owner.op, Elemwise) or not isinstance(v.owner.op.scalar_op, BENDS):
            continue
        above = list(ancestors(v.owner.inputs))
        met = [names[u] for u in above if u in names]
        if met and any(_varies(u) for u in above):
            return f"where it bends depends on {met[0]}"
    return None


def _varies(v: Any) -> bool:
    return (
        isinstance(v, Constant)
        and np.size(v.data) > 1
        and np.asarray(v.data).dtype.kind in "iuf"
        and np.ptp(v.data) > 0
    )
