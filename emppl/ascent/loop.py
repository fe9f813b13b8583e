"""The only loop: iterates, the monotone check, stopping by the gain left, and the finish by Fisher gradients."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, NamedTuple

import numpy as np

from emppl.ascent.accelerate import GENERATORS
from emppl.ascent.border import NEAR_ENOUGH, put_on_border
from emppl.ascent.degeneracy import STILL_RISING, collapse, is_vanishing, narrowest
from emppl.inference.information import BORDER, DOUBTFUL, Information, observed_information
from emppl.interrupts import noticed
from emppl.mstep.search import climb

Theta = dict[str, np.ndarray]
ROUNDING = 1e-9  # relative fall of the objective that is still rounding
NEWTON_LIMIT = 250  # coordinates; beyond it 2 P gradients cost more than the iterations they save
PATIENCE = 60  # E-steps after which slow EM is handed to Newton
CARRIES = 0.1  # a step that leaves less than this part of the decrement may be followed by one of the same curvature
FARTHEST = 4 * BORDER  # that the search goes along what does not bend, at one time
NUMERIC_PATIENCE = 5  # the same where each M-step is itself a search


class Status(Enum):
    """How an ascent ended; the value says what to do about it."""

    CONVERGED = "the gain left is below tol"
    MAX_ITER = "iterations exhausted: raise max_iter or use accelerate='squarem'"
    DEGENERATE = "the objective grows without bound (a component collapses, a parameter runs off): see the certificate"
    SPURIOUS = "a component lives on a handful of nearly equal observations: a local maximum without meaning"
    SADDLE = "stopped at a saddle: the objective rises along a named direction; use another start"
    DISAGREES = "the log joint is not that of PyMC's model.logp: a rule of emppl is wrong here, please report"
    DECREASED = "the objective fell beyond rounding: an E-step or M-step rule is wrong, please report"
    FAILED = "the objective is not finite from this start"
    SHORT = "left behind, since another start was ahead: the reason says by how much"
    INTERRUPTED = "stopped by the user: best so far kept; resume with start=fit"


USABLE = (Status.CONVERGED, Status.MAX_ITER, Status.INTERRUPTED)


@dataclass(frozen=True, eq=False)
class Ascent:
    """One start carried as far as it goes."""

    theta: Theta = field(repr=False)
    objective: float
    status: Status
    reason: str
    n_iter: int
    n_passes: int
    gain_left: float
    largest_fall: float  # relative; 0 where the objective never fell
    path: np.ndarray = field(repr=False)  # objective by iteration
    trace: list[Theta] = field(repr=False)
    information: Information | None = field(repr=False, default=None)
    collapsed: bool = False  # whether it was left on its way to a spread of zero, or to where there are no numbers


class _Watch:
    """Path, trace and best point of one ascent, and the gain that Aitken's rule says is left."""

    def __init__(self, record: bool) -> None:
        self.path: list[float] = []
        self.trace: list[Theta] = []
        self.record, self.passes, self.fall = record, 0, 0.0
        self.top: tuple[Theta, float] = ({}, -np.inf)  # in one piece, whenever Ctrl-C comes

    @classmethod
    def of(cls, ascent: Ascent, record: bool) -> _Watch:
        """The watch of an ascent that is carried on."""
        watch = cls(record)
        watch.path, watch.trace, watch.passes = list(ascent.path), list(ascent.trace), ascent.n_passes
        watch.fall, watch.top = ascent.largest_fall, (ascent.theta, ascent.objective)
        return watch

    @property
    def best(self) -> Theta:
        return self.top[0]

    @property
    def objective(self) -> float:
        return self.top[1]

    def see(self, theta: Theta, value: float) -> None:
        if self.path and value < self.path[-1]:
            self.fall = max(self.fall, (self.path[-1] - value) / max(1.0, abs(self.path[-1])))
        if self.record:
            self.trace.append(theta)
        self.path.append(value)
        self.top = theta, value

    def settle(self) -> None:
        """After Ctrl-C, which may have come in the midst of `see`: no value without its point."""
        if self.path and self.path[-1] != self.objective:
            self.path.pop()
        del self.trace[len(self.path) :]

    @property
    def gain_left(self) -> float:
        if len(self.path) < 3:
            return np.inf
        before, last = self.path[-2] - self.path[-3], self.path[-1] - self.path[-2]
        noise = 4 * np.finfo(float).eps * max(1.0, abs(self.path[-1]))
        if abs(last) <= noise and abs(before) <= 2 * noise:
            return abs(last)
        if last <= 0 or before <= 0 or last >= before:
            return np.inf
        rate = last / before
        return last * rate / (1.0 - rate)


