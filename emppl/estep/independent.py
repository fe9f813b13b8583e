"""E-step of members that are independent given the parameters: natural form where there is one, else a graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from emppl.estep.posterior import Posterior
from emppl.kernels.mixture import mixture


@dataclass(frozen=True, eq=False)
class PlateData:
    """The arrays of one plate that never change during a fit. C members, J configurations, F features."""

    features: np.ndarray = field(repr=False)  # [C, F]
    base: np.ndarray = field(repr=False)  # [C]
    weights: np.ndarray | None = field(repr=False, default=None)  # [C]
    mask: np.ndarray | None = field(repr=False, default=None)  # [C, J]
    has_table: bool = False


@dataclass(frozen=True, eq=False)
class IndependentEngine:
    """The E-step over all plates, ready to run.

    `terms(*theta)` returns, by plate, eta [J, F] (and a table [J, C]), then the direct log-likelihood and the log
    prior.
    """

    plates: tuple[PlateData, ...]
    terms: Any = field(repr=False)
    hard: bool = False

    def __call__(self, arguments: Sequence[np.ndarray], *, keep: bool = False, hard: bool | None = None) -> Posterior:
        """E-step at theta, given as the arguments of `terms`; `keep` also returns responsibilities."""
        with np.errstate(all="ignore"):
            outputs = list(self.terms(*arguments))
            log_prior = float(outputs.pop())
            total = float(outputs.pop())
            passes = []
            for plate in self.plates:
                eta = outputs.pop(0)
                table = outputs.pop(0).T if plate.has_table else None
                passes.append(
                    mixture(
                        plate.features, eta, plate.base, table=table, mask=plate.mask, weights=plate.weights,
                        hard=self.hard if hard is None else hard, keep=keep or plate.has_table,
                    )
                )  # fmt: skip
        return Posterior(
            log_likelihood=total + sum(p.log_likelihood for p in passes),
            log_prior=log_prior,
            statistics=tuple(p.statistics for p in passes),
            counts=tuple(p.counts for p in passes),
            responsibilities=tuple(p.responsibilities for p in passes),
            by_member=tuple(p.by_member for p in passes),
        )

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
