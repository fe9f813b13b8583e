"""Slips in a model that would end in an IndexError or a density that is nan, in the words of the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytensor.tensor as pt
from pymc.logprob.basic import logp
from pytensor.compile.ops import ViewOp
from pytensor.graph.basic import Constant
from pytensor.graph.traversal import ancestors, toposort
from pytensor.tensor.elemwise import DimShuffle
from pytensor.tensor.random.op import RandomVariable
from pytensor.tensor.shape import Reshape, SpecifyShape
from pytensor.tensor.subtensor import AdvancedSubtensor, Subtensor

from emppl.compiling import compile_graph
from emppl.errors import InvalidDataError
from emppl.structure.types import Factor, Node

KEPT = (
    DimShuffle,
    Reshape,
    SpecifyShape,
    ViewOp,
    Subtensor,
    AdvancedSubtensor,
)  # choose among values, make no new ones
NARROW = ("int8", "int16")
OVERFLOW = 128  # from here on a sum or difference of such constants may be another number


def check_indices(factors: Sequence[Factor], parameters: Sequence[Node], latents: Sequence[Node]) -> None:
    """Raise InvalidDataError where a latent or an array of numbers points beyond the end of what it picks from."""
    by_value = {node.value: node for node in latents}
    names = {node.value: node.name for node in parameters}
    for factor in factors:
        for node in toposort([factor.log_density, *factor.params]):
            if not isinstance(node.op, AdvancedSubtensor):
                continue
            source, *indices = node.inputs
            axes = [axis for axis, entry in enumerate(node.op.idx_list) if not isinstance(entry, slice)]
            for axis, index in zip(axes, indices):
                length = source.type.shape[axis]
                if length is None or index.type.dtype == "bool":
                    continue
                _check_index(factor.name, _name_of(source, names), length, index, by_value)


def _check_index(factor: str, source: str, length: int, index: Any, latents: dict[Any, Node]) -> None:
    while index.owner is not None and (
        isinstance(index.owner.op, KEPT) or type(getattr(index.owner.op, "scalar_op", None)).__name__ == "Cast"
    ):
        if isinstance(index.owner.op, Subtensor | AdvancedSubtensor) and isinstance(index.owner.inputs[0], Constant):
            return  # of a table of indices, only those that are picked count
        index = index.owner.inputs[0]
    if index in latents:
        node = latents[index]
        assert node.support is not None  # latents have one
        low, high = int(node.support.min()), int(node.support.max())
        if high >= length or low < -length:
            raise InvalidDataError(
                f"{node.name} takes {node.n_values} values, {low} to {high}, and {source}, from which it picks, has "
                f"{length} elements",
                f"{factor} depends on both",
                (f"give {source} one element for each value of {node.name}", "or the probabilities as many entries"),
            )
    elif isinstance(index, Constant):
        values = np.asarray(index.data)
        beyond = np.argwhere((values >= length) | (values < -length))
        if len(beyond):
            place = tuple(int(i) for i in beyond[0])
            raise InvalidDataError(
                f"an index{list(place) if place else ''} is {values[place]}, and {source}, which it picks from, has "
                f"{length} elements, 0 to {length - 1}",
                f"{factor} depends on {source}",
                ("number groups from 0: pandas.factorize(groups)[0]", f"give {source} more elements"),
            )


def _name_of(graph: Any, names: dict[Any, str]) -> str:
    if graph in names:
        return names[graph]
    found = [names[v] for v in ancestors([graph]) if v in names]
    return graph.name or (f"what is made of {' and '.join(dict.fromkeys(found))}" if found else "an array of numbers")


def check_covariates(factors: Sequence[Factor]) -> None:
    """Raise InvalidDataError naming the first number in an array that is nan and that a density depends on."""
    unknown = ("make it an unknown: observed=np.ma.masked_invalid(…)",)
    for factor in factors:
        for v in ancestors([factor.log_density]):
            if not isinstance(v, Constant) or v is factor.value or np.asarray(v.data).dtype.kind != "f":
                continue
            values = np.asarray(v.data)
            bad = np.argwhere(np.isnan(values) if np.isnan(values).any() else ~np.isfinite(values))
            if values.size == 1 and np.isnan(values).all():
                raise InvalidDataError(
                    f"{v.name or 'a number'} = nan, and {factor.name} depends on it",
                    f"a parameter of {factor.name}",
                    ("give it a value",),
                )
            if values.ndim and len(bad):
                place = tuple(int(i) for i in bad[0])
                rows = f"row {place[0]}, one of {len(bad)} such entries" if len(bad) > 1 else f"row {place[0]}"
                raise InvalidDataError(
                    f"{v.name or 'an array of numbers'}{list(place)} = {values[place]}, and "
                    f"{factor.name} depends on it",
                    f"{rows} of an array of shape {values.shape} in {factor.name}",
                    ("fill the value in, or leave the row out", *(unknown if factor.kind == "observed" else ())),
                )


def check_priors(factors: Sequence[Factor], coordinates: Any, text: dict[str, str]) -> None:
    """Raise InvalidDataError naming a prior that gives no point of its parameter's range a density."""
    own = [f for f in factors if f.kind == "prior" and f.parameters == (f.name,)]
    if not own:
        return
    function = compile_graph(coordinates.values, [f.log_density.sum() for f in own], optimise=False)
    rng = np.random.default_rng(0)
    with np.errstate(all="ignore"):
        points = [coordinates.constrain(rng.normal(size=coordinates.size)) for _ in range(4)]
        found = np.array([function(*coordinates.arguments(theta)) for theta in points], dtype=float)
    for factor, densities in zip(own, found.T):
        if not np.isfinite(densities).any():
            raise InvalidDataError(
                f"the prior {text.get(factor.name, '')} of {factor.name} leaves it no room: its log density is "
                f"{densities[0]:g} wherever it is asked",
                f"parameter {factor.name!r}",
                ("give it bounds with room between, the lower one first", "positive spreads, counts and rates"),
            )


