"""Starts of a fit, run one after the other or in several processes."""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from typing import Any

import numpy as np

from emppl.ascent.degeneracy import spurious
from emppl.ascent.loop import USABLE, Ascent, Status, ascend
from emppl.ascent.starts import start_point
from emppl.concurrency import quiet
from emppl.mstep.closed_form import RULE as CLOSED_RULE
from emppl.planner import Plan

Theta = dict[str, np.ndarray]
CANDIDATES = 5  # first guesses for each start, of which the best goes on; one for three parameters where that is more
MOST_CANDIDATES = 20
CANDIDATE_RUN = 12  # E-steps that each of them gets
CHEAP_PASS = 3e6  # numbers in the products of one pass up to which several guesses are worth trying


@dataclass(frozen=True)
class Job:
    """One start: a given point, or a kind of random one with its own seed."""

    number: int
    kind: str
    theta: Theta | None = field(repr=False)
    seed: np.random.SeedSequence | None = field(repr=False)


def _one(plan: Plan, job: Job, theta: Theta | None, options: dict[str, Any], record: bool) -> Ascent:
    if theta is None:
        rng = np.random.default_rng(job.seed)
        try:
            theta = best_of_short_runs(plan, job.kind, rng, options["max_iter"])
        except Stopped as stopped:
            return stopped.run
        except (FloatingPointError, np.linalg.LinAlgError, ValueError) as problem:
            return Ascent(
                {}, -np.inf, Status.FAILED, f"no start could be made: {problem}", 0, 0, np.inf, 0.0, np.zeros(0), []
            )
    return ascend(plan, theta, record=record, **options)


def best_of_short_runs(plan: Plan, kind: str, rng: np.random.Generator, max_iter: int) -> Theta:
    """The candidate that a few iterations carry highest (emEM, Biernacki, Celeux & Govaert 2003).

    One where passes are dear.
    """
    pairs = zip(plan.structure.plates, plan.engine.plates)
    work = sum(data.size * plate.n_configurations * data.features.shape[1] for plate, data in pairs)
    dear = any(block.rule != CLOSED_RULE for block in plan.blocks) or work * CANDIDATES > CHEAP_PASS
    if dear or kind in ("prior", "ties") or max_iter < CANDIDATE_RUN or not plan.structure.plates:
        return start_point(plan, kind, rng)
    several = min(max(CANDIDATES, plan.structure.coordinates.size // 3), MOST_CANDIDATES)  # the more, the more modes
    candidates = [start_point(plan, kind, rng) for _ in range(several)]
    best: tuple[tuple[bool, float], Theta] | None = None
    for candidate in candidates:
        run = ascend(plan, candidate, max_iter=CANDIDATE_RUN, finish=False)
        if run.status is Status.INTERRUPTED:
            raise Stopped(run)
        promise = _promise(plan, run)
        if best is None or promise > best[0]:
            best = promise, candidate
    assert best is not None  # there is more than one candidate
    return best[1]


class Stopped(Exception):
    """Ctrl-C in a short run: what it had reached."""

    def __init__(self, run: Ascent) -> None:
        super().__init__(run)
        self.run = run


def _promise(plan: Plan, run: Ascent) -> tuple[bool, float]:
    """What a short run says of its first guess; one that heads for a handful of equal observations comes last."""
    sound = run.status in USABLE and spurious(plan, run.theta, plan.e_step(run.theta)) is None
    return sound, run.objective


_OF_WORKER: list[Plan] = []  # in a worker process, which is forked for one plan: they hold functions of their own


def _one_there(*arguments: Any) -> Ascent:
    return _one(_OF_WORKER[0], *arguments)


def each(
    plan: Plan,
    jobs: list[Job],
    thetas: list[Theta | None],
    options: dict[str, Any],
    workers: int,
    progress: Any,
    record: bool,
) -> list[Ascent]:
    """The ascents of the jobs, in their order; fewer where Ctrl-C came in between, the last one then INTERRUPTED."""
    if workers > 1 and len(jobs) > 1 and hasattr(os, "fork"):
        with (
            quiet(),
            ProcessPoolExecutor(
                min(workers, len(jobs)), get_context("fork"), initializer=_OF_WORKER.append, initargs=(plan,)
            ) as pool,
        ):
            found = list(pool.map(_one_there, jobs, thetas, [options] * len(jobs), [record] * len(jobs)))
        for i, job in enumerate(jobs if progress is not None else []):
            best = max((r.objective for r in found[: i + 1] if r.status in USABLE), default=-np.inf)
            progress(_event(job, jobs, found[i], best))
        return found
    results: list[Ascent] = []
    best = -np.inf
    for job, theta in zip(jobs, thetas):
        try:
            result = _one(plan, job, theta, options, record)
            results.append(result)
            if result.status in USABLE:
                best = max(best, result.objective)
            if progress is not None:
                progress(_event(job, jobs, result, best))
        except KeyboardInterrupt:
            if not results:
                raise
            results[-1] = replace(results[-1], status=Status.INTERRUPTED)
        if results[-1].status is Status.INTERRUPTED:
            break
    return results


def _event(job: Job, jobs: list[Job], result: Ascent, best: float) -> dict[str, Any]:
    """What the `progress` callback is told of one start."""
    return {
        "start": job.number + 1,
        "of": jobs[-1].number + 1,
        "kind": job.kind,
        "status": result.status.name,
        "log_posterior": result.objective,
        "best": best,
        "n_passes": result.n_passes,
    }
