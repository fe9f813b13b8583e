"""Which starts are made, and how far each goes: a race, in which those that cannot come to the best are left behind.

All go on together, half as many passes again each time; then each is asked whether its gains, which fall by a ratio,
could still bring it to the best that has ended (Aitken's rule, with a margin, since slow EM often gains speed again).
Where passes are cheap a start is left behind only once it has had as many as the best had to its end. Where they are
dear it is so at once, and of those still under way the better half goes on; but some, drawn at random, go on all the
same, so that starts may be judged by them. Where rows are many, the race is run on some of them first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Any

import numpy as np

from emppl.ascent.arguments import given_starts
from emppl.ascent.conclude import judge
from emppl.ascent.loop import Ascent, Status
from emppl.ascent.pool import Crew, Job, Reached, each
from emppl.ascent.rows import on_some_rows
from emppl.ascent.starts import KINDS, PROBED, heaviest_tie, start_point
from emppl.planner import Plan

SHORT_RUN = 24  # E-steps to the first look
AFTER_SOME = 8  # the same of starts that come from where they ended on some rows
LONGER = 1.5  # times as many to the next one
CHEAP = 4e7  # densities × features of all starts' short runs up to which starts are cheap
INNER = 6  # starts that look for an inner mode where all others have collapsed
DRAWN = 5  # random starts that go to the end, whatever they promise, where starts are dear
MARGIN = 4.0  # times the gain that is estimated
AHEAD = 4  # times as many passes as a start has had that it may take for it
SAME_END = 0.1  # nats of all rows: ends on some rows that are one


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
    chosen = {*range(number)}
    if is_dear(plan, number):
        rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(DRAWN, made)))
        chosen = {*rng.permutation(number)[:DRAWN].tolist()}
    return [Job(len(jobs) + i, kinds[i], None, children[i], i in chosen) for i in range(number)]


def inner_jobs(plan: Plan, jobs: list[Job], seed: int | None) -> list[Job]:
    """Starts of wide components that are much alike, for an inner mode where all of `jobs` have collapsed.

    The seeds are those of no other start.
    """
    children = np.random.SeedSequence(seed, spawn_key=(INNER,)).spawn(INNER)
    kind = "soft" if plan.structure.plates else "prior"
    points = [start_point(plan, kind, np.random.default_rng(child)) for child in children]
    return [Job(len(jobs) + i, kind, theta, None) for i, theta in enumerate(points)]


def run(
    plan: Plan, jobs: list[Job], seed: int | None, options: dict[str, Any], workers: int, progress: Any, record: bool,
    kept: Any = None, others: Sequence[Ascent] = (),
) -> Reached:  # fmt: skip
    """The judged ascents of the jobs; those left behind have Status.SHORT. kept: as `each` has it.

    others: ascents that have ended, which these are measured by as well.
    """
    reached = Reached([None] * len(jobs))
    random = [i for i, job in enumerate(jobs) if job.kind != "given"]
    few = on_some_rows(plan, seed) if random and is_dear(plan, len(jobs)) else None
    if few is not None:
        first = _Race(few, [replace(jobs[i], drawn=True) for i in random], workers, progress)
        coarse = options | {"finish": False, "tol": max(options["tol"], SAME_END / 10)}
        found = first.run(Reached([None] * len(random)), coarse, False, kept and kept.stage("some rows"))
        ends = {i: ascent.objective for i, ascent in zip(random, found.ascents) if ascent is not None}
        _on_all_rows(plan, found)
        for i, ascent in zip(random, found.ascents):
            reached.ascents[i] = ascent
        reached.interrupted, reached.notes = found.interrupted, found.notes
        if reached.interrupted:
            return reached
        _chosen(few, reached, ends, jobs)
    first_look = SHORT_RUN if few is None else AFTER_SOME
    return _Race(plan, jobs, workers, progress, others, first_look).run(reached, options, record, kept)


def is_dear(plan: Plan, starts: int) -> bool:
    """Whether to carry so many starts to the end would take long."""
    return (plan.engine.products + 2 * plan.engine.densities) * starts * SHORT_RUN > CHEAP


@dataclass(frozen=True)
class _Race:
    """The starts `jobs` on one plan, measured by each other and by `others`, which have ended."""

    plan: Plan
    jobs: list[Job]
    workers: int
    progress: Any
    others: Sequence[Ascent] = ()
    first_look: int = SHORT_RUN  # E-steps

    def run(self, reached: Reached, options: dict[str, Any], record: bool, kept: Any) -> Reached:
        """`reached` with each start carried to where it ends, or is left behind; None there where one begins."""
        with Crew(self.plan, self.workers) as crew:
            return self._run(reached, options, record, kept, crew)

    def _run(self, reached: Reached, options: dict[str, Any], record: bool, kept: Any, crew: Crew) -> Reached:
        ascents, limit, dear = reached.ascents, self.first_look, not all(job.drawn for job in self.jobs)
        while todo := self._still_to_run(ascents):
            alone = len(todo) == 1 and not self._has_ended(ascents)  # there is nothing to measure it by
            limit = options["max_iter"] if alone else min(limit, options["max_iter"])
            first = dear and limit == self.first_look < options["max_iter"]  # compared before any is finished
            more = each(
                self.plan, [self.jobs[i] for i in todo], [ascents[i] for i in todo],
                options | {"max_iter": limit} | ({"finish": False} if first else {}),
                crew, self.progress, record, kept and kept.stage(f"to {limit}"),
            )  # fmt: skip
            for i, ascent in zip(todo, more.ascents):
                if ascent is not None:
                    goes_on = first and ascent.status is Status.CONVERGED
                    ascents[i] = replace(ascent, status=Status.MAX_ITER) if goes_on else ascent
            reached.interrupted, reached.notes = more.interrupted, [*reached.notes, *more.notes]
            is_last = limit == options["max_iter"] or reached.interrupted
            judge(self.plan, reached, [i for i in todo if is_last or i not in _under_way(ascents)])
            if is_last or reached.interrupted:
                break
            reasons, twins = self._left_behind(ascents)
            _leave_behind(ascents, reasons)
            reached.twins |= twins
            limit = int(LONGER * limit)
        if reached.interrupted:
            for i, ascent in _under_way(ascents).items():
                ascents[i] = replace(ascent, status=Status.INTERRUPTED)
        return reached

    def _still_to_run(self, ascents: list[Ascent | None]) -> list[int]:
        """Those under way; where none of them has come to a maximum, the best of those left behind."""
        todo = [i for i, a in enumerate(ascents) if a is None or a.status is Status.MAX_ITER]
        if todo or self._has_ended(ascents):
            return todo
        left = {i: a.objective for i, a in enumerate(ascents) if a is not None and a.status is Status.SHORT}
        return sorted(left, key=lambda i: -left[i])[:1]

    def _has_ended(self, ascents: list[Ascent | None]) -> bool:
        """Whether a start has come to a maximum."""
        return any(a is not None and a.status is Status.CONVERGED for a in (*self.others, *ascents))

    def _left_behind(self, ascents: list[Ascent | None]) -> tuple[dict[int, str], dict[int, int]]:
        """Which of the starts under way go no further, and why; those of them that have a twin which does."""
        under_way = _under_way(ascents)
        drawn = {i for i, job in enumerate(self.jobs) if job.drawn}
        ended = [a for a in (*self.others, *ascents) if a is not None and a.status is Status.CONVERGED]
        reasons: dict[int, str] = {}
        if ended:
            best = max(ended, key=lambda a: a.objective)
            for i, a in under_way.items():
                gap, gain = best.objective - a.objective, gain_ahead(a)
                if gain < gap and (i not in drawn or a.n_passes >= best.n_passes):
                    reasons[i] = (
                        f"{gap:.3g} nats below a start that took {best.n_passes} passes, after {a.n_passes}, and about "
                        f"{gain / MARGIN:.2g} nats to gain"
                    )
        twins = _twins({i: a.objective for i, a in under_way.items() if i not in reasons}, drawn)
        reasons |= _as_well(twins, self.jobs)
        free = sorted({*under_way} - drawn - {*reasons}, key=lambda i: -under_way[i].objective)
        half = ceil(len(free) / 2)
        behind = {i: f"behind {half} others after {under_way[i].n_passes} passes" for i in free[half:]}
        return reasons | behind, twins


def _under_way(ascents: Sequence[Ascent | None]) -> dict[int, Ascent]:
    return {i: a for i, a in enumerate(ascents) if a is not None and a.status is Status.MAX_ITER}


def _leave_behind(ascents: list[Ascent | None], reasons: dict[int, str]) -> None:
    for i, ascent in _under_way(ascents).items():
        if i in reasons:
            ascents[i] = replace(ascent, status=Status.SHORT, reason=reasons[i])


def gain_ahead(ascent: Ascent) -> float:
    """What a start could gain, in nats, in AHEAD times the passes it has had, with a margin; inf while it gains speed.

    Its gains over quarters of its path are taken to go on falling by the same ratio (Aitken).
    """
    quarter = (len(ascent.path) - 1) // 4
    if not quarter:
        return float("inf")
    before, last = np.diff(ascent.path[-1 - 2 * quarter :: quarter])
    if last > before:
        return float("inf")
    ratio = last / before if last > 0 else 0.0
    return float(MARGIN * last * sum(ratio**n for n in range(1, 1 + 4 * AHEAD)))


def _chosen(few: Plan, reached: Reached, ends: dict[int, float], jobs: list[Job]) -> None:
    """Leave behind what ended too low on some rows, or where another did; `reached` are those ends over all rows.

    The best point of some rows is not that of all. For P parameters that costs P / 2 nats for each row that a row
    stands for, give or take the square root of that.
    """
    ascents, drawn = reached.ascents, {i for i, job in enumerate(jobs) if job.drawn}
    stands_for = max(float(np.mean(weights)) for weights in few.engine.weights if weights is not None)
    rows = " and ".join(f"{size:,}" for size in few.engine.sizes)
    margin = few.structure.coordinates.size * stands_for
    heights = {i: ascent.objective for i, ascent in _under_way(ascents).items() if i in ends}
    gaps = {i: max(heights.values()) - height for i, height in heights.items()}
    reasons = {
        i: f"ended on {rows} rows, from where it is {gap:.3g} nats behind over all rows"
        for i, gap in gaps.items() if gap > margin and i not in drawn
    }  # fmt: skip
    reached.twins = _twins({i: ends[i] for i in heights if i not in reasons}, drawn)
    _leave_behind(ascents, reasons | _as_well(reached.twins, jobs))
    if not heights:  # nothing of use: all begin anew, over all rows
        for i in ends:
            ascents[i] = None


def _twins(heights: dict[int, float], drawn: set[int]) -> dict[int, int]:
    """Starts that are as high as another one, which goes on: one is enough; none of those drawn."""
    kept: list[int] = []
    found: dict[int, int] = {}
    for i in sorted(heights, key=lambda i: (i not in drawn, -heights[i])):
        twin = next((j for j in kept if abs(heights[i] - heights[j]) < SAME_END), None)
        if twin is None or i in drawn:
            kept.append(i)
        else:
            found[i] = twin
    return found


def _as_well(twins: dict[int, int], jobs: list[Job]) -> dict[int, str]:
    return {i: f"where start {jobs[twin].number} is as well, to {SAME_END:g} nats" for i, twin in twins.items()}


def _on_all_rows(plan: Plan, reached: Reached) -> None:
    """Ascents on some of the rows as ones of no steps over all of them from where they ended, best first.

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
    unsound = result.status in (Status.DEGENERATE, Status.INTERRUPTED) or not np.isfinite(value)
    return replace(
        result, objective=value, status=result.status if unsound else Status.MAX_ITER, path=np.array([value]), trace=[],
        n_iter=0, n_passes=1, information=None, reason=result.reason if unsound else "",
    )  # fmt: skip
