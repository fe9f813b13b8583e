"""Which starts are made, and how far each goes: where passes are dear, short runs first, the best ones to the end."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from emppl.ascent.arguments import given_starts
from emppl.ascent.loop import Ascent, Status
from emppl.ascent.pool import Job, each
from emppl.ascent.starts import KINDS, PROBED, heaviest_tie
from emppl.planner import Plan

SHORT_RUN = 24  # E-steps of a short run
CHEAP = 4e7  # densities × features of all starts' short runs up to which every start goes to the end
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


def run(
    plan: Plan, jobs: list[Job], options: dict[str, Any], workers: int, progress: Any, record: bool
) -> list[Ascent]:
    """The ascents of the jobs, in their order; those left behind after a short run have Status.SHORT."""
    work = sum(
        d.size * p.n_configurations * (d.features.shape[1] + 2)
        for p, d in zip(plan.structure.plates, plan.engine.plates)
    )
    staged = len(jobs) > CARRIED_ON + 2 and work * len(jobs) * SHORT_RUN > CHEAP and options["max_iter"] > SHORT_RUN
    if not staged:
        return each(plan, jobs, [job.theta for job in jobs], options, workers, progress, record)
    shorter = options | {"max_iter": SHORT_RUN, "finish": False}
    short = each(plan.sample or plan, jobs, [job.theta for job in jobs], shorter, workers, progress, False)
    if plan.sample is not None:
        short = [_on_all_rows(plan, result) for result in short]
    if any(result.status is Status.INTERRUPTED for result in short):
        return short
    order = sorted(range(len(jobs)), key=lambda i: -short[i].objective if np.isfinite(short[i].objective) else np.inf)
    alive = [i for i in order if short[i].status in (Status.MAX_ITER, Status.CONVERGED)]
    chosen = sorted({*alive[:CARRIED_ON], *(i for i, job in enumerate(jobs) if job.kind == "given")})
    thetas = [short[i].theta or jobs[i].theta for i in chosen]
    long = each(plan, [jobs[i] for i in chosen], thetas, options, workers, progress, record)
    results = [replace(r, status=Status.SHORT) if r.status is Status.MAX_ITER else r for r in short]
    for i, result in zip(chosen, long):
        results[i] = replace(
            result, path=np.concatenate([short[i].path, result.path[1:]]),
            n_iter=short[i].n_iter + result.n_iter, n_passes=short[i].n_passes + result.n_passes,
        )  # fmt: skip
    return results


def _on_all_rows(plan: Plan, result: Ascent) -> Ascent:
    """A short run on a sample of the rows, as one of no steps over all of them from where it ended."""
    if not result.theta or not np.isfinite(result.objective):
        return result
    value = plan.e_step(result.theta).objective
    status = Status.MAX_ITER if result.status is Status.CONVERGED else result.status  # it did so on the sample alone
    return replace(
        result, objective=value, status=status, path=np.array([value]), trace=[], n_iter=0, n_passes=1, information=None
    )
