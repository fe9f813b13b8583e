"""The log posterior of a sampler and its gradient as a C function: machine code of a model between compiled passes.

The compiled code is the same for all models and kept on disk. What belongs to a model comes as records of addresses and
sizes, machine code of its terms and of the gradient of the expected log joint among them. All that a call computes
stands in one array of its own, so that several threads may call at once:
the log density, then inputs of the slope, terms, and room for passes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numba import carray, types
from numba.core.ccallback import CFunc
from numba.core.sigutils import normalize_signature
from numba.extending import intrinsic

from emppl.kernels.caching import CheckedCache, code_key, jit
from emppl.kernels.elimination import elimination_loop
from emppl.kernels.shares import FAST, LOWEST, log_sum, softmax

# What ends with _at is an address, 0 where there is nothing; places are those in the array of a call, -1 where there is
# none; all else is a number of things.
PLATE = np.dtype(
    [
        (name, np.int64)
        for name in (
            "pass_at",  # of a C function of this record and the array of a call
            "configurations", "statistics", "members", "columns",  # J, F, C, D
            "eta", "table",  # places of [J, F] and [J, C]
            "expected", "responsibilities",  # places of [J, F] and [C, J]
            "room",  # place of a log joint [J, C] and three rows more; of a tied plate that of its leaves [C, J]
            "base_at",  # what all members add to the log-likelihood
            "weights_at", "weights",
            "dense_at",  # statistics [F, C]
            "extra_at",  # a log density [J, C] that does not depend on parameters
            "z_at", "single_at", "singles", "left_at", "right_at", "pairs", "position_at",  # as in `compiled.marginal`
        )
    ]
)  # fmt: skip
MODEL = np.dtype(
    [
        (name, np.int64)
        for name in (
            "dimension",  # P
            "size",  # of the array of a call
            "inputs", "terms",  # places
            "direct",  # place of the log density of all that depends on no latent, with the Jacobian
            "terms_at",  # of u [P]: eta, and a table, of each plate, then `direct`
            "slope_at",  # of u, expected statistics of plates, responsibilities of those with a table: gradient [P]
            "plates_at", "plates",
            "tied_at",  # of a C function of this record and the array of a call
            "leaf", "leaves",  # place and size of the log joints of tied plates; the others: see `kernels.elimination`
            "steps_at", "steps", "sources_at", "sources", "outputs_at", "outputs", "roots_at", "roots", "entries_at",
        )
    ]
)  # fmt: skip
BAD_ARGUMENT, NO_ANSWER, NOT_FINITE = -1, 3, 4  # to a sampler the first is an error, the others are a divergence


@intrinsic
def _pointer(_: Any, address: Any) -> Any:
    """A pointer from an address."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(types.voidptr))

    return types.voidptr(types.int64), code


