"""A rewritten PyTensor graph as one straight Python function: numpy calls one after the other, nothing in between.

PyTensor's own interpreter spends 2–10 µs on each node beside the numpy call in it, which is most of the time of the
small graphs that an EM iteration evaluates. Here the common ops become the numpy calls that their `perform` makes, with
constants and axes filled in; every other op is called through its `perform`. So it means what PyTensor means, node by
node, and a graph with control flow is left to PyTensor (`straight` gives None).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import FunctionType
from typing import Any, NamedTuple

import numpy as np
import scipy.special
from pytensor.compile.ops import DeepCopyOp, ViewOp
from pytensor.graph.basic import Constant
from pytensor.graph.op import Op
from pytensor.link.c.op import COp, OpenMPOp
from pytensor.scalar.basic import Add, Cast, Identity, Mul, Second
from pytensor.scalar.math import Softplus
from pytensor.tensor.basic import Alloc, AllocDiag, ExtractDiag, Join, MakeVector, Split, TensorFromScalar
from pytensor.tensor.blas.batched import BatchedDot
from pytensor.tensor.blockwise import Blockwise
from pytensor.tensor.elemwise import CAReduce, DimShuffle, Elemwise
from pytensor.tensor.extra_ops import CumOp
from pytensor.tensor.linalg.decomposition.cholesky import Cholesky
from pytensor.tensor.linalg.solvers.triangular import SolveTriangular
from pytensor.tensor.math import Dot
from pytensor.tensor.shape import Reshape, Shape, Shape_i, SpecifyShape
from pytensor.tensor.subtensor import (
    AdvancedIncSubtensor,
    AdvancedSubtensor,
    IncSubtensor,
    Subtensor,
    unflatten_index_variables,
)
from scipy.linalg.lapack import dpotrf, dtrtrs

from emppl import unrolled
from emppl.compiling.batches import AtOnce

WRITTEN = ""  # what a rule answers that has written lines of its own
PLAIN_THUNKS = {Op.make_thunk, COp.make_thunk, OpenMPOp.make_thunk}


class Writer:
    """Collects lines of the function, and what their names stand for."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.scope: dict[str, Any] = {"asarray": np.asarray, "array": np.array}
        self.traced: dict[str, Any] = {
            "asarray": _itself,
            "array": _itself,
        }  # what stands in for these on traced arrays
        self.names: dict[Any, str] = {}
        self.stores = False

    def bind(self, value: Any, hint: str, traced: Any = None) -> str:
        """A name for a constant of the function; `traced`: what does the same to traced arrays."""
        name = f"{hint}{len(self.scope)}"
        self.scope[name] = value
        if traced is not None:
            self.traced[name] = traced
        return name

    def name(self, variable: Any) -> str:
        """The name of a variable of the graph."""
        if variable not in self.names:
            if isinstance(variable, Constant):
                self.names[variable] = self.bind(variable.data, "c")
            else:
                self.names[variable] = f"v{len(self.names)}"
        return self.names[variable]


class Straight(NamedTuple):
    """A graph as a function of arrays; `traceable`: the same of traced ones, None where it reads what may change.

    stores: whether an op may compute in storage of its own (a Blockwise op does), so that one call at a time is right.
    """

    run: Callable[..., Any]
    traceable: Callable[..., Any] | None
    stores: bool


