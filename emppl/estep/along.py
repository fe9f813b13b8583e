"""The E-step of many parameters at once, as draws of a posterior are."""

from __future__ import annotations

from math import prod
from typing import NamedTuple

import numpy as np

from emppl.estep.elimination import eliminate
from emppl.estep.engine import EStep
from emppl.kernels.mixture import LOWEST
from emppl.structure.types import Structure


def term_shapes(engine: EStep) -> list[tuple[int, ...]]:
    """Shapes of the terms of theta, plate by plate: eta [J, F], and a table [J, C]."""
    found: list[tuple[int, ...]] = []
    for data in engine.plates:
        size = prod(data.supports)
        found += [(size, data.features.shape[1]), *([(size, data.size)] if data.has_table else [])]
    return found


class Done(NamedTuple):
    """What the passes at a block of parameters find."""

    by_member: list[np.ndarray | None]  # [block, C]
    by_component: list[np.ndarray]  # [block, B]
    shares: list[np.ndarray]  # [block, J, C]
    log_posterior: np.ndarray  # [block]


class Passes:
    """The E-step of many parameters at once: etas [block, J, F] and tables [block, J, C] of all plates."""

    def __init__(self, engine: EStep, structure: Structure) -> None:
        self.structure, self.plates = structure, engine.plates
        self.statistics = [np.asarray(data.members).T for data in self.plates]  # [F, C], or one of each kind
        self.n_terms = sum(1 + data.has_table for data in self.plates) + 2
        self.numbers = sum(data.size * (prod(data.supports) + 1) for data in self.plates)

    def __call__(self, terms: list[np.ndarray]) -> Done:
        rest = list(terms)
        total = rest.pop() + rest.pop()
        joints: dict[int, np.ndarray] = {}
        by_member: list[np.ndarray | None] = []
        shares: list[np.ndarray] = []
        for p, (data, t) in enumerate(zip(self.plates, self.statistics)):
            eta = rest.pop(0)
            joint = _log_joints(eta, t, rest.pop(0) if data.has_table else None)
            mask = data.mask if data.kinds is None else data.kinds.mask
            if mask is not None:
                joint[:, ~mask.T] = -np.inf
            if data.tied:
                joints[p] = joint
                by_member.append(None)
                shares.append(joint)
                total = total + data.base_sum
                continue
            value, share = _shares(joint)
            if data.kinds is not None:
                value, share = value[:, data.kinds.kind], share[..., data.kinds.kind]
            value = value + data.base
            weights = np.ones(data.size) if data.weights is None else data.weights
            total = total + np.where(weights > 0, value, 0.0) @ weights
            by_member.append(value)
            shares.append(share)
        by_component = self._eliminated(joints, shares)
        total = total + sum(value.sum(axis=1) for value in by_component)
        return Done(by_member, by_component, shares, np.where(np.isfinite(total), total, -np.inf))

    def _eliminated(self, joints: dict[int, np.ndarray], shares: list[np.ndarray]) -> list[np.ndarray]:
        """Log-likelihoods of components, elimination by elimination; fills in the shares of tied plates."""
        found = []
        for p, joint in joints.items():
            shares[p] = np.zeros_like(joint)
        for elimination in self.structure.eliminations:
            tables = []
            for p, members in elimination.tables:
                joint = np.maximum(joints[p], LOWEST)[:, :, members].transpose(0, 2, 1)
                tables.append(np.reshape(joint, (-1, *self.plates[p].supports)))
            value, weights = eliminate(elimination, tables)
            found.append(value.reshape(-1, elimination.size))
            for (p, members), weight in zip(elimination.tables, weights):
                weight = weight.reshape(len(found[-1]), len(members), -1)
                shares[p][:, :, members] = weight.transpose(0, 2, 1)
        return found

    def marginals(self, done: Done) -> dict[str, np.ndarray]:
        """Posterior probability of each value of each latent element: {latent: [block, *shape, K]}."""
        structure, n = self.structure, len(done.log_posterior)
        flat = {node.name: np.zeros((n, node.size, node.n_values)) for node in structure.latents}
        for plate, share in zip(structure.plates, done.shares):
            for slot, name in enumerate(plate.latents):
                elements = plate.members[:, slot] - structure.offsets[name]
                for k, value in enumerate(np.asarray(structure.node(name).support)):
                    flat[name][:, elements, k] = share[:, plate.configurations[:, slot] == value].sum(axis=1)
        return {node.name: flat[node.name].reshape(n, *node.shape, node.n_values) for node in structure.latents}


def _log_joints(eta: np.ndarray, t: np.ndarray, table: np.ndarray | None) -> np.ndarray:
    """Log joints [n, J, C] of eta [n, J, F] with statistics [F, C], and of a table; a log of zero bars what counts."""
    dead = np.isneginf(eta)
    with np.errstate(all="ignore"):
        joint = np.matmul(np.where(dead, 0.0, eta), t)
    if dead.any():
        joint[np.matmul(dead.astype(float), (t != 0.0).astype(float)) > 0] = -np.inf
    return joint if table is None else joint + table


def _shares(joint: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Log-likelihoods [n, C] and responsibilities [n, J, C] of log joints, which are overwritten."""
    peak = joint.max(axis=1)
    peak = np.where(np.isneginf(peak), 0.0, peak)
    with np.errstate(all="ignore"):
        joint -= peak[:, None]
        np.exp(joint, out=joint)
        scale = joint.sum(axis=1)
        joint /= np.where(scale == 0.0, 1.0, scale)[:, None]
        return peak + np.log(scale), joint
