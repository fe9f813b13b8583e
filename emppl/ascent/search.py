"""Many starts, one fit: short runs, full ascents, modes counted once up to relabelling."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from typing import Any

import numpy as np
import pandas as pd

from emppl.ascent import certificate as evidence
from emppl.ascent.degeneracy import check_data, check_possible, collapsed_on_ties, empty, narrow, runs_off, spurious
from emppl.ascent.loop import Ascent, Status, ascend, polish
from emppl.ascent.result import Fit, make_fit
from emppl.ascent.starts import KINDS, PROBED, TIES_MATTER, heaviest_tie, start_point
from emppl.ascent.window import TAIL, tail_mass, tail_point, widened, windows
from emppl.compiling import untraced
from emppl.errors import InvalidArgumentError, NoStartError, as_numbers
from emppl.inference.information import observed_information
from emppl.kernels.threads import one_blas_thread
from emppl.mstep.closed_form import RULE as CLOSED_RULE
from emppl.planner import Plan
from emppl.planner import plan as make_plan
from emppl.structure.initial import initial_point

Theta = dict[str, np.ndarray]
USABLE = (Status.CONVERGED, Status.MAX_ITER, Status.INTERRUPTED)
SHORT_RUN = 24  # E-steps of a short run
CHEAP = 4e7  # densities × features of all starts' short runs up to which every start goes to the end
CANDIDATES = 5  # first guesses for each start, of which the best goes on; one for three parameters where that is more
MOST_CANDIDATES = 20
CANDIDATE_RUN = 12  # E-steps that each of them gets
CHEAP_PASS = 3e6  # numbers in the products of one pass up to which several guesses are worth trying
CARRIED_ON = 4  # starts that go to the end where that is not cheap
SAME_MODE = 2e-5  # nats


@dataclass(frozen=True)
class _Job:
    number: int
    kind: str
    theta: Theta | None = field(repr=False)
    seed: np.random.SeedSequence | None = field(repr=False)


def fit(
    model_or_plan: Any,
    *,
    starts: int = 10,
    start: Any = None,
    seed: int | None = None,
    tol: float = 1e-6,
    max_iter: int = 2000,
    accelerate: str | None = "squarem",
    obs_weights: Any = None,
    labels: Mapping[str, Any] | None = None,
    progress: Callable[[dict[str, Any]], None] | None = None,
    workers: int = 1,
    source: Any = None,
    block_size: int | None = None,
    executor: Any = None,
    **plan_options: Any,
) -> Fit:
    """The maximum-likelihood or MAP estimate of a model's parameters, latents summed out, with evidence that it is one.

    model_or_plan: a pm.Model, or what `emppl.plan` made of it. starts: random starts; start: {name: value} on the
    constrained scale, a Fit, or a list of these, used exactly and before the random ones (`starts=0` adds none).
    tol: estimated gain still to be had, in nats. accelerate: "squarem" or None (textbook EM). obs_weights: one weight a
    member, or {observed name: weights}. labels: {latent: values}, masked or −1 where unknown. workers: processes.
    progress: called with a dict a start. Further options go to `emppl.plan` (estimate, method, freeze, support, …).

    source: rows that do not fit in memory, for a model whose rows are pm.Data: {name: array} of arrays that are read
    in slices (memory-mapped, zarr, h5py, dask), a parquet file, a list or a generator function of blocks. Every pass
    goes over all blocks (block_size: rows of one, where arrays are sliced; 65,536 unless given), one in memory at a
    time; the result is that of all rows in memory, to rounding. Starts come from a sample of 4096 rows, on which the
    certificate's checks are done too. executor: a dask client, or anything with `submit` or `map`: blocks are then
    opened by its workers, the parameters travel there and sums come back. Raises UnsupportedModelError where a model
    needs its rows one by one, InvalidDataError naming the block and the row of a number that cannot be.

    Ctrl-C returns what was reached, with Status.INTERRUPTED. Raises NoStartError if no start has a finite objective.
    """
    began = time.perf_counter()
    if starts < 0 or (starts == 0 and start is None):
        raise InvalidArgumentError(
            f"starts={starts} leaves nothing to start from", "starts", ("starts=10", "start={...}")
        )
    if accelerate not in (None, "squarem"):
        raise InvalidArgumentError(f"accelerate must be 'squarem' or None, not {accelerate!r}", "accelerate")
    if not tol > 0 or max_iter < 0:
        raise InvalidArgumentError(
            f"tol must be positive and max_iter not negative, not {tol} and {max_iter}", "tol, max_iter"
        )
    if source is None and (block_size is not None or executor is not None):
        raise InvalidArgumentError(
            "block_size and executor are about a source of blocks, and none is given", "block_size, executor",
            ('source={"y": array}', "workers=2: starts in several processes"),
        )  # fmt: skip
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
        found = _from_starts(plan, start, starts, seed, options, workers, progress, began)
        return _with_tails(found, starts, seed, options, workers, progress, began) if windows(plan) else found


def _from_starts(
    plan: Plan, start: Any, starts: int, seed: int | None, options: dict[str, Any], workers: int, progress: Any,
    began: float,
) -> Fit:  # fmt: skip
    jobs = _jobs(plan, start, starts, seed)
    record = options["accelerate"] is None or len(jobs) == 1
    results = _run(plan, jobs, options, workers, progress, record)
    return _conclude(plan, jobs, results, options, seed, began)


def _with_tails(
    found: Fit, starts: int, seed: int | None, options: dict[str, Any], workers: int, progress: Any, began: float
) -> Fit:
    """The fit with what its windows neglect measured; fitted again over longer windows until that is nothing."""
    plan = found.plan
    assert isinstance(plan, Plan)  # just made
    masses = tail_mass(plan, found.point)
    while max(masses.values()) > TAIL and found.status is not Status.INTERRUPTED:
        wide = widened(plan)
        if wide is None:
            break
        found, plan = _from_starts(wide, found.point, starts, seed, options, workers, progress, began), wide
        masses = tail_mass(plan, found.point)
    points = (*found.certificate.points, tail_point(plan, masses))
    certificate = replace(found.certificate, points=points)
    return replace(found, certificate=certificate)


def _jobs(plan: Plan, start: Any, starts: int, seed: int | None) -> list[_Job]:
    jobs = [_Job(i, "given", theta, None) for i, theta in enumerate(_given_starts(plan, start))]
    sequence = np.random.SeedSequence(seed)
    if not plan.structure.parameters:
        return [_Job(0, "nothing to estimate", {}, None)]
    kinds = [KINDS[i % len(KINDS)] if plan.structure.plates else "prior" for i in range(starts)]
    if starts >= PROBED and plan.estimate == "ml" and heaviest_tie(plan) is not None:
        kinds[-1] = "ties"  # does the likelihood have a maximum? A component on equal rows is the way it has none
    for kind, child in zip(kinds, sequence.spawn(starts)):
        jobs.append(_Job(len(jobs), kind, None, child))
    return jobs


def _given_starts(plan: Plan, start: Any) -> list[Theta]:
    if start is None:
        return []
    several = start if isinstance(start, Sequence) and not isinstance(start, str | bytes) else [start]
    return [_checked_start(plan, one) for one in several]


def _checked_start(plan: Plan, start: Any) -> Theta:
    if not hasattr(start, "point") and not isinstance(start, Mapping):
        example = ", ".join(f"{name!r}: ..." for name in plan.structure.parameter_names)
        raise InvalidArgumentError(
            f"start must be {{name: value}} or a Fit, not {start!r}", "start", (f"start={{{example}}}",)
        )
    given = dict(start.point if hasattr(start, "point") else start)
    values = {str(name): as_numbers(value, f"start[{name!r}]") for name, value in given.items()}
    names = plan.structure.parameter_names
    unknown = set(values) - set(names) - set(plan.frozen)
    if unknown:
        source = "the saved or earlier fit is of another model" if hasattr(start, "point") else "start"
        raise InvalidArgumentError(
            f"{', '.join(sorted(unknown))} is no parameter of this model", source, (f"parameters: {', '.join(names)}",)
        )
    theta = dict(initial_point(plan.structure)) if set(names) - set(values) else {}
    for node in plan.structure.parameters:
        if node.name in values:
            try:
                theta[node.name] = np.broadcast_to(values[node.name], node.shape).astype(float)
            except ValueError:
                raise InvalidArgumentError(
                    f"start has shape {np.shape(values[node.name])} for {node.name}, which has shape {node.shape}",
                    f"start[{node.name!r}]",
                ) from None
    u = plan.structure.coordinates.unconstrain(theta)
    for node in plan.structure.parameters:
        outside = np.isnan(u[plan.structure.coordinates.slices[node.name]]).any()
        if outside and not _is_simplex_border(node, theta[node.name]):
            raise InvalidArgumentError(
                f"start puts {node.name} = {np.asarray(theta[node.name])} outside its domain",
                f"{node.name} ~ {node.distribution}",
            )
    return theta


def _is_simplex_border(node: Any, value: np.ndarray) -> bool:
    """Weights with a zero among them: on the border of their domain, where logs of ratios are not numbers."""
    on_simplex = bool((value >= 0).all() and np.allclose(value.sum(axis=-1), 1.0))
    return getattr(node.transform, "name", None) == "simplex" and on_simplex


# -- running ---------------------------------------------------------------------------------------------------------

_SHARED: dict[str, Any] = {}  # what forked workers inherit: plans hold compiled functions, which do not pickle


def _one(job: _Job, theta: Theta | None, options: dict[str, Any], record: bool) -> Ascent:
    plan = _SHARED["plan"]
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


def _run(
    plan: Plan, jobs: list[_Job], options: dict[str, Any], workers: int, progress: Any, record: bool
) -> list[Ascent]:
    _SHARED["plan"] = plan
    work = sum(
        d.size * p.n_configurations * (d.features.shape[1] + 2)
        for p, d in zip(plan.structure.plates, plan.engine.plates)
    )
    staged = len(jobs) > CARRIED_ON + 2 and work * len(jobs) * SHORT_RUN > CHEAP and options["max_iter"] > SHORT_RUN
    if not staged:
        return _each(jobs, [job.theta for job in jobs], options, workers, progress, record)
    _SHARED["plan"] = plan.sample or plan
    short = _each(
        jobs, [job.theta for job in jobs], options | {"max_iter": SHORT_RUN, "finish": False}, workers, progress, False
    )
    _SHARED["plan"] = plan
    if plan.sample is not None:
        short = [_on_all_rows(plan, result) for result in short]
    if any(result.status is Status.INTERRUPTED for result in short):
        return short
    order = sorted(range(len(jobs)), key=lambda i: -short[i].objective if np.isfinite(short[i].objective) else np.inf)
    alive = [i for i in order if short[i].status in (Status.MAX_ITER, Status.CONVERGED)]
    chosen = sorted({*alive[:CARRIED_ON], *(i for i, job in enumerate(jobs) if job.kind == "given")})
    long = _each(
        [jobs[i] for i in chosen], [short[i].theta or jobs[i].theta for i in chosen], options, workers, progress, record
    )
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


def _each(
    jobs: list[_Job], thetas: list[Theta | None], options: dict[str, Any], workers: int, progress: Any, record: bool
) -> list[Ascent]:
    if workers > 1 and len(jobs) > 1 and hasattr(os, "fork"):
        with ProcessPoolExecutor(min(workers, len(jobs)), mp_context=get_context("fork")) as pool:
            found = list(pool.map(_one, jobs, thetas, [options] * len(jobs), [record] * len(jobs)))
        for i, job in enumerate(jobs if progress is not None else []):
            best = max((r.objective for r in found[: i + 1] if r.status in USABLE), default=-np.inf)
            progress(_event(job, jobs, found[i], best))
        return found
    results: list[Ascent] = []
    best = -np.inf
    for job, theta in zip(jobs, thetas):
        try:
            result = _one(job, theta, options, record)
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


def _event(job: _Job, jobs: list[_Job], result: Ascent, best: float) -> dict[str, Any]:
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


# -- conclusion --------------------------------------------------------------------------------------------------------


def _conclude(
    plan: Plan, jobs: list[_Job], results: list[Ascent], options: dict[str, Any], seed: int | None, began: float
) -> Fit:
    jobs = jobs[: len(results)]
    results = [judged(plan, result) for result in results]
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
    usable = [i for i in finite if results[i].status in USABLE]
    saddles = [i for i in finite if results[i].status in (Status.SADDLE, Status.SHORT)]
    doubtful = [i for i in finite if results[i].status is Status.SPURIOUS]
    pool = usable or saddles or doubtful or finite
    best = max(pool, key=lambda i: (results[i].objective, -i))
    winner = results[best]
    modes = _modes(results, finite)
    ties = max((_ties_under(plan, job, r) for job, r in zip(jobs, results)), default=0)
    n_rows = max((p.size for p in plan.structure.plates), default=1)
    winner = _finished(plan, winner, options)
    results[best], information = winner, winner.information
    status = winner.status
    if status in USABLE and any(r.status is Status.INTERRUPTED for r in results):
        status = Status.INTERRUPTED
    notes = _notes(plan, jobs, results, winner)
    certificate = _certificate(plan, winner, information, results, modes, best, options["tol"], notes)
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


def _modes(results: list[Ascent], finite: list[int]) -> dict[int, int]:
    """A number for each mode, best first: starts that ended within SAME_MODE nats of each other share one."""
    settled = [
        i for i in finite if results[i].status in (Status.CONVERGED, Status.SPURIOUS, Status.SADDLE, Status.MAX_ITER)
    ]
    modes: dict[int, int] = {}
    number, last = -1, np.inf
    for i in sorted(settled, key=lambda i: -results[i].objective):
        if last - results[i].objective > SAME_MODE:
            number, last = number + 1, results[i].objective
        modes[i] = number
    return modes


def _ties_under(plan: Plan, job: _Job, result: Ascent) -> int:
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


def _notes(plan: Plan, jobs: list[_Job], results: list[Ascent], winner: Ascent) -> tuple[str, ...]:
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
    results: list[Ascent],
    modes: dict[int, int],
    best: int,
    tol: float,
    notes: tuple[str, ...],
) -> evidence.Certificate:
    in_memory = plan.sample or plan  # what is checked row by row is where rows are streamed checked on some
    points = [evidence.log_joint_agrees(in_memory, winner.theta)]
    if plan.structure.parameters:
        u = plan.structure.coordinates.unconstrain(winner.theta)
        points.append(evidence.gradient_agrees(in_memory, u))
    points.append(evidence.monotone(winner.largest_fall, winner.n_iter, winner.status is Status.DEGENERATE))
    if winner.status is Status.DEGENERATE:
        points.append(evidence.Point("maximum", False, winner.objective, 0.0, winner.reason))
    elif information is not None:
        points.append(evidence.is_maximum(plan, information, tol))
    here = modes.get(best)
    reached = sum(1 for m in modes.values() if m == here) if here is not None else 1
    others = len({m for i, m in modes.items() if results[i].status is Status.CONVERGED} - {here})
    points.append(evidence.starts_agree(reached, len(results), others))
    return evidence.Certificate(tuple(points), notes)
