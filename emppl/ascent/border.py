"""The last steps to the border: probabilities on their way to 0 or 1, a factor nearer each iteration, are put there."""

from __future__ import annotations

from typing import Any

import numpy as np

from emppl.inference.information import BORDER

NEAR = (1e-2, 1e-4, 1e-6, 1e-9)  # of a probability that may be on its way to zero; the largest that gains is taken
NEAR_ENOUGH = 0.1  # nats left by Newton's decrement, from which on what still moves is taken for the border's


def put_on_border(plan: Any, u: np.ndarray, objective: float) -> tuple[np.ndarray, float, int]:
    """u with the weights and probabilities that head for their border put there, where that raises the objective.

    An objective that is smooth in a probability p and largest at p = 0 is nearly linear in p there: EM and Newton's
    method on a logit alike come nearer by a factor an iteration only. Returns (u, objective, E-steps spent).
    """
    coordinates = plan.structure.coordinates
    if not (coordinates.simplexes or coordinates.logits.any()):
        return u, objective, 0
    slope = plan.gradient(coordinates.off_the_border(u, 2 * BORDER))[1]
    spent, tried = 1, None
    for near in NEAR:
        moved = _moved(coordinates, u, slope, float(np.log(near)))
        if np.array_equal(moved, u) or (tried is not None and np.array_equal(moved, tried)):
            continue
        tried, spent = moved, spent + 1
        value = plan.e_step(coordinates.constrain(moved)).objective
        if value > objective:
            return moved, value, spent
    return u, objective, spent


def _moved(coordinates: Any, u: np.ndarray, slope: np.ndarray, near: float) -> np.ndarray:
    outward = coordinates.logits & (np.abs(u) > -near) & (np.abs(u) < BORDER) & (slope * np.sign(u) > 0)
    moved = np.where(outward, np.sign(u) * 2 * BORDER, u)
    for part, shape in coordinates.simplexes:
        logs = coordinates.log_weights(u[part].reshape(shape))
        inner = slope[part].reshape(shape)
        last = -inner.sum(-1, keepdims=True) / logs.shape[-1]  # slopes by the logs of all K weights sum to zero
        by_log = np.concatenate([inner + last, last], axis=-1)
        falls = (logs < near) & (logs > -BORDER) & (by_log < 0)
        if falls.any():
            logs = np.where(falls, -2 * BORDER, logs)
            moved[part] = (logs - logs.mean(-1, keepdims=True))[..., :-1].ravel()
    return moved