def ascend(
    plan: Any,
    theta: Theta,
    *,
    tol: float = 1e-6,
    max_iter: int = 2000,
    accelerate: str | None = "squarem",
    record: bool = False,
    finish: bool = True,
    before: Ascent | None = None,
) -> Ascent:
    """Climb from theta until less than `tol` nats are left to gain. Never raises for numerical trouble: `status` says.

    `accelerate=None` gives the textbook iterates and no finish. before: an ascent that ended at theta, and is carried
    on to `max_iter` passes in all. KeyboardInterrupt ends it with INTERRUPTED.
    """
    watch = _Watch(record) if before is None else _Watch.of(before, record)
    climb = _Climb(plan, theta, watch, tol, max_iter, accelerate, finish)
    ending: _Ending | None = None
    try:
        with noticed() as interrupt:
            if before is not None:  # it has seen where the generator begins, and counted the pass
                next(climb.generator)
            while ending is None and watch.passes <= max_iter:
                interrupt.check()
                ending = climb.goes_on()
            ending = ending or _Ending(Status.MAX_ITER)
            if ending.status in (Status.CONVERGED, Status.MAX_ITER) and watch.best:
                found = collapse(plan, watch.best, plan.e_step(watch.best))  # a leap at the end may have led there
                ending = _Ending(Status.DEGENERATE, found) if found else ending
    except KeyboardInterrupt:
        ending = _Ending(Status.INTERRUPTED)
        watch.settle()
    left = climb.left
    if not np.isfinite(left) and len(watch.path) >= 2:
        left = abs(watch.path[-1] - watch.path[-2])
    return Ascent(
        watch.best or theta, watch.objective, ending.status, ending.reason, max(len(watch.path) - 1, 0), watch.passes,
        float(left), watch.fall, np.array(watch.path), watch.trace, climb.information,
        ending.status is Status.DEGENERATE,
    )  # fmt: skip


class _Ending(NamedTuple):
    status: Status
    reason: str = ""


class _Climb:
    """One ascent under way: an iterate after the other, and each thing that may end it."""

    def __init__(
        self, plan: Any, theta: Theta, watch: _Watch, tol: float, max_iter: int, accelerate: str | None, finish: bool
    ) -> None:
        self.plan, self.watch, self.tol, self.max_iter, self.accelerate = plan, watch, tol, max_iter, accelerate
        few = plan.structure.coordinates.size <= NEWTON_LIMIT
        self.smooth = finish and accelerate is not None and plan.method == "em" and few
        self.next_try = _next_try(watch.passes, NUMERIC_PATIENCE if plan.has_search else PATIENCE)
        self.generator = GENERATORS[accelerate](plan, theta)
        self.left = np.inf
        self.information: Information | None = None

    def goes_on(self) -> _Ending | None:
        """One iterate further; the ending where that is the last one."""
        here, posterior = next(self.generator)
        k = self.watch.passes
        self.watch.passes += 1
        if not np.isfinite(posterior.objective):
            return self._without_value(k)
        self.watch.see(here, posterior.objective)
        return self._fell(here, k) or self._collapsed(here, posterior, k) or self._at_rest(posterior.objective, k)

    def _without_value(self, k: int) -> _Ending:
        if not self.watch.path:
            return _Ending(Status.FAILED, "the objective is not finite at the start")
        return _Ending(Status.DEGENERATE, f"{narrowest(self.plan, self.watch.best)} at iteration {k}")

    def _fell(self, here: Theta, k: int) -> _Ending | None:
        if self.watch.fall <= ROUNDING:
            return None
        # near a spread of zero, rounding is all that is left of the objective
        if is_vanishing(self.plan, here) or collapse(self.plan, here, None):
            return _Ending(Status.DEGENERATE, f"{narrowest(self.plan, here)} at iteration {k}")
        return _Ending(Status.DECREASED, f"fell by {self.watch.fall:.2g} relative at iteration {k}")

    def _collapsed(self, here: Theta, posterior: Any, k: int) -> _Ending | None:
        found = collapse(self.plan, here, posterior) if k % 4 == 3 else None
        return _Ending(Status.DEGENERATE, f"{found} at iteration {k}") if found else None

    def _at_rest(self, value: float, k: int) -> _Ending | None:
        """Whether nothing is left to be gained: by Aitken's rule, or by Newton, who is asked where EM is slow too.

        After a leap Aitken's rule sees the fast directions alone: the Newton decrement ends an ascent where it can.
        """
        self.left = self.watch.gain_left
        if not self.smooth:
            return _Ending(Status.CONVERGED) if self.left < self.tol else None
        return self._handed_over(value, k) if k >= self.next_try or self.left < self.tol else None

    def _handed_over(self, value: float, k: int) -> _Ending | None:
        """The rest by quasi-Newton, where each M-step is a search itself, and by Newton; None where EM has to go on."""
        plan, watch, tol = self.plan, self.watch, self.tol
        if plan.has_search and not plan.has_corners:  # which quasi-Newton does not see
            watch.passes += climb_marginal(plan, watch) + 1
            found = collapse(plan, watch.best, plan.e_step(watch.best))
            if found:  # it may have leapt there, where Newton finds no curvature
                return _Ending(Status.DEGENERATE, f"{found} at iteration {k}")
        self.information, spent = newton(plan, tol, watch, most=self.max_iter - watch.passes)
        watch.passes += spent
        self.left = self.information.decrement
        if self.left < tol and self.information.is_maximum:
            return _Ending(Status.CONVERGED)
        still = watch.path[-1] <= value  # neither EM nor Newton moves: a border, a flat direction or a saddle
        if still and watch.gain_left < 1e-3 * tol:
            return _Ending(Status.CONVERGED)
        self.information = None
        self.next_try = watch.passes + max(20, k)
        self.generator = GENERATORS[self.accelerate](plan, watch.best)
        return None


