"""Where the chains of a sampler start: around the modes that EM finds, as many chains at each as it holds mass."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from emppl.ascent.atlas import Atlas, atlas
from emppl.inference.laplace import laplace_centre

STARTS = 10  # random starts of EM, besides the fit's own mode, from which modes are looked for
SPREAD = 1.5  # of a normal approximation: chains at one mode start further apart than its own draws lie
FROM_BORDER = 6.0  # logits or logs within which a chain starts whose mode is on a border
TRIES = 8  # for a start of finite density, each half as far from the mode as the one before


class ModeStarts:
    """seed → unconstrained start [P] of one chain: a mode of the density that NUTS sees, and SPREAD times a draw of the
    normal approximation around it.

    counts: how many of the chains start at each mode of the atlas, best mode first. Chains are told apart by their
    seeds, and numbered in the order in which they first ask.
    """

    def __init__(self, plan: Any, modes: Atlas, chains: int, seeds: np.random.SeedSequence) -> None:
        self.counts = spread_over(modes, chains)
        self._plan, self._prefix = plan, seeds.generate_state(2).tolist()
        self._homes = np.repeat(np.arange(len(self.counts)), self.counts)
        self._around = {int(mode): _normal(plan, modes.modes[mode].theta) for mode in np.unique(self._homes)}
        self._numbers: dict[int, int] = {}
        self._lock = threading.Lock()  # chains ask from threads of their own, and functions hold their own storage

    @property
    def n_modes(self) -> int:
        """Modes at which some chain starts."""
        return int((self.counts > 0).sum())

    def __call__(self, seed: Any) -> np.ndarray:
        seed = int(np.asarray(seed).ravel()[0]) % (2**32)
        with self._lock:
            number = self._numbers.setdefault(seed, len(self._numbers))
            centre, root = self._around[int(self._homes[number % len(self._homes)])]
            step = SPREAD * root @ np.random.default_rng([*self._prefix, seed]).normal(size=len(centre))
            coordinates = self._plan.structure.coordinates
            for _ in range(TRIES):
                if np.isfinite(self._plan.log_posterior(coordinates.constrain(centre + step))):
                    break
                step = step / 2
        return centre + step


def mode_starts(plan: Any, fit: Any, chains: int, seeds: np.random.SeedSequence) -> ModeStarts | None:
    """Starts of chains at the modes that EM reaches from the fit and from random starts; None where it ends in none."""
    search, noise = seeds.spawn(2)
    known = [] if fit is None else [fit.point]
    found = atlas(plan, known=known, starts=STARTS, seed=int(search.generate_state(1)[0]))
    return ModeStarts(plan, found, chains, noise) if found.modes else None


def spread_over(modes: Atlas, chains: int) -> np.ndarray:
    """How many chains start at each mode, in proportion to what it holds of the posterior: [modes].

    By Laplace's approximation, all equivalent copies of a mode together; where one has no such approximation (on a
    border), by its height beside those that have. Shares are rounded by largest remainder.
    """
    heights = np.array([mode.log_posterior for mode in modes.modes])
    evidence = np.array([mode.log_evidence for mode in modes.modes])
    known = np.isfinite(evidence)
    evidence = np.where(known, evidence, heights + (np.mean((evidence - heights)[known]) if known.any() else 0.0))
    quotas = np.exp(evidence - evidence.max())
    quotas *= chains / quotas.sum()
    counts = np.floor(quotas + 1e-9).astype(int)
    left = np.argsort(-(quotas - counts), kind="stable")[: max(chains - counts.sum(), 0)]
    counts[left] += 1
    return counts


def _normal(plan: Any, theta: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Centre [P] and a root [P, P] of the covariance of the normal approximation; 1 where no curvature is known."""
    u, information = laplace_centre(plan, theta, None)
    assert information is not None  # priors are kept: the density that NUTS sees has a curvature
    u = np.where(information.interior, u, plan.structure.coordinates.inside(u, FROM_BORDER))
    covariance = information.covariance
    unknown = ~np.isfinite(np.diag(covariance))
    covariance = np.where(unknown[:, None] | unknown[None, :], np.diag(unknown.astype(float)), covariance)
    values, vectors = np.linalg.eigh(covariance)
    return u, vectors * np.sqrt(np.clip(values, 0.0, None))
