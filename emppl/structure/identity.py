"""What a model, or any value, is made of, as a hash that another process finds for the same one."""

from __future__ import annotations

import dis
import enum
import functools
import hashlib
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Set
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
from pymc.model.core import Model
from pytensor.compile.executor import Function
from pytensor.graph.basic import Constant, Variable
from pytensor.graph.fg import FrozenFunctionGraph, FunctionGraph
from pytensor.graph.op import HasInnerGraph, Op
from pytensor.tensor.random.type import RandomType
from scipy import sparse

from emppl.portable import Portable
from emppl.structure.dispatched import registrations

LABELS = ("index", "columns", "dims", "names")  # of arrays that are more than numbers
OPAQUE = (Model, Function, Portable, np.random.Generator, np.random.BitGenerator, np.random.RandomState)
INSTALLED = tuple(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib"))


def identity(value: Any) -> str:
    """A hash of what a value is made of, in hexadecimal: arrays by their bytes, functions by their code and what they
    refer to, objects by their parts. No address and no order of a set enters it.
    """
    return Identity().of(value).hex()


def identity_of_model(structure: Any, held: Any) -> str:
    """A hash of the graphs of a model's distributions and potentials, with all that its variables are.

    held: value variables whose contents (observations) are hashed elsewhere.
    """
    model, whole = structure.model, Identity(skipped=frozenset(held))
    names = {variable: name for name, variable in model.named_vars.items()}
    graphs = [(names.get(graph, graph.name), graph) for graph in (*model.basic_RVs, *model.potentials)]
    nodes = [
        (node.role, node.name, node.shape, node.support, node.window, node.implicit, node.transform)
        for node in (*structure.parameters, *structure.latents, *structure.observed)
    ]
    functions = sorted((name, kind.__qualname__, whole.of(found)) for name, kind, found in registrations(model))
    return whole.of((graphs, nodes, functions, structure.dropped)).hex()


class Identity:
    """Hashes of values, each found once. A value inside itself counts as its place on the way down to it."""

    def __init__(self, skipped: frozenset[Any] = frozenset()) -> None:
        self._skipped = skipped  # variables whose contents do not count
        self._known: dict[int, tuple[bytes, Any]] = {}  # by address; the value is held, so that it keeps its own
        self._open: list[int] = []
        self._leaves: dict[Any, int] = {}  # variables without an owner and without contents, in the order met

    def of(self, value: Any) -> bytes:
        """The hash of a value."""
        if value is None or value is Ellipsis or isinstance(value, bool | int | float | complex | str | bytes):
            return self._joined(type(value).__name__, repr(value))
        place = id(value)
        if place in self._known:
            return self._known[place][0]
        if place in self._open:
            return self._joined("inside itself", str(self._open.index(place)))
        self._open.append(place)
        try:
            found = self._graph(value) if isinstance(value, Variable) else self._joined(*self._parts(value))
        finally:
            self._open.pop()
        self._known[place] = found, value
        return found

    def _joined(self, *parts: Any) -> bytes:
        """Of texts and bytes as they are, and of whatever else by its hash; where one ends is part of it."""
        digest = hashlib.sha256()
        for part in parts:
            plain = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
            content = plain if isinstance(plain, bytes) else self.of(plain)
            digest.update(f"{len(content)} ".encode() + content)
        return digest.digest()

    def _parts(self, value: Any) -> Iterator[Any]:
        kind = type(value)
        if isinstance(value, type):
            yield from self._class(value)
        elif isinstance(value, ModuleType):
            yield from ("module", value.__name__)
        elif isinstance(value, FunctionType):
            yield from self._function(value)
        elif isinstance(value, CodeType):
            yield from ("code", value.co_code, value.co_names, value.co_varnames[: value.co_argcount])
            yield from (value.co_consts, value.co_flags, value.co_exceptiontable)
        elif isinstance(value, MethodType):
            yield from ("method", value.__func__, value.__self__)
        elif isinstance(value, staticmethod | classmethod):
            yield from (kind.__name__, value.__func__)
        elif isinstance(value, property):
            yield from ("property", value.fget)
        elif isinstance(value, functools.partial):
            yield from ("partial", value.func, value.args, value.keywords)
        elif isinstance(value, enum.Enum):
            yield from (kind, value.name)
        elif isinstance(value, OPAQUE):
            yield from ("one of", kind)
        else:
            yield from self._contents(value)

    def _contents(self, value: Any) -> Iterator[Any]:
        kind = type(value)
        if isinstance(value, np.ma.MaskedArray):
            yield from ("masked", np.ma.getmaskarray(value), value.filled(0))
        elif isinstance(value, np.ndarray | np.generic):
            array = np.ascontiguousarray(value)
            yield from ("array", str(array.dtype), str(np.shape(value)))
            yield array.tolist() if array.dtype.hasobject else array.tobytes()
        elif sparse.issparse(value):
            entries = value.tocoo()
            yield from ("sparse", value.format, value.shape, entries.row, entries.col, entries.data)
        elif isinstance(value, Mapping):
            yield from ("mapping", *sorted(self._joined(key, one) for key, one in value.items()))
        elif isinstance(value, Set):
            yield from ("set", *sorted(map(self.of, value)))
        elif isinstance(value, list | tuple):
            yield from ("list", *map(self.of, value))
        elif isinstance(value, slice | range):
            yield from (kind.__name__, value.start, value.stop, value.step)
        elif hasattr(value, "__array__") and not isinstance(value, Variable):
            labels = [getattr(value, name, None) for name in LABELS]
            coords = getattr(value, "coords", None)
            yield from ("labelled", kind, np.asarray(value), *(one for one in labels if not callable(one)))
            if isinstance(coords, Mapping):
                yield {name: np.asarray(one) for name, one in coords.items()}
        elif isinstance(value, FunctionGraph | FrozenFunctionGraph):
            inner = Identity(self._skipped)
            inner._leaves = {variable: n for n, variable in enumerate(value.inputs)}
            yield from ("graph", *(str(variable.type) for variable in value.inputs), *map(inner.of, value.outputs))
        else:
            yield from self._object(value)

    def _object(self, value: Any) -> Iterator[Any]:
        kind = type(value)
        yield kind
        if isinstance(value, Op) and getattr(value, "__props__", None) is not None:
            yield {name: getattr(value, name, None) for name in value.__props__}
        elif hasattr(value, "__dict__"):
            cached = isinstance(value, Op) and isinstance(value, HasInnerGraph)  # in attributes that are its own affair
            yield {name: one for name, one in vars(value).items() if not (cached and name.startswith("_"))}
        else:
            try:
                made = value.__reduce_ex__(4)
            except Exception:  # whatever objects say that cannot be pickled: their class is all that is known
                return
            if isinstance(made, str):
                yield made
            else:
                yield from (list(one) if hasattr(one, "__next__") else one for one in made[1:])

    def _class(self, kind: type) -> Iterator[Any]:
        yield from ("class", kind.__qualname__)
        if _is_installed(kind.__module__) and _found(kind.__module__, kind.__qualname__) is kind:
            yield kind.__module__
            return
        yield kind.__bases__
        for name, one in sorted(vars(kind).items()):
            methods = FunctionType | staticmethod | classmethod | property
            if isinstance(one, methods) or name == "__props__" or not (name.startswith("__") or name == "_abc_impl"):
                yield from (name, one)

    def _function(self, function: FunctionType) -> Iterator[Any]:
        installed = _is_installed(function.__module__)
        yield from ("function", function.__module__ if installed else "", function.__code__)
        yield from (function.__defaults__, function.__kwdefaults__, [_content(c) for c in function.__closure__ or ()])
        if not installed:  # else what it refers to comes with its package
            known = function.__globals__
            yield {name: known[name] for name in _globals_of(function.__code__) if name in known}

    def _graph(self, variable: Any) -> bytes:
        """Of a variable with all above it, found without recursion: graphs are deep."""
        stack = [variable]
        while stack:
            one = stack[-1]
            above = [] if one.owner is None else [v for v in one.owner.inputs if id(v) not in self._known]
            if above:
                stack.extend(reversed(above))
                continue
            stack.pop()
            if id(one) not in self._known:
                self._known[id(one)] = self._joined(*self._variable(one)), one
        return self._known[id(variable)][0]

    def _variable(self, variable: Any) -> Iterator[Any]:
        yield from ("variable", str(variable.type), variable.name or "")
        if variable.owner is not None:
            yield from (variable.owner.op, variable.owner.outputs.index(variable))
            yield from (self._known[id(v)][0] for v in variable.owner.inputs)
        elif variable in self._skipped:
            yield "known elsewhere"
        elif isinstance(variable, Constant):
            yield variable.data
        elif hasattr(variable, "get_value") and not isinstance(variable.type, RandomType):
            yield variable.get_value(borrow=True)
        else:
            yield str(self._leaves.setdefault(variable, len(self._leaves)))


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # it has none yet
        return None


def _globals_of(code: CodeType) -> set[str]:
    found = {str(i.argval) for i in dis.get_instructions(code) if i.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    return found.union(*(_globals_of(one) for one in code.co_consts if isinstance(one, CodeType)))


@functools.cache
def _is_installed(module: str | None) -> bool:
    """Whether a module came with Python, with a package or with emppl, rather than being the user's own."""
    if module is None or module == "__main__":
        return False
    if module.partition(".")[0] == "emppl":
        return True
    if module not in sys.modules:
        return False
    place = getattr(sys.modules[module], "__file__", None)
    return place is None or place.startswith(INSTALLED)


def _found(module: str, name: str) -> Any:
    return functools.reduce(lambda part, one: getattr(part, one, None), name.split("."), sys.modules.get(module))
