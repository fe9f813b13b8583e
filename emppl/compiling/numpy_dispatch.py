"""A rewritten PyTensor graph as numpy calls one after the other: a table of small functions, an op in, a callable out.

PyTensor's own interpreter spends 2–10 µs on each node beside the numpy call in it, which is most of the time of the
small graphs that an EM iteration evaluates. Here the common ops become the numpy calls that their `perform` makes, with
constants and axes filled in; every other op is called through its `perform`. So it means what PyTensor means, node by
node, and a graph with control flow is left to PyTensor (`linked` gives None).

The steps are a list, where `pytensor.link.utils.fgraph_to_python` writes source: that takes 140 µs a node, most of it
for comments, and leaves a file for each graph. Nearly all graphs here are evaluated a few times only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial, singledispatch
from math import prod
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
import pytensor
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
from pytensor.tensor.type import DenseTensorType

from emppl import unrolled
from emppl.compiling.matrices import ONE, of_a_batch, of_one
from emppl.unrolled.tracing import Traced

PLAIN_THUNKS = {Op.make_thunk, COp.make_thunk, OpenMPOp.make_thunk}
Step = Callable[..., Any]
Known = dict[Any, Any]  # variable → value


class Linked(NamedTuple):
    """A graph as a function of arrays.

    run: results are the caller's own, as PyTensor has it. evaluate: the same of arrays or of traced ones, whose results
    may be arguments or constants. stores: whether an op may compute in storage of its own (a Blockwise op does), so
    that one call at a time is right.
    """

    run: Callable[..., list[Any]]
    evaluate: Callable[..., list[Any]]
    stores: bool


def linked(fgraph: Any) -> Linked | None:
    """The outputs of a function graph as a function of its inputs; None where that is for PyTensor to do."""
    nodes = fgraph.toposort()
    if any(type(node.op).make_thunk not in PLAIN_THUNKS or node.op.destroy_map for node in nodes):
        return None
    read = [*(v for node in nodes for v in node.inputs), *fgraph.outputs]
    known: Known = {v: v.data for v in read if isinstance(v, Constant)}
    kept = []
    for node in nodes:
        function = numpy_funcify(node.op, node, known)
        folded = _folded(fgraph, node, function, known)
        if folded is None:
            kept.append((node, function))
        else:
            known |= folded
    variables = [*fgraph.inputs, *known, *(v for node, _ in kept for v in node.outputs)]
    places = {variable: k for k, variable in enumerate(variables)}
    steps = []
    for node, function in kept:
        start = places[node.outputs[0]]
        made = start if len(node.outputs) == 1 else slice(start, start + len(node.outputs))
        steps.append((function, _getter([places[v] for v in node.inputs]), made))
    constants = list(known.values())
    blank = [None] * (len(variables) - len(constants) - len(fgraph.inputs))
    wanted = [places[v] for v in fgraph.outputs]

    def evaluate(*arguments: Any) -> list[Any]:
        values = [*arguments, *constants, *blank]
        for function, get, place in steps:
            values[place] = function(*get(values))
        return [values[place] for place in wanted]

    own = [
        np.asarray if v not in known and _is_new(v, fgraph.outputs[:k]) else np.array
        for k, v in enumerate(fgraph.outputs)
    ]

    def run(*arguments: Any) -> list[Any]:
        return [take(result) for take, result in zip(own, evaluate(*arguments))]

    return Linked(run, evaluate, any(getattr(function, "stores", False) for function, _, _ in steps))


def _folded(fgraph: Any, node: Any, function: Step, known: Known) -> Known | None:
    """The outputs of a node that are the same whatever the arguments: of constants alone, or a length from the type."""
    if isinstance(node.op, Shape | Shape_i):
        lengths = node.inputs[0].type.shape
        static = lengths if isinstance(node.op, Shape) else lengths[node.op.i]
        if None not in np.atleast_1d(static):
            return {node.outputs[0]: np.array(static, np.int64)}
    if any(v not in known for v in node.inputs) or not node.op.do_constant_folding(fgraph, node):
        return None
    try:
        made = function(*(known[v] for v in node.inputs))
    except Exception:  # of what is not evaluated for these values: a check that fails says so when it is asked
        return None
    return dict(zip(node.outputs, made if len(node.outputs) > 1 else [made]))


def _getter(places: list[int]) -> Callable[[list[Any]], Any]:
    if len(places) > 1:
        return itemgetter(*places)
    return itemgetter(slice(places[0], places[0] + 1) if places else slice(0))


def _is_new(variable: Any, others: list[Any]) -> bool:
    """Whether an output is made by its node: no argument or constant, no part of one, and no output a second time."""
    if variable.owner is None or variable in others:
        return False
    op = variable.owner.op
    return not (op.view_map or isinstance(op, VIEWS) or isinstance(getattr(op, "scalar_op", None), Identity | Second))


VIEWS = (Alloc, Split)  # by numpy's rules, not by PyTensor's


class Performed:
    """A node through its op's own `perform`, which wants arrays."""

    stores = True

    def __init__(self, op: Op, node: Any) -> None:
        self.perform, self.node = op.perform, node
        if isinstance(op, Blockwise):  # whose first call would have a C compiler make the op within it
            with pytensor.config.change_flags(cxx=""):
                op.prepare_node(node, None, None, "py")
        self.arrays = [isinstance(v.type, DenseTensorType) for v in node.inputs]

    def __call__(self, *inputs: Any) -> Any:
        box: list[list[Any]] = [[None] for _ in self.node.outputs]
        perform = self.perform
        if isinstance(self.node.op, Elemwise) and len(box) == 1 and _is_traced(inputs):
            perform = partial(unrolled.by_number, self.node.op.scalar_op.impl)
        given = [np.asarray(x) if is_array and not _is_traced([x]) else x for x, is_array in zip(inputs, self.arrays)]
        perform(self.node, given, box)
        return box[0][0] if len(box) == 1 else [cell[0] for cell in box]


