"""The user's model with some of its data left open: what it says of rows that it does not hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pymc as pm
import pytensor.tensor as pt
from pymc.model.transform.optimization import freeze_dims_and_data
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.basic import Constant
from pytensor.tensor.random.type import RandomType
from pytensor.tensor.shape import Shape as ShapeOp
from pytensor.tensor.shape import Shape_i

from emppl.compiling import building, compile_graph, substitute
from emppl.concurrency import quiet
from emppl.errors import InvalidArgumentError, InvalidDataError, UnsupportedModelError
from emppl.streaming.blocks import Rows, Shape
from emppl.structure.graph import _distribution_of
from emppl.structure.support import is_discrete
from emppl.structure.variables import freeze_data

DATA_WAY_OUT = 'put it into a pm.Data of its own and name it in source={"…": …} too'


class Graph:
    """Numbers computed from the rows of a block, and from other values given by name. Travels to workers."""

    def __init__(self, inputs: Mapping[str, Any], graph: Any, dtype: str | None = None) -> None:
        self.inputs, self.graph, self.dtype = dict(inputs), graph, dtype
        self.name = next((name for name, variable in self.inputs.items() if variable is graph), None)
        self._function: Any = None

    def __call__(self, values: Mapping[str, Any]) -> np.ndarray:
        if self.name is not None:  # the data themselves
            answer = np.asarray(values[self.name])
        else:
            if self._function is None:
                self._function = compile_graph(list(self.inputs.values()), self.graph)
            given = [np.asarray(values[n], dtype=v.dtype) for n, v in self.inputs.items()]
            with np.errstate(all="ignore"):
                answer = np.array(self._function(*given))
        if self.dtype is None or answer.dtype.kind == "f":
            return answer
        return answer.astype(self.dtype, copy=False)

    def __getstate__(self) -> dict[str, Any]:
        return {"inputs": self.inputs, "graph": self.graph, "dtype": self.dtype, "name": self.name}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state | {"_function": None}


class LiveModel:
    """A model whose named pm.Data stand for any rows. Raises where something of it would change with the block."""

    def __init__(self, model: Any, names: Sequence[str]) -> None:
        self.model, self.names = model, tuple(names)
        self.data = {name: model[name] for name in names}
        self.n_rows = self._rows_held()
        self.open = {
            name: pt.TensorType(v.dtype, shape=(None, *v.get_value(borrow=True).shape[1:]))(name)
            for name, v in self.data.items()
        }
        self.shapes = [
            Shape(name, v.get_value(borrow=True).shape[1:], np.dtype(v.dtype)) for name, v in self.data.items()
        ]
        self.free = set(model.free_RVs)
        self._refuse_what_changes_with_the_block()

    def _rows_held(self) -> int:
        lengths = {}
        for name, variable in self.data.items():
            shape = variable.get_value(borrow=True).shape
            if not shape or not shape[0]:
                raise InvalidDataError(
                    f"the pm.Data {name} of the model has shape {shape}: it must hold some rows to begin with",
                    f"pm.Data {name!r}",
                    ("build the model on the first rows of the data",),
                )
            lengths[name] = shape[0]
        if len(set(lengths.values())) > 1:
            text = ", ".join(f"{name} holds {n}" for name, n in lengths.items())
            raise InvalidDataError(f"the pm.Data of the model have different numbers of rows: {text}", "source")
        return next(iter(lengths.values()))

    # -- what depends on the rows ------------------------------------------------------------------------------------

    def reads(self, graphs: Sequence[Any]) -> list[str]:
        """Names of the streamed data on which values of graphs depend; how many rows there are does not count."""
        found = [v for v in self._above(graphs) if v in self.data.values()]
        return [name for name, v in self.data.items() if v in found]

    def _above(self, graphs: Sequence[Any]) -> Iterator[Any]:
        seen: set[Any] = set()
        stack = list(graphs)
        while stack:
            v = stack.pop()
            if v in seen:
                continue
            seen.add(v)
            yield v
            if v.owner is not None and v not in self.free and not isinstance(v.owner.op, ShapeOp | Shape_i):
                stack.extend(v.owner.inputs)

    def _refuse_what_changes_with_the_block(self) -> None:
        model = self.model
        for rv in [*model.free_RVs, *model.potentials]:
            read = self.reads(rv.owner.inputs)
            if read:
                what = "its values" if is_discrete(rv) else "it"
                raise UnsupportedModelError(
                    f"{rv.name} depends on {' and '.join(read)}, so that {what} would not mean the same in every block",
                    f"{rv.name}, source",
                    ("fit all rows in memory: emppl.fit(model)", "compute what it needs beforehand, as a number"),
                )
        rowwise = [rv for rv in model.observed_RVs if self.reads([model.rvs_to_values[rv]])]
        if not rowwise:
            raise InvalidArgumentError(
                f"no observed variable takes its values from {' or '.join(self.names)}",
                f"observed: {', '.join(rv.name for rv in model.observed_RVs)}",
                ('y = pm.Data("y", first_rows), and observed=y', "name the pm.Data of the observations in source too"),
            )
        for rv in model.observed_RVs:
            values = model.rvs_to_values[rv]
            if rv not in rowwise and self.reads(rv.owner.inputs):
                raise InvalidArgumentError(
                    f"the observations of {rv.name} are not in the source, though what they depend on is",
                    f"observed variable {rv.name!r}",
                    (DATA_WAY_OUT,),
                )
            if rv in rowwise:
                self._refuse_rows_of_its_own(rv, [*rv.owner.inputs, values])

    def _refuse_rows_of_its_own(self, rv: Any, graphs: list[Any]) -> None:
        """Arrays with as many rows as the data, that the source does not replace."""
        for v in self._above(graphs):
            held = None
            if isinstance(v, Constant):
                held = v.data
            elif isinstance(v, SharedVariable) and v not in self.data.values() and not isinstance(v.type, RandomType):
                held = v.get_value(borrow=True)
            shape = np.shape(held)
            if self.n_rows > 1 and shape and shape[0] == self.n_rows and np.any(held != held[:1]):
                raise UnsupportedModelError(
                    f"{v.name or 'an array'} of shape {shape} beside {rv.name} has as many rows as the data that the "
                    f"model holds ({self.n_rows}), and the source does not give its other rows",
                    f"observed variable {rv.name!r}",
                    (DATA_WAY_OUT, "if it does not belong to the rows: build the model on another number of them"),
                )

    # -- graphs with the rows left open ------------------------------------------------------------------------------

    def observations(self, rv: Any) -> Graph:
        """The observed values as a graph of the rows."""
        return self._graph(self.model.rvs_to_values[rv], {}, rv.dtype)

    def observations_of(self, name: str) -> Graph:
        """A pm.Data itself as a graph of the rows."""
        return Graph(self.open, self.open[name])

    def parameters(self, rv: Any) -> list[Any]:
        """Parameters of an observed variable as its op holds them; none where it is no plain distribution."""
        return list(_distribution_of(rv)[1])

    def known(self, graph: Any) -> Graph | None:
        """A parameter as a graph of the rows alone; None where it depends on a free variable."""
        return None if self.free & set(self._above([graph])) else self._graph(graph, {}, None)

    def parameter(self, graph: Any) -> Graph:
        """A parameter as a graph of the rows and of all free variables, by name."""
        values = {}
        for rv in self.model.free_RVs:
            shape = (None, *rv.type.shape[1:]) if is_discrete(rv) and rv.ndim else rv.type.shape
            values[rv] = pt.TensorType(rv.dtype, shape=shape)(rv.name)
        return self._graph(graph, values, None)

    def _graph(self, graph: Any, values: dict[Any, Any], dtype: str | None) -> Graph:
        replaced = {self.data[name]: variable for name, variable in self.open.items()}
        (opened,) = substitute([graph], replaced | values)
        computed = opened.owner is not None  # data themselves are handed on as they come
        (opened,) = freeze_data([opened], data=self.open.values() if computed else ())
        inputs = self.open | {rv.name: v for rv, v in values.items()}
        return Graph(inputs, opened, dtype)

    # -- the same model on some rows ---------------------------------------------------------------------------------

    def on(self, rows: Rows) -> Any:
        """A copy of the model that holds these rows and nothing that can change; the model itself stays as it is."""
        with self._holding(rows):
            try:
                copy = freeze_dims_and_data(self.model)
            except (ValueError, NotImplementedError) as problem:
                raise UnsupportedModelError(
                    f"PyMC cannot copy the model: {problem}", "source",
                    ("give each pm.Data to one observed variable", "leave out initval="),
                ) from None  # fmt: skip
        for kind in ("free_RVs", "observed_RVs", "deterministics", "potentials"):  # copying has shuffled them
            order = {rv.name: i for i, rv in enumerate(getattr(self.model, kind))}
            getattr(copy, kind).sort(key=lambda rv, order=order: order[rv.name])
        return copy

    def takes_any_length(self) -> bool:
        """Whether the model can hold another number of rows than it does now."""
        longer = {n: np.concatenate([v.get_value()] + [v.get_value()[:1]]) for n, v in self.data.items()}
        rowwise = [rv for rv in self.model.observed_RVs if self.reads([self.model.rvs_to_values[rv]])]
        latents = [rv for rv in self.model.free_RVs if is_discrete(rv)]
        try:
            with self._holding(longer):
                lengths = compile_graph([], [rv.shape for rv in [*rowwise, *latents]])()
        except (ValueError, TypeError, AssertionError, pm.exceptions.ShapeError):
            return False
        return all(shape[:1] != [self.n_rows] for shape in (list(s) for s in lengths))

    @contextmanager
    def _holding(self, rows: Rows) -> Iterator[None]:
        with building(linker="py"):  # lengths are evaluated: not worth a compiler
            yield from self._held(rows)

    def _held(self, rows: Rows) -> Iterator[None]:
        model = self.model
        before = {name: v.get_value() for name, v in self.data.items()}
        coords = dict(model.coords)
        try:
            for name, values in rows.items():
                self._set(name, values, {})
            yield
        finally:
            for name, values in before.items():
                self._set(name, values, coords)

    def _set(self, name: str, values: np.ndarray, coords: Mapping[str, Any]) -> None:
        dims = self.model.named_vars_to_dims.get(name, ())[:1]
        given = {d: coords.get(d) or np.arange(len(values)) for d in dims if self.model.coords.get(d) is not None}
        with quiet():  # of the shapes of other data, whose turn comes
            self.model.set_data(name, values.astype(self.data[name].dtype), coords=given)
