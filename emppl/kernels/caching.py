"""Compiled code kept on disk: keys made of all that is compiled, and entries that can be missing, broken or unwritable.

numba takes a file's time and size for a sign that its functions are unchanged, PyTensor a number that somebody raises
by hand. Both give a stale entry for a fresh one sooner or later; a hash of the code does not.
"""

from __future__ import annotations

import contextlib
import dis
import hashlib
import inspect
import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from importlib.metadata import PackageNotFoundError, version
from types import CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np
from numba import njit, types
from numba.core import dispatcher
from numba.core.caching import FunctionCache, IndexDataCacheFile
from numba.core.sigutils import normalize_signature

from emppl.concurrency import Held

log = logging.getLogger("emppl")
COMPILERS = ("numba", "llvmlite", "pytensor")
SEAL = b"emppl-sha256:"  # before the hash at the end of an entry; unpickling reads no further than the pickle


def code_key(function: Any) -> int:
    """A whole number that changes with what is compiled: the function, all that it calls or reads, and the compilers.

    function: of Python or compiled by numba, after those that it calls. Raises TypeError where it reads a global whose
    value no text tells, such as an object of a class of its own.
    """
    digest = hashlib.sha256()
    for part in (*map(_version, COMPILERS), *_parts(function, set())):
        digest.update(f"{len(part)} {part}".encode())
    return int.from_bytes(digest.digest()[:8])


def _version(name: str) -> str:
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:  # not installed as a package, as within a bundled application
        return name


def _parts(value: Any, seen: set[int]) -> Iterator[str]:
    """Texts that tell a value, and what it refers to, from every other one."""
    inner = getattr(value, "py_func", None) or getattr(value, "_defn", None)  # of a dispatcher, of an intrinsic
    if isinstance(inner, FunctionType):
        yield from _parts(getattr(value, "targetoptions", {}), seen)
        yield from _parts(inner, seen)
    elif isinstance(value, FunctionType):
        if id(value) in seen:
            return
        seen.add(id(value))
        yield from _parts(value.__code__, seen)
        yield from _parts((value.__defaults__, value.__kwdefaults__, vars(value)), seen)
        held = {n: c.cell_contents for n, c in zip(value.__code__.co_freevars, value.__closure__ or ())}
        read = {n: value.__globals__[n] for n in _globals_of(value.__code__) if n in value.__globals__}
        yield from _parts(read | held, seen)
    elif isinstance(value, CodeType):
        yield f"{value.co_name} {value.co_code!r} {value.co_names} {value.co_varnames} {value.co_freevars}"
        yield from _parts(value.co_consts, seen)
    elif isinstance(value, ModuleType):
        own = value.__name__.partition(".")[0] == __name__.partition(".")[0]
        yield inspect.getsource(value) if own else f"{value.__name__} {getattr(value, '__version__', '')}"
    elif isinstance(value, dict):
        for name in sorted(value):
            yield str(name)
            yield from _parts(value[name], seen)
    elif isinstance(value, tuple | list):
        yield f"{type(value).__name__} of {len(value)}"
        for one in value:
            yield from _parts(one, seen)
    elif isinstance(value, set | frozenset):
        yield from sorted(map(repr, value))
    elif isinstance(value, np.ndarray):
        yield f"{value.dtype} {value.shape} {hashlib.sha256(value.tobytes()).hexdigest()}"
    elif value is None or value is ... or isinstance(value, int | float | complex | str | bytes | np.generic):
        yield repr(value)
    elif isinstance(value, types.Type | np.dtype):
        yield str(value)
    elif hasattr(value, "__qualname__") and hasattr(value, "__module__"):  # a class, or a function of an extension
        yield f"{value.__module__}.{value.__qualname__}"
    else:
        raise TypeError(f"compiled code reads {value!r}, which no key can tell from another")


def _globals_of(code: CodeType) -> set[str]:
    """Names of globals, and of builtins, that code reads, functions inside it included."""
    inner = (const for const in code.co_consts if isinstance(const, CodeType))
    own = {step.argval for step in dis.get_instructions(code) if step.opname == "LOAD_GLOBAL"}
    return own.union(*map(_globals_of, inner))


class CheckedCache(FunctionCache):
    """numba's cache of a function, where an entry that cannot be read, or written, is none.

    stamp: what the entries must have been made from; None: what numba finds itself.
    """

    def __init__(self, function: Callable, stamp: Any = None) -> None:
        super().__init__(function)
        if stamp is None:
            stamp = self._impl.locator.get_source_stamp()
        self._cache_file = _SealedFiles(self._cache_path, self._impl.filename_base, stamp)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            found = super().load_overload(sig, target_context)
        except Exception as problem:
            log.debug("cached code of %s cannot be read and is made anew: %r", self._name, problem)
            with contextlib.suppress(Exception):
                self.flush()
            return None
        # Two processes that add entries to one index at once can take one number for both.
        return found if found is None or found.signature.args == normalize_signature(sig)[0] else None

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            super().save_overload(sig, data)
        except Exception as problem:
            log.debug("compiled code of %s is not kept: %r", self._name, problem)


class _SealedFiles(IndexDataCacheFile):
    """Files that end with a hash of their contents: machine code with a wrong byte would end the process."""

    def _dump(self, obj: Any) -> bytes:
        content = super()._dump(obj)
        return content + SEAL + hashlib.sha256(content).digest()

    def _load_data(self, name: str) -> Any:
        with open(self._data_path(name), "rb") as file:
            content, seal, digest = file.read().rpartition(SEAL)
        if seal and digest != hashlib.sha256(content).digest():
            raise ValueError(f"{name} is not what was written")
        return super()._load_data(name)


@contextlib.contextmanager
def _exchanged() -> Iterator[None]:
    numba_own: Any = dispatcher
    before = numba_own.FunctionCache
    numba_own.FunctionCache = CheckedCache
    try:
        yield
    finally:
        numba_own.FunctionCache = before


_EXCHANGED = Held(_exchanged)


def checked_caches() -> AbstractContextManager[Any]:
    """A context in which whatever numba compiles and keeps, of other libraries too, is kept in a `CheckedCache`."""
    return _EXCHANGED


def jit(signature: Any = None, **options: Any) -> Callable:
    """`numba.njit` with the code kept on disk under its `code_key`, where some folder can be written to."""

    def decorate(function: Any) -> Any:
        function.signature = str(signature)  # so that the key tells it too
        compiled = njit(nogil=True, **options)(function)
        with contextlib.suppress(RuntimeError, OSError):  # no folder for the cache
            compiled._cache = CheckedCache(function, code_key(compiled))
        if signature is not None:
            compiled.compile(signature)
            compiled.disable_compile()
        return compiled

    return decorate