def straight(function: Any) -> Straight | None:
    """An interpreted PyTensor function as plain Python of the same arguments and results; None where it cannot be."""
    fgraph = function.maker.fgraph
    writer = Writer()
    explicit, closed = [], True
    for given, variable, container in zip(function.maker.inputs, fgraph.inputs, function.input_storage):
        if given.update is not None:
            return None
        if not (given.shared or given.implicit):
            explicit.append(writer.name(variable))
        elif fgraph.clients[variable]:
            writer.lines.append(f"{writer.name(variable)} = {writer.bind(container.storage, 's')}[0]")
            closed = False
    for node in fgraph.toposort():
        if type(node.op).make_thunk not in PLAIN_THUNKS or node.op.destroy_map:
            return None
        text = _written(node, writer)
        if text is not None:
            writer.lines.append(f"{writer.name(node.outputs[0])} = {text}")
    results = [_result(v, writer) for v in fgraph.outputs]
    answer = results[0] if function.unpack_single and len(results) == 1 else f"[{', '.join(results)}]"
    source = f"def evaluate({', '.join(explicit)}):\n    " + "\n    ".join([*writer.lines, f"return {answer}"])
    exec(compile(source, "<straight-line function>", "exec"), writer.scope)
    evaluate = writer.scope["evaluate"]
    return Straight(
        evaluate, FunctionType(evaluate.__code__, writer.scope | writer.traced) if closed else None, writer.stores
    )


def _itself(array: Any) -> Any:
    return array


def _result(variable: Any, writer: Writer) -> str:
    """An output of the function, which must be the caller's own where PyTensor makes a copy for it."""
    copied = variable.owner is None or isinstance(variable.owner.op, DeepCopyOp | Alloc)
    return f"{'array' if copied else 'asarray'}({writer.name(variable)})"


def _written(node: Any, writer: Writer) -> str | None:
    """The expression of a node with one output; None where it has written its own lines."""
    op = node.op
    for kind, rule in RULES:
        if isinstance(op, kind):
            text = rule(node, writer)
            if text is not None:
                return text or None
            break
    _performed(node, writer)
    return None


def _performed(node: Any, writer: Writer) -> None:
    """Through the op's own `perform`, which wants arrays."""
    writer.stores = True
    arguments = ", ".join(
        writer.name(v) if isinstance(v, Constant) or not hasattr(v.type, "ndim") else f"asarray({writer.name(v)})"
        for v in node.inputs
    )
    outputs = [writer.name(v) for v in node.outputs]
    box = writer.bind(None, "b")
    writer.lines.append(f"{box} = [{', '.join('[None]' for _ in outputs)}]")
    single = isinstance(node.op, Elemwise) and len(outputs) == 1
    traced = partial(unrolled.by_number, node.op.scalar_op.impl) if single else None
    writer.lines.append(f"{writer.bind(node.op.perform, 'p', traced)}({writer.bind(node, 'n')}, [{arguments}], {box})")
    writer.lines.append(f"{', '.join(outputs)}, = {', '.join(f'{box}[{i}][0]' for i in range(len(outputs)))},")


def _dtype(variable: Any) -> np.dtype:
    return np.dtype(variable.type.dtype)


def _elemwise(node: Any, writer: Writer) -> str | None:
    scalar, inputs, output = node.op.scalar_op, node.inputs, node.outputs[0]
    names = [writer.name(v) for v in inputs]
    if len(node.outputs) != 1:
        return None
    if isinstance(scalar, Identity):
        return names[0]
    if isinstance(scalar, Cast):
        return (
            f"{writer.bind(_dtype(output).type, 't')}({names[0]})"
            if not output.type.ndim
            else (f"{names[0]}.astype({writer.bind(_dtype(output), 't')})")
        )
    if isinstance(scalar, Second):
        return None
    if isinstance(scalar, Softplus) and _dtype(inputs[0]) == np.float64:
        return f"{writer.bind(_softplus, 'f')}({names[0]})"
    spec = getattr(scalar, "nfunc_spec", None)
    if spec is None or spec[2] != 1:
        return None
    name = spec[0].rpartition(".")[2]
    function = getattr(scipy.special if spec[0].startswith("scipy.special.") else np, name, None)
    if function is None:
        return None
    chained = isinstance(scalar, Add | Mul) and len(inputs) > 2
    if not chained and spec[1] != len(inputs):
        return None
    trial = [np.ones((1,) * v.type.ndim, dtype=_dtype(v)) for v in inputs]
    try:
        with np.errstate(all="ignore"):
            found = _chain(function, trial) if chained else function(*trial)
    except TypeError:
        return None
    if {_dtype(v) for v in inputs if not isinstance(v, Constant)} == {np.dtype("float64")}:
        # numpy would turn whole numbers into these at each call
        for k, v in enumerate(inputs):
            if isinstance(v, Constant) and _dtype(v).kind in "iu":
                names[k] = writer.bind(v.data.astype(np.float64), "c")
    called = writer.bind(function, "f")
    text = names[0]
    if chained:
        for name in names[1:]:
            text = f"{called}({text}, {name})"
    else:
        text = f"{called}({', '.join(names)})"
    if found.dtype != _dtype(output):
        text = f"{text}.astype({writer.bind(_dtype(output), 't')})"
    return text