def _is_traced(values: Iterable[Any]) -> bool:
    return any(isinstance(value, Traced) for value in values)


def _stacked(parts: Sequence[Any], dtype: np.dtype) -> Any:
    return np.stack(parts).astype(dtype) if _is_traced(parts) else np.array(parts, dtype)


@singledispatch
def numpy_funcify(op: Any, node: Any, known: Known) -> Step:
    """What gives the outputs of a node from its inputs: one, or as many as it has. known: the values of constants."""
    return Performed(op, node)


def _indices(variables: list[Any], known: Known) -> list[Any] | None:
    """Indices, or lengths, where all are known; else None."""
    if any(v not in known for v in variables):
        return None
    values = [known[v] for v in variables]
    return [int(value) if value is not None and np.ndim(value) == 0 else value for value in values]


def _dtype(variable: Any) -> np.dtype:
    return np.dtype(variable.type.dtype)


def _itself(x: Any, *_: Any) -> Any:
    return x


# -- number by number --------------------------------------------------------------------------------------------------


@numpy_funcify.register(Elemwise)
def _elemwise(op: Elemwise, node: Any, known: Known) -> Step:
    scalar, dtype = op.scalar_op, _dtype(node.outputs[0])
    inputs = [_dtype(v) for v in node.inputs]
    if len(node.outputs) > 1:
        return Performed(op, node)
    if isinstance(scalar, Identity):
        return _itself
    if isinstance(scalar, Cast):
        return lambda x: x.astype(dtype)
    if isinstance(scalar, Second) and inputs[1] == dtype:
        return _second
    if isinstance(scalar, Softplus) and inputs[0] == np.float64:
        return _softplus
    module, _, name = (getattr(scalar, "nfunc_spec", None) or ("", 0, 0))[0].rpartition(".")
    function = getattr(scipy.special if module == "scipy.special" else np, name, None) if name else None
    if function is None or scalar.nfunc_spec[2] != 1:
        return Performed(op, node)
    if isinstance(scalar, Add | Mul) and len(inputs) > 2:
        function = partial(_chain, function)
    elif scalar.nfunc_spec[1] != len(inputs):
        return Performed(op, node)
    made = _made_by(function, *inputs)
    if made is None:
        return Performed(op, node)
    return function if made == dtype else lambda *x: function(*x).astype(dtype)