def _next_try(passes: int, patience: int) -> int:
    """The pass from which on slow EM is handed to Newton: after `patience`, or soon where that has passed."""
    return patience if passes < patience else passes + passes // 4


def climb_marginal(plan: Any, watch: _Watch, max_steps: int = 200) -> int:
    """Quasi-Newton on the marginal objective by Fisher gradients, from the best point seen; returns the E-steps spent.

    Where each M-step is a search of its own, one search of the marginal objective costs as much as a single M-step.
    """
    coordinates = plan.structure.coordinates
    start = coordinates.unconstrain(watch.best)
    u, _, calls = climb(
        lambda v: plan.gradient(v)[:2],
        start,
        np.isfinite(start),
        max(1.0, abs(watch.objective)),
        max_steps,
        coordinates.transformed,
    )
    theta = coordinates.constrain(u)
    value = plan.e_step(theta).objective
    if value > watch.objective:
        watch.see(theta, value)
    return calls + 1


def newton(plan: Any, tol: float, watch: _Watch, fresh: bool = False, most: float = np.inf) -> tuple[Information, int]:
    """Newton steps on the marginal objective from the best point seen, each checked not to fall.

    Returns the gradient at the best point then, beside the information there (`fresh`) or near by, and the E-steps
    spent. Stops where the objective is not near-quadratic, or `most` E-steps are spent and two informations more.
    """
    coordinates = plan.structure.coordinates
    u = coordinates.unconstrain(watch.best)
    information = observed_information(plan, u)
    spent = information.passes
    if information.corners.any() and not plan.has_corners:
        u, more = onto_corners(plan, u, information.corners)
        value = plan.e_step(coordinates.constrain(u)).objective
        spent += more + 1
        if value > watch.objective:
            watch.see(coordinates.constrain(u), value)
            information = observed_information(plan, u)
            spent += information.passes
        u = coordinates.unconstrain(watch.best)
    if information.is_maximum and information.decrement < NEAR_ENOUGH:
        u, value, more = put_on_border(plan, u, watch.objective)
        spent += more
        if value > watch.objective:
            watch.see(coordinates.constrain(u), value)
            information = observed_information(plan, u)
            spent += information.passes
    enough = max(most, spent + 2 * information.passes)  # a corner, which takes many, leaves some for the rest
    for _ in range(15):
        if spent > enough:
            break
        hopeless = not information.is_maximum and information.decrement > 0.5
        if hopeless or information.decrement < 0.01 * tol:
            further, more = up_the_flat(plan, u, information, watch)
            spent += more
            if further is None:
                break
            u, information = further, observed_information(plan, further)
            spent += information.passes
            continue
        step, size, moved = information.step(), 1.0, False
        norm = np.abs(step[coordinates.transformed]).max(initial=0.0)
        if norm > 5.0:
            size = 5.0 / norm
        while size > 1e-4 and not moved:
            trial_u = u + size * step
            trial = coordinates.constrain(trial_u)
            value = plan.e_step(trial).objective
            spent += 1
            if value > watch.objective:
                u, moved = trial_u, True
                watch.see(trial, value)
            size *= 0.5
        if not moved:
            break
        # near a maximum the curvature stays: one gradient tells what is left, in place of two for each coordinate
        before, information = information, _carried(plan, u, information)
        spent += 1
        if information.decrement >= CARRIES * before.decrement or not before.is_maximum:
            information = observed_information(plan, u)
            spent += information.passes
    if fresh and information.carried:
        information = observed_information(plan, u)
        spent += information.passes
    if information.is_doubtful and information.decrement < tol:
        information = _off_the_slope(plan, information)
        spent += information.passes
    return information, spent