def _softplus(x: Any) -> Any:
    """log(1 + exp(x)) in four ranges, as PyTensor has it."""
    with np.errstate(over="ignore"):
        middle = np.where(x < 18.0, np.log1p(np.exp(x)), np.where(x < 33.3, x + np.exp(-x), x))
        return np.where(x < -37.0, np.exp(x), middle)


def _chain(function: Any, values: list[Any]) -> Any:
    total = values[0]
    for value in values[1:]:
        total = function(total, value)
    return total


def _dimshuffle(node: Any, writer: Writer) -> str:
    order = node.op.new_order
    kept = [d for d in order if d != "x"]
    dropped = [d for d in range(node.inputs[0].type.ndim) if d not in kept]
    text, permutation = writer.name(node.inputs[0]), (*kept, *dropped)
    if permutation != tuple(range(len(permutation))):
        text = f"{text}.T" if permutation == (1, 0) else f"{text}.transpose({permutation})"
    if dropped or "x" in order:
        index = ", ".join([*("None" if d == "x" else ":" for d in order), *("0" for _ in dropped)])
        text = f"{text}[{index}]"
    return text


def _subtensor(node: Any, writer: Writer) -> str | None:
    array, *indices = node.inputs
    if all(isinstance(i, Constant) for i in indices):
        index = unflatten_index_variables([_index(i) for i in indices], node.op.idx_list)
        text = f"{writer.name(array)}[{writer.bind(tuple(index), 'i')}]"
    else:
        parts = unflatten_index_variables([writer.name(i) for i in indices], node.op.idx_list)
        written = [f"slice({p.start}, {p.stop}, {p.step})" if isinstance(p, slice) else str(p) for p in parts]
        text = f"{writer.name(array)}[{', '.join(written)},]"
    return text


def _index(constant: Any) -> Any:
    value = constant.data
    return int(value) if np.ndim(value) == 0 else value


def _reduction(node: Any, writer: Writer) -> str | None:
    op, x = node.op, node.inputs[0]
    ufunc = getattr(op, "ufunc", None)
    if not isinstance(ufunc, np.ufunc):
        return None
    axis = tuple(range(x.type.ndim)) if op.axis is None else tuple(op.axis)
    accumulator = _dtype(node.outputs[0]) if op.acc_dtype is None else np.dtype(op.acc_dtype)
    axis_text = str(axis[0]) if len(axis) == 1 else str(axis)
    text = f"{writer.bind(ufunc.reduce, 'r')}({writer.name(x)}, {axis_text}, {writer.bind(accumulator, 't')})"
    if accumulator != _dtype(node.outputs[0]):
        text = f"{text}.astype({writer.bind(_dtype(node.outputs[0]), 't')})"
    return text


def _join(node: Any, writer: Writer) -> str | None:
    dtype = _dtype(node.outputs[0])
    if not hasattr(node.op, "axis") or any(_dtype(v) != dtype for v in node.inputs):
        return None
    parts = ", ".join(writer.name(v) for v in node.inputs)
    return f"{writer.bind(np.concatenate, 'f')}(({parts},), {node.op.axis})"