@cache
def _made_by(function: Step, *dtypes: np.dtype) -> np.dtype | None:
    """The type of what a function makes of these; None where it makes nothing of them."""
    try:
        with np.errstate(all="ignore"):
            return function(*(np.ones(1, dtype) for dtype in dtypes)).dtype
    except TypeError:
        return None


def _chain(function: Step, total: Any, *others: Any) -> Any:
    for other in others:
        total = function(total, other)
    return total


def _second(shaped: Any, x: Any) -> Any:
    return np.broadcast_to(x, np.broadcast_shapes(np.shape(shaped), np.shape(x)))


def _softplus(x: Any) -> Any:
    """log(1 + exp(x)) in four ranges, as PyTensor has it."""
    with np.errstate(over="ignore"):
        middle = np.where(x < 18.0, np.log1p(np.exp(x)), np.where(x < 33.3, x + np.exp(-x), x))
        return np.where(x < -37.0, np.exp(x), middle)


@numpy_funcify.register(CAReduce)
def _reduction(op: CAReduce, node: Any, known: Known) -> Step:
    ufunc, dtype = getattr(op, "ufunc", None), _dtype(node.outputs[0])
    if not isinstance(ufunc, np.ufunc):
        return Performed(op, node)
    axes = tuple(range(node.inputs[0].type.ndim)) if op.axis is None else tuple(op.axis)
    axis = axes[0] if len(axes) == 1 else axes
    accumulator = dtype if op.acc_dtype is None else np.dtype(op.acc_dtype)
    reduce = ufunc.reduce
    if accumulator == dtype:
        return lambda x: reduce(x, axis, dtype)
    return lambda x: reduce(x, axis, accumulator).astype(dtype)


@numpy_funcify.register(CumOp)
def _cumulative(op: CumOp, node: Any, known: Known) -> Step:
    function, axis = (np.cumsum if op.mode == "add" else np.cumprod), op.axis
    return lambda x: function(x, axis)


# -- shapes ------------------------------------------------------------------------------------------------------------


@numpy_funcify.register(DeepCopyOp)
@numpy_funcify.register(ViewOp)
@numpy_funcify.register(TensorFromScalar)
def _same(op: Any, node: Any, known: Known) -> Step:
    return _itself


@numpy_funcify.register(DimShuffle)
def _dimshuffle(op: DimShuffle, node: Any, known: Known) -> Step:
    order = op.new_order
    kept = [d for d in order if d != "x"]
    dropped = [d for d in range(node.inputs[0].type.ndim) if d not in kept]
    axes = (*kept, *dropped)
    index = (*(None if d == "x" else slice(None) for d in order), *(0 for _ in dropped))
    if list(axes) == list(range(len(axes))):
        return lambda x: x[index]
    if len(index) == len(axes) and not dropped and "x" not in order:
        return lambda x: x.transpose(axes)
    return lambda x: x.transpose(axes)[index]


@numpy_funcify.register(Shape)
def _shape(op: Shape, node: Any, known: Known) -> Step:
    return lambda x: np.array(x.shape, np.int64)


@numpy_funcify.register(Shape_i)
def _shape_i(op: Shape_i, node: Any, known: Known) -> Step:
    axis = op.i
    return lambda x: np.int64(x.shape[axis])


@numpy_funcify.register(Reshape)
def _reshape(op: Reshape, node: Any, known: Known) -> Step:
    if node.inputs[1] in known:
        lengths = tuple(known[node.inputs[1]].tolist())
        return lambda x, _: x.reshape(lengths)
    return lambda x, shape: x.reshape(tuple(shape))


