"""Numpy functions of a few numbers, written out number by number as plain Python.

A numpy call takes a microsecond however few numbers it works on, and a product of two Python floats thirty
nanoseconds. `Unrolled` calls a function once with arrays that note what is done to each of their numbers (`Traced`),
and writes that down as one function. What only moves numbers about (indexing, stacking, transposing) costs nothing
then; constants are folded; what no result needs is left out.

The function that comes out gives the same numbers to rounding, or hands over to the one it was made from: where a
number leaves the range of floats (division by 0, log of a negative, overflow), where a result is not finite, and where
a matrix has no Cholesky factor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from emppl.unrolled.tracing import Number, Tape, Traced, add_at, by_number, cholesky, put, solve_triangular

__all__ = ["MOST_OPERATIONS", "Unrolled", "add_at", "by_number", "cholesky", "put", "solve_triangular", "written_out"]

MOST_ARGUMENTS = 256  # numbers
MOST_OPERATIONS = 2000
WORTH = 16  # operations on plain numbers that take as long as a call of numpy
DEEPEST = 40  # brackets within each other
AGREES = 1e-9  # relative difference from the function that was written out, of its largest number


class Unrolled:
    """A function of arrays that answers by plain arithmetic wherever that is sooner and can be.

    function: of arrays or traced ones, gives an array or a list of arrays and asks for no condition on their values.
    otherwise: the same of arrays alone (None: the function itself); gives None where there is no answer. The two are
    compared at the first arrays that plain numbers can do; so what is answered never depends on what was asked before.
    like: gives the first of several results alone, and is compared with instead: for an `otherwise` that is made at its
    first call, and dear to make: what is too long for plain numbers becomes machine code then.
    """

    def __init__(
        self, function: Callable[..., Any], otherwise: Callable[..., Any] | None = None,
        like: Callable[..., Any] | None = None,
    ) -> None:  # fmt: skip
        self.function, self.otherwise, self.like = function, otherwise or function, like
        self._run: Callable[..., Any] = self._begin

    def __call__(self, *arrays: np.ndarray) -> Any:
        return self._run(*arrays)

    @property
    def is_plain(self) -> bool:
        """Whether plain numbers answer, as far as they can."""
        return self._run not in (self._begin, self.otherwise)

    def _begin(self, *arrays: np.ndarray) -> Any:
        evaluate = written_out(self.function, arrays)
        if evaluate is None and self.like is not None:
            evaluate = _by_machine(self.function, arrays)
        if evaluate is None:
            self._run = self.otherwise
            return self._run(*arrays)

        def answered(*arrays: np.ndarray) -> Any:
            found = evaluate(*arrays)
            return self.otherwise(*arrays) if found is None else found

        def compared(*arrays: np.ndarray) -> Any:
            found, expected = evaluate(*arrays), (self.like or self.otherwise)(*arrays)
            if found is None or expected is None:
                return self.otherwise(*arrays)
            same = _agree(found if self.like is None else found[0], expected)
            self._run = answered if same else self.otherwise
            return found if same else self._run(*arrays)

        self._run = compared
        return compared(*arrays)


def _by_machine(function: Callable[..., Any], arrays: Sequence[np.ndarray]) -> Any:
    """A function of arrays of these shapes that gives a list, as machine code; None where it cannot be.

    It gives None where it has no answer, or none that is finite.
    """
    from emppl.unrolled.machine import Untraceable, machine_code  # LLVM, which a small model need not wait for

    shapes = [np.shape(a) for a in arrays]
    try:
        code = machine_code(function, shapes)
    except Untraceable:
        return None

    def evaluate(*arrays: np.ndarray) -> Any:
        found = code(*arrays) if [a.shape for a in arrays] == shapes else None
        return None if found is None or not all(np.isfinite(part).all() for part in found) else found

    return evaluate


def written_out(function: Callable[..., Any], arrays: Sequence[np.ndarray]) -> Any:
    """A function of arrays of these shapes as plain Python; None where it cannot be, or where that would take longer.

    It gives None where it has no answer.
    """
    if sum(a.size for a in arrays) > MOST_ARGUMENTS or any(a.dtype != np.float64 for a in arrays):
        return None
    tape = Tape()
    lines, traced = [], []
    for k, array in enumerate(arrays):
        ids = np.array([tape.add(Number(f"a{k}_{i}")) for i in range(np.size(array))], dtype=np.int64)
        traced.append(Traced(tape, ids.reshape(np.shape(array))))
        lines += _unpacked(k, np.shape(array))
    try:
        results = function(*traced)
        several = isinstance(results, list | tuple)
        outputs = [(tape.ids(r), r) for r in (results if several else [results])]
    except Exception:  # stand-ins for numbers can fail wherever numbers would not; the function stays as it is
        return None
    scope = vars(math) | {"array": np.array}
    places = [ids for ids, r in outputs if isinstance(r, Traced)]
    written, texts, count = _spelled(tape, [int(i) for ids in places for i in ids.ravel()])
    if count > min(MOST_OPERATIONS, WORTH * tape.calls):
        return None
    lines += written
    answers, sums = [], []
    for k, (ids, result) in enumerate(outputs):
        if not isinstance(result, Traced):
            scope[f"k{k}"] = np.array(result)
            answers.append(f"array(k{k})")
        elif not ids.ndim:
            lines.append(f"r{k} = {texts[int(ids)]}")
            sums.append(f"r{k}")
            answers.append(f"array(r{k})")
        else:
            numbers = ids.ravel().tolist()
            lines.append(f"r{k} = [{', '.join(texts[i] for i in numbers)}]")
            sums.append(_sum_of(f"r{k}", [tape.numbers[i] for i in numbers]))
            answers.append(f"array(r{k})" + (f".reshape{ids.shape}" if ids.ndim > 1 else ""))
    conditions = [texts[i] for i in tape.conditions]
    conditions.append(f"isfinite({' + '.join(sums) or '0.0'})")
    names = ", ".join(f"a{k}" for k in range(len(arrays)))
    source = "\n".join(
        [
            f"def evaluate({names}):",
            "    try:",
            *(f"        {line}" for line in lines),
            f"        if {' and '.join(conditions)}:",
            f"            return {'[' + ', '.join(answers) + ']' if several else answers[0]}",
            "    except (ArithmeticError, ValueError):",
            "        pass",
            "    return None",
        ]
    )
    exec(compile(source, "<unrolled function>", "exec"), scope)
    return scope["evaluate"]


def _unpacked(k: int, shape: tuple[int, ...]) -> list[str]:
    """The line that gives the numbers of an argument their names; arrays of another shape fail there."""
    names = [f"a{k}_{i}" for i in range(int(np.prod(shape)))]
    if not names:
        return []
    if not shape:
        return [f"{names[0]} = a{k}.item()"]
    if len(shape) == 1:
        return [f"{', '.join(names)}, = a{k}.tolist()"]
    if len(shape) > 2:
        return [f"{', '.join(names)}, = a{k}.reshape({len(names)}).tolist()"]
    width = shape[1]
    rows = [names[i : i + width] for i in range(0, len(names), width)]
    return [f"{', '.join('(' + ', '.join(row) + ',)' for row in rows)}, = a{k}.tolist()"]


def _sum_of(name: str, numbers: list[Number]) -> str:
    """The sum of a list's numbers, to be finite; those that are infinite whatever the arguments stand aside."""
    known = [k for k, number in enumerate(numbers) if number.value is None or math.isfinite(number.value)]
    return f"sum({name})" if len(known) == len(numbers) else f"sum(({''.join(f'{name}[{k}], ' for k in known)}))"