def onto_corners(plan: Any, u: np.ndarray, corners: np.ndarray) -> tuple[np.ndarray, int]:
    """u [P] with each coordinate in `corners` [P] put where its slope jumps from up to down; and E-steps spent."""
    u, spent = u.copy(), 0
    for i in np.flatnonzero(corners):

        def slope(at: float, i: int = int(i)) -> float:
            moved = u.copy()
            moved[i] = at
            return float(plan.gradient(moved)[1][i])

        middle, width = u[i], 1e-12 * max(1.0, abs(u[i]))
        while width < 1.0 and not slope(middle - width) >= 0.0 >= slope(middle + width):
            width, spent = 4.0 * width, spent + 2
        if width >= 1.0:
            continue
        low, high = middle - width, middle + width
        while high - low > 4e-16 * max(abs(low), abs(high)) and low < 0.5 * (low + high) < high:
            middle, spent = 0.5 * (low + high), spent + 1
            low, high = (middle, high) if slope(middle) > 0.0 else (low, middle)
        u[i] = 0.5 * (low + high)
    return u, spent


def _off_the_slope(plan: Any, information: Information) -> Information:
    """The same with the curvature of where no slope is left across what bends, which tells a bent ridge from a hill."""
    closer = observed_information(plan, information.u + information.step(DOUBTFUL))
    if not np.array_equal(closer.interior, information.interior) or not closer.decrement < information.decrement:
        return information
    return replace(information, information=closer.information)


def up_the_flat(plan: Any, u: np.ndarray, information: Information, watch: _Watch) -> tuple[np.ndarray | None, int]:
    """Where the objective rises along directions that do not bend, as in a funnel; None where it does not.

    The Newton decrement does not see them: beside the curvature of the others, theirs is rounding. And E-steps spent.
    """
    way, size = information.way_up_the_flat(FARTHEST)
    far, found, spent = 1.0, None, 0
    while size > STILL_RISING and far < FARTHEST:
        trial = plan.structure.coordinates.constrain(u + far * way)
        value = plan.e_step(trial).objective
        spent += 1
        if not value > watch.objective + STILL_RISING:
            break
        watch.see(trial, value)
        found, far = u + far * way, 2.0 * far
    return found, spent


def _carried(plan: Any, u: np.ndarray, information: Information) -> Information:
    """The information of a point near by, with the gradient at u."""
    point = plan.structure.coordinates.off_the_border(u, 2 * BORDER)
    return replace(information, u=u, gradient=plan.gradient(point)[1][information.interior], carried=True)


def polish(plan: Any, ascent: Ascent, tol: float) -> Ascent:
    """The winner carried by Newton to where rounding ends, with the information there; unchanged if nothing gained."""
    watch = _Watch.of(ascent, bool(ascent.trace))
    information, spent = newton(plan, tol, watch, fresh=True)
    return Ascent(
        watch.best, watch.objective, ascent.status, ascent.reason, max(len(watch.path) - 1, 0), ascent.n_passes + spent,
        information.decrement, watch.fall, np.array(watch.path), watch.trace, information,
    )  # fmt: skip
