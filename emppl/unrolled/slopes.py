"""Derivatives of traced numbers, by going backwards over the tape that they are on.

What PyTensor derives is a graph of its own, which takes several times as long to rewrite as the graph that it is the
derivative of. Number by number the derivative of a graph that has been rewritten already is there at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import scipy.special
from numpy.lib.mixins import NDArrayOperatorsMixin

from emppl.unrolled.tracing import COMPARISONS, LOGICAL, Tape, Traced, Untraceable

PASSES = 3  # over the operations of a function that its value and its derivative take


def with_slope(function: Callable[..., Any]) -> Callable[..., list[Any]]:
    """A function of traced arrays that gives a number, as one that gives that and its derivative by the first array.

    Raises Untraceable where an operation on the way has no rule.
    """

    def both(*arrays: Traced) -> list[Any]:
        x = arrays[0]
        tape = x.tape
        value = function(*arrays)
        (result,) = tape.ids(value).ravel().tolist()
        slope = pulled_back(tape, result, x.ids.ravel().tolist())
        tape.calls *= PASSES
        return [value, Traced(tape, np.array(slope, dtype=np.int64).reshape(x.shape))]

    return both


class _On(NDArrayOperatorsMixin):
    """One number on a tape."""

    def __init__(self, tape: Tape, number: int) -> None:
        self.tape, self.number = tape, number

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any) -> _On:
        return _On(self.tape, self.tape.operation(ufunc, *(self._place(x) for x in inputs)))

    def chosen(self, one: Any, other: Any) -> _On:
        """One of two where this is true, the other where it is not."""
        return _On(self.tape, self.tape.chosen(self.number, self._place(one), self._place(other)))

    def _place(self, x: Any) -> int:
        return x.number if isinstance(x, _On) else self.tape.constant(float(x))


FLAT = COMPARISONS | LOGICAL | {np.sign, np.isnan, np.isinf, np.isfinite, np.floor, np.ceil}
OF_ERF = 2.0 / np.sqrt(np.pi)
# What each operand of r = ufunc(x, …) is given of the derivative d by r
RULES: dict[Any, Callable[..., Sequence[_On]]] = {
    np.add: lambda d, r, x, y: (d, d),
    np.subtract: lambda d, r, x, y: (d, -d),
    np.multiply: lambda d, r, x, y: (d * y, d * x),
    np.divide: lambda d, r, x, y: (d / y, -(d / y) * r),
    np.negative: lambda d, r, x: (-d,),
    np.reciprocal: lambda d, r, x: (-d * r * r,),
    np.power: lambda d, r, x, y: (d * y * x ** (y - 1.0), d * r * np.log(x)),
    np.sqrt: lambda d, r, x: (0.5 * d / r,),
    np.exp: lambda d, r, x: (d * r,),
    np.expm1: lambda d, r, x: (d * np.exp(x),),
    np.log: lambda d, r, x: (d / x,),
    np.log1p: lambda d, r, x: (d / (1.0 + x),),
    np.log2: lambda d, r, x: (d / (x * np.log(2.0)),),
    np.tanh: lambda d, r, x: (d * (1.0 - r * r),),
    np.sinh: lambda d, r, x: (d * np.cosh(x),),
    np.cosh: lambda d, r, x: (d * np.sinh(x),),
    np.sin: lambda d, r, x: (d * np.cos(x),),
    np.cos: lambda d, r, x: (-d * np.sin(x),),
    np.arctan: lambda d, r, x: (d / (1.0 + x * x),),
    np.absolute: lambda d, r, x: (d * np.sign(x),),
    np.fabs: lambda d, r, x: (d * np.sign(x),),
    np.maximum: lambda d, r, x, y: ((x > y).chosen(d, 0.0), (x > y).chosen(0.0, d)),
    np.minimum: lambda d, r, x, y: ((x < y).chosen(d, 0.0), (x < y).chosen(0.0, d)),
    np.where: lambda d, r, c, x, y: (d, c.chosen(d, 0.0), c.chosen(0.0, d)),
    scipy.special.expit: lambda d, r, x: (d * r * (1.0 - r),),
    scipy.special.gammaln: lambda d, r, x: (d * scipy.special.psi(x),),
    scipy.special.erf: lambda d, r, x: (d * OF_ERF * np.exp(-x * x),),
    scipy.special.erfc: lambda d, r, x: (-d * OF_ERF * np.exp(-x * x),),
    scipy.special.erfcx: lambda d, r, x: (d * (2.0 * x * r - OF_ERF),),
    scipy.special.i0: lambda d, r, x: (d * scipy.special.i1(x),),
    scipy.special.i0e: lambda d, r, x: (d * (scipy.special.i1e(x) - np.sign(x) * r),),
}


LINEAR = {np.add, np.subtract, np.negative}


def pulled_back(tape: Tape, result: int, inputs: Sequence[int]) -> list[int]:
    """The derivatives of a number by others that it may hang on, as numbers on the tape as well."""
    depends = [False] * len(tape.numbers)
    for i in inputs:
        depends[i] = True
    for i, number in enumerate(tape.numbers):
        depends[i] = depends[i] or any(depends[j] for j in number.operands)
    of_result = {result: _On(tape, tape.constant(1.0))} if depends[result] else {}
    for i in range(result, -1, -1):
        number = tape.numbers[i]
        if i not in of_result or not number.operands or number.ufunc in FLAT:
            continue
        for j, share in zip(number.operands, _shares(tape, i, of_result[i])):
            if depends[j] and not tape.numbers[j].truth:
                of_result[j] = of_result[j] + share if j in of_result else share
    zero = tape.constant(0.0)
    return [of_result[i].number if i in of_result else zero for i in inputs]


def _shares(tape: Tape, i: int, d: _On) -> Sequence[_On]:
    """What each operand of number i is given of the derivative d by it.

    Where two branches met, the one that is not chosen is given 0, though it may be infinite: 0 / 0 would be no number.
    """
    number, slope = tape.numbers[i], tape.numbers[d.number]
    if number.ufunc not in RULES:
        raise Untraceable(f"the derivative of {getattr(number.ufunc, '__name__', number.ufunc)}")
    if slope.ufunc is np.where and number.ufunc not in LINEAR:
        condition, one, other = (_On(tape, j) for j in slope.operands)
        if tape.numbers[other.number].value == 0.0:
            return [condition.chosen(share, 0.0) for share in _shares(tape, i, one)]
        if tape.numbers[one.number].value == 0.0:
            return [condition.chosen(0.0, share) for share in _shares(tape, i, other)]
    return RULES[number.ufunc](d, _On(tape, i), *(_On(tape, j) for j in number.operands))
