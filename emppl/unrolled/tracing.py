"""Arrays that note what is done to each of their numbers: numpy works on them as on others.

What only moves numbers about (indexing, stacking, transposing) leaves no trace; constants are folded at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import scipy.special
from numpy.lib.mixins import NDArrayOperatorsMixin

MOST_NUMBERS = 8000  # on a tape, what no result needs included
Spelling = tuple[str, bool]  # the template of an operation, and whether it gives true or false


class Untraceable(Exception):
    """The function does something that cannot be written down number by number."""


class Number(NamedTuple):
    """One number of the function: `value` of a constant; else `text`, the template of an operation or a name."""

    text: str
    operands: tuple[int, ...] = ()
    value: float | bool | None = None
    truth: bool = False  # True or False
    ufunc: Any = None  # of which it is the result; `np.where` of a choice


class Tape:
    """All numbers of a function in the order in which they are made.

    spelling: the template of a ufunc, and of `np.where`, in the language that the tape is written out in; None where it
    has none. most: numbers that it may have.
    """

    def __init__(self, spelling: Callable[[Any], Spelling | None] | None = None, most: int = MOST_NUMBERS) -> None:
        self.spelling, self.most = spelling or PYTHON.get, most
        self.numbers: list[Number] = []
        self.known: dict[Number, int] = {}
        self.made: dict[tuple[Any, ...], int] = {}  # what came of an operation
        self.conditions: list[int] = []
        self.calls = 0  # of numpy, that are saved

    def add(self, number: Number) -> int:
        if number not in self.known:  # 0.0 and -0.0 are equal, but their texts are not
            if len(self.numbers) > self.most:
                raise Untraceable(f"more than {self.most:,} numbers")
            self.known[number] = len(self.numbers)
            self.numbers.append(number)
        return self.known[number]

    def constant(self, value: float | bool) -> int:
        return self.add(Number(_written(value), (), value, isinstance(value, bool)))

    def ids(self, array: Any) -> np.ndarray:
        """The numbers of an array, traced or known, as places on the tape."""
        if isinstance(array, Traced):
            return array.ids
        array = np.asarray(array)
        if array.dtype.kind not in "fiub" or array.size > self.most:
            raise Untraceable(f"an array of {array.size:,} numbers, {array.dtype}")
        values = array.ravel().tolist() if array.dtype.kind == "b" else array.ravel().astype(float).tolist()
        return np.array([self.constant(v) for v in values], dtype=np.int64).reshape(array.shape)

    def operation(self, ufunc: Any, *operands: int) -> int:
        """The result of a ufunc on numbers."""
        step = (ufunc, *operands)
        if step not in self.made:
            self.made[step] = self._operation(ufunc, *operands)
        return self.made[step]

    def _operation(self, ufunc: Any, *operands: int) -> int:
        if ufunc is np.square:
            return self.operation(np.multiply, *operands, *operands)
        parts = [self.numbers[i] for i in operands]
        values = [part.value for part in parts]
        if None not in values:
            with np.errstate(all="ignore"):
                return self.constant(ufunc(*values).item())
        if all(part.truth for part in parts):
            ufunc = OF_TRUTH.get(ufunc, ufunc)
            if ufunc not in LOGICAL and ufunc not in COMPARISONS:
                raise Untraceable(f"{ufunc.__name__} of truth values")
        elif ufunc in LOGICAL:
            raise Untraceable(f"{ufunc.__name__} of numbers")
        spelled = self.spelling(ufunc)
        if spelled is None:
            raise Untraceable(ufunc.__name__)
        if ufunc is np.power and values[1] == 2.0:
            return self.operation(np.multiply, operands[0], operands[0])
        for place, neutral in NEUTRAL.get(ufunc, ()):
            if values[place] == neutral and not parts[1 - place].truth:
                return operands[1 - place]
        if ufunc in COMMUTATIVE:
            operands = tuple(sorted(operands))
        template, truth = spelled
        return self.add(Number(template, operands, None, truth, ufunc))

    def chosen(self, condition: int, one: int, other: int) -> int:
        known = self.numbers[condition].value
        if known is not None:
            return one if known else other
        if not self.numbers[condition].truth:
            raise Untraceable
        if one == other:
            return one
        truth = self.numbers[one].truth and self.numbers[other].truth
        spelled = self.spelling(np.where)
        assert spelled is not None
        return self.add(Number(spelled[0], (condition, one, other), None, truth, np.where))

    def summed(self, terms: Sequence[int], ufunc: Any = np.add) -> int:
        total = terms[0]
        for term in terms[1:]:
            total = self.operation(ufunc, total, term)
        return total

    def dot(self, one: Sequence[int], two: Sequence[int]) -> int:
        """The sum of products of two rows of numbers."""
        products = [self.operation(np.multiply, a, b) for a, b in zip(one, two)]
        return self.summed(products) if products else self.constant(0.0)


def _written(value: float | bool) -> str:
    if isinstance(value, bool):
        return repr(value)
    text = repr(float(value))
    return f"({text})" if text.startswith("-") else text


# What each ufunc is in Python; nan is more and less than everything, as in numpy
PYTHON: dict[Any, Spelling] = {
    np.add: ("{} + {}", False),
    np.subtract: ("{} - {}", False),
    np.multiply: ("{} * {}", False),
    np.divide: ("{} / {}", False),
    np.negative: ("-{}", False),
    np.reciprocal: ("1.0 / {}", False),
    np.power: ("pow({}, {})", False),
    np.sqrt: ("sqrt({})", False),
    np.exp: ("exp({})", False),
    np.expm1: ("expm1({})", False),
    np.log: ("log({})", False),
    np.log1p: ("log1p({})", False),
    np.log2: ("log2({})", False),
    np.tanh: ("tanh({})", False),
    np.sinh: ("sinh({})", False),
    np.cosh: ("cosh({})", False),
    scipy.special.expit: ("1.0 / (1.0 + exp(-{}))", False),
    scipy.special.gammaln: ("lgamma({})", False),
    np.sign: ("1.0 if {0} > 0.0 else -1.0 if {0} < 0.0 else {0}", False),
    np.absolute: ("abs({})", False),
    np.fabs: ("abs({})", False),
    np.maximum: ("{0} if {0} > {1} or {0} != {0} else {1}", False),
    np.minimum: ("{0} if {0} < {1} or {0} != {0} else {1}", False),
    np.less: ("{} < {}", True),
    np.less_equal: ("{} <= {}", True),
    np.greater: ("{} > {}", True),
    np.greater_equal: ("{} >= {}", True),
    np.equal: ("{} == {}", True),
    np.not_equal: ("{} != {}", True),
    np.isnan: ("{0} != {0}", True),
    np.isinf: ("{0} == inf or {0} == -inf", True),
    np.isfinite: ("isfinite({})", True),
    np.logical_and: ("{} and {}", True),
    np.bitwise_and: ("{} and {}", True),
    np.logical_or: ("{} or {}", True),
    np.bitwise_or: ("{} or {}", True),
    np.logical_not: ("not {}", True),
    np.invert: ("not {}", True),
    np.where: ("{1} if {0} else {2}", False),
}
LOGICAL = {np.logical_and, np.bitwise_and, np.logical_or, np.bitwise_or, np.logical_not, np.invert}
COMPARISONS = {np.less, np.less_equal, np.greater, np.greater_equal, np.equal, np.not_equal}
OF_TRUTH = {  # what numpy makes of two truth values
    np.add: np.logical_or, np.maximum: np.logical_or, np.multiply: np.logical_and, np.minimum: np.logical_and,
}  # fmt: skip
COMMUTATIVE = {np.add, np.multiply}
NEUTRAL: dict[Any, tuple[tuple[int, float], ...]] = {  # (which operand, the value that leaves the other as it is)
    np.add: ((0, 0.0), (1, 0.0)),
    np.subtract: ((1, 0.0),),
    np.multiply: ((0, 1.0), (1, 1.0)),
    np.divide: ((1, 1.0),),
}
MOVERS = {  # functions that only move numbers about
    np.concatenate, np.stack, np.column_stack, np.hstack, np.vstack, np.transpose, np.matrix_transpose, np.reshape,
    np.ravel, np.diagonal, np.broadcast_to, np.swapaxes, np.moveaxis, np.expand_dims, np.squeeze, np.atleast_1d,
    np.atleast_2d, np.repeat, np.copy, np.take,
}  # fmt: skip


class Traced(NDArrayOperatorsMixin):
    """An array that stands for numbers on a tape: numpy works on it as on others, and each step is noted."""

    def __init__(self, tape: Tape, ids: Any) -> None:
        self.tape = tape
        self.ids = np.asarray(ids)
        if self.ids.dtype != np.int64:  # else some function has taken places for numbers
            raise Untraceable

    # -- as an array -------------------------------------------------------------------------------------------------

    shape = property(lambda self: self.ids.shape)
    ndim = property(lambda self: self.ids.ndim)
    size = property(lambda self: self.ids.size)
    T = property(lambda self: self._moved(self.ids.T))
    mT = property(lambda self: self._moved(self.ids.mT))

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Any:
        return (self._moved(part) for part in self.ids)

    def __getitem__(self, index: Any) -> Traced:
        return self._moved(self.ids[index])

    def __setitem__(self, index: Any, values: Any) -> None:
        self.ids[index] = self.tape.ids(values)

    def reshape(self, *shape: Any) -> Traced:
        return self._moved(self.ids.reshape(*shape))

    def transpose(self, *axes: Any) -> Traced:
        return self._moved(self.ids.transpose(*axes))

    def diagonal(self, *places: int) -> Traced:
        return self._moved(self.ids.diagonal(*places))

    def ravel(self) -> Traced:
        return self._moved(self.ids.ravel())

    def copy(self) -> Traced:
        return self._moved(self.ids.copy())

    def sum(self, axis: Any = None, keepdims: bool = False) -> Traced:
        self.tape.calls += 1
        return self._moved(_reduced(self.tape, np.add, self, axis, keepdims=keepdims))

    def mean(self, axis: int, keepdims: bool = False) -> Any:
        return self.sum(axis, keepdims) / self.shape[axis]

    def astype(self, dtype: Any) -> Traced:
        """True and false become 1 and 0, in whole numbers too; numbers become nothing but floats."""
        tape, flat = self.tape, self.ids.ravel().tolist()
        truth = all(tape.numbers[i].truth for i in flat)
        if np.dtype(dtype) == np.bool_ and truth:
            return self.copy()
        if np.dtype(dtype) != np.float64 and not (truth and np.dtype(dtype).kind in "iuf"):
            raise Untraceable(f"numbers as {np.dtype(dtype)}")
        one, zero = tape.constant(1.0), tape.constant(0.0)
        numbers = [tape.chosen(i, one, zero) if tape.numbers[i].truth else i for i in flat]
        return self._moved(np.array(numbers, dtype=np.int64).reshape(self.shape))

    def _unknown(self, *_: Any) -> Any:
        raise Untraceable("a step that depends on values")

    __bool__ = __float__ = __int__ = __index__ = __array__ = _unknown

    def _moved(self, ids: Any) -> Traced:
        return Traced(self.tape, ids)

    # -- what numpy does with it ---------------------------------------------------------------------------------------

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, out: Any = None, **options: Any) -> Any:
        self.tape.calls += 1
        if method == "__call__" and not options:
            ids = _matmul(self.tape, *inputs) if ufunc is np.matmul else _elementwise(self.tape, ufunc, inputs)
        elif method == "reduce":
            ids = _reduced(self.tape, ufunc, *inputs, **options)
        elif method == "at" and ufunc is np.add:
            whole, index, values = inputs
            whole.ids[...] = add_at(whole, index, values).ids
            return None
        else:
            raise Untraceable
        if out is None:
            return self._moved(ids)
        (target,) = out
        if not isinstance(target, Traced):
            raise Untraceable
        target.ids[...] = ids
        return target

    def __array_function__(self, function: Any, types: Any, arguments: Any, options: Any) -> Any:
        if function in (np.shape, np.ndim, np.size):
            return function(arguments[0].ids)
        self.tape.calls += 1
        if function in MOVERS:
            first, *others = arguments
            several = isinstance(first, list | tuple)
            places = [self.tape.ids(a) for a in first] if several else self.tape.ids(first)
            dtype = options.get("dtype")  # of the numbers, not of their places
            moved = self._moved(function(places, *others, **{k: v for k, v in options.items() if k != "dtype"}))
            return moved if dtype is None else moved.astype(dtype)
        if function not in FUNCTIONS or options:
            raise Untraceable(function.__name__)
        return self._moved(FUNCTIONS[function](self.tape, *arguments))


def _each(tape: Tape, function: Callable[..., int], inputs: Sequence[Any]) -> np.ndarray:
    """A function of numbers, for each place of arrays that are broadcast together."""
    together = np.broadcast_arrays(*[tape.ids(x) for x in inputs])
    flat = [part.ravel().tolist() for part in together]
    return np.array([function(*numbers) for numbers in zip(*flat)], dtype=np.int64).reshape(together[0].shape)


def _elementwise(tape: Tape, ufunc: Any, inputs: Sequence[Any]) -> np.ndarray:
    return _each(tape, partial(tape.operation, ufunc), inputs)


def _reduced(
    tape: Tape, ufunc: Any, x: Any, axis: Any = 0, dtype: Any = None, keepdims: bool = False, initial: Any = None
) -> np.ndarray:
    ids = tape.ids(x)
    if initial is not None:
        raise Untraceable("a reduction with an initial value")
    if dtype is None:
        _of_numbers(tape, ufunc, ids)
    elif np.dtype(dtype) != np.bool_:
        ids = Traced(tape, ids).astype(dtype).ids  # so that truth values are counted
    axes = tuple(range(ids.ndim)) if axis is None else tuple(np.atleast_1d(axis) % max(ids.ndim, 1))
    kept = [a for a in range(ids.ndim) if a not in axes]
    shape = [ids.shape[a] for a in kept]
    rows = ids.transpose(*kept, *axes).reshape(int(np.prod(shape)), -1)
    if not rows.shape[1]:
        raise Untraceable
    answer = np.array([tape.summed(row, ufunc) for row in rows.tolist()], dtype=np.int64).reshape(shape)
    return np.expand_dims(answer, axes) if keepdims else answer


def _of_numbers(tape: Tape, ufunc: Any, ids: np.ndarray) -> None:
    """Refuse sums of truth values, which numpy makes whole numbers."""
    if ufunc in (np.add, np.multiply) and any(tape.numbers[i].truth for i in ids.ravel().tolist()):
        raise Untraceable("truth values counted")


def _dot(tape: Tape, one: Any, two: Any) -> np.ndarray:
    a, b = tape.ids(one), tape.ids(two)
    if not a.ndim or not b.ndim:
        return _elementwise(tape, np.multiply, (one, two))
    columns = b[:, None] if b.ndim == 1 else b
    if a.shape[-1] != columns.shape[-2]:
        raise Untraceable
    columns = np.moveaxis(columns, -2, -1)
    shape = (*a.shape[:-1], *(columns.shape[:-1] if b.ndim > 1 else ()))
    products = [[tape.dot(r, c) for c in _rows(columns)] for r in _rows(a)]
    return np.array(products, dtype=np.int64).reshape(shape)


def _accumulated(tape: Tape, x: Any, axis: int | None, ufunc: Any) -> np.ndarray:
    ids = tape.ids(x)
    _of_numbers(tape, ufunc, ids)
    ids = ids.ravel() if axis is None else np.moveaxis(ids, axis, -1)
    rows = [list(accumulate(row, partial(tape.operation, ufunc))) for row in _rows(ids)]
    return np.moveaxis(np.array(rows, dtype=np.int64).reshape(ids.shape), -1, -1 if axis is None else axis)


def _rows(ids: np.ndarray) -> list[list[int]]:
    return ids.reshape(-1, ids.shape[-1]).tolist()


def _matmul(tape: Tape, one: Any, two: Any) -> np.ndarray:
    a, b = tape.ids(one), tape.ids(two)
    if a.ndim < 2 or b.ndim < 2:
        return _dot(tape, one, two)
    batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    a, b = np.broadcast_to(a, (*batch, *a.shape[-2:])), np.broadcast_to(b, (*batch, *b.shape[-2:]))
    parts = [_dot(tape, Traced(tape, a[place]), Traced(tape, b[place])) for place in np.ndindex(*batch)]
    return np.array(parts, dtype=np.int64).reshape(*batch, a.shape[-2], b.shape[-1])


def _where(tape: Tape, condition: Any, one: Any, other: Any) -> np.ndarray:
    return _each(tape, tape.chosen, (condition, one, other))


def _cholesky(tape: Tape, matrices: Any) -> np.ndarray:
    """Lower factors; the lower triangle alone is read."""
    a = tape.ids(matrices)
    factors = np.full(a.shape, tape.constant(0.0))
    for place in np.ndindex(*a.shape[:-2]):
        given, factor = a[place], factors[place]
        for j in range(len(given)):
            for i in range(j, len(given)):
                left = int(given[i, j])
                if j:
                    left = tape.operation(np.subtract, left, tape.dot(factor[i, :j].tolist(), factor[j, :j].tolist()))
                if i == j:
                    tape.conditions.append(tape.operation(np.greater, left, tape.constant(0.0)))
                    factor[i, j] = tape.operation(np.sqrt, left)
                else:
                    factor[i, j] = tape.operation(np.divide, left, int(factor[j, j]))
    return factors


def _solve_triangular(tape: Tape, matrices: Any, right: Any, lower: bool, unit: bool) -> np.ndarray:
    a, b = tape.ids(matrices), tape.ids(right)
    zero = tape.constant(0.0)
    batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    a, b = np.broadcast_to(a, (*batch, *a.shape[-2:])), np.broadcast_to(b, (*batch, *b.shape[-2:]))
    answer = np.empty(b.shape, dtype=np.int64)
    for place in np.ndindex(*batch):
        matrix, wanted, x = a[place], b[place], answer[place]
        rows = range(len(matrix)) if lower else range(len(matrix) - 1, -1, -1)
        for column in range(wanted.shape[1]):
            for i in rows:
                left = int(wanted[i, column])
                for j in range(i) if lower else range(i + 1, len(matrix)):
                    if x[j, column] != zero:  # as LAPACK leaves them out
                        step = tape.operation(np.multiply, int(matrix[i, j]), int(x[j, column]))
                        left = tape.operation(np.subtract, left, step)
                x[i, column] = left if unit or left == zero else tape.operation(np.divide, left, int(matrix[i, i]))
    return answer


FUNCTIONS: dict[Any, Callable[..., np.ndarray]] = {
    np.where: _where,
    np.dot: _dot,
    np.sum: lambda tape, x, axis=None: _reduced(tape, np.add, x, axis),
    np.cumsum: lambda tape, x, axis=None: _accumulated(tape, x, axis, np.add),
    np.cumprod: lambda tape, x, axis=None: _accumulated(tape, x, axis, np.multiply),
    np.linalg.cholesky: _cholesky,
    np.ones_like: lambda tape, x: np.full(x.shape, tape.constant(1.0)),
    np.zeros_like: lambda tape, x: np.full(x.shape, tape.constant(0.0)),
}


# -- steps on traced arrays that numpy has no name for -----------------------------------------------------------------


def tape_of(*arrays: Any) -> Tape | None:
    """The tape of the first traced array, None where all are known."""
    return next((a.tape for a in arrays if isinstance(a, Traced)), None)


def solve_triangular(a: Any, b: Any, lower: bool, unit: bool) -> Any:
    """x [..., D, M] with a x = b, for triangular matrices a [..., D, D] (unit: with ones for a diagonal)."""
    tape = tape_of(a, b)
    if tape is None:
        raise Untraceable
    tape.calls += len(a)
    return Traced(tape, _solve_triangular(tape, a, b, lower, unit))


def cholesky(a: Any, lower: bool) -> Any:
    """Cholesky factors of matrices [..., D, D], of which one triangle is read."""
    tape = tape_of(a)
    if tape is None:
        raise Untraceable
    tape.calls += len(a)
    factor = _cholesky(tape, a if lower else a.mT)
    return Traced(tape, factor if lower else factor.mT)


def put(whole: Any, index: Any, values: Any) -> Any:
    """A copy of an array with the entries `index` set; traced or not."""
    tape = tape_of(whole, values)
    answer: Any = np.array(whole) if tape is None else Traced(tape, tape.ids(whole).copy())
    answer[index] = values
    if tape is not None:
        tape.calls += 1
    return answer


def by_number(function: Callable[..., Any], _: Any, inputs: Sequence[Any], outputs: list[list[Any]]) -> None:
    """As the `perform` of an elementwise node: a function of single numbers on each place of traced arrays."""
    tape = tape_of(*inputs)
    if tape is None:
        raise Untraceable

    def one(*numbers: int) -> int:
        return int(tape.ids(function(*(Traced(tape, np.int64(i)) for i in numbers))))

    outputs[0][0] = Traced(tape, _each(tape, one, inputs))


def add_at(whole: Any, index: Any, values: Any) -> Any:
    """A copy of an array with values added to the entries `index`, which may name some of them twice; traced or not."""
    tape = tape_of(whole, values)
    if tape is None:
        answer = np.array(whole)
        np.add.at(answer, index, values)
        return answer
    ids = tape.ids(whole).copy()
    places = np.arange(ids.size).reshape(ids.shape)[index]
    for place, value in zip(places.ravel(), np.broadcast_to(tape.ids(values), places.shape).ravel()):
        ids.flat[place] = tape.operation(np.add, int(ids.flat[place]), int(value))
    tape.calls += 1
    return Traced(tape, ids)
