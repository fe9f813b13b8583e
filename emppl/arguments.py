"""Arguments that several functions take alike: seeds, and keywords that were misspelt."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from typing import Any

import numpy as np

from emppl.errors import InvalidArgumentError, UnknownKeywordError

Seed = int | np.random.Generator | np.random.BitGenerator | np.random.SeedSequence | None
STATE_WORDS = 4  # of 32 bits, that stand for a seed which is no plain number


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
    except (TypeError, ValueError):
        raise InvalidArgumentError(
            f"seed must be a whole number that is not negative, a Generator, a SeedSequence or None, not {seed!r}",
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
