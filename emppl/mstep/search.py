"""Climbing a smooth function of unconstrained coordinates: for numeric M-steps and the marginal objective alike."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

DENSE_LIMIT = 400  # coordinates up to which a dense inverse Hessian is worth its P² numbers
WALL = 1e30  # stands for minus infinity, so that a line search steps back from it
LONGEST = 4.0  # no log or logit moves further than this in one step
Downhill = Callable[[np.ndarray], tuple[float, np.ndarray]]


def climb(
    objective: Callable[[np.ndarray], tuple[float, np.ndarray]],
    start: np.ndarray,
    free: np.ndarray,
    scale: float,
    max_steps: int,
    logarithmic: np.ndarray,
    tol: float = 1e-13,
    other: np.ndarray | None = None,
) -> tuple[np.ndarray, float, int]:
    """Maximise `objective` (value, gradient [P]) over the coordinates `free` [P] (boolean), from `start` [P].

    scale: size of the objective, which `tol` is relative to; logarithmic [P]: coordinates that are logs or logits,
    which move by no more than LONGEST in a step; other [P]: a point whose gradient, beside that at the start, tells how
    the objective bends. Returns (u, value, calls); u is the start itself where nothing better
    was found, and the value never falls.
    """
    calls = 0

    def downhill(part: np.ndarray) -> tuple[float, np.ndarray]:
        nonlocal calls
        calls += 1
        u = start.copy()
        u[free] = part
        value, gradient = objective(u)
        if not np.isfinite(value) or not np.isfinite(gradient[free]).all():
            return WALL, np.zeros(int(free.sum()))
        return -value / scale, -gradient[free] / scale

    if free.sum() <= DENSE_LIMIT:
        known = None if other is None else (other[free], downhill(other[free])[1])
        x, value = bfgs(downhill, start[free], max_steps, tol, logarithmic[free], known)
    else:
        from scipy.optimize import minimize  # a tenth of a second to import, which a small model need not wait for

        before = downhill(start[free])[0]
        found = minimize(
            downhill,
            start[free],
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": max_steps, "ftol": tol, "gtol": 1e-9, "maxcor": 30},
        )
        x, value = (found.x, float(found.fun)) if found.fun < before else (start[free], before)
    if value >= WALL:
        return start, -np.inf, calls
    u = start.copy()
    u[free] = x
    return u, -value * scale, calls


def bfgs(
    downhill: Downhill, x: np.ndarray, max_steps: int, tol: float, logarithmic: np.ndarray,
    known: tuple[np.ndarray, np.ndarray] | None = None,
) -> tuple[np.ndarray, float]:  # fmt: skip
    """Minimise by BFGS with backtracking (Nocedal & Wright 2006, algorithm 6.1).

    known: another point and its gradient. Stops when two steps gain less than `tol`.
    scipy's BFGS has no tolerance on the value: near a maximum it spends its line searches on rounding.
    """
    value, gradient = downhill(x)
    n = len(x)
    inverse = None if known is None or value >= WALL else bfgs_update(None, x - known[0], gradient - known[1])
    idle = 0
    for _ in range(max_steps):
        if value >= WALL or not n or not gradient.any():
            break
        direction = -gradient / max(1.0, float(np.linalg.norm(gradient))) if inverse is None else -inverse @ gradient
        slope = float(gradient @ direction)
        if slope >= 0:
            inverse, direction, slope = None, -gradient, -float(gradient @ gradient)
        size = min(1.0, LONGEST / max(float(np.abs(direction[logarithmic]).max(initial=0.0)), 1e-300))
        for _ in range(30):
            trial = x + size * direction
            new_value, new_gradient = downhill(trial)
            if new_value <= value + 1e-4 * size * slope:
                break
            bend = new_value - value - size * slope
            size *= min(0.5, max(0.1, -0.5 * size * slope / bend)) if 0 < bend < WALL / 2 else 0.25
        else:
            if inverse is None:
                break
            inverse = None
            continue
        step, change = trial - x, new_gradient - gradient
        gain = value - new_value
        x, value, gradient = trial, new_value, new_gradient
        inverse = bfgs_update(inverse, step, change)
        idle = idle + 1 if gain <= tol * max(1.0, abs(value)) else 0
        if idle >= 2:
            break
    return x, value


def bfgs_update(inverse: np.ndarray | None, step: np.ndarray, change: np.ndarray) -> np.ndarray | None:
    """The BFGS update of the inverse Hessian [P, P]; none where the gradient changes against the step [P]."""
    curvature = float(step @ change)
    if not curvature > 1e-12 * float(np.linalg.norm(step) * np.linalg.norm(change)):
        return inverse
    if inverse is None:
        inverse = np.eye(len(step)) * (curvature / float(change @ change))
    product = inverse @ change
    return (
        inverse
        + np.outer(step, step) * (1.0 + float(change @ product) / curvature) / curvature
        - (np.outer(product, step) + np.outer(step, product)) / curvature
    )


def newton(
    objective: Callable[[np.ndarray], tuple[float, np.ndarray]], start: np.ndarray, free: np.ndarray, max_steps: int
) -> tuple[np.ndarray, float]:
    """Maximise `objective` (value, gradient [P]) over the coordinates `free` [P] by damped Newton steps.

    The curvature is that of the gradient by differences, its eigenvalues by their size: 2 P gradients a step, for few
    coordinates of very different scales and from far away. Returns (u, value); the value never falls.
    """
    index = np.flatnonzero(free)
    u = start.copy()
    value, gradient = objective(u)
    for _ in range(max_steps):
        rows = []
        for i in index:
            move = np.zeros(len(u))
            move[i] = 1e-4 * max(1.0, abs(u[i]))
            rows.append((objective(u + move)[1] - objective(u - move)[1])[index] / (2 * move[i]))
        curvature = np.array(rows)
        if not np.isfinite(value) or not np.isfinite(curvature).all() or not np.isfinite(gradient[index]).all():
            break
        sizes, axes = np.linalg.eigh((curvature + curvature.T) / 2)
        sizes = np.maximum(np.abs(sizes), 1e-8 * np.abs(sizes).max() + 1e-300)
        step = np.zeros(len(u))
        step[index] = axes @ ((axes.T @ gradient[index]) / sizes)
        slope, size = float(gradient @ step), 1.0
        for _ in range(30):
            trial = u + size * step
            new_value, new_gradient = objective(trial)
            if np.isfinite(new_value) and new_value >= value + 1e-4 * size * slope:
                break
            size /= 3
        else:
            break
        gain = new_value - value
        u, value, gradient = trial, new_value, new_gradient
        if gain < 1e-6:
            break
    return u, value