def _make_vector(node: Any, writer: Writer) -> str:
    parts = ", ".join(writer.name(v) for v in node.inputs)
    made = writer.bind(np.array, "f", traced=lambda given, dtype: np.stack(given).astype(dtype))
    return f"{made}([{parts}], {writer.bind(_dtype(node.outputs[0]), 't')})"


def _reshape(node: Any, writer: Writer) -> str:
    x, shape = node.inputs
    if isinstance(shape, Constant):
        return f"{writer.name(x)}.reshape({tuple(int(n) for n in shape.data)})"
    return f"{writer.name(x)}.reshape(tuple({writer.name(shape)}))"


def _alloc(node: Any, writer: Writer) -> str | None:
    value, *shape = node.inputs
    if not all(isinstance(n, Constant) for n in shape):
        if None in value.type.shape:  # an axis that turns out to be of length 1 may not be stretched
            return None
        lengths = "".join(f"{writer.name(n)}, " for n in shape)
        return f"{writer.bind(np.broadcast_to, 'f')}({writer.name(value)}, ({lengths}))"
    sizes = tuple(int(n.data) for n in shape)
    if isinstance(value, Constant):  # made once: what would change it fails
        filled = np.full(sizes, value.data)
        filled.flags.writeable = False
        return writer.bind(filled, "c")
    return f"{writer.bind(np.broadcast_to, 'f')}({writer.name(value)}, {sizes})"


def _specify_shape(node: Any, writer: Writer) -> str | None:
    x, *shape = node.inputs
    if not all(isinstance(n, Constant) for n in shape):
        return None
    wanted = [None if n.data is None else int(n.data) for n in shape]
    if all(n in (None, m) for n, m in zip(wanted, x.type.shape)):
        return writer.name(x)

    def checked(array: Any) -> Any:
        if array.ndim != len(wanted) or any(n not in (None, m) for n, m in zip(wanted, array.shape)):
            raise AssertionError(f"SpecifyShape: dim sizes {array.shape} do not match expected shape {wanted}")
        return array

    return f"{writer.bind(checked, 'f')}({writer.name(x)})"


def _dot(node: Any, writer: Writer) -> str:
    one, two = (writer.name(v) for v in node.inputs)
    return f"{writer.bind(np.dot, 'f')}({one}, {two})"


def _same(node: Any, writer: Writer) -> str:
    return writer.name(node.inputs[0])


def _blockwise(node: Any, writer: Writer) -> str | None:
    """An op on matrices, all at once where there is a rule for that, else matrix by matrix along one axis."""
    op = node.op
    if isinstance(op, AtOnce) or op.batch_ndim(node) != 1 or len(node.outputs) != 1:
        return None
    whole = WHOLE.get(type(op.core_op))
    text = whole(node, writer) if whole is not None else None
    if text is not None:
        return text
    lengths = [v.type.shape[0] for v in node.inputs]
    size = max(n or 0 for n in lengths)
    if not all(n in (1, size) for n in lengths) or any(v.type.ndim < 2 for v in node.inputs) or not size:
        return None
    if type(op.core_op).make_thunk not in PLAIN_THUNKS:
        return None
    repeated = [n < size for n in lengths]
    one = _on_matrices(op, node)
    traced = TRACED[type(op.core_op)](op.core_op) if type(op.core_op) in TRACED else None
    if traced is None and isinstance(op.core_op, AdvancedSubtensor | AdvancedIncSubtensor):

        def traced(*arrays: Any) -> Any:
            parts = [[a[0]] * size if again else a for a, again in zip(arrays, repeated)]
            return np.stack([one(*matrices) for matrices in zip(*parts)])

    def each(*arrays: Any) -> Any:
        parts = [[a[0]] * size if again else a for a, again in zip(arrays, repeated)]
        return np.array([one(*matrices) for matrices in zip(*parts)])

    return f"{writer.bind(each, 'f', traced)}({', '.join(writer.name(v) for v in node.inputs)})"


