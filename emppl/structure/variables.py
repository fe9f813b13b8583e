"""Variables of a PyMC model, as people and programs read them: their text, their data, what they are made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytensor.tensor as pt
from pymc.logprob.utils import CheckParameterValue
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.basic import Constant
from pytensor.graph.traversal import ancestors, graph_inputs
from pytensor.tensor.elemwise import DimShuffle
from pytensor.tensor.random.type import RandomType
from pytensor.tensor.subtensor import AdvancedSubtensor, Subtensor

from emppl.compiling import compile_graph, substitute
from emppl.structure.constants import in_double


def freeze_data(graphs: list[Any], **options: Any) -> list[Any]:
    """Shared data and dim lengths become constants, and constants doubles; parameter checks are taken out.

    So shapes are known, and numbers mean the same however they were written; options: those of `in_double`. The checks
    guard PyMC's users against impossible parameters; our engines see those as non-finite densities.
    """
    return in_double(masks_as_places(without_checks(with_constants(graphs))), **options)


def without_checks(graphs: list[Any]) -> list[Any]:
    """The graphs with what they check taken for granted: a check of all elements ties each of them to all."""

    def checked() -> dict[Any, Any]:
        above = [v for v in ancestors(graphs) if v.owner and isinstance(v.owner.op, CheckParameterValue)]
        return {v: v.owner.inputs[0] for v in above}

    while checks := checked():
        graphs = [checks.get(g, g) for g in substitute(graphs, {k: v for k, v in checks.items() if k not in graphs})]
    return graphs


def masks_as_places(graphs: list[Any]) -> list[Any]:
    """Constant truth values that pick entries become the places that they pick, as PyMC's masks of missing data do.

    Rows are then picked as by any other index.
    """
    while (masked := next((v for v in ancestors(graphs) if v.owner and _is_masked(v.owner)), None)) is not None:
        source, *indices = masked.owner.inputs
        picks: list[Any] = []
        for entry in masked.owner.op.idx_list:
            index = entry if isinstance(entry, slice) else indices[entry]
            picks += np.nonzero(index.data) if isinstance(index, Constant) and index.type.dtype == "bool" else [index]
        places = source[tuple(picks)]
        graphs = substitute([places if g is masked else g for g in graphs], {masked: places})
    return graphs


def _is_masked(node: Any) -> bool:
    if not isinstance(node.op, AdvancedSubtensor):
        return False
    if any(isinstance(entry, slice) and entry != slice(None) for entry in node.op.idx_list):
        return False
    return any(isinstance(v, Constant) and v.type.dtype == "bool" for v in node.inputs[1:])


def is_masked_part(model: Any, rv: Any) -> bool:
    """Whether a random variable is what PyMC makes of the missing values of an observed one."""
    name = rv.name.removesuffix("_unobserved")
    return name != rv.name and f"{name}_observed" in model.named_vars


def with_constants(graphs: Sequence[Any]) -> list[Any]:
    """The graphs with shared data and dim lengths as constants, of the values that they have now."""
    shared = {
        v: pt.constant(v.get_value(borrow=True), name=v.name)
        for v in graph_inputs(list(graphs))
        if isinstance(v, SharedVariable) and not isinstance(v.type, RandomType)
    }
    return substitute(graphs, shared)


def constant_data(variable: Any) -> Any:
    """The numbers of data: of a constant, of shared data, or of what is computed from these alone."""
    if isinstance(variable, Constant):
        return variable.data
    if isinstance(variable, SharedVariable):
        return variable.get_value(borrow=True)
    return compile_graph([], freeze_data([variable]))()[0]


def below_indexing(rv: Any) -> Any:
    """The random variable below what indexing and reshaping do to it (parts of masked data)."""
    while isinstance(rv.owner.op, Subtensor | AdvancedSubtensor | DimShuffle):
        rv = rv.owner.inputs[0]
    return rv


def distribution_text(rv: Any) -> str:
    """A random variable's distribution for people: "Normal(0, 10)", with · for what is computed."""
    op = rv.owner.op
    name = getattr(op, "_print_name", None)
    name = (name[0] if name else type(op).__name__.removesuffix("RV")).lstrip("_")
    try:
        params = op.dist_params(rv.owner)
    except (AttributeError, ValueError, TypeError):
        return name
    return f"{name}({', '.join(_parameter_text(p) for p in params)})"


def _parameter_text(param: Any) -> str:
    while param.owner and isinstance(param.owner.op, DimShuffle):
        param = param.owner.inputs[0]
    if isinstance(param, Constant):
        data = np.asarray(param.data)
        if data.size and np.all(data == data.flat[0]):
            return f"{data.flat[0]:.4g}"
        return "[" + ", ".join(f"{v:.4g}" for v in data.flat[:4]) + (", …]" if data.size > 4 else "]")
    return param.name or "·"
