"""Generators of iterates: plain EM, and SQUAREM with a monotone safeguard. Each yields (theta, E-step at it)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from emppl.estep.posterior import Posterior

Theta = dict[str, np.ndarray]
Step = tuple[Theta, Posterior]


def iterates(plan: Any, theta: Theta) -> Iterator[Step]:
    """Textbook EM: the start first, then every iterate."""
    while True:
        posterior = plan.e_step(theta)
        yield theta, posterior
        theta = plan.m_step(theta, posterior)


def squarem(plan: Any, theta: Theta) -> Iterator[Step]:
    """Squared iterative method (Varadhan & Roland 2008, scheme S3), in unconstrained coordinates.

    After two EM steps theta0 → theta1 → theta2 it leaps to theta0 - 2 a r + a² v. A leap that falls below theta1 is
    shortened towards the plain step, so the yielded objective never falls.
    """
    coordinates = plan.structure.coordinates
    posterior = plan.e_step(theta)
    longest = 4.0
    while True:
        yield theta, posterior
        first = plan.m_step(theta, posterior)
        posterior_1 = plan.e_step(first)
        yield first, posterior_1
        second = plan.m_step(first, posterior_1)
        u0, u1, u2 = (coordinates.unconstrain(t) for t in (theta, first, second))
        with np.errstate(all="ignore"):
            r, v = u1 - u0, (u2 - u1) - (u1 - u0)
        inner = np.isfinite(r) & np.isfinite(v)
        bend = float(np.linalg.norm(v[inner]))
        step = -float(np.linalg.norm(r[inner])) / bend if bend > 0 else -1.0
        step = max(min(step, -1.0), -longest)
        theta, posterior = second, None
        while step < -1.01:
            with np.errstate(all="ignore"):
                u = np.where(inner, u0 - 2 * step * r + step**2 * v, u2)
            leap = coordinates.constrain(u) if np.isfinite(u).all() else second
            trial = plan.e_step(leap)
            if trial.objective >= posterior_1.objective:
                theta, posterior = leap, trial
                if step == -longest:
                    longest *= 4.0
                break
            longest = max(longest / 4.0, 1.0) if step == -longest else longest
            step = (step - 1.0) / 2.0 if step < -2.0 else -1.0
        if posterior is None:
            posterior = plan.e_step(theta)


GENERATORS = {None: iterates, "squarem": squarem}
