"""One task for each block of a source, here or on the workers of an executor; results come back in order of blocks.

What travels is the task (how to read a block, and eta) and a few hundred numbers back; the data stay where they are.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, CancelledError
from hashlib import blake2b
from typing import Any

import cloudpickle
import numpy as np

from emppl.errors import InvalidArgumentError, WorkersLostError
from emppl.streaming.blocks import Mapped, Piece, Source, here, sliced

PAUSE = 0.5  # seconds before a lost block is sent again, and twice as long each time
RETRIES = 3  # how often a block is tried again, whose task raised or whose worker died
POLLED_SECONDS = 1.0  # how long one waits for a block before looking whether there still are workers
NO_WORKERS_SECONDS = 20.0  # how long a cluster may be without any, as it is while it starts them anew
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
        try:
            if self.dask:
                yield from self._on_dask(list(source.pieces()), (packed, method, extra))
                return
            calls = [(packed, method, extra, p.number, *self._sent(p)) for p in source.pieces()]
            if hasattr(self.executor, "submit"):
                yield from self._gathered([self.executor.submit(task, *call) for call in calls])
            else:
                yield from self.executor.map(task, *zip(*calls)) if calls else ()
        except BrokenExecutor as problem:
            raise InvalidArgumentError(
                f"the executor has lost a worker, and {type(self.executor).__name__} cannot go on without: {problem}",
                "executor",
                ("a dask client, whose blocks are done again by another worker", "a new executor"),
            ) from None

    def _on_dask(self, pieces: list[Piece], head: tuple[Any, ...]) -> Iterator[Any]:
        """Results in order of the blocks; one that its worker took along is sent and done again, by another.

        Dask moves tasks whose worker died by itself, but not data that were sent to that worker alone.
        """

        def submit(piece: Piece) -> Any:
            call = (*head, piece.number, *self._sent(piece))
            return self.executor.submit(task, *call, pure=False, retries=RETRIES)

        futures: list[Any] = []
        try:
            futures.extend(self._alive(submit, piece) for piece in pieces)
            for i, piece in enumerate(pieces):
                for left in reversed(range(RETRIES + 1)):
                    try:
                        result = self._awaited(futures[i])
                        break
                    except Exception as problem:
                        if not _is_loss(problem):
                            raise
                        if not left:
                            raise WorkersLostError(
                                f"block {piece.number} was lost with its worker {RETRIES + 1} times ({problem})",
                                "executor", ("smaller blocks (block_size=…), if workers run out of memory",),
                            ) from problem  # fmt: skip
                    self._held.pop(piece.number, None)
                    time.sleep(PAUSE * 2 ** (RETRIES - left))  # until the scheduler knows who is gone
                    futures[i] = self._alive(submit, piece)
                futures[i] = None  # dask keeps a result as long as its future
                yield result
        finally:
            for future in futures:
                if future is not None:
                    future.cancel()

    def _alive(self, call: Callable[[Piece], Any], piece: Piece) -> Any:
        """What a call to the cluster answers; WorkersLostError where it has no worker to send data to."""
        try:
            return call(piece)
        except (TimeoutError, OSError) as problem:
            if self._workers():
                raise
            raise self._none_left() from problem

    def _awaited(self, future: Any) -> Any:
        """The result of a task; WorkersLostError where there has been nobody to do it for NO_WORKERS_SECONDS."""
        seen = time.monotonic()
        while True:
            try:
                return future.result(timeout=POLLED_SECONDS)
            except TimeoutError:
                if future.done():  # meanwhile, or it is the task's own
                    return future.result()
            if self._workers():
                seen = time.monotonic()
            elif time.monotonic() - seen > NO_WORKERS_SECONDS:
                raise self._none_left()

    def _workers(self) -> int:
        try:
            return len(self.executor.nthreads()) if self.executor.status == "running" else 0
        except (OSError, TimeoutError):
            return 0

    def _none_left(self) -> WorkersLostError:
        return WorkersLostError(
            "the cluster has no worker left, and none came back", "executor",
            ("start workers, and fit again with start= or checkpoint=", "executor=None: block after block, here"),
        )  # fmt: skip

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


def _is_loss(problem: Exception) -> bool:
    """Whether a task ended with its worker or with data that were there alone, and not by what it did."""
    return isinstance(problem, CancelledError) or type(problem).__module__.split(".")[0] in DASK


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