def _lapack(node: Any, writer: Writer) -> str | None:
    """LAPACK on one matrix."""
    op = node.op
    if not all(v.type.ndim == 2 and _dtype(v) == np.float64 and all(v.type.shape) for v in node.inputs):
        return None
    name = writer.bind(LAPACK[type(op)](op), "f", TRACED[type(op)](op))
    return f"{name}({', '.join(writer.name(v) for v in node.inputs)})"


def _on_matrices(op: Any, node: Any) -> Callable[..., Any]:
    """A Blockwise op on one matrix of each batch: LAPACK where that is what its `perform` comes down to."""
    core = op.core_op
    if type(core) in LAPACK and all(_dtype(v) == np.float64 and all(v.type.shape) for v in node.inputs):
        return LAPACK[type(core)](core)
    core_node = op._create_dummy_core_node(node.inputs, propagate_unbatched_core_inputs=True)
    perform = core_node.op.perform

    def performed(*matrices: Any) -> Any:
        box: list[list[Any]] = [[None]]
        perform(core_node, matrices, box)
        return box[0][0]

    return performed


def _cholesky(op: Any) -> Callable[..., Any]:
    lower = op.lower

    def cholesky(a: np.ndarray) -> np.ndarray:
        factor, info = dpotrf(a, lower, True)
        if info:
            factor[...] = np.nan
        return factor

    return cholesky