@numpy_funcify.register(SpecifyShape)
def _specify_shape(op: SpecifyShape, node: Any, known: Known) -> Step:
    x, *shape = node.inputs
    wanted = _indices(shape, known)
    if wanted is None:
        return Performed(op, node)
    if all(n in (None, m) for n, m in zip(wanted, x.type.shape)):
        return _itself

    def checked(array: Any, *_: Any) -> Any:
        if array.ndim != len(wanted) or any(n not in (None, m) for n, m in zip(wanted, array.shape)):
            raise AssertionError(f"SpecifyShape: dim sizes {array.shape} do not match expected shape {wanted}")
        return array

    return checked


@numpy_funcify.register(Alloc)
def _alloc(op: Alloc, node: Any, known: Known) -> Step:
    value, *lengths = node.inputs
    shape = _indices(lengths, known)
    if shape is None:
        if None in value.type.shape:  # an axis that turns out to be of length 1 may not be stretched
            return Performed(op, node)
        return lambda value, *shape: np.broadcast_to(value, shape)
    if value in known:  # made once: what would change it fails
        filled = np.full(shape, known[value])
        filled.flags.writeable = False
        return lambda *_: filled
    return lambda value, *_: np.broadcast_to(value, shape)


@numpy_funcify.register(Join)
def _join(op: Join, node: Any, known: Known) -> Step:
    if not hasattr(op, "axis") or any(_dtype(v) != _dtype(node.outputs[0]) for v in node.inputs):
        return Performed(op, node)
    axis = op.axis
    return lambda *parts: np.concatenate(parts, axis)


@numpy_funcify.register(Split)
def _split(op: Split, node: Any, known: Known) -> Step:
    array, sizes = node.inputs
    if sizes not in known or array.type.shape[op.axis] != known[sizes].sum():
        return Performed(op, node)
    ends = np.cumsum(known[sizes]).tolist()
    before = (slice(None),) * op.axis
    parts = [(*before, slice(start, end)) for start, end in zip([0, *ends], ends)]
    if len(parts) == 1:
        return _itself
    return lambda x, _: [x[part] for part in parts]


@numpy_funcify.register(MakeVector)
def _make_vector(op: MakeVector, node: Any, known: Known) -> Step:
    dtype = _dtype(node.outputs[0])
    return lambda *parts: _stacked(parts, dtype)


# -- indices -----------------------------------------------------------------------------------------------------------


@numpy_funcify.register(Subtensor)
@numpy_funcify.register(AdvancedSubtensor)
def _subtensor(op: Any, node: Any, known: Known) -> Step:
    indices = _indices(node.inputs[1:], known)
    if indices is not None:
        index = tuple(unflatten_index_variables(indices, op.idx_list))
        return lambda x, *_: x[index]
    return lambda x, *indices: x[tuple(unflatten_index_variables(indices, op.idx_list))]


@numpy_funcify.register(IncSubtensor)
@numpy_funcify.register(AdvancedIncSubtensor)
def _inc_subtensor(op: Any, node: Any, known: Known) -> Step:
    """A copy of an array with some entries set or added to, at places that are known."""
    array, values, *places = node.inputs
    indices = _indices(places, known)
    if indices is None or _dtype(values) != _dtype(array):
        return Performed(op, node)
    index = tuple(unflatten_index_variables(indices, op.idx_list))
    advanced = isinstance(op, AdvancedIncSubtensor)
    if advanced and values not in known and any(values.type.broadcastable):
        is_fixed = None not in (*array.type.shape, *values.type.shape)
        if not is_fixed or np.empty(array.type.shape)[index].shape != values.type.shape:
            return Performed(op, node)  # which lengths may stretch is for PyTensor to say
    if op.set_instead_of_inc:
        return lambda whole, part, *_: unrolled.put(whole, index, part)
    if advanced and not (op.ignore_duplicates or _without_duplicates(index)):
        return lambda whole, part, *_: unrolled.add_at(whole, index, part)
    return lambda whole, part, *_: unrolled.put(whole, index, whole[index] + part)


def _without_duplicates(index: tuple[Any, ...]) -> bool:
    """Whether arrays of indices (none negative) name each place once; slices beside them change nothing in that."""
    arrays = np.broadcast_arrays(*[i for i in index if not isinstance(i, slice)])
    places = np.stack([a.ravel() for a in arrays])
    return bool((places >= 0).all()) and len(np.unique(places, axis=1).T) == places.shape[1]


