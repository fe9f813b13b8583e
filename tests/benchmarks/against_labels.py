"""Relabelling beside R's package label.switching: installed, or its sources in the folder named by LABEL_SWITCHING."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from emppl.labels import methods
from emppl.labels.methods.iterative import divergence
from emppl.labels.units import Units, array_chunks

from .against_r import R
from .cases import NotInstalled, Pair, Race
from .timing import local

FOLDER = "LABEL_SWITCHING"  # of its R files; they need the packages lpSolve and combinat
GALAXIES = Path(__file__).parents[1] / "data" / "label_switching" / "galaxies_k4.npz"


class Labelled(NamedTuple):
    """Draws under switched names: probabilities p [m, n, K], allocations z [m, n], a pivot allocation [n]."""

    p: np.ndarray
    z: np.ndarray
    pivot: np.ndarray


def galaxies(scale: float) -> Labelled:
    """300 draws of the galaxies' velocities with four components; the probabilities follow from the parameters."""
    with np.load(GALAXIES) as stored:
        y, theta, z, pivot = (stored[name] for name in ("y", "mcmc_pars", "z", "zpivot"))
    mean, variance, weight = (theta[:, None, :, i] for i in range(3))
    joint = np.log(weight) - 0.5 * np.log(variance) - 0.5 * (y[None, :, None] - mean) ** 2 / variance
    return Labelled(_shares(joint), z.astype(int), pivot.astype(int))


def made(m: int, n: int, k: int, scale: float) -> Labelled:
    """m draws of n units in k overlapping components, under a random name in every draw."""
    rng = np.random.default_rng(0)
    m = max(50, round(m * scale))
    n = max(50, round(n * scale))
    means = 3.6 * np.arange(k)
    truth = rng.integers(k, size=n)
    y = rng.normal(means[truth], 1.0)
    p, z = np.empty((m, n, k)), np.empty((m, n), dtype=int)
    for t in range(m):
        joint = -0.5 * (y[:, None] - means - 0.1 * rng.normal(size=k)) ** 2 + np.log(rng.dirichlet(np.full(k, 200.0)))
        p[t] = _shares(joint)[:, rng.permutation(k)]
        z[t] = (rng.random(n)[:, None] > p[t].cumsum(axis=1)).sum(axis=1).clip(max=k - 1)
    return Labelled(p, z, truth)


def _shares(joint: np.ndarray) -> np.ndarray:
    p = np.exp(joint - joint.max(axis=-1, keepdims=True))
    return p / p.sum(axis=-1, keepdims=True)


def race(draws: Any, method: str, fewest: int, scale: float) -> Pair:
    """One run of a method on the same draws. STEPHENS: ours from several starts, R's from the draws as they come."""
    data: Labelled = draws(scale)
    m, n, k = data.p.shape
    arrays = {"z": data.z + 1, "pivot": data.pivot + 1, **({"p": data.p} if method == "stephens" else {})}
    folder = os.environ.get(FOLDER)
    try:
        r = R("lpSolve" if folder else "label.switching", f"labels_{method}", (n, m, k), arrays)
    except NotInstalled as reason:
        raise NotInstalled(f"{reason}; or name the folder of its sources in {FOLDER}") from None
    theirs = r.result().reshape(m, k).astype(int) - 1
    if method == "ecr":
        work = partial(methods.ecr, data.z, data.pivot, k)
        units = Units(m, n, k, None, data.z)
        hot = (data.pivot[:, None] == np.arange(k)).astype(float)
        mine = work().permutations
        agreed = [float((hot * units.sums(perms[None], "z")[0]).sum()) for perms in (mine, theirs)]
        note = "same allocations in the pivot's components"
    else:
        work = partial(methods.stephens, data.p)
        start = np.tile(np.arange(k), (m, 1))
        mine = methods.stephens(data.p, starts=[start]).permutations
        agreed = list(divergence(Units(m, n, k, array_chunks(data.p)), np.stack([mine, theirs])))
        note = f"divergence from R's own start; ours from {len(work().starts)} starts in the time told"
    apart = abs(agreed[0] - agreed[1]) / max(1.0, abs(agreed[1]))
    return Pair(local(work), r.side, apart, note, warm=fewest > 1, fewest=fewest, close=r.close)


ROWS = (
    Race(
        "labels-stephens-galaxies", "STEPHENS, 300 draws, 82 units, K = 4", "label.switching", 20,
        partial(race, galaxies, "stephens", 3),
    ),
    Race(
        "labels-ecr-galaxies", "ECR, the same draws", "label.switching", 10,
        partial(race, galaxies, "ecr", 3),
    ),
    Race(
        "labels-stephens-made", "STEPHENS, 4000 draws, 1000 units, K = 6", "label.switching", 20,
        partial(race, partial(made, 4000, 1000, 6), "stephens", 1),
    ),
    Race(
        "labels-ecr-made", "ECR, the same draws", "label.switching", 10,
        partial(race, partial(made, 4000, 1000, 6), "ecr", 1),
    ),
)  # fmt: skip
