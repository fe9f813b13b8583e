"""One task for each block of a source, here or on the workers of an executor; results come back in order of blocks.

What travels is the task (how to read a block, and eta) and a few hundred numbers back; the data stay where they are.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor
from hashlib import blake2b
from typing import Any

import cloudpickle
import numpy as np

from emppl.errors import InvalidArgumentError
from emppl.streaming.blocks import Mapped, Piece, Source, here, sliced

RETRIES = 3  # how often dask tries a block again whose task raised; one whose worker died it moves by itself
KEPT = 4  # jobs that a worker remembers: a fit has three
_JOBS: OrderedDict[bytes, Any] = OrderedDict()
DASK = ("distributed", "dask")


def task(job: bytes, method: str, extra: tuple, number: int, opener: Callable[..., Any], *arguments: Any) -> Any:
    """One block on a worker: the job is unpacked once, the block opened where it lies."""
    key = blake2b(job, digest_size=16).digest()
    work = _JOBS.get(key)
    if work is None:
        work = _JOBS[key] = cloudpickle.loads(job)
        while len(_JOBS) > KEPT:
            _JOBS.popitem(last=False)
    return getattr(work, method)(number, opener(*(here(a) for a in arguments)), *extra)


class Local:
    """Block after block in this process; one is in memory at a time."""

    elsewhere = False

    def map(self, source: Source, job: Any, method: str, extra: tuple) -> Iterator[Any]:
        for piece in source.pieces():
            yield getattr(job, method)(piece.number, piece.open(), *extra)


class Workers:
    """The same on the workers of an executor: anything with `submit` or `map`, and dask's client."""

    elsewhere = True

    def __init__(self, executor: Any) -> None:
        self.executor = executor
        self.dask = type(executor).__module__.split(".")[0] in DASK
        self._packed: tuple[Any, bytes] = (None, b"")
        self._held: dict[int, tuple] = {}

    def map(self, source: Source, job: Any, method: str, extra: tuple) -> Iterator[Any]:
        if self._packed[0] is not job:
            self._packed = job, cloudpickle.dumps(job)
        packed = self._packed[1]
        calls = [(packed, method, extra, p.number, *self._sent(p)) for p in source.pieces()]
        try:
            if self.dask:
                futures = [self.executor.submit(task, *call, pure=False, retries=RETRIES) for call in calls]
                yield from self._gathered(futures)
            elif hasattr(self.executor, "submit"):
                yield from self._gathered([self.executor.submit(task, *call) for call in calls])
            else:
                yield from self.executor.map(task, *zip(*calls)) if calls else ()
        except BrokenExecutor as problem:
            raise InvalidArgumentError(
                f"the executor has lost a worker, and {type(self.executor).__name__} cannot go on without: {problem}",
                "executor",
                ("a dask client, whose blocks are done again by another worker", "a new executor"),
            ) from None

    @staticmethod
    def _gathered(futures: list[Any]) -> Iterator[Any]:
        try:
            for i, future in enumerate(futures):
                yield future.result()
                futures[i] = None  # dask keeps a result as long as its future
        finally:
            for future in futures:
                if future is not None:
                    future.cancel()

    def _sent(self, piece: Piece) -> tuple:
        """(opener, *arguments) as they travel: of an array on disk its place, of dask's delayed values their future."""
        if piece.number not in self._held or not self.dask:
            arguments = piece.arguments
            if piece.opener is sliced:
                arguments = _travelling(*arguments)
            sent = (piece.opener, *arguments)
            if not self.dask:
                return sent
            self._held[piece.number] = tuple(self._on_cluster(a) for a in sent)
        return self._held[piece.number]

    def _on_cluster(self, value: Any) -> Any:
        """What dask computes once and keeps with its workers: delayed values, and arrays that are in memory here."""
        if type(value).__module__.split(".")[0] == "dask" and hasattr(value, "compute"):
            return self.executor.compute(value)
        return self.executor.scatter([value])[0] if isinstance(value, np.ndarray | dict) else value


def _travelling(start: int, stop: int, names: tuple[str, ...], *arrays: Any) -> tuple:
    """Arguments of `sliced`: an array on disk goes as its place, one in memory as the rows of this block."""
    places = [Mapped.of(a) if isinstance(a, np.memmap) else None for a in arrays]
    in_memory = [p is None and isinstance(a, np.ndarray) for a, p in zip(arrays, places)]
    where: list[Any] = [a if p is None else p for a, p in zip(arrays, places)]
    if not any(in_memory):
        return start, stop, names, *where
    moved = [np.asarray(a[start:stop]) if m else Rest(a, start, stop) for a, m in zip(where, in_memory)]
    return 0, stop - start, names, *moved


class Rest:
    """Rows of an array that is opened elsewhere, beside arrays of which only these rows are sent."""

    def __init__(self, array: Any, start: int, stop: int) -> None:
        self.array, self.start, self.stop = array, start, stop

    def __getitem__(self, rows: slice) -> Any:
        array = self.array.open() if isinstance(self.array, Mapped) else self.array
        return array[self.start : self.stop][rows]


def runner(executor: Any, source: Source) -> Local | Workers:
    """How the blocks of a source are worked on. Raises InvalidArgumentError where they cannot be sent."""
    if executor is None:
        return Local()
    if not hasattr(executor, "submit") and not hasattr(executor, "map"):
        raise InvalidArgumentError(
            f"executor must have `submit` or `map`, and {type(executor).__name__} has neither",
            "executor",
            ("dask.distributed.Client(…)", "concurrent.futures.ProcessPoolExecutor(…)"),
        )
    if not source.sendable:
        raise InvalidArgumentError(
            "blocks of a generator are made in this process, so that no worker can open one",
            "executor, source",
            ("source=[load_first, load_second, …]: functions, each of which loads a block", "arrays on disk"),
        )
    return Workers(executor)
