"""The arrays of one plate that an E-step reads: features, base, weights, labels."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from emppl.kernels.features import Features
from emppl.kernels.mixture import MixturePass, mixture
from emppl.kernels.threads import threads


@dataclass(frozen=True, eq=False)
class PlateData:
    """The arrays of one plate that never change during a fit. C members, J configurations, F statistics."""

    features: Features = field(repr=False)  # [C, F]
    base: np.ndarray = field(repr=False)  # [C]
    weights: np.ndarray | None = field(repr=False, default=None)  # [C]
    mask: np.ndarray | None = field(repr=False, default=None)  # [C, J]
    has_table: bool = False
    supports: tuple[int, ...] = ()  # values of each slot
    tied: bool = False
    compiled: bool = False

    @property
    def size(self) -> int:
        """Number of members."""
        return self.features.n

    @cached_property
    def base_sum(self) -> float:
        """What the base adds to the log-likelihood."""
        return float(self.base.sum() if self.weights is None else self.base @ self.weights)

    @cached_property
    def kinds(self) -> Kinds | None:
        """Members in kinds, where many are equal in all that a pass reads of them."""
        if self.has_table or self.tied:
            return None
        found = self.features.unique_rows(self.mask)
        if found is None:
            return None
        first, kind = found
        counts = np.bincount(kind, self.weights, minlength=len(first)).astype(float)
        mask = None if self.mask is None else self.mask[first]
        return Kinds(self.features.take(first), counts, mask, kind)

    @property
    def members(self) -> Features:
        """The features of all members, or of one of each kind."""
        return self.features if self.kinds is None else self.kinds.features

    def take(self, members: np.ndarray) -> PlateData:
        """Some members of a plate without a table, each counted once."""
        mask = None if self.mask is None else self.mask[members]
        features, base = self.features.take(members), self.base[members]
        return replace(self, features=features, base=base, weights=None, mask=mask, compiled=False)

    def run(self, eta: np.ndarray, table: np.ndarray | None, *, hard: bool, keep: bool) -> MixturePass:
        """One pass at eta [J, F] and table [C, J]; equal members are counted, not repeated."""
        kinds = self.kinds
        if kinds is None:
            done = mixture(
                self.features, eta, table=table, mask=self.mask, weights=self.weights, hard=hard, keep=keep,
                compiled=self.compiled, workers=threads() if self.compiled else 1,
            )  # fmt: skip
        else:
            done = mixture(kinds.features, eta, mask=kinds.mask, weights=kinds.counts, hard=hard, keep=keep)
        r, by_member = done.responsibilities, done.by_member
        if r is not None and by_member is not None:
            if kinds is not None:
                r, by_member = r[kinds.kind], by_member[kinds.kind]
            by_member = by_member + self.base
        return MixturePass(done.log_likelihood + self.base_sum, done.statistics, done.counts, r, by_member)


class Kinds(NamedTuple):
    """One member of each kind, how many there are of it (or their weights), and the kind of each member [C]."""

    features: Features
    counts: np.ndarray
    mask: np.ndarray | None
    kind: np.ndarray
