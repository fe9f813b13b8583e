"""Arguments that several functions take alike: seeds, whole numbers, tolerances, paths; and misspelt keywords."""

from __future__ import annotations

import inspect
import math
import operator
import os
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from numbers import Real
from typing import Any

import numpy as np

from emppl.errors import EmpplError, InvalidArgumentError, UnknownKeywordError

Seed = int | np.random.Generator | np.random.BitGenerator | np.random.SeedSequence | None
STATE_WORDS = 4  # of 32 bits, that stand for a seed which is no plain number
MOST = 2**31 - 1  # of anything counted: samplers and processes take 32 bits
STARTS_AT_MOST = 1_000_000  # each is a row of the table of starts, made before the first begins
SHOWN = 80  # characters of a wrong value in a message


def shown(value: Any) -> str:
    """What a value looks like in a message, its type where it cannot be printed."""
    try:
        text = repr(value)
    except Exception:  # a __repr__ of the user's
        text = f"a value of type {type(value).__name__}"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def as_whole(value: Any, name: str, least: int, most: int = MOST) -> int:
    """The argument `name` as an int. Raises InvalidArgumentError unless it is a whole number in least..most."""
    try:
        found = None if isinstance(value, bool | np.bool) else operator.index(value)
    except Exception:  # TypeError, or whatever an __index__ of the user's raises
        found = None
    if found is None:
        raise InvalidArgumentError(f"{name} must be a whole number, not {shown(value)}", name, (f"{name}={least}",))
    if not least <= found <= most:
        bound = f"at least {least:,}" if found < least else f"at most {most:,}"
        raise InvalidArgumentError(f"{name} must be {bound}, and {shown(found)} is not", name)
    return found


def as_tolerance(value: Any, name: str) -> float:
    """The argument `name` as a float. Raises InvalidArgumentError unless it is a finite number, 0 or above."""
    number = value.item() if isinstance(value, np.ndarray) and value.ndim == 0 else value
    try:
        found = float(number) if isinstance(number, Real) and not isinstance(number, bool | np.bool) else math.nan
    except OverflowError:
        found = math.inf
    if not 0.0 <= found < math.inf:
        raise InvalidArgumentError(
            f"{name} must be a finite number that is not negative, not {shown(value)}", name, (f"{name}=1e-6",)
        )
    return found


def as_path(value: Any, name: str, error: type[EmpplError] = InvalidArgumentError) -> str | os.PathLike[str]:
    """The argument `name`, a path. Raises `error` for what is none: numbers, None, bytes."""
    if not isinstance(value, str | os.PathLike) or not isinstance(os.fspath(value), str):
        raise error(f"{name} must be the path of a file, text or a Path, not {shown(value)}", name)
    return value


def as_seed(seed: Any) -> int | None:
    """The number that stands for a seed, None for None: a whole number, Generator, SeedSequence or list of numbers.

    A Generator is drawn from, so that a second call goes on in its stream; a SeedSequence stays as it is.
    """
    if seed is None:
        return None
    if isinstance(seed, np.random.BitGenerator):
        seed = np.random.Generator(seed)
    if isinstance(seed, np.random.Generator):
        return int(seed.integers(2**63))
    if isinstance(seed, int | np.integer) and not isinstance(seed, bool) and seed >= 0:
        return int(seed)
    try:
        sequence = seed if isinstance(seed, np.random.SeedSequence) else np.random.SeedSequence(_numbers(seed))
    except Exception:  # of numpy, of numbers that are not whole or not finite, or of what the user's objects raise
        raise InvalidArgumentError(
            f"seed must be a whole number that is not negative, a Generator, a SeedSequence or None, not {shown(seed)}",
            "seed", ("seed=1", "seed=np.random.default_rng(1)"),
        ) from None  # fmt: skip
    words = sequence.generate_state(STATE_WORDS)
    return sum(int(word) << (32 * k) for k, word in enumerate(words))


def _numbers(seed: Any) -> list[int]:
    if not isinstance(seed, list | tuple | np.ndarray) or not len(seed) or any(int(n) != n for n in seed):
        raise TypeError
    return [int(n) for n in seed]


def check_keywords(given: Iterable[str], function: str, *takes: Callable[..., Any]) -> None:
    """Raise UnknownKeywordError for keywords of `function`, as the user called it, that none of `takes` knows."""
    known = {name for one in takes for name, p in inspect.signature(one).parameters.items() if p.kind is p.KEYWORD_ONLY}
    for name in given:
        if name not in known:
            raise unknown_keyword(name, function, known)


def unknown_keyword(name: str, function: str, known: Iterable[str]) -> UnknownKeywordError:
    """The error about one keyword, with what may have been meant."""
    known = sorted(known)
    near = get_close_matches(name, known, 1)
    way = f"did you mean {near[0]}=?" if near else f"it takes {', '.join(known)}"
    return UnknownKeywordError(f"{function}() has no keyword {name!r}", f"{function}({name}=…)", (way,))
