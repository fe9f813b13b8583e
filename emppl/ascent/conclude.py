"""From what the starts reached to one fit: judged, counted as modes, certified."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from emppl.ascent import certificate as evidence
from emppl.ascent.agreement import Agreement, agreement, modes_of
from emppl.ascent.degeneracy import check_possible, collapsed_on_ties, empty, narrow, runs_off, spurious
from emppl.ascent.loop import USABLE, Ascent, Status, polish
from emppl.ascent.pool import Job
from emppl.ascent.result import Fit, make_fit
from emppl.ascent.starts import TIES_MATTER, heaviest_tie
from emppl.errors import NoStartError
from emppl.inference.information import observed_information
from emppl.planner import Plan


def conclude(
    plan: Plan, jobs: list[Job], results: list[Ascent], options: dict[str, Any], seed: int | None, began: float
) -> Fit:
    """The Fit of what the starts reached, as `judged` left it; jobs after the last result were not run.

    Raises NoStartError where no start has a finite objective.
    """
    jobs = jobs[: len(results)]
    finite = [i for i, r in enumerate(results) if r.theta and np.isfinite(r.objective)]
    if not plan.structure.parameters:
        finite = [0]
    if not finite:
        check_possible(plan)
        reasons = {r.reason for r in results}
        raise NoStartError(
            f"no start of {len(results)} reached a finite objective",
            f"first reasons: {'; '.join(sorted(reasons)[:3])}",
            ("give a start: emppl.fit(model, start={...})", "check that the data lie in the support of the model"),
        )
    best = winning(results, finite)
    winner = results[best]
    modes = modes_of(results, finite)
    agreed = agreement(results, [job.kind != "given" for job in jobs], best)
    ties = max((_ties_under(plan, job, r) for job, r in zip(jobs, results)), default=0)
    n_rows = max((p.size for p in plan.structure.plates), default=1)
    winner = _finished(plan, winner, options)
    results[best], information = winner, winner.information
    status = winner.status
    if status in USABLE and any(r.status is Status.INTERRUPTED for r in results):
        status = Status.INTERRUPTED
    notes = _notes(plan, jobs, results, winner)
    certificate = _certificate(plan, winner, information, agreed, options["tol"], notes)
    if status in (Status.CONVERGED, Status.MAX_ITER) and not all(p.holds for p in certificate.points[:1]):
        status = Status.DISAGREES
    if status in USABLE and plan.estimate == "ml" and ties >= max(3, TIES_MATTER * n_rows):
        status = Status.DEGENERATE
        unbounded = evidence.Point("bounded", False, float(ties), 0.0, _unbounded_on_ties(ties))
        certificate = replace(certificate, points=(*certificate.points, unbounded))
    table = pd.DataFrame(
        {
            "start": [j.number for j in jobs],
            "kind": [j.kind for j in jobs],
            "status": [r.status.name for r in results],
            "reason": [r.reason for r in results],
            "log_posterior": [r.objective for r in results],
            "n_iter": [r.n_iter for r in results],
            "n_passes": [r.n_passes for r in results],
            "mode": [modes.get(i, -1) for i in range(len(results))],
        }
    )
    return make_fit(
        plan,
        winner,
        status,
        information,
        certificate,
        table,
        [r.path for r in results],
        seed,
        time.perf_counter() - began,
    )


def winning(results: list[Ascent], finite: list[int]) -> int:
    """The best of the judged ascents `finite`: a maximum where there is one, of the others what comes nearest to it."""
    usable = [i for i in finite if results[i].status in USABLE]
    saddles = [i for i in finite if results[i].status in (Status.SADDLE, Status.SHORT)]
    doubtful = [i for i in finite if results[i].status is Status.SPURIOUS]
    return max(usable or saddles or doubtful or finite, key=lambda i: (results[i].objective, -i))


def _finished(plan: Plan, winner: Ascent, options: dict[str, Any]) -> Ascent:
    """The winner with its curvature; carried on by Newton unless the user asked for the textbook iterates."""
    usable = plan.method == "em" and plan.structure.parameters and winner.status is not Status.DEGENERATE
    if not usable or (winner.information is not None and not winner.information.carried):
        return winner
    if options["accelerate"] is None or winner.status is not Status.CONVERGED:
        return replace(
            winner, information=observed_information(plan, plan.structure.coordinates.unconstrain(winner.theta))
        )
    return polish(plan, winner, options["tol"])


def judged(plan: Plan, result: Ascent) -> Ascent:
    """A converged ascent looked at once more: is the mode spurious, or a saddle?"""
    if result.status not in (Status.CONVERGED, Status.MAX_ITER) or not result.theta:
        return result
    off = runs_off(plan, result.theta, result.information) if plan.method == "em" else None
    if off:
        return replace(result, status=Status.DEGENERATE, reason=off)
    if result.status is Status.MAX_ITER:
        return result
    posterior = plan.e_step(result.theta)
    reason = spurious(plan, result.theta, posterior)
    if reason:
        return replace(result, status=Status.SPURIOUS, reason=reason)
    if result.information is not None and not result.information.is_maximum:
        return replace(result, status=Status.SADDLE, reason="the curvature is positive in one direction")
    return replace(result, reason=empty(plan, posterior) or result.reason)


def _ties_under(plan: Plan, job: Job, result: Ascent) -> int:
    """How many equal rows a collapsed start sits on: those it was put on, or those its narrowest component holds."""
    if result.status is not Status.DEGENERATE or not result.theta:
        return 0
    tie = heaviest_tie(plan) if job.kind == "ties" else None
    return len(tie[1]) if tie is not None else collapsed_on_ties(plan.sample or plan, result.theta)


def _unbounded_on_ties(ties: int) -> str:
    return (
        f"the likelihood has no maximum: {ties} observations are equal, and a component that sits on them can be made "
        "ever narrower; what is reported is the best inner mode. A prior on the spread cures it: estimate='map'"
    )


def _notes(plan: Plan, jobs: list[Job], results: list[Ascent], winner: Ascent) -> tuple[str, ...]:
    notes = []
    if any(job.kind == "ties" and result.status is Status.CONVERGED for job, result in zip(jobs, results)):
        _, rows = heaviest_tie(plan) or (0, [])
        notes.append(
            f"{len(rows)} observations are equal, so in principle the likelihood has no upper bound: a component on "
            "them alone could be made ever narrower; the start that was put there climbed to an inner mode instead"
        )
    collapsed = [r for r in results if r.status is Status.DEGENERATE]
    if collapsed:
        cure = "a prior cures it: estimate='map'" if plan.estimate == "ml" else "a prior that vanishes there cures it"
        aside = "grew without bound" if len(collapsed) == len(results) else "grew without bound and were set aside"
        notes.append(f"{len(collapsed)} of {len(results)} starts {aside} ({collapsed[0].reason}); {cure}")
    higher = [r for r in results if r.status is Status.SPURIOUS and r.objective > winner.objective]
    if higher:
        notes.append(
            f"a higher but spurious mode was set aside at {max(r.objective for r in higher):.6f}: {higher[0].reason}"
        )
    if winner.theta:
        posterior = plan.e_step(winner.theta)
        for found in (narrow(plan, winner.theta, posterior), empty(plan, posterior)):
            if found:
                notes.append(found)
    return tuple(notes)


def _certificate(
    plan: Plan,
    winner: Ascent,
    information: Any,
    agreed: Agreement,
    tol: float,
    notes: tuple[str, ...],
) -> evidence.Certificate:
    in_memory = plan.sample or plan  # what is checked row by row is where rows are streamed checked on some
    points = [evidence.log_joint_agrees(in_memory, winner.theta)]
    written = evidence.as_it_stands(in_memory, winner.theta)
    notes = (*notes, *([written] if written else []))
    if plan.structure.parameters:
        u = plan.structure.coordinates.unconstrain(winner.theta)
        points.append(evidence.gradient_agrees(in_memory, u))
    points.append(evidence.monotone(winner.largest_fall, winner.n_iter, winner.status is Status.DEGENERATE))
    if winner.status is Status.DEGENERATE:
        points.append(evidence.Point("maximum", False, winner.objective, 0.0, winner.reason))
    elif information is not None:
        points.append(evidence.is_maximum(plan, information, tol))
    points.append(evidence.starts_agree(agreed))
    return evidence.Certificate(tuple(points), notes)
