"""Numpy functions as machine code: traced number by number, and written out as instructions for LLVM.

Straight-line arithmetic needs none of what a compiler does about types and control flow: a thousand operations take
some hundredths of a second to become a function of two pointers, which any thread may call.
"""

from __future__ import annotations

import ctypes
import re
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property, lru_cache
from itertools import accumulate
from math import prod
from typing import Any

import numpy as np
import scipy.special

from emppl.unrolled.tracing import LOGICAL, Number, Spelling, Tape, Traced, Untraceable

MOST_NUMBERS = 60_000  # on a tape: beyond, reading the code takes longer than running it in arrays
OPTIMISED = 3000  # operations up to which registers are chosen with care, which takes ten times as long
IN_A_BLOCK = 400  # instructions; the time for a block grows faster than its length
INLINE = {"fabs", "sqrt"}  # instructions of every processor
KEPT = 16  # functions that are not compiled anew for the same code


@dataclass(frozen=True, eq=False)
class MachineCode:
    """int64 f(const double *inputs, double *outputs): 0, or 1 where there is no answer, as with a negative pivot.

    Inputs are the numbers of all arguments, outputs those of all results, one array after the other.
    """

    address: int
    shapes: tuple[tuple[int, ...], ...]  # of the results
    n_inputs: int
    operations: int
    owner: Any = field(repr=False)  # of the memory that the code is in

    @property
    def n_outputs(self) -> int:
        return sum(prod(shape) for shape in self.shapes)

    def __call__(self, *arrays: np.ndarray) -> list[np.ndarray] | None:
        """The results for one set of arguments, None where there is no answer."""
        given = np.concatenate([np.zeros(0), *(np.ravel(a) for a in arrays)])
        if len(given) != self.n_inputs:
            raise ValueError(f"{len(given)} numbers for {self.n_inputs} inputs")
        found = np.empty(self.n_outputs)
        failed = self._function(given.ctypes.data, found.ctypes.data)
        return None if failed else [found[part].reshape(shape) for part, shape in self._parts]

    def along(self, rows: np.ndarray) -> list[np.ndarray]:
        """The results [n, *shape] for rows of inputs [n, n_inputs]; nan where there is no answer."""
        rows, found = np.ascontiguousarray(rows, dtype=float), np.empty((len(rows), self.n_outputs))
        here, there = rows.ctypes.data, found.ctypes.data
        one, other = 8 * self.n_inputs, 8 * self.n_outputs
        for t in range(len(rows)):
            if self._function(here + t * one, there + t * other):
                found[t] = np.nan
        return [found[:, part].reshape(len(rows), *shape) for part, shape in self._parts]

    @cached_property
    def _function(self) -> Any:
        return ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p)(self.address)

    @cached_property
    def _parts(self) -> list[tuple[slice, tuple[int, ...]]]:
        ends = [0, *accumulate(prod(shape) for shape in self.shapes)]
        return [(slice(a, b), shape) for a, b, shape in zip(ends[:-1], ends[1:], self.shapes)]


def machine_code(function: Callable[..., Sequence[Any]], shapes: Sequence[tuple[int, ...]]) -> MachineCode:
    """A function of arrays of these shapes (doubles), which gives a list of arrays, as machine code.

    Raises Untraceable with the reason where it cannot be written down number by number, or is too long.
    """
    tape = Tape(_instruction, MOST_NUMBERS)
    arguments, start = [], 0
    for shape in shapes:
        stop = start + prod(shape)
        ids = [tape.add(Number(f"%a{i}")) for i in range(start, stop)]
        arguments.append(Traced(tape, np.array(ids, dtype=np.int64).reshape(shape)))
        start = stop
    try:
        results = [tape.ids(result) for result in function(*arguments)]
    except Exception as problem:  # stand-ins for numbers can fail wherever numbers would not
        reason = str(problem).partition("\n")[0]
        if not isinstance(problem, Untraceable):
            reason = f"{type(problem).__name__}: {reason}"
        raise Untraceable(reason or "a step that has no name") from None
    text, operations = _written(tape, start, [i for ids in results for i in ids.ravel().tolist()])
    address, owner = _compiled(text, operations <= OPTIMISED)
    return MachineCode(address, tuple(ids.shape for ids in results), start, operations, owner)


# -- instructions ------------------------------------------------------------------------------------------------------

