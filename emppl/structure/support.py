"""The values that latents can take: read from their distributions, or the user's word."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pymc as pm
from pymc.distributions.distribution import SymbolicRandomVariable
from pymc.distributions.truncated import TruncatedRV
from pytensor.graph.traversal import ancestors, explicit_graph_inputs
from pytensor.tensor.random import basic as ptr
from pytensor.tensor.random.op import RandomVariable

from emppl.compiling import compile_graph, substitute
from emppl.errors import InvalidArgumentError, UnsupportedModelError
from emppl.structure.ranges import Ranges, UnknownRange
from emppl.structure.types import Node, Structure
from emppl.structure.variables import below_indexing, constant_data, distribution_text, freeze_data

WINDOW_TIMES, WINDOW_MORE = 2, 30  # an unbounded count is first summed below twice the largest count seen, and more
LONGEST = 1_000_000  # values of one latent that are listed at all
PROBES = 16  # random values of the other latents at which a support is checked
IMPOSSIBLE = -1e100  # a log density below this stands for minus infinity
COUNTS = (ptr.PoissonRV, ptr.GeometricRV, ptr.NegBinomialRV)


def is_discrete(rv: Any) -> bool:
    """Whether a variable takes whole numbers only."""
    if rv.dtype.startswith(("int", "uint", "bool")):
        return True
    if str(getattr(getattr(rv.owner.op, "base_rv_op", None), "dtype", "")).startswith(("int", "uint", "bool")):
        raise UnsupportedModelError(
            f"{rv.name} takes whole numbers, but PyMC holds it as a continuous variable and transforms it as such",
            f"{rv.name} ~ {distribution_text(rv)}",
            ("give the distribution its own bounds instead of truncating it: pm.DiscreteUniform(name, lower, upper)",),
        )
    return False


class Supports:
    """Supports of the latents of a model, read in its order: the bound of one may depend on those before it.

    given: {name: values} by the user; known: {variable: constant} of the observed and the frozen.
    """

    def __init__(self, model: pm.Model, given: Mapping[str, Any], known: Mapping[Any, Any]) -> None:
        self._model, self._known = model, dict(known)
        self._given = {name: np.asarray(values) for name, values in given.items()}
        self._read: list[Node] = []

    def append(self, node: Node) -> None:
        """A latent that was read: later bounds may depend on it."""
        self._read.append(node)

    def of(self, rv: Any) -> tuple[np.ndarray, bool]:
        """The values of a latent, in rising order unless given; and whether they are a window on unbounded counts.

        Raises UnsupportedModelError where they cannot be told, InvalidArgumentError where the user's are no support.
        """
        if rv.name in self._given:
            return self._checked(rv), self._depends_on_window(rv)
        op, params = _op_and_params(rv)
        ends = self._ends(rv, op, params)
        if ends is None:
            if "MarkovChain" in type(op).__name__:
                raise UnsupportedModelError(
                    f"{rv.name} is a Markov chain, and chains are not supported yet",
                    f"{rv.name} ~ {distribution_text(rv)}",
                    ("for independent states: pm.Categorical",),
                )
            raise UnsupportedModelError(
                f"which values {rv.name} can take is not known, and all of them must be summed",
                f"{rv.name} ~ {distribution_text(rv)}",
                (f"emppl.fit(model, support={{{rv.name!r}: range(200)}}): sum over these values only",),
            )
        low, high = ends
        if np.isfinite(ends).all():
            if high < low:
                raise UnsupportedModelError(
                    f"{rv.name} can take no value: its bounds leave none", f"{rv.name} ~ {distribution_text(rv)}",
                    ("mend its bounds",),
                )  # fmt: skip
            if high - low >= LONGEST:
                raise UnsupportedModelError(
                    f"{rv.name} can take {high - low + 1:,.0f} values, more than can be summed",
                    f"{rv.name} ~ {distribution_text(rv)}",
                    (f"emppl.fit(model, support={{{rv.name!r}: range(...)}}): sum over these values only",),
                )
            return np.arange(int(low), int(high) + 1), self._depends_on_window(rv)
        if isinstance(op, COUNTS):
            return self._window(int(low)), True
        raise _infinite(rv)

    def _depends_on_window(self, rv: Any) -> bool:
        """Whether a bound hangs on an unbounded count, as trials that are one do."""
        above = ancestors([rv], blockers=[node.rv for node in self._read])
        return any(node.window and node.rv in above for node in self._read)

    def _window(self, lowest: int) -> np.ndarray:
        """The first values of an unbounded count: well beyond the largest count seen. Fits check what lies beyond."""
        counts = [
            np.max(np.asarray(constant_data(self._model.rvs_to_values[seen])))
            for seen in self._model.observed_RVs
            if seen.dtype.startswith(("int", "uint"))
        ]
        return np.arange(lowest, WINDOW_TIMES * int(max(counts, default=0)) + WINDOW_MORE)

    def _checked(self, rv: Any) -> np.ndarray:
        """The user's own support of a latent."""
        values, where = self._given[rv.name], f"support={{{rv.name!r}: ...}}"
        if values.ndim != 1 or values.size == 0 or values.dtype.kind not in "iub":
            raise InvalidArgumentError(f"support of {rv.name} must be a list of integers, not {values!r}", where)
        if len(np.unique(values)) < len(values):
            raise InvalidArgumentError(f"support of {rv.name} names a value twice: {values.tolist()}", where)
        try:
            ends = self._ends(rv, *_op_and_params(rv))
        except UnsupportedModelError:  # the support is itself unknown: the user's word stands
            ends = None
        outside = values[(values < ends[0]) | (values > ends[1])] if ends is not None else np.zeros(0)
        if len(outside):
            raise InvalidArgumentError(
                f"support of {rv.name} holds {int(outside[0])}, a value that {distribution_text(rv)} never takes", where
            )
        return values.astype("int64")

    def _ends(self, rv: Any, op: Any, params: tuple[Any, ...]) -> tuple[float, float] | None:
        """The smallest and the largest value that a distribution can give any element of rv; None if not known."""
        if isinstance(op, TruncatedRV):
            *base, lower, upper = params
            inner = self._ends(rv, op.base_rv_op, tuple(base))
            if inner is None:
                return None
            low, _ = self._range(rv, lower, "lower bound")
            _, high = self._range(rv, upper, "upper bound")
            return max(inner[0], float(np.ceil(low))), min(inner[1], float(np.floor(high)))
        if isinstance(op, ptr.BernoulliRV):
            return 0.0, 1.0
        if isinstance(op, ptr.CategoricalRV):
            (p,) = params
            length = p.type.shape[-1] or int(compile_graph([], freeze_data([p.shape[-1]]))()[0])
            return 0.0, length - 1.0
        if isinstance(op, ptr.BinomialRV | ptr.BetaBinomialRV):
            return 0.0, self._range(rv, params[0], "number of trials")[1]
        if type(op).__name__ == "DiscreteUniformRV":
            lower, upper = params
            return self._range(rv, lower, "lower end")[0], self._range(rv, upper, "upper end")[1]
        if isinstance(op, ptr.HyperGeometricRV):
            good, _, draws = params
            return 0.0, min(self._range(rv, v, what)[1] for v, what in ((good, "number of marked"), (draws, "sample")))
        if isinstance(op, COUNTS):
            return (1.0 if isinstance(op, ptr.GeometricRV) else 0.0), np.inf
        return None

    def _range(self, rv: Any, graph: Any, what: str) -> tuple[float, float]:
        """The smallest and the largest value of a bound, over its elements and all values of latents it depends on."""
        replacements = {node.rv: node.value for node in self._read if node.rv is not None} | self._known
        (graph,) = freeze_data(substitute([graph], replacements))
        latents = set(explicit_graph_inputs([graph]))
        used = [node for node in self._read if node.value in latents]
        text = f"{rv.name} ~ {distribution_text(rv)}"
        remedies = (f"emppl.fit(model, support={{{rv.name!r}: range(...)}})",)
        if any(v.owner and isinstance(v.owner.op, RandomVariable | SymbolicRandomVariable) for v in ancestors([graph])):
            raise UnsupportedModelError(
                f"the {what} of {rv.name} is itself unknown, so its support is not fixed", text, remedies
            )
        if not used:
            number = np.asarray(compile_graph([], graph)())
            return float(number.min()), float(number.max())
        try:
            low, high = Ranges(graph, used)(graph)
        except UnknownRange as reason:
            raise UnsupportedModelError(
                f"how far the {what} of {rv.name} can go is not known: it depends on "
                f"{', '.join(node.name for node in used)}, and {reason}",
                text, remedies,
            ) from None  # fmt: skip
        return float(low.min()), float(high.max())