def check_overflow(observed: Sequence[Any], variables: Sequence[Any]) -> None:
    """Raise InvalidDataError where whole-number constants of what is observed overflow in PyMC's own log density.

    variables: all of the model's, where the distribution of an observed one ends.

    PyTensor holds 20000 in 16 bits, in which 20000 - (-20000) is -25536; its logarithm is nan.
    """
    for rv in observed:
        for v in ancestors([rv], blockers=[other for other in variables if other is not rv]):
            if v.owner is None or not isinstance(v.owner.op, RandomVariable) or (v in variables and v is not rv):
                continue
            params = [_plain(p) for p in v.owner.op.dist_params(v.owner)]
            narrow = [p for p in params if isinstance(p, Constant) and p.type.dtype in NARROW]
            largest = sum(float(np.abs(np.asarray(p.data, float)).max(initial=0.0)) for p in narrow)
            if len(narrow) < 2 or len(narrow) < len(params) or largest < OVERFLOW or v.type.dtype.startswith("int"):
                continue
            numbers = [np.asarray(p.data, dtype=float).ravel()[0] for p in narrow]
            at = pt.constant(np.full(v.type.shape if None not in v.type.shape else (), np.mean(numbers)))
            with np.errstate(all="ignore"):
                density = np.asarray(compile_graph([], logp(v, at), optimise=False)())
            if np.isnan(density).any():
                shown = ", ".join(f"{n:g}" for n in numbers)
                raise InvalidDataError(
                    f"PyMC's own log density of {rv.name} is nan at {np.mean(numbers):g}: it holds the whole numbers "
                    f"{shown} in {max(8 * np.dtype(p.type.dtype).itemsize for p in narrow)} bits, where they overflow",
                    f"a distribution with the parameters {shown} in {rv.name}",
                    (f"write them as doubles: np.float64({numbers[0]:g})",),
                )


def _plain(graph: Any) -> Any:
    while graph.owner is not None and isinstance(graph.owner.op, DimShuffle):
        graph = graph.owner.inputs[0]
    return graph