# {r}: the result; names that begin with it are free for what comes in between. Comparisons with nan are false.
INSTRUCTIONS: dict[Any, Spelling] = {
    np.add: ("{r} = fadd double {0}, {1}", False),
    np.subtract: ("{r} = fsub double {0}, {1}", False),
    np.multiply: ("{r} = fmul double {0}, {1}", False),
    np.divide: ("{r} = fdiv double {0}, {1}", False),
    np.negative: ("{r} = fneg double {0}", False),
    np.reciprocal: ("{r} = fdiv double 1.0, {0}", False),
    scipy.special.expit: (
        "{r}n = fneg double {0}\n{r}e = call double @llvm.exp.f64(double {r}n)\n"
        "{r}s = fadd double 1.0, {r}e\n{r} = fdiv double 1.0, {r}s",
        False,
    ),
    np.sign: (
        "{r}p = fcmp ogt double {0}, 0.0\n{r}n = fcmp olt double {0}, 0.0\n"
        "{r}s = select i1 {r}n, double -1.0, double {0}\n{r} = select i1 {r}p, double 1.0, double {r}s",
        False,
    ),
    np.less: ("{r} = fcmp olt double {0}, {1}", True),
    np.less_equal: ("{r} = fcmp ole double {0}, {1}", True),
    np.greater: ("{r} = fcmp ogt double {0}, {1}", True),
    np.greater_equal: ("{r} = fcmp oge double {0}, {1}", True),
    np.equal: ("{r} = fcmp oeq double {0}, {1}", True),
    np.not_equal: ("{r} = fcmp une double {0}, {1}", True),
    np.isnan: ("{r} = fcmp uno double {0}, 0.0", True),
    np.logical_and: ("{r} = and i1 {0}, {1}", True),
    np.bitwise_and: ("{r} = and i1 {0}, {1}", True),
    np.logical_or: ("{r} = or i1 {0}, {1}", True),
    np.bitwise_or: ("{r} = or i1 {0}, {1}", True),
    np.logical_not: ("{r} = xor i1 {0}, true", True),
    np.invert: ("{r} = xor i1 {0}, true", True),
    np.where: ("{r} = select i1 {0}, {kind} {1}, {kind} {2}", False),
}
for _name, _order in (("maximum", "ogt"), ("minimum", "olt")):
    _picked = "{r}c = fcmp " + _order + " double {0}, {1}\n{r}n = fcmp uno double {0}, 0.0\n{r}p = or i1 {r}c, {r}n\n"
    INSTRUCTIONS[getattr(np, _name)] = _picked + "{r} = select i1 {r}p, double {0}, double {1}", False
for _name, _order in (("isfinite", "olt"), ("isinf", "oeq")):
    _size = "{r}a = call double @llvm.fabs.f64(double {0})\n{r} = fcmp "
    INSTRUCTIONS[getattr(np, _name)] = _size + _order + " double {r}a, 0x7FF0000000000000", True
FUNCTIONS = {  # of LLVM, and of the C library
    "sqrt": "llvm.sqrt.f64", "exp": "llvm.exp.f64", "log": "llvm.log.f64", "log2": "llvm.log2.f64",
    "sin": "llvm.sin.f64", "cos": "llvm.cos.f64", "absolute": "llvm.fabs.f64", "fabs": "llvm.fabs.f64",
    "floor": "llvm.floor.f64", "ceil": "llvm.ceil.f64", "expm1": "expm1", "log1p": "log1p", "tanh": "tanh",
    "sinh": "sinh", "cosh": "cosh", "tan": "tan", "arctan": "atan", "arcsin": "asin", "arccos": "acos",
}  # fmt: skip
for _name, _function in FUNCTIONS.items():
    INSTRUCTIONS[getattr(np, _name)] = "{r} = call double @" + _function + "(double {0})", False
INSTRUCTIONS[np.power] = "{r} = call double @llvm.pow.f64(double {0}, double {1})", False


def _instruction(ufunc: Any) -> Spelling | None:
    return INSTRUCTIONS.get(ufunc) or _of_scipy(ufunc)


@cache
def _of_scipy(ufunc: Any) -> Spelling | None:
    """A call of a function of scipy.special, at the address that it has in this process."""
    name = getattr(ufunc, "__name__", "")
    if getattr(scipy.special, name, None) is not ufunc or not isinstance(ufunc, np.ufunc):
        return None
    from scipy.special import cython_special

    exported = cython_special.__pyx_capi__
    for candidate in (name, f"__pyx_fuse_1{name}", f"__pyx_fuse_0{name}"):
        capsule = exported.get(candidate)
        signature = re.fullmatch(r"double \(((?:double(?:, )?)+)(, int .*|int .*)?\)", _signature(capsule))
        if capsule is not None and signature and signature[1].count("double") == ufunc.nin:
            given = [f"double {{{i}}}" for i in range(ufunc.nin)] + ["i32 1"] * bool(signature[2])
            return f"{{r}} = call double inttoptr (i64 {_pointer(capsule)} to ptr)({', '.join(given)})", False
    return None