@intrinsic
def _call(_: Any, function: Any, one: Any, two: Any) -> Any:
    """int64 function(void *, void *), all three given as addresses."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        from llvmlite import ir

        pointer = context.get_value_type(types.voidptr)
        kind = ir.FunctionType(ir.IntType(64), [pointer, pointer])
        return builder.call(
            builder.inttoptr(arguments[0], kind.as_pointer()), [builder.inttoptr(a, pointer) for a in arguments[1:]]
        )

    return types.int64(types.int64, types.int64, types.int64), code


@jit()
def _row(address: int, place: int, size: int) -> Any:
    return carray(_pointer(address + 8 * place), (size,), np.float64)


@jit()
def _table(address: int, place: int, rows: int, columns: int) -> Any:
    return carray(_pointer(address + 8 * place), (rows, columns), np.float64)


@jit()
def _places(address: int, size: int) -> Any:
    return carray(_pointer(address), (size,), np.int64)


# -- passes: C functions of a plate (or a model) and the array of a call -----------------------------------------------


@jit(fastmath=FAST)
def _log_joint(plate: Any, call: int, joint: Any) -> int:
    """Fill in a log joint [J, C]; not 0 where parameters are no numbers."""
    eta = _table(call, plate.eta, plate.configurations, plate.statistics)
    t = _table(plate.dense_at, 0, plate.statistics, plate.members)
    for j in range(plate.configurations):
        row = joint[j]
        row[:] = 0.0
        if plate.table >= 0:
            entries = _row(call, plate.table + j * plate.members, plate.members)
            for c in range(len(row)):
                if not entries[c] < np.inf:
                    return 1
                row[c] = max(entries[c], LOWEST)
        if plate.extra_at:
            extra = _row(plate.extra_at, j * plate.members, plate.members)
            for c in range(len(row)):
                row[c] += extra[c]
        for f in range(plate.statistics):
            e, column = eta[j, f], t[f]
            if e == -np.inf:  # a log of zero is harmless where the count is zero
                for c in range(len(row)):
                    row[c] += LOWEST if column[c] != 0.0 else 0.0
            elif not np.isfinite(e):
                return 1
            else:
                for c in range(len(row)):
                    row[c] += e * column[c]
    return 0


@jit(fastmath=FAST)
def _sums(plate: Any, call: int, r: Any) -> None:
    """What the slope wants of responsibilities [J, C]."""
    expected = _table(call, plate.expected, plate.configurations, plate.statistics)
    t = _table(plate.dense_at, 0, plate.statistics, plate.members)
    for j in range(plate.configurations):
        row = r[j]
        for f in range(plate.statistics):
            total, column = 0.0, t[f]
            for c in range(len(row)):
                total += row[c] * column[c]
            expected[j, f] = total
    if plate.responsibilities >= 0:
        shares = _table(call, plate.responsibilities, plate.members, plate.configurations)
        for j in range(plate.configurations):
            for c in range(plate.members):
                shares[c, j] = r[j, c]


def _few(plate_at: Any, call_at: Any) -> Any:
    """Independent members with their statistics written down."""
    plate, call = carray(_pointer(plate_at), (1,), PLATE)[0], call_at
    size, n = plate.configurations, plate.members
    joint = _table(call, plate.room, size, n)
    rest = plate.room + size * n
    peak, scale, inverse = _row(call, rest, n), _row(call, rest + n, n), _row(call, rest + 2 * n, n)
    if _log_joint(plate, call, joint):
        return 1
    softmax(joint, n, peak, scale, inverse)
    if plate.weights:
        weights, total = _row(plate.weights_at, 0, n), 0.0
        for c in range(n):
            if weights[c] > 0.0:
                total += weights[c] * (peak[c] + np.log(scale[c]))
            for j in range(size):
                joint[j, c] *= weights[c]
    else:
        total = log_sum(peak, scale, n)
    _row(call, 0, 1)[0] += total
    _sums(plate, call, joint)
    return 0


def _of_many() -> Callable[..., Any]:
    from emppl.kernels.compiled import marginal

    def many(plate_at: Any, call_at: Any) -> Any:
        """Independent members in natural form, whose statistics are made again in each pass."""
        plate, call = carray(_pointer(plate_at), (1,), PLATE)[0], call_at
        n, width = plate.members, plate.statistics
        value, statistics = marginal(
            _table(call, plate.eta, plate.configurations, width), _table(plate.z_at, 0, plate.columns, n),
            _places(plate.single_at, plate.singles), _places(plate.left_at, plate.pairs),
            _places(plate.right_at, plate.pairs), _places(plate.position_at, width),
            _row(plate.weights_at, 0, plate.weights),
        )  # fmt: skip
        _row(call, 0, 1)[0] += value[()]
        expected = _table(call, plate.expected, plate.configurations, width)
        expected[:] = statistics
        return 0

    return many


def _tied(model_at: Any, call_at: Any) -> Any:
    """All plates whose members share latents, which are eliminated."""
    model, call = carray(_pointer(model_at), (1,), MODEL)[0], call_at
    plates = carray(_pointer(model.plates_at), (model.plates,), PLATE)
    leaves = _row(call, model.leaf, model.leaves)
    for p in range(len(plates)):
        plate = plates[p]
        if not plate.pass_at:
            joint = np.empty((plate.configurations, plate.members))
            if _log_joint(plate, call, joint):
                return 1
            own = _table(call, plate.room, plate.members, plate.configurations)
            for c in range(plate.members):
                for j in range(plate.configurations):
                    own[c, j] = joint[j, c] if joint[j, c] > 0.5 * LOWEST else -np.inf
    value, shares = _eliminate(
        leaves, _places(model.steps_at, 4 * model.steps).reshape((model.steps, 4)),
        _places(model.sources_at, model.sources), _places(model.outputs_at, model.outputs),
        _places(model.roots_at, model.roots), _places(model.entries_at, 1),
    )  # fmt: skip
    _row(call, 0, 1)[0] += value[()]
    for p in range(len(plates)):
        plate = plates[p]
        if not plate.pass_at:
            size, start = plate.configurations, plate.room - model.leaf
            r = np.empty((size, plate.members))
            for c in range(plate.members):
                for j in range(size):
                    r[j, c] = shares[start + c * size + j]
            _sums(plate, call, r)
    return 0


_eliminate = elimination_loop()


# -- as a sampler calls it ---------------------------------------------------------------------------------------------


def _density(dimension: Any, u_at: Any, gradient_at: Any, value_at: Any, model_at: Any) -> Any:
    """0 with the log density at u [P] and its gradient [P], or why there is none."""
    model = carray(_pointer(model_at), (1,), MODEL)[0]
    if dimension != model.dimension:
        return BAD_ARGUMENT
    room = np.empty(model.size)
    call = room.ctypes.data
    for i in range(dimension):
        room[model.inputs + i] = _row(u_at, i, 1)[0]
    if _call(model.terms_at, u_at, call + 8 * model.terms):
        return NO_ANSWER
    room[0] = room[model.direct]
    for p in range(model.plates):
        at = model.plates_at + p * PLATE_SIZE
        plate = carray(_pointer(at), (1,), PLATE)[0]
        room[0] += _row(plate.base_at, 0, 1)[0]
        if plate.pass_at and _call(plate.pass_at, at, call):
            return NO_ANSWER
    if model.tied_at and _call(model.tied_at, model_at, call):
        return NO_ANSWER
    if not np.isfinite(room[0]) or _call(model.slope_at, call + 8 * model.inputs, gradient_at):
        return NO_ANSWER
    _row(value_at, 0, 1)[0] = room[0]
    for i in range(dimension):
        if not np.isfinite(_row(gradient_at, i, 1)[0]):
            return NOT_FINITE
    return 0


PLATE_SIZE = PLATE.itemsize


def _draw(dimension: Any, size: Any, u_at: Any, draw_at: Any, _: Any) -> Any:
    """What is kept of a draw: its coordinates."""
    if size != dimension:
        return BAD_ARGUMENT
    for i in range(size):
        _row(draw_at, i, 1)[0] = _row(u_at, i, 1)[0]
    return 0


_PASS = types.int64(types.int64, types.int64)
_KEPT: dict[str, tuple[Callable[[], Callable[..., Any]], Any]] = {  # addresses are whole numbers of their size
    "few": (lambda: _few, _PASS),
    "many": (_of_many, _PASS),
    "tied": (lambda: _tied, _PASS),
    "density": (lambda: _density, types.int64(types.uint64, *(types.int64,) * 4)),
    "draw": (lambda: _draw, types.int64(types.uint64, types.uint64, *(types.int64,) * 3)),
}


@cache
def c_function(name: str) -> Any:
    """ "few", "many" and "tied": passes; "density" and "draw": callbacks of nutpie. Compiled now or found on disk."""
    made, signature = _KEPT[name]
    function = made()
    compiled: Any = CFunc(function, normalize_signature(signature), {}, {"nogil": True, "error_model": "numpy"})
    vars(function)["signature"] = str(signature)  # so that the key tells it too
    with contextlib.suppress(RuntimeError, OSError):  # no folder for the cache
        compiled._cache = CheckedCache(function, code_key(function))
    compiled.compile()
    return compiled
