"""Starts of a fit, run one after the other or in several processes."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from multiprocessing import current_process, get_context
from multiprocessing.connection import Connection, wait
from typing import Any

import numpy as np

from emppl.ascent.degeneracy import spurious
from emppl.ascent.loop import USABLE, Ascent, Status, ascend
from emppl.ascent.starts import start_point, towards_the_prior
from emppl.compiling import building
from emppl.concurrency import quiet
from emppl.interrupts import noticed
from emppl.planner import Plan

Theta = dict[str, np.ndarray]
CANDIDATES = 5  # first guesses for each start, of which the best goes on; one for three parameters where that is more
MOST_CANDIDATES = 20
CANDIDATE_RUN = 12  # E-steps that each of them gets
CHEAP_PASS = 3e6  # numbers in the products of one pass up to which several guesses are worth trying
TRIES = 2  # worker processes that a start may cost before it counts as failed
GRACE_SECONDS = 3.0  # that workers have after Ctrl-C to hand over what they reached
PARENT_CHECKED_SECONDS = 1.0  # how often a worker looks whether its parent is still there


@dataclass(frozen=True)
class Job:
    """One start: a given point, or a kind of random one with its own seed.

    drawn: whether it is given as many passes as the best, whatever it promises, so that starts may be judged by it.
    """

    number: int
    kind: str
    theta: Theta | None = field(repr=False)
    seed: np.random.SeedSequence | None = field(repr=False)
    drawn: bool = True


@dataclass
class Reached:
    """What the starts of a search reached, in their order: None for those that Ctrl-C came before.

    twins: {start: the one that went on from where both were}.
    """

    ascents: list[Ascent | None]
    interrupted: bool = False
    notes: list[str] = field(default_factory=list)
    twins: dict[int, int] = field(default_factory=dict)

    @property
    def whole(self) -> list[Ascent]:
        """The ascents of the starts that were made."""
        return [ascent for ascent in self.ascents if ascent is not None]

    def followed_by(self, other: Reached) -> Reached:
        """This and what further starts reached."""
        first = len(self.ascents)
        twins = self.twins | {first + i: first + j for i, j in other.twins.items()}
        interrupted = self.interrupted or other.interrupted
        return Reached([*self.ascents, *other.ascents], interrupted, [*self.notes, *other.notes], twins)

    @property
    def best(self) -> float:
        """The highest usable objective so far."""
        found = [ascent.objective for ascent in self.whole if ascent.status in USABLE]
        return max(found, default=-np.inf)


def _one(plan: Plan, job: Job, before: Ascent | None, options: dict[str, Any], record: bool) -> Ascent:
    theta = job.theta if before is None else before.theta
    if theta is None:
        rng = np.random.default_rng(job.seed)
        try:
            theta, before = best_of_short_runs(plan, job.kind, rng, options, record)
        except Stopped as stopped:
            return stopped.run
        except (FloatingPointError, np.linalg.LinAlgError, ValueError) as problem:
            return failed(f"no start could be made: {problem}")
    found = before
    if found is None or found.status in (*USABLE, Status.SHORT):
        found = ascend(plan, theta, record=record, before=before, **options)
    if found.status is Status.FAILED and job.kind != "given":
        inside = towards_the_prior(plan, theta)
        if inside is not None:
            found = ascend(plan, inside, record=record, **options)
    return found


def failed(reason: str) -> Ascent:
    """A start that reached nothing."""
    return Ascent({}, -np.inf, Status.FAILED, reason, 0, 0, np.inf, 0.0, np.zeros(0), [])


def best_of_short_runs(
    plan: Plan, kind: str, rng: np.random.Generator, options: dict[str, Any], record: bool = False
) -> tuple[Theta, Ascent | None]:
    """The first guess that a few iterations carry highest (emEM, Biernacki, Celeux & Govaert 2003), and its short run.

    They have to be as many as show which guess heads for a handful of observations: those rise fastest at first.
    options: of the ascent. One guess, and no run, where passes are dear.
    """
    dear = not plan.has_exact_m_step or plan.engine.products * CANDIDATES > CHEAP_PASS
    if dear or kind in ("prior", "ties") or options["max_iter"] < CANDIDATE_RUN or not plan.structure.plates:
        return start_point(plan, kind, rng), None
    several = min(max(CANDIDATES, plan.structure.coordinates.size // 3), MOST_CANDIDATES)  # the more, the more modes
    shorter = options | {"max_iter": CANDIDATE_RUN, "finish": False}
    best: tuple[tuple[bool, float], Ascent] | None = None
    runs: list[Ascent] = []
    candidates = [start_point(plan, kind, rng) for _ in range(several)]
    try:
        for candidate in candidates:
            runs.append(ascend(plan, candidate, record=record, **shorter))
            if runs[-1].status is Status.INTERRUPTED:
                raise KeyboardInterrupt
            promise = _promise(plan, runs[-1])
            if best is None or promise > best[0]:
                best = promise, runs[-1]
    except KeyboardInterrupt:
        if not runs:
            raise
        raise Stopped(replace(max(runs, key=lambda run: run.objective), status=Status.INTERRUPTED)) from None
    assert best is not None  # there is more than one candidate
    return best[1].theta, best[1]


class Stopped(Exception):
    """Ctrl-C in a short run: what it had reached."""

    def __init__(self, run: Ascent) -> None:
        super().__init__(run)
        self.run = run


def _promise(plan: Plan, run: Ascent) -> tuple[bool, float]:
    """What a short run says of its first guess; one that heads for a handful of equal observations comes last."""
    sound = run.status in USABLE and spurious(plan, run.theta, plan.e_step(run.theta)) is None
    return sound, run.objective


def each(
    plan: Plan, jobs: list[Job], before: list[Ascent | None], options: dict[str, Any], crew: Crew, progress: Any,
    record: bool, kept: Any = None,
) -> Reached:  # fmt: skip
    """The ascents of the jobs. Ctrl-C ends it with what was reached, a worker process that dies costs its start.

    before: what is carried on, None where a start begins.
    kept: the starts in a checkpoint (`checkpoint.Round`), which are not made again.
    """
    reached = Reached([None] * len(jobs))

    def arrived(i: int, ascent: Ascent, keep: bool = True) -> None:
        reached.ascents[i] = ascent
        if kept is not None and keep and ascent.status is not Status.INTERRUPTED:
            kept.put(jobs[i].number, ascent)
        if progress is not None:
            progress(_event(jobs[i], jobs, ascent, reached.best))

    several = crew.size > 1 and len(jobs) > 1 and hasattr(os, "fork") and not current_process().daemon
    try:
        todo = list(range(len(jobs)))
        for i in todo if kept is not None else []:
            ascent = kept.get(jobs[i].number, plan)
            if ascent is not None:
                arrived(i, ascent, keep=False)
        todo = [i for i in todo if reached.ascents[i] is None]
        if several:
            _in_processes(crew, jobs, before, options, record, todo, reached, arrived)
        else:
            for i in todo:
                with noticed():
                    ascent = _one(plan, jobs[i], before[i], options, record)
                    arrived(i, ascent)
                if ascent.status is Status.INTERRUPTED:
                    reached.interrupted = True
                    break
        if kept is not None:
            kept.flush()
    except KeyboardInterrupt:
        reached.interrupted = True
        if kept is not None:
            kept.flush()
    return reached


def _event(job: Job, jobs: list[Job], result: Ascent, best: float) -> dict[str, Any]:
    """What the `progress` callback is told of one start."""
    return {
        "start": job.number + 1,
        "of": jobs[-1].number + 1,
        "runs": len(jobs),
        "kind": job.kind,
        "status": result.status.name,
        "log_posterior": result.objective,
        "best": best,
        "n_passes": result.n_passes,
    }


# -- worker processes --------------------------------------------------------------------------------------------------


def _in_processes(
    crew: Crew, jobs: list[Job], before: list[Ascent | None], options: dict[str, Any], record: bool,
    unmade: list[int], reached: Reached, arrived: Callable[..., None],
) -> None:  # fmt: skip
    """Fill `reached` by the crew's workers, each of which is given one start after the other.

    A start whose worker died is made once more, by another one, to the same result.
    """
    todo, deaths = deque(unmade), Counter[int]()

    def give(worker: _Worker) -> None:
        if todo:
            i = todo.popleft()
            worker.give(i, (jobs[i], before[i], options, record))

    def died(i: int, how: str) -> None:
        deaths[i] += 1
        again = deaths[i] < TRIES
        what = "the start was made again" if again else "the start counts as failed"
        reached.notes.append(f"the worker process of start {jobs[i].number} {how}: {what}")
        if again:
            todo.appendleft(i)
        else:
            arrived(i, failed(f"its worker process {how}, {TRIES} times"), keep=False)

    try:
        with noticed() as interrupt:
            for worker in crew.members:
                give(worker)
            while todo or any(worker.job is not None for worker in crew.members):
                interrupt.check()
                while todo and len(crew.members) < crew.size:
                    give(crew.another())
                for worker in _ready(crew.members, None):
                    i = worker.job
                    try:
                        ascent = worker.answer()
                    except (EOFError, OSError, pickle.UnpicklingError):
                        crew.members.remove(worker)
                        how = worker.end()
                        if i is not None:
                            died(i, how)
                        continue
                    assert i is not None  # who answers was given a start
                    if ascent.status is Status.INTERRUPTED:  # this worker alone had the signal
                        reached.ascents[i] = ascent
                        raise KeyboardInterrupt
                    give(worker)
                    arrived(i, ascent)
    except KeyboardInterrupt:
        _collect(crew.members, reached)
        raise


def _ready(crew: list[_Worker], seconds: float | None) -> list[_Worker]:
    ready = wait([worker.connection for worker in crew], seconds)
    return [worker for worker in crew if worker.connection in ready]


def _collect(crew: list[_Worker], reached: Reached) -> None:
    """After Ctrl-C: the best so far of the starts that are under way, from workers that still answer."""
    busy = [worker for worker in crew if worker.job is not None]
    for worker in busy:
        worker.interrupt()
    last = time.monotonic() + GRACE_SECONDS
    while busy and (left := last - time.monotonic()) > 0:
        for worker in _ready(busy, left):
            busy.remove(worker)
            i = worker.job
            try:
                ascent = worker.answer()
            except Exception:  # it ended, or had nothing yet
                continue
            if i is not None and reached.ascents[i] is None and ascent.theta:
                reached.ascents[i] = ascent


class Crew:
    """Up to `size` forked processes that make starts of one plan, from their first use to the end of the context.

    They inherit the plan: its functions would have to be compiled anew elsewhere.
    """

    def __init__(self, plan: Plan, size: int) -> None:
        self.plan, self.size = plan, size
        self.members: list[_Worker] = []

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *_: Any) -> None:
        for worker in self.members:
            worker.end()

    def another(self) -> _Worker:
        """One more worker."""
        _ = self.plan.axes  # else each finds them for itself
        self.members.append(_Worker(self.plan))
        return self.members[-1]


def _send(connection: Connection, thing: Any) -> None:
    # `connection.send` sends a view of a BytesIO: where Ctrl-C comes in between and the traceback ends in a cycle, the
    # garbage collector frees the one before the other, and Python prints a BufferError out of the blue.
    connection.send_bytes(pickle.dumps(thing))


def _receive(connection: Connection) -> Any:
    return pickle.loads(connection.recv_bytes())


class _Worker:
    """A forked process that makes starts of one plan, and the parent's end of the pipe to it."""

    def __init__(self, plan: Plan) -> None:
        context = get_context("fork")
        self.connection, theirs = context.Pipe()
        self.job: int | None = None
        self.process = context.Process(target=_serve, args=(plan, theirs, os.getpid()), daemon=True)
        with building(), quiet():  # not while another thread compiles; of threads at a fork: locks are seen to
            self.process.start()
        theirs.close()

    def give(self, job: int, task: tuple[Any, ...]) -> None:
        self.job = job
        with contextlib.suppress(OSError):  # it has died: reading its answer says so
            _send(self.connection, task)

    def answer(self) -> Any:
        """What it found; raises what it raised, and EOFError or OSError where it has died."""
        found = _receive(self.connection)
        self.job = None
        if isinstance(found, BaseException):
            raise found
        return found

    def interrupt(self) -> None:
        if self.process.pid is not None and self.process.exitcode is None:
            os.kill(self.process.pid, signal.SIGINT)

    def end(self) -> str:
        """The process ended, by force if need be; how it ended, in words."""
        self.connection.close()
        self.process.join(0.2)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
        code = self.process.exitcode or 0
        return f"was ended by {_signal_name(-code)}" if code < 0 else f"ended with exit status {code}"


def _signal_name(number: int) -> str:
    known = {s.value: s.name for s in signal.Signals}
    hint = " (out of memory?)" if number == signal.SIGKILL else ""
    return f"{known.get(number, f'signal {number}')}{hint}"


def _serve(plan: Plan, connection: Connection, parent: int) -> None:
    """A worker's life: starts come in, ascents go out, until the pipe closes or the parent is gone."""

    def once(*_: Any) -> None:
        """The first Ctrl-C ends the start under way; a terminal sends one, the parent another."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise KeyboardInterrupt

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_CHECKED_SECONDS)
        os._exit(1)

    signal.signal(signal.SIGINT, once)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=watch, daemon=True).start()
    try:
        while True:
            task = _receive(connection)
            try:
                found: Any = _one(plan, *task)
            except Exception as problem:
                found = problem
            try:
                _send(connection, found)
            except (pickle.PicklingError, AttributeError, TypeError):  # an error that does not travel
                _send(connection, RuntimeError(f"{type(found).__name__}: {found}"))
    except (EOFError, OSError, KeyboardInterrupt):
        pass
