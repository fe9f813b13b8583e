"""The E-step: natural form where there is one, else a graph; members independent, or tied together and eliminated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from emppl.estep.elimination import eliminate
from emppl.estep.posterior import Posterior
from emppl.kernels.mixture import MixturePass, log_joint, mixture
from emppl.structure.types import Elimination


@dataclass(frozen=True, eq=False)
class PlateData:
    """The arrays of one plate that never change during a fit. C members, J configurations, F features."""

    features: np.ndarray = field(repr=False)  # [C, F]
    base: np.ndarray = field(repr=False)  # [C]
    weights: np.ndarray | None = field(repr=False, default=None)  # [C]
    mask: np.ndarray | None = field(repr=False, default=None)  # [C, J]
    has_table: bool = False
    supports: tuple[int, ...] = ()  # values of each slot
    tied: bool = False


@dataclass(frozen=True, eq=False)
class IndependentEngine:
    """The E-step over all plates, ready to run.

    `terms(*theta)` returns, by plate, eta [J, F] (and a table [J, C]), then the direct log-likelihood and the log
    prior.
    """

    plates: tuple[PlateData, ...]
    terms: Any = field(repr=False)
    hard: bool = False
    eliminations: tuple[Elimination, ...] = ()

    def __call__(self, arguments: Sequence[np.ndarray], *, keep: bool = False, hard: bool | None = None) -> Posterior:
        """E-step at theta, given as the arguments of `terms`; `keep` also returns responsibilities."""
        hard = self.hard if hard is None else hard
        with np.errstate(all="ignore"):
            outputs = list(self.terms(*arguments))
            log_prior = float(outputs.pop())
            total = float(outputs.pop())
            passes: list[MixturePass] = []
            joints: dict[int, np.ndarray] = {}
            for p, plate in enumerate(self.plates):
                eta = outputs.pop(0)
                table = outputs.pop(0).T if plate.has_table else None
                if plate.tied:
                    joints[p] = log_joint(plate.features, eta, table=table, mask=plate.mask)
                    passes.append(NOTHING)
                else:
                    passes.append(
                        mixture(
                            plate.features, eta, plate.base, table=table, mask=plate.mask, weights=plate.weights,
                            hard=hard, keep=keep or plate.has_table,
                        )
                    )  # fmt: skip
            by_component = []
            if joints:
                by_component = self._eliminate(joints, passes, hard)
                total += sum(float(v.sum()) for v in by_component)
                total += sum(float(self.plates[p].base.sum()) for p in joints)
        return Posterior(
            log_likelihood=total + sum(p.log_likelihood for p in passes),
            log_prior=log_prior,
            statistics=tuple(p.statistics for p in passes),
            counts=tuple(p.counts for p in passes),
            responsibilities=tuple(p.responsibilities for p in passes),
            by_member=tuple(p.by_member for p in passes),
            by_component=tuple(by_component),
        )

    def _eliminate(self, joints: dict[int, np.ndarray], passes: list[MixturePass], hard: bool) -> list[np.ndarray]:
        """Fill in the passes of tied plates; the log-likelihood of each component, elimination by elimination."""
        shares = {p: np.zeros_like(joint) for p, joint in joints.items()}
        by_component = []
        for elimination in self.eliminations:
            tables = [
                joints[p][members].reshape(len(members), *self.plates[p].supports) for p, members in elimination.tables
            ]
            log_likelihood, weights = eliminate(elimination, tables, hard=hard)
            by_component.append(log_likelihood)
            for (p, members), weight in zip(elimination.tables, weights):
                shares[p][members] = weight.reshape(len(members), -1)
        for p, share in shares.items():
            passes[p] = MixturePass(0.0, share.T @ self.plates[p].features, share.sum(axis=0), share, None)
        return by_component

    def masked(self, masks: Sequence[np.ndarray | None]) -> IndependentEngine:
        """The same with every member counted once and the configurations [C, J] of each plate that a mask leaves."""
        plates = tuple(replace(plate, weights=None, mask=mask) for plate, mask in zip(self.plates, masks))
        return replace(self, plates=plates)

    def summarise(self, responsibilities: Sequence[np.ndarray]) -> Posterior:
        """The statistics of given responsibilities [C, J] by plate: what a random start hands to the first M-step."""
        weighted = [
            r if plate.weights is None else r * plate.weights[:, None]
            for r, plate in zip(responsibilities, self.plates)
        ]
        return Posterior(
            log_likelihood=-np.inf,
            log_prior=0.0,
            statistics=tuple(w.T @ plate.features for w, plate in zip(weighted, self.plates)),
            counts=tuple(w.sum(axis=0) for w in weighted),
            responsibilities=tuple(responsibilities),
            by_member=tuple(None for _ in self.plates),
        )


NOTHING = MixturePass(0.0, np.zeros((0, 0)), np.zeros(0), None, None)