def _signature(capsule: Any) -> str:
    if capsule is None:
        return ""
    name = ctypes.pythonapi.PyCapsule_GetName
    name.restype, name.argtypes = ctypes.c_char_p, [ctypes.py_object]
    return str(name(capsule).decode())


def _pointer(capsule: Any) -> int:
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    return int(pointer(capsule, _signature(capsule).encode()))


def _written(tape: Tape, n_inputs: int, results: list[int]) -> tuple[str, int]:
    """The code of a function that stores these numbers, and how many operations it has."""
    live, todo = set(), [*results, *tape.conditions]
    while todo:
        i = todo.pop()
        if i not in live:
            live.add(i)
            todo += tape.numbers[i].operands
    lines, converted = [], set()

    def text(i: int, as_truth: bool) -> str:
        """A number as an operand, a truth value as 1 or 0 where numbers are wanted."""
        number = tape.numbers[i]
        if number.value is not None:
            value = number.value
            return str(bool(value)).lower() if as_truth else _hexadecimal(float(value))
        name = f"%x{i}" if number.operands else number.text
        if not number.truth or as_truth:
            return name
        if i not in converted:
            converted.add(i)
            lines.append(f"{name}.d = uitofp i1 {name} to double")
        return f"{name}.d"

    for i in range(n_inputs):
        lines.append(f"%i{i} = getelementptr double, ptr %inputs, i64 {i}")
        lines.append(f"%a{i} = load double, ptr %i{i}")
    count = 0
    for i in sorted(live):
        number = tape.numbers[i]
        if not number.operands:
            continue
        count += 1
        chosen, logical = number.ufunc is np.where, number.ufunc in LOGICAL
        truth = [logical or (chosen and (place == 0 or number.truth)) for place in range(len(number.operands))]
        operands = [text(j, t) for j, t in zip(number.operands, truth)]
        lines.append(number.text.format(*operands, r=f"%x{i}", kind="i1" if number.truth else "double"))
        if count % IN_A_BLOCK == 0:
            lines.append(f"br label %b{count}\nb{count}:")
    for k, i in enumerate(results):
        value = text(i, False)
        lines.append(f"%o{k} = getelementptr double, ptr %outputs, i64 {k}\nstore double {value}, ptr %o{k}")
    sound = "true"
    for k, i in enumerate(tape.conditions):
        lines.append(f"%s{k} = and i1 {sound}, {text(i, True)}")
        sound = f"%s{k}"
    lines.append(f"%failed = xor i1 {sound}, true\n%status = zext i1 %failed to i64\nret i64 %status")
    body = "\n".join(lines)
    called = {(m[1], m[2].count("double")) for m in re.finditer(r"call double @([\w.]+)\(([^)]*)\)", body)}
    declared = [f"declare double @{name}({', '.join(['double'] * arity)})\n" for name, arity in sorted(called)]
    head = "define i64 @evaluate(ptr noalias readonly %inputs, ptr noalias %outputs) {\nstart:\n"
    return f"{''.join(declared)}{head}{body}\n}}\n", count


def _hexadecimal(value: float) -> str:
    return f"0x{struct.unpack('>Q', struct.pack('>d', value))[0]:016X}"


def _of_c(name: str) -> int:
    """The address of a function of the C library, which LLVM finds by itself where other code has loaded it for it."""
    try:
        return int(ctypes.cast(getattr(ctypes.CDLL(None), name), ctypes.c_void_p).value or 0)
    except (AttributeError, OSError, TypeError):
        raise Untraceable(f"the C library has no {name}") from None


@lru_cache(KEPT)
def _compiled(text: str, optimised: bool) -> tuple[int, Any]:
    """(address of the function, owner of its memory)."""
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    for name in re.findall(r"declare double @(?:llvm\.)?(\w+)", text):
        if name not in INLINE and llvm.address_of_symbol(name) is None:  # LLVM would end the process
            llvm.add_symbol(name, _of_c(name))
    module = llvm.parse_assembly(text)
    module.verify()
    machine = llvm.Target.from_default_triple().create_target_machine(opt=1 if optimised else 0, jit=True)
    engine = llvm.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    return engine.get_function_address("evaluate"), engine
