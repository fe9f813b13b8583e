"""`fit`: many starts, one fit, with what the windows of unbounded latents neglect."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from emppl.arguments import STARTS_AT_MOST, Seed, as_path, as_seed, as_tolerance, as_whole, check_keywords
from emppl.ascent.agreement import MOST_STARTS, agreement
from emppl.ascent.checkpoint import Checkpoint, call_of
from emppl.ascent.conclude import all_collapsed, conclude, winning
from emppl.ascent.degeneracy import check_data
from emppl.ascent.loop import USABLE, Status
from emppl.ascent.pool import Job, Reached
from emppl.ascent.result import Fit
from emppl.ascent.stages import further_jobs, inner_jobs, is_dear, make_jobs, run
from emppl.ascent.window import TAIL, tail_mass, tail_point, widened, windows
from emppl.compiling import untraced
from emppl.errors import InvalidArgumentError
from emppl.interrupts import noticed
from emppl.kernels.threads import one_blas_thread
from emppl.planner import Plan
from emppl.planner import plan as make_plan
from emppl.progress import Watcher, watching


def fit(
    model_or_plan: Any,
    *,
    starts: int = 10,
    start: Any = None,
    seed: Seed = None,
    tol: float = 1e-6,
    max_iter: int = 2000,
    accelerate: str | None = "squarem",
    obs_weights: Any = None,
    labels: Mapping[str, Any] | None = None,
    progress: bool | Callable[[dict[str, Any]], None] | None = None,
    workers: int = 1,
    source: Any = None,
    block_size: int | None = None,
    executor: Any = None,
    checkpoint: str | os.PathLike[str] | None = None,
    standard_errors: bool = True,
    **plan_options: Any,
) -> Fit:
    """The maximum-likelihood or MAP estimate of a model's parameters, latents summed out, with evidence that it is one.

    model_or_plan: a pm.Model, or what `emppl.plan` made of it. starts: random starts; start: {name: value} on the
    constrained scale, a Fit, or a list of these, used exactly and before the random ones (`starts=0` adds none).
    Starts race: one that is not gaining on the best is left behind once it has had as many passes (E-steps). Where
    passes are long it is so at once, after all have run on 20,000 of the rows, but for five drawn at random, by which
    starts may be judged. `fit.starts` has the reason. Up to three times as many random ones are made where starts are
    cheap and end in modes far apart, or the best mode was reached only once, as long as more modes are to be expected
    than were seen.
    seed: a whole number, a numpy Generator (which goes on in its stream) or SeedSequence; None: another each time.
    tol: estimated gain still to be had, in nats; 0: until max_iter. accelerate: "squarem" or None (textbook EM).
    obs_weights: one weight a member, or {observed name: weights}. labels: {latent: values}, masked or −1 where
    unknown. workers: processes; one that dies costs its start, which is made again. progress: True, a bar on standard
    error (lines, where that is a file) that is gone at the end; False, none; None, one on a terminal and in notebooks;
    or a callable, called with a dict a start. Further options go to `emppl.plan` (estimate, method, freeze, …).

    source: rows that do not fit in memory, for a model whose rows are pm.Data: {name: array} of arrays that are read
    in slices (memory-mapped, zarr, h5py, dask), a parquet file, a list or a generator function of blocks. Every pass
    goes over all blocks (block_size: rows of one, where arrays are sliced; 65,536 unless given), one in memory at a
    time; the result is that of all rows in memory, to rounding. Starts come from a sample of 4096 rows, on which the
    certificate's checks are done too. executor: a dask client, or anything with `submit` or `map`: blocks are then
    opened by its workers, the parameters travel there and sums come back. Raises UnsupportedModelError where a model
    needs its rows one by one, InvalidDataError naming the block and the row of a number that cannot be.

    checkpoint: a file that finished starts are written to, and in the midst of a start the passes over streamed rows.
    The same call goes on from it, to the result that it would have had without a break, bit for bit; once the fit has
    ended it gives that result again. workers, executor and progress may differ; a file of another call, model or data
    is refused (InvalidArgumentError names what differs), a damaged one too (SavedFitError). Nothing in it is executed.

    standard_errors: False leaves out the curvature at the estimate, which errors and the certificate's point "maximum"
    need, where the ascent had no use for it. The Fit makes errors when they are asked of it.

    Ctrl-C returns what was reached, with Status.INTERRUPTED, whatever was going on; a second one raises. Raises
    NoStartError if no start has a finite objective, WorkersLostError where a cluster has no worker left.
    """
    began = time.perf_counter()
    check_keywords(plan_options, "fit", fit, make_plan)
    seed = as_seed(seed)
    starts = as_whole(starts, "starts", 0, STARTS_AT_MOST)
    workers, max_iter = as_whole(workers, "workers", 1), as_whole(max_iter, "max_iter", 0, sys.maxsize)
    tol = as_tolerance(tol, "tol")
    if checkpoint is not None:
        as_path(checkpoint, "checkpoint")
    if starts == 0 and start is None:
        raise InvalidArgumentError(
            f"starts={starts} leaves nothing to start from", "starts", ("starts=10", "start={...}")
        )
    if accelerate not in (None, "squarem"):
        raise InvalidArgumentError(f"accelerate must be 'squarem' or None, not {accelerate!r}", "accelerate")
    if source is None and (block_size is not None or executor is not None):
        raise InvalidArgumentError(
            "block_size and executor are about a source of blocks, and none is given", "block_size, executor",
            ('source={"y": array}', "workers=2: starts in several processes"),
        )  # fmt: skip
    with watching(progress, ticking=workers < 2 and executor is None) as watcher:
        watcher.say("EM: compiling")
        if source is not None:
            from emppl.streaming import streamed

            if executor is not None and workers > 1:
                raise InvalidArgumentError(
                    "starts are not shared out where blocks are", "workers, executor", ("workers=1",)
                )
            given = {"obs_weights": obs_weights, "labels": labels, **plan_options}
            plan = streamed(model_or_plan, source, block_size=block_size, executor=executor, seed=seed, **given)
        elif isinstance(model_or_plan, Plan) and not plan_options and obs_weights is None and labels is None:
            plan = model_or_plan
        else:
            options = {"obs_weights": obs_weights, "labels": labels, **plan_options}
            if isinstance(model_or_plan, Plan):
                earlier = {"estimate": model_or_plan.estimate, "method": model_or_plan.method, **model_or_plan.options}
                options = earlier | {k: v for k, v in options.items() if v is not None}
            plan = make_plan(model_or_plan, **options)
        check_data(plan)
        options = {"tol": tol, "max_iter": max_iter, "accelerate": accelerate}
        with one_blas_thread(), untraced():
            kept, running = None, plan
            if checkpoint is not None:
                asked = {"starts": starts, "tol": tol, "max_iter": max_iter, "accelerate": accelerate}
                kept = Checkpoint(checkpoint, call_of(plan, start, block_size=block_size, **asked), seed)
                seed, running = kept.seed, kept.noting(plan)
            found = _from_starts(running, start, starts, seed, options, workers, watcher, began, kept, standard_errors)
            if windows(plan):
                found = _with_tails(found, starts, seed, options, workers, watcher, began, kept, standard_errors)
            return found if running is plan else replace(found, plan=plan)


def _from_starts(
    plan: Plan, start: Any, starts: int, seed: int | None, options: dict[str, Any], workers: int, progress: Watcher,
    began: float, kept: Checkpoint | None, errors: bool,
) -> Fit:  # fmt: skip
    of_these = kept and kept.round()
    jobs = make_jobs(plan, start, starts, seed)
    record = options["accelerate"] is None or len(jobs) == 1
    progress.say(f"EM: 0/{len(jobs)} starts", len(jobs))
    reached = run(plan, jobs, seed, options, workers, progress, record, of_these)
    try:
        while not reached.interrupted and (number := wanted(plan, jobs, reached, MOST_STARTS * starts)):
            further = further_jobs(plan, jobs, number, seed)
            more = run(plan, further, seed, options, workers, progress, record, of_these, reached.whole)
            jobs, reached = jobs + further, reached.followed_by(more)
        if starts and not reached.interrupted and all_collapsed(plan, reached.whole):
            inner = inner_jobs(plan, jobs, seed)
            more = run(plan, inner, seed, options, workers, progress, record, of_these, reached.whole)
            jobs, reached = jobs + inner, reached.followed_by(more)
        progress.say("EM: checking the certificate")
    except KeyboardInterrupt:
        reached.interrupted = True
    return conclude(plan, jobs, reached, options, seed, began, errors)


def wanted(plan: Plan, jobs: list[Job], reached: Reached, most: int) -> int:
    """How many more random starts are worth making, `most` in all: none where starts agree, or are dear."""
    results = reached.whole
    made = sum(job.kind != "given" for job in jobs)
    finite = [i for i, r in enumerate(results) if r.theta and np.isfinite(r.objective)]
    dear = plan.sample is not None or is_dear(plan, len(jobs))
    if dear or made < 2 or len(results) < len(jobs) or not any(results[i].status in USABLE for i in finite):
        return 0
    drawn = [job.kind != "given" and job.drawn for job in jobs]
    found = agreement(results, drawn, winning(results, finite), reached.twins)
    return min(found.missing, most - made)


def _with_tails(
    found: Fit,
    starts: int,
    seed: int | None,
    options: dict[str, Any],
    workers: int,
    progress: Watcher,
    began: float,
    kept: Checkpoint | None,
    errors: bool,
) -> Fit:
    """The fit with what its windows neglect measured; fitted again over longer windows until that is nothing."""
    try:
        with noticed():
            return _with_tails_measured(found, starts, seed, options, workers, progress, began, kept, errors)
    except KeyboardInterrupt:
        note = "stopped by Ctrl-C: what lies beyond the windows of unbounded counts was not measured"
        certificate = replace(found.certificate, notes=(*found.certificate.notes, note))
        return replace(found, certificate=certificate, status=Status.INTERRUPTED)


def _with_tails_measured(
    found: Fit,
    starts: int,
    seed: int | None,
    options: dict[str, Any],
    workers: int,
    progress: Watcher,
    began: float,
    kept: Checkpoint | None,
    errors: bool,
) -> Fit:
    if found.status is Status.INTERRUPTED:
        return found
    plan = found.plan
    assert isinstance(plan, Plan)  # just made
    masses = tail_mass(plan, found.point)
    while max(masses.values()) > TAIL and found.status is not Status.INTERRUPTED:
        wide = widened(plan)
        if wide is None:
            break
        found = _from_starts(wide, found.point, starts, seed, options, workers, progress, began, kept, errors)
        plan = wide
        masses = tail_mass(plan, found.point)
    points = (*found.certificate.points, tail_point(plan, masses))
    certificate = replace(found.certificate, points=points)
    return replace(found, certificate=certificate)