def _solve_triangular(op: Any) -> Callable[..., Any]:
    lower, unit = op.lower, op.unit_diagonal

    def solve_triangular(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        if a.flags.f_contiguous:
            x, info = dtrtrs(a, b, lower, 0, unit)
        else:
            x, info = dtrtrs(a.T, b, not lower, 1, unit)
        if info:
            x[...] = np.nan
        return x

    return solve_triangular


LAPACK: dict[type, Callable[[Any], Callable[..., Any]]] = {Cholesky: _cholesky, SolveTriangular: _solve_triangular}
TRACED: dict[type, Callable[[Any], Callable[..., Any]]] = {  # of one matrix or a batch of them
    Cholesky: lambda op: partial(unrolled.cholesky, lower=op.lower),
    SolveTriangular: lambda op: partial(unrolled.solve_triangular, lower=op.lower, unit=op.unit_diagonal),
}


def _picked(node: Any, writer: Writer) -> str | None:
    """The same known entries of each array of a batch."""
    array, *indices = node.inputs
    if not all(isinstance(i, Constant) and len(i.data) == 1 for i in indices):
        return None
    places = unflatten_index_variables([i.data[0] for i in indices], node.op.core_op.idx_list)
    if not all(isinstance(p, np.ndarray) for p in places):  # with slices between them axes change places
        return None
    return f"{writer.name(array)}[{writer.bind((slice(None), *places), 'i')}]"


def _on_diagonals(node: Any, writer: Writer) -> str | None:
    """Matrices of zeros with the vectors of a batch on their diagonals."""
    core, (vectors,) = node.op.core_op, node.inputs
    n = vectors.type.shape[1]
    if core.offset or n is None:
        return None
    places, dtype = np.arange(n), _dtype(vectors)

    def filled(values: Any) -> Any:
        return unrolled.put(np.zeros((len(values), n, n), dtype), (slice(None), places, places), values)

    return f"{writer.bind(filled, 'f')}({writer.name(vectors)})"


WHOLE: dict[type, Callable[[Any, Writer], str | None]] = {AdvancedSubtensor: _picked, AllocDiag: _on_diagonals}


def _split(node: Any, writer: Writer) -> str | None:
    """An array cut into parts of known lengths."""
    array, sizes = node.inputs
    if not isinstance(sizes, Constant) or array.type.shape[node.op.axis] != sizes.data.sum():
        return None
    start = 0
    for size, part in zip(sizes.data.tolist(), node.outputs):
        index = (*(slice(None),) * node.op.axis, slice(start, start + size))
        writer.lines.append(f"{writer.name(part)} = {writer.name(array)}[{writer.bind(index, 'i')}]")
        start += size
    return WRITTEN


def _incremented(node: Any, writer: Writer) -> str | None:
    """A copy of an array with some entries set or added to, at places that are known."""
    op, (array, values, *indices) = node.op, node.inputs
    if not all(isinstance(i, Constant) for i in indices) or _dtype(values) != _dtype(array):
        return None
    index = tuple(unflatten_index_variables([_index(i) for i in indices], op.idx_list))
    advanced = isinstance(op, AdvancedIncSubtensor)
    if advanced and not isinstance(values, Constant) and any(values.type.broadcastable):
        known = None not in (*array.type.shape, *values.type.shape)
        if not known or np.empty(array.type.shape)[index].shape != values.type.shape:
            return None  # which lengths may stretch is for PyTensor to say

    def put(whole: Any, part: Any) -> Any:
        return unrolled.put(whole, index, part)

    def add(whole: Any, part: Any) -> Any:
        whole = np.array(whole)
        whole[index] += part
        return whole

    def add_all(whole: Any, part: Any) -> Any:
        return unrolled.add_at(whole, index, part)

    if op.set_instead_of_inc:
        name = writer.bind(put, "f")
    else:
        once = not advanced or op.ignore_duplicates or _without_duplicates(index)
        name = writer.bind(add if once else add_all, "f", add_all)
    return f"{name}({writer.name(array)}, {writer.name(values)})"


def _without_duplicates(index: tuple[Any, ...]) -> bool:
    """Whether arrays of indices (none negative) name each place once; slices beside them change nothing in that."""
    arrays = np.broadcast_arrays(*[i for i in index if not isinstance(i, slice)])
    places = np.stack([a.ravel() for a in arrays])
    return bool((places >= 0).all()) and len(np.unique(places, axis=1).T) == places.shape[1]


def _cumulative(node: Any, writer: Writer) -> str:
    function = np.cumsum if node.op.mode == "add" else np.cumprod
    return f"{writer.bind(function, 'f')}({writer.name(node.inputs[0])}, {node.op.axis})"


def _diagonal(node: Any, writer: Writer) -> str:
    op = node.op
    return f"{writer.name(node.inputs[0])}.diagonal({op.offset}, {op.axis1}, {op.axis2}).copy()"


def _batched_dot(node: Any, writer: Writer) -> str | None:
    one, two = node.inputs
    if one.type.shape[0] is None or one.type.shape[0] != two.type.shape[0]:
        return None
    return f"{writer.bind(np.matmul, 'f')}({writer.name(one)}, {writer.name(two)})"


def _shape(node: Any, writer: Writer) -> str:
    return f"{writer.bind(np.array, 'f')}({writer.name(node.inputs[0])}.shape, {writer.bind(np.dtype('int64'), 't')})"


def _shape_i(node: Any, writer: Writer) -> str:
    return f"{writer.bind(np.int64, 't')}({writer.name(node.inputs[0])}.shape[{node.op.i}])"


RULES: tuple[tuple[Any, Callable[[Any, Writer], str | None]], ...] = (
    (Elemwise, _elemwise),
    (DimShuffle, _dimshuffle),
    ((Subtensor, AdvancedSubtensor), _subtensor),
    ((IncSubtensor, AdvancedIncSubtensor), _incremented),
    (Blockwise, _blockwise),
    ((Cholesky, SolveTriangular), _lapack),
    (BatchedDot, _batched_dot),
    (CumOp, _cumulative),
    (ExtractDiag, _diagonal),
    (CAReduce, _reduction),
    (Join, _join),
    (Split, _split),
    (MakeVector, _make_vector),
    (Reshape, _reshape),
    (Alloc, _alloc),
    (SpecifyShape, _specify_shape),
    (Dot, _dot),
    ((DeepCopyOp, ViewOp, TensorFromScalar), _same),
    (Shape, _shape),
    (Shape_i, _shape_i),
)