@numpy_funcify.register(ExtractDiag)
def _diagonal(op: ExtractDiag, node: Any, known: Known) -> Step:
    places = op.offset, op.axis1, op.axis2
    return lambda x: x.diagonal(*places).copy()


# -- products and matrices ---------------------------------------------------------------------------------------------


@numpy_funcify.register(Dot)
def _dot(op: Dot, node: Any, known: Known) -> Step:
    return np.dot


@numpy_funcify.register(BatchedDot)
def _batched_dot(op: BatchedDot, node: Any, known: Known) -> Step:
    one, two = (v.type.shape[0] for v in node.inputs)
    return np.matmul if one is not None and one == two else Performed(op, node)


@numpy_funcify.register(Cholesky)
@numpy_funcify.register(SolveTriangular)
def _on_a_matrix(op: Any, node: Any, known: Known) -> Step:
    """LAPACK on one matrix."""
    return of_one(op) if _is_for_lapack(node.inputs) else Performed(op, node)


def _is_for_lapack(inputs: list[Any]) -> bool:
    return all(_dtype(v) == np.float64 and all(v.type.shape) for v in inputs)


@numpy_funcify.register(Blockwise)
def _blockwise(op: Blockwise, node: Any, known: Known) -> Step:
    """An op on matrices, all at once where there is a rule for that, else matrix by matrix along one axis."""
    core, batch = op.core_op, node.outputs[0].type.shape[: op.batch_ndim(node)]
    if isinstance(core, Dot):
        return np.matmul
    whole = WHOLE[type(core)](core, node, known) if len(batch) == 1 and type(core) in WHOLE else None
    if whole is not None:
        return whole
    one_by_one = _each(op, node) or Performed(op, node)
    if type(core) not in ONE:
        return one_by_one
    return of_a_batch(core, None if None in batch else prod(batch), one_by_one)


def _each(op: Blockwise, node: Any) -> Step | None:
    """A loop over matrices along one axis."""
    lengths = [v.type.shape[0] for v in node.inputs]
    size = max(n or 0 for n in lengths)
    if op.batch_ndim(node) != 1 or len(node.outputs) > 1 or not size or not all(n in (1, size) for n in lengths):
        return None
    if any(v.type.ndim < 2 for v in node.inputs) or type(op.core_op).make_thunk not in PLAIN_THUNKS:
        return None
    if type(op.core_op) in ONE and _is_for_lapack(node.inputs):
        one = of_one(op.core_op)
    else:
        core = op._create_dummy_core_node(node.inputs, propagate_unbatched_core_inputs=True)
        one = Performed(core.op, core)
    repeated, dtype = [n < size for n in lengths], _dtype(node.outputs[0])

    def each(*arrays: Any) -> Any:
        parts = [[a[0]] * size if again else a for a, again in zip(arrays, repeated)]
        return _stacked([one(*matrices) for matrices in zip(*parts)], dtype)

    return each


def _picked(core: AdvancedSubtensor, node: Any, known: Known) -> Step | None:
    """The same known entries of each array of a batch."""
    indices = _indices(node.inputs[1:], known)
    if indices is None or any(len(i) != 1 for i in indices):
        return None
    places = unflatten_index_variables([i[0] for i in indices], core.idx_list)
    if not all(isinstance(p, np.ndarray) for p in places):  # with slices between them axes change places
        return None
    index = (slice(None), *places)
    return lambda x, *_: x[index]


def _on_diagonals(core: AllocDiag, node: Any, known: Known) -> Step | None:
    """Matrices of zeros with the vectors of a batch on their diagonals."""
    n, dtype = node.inputs[0].type.shape[1], _dtype(node.inputs[0])
    if core.offset or n is None:
        return None
    places = np.arange(n)
    return lambda x: unrolled.put(np.zeros((len(x), n, n), dtype), (slice(None), places, places), x)


WHOLE: dict[type, Callable[[Any, Any, Known], Step | None]] = {AdvancedSubtensor: _picked, AllocDiag: _on_diagonals}
