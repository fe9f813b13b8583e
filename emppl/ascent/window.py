"""Unbounded counts are summed over a window; what lies beyond it is measured at the mode, and the window widened."""

from __future__ import annotations

import numpy as np

from emppl.ascent.certificate import Point
from emppl.errors import UnsupportedModelError
from emppl.planner import Plan
from emppl.planner import plan as make_plan
from emppl.structure.plates import MAX_CONFIGURATIONS
from emppl.structure.types import Node

TAIL = 1e-10  # posterior probability beyond the window that is neglected, by element


def windows(plan: Plan) -> tuple[str, ...]:
    """Names of the latents that are summed over a window of their support."""
    return tuple(node.name for node in plan.structure.latents if node.window)


def tail_mass(plan: Plan, theta: dict[str, np.ndarray]) -> dict[str, float]:
    """Posterior probability beyond the window at theta, the largest over the elements of each such latent.

    Summed over a window twice as long, and beyond that by a geometric series with the ratio of its last two terms: a
    bound for counts whose terms fall ever faster or at a steady rate, as those of the Poisson, the geometric and the
    negative binomial distribution do.
    """
    wide = widened(plan)
    if wide is None:
        return dict.fromkeys(windows(plan), np.inf)
    answer = {}
    for name, p in wide.responsibilities(theta).items():
        node = plan.structure.node(name)
        if not node.window:
            continue
        p = p.reshape(-1, p.shape[-1])
        beyond = p[:, node.n_values :].sum(axis=1)
        last, before = p[:, -1], p[:, -2]
        with np.errstate(all="ignore"):
            ratio = np.where(before > 0, last / before, 0.0)
            rest = np.where(ratio < 1, last * ratio / (1 - ratio), np.inf)
        answer[name] = float((beyond + np.where(last > 0, rest, 0.0)).max())
    return answer


def widened(plan: Plan) -> Plan | None:
    """The same plan over windows twice as long; None where that is more than is enumerated."""
    support = dict(plan.structure.support_given)
    for node in plan.structure.latents:
        if node.window:
            assert node.support is not None  # latents have one
            longer = np.arange(node.support[0], 2 * _last(node) + 2)
            if len(longer) > MAX_CONFIGURATIONS:
                return None
            support[node.name] = longer
    given = {**plan.options, "support": support}
    model, name = plan.structure.model, plan.structure.name
    try:
        wide = make_plan(model, estimate=plan.estimate, method=plan.method, name=name, **given)
    except UnsupportedModelError:  # counts that meet: too many pairs of them
        return None
    for node in wide.structure.latents:  # still a window, though its length was given
        object.__setattr__(node, "window", node.name in windows(plan))
    return wide


def _last(node: Node) -> int:
    assert node.support is not None  # latents have one
    return int(node.support[-1])


def tail_point(plan: Plan, masses: dict[str, float]) -> Point:
    """(6) What is neglected of unbounded counts."""
    worst = max(masses.values())
    names = ", ".join(f"{node.name} ≤ {_last(node)}" for node in plan.structure.latents if node.window)
    text = f"counts summed over {names}: the posterior probability beyond is at most {worst:.1e} for any element"
    if worst > TAIL:
        text += "; the data may not bound the count from above: a prior does"
    return Point("tail", worst <= TAIL, worst, TAIL, text)
