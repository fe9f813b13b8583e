"""From what the starts reached to one fit: judged, counted as modes, certified."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from emppl.ascent import certificate as evidence
from emppl.ascent.agreement import Agreement, agreement, modes_of
from emppl.ascent.border import NEAR_ENOUGH
from emppl.ascent.degeneracy import (
    check_possible,
    collapse,
    collapsed_on_ties,
    empty,
    is_vanishing,
    narrow,
    narrowest,
    runs_off,
    spurious,
)
from emppl.ascent.loop import USABLE, Ascent, Status, polish
from emppl.ascent.pool import Job, Reached
from emppl.ascent.result import Fit, is_affordable, make_fit
from emppl.ascent.starts import TIES_MATTER, heaviest_tie, start_point
from emppl.ascent.unbounded import Collapse, followed
from emppl.errors import NoStartError
from emppl.inference.information import observed_information
from emppl.interrupts import noticed
from emppl.planner import Plan
from emppl.structure.initial import initial_point

FOLLOWED = 5  # collapsed ascents, the highest ones, that are followed further


class _Attempts:
    """What a fit can do without, step by step: from Ctrl-C on, nothing more of it. A second one is not caught."""

    def __init__(self, stopped: bool) -> None:
        self.stopped = stopped

    def __call__(self, otherwise: Any, function: Callable[..., Any], *arguments: Any) -> Any:
        """What the function gives; `otherwise` where Ctrl-C came before its end."""
        if self.stopped:
            return otherwise
        try:
            with noticed():
                return function(*arguments)
        except KeyboardInterrupt:
            self.stopped = True
            return otherwise


def conclude(
    plan: Plan, jobs: list[Job], reached: Reached, options: dict[str, Any], seed: Any, began: float, errors: bool
) -> Fit:  # fmt: skip
    """The Fit of what the starts reached. Ctrl-C, there or here, leaves out what is still to be looked at.

    errors: whether the curvature is looked at where the ascent has not done so.

    Raises NoStartError where no start has a finite objective, KeyboardInterrupt where none has one yet.
    """
    attempt = _Attempts(reached.interrupted)
    made = {i: ascent for i, ascent in enumerate(reached.ascents) if ascent is not None}
    if reached.interrupted:  # what it came upon before a first value has reached nothing
        made = {i: a for i, a in made.items() if np.isfinite(a.objective) or a.status is not Status.INTERRUPTED}
    place = {i: k for k, i in enumerate(made)}
    twins = {place[i]: place[j] for i, j in reached.twins.items() if i in made and j in made}
    jobs, results = [jobs[i] for i in made], [*made.values()]
    finite = [i for i, r in enumerate(results) if r.theta and np.isfinite(r.objective)]
    if not plan.structure.parameters and results:
        finite = [0]
    if not finite and attempt.stopped:
        raise KeyboardInterrupt("stopped before any start had a finite objective")
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
    modes = modes_of(results, finite, twins)
    agreed = agreement(results, [job.kind != "given" and job.drawn for job in jobs], best, twins)
    ties = max((attempt(0, _ties_under, plan, job, r) for job, r in zip(jobs, results)), default=0)
    n_rows = max((p.size for p in plan.structure.plates), default=1)
    gone = [r for r in results if _has_collapsed(plan, r)]
    held = attempt(None, _held, plan, gone) if gone else None
    all_gone = winner.status not in USABLE and bool(gone)
    if _has_collapsed(plan, winner):
        winner = attempt(winner, _before_the_collapse, plan, winner)
    winner = attempt(winner, _finished, plan, winner, options) if errors else _unfinished(winner)
    results[best], information = winner, winner.information
    notes = (*reached.notes, *attempt((), _notes, plan, jobs, results, winner, held))
    points = _points(attempt, plan, winner, agreed, options["tol"], errors)
    written = attempt(None, evidence.as_it_stands, plan.sample or plan, winner.theta)  # by what the points compiled
    notes = (*notes, *([written] if written else []))
    status = winner.status
    if status in (Status.CONVERGED, Status.MAX_ITER) and any(p.name == "log joint" and not p.holds for p in points):
        status = Status.DISAGREES
    tied = ties >= max(3, TIES_MATTER * n_rows)
    if held is not None and ((held.is_unbounded and (all_gone or tied)) or (plan.estimate == "ml" and tied)):
        status = Status.DEGENERATE
        points.append(evidence.Point("bounded", False, float(ties), 0.0, _unbounded(plan, held, ties, winner)))
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

    def dressed() -> Fit:
        ended, said = status, notes
        if attempt.stopped:
            said = (*notes, f"stopped by Ctrl-C: {_left_out(points)}")
            ended = status if status in (Status.DEGENERATE, Status.DISAGREES) else Status.INTERRUPTED
        return make_fit(
            plan, winner, ended, information, evidence.Certificate(tuple(points), said), table,
            [r.path for r in results], seed, time.perf_counter() - began,
        )  # fmt: skip

    return attempt(None, dressed) or dressed()


def judge(plan: Plan, reached: Reached, among: Sequence[int]) -> None:
    """Each ascent `among` them looked at once more (`judged`); not all rows of a source again after Ctrl-C."""
    attempt = _Attempts(reached.interrupted)
    for i in among:
        ascent = reached.ascents[i]
        if ascent is not None and not reached.interrupted:
            reached.ascents[i] = attempt(ascent, judged, plan, ascent)
        elif ascent is not None and plan.sample is None:
            reached.ascents[i] = judged(plan, ascent)
    reached.interrupted = attempt.stopped


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
    if not is_affordable(plan):
        return replace(winner, information=None)
    if options["accelerate"] is None or winner.status is not Status.CONVERGED:
        return replace(
            winner, information=observed_information(plan, plan.structure.coordinates.unconstrain(winner.theta))
        )
    return polish(plan, winner, options["tol"])


def _unfinished(winner: Ascent) -> Ascent:
    """The winner without what was known of the curvature near by."""
    known = winner.information
    return replace(winner, information=None) if known is not None and known.carried else winner


def judged(plan: Plan, result: Ascent) -> Ascent:
    """A converged ascent looked at once more: is the mode spurious, or a saddle?"""
    if result.status not in (Status.CONVERGED, Status.MAX_ITER) or not result.theta:
        return result
    off = runs_off(plan, result.theta, result.information) if plan.method == "em" else None
    if off:
        return replace(result, status=Status.DEGENERATE, reason=off)
    if not _is_at_rest(result) and is_vanishing(plan, result.theta):
        ahead = followed(plan, result.theta)
        if ahead is not None and ahead.is_unbounded:
            return replace(result, status=Status.DEGENERATE, reason=narrowest(plan, result.theta), collapsed=True)
    if result.status is Status.MAX_ITER:
        return result
    posterior = plan.e_step(result.theta)
    reason = spurious(plan, result.theta, posterior)
    if reason:
        return replace(result, status=Status.SPURIOUS, reason=reason)
    if result.information is not None and not result.information.is_maximum:
        ahead = followed(plan, result.theta)
        if ahead is not None and ahead.is_unbounded and ahead.at_once:
            return replace(result, status=Status.DEGENERATE, reason=narrowest(plan, result.theta), collapsed=True)
        return replace(result, status=Status.SADDLE, reason="the curvature is positive in one direction")
    return replace(result, reason=empty(plan, posterior) or result.reason)


def _is_at_rest(result: Ascent) -> bool:
    known = result.information
    return result.status is Status.CONVERGED and (known is None or known.decrement < NEAR_ENOUGH)


def _ties_under(plan: Plan, job: Job, result: Ascent) -> int:
    """How many equal rows a collapsed start sits on: those it was put on, or those its narrowest component holds."""
    if result.status is not Status.DEGENERATE or not result.theta:
        return 0
    tie = heaviest_tie(plan) if job.kind == "ties" else None
    return len(tie[1]) if tie is not None else collapsed_on_ties(plan.sample or plan, result.theta)


def all_collapsed(plan: Plan, results: list[Ascent]) -> bool:
    """Whether no ascent came to rest, and a spread has collapsed in one of them at least."""
    ended = [r for r in results if r.theta and np.isfinite(r.objective)]
    gone = (Status.DEGENERATE, Status.SADDLE)
    return bool(ended) and all(r.status in gone for r in ended) and any(_has_collapsed(plan, r) for r in ended)


def _has_collapsed(plan: Plan, result: Ascent) -> bool:
    if result.status is not Status.DEGENERATE or not result.theta:
        return False
    return result.collapsed or is_vanishing(plan, result.theta) or collapse(plan, result.theta, None) is not None


def _held(plan: Plan, gone: list[Ascent]) -> Collapse | None:
    """The collapse of the highest ascent that has no bound, of the highest where all have one.

    Where a centre is left beside its values by the last digits, no narrower spread is of use: others tell more.
    """
    best = sorted(gone, key=lambda r: -r.objective)[:FOLLOWED]
    found = [followed(plan, r.theta) for r in best]
    return next((c for c in found if c is not None and c.is_unbounded), found[0])


def _before_the_collapse(plan: Plan, result: Ascent) -> Ascent:
    """A collapsed ascent as what it is worth: the point of equal shares, since the height it reached means nothing.

    Where all data are equal, that has a spread of zero too: then it is the point that the priors give.
    """
    theta = start_point(plan, "alike", np.random.default_rng(0))
    value = plan.e_step(theta).objective
    if not np.isfinite(value):
        theta = initial_point(plan.structure)
        value = plan.e_step(theta).objective
    return replace(result, theta=theta, objective=float(value), information=None)


def _unbounded(plan: Plan, held: Collapse, ties: int, winner: Ascent) -> str:
    what = "likelihood" if plan.estimate == "ml" else "posterior density"
    why = (
        f"{ties} observations are equal, and a component that sits on them can be made ever narrower"
        if ties
        else f"a spread of {held.of} can be made ever narrower"
    )
    shown = {
        True: "what is reported is the best inner mode",
        False: "no inner mode was found, and what is reported is a point before any collapse, no estimate",
    }[winner.status in USABLE]
    return f"the {what} has no maximum: {why}; {shown}. Way out: {held.remedy}"


def _notes(
    plan: Plan, jobs: list[Job], results: list[Ascent], winner: Ascent, held: Collapse | None
) -> tuple[str, ...]:
    notes = []
    if any(job.kind == "ties" and result.status is Status.CONVERGED for job, result in zip(jobs, results)):
        _, rows = heaviest_tie(plan) or (0, [])
        notes.append(
            f"{len(rows)} observations are equal, so in principle the likelihood has no upper bound: a component on "
            "them alone could be made ever narrower; the start that was put there climbed to an inner mode instead"
        )
    collapsed = [r for r in results if r.status is Status.DEGENERATE]
    if collapsed:
        cure = "a prior on it may be the cure" if held is None else held.remedy
        aside = "grew without bound" if len(collapsed) == len(results) else "grew without bound and were set aside"
        notes.append(f"{len(collapsed)} of {len(results)} starts {aside} ({collapsed[0].reason}); {cure}")
    higher = [r for r in results if r.status is Status.SPURIOUS and r.objective > winner.objective]
    if higher:
        notes.append(
            f"a higher but spurious mode was set aside at {max(r.objective for r in higher):.6f}: {higher[0].reason}"
        )
    if not any(result.status is Status.INTERRUPTED for result in results):
        notes += [axis.sentence() for axis in plan.symmetries if axis not in plan.axes]
        notes += plan.symmetry_notes
    if winner.theta:
        posterior = plan.e_step(winner.theta)
        for found in (narrow(plan, winner.theta, posterior), empty(plan, posterior)):
            if found:
                notes.append(found)
    return tuple(notes)


def _points(
    attempt: _Attempts,
    plan: Plan,
    winner: Ascent,
    agreed: Agreement,
    tol: float,
    errors: bool,
) -> list[evidence.Point]:
    in_memory = plan.sample or plan  # what is checked row by row is where rows are streamed checked on some
    points = [attempt(None, evidence.log_joint_agrees, in_memory, winner.theta)]
    if plan.structure.parameters:
        u = plan.structure.coordinates.unconstrain(winner.theta)
        points.append(attempt(None, evidence.gradient_agrees, in_memory, u))
    points.append(evidence.monotone(winner.largest_fall, winner.n_iter, winner.status is Status.DEGENERATE))
    if winner.status is Status.DEGENERATE:
        points.append(evidence.Point("maximum", False, winner.objective, 0.0, winner.reason))
    elif attempt.stopped and winner.information is None:
        points.append(evidence.Point("maximum", False, np.inf, tol, "not looked at: the fit was stopped"))
    elif winner.information is not None:
        points.append(attempt(None, evidence.is_maximum, plan, winner.information, tol))
    elif not errors:
        text = "not asked for: standard_errors=False leaves out the curvature, which tells a maximum from a saddle"
        points.append(evidence.Point("maximum", False, np.inf, tol, text))
    elif plan.method == "em" and winner.theta and not is_affordable(plan):
        text = (f"not judged: with {plan.structure.coordinates.size:,} coordinates and so many members the curvature "
                "would take long; fit.standard_errors() looks at it all the same")  # fmt: skip
        points.append(evidence.Point("maximum", False, np.inf, tol, text))
    points.append(evidence.starts_agree(agreed))
    return [point for point in points if point is not None]


def _left_out(points: list[evidence.Point]) -> str:
    """The checks that were not made, by name."""
    missing = [name for name in ("log joint", "gradient", "maximum") if name not in {point.name for point in points}]
    return f"not checked: {', '.join(missing)}" if missing else "all checks were made before"