def _op_and_params(rv: Any) -> tuple[Any, tuple[Any, ...]]:
    """The distribution of a variable; a truncated one's parameters are those of its base, then its two bounds."""
    base = below_indexing(rv)
    op = base.owner.op
    if isinstance(op, TruncatedRV):
        *inner, lower, upper = base.owner.inputs
        first = len(inner) - len(op.base_rv_op.ndims_params)
        return op, (*inner[first:], lower, upper)
    try:
        return op, tuple(op.dist_params(base.owner))
    except (AttributeError, ValueError, TypeError):
        return op, ()


def _infinite(rv: Any) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"{rv.name} can take infinitely many values, and they cannot all be summed",
        f"{rv.name} ~ {distribution_text(rv)}",
        (
            f"emppl.fit(model, support={{{rv.name!r}: range(200)}}): sum over these values only",
            f"truncate it in the model: pm.Truncated({rv.name!r}, ..., upper=200)",
        ),
    )


def stray_value(structure: Structure, arguments: Sequence[np.ndarray], rng: np.random.Generator) -> str | None:
    """A check of the supports by values: one beside a support that the model gives a density, in words, or None.

    Of supports read from the model: the values next to their ends are tried, with the other latents drawn at random,
    half of the time from the ends of their own. arguments: the parameters' values, in the order of the coordinates.
    """
    factors, explicit = {f.name: f for f in structure.factors}, [n for n in structure.latents if not n.implicit]
    for node in explicit:
        factor = factors[node.name]
        fixed = isinstance(factor.op, ptr.BernoulliRV | ptr.CategoricalRV)  # nothing that was read could be amiss
        if fixed or node.window or node.name in structure.support_given:
            continue
        assert node.support is not None  # latents have one
        function = compile_graph([*structure.coordinates.values, *(n.value for n in explicit)], factor.log_density)
        for probe in range(PROBES if len(factor.latents) > 1 else 2):
            beside = node.support[-1] + 1 if probe % 2 == 0 else node.support[0] - 1
            values = [_drawn(other, rng) for other in explicit]
            values[explicit.index(node)] = np.full(node.shape, beside).astype(node.value.dtype)
            with np.errstate(all="ignore"):
                density = np.asarray(function(*arguments, *values), dtype=float)
            if (density > IMPOSSIBLE).any():
                return f"{node.name} = {int(beside)} is possible under the model"
    return None


def _drawn(node: Node, rng: np.random.Generator) -> np.ndarray:
    """A value for each element of a latent, half of them from the ends of its support."""
    assert node.support is not None  # latents have one
    ends = rng.choice([node.support.min(), node.support.max()], size=node.shape)
    return np.where(rng.random(node.shape) < 0.5, ends, rng.choice(node.support, node.shape)).astype(node.value.dtype)