def _spelled(tape: Tape, results: list[int]) -> tuple[list[str], dict[int, str], int]:
    """(lines, the expression of each number that stands in results or conditions, how many operations)."""
    uses: dict[int, int] = {}
    todo = [*results, *tape.conditions]
    for i in todo:
        uses[i] = uses.get(i, 0) + 1
    live = set()
    while todo:
        i = todo.pop()
        if i in live:
            continue
        live.add(i)
        number = tape.numbers[i]
        for place, operand in enumerate(number.operands):
            uses[operand] = uses.get(operand, 0) + (number.text.count(f"{{{place}}}") or 1)
            todo.append(operand)
    lines: list[str] = []
    texts: dict[int, str] = {}
    depth: dict[int, int] = {}
    count = 0
    for i in sorted(live):
        number = tape.numbers[i]
        if not number.operands:
            texts[i], depth[i] = number.text, 0
            continue
        count += 1
        text = number.text.format(*(texts[j] for j in number.operands))
        depth[i] = 1 + max(depth[j] for j in number.operands)
        if uses[i] == 1 and depth[i] < DEEPEST:
            texts[i] = f"({text})"
        else:
            lines.append(f"x{i} = {text}")
            texts[i], depth[i] = f"x{i}", 0
    return lines, texts, count


def _agree(results: Any, expected: Any) -> bool:
    """Whether arrays, or lists of them, hold the same numbers to rounding."""
    if isinstance(expected, list | tuple):
        return len(results) == len(expected) and all(_agree(*pair) for pair in zip(results, expected))
    found, wanted = np.asarray(results), np.asarray(expected)
    room = AGREES * np.abs(wanted[np.isfinite(wanted)]).max(initial=0.0)
    return found.shape == wanted.shape and np.allclose(found, wanted, rtol=AGREES, atol=room, equal_nan=True)
