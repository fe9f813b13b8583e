"""Which starts are made, and how far each goes: where passes are dear, short runs first, the best ones to the end."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from emppl.ascent.arguments import given_starts
from emppl.ascent.loop import Ascent, Status
from emppl.ascent.pool import Job, Reached, each
from emppl.ascent.starts import KINDS, PROBED, heaviest_tie, start_point
from emppl.planner import Plan

SHORT_RUN = 24  # E-steps of a short run
CHEAP = 4e7  # densities × features of all starts' short runs up to which every start goes to the end
INNER = 6  # starts that look for an inner mode where all others have collapsed
CARRIED_ON = 4  # starts that go to the end where that is not cheap


def make_jobs(plan: Plan, start: Any, starts: int, seed: int | None) -> list[Job]:
    """The given starts, then random ones of several kinds; each has its own seed, whatever runs beside it."""
    jobs = [Job(i, "given", theta, None) for i, theta in enumerate(given_starts(plan, start))]
    if not plan.structure.parameters:
        return [Job(0, "nothing to estimate", {}, None)]
    random = further_jobs(plan, jobs, starts, seed)
    if starts >= PROBED and plan.estimate == "ml" and heaviest_tie(plan) is not None:
        # does the likelihood have a maximum? A component on equal rows is the way it has none
        random[-1] = replace(random[-1], kind="ties")
    return jobs + random


def further_jobs(plan: Plan, jobs: list[Job], number: int, seed: int | None) -> list[Job]:
    """So many more random starts, which go on in kinds and seeds where `jobs` end."""
    made = sum(job.kind != "given" for job in jobs)
    children = np.random.SeedSequence(seed).spawn(made + number)[made:]
    kinds = [KINDS[i % len(KINDS)] if plan.structure.plates else "prior" for i in range(made, made + number)]
    return [Job(len(jobs) + i, kind, None, child) for i, (kind, child) in enumerate(zip(kinds, children))]


def inner_jobs(plan: Plan, jobs: list[Job], seed: int | None) -> list[Job]:
    """Starts of wide components that are much alike, for an inner mode where all of `jobs` have collapsed.

    The seeds are those of no other start.
    """
    children = np.random.SeedSequence(seed, spawn_key=(INNER,)).spawn(INNER)
    kind = "soft" if plan.structure.plates else "prior"
    points = [start_point(plan, kind, np.random.default_rng(child)) for child in children]
    return [Job(len(jobs) + i, kind, theta, None) for i, theta in enumerate(points)]


def run(
    plan: Plan, jobs: list[Job], options: dict[str, Any], workers: int, progress: Any, record: bool, kept: Any = None
) -> Reached:
    """The ascents of the jobs; those left behind after a short run have Status.SHORT. kept: as `each` has it."""
    work = sum(
        d.size * p.n_configurations * (d.features.shape[1] + 2)
        for p, d in zip(plan.structure.plates, plan.engine.plates)
    )
    staged = len(jobs) > CARRIED_ON + 2 and work * len(jobs) * SHORT_RUN > CHEAP and options["max_iter"] > SHORT_RUN
    if not staged:
        return each(plan, jobs, [job.theta for job in jobs], options, workers, progress, record, kept)
    short_kept, long_kept = (kept and kept.stage(name) for name in ("short", "long"))
    shorter = options | {"max_iter": SHORT_RUN, "finish": False}
    reached = each(
        plan.sample or plan, jobs, [job.theta for job in jobs], shorter, workers, progress, False, short_kept
    )
    if plan.sample is not None:
        _on_all_rows(plan, reached)
    if reached.interrupted:
        return reached
    short = [ascent for ascent in reached.ascents if ascent is not None]  # all of them
    order = sorted(range(len(jobs)), key=lambda i: -short[i].objective if np.isfinite(short[i].objective) else np.inf)
    alive = [i for i in order if short[i].status in (Status.MAX_ITER, Status.CONVERGED)]
    chosen = sorted({*alive[:CARRIED_ON], *(i for i, job in enumerate(jobs) if job.kind == "given")})
    thetas = [short[i].theta or jobs[i].theta for i in chosen]
    long = each(plan, [jobs[i] for i in chosen], thetas, options, workers, progress, record, long_kept)
    results: list[Ascent | None] = [
        replace(r, status=Status.SHORT) if r.status is Status.MAX_ITER else r for r in short
    ]
    for i, result in zip(chosen, long.ascents):
        if result is None or not np.isfinite(result.objective):
            continue
        results[i] = replace(
            result, path=np.concatenate([short[i].path, result.path[1:]]),
            n_iter=short[i].n_iter + result.n_iter, n_passes=short[i].n_passes + result.n_passes,
        )  # fmt: skip
    return Reached(results, long.interrupted, [*reached.notes, *long.notes])


def _on_all_rows(plan: Plan, reached: Reached) -> None:
    """Short runs on a sample of the rows, as ones of no steps over all of them from where they ended, best first.

    After Ctrl-C the best alone: one pass says what it is worth.
    """
    found = {i: a for i, a in enumerate(reached.ascents) if a is not None and a.theta and np.isfinite(a.objective)}
    order = sorted(found, key=lambda i: -found[i].objective)
    if reached.interrupted:
        reached.ascents = [None] * len(reached.ascents)
        order = order[:1]
    for k, i in enumerate(order):
        try:
            reached.ascents[i] = _over_all_rows(plan, found[i])
        except KeyboardInterrupt:
            if not k:
                raise
            reached.interrupted = True
            for j in order[k:]:
                reached.ascents[j] = None
            break


def _over_all_rows(plan: Plan, result: Ascent) -> Ascent:
    value = plan.e_step(result.theta).objective
    status = Status.MAX_ITER if result.status is Status.CONVERGED else result.status  # it did so on the sample alone
    return replace(
        result, objective=value, status=status, path=np.array([value]), trace=[], n_iter=0, n_passes=1, information=None
    )
